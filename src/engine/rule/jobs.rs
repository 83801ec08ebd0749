//! The rows of the jobs that are no migrations, as people read them.
//!
//! Invariant: a row stands at the number of its rule.
//! Not here: when a rule holds (`job::decide`).

use journal_format::record::Decision;

use super::table::NONE;
use super::{Rule, RuleText, confirm, resume};

const CANCELS: &str = "cancels and resumes the guest";
const RESTORED: &str = "takes the job up again";

/// The rows, in the order of [`Rule`].
pub(super) const JOBS: &[(Rule, RuleText)] = &[
    (
        Rule::JobDead,
        confirm(
            "job-dead",
            "QEMU ended while the job was open: the guest crashed",
            "removes the domain",
        ),
    ),
    (
        Rule::JobSettled,
        confirm(
            "job-settled",
            "nothing of the job is left in QEMU: it is closed",
            "forgets the job",
        ),
    ),
    (
        Rule::SaveUndone,
        resume(
            "save-undone",
            "nothing was saved: the guest goes on",
            CANCELS,
        ),
    ),
    (
        Rule::SaveActive,
        resume(
            "save-active",
            "not all of the guest is in the image: the save is cancelled, and the guest goes on",
            CANCELS,
        ),
    ),
    (
        Rule::SaveCompleted,
        resume(
            "save-completed",
            "all of the guest is in the image, but QEMU was not ended: the guest goes on, and the image is invalid",
            CANCELS,
        ),
    ),
    (
        Rule::SaveEnding,
        RuleText {
            name: "save-ending",
            decision: Decision::Kill,
            reason: "the guest is in its image, and the end of this QEMU was intended: it never runs again",
            settled_by: "",
            libvirt: CANCELS,
        },
    ),
    (
        Rule::SaveEnded,
        confirm(
            "save-ended",
            "the guest is in its image, and this QEMU is gone",
            "removes the domain",
        ),
    ),
    (
        Rule::DumpActive,
        resume(
            "dump-active",
            "the dump goes on until QEMU ends it, or is cancelled where QEMU can: then the guest goes on",
            CANCELS,
        ),
    ),
    (
        Rule::DumpTaken,
        resume(
            "dump-taken",
            "the dump was taken: the guest goes on",
            CANCELS,
        ),
    ),
    (
        Rule::DumpUndone,
        resume(
            "dump-undone",
            "it is not proven that the dump was taken: the guest goes on",
            CANCELS,
        ),
    ),
    (
        Rule::SnapshotActive,
        resume(
            "snapshot-active",
            "the snapshot is on its way: its end is waited for, a stream to a file is cancelled; then the guest goes on",
            CANCELS,
        ),
    ),
    (
        Rule::SnapshotTaken,
        resume(
            "snapshot-taken",
            "the snapshot was taken: the guest goes on",
            CANCELS,
        ),
    ),
    (
        Rule::SnapshotUndone,
        resume(
            "snapshot-undone",
            "not all of the snapshot was taken: the guest goes on",
            CANCELS,
        ),
    ),
    (
        Rule::BackupActive,
        confirm(
            "backup-active",
            "the block jobs go on: they are taken up again",
            RESTORED,
        ),
    ),
    (
        Rule::BackupPending,
        confirm(
            "backup-pending",
            "the block jobs are done and wait for their last step: they are finalized",
            RESTORED,
        ),
    ),
    (
        Rule::BackupEnded,
        confirm(
            "backup-ended",
            "the block jobs are over: they are dismissed",
            RESTORED,
        ),
    ),
    (
        Rule::BackupFailed,
        confirm(
            "backup-failed",
            "not all block jobs succeeded, or they were to end: those that are over are dismissed",
            RESTORED,
        ),
    ),
    (
        Rule::BackupCancelled,
        confirm(
            "backup-cancelled",
            "the job was asked to end: its block jobs are cancelled",
            NONE,
        ),
    ),
    (
        Rule::BackupUndone,
        confirm(
            "backup-undone",
            "no block job began: what was set up for it is taken back",
            RESTORED,
        ),
    ),
    (
        Rule::StartUndone,
        RuleText {
            name: "start-undone",
            decision: Decision::Kill,
            reason: "the guest never ran here: its image is as it was",
            settled_by: "",
            libvirt: "kills a domain that never finished starting",
        },
    ),
    (
        Rule::StartUnknown,
        resume(
            "start-unknown",
            "whether the guest was started is not known, and nowhere else can it run: it is started",
            "keeps it paused",
        ),
    ),
    (
        Rule::StartRunning,
        confirm("start-running", "the guest was started", "keeps it running"),
    ),
    (
        Rule::StartEnded,
        confirm(
            "start-ended",
            "the guest never ran here, and this QEMU is gone",
            "removes the domain",
        ),
    ),
    (
        Rule::DestroyAlive,
        RuleText {
            name: "destroy-alive",
            decision: Decision::Kill,
            reason: "the domain was to end",
            settled_by: "",
            libvirt: "kills the domain",
        },
    ),
    (
        Rule::DestroyDone,
        confirm("destroy-done", "this QEMU is gone", "removes the domain"),
    ),
    (
        Rule::OrdinaryReconciled,
        confirm(
            "ordinary-reconciled",
            "what QEMU shows is what holds",
            "forgets the job",
        ),
    ),
];
