//! What a column holds, the same in both engines.

use std::sync::Arc;

use model::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::fence::Token;

/// One value of one column. There are no others: truth values are integers, moments are integers (nanoseconds since the Unix
/// epoch), documents are JSON in text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number of 64 bits.
    Integer(i64),
    /// A floating-point number of 64 bits.
    Real(f64),
    /// Text, in UTF-8.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// A document, as JSON text.
    ///
    /// # Errors
    /// When `document` cannot be written as JSON (a map with keys that are no text).
    pub fn json(document: &impl Serialize) -> Result<Self, StoreError> {
        serde_json::to_string(document).map(Value::Text).map_err(|source| StoreError::Document { source })
    }

    /// What kind of value it is, for messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Integer(_) => "an integer",
            Value::Real(_) => "a real",
            Value::Text(_) => "text",
            Value::Blob(_) => "a blob",
        }
    }
}

macro_rules! into_value {
    ($($from:ty => |$value:ident| $to:expr;)*) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $to
            }
        }
    )*};
}

into_value! {
    i64 => |value| Value::Integer(value);
    i32 => |value| Value::Integer(value.into());
    u32 => |value| Value::Integer(value.into());
    bool => |value| Value::Integer(value.into());
    f64 => |value| Value::Real(value);
    &str => |value| Value::Text(value.to_owned());
    String => |value| Value::Text(value);
    &String => |value| Value::Text(value.clone());
    Vec<u8> => |value| Value::Blob(value);
    &[u8] => |value| Value::Blob(value.to_vec());
    // Past the year 2262 it stays there.
    Timestamp => |value| Value::Integer(i64::try_from(value.as_unix_nanos()).unwrap_or(i64::MAX));
    Token => |value| Value::Integer(value.get());
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// The arguments of a statement: `args![name, 5, None::<i64>]`.
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        &[$($crate::Value::from($value)),*] as &[$crate::Value]
    };
}

/// What a [`Value`] can be read as.
pub trait FromValue: Sized {
    /// The value, or nothing when it is of another kind.
    fn from_value(value: &Value) -> Option<Self>;
    /// What was wanted, for messages.
    const WANTED: &'static str;
}

macro_rules! from_value {
    ($($to:ty, $wanted:literal: $pattern:pat => $value:expr;)*) => {$(
        impl FromValue for $to {
            const WANTED: &'static str = $wanted;
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $pattern => $value,
                    _ => None,
                }
            }
        }
    )*};
}

from_value! {
    i64, "an integer": Value::Integer(value) => Some(*value);
    u64, "a positive integer": Value::Integer(value) => u64::try_from(*value).ok();
    u32, "a small positive integer": Value::Integer(value) => u32::try_from(*value).ok();
    bool, "0 or 1": Value::Integer(value @ (0 | 1)) => Some(*value == 1);
    f64, "a real": Value::Real(value) => Some(*value);
    String, "text": Value::Text(value) => Some(value.clone());
    Vec<u8>, "a blob": Value::Blob(value) => Some(value.clone());
    Timestamp, "a moment": Value::Integer(value) => u64::try_from(*value).ok().map(Timestamp::from_unix_nanos);
    Token, "a fencing token": Value::Integer(value) => Token::new(*value);
}

impl<T: FromValue> FromValue for Option<T> {
    const WANTED: &'static str = T::WANTED;
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            some => T::from_value(some).map(Some),
        }
    }
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    names: Arc<[String]>,
    values: Vec<Value>,
}

impl Row {
    pub(crate) fn new(names: Arc<[String]>, values: Vec<Value>) -> Self {
        Self { names, values }
    }

    /// The value of the column `name`.
    ///
    /// # Errors
    /// When there is no such column or it holds something else: the statement and the code disagree, or the record is damaged.
    pub fn get<T: FromValue>(&self, name: &str) -> Result<T, StoreError> {
        let at = self.names.iter().position(|known| known == name);
        let value = at.and_then(|at| self.values.get(at));
        let found = value.map_or("no such column", Value::kind);
        value.and_then(T::from_value).ok_or_else(|| StoreError::Column {
            name: name.to_owned(),
            wanted: T::WANTED,
            found,
        })
    }

    /// The document in the column `name`.
    ///
    /// # Errors
    /// As [`Row::get`], and when the text is no JSON of that shape.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, StoreError> {
        let text: String = self.get(name)?;
        serde_json::from_str(&text).map_err(|source| StoreError::Document { source })
    }

    /// The values in the order of the columns.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }
}
