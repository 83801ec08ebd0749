//! What two sidecars say to each other of a migration that neither of them drives.
//!
//! Invariant: a question; nothing is changed at who is asked.
//! Not here: what follows from an answer (`job::driven::pair`).

use journal_format::number::{DomainId, Lsn};
use journal_format::record::PeerAnswer;
use serde::{Deserialize, Serialize};

use super::{Envelope, PeerFailure};

/// Source of a recognised migration, to each sidecar that was configured: does this guest come to you?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Find {
    /// The guest.
    pub domain: DomainId,
    /// How does this job of yours stand? Without it: which open one is it, if there is one?
    pub job: Option<Lsn>,
}

/// The answer to [`Find`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Found {
    /// The guest, as it was asked about.
    pub domain: DomainId,
    /// The job; none if this guest does not come here.
    pub job: Option<Lsn>,
    /// How it stands, after a fresh look: not-whole (it waits for the stream), whole, deciding (its `cont` may have happened), started,
    /// aborted (whole, and ended by its manager before it ran); no-such-migration; amnesia.
    pub stands: PeerAnswer,
}

/// What one of the configured sidecars said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAt {
    /// Its peer socket.
    pub peer: String,
    /// The answer, or why there is none.
    pub result: Result<(Envelope, Found), PeerFailure>,
}
