//! The scanner over any bytes: total, in order, and never a record that the bytes do not hold.

use journal_format::batch::{BATCH_HEADER_SIZE, BatchBuilder, BatchHeader};
use journal_format::number::{BootId, Chain, Epoch, HostId, Id128, JournalId, Lsn, OpeningId};
use journal_format::number::{Salt, SegmentNumber};
use journal_format::record::{Decoded, Draft, Record, RecordBody};
use journal_format::scan::{Scan, Tail, scan, scan_until};
use journal_format::segment::{SegmentEnd, SegmentHeader};
use journal_format::whole::Cursor;
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_MIN};

use super::bytes::Bytes;

pub(super) const BLOCK: usize = BLOCK_SIZE as usize;
pub(super) const SALT: Salt = Salt([7; 16]);

/// The first byte says how the others are meant: as a whole file, or as the batches of one, with
/// checksums that fit.
///
/// # Panics
/// When what was found is wrong.
pub fn run(bytes: &[u8]) {
    let mut choices = Bytes::new(bytes);
    let file = if choices.yes() {
        assembled(&mut choices)
    } else {
        let mut file = header().encode();
        file.extend(choices.rest());
        check(choices.rest());
        file
    };
    check(&file);
}

pub(super) fn header() -> SegmentHeader {
    SegmentHeader {
        journal: JournalId(Id128([1; 16])),
        host: HostId(Id128([2; 16])),
        number: SegmentNumber(3),
        size: SEGMENT_SIZE_MIN,
        salt: SALT,
        first: Lsn(10),
        epoch: Epoch(2),
        opening: OpeningId(Id128([4; 16])),
        before: None,
    }
}

