//! Judging segment files: what one holds, how it ends, and what the next one says of it.
//! Invariant: a batch counts only if its checksums, its place and the segment behind it bear it out; a
//! bad end is a torn one only if nothing says that it was acknowledged (F11 to F13).
//! Not here: going from segment to segment (`read`), what a gap means (the engine).

use std::io;

use journal_format::batch::{BATCH_HEADER_SIZE, BatchHeader};
use journal_format::error::FormatError;
use journal_format::number::{JournalId, Lsn, SegmentNumber};
use journal_format::record::RECORD_HEADER_SIZE;
use journal_format::scan::{Batch, Damage, Scan, Tail, scan_with};
use journal_format::segment::{SegmentEnd, SegmentHeader};
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_MAX};

use super::disk::{Disk, read_full};
use super::read::{Cause, Ending, Entry, Gap, ReadError};

/// How often a segment with damage is read again, in case its writer was at work on it.
const LOOKS_MAX: u32 = 8;

/// A segment's file and what its head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// The number that its name says.
    pub number: SegmentNumber,
    /// Its length in bytes.
    pub length: u64,
    /// Its head, or why nothing in it can be told.
    pub header: Result<SegmentHeader, Cause>,
    /// When its first batch was written, in nanoseconds since 1970, if that can be read.
    pub begun: Option<u64>,
}

impl SegmentFile {
    /// A gap over this file.
    fn gap(&self, first: Lsn, last: Lsn, why: Cause) -> Gap {
        Gap {
            first,
            last,
            segment: self.number,
            at: 0,
            until: self.length,
            why,
        }
    }
}

/// The segments in a directory, in order of their numbers.
///
/// # Errors
/// Only what the system refuses: damage is told of in the files.
pub(super) fn list_segments<D: Disk>(disk: &D) -> Result<Vec<SegmentFile>, ReadError> {
    let names = disk.list().map_err(ReadError::io(disk.path(), "list"))?;
    let mut numbers: Vec<_> = names
        .iter()
        .filter_map(|name| SegmentNumber::parse(name))
        .collect();
    numbers.sort_unstable();
    let mut files = Vec::new();
    for number in numbers {
        // A segment that went away since the listing was an old one that the writer let go.
        if let Some(file) = read_head(disk, number)? {
            files.push(file);
        }
    }
    mark_foreign(&mut files);
    Ok(files)
}

fn read_head<D: Disk>(disk: &D, number: SegmentNumber) -> Result<Option<SegmentFile>, ReadError> {
    let name = number.file_name();
    let path = disk.path().join(&name);
    let Some(file) = open(disk, &name)? else {
        return Ok(None);
    };
    let mut head = [0; (BLOCK_SIZE + BATCH_HEADER_SIZE) as usize];
    let count = read_full(disk, &file, 0, &mut head).map_err(ReadError::io(&path, "read"))?;
    let (block, batch) = head[..count].split_at(count.min(BLOCK_SIZE as usize));
    let length = disk
        .length(&file)
        .map_err(ReadError::io(&path, "get the length of"))?;
    let header = match header_of(disk, &file, number, block, length) {
        Ok(header) if header.number != number => Err(Cause::OtherNumber(header.number)),
        Ok(header) => Ok(header),
        Err(error) => Err(Cause::Damaged(error)),
    };
    let begun = header.as_ref().ok().and_then(|head| {
        let begin = SegmentHeader::batches_begin();
        let first = BatchHeader::decode(&head.salt, number, begin, batch).ok()?;
        Some(first.wall)
    });
    Ok(Some(SegmentFile {
        number,
        length,
        header,
        begun,
    }))
}

/// The header of a file of this name and length that begins with `block`. One that was written to the
/// wrong file is no better than none there, if the copy names this file (F24).
pub(super) fn header_of<D: Disk>(
    disk: &D,
    file: &D::File,
    name: SegmentNumber,
    block: &[u8],
    length: u64,
) -> Result<SegmentHeader, FormatError> {
    let first = SegmentHeader::decode(block);
    if first.as_ref().is_ok_and(|header| header.number == name) {
        return first;
    }
    let mut copy = [0; BLOCK_SIZE as usize];
    // What cannot be read does not tell either.
    let count = read_full(disk, file, SegmentHeader::copy_begins(length), &mut copy);
    let copy = SegmentHeader::of_file(&[], &copy[..count.unwrap_or(0)], length);
    match copy {
        Ok(copy) if first.is_err() || copy.number == name => Ok(copy),
        Ok(_) | Err(_) => first,
    }
}

pub(super) fn open<D: Disk>(disk: &D, name: &str) -> Result<Option<D::File>, ReadError> {
    match disk.open(name) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ReadError::io(&disk.path().join(name), "open")(error)),
    }
}

