//! Two sidecars, their QEMUs and the wire between them, in memory and in order: enough to crash the
//! engine at every batch and look at what the guest says.

mod disks;
mod qemu;
mod settings;
mod store;

use std::collections::{BTreeMap, VecDeque};

use journal_format::number::{
    BootId, DomainId, Epoch, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId,
};
use journal_format::record::{
    Authority, ClaimSeen, Draft, Effect, EffectCommand, EffectResult, Instance, MigrationStatus,
    Observed, Opening, Process, Protocol, Record, RecordBody, RunState, Settings, WantedRunState,
};

pub(crate) use disks::{Copying, Disks};
use settings::Told;
pub(crate) use settings::fresh as fresh_settings;
pub(crate) use store::{Store, StoreFault};

use crate::engine::laws::{Auditor, Breach};
use crate::engine::{
    Answer, Config, ControlRequest, Engine, Envelope, Gap, History, Input, Message, Now,
    PeerFailure, PeerRequest, Refusal, Step, StoreRequest, TICK_INTERVAL_MS, Token,
};

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const DOMAIN: DomainId = DomainId(Id128([7; 16]));

fn id(byte: u8) -> Id128 {
    Id128([byte; 16])
}

/// A QEMU as far as a migration goes, without image locks: nothing but us keeps two from running.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    pub(crate) alive: bool,
    pub(crate) mute: bool,
    pub(crate) run: RunState,
    pub(crate) status: MigrationStatus,
    pub(crate) claim: ClaimSeen,
    pub(crate) instance: Instance,
    autostart: bool,
    listening: bool,
    was_running: bool,
    postcopy: bool,
    /// The guest's counter.
    pub(crate) memory: u64,
    pub(crate) refuse_cont: bool,
    /// Another process answers on its socket.
    pub(crate) is_another: bool,
    /// What it is told about migrations; it knows no others.
    pub(crate) settings: Settings,
    /// Those that the sides do not share.
    pub(crate) disks: Disks,
}

/// Where a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Before the n-th batch is written.
    Before(u32),
    /// After it is durable, before anything leaves.
    After(u32),
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) engine: Option<Engine>,
    pub(crate) journal: Vec<History>,
    pub(crate) openings: Vec<Opening>,
    pub(crate) journal_id: JournalId,
    pub(crate) boot: BootId,
    epoch: u32,
    pub(crate) batches: u32,
    pub(crate) crash: Option<Crash>,
    pub(crate) qemu: Qemu,
    pub(crate) ready: bool,
    previous: BTreeMap<DomainId, Lsn>,
    /// Holds all that it writes to the laws.
    auditor: Auditor,
    /// So many entries of the journal.
    audited: usize,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "few wait at a time")]
enum Event {
    Input(usize, u32, Input),
    Effect(usize, u32, Effect),
    /// A source's stream gets on by itself.
    Stream(usize),
    Store(usize, u32, MigrationId, StoreRequest),
}

