//! When QEMU may stop the guest for the switchover: only while a sidecar is there to take it.

use phase_journal_lab::by_hand::wait_status;
use phase_journal_lab::pair::{Pair, Side};
use phase_journal_lab::sidecar::RunOptions;
use phase_journal_lab::until;
use serde_json::{Value, json};

use crate::scenario::{TIMEOUT, assert_one_runs, performing_within, settle};

/// In milliseconds: the guest's working set needs some 500 (see `RESTLESS_BANDWIDTH`), so that QEMU
/// would converge after the first pass.
const AMPLE_LIMIT: u64 = 5_000;
/// In milliseconds: never enough for it.
const SMALL_LIMIT: u64 = 20;
/// Passes over memory that show that QEMU does not converge.
const PASSES: u64 = 6;

/// What QEMU at A says of its migration.
fn migration(pair: &mut Pair) -> Value {
    let monitor = pair.qemu(Side::A).monitor();
    monitor.execute("query-migrate", json!({})).unwrap()
}

/// Waits until QEMU at A has begun so many passes; whether the guest still runs then.
fn passes(pair: &mut Pair, count: u64) -> bool {
    let passed = until("passes over memory", TIMEOUT, || {
        let answer = migration(pair);
        let passes = answer["ram"]["dirty-sync-count"].as_u64().unwrap_or(0);
        let is_over = answer["status"] != "active";
        Ok((passes >= count || is_over).then_some(!is_over))
    });
    passed.unwrap() && pair.qemu(Side::A).run_state().unwrap() == "running"
}

/// The danger: with its own limit QEMU stops the guest, and waits for somebody. What avoids it: the limit
/// is held down while nobody is there.
#[test]
fn a_guest_does_not_stand_still_because_its_sidecar_died() {
    let mut pair = performing_within(AMPLE_LIMIT);
    pair.sidecar(Side::A).kill().unwrap();
    assert!(passes(&mut pair, PASSES), "{}", migration(&mut pair));

    // With the limit that was asked for nobody would be there to go on.
    let monitor = pair.qemu(Side::A).monitor();
    let limit = json!({"downtime-limit": AMPLE_LIMIT});
    monitor.execute("migrate-set-parameters", limit).unwrap();
    wait_status(monitor, "pre-switchover").unwrap();
    assert_ne!(pair.qemu(Side::A).run_state().unwrap(), "running");

    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "after the pause"), Side::A);
}

/// A sidecar that is there lets QEMU converge, as soon as that is possible within the limit.
#[test]
fn a_sidecar_that_is_there_lets_it_converge() {
    let mut pair = performing_within(AMPLE_LIMIT);
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "converged"), Side::B);
}

/// It keeps to the limit: what does not fit into it goes on performing, with the guest running.
#[test]
fn a_sidecar_keeps_to_the_limit() {
    let mut pair = performing_within(SMALL_LIMIT);
    assert!(passes(&mut pair, PASSES), "{}", migration(&mut pair));
    let answer = pair.sidecar(Side::A).execute("query-jobs", json!({}));
    let job = answer.unwrap()[0]["job"].as_u64().unwrap();
    let cancelled = pair
        .sidecar(Side::A)
        .execute("job-cancel", json!({"job": job}));
    cancelled.unwrap();
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "cancelled"), Side::A);
}
