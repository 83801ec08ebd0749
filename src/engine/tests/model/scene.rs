//! Two sidecars that run the real engine, their monitors' queues, the wire between them, and what can
//! happen next.
//!
//! Invariant: everything that happens is one [`Action`]; between two of them nothing happens.
//! Not here: what follows when it happens (`happen`), what QEMU does (`qemu`), which scenes are alike
//! (`canon`), in which order they are gone through (`explore`).

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::rc::Rc;

use journal_format::number::{BootId, DomainId, Id128, JournalId, Lsn, MigrationId};
use journal_format::record::{Effect, EffectCommand, Instance, KeyValue, Outcome, RunState};

use super::qemu::{Move, Qemu, Stream};
use super::scenario::{Faults, Handover, Restarts, Scenario};
use super::store::{KeyAsk, KeyStray};
use crate::engine::live::Pending;
use crate::engine::state::State;
use crate::engine::{
    ControlRequest, Engine, Envelope, Input, JobTarget, MigrateOptions, PeerRequest, PeerResponse,
    StoreRequest, Token,
};

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(super) const DOMAIN: DomainId = DomainId(Id128([7; 16]));

/// The migration that this is all about.
pub(super) const DOMAIN_MIGRATION: MigrationId = MigrationId(Id128([0x40; 16]));

pub(super) fn id(byte: u8) -> Id128 {
    Id128([byte; 16])
}

/// A journal that nobody has open.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    pub(crate) state: State,
    pub(crate) next: Lsn,
    pub(crate) epoch: u32,
    pub(crate) journal: JournalId,
}

/// What a sidecar's monitor was asked to do, in order.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Look,
    Perform(Effect),
}

/// One sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) engine: Option<Engine>,
    /// Its journal while it is down.
    pub(crate) durable: Option<Durable>,
    /// An older copy of its journal.
    pub(crate) backup: Option<Rc<Durable>>,
    /// How often it was started.
    pub(crate) lives: u8,
    /// Milliseconds of its own clock.
    pub(crate) now: u64,
    pub(crate) requests: VecDeque<Request>,
    /// What the monitor has to say, in order.
    pub(crate) inputs: VecDeque<Input>,
    /// An effect that nobody waits for any more, and that may still happen.
    pub(crate) orphan: Option<EffectCommand>,
    /// The whole host is gone for good.
    pub(crate) gone: bool,
    /// Its monitor is connected: events are heard.
    pub(crate) connected: bool,
    /// Nothing happened since it crashed.
    pub(crate) just_crashed: bool,
    /// Nothing happened since its journal grew: an older copy that is taken later is no other one.
    pub(crate) just_grew: bool,
}

/// Where an ask is.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    There,
    Asked,
    Back(Envelope, PeerResponse),
    Broken,
}

/// A sidecar's question, until the asker has its answer.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) from: usize,
    pub(crate) token: Token,
    pub(crate) envelope: Envelope,
    pub(crate) request: PeerRequest,
    pub(crate) way: Way,
}

