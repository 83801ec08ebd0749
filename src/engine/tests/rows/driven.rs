//! Rows of migrations that their manager drives itself; and their table over the whole product of what it may be asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use journal_format::record::{
    EffectStanding, JobEvidence, JobFacts, JobKind, JobPhase, MigrationStatus, PeerAnswer, Process,
    RunState,
};

use super::jobs::{at, with};
use crate::engine::{Rule, decide_job};

fn source(phase: JobPhase, run: RunState, status: MigrationStatus) -> JobEvidence {
    with(at(JobKind::MigrationOut, run, status), |one| {
        one.phase = phase;
        one.facts.stream = match phase {
            JobPhase::Begin3 => EffectStanding::Never,
            _ => EffectStanding::Done,
        };
    })
}

fn destination(phase: JobPhase, run: RunState, status: MigrationStatus) -> JobEvidence {
    with(at(JobKind::MigrationIn, run, status), |one| {
        one.phase = phase;
        one.facts.stream = EffectStanding::Done;
    })
}

fn dead(evidence: JobEvidence) -> JobEvidence {
    with(evidence, |one| {
        one.observed.process = Process::Dead;
        (one.observed.run_state, one.observed.migration) = (None, None);
    })
}

fn mute(evidence: JobEvidence) -> JobEvidence {
    with(evidence, |one| one.observed.process = Process::Mute)
}

fn by_manager(evidence: JobEvidence) -> JobEvidence {
    with(evidence, |one| one.recovering = false)
}

fn ended(evidence: JobEvidence, end: EffectStanding) -> JobEvidence {
    with(evidence, |one| one.facts.end = end)
}

fn continued(evidence: JobEvidence, main: EffectStanding) -> JobEvidence {
    with(evidence, |one| one.facts.main = main)
}

pub(super) fn rows() -> Vec<(JobEvidence, Option<Rule>)> {
    [sources(), destinations(), recognised()].concat()
}

