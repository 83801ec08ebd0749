//! A follower beside a writer: everything once and in order, and nothing before it is proven.

use journal_format::number::{BootId, DomainId, HostId, Id128};
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, Draft, Opening, Phase, PhaseEntered,
};

use super::*;
use crate::journal::testing::TestDisk;
use crate::journal::{Checkpoint, Durable, Log, OpenOptions, OsDisk, Retention, Timestamps};

const NOW: Timestamps = Timestamps {
    wall: 1,
    monotonic: 2,
};
const BLOCK: usize = BLOCK_SIZE as usize;

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

fn open<D: Disk + Clone>(disk: &D, bytes_max: u64) -> Log<D> {
    let options = OpenOptions {
        first_segment_size: 64 * 1024,
        segment_size: 64 * 1024,
        retention: Retention {
            bytes_max,
            ..Retention::DEFAULT
        },
        ..OpenOptions::new(HostId(Id128([7; 16])), BootId(Id128([8; 16])))
    };
    let opened = Log::open(disk.clone(), None, &options, drop).unwrap();
    let mut openings = opened.openings().to_vec();
    openings.push(opened.opening());
    opened.begin(&checkpoint(&openings), NOW).unwrap()
}

fn append<D: Disk>(log: &mut Log<D>, records: usize) {
    let body = RecordBody::PhaseEntered(PhaseEntered {
        job: Lsn(1),
        phase: Phase::Begin3,
    });
    let domain = Some(DomainId(Id128([1; 16])));
    let drafts = vec![Draft { domain, body }; records];
    log.append(&drafts, NOW, ())
        .map(Durable::into_inner)
        .unwrap();
}

fn roll<D: Disk>(log: &mut Log<D>) {
    let opening = log.status().opening;
    log.roll(&checkpoint(&[opening]), NOW).unwrap();
}

fn seal<D: Disk>(log: &mut Log<D>) {
    let sealed = [Draft {
        domain: None,
        body: RecordBody::Sealed,
    }];
    log.append(&sealed, NOW, ())
        .map(Durable::into_inner)
        .unwrap();
}

fn name(segment: u64) -> String {
    SegmentNumber(segment).file_name()
}

/// All that is new, in short: `3-5` for a batch, `!3-5` for a gap, and so on.
fn news<D: Disk + Clone>(follower: &mut Follower<D>) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(news) = follower.poll().unwrap() {
        all.push(match news {
            News::Batch(batch) => format!("{}-{}", batch.header.first, batch.header.last()),
            News::Gap(gap) => format!("!{}-{}", gap.first, gap.last),
            News::LetGo { first, last } => format!("gone {first}-{last}"),
            News::Vanished { first, last } => format!("never {first}-{last}"),
        });
    }
    all
}

fn unsettled<D: Disk + Clone>(follower: &mut Follower<D>) -> Vec<String> {
    let batches = follower.take_unsettled();
    let batch = |batch: &Batch| format!("{}-{}", batch.header.first, batch.header.last());
    batches.iter().map(batch).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn a_batch_is_given_when_a_later_one_proves_it() {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, u64::MAX);
    let mut follower = Follower::open(disk.clone()).unwrap();
    assert_eq!(
        news(&mut follower),
        NONE,
        "the checkpoint is the last batch"
    );
    append(&mut log, 1);
    append(&mut log, 3);
    assert_eq!(news(&mut follower), ["1-2", "3-3"]);
    assert_eq!(news(&mut follower), NONE);
    append(&mut log, 1);
    assert_eq!(news(&mut follower), ["4-6"]);
    assert!(follower.has_unsettled());
    seal(&mut log);
    assert_eq!(news(&mut follower), ["7-7"]);
    assert!(!follower.has_unsettled(), "a seal says nothing");
    assert_eq!(unsettled(&mut follower), NONE);
    drop(log);
    assert_eq!(news(&mut follower), NONE);
    let mut late = Follower::open(disk.clone()).unwrap();
    assert_eq!(news(&mut late), ["1-2", "3-3", "4-6", "7-7"]);
    // The next opening settles the end of the one before.
    let _log = open(&disk, u64::MAX);
    assert_eq!(news(&mut follower), ["8-8"]);
    assert_eq!(news(&mut late), ["8-8"]);
}