/// A question whose asker does not wait any more, still on its way.
#[derive(Clone, Debug)]
pub(crate) struct Stray {
    pub(crate) from: usize,
    pub(crate) envelope: Envelope,
    pub(crate) request: PeerRequest,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The sidecar takes what its monitor says.
    Hear,
    /// The monitor does the next thing it was asked to.
    Serve,
    /// QEMU answers an error to it.
    ServeRefused,
    /// Nothing is heard of it; it may yet happen.
    ServeUnknown,
    /// It was not sent.
    ServeNotSent,
    /// An effect that nobody waits for happens.
    Orphan,
    /// A question arrives.
    Question,
    /// An answer arrives.
    Answer,
    /// The asker finds the connection broken, or nobody there.
    NoAnswer,
    /// A question of one that waits no more arrives.
    Stray,
    /// A question is lost; the asker waits in vain.
    Lose,
    /// The asker does not wait any longer; the question or its answer comes too late.
    TimeOut,
    /// A question is there twice.
    Repeat,
    /// Time passes for a sidecar, when there is nothing else to do but to start one.
    Tick,
    /// Time passes though there is something to do.
    EarlyTick,
    Crash,
    Restart,
    LoseJournal,
    Backup,
    RollBack,
    /// Records of a journal cannot be read.
    Damage,
    /// A QEMU does not answer.
    Mutes,
    /// It answers again.
    Wakes,
    Moves(Move),
    Dies,
    DeviceFails,
    /// The stream of a split guest breaks.
    Breaks,
    /// And only its source notices.
    BreaksUnnoticed,
    ForeignCont,
    ForeignStop,
    ForeignStart,
    /// The manager says so to that side.
    Says(Outcome),
    /// The store carries a request out.
    KeyServed,
    /// The asker hears its answer.
    KeyAnswer,
    /// The asker does not wait any longer; the request may yet be carried out.
    KeyLate,
    /// A request for the key is there twice.
    KeyRepeat,
    /// A request that nobody waits for is carried out.
    KeyStray,
    /// A host is gone for good, with its QEMU.
    Goes,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) kind: Kind,
    /// The side, or the number of the question.
    pub(crate) at: u8,
    /// If not 0, a sidecar dies: when the records of the so manieth of the steps that it leads to and that
    /// have any are durable, before anything of that step leaves.
    pub(crate) dies_at: u8,
}

/// Everything there is.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) scenario: Rc<Scenario>,
    /// Faults that may still happen.
    pub(crate) left: Faults,
    pub(crate) hosts: [Rc<Host>; 2],
    pub(crate) qemus: [Qemu; 2],
    pub(crate) stream: Stream,
    pub(crate) asks: Vec<Ask>,
    pub(crate) strays: Vec<Stray>,
    /// Authority store: what the key says.
    pub(crate) key: Option<KeyValue>,
    pub(crate) key_asks: Vec<KeyAsk>,
    /// Requests for the key that nobody waits for any more.
    pub(crate) key_strays: Vec<KeyStray>,
    /// Authority manager: what it said to either side, taken or refused.
    pub(crate) said: Vec<Outcome>,
    /// Its word, as each side has it on record.
    pub(crate) words: [Option<Outcome>; 2],
    /// Did the last question of that side come to nothing?
    pub(crate) apart: [bool; 2],
    next_token: u64,
    /// The promise that was broken, if one was.
    pub(crate) broken: Option<&'static str>,
    /// Keep what would be if a sidecar died now, whenever it has records to make durable.
    pub(super) splits: bool,
    /// That, in order.
    pub(super) died: Vec<Scene>,
    /// See [`Action`].
    pub(super) dies_at: u8,
    /// What happened, for people; not part of what is compared.
    pub(crate) log: Option<String>,
}

/// Those of one side that can happen.
fn of(at: usize, kinds: impl IntoIterator<Item = (Kind, bool)>) -> impl Iterator<Item = Action> {
    let at = u8::try_from(at).expect("two hosts");
    let can = kinds.into_iter().filter(|(_, condition)| *condition);
    can.map(move |(kind, _)| Action {
        kind,
        at,
        dies_at: 0,
    })
}

