//! Journals of hosts that migrate guests to each other, always the same: engines and pretended QEMUs in a
//! pretended time, each host with a clock of its own. What is in the journals the engine itself recorded.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test program uses its part of this; a panic is the test's failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use journal_format::SEGMENT_SIZE_MIN;
use journal_format::number::{
    BootId, DomainId, Epoch, HostId, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId, Salt,
    SegmentNumber,
};
use journal_format::record::{
    Authority, ClaimSeen, Draft, Effect, EffectCommand, EffectResult, Instance, MigrationStatus,
    Observed, Opening, Process, Protocol, Record, RecordBody, RunState, Settings,
};
use journal_format::record::{KeyChange, KeyValue};
use journal_format::segment::{SegmentEnd, SegmentHeader};
use phase_journal::engine::{
    Config, ControlRequest, Engine, Envelope, History, Input, Message, MigrateOptions, Now,
    PeerFailure, PeerRequest, PeerResponse, QemuEvent, Step, StoreRequest, TICK_INTERVAL_MS, Token,
};

use super::format::Writer;

/// 2026-01-02 03:04:05 UTC, in nanoseconds.
const BEGIN: u64 = 1_767_323_045_000_000_000;
const MS: u64 = 1_000_000;
/// No story takes longer, in nanoseconds.
const LONGEST: u64 = 300_000 * MS;
/// The store that all hosts reach.
const STORE: &str = "etcd";
/// Room for the batches of one migration in a segment, in bytes.
const ROOM: u64 = 2 * SEGMENT_SIZE_MIN;
/// Ticks in which nothing happens, after which nothing will.
const QUIET_TICKS: u32 = 400;

/// An identity that says what it is of.
fn identity(kind: u8, host: usize, number: u64) -> Id128 {
    let mut bytes = [kind; 16];
    bytes[1] = u8::try_from(host).unwrap();
    // Read from the left, as people do.
    bytes[8..].copy_from_slice(&number.swap_bytes().to_le_bytes());
    Id128(bytes)
}

/// A migration that shall be.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) protocol: Protocol,
    pub(crate) authority: Authority,
    /// When it is asked for, in milliseconds from the begin.
    pub(crate) at: u64,
    /// How long the memory takes, in milliseconds.
    pub(crate) transfer: u64,
}

/// A host's sidecar is killed when the batch with a record of this type is durable.
#[derive(Clone, Copy)]
pub(crate) struct Crash {
    pub(crate) host: usize,
    pub(crate) record: &'static str,
    /// How long it is gone, in milliseconds; `None` for good.
    pub(crate) gone: Option<u64>,
}

#[derive(Debug)]
enum Happens {
    Effect(usize, u32, Effect),
    Look(usize, u32, DomainId),
    Event(usize, DomainId, QemuEvent),
    Asked(usize, u32, Envelope, PeerRequest, usize),
    Answered(
        usize,
        u32,
        MigrationId,
        Result<(Envelope, PeerResponse), PeerFailure>,
    ),
    Control(usize, ControlRequest),
    Key(usize, u32, MigrationId, StoreRequest),
    Switchover(usize, DomainId),
    Restart(usize),
    Crash(usize, Option<u64>),
    Tick,
}

struct Host {
    segments: Vec<(SegmentNumber, Vec<u8>)>,
    writer: Writer,
    engine: Engine,
    history: Vec<History>,
    openings: Vec<Opening>,
    previous: BTreeMap<DomainId, Lsn>,
    qemus: BTreeMap<DomainId, Observed>,
    /// Nanoseconds by which its clock is ahead.
    ahead: i64,
    epoch: u32,
    up: bool,
}

pub(crate) struct World {
    hosts: Vec<Host>,
    time: u64,
    happens: BTreeMap<(u64, u64), Happens>,
    count: u64,
    /// Who waits for whose answer: the asker, its life, the migration, who was asked.
    waiting: BTreeMap<u64, (usize, u32, MigrationId, usize)>,
    plans: BTreeMap<DomainId, Plan>,
    crashes: Vec<Crash>,
    keys: BTreeMap<MigrationId, KeyValue>,
    quiet: u32,
    /// What is written instead of the names 0, 1, ...
    names: Vec<String>,
    /// Destinations whose QEMU dies when it is continued.
    pub(crate) dies_at_cont: BTreeSet<usize>,
}

