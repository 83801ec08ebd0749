//! What one thing that happens does to a scene: to the sidecars, their monitors and the wire.
//!
//! Invariant: what a sidecar knows durably is its engine's own state, which every step makes durable
//! before anything of the step leaves.
//! Not here: what can happen (`scene`), what QEMU does (`qemu`).

use std::rc::Rc;

use journal_format::number::{Epoch, Lsn, MigrationId, Nonce, OpeningId};
use journal_format::record::{
    ContIntent, EffectCommand, EffectResult, Outcome, PeerAnswer, RecordBody, Settings,
};

use super::qemu::refused;
use super::scenario::{Detail, Handover};
use super::scene::{
    A, Action, Ask, B, DOMAIN, Durable, Kind, Request, Scene, Stray, Way, id, verdict,
};
use crate::engine::state::ran_on;
use crate::engine::{
    Config, Engine, Envelope, Gap, History, Input, Message, Now, PeerFailure, PeerRequest,
    PeerResponse, QemuEvent, Step, Token, Told,
};

impl Scene {
    /// Lets one thing happen.
    pub(crate) fn apply(&mut self, action: Action) {
        for at in [A, B] {
            if self.hosts[at].just_grew {
                self.host(at).just_grew = false;
            }
        }
        self.dies_at = action.dies_at;
        self.happen(action);
        self.end(action.dies_at > 0 || action.kind == Kind::Crash);
    }

    /// The same, and besides each scene in which a sidecar died when records that it made on the way were
    /// durable, before anything of that step left.
    pub(crate) fn apply_and_die(&mut self, action: Action) -> Vec<Scene> {
        self.splits = true;
        self.apply(action);
        self.splits = false;
        let mut died = core::mem::take(&mut self.died);
        for scene in &mut died {
            scene.end(true);
        }
        died
    }

    fn end(&mut self, is_crash: bool) {
        for at in [A, B] {
            loop {
                if self.hears_at_once(at) {
                    self.hear(at);
                } else if self.looks_at_once(at) {
                    self.serve(at, Kind::Serve);
                } else {
                    break;
                }
            }
            if self.hosts[at].just_crashed && !is_crash {
                self.host(at).just_crashed = false;
            }
        }
    }

    fn looks_at_once(&self, at: usize) -> bool {
        let front = self.hosts[at].requests.front();
        self.scenario.detail == Detail::Swift && matches!(front, Some(Request::Look))
    }

    /// Is the next thing that the monitor says heard the moment it is there?
    fn hears_at_once(&self, at: usize) -> bool {
        match (self.scenario.detail, self.hosts[at].inputs.front()) {
            (_, None) | (Detail::Fine, _) => false,
            (Detail::Prompt, Some(input)) => {
                matches!(input, Input::Event { .. } | Input::Looked { .. })
            }
            (Detail::Swift | Detail::Coarse, Some(_)) => true,
        }
    }

