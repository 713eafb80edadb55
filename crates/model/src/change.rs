use alloc::string::String;

use crate::Timestamp;

/// One deliberate change to the running system, recorded before it takes effect, so that whoever looks at an
/// incident sees what preceded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it took effect.
    pub at: Timestamp,
    /// Who asked for it: a file, an operator, an automaton.
    pub who: String,
    /// What changed, in one line.
    pub what: String,
    /// How to take it back, in one line.
    pub undo: String,
}
