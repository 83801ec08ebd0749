//! Following a journal while it is written: what there is, and then each batch as it becomes durable.
//!
//! Invariant: needs no lock and never writes or syncs; a batch is given only when something that was
//! written later proves that it was acknowledged, in order, once, and none is left out without a word.
//! Memory holds a batch, or a checkpoint at the begin of an opening; a segment is read again only
//! where its damage has to be judged.
//! Not here: waiting for more (the caller), how damage is judged (`read`).
//!
//! A batch that is whole in the page cache may not be on the disk yet, and a power failure may take it
//! away. One batch at a time is in flight (F16), so that the next one proves it, as does the next
//! segment; an idle journal seals its last (F21). Until then it is held back, and can be asked for:
//! [`Follower::take_unsettled`]. (Syncing it here would hide a failed write from the next opening: the
//! kernel tells of one only once.) The batches of an opening's first segment wait for a whole
//! checkpoint, since the next opening makes that segment anew without one (F19).

mod judging;

use core::fmt;
use std::collections::VecDeque;
use std::path::PathBuf;

use journal_format::batch::BatchHeader;
use journal_format::number::{JournalId, Lsn, OpeningId, SegmentNumber};
use journal_format::record::{Decoded, RecordBody};
use journal_format::scan::Batch;
use journal_format::segment::{SegmentEnd, SegmentHeader};
use journal_format::whole::{Cursor, WholeBatch};
use journal_format::{BLOCK_SIZE, is_zero};

use super::disk::{Disk, read_full};
use super::judge::header_of;
use super::read::{Cause, Entry, Gap, ReadError, Reader};

/// What is new in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly all are batches")]
pub enum News {
    /// A batch that was acknowledged. Damaged records of it are missing here and told of by a gap
    /// right behind.
    Batch(Batch),
    /// Records that are lost.
    Gap(Gap),
    /// Records that the journal let go before they could be read here.
    LetGo {
        /// The first of them.
        first: Lsn,
        /// The last of them.
        last: Lsn,
    },
    /// Records that were given by [`Follower::take_unsettled`], and never were durable.
    Vanished {
        /// The first of them.
        first: Lsn,
        /// The last of them.
        last: Lsn,
    },
}

/// Why a journal cannot be followed any longer.
#[derive(Debug)]
pub enum FollowError {
    /// It cannot be read, or is gone.
    Read(ReadError),
    /// Another journal, or an older copy of this one, was put in its place.
    Replaced {
        /// The directory.
        directory: PathBuf,
    },
}

impl fmt::Display for FollowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FollowError::Read(error) => error.fmt(f),
            FollowError::Replaced { directory } => write!(
                f,
                "the journal in {} was replaced by another one, or by an older copy",
                directory.display()
            ),
        }
    }
}

impl std::error::Error for FollowError {}

impl From<ReadError> for FollowError {
    fn from(error: ReadError) -> FollowError {
        FollowError::Read(error)
    }
}

/// A batch that nothing proves yet.
#[derive(Debug)]
struct Held {
    batch: Batch,
    gaps: Vec<Gap>,
    /// It was given as unsettled.
    shown: bool,
}

/// A segment's file, and its header if that can be read and is in its place.
type Found<F> = (F, Option<SegmentHeader>);

/// The segment that is read.
#[derive(Debug)]
struct Segment<F> {
    file: F,
    header: SegmentHeader,
    cursor: Cursor,
    held: Vec<Held>,
    /// Nothing counts before this record, the end of the opening's first checkpoint.
    awaits: Option<Lsn>,
    /// It is the first segment of its opening, as far as is known.
    begins_opening: bool,
    /// Something lies behind the last batch that is none.
    is_bad: bool,
    /// How often that was seen without anything new in between.
    looks: u32,
}

/// Follows the journal in a directory, from its oldest record on.
#[derive(Debug)]
pub struct Follower<D: Disk> {
    disk: D,
    journal: Option<JournalId>,
    ready: VecDeque<News>,
    segment: Option<Segment<D::File>>,
    /// The LSN behind all that was given.
    next: Option<Lsn>,
    /// The newest segment when it was found that none can be read behind the one that is read.
    stuck_at: Option<SegmentNumber>,
    /// Where the last gap at the journal's end begins that was told of.
    told_from: Option<Lsn>,
    buffer: Vec<u8>,
}

