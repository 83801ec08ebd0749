//! What a journal holds that is to be opened: its last state, how it ended, where to go on.
//! Invariant: what comes next is behind everything that was, or may have been, acknowledged.
//! Not here: the lock and the witness (`open`), how damage is judged (`read`).

use core::ops::ControlFlow;
use std::collections::BTreeMap;

use journal_format::error::FormatError;
use journal_format::number::{DomainId, Epoch, JournalId, Lsn, SegmentNumber};
use journal_format::record::{Decoded, Opening, Record, RecordBody};
use journal_format::segment::SegmentHeader;

use super::checkpoint::CheckpointFinder;
use super::disk::Disk;
use super::error::OpenError;
use super::judge::{SegmentFile, list_segments, load, settle};
use super::log::Start;
use super::open::{OpenOptions, Past};
use super::read::{Cause, Ending, Entry, Gap, Walk};
use super::replay::{Seen, Streamed, replay_with, stream};
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
    pub(super) ending: Ending,
    /// The last openings, one after the other, that have a single segment.
    pub(super) short_openings: usize,
    pub(super) start: Start,
}

/// Looks at what there is, and tells what the last whole checkpoint says and everything after it,
/// oldest first.
pub(super) fn survey<D: Disk>(
    disk: &D,
    options: &OpenOptions,
    each: &mut impl FnMut(Past),
) -> Result<Survey, OpenError> {
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
    // One for all that is read.
    let mut window = Vec::new();
    let newest = Glance::at_newest(disk, &files, &mut window)?;
    let stillborn = take_stillborn(&mut files, newest.as_ref());
    let newest = newest.filter(|_| stillborn.is_none());
    let checkpoint = find_checkpoint(disk, &files, stillborn.as_ref(), newest, &mut window)?;

    let mut walk = Walk::new(files.clone(), stillborn);
    if let Some((segment, _)) = checkpoint {
        walk.skip_to(segment);
    }
    let mut teller = Teller {
        disk,
        from: checkpoint.map(|(_, lsn)| lsn),
        openings: None,
        previous: BTreeMap::new(),
        held: Vec::new(),
        gaps: Vec::new(),
        older: None,
        failed: None,
        each,
    };
    // It is never stopped.
    let _ = replay_with(disk, &mut walk, &mut window, |seen| {
        teller.see(&seen);
        ControlFlow::Continue(())
    })?;
    teller.flush();
    let Teller {
        openings,
        previous,
        older,
        failed,
        ..
    } = teller;
    if let Some(error) = failed {
        return Err(error);
    }
    let mut openings = all_openings(openings.unwrap_or_default(), &files);
    // It had accepted an older copy: the opening before ends with that (F25).
    if let (Some(head), Some(first)) = (stillborn, older) {
        openings.push(Opening {
            epoch: head.epoch,
            opening: head.opening,
            first,
        });
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
        ending: walk.ending,
        short_openings: short_openings(&files),
        start,
    })
}

