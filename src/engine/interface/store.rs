//! What the engine asks of a store, and how a store answers.

use core::fmt;

use journal_format::record::{KeyChange, KeyValue};

/// What is asked about the key of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreRequest {
    /// What does it say?
    Read,
    /// Change it, if it is as the change says, in one step with every other request for it.
    Change(KeyChange),
}

/// The store gave no answer: what was asked may have happened, may happen later, or never will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFailure(pub String);

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the key says at the moment in which the request was carried out, behind the change if it was made;
/// `None` if there is no such key.
pub type StoreResult = Result<Option<KeyValue>, StoreFailure>;

/// Longest wait for a store's answer, in milliseconds.
pub const STORE_WAIT_MS_MAX: u64 = 5_000;
