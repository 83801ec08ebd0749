//! Migrations that a manager drives itself, phase by phase, on real QEMU: SIGKILL of either sidecar at its durable
//! batches, the manager goes on by what it sees, the guest is the judge; then the same again succeeds.
//!
//! Every other batch is `tools/soak --jobs`'s.

use phase_journal_lab::pair::{DOMAIN, Pair, Side};
use phase_journal_lab::sidecar::{CrashPoint, JobView, RunOptions};
use phase_journal_lab::{Error, until};
use serde_json::{Value, json};

use crate::scenario::{EVERY_BATCH, TIMEOUT, assert_never_two, assert_one_runs, pair};

/// More than one side of such a migration has.
const BATCHES_MAX: u32 = 80;
/// One batch of so many is taken by CI.
const SLICE: u32 = 3;

fn begin(pair: &mut Pair, side: Side, kind: &str) -> Result<u64, Error> {
    let arguments = json!({"name": DOMAIN, "kind": kind, "cookie": "<manager/>"});
    let answer = pair.sidecar(side).execute("job-begin", arguments)?;
    Ok(answer["job"].as_u64().unwrap_or_default())
}

fn enter(
    pair: &mut Pair,
    side: Side,
    job: u64,
    phase: &str,
    effects: &Value,
) -> Result<Value, Error> {
    let arguments = json!({"job": job, "phase": phase, "effects": effects});
    pair.sidecar(side).execute("phase-enter", arguments)
}

fn end(pair: &mut Pair, side: Side, job: u64) -> Result<Value, Error> {
    pair.sidecar(side).execute("job-end", json!({"job": job}))
}

pub(crate) fn set_capabilities(names: &[&str]) -> Value {
    let on = names
        .iter()
        .map(|name| json!({"capability": name, "state": true}));
    let on: Vec<Value> = on.collect();
    json!({"execute": "migrate-set-capabilities", "arguments": {"capabilities": on}})
}

/// Run state and migration status, past the sidecar; `None` of a QEMU that is gone.
pub(crate) fn state(pair: &mut Pair, side: Side) -> Option<(String, String)> {
    let qemu = pair.qemu(side);
    let is_alive = qemu.is_alive().unwrap_or(false);
    let run = is_alive.then(|| qemu.run_state().ok()).flatten()?;
    Some((run, qemu.migration_status().ok()?))
}

/// Until the source's QEMU says so; it must not end before.
fn wait_for(pair: &mut Pair, side: Side, run: &str, status: &str) -> Result<(), Error> {
    until(status, TIMEOUT, || {
        let died = |pair: &mut Pair, side: Side| pair.sidecar(side).ended();
        for one in Side::BOTH {
            if died(pair, one)?.is_some() {
                let path = pair.sidecar(one).control_socket();
                let command = "the sidecar died".to_owned();
                return Err(Error::Closed { path, command });
            }
        }
        let seen = state(pair, side);
        let is_there = seen.is_some_and(|(a, b)| a == run && b == status);
        Ok(is_there.then_some(()))
    })
}

/// Everything up to the moment at which all was sent; the jobs.
fn send(pair: &mut Pair, source: Side, run: u32) -> Result<(u64, u64), Error> {
    let destination = source.other();
    let socket = pair.directory().join(format!("d{run}"));
    let uri = json!({"uri": format!("unix:{}", socket.display())});
    let to = begin(pair, destination, "migration-in")?;
    let from = begin(pair, source, "migration-out")?;
    let listen = json!([
        set_capabilities(&["return-path", "events", "late-block-activate"]),
        {"execute": "migrate-incoming", "arguments": uri},
    ]);
    enter(pair, destination, to, "prepare", &listen)?;
    let capabilities = set_capabilities(&["return-path", "events", "pause-before-switchover"]);
    enter(pair, source, from, "begin3", &json!([capabilities]))?;
    let migrate = json!([{"execute": "migrate", "arguments": uri}]);
    enter(pair, source, from, "perform3", &migrate)?;
    wait_for(pair, source, "finish-migrate", "pre-switchover")?;
    let go_over = json!([
        {"execute": "migrate-continue", "arguments": {"state": "pre-switchover"}}
    ]);
    enter(pair, source, from, "perform3", &go_over)?;
    wait_for(pair, source, "postmigrate", "completed")?;
    wait_for(pair, destination, "paused", "completed")?;
    Ok((from, to))
}

