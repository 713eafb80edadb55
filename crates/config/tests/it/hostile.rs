//! Texts that mean harm, and texts that are merely broken: an error or a value, never a panic, never without bound.

use config::{Check, Source};
use expect_test::expect;
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::sample::{Fixed, load, refusal};

#[test]
fn a_text_that_multiplies_itself_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", ")));
    }
    expect![[r#"
        seawall.yaml:6:20: the file grows too large by its aliases; use fewer aliases of large values
            6 | a5: &a5 [*a4, *a4, *a4, *a4, *a4, *a4, *a4, *a4, *a4, *a4]
              |                    ^^^
        1 error"#]]
    .assert_eq(&refusal(&text));
}

#[test]
fn a_long_string_cannot_be_multiplied() {
    let text = format!("tags:\n  - &a {}\n{}", "x".repeat(1 << 16), "  - *a\n".repeat(2_000));
    assert!(refusal(&text).contains("grows too large by its aliases"));
}

#[test]
fn an_alias_inside_its_own_value_is_refused() {
    expect![[r#"
        seawall.yaml:1:14: the alias stands inside the value that it names; write the value itself
            1 | tags: &a [x, *a]
              |              ^^
        1 error"#]]
    .assert_eq(&refusal("tags: &a [x, *a]\n"));
}

#[test]
fn nesting_is_bounded() {
    expect![[r#"
        seawall.yaml:1:65: collections are nested more than 64 deep; no key needs that much
            1 | [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[
              |                                         ^
        1 error"#]].assert_eq(&refusal(&"[".repeat(100_000)));
    assert!(refusal(&"- ".repeat(100_000)).contains("error"));
    let maps: String = (0..100).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(refusal(&maps).contains("error"));
}

#[test]
fn nesting_by_aliases_is_bounded() {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for level in 1..5_000 {
        text.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(refusal(&text).contains("nested more than 64 deep"));
}

#[test]
fn thousands_of_errors_are_bounded() {
    let text: String = (0..5_000).map(|key| format!("key{key}: 1\n")).collect();
    assert!(refusal(&text).ends_with("500 shown, there may be more errors"));
    let text = format!("listeners:\n{}", "  - address: nowhere\n".repeat(5_000));
    let said = refusal(&text);
    assert!(said.contains("`nowhere` is not accepted for listeners[0].address"));
    assert!(said.ends_with("there may be more errors"));
}

/// A type that takes anything, and refers to itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Recursive {
    #[allow(dead_code, reason = "read by deserialising only")]
    inner: Option<Box<Recursive>>,
    #[allow(dead_code, reason = "read by deserialising only")]
    list: Vec<Recursive>,
    #[allow(dead_code, reason = "read by deserialising only")]
    number: (i8, f32, char),
}

impl Check for Recursive {}

const SEED: &str = "\
listeners:
  - address: 0.0.0.0:8080   # here
routes:
  - {path: /cart/, service: cart, headers: {a: {exact: \"x\\n\"}}}
services:
  cart: &c
    endpoints: ['${HOST}:80', {address: \"10.0.0.2:8080\", weight: 3}]
    balance: {ring_hash: {header: user, points: 5}}
    timeouts: {connect: 250ms, request: 10s}
    panic_below: 0.5
  other: *c
tags: [|
  x, ~]
";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn never_panics_on_mutated_text(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..6usize, "[-:{}\\[\\]#&*!|>'\"%@` \n\t,$a0~<é\u{0}]{0,6}"), 1..8)
    ) {
        let mut characters: Vec<char> = SEED.chars().collect();
        for (at, length, with) in edits {
            let at = at.index(characters.len() + 1);
            let end = (at + length).min(characters.len());
            characters.splice(at..end, with.chars());
        }
        let text: String = characters.into_iter().collect();
        let lookup = Fixed { variables: vec![("HOST", "h"), ("a", "\u{1b}[")], ..Fixed::default() };
        let source = Source::new("x", text);
        if let Err(errors) = config::load::<crate::sample::Root>(&source, &lookup) {
            prop_assert!(errors.len() > 0);
            let obeyed = errors.to_string().contains('\u{1b}');
            prop_assert!(!obeyed);
        }
        let _ = config::load::<Recursive>(&source, &lookup);
    }

    #[test]
    fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(source) = Source::from_bytes("x", bytes) {
            let _ = config::load::<Recursive>(&source, &Fixed::default());
        }
    }
}

#[test]
fn an_unfinished_file_is_refused_or_read_at_every_length() {
    for end in (0..SEED.len()).filter(|end| SEED.is_char_boundary(*end)) {
        let _ = load(&SEED[..end]);
    }
}
