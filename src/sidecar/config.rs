//! What the sidecar is told at its start, and where its files lie.
//!
//! Invariant: all paths are absolute from here on.
//! Not here: reading the command line (`bin/phase-journald`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::store::Store;
use crate::journal::Retention;
use crate::node::CrashSwitch;

/// Longest path of a Unix socket, in bytes, without the final zero (`sun_path` of unix(7)).
pub const SOCKET_PATH_SIZE_MAX: usize = 107;

/// Sidecars that one can be told to look for the other side of a migration at, at the most.
pub(crate) const PEERS_MAX: usize = 64;

/// How the daemon writes its log to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Everything from the command line that matters after it was read.
#[derive(Clone, Debug)]
pub struct Config {
    /// The journal's directory; made if missing.
    pub journal: PathBuf,
    /// The directory of the sockets and the witness; made if missing.
    pub run: PathBuf,
    /// Open a journal although the witness knows a newer one.
    pub accept_older_journal: bool,
    /// How much of the journal's past is kept.
    pub retention: Retention,
    /// Test switch.
    pub crash: CrashSwitch,
    /// Peer sockets of other sidecars, where the other side of a migration that a client drives may be; at most
    /// 64.
    pub peers: Vec<PathBuf>,
    /// The store that may be a migration's authority, if there is one.
    pub store: Option<Arc<dyn Store>>,
}

impl Config {
    /// The operators' and managers' socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// The directory of the domains' monitors.
    #[must_use]
    pub fn domains_directory(&self) -> PathBuf {
        self.run.join("domains")
    }

    /// The other sidecars' socket.
    #[must_use]
    pub fn peer_socket(&self) -> PathBuf {
        self.run.join("peer.sock")
    }
}

/// Whether a path fits into the address of a Unix socket.
pub(crate) fn fits_socket_address(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_SIZE_MAX
}
