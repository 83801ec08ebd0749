//! The golden segments are read as they always were, and written again as they are.
//!
//! A snapshot that changes here means that journals in the field are read differently.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is the test's failure"
)]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use journal_format::SEGMENT_SIZE_MIN;
use journal_format::error::FormatError;
use journal_format::number::Lsn;
use journal_format::record::{Decoded, RecordBody};
use journal_format::scan::{Scan, Tail, scan};
use support::{records, written_again};

fn golden(name: &str) -> Vec<u8> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bytes = std::fs::read(path.join(name)).unwrap();
    let whole = bytes.len() as u64 == SEGMENT_SIZE_MIN;
    assert_eq!(whole, name != "cut-off.seg");
    bytes
}

/// A scan as text: one line for each batch, record and damage, in full.
fn text(scan: &Scan) -> String {
    let mut text = format!("{:?}\n", scan.header);
    for batch in &scan.batches {
        writeln!(text, "{:?} then {:?}", batch.header, batch.chain).unwrap();
        for placed in &batch.records {
            let line = match &placed.record {
                Decoded::Known(record) => {
                    let body = format!("{:?}", record.body).replace("<domain/>", "");
                    format!(
                        "{} {} of {:?} after {:?}: {body}",
                        record.lsn,
                        record.body.type_name(),
                        record.domain,
                        record.previous
                    )
                }
                unknown @ Decoded::Unknown { .. } => format!("{unknown:?}"),
            };
            writeln!(text, "  {:#07x} {line}", placed.offset).unwrap();
        }
    }
    for damage in &scan.damage {
        writeln!(text, "{damage:?}").unwrap();
    }
    writeln!(
        text,
        "{:?}, ended at {:#x}, {:?}",
        scan.tail, scan.end, scan.next
    )
    .unwrap();
    text
}

/// F1, F9: the encoder has not drifted, and every type is there.
#[test]
fn the_first_segment() {
    let bytes = golden("every-record.seg");
    let scan = scan(&bytes).unwrap();
    insta::assert_snapshot!("every-record", text(&scan));
    assert!(written_again(&scan) == bytes, "written differently");
    let more = golden("more-records.seg");
    let more = self::scan(&more).unwrap();
    let disks = golden("copied-disks.seg");
    let disks = self::scan(&disks).unwrap();
    let sent = golden("guests-sent.seg");
    let sent = self::scan(&sent).unwrap();
    let kinds: BTreeSet<u16> = records(&scan)
        .into_iter()
        .chain(records(&more))
        .chain(records(&disks))
        .chain(records(&sent))
        .filter_map(|record| match record {
            Decoded::Known(record) => Some(record.body.type_number()),
            Decoded::Unknown { .. } => None,
        })
        .collect();
    let all: BTreeSet<u16> = RecordBody::TYPES
        .iter()
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(kinds, all);
}

/// F9, F10: so are the record types that came later.
#[test]
fn a_segment_with_later_types() {
    let bytes = golden("more-records.seg");
    let scan = scan(&bytes).unwrap();
    insta::assert_snapshot!("more-records", text(&scan));
    assert!(written_again(&scan) == bytes, "written differently");
}

/// F9, F10: and those that came later still.
#[test]
fn a_segment_with_copied_disks() {
    let bytes = golden("copied-disks.seg");
    let scan = scan(&bytes).unwrap();
    insta::assert_snapshot!("copied-disks", text(&scan));
    assert!(written_again(&scan) == bytes, "written differently");
}

/// F9, F10: and what a checkpoint says of guests that were sent.
#[test]
fn a_segment_with_guests_that_were_sent() {
    let bytes = golden("guests-sent.seg");
    let scan = scan(&bytes).unwrap();
    insta::assert_snapshot!("guests-sent", text(&scan));
    assert!(written_again(&scan) == bytes, "written differently");
}

