//! The decision table of migrations that their manager drives itself.
//!
//! Invariant: total and pure. A source that sent everything is neither ended nor continued without the manager's word,
//! and a destination that may have run is never ended.
//! Not here: whose process and journal it is (`job::decide`), how a rule is carried out (`recover`).

use journal_format::record::{
    EffectStanding, JobEvidence, JobPhase, Outcome, PeerAnswer, Process, Role, WantedRunState,
};

use crate::engine::Rule;
use crate::engine::decide::{RunClass, StatusClass, run_class, status_class, was_sent_on};

/// The rule that holds; `None` while the manager simply goes on.
pub(in crate::engine::job) fn decide(role: Role, evidence: &JobEvidence) -> Option<Rule> {
    let is_over = evidence.recovering || evidence.phase == JobPhase::Cancel;
    match (evidence.observed.process, role) {
        (Process::Dead, Role::Source) => Some(dead_source(evidence)),
        (Process::Dead, Role::Destination) => Some(dead_destination(evidence)),
        (Process::Mute, _) if is_over => Some(mute(role, evidence)),
        (Process::Alive, Role::Source) if is_over => {
            Some(unless_recognised(evidence, source(evidence)))
        }
        (Process::Alive, Role::Destination) if is_over => {
            Some(unless_recognised(evidence, destination(evidence)))
        }
        (Process::Alive, _) if evidence.recognised => told_from_commands(role, evidence),
        (Process::Alive, _) => past_the_sidecar(role, evidence),
        (Process::Mute | Process::OtherInstance, _) => None,
    }
}

/// Is it still for the manager to go on, though the sidecar was restarted?
pub(in crate::engine::job) fn is_its_managers(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::DrivenPostcopy
            | Rule::DrivenSourceTakenUp
            | Rule::DrivenSourceCompleted
            | Rule::DrivenDestinationWaiting
            | Rule::DrivenDestinationWhole
    )
}

/// What its manager, or an operator, said of the guest; an intent without a result counts as said.
pub(super) fn verdict(role: Role, evidence: &JobEvidence) -> Option<Outcome> {
    let facts = &evidence.facts;
    let is_ended = facts.end != EffectStanding::Never;
    let is_continued = facts.main != EffectStanding::Never;
    match (role, is_ended, is_continued) {
        (Role::Source, true, _) | (Role::Destination, false, true) => Some(Outcome::Committed),
        // The end of what may have run is an operator's word.
        (Role::Source, false, true) | (Role::Destination, true, _) => Some(Outcome::Aborted),
        (Role::Source, false, false) => match evidence.phase {
            JobPhase::Confirm3 => Some(Outcome::Committed),
            JobPhase::Confirm3Cancelled => Some(Outcome::Aborted),
            JobPhase::Begin
            | JobPhase::Prepare
            | JobPhase::Perform
            | JobPhase::Finish
            | JobPhase::Cancel
            | JobPhase::Begin3
            | JobPhase::Perform3
            | JobPhase::Perform3Done
            | JobPhase::Finish3 => None,
        },
        (Role::Destination, false, false) => None,
    }
}

fn dead_source(evidence: &JobEvidence) -> Rule {
    match verdict(Role::Source, evidence) {
        Some(Outcome::Committed) => Rule::DrivenSourceEnded,
        None if evidence.phase == JobPhase::Perform3Done => Rule::DrivenSourceQuit,
        Some(Outcome::Aborted) | None => Rule::JobDead,
    }
}

fn dead_destination(evidence: &JobEvidence) -> Rule {
    match verdict(Role::Destination, evidence) {
        Some(Outcome::Committed) => Rule::JobDead,
        Some(Outcome::Aborted) | None => Rule::DrivenDestinationEnded,
    }
}

/// It ends all the same where its end was decided.
fn mute(role: Role, evidence: &JobEvidence) -> Rule {
    let is_given_away = verdict(role, evidence) == Some(Outcome::Committed);
    let is_ended = evidence.facts.end != EffectStanding::Never;
    match role {
        Role::Source if is_given_away => Rule::DrivenSourceConfirm,
        Role::Destination if is_ended => Rule::DrivenDestinationAborted,
        Role::Source | Role::Destination => Rule::QemuMute,
    }
}

