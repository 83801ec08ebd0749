//! What the guest's owner wants: a guest paused before or during the job stays paused (P8).

use std::time::Duration;

use phase_journal_lab::pair::{DOMAIN, Limits, Pair, Side, Waited};
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use serde_json::json;

use crate::scenario::{NUMBERS, TIMEOUT, pair, performing, settle_all};

fn assert_paused(pair: &mut Pair, side: Side, what: &str) {
    settle_all(pair, what);
    let conclusion = pair.conclude(3, Duration::from_millis(400)).unwrap();
    assert!(conclusion.is_clean_and_stopped(), "{what}: {conclusion}");
    let domains = pair.sidecar(side).domains().unwrap();
    assert_eq!(domains[0].wanted, "paused", "{what}");
    // It is whole: its owner can have it run on.
    pair.sidecar(side)
        .execute("domain-resume", json!({"name": DOMAIN}))
        .unwrap();
    let conclusion = pair.conclude(NUMBERS, TIMEOUT).unwrap();
    assert!(conclusion.is_clean_and_running(), "{what}: {conclusion}");
}

fn pause_by_sidecar(pair: &mut Pair) {
    pair.sidecar(Side::A)
        .execute("domain-suspend", json!({"name": DOMAIN}))
        .unwrap();
}

fn pause_by_hand(pair: &mut Pair) {
    pair.qemu(Side::A)
        .monitor()
        .execute("stop", json!({}))
        .unwrap();
}

#[test]
fn a_guest_paused_before_the_job_arrives_paused() {
    for pause in [pause_by_sidecar, pause_by_hand] {
        let mut pair = pair(RunOptions::default(), RunOptions::default());
        pause(&mut pair);
        pair.migrate(Side::A, Limits::default()).unwrap();
        assert_paused(&mut pair, Side::B, "paused before, no crash");
    }
}

#[test]
fn a_guest_paused_before_the_job_stays_paused_through_a_crash() {
    for record in ["migration-granted", "outcome-learned"] {
        let crash = RunOptions::crashing(CrashPoint::AfterRecord(record.to_owned()));
        let mut pair = pair(crash, RunOptions::default());
        pause_by_sidecar(&mut pair);
        pair.migrate(Side::A, Limits::default()).unwrap();
        assert_eq!(
            pair.wait_for_crash(Side::A, TIMEOUT).unwrap(),
            Waited::Crashed,
            "{record}"
        );
        pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
        assert_paused(&mut pair, Side::B, record);
    }
}

/// Paused while it is being sent: it converges, arrives, and stays paused.
#[test]
fn a_guest_paused_during_the_job_arrives_paused() {
    for pause in [pause_by_sidecar, pause_by_hand] {
        let mut pair = performing();
        pause(&mut pair);
        assert_paused(&mut pair, Side::B, "paused during the job");
    }
}

/// Paused while it is being sent, then the sidecar dies: given up, and still paused at the source.
#[test]
fn a_guest_paused_during_a_job_that_is_given_up_stays_paused() {
    let mut pair = performing();
    pair.sidecar(Side::A).kill().unwrap();
    pause_by_hand(&mut pair);
    // Paused by its owner with nobody watching: seen when the sidecar is back.
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_paused(&mut pair, Side::A, "paused with nobody watching");
}

#[test]
fn a_cancelled_migration_leaves_the_guest_running() {
    let mut pair = performing();
    let jobs = pair.sidecar(Side::A).jobs(None).unwrap();
    pair.sidecar(Side::A)
        .execute("job-cancel", json!({"job": jobs[0].job}))
        .unwrap();
    settle_all(&mut pair, "cancelled");
    let conclusion = pair.conclude(NUMBERS, TIMEOUT).unwrap();
    assert!(conclusion.is_clean_and_running(), "{conclusion}");
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "running");
    let jobs = pair.sidecar(Side::A).jobs(Some(DOMAIN)).unwrap();
    assert_eq!(jobs[0].result.as_deref(), Some("cancelled"));
}
