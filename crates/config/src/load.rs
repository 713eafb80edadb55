use std::collections::HashSet;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::de::{Dropped, Reader, Refusal};
use crate::error::{ERRORS_MAX, Errors, Finding};
use crate::lookup::Lookup;
use crate::report::{Check, Report};
use crate::shape::Shapes;
use crate::source::{Position, Source};
use crate::substitute::{Secrets, substitute};
use crate::tree::{NodeId, Path, Step, Style, Tree};
use crate::validate::validate;
use crate::{parse, reference};

/// A configuration, and the text that it came from.
#[derive(Debug)]
pub struct Loaded<'s, T> {
    /// The configuration.
    pub value: T,
    source: &'s Source,
    tree: Tree<'s>,
}

impl<T> Loaded<'_, T> {
    /// Where the text says what stands at a path; `None` when it does not say it, so that a default holds.
    #[must_use]
    pub fn position(&self, steps: &[Step]) -> Option<Position> {
        let (id, entry, whole) = self.tree.follow(steps);
        let start = entry.map_or(self.tree.node(id).range.0, |entry| entry.key_range.0);
        whole.then(|| self.source.lines().position(start))
    }
}

/// Times that reading the type is tried again without the values that it refused, to find further ones.
const READS_MAX: u64 = 64;
/// Values that may be read in all those times together, so that a large and wrong text does not take long.
const VALUES_READ_MAX: u64 = 8_000_000;

/// Loads a configuration from a text.
///
/// With a [`Lookup`] that withholds values, what depends on them is taken for right, and left out of the value where
/// it cannot be read.
///
/// # Errors
/// Everything that is wrong, except that an error may hide others about the same value or what depends on it: a text
/// that is not YAML is only that, and [`Check::check`] is not asked while parts are missing that others may refer to.
pub fn load<'s, T>(source: &'s Source, lookup: &dyn Lookup) -> Result<Loaded<'s, T>, Errors>
where
    T: DeserializeOwned + JsonSchema + Check,
{
    load_with(source, Some(lookup))
}

/// As [`load`], but nothing is substituted: a `$` is a `$`. For files that other programs write, who must not learn
/// what this process's environment holds.
///
/// # Errors
/// As [`load`].
pub fn load_verbatim<'s, T>(source: &'s Source) -> Result<Loaded<'s, T>, Errors>
where
    T: DeserializeOwned + JsonSchema + Check,
{
    load_with(source, None)
}

fn load_with<'s, T>(source: &'s Source, lookup: Option<&dyn Lookup>) -> Result<Loaded<'s, T>, Errors>
where
    T: DeserializeOwned + JsonSchema + Check,
{
    let mut findings = Vec::new();
    let mut tree = match parse::parse(source, &mut findings) {
        Ok(tree) => tree,
        Err(fatal) => {
            findings.push(fatal);
            return Err(Errors::new(source, findings, false));
        }
    };
    let (secrets, failed) = match lookup {
        Some(lookup) => substitute(&mut tree, lookup, &mut findings),
        None => Default::default(),
    };
    let shapes = Shapes::compile(&reference::schema::<T>());
    let verdict = validate(&tree, &shapes, &failed.iter().copied().collect::<HashSet<_>>());
    let mut dropped = Dropped::none(&tree);
    failed.iter().chain(&verdict.unreadable).for_each(|id| dropped.add(*id));
    // Left out too, but no known key lacks its value for that.
    let unknown: HashSet<NodeId> = verdict.unknown.into_iter().collect();
    unknown.iter().for_each(|id| dropped.add(*id));
    findings.extend(verdict.findings);

    let mut reading = Reading {
        tree: &tree,
        secrets: &secrets,
        shapes: &shapes,
        dropped,
        findings,
        names_missing: verdict.names_missing,
        gave_up: false,
    };
    let value: Option<T> = reading.read();
    let Reading { dropped, mut findings, names_missing, gave_up, .. } = reading;
    if let Some(value) = value.as_ref().filter(|_| !names_missing) {
        findings.extend(problems(value, &tree, &secrets, &dropped, &unknown));
    }
    match value {
        Some(value) if findings.is_empty() => Ok(Loaded { value, source, tree }),
        _ => {
            if findings.is_empty() {
                let message = "what depends on withheld values cannot be checked".to_owned();
                findings.push(Finding::of_file(message, "check the file where they are available"));
            }
            Err(Errors::new(source, findings, gave_up))
        }
    }
}

/// Reads the type again and again, each time without the value that was refused.
struct Reading<'r, 's> {
    tree: &'r Tree<'s>,
    secrets: &'r Secrets,
    shapes: &'r Shapes,
    dropped: Dropped,
    findings: Vec<Finding>,
    names_missing: bool,
    /// Whether values are left that were not read.
    gave_up: bool,
}

