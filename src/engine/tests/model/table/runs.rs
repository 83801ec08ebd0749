//! The mutants that no scenario of the model can tell from the engine, and the single simulated run that can.
//!
//! Invariant: the run is an ordinary test of the engine, which passes with the rule as it is.
//! Not here: what happens in the runs (`store`, `operator`, `untold`).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::engine::Rule;
use crate::engine::mutant::{self, Mutant};
use crate::engine::tests::{given_back, jobs, operator, store, untold};

/// A mutant and the run that fails with it.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) rule: Rule,
    wrong: Rule,
    does: &'static str,
    name: &'static str,
    run: fn(),
}

pub(crate) const RUNS: &[Run] = &[
    Run {
        rule: Rule::OtherInstance,
        wrong: Rule::SourceAbandoned,
        does: "goes on with a process that is not the job's",
        name: "untold::another_process_on_the_socket",
        run: untold::another_process_on_the_socket,
    },
    Run {
        rule: Rule::SourceAbandonedStarted,
        wrong: Rule::SourceAbandoned,
        does: "continues an older copy beside the guest",
        name: "given_back::a_second_copy_is_not_made_of_what_was_given_up",
        run: given_back::a_second_copy_is_not_made_of_what_was_given_up,
    },
    Run {
        rule: Rule::NoRuleForThis,
        wrong: Rule::DestinationPrepareFailed,
        does: "kills what it does not know",
        name: "untold::a_state_that_no_row_is_about",
        run: untold::a_state_that_no_row_is_about,
    },
    Run {
        rule: Rule::OperatorResolved,
        wrong: Rule::NoRuleForThis,
        does: "records the word and does nothing",
        name: "operator::a_word_that_overrules_the_one_before",
        run: operator::a_word_that_overrules_the_one_before,
    },
    Run {
        rule: Rule::StoreKeyForeign,
        wrong: Rule::SourceConfirm,
        does: "kills for a key of somebody else's",
        name: "untold::a_key_of_another_journal",
        run: untold::a_key_of_another_journal,
    },
    Run {
        rule: Rule::SourceStoreOlder,
        wrong: Rule::SourceStoreSeekAborted,
        does: "believes a store that was put back",
        name: "store::a_store_that_was_put_back_is_not_believed",
        run: store::a_store_that_was_put_back_is_not_believed,
    },
    Run {
        rule: Rule::DestinationStoreAmnesia,
        wrong: Rule::DestinationStoreAborted,
        does: "withdraws what its journal does not know of",
        name: "store::a_winner_whose_journal_is_older_holds",
        run: store::a_winner_whose_journal_is_older_holds,
    },
    Run {
        rule: Rule::DestinationStoreContradicted,
        wrong: Rule::DestinationStarted,
        does: "ends the job of a guest that runs against the key",
        name: "store::a_destination_that_runs_against_the_key_is_held",
        run: store::a_destination_that_runs_against_the_key_is_held,
    },
    Run {
        rule: Rule::SourceGrantedStartedUnproven,
        wrong: Rule::SourceConfirm,
        does: "kills a copy that is not known to be left",
        name: "operator::a_word_that_overrules_the_one_before",
        run: operator::a_word_that_overrules_the_one_before,
    },
    Run {
        rule: Rule::JobDead,
        wrong: Rule::NoRuleForThis,
        does: "holds a job of a QEMU that is gone",
        name: "jobs::a_domain_that_vanished",
        run: jobs::a_domain_that_vanished,
    },
    Run {
        rule: Rule::JobSettled,
        wrong: Rule::NoRuleForThis,
        does: "holds a job of which nothing is left",
        name: "jobs::a_snapshot_is_taken_or_not",
        run: jobs::a_snapshot_is_taken_or_not,
    },
    Run {
        rule: Rule::SaveUndone,
        wrong: Rule::SaveEnding,
        does: "kills a guest of which nothing is saved",
        name: "jobs::a_save_is_undone_or_done",
        run: jobs::a_save_is_undone_or_done,
    },
    Run {
        rule: Rule::SaveActive,
        wrong: Rule::OrdinaryReconciled,
        does: "ends the job while the stream goes on",
        name: "jobs::a_save_is_undone_or_done",
        run: jobs::a_save_is_undone_or_done,
    },
    Run {
        rule: Rule::SaveCompleted,
        wrong: Rule::SaveEnding,
        does: "kills where no end was intended",
        name: "jobs::a_save_is_undone_or_done",
        run: jobs::a_save_is_undone_or_done,
    },
    Run {
        rule: Rule::SaveEnding,
        wrong: Rule::SaveCompleted,
        does: "runs a guest on that was given to its image",
        name: "jobs::a_save_is_undone_or_done",
        run: jobs::a_save_is_undone_or_done,
    },
    Run {
        rule: Rule::SaveEnded,
        wrong: Rule::JobDead,
        does: "calls a saved guest crashed",
        name: "jobs::a_save_is_undone_or_done",
        run: jobs::a_save_is_undone_or_done,
    },
    Run {
        rule: Rule::DumpActive,
        wrong: Rule::DumpUndone,
        does: "ends the job while the dump goes on",
        name: "jobs::a_dump_is_taken_or_not_proven",
        run: jobs::a_dump_is_taken_or_not_proven,
    },
    Run {
        rule: Rule::DumpTaken,
        wrong: Rule::DumpUndone,
        does: "calls a whole dump failed",
        name: "jobs::a_dump_is_taken_or_not_proven",
        run: jobs::a_dump_is_taken_or_not_proven,
    },
    Run {
        rule: Rule::DumpUndone,
        wrong: Rule::DumpTaken,
        does: "calls a dump whole that never began",
        name: "jobs::a_dump_is_taken_or_not_proven",
        run: jobs::a_dump_is_taken_or_not_proven,
    },
    Run {
        rule: Rule::SnapshotActive,
        wrong: Rule::SnapshotUndone,
        does: "ends the job while the snapshot goes on",
        name: "jobs::a_snapshot_is_taken_or_not",
        run: jobs::a_snapshot_is_taken_or_not,
    },
    Run {
        rule: Rule::SnapshotTaken,
        wrong: Rule::SnapshotUndone,
        does: "calls a snapshot failed that is there",
        name: "jobs::a_snapshot_is_taken_or_not",
        run: jobs::a_snapshot_is_taken_or_not,
    },
    Run {
        rule: Rule::SnapshotUndone,
        wrong: Rule::SnapshotTaken,
        does: "calls a snapshot taken that is not there",
        name: "jobs::a_snapshot_is_taken_or_not",
        run: jobs::a_snapshot_is_taken_or_not,
    },
    Run {
        rule: Rule::BackupActive,
        wrong: Rule::BackupUndone,
        does: "ends the job beside its block jobs",
        name: "jobs::a_backup_is_closed",
        run: jobs::a_backup_is_closed,
    },
    Run {
        rule: Rule::BackupPending,
        wrong: Rule::BackupActive,
        does: "waits for what waits for it",
        name: "jobs::a_backup_is_closed",
        run: jobs::a_backup_is_closed,
    },
    Run {
        rule: Rule::BackupEnded,
        wrong: Rule::BackupFailed,
        does: "calls a backup failed that succeeded",
        name: "jobs::a_backup_is_closed",
        run: jobs::a_backup_is_closed,
    },
    Run {
        rule: Rule::BackupFailed,
        wrong: Rule::BackupEnded,
        does: "calls a backup whole that failed",
        name: "jobs::a_backup_is_closed",
        run: jobs::a_backup_is_closed,
    },
    Run {
        rule: Rule::BackupCancelled,
        wrong: Rule::BackupActive,
        does: "does not cancel what it was asked to",
        name: "jobs::a_backup_is_cancelled",
        run: jobs::a_backup_is_cancelled,
    },
    Run {
        rule: Rule::BackupUndone,
        wrong: Rule::OrdinaryReconciled,
        does: "leaves behind what was set up",
        name: "jobs::a_backup_is_closed",
        run: jobs::a_backup_is_closed,
    },
    Run {
        rule: Rule::StartUndone,
        wrong: Rule::StartRunning,
        does: "calls a guest started that never ran",
        name: "jobs::a_restore_is_undone_or_done",
        run: jobs::a_restore_is_undone_or_done,
    },
    Run {
        rule: Rule::StartUnknown,
        wrong: Rule::StartRunning,
        does: "calls a guest started that may not run",
        name: "jobs::a_restore_is_undone_or_done",
        run: jobs::a_restore_is_undone_or_done,
    },
    Run {
        rule: Rule::StartRunning,
        wrong: Rule::StartUndone,
        does: "kills a guest that runs",
        name: "jobs::a_restore_is_undone_or_done",
        run: jobs::a_restore_is_undone_or_done,
    },
    Run {
        rule: Rule::StartEnded,
        wrong: Rule::NoRuleForThis,
        does: "holds a start whose QEMU is gone",
        name: "jobs::a_restore_is_undone_or_done",
        run: jobs::a_restore_is_undone_or_done,
    },
    Run {
        rule: Rule::DestroyAlive,
        wrong: Rule::OrdinaryReconciled,
        does: "lets a domain live that was to end",
        name: "jobs::a_destroy_is_finished",
        run: jobs::a_destroy_is_finished,
    },
    Run {
        rule: Rule::DestroyDone,
        wrong: Rule::JobDead,
        does: "calls a destroyed domain crashed",
        name: "jobs::a_destroy_is_finished",
        run: jobs::a_destroy_is_finished,
    },
    Run {
        rule: Rule::OrdinaryReconciled,
        wrong: Rule::DestroyAlive,
        does: "kills a guest that was only changed",
        name: "jobs::ordinary_jobs_are_as_qemu_shows",
        run: jobs::ordinary_jobs_are_as_qemu_shows,
    },
    Run {
        rule: Rule::DrivenPostcopy,
        wrong: Rule::DrivenSourceGiveUp,
        does: "cancels a guest that is split over both sides",
        name: "jobs::driven::what_nobody_can_tell_is_held",
        run: jobs::driven::what_nobody_can_tell_is_held,
    },
    Run {
        rule: Rule::DrivenSourceUndone,
        wrong: Rule::DrivenSourceConfirm,
        does: "kills a guest that was not sent",
        name: "jobs::driven::a_driven_migration_is_committed",
        run: jobs::driven::a_driven_migration_is_committed,
    },
    Run {
        rule: Rule::DrivenSourceGiveUp,
        wrong: Rule::DrivenSourceConfirm,
        does: "kills a guest that is on its way",
        name: "jobs::driven::a_driven_migration_is_committed",
        run: jobs::driven::a_driven_migration_is_committed,
    },
    Run {
        rule: Rule::DrivenSourceCompleted,
        wrong: Rule::DrivenSourceAborted,
        does: "continues what may run at the destination",
        name: "jobs::driven::a_driven_migration_is_committed",
        run: jobs::driven::a_driven_migration_is_committed,
    },
    Run {
        rule: Rule::DrivenSourceCont,
        wrong: Rule::NoRuleForThis,
        does: "holds a guest that its manager continued",
        name: "jobs::driven::its_own_cont_at_the_source",
        run: jobs::driven::its_own_cont_at_the_source,
    },
    Run {
        rule: Rule::DrivenSourceAborted,
        wrong: Rule::DrivenSourceConfirm,
        does: "kills a guest that was given back",
        name: "jobs::driven::a_driven_migration_is_aborted",
        run: jobs::driven::a_driven_migration_is_aborted,
    },
    Run {
        rule: Rule::DrivenSourceConfirm,
        wrong: Rule::DrivenSourceAborted,
        does: "continues a copy that was given away",
        name: "jobs::driven::a_driven_migration_is_committed",
        run: jobs::driven::a_driven_migration_is_committed,
    },
    Run {
        rule: Rule::DrivenSourceUnproven,
        wrong: Rule::DrivenSourceConfirm,
        does: "kills a guest that runs",
        name: "jobs::driven::what_nobody_can_tell_is_held",
        run: jobs::driven::what_nobody_can_tell_is_held,
    },
    Run {
        rule: Rule::DrivenSourceQuit,
        wrong: Rule::JobDead,
        does: "calls a guest crashed that its manager took over",
        name: "jobs::driven::its_own_quit_at_the_source",
        run: jobs::driven::its_own_quit_at_the_source,
    },
    Run {
        rule: Rule::DrivenSourceEnded,
        wrong: Rule::JobDead,
        does: "calls a guest crashed that was given away",
        name: "jobs::driven::a_driven_migration_is_committed",
        run: jobs::driven::a_driven_migration_is_committed,
    },
    Run {
        rule: Rule::DrivenDestinationWaiting,
        wrong: Rule::DrivenDestinationAborted,
        does: "kills what the stream still goes to",
        name: "jobs::driven::a_driven_migration_is_committed",
        run: jobs::driven::a_driven_migration_is_committed,
    },
    Run {
        rule: Rule::DrivenDestinationFailed,
        wrong: Rule::DrivenDestinationWaiting,
        does: "waits for what never comes",
        name: "jobs::driven::a_stream_that_failed",
        run: jobs::driven::a_stream_that_failed,
    },
    Run {
        rule: Rule::DrivenDestinationWhole,
        wrong: Rule::DrivenDestinationAborted,
        does: "kills what may be the only copy",
        name: "jobs::driven::a_whole_copy_is_kept",
        run: jobs::driven::a_whole_copy_is_kept,
    },
    Run {
        rule: Rule::DrivenDestinationCommitted,
        wrong: Rule::DrivenDestinationAborted,
        does: "kills what may have run",
        name: "jobs::driven::a_driven_migration_is_committed",
        run: jobs::driven::a_driven_migration_is_committed,
    },
    Run {
        rule: Rule::DrivenDestinationRunning,
        wrong: Rule::DrivenDestinationAborted,
        does: "kills a guest that runs",
        name: "jobs::driven::a_driven_migration_is_committed",
        run: jobs::driven::a_driven_migration_is_committed,
    },
    Run {
        rule: Rule::DrivenDestinationAborted,
        wrong: Rule::DrivenDestinationCommitted,
        does: "runs what was given up",
        name: "jobs::driven::a_driven_migration_is_aborted",
        run: jobs::driven::a_driven_migration_is_aborted,
    },
    Run {
        rule: Rule::DrivenDestinationEnded,
        wrong: Rule::JobDead,
        does: "calls a guest crashed that never ran",
        name: "jobs::driven::an_ended_destination",
        run: jobs::driven::an_ended_destination,
    },
    Run {
        rule: Rule::DrivenSourceTakenUp,
        wrong: Rule::DrivenSourceGiveUp,
        does: "cancels behind a client's back",
        name: "jobs::driven::recognised::a_client_goes_on_after_a_crash",
        run: jobs::driven::recognised::a_client_goes_on_after_a_crash,
    },
    Run {
        rule: Rule::DrivenOver,
        wrong: Rule::NoRuleForThis,
        does: "holds what came to nothing",
        name: "jobs::driven::recognised::what_comes_to_nothing",
        run: jobs::driven::recognised::what_comes_to_nothing,
    },
    Run {
        rule: Rule::DrivenSourceStartedThere,
        wrong: Rule::DrivenSourceAborted,
        does: "continues a guest that its client continued there",
        name: "jobs::driven::paired::a_guest_that_was_started_there",
        run: jobs::driven::paired::a_guest_that_was_started_there,
    },
];

impl Run {
    /// A line of the report; the error says that it got away.
    pub(crate) fn catch(&self) -> Result<String, String> {
        let told = format!("{:<32} {:<58} {}", self.rule.name(), self.does, self.name);
        let mutant = Mutant {
            of: Some(self.rule),
            wrong: Some(self.wrong),
            when: |_| true,
        };
        (self.run)();
        let run = AssertUnwindSafe(self.run);
        match mutant::with(mutant, || catch_unwind(run)) {
            Err(panic) => Ok(format!("{told} fails: {}", first_line(&*panic))),
            Ok(()) => Err(format!("{told} passes")),
        }
    }
}

fn first_line(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let mut lines = text.unwrap_or_default().lines().map(str::trim);
    lines.find(|line| !line.is_empty()).unwrap_or_default()
}