/// F17, F19, F20, F21: a later segment goes on where the one before ended, begins with a checkpoint
/// of the opening that made it, links each domain's records, and ends with a seal.
#[test]
fn a_later_segment() {
    let bytes = golden("later.seg");
    let later = scan(&bytes).unwrap();
    insta::assert_snapshot!("later", text(&later));
    assert!(written_again(&later) == bytes, "written differently");

    let first = scan(&golden("every-record.seg")).unwrap();
    let before = later.header.before.unwrap();
    assert_eq!(
        (before.number, before.end, before.chain, before.last.next()),
        (
            first.header.number,
            first.end,
            first.chain,
            Some(first.next)
        )
    );
    assert_eq!(later.header.first, first.next);
    let known: Vec<_> = records(&later)
        .into_iter()
        .filter_map(|record| match record {
            Decoded::Known(record) => Some(record),
            Decoded::Unknown { .. } => None,
        })
        .collect();
    let RecordBody::CheckpointBegun(begun) = &known[0].body else {
        panic!("{:?}", known[0])
    };
    let this = begun.openings.last().unwrap();
    assert_eq!(
        (this.epoch, this.opening, this.first),
        (later.header.epoch, later.header.opening, later.header.first)
    );
    let ended = &known[begun.records as usize + 1].body;
    assert!(matches!(ended, RecordBody::CheckpointEnded(end) if end.records == begun.records));
    for (index, record) in known.iter().enumerate() {
        let same = known[..index].iter().rev();
        let mut same =
            same.filter(|other| record.domain.is_some() && other.domain == record.domain);
        assert_eq!(record.previous, same.next().map(|other| other.lsn));
    }
    assert_eq!(known.last().unwrap().body, RecordBody::Sealed);
}

/// F10: what a newer writer wrote is shown as unknown, and hides nothing behind it.
#[test]
fn a_segment_of_a_newer_writer() {
    let scan = scan(&golden("newer-record.seg")).unwrap();
    insta::assert_snapshot!("newer-record", text(&scan));
    let kinds: Vec<_> = scan.batches[1]
        .records
        .iter()
        .map(|placed| match &placed.record {
            Decoded::Known(record) => (record.body.type_number(), 1),
            Decoded::Unknown { kind, version, .. } => (*kind, *version),
        })
        .collect();
    assert_eq!(kinds, [(999, 1), (9, 2), (18, 1)]);
    assert_eq!((scan.damage.len(), scan.tail), (0, Tail::Clean));
}

/// F10: so is what was written before some bodies changed; it hides nothing either.
#[test]
fn a_segment_of_an_older_writer() {
    let first = [(8, 1), (10, 1), (13, 1), (21, 1), (25, 1)];
    let second = [(8, 2), (10, 2), (13, 2), (21, 2), (25, 2)];
    let third = [(10, 2), (25, 3)];
    let fourth = [(31, 1), (32, 1), (33, 1)];
    let fifth = [(31, 2), (32, 2), (33, 2)];
    let sixth = [(31, 3), (32, 3), (33, 3)];
    for (name, changed) in [
        ("older-bodies.seg", BTreeSet::from(first)),
        ("older-bodies-2.seg", BTreeSet::from(second)),
        ("older-bodies-3.seg", BTreeSet::from(third)),
        ("older-bodies-4.seg", BTreeSet::from(fourth)),
        ("older-bodies-5.seg", BTreeSet::from(fifth)),
        ("older-bodies-6.seg", BTreeSet::from(sixth)),
    ] {
        let scan = scan(&golden(name)).unwrap();
        let mut unknown = BTreeSet::new();
        let mut known = 0;
        for record in records(&scan) {
            match record {
                Decoded::Known(_) => known += 1,
                Decoded::Unknown { kind, version, .. } => {
                    unknown.insert((*kind, *version));
                }
            }
        }
        assert_eq!(unknown, changed, "{name}");
        assert!(known > 30, "{name}: {known}");
        assert_eq!((scan.damage.len(), scan.tail), (0, Tail::Clean), "{name}");
    }
}

/// F12: the torn batch counts for nothing, also its whole records.
#[test]
fn a_segment_with_a_torn_tail() {
    let torn = scan(&golden("torn-tail.seg")).unwrap();
    insta::assert_snapshot!("torn-tail", text(&torn));
    assert!(matches!(torn.tail, Tail::Torn { .. }) && torn.damage.is_empty());
    assert_eq!(torn.batches.len(), 1);
}

