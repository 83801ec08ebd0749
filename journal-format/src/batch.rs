//! A batch: the records made durable by one write and one sync (F16).
//! Invariant: a batch begins on a block boundary and is whole or absent; it names its own place, and
//! its header holds the chain value of all before it (F6, F7).
//! Not here: what a torn or damaged one means (`scan`).

use crate::bytes::{Fields, Salted, in_memory, is_zero, on_disk};
use crate::error::FormatError;
use crate::number::{BootId, Chain, DomainId, Epoch, Id128, Lsn, Salt, SegmentNumber};
use crate::record::{Decoded, Draft, RECORD_HEADER_SIZE, decode_record, encode_record};
use crate::{BATCH_RECORDS_MAX, BATCH_SIZE_MAX, BLOCK_SIZE};

/// The first bytes of a batch.
pub const BATCH_MAGIC: [u8; 4] = *b"PHJB";
/// Size of a batch's header in bytes; its records begin right behind it.
pub const BATCH_HEADER_SIZE: u32 = 96;

const CRC_OFFSET: usize = BATCH_HEADER_SIZE as usize - 4;
const WHAT: &str = "batch header";

const _: () = {
    assert!(BATCH_HEADER_SIZE < BLOCK_SIZE);
    assert!(BATCH_HEADER_SIZE.is_multiple_of(8));
    assert!(BATCH_SIZE_MAX.is_multiple_of(BLOCK_SIZE));
};

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The LSN of its first record; the others follow without a gap.
    pub first: Lsn,
    /// How many records it has, at least one.
    pub records: u32,
    /// Bytes of its records, without header and padding.
    pub length: u32,
    /// The opening that wrote it.
    pub epoch: Epoch,
    /// The chain value after the batch before it.
    pub chain: Chain,
    /// The boot of the host that wrote it.
    pub boot: BootId,
    /// When it was written, in nanoseconds since 1970.
    pub wall: u64,
    /// The same, in nanoseconds since the host's boot.
    pub monotonic: u64,
    /// The segment it was written for.
    pub segment: SegmentNumber,
    /// Where in it, in bytes from its start.
    pub offset: u64,
    /// The salted CRC of its records' bytes.
    pub content: u32,
}

impl BatchHeader {
    /// Bytes on disk: header, records and padding, a multiple of the block size.
    #[must_use]
    pub fn size(&self) -> u64 {
        (u64::from(BATCH_HEADER_SIZE) + u64::from(self.length))
            .next_multiple_of(u64::from(BLOCK_SIZE))
    }

    /// The last LSN in it.
    #[must_use]
    pub fn last(&self) -> Lsn {
        Lsn(self
            .first
            .0
            .saturating_add(u64::from(self.records))
            .saturating_sub(1))
    }

