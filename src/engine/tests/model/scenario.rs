//! What a model is about: the protocol's first request, the faults that may happen, and the holds that
//! are allowed to be the end.
//!
//! Invariant: a hold that is not named here for what happened is no end (P4).
//!
//! What is gone through is everything within these bounds; they are bounds, not proofs:
//! - each fault happens so often as [`Faults`] says;
//! - [`Detail::Coarse`]: what a monitor says is heard at once; when it is asked is free;
//! - [`Restarts::AtOnceOrLate`]: a sidecar comes back before anything else happens, or when nothing else
//!   can;
//! - time passes for a sidecar only when nothing else can happen, and then longer than every pause of the
//!   engine, so that everything that waits for time is due at once ([`Faults::early_ticks`] for more);
//! - a question that its receiver still knows of is not given up by its asker ([`Faults::late`] for more);
//! - one migration by pre-copy, one domain, one boot of each host; no owner's commands, no `resolve`.
//!
//! Reduced without losing anything are:
//! - scenes that differ only in what `canon` makes relative (LSNs, times, tokens): the engine only compares
//!   those, so that such scenes have the same future but for these names;
//! - a crash after a step without records: what is durable is what it was before the step, and what was only
//!   in memory is lost either way, so that it is a crash before that step, which is gone through;
//! - an older copy of a journal is taken only when the journal has just grown: a copy that is taken later
//!   has the same bytes, and taking it changes nothing else.
//!
//! P4 is judged as: from each scene a settled one can be reached without a further fault. That a schedule
//! that can happen again and again does happen at last (fairness) is taken for granted.
//! Not here: how anything happens (`scene`, `happen`).

use core::fmt;

use journal_format::record::{Decision, Protocol};

use super::qemu::Qemu;
use super::scene::{A, B, Scene};
use crate::engine::Rule;

/// How often each fault may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Of either sidecar, together.
    pub(crate) crashes: u8,
    /// Questions.
    pub(crate) lost: u8,
    /// Questions whose asker does not wait long enough.
    pub(crate) late: u8,
    /// Questions that arrive twice.
    pub(crate) repeated: u8,
    /// A `cont` that QEMU refuses.
    pub(crate) refused: u8,
    /// Effects of which nothing is heard.
    pub(crate) unknown: u8,
    /// Effects that were not sent.
    pub(crate) not_sent: u8,
    /// The return path breaks in the device phase.
    pub(crate) device: u8,
    /// Of each QEMU.
    pub(crate) deaths: [u8; 2],
    /// Of each sidecar.
    pub(crate) journals_lost: [u8; 2],
    /// An older copy of a journal is put back.
    pub(crate) rollbacks: [u8; 2],
    /// Records of a journal are damaged, and the journal says so.
    pub(crate) damages: [u8; 2],
    /// A QEMU does not answer for a while.
    pub(crate) mutes: [u8; 2],
    /// A hand from outside continues the source.
    pub(crate) foreign: u8,
    /// A hand from outside stops the guest at the destination.
    pub(crate) stops: u8,
    /// Time passes while something is still on its way.
    pub(crate) early_ticks: u8,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = [A, B].map(|at| if at == A { "source" } else { "destination" });
        let mut texts: Vec<String> = [
            (self.crashes, "crash"),
            (self.lost, "question lost"),
            (self.late, "question late"),
            (self.repeated, "question repeated"),
            (self.refused, "cont refused"),
            (self.unknown, "cont unknown"),
            (self.not_sent, "cont not sent"),
            (self.device, "device fails"),
            (self.foreign, "foreign cont"),
            (self.stops, "foreign stop"),
            (self.early_ticks, "early tick"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        let of_sides = [
            (self.deaths, "QEMU dies"),
            (self.journals_lost, "journal lost"),
            (self.rollbacks, "journal old"),
            (self.damages, "journal damaged"),
            (self.mutes, "QEMU mute"),
        ];
        for (counts, what) in of_sides {
            let of_side = counts
                .into_iter()
                .zip(sides)
                .filter(|(count, _)| *count > 0);
            texts.extend(of_side.map(|(count, side)| format!("{count} {side} {what}")));
        }
        match texts.is_empty() {
            true => f.pad("no fault"),
            false => f.pad(&texts.join(", ")),
        }
    }
}

