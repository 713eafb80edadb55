//! A JSON Schema as `schemars` writes it, made ready for validating.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value as Json};

use crate::tree::Step;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShapeId(usize);

/// A set of types, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Types(u8);

impl Types {
    pub(crate) const NONE: Types = Types(0);
    pub(crate) const NULL: Types = Types(1);
    pub(crate) const BOOL: Types = Types(2);
    pub(crate) const INTEGER: Types = Types(4);
    /// A number that is no integer. The schema's `number` is this and [`Types::INTEGER`].
    pub(crate) const FLOAT: Types = Types(8);
    pub(crate) const STRING: Types = Types(16);
    pub(crate) const LIST: Types = Types(32);
    pub(crate) const MAP: Types = Types(64);
    pub(crate) const ANY: Types = Types(127);
    /// What one scalar can be.
    pub(crate) const SCALARS: Types = Types(2 | 4 | 8 | 16);

    pub(crate) fn has(self, any_of: Types) -> bool {
        self.0 & any_of.0 != 0
    }

    fn and(self, other: Types) -> Types {
        Types(self.0 & other.0)
    }

    fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    fn named(name: &str) -> Types {
        match name {
            "null" => Self::NULL,
            "boolean" => Self::BOOL,
            "integer" => Self::INTEGER,
            "number" => Self::INTEGER.or(Self::FLOAT),
            "string" => Self::STRING,
            "array" => Self::LIST,
            "object" => Self::MAP,
            _ => Self::NONE,
        }
    }

    /// The types in words, such as `a string` and `a list`.
    pub(crate) fn words(self) -> impl Iterator<Item = &'static str> {
        let number = if self.has(Self::FLOAT) { "a number" } else { "an integer" };
        [
            (Self::BOOL, "`true` or `false`"),
            (Self::INTEGER.or(Self::FLOAT), number),
            (Self::STRING, "a string"),
            (Self::LIST, "a list"),
            (Self::MAP, "a map"),
        ]
        .into_iter()
        .filter_map(move |(types, word)| self.has(types).then_some(word))
    }
}

/// What a value must be.
#[derive(Debug)]
pub(crate) struct Shape {
    types: Types,
    pub(crate) description: Option<String>,
    /// All of these too.
    pub(crate) all_of: Vec<ShapeId>,
    /// One of these too, unless there are none.
    pub(crate) any_of: Vec<ShapeId>,
    /// One of these scalars, unless there are none.
    pub(crate) words: Vec<String>,
    pub(crate) properties: BTreeMap<String, ShapeId>,
    pub(crate) others: Others,
    pub(crate) required: Vec<String>,
    pub(crate) items: Option<ShapeId>,
    pub(crate) items_unique: bool,
    /// Bounds on a list's length.
    pub(crate) items_bounds: Bounds,
    /// Bounds on a number.
    pub(crate) bounds: Bounds,
    /// Bounds on a string's characters.
    pub(crate) length: Bounds,
}

/// The keys that a map may have besides its properties.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Others {
    Any,
    Denied,
    Each(ShapeId),
}

/// A range of numbers. Integers are compared exactly.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    min: Option<Bound>,
    max: Option<Bound>,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    at: Number,
    /// Whether `at` itself is outside.
    open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(i128),
    Float(f64),
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Number::Integer(a), Number::Integer(b)) => a.partial_cmp(b),
            _ => self.float().partial_cmp(&other.float()),
        }
    }
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Number::Integer(integer) => integer as f64,
            Number::Float(float) => float,
        }
    }

    fn of(json: &Json) -> Option<Number> {
        let number = json.as_number()?;
        number.as_i128().map(Number::Integer).or_else(|| number.as_f64().map(Number::Float))
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Integer(integer) => write!(f, "{integer}"),
            Number::Float(float) => write!(f, "{float}"),
        }
    }
}

impl Bounds {
    fn of(schema: &Map<String, Json>, [min, min_open, max, max_open]: [&str; 4]) -> Self {
        let bound = |closed: &str, open: &str| {
            let get = |key| schema.get(key).and_then(Number::of);
            let closed = get(closed).map(|at| Bound { at, open: false });
            closed.or_else(|| get(open).map(|at| Bound { at, open: true }))
        };
        Self { min: bound(min, min_open), max: bound(max, max_open) }
    }

