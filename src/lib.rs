//! phase-journal.
pub mod journal;