/// No fault at all.
pub(crate) const NONE: Faults = Faults {
    crashes: 0,
    lost: 0,
    late: 0,
    repeated: 0,
    refused: 0,
    unknown: 0,
    not_sent: 0,
    device: 0,
    deaths: [0, 0],
    journals_lost: [0, 0],
    rollbacks: [0, 0],
    damages: [0, 0],
    mutes: [0, 0],
    foreign: 0,
    stops: 0,
    early_ticks: 0,
};

/// Each fault by itself.
pub(crate) const EACH: [(&str, Faults); 21] = [
    ("nothing", NONE),
    ("question lost", Faults { lost: 1, ..NONE }),
    ("question late", Faults { late: 1, ..NONE }),
    (
        "question repeated",
        Faults {
            repeated: 1,
            ..NONE
        },
    ),
    ("cont refused", Faults { refused: 1, ..NONE }),
    ("cont unknown", Faults { unknown: 1, ..NONE }),
    (
        "cont not sent",
        Faults {
            not_sent: 1,
            ..NONE
        },
    ),
    ("device fails", Faults { device: 1, ..NONE }),
    (
        "source QEMU dies",
        Faults {
            deaths: [1, 0],
            ..NONE
        },
    ),
    (
        "destination QEMU dies",
        Faults {
            deaths: [0, 1],
            ..NONE
        },
    ),
    (
        "both QEMUs die",
        Faults {
            deaths: [1, 1],
            ..NONE
        },
    ),
    (
        "source journal lost",
        Faults {
            journals_lost: [1, 0],
            ..NONE
        },
    ),
    (
        "destination journal lost",
        Faults {
            journals_lost: [0, 1],
            ..NONE
        },
    ),
    (
        "source journal old",
        Faults {
            rollbacks: [1, 0],
            ..NONE
        },
    ),
    (
        "destination journal old",
        Faults {
            rollbacks: [0, 1],
            ..NONE
        },
    ),
    (
        "source journal damaged",
        Faults {
            damages: [1, 0],
            ..NONE
        },
    ),
    (
        "destination journal damaged",
        Faults {
            damages: [0, 1],
            ..NONE
        },
    ),
    (
        "source QEMU mute",
        Faults {
            mutes: [1, 0],
            ..NONE
        },
    ),
    (
        "destination QEMU mute",
        Faults {
            mutes: [0, 1],
            ..NONE
        },
    ),
    ("foreign stop", Faults { stops: 1, ..NONE }),
    ("foreign cont", Faults { foreign: 1, ..NONE }),
];

/// How long what a monitor says is on its way to its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Not at all.
    Coarse,
    /// The results of effects as long as they like.
    Prompt,
    /// Events and looks too.
    Fine,
}

/// When a sidecar that crashed is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restarts {
    /// Before anything else happens, or when nothing else can.
    AtOnceOrLate,
    /// Whenever.
    Anytime,
}

/// Which scene is gone on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first that was met.
    Nearest,
    /// The last.
    Deepest,
}

/// A protocol and its surroundings.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// The guest is paused by its owner before.
    pub(crate) paused: bool,
    pub(crate) faults: Faults,
    /// Any effect may stay unknown or unsent, not only `cont`.
    pub(crate) any_effect: bool,
    /// A destination whose stream breaks stays, and says failed.
    pub(crate) incoming_survives: bool,
    pub(crate) detail: Detail,
    pub(crate) restarts: Restarts,
    pub(crate) order: Order,
    /// How much time passes at once; with more than every pause of the engine all that waits is due
    /// after it.
    pub(crate) tick_ms: u64,
}

