//! Recognised migrations under managers that change their mind, come twice, or come at a bad moment: whatever they do, the
//! sidecar neither continues nor ends a guest on a word that was not one. `Pair` holds that two never run.

use journal_format::number::{Id128, JournalId};
use journal_format::record::{
    Decision, JobKind, JobPhase, MigrationStatus, Outcome, RecordBody, RunState, WantedRunState,
};
use serde_json::{Value, json};

use super::super::NOTHING;
use super::super::bench::{Bench, NAME};
use super::{Pair, STEP_MS, Side};
use crate::engine::{ControlRequest, JobTarget, QemuEvent};

fn uri() -> Value {
    json!({"uri": "tcp:[::1]:4444"})
}

fn listen(pair: &mut Pair) {
    for command in ["stop", "migrate-incoming"] {
        pair.destination.send(command, &uri()).unwrap();
    }
}

/// Until everything was sent, and the source stands like that.
fn flow_until(pair: &mut Pair, stands: &RunState) {
    for _ in 0..2000 {
        let qemu = &pair.source.qemu;
        if qemu.status == MigrationStatus::Completed && qemu.run == *stands {
            return;
        }
        if qemu.status == MigrationStatus::PreSwitchover {
            let state = json!({"state": "pre-switchover"});
            pair.source.send("migrate-continue", &state).unwrap();
        }
        pair.run_for(10);
    }
    panic!("{}", pair.story());
}

/// Everything was sent, and the destination is whole.
fn sent(run: RunState, stands: &RunState) -> Pair {
    let mut pair = Pair::new(run);
    listen(&mut pair);
    pair.source.send("migrate", &uri()).unwrap();
    flow_until(&mut pair, stands);
    pair
}

fn another_destination(pair: &mut Pair) {
    let journal = JournalId(Id128([0xA7; 16]));
    pair.destination = Bench::of(journal, RunState::Inmigrate);
    pair.destination.qemu.is_paired = true;
}

/// QEMU refuses a `cont` in finish-migrate; the manager then goes forward. The source is held, takes its `quit`, and is not
/// continued after a restart.
#[test]
fn a_refused_cont_is_not_carried_out_later() {
    for (restarts_first, quits) in [(false, false), (true, false), (false, true)] {
        let mut pair = Pair::new(RunState::Running);
        listen(&mut pair);
        pair.source.send("migrate", &uri()).unwrap();
        if restarts_first {
            pair.source.restart();
        }
        flow_until(&mut pair, &RunState::FinishMigrate);
        drop(pair.source.send("cont", &NOTHING()));
        assert_ne!(pair.source.qemu.run, RunState::Running);
        pair.run_for(2 * STEP_MS);
        pair.destination.send("cont", &NOTHING()).unwrap();
        pair.run_for(2 * STEP_MS);
        if quits {
            pair.source.send("quit", &NOTHING()).unwrap();
            pair.run_for(2 * STEP_MS);
            assert!(!pair.source.qemu.alive, "{}", pair.story());
            assert!(pair.open_job(Side::Source).is_none(), "{}", pair.story());
            continue;
        }
        pair.source.restart();
        pair.run_for(5 * STEP_MS);
        let rules = pair.source.rules();
        assert!(rules.contains(&"driven-source-completed"), "{rules:?}");
        assert_ne!(pair.source.qemu.run, RunState::Running);
    }
}

/// The first destination failed; right behind the `cont` comes a `migrate` to another one: a migration of its own, whose
/// completed is held like that of any other.
#[test]
fn a_migration_right_behind_a_cont_is_one_of_its_own() {
    let mut pair = sent(RunState::Running, &RunState::Postmigrate);
    pair.run_for(2 * STEP_MS);
    another_destination(&mut pair);
    pair.source.plain("cont", &NOTHING(), false);
    while pair.source.qemu.run != RunState::Running {
        pair.source.pump_one();
    }
    listen(&mut pair);
    // QEMU's answer is with the client; the look after it is not back.
    pair.source.plain("migrate", &uri(), false);
    pair.source.pump();
    let open = pair.open_job(Side::Source).unwrap();
    assert_eq!(open.phase.unwrap().to_string(), "perform3", "{open:?}");
    flow_until(&mut pair, &RunState::Postmigrate);
    pair.run_for(2 * STEP_MS);
    pair.destination.send("cont", &NOTHING()).unwrap();
    pair.source.restart();
    pair.run_for(5 * STEP_MS);
    assert_ne!(pair.source.qemu.run, RunState::Running, "{}", pair.story());
}

