//! Configuration from YAML: strict, with defaults, and with errors that point.
//!
//! [`load`] turns a [`Source`] into a value of any type that is `Deserialize`, `JsonSchema` and [`Check`], or into
//! everything that is wrong with it, each with file, line, column, value and remedy. On the way, in this order:
//!
//! 1. parse to a tree that knows where each value stands;
//! 2. substitute `${NAME}`, `${NAME:-default}` and `${file:/path}` in values (`$$` is a plain `$`), never in keys;
//! 3. validate against the schema that [`schema`] publishes;
//! 4. read the type, which finds what a schema cannot say;
//! 5. [`Check::check`] what no single value shows.
//!
//! Nothing here opens a socket, and no file but [`Source::read`]'s and those that the [`Lookup`] reads.
#![forbid(unsafe_code)]

mod de;
mod error;
mod load;
mod lookup;
mod parse;
mod reference;
mod report;
mod shape;
mod source;
mod substitute;
mod suggest;
mod tree;
mod validate;

pub use error::{ERRORS_MAX, Error, Errors};
pub use load::{Loaded, load, load_verbatim};
pub use lookup::{Answer, Environment, Lookup};
pub use reference::{reference, schema};
pub use report::{Check, Report};
pub use source::{Position, SOURCE_BYTES_MAX, Source};
pub use suggest::nearest;
pub use tree::Step;
