//! A host and the life of its sidecar: opening the journal, turn after turn, dying.
//!
//! Invariant: the node is the real one; what it hands out leaves only when its sync is over, and what
//! arrives meanwhile is the next batch.
//! Not here: what leaves and where it goes (`monitor`, `network`), when a sidecar dies (`fault`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use journal_format::number::{BootId, DomainId, HostId, Id128, Lsn};
use journal_format::record::{ClaimSeen, Effect, JobKind, JobResult, Settings, WantedRunState};

use super::disk::{Backup, SimDisk, Survival};
use super::ledger::{Ledger, Noted};
use super::manager::{Heard, RequestId};
use super::monitor::Monitor;
use super::qemu::Qemu;
use super::random::Random;
use super::world::{What, World};
use super::{GuestNumber, HostNumber, Micros, QemuNumber};
use crate::engine::{Engine, Input, Message, Notice, Now, Rule, Token};
use crate::journal::{OpenError, OpenOptions, Past, Retention, SpareMaker};
use crate::node::{CrashSwitch, Node, Outbox, open_journal_with};

/// An idle journal seals its last batch after so many microseconds.
const SEAL_AFTER: Micros = 5_000;

/// Most bytes of a journal that are kept: little, so that old segments go in every run.
const RETAINED: u64 = 1024 * 1024;

/// The store that every sidecar reaches.
const STORE: &str = "sim";

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// The manager.
    Manager(RequestId),
    /// Another sidecar, by the number of its question.
    Peer(u64),
    /// Another one that asked all others, likewise.
    Search(u64),
    /// Whoever judges.
    Judge,
}

/// A sidecar that is up.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) node: Node<SimDisk, Noted>,
    /// Makes spare segments whenever some are missing.
    maker: SpareMaker<SimDisk>,
    inbox: Vec<Input>,
    /// A turn's sync is under way, or a turn is due.
    is_busy: bool,
    /// What leaves when the sync is over.
    outbox: Option<Outbox>,
    pub(super) monitors: Vec<Option<Monitor>>,
    pub(super) waiters: BTreeMap<u64, Waiter>,
    /// Clients of monitors that wait for QEMU's answer, by the intents of their commands.
    clients: BTreeMap<Lsn, RequestId>,
    tokens: u64,
    turns: u64,
    /// When the last one was: what is handed out was made of what was known then.
    pub(super) turned: Micros,
    pub(super) is_ready: bool,
}

/// A host's clocks.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// Microseconds since boot that its clock is ahead.
    pub(super) ahead: u64,
    /// Millionths that it is too fast.
    pub(super) drift: u64,
    /// Nanoseconds since 1970 at the beginning of the world, as it believes.
    pub(super) wall: u64,
}

impl Clock {
    /// Microseconds since boot, as the host believes.
    fn since_boot(&self, now: Micros) -> Micros {
        self.ahead + now + now / 1_000_000 * self.drift
    }

    /// The host slept, its clock was set, and runs at another speed. What counts since boot never goes
    /// back.
    pub(super) fn jump(&mut self, now: Micros, by: u64) {
        const HALF_A_DAY_NS: u64 = 43_200_000_000_000;
        let before = self.since_boot(now);
        self.drift = by % 1_000;
        self.ahead = 0;
        let slept = by % 60_000_000;
        self.ahead = (before + slept).saturating_sub(self.since_boot(now));
        self.wall = (self.wall + by % (2 * HALF_A_DAY_NS)).saturating_sub(HALF_A_DAY_NS);
    }
}

