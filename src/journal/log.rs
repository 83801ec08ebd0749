//! Appending: records become durable, one batch with one write and one sync at a time.
//! Invariant: a [`Durable`] is made only after its batch, and all before it, were written whole and
//! synced and the witness knows; after a failed write or sync nothing is acknowledged again.
//! Not here: finding out what a journal holds (`open`), when a checkpoint is due (the node).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use journal_format::number::{DomainId, HostId, JournalId, Lsn, Position, SegmentNumber};
use journal_format::record::{Draft, Opening, RecordBody};
use journal_format::segment::{SegmentEnd, SegmentHeader};

use super::Durable;
use super::disk::{Disk, IoMode};
use super::error::{AppendError, Poison};
use super::layout::{At, Encoded, Identity, Timestamps, encode, size_for};
use super::segments::{self, CreateError, Kept, short_write};
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
    /// How bytes become durable.
    pub io: IoMode,
    /// Why it takes nothing any more.
    pub poisoned: Option<Arc<Poison>>,
}

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
        // A sidecar that dies before it comes to do so afterwards must not fill the disk.
        let mut kept = start.kept;
        let bytes_max = identity.retained_bytes_max;
        segments::retire(&disk, &mut kept, checkpoint.needed_from, bytes_max);
        let first = identity.opening.first;
        let size = identity.first_segment_size;
        let header = identity.header(start.number, first, start.before, size);
        let (segment, encoded) = begin_segment(
            &disk,
            &identity,
            header,
            &start.previous,
            &checkpoint.drafts,
            now,
        )
        .map_err(|refused| match refused {
            Refused::Drafts(error) => error,
            Refused::Segment(error) => no_segment(&disk, start.number, error),
        })?;
        let mut log = Log {
            disk,
            _lock: lock,
            witness,
            identity,
            segment,
            previous: start.previous,
            kept,
            poison: None,
        };
        log.keep_current(true);
        log.write(encoded)?;
        let testimony = log.testimony();
        if let Some(Err(error)) = log
            .witness
            .as_mut()
            .map(|witness| witness.begin(&testimony))
        {
            return Err(log.poison_by_witness(&error));
        }
        log.retire(checkpoint);
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
        let encoded = self.encode_here(drafts, now)?;
        if encoded.length() <= self.room() {
            self.write(encoded)?;
        } else {
            self.append_to_new_segment(drafts, now)?;
        }
        self.bear_witness()?;
        Ok(Durable::new(value))
    }

    /// Begins a new segment with a checkpoint, and lets old segments go.
    ///
    /// # Errors
    /// After [`AppendError::NoSegment`] the log goes on in the segment it has.
    pub fn roll(&mut self, checkpoint: &Checkpoint, now: Timestamps) -> Result<(), AppendError> {
        self.check_poison()?;
        check_checkpoint(checkpoint, &self.identity.opening)?;
        self.enter_segment(&checkpoint.drafts, now)?;
        self.keep_current(true);
        self.forget_removed_domains(&checkpoint.drafts);
        self.bear_witness()?;
        self.retire(checkpoint);
        Ok(())
    }

    /// Whether the segment is so full that the next quiet moment should be used to roll.
    pub fn must_roll(&self) -> bool {
        self.segment.at.end > self.segment.header.size / 2
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

    fn encode_here(&self, drafts: &[Draft], now: Timestamps) -> Result<Encoded, AppendError> {
        let Segment {
            header,
            at,
            file: _,
        } = &self.segment;
        encode(&self.identity, header, *at, &self.previous, drafts, now)
    }

    /// Bytes left in the segment.
    fn room(&self) -> u64 {
        self.segment.header.size - self.segment.at.end
    }

    /// Writes batches that fit into the segment, one write and one sync each.
    fn write(&mut self, encoded: Encoded) -> Result<(), AppendError> {
        assert!(self.poison.is_none(), "a poisoned journal is never written");
        assert!(encoded.length() <= self.room(), "the batches fit");
        for (bytes, chain) in &encoded.batches {
            let at = self.segment.at.end;
            let written = match self.disk.write_through(&self.segment.file, at, bytes) {
                Ok(count) if count == bytes.len() => Ok(()),
                Ok(count) => Err(short_write(count, bytes.len())),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                let file = self
                    .disk
                    .path()
                    .join(self.segment.header.number.file_name());
                let cause = error.to_string();
                return Err(self.poison(Poison {
                    file,
                    at,
                    doing: "write a batch to",
                    cause,
                }));
            }
            self.segment.at.end += bytes.len() as u64;
            self.segment.at.chain = *chain;
        }
        self.segment.at.next = encoded.next;
        self.previous.extend(encoded.previous);
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
        match self.enter_segment(drafts, now) {
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
                self.keep_current(false);
                Ok(())
            }
        }
    }

    /// Makes the next segment, enters it, and writes these drafts at its head.
    fn enter_segment(&mut self, drafts: &[Draft], now: Timestamps) -> Result<(), AppendError> {
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
        let header = self.identity.header(number, at.next, Some(before), size);
        let (identity, previous) = (&self.identity, &self.previous);
        match begin_segment(&self.disk, identity, header, previous, drafts, now) {
            Ok((segment, encoded)) => {
                self.segment = segment;
                self.write(encoded)
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

    fn keep_current(&mut self, checkpoint: bool) {
        let SegmentHeader {
            number,
            size,
            first,
            ..
        } = self.segment.header;
        self.kept.push(Kept {
            number,
            first: Some(first),
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
    fn retire(&mut self, checkpoint: &Checkpoint) {
        let bytes_max = self.identity.retained_bytes_max;
        segments::retire(
            &self.disk,
            &mut self.kept,
            checkpoint.needed_from,
            bytes_max,
        );
    }
}

/// Why a segment was not begun.
enum Refused {
    Drafts(AppendError),
    Segment(CreateError),
}

/// Makes the segment of `header`, enlarged if these drafts ask for it, and says what they are as
/// the first batches in it.
fn begin_segment<D: Disk>(
    disk: &D,
    identity: &Identity,
    header: SegmentHeader,
    previous: &BTreeMap<DomainId, Lsn>,
    drafts: &[Draft],
    now: Timestamps,
) -> Result<(Segment<D::File>, Encoded), Refused> {
    // The chain begins with the checksum of the header, which holds the size: known only when the
    // batches' length is, which does not depend on the chain.
    let at = |header: &SegmentHeader| At {
        end: SegmentHeader::batches_begin(),
        chain: header.chain(),
        next: header.first,
    };
    let draft = encode(identity, &header, at(&header), previous, drafts, now);
    let length = draft.map_err(Refused::Drafts)?.length();
    let size = size_for(header.size, length).map_err(Refused::Drafts)?;
    let header = SegmentHeader { size, ..header };
    let encoded = encode(identity, &header, at(&header), previous, drafts, now);
    let encoded = encoded.map_err(Refused::Drafts)?;
    assert_eq!(
        encoded.length(),
        length,
        "the size of batches does not depend on their chain"
    );
    let file = segments::create(disk, &header).map_err(Refused::Segment)?;
    Ok((
        Segment {
            file,
            at: at(&header),
            header,
        },
        encoded,
    ))
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
