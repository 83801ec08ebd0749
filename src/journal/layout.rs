//! Drafts as bytes: batches at one place in one segment, and the head of a segment.
//! Invariant: what is laid out depends on its place alone, and nothing is written here.
//! Not here: writing it (`log`), the bytes of a batch (journal-format).

use std::collections::BTreeMap;

use journal_format::batch::{BatchBuilder, BatchHeader};
use journal_format::error::FormatError;
use journal_format::number::{
    BootId, Chain, DomainId, HostId, JournalId, Lsn, Salt, SegmentNumber,
};
use journal_format::record::{Draft, Opening};
use journal_format::segment::{SegmentEnd, SegmentHeader};
use journal_format::{BATCH_SIZE_MAX, BLOCK_SIZE, SEGMENT_SIZE_MAX};

use super::error::AppendError;
use super::segments::Retention;

/// A new segment is at least this many times as large as what it begins with.
const FILL_MAX_INVERSE: u64 = 4;

/// When a batch is written, by the host's clocks. Only told to people, never judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// Nanoseconds since 1970.
    pub wall: u64,
    /// Nanoseconds since the host's boot.
    pub monotonic: u64,
}

/// What does not change while a journal is open.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) journal: JournalId,
    pub(super) host: HostId,
    pub(super) boot: BootId,
    pub(super) opening: Opening,
    /// The usual size of a segment, in bytes, a multiple of the block size.
    pub(super) segment_size: u64,
    pub(super) retention: Retention,
}

impl Identity {
    pub(super) fn header(
        &self,
        number: SegmentNumber,
        salt: Salt,
        first: Lsn,
        before: Option<SegmentEnd>,
        size: u64,
    ) -> SegmentHeader {
        SegmentHeader {
            journal: self.journal,
            host: self.host,
            number,
            size,
            salt,
            first,
            epoch: self.opening.epoch,
            opening: self.opening.opening,
            before,
        }
    }
}

/// Where the next batch goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    /// In bytes from the start of the segment.
    pub(super) end: u64,
    /// The chain value after the batch before it.
    pub(super) chain: Chain,
    /// The LSN of its first record.
    pub(super) next: Lsn,
}

/// The size of a segment that begins with `length` bytes of batches: so large that it is not soon
/// full again.
pub(super) fn size_for(usual: u64, length: u64) -> Result<u64, AppendError> {
    let block = u64::from(BLOCK_SIZE);
    // The header stands at both ends (F24).
    let headers = 2 * block;
    let wanted = (headers + length.saturating_mul(FILL_MAX_INVERSE)).next_multiple_of(block);
    let size = usual.max(wanted).min(SEGMENT_SIZE_MAX);
    if headers.saturating_add(length) <= size {
        Ok(size)
    } else {
        Err(AppendError::TooMany { size: length })
    }
}

/// Batches as they go to the disk, in memory that is kept from one append to the next, so that an
/// append allocates nothing. Begins on a block boundary of memory, as `O_DIRECT` asks.
#[derive(Debug)]
pub(super) struct Batches {
    bytes: Vec<u8>,
    /// Where each batch ends in `bytes`, and the chain value after it.
    ends: Vec<(usize, Chain)>,
    /// Where the first one begins.
    begin: usize,
    /// The LSN after the last record.
    next: Lsn,
    /// What `previous` said before, newest last.
    undo: Vec<(DomainId, Option<Lsn>)>,
}

/// What is kept of a buffer's memory: one batch of the largest size on any alignment. Memory that was
/// never written to is none.
const KEPT_CAPACITY: usize = (BATCH_SIZE_MAX + 2 * BLOCK_SIZE) as usize;

impl Default for Batches {
    fn default() -> Batches {
        Batches {
            bytes: Vec::new(),
            ends: Vec::new(),
            begin: 0,
            next: Lsn::FIRST,
            undo: Vec::new(),
        }
    }
}

impl Batches {
    /// Bytes of all batches.
    pub(super) fn length(&self) -> u64 {
        (self.bytes.len() - self.begin) as u64
    }

    /// The LSN after the last record.
    pub(super) fn next(&self) -> Lsn {
        self.next
    }