/// F8, F11, F23: damage with batches behind it is reported, and everything around it is read, also the
/// records of a batch without its header.
#[test]
fn a_segment_with_damage_in_the_middle() {
    let damaged = scan(&golden("damaged-middle.seg")).unwrap();
    insta::assert_snapshot!("damaged-middle", text(&damaged));
    let whole = scan(&golden("every-record.seg")).unwrap();
    let lost: Vec<Lsn> = damaged
        .damage
        .iter()
        .flat_map(|damage| (damage.first.0..=damage.last.0).map(Lsn))
        .collect();
    let expected: Vec<&Decoded> = records(&whole)
        .into_iter()
        .filter(|record| !lost.contains(&record.lsn()))
        .collect();
    assert_eq!(records(&damaged), expected);
    assert_eq!(lost.len(), 1);
    let headless: Vec<u64> = damaged
        .batches
        .iter()
        .filter(|batch| batch.header_lost)
        .map(|batch| batch.header.offset)
        .collect();
    assert_eq!(headless, [whole.batches[2].header.offset]);
}

/// F9: records with any values in their fields are written again as they are.
#[test]
fn a_segment_of_drawn_records() {
    let bytes = golden("drawn.seg");
    let drawn = scan(&bytes).unwrap();
    assert_eq!((drawn.damage.len(), drawn.tail.clone()), (0, Tail::Clean));
    assert!(records(&drawn).len() > 150);
    assert!(written_again(&drawn) == bytes, "written differently");
}

/// F9, F8: a body that is no value of its type is damage of that record alone though all checksums are
/// right, and padding that is not zero loses nothing.
#[test]
fn a_segment_with_bodies_that_do_not_decode() {
    let scan = scan(&golden("undecodable.seg")).unwrap();
    let lost: Vec<_> = scan
        .damage
        .iter()
        .map(|damage| (damage.first, damage.last))
        .collect();
    assert_eq!(lost, [(Lsn(9), Lsn(14))]);
    assert_eq!((scan.batches.len(), scan.tail), (4, Tail::Clean));
    let readable: Vec<Lsn> = scan.batches[1]
        .records
        .iter()
        .map(|placed| placed.record.lsn())
        .collect();
    assert_eq!(readable, [Lsn(8), Lsn(15)]);
}

/// F13: a whole batch that was written for another place.
#[test]
fn a_segment_with_a_batch_of_another_place_at_its_end() {
    let corrupt = scan(&golden("corrupt-tail.seg")).unwrap();
    assert_eq!((corrupt.batches.len(), corrupt.damage.len()), (2, 0));
    let Tail::Corrupt { at, why } = corrupt.tail else {
        panic!("{:?}", corrupt.tail)
    };
    assert_eq!((at, why), (corrupt.end, FormatError::OutOfPlace));
}

/// F24: a header that is gone is read from its copy; with the copy gone too nothing can be told.
#[test]
fn a_segment_with_a_lost_header() {
    let mut bytes = golden("lost-header.seg");
    let whole = golden("every-record.seg");
    assert!(bytes[..4096].iter().all(|byte| *byte == 0));
    assert_eq!(scan(&bytes), scan(&whole));
    let copy = bytes.len() - 4096;
    bytes[copy + 60] ^= 4;
    let what = "segment header";
    assert_eq!(scan(&bytes), Err(FormatError::NoMagic { what }));
    // The copy of a file that is not whole is not at its place.
    let longer = [&golden("lost-header.seg")[..], &[0; 4096]].concat();
    assert_eq!(scan(&longer), Err(FormatError::NoMagic { what }));
}

/// F5: the layout before this one is refused by its number.
#[test]
fn a_segment_of_the_version_before() {
    let refused = scan(&golden("version-1.seg"));
    assert_eq!(refused, Err(FormatError::Version { found: 1 }));
}

/// F4, F20: what a later segment is to settle: a file that was cut off, one with a batch more than it
/// tells of, and one of the same length with another chain value.
#[test]
fn segments_that_a_later_one_settles() {
    let told = scan(&golden("later.seg")).unwrap().header.before.unwrap();
    let cut_off = scan(&golden("cut-off.seg")).unwrap();
    assert!(cut_off.end < told.end && cut_off.header.size == SEGMENT_SIZE_MIN);
    let longer = scan(&golden("longer.seg")).unwrap();
    assert!(longer.end > told.end && longer.next.0 == told.last.0 + 2);
    assert_eq!(longer.batches[longer.batches.len() - 2].chain, told.chain);
    let put_back = scan(&golden("put-back.seg")).unwrap();
    assert_eq!(put_back.end, told.end);
    assert_ne!(put_back.chain, told.chain);
}