/// Whoever was told that a destination is given up may continue the source.
#[test]
fn a_destination_that_was_cancelled_is_not_continued() {
    for is_first in [true, false] {
        let mut pair = sent(RunState::Running, &RunState::Postmigrate);
        pair.run_for(2 * STEP_MS);
        let job = pair.open_job(Side::Destination).unwrap().job;
        let bench = &mut pair.destination;
        let cancel = ControlRequest::JobCancel { job };
        if is_first {
            bench.control(cancel);
            bench.plain("cont", &NOTHING(), false);
        } else {
            bench.plain("cont", &NOTHING(), false);
            bench.control(cancel);
        }
        bench.pump();
        let run = pair.destination.qemu.run.clone();
        assert_ne!(run, RunState::Running, "{}", pair.story());
    }
}

/// QEMU carries out of band only what says nothing of whose the guest is.
#[test]
fn out_of_band_says_nothing() {
    for command in ["cont", "quit", "migrate"] {
        let mut pair = sent(RunState::Running, &RunState::Postmigrate);
        pair.run_for(2 * STEP_MS);
        pair.source.plain("device_add", &NOTHING(), false);
        pair.source.plain(command, &uri(), true);
        // What is looked at first would be looked at now.
        pair.source.pump_one();
        pair.source.pump_one();
        let phases = pair.source.phases();
        let is_word = |phase: &String| phase.starts_with("confirm3");
        assert!(!phases.iter().any(is_word), "{command}: {phases:?}");
    }
    let mut bench = Bench::new(RunState::Running);
    bench.plain("migrate", &uri(), true);
    assert_eq!(bench.jobs().len(), 0);
}

/// P8: what its owner did past the sidecar is seen before the migration begins.
#[test]
fn a_guest_that_was_paused_past_the_sidecar_stays_so() {
    for restarts in [true, false] {
        let mut pair = Pair::new(RunState::Running);
        listen(&mut pair);
        pair.source.qemu.run = RunState::Paused;
        pair.is_paused = true;
        if restarts {
            pair.source.restart();
        }
        pair.source.plain("migrate", &uri(), false);
        pair.source.pump();
        let job = pair.open_job(Side::Source).unwrap().job;
        pair.cancel(Side::Source, job);
        pair.run_for(3 * STEP_MS);
        assert_eq!(pair.source.qemu.run, RunState::Paused, "{}", pair.story());
    }
}

/// A `stop` of a QEMU that waits for its guest is no wish of the guest's owner.
#[test]
fn a_stop_before_the_guest_is_there_is_no_wish() {
    let mut pair = sent(RunState::Running, &RunState::Postmigrate);
    pair.run_for(2 * STEP_MS);
    let mut bodies = pair.destination.bodies();
    let wishes = bodies.any(|body| {
        matches!(body, RecordBody::WantedChanged(changed) if changed.wanted == WantedRunState::Paused)
    });
    assert!(!wishes, "{}", pair.story());
}

/// P8: one command says whose the guest is, and not whether its owner had paused it.
#[test]
fn a_word_alone_continues_no_guest_of_which_nothing_is_known() {
    for run in [RunState::Running, RunState::Paused] {
        let mut pair = sent(run, &RunState::Postmigrate);
        pair.run_for(2 * STEP_MS);
        let verdict = ControlRequest::Verdict {
            target: JobTarget::Domain(NAME.to_owned()),
            outcome: Outcome::Committed,
            uid: 0,
        };
        let refused = pair.destination.ask(verdict).unwrap_err();
        assert!(refused.contains("finish3"), "{refused}");
        assert_eq!(pair.destination.qemu.run, RunState::Paused);
    }
}