impl Reading<'_, '_> {
    fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        let reads_max = READS_MAX.min(1 + VALUES_READ_MAX / self.tree.values.max(1));
        for _ in 0..reads_max {
            if self.dropped.contains(Tree::ROOT) {
                return None;
            }
            let reader = Reader { tree: self.tree, dropped: &self.dropped, id: Tree::ROOT };
            let refusal = match T::deserialize(reader) {
                Ok(value) => return Some(value),
                Err(refused) => refused.into_inner(),
            };
            self.on_refusal(&refusal);
        }
        self.gave_up = true;
        None
    }

    fn on_refusal(&mut self, refusal: &Refusal) {
        let id = refusal.node.unwrap_or(Tree::ROOT);
        // A collection without one of its parts may be refused for that alone.
        let innocent = self.is_withheld(id)
            || self.tree.parts(id).any(|part| self.dropped.contains(part) || self.is_withheld(part));
        self.dropped.add(id);
        self.names_missing |= self.tree.scalar(id).is_none();
        if !innocent {
            self.findings.push(self.refused(id, refusal));
        }
    }

    fn refused(&self, id: NodeId, refusal: &Refusal) -> Finding {
        let (tree, steps) = (self.tree, self.tree.steps(id));
        let about = self.shapes.locate(&steps).and_then(|shape| self.shapes.describe(shape));
        let about = about
            .map_or_else(|| "see the reference of its key".to_owned(), |about| format!("wanted: {about}"));
        let place = if steps.is_empty() { "the file".to_owned() } else { Path(&steps).to_string() };
        let key = tree.key_of(id).filter(|_| refusal.key);
        let refused = match (key, tree.scalar(id)) {
            (Some(_), _) => format!("the key of {place} is not accepted"),
            (None, Some(_)) => format!("{} is not accepted for {place}", tree.shown(id)),
            (None, None) => format!("{place} is not accepted"),
        };
        let substituted = tree.scalar(id).is_some_and(|scalar| scalar.style == Style::Substituted);
        let (message, remedy) = if refusal.message.starts_with("expected ") {
            (refused, self.secrets.scrub(&refusal.message))
        } else if substituted {
            // What the type says may show the value in a form that cannot be recognised.
            (refused, about)
        } else {
            (format!("{refused}: {}", self.secrets.scrub(&refusal.message)), about)
        };
        let mut finding = Finding::at(tree, id, message, remedy);
        if let Some(entry) = key {
            finding.range = Some(entry.key_range);
            finding.value = Some(entry.key.clone().into_owned());
        }
        finding
    }

    fn is_withheld(&self, id: NodeId) -> bool {
        self.tree.scalar(id).is_some_and(|scalar| scalar.style == Style::Withheld)
    }
}

/// What [`Check`] finds, without what it may have found only because something was left out: at a value that was
/// left out, at a collection that lacks something, and beside a known key whose value was left out.
fn problems<T: Check>(
    value: &T,
    tree: &Tree<'_>,
    secrets: &Secrets,
    dropped: &Dropped,
    unknown: &HashSet<NodeId>,
) -> Vec<Finding> {
    let mut problems = Vec::new();
    value.check(&mut Report::new(&mut problems));
    let lacks = |id: NodeId| tree.parts(id).any(|part| dropped.contains(part));
    let mut findings = Vec::new();
    for problem in problems.into_iter().take(ERRORS_MAX + 1) {
        let (id, entry, whole) = tree.follow(&problem.steps);
        let mut beside = entry.into_iter().flat_map(|_| tree.parts(tree.node(id).parent));
        let beside_dropped = beside.any(|part| dropped.contains(part) && !unknown.contains(&part));
        let incomplete = tree.scalar(id).is_none() && (lacks(id) || tree.parts(id).any(lacks));
        if dropped.contains(id) || incomplete || beside_dropped {
            continue;
        }
        let path = Path(&problem.steps).to_string();
        let scrubbed = |text: &str| scrub_of(tree, id, secrets.scrub(text));
        let (message, remedy) = (scrubbed(&problem.message), scrubbed(&problem.remedy));
        let message = if path.is_empty() { message } else { format!("{path}: {message}") };
        let mut finding = Finding::at(tree, id, message, remedy);
        finding.path = path;
        if tree.scalar(id).is_none() || !whole {
            finding.range = entry.map(|entry| entry.key_range).or(finding.range);
            finding.value = None;
        }
        findings.push(finding);
    }
    findings
}

/// A text about a value without that value, however short, if it came from outside.
fn scrub_of(tree: &Tree<'_>, id: NodeId, text: String) -> String {
    match tree.scalar(id) {
        Some(scalar) if scalar.style == Style::Substituted && !scalar.text.is_empty() => {
            text.replace(&*scalar.text, tree.written(id))
        }
        _ => text,
    }
}

impl Finding {
    /// A finding about one value.
    pub(crate) fn at(tree: &Tree<'_>, id: NodeId, message: String, remedy: String) -> Self {
        let value = tree.scalar(id).map(|_| tree.shown(id).trim_matches('`').to_owned());
        let path = Path(&tree.steps(id)).to_string();
        let node = tree.node(id);
        // A key without a value, and a map: the key is what can be seen.
        let range = match tree.key_of(id) {
            Some(entry) if tree.scalar(id).is_none() || node.range.0 == node.range.1 => entry.key_range,
            _ => node.range,
        };
        Self { range: Some(range), path, value, message, remedy }
    }
}
