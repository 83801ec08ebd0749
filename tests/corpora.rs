//! The fuzz targets' corpora, replayed: what fuzzing once found stays found.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use journal_format::record::{Phase, RecordBody};
use phase_journal::sidecar::COMMAND_NAMES;

// The harness is written for a library of its own (fuzz/src/lib.rs).
#[allow(
    unreachable_pub,
    dead_code,
    missing_debug_implementations,
    clippy::cast_possible_truncation
)]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

/// Runs every file of a corpus; a panic names the file.
fn replay<T>(target: &str, run: fn(&[u8]) -> T) -> Vec<T> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let replayed = files.iter().map(|file| {
        let bytes = fs::read(file).unwrap();
        let result = std::panic::catch_unwind(|| run(&bytes));
        result.unwrap_or_else(|_| panic!("{}", file.display()))
    });
    replayed.collect()
}

/// The same of a corpus that is not nearly empty.
fn replay_some<T>(target: &str, run: fn(&[u8]) -> T) -> Vec<T> {
    let replayed = replay(target, run);
    assert!(replayed.len() >= 20, "{} files", replayed.len());
    replayed
}

#[test]
fn scan() {
    replay_some("scan", fuzz::scan::run);
}

/// The corpus also shows that the fuzzer gets everywhere: every type of record is written.
#[test]
fn engine() {
    let written: BTreeSet<&str> = replay("engine", fuzz::engine::run)
        .into_iter()
        .flatten()
        .collect();
    let never: Vec<&str> = RecordBody::TYPES
        .iter()
        .map(|(_, name)| *name)
        .filter(|name| !written.contains(name))
        .collect();
    assert_eq!(
        never,
        ["sealed"],
        "the journal's own record is not the engine's"
    );
}

#[test]
fn segment() {
    replay_some("segment", fuzz::segment::run);
}

#[test]
fn batch() {
    replay_some("batch", fuzz::batch::run);
}

/// Every type of record is read.
#[test]
fn record() {
    let read = replay_some("record", fuzz::record::run);
    let read: BTreeSet<&str> = read.into_iter().flatten().collect();
    let types = RecordBody::TYPES.iter().map(|(_, name)| *name);
    assert_eq!(read, types.collect());
}

/// Journals are opened with and without a loss, and refused.
#[test]
fn open() {
    use fuzz::open::Opening;
    let ended: BTreeSet<Opening> = replay_some("open", fuzz::open::run).into_iter().collect();
    let all = [Opening::Refused, Opening::Whole, Opening::Damaged];
    assert_eq!(ended, all.into());
}

#[test]
fn qmp_codec() {
    replay_some("qmp_codec", fuzz::qmp_codec::run);
}

/// Every command is taken in some state.
#[test]
fn control() {
    let taken = replay_some("control", fuzz::control::run);
    let taken: BTreeSet<String> = taken.into_iter().flatten().collect();
    // The connection's own, before any other command.
    let commands = COMMAND_NAMES
        .iter()
        .filter(|name| **name != "qmp_capabilities");
    let never: Vec<_> = commands.filter(|name| !taken.contains(**name)).collect();
    assert!(never.is_empty(), "{never:?}");
}

/// Messages come in every phase that is ever entered.
#[test]
fn peer() {
    let phases = replay_some("peer", fuzz::peer::run);
    let phases: BTreeSet<Phase> = phases.into_iter().flatten().collect();
    let all: BTreeSet<Phase> = Phase::ALL.iter().copied().collect();
    assert_eq!(phases, all);
}

/// Every fault happens in some schedule.
#[test]
fn sim() {
    let happened = replay_some("sim", fuzz::sim::run);
    let happened: BTreeSet<String> = happened.into_iter().flatten().collect();
    let all = phase_journal::sim::Fault::ALL.map(phase_journal::sim::Fault::name);
    let never: Vec<_> = all
        .iter()
        .filter(|name| !happened.contains(**name))
        .collect();
    assert!(never.is_empty(), "{never:?}");
}

/// Any bytes at all, without a fuzzer's guidance.
mod any_bytes {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn scan(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            super::fuzz::scan::run(&bytes);
        }

        #[test]
        fn engine(bytes in proptest::collection::vec(any::<u8>(), 0..3_000)) {
            super::fuzz::engine::run(&bytes);
        }

        #[test]
        fn segment(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::fuzz::segment::run(&bytes);
        }

        #[test]
        fn batch(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            super::fuzz::batch::run(&bytes);
        }

        #[test]
        fn record(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::fuzz::record::run(&bytes);
        }

        #[test]
        fn qmp_codec(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::fuzz::qmp_codec::run(&bytes);
        }

        #[test]
        fn control(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            super::fuzz::control::run(&bytes);
        }

        #[test]
        fn peer(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            super::fuzz::peer::run(&bytes);
        }
    }

    // A case is a handful of openings.
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn open(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::fuzz::open::run(&bytes);
        }
    }
}