#[derive(Debug)]
pub(crate) struct World {
    protocol: Protocol,
    pub(crate) authority: Authority,
    pub(crate) store: Store,
    /// Which store each sidecar is started with.
    pub(crate) stores: [Option<&'static str>; 2],
    pub(crate) in_doubt_limit: u64,
    pub(crate) postcopy: bool,
    /// What the next migration is told, and how that fares.
    pub(crate) told: Told,
    /// So many times the stream breaks in post-copy.
    pub(crate) breaks: u32,
    /// And the destination's QEMU does not notice.
    pub(crate) breaks_unnoticed: bool,
    pub(crate) hosts: [Host; 2],
    queue: VecDeque<Event>,
    asks: BTreeMap<Token, (usize, u32, MigrationId)>,
    pub(crate) replies: Vec<(usize, Result<Answer, Refusal>)>,
    pub(crate) now: u64,
    next_token: u64,
    opening: u8,
    /// The newest number that the guest ever counted to.
    pub(crate) newest: u64,
    /// What went wrong, if anything did.
    pub(crate) broken: Option<String>,
    /// Effects that were handed over before a crash still happen.
    pub(crate) effects_survive: bool,
    pub(crate) partitioned: bool,
    pub(crate) steps: u32,
    /// Kill the QEMU of this host after that many events.
    pub(crate) kill_qemu: Option<(usize, u32)>,
    pub(crate) hold_stream: bool,
    pub(crate) freeze: Option<MigrationStatus>,
    pub(crate) frozen: Vec<usize>,
    pub(crate) stall: Option<fn(usize, &EffectCommand) -> bool>,
    pub(crate) stalled: Vec<(usize, u32, Effect)>,
    pub(crate) fail: Option<fn(usize, &EffectCommand) -> Option<EffectResult>>,
    pub(crate) hold_asks: [bool; 2],
    pub(crate) held_asks: Vec<(usize, Envelope, PeerRequest)>,
    /// Streams that get on at a time.
    later: Vec<(u64, usize)>,
    /// How disks are copied.
    pub(crate) copying: Copying,
    /// What is served cannot be taken back.
    pub(crate) is_export_stuck: bool,
}

fn qemu(run: RunState, pid: u32, boot: BootId) -> Qemu {
    Qemu {
        alive: true,
        mute: false,
        run,
        status: MigrationStatus::None,
        claim: ClaimSeen::Absent,
        instance: Instance {
            boot,
            pid,
            start_time: u64::from(pid),
        },
        autostart: true,
        listening: false,
        was_running: false,
        postcopy: false,
        memory: 0,
        refuse_cont: false,
        is_another: false,
        settings: Settings::default(),
        disks: Disks::of(0),
    }
}

impl Qemu {
    fn running(&self) -> bool {
        self.alive && self.run == RunState::Running
    }

    /// A living process with the guest's memory, whole.
    pub(crate) fn holds_guest(&self) -> bool {
        self.alive && self.run != RunState::Inmigrate
    }

    fn observed(&self) -> Observed {
        let process = match (self.alive, self.mute) {
            _ if self.is_another => Process::OtherInstance,
            (false, _) => Process::Dead,
            (true, true) => Process::Mute,
            (true, false) => Process::Alive,
        };
        let alive = process == Process::Alive;
        Observed {
            process,
            instance: Some(self.instance),
            run_state: alive.then(|| self.run.clone()),
            migration: alive.then(|| self.status.clone()),
            claim: if alive {
                self.claim.clone()
            } else {
                ClaimSeen::Unread
            },
        }
    }
}

impl World {
    /// A runs the guest; B waits for it. Both are registered.
    pub(crate) fn new() -> World {
        World::of(Protocol::V3)
    }

    /// The same, for migrations by post-copy whose stream breaks so many times.
    pub(crate) fn of_postcopy(breaks: u32) -> World {
        let mut world = World::of(Protocol::V3);
        world.postcopy = true;
        world.breaks = breaks;
        world
    }

    /// The same, for v3 migrations that this authority decides.
    pub(crate) fn decided_by(authority: Authority) -> World {
        let mut world = World::of(Protocol::V3);
        world.authority = authority;
        world
    }

    /// The same, for migrations of this protocol.
    pub(crate) fn of(protocol: Protocol) -> World {
        let boots = [BootId(id(0xA1)), BootId(id(0xB1))];
        let host = |at: usize, run: RunState| Host {
            engine: None,
            journal: Vec::new(),
            openings: Vec::new(),
            journal_id: JournalId(id(if at == A { 0xA0 } else { 0xB0 })),
            boot: boots[at],
            epoch: 0,
            batches: 0,
            crash: None,
            qemu: qemu(run, 100 + u32::try_from(at).unwrap(), boots[at]),
            ready: false,
            previous: BTreeMap::new(),
            auditor: Auditor::default(),
            audited: 0,
        };
        let mut world = World {
            hosts: [host(A, RunState::Running), host(B, RunState::Inmigrate)],
            protocol,
            authority: match protocol {
                Protocol::V2 => Authority::Source,
                Protocol::V3 => Authority::Destination,
            },
            store: Store::default(),
            stores: [Some("the-store"); 2],
            in_doubt_limit: 5_000,
            postcopy: false,
            told: Told::default(),
            breaks: 0,
            breaks_unnoticed: false,
            queue: VecDeque::new(),
            asks: BTreeMap::new(),
            replies: Vec::new(),
            now: 1_000,
            next_token: 1,
            opening: 0,
            newest: 0,
            broken: None,
            effects_survive: false,
            partitioned: false,
            steps: 0,
            kill_qemu: None,
            hold_stream: false,
            freeze: None,
            frozen: Vec::new(),
            stall: None,
            stalled: Vec::new(),
            fail: None,
            hold_asks: [false; 2],
            held_asks: Vec::new(),
            later: Vec::new(),
            copying: Copying::Well,
            is_export_stuck: false,
        };
        for at in [A, B] {
            world.restart(at);
            world.add_domain(at);
        }
        world.run_for(200);
        for host in &mut world.hosts {
            host.batches = 0;
        }
        world.steps = 0;
        world.replies.clear();
        world
    }

