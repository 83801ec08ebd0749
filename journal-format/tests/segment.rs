//! A small segment, written and read back, whole and damaged in every way.

use journal_format::batch::{BatchBuilder, BatchHeader};
use journal_format::number::{
    BootId, DomainId, Epoch, HostId, Id128, JournalId, Lsn, OpeningId, Salt, SegmentNumber,
};
use journal_format::record::{Decoded, DefinitionPart, Draft, RecordBody};
use journal_format::scan::{Scan, Tail, scan};
use journal_format::segment::SegmentHeader;
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_MIN};

const BLOCK: usize = BLOCK_SIZE as usize;

fn id(byte: u8) -> Id128 {
    Id128([byte; 16])
}

fn header() -> SegmentHeader {
    SegmentHeader {
        journal: JournalId(id(1)),
        host: HostId(id(2)),
        number: SegmentNumber(3),
        size: SEGMENT_SIZE_MIN,
        salt: Salt([4; 16]),
        first: Lsn(10),
        epoch: Epoch(2),
        opening: OpeningId(id(5)),
        before: None,
    }
}

fn part(index: u16, size: usize) -> Draft {
    let text = "x".repeat(size);
    let body = RecordBody::DefinitionPart(DefinitionPart {
        first: Lsn(10),
        index,
        count: 9,
        text,
    });
    Draft {
        domain: Some(DomainId(id(6))),
        body,
    }
}

/// Appends batches of records of those sizes; returns where each batch begins, and the bytes.
fn segment(batches: &[&[usize]]) -> (Vec<usize>, Vec<u8>) {
    let header = header();
    let mut bytes = header.encode();
    let (mut chain, mut next, mut begins) = (header.chain(), header.first, Vec::new());
    for sizes in batches {
        let head = BatchHeader {
            first: next,
            records: 0,
            length: 0,
            epoch: Epoch(2),
            chain,
            boot: BootId(id(7)),
            wall: 1,
            monotonic: 2,
            segment: header.number,
            offset: bytes.len() as u64,
            content: 0,
        };
        let mut builder = BatchBuilder::new(header.salt, head);
        for (index, size) in (0u16..).zip(*sizes) {
            builder.push(&part(index, *size), None).unwrap();
        }
        next = builder.next_lsn();
        begins.push(bytes.len());
        let (batch, after) = builder.finish();
        bytes.extend(batch);
        chain = after;
    }
    bytes.resize(usize::try_from(SEGMENT_SIZE_MIN).unwrap(), 0);
    (begins, bytes)
}

fn lsns(scan: &Scan) -> Vec<u64> {
    let records = scan.batches.iter().flat_map(|batch| &batch.records);
    records.map(|placed| placed.record.lsn().0).collect()
}

const BATCHES: &[&[usize]] = &[&[10, 20], &[3000, 3000, 10], &[5], &[100, 4000, 100]];

#[test]
fn what_is_written_is_read() {
    let (_, bytes) = segment(BATCHES);
    let scan = scan(&bytes).unwrap();
    assert_eq!(lsns(&scan), (10..19).collect::<Vec<u64>>());
    assert_eq!(
        (scan.damage.len(), scan.tail, scan.next),
        (0, Tail::Clean, Lsn(19))
    );
    let first = &scan.batches[0].records[0].record;
    let Decoded::Known(record) = first else {
        panic!("{first:?}")
    };
    assert_eq!(
        (record.domain, record.body.clone()),
        (Some(DomainId(id(6))), part(0, 10).body)
    );
}

/// F11, F12: whatever bit flips, nothing wrong is read, and nothing that was acknowledged (all but
/// the last batch, for which torn is the honest answer) is lost in silence.
#[test]
fn every_flipped_bit_is_found() {
    let (begins, clean) = segment(BATCHES);
    let whole = scan(&clean).unwrap();
    let last = *begins.last().unwrap();
    let used = last + 2 * BLOCK;
    for at in (BLOCK..used).step_by(7) {
        for bit in [0, 5] {
            let mut bytes = clean.clone();
            bytes[at] ^= 1 << bit;
            let damaged = scan(&bytes).unwrap();
            let intact: Vec<&Decoded> = whole
                .batches
                .iter()
                .flat_map(|b| &b.records)
                .map(|p| &p.record)
                .collect();
            for placed in damaged.batches.iter().flat_map(|batch| &batch.records) {
                assert!(intact.contains(&&placed.record), "wrong data at {at}");
            }
            let mut seen = lsns(&damaged);
            for gap in &damaged.damage {
                seen.extend(gap.first.0..=gap.last.0);
            }
            seen.sort_unstable();
            let in_last = at >= last;
            let expected: Vec<u64> = if in_last {
                (10..16).collect()
            } else {
                (10..19).collect()
            };
            assert_eq!(
                seen, expected,
                "at {at} bit {bit}: {:?} {:?}",
                damaged.damage, damaged.tail
            );
            assert_eq!(damaged.tail == Tail::Clean, !in_last, "at {at}");
        }
    }
}

/// F12: a batch that was cut short at any sector was never acknowledged.
#[test]
fn a_torn_batch_is_torn() {
    let (begins, clean) = segment(BATCHES);
    let last = *begins.last().unwrap();
    let end = last + 2 * BLOCK;
    for cut in (last + 512..end).step_by(512) {
        let mut bytes = clean.clone();
        bytes[cut..end].fill(0);
        let torn = scan(&bytes).unwrap();
        let whole = clean[cut..end].iter().all(|byte| *byte == 0);
        let expected = if whole {
            Tail::Clean
        } else {
            Tail::Torn { at: last as u64 }
        };
        assert_eq!(torn.tail, expected, "cut at {cut}");
        // Written out of order: the begin is missing, the rest is there.
        let mut bytes = clean.clone();
        bytes[last..cut].fill(0);
        let torn = scan(&bytes).unwrap();
        assert!(
            matches!(torn.tail, Tail::Torn { .. } | Tail::Clean),
            "begin lost up to {cut}"
        );
        assert_eq!(torn.next, Lsn(16));
    }
}

/// F11: zeros in the middle are damage, since a later batch is there.
#[test]
fn a_missing_batch_is_damage() {
    let (begins, mut bytes) = segment(BATCHES);
    bytes[begins[1]..begins[2]].fill(0);
    let scan = scan(&bytes).unwrap();
    assert_eq!(lsns(&scan), vec![10, 11, 15, 16, 17, 18]);
    assert_eq!(scan.damage.len(), 1);
    assert_eq!(
        (scan.damage[0].first, scan.damage[0].last),
        (Lsn(12), Lsn(14))
    );
    assert_eq!(scan.damage[0].at, begins[1] as u64);
}

/// F3, F7: a batch of another place or another segment, and one that a guest planted, never pass.
#[test]
fn a_batch_out_of_place_is_no_batch() {
    let (begins, clean) = segment(BATCHES);
    let mut repeated = clean.clone();
    let batch = clean[begins[2]..begins[2] + BLOCK].to_vec();
    let after = begins[3] + 2 * BLOCK;
    repeated[after..after + BLOCK].copy_from_slice(&batch);
    let found = scan(&repeated).unwrap();
    assert_eq!(found.next, Lsn(19));
    assert!(
        matches!(found.tail, Tail::Corrupt { .. }),
        "{:?}",
        found.tail
    );

    let mut other = header();
    other.salt = Salt([9; 16]);
    let mut swapped = clean;
    swapped[..BLOCK].copy_from_slice(&other.encode());
    let found = scan(&swapped).unwrap();
    assert_eq!(lsns(&found), Vec::<u64>::new());
}
