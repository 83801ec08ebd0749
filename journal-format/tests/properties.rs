//! What must hold for any records, any bytes and any damage.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is the test's failure"
)]

#[path = "support/draw.rs"]
mod draw;
mod support;

use draw::Draw;
use journal_format::error::FormatError;
use journal_format::number::{
    BootId, Epoch, HostId, JournalId, Lsn, OpeningId, Salt, SegmentNumber,
};
use journal_format::record::{Decoded, Draft, Record, RecordBody};
use journal_format::scan::{Scan, Tail, scan};
use journal_format::segment::{SegmentEnd, SegmentHeader};
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_MIN};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{Writer, id, records, written_again};

const BLOCK: usize = BLOCK_SIZE as usize;

fn header(before: bool) -> SegmentHeader {
    let end = SegmentEnd {
        number: SegmentNumber(6),
        end: 3 * u64::from(BLOCK_SIZE),
        chain: journal_format::number::Chain(0x0102_0304),
        last: Lsn(99),
    };
    SegmentHeader {
        journal: JournalId(id(1)),
        host: HostId(id(2)),
        number: SegmentNumber(7),
        size: SEGMENT_SIZE_MIN,
        salt: Salt([3; 16]),
        first: Lsn(100),
        epoch: Epoch(4),
        opening: OpeningId(id(5)),
        before: before.then_some(end),
    }
}

/// Up to 4 batches of up to 8 records each, drawn from bytes.
fn written(batches: &[Vec<Vec<u8>>], before: bool) -> (Writer, Vec<Record>) {
    let mut writer = Writer::new(header(before));
    let mut all = Vec::new();
    for batch in batches {
        let head = writer.head(BootId(id(6)), 7, 8);
        let records: Vec<(Draft, Option<Lsn>)> = batch
            .iter()
            .map(|bytes| {
                let mut draw = Draw(bytes);
                let previous = draw.perhaps(|draw| Lsn(draw.number().max(1)));
                (draw.draft(), previous)
            })
            .collect();
        for (lsn, (draft, previous)) in (head.first.0..).map(Lsn).zip(&records) {
            let (domain, previous, body) = (draft.domain, *previous, draft.body.clone());
            all.push(Record {
                lsn,
                domain,
                previous,
                body,
            });
        }
        writer.batch(head, &records);
    }
    (writer, all)
}

fn batches() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    vec(vec(vec(any::<u8>(), 0..120), 1..8), 1..4)
}

/// Damage: where, as a fraction of what was written, how many bytes, and what becomes of them.
fn damages() -> impl Strategy<Value = Vec<(u16, u16, u8)>> {
    vec((any::<u16>(), 1u16..9000, any::<u8>()), 1..5)
}

fn damage(bytes: &mut [u8], until: usize, damages: &[(u16, u16, u8)]) {
    for (place, length, how) in damages {
        let at = BLOCK + usize::from(*place) % (until - BLOCK);
        let length = usize::from(*length);
        match how % 4 {
            0 => bytes[at] ^= how | 1,
            1 => {
                let end = bytes.len().min(at + length);
                bytes[at..end].fill(0);
            }
            // A block that was written, or was to be, elsewhere.
            2 => {
                let from = BLOCK * (length % (until / BLOCK));
                let to = at / BLOCK * BLOCK;
                bytes.copy_within(from..from + BLOCK, to);
            }
            _ => {
                let end = bytes.len().min(at + length % 64);
                bytes[at..end].fill(*how);
            }
        }
    }
}

