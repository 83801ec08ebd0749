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
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_MAX};

use super::error::AppendError;

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
    /// The size of the first segment of an opening, in bytes, a multiple of the block size.
    pub(super) first_segment_size: u64,
    /// The size of the others.
    pub(super) segment_size: u64,
    /// Old segments beyond so many bytes go when they are not needed.
    pub(super) retained_bytes_max: u64,
}

impl Identity {
    pub(super) fn header(
        &self,
        number: SegmentNumber,
        first: Lsn,
        before: Option<SegmentEnd>,
        size: u64,
    ) -> SegmentHeader {
        SegmentHeader {
            journal: self.journal,
            host: self.host,
            number,
            size,
            salt: Salt::random(),
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

/// Drafts as the batches they become at one place in one segment.
pub(super) struct Encoded {
    /// Whole blocks each, with the chain value after it.
    pub(super) batches: Vec<(Vec<u8>, Chain)>,
    /// The LSN after the last.
    pub(super) next: Lsn,
    /// The last record of each domain that occurs.
    pub(super) previous: BTreeMap<DomainId, Lsn>,
}

/// The size of a segment that begins with `length` bytes of batches: so large that it is not soon
/// full again.
pub(super) fn size_for(usual: u64, length: u64) -> Result<u64, AppendError> {
    let block = u64::from(BLOCK_SIZE);
    let wanted = (block + length.saturating_mul(FILL_MAX_INVERSE)).next_multiple_of(block);
    let size = usual.max(wanted).min(SEGMENT_SIZE_MAX);
    if block + length <= size {
        Ok(size)
    } else {
        Err(AppendError::TooMany { size: length })
    }
}

/// Lays drafts out as batches from `at` on in the segment of `header`.
pub(super) fn encode(
    identity: &Identity,
    header: &SegmentHeader,
    mut at: At,
    previous: &BTreeMap<DomainId, Lsn>,
    drafts: &[Draft],
    now: Timestamps,
) -> Result<Encoded, AppendError> {
    let builder = |at: At| {
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
        BatchBuilder::new(header.salt, fields)
    };
    at.next
        .plus(drafts.len() as u64)
        .ok_or(AppendError::NumbersUsedUp)?;
    let mut encoded = Encoded {
        batches: Vec::new(),
        next: at.next,
        previous: BTreeMap::new(),
    };
    let mut batch = builder(at);
    for (index, draft) in drafts.iter().enumerate() {
        let before = draft.domain.and_then(|domain| {
            encoded
                .previous
                .get(&domain)
                .or_else(|| previous.get(&domain))
                .copied()
        });
        let mut pushed = batch.push(draft, before);
        if matches!(pushed, Err(FormatError::BatchFull)) && !batch.is_empty() {
            at = encoded.take(batch, at);
            batch = builder(at);
            pushed = batch.push(draft, before);
        }
        pushed.map_err(|why| AppendError::Unwritable { index, why })?;
        if let Some(domain) = draft.domain {
            let lsn = Lsn(batch.next_lsn().0 - 1);
            encoded.previous.insert(domain, lsn);
        }
    }
    encoded.take(batch, at);
    Ok(encoded)
}

impl Encoded {
    pub(super) fn length(&self) -> u64 {
        self.batches
            .iter()
            .map(|(bytes, _)| bytes.len() as u64)
            .sum()
    }

    /// Takes a batch that was laid out at `at`; returns where the next one goes.
    pub(super) fn take(&mut self, batch: BatchBuilder, at: At) -> At {
        let next = batch.next_lsn();
        let (bytes, chain) = batch.finish();
        let at = At {
            end: at.end + bytes.len() as u64,
            chain,
            next,
        };
        self.batches.push((bytes, chain));
        self.next = next;
        at
    }
}