    /// Writes the header, whose size `into` has.
    fn encode(&self, salted: &Salted, into: &mut [u8]) {
        let mut rest = &mut *into;
        let mut put = |bytes: &[u8]| {
            let (field, behind) = core::mem::take(&mut rest).split_at_mut(bytes.len());
            field.copy_from_slice(bytes);
            rest = behind;
        };
        put(&BATCH_MAGIC);
        put(&BATCH_HEADER_SIZE.to_le_bytes());
        put(&self.first.0.to_le_bytes());
        put(&self.records.to_le_bytes());
        put(&self.length.to_le_bytes());
        put(&self.epoch.0.to_le_bytes());
        put(&self.chain.0.to_le_bytes());
        put(&self.boot.0.0);
        put(&self.wall.to_le_bytes());
        put(&self.monotonic.to_le_bytes());
        put(&self.segment.0.to_le_bytes());
        put(&self.offset.to_le_bytes());
        put(&self.content.to_le_bytes());
        put(&[0; 8]);
        let crc = salted.crc(&[&into[..CRC_OFFSET]]);
        into[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the head of a batch that lies at `offset` of segment `segment`.
    ///
    /// # Errors
    /// Whatever is wrong with the bytes, also a batch that was written for another place (F7).
    pub fn decode(
        salt: &Salt,
        segment: SegmentNumber,
        offset: u64,
        bytes: &[u8],
    ) -> Result<BatchHeader, FormatError> {
        BatchHeader::decode_salted(&Salted::new(salt), segment, offset, bytes)
    }

    pub(crate) fn decode_salted(
        salted: &Salted,
        segment: SegmentNumber,
        offset: u64,
        bytes: &[u8],
    ) -> Result<BatchHeader, FormatError> {
        let Some(bytes) = bytes.get(..CRC_OFFSET + 4) else {
            return Err(FormatError::TooShort { what: WHAT });
        };
        let mut fields = Fields(bytes);
        if fields.array() != BATCH_MAGIC {
            return Err(FormatError::NoMagic { what: WHAT });
        }
        let crc = u32::from_le_bytes(Fields(&bytes[CRC_OFFSET..]).array());
        if salted.crc(&[&bytes[..CRC_OFFSET]]) != crc {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let header_size = fields.u32();
        let header = BatchHeader {
            first: Lsn(fields.u64()),
            records: fields.u32(),
            length: fields.u32(),
            epoch: Epoch(fields.u32()),
            chain: Chain(fields.u32()),
            boot: BootId(Id128(fields.array())),
            wall: fields.u64(),
            monotonic: fields.u64(),
            segment: SegmentNumber(fields.u64()),
            offset: fields.u64(),
            content: fields.u32(),
        };
        let records_fit =
            u64::from(header.records) * on_disk(RECORD_HEADER_SIZE) <= u64::from(header.length);
        // F14, F15.
        let possible = header_size == BATCH_HEADER_SIZE
            && header.first.0 > 0
            && header.records > 0
            && header.records <= BATCH_RECORDS_MAX
            && header.length.is_multiple_of(8)
            && header.size() <= u64::from(BATCH_SIZE_MAX)
            && records_fit
            && header.first.plus(u64::from(header.records)).is_some()
            && header.epoch.0 > 0
            && is_zero(&fields.array::<8>());
        if !possible {
            return Err(FormatError::Field { what: WHAT });
        }
        if header.segment != segment || header.offset != offset {
            return Err(FormatError::OutOfPlace);
        }
        Ok(header)
    }
}

/// Puts a batch together, behind what a buffer already holds.
#[derive(Debug)]
pub struct BatchBuilder {
    salted: Salted,
    header: BatchHeader,
    /// What was there before, room for the header, and the records.
    bytes: Vec<u8>,
    /// Where in `bytes` the batch begins.
    begin: usize,
}

impl BatchBuilder {
    /// An empty batch; of `header`, the fields `records`, `length` and `content` are filled in by
    /// [`BatchBuilder::finish`].
    #[must_use]
    pub fn new(salt: Salt, header: BatchHeader) -> BatchBuilder {
        BatchBuilder::behind(Vec::new(), salt, header)
    }

    /// The same, put behind what `bytes` holds: who keeps the buffer allocates no other one.
    #[must_use]
    pub fn behind(mut bytes: Vec<u8>, salt: Salt, header: BatchHeader) -> BatchBuilder {
        let header = BatchHeader {
            records: 0,
            length: 0,
            content: 0,
            ..header
        };
        let begin = bytes.len();
        bytes.resize(begin + in_memory(BATCH_HEADER_SIZE), 0);
        BatchBuilder {
            salted: Salted::new(&salt),
            header,
            bytes,
            begin,
        }
    }

    /// The LSN that the next record gets.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self
            .header
            .first
            .0
            .saturating_add(u64::from(self.header.records)))
    }

    /// Has it no record yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.records == 0
    }

