//! What a migration is told, on real QEMU: it is told to both sides as they must have it, and is as before when the job
//! is over, whatever crashes; post-copy after so many passes; a deadline.

use std::collections::BTreeMap;

use phase_journal_lab::guest::RESTLESS_BANDWIDTH;
use phase_journal_lab::pair::{Limits, Pair, Side, Waited};
use phase_journal_lab::sidecar::{CrashPoint, JobView, RunOptions};
use phase_journal_lab::{Error, until};
use serde_json::{Value, json};

use crate::dangers::intents;
use crate::scenario::{TIMEOUT, assert_one_runs, pair, restless_pair, settle};

/// More than such a migration has.
const BATCHES_MAX: u32 = 60;
/// A slice: so many batches from one point to the next.
const STEP: usize = 3;

/// More channels, limits, and something that the source alone is told.
fn several() -> Value {
    json!({
        "capabilities": {"auto-converge": true, "multifd": true},
        "parameters": {
            "downtime-limit": 200, "max-bandwidth": 50_000_000, "multifd-channels": 3,
            "tls-hostname": "elsewhere",
        },
    })
}

/// All that a QEMU is told about migrations.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    capabilities: BTreeMap<String, bool>,
    parameters: Value,
}

fn told(pair: &mut Pair, side: Side) -> Told {
    let monitor = pair.qemu(side).monitor();
    let capabilities = monitor
        .execute("query-migrate-capabilities", json!({}))
        .unwrap();
    let each = capabilities.as_array().unwrap().iter().map(|one| {
        let name = one["capability"].as_str().unwrap().to_owned();
        (name, one["state"].as_bool().unwrap())
    });
    Told {
        capabilities: each.collect(),
        parameters: monitor
            .execute("query-migrate-parameters", json!({}))
            .unwrap(),
    }
}

fn begin(pair: &mut Pair, limits: Limits, more: Value) -> u64 {
    use phase_journal_lab::pair::Submitted;
    match pair.migrate_with(Side::A, limits, more).unwrap() {
        Submitted::Accepted { job, .. } => job,
        Submitted::NoAnswer => panic!("no answer"),
    }
}

fn last_job(pair: &mut Pair, side: Side) -> JobView {
    let jobs = pair
        .sidecar(side)
        .jobs(Some(phase_journal_lab::pair::DOMAIN));
    jobs.unwrap().pop().unwrap()
}

/// Limits at which this guest does not converge.
fn slow() -> Limits {
    Limits {
        max_bandwidth: Some(RESTLESS_BANDWIDTH),
        downtime_limit: Some(1),
        ..Limits::default()
    }
}

/// A source that performs, told what it shall be; and what both were told before.
fn performing(more: Value) -> (Pair, u64, [Told; 2]) {
    let mut pair = restless_pair(RunOptions::default(), RunOptions::default());
    let before = Side::BOTH.map(|side| told(&mut pair, side));
    let job = begin(&mut pair, slow(), more);
    let active = until("active migration", TIMEOUT, || {
        let domains = pair.sidecar(Side::A).domains()?;
        let is_active = domains[0].migration.as_deref() == Some("active");
        Ok(is_active.then_some(()))
    });
    active.unwrap();
    (pair, job, before)
}

#[test]
fn both_sides_are_told_and_a_cancel_puts_back() {
    let more = json!({
        "capabilities": {"auto-converge": true, "multifd": true},
        "parameters": {"multifd-channels": 3, "tls-hostname": "elsewhere"},
    });
    let (mut pair, job, [before, _]) = performing(more);
    let [a, b] = Side::BOTH.map(|side| told(&mut pair, side));
    for (name, at_a, at_b) in [
        ("multifd", true, true),
        ("auto-converge", true, false),
        ("return-path", true, true),
        ("late-block-activate", false, true),
    ] {
        assert_eq!(
            (a.capabilities[name], b.capabilities[name]),
            (at_a, at_b),
            "{name}"
        );
    }
    for (name, at_a, at_b) in [
        ("multifd-channels", json!(3), json!(3)),
        ("tls-hostname", json!("elsewhere"), json!("")),
        (
            "max-bandwidth",
            json!(RESTLESS_BANDWIDTH),
            before.parameters["max-bandwidth"].clone(),
        ),
    ] {
        assert_eq!(
            (&a.parameters[name], &b.parameters[name]),
            (&at_a, &at_b),
            "{name}"
        );
    }
    pair.sidecar(Side::A)
        .execute("job-cancel", json!({"job": job}))
        .unwrap();
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "cancelled"), Side::A);
    assert_eq!(told(&mut pair, Side::A), before);
    assert_eq!(
        last_job(&mut pair, Side::A).result.as_deref(),
        Some("cancelled")
    );
}