    fn happen(&mut self, action: Action) {
        let at = usize::from(action.at);
        match action.kind {
            Kind::Hear => self.hear(at),
            Kind::Serve | Kind::ServeRefused | Kind::ServeUnknown | Kind::ServeNotSent => {
                self.serve(at, action.kind);
            }
            Kind::Orphan => {
                if let Some(command) = self.host(at).orphan.take() {
                    let _ = self.obey(at, &command);
                }
            }
            Kind::Question => {
                let ask = &mut self.asks[at];
                ask.way = Way::Asked;
                let (from, token) = (ask.from, ask.token);
                let (envelope, request) = (ask.envelope, ask.request.clone());
                self.question(from, token, envelope, request);
            }
            Kind::Stray => {
                let stray = self.strays.remove(at);
                let token = self.token();
                self.question(stray.from, token, stray.envelope, stray.request);
            }
            Kind::Answer | Kind::NoAnswer => self.answer(at, action.kind),
            Kind::Lose => {
                self.left.lost -= 1;
                self.asks[at].way = Way::Broken;
            }
            Kind::TimeOut => {
                self.left.late -= 1;
                if matches!(self.asks[at].way, Way::There) {
                    self.leave_stray(at);
                }
                self.asks[at].token = self.token();
                self.asks[at].way = Way::Broken;
            }
            Kind::Repeat => {
                self.left.repeated -= 1;
                self.leave_stray(at);
            }
            Kind::Tick | Kind::EarlyTick => {
                if action.kind == Kind::EarlyTick {
                    self.left.early_ticks -= 1;
                }
                let tick = self.scenario.tick_ms;
                self.host(at).now += tick;
                self.feed(at, Input::Tick);
            }
            Kind::Crash => {
                self.left.crashes -= 1;
                self.crash(at);
            }
            Kind::Restart => self.restart(at),
            Kind::LoseJournal => {
                self.left.journals_lost[at] -= 1;
                let number = self.left.journals_lost[at] + 1;
                self.host(at).durable = Some(Durable::empty(at, number));
            }
            Kind::Backup => {
                let copy = self.hosts[at].engine.as_ref().map(Durable::of);
                self.host(at).backup = copy.map(Rc::new);
            }
            Kind::RollBack => {
                self.left.rollbacks[at] -= 1;
                let backup = self.host(at).backup.take();
                self.host(at).durable = backup.as_deref().cloned();
            }
            Kind::Damage => {
                self.left.damages[at] -= 1;
                self.damage(at);
            }
            Kind::Mutes => {
                self.left.mutes[at] -= 1;
                self.qemus[at].mute = true;
                self.emit(at, QemuEvent::Lost);
                self.host(at).connected = false;
            }
            Kind::Wakes => self.qemus[at].mute = false,
            Kind::Moves(one) => self.make_move(one),
            Kind::Dies => {
                self.left.deaths[at] -= 1;
                self.die(at);
            }
            Kind::DeviceFails => {
                self.left.device -= 1;
                self.fail_in_device();
            }
            Kind::KeyServed => self.serve_key(at),
            Kind::KeyAnswer => self.answer_key(at),
            Kind::KeyLate => {
                self.left.key_late -= 1;
                self.answer_key(at);
            }
            Kind::KeyRepeat => {
                self.left.key_repeated -= 1;
                let ask = self.key_asks[at].clone();
                self.leave_request(&ask);
            }
            Kind::KeyStray => {
                let stray = self.key_strays.remove(at);
                self.change_key(stray);
            }
            Kind::Goes => {
                self.left.gone[at] -= 1;
                self.crash(at);
                let host = self.host(at);
                host.gone = true;
                host.durable = None;
                host.just_crashed = false;
                self.die(at);
            }
            Kind::Breaks | Kind::BreaksUnnoticed => {
                self.left.breaks -= 1;
                self.stream.broken = true;
                self.stream.silent = action.kind == Kind::BreaksUnnoticed;
            }
            Kind::ForeignCont => {
                self.left.foreign -= 1;
                self.continue_from_outside();
            }
            Kind::ForeignStop => {
                self.left.stops -= 1;
                self.stop_from_outside();
            }
            Kind::ForeignStart => {
                self.left.starts -= 1;
                self.start_from_outside();
            }
            Kind::Says(outcome) => {
                self.left.verdicts -= 1;
                self.said.push(outcome);
                self.ask_control(at, verdict(outcome));
            }
        }
    }

    /// Everything since the older copy was taken is damaged; where the journal ends is known.
    fn damage(&mut self, at: usize) {
        let host = self.host(at);
        let backup = host.backup.take();
        let (Some(older), Some(durable)) = (backup.as_deref(), &mut host.durable) else {
            return;
        };
        let gap = Gap {
            first: older.next,
            last: Lsn(durable.next.0 - 1),
        };
        let openings = core::mem::take(&mut durable.state.openings);
        durable.state = older.state.clone();
        durable.state.replay_one(&History::Gap(gap));
        durable.state.openings = openings;
    }

    fn leave_stray(&mut self, number: usize) {
        let ask = &self.asks[number];
        self.strays.push(Stray {
            from: ask.from,
            envelope: ask.envelope,
            request: ask.request.clone(),
        });
    }

    pub(super) fn hear(&mut self, at: usize) {
        if let Some(input) = self.host(at).inputs.pop_front() {
            self.feed(at, input);
        }
    }

    fn question(&mut self, from: usize, token: Token, envelope: Envelope, request: PeerRequest) {
        let nonce = Nonce(id(0x99));
        let input = Input::Peer {
            token,
            envelope,
            nonce,
            request,
        };
        self.feed(1 - from, input);
    }

    fn answer(&mut self, number: usize, kind: Kind) {
        let ask = self.asks.remove(number);
        let migration = ask.request.migration();
        self.apart[ask.from] = kind != Kind::Answer;
        let result = match (kind, ask.way) {
            (Kind::Answer, Way::Back(envelope, response)) => Ok((envelope, response)),
            // It never left: nobody listens there.
            (_, Way::There) => Err(PeerFailure::NotSent(String::new())),
            _ => Err(PeerFailure::Unreachable(String::new())),
        };
        self.feed(ask.from, Input::PeerAnswered { migration, result });
    }

