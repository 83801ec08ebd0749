//! Reading a journal's segments: what is there, what is missing, and how it ends.
//! Invariant: needs no lock and never writes; a record is shown only if its checksums, its place and
//! the segment behind it bear it out, and what is missing between two records is shown as a gap.
//! Not here: how a segment is judged (`judge`); what a gap means for a domain (the engine).

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use journal_format::error::FormatError;
use journal_format::number::{Chain, JournalId, Lsn, SegmentNumber};
use journal_format::scan::Batch;
use journal_format::segment::{SegmentEnd, SegmentHeader};

use super::disk::Disk;
use super::judge::{before, list_segments, load, lost_between, settle};

pub use super::judge::SegmentFile;

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
        // What this program does not read is not lost (F5).
        let are = match why {
            Cause::Damaged(FormatError::Version { .. }) => "cannot be read",
            _ => "are lost",
        };
        write!(
            f,
            "lsn {first} to {last} {are}: {file}, bytes {at} to {until}: {why}"
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
    /// The next segment's writer knew that it had only an older copy: what came behind is lost.
    Older,
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
            Cause::Older => f.write_str("an older copy of the journal was accepted here"),
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

/// Walks over a journal's segments, oldest first.
#[derive(Debug)]
pub(super) struct Walk {
    files: Vec<SegmentFile>,
    /// The next file to be read.
    index: usize,
    /// The head of the segment behind the last file, which is not walked over.
    closing: Option<SegmentHeader>,
    /// The LSN that comes next, once something was read.
    pub(super) expected: Option<Lsn>,
    /// How the last segment that was read ended.
    pub(super) ending: Ending,
    /// Where the last file ends, as far as it can be read.
    pub(super) end: Option<SegmentEnd>,
}

impl Walk {
    pub(super) fn new(files: Vec<SegmentFile>, closing: Option<SegmentHeader>) -> Walk {
        Walk {
            files,
            index: 0,
            closing,
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

    /// Leaves out the segments from this one on. What they say of the end of those before still counts.
    pub(super) fn stop_before(&mut self, segment: SegmentNumber) {
        let kept = self.files.partition_point(|file| file.number < segment);
        self.closing = self.header_from(kept);
        self.files.truncate(kept);
    }

    /// The next file, if none is missing before it, and the head behind it.
    pub(super) fn next_in_line(&self) -> Option<(&SegmentFile, Option<SegmentHeader>)> {
        let file = self.files.get(self.index)?;
        let head = file.header.as_ref().ok()?;
        let in_line = match (self.index.checked_sub(1), self.expected) {
            (None, _) => true,
            (Some(before), expected) => {
                let follows = self.files[before].number.next() == Some(file.number);
                follows && expected.is_none_or(|expected| expected == head.first)
            }
        };
        in_line.then(|| (file, self.header_from(self.index + 1)))
    }

    /// Goes over the next file, which is whole and ends there.
    pub(super) fn pass(&mut self, end: SegmentEnd) {
        self.index += 1;
        self.expected = end.last.next();
        self.ending = Ending::Clean;
        self.end = Some(end);
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
        let loaded = load(disk, head.number, following.as_ref())?;
        match loaded.map(|loaded| settle(loaded, following.as_ref())) {
            Some(settled) => {
                self.end = Some(settled.end);
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
    pub(super) disk: D,
    pub(super) walk: Walk,
    /// Read and not yet given out, last first.
    pub(super) ready: Vec<Entry>,
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
            walk: Walk::new(files, None),
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

    /// Leaves out the segments from this one on. What they say of the end of those before still counts.
    pub fn stop_before(&mut self, segment: SegmentNumber) {
        self.walk.stop_before(segment);
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
