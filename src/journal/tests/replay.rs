//! The fast way over a journal shows what the slow one shows.

use core::ops::ControlFlow;

use journal_format::batch::BatchHeader;
use journal_format::number::SegmentNumber;
use journal_format::scan::Batch;

use super::super::decoded::Item;
use super::super::read::{Gap, ReadError};
use super::super::replay::Seen;
use super::*;

/// What a reader showed, record by record.
#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly all are records")]
enum Shown {
    Record(Lsn, Decoded),
    Gap(Gap),
}

fn of_batch(batch: &Batch) -> impl Iterator<Item = Shown> {
    let records = batch.records.iter();
    records.map(|placed| Shown::Record(placed.record.lsn(), placed.record.clone()))
}

fn slow(disk: &TestDisk) -> (Vec<Shown>, Ending) {
    let mut shown = Vec::new();
    let mut reader = Reader::open(disk.clone()).unwrap();
    for entry in reader.by_ref() {
        match entry.unwrap() {
            Entry::Batch(batch) => shown.extend(of_batch(&batch)),
            Entry::Gap(gap) => shown.push(Shown::Gap(gap)),
        }
    }
    (shown, reader.ending())
}

/// The same, and how many records were read where they lay.
fn fast(disk: &TestDisk) -> (Vec<Shown>, Ending, usize) {
    let mut shown = Vec::new();
    let mut in_place = 0;
    let reader = Reader::open(disk.clone()).unwrap();
    let ending = reader.replay(|seen| match seen {
        Seen::Batch(batch) => {
            for view in batch.records() {
                in_place += 1;
                shown.push(Shown::Record(view.lsn, view.decode().unwrap()));
            }
        }
        Seen::Entry(Entry::Batch(batch)) => shown.extend(of_batch(batch)),
        Seen::Entry(Entry::Gap(gap)) => shown.push(Shown::Gap(gap.clone())),
    });
    (shown, ending.unwrap(), in_place)
}

/// The same, decoded, of the records that are chosen.
fn decoded(disk: &TestDisk, chosen: impl Fn(Lsn) -> bool) -> (Vec<Shown>, Ending) {
    let mut shown = Vec::new();
    let mut reader = Reader::open(disk.clone()).unwrap();
    let stopped = reader.decoded(
        |_, head| chosen(head.lsn),
        |item| {
            match item {
                Item::Batch { .. } => {}
                Item::Record { record, .. } => shown.push(Shown::Record(record.lsn(), record)),
                Item::Gap(gap) => shown.push(Shown::Gap(gap)),
            }
            ControlFlow::Continue(())
        },
    );
    assert!(stopped.unwrap().is_continue());
    (shown, reader.ending())
}

/// The same, read by another thread, with the headers of all batches.
fn ahead(disk: &TestDisk) -> (Vec<Shown>, Vec<BatchHeader>, Ending) {
    let (mut shown, mut headers) = (Vec::new(), Vec::new());
    let mut reader = Reader::open(disk.clone()).unwrap();
    let read = reader.decoded_ahead(|item| match item {
        Item::Batch { header, .. } => headers.push(**header),
        Item::Record { header, record, .. } => {
            assert_eq!(headers.last(), Some(*header));
            shown.push(Shown::Record(record.lsn(), (*record).clone()));
        }
        Item::Gap(gap) => shown.push(Shown::Gap(gap.clone())),
    });
    read.unwrap();
    (shown, headers, reader.ending())
}

/// A batch's gaps in their places among its records.
fn in_order(mut shown: Vec<Shown>) -> Vec<Shown> {
    shown.sort_by_key(|one| match one {
        Shown::Record(lsn, _) => *lsn,
        Shown::Gap(gap) => gap.first,
    });
    shown
}

