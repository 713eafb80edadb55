//! What serialises loads back to the same value.

use std::collections::{BTreeMap, BTreeSet};

use model::{ByteSize, Ratio, Span};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::sample::{
    Balance, Condition, Endpoint, Fixed, Listener, RingHash, Root, Route, Service, Timeouts,
};

fn text() -> impl Strategy<Value = String> {
    let texts = prop_oneof![
        "[a-z0-9/*.$]{1,8}",
        "null|true|12|1e3|~|0x1f|.5|-1|no|-|yes",
        any::<String>(),
        "[-:{}#&*!|>%@` \n\t]{0,9}"
    ];
    texts.prop_map(|text| {
        text.chars().filter(|character| *character < '\u{7f}' || character.is_alphanumeric()).collect()
    })
}

fn listener() -> impl Strategy<Value = Listener> {
    (any::<std::net::SocketAddrV4>(), 1..u32::MAX).prop_map(|(address, connections)| Listener {
        address: address.into(),
        connections: connections.try_into().unwrap(),
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        text().prop_map(Condition::Exact),
        vec(text(), 0..3).prop_map(Condition::AnyOf),
        any::<bool>().prop_map(Condition::Present),
    ]
}

fn route() -> impl Strategy<Value = Route> {
    (
        option::of(text()),
        btree_map(text(), condition(), 0..4),
        option::of(balance()),
        option::of(any::<u16>()),
    )
        .prop_map(|(path, headers, balance, status)| Route {
            path,
            headers,
            balance,
            status,
            ..Route::default()
        })
}

fn balance() -> impl Strategy<Value = Balance> {
    prop_oneof![
        Just(Balance::RoundRobin),
        Just(Balance::Random),
        (text(), any::<u32>(), -1e9..1e9f64).prop_map(|(header, points, load_bound)| Balance::RingHash(
            RingHash { header, points, load_bound }
        )),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let endpoint = ("[a-z.]{1,9}:[1-9][0-9]{0,3}", any::<u32>())
        .prop_map(|(address, weight)| Endpoint { address, weight });
    let timeouts = (0..1_000_000u64, option::of(0..1_000_000u64)).prop_map(|(connect, idle)| Timeouts {
        connect: Span::from_millis(connect),
        request: Span::from_millis(u64::MAX / 1_000_000),
        idle: idle.map(Span::from_millis),
    });
    (vec(endpoint, 1..4), balance(), timeouts, 0.0..=1.0f64, any::<u64>(), any::<bool>()).prop_map(
        |(endpoints, balance, timeouts, panic_below, head_max, via)| Service {
            endpoints,
            balance,
            timeouts,
            panic_below: Ratio::new(panic_below).unwrap(),
            head_max: ByteSize::new(head_max),
            via,
        },
    )
}

prop_compose! {
    fn root()(
        listeners in vec(listener(), 0..3),
        routes in vec(route(), 0..4),
        services in btree_map(text(), service(), 0..4),
        labels in btree_map(any::<u16>(), text(), 0..20),
        tags in vec(text(), 0..4),
    ) -> Root {
        Root { listeners, routes, services, labels, tags: tags.into_iter().collect::<BTreeSet<_>>() }
    }
}

/// JSON is YAML but for the delete character, which JSON leaves as it is; a plain `$` has to be written twice.
fn written(root: &Root) -> String {
    fn escape(json: &mut serde_json::Value) {
        match json {
            serde_json::Value::String(text) => *text = text.replace('$', "$$"),
            serde_json::Value::Array(items) => items.iter_mut().for_each(escape),
            serde_json::Value::Object(entries) => entries.values_mut().for_each(escape),
            _ => {}
        }
    }
    let mut json = serde_json::to_value(root).unwrap();
    escape(&mut json);
    serde_json::to_string_pretty(&json).unwrap()
}

proptest! {
    #[test]
    fn what_serialises_loads_back(root in root()) {
        let text = written(&root);
        let loaded = crate::sample::load_with(&text, &Fixed::default());
        prop_assert_eq!(loaded.map_err(|errors| errors.to_string()), Ok(root), "{}", text);
    }
}

#[test]
fn aliases_stand_for_what_they_name() {
    let root = crate::sample::load(
        "services:\n  a: &a\n    endpoints: &e [x:1, y:2]\n    timeouts: {connect: &t 3s, request: *t}\n  b: *a\n  c: {endpoints: *e}\n",
    )
    .unwrap();
    assert_eq!(root.services["a"], root.services["b"]);
    assert_eq!(root.services["a"].endpoints, root.services["c"].endpoints);
    let names: BTreeMap<_, _> = root.services;
    assert_eq!(names.len(), 3);
}
