//! The index beside a journal that goes on, loses it, or is another one.

use std::os::unix::fs::FileExt;

use journal_format::number::{BootId, HostId, Id128, MigrationId};
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, Draft, EffectCommand, EffectFinished, EffectIntended,
    EffectResult, Instance, Opening, Phase, PhaseEntered,
};
use tempfile::TempDir;

use std::fs;

use super::*;
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
    let host = HostId(Id128([7; 16]));
    let boot = BootId(Id128([8; 16]));
    let options = OpenOptions {
        first_segment_size: 64 * 1024,
        segment_size: 64 * 1024,
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
    let drafts = vec![
        Draft {
            domain: Some(id(1)),
            body: RecordBody::PhaseEntered(PhaseEntered {
                job: Lsn(100),
                phase: Phase::Begin3,
            }),
        };
        records
    ];
    let now = Timestamps { wall, monotonic: 0 };
    log.append(&drafts, now, ())
        .map(Durable::into_inner)
        .unwrap();
}

/// Appends a phase of a job of a domain.
fn phase(log: &mut Log<TestDisk>, domain: u8, job: u64) {
    let body = RecordBody::PhaseEntered(PhaseEntered {
        job: Lsn(job),
        phase: Phase::Begin3,
    });
    append(log, domain, body);
}

fn append(log: &mut Log<TestDisk>, domain: u8, body: RecordBody) {
    let drafts = [Draft {
        domain: Some(id(domain)),
        body,
    }];
    log.append(&drafts, NOW, ())
        .map(Durable::into_inner)
        .unwrap();
}

