//! What other evidence would have led to: one thing changed at a time.
//!
//! Invariant: each rule is found by the engine's own table, from evidence that differs in what is named; only
//! what would have changed the rule is said.

use journal_format::record::{
    Authority, ClaimSeen, Evidence, MigrationHistories, MigrationStatus, Observed, Outcome,
    PeerAnswer, Process, RunState, StoreAnswer,
};
use phase_journal::engine::{
    Rule, can_say, decide, decide_over, suppose_answer, suppose_key, suppose_look, suppose_verdict,
};
use serde_json::{Value, json};

/// Another rule, and what would have had to be otherwise.
#[derive(Debug)]
pub(crate) struct Otherwise {
    /// Of what: `peer`, `store`, `verdict`, `process`, `run state`, `migration`.
    pub(crate) of: &'static str,
    /// Each of these alone.
    pub(crate) values: Vec<String>,
    /// `None`: nothing would have been to decide.
    pub(crate) rule: Option<Rule>,
}

impl Otherwise {
    pub(crate) fn text(&self) -> String {
        let follows = match self.rule {
            Some(rule) => {
                format!(
                    "{} by {}",
                    rule.decision().name().to_uppercase(),
                    rule.name()
                )
            }
            None => "nothing to decide yet".to_owned(),
        };
        format!("{} {}: {follows}", self.of, self.values.join(", "))
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "of": self.of,
            "values": self.values,
            "rule": self.rule.map(Rule::name),
            "decision": self.rule.map(Rule::decision),
        })
    }
}

/// The rule of evidence, over damage if there are histories.
pub(crate) fn rule(evidence: &Evidence, histories: Option<&MigrationHistories>) -> Option<Rule> {
    match histories {
        Some(histories) => decide_over(evidence, histories),
        None => decide(evidence),
    }
}

/// Every change of one thing that gives another rule, those with the same rule together.
pub(crate) fn otherwise(
    evidence: &Evidence,
    histories: Option<&MigrationHistories>,
) -> Vec<Otherwise> {
    let is = rule(evidence, histories);
    let mut all: Vec<Otherwise> = Vec::new();
    let mut say = |of: &'static str, value: &str, supposed: &Evidence| {
        let rule = rule(supposed, histories);
        if rule == is {
            return;
        }
        match all.iter_mut().find(|one| one.of == of && one.rule == rule) {
            Some(known) => known.values.push(value.to_owned()),
            None => all.push(Otherwise {
                of,
                values: vec![value.to_owned()],
                rule,
            }),
        }
    };
    for answer in PeerAnswer::ALL {
        if *answer != evidence.peer && can_say(evidence.role.other(), *answer) {
            say("peer", answer.name(), &suppose_answer(evidence, *answer));
        }
    }
    match evidence.authority {
        Authority::Store => {
            for answer in StoreAnswer::ALL {
                if *answer != evidence.store {
                    say("store", answer.name(), &suppose_key(evidence, *answer));
                }
            }
        }
        Authority::Manager => {
            for verdict in Outcome::ALL {
                if evidence.facts.verdict != Some(*verdict) {
                    let supposed = suppose_verdict(evidence, Some(*verdict));
                    say("verdict", verdict.name(), &supposed);
                }
            }
        }
        Authority::Destination | Authority::Source => {}
    }
    let seen = &evidence.observed;
    for process in Process::ALL {
        // Alive again it would show more than is known.
        if *process != seen.process && *process != Process::Alive {
            let supposed = suppose_look(evidence, without_answer(seen, *process));
            say("process", process.name(), &supposed);
        }
    }
    if seen.process != Process::Alive {
        return all;
    }
    for run_state in RunState::KNOWN {
        if seen.run_state.as_ref() != Some(run_state) {
            let observed = Observed {
                run_state: Some(run_state.clone()),
                ..seen.clone()
            };
            say(
                "run state",
                run_state.name(),
                &suppose_look(evidence, observed),
            );
        }
    }
    for status in MigrationStatus::KNOWN {
        if seen.migration.as_ref() != Some(status) {
            let observed = Observed {
                migration: Some(status.clone()),
                ..seen.clone()
            };
            say(
                "migration",
                status.name(),
                &suppose_look(evidence, observed),
            );
        }
    }
    all
}

/// What a process shows that does not answer.
pub(crate) fn without_answer(seen: &Observed, process: Process) -> Observed {
    Observed {
        process,
        instance: seen.instance,
        run_state: None,
        migration: None,
        claim: ClaimSeen::Unread,
    }
}
