//! Appending: records become durable, one batch with one write and one sync at a time.
//! Invariant: a [`Durable`] is made only after its batch, and all before it, were written whole and
//! synced and the witness knows; after a failed write or sync nothing is acknowledged again.
//! Not here: finding out what a journal holds (`open`), when a checkpoint is due (the node).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use journal_format::SEGMENT_SIZE_MIN;
use journal_format::number::{DomainId, HostId, JournalId, Lsn, Position, Salt, SegmentNumber};
use journal_format::record::{Draft, Opening, RecordBody};
use journal_format::segment::{SegmentEnd, SegmentHeader};

use super::Durable;
use super::disk::{Disk, IoMode};
use super::error::{AppendError, Poison};
use super::layout::{At, Batches, Identity, Timestamps, size_for};
use super::segments::{self, CreateError, Kept, Retention, Wanted, short_write};
use super::spares::{SPARES, SpareMaker, Spares};
use super::survey;
use super::witness::{Testimony, Witness, WitnessError};

/// The whole state, restated, and what of the past must stay beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// `checkpoint-begun` with the count and the openings, the current one last; the state;
    /// `checkpoint-ended`.
    pub drafts: Vec<Draft>,
    /// The oldest record outside the checkpoint that is still needed: the first one of the open
    /// jobs and of what the checkpoint refers to. `None`: the checkpoint says everything.
    pub needed_from: Option<Lsn>,
}

/// What a journal is, for `query-journal` and logs.
#[derive(Clone, Debug)]
pub struct Status {
    /// The journal.
    pub journal: JournalId,
    /// The host it was made on.
    pub host: HostId,
    /// This opening of it.
    pub opening: Opening,
    /// The last durable record.
    pub last: Lsn,
    /// Its directory.
    pub directory: PathBuf,
    /// The segment that is written.
    pub segment: SegmentNumber,
    /// Where the next batch goes, in bytes.
    pub segment_end: u64,
    /// The segment's size in bytes.
    pub segment_size: u64,
    /// How many segments there are.
    pub segments: u64,
    /// How many spare segments are ready.
    pub spares: u64,
    /// How bytes become durable.
    pub io: IoMode,
    /// Why it takes nothing any more.
    pub poisoned: Option<Arc<Poison>>,
}

/// Spares that only recovery may enter.
const LEFT_TO_RECOVERY: usize = 1;

/// A segment with less room than this, in bytes, is left in a quiet moment: enough for the records of
/// a switchover.
const ROOM_TO_ROLL_MAX: u64 = 2 * 1024 * 1024;

/// A segment with less room than this is left even if no spare is ready.
const ROOM_TO_ROLL_MIN: u64 = 1024 * 1024;

/// The segment that is written.
#[derive(Debug)]
struct Segment<F> {
    file: F,
    header: SegmentHeader,
    at: At,
}

/// Where a log goes on: after what an opening has found.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// The number of the next segment.
    pub(super) number: SegmentNumber,
    /// The end of the segment before it.
    pub(super) before: Option<SegmentEnd>,
    /// The segments that are there.
    pub(super) kept: Vec<Kept>,
    /// The last record of each domain.
    pub(super) previous: BTreeMap<DomainId, Lsn>,
    /// Files that were to become segments.
    pub(super) spares: Vec<String>,
    /// The size of the opening's first segment in bytes.
    pub(super) first_size: u64,
}

/// A journal that is open for writing. One owner; whoever holds it is the only writer.
#[derive(Debug)]
pub struct Log<D: Disk> {
    disk: D,
    /// Held as long as the log lives.
    _lock: D::File,
    witness: Option<Witness<D>>,
    identity: Identity,
    segment: Segment<D::File>,
    /// The last record of each domain.
    previous: BTreeMap<DomainId, Lsn>,
    kept: Vec<Kept>,
    spares: Spares<D::File>,
    batches: Batches,
    poison: Option<Arc<Poison>>,
}