fn lsns(places: Result<Vec<Place>, IndexError>) -> Vec<u64> {
    places
        .unwrap()
        .into_iter()
        .map(|place| place.lsn.0)
        .collect()
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
fn records_are_found_by_domain_and_by_job() {
    let (disk, mut log, directory) = small();
    let (mut index, caught_up) = Index::open(directory.path(), &disk).unwrap();
    assert_eq!(
        caught_up,
        CaughtUp {
            added: 5,
            rebuilt: false
        }
    );
    assert_eq!(lsns(index.of_domain(id(1), Lsn(0), 10)), [3, 5]);
    assert_eq!(lsns(index.of_domain(id(1), Lsn(4), 10)), [5]);
    assert_eq!(lsns(index.of_domain(id(1), Lsn(0), 1)), [3]);
    assert_eq!(lsns(index.of_job(Lsn(200), Lsn(0), 10)), [4]);
    assert_eq!(lsns(index.of_domain(id(3), Lsn(0), 10)), [0; 0]);

    phase(&mut log, 2, 200);
    assert_eq!(
        index.catch_up(&disk).unwrap(),
        CaughtUp {
            added: 1,
            rebuilt: false
        }
    );
    assert_eq!(lsns(index.of_domain(id(2), Lsn(0), 10)), [4, 6]);
    assert_eq!(index.catch_up(&disk).unwrap().added, 0);
    assert_eq!(index.last(), Some(Lsn(6)));
}

#[test]
fn where_the_newest_of_a_type_begin() {
    let (disk, mut log, directory) = small();
    phase(&mut log, 1, 300);
    append(&mut log, 1, RecordBody::DomainRemoved);
    let (index, _) = Index::open(directory.path(), &disk).unwrap();
    let begin = |of, kind, limit| {
        let place = index.newest(of, kind, limit).unwrap();
        place.map(|place| place.lsn.0)
    };
    // Domain 1 has phases at 3, 5 and 6, and another record at 7.
    let domain = DomainOrJob::Domain(id(1));
    assert_eq!(begin(domain, "phase-entered", 1), Some(6));
    assert_eq!(begin(domain, "phase-entered", 2), Some(5));
    assert_eq!(begin(domain, "phase-entered", 9), Some(3));
    assert_eq!(begin(domain, "decided", 9), None);
    assert_eq!(begin(domain, "no-such-type", 9), None);
    let job = DomainOrJob::Job(Lsn(100));
    assert_eq!(begin(job, "phase-entered", 1), Some(5));
}

#[test]
fn a_place_is_where_the_record_lies() {
    let (disk, _log, directory) = small();
    let (index, _) = Index::open(directory.path(), &disk).unwrap();
    let places = index.of_domain(id(1), Lsn(0), 10).unwrap();
    for (place, entry) in places.iter().zip([2, 4]) {
        assert_eq!((place.segment, place.kind), (SegmentNumber(1), 9));
        assert_eq!(place.offset / 4096, entry, "one batch is one block here");
        let bytes = disk.read(&place.segment.file_name()).unwrap();
        let at = usize::try_from(place.offset).unwrap();
        assert_eq!(
            bytes[at..at + 8],
            place.lsn.0.to_le_bytes(),
            "a record begins with its LSN"
        );
    }
}

#[test]
fn an_effect_s_result_belongs_to_its_job() {
    let (disk, mut log, directory) = small();
    let instance = Instance {
        boot: BootId(Id128([8; 16])),
        pid: 10,
        start_time: 20,
    };
    let intended = EffectIntended {
        job: Some(Lsn(100)),
        instance,
        command: EffectCommand::Cont,
    };
    append(&mut log, 1, RecordBody::EffectIntended(intended));
    let (mut index, _) = Index::open(directory.path(), &disk).unwrap();
    // In another batch, and known from the index alone.
    let finished = EffectFinished {
        effect: Lsn(6),
        result: EffectResult::Done,
    };
    append(&mut log, 1, RecordBody::EffectFinished(finished));
    index.catch_up(&disk).unwrap();
    assert_eq!(lsns(index.of_job(Lsn(100), Lsn(0), 10)), [3, 5, 6, 7]);
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
    assert_eq!(lsns(index.of_domain(id(1), Lsn(0), 10)), [3, 5, 8]);
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
    assert_eq!(lsns(index.of_domain(id(1), Lsn(0), 10)), [3, 5]);
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
    assert_eq!(lsns(index.of_domain(id(1), Lsn(0), 10)), [0; 0]);
    assert_eq!(lsns(index.of_domain(id(5), Lsn(0), 10)), [3]);
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
    assert_eq!(lsns(index.of_domain(id(9), Lsn(0), 10)), [8]);
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
        assert_eq!(
            lsns(index.of_domain(id(1), Lsn(0), 10)),
            [3, 5],
            "round {round}"
        );
        assert_eq!(
            lsns(index.of_job(Lsn(200), Lsn(0), 10)),
            [4],
            "round {round}"
        );
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
    assert_eq!(lsns(index.of_domain(id(1), Lsn(0), 10)), [0; 0]);
    assert!(caught_up.added > 0);
}

/// Records 1 and 2 are the checkpoint, written at 1.
fn with_times() -> (TestDisk, Log<TestDisk>, TempDir) {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, u64::MAX);
    // 3 to 5, 6, 7 and 8; then the clock is set back, and goes on; 9, 10 to 11, 12.
    for (wall, records) in [(10, 3), (20, 1), (30, 2), (15, 1), (25, 2), (40, 1)] {
        batch(&mut log, wall, records);
    }
    (disk, log, tempfile::tempdir().unwrap())
}

#[test]
fn the_batch_of_a_record_is_found() {
    let (disk, _log, directory) = with_times();
    let (index, _) = Index::open(directory.path(), &disk).unwrap();
    let batch = |lsn| {
        let place = index.place_of_lsn(Lsn(lsn)).unwrap();
        place.map(|place| (place.first.0, place.last.0, place.offset / 4096, place.wall))
    };
    for (lsns, expected) in [
        (0..=2, (1, 2, 1, 1)),
        (3..=5, (3, 5, 2, 10)),
        (6..=6, (6, 6, 3, 20)),
        (7..=8, (7, 8, 4, 30)),
        (12..=12, (12, 12, 7, 40)),
    ] {
        for lsn in lsns {
            assert_eq!(batch(lsn), Some(expected), "{lsn}");
        }
    }
    assert_eq!(batch(13), None);
    assert_eq!(batch(u64::MAX), None);
}

