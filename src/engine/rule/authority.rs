//! The decision table's rows of the authorities store and manager, as people read them.
//!
//! Invariant: a row stands at the number of its rule, counted from the first of these.
//! Not here: when a rule holds (`decide`).

use journal_format::record::Decision;

use super::table::{KEEPS, KILLS, NONE};
use super::{Rule, RuleText};

/// The rows, in the order of [`Rule`].
pub(super) const AUTHORITIES: &[(Rule, RuleText)] = &[
    (
        Rule::StoreKeyForeign,
        RuleText {
            name: "store-key-foreign",
            decision: Decision::Hold,
            reason: "the key of this migration in the store was committed by another journal, or for another prepare: nothing follows from it",
            settled_by: "resolve, after looking at both sides",
            libvirt: NONE,
        },
    ),
    (
        Rule::SourceStoreInDoubt,
        RuleText {
            name: "source-store-in-doubt",
            decision: Decision::Hold,
            reason: "a licence to run went out, and the key in the store does not say yet who won: the guest may run at the destination",
            settled_by: "the key saying started or aborted",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourceStoreSeekAborted,
        RuleText {
            name: "source-store-seek-aborted",
            decision: Decision::Hold,
            reason: "a licence to run went out, there is no key in the store, and the destination withdrew or gave no outcome for as long as was set: this side tries to win aborted",
            settled_by: "the key saying who won",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourceStoreOlder,
        RuleText {
            name: "source-store-older",
            decision: Decision::Hold,
            reason: "the key in the store says less than it said before: the store is older than this journal, and nothing follows from it",
            settled_by: "the key saying started or aborted, or resolve, after looking at the destination",
            libvirt: NONE,
        },
    ),
    (
        Rule::SourceStoreRunning,
        RuleText {
            name: "source-store-running",
            decision: Decision::Hold,
            reason: "a licence to run went out, but somebody continued the guest here: never forward, this side tries to win aborted",
            settled_by: "the key saying who won",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::SourceStoreDead,
        RuleText {
            name: "source-store-dead",
            decision: Decision::Hold,
            reason: "a licence to run went out and this copy is dead: the destination's is the only one, and aborted is never proposed",
            settled_by: "the key saying started or aborted",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::SourceStoreBothGone,
        RuleText {
            name: "source-store-both-gone",
            decision: Decision::Confirm,
            reason: "this copy is dead, and the destination's is gone and will never run",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::DestinationStoreProposed,
        RuleText {
            name: "destination-store-proposed",
            decision: Decision::Hold,
            reason: "this copy is whole and licensed, and committed was or is proposed in the store: the key does not say yet who won",
            settled_by: "the key saying who won",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationStoreWon,
        RuleText {
            name: "destination-store-won",
            decision: Decision::Resume,
            reason: "this copy is whole and licensed, and the key in the store says that this side won",
            settled_by: "",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationStoreAborted,
        RuleText {
            name: "destination-store-aborted",
            decision: Decision::Kill,
            reason: "the key in the store says aborted: this copy never runs",
            settled_by: "",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationStoreAmnesia,
        RuleText {
            name: "destination-store-amnesia",
            decision: Decision::Hold,
            reason: "the key in the store says more than this journal knows: the journal is older than the store",
            settled_by: "resolve, after looking at both sides",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationStoreStarted,
        RuleText {
            name: "destination-store-started",
            decision: Decision::Confirm,
            reason: "the guest was started here, and the key in the store is moved on to started",
            settled_by: "",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::DestinationStoreContradicted,
        RuleText {
            name: "destination-store-contradicted",
            decision: Decision::Hold,
            reason: "the guest was started here though the key in the store says aborted: at most one copy runs may have been broken from outside",
            settled_by: "resolve, after looking at the source",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::DestinationStoreWithdraw,
        RuleText {
            name: "destination-store-withdraw",
            decision: Decision::Confirm,
            reason: "decided: this copy never runs, it is gone, and the key in the store is settled as aborted",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::ManagerVerdict,
        RuleText {
            name: "manager-verdict",
            decision: Decision::Confirm,
            reason: "the manager gave its verdict, on the record",
            settled_by: "",
            libvirt: NONE,
        },
    ),
    (
        Rule::SourceVerdictAwaited,
        RuleText {
            name: "source-verdict-awaited",
            decision: Decision::Hold,
            reason: "everything was sent, and the outcome is the manager's word",
            settled_by: "migrate-verdict, the manager's own cont or quit on either side, or resolve",
            libvirt: KEEPS,
        },
    ),
    (
        Rule::SourceVerdictCont,
        RuleText {
            name: "source-verdict-cont",
            decision: Decision::Resume,
            reason: "everything was sent, and the manager continued the guest here: its verdict is aborted",
            settled_by: "",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::SourceVerdictQuit,
        RuleText {
            name: "source-verdict-quit",
            decision: Decision::Confirm,
            reason: "everything was sent, and this QEMU was ended: the manager's verdict is committed",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
    (
        Rule::DestinationVerdictAwaited,
        RuleText {
            name: "destination-verdict-awaited",
            decision: Decision::Hold,
            reason: "this copy is whole and licensed, and the outcome is the manager's word",
            settled_by: "migrate-verdict, the manager's own cont or quit on either side, or resolve",
            libvirt: KILLS,
        },
    ),
    (
        Rule::DestinationVerdictCont,
        RuleText {
            name: "destination-verdict-cont",
            decision: Decision::Confirm,
            reason: "the manager continued the guest here: its verdict is committed",
            settled_by: "",
            libvirt: "keeps it running",
        },
    ),
    (
        Rule::DestinationVerdictQuit,
        RuleText {
            name: "destination-verdict-quit",
            decision: Decision::Confirm,
            reason: "everything was sent, and this QEMU was ended before it had the guest: the manager's verdict is aborted",
            settled_by: "",
            libvirt: "removes the domain",
        },
    ),
];
