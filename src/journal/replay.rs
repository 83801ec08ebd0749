//! Going over a whole journal as fast as it can be read: batches where they lie in memory.
//!
//! Invariant: shows what the iterator of [`Reader`] shows, in the same order; where anything but whole
//! batches is found, the segment is judged as that one judges it. Memory is that of a window, however long
//! the journal is.
//! Not here: what is whole (journal-format), what damage means (`judge`).

use core::ops::ControlFlow;

use journal_format::batch::{BATCH_HEADER_SIZE, BatchHeader, chain_after};
use journal_format::number::Lsn;
use journal_format::segment::{SegmentEnd, SegmentHeader};
use journal_format::whole::{Cursor, WholeBatch};
use journal_format::{BATCH_SIZE_MAX, BLOCK_SIZE, is_zero};

use super::disk::{Disk, read_full};
use super::judge::{before, open};
use super::read::{Ending, Entry, ReadError, Reader, SegmentFile, Walk};

/// Bytes that are read at once: they stay in a processor's cache until they were gone over.
const READ_SIZE: usize = 256 * 1024;
/// Bytes that are held: the largest batch fits.
const WINDOW_SIZE: usize = BATCH_SIZE_MAX as usize + READ_SIZE;

/// What a journal holds, in order.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A whole batch. What its records say, and that their own checksums are right,
    /// [`RecordView::decode`](journal_format::whole::RecordView::decode) tells.
    Batch(&'a WholeBatch<'a>),
    /// A batch, or a gap, of a segment that is not whole to its end.
    Entry(&'a Entry),
}

impl<D: Disk> Reader<D> {
    /// Shows everything that was not read yet, and returns how the journal ends.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn replay(mut self, mut each: impl FnMut(Seen<'_>)) -> Result<Ending, ReadError> {
        // It is never stopped.
        let _ = self.replay_until(|seen| {
            each(seen);
            ControlFlow::Continue(())
        })?;
        Ok(self.walk.ending)
    }

    /// The same until `each` has seen enough. How the journal ends [`Reader::ending`] tells, if everything
    /// was shown.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn replay_until(
        &mut self,
        mut each: impl FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        while let Some(entry) = self.ready.pop() {
            if each(Seen::Entry(&entry)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        replay(&self.disk, &mut self.walk, each)
    }
}