    /// One step of an engine; what it wants is handed out, unless the sidecar dies first.
    pub(super) fn feed(&mut self, at: usize, input: Input) {
        self.say(|| format!("{} takes {}", side(at), brief(&input)));
        // Which copies there can be makes a difference only where one may be put back.
        let may_be_old = self.left.rollbacks[at] + self.left.damages[at] > 0;
        let host = self.host(at);
        let now = host.now * 1_000_000;
        let time = Now {
            wall: now,
            monotonic: now,
        };
        let Some(engine) = &mut host.engine else {
            return;
        };
        let step = engine.step(time, input);
        host.just_grew |= may_be_old && host.backup.is_none() && !step.append.is_empty();
        for draft in &step.append {
            self.say(|| format!("{} records {:?}", side(at), draft.body));
            self.judge_record(at, &draft.body);
        }
        // Without records it is the same as a crash before it.
        if !step.append.is_empty() && self.dies(at) {
            return;
        }
        self.hand_out(at, step);
    }

    /// Does this sidecar die here, with records durable of which nothing has left? What if it did is kept.
    fn dies(&mut self, at: usize) -> bool {
        if self.splits && self.left.crashes > 0 {
            let before = core::mem::take(&mut self.died);
            let mut died = self.clone();
            died.splits = false;
            died.left.crashes -= 1;
            died.crash(at);
            self.died = before;
            self.died.push(died);
        }
        let dies = self.dies_at == 1;
        self.dies_at = self.dies_at.saturating_sub(1);
        if dies {
            self.left.crashes -= 1;
            self.crash(at);
        }
        dies
    }

    /// The end of a copy is decided once and for all: at that moment the other one must be good.
    fn judge_record(&mut self, at: usize, body: &RecordBody) {
        let ends = match body {
            RecordBody::VerdictGiven(given) => return self.judge_word(at, given.outcome),
            RecordBody::MigrationAborted(_) | RecordBody::MigrationAbandoned(_) => B,
            RecordBody::OutcomeLearned(learned) if learned.outcome == Outcome::Committed => A,
            RecordBody::MigrationStarted(named) => return self.judge_started(named.migration),
            _ => return,
        };
        self.forsake(ends);
    }

    /// Where the sides cannot talk the manager's word counts as it is: what it ends there is no fault of the
    /// sidecars, nor what two words against each other come to.
    fn judge_word(&mut self, at: usize, outcome: Outcome) {
        self.words[at] = Some(outcome);
        if !self.apart[at] {
            return;
        }
        // Also one that was refused because the destination might still take it.
        let is_against_other = self.said.iter().any(|other| *other != outcome);
        self.qemus[A].presumed |= at == A && outcome == Outcome::Committed || is_against_other;
        self.qemus[B].forsaken |= is_against_other;
        for qemu in &mut self.qemus {
            qemu.foreign |= is_against_other;
        }
    }

    /// That copy is to end: right, if the other one is good without it.
    pub(super) fn forsake(&mut self, ends: usize) {
        if self.carries_guest_with(1 - ends, false) {
            self.qemus[ends].forsaken = true;
        }
    }

    /// From here the guest is the destination's.
    fn judge_started(&mut self, migration: MigrationId) {
        let engine = self.hosts[B].engine.as_ref();
        let known = engine.and_then(|engine| engine.state.migrations.get(&migration));
        let may_have_run = known.is_some_and(|one| one.state.cont == ContIntent::Unknown);
        // A `cont` that may have been sent before this QEMU died counts as one that ran.
        self.qemus[A].presumed |= !self.qemus[B].alive && may_have_run;
        // A guest that its owner paused moves without running.
        let moves = self.carries_guest(B) || self.qemus[A].foreign;
        if self.scenario.paused && moves && self.qemus[B].holds_guest() {
            self.qemus[A].newest = false;
            self.qemus[B].newest = true;
            self.qemus[B].ran = true;
        }
    }

    fn hand_out(&mut self, at: usize, step: Step) {
        for effect in step.effects {
            self.say(|| format!("{} sends {}", side(at), effect.command.name()));
            self.host(at).requests.push_back(Request::Perform(effect));
        }
        for message in step.messages {
            match message {
                Message::LookAtJob { .. } => {}
                // At once: QEMU lists none here, so that there is nothing to put back.
                Message::LookAtSettings { domain } => {
                    let seen = Some(Settings::default());
                    self.feed(at, Input::SettingsLooked { domain, seen });
                }
                Message::Look { .. } | Message::Watch { .. } => {
                    self.host(at).requests.push_back(Request::Look);
                }
                Message::Ask {
                    envelope, request, ..
                } => self.ask(at, envelope, request),
                Message::PeerReply {
                    token,
                    envelope,
                    response,
                    rests_on: _,
                } => self.reply(at, token, envelope, response),
                Message::Store { request, .. } => self.ask_store(at, request),
                Message::Find { .. }
                | Message::Found { .. }
                | Message::Reply { .. }
                | Message::Admitted { .. }
                | Message::Unwatch { .. }
                | Message::Notify(_)
                | Message::Ready => {}
            }
        }
    }

