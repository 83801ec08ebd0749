//! A sidecar's eyes and hands on one QEMU, as the real monitor task has them.
//!
//! Invariant: only the instance that the engine named is ever spoken to; requests are served one at a
//! time in their order; each is answered exactly once; events that come while nobody is connected are
//! lost; a kill goes to the process and needs no connection.
//! Not here: what QEMU does (`qemu`), what any of it means (the engine).

use std::collections::VecDeque;

use journal_format::record::{
    ClaimSeen, Effect, EffectCommand, EffectResult, Instance, MigrationStatus, Observed, Process,
};

use super::qemu::Told;
use super::world::{What, World};
use super::{GuestNumber, HostNumber, Micros, QemuNumber};
use crate::engine::{Input, Message, QemuEvent};

/// After so long without an answer a QEMU that lives is mute.
const LOOK_WAIT: Micros = 2_000_000;
/// Longest wait for the answer to an effect.
const EFFECT_WAIT: Micros = 10_000_000;
/// First and longest pause between attempts to see a QEMU again.
const RETRY: (Micros, Micros) = (20_000, 1_000_000);
/// How often the progress of a migration is read.
const PROGRESS: Micros = 250_000;

/// A command that was sent just before its sender died is carried out so many times in a million.
const ORPHANS: u32 = 250_000;

#[derive(Clone, Debug)]
enum Request {
    Look,
    Perform(Effect),
}

/// Where the request that is being served stands.
#[derive(Clone, Debug)]
enum Serving {
    Nothing,
    /// On its way to QEMU.
    OnWay(Request),
    /// QEMU is silent; the wait ends.
    Silent(Request),
    /// An effect was carried out; its answer is on its way.
    Done(Effect, EffectResult),
}

/// A monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) qemu: QemuNumber,
    instance: Instance,
    pub(super) is_connected: bool,
    requests: VecDeque<Request>,
    serving: Serving,
    /// Tells what was scheduled for this request from what was for others.
    generation: u64,
    status: Option<MigrationStatus>,
    is_mute: bool,
    reads_progress: bool,
    pause: Micros,
    /// A command that was sent to a silent QEMU and waits there.
    stuck: Option<EffectCommand>,
}

fn silent(process: Process, migration: Option<MigrationStatus>) -> Observed {
    Observed {
        process,
        instance: None,
        run_state: None,
        migration,
        claim: ClaimSeen::Unread,
    }
}

fn not_sent(why: &str) -> EffectResult {
    EffectResult::NotSent {
        why: why.to_owned(),
    }
}

/// Does a migration of this status move?
fn is_moving(status: Option<&MigrationStatus>) -> bool {
    matches!(
        status,
        Some(MigrationStatus::Setup | MigrationStatus::Active | MigrationStatus::PreSwitchover)
    )
}

impl World {
    /// The engine says which QEMU is watched, or that none is any more.
    pub(super) fn watch(&mut self, at: HostNumber, message: &Message) {
        let (domain, watched) = match message {
            Message::Watch {
                domain, instance, ..
            } => (*domain, Some(*instance)),
            Message::Unwatch { domain } => (*domain, None),
            _ => return,
        };
        let Some(guest) = self.guest_of(domain) else {
            return;
        };
        let found = watched.and_then(|instance| {
            let number = usize::try_from(instance.pid.checked_sub(100)?).ok()?;
            let qemu = self.lab.qemus.get(number)?;
            (qemu.instance.pid == instance.pid).then_some((number, instance))
        });
        let generation = self.numbers_next();
        let Some(sidecar) = &mut self.hosts[at].sidecar else {
            return;
        };
        if sidecar.monitors.len() <= guest {
            sidecar.monitors.resize_with(guest + 1, || None);
        }
        // What the one before was still asked is answered: nothing was sent.
        let before = sidecar.monitors[guest].take();
        sidecar.monitors[guest] = found.map(|(qemu, instance)| Monitor {
            qemu,
            instance,
            is_connected: false,
            requests: VecDeque::from([Request::Look]),
            serving: Serving::Nothing,
            generation,
            status: None,
            is_mute: false,
            reads_progress: false,
            pause: RETRY.0,
            stuck: None,
        });
        if let Some(before) = before {
            self.answer_all(at, guest, before);
        }
        self.serve(at, guest);
    }

    fn answer_all(&mut self, at: HostNumber, guest: GuestNumber, monitor: Monitor) {
        let first = match monitor.serving {
            Serving::Nothing => None,
            Serving::OnWay(request) | Serving::Silent(request) => Some(request),
            Serving::Done(effect, result) => {
                let effect = effect.intent;
                self.feed(at, Input::EffectFinished { effect, result });
                None
            }
        };
        for request in first.into_iter().chain(monitor.requests) {
            match request {
                // The new one looks at once.
                Request::Look => {}
                Request::Perform(effect) => {
                    let effect = effect.intent;
                    let result = not_sent("its QEMU is not watched any more");
                    self.feed(at, Input::EffectFinished { effect, result });
                }
            }
        }
        let _ = guest;
    }

