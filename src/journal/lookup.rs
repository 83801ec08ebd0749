//! Single records, looked up where an index says that they lie.
//!
//! Invariant: a record is shown only if it is what the place says, with checksums that are right in this
//! segment: the index is asked where, never what.
//! Not here: the index (`index`); whether something is missing between two records (the caller, by the
//! records' links).

use std::collections::BTreeMap;

use journal_format::batch::{BATCH_HEADER_SIZE, BatchHeader, chain_after};
use journal_format::number::{JournalId, SegmentNumber};
use journal_format::record::{Decoded, RECORD_HEADER_SIZE, record_at};
use journal_format::segment::SegmentHeader;
use journal_format::{BLOCK_SIZE, RECORD_BODY_SIZE_MAX};

use super::disk::{Disk, read_full};
use super::index::{BatchPlace, Meta, Place};
use super::judge::header_of;

/// Segments that are open at once.
const OPEN_MAX: usize = 16;

/// A record that was found, its batch's header and its bytes on disk.
#[derive(Debug)]
pub struct Found {
    /// The header of its batch.
    pub batch: BatchHeader,
    /// Its bytes, header and padding included.
    pub size: u64,
    /// What it says.
    pub record: Decoded,
}

/// Looks records up in the segments of one journal.
#[derive(Debug)]
pub struct Lookup<D: Disk> {
    disk: D,
    journal: JournalId,
    open: BTreeMap<SegmentNumber, (D::File, SegmentHeader)>,
}

impl<D: Disk> Lookup<D> {
    /// In the journal of that identity.
    pub fn new(disk: D, journal: JournalId) -> Lookup<D> {
        Lookup {
            disk,
            journal,
            open: BTreeMap::new(),
        }
    }

    /// The record at a place, in the batch at another; `None` if it is not there, whatever the reason.
    pub fn record(&mut self, place: &Place, batch: &BatchPlace) -> Option<Found> {
        let header = self.batch(batch)?.0;
        if !(header.first..=header.last()).contains(&place.lsn) {
            return None;
        }
        let mut bytes = vec![0; RECORD_HEADER_SIZE + RECORD_BODY_SIZE_MAX + 8];
        let (salt, count) = self.read(place.segment, place.offset, &mut bytes)?;
        let (size, record) = record_at(&salt.salt, &bytes[..count]).ok()?;
        (record.lsn() == place.lsn).then_some(Found {
            batch: header,
            size,
            record,
        })
    }

    /// Does the journal have the batch that an index ends with, and where it says?
    pub fn has_end(&mut self, meta: &Meta, batch: &BatchPlace) -> bool {
        let found = self.batch(batch);
        meta.journal == self.journal
            && batch.segment == meta.segment
            && batch.last == meta.last
            && found.is_some_and(|(_, chain)| chain == meta.chain)
    }

    /// A batch's header, and the chain value after it.
    fn batch(&mut self, place: &BatchPlace) -> Option<(BatchHeader, u32)> {
        let mut bytes = [0; BATCH_HEADER_SIZE as usize];
        let (segment, count) = self.read(place.segment, place.offset, &mut bytes)?;
        let bytes = &bytes[..count];
        let header = BatchHeader::decode(&segment.salt, place.segment, place.offset, bytes).ok()?;
        let is_it = header.first == place.first && header.last() == place.last;
        is_it.then(|| (header, chain_after(bytes).0))
    }

    fn read(
        &mut self,
        segment: SegmentNumber,
        at: u64,
        into: &mut [u8],
    ) -> Option<(SegmentHeader, usize)> {
        if !self.open.contains_key(&segment) {
            if self.open.len() >= OPEN_MAX {
                self.open.pop_first();
            }
            let file = self.disk.open(&segment.file_name()).ok()?;
            let mut block = [0; BLOCK_SIZE as usize];
            let count = read_full(&self.disk, &file, 0, &mut block).ok()?;
            let length = self.disk.length(&file).ok()?;
            let header = header_of(&self.disk, &file, segment, &block[..count], length).ok()?;
            if header.number != segment || header.journal != self.journal {
                return None;
            }
            self.open.insert(segment, (file, header));
        }
        let (file, header) = self.open.get(&segment)?;
        let count = read_full(&self.disk, file, at, into).ok()?;
        Some((*header, count))
    }
}