/// The journal is the one that most of its segments name; of equals, that of the oldest.
fn mark_foreign(files: &mut [SegmentFile]) {
    let journals: Vec<JournalId> = files
        .iter()
        .filter_map(|file| file.header.as_ref().ok())
        .map(|head| head.journal)
        .collect();
    let count = |journal| journals.iter().filter(|other| **other == journal).count();
    let Some(most) = journals.iter().map(|journal| count(*journal)).max() else {
        return;
    };
    let Some(ours) = journals
        .iter()
        .copied()
        .find(|journal| count(*journal) == most)
    else {
        return;
    };
    for file in files {
        if let Ok(header) = &file.header
            && header.journal != ours
        {
            file.header = Err(Cause::OtherJournal(header.journal));
        }
    }
}

/// A segment that was read.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) length: u64,
    pub(super) scan: Scan,
}

/// What a segment says of the end of segment `number` before it.
fn known_end(number: SegmentNumber, following: Option<&SegmentHeader>) -> Option<SegmentEnd> {
    let end = following.and_then(|head| head.before);
    end.filter(|end| end.number == number)
}

/// Reads a segment; `None` when it is gone or its head is no longer whole. `following` is the head of
/// the next readable segment.
pub(super) fn load<D: Disk>(
    disk: &D,
    number: SegmentNumber,
    following: Option<&SegmentHeader>,
) -> Result<Option<Loaded>, ReadError> {
    let known = known_end(number, following);
    let name = number.file_name();
    let path = disk.path().join(&name);
    let Some(file) = open(disk, &name)? else {
        return Ok(None);
    };
    let length = disk
        .length(&file)
        .map_err(ReadError::io(&path, "get the length of"))?;
    let size = usize::try_from(length.min(SEGMENT_SIZE_MAX)).unwrap_or(usize::MAX);
    let mut block = vec![0; size.min(BLOCK_SIZE as usize)];
    let count = read_full(disk, &file, 0, &mut block).map_err(ReadError::io(&path, "read"))?;
    let Ok(header) = header_of(disk, &file, number, &block[..count], length) else {
        return Ok(None);
    };
    // What lies beyond the segment's size need not be read (F4).
    let size = usize::try_from(header.size).map_or(size, |whole| whole.min(size));
    let mut bytes = vec![0; size];
    let mut before: Option<Scan> = None;
    for _ in 0..LOOKS_MAX {
        let count = read_full(disk, &file, 0, &mut bytes).map_err(ReadError::io(&path, "read"))?;
        // Let go meanwhile, and on its way to become another segment.
        if bytes.get(..block.len()) != Some(&block) {
            return Ok(None);
        }
        let now = scan_with(header, &bytes[..count], known.as_ref());
        // A batch that was written while the file was read may look damaged. Damage stays.
        let whole = now.damage.is_empty() && !matches!(now.tail, Tail::Corrupt { .. });
        if whole || before.as_ref() == Some(&now) {
            return Ok(Some(Loaded { length, scan: now }));
        }
        before = Some(now);
    }
    Ok(before.map(|scan| Loaded { length, scan }))
}

/// The most records that fit into so many bytes.
pub(super) fn records_max(bytes: u64) -> u64 {
    bytes / RECORD_HEADER_SIZE as u64
}

pub(super) fn before(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.saturating_sub(1))
}

/// What one segment holds, settled by the next one.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) entries: Vec<Entry>,
    /// The LSN after its last record; after a damaged end, after all that may have been there.
    pub(super) next: Lsn,
    pub(super) ending: Ending,
    /// Where it ends, as far as it can be read.
    pub(super) end: SegmentEnd,
}