impl<D: Disk> Log<D> {
    /// Begins a segment with a checkpoint: the first of an opening.
    pub(super) fn begin(
        disk: D,
        lock: D::File,
        witness: Option<Witness<D>>,
        identity: Identity,
        start: Start,
        checkpoint: &Checkpoint,
        now: Timestamps,
    ) -> Result<Log<D>, AppendError> {
        check_checkpoint(checkpoint, &identity.opening)?;
        let spares = Spares::new(identity.segment_size, start.spares.clone());
        let mut beginning = Beginning {
            disk: &disk,
            identity: &identity,
            previous: start.previous.clone(),
            batches: Batches::default(),
            drafts: &checkpoint.drafts,
            now,
        };
        let mut kept = start.kept.clone();
        let wanted = wanted(&identity, checkpoint, now);
        // A sidecar that dies before it comes to do so afterwards must not fill the disk.
        if segments::is_over(&kept, &wanted) {
            survey::mark_older_checkpoint(&disk, &mut kept);
            segments::retire(&disk, &mut kept, &wanted, &spares);
        }
        let needed_from = checkpoint.needed_from;
        let segment = beginning.first_segment(&start, &mut kept, &spares, needed_from)?;
        let Beginning {
            previous, batches, ..
        } = beginning;
        let mut log = Log {
            disk,
            _lock: lock,
            witness,
            identity,
            segment,
            previous,
            kept,
            spares,
            batches,
            poison: None,
        };
        log.keep_current(true, now);
        log.write()?;
        let testimony = log.testimony();
        if let Some(Err(error)) = log
            .witness
            .as_mut()
            .map(|witness| witness.begin(&testimony))
        {
            return Err(log.poison_by_witness(&error));
        }
        log.retire(checkpoint, now);
        Ok(log)
    }

    /// Makes the records durable as one batch, with one write and one sync, and gives `value` back
    /// as durable. Nothing to write makes it durable at once: all before it already is.
    ///
    /// Records beyond the size of a batch become several; `value` is durable after the last. When
    /// the segment is full and nobody rolled, a segment without a checkpoint is begun.
    ///
    /// # Errors
    /// After [`AppendError::Poisoned`] nothing is known of these records: they may be found when
    /// the journal is opened again, or not. After the other errors they are not there.
    pub fn append<T>(
        &mut self,
        drafts: &[Draft],
        now: Timestamps,
        value: T,
    ) -> Result<Durable<T>, AppendError> {
        self.check_poison()?;
        if drafts.is_empty() {
            return Ok(Durable::new(value));
        }
        let Segment { header, at, .. } = &self.segment;
        let (identity, previous) = (&self.identity, &mut self.previous);
        self.batches
            .lay_out(identity, header, *at, previous, drafts, now)?;
        if self.batches.length() <= self.room() {
            self.write()?;
        } else {
            self.batches.take_back(&mut self.previous);
            self.append_to_new_segment(drafts, now)?;
        }
        self.bear_witness()?;
        Ok(Durable::new(value))
    }

    /// Sees to it that there is a segment to roll into, so that no checkpoint is made in vain: its
    /// records would have to go where there is no room to spare.
    ///
    /// # Errors
    /// [`AppendError::NoSegment`]: there is no room. The log goes on in the segment it has.
    pub fn prepare_roll(&mut self) -> Result<(), AppendError> {
        self.check_poison()?;
        self.spares.set_aside(&self.disk, LEFT_TO_RECOVERY)
    }

    /// Begins a new segment with a checkpoint, and lets old segments go.
    ///
    /// # Errors
    /// After [`AppendError::NoSegment`] the log goes on in the segment it has.
    pub fn roll(&mut self, checkpoint: &Checkpoint, now: Timestamps) -> Result<(), AppendError> {
        self.check_poison()?;
        check_checkpoint(checkpoint, &self.identity.opening)?;
        self.enter_segment(&checkpoint.drafts, now, LEFT_TO_RECOVERY)?;
        self.keep_current(true, now);
        self.forget_removed_domains(&checkpoint.drafts);
        self.bear_witness()?;
        self.retire(checkpoint, now);
        Ok(())
    }