/// The checksum of FORMAT.md F3.
fn salted(parts: &[&[u8]]) -> [u8; 4] {
    let bytes = [&SALT.0, parts.concat().as_slice()].concat();
    let crc = crc32(&bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32 bit by bit: nothing of the crate's own.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

/// A segment of batches whose records are drawn from the choices, with checksums that fit; some
/// batches are out of place, some bytes damaged afterwards.
fn assembled(choices: &mut Bytes<'_>) -> Vec<u8> {
    let header = header();
    let mut file = header.encode();
    let (mut next, mut chain) = (header.first, header.chain());
    while !choices.is_empty() && file.len() + 3 * BLOCK < 65_536 {
        let (mut content, mut records) = (Vec::new(), 0);
        for _ in 0..=choices.below(4) {
            record(choices, next.0 + u64::from(records), &mut content);
            records += 1;
        }
        let odd = choices.byte();
        let (bytes, after) = batch(next, records, chain, file.len(), odd, &content);
        chain = after;
        next = Lsn(next.0 + u64::from(records) + u64::from(odd >> 5 & 1));
        let end = file.len() + bytes.len();
        file.extend(bytes);
        if odd >> 6 & 1 == 1 {
            let at = (end - choices.number() % 4096 - 1).max(BLOCK);
            file[at] ^= choices.byte();
        }
    }
    file.resize(65_536 - BLOCK, 0);
    file.extend(header.encode());
    if choices.yes() {
        file[..BLOCK].fill(0);
    }
    file
}

/// A batch of these records, and the chain value after it. Its checksums fit; each bit of `odd` but
/// the sixth and seventh puts something wrong into its header.
pub(super) fn batch(
    first: Lsn,
    records: u32,
    chain: Chain,
    at: usize,
    odd: u8,
    content: &[u8],
) -> (Vec<u8>, Chain) {
    let mut bytes = b"PHJB".to_vec();
    bytes.extend(96u32.to_le_bytes());
    bytes.extend((first.0 + u64::from(odd & 1)).to_le_bytes());
    bytes.extend((records + u32::from(odd >> 7)).to_le_bytes());
    bytes.extend(u32::try_from(content.len()).unwrap_or(0).to_le_bytes());
    bytes.extend((2 + u32::from(odd >> 1 & 1)).to_le_bytes());
    bytes.extend((chain.0 ^ u32::from(odd >> 2 & 1)).to_le_bytes());
    bytes.extend([9; 16]);
    bytes.extend([0; 16]);
    bytes.extend(3u64.to_le_bytes());
    bytes.extend((at as u64 + u64::from(odd >> 3 & 1) * 4096).to_le_bytes());
    bytes.extend(salted(&[content]));
    bytes.extend([odd >> 4 & 1; 8]);
    let checksum = salted(&[&bytes]);
    bytes.extend(checksum);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    (bytes, Chain(u32::from_le_bytes(checksum)))
}

/// A record under a fitting head.
pub(super) fn put_record(
    lsn: Lsn,
    previous: u64,
    domain: [u8; 16],
    (kind, version): (u16, u16),
    body: &[u8],
    content: &mut Vec<u8>,
) {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let lsn = lsn.0.to_le_bytes();
    let mut bytes = lsn.to_vec();
    bytes.extend(previous.to_le_bytes());
    bytes.extend(domain);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(version.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(salted(&[&lsn, body]));
    let checksum = salted(&[&bytes]);
    bytes.extend(checksum);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    content.extend(bytes);
}

fn record(choices: &mut Bytes<'_>, lsn: u64, content: &mut Vec<u8>) {
    let kind = u16::from(choices.byte() % 32);
    let version = 1 + u16::from(choices.byte() / 250);
    let length = choices.number() % 300;
    let body: Vec<u8> = (0..length).map(|_| choices.byte()).collect();
    let domain = [choices.byte(); 16];
    put_record(Lsn(lsn), 0, domain, (kind, version), &body, content);
}

/// What must hold of the scan of any file.
///
/// # Panics
/// When what was found is wrong.
pub(super) fn check(file: &[u8]) {
    let Ok(found) = scan(file) else { return };
    check_found(file, &found);
    let size = usize::try_from(found.header.size).unwrap_or(usize::MAX);
    let file = &file[..file.len().min(size)];
    same_in_place(&found, file);
    // What another segment may say of the end of this one: it cuts nothing off, and nothing is told
    // twice.
    for (end, more) in [(0, 0), (0, 3), (1, 0), (1, 3), (4, 40)] {
        let known = SegmentEnd {
            number: found.header.number,
            end: found.end + end * BLOCK as u64,
            chain: found.chain,
            last: Lsn(found.next.0.saturating_add(more).saturating_sub(1)),
        };
        let Ok(settled) = scan_until(file, Some(&known)) else {
            panic!("its header was read before");
        };
        assert!(settled.next >= found.next && settled.batches.len() >= found.batches.len());
        accounted(&settled);
    }
}

/// Whole batches are the same where they lie.
fn same_in_place(found: &Scan, file: &[u8]) {
    let mut cursor = Cursor::new(&found.header);
    for batch in &found.batches {
        let at = usize::try_from(cursor.at()).unwrap_or(usize::MAX);
        let Some(whole) = cursor.advance(file.get(at..).unwrap_or_default()) else {
            return;
        };
        assert_eq!((whole.header, whole.chain), (batch.header, batch.chain));
        for placed in &batch.records {
            let mut views = whole.records();
            let view = views.find(|view| view.lsn == placed.record.lsn());
            let view = view.unwrap_or_else(|| panic!("{} is not in place", placed.record.lsn()));
            assert_eq!(view.offset, placed.offset);
            assert_eq!(view.decode().as_ref(), Ok(&placed.record));
        }
    }
}

fn check_found(file: &[u8], found: &Scan) {
    let (mut end, mut next) = (BLOCK as u64, found.header.first);
    for batch in &found.batches {
        assert!(batch.header.offset >= end, "batches overlap");
        assert!(batch.header.first >= next, "batches are out of order");
        end = batch.header.offset + batch.header.size();
        assert!(end <= found.header.batches_end(), "a batch beyond its room");
        for placed in &batch.records {
            let lsn = placed.record.lsn();
            assert!(lsn >= next && lsn <= batch.header.last(), "out of order");
            next = Lsn(lsn.0 + 1);
            same_bytes(found, placed.offset, &placed.record, file);
        }
        next = Lsn(batch.header.last().0 + 1);
    }
    assert_eq!((end, next), (found.end, found.next));
    accounted(found);
    let size = usize::try_from(found.header.batches_end()).unwrap_or(usize::MAX);
    let rest = &file[usize::try_from(end).unwrap_or(0).min(file.len())..file.len().min(size)];
    let zero = rest.iter().all(|byte| *byte == 0);
    assert_eq!(zero, found.tail == Tail::Clean, "{:?}", found.tail);
}

/// Every LSN up to the end was read or is told to be lost.
fn accounted(found: &Scan) {
    let records = found.batches.iter().flat_map(|batch| &batch.records);
    let mut ranges: Vec<(u64, u64)> = records
        .map(|placed| (placed.record.lsn().0, placed.record.lsn().0))
        .collect();
    ranges.extend(found.damage.iter().map(|lost| (lost.first.0, lost.last.0)));
    ranges.sort_unstable();
    let mut next = found.header.first.0;
    for (first, last) in ranges {
        assert!(
            first == next && last >= first,
            "{first} to {last} after {next}"
        );
        next = last + 1;
    }
    assert_eq!(next, found.next.0);
}

/// A record that was read gives the bytes that it was read from when it is written again.
fn same_bytes(found: &Scan, offset: u64, record: &Decoded, file: &[u8]) {
    let Decoded::Known(Record {
        lsn,
        domain,
        previous,
        body,
    }) = record
    else {
        return;
    };
    let number = body.type_number();
    assert!(RecordBody::TYPES.iter().any(|(known, _)| *known == number));
    let header = BatchHeader {
        first: *lsn,
        records: 0,
        length: 0,
        epoch: Epoch(1),
        chain: Chain(0),
        boot: BootId(Id128::NIL),
        wall: 0,
        monotonic: 0,
        segment: SegmentNumber(1),
        offset: 0,
        content: 0,
    };
    let mut builder = BatchBuilder::new(found.header.salt, header);
    let (domain, body): (_, RecordBody) = (*domain, body.clone());
    builder
        .push(&Draft { domain, body }, *previous)
        .expect("what was read can be written");
    let (batch, _) = builder.finish();
    let length = u32::from_le_bytes([batch[20], batch[21], batch[22], batch[23]]);
    let written = &batch[BATCH_HEADER_SIZE as usize..][..length as usize];
    let at = usize::try_from(offset).unwrap_or(usize::MAX);
    assert_eq!(written, &file[at..at + written.len()], "record {lsn}");
}
