//! The rules of recovery by name, with what people read about them.
//!
//! Invariant: one row of the decision table is one [`Rule`], one line of `explain`, one test.
//! Not here: when a rule holds (`decide`), how it is carried out (`source`, `destination`).

use journal_format::record::Decision;

mod authority;
mod driven;
mod jobs;
mod table;

use authority::AUTHORITIES;
use driven::DRIVEN;
use jobs::JOBS;
use table::TABLE;

/// A row of the decision table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Another process answers on the socket of an open job.
    OtherInstance,
    /// QEMU carries the claim of another journal.
    ClaimedByAnother,
    /// QEMU shows what this journal does not have: a claim of its own, or a stream.
    JournalOlderThanQemu,
    /// Records that may concern the domain are damaged, and their possible histories differ.
    JournalDamaged,
    /// QEMU lives but does not answer.
    QemuMute,
    /// A state, status or phase that this version has no rule for.
    NoRuleForThis,
    /// An operator settled it.
    OperatorResolved,

    /// Begin, and nothing was done to QEMU.
    SourceBeginUndone,
    /// Begin, QEMU is dead.
    SourceBeginDead,
    /// Performing and not completed.
    SourcePerformGiveUp,
    /// Completed, but the guest runs here: somebody continued it.
    SourcePerformRunning,
    /// Completed, the licence has not gone out yet.
    SourcePerformCompleted,
    /// Post-copy began, the licence has not gone out yet.
    SourcePerformPostcopy,
    /// Dead, watched to its end, and the destination's copy is whole.
    SourcePerformDeadWatched,
    /// Dead, not watched, and the destination's copy is whole.
    SourcePerformDeadUnwatched,
    /// Dead, and the destination was not heard yet.
    SourcePerformDeadAsking,
    /// Dead, and the destination's copy is not whole.
    SourcePerformDeadNotWhole,
    /// v2: everything was sent, and how the destination's copy stands is not known.
    SourcePerform2Completed,
    /// v2: everything was sent, and the destination's copy is whole, or runs.
    SourcePerform2Whole,
    /// v2: everything was sent, and the destination's copy is gone.
    SourcePerform2Gone,
    /// v2: everything was sent, and the destination's journal lost what it had.
    SourcePerform2Amnesia,
    /// v2: decided for the destination, and this copy is still there.
    SourceCommitted,
    /// v2: decided for the destination, and this copy is gone.
    SourceCommittedDead,
    /// Given up, alive.
    SourceAbandoned,
    /// Given up, and the guest was started at the destination all the same.
    SourceAbandonedStarted,
    /// Given up, dead.
    SourceAbandonedDead,
    /// Granted, and the destination runs.
    SourceGrantedStarted,
    /// Granted, the destination runs, but this QEMU does not say completed.
    SourceGrantedStartedUnproven,
    /// Granted, and the destination will never run.
    SourceGrantedAborted,
    /// Granted, and the answer is not known.
    SourceGrantedInDoubt,
    /// Granted, and the destination's journal lost what it had.
    SourceGrantedAmnesia,
    /// Granted, but the guest runs here: somebody continued it.
    SourceGrantedRunning,
    /// Granted and started there, and the guest runs here too.
    SourceGrantedRunningStarted,
    /// Granted, QEMU in a state that no migration leaves.
    SourceGrantedOther,
    /// Granted, dead, and the answer is not known.
    SourceGrantedDead,
    /// Granted, dead, and the outcome is known.
    SourceGrantedDeadSettled,
    /// Post-copy: the stream broke, and the destination runs the guest.
    SourcePostcopyBroken,
    /// Post-copy: the stream broke, but the destination has all of the guest.
    SourcePostcopyWhole,
    /// Post-copy: the destination's half is gone.
    SourcePostcopyLost,
    /// Post-copy: the destination's copy is gone, and this QEMU has not ended the migration yet.
    SourcePostcopyEnding,
    /// Confirmed, still alive.
    SourceConfirm,
    /// Confirmed and gone.
    SourceConfirmDead,
    /// Cancelled, alive.
    SourceCancelled,
    /// Cancelled, dead.
    SourceCancelledDead,

    /// Nothing decided, QEMU is gone.
    DestinationPrepareDead,
    /// Nothing decided, but the guest ran here.
    DestinationPrepareRunning,
    /// Nothing decided, the stream failed.
    DestinationPrepareFailed,
    /// The source gave up.
    DestinationPrepareAbandoned,
    /// Whole, and the licence is here.
    DestinationPrepareFinish,
    /// The source gave no licence: it is still performing, is gone, or was not heard yet.
    DestinationPrepareWaiting,
    /// The source cannot be reached.
    DestinationPrepareAlone,
    /// The source's journal lost what it had.
    DestinationPrepareAmnesia,
    /// Post-copy: the stream broke, and the source's half is gone.
    DestinationPrepareLost,
    /// Committed, paused, the result of `cont` unknown.
    DestinationFinishRetry,
    /// Committed, `cont` was refused, and the source's copy is not known to be safe.
    DestinationFinishRefused,
    /// Committed, `cont` was refused, and the source's copy is safe.
    DestinationFinishRefusedSafe,
    /// Committed, and the guest ran here.
    DestinationFinishRunning,
    /// Committed, `cont` may have happened, dead.
    DestinationFinishDead,
    /// Committed, `cont` provably did not happen, dead.
    DestinationFinishDeadUnsent,
    /// Started.
    DestinationStarted,
    /// Started, and dead since.
    DestinationStartedDead,
    /// Post-copy: the stream broke.
    DestinationPostcopyBroken,
    /// Post-copy: the stream broke, and the source's half is gone.
    DestinationPostcopyLost,
    /// Aborted, still alive.
    DestinationAborted,
    /// Aborted and gone.
    DestinationAbortedDead,

    // Authority store.
    /// The key in the store is another destination's or another prepare's.
    StoreKeyForeign,
    /// Granted, and the key does not say yet who won.
    SourceStoreInDoubt,
    /// Granted, no outcome for as long as was set, or the destination withdrew: tries to win aborted.
    SourceStoreSeekAborted,
    /// Granted, and the key says less than it said before.
    SourceStoreOlder,
    /// Granted, but the guest runs here: somebody continued it.
    SourceStoreRunning,
    /// Granted, dead, and the key does not say yet who won.
    SourceStoreDead,
    /// Granted, dead, and the destination's copy is gone too.
    SourceStoreBothGone,
    /// Whole and licensed, and the key does not say yet who won.
    DestinationStoreProposed,
    /// The key says that this side won.
    DestinationStoreWon,
    /// The key says aborted.
    DestinationStoreAborted,
    /// The key says more than this journal.
    DestinationStoreAmnesia,
    /// Started, and the key does not say so yet.
    DestinationStoreStarted,
    /// Started, though the key says aborted.
    DestinationStoreContradicted,
    /// Aborted and gone, and the key may still say committed.
    DestinationStoreWithdraw,

    // Authority manager.
    /// The manager's verdict, by a command.
    ManagerVerdict,
    /// Granted, and no verdict yet.
    SourceVerdictAwaited,
    /// Granted, and the manager continued the guest here.
    SourceVerdictCont,
    /// Granted, and QEMU was ended.
    SourceVerdictQuit,
    /// Whole and licensed, and no verdict yet.
    DestinationVerdictAwaited,
    /// Whole, and the manager continued the guest here.
    DestinationVerdictCont,
    /// Licensed, and QEMU was ended.
    DestinationVerdictQuit,

    // Jobs that are no migrations.
    /// QEMU is gone.
    JobDead,
    /// Nothing of it is left in QEMU.
    JobSettled,
    /// Save: nothing is in the image.
    SaveUndone,
    /// Save: on its way.
    SaveActive,
    /// Save: the image is whole, and QEMU's end was not intended.
    SaveCompleted,
    /// Save: the image is whole, and QEMU's end was intended.
    SaveEnding,
    /// Save: the image is whole, and QEMU is gone.
    SaveEnded,
    /// Dump: on its way.
    DumpActive,
    /// Dump: taken.
    DumpTaken,
    /// Dump: not known to be taken.
    DumpUndone,
    /// Snapshot: on its way.
    SnapshotActive,
    /// Snapshot: taken.
    SnapshotTaken,
    /// Snapshot: not taken, or not all of it.
    SnapshotUndone,
    /// Backup: block jobs are on their way.
    BackupActive,
    /// Backup: block jobs wait for their last step.
    BackupPending,
    /// Backup: all block jobs are over.
    BackupEnded,
    /// Backup: one of them failed, or the job was asked to end.
    BackupFailed,
    /// Backup: asked to end while block jobs are on their way.
    BackupCancelled,
    /// Backup: no block job began.
    BackupUndone,
    /// Start, restore: the guest never ran.
    StartUndone,
    /// Start, restore: the guest may have run.
    StartUnknown,
    /// Start, restore: the guest ran.
    StartRunning,
    /// Start, restore: the guest never ran, and QEMU is gone.
    StartEnded,
    /// Destroy: still alive.
    DestroyAlive,
    /// Destroy: gone.
    DestroyDone,
    /// Suspend, modify, query, abort.
    OrdinaryReconciled,

    // Migrations that their manager drives itself.
    /// Driven, either side: post-copy was begun from outside.
    DrivenPostcopy,
    /// Driven, source: no migration is under way, and none completed.
    DrivenSourceUndone,
    /// Driven, source: on its way, and nobody drives it.
    DrivenSourceGiveUp,
    /// Driven, source: everything was sent, and no verdict yet.
    DrivenSourceCompleted,
    /// Driven, source: everything was sent, and the guest was continued here.
    DrivenSourceCont,
    /// Driven, source: its manager said aborted.
    DrivenSourceAborted,
    /// Driven, source: its manager said committed, and this copy is still there.
    DrivenSourceConfirm,
    /// Driven, source: its manager said committed, but QEMU does not say completed, or runs.
    DrivenSourceUnproven,
    /// Driven, source: everything was sent, and QEMU is gone without a verdict.
    DrivenSourceQuit,
    /// Driven, source: its manager said committed, and this copy is gone.
    DrivenSourceEnded,
    /// Driven, destination: not whole yet.
    DrivenDestinationWaiting,
    /// Driven, destination: the stream failed.
    DrivenDestinationFailed,
    /// Driven, destination: whole, and no verdict yet.
    DrivenDestinationWhole,
    /// Driven, destination: committed, paused, the result of `cont` unknown.
    DrivenDestinationCommitted,
    /// Driven, destination: the guest ran here.
    DrivenDestinationRunning,
    /// Driven, destination: its manager said aborted, and this copy is still there.
    DrivenDestinationAborted,
    /// Driven, destination: the guest never ran, and QEMU is gone.
    DrivenDestinationEnded,
    /// Driven by a client's plain commands, source: on its way.
    DrivenSourceTakenUp,
    /// Driven by a client's plain commands, either side: it came to nothing.
    DrivenOver,
    /// Driven by a client's plain commands, source: everything was sent, and the guest was started at the destination, as that
    /// one's sidecar says.
    DrivenSourceStartedThere,
}

