//! A [`Tree`] against a schema: every error, not only the first.

use std::collections::HashSet;

use crate::error::{ERRORS_MAX, Finding};
use crate::shape::{Number, Others, Shape, ShapeId, Shapes, Types};
use crate::suggest::{alternatives, nearest};
use crate::tree::{Entry, Looks, NodeId, Path, Scalar, Step, Style, Tree, Value, quoted};

/// What is wrong with a tree by its schema.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) findings: Vec<Finding>,
    /// Values that no type can be read from.
    pub(crate) unreadable: Vec<NodeId>,
    /// Values of keys that no type knows.
    pub(crate) unknown: Vec<NodeId>,
    /// Whether so much is unreadable that names which others refer to may be missing.
    pub(crate) names_missing: bool,
}

/// Validates all but the values in `skip`.
pub(crate) fn validate(tree: &Tree<'_>, shapes: &Shapes, skip: &HashSet<NodeId>) -> Verdict {
    let mut validator = Validator { tree, shapes, skip, verdict: Verdict::default() };
    validator.value(Tree::ROOT, Shapes::ROOT);
    validator.verdict
}

struct Validator<'v, 's> {
    tree: &'v Tree<'s>,
    shapes: &'v Shapes,
    skip: &'v HashSet<NodeId>,
    verdict: Verdict,
}

/// The key by which YAML 1.1 merged maps. Version 1.2 has none.
const MERGE: &str = "<<";
/// Known keys or words that a remedy lists.
const LISTED_MAX: usize = 24;

impl Validator<'_, '_> {
    fn value(&mut self, id: NodeId, shape: ShapeId) {
        let admits = self.shapes.admits(shape);
        if self.verdict.findings.len() > ERRORS_MAX || self.skip.contains(&id) {
            return;
        }
        let Some(types) = self.types(id, admits) else { return };
        if admits.has(types) {
            self.of_right_type(id, shape, types);
        } else {
            self.wrong_type(id, shape);
        }
    }

    /// The type of a value where `admits` are wanted: a scalar without quotes is a string where only a string fits.
    /// `None` when nobody can tell, because the value is withheld.
    fn types(&self, id: NodeId, admits: Types) -> Option<Types> {
        let scalar = match &self.tree.node(id).value {
            Value::List(_) => return Some(Types::LIST),
            Value::Map(_) => return Some(Types::MAP),
            Value::Scalar(scalar) if scalar.style == Style::Withheld => return None,
            Value::Scalar(scalar) => scalar,
        };
        let looks = match scalar.looks() {
            Looks::Null => return Some(Types::NULL),
            Looks::Bool(_) => Types::BOOL,
            Looks::Integer(_) => Types::INTEGER,
            Looks::Float(_) => Types::FLOAT,
            Looks::Text => Types::STRING,
        };
        Some(if !admits.has(looks) && admits.has(Types::STRING) { Types::STRING } else { looks })
    }

    fn of_right_type(&mut self, id: NodeId, shape_id: ShapeId, types: Types) {
        let shapes = self.shapes;
        let shape = shapes.get(shape_id);
        for part in &shape.all_of {
            self.of_right_type(id, *part, types);
        }
        if !shape.any_of.is_empty() {
            self.branch(id, shape_id, types);
        }
        match &self.tree.node(id).value {
            Value::Scalar(_) => self.scalar(id, shape),
            Value::List(items) => self.list(id, items, shape),
            Value::Map(entries) => self.map(id, entries, shape),
        }
    }

    fn scalar(&mut self, id: NodeId, shape: &Shape) {
        let Some(scalar) = self.tree.scalar(id) else { return };
        let number = match scalar.looks() {
            Looks::Null => return,
            Looks::Integer(integer) => Some(Number::Integer(integer)),
            Looks::Float(float) => Some(Number::Float(float)),
            Looks::Bool(_) | Looks::Text => None,
        };
        if !shape.words.is_empty() && !shape.words.iter().any(|word| *word == scalar.text) {
            return self.unknown_word(id, shape.words.clone(), None);
        }
        if number.is_some_and(|number| !shape.bounds.hold(number)) {
            let remedy = format!("give a number {}", shape.bounds.words());
            return self.unfit(id, "is out of range", remedy);
        }
        let length = scalar.text.chars().count();
        if number.is_none() && !shape.length.hold(Number::Integer(length as i128)) {
            let remedy = format!("give a text of {} characters", shape.length.words());
            self.unfit(id, if length == 0 { "is empty" } else { "has the wrong length" }, remedy);
        }
    }

