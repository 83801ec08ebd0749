//! phase-journal.
pub mod engine;
pub mod journal;
pub mod qmp;