#[test]
fn what_nothing_proves_yet_is_given_only_when_asked_for_and_once() {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, u64::MAX);
    append(&mut log, 1);
    let mut follower = Follower::open(disk.clone()).unwrap();
    assert_eq!(news(&mut follower), ["1-2"]);
    assert!(follower.has_unsettled());
    assert_eq!(unsettled(&mut follower), ["3-3"]);
    assert!(!follower.has_unsettled());
    assert_eq!(unsettled(&mut follower), NONE);
    append(&mut log, 1);
    append(&mut log, 1);
    assert_eq!(news(&mut follower), ["4-4"]);
    assert_eq!(unsettled(&mut follower), ["5-5"]);
    roll(&mut log);
    assert_eq!(news(&mut follower), NONE, "it is not said again");
    append(&mut log, 1);
    assert_eq!(news(&mut follower), ["6-7"]);
}

#[test]
fn rolls_and_restarts_lose_and_repeat_nothing() {
    for seed in 1..30u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 20) % below
        };
        let disk = TestDisk::new("journal");
        let mut log = open(&disk, u64::MAX);
        let mut follower = Follower::open(disk.clone()).unwrap();
        let mut given = Vec::new();
        let show = draw(2) == 0;
        for _ in 0..120 {
            match draw(10) {
                0 => roll(&mut log),
                1 => {
                    drop(log);
                    log = open(&disk, u64::MAX);
                }
                2..=5 => append(&mut log, usize::try_from(draw(40)).unwrap() + 1),
                _ => {
                    given.extend(news(&mut follower));
                    if show {
                        given.extend(unsettled(&mut follower));
                    }
                }
            }
        }
        seal(&mut log);
        given.extend(news(&mut follower));
        let mut expected: Vec<String> = Reader::open(disk.clone())
            .unwrap()
            .map(|entry| match entry.unwrap() {
                Entry::Batch(batch) => format!("{}-{}", batch.header.first, batch.header.last()),
                Entry::Gap(gap) => panic!("{gap}"),
            })
            .collect();
        let last = expected.pop();
        assert!(last.is_some(), "the seal is not proven");
        assert_eq!(given, expected, "seed {seed}");
    }
}

#[test]
fn half_a_batch_is_none() {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, u64::MAX);
    append(&mut log, 1);
    let before = disk.read(&name(1)).unwrap();
    append(&mut log, 200);
    drop(log);
    let after = disk.read(&name(1)).unwrap();
    let end = journal_format::scan::scan(&after).unwrap().end;
    disk.put(&name(1), before);
    let mut follower = Follower::open(disk.clone()).unwrap();
    assert_eq!(news(&mut follower), ["1-2"]);
    assert_eq!(unsettled(&mut follower), ["3-3"]);
    // The write goes on sector by sector, with looks in between.
    for at in (3 * BLOCK..usize::try_from(end).unwrap()).step_by(512) {
        let mut now = disk.read(&name(1)).unwrap();
        now[at..at + 512].copy_from_slice(&after[at..at + 512]);
        let whole = now == after;
        assert_eq!(news(&mut follower), NONE);
        assert_eq!(unsettled(&mut follower), NONE);
        disk.put(&name(1), now);
        if whole {
            break;
        }
    }
    assert_eq!(news(&mut follower), NONE, "3-3 is proven, and was shown");
    assert_eq!(unsettled(&mut follower), ["4-203"]);
}

/// An opening that died before its checkpoint was whole: the next one makes its segment anew.
#[test]
fn a_stillborn_opening_is_never_taken_for_history() {
    for show in [false, true] {
        let disk = TestDisk::new("journal");
        append(&mut open(&disk, u64::MAX), 1);
        let mut follower = Follower::open(disk.clone()).unwrap();
        assert_eq!(news(&mut follower), ["1-2"]);
        // A checkpoint of two batches, of which only the first is there, with another behind it.
        let whole = disk.copy();
        drop(open(&whole, u64::MAX));
        let head = SegmentHeader::decode(&whole.read(&name(2)).unwrap()).unwrap();
        let builder = |at: usize, first, chain| {
            let fields = BatchHeader {
                first: Lsn(first),
                records: 0,
                length: 0,
                epoch: head.epoch,
                chain,
                boot: BootId(Id128([8; 16])),
                wall: 1,
                monotonic: 1,
                segment: head.number,
                offset: at as u64,
                content: 0,
            };
            journal_format::batch::BatchBuilder::new(head.salt, fields)
        };
        let mut bytes = head.encode();
        let mut batch = builder(BLOCK, 4, head.chain());
        let begun = CheckpointBegun {
            records: 9,
            openings: Vec::new(),
        };
        let draft = |body| Draft { domain: None, body };
        batch
            .push(&draft(RecordBody::CheckpointBegun(begun)), None)
            .unwrap();
        let (first, chain) = batch.finish();
        bytes.extend(first);
        let mut batch = builder(2 * BLOCK, 5, chain);
        batch.push(&draft(RecordBody::Sealed), None).unwrap();
        bytes.extend(batch.finish().0);
        bytes.resize(64 * 1024, 0);
        disk.put(&name(2), bytes);

        assert_eq!(news(&mut follower), ["3-3"]);
        let expected = if show {
            assert_eq!(unsettled(&mut follower), ["4-4"]);
            vec!["never 4-4", "4-5", "6-6"]
        } else {
            vec!["4-5", "6-6"]
        };
        let mut log = open(&disk, u64::MAX);
        append(&mut log, 1);
        append(&mut log, 1);
        assert_eq!(news(&mut follower), expected);
    }
}

