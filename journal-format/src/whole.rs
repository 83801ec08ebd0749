//! Whole batches, read where they lie in memory.
//!
//! Invariant: agrees with [`scan`](crate::scan) on all that is whole, and stops before anything that is
//! not: what that means is for `scan` alone to say.
//! Not here: damage, and how a segment ends.

use core::ops::Deref;

use crate::batch::{BATCH_HEADER_SIZE, BatchHeader, chain_after};
use crate::bytes::{Fields, Salted, in_memory, is_zero, on_disk};
use crate::error::FormatError;
use crate::number::{Chain, Lsn};
use crate::record::{Decoded, RECORD_HEADER_SIZE, RecordHeader};
use crate::scan::Batch;
use crate::segment::SegmentHeader;

/// A place in a segment, between two batches.
#[derive(Clone, Debug)]
pub struct Cursor {
    segment: SegmentHeader,
    salted: Salted,
    at: u64,
    next: Lsn,
    chain: Chain,
}

impl Cursor {
    /// Before the first batch.
    #[must_use]
    pub fn new(segment: &SegmentHeader) -> Cursor {
        Cursor {
            segment: *segment,
            salted: Salted::new(&segment.salt),
            at: SegmentHeader::batches_begin(),
            next: segment.first,
            chain: segment.chain(),
        }
    }

    /// Behind a batch that was found there.
    #[must_use]
    pub fn behind(segment: &SegmentHeader, batch: &Batch) -> Cursor {
        Cursor {
            at: batch.header.offset + batch.header.size(),
            next: Lsn(batch.header.last().0.saturating_add(1)),
            chain: batch.chain,
            ..Cursor::new(segment)
        }
    }

    /// Before a batch that is said to be there, with that first LSN and behind that chain value:
    /// [`Cursor::advance`] tells whether it is.
    #[must_use]
    pub fn before(segment: &SegmentHeader, at: u64, first: Lsn, chain: Chain) -> Cursor {
        Cursor {
            at,
            next: first,
            chain,
            ..Cursor::new(segment)
        }
    }

    /// Where the next batch begins, in bytes from the start of the segment.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The LSN of the next record.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The chain value after the batch before.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Goes over the batch at the begin of `bytes`, which are those of the segment from
    /// [`Cursor::at`] on. `None`, and no step, if it is not there as a whole: its header, its place
    /// (F7), its content's checksum and its padding are right, and its records follow each other. Their
    /// own checksums are looked at by [`RecordView::decode`].
    pub fn advance<'a>(&mut self, bytes: &'a [u8]) -> Option<WholeBatch<'a>> {
        let header =
            BatchHeader::decode_salted(&self.salted, self.segment.number, self.at, bytes).ok()?;
        let follows = header.first == self.next
            && header.chain == self.chain
            && header.epoch == self.segment.epoch
            && self.at + header.size() <= self.segment.batches_end();
        if !follows {
            return None;
        }
        let begin = in_memory(BATCH_HEADER_SIZE);
        let end = begin + in_memory(header.length);
        let size = usize::try_from(header.size()).ok()?;
        let (content, padding) = (bytes.get(begin..end)?, bytes.get(end..size)?);
        if self.salted.crc(&[content]) != header.content || !is_zero(padding) {
            return None;
        }
        let batch = WholeBatch {
            header,
            chain: chain_after(bytes),
            content,
            salted: self.salted.clone(),
        };
        if !batch.is_in_order() {
            return None;
        }
        self.at += header.size();
        self.next = Lsn(header.last().0.saturating_add(1));
        self.chain = batch.chain;
        Some(batch)
    }
}

/// A batch that is there as a whole.
#[derive(Clone, Debug)]
pub struct WholeBatch<'a> {
    /// Its head.
    pub header: BatchHeader,
    /// The chain value after it.
    pub chain: Chain,
    content: &'a [u8],
    salted: Salted,
}