impl Scene {
    /// Both domains are registered, and the source was just asked to migrate.
    pub(crate) fn new(scenario: &Rc<Scenario>) -> Scene {
        let boots = [BootId(id(0xA1)), BootId(id(0xB1))];
        let qemu = |at: usize, run| {
            let pid = 100 + u32::try_from(at).expect("two hosts");
            let instance = Instance {
                boot: boots[at],
                pid,
                start_time: 1,
            };
            Qemu::new(run, instance)
        };
        let host = |at: usize| {
            Rc::new(Host {
                engine: None,
                durable: Some(Durable::empty(at, 0)),
                backup: None,
                lives: 0,
                now: 1_000,
                requests: VecDeque::new(),
                inputs: VecDeque::new(),
                orphan: None,
                gone: false,
                connected: false,
                just_crashed: false,
                just_grew: false,
            })
        };
        let run = if scenario.paused {
            RunState::Paused
        } else {
            RunState::Running
        };
        let mut scene = Scene {
            scenario: Rc::clone(scenario),
            left: scenario.faults,
            hosts: [host(A), host(B)],
            qemus: [qemu(A, run), qemu(B, RunState::Inmigrate)],
            stream: Stream::default(),
            asks: Vec::new(),
            strays: Vec::new(),
            key: None,
            key_asks: Vec::new(),
            key_strays: Vec::new(),
            said: Vec::new(),
            words: [None, None],
            apart: [false, false],
            next_token: 1,
            broken: None,
            splits: false,
            died: Vec::new(),
            dies_at: 0,
            log: None,
        };
        for at in [A, B] {
            scene.restart(at);
            scene.ask_control(at, scene.registration(at));
            scene.calm_down(at);
        }
        scene.ask_control(A, migrate(scenario));
        scene
    }

    fn registration(&self, at: usize) -> ControlRequest {
        let qemu = &self.qemus[at];
        ControlRequest::DomainAdd {
            name: "g".to_owned(),
            domain: DOMAIN,
            qmp: "/q".to_owned(),
            instance: qemu.instance,
            observed: qemu.observed(),
            definition: None,
        }
    }

    pub(super) fn ask_control(&mut self, at: usize, request: ControlRequest) {
        let token = self.token();
        self.feed(at, Input::Control { token, request });
    }

    /// Does everything that the monitor of one side has to do and to say.
    fn calm_down(&mut self, at: usize) {
        loop {
            if !self.hosts[at].inputs.is_empty() {
                self.hear(at);
            } else if !self.hosts[at].requests.is_empty() {
                self.serve(at, Kind::Serve);
            } else {
                break;
            }
        }
    }

    pub(super) fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    pub(super) fn host(&mut self, at: usize) -> &mut Host {
        Rc::make_mut(&mut self.hosts[at])
    }

