//! Opening a journal for writing: the lock, what is there, and where to go on.
//! Invariant: nothing that is needed is changed or removed: a new segment with a whole checkpoint is put
//! beside it; no LSN that may have been acknowledged is given again in the same history.
//! Not here: what the records mean (the caller folds them and hands back a checkpoint).

use std::io;
use std::time::Duration;

use journal_format::number::{
    BootId, Epoch, HostId, JournalId, Lsn, OpeningId, Position, SegmentNumber,
};
use journal_format::record::{Opening, Record};
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_DEFAULT, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN};

use super::disk::{Disk, IoMode, PROBE_NAME, read_full};
use super::error::{AppendError, OlderJournal, OpenError};
use super::layout::{Identity, Timestamps};
use super::log::{Checkpoint, Log, Start};
use super::read::{Cause, Ending, Gap};
use super::segments::{Retention, is_unfinished, remove_unfinished};
use super::spares::is_spare;
use super::survey::{Survey, survey};
use super::witness::{Testimony, Witness, WitnessError};

/// The lock file's name in the journal's directory.
pub const LOCK_NAME: &str = "lock";
/// The index's name in the journal's directory.
pub const INDEX_NAME: &str = "index";

/// The usual size of an opening's first segment, in bytes: small, since it is made while everybody
/// waits.
pub const FIRST_SEGMENT_SIZE_DEFAULT: u64 = 1024 * 1024;

/// After so many openings in a row that left their first segment as their last, the next ones get the
/// smallest: a sidecar that crashes over and over does not fill the disk.
const SHORT_OPENINGS_MAX: usize = 3;

/// How often the lock is asked for: somebody may only be looking whether there is a writer, which takes
/// some microseconds.
const LOCK_ATTEMPTS_MAX: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// An accepted older journal lacks at least so many records: how many came behind the copy nobody knows, since it may have
/// been written on elsewhere. More than the end of one job, an operator's word and the begin of another take.
const ACCEPTED_GAP_MIN: u64 = 1024;

/// Most bytes of the lock file that are believed.
const HOLDER_SIZE_MAX: usize = 20;

/// How a journal is to be opened. There is no default: host and boot must be the real ones.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// This host.
    pub host: HostId,
    /// This boot of it.
    pub boot: BootId,
    /// Open a journal that is older than its witness, or of another host: an operator's word. The records that the first lacks are a
    /// gap at its end, since nobody knows what was done in them.
    pub accept_older: bool,
    /// Size of the opening's first segment in bytes; a multiple of the block size is made of it.
    pub first_segment_size: u64,
    /// Size of the other segments in bytes.
    pub segment_size: u64,
    /// How much of the past is kept.
    pub retention: Retention,
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
            retention: Retention::DEFAULT,
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
    openings: Vec<Opening>,
    ending: Ending,
    is_new: bool,
}