    /// The sidecar of this monitor died: what it had just sent may be carried out all the same.
    pub(super) fn abandon_monitor(&mut self, _guest: GuestNumber, monitor: Monitor) {
        let sent = match monitor.serving {
            Serving::OnWay(Request::Perform(effect)) => Some(effect.command),
            _ => None,
        };
        let sent = sent.or(monitor.stuck);
        if let Some(command) = sent
            && monitor.is_connected
            && self.random.chance(ORPHANS)
        {
            let delay = self.random.below(1_000);
            self.after(delay, What::Orphan(monitor.qemu, Box::new(command)));
        }
    }

    /// An effect to carry out, or a look.
    pub(super) fn ask_monitor(
        &mut self,
        at: HostNumber,
        guest: GuestNumber,
        effect: Option<Effect>,
    ) {
        let request = effect.map_or(Request::Look, Request::Perform);
        if let Some(monitor) = self.hosts[at].monitor(guest) {
            monitor.requests.push_back(request);
            return self.serve(at, guest);
        }
        let input = match request {
            Request::Look => Input::Looked {
                domain: self.lab.guests[guest].domain,
                observed: silent(Process::Mute, None),
            },
            Request::Perform(effect) => Input::EffectFinished {
                effect: effect.intent,
                result: not_sent("its domain is not watched"),
            },
        };
        self.feed(at, input);
    }

    /// Sends the next request.
    fn serve(&mut self, at: HostNumber, guest: GuestNumber) {
        let generation = self.numbers_next();
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        if !matches!(monitor.serving, Serving::Nothing) {
            return;
        }
        let Some(request) = monitor.requests.pop_front() else {
            return;
        };
        monitor.serving = Serving::OnWay(request);
        monitor.generation = generation;
        let delay = self.draw(self.shape.latencies.qmp);
        self.after(delay, What::Reach(at, guest, generation));
    }

    /// A request is at QEMU, or its wait is over.
    pub(super) fn reach(&mut self, at: HostNumber, guest: GuestNumber, generation: u64) {
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        if monitor.generation != generation {
            return;
        }
        match core::mem::replace(&mut monitor.serving, Serving::Nothing) {
            Serving::Nothing => {}
            Serving::OnWay(Request::Look) => self.look(at, guest),
            Serving::OnWay(Request::Perform(effect)) => self.perform(at, guest, effect),
            Serving::Silent(Request::Look) => {
                if self.is_silent(at, guest) {
                    let monitor = self.hosts[at].monitor(guest);
                    let status = monitor.and_then(|monitor| monitor.status.clone());
                    self.report(at, guest, silent(Process::Mute, status));
                } else {
                    self.look(at, guest);
                }
            }
            Serving::Silent(Request::Perform(effect)) => {
                let why = "QEMU did not answer in time".to_owned();
                let (effect, result) = (effect.intent, EffectResult::Unknown { why });
                self.feed(at, Input::EffectFinished { effect, result });
                self.serve(at, guest);
            }
            done @ Serving::Done(..) => {
                if let Some(monitor) = self.hosts[at].monitor(guest) {
                    monitor.serving = done;
                }
            }
        }
    }

