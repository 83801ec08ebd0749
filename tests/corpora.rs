//! The fuzz targets' corpora, replayed: what fuzzing once found stays found.

use std::fs;
use std::path::Path;

// The harness is written for a library of its own (fuzz/src/lib.rs).
#[allow(unreachable_pub, dead_code, missing_debug_implementations)]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

/// Runs every file of a corpus; a panic names the file.
fn replay(target: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "{} files of {target}", files.len());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let result = std::panic::catch_unwind(|| run(&bytes));
        assert!(result.is_ok(), "{}", file.display());
    }
}

#[test]
fn scan() {
    replay("scan", fuzz::scan::run);
}

#[test]
fn engine() {
    replay("engine", fuzz::engine::run);
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
