//! The rows of migrations that their manager drives itself, as people read them.
//!
//! Invariant: a row stands at the number of its rule.
//! Not here: when a rule holds (`job::driven`).

use super::{Rule, RuleText, confirm, hold, kill, resume};

const KEEPS_PAUSED: &str = "leaves the source paused and forgets the job";
const CANCELS: &str = "cancels and resumes the source";
const KILLS: &str = "kills the destination";
const REMOVES: &str = "removes the domain";

/// The rows, in the order of [`Rule`].
pub(super) const DRIVEN: &[(Rule, RuleText)] = &[
    (
        Rule::DrivenPostcopy,
        hold(
            "driven-postcopy",
            "post-copy was begun past the sidecar, and there is no way back: both halves are their manager's",
            "its manager bringing it to its end, or resolve",
            "leaves both halves to a human",
        ),
    ),
    (
        Rule::DrivenSourceUndone,
        resume(
            "driven-source-undone",
            "nothing was sent, or not everything: the guest goes on here",
            CANCELS,
        ),
    ),
    (
        Rule::DrivenSourceGiveUp,
        resume(
            "driven-source-give-up",
            "not everything was sent, and nobody drives it any more: it is cancelled, and the guest goes on here",
            CANCELS,
        ),
    ),
    (
        Rule::DrivenSourceCompleted,
        hold(
            "driven-source-completed",
            "everything was sent, and its manager has not said who has the guest",
            "phase-enter confirm3_cancelled, or perform3_done and confirm3; migrate-verdict, the manager's own cont, or resolve",
            KEEPS_PAUSED,
        ),
    ),
    (
        Rule::DrivenSourceCont,
        confirm(
            "driven-source-cont",
            "everything was sent, and its manager continued the guest here: its verdict is aborted",
            "keeps it running",
        ),
    ),
    (
        Rule::DrivenSourceAborted,
        resume(
            "driven-source-aborted",
            "its manager said that the destination never runs the guest: this copy goes on",
            "resumes the source",
        ),
    ),
    (
        Rule::DrivenSourceConfirm,
        kill(
            "driven-source-confirm",
            "its manager said that the destination has the guest: this copy is ended",
            "kills the source",
        ),
    ),
    (
        Rule::DrivenSourceUnproven,
        hold(
            "driven-source-unproven",
            "its manager said that the destination has the guest, but this QEMU does not say completed, or was continued",
            "resolve, after looking at both sides",
            "kills the source",
        ),
    ),
    (
        Rule::DrivenSourceQuit,
        confirm(
            "driven-source-quit",
            "everything was sent, and this QEMU is gone: the destination's copy is the only one",
            REMOVES,
        ),
    ),
    (
        Rule::DrivenSourceEnded,
        confirm(
            "driven-source-ended",
            "its manager said that the destination has the guest, and this copy is gone",
            REMOVES,
        ),
    ),
    (
        Rule::DrivenDestinationWaiting,
        confirm(
            "driven-destination-waiting",
            "this copy is not whole: the stream may go on, and the job is its manager's again",
            KILLS,
        ),
    ),
    (
        Rule::DrivenDestinationFailed,
        kill(
            "driven-destination-failed",
            "the stream failed: this copy will never be whole",
            KILLS,
        ),
    ),
    (
        Rule::DrivenDestinationWhole,
        hold(
            "driven-destination-whole",
            "this copy is whole, and its manager has not said who has the guest",
            "phase-enter finish3 with cont or quit, migrate-verdict, the manager's own cont or quit, or resolve",
            KILLS,
        ),
    ),
    (
        Rule::DrivenDestinationCommitted,
        resume(
            "driven-destination-committed",
            "its manager's cont may have happened: only forward",
            KILLS,
        ),
    ),
    (
        Rule::DrivenDestinationRunning,
        confirm(
            "driven-destination-running",
            "the guest was started here: its manager's verdict is committed",
            "keeps it running",
        ),
    ),
    (
        Rule::DrivenDestinationAborted,
        kill(
            "driven-destination-aborted",
            "its manager said that this copy never runs",
            KILLS,
        ),
    ),
    (
        Rule::DrivenDestinationEnded,
        confirm(
            "driven-destination-ended",
            "the guest never ran here, and this QEMU is gone",
            REMOVES,
        ),
    ),
    (
        Rule::DrivenSourceTakenUp,
        confirm(
            "driven-source-taken-up",
            "a client drives it by plain commands, and may still: nothing is cancelled behind its back",
            CANCELS,
        ),
    ),
    (
        Rule::DrivenOver,
        confirm(
            "driven-over",
            "a client drove it by plain commands, and it ended without success: the guest is where it was",
            CANCELS,
        ),
    ),
    (
        Rule::DrivenSourceStartedThere,
        kill(
            "driven-source-started-there",
            "everything was sent, and the destination's sidecar says that its client continued the guest there: this copy is ended",
            KEEPS_PAUSED,
        ),
    ),
];