    fn list(&mut self, id: NodeId, items: &[NodeId], shape: &Shape) {
        for item in items {
            if let Some(of_items) = shape.items {
                self.value(*item, of_items);
            }
        }
        if !shape.items_bounds.hold(Number::Integer(items.len() as i128)) {
            let message = format!("{} has {} items", self.place(id), items.len());
            self.find(id, message, format!("give {} items", shape.items_bounds.words()));
            self.verdict.unreadable.push(id);
        }
        let mut seen = HashSet::new();
        for item in items.iter().filter(|_| shape.items_unique) {
            if self.verdict.findings.len() > ERRORS_MAX {
                return;
            }
            if self.tree.scalar(*item).is_some_and(|scalar| !seen.insert(&*scalar.text)) {
                let message = format!("{} stands in {} twice", self.tree.shown(*item), self.place(id));
                self.find(*item, message, "remove one".to_owned());
            }
        }
    }

    fn map(&mut self, id: NodeId, entries: &[Entry<'_>], shape: &Shape) {
        for entry in entries {
            if self.verdict.findings.len() > ERRORS_MAX {
                return;
            }
            match (shape.properties.get(&*entry.key), shape.others) {
                _ if entry.key == MERGE => self.unknown_key(id, entry, shape),
                (Some(of_key), _) => self.value(entry.value, *of_key),
                (None, Others::Each(of_others)) => self.value(entry.value, of_others),
                (None, Others::Any) => {}
                (None, Others::Denied) => self.unknown_key(id, entry, shape),
            }
        }
        for key in shape.required.iter().filter(|key| !entries.iter().any(|entry| entry.key == **key)) {
            self.unreadable_part(id);
            let known = || shape.properties.keys().map(String::as_str);
            let misspelt = |entry: &Entry<'_>| {
                !shape.properties.contains_key(&*entry.key)
                    && nearest(&entry.key, known()) == Some(key.as_str())
            };
            // A misspelt key has been reported, with this one as its remedy.
            if !entries.iter().any(misspelt) {
                let about = shape.properties.get(key).and_then(|of_key| self.shapes.describe(*of_key));
                let about = about.map_or_else(String::new, |about| format!(" ({about})"));
                let message = format!("{} lacks the key `{key}`", self.place(id));
                self.find(id, message, format!("add `{key}: …`{about}"));
            }
        }
    }

    fn unknown_key(&mut self, id: NodeId, entry: &Entry<'_>, shape: &Shape) {
        let steps = self.tree.steps(id);
        let within = if steps.is_empty() { String::new() } else { format!(" in {}", Path(&steps)) };
        let known = || shape.properties.keys().map(String::as_str);
        let remedy = match nearest(&entry.key, known()) {
            _ if entry.key == MERGE => {
                "merge keys are not supported: write the keys out, or alias a whole value".to_owned()
            }
            Some(near) => format!("did you mean `{near}`?"),
            None => listed("the known keys are", known()),
        };
        let mut steps = steps;
        steps.push(Step::Key(entry.key.clone().into_owned()));
        self.verdict.findings.push(Finding {
            range: Some(entry.key_range),
            path: Path(&steps).to_string(),
            value: Some(entry.key.clone().into_owned()),
            message: format!("unknown key {}{within}", quoted(&entry.key)),
            remedy,
        });
        self.verdict.unknown.push(entry.value);
        self.verdict.names_missing |= self.tree.scalar(entry.value).is_none();
    }

