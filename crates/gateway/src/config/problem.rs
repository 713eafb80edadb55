use std::fmt;

/// One step from the root of the configuration to a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathElement {
    /// Into the map's value with this key.
    Key(String),
    /// Into the list's item, counted from 0.
    Index(usize),
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is accepted, but somebody should look.
    Warning,
}

/// Something that is wrong with a configuration whose every single value is well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, from the root that [`Config`](super::Config) has in the file. Points at what surrounds the place when the
    /// key to add is not there yet.
    pub path: Vec<PathElement>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// How bad it is.
    pub severity: Severity,
}

/// `routes[3].match.path: message; remedy`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, element) in self.path.iter().enumerate() {
            match element {
                PathElement::Key(key) if position == 0 => f.write_str(key)?,
                PathElement::Key(key) => write!(f, ".{key}")?,
                PathElement::Index(index) => write!(f, "[{index}]")?,
            }
        }
        write!(f, ": {}; {}", self.message, self.remedy)
    }
}

/// A place in the configuration where problems are reported.
pub(crate) struct Place<'p> {
    problems: &'p mut Vec<Problem>,
    path: Vec<PathElement>,
}

impl<'p> Place<'p> {
    pub(crate) fn root(problems: &'p mut Vec<Problem>) -> Self {
        Self { problems, path: Vec::new() }
    }

    /// Takes over problems that were found elsewhere, with whole paths.
    pub(crate) fn extend(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
    }

    /// The value of a key of what is here.
    pub(crate) fn at(&mut self, key: &str) -> Place<'_> {
        self.step(PathElement::Key(key.to_owned()))
    }

    /// An item of the list that is here.
    pub(crate) fn item(&mut self, index: usize) -> Place<'_> {
        self.step(PathElement::Index(index))
    }

    fn step(&mut self, element: PathElement) -> Place<'_> {
        let mut path = self.path.clone();
        path.push(element);
        Place { problems: self.problems, path }
    }

    pub(crate) fn error(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.report(message.into(), remedy.into(), Severity::Error);
    }

    pub(crate) fn warn(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.report(message.into(), remedy.into(), Severity::Warning);
    }

    /// Reports a refusal here, if there is one, and hands on what was made otherwise.
    pub(crate) fn take<T>(&mut self, result: Result<T, (String, String)>) -> Option<T> {
        result.map_err(|(message, remedy)| self.error(message, remedy)).ok()
    }

    fn report(&mut self, message: String, remedy: String, severity: Severity) {
        self.problems.push(Problem { path: self.path.clone(), message, remedy, severity });
    }
}