    /// Whether the segment is so full that the next quiet moment should be used to roll: what is left
    /// must last for a switchover, during which nobody rolls.
    pub fn must_roll(&self) -> bool {
        let size = self.segment.header.size;
        let (soon, now) = (
            (size / 2).min(ROOM_TO_ROLL_MAX),
            (size / 4).min(ROOM_TO_ROLL_MIN),
        );
        match self.spares.is_any(LEFT_TO_RECOVERY) {
            true => self.room() < soon,
            // One may be ready in a moment.
            false => self.room() < now,
        }
    }

    /// Makes spare segments, for a thread of its own. Until it runs they are made when needed.
    pub fn spare_maker(&self) -> SpareMaker<D>
    where
        D: Clone,
    {
        self.spares.maker(self.disk.clone())
    }

    /// Sees to it that a spare segment is ready, so that what a job asks for later can be written
    /// whatever happens to the disk's free space. If `may_wait`, waits a moment for one that is being
    /// made.
    ///
    /// # Errors
    /// [`AppendError::NoSegment`]: there is no room. The log goes on in the segment it has.
    pub fn reserve(&mut self, may_wait: bool) -> Result<(), AppendError> {
        self.check_poison()?;
        self.spares.ensure_one(&self.disk, may_wait)
    }

    /// The LSN that the next record gets.
    pub fn next_lsn(&self) -> Lsn {
        self.segment.at.next
    }

    /// The last durable record: where this journal stands, to be told to others.
    pub fn position(&self) -> Position {
        let Opening {
            epoch,
            opening,
            first: _,
        } = self.identity.opening;
        // A log begins with a checkpoint, so there is a record before the next.
        let lsn = Lsn(self.segment.at.next.0.saturating_sub(1));
        Position {
            journal: self.identity.journal,
            epoch,
            opening,
            lsn,
        }
    }

    /// Why nothing becomes durable any more, if so.
    pub fn poisoned(&self) -> Option<&Arc<Poison>> {
        self.poison.as_ref()
    }

    /// What this journal is and how it stands.
    pub fn status(&self) -> Status {
        Status {
            journal: self.identity.journal,
            host: self.identity.host,
            opening: self.identity.opening,
            last: self.position().lsn,
            directory: self.disk.path().to_path_buf(),
            segment: self.segment.header.number,
            segment_end: self.segment.at.end,
            segment_size: self.segment.header.size,
            segments: self.kept.len() as u64,
            spares: self.spares.count(),
            io: self.disk.io_mode(),
            poisoned: self.poison.clone(),
        }
    }

    fn check_poison(&self) -> Result<(), AppendError> {
        match &self.poison {
            Some(poison) => Err(AppendError::Poisoned(Arc::clone(poison))),
            None => Ok(()),
        }
    }

    fn poison(&mut self, poison: Poison) -> AppendError {
        tracing::error!(cause = %poison, "the journal takes nothing any more");
        let poison = self.poison.get_or_insert(Arc::new(poison));
        AppendError::Poisoned(Arc::clone(poison))
    }

    /// Bytes left in the segment.
    fn room(&self) -> u64 {
        self.segment.header.batches_end() - self.segment.at.end
    }

    /// Writes the batches that were laid out for this segment, one write and one sync each.
    fn write(&mut self) -> Result<(), AppendError> {
        assert!(self.poison.is_none(), "a poisoned journal is never written");
        assert!(self.batches.length() <= self.room(), "the batches fit");
        let Segment { file, at, header } = &mut self.segment;
        let mut failed = None;
        let deleted = || io::Error::new(io::ErrorKind::NotFound, "the file was deleted");
        for (bytes, chain) in self.batches.each() {
            let written = match self.disk.write_through(file, at.end, bytes) {
                Ok(count) if count == bytes.len() => Ok(()),
                Ok(count) => Err(short_write(count, bytes.len())),
                Err(error) => Err(error),
            };
            // Looked at behind the write: what is acknowledged was to be found by then.
            let is_kept = written.and_then(|()| match self.disk.is_named(file)? {
                true => Ok(()),
                false => Err(deleted()),
            });
            if let Err(error) = is_kept {
                failed = Some(error);
                break;
            }
            at.end += bytes.len() as u64;
            at.chain = chain;
        }
        if let Some(error) = failed {
            let (file, at) = (header.number.file_name(), at.end);
            return Err(self.poison(Poison {
                file: self.disk.path().join(file),
                at,
                doing: "write a batch to",
                cause: error.to_string(),
            }));
        }
        at.next = self.batches.next();
        Ok(())
    }

