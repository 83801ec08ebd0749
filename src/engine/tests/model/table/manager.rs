//! The mutants of the authority manager.
//!
//! Invariant: see [`super`].
//! Not here: what is the same whoever decides.

use super::super::mutants::Row;
use super::super::scenario::{Faults, Handover, NONE};
use crate::engine::Rule;

const MANAGER: Handover = Handover::Manager;

const VERDICT: Faults = Faults {
    verdicts: 1,
    ..NONE
};

const START: Faults = Faults { starts: 1, ..NONE };

pub(super) const ROWS: &[Row] = &[
    Row::rule(
        Rule::ManagerVerdict,
        Rule::QemuMute,
        "records the word and does nothing",
    )
    .breaks("P4", MANAGER, VERDICT),
    Row::rule(
        Rule::SourceVerdictAwaited,
        Rule::SourceConfirm,
        "kills without a word",
    )
    .breaks("P3", MANAGER, NONE),
    Row::rule(
        Rule::SourceVerdictCont,
        Rule::SourceConfirm,
        "kills what the manager continued",
    )
    .breaks("P3", MANAGER, Faults { foreign: 1, ..NONE }),
    Row::rule(
        Rule::SourceVerdictQuit,
        Rule::QemuMute,
        "never ends the job",
    )
    .breaks(
        "P4",
        MANAGER,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationVerdictAwaited,
        Rule::DestinationFinishRetry,
        "runs without a word",
    )
    .breaks("P2", MANAGER, NONE),
    Row::rule(
        Rule::DestinationVerdictCont,
        Rule::DestinationPrepareFailed,
        "kills what the manager continued",
    )
    .breaks("P3", MANAGER, START),
    Row::rule(
        Rule::DestinationVerdictQuit,
        Rule::QemuMute,
        "never says aborted",
    )
    .breaks(
        "P4",
        MANAGER,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
];
