//! Whole runs, as a user would make them.

mod library;
mod published;
mod queueing;
mod replay;
