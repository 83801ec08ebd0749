//! The segment header: the first block of every segment file, and once more its last (F24).
//! Invariant: it is written once, before any batch, and never again (F4).
//! Not here: the batches behind it (`batch`, `scan`).

use crate::bytes::{Fields, is_zero, masked, on_disk};
use crate::error::FormatError;
use crate::number::{Chain, Epoch, HostId, Id128, JournalId, Lsn, OpeningId, Salt, SegmentNumber};
use crate::{BLOCK_SIZE, FORMAT_VERSION, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN};

/// The first bytes of a segment: a name, and two characters that a text transfer would change.
pub const SEGMENT_MAGIC: [u8; 8] = *b"PHJSEG\x1a\n";

const CRC_OFFSET: usize = BLOCK_SIZE as usize - 4;
const FIELDS_SIZE: usize = 144;
const HAS_BEFORE: u32 = 1;
const _: () = assert!(FIELDS_SIZE < CRC_OFFSET);

/// Where the segment before ended: proves what of it was acknowledged (F20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    /// Its number.
    pub number: SegmentNumber,
    /// Where its last valid batch ended, in bytes from its start.
    pub end: u64,
    /// The chain value after that batch.
    pub chain: Chain,
    /// The last LSN in it, or before it if it holds none.
    pub last: Lsn,
}

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The journal it belongs to.
    pub journal: JournalId,
    /// The host that made the journal.
    pub host: HostId,
    /// Its number.
    pub number: SegmentNumber,
    /// Its size in bytes, a multiple of the block size.
    pub size: u64,
    /// Goes into every checksum behind this header.
    pub salt: Salt,
    /// The LSN of its first record.
    pub first: Lsn,
    /// The opening that made it.
    pub epoch: Epoch,
    /// That opening's identity.
    pub opening: OpeningId,
    /// Where the segment before ended; absent in the first segment of a journal.
    pub before: Option<SegmentEnd>,
}

impl SegmentHeader {
    /// The block, [`BLOCK_SIZE`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(CRC_OFFSET + 4);
        block.extend(SEGMENT_MAGIC);
        block.extend(FORMAT_VERSION.to_le_bytes());
        block.extend(BLOCK_SIZE.to_le_bytes());
        block.extend(self.journal.0.0);
        block.extend(self.host.0.0);
        block.extend(self.number.0.to_le_bytes());
        block.extend(self.size.to_le_bytes());
        block.extend(self.salt.0);
        block.extend(self.first.0.to_le_bytes());
        block.extend(self.epoch.0.to_le_bytes());
        let flags = if self.before.is_some() { HAS_BEFORE } else { 0 };
        block.extend(flags.to_le_bytes());
        block.extend(self.opening.0.0);
        let (number, end, chain, last) = self.before.map_or((0, 0, 0, 0), |end| {
            (end.number.0, end.end, end.chain.0, end.last.0)
        });
        block.extend(number.to_le_bytes());
        block.extend(end.to_le_bytes());
        block.extend(chain.to_le_bytes());
        block.extend(0u32.to_le_bytes());
        block.extend(last.to_le_bytes());
        debug_assert_eq!(block.len(), FIELDS_SIZE);
        block.resize(CRC_OFFSET, 0);
        let crc = masked(crc32fast::hash(&block));
        block.extend(crc.to_le_bytes());
        block
    }

    /// Reads a block. Magic and version come first, so that an older or newer format is named as
    /// such (F5).
    ///
    /// # Errors
    /// Whatever is wrong with the bytes; nothing of them is to be believed then.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, FormatError> {
        const WHAT: &str = "segment header";
        let Some(block) = bytes.get(..CRC_OFFSET + 4) else {
            return Err(FormatError::TooShort { what: WHAT });
        };
        let mut fields = Fields(block);
        if fields.array() != SEGMENT_MAGIC {
            return Err(FormatError::NoMagic { what: WHAT });
        }
        let version = fields.u32();
        if version != FORMAT_VERSION {
            return Err(FormatError::Version { found: version });
        }
        let crc = u32::from_le_bytes(Fields(&block[CRC_OFFSET..]).array());
        if masked(crc32fast::hash(&block[..CRC_OFFSET])) != crc {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let block_size = fields.u32();
        let header = SegmentHeader {
            journal: JournalId(Id128(fields.array())),
            host: HostId(Id128(fields.array())),
            number: SegmentNumber(fields.u64()),
            size: fields.u64(),
            salt: Salt(fields.array()),
            first: Lsn(fields.u64()),
            epoch: Epoch(fields.u32()),
            before: None,
            opening: OpeningId(Id128::NIL),
        };
        let flags = fields.u32();
        let opening = OpeningId(Id128(fields.array()));
        let number = SegmentNumber(fields.u64());
        let end = fields.u64();
        let chain = Chain(fields.u32());
        let reserved = fields.u32();
        let last = Lsn(fields.u64());
        let end = SegmentEnd {
            number,
            end,
            chain,
            last,
        };
        let before = (flags == HAS_BEFORE).then_some(end);
        let header = SegmentHeader {
            opening,
            before,
            ..header
        };
        // What no writer of this version writes is not to be guessed at (F15).
        let possible = block_size == BLOCK_SIZE
            && flags <= HAS_BEFORE
            && reserved == 0
            && header.number.0 > 0
            && header.first.0 > 0
            && header.epoch.0 > 0
            && (SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&header.size)
            && header.size.is_multiple_of(u64::from(BLOCK_SIZE))
            && is_zero(&block[FIELDS_SIZE..CRC_OFFSET]);
        if possible {
            Ok(header)
        } else {
            Err(FormatError::Field { what: WHAT })
        }
    }

    /// The chain value before the first batch: the checksum of this header (F6).
    #[must_use]
    pub fn chain(&self) -> Chain {
        Chain(u32::from_le_bytes(
            Fields(&self.encode()[CRC_OFFSET..]).array(),
        ))
    }

    /// Reads the header of a segment file from its first block, or if that is damaged from its last one
    /// (F24). `length` is that of the file.
    ///
    /// # Errors
    /// What is wrong with the first block, if the last one does not tell either.
    pub fn of_file(
        first_block: &[u8],
        last_block: &[u8],
        length: u64,
    ) -> Result<SegmentHeader, FormatError> {
        SegmentHeader::decode(first_block).or_else(|why| {
            let copy = SegmentHeader::decode(last_block).ok();
            copy.filter(|header| header.size == length).ok_or(why)
        })
    }

    /// The same for a whole file in memory.
    ///
    /// # Errors
    /// As [`SegmentHeader::of_file`].
    pub fn of_bytes(bytes: &[u8]) -> Result<SegmentHeader, FormatError> {
        let length = on_disk(bytes.len());
        let last = SegmentHeader::copy_begins(length);
        let last = usize::try_from(last).ok().and_then(|at| bytes.get(at..));
        SegmentHeader::of_file(bytes, last.unwrap_or_default(), length)
    }

    /// Where the header's copy begins in a file of this length.
    #[must_use]
    pub fn copy_begins(length: u64) -> u64 {
        length.saturating_sub(u64::from(BLOCK_SIZE))
    }

    /// Where the first batch begins.
    #[must_use]
    pub fn batches_begin() -> u64 {
        on_disk(CRC_OFFSET + 4)
    }

    /// Where the room for batches ends, and the header's copy begins.
    #[must_use]
    pub fn batches_end(&self) -> u64 {
        SegmentHeader::copy_begins(self.size)
    }
}
