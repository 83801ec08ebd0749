//! How the rules of migrations that their manager drives itself are carried out.
//!
//! Invariant: no job ends while its stream, or a QEMU job of its, is on its way; a source goes on as its owner wants it.
//! Not here: which rule holds (`decide`).

use journal_format::number::Lsn;
use journal_format::record::{
    EffectCommand, EffectStanding, JobEvidence, JobKind, JobPhase, JobResult, Outcome, Process,
    QemuJobStatus, Role, WantedReason, WantedRunState,
};
use serde_json::json;

use super::super::decide::{QemuJobClass, qemu_job_class};
use super::super::meaning::monitor;
use super::super::recover::{WayBack, way_back, without_success};
use super::decide::verdict;
use super::request::has_sent;
use crate::engine::Rule;
use crate::engine::decide::{RunClass, StatusClass, run_class, status_class};
use crate::engine::turn::Turn;

impl Turn<'_> {
    /// Carries one of these rules out.
    pub(in crate::engine::job) fn carry_out_driven(
        &mut self,
        job: Lsn,
        rule: Rule,
        evidence: &JobEvidence,
    ) {
        match rule {
            Rule::DrivenSourceUndone => {
                self.stay(
                    job,
                    evidence,
                    "the guest stays here: not everything was sent",
                );
            }
            Rule::DrivenSourceGiveUp => self.stay(job, evidence, "given up"),
            Rule::DrivenSourceAborted => {
                self.stay(job, evidence, "its manager said that the guest stays here");
            }
            Rule::DrivenOver => {
                let detail = "its migration ended without success: the guest is where it was";
                self.end_job(job, without_success(evidence), detail);
            }
            Rule::DrivenSourceCont => self.enter_job(job, JobPhase::Confirm3Cancelled, None),
            // What follows from the word is what would follow from it here.
            Rule::DrivenSourceStartedThere => {
                self.pass_through(job, JobPhase::Confirm3);
                self.enter_job(job, JobPhase::Confirm3, None);
            }
            Rule::DrivenSourceConfirm
            | Rule::DrivenDestinationFailed
            | Rule::DrivenDestinationAborted => self.intend_job_again(job, EffectCommand::Kill),
            Rule::DrivenSourceQuit => {
                self.enter_job(job, JobPhase::Confirm3, None);
                let (result, detail) = match evidence.recovering {
                    // Before the sidecar came back it may have been continued.
                    true => (
                        JobResult::Crashed,
                        "this QEMU ended, by its manager or by itself",
                    ),
                    false => (JobResult::Completed, "its manager ended this QEMU"),
                };
                self.end_job(job, result, detail);
            }
            Rule::DrivenSourceEnded => {
                let detail = "the guest is the destination's, and this QEMU ended";
                self.end_job(job, JobResult::Completed, detail);
            }
            Rule::DrivenDestinationCommitted => self.intend_job_again(job, EffectCommand::Cont),
            Rule::DrivenDestinationRunning => {
                self.learn_wanted_of(job, evidence);
                self.end_job(job, JobResult::Completed, "the guest was started here");
            }
            Rule::DrivenDestinationEnded => {
                let result = match self.is_given_up(job, evidence) {
                    true => JobResult::Cancelled,
                    false => without_success(evidence),
                };
                let detail = "the guest never ran here, and this QEMU ended";
                self.end_job(job, result, detail);
            }
            // Its manager, or an operator, goes on.
            _ => {}
        }
    }

    /// Destination: did its client end a copy that was whole, and that it had never continued? Of all ends of such a job only this one is
    /// *cancelled* in finish3, so that the other side can be told of it later.
    fn is_given_up(&mut self, job: Lsn, evidence: &JobEvidence) -> bool {
        let live = self.job_live(job);
        // Who said it by one command waits for *failed*.
        let is_awaited = live.running.is_some() || live.ending.is_some();
        evidence.recognised
            && evidence.phase == JobPhase::Finish3
            && evidence.facts.end != EffectStanding::Never
            && evidence.facts.main == EffectStanding::Never
            && !is_awaited
    }

    /// Source: that everything was sent is on record, also where nobody says so.
    pub(in crate::engine::job) fn note_sent(&mut self, job: Lsn, evidence: &JobEvidence) {
        let is_it = evidence.recognised
            && evidence.kind == JobKind::MigrationOut
            && evidence.phase == JobPhase::Perform3
            && has_sent(evidence.facts, &evidence.observed);
        if is_it {
            self.enter_job(job, JobPhase::Perform3Done, None);
        }
    }

    /// Source: mirrors and the stream are cancelled, the guest goes on as wanted, and what was set up is taken back.
    fn stay(&mut self, job: Lsn, evidence: &JobEvidence, detail: &str) {
        if self.cancel_a_mirror(job, evidence) {
            return;
        }
        match way_back(evidence) {
            WayBack::There => {}
            WayBack::By(command) => return self.intend_job_again(job, command),
            WayBack::Wait => return,
        }
        let Some(listed) = &evidence.qemu_jobs else {
            return;
        };
        let is_active = |class: QemuJobClass| match class {
            QemuJobClass::Active | QemuJobClass::Pending | QemuJobClass::Unknown => true,
            QemuJobClass::Gone | QemuJobClass::Concluded => false,
        };
        let mut classes = listed.iter().map(|one| qemu_job_class(one.status.as_ref()));
        // What QEMU does not cancel is named when the job ends.
        let waits = classes.any(is_active) && !self.is_stuck(job);
        if self.dismiss(job, evidence) || waits {
            return;
        }
        self.give_up(job, evidence, without_success(evidence), detail);
    }

    /// True if there is one that has not been told to end.
    fn cancel_a_mirror(&mut self, job: Lsn, evidence: &JobEvidence) -> bool {
        let goes_on = |status: Option<&QemuJobStatus>| match qemu_job_class(status) {
            QemuJobClass::Active => status != Some(&QemuJobStatus::Aborting),
            QemuJobClass::Pending => true,
            QemuJobClass::Gone | QemuJobClass::Concluded | QemuJobClass::Unknown => false,
        };
        // The guest does not wait for a mirror that is not cancelled.
        if self.is_stuck(job) {
            return false;
        }
        let mut listed = evidence.qemu_jobs.iter().flatten();
        let Some(one) = listed.find(|one| goes_on(one.status.as_ref())) else {
            return false;
        };
        self.intend_job_again(job, monitor("job-cancel", &json!({"id": one.id})));
        true
    }

    /// Did QEMU refuse something that was to be taken back?
    fn is_stuck(&mut self, job: Lsn) -> bool {
        !self.job_live(job).stuck.is_empty()
    }

    /// Destination: a copy that was taken over without `cont` is a guest that stays paused.
    pub(in crate::engine::job) fn take_over_paused(&mut self, job: Lsn, evidence: &JobEvidence) {
        let is_one = super::role(evidence.kind) == Some(Role::Destination)
            && evidence.observed.process == Process::Alive
            && evidence.facts.main == EffectStanding::Never;
        if let Some(known) = self.job(job).filter(|_| is_one) {
            let id = known.domain;
            self.want(id, WantedRunState::Paused, WantedReason::Asked);
        }
    }
}

