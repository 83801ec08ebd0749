//! Damage of each kind: the copy gives what the journal gives, and what is lost is told.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use journal_format::number::Lsn;
use journal_format::number::{BootId, DomainId, HostId, Id128};
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, Draft, Opening, Phase, PhaseEntered, RecordBody,
};

use super::*;
use crate::journal::disk::IoMode;
use crate::journal::testing::{Fault, TestDisk};
use crate::journal::verify::Verdict;
use crate::journal::{Checkpoint, Durable, Log, OpenError, OpenOptions, Opened, Past, Timestamps};

const BLOCK: usize = BLOCK_SIZE as usize;

fn options() -> OpenOptions {
    OpenOptions {
        first_segment_size: 64 * 1024,
        segment_size: 64 * 1024,
        ..OpenOptions::new(HostId(Id128([7; 16])), BootId(Id128([8; 16])))
    }
}

fn checkpoint(openings: &[Opening]) -> Checkpoint {
    let begun = CheckpointBegun {
        records: 0,
        openings: openings.to_vec(),
    };
    let bodies = [
        RecordBody::CheckpointBegun(begun),
        RecordBody::CheckpointEnded(CheckpointEnded { records: 0 }),
    ];
    let drafts = bodies.map(|body| Draft { domain: None, body });
    Checkpoint {
        drafts: drafts.into_iter().collect(),
        needed_from: None,
    }
}

fn open(disk: &TestDisk) -> Log<TestDisk> {
    let opened = Log::open(disk.clone(), None, &options(), drop).unwrap();
    let mut openings = opened.openings().to_vec();
    openings.push(opened.opening());
    opened
        .begin(&checkpoint(&openings), Timestamps::default())
        .unwrap()
}

/// A batch of two records.
fn append(log: &mut Log<TestDisk>, tag: u64) {
    let draft = |tag| Draft {
        domain: Some(DomainId(Id128([1 + u8::from(tag % 2 == 0); 16]))),
        body: RecordBody::PhaseEntered(PhaseEntered {
            job: Lsn(tag),
            phase: Phase::Begin3,
        }),
    };
    let drafts = [draft(tag), draft(tag + 1)];
    log.append(&drafts, Timestamps::default(), ())
        .map(Durable::into_inner)
        .unwrap();
}

/// Segment 1 and, by a roll, segment 2 of one opening, segment 3 of another: each has a checkpoint of
/// two records and five batches of two.
fn three_segments() -> TestDisk {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk);
    for tag in 0..10 {
        if tag == 5 {
            let opening = log.status().opening;
            log.roll(&checkpoint(&[opening]), Timestamps::default())
                .unwrap();
        }
        append(&mut log, tag);
    }
    drop(log);
    let mut log = open(&disk);
    (20..25).for_each(|tag| append(&mut log, tag));
    disk
}

fn name(segment: u64) -> String {
    SegmentNumber(segment).file_name()
}

fn change(disk: &TestDisk, segment: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.read(&name(segment)).unwrap();
    change(&mut bytes);
    disk.put(&name(segment), bytes);
}

fn empty() -> TestDisk {
    let copy = TestDisk::new("copy");
    copy.make_directory().unwrap();
    copy
}

fn files(disk: &TestDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.list().unwrap().into_iter();
    let files = names.filter(|name| SegmentNumber::parse(name).is_some());
    files
        .map(|name| (name.clone(), disk.read(&name).unwrap()))
        .collect()
}

/// What an opening would fold: records, and which LSNs are lost.
fn history(disk: &TestDisk) -> Result<(Vec<Past>, Lsn, Vec<Opening>), String> {
    let mut history = Vec::new();
    let opened: Result<Opened<TestDisk>, OpenError> =
        Log::open(disk.copy(), None, &options(), |past| history.push(past));
    let opened = opened.map_err(|error| error.to_string())?;
    let plain = history.into_iter().map(|past| match past {
        Past::Record(record) => Past::Record(record),
        Past::Gap(gap) => Past::Gap(Gap {
            at: 0,
            until: 0,
            why: Cause::Missing,
            ..gap
        }),
    });
    Ok((
        plain.collect(),
        opened.first_lsn(),
        opened.openings().to_vec(),
    ))
}

