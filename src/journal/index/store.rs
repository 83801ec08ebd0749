//! The store under the index: sled, held at arm's length.
//! Invariant: whatever it does, also a panic, is an error of the index and of nothing else; it is
//! noticed when its files are deleted or put back from elsewhere.
//! Not here: keys and values (`keys`).

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use super::IndexError;

/// Bytes of cache, at the most.
const CACHE_SIZE_MAX: u64 = 4 * 1024 * 1024;
/// The store's file in the index's directory; it is locked as long as the store is open.
const FILE_NAME: &str = "db";

/// How often an index that is in use is looked at again: a process that its last user starts at that
/// moment holds its lock until it is itself.
const IN_USE_LOOKS_MAX: u32 = 10;
/// What passes between two looks.
const IN_USE_PAUSE: Duration = Duration::from_millis(5);

/// A file, whatever its name: its device and its number there.
type FileId = (u64, u64);

/// An open store.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    /// `None` only while it is dropped.
    db: Option<sled::Db>,
    /// The file that is open.
    file: Option<FileId>,
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<Store, IndexError> {
        drop(take(directory)?);
        let open = || {
            sled::Config::new()
                .path(directory)
                .cache_capacity(CACHE_SIZE_MAX)
                .mode(sled::Mode::LowSpace)
                .flush_every_ms(None)
                .open()
        };
        let db = guard(directory, "open", open)?;
        Ok(Store {
            directory: directory.to_path_buf(),
            db: Some(db),
            file: file_id(directory),
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Closes it and opens it again: what it keeps in memory is let go.
    pub(super) fn open_anew(&mut self) -> Result<(), IndexError> {
        let db = self.db.take();
        guard(&self.directory, "close", || {
            drop(db);
            Ok(())
        })?;
        *self = Store::open(&self.directory)?;
        Ok(())
    }

    /// Somebody deleted the store's file, or put another one in its place: what is written now would
    /// be found by nobody.
    pub(super) fn is_gone(&self) -> bool {
        self.file.is_none() || file_id(&self.directory) != self.file
    }

    /// Runs something that reads.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&sled::Db) -> Result<T, sled::Error>,
    ) -> Result<T, IndexError> {
        self.run("read", work)
    }

    /// Runs something of the store.
    pub(super) fn run<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&sled::Db) -> Result<T, sled::Error>,
    ) -> Result<T, IndexError> {
        match &self.db {
            Some(db) => guard(&self.directory, doing, || work(db)),
            None => Err(failed(&self.directory, doing, "it is closed".to_owned())),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Closing writes, and panics when it cannot.
        let db = self.db.take();
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::warn!(directory = %self.directory.display(), "the index could not be closed");
        }
    }
}

fn failed(directory: &Path, doing: &'static str, cause: String) -> IndexError {
    IndexError::Store {
        directory: directory.to_path_buf(),
        doing,
        cause,
    }
}

/// Runs something of the store. It is known to panic on files that it finds damaged: that is an error
/// like any other here.
fn guard<T>(
    directory: &Path,
    doing: &'static str,
    work: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, IndexError> {
    let cause = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the store panicked".to_owned(),
    };
    Err(failed(directory, doing, cause))
}

fn file_id(directory: &Path) -> Option<FileId> {
    let metadata = fs::metadata(directory.join(FILE_NAME)).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The lock of the index that is there, if there is one, for as long as the file is open. An index that
/// somebody else is at work on is not damaged, and not to be deleted.
pub(super) fn take(directory: &Path) -> Result<Option<File>, IndexError> {
    // What is no file cannot be locked; opening the store says what it is. Opening a pipe would wait
    // for its writer, for ever perhaps.
    let path = directory.join(FILE_NAME);
    let is_file = fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
    let Some(file) = is_file.then(|| File::open(path).ok()).flatten() else {
        return Ok(None);
    };
    for _ in 0..IN_USE_LOOKS_MAX {
        match file.try_lock() {
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => thread::sleep(IN_USE_PAUSE),
        }
    }
    Err(IndexError::InUse {
        directory: directory.to_path_buf(),
    })
}

/// The store reads its file in small pieces and waits for each: from a disk that takes most of the time that opening
/// it takes. Where asking for all of it at once is refused, it is only slower.
pub(super) fn ask_for(directory: &Path) {
    let path = directory.join(FILE_NAME);
    if is_there(directory)
        && let Ok(file) = File::open(path)
    {
        let _ = fadvise(&file, 0, None, Advice::WillNeed);
    }
}

/// Is there a store in `directory`?
pub(super) fn is_there(directory: &Path) -> bool {
    fs::metadata(directory.join(FILE_NAME)).is_ok_and(|metadata| metadata.is_file())
}

/// Deletes an index that nobody is at work on.
///
/// # Errors
/// [`IndexError::InUse`], [`IndexError::Store`]; none when there is no index.
pub(super) fn remove(directory: &Path) -> Result<(), IndexError> {
    let _held = take(directory)?;
    let removed = match fs::symlink_metadata(directory) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(directory),
        Ok(_) => fs::remove_file(directory),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(directory, "delete", error.to_string()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
