//! Migrations that their manager drives itself and does not come back to: what shows a state that no word is for is taken from it
//! by `job-cancel`, which sends nothing to QEMU, and is then an operator's.

use journal_format::record::{
    Decision, JobKind, JobPhase, JobResult, MigrationStatus, Outcome, RunState,
};

use super::super::bench::NAME;
use super::super::{NOTHING, result};
use super::{Pair, STEP_MS, Side, granted, send};
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
    assert!(refused.contains("is not held"), "{refused}");
    assert!(refused.contains("until job-cancel"), "{refused}");
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

/// The other half's sidecar has lost its journal meanwhile, and knows of nothing: what is asked of it changes nothing here.
#[test]
fn half_a_guest_whose_other_side_forgot_it() {
    let mut pair = Pair::new(RunState::Running);
    pair.is_introduced = true;
    send(&mut pair).unwrap();
    pair.source.qemu.status = MigrationStatus::PostcopyPaused;
    pair.destination.qemu.status = MigrationStatus::PostcopyPaused;
    pair.destination.lose_journal();
    is_half(&mut pair, Side::Source);
    is_held_once_cancelled(&mut pair, Side::Source, "driven-postcopy");
    let cont = pair.source.send("cont", &NOTHING());
    assert!(cont.is_err(), "{cont:?}");
    pair.source.ask(word(Decision::Kill)).unwrap();
    pair.run_for(2 * STEP_MS);
    assert!(!pair.source.qemu.alive, "{}", pair.story());
    assert!(pair.open_job(Side::Source).is_none(), "{}", pair.story());
}

/// The destination was continued, as post-copy asks for, before the stream broke: it is too late for `job-cancel` there, and what
/// runs is ended, or left as it is, by an operator's word alone.
#[test]
fn half_a_guest_that_was_continued() {
    for decision in [Decision::Kill, Decision::Confirm] {
        let mut pair = Pair::new(RunState::Running);
        let (_, to) = send(&mut pair).unwrap();
        let take = [("cont", NOTHING())];
        pair.enter(Side::Destination, to, JobPhase::Finish3, &take, None)
            .unwrap();
        pair.source.qemu.status = MigrationStatus::PostcopyPaused;
        pair.destination.qemu.status = MigrationStatus::PostcopyPaused;
        pair.run_for(STEP_MS);
        is_half(&mut pair, Side::Destination);
        let cancel = ControlRequest::JobCancel { job: to };
        let refused = pair.destination.ask(cancel).unwrap_err();
        assert!(refused.contains("operator's: resolve"), "{refused}");
        pair.destination.ask(word(decision)).unwrap();
        pair.run_for(2 * STEP_MS);
        let story = pair.story();
        assert!(pair.open_job(Side::Destination).is_none(), "{story}");
        let is_ended = decision == Decision::Kill;
        assert_eq!(!pair.destination.qemu.alive, is_ended, "{story}");
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
    use MigrationStatus::{Completed, Failed};
    for (run, status) in [
        (RunState::Postmigrate, Completed),
        (RunState::Postmigrate, Failed),
        // Its owner keeps it paused, and it could not be saved.
        (RunState::Paused, Failed),
    ] {
        saved_unseen(run, status);
    }
}

fn saved_unseen(run: RunState, status: MigrationStatus) {
    let mut pair = Pair::new(RunState::Running);
    send(&mut pair).unwrap();
    pair.destination.qemu.run = run;
    pair.destination.qemu.status = status;
    let says = "not whole, or ran already";
    is_refused(&mut pair, Side::Destination, Outcome::Committed, says);
    // It may be nowhere else.
    let says = "may be the guest (job-cancel, then resolve)";
    is_refused(&mut pair, Side::Destination, Outcome::Aborted, says);
    is_held_once_cancelled(&mut pair, Side::Destination, "no-rule-for-this");
    pair.destination.ask(word(Decision::Confirm)).unwrap();
    pair.run_for(STEP_MS);
    let jobs = pair.destination.jobs();
    assert_eq!(jobs.last().map(|job| job.kind), Some(JobKind::MigrationIn));
    assert_eq!(result(jobs.last()), Some(JobResult::Failed));
    assert!(pair.destination.qemu.alive, "{}", pair.story());
}

/// A hand from outside continues the source behind its manager's back, and streams it to nowhere: the manager's word is refused, since the
/// other one was seen, and it is too late to cancel.
fn continued_and_sent_on() -> Pair {
    let mut pair = Pair::new(RunState::Running);
    let (from, _) = send(&mut pair).unwrap();
    granted(&mut pair, from).unwrap();
    pair.destination.qemu.alive = false;
    pair.source.qemu.run = RunState::Running;
    pair.source.tell(QemuEvent::Resume);
    pair.run_for(STEP_MS);
    assert_eq!(pair.source.rules(), ["driven-source-cont"]);
    pair.source.qemu.run = RunState::Postmigrate;
    pair.source.qemu.status = MigrationStatus::Failed;
    pair.run_for(10 * STEP_MS);
    let says = "if it is wrong: resolve";
    is_refused(&mut pair, Side::Source, Outcome::Committed, says);
    let cancel = ControlRequest::JobCancel { job: from };
    let refused = pair.source.ask(cancel).unwrap_err();
    assert!(refused.contains("operator's: resolve"), "{refused}");
    pair
}

#[test]
fn a_word_that_was_seen_and_is_wrong_is_an_operator_s() {
    for decision in [Decision::Kill, Decision::Resume, Decision::Confirm] {
        let mut pair = continued_and_sent_on();
        let mut unforced = word(decision);
        if let ControlRequest::Resolve { force, .. } = &mut unforced {
            *force = false;
        }
        let refused = pair.source.ask(unforced).unwrap_err();
        assert!(refused.contains("use force"), "{refused}");
        pair.source.ask(word(decision)).unwrap();
        pair.run_for(10 * STEP_MS);
        let story = pair.story();
        assert!(pair.open_job(Side::Source).is_none(), "{decision} {story}");
        let qemu = &pair.source.qemu;
        let stands = (qemu.alive, qemu.run == RunState::Running);
        let expected = match decision {
            Decision::Kill => (false, false),
            Decision::Resume => (true, true),
            Decision::Confirm | Decision::Hold => (true, false),
        };
        assert_eq!(stands, expected, "{decision} {story}");
    }
}

/// Its manager hears who closed it.
#[test]
fn nothing_more_is_done_in_what_an_operator_closed() {
    let mut pair = continued_and_sent_on();
    let job = pair.open_job(Side::Source).unwrap().job;
    let end = ControlRequest::JobEnd {
        job,
        result: JobResult::Failed,
    };
    pair.source.ask(word(Decision::Confirm)).unwrap();
    let refused = pair.source.ask(end).unwrap_err();
    assert!(refused.contains("an operator closed it"), "{refused}");
}