/// Repairs a journal; what is readable there, and how it opens, is the same in the copy.
#[track_caller]
fn check(journal: &TestDisk) -> (Repaired, TestDisk) {
    let before = files(journal);
    let copy = empty();
    let repaired = repair_into(journal, &copy).unwrap();
    assert_eq!(files(journal), before, "the journal is as it was");
    let same = !repaired
        .changes
        .iter()
        .any(|change| matches!(change, Change::Renamed { .. }));
    if same && let Ok(expected) = history(journal) {
        assert_eq!(history(&copy).unwrap(), expected);
    }
    (repaired, copy)
}

fn lost(repaired: &Repaired) -> Vec<(u64, u64)> {
    let gaps = repaired.report.gaps.iter();
    gaps.map(|gap| (gap.first.0, gap.last.0)).collect()
}

#[test]
fn a_sound_journal_is_copied_as_it_is() {
    let journal = three_segments();
    let (repaired, copy) = check(&journal);
    assert_eq!(files(&copy), files(&journal));
    assert_eq!(repaired.changes, []);
    assert_eq!(repaired.report.verdict(), Verdict::Clean);
    assert!(repaired.is_whole());
}

#[test]
fn a_torn_tail_is_dropped_and_nothing_else() {
    let journal = three_segments();
    let sound = files(&journal);
    // Behind header, checkpoint and five batches.
    let at = 7 * BLOCK;
    change(&journal, 3, |bytes| bytes[at + 100..at + 900].fill(0x5a));
    let (repaired, copy) = check(&journal);
    let (segment, at) = (SegmentNumber(3), at as u64);
    assert_eq!(repaired.changes, [Change::DroppedTail { segment, at }]);
    assert_eq!(files(&copy), sound);
    assert!(repaired.is_whole());
    assert_eq!(repaired.report.verdict(), Verdict::Clean);
}

/// Neither the header nor its copy.
fn without_headers(bytes: &mut [u8]) {
    bytes[..BLOCK].fill(0);
    bytes[15 * BLOCK..].fill(0);
}

/// Each kind of damage, what is lost, and whether the copy's bytes are those of the journal.
#[test]
fn damage_stays_a_gap_and_both_sides_of_it_stay_readable() {
    type Case<'a> = (&'a str, fn(&TestDisk), &'a [(u64, u64)], u64);
    let cases: [Case<'_>; 9] = [
        // 12 records to a segment; batches of 2 begin at blocks 1 to 6.
        (
            "a record",
            |disk| change(disk, 2, |b| b[3 * BLOCK + 150] ^= 1),
            &[(17, 17)],
            35,
        ),
        (
            "a batch's head and its records",
            |disk| change(disk, 2, |b| b[3 * BLOCK + 9..3 * BLOCK + 300].fill(1)),
            &[(17, 18)],
            34,
        ),
        (
            "the last batch",
            |disk| change(disk, 2, |b| b[6 * BLOCK..7 * BLOCK].fill(0)),
            &[(23, 24)],
            34,
        ),
        (
            "a file in the middle",
            |disk| drop(disk.take(&name(2))),
            &[(13, 24)],
            24,
        ),
        (
            "the end of one",
            |disk| change(disk, 2, |b| b.truncate(4 * BLOCK)),
            &[(19, 24)],
            30,
        ),
        (
            "its whole head",
            |disk| change(disk, 2, |b| without_headers(b)),
            &[(13, 24)],
            24,
        ),
        (
            "the first head",
            |disk| change(disk, 1, |b| without_headers(b)),
            &[(1, 12)],
            24,
        ),
        (
            "the newest head",
            |disk| change(disk, 3, |b| without_headers(b)),
            &[(25, 25 - 1 + (1 << 30) / 48)],
            24,
        ),
        (
            "the newest end",
            |disk| change(disk, 3, |b| b.truncate(4 * BLOCK)),
            &[(31, 30 + 11 * 4096 / 48)],
            30,
        ),
    ];
    for (about, harm, expected, records) in cases {
        let journal = three_segments();
        harm(&journal);
        let (repaired, copy) = check(&journal);
        assert_eq!(lost(&repaired), expected, "{about}");
        assert_eq!(repaired.report.records, records, "{about}");
        assert_eq!(repaired.changes, [], "{about}");
        assert_eq!(files(&copy), files(&journal), "{about}: evidence is kept");
        assert!(!repaired.is_whole(), "{about}");
    }
}

