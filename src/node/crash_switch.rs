//! A test switch: where the process is to kill itself, or another one.
//!
//! Invariant: off unless asked for on the command line; strikes once. Another process is killed through a
//! pidfd that was opened when the switch was made.
//! Not here: when batches are written (`node`).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use journal_format::number::Lsn;
use journal_format::record::{Draft, EffectCommand, EffectIntended, RecordBody};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// Test switch: where the process is to kill itself, as SIGKILL from outside would, but at a known
/// batch; or to kill a QEMU, and go on. Off unless asked for on the command line; then each batch costs
/// a look at its records.
///
/// Only batches that concern a migration's job, or a command of a monitor's client, count: begin and end of the job, its phases,
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
    /// Who dies there in place of this process.
    victim: Option<Arc<OwnedFd>>,
    /// It was done.
    has_struck: bool,
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

    /// The same, with another process that dies in place of this one.
    ///
    /// # Errors
    /// There is no such process, or it is process 1 or this one.
    pub fn killing(self, pid: u32) -> io::Result<CrashSwitch> {
        let foreign = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let foreign = foreign.filter(|pid| *pid != Pid::INIT && *pid != getpid());
        let no_process = || io::Error::from(rustix::io::Errno::SRCH);
        let pidfd = pidfd_open(foreign.ok_or_else(no_process)?, PidfdFlags::empty())?;
        Ok(CrashSwitch {
            victim: Some(Arc::new(pidfd)),
            ..self
        })
    }

    /// Looks at a batch whose first record gets the LSN `first`.
    pub(super) fn look(&mut self, first: Lsn, batch: &[Draft]) -> Crash {
        let is_off = self.after_batch.is_none()
            && self.before_batch.is_none()
            && self.after_record.is_none()
            && self.before_record.is_none();
        if is_off || self.has_struck {
            return Crash::No;
        }
        let mut counts = false;
        for (draft, index) in batch.iter().zip(0u64..) {
            if let RecordBody::EffectIntended(intended) = &draft.body
                && !is_counted(intended)
            {
                self.jobless.extend(first.plus(index));
            }
            counts |= self.concerns_a_job(&draft.body);
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

    /// The crash point: this process ends here, or it goes on when the other one is gone.
    pub(super) fn strike(&mut self) {
        self.has_struck = true;
        match &self.victim {
            None => die(),
            Some(victim) => end(victim),
        }
        tracing::warn!(
            batch = self.batches,
            "crash point: the other process was killed"
        );
    }

    fn concerns_a_job(&self, body: &RecordBody) -> bool {
        match body {
            RecordBody::CheckpointBegun(_)
            | RecordBody::CheckpointEnded(_)
            | RecordBody::DomainAdded(_)
            | RecordBody::DomainState(_)
            | RecordBody::GuestSent(_)
            | RecordBody::DomainRemoved
            | RecordBody::DefinitionPart(_)
            | RecordBody::WantedChanged(_)
            | RecordBody::MigrationState(_)
            | RecordBody::MigrationHistories(_)
            | RecordBody::MigrationDisks(_)
            | RecordBody::JobState(_)
            // In one batch with the begin of their job, or restated.
            | RecordBody::MigrationSettings(_)
            | RecordBody::SettingsKept(_)
            | RecordBody::Sealed => false,
            RecordBody::EffectIntended(intended) => is_counted(intended),
            RecordBody::EffectFinished(finished) => !self.jobless.contains(&finished.effect),
            RecordBody::QemuObserved(observed) => observed.job.is_some(),
            RecordBody::JobBegun(_)
            | RecordBody::PhaseEntered(_)
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
            | RecordBody::JobPhaseEntered(_)
            | RecordBody::JobDecided(_)
            | RecordBody::OperatorResolved(_)
            | RecordBody::JobEnded(_)
            | RecordBody::MigrationForgotten(_) => true,
        }
    }
}

/// Is it an effect of a job, or one that a client of a monitor sent?
fn is_counted(intended: &EffectIntended) -> bool {
    intended.job.is_some() || matches!(intended.command, EffectCommand::Monitor { .. })
}

/// Ends this process at once, as if killed from outside.
fn die() -> ! {
    let process = rustix::process::getpid();
    loop {
        // Fails only for a signal or pid that does not exist; then it is tried again rather than
        // letting anything out.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
}

/// Ends another process, and waits until it is gone. One that is gone already is no error: that is
/// what was wanted.
fn end(victim: &OwnedFd) {
    let _ = pidfd_send_signal(victim, Signal::KILL);
    let mut fds = [PollFd::new(victim, PollFlags::IN)];
    while matches!(poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
}
