//! Rules that are wrong on purpose: a model that lets one pass proves nothing.
//!
//! Invariant: a row says what is wrong and what must be found.
//! Not here: how one is put into the table's place (`engine::mutant`), which rules are made wrong
//! (`table`).

use journal_format::record::Evidence;

use super::scenario::{Faults, Handover, NONE};
use crate::engine::Rule;
use crate::engine::mutant::Mutant;

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
