//! The disks that a migration copies, as its records say.
//!
//! Invariant: the last record holds; what is said of a migration that is not open changes nothing.
//! Not here: how they are copied (`engine::disks`).

use journal_format::number::Lsn;
use journal_format::record::{Draft, MigrationDisks, RecordBody};

use super::{Histories, Migration, State};

impl State {
    pub(super) fn apply_disks(&mut self, lsn: Lsn, disks: &MigrationDisks) {
        let is_restated = self.restating;
        let Some(migration) = self.migration_of(disks.job).filter(|one| one.state.open) else {
            return;
        };
        if !is_restated {
            migration.fact = lsn;
        }
        migration.disks = Some(Box::new(disks.clone()));
        // How far a mirror came no history tells.
        if migration.histories.is_some() {
            migration.histories = Some(Histories::unknown());
        }
    }
}

impl Migration {
    /// The record of a checkpoint that says them again.
    pub(super) fn restated_disks(&self) -> Option<Draft> {
        let disks = self.disks.as_deref().filter(|_| self.state.open)?.clone();
        Some(Draft {
            domain: Some(self.domain),
            body: RecordBody::MigrationDisks(disks),
        })
    }
}
