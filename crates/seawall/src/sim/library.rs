//! The scenarios that ship inside the binary.

use std::fmt::Write;

/// A scenario and the name that `seawall sim` plays it by: that of its file.
pub(super) struct Shipped {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(Shipped { name: $name, text: include_str!(concat!("../../../../scenarios/", $name, ".yaml")) }),*]
    };
}

/// Every one, in the order of names.
pub(super) const LIBRARY: &[Shipped] = shipped![
    "bad-push",
    "black-hole",
    "cold-cache",
    "gc-pauses",
    "lost-zone",
    "retry-storm",
    "slow-dependency",
    "thundering-herd",
    "traffic-spike",
];

/// Names, and what each shows.
pub(super) fn list() -> String {
    let width = LIBRARY.iter().map(|shipped| shipped.name.len()).max().unwrap_or(0);
    let mut list = String::new();
    for shipped in LIBRARY {
        let _ = writeln!(list, "{:<width$}  {}", shipped.name, title(shipped.text));
    }
    list
}

/// What a scenario shows, without reading it as a whole: a list must not fail on one of its lines.
fn title(text: &str) -> &str {
    let line = text.lines().find_map(|line| line.strip_prefix("title:"));
    line.unwrap_or_default().trim().trim_matches(['"', '\''])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario;

    #[test]
    fn every_scenario_of_the_folder_ships_and_can_be_played() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
            .collect();
        files.sort_unstable();
        let shipped: Vec<_> = LIBRARY.iter().map(|shipped| shipped.name).collect();
        assert_eq!(files, shipped);
        for Shipped { name, text } in LIBRARY {
            let played = scenario::find(name).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(played.scenario.title, title(text), "{name}");
            assert!(
                (10..=80).contains(&played.scenario.title.chars().count()),
                "{name}: the title is its description"
            );
        }
    }
}
