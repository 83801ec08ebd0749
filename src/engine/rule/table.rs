//! The decision table's rows, as people read them.
//!
//! Invariant: a row stands at the number of its rule.
//! Not here: when a rule holds (`decide`).

use journal_format::record::Decision;

use super::{Rule, RuleText};

pub(super) const KEEPS: &str = "leaves the source paused and forgets the job";
const SPLIT: &str = "leaves both halves to a human";
pub(super) const NONE: &str = "has no such case";
const RESUMES: &str = "cancels and resumes the source";
pub(super) const KILLS: &str = "kills the destination";

/// The decision table's rows, in the order of [`Rule`].
pub(super) const TABLE: &[(Rule, RuleText)] = &[
    (
        Rule::OtherInstance,
        RuleText {
            name: "other-instance",
            decision: Decision::Hold,
            reason: "another process answers on the monitor socket of an open job",
            settled_by: "the bound process answering again, or resolve",
            libvirt: "trusts the socket",
        },
    ),
    (
        Rule::ClaimedByAnother,
        RuleText {
            name: "claimed-by-another",
            decision: Decision::Hold,
            reason: "QEMU carries the claim of another journal: another sidecar may act on it",
            settled_by: "the other sidecar releasing its claim, or resolve",
            libvirt: NONE,
        },
    ),
    (
        Rule::JournalOlderThanQemu,
        RuleText {
            name: "journal-older-than-qemu",
            decision: Decision::Hold,
            reason: "QEMU shows what this journal does not have (a claim, or a stream): the journal is older than QEMU",
            settled_by: "resolve, after looking at both sides",
            libvirt: NONE,
        },
    ),
    (
        Rule::JournalDamaged,
        RuleText {
            name: "journal-damaged",
            decision: Decision::Hold,
            reason: "records that may concern this domain are damaged, and not every history that they allow gives the same decision",
            settled_by: "what QEMU shows or the other side says ruling out histories, or resolve",
            libvirt: "drops a domain whose status file is damaged",
        },
    ),
    (
        Rule::QemuMute,
        RuleText {
            name: "qemu-mute",
            decision: Decision::Hold,
            reason: "QEMU lives but does not answer: no answer is not dead",
            settled_by: "QEMU answering or ending",
            libvirt: "kills a domain whose monitor it cannot open",
        },
    ),
    (
        Rule::NoRuleForThis,
        RuleText {
            name: "no-rule-for-this",
            decision: Decision::Hold,
            reason: "QEMU is in a state that no rule covers; nothing is guessed",
            settled_by: "QEMU leaving that state, or resolve",
            libvirt: "guesses from the closest state",
        },
    ),
    (
        Rule::OperatorResolved,
        RuleText {
            name: "operator-resolved",
            decision: Decision::Confirm,
            reason: "an operator settled it, on the record",
            settled_by: "",
            libvirt: NONE,
        },
    ),
    (
        Rule::SourceBeginUndone,
        RuleText {
            name: "source-begin-undone",
            decision: Decision::Confirm,
            reason: "nothing was done to QEMU yet: the guest is untouched; the destination is told",
            settled_by: "",
            libvirt: "forgets the migration",
        },
    ),
    (
        Rule::SourceBeginDead,
        RuleText {
            name: "source-begin-dead",
            decision: Decision::Confirm,
            reason: "the guest crashed before the migration began",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourcePerformGiveUp,
        RuleText {
            name: "source-perform-give-up",
            decision: Decision::Resume,
            reason: "not everything was sent, and no licence to run went out: the source runs on",
            settled_by: "",
            libvirt: RESUMES,
        },
    ),
    (
        Rule::SourcePerformRunning,
        RuleText {
            name: "source-perform-running",
            decision: Decision::Resume,
            reason: "everything was sent, but somebody continued the guest here before a licence went out: it stays here",
            settled_by: "",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::SourcePerformCompleted,
        RuleText {
            name: "source-perform-completed",
            decision: Decision::Hold,
            reason: "everything was sent: the destination decides now",
            settled_by: "the destination's answer",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourcePerformPostcopy,
        RuleText {
            name: "source-perform-postcopy",
            decision: Decision::Hold,
            reason: "post-copy began and there is no way back: the destination decides now",
            settled_by: "the destination's answer",
            libvirt: SPLIT,
        },
    ),
    (
        Rule::SourcePerformDeadWatched,
        RuleText {
            name: "source-perform-dead-watched",
            decision: Decision::Hold,
            reason: "this copy was watched from its stop to its end and never ran on: the destination's whole copy is the only one",
            settled_by: "the destination's answer",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourcePerformDeadUnwatched,
        RuleText {
            name: "source-perform-dead-unwatched",
            decision: Decision::Hold,
            reason: "this copy may have run on by itself before it died: the destination's copy may be older than what the guest did",
            settled_by: "resolve",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourcePerformDeadAsking,
        RuleText {
            name: "source-perform-dead-asking",
            decision: Decision::Hold,
            reason: "this copy is dead; whether the destination's is whole is not known",
            settled_by: "the destination's answer",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourcePerformDeadNotWhole,
        RuleText {
            name: "source-perform-dead-not-whole",
            decision: Decision::Confirm,
            reason: "the guest crashed before everything was sent",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourcePerform2Completed,
        RuleText {
            name: "source-perform2-completed",
            decision: Decision::Hold,
            reason: "everything was sent: the guest is the destination's once that says its copy is whole",
            settled_by: "the destination's answer, or resolve",
            libvirt: RESUMES,
        },
    ),
    (
        Rule::SourcePerform2Whole,
        RuleText {
            name: "source-perform2-whole",
            decision: Decision::Kill,
            reason: "the destination's copy is whole, or runs already: the guest is its, and this copy is ended before it is told so",
            settled_by: "",
            libvirt: RESUMES,
        },
    ),
    (
        Rule::SourcePerform2Gone,
        RuleText {
            name: "source-perform2-gone",
            decision: Decision::Resume,
            reason: "everything was sent, but the destination has no copy: the source runs on",
            settled_by: "",
            libvirt: RESUMES,
        },
    ),
    (
        Rule::SourcePerform2Amnesia,
        RuleText {
            name: "source-perform2-amnesia",
            decision: Decision::Hold,
            reason: "everything was sent and one of the two journals lost records that it had: its word proves nothing",
            settled_by: "resolve, after looking at the destination's QEMU",
            libvirt: RESUMES,
        },
    ),
    (
        Rule::SourceCommitted,
        RuleText {
            name: "source-committed",
            decision: Decision::Kill,
            reason: "decided: the guest is the destination's; this copy is ended first",
            settled_by: "",
            libvirt: RESUMES,
        },
    ),
    (
        Rule::SourceCommittedDead,
        RuleText {
            name: "source-committed-dead",
            decision: Decision::Confirm,
            reason: "decided: the guest is the destination's, and this copy is gone",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourceAbandoned,
        RuleText {
            name: "source-abandoned",
            decision: Decision::Resume,
            reason: "given up before a licence went out: never forward",
            settled_by: "",
            libvirt: RESUMES,
        },
    ),
    (
        Rule::SourceAbandonedStarted,
        RuleText {
            name: "source-abandoned-started",
            decision: Decision::Hold,
            reason: "given up before a licence went out, but the guest was started at the destination from outside: this copy is older, and is not continued beside it",
            settled_by: "resolve, after looking at both sides",
            libvirt: RESUMES,
        },
    ),
    (
        Rule::SourceAbandonedDead,
        RuleText {
            name: "source-abandoned-dead",
            decision: Decision::Confirm,
            reason: "given up, and the guest crashed",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourceGrantedStarted,
        RuleText {
            name: "source-granted-started",
            decision: Decision::Kill,
            reason: "the destination runs the guest, and QEMU here says completed",
            settled_by: "",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourceGrantedStartedUnproven,
        RuleText {
            name: "source-granted-started-unproven",
            decision: Decision::Hold,
            reason: "the destination runs the guest, but QEMU here does not say completed",
            settled_by: "QEMU saying completed, or resolve",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourceGrantedAborted,
        RuleText {
            name: "source-granted-aborted",
            decision: Decision::Resume,
            reason: "the destination will never run the guest, and its copy is gone",
            settled_by: "",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourceGrantedInDoubt,
        RuleText {
            name: "source-granted-in-doubt",
            decision: Decision::Hold,
            reason: "a licence to run went out and the answer is not known: the guest may run at the destination",
            settled_by: "the destination's answer",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourceGrantedAmnesia,
        RuleText {
            name: "source-granted-amnesia",
            decision: Decision::Hold,
            reason: "a licence to run went out and the destination's journal lost records that it had: its word proves nothing",
            settled_by: "resolve, after looking at the destination's QEMU",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourceGrantedRunning,
        RuleText {
            name: "source-granted-running",
            decision: Decision::Hold,
            reason: "a licence to run went out, but somebody continued the guest here: never forward",
            settled_by: "the destination withdrawing or having started",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::SourceGrantedRunningStarted,
        RuleText {
            name: "source-granted-running-started",
            decision: Decision::Kill,
            reason: "the destination runs the guest, and somebody continued this copy too: at most one copy runs was broken from outside",
            settled_by: "",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::SourceGrantedOther,
        RuleText {
            name: "source-granted-other",
            decision: Decision::Hold,
            reason: "a licence to run went out, and QEMU is in a state that no migration leaves",
            settled_by: "QEMU saying postmigrate and completed, or resolve",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourceGrantedDead,
        RuleText {
            name: "source-granted-dead",
            decision: Decision::Hold,
            reason: "a licence to run went out and this copy is dead: the destination's is the only one",
            settled_by: "the destination's answer",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourceGrantedDeadSettled,
        RuleText {
            name: "source-granted-dead-settled",
            decision: Decision::Confirm,
            reason: "this copy is dead and the outcome is known",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourcePostcopyBroken,
        RuleText {
            name: "source-postcopy-broken",
            decision: Decision::Confirm,
            reason: "the stream broke in post-copy and both halves of the guest live: it is taken up again",
            settled_by: "",
            libvirt: SPLIT,
        },
    ),
    (
        Rule::SourcePostcopyWhole,
        RuleText {
            name: "source-postcopy-whole",
            decision: Decision::Kill,
            reason: "the stream broke at its end: the destination has all of the guest, and runs it",
            settled_by: "",
            libvirt: SPLIT,
        },
    ),
    (
        Rule::SourcePostcopyLost,
        RuleText {
            name: "source-postcopy-lost",
            decision: Decision::Kill,
            reason: "the destination's half of the guest is gone, and this half alone is no guest",
            settled_by: "",
            libvirt: SPLIT,
        },
    ),
    (
        Rule::SourcePostcopyEnding,
        RuleText {
            name: "source-postcopy-ending",
            decision: Decision::Hold,
            reason: "the destination's copy is gone and will never run, and this QEMU has not ended its migration yet: only it knows whether the guest is whole here",
            settled_by: "QEMU saying failed or paused, or resolve (QEMU 7.2 can stand still there)",
            libvirt: SPLIT,
        },
    ),
    (
        Rule::SourceConfirm,
        RuleText {
            name: "source-confirm",
            decision: Decision::Kill,
            reason: "the destination runs the guest: this copy is ended",
            settled_by: "",
            libvirt: "kills the source",
        },
    ),
    (
        Rule::SourceConfirmDead,
        RuleText {
            name: "source-confirm-dead",
            decision: Decision::Confirm,
            reason: "the destination runs the guest and this copy is gone",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourceCancelled,
        RuleText {
            name: "source-cancelled",
            decision: Decision::Resume,
            reason: "the destination will never run the guest: this copy goes on",
            settled_by: "",
            libvirt: "resumes the source",
        },
    ),
    (
        Rule::SourceCancelledDead,
        RuleText {
            name: "source-cancelled-dead",
            decision: Decision::Confirm,
            reason: "the destination will never run the guest, and this copy crashed",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::DestinationPrepareDead,
        RuleText {
            name: "destination-prepare-dead",
            decision: Decision::Confirm,
            reason: "QEMU is gone before anything was decided: it will never run the guest",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::DestinationPrepareRunning,
        RuleText {
            name: "destination-prepare-running",
            decision: Decision::Confirm,
            reason: "the guest ran here though no licence is recorded: a guest that ran is never taken back",
            settled_by: "",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationPrepareFailed,
        RuleText {
            name: "destination-prepare-failed",
            decision: Decision::Kill,
            reason: "the stream failed, or never came: this copy will never be whole",
            settled_by: "",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationPrepareAbandoned,
        RuleText {
            name: "destination-prepare-abandoned",
            decision: Decision::Kill,
            reason: "the source gave up and runs on",
            settled_by: "",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationPrepareFinish,
        RuleText {
            name: "destination-prepare-finish",
            decision: Decision::Resume,
            reason: "this copy is whole and the source gave its licence",
            settled_by: "",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationPrepareWaiting,
        RuleText {
            name: "destination-prepare-waiting",
            decision: Decision::Hold,
            reason: "the source gave no licence: it is still performing, is gone, or was not heard yet",
            settled_by: "the source's answer, or resolve",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationPrepareAlone,
        RuleText {
            name: "destination-prepare-alone",
            decision: Decision::Hold,
            reason: "the source cannot be reached: this may become, or be, the only copy",
            settled_by: "the source's answer, or resolve",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationPrepareAmnesia,
        RuleText {
            name: "destination-prepare-amnesia",
            decision: Decision::Hold,
            reason: "the source's journal, or this one, lost records that it had: its word proves nothing",
            settled_by: "resolve, after looking at the source's QEMU",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationPrepareLost,
        RuleText {
            name: "destination-prepare-lost",
            decision: Decision::Kill,
            reason: "the source's half of the guest is gone, and this half alone is no guest",
            settled_by: "",
            libvirt: SPLIT,
        },
    ),
    (
        Rule::DestinationFinishRetry,
        RuleText {
            name: "destination-finish-retry",
            decision: Decision::Resume,
            reason: "committed, and the guest may have run here already: only forward",
            settled_by: "",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationFinishRefused,
        RuleText {
            name: "destination-finish-refused",
            decision: Decision::Hold,
            reason: "committed, but QEMU refused to run the guest, and the source's copy is not known to be safe",
            settled_by: "QEMU accepting cont, or the source's answer",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationFinishRefusedSafe,
        RuleText {
            name: "destination-finish-refused-safe",
            decision: Decision::Kill,
            reason: "QEMU refused every cont there ever was, and the source's copy is safe",
            settled_by: "",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationFinishRunning,
        RuleText {
            name: "destination-finish-running",
            decision: Decision::Confirm,
            reason: "committed, and the guest ran here",
            settled_by: "",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::DestinationFinishDead,
        RuleText {
            name: "destination-finish-dead",
            decision: Decision::Confirm,
            reason: "committed, and the guest may have run here before it crashed: the source must never run again",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::DestinationFinishDeadUnsent,
        RuleText {
            name: "destination-finish-dead-unsent",
            decision: Decision::Confirm,
            reason: "committed, but the guest provably never ran here, and QEMU is gone: the source's copy is good",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::DestinationStarted,
        RuleText {
            name: "destination-started",
            decision: Decision::Confirm,
            reason: "the guest was started here",
            settled_by: "",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::DestinationStartedDead,
        RuleText {
            name: "destination-started-dead",
            decision: Decision::Confirm,
            reason: "the guest was started here and crashed later",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::DestinationPostcopyBroken,
        RuleText {
            name: "destination-postcopy-broken",
            decision: Decision::Hold,
            reason: "the stream broke in post-copy: the guest waits for memory that is at the source",
            settled_by: "the source taking the stream up again",
            libvirt: SPLIT,
        },
    ),
    (
        Rule::DestinationPostcopyLost,
        RuleText {
            name: "destination-postcopy-lost",
            decision: Decision::Kill,
            reason: "the source's half of the guest is gone, and this half alone is no guest",
            settled_by: "",
            libvirt: SPLIT,
        },
    ),
    (
        Rule::DestinationAborted,
        RuleText {
            name: "destination-aborted",
            decision: Decision::Kill,
            reason: "decided: this copy never runs",
            settled_by: "",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationAbortedDead,
        RuleText {
            name: "destination-aborted-dead",
            decision: Decision::Confirm,
            reason: "decided: this copy never runs, and it is gone",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
];
