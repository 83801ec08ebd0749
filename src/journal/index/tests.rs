//! The index beside a journal that goes on, loses it, or is another one.

use std::os::unix::fs::FileExt;

use journal_format::number::{BootId, HostId, Id128};
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, Draft, Opening, Phase, PhaseEntered, RecordBody,
};
use tempfile::TempDir;

use std::collections::HashMap;
use std::fs;

use super::*;
use crate::journal::extent::{Extents, Shown};
use crate::journal::testing::TestDisk;
use crate::journal::{Checkpoint, Durable, Log, OpenOptions, Retention, Timestamps};

const NOW: Timestamps = Timestamps {
    wall: 1,
    monotonic: 2,
};

fn id(number: u8) -> DomainId {
    DomainId(Id128([number; 16]))
}

fn open(disk: &TestDisk, retained_bytes_max: u64) -> Log<TestDisk> {
    open_with(disk, retained_bytes_max, 64 * 1024)
}

fn open_with(disk: &TestDisk, retained_bytes_max: u64, segment_size: u64) -> Log<TestDisk> {
    let host = HostId(Id128([7; 16]));
    let boot = BootId(Id128([8; 16]));
    let options = OpenOptions {
        first_segment_size: segment_size,
        segment_size,
        retention: Retention {
            bytes_max: retained_bytes_max,
            ..Retention::DEFAULT
        },
        ..OpenOptions::new(host, boot)
    };
    let opened = Log::open(disk.clone(), None, &options, drop).unwrap();
    let checkpoint = checkpoint(opened.opening());
    opened.begin(&checkpoint, NOW).unwrap()
}

fn checkpoint(opening: Opening) -> Checkpoint {
    let begun = CheckpointBegun {
        records: 0,
        openings: vec![opening],
    };
    let ended = CheckpointEnded { records: 0 };
    let bodies = [
        RecordBody::CheckpointBegun(begun),
        RecordBody::CheckpointEnded(ended),
    ];
    let drafts = bodies
        .into_iter()
        .map(|body| Draft { domain: None, body })
        .collect();
    Checkpoint {
        drafts,
        needed_from: None,
    }
}

/// A batch of so many records, written at that time.
fn batch(log: &mut Log<TestDisk>, wall: u64, records: usize) {
    let drafts = vec![phase_of(1, 100); records];
    let now = Timestamps { wall, monotonic: 0 };
    log.append(&drafts, now, ())
        .map(Durable::into_inner)
        .unwrap();
}

fn phase_of(domain: u8, job: u64) -> Draft {
    Draft {
        domain: Some(id(domain)),
        body: RecordBody::PhaseEntered(PhaseEntered {
            job: Lsn(job),
            phase: Phase::Begin3,
        }),
    }
}

/// Appends a phase of a job of a domain.
fn phase(log: &mut Log<TestDisk>, domain: u8, job: u64) {
    log.append(&[phase_of(domain, job)], NOW, ())
        .map(Durable::into_inner)
        .unwrap();
}

/// The records of a domain that are found by the index.
fn found(index: &Index, disk: &TestDisk, domain: u8) -> Vec<u64> {
    let mut extents = Extents::new(disk.clone(), index.meta().unwrap().journal);
    let mut found = Vec::new();
    for extent in index.of_domain(id(domain), SegmentNumber(0), 1000).unwrap() {
        let before = found.len();
        let shown = extents.show(&extent, |_, view| {
            if view.domain == Some(id(domain)) {
                found.push(view.lsn.0);
            }
            ControlFlow::Continue(())
        });
        assert_eq!(shown, Shown::Whole, "{extent:?}");
        assert!(found.len() > before, "nothing is in {extent:?}");
    }
    found
}

/// A journal with records of domain 1 at 3 and 5, of domain 2 at 4, and an index directory.
fn small() -> (TestDisk, Log<TestDisk>, TempDir) {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, u64::MAX);
    phase(&mut log, 1, 100);
    phase(&mut log, 2, 200);
    phase(&mut log, 1, 100);
    (disk, log, tempfile::tempdir().unwrap())
}

#[test]
fn records_are_found_by_domain() {
    let (disk, mut log, directory) = small();
    let (mut index, caught_up) = Index::open(directory.path(), &disk).unwrap();
    assert_eq!(
        caught_up,
        CaughtUp {
            added: 5,
            rebuilt: false
        }
    );
    assert_eq!(found(&index, &disk, 1), [3, 5]);
    assert_eq!(found(&index, &disk, 3), [0; 0]);

    phase(&mut log, 2, 200);
    assert_eq!(
        index.catch_up(&disk).unwrap(),
        CaughtUp {
            added: 1,
            rebuilt: false
        }
    );
    assert_eq!(found(&index, &disk, 2), [4, 6]);
    assert_eq!(index.catch_up(&disk).unwrap().added, 0);
    assert_eq!(index.last(), Some(Lsn(6)));
}