fn sources() -> Vec<(JobEvidence, Option<Rule>)> {
    use EffectStanding as E;
    use JobPhase as P;
    use MigrationStatus as M;
    use RunState as R;
    let sent = |phase| source(phase, R::Postmigrate, M::Completed);
    let unanswered = |run| {
        with(source(P::Perform3, run, M::Completed), |one| {
            one.facts.stream = E::Unknown;
        })
    };
    let cancelled = |evidence| with(by_manager(evidence), |one| one.phase = P::Cancel);
    vec![
        // While its manager drives it: only what that did past the sidecar.
        (by_manager(source(P::Perform3, R::Running, M::Active)), None),
        (by_manager(sent(P::Perform3)), None),
        (by_manager(sent(P::Perform3Done)), None),
        (by_manager(mute(sent(P::Perform3Done))), None),
        (
            by_manager(source(P::Perform3Done, R::Running, M::Completed)),
            Some(Rule::DrivenSourceCont),
        ),
        // An older migration's.
        (by_manager(unanswered(R::Running)), None),
        (
            by_manager(source(P::Begin3, R::Running, M::Completed)),
            None,
        ),
        (
            by_manager(dead(sent(P::Perform3Done))),
            Some(Rule::DrivenSourceQuit),
        ),
        (
            by_manager(dead(source(P::Perform3, R::Running, M::Active))),
            Some(Rule::JobDead),
        ),
        // After a restart.
        (
            source(P::Begin3, R::Running, M::None),
            Some(Rule::DrivenSourceUndone),
        ),
        (
            source(P::Begin3, R::Running, M::Completed),
            Some(Rule::DrivenSourceUndone),
        ),
        // Its own, which an older copy of the journal does not know of.
        (
            source(P::Begin3, R::Postmigrate, M::Completed),
            Some(Rule::NoRuleForThis),
        ),
        (
            source(P::Begin3, R::Running, M::Active),
            Some(Rule::NoRuleForThis),
        ),
        (
            source(P::Perform3, R::Running, M::Active),
            Some(Rule::DrivenSourceGiveUp),
        ),
        (
            source(P::Perform3, R::FinishMigrate, M::PreSwitchover),
            Some(Rule::DrivenSourceGiveUp),
        ),
        (
            source(P::Perform3, R::FinishMigrate, M::Device),
            Some(Rule::DrivenSourceGiveUp),
        ),
        (
            source(P::Perform3, R::Running, M::Cancelling),
            Some(Rule::DrivenSourceGiveUp),
        ),
        (
            source(P::Perform3, R::Running, M::Failed),
            Some(Rule::DrivenSourceUndone),
        ),
        (
            source(P::Perform3, R::FinishMigrate, M::Completed),
            Some(Rule::DrivenSourceCompleted),
        ),
        (sent(P::Perform3), Some(Rule::DrivenSourceCompleted)),
        (sent(P::Perform3Done), Some(Rule::DrivenSourceCompleted)),
        (
            cancelled(sent(P::Perform3)),
            Some(Rule::DrivenSourceCompleted),
        ),
        (
            cancelled(source(P::Perform3, R::Running, M::Active)),
            Some(Rule::DrivenSourceGiveUp),
        ),
        (
            source(P::Perform3, R::Running, M::Completed),
            Some(Rule::DrivenSourceCont),
        ),
        (
            source(P::Perform3Done, R::GuestPanicked, M::Completed),
            Some(Rule::DrivenSourceCont),
        ),
        (unanswered(R::Running), Some(Rule::DrivenSourceCont)),
        (unanswered(R::Paused), Some(Rule::DrivenSourceUndone)),
        (
            source(P::Perform3, R::Paused, M::Completed),
            Some(Rule::NoRuleForThis),
        ),
        (
            source(P::Perform3Done, R::Running, M::Failed),
            Some(Rule::NoRuleForThis),
        ),
        (
            source(P::Perform3, R::Colo, M::Active),
            Some(Rule::NoRuleForThis),
        ),
        (
            source(P::Perform3, R::FinishMigrate, M::PostcopyActive),
            Some(Rule::DrivenPostcopy),
        ),
        (mute(sent(P::Perform3Done)), Some(Rule::QemuMute)),
        (dead(sent(P::Perform3)), Some(Rule::JobDead)),
        (dead(sent(P::Perform3Done)), Some(Rule::DrivenSourceQuit)),
        // Its manager's word.
        (sent(P::Confirm3), Some(Rule::DrivenSourceConfirm)),
        (mute(sent(P::Confirm3)), Some(Rule::DrivenSourceConfirm)),
        (
            ended(sent(P::Perform3Done), E::Unknown),
            Some(Rule::DrivenSourceConfirm),
        ),
        (
            source(P::Confirm3, R::Running, M::Completed),
            Some(Rule::DrivenSourceUnproven),
        ),
        (
            source(P::Confirm3, R::Postmigrate, M::Failed),
            Some(Rule::DrivenSourceUnproven),
        ),
        (dead(sent(P::Confirm3)), Some(Rule::DrivenSourceEnded)),
        (sent(P::Confirm3Cancelled), Some(Rule::DrivenSourceAborted)),
        (
            source(P::Confirm3Cancelled, R::Running, M::Failed),
            Some(Rule::DrivenSourceAborted),
        ),
        (
            continued(sent(P::Confirm3), E::Unknown),
            Some(Rule::DrivenSourceAborted),
        ),
        (
            source(P::Confirm3Cancelled, R::Colo, M::Completed),
            Some(Rule::NoRuleForThis),
        ),
        (dead(sent(P::Confirm3Cancelled)), Some(Rule::JobDead)),
    ]
}

