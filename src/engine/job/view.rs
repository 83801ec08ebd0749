//! Jobs that are no migrations, as people and programs see them.
//!
//! Invariant: a view says nothing that is not in the state.
//! Not here: the wire (`sidecar::control`).

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{Decision, JobDecided, JobPhase, JobPhaseEntered};

use crate::engine::turn::Turn;
use crate::engine::{AnyEvidence, AnyPhase, DecisionView, HeldView, JobView, Notice, Rule};

impl Turn<'_> {
    pub(crate) fn other_job_view(&self, job: Lsn) -> Option<JobView> {
        let known = self.job(job)?;
        let state = &known.state;
        let in_flight = state.in_flight.as_ref();
        Some(JobView {
            job,
            name: self.name_of(known.domain),
            domain: known.domain,
            kind: state.kind,
            migration: None,
            role: None,
            protocol: None,
            authority: None,
            phase: Some(AnyPhase::Job(state.phase)),
            age: self.age(state.begun),
            cookie: state.cookie.clone(),
            peer: None,
            state: "open",
            result: None,
            detail: in_flight
                .map(|(_, command)| format!("{} is under way", command.name()))
                .unwrap_or_default(),
        })
    }

    pub(crate) fn notice_of_job(&self, entered: &JobPhaseEntered) -> Option<Notice> {
        let view = self.other_job_view(entered.job)?;
        Some(match entered.phase {
            JobPhase::Begin => Notice::JobBegun(view),
            JobPhase::Prepare | JobPhase::Perform | JobPhase::Finish | JobPhase::Cancel => {
                Notice::PhaseEntered(view)
            }
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

    pub(crate) fn held_job_view(&self, id: DomainId) -> Option<HeldView> {
        let (_, rule) = self.held_job(id)?;
        Some(HeldView {
            rule: rule.name(),
            reason: rule.text().reason.to_owned(),
            settled_by: rule.text().settled_by,
        })
    }
}
