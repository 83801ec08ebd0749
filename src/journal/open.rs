//! Opening a journal for writing: the lock, what is there, and where to go on.
//! Invariant: nothing that was there is changed before a new segment with a whole checkpoint stands
//! beside it; no LSN that may have been acknowledged is given again in the same history.
//! Not here: what the records mean (the caller folds them and hands back a checkpoint).

use core::fmt;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use journal_format::error::FormatError;
use journal_format::number::{
    BootId, DomainId, Epoch, HostId, Id128, JournalId, Lsn, OpeningId, Position, SegmentNumber,
};
use journal_format::record::{Decoded, Opening, Record, RecordBody};
use journal_format::segment::SegmentHeader;
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_DEFAULT, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN};

use super::disk::{Disk, IoMode, read_full};
use super::log::{AppendError, Checkpoint, Identity, Log, Start, Timestamps};
use super::read::{
    Cause, Ending, Entry, Gap, ReadError, SegmentFile, Settled, Walk, list_segments, load, settle,
    whole_checkpoint,
};
use super::segments::{Kept, is_unfinished, remove_unfinished};
use super::witness::{Testimony, Witness, WitnessError};

/// The lock file's name in the journal's directory.
pub const LOCK_NAME: &str = "lock";
/// The index's name in the journal's directory.
pub const INDEX_NAME: &str = "index";

/// The usual size of an opening's first segment, in bytes: small, so that a sidecar that crashes
/// over and over does not fill the disk.
pub const FIRST_SEGMENT_SIZE_DEFAULT: u64 = 1024 * 1024;
/// Segments beyond so many bytes go when nothing needs them, unless told otherwise.
pub const RETAINED_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

/// Most bytes of the lock file that are believed.
const HOLDER_SIZE_MAX: usize = 20;

/// How a journal is to be opened. There is no default: host and boot must be the real ones.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// This host.
    pub host: HostId,
    /// This boot of it.
    pub boot: BootId,
    /// Open a journal that is older than its witness, or of another host: an operator's word.
    pub accept_older: bool,
    /// Size of the opening's first segment in bytes; a multiple of the block size is made of it.
    pub first_segment_size: u64,
    /// Size of the other segments in bytes.
    pub segment_size: u64,
    /// Old segments that nothing needs go when there are more bytes than this.
    pub retained_bytes_max: u64,
}

impl OpenOptions {
    /// The usual sizes, and nothing older accepted.
    #[must_use]
    pub fn new(host: HostId, boot: BootId) -> OpenOptions {
        OpenOptions {
            host,
            boot,
            accept_older: false,
            first_segment_size: FIRST_SEGMENT_SIZE_DEFAULT,
            segment_size: SEGMENT_SIZE_DEFAULT,
            retained_bytes_max: RETAINED_BYTES_DEFAULT,
        }
    }
}

/// Why a journal was not opened. Nothing of it was changed.
#[derive(Debug)]
pub enum OpenError {
    /// The system refused.
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What was being done to it.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The directory holds something else.
    NotAJournal {
        /// The directory.
        directory: PathBuf,
        /// A name in it.
        found: String,
    },
    /// Another process has it open.
    Locked {
        /// The directory.
        directory: PathBuf,
        /// The process, if it said.
        holder: Option<u32>,
    },
    /// It was written in a version of the format that this program does not write.
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// The version.
        version: u32,
    },
    /// It holds a record that only a newer program understands. Recovering without it could be
    /// wrong.
    NewerRecord {
        /// The file.
        file: PathBuf,
        /// The record.
        lsn: Lsn,
        /// The number of its type.
        kind: u16,
        /// The version of its body.
        version: u16,
    },
    /// A file in it is not of this journal, or not in its place.
    ForeignSegment {
        /// The file.
        file: PathBuf,
        /// What it is.
        why: Cause,
    },
    /// It was made on another host.
    OtherHost {
        /// The directory.
        directory: PathBuf,
        /// That host.
        host: HostId,
    },
    /// The witness could not be read.
    Witness(WitnessError),
    /// The witness tells of more than the journal holds: it was deleted, or put back from a copy.
    Older(Box<OlderJournal>),
    /// There are no more LSNs, segment numbers or epochs.
    NumbersUsedUp,
}

/// A journal that holds less than was durable in this boot of the host.
#[derive(Debug)]
pub struct OlderJournal {
    /// The directory.
    pub directory: PathBuf,
    /// The witness's file.
    pub witness: PathBuf,
    /// What was durable.
    pub witnessed: Position,
    /// The journal that there is, and its last record.
    pub found: Option<(JournalId, Lsn)>,
}

