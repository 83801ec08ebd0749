//! What a manager asks of a migration that it drives itself, and what of that QEMU's state allows.
//!
//! Invariant: a source that says completed is continued only by its manager's aborted, and ended only by its committed, each
//! after a fresh look; a destination is continued only when it is whole. One verdict a side: nothing is asked of a copy
//! that contradicts what was said of it before.
//! Not here: which commands belong into a phase (`legal`), what recovery decides (`decide`).

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{
    EffectCommand, EffectStanding, JobFacts, JobPhase, JobResult, JobState, Observed, Outcome,
    Role, RunState, WantedRunState,
};

use super::super::PhaseWanted;
use super::super::legal::may_enter;
use super::super::meaning::meaning;
use super::cookie::{COOKIE_SIZE_MAX, Carried};
use crate::engine::decide::{RunClass, StatusClass, run_class, status_class, was_sent_on};
use crate::engine::turn::Turn;
use crate::engine::{Answer, JobTarget, Refusal, Token};

/// A verdict by one command: the phases to enter, what to run in the last one, and how the job ends then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine::job) struct Verdict {
    phase: JobPhase,
    commands: Vec<EffectCommand>,
    result: JobResult,
}

fn verdict_of(role: Role, outcome: Outcome, wanted: WantedRunState) -> Verdict {
    let (phase, commands, result) = match (role, outcome) {
        (Role::Source, Outcome::Committed) => (
            JobPhase::Confirm3,
            vec![EffectCommand::Kill],
            JobResult::Completed,
        ),
        // The guest is brought to its wanted run state before the job ends.
        (Role::Source, Outcome::Aborted) => {
            (JobPhase::Confirm3Cancelled, Vec::new(), JobResult::Failed)
        }
        (Role::Destination, Outcome::Committed) => {
            let commands = match wanted {
                WantedRunState::Running => vec![EffectCommand::Cont],
                WantedRunState::Paused => Vec::new(),
            };
            (JobPhase::Finish3, commands, JobResult::Completed)
        }
        (Role::Destination, Outcome::Aborted) => (
            JobPhase::Finish3,
            vec![EffectCommand::Kill],
            JobResult::Failed,
        ),
    };
    Verdict {
        phase,
        commands,
        result,
    }
}

/// Is the outcome the manager's word already, or about to be?
pub(in crate::engine::job) fn is_past_cancelling(state: &JobState) -> bool {
    let facts = state.facts();
    let is_said = facts.main != EffectStanding::Never || facts.end != EffectStanding::Never;
    match super::role(state.kind) {
        Some(Role::Source) => {
            is_said
                || matches!(
                    state.phase,
                    JobPhase::Perform3Done | JobPhase::Confirm3 | JobPhase::Confirm3Cancelled
                )
        }
        Some(Role::Destination) => is_said,
        None => false,
    }
}

/// Everything was sent, and the guest stands where that left it.
pub(super) fn has_sent(facts: JobFacts, observed: &Observed) -> bool {
    facts.stream != EffectStanding::Never
        && status_class(observed.migration.as_ref()) == StatusClass::Completed
        && matches!(
            run_class(observed.run_state.as_ref()),
            RunClass::FinishMigrate | RunClass::Postmigrate
        )
}

/// Destination: is it the word, by one command, that the guest be here, and it runs here already?
pub(in crate::engine::job) fn is_said_again(wanted: &PhaseWanted, observed: &Observed) -> bool {
    let has_run = matches!(
        run_class(observed.run_state.as_ref()),
        RunClass::Running | RunClass::Ran
    );
    wanted.phase == JobPhase::Finish3 && wanted.then == Some(JobResult::Completed) && has_run
}

/// Does a verdict say two things at once: that everything was sent, and that the guest is the destination's?
pub(super) fn passes_through(before: JobPhase, after: JobPhase) -> bool {
    after == JobPhase::Confirm3 && matches!(before, JobPhase::Perform3 | JobPhase::Cancel)
}