#[test]
fn what_a_power_failure_took_is_taken_back() {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, u64::MAX);
    append(&mut log, 1);
    let durable = disk.read(&name(1)).unwrap();
    append(&mut log, 2);
    let mut follower = Follower::open(disk.clone()).unwrap();
    assert_eq!(news(&mut follower), ["1-2", "3-3"]);
    assert_eq!(unsettled(&mut follower), ["4-5"]);
    drop(log);
    disk.put(&name(1), durable);
    let mut log = open(&disk, u64::MAX);
    append(&mut log, 1);
    assert_eq!(news(&mut follower), ["never 4-5", "4-5"]);
    seal(&mut log);
    assert_eq!(news(&mut follower), ["6-6"]);
}

#[test]
fn segments_that_were_let_go_meanwhile_are_told_of() {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, 0);
    append(&mut log, 1);
    let mut follower = Follower::open(disk.clone()).unwrap();
    assert_eq!(news(&mut follower), ["1-2"]);
    for _ in 0..4 {
        roll(&mut log);
        append(&mut log, 5);
    }
    assert!(disk.read(&name(1)).is_none(), "it is gone");
    // Segments of 7 records each, of which the last two are kept.
    assert_eq!(
        news(&mut follower),
        ["3-3", "gone 4-17", "18-19", "20-24", "25-26"]
    );
    for _ in 0..6 {
        roll(&mut log);
        append(&mut log, 5);
        seal(&mut log);
        news(&mut follower);
    }
    assert!(disk.read(&name(4)).is_none());
    append(&mut log, 1);
    assert_eq!(
        news(&mut follower).len(),
        1,
        "whoever keeps up misses nothing"
    );
}

/// Whatever is damaged, a follower tells in the end what a reader tells.
#[test]
fn damage_is_told_as_a_reader_tells_it() {
    let sound = TestDisk::new("journal");
    let mut log = open(&sound, u64::MAX);
    for tag in 0..12 {
        if tag % 4 == 3 {
            roll(&mut log);
        }
        append(&mut log, 3);
    }
    seal(&mut log);
    drop(log);
    let places = [
        20,
        100,
        BLOCK + 9,
        BLOCK + 150,
        2 * BLOCK + 9,
        2 * BLOCK + 200,
        3 * BLOCK + 20,
    ];
    for segment in 1..=4 {
        for at in places {
            let about = format!("segment {segment}, byte {at}");
            let disk = sound.copy();
            let mut bytes = disk.read(&name(segment)).unwrap();
            bytes[at] ^= 0x10;
            disk.put(&name(segment), bytes);
            let mut expected: Vec<String> = Reader::open(disk.clone())
                .unwrap()
                .map(|entry| match entry.unwrap() {
                    Entry::Batch(batch) => {
                        format!("{}-{}", batch.header.first, batch.header.last())
                    }
                    Entry::Gap(gap) => format!("!{}-{}", gap.first, gap.last),
                })
                .collect();
            let mut follower = Follower::open(disk.clone()).unwrap();
            let mut given = news(&mut follower);
            // Damage in the newest segment may be a write in flight at the first look.
            for _ in 0..9 {
                given.extend(news(&mut follower));
            }
            let held = follower.segment.iter().flat_map(|segment| &segment.held);
            given.extend(held.map(|held| {
                let header = held.batch.header;
                format!("{}-{}", header.first, header.last())
            }));
            // Of the last batch, the follower tells its gaps first.
            given.sort();
            expected.sort();
            assert_eq!(given, expected, "{about}");
        }
    }
}