    pub(crate) fn add_domain(&mut self, at: usize) {
        let qemu = &self.hosts[at].qemu;
        let request = ControlRequest::DomainAdd {
            name: "g".to_owned(),
            domain: DOMAIN,
            qmp: format!("/qemu-{at}"),
            instance: qemu.instance,
            observed: qemu.observed(),
            definition: (at == A).then(|| "<domain/>".repeat(600)),
        };
        self.control(at, request);
    }

    /// A new QEMU at a host, waiting for a guest.
    pub(crate) fn replace_qemu(&mut self, at: usize) {
        let pid = self.hosts[at].qemu.instance.pid + 1000;
        let disks = self.hosts[at].qemu.disks.newest.len();
        self.hosts[at].qemu = qemu(RunState::Inmigrate, pid, self.hosts[at].boot);
        self.hosts[at].qemu.disks = Disks::of(disks);
    }

    pub(crate) fn thaw(&mut self) {
        self.freeze = None;
        for at in std::mem::take(&mut self.frozen) {
            self.queue.push_back(Event::Stream(at));
        }
    }

    pub(crate) fn unstall(&mut self) {
        self.stall = None;
        for (at, epoch, effect) in std::mem::take(&mut self.stalled) {
            self.queue.push_back(Event::Effect(at, epoch, effect));
        }
    }

    pub(crate) fn release_asks(&mut self) {
        self.hold_asks = [false; 2];
        for (at, envelope, request) in std::mem::take(&mut self.held_asks) {
            self.ask(at, envelope, request);
        }
    }

    pub(crate) fn migrate(&mut self, from: usize) {
        self.opening += 1;
        let request = ControlRequest::Migrate {
            name: "g".to_owned(),
            migration: MigrationId(id(0x40 + self.opening)),
            peer: format!("peer-{}", 1 - from),
            peer_domain: "g".to_owned(),
            uri: "unix:/m".to_owned(),
            protocol: self.protocol,
            authority: self.authority,
            max_bandwidth: None,
            downtime_limit: self.told.downtime_limit,
            postcopy: self.told.postcopy.unwrap_or(self.postcopy),
            in_doubt_limit: (self.authority == Authority::Store).then_some(self.in_doubt_limit),
            options: self.told.options.clone(),
            disks: self.wanted_disks(from),
        };
        self.control(from, request);
    }

    pub(crate) fn control(&mut self, at: usize, request: ControlRequest) {
        let token = self.token();
        self.input(at, Input::Control { token, request });
    }

    pub(crate) fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    pub(crate) fn input(&mut self, at: usize, input: Input) {
        let epoch = self.hosts[at].epoch;
        self.queue.push_back(Event::Input(at, epoch, input));
    }

    fn time(&self) -> Now {
        Now {
            wall: self.now * 1_000_000,
            monotonic: self.now * 1_000_000,
        }
    }