#[test]
fn the_first_batch_of_a_time_is_found_also_when_the_clock_was_set_back() {
    let (disk, mut log, directory) = with_times();
    let (mut index, _) = Index::open(directory.path(), &disk).unwrap();
    let first = |index: &Index, wall| {
        let place = index.place_at_time(wall).unwrap();
        place.map(|place| (place.first.0, place.wall))
    };
    for (wall, expected) in [
        (0, Some((1, 1))),
        (1, Some((1, 1))),
        (2, Some((3, 10))),
        (10, Some((3, 10))),
        (11, Some((6, 20))),
        // Written at 15 and 25, but behind one that was written at 30.
        (21, Some((7, 30))),
        (31, Some((12, 40))),
        (41, None),
        (u64::MAX, None),
    ] {
        assert_eq!(first(&index, wall), expected, "{wall}");
    }
    batch(&mut log, 41, 1);
    index.catch_up(&disk).unwrap();
    assert_eq!(first(&index, 41), Some((13, 41)));
    // What is known of times is found again by the next one.
    drop(index);
    batch(&mut log, 41, 1);
    batch(&mut log, 42, 1);
    let (index, _) = Index::open(directory.path(), &disk).unwrap();
    assert_eq!(first(&index, 41), Some((13, 41)));
    assert_eq!(first(&index, 42), Some((15, 42)));
}

#[test]
fn a_gap_is_skipped_by_place() {
    let (disk, log, directory) = with_times();
    drop(log);
    let name = SegmentNumber(1).file_name();
    let mut bytes = disk.read(&name).unwrap();
    // The head of the batch with record 6, and the record.
    bytes[3 * 4096] ^= 1;
    bytes[3 * 4096 + 100] ^= 1;
    disk.put(&name, bytes);
    let (index, _) = Index::open(directory.path(), &disk).unwrap();
    let place = index.place_of_lsn(Lsn(6)).unwrap().unwrap();
    assert_eq!(place.first, Lsn(7));
    assert_eq!(index.place_at_time(20).unwrap().unwrap().first, Lsn(7));
}

/// A segment that went took a time with it that was later than all behind it.
#[test]
fn what_the_journal_let_go_is_forgotten_by_place_and_time_too() {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, u64::MAX);
    batch(&mut log, 1_000_000, 1);
    drop(log);
    let directory = tempfile::tempdir().unwrap();
    let (mut index, _) = Index::open(directory.path(), &disk).unwrap();
    let first = |index: &Index, wall| {
        let place = index.place_at_time(wall).unwrap();
        place.map(|place| place.first)
    };
    for wall in [50, 60, 70] {
        assert_eq!(first(&index, 71), Some(Lsn(3)), "{wall}");
        let mut log = open(&disk, if wall == 70 { 0 } else { u64::MAX });
        batch(&mut log, wall, 1);
        let caught_up = index.catch_up(&disk).unwrap();
        assert!(!caught_up.rebuilt, "{wall}");
    }
    // Openings of three records each, of which the last two are kept.
    let oldest = index.place_of_lsn(Lsn(1)).unwrap().unwrap();
    assert_eq!((oldest.first, oldest.segment), (Lsn(7), SegmentNumber(3)));
    assert_eq!(first(&index, 0), Some(Lsn(7)));
    assert_eq!(first(&index, 2), Some(Lsn(9)));
    assert_eq!(first(&index, 61), Some(Lsn(12)));
    assert_eq!(first(&index, 71), None);
    drop(index);
    let (mut index, caught_up) = Index::open(directory.path(), &disk).unwrap();
    assert_eq!(caught_up, CaughtUp::default());
    let mut log = open(&disk, u64::MAX);
    batch(&mut log, 80, 1);
    index.catch_up(&disk).unwrap();
    assert_eq!(first(&index, 71), Some(Lsn(15)));
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
    assert_eq!(lsns(index.of_domain(id(1), Lsn(0), 10)), [3, 5]);
    drop(index);
    let (index, caught_up) = Index::rebuild(&path, &disk).unwrap();
    assert_eq!(caught_up.added, 5);
    assert_eq!(lsns(index.of_domain(id(1), Lsn(0), 10)), [3, 5]);
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

/// What a migration's records are found by goes with the last of them that the journal has.
#[test]
fn a_migration_that_nothing_tells_of_any_more_is_forgotten() {
    let migration = MigrationId(Id128([9; 16]));
    let entry = keys::encode_job(Lsn(3), Lsn(17));
    let key = keys::migration_key(migration);
    assert_eq!(needs(&key, &entry), Some(Lsn(17)));
    assert_eq!(keys::decode_job(&entry), Some(Lsn(3)));
    assert_eq!(needs(META_KEY, &[0; 37]), None);
    assert_eq!(needs(&time_key(5), &sortable(3)), None);
}