    /// The bounds that a format implies, where the schema leaves them out.
    fn or_format(mut self, format: &str) -> Self {
        let (min, max) = match format {
            "uint8" => (0, u8::MAX.into()),
            "uint16" => (0, u16::MAX.into()),
            "uint32" => (0, u32::MAX.into()),
            "uint64" | "uint" => (0, u64::MAX.into()),
            "int8" => (i8::MIN.into(), i8::MAX.into()),
            "int16" => (i16::MIN.into(), i16::MAX.into()),
            "int32" => (i32::MIN.into(), i32::MAX.into()),
            "int64" | "int" => (i64::MIN.into(), i64::MAX.into()),
            _ => return self,
        };
        let closed = |at| Bound { at: Number::Integer(at), open: false };
        self.min.get_or_insert(closed(min));
        self.max.get_or_insert(closed(max));
        self
    }

    pub(crate) fn hold(&self, number: Number) -> bool {
        let above = self.min.is_none_or(|min| if min.open { number > min.at } else { number >= min.at });
        above && self.max.is_none_or(|max| if max.open { number < max.at } else { number <= max.at })
    }

    /// The range in words: `from 0 to 1`, `at least 1`.
    pub(crate) fn words(&self) -> String {
        let side = |bound: Bound, open: &str, closed: &str| {
            format!("{} {}", if bound.open { open } else { closed }, bound.at)
        };
        match (self.min, self.max) {
            (Some(min), Some(max)) if !min.open && !max.open => format!("from {} to {}", min.at, max.at),
            (Some(min), Some(max)) => {
                format!("{} and {}", side(min, "more than", "at least"), side(max, "less than", "at most"))
            }
            (Some(min), None) => side(min, "more than", "at least"),
            (None, Some(max)) => side(max, "less than", "at most"),
            (None, None) => "any".to_owned(),
        }
    }
}

/// A compiled schema.
#[derive(Debug)]
pub(crate) struct Shapes {
    shapes: Vec<Shape>,
    /// What each shape admits in the end, references and branches taken into account.
    admits: Vec<Types>,
}

/// References followed one after another when the types that a shape admits are worked out.
const REFERENCES_MAX: usize = 16;

impl Shapes {
    pub(crate) const ROOT: ShapeId = ShapeId(0);

    pub(crate) fn compile(schema: &Json) -> Self {
        let mut compiler = Compiler { schema, shapes: Vec::new(), definitions: HashMap::new() };
        compiler.definitions.insert("#", Self::ROOT);
        compiler.shape(schema);
        let mut shapes = Self { shapes: compiler.shapes, admits: Vec::new() };
        shapes.admits = (0..shapes.shapes.len()).map(|id| shapes.work_out(ShapeId(id), 0)).collect();
        shapes
    }

    fn work_out(&self, id: ShapeId, followed: usize) -> Types {
        let shape = self.get(id);
        if followed > REFERENCES_MAX {
            return shape.types;
        }
        let admits = |id: &ShapeId| self.work_out(*id, followed + 1);
        let all = shape.all_of.iter().map(admits).fold(shape.types, Types::and);
        if shape.any_of.is_empty() {
            all
        } else {
            all.and(shape.any_of.iter().map(admits).fold(Types::NONE, Types::or))
        }
    }

    pub(crate) fn get(&self, id: ShapeId) -> &Shape {
        &self.shapes[id.0]
    }

    /// The types of which a value must have one.
    pub(crate) fn admits(&self, id: ShapeId) -> Types {
        self.admits[id.0]
    }

    /// The branches of a shape, those of its branches and references included.
    pub(crate) fn branches(&self, id: ShapeId, found: &mut Vec<ShapeId>) {
        let shape = self.get(id);
        let mut nested = shape.all_of.iter().chain(&shape.any_of).peekable();
        if shape.properties.is_empty() && shape.words.is_empty() && nested.peek().is_some() {
            nested.for_each(|id| self.branches(*id, found));
        } else {
            found.push(id);
        }
    }

    /// The only key of a map that stands for one variant of an enum.
    pub(crate) fn tag(&self, id: ShapeId) -> Option<(&str, ShapeId)> {
        let shape = self.get(id);
        match (shape.required.as_slice(), shape.others) {
            ([tag], Others::Denied) if shape.properties.len() == 1 => {
                shape.properties.get(tag).map(|content| (tag.as_str(), *content))
            }
            _ => None,
        }
    }

    /// The shape at the end of a path.
    pub(crate) fn locate(&self, steps: &[Step]) -> Option<ShapeId> {
        steps.iter().try_fold(Self::ROOT, |id, step| self.step(id, step, 0))
    }