/// What the last writer wrote may be in the page cache only. It is believed from here on, so that it
/// must not go with the next power failure: either it is on the disk now, or it is not read any more.
fn sync_newest<D: Disk>(disk: &D, files: &[SegmentFile]) -> Result<(), OpenError> {
    let Some(newest) = files.last() else {
        return Ok(());
    };
    let name = newest.number.file_name();
    let path = disk.path().join(&name);
    let file = disk.open(&name).map_err(OpenError::io(&path, "open"))?;
    disk.sync_and_forget_cache(&file)
        .map_err(OpenError::io(&path, "sync"))
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

/// What is to be known of a segment before its records are told.
struct Glance {
    /// The head of its last whole checkpoint.
    checkpoint: Option<Lsn>,
    is_damaged: bool,
}

impl Glance {
    /// `None`: the file is gone, or has no header.
    fn at<D: Disk>(
        disk: &D,
        file: &SegmentFile,
        following: Option<&SegmentHeader>,
        window: &mut Vec<u8>,
    ) -> Result<Option<Glance>, OpenError> {
        let mut finder = CheckpointFinder::default();
        let streamed = stream(disk, file, following, window, &mut |seen| {
            finder.see(&seen);
            ControlFlow::Continue(())
        })?;
        if let Streamed::Whole(_) = streamed {
            return Ok(Some(Glance {
                checkpoint: finder.whole(),
                is_damaged: false,
            }));
        }
        let Some(loaded) = load(disk, file.number, following)? else {
            return Ok(None);
        };
        let settled = settle(loaded, following);
        let mut finder = CheckpointFinder::default();
        let mut is_damaged = settled.ending == Ending::Damaged;
        for entry in &settled.entries {
            is_damaged |= matches!(entry, Entry::Gap(_));
            finder.see_entry(entry);
        }
        Ok(Some(Glance {
            checkpoint: finder.whole(),
            is_damaged,
        }))
    }

    fn at_newest<D: Disk>(
        disk: &D,
        files: &[SegmentFile],
        window: &mut Vec<u8>,
    ) -> Result<Option<Glance>, OpenError> {
        match files.last() {
            Some(newest) => Glance::at(disk, newest, None, window),
            None => Ok(None),
        }
    }
}

/// Takes the newest segment out if its opening died before its first checkpoint was durable. Nobody
/// has learnt anything of that opening, and the next one may take the segment's place: so that a
/// sidecar that dies at its start again and again does not fill the disk.
fn take_stillborn(files: &mut Vec<SegmentFile>, newest: Option<&Glance>) -> Option<SegmentHeader> {
    let head = *files.last()?.header.as_ref().ok()?;
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
    let is_stillborn = begins_opening
        && newest.is_some_and(|glance| !glance.is_damaged && glance.checkpoint.is_none());
    if !is_stillborn {
        return None;
    }
    files.pop();
    Some(head)
}

/// The newest whole checkpoint: its segment and the LSN of its head. `following` is the head of the
/// segment behind the files, `newest` what is known of the last of them.
fn find_checkpoint<D: Disk>(
    disk: &D,
    files: &[SegmentFile],
    following: Option<&SegmentHeader>,
    mut newest: Option<Glance>,
    window: &mut Vec<u8>,
) -> Result<Option<(SegmentNumber, Lsn)>, OpenError> {
    let mut following = following.copied();
    for file in files.iter().rev() {
        let known = newest.take();
        let Ok(head) = &file.header else {
            continue;
        };
        let glance = match known {
            Some(glance) => Some(glance),
            None => Glance::at(disk, file, following.as_ref(), window)?,
        };
        if let Some(lsn) = glance.and_then(|glance| glance.checkpoint) {
            return Ok(Some((file.number, lsn)));
        }
        following = Some(*head);
    }
    Ok(None)
}

/// Tells the records and gaps from the checkpoint's head on; all there are if there is none.
struct Teller<'a, D: Disk, F> {
    disk: &'a D,
    from: Option<Lsn>,
    /// Those that the checkpoint names; known when the first was told.
    openings: Option<Vec<Opening>>,
    /// The last record of each domain.
    previous: BTreeMap<DomainId, Lsn>,
    /// A batch of a segment that is not whole. The gaps inside it come behind it, and are told in their
    /// places: what is told behind a gap says which domains it does not concern (P6).
    held: Vec<(Decoded, SegmentNumber)>,
    gaps: Vec<Gap>,
    /// Where the gap at the end begins that an accepted older copy left.
    older: Option<Lsn>,
    /// Why nothing more is told.
    failed: Option<OpenError>,
    each: &'a mut F,
}

