//! The disk fails under a sidecar at work: nobody is told that something is durable which is not,
//! everybody is told why, and recovery goes on when the disk works again.

use phase_journal_lab::fault::{Call, Fault};
use phase_journal_lab::pair::{DOMAIN, Limits, Side, Waited};
use phase_journal_lab::sidecar::RunOptions;
use serde_json::json;

use crate::scenario::{TIMEOUT, assert_one_runs, pair};

const EIO: u16 = 5;
const ENOSPC: u16 = 28;
const BLOCK: u32 = 4096;
const EXIT_FAILED: i32 = 1;

fn failing(call: Call, from: u32, errno: u16) -> RunOptions {
    RunOptions {
        fault: Some(Fault { call, from, errno }),
        ..RunOptions::default()
    }
}

/// A batch of the sidecar of `side` fails at the block `block` of its segment, wherever the migration is
/// then. `None` when it ended before that block.
fn fails_at(side: Side, block: u32, errno: u16) -> Option<()> {
    let what = format!("block {block} of {side}");
    let broken = failing(Call::WriteAndSync, block * BLOCK, errno);
    let (a, b) = match side {
        Side::A => (broken, RunOptions::default()),
        Side::B => (RunOptions::default(), broken),
    };
    let mut pair = pair(a, b);
    // The answer may be that the journal failed.
    drop(pair.migrate(Side::A, Limits::default()));
    match pair.wait_for_crash(side, TIMEOUT) {
        Ok(Waited::Crashed) => {}
        Ok(Waited::Ended(_)) => return None,
        Err(error) => panic!("{what}: {error}"),
    }
    let log = pair.sidecar(side).report();
    let line = log
        .lines()
        .find(|line| line.contains("the journal takes nothing any more"))
        .unwrap_or_else(|| panic!("{what}: {log}"));
    let place = format!("at byte {}", block * BLOCK);
    for part in ["write a batch to", "0000000000000001.seg", &place] {
        assert!(line.contains(part), "{line}");
    }
    pair.sidecar(side).start(&RunOptions::default()).unwrap();
    assert_one_runs(&mut pair, &what);
    Some(())
}

/// Who waits for an answer when the disk fails gets the reason as one, and the process ends with 1.
#[test]
fn callers_are_told_why_and_the_program_ends() {
    let from = 12 * BLOCK;
    let broken = failing(Call::WriteAndSync, from, EIO);
    let mut pair = pair(broken, RunOptions::default());
    let sidecar = pair.sidecar(Side::A);
    let told = phase_journal_lab::until("a failure", TIMEOUT, || {
        for command in ["domain-suspend", "domain-resume"] {
            if let Err(error) = sidecar.execute(command, json!({"name": DOMAIN})) {
                return Ok(Some(error.to_string()));
            }
        }
        Ok(None)
    });
    let told = told.unwrap();
    for part in [
        "the journal failed",
        "could not write a batch to",
        "0000000000000001.seg",
        &from.to_string(),
        "Input/output error",
    ] {
        assert!(told.contains(part), "'{told}' does not say '{part}'");
    }
    let status = sidecar.wait_ended(TIMEOUT).unwrap();
    assert_eq!(status.code(), Some(EXIT_FAILED));
    let error = sidecar.execute("query-journal", json!({})).unwrap_err();
    assert!(!error.to_string().is_empty());

    sidecar.start(&RunOptions::default()).unwrap();
    drop(sidecar.execute("domain-resume", json!({"name": DOMAIN})));
    assert_one_runs(&mut pair, "after the disk came back");
}

/// The source's journal, at blocks from after its registration to the end of the migration.
#[test]
fn a_batch_of_the_source_fails() {
    let failures = (5..21)
        .step_by(2)
        .filter_map(|block| fails_at(Side::A, block, EIO));
    assert!(failures.count() >= 5);
}

#[test]
fn a_batch_of_the_destination_fails() {
    let failures = (5..16)
        .step_by(2)
        .filter_map(|block| fails_at(Side::B, block, ENOSPC));
    assert!(failures.count() >= 2);
}

/// No room for a spare segment: nothing new begins, what is there is answered, and it passes.
#[test]
fn a_full_disk_refuses_jobs_and_domains() {
    // The first segment of an opening fits, a spare does not.
    let full = failing(Call::Write, 2 * 1024 * 1024, ENOSPC);
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    pair.sidecar(Side::A).kill().unwrap();
    // Spares of an earlier run are zeros again only after they were written.
    pair.sidecar(Side::A).start(&full).unwrap();
    let refused = pair.migrate(Side::A, Limits::default()).unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("No space left on device"), "{refused}");
    let journal = pair.sidecar(Side::A).execute("query-journal", json!({}));
    let journal = journal.unwrap();
    assert_eq!(journal["spare-segments"], 0, "{journal}");
    assert_eq!(journal["poisoned"], json!(null), "{journal}");
    assert_eq!(pair.sidecar(Side::A).domains().unwrap().len(), 1);

    pair.sidecar(Side::A).kill().unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "with room again"), Side::B);
}

/// Not even the first segment of an opening can be written: the sidecar says so and ends.
#[test]
fn a_disk_that_cannot_be_written_at_all() {
    for (call, errno, words) in [
        (Call::Write, EIO, "Input/output error"),
        (Call::WriteAndSync, EIO, "Input/output error"),
    ] {
        let mut pair = pair(RunOptions::default(), RunOptions::default());
        pair.sidecar(Side::A).kill().unwrap();
        let error = pair
            .sidecar(Side::A)
            .start(&failing(call, 0, errno))
            .unwrap_err();
        let error = error.to_string();
        assert!(error.contains(words), "{error}");
        pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
        assert_one_runs(&mut pair, words);
    }
}
