//! The disks that a migration copies, as they go in and out.
//!
//! Invariant: a node is copied once, and what does not fit is refused before anything was begun.
//! Not here: how they are copied (`disks`).

use core::fmt;
use std::collections::BTreeSet;

use journal_format::record::{DISKS_MAX, DiskSync, NODE_NAME_SIZE_MAX};
use serde::{Deserialize, Serialize};

/// Longest address that is taken for NBD, in bytes.
const NBD_SIZE_MAX: usize = 256;

/// The disks that a migration shall copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisksWanted {
    /// Where the destination serves them by NBD (`unix:PATH`, `tcp:HOST:PORT`); it chooses if absent.
    pub nbd: Option<String>,
    /// How much of each.
    pub sync: DiskSync,
    /// Which, by the names of their nodes here and there.
    pub disks: Vec<DiskNames>,
}

/// A disk's nodes in the two block graphs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskNames {
    /// At the source.
    pub source: String,
    /// At the destination.
    pub destination: String,
}

impl DisksWanted {
    /// Can these be copied, whatever QEMU has?
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check(&self) -> Result<(), DisksRefused> {
        if self.disks.is_empty() {
            return Err(DisksRefused::NoneNamed);
        }
        check_nodes(self.disks.iter().map(|disk| disk.source.as_str()))?;
        check_nodes(self.disks.iter().map(|disk| disk.destination.as_str()))?;
        check_nbd(self.nbd.as_deref())
    }
}

/// What a source wants to copy, for the destination's prepare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DisksOffered {
    /// Where to serve them; the destination chooses if absent.
    pub nbd: Option<String>,
    /// How much of each.
    pub sync: DiskSync,
    /// Which.
    pub disks: Vec<DiskOffered>,
}

/// A disk, for the destination's prepare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskOffered {
    /// Its node at the source.
    pub source: String,
    /// Its node at the destination.
    pub destination: String,
    /// Its size at the source, in bytes.
    pub size: u64,
}

impl DisksOffered {
    /// As [`DisksWanted::check`], of what another sidecar sent.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check(&self) -> Result<(), DisksRefused> {
        let name = |disk: &DiskOffered| DiskNames {
            source: disk.source.clone(),
            destination: disk.destination.clone(),
        };
        let wanted = DisksWanted {
            nbd: self.nbd.clone(),
            sync: self.sync,
            disks: self.disks.iter().map(name).collect(),
        };
        wanted.check()
    }
}

fn check_nodes<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), DisksRefused> {
    let mut seen = BTreeSet::new();
    for name in names {
        let is_name = (1..=NODE_NAME_SIZE_MAX).contains(&name.len());
        if !is_name || name.chars().any(char::is_control) {
            return Err(DisksRefused::NoNode);
        }
        if !seen.insert(name) {
            return Err(DisksRefused::Twice {
                node: name.to_owned(),
            });
        }
        if seen.len() > DISKS_MAX {
            return Err(DisksRefused::TooMany);
        }
    }
    Ok(())
}

fn check_nbd(address: Option<&str>) -> Result<(), DisksRefused> {
    let Some(text) = address else { return Ok(()) };
    let is_plain = text.len() <= NBD_SIZE_MAX && !text.chars().any(char::is_control);
    match NbdAddress::parse(text).filter(|_| is_plain) {
        Some(_) => Ok(()),
        None => Err(DisksRefused::NoAddress),
    }
}

/// Is this the address of a socket of this host, as a sidecar chooses one that was asked for none?
pub(crate) fn is_own_socket(address: &str) -> bool {
    let is_socket = matches!(NbdAddress::parse(address), Some(NbdAddress::Unix { .. }));
    is_socket && check_nbd(Some(address)).is_ok()
}

/// Where disks are served by NBD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NbdAddress<'a> {
    /// A socket of this host.
    Unix { path: &'a str },
    /// A port of a host.
    Tcp { host: &'a str, port: &'a str },
}

impl<'a> NbdAddress<'a> {
    /// `unix:PATH`, with the whole path, or `tcp:HOST:PORT`, written as migration URIs are.
    pub(crate) fn parse(text: &'a str) -> Option<NbdAddress<'a>> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.starts_with('/').then_some(NbdAddress::Unix { path });
        }
        let (host, port) = text.strip_prefix("tcp:")?.rsplit_once(':')?;
        let is_port = port.parse::<u16>().is_ok_and(|number| number > 0);
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        (!host.is_empty() && is_port).then_some(NbdAddress::Tcp { host, port })
    }
}

/// Why disks are not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DisksRefused {
    /// No disk at all.
    NoneNamed,
    /// More than [`DISKS_MAX`].
    TooMany,
    /// What no node is called.
    NoNode,
    /// One node named twice.
    Twice {
        /// Its name.
        node: String,
    },
    /// No address for NBD.
    NoAddress,
    /// QEMU did not say what nodes it has.
    Unread,
    /// QEMU has no such node.
    NoSuchNode {
        /// Its name.
        node: String,
    },
    /// QEMU does not say how large the node is.
    NoSize {
        /// Its name.
        node: String,
    },
    /// The disk has another size at the source.
    OtherSize {
        /// The node at the destination.
        node: String,
        /// Its size in bytes.
        size: u64,
        /// The size at the source.
        source: u64,
    },
}

impl fmt::Display for DisksRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DisksRefused::NoneNamed => f.write_str("copy-disks names no disk"),
            DisksRefused::TooMany => {
                write!(f, "copy-disks names more than {DISKS_MAX} disks")
            }
            DisksRefused::NoNode => write!(
                f,
                "copy-disks: a node's name has 1 to {NODE_NAME_SIZE_MAX} bytes and no control characters"
            ),
            DisksRefused::Twice { node } => write!(f, "copy-disks names node '{node}' twice"),
            DisksRefused::NoAddress => {
                f.write_str("copy-nbd must be unix:PATH, with a whole path, or tcp:HOST:PORT")
            }
            DisksRefused::Unread => f.write_str("copy-disks: QEMU did not say which nodes it has"),
            DisksRefused::NoSuchNode { node } => {
                write!(f, "copy-disks: QEMU has no node '{node}'")
            }
            DisksRefused::NoSize { node } => {
                write!(
                    f,
                    "copy-disks: QEMU does not say how large node '{node}' is"
                )
            }
            DisksRefused::OtherSize { node, size, source } => write!(
                f,
                "copy-disks: node '{node}' has {size} bytes, and the disk at the source {source}"
            ),
        }
    }
}

impl core::error::Error for DisksRefused {}
