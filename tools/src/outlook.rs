//! What recovery would do with an open job, and what that depends on.
//!
//! Invariant: found by asking the engine's own table for every QEMU that a side may have and every answer of the
//! other one; nothing here decides, nor says what an answer tells (`suppose_answer`).
//! Not here: how it is shown (`inspect`).

use std::collections::BTreeMap;

use journal_format::record::{
    Authority, Decision, Evidence, MigrationStatus, PeerAnswer, Process, Role, RunState,
};
use phase_journal::engine::{OpenJob, Rule, can_say, suppose_answer};

/// What recovery would come to.
pub(crate) struct Outlook {
    /// As long as nothing is seen or heard.
    pub(crate) now: Option<Rule>,
    /// What else there is, by decision.
    pub(crate) possible: BTreeMap<Decision, Vec<Rule>>,
    /// It may turn on what QEMU shows.
    pub(crate) on_qemu: bool,
    /// It may turn on what the other side says.
    pub(crate) on_peer: bool,
    /// Who else's word it turns on.
    authority: Authority,
}

impl Outlook {
    /// Asks the table for every QEMU that this side may have and every answer of the other one.
    pub(crate) fn of(job: &OpenJob) -> Outlook {
        let now = job.rule(&job.evidence);
        let mut possible: BTreeMap<Decision, Vec<Rule>> = BTreeMap::new();
        let (mut on_qemu, mut on_peer) = (false, false);
        let mut first_row: Option<Vec<Option<Rule>>> = None;
        for observed in looks(&job.evidence) {
            let rules: Vec<Option<Rule>> = with_answers(&observed)
                .map(|answered| job.rule(&answered))
                .collect();
            on_peer |= rules.windows(2).any(|pair| pair[0] != pair[1]);
            for rule in rules.iter().flatten() {
                let known = possible.entry(rule.decision()).or_default();
                if !known.contains(rule) && Some(*rule) != now {
                    known.push(*rule);
                }
            }
            match &first_row {
                Some(first) => on_qemu |= *first != rules,
                None => first_row = Some(rules),
            }
        }
        possible.retain(|_, rules| !rules.is_empty());
        possible.values_mut().for_each(|rules| rules.sort());
        Outlook {
            now,
            possible,
            on_qemu,
            on_peer,
            authority: job.evidence.authority,
        }
    }

    /// In words.
    pub(crate) fn depends_on(&self) -> String {
        let mut on = Vec::new();
        if self.on_qemu {
            on.push("what QEMU shows");
        }
        if self.on_peer {
            on.push("what the other side says");
        }
        match self.authority {
            Authority::Store => on.push("the key in the store"),
            Authority::Manager => on.push("the manager's verdict"),
            Authority::Destination | Authority::Source => {}
        }
        match on.is_empty() {
            true => "on nothing else".to_owned(),
            false => format!("on {}", on.join(", and on ")),
        }
    }
}

/// The evidence after each answer that the other side may give. An outcome that is on record is not taken back
/// by any.
fn with_answers(evidence: &Evidence) -> impl Iterator<Item = Evidence> + '_ {
    let speaker = evidence.role.other();
    let answers = PeerAnswer::ALL.iter();
    let answers = answers.filter(move |answer| can_say(speaker, **answer));
    answers.map(|answer| {
        let mut answered = suppose_answer(evidence, *answer);
        answered.facts.outcome = evidence.facts.outcome.or(answered.facts.outcome);
        answered
    })
}

/// The evidence with each QEMU that a side of a migration may have: dead, mute, and every run state with every
/// status that a migration passes through on that side.
fn looks(evidence: &Evidence) -> Vec<Evidence> {
    let with = |process, run_state: Option<RunState>, migration: Option<MigrationStatus>| {
        let mut look = evidence.clone();
        look.observed.process = process;
        look.observed.run_state = run_state;
        look.observed.migration = migration;
        look
    };
    let mut looks = vec![
        with(Process::Dead, None, None),
        with(Process::Mute, None, None),
    ];
    let states: &[RunState] = match evidence.role {
        Role::Source => &[
            RunState::Running,
            RunState::Paused,
            RunState::FinishMigrate,
            RunState::Postmigrate,
        ],
        Role::Destination => &[RunState::Inmigrate, RunState::Paused, RunState::Running],
    };
    let statuses = [
        MigrationStatus::None,
        MigrationStatus::Active,
        MigrationStatus::PreSwitchover,
        MigrationStatus::Device,
        MigrationStatus::Cancelled,
        MigrationStatus::Failed,
        MigrationStatus::PostcopyActive,
        MigrationStatus::PostcopyPaused,
        MigrationStatus::Completed,
    ];
    for state in states {
        for status in &statuses {
            let (state, status) = (Some(state.clone()), Some(status.clone()));
            looks.push(with(Process::Alive, state, status));
        }
    }
    looks
}