    fn ask(&mut self, from: usize, envelope: Envelope, request: PeerRequest) {
        self.say(|| format!("{} asks {request:?}", side(from)));
        if matches!(request, PeerRequest::Finish { .. }) {
            self.judge_licence(from);
        }
        // As in `reply`: the manager's aborted.
        let abandons = matches!(request, PeerRequest::Abandon { .. });
        if abandons && self.scenario.handover == Handover::Manager && self.carries_guest(from) {
            self.qemus[1 - from].forsaken = true;
        }
        let token = self.token();
        self.asks.push(Ask {
            from,
            token,
            envelope,
            request,
            way: Way::There,
        });
    }

    fn reply(&mut self, from: usize, token: Token, envelope: Envelope, response: PeerResponse) {
        self.say(|| format!("{} answers {response:?}", side(from)));
        if let PeerResponse::Answer {
            cookie: Some(_), ..
        } = response
        {
            self.judge_licence(from);
        }
        // With that word the other side ends its copy, and what becomes of this one after it is no fault of
        // the decision: the window of protocol v2, of a destination whose `cont` was refused, and of the manager's
        // aborted that a source passes on.
        let answer = match &response {
            PeerResponse::Answer { answer, .. } => Some(*answer),
            PeerResponse::Prepared { .. } | PeerResponse::Refused { .. } => None,
        };
        let handover = self.scenario.handover;
        let vouches = match answer {
            Some(PeerAnswer::GrantedAndSafe) => true,
            Some(PeerAnswer::Whole) => handover == Handover::V2,
            Some(PeerAnswer::Abandoned) => handover == Handover::Manager,
            _ => false,
        };
        if vouches && self.carries_guest(from) {
            self.qemus[1 - from].forsaken = true;
        }
        if let Some(ask) = self.asks.iter_mut().find(|ask| ask.token == token) {
            ask.way = Way::Back(envelope, response);
        }
    }

    /// A source that knows that its guest ran on must not show its licence again: what a hand from
    /// outside excuses ends there.
    fn judge_licence(&mut self, at: usize) {
        let Some(engine) = &self.hosts[at].engine else {
            return;
        };
        let mut known = engine.state.migrations.values();
        let is_shown = known.any(|one| ran_on(&one.state) && one.state.outcome.is_none());
        drop(known);
        if is_shown {
            self.breaks("P2: a licence is shown for a guest that is known to have run on");
        }
    }

    // The monitor.

    pub(super) fn serve(&mut self, at: usize, kind: Kind) {
        let Some(request) = self.host(at).requests.pop_front() else {
            return;
        };
        let effect = match request {
            Request::Look => {
                if !self.qemus[at].mute {
                    self.qemus[at].split.told &= self.hosts[at].connected;
                    self.host(at).connected = true;
                    // What was sent before is done, or will never be.
                    self.host(at).orphan = None;
                }
                let observed = self.qemus[at].observed();
                self.say(|| {
                    let run = observed.run_state.as_ref().map(ToString::to_string);
                    let status = observed.migration.as_ref().map(ToString::to_string);
                    format!("{} sees {} {run:?} {status:?}", side(at), observed.process)
                });
                let domain = DOMAIN;
                let input = Input::Looked { domain, observed };
                return self.host(at).inputs.push_back(input);
            }
            Request::Perform(effect) => effect,
        };
        let result = match kind {
            Kind::ServeRefused => {
                self.left.refused -= 1;
                refused("Failed to get write lock")
            }
            Kind::ServeUnknown => {
                self.left.unknown -= 1;
                self.host(at).orphan = Some(effect.command.clone());
                EffectResult::Unknown { why: String::new() }
            }
            Kind::ServeNotSent => {
                self.left.not_sent -= 1;
                EffectResult::NotSent { why: String::new() }
            }
            _ if self.qemus[at].mute && effect.command != EffectCommand::Kill => {
                self.host(at).orphan = Some(effect.command.clone());
                EffectResult::Unknown { why: String::new() }
            }
            _ => self.obey(at, &effect.command),
        };
        self.say(|| {
            let name = effect.command.name();
            format!("QEMU of {}: {name} is {result:?}", side(at))
        });
        let input = Input::EffectFinished {
            effect: effect.intent,
            result,
        };
        self.host(at).inputs.push_back(input);
    }

