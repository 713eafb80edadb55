//! The guide shows what runs: each of its snippets stands in an example.

use std::fs;
use std::path::Path;

/// Lines without their indentation, so that a snippet may be moved to the left.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[test]
fn each_snippet_of_the_guide_stands_in_an_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("../../docs/guides/rust-services.md")).unwrap();
    let names = ["server.rs", "client.rs", "reqwest.rs"];
    let examples = names.map(|name| fs::read_to_string(root.join("examples").join(name)).unwrap());
    let snippets: Vec<&str> =
        guide.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(snippets.len() >= 5, "the guide shows hardly anything");
    for snippet in snippets {
        let wanted = lines(snippet);
        let found =
            examples.iter().any(|example| lines(example).windows(wanted.len()).any(|at| at == wanted));
        assert!(found, "no example contains:\n{snippet}");
    }
}
