//! An operator's word on a held domain.
//!
//! Invariant: what could make a second copy run, or end the last good one, needs force and a recorded
//! statement; the word is recorded before anything follows from it. Nothing is held any more after a word until
//! it is decided anew, so that a second one cannot be about what the first one settled.
//! Not here: what is held, and why (`decide`).

use journal_format::number::MigrationId;
use journal_format::record::{
    Decision, EffectCommand, JobResult, MigrationCommitted, OperatorResolved, Outcome,
    OutcomeLearned, PeerAnswer, Phase, Process, Protocol, RecordBody, Role, TEXT_SIZE_MAX,
};

use super::decide::{StatusClass, decide, status_class};
use super::turn::Turn;
use super::{Answer, Refusal, Rule};

impl Turn<'_> {
    /// Carries out what an operator decided about a held domain, if that can be.
    pub(crate) fn resolve(
        &mut self,
        name: &str,
        decision: Decision,
        force: bool,
        statement: &str,
        uid: u32,
    ) -> Result<Answer, Refusal> {
        if statement.len() > TEXT_SIZE_MAX {
            return Err(Refusal::TooLong {
                what: "statement",
                size_max: TEXT_SIZE_MAX,
            });
        }
        if let Some(lost) = self.unregistered_named(name) {
            return self.resolve_unknown(lost, decision, force, statement, uid);
        }
        let domain = self.need_domain(name)?;
        if self.damage_view(domain).is_some() {
            return self.resolve_unknown(domain, decision, force, statement, uid);
        }
        let cancellable = self.cancellable_job(domain);
        let not_held = || match cancellable {
            Some(job) => Refusal::NotHeldYet {
                name: name.to_owned(),
                job,
            },
            None => Refusal::NotHeld(name.to_owned()),
        };
        let is_migrating = self
            .domain(domain)
            .is_some_and(|one| one.migration.is_some());
        if let Some(held) = self.resolvable_job(domain).filter(|_| !is_migrating) {
            return self.resolve_job(domain, held, decision, force, statement, uid);
        }
        let id = self
            .domain(domain)
            .and_then(|one| one.migration)
            .ok_or_else(not_held)?;
        let held = self
            .engine
            .live
            .get(&id)
            .and_then(|live| live.rule)
            .ok_or_else(not_held)?;
        let evidence = self.evidence(id).ok_or_else(not_held)?;
        let busy = self
            .migration(id)
            .is_none_or(|known| known.state.in_flight.is_some());
        // All but its `cont` is done, and QEMU may refuse that for ever.
        let may_last = matches!(
            held,
            Rule::SourcePerform2Gone
                | Rule::SourceAbandoned
                | Rule::SourceCancelled
                | Rule::SourceGrantedAborted
                | Rule::DestinationFinishRetry
        );
        let is_resolvable =
            held.decision() == Decision::Hold || may_last && decision == Decision::Confirm;
        if !is_resolvable || busy || decision == Decision::Hold {
            return Err(not_held());
        }
        if let Some(danger) = danger(held, decision, evidence.observed.process)
            && (!force || statement.is_empty())
        {
            return Err(Refusal::NeedsForce {
                name: name.to_owned(),
                danger,
            });
        }
        let touched = matches!(decision, Decision::Kill | Decision::Resume);
        let unreachable = matches!(
            held,
            Rule::OtherInstance | Rule::ClaimedByAnother | Rule::JournalOlderThanQemu
        );
        let status = status_class(evidence.observed.migration.as_ref());
        let is_split = matches!(status, StatusClass::Postcopy | StatusClass::PostcopyBroken);
        if decision == Decision::Resume && is_split && evidence.role == Role::Source {
            return Err(self.wrong_state(domain, "be resumed: the guest is split over both sides"));
        }
        let is_given_up = self.migration(id).is_some_and(|known| known.state.aborted);
        if decision == Decision::Resume && is_given_up {
            return Err(self.wrong_state(domain, "be resumed: this copy was given up for good"));
        }
        if touched && unreachable {
            return Err(self.wrong_state(domain, "be resolved by kill or resume"));
        }
        let job = self
            .migration(id)
            .map(|known| known.state.job)
            .ok_or_else(not_held)?;
        let resolved = OperatorResolved {
            job,
            decision,
            force,
            statement: statement.to_owned(),
            uid,
        };
        self.append(Some(domain), RecordBody::OperatorResolved(resolved));
        #[cfg(any(test, feature = "mutants"))]
        if super::mutant::is_wrong(&evidence, Rule::OperatorResolved) {
            return Ok(Answer::Done {});
        }
        let decided = self.decided(id, Rule::OperatorResolved, decision, evidence);
        self.live(id).rule = None;
        match (
            decision,
            self.migration(id).map(|known| known.state.terms.role),
        ) {
            (Decision::Confirm, _) => {
                // What v2's source committed is the destination's, whatever is left here.
                let committed = self
                    .migration(id)
                    .is_some_and(|known| known.state.committed);
                let result = match committed {
                    true => JobResult::Completed,
                    false => JobResult::Failed,
                };
                self.end(id, result, "an operator closed it as it was");
            }
            (Decision::Kill, Some(Role::Source)) => self.resolve_source_kill(id),
            (Decision::Resume, Some(Role::Source)) => self.resolve_source_resume(id),
            (Decision::Kill, Some(Role::Destination)) => self.resolve_destination_kill(id),
            (Decision::Resume, Some(Role::Destination)) => self.resolve_destination_resume(id),
            (Decision::Hold, _) | (_, None) => {}
        }
        self.advance(id);
        let view = decided.and_then(|(lsn, decided)| self.decision_view(domain, lsn, &decided));
        view.map(Answer::Decision).ok_or_else(not_held)
    }

    fn resolve_source_kill(&mut self, id: MigrationId) {
        if self
            .migration(id)
            .is_some_and(|known| known.state.abandoned)
        {
            // Whose it is was said when it was given up.
            return self.intend(id, EffectCommand::Kill);
        }
        if self.has_unsettled_disks(id) && self.is_v2(id) {
            // No licence goes out: what was sent would run on a disk that may lack something.
            self.abandon(id, "an operator resolved it", true);
            return self.intend(id, EffectCommand::Kill);
        }
        if self.is_v2(id) {
            // The decision is this side's; what follows from it is done under the rules.
            return self.grant(id);
        }
        self.overrule(id, Outcome::Committed);
        self.enter(id, Phase::Confirm3);
        self.intend(id, EffectCommand::Kill);
    }

    fn is_v2(&self, id: MigrationId) -> bool {
        let protocol = self.migration(id).map(|known| known.state.terms.protocol);
        protocol == Some(Protocol::V2)
    }

    /// Source: that is the outcome from here on, whatever it was.
    fn overrule(&mut self, id: MigrationId, outcome: Outcome) {
        let known = self.migration(id).and_then(|known| known.state.outcome);
        if known != Some(outcome) {
            let learned = OutcomeLearned {
                migration: id,
                outcome,
                position: None,
            };
            self.record(id, RecordBody::OutcomeLearned(learned));
        }
    }

    fn resolve_source_resume(&mut self, id: MigrationId) {
        let granted = self
            .migration(id)
            .is_some_and(|known| known.state.granted.is_some());
        if granted {
            self.overrule(id, Outcome::Aborted);
            self.enter(id, Phase::Confirm3Cancelled);
        } else {
            self.abandon(id, "an operator resolved it", true);
        }
        let live = self.live(id);
        // Whoever was started there was told to the operator.
        live.peer = PeerAnswer::NotAsked;
        live.effect_at = 0;
    }

    fn resolve_destination_kill(&mut self, id: MigrationId) {
        let started = self.migration(id).is_some_and(|known| known.state.started);
        if started {
            // What ran is never taken back; in post-copy the source is told that this half is gone.
            self.enter_lost(id);
            self.intend(id, EffectCommand::Kill);
        } else {
            self.abort(id);
        }
    }

    fn resolve_destination_resume(&mut self, id: MigrationId) {
        let committed = self
            .migration(id)
            .is_some_and(|known| known.state.committed);
        if !committed {
            self.enter_finish(id);
            let body = MigrationCommitted {
                cookie: None,
                migration: id,
            };
            self.record(id, RecordBody::MigrationCommitted(body));
        }
        let goes_on = self.evidence(id).is_some_and(|evidence| {
            !evidence.journal_damaged && decide(&evidence) == Some(Rule::DestinationFinishRetry)
        });
        // Under that rule it runs when nothing is served any more.
        if !(goes_on && self.has_unsettled_disks(id)) {
            self.run(id);
        }
    }
}

/// What an operator's word could do that cannot be undone; `None` if nothing.
fn danger(held: Rule, decision: Decision, process: Process) -> Option<&'static str> {
    match decision {
        Decision::Hold => None,
        Decision::Confirm => Some(
            "ends the job while it is not known which copy is the guest: nobody looks after either",
        ),
        Decision::Resume => Some("could make a second copy of the guest run"),
        // What is damaged may have been the record that the guest ran here.
        Decision::Kill if process == Process::Dead && held != Rule::JournalDamaged => None,
        Decision::Kill => match held {
            Rule::SourceGrantedStartedUnproven => None,
            _ => Some("could end the last good copy of the guest"),
        },
    }
}