/// A copy of a journal, and what was so when it was made.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) backup: Backup,
    /// The guests that had a job open, and what their owners wanted.
    pub(super) open: Vec<(GuestNumber, Option<WantedRunState>)>,
    /// What the QEMUs said there who had them.
    pub(super) claims: Vec<(QemuNumber, ClaimSeen)>,
}

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    id: HostId,
    pub(super) boot: BootId,
    pub(super) disk: SimDisk,
    pub(super) run: SimDisk,
    segment: u64,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) sidecar: Option<Box<Sidecar>>,
    pub(super) life: u32,
    pub(super) ledger: Rc<RefCell<Ledger>>,
    /// The host has no power.
    pub(super) is_off: bool,
    /// An operator said that an older journal is to be opened.
    pub(super) accept_older: bool,
    /// Why the last start failed.
    pub(super) refused: Option<String>,
    /// The disk's lies that are settled.
    pub(super) lies: u64,
    /// A sync lied, and the power failed.
    pub(super) tail_lost: bool,
    /// Records are missing in the journal as it was read last.
    has_gaps: bool,
    /// Records were missing when this sidecar was started.
    pub(super) lacks_records: bool,
    /// A write of this life went, or is going, elsewhere or nowhere: the next opening will tell.
    pub(super) may_lack_records: bool,
    /// Records of this journal were lost: as long as that may concern one domain, it says amnesia of every migration
    /// that it does not know, also of later ones.
    pub(super) says_amnesia: bool,
    /// How often its journal became another one: numbers of jobs are of one journal.
    pub(super) journals: u64,
    /// An older copy of the journal, to be put back.
    pub(super) backup: Option<Copied>,
    /// The reply to one of the next effects is lost.
    pub(super) lose_reply: bool,
    /// Its sidecar is started with another store than those of the other hosts.
    pub(super) has_other_store: bool,
    /// Its sidecar was told of all others.
    pub(super) is_introduced: bool,
    /// Times that the journal failed to open, one after the other.
    failures: u32,
    /// The run directory says how far the journal had come: it was opened since the host was booted.
    pub(super) has_witness: bool,
    /// An older copy was put back, and not opened yet.
    pub(super) is_put_back: bool,
}

impl Host {
    pub(super) fn new(
        id: HostId,
        boot: BootId,
        disk: SimDisk,
        run: SimDisk,
        segment: u64,
        mut random: Random,
    ) -> Host {
        let clock = Clock {
            ahead: random.below(1_000_000_000),
            drift: random.below(200),
            wall: 1_700_000_000_000_000_000 + random.below(1_000_000_000_000),
        };
        Host {
            id,
            boot,
            disk,
            run,
            segment,
            clock,
            random,
            sidecar: None,
            life: 0,
            ledger: Rc::default(),
            is_off: false,
            accept_older: false,
            refused: None,
            lies: 0,
            tail_lost: false,
            has_gaps: false,
            lacks_records: false,
            may_lack_records: false,
            says_amnesia: false,
            journals: 0,
            backup: None,
            lose_reply: false,
            has_other_store: false,
            is_introduced: false,
            failures: 0,
            has_witness: false,
            is_put_back: false,
        }
    }

    pub(super) fn lives(&self, life: u32) -> bool {
        self.life == life && self.sidecar.is_some()
    }

    fn time(&self, now: Micros) -> Now {
        let since_boot = self.clock.since_boot(now);
        Now {
            wall: self.clock.wall + since_boot * 1_000,
            monotonic: since_boot * 1_000,
        }
    }

    fn options(&self) -> OpenOptions {
        OpenOptions {
            accept_older: self.accept_older,
            first_segment_size: self.segment,
            segment_size: self.segment,
            retention: Retention {
                bytes_max: RETAINED,
                age_max: None,
                needed_bytes_max: 4 * RETAINED,
            },
            ..OpenOptions::new(self.id, self.boot)
        }
    }

    pub(super) fn monitor(&mut self, guest: GuestNumber) -> Option<&mut Monitor> {
        self.sidecar.as_mut()?.monitors.get_mut(guest)?.as_mut()
    }

    pub(super) fn token(&mut self, waiter: Waiter) -> Option<Token> {
        let sidecar = self.sidecar.as_mut()?;
        sidecar.tokens += 1;
        sidecar.waiters.insert(sidecar.tokens, waiter);
        Some(Token(sidecar.tokens))
    }
}

impl World {
    /// An input for a sidecar; it takes it as soon as it can.
    pub(super) fn feed(&mut self, at: HostNumber, input: Input) {
        self.coverage.inputs += 1;
        let host = &mut self.hosts[at];
        let life = host.life;
        let Some(sidecar) = &mut host.sidecar else {
            return;
        };
        let answered = match &input {
            Input::EffectFinished { effect, result } => sidecar
                .clients
                .remove(effect)
                .map(|client| (client, Box::new(result.clone()))),
            _ => None,
        };
        sidecar.inbox.push(input);
        if !sidecar.is_busy {
            sidecar.is_busy = true;
            self.at(self.now, What::Turn(at, life));
        }
        if let Some((client, result)) = answered {
            let delay = self.draw(self.shape.latencies.qmp);
            self.after(delay, What::ToClient(client, result));
        }
    }

