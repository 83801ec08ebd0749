//! What a model is about: the protocol's first request, the faults that may happen, and the holds that
//! are allowed to be the end.
//!
//! Invariant: a hold that is not named here for what happened is no end (P4).
//!
//! What is gone through is everything within these bounds; they are bounds, not proofs:
//! - each fault happens so often as [`Faults`] says;
//! - [`Detail::Swift`]: QEMU is looked at the moment somebody wants to know, and what a monitor says is
//!   heard at once; when an effect is sent is free, so that QEMU moves between a look and the effect. In
//!   [`Detail::Coarse`] looks wait too, in [`Detail::Fine`] all that a monitor says;
//! - [`Restarts::AtOnceOrLate`]: a sidecar comes back before anything else happens, or when nothing else
//!   can;
//! - time passes for a sidecar only when nothing else can happen, and then longer than every pause of the
//!   engine, so that everything that waits for time is due at once ([`Faults::early_ticks`] for more);
//! - a question that its receiver still knows of is not given up by its asker ([`Faults::late`] for more);
//! - a stream of post-copy breaks so often as [`Faults::breaks`] says; one that breaks unnoticed is noticed
//!   when the source's QEMU ends; that memory was all sent when the source died is seen at the destination
//!   by then or never;
//! - the store loses nothing; a request for the key is carried out once at the most times it was sent, or
//!   (if it is late) never; a store that is down is one whose requests are late;
//! - a manager that gives a verdict does not wait for the answer to the one before;
//! - one migration, one domain, one boot of each host; no owner's commands, no `resolve`.
//!
//! Reduced without losing anything are:
//! - scenes that differ only in what `canon` makes relative (LSNs, times, tokens): the engine only compares
//!   those, so that such scenes have the same future but for these names;
//! - a crash after a step without records: what is durable is what it was before the step, and what was only
//!   in memory is lost either way, so that it is a crash before that step, which is gone through. A crash
//!   after a step with records is split off from the step itself, which is thus made once;
//! - an older copy of a journal is taken only when the journal has just grown: a copy that is taken later
//!   has the same bytes, and taking it changes nothing else.
//!
//! P4 is judged as: from each scene a settled one can be reached without a further fault. That a schedule
//! that can happen again and again does happen at last (fairness) is taken for granted.
//! Not here: how anything happens (`scene`, `happen`).

use core::fmt;

use journal_format::record::{Authority, Decision, Protocol};

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
    /// The stream of a split guest breaks.
    pub(crate) breaks: u8,
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
    /// A hand from outside continues the destination's whole copy.
    pub(crate) starts: u8,
    /// The manager gives a verdict, either one, on either side.
    pub(crate) verdicts: u8,
    /// Requests for the key whose asker does not wait long enough: they are carried out later, or never.
    pub(crate) key_late: u8,
    /// Requests for the key that arrive twice.
    pub(crate) key_repeated: u8,
    /// A whole host is gone for good.
    pub(crate) gone: [u8; 2],
    /// Time passes while something is still on its way.
    pub(crate) early_ticks: u8,
}

impl Faults {
    /// Both of them; `None` if they are of one kind, or one of them is nothing.
    pub(crate) fn with(&self, other: &Faults) -> Option<Faults> {
        let sum = |one: u8, other: u8| one.max(other);
        let sums = |one: [u8; 2], other: [u8; 2]| [one[0].max(other[0]), one[1].max(other[1])];
        let both = Faults {
            crashes: sum(self.crashes, other.crashes),
            lost: sum(self.lost, other.lost),
            late: sum(self.late, other.late),
            repeated: sum(self.repeated, other.repeated),
            refused: sum(self.refused, other.refused),
            unknown: sum(self.unknown, other.unknown),
            not_sent: sum(self.not_sent, other.not_sent),
            device: sum(self.device, other.device),
            breaks: sum(self.breaks, other.breaks),
            deaths: sums(self.deaths, other.deaths),
            journals_lost: sums(self.journals_lost, other.journals_lost),
            rollbacks: sums(self.rollbacks, other.rollbacks),
            damages: sums(self.damages, other.damages),
            mutes: sums(self.mutes, other.mutes),
            foreign: sum(self.foreign, other.foreign),
            stops: sum(self.stops, other.stops),
            starts: sum(self.starts, other.starts),
            verdicts: sum(self.verdicts, other.verdicts),
            key_late: sum(self.key_late, other.key_late),
            key_repeated: sum(self.key_repeated, other.key_repeated),
            gone: sums(self.gone, other.gone),
            early_ticks: sum(self.early_ticks, other.early_ticks),
        };
        (both != *self && both != *other).then_some(both)
    }

