//! Repairing a journal: everything that can be read of it, copied into a new directory.
//! Invariant: the journal itself is not changed; the copy gives back every record that the journal
//! gives, at its place and with its LSN, and nothing else; what is lost there is lost here, and told. No
//! damage becomes an end that looks like one, and no segment is dropped from between or behind others.
//! Not here: what a gap means (the engine), how a report is printed.
//!
//! A segment's file is copied byte for byte, with these exceptions (see FORMAT.md, "Repair"): zeros
//! instead of a torn tail (F12); the header and its copy as they were (F24); zeros for blocks that
//! the disk does not give back, or the file cut off there if its end is among them; zeros in the place
//! of a file that belongs to another journal.

mod copy;
mod error;

use std::collections::BTreeMap;
use std::path::Path;

use journal_format::error::FormatError;
use journal_format::number::{JournalId, SegmentNumber};
use journal_format::scan::{Tail, scan};
use journal_format::segment::SegmentHeader;
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN};

use super::disk::{Disk, OsDisk};
use super::judge::header_of;
use super::lock::NoWriter;
use super::read::{Cause, Entry, Gap, ReadError, Reader};
use super::verify::{Report, verify};
use copy::{Hole, Image, Staging, write};

pub use error::RepairError;

/// What in the copy is not as it was in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A write that was cut short and never acknowledged is gone.
    DroppedTail {
        /// The segment.
        segment: SegmentNumber,
        /// Where it began, in bytes.
        at: u64,
    },
    /// A segment's header is whole again at both of its places.
    RestoredHeader {
        /// The segment.
        segment: SegmentNumber,
    },
    /// A segment that had another's name has its own again.
    Renamed {
        /// The name that it had.
        from: SegmentNumber,
        /// The segment that it is.
        to: SegmentNumber,
    },
    /// A file is not a segment of this journal, or not under its own name. Zeros stand in its place, so
    /// that what is missing there stays known.
    LeftOut {
        /// The name of the file.
        segment: SegmentNumber,
        /// What it is.
        why: Cause,
    },
    /// The disk did not give these bytes back. Zeros stand in their place, or the file ends there.
    Unreadable {
        /// The segment.
        segment: SegmentNumber,
        /// Where they begin, in bytes.
        at: u64,
        /// Where they end.
        until: u64,
        /// Why, in the system's words.
        why: String,
    },
}

impl Change {
    /// Whether something could not be saved.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        match self {
            Change::DroppedTail { .. } | Change::RestoredHeader { .. } | Change::Renamed { .. } => {
                false
            }
            Change::LeftOut { .. } | Change::Unreadable { .. } => true,
        }
    }
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// What is not as it was, in the order of the segments.
    pub changes: Vec<Change>,
    /// What is in the copy: its gaps are what could not be saved.
    pub report: Report,
}

impl Repaired {
    /// Whether everything that was ever acknowledged is in the copy, as far as anything tells.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.report.verdict().is_sound() && !self.changes.iter().any(Change::is_loss)
    }
}

/// Copies what can be read of the journal in `from` into the directory `to`, which must not exist or
/// be empty. The copy appears there whole or not at all.
///
/// # Errors
/// See [`RepairError`]. There is no copy then, and nothing is left of it.
pub fn repair(from: &Path, to: &Path) -> Result<Repaired, RepairError> {
    let staging = Staging::prepare(from, to)?;
    // Held all along: a sidecar that is started meanwhile is refused, and changes nothing under the copy.
    let no_writer = NoWriter::of(from)?;
    let mut repaired = repair_into(&OsDisk::new(from), &OsDisk::new(staging.path()))?;
    if !no_writer.is_held() {
        // A sidecar may have made the lock file meanwhile.
        drop(NoWriter::of(from)?);
    }
    staging.finish()?;
    repaired.report.directory = to.to_path_buf();
    Ok(repaired)
}

/// A segment's file in the journal.
struct File {
    /// The number in its name.
    name: SegmentNumber,
    /// The segment that it is, and its header; or why it is none.
    header: Result<SegmentHeader, Cause>,
}

