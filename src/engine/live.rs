//! What is known for now: seen, heard, under way. Lost in a restart and learnt again.
//!
//! Invariant: nothing here is needed to decide rightly; without it a decision is only later, or a
//! hold.
//! Not here: what is known durably (`state`).

use std::collections::VecDeque;

use journal_format::number::{Nonce, Position};
use journal_format::record::{
    Authority, Cookie, EffectCommand, JobKind, MigrationState, Observed, Outcome, PeerAnswer, Role,
    StoreAnswer, WantedRunState,
};

use super::disks::DisksLive;
use super::job::PhaseWanted;
use super::settings::PutBack;
use super::{Envelope, PeerRequest, Token};

/// A look at a domain's QEMU, and the next one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Eyes {
    /// As last seen.
    pub(crate) observed: Option<Observed>,
    /// Nothing happened since that would make it old.
    pub(crate) fresh: bool,
    /// A look is under way.
    pub(crate) looking: bool,
    /// Something happened during that look: its answer may be old.
    pub(crate) again: bool,
    /// When to look again unasked, in milliseconds since boot.
    pub(crate) look_at: u64,
    /// Milliseconds between such looks.
    pub(crate) interval: u64,
}

/// What an ask under way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Prepare,
    Finish,
    Abandon,
    Ask,
    Acknowledge,
    Resume,
    /// On behalf of a manager whose verdict waits.
    Verdict,
}

/// A manager's verdict that is not taken yet: the other side is asked first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingVerdict {
    pub(crate) token: Token,
    pub(crate) outcome: Outcome,
    pub(crate) uid: u32,
    /// In milliseconds since boot.
    pub(crate) since: u64,
    /// What the question on its behalf came to; nothing else that is heard meanwhile stands for that.
    pub(crate) answered: Option<PeerAnswer>,
}

/// The key in the store, as far as this life of the process knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// What it said last.
    pub(crate) answer: StoreAnswer,
    /// A request is under way.
    pub(crate) busy: bool,
    /// No request before this time, in milliseconds since boot.
    pub(crate) at: u64,
    /// How long the last pause between requests was, in milliseconds.
    pub(crate) delay: u64,
    /// Source: since when it is in doubt, in milliseconds since boot.
    pub(crate) in_doubt_since: Option<u64>,
}

/// A migration in this life of the process.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a separate thing that was seen"
)]
pub(crate) struct Live {
    /// When it began, in nanoseconds since 1970; 0 if that was before this life.
    pub(crate) begun: u64,
    /// The sidecar was restarted in this job.
    pub(crate) recovering: bool,
    /// Decided, or found to need no decision, at least once since the start.
    pub(crate) decided: bool,
    /// The rule that holds now, if any.
    pub(crate) rule: Option<super::Rule>,
    /// What the other side said last, in this life.
    pub(crate) peer: PeerAnswer,
    /// Where it stood then.
    pub(crate) peer_position: Option<Position>,
    /// The ask under way.
    pub(crate) asked: Option<Asked>,
    /// No ask before this time, in milliseconds since boot.
    pub(crate) ask_at: u64,
    /// How long the last pause between asks was, in milliseconds.
    pub(crate) ask_delay: u64,
    /// No effect again before this time, in milliseconds since boot.
    pub(crate) effect_at: u64,
    /// How long the last pause between equal effects was, in milliseconds.
    pub(crate) effect_delay: u64,
    /// Effects still to be sent, one after the other.
    pub(crate) plan: VecDeque<EffectCommand>,
    /// Source: the owner who waits for the stop or cont that is planned or in flight.
    pub(crate) wish: Option<Token>,
    /// Destination: who waits for prepared.
    pub(crate) prepare: Option<Token>,
    /// Destination: who waits for an outcome, and since when.
    pub(crate) waiting: Vec<(Token, u64)>,
    /// Destination: the source that waits for this side to listen again.
    pub(crate) resume: Option<Token>,
    /// Source: the destination listens again.
    pub(crate) listens: bool,
    /// Who waits for a fresh look.
    pub(crate) looking: Vec<Token>,
    /// Destination: the licence, while nothing is decided.
    pub(crate) cookie: Option<Cookie>,
    /// Destination: when the source was heard last, in milliseconds since boot.
    pub(crate) heard_at: u64,
    /// Source: the guest was seen to stop for the switchover.
    pub(crate) stop_seen: bool,
    /// It was seen to run, or what was done to it may not have been seen; at a source since it was seen to stop.
    pub(crate) watch_broken: bool,
    /// The guest is stopped because it is changing sides.
    pub(crate) blackout: bool,
    /// Source: how long the rest would take with the guest stopped, in milliseconds, as last heard.
    pub(crate) converging: Option<u64>,
    /// Source: QEMU may stop the guest for the switchover by itself.
    pub(crate) may_converge: bool,
    /// Source, if there are times to keep: when it began, in milliseconds since boot.
    pub(crate) since: Option<u64>,
    /// Source, if that is awaited: how many passes over memory were made.
    pub(crate) passes: u64,
    /// Source: its deadline passed, and what follows from that was done.
    pub(crate) is_overtime: bool,
    /// Source: why it was given up, for people.
    pub(crate) abandoned: Option<String>,
    /// What QEMU was told before, on its way back.
    pub(crate) put_back: PutBack,
    /// The look that stands in the journal.
    pub(crate) recorded: Option<Observed>,
    /// Authority store.
    pub(crate) key: Key,
    /// Authority manager: the verdict that waits to be taken.
    pub(crate) verdict: Option<PendingVerdict>,
    /// The disks that it copies.
    pub(crate) disks: DisksLive,
}

