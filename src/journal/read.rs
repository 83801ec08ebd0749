//! Reading a journal's segments: what is there, what is missing, and how it ends.
//! Invariant: needs no lock and never writes; a record is shown only if its checksums, its place and
//! the segment behind it bear it out, and what is missing between two records is shown as a gap.
//! Not here: what a gap means for a domain (the engine); whether a journal may be written (`open`).

use core::fmt;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use journal_format::error::FormatError;
use journal_format::number::{Chain, JournalId, Lsn, SegmentNumber};
use journal_format::record::{Decoded, RECORD_HEADER_SIZE, RecordBody};
use journal_format::scan::{Batch, Scan, Tail, scan};
use journal_format::segment::{SegmentEnd, SegmentHeader};
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_MAX};

use super::disk::{Disk, read_full};

/// How often a segment with damage is read again, in case its writer was at work on it.
const LOOKS_MAX: u32 = 8;

/// Records that were acknowledged, or may have been, and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first LSN that may be lost.
    pub first: Lsn,
    /// The last one that may be.
    pub last: Lsn,
    /// The file, named by its number.
    pub segment: SegmentNumber,
    /// Where in it the damage begins, in bytes.
    pub at: u64,
    /// Where it ends.
    pub until: u64,
    /// What is wrong.
    pub why: Cause,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gap {
            first,
            last,
            segment,
            at,
            until,
            why,
        } = self;
        let file = segment.file_name();
        write!(
            f,
            "lsn {first} to {last} are lost: {file}, bytes {at} to {until}: {why}"
        )
    }
}

/// Why records cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The bytes are damaged.
    Damaged(FormatError),
    /// The file is not there.
    Missing,
    /// The file belongs to another journal.
    OtherJournal(JournalId),
    /// The file is another segment of this journal under a wrong name.
    OtherNumber(SegmentNumber),
    /// The next segment tells of other contents than these: the file was put back from elsewhere.
    OtherContents,
    /// The next segment tells of more than is here.
    Shortened,
    /// The file ends before the segment does.
    CutOff {
        /// Its length in bytes.
        length: u64,
    },
    /// No whole checkpoint is left that would say what came before.
    NoCheckpoint,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Damaged(why) => why.fmt(f),
            Cause::Missing => f.write_str("the file is not there"),
            Cause::OtherJournal(journal) => write!(f, "the file belongs to journal {journal}"),
            Cause::OtherNumber(number) => write!(f, "the file is segment {number}"),
            Cause::OtherContents => f.write_str("the next segment tells of other contents"),
            Cause::Shortened => f.write_str("the next segment tells of more than is here"),
            Cause::CutOff { length } => write!(f, "the file ends after {length} bytes"),
            Cause::NoCheckpoint => f.write_str("no whole checkpoint is left"),
        }
    }
}

/// How a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// After a whole batch, or before the first.
    Clean,
    /// In a batch that was never acknowledged: its writer died, or is at work on it now.
    Torn {
        /// The segment.
        segment: SegmentNumber,
        /// Where the batch begins, in bytes.
        at: u64,
    },
    /// In damage; the last gap tells of it.
    Damaged,
}

/// Something that a journal holds, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Records that became durable together. Damaged ones among them are missing here and told of
    /// by a gap right behind.
    Batch(Batch),
    /// Records that are lost.
    Gap(Gap),
}

/// Why a journal could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The system refused.
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What was being done to it, such as "read".
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// There is no segment in the directory.
    NoJournal {
        /// The directory.
        directory: PathBuf,
    },
}