/// Copies a journal into a directory that is empty, and reads the copy.
pub(super) fn repair_into<S: Disk + Clone, T: Disk + Clone>(
    source: &S,
    copy: &T,
) -> Result<Repaired, RepairError> {
    let files = look(source)?;
    let mut changes = Vec::new();
    let places = arrange(&files, &mut changes);
    let newest = places.keys().next_back().copied();
    let mut is_readable = true;
    for (number, file) in &places {
        let image = match file {
            Some(file) => {
                let (image, _) = Image::read(source, file.name, SEGMENT_SIZE_MAX)?;
                is_readable &= image.holes.is_empty();
                mended(*number, file, image, Some(*number) == newest, &mut changes)
            }
            None => Image::zeros(SEGMENT_SIZE_MIN),
        };
        write(copy, *number, &image)?;
    }
    copy.sync_directory()
        .map_err(RepairError::io(copy.path(), "sync"))?;
    changes.sort_by_key(|(number, _)| *number);
    let changes: Vec<Change> = changes.into_iter().map(|(_, change)| change).collect();
    let gives_the_same = changes.iter().all(|change| match change {
        Change::DroppedTail { .. } | Change::LeftOut { .. } | Change::RestoredHeader { .. } => true,
        Change::Renamed { .. } | Change::Unreadable { .. } => false,
    });
    if is_readable && gives_the_same {
        compare(source, copy)?;
    }
    let report = verify(copy.clone())?;
    Ok(Repaired { changes, report })
}

/// The journal's files, and what each of them is.
fn look<D: Disk>(disk: &D) -> Result<Vec<File>, RepairError> {
    let names = disk.list().map_err(RepairError::io(disk.path(), "list"))?;
    let mut numbers: Vec<_> = names
        .iter()
        .filter_map(|name| SegmentNumber::parse(name))
        .collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        let directory = disk.path().to_path_buf();
        return Err(ReadError::NoJournal { directory }.into());
    }
    let mut files = Vec::new();
    for name in numbers {
        let (head, length) = Image::read(disk, name, BLOCK_SIZE.into())?;
        let path = disk.path().join(name.file_name());
        let file = disk.open(&name.file_name());
        let file = file.map_err(RepairError::io(&path, "open"))?;
        let header = header_of(disk, &file, name, &head.bytes, length).map_err(Cause::Damaged);
        files.push(File { name, header });
    }
    let Some(ours) = journal_of(&files) else {
        return Err(RepairError::NothingReadable {
            directory: disk.path().to_path_buf(),
        });
    };
    for file in &mut files {
        match &file.header {
            Ok(head) if head.journal != ours => {
                file.header = Err(Cause::OtherJournal(head.journal))
            }
            Ok(head) if head.number != file.name => {
                file.header = Err(Cause::OtherNumber(head.number));
            }
            Ok(_) => {}
            Err(Cause::Damaged(FormatError::Version { found })) => {
                return Err(RepairError::NewerFormat {
                    file: disk.path().join(file.name.file_name()),
                    version: *found,
                });
            }
            Err(_) => {}
        }
    }
    Ok(files)
}

/// The journal that most files under their own names belong to; of equals, the oldest. Without such a
/// file, that of the first that can be read.
fn journal_of(files: &[File]) -> Option<JournalId> {
    let heads = || {
        files
            .iter()
            .filter_map(|file| Some((file.name, file.header.as_ref().ok()?)))
    };
    let proper: Vec<JournalId> = heads()
        .filter(|(name, head)| *name == head.number)
        .map(|(_, head)| head.journal)
        .collect();
    let count = |journal: &JournalId| proper.iter().filter(|other| *other == journal).count();
    let most = proper.iter().map(count).max();
    let ours = proper.iter().find(|journal| Some(count(journal)) == most);
    ours.copied()
        .or_else(|| heads().next().map(|(_, head)| head.journal))
}

/// Which file gets which number in the copy; zeros get that of one that belongs elsewhere.
fn arrange<'a>(
    files: &'a [File],
    changes: &mut Vec<(SegmentNumber, Change)>,
) -> BTreeMap<SegmentNumber, Option<&'a File>> {
    let mut places = BTreeMap::new();
    for file in files {
        let place = match &file.header {
            // What the head does not tell may be there all the same: it is kept as it is.
            Ok(_) | Err(Cause::Damaged(_)) => Some(file),
            Err(why) => {
                let (segment, why) = (file.name, why.clone());
                changes.push((segment, Change::LeftOut { segment, why }));
                None
            }
        };
        places.insert(file.name, place);
    }
    for file in files {
        if let Err(Cause::OtherNumber(to)) = file.header
            && !places.contains_key(&to)
        {
            places.insert(to, Some(file));
            let from = file.name;
            changes.push((to, Change::Renamed { from, to }));
        }
    }
    places
}

