//! Jobs that a manager drives: it takes a domain, and runs its own commands, phase by phase.
//!
//! Invariant: everything a command may leave in QEMU is in the journal before QEMU hears of the command, so
//! that a restart knows where to look. One effect of a job is in flight.
//! Not here: migrations that two sidecars drive (`source`, `destination`).

pub(crate) mod decide;
mod drive;
pub(crate) mod driven;
mod legal;
pub(crate) mod meaning;
mod recover;
mod request;
mod resolve;
mod view;

use std::collections::VecDeque;

use journal_format::record::{EffectCommand, JobResult, Observed};

pub use decide::decide_job;
pub(in crate::engine) use driven::{Finder, Sought};
pub(crate) use request::PhaseWanted;

pub use legal::{ManagerEffect, PHASE_EFFECTS_MAX, commands, goes_beside, is_async, may_enter};

use super::{JobSeen, Rule, Token};

/// A look at what jobs left in a domain's QEMU, and the next one.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobEyes {
    /// As last seen.
    pub(in crate::engine) seen: Option<JobSeen>,
    /// Nothing happened since that would make it old.
    pub(in crate::engine) fresh: bool,
    /// A look is under way.
    pub(in crate::engine) looking: bool,
    /// Something happened during that look: its answer may be old.
    pub(in crate::engine) again: bool,
    /// When to look again unasked, in milliseconds since boot.
    pub(in crate::engine) look_at: u64,
    /// Milliseconds between such looks.
    pub(in crate::engine) interval: u64,
}

/// A phase whose effects are being carried out.
#[derive(Clone, Debug)]
struct Running {
    /// Who waits for it.
    token: Token,
    /// How many effects it has.
    count: usize,
    /// Those that were not sent yet.
    plan: VecDeque<EffectCommand>,
    /// With the last one the job ends like that.
    then: Option<JobResult>,
}

/// A job in this life of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobLive {
    /// The sidecar was restarted in this job, and its manager has not taken it up again.
    recovering: bool,
    /// Decided, or found to need no decision, at least once since the start.
    decided: bool,
    /// The rule that holds now, if any.
    rule: Option<Rule>,
    /// What the manager runs.
    running: Option<Running>,
    /// The manager ends it.
    ending: Option<(Token, JobResult)>,
    /// What QEMU would not take back.
    stuck: Vec<String>,
    /// The look that stands in the journal.
    recorded: Option<Observed>,
    /// No effect of ours again before this time, in milliseconds since boot.
    effect_at: u64,
    /// How long the last pause between such effects was, in milliseconds.
    effect_delay: u64,
    /// Source of a recognised migration: its other side.
    pairing: driven::Pairing,
}

impl JobLive {
    /// One that a restart found open.
    pub(crate) fn recovering() -> JobLive {
        JobLive {
            recovering: true,
            ..JobLive::default()
        }
    }

    /// Decided, or nothing to be decided.
    pub(crate) fn is_settled(&self) -> bool {
        self.decided || !self.recovering
    }

    /// The rule that holds now, if any.
    pub(crate) fn rule(&self) -> Option<Rule> {
        self.rule
    }
}
