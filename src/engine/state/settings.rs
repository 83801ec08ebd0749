//! What a migration is told, and what there was before, as the records tell it.
//!
//! Invariant: as for the rest of the state: only records change it, and one that fits nothing changes nothing.
//! Not here: what is done with it (`settings`).

use journal_format::record::{
    Draft, EffectCommand, MigrationSettings, PostcopyAfter, Record, RecordBody, SettingsKept,
};

use super::{Migration, State};
use crate::engine::settings::changes_settings;

/// Of an open migration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// What it is told.
    pub(crate) told: Option<MigrationSettings>,
    /// What there was before.
    pub(crate) kept: Option<SettingsKept>,
}

impl Recorded {
    /// An effect of the job is about to be sent: from now on it may have happened.
    pub(super) fn intend(&mut self, command: &EffectCommand) {
        if let Some(kept) = &mut self.kept {
            kept.changed |= changes_settings(command);
        }
    }
}

impl Migration {
    /// When it goes over into post-copy by itself.
    pub(crate) fn postcopy_after(&self) -> Option<PostcopyAfter> {
        self.settings.told.as_ref()?.postcopy_after
    }

    /// Seconds after its begin, after which it is given up if it can be.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.settings.told.as_ref()?.deadline
    }

    /// Its settings as records of a checkpoint.
    pub(super) fn restated_settings(&self) -> impl Iterator<Item = Draft> {
        let told = self.settings.told.clone();
        let kept = self.settings.kept.clone();
        let bodies = [
            told.map(RecordBody::MigrationSettings),
            kept.map(RecordBody::SettingsKept),
        ];
        let domain = Some(self.domain);
        let drafts = bodies.map(|body| body.map(|body| Draft { domain, body }));
        drafts.into_iter().flatten()
    }
}

impl State {
    /// What a record says of settings.
    pub(super) fn apply_settings(&mut self, record: &Record) {
        match &record.body {
            RecordBody::MigrationSettings(told) => {
                if let Some(migration) = self.migration_of(told.job) {
                    migration.settings.told = Some(told.clone());
                }
            }
            RecordBody::SettingsKept(kept) => {
                if let Some(migration) = self.migration_of(kept.job) {
                    migration.settings.kept = Some(kept.clone());
                }
            }
            _ => {}
        }
    }
}