fn letter(host: usize) -> char {
    char::from(b'a' + u8::try_from(host).unwrap())
}

fn config(host: usize, epoch: u32, first: Lsn, openings: &[Opening]) -> Config {
    Config {
        journal: JournalId(identity(0xA0, host, 0)),
        epoch: Epoch(epoch),
        opening: OpeningId(identity(0xE0, host, epoch.into())),
        openings: openings.to_vec(),
        next: first,
        boot: boot(host),
        peer: format!("/run/{}/peer.sock", letter(host)),
        store: Some(STORE.to_owned()),
    }
}

fn boot(host: usize) -> BootId {
    BootId(identity(0xB0, host, 0))
}

fn header(
    host: usize,
    epoch: u32,
    first: Lsn,
    before: Option<SegmentEnd>,
    size: u64,
) -> SegmentHeader {
    SegmentHeader {
        journal: JournalId(identity(0xA0, host, 0)),
        host: HostId(identity(0x0A, host, 0)),
        number: SegmentNumber(epoch.into()),
        size,
        salt: Salt(identity(0x50, host, epoch.into()).0),
        first,
        epoch: Epoch(epoch),
        opening: OpeningId(identity(0xE0, host, epoch.into())),
        before,
    }
}

impl World {
    /// Hosts, each with so many nanoseconds by which its clock is ahead, and room for so many migrations.
    pub(crate) fn new(ahead: &[i64], crashes: &[Crash], guests: u64) -> World {
        let size = (guests + 8) * ROOM;
        let host = |(number, ahead): (usize, &i64)| Host {
            segments: Vec::new(),
            writer: Writer::new(header(number, 1, Lsn(1), None, size)),
            engine: Engine::open(config(number, 1, Lsn(1), &[]), &[]),
            history: Vec::new(),
            openings: Vec::new(),
            previous: BTreeMap::new(),
            qemus: BTreeMap::new(),
            ahead: *ahead,
            epoch: 1,
            up: true,
        };
        let mut world = World {
            hosts: ahead.iter().enumerate().map(host).collect(),
            time: BEGIN,
            happens: BTreeMap::new(),
            count: 0,
            waiting: BTreeMap::new(),
            plans: BTreeMap::new(),
            crashes: crashes.to_vec(),
            keys: BTreeMap::new(),
            quiet: 0,
            names: Vec::new(),
            dies_at_cont: BTreeSet::new(),
        };
        for number in 0..world.hosts.len() {
            world.start(number);
        }
        world.later(MS, Happens::Tick);
        world
    }

    /// A guest at its source, its place at the destination, and its migration.
    pub(crate) fn plan(&mut self, plan: Plan) {
        let number = self.plans.len() as u64;
        let domain = DomainId(identity(0x11, 0, number));
        for host in [plan.from, plan.to] {
            let is_source = host == plan.from;
            let observed = Observed {
                process: Process::Alive,
                instance: Some(instance(host, number)),
                run_state: Some(if is_source {
                    RunState::Running
                } else {
                    RunState::Inmigrate
                }),
                migration: Some(MigrationStatus::None),
                claim: ClaimSeen::Absent,
            };
            self.hosts[host].qemus.insert(domain, observed.clone());
            let request = ControlRequest::DomainAdd {
                name: plan.name.clone(),
                domain,
                qmp: format!("/run/qemu/{}.qmp", number),
                instance: instance(host, number),
                observed,
                definition: None,
            };
            self.later(2 * MS, Happens::Control(host, request));
        }
        let request = ControlRequest::Migrate {
            name: plan.name.clone(),
            migration: MigrationId(identity(0x22, 0, number)),
            peer: format!("/run/{}/peer.sock", letter(plan.to)),
            peer_domain: plan.name.clone(),
            uri: format!("tcp:192.0.2.{}:4444", plan.to + 1),
            protocol: plan.protocol,
            authority: plan.authority,
            in_doubt_limit: None,
            max_bandwidth: None,
            downtime_limit: Some(300),
            postcopy: false,
            options: MigrateOptions::default(),
            disks: None,
        };
        self.later(plan.at * MS, Happens::Control(plan.from, request));
        self.plans.insert(domain, plan);
    }

    /// Guests named 0, 1, ... have these names in the journals.
    pub(crate) fn disguise(&mut self, names: &[&str]) {
        self.names = names.iter().map(|name| (*name).to_owned()).collect();
    }

