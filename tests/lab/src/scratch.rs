//! One directory per scenario, with short paths, removed at the end.
//!
//! Invariant: two scenarios never share a directory, in one process or in several.
//!
//! Not here: what lies in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, io, process};

use crate::Error;

/// Longest path that fits into `sockaddr_un` with its closing zero, in bytes.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Set to keep every scratch directory for a look afterwards.
const KEEP: &str = "PHASE_JOURNAL_LAB_KEEP";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A scenario's directory under the system's temporary directory. Removed on drop, unless the
/// environment has `PHASE_JOURNAL_LAB_KEEP`.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty directory that nobody else has.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn create() -> Result<Scratch, Error> {
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = env::temp_dir().join(format!("pjl-{}-{number}", process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Scratch { path }),
                // Left by an earlier process of the same id that was killed.
                Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {}
                Err(problem) => return Err(Error::io("creating", &path)(problem)),
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it and returns its path.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made, as when it is there.
    pub fn directory(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(Error::io("creating", &path))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if env::var_os(KEEP).is_some() {
            eprintln!("kept: {}", self.path.display());
        } else if let Err(problem) = fs::remove_dir_all(&self.path) {
            eprintln!("could not remove {}: {problem}", self.path.display());
        }
    }
}

/// Copies a directory of files and directories (a journal, say) to a place that does not exist yet.
///
/// # Errors
/// [`Error::Io`] with the file that could not be read or written.
pub fn copy_directory(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir(to).map_err(Error::io("creating", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("listing", from))? {
        let entry = entry.map_err(Error::io("listing", from))?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if entry
            .file_type()
            .map_err(Error::io("looking at", &old))?
            .is_dir()
        {
            copy_directory(&old, &new)?;
        } else {
            fs::copy(&old, &new).map_err(Error::io("copying", &old))?;
        }
    }
    Ok(())
}

/// Refuses a socket path that the system would cut off.
pub(crate) fn socket_path(path: PathBuf) -> Result<PathBuf, Error> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(Error::PathTooLong {
            path,
            max: SOCKET_PATH_BYTES_MAX,
        });
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_not_one_and_both_go_away() {
        let (one, two) = (Scratch::create().unwrap(), Scratch::create().unwrap());
        assert_ne!(one.path(), two.path());
        fs::write(one.directory("d").unwrap().join("f"), b"x").unwrap();
        let gone = one.path().to_path_buf();
        drop(one);
        assert!(!gone.exists() && two.path().exists());
    }

    #[test]
    fn a_copy_has_every_file() {
        let scratch = Scratch::create().unwrap();
        let from = scratch.directory("from").unwrap();
        fs::create_dir(from.join("deep")).unwrap();
        fs::write(from.join("deep/file"), b"bytes").unwrap();
        let to = scratch.path().join("to");
        copy_directory(&from, &to).unwrap();
        assert_eq!(fs::read(to.join("deep/file")).unwrap(), b"bytes");
        assert!(
            copy_directory(&from, &to).is_err(),
            "an older copy must not be mixed in"
        );
    }

    #[test]
    fn the_longest_socket_path_passes_and_one_byte_more_does_not() {
        let path = |bytes: usize| PathBuf::from(format!("/{}", "x".repeat(bytes - 1)));
        assert!(socket_path(path(SOCKET_PATH_BYTES_MAX)).is_ok());
        assert!(matches!(
            socket_path(path(SOCKET_PATH_BYTES_MAX + 1)),
            Err(Error::PathTooLong { .. })
        ));
    }
}
