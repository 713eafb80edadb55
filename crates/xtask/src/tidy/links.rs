//! Links between documents.

use super::Complaint;

/// Checks that every relative link of a Markdown file leads to something that `exists`.
pub(super) fn check(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut in_code = false;
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in targets(text) {
            let file = target.split(['#', ' ']).next().unwrap_or_default();
            let outside = file.contains("://") || file.starts_with("mailto:");
            if !file.is_empty() && !outside && !exists(file) {
                complaints.push(Complaint::new(
                    path,
                    line,
                    format!("link to `{file}`, which does not exist"),
                ));
            }
        }
    }
    complaints
}

/// The targets of a line's inline links, outside of code spans.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    // Code spans are the odd pieces between backquotes; a link's own text may contain one.
    line.match_indices("](").filter_map(move |(at, _)| {
        let in_span = line[..at].matches('`').count() % 2 == 1;
        let rest = &line[at + 2..];
        (!in_span).then(|| rest.split(')').next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_are_found_and_others_left_alone() {
        let text = "[a](there.md#part) [b](gone.md) ![c](gone.svg)\n[d](https://x/gone) [e](#here)\n\
            ```\n[f](gone.md)\n```\n`[g](gone.md)` [`h`](gone/h.md)\n";
        let found: Vec<_> =
            check("docs/x.md", text, |target| target == "there.md").iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "docs/x.md:1: link to `gone.md`, which does not exist",
                "docs/x.md:1: link to `gone.svg`, which does not exist",
                "docs/x.md:6: link to `gone/h.md`, which does not exist",
            ]
        );
    }
}
