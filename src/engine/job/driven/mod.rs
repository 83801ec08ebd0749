//! Migrations that their manager drives itself, on one side: the manager runs the protocol and is the authority.
//!
//! Invariant: whose the guest is, only the manager's word says, or an operator's. Here that word is the phase: confirm3 or
//! confirm3_cancelled at the source; at the destination the intent of `cont`, or of QEMU's end, in finish3.
//! Not here: migrations that two sidecars drive (`source`, `destination`); which commands belong into a phase (`legal`).

mod cookie;
mod decide;
mod pair;
mod recognise;
mod recover;
mod request;

#[cfg(test)]
pub(crate) use cookie::Carried;
pub(super) use decide::{decide, is_its_managers};
pub(super) use pair::Pairing;
pub(in crate::engine) use pair::{Finder, Sought};
pub(in crate::engine) use recognise::goes_to_a_file;
pub(super) use recover::left;
pub(super) use request::{is_past_cancelling, is_said_again};

use journal_format::record::{JobKind, JobPhase, Phase, Role};

/// The side of such a migration; `None` for any other job.
pub(crate) const fn role(kind: JobKind) -> Option<Role> {
    match kind {
        JobKind::MigrationOut => Some(Role::Source),
        JobKind::MigrationIn => Some(Role::Destination),
        JobKind::Save
        | JobKind::Dump
        | JobKind::Snapshot
        | JobKind::Start
        | JobKind::Restore
        | JobKind::Backup
        | JobKind::Destroy
        | JobKind::Suspend
        | JobKind::Modify
        | JobKind::Query
        | JobKind::Abort => None,
    }
}

/// The phase as migrations name it, for what is kept of a job that ended.
pub(crate) const fn phase(phase: JobPhase) -> Option<Phase> {
    match phase {
        JobPhase::Begin3 => Some(Phase::Begin3),
        JobPhase::Perform3 => Some(Phase::Perform3),
        JobPhase::Perform3Done => Some(Phase::Perform3Done),
        JobPhase::Confirm3 => Some(Phase::Confirm3),
        JobPhase::Confirm3Cancelled => Some(Phase::Confirm3Cancelled),
        JobPhase::Finish3 => Some(Phase::Finish3),
        JobPhase::Begin
        | JobPhase::Prepare
        | JobPhase::Perform
        | JobPhase::Finish
        | JobPhase::Cancel => None,
    }
}
