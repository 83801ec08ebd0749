//! The journal on a real disk.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use journal_format::number::SegmentNumber;

use super::*;
use crate::journal::disk::IoMode;
use crate::journal::index::Index;
use crate::journal::verify::{Verdict, verify};

fn open(directory: &Path) -> Result<Opened<OsDisk>, OpenError> {
    let run = directory.join("run");
    let journal = directory.join("journal");
    Log::open(
        OsDisk::new(&journal),
        Some(OsDisk::new(&run)),
        &options(),
        drop,
    )
}

fn begin(opened: Opened<OsDisk>) -> Log<OsDisk> {
    let mut openings = opened.openings().to_vec();
    openings.push(opened.opening());
    opened.begin(&checkpoint(&openings), NOW).unwrap()
}

fn add(log: &mut Log<OsDisk>, tags: std::ops::Range<u64>) {
    log.append(&drafts(tags), NOW, ())
        .map(Durable::into_inner)
        .unwrap();
}

/// Write calls of this thread so far, as the kernel counts them.
fn write_calls() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("syscw: "))
        .unwrap();
    line.parse().unwrap()
}

#[test]
fn a_journal_lives_on_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = begin(open(directory.path()).unwrap());
    add(&mut log, 0..300);
    let status = log.status();
    let opening = status.opening;
    assert_eq!(status.directory, directory.path().join("journal"));
    log.roll(&checkpoint(&[opening]), NOW).unwrap();
    add(&mut log, 300..302);
    let error = open(directory.path()).unwrap_err().to_string();
    assert!(
        error.ends_with(&format!("is in use by process {}", std::process::id())),
        "{error}"
    );
    drop(log);

    let log = begin(open(directory.path()).unwrap());
    let report = verify(OsDisk::new(&directory.path().join("journal"))).unwrap();
    assert_eq!(report.verdict(), Verdict::Clean);
    assert_eq!((report.segments, report.records), (3, 302 + 6));
    let index = directory.path().join("journal").join(INDEX_NAME);
    let disk = OsDisk::new(&directory.path().join("journal"));
    let (index, _) = Index::open(&index, &disk).unwrap();
    let extents = index.of_domain(domain(1), SegmentNumber(0), 1000).unwrap();
    let segments: Vec<u64> = extents.iter().map(|extent| extent.segment.0).collect();
    assert_eq!(segments, [1, 2], "one extent in each, none in the last");
    drop(log);
    open(directory.path()).unwrap();
}

#[test]
fn the_kernel_counts_one_write_for_each_batch() {
    let directory = tempfile::tempdir().unwrap();
    // Without a witness, whose write comes on top.
    let disk = OsDisk::new(&directory.path().join("journal"));
    let opened = Log::open(disk, None, &options(), drop).unwrap();
    let mode = opened.io_mode();
    let mut log = begin(opened);
    let before = write_calls();
    for tag in 0..10 {
        add(&mut log, tag * 10..tag * 10 + 10);
    }
    assert_eq!(
        write_calls() - before,
        10,
        "{mode}: each is synced by the same call or the next"
    );
    assert!(matches!(
        mode,
        IoMode::Direct | IoMode::Dsync | IoMode::Fdatasync
    ));
}

#[test]
fn a_directory_that_is_a_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("journal"), b"").unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }));
    assert!(
        error.to_string().contains("/journal: Not a directory"),
        "{error}"
    );
    let error = verify(OsDisk::new(&directory.path().join("nothing"))).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/nothing: No such file or directory"),
        "{error}"
    );
}

/// A reader beside the writer sees every record up to some point, whole batches only, no gap, no
/// damage, and never less than was acknowledged before it began.
#[test]
fn a_reader_beside_the_writer_never_sees_half_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let mut log = begin(open(directory.path()).unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            let mut rounds = 0;
            loop {
                let is_last = done.load(Ordering::Acquire) && rounds >= 2;
                let reader = Reader::open(OsDisk::new(&journal)).unwrap();
                let entries: Vec<Entry> = reader.map(Result::unwrap).collect();
                let gap = entries.iter().find(|entry| matches!(entry, Entry::Gap(_)));
                assert_eq!(gap, None);
                let tags = tags(&records(&entries));
                assert!(tags.len() >= seen, "what was seen stays");
                assert_eq!(tags.len() % 7, 0, "half a batch");
                assert!(tags.iter().copied().eq(0..tags.len() as u64));
                seen = tags.len();
                rounds += 1;
                if is_last {
                    return seen;
                }
            }
        });
        for batch in 0..60 {
            add(&mut log, batch * 7..batch * 7 + 7);
            if log.must_roll() {
                let opening = log.status().opening;
                log.roll(&checkpoint(&[opening]), NOW).unwrap();
            }
        }
        done.store(true, Ordering::Release);
        assert_eq!(reader.join().unwrap(), 60 * 7);
    });
    assert!(log.status().segment.0 > 3);
}
