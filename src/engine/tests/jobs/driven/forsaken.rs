//! Migrations that their manager drives itself and does not come back to: what shows a state that no word is for is taken from it
//! by `job-cancel`, which sends nothing to QEMU, and is then an operator's.

use journal_format::record::{Decision, JobKind, JobResult, MigrationStatus, Outcome, RunState};

use super::super::bench::NAME;
use super::super::result;
use super::{Pair, STEP_MS, Side, send};
use crate::engine::{ControlRequest, JobTarget, QemuEvent};

fn word(decision: Decision) -> ControlRequest {
    ControlRequest::Resolve {
        name: NAME.to_owned(),
        decision,
        force: true,
        statement: "the other side is off".to_owned(),
        uid: 0,
    }
}

fn verdict(outcome: Outcome) -> ControlRequest {
    ControlRequest::Verdict {
        target: JobTarget::Domain(NAME.to_owned()),
        outcome,
        uid: 0,
    }
}

fn is_refused(pair: &mut Pair, side: Side, outcome: Outcome, says: &str) {
    let refused = pair.side(side).ask(verdict(outcome)).unwrap_err();
    assert!(refused.contains(says), "{refused}");
}

/// No word is taken for half a guest.
fn is_half(pair: &mut Pair, side: Side) {
    for outcome in [Outcome::Committed, Outcome::Aborted] {
        is_refused(pair, side, outcome, "job-cancel, then resolve");
    }
}

/// Nothing is there to be resolved; asked to end, it is held under that rule, and no effect follows.
fn is_held_once_cancelled(pair: &mut Pair, side: Side, rule: &str) {
    pair.run_for(10 * STEP_MS);
    let refused = pair.side(side).ask(word(Decision::Confirm)).unwrap_err();
    assert!(refused.contains("not held"), "{refused}");
    let before = (pair.source.effects(), pair.destination.effects());
    let job = pair.open_job(side).unwrap().job;
    let cancel = ControlRequest::JobCancel { job };
    pair.side(side).ask(cancel).unwrap();
    pair.run_for(10 * STEP_MS);
    let is_held = pair.side(side).rules() == [rule];
    assert!(is_held, "{rule}\n{}", pair.story());
    let after = (pair.source.effects(), pair.destination.effects());
    assert_eq!(before, after, "{}", pair.story());
}

#[test]
fn half_a_guest() {
    for side in [Side::Source, Side::Destination] {
        let mut pair = Pair::new(RunState::Running);
        send(&mut pair).unwrap();
        pair.source.qemu.status = MigrationStatus::PostcopyPaused;
        pair.destination.qemu.status = MigrationStatus::PostcopyPaused;
        is_half(&mut pair, side);
        is_held_once_cancelled(&mut pair, side, "driven-postcopy");
        pair.side(side).ask(word(Decision::Kill)).unwrap();
        pair.run_for(2 * STEP_MS);
        assert!(!pair.side(side).qemu.alive, "{}", pair.story());
        assert!(pair.open_job(side).is_none(), "{}", pair.story());
    }
}

/// A stream that is mended after all goes on as if nobody had asked.
#[test]
fn half_a_guest_whose_manager_comes_back() {
    let mut pair = Pair::new(RunState::Running);
    send(&mut pair).unwrap();
    pair.source.qemu.status = MigrationStatus::PostcopyPaused;
    is_half(&mut pair, Side::Source);
    is_held_once_cancelled(&mut pair, Side::Source, "driven-postcopy");
    pair.source.qemu.status = MigrationStatus::Completed;
    pair.source.qemu.run = RunState::Postmigrate;
    pair.run_for(2 * STEP_MS);
    pair.source.ask(verdict(Outcome::Committed)).unwrap();
    pair.run_for(2 * STEP_MS);
    assert_eq!(
        result(pair.source.jobs().last()),
        Some(JobResult::Completed),
        "{}",
        pair.story()
    );
    assert!(!pair.source.qemu.alive, "{}", pair.story());
}

/// It was continued, and a save of it failed: it is here, and the job is over.
#[test]
fn continued_past_the_sidecar_and_not_saved() {
    let mut pair = Pair::new(RunState::Running);
    send(&mut pair).unwrap();
    pair.destination.qemu.run = RunState::Running;
    pair.destination.qemu.status = MigrationStatus::Failed;
    pair.destination.tell(QemuEvent::Resume);
    pair.run_for(STEP_MS);
    assert_eq!(pair.destination.rules(), ["driven-destination-running"]);
    assert_eq!(
        result(pair.destination.jobs().last()),
        Some(JobResult::Completed)
    );
}

/// It was continued and saved, and nobody looked while it ran.
#[test]
fn saved_past_the_sidecar_unseen() {
    let mut pair = Pair::new(RunState::Running);
    send(&mut pair).unwrap();
    pair.destination.qemu.run = RunState::Postmigrate;
    let says = "not whole, or ran already";
    is_refused(&mut pair, Side::Destination, Outcome::Committed, says);
    is_held_once_cancelled(&mut pair, Side::Destination, "no-rule-for-this");
    pair.destination.ask(word(Decision::Confirm)).unwrap();
    pair.run_for(STEP_MS);
    let jobs = pair.destination.jobs();
    assert_eq!(jobs.last().map(|job| job.kind), Some(JobKind::MigrationIn));
    assert_eq!(result(jobs.last()), Some(JobResult::Failed));
    assert!(pair.destination.qemu.alive, "{}", pair.story());
}
