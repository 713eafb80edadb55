//! `${}`: what it puts in, what it cannot do, and what nobody gets to see.

use config::{Answer, Environment, Lookup, Source};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use crate::sample::{Fixed, Root, load, load_with};

fn says(text: &str, lookup: &Fixed, expected: Expect) {
    expected.assert_eq(&load_with(text, lookup).unwrap_err().to_string());
}

fn variables(variables: &[(&'static str, &'static str)]) -> Fixed {
    Fixed { variables: variables.to_vec(), ..Fixed::default() }
}

#[test]
fn values_are_put_in() {
    let lookup = variables(&[("HOST", "10.0.0.1"), ("PORT", "8080"), ("SHARE", "0.5"), ("EMPTY", "")]);
    let text = "services:\n  a:\n    endpoints: ['${HOST}:${PORT}', \"${NONE:-x:1}\"]\n    panic_below: ${SHARE}\n    \
                head_max: '${PORT}'\n    via: ${EMPTY:-true}\ntags: [$$HOME, $x, '$${HOST}', '${EMPTY}']\n";
    let root = load_with(text, &lookup).unwrap();
    let a = &root.services["a"];
    assert_eq!(a.endpoints[0].address, "10.0.0.1:8080");
    assert_eq!(a.endpoints[1].address, "x:1");
    assert_eq!(a.panic_below.get(), 0.5);
    assert_eq!(a.head_max.get(), 8080);
    assert!(a.via);
    assert_eq!(root.tags.into_iter().collect::<Vec<_>>(), ["", "$HOME", "$x", "${HOST}"]);
}

#[test]
fn a_text_taken_verbatim_substitutes_nothing() {
    let text =
        "services:\n  a: {endpoints: ['a:1']}\ntags: ['${PATH}', $$x, '${', '${file:/etc/hostname}']\n";
    let source = Source::new("seawall.yaml", text);
    let root = config::load_verbatim::<Root>(&source).unwrap().value;
    assert_eq!(root.tags.into_iter().collect::<Vec<_>>(), ["$$x", "${", "${PATH}", "${file:/etc/hostname}"]);
}

#[test]
fn keys_are_not_substituted() {
    let root = load("services:\n  ${NAME}: {endpoints: [a:1]}\n").unwrap();
    assert!(root.services.contains_key("${NAME}"));
}