    /// Opens the journal of a host and starts its engine.
    pub(crate) fn restart(&mut self, at: usize) {
        self.opening += 1;
        let now = self.time();
        let opening = OpeningId(id(self.opening));
        let host = &mut self.hosts[at];
        host.epoch += 1;
        host.ready = false;
        let next = Lsn(host.journal.iter().map(last_lsn).max().unwrap_or(0) + 1);
        let config = Config {
            journal: host.journal_id,
            epoch: Epoch(host.epoch),
            opening,
            openings: host.openings.clone(),
            next,
            boot: host.boot,
            peer: format!("peer-{at}"),
            store: self.stores[at].map(str::to_owned),
        };
        let mut engine = Engine::open(config, &host.journal);
        // A test took records away: what is left was judged when it was written.
        let is_gap = |entry: &History| matches!(entry, History::Gap(_));
        let is_cut = host.journal.iter().any(is_gap);
        if is_cut || host.audited != host.journal.len() {
            // Whoever opens a journal knows of no records but those that it reads.
            host.previous.clear();
            host.auditor = Auditor::default();
            for entry in &host.journal {
                if let History::Record(Record { lsn, domain, .. }) = entry {
                    host.previous.extend(domain.map(|domain| (domain, *lsn)));
                }
                drop(host.auditor.add(entry));
            }
            host.audited = host.journal.len();
        }
        let checkpoint = engine.checkpoint();
        host.write(next, &checkpoint);
        let step = engine.start(now);
        assert_eq!(
            engine.next_lsn().0,
            next.0 + (checkpoint.len() + step.append.len()) as u64
        );
        let first = Lsn(next.0 + checkpoint.len() as u64);
        host.engine = Some(engine);
        self.carry_out(at, first, step);
    }

    pub(crate) fn crash(&mut self, at: usize) {
        self.hosts[at].engine = None;
        let survive = self.effects_survive;
        let mut lost = Vec::new();
        self.queue.retain(|event| match event {
            Event::Input(host, _, _) => *host != at,
            Event::Effect(host, _, _) | Event::Store(host, ..) => *host != at || survive,
            Event::Stream(_) => true,
        });
        // Whoever waits for an answer of the dead process sees the connection break.
        self.asks.retain(|_, (asker, epoch, migration)| {
            if *asker == at {
                return false;
            }
            lost.push((*asker, *epoch, *migration));
            false
        });
        for (asker, epoch, migration) in lost {
            let result = Err(PeerFailure::Unreachable("the connection broke".to_owned()));
            let input = Input::PeerAnswered { migration, result };
            self.queue.push_back(Event::Input(asker, epoch, input));
        }
    }

    /// Lets time pass and everything happen.
    pub(crate) fn run_for(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end && self.broken.is_none() {
            let mut burst = 0;
            while let Some(event) = self.queue.pop_front() {
                burst += 1;
                if burst > 20_000 {
                    self.broken = Some(format!("livelock {event:?} then {:?}", self.queue));
                    return;
                }
                self.happen(event);
                self.check();
                if self.broken.is_some() {
                    return;
                }
            }
            self.now += TICK_INTERVAL_MS;
            let now = self.now;
            self.store_late();
            for (_, at) in self.later.extract_if(.., |(due, _)| *due <= now) {
                self.queue.push_back(Event::Stream(at));
            }
            for at in [A, B] {
                let host = &mut self.hosts[at];
                if host.qemu.running() {
                    host.qemu.memory += 1;
                    self.newest = self.newest.max(host.qemu.memory);
                    host.qemu.disks.write(host.qemu.memory);
                }
                if self.hosts[at].engine.is_some() {
                    self.input(at, Input::Tick);
                }
            }
            self.mirrors_get_on();
        }
    }

    /// P2 by execution: never two, and never from an older state than the guest was in.
    fn check(&mut self) {
        let running: Vec<&Host> = self
            .hosts
            .iter()
            .filter(|host| host.qemu.running())
            .collect();
        if self.broken.is_some() {
            return;
        }
        if running.len() > 1 {
            self.broken = Some("two copies run".to_owned());
        } else if let Some(host) = running.first()
            && host.qemu.memory != self.newest
        {
            self.broken = Some(format!(
                "went back from {} to {}",
                self.newest, host.qemu.memory
            ));
        } else {
            self.check_disks();
        }
    }