/// Longer than every pause of the engine.
pub(crate) const LONG_TICK_MS: u64 = 15_001;

impl Scenario {
    /// A migration of a running guest.
    pub(crate) fn new(protocol: Protocol, name: &'static str, faults: Faults) -> Scenario {
        Scenario {
            name,
            protocol,
            paused: false,
            faults,
            any_effect: false,
            incoming_survives: false,
            detail: Detail::Coarse,
            restarts: Restarts::AtOnceOrLate,
            order: Order::Nearest,
            tick_ms: LONG_TICK_MS,
        }
    }
}

impl Scenario {
    /// Its name, for people.
    pub(crate) fn title(&self) -> String {
        let paused = if self.paused { ", guest paused" } else { "" };
        let crashes = self.faults.crashes;
        format!("{} {}{paused}, crashes {crashes}", self.protocol, self.name)
    }
}

impl Scene {
    /// P4: one copy runs (or stands, as its owner wants it), or the guest is gone, and nothing is
    /// open; or what is open is held under a rule that may be the end after what happened.
    pub(crate) fn is_settled(&self) -> bool {
        let engines = || self.hosts.iter().filter_map(|host| host.engine.as_ref());
        if engines().count() < 2 {
            return false;
        }
        let open = || {
            let known = engines().flat_map(|engine| engine.state.migrations.values());
            known.filter(|one| one.state.open)
        };
        if open().next().is_none() {
            return self.nothing_open_is_right();
        }
        if !self.is_quiet() {
            return false;
        }
        open().all(|one| {
            let rules = || {
                let lives = engines().map(|one| &one.live);
                let known = lives.filter_map(|live| live.get(&one.state.terms.migration));
                known.filter_map(|live| live.rule)
            };
            rules().all(|rule| rule.decision() == Decision::Hold)
                && rules().any(|rule| self.may_hold(rule))
        })
    }

    fn nothing_open_is_right(&self) -> bool {
        // Nobody looks after a guest whose job is in a journal that is lost: it stands as it is.
        let is_known = |at: &usize| !self.lost(*at) || self.qemus[*at].running();
        let holders: Vec<&Qemu> = [A, B]
            .into_iter()
            .filter(is_known)
            .map(|at| &self.qemus[at])
            .filter(|qemu| qemu.holds_guest())
            .collect();
        match holders.as_slice() {
            [] => true,
            [one] => {
                let is_stopped = self.scenario.paused || self.used(|left| left.stops);
                one.newest && (one.running() || is_stopped)
            }
            _ => false,
        }
    }

    fn used(&self, count: impl Fn(&Faults) -> u8) -> bool {
        count(&self.left) < count(&self.scenario.faults)
    }

    /// Is the journal of that side not what it was?
    fn lost(&self, at: usize) -> bool {
        self.used(|left| left.journals_lost[at])
            || self.used(|left| left.rollbacks[at])
            || self.used(|left| left.damages[at])
    }

    /// The holds of the decision table that may stay, each only after what it is there for
    /// (DESIGN.md, section 7, and its amnesia in section 6).
    fn may_hold(&self, rule: Rule) -> bool {
        let lost = self.lost(A) || self.lost(B);
        let died = self.used(|left| left.deaths[A]);
        match rule {
            // This copy may have run on by itself before it died. A journal that is older than that
            // death knows no more.
            Rule::SourcePerformDeadUnwatched => died || lost,
            // One of the journals is not what it was.
            Rule::SourceGrantedAmnesia
            | Rule::SourcePerform2Amnesia
            | Rule::DestinationPrepareAmnesia
            | Rule::JournalOlderThanQemu
            | Rule::JournalDamaged
            | Rule::ClaimedByAnother => lost,
            // Whether the destination's copy is whole cannot be known from a journal that is lost.
            Rule::SourcePerformDeadAsking => died && lost,
            _ => false,
        }
    }
}
