//! One scenario, several values of one key.

use ::config::{Source, load_verbatim, nearest};
use ::sim::Scenario;
use serde_json::{Map, Value};

use crate::cli::Failure;

/// Where a key that is not found from the root is looked for, in this order. `*` is every name.
const SHORTHANDS: [&str; 5] =
    ["services.*.policies", "services.*.backend", "services.*", "traffic.*", "traffic.*.route"];

/// More runs than this are a slip of the pen.
const VALUES_MAX: usize = 100;

/// A scenario for each value.
#[derive(Clone, Debug)]
pub(super) struct Sweep {
    /// The key as the command line gave it.
    pub(super) key: String,
    /// The keys that it stands for, from the root.
    pub(super) set: Vec<String>,
    /// Each value, and the scenario with it.
    pub(super) scenarios: Vec<(Value, Scenario)>,
}

impl Sweep {
    /// Reads `key=a,b,c`.
    pub(super) fn parse(text: &str, scenario: &Scenario) -> Result<Self, Failure> {
        let refuse = |message: String| Failure::Input(format!("--sweep: {message}"));
        let Some((key, values)) =
            text.split_once('=').filter(|(key, values)| !key.is_empty() && !values.is_empty())
        else {
            return Err(refuse(format!(
                "`{text}` is not a key and its values; write them like retry_budget.ratio=0,0.1,0.5"
            )));
        };
        let tree = serde_json::to_value(scenario).expect("a scenario is plain data");
        let paths = resolve(&tree, key);
        if paths.is_empty() {
            return Err(refuse(unknown(&tree, key)));
        }
        let values: Vec<&str> = values.split(',').map(str::trim).collect();
        if values.len() > VALUES_MAX {
            return Err(refuse(format!("{} values are too many; give at most {VALUES_MAX}", values.len())));
        }
        let with = |value: &str| -> Result<(Value, Scenario), Failure> {
            let value = read(value);
            let mut tree = tree.clone();
            paths.iter().for_each(|path| put(&mut tree, path, &value));
            // The same rules as for a file, whose text JSON is.
            let source = Source::new("--sweep", tree.to_string());
            let loaded = load_verbatim::<Scenario>(&source).map_err(|errors| {
                let errors: Vec<_> = errors
                    .iter()
                    .map(|error| format!("{key}={}: {}; {}", shown(&value), error.message, error.remedy))
                    .collect();
                refuse(errors.join("\n"))
            })?;
            Ok((value, loaded.value))
        };
        let scenarios = values.into_iter().map(with).collect::<Result<_, _>>()?;
        Ok(Self { key: key.to_owned(), set: paths.iter().map(|path| path.join(".")).collect(), scenarios })
    }
}

/// A value as the command line writes it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Text as YAML would read it: a number, `true`, `false` or `null` is one, everything else is text.
fn read(text: &str) -> Value {
    let plain = serde_json::from_str(text).ok();
    plain.filter(|value: &Value| !value.is_array() && !value.is_object()).unwrap_or_else(|| text.into())
}

/// The paths from the root that a key stands for; none when there is no such key.
fn resolve(tree: &Value, key: &str) -> Vec<Vec<String>> {
    let key: Vec<String> = key.split('.').map(str::to_owned).collect();
    if exists(tree, &key) {
        return vec![key];
    }
    // The first place that knows the beginning of the key has the word: an absent part of another one would take anything.
    let below = |shorthand: &str| -> Vec<Vec<String>> {
        let prefixes = expand(tree, shorthand).into_iter();
        let paths = prefixes.map(|prefix| [prefix, key.clone()].concat());
        paths.filter(|path| exists(tree, &path[..=path.len() - key.len()])).collect()
    };
    let mut paths = SHORTHANDS.into_iter().map(below).find(|paths| !paths.is_empty()).unwrap_or_default();
    paths.retain(|path| exists(tree, path));
    paths
}

/// A shorthand with each name in the place of its `*`.
fn expand(tree: &Value, shorthand: &str) -> Vec<Vec<String>> {
    let mut paths: Vec<(Vec<String>, &Value)> = vec![(Vec::new(), tree)];
    for part in shorthand.split('.') {
        paths = paths
            .into_iter()
            .flat_map(|(path, value)| {
                let entries = value.as_object().into_iter().flatten();
                entries
                    .filter(move |(name, _)| part == "*" || *name == part)
                    .map(move |(name, value)| ([path.clone(), vec![name.clone()]].concat(), value))
            })
            .collect();
    }
    paths.into_iter().map(|(path, _)| path).collect()
}