fn destinations() -> Vec<(JobEvidence, Option<Rule>)> {
    use EffectStanding as E;
    use JobPhase as P;
    use MigrationStatus as M;
    use RunState as R;
    let whole = |phase| destination(phase, R::Paused, M::Completed);
    let waiting = || destination(P::Prepare, R::Inmigrate, M::Active);
    let cancelled = |evidence| with(by_manager(evidence), |one| one.phase = P::Cancel);
    vec![
        (by_manager(waiting()), None),
        (by_manager(whole(P::Prepare)), None),
        (
            by_manager(destination(P::Prepare, R::Running, M::Completed)),
            Some(Rule::DrivenDestinationRunning),
        ),
        // Somebody continued it, and sends or saves it from here.
        (
            by_manager(destination(P::Prepare, R::Running, M::Active)),
            Some(Rule::DrivenDestinationRunning),
        ),
        (
            by_manager(destination(P::Prepare, R::Running, M::Failed)),
            Some(Rule::DrivenDestinationRunning),
        ),
        // A part of it may be at the source.
        (
            by_manager(destination(P::Prepare, R::Running, M::PostcopyActive)),
            None,
        ),
        (
            by_manager(destination(P::Prepare, R::Running, M::PostcopyPaused)),
            None,
        ),
        // Whether it ever ran here is not seen any more.
        (
            by_manager(destination(P::Prepare, R::Postmigrate, M::Completed)),
            None,
        ),
        (
            cancelled(destination(P::Prepare, R::Postmigrate, M::Completed)),
            Some(Rule::NoRuleForThis),
        ),
        (
            by_manager(continued(
                destination(P::Finish3, R::Running, M::Completed),
                E::Done,
            )),
            None,
        ),
        (
            by_manager(dead(waiting())),
            Some(Rule::DrivenDestinationEnded),
        ),
        (waiting(), Some(Rule::DrivenDestinationWaiting)),
        (
            destination(P::Prepare, R::Inmigrate, M::None),
            Some(Rule::DrivenDestinationWaiting),
        ),
        (
            destination(P::Prepare, R::Inmigrate, M::Failed),
            Some(Rule::DrivenDestinationFailed),
        ),
        (continued(waiting(), E::Unknown), Some(Rule::NoRuleForThis)),
        (whole(P::Prepare), Some(Rule::DrivenDestinationWhole)),
        (whole(P::Finish3), Some(Rule::DrivenDestinationWhole)),
        (
            continued(whole(P::Finish3), E::Unknown),
            Some(Rule::DrivenDestinationCommitted),
        ),
        (
            continued(whole(P::Finish3), E::Done),
            Some(Rule::DrivenDestinationRunning),
        ),
        (
            destination(P::Prepare, R::Running, M::Completed),
            Some(Rule::DrivenDestinationRunning),
        ),
        (
            ended(whole(P::Finish3), E::Unknown),
            Some(Rule::DrivenDestinationAborted),
        ),
        (
            ended(
                destination(P::Finish3, R::Running, M::Completed),
                E::Unknown,
            ),
            Some(Rule::NoRuleForThis),
        ),
        (
            cancelled(whole(P::Prepare)),
            Some(Rule::DrivenDestinationAborted),
        ),
        (cancelled(waiting()), Some(Rule::DrivenDestinationAborted)),
        (
            cancelled(destination(P::Prepare, R::Running, M::Completed)),
            Some(Rule::DrivenDestinationRunning),
        ),
        (mute(whole(P::Prepare)), Some(Rule::QemuMute)),
        (
            mute(ended(whole(P::Finish3), E::Unknown)),
            Some(Rule::DrivenDestinationAborted),
        ),
        (
            destination(P::Prepare, R::Paused, M::PostcopyActive),
            Some(Rule::DrivenPostcopy),
        ),
        (
            destination(P::Prepare, R::Paused, M::None),
            Some(Rule::NoRuleForThis),
        ),
        (dead(whole(P::Prepare)), Some(Rule::DrivenDestinationEnded)),
        (
            dead(ended(whole(P::Finish3), E::Done)),
            Some(Rule::DrivenDestinationEnded),
        ),
        (
            dead(continued(whole(P::Finish3), E::Unknown)),
            Some(Rule::JobDead),
        ),
    ]
}