    /// Only a guest that is split has a stream that may break; only the store decides without one side.
    pub(crate) fn may_befall(&self, handover: Handover) -> bool {
        let of_store = self.key_late + self.key_repeated + self.gone[A] + self.gone[B];
        (handover.is_postcopy() || self.breaks == 0)
            && (handover == Handover::Store || of_store == 0)
            && (handover == Handover::Manager || self.verdicts == 0)
    }
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
            (self.breaks, "stream breaks"),
            (self.foreign, "foreign cont"),
            (self.stops, "foreign stop"),
            (self.starts, "foreign start"),
            (self.verdicts, "verdict"),
            (self.key_late, "key request late"),
            (self.key_repeated, "key request repeated"),
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
            (self.gone, "host gone"),
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
    breaks: 0,
    deaths: [0, 0],
    journals_lost: [0, 0],
    rollbacks: [0, 0],
    damages: [0, 0],
    mutes: [0, 0],
    foreign: 0,
    stops: 0,
    starts: 0,
    verdicts: 0,
    key_late: 0,
    key_repeated: 0,
    gone: [0, 0],
    early_ticks: 0,
};

/// Each fault by itself.
pub(crate) const EACH: [(&str, Faults); 30] = [
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
    ("stream breaks", Faults { breaks: 1, ..NONE }),
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
    (
        "key request late",
        Faults {
            key_late: 1,
            ..NONE
        },
    ),
    (
        "two key requests late",
        Faults {
            key_late: 2,
            ..NONE
        },
    ),
    (
        "key request repeated",
        Faults {
            key_repeated: 1,
            ..NONE
        },
    ),
    (
        "source host gone",
        Faults {
            gone: [1, 0],
            ..NONE
        },
    ),
    (
        "destination host gone",
        Faults {
            gone: [0, 1],
            ..NONE
        },
    ),
    ("foreign stop", Faults { stops: 1, ..NONE }),
    ("foreign cont", Faults { foreign: 1, ..NONE }),
    ("foreign start", Faults { starts: 1, ..NONE }),
    (
        "a verdict",
        Faults {
            verdicts: 1,
            ..NONE
        },
    ),
    (
        "two verdicts",
        Faults {
            verdicts: 2,
            ..NONE
        },
    ),
];

/// How long what a monitor says is on its way to its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Not at all, and QEMU is looked at the moment that somebody wants to know.
    Swift,
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

/// How a guest changes sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handover {
    V2,
    V3,
    /// v3 by post-copy, as QEMU 7.2 goes over.
    Postcopy,
    /// The same in the order of newer QEMUs: the devices first, then the word.
    NewerPostcopy,
    /// v3, and a store decides.
    Store,
    /// v3, and the outcome is the manager's word.
    Manager,
}

impl Handover {
    pub(crate) const ALL: [Handover; 6] = [
        Handover::V3,
        Handover::V2,
        Handover::Postcopy,
        Handover::NewerPostcopy,
        Handover::Store,
        Handover::Manager,
    ];

    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Handover::V2 => Protocol::V2,
            Handover::V3
            | Handover::Postcopy
            | Handover::NewerPostcopy
            | Handover::Store
            | Handover::Manager => Protocol::V3,
        }
    }

    pub(crate) fn authority(self) -> Authority {
        match self {
            Handover::V2 => Authority::Source,
            Handover::V3 | Handover::Postcopy | Handover::NewerPostcopy => Authority::Destination,
            Handover::Store => Authority::Store,
            Handover::Manager => Authority::Manager,
        }
    }

    /// The store that both sidecars are started with.
    pub(crate) fn store(self) -> Option<String> {
        (self == Handover::Store).then(|| "store".to_owned())
    }

    /// May its memory follow the guest?
    pub(crate) fn is_postcopy(self) -> bool {
        match self {
            Handover::V2 | Handover::V3 | Handover::Store | Handover::Manager => false,
            Handover::Postcopy | Handover::NewerPostcopy => true,
        }
    }
}