    /// Says to the witness what is durable, before anybody else learns it.
    fn bear_witness(&mut self) -> Result<(), AppendError> {
        let testimony = self.testimony();
        match self
            .witness
            .as_mut()
            .map(|witness| witness.write(&testimony))
        {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(self.poison_by_witness(&error)),
        }
    }

    /// Without its witness the journal could be put back unnoticed after others learnt of more.
    fn poison_by_witness(&mut self, error: &WitnessError) -> AppendError {
        let file = self.witness.as_ref().map(Witness::path).unwrap_or_default();
        let cause = match error {
            WitnessError::Io { source, .. } => source.to_string(),
            WitnessError::Damaged { .. } => error.to_string(),
        };
        self.poison(Poison {
            file,
            at: 0,
            doing: "write the witness",
            cause,
        })
    }

    fn testimony(&self) -> Testimony {
        Testimony {
            position: self.position(),
            boot: self.identity.boot,
        }
    }

    /// Writes drafts into a new segment of their own, since the current one is full.
    ///
    /// The caller has moved on by these records already: going on without them would be a lie, so
    /// that a segment that cannot be made ends the journal's use here.
    fn append_to_new_segment(
        &mut self,
        drafts: &[Draft],
        now: Timestamps,
    ) -> Result<(), AppendError> {
        match self.enter_segment(drafts, now, 0) {
            Err(AppendError::NoSegment { file, doing, cause }) => {
                let cause = cause.to_string();
                Err(self.poison(Poison {
                    file,
                    at: 0,
                    doing,
                    cause,
                }))
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.keep_current(false, now);
                Ok(())
            }
        }
    }

    /// Makes the next segment, enters it, and writes these drafts at its head. `leaving` spares are
    /// not touched.
    fn enter_segment(
        &mut self,
        drafts: &[Draft],
        now: Timestamps,
        leaving: usize,
    ) -> Result<(), AppendError> {
        let Segment {
            header: current,
            at,
            file: _,
        } = &self.segment;
        let number = current.number.next().ok_or(AppendError::NumbersUsedUp)?;
        let before = SegmentEnd {
            number: current.number,
            end: at.end,
            chain: at.chain,
            last: self.position().lsn,
        };
        let size = self.identity.segment_size;
        let salt = Salt(self.disk.fresh_id().0);
        let header = self
            .identity
            .header(number, salt, at.next, Some(before), size);
        let mut beginning = Beginning {
            disk: &self.disk,
            identity: &self.identity,
            previous: core::mem::take(&mut self.previous),
            batches: core::mem::take(&mut self.batches),
            drafts,
            now,
        };
        let segment = beginning.segment(header, &self.spares, leaving);
        self.previous = beginning.previous;
        self.batches = beginning.batches;
        match segment {
            Ok(segment) => {
                self.segment = segment;
                self.write()
            }
            Err(Refused::Drafts(error)) => Err(error),
            Err(Refused::Segment(CreateError {
                named: true,
                doing,
                source,
            })) => {
                let file = self.disk.path().join(number.file_name());
                let cause = source.to_string();
                Err(self.poison(Poison {
                    file,
                    at: 0,
                    doing,
                    cause,
                }))
            }
            Err(Refused::Segment(error)) => Err(no_segment(&self.disk, number, error)),
        }
    }