impl fmt::Display for OlderJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OlderJournal {
            directory,
            witness,
            witnessed,
            found,
        } = self;
        write!(
            f,
            "the journal {} is older than what was durable ",
            directory.display()
        )?;
        write!(f, "on this host: {} says {witnessed}, ", witness.display())?;
        match found {
            Some((journal, last)) if *journal == witnessed.journal => {
                write!(f, "it ends at lsn {last}")
            }
            Some((journal, last)) => write!(f, "it is journal {journal}, lsn {last}"),
            None => f.write_str("there is no journal"),
        }
    }
}

impl OpenError {
    fn io(file: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io {
            file: file.to_path_buf(),
            doing,
            source,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io {
                file,
                doing,
                source,
            } => {
                write!(f, "could not {doing} {}: {source}", file.display())
            }
            OpenError::NotAJournal { directory, found } => {
                write!(
                    f,
                    "{} is not a journal: it holds {found:?}",
                    directory.display()
                )
            }
            OpenError::Locked { directory, holder } => {
                write!(f, "the journal {} is in use", directory.display())?;
                match holder {
                    Some(pid) => write!(f, " by process {pid}"),
                    None => f.write_str(" by another process"),
                }
            }
            OpenError::NewerFormat { file, version } => write!(
                f,
                "{} has format version {version}, which this program does not write",
                file.display()
            ),
            OpenError::NewerRecord {
                file,
                lsn,
                kind,
                version,
            } => write!(
                f,
                "{}: record {lsn} (type {kind}, version {version}) is of a newer program",
                file.display()
            ),
            OpenError::ForeignSegment { file, why } => {
                write!(f, "{} does not belong here: {why}", file.display())
            }
            OpenError::OtherHost { directory, host } => {
                write!(
                    f,
                    "the journal {} was made on host {host}",
                    directory.display()
                )
            }
            OpenError::Witness(error) => match error {
                WitnessError::Io { source, .. } => write!(f, "{error}: {source}"),
                WitnessError::Damaged { .. } => error.fmt(f),
            },
            OpenError::Older(older) => older.fmt(f),
            OpenError::NumbersUsedUp => f.write_str("the journal's numbers are used up"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> OpenError {
        match error {
            ReadError::Io {
                file,
                doing,
                source,
            } => OpenError::Io {
                file,
                doing,
                source,
            },
            // Reading a whole journal says this; opening one takes it for a new one before.
            ReadError::NoJournal { directory } => OpenError::NotAJournal {
                directory,
                found: "no segment".to_owned(),
            },
        }
    }
}

/// Something that a journal told when it was opened, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly all are records")]
pub enum Past {
    /// A record.
    Record(Record),
    /// Records that are lost.
    Gap(Gap),
}

/// A journal that was read and locked, and has not been written yet.
#[derive(Debug)]
pub struct Opened<D: Disk> {
    disk: D,
    lock: D::File,
    witness: Option<Witness<D>>,
    identity: Identity,
    start: Start,
    history: Vec<Past>,
    openings: Vec<Opening>,
    ending: Ending,
    is_new: bool,
}

impl<D: Disk> Log<D> {
    /// Locks the journal in the directory `disk` and reads what recovery needs of it; makes a
    /// directory that does not exist. `run` is the run directory, for the witness; without it
    /// nothing tells a journal that was put back from an older copy.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing of the journal was changed then.
    pub fn open(
        mut disk: D,
        run: Option<D>,
        options: &OpenOptions,
    ) -> Result<Opened<D>, OpenError> {
        refuse_other_contents(&disk)?;
        disk.make_directory()
            .map_err(OpenError::io(disk.path(), "make the directory"))?;
        let lock = take_lock(&disk)?;
        disk.probe()
            .map_err(OpenError::io(disk.path(), "write to"))?;
        let names = disk.list().map_err(OpenError::io(disk.path(), "list"))?;
        let unfinished = remove_unfinished(&disk, &names);
        unfinished.map_err(OpenError::io(
            disk.path(),
            "remove unfinished segments from",
        ))?;

        let survey = survey(&disk, options)?;
        let mut witness = run.map(Witness::new);
        let witnessed = match &mut witness {
            Some(witness) => ask_witness(&disk, witness, &survey, options)?,
            None => None,
        };
        let epoch = survey
            .epoch
            .max(witnessed.map_or(Epoch(0), |position| position.epoch));
        let opening = Opening {
            epoch: epoch.next().ok_or(OpenError::NumbersUsedUp)?,
            opening: OpeningId(Id128::random()),
            first: survey.next,
        };
        let identity = Identity {
            journal: survey.journal.unwrap_or_else(|| JournalId(Id128::random())),
            host: options.host,
            boot: options.boot,
            opening,
            first_segment_size: usable_size(options.first_segment_size),
            segment_size: usable_size(options.segment_size),
            retained_bytes_max: options.retained_bytes_max,
        };
        Ok(Opened {
            disk,
            lock,
            witness,
            identity,
            start: survey.start,
            history: survey.history,
            openings: survey.openings,
            ending: survey.ending,
            is_new: survey.journal.is_none(),
        })
    }
}

impl<D: Disk> Opened<D> {
    /// The journal.
    pub fn journal(&self) -> JournalId {
        self.identity.journal
    }

    /// It did not exist before.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// This opening: its number, its identity, and the LSN that the first record of the checkpoint
    /// gets.
    pub fn opening(&self) -> Opening {
        self.identity.opening
    }

    /// The LSN that the first record of the checkpoint gets.
    pub fn first_lsn(&self) -> Lsn {
        self.identity.opening.first
    }

    /// What the last whole checkpoint says, and everything after it, oldest first.
    pub fn history(&self) -> &[Past] {
        &self.history
    }

    /// The openings before this one that are known, oldest first.
    pub fn openings(&self) -> &[Opening] {
        &self.openings
    }

    /// How the opening before ended.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// How bytes will become durable.
    pub fn io_mode(&self) -> IoMode {
        self.disk.io_mode()
    }

    /// Begins a new segment with the state that the history left, as `checkpoint`. Only now is the
    /// journal open: before, nothing may follow from what was read.
    ///
    /// # Errors
    /// As [`Log::append`] and [`Log::roll`].
    pub fn begin(self, checkpoint: &Checkpoint, now: Timestamps) -> Result<Log<D>, AppendError> {
        let Opened {
            disk,
            lock,
            witness,
            identity,
            start,
            ..
        } = self;
        Log::begin(disk, lock, witness, identity, start, checkpoint, now)
    }
}

/// A size of a segment as the format allows it.
fn usable_size(size: u64) -> u64 {
    size.clamp(SEGMENT_SIZE_MIN, SEGMENT_SIZE_MAX)
        .next_multiple_of(u64::from(BLOCK_SIZE))
}

/// Refuses a directory without a segment that holds something else, before anything is put there.
fn refuse_other_contents<D: Disk>(disk: &D) -> Result<(), OpenError> {
    let names = match disk.list() {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(OpenError::io(disk.path(), "list")(error)),
    };
    if names
        .iter()
        .any(|name| SegmentNumber::parse(name).is_some())
    {
        return Ok(());
    }
    let ours = |name: &String| name == LOCK_NAME || name == INDEX_NAME || is_unfinished(name);
    match names.into_iter().find(|name| !ours(name)) {
        Some(found) => Err(OpenError::NotAJournal {
            directory: disk.path().to_path_buf(),
            found,
        }),
        None => Ok(()),
    }
}

/// Takes the writer's lock, and writes this process's number into it for the next one to name.
fn take_lock<D: Disk>(disk: &D) -> Result<D::File, OpenError> {
    let path = disk.path().join(LOCK_NAME);
    let file = disk
        .open_or_create(LOCK_NAME)
        .map_err(OpenError::io(&path, "open"))?;
    if !disk.try_lock(&file).map_err(OpenError::io(&path, "lock"))? {
        let mut text = [0; HOLDER_SIZE_MAX];
        let count = read_full(disk, &file, 0, &mut text).unwrap_or(0);
        let holder = str::from_utf8(&text[..count])
            .ok()
            .and_then(|text| text.trim().parse().ok());
        return Err(OpenError::Locked {
            directory: disk.path().to_path_buf(),
            holder,
        });
    }
    let holder = format!("{:<width$}", std::process::id(), width = HOLDER_SIZE_MAX);
    match disk.write_at(&file, 0, holder.as_bytes()) {
        Ok(_) => {}
        // Only a courtesy to the next one.
        Err(error) => tracing::warn!(file = %path.display(), %error, "could not name the holder"),
    }
    Ok(file)
}

/// What is in a journal.
struct Survey {
    /// `None`: there is none yet.
    journal: Option<JournalId>,
    /// The LSN after all that was, or may have been, acknowledged.
    next: Lsn,
    /// The last epoch that may have been used.
    epoch: Epoch,
    openings: Vec<Opening>,
    history: Vec<Past>,
    ending: Ending,
    start: Start,
}

fn survey<D: Disk>(disk: &D, options: &OpenOptions) -> Result<Survey, OpenError> {
    let mut files = list_segments(disk)?;
    refuse_foreign(disk, &files, options)?;
    let epoch = last_epoch(&files);
    let journal = files
        .iter()
        .find_map(|file| file.header.as_ref().ok())
        .map(|head| head.journal);
    let stillborn = take_stillborn(disk, &mut files)?;
    let checkpoint = find_checkpoint(disk, &files, stillborn.as_ref())?;

    let mut walk = Walk::new(files.clone(), stillborn);
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
    };
    Ok(Survey {
        journal,
        next,
        epoch,
        openings,
        history,
        ending: walk.ending,
        start,
    })
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
    let Some(loaded) = load(disk, head.number)? else {
        return Ok(None);
    };
    let Settled {
        entries, ending, ..
    } = settle(loaded, None);
    let damaged = entries.iter().any(|entry| matches!(entry, Entry::Gap(_)));
    if damaged || ending == Ending::Damaged || whole_checkpoint(&entries).is_some() {
        return Ok(None);
    }
    files.pop();
    Ok(Some(head))
}

/// The newest whole checkpoint: its segment and the LSN of its head.
fn find_checkpoint<D: Disk>(
    disk: &D,
    files: &[SegmentFile],
    stillborn: Option<&SegmentHeader>,
) -> Result<Option<(SegmentNumber, Lsn)>, OpenError> {
    let mut following = stillborn.copied();
    for file in files.iter().rev() {
        let Ok(head) = &file.header else {
            continue;
        };
        if let Some(loaded) = load(disk, file.number)? {
            let settled = settle(loaded, following.as_ref());
            if let Some(lsn) = whole_checkpoint(&settled.entries) {
                return Ok(Some((file.number, lsn)));
            }
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

fn kept(files: &[SegmentFile], checkpoint: Option<SegmentNumber>) -> Vec<Kept> {
    let kept = |file: &SegmentFile| Kept {
        number: file.number,
        first: file.header.as_ref().ok().map(|head| head.first),
        size: file.length,
        checkpoint: checkpoint == Some(file.number),
    };
    files.iter().map(kept).collect()
}

/// Refuses a journal that holds less than the witness tells of. Returns what the witness said of this
/// journal.
fn ask_witness<D: Disk>(
    disk: &D,
    witness: &mut Witness<D>,
    survey: &Survey,
    options: &OpenOptions,
) -> Result<Option<Position>, OpenError> {
    let testimony = match witness.read() {
        Ok(testimony) => testimony,
        Err(WitnessError::Damaged { file }) if options.accept_older => {
            tracing::warn!(file = %file.display(), "the witness is damaged, and not asked");
            None
        }
        Err(error) => return Err(OpenError::Witness(error)),
    };
    let Some(Testimony { position, boot }) = testimony else {
        return Ok(None);
    };
    let of_this = survey.journal == Some(position.journal);
    if boot == options.boot && !(of_this && contains(survey, &position)) {
        let older = OlderJournal {
            directory: disk.path().to_path_buf(),
            witness: witness.path(),
            witnessed: position,
            found: survey
                .journal
                .map(|journal| (journal, Lsn(survey.next.0.saturating_sub(1)))),
        };
        if !options.accept_older {
            return Err(OpenError::Older(Box::new(older)));
        }
        tracing::warn!(%older, "an older journal is accepted");
    }
    Ok(of_this.then_some(position))
}

/// Did this journal have the witness's opening, and did that opening reach its LSN?
fn contains(survey: &Survey, position: &Position) -> bool {
    let openings = &survey.openings;
    if openings
        .first()
        .is_some_and(|oldest| position.epoch < oldest.epoch)
    {
        // Longer ago than the checkpoint tells.
        return position.lsn < survey.next;
    }
    let index = openings
        .iter()
        .position(|opening| opening.epoch == position.epoch && opening.opening == position.opening);
    let Some(index) = index else {
        return false;
    };
    let end = openings
        .get(index + 1)
        .map_or(survey.next, |following| following.first);
    position.lsn < end
}