impl Turn<'_> {
    /// The open job that a manager drives itself and a verdict is about.
    pub(crate) fn driven_target(&self, target: &JobTarget) -> Option<Lsn> {
        let is_one = |job: &&crate::engine::state::Job| super::role(job.state.kind).is_some();
        let found = match target {
            JobTarget::Job(job) => self.job(*job).filter(is_one),
            JobTarget::Domain(name) => {
                let id = self.domain_named(name)?;
                self.engine.state.jobs_of(id).find(is_one)
            }
        };
        found.map(|job| job.state.job)
    }

    /// The manager's word by one command: what it would enter and run, and the end of the job.
    pub(crate) fn driven_verdict(&mut self, token: Token, job: Lsn, outcome: Outcome) {
        let wanted = self.verdict_wanted(job, outcome);
        self.enter_later(token, job, wanted);
    }

    fn verdict_wanted(&self, job: Lsn, outcome: Outcome) -> Result<PhaseWanted, Refusal> {
        let known = self.job(job).ok_or(Refusal::NoSuchJob(job))?;
        let role = super::role(known.state.kind).ok_or(Refusal::NoSuchJob(job))?;
        self.need_driven(known)?;
        let owner = self.domain(known.domain).map(|one| one.state.wanted);
        let verdict = verdict_of(role, outcome, owner.unwrap_or(WantedRunState::Running));
        Ok(PhaseWanted {
            job,
            phase: verdict.phase,
            commands: verdict.commands,
            cookie: None,
            carried: None,
            then: Some(verdict.result),
        })
    }

    /// What the phase tells about what lies between: that everything was sent, before whose the guest is.
    pub(in crate::engine::job) fn pass_through(&mut self, job: Lsn, phase: JobPhase) {
        let before = self.job(job).map(|known| known.state.phase);
        if before.is_some_and(|before| passes_through(before, phase)) {
            self.enter_job(job, JobPhase::Perform3Done, None);
        }
    }

    /// Source: an operator's word, where it can follow; false where another one was said before.
    pub(in crate::engine::job) fn say_aborted(&mut self, job: Lsn) -> bool {
        let phase = JobPhase::Confirm3Cancelled;
        let may = self
            .job(job)
            .is_some_and(|known| may_enter(known.state.kind, known.state.phase, phase));
        if may {
            self.enter_job(job, phase, None);
        }
        may
    }

    /// Does QEMU stand where that phase, and what is to be run in it, is safe?
    pub(in crate::engine::job) fn check_driven(
        &self,
        id: DomainId,
        role: Role,
        state: &JobState,
        wanted: &PhaseWanted,
        observed: &Observed,
    ) -> Result<(), Refusal> {
        // What was seen since it was asked may have been the manager's word.
        let is_jump = wanted.then.is_some() && passes_through(state.phase, wanted.phase);
        if !is_jump && !may_enter(state.kind, state.phase, wanted.phase) {
            return Err(Refusal::NoWayBack {
                job: state.job,
                phase: state.phase,
                wanted: wanted.phase,
            });
        }
        let status = status_class(observed.migration.as_ref());
        let may = match (role, status) {
            (_, StatusClass::Postcopy | StatusClass::PostcopyBroken) => Err(
                "go on here: the guest is split over both sides until its post-copy ends (if that never comes: job-cancel, then resolve)",
            ),
            (Role::Source, _) => may_at_source(state, wanted, observed),
            (Role::Destination, _) => may_at_destination(state, wanted, observed),
        };
        may.map_err(|wish| self.wrong_state(id, wish))
    }

    // Cookies.

    /// The answer to a phase: with the cookie for the destination where everything was sent.
    pub(in crate::engine::job) fn phase_answer(
        &self,
        job: Lsn,
        phase: JobPhase,
        effects: usize,
    ) -> Answer {
        let known = self.job(job).filter(|_| phase == JobPhase::Perform3Done);
        let owner = known.and_then(|known| self.domain(known.domain));
        let cookie = known.zip(owner).map(|(known, domain)| {
            let carried = Carried {
                domain: known.domain,
                granted: self.position(),
                wanted: domain.state.wanted,
                data: known.state.cookie.clone(),
            };
            carried.to_string()
        });
        Answer::PhaseEntered {
            job,
            phase,
            effects,
            cookie,
        }
    }

    /// What the manager brought from the source, if that is about this guest.
    pub(in crate::engine::job) fn check_peer_cookie(
        &self,
        job: Lsn,
        phase: JobPhase,
        text: Option<&str>,
    ) -> Result<Option<Carried>, Refusal> {
        let Some(text) = text else {
            return Ok(None);
        };
        let refused = |why| Err(Refusal::PeerCookie { job, why });
        if phase != JobPhase::Finish3 {
            return refused("it is for finish3 at the destination");
        }
        if text.len() > COOKIE_SIZE_MAX {
            return Err(Refusal::TooLong {
                what: "peer-cookie",
                size_max: COOKIE_SIZE_MAX,
            });
        }
        let Some(carried) = Carried::parse(text) else {
            return refused("it is not what perform3_done answered at a source");
        };
        let known = self.job(job).ok_or(Refusal::NoSuchJob(job))?;
        if carried.domain != known.domain {
            return refused("it is another guest's");
        }
        match known.state.other_side {
            Some(before) if before.journal != carried.granted.journal => {
                refused("an earlier one came from another source")
            }
            Some(_) | None => Ok(Some(carried)),
        }
    }
}

