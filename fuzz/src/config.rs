//! The configuration file.

use ::config::{Answer, ERRORS_MAX, Errors, Lookup, Source};
use seawall::config::Config;

/// The environment: one variable of each kind, so that what is found does not depend on the machine.
struct Known;

impl Lookup for Known {
    fn variable(&self, name: &str) -> Answer {
        match name {
            "FOUND" => Answer::Found("127.0.0.1:9001".to_owned()),
            "WITHHELD" => Answer::Withheld,
            "FAILED" => Answer::Failed("it is out of reach".to_owned()),
            _ => Answer::Absent,
        }
    }

    fn file(&self, _: &str) -> Answer {
        Answer::Withheld
    }
}

/// A configuration file: what is refused is refused with errors that point into it; what is accepted means the same
/// when it is written out and read again; and nothing depends on chance.
///
/// # Panics
/// When one of these promises is broken.
pub fn config(data: &[u8]) {
    let source = match Source::from_bytes("fuzz.yaml", data.to_vec()) {
        Ok(source) => source,
        Err(errors) => return errors_are_sound(&errors, &String::from_utf8_lossy(data)),
    };
    let read = load(&source);
    assert_eq!(read, load(&source), "the same text");
    match read {
        Err(errors) => errors_are_sound(&errors, source.text()),
        Ok(config) => {
            let text = serde_json::to_string(&config).expect("a configuration is plain data");
            // JSON is YAML; only a `$` would mean something else.
            let again = load(&Source::new("again.yaml", text.replace('$', "$$")));
            assert_eq!(again.as_ref(), Ok(&config), "written again as {text}");
        }
    }
}

fn load(source: &Source) -> Result<Config, Errors> {
    ::config::load(source, &Known).map(|loaded| loaded.value)
}

fn errors_are_sound(errors: &Errors, text: &str) {
    assert!((1..=ERRORS_MAX).contains(&errors.len()), "{} errors", errors.len());
    let lines = text.lines().count() as u32;
    let mut last = None;
    for error in errors {
        assert!(!error.message.is_empty() && !error.remedy.is_empty(), "{error}");
        assert!(error.position >= last, "in the order of the text: {error}");
        last = error.position;
        if let Some(at) = error.position {
            assert!(
                (1..=lines + 1).contains(&at.line) && at.column >= 1,
                "{error} points beyond {lines} lines"
            );
        }
    }
    assert!(errors.to_string().len() <= 4096 * errors.len(), "{errors}");
}
