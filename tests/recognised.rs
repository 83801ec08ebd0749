//! A manager that knows of no sidecar, on real QEMU: plain QMP commands on the domains' monitors, by what QEMU shows. Either
//! sidecar is killed at its durable batches; the manager connects again, looks, and goes on.
//!
//! Every other batch is `tools/soak --jobs`'s.

use phase_journal_lab::pair::{DOMAIN, Pair, Side};
use phase_journal_lab::qmp::Qmp;
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use phase_journal_lab::{Error, until};
use serde_json::{Value, json};

use crate::driven::{set_capabilities, state};
use crate::scenario::{EVERY_BATCH, TIMEOUT, assert_one_runs, pair, records_in};

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

/// Until the source's QEMU is gone; a sidecar that died is started again. Says whether one did.
fn drive(pair: &mut Pair, what: &str) -> bool {
    let mut has_crashed = false;
    let capabilities = |names: &[&str]| set_capabilities(names)["arguments"].clone();
    let of_source = capabilities(&["return-path", "events", "pause-before-switchover"]);
    let of_destination = capabilities(&["return-path", "events", "late-block-activate"]);
    let (mut told, mut listens, mut last) = (false, false, String::new());
    let driven = until("end of the source", TIMEOUT, || {
        for side in Side::BOTH {
            if pair.sidecar(side).ended()?.is_some() {
                has_crashed = true;
                pair.sidecar(side).start(&RunOptions::default())?;
            }
        }
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
fn comes_to_rest(pair: &mut Pair, side: Side, what: &str) -> bool {
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
    until("completed", TIMEOUT, || {
        let seen = (state(&mut pair, Side::A), state(&mut pair, Side::B));
        let is = |one: &Option<(String, String)>, run: &str| {
            one.as_ref()
                .is_some_and(|(a, b)| a == run && b == "completed")
        };
        Ok((is(&seen.0, "postmigrate") && is(&seen.1, "paused")).then_some(()))
    })
    .unwrap();
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