    /// Adds a record. On an error the batch is as it was.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] for a record that no batch can hold; [`FormatError::BatchFull`]
    /// when it must go into the next one.
    pub fn push(&mut self, draft: &Draft, previous: Option<Lsn>) -> Result<(), FormatError> {
        let before = self.bytes.len();
        encode_record(
            &self.salted,
            self.next_lsn(),
            previous,
            (draft.domain, &draft.body),
            &mut self.bytes,
        )?;
        let size = on_disk(self.bytes.len() - self.begin);
        let full = size > u64::from(BATCH_SIZE_MAX) || self.header.records >= BATCH_RECORDS_MAX;
        if full {
            self.bytes.truncate(before);
            return Err(FormatError::BatchFull);
        }
        self.header.records += 1;
        Ok(())
    }

    /// The buffer with the batch at its end, padded with zeros to a multiple of the block size, and
    /// the chain value after it.
    #[must_use]
    pub fn finish(mut self) -> (Vec<u8>, Chain) {
        let batch = &mut self.bytes[self.begin..];
        let (head, content) = batch.split_at_mut(in_memory(BATCH_HEADER_SIZE));
        self.header.length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        self.header.content = self.salted.crc(&[content]);
        self.header.encode(&self.salted, head);
        let chain = chain_after(head);
        let size = batch.len().next_multiple_of(in_memory(BLOCK_SIZE));
        self.bytes.resize(self.begin + size, 0);
        (self.bytes, chain)
    }

    /// The buffer as it was before the batch.
    #[must_use]
    pub fn abandon(mut self) -> Vec<u8> {
        self.bytes.truncate(self.begin);
        self.bytes
    }
}

/// The chain value after a batch: the checksum of its header, which holds that of its content and
/// the chain value before it (F6).
#[must_use]
pub fn chain_after(header: &[u8]) -> Chain {
    let checksum = header.get(CRC_OFFSET..).unwrap_or_default();
    Chain(u32::from_le_bytes(Fields(checksum).array()))
}

/// Are a batch's content and padding as they were written? `bytes` begin with its header, which was
/// looked at before.
#[must_use]
pub fn is_content_whole(salt: &Salt, header: &BatchHeader, bytes: &[u8]) -> bool {
    let begin = in_memory(BATCH_HEADER_SIZE);
    let end = begin + in_memory(header.length);
    let size = usize::try_from(header.size()).unwrap_or(usize::MAX);
    match (bytes.get(begin..end), bytes.get(end..size)) {
        (Some(content), Some(padding)) => {
            Salted::new(salt).crc(&[content]) == header.content && is_zero(padding)
        }
        (_, _) => false,
    }
}

/// A record where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// In bytes from the start of the segment.
    pub offset: u64,
    /// What it is.
    pub record: Decoded,
}

/// The records in a batch's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) records: Vec<Placed>,
    /// LSNs whose records are not readable, in ascending order.
    pub(crate) lost: Vec<Lsn>,
    /// What is wrong with the first of them, if its place was found.
    pub(crate) why: Option<FormatError>,
}

/// Reads every record of a batch that is readable, also around damaged ones: records lie on
/// multiples of 8 bytes and name their LSN, so that reading finds its place again (F8).
pub(crate) fn read_content(salted: &Salted, header: &BatchHeader, content: &[u8]) -> Content {
    let mut read = Content::default();
    let mut at = 0;
    let mut expected = header.first;
    let end = Lsn(header.last().0.saturating_add(1));
    while at < content.len() && expected < end {
        match decode_record(salted, &content[at..]) {
            Ok((lsn, size, record)) if lsn >= expected && lsn < end => {
                read.lost.extend((expected.0..lsn.0).map(Lsn));
                match record {
                    Ok(record) => {
                        let offset = header.offset + u64::from(BATCH_HEADER_SIZE) + on_disk(at);
                        read.records.push(Placed { offset, record });
                    }
                    Err(why) => {
                        read.lost.push(lsn);
                        read.why.get_or_insert(why);
                    }
                }
                expected = Lsn(lsn.0 + 1);
                at += size;
            }
            _ => at += 8,
        }
    }
    read.lost.extend((expected.0..end.0).map(Lsn));
    read
}

/// The domain field of a record header: all zero for none.
pub(crate) fn domain_bytes(domain: Option<DomainId>) -> [u8; 16] {
    domain.map_or([0; 16], |domain| domain.0.0)
}
