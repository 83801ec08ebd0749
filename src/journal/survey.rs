//! What a journal holds that is to be opened: its last state, how it ended, where to go on.
//! Invariant: what comes next is behind everything that was, or may have been, acknowledged.
//! Not here: the lock and the witness (`open`), how damage is judged (`read`).

use std::collections::BTreeMap;

use journal_format::error::FormatError;
use journal_format::number::{DomainId, Epoch, JournalId, Lsn, SegmentNumber};
use journal_format::record::{Decoded, Opening, Record, RecordBody};
use journal_format::segment::SegmentHeader;

use super::disk::Disk;
use super::error::OpenError;
use super::judge::{SegmentFile, Settled, list_segments, load, settle, whole_checkpoint};
use super::log::Start;
use super::open::{OpenOptions, Past};
use super::read::{Cause, Ending, Entry, Gap, Walk};
use super::segments::Kept;

/// What is in a journal.
pub(super) struct Survey {
    /// `None`: there is none yet.
    pub(super) journal: Option<JournalId>,
    /// The LSN after all that was, or may have been, acknowledged.
    pub(super) next: Lsn,
    /// The last epoch that may have been used.
    pub(super) epoch: Epoch,
    pub(super) openings: Vec<Opening>,
    pub(super) history: Vec<Past>,
    pub(super) ending: Ending,
    /// The last openings, one after the other, that have a single segment.
    pub(super) short_openings: usize,
    pub(super) start: Start,
}

pub(super) fn survey<D: Disk>(disk: &D, options: &OpenOptions) -> Result<Survey, OpenError> {
    let mut files = list_segments(disk)?;
    sync_newest(disk, &files)?;
    refuse_foreign(disk, &files, options)?;
    let epoch = last_epoch(&files);
    let journal = files
        .iter()
        .find_map(|file| file.header.as_ref().ok())
        .map(|head| head.journal);
    // Segments get their names only when their header is durable: where not one can be read, there
    // is no telling whose directory this is, and nothing is begun in it.
    if journal.is_none()
        && let Some(SegmentFile {
            number,
            header: Err(why),
            ..
        }) = files.first()
    {
        return Err(OpenError::NoReadableSegment {
            file: disk.path().join(number.file_name()),
            why: why.clone(),
        });
    }
    let mut settled = BTreeMap::new();
    let stillborn = take_stillborn(disk, &mut files, &mut settled)?;
    let checkpoint = find_checkpoint(disk, &files, stillborn.as_ref(), &mut settled)?;

    let mut walk = Walk::new(files.clone(), stillborn, settled);
    if let Some((segment, _)) = checkpoint {
        walk.skip_to(segment);
    }
    let mut entries = Vec::new();
    while !walk.is_done() {
        entries.extend(walk.advance(disk)?);
    }
    let from = checkpoint.map(|(_, lsn)| lsn);
    let history = history(disk, entries, from)?;
    let openings = openings(&history, &files);
    let mut previous: BTreeMap<DomainId, Lsn> = BTreeMap::new();
    for past in &history {
        if let Past::Record(Record {
            lsn,
            domain: Some(domain),
            ..
        }) = past
        {
            previous.insert(*domain, *lsn);
        }
    }
    let next = match (stillborn, files.is_empty()) {
        (Some(head), _) => head.first,
        (None, true) => Lsn::FIRST,
        (None, false) => walk.expected.ok_or(OpenError::NumbersUsedUp)?,
    };
    let number = match (stillborn, files.last()) {
        (Some(head), _) => head.number,
        (None, None) => SegmentNumber::FIRST,
        (None, Some(file)) => file.number.next().ok_or(OpenError::NumbersUsedUp)?,
    };
    let before = stillborn.map_or(walk.end, |head| head.before);
    let kept = kept(&files, checkpoint.map(|(segment, _)| segment));
    let start = Start {
        number,
        before,
        kept,
        previous,
        spares: Vec::new(),
        first_size: options.first_segment_size,
    };
    Ok(Survey {
        journal,
        next,
        epoch,
        openings,
        history,
        ending: walk.ending,
        short_openings: short_openings(&files),
        start,
    })
}

/// What the last writer wrote may be in the page cache only. It is believed from here on, so that it
/// must not go with the next power failure.
fn sync_newest<D: Disk>(disk: &D, files: &[SegmentFile]) -> Result<(), OpenError> {
    let Some(newest) = files.last() else {
        return Ok(());
    };
    let name = newest.number.file_name();
    let path = disk.path().join(&name);
    let file = disk.open(&name).map_err(OpenError::io(&path, "open"))?;
    disk.sync(&file).map_err(OpenError::io(&path, "sync"))
}

