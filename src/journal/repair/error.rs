//! Why a journal was not copied.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use journal_format::number::Lsn;

use crate::journal::lock::LockError;
use crate::journal::read::ReadError;

/// Why there is no copy. Nothing of the journal was changed, and nothing is left of the copy.
#[derive(Debug)]
pub enum RepairError {
    /// The system refused.
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What was being done to it.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The copy's directory is there, and is no empty directory.
    NotEmpty {
        /// The copy's directory.
        directory: PathBuf,
    },
    /// The copy's directory would lie in the journal's.
    Inside {
        /// The copy's directory.
        directory: PathBuf,
    },
    /// A writer has the journal open.
    Lock(LockError),
    /// The journal, or the copy, could not be read.
    Journal(ReadError),
    /// Not one segment's header can be read: there is nothing that could be saved.
    NothingReadable {
        /// The journal's directory.
        directory: PathBuf,
    },
    /// It was written in a version of the format that this program does not know.
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// The version.
        version: u32,
    },
    /// What was read back from the copy is not what the journal holds.
    Differs {
        /// The first record from which on they differ.
        from: Lsn,
    },
}

impl RepairError {
    pub(super) fn io(file: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> RepairError {
        move |source| RepairError::Io {
            file: file.to_path_buf(),
            doing,
            source,
        }
    }
}

impl fmt::Display for RepairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepairError::Io {
                file,
                doing,
                source,
            } => write!(f, "could not {doing} {}: {source}", file.display()),
            RepairError::NotEmpty { directory } => {
                write!(f, "{} is no empty directory", directory.display())
            }
            RepairError::Inside { directory } => {
                write!(
                    f,
                    "{} would lie in the journal's own directory",
                    directory.display()
                )
            }
            RepairError::Lock(error) => error.fmt(f),
            RepairError::Journal(error) => error.fmt(f),
            RepairError::NothingReadable { directory } => write!(
                f,
                "not one segment's header can be read in {}: there is nothing to be saved",
                directory.display()
            ),
            RepairError::NewerFormat { file, version } => write!(
                f,
                "{} is in version {version} of the format, which this program does not know",
                file.display()
            ),
            RepairError::Differs { from } => write!(
                f,
                "the copy, read back, is not what the journal holds from lsn {from} on"
            ),
        }
    }
}

impl std::error::Error for RepairError {}

impl From<LockError> for RepairError {
    fn from(error: LockError) -> RepairError {
        RepairError::Lock(error)
    }
}

impl From<ReadError> for RepairError {
    fn from(error: ReadError) -> RepairError {
        RepairError::Journal(error)
    }
}