/// `Err`: what the domain cannot do now.
fn may_at_source(
    state: &JobState,
    wanted: &PhaseWanted,
    observed: &Observed,
) -> Result<(), &'static str> {
    let status = status_class(observed.migration.as_ref());
    let has_sent = has_sent(state.facts(), observed);
    match wanted.phase {
        JobPhase::Perform3Done | JobPhase::Confirm3 if !has_sent => {
            Err("be given away: not everything was sent")
        }
        JobPhase::Confirm3Cancelled => match status {
            StatusClass::None | StatusClass::Ended | StatusClass::Completed => Ok(()),
            StatusClass::Performing
            | StatusClass::PreSwitchover
            | StatusClass::Device
            | StatusClass::Cancelling
            | StatusClass::Postcopy
            | StatusClass::PostcopyBroken
            | StatusClass::Unknown => {
                Err("go on here: its migration has not ended (migrate_cancel, or job-cancel)")
            }
        },
        JobPhase::Begin3 | JobPhase::Perform3 if has_sent => {
            Err("be changed: everything was sent, and whose the guest is comes next")
        }
        JobPhase::Begin
        | JobPhase::Prepare
        | JobPhase::Perform
        | JobPhase::Finish
        | JobPhase::Cancel
        | JobPhase::Begin3
        | JobPhase::Perform3
        | JobPhase::Perform3Done
        | JobPhase::Confirm3
        | JobPhase::Finish3 => Ok(()),
    }
}

fn may_at_destination(
    state: &JobState,
    wanted: &PhaseWanted,
    observed: &Observed,
) -> Result<(), &'static str> {
    let facts = state.facts();
    let means = || wanted.commands.iter().map(|one| meaning(state.kind, one));
    let run = run_class(observed.run_state.as_ref());
    let is_whole = run == RunClass::Paused
        && status_class(observed.migration.as_ref()) == StatusClass::Completed;
    let has_run = matches!(run, RunClass::Running | RunClass::Ran);
    if means().any(|one| one.stream) && observed.run_state != Some(RunState::Inmigrate) {
        return Err("listen for a stream: it does not wait for one");
    }
    if is_said_again(wanted, observed) && facts.end == EffectStanding::Never {
        return Ok(());
    }
    let continues = means().any(|one| one.main);
    if continues && wanted.then.is_some() && state.recognised && state.other_side.is_none() {
        return Err(
            "be taken over by a word alone: what its owner wants is not known here (phase-enter finish3, with cont or without)",
        );
    }
    if continues && facts.end != EffectStanding::Never {
        return Err("be continued: its end was asked for");
    }
    if continues && !is_whole {
        return Err("be continued: its copy is not whole, or ran already");
    }
    let ends = means().any(|one| one.end);
    if ends && (has_run || facts.main != EffectStanding::Never) {
        return Err("be given up: the guest may have run here");
    }
    if ends && was_sent_on(observed) {
        return Err(
            "be given up: it was sent on from here, and may be the guest (job-cancel, then resolve)",
        );
    }
    if ends && continues {
        return Err("be continued and ended at once");
    }
    // The word of a guest that stays paused.
    let is_taken = wanted.then == Some(JobResult::Completed);
    if is_taken && !is_whole {
        return Err("be taken over: its copy is not whole, or ran already");
    }
    Ok(())
}
