//! phase-journal.
pub mod engine;
pub mod journal;
pub mod keep;
pub mod node;
pub mod qmp;
pub mod sidecar;
pub mod sim;