impl ReadError {
    pub(super) fn io(file: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> ReadError {
        move |source| ReadError::Io {
            file: file.to_path_buf(),
            doing,
            source,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io {
                file,
                doing,
                source,
            } => {
                write!(f, "could not {doing} {}: {source}", file.display())
            }
            ReadError::NoJournal { directory } => {
                write!(f, "there is no journal in {}", directory.display())
            }
        }
    }
}

impl std::error::Error for ReadError {}

/// A segment's file and what its head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// The number that its name says.
    pub number: SegmentNumber,
    /// Its length in bytes.
    pub length: u64,
    /// Its head, or why nothing in it can be told.
    pub header: Result<SegmentHeader, Cause>,
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
pub fn list_segments<D: Disk>(disk: &D) -> Result<Vec<SegmentFile>, ReadError> {
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
    let mut block = [0; BLOCK_SIZE as usize];
    let count = read_full(disk, &file, 0, &mut block).map_err(ReadError::io(&path, "read"))?;
    let length = disk
        .length(&file)
        .map_err(ReadError::io(&path, "get the length of"))?;
    let header = match SegmentHeader::decode(&block[..count]) {
        Ok(header) if header.number != number => Err(Cause::OtherNumber(header.number)),
        Ok(header) => Ok(header),
        Err(error) => Err(Cause::Damaged(error)),
    };
    Ok(Some(SegmentFile {
        number,
        length,
        header,
    }))
}

fn open<D: Disk>(disk: &D, name: &str) -> Result<Option<D::File>, ReadError> {
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

/// Reads a segment; `None` when it is gone or its head is no longer whole.
pub(super) fn load<D: Disk>(disk: &D, number: SegmentNumber) -> Result<Option<Loaded>, ReadError> {
    let name = number.file_name();
    let path = disk.path().join(&name);
    let Some(file) = open(disk, &name)? else {
        return Ok(None);
    };
    let length = disk
        .length(&file)
        .map_err(ReadError::io(&path, "get the length of"))?;
    let size = usize::try_from(length.min(SEGMENT_SIZE_MAX)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size];
    let mut before: Option<Scan> = None;
    for _ in 0..LOOKS_MAX {
        let count = read_full(disk, &file, 0, &mut bytes).map_err(ReadError::io(&path, "read"))?;
        let Ok(now) = scan(&bytes[..count]) else {
            return Ok(None);
        };
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

fn before(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.saturating_sub(1))
}

/// What one segment holds, settled by the next one.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    pub(super) entries: Vec<Entry>,
    /// The LSN after its last record; after a damaged end, after all that may have been there.
    pub(super) next: Lsn,
    pub(super) ending: Ending,
}

/// Judges a segment that was read. `following` is the head of the next readable segment, with
/// `None` for the newest.
pub(super) fn settle(loaded: Loaded, following: Option<&SegmentHeader>) -> Settled {
    let Loaded { length, scan } = loaded;
    let number = scan.header.number;
    let known = following
        .and_then(|head| head.before)
        .filter(|end| end.number == number);
    if let Some(end) = known
        && end.end == scan.end
        && end.chain != scan.chain
    {
        let (first, last) = (scan.header.first, end.last);
        let why = Cause::OtherContents;
        let gap = Gap {
            first,
            last,
            segment: number,
            at: 0,
            until: length,
            why,
        };
        let next = Lsn(last.0.saturating_add(1));
        let entries = vec![Entry::Gap(gap)];
        return Settled {
            entries,
            next,
            ending: Ending::Damaged,
        };
    }
    // What lies beyond the end that the next segment was written after was not there for its
    // writer: it was never believed.
    let believed = |batch: &Batch| {
        known.is_none_or(|end| batch.header.offset < end.end)
            && following.is_none_or(|head| batch.header.last() < head.first)
    };
    let mut end = SegmentHeader::batches_begin();
    let mut next = scan.header.first;
    let mut entries: Vec<(u64, Entry)> = Vec::new();
    for batch in scan.batches.into_iter().filter(believed) {
        end = batch.header.offset + batch.header.size();
        next = Lsn(batch.header.last().0.saturating_add(1));
        entries.push((batch.header.offset, Entry::Batch(batch)));
    }
    for damage in scan.damage.into_iter().filter(|damage| damage.last < next) {
        let gap = Gap {
            first: damage.first,
            last: damage.last,
            segment: number,
            at: damage.at,
            until: damage.until,
            why: Cause::Damaged(damage.why),
        };
        entries.push((damage.at, Entry::Gap(gap)));
    }
    // Stable: a batch stands before the gaps inside it.
    entries.sort_by_key(|(at, _)| *at);
    let mut entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();

    let size = scan.header.size;
    let (ending, why) = match scan.tail {
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
    };
    let (last, until) = match (following, ending) {
        // The next segment tells what this one held, whatever its end looks like. A file between
        // them that is lost is told of by a gap of its own.
        (Some(_), _) if known.is_none() => (before(next), size),
        (Some(head), _) => (before(head.first), known.map_or(size, |end| end.end)),
        (None, Ending::Clean | Ending::Torn { .. }) => (before(next), size),
        (None, Ending::Damaged) => (
            Lsn(before(next).0.saturating_add(records_max(size - end))),
            size,
        ),
    };
    let mut ending = ending;
    if last >= next {
        let until = until.max(end);
        let gap = Gap {
            first: next,
            last,
            segment: number,
            at: end,
            until,
            why,
        };
        entries.push(Entry::Gap(gap));
        next = Lsn(last.0.saturating_add(1));
    } else if following.is_some() {
        ending = Ending::Clean;
    }
    Settled {
        entries,
        next,
        ending,
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

/// The LSN of the head of the last whole checkpoint among these entries.
pub(super) fn whole_checkpoint(entries: &[Entry]) -> Option<Lsn> {
    let mut whole = None;
    // The head of the checkpoint that is being read, and how many records it announced.
    let mut begun: Option<(Lsn, u32)> = None;
    let mut expected: Option<Lsn> = None;
    for entry in entries {
        let Entry::Batch(batch) = entry else {
            begun = None;
            continue;
        };
        for placed in &batch.records {
            let lsn = placed.record.lsn();
            if expected != Some(lsn) {
                begun = None;
            }
            expected = lsn.next();
            let Decoded::Known(record) = &placed.record else {
                continue;
            };
            match (&record.body, begun) {
                (RecordBody::CheckpointBegun(head), _) => begun = Some((lsn, head.records)),
                (RecordBody::CheckpointEnded(end), Some((first, records))) => {
                    let in_place = first.plus(u64::from(records) + 1) == Some(lsn);
                    if in_place && end.records == records {
                        whole = Some(first);
                    }
                    begun = None;
                }
                _ => {}
            }
        }
    }
    whole
}

/// Walks over a journal's segments, oldest first.
#[derive(Debug)]
pub(super) struct Walk {
    files: Vec<SegmentFile>,
    /// The next file to be read.
    index: usize,
    /// The head of the segment behind the last file, which is not walked over.
    closing: Option<SegmentHeader>,
    /// What was read before and need not be again.
    loaded: BTreeMap<SegmentNumber, Loaded>,
    /// The LSN that comes next, once something was read.
    pub(super) expected: Option<Lsn>,
    /// How the last segment that was read ended.
    pub(super) ending: Ending,
    /// Where the last file ends, as far as it can be read.
    pub(super) end: Option<SegmentEnd>,
}

impl Walk {
    pub(super) fn new(
        files: Vec<SegmentFile>,
        closing: Option<SegmentHeader>,
        loaded: BTreeMap<SegmentNumber, Loaded>,
    ) -> Walk {
        Walk {
            files,
            index: 0,
            closing,
            loaded,
            expected: None,
            ending: Ending::Clean,
            end: None,
        }
    }

    /// Leaves out the segments before this one.
    pub(super) fn skip_to(&mut self, segment: SegmentNumber) {
        let before = self
            .files
            .iter()
            .take_while(|file| file.number < segment)
            .count();
        self.index = self.index.max(before);
    }

    pub(super) fn is_done(&self) -> bool {
        self.index >= self.files.len()
    }

    /// Reads the next segment, and the gap before it if there is one.
    pub(super) fn advance<D: Disk>(&mut self, disk: &D) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        let begin = self.index;
        let lost = self.files[begin..]
            .iter()
            .take_while(|file| file.header.is_err())
            .count();
        self.index += lost;
        let here = self.header_from(self.index);
        entries.extend(self.lost(begin, here.as_ref()).map(Entry::Gap));
        let Some(head) = here.filter(|_| self.index < self.files.len()) else {
            return Ok(entries);
        };
        self.index += 1;
        let following = self.header_from(self.index);
        let loaded = match self.loaded.remove(&head.number) {
            Some(loaded) => Some(loaded),
            None => load(disk, head.number)?,
        };
        match loaded {
            Some(loaded) => {
                let Scan {
                    end, chain, next, ..
                } = loaded.scan;
                let last = before(next);
                self.end = Some(SegmentEnd {
                    number: head.number,
                    end,
                    chain,
                    last,
                });
                let settled = settle(loaded, following.as_ref());
                entries.extend(settled.entries);
                self.expected = Some(settled.next);
                self.ending = settled.ending;
            }
            // Gone since the listing. The oldest ones are let go while readers read.
            None => {
                let file = &self.files[self.index - 1..self.index];
                let gap = self.expected.and_then(|expected| {
                    lost_between(
                        &[],
                        file.first().map(|file| file.number),
                        expected,
                        following.as_ref(),
                    )
                });
                if let Some(gap) = gap {
                    self.expected = gap.last.next();
                    entries.push(Entry::Gap(gap));
                }
            }
        }
        Ok(entries)
    }

    /// The first head from a file on that can be read, or that of the segment behind them all.
    fn header_from(&self, index: usize) -> Option<SegmentHeader> {
        let mut heads = self.files[index..]
            .iter()
            .filter_map(|file| file.header.as_ref().ok());
        heads.next().copied().or(self.closing)
    }

    /// The gap over the files from `begin` to the next one that is read, and over missing ones.
    fn lost(&mut self, begin: usize, here: Option<&SegmentHeader>) -> Option<Gap> {
        let lost = &self.files[begin..self.index];
        let missing = begin
            .checked_sub(1)
            .and_then(|last| self.files[last].number.next());
        let missing = missing
            .filter(|next| self.expected.is_some() && here.is_some_and(|here| *next < here.number));
        if lost.is_empty() && missing.is_none() {
            return None;
        }
        // Before the first segment that can be read, nobody knows where they began.
        let expected = self.expected.unwrap_or(Lsn::FIRST);
        if let Some(file) = lost.last() {
            let (number, last) = (file.number, before(expected));
            self.end = Some(SegmentEnd {
                number,
                end: 0,
                chain: Chain(0),
                last,
            });
        }
        let gap = lost_between(lost, missing, expected, here)?;
        self.expected = gap.last.next();
        if here.is_none() {
            self.ending = Ending::Damaged;
        }
        Some(gap)
    }
}

/// Reads a whole journal, oldest record first.
#[derive(Debug)]
pub struct Reader<D: Disk> {
    disk: D,
    walk: Walk,
    /// Read and not yet given out, last first.
    ready: Vec<Entry>,
    failed: bool,
}

impl<D: Disk> Reader<D> {
    /// The journal in a directory.
    ///
    /// # Errors
    /// The directory cannot be read, or there is no segment in it.
    pub fn open(disk: D) -> Result<Reader<D>, ReadError> {
        let files = list_segments(&disk)?;
        if files.is_empty() {
            return Err(ReadError::NoJournal {
                directory: disk.path().to_path_buf(),
            });
        }
        Ok(Reader {
            disk,
            walk: Walk::new(files, None, BTreeMap::new()),
            ready: Vec::new(),
            failed: false,
        })
    }

    /// The segments, as they were when the reader was opened.
    pub fn segments(&self) -> &[SegmentFile] {
        &self.walk.files
    }

    /// The journal's identity; `None` if no segment's head can be read.
    pub fn journal(&self) -> Option<JournalId> {
        self.walk.header_from(0).map(|head| head.journal)
    }

    /// How the journal ends; known when everything was read.
    pub fn ending(&self) -> Ending {
        self.walk.ending
    }

    /// Leaves out the segments before this one.
    pub fn skip_to(&mut self, segment: SegmentNumber) {
        self.walk.skip_to(segment);
    }
}

impl<D: Disk> Iterator for Reader<D> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.pop() {
                return Some(Ok(entry));
            }
            if self.failed || self.walk.is_done() {
                return None;
            }
            match self.walk.advance(&self.disk) {
                Ok(mut entries) => {
                    entries.reverse();
                    self.ready = entries;
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
