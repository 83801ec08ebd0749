//! How the rules of jobs that are no migrations are carried out.
//!
//! Invariant: the guest is brought to its wanted run state, and what was set up for a job without success is taken
//! back, before the job ends.
//! Not here: which rule holds (`decide`).

use journal_format::number::Lsn;
use journal_format::record::{
    EffectCommand, EffectStanding, JobEvidence, JobKind, JobPhase, JobResult, Process, QemuJobSeen,
    QemuJobStatus, WantedRunState,
};
use serde_json::json;

use super::decide::{QemuJobClass, is_sent_past, qemu_job_class};
use super::driven;
use super::meaning::monitor;
use crate::engine::decide::{RunClass, StatusClass, run_class, status_class};
use crate::engine::turn::Turn;
use crate::engine::{Refusal, Rule};

/// What brings a guest back to its wanted run state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WayBack {
    /// It is there.
    There,
    /// This does it, or a part of it.
    By(EffectCommand),
    /// QEMU is on its way to a state that there is a way back from.
    Wait,
}

pub(super) fn way_back(evidence: &JobEvidence) -> WayBack {
    // Whoever said that the guest stays here meant any stream that it is on.
    let is_ours = evidence.facts.stream != EffectStanding::Never
        || evidence.phase == JobPhase::Confirm3Cancelled;
    match (
        status_class(evidence.observed.migration.as_ref()),
        run_class(evidence.observed.run_state.as_ref()),
    ) {
        (StatusClass::Performing | StatusClass::PreSwitchover | StatusClass::Device, _)
            if is_ours =>
        {
            WayBack::By(EffectCommand::MigrateCancel)
        }
        (StatusClass::Cancelling, _)
        | (_, RunClass::FinishMigrate | RunClass::Inmigrate | RunClass::Unknown) => WayBack::Wait,
        // A guest that stopped for a reason of its own stays so.
        (_, RunClass::Ran) => WayBack::There,
        (_, RunClass::Running) => match evidence.wanted {
            WantedRunState::Running => WayBack::There,
            WantedRunState::Paused => WayBack::By(EffectCommand::Stop),
        },
        (_, RunClass::Paused | RunClass::Postmigrate) => match evidence.wanted {
            WantedRunState::Running => WayBack::By(EffectCommand::Cont),
            WantedRunState::Paused => WayBack::There,
        },
    }
}

/// Asked to end, or it just did not come to what it was for.
pub(super) fn without_success(evidence: &JobEvidence) -> JobResult {
    match evidence.phase {
        JobPhase::Cancel => JobResult::Cancelled,
        JobPhase::Begin
        | JobPhase::Prepare
        | JobPhase::Perform
        | JobPhase::Finish
        | JobPhase::Begin3
        | JobPhase::Perform3
        | JobPhase::Perform3Done
        | JobPhase::Confirm3
        | JobPhase::Confirm3Cancelled
        | JobPhase::Finish3 => JobResult::Failed,
    }
}

