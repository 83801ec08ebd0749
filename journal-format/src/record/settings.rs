//! What QEMU is told about how it migrates: capabilities and parameters.
//! Invariant: names are QEMU's own, and each stands once; what a side of a migration needs of QEMU is said here
//! and nowhere else.
//! Not here: which of them a migration may be told (the engine), how they reach QEMU.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::vocabulary::Role;
use crate::number::Lsn;

/// Most capabilities, and most parameters, that one migration is told.
pub const SETTINGS_MAX: usize = 64;

/// Most bytes of their names and texts together: with them a record stays within its limit.
pub const SETTINGS_SIZE_MAX: usize = 4096;

/// A migration capability of QEMU's (`query-migrate-capabilities`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Capability {
    /// Its name.
    pub name: String,
    /// On or off.
    pub state: bool,
}

/// A migration parameter of QEMU's (`query-migrate-parameters`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What it is.
    pub value: ParameterValue,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParameterValue {
    /// True or false.
    Bool(bool),
    /// A whole number, 0 or more.
    Number(u64),
    /// A string, or a word of QEMU's.
    Text(String),
}

impl ParameterValue {
    /// Its type as people call it.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            ParameterValue::Bool(_) => "true or false",
            ParameterValue::Number(_) => "a whole number",
            ParameterValue::Text(_) => "a string",
        }
    }
}

impl fmt::Display for ParameterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParameterValue::Bool(value) => value.fmt(f),
            ParameterValue::Number(value) => value.fmt(f),
            ParameterValue::Text(value) => write!(f, "'{value}'"),
        }
    }
}

/// Capabilities and parameters, each in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Capabilities.
    pub capabilities: Vec<Capability>,
    /// Parameters.
    pub parameters: Vec<Parameter>,
}

impl Settings {
    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.capabilities.is_empty() && self.parameters.is_empty()
    }

    /// Bytes of all names and texts.
    #[must_use]
    pub fn size(&self) -> usize {
        let of_parameter = |one: &Parameter| match &one.value {
            ParameterValue::Bool(_) | ParameterValue::Number(_) => one.name.len(),
            ParameterValue::Text(text) => one.name.len() + text.len(),
        };
        let capabilities = self.capabilities.iter().map(|one| one.name.len());
        capabilities
            .chain(self.parameters.iter().map(of_parameter))
            .sum()
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for one in &self.capabilities {
            let state = if one.state { "on" } else { "off" };
            write!(f, "{between}{} {state}", one.name)?;
            between = ", ";
        }
        for one in &self.parameters {
            write!(f, "{between}{} {}", one.name, one.value)?;
            between = ", ";
        }
        Ok(())
    }
}

/// When a migration goes over into post-copy by itself, if it has not converged before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostcopyAfter {
    /// So many seconds after it began.
    Seconds(u64),
    /// After so many passes over the guest's memory.
    Passes(u64),
}

impl fmt::Display for PostcopyAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PostcopyAfter::Seconds(count) => write!(f, "{count} s"),
            PostcopyAfter::Passes(count) => write!(f, "{count} passes"),
        }
    }
}

/// What a migration is told beside its terms; also restated behind its `migration-state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationSettings {
    /// The job.
    pub job: Lsn,
    /// When it began, in nanoseconds since 1970.
    pub time: u64,
    /// What this side's QEMU is told. At the source all that was asked for, at the destination what it must have too.
    pub settings: Settings,
    /// Source: when it goes over into post-copy.
    pub postcopy_after: Option<PostcopyAfter>,
    /// Source: it is given up if it is not past its point of no return so many seconds after it began.
    pub deadline: Option<u64>,
}

/// What QEMU's settings were before this job changed them, those alone that it changes; also restated behind its
/// `migration-state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingsKept {
    /// The job.
    pub job: Lsn,
    /// A change was intended.
    pub changed: bool,
    /// As they were.
    pub settings: Settings,
}

/// What each side of a migration needs. Without return-path the source says completed
/// though the destination loaded nothing; without pause-before-switchover there is no last moment at
/// which giving up is safe; late-block-activate keeps a whole copy that has no licence from taking
/// the images' locks. Post-copy has to be there on both sides from the start.
#[must_use]
pub fn needed_capabilities(role: Role, postcopy: bool) -> [(&'static str, bool); 4] {
    let own = match role {
        Role::Source => "pause-before-switchover",
        Role::Destination => "late-block-activate",
    };
    [
        ("events", true),
        ("return-path", true),
        (own, true),
        ("postcopy-ram", postcopy),
    ]
}

/// The checksum that a definition carries from one sidecar to the other: CRC-32 as in F3, neither salted nor masked.
/// Of a text that is larger than CRC-32 is strong for (F14) it tells a mix-up, not an attacker.
#[must_use]
pub fn definition_checksum(text: &str) -> u32 {
    crc32fast::hash(text.as_bytes())
}