#[test]
fn an_index_is_kept_over_openings_of_the_journal() {
    let (disk, log, directory) = small();
    drop(log);
    drop(Index::open(directory.path(), &disk).unwrap());
    let mut log = open(&disk, u64::MAX);
    phase(&mut log, 1, 100);
    let (index, caught_up) = Index::open(directory.path(), &disk).unwrap();
    assert_eq!(
        caught_up,
        CaughtUp {
            added: 3,
            rebuilt: false
        }
    );
    assert_eq!(found(&index, &disk, 1), [3, 5, 8]);
}

#[test]
fn a_deleted_index_is_made_anew() {
    let (disk, _log, directory) = small();
    let path = directory.path().join("index");
    drop(Index::open(&path, &disk).unwrap());
    remove(&path).unwrap();
    assert!(!path.exists());
    remove(&path).unwrap();
    let (index, caught_up) = Index::open(&path, &disk).unwrap();
    assert_eq!(caught_up.added, 5);
    assert_eq!(found(&index, &disk, 1), [3, 5]);
}

#[test]
fn an_index_of_another_journal_is_made_anew() {
    let (disk, log, directory) = small();
    drop(log);
    drop(Index::open(directory.path(), &disk).unwrap());
    let other = TestDisk::new("other");
    let mut log = open(&other, u64::MAX);
    phase(&mut log, 5, 100);
    let (index, caught_up) = Index::open(directory.path(), &other).unwrap();
    assert_eq!(
        caught_up,
        CaughtUp {
            added: 3,
            rebuilt: true
        }
    );
    assert_eq!(found(&index, &other, 1), [0; 0]);
    assert_eq!(found(&index, &other, 5), [3]);
}

#[test]
fn an_index_ahead_of_its_journal_is_made_anew() {
    let (disk, mut log, directory) = small();
    let older = disk.copy();
    phase(&mut log, 1, 100);
    drop(Index::open(directory.path(), &disk).unwrap());
    let (index, caught_up) = Index::open(directory.path(), &older).unwrap();
    assert_eq!(
        caught_up,
        CaughtUp {
            added: 5,
            rebuilt: true
        }
    );
    assert_eq!(index.last(), Some(Lsn(5)));
    drop(index);
    // The older copy went another way: same journal, same numbers, other records.
    drop(Index::open(directory.path(), &disk).unwrap());
    let mut log = open(&older, u64::MAX);
    phase(&mut log, 9, 300);
    let (index, caught_up) = Index::open(directory.path(), &older).unwrap();
    assert!(caught_up.rebuilt);
    assert_eq!(found(&index, &older, 9), [8]);
}

#[test]
fn damage_never_stops_the_index() {
    let (disk, _log, directory) = small();
    let path = directory.path().join("index");
    let mut rebuilt = 0;
    for round in 0..40u64 {
        drop(Index::open(&path, &disk).unwrap());
        let db = path.join("db");
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&db)
            .unwrap();
        let length = file.metadata().unwrap().len();
        let at = round * 977 % length.min(4096);
        file.write_all_at(&[0xa5; 64], at).unwrap();
        if round % 4 == 0 {
            file.set_len(length / 2).unwrap();
        }
        drop(file);
        let (index, caught_up) = Index::open(&path, &disk).unwrap();
        rebuilt += u32::from(caught_up.rebuilt || caught_up.added > 0);
        assert_eq!(found(&index, &disk, 1), [3, 5], "round {round}");
    }
    assert!(rebuilt > 0, "the damage was never felt");
    // Not a directory at all.
    remove(&path).unwrap();
    fs::write(&path, b"not an index").unwrap();
    let (_, caught_up) = Index::open(&path, &disk).unwrap();
    assert!(caught_up.rebuilt);
}

#[test]
fn what_the_journal_let_go_is_forgotten() {
    let (disk, log, directory) = small();
    drop(log);
    drop(Index::open(directory.path(), &disk).unwrap());
    for _ in 0..3 {
        open(&disk, 0);
    }
    let (index, caught_up) = Index::open(directory.path(), &disk).unwrap();
    assert_eq!(found(&index, &disk, 1), [0; 0]);
    assert!(caught_up.added > 0);
}

/// Records 1 and 2 are the checkpoint, written at 1; each later opening makes a segment, 3 records a batch.
fn with_times() -> (TestDisk, TempDir) {
    let disk = TestDisk::new("journal");
    for walls in [&[10, 20, 30][..], &[15, 25], &[40]] {
        let mut log = open(&disk, u64::MAX);
        walls.iter().for_each(|wall| batch(&mut log, *wall, 3));
    }
    (disk, tempfile::tempdir().unwrap())
}

