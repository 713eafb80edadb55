//! Every configuration that the documentation shows works.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

fn collect(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("readable").map(|entry| entry.expect("readable").path())
    {
        if entry.is_dir() {
            collect(&entry, extension, found);
        } else if entry.extension().is_some_and(|found| found == extension) {
            found.push(entry);
        }
    }
}

/// The fenced blocks of a Markdown text that begin with this line, each with the line it starts on.
fn blocks(markdown: &str, fence: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == fence {
            let indent = line.len() - line.trim_start().len();
            let block = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let block: String = block.map(|line| format!("{}\n", line.get(indent..).unwrap_or(""))).collect();
            blocks.push((number + 2, block));
        }
    }
    blocks
}

/// What the examples name in `/etc/seawall/tls`.
struct Certificates(testkit::TempDir);

impl Certificates {
    fn new() -> Self {
        let directory = testkit::TempDir::new("tls");
        let authority = testkit::tls::Authority::new("docs");
        let read = |path: PathBuf| std::fs::read_to_string(path).expect("readable");
        for name in ["clients.pem", "internal.pem"] {
            directory.write(name, &read(authority.file()));
        }
        for name in ["shop", "wildcard"] {
            let issued = authority.server(&[name]);
            directory.write(&format!("{name}.pem"), &read(issued.cert));
            directory.write(&format!("{name}.key"), &read(issued.key));
        }
        Self(directory)
    }

    fn put_into(&self, text: &str) -> String {
        text.replace("/etc/seawall/tls", &self.0.path().display().to_string())
    }
}

#[test]
fn every_yaml_block_and_example_passes_the_check() {
    let root = root();
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    collect(&root.join("docs"), "md", &mut pages);
    let mut texts = Vec::new();
    for page in &pages {
        let markdown = std::fs::read_to_string(page).expect("readable");
        texts.extend(
            blocks(&markdown, "```yaml")
                .into_iter()
                .map(|(line, block)| (format!("{}:{line}", page.display()), block)),
        );
    }
    let mut examples = Vec::new();
    collect(&root.join("examples"), "yaml", &mut examples);
    for example in examples {
        texts.push((example.display().to_string(), std::fs::read_to_string(&example).expect("readable")));
    }
    assert!(texts.len() >= 10, "only {} configurations found", texts.len());
    let certificates = Certificates::new();
    let errors: Vec<String> = texts
        .iter()
        .filter_map(|(name, text)| seawall::config::read(name, &certificates.put_into(text)).err())
        .map(|errors| errors.to_string())
        .collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn every_scenario_can_be_played() {
    let mut pages = Vec::new();
    collect(&root().join("docs"), "md", &mut pages);
    let mut found = 0;
    for page in pages {
        let markdown = std::fs::read_to_string(&page).expect("readable");
        for (line, block) in blocks(&markdown, "```yaml scenario") {
            found += 1;
            let source = config::Source::new(format!("{}:{line}", page.display()), block);
            config::load_verbatim::<sim::Scenario>(&source).unwrap_or_else(|errors| panic!("{errors}"));
        }
    }
    let mut files = Vec::new();
    collect(&root().join("docs"), "yaml", &mut files);
    for file in files {
        found += 1;
        let source = config::Source::read(&file).unwrap_or_else(|errors| panic!("{errors}"));
        config::load_verbatim::<sim::Scenario>(&source).unwrap_or_else(|errors| panic!("{errors}"));
    }
    assert!(found >= 5, "only {found} scenarios found");
}

#[test]
fn no_link_inside_the_documentation_leads_nowhere() {
    let root = root();
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("CHANGELOG.md")];
    collect(&root.join("docs"), "md", &mut pages);
    let mut broken = Vec::new();
    for page in &pages {
        let markdown = std::fs::read_to_string(page).expect("readable");
        let targets = markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let path = target.split('#').next().unwrap_or_default();
            if !page.parent().expect("a directory").join(path).exists() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_reason_of_a_refusal_is_documented() {
    let page = std::fs::read_to_string(root().join("docs/guides/observability.md")).expect("readable");
    for reason in gateway::Reason::ALL {
        let row = page
            .lines()
            .find(|line| line.starts_with("| `") && line.contains(&format!("`{}`", reason.name())));
        let row = row.unwrap_or_else(|| panic!("`{}` is not documented", reason.name()));
        assert!(
            row.contains(&format!("| {} |", reason.status())),
            "`{}` answers {}: {row}",
            reason.name(),
            reason.status()
        );
    }
}

#[test]
fn every_metric_that_the_guides_name_exists() {
    let reference = crate::text(&crate::run(&["reference", "metrics"]).stdout);
    let mut pages = Vec::new();
    collect(&root().join("docs/guides"), "md", &mut pages);
    let mut named = 0;
    for page in pages {
        let markdown = std::fs::read_to_string(&page).expect("readable");
        for word in markdown.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let mut parts = word.split('_');
            if parts.next() == Some("seawall") && matches!(parts.next(), Some("gateway" | "config")) {
                named += 1;
                assert!(reference.contains(&format!("`{word}`")), "{}: {word}", page.display());
            }
        }
    }
    assert!(named >= 5, "only {named} metrics are named");
}
