//! Every class of error, as people read it.

use config::{Position, Source, Step};
use expect_test::{Expect, expect};

use crate::sample::{Fixed, Root, Route, load, refusal};

fn says(text: &str, expected: Expect) {
    expected.assert_eq(&refusal(text));
}

const GOOD: &str = "\
listeners:
  - address: 0.0.0.0:8080
routes:
  - {path: /cart/, service: cart}
services:
  cart:
    endpoints: [10.0.0.1:8080, {address: \"10.0.0.2:8080\", weight: 3}]
    balance: {ring_hash: {header: user, points: 5}}
    timeouts: {connect: 250ms, request: 0}
    panic_below: 0.5
    head_max: 65536
";

#[test]
fn a_good_file_loads() {
    let good = GOOD.replace("request: 0", "request: 10s");
    let root = load(&good).unwrap();
    assert_eq!(root.services["cart"].endpoints[1].weight, 3);
    assert_eq!(root.services["cart"].head_max.get(), 65_536);
    assert_eq!(load("").unwrap(), Root::default());
    assert_eq!(load("---\n# nothing\n").unwrap(), Root::default());
    assert_eq!(load("\u{feff}tags: [a]\r\nservices: {}\r\n").unwrap().tags.len(), 1);
}

#[test]
fn a_path_leads_back_to_the_text() {
    let text = GOOD.replace("request: 0", "request: 10s");
    let source = Source::new("seawall.yaml", text);
    let loaded = config::load::<Root>(&source, &Fixed::default()).unwrap();
    let key = |key: &str| Step::Key(key.to_owned());
    assert_eq!(loaded.position(&[key("services"), key("cart")]), Some(Position { line: 6, column: 3 }));
    assert_eq!(loaded.position(&[key("routes"), Step::Index(0)]), Some(Position { line: 4, column: 5 }));
    assert_eq!(loaded.position(&[key("services"), key("cart"), key("via")]), None);
}

#[test]
fn unknown_key() {
    says(
        "services:\n  cart:\n    timeouts:\n      conect: 5s\n    endpoints: [a:1]\nfoo: 1\n",
        expect![[r#"
        seawall.yaml:4:7: unknown key `conect` in services.cart.timeouts; did you mean `connect`?
            4 |       conect: 5s
              |       ^^^^^^
        seawall.yaml:6:1: unknown key `foo`; the known keys are `labels`, `listeners`, `routes`, `services` or `tags`
            6 | foo: 1
              | ^^^
        2 errors"#]],
    );
}

#[test]
fn wrong_type() {
    says(
        "listeners: 5\nroutes:\n  - [a]\nservices:\n  cart:\n    via: yes\n    endpoints: a:1\n    head_max:\n    panic_below: \"0.5\"\n",
        expect![[r#"
            seawall.yaml:1:12: listeners must be a list, not `5`; put what it consists of into brackets
                1 | listeners: 5
                  |            ^
            seawall.yaml:3:5: routes[0] must be a map, not a list; wanted: Which requests, and what becomes of them
                3 |   - [a]
                  |     ^^^
            seawall.yaml:6:10: services.cart.via must be `true` or `false`, not `yes`; write `true` or `false`
                6 |     via: yes
                  |          ^^^
            seawall.yaml:7:16: services.cart.endpoints must be a list, not `a:1`; put what it consists of into brackets
                7 |     endpoints: a:1
                  |                ^^^
            seawall.yaml:8:5: services.cart.head_max must be an integer or a string, not nothing; give it a value, or remove the key
                8 |     head_max:
                  |     ^^^^^^^^
            seawall.yaml:9:18: services.cart.panic_below must be a number, not the text `0.5`; remove the quotes
                9 |     panic_below: "0.5"
                  |                  ^^^^^
            6 errors"#]],
    );
}

#[test]
fn out_of_range() {
    says(
        "listeners:\n  - {address: '0.0.0.0:1', connections: 0}\nroutes:\n  - status: 70000\nservices:\n  a: {panic_below: 1.5, endpoints: [a:1]}\n",
        expect![[r#"
            seawall.yaml:2:41: `0` is out of range for listeners[0].connections; give a number from 1 to 4294967295
                2 |   - {address: '0.0.0.0:1', connections: 0}
                  |                                         ^
            seawall.yaml:4:13: `70000` is out of range for routes[0].status; give a number from 0 to 65535
                4 |   - status: 70000
                  |             ^^^^^
            seawall.yaml:6:20: `1.5` is out of range for services.a.panic_below; give a number from 0 to 1
                6 |   a: {panic_below: 1.5, endpoints: [a:1]}
                  |                    ^^^
            3 errors"#]],
    );
}

#[test]
fn text_that_its_type_refuses_is_found_everywhere_at_once() {
    says(
        "listeners:\n  - address: localhost:80\n  - address: 0.0.0.0\nservices:\n  cart:\n    timeouts: {connect: 5, idle: 1 s}\n    head_max: 1KB\n    endpoints: [a, b:1, c]\n",
        expect![[r#"
            seawall.yaml:2:14: `localhost:80` is not accepted for listeners[0].address: invalid socket address syntax; wanted: Address and port, such as `0.0.0.0:8080`
                2 |   - address: localhost:80
                  |              ^^^^^^^^^^^^
            seawall.yaml:3:14: `0.0.0.0` is not accepted for listeners[1].address: invalid socket address syntax; wanted: Address and port, such as `0.0.0.0:8080`
                3 |   - address: 0.0.0.0
                  |              ^^^^^^^
            seawall.yaml:6:25: `5` is not accepted for services.cart.timeouts.connect; expected a length of time with its unit, such as 250ms, 10s or 1m30s
                6 |     timeouts: {connect: 5, idle: 1 s}
                  |                         ^
            seawall.yaml:6:34: `1 s` is not accepted for services.cart.timeouts.idle; expected a length of time with its unit, such as 250ms, 10s or 1m30s
                6 |     timeouts: {connect: 5, idle: 1 s}
                  |                                  ^^^
            seawall.yaml:7:15: `1KB` is not accepted for services.cart.head_max; expected a number of bytes, such as 512, 16KiB or 1MiB
                7 |     head_max: 1KB
                  |               ^^^
            seawall.yaml:8:17: `a` is not accepted for services.cart.endpoints[0]: `a` has no port; wanted: One endpoint: `host:port`, or a map with `address` and `weight`
                8 |     endpoints: [a, b:1, c]
                  |                 ^
            seawall.yaml:8:25: `c` is not accepted for services.cart.endpoints[2]: `c` has no port; wanted: One endpoint: `host:port`, or a map with `address` and `weight`
                8 |     endpoints: [a, b:1, c]
                  |                         ^
            7 errors"#]],
    );
}

#[test]
fn missing_key() {
    says(
        "listeners:\n  - connections: 5\nservices:\n  a:\n    endpoints:\n      - weight: 1\n",
        expect![[r#"
        seawall.yaml:2:5: listeners[0] lacks the key `address`; add `address: …` (Address and port, such as `0.0.0.0:8080`)
            2 |   - connections: 5
              |     ^^^^^^^^^^^^^^
        seawall.yaml:6:9: services.a.endpoints[0] lacks the key `address`; add `address: …` (Host and port)
            6 |       - weight: 1
              |         ^^^^^^^^^
        2 errors"#]],
    );
}

#[test]
fn unknown_word_and_variant() {
    says(
        "routes:\n  - criticality: sheddible\n    headers:\n      a: {exakt: x}\n      b: {exact: x, present: true}\n      c: x\nservices:\n  a: {balance: rond_robin}\n  b: {balance: ring_hash}\n  c: {balance: {random: {}}}\n  d: {balance: {ring_hush: {}}}\n  e: {balance: {ring_hash: {points: -1}}}\n  f: {balance: 5}\n",
        expect![[r#"
            seawall.yaml:2:18: `sheddible` is not one of the known words for routes[0].criticality; did you mean `SHEDDABLE`?
                2 |   - criticality: sheddible
                  |                  ^^^^^^^^^
            seawall.yaml:4:11: unknown variant `exakt` in routes[0].headers.a; did you mean `exact`?
                4 |       a: {exakt: x}
                  |           ^^^^^
            seawall.yaml:5:7: routes[0].headers.b has 2 keys where one is wanted; give one of `exact`, `any_of` or `present`
                5 |       b: {exact: x, present: true}
                  |       ^
            seawall.yaml:6:10: routes[0].headers.c must be a map with the key `exact`, `any_of` or `present`, not `x`; wanted: A condition on a value
                6 |       c: x
                  |          ^
            seawall.yaml:8:16: `rond_robin` is not one of the known words for services.a.balance; did you mean `round_robin`?
                8 |   a: {balance: rond_robin}
                  |                ^^^^^^^^^^
            seawall.yaml:9:16: `ring_hash` lacks its value for services.b.balance; it needs a value: `ring_hash: …`
                9 |   b: {balance: ring_hash}
                  |                ^^^^^^^^^
            seawall.yaml:10:17: `random` in services.c.balance takes no value; write just `random`
               10 |   c: {balance: {random: {}}}
                  |                 ^^^^^^
            seawall.yaml:11:17: unknown variant `ring_hush` in services.d.balance; did you mean `ring_hash`?
               11 |   d: {balance: {ring_hush: {}}}
                  |                 ^^^^^^^^^
            seawall.yaml:12:17: services.e.balance.ring_hash lacks the key `header`; add `header: …` (The header that is hashed)
               12 |   e: {balance: {ring_hash: {points: -1}}}
                  |                 ^^^^^^^^^
            seawall.yaml:12:37: `-1` is out of range for services.e.balance.ring_hash.points; give a number from 0 to 4294967295
               12 |   e: {balance: {ring_hash: {points: -1}}}
                  |                                     ^^
            seawall.yaml:13:16: `5` is not one of the known words for services.f.balance; give one of `round_robin`, `random` or `ring_hash`
               13 |   f: {balance: 5}
                  |                ^
            11 errors"#]],
    );
}

#[test]
fn optional_choices_and_maps_are_as_strict_as_others() {
    let root =
        load("routes: [{balance: ~, pinned: , service: }, {balance: random}, {pinned: {header: x}}]\n")
            .unwrap();
    assert_eq!(root.routes[0], Route::default());
    says(
        "routes:\n  - balance: randum\n    pinned: 5\n  - balance: {ring_hash: {headr: x}}\n    pinned: {header: x, point: 1}\n  - balance: {}\n    pinned: []\n",
        expect![[r#"
            seawall.yaml:2:14: `randum` is not one of the known words for routes[0].balance; did you mean `random`?
                2 |   - balance: randum
                  |              ^^^^^^
            seawall.yaml:3:13: routes[0].pinned must be a map, not `5`; wanted: What a user is pinned by
                3 |     pinned: 5
                  |             ^
            seawall.yaml:4:27: unknown key `headr` in routes[1].balance.ring_hash; did you mean `header`?
                4 |   - balance: {ring_hash: {headr: x}}
                  |                           ^^^^^
            seawall.yaml:5:25: unknown key `point` in routes[1].pinned; did you mean `points`?
                5 |     pinned: {header: x, point: 1}
                  |                         ^^^^^
            seawall.yaml:6:5: routes[2].balance has 0 keys where one is wanted; give one of `round_robin`, `random` or `ring_hash`
                6 |   - balance: {}
                  |     ^^^^^^^
            seawall.yaml:7:5: routes[2].pinned must be a map, not a list; wanted: What a user is pinned by
                7 |     pinned: []
                  |     ^^^^^^
            6 errors"#]],
    );
}

#[test]
fn items_twice() {
    says(
        "tags: [a, b, a]\n",
        expect![[r#"
        seawall.yaml:1:14: `a` stands in tags twice; remove one
            1 | tags: [a, b, a]
              |              ^
        1 error"#]],
    );
}

#[test]
fn keys_twice() {
    says(
        "tags: [a]\nservices:\n  a: {endpoints: [x:1]}\n  a: {endpoints: [y:1]}\ntags: [b]\n",
        expect![[r#"
        seawall.yaml:4:3: key `a` stands here a second time; it is already on line 3: remove one
            4 |   a: {endpoints: [y:1]}
              |   ^
        seawall.yaml:5:1: key `tags` stands here a second time; it is already on line 1: remove one
            5 | tags: [b]
              | ^^^^
        2 errors"#]],
    );
}

#[test]
fn keys_twice_in_a_large_map() {
    let labels: String = (0..40).map(|label| format!("  {label}: x\n")).collect();
    says(
        &format!("labels:\n{labels}  7: y\n"),
        expect![[r#"
        seawall.yaml:42:3: key `7` stands here a second time; it is already on line 9: remove one
           42 |   7: y
              |   ^
        1 error"#]],
    );
}

#[test]
fn keys_that_are_no_numbers() {
    says(
        "labels: {1: a, x: b, 70000: c}\n",
        expect![[r#"
            seawall.yaml:1:16: the key of labels.x is not accepted; expected u16
                1 | labels: {1: a, x: b, 70000: c}
                  |                ^
            seawall.yaml:1:22: the key of labels.70000 is not accepted; expected u16
                1 | labels: {1: a, x: b, 70000: c}
                  |                      ^^^^^
            2 errors"#]],
    );
}

#[test]
fn what_no_single_value_shows() {
    says(
        "routes:\n  - service: cart\n  - service: crat\nservices:\n  cart:\n    endpoints: [a:1]\n    timeouts: {connect: 2m}\n  empty: {}\n",
        expect![[r#"
            seawall.yaml:3:14: routes[1].service: no service is called `crat`; the services are: cart, empty
                3 |   - service: crat
                  |              ^^^^
            seawall.yaml:7:25: services.cart.timeouts.connect: it is longer than `request`; make it shorter
                7 |     timeouts: {connect: 2m}
                  |                         ^^
            seawall.yaml:8:3: services.empty: it has no endpoints; give `endpoints`
                8 |   empty: {}
                  |   ^^^^^
            3 errors"#]],
    );
}

#[test]
fn problems_that_follow_from_other_errors_are_not_reported() {
    // The service is there, only wrong: no complaint about the route, nor about the endpoints behind the typing error.
    says(
        "routes:\n  - service: cart\nservices:\n  cart:\n    endpoint: [a:1]\n",
        expect![[r#"
        seawall.yaml:5:5: unknown key `endpoint` in services.cart; did you mean `endpoints`?
            5 |     endpoint: [a:1]
              |     ^^^^^^^^
        1 error"#]],
    );
    // A typing error in a small thing hides nothing elsewhere.
    says(
        "routes:\n  - service: crat\n    pth: /\nservices:\n  cart:\n    endpoints: [a:1]\n    vai: true\n",
        expect![[r#"
            seawall.yaml:2:14: routes[0].service: no service is called `crat`; the services are: cart
                2 |   - service: crat
                  |              ^^^^
            seawall.yaml:3:5: unknown key `pth` in routes[0]; did you mean `path`?
                3 |     pth: /
                  |     ^^^
            seawall.yaml:7:5: unknown key `vai` in services.cart; did you mean `via`?
                7 |     vai: true
                  |     ^^^
            3 errors"#]],
    );
}

#[test]
fn not_yaml() {
    says(
        "services:\n  cart:\n\t  endpoints: [a]\n",
        expect![[r#"
        seawall.yaml:3:4: this is no YAML: tabs disallowed within this context (block indentation); indent with spaces, not with tabs
            3 |    endpoints: [a]
              |    ^
        1 error"#]],
    );
    says(
        "services: [a\n",
        expect![[r#"
        seawall.yaml:1:11: this is no YAML: unclosed bracket '['; compare the indentation, quotes and brackets here and in the lines above
            1 | services: [a
              |           ^
        1 error"#]],
    );
    says(
        "routes: [{path: ${PATH}, service: a}]\n",
        expect![[r#"
        seawall.yaml:1:18: this is no YAML: while parsing a flow mapping, did not find expected ',' or '}'; put a value with `${…}` that stands between brackets or braces into quotes
            1 | routes: [{path: ${PATH}, service: a}]
              |                  ^
        1 error"#]],
    );
    says(
        "a: b: c\n",
        expect![[r#"
        seawall.yaml:1:5: this is no YAML: mapping values are not allowed in this context; compare the indentation, quotes and brackets here and in the lines above
            1 | a: b: c
              |     ^
        1 error"#]],
    );
}

#[test]
fn yaml_that_is_not_supported() {
    says(
        "tags: !set [a]\n",
        expect![[r#"
        seawall.yaml:1:12: the tag `!set` is not supported; remove it; put a value that shall be a string into quotes
            1 | tags: !set [a]
              |            ^
        1 error"#]],
    );
    says(
        "tags: [a]\n---\ntags: [b]\n",
        expect![[r#"
        seawall.yaml:2:1: a second document starts here; keep one document in the file and remove `---`
            2 | ---
              | ^^^
        1 error"#]],
    );
    says(
        "services:\n  a: &a {endpoints: [x:1]}\n  b:\n    <<: *a\n",
        expect![[r#"
            seawall.yaml:4:5: unknown key `<<` in services.b; merge keys are not supported: write the keys out, or alias a whole value
                4 |     <<: *a
                  |     ^^
            seawall.yaml:4:5: unknown key `<<` in services.b; merge keys are not supported: write the keys out, or alias a whole value
                4 |     <<: *a
                  |     ^^
            2 errors"#]],
    );
    says(
        "? [a]\n: b\n",
        expect![[r#"
        seawall.yaml:1:3: a key must be a plain word, not a list or a map; if it is meant to be text, such as `${NAME}`, put it into quotes
            1 | ? [a]
              |   ^
        1 error"#]],
    );
    says(
        "- a\n",
        expect![[r#"
            seawall.yaml:1:1: the file must be a map, not a list; wanted: A gateway in small
                1 | - a
                  | ^^^
            1 error"#]],
    );
}

#[test]
fn not_utf8() {
    let error = Source::from_bytes("seawall.yaml", b"tags: [a]\nservices: \xff\n".to_vec()).unwrap_err();
    expect![[r#"
        seawall.yaml:2:11: byte 0xff is not UTF-8; save the file as UTF-8
            2 | services: �
              |           ^
        1 error"#]]
    .assert_eq(&error.to_string());
}

#[test]
fn unreadable_file() {
    let error = Source::read("/nowhere/seawall.yaml".as_ref()).unwrap_err();
    expect![[r#"
        /nowhere/seawall.yaml: cannot read the file: No such file or directory (os error 2); give the path of a file that this user may read
        1 error"#]].assert_eq(&error.to_string());
}

#[test]
fn machines_get_the_same_as_json() {
    let errors = load("tags: 5\n").unwrap_err();
    expect![[r#"
        {
          "errors": [
            {
              "file": "seawall.yaml",
              "line": 1,
              "column": 7,
              "path": "tags",
              "value": "5",
              "message": "tags must be a list, not `5`",
              "remedy": "put what it consists of into brackets"
            }
          ],
          "more": false
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&errors).unwrap());
}

#[test]
fn a_place_far_out_on_a_line_is_still_shown() {
    let tags: Vec<String> = (0..200).map(|tag| format!("tag-{tag}")).collect();
    says(
        &format!("tags: [{}, tag-5, 'ü\\t\u{1b}']\n", tags.join(", ")),
        expect![[r#"
        seawall.yaml:1:1709: this is no YAML: unexpected character: `\u{1b}'; compare the indentation, quotes and brackets here and in the lines above
            1 | , tag-197, tag-198, tag-199, tag-5, 'ü\t�']
              |                                         ^
        1 error"#]],
    );
}