#[test]
fn the_first_segment_of_a_time_is_found_also_when_the_clock_was_set_back() {
    let (disk, directory) = with_times();
    let (index, _) = Index::open(directory.path(), &disk).unwrap();
    let segment = |wall| {
        index
            .segment_at_time(wall)
            .unwrap()
            .map(|segment| segment.0)
    };
    // What was written at 25 lies behind what was written at 30.
    for (wall, expected) in [
        (0, Some(1)),
        (21, Some(1)),
        (30, Some(1)),
        (31, Some(3)),
        (40, Some(3)),
        (41, None),
    ] {
        assert_eq!(segment(wall), expected, "{wall}");
    }
}

#[test]
fn an_extent_is_shown_only_if_it_is_there_as_it_is_said_to_be() {
    let (disk, directory) = with_times();
    let (index, _) = Index::open(directory.path(), &disk).unwrap();
    let journal = index.meta().unwrap().journal;
    let extent = index.of_segment(SegmentNumber(1)).unwrap()[0];
    assert_eq!((extent.first, extent.last), (Lsn(1), Lsn(11)));
    assert_eq!((extent.begin, extent.end), (4096, 5 * 4096));
    let show = |disk: &TestDisk, journal, extent: &Extent| {
        let mut records = 0;
        let shown = Extents::new(disk.clone(), journal).show(extent, |_, _| {
            records += 1;
            ControlFlow::Continue(())
        });
        (shown, records)
    };
    assert_eq!(show(&disk, journal, &extent), (Shown::Whole, 11));
    let other = JournalId(Id128([0xEE; 16]));
    let wrong: [(&str, JournalId, Extent); 7] = [
        ("journal", other, extent),
        (
            "segment",
            journal,
            Extent {
                segment: SegmentNumber(2),
                ..extent
            },
        ),
        (
            "file",
            journal,
            Extent {
                segment: SegmentNumber(9),
                ..extent
            },
        ),
        (
            "first",
            journal,
            Extent {
                first: Lsn(2),
                ..extent
            },
        ),
        (
            "before",
            journal,
            Extent {
                before: Chain(1),
                ..extent
            },
        ),
        (
            "size",
            journal,
            Extent {
                end: u64::MAX,
                ..extent
            },
        ),
        (
            "begin",
            journal,
            Extent {
                begin: 8192,
                ..extent
            },
        ),
    ];
    for (what, journal, wrong) in wrong {
        assert_eq!(show(&disk, journal, &wrong), (Shown::NotThere, 0), "{what}");
    }
    // What is said of its end is told too late to show nothing.
    for (what, wrong) in [
        (
            "longer",
            Extent {
                end: extent.end + 4096,
                ..extent
            },
        ),
        (
            "within a batch",
            Extent {
                end: extent.end - 1,
                ..extent
            },
        ),
        (
            "last",
            Extent {
                last: Lsn(12),
                ..extent
            },
        ),
    ] {
        assert_eq!(show(&disk, journal, &wrong).0, Shown::NotThere, "{what}");
    }
    // The batch with the records 6 to 8.
    let name = SegmentNumber(1).file_name();
    let mut bytes = disk.read(&name).unwrap();
    bytes[3 * 4096 + 100] ^= 1;
    disk.put(&name, bytes);
    assert_eq!(show(&disk, journal, &extent), (Shown::NotThere, 5));
}

/// Whatever steps it is made in, it is the same, and leads to every record.
#[test]
fn an_index_made_in_steps_is_the_one_made_at_once() {
    let mut random = 7_u64;
    let mut next = move |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let disk = TestDisk::new("journal");
    let (stepwise, at_once) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut expected: HashMap<u8, Vec<u64>> = HashMap::new();
    let mut lsn = 0;
    for opening in 0..3 {
        let mut log = open_with(&disk, u64::MAX, 1024 * 1024);
        lsn += 2;
        for step in 0..60 {
            let domains = [1 + u8::try_from(next(3)).unwrap(), 5 + opening];
            let mut drafts = Vec::new();
            for _ in 0..=next(300) {
                let domain = domains[usize::try_from(next(2)).unwrap()];
                lsn += 1;
                expected.entry(domain).or_default().push(lsn);
                drafts.push(phase_of(domain, 100));
            }
            log.append(&drafts, NOW, ())
                .map(Durable::into_inner)
                .unwrap();
            if log.must_roll() {
                let opening = log.status().opening;
                log.roll(&checkpoint(opening), NOW).unwrap();
                lsn += 2;
            }
            if step % 7 == 0 {
                let (_, caught_up) = Index::open(stepwise.path(), &disk).unwrap();
                assert!(!caught_up.rebuilt);
            }
        }
    }
    drop(Index::open(stepwise.path(), &disk).unwrap());
    drop(Index::rebuild(at_once.path(), &disk).unwrap());
    let entries = |directory: &TempDir| {
        let index = Index::open_as_it_is(directory.path()).unwrap().unwrap();
        let read = |db: &sled::Db| db.iter().collect::<Result<Vec<_>, _>>();
        index.store.read(read).unwrap()
    };
    assert!(entries(&stepwise) == entries(&at_once), "they differ");
    for directory in [&stepwise, &at_once] {
        let agrees = compare(directory.path(), &disk).unwrap();
        assert_eq!(agrees, Comparison::Agrees { records: lsn });
    }
    let index = Index::open_as_it_is(at_once.path()).unwrap().unwrap();
    assert!(
        index.of_segment(SegmentNumber(2)).unwrap().len() > 2,
        "too small"
    );
    for (domain, lsns) in expected {
        assert_eq!(found(&index, &disk, domain), lsns, "{domain}");
    }
}