impl Turn<'_> {
    /// Carries a rule out; `last` is the rule that was recorded before it.
    pub(super) fn carry_out_job(
        &mut self,
        job: Lsn,
        rule: Rule,
        evidence: &JobEvidence,
        last: Option<&str>,
    ) {
        let undone = without_success(evidence);
        match rule {
            Rule::JobDead => self.end_job(job, JobResult::Crashed, "QEMU ended in the job"),
            Rule::SaveEnded => {
                self.end_job(job, JobResult::Completed, "saved, and this QEMU ended");
            }
            Rule::StartEnded => self.end_job(
                job,
                undone,
                "the guest never ran here, and this QEMU was ended: its image is as it was",
            ),
            Rule::DestroyDone => self.end_job(job, JobResult::Completed, "this QEMU ended"),
            Rule::SaveActive => self.give_stream_up(job, evidence),
            Rule::SaveUndone => {
                self.give_up(job, evidence, undone, "not saved: the image is incomplete");
            }
            Rule::SaveCompleted => self.give_up(
                job,
                evidence,
                undone,
                "the guest goes on: the image is invalid, and must not be restored",
            ),
            Rule::SaveEnding | Rule::StartUndone | Rule::DestroyAlive => {
                self.intend_job_again(job, EffectCommand::Kill);
            }
            Rule::DumpActive | Rule::SnapshotActive => self.give_stream_up(job, evidence),
            Rule::DumpTaken => self.come_back(job, evidence, JobResult::Completed, "dumped"),
            Rule::DumpUndone => self.give_up(
                job,
                evidence,
                undone,
                "it is not proven that the dump is whole",
            ),
            Rule::SnapshotTaken => {
                if !self.dismiss(job, evidence) {
                    self.come_back(
                        job,
                        evidence,
                        JobResult::Completed,
                        "the snapshot was taken",
                    );
                }
            }
            Rule::SnapshotUndone => {
                if !self.dismiss(job, evidence) {
                    let detail = "not all of the snapshot was taken";
                    self.give_up(job, evidence, undone, detail);
                }
            }
            Rule::BackupActive => {}
            Rule::BackupPending => self.finalize(job, evidence),
            Rule::BackupEnded | Rule::BackupFailed => {
                self.dismiss(job, evidence);
            }
            Rule::BackupCancelled => self.cancel_qemu_jobs(job, evidence),
            Rule::BackupUndone => {
                let detail = match last == Some(Rule::BackupFailed.name()) {
                    true => "not all of its block jobs succeeded",
                    false => "no block job began",
                };
                self.give_up(job, evidence, undone, detail);
            }
            Rule::JobSettled => self.settle_job(job, evidence, last),
            Rule::StartRunning => {
                self.learn_wanted_of(job, evidence);
                self.end_job(job, JobResult::Completed, "the guest was started");
            }
            Rule::StartUnknown => self.intend_job_again(job, EffectCommand::Cont),
            Rule::OrdinaryReconciled => {
                self.learn_wanted_of(job, evidence);
                self.end_job(
                    job,
                    undone,
                    "closed as QEMU shows it: effects without an answer may have happened",
                );
            }
            Rule::DrivenPostcopy
            | Rule::DrivenSourceUndone
            | Rule::DrivenSourceGiveUp
            | Rule::DrivenSourceCompleted
            | Rule::DrivenSourceCont
            | Rule::DrivenSourceAborted
            | Rule::DrivenSourceConfirm
            | Rule::DrivenSourceUnproven
            | Rule::DrivenSourceQuit
            | Rule::DrivenSourceEnded
            | Rule::DrivenDestinationWaiting
            | Rule::DrivenDestinationFailed
            | Rule::DrivenDestinationWhole
            | Rule::DrivenDestinationCommitted
            | Rule::DrivenDestinationRunning
            | Rule::DrivenDestinationAborted
            | Rule::DrivenDestinationEnded
            | Rule::DrivenSourceTakenUp
            | Rule::DrivenOver
            | Rule::DrivenSourceStartedThere => {
                self.carry_out_driven(job, rule, evidence);
            }
            // Held: nothing is done until something else is seen.
            Rule::OtherInstance
            | Rule::ClaimedByAnother
            | Rule::JournalOlderThanQemu
            | Rule::JournalDamaged
            | Rule::QemuMute
            | Rule::NoRuleForThis => {}
            // An operator's word is carried out where it is given; the others are a migration's.
            Rule::OperatorResolved
            | Rule::SourceBeginUndone
            | Rule::SourceBeginDead
            | Rule::SourcePerformGiveUp
            | Rule::SourcePerformRunning
            | Rule::SourcePerformCompleted
            | Rule::SourcePerformPostcopy
            | Rule::SourcePerformDeadWatched
            | Rule::SourcePerformDeadUnwatched
            | Rule::SourcePerformDeadAsking
            | Rule::SourcePerformDeadNotWhole
            | Rule::SourcePerform2Completed
            | Rule::SourcePerform2Whole
            | Rule::SourcePerform2Gone
            | Rule::SourcePerform2Amnesia
            | Rule::SourceCommitted
            | Rule::SourceCommittedDead
            | Rule::SourceAbandoned
            | Rule::SourceAbandonedStarted
            | Rule::SourceAbandonedDead
            | Rule::SourceGrantedStarted
            | Rule::SourceGrantedStartedUnproven
            | Rule::SourceGrantedAborted
            | Rule::SourceGrantedInDoubt
            | Rule::SourceGrantedAmnesia
            | Rule::SourceGrantedRunning
            | Rule::SourceGrantedRunningStarted
            | Rule::SourceGrantedOther
            | Rule::SourceGrantedDead
            | Rule::SourceGrantedDeadSettled
            | Rule::SourcePostcopyBroken
            | Rule::SourcePostcopyWhole
            | Rule::SourcePostcopyLost
            | Rule::SourcePostcopyEnding
            | Rule::SourceConfirm
            | Rule::SourceConfirmDead
            | Rule::SourceCancelled
            | Rule::SourceCancelledDead
            | Rule::DestinationPrepareDead
            | Rule::DestinationPrepareRunning
            | Rule::DestinationPrepareFailed
            | Rule::DestinationPrepareAbandoned
            | Rule::DestinationPrepareFinish
            | Rule::DestinationPrepareWaiting
            | Rule::DestinationPrepareAlone
            | Rule::DestinationPrepareAmnesia
            | Rule::DestinationPrepareLost
            | Rule::DestinationFinishRetry
            | Rule::DestinationFinishRefused
            | Rule::DestinationFinishRefusedSafe
            | Rule::DestinationFinishRunning
            | Rule::DestinationFinishDead
            | Rule::DestinationFinishDeadUnsent
            | Rule::DestinationStarted
            | Rule::DestinationStartedDead
            | Rule::DestinationPostcopyBroken
            | Rule::DestinationPostcopyLost
            | Rule::DestinationAborted
            | Rule::DestinationAbortedDead
            | Rule::StoreKeyForeign
            | Rule::SourceStoreInDoubt
            | Rule::SourceStoreSeekAborted
            | Rule::SourceStoreOlder
            | Rule::SourceStoreRunning
            | Rule::SourceStoreDead
            | Rule::SourceStoreBothGone
            | Rule::DestinationStoreProposed
            | Rule::DestinationStoreWon
            | Rule::DestinationStoreAborted
            | Rule::DestinationStoreAmnesia
            | Rule::DestinationStoreStarted
            | Rule::DestinationStoreContradicted
            | Rule::DestinationStoreWithdraw
            | Rule::ManagerVerdict
            | Rule::SourceVerdictAwaited
            | Rule::SourceVerdictCont
            | Rule::SourceVerdictQuit
            | Rule::DestinationVerdictAwaited
            | Rule::DestinationVerdictCont
            | Rule::DestinationVerdictQuit => {}
        }
    }

    /// What was said when its QEMU jobs were over is what holds.
    fn settle_job(&mut self, job: Lsn, evidence: &JobEvidence, last: Option<&str>) {
        let is = |rule: Rule| last == Some(rule.name());
        if is(Rule::BackupEnded) || is(Rule::SnapshotTaken) {
            return self.give_up(
                job,
                evidence,
                JobResult::Completed,
                "its QEMU jobs succeeded",
            );
        }
        let detail = match is(Rule::BackupFailed) {
            true => "not all of its block jobs succeeded",
            false => "nothing of it is left in QEMU",
        };
        self.give_up(job, evidence, without_success(evidence), detail);
    }

    pub(super) fn learn_wanted_of(&mut self, job: Lsn, evidence: &JobEvidence) {
        let Some(id) = self.job(job).map(|known| known.domain) else {
            return;
        };
        // Beside another job running and paused may be that one's doing.
        if self.engine.state.jobs_of(id).count() == 1 {
            self.learn_wanted(id, &evidence.observed);
        }
    }

    /// A stream on its way is cancelled; all else ends by itself.
    fn give_stream_up(&mut self, job: Lsn, evidence: &JobEvidence) {
        if way_back(evidence) == WayBack::By(EffectCommand::MigrateCancel) {
            self.intend_job_again(job, EffectCommand::MigrateCancel);
        }
    }

    /// The guest goes on as wanted, and the job ends.
    fn come_back(&mut self, job: Lsn, evidence: &JobEvidence, result: JobResult, detail: &str) {
        match way_back(evidence) {
            WayBack::There => self.end_job(job, result, detail),
            WayBack::By(command) => self.intend_job_again(job, command),
            WayBack::Wait => {}
        }
    }

    /// The guest goes on as wanted, what was set up for the job is taken back, and it ends.
    pub(super) fn give_up(
        &mut self,
        job: Lsn,
        evidence: &JobEvidence,
        result: JobResult,
        detail: &str,
    ) {
        if way_back(evidence) == WayBack::There
            && let Some(known) = self.job(job)
            && let Some(command) = known.state.leftovers.first().cloned()
        {
            return self.intend_job_again(job, command);
        }
        self.come_back(job, evidence, result, detail);
    }

    /// True if there is one to be dismissed.
    pub(super) fn dismiss(&mut self, job: Lsn, evidence: &JobEvidence) -> bool {
        let is_over =
            |job: &&QemuJobSeen| qemu_job_class(job.status.as_ref()) == QemuJobClass::Concluded;
        let over = evidence.qemu_jobs.iter().flatten().find(is_over);
        if let Some(one) = over {
            self.intend_job_again(job, monitor("job-dismiss", &json!({"id": one.id})));
            return true;
        }
        false
    }

    fn finalize(&mut self, job: Lsn, evidence: &JobEvidence) {
        let waits =
            |job: &&QemuJobSeen| qemu_job_class(job.status.as_ref()) == QemuJobClass::Pending;
        if let Some(one) = evidence.qemu_jobs.iter().flatten().find(waits) {
            self.intend_job_again(job, monitor("job-finalize", &json!({"id": one.id})));
        }
    }

    fn cancel_qemu_jobs(&mut self, job: Lsn, evidence: &JobEvidence) {
        let goes_on = |job: &&QemuJobSeen| match qemu_job_class(job.status.as_ref()) {
            QemuJobClass::Active => job.status != Some(QemuJobStatus::Aborting),
            QemuJobClass::Pending => true,
            QemuJobClass::Gone | QemuJobClass::Concluded | QemuJobClass::Unknown => false,
        };
        if let Some(one) = evidence.qemu_jobs.iter().flatten().find(goes_on) {
            self.intend_job_again(job, monitor("job-cancel", &json!({"id": one.id})));
        }
    }

    /// The manager ends its job: nothing of it is under way any more, and the guest goes on as wanted.
    pub(super) fn settle_end(&mut self, job: Lsn, evidence: &JobEvidence) {
        let Some((token, result)) = self.job_live(job).ending else {
            return;
        };
        let role = driven::role(evidence.kind);
        let driven = role.and_then(|role| driven::left(role, evidence, result));
        if let Some(what) = driven.or_else(|| left(evidence)) {
            self.job_live(job).ending = None;
            return self.reply(token, Err(Refusal::JobLeft { job, what }));
        }
        // Beside another job the guest's run state is that one's.
        let is_alone = self
            .job(job)
            .is_some_and(|known| self.engine.state.jobs_of(known.domain).count() == 1);
        let may_be_stopped = match evidence.kind {
            JobKind::Save | JobKind::Dump | JobKind::Snapshot => is_alone,
            JobKind::MigrationOut => result == JobResult::Failed,
            _ => false,
        };
        // It may run elsewhere, unless its manager said that it stays here.
        if may_be_stopped && is_sent_past(evidence) && evidence.phase != JobPhase::Confirm3Cancelled
        {
            self.job_live(job).ending = None;
            let what = "its guest was sent by a stream that is not this job's".to_owned();
            return self.reply(token, Err(Refusal::JobLeft { job, what }));
        }
        if result == JobResult::Completed {
            self.take_over_paused(job, evidence);
        }
        match may_be_stopped {
            true => self.come_back(job, evidence, result, "its manager ended it"),
            false => self.end_job(job, result, "its manager ended it"),
        }
    }
}

/// What is under way in QEMU, for people.
fn left(evidence: &JobEvidence) -> Option<String> {
    if evidence.observed.process != Process::Alive {
        return None;
    }
    let listed = evidence.qemu_jobs.iter().flatten();
    let one = listed
        .filter_map(|one| Some((&one.id, one.status.as_ref()?)))
        .next();
    if let Some((id, status)) = one {
        return Some(format!("QEMU job '{id}' is {status}"));
    }
    let status = evidence.observed.migration.as_ref();
    let is_streaming = match status_class(status) {
        StatusClass::Performing
        | StatusClass::PreSwitchover
        | StatusClass::Device
        | StatusClass::Cancelling => true,
        StatusClass::None
        | StatusClass::Ended
        | StatusClass::Completed
        | StatusClass::Postcopy
        | StatusClass::PostcopyBroken
        | StatusClass::Unknown => false,
    };
    if is_streaming && evidence.facts.stream != EffectStanding::Never {
        return status.map(|status| format!("the stream to its file is {status}"));
    }
    let is_dumping = evidence.dump == Some(journal_format::record::DumpStatus::Active);
    (is_dumping && evidence.facts.main != EffectStanding::Never)
        .then(|| "the dump is active".to_owned())
}
