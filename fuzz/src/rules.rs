//! What must hold of every step of an engine, whatever it is told.
//!
//! The numbers are those of the promises in ARCHITECTURE.md: P1 write-ahead, P2 never two.

use std::collections::{BTreeMap, BTreeSet};

use journal_format::number::{Lsn, MigrationId, Nonce};
use journal_format::record::{
    Effect, EffectCommand, EffectIntended, Outcome, Protocol, Record, RecordBody, Role,
};

/// The facts of one migration, as far as they license effects.
#[derive(Debug, Default)]
struct Known {
    role: Option<Role>,
    /// The source decides, and gives the licence when its copy is gone.
    is_v2: bool,
    /// The destination's own, to be shown in a licence.
    nonce: Option<Nonce>,
    granted: bool,
    abandoned: bool,
    committed: bool,
    started: bool,
    aborted: bool,
    outcome: Option<Outcome>,
    /// Records that said so may be damaged: the same fact may be written again, no other one.
    damaged: bool,
}

/// Reads the records as they are written, and judges the effects that follow.
#[derive(Debug, Default)]
pub struct Judge {
    migrations: BTreeMap<MigrationId, Known>,
    jobs: BTreeMap<Lsn, MigrationId>,
    /// Jobs that an operator had a word in: nothing is promised against a statement of facts.
    resolved: BTreeSet<Lsn>,
    intents: BTreeMap<Lsn, EffectIntended>,
}

impl Judge {
    /// What was written so far may be read no more.
    pub fn damage(&mut self) {
        for known in self.migrations.values_mut() {
            known.damaged = true;
        }
    }

    /// A record became durable.
    ///
    /// # Panics
    /// When it contradicts an earlier one.
    pub fn record(&mut self, record: &Record) {
        match &record.body {
            RecordBody::JobBegun(begun) => {
                if let Some(terms) = &begun.migration {
                    self.jobs.insert(record.lsn, terms.migration);
                    let known = Known {
                        role: Some(terms.role),
                        is_v2: terms.protocol == Protocol::V2,
                        nonce: terms.nonce,
                        ..Known::default()
                    };
                    // A number that comes back after the old one was forgotten is another migration.
                    self.migrations.insert(terms.migration, known);
                }
            }
            RecordBody::OperatorResolved(resolved) => {
                self.resolved.insert(resolved.job);
            }
            RecordBody::EffectIntended(intended) => {
                self.intents.insert(record.lsn, intended.clone());
                self.intended(intended);
            }
            RecordBody::MigrationGranted(granted) => {
                let known = self.known(granted.cookie.migration, Role::Source);
                assert!(!known.is_v2, "v2 grants nothing before it decided");
                assert!(!known.granted || known.damaged, "granted twice");
                assert!(!known.abandoned, "granted after it was abandoned");
                known.granted = true;
            }
            RecordBody::MigrationAbandoned(abandoned) => {
                let known = self.known(abandoned.migration, Role::Source);
                assert!(
                    !known.granted && !known.committed,
                    "abandoned after it was granted"
                );
                known.abandoned = true;
            }
            RecordBody::OutcomeLearned(learned) => {
                let has_word = self.has_word(learned.migration);
                let known = self.known(learned.migration, Role::Source);
                // An operator may say how it ended whenever it is held.
                let by_operator = learned.position.is_none();
                // What damage took may have been the licence: that the other side started proves that there was one.
                let was_lost = known.damaged && learned.outcome == Outcome::Committed;
                assert!(
                    known.granted || by_operator || was_lost,
                    "an outcome of what was never granted"
                );
                let is_same = known.damaged && known.outcome == Some(learned.outcome);
                // Against the evidence too, with force; that it was said once is enough.
                let is_otherwise = known.outcome != Some(learned.outcome);
                let is_overruled = by_operator && has_word && is_otherwise;
                assert!(
                    known.outcome.is_none() || is_same || is_overruled,
                    "two outcomes"
                );
                known.outcome = Some(learned.outcome);
            }
            RecordBody::MigrationCommitted(committed) => {
                let known = self.migrations.entry(committed.migration).or_default();
                let is_first = !known.committed || known.damaged;
                // It runs, whoever continued it; that it was given up is not known any more.
                let is_found = known.damaged && committed.cookie.is_none();
                if is_found && known.role == Some(Role::Destination) {
                    known.aborted = false;
                }
                assert!(is_first && !known.aborted, "{known:?}: committed");
                if known.role == Some(Role::Source) {
                    assert!(known.is_v2 && !known.abandoned, "{known:?}: committed");
                    known.committed = true;
                    return;
                }
                if let Some(cookie) = &committed.cookie {
                    assert_eq!(cookie.migration, committed.migration, "another's licence");
                    assert_eq!(Some(cookie.nonce), known.nonce, "a forged licence");
                }
                known.committed = true;
            }
            RecordBody::MigrationStarted(named) => {
                let known = self.known(named.migration, Role::Destination);
                assert!(known.committed && !known.aborted, "{known:?}: started");
                known.started = true;
            }
            RecordBody::MigrationAborted(named) => {
                let has_word = self.has_word(named.migration);
                let known = self.known(named.migration, Role::Destination);
                let is_first = !known.aborted || known.damaged;
                assert!(is_first && !known.started, "{known:?}: aborted");
                let goes_back = known.is_v2 && known.committed && !has_word;
                assert!(!goes_back, "{known:?}: v2 goes back");
                known.aborted = true;
            }
            _ => {}
        }
    }

    /// Had an operator a word in it?
    fn has_word(&self, migration: MigrationId) -> bool {
        let mut jobs = self.jobs.iter();
        jobs.any(|(job, id)| *id == migration && self.resolved.contains(job))
    }

    fn known(&mut self, migration: MigrationId, role: Role) -> &mut Known {
        let known = self.migrations.entry(migration).or_default();
        assert_eq!(known.role, Some(role), "a fact of the other side");
        known
    }

    /// P2: what may be intended with these facts.
    fn intended(&self, intended: &EffectIntended) {
        let Some(job) = intended.job else { return };
        if self.resolved.contains(&job) {
            return;
        }
        let Some(known) = self.jobs.get(&job).and_then(|id| self.migrations.get(id)) else {
            return;
        };
        let is_given_away = known.granted || known.is_v2 && known.committed;
        let runs_on = !is_given_away || known.outcome == Some(Outcome::Aborted);
        let allowed = match (known.role, &intended.command) {
            (Some(Role::Source), EffectCommand::Cont) => runs_on,
            (Some(Role::Source), EffectCommand::Kill) => {
                known.outcome == Some(Outcome::Committed) || known.is_v2 && known.committed
            }
            (
                Some(Role::Source),
                EffectCommand::Migrate { .. } | EffectCommand::MigrateContinue,
            ) => !is_given_away && !known.abandoned,
            (Some(Role::Destination), EffectCommand::Cont) => known.committed && !known.aborted,
            (Some(Role::Destination), EffectCommand::Kill) => known.aborted,
            _ => true,
        };
        assert!(allowed, "{intended:?} with {known:?}");
    }

    /// P1: an effect goes out once, with the durable intent of just that.
    ///
    /// # Panics
    /// When it does not.
    pub fn effect(&mut self, effect: &Effect) {
        let intended = self.intents.remove(&effect.intent);
        let intended = intended.expect("an effect without its intent");
        assert_eq!(intended.command, effect.command);
        assert_eq!(intended.instance, effect.instance);
    }
}