#[test]
fn a_gap_under_way_stops_nothing() {
    let disk = TestDisk::new("journal");
    let mut log = open(&disk, u64::MAX);
    append(&mut log, 1);
    append(&mut log, 1);
    let mut follower = Follower::open(disk.clone()).unwrap();
    assert_eq!(news(&mut follower), ["1-2", "3-3"]);
    // The writer writes on; what it wrote is damaged before it is read.
    for _ in 0..3 {
        append(&mut log, 1);
    }
    let mut bytes = disk.read(&name(1)).unwrap();
    bytes[4 * BLOCK + 10] ^= 1;
    bytes[4 * BLOCK + 100] ^= 1;
    disk.put(&name(1), bytes);
    let mut given = Vec::new();
    for _ in 0..4 {
        given.extend(news(&mut follower));
    }
    assert_eq!(given, ["4-4", "!5-5", "6-6"]);
    append(&mut log, 1);
    assert_eq!(news(&mut follower), ["7-7"], "and goes on from there");
    // The next segment has lost its head, the one behind it not.
    roll(&mut log);
    let mut bytes = disk.read(&name(2)).unwrap();
    bytes[20] ^= 1;
    bytes[15 * BLOCK + 20] ^= 1;
    disk.put(&name(2), bytes);
    assert_eq!(news(&mut follower)[0], "8-8");
    append(&mut log, 1);
    roll(&mut log);
    append(&mut log, 1);
    let given = news(&mut follower);
    assert_eq!(given, ["12-13"], "what is lost was told before");
}

#[test]
fn a_journal_that_goes_away_is_an_end() {
    let disk = TestDisk::new("journal");
    append(&mut open(&disk, u64::MAX), 1);
    let follow = || {
        let mut follower = Follower::open(disk.copy()).unwrap();
        news(&mut follower);
        follower
    };
    let mut follower = follow();
    follower.disk.take(&name(1));
    let error = follower.poll().unwrap_err().to_string();
    assert!(error.contains("there is no journal in"), "{error}");

    let other = TestDisk::new("other");
    drop(open(&other, u64::MAX));
    let mut follower = follow();
    follower.disk.put(&name(1), other.read(&name(1)).unwrap());
    let error = follower.poll().unwrap_err().to_string();
    assert!(error.contains("was replaced"), "{error}");
    assert!(Follower::open(TestDisk::new("none")).is_err());
}

/// Bytes that this thread has read so far, as the kernel counts them.
fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_new_batch_costs_no_more_than_itself() {
    let directory = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(directory.path());
    let mut log = open(&disk, u64::MAX);
    let mut follower = Follower::open(disk).unwrap();
    news(&mut follower);
    let before = bytes_read();
    for _ in 0..10 {
        append(&mut log, 1);
        assert_eq!(news(&mut follower).len(), 1);
    }
    let each = (bytes_read() - before) / 10;
    assert!(each < 8 * 4096, "{each} bytes were read for each");
}

/// A writer at work on a real disk: whatever the moment of a look, nothing is wrong in what it gives.
#[test]
fn a_follower_is_never_wrong_beside_a_busy_writer() {
    let directory = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(directory.path());
    let mut log = open(&disk, u64::MAX);
    let mut follower = Follower::open(disk.clone()).unwrap();
    let writer = std::thread::spawn(move || {
        for round in 0..600usize {
            append(&mut log, round * 37 % 120 + 1);
            if round % 50 == 49 {
                roll(&mut log);
            }
            if round % 130 == 129 {
                drop(log);
                log = open(&disk, u64::MAX);
            }
        }
        seal(&mut log);
        log.next_lsn()
    });
    let mut next = Lsn::FIRST;
    let mut take = |batch: &Batch| {
        assert_eq!(batch.header.first, next, "in order, and once");
        assert_eq!(
            batch.records.len(),
            batch.header.records as usize,
            "and whole"
        );
        next = Lsn(batch.header.last().0 + 1);
    };
    let mut looks = 0u32;
    let mut is_over = false;
    let end = loop {
        while let Some(news) = follower.poll().unwrap() {
            match news {
                News::Batch(batch) => take(&batch),
                News::Gap(_) | News::LetGo { .. } | News::Vanished { .. } => panic!("{news:?}"),
            }
        }
        if is_over {
            break writer.join().unwrap();
        }
        looks += 1;
        if looks.is_multiple_of(3) {
            follower.take_unsettled().iter().for_each(&mut take);
        }
        // One more look when it has ended.
        is_over = writer.is_finished();
    };
    assert_eq!(next.next(), Some(end), "all but the seal");
}