    fn happen(&mut self, event: Event) {
        self.steps += 1;
        if let Some((at, step)) = self.kill_qemu
            && self.steps == step
        {
            self.kill(at);
        }
        match event {
            Event::Input(at, epoch, input) => {
                let now = self.time();
                let host = &mut self.hosts[at];
                if epoch != host.epoch {
                    return;
                }
                let Some(engine) = &mut host.engine else {
                    return;
                };
                let first = engine.next_lsn();
                let step = engine.step(now, input);
                self.carry_out(at, first, step);
            }
            Event::Effect(at, epoch, effect) => {
                if self.stall.is_some_and(|stall| stall(at, &effect.command)) {
                    self.stalled.push((at, epoch, effect));
                    return;
                }
                if let Some(result) = self.fail.and_then(|fail| fail(at, &effect.command)) {
                    let input = Input::EffectFinished {
                        effect: effect.intent,
                        result,
                    };
                    self.queue.push_back(Event::Input(at, epoch, input));
                    return;
                }
                let result = self.perform(at, &effect);
                let input = Input::EffectFinished {
                    effect: effect.intent,
                    result,
                };
                self.queue.push_back(Event::Input(at, epoch, input));
            }
            Event::Stream(at) => self.stream(at),
            Event::Store(at, epoch, id, request) => self.store_carry_out(at, epoch, id, request),
        }
    }

    /// What the node does: records first, then all else.
    fn carry_out(&mut self, at: usize, first: Lsn, step: Step) {
        let host = &mut self.hosts[at];
        if !step.append.is_empty() {
            host.batches += 1;
            if host.crash == Some(Crash::Before(host.batches)) {
                host.crash = None;
                return self.crash(at);
            }
            host.write(first, &step.append);
            if host.crash == Some(Crash::After(host.batches)) {
                host.crash = None;
                return self.crash(at);
            }
        }
        let epoch = host.epoch;
        for effect in step.effects {
            self.queue.push_back(Event::Effect(at, epoch, effect));
        }
        for message in step.messages {
            self.deliver(at, message);
        }
    }

    fn deliver(&mut self, at: usize, message: Message) {
        match message {
            Message::Reply { result, .. } => self.replies.push((at, result)),
            Message::PeerReply {
                token,
                envelope,
                mut response,
                rests_on: _,
            } => {
                self.told.spoil_answer(&mut response);
                if let Some((asker, epoch, migration)) = self.asks.remove(&token) {
                    let result = Ok((envelope, response));
                    let input = Input::PeerAnswered { migration, result };
                    self.queue.push_back(Event::Input(asker, epoch, input));
                }
            }
            Message::Ask {
                envelope, request, ..
            } => self.ask(at, envelope, request),
            Message::Store { migration, request } => self.store_request(at, migration, request),
            Message::Look { domain } | Message::Watch { domain, .. } => self.look(at, domain),
            Message::LookAtSettings { domain } => self.look_at_settings(at, domain),
            Message::LookAtJob { .. } => self.look_at_job(at),
            Message::Admitted { .. }
            | Message::Unwatch { .. }
            | Message::Notify(_)
            // Nobody here has a client that drives a migration.
            | Message::Find { .. }
            | Message::Found { .. } => {}
            Message::Ready => self.hosts[at].ready = true,
        }
    }

    /// Another domain than the one has a QEMU of its own, which shows the same.
    fn look(&mut self, at: usize, domain: DomainId) {
        let mut observed = self.hosts[at].qemu.observed();
        if domain != DOMAIN {
            let engine = self.hosts[at].engine.as_ref();
            let other = engine.and_then(|engine| engine.state.domains.get(&domain));
            observed.instance = other.map(|other| other.state.instance);
        }
        self.input(at, Input::Looked { domain, observed });
    }

    fn ask(&mut self, at: usize, envelope: Envelope, mut request: PeerRequest) {
        self.told.spoil(&mut request);
        let migration = request.migration();
        if self.hold_asks[at] {
            self.held_asks.push((at, envelope, request));
            return;
        }
        let other = 1 - at;
        if self.partitioned || self.hosts[other].engine.is_none() {
            let result = Err(PeerFailure::NotSent("nobody listens".to_owned()));
            return self.input(at, Input::PeerAnswered { migration, result });
        }
        let token = self.token();
        self.asks
            .insert(token, (at, self.hosts[at].epoch, migration));
        let nonce = Nonce(id(0x99));
        self.input(
            other,
            Input::Peer {
                token,
                envelope,
                nonce,
                request,
            },
        );
    }

    // Judging.

    pub(crate) fn running(&self) -> Vec<usize> {
        [A, B]
            .into_iter()
            .filter(|at| self.hosts[*at].qemu.running())
            .collect()
    }