impl<D: Disk, F: FnMut(Past)> Teller<'_, D, F> {
    fn see(&mut self, seen: &Seen<'_>) {
        let from = self.from.unwrap_or(Lsn::FIRST);
        match seen {
            Seen::Batch(batch) => {
                self.flush();
                let segment = batch.header.segment;
                for view in batch.records().filter(|view| view.lsn >= from) {
                    match view.decode() {
                        Ok(record) => self.tell_record(record, segment),
                        // The batch is whole, so it was written like this (F9).
                        Err(why) => self.tell(Past::Gap(Gap {
                            first: view.lsn,
                            last: view.lsn,
                            segment,
                            at: view.offset,
                            until: view.end(),
                            why: Cause::Damaged(why),
                        })),
                    }
                }
            }
            Seen::Entry(Entry::Gap(gap)) if gap.last >= from => self.gaps.push(gap.clone()),
            Seen::Entry(Entry::Gap(_)) => {}
            Seen::Entry(Entry::Batch(batch)) => {
                self.flush();
                let records = batch.records.iter().map(|placed| &placed.record);
                let told = records.filter(|record| record.lsn() >= from);
                let segment = batch.header.segment;
                self.held.extend(told.cloned().map(|one| (one, segment)));
            }
        }
    }

    /// Tells what is held back.
    fn flush(&mut self) {
        let mut gaps = core::mem::take(&mut self.gaps);
        gaps.sort_by_key(|gap| gap.first);
        let mut gaps = gaps.into_iter().peekable();
        for (record, segment) in core::mem::take(&mut self.held) {
            while let Some(gap) = gaps.next_if(|gap| gap.first <= record.lsn()) {
                self.tell(Past::Gap(gap));
            }
            self.tell_record(record, segment);
        }
        gaps.for_each(|gap| self.tell(Past::Gap(gap)));
    }

    fn tell_record(&mut self, record: Decoded, segment: SegmentNumber) {
        match record {
            Decoded::Known(record) => self.tell(Past::Record(record)),
            Decoded::Unknown {
                lsn, kind, version, ..
            } => {
                let file = self.disk.path().join(segment.file_name());
                self.failed.get_or_insert(OpenError::NewerRecord {
                    file,
                    lsn,
                    kind,
                    version,
                });
            }
        }
    }

    fn tell(&mut self, past: Past) {
        if self.openings.is_none() {
            self.openings = Some(openings_named(&past));
            if self.from.is_none()
                && let Some(gap) = lost_beginning(&past)
            {
                (self.each)(Past::Gap(gap));
            }
        }
        self.older = match &past {
            Past::Gap(gap) if gap.why == Cause::Older => Some(gap.first),
            Past::Gap(_) | Past::Record(_) => None,
        };
        if let Past::Record(Record {
            lsn,
            domain: Some(domain),
            ..
        }) = &past
        {
            self.previous.insert(*domain, *lsn);
        }
        if self.failed.is_none() {
            (self.each)(past);
        }
    }
}

/// Without a checkpoint, everything before the first record is unknown.
fn lost_beginning(first: &Past) -> Option<Gap> {
    let Past::Record(record) = first else {
        return None;
    };
    // A segment that was taken out by hand leaves its number and nothing else.
    let last = record.lsn.0.checked_sub(1).filter(|last| *last > 0)?;
    Some(Gap {
        first: Lsn::FIRST,
        last: Lsn(last),
        segment: SegmentNumber::FIRST,
        at: 0,
        until: 0,
        why: Cause::NoCheckpoint,
    })
}

/// The openings that the checkpoint tells of which all begins with.
fn openings_named(first: &Past) -> Vec<Opening> {
    match first {
        Past::Record(Record {
            body: RecordBody::CheckpointBegun(begun),
            ..
        }) => begun.openings.clone(),
        Past::Record(_) | Past::Gap(_) => Vec::new(),
    }
}

/// Those that the checkpoint names, and those since whose own checkpoint is damaged.
fn all_openings(mut openings: Vec<Opening>, files: &[SegmentFile]) -> Vec<Opening> {
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
            find_checkpoint(disk, &files[..older], following, None, &mut Vec::new())
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