    fn is_silent(&mut self, at: HostNumber, guest: GuestNumber) -> bool {
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return false;
        };
        let number = monitor.qemu;
        self.lab.qemus[number].alive && self.lab.qemus[number].mute
    }

    fn look(&mut self, at: HostNumber, guest: GuestNumber) {
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        let (number, instance) = (monitor.qemu, monitor.instance);
        let mut observed = self.lab.query(number);
        if observed.process == Process::Alive {
            // Whoever else serves the socket now is not the one that is watched.
            let served = self.lab.guests[guest].replaced_on(at);
            if let Some(other) = served.filter(|other| *other != number) {
                observed = silent(Process::OtherInstance, Some(MigrationStatus::None));
                observed.migration = None;
                observed.instance = Some(self.lab.qemus[other].instance);
            }
        }
        debug_assert_eq!(self.lab.qemus[number].instance.pid, instance.pid);
        if observed.process == Process::Mute {
            return self.wait_silently(at, guest, Request::Look, LOOK_WAIT);
        }
        self.report(at, guest, observed);
    }

    fn wait_silently(
        &mut self,
        at: HostNumber,
        guest: GuestNumber,
        request: Request,
        wait: Micros,
    ) {
        let generation = self.numbers_next();
        if let Some(monitor) = self.hosts[at].monitor(guest) {
            monitor.serving = Serving::Silent(request);
            monitor.generation = generation;
            self.after(wait, What::Reach(at, guest, generation));
        }
    }

    /// Tells what was seen, and goes on.
    fn report(&mut self, at: HostNumber, guest: GuestNumber, observed: Observed) {
        let generation = self.numbers_next();
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        let is_alive = observed.process == Process::Alive;
        monitor.is_connected = is_alive;
        monitor.is_mute = observed.process == Process::Mute;
        monitor.serving = Serving::Nothing;
        if is_alive {
            monitor.pause = RETRY.0;
            monitor.stuck = None;
        }
        let pause = monitor.pause;
        let instance = monitor.instance;
        let retries = matches!(observed.process, Process::Mute | Process::OtherInstance);
        if retries {
            monitor.generation = generation;
        }
        let status = observed.migration.clone();
        let domain = self.lab.guests[guest].domain;
        self.say(|_| {
            let run = observed.run_state.as_ref().map(ToString::to_string);
            let status = observed.migration.as_ref().map(ToString::to_string);
            format!(
                "host {at}: sees guest {guest}: {} {run:?} {status:?}",
                observed.process
            )
        });
        // Whoever answers or not, it is this one that was looked at; another one has its own name.
        let observed = Observed {
            instance: observed.instance.or(Some(instance)),
            ..observed
        };
        self.feed(at, Input::Looked { domain, observed });
        self.note_status(at, guest, status);
        if retries {
            self.after(pause, What::Retry(at, guest, generation));
        }
        self.serve(at, guest);
    }

    fn note_status(&mut self, at: HostNumber, guest: GuestNumber, status: Option<MigrationStatus>) {
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        if status.is_some() {
            monitor.status = status;
        }
        let qemu = monitor.qemu;
        let reads = is_moving(monitor.status.as_ref()) && !monitor.reads_progress;
        if reads {
            monitor.reads_progress = true;
            self.after(PROGRESS, What::Progress(at, guest, qemu as u64));
        }
    }

    /// Reads how far a migration got.
    pub(super) fn progress(&mut self, at: HostNumber, guest: GuestNumber, qemu: u64) {
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        if monitor.qemu as u64 != qemu || !monitor.reads_progress {
            return;
        }
        if !monitor.is_connected || !is_moving(monitor.status.as_ref()) {
            monitor.reads_progress = false;
            return;
        }
        let number = monitor.qemu;
        if let Some(downtime) = self.lab.converging(number) {
            let domain = self.lab.guests[guest].domain;
            let event = QemuEvent::Converging { downtime };
            self.feed(at, Input::Event { domain, event });
        }
        self.after(PROGRESS, What::Progress(at, guest, qemu));
    }

    /// One attempt after a pause to see a QEMU that could not be seen; only success is told.
    pub(super) fn retry(&mut self, at: HostNumber, guest: GuestNumber, generation: u64) {
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        let is_idle = matches!(monitor.serving, Serving::Nothing);
        if monitor.is_connected || !is_idle || monitor.generation != generation {
            return;
        }
        monitor.pause = (monitor.pause * 2).min(RETRY.1);
        let (number, pause) = (monitor.qemu, monitor.pause);
        if self.lab.query(number).process == Process::Mute {
            return self.after(pause, What::Retry(at, guest, generation));
        }
        self.look(at, guest);
    }

    // Effects.

    fn perform(&mut self, at: HostNumber, guest: GuestNumber, effect: Effect) {
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        let (number, is_connected) = (monitor.qemu, monitor.is_connected);
        let is_kill = effect.command == EffectCommand::Kill;
        let qemu = &self.lab.qemus[number];
        let refusal = if effect.instance != monitor.instance {
            Some("it is for another process, which is not watched")
        } else if !qemu.alive && !is_kill {
            Some("the process is gone")
        } else if !is_connected && !is_kill {
            Some("QEMU's monitor is not connected")
        } else {
            None
        };
        if let Some(why) = refusal {
            return self.finish(at, guest, effect, not_sent(why));
        }
        if qemu.alive && qemu.mute && !is_kill {
            if let Some(monitor) = self.hosts[at].monitor(guest) {
                monitor.stuck = Some(effect.command.clone());
            }
            return self.wait_silently(at, guest, Request::Perform(effect), EFFECT_WAIT);
        }
        self.judge_effect(at, &effect);
        let result = self.lab.execute(number, &effect.command);
        self.say(|_| {
            let name = effect.command.name();
            format!("host {at}: process {number}: {name}: {result:?}")
        });
        if core::mem::take(&mut self.hosts[at].lose_reply) && !is_kill {
            self.coverage.fault("lost-reply");
            self.settle_moment();
            self.disconnect(at, guest);
            let why = "the connection broke".to_owned();
            return self.finish(at, guest, effect, EffectResult::Unknown { why });
        }
        self.finish(at, guest, effect, result);
    }

    /// P1, from outside: what reaches QEMU was acknowledged by the journal. That it is found again
    /// after a crash, the ledger sees to.
    fn judge_effect(&mut self, at: HostNumber, effect: &Effect) {
        let mut ledger = self.hosts[at].ledger.borrow_mut();
        ledger.performed = ledger.performed.max(effect.intent.0);
        if !ledger.is_acknowledged(effect.intent) {
            let what = format!(
                "P1: {} reaches QEMU before it is durable",
                effect.command.name()
            );
            self.lab.breaks(&what);
        }
    }

    fn finish(&mut self, at: HostNumber, guest: GuestNumber, effect: Effect, result: EffectResult) {
        let generation = self.numbers_next();
        if let Some(monitor) = self.hosts[at].monitor(guest) {
            monitor.serving = Serving::Done(effect, result);
            monitor.generation = generation;
            let delay = self.draw(self.shape.latencies.qmp);
            self.after(delay, What::Answer(at, guest, generation));
        }
    }

    /// The answer to an effect is here.
    pub(super) fn answered(&mut self, at: HostNumber, guest: GuestNumber, generation: u64) {
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        if monitor.generation != generation {
            return;
        }
        if let Serving::Done(effect, result) =
            core::mem::replace(&mut monitor.serving, Serving::Nothing)
        {
            let effect = effect.intent;
            self.feed(at, Input::EffectFinished { effect, result });
        }
        self.serve(at, guest);
    }

    /// The connection to a QEMU breaks, and events may be lost.
    pub(super) fn disconnect(&mut self, at: HostNumber, guest: GuestNumber) {
        let generation = self.numbers_next();
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        if !core::mem::take(&mut monitor.is_connected) {
            return;
        }
        monitor.status = None;
        monitor.stuck = None;
        let domain = self.lab.guests[guest].domain;
        let event = QemuEvent::Lost;
        self.feed(at, Input::Event { domain, event });
        // The real one looks again at once, and connects for it.
        if let Some(monitor) = self.hosts[at].monitor(guest) {
            monitor.requests.push_back(Request::Look);
            if matches!(monitor.serving, Serving::Nothing) {
                monitor.generation = generation;
            }
        }
        self.serve(at, guest);
    }

    /// What QEMU said by itself.
    pub(super) fn hear_qemu(&mut self, number: QemuNumber, told: Told) {
        let (at, guest) = (self.lab.qemus[number].host, self.lab.qemus[number].guest);
        self.say(|_| format!("process {number}: {told:?}"));
        let domain = self.lab.guests[guest].domain;
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        if monitor.qemu != number {
            return;
        }
        match told {
            Told::Event(event) => {
                if !monitor.is_connected {
                    return;
                }
                let status = match &event {
                    QemuEvent::Migration(status) => Some(status.clone()),
                    _ => None,
                };
                self.feed(at, Input::Event { domain, event });
                self.note_status(at, guest, status);
            }
            Told::Ended => {
                monitor.is_connected = false;
                monitor.stuck = None;
                let observed = Observed {
                    instance: Some(monitor.instance),
                    ..silent(Process::Dead, None)
                };
                self.feed(at, Input::Looked { domain, observed });
            }
        }
    }

    /// A silent QEMU answers again: what waited in its socket is carried out.
    pub(super) fn wake_qemu(&mut self, number: QemuNumber) {
        self.lab.qemus[number].mute = false;
        let (at, guest) = (self.lab.qemus[number].host, self.lab.qemus[number].guest);
        let Some(monitor) = self.hosts[at].monitor(guest) else {
            return;
        };
        if monitor.qemu != number {
            return;
        }
        let stuck = monitor.stuck.take();
        let serving = core::mem::replace(&mut monitor.serving, Serving::Nothing);
        match (stuck, serving) {
            (Some(_), Serving::Silent(Request::Perform(effect))) => {
                self.judge_effect(at, &effect);
                let result = self.lab.execute(number, &effect.command);
                self.finish(at, guest, effect, result);
            }
            (stuck, Serving::Silent(Request::Look)) => {
                if let Some(command) = stuck {
                    drop(self.lab.execute(number, &command));
                    self.settle_moment();
                }
                self.look(at, guest);
            }
            (stuck, serving) => {
                if let Some(monitor) = self.hosts[at].monitor(guest) {
                    monitor.serving = serving;
                }
                if let Some(command) = stuck {
                    drop(self.lab.execute(number, &command));
                }
            }
        }
    }
}