/// What a rule says: its name, its decision, and what people read.
#[derive(Clone, Copy, Debug)]
pub struct RuleText {
    /// As it stands in records and output.
    pub name: &'static str,
    /// What is done.
    pub decision: Decision,
    /// Why.
    pub reason: &'static str,
    /// For a hold: what would settle it.
    pub settled_by: &'static str,
    /// What libvirt does at the same point (qemu_process.c, RecoverMigrationOut and -In).
    pub libvirt: &'static str,
}

// Rows in few words, for the tables of jobs.

const fn confirm(name: &'static str, reason: &'static str, libvirt: &'static str) -> RuleText {
    RuleText {
        name,
        decision: Decision::Confirm,
        reason,
        settled_by: "",
        libvirt,
    }
}

const fn resume(name: &'static str, reason: &'static str, libvirt: &'static str) -> RuleText {
    RuleText {
        decision: Decision::Resume,
        ..confirm(name, reason, libvirt)
    }
}

const fn kill(name: &'static str, reason: &'static str, libvirt: &'static str) -> RuleText {
    RuleText {
        decision: Decision::Kill,
        ..confirm(name, reason, libvirt)
    }
}

const fn hold(
    name: &'static str,
    reason: &'static str,
    settled_by: &'static str,
    libvirt: &'static str,
) -> RuleText {
    RuleText {
        decision: Decision::Hold,
        settled_by,
        ..confirm(name, reason, libvirt)
    }
}

