//! Disks that are not shared, on real QEMU: copied with the guest, whoever dies in whatever phase, and nothing of it
//! left, so that the next try works.

use journal_format::record::RecordBody;
use phase_journal_lab::guest::RESTLESS_BANDWIDTH;
use phase_journal_lab::pair::{DOMAIN, Limits, Pair, Side, Waited};
use phase_journal_lab::qmp::Qmp;
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use serde_json::{Value, json};

use crate::scenario::{
    EVERY_BATCH, TIMEOUT, assert_one_runs, pair_with_data, records_in, settle_all,
};

/// How the names of everything begin that a migration sets up for its disks.
const PREFIX: &str = "phase-journal-";

const TWO_DISKS: Limits = Limits {
    protocol: None,
    max_bandwidth: None,
    downtime_limit: None,
    postcopy: false,
    authority: None,
    copied: 2,
};

fn pair() -> Pair {
    pair_with_data(2, None, RunOptions::default(), RunOptions::default())
}

/// No mirror, node or export of a migration's is left in a QEMU that lives, and nothing is served.
fn assert_nothing_left(pair: &mut Pair, what: &str) {
    for side in Side::BOTH {
        if !pair.qemu(side).is_alive().unwrap() {
            continue;
        }
        let monitor = pair.qemu(side).monitor();
        let mut ask = |name: &str| monitor.execute(name, json!({})).unwrap();
        assert_eq!(ask("query-jobs"), json!([]), "{what}: jobs of {side}");
        let exports = ask("query-block-exports");
        assert_eq!(exports, json!([]), "{what}: exports of {side}");
        let nodes = ask("query-named-block-nodes");
        let names = nodes.as_array().unwrap().iter();
        let left: Vec<&Value> = names
            .map(|node| &node["node-name"])
            .filter(|name| name.as_str().is_some_and(|name| name.starts_with(PREFIX)))
            .collect();
        assert!(left.is_empty(), "{what}: nodes of {side}: {left:?}");
        let stopped = monitor.execute("nbd-server-stop", json!({})).unwrap_err();
        let stopped = stopped.to_string();
        assert!(stopped.contains("not running"), "{what}: {stopped}");
    }
}

fn assert_same_data(pair: &mut Pair, what: &str) {
    for disk in 0..2 {
        let [a, b] = Side::BOTH.map(|side| pair.data(side, disk).unwrap());
        assert!(a == b, "{what}: disk {disk} is another");
        assert!(
            a.iter().any(|byte| *byte != 0),
            "{what}: disk {disk} is empty"
        );
    }
}

#[test]
fn the_disks_go_with_the_guest() {
    let by_v2 = Limits {
        protocol: Some("v2"),
        ..TWO_DISKS
    };
    let by_postcopy = Limits {
        max_bandwidth: Some(RESTLESS_BANDWIDTH),
        postcopy: true,
        ..TWO_DISKS
    };
    for (what, limits) in [("v3", TWO_DISKS), ("v2", by_v2), ("post-copy", by_postcopy)] {
        let mut pair = pair();
        pair.qemu(Side::A).write_data(0, 65_536, 7).unwrap();
        pair.migrate(Side::A, limits).unwrap();
        assert_eq!(assert_one_runs(&mut pair, what), Side::B, "{what}");
        assert_nothing_left(&mut pair, what);
        assert_same_data(&mut pair, what);
    }
}

/// More than such a migration has.
const BATCHES_MAX: u32 = 80;
const STRIDE: u32 = 7;

/// The guest is where it is with its disks, nothing is left of the first try, and the next one takes it over (from
/// wherever it is) with its disks as they are then.
fn judge(pair: &mut Pair, what: &str) -> Side {
    let runs = assert_one_runs(pair, what);
    assert_nothing_left(pair, what);
    if runs == Side::B {
        assert_same_data(pair, what);
    }
    let target = runs.other();
    // One that lives was never asked to prepare.
    if !pair.qemu(target).is_alive().unwrap() {
        pair.add_destination(target).unwrap();
    }
    pair.qemu(runs).write_data(1, 131_072, 9).unwrap();
    pair.migrate(runs, TWO_DISKS).unwrap();
    let what = format!("{what}, again");
    assert_eq!(assert_one_runs(pair, &what), target, "{what}");
    assert_nothing_left(pair, &what);
    assert_same_data(pair, &what);
    runs
}

/// Kills the sidecar of a side after its batches, one after the other from `first` on in steps; how often the guest
/// stayed, and how often it went over.
fn killed_at_batches(side: Side, first: u32) -> [u32; 2] {
    let is_whole = std::env::var_os(EVERY_BATCH).is_some_and(|value| value == "1");
    let stride = if is_whole { 1 } else { STRIDE };
    let mut ended = [0, 0];
    let mut batch = if is_whole { 1 } else { first };
    while batch < BATCHES_MAX {
        let what = format!("{side} killed after batch {batch}");
        let crash = RunOptions::crashing(CrashPoint::AfterBatch(batch));
        let plain = RunOptions::default();
        let mut pair = match side {
            Side::A => pair_with_data(2, None, crash, plain.clone()),
            Side::B => pair_with_data(2, None, plain.clone(), crash),
        };
        pair.qemu(Side::A).write_data(0, 65_536, 7).unwrap();
        pair.migrate(Side::A, TWO_DISKS).unwrap();
        match pair.wait_for_crash(side, TIMEOUT).unwrap() {
            Waited::Crashed => pair.sidecar(side).start(&plain).unwrap(),
            Waited::Ended(_) => return ended,
        }
        match judge(&mut pair, &what) {
            Side::A => ended[0] += 1,
            Side::B => ended[1] += 1,
        }
        batch += stride;
    }
    panic!("no migration has so many batches");
}

