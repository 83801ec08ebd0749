//! The batches of single extents, looked up where an index says that they lie.
//!
//! Invariant: a batch is shown only if it is there as a whole and where it is said to be, behind the chain
//! value that is said: the index is asked where, never what.
//! Not here: the index (`index`); whether something is missing between two records (the caller, by the
//! records' links).

use core::ops::ControlFlow;

use journal_format::batch::{BATCH_HEADER_SIZE, BatchHeader, chain_after};
use journal_format::number::{JournalId, SegmentNumber};
use journal_format::segment::SegmentHeader;
use journal_format::whole::{Cursor, RecordView};
use journal_format::{BATCH_SIZE_MAX, BLOCK_SIZE};

use super::disk::{Disk, read_full};
use super::index::{EXTENT_SIZE, Extent, Meta};
use super::judge::header_of;

/// No extent has more bytes: its last batch begins in it.
const BYTES_MAX: u64 = EXTENT_SIZE + BATCH_SIZE_MAX as u64;

/// What became of showing an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All of it was shown.
    Whole,
    /// It is not there as it is said to be, or not all of it. Batches may have been shown.
    NotThere,
    /// Whoever is shown it has seen enough.
    Stopped,
}

/// Reads extents of one journal.
#[derive(Debug)]
pub struct Extents<D: Disk> {
    disk: D,
    journal: JournalId,
    open: Option<(D::File, SegmentHeader)>,
    bytes: Vec<u8>,
}

impl<D: Disk> Extents<D> {
    /// Of the journal of that identity.
    pub fn new(disk: D, journal: JournalId) -> Extents<D> {
        Extents {
            disk,
            journal,
            open: None,
            bytes: Vec::new(),
        }
    }

    /// Does the journal have the batch that an index ends with, and where it says?
    pub fn has_end(&mut self, meta: &Meta) -> bool {
        let mut bytes = [0; BATCH_HEADER_SIZE as usize];
        let Some((segment, count)) = self.read(meta.segment, meta.at, &mut bytes) else {
            return false;
        };
        let bytes = &bytes[..count];
        let header = BatchHeader::decode(&segment.salt, meta.segment, meta.at, bytes);
        meta.journal == self.journal
            && header.is_ok_and(|header| header.last() == meta.last)
            && chain_after(bytes) == meta.chain
    }

    /// Shows the records of an extent to `each`, until that has seen enough.
    pub fn show(
        &mut self,
        extent: &Extent,
        mut each: impl FnMut(&BatchHeader, &RecordView<'_>) -> ControlFlow<()>,
    ) -> Shown {
        let size = extent.end.checked_sub(extent.begin);
        let Some(size) = size.filter(|size| *size <= BYTES_MAX) else {
            return Shown::NotThere;
        };
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(usize::try_from(size).unwrap_or(0), 0);
        let Some((segment, count)) = self.read(extent.segment, extent.begin, &mut bytes) else {
            return Shown::NotThere;
        };
        let shown = show(&segment, extent, &bytes[..count], &mut each);
        self.bytes = bytes;
        shown
    }

    fn read(
        &mut self,
        number: SegmentNumber,
        at: u64,
        into: &mut [u8],
    ) -> Option<(SegmentHeader, usize)> {
        if self
            .open
            .as_ref()
            .is_none_or(|(_, open)| open.number != number)
        {
            let file = self.disk.open(&number.file_name()).ok()?;
            let mut block = [0; BLOCK_SIZE as usize];
            let count = read_full(&self.disk, &file, 0, &mut block).ok()?;
            let length = self.disk.length(&file).ok()?;
            let header = header_of(&self.disk, &file, number, &block[..count], length).ok()?;
            if header.number != number || header.journal != self.journal {
                return None;
            }
            self.open = Some((file, header));
        }
        let (file, header) = self.open.as_ref()?;
        let count = read_full(&self.disk, file, at, into).ok()?;
        Some((*header, count))
    }
}

fn show(
    segment: &SegmentHeader,
    extent: &Extent,
    bytes: &[u8],
    each: &mut impl FnMut(&BatchHeader, &RecordView<'_>) -> ControlFlow<()>,
) -> Shown {
    let mut cursor = Cursor::before(segment, extent.begin, extent.first, extent.before);
    while cursor.at() < extent.end {
        let at = usize::try_from(cursor.at() - extent.begin).unwrap_or(usize::MAX);
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(batch) = cursor.advance(rest) else {
            return Shown::NotThere;
        };
        for view in batch.records() {
            if each(&batch.header, &view).is_break() {
                return Shown::Stopped;
            }
        }
    }
    match cursor.at() == extent.end && cursor.next_lsn() > extent.last {
        true => Shown::Whole,
        false => Shown::NotThere,
    }
}