/// While its manager drives it: what that did to QEMU without saying so.
fn past_the_sidecar(role: Role, evidence: &JobEvidence) -> Option<Rule> {
    let status = status_class(evidence.observed.migration.as_ref());
    let has_run = match run_class(evidence.observed.run_state.as_ref()) {
        RunClass::Running | RunClass::Ran => true,
        RunClass::Paused
        | RunClass::Inmigrate
        | RunClass::FinishMigrate
        | RunClass::Postmigrate
        | RunClass::Unknown => false,
    };
    if !has_run || verdict(role, evidence).is_some() {
        return None;
    }
    match role {
        // Else what is completed may be an older migration.
        Role::Source => {
            let is_it = evidence.facts.stream == EffectStanding::Done;
            (is_it && status == StatusClass::Completed).then_some(Rule::DrivenSourceCont)
        }
        Role::Destination => (!may_be_half(status)).then_some(Rule::DrivenDestinationRunning),
    }
}

/// Destination: can a guest that runs here have a part of it at the source? A stream that is not post-copy's has brought all
/// of it before it runs: what goes on then goes on from here.
const fn may_be_half(status: StatusClass) -> bool {
    match status {
        StatusClass::Postcopy | StatusClass::PostcopyBroken | StatusClass::Unknown => true,
        StatusClass::None
        | StatusClass::Performing
        | StatusClass::PreSwitchover
        | StatusClass::Device
        | StatusClass::Cancelling
        | StatusClass::Ended
        | StatusClass::Completed => false,
    }
}

/// While a client drives it by plain commands: nobody but QEMU says when it is over.
fn told_from_commands(role: Role, evidence: &JobEvidence) -> Option<Rule> {
    let run = run_class(evidence.observed.run_state.as_ref());
    let status = status_class(evidence.observed.migration.as_ref());
    let is_there = matches!(run, RunClass::Running | RunClass::Ran | RunClass::Paused);
    let has_run = matches!(run, RunClass::Running | RunClass::Ran);
    let nothing_streams = evidence.facts.stream == EffectStanding::Never;
    match (role, status) {
        (Role::Source, _) if evidence.facts.end != EffectStanding::Never => None,
        (Role::Source, StatusClass::Completed) if nothing_streams => Some(Rule::DrivenOver),
        (Role::Source, StatusClass::Completed) => match verdict(role, evidence) {
            Some(Outcome::Aborted) => is_there.then_some(Rule::DrivenOver),
            None => has_run.then_some(Rule::DrivenSourceCont),
            Some(Outcome::Committed) => None,
        },
        (Role::Source, StatusClass::None | StatusClass::Ended) => {
            (run != RunClass::FinishMigrate).then_some(Rule::DrivenOver)
        }
        (Role::Destination, status) if has_run && !may_be_half(status) => {
            Some(Rule::DrivenDestinationRunning)
        }
        (Role::Destination, StatusClass::None) if nothing_streams => Some(Rule::DrivenOver),
        (Role::Destination, StatusClass::Ended) => Some(Rule::DrivenOver),
        (
            Role::Source | Role::Destination,
            StatusClass::None
            | StatusClass::Performing
            | StatusClass::PreSwitchover
            | StatusClass::Device
            | StatusClass::Cancelling
            | StatusClass::Completed
            | StatusClass::Postcopy
            | StatusClass::PostcopyBroken
            | StatusClass::Unknown,
        ) => None,
    }
}

