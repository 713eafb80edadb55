//! Who may import whom.

use super::Complaint;

/// What a crate is in the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A room; imports lower tiers only.
    Tier(u8),
    /// Helps tests and never ships: imports no room, imported by rooms for their tests only.
    TestOnly,
    /// A tool of the project: imports what it likes, imported by nobody.
    Tool,
}

/// Every crate that there is or will be.
const PLACES: [(&str, Place); 19] = [
    ("model", Place::Tier(0)),
    ("policy", Place::Tier(1)),
    ("config", Place::Tier(1)),
    ("store", Place::Tier(1)),
    ("layers", Place::Tier(2)),
    ("sim", Place::Tier(2)),
    ("gateway", Place::Tier(3)),
    ("monitor", Place::Tier(3)),
    ("coord", Place::Tier(3)),
    ("respond", Place::Tier(3)),
    ("release", Place::Tier(3)),
    ("front", Place::Tier(3)),
    ("drill", Place::Tier(3)),
    ("plan", Place::Tier(3)),
    ("seawall", Place::Tier(4)),
    ("testkit", Place::TestOnly),
    ("xtask", Place::Tool),
    ("fuzz", Place::Tool),
    ("examples", Place::Tool),
];

fn place(name: &str) -> Option<Place> {
    PLACES.iter().find(|(known, _)| *known == name).map(|(_, place)| *place)
}

/// One line of a dependency table.
struct Dependency<'a> {
    line: usize,
    name: &'a str,
    for_tests: bool,
    optional: bool,
}

/// Checks one crate's manifest.
pub(super) fn check(path: &str, manifest: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let folder = path.strip_suffix("/Cargo.toml").and_then(|dir| dir.rsplit('/').next()).unwrap_or_default();
    let Some(own) = place(folder) else {
        return vec![Complaint::new(
            path,
            1,
            format!("crate `{folder}` has no tier: give it one in tidy/tiers.rs"),
        )];
    };
    if !manifest.lines().any(|line| line.trim() == format!("name = \"{folder}\"")) {
        complaints.push(Complaint::new(path, 1, format!("the crate in folder `{folder}` has another name")));
    }
    if !manifest.contains("[lints]\nworkspace = true") {
        complaints.push(Complaint::new(path, 1, "lacks `[lints] workspace = true`"));
    }
    for dependency in dependencies(manifest) {
        let Some(other) = place(dependency.name) else { continue };
        let allowed = match (own, other) {
            (_, Place::Tool) => false,
            (Place::Tool, _) => true,
            // As an optional part of the binary: the allocator that counts.
            (Place::Tier(tier), Place::TestOnly) => {
                dependency.for_tests || (tier == 4 && dependency.optional)
            }
            (Place::TestOnly, _) => false,
            (Place::Tier(own), Place::Tier(other)) => other < own,
        };
        if !allowed {
            let message = format!("`{folder}` ({own:?}) must not import `{}` ({other:?})", dependency.name);
            complaints.push(Complaint::new(path, dependency.line, message));
        }
    }
    complaints
}

/// The dependencies of a manifest, one to a line as this workspace writes them, or with a table each.
fn dependencies(manifest: &str) -> Vec<Dependency<'_>> {
    let mut found = Vec::new();
    // The kind of dependencies that the current table lists.
    let mut listing: Option<bool> = None;
    for (line, text) in (1..).zip(manifest.lines()) {
        let text = text.trim();
        if let Some(table) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            let (parent, last) = table.rsplit_once('.').unwrap_or(("", table));
            let is_list = |name: &str| name.ends_with("dependencies");
            listing = is_list(last).then(|| last == "dev-dependencies");
            if is_list(parent) {
                let name = last.trim_matches('"');
                found.push(Dependency {
                    line,
                    name,
                    for_tests: parent.ends_with("dev-dependencies"),
                    optional: false,
                });
            }
            continue;
        }
        let Some(for_tests) = listing else { continue };
        let name = text.split(['.', '=', ' ']).next().unwrap_or_default().trim_matches('"');
        if !name.is_empty() && !name.starts_with('#') {
            found.push(Dependency { line, name, for_tests, optional: text.contains("optional = true") });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(name: &str, tables: &str) -> Vec<String> {
        let manifest = format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{tables}");
        check(&format!("crates/{name}/Cargo.toml"), &manifest).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lower_tiers_may_be_imported() {
        assert_eq!(
            complaints(
                "gateway",
                "[dependencies]\nmodel.workspace = true\npolicy = { workspace = true }\ntokio = \"1\"\n"
            ),
            [""; 0]
        );
        assert_eq!(complaints("seawall", "[dependencies]\ngateway.workspace = true\n"), [""; 0]);
        assert_eq!(complaints("gateway", "[dev-dependencies]\ntestkit.workspace = true\n"), [""; 0]);
        assert_eq!(
            complaints("seawall", "[dependencies]\ntestkit = { workspace = true, optional = true }\n"),
            [""; 0]
        );
        assert_eq!(complaints("xtask", "[dependencies]\nseawall.workspace = true\n"), [""; 0]);
    }

    #[test]
    fn rooms_of_one_tier_never_import_each_other() {
        let expected = "crates/gateway/Cargo.toml:7: `gateway` (Tier(3)) must not import `monitor` (Tier(3))";
        assert_eq!(
            complaints("gateway", "[dependencies]\nmodel.workspace = true\nmonitor.workspace = true\n"),
            [expected]
        );
        for table in ["[dev-dependencies]", "[build-dependencies]", "[target.'cfg(unix)'.dependencies]"] {
            assert_eq!(
                complaints("gateway", &format!("{table}\nmonitor.workspace = true\n")).len(),
                1,
                "{table}"
            );
        }
        assert_eq!(complaints("gateway", "[dependencies.monitor]\nworkspace = true\n").len(), 1);
    }

    #[test]
    fn nothing_imports_upwards_or_ships_what_is_for_tests() {
        for (own, other) in [
            ("model", "policy"),
            ("policy", "gateway"),
            ("testkit", "model"),
            ("gateway", "testkit"),
            ("gateway", "xtask"),
            ("seawall", "testkit"),
        ] {
            assert_eq!(
                complaints(own, &format!("[dependencies]\n{other}.workspace = true\n")).len(),
                1,
                "{own} {other}"
            );
        }
    }

    #[test]
    fn an_unknown_crate_or_missing_lints_are_refused() {
        assert_eq!(complaints("utils", "").len(), 1);
        assert_eq!(check("crates/model/Cargo.toml", "[package]\nname = \"model\"\n").len(), 1);
        assert_eq!(
            check("crates/model/Cargo.toml", "[package]\nname = \"m\"\n[lints]\nworkspace = true\n").len(),
            1
        );
    }
}
