//! The mutants of post-copy.
//!
//! Invariant: see [`super`].
//! Not here: what is the same without it.

use journal_format::record::{Evidence, MigrationStatus, Role};

use super::super::mutants::Row;
use super::super::scenario::{Faults, Handover, NONE};
use super::source_in_device;
use crate::engine::Rule;
use crate::engine::decide::is_takeable;

const POSTCOPY: Handover = Handover::Postcopy;
const NEWER: Handover = Handover::NewerPostcopy;

pub(super) const ROWS: &[Row] = &[
    Row::rule(
        Rule::SourceGrantedOther,
        Rule::QemuMute,
        "does not ask when QEMU could not send the devices",
    )
    .breaks(
        "P4",
        POSTCOPY,
        Faults {
            device: 1,
            crashes: 1,
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourcePerformPostcopy,
        Rule::SourceConfirm,
        "kills its half when the guest is split",
    )
    .breaks("P3", POSTCOPY, NONE),
    Row::rule(
        Rule::SourcePostcopyBroken,
        Rule::QemuMute,
        "leaves a broken stream to a human",
    )
    .breaks("P4", POSTCOPY, Faults { breaks: 1, ..NONE }),
    Row::rule(
        Rule::SourcePostcopyBroken,
        Rule::SourcePostcopyLost,
        "kills its half when the stream breaks",
    )
    .breaks("P3", POSTCOPY, Faults { breaks: 1, ..NONE }),
    Row::rule(
        Rule::SourcePostcopyWhole,
        Rule::QemuMute,
        "never ends what is empty",
    )
    .breaks("P4", POSTCOPY, Faults { breaks: 1, ..NONE }),
    Row::rule(
        Rule::SourcePostcopyEnding,
        Rule::SourceConfirm,
        "kills before QEMU says what became of the guest",
    )
    .breaks(
        "P3",
        POSTCOPY,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::SourcePostcopyLost,
        Rule::QemuMute,
        "leaves a half without the other one",
    )
    .breaks(
        "P4",
        POSTCOPY,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationPrepareLost,
        Rule::QemuMute,
        "leaves a half without the other one",
    )
    .breaks(
        "P4",
        POSTCOPY,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationPostcopyBroken,
        Rule::QemuMute,
        "does not listen again",
    )
    .breaks("P4", POSTCOPY, Faults { breaks: 1, ..NONE }),
    Row::rule(
        Rule::DestinationPostcopyBroken,
        Rule::DestinationPostcopyLost,
        "kills its half when the stream breaks",
    )
    .breaks("P3", POSTCOPY, Faults { breaks: 1, ..NONE }),
    Row::rule(
        Rule::DestinationPostcopyLost,
        Rule::QemuMute,
        "leaves a half without the other one",
    )
    .breaks(
        "P4",
        POSTCOPY,
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    Row::rule(
        Rule::DestinationStarted,
        Rule::QemuMute,
        "never ends the job of a guest that is whole",
    )
    .breaks("P4", POSTCOPY, NONE),
    Row::rule(
        Rule::DestinationStartedDead,
        Rule::QemuMute,
        "never says that the guest is lost",
    )
    .breaks(
        "P4",
        POSTCOPY,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
    Row::fact(
        "granted",
        None,
        Rule::SourcePerformPostcopy,
        "granted before QEMU said postcopy-active",
    )
    .when(source_in_device)
    .breaks("P2", NEWER, Faults { device: 1, ..NONE }),
    Row::fact(
        "committed",
        None,
        Rule::DestinationFinishRetry,
        "`cont` of a half before committed",
    )
    .when(half_without_licence)
    .breaks("P2", NEWER, Faults { device: 1, ..NONE }),
    Row::fact(
        "gone over",
        None,
        Rule::SourcePerformGiveUp,
        "gives up after the intent to go over",
    )
    .when(may_have_gone_over)
    .breaks("P3", POSTCOPY, Faults { crashes: 1, ..NONE }),
    Row::fact(
        "gone over",
        Some(Rule::SourcePostcopyEnding),
        Rule::SourcePostcopyLost,
        "takes a half for lost whose devices were not sent",
    )
    .breaks(
        "P3",
        POSTCOPY,
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
];

/// QEMU took `migrate-continue`, or may have, and does not show it yet.
fn may_have_gone_over(evidence: &Evidence) -> bool {
    let waits = evidence.observed.migration == Some(MigrationStatus::PreSwitchover);
    evidence.role == Role::Source && evidence.facts.postcopy && evidence.recovering && waits
}

fn half_without_licence(evidence: &Evidence) -> bool {
    evidence.role == Role::Destination && is_takeable(evidence)
}