/// What an unmodified manager began is not cancelled, ended or continued behind its back: it may still go on.
fn unless_recognised(evidence: &JobEvidence, rule: Rule) -> Rule {
    let run = run_class(evidence.observed.run_state.as_ref());
    if !evidence.recognised || evidence.phase == JobPhase::Cancel {
        return rule;
    }
    match rule {
        Rule::DrivenSourceGiveUp => Rule::DrivenSourceTakenUp,
        Rule::DrivenSourceUndone | Rule::DrivenDestinationFailed => Rule::DrivenOver,
        Rule::DrivenSourceAborted => match (run, evidence.wanted) {
            (RunClass::Running | RunClass::Ran, _) => Rule::DrivenOver,
            // Its `cont` was refused, or never sent: it may have gone on to the destination.
            (RunClass::FinishMigrate | RunClass::Postmigrate, WantedRunState::Running)
                if status_class(evidence.observed.migration.as_ref()) == StatusClass::Completed =>
            {
                told_there(evidence)
            }
            (_, _) => rule,
        },
        Rule::DrivenSourceCompleted => told_there(evidence),
        Rule::DrivenDestinationWaiting if evidence.facts.stream == EffectStanding::Never => {
            Rule::DrivenOver
        }
        rule => rule,
    }
}

/// Everything was sent: where its manager's word was seen, if that was at the other side.
fn told_there(evidence: &JobEvidence) -> Rule {
    match (evidence.peer, verdict(Role::Source, evidence)) {
        (PeerAnswer::Started, None) => Rule::DrivenSourceStartedThere,
        // It says that both have the guest, or the other side has not heard its word. That a copy was given up
        // there does not say that this one goes on: its guest may have gone to a third host, or be ended here too.
        (
            PeerAnswer::NotAsked
            | PeerAnswer::Unreachable
            | PeerAnswer::Amnesia
            | PeerAnswer::NoSuchMigration
            | PeerAnswer::Performing
            | PeerAnswer::Granted
            | PeerAnswer::GrantedAndSafe
            | PeerAnswer::Abandoned
            | PeerAnswer::NotWhole
            | PeerAnswer::Whole
            | PeerAnswer::Deciding
            | PeerAnswer::Started
            | PeerAnswer::Aborted
            | PeerAnswer::Split
            | PeerAnswer::Lost
            | PeerAnswer::Committed,
            _,
        ) => Rule::DrivenSourceCompleted,
    }
}

fn source(evidence: &JobEvidence) -> Rule {
    let run = run_class(evidence.observed.run_state.as_ref());
    let status = status_class(evidence.observed.migration.as_ref());
    // QEMU may end at any moment by itself; one that runs was continued past the sidecar.
    if evidence.facts.end != EffectStanding::Never {
        return match run {
            RunClass::Running | RunClass::Ran => Rule::DrivenSourceUnproven,
            RunClass::Paused
            | RunClass::Inmigrate
            | RunClass::FinishMigrate
            | RunClass::Postmigrate
            | RunClass::Unknown => Rule::DrivenSourceConfirm,
        };
    }
    match verdict(Role::Source, evidence) {
        Some(Outcome::Committed) => match (status, run) {
            (StatusClass::Completed, RunClass::FinishMigrate | RunClass::Postmigrate) => {
                Rule::DrivenSourceConfirm
            }
            (_, _) => Rule::DrivenSourceUnproven,
        },
        Some(Outcome::Aborted) => match (status, run) {
            (StatusClass::Postcopy | StatusClass::PostcopyBroken, _) => Rule::DrivenPostcopy,
            (StatusClass::Unknown, _) | (_, RunClass::Inmigrate | RunClass::Unknown) => {
                Rule::NoRuleForThis
            }
            (_, _) => Rule::DrivenSourceAborted,
        },
        None => undecided_source(evidence, status, run),
    }
}

