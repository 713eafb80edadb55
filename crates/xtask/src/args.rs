//! Command lines: words, `--flags` and `--options VALUE`, in any order.

use std::str::FromStr;

/// What is left of a command line. A chore takes what it knows and [finishes](Args::finish), so that a typing error
/// is an error.
pub(crate) struct Args(Vec<String>);

impl Args {
    pub(crate) fn from_env() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    #[cfg(test)]
    pub(crate) fn from(words: &[&str]) -> Self {
        Self(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// The first word when it is no option.
    pub(crate) fn word(&mut self) -> Option<String> {
        let is_word = self.0.first().is_some_and(|first| !first.starts_with('-'));
        is_word.then(|| self.0.remove(0))
    }

    /// Whether `--name` is given.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word.strip_prefix("--") != Some(name));
        self.0.len() < before
    }

    /// The value of `--name`.
    pub(crate) fn option<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(at) = self.0.iter().position(|word| word.strip_prefix("--") == Some(name)) else {
            return Ok(None);
        };
        let given = self.0.drain(at..(at + 2).min(self.0.len())).nth(1);
        let value = given.as_deref().ok_or_else(|| format!("--{name} needs a value"))?;
        value.parse().map(Some).map_err(|_| format!("--{name}: {value:?} is not a valid value"))
    }

    /// The comma-separated values of `--name`; empty when it is not given.
    pub(crate) fn list(&mut self, name: &str) -> Result<Vec<String>, String> {
        let given: Option<String> = self.option(name)?;
        Ok(given.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect())
    }

    /// Everything that is left, for another program.
    pub(crate) fn rest(self) -> Vec<String> {
        self.0
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("not understood: {}", self.0.join(" "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_asked_for_and_refuses_the_rest() {
        let mut args = Args::from(&["gateway", "--only", "a,b", "--quick", "--rounds", "7", "--typo"]);
        assert_eq!(args.word().as_deref(), Some("gateway"));
        assert_eq!(args.option("rounds"), Ok(Some(7)));
        assert_eq!(args.list("only"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert!(args.flag("quick") && !args.flag("quick"));
        assert_eq!(args.finish(), Err("not understood: --typo".to_owned()));
    }

    #[test]
    fn a_bad_value_is_an_error() {
        assert!(Args::from(&["--rounds", "many"]).option::<u32>("rounds").is_err());
        assert!(Args::from(&["--rounds"]).option::<u32>("rounds").is_err());
    }
}