    /// Validates by the branch that the author most likely meant.
    fn branch(&mut self, id: NodeId, shape: ShapeId, types: Types) {
        let mut branches = Vec::new();
        self.shapes.get(shape).any_of.iter().for_each(|branch| self.shapes.branches(*branch, &mut branches));
        let fitting: Vec<ShapeId> =
            branches.iter().copied().filter(|branch| self.shapes.admits(*branch).has(types)).collect();
        if fitting.len() > 1
            && types == Types::MAP
            && fitting.iter().all(|branch| self.shapes.tag(*branch).is_some())
        {
            return self.tagged(id, &fitting, &branches);
        }
        let of_words = |branch: &ShapeId| !self.shapes.get(*branch).words.is_empty();
        if types != Types::MAP && types != Types::LIST && !fitting.is_empty() && fitting.iter().all(of_words)
        {
            let words: Vec<String> =
                fitting.iter().flat_map(|branch| self.shapes.get(*branch).words.iter().cloned()).collect();
            let text = self.tree.scalar(id).map(|scalar| &*scalar.text).unwrap_or_default();
            if !words.iter().any(|word| word == text) {
                self.unknown_word(id, words, Some(&branches));
            }
            return;
        }
        if let [only] = fitting.as_slice() {
            // A lone variant with content: its tag may be unknown.
            match self.shapes.tag(*only) {
                Some(_) if types == Types::MAP && branches.len() > 1 => {
                    return self.tagged(id, &fitting, &branches);
                }
                _ => return self.of_right_type(id, *only, types),
            }
        }
        let before = std::mem::take(&mut self.verdict);
        let mut best: Option<Verdict> = None;
        for branch in fitting {
            self.of_right_type(id, branch, types);
            let verdict = std::mem::take(&mut self.verdict);
            if best.as_ref().is_none_or(|best| verdict.findings.len() < best.findings.len()) {
                best = Some(verdict);
            }
            if best.as_ref().is_some_and(|best| best.findings.is_empty()) {
                break;
            }
        }
        self.verdict = before;
        let best = best.unwrap_or_default();
        self.verdict.findings.extend(best.findings);
        self.verdict.unreadable.extend(best.unreadable);
        self.verdict.unknown.extend(best.unknown);
        self.verdict.names_missing |= best.names_missing;
    }

    /// A map that should have one key, the name of a variant.
    fn tagged(&mut self, id: NodeId, fitting: &[ShapeId], branches: &[ShapeId]) {
        let Value::Map(entries) = &self.tree.node(id).value else { return };
        let tags: Vec<(&str, ShapeId)> =
            fitting.iter().filter_map(|branch| self.shapes.tag(*branch)).collect();
        let [entry] = entries.as_slice() else {
            let message = format!("{} has {} keys where one is wanted", self.place(id), entries.len());
            self.find(id, message, listed("give one of", self.variants(branches).iter().map(String::as_str)));
            return self.unreadable_part(id);
        };
        if let Some((_, content)) = tags.iter().find(|(tag, _)| entry.key == *tag) {
            return self.value(entry.value, *content);
        }
        let is_word = branches
            .iter()
            .any(|branch| self.shapes.get(*branch).words.iter().any(|word| entry.key == *word));
        let (name, place) = (quoted(&entry.key), self.place(id));
        let (message, remedy) = if is_word {
            (format!("{name} in {place} takes no value"), format!("write just {name}"))
        } else {
            let remedy = match nearest(&entry.key, tags.iter().map(|(tag, _)| *tag)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => listed("give one of", self.variants(branches).iter().map(String::as_str)),
            };
            (format!("unknown variant {name} in {place}"), remedy)
        };
        let path = Path(&self.tree.steps(id)).to_string();
        let value = Some(entry.key.clone().into_owned());
        self.verdict.findings.push(Finding { range: Some(entry.key_range), path, value, message, remedy });
        self.unreadable_part(id);
    }

    /// The names of all variants, as words or as tags of maps.
    fn variants(&self, branches: &[ShapeId]) -> Vec<String> {
        let mut variants = Vec::new();
        for branch in branches {
            variants.extend(self.shapes.get(*branch).words.iter().cloned());
            variants.extend(self.shapes.tag(*branch).map(|(tag, _)| tag.to_owned()));
        }
        variants
    }