impl Live {
    /// What is done to QEMU may not have been seen, or it was seen to run.
    pub(crate) fn break_watch(&mut self, role: Role) {
        self.watch_broken |= match role {
            // Before it stopped it ran anyway.
            Role::Source => self.stop_seen,
            Role::Destination => true,
        };
    }

    /// See `Evidence::watched`.
    pub(crate) fn is_watched(&self, state: &MigrationState) -> bool {
        let is_of_use = match (state.terms.role, state.terms.authority) {
            (Role::Source, _) => self.stop_seen && !state.source_touched,
            (Role::Destination, Authority::Manager) => true,
            (Role::Destination, Authority::Destination | Authority::Source | Authority::Store) => {
                false
            }
        };
        is_of_use && !self.watch_broken && !self.recovering
    }
}

impl Default for Live {
    fn default() -> Live {
        Live {
            begun: 0,
            recovering: false,
            decided: false,
            rule: None,
            peer: PeerAnswer::NotAsked,
            peer_position: None,
            asked: None,
            ask_at: 0,
            ask_delay: 0,
            effect_at: 0,
            effect_delay: 0,
            plan: VecDeque::new(),
            wish: None,
            prepare: None,
            waiting: Vec::new(),
            resume: None,
            listens: false,
            looking: Vec::new(),
            cookie: None,
            heard_at: 0,
            stop_seen: false,
            watch_broken: false,
            blackout: false,
            converging: None,
            may_converge: false,
            since: None,
            passes: 0,
            is_overtime: false,
            abandoned: None,
            put_back: PutBack::default(),
            recorded: None,
            key: Key {
                answer: StoreAnswer::NotRead,
                busy: false,
                at: 0,
                delay: 0,
                in_doubt_since: None,
            },
            verdict: None,
            disks: DisksLive::default(),
        }
    }
}

/// A request that waits for a fresh look before it may begin anything; one for each domain.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    /// `migrate-domain`.
    Migrate {
        token: Token,
        request: super::ControlRequest,
    },
    /// A source's prepare.
    Prepare {
        token: Token,
        envelope: Envelope,
        nonce: Nonce,
        request: PeerRequest,
    },
    /// `job-begin`.
    JobBegin {
        token: Token,
        kind: JobKind,
        cookie: Option<String>,
    },
    /// `phase-enter`.
    JobPhase { token: Token, wanted: PhaseWanted },
    /// A client's `cont` or `quit` in a migration that was recognised, or what may begin one.
    Word {
        token: Token,
        uid: u32,
        command: super::MonitorCommand,
    },
    /// The owner's suspend or resume.
    SetWanted {
        token: Token,
        wanted: WantedRunState,
    },
}
