//! The cookie that the manager of a migration brings from the source's sidecar to the destination's.
//!
//! Invariant: what was changed on the way, or is cut short, is not read; the manager's own data comes out as it went in.
//! Not here: what follows from it (`request`).

use core::fmt;

use journal_format::number::{DomainId, Position};
use journal_format::record::{JOB_COOKIE_SIZE_MAX, WantedRunState, definition_checksum};
use serde::{Deserialize, Serialize};

/// Largest such cookie, in bytes: the manager's data, every byte of which JSON may write as six, and what is around it.
pub(super) const COOKIE_SIZE_MAX: usize = 6 * JOB_COOKIE_SIZE_MAX + 512;

const HEAD: &str = "phase-journal-1:";

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Carried {
    /// The guest.
    pub(crate) domain: DomainId,
    /// Where the source recorded that its QEMU had sent everything.
    pub(crate) granted: Position,
    /// What the guest's owner wanted last.
    pub(crate) wanted: WantedRunState,
    /// The manager's own data at the source.
    pub(crate) data: Option<String>,
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{HEAD}{:08x}:{text}", definition_checksum(&text))
    }
}

impl Carried {
    /// Reads what [`Display`](fmt::Display) writes; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Carried> {
        let (checksum, json) = text.strip_prefix(HEAD)?.split_once(':')?;
        let is_it = checksum == format!("{:08x}", definition_checksum(json));
        let carried: Carried = is_it.then(|| serde_json::from_str(json).ok())??;
        let is_bounded = |data: &String| data.len() <= JOB_COOKIE_SIZE_MAX;
        carried
            .data
            .as_ref()
            .is_none_or(is_bounded)
            .then_some(carried)
    }
}
