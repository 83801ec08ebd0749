//! The writer's lock, for those who only need that nobody writes.
//! Invariant: nothing is written, not even the lock's file, and a holder is never waited for.
//! Not here: taking it as the writer (`open`).

use core::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::LOCK_NAME;

/// Most bytes of the lock file that are believed.
const HOLDER_SIZE_MAX: u64 = 20;

/// Nobody opens the journal for writing as long as this lives. Others may have one too.
#[derive(Debug)]
pub struct NoWriter {
    /// `None`: there is no lock file, as in a copy that was made by hand; nobody has it open.
    file: Option<File>,
}

/// Why there is no saying that nobody writes.
#[derive(Debug)]
pub enum LockError {
    /// A writer has the journal open.
    InUse {
        /// The journal's directory.
        directory: PathBuf,
        /// The writer's process, if it said.
        holder: Option<u32>,
    },
    /// The system refused.
    Io {
        /// The lock file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::InUse { directory, holder } => {
                write!(f, "the journal {} is in use", directory.display())?;
                match holder {
                    Some(holder) => write!(f, " by process {holder}"),
                    None => Ok(()),
                }
            }
            LockError::Io { file, source } => {
                write!(f, "could not lock {}: {source}", file.display())
            }
        }
    }
}

impl std::error::Error for LockError {}

impl NoWriter {
    /// Makes sure that nobody has the journal in `directory` open for writing, and keeps it so.
    ///
    /// # Errors
    /// [`LockError::InUse`] when somebody has, and what the system refuses.
    pub fn of(directory: &Path) -> Result<NoWriter, LockError> {
        let path = directory.join(LOCK_NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(NoWriter { file: None });
            }
            Err(source) => return Err(LockError::Io { file: path, source }),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(NoWriter { file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.take(HOLDER_SIZE_MAX).read_to_string(&mut text);
                let holder = read.ok().and_then(|_| text.trim().parse().ok());
                Err(LockError::InUse {
                    directory: directory.to_path_buf(),
                    holder,
                })
            }
            Err(TryLockError::Error(source)) => Err(LockError::Io { file: path, source }),
        }
    }
    /// Whether it keeps writers out: it cannot where there is no lock file, which only writers make.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.file.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_may_need_that_nobody_writes_and_none_of_them_writes() {
        let directory = tempfile::tempdir().unwrap();
        let none = NoWriter::of(directory.path()).unwrap();
        assert!(!none.is_held());
        let path = directory.path().join(LOCK_NAME);
        assert!(!path.exists(), "nothing is made");

        std::fs::write(&path, "4711                ").unwrap();
        let first = NoWriter::of(directory.path()).unwrap();
        let second = NoWriter::of(directory.path()).unwrap();
        assert!(first.is_held() && second.is_held());
        let writer = File::open(&path).unwrap();
        assert!(matches!(writer.try_lock(), Err(TryLockError::WouldBlock)));
        drop((first, second));
        writer.try_lock().unwrap();
        let error = NoWriter::of(directory.path()).unwrap_err();
        assert!(
            error.to_string().ends_with("is in use by process 4711"),
            "{error}"
        );
    }
}