#[test]
fn the_destination_is_told_what_it_was_told_before() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let before = told(&mut pair, Side::B);
    begin(&mut pair, Limits::default(), several());
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "over"), Side::B);
    assert_eq!(told(&mut pair, Side::B), before);
    let job = last_job(&mut pair, Side::B);
    assert_eq!(
        (job.result.as_deref(), job.detail.as_str()),
        (Some("completed"), "the guest runs here")
    );
}

/// Credentials are QEMU's objects; what names them goes to both sides, and does not stay.
#[test]
fn over_tls() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    for (side, endpoint) in [(Side::A, "client"), (Side::B, "server")] {
        let object = json!({"qom-type": "tls-creds-anon", "id": "tls0", "endpoint": endpoint});
        let monitor = pair.qemu(side).monitor();
        monitor.execute("object-add", object).unwrap();
    }
    let before = told(&mut pair, Side::B);
    begin(
        &mut pair,
        Limits::default(),
        json!({"parameters": {"tls-creds": "tls0"}}),
    );
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "TLS"), Side::B);
    assert_eq!(told(&mut pair, Side::B), before);
    let set = |side, pair: &mut Pair| {
        let sets = intents(pair, side).into_iter();
        sets.filter(|one| one == "migrate-set-parameters").count()
    };
    // At the source its own limits too; at the destination there and back.
    assert!(set(Side::A, &mut pair) >= 2 && set(Side::B, &mut pair) == 2);
}

/// One point; false if there is none.
fn killed_at(side: Side, batch: u32) -> bool {
    let crashing = RunOptions::crashing(CrashPoint::AfterBatch(batch));
    let plain = RunOptions::default();
    let (a, b) = match side {
        Side::A => (crashing, plain.clone()),
        Side::B => (plain.clone(), crashing),
    };
    let mut pair = pair(a, b);
    let before = Side::BOTH.map(|side| told(&mut pair, side));
    // One that dies before it answers is a point too.
    pair.migrate_with(Side::A, Limits::default(), several())
        .unwrap();
    let is_one = pair.wait_for_crash(side, TIMEOUT).unwrap() == Waited::Crashed;
    if is_one {
        pair.sidecar(side).start(&plain).unwrap();
    }
    settle(&mut pair);
    let what = format!("{side} killed at batch {batch}");
    let at = assert_one_runs(&mut pair, &what);
    let index = usize::from(at == Side::B);
    assert_eq!(
        told(&mut pair, at),
        before[index],
        "{what}: the guest is at {at}"
    );
    is_one
}

fn every_point(side: Side) {
    let mut batches = (1..BATCHES_MAX).step_by(STEP);
    let points = batches.by_ref().take_while(|batch| killed_at(side, *batch));
    let points = points.count();
    println!("settings: sidecar {side} killed at {points} points");
    assert!(points >= 4, "{points} points");
}

#[test]
fn the_source_s_sidecar_is_killed() {
    every_point(Side::A);
}

#[test]
fn the_destination_s_sidecar_is_killed() {
    every_point(Side::B);
}

