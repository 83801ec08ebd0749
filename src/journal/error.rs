//! Why a journal does not open, or takes nothing any more.
//! Invariant: an error says what was being done and to which file, and what it means for the records.
//! Not here: damage, which is data (`read::Gap`).

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal_format::error::FormatError;
use journal_format::number::{HostId, JournalId, Lsn, Position};

use super::read::{Cause, ReadError};
use super::witness::WitnessError;

/// The first failure, which ended the journal's use: nothing is durable from there on.
#[derive(Debug)]
pub struct Poison {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub at: u64,
    /// What was being done, such as "write a batch to".
    pub doing: &'static str,
    /// The system's error, in its words.
    pub cause: String,
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Poison {
            file,
            at,
            doing,
            cause,
        } = self;
        write!(
            f,
            "could not {doing} {} at byte {at}: {cause}",
            file.display()
        )
    }
}

/// Why records did not become durable.
#[derive(Clone, Debug)]
pub enum AppendError {
    /// A write or a sync failed, now or before. Nothing becomes durable any more; the journal must
    /// be opened anew, which judges what is really there.
    Poisoned(Arc<Poison>),
    /// A record cannot be written down. Nothing was written.
    Unwritable {
        /// Which of the drafts, counted from 0.
        index: usize,
        /// Why.
        why: FormatError,
    },
    /// There are no more LSNs or segment numbers. Nothing was written.
    NumbersUsedUp,
    /// The records do not fit into one segment. Nothing was written.
    TooMany {
        /// What they take, in bytes.
        size: u64,
    },
    /// What was given as a checkpoint is none. Nothing was written.
    NoCheckpoint {
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no room for a new segment. Nothing was written, and the current segment is as it was.
    NoSegment {
        /// The file.
        file: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        cause: Arc<io::Error>,
    },
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppendError::Poisoned(poison) => {
                write!(f, "the journal takes nothing any more since it {poison}")
            }
            AppendError::Unwritable { index, why } => {
                write!(
                    f,
                    "record {index} of the batch cannot be written down: {why}"
                )
            }
            AppendError::TooMany { size } => {
                write!(f, "{size} bytes of records do not fit into one segment")
            }
            AppendError::NumbersUsedUp => f.write_str("the journal's numbers are used up"),
            AppendError::NoCheckpoint { why } => write!(f, "not a checkpoint: {why}"),
            AppendError::NoSegment { file, doing, cause } => {
                write!(
                    f,
                    "could not {doing} the new segment {}: {cause}",
                    file.display()
                )
            }
        }
    }
}

impl std::error::Error for AppendError {}

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
    /// It has segments, and not one whose header can be read.
    NoReadableSegment {
        /// The first of them.
        file: PathBuf,
        /// What is wrong with it.
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
    pub(super) fn io(file: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
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
                "{}: record {lsn} (type {kind}, version {version}) is of another version of this program",
                file.display()
            ),
            OpenError::NoReadableSegment { file, why } => {
                write!(
                    f,
                    "no segment of the journal can be read, such as {}: {why}",
                    file.display()
                )
            }
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