fn assert_in_order(scan: &Scan) {
    let lsns: Vec<u64> = records(scan).iter().map(|record| record.lsn().0).collect();
    assert!(lsns.is_sorted_by(|one, other| one < other), "{lsns:?}");
    let mut end = BLOCK as u64;
    for batch in &scan.batches {
        assert!(batch.header.offset >= end && batch.header.offset % u64::from(BLOCK_SIZE) == 0);
        end = batch.header.offset + batch.header.size();
    }
    assert_eq!(end, scan.end);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// F8, F9: what is written is read, and written again gives the same bytes.
    #[test]
    fn records_make_the_round_trip(batches in batches(), before in any::<bool>()) {
        let (writer, all) = written(&batches, before);
        let (begins, chain, next) = (writer.begins.clone(), writer.chain, writer.next);
        let bytes = writer.finish();
        let found = scan(&bytes).unwrap();
        let read: Vec<Record> = records(&found)
            .into_iter()
            .map(|record| match record {
                Decoded::Known(record) => record.clone(),
                unknown @ Decoded::Unknown { .. } => panic!("{unknown:?}"),
            })
            .collect();
        prop_assert_eq!(read, all);
        prop_assert_eq!(found.batches.len(), begins.len());
        prop_assert_eq!((&found.tail, found.chain, found.next), (&Tail::Clean, chain, next));
        prop_assert!(found.damage.is_empty());
        prop_assert!(written_again(&found) == bytes);
    }

    /// F11, F12: whatever becomes of a segment, no record is read that was not written, in its own
    /// place, and what is lost in front of something that is read is told of.
    #[test]
    fn a_damaged_segment_tells_no_lies(batches in batches(), damages in damages()) {
        let (writer, all) = written(&batches, false);
        let until = writer.bytes.len();
        let mut bytes = writer.finish();
        damage(&mut bytes, until, &damages);
        let found = scan(&bytes).unwrap();
        assert_in_order(&found);
        let mut accounted = Vec::new();
        for record in records(&found) {
            let Decoded::Known(record) = record else { panic!("{record:?}") };
            prop_assert_eq!(record, &all[usize::try_from(record.lsn.0 - 100).unwrap()]);
            accounted.push(record.lsn.0);
        }
        for gap in &found.damage {
            accounted.extend(gap.first.0..=gap.last.0);
        }
        accounted.sort_unstable();
        prop_assert_eq!(accounted, (100..found.next.0).collect::<Vec<u64>>());
        // Bytes that are not zero behind the last batch are never taken for a clean end.
        let end = usize::try_from(found.end).unwrap();
        let copy = bytes.len() - BLOCK;
        let clean = bytes[end..copy].iter().all(|byte| *byte == 0);
        prop_assert_eq!(found.tail == Tail::Clean, clean);
    }

    /// F10: bodies of any bytes never stop a scan; those of unknown types come through as they are.
    #[test]
    fn any_body_is_read(kind in 0u16..40, version in 0u16..4, body in vec(any::<u8>(), 0..400)) {
        let mut writer = Writer::new(header(false));
        let draft = Draft { domain: None, body: RecordBody::Sealed };
        writer.batch(writer.head(BootId(id(6)), 7, 8), &[(draft, None)]);
        let bytes = with_body(writer, kind, version, &body);
        let found = scan(&bytes).unwrap();
        let known = RecordBody::BODY_VERSIONS.contains(&(kind, version));
        match records(&found).as_slice() {
            [Decoded::Known(record)] => {
                prop_assert!(known);
                prop_assert_eq!(record.body.type_number(), kind);
                prop_assert!(written_again(&found) == bytes, "two encodings of one body");
            }
            [Decoded::Unknown { kind: of, version: read, body: same, .. }] => {
                prop_assert!(!known);
                prop_assert_eq!((*of, *read, same), (kind, version, &body));
            }
            [] => {
                // It was written like this, so it is damage and no torn write.
                prop_assert!(known);
                prop_assert_eq!((&found.tail, found.next, found.damage.len()), (&Tail::Clean, Lsn(101), 1));
                let body = matches!(found.damage[0].why, FormatError::Body { .. });
                prop_assert!(body);
            }
            more => panic!("{more:?}"),
        }
    }

    /// Any bytes at all.
    #[test]
    fn any_bytes_are_read(
        bytes in vec(any::<u8>(), 0..20_000),
        with_header in any::<bool>(),
        at in 0usize..3,
    ) {
        let mut all = bytes;
        if with_header {
            all.splice(..0, header(false).encode());
            let magic = all.len().min(BLOCK * (at + 1));
            all.splice(magic..magic, *b"PHJB");
        }
        if let Ok(found) = scan(&all) {
            prop_assert!(records(&found).is_empty());
            prop_assert_eq!(found.next, Lsn(100));
        }
    }
}

fn salted(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32fast::hash(&[&[3; 16], bytes].concat());
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// The segment with a batch of one record, with another type and body and the checksums that fit.
fn with_body(writer: Writer, kind: u16, version: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = writer.finish();
    let mut record = bytes[BLOCK + 96..BLOCK + 96 + 32].to_vec();
    record.extend(kind.to_le_bytes());
    record.extend(version.to_le_bytes());
    record.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    record.extend(salted(&[&record[..8], body].concat()));
    record.extend(salted(&record));
    record.extend(body);
    record.resize(record.len().next_multiple_of(8), 0);
    let batch = &mut bytes[BLOCK..];
    batch[20..24].copy_from_slice(&u32::try_from(record.len()).unwrap().to_le_bytes());
    batch[80..84].copy_from_slice(&salted(&record));
    let checksum = salted(&batch[..92]);
    batch[92..96].copy_from_slice(&checksum);
    batch[96..96 + record.len()].copy_from_slice(&record);
    bytes
}