    fn disguised(&self, draft: &Draft) -> Draft {
        let mut draft = draft.clone();
        if let RecordBody::DomainAdded(state) | RecordBody::DomainState(state) = &mut draft.body
            && let Some(name) = state
                .name
                .parse::<usize>()
                .ok()
                .and_then(|at| self.names.get(at))
        {
            state.name.clone_from(name);
        }
        draft
    }

    /// Kills a host's sidecar at that millisecond.
    pub(crate) fn crash_at(&mut self, host: usize, at: u64, gone: u64) {
        self.later(at * MS, Happens::Crash(host, Some(gone)));
    }

    fn later(&mut self, delay: u64, happens: Happens) {
        self.count += 1;
        self.happens
            .insert((self.time + delay, self.count), happens);
    }

    /// Until nothing happens any more, or for a long time.
    pub(crate) fn run(&mut self) {
        while self.quiet < QUIET_TICKS
            && self.time < BEGIN + LONGEST
            && let Some(((time, _), happens)) = self.happens.pop_first()
        {
            self.time = self.time.max(time);
            self.happen(happens);
        }
    }

    /// Writes a directory for each host: `a`, `b`, ...
    pub(crate) fn write(self, directory: &Path) {
        for (number, mut host) in self.hosts.into_iter().enumerate() {
            let place = directory.join(letter(number).to_string());
            fs::create_dir_all(&place).unwrap();
            host.segments
                .push((host.writer.header.number, host.writer.finish()));
            for (segment, bytes) in host.segments {
                fs::write(place.join(segment.file_name()), bytes).unwrap();
            }
        }
    }

    fn now(&self, host: usize) -> Now {
        Now {
            wall: self
                .time
                .checked_add_signed(self.hosts[host].ahead)
                .unwrap(),
            monotonic: self.time - BEGIN + 3600 * 1000 * MS,
        }
    }

    fn start(&mut self, host: usize) {
        let checkpoint = self.hosts[host].engine.checkpoint();
        self.append(host, &checkpoint);
        let now = self.now(host);
        let step = self.hosts[host].engine.start(now);
        self.carry_out(host, step);
    }

    fn crash(&mut self, host: usize, gone: Option<u64>) {
        self.hosts[host].up = false;
        self.hosts[host].epoch += 1;
        let waiting = std::mem::take(&mut self.waiting);
        for (token, (asker, epoch, migration, asked)) in waiting {
            if asked == host {
                let failed = Err(PeerFailure::Unreachable("the connection broke".to_owned()));
                self.later(MS, Happens::Answered(asker, epoch, migration, failed));
            } else {
                self.waiting.insert(token, (asker, epoch, migration, asked));
            }
        }
        if let Some(gone) = gone {
            self.later(gone * MS, Happens::Restart(host));
        }
    }

    fn restart(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let before = SegmentEnd {
            number: host.writer.header.number,
            end: host.writer.bytes.len() as u64,
            chain: host.writer.chain,
            last: Lsn(host.writer.next.0 - 1),
        };
        let next = host.writer.next;
        let following = Writer::new(header(
            number,
            host.epoch,
            next,
            Some(before),
            host.writer.header.size,
        ));
        let ended = std::mem::replace(&mut host.writer, following);
        host.segments.push((ended.header.number, ended.finish()));
        host.engine = Engine::open(
            config(number, host.epoch, next, &host.openings),
            &host.history,
        );
        host.up = true;
        self.start(number);
    }

    fn tell(&mut self, host: usize, input: Input) {
        let now = self.now(host);
        let step = self.hosts[host].engine.step(now, input);
        self.carry_out(host, step);
    }

