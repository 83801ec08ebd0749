//! phase-journal.
pub mod engine;
pub mod journal;
