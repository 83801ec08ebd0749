//! Jobs that are no migrations, as people and programs see them.
//!
//! Invariant: a view says nothing that is not in the state.
//! Not here: the wire (`sidecar::control`).

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{
    Authority, Decision, JobDecided, JobPhase, JobPhaseEntered, PeerAnswer, Protocol, Role,
};

use super::{JobLive, driven};
use crate::engine::state::Job;
use crate::engine::turn::Turn;
use crate::engine::{AnyEvidence, AnyPhase, DecisionView, HeldView, JobView, Notice, Rule};

impl Turn<'_> {
    pub(crate) fn other_job_view(&self, job: Lsn) -> Option<JobView> {
        let known = self.job(job)?;
        let state = &known.state;
        let role = driven::role(state.kind);
        let live = self.engine.job_live.get(&job);
        Some(JobView {
            job,
            name: self.name_of(known.domain),
            domain: known.domain,
            kind: state.kind,
            migration: None,
            role,
            protocol: role.map(|_| Protocol::V3),
            authority: role.map(|_| Authority::Manager),
            phase: Some(AnyPhase::Job(state.phase)),
            age: self.age(state.begun),
            cookie: state.cookie.clone(),
            peer: live.and_then(|live| live.pairing.address.clone()),
            state: "open",
            result: None,
            detail: self.detail_of(known),
        })
    }

    /// What is under way, what is waited for, and what is known from the other side.
    fn detail_of(&self, known: &Job) -> String {
        let state = &known.state;
        let mut details = Vec::new();
        if let Some((_, command)) = &state.in_flight {
            details.push(format!("{} is under way", command.name()));
        }
        if state.recognised {
            details.push("driven by a client's plain commands".to_owned());
        }
        let live = self.engine.job_live.get(&state.job);
        let rule = live.and_then(JobLive::rule);
        if let Some(rule) = rule.filter(|rule| driven::is_its_managers(*rule)) {
            let text = rule.text();
            details.push(match text.settled_by {
                "" => text.reason.to_owned(),
                settled_by => format!("waits for {settled_by}"),
            });
        }
        match (state.other_side, driven::role(state.kind)) {
            (Some(begun), Some(Role::Source)) => {
                let said = live.map_or(PeerAnswer::NotAsked, |live| live.pairing.peer);
                details.push(match said {
                    PeerAnswer::NotAsked => {
                        format!("comes in at the other side as the job at {begun}")
                    }
                    said => format!(
                        "comes in at the other side as the job at {begun}, which is said to be {said}"
                    ),
                });
            }
            (Some(granted), _) => {
                details.push(format!("granted by the source's journal at {granted}"));
            }
            (None, _) => details.extend(live.and_then(|live| live.pairing.missing.clone())),
        }
        details.join("; ")
    }

    /// The record of the begin is the one before that of its first phase.
    pub(crate) fn notice_of_job(&self, lsn: Lsn, entered: &JobPhaseEntered) -> Option<Notice> {
        let view = self.other_job_view(entered.job)?;
        Some(match lsn.0 == entered.job.0 + 1 {
            true => Notice::JobBegun(view),
            false => Notice::PhaseEntered(view),
        })
    }

    pub(crate) fn job_decision_view(
        &self,
        id: DomainId,
        lsn: Lsn,
        decided: &JobDecided,
    ) -> Option<DecisionView> {
        let rule = Rule::from_name(&decided.rule);
        Some(DecisionView {
            lsn,
            name: self.domain(id)?.state.name.clone(),
            job: decided.job,
            rule: decided.rule.clone(),
            decision: decided.decision,
            reason: rule.map_or(String::new(), |rule| rule.text().reason.to_owned()),
            evidence: AnyEvidence::Job(decided.evidence.clone()),
            based_on: decided.based_on.clone(),
        })
    }

    /// The job of a domain that is held, and why.
    pub(crate) fn held_job(&self, id: DomainId) -> Option<(Lsn, Rule)> {
        self.engine.state.jobs_of(id).find_map(|job| {
            let rule = self.engine.job_live.get(&job.state.job)?.rule()?;
            (rule.decision() == Decision::Hold).then_some((job.state.job, rule))
        })
    }

    /// The job that an operator may settle, and the rule that holds: one that is held, or on its way forward by a `cont` that
    /// QEMU may refuse again and again (somebody continued the source, and that has the image's lock). Without one a
    /// migration that its manager drives, where `job-cancel` comes too late: QEMU may show what no word is for.
    pub(crate) fn resolvable_job(&self, id: DomainId) -> Option<(Lsn, Option<Rule>)> {
        let held = self.engine.state.jobs_of(id).find_map(|job| {
            let rule = self.engine.job_live.get(&job.state.job)?.rule()?;
            let may_last = rule == Rule::DrivenDestinationCommitted;
            let is_held = may_last || rule.decision() == Decision::Hold;
            is_held.then_some((job.state.job, Some(rule)))
        });
        let is_too_late = |job: &&Job| driven::is_past_cancelling(&job.state);
        let mut jobs = self.engine.state.jobs_of(id);
        held.or_else(|| jobs.find(is_too_late).map(|job| (job.state.job, None)))
    }

    /// The open migration of a domain that its manager drives, and that is not to be resolved before it was cancelled.
    pub(crate) fn cancellable_job(&self, id: DomainId) -> Option<Lsn> {
        let is_one = |job: &&Job| {
            let state = &job.state;
            let is_cancelled = state.phase == JobPhase::Cancel;
            driven::role(state.kind).is_some()
                && !is_cancelled
                && !driven::is_past_cancelling(state)
        };
        let found = self.engine.state.jobs_of(id).find(is_one);
        found.map(|job| job.state.job)
    }

    pub(crate) fn held_job_view(&self, id: DomainId) -> Option<HeldView> {
        let (_, rule) = self.held_job(id)?;
        Some(HeldView {
            rule: rule.name(),
            reason: rule.text().reason.to_owned(),
            settled_by: rule.text().settled_by,
        })
    }
}