/// Judges a segment that was read. `following` is the head of the next readable segment, with
/// `None` for the newest.
pub(super) fn settle(loaded: Loaded, following: Option<&SegmentHeader>) -> Settled {
    let Loaded { length, scan } = loaded;
    let read_end = SegmentEnd {
        number: scan.header.number,
        end: scan.end,
        chain: scan.chain,
        last: before(scan.next),
    };
    let Scan {
        header,
        batches,
        damage,
        tail,
        ..
    } = scan;
    let number = header.number;
    let known = known_end(number, following);
    let mut end = SegmentHeader::batches_begin();
    // Unknown behind a batch whose header is lost.
    let mut chain = Some(header.chain());
    let mut next = header.first;
    let mut entries: Vec<(u64, Entry)> = Vec::new();
    // The writer of the next segment gave these LSNs anew: what has them here was never believed.
    let believed = |batch: &Batch| following.is_none_or(|head| batch.header.last() < head.first);
    for batch in batches.into_iter().filter(believed) {
        end = batch.header.offset + batch.header.size();
        chain = (!batch.header_lost).then_some(batch.chain);
        next = Lsn(batch.header.last().0.saturating_add(1));
        entries.push((batch.header.offset, Entry::Batch(batch)));
    }
    // With the same last LSN, the end is the same too, but in another file.
    let is_told_of = |known: &SegmentEnd| known.end == end || known.last == before(next);
    if let Some(known) = known
        && known.end > 0
        && is_told_of(&known)
        && chain.is_some_and(|chain| chain != known.chain)
    {
        return disowned(&header, length, known.last, read_end);
    }
    let inner = damage.into_iter().filter(|damage| damage.last < next);
    entries.extend(inner.map(|damage| (damage.at, Entry::Gap(gap_of(number, damage)))));
    // Stable: a batch stands before the gaps inside it.
    entries.sort_by_key(|(at, _)| *at);
    let mut entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();

    let (mut ending, mut why) = ending(number, tail, length, header.size);
    // It goes on where this one ends, and with later numbers: those between were lost for its writer, too (F25).
    if why == Cause::Shortened && known.is_some_and(|known| known.end == end) {
        why = Cause::Older;
    }
    let last = match following {
        // The next segment tells what this one held, whatever its end looks like.
        Some(head) if known.is_some() => before(head.first),
        // A file between them that is lost is told of by a gap of its own.
        Some(_) => before(next),
        None => last_possible(&header, end, next, ending),
    };
    if last >= next {
        let until = known
            .map_or(header.batches_end(), |known| known.end)
            .max(end);
        entries.push(Entry::Gap(Gap {
            first: next,
            last,
            segment: number,
            at: end,
            until,
            why,
        }));
        next = Lsn(last.0.saturating_add(1));
    } else if following.is_some() {
        ending = Ending::Clean;
    }
    Settled {
        entries,
        next,
        ending,
        end: read_end,
    }
}

fn gap_of(segment: SegmentNumber, damage: Damage) -> Gap {
    let Damage {
        at,
        until,
        first,
        last,
        why,
    } = damage;
    Gap {
        first,
        last,
        segment,
        at,
        until,
        why: Cause::Damaged(why),
    }
}

/// The last LSN that the newest segment may have held, of which `end` bytes and the records before
/// `next` can be read.
fn last_possible(header: &SegmentHeader, end: u64, next: Lsn, ending: Ending) -> Lsn {
    let count = match ending {
        Ending::Clean | Ending::Torn { .. } => 0,
        Ending::Damaged => records_max(header.batches_end().saturating_sub(end)),
    };
    Lsn(before(next).0.saturating_add(count))
}

/// A segment that is not the one that the next segment was written after: nothing in it counts.
fn disowned(header: &SegmentHeader, length: u64, last: Lsn, end: SegmentEnd) -> Settled {
    let gap = Gap {
        first: header.first,
        last,
        segment: header.number,
        at: 0,
        until: length,
        why: Cause::OtherContents,
    };
    let next = Lsn(last.0.saturating_add(1));
    Settled {
        entries: vec![Entry::Gap(gap)],
        next,
        ending: Ending::Damaged,
        end,
    }
}

/// How a segment ends by itself, and why records are missing there if the next one says so.
fn ending(number: SegmentNumber, tail: Tail, length: u64, size: u64) -> (Ending, Cause) {
    match tail {
        _ if length < size => (Ending::Damaged, Cause::CutOff { length }),
        Tail::Clean => (Ending::Clean, Cause::Shortened),
        Tail::Torn { at } => (
            Ending::Torn {
                segment: number,
                at,
            },
            Cause::Shortened,
        ),
        Tail::Corrupt { at: _, why } => (Ending::Damaged, Cause::Damaged(why)),
    }
}

/// The gaps for segment files between `from` (the next LSN expected) and the next readable segment
/// that are lost: their heads are damaged, or they are not there.
pub(super) fn lost_between(
    lost: &[SegmentFile],
    missing: Option<SegmentNumber>,
    from: Lsn,
    following: Option<&SegmentHeader>,
) -> Option<Gap> {
    let last = match following {
        Some(head) => before(head.first),
        None => {
            let each = records_max(SEGMENT_SIZE_MAX);
            Lsn(before(from)
                .0
                .saturating_add(each.saturating_mul(lost.len() as u64)))
        }
    };
    if last < from {
        return None;
    }
    match (lost.first(), missing) {
        (Some(file), _) => {
            let why = file
                .header
                .as_ref()
                .err()
                .cloned()
                .unwrap_or(Cause::Missing);
            Some(file.gap(from, last, why))
        }
        (None, Some(segment)) => Some(Gap {
            first: from,
            last,
            segment,
            at: 0,
            until: 0,
            why: Cause::Missing,
        }),
        (None, None) => None,
    }
}