/// The whole way, as libvirt goes it.
fn migrate(pair: &mut Pair, source: Side, run: u32) -> Result<(), Error> {
    let destination = source.other();
    let (from, to) = send(pair, source, run)?;
    let granted = enter(pair, source, from, "perform3_done", &json!([]))?;
    let take = json!({
        "job": to, "phase": "finish3", "effects": [{"execute": "cont"}],
        "peer-cookie": granted["cookie"],
    });
    pair.sidecar(destination).execute("phase-enter", take)?;
    end(pair, destination, to)?;
    let quit = json!([{"execute": "quit"}]);
    enter(pair, source, from, "confirm3", &quit)?;
    end(pair, source, from).map(drop)
}

/// The way back after everything was sent.
fn turn_back(pair: &mut Pair, source: Side, run: u32) -> Result<(), Error> {
    let destination = source.other();
    let (from, to) = send(pair, source, run)?;
    enter(pair, source, from, "perform3_done", &json!([]))?;
    let quit = json!([{"execute": "quit"}]);
    enter(pair, destination, to, "finish3", &quit)?;
    let cont = json!([{"execute": "cont"}]);
    enter(pair, source, from, "confirm3_cancelled", &cont)?;
    let failed = json!({"job": from, "result": "failed"});
    pair.sidecar(source).execute("job-end", failed).map(drop)
}

fn open_job(pair: &mut Pair, side: Side) -> Result<Option<JobView>, Error> {
    let jobs = pair.sidecar(side).jobs(Some(DOMAIN))?;
    Ok(jobs.into_iter().find(|job| job.result.is_none()))
}

/// What the manager says is said once; while the sidecar settles the job itself, or another word came first, it is not
/// taken, and the manager looks again.
fn say(pair: &mut Pair, side: Side, command: &str, arguments: Value) -> Result<(), Error> {
    match pair.sidecar(side).execute(command, arguments) {
        Ok(_) | Err(Error::Refused { .. }) => Ok(()),
        Err(other) => Err(other),
    }
}

/// The manager comes back, looks, and brings what is open to that outcome, where that can still be.
fn finish(pair: &mut Pair, outcome: &str, what: &str) {
    let ended = until("end of both jobs", TIMEOUT, || {
        let from = open_job(pair, Side::A)?;
        let to = open_job(pair, Side::B)?;
        let (a, b) = (state(pair, Side::A), state(pair, Side::B));
        let is = |state: &Option<(String, String)>, run: &str, status: &str| {
            state.as_ref().is_some_and(|(a, b)| a == run && b == status)
        };
        let has_sent = is(&a, "postmigrate", "completed");
        let is_whole = is(&b, "paused", "completed");
        let has_run = is(&b, "running", "completed");
        let verdict = |outcome: &str| json!({"name": DOMAIN, "outcome": outcome});
        match (from, to) {
            (None, None) => return Ok(Some(())),
            (Some(from), _) if a.is_some() && !has_sent => {
                say(pair, Side::A, "job-cancel", json!({"job": from.job}))?;
            }
            (Some(_), Some(_)) if is_whole => {
                say(pair, Side::B, "migrate-verdict", verdict(outcome))?;
            }
            (Some(_), to) if has_sent => {
                let is_there = has_run || is_whole && to.is_none();
                let outcome = if is_there { "committed" } else { "aborted" };
                say(pair, Side::A, "migrate-verdict", verdict(outcome))?;
            }
            (None, Some(to)) if a.is_some() && !has_sent => {
                say(pair, Side::B, "job-cancel", json!({"job": to.job}))?;
            }
            (None, Some(_)) if is_whole => {
                let outcome = if a.is_some() { outcome } else { "committed" };
                say(pair, Side::B, "migrate-verdict", verdict(outcome))?;
            }
            _ => {}
        }
        Ok(None)
    });
    ended.unwrap_or_else(|error| panic!("{what}: {error}"));
}

type Manager = fn(&mut Pair, Side, u32) -> Result<(), Error>;

/// The sidecar of that side dies at that point, comes back, and so does the manager; false if it never came to that
/// point.
fn has_recovered(side: Side, point: &CrashPoint, manager: Manager, outcome: &str) -> bool {
    let what = format!("sidecar {side} {point:?}, {outcome}");
    let crashing = RunOptions::crashing(point.clone());
    let plain = RunOptions::default;
    let mut pair = match side {
        Side::A => pair(crashing, plain()),
        Side::B => pair(plain(), crashing),
    };
    if let Err(error) = manager(&mut pair, Side::A, 1) {
        let ended = pair.sidecar(side).wait_ended(TIMEOUT);
        assert!(ended.is_ok(), "{what}: {error}");
    } else if pair.sidecar(side).ended().unwrap().is_none() {
        return false;
    }
    assert_never_two(&pair, &what);
    pair.sidecar(side)
        .start(&plain())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    finish(&mut pair, outcome, &what);
    let runs = assert_one_runs(&mut pair, &what);
    // The same again.
    if pair.qemu(runs.other()).is_alive().unwrap() {
        // Nothing was sent to it, and its job is over.
        pair.qemu(runs.other()).kill().unwrap();
    }
    pair.add_destination(runs.other()).unwrap();
    migrate(&mut pair, runs, 2).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_eq!(assert_one_runs(&mut pair, &what), runs.other(), "{what}");
    true
}