/// Told from a client's plain commands.
fn recognised() -> Vec<(JobEvidence, Option<Rule>)> {
    use EffectStanding as E;
    use JobPhase as P;
    use MigrationStatus as M;
    use PeerAnswer as A;
    use RunState as R;
    let told = |evidence| with(evidence, |one| one.recognised = true);
    let driven = |evidence| by_manager(told(evidence));
    let refused = |evidence| {
        with(evidence, |one: &mut JobEvidence| {
            one.facts.stream = E::Never
        })
    };
    let sent = |phase| source(phase, R::Postmigrate, M::Completed);
    let says = |evidence, peer| with(evidence, |one: &mut JobEvidence| one.peer = peer);
    let performing = || source(P::Perform3, R::Running, M::Active);
    let failed = || source(P::Perform3, R::Running, M::Failed);
    let continued_here = |phase| source(phase, R::Running, M::Completed);
    let waiting = || destination(P::Prepare, R::Inmigrate, M::Active);
    let running = || destination(P::Finish3, R::Running, M::Completed);
    vec![
        (driven(performing()), None),
        (driven(failed()), Some(Rule::DrivenOver)),
        (
            driven(refused(continued_here(P::Perform3))),
            Some(Rule::DrivenOver),
        ),
        (driven(sent(P::Perform3Done)), None),
        (
            driven(continued_here(P::Perform3Done)),
            Some(Rule::DrivenSourceCont),
        ),
        (
            driven(continued_here(P::Confirm3Cancelled)),
            Some(Rule::DrivenOver),
        ),
        (driven(ended(sent(P::Confirm3), E::Unknown)), None),
        (driven(waiting()), None),
        (
            driven(refused(destination(P::Prepare, R::Inmigrate, M::None))),
            Some(Rule::DrivenOver),
        ),
        (
            driven(destination(P::Prepare, R::Inmigrate, M::Failed)),
            Some(Rule::DrivenOver),
        ),
        (
            driven(continued(running(), E::Done)),
            Some(Rule::DrivenDestinationRunning),
        ),
        (
            driven(destination(P::Prepare, R::Running, M::Active)),
            Some(Rule::DrivenDestinationRunning),
        ),
        (
            driven(destination(P::Prepare, R::Running, M::Failed)),
            Some(Rule::DrivenDestinationRunning),
        ),
        (
            driven(destination(P::Prepare, R::Running, M::PostcopyActive)),
            None,
        ),
        (told(performing()), Some(Rule::DrivenSourceTakenUp)),
        (told(failed()), Some(Rule::DrivenOver)),
        (told(sent(P::Perform3)), Some(Rule::DrivenSourceCompleted)),
        (
            told(sent(P::Confirm3Cancelled)),
            Some(Rule::DrivenSourceCompleted),
        ),
        (
            told(continued_here(P::Confirm3Cancelled)),
            Some(Rule::DrivenOver),
        ),
        (
            told(says(sent(P::Perform3), A::Started)),
            Some(Rule::DrivenSourceStartedThere),
        ),
        (
            told(says(sent(P::Perform3Done), A::Started)),
            Some(Rule::DrivenSourceStartedThere),
        ),
        (
            told(says(sent(P::Perform3Done), A::Aborted)),
            Some(Rule::DrivenSourceCompleted),
        ),
        (
            told(says(sent(P::Confirm3Cancelled), A::Aborted)),
            Some(Rule::DrivenSourceCompleted),
        ),
        // Its manager says that both have the guest.
        (
            told(says(sent(P::Confirm3Cancelled), A::Started)),
            Some(Rule::DrivenSourceCompleted),
        ),
        // Its manager said so, whatever the other side says.
        (
            told(says(sent(P::Confirm3), A::Aborted)),
            Some(Rule::DrivenSourceConfirm),
        ),
        (
            told(says(sent(P::Perform3Done), A::Whole)),
            Some(Rule::DrivenSourceCompleted),
        ),
        (
            told(says(sent(P::Perform3Done), A::Amnesia)),
            Some(Rule::DrivenSourceCompleted),
        ),
        // Not everything was sent, for all that is seen here.
        (
            told(says(performing(), A::Started)),
            Some(Rule::DrivenSourceTakenUp),
        ),
        // Its manager may still be there.
        (driven(says(sent(P::Perform3Done), A::Started)), None),
        (driven(says(sent(P::Perform3Done), A::Aborted)), None),
        // Nobody else asks.
        (
            says(sent(P::Perform3Done), A::Started),
            Some(Rule::DrivenSourceCompleted),
        ),
        (told(sent(P::Confirm3)), Some(Rule::DrivenSourceConfirm)),
        (told(waiting()), Some(Rule::DrivenDestinationWaiting)),
        (
            told(destination(P::Prepare, R::Inmigrate, M::Failed)),
            Some(Rule::DrivenOver),
        ),
        // Asked to end, it is given up as any other.
        (
            with(told(performing()), |one| one.phase = P::Cancel),
            Some(Rule::DrivenSourceGiveUp),
        ),
    ]
}

