//! Authority manager on real QEMU: both copies are held until the manager says which one is the guest.

use phase_journal_lab::Error;
use phase_journal_lab::pair::{DOMAIN, Limits, Pair, Side};
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use serde_json::{Value, json};

use crate::scenario::{TIMEOUT, assert_never_two, assert_one_runs, pair, wait_for};

const BY_MANAGER: Limits = Limits {
    protocol: None,
    max_bandwidth: None,
    downtime_limit: None,
    postcopy: false,
    authority: Some("manager"),
    copied: 0,
};

fn verdict(pair: &mut Pair, side: Side, outcome: &str) -> Result<Value, Error> {
    let arguments = json!({"name": DOMAIN, "outcome": outcome});
    pair.sidecar(side).execute("migrate-verdict", arguments)
}

/// Everything was sent, and both sides wait.
fn waiting(a: RunOptions) -> Pair {
    let mut pair = pair(a, RunOptions::default());
    pair.migrate(Side::A, BY_MANAGER).unwrap();
    wait_until_held(&mut pair);
    pair
}

fn wait_until_held(pair: &mut Pair) {
    wait_for(pair, "both wait for the manager", |settled| {
        let mut rules: Vec<&str> = Vec::new();
        rules.extend(settled.held().iter().map(|(_, held)| held.rule.as_str()));
        rules == ["source-verdict-awaited", "destination-verdict-awaited"]
    });
    assert_never_two(pair, "held");
}

#[test]
fn a_verdict_gives_the_guest_to_either_side() {
    for (told, outcome, runs) in [
        (Side::B, "committed", Side::B),
        (Side::A, "committed", Side::B),
        (Side::A, "aborted", Side::A),
        (Side::B, "aborted", Side::A),
    ] {
        let mut pair = waiting(RunOptions::default());
        let decision = verdict(&mut pair, told, outcome).unwrap();
        assert_eq!(decision["rule"], "manager-verdict");
        let what = format!("{outcome} at {told}");
        assert_eq!(assert_one_runs(&mut pair, &what), runs, "{what}");
        pair.qemu(runs.other()).wait_dead(TIMEOUT).unwrap();
    }
}

/// A sidecar that is restarted while it waits waits on; and one that dies on the manager's word carries
/// it out when it is back.
#[test]
fn a_hold_and_a_verdict_outlive_a_crash() {
    let mut pair = waiting(RunOptions::default());
    pair.sidecar(Side::A).kill().unwrap();
    let crash = CrashPoint::AfterRecord("verdict-given".to_owned());
    pair.sidecar(Side::A)
        .start(&RunOptions::crashing(crash))
        .unwrap();
    wait_until_held(&mut pair);
    // It dies before it answers.
    assert!(verdict(&mut pair, Side::A, "aborted").is_err());
    pair.sidecar(Side::A).wait_ended(TIMEOUT).unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "after the crash"), Side::A);
}

/// The manager's own `cont`, given to QEMU past the sidecar.
#[test]
fn a_foreign_cont_is_the_verdict() {
    for side in Side::BOTH {
        let mut pair = waiting(RunOptions::default());
        let monitor = pair.qemu(side).monitor();
        monitor.execute("cont", json!({})).unwrap();
        let what = format!("cont at {side}");
        assert_eq!(assert_one_runs(&mut pair, &what), side, "{what}");
        pair.qemu(side.other()).wait_dead(TIMEOUT).unwrap();
        let decisions = pair.sidecar(side).decisions().unwrap();
        let rule = match side {
            Side::A => "source-verdict-cont",
            Side::B => "destination-verdict-cont",
        };
        assert!(
            decisions.iter().any(|one| one.rule == rule),
            "{decisions:?}"
        );
    }
}

/// The manager's own end of QEMU.
#[test]
fn a_foreign_end_of_qemu_is_the_verdict() {
    for side in Side::BOTH {
        let mut pair = waiting(RunOptions::default());
        pair.qemu(side).kill().unwrap();
        let what = format!("end of QEMU at {side}");
        assert_eq!(assert_one_runs(&mut pair, &what), side.other(), "{what}");
    }
}

#[test]
fn a_verdict_against_the_evidence_is_refused() {
    let mut pair = waiting(RunOptions::default());
    verdict(&mut pair, Side::B, "committed").unwrap();
    for (side, outcome) in [(Side::B, "aborted"), (Side::A, "aborted")] {
        let refused = verdict(&mut pair, side, outcome);
        assert!(refused.is_err(), "{outcome} at {side}: {refused:?}");
    }
    assert_eq!(assert_one_runs(&mut pair, "committed"), Side::B);
    // Over: there is nothing to judge any more.
    let error = verdict(&mut pair, Side::B, "committed").unwrap_err();
    assert!(error.to_string().contains("no open job"), "{error}");
}
