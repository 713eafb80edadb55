//! Whole runs, as a user would make them.

mod published;
mod replay;