#[test]
fn post_copy_after_so_many_passes() {
    const PASSES: u64 = 8;
    let mut pair = restless_pair(RunOptions::default(), RunOptions::default());
    let before = told(&mut pair, Side::B);
    begin(
        &mut pair,
        slow(),
        json!({"postcopy-after": {"passes": PASSES}}),
    );
    settle(&mut pair);
    // QEMU at A tells of each pass that it begins, as long as it lives.
    assert_eq!(assert_one_runs(&mut pair, "post-copy"), Side::B);
    assert_eq!(told(&mut pair, Side::B), before);
    assert!(intents(&mut pair, Side::A).contains(&"migrate-start-postcopy".to_owned()));
}

#[test]
fn a_deadline_cancels_what_does_not_converge() {
    let (mut pair, _, [before, _]) = performing(json!({"deadline": 1}));
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "deadline"), Side::A);
    assert_eq!(told(&mut pair, Side::A), before);
    let job = last_job(&mut pair, Side::A);
    assert_eq!(job.result.as_deref(), Some("cancelled"));
}

/// One error each, in QEMU's words where it is QEMU's; the guest runs where it was, told what it was told.
#[test]
fn what_qemu_does_not_take() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let before = Side::BOTH.map(|side| told(&mut pair, side));
    let cannot = "domain 'guest' cannot migrate so: ";
    let argument = "migrate-domain: argument ";
    for (more, expected) in [
        (
            json!({"capabilities": {"turbo": true}}),
            format!("{cannot}its QEMU knows no migration capability 'turbo'"),
        ),
        (
            json!({"parameters": {"speed": 1}}),
            format!("{cannot}its QEMU knows no migration parameter 'speed'"),
        ),
        (
            json!({"parameters": {"multifd-channels": "four"}}),
            format!("{cannot}parameter 'multifd-channels' must be a whole number, not a string"),
        ),
        (
            json!({"capabilities": {"return-path": false}}),
            format!(
                "{cannot}capability 'return-path' must be true: the protocol does not go without that"
            ),
        ),
        (
            json!({"parameters": {"downtime-limit": 2_000_001}}),
            format!("{cannot}downtime-limit must be a whole number from 0 to 2000000 ms"),
        ),
        (
            json!({"parameters": {"tls-creds": "x".repeat(4096)}}),
            format!(
                "{cannot}names and texts of capabilities and parameters are longer than 4096 bytes together"
            ),
        ),
        (
            json!({"postcopy": false, "postcopy-after": {"passes": 2}}),
            format!("{cannot}postcopy-after goes with post-copy, and that was declined"),
        ),
        (
            json!({"capabilities": {"multifd": "yes"}}),
            format!("{argument}'capabilities' must be an object of names with true or false"),
        ),
        (
            json!({"deadline": -1}),
            format!("{argument}'deadline' must be a whole number, 0 or more"),
        ),
    ] {
        match pair.migrate_with(Side::A, Limits::default(), more) {
            Err(Error::Refused { description, .. }) => assert_eq!(description, expected),
            other => panic!("{other:?} in place of {expected}"),
        }
    }
    assert_eq!(intents(&mut pair, Side::A), Vec::<String>::new());
    for (more, expected) in [
        (
            json!({"parameters": {"multifd-channels": 1000}}),
            "prepare at the destination: migrate-set-parameters was refused: Parameter 'multifd-channels' expects uint8_t",
        ),
        (
            // Of the source alone.
            json!({"parameters": {"cpu-throttle-initial": 100}}),
            "the guest stays at the source: migrate-set-parameters was refused: Parameter 'cpu_throttle_initial' expects an integer in the range of 1 to 99",
        ),
    ] {
        begin(&mut pair, Limits::default(), more);
        settle(&mut pair);
        assert_eq!(assert_one_runs(&mut pair, expected), Side::A);
        let job = last_job(&mut pair, Side::A);
        assert_eq!(job.result.as_deref(), Some("failed"));
        assert_eq!(job.detail, expected);
        assert_eq!(told(&mut pair, Side::A), before[0]);
        pair.add_destination(Side::B).unwrap();
    }
    // Nothing is left that would be in the way of the next one.
    begin(&mut pair, Limits::default(), several());
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "at last"), Side::B);
    assert_eq!(told(&mut pair, Side::B), before[1]);
}
