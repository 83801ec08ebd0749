//! How far the running migrations got: written by the monitors, read for `query-jobs`.
//!
//! Invariant: only what a QEMU said while its migration moved; nothing is decided by what stands here.
//! Not here: reading it from QEMU (`monitor`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal_format::number::DomainId;

use super::observe::Progress;

/// Progress by domain, shared by the tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProgressBoard(Arc<Mutex<HashMap<DomainId, Progress>>>);

impl ProgressBoard {
    /// Nothing panics while it holds this lock, so what it guards is whole in any case.
    fn entries(&self) -> MutexGuard<'_, HashMap<DomainId, Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest progress of a domain's migration.
    pub(crate) fn set(&self, domain: DomainId, progress: Progress) {
        self.entries().insert(domain, progress);
    }

    /// Nothing moves there.
    pub(crate) fn clear(&self, domain: DomainId) {
        self.entries().remove(&domain);
    }

    /// How far this domain's migration got, if one moves.
    pub(crate) fn get(&self, domain: DomainId) -> Option<Progress> {
        self.entries().get(&domain).cloned()
    }
}