    /// Opens the journal and starts.
    pub(super) fn start_sidecar(&mut self, at: HostNumber) {
        let host = &mut self.hosts[at];
        if host.sidecar.is_some() || host.is_off {
            return;
        }
        let options = host.options();
        let mut told = Vec::new();
        let seen = |past: &Past| told.push(past.clone());
        let opened = open_journal_with(host.disk.clone(), Some(host.run.clone()), &options, seen);
        let lies = host.disk.lies();
        let lied = lies > 0;
        let time = host.time(self.now);
        let (opened, known) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.cannot_open(at, &error),
        };
        // Without the operator's word it would not have opened: it had said that something is missing.
        let tail_lost = host.tail_lost || host.accept_older;
        host.ledger.borrow_mut().settle(&told, lied, tail_lost);
        host.tail_lost = false;
        let lost: Vec<String> = told
            .iter()
            .filter_map(|past| match past {
                Past::Gap(gap) => Some(gap.to_string()),
                Past::Record(_) => None,
            })
            .collect();
        host.has_gaps |= !lost.is_empty();
        host.lacks_records = !lost.is_empty();
        host.may_lack_records = false;
        host.says_amnesia |= host.lacks_records;
        let ledger = Rc::clone(&host.ledger);
        let store = match host.has_other_store {
            // One of its own: nothing that is begun meanwhile has it for its authority.
            true => format!("{STORE}-{at}"),
            false => STORE.to_owned(),
        };
        let is_introduced = host.is_introduced;
        let make = |config| {
            let mut engine = Engine::resume(config, known);
            if is_introduced {
                engine.ask_others();
            }
            Noted::new(engine, ledger)
        };
        let opening = Node::open_with(
            opened,
            make,
            host.boot,
            peer_name(at),
            Some(store),
            time,
            CrashSwitch::default(),
        );
        let (node, outbox) = match opening {
            Ok(opening) => opening,
            Err(error) => return self.died(at, &error.to_string()),
        };
        host.lies = lies;
        host.life += 1;
        host.failures = 0;
        (host.has_witness, host.is_put_back) = (true, false);
        host.refused = None;
        host.accept_older = false;
        host.ledger.borrow_mut().begin(node.log().position().lsn);
        let life = host.life;
        host.sidecar = Some(Box::new(Sidecar {
            maker: node.spare_maker(),
            node,
            inbox: Vec::new(),
            is_busy: true,
            outbox: Some(outbox.into_inner()),
            monitors: Vec::new(),
            waiters: BTreeMap::new(),
            clients: BTreeMap::new(),
            tokens: 0,
            turns: 0,
            turned: self.now,
            is_ready: false,
        }));
        self.say(|_| format!("host {at}: the sidecar starts (life {life})"));
        if core::mem::take(&mut self.hosts[at].has_gaps) {
            self.say(|_| format!("host {at}: its journal lacks {}", lost.join(", ")));
            self.suspect(at);
        }
        self.take_facts(at);
        let sync = self.draw(self.shape.latencies.sync);
        self.after(sync, What::HandOut(at, life));
        self.after(sync + 1, What::Tick(at, life));
    }

    fn cannot_open(&mut self, at: HostNumber, error: &OpenError) {
        let host = &mut self.hosts[at];
        if host.disk.is_crashed() {
            return self.died(at, "the process ended while it opened its journal");
        }
        host.failures += 1;
        // That is the report: whatever is missing from here on was said to be.
        host.tail_lost |= matches!(error, OpenError::Older(_));
        host.refused = Some(error.to_string());
        // Somebody looks at it in the end: an older journal is accepted, one that cannot be read is
        // given up.
        if host.failures > 3 {
            match error {
                OpenError::Older(_) | OpenError::Witness(_) => host.accept_older = true,
                _ if host.disk.lies() > 0 => self.lose_journal(at),
                _ => {}
            }
        }
        let why = error.to_string();
        self.say(|_| format!("host {at}: the journal does not open: {why}"));
        self.restart_later(at);
    }

    /// The journal of a host whose sidecar is down is gone.
    pub(super) fn lose_journal(&mut self, at: HostNumber) {
        let host = &mut self.hosts[at];
        host.says_amnesia = false;
        host.journals += 1;
        host.disk.erase();
        host.run.erase();
        host.ledger.borrow_mut().is_replaced = true;
        for guest in &mut self.lab.guests {
            guest.open.remove(&at);
        }
    }

    pub(super) fn restart_later(&mut self, at: HostNumber) {
        let delay = self.draw(self.shape.latencies.restart);
        self.after(delay, What::Start(at));
    }

    /// The sidecar ended by itself, or was ended at a planned point, while it wrote.
    fn died(&mut self, at: HostNumber, why: &str) {
        if let Some(planned) = self.next_death.take() {
            self.plan.push(planned);
            self.after(1, What::Fault(self.plan.len() - 1));
        }
        self.say(|_| format!("host {at}: the sidecar ends: {why}"));
        self.crash(at, Survival::Everything);
        self.restart_later(at);
    }

    /// The sidecar's process is gone. What it had written is left as `survival` says.
    pub(super) fn crash(&mut self, at: HostNumber, survival: Survival) {
        let host = &mut self.hosts[at];
        let sidecar = host.sidecar.take();
        host.life += 1;
        if survival == Survival::Some {
            // What went elsewhere or nowhere, unnoticed by a process that then lost its witness too.
            host.tail_lost |= host.disk.restart(survival) | (host.disk.lies() > host.lies);
            host.run.erase();
            host.run.restart(Survival::Everything);
        } else {
            host.disk.restart(survival);
            host.run.restart(survival);
        }
        let Some(sidecar) = sidecar else { return };
        let point = {
            let ledger = host.ledger.borrow();
            let left = match sidecar.outbox {
                Some(_) => "before anything left",
                None => "later",
            };
            format!("{}, {left}", ledger.last_name())
        };
        host.ledger.borrow_mut().coverage.crashed(&point);
        self.say(|_| format!("host {at}: the sidecar is gone, after {point}"));
        for waiter in sidecar.waiters.values() {
            match waiter {
                Waiter::Peer(ask) => self.hang_up(*ask),
                Waiter::Search(search) => self.after(100, What::Searched(*search, at)),
                Waiter::Manager(id) => self.request_fails(*id),
                Waiter::Judge => {}
            }
        }
        for client in sidecar.clients.values() {
            self.request_fails(*client);
        }
        self.forget_asks(at);
        for (guest, monitor) in sidecar.monitors.into_iter().enumerate() {
            if let Some(monitor) = monitor {
                self.abandon_monitor(guest, monitor);
            }
        }
    }

    /// The power of a host fails: its QEMUs are gone too.
    pub(super) fn lose_power(&mut self, at: HostNumber) {
        self.crash(at, Survival::Some);
        let host = &mut self.hosts[at];
        host.has_witness = false;
        // The witness knew of it, and no batch behind it does.
        if host.is_put_back || host.disk.lacks_last() {
            self.betray(at);
        }
        let host = &mut self.hosts[at];
        host.is_off = true;
        host.boot = BootId(Id128(host.random.bytes()));
        for number in 0..self.lab.qemus.len() {
            if self.lab.qemus[number].host == at {
                self.lab.end(number);
            }
        }
    }

    // Turns.

    /// One turn of the node over everything that waits.
    pub(super) fn turn(&mut self, at: HostNumber) {
        let host = &mut self.hosts[at];
        let time = host.time(self.now);
        let Some(sidecar) = &mut host.sidecar else {
            return;
        };
        sidecar.turns += 1;
        sidecar.turned = self.now;
        let inputs = core::mem::take(&mut sidecar.inbox);
        let before = sidecar.node.log().next_lsn();
        let turned = sidecar.node.turn(time, inputs);
        let after = sidecar.node.log().next_lsn();
        match turned {
            Ok(outbox) => {
                host.ledger
                    .borrow_mut()
                    .acknowledge(sidecar.node.log().position().lsn);
                sidecar.outbox = Some(outbox.into_inner());
            }
            Err(error) => {
                self.take_failed_facts(at);
                return self.died(at, &error.to_string());
            }
        }
        if before == after {
            return self.hand_out(at);
        }
        self.take_facts(at);
        let sync = self.draw(self.shape.latencies.sync);
        let life = self.hosts[at].life;
        self.after(sync, What::HandOut(at, life));
    }

    /// What a turn wants leaves the process.
    pub(super) fn hand_out(&mut self, at: HostNumber) {
        let Some(sidecar) = &mut self.hosts[at].sidecar else {
            return;
        };
        let (effects, messages) = sidecar.outbox.take().unwrap_or_default();
        // Who watches changes first, so that effects for a new domain find its monitor.
        for message in &messages {
            self.watch(at, message);
            if let Message::Admitted { token, intent } = message {
                self.admit(at, *token, *intent);
            }
        }
        for effect in effects {
            self.hand_effect(at, effect);
        }
        for message in messages {
            self.deliver(at, message);
        }
        let life = self.hosts[at].life;
        let Some(sidecar) = &mut self.hosts[at].sidecar else {
            return;
        };
        while sidecar.maker.make_missing() {}
        if !sidecar.inbox.is_empty() {
            self.at(self.now, What::Turn(at, life));
            return;
        }
        sidecar.is_busy = false;
        if sidecar.node.is_unsealed() {
            let turns = sidecar.turns;
            self.after(SEAL_AFTER, What::Quiet(at, life, turns));
        }
    }

    /// Seals the last batch if nothing came meanwhile.
    pub(super) fn seal(&mut self, at: HostNumber, turns: u64) {
        let host = &mut self.hosts[at];
        let time = host.time(self.now);
        let Some(sidecar) = &mut host.sidecar else {
            return;
        };
        if sidecar.is_busy || sidecar.turns != turns {
            return;
        }
        match sidecar.node.seal(time) {
            Ok(()) => {
                let last = sidecar.node.log().position().lsn;
                host.ledger.borrow_mut().acknowledge(last);
            }
            Err(error) => self.died(at, &error.to_string()),
        }
    }

    /// A client's command goes to QEMU as the effect of that intent.
    fn admit(&mut self, at: HostNumber, token: Token, intent: Lsn) {
        let waiter = self.take_waiter(at, token);
        if let (Some(Waiter::Manager(id)), Some(sidecar)) = (waiter, &mut self.hosts[at].sidecar) {
            sidecar.clients.insert(intent, id);
        }
    }

    fn hand_effect(&mut self, at: HostNumber, effect: Effect) {
        match self.guest_of(effect.domain) {
            Some(guest) => self.ask_monitor(at, guest, Some(effect)),
            None => self.lab.breaks("an effect for a domain that nobody knows"),
        }
    }

    fn deliver(&mut self, at: HostNumber, message: Message) {
        match message {
            // Before the effects.
            Message::Admitted { .. } => {}
            Message::Reply { token, result } => match self.take_waiter(at, token) {
                Some(Waiter::Manager(id)) => self.request_answered(id, result),
                Some(Waiter::Judge) => {
                    if let Err(refusal) = &result {
                        self.say(|_| format!("host {at}: refuses: {refusal}"));
                    }
                    self.judged.push((at, result));
                }
                Some(Waiter::Peer(_) | Waiter::Search(_)) | None => {}
            },
            Message::PeerReply {
                token,
                envelope,
                response,
                rests_on: _,
            } => {
                if let Some(Waiter::Peer(ask)) = self.take_waiter(at, token) {
                    self.peer_replies(ask, envelope, response);
                }
            }
            Message::Ask {
                peer,
                envelope,
                request,
            } => self.ask_peer(at, &peer, envelope, request),
            Message::Find {
                number,
                envelope,
                find,
            } => self.search(at, number, envelope, find),
            Message::Found {
                token,
                envelope,
                found,
            } => {
                if let Some(Waiter::Search(search)) = self.take_waiter(at, token) {
                    self.tells(search, at, envelope, found);
                }
            }
            Message::Store { migration, request } => self.ask_store(at, migration, request),
            Message::Look { domain } => {
                if let Some(guest) = self.guest_of(domain) {
                    self.ask_monitor(at, guest, None);
                }
            }
            // At once: what else happens to looks happens to that which follows.
            Message::LookAtSettings { domain } => {
                let seen = self.settings_of(at, domain);
                self.feed(at, Input::SettingsLooked { domain, seen });
            }
            Message::LookAtJob { domain } => {
                let seen = self.qemu_of(at, domain).map(Qemu::work);
                let seen = seen.unwrap_or_default();
                self.feed(at, Input::JobLooked { domain, seen });
            }
            Message::Watch { .. } | Message::Unwatch { .. } => {}
            Message::Notify(notice) => self.notice(at, &notice),
            Message::Ready => {
                if let Some(sidecar) = &mut self.hosts[at].sidecar {
                    sidecar.is_ready = true;
                }
            }
        }
    }

    /// What the domain's QEMU there is told.
    fn settings_of(&self, at: HostNumber, domain: DomainId) -> Option<Settings> {
        self.qemu_of(at, domain).map(Qemu::settings)
    }

    /// The domain's QEMU there, if it answers.
    fn qemu_of(&self, at: HostNumber, domain: DomainId) -> Option<&Qemu> {
        let living = self.lab.living(self.guest_of(domain)?);
        let qemus = living.map(|number| &self.lab.qemus[number]);
        qemus.filter(|qemu| qemu.host == at && !qemu.mute).last()
    }

    fn take_waiter(&mut self, at: HostNumber, token: Token) -> Option<Waiter> {
        let sidecar = self.hosts[at].sidecar.as_mut()?;
        sidecar.waiters.remove(&token.0)
    }

    fn notice(&mut self, at: HostNumber, notice: &Notice) {
        match notice {
            Notice::JobBegun(job) => {
                self.say(|_| format!("host {at}: {} begins {}", job.name, job.kind));
                match job.kind {
                    JobKind::MigrationOut => self.coverage.migrations += 1,
                    JobKind::MigrationIn => {}
                    _ => self.coverage.jobs += 1,
                }
                if job.kind != JobKind::MigrationIn {
                    self.begins();
                }
                if let Some(guest) = self.guest_of(job.domain) {
                    let host = &self.hosts[at];
                    let lacks = host.lacks_records || host.may_lack_records;
                    self.lab.guests[guest].begins(at, job, lacks);
                }
            }
            Notice::JobEnded(job) => {
                let result = job.result.map_or("unknown", |result| result.name());
                self.say(|_| format!("host {at}: {} ends: {result}, {}", job.name, job.detail));
                if let Some(guest) = self.guest_of(job.domain) {
                    let one = &mut self.lab.guests[guest];
                    one.open.remove(&at);
                    one.doomed &= job.kind != JobKind::Destroy;
                    one.told_otherwise |= job.detail.contains("were not put back");
                    let is_taken = job.kind == JobKind::MigrationIn
                        && job.migration.is_none()
                        && job.result == Some(JobResult::Completed);
                    if is_taken {
                        self.was_taken(at, guest);
                    }
                }
                if job.kind == JobKind::MigrationOut {
                    self.coverage.ended(result);
                }
            }
            Notice::Decision(decision) => {
                let (name, rule) = (&decision.name, &decision.rule);
                self.say(|_| {
                    format!(
                        "host {at}: {name} is decided: {} under {rule}",
                        decision.decision
                    )
                });
                let mut guests = self.lab.guests.iter_mut();
                if rule == Rule::JournalOlderThanQemu.name()
                    && let Some(guest) = guests.find(|guest| guest.name == *name)
                {
                    guest.older.insert(at);
                }
            }
            Notice::PhaseEntered(job) => self.say(|_| {
                let phase = job
                    .phase
                    .map_or("none".to_owned(), |phase| phase.to_string());
                format!("host {at}: {} enters {phase}", job.name)
            }),
            Notice::DomainAdded(_) | Notice::DomainRemoved(_) | Notice::WantedChanged(_) => {}
        }
        self.tell_manager(Heard::Noticed { host: at, notice });
    }
}

/// The peer socket of a host's sidecar.
pub(super) fn peer_name(host: HostNumber) -> String {
    format!("/sim/{host}/peer.sock")
}

/// The host whose sidecar has that peer socket.
pub(super) fn parse_peer(peer: &str) -> Option<HostNumber> {
    peer.strip_prefix("/sim/")?
        .strip_suffix("/peer.sock")?
        .parse()
        .ok()
}