/// Which batch there was not any more.
fn every_batch(side: Side, manager: Manager, outcome: &str) -> u32 {
    let is_all = std::env::var_os(EVERY_BATCH).is_some();
    let (first, step) = if is_all { (1, 1) } else { (3, SLICE) };
    let mut points = vec![CrashPoint::AfterBatch as fn(u32) -> CrashPoint];
    if is_all {
        points.push(CrashPoint::BeforeBatch);
    }
    let ends = points.into_iter().map(|point| {
        let mut batch = first;
        while has_recovered(side, &point(batch), manager, outcome) {
            batch += step;
            assert!(batch < BATCHES_MAX, "{batch}");
        }
        batch
    });
    ends.min().unwrap_or_default()
}

#[test]
fn a_source_dies_at_any_batch() {
    assert!(every_batch(Side::A, migrate, "committed") > 10);
}

#[test]
fn a_destination_dies_at_any_batch() {
    assert!(every_batch(Side::B, migrate, "committed") > 7);
}

/// Held on both sides, and given back.
#[test]
fn a_source_dies_on_the_way_back() {
    assert!(every_batch(Side::A, turn_back, "aborted") > 10);
}

#[test]
fn a_destination_dies_on_the_way_back() {
    assert!(every_batch(Side::B, turn_back, "aborted") > 7);
}

/// One clear error each, nothing changed.
#[test]
fn what_does_not_belong_is_refused() {
    let plain = RunOptions::default;
    let mut pair = pair(plain(), plain());
    let refused = |result: Result<Value, Error>, expected: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let arguments = json!({"name": DOMAIN, "kind": "migration-in"});
    let begun = pair.sidecar(Side::A).execute("job-begin", arguments);
    refused(begun, "its QEMU is running");
    let job = begin(&mut pair, Side::A, "migration-out").unwrap();
    let before = pair
        .sidecar(Side::A)
        .execute("query-journal", json!({}))
        .unwrap();
    let one =
        |execute: &str, arguments: Value| json!([{"execute": execute, "arguments": arguments}]);
    for (phase, effects, expected) in [
        (
            "begin3",
            one("quit", json!({})),
            "quit is not for phase begin3",
        ),
        (
            "perform3",
            one("cont", json!({})),
            "cont is not for phase perform3",
        ),
        (
            "perform3",
            one("migrate", json!({"uri": "file:/x"})),
            "is a save",
        ),
        (
            "perform3",
            one("migrate-start-postcopy", json!({})),
            "goes by migrate-domain",
        ),
        (
            "perform3",
            one("device_del", json!({"id": "x"})),
            "is not for phase perform3",
        ),
        ("perform3_done", json!([]), "cannot be entered"),
        ("finish3", json!([]), "cannot be entered"),
    ] {
        refused(enter(&mut pair, Side::A, job, phase, &effects), expected);
    }
    refused(
        begin(&mut pair, Side::A, "migration-out").map(Value::from),
        "is busy",
    );
    refused(
        begin(&mut pair, Side::A, "save").map(Value::from),
        "is busy",
    );
    refused(end(&mut pair, Side::A, job), "ends as failed");
    let after = pair
        .sidecar(Side::A)
        .execute("query-journal", json!({}))
        .unwrap();
    assert_eq!(before["durable"], after["durable"], "{after}");
    // What QEMU refuses is told, and the guest goes on.
    let wrong = one("migrate-set-parameters", json!({"no-such-parameter": 1}));
    refused(
        enter(&mut pair, Side::A, job, "begin3", &wrong),
        "effect 1 of 1, migrate-set-parameters was refused",
    );
    let nowhere = one("migrate", json!({"uri": "unix:/nowhere/at/all"}));
    // QEMU refuses it at once, or says later that it failed.
    if let Err(error) = enter(&mut pair, Side::A, job, "perform3", &nowhere) {
        assert!(error.to_string().contains("migrate was refused"), "{error}");
    }
    wait_for(&mut pair, Side::A, "running", "failed").unwrap();
    let failed = json!({"job": job, "result": "failed"});
    pair.sidecar(Side::A).execute("job-end", failed).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "refused"), Side::A);
}