#[test]
fn a_value_that_cannot_be_had_is_an_error_at_its_place() {
    says(
        "tags: ['x-${NONE}']\nroutes:\n  - path: ${1}\n    service: ${file:/none}\nservices:\n  a: {endpoints: ['${HOST']}\n",
        &Fixed::default(),
        expect![[r#"
            seawall.yaml:1:11: the environment variable `NONE` is not set; set it, or give a default: `${NONE:-default}`
                1 | tags: ['x-${NONE}']
                  |           ^^^^^^^
            seawall.yaml:3:11: `${1}` names no variable; write `${NAME}`, `${NAME:-default}` or `${file:/path}`; write `$${` for a plain `${`
                3 |   - path: ${1}
                  |           ^^^^
            seawall.yaml:4:14: cannot read the file of `${file:/none}`: there is none; give the path of a file that this user may read
                4 |     service: ${file:/none}
                  |              ^^^^^^^^^^^^^
            seawall.yaml:6:20: `${HOST` is not closed; close it with `}`, or write `$${` for a plain `${`
                6 |   a: {endpoints: ['${HOST']}
                  |                    ^^^^^^
            4 errors"#]],
    );
}

#[test]
fn secrets_never_stand_in_messages() {
    let secret = "hunter2\"\nx";
    let lookup = Fixed {
        variables: vec![
            ("ADDRESS", "hunter2-address"),
            ("NAME", "hunter2-name"),
            ("N", "hunter2"),
            ("SMALL", "7"),
        ],
        files: vec![("/s", Answer::Found(secret.to_owned()))],
    };
    let text = "listeners:\n  - address: ${ADDRESS}\nroutes:\n  - service: '${NAME}'\n    criticality: ${file:/s}\n    \
                status: ${N}\nservices:\n  a:\n    endpoints: ['${file:/s}', a:1]\n    panic_below: ${SMALL}\n    \
                head_max: x${SMALL}\n    via: ${file:/s}\n    timeouts: {idle: '${N}'}\n";
    let errors = load_with(text, &lookup).unwrap_err();
    let everything = format!("{errors}{}{errors:?}", serde_json::to_string(&errors).unwrap());
    assert!(!everything.contains("hunter2"), "{everything}");
    expect![[r#"
        seawall.yaml:2:14: `${ADDRESS}` is not accepted for listeners[0].address; wanted: Address and port, such as `0.0.0.0:8080`
            2 |   - address: ${ADDRESS}
              |              ^^^^^^^^^^
        seawall.yaml:5:18: `${file:/s}` is not one of the known words for routes[0].criticality; give one of `CRITICAL_PLUS`, `CRITICAL`, `SHEDDABLE_PLUS` or `SHEDDABLE`
            5 |     criticality: ${file:/s}
              |                  ^^^^^^^^^^
        seawall.yaml:6:13: routes[0].status must be an integer, not `${N}`; wanted: Answers with this status
            6 |     status: ${N}
              |             ^^^^
        seawall.yaml:9:17: `${file:/s}` is not accepted for services.a.endpoints[0]; wanted: One endpoint: `host:port`, or a map with `address` and `weight`
            9 |     endpoints: ['${file:/s}', a:1]
              |                 ^^^^^^^^^^^^
        seawall.yaml:10:18: `${SMALL}` is out of range for services.a.panic_below; give a number from 0 to 1
           10 |     panic_below: ${SMALL}
              |                  ^^^^^^^^
        seawall.yaml:11:15: `x${SMALL}` is not accepted for services.a.head_max; expected a number of bytes, such as 512, 16KiB or 1MiB
           11 |     head_max: x${SMALL}
              |               ^^^^^^^^^
        seawall.yaml:12:10: services.a.via must be `true` or `false`, not `${file:/s}`; write `true` or `false`
           12 |     via: ${file:/s}
              |          ^^^^^^^^^^
        seawall.yaml:13:22: `${N}` is not accepted for services.a.timeouts.idle; expected a length of time with its unit, such as 250ms, 10s or 1m30s
           13 |     timeouts: {idle: '${N}'}
              |                      ^^^^^^
        8 errors"#]].assert_eq(&errors.to_string());
    // A name that came from outside does not come out of a check either.
    says(
        "routes:\n  - service: '${NAME}'\n",
        &lookup,
        expect![[r#"
        seawall.yaml:2:14: routes[0].service: no service is called `${NAME}`; the services are: 
            2 |   - service: '${NAME}'
              |              ^^^^^^^^^
        1 error"#]],
    );
}

#[test]
fn what_is_withheld_is_taken_for_right() {
    let lookup = Fixed { files: vec![("/s", Answer::Withheld)], ..Fixed::default() };
    let text =
        "listeners:\n  - address: ${file:/s}\nroutes:\n  - {path: '${file:/s}', status: '${file:/s}'}\n";
    let root = load_with(text, &lookup).unwrap();
    assert_eq!(root.routes[0].path.as_deref(), Some("${file:/s}"));
    // Errors elsewhere are still found.
    says(
        &format!("{text}tags: 5\n"),
        &lookup,
        expect![[r#"
            seawall.yaml:5:7: tags must be a list, not `5`; put what it consists of into brackets
                5 | tags: 5
                  |       ^
            1 error"#]],
    );
}

#[test]
fn a_text_of_withheld_values_alone_is_an_error_that_says_so() {
    let lookup = Fixed { files: vec![("/s", Answer::Withheld)], ..Fixed::default() };
    let text = format!("listeners:\n{}", "  - address: ${file:/s}\n".repeat(100));
    says(
        &text,
        &lookup,
        expect![[r#"
            seawall.yaml: what depends on withheld values cannot be checked; check the file where they are available
            1 shown, there may be more errors"#]],
    );
}

#[test]
fn a_short_value_is_not_shown_at_its_own_place_and_not_hidden_elsewhere() {
    let lookup = variables(&[("S", "abc"), ("ON", "true")]);
    says(
        "routes: [{service: '${S}'}, {service: abc-2}]\nservices: {abcd: {via: \"${ON}\", endpoints: [a:1]}}\n",
        &lookup,
        expect![[r#"
            seawall.yaml:1:20: routes[0].service: no service is called `${S}`; the services are: ${S}d
                1 | routes: [{service: '${S}'}, {service: abc-2}]
                  |                    ^^^^^^
            seawall.yaml:1:39: routes[1].service: no service is called `abc-2`; the services are: abcd
                1 | routes: [{service: '${S}'}, {service: abc-2}]
                  |                                       ^^^^^
            2 errors"#]],
    );
    says(
        "services: {a: {via: 1, endpoints: ['${ON}', 'b:${PORT:-1}']}}\n",
        &lookup,
        expect![[r#"
        seawall.yaml:1:21: services.a.via must be `true` or `false`, not `1`; write `true` or `false`
            1 | services: {a: {via: 1, endpoints: ['${ON}', 'b:${PORT:-1}']}}
              |                     ^
        seawall.yaml:1:36: `${ON}` is not accepted for services.a.endpoints[0]; expected `host:port` or a map with `address` and `weight`
            1 | services: {a: {via: 1, endpoints: ['${ON}', 'b:${PORT:-1}']}}
              |                                    ^^^^^^^
        2 errors"#]],
    );
}

#[test]
fn values_put_in_are_bounded_together() {
    let lookup = Always("x".repeat(1 << 20));
    let text = format!("tags:\n{}", "  - ${V}\n".repeat(70));
    let errors = config::load::<Root>(&Source::new("x", text), &lookup).unwrap_err();
    assert!(errors.to_string().contains("the values put in are larger than 64 MiB together"));
}

#[test]
fn the_environment_reads_files_unless_told_not_to() {
    let path = std::env::temp_dir().join(format!("seawall-config-{}", std::process::id()));
    std::fs::write(&path, " secret \n").unwrap();
    let path_text = path.to_str().unwrap();
    assert_eq!(Environment::new().file(path_text), Answer::Found("secret".to_owned()));
    assert_eq!(Environment::without_files().file(path_text), Answer::Withheld);
    std::fs::write(&path, b"\xff").unwrap();
    assert!(matches!(Environment::new().file(path_text), Answer::Failed(_)));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Environment::new().file(path_text), Answer::Failed(_)));
    assert_eq!(Environment::new().variable("SEAWALL_NO_SUCH_VARIABLE"), Answer::Absent);
}

struct Always(String);

impl Lookup for Always {
    fn variable(&self, _: &str) -> Answer {
        Answer::Found(self.0.clone())
    }

    fn file(&self, _: &str) -> Answer {
        Answer::Found(self.0.clone())
    }
}

proptest! {
    #[test]
    fn a_value_stays_one_string_whatever_it_holds(value in any::<String>(), more in "[-:{}\\[\\]#&*!|>'\"%@` \n,a]{0,12}") {
        for value in [value, more] {
            let source = Source::new("x", "tags: ['${V}']\nroutes: [{path: '${file:/v}'}]\n");
            let root: Root = config::load(&source, &Always(value.clone())).unwrap().value;
            prop_assert_eq!(root.tags.iter().collect::<Vec<_>>(), [&value]);
            prop_assert_eq!(root.routes[0].path.as_ref(), Some(&value));
        }
    }
}