#[test]
fn the_source_killed_in_every_phase() {
    let ended = killed_at_batches(Side::A, 2);
    println!("the source killed: stayed and went over {ended:?}");
    assert!(ended[0] >= 2 && ended[1] >= 1, "{ended:?}");
}

#[test]
fn the_destination_killed_in_every_phase() {
    let ended = killed_at_batches(Side::B, 3);
    println!("the destination killed: stayed and went over {ended:?}");
    assert!(ended[0] >= 1 && ended[1] >= 1, "{ended:?}");
}

/// The destination's QEMU dies before it is asked, while disks are copied, while memory is, and when the guest stands still
/// already: it goes on, nothing is left, and the next try works.
#[test]
fn a_destination_that_dies_leaves_nothing_at_the_source() {
    for batch in [1, 8, 12, 16, 20] {
        let options = RunOptions::crashing(CrashPoint::AfterBatch(batch));
        let mut pair = pair_with_data(2, Some(Side::B), options, RunOptions::default());
        pair.migrate(Side::A, TWO_DISKS).unwrap();
        pair.qemu(Side::B).wait_dead(TIMEOUT).unwrap();
        let what = format!("its QEMU killed after batch {batch}");
        assert_eq!(judge(&mut pair, &what), Side::A, "{what}");
    }
}

/// While disks are copied nobody else ends a mirror, or what it goes through.
#[test]
fn a_client_cannot_touch_what_a_migration_copies_with() {
    let mut pair = pair();
    let socket = pair.sidecar(Side::A).monitor_socket(DOMAIN);
    let mut client = Qmp::connect(&socket, TIMEOUT).unwrap();
    for (name, arguments) in [
        ("block-job-complete", json!({"device": "phase-journal-0-0"})),
        ("job-cancel", json!({"id": "phase-journal-0-0"})),
        ("blockdev-del", json!({"node-name": "phase-journal-0-0"})),
        ("block-export-del", json!({"id": "phase-journal-0-0"})),
    ] {
        let refused = client.execute(name, arguments).unwrap_err().to_string();
        assert!(refused.contains("copies disks with"), "{name}: {refused}");
    }
    pair.migrate(Side::A, TWO_DISKS).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "untouched"), Side::B);
}

#[test]
fn what_cannot_be_copied_is_refused_and_nothing_is_begun() {
    let mut pair = pair();
    let peer = pair.sidecar(Side::B).peer_socket();
    // An idle journal says of itself that it is; that is about no domain.
    let is_about_it = |body: &RecordBody| !matches!(body, RecordBody::Sealed);
    let records = |pair: &mut Pair| {
        let journals = Side::BOTH.map(|side| pair.sidecar(side).journal().to_owned());
        journals.map(|journal| {
            records_in(&journal)
                .iter()
                .filter(|one| is_about_it(one))
                .count()
        })
    };
    let many: Vec<String> = (0..17).map(|index| format!("d{index}")).collect();
    for (disks, nbd, expected) in [
        (json!(["nothing"]), None, "QEMU has no node 'nothing'"),
        (json!(["data0", "data0"]), None, "names node 'data0' twice"),
        (json!([]), None, "names no disk"),
        (json!(many), None, "more than 16 disks"),
        (json!(["data0"]), Some("exec:true"), "copy-nbd must be"),
    ] {
        let before = records(&mut pair);
        let mut arguments = json!({
            "name": DOMAIN, "peer": peer, "uri": "unix:/nowhere", "copy-disks": disks,
        });
        if let Some(nbd) = nbd {
            arguments["copy-nbd"] = json!(nbd);
        }
        let refused = pair.sidecar(Side::A).execute("migrate-domain", arguments);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(expected), "{expected}: {refused}");
        assert_eq!(records(&mut pair), before, "{expected}");
    }
    // What the destination lacks it says itself, and it is asked nothing more.
    let small = json!({"driver": "null-co", "node-name": "small", "size": 512});
    let other = pair.qemu(Side::B).monitor();
    other.execute("blockdev-add", small).unwrap();
    for (destination, expected) in [
        ("nothing", "QEMU has no node 'nothing'"),
        ("small", "node 'small' has 512 bytes"),
    ] {
        let arguments = json!({
            "name": DOMAIN, "peer": peer, "uri": "unix:/nowhere",
            "copy-disks": [{"source": "data0", "destination": destination}],
        });
        let begun = pair.sidecar(Side::A).execute("migrate-domain", arguments);
        let job = begun.unwrap()["job"].clone();
        settle_all(&mut pair, expected);
        let asked = json!({"job": job});
        let ended = pair.sidecar(Side::A).execute("query-jobs", asked).unwrap();
        let detail = ended[0]["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{expected}: {ended}");
        assert_nothing_left(&mut pair, expected);
    }
    assert_eq!(judge(&mut pair, "after all of it"), Side::A);
}
