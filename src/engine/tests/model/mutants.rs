//! Rules that are wrong on purpose: a model that lets one pass proves nothing.
//!
//! Invariant: a mutant belongs to one thread, and is gone when its test ends.
//! Not here: the rules themselves (`decide`), which of them are made wrong (`table`).

use std::cell::Cell;

use journal_format::record::Evidence;

use super::scenario::{Faults, Handover, NONE};
use crate::engine::Rule;

/// A wrong rule: where the engine finds the first, it acts as under the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mutant {
    /// `None`: while the protocol simply goes on.
    pub(crate) of: Option<Rule>,
    pub(crate) wrong: Option<Rule>,
    /// Only there.
    pub(crate) when: fn(&Evidence) -> bool,
}

/// A mutant, and where it is caught.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// The rule, or the fact of the handover, that it makes wrong.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) does: &'static str,
    pub(crate) mutant: Mutant,
    pub(crate) handover: Handover,
    pub(crate) faults: Faults,
    /// The promise that it breaks.
    pub(crate) breaks: &'static str,
}

thread_local! {
    static MUTANT: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// What this thread decides.
pub(crate) fn altered(evidence: &Evidence, rule: Option<Rule>) -> Option<Rule> {
    match MUTANT.get() {
        Some(mutant) if mutant.of == rule && (mutant.when)(evidence) => mutant.wrong,
        Some(_) | None => rule,
    }
}

/// Decides wrongly meanwhile.
pub(crate) fn with<T>(mutant: Mutant, work: impl FnOnce() -> T) -> T {
    MUTANT.set(Some(mutant));
    let result = work();
    MUTANT.set(None);
    result
}

impl Row {
    /// A rule that is replaced by another one.
    pub(crate) const fn rule(of: Rule, wrong: Rule, does: &'static str) -> Row {
        Row::fact(of.name(), Some(of), wrong, does)
    }

    /// The order of a fact of the handover that is made wrong.
    pub(crate) const fn fact(
        name: &'static str,
        of: Option<Rule>,
        wrong: Rule,
        does: &'static str,
    ) -> Row {
        let mutant = Mutant {
            of,
            wrong: Some(wrong),
            when: always,
        };
        Row {
            name,
            does,
            mutant,
            handover: Handover::V3,
            faults: NONE,
            breaks: "",
        }
    }

    /// Only there.
    pub(crate) const fn when(mut self, when: fn(&Evidence) -> bool) -> Row {
        self.mutant.when = when;
        self
    }

    /// What catches it.
    pub(crate) const fn breaks(
        mut self,
        promise: &'static str,
        handover: Handover,
        faults: Faults,
    ) -> Row {
        self.breaks = promise;
        self.handover = handover;
        self.faults = faults;
        self
    }
}

fn always(_: &Evidence) -> bool {
    true
}