fn assert_same(disk: &TestDisk, what: &str) {
    let (fast, fast_ending, _) = fast(disk);
    let (slow, slow_ending) = slow(disk);
    assert_eq!((&fast, fast_ending), (&slow, slow_ending), "{what}");
    let slow = in_order(slow);
    assert_eq!(
        decoded(disk, |_| true),
        (slow, slow_ending),
        "{what}, decoded"
    );
    let (read_ahead, _, ending) = ahead(disk);
    assert_eq!(
        (read_ahead, ending),
        decoded(disk, |_| true),
        "{what}, ahead"
    );
    let is_even = |lsn: Lsn| lsn.0.is_multiple_of(2);
    let mut even = in_order(fast);
    even.retain(|one| !matches!(one, Shown::Record(lsn, _) if !is_even(*lsn)));
    assert_eq!(
        decoded(disk, is_even),
        (even, slow_ending),
        "{what}, every other one"
    );
}

/// Three openings, five segments, batches of one to forty records.
fn journal() -> TestDisk {
    let place = Place::new();
    let mut tag = 0;
    for _ in 0..3 {
        let mut log = place.begin();
        for size in [1, 3, 40, 2, 17, 1, 1, 9, 40, 40] {
            append(&mut log, tag..tag + size).unwrap();
            tag += size;
        }
        roll(&mut log).unwrap();
        append(&mut log, tag..tag + 1).unwrap();
        tag += 1;
    }
    place.journal
}

fn files(disk: &TestDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    names
}

fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)
}

#[test]
fn a_whole_journal_is_read_in_place() {
    let disk = journal();
    let (shown, _, in_place) = fast(&disk);
    assert_eq!(in_place, shown.len());
    assert_same(&disk, "whole");
}

#[test]
fn the_same_is_shown_whatever_is_damaged() {
    let whole = journal();
    for name in files(&whole) {
        let bytes = whole.read(&name).unwrap();
        let used = used(&bytes);
        for at in (0..used).step_by(509) {
            let disk = whole.copy();
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            disk.put(&name, flipped);
            assert_same(&disk, &format!("{name}: bit at {at}"));
        }
        for block in (0..bytes.len()).step_by(4096) {
            let disk = whole.copy();
            let mut other = bytes.clone();
            other[block..block + 4096].fill(0);
            disk.put(&name, other);
            assert_same(&disk, &format!("{name}: zeros at {block}"));
            let disk = whole.copy();
            let mut other = bytes.clone();
            other.copy_within(4096..8192, block);
            disk.put(&name, other);
            assert_same(&disk, &format!("{name}: the first batch at {block}"));
            let disk = whole.copy();
            disk.put(&name, bytes[..block].to_vec());
            assert_same(&disk, &format!("{name}: cut at {block}"));
        }
        let disk = whole.copy();
        disk.take(&name);
        assert_same(&disk, &format!("{name}: gone"));
    }
    for (name, other) in files(&whole).iter().zip(files(&whole).iter().skip(1)) {
        let disk = whole.copy();
        disk.put(name, whole.read(other).unwrap());
        assert_same(&disk, &format!("{other} in place of {name}"));
    }
}

/// A segment of the same journal and number, of another history that was as long.
#[test]
fn another_history_shows_nothing() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..5).unwrap();
    let fork = place.journal.copy();
    append(&mut log, 5..8).unwrap();
    roll(&mut log).unwrap();
    let first = "0000000000000001.seg";
    // The fork goes on by itself with other records, in the same segment.
    let mut scan = journal_format::scan::scan(&fork.read(first).unwrap()).unwrap();
    let last = scan.batches.pop().unwrap();
    let header = journal_format::batch::BatchHeader {
        first: Lsn(last.header.last().0 + 1),
        chain: last.chain,
        offset: last.header.offset + last.header.size(),
        ..last.header
    };
    let mut batch = journal_format::batch::BatchBuilder::new(scan.header.salt, header);
    for tag in 15..18 {
        batch.push(&draft(tag), Some(Lsn(1))).unwrap();
    }
    let mut bytes = fork.read(first).unwrap();
    let at = usize::try_from(header.offset).unwrap();
    let (batch, _) = batch.finish();
    bytes[at..at + batch.len()].copy_from_slice(&batch);
    place.journal.put(first, bytes);
    let (shown, ..) = fast(&place.journal);
    assert!(
        matches!(&shown[0], Shown::Gap(gap) if gap.first == Lsn(1)),
        "{shown:?}"
    );
    assert_same(&place.journal, "another history");
}