#[test]
fn every_row_of_a_driven_migration_gives_its_rule() {
    for (evidence, expected) in rows() {
        assert_eq!(decide_job(&evidence), expected, "{evidence:?}");
    }
}

/// Every phase over every standing of its effects, every run state and every status that matter: a changed decision is a
/// changed line.
#[test]
fn the_product_of_driven_migrations() {
    use MigrationStatus as M;
    use RunState as R;
    let runs = [
        R::Running,
        R::Paused,
        R::Inmigrate,
        R::FinishMigrate,
        R::Postmigrate,
        R::SaveVm,
    ];
    let statuses = [
        M::None,
        M::Active,
        M::PreSwitchover,
        M::Device,
        M::Cancelling,
        M::Failed,
        M::Completed,
        M::PostcopyActive,
        M::PostcopyPaused,
        M::Colo,
    ];
    let mut looks = vec![
        dead(source(JobPhase::Perform3, R::Running, M::None)).observed,
        mute(source(JobPhase::Perform3, R::Running, M::None)).observed,
    ];
    for run in &runs {
        for status in &statuses {
            looks.push(source(JobPhase::Perform3, run.clone(), status.clone()).observed);
        }
    }
    let phases = [
        (JobKind::MigrationOut, JobPhase::Begin3),
        (JobKind::MigrationOut, JobPhase::Perform3),
        (JobKind::MigrationOut, JobPhase::Perform3Done),
        (JobKind::MigrationOut, JobPhase::Confirm3),
        (JobKind::MigrationOut, JobPhase::Confirm3Cancelled),
        (JobKind::MigrationOut, JobPhase::Cancel),
        (JobKind::MigrationIn, JobPhase::Prepare),
        (JobKind::MigrationIn, JobPhase::Finish3),
        (JobKind::MigrationIn, JobPhase::Cancel),
    ];
    let mut lines = String::new();
    for (kind, phase) in phases {
        for (recovering, recognised) in [(false, false), (true, false), (false, true), (true, true)]
        {
            for observed in &looks {
                let mut rules: BTreeMap<&str, u32> = BTreeMap::new();
                for stream in EffectStanding::ALL {
                    for main in EffectStanding::ALL {
                        for end in EffectStanding::ALL {
                            let one = with(at(kind, R::Running, M::None), |one| {
                                one.phase = phase;
                                (one.recovering, one.recognised) = (recovering, recognised);
                                one.observed = observed.clone();
                                one.facts = JobFacts {
                                    stream: *stream,
                                    main: *main,
                                    end: *end,
                                };
                            });
                            let rule = decide_job(&one).map_or("none", Rule::name);
                            *rules.entry(rule).or_default() += 1;
                        }
                    }
                }
                let word = |text: Option<String>| text.unwrap_or_default();
                let run = word(observed.run_state.as_ref().map(ToString::to_string));
                let status = word(observed.migration.as_ref().map(ToString::to_string));
                let who = match (recovering, recognised) {
                    (false, false) => "driven",
                    (true, false) => "restarted",
                    (false, true) => "told",
                    (true, true) => "told, restarted",
                };
                let process = observed.process;
                let _ = write!(lines, "{kind} {phase} {who} | {process} {run} {status} |");
                for (rule, points) in rules {
                    let _ = write!(lines, " {rule} {points}");
                }
                lines.push('\n');
            }
        }
    }
    insta::assert_snapshot!("driven", lines);
}