    fn step(&self, id: ShapeId, step: &Step, followed: usize) -> Option<ShapeId> {
        let shape = self.get(id);
        let here = match step {
            Step::Index(_) => shape.items,
            Step::Key(key) => shape.properties.get(key).copied().or(match shape.others {
                Others::Each(each) => Some(each),
                _ => None,
            }),
        };
        if here.is_some() || followed > REFERENCES_MAX {
            return here;
        }
        shape.all_of.iter().chain(&shape.any_of).find_map(|id| self.step(*id, step, followed + 1))
    }

    /// The first sentence of what the schema says about a shape.
    pub(crate) fn describe(&self, id: ShapeId) -> Option<String> {
        let shape = self.get(id);
        let description = shape.description.as_deref();
        let description = description
            .or_else(|| shape.all_of.iter().find_map(|id| self.get(*id).description.as_deref()))?;
        let paragraph = description.split("\n\n").next().unwrap_or(description).replace('\n', " ");
        let end = paragraph.find(". ").unwrap_or(paragraph.len());
        Some(paragraph[..end].trim_end_matches('.').to_owned())
    }
}

struct Compiler<'j> {
    schema: &'j Json,
    shapes: Vec<Shape>,
    definitions: HashMap<&'j str, ShapeId>,
}

impl<'j> Compiler<'j> {
    fn shape(&mut self, schema: &'j Json) -> ShapeId {
        let id = ShapeId(self.shapes.len());
        self.shapes.push(Shape::any());
        let shape = match schema {
            Json::Object(object) => self.object(object),
            Json::Bool(false) => Shape { types: Types::NONE, ..Shape::any() },
            _ => Shape::any(),
        };
        self.shapes[id.0] = shape;
        id
    }

    fn reference(&mut self, target: &'j str) -> Option<ShapeId> {
        if let Some(id) = self.definitions.get(target) {
            return Some(*id);
        }
        let schema = self.schema.pointer(target.strip_prefix('#')?)?;
        // Entered before its content is compiled, because that may refer back to it.
        self.definitions.insert(target, ShapeId(self.shapes.len()));
        Some(self.shape(schema))
    }

    fn object(&mut self, object: &'j Map<String, Json>) -> Shape {
        let text = |key: &str| object.get(key).and_then(Json::as_str);
        let all = |key: &str| object.get(key).and_then(Json::as_array).into_iter().flatten();
        let map = |key: &str| object.get(key).and_then(Json::as_object).into_iter().flatten();
        let types = match object.get("type") {
            Some(Json::String(name)) => Types::named(name),
            Some(Json::Array(names)) => {
                names.iter().filter_map(Json::as_str).map(Types::named).fold(Types::NONE, Types::or)
            }
            _ => Types::ANY,
        };
        let words = all("enum").chain(object.get("const")).filter(|word| !word.is_null());
        let words: Vec<String> =
            words.map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned)).collect();
        let pattern = map("patternProperties").map(|(_, schema)| schema).next();
        let others = match object.get("additionalProperties") {
            Some(Json::Bool(true)) => Others::Any,
            Some(schema) if schema.is_object() => Others::Each(self.shape(schema)),
            denied => match (pattern, denied) {
                (Some(schema), _) => Others::Each(self.shape(schema)),
                (None, Some(_)) => Others::Denied,
                (None, None) => Others::Any,
            },
        };
        let target = text("$ref").and_then(|target| self.reference(target));
        Shape {
            types,
            description: text("description").map(str::to_owned),
            all_of: target.into_iter().chain(all("allOf").map(|schema| self.shape(schema))).collect(),
            any_of: all("anyOf").chain(all("oneOf")).map(|schema| self.shape(schema)).collect(),
            words,
            properties: map("properties").map(|(key, schema)| (key.clone(), self.shape(schema))).collect(),
            others,
            required: all("required").filter_map(Json::as_str).map(str::to_owned).collect(),
            items: object.get("items").map(|schema| self.shape(schema)),
            items_unique: object.get("uniqueItems") == Some(&Json::Bool(true)),
            items_bounds: Bounds::of(object, ["minItems", "", "maxItems", ""]),
            bounds: Bounds::of(object, ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"])
                .or_format(text("format").unwrap_or_default()),
            length: Bounds::of(object, ["minLength", "", "maxLength", ""]),
        }
    }
}

impl Shape {
    fn any() -> Self {
        Self {
            types: Types::ANY,
            description: None,
            all_of: Vec::new(),
            any_of: Vec::new(),
            words: Vec::new(),
            properties: BTreeMap::new(),
            others: Others::Any,
            required: Vec::new(),
            items: None,
            items_unique: false,
            items_bounds: Bounds::default(),
            bounds: Bounds::default(),
            length: Bounds::default(),
        }
    }
}