    /// Each batch, whole blocks, and the chain value after it.
    pub(super) fn each(&self) -> impl Iterator<Item = (&[u8], Chain)> {
        let begins = [self.begin].into_iter();
        let begins = begins.chain(self.ends.iter().map(|(end, _)| *end));
        begins
            .zip(&self.ends)
            .map(|(begin, (end, chain))| (&self.bytes[begin..*end], *chain))
    }

    /// Lays drafts out as batches from `at` on in the segment of `header`, and moves `previous`, the
    /// last record of each domain, on. On an error `previous` is as it was.
    pub(super) fn lay_out(
        &mut self,
        identity: &Identity,
        header: &SegmentHeader,
        at: At,
        previous: &mut BTreeMap<DomainId, Lsn>,
        drafts: &[Draft],
        now: Timestamps,
    ) -> Result<(), AppendError> {
        at.next
            .plus(drafts.len() as u64)
            .ok_or(AppendError::NumbersUsedUp)?;
        self.clear();
        let result = self.fill(identity, header, at, previous, drafts, now);
        if result.is_err() {
            self.take_back(previous);
        }
        result
    }

    /// Undoes what the last layout did to `previous`: it is not written where it was to be.
    pub(super) fn take_back(&mut self, previous: &mut BTreeMap<DomainId, Lsn>) {
        while let Some((domain, before)) = self.undo.pop() {
            match before {
                Some(lsn) => previous.insert(domain, lsn),
                None => previous.remove(&domain),
            };
        }
    }

    fn clear(&mut self) {
        if self.bytes.capacity() != KEPT_CAPACITY {
            self.bytes = Vec::with_capacity(KEPT_CAPACITY);
        }
        self.ends.clear();
        self.undo.clear();
        let block = BLOCK_SIZE as usize;
        // `align_offset` may in theory not find one; then the disk copies what it is given.
        self.begin = self.bytes.as_ptr().align_offset(block).min(block);
        // What is in front of it is never written.
        self.bytes.truncate(self.begin);
        self.bytes.resize(self.begin, 0);
    }

    fn fill(
        &mut self,
        identity: &Identity,
        header: &SegmentHeader,
        mut at: At,
        previous: &mut BTreeMap<DomainId, Lsn>,
        drafts: &[Draft],
        now: Timestamps,
    ) -> Result<(), AppendError> {
        let mut batch = self.begin_batch(identity, header, at, now);
        for (index, draft) in drafts.iter().enumerate() {
            let last = draft
                .domain
                .and_then(|domain| previous.get(&domain))
                .copied();
            let mut pushed = batch.push(draft, last);
            if matches!(pushed, Err(FormatError::BatchFull)) && !batch.is_empty() {
                at = self.end_batch(batch, at);
                batch = self.begin_batch(identity, header, at, now);
                pushed = batch.push(draft, last);
            }
            if let Err(why) = pushed {
                self.bytes = batch.abandon();
                return Err(AppendError::Unwritable { index, why });
            }
            if let Some(domain) = draft.domain {
                let lsn = Lsn(batch.next_lsn().0 - 1);
                self.undo.push((domain, previous.insert(domain, lsn)));
            }
        }
        self.end_batch(batch, at);
        Ok(())
    }

    fn begin_batch(
        &mut self,
        identity: &Identity,
        header: &SegmentHeader,
        at: At,
        now: Timestamps,
    ) -> BatchBuilder {
        let fields = BatchHeader {
            first: at.next,
            records: 0,
            length: 0,
            epoch: identity.opening.epoch,
            chain: at.chain,
            boot: identity.boot,
            wall: now.wall,
            monotonic: now.monotonic,
            segment: header.number,
            offset: at.end,
            content: 0,
        };
        let bytes = core::mem::take(&mut self.bytes);
        BatchBuilder::behind(bytes, header.salt, fields)
    }

    /// Takes a batch that was laid out at `at`; returns where the next one goes.
    fn end_batch(&mut self, batch: BatchBuilder, at: At) -> At {
        self.next = batch.next_lsn();
        let before = self.ends.last().map_or(self.begin, |(end, _)| *end);
        let (bytes, chain) = batch.finish();
        let size = (bytes.len() - before) as u64;
        self.ends.push((bytes.len(), chain));
        self.bytes = bytes;
        At {
            end: at.end + size,
            chain,
            next: self.next,
        }
    }
}