#[test]
fn an_end_that_nobody_can_judge_stays_one() {
    let journal = three_segments();
    change(&journal, 3, |bytes| {
        bytes[7 * BLOCK..15 * BLOCK].fill(0x5a);
        let more = bytes.len() + 2_000_000;
        bytes.resize(more, 0x5a);
    });
    let (repaired, _) = check(&journal);
    // With the segment's size of 64 KiB, all that follows is within a torn batch's reach.
    assert_eq!(repaired.changes.len(), 1);
    let journal = three_segments();
    // A whole batch that belongs elsewhere.
    change(&journal, 3, |bytes| {
        bytes.copy_within(2 * BLOCK..3 * BLOCK, 7 * BLOCK)
    });
    let (repaired, copy) = check(&journal);
    assert_eq!(repaired.changes, []);
    assert_eq!(files(&copy), files(&journal));
    assert_eq!(lost(&repaired), [(37, 36 + 8 * 4096 / 48)]);
}

/// A file of another journal makes an opening impossible; left out in silence it would be a history
/// without a gap.
#[test]
fn a_foreign_file_is_left_out_and_what_it_hides_stays_lost() {
    let other = three_segments();
    for (segment, records, lost_to) in [(1, 24, 12), (2, 24, 24), (3, 24, 24 + (1 << 30) / 48)] {
        let journal = three_segments();
        journal.put(&name(segment), other.read(&name(segment)).unwrap());
        assert!(history(&journal).is_err());
        let (repaired, copy) = check(&journal);
        let Some(Change::LeftOut {
            segment: left,
            why: Cause::OtherJournal(_),
        }) = repaired.changes.first()
        else {
            panic!("{:?}", repaired.changes);
        };
        assert_eq!(*left, SegmentNumber(segment));
        assert!(!repaired.is_whole());
        assert_eq!(repaired.report.records, records);
        assert_eq!(lost(&repaired), [(segment * 12 - 11, lost_to)]);
        assert!(history(&copy).is_ok(), "the copy opens");
    }
}

#[test]
fn a_file_under_a_wrong_name_gets_its_own_back() {
    let journal = three_segments();
    let sound = files(&journal);
    let bytes = journal.take(&name(2)).unwrap();
    journal.put(&name(4), bytes);
    let (repaired, copy) = check(&journal);
    let (from, to) = (SegmentNumber(4), SegmentNumber(2));
    assert_eq!(repaired.changes[0], Change::Renamed { from, to });
    assert!(matches!(
        repaired.changes[1],
        Change::LeftOut {
            segment: SegmentNumber(4),
            ..
        }
    ));
    assert_eq!(copy.read(&name(2)), sound.get(&name(2)).cloned());
    // There may have been a segment 4 under the file that was moved.
    assert_eq!(lost(&repaired), [(37, 36 + (1 << 30) / 48)]);

    // One that is there twice.
    let journal = three_segments();
    journal.put(&name(3), journal.read(&name(2)).unwrap());
    let (repaired, _) = check(&journal);
    assert_eq!(repaired.changes.len(), 1);
    assert_eq!(lost(&repaired), [(25, 24 + (1 << 30) / 48)]);
}

/// F24.
#[test]
fn a_damaged_header_is_whole_again_at_both_places() {
    let sound = three_segments();
    for segment in 1..=3 {
        for at in [0, 15 * BLOCK] {
            for bit in [0, 8 * 8, 70 * 8 + 3, 150 * 8 + 1, 4095 * 8 + 7] {
                let journal = sound.copy();
                change(&journal, segment, |bytes| {
                    bytes[at + bit / 8] ^= 1 << (bit % 8)
                });
                let (repaired, copy) = check(&journal);
                let segment = SegmentNumber(segment);
                assert_eq!(repaired.changes, [Change::RestoredHeader { segment }]);
                assert!(repaired.is_whole());
                assert_eq!(
                    files(&copy),
                    files(&sound),
                    "{segment:?}, bit {bit} of {at}"
                );
            }
        }
    }
}

