//! One domain's records by the journal's index: they begin to be shown at once, however long the journal is.
//!
//! Invariant: shows what going over the journal shows, or hands over to that: every record is read from the
//! journal itself, and each names the one of its domain before it, so that none can be missing unnoticed.
//! The index is left alone if it is somebody else's or in use.
//! Not here: going over the journal (`past`).

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;

use journal_format::number::{DomainId, Id128, Lsn};
use journal_format::record::Decoded;
use phase_journal::journal::decoded::Head;
use phase_journal::journal::disk::Disk;
use phase_journal::journal::index::{self, BatchPlace, Index};
use phase_journal::journal::lookup::Lookup;
use phase_journal::journal::read::SegmentFile;
use phase_journal::journal::{INDEX_NAME, OsDisk};

use crate::error::ToolError;
use crate::past::{Choose, Item, Known, Place};

/// Places that are asked for before anything is shown.
const FIRST_MAX: usize = 200;
/// Places that are asked for in all: what lies behind them is read from the journal.
const PLACES_MAX: usize = 100_000;

/// A larger index is left alone: opening sled's file takes time and memory by its size (250 MiB: a tenth of a
/// second and 50 MiB), and going over the journal then begins to print sooner.
const INDEX_SIZE_MAX: u64 = 128 * 1024 * 1024;

/// Where going over the journal is to go on.
#[derive(Debug)]
pub(crate) struct After {
    /// The first LSN that was not looked at.
    pub(crate) next: Lsn,
    /// Nobody wants more.
    pub(crate) is_stopped: bool,
}

/// Hands the records of a domain that are chosen to `each`, as far as the index leads. Nothing is shown, and
/// `next` is the first LSN, where it cannot be used.
pub(crate) fn read(
    disk: &OsDisk,
    files: &[SegmentFile],
    domain: &str,
    choose: &mut impl Choose,
    known: &mut Known,
    mut each: impl FnMut(Item) -> Result<ControlFlow<()>, ToolError>,
) -> Result<After, ToolError> {
    let after = After {
        next: Lsn::FIRST,
        is_stopped: false,
    };
    let Some((index, id, end)) = open(disk, files, domain) else {
        return Ok(after);
    };
    let oldest = files.iter().find_map(|file| file.header.as_ref().ok());
    let Some(oldest) = oldest.map(|header| header.first) else {
        return Ok(after);
    };
    let Some(journal) = index.meta().map(|meta| meta.journal) else {
        return Ok(after);
    };
    let mut shower = Shower {
        lookup: Lookup::new(disk.clone(), journal),
        id,
        oldest,
        before: None,
        after,
        known,
    };
    let first = places(&index, id, Lsn::FIRST, FIRST_MAX);
    let is_all = first.len() < FIRST_MAX;
    let from = first.last().map_or(end, |(place, _)| place.lsn);
    if !shower.show(first, choose, &mut each)? {
        return Ok(shower.after);
    }
    let mut is_all = is_all;
    if !is_all {
        let rest = places(&index, id, Lsn(from.0.saturating_add(1)), PLACES_MAX);
        is_all = rest.len() < PLACES_MAX;
        // Whoever reads may take his time, and a sidecar that starts wants the index.
        drop(index);
        if !shower.show(rest, choose, &mut each)? {
            return Ok(shower.after);
        }
    }
    if is_all {
        shower.after.next = Lsn(end.0.saturating_add(1));
    }
    Ok(shower.after)
}

/// Places of a domain's records from an LSN on, as far as the index knows their batches.
fn places(index: &Index, id: DomainId, from: Lsn, limit: usize) -> Vec<(index::Place, BatchPlace)> {
    let places = index.of_domain(id, from, limit).unwrap_or_default();
    let mut batch: Option<BatchPlace> = None;
    let mut found = Vec::new();
    for place in places {
        if batch.is_none_or(|batch| batch.last < place.lsn) {
            batch = index.place_of_lsn(place.lsn).ok().flatten();
        }
        match batch {
            Some(batch) => found.push((place, batch)),
            None => break,
        }
    }
    found
}

/// Shows records in the order of their places.
struct Shower<'a> {
    lookup: Lookup<OsDisk>,
    id: DomainId,
    /// The first LSN that the journal still has.
    oldest: Lsn,
    /// The last record of the domain that was looked at.
    before: Option<Lsn>,
    after: After,
    known: &'a mut Known,
}

impl Shower<'_> {
    /// `false`: it is to go on without the index, or not at all.
    fn show(
        &mut self,
        places: Vec<(index::Place, BatchPlace)>,
        choose: &mut impl Choose,
        each: &mut impl FnMut(Item) -> Result<ControlFlow<()>, ToolError>,
    ) -> Result<bool, ToolError> {
        for (place, batch) in places {
            let Some(found) = self.lookup.record(&place, &batch) else {
                return Ok(false);
            };
            let previous = previous(&found.record);
            let follows = match self.before {
                Some(before) => previous == Some(before),
                None => previous.is_none_or(|previous| previous < self.oldest),
            };
            // One is missing here, or the domain begins anew: the journal itself tells which.
            if !follows || found.record.domain() != Some(self.id) {
                return Ok(false);
            }
            self.before = Some(place.lsn);
            self.after.next = Lsn(place.lsn.0.saturating_add(1));
            let head = Head::of(&found.record);
            let stands = Place {
                batch: found.batch,
                offset: place.offset,
                size: found.size,
            };
            let recorded = self.known.recorded(found.record, stands);
            let is_wanted =
                choose.wants(&recorded) && choose.may_want(&recorded.batch, &head, self.known);
            if is_wanted && each(Item::Record(Box::new(recorded)))?.is_break() {
                self.after.is_stopped = true;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn previous(record: &Decoded) -> Option<Lsn> {
    match record {
        Decoded::Known(record) => record.previous,
        Decoded::Unknown { previous, .. } => *previous,
    }
}

/// The index, if it is there, ours, and of this history of this journal; the domain of that name or identity,
/// if there is just one; and the last LSN in the index.
fn open(disk: &OsDisk, files: &[SegmentFile], domain: &str) -> Option<(Index, DomainId, Lsn)> {
    let directory = disk.path().join(INDEX_NAME);
    // Opening it writes to it: what belongs to somebody else is left as it is, and to its owner.
    let owner = fs::metadata(&directory).ok()?.uid();
    if owner != rustix::process::geteuid().as_raw() || !disk.is_directory() {
        return None;
    }
    let files_of_index = fs::read_dir(&directory).ok()?;
    let sizes = files_of_index.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    if sizes.sum::<u64>() > INDEX_SIZE_MAX {
        return None;
    }
    let index = Index::open_as_it_is(&directory).ok()??;
    let meta = index.meta()?;
    let journal = files
        .iter()
        .find_map(|file| file.header.as_ref().ok())?
        .journal;
    let end = index.place_of_lsn(meta.last).ok()??;
    if !Lookup::new(disk.clone(), journal).has_end(&meta, &end) {
        return None;
    }
    let id = match Id128::parse(domain) {
        Some(id) => DomainId(id),
        None => match index.domains_named(domain).ok()?.as_slice() {
            [one] => *one,
            _ => return None,
        },
    };
    Some((index, id, meta.last))
}
