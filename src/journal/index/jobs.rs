//! Which job a record belongs to.
//! Invariant: a record without a job of its own gets the one of its migration or effect, as far as the
//! index or the batch names it; else it belongs to none.
//! Not here: what a job is (the engine).

use journal_format::number::{Lsn, MigrationId};
use journal_format::record::{PeerHeard, RecordBody};

use super::IndexError;
use super::keys::{decode_job, effect_key, migration_key};
use super::store::Store;

/// Finds the jobs of a batch's records, some of which are named only in the batch itself.
pub(super) struct JobsOfBatch<'a> {
    pub(super) store: &'a Store,
    /// The keys of migrations and effects that the batch tells of, and their jobs.
    pub(super) new: Vec<(Vec<u8>, Lsn)>,
}

impl JobsOfBatch<'_> {
    /// The job that a record belongs to.
    pub(super) fn job(&mut self, lsn: Lsn, body: &RecordBody) -> Result<Option<Lsn>, IndexError> {
        Ok(match body {
            RecordBody::JobBegun(begun) => {
                if let Some(terms) = &begun.migration {
                    self.new.push((migration_key(terms.migration), lsn));
                }
                Some(lsn)
            }
            RecordBody::MigrationState(state) => {
                self.new
                    .push((migration_key(state.terms.migration), state.job));
                Some(state.job)
            }
            RecordBody::MigrationHistories(restated) => Some(restated.job),
            RecordBody::EffectIntended(intended) => {
                if let Some(job) = intended.job {
                    self.new.push((effect_key(lsn), job));
                }
                intended.job
            }
            RecordBody::EffectFinished(finished) => self.known(&effect_key(finished.effect))?,
            RecordBody::PhaseEntered(entered) => Some(entered.job),
            RecordBody::QemuObserved(observed) => observed.job,
            RecordBody::Decided(decided) => Some(decided.job),
            RecordBody::JobEnded(ended) => Some(ended.job),
            RecordBody::OperatorResolved(resolved) => Some(resolved.job),
            RecordBody::PeerHeard(PeerHeard { migration, .. }) => self.of_migration(*migration)?,
            RecordBody::PeerPrepared(prepared) => self.of_migration(prepared.migration)?,
            RecordBody::MigrationGranted(granted) => self.of_migration(granted.cookie.migration)?,
            RecordBody::MigrationAbandoned(abandoned) => self.of_migration(abandoned.migration)?,
            RecordBody::MigrationCommitted(committed) => self.of_migration(committed.migration)?,
            RecordBody::MigrationStarted(named)
            | RecordBody::MigrationAborted(named)
            | RecordBody::MigrationForgotten(named) => self.of_migration(named.migration)?,
            RecordBody::OutcomeLearned(learned) => self.of_migration(learned.migration)?,
            RecordBody::StoreIntended(intended) => self.of_migration(intended.migration)?,
            RecordBody::StoreRead(read) => self.of_migration(read.migration)?,
            RecordBody::VerdictGiven(given) => self.of_migration(given.migration)?,
            RecordBody::CheckpointBegun(_)
            | RecordBody::CheckpointEnded(_)
            | RecordBody::DomainAdded(_)
            | RecordBody::DomainState(_)
            | RecordBody::DomainRemoved
            | RecordBody::DefinitionPart(_)
            | RecordBody::WantedChanged(_)
            | RecordBody::Sealed => None,
        })
    }

    fn of_migration(&self, migration: MigrationId) -> Result<Option<Lsn>, IndexError> {
        self.known(&migration_key(migration))
    }

    fn known(&self, key: &[u8]) -> Result<Option<Lsn>, IndexError> {
        if let Some((_, job)) = self.new.iter().rev().find(|(new, _)| new == key) {
            return Ok(Some(*job));
        }
        let value = self.store.read(|db| db.get(key))?;
        Ok(value.and_then(|value| decode_job(&value)))
    }
}