    pub(super) fn breaks(&mut self, promise: &'static str) {
        self.broken.get_or_insert(promise);
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "        {}", what());
        }
    }

    // What can happen.

    /// Everything that can happen next.
    pub(crate) fn actions(&self) -> Vec<Action> {
        let mut list = Vec::new();
        let moves = self.moves();
        let busy = !moves.is_empty() || self.is_busy(A) || self.is_busy(B);
        for at in [A, B] {
            self.host_actions(&mut list, at, busy);
            self.fault_actions(&mut list, at);
        }
        self.wire_actions(&mut list, busy);
        let source = &self.qemus[A];
        let can_run = matches!(source.run, RunState::Paused | RunState::Postmigrate);
        let moves = moves.into_iter().map(|one| (Kind::Moves(one), true));
        let breaks = self.may_break() && self.left.breaks > 0;
        let faults = [
            (Kind::DeviceFails, self.may_send() && self.left.device > 0),
            (Kind::Breaks, breaks),
            (Kind::BreaksUnnoticed, breaks),
            (
                Kind::ForeignCont,
                source.alive && can_run && self.left.foreign > 0,
            ),
            (
                Kind::ForeignStop,
                self.qemus[B].running() && self.left.stops > 0,
            ),
            (
                Kind::ForeignStart,
                self.qemus[B].holds_guest() && !self.qemus[B].running() && self.left.starts > 0,
            ),
        ];
        list.extend(of(A, moves.chain(faults)));
        list
    }

    /// What a sidecar and its monitor do next.
    fn host_actions(&self, list: &mut Vec<Action>, at: usize, busy: bool) {
        let (left, scenario) = (&self.left, &self.scenario);
        let host = &self.hosts[at];
        let up = host.engine.is_some();
        let effect = match host.requests.front() {
            Some(Request::Perform(effect)) if self.qemus[at].alive => Some(&effect.command),
            _ => None,
        };
        let is_cont = effect == Some(&EffectCommand::Cont);
        let is_kill = effect == Some(&EffectCommand::Kill);
        let may_fail = effect.is_some() && !is_kill && (scenario.any_effect || is_cont);
        let starts = match scenario.restarts {
            Restarts::Anytime => true,
            Restarts::AtOnceOrLate => host.just_crashed || !busy,
        };
        let steps = [
            (Kind::Hear, up && !host.inputs.is_empty()),
            (Kind::Serve, !host.requests.is_empty()),
            (Kind::Tick, up && !busy),
            (Kind::EarlyTick, up && busy && left.early_ticks > 0),
            (Kind::ServeRefused, is_cont && left.refused > 0),
            (Kind::ServeUnknown, may_fail && left.unknown > 0),
            (Kind::ServeNotSent, may_fail && left.not_sent > 0),
            (Kind::Orphan, host.orphan.is_some()),
            (Kind::Crash, up && left.crashes > 0),
            (Kind::Restart, !up && starts && !host.gone),
        ];
        list.extend(of(at, steps));
    }

    /// What befalls the journal or the QEMU of one side.
    fn fault_actions(&self, list: &mut Vec<Action>, at: usize) {
        let (left, host, qemu) = (&self.left, &self.hosts[at], &self.qemus[at]);
        let up = host.engine.is_some();
        let is_old = !up && host.backup.is_some();
        let may_be_old = left.rollbacks[at] + left.damages[at] > 0;
        let faults = [
            (
                Kind::LoseJournal,
                !up && !host.gone && left.journals_lost[at] > 0,
            ),
            (
                Kind::Backup,
                host.just_grew && may_be_old && host.backup.is_none(),
            ),
            (Kind::RollBack, is_old && left.rollbacks[at] > 0),
            (Kind::Damage, is_old && left.damages[at] > 0),
            (Kind::Mutes, qemu.alive && !qemu.mute && left.mutes[at] > 0),
            (Kind::Wakes, qemu.alive && qemu.mute),
            (Kind::Dies, qemu.alive && left.deaths[at] > 0),
            (Kind::Goes, !host.gone && left.gone[at] > 0),
            (Kind::Says(Outcome::Committed), up && left.verdicts > 0),
            (Kind::Says(Outcome::Aborted), up && left.verdicts > 0),
        ];
        list.extend(of(at, faults));
    }

    fn wire_actions(&self, list: &mut Vec<Action>, busy: bool) {
        let left = &self.left;
        let mut may = |kind, number: usize, condition: bool| {
            let at = u8::try_from(number).expect("few questions");
            if condition {
                let dies_at = 0;
                list.push(Action { kind, at, dies_at });
            }
        };
        for (number, ask) in self.asks.iter().enumerate() {
            let there = self.hosts[1 - ask.from].engine.is_some();
            let on_way = matches!(ask.way, Way::There);
            let is_broken = matches!(ask.way, Way::Broken);
            may(Kind::Question, number, on_way && there);
            may(Kind::Answer, number, matches!(ask.way, Way::Back(..)));
            // A question that nobody means to answer any more ends as the interface says.
            let in_vain = matches!(ask.way, Way::Asked) && !busy && !self.will_answer(ask);
            may(Kind::NoAnswer, number, is_broken || !there || in_vain);
            may(Kind::Lose, number, on_way && left.lost > 0);
            may(Kind::TimeOut, number, !is_broken && left.late > 0);
            may(Kind::Repeat, number, on_way && left.repeated > 0);
        }
        for (number, ask) in self.key_asks.iter().enumerate() {
            may(Kind::KeyServed, number, ask.result.is_none());
            may(Kind::KeyAnswer, number, ask.result.is_some());
            may(
                Kind::KeyLate,
                number,
                ask.result.is_none() && left.key_late > 0,
            );
            let changes = ask.request != StoreRequest::Read && ask.result.is_none();
            may(Kind::KeyRepeat, number, changes && left.key_repeated > 0);
        }
        for number in 0..self.key_strays.len() {
            may(Kind::KeyStray, number, true);
        }
        for (number, stray) in self.strays.iter().enumerate() {
            let there = self.hosts[1 - stray.from].engine.is_some();
            may(Kind::Stray, number, there);
        }
    }

    /// Does the one who was asked still know of it?
    fn will_answer(&self, ask: &Ask) -> bool {
        let Some(engine) = &self.hosts[1 - ask.from].engine else {
            return false;
        };
        let of_live = engine.live.values().any(|live| {
            let waits = live.waiting.iter().any(|(token, _)| *token == ask.token);
            waits
                || live.prepare == Some(ask.token)
                || live.resume == Some(ask.token)
                || live.looking.contains(&ask.token)
        });
        let of_pending = engine.pending.values().any(|one| match one {
            Pending::Prepare { token, .. } => *token == ask.token,
            Pending::Migrate { .. }
            | Pending::SetWanted { .. }
            | Pending::JobBegin { .. }
            | Pending::JobPhase { .. }
            | Pending::Word { .. } => false,
        });
        of_live || of_pending
    }

    /// Is there something that this sidecar could take now, or that its monitor is doing?
    fn is_busy(&self, at: usize) -> bool {
        let host = &self.hosts[at];
        let asks = |ask: &Ask| {
            let there = self.hosts[1 - ask.from].engine.is_some();
            match ask.way {
                Way::There if there => ask.from != at,
                Way::Asked if there => false,
                Way::There | Way::Asked | Way::Back(..) | Way::Broken => ask.from == at,
            }
        };
        let asks_store = self.key_asks.iter().any(|ask| ask.from == at);
        let monitor = !host.inputs.is_empty() || !host.requests.is_empty();
        monitor || asks_store || self.asks.iter().any(asks)
    }

    /// Both are up, and neither has anything to do but to wait.
    pub(crate) fn is_quiet(&self) -> bool {
        let up = self
            .hosts
            .iter()
            .all(|host| host.gone || host.engine.is_some());
        // A licence that was shown is answered when the manager has spoken.
        let for_manager = self.scenario.handover == Handover::Manager;
        let may_wait = |ask: &Ask| for_manager && matches!(ask.way, Way::Asked);
        up && !self.is_busy(A) && !self.is_busy(B) && self.asks.iter().all(may_wait)
    }
}