/// Shows the rest of a walk.
pub(super) fn replay<D: Disk>(
    disk: &D,
    walk: &mut Walk,
    each: impl FnMut(Seen<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ReadError> {
    replay_with(disk, walk, &mut Vec::new(), each)
}

/// The same with this window.
pub(super) fn replay_with<D: Disk>(
    disk: &D,
    walk: &mut Walk,
    window: &mut Vec<u8>,
    mut each: impl FnMut(Seen<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ReadError> {
    while !walk.is_done() {
        let (mut shown_until, mut shown_last) = (0, Lsn(0));
        if let Some((file, following)) = walk.next_in_line() {
            match stream(disk, file, following.as_ref(), window, &mut each)? {
                Streamed::Whole(end) => {
                    walk.pass(end);
                    continue;
                }
                Streamed::Until { at, last } => (shown_until, shown_last) = (at, last),
                Streamed::Stopped => return Ok(ControlFlow::Break(())),
            }
        }
        for entry in walk.advance(disk)? {
            let is_shown = match &entry {
                Entry::Batch(batch) => batch.header.offset < shown_until,
                // Of records that do not decode, in a batch that was shown.
                Entry::Gap(gap) => gap.last <= shown_last,
            };
            if !is_shown && each(Seen::Entry(&entry)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// What became of a segment.
pub(super) enum Streamed {
    /// It is whole, and ends there.
    Whole(SegmentEnd),
    /// It was shown up to there: the rest is for the slow way.
    Until {
        /// In bytes from its start.
        at: u64,
        /// The last record.
        last: Lsn,
    },
    /// Whoever is shown it has seen enough.
    Stopped,
}

/// Shows the records of a segment as long as it is whole. `following` is the head of the next readable
/// segment.
pub(super) fn stream<D: Disk>(
    disk: &D,
    file: &SegmentFile,
    following: Option<&SegmentHeader>,
    window: &mut Vec<u8>,
    each: &mut impl FnMut(Seen<'_>) -> ControlFlow<()>,
) -> Result<Streamed, ReadError> {
    const NOTHING: Streamed = Streamed::Until {
        at: 0,
        last: Lsn(0),
    };
    let Ok(header) = file.header else {
        return Ok(NOTHING);
    };
    let (number, length) = (file.number, file.length);
    let known = following.map(|head| head.before.filter(|end| end.number == number));
    let name = number.file_name();
    let path = disk.path().join(&name);
    let Some(file) = open(disk, &name)? else {
        return Ok(NOTHING);
    };
    let read = |at, into: &mut [u8]| {
        read_full(disk, &file, at, into).map_err(ReadError::io(&path, "read"))
    };
    let is_believed = match known {
        None => true,
        Some(None) => false,
        Some(Some(end)) => ends_with(&header, &end, &read)?,
    };
    if !is_believed || length < header.size {
        return Ok(NOTHING);
    }

    let mut cursor = Cursor::new(&header);
    let size = usize::try_from(header.batches_end() - cursor.at()).unwrap_or(usize::MAX);
    let size = size.min(WINDOW_SIZE);
    if window.len() < size {
        window.resize(size, 0);
    }
    // What of the window is filled, and where in the segment it begins.
    let (mut filled, mut begin) = (0, cursor.at());
    let mut is_at_end = false;
    // What lies behind the end that the next segment tells of was never believed (F20).
    let limit = known.flatten().map_or(header.batches_end(), |end| end.end);
    while cursor.at() < limit {
        let at = usize::try_from(cursor.at() - begin).unwrap_or(usize::MAX);
        if let Some(batch) = cursor.advance(&window[at.min(filled)..filled]) {
            match each(Seen::Batch(&batch)) {
                ControlFlow::Continue(()) => continue,
                ControlFlow::Break(()) => return Ok(Streamed::Stopped),
            }
        }
        if is_at_end || filled - at >= BATCH_SIZE_MAX as usize {
            break;
        }
        window.copy_within(at..filled, 0);
        (filled, begin) = (filled - at, cursor.at());
        let left = usize::try_from(header.batches_end() - begin).unwrap_or(usize::MAX);
        let until = size.min(left).min(filled + READ_SIZE);
        let count = read(begin + filled as u64, &mut window[filled..until])?;
        filled += count;
        is_at_end = count == 0 || filled == left;
    }
    let end = SegmentEnd {
        number,
        end: cursor.at(),
        chain: cursor.chain(),
        last: before(cursor.next_lsn()),
    };
    let is_whole = match known {
        // Its writer may have known that more is lost than this file tells (F13, F25).
        Some(known) => {
            known == Some(end) && following.is_some_and(|head| Some(head.first) == end.last.next())
        }
        None => {
            let at = usize::try_from(end.end - begin).unwrap_or(usize::MAX);
            let seen = window.get(at..filled).unwrap_or_default();
            let behind = end.end + seen.len() as u64;
            is_zero(seen) && is_zero_from(&header, behind, window, &read)?
        }
    };
    Ok(match is_whole {
        true => Streamed::Whole(end),
        false => Streamed::Until {
            at: end.end,
            last: end.last,
        },
    })
}

/// Is the last batch that the next segment tells of here? Then all before it is what that one's
/// writer knew: each header holds the chain value of all before.
fn ends_with(
    header: &SegmentHeader,
    end: &SegmentEnd,
    read: &impl Fn(u64, &mut [u8]) -> Result<usize, ReadError>,
) -> Result<bool, ReadError> {
    let first = SegmentHeader::batches_begin();
    if end.end == first {
        return Ok(end.chain == header.chain());
    }
    let block = u64::from(BLOCK_SIZE);
    let furthest = end.end.saturating_sub(u64::from(BATCH_SIZE_MAX)).max(first);
    let mut at = end.end;
    while at >= furthest + block {
        at -= block;
        let mut bytes = [0; BATCH_HEADER_SIZE as usize];
        let count = read(at, &mut bytes)?;
        let found = BatchHeader::decode(&header.salt, header.number, at, &bytes[..count]);
        if found.is_ok_and(|found| at + found.size() == end.end) {
            return Ok(chain_after(&bytes) == end.chain);
        }
    }
    Ok(false)
}

fn is_zero_from(
    header: &SegmentHeader,
    mut at: u64,
    window: &mut [u8],
    read: &impl Fn(u64, &mut [u8]) -> Result<usize, ReadError>,
) -> Result<bool, ReadError> {
    while at < header.batches_end() {
        let left = usize::try_from(header.batches_end() - at).unwrap_or(usize::MAX);
        let until = window.len().min(left);
        let count = read(at, &mut window[..until])?;
        if count == 0 || !is_zero(&window[..count]) {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}
