//! From a file to a [`Config`], and from there to what may be shown of it.

use std::cell::RefCell;
use std::path::Path;

use ::config::{Answer, Environment, Lookup, Source};
use serde_json::Value;

use super::Config;

/// Everything that is wrong with a file.
pub type Errors = ::config::Errors;

/// A configuration, and what may be told about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    config: Config,
    hash: u64,
    from_outside: Vec<(String, String)>,
}

/// Reads and checks a file.
///
/// # Errors
/// Everything that is wrong with it, each with line, column and remedy.
pub fn load(file: &Path) -> Result<Loaded, Errors> {
    from_source(&Source::read(file)?, &Environment::new())
}

/// Checks a file offline: secrets' files need not be there.
///
/// # Errors
/// Everything that is wrong with it, each with line, column and remedy.
pub fn check(file: &Path) -> Result<Loaded, Errors> {
    from_source(&Source::read(file)?, &Environment::without_files())
}

/// Checks a text that is already in memory, as [`check`] does a file.
///
/// # Errors
/// Everything that is wrong with it, each with line, column and remedy.
pub fn read(name: &str, text: &str) -> Result<Loaded, Errors> {
    from_source(&Source::new(name, text), &Environment::without_files())
}

/// The JSON Schema of the file.
#[must_use]
pub fn schema() -> String {
    serde_json::to_string_pretty(&::config::schema::<Config>()).expect("a schema is plain data")
}

fn from_source(source: &Source, lookup: &dyn Lookup) -> Result<Loaded, Errors> {
    let recorder = Recorder { lookup, found: RefCell::default() };
    let config = ::config::load::<Config>(source, &recorder)?.value;
    Ok(Loaded {
        config,
        hash: policy::hash(source.text().as_bytes()),
        from_outside: recorder.found.into_inner(),
    })
}

/// Remembers what came from outside the file, so that it can be left out of what is shown.
struct Recorder<'l> {
    lookup: &'l dyn Lookup,
    found: RefCell<Vec<(String, String)>>,
}

impl Recorder<'_> {
    fn record(&self, name: String, answer: Answer) -> Answer {
        if let Answer::Found(value) = &answer
            && !value.is_empty()
        {
            self.found.borrow_mut().push((name, value.clone()));
        }
        answer
    }
}

impl Lookup for Recorder<'_> {
    fn variable(&self, name: &str) -> Answer {
        self.record(format!("${{{name}}}"), self.lookup.variable(name))
    }

    fn file(&self, path: &str) -> Answer {
        self.record(format!("${{file:{path}}}"), self.lookup.file(path))
    }
}

impl Loaded {
    /// A configuration that flags alone describe.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_flags(config: Config) -> Result<Self, String> {
        let text = serde_json::to_string(&config).expect("a configuration is plain data");
        // JSON is YAML: flags are held to the same rules as a file.
        let mut loaded = from_source(&Source::new("the command line", text), &Verbatim)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        loaded.from_outside.clear();
        Ok(loaded)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A hash of the file's text without a byte order mark, to compare machines by.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Changes what the command line has the last word on.
    pub(crate) fn lay_over(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
    }

    /// What it amounts to, in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        self.config.summary()
    }

    /// The whole configuration, defaults included, without any value that came from the environment or a secret's file:
    /// in their place stands where they came from.
    #[must_use]
    pub fn shown(&self) -> Value {
        let mut value = serde_json::to_value(&self.config).expect("a configuration is plain data");
        hide(&mut value, &self.from_outside);
        value
    }
}

/// The command line knows no substitution: the shell has done it.
struct Verbatim;

impl Lookup for Verbatim {
    fn variable(&self, _: &str) -> Answer {
        Answer::Failed("`$` cannot be part of it".to_owned())
    }

    fn file(&self, _: &str) -> Answer {
        Answer::Failed("`$` cannot be part of it".to_owned())
    }
}

fn hide(value: &mut Value, from_outside: &[(String, String)]) {
    match value {
        Value::String(text) => {
            for (name, secret) in from_outside {
                if text.contains(secret.as_str()) {
                    *text = name.clone();
                }
            }
        }
        Value::Number(number) => {
            let text = number.to_string();
            if let Some((name, _)) = from_outside.iter().find(|(_, secret)| *secret == text) {
                *value = Value::String(name.clone());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, from_outside)),
        Value::Object(entries) => entries.values_mut().for_each(|entry| hide(entry, from_outside)),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Secrets;

    impl Lookup for Secrets {
        fn variable(&self, name: &str) -> Answer {
            if name == "TOKEN" { Answer::Found("hunter2".to_owned()) } else { Answer::Absent }
        }

        fn file(&self, _: &str) -> Answer {
            Answer::Found("s3cret".to_owned())
        }
    }

    #[test]
    fn nothing_from_outside_is_shown() {
        let text = "services:\n  a: {endpoints: ['127.0.0.1:1']}\nroutes:\n  - service: a\n    request_headers:\n      \
                    set: {authorization: 'Bearer ${TOKEN}', x-key: '${file:/run/key}'}\n";
        let loaded = from_source(&Source::new("test.yaml", text), &Secrets).unwrap();
        assert_eq!(loaded.config().routes[0].request_headers.set["authorization"], "Bearer hunter2");
        let shown = loaded.shown().to_string();
        assert!(!shown.contains("hunter2") && !shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("${TOKEN}") && shown.contains("${file:/run/key}"), "{shown}");
    }

    #[test]
    fn flags_are_held_to_the_same_rules_as_a_file() {
        let config = |endpoint: &str| Config::forward_to(&[endpoint.to_owned()]);
        assert_eq!(Loaded::from_flags(config("127.0.0.1:1")).unwrap().config(), &config("127.0.0.1:1"));
        assert!(Loaded::from_flags(config("${HOME}:1")).is_err());
    }
}
