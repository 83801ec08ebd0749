//! The journal as a whole, on a disk that crashes.

use journal_format::number::{BootId, DomainId, HostId, Id128, Lsn};
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, Decoded, Draft, Phase, PhaseEntered, Record, RecordBody,
};

use super::disk::Disk;
use super::read::{Ending, Entry, Reader};
use super::spares::SPARES;
use super::testing::{self, Fault, Survival, TestDisk};
use super::*;

mod crash;
mod damage;
mod model;
mod older;
mod replay;
mod spares;
mod system;
mod table;

const NOW: Timestamps = Timestamps {
    wall: 1_700_000_000_000_000_000,
    monotonic: 5,
};

fn options() -> OpenOptions {
    OpenOptions {
        first_segment_size: 64 * 1024,
        segment_size: 64 * 1024,
        ..OpenOptions::new(HostId(Id128([7; 16])), BootId(Id128([8; 16])))
    }
}

fn domain(number: u8) -> DomainId {
    DomainId(Id128([number; 16]))
}

/// A record that can be told from others.
fn draft(tag: u64) -> Draft {
    let body = RecordBody::PhaseEntered(PhaseEntered {
        job: Lsn(tag),
        phase: Phase::Begin3,
    });
    Draft {
        domain: Some(domain((tag % 3) as u8 + 1)),
        body,
    }
}

fn drafts(tags: std::ops::Range<u64>) -> Vec<Draft> {
    tags.map(draft).collect()
}

/// The checkpoint of a state that is empty but for its openings.
fn checkpoint(openings: &[journal_format::record::Opening]) -> Checkpoint {
    let begun = CheckpointBegun {
        records: 0,
        openings: openings.to_vec(),
    };
    let bodies = [
        RecordBody::CheckpointBegun(begun),
        RecordBody::CheckpointEnded(CheckpointEnded { records: 0 }),
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

/// A journal that was opened, and what it told.
#[derive(Debug)]
struct Resumed {
    opened: Opened<TestDisk>,
    history: Vec<Past>,
}

impl Resumed {
    fn open(
        disk: TestDisk,
        run: Option<TestDisk>,
        options: &OpenOptions,
    ) -> Result<Resumed, OpenError> {
        let mut history = Vec::new();
        let opened = Log::open(disk, run, options, |past| history.push(past))?;
        Ok(Resumed { opened, history })
    }

    fn history(&self) -> &[Past] {
        &self.history
    }
}

impl core::ops::Deref for Resumed {
    type Target = Opened<TestDisk>;

    fn deref(&self) -> &Opened<TestDisk> {
        &self.opened
    }
}

/// A journal and its run directory.
#[derive(Clone)]
struct Place {
    journal: TestDisk,
    run: TestDisk,
}

impl Place {
    fn new() -> Place {
        Place {
            journal: TestDisk::new("journal"),
            run: TestDisk::new("run"),
        }
    }

    fn open(&self) -> Result<Resumed, OpenError> {
        self.open_with(&options())
    }

    fn open_with(&self, options: &OpenOptions) -> Result<Resumed, OpenError> {
        Resumed::open(self.journal.clone(), Some(self.run.clone()), options)
    }

    fn begin(&self) -> Log<TestDisk> {
        begin(self.open().unwrap()).unwrap()
    }

    fn read(&self) -> Vec<Entry> {
        Reader::open(self.journal.clone())
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }
}

fn all_openings(opened: &Opened<TestDisk>) -> Vec<journal_format::record::Opening> {
    let mut openings = opened.openings().to_vec();
    openings.push(opened.opening());
    openings
}

fn begin(resumed: Resumed) -> Result<Log<TestDisk>, AppendError> {
    let openings = all_openings(&resumed);
    resumed.opened.begin(&checkpoint(&openings), NOW)
}

fn append(log: &mut Log<TestDisk>, tags: std::ops::Range<u64>) -> Result<(), AppendError> {
    log.append(&drafts(tags), NOW, ()).map(Durable::into_inner)
}

fn roll(log: &mut Log<TestDisk>) -> Result<(), AppendError> {
    let opening = log.status().opening;
    log.roll(&checkpoint(&[opening]), NOW)
}

/// How many segment files there are.
fn segments(disk: &TestDisk) -> usize {
    let names = disk.list().unwrap();
    let is_segment = |name: &&String| name.ends_with(".seg");
    names.iter().filter(is_segment).count()
}

/// The tags of the records that are no checkpoint's.
fn tags<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<u64> {
    let tag = |record: &Record| match &record.body {
        RecordBody::PhaseEntered(entered) => Some(entered.job.0),
        _ => None,
    };
    records.into_iter().filter_map(tag).collect()
}

fn records(entries: &[Entry]) -> Vec<Record> {
    let mut records = Vec::new();
    for entry in entries {
        if let Entry::Batch(batch) = entry {
            for placed in &batch.records {
                match &placed.record {
                    Decoded::Known(record) => records.push(record.clone()),
                    Decoded::Unknown { .. } => panic!("not ours"),
                }
            }
        }
    }
    records
}

fn past_records(opened: &Resumed) -> Vec<Record> {
    let record = |past: &Past| match past {
        Past::Record(record) => Some(record.clone()),
        Past::Gap(_) => None,
    };
    opened.history().iter().filter_map(record).collect()
}

#[test]
fn a_new_journal_is_read_back() {
    let place = Place::new();
    let opened = place.open().unwrap();
    assert!(opened.is_new());
    assert_eq!((opened.first_lsn(), opened.opening().epoch.0), (Lsn(1), 1));
    assert!(opened.history().is_empty() && opened.openings().is_empty());
    let mut log = begin(opened).unwrap();
    assert_eq!(log.next_lsn(), Lsn(3));
    append(&mut log, 10..13).unwrap();
    append(&mut log, 13..14).unwrap();
    assert_eq!(log.position().lsn, Lsn(6));
    let journal = log.status().journal;
    drop(log);

    let opened = place.open().unwrap();
    assert!(!opened.is_new());
    assert_eq!(opened.journal(), journal);
    assert_eq!((opened.first_lsn(), opened.opening().epoch.0), (Lsn(7), 2));
    let records = past_records(&opened);
    assert_eq!(records.len(), 6);
    assert_eq!(tags(&records), [10, 11, 12, 13]);
    assert_eq!(opened.openings().len(), 1);
    assert_eq!(opened.ending(), Ending::Clean);
}

#[test]
fn records_of_a_domain_are_chained() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..7).unwrap();
    drop(log);
    let mut log = place.begin();
    append(&mut log, 7..10).unwrap();
    let records = records(&place.read());
    for record in records.iter().filter(|record| record.domain.is_some()) {
        let before = records
            .iter()
            .rev()
            .find(|other| other.domain == record.domain && other.lsn < record.lsn);
        assert_eq!(
            record.previous,
            before.map(|before| before.lsn),
            "lsn {}",
            record.lsn
        );
    }
}

