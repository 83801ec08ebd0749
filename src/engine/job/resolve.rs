//! An operator's word on a job that is no migration of two sidecars.
//!
//! Invariant: what ends a guest needs force and a recorded statement; the word is recorded before anything follows
//! from it.
//! Not here: what is held, and why (`decide`).

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{
    Decision, EffectCommand, JobKind, JobResult, OperatorResolved, Process, RecordBody, Role,
    WantedRunState,
};

use super::driven;
use crate::engine::turn::Turn;
use crate::engine::{Answer, Refusal, Rule};

impl Turn<'_> {
    /// Carries out what an operator decided about a held job, if that can be.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the word")]
    pub(crate) fn resolve_job(
        &mut self,
        id: DomainId,
        (job, held): (Lsn, Option<Rule>),
        decision: Decision,
        force: bool,
        statement: &str,
        uid: u32,
    ) -> Result<Answer, Refusal> {
        let name = self.domain(id).map(|one| one.state.name.clone());
        let name = name.unwrap_or_default();
        let not_held = || Refusal::NotHeld(name.clone());
        let evidence = self.job_evidence(job).ok_or_else(not_held)?;
        let is_busy = self
            .job(job)
            .is_none_or(|known| known.state.in_flight.is_some());
        if is_busy || decision == Decision::Hold {
            return Err(not_held());
        }
        let is_ending = decision == Decision::Kill
            && evidence.kind != JobKind::Destroy
            && evidence.observed.process != Process::Dead;
        let role = driven::role(evidence.kind);
        let is_elsewhere = role.is_some() || self.gave_away(id);
        let danger = match decision {
            Decision::Kill if is_ending && role.is_some() => {
                Some("could end the last good copy of the guest")
            }
            Decision::Confirm if role.is_some() && evidence.observed.process != Process::Dead => {
                Some(
                    "ends the job while it is not known which copy is the guest: nobody looks after either",
                )
            }
            Decision::Kill if is_ending => Some("ends the guest"),
            // What is damaged may have been the record that it went to another host.
            Decision::Resume if is_elsewhere || held == Some(Rule::JournalDamaged) => {
                Some("could make a second copy of the guest run")
            }
            Decision::Kill | Decision::Resume | Decision::Confirm | Decision::Hold => None,
        };
        if let Some(danger) = danger.filter(|_| !force || statement.is_empty()) {
            return Err(Refusal::NeedsForce { name, danger });
        }
        let is_unreachable = matches!(
            held,
            Some(Rule::OtherInstance | Rule::ClaimedByAnother | Rule::JournalOlderThanQemu)
        );
        if is_unreachable && matches!(decision, Decision::Kill | Decision::Resume) {
            return Err(self.wrong_state(id, "be resolved by kill or resume"));
        }
        let resolved = OperatorResolved {
            job,
            decision,
            force,
            statement: statement.to_owned(),
            uid,
        };
        self.append(Some(id), RecordBody::OperatorResolved(resolved));
        let decided = self.decide_on_job(job, Rule::OperatorResolved, decision, &evidence);
        if held.is_none() {
            // What its manager waits for is not done any more; what follows from the word is.
            self.drop_waiting(job, "an operator resolved it");
            self.job_live(job).recovering = true;
        }
        self.job_live(job).rule = None;
        match decision {
            Decision::Confirm => {
                self.end_job(job, JobResult::Failed, "an operator closed it as it was");
            }
            Decision::Kill => self.intend_job(job, EffectCommand::Kill),
            Decision::Resume => self.resolve_resume(job, role, evidence.wanted),
            Decision::Hold => {}
        }
        let view = decided.and_then(|(lsn, decided)| self.job_decision_view(id, lsn, &decided));
        view.map(Answer::Decision).ok_or_else(not_held)
    }
    /// A source whose guest its owner wants paused goes on without `cont`.
    fn resolve_resume(&mut self, job: Lsn, role: Option<Role>, wanted: WantedRunState) {
        if role == Some(Role::Source) {
            let is_said = self.say_aborted(job);
            match (wanted, is_said) {
                (WantedRunState::Running, _) => {}
                (WantedRunState::Paused, true) => return,
                // Its manager had said otherwise: the operator's word ends it.
                (WantedRunState::Paused, false) => {
                    let detail = "an operator gave the guest back, paused";
                    return self.end_job(job, JobResult::Failed, detail);
                }
            }
        }
        self.intend_job(job, EffectCommand::Cont);
    }
}
