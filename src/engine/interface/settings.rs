//! What can be asked of a migration beside its terms.
//!
//! Invariant: none of it has to be there.
//! Not here: which of it is taken (`settings`).

use journal_format::record::{PostcopyAfter, Settings};

/// What QEMU is told for a migration, and the times that it keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrateOptions {
    /// Capabilities and parameters of QEMU's.
    pub settings: Settings,
    /// When it goes over into post-copy by itself.
    pub postcopy_after: Option<PostcopyAfter>,
    /// Seconds after its begin, after which it is given up if it is not past its point of no return.
    pub deadline: Option<u64>,
}