    fn carry_out(&mut self, host: usize, step: Step) {
        if !step.append.is_empty() {
            self.quiet = 0;
        }
        self.append(host, &step.append);
        let is_now = |crash: &Crash| {
            crash.host == host
                && step
                    .append
                    .iter()
                    .any(|draft| draft.body.type_name() == crash.record)
        };
        if let Some(at) = self.crashes.iter().position(is_now) {
            let crash = self.crashes.remove(at);
            return self.crash(host, crash.gone);
        }
        let epoch = self.hosts[host].epoch;
        for effect in step.effects {
            self.later(MS * 7 / 10, Happens::Effect(host, epoch, effect));
        }
        for message in step.messages {
            match message {
                Message::Look { domain } | Message::Watch { domain, .. } => {
                    self.later(MS * 3 / 10, Happens::Look(host, epoch, domain));
                }
                Message::Ask {
                    peer,
                    envelope,
                    request,
                } => {
                    let to = usize::from(peer.as_bytes()[5] - b'a');
                    self.later(
                        MS * 4 / 10,
                        Happens::Asked(host, epoch, envelope, request, to),
                    );
                }
                Message::Admitted { .. } => {}
                Message::PeerReply {
                    token,
                    envelope,
                    response,
                    rests_on: _,
                } => {
                    if let Some((asker, epoch, migration, _)) = self.waiting.remove(&token.0) {
                        let answered =
                            Happens::Answered(asker, epoch, migration, Ok((envelope, response)));
                        self.later(MS * 4 / 10, answered);
                    }
                }
                Message::Reply { result, .. } => {
                    result.unwrap();
                }
                Message::Store { migration, request } => {
                    self.later(MS / 2, Happens::Key(host, epoch, migration, request));
                }
                // At once, and without a record.
                Message::LookAtSettings { domain } => {
                    let seen = Some(Settings::default());
                    self.tell(host, Input::SettingsLooked { domain, seen });
                }
                Message::LookAtJob { .. }
                | Message::Find { .. }
                | Message::Found { .. }
                | Message::Unwatch { .. }
                | Message::Notify(_)
                | Message::Ready => {}
            }
        }
    }

    fn append(&mut self, number: usize, drafts: &[Draft]) {
        if drafts.is_empty() {
            return;
        }
        let now = self.now(number);
        let disguised: Vec<Draft> = drafts.iter().map(|draft| self.disguised(draft)).collect();
        let host = &mut self.hosts[number];
        let head = host.writer.head(boot(number), now.wall, now.monotonic);
        let mut records = Vec::new();
        for (lsn, (draft, written)) in (host.writer.next.0..).zip(drafts.iter().zip(disguised)) {
            let previous = draft
                .domain
                .and_then(|domain| host.previous.insert(domain, Lsn(lsn)));
            if let RecordBody::CheckpointBegun(begun) = &draft.body {
                host.openings.clone_from(&begun.openings);
            }
            host.history.push(History::Record(Record {
                lsn: Lsn(lsn),
                domain: draft.domain,
                previous,
                body: draft.body.clone(),
            }));
            records.push((written, previous));
        }
        host.writer.batch(head, &records);
    }

    fn happen(&mut self, happens: Happens) {
        let is_this_life = |world: &World, host: usize, epoch: u32| {
            world.hosts[host].up && world.hosts[host].epoch == epoch
        };
        match happens {
            Happens::Tick => {
                self.quiet += 1;
                for host in 0..self.hosts.len() {
                    if self.hosts[host].up {
                        self.tell(host, Input::Tick);
                    }
                }
                self.later(TICK_INTERVAL_MS * MS, Happens::Tick);
            }
            Happens::Restart(host) => self.restart(host),
            Happens::Crash(host, gone) => self.crash(host, gone),
            Happens::Control(host, request) => {
                self.quiet = 0;
                let token = Token(self.count);
                self.tell(host, Input::Control { token, request });
            }
            Happens::Look(host, epoch, domain) if is_this_life(self, host, epoch) => {
                let observed = self.hosts[host].qemus[&domain].clone();
                self.tell(host, Input::Looked { domain, observed });
            }
            Happens::Event(host, domain, event) if self.hosts[host].up => {
                self.tell(host, Input::Event { domain, event });
            }
            Happens::Effect(host, epoch, effect) => self.perform(host, epoch, &effect),
            Happens::Asked(asker, epoch, envelope, request, to) => {
                if !is_this_life(self, asker, epoch) {
                    return;
                }
                let migration = request.migration();
                if !self.hosts[to].up {
                    let failed = Err(PeerFailure::Unreachable("nobody listens".to_owned()));
                    return self.later(MS, Happens::Answered(asker, epoch, migration, failed));
                }
                self.count += 1;
                let token = Token(self.count);
                self.waiting.insert(token.0, (asker, epoch, migration, to));
                let nonce = Nonce(identity(0x99, to, token.0));
                self.tell(
                    to,
                    Input::Peer {
                        token,
                        envelope,
                        nonce,
                        request,
                    },
                );
            }
            Happens::Answered(host, epoch, migration, result)
                if is_this_life(self, host, epoch) =>
            {
                self.tell(host, Input::PeerAnswered { migration, result });
            }
            Happens::Key(host, epoch, migration, request) => {
                let before = self.keys.get(&migration).copied();
                match request {
                    StoreRequest::Change(KeyChange::Create(value)) if before.is_none() => {
                        self.keys.insert(migration, value);
                    }
                    StoreRequest::Change(KeyChange::Replace { expected, new })
                        if before == Some(expected) =>
                    {
                        self.keys.insert(migration, new);
                    }
                    StoreRequest::Change(KeyChange::Delete) => {
                        self.keys.remove(&migration);
                    }
                    StoreRequest::Change(_) | StoreRequest::Read => {}
                }
                if is_this_life(self, host, epoch) {
                    let result = Ok(self.keys.get(&migration).copied());
                    self.tell(host, Input::StoreAnswered { migration, result });
                }
            }
            Happens::Switchover(host, domain) => {
                self.quiet = 0;
                self.see(
                    host,
                    domain,
                    RunState::FinishMigrate,
                    MigrationStatus::PreSwitchover,
                );
                self.event(host, domain, QemuEvent::Stop);
                let reached = QemuEvent::Migration(MigrationStatus::PreSwitchover);
                self.event(host, domain, reached);
            }
            // Of an earlier life, or nobody is there.
            Happens::Look(..) | Happens::Event(..) | Happens::Answered(..) => {}
        }
    }