    pub(crate) fn open_jobs(&self) -> Vec<String> {
        let mut open = Vec::new();
        for (at, host) in self.hosts.iter().enumerate() {
            let Some(engine) = &host.engine else { continue };
            for migration in engine.state.migrations.values() {
                let rule = engine
                    .live
                    .get(&migration.state.terms.migration)
                    .and_then(|live| live.rule)
                    .map(|rule| rule.name());
                open.push(format!(
                    "host {at}: open {} phase {} rule {rule:?}",
                    migration.state.open, migration.state.phase
                ));
            }
        }
        open
    }

    pub(crate) fn held(&self, at: usize) -> Option<&'static str> {
        let engine = self.hosts[at].engine.as_ref()?;
        engine
            .live
            .values()
            .find_map(|live| live.rule)
            .map(|rule| rule.name())
    }

    pub(crate) fn wanted(&self, at: usize) -> Option<WantedRunState> {
        let engine = self.hosts[at].engine.as_ref()?;
        Some(engine.state.domains.get(&DOMAIN)?.state.wanted)
    }

    pub(crate) fn rules(&self, at: usize) -> Vec<String> {
        let rule = |body: &RecordBody| match body {
            RecordBody::Decided(decided) => Some(decided.rule.clone()),
            _ => None,
        };
        self.bodies(at).filter_map(rule).collect()
    }

    fn bodies(&self, at: usize) -> impl Iterator<Item = &RecordBody> {
        self.hosts[at]
            .journal
            .iter()
            .filter_map(|entry| match entry {
                History::Record(record) => Some(&record.body),
                History::Gap(_) => None,
            })
    }

    /// Something in the first record that has it.
    pub(crate) fn find<T>(
        &self,
        at: usize,
        what: impl FnMut(&RecordBody) -> Option<T>,
    ) -> Option<T> {
        self.bodies(at).find_map(what)
    }

    /// The types of all records, in order.
    pub(crate) fn names(&self, at: usize) -> Vec<&'static str> {
        self.bodies(at).map(RecordBody::type_name).collect()
    }

    /// Stops both sidecars and starts them with what is given in `stores`.
    pub(crate) fn restart_with_stores(&mut self) {
        for at in [A, B] {
            if self.hosts[at].engine.is_some() {
                self.crash(at);
            }
            self.restart(at);
        }
        self.run_for(200);
    }

    /// Is there such a record?
    pub(crate) fn has(&self, at: usize, is_it: impl FnMut(&RecordBody) -> bool) -> bool {
        self.bodies(at).any(is_it)
    }

    /// Everything a failed run leaves behind, for whoever has to understand it.
    pub(crate) fn story(&self) -> String {
        use std::fmt::Write as _;
        let mut story = format!("{:?}\n{:?}\n", self.broken, self.open_jobs());
        for (at, host) in self.hosts.iter().enumerate() {
            let _ = writeln!(story, "host {at}: {:?}", host.qemu);
            for entry in &host.journal {
                let _ = match entry {
                    History::Record(record) => {
                        writeln!(story, "  {} {:?}", record.lsn, record.body)
                    }
                    History::Gap(gap) => writeln!(story, "  {gap:?}"),
                };
            }
        }
        story
    }
}

fn last_lsn(entry: &History) -> u64 {
    match entry {
        History::Record(record) => record.lsn.0,
        History::Gap(Gap { last, .. }) => last.0,
    }
}

impl Host {
    fn write(&mut self, first: Lsn, drafts: &[Draft]) {
        for (offset, draft) in (0u64..).zip(drafts) {
            let lsn = Lsn(first.0 + offset);
            let previous = draft
                .domain
                .and_then(|domain| self.previous.insert(domain, lsn));
            let record = Record {
                lsn,
                domain: draft.domain,
                previous,
                body: draft.body.clone(),
            };
            if let RecordBody::CheckpointBegun(begun) = &record.body {
                self.openings.clone_from(&begun.openings);
            }
            let entry = History::Record(record);
            if let Err(Breach { law, how }) = self.auditor.add(&entry) {
                panic!("the law '{law}' is broken: {how}: {entry:?}");
            }
            self.journal.push(entry);
            self.audited = self.journal.len();
        }
    }

    pub(crate) fn lose_journal(&mut self) {
        self.journal.clear();
        self.openings.clear();
        self.previous.clear();
        self.epoch = 0;
        self.journal_id = JournalId(id(0xC0));
    }
}