impl Durable {
    pub(super) fn empty(at: usize, number: u8) -> Durable {
        let side = u8::try_from(at).expect("two hosts");
        Durable {
            state: State::default(),
            next: Lsn(1),
            epoch: 0,
            journal: JournalId(id(0xA0 + side * 0x10 + number)),
        }
    }

    pub(super) fn of(engine: &Engine) -> Durable {
        Durable {
            state: engine.state.clone(),
            next: engine.next,
            epoch: engine.config.epoch.0,
            journal: engine.config.journal,
        }
    }
}

/// The manager's word.
pub(super) fn verdict(outcome: Outcome) -> ControlRequest {
    ControlRequest::Verdict {
        target: JobTarget::Domain("g".to_owned()),
        outcome,
        uid: 0,
    }
}

/// The request that begins a migration.
fn migrate(scenario: &Scenario) -> ControlRequest {
    ControlRequest::Migrate {
        name: "g".to_owned(),
        migration: DOMAIN_MIGRATION,
        peer: "peer-1".to_owned(),
        peer_domain: "g".to_owned(),
        uri: "unix:/m".to_owned(),
        protocol: scenario.handover.protocol(),
        authority: scenario.handover.authority(),
        max_bandwidth: None,
        downtime_limit: None,
        postcopy: scenario.handover.is_postcopy(),
        in_doubt_limit: None,
        options: MigrateOptions::default(),
        disks: None,
    }
}