    fn see(&mut self, host: usize, domain: DomainId, run: RunState, status: MigrationStatus) {
        let observed = self.hosts[host].qemus.get_mut(&domain).unwrap();
        observed.run_state = Some(run);
        observed.migration = Some(status);
    }

    fn event(&mut self, host: usize, domain: DomainId, event: QemuEvent) {
        self.later(MS / 10, Happens::Event(host, domain, event));
    }

    fn perform(&mut self, host: usize, epoch: u32, effect: &Effect) {
        let domain = effect.domain;
        let plan = self.plans[&domain].clone();
        match &effect.command {
            EffectCommand::Claim(claim) => {
                self.hosts[host].qemus.get_mut(&domain).unwrap().claim = ClaimSeen::Present(*claim);
            }
            EffectCommand::Migrate { .. } => {
                self.see(host, domain, RunState::Running, MigrationStatus::Active);
                self.see(
                    plan.to,
                    domain,
                    RunState::Inmigrate,
                    MigrationStatus::Active,
                );
                let active = QemuEvent::Migration(MigrationStatus::Active);
                self.event(host, domain, active);
                self.later(plan.transfer * MS, Happens::Switchover(host, domain));
            }
            EffectCommand::MigrateContinue => {
                self.see(
                    host,
                    domain,
                    RunState::Postmigrate,
                    MigrationStatus::Completed,
                );
                self.see(
                    plan.to,
                    domain,
                    RunState::Paused,
                    MigrationStatus::Completed,
                );
                for side in [host, plan.to] {
                    self.later(
                        4 * MS,
                        Happens::Event(
                            side,
                            domain,
                            QemuEvent::Migration(MigrationStatus::Completed),
                        ),
                    );
                }
            }
            EffectCommand::Cont if self.dies_at_cont.contains(&host) => self.die(host, domain),
            EffectCommand::Cont => {
                let observed = self.hosts[host].qemus.get_mut(&domain).unwrap();
                observed.run_state = Some(RunState::Running);
                self.event(host, domain, QemuEvent::Resume);
            }
            EffectCommand::MigrateCancel => {
                self.see(host, domain, RunState::Running, MigrationStatus::Cancelled);
                self.event(
                    host,
                    domain,
                    QemuEvent::Migration(MigrationStatus::Cancelled),
                );
            }
            EffectCommand::Kill => self.die(host, domain),
            EffectCommand::Stop
            | EffectCommand::Unclaim
            | EffectCommand::SetCapabilities { .. }
            | EffectCommand::SetParameters { .. }
            | EffectCommand::MigrateIncoming { .. }
            | EffectCommand::StartPostcopy
            | EffectCommand::MigrateRecover { .. }
            | EffectCommand::MigrateResume { .. }
            | EffectCommand::MigratePause
            | EffectCommand::Monitor { .. } => {}
        }
        if self.hosts[host].up && self.hosts[host].epoch == epoch {
            let result = match self.hosts[host].qemus[&domain].process {
                Process::Dead if effect.command != EffectCommand::Kill => EffectResult::Unknown {
                    why: "the connection broke".to_owned(),
                },
                _ => EffectResult::Done,
            };
            self.tell(
                host,
                Input::EffectFinished {
                    effect: effect.intent,
                    result,
                },
            );
        }
    }

