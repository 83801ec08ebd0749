//! A migration's key in a store with compare-and-swap: what it says, and how it changes.
//! Invariant: a key only goes forward: it is created as committed or aborted, and then only the destination
//! that committed moves it on to started or aborted.
//! Not here: who may change it when (the engine), how a store keeps it.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::vocabulary::Cookie;
use crate::number::{JournalId, MigrationId, Nonce};

/// What the key of a migration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum KeyValue {
    /// The destination may run the guest: it won, and has not told yet whether it started.
    Committed {
        /// The destination's journal.
        journal: JournalId,
        /// Its nonce from prepare.
        nonce: Nonce,
    },
    /// The destination runs the guest, or ran it: the source never again.
    Started,
    /// The destination never runs the guest.
    Aborted,
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyValue::Committed { journal, nonce } => {
                write!(f, "committed by journal {journal} with nonce {nonce}")
            }
            KeyValue::Started => f.write_str("started"),
            KeyValue::Aborted => f.write_str("aborted"),
        }
    }
}

/// A change of a migration's key, in one step and only if the key is as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum KeyChange {
    /// If there is no such key.
    Create(KeyValue),
    /// If it says exactly this.
    Replace {
        /// What it says.
        expected: KeyValue,
        /// What it shall say.
        new: KeyValue,
    },
    /// Whatever it says: both journals are closed.
    Delete,
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyChange::Create(value) => write!(f, "create as {value}"),
            KeyChange::Replace { expected, new } => write!(f, "from {expected} to {new}"),
            KeyChange::Delete => f.write_str("delete"),
        }
    }
}

/// A change of the key in the store is about to be asked for: from now on it may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoreIntended {
    /// The migration, which is the key.
    pub migration: MigrationId,
    /// The change.
    pub change: KeyChange,
    /// Destination, to commit: the licence that it rests on.
    pub cookie: Option<Cookie>,
}

/// The key in the store was read, and something follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoreRead {
    /// The migration, which is the key.
    pub migration: MigrationId,
    /// What it said.
    pub key: KeyValue,
}
