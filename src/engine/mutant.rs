//! A rule that is wrong on purpose, put into the table's place: a harness that lets it pass proves
//! nothing.
//!
//! Invariant: only in tests and with the feature `mutants`, which a sidecar is never built with; a
//! mutant belongs to one thread, and is gone when its work ends.
//! Not here: the rules themselves (`decide`), which of them are made wrong (the model, the simulator).

use std::cell::Cell;

use journal_format::record::Evidence;

use super::Rule;

/// A wrong rule: where the engine finds the first, it acts as under the second.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// `None`: while the protocol simply goes on.
    pub of: Option<Rule>,
    /// What it acts as under.
    pub wrong: Option<Rule>,
    /// Only there.
    pub when: fn(&Evidence) -> bool,
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

/// The same for a job that is no migration; where it holds is of no matter there.
pub(crate) fn altered_job(rule: Option<Rule>) -> Option<Rule> {
    match MUTANT.get() {
        Some(mutant) if mutant.of == rule => mutant.wrong,
        Some(_) | None => rule,
    }
}

/// Is a word that the table never comes to, of an operator or a manager, not carried out by this thread?
pub(crate) fn is_wrong(evidence: &Evidence, rule: Rule) -> bool {
    altered(evidence, Some(rule)) != Some(rule)
}

/// Decides wrongly meanwhile.
pub fn with<T>(mutant: Mutant, work: impl FnOnce() -> T) -> T {
    MUTANT.set(Some(mutant));
    let result = work();
    MUTANT.set(None);
    result
}