/// Whether something stands there, or could: below a part that is absent as a whole, the strict reading decides.
fn exists(tree: &Value, path: &[String]) -> bool {
    match (path, tree) {
        ([], _) => true,
        (_, Value::Null) => true,
        ([key, rest @ ..], Value::Object(entries)) => {
            entries.get(key).is_some_and(|value| exists(value, rest))
        }
        ([key, rest @ ..], Value::Array(items)) => key
            .parse::<usize>()
            .ok()
            .and_then(|index| items.get(index))
            .is_some_and(|value| exists(value, rest)),
        _ => false,
    }
}

/// Puts a value where [`exists`] has found a place for it.
fn put(tree: &mut Value, path: &[String], value: &Value) {
    let Some((key, rest)) = path.split_first() else {
        value.clone_into(tree);
        return;
    };
    if tree.is_null() {
        *tree = Value::Object(Map::new());
    }
    match tree {
        Value::Object(entries) => put(entries.entry(key.clone()).or_insert(Value::Null), rest, value),
        Value::Array(items) => {
            if let Some(item) = key.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                put(item, rest, value);
            }
        }
        _ => {}
    }
}

fn unknown(tree: &Value, key: &str) -> String {
    let mut known = Vec::new();
    paths(tree, "", &mut known);
    for shorthand in SHORTHANDS {
        for prefix in expand(tree, shorthand) {
            let prefix = format!("{}.", prefix.join("."));
            let short: Vec<_> =
                known.iter().filter_map(|path| path.strip_prefix(&prefix).map(str::to_owned)).collect();
            known.extend(short);
        }
    }
    let remedy = match nearest(key, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "a key is a path from the root of the scenario, such as services.cart.endpoints, or from the policies of its \
                 services, such as retry_budget.ratio"
            .to_owned(),
    };
    format!("the scenario has no key `{key}`; {remedy}")
}

fn paths(tree: &Value, prefix: &str, known: &mut Vec<String>) {
    let mut add = |key: &str, value: &Value| {
        let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        paths(value, &path, known);
        known.push(path);
    };
    match tree {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| add(key, value)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| add(&index.to_string(), value))
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        let text =
            "{duration: 10s, traffic: {web: {service: cart}}, services: {cart: {endpoints: 4}, stock: {}}}";
        let source = Source::new("test", text);
        load_verbatim::<Scenario>(&source).unwrap_or_else(|errors| panic!("{errors}")).value
    }

    fn refused(text: &str) -> String {
        Sweep::parse(text, &scenario()).unwrap_err().to_string()
    }

    #[test]
    fn a_full_key_sets_one_place_and_a_short_one_every_service() {
        let sweep = Sweep::parse("services.cart.endpoints=1,8", &scenario()).unwrap();
        let endpoints: Vec<_> =
            sweep.scenarios.iter().map(|(_, scenario)| scenario.services["cart"].endpoints).collect();
        assert_eq!(
            (endpoints.as_slice(), sweep.set.as_slice()),
            (&[1, 8][..], &["services.cart.endpoints".to_owned()][..])
        );

        let sweep = Sweep::parse("retry_budget.ratio=0.5", &scenario()).unwrap();
        let of = |name: &str| {
            sweep.scenarios[0].1.services[name].policies.retry_budget.as_ref().unwrap().ratio.get()
        };
        assert_eq!((of("cart"), of("stock"), sweep.set.len()), (0.5, 0.5, 2));
        assert_eq!(Sweep::parse("clients=7", &scenario()).unwrap().scenarios[0].1.traffic["web"].clients, 7);
        assert_eq!(Sweep::parse("duration=5s,20s", &scenario()).unwrap().scenarios.len(), 2);
    }

    #[test]
    fn what_is_absent_can_be_swept_too() {
        let sweep = Sweep::parse("services.cart.policies.health.interval=2s,5s", &scenario()).unwrap();
        let interval = |index: usize| {
            let policies = &sweep.scenarios[index].1.services["cart"].policies;
            policies.health.as_ref().unwrap().interval.to_string()
        };
        assert_eq!([interval(0), interval(1)], ["2s", "5s"]);
        let without = Sweep::parse("retry_budget=null", &scenario()).unwrap();
        assert_eq!(without.scenarios[0].1.services["cart"].policies.retry_budget, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_a_remedy() {
        for (text, expected) in [
            ("retry_budget.rati=1", "did you mean `retry_budget.ratio`?"),
            ("services.cart.endpoint=1", "did you mean `services.cart.endpoints`?"),
            ("nonsense=1", "a key is a path"),
            ("endpoints", "write them like"),
            ("endpoints=", "write them like"),
            ("services.cart.endpoints=0", "give at least 1"),
            ("services.cart.endpoints=many", "services.cart.endpoints"),
            ("services.cart.policies.health.intervall=2s", "interval"),
            ("faults.0.at=2s", "no key"),
        ] {
            let message = refused(text);
            assert!(message.starts_with("--sweep: ") && message.contains(expected), "{text}: {message}");
        }
        assert!(refused(&format!("seed={}1", "1,".repeat(100))).contains("too many"));
    }
}