impl fmt::Display for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Handover::V2 => "v2",
            Handover::V3 => "v3",
            Handover::Postcopy => "postcopy",
            Handover::NewerPostcopy => "newer-postcopy",
            Handover::Store => "store",
            Handover::Manager => "manager",
        })
    }
}

/// A protocol and its surroundings.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) handover: Handover,
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
    pub(crate) fn new(handover: Handover, name: &'static str, faults: Faults) -> Scenario {
        Scenario {
            name,
            handover,
            paused: false,
            faults,
            any_effect: false,
            incoming_survives: false,
            detail: Detail::Swift,
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
        let (handover, name, crashes) = (self.handover, self.name, self.faults.crashes);
        let of_pair = match self.name {
            "a pair" => format!(" of faults: {}", self.faults),
            _ => String::new(),
        };
        format!("{handover} {name}{of_pair}{paused}, crashes {crashes}")
    }
}

impl Scene {
    /// P4: one copy runs (or stands, as its owner wants it), or the guest is gone, and nothing is
    /// open; or what is open is held under a rule that may be the end after what happened.
    pub(crate) fn is_settled(&self) -> bool {
        let engines = || self.hosts.iter().filter_map(|host| host.engine.as_ref());
        let here = self.hosts.iter().filter(|host| !host.gone);
        if engines().count() < here.count() {
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
                (one.newest || self.qemus[B].foreign)
                    && !one.split.partial
                    && (one.running() || is_stopped)
            }
            // A hand from outside continued the guest at the destination while it was given back to the source.
            [_, destination] => destination.foreign && destination.running(),
            _ => false,
        }
    }

    pub(super) fn used(&self, count: impl Fn(&Faults) -> u8) -> bool {
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
        let gone = |at: usize| self.hosts[at].gone;
        let died = self.used(|left| left.deaths[A]) || gone(A);
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
            // A winner is gone before it started, or the source's own copy is: nobody knows.
            // So it is if one of the journals knows no more of it, and if a hand continued the source then.
            Rule::SourceStoreInDoubt | Rule::SourceStoreDead | Rule::SourceStoreRunning => {
                gone(B) || lost
            }
            // A copy without a licence, or whose `cont` was refused, and whose source is gone.
            Rule::DestinationPrepareAlone | Rule::DestinationFinishRefused => gone(A),
            // One of the journals is not what it was, or a hand continued what came of a guest that stays here.
            Rule::DestinationPostcopyBroken => lost || self.qemus[B].foreign,
            // The same, and the other side knows; or the source won aborted meanwhile.
            Rule::SourceAbandonedStarted | Rule::DestinationStoreContradicted => {
                self.qemus[B].foreign
            }
            // Without the manager's word, which the end of a QEMU is too if it was watched (one that was mute was
            // not), and which may be in a journal that is not what it was.
            Rule::SourceVerdictAwaited | Rule::DestinationVerdictAwaited => {
                let is_silent = self.words == [None, None];
                let is_mute = [A, B].map(|at| self.used(|left| left.mutes[at])) != [false, false];
                let is_watched = !is_mute && !self.used(|left| left.crashes);
                let has_ended = self.qemus.iter().any(|qemu| !qemu.alive);
                lost || is_silent && !(has_ended && is_watched)
            }
            Rule::SourceStoreOlder | Rule::DestinationStoreAmnesia | Rule::StoreKeyForeign => lost,
            // Whether the destination's copy is whole cannot be known from a journal that is lost.
            Rule::SourcePerformDeadAsking => died && (lost || gone(B)),
            _ => false,
        }
    }
}