impl<D: Disk + Clone> Follower<D> {
    /// Begins with the oldest record.
    ///
    /// # Errors
    /// The directory cannot be read, or there is no journal in it.
    pub fn open(disk: D) -> Result<Follower<D>, ReadError> {
        let mut follower = Follower {
            disk,
            journal: None,
            ready: VecDeque::new(),
            segment: None,
            next: None,
            stuck_at: None,
            told_from: None,
            buffer: Vec::new(),
        };
        follower.begin()?;
        Ok(follower)
    }

    /// What comes next; `None` when there is nothing new now. Never waits.
    ///
    /// # Errors
    /// The journal cannot be read any longer; it may also be gone.
    pub fn poll(&mut self) -> Result<Option<News>, FollowError> {
        loop {
            if let Some(news) = self.ready.pop_front() {
                return Ok(Some(news));
            }
            if self.segment.is_none() {
                self.begin()?;
                if self.segment.is_none() && self.ready.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            if !self.read_batch()? && !self.look_around()? && self.ready.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Whether batches are there that nothing proves yet, and that were not given. A seal, which says
    /// nothing itself, is none of them.
    pub fn has_unsettled(&self) -> bool {
        let mut held = self.segment.iter().flat_map(|segment| &segment.held);
        held.any(Held::is_new)
    }

    /// The batches that nothing proves yet. [`Follower::poll`] does not give them again, but says so
    /// when they prove never to have been durable.
    pub fn take_unsettled(&mut self) -> Vec<Batch> {
        let held = self
            .segment
            .iter_mut()
            .flat_map(|segment| &mut segment.held);
        let new = held.filter(|held| held.is_new());
        new.map(|held| {
            held.shown = true;
            held.batch.clone()
        })
        .collect()
    }

    /// Enters the oldest segment that can be read; tells of what is lost before it.
    fn begin(&mut self) -> Result<(), ReadError> {
        let mut reader = Reader::open(self.disk.clone())?;
        self.journal = self.journal.or(reader.journal());
        let files = reader.segments().iter();
        let first = files.clone().find(|file| file.header.is_ok());
        let first = first.map(|file| file.number);
        let newest = files.clone().next_back().map(|file| file.number);
        if reader.segments().first().map(|file| file.number) != first && self.stuck_at != newest {
            while let Some(Entry::Gap(gap)) = reader.next().transpose()? {
                self.ready.push_back(News::Gap(gap));
            }
        }
        match first {
            Some(number) => self.enter(number).map(drop),
            None => {
                self.stuck_at = newest;
                Ok(())
            }
        }
    }

    /// Goes on at the begin of a segment; `false` if its header cannot be read (any longer).
    fn enter(&mut self, number: SegmentNumber) -> Result<bool, ReadError> {
        let Some((file, Some(header))) = self.open_segment(number)? else {
            return Ok(false);
        };
        let before: Option<OpeningId> = match &self.segment {
            Some(before) if before.header.number != number => Some(before.header.opening),
            Some(_) | None => self.opening_before(number)?,
        };
        if let Some(first) = self.next.filter(|next| *next < header.first) {
            let last = Lsn(header.first.0 - 1);
            self.ready.push_back(News::LetGo { first, last });
        }
        self.next = Some(header.first);
        self.stuck_at = None;
        self.told_from = None;
        self.segment = Some(Segment {
            file,
            cursor: Cursor::new(&header),
            held: Vec::new(),
            awaits: None,
            begins_opening: before != Some(header.opening),
            is_bad: false,
            looks: 0,
            header,
        });
        Ok(true)
    }

    fn opening_before(&self, number: SegmentNumber) -> Result<Option<OpeningId>, ReadError> {
        let Some(before) = number.0.checked_sub(1).filter(|before| *before > 0) else {
            return Ok(None);
        };
        let found = self.open_segment(SegmentNumber(before))?;
        Ok(found.and_then(|(_, header)| Some(header?.opening)))
    }

    /// A segment's file, and its header if it can be read and is in its place.
    fn open_segment(&self, number: SegmentNumber) -> Result<Option<Found<D::File>>, ReadError> {
        let name = number.file_name();
        let path = self.disk.path().join(&name);
        let file = match self.disk.open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ReadError::io(&path, "open")(error)),
        };
        let mut block = [0; BLOCK_SIZE as usize];
        let count =
            read_full(&self.disk, &file, 0, &mut block).map_err(ReadError::io(&path, "read"))?;
        let length = self.disk.length(&file);
        let length = length.map_err(ReadError::io(&path, "get the length of"))?;
        let header = header_of(&self.disk, &file, number, &block[..count], length).ok();
        Ok(Some((
            file,
            header.filter(|header| header.number == number),
        )))
    }

    /// Reads the next batch, if it is there as a whole. What it proves is ready then.
    fn read_batch(&mut self) -> Result<bool, ReadError> {
        let Some(segment) = &mut self.segment else {
            return Ok(false);
        };
        let Segment {
            file,
            header,
            cursor,
            ..
        } = segment;
        let path = self.disk.path().join(header.number.file_name());
        let at = cursor.at();
        let failed = ReadError::io(&path, "read");
        self.buffer.resize(BLOCK_SIZE as usize, 0);
        let count = match read_full(&self.disk, file, at, &mut self.buffer) {
            Ok(count) => count,
            Err(error) => return Err(failed(error)),
        };
        segment.is_bad = at < header.batches_end() && !is_zero(&self.buffer[..count]);
        if !segment.is_bad {
            segment.looks = 0;
            return Ok(false);
        }
        let found = BatchHeader::decode(&header.salt, header.number, at, &self.buffer[..count]);
        let size = found.map_or(0, |found| usize::try_from(found.size()).unwrap_or(0));
        self.buffer.resize(size, 0);
        let count = match read_full(&self.disk, file, at, &mut self.buffer) {
            Ok(count) => count,
            Err(error) => return Err(failed(error)),
        };
        let Some(whole) = cursor.advance(&self.buffer[..count]) else {
            return Ok(false);
        };
        let held = Held::new(&whole);
        (segment.is_bad, segment.looks) = (false, 0);
        if segment.held.is_empty() && segment.begins_opening {
            segment.begins_opening = false;
            segment.awaits = end_of_checkpoint(&held.batch);
        }
        // Whoever wrote this one knew that the ones before are durable.
        let known = segment.held.last().map(|held| held.batch.header.last());
        if segment.awaits.is_none_or(|awaited| known >= Some(awaited)) {
            segment.awaits = None;
            self.settle();
        }
        if let Some(segment) = &mut self.segment {
            segment.held.push(held);
        }
        Ok(true)
    }

    /// Gives what was held back.
    fn settle(&mut self) {
        let Some(segment) = &mut self.segment else {
            return;
        };
        for Held { batch, gaps, shown } in segment.held.drain(..) {
            self.next = batch.header.last().next();
            if !shown {
                self.ready.push_back(News::Batch(batch));
            }
            self.ready.extend(gaps.into_iter().map(News::Gap));
        }
    }

    /// No batch follows: is it the segment's end, or damage, or another file than it was? `false` when
    /// there is nothing more to be found out now.
    fn look_around(&mut self) -> Result<bool, FollowError> {
        let numbers = self.numbers()?;
        let (Some(newest), Some(segment)) = (numbers.last().copied(), &self.segment) else {
            let directory = self.disk.path().to_path_buf();
            return Err(ReadError::NoJournal { directory }.into());
        };
        let header = segment.header;
        let newer = numbers.iter().find(|number| **number > header.number);
        let Some(&newer) = newer else {
            if newest < header.number {
                return Err(self.replaced());
            }
            return self.look_at_newest(header);
        };
        if self.stuck_at == Some(newest) {
            return Ok(false);
        }
        // What was written before the next segment was made may have come after the last look.
        if self.read_batch()? {
            return Ok(true);
        }
        if !numbers.contains(&header.number) {
            // It was let go, long after it was left.
            self.settle();
            let behind = numbers.iter().filter(|number| **number > header.number);
            for number in behind {
                if self.enter(*number)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        if self.is_closed_by(newer)? {
            self.settle();
            return Ok(self.enter(newer)?);
        }
        self.judge_closed(&header, newest)?;
        Ok(true)
    }

    fn numbers(&self) -> Result<Vec<SegmentNumber>, ReadError> {
        let names = self.disk.list();
        let names = names.map_err(ReadError::io(self.disk.path(), "list"))?;
        let mut numbers: Vec<_> = names
            .iter()
            .filter_map(|name| SegmentNumber::parse(name))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn replaced(&self) -> FollowError {
        FollowError::Replaced {
            directory: self.disk.path().to_path_buf(),
        }
    }

    /// The newest segment has no further batch. Its file may be another one: an opening that died before
    /// its checkpoint was whole leaves its number to the next.
    fn look_at_newest(&mut self, header: SegmentHeader) -> Result<bool, FollowError> {
        let Some((_, Some(found))) = self.open_segment(header.number)? else {
            return Ok(false);
        };
        if found.journal != header.journal {
            return Err(self.replaced());
        }
        if found != header {
            self.next = Some(found.first);
            self.vanish();
            return Ok(self.enter(header.number)?);
        }
        let Some(segment) = &mut self.segment else {
            return Ok(false);
        };
        // A batch that is being written looks damaged for a moment. Damage stays, so that the whole
        // segment is looked at again after ever longer times only.
        segment.looks = segment.looks.saturating_add(u32::from(segment.is_bad));
        if segment.is_bad && segment.looks > 1 && segment.looks.is_power_of_two() {
            self.judge_newest(&header)?;
        }
        Ok(!self.ready.is_empty())
    }

    /// Tells that what was shown of the held batches was never durable, and forgets them.
    fn vanish(&mut self) {
        let held = self
            .segment
            .iter_mut()
            .flat_map(|segment| segment.held.drain(..));
        let shown: Vec<Held> = held.filter(|held| held.shown).collect();
        if let (Some(first), Some(last)) = (shown.first(), shown.last()) {
            let (first, last) = (first.batch.header.first, last.batch.header.last());
            self.ready.push_back(News::Vanished { first, last });
        }
    }

    /// Does that segment tell of just what was read of this one?
    fn is_closed_by(&self, newer: SegmentNumber) -> Result<bool, ReadError> {
        let Some(Segment { header, cursor, .. }) = &self.segment else {
            return Ok(false);
        };
        let end = SegmentEnd {
            number: header.number,
            end: cursor.at(),
            chain: cursor.chain(),
            last: Lsn(cursor.next_lsn().0.saturating_sub(1)),
        };
        let found = self.open_segment(newer)?;
        Ok(found
            .and_then(|(_, found)| found)
            .is_some_and(|found| found.journal == header.journal && found.before == Some(end)))
    }
}

impl Held {
    /// It was not given, and says something.
    fn is_new(&self) -> bool {
        let is_seal = |record: &Decoded| match record {
            Decoded::Known(record) => record.body == RecordBody::Sealed,
            Decoded::Unknown { .. } => false,
        };
        let mut records = self.batch.records.iter();
        !self.shown && !records.all(|placed| is_seal(&placed.record))
    }

    fn new(whole: &WholeBatch<'_>) -> Held {
        let header = whole.header;
        let mut batch = Batch {
            header,
            header_lost: false,
            records: Vec::new(),
            chain: whole.chain,
        };
        let mut gaps = Vec::new();
        for view in whole.records() {
            match view.decode() {
                Ok(record) => batch.records.push(journal_format::batch::Placed {
                    offset: view.offset,
                    record,
                }),
                // The batch is whole, so it was written like this (F9).
                Err(why) => gaps.push(Gap {
                    first: view.lsn,
                    last: view.lsn,
                    segment: header.segment,
                    at: header.offset,
                    until: header.offset + header.size(),
                    why: Cause::Damaged(why),
                }),
            }
        }
        let shown = false;
        Held { batch, gaps, shown }
    }
}

/// Where the checkpoint ends that a batch begins with.
fn end_of_checkpoint(batch: &Batch) -> Option<Lsn> {
    match &batch.records.first()?.record {
        Decoded::Known(record) => match &record.body {
            RecordBody::CheckpointBegun(begun) => {
                batch.header.first.plus(u64::from(begun.records) + 1)
            }
            _ => None,
        },
        Decoded::Unknown { .. } => None,
    }
}

#[cfg(test)]
mod tests;
