//! The disks that a migration copies, for guests whose disks are not shared.
//! Invariant: a record of them says all of it anew: the last one is what holds.
//! Not here: how they are copied (the engine).

use core::fmt;

use serde::{Deserialize, Serialize};

use super::vocabulary::words;
use crate::number::Lsn;

/// Most disks that one migration copies.
pub const DISKS_MAX: usize = 16;

/// Longest name of a node in QEMU's block graph, in bytes.
pub const NODE_NAME_SIZE_MAX: usize = 31;

words!(
    /// How much of a disk is copied (`sync` of QEMU's `blockdev-mirror`).
    DiskSync {
        /// All of it.
        Full = "full",
        /// Its topmost image only: the destination has the ones below.
        Top = "top",
    }
);

/// One disk that is copied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskCopy {
    /// Its node at the source.
    pub source: String,
    /// Its node at the destination.
    pub destination: String,
    /// Its size in bytes, the same on both sides.
    pub size: u64,
}

/// The disks that a migration copies: right behind its `job-begun`, whenever it changes, and behind its
/// `migration-state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationDisks {
    /// The job.
    pub job: Lsn,
    /// Where the destination serves them by NBD; at the source what was asked for, until `peer-prepared`.
    pub nbd: Option<String>,
    /// How much of each.
    pub sync: DiskSync,
    /// Which.
    pub disks: Vec<DiskCopy>,
    /// Source: the guest stood still and every mirror ended with all of its disk written; nothing of them is left.
    /// Destination: nothing is served any more.
    pub settled: bool,
}
