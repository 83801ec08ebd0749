//! How commands end.

use std::path::PathBuf;
use std::{fmt, io};

use phase_journal::journal::follow::FollowError;
use phase_journal::journal::index::IndexError;
use phase_journal::journal::lock::LockError;
use phase_journal::journal::read::ReadError;
use phase_journal::journal::repair::RepairError;
use phase_journal::qmp::QmpError;

/// What a command found, worst last; decides between the exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Found {
    /// All is well.
    Nothing,
    /// A torn tail, a domain in doubt, or a migration that did not succeed.
    Something,
    /// A journal of another version of the format, all of it: nothing of it is known.
    NotRead,
    /// Damage, or a promise that was broken.
    Damage,
}

/// A command found nothing to be said of.
pub(crate) const EXIT_FINE: u8 = 0;
/// Found a torn tail, a domain in doubt, or a migration that did not succeed.
pub(crate) const EXIT_FOUND: u8 = 1;
/// Found damage or a broken promise.
pub(crate) const EXIT_DAMAGE: u8 = 2;
/// Could not be done: nothing is known.
pub(crate) const EXIT_FAILED: u8 = 3;

impl Found {
    /// What the process ends with.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Found::Nothing => EXIT_FINE,
            Found::Something => EXIT_FOUND,
            Found::Damage => EXIT_DAMAGE,
            Found::NotRead => EXIT_FAILED,
        }
    }
}

/// Why a command could not be carried out.
#[derive(Debug)]
pub(crate) enum ToolError {
    /// The output could not be written.
    Output(io::Error),
    /// The journal could not be read.
    Journal(ReadError),
    /// The journal's index could not be made.
    Index(IndexError),
    /// The journal is in use.
    Lock(LockError),
    /// The journal could not be copied.
    Repair(RepairError),
    /// The journal cannot be followed any longer.
    Follow(FollowError),
    /// A file could not be read.
    File { path: PathBuf, source: io::Error },
    /// A file could not be written.
    Write { path: PathBuf, source: io::Error },
    /// Another program could not be run.
    Program { path: PathBuf, source: io::Error },
    /// An argument makes no sense.
    Argument(String),
    /// The sidecar did not answer, or refused.
    Sidecar(QmpError),
    /// The sidecar's answer is none that this program knows.
    Answer(String),
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ToolError::Output(error) => write!(f, "writing the output: {error}"),
            ToolError::Journal(error) => error.fmt(f),
            ToolError::Index(error) => error.fmt(f),
            ToolError::Lock(error) => error.fmt(f),
            ToolError::Repair(error) => error.fmt(f),
            ToolError::Follow(error) => error.fmt(f),
            ToolError::File { path, source } => write!(f, "reading {}: {source}", path.display()),
            ToolError::Write { path, source } => write!(f, "writing {}: {source}", path.display()),
            ToolError::Program { path, source } => {
                write!(f, "running {}: {source}", path.display())
            }
            ToolError::Argument(why) => f.write_str(why),
            ToolError::Sidecar(error) => error.fmt(f),
            ToolError::Answer(what) => write!(f, "the sidecar's answer is not understood: {what}"),
        }
    }
}

impl From<io::Error> for ToolError {
    fn from(error: io::Error) -> ToolError {
        ToolError::Output(error)
    }
}

impl From<ReadError> for ToolError {
    fn from(error: ReadError) -> ToolError {
        ToolError::Journal(error)
    }
}

impl From<FollowError> for ToolError {
    fn from(error: FollowError) -> ToolError {
        ToolError::Follow(error)
    }
}

impl From<IndexError> for ToolError {
    fn from(error: IndexError) -> ToolError {
        ToolError::Index(error)
    }
}

impl From<LockError> for ToolError {
    fn from(error: LockError) -> ToolError {
        ToolError::Lock(error)
    }
}

impl From<RepairError> for ToolError {
    fn from(error: RepairError) -> ToolError {
        ToolError::Repair(error)
    }
}

impl From<QmpError> for ToolError {
    fn from(error: QmpError) -> ToolError {
        ToolError::Sidecar(error)
    }
}