    fn die(&mut self, host: usize, domain: DomainId) {
        let observed = self.hosts[host].qemus.get_mut(&domain).unwrap();
        *observed = Observed {
            process: Process::Dead,
            instance: observed.instance,
            run_state: None,
            migration: None,
            claim: ClaimSeen::Unread,
        };
    }
}

fn instance(host: usize, number: u64) -> Instance {
    Instance {
        boot: boot(host),
        pid: 4000 + u32::try_from(number).unwrap(),
        start_time: 98_765,
    }
}

/// A v3 migration from the first host to the second.
pub(crate) fn plan(name: &str, transfer: u64) -> Plan {
    Plan {
        name: name.to_owned(),
        from: 0,
        to: 1,
        protocol: Protocol::V3,
        authority: Authority::Destination,
        at: 40,
        transfer,
    }
}

/// One v3 migration; the destination's clock is ahead by 37 s.
pub(crate) fn one(crashes: &[Crash]) -> World {
    let mut world = World::new(&[0, 37_000_000_000], crashes, 1);
    world.plan(plan("web-1", 2_300));
    world.run();
    world
}

/// The same under that authority.
pub(crate) fn one_under(authority: Authority, crashes: &[Crash]) -> World {
    let mut world = World::new(&[0, 0], crashes, 1);
    world.plan(Plan {
        authority,
        ..plan("web-1", 300)
    });
    world.run();
    world
}

/// The same, with another name in the journals, such as no engine takes.
pub(crate) fn one_named(name: &str) -> World {
    let mut world = World::new(&[0, 0], &[], 8);
    world.disguise(&[name]);
    world.plan(plan("0", 100));
    world.run();
    world
}

/// Guests whose names try to be more than text.
pub(crate) fn hostile() -> World {
    let mut world = World::new(&[0, 0], &[], 8);
    let names = [
        "<script>alert(1)</script>",
        "</title><img src=x onerror=alert(2)>\" onload=\"alert(3)",
        "\u{202e}gpj.exe \u{1b}[31m &amp; ]]>",
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
        "</script><script>window.hacked=1</script>",
    ];
    world.disguise(&names);
    for number in 0..names.len() {
        world.plan(plan(&number.to_string(), 300));
    }
    world.run();
    world
}

/// The crash that libvirt leaves undecided.
pub(crate) const GRANTED: Crash = Crash {
    host: 0,
    record: "migration-granted",
    gone: Some(180),
};

/// A host is emptied: so many guests go to two others, four at a time, with names of all lengths; its
/// sidecar dies twice on the way.
pub(crate) fn many(guests: u64) -> World {
    let mut world = World::new(
        &[0, 1_250_000_000, -84_000_000],
        &[
            Crash {
                host: 0,
                record: "migration-granted",
                gone: Some(900),
            },
            Crash {
                host: 1,
                record: "migration-committed",
                gone: Some(400),
            },
        ],
        guests,
    );
    let names = [
        "web",
        "db",
        "mail",
        "ci-runner-with-a-rather-long-name-for-a-guest",
        "cache",
        "ldap",
    ];
    for number in 0..guests {
        let name = names[usize::try_from(number).unwrap() % names.len()];
        world.plan(Plan {
            name: format!("{name}-{number}"),
            from: 0,
            to: 1 + usize::from(number % 2 == 1),
            protocol: if number % 7 == 3 {
                Protocol::V2
            } else {
                Protocol::V3
            },
            authority: if number % 7 == 3 {
                Authority::Source
            } else {
                Authority::Destination
            },
            at: 50 + number / 4 * 1_700 + number % 4 * 35,
            transfer: 700 + number * 397 % 2_900,
        });
    }
    world.run();
    world
}
