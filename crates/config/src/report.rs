use crate::tree::Step;

/// What a configuration must satisfy beyond the types of its values: names that exist, bounds that depend on one another.
///
/// Called once the whole text has been read into its type. The default finds nothing wrong.
pub trait Check {
    /// Reports every problem at the key that its author has to change.
    fn check(&self, report: &mut Report<'_>) {
        let _ = report;
    }
}

/// Takes the problems that a [`Check`] finds, each at its place.
///
/// ```
/// # fn check(report: &mut config::Report<'_>) {
/// report.at("routes").index(3).key("service").error("no service is called `x`", "services are: a, b");
/// # }
/// ```
#[derive(Debug)]
pub struct Report<'r> {
    problems: &'r mut Vec<Problem>,
    steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) steps: Vec<Step>,
    pub(crate) message: String,
    pub(crate) remedy: String,
}

impl<'r> Report<'r> {
    pub(crate) fn new(problems: &'r mut Vec<Problem>) -> Self {
        Self { problems, steps: Vec::new() }
    }

    /// A report about what stands under a key, for problems there or to hand on to the [`Check`] of that part.
    #[must_use]
    pub fn at(&mut self, key: &str) -> Report<'_> {
        Report { problems: self.problems, steps: self.steps.clone() }.key(key)
    }

    /// A report about an item of the list that stands here, counted from 0.
    #[must_use]
    pub fn at_index(&mut self, index: usize) -> Report<'_> {
        Report { problems: self.problems, steps: self.steps.clone() }.index(index)
    }

    /// Goes on to the value of a key.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.steps.push(Step::Key(key.to_owned()));
        self
    }

    /// Goes on to an item of a list, counted from 0.
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.steps.push(Step::Index(index));
        self
    }

    /// Reports a problem here: what is wrong, and what to do about it.
    ///
    /// The place need not be in the text: a problem with a default points at what surrounds it.
    pub fn error(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem {
            steps: self.steps.clone(),
            message: message.into(),
            remedy: remedy.into(),
        });
    }
}