/// Segment by segment, with what the next one says of the end of each.
#[test]
fn parts_make_up_the_whole() {
    let disk = journal();
    let (whole, _) = slow(&disk);
    let mut parts = Vec::new();
    let numbers: Vec<SegmentNumber> = Reader::open(disk.clone())
        .unwrap()
        .segments()
        .iter()
        .map(|file| file.number)
        .collect();
    for number in &numbers {
        let mut reader = Reader::open(disk.clone()).unwrap();
        reader.stop_before(number.next().unwrap());
        reader.skip_to(*number);
        let stopped = reader.decoded(
            |_, _| true,
            |item| {
                match item {
                    Item::Batch { header, .. } => assert_eq!(header.segment, *number),
                    Item::Record { record, .. } => parts.push(Shown::Record(record.lsn(), record)),
                    Item::Gap(gap) => parts.push(Shown::Gap(gap)),
                }
                ControlFlow::Continue(())
            },
        );
        assert!(stopped.unwrap().is_continue());
    }
    assert_eq!(parts, whole);
}

#[test]
fn who_has_seen_enough_is_shown_no_more() {
    let disk = journal();
    let (whole, _) = slow(&disk);
    for wanted in 1..whole.len() {
        let mut count = 0;
        let mut reader = Reader::open(disk.clone()).unwrap();
        let stopped = reader.decoded(
            |_, _| true,
            |item| {
                count += usize::from(matches!(item, Item::Record { .. }));
                match count == wanted {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            },
        );
        assert!(stopped.unwrap().is_break());
        assert_eq!(count, wanted);
    }
}

/// Records that do not decode, in batches that are whole (F9), are told of once and where they are.
#[test]
fn what_does_not_decode_is_a_gap_in_its_place() {
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/journal-format/tests/golden/undecodable.seg"
    );
    let bytes = std::fs::read(golden).unwrap();
    let number = journal_format::scan::scan(&bytes).unwrap().header.number;
    let place = Place::new();
    let disk = place.journal;
    disk.put(&number.file_name(), bytes);
    let (slow, ending) = slow(&disk);
    assert!(slow.iter().any(|one| matches!(one, Shown::Gap(_))));
    let (shown, _, ended) = ahead(&disk);
    assert_eq!(decoded(&disk, |_| true), (shown, ended));
    assert_eq!(decoded(&disk, |_| true), (in_order(slow), ending));
}

/// More than can be under way at once, in batches of all sizes.
#[test]
fn a_long_journal_is_read_ahead() {
    let place = Place::new();
    let mut log = place.begin();
    let mut tag = 0;
    for size in [1, 300, 2, 256, 255, 257, 1, 1000, 900, 800, 700].repeat(3) {
        append(&mut log, tag..tag + size).unwrap();
        tag += size;
        if log.must_roll() {
            roll(&mut log).unwrap();
        }
    }
    let (shown, headers, ending) = ahead(&place.journal);
    assert!(shown.len() > 10_000, "{}", shown.len());
    assert!(
        headers
            .windows(2)
            .all(|two| two[0].last().next() == Some(two[1].first))
    );
    assert_eq!((shown, ending), decoded(&place.journal, |_| true));
}

/// What the system refuses is said, behind what was read before.
#[test]
fn an_error_comes_from_the_other_thread() {
    let (disk, directory) = (journal(), tempfile::tempdir().unwrap());
    let names = files(&disk);
    for name in &names {
        std::fs::write(directory.path().join(name), disk.read(name).unwrap()).unwrap();
    }
    let mut reader = Reader::open(OsDisk::new(directory.path())).unwrap();
    let newest = directory.path().join(names.last().unwrap());
    std::fs::remove_file(&newest).unwrap();
    std::fs::create_dir(&newest).unwrap();
    let mut count = 0;
    let read = reader.decoded_ahead(|item| {
        count += usize::from(matches!(item, Item::Record { .. }));
    });
    assert!(matches!(read, Err(ReadError::Io { .. })), "{read:?}");
    assert!(count > 100, "{count}");
}
