use std::fmt::Write;

use schemars::JsonSchema;
use serde_json::{Map, Value as Json};

/// The JSON Schema (draft 2020-12) of a configuration, for editors and for `seawall schema`.
#[must_use]
pub fn schema<T: JsonSchema>() -> Json {
    schemars::schema_for!(T).to_value()
}

/// A reference of all keys in Markdown, made from the schema: a section for each map and each choice, the root first,
/// each key with its type, default and description.
#[must_use]
pub fn reference<T: JsonSchema>() -> String {
    let schema = schema::<T>();
    let mut writer = Writer { schema: &schema, names: Vec::new(), out: String::new() };
    let title = schema.get("title").and_then(Json::as_str).unwrap_or("Configuration");
    writer.section(title, &schema);
    let mut next = 0;
    while let Some(name) = writer.names.get(next).copied() {
        if let Some(definition) = schema.pointer(&format!("/$defs/{name}")) {
            writer.section(name, definition);
        }
        next += 1;
    }
    format!("{}\n", writer.out.trim_end())
}

struct Writer<'j> {
    schema: &'j Json,
    /// Definitions that have or get a section, in the order in which they are first mentioned.
    names: Vec<&'j str>,
    out: String,
}

impl<'j> Writer<'j> {
    fn section(&mut self, name: &str, schema: &'j Json) {
        let space = if self.out.is_empty() || self.out.ends_with("\n\n") { "" } else { "\n" };
        let _ = writeln!(self.out, "{space}## {name}\n");
        if let Some(description) = description(schema) {
            let _ = writeln!(self.out, "{description}\n");
        }
        for branch in branches(schema) {
            self.choice(branch);
        }
        self.keys(schema);
    }

    fn keys(&mut self, schema: &'j Json) {
        let Some(properties) =
            schema.get("properties").and_then(Json::as_object).filter(|keys| !keys.is_empty())
        else {
            return;
        };
        let required = schema.get("required").and_then(Json::as_array);
        self.out.push_str("| key | type | default | description |\n|---|---|---|---|\n");
        for (key, property) in properties {
            let default = match property.get("default") {
                _ if required.is_some_and(|required| required.iter().any(|name| name == key)) => {
                    "required".to_owned()
                }
                Some(Json::Null) | None => String::new(),
                // A map of defaults is what its own section says.
                Some(Json::Object(_)) => String::new(),
                Some(default) => format!("`{default}`"),
            };
            let kind = self.kind(property);
            let about = cell(&self.about(property));
            let _ = writeln!(self.out, "| `{key}` | {} | {} | {about} |", cell(&kind), cell(&default));
        }
    }

    /// One way to write a value that can be written in several.
    fn choice(&mut self, branch: &'j Json) {
        let about = description(branch).map_or_else(String::new, |about| format!(": {about}"));
        let words =
            branch.get("enum").and_then(Json::as_array).into_iter().flatten().chain(branch.get("const"));
        let words: Vec<String> = words.map(|word| format!("`{}`", plain(word))).collect();
        if !words.is_empty() {
            let _ = writeln!(self.out, "- {}{about}", words.join(", "));
            return;
        }
        match branch.get("properties").and_then(Json::as_object) {
            Some(properties) if properties.len() == 1 => {
                for (key, content) in properties {
                    let kind = self.kind(content);
                    let _ = writeln!(self.out, "- `{key}:` {kind}{about}");
                }
            }
            Some(_) => {
                let _ = writeln!(self.out, "- a map{about}\n");
                self.keys(branch);
            }
            None => {
                let kind = self.kind(branch);
                let _ = writeln!(self.out, "- {kind}{about}");
            }
        }
    }

    /// A value's type in a few words, with links to sections.
    fn kind(&mut self, schema: &'j Json) -> String {
        if let Some(name) =
            schema.get("$ref").and_then(Json::as_str).and_then(|target| target.strip_prefix("#/$defs/"))
        {
            return self.named(name);
        }
        let branches: Vec<&Json> =
            branches(schema).filter(|branch| branch.get("type") != Some(&"null".into())).collect();
        if !branches.is_empty() {
            return branches.into_iter().map(|branch| self.kind(branch)).collect::<Vec<_>>().join(" or ");
        }
        let Some(object) = schema.as_object() else { return "anything".to_owned() };
        let types = match object.get("type") {
            Some(Json::String(name)) => vec![name.as_str()],
            Some(Json::Array(names)) => {
                names.iter().filter_map(Json::as_str).filter(|name| *name != "null").collect()
            }
            _ => Vec::new(),
        };
        let kinds = types.into_iter().map(|name| self.simple(name, object));
        kinds.collect::<Vec<_>>().join(" or ")
    }

    fn simple(&mut self, name: &str, schema: &'j Map<String, Json>) -> String {
        let words =
            schema.get("enum").and_then(Json::as_array).into_iter().flatten().chain(schema.get("const"));
        let words: Vec<String> = words.map(|word| format!("`{}`", plain(word))).collect();
        match name {
            _ if !words.is_empty() => words.join(", "),
            "array" => {
                schema.get("items").map_or("list".to_owned(), |items| format!("list of {}", self.kind(items)))
            }
            "object" => {
                let patterns = schema.get("patternProperties").and_then(Json::as_object);
                let patterns = patterns.and_then(|patterns| patterns.values().next());
                let values =
                    schema.get("additionalProperties").filter(|values| values.is_object()).or(patterns);
                values.map_or("map".to_owned(), |values| format!("map of {}", self.kind(values)))
            }
            "boolean" => "`true` or `false`".to_owned(),
            "integer" | "number" => format!("{name}{}", range(schema)),
            other => other.to_owned(),
        }
    }

    /// A link to the section of a definition; what it is, when that is a scalar.
    fn named(&mut self, name: &'j str) -> String {
        let definition = self.schema.pointer(&format!("/$defs/{name}"));
        let has_section = definition.is_some_and(|definition| {
            ["properties", "pattern"].into_iter().any(|key| definition.get(key).is_some())
                || branches(definition).next().is_some()
        });
        match definition {
            Some(definition) if !has_section => self.kind(definition),
            _ => {
                if !self.names.contains(&name) {
                    self.names.push(name);
                }
                format!("[{name}](#{})", name.to_lowercase())
            }
        }
    }

    /// What the schema says about a key, or else about its type.
    fn about(&self, schema: &Json) -> String {
        let target = schema.get("$ref").and_then(Json::as_str);
        let target = target.and_then(|target| self.schema.pointer(target.strip_prefix('#')?));
        description(schema).or_else(|| target.and_then(description)).unwrap_or_default().to_owned()
    }
}

fn description(schema: &Json) -> Option<&str> {
    schema.get("description").and_then(Json::as_str)
}

fn branches(schema: &Json) -> impl Iterator<Item = &Json> {
    ["oneOf", "anyOf"].into_iter().filter_map(|key| schema.get(key).and_then(Json::as_array)).flatten()
}

fn plain(json: &Json) -> String {
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}

fn range(schema: &Map<String, Json>) -> String {
    match (schema.get("minimum"), schema.get("maximum")) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" from {min}"),
        (None, Some(max)) => format!(" to {max}"),
        (None, None) => String::new(),
    }
}

/// Text that stays inside its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
