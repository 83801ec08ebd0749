//! Post-copy on real QEMU: the guest runs at the destination before its memory is there; a stream that
//! breaks is taken up again without a human; a guest whose half died is ended, never resumed.

use std::time::Duration;

use phase_journal_lab::by_hand::wait_status;
use phase_journal_lab::pair::{Pair, Side};
use phase_journal_lab::relay::Relay;
use phase_journal_lab::sidecar::RunOptions;
use phase_journal_lab::until;
use serde_json::json;

use crate::dangers::{intents, signal};
use crate::scenario::{
    POSTCOPY, TIMEOUT, assert_never_two, assert_one_runs, assert_sound, restless_pair, settle_all,
};

/// In bytes per second: what the guest writes to takes many seconds to follow it.
const TRICKLE: u64 = 32 * 1024;

/// How often a test tries to be quicker than a sidecar.
const RELAYS_MAX: u32 = 10;
/// How long a destination whose source asked it to prepare takes at most to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// How fast memory follows the guest; 0 is as fast as it can.
fn set_postcopy_bandwidth(pair: &mut Pair, bytes: u64) {
    let monitor = pair.qemu(Side::A).monitor();
    let parameters = json!({"max-postcopy-bandwidth": bytes});
    monitor
        .execute("migrate-set-parameters", parameters)
        .unwrap();
}

/// The guest runs at B, and most of its memory is still at A.
fn split() -> Pair {
    let mut pair = restless_pair(RunOptions::default(), RunOptions::default());
    set_postcopy_bandwidth(&mut pair, TRICKLE);
    pair.migrate(Side::A, POSTCOPY).unwrap();
    wait_guest_over(&mut pair);
    pair
}

fn wait_guest_over(pair: &mut Pair) {
    wait_status(pair.qemu(Side::A).monitor(), "postcopy-active").unwrap();
    // What its interrupts need is there then. Else it would wait for memory with QEMU's big lock held
    // (TCG pushes an interrupt's frame under it), and QEMU would answer nobody.
    let first = pair.qemu(Side::B).wait_for_number(1, TIMEOUT).unwrap();
    let numbers = first + 2;
    pair.qemu(Side::B)
        .wait_for_number(numbers, TIMEOUT)
        .unwrap();
}

fn break_stream(pair: &mut Pair) {
    let monitor = pair.qemu(Side::A).monitor();
    monitor.execute("migrate-pause", json!({})).unwrap();
}

/// The rules of one side's decisions, newest last.
fn rules(pair: &mut Pair, side: Side) -> Vec<String> {
    let decisions = pair
        .sidecar(side)
        .execute("query-decisions", json!({}))
        .unwrap();
    let rule = |one: &serde_json::Value| one["rule"].as_str().map(ToOwned::to_owned);
    decisions
        .as_array()
        .unwrap()
        .iter()
        .filter_map(rule)
        .collect()
}

#[test]
fn the_guest_goes_over_before_its_memory() {
    let mut pair = split();
    let status = pair.qemu(Side::B).migration_status().unwrap();
    assert_eq!(status, "postcopy-active");
    set_postcopy_bandwidth(&mut pair, 0);
    assert_eq!(assert_one_runs(&mut pair, "post-copy"), Side::B);
}

#[test]
fn a_broken_stream_is_taken_up_again() {
    let mut pair = split();
    break_stream(&mut pair);
    let resumed = until("the stream taken up", TIMEOUT, || {
        let broken = rules(&mut pair, Side::A).contains(&"source-postcopy-broken".to_owned());
        Ok(broken.then_some(()))
    });
    resumed.unwrap();
    set_postcopy_bandwidth(&mut pair, 0);
    assert_eq!(assert_one_runs(&mut pair, "resumed"), Side::B);
    assert!(rules(&mut pair, Side::A).contains(&"source-postcopy-broken".to_owned()));
}

