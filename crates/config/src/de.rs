//! From [`Tree`] to a type, with serde, such that an error knows the value at fault.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::tree::{Entry, Looks, NodeId, Scalar, Tree, Value};

/// Why a value was refused, and which.
#[derive(Debug)]
pub(crate) struct Refused(Box<Refusal>);

#[derive(Debug)]
pub(crate) struct Refusal {
    /// The innermost value that the error was seen at.
    pub(crate) node: Option<NodeId>,
    /// Whether it is the key of that value that was refused.
    pub(crate) key: bool,
    pub(crate) message: String,
}

impl Refused {
    fn at(mut self, id: NodeId) -> Self {
        self.0.node.get_or_insert(id);
        self
    }

    fn at_key(mut self, id: NodeId) -> Self {
        self.0.key = self.0.node.is_none();
        self.at(id)
    }

    pub(crate) fn into_inner(self) -> Refusal {
        *self.0
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Box::new(Refusal { node: None, key: false, message: message.to_string() }))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("it needs the key `{field}`"))
    }
}

/// Values left out of the type, because something is wrong with them already.
#[derive(Debug)]
pub(crate) struct Dropped(Vec<bool>);

impl Dropped {
    pub(crate) fn none(tree: &Tree<'_>) -> Self {
        Self(vec![false; tree.nodes.len()])
    }

    pub(crate) fn add(&mut self, id: NodeId) {
        self.0[id.0 as usize] = true;
    }

    pub(crate) fn contains(&self, id: NodeId) -> bool {
        self.0[id.0 as usize]
    }
}

/// One value of a tree, ready to become a value of a type.
///
/// A scalar without quotes is taken for what the type wants: `5` is a number or a string.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'t, 's> {
    pub(crate) tree: &'t Tree<'s>,
    pub(crate) dropped: &'t Dropped,
    pub(crate) id: NodeId,
}

impl<'t, 's> Reader<'t, 's> {
    fn part(self, id: NodeId) -> Self {
        Self { id, ..self }
    }

    /// The scalar, unless it is nothing.
    fn text(&self) -> Option<&'t Scalar<'s>> {
        self.tree.scalar(self.id).filter(|scalar| scalar.looks() != Looks::Null)
    }

    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.tree.node(self.id).value {
            Value::List(items) => visitor.visit_seq(Items { reader: self, rest: items.iter() }),
            Value::Map(entries) => {
                visitor.visit_map(Entries { reader: self, rest: entries.iter(), value: self.id })
            }
            Value::Scalar(scalar) => match scalar.looks() {
                Looks::Null => visitor.visit_unit(),
                Looks::Bool(value) => visitor.visit_bool(value),
                Looks::Integer(value) => match (u64::try_from(value), i64::try_from(value)) {
                    (Ok(value), _) => visitor.visit_u64(value),
                    (_, Ok(value)) => visitor.visit_i64(value),
                    _ => visitor.visit_i128(value),
                },
                Looks::Float(value) => visitor.visit_f64(value),
                Looks::Text => visitor.visit_str(&scalar.text),
            },
        }
    }
}

macro_rules! text {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            match self.text() {
                Some(scalar) => visitor.visit_str(&scalar.text).map_err(|error: Refused| error.at(self.id)),
                None => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_, '_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.visit(visitor).map_err(|error| error.at(self.id))
    }

    text! { deserialize_str deserialize_string deserialize_char }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        if self.tree.is_null(self.id) { visitor.visit_none() } else { visitor.visit_some(self) }
            .map_err(|error: Refused| error.at(self.id))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self).map_err(|error| error.at(self.id))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let outcome = match (&self.tree.node(self.id).value, self.text()) {
            (_, Some(scalar)) => {
                visitor.visit_enum(Variant { name: &scalar.text, id: self.id, content: None })
            }
            (Value::Map(entries), _) => match entries.as_slice() {
                [Entry { key, value, .. }] if !self.dropped.contains(*value) => {
                    visitor.visit_enum(Variant { name: key, id: self.id, content: Some(self.part(*value)) })
                }
                _ => Err(de::Error::custom("expected a map with one key")),
            },
            _ => Err(de::Error::custom("expected a word, or a map with one key")),
        };
        outcome.map_err(|error| error.at(self.id))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct identifier
    }
}

struct Items<'t, 's> {
    reader: Reader<'t, 's>,
    rest: std::slice::Iter<'t, NodeId>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        let reader = self.reader;
        match self.rest.find(|id| !reader.dropped.contains(**id)) {
            Some(id) => seed.deserialize(reader.part(*id)).map_err(|error| error.at(*id)).map(Some),
            None => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Entries<'t, 's> {
    reader: Reader<'t, 's>,
    rest: std::slice::Iter<'t, Entry<'s>>,
    /// The value of the key that was read last.
    value: NodeId,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        let dropped = self.reader.dropped;
        let Some(entry) = self.rest.find(|entry| !dropped.contains(entry.value)) else { return Ok(None) };
        self.value = entry.value;
        seed.deserialize(Key(&entry.key)).map_err(|error| error.at_key(entry.value)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        seed.deserialize(self.reader.part(self.value)).map_err(|error| error.at(self.value))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// A map's key: text that may stand for a number or a variant.
struct Key<'t>(&'t str);

macro_rules! number {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            match self.0.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => visitor.visit_str(self.0),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_str(self.0)
    }

    number! {
        deserialize_bool visit_bool
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32 deserialize_i64 visit_i64
        deserialize_u8 visit_u8 deserialize_u16 visit_u16 deserialize_u32 visit_u32 deserialize_u64 visit_u64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let name_of_variant: StrDeserializer<'_, Refused> = self.0.into_deserializer();
        name_of_variant.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

/// A variant of an enum: its name, and its content unless it was written as a word.
struct Variant<'t, 's> {
    name: &'t str,
    id: NodeId,
    content: Option<Reader<'t, 's>>,
}

impl<'t, 's> Variant<'t, 's> {
    fn content(self) -> Result<Reader<'t, 's>, Refused> {
        let missing = || de::Error::custom(format_args!("`{0}` needs a value: `{0}: …`", self.name));
        self.content.ok_or_else(missing).map_err(|error: Refused| error.at(self.id))
    }
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refused> {
        seed.deserialize(Key(self.name)).map_err(|error| error.at(self.id)).map(|variant| (variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        match self.content {
            None => Ok(()),
            Some(_) => {
                let message = format_args!("`{0}` takes no value: write just `{0}`", self.name);
                Err(<Refused as de::Error>::custom(message).at(self.id))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        seed.deserialize(self.content()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refused> {
        self.content()?.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.content()?.deserialize_any(visitor)
    }
}