    pub(super) fn emit(&mut self, at: usize, event: QemuEvent) {
        self.say(|| format!("QEMU of {} tells {event:?}", side(at)));
        if self.hosts[at].connected {
            let input = Input::Event {
                domain: DOMAIN,
                event,
            };
            self.host(at).inputs.push_back(input);
        }
    }

    /// The monitor sees its QEMU end.
    pub(super) fn see_end(&mut self, at: usize) {
        self.say(|| format!("QEMU of {} ends", side(at)));
        self.host(at).orphan = None;
        if self.hosts[at].connected {
            let observed = self.qemus[at].observed();
            let input = Input::Looked {
                domain: DOMAIN,
                observed,
            };
            self.host(at).inputs.push_back(input);
        }
    }

    // Crashes.

    pub(super) fn crash(&mut self, at: usize) {
        let host = self.host(at);
        if let Some(engine) = host.engine.take() {
            host.durable = Some(Durable::of(&engine));
        }
        if let Some(Request::Perform(effect)) = host.requests.pop_front() {
            host.orphan = Some(effect.command);
        }
        host.requests.clear();
        host.inputs.clear();
        host.connected = false;
        host.just_crashed = true;
        for number in (0..self.key_asks.len()).rev() {
            if self.key_asks[number].from == at {
                let ask = self.key_asks.remove(number);
                if ask.result.is_none() {
                    self.leave_request(&ask);
                }
            }
        }
        // Those who wait for it see the connection break; what it asked may still arrive.
        for ask in &mut self.asks {
            if ask.from != at && matches!(ask.way, Way::Asked) {
                ask.way = Way::Broken;
            }
        }
        for number in (0..self.asks.len()).rev() {
            if self.asks[number].from == at {
                if matches!(self.asks[number].way, Way::There) {
                    self.leave_stray(number);
                }
                self.asks.remove(number);
            }
        }
    }

    pub(super) fn restart(&mut self, at: usize) {
        let boot = self.qemus[at].instance.boot;
        let store = self.scenario.handover.store();
        let host = self.host(at);
        let Some(durable) = host.durable.take() else {
            return;
        };
        host.lives += 1;
        host.just_crashed = false;
        host.orphan = None;
        let Durable {
            state,
            next,
            epoch,
            journal,
        } = durable;
        let side = u8::try_from(at).expect("two hosts");
        let config = Config {
            journal,
            epoch: Epoch(epoch + 1),
            opening: OpeningId(id(side * 0x80 + host.lives)),
            openings: state.openings.clone(),
            next,
            boot,
            peer: format!("peer-{at}"),
            store,
        };
        let mut engine = Engine::resume(config, Told(state));
        let _ = engine.checkpoint();
        let now = host.now * 1_000_000;
        let time = Now {
            wall: now,
            monotonic: now,
        };
        let step = engine.start(time);
        host.engine = Some(engine);
        let may_be_old = self.left.rollbacks[at] + self.left.damages[at] > 0;
        let host = self.host(at);
        host.just_grew |= may_be_old && host.backup.is_none();
        self.hand_out(at, step);
    }
}

pub(crate) fn side(at: usize) -> &'static str {
    if at == A { "A" } else { "B" }
}

/// An input for people.
fn brief(input: &Input) -> String {
    match input {
        Input::Looked { observed, .. } => {
            let run = observed.run_state.as_ref().map(ToString::to_string);
            let status = observed.migration.as_ref().map(ToString::to_string);
            format!("the look {} {run:?} {status:?}", observed.process)
        }
        Input::JobLooked { .. } => "the look at jobs".to_owned(),
        Input::SettingsLooked { .. } => "the look at settings".to_owned(),
        Input::Event { event, .. } => format!("the event {event:?}"),
        Input::EffectFinished { effect, result } => format!("the result of {effect}: {result:?}"),
        Input::Peer { request, .. } => format!("the question {request:?}"),
        Input::PeerAnswered { result, .. } => match result {
            Ok((_, response)) => format!("the answer {response:?}"),
            Err(failure) => format!("no answer: {failure:?}"),
        },
        Input::StoreAnswered { result, .. } => format!("the store's answer {result:?}"),
        Input::Find { find, .. } => format!("the question {find:?}"),
        Input::Found { answers, .. } => format!("the answers {answers:?}"),
        Input::Control { .. } | Input::Monitor { .. } => "a request".to_owned(),
        Input::Tick => "a tick".to_owned(),
    }
}
