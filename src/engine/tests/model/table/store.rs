//! The mutants of the authority store.
//!
//! Invariant: see [`super`].
//! Not here: what is the same whoever decides.

use journal_format::record::{Evidence, StoreAnswer};

use super::super::mutants::Row;
use super::super::scenario::{Faults, Handover, NONE};
use crate::engine::Rule;

const STORE: Handover = Handover::Store;

pub(super) const ROWS: &[Row] = &[
    Row::rule(
        Rule::SourceStoreInDoubt,
        Rule::SourceCancelled,
        "resumes though the destination has won",
    )
    .when(destination_has_won)
    .breaks("P2", STORE, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::SourceStoreSeekAborted,
        Rule::SourceCancelled,
        "resumes without having won",
    )
    .breaks("P2", STORE, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::SourceStoreSeekAborted,
        Rule::QemuMute,
        "waits for a destination that is gone",
    )
    .breaks(
        "P4",
        STORE,
        Faults {
            gone: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourceStoreRunning,
        Rule::SourceConfirm,
        "kills the copy that runs",
    )
    .breaks("P3", STORE, Faults { foreign: 1, ..NONE }),
    Row::rule(
        Rule::SourceStoreDead,
        Rule::QemuMute,
        "does not look at the key any more",
    )
    .breaks(
        "P4",
        STORE,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourceStoreBothGone,
        Rule::QemuMute,
        "never ends the job",
    )
    .breaks(
        "P4",
        STORE,
        Faults {
            deaths: [1, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationStoreProposed,
        Rule::QemuMute,
        "never proposes to commit",
    )
    .breaks("P4", STORE, NONE),
    Row::rule(
        Rule::DestinationStoreProposed,
        Rule::DestinationFinishRetry,
        "runs before it has won",
    )
    .breaks(
        "P2",
        STORE,
        Faults {
            crashes: 1,
            key_late: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationStoreWon,
        Rule::QemuMute,
        "has won and does nothing",
    )
    .breaks("P4", STORE, NONE),
    Row::rule(
        Rule::DestinationStoreAborted,
        Rule::DestinationFinishRetry,
        "runs though the source has won",
    )
    .breaks("P2", STORE, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::DestinationStoreStarted,
        Rule::DestinationStarted,
        "ends the job before the key says started",
    )
    .breaks("P4", STORE, Faults { crashes: 1, ..NONE }),
    Row::rule(
        Rule::DestinationStoreWithdraw,
        Rule::DestinationAbortedDead,
        "ends the job before the key says aborted",
    )
    .breaks(
        "P4",
        STORE,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
];

fn destination_has_won(evidence: &Evidence) -> bool {
    evidence.store == StoreAnswer::Committed
}
