//! A manager that knows of no sidecar, on real QEMU: plain QMP commands on the domains' monitors, by what QEMU shows. Either
//! sidecar is killed at its durable batches; the manager connects again, looks, and goes on.
//!
//! Every other batch is `tools/soak --jobs`'s.

use std::path::PathBuf;

use phase_journal_lab::pair::{DOMAIN, Pair, Side, UUID};
use phase_journal_lab::qemu::{Begin, Locking, Qemu, QemuOptions};
use phase_journal_lab::qmp::Qmp;
use phase_journal_lab::sidecar::{CrashPoint, RunOptions, Sidecar};
use phase_journal_lab::{Error, Scratch, until};
use serde_json::{Value, json};

use crate::driven::{set_capabilities, state};
use crate::scenario::{EVERY_BATCH, ORDINARY, TIMEOUT, assert_one_runs, pair, program, records_in};

/// More than one side of such a migration has.
const BATCHES_MAX: u32 = 80;
/// One batch of so many is taken by CI.
const SLICE: u32 = 3;

/// One command, on a connection of its own.
fn send(pair: &mut Pair, side: Side, command: &str, arguments: Value) -> Result<(), Error> {
    let path = pair.sidecar(side).monitor_socket(DOMAIN);
    let mut monitor = Qmp::connect(&path, TIMEOUT)?;
    monitor.execute(command, arguments).map(drop)
}

/// What such a manager does next, by what both QEMUs show, and whether the destination listens, which its QEMU does not
/// show; `None` where it only waits.
fn next(pair: &mut Pair, listens: bool) -> Option<(Side, &'static str, Value)> {
    let uri = json!({"uri": format!("unix:{}/plain", pair.directory().display())});
    let (a, b) = (state(pair, Side::A)?, state(pair, Side::B)?);
    let is = |state: &(String, String), run: &str, status: &str| {
        state.0 == run && (status.is_empty() || state.1 == status)
    };
    if is(&b, "inmigrate", "none") && !listens {
        Some((Side::B, "migrate-incoming", uri))
    } else if is(&a, "running", "none") && is(&b, "inmigrate", "") {
        Some((Side::A, "migrate", uri))
    } else if is(&a, "finish-migrate", "pre-switchover") {
        let go_on = json!({"state": "pre-switchover"});
        Some((Side::A, "migrate-continue", go_on))
    } else if is(&a, "postmigrate", "completed") && is(&b, "paused", "completed") {
        Some((Side::B, "cont", json!({})))
    } else if is(&a, "postmigrate", "completed") && is(&b, "running", "completed") {
        Some((Side::A, "quit", json!({})))
    } else {
        None
    }
}

/// QEMU has it, perhaps since a sidecar died that could not say so.
fn is_listening(said: &Result<(), Error>) -> bool {
    match said {
        Ok(()) => true,
        Err(Error::Refused { description, .. }) => description.contains("already been started"),
        Err(_) => false,
    }
}

/// Starts the sidecars that died again; says whether one did.
pub(crate) fn look_after(pair: &mut Pair) -> Result<bool, Error> {
    let mut has_crashed = false;
    for side in Side::BOTH {
        if pair.sidecar(side).ended()?.is_some() {
            has_crashed = true;
            pair.sidecar(side).start(&RunOptions::default())?;
        }
    }
    Ok(has_crashed)
}

/// Until the source's QEMU is gone; a sidecar that died is started again. Says whether one did.
fn drive(pair: &mut Pair, what: &str) -> bool {
    let mut has_crashed = false;
    let capabilities = |names: &[&str]| set_capabilities(names)["arguments"].clone();
    let of_source = capabilities(&["return-path", "events", "pause-before-switchover"]);
    let of_destination = capabilities(&["return-path", "events", "late-block-activate"]);
    let (mut told, mut listens, mut last) = (false, false, String::new());
    let driven = until("end of the source", TIMEOUT, || {
        has_crashed |= look_after(pair)?;
        if state(pair, Side::A).is_none() {
            return Ok(Some(()));
        }
        let said = match told {
            false => {
                send(pair, Side::A, "migrate-set-capabilities", of_source.clone()).and_then(|()| {
                    send(
                        pair,
                        Side::B,
                        "migrate-set-capabilities",
                        of_destination.clone(),
                    )
                })
            }
            true => match next(pair, listens) {
                Some((side, command, arguments)) => {
                    let said = send(pair, side, command, arguments);
                    listens |= command == "migrate-incoming" && is_listening(&said);
                    said
                }
                None => Ok(()),
            },
        };
        told |= said.is_ok();
        last = format!(
            "{said:?}, {:?}, {:?}",
            state(pair, Side::A),
            state(pair, Side::B)
        );
        match said {
            // It died, or has not decided yet: the manager looks again.
            Ok(()) | Err(Error::Refused { .. } | Error::Closed { .. } | Error::Io { .. }) => {
                Ok(None)
            }
            Err(other) => Err(other),
        }
    });
    driven.unwrap_or_else(|error| panic!("{what}: {error}\nlast: {last}"));
    has_crashed
}

