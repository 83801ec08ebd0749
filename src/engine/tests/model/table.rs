//! The mutants of the rules and of the handover's facts, and where each is caught.
//!
//! Invariant: a row is one wrong rule and the smallest faults that were found to catch it.
//! Not here: how a mutant is put in the engine's place (`mutants`).

mod manager;
mod postcopy;
mod runs;
mod store;

use journal_format::record::{ContIntent, Evidence, MigrationStatus, PeerAnswer, Phase, Role};

use super::mutants::Row;
use super::scenario::{Faults, Handover, NONE};
use crate::engine::Rule;
use crate::engine::decide::is_whole;

pub(crate) use runs::RUNS;

const V2: Handover = Handover::V2;
const V3: Handover = Handover::V3;

/// All rows.
pub(crate) fn table() -> impl Iterator<Item = &'static Row> {
    let others = postcopy::ROWS.iter().chain(store::ROWS);
    ROWS.iter().chain(others).chain(manager::ROWS)
}

/// The rows of v2 and v3, in the order of the decision table; then the facts of the handover and their order.
const ROWS: &[Row] = &[
    Row::rule(
        Rule::ClaimedByAnother,
        Rule::SourceAbandoned,
        "goes on though the journal knows no claim",
    )
    .breaks(
        "P2",
        V3,
        Faults {
            rollbacks: [1, 0],
            crashes: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::JournalOlderThanQemu,
        Rule::SourceAbandoned,
        "goes on with an older journal",
    )
    .breaks(
        "P2",
        V3,
        Faults {
            rollbacks: [1, 0],
            crashes: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::JournalDamaged,
        Rule::SourceAbandoned,
        "goes on with a damaged journal",
    )
    .breaks(
        "P2",
        V3,
        Faults {
            damages: [1, 0],
            crashes: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::QemuMute,
        Rule::SourcePerformCompleted,
        "takes silence for completed",
    )
    .when(source)
    .breaks(
        "P4",
        V3,
        Faults {
            mutes: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::QemuMute,
        Rule::DestinationPrepareFailed,
        "takes silence for a failed stream",
    )
    .when(destination)
    .breaks(
        "P3",
        V2,
        Faults {
            mutes: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourceBeginUndone,
        Rule::SourceCommittedDead,
        "ends the job without giving up",
    )
    .breaks("P4", V3, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::SourceBeginDead,
        Rule::SourceCommittedDead,
        "ends the job without giving up",
    )
    .breaks(
        "P4",
        V3,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourcePerformGiveUp,
        Rule::SourcePerformCompleted,
        "grants what was not completed",
    )
    .breaks("P2", V3, Faults { device: 1, ..NONE }),
    Row::rule(
        Rule::SourcePerformRunning,
        Rule::SourceConfirm,
        "kills the copy that runs",
    )
    .breaks("P3", V3, Faults { foreign: 1, ..NONE }),
    Row::rule(
        Rule::SourcePerformCompleted,
        Rule::SourceConfirm,
        "kills on completed",
    )
    .breaks("P3", V3, NONE),
    Row::rule(
        Rule::SourcePerformDeadWatched,
        Rule::SourcePerformDeadNotWhole,
        "closes though the other copy is whole",
    )
    .breaks(
        "P3",
        V3,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourcePerformDeadUnwatched,
        Rule::SourcePerformDeadWatched,
        "grants though this copy may have run on",
    )
    .breaks(
        "P2",
        V3,
        Faults {
            device: 1,
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourcePerformDeadAsking,
        Rule::SourcePerformDeadNotWhole,
        "closes without asking",
    )
    .breaks(
        "P3",
        V3,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourcePerformDeadNotWhole,
        Rule::SourceCommittedDead,
        "ends the job without giving up",
    )
    .breaks(
        "P4",
        V3,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourcePerform2Completed,
        Rule::SourcePerform2Whole,
        "commits without asking",
    )
    .breaks(
        "P3",
        V2,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourcePerform2Whole,
        Rule::SourceCommitted,
        "kills before the commit is durable",
    )
    .breaks("P4", V2, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::SourcePerform2Gone,
        Rule::SourcePerform2Whole,
        "commits though the other copy is gone",
    )
    .breaks(
        "P3",
        V2,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourcePerform2Amnesia,
        Rule::SourceCommitted,
        "kills on the word of a lost journal",
    )
    .breaks(
        "P4",
        V2,
        Faults {
            journals_lost: [0, 1],
            crashes: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourceCommitted,
        Rule::SourceAbandoned,
        "resumes after the commit",
    )
    .breaks("P2", V2, NONE),
    Row::rule(
        Rule::SourceCommitted,
        Rule::SourceCommittedDead,
        "gives the licence before its copy is gone",
    )
    .breaks("P4", V2, NONE),
    Row::rule(
        Rule::SourceCommittedDead,
        Rule::QemuMute,
        "never ends the job, nor gives the licence",
    )
    .breaks("P4", V2, NONE),
    Row::rule(
        Rule::SourceAbandoned,
        Rule::SourcePerformCompleted,
        "grants what was given up",
    )
    .breaks("P2", V3, Faults { device: 1, ..NONE }),
    Row::rule(
        Rule::SourceAbandoned,
        Rule::QemuMute,
        "gives up and does nothing",
    )
    .breaks("P4", V3, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::SourceAbandonedDead,
        Rule::QemuMute,
        "never ends the job",
    )
    .breaks(
        "P4",
        V3,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourceGrantedStarted,
        Rule::SourceCancelled,
        "resumes though the destination runs",
    )
    .breaks("P2", V3, NONE),
    Row::rule(
        Rule::SourceGrantedAborted,
        Rule::SourceConfirm,
        "kills though the destination aborted",
    )
    .breaks("P3", V3, Faults { refused: 1, ..NONE }),
    Row::rule(
        Rule::SourceGrantedInDoubt,
        Rule::SourceCancelled,
        "resumes when no answer comes",
    )
    .when(unreachable)
    .breaks("P2", V3, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::SourceGrantedInDoubt,
        Rule::SourceConfirm,
        "kills before the destination has started",
    )
    .breaks("P3", V3, NONE),
    Row::rule(
        Rule::SourceGrantedAmnesia,
        Rule::SourceCancelled,
        "believes a destination that forgot everything",
    )
    .breaks(
        "P2",
        V3,
        Faults {
            journals_lost: [0, 1],
            crashes: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourceGrantedRunning,
        Rule::SourceConfirm,
        "kills the copy that runs",
    )
    .breaks("P3", V3, Faults { foreign: 1, ..NONE }),
    Row::rule(
        Rule::SourceGrantedRunningStarted,
        Rule::QemuMute,
        "leaves two copies running",
    )
    .breaks("P4", V3, Faults { foreign: 1, ..NONE }),
    Row::rule(
        Rule::SourceGrantedDead,
        Rule::SourcePerformDeadNotWhole,
        "closes and gives the licence no more",
    )
    .breaks(
        "P4",
        V3,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourceGrantedDeadSettled,
        Rule::QemuMute,
        "never ends the job",
    )
    .breaks(
        "P4",
        V3,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourceConfirm,
        Rule::SourceCancelled,
        "resumes though the destination runs",
    )
    .breaks("P2", V3, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::SourceConfirmDead,
        Rule::QemuMute,
        "never ends the job",
    )
    .breaks("P4", V3, NONE),
    Row::rule(
        Rule::SourceCancelled,
        Rule::SourceConfirm,
        "kills though the destination aborted",
    )
    .breaks("P3", V3, Faults { refused: 1, ..NONE }),
    Row::rule(
        Rule::SourceCancelledDead,
        Rule::QemuMute,
        "never ends the job",
    )
    .breaks(
        "P4",
        V3,
        Faults {
            deaths: [1, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationPrepareDead,
        Rule::DestinationPrepareRunning,
        "says started of a copy that never ran",
    )
    .breaks(
        "P3",
        V3,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationPrepareRunning,
        Rule::DestinationPrepareFailed,
        "kills a guest that runs without a known licence",
    )
    .breaks(
        "P3",
        V3,
        Faults {
            rollbacks: [0, 1],
            crashes: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationPrepareFailed,
        Rule::QemuMute,
        "waits for a stream that never comes",
    )
    .breaks(
        "P4",
        V3,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationPrepareAbandoned,
        Rule::DestinationFinishRetry,
        "runs what the source gave up",
    )
    .breaks("P2", V3, Faults { device: 1, ..NONE }),
    Row::rule(
        Rule::DestinationPrepareAbandoned,
        Rule::DestinationPrepareWaiting,
        "waits for a source that gave up",
    )
    .breaks("P4", V3, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::DestinationPrepareFinish,
        Rule::DestinationFinishRetry,
        "runs before the commit is durable",
    )
    .breaks(
        "P2",
        V3,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationPrepareWaiting,
        Rule::DestinationPrepareAbandoned,
        "gives up while the source decides",
    )
    .breaks("P3", V2, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::DestinationPrepareAlone,
        Rule::DestinationPrepareAbandoned,
        "gives up when the source is not reached",
    )
    .breaks("P3", V2, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::DestinationPrepareAmnesia,
        Rule::DestinationPrepareAbandoned,
        "believes a source that forgot everything",
    )
    .breaks(
        "P3",
        V2,
        Faults {
            journals_lost: [1, 0],
            crashes: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationFinishRetry,
        Rule::DestinationFinishRefusedSafe,
        "takes a `cont` without a result for refused",
    )
    .when(cont_unknown)
    .breaks(
        "P3",
        V3,
        Faults {
            unknown: 1,
            stops: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationFinishRefused,
        Rule::DestinationFinishRefusedSafe,
        "gives back a guest whose source is gone",
    )
    .breaks(
        "P3",
        V3,
        Faults {
            refused: 1,
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationFinishRefusedSafe,
        Rule::DestinationFinishRunning,
        "says started after a refused `cont`",
    )
    .breaks("P3", V3, Faults { refused: 1, ..NONE }),
    Row::rule(
        Rule::DestinationFinishRunning,
        Rule::DestinationFinishDeadUnsent,
        "aborts a guest that runs",
    )
    .breaks("P2", V3, Faults { unknown: 1, ..NONE }),
    Row::rule(
        Rule::DestinationFinishDead,
        Rule::DestinationFinishDeadUnsent,
        "aborts a guest that may have run",
    )
    .breaks(
        "P2",
        V3,
        Faults {
            unknown: 1,
            deaths: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationFinishDeadUnsent,
        Rule::DestinationFinishDead,
        "says started of a copy that never ran",
    )
    .breaks(
        "P3",
        V3,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationAborted,
        Rule::DestinationAbortedDead,
        "says aborted before its copy is gone",
    )
    .breaks("P4", V3, Faults { device: 1, ..NONE }),
    Row::rule(
        Rule::DestinationAbortedDead,
        Rule::QemuMute,
        "never says aborted",
    )
    .breaks("P4", V3, Faults { device: 1, ..NONE }),
    Row::fact(
        "granted",
        None,
        Rule::SourcePerformCompleted,
        "granted before QEMU said completed",
    )
    .when(source_in_device)
    .breaks("P2", V3, Faults { device: 1, ..NONE }),
    Row::fact(
        "committed",
        None,
        Rule::DestinationFinishRetry,
        "`cont` before committed",
    )
    .when(whole_without_licence)
    .breaks("P2", V3, Faults { device: 1, ..NONE }),
    Row::fact(
        "committed",
        Some(Rule::DestinationPrepareWaiting),
        Rule::DestinationFinishRetry,
        "`cont` before committed",
    )
    .when(whole_without_licence)
    .breaks(
        "P2",
        V3,
        Faults {
            crashes: 1,
            device: 1,
            ..NONE
        },
    ),
    Row::fact(
        "started",
        Some(Rule::DestinationFinishRetry),
        Rule::DestinationFinishRunning,
        "started before `cont` succeeded",
    )
    .when(cont_unknown)
    .breaks("P3", V3, Faults { crashes: 1, ..NONE }),
    Row::fact(
        "started",
        Some(Rule::DestinationPrepareFinish),
        Rule::DestinationPrepareRunning,
        "started without `cont`",
    )
    .breaks("P3", V3, NONE),
    Row::fact(
        "aborted",
        Some(Rule::DestinationFinishRetry),
        Rule::DestinationFinishDeadUnsent,
        "aborted after committed",
    )
    .when(cont_unknown)
    .breaks(
        "P2",
        V3,
        Faults {
            unknown: 1,
            stops: 1,
            ..NONE
        },
    ),
    Row::fact(
        "aborted",
        Some(Rule::SourceGrantedInDoubt),
        Rule::SourceAbandoned,
        "resumed after granted, without aborted",
    )
    .when(unreachable)
    .breaks("P2", V3, Faults { crashes: 1, ..NONE }),
    Row::fact(
        "abandoned",
        Some(Rule::SourcePerformGiveUp),
        Rule::SourceCancelled,
        "resumed before abandoned is durable",
    )
    .breaks("P4", V3, Faults { crashes: 1, ..NONE }),
];

/// The facts of the handover; the order of each with what follows from it has a mutant.
pub(crate) const FACTS: [&str; 6] = [
    "granted",
    "gone over",
    "committed",
    "started",
    "aborted",
    "abandoned",
];

fn source(evidence: &Evidence) -> bool {
    evidence.role == Role::Source
}

fn destination(evidence: &Evidence) -> bool {
    evidence.role == Role::Destination
}

fn unreachable(evidence: &Evidence) -> bool {
    evidence.peer == PeerAnswer::Unreachable
}

fn cont_unknown(evidence: &Evidence) -> bool {
    evidence.facts.cont == ContIntent::Unknown
}

fn source_in_device(evidence: &Evidence) -> bool {
    let is_device = evidence.observed.migration == Some(MigrationStatus::Device);
    evidence.phase == Phase::Perform3 && is_device
}

fn whole_without_licence(evidence: &Evidence) -> bool {
    evidence.role == Role::Destination && is_whole(evidence)
}