/// A guest that was not sent away, and that a client then saved to a file, goes on when it says so.
#[test]
fn a_save_after_a_cancelled_migration_gives_nothing_away() {
    let mut bench = Bench::new(RunState::Running);
    bench.qemu.is_paired = true;
    bench.send("migrate", &uri()).unwrap();
    let job = bench.jobs()[0].job;
    bench.ask(ControlRequest::JobCancel { job }).unwrap();
    bench.run_for(3 * STEP_MS);
    bench.qemu.is_paired = false;
    let file = json!({"uri": "exec:cat>/image"});
    bench.send("migrate", &file).unwrap();
    bench.run_for(3 * STEP_MS);
    assert_eq!(bench.qemu.run, RunState::Postmigrate);
    bench.tell(QemuEvent::Migration(MigrationStatus::Completed));
    bench.send("cont", &NOTHING()).unwrap();
}

/// A save is none, however it is said; a guest that QEMU would send is sent, whatever stopped it.
#[test]
fn what_is_a_migration() {
    let mut bench = Bench::new(RunState::Running);
    let addr = json!({"transport": "file", "filename": "/image", "offset": 0});
    let channels = json!({"channels": [{"channel-type": "main", "addr": addr}]});
    bench.send("migrate", &channels).unwrap();
    assert_eq!(bench.jobs().len(), 0, "{:?}", bench.jobs());
    for run in [RunState::Prelaunch, RunState::IoError, RunState::Suspended] {
        let mut bench = Bench::new(run.clone());
        bench.send("migrate", &uri()).unwrap();
        assert_eq!(bench.jobs().len(), 1, "{run}");
    }
}

/// A client that began post-copy continues the guest where most of it is.
#[test]
fn a_split_guest_is_continued() {
    let mut pair = Pair::new(RunState::Running);
    listen(&mut pair);
    pair.destination.qemu.status = MigrationStatus::PostcopyActive;
    pair.destination.qemu.run = RunState::Paused;
    pair.destination.send("cont", &NOTHING()).unwrap();
}

/// Two clients, or one that comes twice: the second one waits for the first.
#[test]
fn a_second_word_waits_for_the_first() {
    let mut pair = sent(RunState::Running, &RunState::Postmigrate);
    pair.run_for(2 * STEP_MS);
    pair.destination.plain("cont", &NOTHING(), false);
    let second = pair.destination.plain("cont", &NOTHING(), false);
    pair.destination.pump();
    let answer = pair.destination.answer(second);
    assert!(!answer.contains("refused"), "{answer}");
}

/// A paused guest came, and nobody continued it: its next hop is a migration of its own, with a way back.
#[test]
fn a_paused_guest_goes_on_to_a_third_host() {
    let mut pair = sent(RunState::Paused, &RunState::Postmigrate);
    pair.source.send("quit", &NOTHING()).unwrap();
    pair.run_for(5 * STEP_MS);
    let bench = &mut pair.destination;
    bench.send("migrate", &uri()).unwrap();
    let kinds: Vec<JobKind> = bench.jobs().iter().map(|job| job.kind).collect();
    assert_eq!(kinds.last(), Some(&JobKind::MigrationOut), "{kinds:?}");
    bench.qemu.status = MigrationStatus::Completed;
    bench.qemu.run = RunState::Postmigrate;
    bench.tell(QemuEvent::Migration(MigrationStatus::Completed));
    bench.run_for(2 * STEP_MS);
    bench.restart();
    bench.run_for(2 * STEP_MS);
    // The third host failed.
    bench.send("cont", &NOTHING()).unwrap();
}

/// The manager gave the guest away, and its QEMU shows otherwise: an operator's word ends it.
#[test]
fn an_operator_gives_a_paused_guest_back() {
    let mut pair = sent(RunState::Paused, &RunState::Postmigrate);
    pair.run_for(2 * STEP_MS);
    let job = pair.open_job(Side::Source).unwrap().job;
    let confirm = JobPhase::Confirm3;
    pair.enter(Side::Source, job, confirm, &[], None).unwrap();
    pair.source.qemu.run = RunState::Paused;
    pair.source.restart();
    pair.run_for(2 * STEP_MS);
    let resume = ControlRequest::Resolve {
        name: NAME.to_owned(),
        decision: Decision::Resume,
        force: true,
        statement: "the destination is fenced".to_owned(),
        uid: 0,
    };
    pair.source.ask(resume).unwrap();
    pair.run_for(5 * STEP_MS);
    assert!(pair.open_job(Side::Source).is_none(), "{}", pair.story());
    assert!(pair.source.qemu.alive, "{}", pair.story());
}