/// Until no job is open; says whether the sidecar of that side died meanwhile, and was started again.
pub(crate) fn comes_to_rest(pair: &mut Pair, side: Side, what: &str) -> bool {
    let mut has_crashed = false;
    let at_rest = until("no open job", TIMEOUT, || {
        if pair.sidecar(side).ended()?.is_some() {
            has_crashed = true;
            pair.sidecar(side).start(&RunOptions::default())?;
        }
        match pair.sidecar(side).jobs(Some(DOMAIN)) {
            Ok(jobs) => Ok(jobs.iter().all(|job| job.result.is_some()).then_some(())),
            // It dies right now.
            Err(Error::Closed { .. } | Error::Io { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    });
    at_rest.unwrap_or_else(|error| panic!("{what}: {error}"));
    has_crashed
}

/// False if the sidecar of that side never came to that batch.
fn has_recovered(side: Side, batch: u32) -> bool {
    let what = format!("sidecar {side} after batch {batch}");
    let crashing = RunOptions::crashing(CrashPoint::AfterBatch(batch));
    let plain = RunOptions::default;
    let mut pair = match side {
        Side::A => pair(crashing, plain()),
        Side::B => pair(plain(), crashing),
    };
    let has_crashed = drive(&mut pair, &what);
    let at_the_end = comes_to_rest(&mut pair, side, &what);
    assert_eq!(assert_one_runs(&mut pair, &what), Side::B, "{what}");
    for (side, kind) in [(Side::A, "migration-out"), (Side::B, "migration-in")] {
        let jobs = pair.sidecar(side).jobs(Some(DOMAIN)).unwrap();
        let records = records_in(pair.sidecar(side).journal());
        let Some(last) = jobs.last() else {
            panic!("{what}: no job at {side}: {records:?}");
        };
        assert_eq!(last.kind, kind, "{what}: {last:?}");
        assert_eq!(
            last.result.as_deref(),
            Some("completed"),
            "{what}: {last:?}"
        );
    }
    has_crashed || at_the_end
}

fn every_batch(side: Side) -> u32 {
    let is_all = std::env::var_os(EVERY_BATCH).is_some();
    let (mut batch, step) = if is_all { (1, 1) } else { (2, SLICE) };
    while has_recovered(side, batch) {
        batch += step;
        assert!(batch < BATCHES_MAX, "{batch}");
    }
    batch
}

#[test]
fn a_source_dies_at_any_batch() {
    assert!(every_batch(Side::A) > 4);
}

#[test]
fn a_destination_dies_at_any_batch() {
    assert!(every_batch(Side::B) > 3);
}

/// Completed, and the manager has said nothing: held across a restart, until its own `cont` at the source.
#[test]
fn completed_is_held_until_the_managers_own_word() {
    let plain = RunOptions::default;
    let mut pair = pair(plain(), plain());
    let uri = json!({"uri": format!("unix:{}/plain", pair.directory().display())});
    let on = |names: &[&str]| set_capabilities(names)["arguments"].clone();
    for side in Side::BOTH {
        let names = ["return-path", "events"];
        send(&mut pair, side, "migrate-set-capabilities", on(&names)).unwrap();
    }
    send(&mut pair, Side::B, "migrate-incoming", uri.clone()).unwrap();
    send(&mut pair, Side::A, "migrate", uri).unwrap();
    all_was_sent(&mut pair);
    for side in Side::BOTH {
        pair.sidecar(side).kill().unwrap();
        pair.sidecar(side).start(&plain()).unwrap();
    }
    for (side, rule) in [
        (Side::A, "driven-source-completed"),
        (Side::B, "driven-destination-whole"),
    ] {
        let domains = pair.sidecar(side).domains().unwrap();
        let held = domains[0].held.as_ref().map(|held| held.rule.as_str());
        assert_eq!(held, Some(rule), "{domains:?}");
    }
    send(&mut pair, Side::B, "quit", json!({})).unwrap();
    pair.qemu(Side::B).wait_dead(TIMEOUT).unwrap();
    send(&mut pair, Side::A, "cont", json!({})).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "given back"), Side::A);
}

/// Everything was sent between two sidecars of which the source's is told of these others; the manager has not said its word.
fn send_among(pair: &mut Pair, peers: &[PathBuf]) {
    restart(pair, Side::A, peers);
    let uri = json!({"uri": format!("unix:{}/plain", pair.directory().display())});
    let on = |names: &[&str]| set_capabilities(names)["arguments"].clone();
    for side in Side::BOTH {
        let names = ["return-path", "events"];
        send(pair, side, "migrate-set-capabilities", on(&names)).unwrap();
    }
    send(pair, Side::B, "migrate-incoming", uri.clone()).unwrap();
    send(pair, Side::A, "migrate", uri).unwrap();
    all_was_sent(pair);
}

fn all_was_sent(pair: &mut Pair) {
    until("completed", TIMEOUT, || {
        let seen = (state(pair, Side::A), state(pair, Side::B));
        let is = |one: &Option<(String, String)>, run: &str| {
            one.as_ref()
                .is_some_and(|(a, b)| a == run && b == "completed")
        };
        Ok((is(&seen.0, "postmigrate") && is(&seen.1, "paused")).then_some(()))
    })
    .unwrap();
}

fn restart(pair: &mut Pair, side: Side, peers: &[PathBuf]) {
    let told = RunOptions {
        peers: peers.to_vec(),
        ..RunOptions::default()
    };
    pair.sidecar(side).kill().unwrap();
    pair.sidecar(side).start(&told).unwrap();
}

/// What the source's sidecar says of the other side, once it says anything.
fn said_of_the_other_side(pair: &mut Pair) -> String {
    let said = until("what is known of the other side", TIMEOUT, || {
        let jobs = pair.sidecar(Side::A).jobs(Some(DOMAIN))?;
        let detail = jobs.last().map(|job| job.detail.clone());
        Ok(detail.filter(|detail| detail.contains("other side")))
    });
    said.unwrap_or_else(|error| panic!("{error}\n{}", pair.report()))
}

/// The sidecars found each other by the guest's identity: a manager that is gone after it said its word at the destination leaves nothing
/// open at the source, though both sidecars were killed.
#[test]
fn the_other_side_tells_what_its_manager_said_there() {
    for (word, remains, result) in [("cont", Side::B, "completed"), ("quit", Side::A, "failed")] {
        // Beside one that is not there, and one that is no sidecar.
        let mut pair = pair(RunOptions::default(), RunOptions::default());
        let nobody = pair.directory().join("nobody.sock");
        let sidecar = pair.sidecar(Side::B);
        let peers = [nobody, sidecar.control_socket(), sidecar.peer_socket()];
        send_among(&mut pair, &peers);
        let found = said_of_the_other_side(&mut pair);
        assert!(found.contains("at the other side as the job at"), "{found}");
        send(&mut pair, Side::B, word, json!({})).unwrap();
        if word == "quit" {
            pair.qemu(Side::B).wait_dead(TIMEOUT).unwrap();
        }
        restart(&mut pair, Side::A, &peers);
        restart(&mut pair, Side::B, &[]);
        // Where the guest is to go on is not said by the end of a copy: it is told, and held.
        if word == "quit" {
            let held = until("what was said there", TIMEOUT, || {
                let jobs = pair.sidecar(Side::A).jobs(Some(DOMAIN))?;
                let detail = jobs.last().map(|job| job.detail.clone());
                Ok(detail.filter(|detail| detail.contains("said to be aborted")))
            });
            held.unwrap_or_else(|error| panic!("{error}\n{}", pair.report()));
            send(&mut pair, Side::A, "cont", json!({})).unwrap();
        }
        assert!(!comes_to_rest(&mut pair, Side::A, word));
        let jobs = pair.sidecar(Side::A).jobs(Some(DOMAIN)).unwrap();
        assert_eq!(jobs[0].result.as_deref(), Some(result), "{jobs:?}");
        assert_eq!(assert_one_runs(&mut pair, word), remains);
    }
}

/// Two sidecars have a guest of that identity coming in: nobody is believed, and the source is held.
#[test]
fn two_that_may_be_the_other_side_are_none() {
    let scratch = Scratch::create().unwrap();
    let disk = scratch.path().join("disk");
    ORDINARY.write(&disk).unwrap();
    let third = Qemu::start(&QemuOptions {
        directory: scratch.directory("q-c").unwrap(),
        name: "q-c".to_owned(),
        disk,
        uuid: UUID.to_owned(),
        begin: Begin::Incoming,
        locking: Locking::Off,
        data: Vec::new(),
    })
    .unwrap();
    let directory = scratch.directory("c").unwrap();
    let mut sidecar = Sidecar::new("c", program(), &directory).unwrap();
    sidecar.start(&RunOptions::default()).unwrap();
    let (socket, pid) = (third.sidecar_socket(), third.pid());
    sidecar.domain_add(DOMAIN, &socket, UUID, pid).unwrap();
    let mut monitor = Qmp::connect(&sidecar.monitor_socket(DOMAIN), TIMEOUT).unwrap();
    let elsewhere = json!({"uri": format!("unix:{}/other", scratch.path().display())});
    monitor.execute("migrate-incoming", elsewhere).unwrap();

    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let peers = [sidecar.peer_socket(), pair.sidecar(Side::B).peer_socket()];
    send_among(&mut pair, &peers);
    let found = said_of_the_other_side(&mut pair);
    assert!(
        found.contains("of 2 other sidecars 2 have this guest coming in"),
        "{found}"
    );
    send(&mut pair, Side::B, "cont", json!({})).unwrap();
    restart(&mut pair, Side::A, &peers[1..]);
    let domains = pair.sidecar(Side::A).domains().unwrap();
    let held = domains[0].held.as_ref().map(|held| held.rule.as_str());
    assert_eq!(held, Some("driven-source-completed"), "{domains:?}");
}

/// A destination whose QEMU was started to listen, which a manager tells nothing before its `cont`: a migration comes in from the
/// moment on at which it is registered, is held across a restart when it is whole, and is found by the other side.
#[test]
fn a_destination_that_listens_from_its_start() {
    let plain = RunOptions::default;
    let mut pair = pair(plain(), plain());
    pair.qemu(Side::B).kill().unwrap();
    pair.wait_until_settled(TIMEOUT).unwrap();
    let uri = pair.add_listening(Side::B).unwrap();
    let jobs = pair.sidecar(Side::B).jobs(Some(DOMAIN)).unwrap();
    let job = jobs.last().unwrap();
    let stands = (job.kind.as_str(), job.phase.as_deref(), job.state.as_str());
    assert_eq!(stands, ("migration-in", Some("prepare"), "open"));
    // It waits on, whoever looks.
    restart(&mut pair, Side::B, &[]);
    let early = send(&mut pair, Side::B, "cont", json!({})).unwrap_err();
    assert!(
        early.to_string().contains("the guest is not here yet"),
        "{early}"
    );

    let peers = [pair.sidecar(Side::B).peer_socket()];
    restart(&mut pair, Side::A, &peers);
    let on = set_capabilities(&["return-path", "events"])["arguments"].clone();
    send(&mut pair, Side::A, "migrate-set-capabilities", on).unwrap();
    send(&mut pair, Side::A, "migrate", json!({"uri": uri})).unwrap();
    all_was_sent(&mut pair);
    let found = said_of_the_other_side(&mut pair);
    assert!(found.contains("at the other side as the job at"), "{found}");
    restart(&mut pair, Side::B, &[]);
    let domains = pair.sidecar(Side::B).domains().unwrap();
    let held = domains[0].held.as_ref().map(|held| held.rule.as_str());
    assert_eq!(held, Some("driven-destination-whole"), "{domains:?}");
    send(&mut pair, Side::B, "cont", json!({})).unwrap();
    send(&mut pair, Side::A, "quit", json!({})).unwrap();
    for side in Side::BOTH {
        comes_to_rest(&mut pair, side, "listening");
        let jobs = pair.sidecar(side).jobs(Some(DOMAIN)).unwrap();
        assert_eq!(jobs[0].result.as_deref(), Some("completed"), "{jobs:?}");
    }
    assert_eq!(assert_one_runs(&mut pair, "listening"), Side::B);
}

/// A manager that drives by phases takes such a destination for a job of its own.
#[test]
fn a_listening_destination_and_a_job_that_is_begun() {
    let plain = RunOptions::default;
    let mut pair = pair(plain(), plain());
    pair.qemu(Side::B).kill().unwrap();
    pair.wait_until_settled(TIMEOUT).unwrap();
    pair.add_listening(Side::B).unwrap();
    let mut begin = |kind: &str| {
        let arguments = json!({"name": DOMAIN, "kind": kind});
        pair.sidecar(Side::B).execute("job-begin", arguments)
    };
    let busy = begin("restore").unwrap_err().to_string();
    assert!(busy.contains("is busy"), "{busy}");
    begin("migration-in").unwrap();
    let jobs = pair.sidecar(Side::B).jobs(Some(DOMAIN)).unwrap();
    let open: Vec<_> = jobs.iter().filter(|job| job.result.is_none()).collect();
    assert_eq!(open.len(), 1, "{jobs:?}");
    assert!(!open[0].detail.contains("plain commands"), "{jobs:?}");
}