    fn unknown_word(&mut self, id: NodeId, words: Vec<String>, branches: Option<&[ShapeId]>) {
        let (text, shows) = self
            .tree
            .scalar(id)
            .map_or(("", false), |scalar| (&*scalar.text, scalar.style != Style::Substituted));
        let names = branches.map_or_else(|| words.clone(), |branches| self.variants(branches));
        let needs_value = names.iter().any(|name| name == text) && !words.iter().any(|word| word == text);
        let near = nearest(text, names.iter().map(String::as_str)).filter(|_| shows);
        let remedy = match near {
            Some(_) if needs_value => format!("it needs a value: `{text}: …`"),
            Some(near) => format!("did you mean `{near}`?"),
            None => listed("give one of", names.iter().map(String::as_str)),
        };
        let message = if needs_value && shows { "lacks its value" } else { "is not one of the known words" };
        self.unfit(id, message, remedy);
    }

    fn wrong_type(&mut self, id: NodeId, shape: ShapeId) {
        let admits = self.shapes.admits(shape);
        let expected = self.expected(shape);
        let about = self.shapes.describe(shape);
        let wanted = || about.map_or_else(|| format!("write {expected}"), |about| format!("wanted: {about}"));
        let remedy = match &self.tree.node(id).value {
            Value::Scalar(_) if self.tree.is_null(id) => "give it a value, or remove the key".to_owned(),
            Value::Scalar(scalar)
                if scalar.style == Style::Quoted && fits_without_quotes(&scalar.text, admits) =>
            {
                "remove the quotes".to_owned()
            }
            Value::Scalar(_) if admits.has(Types::BOOL) => "write `true` or `false`".to_owned(),
            Value::Scalar(_) if admits.has(Types::LIST) && !admits.has(Types::MAP) => {
                "put what it consists of into brackets".to_owned()
            }
            _ => wanted(),
        };
        let text = self.tree.scalar(id).is_some_and(|scalar| scalar.style == Style::Quoted);
        let found = format!("{}{}", if text { "the text " } else { "" }, self.tree.shown(id));
        let message = format!("{} must be {expected}, not {found}", self.place(id));
        self.find(id, message, remedy);
        self.verdict.unreadable.push(id);
        self.verdict.names_missing |= !admits.has(Types::SCALARS);
    }

    /// What a shape admits, in words.
    fn expected(&self, shape: ShapeId) -> String {
        let admits = self.shapes.admits(shape);
        let mut branches = Vec::new();
        self.shapes.branches(shape, &mut branches);
        let variants = self.variants(&branches);
        if variants.is_empty() {
            return alternatives(&admits.words().map(str::to_owned).collect::<Vec<_>>());
        }
        let prefix = if admits.has(Types::SCALARS) { "one of" } else { "a map with the key" };
        listed(prefix, variants.iter().map(String::as_str))
    }

    /// What a message calls a value: its path.
    fn place(&self, id: NodeId) -> String {
        match self.tree.steps(id) {
            steps if steps.is_empty() => "the file".to_owned(),
            steps => Path(&steps).to_string(),
        }
    }

    fn unfit(&mut self, id: NodeId, what: &str, remedy: String) {
        let message = format!("{} {what} for {}", self.tree.shown(id), self.place(id));
        self.find(id, message, remedy);
        self.verdict.unreadable.push(id);
    }

    fn unreadable_part(&mut self, id: NodeId) {
        self.verdict.unreadable.push(id);
        self.verdict.names_missing = true;
    }

    fn find(&mut self, id: NodeId, message: String, remedy: String) {
        let finding = Finding::at(self.tree, id, message, remedy);
        self.verdict.findings.push(finding);
    }
}

fn fits_without_quotes(text: &str, admits: Types) -> bool {
    match (Scalar { text: text.into(), style: Style::Plain }).looks() {
        Looks::Bool(_) => admits.has(Types::BOOL),
        Looks::Integer(_) => admits.has(Types::INTEGER),
        Looks::Float(_) => admits.has(Types::FLOAT),
        Looks::Null | Looks::Text => false,
    }
}

/// `prefix a, b or c`, cut short when there are many.
fn listed<'a>(prefix: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.len() > LISTED_MAX {
        names.truncate(LISTED_MAX);
        names.push("others".to_owned());
    }
    if names.is_empty() { String::new() } else { format!("{prefix} {}", alternatives(&names)) }
}