impl<D: Disk> Log<D> {
    /// Locks the journal in the directory `disk` and reads what recovery needs of it: `each` gets what
    /// the last whole checkpoint says and everything after it, oldest first. Makes a directory that
    /// does not exist. `run` is the run directory, for the witness; without it nothing tells a journal
    /// that was put back from an older copy.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing of the journal was changed then, and what `each` got is not to be
    /// acted on.
    pub fn open(
        mut disk: D,
        run: Option<D>,
        options: &OpenOptions,
        mut each: impl FnMut(Past),
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

        let mut survey = survey(&disk, options, &mut each)?;
        survey.start.spares = names.into_iter().filter(|name| is_spare(name)).collect();
        survey.start.first_size = usable_size(match survey.short_openings {
            0..SHORT_OPENINGS_MAX => options.first_segment_size,
            SHORT_OPENINGS_MAX.. => SEGMENT_SIZE_MIN,
        });
        let mut witness = run.map(Witness::new);
        let Asked {
            witnessed,
            lost_until,
        } = match &mut witness {
            Some(witness) => ask_witness(&disk, witness, &survey, options)?,
            None => Asked::default(),
        };
        let mut epoch = survey
            .epoch
            .max(witnessed.map_or(Epoch(0), |position| position.epoch));
        let first = match lost_until {
            Some(last) => {
                each(Past::Gap(gap_behind(&survey, last)));
                // Whoever saw records of the opening before that are not here knows more than this journal: that
                // opening ends where the copy does.
                epoch = epoch.next().ok_or(OpenError::NumbersUsedUp)?;
                survey.openings.push(Opening {
                    epoch,
                    opening: OpeningId(disk.fresh_id()),
                    first: survey.next,
                });
                last.next().ok_or(OpenError::NumbersUsedUp)?
            }
            None => survey.next,
        };
        let opening = Opening {
            epoch: epoch.next().ok_or(OpenError::NumbersUsedUp)?,
            opening: OpeningId(disk.fresh_id()),
            first,
        };
        let identity = Identity {
            journal: survey.journal.unwrap_or_else(|| JournalId(disk.fresh_id())),
            host: options.host,
            boot: options.boot,
            opening,
            segment_size: usable_size(options.segment_size),
            retention: options.retention,
        };
        Ok(Opened {
            disk,
            lock,
            witness,
            identity,
            start: survey.start,
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
    let ours = |name: &String| {
        [LOCK_NAME, INDEX_NAME, PROBE_NAME].contains(&name.as_str())
            || is_unfinished(name)
            || is_spare(name)
    };
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
    let mut is_ours = false;
    for attempt in 0..LOCK_ATTEMPTS_MAX {
        is_ours = disk.try_lock(&file).map_err(OpenError::io(&path, "lock"))?;
        if is_ours {
            break;
        }
        if attempt + 1 < LOCK_ATTEMPTS_MAX {
            std::thread::sleep(LOCK_PAUSE);
        }
    }
    if !is_ours {
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
    let holder = format!("{:<width$}", disk.process_id(), width = HOLDER_SIZE_MAX);
    match disk.write_at(&file, 0, holder.as_bytes()) {
        Ok(_) => {}
        // Only a courtesy to the next one.
        Err(error) => tracing::warn!(file = %path.display(), %error, "could not name the holder"),
    }
    Ok(file)
}

/// What a witness says.
#[derive(Default)]
struct Asked {
    /// Of this journal.
    witnessed: Option<Position>,
    /// The last of the records that an accepted older journal lacks at its end, or may lack.
    lost_until: Option<Lsn>,
}

/// Refuses a journal that holds less than the witness tells of.
fn ask_witness<D: Disk>(
    disk: &D,
    witness: &mut Witness<D>,
    survey: &Survey,
    options: &OpenOptions,
) -> Result<Asked, OpenError> {
    // A new journal knows nothing that what is lost could make wrong.
    let skipped = || {
        let last = survey.next.0.saturating_add(ACCEPTED_GAP_MIN - 1);
        survey.journal.map(|_| Lsn(last))
    };
    let testimony = match witness.read() {
        Ok(testimony) => testimony,
        Err(WitnessError::Damaged { file }) if options.accept_older => {
            tracing::warn!(file = %file.display(), "the witness is damaged: records may be missing");
            return Ok(Asked {
                witnessed: None,
                lost_until: skipped(),
            });
        }
        Err(error) => return Err(OpenError::Witness(error)),
    };
    let Some(Testimony { position, boot }) = testimony else {
        return Ok(Asked::default());
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
        return Ok(Asked {
            witnessed: of_this.then_some(position),
            lost_until: skipped().map(|last| match of_this {
                true => last.max(position.lsn),
                false => last,
            }),
        });
    }
    Ok(Asked {
        witnessed: of_this.then_some(position),
        lost_until: None,
    })
}

/// The records up to `last` that an accepted older journal lacks at its end. The next segment says so for good: it
/// begins behind them (F25).
fn gap_behind(survey: &Survey, last: Lsn) -> Gap {
    let before = survey.start.before;
    let end = before.map_or(0, |end| end.end);
    Gap {
        first: survey.next,
        last,
        segment: before.map_or(survey.start.number, |end| end.number),
        at: end,
        until: end,
        why: Cause::Older,
    }
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
        // An opening of which only damage is left is told of by a gap, and was there.
        let newer = openings
            .last()
            .is_none_or(|last| last.epoch < position.epoch);
        return newer && position.epoch <= survey.epoch && position.lsn < survey.next;
    };
    let end = openings
        .get(index + 1)
        .map_or(survey.next, |following| following.first);
    position.lsn < end
}
