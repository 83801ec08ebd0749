//! Why something could not be measured.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be measured.
#[derive(Debug)]
pub enum Failure {
    /// The system refused.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A store failed, ours or a peer.
    Store {
        /// Which.
        name: &'static str,
        /// What was being done.
        doing: &'static str,
        /// Its error.
        why: String,
    },
    /// What was measured is not what should have been.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Io {
                doing,
                path,
                source,
            } => write!(f, "could not {doing} {}: {source}", path.display()),
            Failure::Store { name, doing, why } => write!(f, "{name} could not {doing}: {why}"),
            Failure::Wrong(why) => f.write_str(why),
        }
    }
}

impl core::error::Error for Failure {}

impl Failure {
    /// Of a call to the system.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
        move |source| Failure::Io {
            doing,
            path: path.to_path_buf(),
            source,
        }
    }

    /// Of a store.
    pub fn store<E: fmt::Display>(
        name: &'static str,
        doing: &'static str,
    ) -> impl FnOnce(E) -> Failure {
        move |error| Failure::Store {
            name,
            doing,
            why: error.to_string(),
        }
    }
}
