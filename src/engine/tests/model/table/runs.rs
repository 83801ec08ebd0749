//! The mutants that no scenario of the model can tell from the engine, and the single simulated run that can.
//!
//! Invariant: the run is an ordinary test of the engine, which passes with the rule as it is.
//! Not here: what happens in the runs (`store`, `operator`, `untold`).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::engine::Rule;
use crate::engine::mutant::{self, Mutant};
use crate::engine::tests::{given_back, operator, store, untold};

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