#[test]
fn a_header_that_is_lost_at_both_places_is_not_made_up() {
    let journal = three_segments();
    change(&journal, 2, |bytes| {
        bytes[64] ^= 1;
        bytes[15 * BLOCK + 4000] ^= 1;
    });
    let (repaired, copy) = check(&journal);
    assert_eq!(repaired.changes, []);
    assert_eq!(files(&copy), files(&journal));
    assert_eq!(lost(&repaired), [(13, 24)]);
    let journal = TestDisk::new("journal");
    append(&mut open(&journal), 1);
    change(&journal, 1, |bytes| {
        bytes[..BLOCK].fill(0);
        bytes[15 * BLOCK..].fill(0);
    });
    let error = repair_into(&journal, &empty()).unwrap_err();
    assert!(
        matches!(error, RepairError::NothingReadable { .. }),
        "{error}"
    );
    let journal = three_segments();
    change(&journal, 2, |bytes| {
        bytes[8] = 3;
        bytes[15 * BLOCK + 8] = 3;
    });
    let error = repair_into(&journal, &empty()).unwrap_err();
    assert!(
        matches!(error, RepairError::NewerFormat { version: 3, .. }),
        "{error}"
    );
}

#[test]
fn any_flipped_bit_costs_no_more_in_the_copy() {
    let sound = three_segments();
    for segment in 1..=3 {
        for bit in (BLOCK * 8..8 * BLOCK * 8).step_by(1009) {
            let journal = sound.copy();
            change(&journal, segment, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let (repaired, _) = check(&journal);
            let there = verify(journal).unwrap();
            assert_eq!(repaired.report.records, there.records, "{segment} {bit}");
            assert_eq!(repaired.report.lost(), there.lost(), "{segment} {bit}");
        }
    }
}

/// A disk that does not give some bytes back.
#[derive(Clone, Debug)]
struct Worn {
    disk: TestDisk,
    holes: Vec<(String, Range<u64>)>,
}

impl Worn {
    fn new(segment: u64, blocks: Range<u64>) -> Worn {
        let block = u64::from(BLOCK_SIZE);
        let holes = vec![(name(segment), blocks.start * block..blocks.end * block)];
        let disk = three_segments();
        Worn { disk, holes }
    }
}

type Handle = (String, <TestDisk as Disk>::File);

impl Disk for Worn {
    type File = Handle;

    fn path(&self) -> &Path {
        self.disk.path()
    }
    fn io_mode(&self) -> IoMode {
        self.disk.io_mode()
    }
    fn make_directory(&self) -> io::Result<()> {
        self.disk.make_directory()
    }
    fn probe(&mut self) -> io::Result<()> {
        self.disk.probe()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<Handle> {
        Ok((name.to_owned(), self.disk.create(name)?))
    }
    fn open(&self, name: &str) -> io::Result<Handle> {
        Ok((name.to_owned(), self.disk.open(name)?))
    }
    fn open_or_create(&self, name: &str) -> io::Result<Handle> {
        Ok((name.to_owned(), self.disk.open_or_create(name)?))
    }
    fn length(&self, file: &Handle) -> io::Result<u64> {
        self.disk.length(&file.1)
    }
    fn is_named(&self, file: &Handle) -> io::Result<bool> {
        self.disk.is_named(&file.1)
    }
    fn read_at(&self, file: &Handle, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let end = at + into.len() as u64;
        let hole = |(name, hole): &(String, Range<u64>)| {
            *name == file.0 && hole.start < end && at < hole.end
        };
        if self.holes.iter().any(hole) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.disk.read_at(&file.1, at, into)
    }
    fn write_at(&self, file: &Handle, at: u64, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write_at(&file.1, at, bytes)
    }
    fn write_through(&self, file: &Handle, at: u64, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write_through(&file.1, at, bytes)
    }
    fn sync(&self, file: &Handle) -> io::Result<()> {
        self.disk.sync(&file.1)
    }
    fn sync_and_forget_cache(&self, file: &Handle) -> io::Result<()> {
        self.disk.sync_and_forget_cache(&file.1)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }
    fn try_lock(&self, file: &Handle) -> io::Result<bool> {
        self.disk.try_lock(&file.1)
    }
}

#[test]
fn what_the_disk_does_not_give_back_is_lost_and_told_and_no_more() {
    let rest = 48;
    let cases = [
        // One batch in the middle, two at the end, the head, the zeros behind the end.
        (2, 3..4, vec![(17, 18)], 64 * 1024),
        (2, 5..9, vec![(21, 24)], 64 * 1024),
        (3, 14..15, vec![], 64 * 1024),
        (3, 10..12, vec![], 64 * 1024),
        // The newest: its end is not known any more.
        (3, 7..8, vec![(37, 36 + 8 * 4096 / rest)], 7 * BLOCK),
        (3, 6..7, vec![(35, 34 + 9 * 4096 / rest)], 6 * BLOCK),
        (3, 3..4, vec![(29, 30)], 64 * 1024),
    ];
    for (segment, blocks, expected, length) in cases {
        let about = format!("segment {segment}, blocks {blocks:?}");
        let journal = Worn::new(segment, blocks.clone());
        assert!(
            verify(journal.clone()).is_err(),
            "{about}: a reader cannot go on"
        );
        let copy = empty();
        let repaired = repair_into(&journal, &copy).unwrap();
        assert_eq!(lost(&repaired), expected, "{about}");
        let Change::Unreadable { at, until, why, .. } = &repaired.changes[0] else {
            panic!("{about}: {:?}", repaired.changes);
        };
        assert_eq!(at / 4096..until / 4096, blocks, "{about}");
        assert!(why.contains("os error 5"), "{why}");
        assert!(!repaired.is_whole(), "{about}");
        assert_eq!(copy.read(&name(segment)).unwrap().len(), length, "{about}");
        assert!(history(&copy).is_ok(), "{about}: the copy opens");
    }
}

/// F24.
#[test]
fn a_header_that_the_disk_does_not_give_back_is_in_its_copy() {
    for block in [0, 15] {
        let journal = Worn::new(1, block..block + 1);
        let copy = empty();
        let repaired = repair_into(&journal, &copy).unwrap();
        let segment = SegmentNumber(1);
        assert_eq!(repaired.changes, [Change::RestoredHeader { segment }]);
        assert!(repaired.is_whole());
        assert_eq!(repaired.report.verdict(), Verdict::Clean);
    }
}

/// A batch that may have been whole, and of which the disk gives only the head back, is no torn tail.
#[test]
fn an_unreadable_end_is_not_taken_for_a_torn_one() {
    let mut journal = Worn::new(3, 8..9);
    let mut log = open(&journal.disk);
    let drafts: Vec<Draft> = (0..200)
        .map(|tag| Draft {
            domain: Some(DomainId(Id128([1; 16]))),
            body: RecordBody::PhaseEntered(PhaseEntered {
                job: Lsn(tag),
                phase: Phase::Begin3,
            }),
        })
        .collect();
    log.append(&drafts, Timestamps::default(), ())
        .map(Durable::into_inner)
        .unwrap();
    drop(log);
    // Segment 4: a checkpoint in block 1, a batch of several blocks from block 2 on.
    journal.holes = vec![(name(4), 3 * 4096..4 * 4096)];
    let copy = empty();
    let repaired = repair_into(&journal, &copy).unwrap();
    assert_eq!(lost(&repaired).len(), 1);
    assert_eq!(lost(&repaired)[0].0, 39);
    assert!(lost(&repaired)[0].1 >= 238, "{:?}", lost(&repaired));
    assert_eq!(copy.read(&name(4)).unwrap().len(), 3 * BLOCK);
}

#[test]
fn a_copy_that_cannot_be_written_is_none() {
    let journal = three_segments();
    let copy = empty();
    let operations = {
        repair_into(&journal, &copy).unwrap();
        copy.operations()
    };
    for operation in 0..operations {
        for fault in [Fault::Error(28), Fault::LostSync(5)] {
            let copy = empty();
            copy.plan(operation, fault);
            let result = repair_into(&journal, &copy);
            // A lost sync is planned for a sync.
            if let Err(error) = result {
                assert!(
                    matches!(error, RepairError::Io { .. }),
                    "{operation}: {error}"
                );
            } else {
                assert!(matches!(fault, Fault::LostSync(_)), "{operation}");
            }
        }
    }
}

#[test]
fn where_no_journal_is_nothing_is_copied() {
    let error = repair_into(&empty(), &empty()).unwrap_err();
    assert!(error.to_string().contains("there is no journal"), "{error}");
}