/// A migration whose stream goes through a relay from its beginning. The source's sidecar stands still
/// while that takes the place of the socket which the destination listens on.
fn relayed() -> (Pair, Relay) {
    for _ in 0..RELAYS_MAX {
        let mut pair = restless_pair(RunOptions::default(), RunOptions::default());
        set_postcopy_bandwidth(&mut pair, TRICKLE);
        pair.migrate(Side::A, POSTCOPY).unwrap();
        let sidecar = pair.sidecar(Side::A).pid().unwrap();
        signal(sidecar, "STOP");
        let listens = until("the destination listening", LISTENS_WITHIN, || {
            let stream = pair.directory().join("m0");
            Ok(stream.exists().then_some(stream))
        });
        let is_early = !intents(&mut pair, Side::A)
            .iter()
            .any(|one| one == "migrate");
        // Stopped before it asked the destination to prepare, nobody listens.
        let relay = listens.ok().filter(|_| is_early);
        let relay = relay.map(|stream| Relay::take_over(&stream).unwrap());
        signal(sidecar, "CONT");
        if let Some(relay) = relay {
            return (pair, relay);
        }
    }
    panic!("{RELAYS_MAX} times the source's sidecar was quicker, or too slow");
}

/// The destination's QEMU goes on waiting for a stream that is broken at its other end.
#[test]
fn a_break_that_the_destination_does_not_notice_is_taken_up_again() {
    let (mut pair, _relay) = relayed();
    wait_guest_over(&mut pair);
    break_stream(&mut pair);
    let given_up = until("the stream given up", TIMEOUT, || {
        let intents = intents(&mut pair, Side::B);
        Ok(intents
            .iter()
            .any(|one| one == "migrate-pause")
            .then_some(()))
    });
    given_up.unwrap();
    set_postcopy_bandwidth(&mut pair, 0);
    assert_eq!(assert_one_runs(&mut pair, "given up"), Side::B);
}

/// It breaks while no sidecar is there, and they come back in either order.
#[test]
fn a_stream_that_breaks_unseen_is_taken_up_again() {
    for first in Side::BOTH {
        let mut pair = split();
        for side in Side::BOTH {
            pair.sidecar(side).kill().unwrap();
        }
        break_stream(&mut pair);
        wait_status(pair.qemu(Side::B).monitor(), "postcopy-paused").unwrap();
        set_postcopy_bandwidth(&mut pair, 0);
        let plain = RunOptions::default();
        pair.restart_both(first, &plain, &plain).unwrap();
        let what = format!("unseen, {first} first");
        assert_eq!(assert_one_runs(&mut pair, &what), Side::B);
    }
}

/// A half that is left alone is no guest: it is ended, and the job says that the guest crashed.
#[test]
fn a_guest_whose_half_died_is_ended() {
    for victim in Side::BOTH {
        for with_sidecars in [true, false] {
            let what = format!("QEMU {victim} killed, sidecars there: {with_sidecars}");
            let mut pair = split();
            if !with_sidecars {
                for side in Side::BOTH {
                    pair.sidecar(side).kill().unwrap();
                }
            }
            pair.qemu(victim).kill().unwrap();
            let plain = RunOptions::default();
            if !with_sidecars {
                pair.restart_both(victim, &plain, &plain)
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            settle_all(&mut pair, &what);
            assert!(!pair.qemu(victim.other()).is_alive().unwrap(), "{what}");
            assert_never_two(&pair, &what);
            for side in Side::BOTH {
                assert_sound(&mut pair, side, &what);
            }
        }
    }
}

/// No manager and no operator can cancel it: QEMU would do so, and destroy the guest.
#[test]
fn a_split_guest_is_not_cancelled() {
    let mut pair = split();
    let jobs = pair.sidecar(Side::A).execute("query-jobs", json!({}));
    let job = jobs.unwrap()[0]["job"].as_u64().unwrap();
    let refused = pair
        .sidecar(Side::A)
        .execute("job-cancel", json!({"job": job}));
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("no longer ours to choose"), "{why}");
    set_postcopy_bandwidth(&mut pair, 0);
    assert_eq!(assert_one_runs(&mut pair, "not cancelled"), Side::B);
}