/// Writes a segment's header to both of its places (F24); whether it was missing at one of them.
fn put_header(header: &SegmentHeader, image: &mut Image) -> bool {
    let block = header.encode();
    let mut was_damaged = false;
    for at in [0, header.batches_end()] {
        let until = at + u64::from(BLOCK_SIZE);
        let place = usize::try_from(at).unwrap_or(usize::MAX);
        let place = place..place.saturating_add(block.len());
        // A file that was cut off has no place for the copy.
        let Some(there) = image.bytes.get_mut(place) else {
            continue;
        };
        if *there != *block {
            there.copy_from_slice(&block);
            image
                .holes
                .retain(|hole| hole.at < at || hole.until > until);
            was_damaged = true;
        }
    }
    was_damaged
}

/// A segment's file as it is in the copy.
fn mended(
    segment: SegmentNumber,
    file: &File,
    mut image: Image,
    is_newest: bool,
    changes: &mut Vec<(SegmentNumber, Change)>,
) -> Image {
    if let Ok(header) = &file.header
        && put_header(header, &mut image)
    {
        changes.push((segment, Change::RestoredHeader { segment }));
    }
    for Hole { at, until, why } in &image.holes {
        let (at, until, why) = (*at, *until, why.clone());
        changes.push((
            segment,
            Change::Unreadable {
                segment,
                at,
                until,
                why,
            },
        ));
    }
    // What the others held is settled by the segments behind them.
    let Ok(scan) = scan(&image.bytes) else {
        return image;
    };
    if !is_newest {
        return image;
    }
    let end = usize::try_from(scan.end).unwrap_or(usize::MAX);
    let hole = image.holes.iter().find(|hole| hole.until > scan.end);
    match (hole, scan.tail) {
        // Zeros there would look like the journal's end, or like a torn tail: a file that is cut off
        // says that nobody knows (F4). Where no batch begins, none was behind.
        (Some(hole), tail) => {
            let ends_before = hole.at > scan.end && matches!(tail, Tail::Clean);
            if !ends_before {
                let at = usize::try_from(hole.at).unwrap_or(usize::MAX);
                image.bytes.truncate(at.max(end));
            }
        }
        (None, Tail::Torn { at }) if image.bytes.len() as u64 >= scan.header.size => {
            let room = usize::try_from(scan.header.batches_end()).unwrap_or(usize::MAX);
            image.bytes[end..room].fill(0);
            changes.push((segment, Change::DroppedTail { segment, at }));
        }
        (None, Tail::Torn { .. } | Tail::Clean | Tail::Corrupt { .. }) => {}
    }
    image
}

/// Makes sure that a copy gives what the journal gives.
fn compare<S: Disk + Clone, T: Disk + Clone>(source: &S, copy: &T) -> Result<(), RepairError> {
    let mut there = Reader::open(source.clone())?;
    let mut here = Reader::open(copy.clone())?;
    loop {
        let (there, here) = (there.next().transpose()?, here.next().transpose()?);
        let (same, from) = match (&there, &here) {
            (None, None) => return Ok(()),
            (Some(Entry::Batch(there)), Some(Entry::Batch(here))) => {
                (there == here, there.header.first)
            }
            (Some(Entry::Gap(there)), Some(Entry::Gap(here))) => {
                let range = |gap: &Gap| (gap.first, gap.last);
                (range(there) == range(here), there.first)
            }
            (Some(Entry::Batch(batch)), _) | (None, Some(Entry::Batch(batch))) => {
                (false, batch.header.first)
            }
            (Some(Entry::Gap(gap)), _) | (None, Some(Entry::Gap(gap))) => (false, gap.first),
        };
        if !same {
            return Err(RepairError::Differs { from });
        }
    }
}

#[cfg(test)]
mod tests;