/// One of another version is not asked.
#[test]
fn an_index_of_another_version_is_made_anew() {
    let (disk, _log, directory) = small();
    let (index, _) = Index::open(directory.path(), &disk).unwrap();
    let mut older = encode_meta(&index.meta().unwrap());
    older[0] -= 1;
    index
        .store
        .run("write", |db| db.insert(META_KEY, older))
        .unwrap();
    drop(index);
    assert!(Index::open_as_it_is(directory.path()).is_err());
    let (index, caught_up) = Index::open(directory.path(), &disk).unwrap();
    assert!(caught_up.rebuilt);
    assert_eq!(found(&index, &disk, 1), [3, 5]);
}

#[test]
fn an_index_is_one_s_own() {
    let (disk, _log, directory) = small();
    let path = directory.path().join("index");
    let (index, _) = Index::open(&path, &disk).unwrap();
    let in_use = |error: IndexError| matches!(error, IndexError::InUse { .. });
    assert!(in_use(Index::open(&path, &disk).unwrap_err()));
    assert!(in_use(Index::rebuild(&path, &disk).unwrap_err()));
    assert!(in_use(remove(&path).unwrap_err()));
    assert_eq!(found(&index, &disk, 1), [3, 5]);
    drop(index);
    let (index, caught_up) = Index::rebuild(&path, &disk).unwrap();
    assert_eq!(caught_up.added, 5);
    assert_eq!(found(&index, &disk, 1), [3, 5]);
}

#[test]
fn a_deleted_index_is_noticed_by_who_has_it_open() {
    let (disk, _log, directory) = small();
    let path = directory.path().join("index");
    let (mut index, _) = Index::open(&path, &disk).unwrap();
    fs::remove_dir_all(&path).unwrap();
    let error = index.catch_up(&disk).unwrap_err();
    assert!(matches!(error, IndexError::Gone { .. }), "{error}");
    let (_new, _) = Index::open(&path, &disk).unwrap();
    let error = index.catch_up(&disk).unwrap_err();
    assert!(matches!(error, IndexError::Gone { .. }), "{error}");
}

/// Its writer died before anything of it was durable: it says nothing, and nothing wrong. What is there without
/// saying of which journal it is, is wrong.
#[test]
fn an_index_that_was_just_made_says_nothing_wrong() {
    let disk = TestDisk::new("journal");
    drop(open(&disk, u64::MAX));
    let directory = tempfile::tempdir().unwrap();
    drop(Index::open_store(directory.path()).unwrap());
    let found = compare(directory.path(), &disk).unwrap();
    assert_eq!(found, Comparison::Agrees { records: 0 });

    let index = Index::open_store(directory.path()).unwrap();
    index.store.read(|db| db.insert([7], &[7])).unwrap();
    drop(index);
    let found = compare(directory.path(), &disk).unwrap();
    assert_eq!(found, Comparison::Differs("it is of no journal".to_owned()));
}

/// The store is opened anew several times while such an index is made.
#[test]
fn an_index_of_many_segments_is_made_whole() {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, u64::MAX);
    for step in 0..300_u32 {
        phase(&mut log, u8::try_from(1 + step % 3).unwrap(), 100);
        if log.must_roll() {
            let opening = log.status().opening;
            log.roll(&checkpoint(opening), NOW).unwrap();
        }
    }
    let last = log.position().lsn;
    let segments = Reader::open(disk.clone()).unwrap().segments().len() as u64;
    assert!(segments > 3 * WRITES_MAX, "{segments}");
    let directory = tempfile::tempdir().unwrap();
    let (index, made) = Index::rebuild(directory.path(), &disk).unwrap();
    assert_eq!((index.last(), made.added), (Some(last), last.0));
    let found: usize = [1, 2, 3]
        .map(|one| found(&index, &disk, one).len())
        .iter()
        .sum();
    assert_eq!(found, 300);
    drop(index);
    let agrees = compare(directory.path(), &disk).unwrap();
    assert_eq!(agrees, Comparison::Agrees { records: last.0 });
}