impl<'a> WholeBatch<'a> {
    /// Its records, in order.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'a>> + use<'a> {
        let (content, salted) = (self.content, self.salted.clone());
        let offset = self.header.offset + u64::from(BATCH_HEADER_SIZE);
        let mut at = 0;
        core::iter::from_fn(move || {
            let view = RecordView::read(&salted, content, at, offset)?;
            at += view.bytes.len();
            Some(view)
        })
    }

    /// Do its records have the right LSNs, and fill the content?
    fn is_in_order(&self) -> bool {
        let (mut at, mut lsn) = (0, self.header.first.0);
        while let Some(head) = self.content.get(at..at + RECORD_HEADER_SIZE) {
            if Fields(head).u64() != lsn {
                return false;
            }
            let length = in_memory(Fields(&head[BODY_LENGTH..]).u32());
            at += (RECORD_HEADER_SIZE + length).next_multiple_of(8);
            // More records than the header counts: it was looked at that those end before 2^64.
            let Some(next) = lsn.checked_add(1) else {
                return false;
            };
            lsn = next;
        }
        at == self.content.len() && lsn - self.header.first.0 == u64::from(self.header.records)
    }
}

/// Whole batches, copied from where they lay, to be looked at later.
#[derive(Debug, Default)]
pub struct Copied {
    /// Their records, one after the other.
    bytes: Vec<u8>,
    /// What stands before them, and where in `bytes` the records end.
    batches: Vec<(BatchHeader, Chain, Salted, usize)>,
    /// The bytes of all their records.
    size: usize,
}

impl Copied {
    /// Adds a batch.
    pub fn add(&mut self, batch: &WholeBatch<'_>) {
        self.bytes.extend_from_slice(batch.content);
        self.add_head(batch);
    }

    /// Adds a batch of which nobody wants the records any more: it has none then.
    pub fn add_head(&mut self, batch: &WholeBatch<'_>) {
        let end = self.bytes.len();
        self.batches
            .push((batch.header, batch.chain, batch.salted.clone(), end));
        self.size += batch.content.len();
    }

    /// The batches, in the order in which they were added.
    pub fn batches(&self) -> impl Iterator<Item = WholeBatch<'_>> {
        let mut begin = 0;
        self.batches
            .iter()
            .map(move |(header, chain, salted, end)| {
                let content = &self.bytes[begin..*end];
                begin = *end;
                WholeBatch {
                    header: *header,
                    chain: *chain,
                    content,
                    salted: salted.clone(),
                }
            })
    }

    /// How many batches there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.batches.len()
    }

    /// The bytes of their records, also of those that nobody wanted.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Forgets them all; the memory is kept for others.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.batches.clear();
        self.size = 0;
    }
}

/// Where a record's header has the length of its body.
const BODY_LENGTH: usize = 36;

/// The number of the first type in FORMAT.md's table.
const CHECKPOINT_BEGUN: u16 = 1;

/// A record where it lies in memory; it has what its header has.
#[derive(Clone, Debug)]
pub struct RecordView<'a> {
    header: RecordHeader,
    /// Where it begins, in bytes from the start of the segment.
    pub offset: u64,
    /// Header, body and padding.
    bytes: &'a [u8],
    salted: Salted,
}

impl Deref for RecordView<'_> {
    type Target = RecordHeader;

    #[inline]
    fn deref(&self) -> &RecordHeader {
        &self.header
    }
}

impl<'a> RecordView<'a> {
    /// The record at `at` of a content that begins at `offset` of the segment; its place and length
    /// were looked at before.
    fn read(salted: &Salted, content: &'a [u8], at: usize, offset: u64) -> Option<RecordView<'a>> {
        let bytes = content.get(at..)?;
        let header = RecordHeader::read(bytes.first_chunk()?);
        Some(RecordView {
            header,
            offset: offset + on_disk(at),
            bytes: bytes.get(..header.size())?,
            salted: salted.clone(),
        })
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[RECORD_HEADER_SIZE..RECORD_HEADER_SIZE + self.header.length]
    }

    /// Whether a checkpoint begins with it.
    #[must_use]
    pub fn is_checkpoint_begun(&self) -> bool {
        self.kind == CHECKPOINT_BEGUN
    }

    /// Where it ends, with its padding, in bytes from the start of the segment.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + on_disk(self.bytes.len())
    }

    /// What it says.
    ///
    /// # Errors
    /// A checksum of its own, or its body, is wrong, though the batch's is right (F9).
    #[inline]
    pub fn decode(&self) -> Result<Decoded, FormatError> {
        self.header.decode(&self.salted, self.bytes)
    }
}
