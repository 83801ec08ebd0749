//! SIGKILL of a QEMU in every phase, while the sidecars live.
//!
//! Never two copies; the survivor runs if it is whole and provably the newest, else it is held with
//! the reason.

use phase_journal_lab::pair::{Limits, Pair, Side, Waited};
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};

use crate::scenario::{NUMBERS, TIMEOUT, assert_never_two, pair, performing, settle_all, wait_for};

/// What the survivor must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survivor {
    Runs(Side),
    Held(Side, &'static str),
    /// There is no whole copy left.
    Gone,
}

fn assert_survivor(pair: &mut Pair, expected: Survivor, what: &str) {
    match expected {
        Survivor::Runs(side) => {
            settle_all(pair, what);
            let conclusion = pair.conclude(NUMBERS, TIMEOUT).unwrap();
            assert!(conclusion.is_clean_and_running(), "{what}: {conclusion}");
            assert_eq!(pair.qemu(side).run_state().unwrap(), "running", "{what}");
        }
        Survivor::Held(side, rule) => {
            wait_for(pair, what, |settled| {
                settled
                    .held()
                    .iter()
                    .any(|(at, held)| *at == side && held.rule == rule)
            });
        }
        Survivor::Gone => {
            settle_all(pair, what);
        }
    }
    assert_never_two(pair, what);
}

/// Runs a migration up to a record of one side, with that side's sidecar dead from there; kills a
/// QEMU; brings the sidecar back.
fn at_record(record: &str, recorder: Side, victim: Side, expected: Survivor) {
    let crash = RunOptions::crashing(CrashPoint::AfterRecord(record.to_owned()));
    let plain = RunOptions::default();
    let (a, b) = match recorder {
        Side::A => (crash, plain.clone()),
        Side::B => (plain.clone(), crash),
    };
    let mut pair = pair(a, b);
    let what = format!("{record} at {recorder}, QEMU of {victim} killed");
    pair.migrate(Side::A, Limits::default()).unwrap();
    let waited = pair
        .wait_for_crash(recorder, TIMEOUT)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(waited, Waited::Crashed, "{what}");
    pair.qemu(victim).kill().unwrap();
    pair.sidecar(recorder)
        .start(&plain)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_survivor(&mut pair, expected, &what);
}

#[test]
fn the_source_dies_in_begin() {
    at_record("job-begun", Side::A, Side::A, Survivor::Gone);
}

#[test]
fn the_destination_dies_in_begin() {
    at_record("job-begun", Side::A, Side::B, Survivor::Runs(Side::A));
}

#[test]
fn the_destination_dies_in_prepare() {
    at_record("job-begun", Side::B, Side::B, Survivor::Runs(Side::A));
}

#[test]
fn the_source_dies_while_performing() {
    let mut pair = performing();
    pair.qemu(Side::A).kill().unwrap();
    assert_survivor(&mut pair, Survivor::Gone, "source killed while performing");
}

#[test]
fn the_destination_dies_while_performing() {
    let mut pair = performing();
    pair.qemu(Side::B).kill().unwrap();
    let what = "destination killed while performing";
    assert_survivor(&mut pair, Survivor::Runs(Side::A), what);
}

#[test]
fn the_source_dies_after_it_granted() {
    at_record(
        "migration-granted",
        Side::A,
        Side::A,
        Survivor::Runs(Side::B),
    );
}

#[test]
fn the_destination_dies_before_it_heard_of_the_grant() {
    at_record(
        "migration-granted",
        Side::A,
        Side::B,
        Survivor::Runs(Side::A),
    );
}

/// The intent of its one `cont` is durable and its result unknown: it counts as having run, so the
/// source must never run again, though here it would have been safe.
#[test]
fn the_destination_dies_after_it_committed() {
    at_record("migration-committed", Side::B, Side::B, Survivor::Gone);
}

#[test]
fn the_source_dies_after_the_destination_committed() {
    at_record(
        "migration-committed",
        Side::B,
        Side::A,
        Survivor::Runs(Side::B),
    );
}

#[test]
fn the_destination_dies_after_it_started() {
    at_record("migration-started", Side::B, Side::B, Survivor::Gone);
}

/// The source's QEMU dies when everything is sent and nothing granted, with its sidecar dead: that
/// copy may have run on by itself, so the destination's is held, not run.
#[test]
fn the_source_dies_unwatched_before_it_granted() {
    let what = "source killed unwatched between completed and granted";
    let crash = RunOptions::crashing(CrashPoint::BeforeRecord("migration-granted".to_owned()));
    let mut pair = pair(crash, RunOptions::default());
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::A, TIMEOUT).unwrap(),
        Waited::Crashed,
        "{what}"
    );
    assert_eq!(
        pair.qemu(Side::A).run_state().unwrap(),
        "postmigrate",
        "{what}"
    );
    pair.qemu(Side::A).kill().unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    let expected = Survivor::Held(Side::A, "source-perform-dead-unwatched");
    assert_survivor(&mut pair, expected, what);
    let conclusion = pair
        .conclude(3, std::time::Duration::from_millis(500))
        .unwrap();
    assert!(conclusion.is_clean_and_stopped(), "{what}: {conclusion}");
}