/// A file from elsewhere is somebody's mistake, which is to be mended by hand: going on beside it
/// could lose what it replaced.
fn refuse_foreign<D: Disk>(
    disk: &D,
    files: &[SegmentFile],
    options: &OpenOptions,
) -> Result<(), OpenError> {
    for file in files {
        let path = disk.path().join(file.number.file_name());
        match &file.header {
            Err(why @ (Cause::OtherJournal(_) | Cause::OtherNumber(_))) => {
                return Err(OpenError::ForeignSegment {
                    file: path,
                    why: why.clone(),
                });
            }
            Err(Cause::Damaged(FormatError::Version { found })) => {
                return Err(OpenError::NewerFormat {
                    file: path,
                    version: *found,
                });
            }
            // A gap; the walk tells of it.
            Err(_) => {}
            Ok(head) if head.host != options.host && !options.accept_older => {
                let directory = disk.path().to_path_buf();
                return Err(OpenError::OtherHost {
                    directory,
                    host: head.host,
                });
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// The last epoch that may have been used: one more for each segment behind the last known one whose
/// head cannot be read, since it may have been the first of an opening.
fn last_epoch(files: &[SegmentFile]) -> Epoch {
    let mut last = Epoch(0);
    for file in files {
        last = match &file.header {
            Ok(head) => head.epoch.max(last),
            Err(_) => Epoch(last.0.saturating_add(1)),
        };
    }
    last
}

/// Takes the newest segment out if its opening died before its first checkpoint was durable. Nobody
/// has learnt anything of that opening, and the next one may take the segment's place: so that a
/// sidecar that dies at its start again and again does not fill the disk.
fn take_stillborn<D: Disk>(
    disk: &D,
    files: &mut Vec<SegmentFile>,
    settled: &mut BTreeMap<SegmentNumber, Settled>,
) -> Result<Option<SegmentHeader>, OpenError> {
    let Some(SegmentFile {
        header: Ok(head), ..
    }) = files.last()
    else {
        return Ok(None);
    };
    let begins_opening = match (
        files.len().checked_sub(2).map(|index| &files[index]),
        head.before,
    ) {
        (None, None) => true,
        (
            Some(SegmentFile {
                header: Ok(before), ..
            }),
            Some(end),
        ) => before.opening != head.opening && before.number == end.number,
        (
            Some(SegmentFile {
                header: Err(_),
                number,
                ..
            }),
            Some(end),
        ) => {
            // Written by an opening that found that head damaged, or damaged since.
            end.number == *number && end.end == 0
        }
        (None, Some(_)) | (Some(_), None) => false,
    };
    if !begins_opening {
        return Ok(None);
    }
    let head = *head;
    let Some(newest) = load(disk, head.number, None)? else {
        return Ok(None);
    };
    let newest = settle(newest, None);
    let has_gap = newest
        .entries
        .iter()
        .any(|entry| matches!(entry, Entry::Gap(_)));
    let is_damaged = has_gap || newest.ending == Ending::Damaged;
    if is_damaged || whole_checkpoint(&newest.entries).is_some() {
        settled.insert(head.number, newest);
        return Ok(None);
    }
    files.pop();
    Ok(Some(head))
}

/// The newest whole checkpoint: its segment and the LSN of its head. `following` is the head of the
/// segment behind the files; what is read is left in `settled`.
fn find_checkpoint<D: Disk>(
    disk: &D,
    files: &[SegmentFile],
    following: Option<&SegmentHeader>,
    settled: &mut BTreeMap<SegmentNumber, Settled>,
) -> Result<Option<(SegmentNumber, Lsn)>, OpenError> {
    let mut following = following.copied();
    for file in files.iter().rev() {
        let Ok(head) = &file.header else {
            continue;
        };
        if !settled.contains_key(&file.number)
            && let Some(segment) = load(disk, file.number, following.as_ref())?
        {
            settled.insert(file.number, settle(segment, following.as_ref()));
        }
        if let Some(segment) = settled.get(&file.number)
            && let Some(lsn) = whole_checkpoint(&segment.entries)
        {
            return Ok(Some((file.number, lsn)));
        }
        following = Some(*head);
    }
    Ok(None)
}

/// The records and gaps from the checkpoint's head on; all there are if there is none.
fn history<D: Disk>(
    disk: &D,
    entries: Vec<Entry>,
    checkpoint: Option<Lsn>,
) -> Result<Vec<Past>, OpenError> {
    let from = checkpoint.unwrap_or(Lsn::FIRST);
    let mut history = Vec::new();
    for entry in entries {
        match entry {
            Entry::Gap(gap) if gap.last >= from => history.push(Past::Gap(gap)),
            Entry::Gap(_) => {}
            Entry::Batch(batch) => {
                let number = batch.header.segment;
                for placed in batch.records {
                    match placed.record {
                        Decoded::Known(record) if record.lsn >= from => {
                            history.push(Past::Record(record));
                        }
                        Decoded::Known(_) => {}
                        Decoded::Unknown { lsn, .. } if lsn < from => {}
                        Decoded::Unknown {
                            lsn, kind, version, ..
                        } => {
                            let file = disk.path().join(number.file_name());
                            return Err(OpenError::NewerRecord {
                                file,
                                lsn,
                                kind,
                                version,
                            });
                        }
                    }
                }
            }
        }
    }
    if checkpoint.is_none() {
        add_lost_beginning(&mut history);
    }
    Ok(history)
}

/// Without a checkpoint, everything before the first record is unknown.
fn add_lost_beginning(history: &mut Vec<Past>) {
    let Some(Past::Record(record)) = history.first() else {
        return;
    };
    // A segment that was taken out by hand leaves its number and nothing else.
    let Some(last) = record.lsn.0.checked_sub(1).filter(|last| *last > 0) else {
        return;
    };
    let segment = SegmentNumber::FIRST;
    let (first, last, why) = (Lsn::FIRST, Lsn(last), Cause::NoCheckpoint);
    history.insert(
        0,
        Past::Gap(Gap {
            first,
            last,
            segment,
            at: 0,
            until: 0,
            why,
        }),
    );
}

/// The openings that the checkpoint tells of, and those since whose own checkpoint is damaged.
fn openings(history: &[Past], files: &[SegmentFile]) -> Vec<Opening> {
    let mut openings = match history.first() {
        Some(Past::Record(Record {
            body: RecordBody::CheckpointBegun(begun),
            ..
        })) => begun.openings.clone(),
        Some(Past::Record(_) | Past::Gap(_)) | None => Vec::new(),
    };
    for head in files.iter().filter_map(|file| file.header.as_ref().ok()) {
        if openings.last().is_none_or(|last| last.epoch < head.epoch) {
            let SegmentHeader {
                epoch,
                opening,
                first,
                ..
            } = *head;
            openings.push(Opening {
                epoch,
                opening,
                first,
            });
        }
    }
    openings
}

/// How many of the last segments are each the only one of their opening.
fn short_openings(files: &[SegmentFile]) -> usize {
    let opening = |file: &SegmentFile| file.header.as_ref().ok().map(|head| head.opening);
    let pairs = files.iter().zip(files.iter().skip(1)).rev();
    pairs
        .take_while(|(before, file)| opening(before) != opening(file))
        .count()
}

/// What is known of the segments that are there.
fn kept(files: &[SegmentFile], checkpoint: Option<SegmentNumber>) -> Vec<Kept> {
    let kept = |file: &SegmentFile| Kept {
        number: file.number,
        first: file.header.as_ref().ok().map(|head| head.first),
        begun: file.begun,
        size: file.length,
        checkpoint: checkpoint == Some(file.number),
    };
    files.iter().map(kept).collect()
}

/// Looks for the last whole checkpoint but one, and marks it in `kept`: an opening reads one segment
/// only, so that this is done when segments are to go.
pub(super) fn mark_older_checkpoint<D: Disk>(disk: &D, kept: &mut [Kept]) {
    let Some(newest) = kept.iter().position(|kept| kept.checkpoint) else {
        return;
    };
    let number = kept[newest].number;
    let found = list_segments(disk)
        .map_err(OpenError::from)
        .and_then(|files| {
            let older = files.partition_point(|file| file.number < number);
            let following = files.get(older).and_then(|file| file.header.as_ref().ok());
            find_checkpoint(disk, &files[..older], following, &mut BTreeMap::new())
        });
    match found {
        Ok(Some((segment, _))) => {
            let older = kept.iter_mut().find(|kept| kept.number == segment);
            older.into_iter().for_each(|kept| kept.checkpoint = true);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "old segments stay"),
    }
}