    fn keep_current(&mut self, checkpoint: bool, now: Timestamps) {
        let SegmentHeader {
            number,
            size,
            first,
            ..
        } = self.segment.header;
        self.kept.push(Kept {
            number,
            first: Some(first),
            begun: Some(now.wall),
            size,
            checkpoint,
        });
    }

    /// A domain that a checkpoint does not restate is gone: its chain of records ends.
    fn forget_removed_domains(&mut self, checkpoint: &[Draft]) {
        let restated: BTreeSet<DomainId> =
            checkpoint.iter().filter_map(|draft| draft.domain).collect();
        self.previous.retain(|domain, _| restated.contains(domain));
    }

    /// Lets old segments go.
    fn retire(&mut self, checkpoint: &Checkpoint, now: Timestamps) {
        let wanted = wanted(&self.identity, checkpoint, now);
        segments::retire(&self.disk, &mut self.kept, &wanted, &self.spares);
    }
}

fn wanted(identity: &Identity, checkpoint: &Checkpoint, now: Timestamps) -> Wanted {
    Wanted {
        retention: identity.retention,
        needed_from: checkpoint.needed_from,
        now: now.wall,
    }
}

/// Why a segment was not begun.
enum Refused {
    Drafts(AppendError),
    Segment(CreateError),
}

/// A segment that is to be begun with these drafts.
struct Beginning<'a, D: Disk> {
    disk: &'a D,
    identity: &'a Identity,
    previous: BTreeMap<DomainId, Lsn>,
    batches: Batches,
    drafts: &'a [Draft],
    now: Timestamps,
}

impl<D: Disk> Beginning<'_, D> {
    /// The first segment of an opening. On a full disk it is made of what is there: of a spare, or, if
    /// there is none, of the oldest segments, since recovery goes before history.
    fn first_segment(
        &mut self,
        start: &Start,
        kept: &mut Vec<Kept>,
        spares: &Spares<D::File>,
        needed_from: Option<Lsn>,
    ) -> Result<Segment<D::File>, AppendError> {
        let salt = Salt(self.disk.fresh_id().0);
        let header = |size| {
            let (first, before) = (self.identity.opening.first, start.before);
            self.identity
                .header(start.number, salt, first, before, size)
        };
        let (small, usual) = (header(start.first_size), header(self.identity.segment_size));
        let refused = |refused| match refused {
            Refused::Drafts(error) => error,
            Refused::Segment(error) => no_segment(self.disk, start.number, error),
        };
        let error = match self.segment(small, spares, SPARES) {
            Err(Refused::Segment(error)) if error.is_full() && !error.named => error,
            result => return result.map_err(refused),
        };
        tracing::warn!(error = %error.source, "the disk is full");
        if spares.reclaim(self.disk) {
            tracing::warn!("a spare segment is used");
            return self.segment(usual, spares, 0).map_err(refused);
        }
        let everything = Wanted {
            retention: Retention::NOTHING,
            needed_from,
            now: self.now.wall,
        };
        survey::mark_older_checkpoint(self.disk, kept);
        segments::retire(self.disk, kept, &everything, spares);
        let header = if spares.reclaim(self.disk) {
            usual
        } else {
            small
        };
        match self.segment(header, spares, 0) {
            // The last resort: the smallest there is.
            Err(Refused::Segment(error)) if error.is_full() && !error.named => {
                let smallest = SegmentHeader {
                    size: SEGMENT_SIZE_MIN,
                    ..small
                };
                self.segment(smallest, spares, 0).map_err(refused)
            }
            result => result.map_err(refused),
        }
    }

    /// A segment of a spare, if more than `leaving` are there and it has the right size, or else of a
    /// new file; and these drafts laid out for it.
    fn segment(
        &mut self,
        header: SegmentHeader,
        spares: &Spares<D::File>,
        leaving: usize,
    ) -> Result<Segment<D::File>, Refused> {
        let usual = header;
        let header = self.lay_out(usual).map_err(Refused::Drafts)?;
        let error = match self.make(header, spares, leaving) {
            Err(error) if error.is_full() && !error.named && header.size > usual.size => error,
            made => return made.map_err(Refused::Segment),
        };
        // There is no room for one that is so large; but perhaps one of the usual size will do.
        match self.lay_out_within(usual) {
            Ok(true) => self.make(usual, spares, leaving).map_err(Refused::Segment),
            Ok(false) => Err(Refused::Segment(error)),
            Err(error) => Err(Refused::Drafts(error)),
        }
    }

    /// The file of a segment that the drafts were laid out for.
    fn make(
        &mut self,
        header: SegmentHeader,
        spares: &Spares<D::File>,
        leaving: usize,
    ) -> Result<Segment<D::File>, CreateError> {
        let file = match spares.take(header.size, leaving) {
            Some(spare) => segments::enter(self.disk, spare, &header),
            None => segments::create(self.disk, &header),
        };
        match file {
            Ok(file) => Ok(Segment {
                file,
                at: begin_of(&header),
                header,
            }),
            Err(error) => {
                self.batches.take_back(&mut self.previous);
                Err(error)
            }
        }
    }

    /// Lays the drafts out in a segment of this very size; whether they fit.
    fn lay_out_within(&mut self, header: SegmentHeader) -> Result<bool, AppendError> {
        let Beginning {
            identity,
            previous,
            batches,
            drafts,
            now,
            ..
        } = self;
        let at = begin_of(&header);
        batches.lay_out(identity, &header, at, previous, drafts, *now)?;
        let fits = at.end + batches.length() <= header.batches_end();
        if !fits {
            batches.take_back(previous);
        }
        Ok(fits)
    }

    /// Lays the drafts out, in a larger segment if they ask for it: so large that it is not soon full
    /// again.
    fn lay_out(&mut self, header: SegmentHeader) -> Result<SegmentHeader, AppendError> {
        let Beginning {
            identity,
            previous,
            batches,
            drafts,
            now,
            ..
        } = self;
        batches.lay_out(identity, &header, begin_of(&header), previous, drafts, *now)?;
        let size = size_for(header.size, batches.length());
        if size.as_ref().is_ok_and(|size| *size == header.size) {
            return Ok(header);
        }
        // The chain begins with the checksum of the header, which holds the size.
        batches.take_back(previous);
        let header = SegmentHeader {
            size: size?,
            ..header
        };
        batches.lay_out(identity, &header, begin_of(&header), previous, drafts, *now)?;
        Ok(header)
    }
}