fn undecided_source(evidence: &JobEvidence, status: StatusClass, run: RunClass) -> Rule {
    let is_granted = evidence.phase == JobPhase::Perform3Done;
    let stream = evidence.facts.stream;
    match (stream, status, run) {
        (_, StatusClass::Postcopy | StatusClass::PostcopyBroken, _) => Rule::DrivenPostcopy,
        (_, StatusClass::Unknown, _) | (_, _, RunClass::Inmigrate | RunClass::Unknown) => {
            Rule::NoRuleForThis
        }
        // The status comes first, the run state a moment later.
        (
            EffectStanding::Unknown | EffectStanding::Done,
            StatusClass::Completed,
            RunClass::FinishMigrate | RunClass::Postmigrate,
        ) => Rule::DrivenSourceCompleted,
        (
            EffectStanding::Unknown | EffectStanding::Done,
            StatusClass::Completed,
            RunClass::Running | RunClass::Ran,
        ) => Rule::DrivenSourceCont,
        // A guest that stood still when its migration began does not stand so when that is completed: it is an older one
        // that QEMU speaks of, or somebody continued and stopped the guest.
        (EffectStanding::Unknown, StatusClass::Completed, RunClass::Paused) if !is_granted => {
            Rule::DrivenSourceUndone
        }
        (
            EffectStanding::Unknown | EffectStanding::Done,
            StatusClass::Completed,
            RunClass::Paused,
        ) => Rule::NoRuleForThis,
        // What was granted was completed then.
        (_, _, _) if is_granted => Rule::NoRuleForThis,
        (
            EffectStanding::Unknown | EffectStanding::Done,
            StatusClass::Performing
            | StatusClass::PreSwitchover
            | StatusClass::Device
            | StatusClass::Cancelling,
            _,
        ) => Rule::DrivenSourceGiveUp,
        // Somebody else's.
        (
            EffectStanding::Never,
            StatusClass::Performing
            | StatusClass::PreSwitchover
            | StatusClass::Device
            | StatusClass::Cancelling,
            _,
        ) => Rule::NoRuleForThis,
        // It began on a guest that was here: an older copy of the journal does not know of its own stream.
        (
            EffectStanding::Never,
            StatusClass::Completed,
            RunClass::FinishMigrate | RunClass::Postmigrate,
        ) => Rule::NoRuleForThis,
        (EffectStanding::Never, StatusClass::Completed, _)
        | (_, StatusClass::None | StatusClass::Ended, _) => Rule::DrivenSourceUndone,
    }
}

fn destination(evidence: &JobEvidence) -> Rule {
    let run = run_class(evidence.observed.run_state.as_ref());
    let status = status_class(evidence.observed.migration.as_ref());
    let facts = &evidence.facts;
    let has_run = matches!(run, RunClass::Running | RunClass::Ran);
    if facts.end != EffectStanding::Never {
        // What ran is never taken back, whatever was said before.
        return match has_run {
            true => Rule::NoRuleForThis,
            false => Rule::DrivenDestinationAborted,
        };
    }
    let is_cancelled = evidence.phase == JobPhase::Cancel && facts.main == EffectStanding::Never;
    match (status, run) {
        (StatusClass::Postcopy | StatusClass::PostcopyBroken, _) => Rule::DrivenPostcopy,
        (_, RunClass::Running | RunClass::Ran) => Rule::DrivenDestinationRunning,
        // What was sent on from here may be the guest, and nowhere else.
        (_, RunClass::Inmigrate | RunClass::Paused)
            if is_cancelled && !was_sent_on(&evidence.observed) =>
        {
            Rule::DrivenDestinationAborted
        }
        (_, RunClass::Inmigrate) if facts.main != EffectStanding::Never => Rule::NoRuleForThis,
        (StatusClass::Ended, RunClass::Inmigrate) => Rule::DrivenDestinationFailed,
        (StatusClass::Unknown, RunClass::Inmigrate) => Rule::NoRuleForThis,
        (_, RunClass::Inmigrate) => Rule::DrivenDestinationWaiting,
        (StatusClass::Completed, RunClass::Paused) => match facts.main {
            EffectStanding::Never => Rule::DrivenDestinationWhole,
            EffectStanding::Unknown => Rule::DrivenDestinationCommitted,
            // It ran, and its owner stopped it.
            EffectStanding::Done => Rule::DrivenDestinationRunning,
        },
        (
            _,
            RunClass::Paused | RunClass::FinishMigrate | RunClass::Postmigrate | RunClass::Unknown,
        ) => Rule::NoRuleForThis,
    }
}
