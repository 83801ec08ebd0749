//! A test switch: where the process is to kill itself.
//!
//! Invariant: off unless asked for on the command line.
//! Not here: when batches are written (`node`).

use std::collections::BTreeSet;

use journal_format::number::Lsn;
use journal_format::record::{Draft, RecordBody};

/// Test switch: where the process is to kill itself, as SIGKILL from outside would, but at a known
/// batch. Off unless asked for on the command line; then each batch costs a look at its records.
///
/// Only batches that concern a migration's job count: begin and end of the job, its phases,
/// effects and their results, observations, the peer's answers, decisions.
#[derive(Clone, Debug, Default)]
pub struct CrashSwitch {
    /// After the batch of this number (from 1) is durable, before anything of it leaves.
    after_batch: Option<u64>,
    /// Before the batch of this number (from 1) is written; all of the one before has left the node.
    before_batch: Option<u64>,
    /// After the first batch that holds a record of this type, by its name.
    after_record: Option<String>,
    /// Before the first such batch.
    before_record: Option<String>,
    /// Batches counted so far.
    pub(super) batches: u64,
    /// Effects outside of any job, whose results do not count either.
    jobless: BTreeSet<Lsn>,
}

/// What the switch wants of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    No,
    Before,
    After,
}

impl CrashSwitch {
    /// A switch for these points; off if there are none.
    #[must_use]
    pub fn new(
        after_batch: Option<u64>,
        before_batch: Option<u64>,
        after_record: Option<String>,
        before_record: Option<String>,
    ) -> CrashSwitch {
        CrashSwitch {
            after_batch,
            before_batch,
            after_record,
            before_record,
            ..CrashSwitch::default()
        }
    }

    /// Looks at a batch whose first record gets the LSN `first`.
    pub(super) fn look(&mut self, first: Lsn, batch: &[Draft]) -> Crash {
        let is_off = self.after_batch.is_none()
            && self.before_batch.is_none()
            && self.after_record.is_none()
            && self.before_record.is_none();
        if is_off {
            return Crash::No;
        }
        let mut counts = false;
        for (draft, index) in batch.iter().zip(0u64..) {
            if let RecordBody::EffectIntended(intended) = &draft.body
                && intended.job.is_none()
            {
                self.jobless.extend(first.plus(index));
            }
            counts |= self.concerns_a_migration(&draft.body);
        }
        if !counts {
            return Crash::No;
        }
        self.batches += 1;
        let holds = |name: &Option<String>| {
            name.as_ref()
                .is_some_and(|name| batch.iter().any(|draft| draft.body.type_name() == name))
        };
        if holds(&self.before_record) || self.before_batch == Some(self.batches) {
            Crash::Before
        } else if holds(&self.after_record) || self.after_batch == Some(self.batches) {
            Crash::After
        } else {
            Crash::No
        }
    }

    fn concerns_a_migration(&self, body: &RecordBody) -> bool {
        match body {
            RecordBody::CheckpointBegun(_)
            | RecordBody::CheckpointEnded(_)
            | RecordBody::DomainAdded(_)
            | RecordBody::DomainState(_)
            | RecordBody::DomainRemoved
            | RecordBody::DefinitionPart(_)
            | RecordBody::WantedChanged(_)
            | RecordBody::MigrationState(_)
            | RecordBody::MigrationHistories(_)
            | RecordBody::Sealed => false,
            RecordBody::JobBegun(begun) => begun.migration.is_some(),
            RecordBody::EffectIntended(intended) => intended.job.is_some(),
            RecordBody::EffectFinished(finished) => !self.jobless.contains(&finished.effect),
            RecordBody::QemuObserved(observed) => observed.job.is_some(),
            RecordBody::PhaseEntered(_)
            | RecordBody::PeerHeard(_)
            | RecordBody::PeerPrepared(_)
            | RecordBody::MigrationGranted(_)
            | RecordBody::MigrationAbandoned(_)
            | RecordBody::MigrationCommitted(_)
            | RecordBody::MigrationStarted(_)
            | RecordBody::MigrationAborted(_)
            | RecordBody::OutcomeLearned(_)
            | RecordBody::StoreIntended(_)
            | RecordBody::StoreRead(_)
            | RecordBody::VerdictGiven(_)
            | RecordBody::Decided(_)
            | RecordBody::OperatorResolved(_)
            | RecordBody::JobEnded(_)
            | RecordBody::MigrationForgotten(_) => true,
        }
    }
}

/// Ends this process at once, as if killed from outside.
pub(super) fn die() -> ! {
    let process = rustix::process::getpid();
    loop {
        // Fails only for a signal or pid that does not exist; then it is tried again rather than
        // letting anything out.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
}
