//! A journal from its end backwards: the last records, or the newest first.
//!
//! Invariant: shows what reading forwards shows, in the opposite order. Names and jobs are known by the
//! records before a record, so that a stretch is read forwards from a checkpoint, and of its records so many
//! are kept as fit into [`WINDOW`]; where more are asked for it is read again.
//! Not here: how they are shown.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use journal_format::batch::{BATCH_HEADER_SIZE, BatchHeader};
use journal_format::number::{BootId, Lsn, SegmentNumber};
use journal_format::record::{RECORD_HEADER_SIZE, RecordBody};
use journal_format::segment::SegmentHeader;
use phase_journal::journal::OsDisk;
use phase_journal::journal::disk::{Disk, read_full};
use phase_journal::journal::read::{Ending, SegmentFile};

use crate::error::ToolError;
use crate::past::{Choose, Item, Past};

/// Items that are kept at once.
const WINDOW: usize = 8192;

/// Where reading may begin as if nothing stood before: the first segment, and those that follow the one before
/// without a gap and begin with a checkpoint. Oldest first.
pub(crate) fn stretches(disk: &OsDisk, files: &[SegmentFile]) -> Vec<SegmentNumber> {
    let mut begins: Vec<SegmentNumber> =
        files.first().map(|file| file.number).into_iter().collect();
    for (before, file) in files.iter().zip(files.iter().skip(1)) {
        let follows = before.header.is_ok() && before.number.next() == Some(file.number);
        let names = file.header.as_ref().ok().and_then(|header| header.before);
        let names = names.is_some_and(|names| names.number == before.number);
        if follows && names && begins_with_checkpoint(disk, file) {
            begins.push(file.number);
        }
    }
    begins
}

/// The last of these stretches that begins at an LSN or before.
pub(crate) fn stretch_of(
    begins: &[SegmentNumber],
    files: &[SegmentFile],
    lsn: Lsn,
) -> Option<SegmentNumber> {
    let first = |number: &SegmentNumber| {
        let file = files.iter().find(|file| file.number == *number)?;
        Some(file.header.as_ref().ok()?.first)
    };
    let mut fitting = begins.iter().rev().copied();
    fitting.find(|number| first(number).is_some_and(|first| first <= lsn))
}

/// The boots that the segments were begun in, oldest first: an opening lives in one.
pub(crate) fn boots(disk: &OsDisk, files: &[SegmentFile]) -> Vec<BootId> {
    let mut boots = Vec::new();
    for file in files {
        if let Some((header, _)) = first_record(disk, file)
            && boots.last() != Some(&header.boot)
        {
            boots.push(header.boot);
        }
    }
    boots
}

fn begins_with_checkpoint(disk: &OsDisk, file: &SegmentFile) -> bool {
    let kind = first_record(disk, file).map(|(_, kind)| kind);
    let mut types = RecordBody::TYPES.iter();
    types.any(|(number, name)| Some(*number) == kind && *name == "checkpoint-begun")
}

/// The header of a segment's first batch, and the type of its first record. What cannot be read here is told
/// of where it is read for its own sake.
fn first_record(disk: &OsDisk, file: &SegmentFile) -> Option<(BatchHeader, u16)> {
    const HEADER: usize = BATCH_HEADER_SIZE as usize;
    let salt = file.header.as_ref().ok()?.salt;
    let at = SegmentHeader::batches_begin();
    let mut bytes = [0; HEADER + RECORD_HEADER_SIZE];
    let opened = disk.open(&file.number.file_name()).ok()?;
    let count = read_full(disk, &opened, at, &mut bytes).ok()?;
    let header = BatchHeader::decode(&salt, file.number, at, &bytes[..count]).ok()?;
    let kind = u16::from_le_bytes([bytes[HEADER + 32], bytes[HEADER + 33]]);
    Some((header, kind))
}

/// Hands what is chosen, and gaps, to `each`, newest first, until that has seen enough. Returns how the
/// journal ends.
pub(crate) fn read(
    disk: &OsDisk,
    choose: &mut impl Choose,
    from: Lsn,
    mut each: impl FnMut(Item) -> Result<ControlFlow<()>, ToolError>,
) -> Result<Ending, ToolError> {
    let files = Past::of(disk.clone())?.segments().to_vec();
    let begins = stretches(disk, &files);
    let oldest = stretch_of(&begins, &files, from);
    let mut behind = None;
    let mut ending = None;
    for begin in begins.into_iter().rev() {
        let mut until = usize::MAX;
        while until > 0 {
            let mut past = Past::of(disk.clone())?.silent();
            past.only(begin, behind);
            let (mut seen, mut kept) = (0, VecDeque::new());
            let stopped = past.read_some(choose, |item| {
                if seen == until {
                    return Ok(ControlFlow::Break(()));
                }
                if !matches!(item, Item::Batch(..)) {
                    seen += 1;
                    if kept.len() == WINDOW {
                        kept.pop_front();
                    }
                    kept.push_back(item);
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if stopped.is_continue() && behind.is_none() {
                ending.get_or_insert(past.ending());
            }
            until = seen - kept.len();
            for item in kept.into_iter().rev() {
                if each(item)?.is_break() {
                    return Ok(ending.unwrap_or(Ending::Clean));
                }
            }
        }
        behind = Some(begin);
        if Some(begin) == oldest {
            break;
        }
    }
    Ok(ending.unwrap_or(Ending::Clean))
}
