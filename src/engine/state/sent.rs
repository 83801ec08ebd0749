//! Guests that their QEMU was told to send, as the records tell them: may one that shows *postmigrate* and
//! *completed* be continued?
//!
//! Invariant: what a guest did elsewhere since is nowhere in this journal, so only a record says that it is here:
//! that its stream went to a file, or that a migration gave it back. Nothing on record is no such word: a journal put
//! back from an older copy lacks the record of the stream that QEMU sent.
//! Not here: what QEMU shows (`monitor::gave_away`), what a command may do (`monitor`, `job::legal`).

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{
    Draft, EffectCommand, EffectResult, GuestSent, JobKind, JobPhase, JobResult, Observed, Phase,
    Record, RecordBody, RunState, WantedReason, WantedRunState,
};

use super::{Domain, Job, State, kind_of};
use crate::engine::decide::{StatusClass, status_class};
use crate::engine::job::driven::goes_to_a_file;

impl State {
    /// Before the record changes the jobs and effects that it speaks of.
    pub(super) fn apply_sent(&mut self, record: &Record) {
        let Some(id) = record.domain else { return };
        let sent = match &record.body {
            RecordBody::GuestSent(sent) => Some(*sent),
            RecordBody::EffectIntended(intended) => {
                let Some(sent) = self.where_to(intended.job, &intended.command) else {
                    return;
                };
                Some(sent)
            }
            RecordBody::EffectFinished(finished) => {
                let Some(sent) = self.after(id, finished.effect, &finished.result) else {
                    return;
                };
                sent
            }
            // Seen running: it does not stand where its last stream left it.
            RecordBody::WantedChanged(changed)
                if (changed.wanted, changed.why)
                    == (WantedRunState::Running, WantedReason::Seen) =>
            {
                None
            }
            // It went on by itself, or was continued: an older copy of this journal must not say that it stands here, of a
            // stream that came later.
            RecordBody::QemuObserved(seen) if runs_on(&seen.observed) => None,
            RecordBody::JobEnded(ended) if self.is_given_back(ended.job, ended.result) => {
                let domain = self.domains.get(&id);
                // It may have been continued in the job.
                domain.and_then(|domain| domain.sent).map(|_| HERE)
            }
            _ => return,
        };
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.sent = sent;
        }
    }

    /// Where what is about to be told to QEMU sends the guest. `None`: nowhere, or that is not known before QEMU took it.
    fn where_to(&self, job: Option<Lsn>, command: &EffectCommand) -> Option<GuestSent> {
        let kind = || Some(self.jobs.get(&job?)?.state.kind);
        match command {
            EffectCommand::Migrate { .. } => Some(AWAY),
            EffectCommand::Monitor {
                execute, arguments, ..
            } if execute == "migrate" => match kind() {
                Some(JobKind::MigrationOut) => Some(AWAY),
                Some(JobKind::Save | JobKind::Dump | JobKind::Snapshot) => Some(HERE),
                _ => None,
            },
            _ => None,
        }
    }

    /// What holds after an effect. `None`: what held before.
    fn after(&self, id: DomainId, effect: Lsn, result: &EffectResult) -> Option<Option<GuestSent>> {
        let (is_owners, command) = self.in_flight(id, effect)?;
        let is_named = |name: &str| matches!(command, EffectCommand::Monitor { execute, .. } if execute == name);
        let was_taken = match result {
            EffectResult::Done => true,
            // Then it sent the guest, or did not continue it: the worse is believed.
            EffectResult::Unknown { .. } => is_named("migrate"),
            EffectResult::Refused { .. } | EffectResult::NotSent { .. } => false,
        };
        if was_taken && (*command == EffectCommand::Cont || is_named("cont")) {
            return Some(None);
        }
        // An owner's own command: QEMU does not take every one.
        match command {
            EffectCommand::Monitor {
                execute, arguments, ..
            } if execute == "migrate" && is_owners && was_taken => {
                match (goes_to_a_file(arguments), *result == EffectResult::Done) {
                    (true, true) => Some(Some(HERE)),
                    // It may not have been taken: then what was sent before may still be elsewhere.
                    (true, false) => None,
                    (false, _) => Some(Some(AWAY)),
                }
            }
            _ => None,
        }
    }

    /// Is it its owner's, outside any job, and what?
    fn in_flight(&self, id: DomainId, effect: Lsn) -> Option<(bool, &EffectCommand)> {
        let domain = self.domains.get(&id)?;
        let migration = domain.migration.and_then(|open| self.migrations.get(&open));
        let owners = core::iter::once((true, &domain.owner_effect));
        let jobs = self.jobs_of(id).map(|job| &job.state.in_flight);
        let of_jobs = migration.map(|migration| &migration.state.in_flight);
        owners
            .chain(of_jobs.into_iter().chain(jobs).map(|one| (false, one)))
            .find_map(|(is_owners, one)| match one {
                Some((intent, command)) if *intent == effect => Some((is_owners, command)),
                _ => None,
            })
    }

    /// Did a job send everything, and got the guest back, because the destination never runs it or because no
    /// licence ever went out? A paused guest then stands here as QEMU left it.
    fn is_given_back(&self, job: Lsn, result: JobResult) -> bool {
        if let Some(Job { state, .. }) = self.jobs.get(&job) {
            // One that its manager drove has no licences: it was said, or cancelled before everything was sent.
            let is_said = state.phase == JobPhase::Confirm3Cancelled;
            return state.kind == JobKind::MigrationOut
                && (is_said || result == JobResult::Cancelled);
        }
        let migration = self
            .by_job
            .get(&job)
            .and_then(|name| self.migrations.get(name));
        migration.is_some_and(|migration| {
            let state = &migration.state;
            let is_failed = match result {
                JobResult::Failed | JobResult::Cancelled => true,
                JobResult::Completed | JobResult::Crashed => false,
            };
            let is_unlicensed = matches!(state.phase, Phase::Perform2 | Phase::Perform3);
            kind_of(state.terms.role) == JobKind::MigrationOut
                && (state.phase == Phase::Confirm3Cancelled || is_unlicensed && is_failed)
        })
    }
}

/// Does its guest run, with no stream under way?
fn runs_on(observed: &Observed) -> bool {
    let is_over = match status_class(observed.migration.as_ref()) {
        StatusClass::Ended | StatusClass::Completed => true,
        StatusClass::None
        | StatusClass::Performing
        | StatusClass::PreSwitchover
        | StatusClass::Device
        | StatusClass::Cancelling
        | StatusClass::Postcopy
        | StatusClass::PostcopyBroken
        | StatusClass::Unknown => false,
    };
    is_over && observed.run_state == Some(RunState::Running)
}

const HERE: GuestSent = GuestSent { is_here: true };
const AWAY: GuestSent = GuestSent { is_here: false };

impl Domain {
    /// The record of a checkpoint that says it again.
    pub(super) fn restated_sent(&self, id: DomainId) -> Option<Draft> {
        Some(Draft {
            domain: Some(id),
            body: RecordBody::GuestSent(self.sent?),
        })
    }
}