#[test]
fn a_batch_is_one_write_and_one_sync() {
    let place = Place::new();
    let mut log = place.begin();
    let before = place.journal.counters();
    for tag in 0..5 {
        append(&mut log, tag * 20..tag * 20 + 20).unwrap();
    }
    let after = place.journal.counters();
    assert_eq!(after.writes - before.writes, 5);
    assert_eq!(after.syncs - before.syncs, 5);
    assert_eq!(after.directory_syncs, before.directory_syncs);
    append(&mut log, 0..0).unwrap();
    assert_eq!(place.journal.counters(), after, "nothing to write");
}

#[test]
fn a_full_segment_is_left_for_another() {
    let place = Place::new();
    let mut log = place.begin();
    let mut tag = 0;
    while !log.must_roll() {
        append(&mut log, tag..tag + 1).unwrap();
        tag += 1;
    }
    roll(&mut log).unwrap();
    assert!(!log.must_roll());
    // Without a roll the log goes on by itself, in segments without a checkpoint.
    for _ in 0..100 {
        append(&mut log, tag..tag + 1).unwrap();
        tag += 1;
    }
    assert_eq!(log.status().segment.0, 9);
    drop(log);
    assert_eq!(tags(&records(&place.read())), (0..tag).collect::<Vec<_>>());
    let opened = place.open().unwrap();
    let since_roll = past_records(&opened);
    assert!(matches!(since_roll[0].body, RecordBody::CheckpointBegun(_)));
    assert_eq!(tags(&since_roll), (tag - 100..tag).collect::<Vec<_>>());
}

/// Whatever the history: the heads of the segments, and the newest segment, once to find its checkpoint
/// and once to tell what follows.
#[test]
fn opening_reads_one_segment() {
    let options = OpenOptions {
        segment_size: 1024 * 1024,
        ..options()
    };
    let place = Place::new();
    let mut log = begin(place.open_with(&options).unwrap()).unwrap();
    for tag in 0..20 {
        roll(&mut log).unwrap();
        append(&mut log, tag * 40..tag * 40 + 40).unwrap();
    }
    drop(log);
    let before = place.journal.counters().bytes_read;
    let opened = place.open_with(&options).unwrap();
    let read = place.journal.counters().bytes_read - before;
    assert_eq!(tags(&past_records(&opened)), (760..800).collect::<Vec<_>>());
    let heads = 21 * (4096 + 96);
    assert!(
        read <= heads + 2 * options.segment_size,
        "{read} bytes were read"
    );
}
