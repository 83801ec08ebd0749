//! What a run reached: rules, crash points, faults, outcomes.
//!
//! Invariant: counts only; nothing is decided by it.
//! Not here: printing it (`tools`).

use std::collections::BTreeMap;

use crate::engine::Rule;

/// What was reached, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Decisions that were recorded, by the name of their rule.
    pub rules: BTreeMap<String, u64>,
    /// Where sidecars died, by the last record before and how.
    pub crash_points: BTreeMap<String, u64>,
    /// Faults that happened, by name.
    pub faults: BTreeMap<String, u64>,
    /// Migrations that began.
    pub migrations: u64,
    /// Other jobs that began.
    pub jobs: u64,
    /// How the migrations' sources' jobs ended.
    pub results: BTreeMap<String, u64>,
    /// Inputs that engines took.
    pub inputs: u64,
    /// Batches that became durable.
    pub batches: u64,
    /// Holds that stayed until the end, by the name of their rule.
    pub holds: BTreeMap<String, u64>,
    /// What operators had to settle.
    pub resolved: u64,
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => drop(counts.insert(name.to_owned(), 1)),
    }
}

impl Coverage {
    pub(super) fn decided(&mut self, rule: &str) {
        count(&mut self.rules, rule);
    }

    pub(super) fn crashed(&mut self, point: &str) {
        count(&mut self.crash_points, point);
    }

    pub(super) fn fault(&mut self, name: &str) {
        count(&mut self.faults, name);
    }

    pub(super) fn ended(&mut self, result: &str) {
        count(&mut self.results, result);
    }

    pub(super) fn held(&mut self, rule: &str) {
        count(&mut self.holds, rule);
    }

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Coverage) {
        let both = [
            (&mut self.rules, &other.rules),
            (&mut self.crash_points, &other.crash_points),
            (&mut self.faults, &other.faults),
            (&mut self.results, &other.results),
            (&mut self.holds, &other.holds),
        ];
        for (into, from) in both {
            for (name, more) in from {
                *into.entry(name.clone()).or_default() += more;
            }
        }
        self.migrations += other.migrations;
        self.jobs += other.jobs;
        self.inputs += other.inputs;
        self.batches += other.batches;
        self.resolved += other.resolved;
    }

    /// The rules that were reached less often than that, rarest first.
    #[must_use]
    pub fn rare_rules(&self, less_than: u64) -> Vec<(Rule, u64)> {
        let reached = |rule: Rule| self.rules.get(rule.name()).copied().unwrap_or(0);
        let mut rare: Vec<(Rule, u64)> = Rule::all()
            .map(|rule| (rule, reached(rule)))
            .filter(|(_, times)| *times < less_than)
            .collect();
        rare.sort_by_key(|(_, times)| *times);
        rare
    }
}