fn begin_of(header: &SegmentHeader) -> At {
    At {
        end: SegmentHeader::batches_begin(),
        chain: header.chain(),
        next: header.first,
    }
}

fn no_segment<D: Disk>(disk: &D, number: SegmentNumber, error: CreateError) -> AppendError {
    AppendError::NoSegment {
        file: disk.path().join(number.file_name()),
        doing: error.doing,
        cause: Arc::new(error.source),
    }
}

/// A checkpoint holds only with the right count, and only if it names the opening that writes it.
fn check_checkpoint(checkpoint: &Checkpoint, opening: &Opening) -> Result<(), AppendError> {
    let wrong = |why| Err(AppendError::NoCheckpoint { why });
    let [
        Draft {
            body: RecordBody::CheckpointBegun(begun),
            ..
        },
        state @ ..,
        last,
    ] = checkpoint.drafts.as_slice()
    else {
        return wrong("it does not begin with checkpoint-begun");
    };
    let RecordBody::CheckpointEnded(ended) = &last.body else {
        return wrong("it does not end with checkpoint-ended");
    };
    let inside = |draft: &Draft| {
        matches!(
            draft.body,
            RecordBody::CheckpointBegun(_) | RecordBody::CheckpointEnded(_)
        )
    };
    if state.iter().any(inside) {
        return wrong("there is another one in it");
    }
    if begun.records as usize != state.len() || ended.records != begun.records {
        return wrong("its count is not that of its records");
    }
    if begun.openings.last() != Some(opening) {
        return wrong("its last opening is not this one");
    }
    Ok(())
}