/// Why a manager cannot end such a job like that now, for people.
pub(in crate::engine::job) fn left(
    role: Role,
    evidence: &JobEvidence,
    result: JobResult,
) -> Option<String> {
    let observed = &evidence.observed;
    if observed.process != Process::Alive {
        return None;
    }
    let word = observed.migration.as_ref().map(ToString::to_string);
    let word = word.unwrap_or_default();
    let is_on_its_way = match status_class(observed.migration.as_ref()) {
        StatusClass::Performing
        | StatusClass::PreSwitchover
        | StatusClass::Device
        | StatusClass::Cancelling
        | StatusClass::Postcopy
        | StatusClass::PostcopyBroken => true,
        StatusClass::None | StatusClass::Ended | StatusClass::Completed | StatusClass::Unknown => {
            false
        }
    };
    if is_on_its_way && evidence.facts.stream != EffectStanding::Never {
        return Some(format!("its migration is {word}"));
    }
    let said = verdict(role, evidence);
    let is_completed = result == JobResult::Completed;
    let run = run_class(observed.run_state.as_ref());
    let what = match role {
        Role::Source => match said {
            None if has_sent(evidence.facts, observed) => {
                "everything was sent, and whose the guest is was not said (confirm3, or confirm3_cancelled)"
            }
            None | Some(Outcome::Aborted) if is_completed => {
                "the guest was not given away, so that it ends as failed"
            }
            Some(Outcome::Committed) if !is_completed => {
                "the guest was given away, so that it ends as completed"
            }
            None | Some(Outcome::Aborted | Outcome::Committed) => return None,
        },
        Role::Destination => match said {
            Some(Outcome::Committed)
                if run == RunClass::Paused && evidence.facts.main == EffectStanding::Unknown =>
            {
                "whether the guest was started is not known (finish3 with cont)"
            }
            Some(Outcome::Committed) if !is_completed => {
                "the guest was started here, so that it ends as completed"
            }
            Some(Outcome::Aborted) => "this QEMU was to end",
            None if run == RunClass::Inmigrate
                && evidence.facts.stream != EffectStanding::Never =>
            {
                "this QEMU waits for the stream"
            }
            None if is_completed && run == RunClass::Inmigrate => {
                "there is no guest here, so that it ends as failed"
            }
            None if run == RunClass::Paused
                && !(is_completed && evidence.phase == JobPhase::Finish3) =>
            {
                "whose the guest is was not said (finish3 with cont or quit)"
            }
            None | Some(Outcome::Committed) => return None,
        },
    };
    Some(what.to_owned())
}