// A row stands at the number of its rule, so that `text` is an index that cannot miss.
const _: () = {
    let mut at = 0;
    while at < TABLE.len() {
        assert!(TABLE[at].0 as usize == at);
        at += 1;
    }
    assert!(TABLE.len() == Rule::DestinationAbortedDead as usize + 1);
    let mut at = 0;
    while at < AUTHORITIES.len() {
        assert!(AUTHORITIES[at].0 as usize == TABLE.len() + at);
        at += 1;
    }
    assert!(TABLE.len() + AUTHORITIES.len() == Rule::DestinationVerdictQuit as usize + 1);
    let mut at = 0;
    while at < JOBS.len() {
        assert!(JOBS[at].0 as usize == TABLE.len() + AUTHORITIES.len() + at);
        at += 1;
    }
    let before = TABLE.len() + AUTHORITIES.len() + JOBS.len();
    assert!(before == Rule::OrdinaryReconciled as usize + 1);
    let mut at = 0;
    while at < DRIVEN.len() {
        assert!(DRIVEN[at].0 as usize == before + at);
        at += 1;
    }
    assert!(before + DRIVEN.len() == Rule::DrivenSourceStartedThere as usize + 1);
};

impl Rule {
    /// Every rule, in the order of the table.
    pub fn all() -> impl Iterator<Item = Rule> {
        let rows = TABLE.iter().chain(AUTHORITIES).chain(JOBS);
        rows.chain(DRIVEN).map(|(rule, _)| *rule)
    }

    /// The rule of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Rule> {
        Rule::all().find(|rule| rule.name() == name)
    }

    /// Its name in records and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.text().name
    }

    /// What is done under it.
    #[must_use]
    pub const fn decision(self) -> Decision {
        self.text().decision
    }

    /// All that is said about it.
    #[must_use]
    pub const fn text(self) -> &'static RuleText {
        let at = self as usize;
        let of_jobs = TABLE.len() + AUTHORITIES.len();
        if at < TABLE.len() {
            &TABLE[at].1
        } else if at < of_jobs {
            &AUTHORITIES[at - TABLE.len()].1
        } else if at < of_jobs + JOBS.len() {
            &JOBS[at - of_jobs].1
        } else {
            &DRIVEN[at - of_jobs - JOBS.len()].1
        }
    }
}
