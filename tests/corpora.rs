//! The fuzz targets' corpora, replayed: what fuzzing once found stays found.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use journal_format::record::RecordBody;

// The harness is written for a library of its own (fuzz/src/lib.rs).
#[allow(unreachable_pub, dead_code, missing_debug_implementations)]
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

#[test]
fn scan() {
    let replayed = replay("scan", fuzz::scan::run);
    assert!(replayed.len() >= 50, "{} files", replayed.len());
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
    }
}
