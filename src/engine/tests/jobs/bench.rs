//! One engine, its journal, and a QEMU that does what jobs ask of it.
//!
//! Invariant: every record is held to the laws; what was sent before a crash happens or does not, as the test says.
//! Not here: which jobs there are (`jobs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use journal_format::number::{BootId, DomainId, Epoch, Id128, JournalId, Lsn, OpeningId};
use journal_format::record::{
    ClaimSeen, DumpStatus, Effect, EffectCommand, EffectResult, Instance, MigrationStatus,
    Observed, Opening, Process, QemuJobSeen, QemuJobStatus, Record, RecordBody, RunState,
};
use serde_json::{Value, json};

use crate::engine::laws::{Auditor, Breach};
use crate::engine::{
    Answer, Config, ControlRequest, Engine, Envelope, Find, Found, History, Input, JobSeen,
    JobView, Message, MonitorCommand, NodeSeen, Now, QemuEvent, Refusal, Step, TICK_INTERVAL_MS,
    Token,
};

mod others;

pub(super) const DOMAIN: DomainId = DomainId(Id128([0xD0; 16]));
pub(super) const NAME: &str = "guest";
const BOOT: BootId = BootId(Id128([0xB0; 16]));
const INSTANCE: Instance = Instance {
    boot: BOOT,
    pid: 100,
    start_time: 100,
};

/// A QEMU as far as jobs see it.
#[derive(Clone, Debug)]
pub(super) struct Qemu {
    pub(super) alive: bool,
    pub(super) run: RunState,
    pub(super) status: MigrationStatus,
    pub(super) dump: DumpStatus,
    pub(super) jobs: BTreeMap<String, QemuJobSeen>,
    pub(super) nodes: BTreeSet<String>,
    pub(super) overlays: BTreeSet<String>,
    /// All of the guest is in a file, and it has not run since.
    pub(super) image_is_newest: bool,
    /// The guest ran in this process.
    pub(super) has_run: bool,
    /// Block jobs fail.
    pub(super) disk_is_full: bool,
    /// Somebody else has claimed it.
    pub(super) is_claimed: bool,
    /// It refuses to continue the guest, whose image somebody else has locked.
    pub(super) refuses_cont: bool,
    /// It refuses to cancel its jobs.
    pub(super) keeps_mirrors: bool,
    /// It streams to, or from, another QEMU, and not by itself.
    pub(super) is_paired: bool,
    /// A guest that comes in runs when it is there.
    pub(super) autostart: bool,
    /// It ran when its migration began.
    pub(super) was_running: bool,
    /// Exports of the NBD server.
    pub(super) exports: BTreeSet<String>,
}

impl Qemu {
    pub(super) fn new(run: RunState) -> Qemu {
        Qemu {
            alive: true,
            has_run: run == RunState::Running,
            run,
            status: MigrationStatus::None,
            dump: DumpStatus::None,
            jobs: BTreeMap::new(),
            nodes: BTreeSet::new(),
            overlays: BTreeSet::new(),
            image_is_newest: false,
            disk_is_full: false,
            is_claimed: false,
            refuses_cont: false,
            keeps_mirrors: false,
            is_paired: false,
            autostart: true,
            was_running: false,
            exports: BTreeSet::new(),
        }
    }

    fn observed(&self) -> Observed {
        Observed {
            process: match self.alive {
                true => Process::Alive,
                false => Process::Dead,
            },
            instance: Some(INSTANCE),
            run_state: self.alive.then(|| self.run.clone()),
            migration: self.alive.then(|| self.status.clone()),
            claim: match (self.alive, self.is_claimed) {
                (true, false) => ClaimSeen::Absent,
                (true, true) => ClaimSeen::Foreign("somebody else's".to_owned()),
                (false, _) => ClaimSeen::Unread,
            },
        }
    }

    fn seen(&self) -> JobSeen {
        if !self.alive {
            return JobSeen::default();
        }
        let node = |(name, is_overlay): (&String, bool)| NodeSeen {
            name: name.clone(),
            is_overlay,
            size: None,
        };
        let plain = self.nodes.iter().map(|name| (name, false));
        let overlays = self.overlays.iter().map(|name| (name, true));
        JobSeen {
            dump: Some(self.dump.clone()),
            qemu_jobs: Some(self.jobs.values().cloned().collect()),
            nodes: Some(plain.chain(overlays).map(node).collect()),
            exports: Some(self.exports.iter().cloned().collect()),
        }
    }

    /// What is on its way gets on.
    pub(super) fn get_on(&mut self) {
        if self.status == MigrationStatus::Active && !self.is_paired {
            self.status = MigrationStatus::Completed;
            let was_incoming = self.run == RunState::Inmigrate;
            self.run = match was_incoming {
                true => RunState::Paused,
                false => RunState::Postmigrate,
            };
            self.image_is_newest = !was_incoming;
        }
        if self.dump == DumpStatus::Active {
            self.dump = DumpStatus::Completed;
        }
        for job in self.jobs.values_mut() {
            if job.status == Some(QemuJobStatus::Running) {
                if job.id.starts_with('m') {
                    job.status = Some(QemuJobStatus::Ready);
                    continue;
                }
                let is_snapshot = job.id.starts_with('s');
                job.error = self.disk_is_full.then(|| "No space left".to_owned());
                job.status = Some(match is_snapshot || self.disk_is_full {
                    true => QemuJobStatus::Concluded,
                    false => QemuJobStatus::Pending,
                });
            }
        }
    }

    fn obey(&mut self, command: &EffectCommand) -> EffectResult {
        if !self.alive {
            return match command {
                EffectCommand::Kill => EffectResult::Done,
                _ => EffectResult::NotSent {
                    why: "gone".to_owned(),
                },
            };
        }
        match command {
            EffectCommand::Stop if self.run == RunState::Running => self.run = RunState::Paused,
            EffectCommand::Stop if self.run == RunState::Inmigrate => self.autostart = false,
            EffectCommand::Stop => {}
            EffectCommand::Cont if self.refuses_cont => {
                return EffectResult::Refused {
                    class: "GenericError".to_owned(),
                    description: "Failed to get \"write\" lock".to_owned(),
                };
            }
            EffectCommand::Cont if self.run == RunState::FinishMigrate => {
                return EffectResult::Refused {
                    class: "GenericError".to_owned(),
                    description: "not yet".to_owned(),
                };
            }
            EffectCommand::Cont => {
                assert_ne!(self.run, RunState::Inmigrate, "it would start by itself");
                self.run = RunState::Running;
                self.has_run = true;
                self.image_is_newest = false;
            }
            EffectCommand::MigrateCancel
                if matches!(
                    self.status,
                    MigrationStatus::Active
                        | MigrationStatus::PreSwitchover
                        | MigrationStatus::Device
                ) =>
            {
                self.status = MigrationStatus::Cancelled;
                if self.run == RunState::FinishMigrate {
                    self.run = match self.was_running {
                        true => RunState::Running,
                        false => RunState::Postmigrate,
                    };
                }
            }
            EffectCommand::MigrateCancel => {}
            EffectCommand::Kill => self.alive = false,
            EffectCommand::Monitor {
                execute, arguments, ..
            } => {
                let arguments: Value = serde_json::from_str(arguments).unwrap();
                return self.run_command(execute, &arguments);
            }
            other => panic!("no job sends {other:?}"),
        }
        EffectResult::Done
    }

    fn run_command(&mut self, execute: &str, arguments: &Value) -> EffectResult {
        let text = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
        let refused = |description: &str| EffectResult::Refused {
            class: "GenericError".to_owned(),
            description: description.to_owned(),
        };
        let plain = match execute {
            "cont" => Some(EffectCommand::Cont),
            "stop" => Some(EffectCommand::Stop),
            "migrate_cancel" => Some(EffectCommand::MigrateCancel),
            _ => None,
        };
        if let Some(command) = plain {
            return self.obey(&command);
        }
        match execute {
            "migrate" if self.run == RunState::Postmigrate => {
                return refused("paused due to previous migration");
            }
            "migrate" => {
                self.was_running = self.run == RunState::Running;
                self.status = MigrationStatus::Active;
            }
            "migrate-incoming" => {
                self.status = match self.is_paired {
                    // Nobody has connected yet.
                    true => MigrationStatus::Setup,
                    // A file is there.
                    false => MigrationStatus::Active,
                }
            }
            "migrate-continue" if self.status == MigrationStatus::PreSwitchover => {
                self.status = MigrationStatus::Device;
            }
            "migrate-continue" => return refused("not in pre-switchover"),
            "migrate-set-capabilities" | "nbd-server-start" => {}
            "nbd-server-stop" => self.exports.clear(),
            "block-export-add" => drop(self.exports.insert(text("id"))),
            "block-export-del" => drop(self.exports.remove(&text("id"))),
            "block-job-cancel" => {
                if let Some(job) = self.jobs.get_mut(&text("device")) {
                    job.status = Some(QemuJobStatus::Concluded);
                }
            }
            "quit" => self.alive = false,
            "dump-guest-memory" => self.dump = DumpStatus::Active,
            "blockdev-snapshot-sync" => {
                if !self.overlays.insert(text("snapshot-node-name")) {
                    return refused("busy");
                }
            }
            "blockdev-add" => drop(self.nodes.insert(text("node-name"))),
            "blockdev-del" => {
                if !self.jobs.is_empty() {
                    return refused("in use");
                }
                self.nodes.remove(&text("node-name"));
            }
            "transaction" => {
                let actions = arguments["actions"].as_array().into_iter().flatten();
                for action in actions {
                    let kind = action["type"].as_str().unwrap_or_default();
                    drop(self.run_command(kind, &action["data"]));
                }
            }
            "snapshot-save" | "blockdev-backup" | "blockdev-mirror" => {
                let job = QemuJobSeen {
                    id: text("job-id"),
                    status: Some(QemuJobStatus::Running),
                    error: None,
                };
                self.jobs.insert(job.id.clone(), job);
            }
            "job-finalize" => {
                if let Some(job) = self.jobs.get_mut(&text("id")) {
                    job.status = Some(QemuJobStatus::Concluded);
                }
            }
            "job-cancel" if self.keeps_mirrors => return refused("cannot be cancelled"),
            "job-cancel" => {
                if let Some(job) = self.jobs.get_mut(&text("id")) {
                    job.status = Some(QemuJobStatus::Concluded);
                    job.error = Some("cancelled".to_owned());
                }
            }
            "job-dismiss" => {
                if self.jobs.remove(&text("id")).is_none() {
                    return refused("Job not found");
                }
            }
            "device_add" => {}
            other => panic!("no job sends {other}"),
        }
        EffectResult::Done
    }
}

enum Waits {
    Effect(Effect),
    Look,
    JobLook,
}

/// Where the sidecar dies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    /// After so many batches of jobs.
    pub(super) after: u32,
    /// What was handed out with the last one still happens.
    pub(super) is_sent: bool,
}

/// The bench.
pub(super) struct Bench {
    engine: Option<Engine>,
    pub(super) journal: Vec<History>,
    openings: Vec<Opening>,
    previous: BTreeMap<DomainId, Lsn>,
    auditor: Auditor,
    pub(super) qemu: Qemu,
    waits: VecDeque<Waits>,
    admitted: BTreeSet<Token>,
    replies: BTreeMap<Token, Result<Answer, Refusal>>,
    now: u64,
    token: u64,
    epoch: u32,
    identity: JournalId,
    pub(super) batches: u32,
    pub(super) crash: Option<Crash>,
    pub(super) is_ready: bool,
    /// It is told of other sidecars at its start.
    pub(super) asks_others: bool,
    /// What it asks other sidecars, and from where in its history.
    pub(super) finds: VecDeque<(u64, Find)>,
    envelopes: BTreeMap<u64, Envelope>,
    told: BTreeMap<Token, (Envelope, Found)>,
}

impl Bench {
    /// The domain is registered.
    pub(super) fn new(run: RunState) -> Bench {
        Bench::of(JournalId(Id128([0xA0; 16])), run)
    }

    /// The same with a journal of its own.
    pub(super) fn of(identity: JournalId, run: RunState) -> Bench {
        Bench::with(identity, Qemu::new(run))
    }

    /// Such a QEMU is registered.
    pub(super) fn with(identity: JournalId, qemu: Qemu) -> Bench {
        let mut bench = Bench {
            engine: None,
            identity,
            journal: Vec::new(),
            openings: Vec::new(),
            previous: BTreeMap::new(),
            auditor: Auditor::default(),
            qemu,
            waits: VecDeque::new(),
            admitted: BTreeSet::new(),
            replies: BTreeMap::new(),
            now: 1_000,
            token: 0,
            epoch: 0,
            batches: 0,
            crash: None,
            is_ready: false,
            asks_others: false,
            finds: VecDeque::new(),
            envelopes: BTreeMap::new(),
            told: BTreeMap::new(),
        };
        bench.restart();
        let add = ControlRequest::DomainAdd {
            name: NAME.to_owned(),
            domain: DOMAIN,
            qmp: "/run/guest.qmp".to_owned(),
            instance: INSTANCE,
            observed: bench.qemu.observed(),
            definition: None,
        };
        bench.ask(add).unwrap();
        bench
    }

    fn time(&self) -> Now {
        Now {
            wall: self.now * 1_000_000 + 1,
            monotonic: self.now * 1_000_000,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    pub(super) fn restart(&mut self) {
        self.epoch += 1;
        self.is_ready = false;
        self.waits.clear();
        self.finds.clear();
        let next = Lsn(self.journal.len() as u64 + 1);
        let config = Config {
            journal: self.identity,
            epoch: Epoch(self.epoch),
            opening: OpeningId(Id128([u8::try_from(self.epoch).unwrap(); 16])),
            openings: self.openings.clone(),
            next,
            boot: BOOT,
            peer: "peer".to_owned(),
            store: None,
        };
        let mut engine = Engine::open(config, &self.journal);
        let checkpoint = engine.checkpoint();
        self.write(checkpoint);
        let step = engine.start(self.time());
        if self.asks_others {
            engine.ask_others();
        }
        self.engine = Some(engine);
        self.take(step);
    }

    fn write(&mut self, drafts: Vec<journal_format::record::Draft>) {
        for draft in drafts {
            let lsn = Lsn(self.journal.len() as u64 + 1);
            let previous = draft.domain.and_then(|id| self.previous.insert(id, lsn));
            if let RecordBody::CheckpointBegun(begun) = &draft.body {
                self.openings.clone_from(&begun.openings);
            }
            let entry = History::Record(Record {
                lsn,
                domain: draft.domain,
                previous,
                body: draft.body,
            });
            if let Err(Breach { law, how }) = self.auditor.add(&entry) {
                panic!(
                    "the law '{law}' is broken: {how}: {entry:?}\n{}",
                    self.story()
                );
            }
            let has_ended = matches!(&entry, History::Record(record)
                if matches!(record.body, RecordBody::JobEnded(_)));
            self.journal.push(entry);
            if has_ended {
                self.assert_at_rest();
            }
        }
    }

    /// No job ends while something of it is on its way.
    fn assert_at_rest(&self) {
        let qemu = &self.qemu;
        let is_streaming = match qemu.status {
            MigrationStatus::Active => !(qemu.is_paired && qemu.run == RunState::Inmigrate),
            MigrationStatus::PreSwitchover | MigrationStatus::Device => true,
            _ => false,
        };
        let is_dumping = qemu.dump == DumpStatus::Active;
        let has_jobs = !qemu.jobs.is_empty() && !qemu.keeps_mirrors;
        let is_busy = is_streaming || is_dumping || has_jobs;
        assert!(
            !qemu.alive || !is_busy,
            "a job ends too early\n{}",
            self.story()
        );
    }

    fn take(&mut self, step: Step) {
        let is_of_job = step.append.iter().any(|draft| {
            !matches!(
                draft.body,
                RecordBody::DomainAdded(_) | RecordBody::WantedChanged(_)
            )
        });
        self.write(step.append);
        self.batches += u32::from(is_of_job);
        if let Some(crash) = self.crash.filter(|crash| self.batches >= crash.after) {
            self.engine = None;
            self.crash = None;
            self.waits.clear();
            if crash.is_sent {
                for effect in step.effects {
                    self.qemu.obey(&effect.command);
                }
            }
            return;
        }
        self.waits
            .extend(step.effects.into_iter().map(Waits::Effect));
        for message in step.messages {
            match message {
                Message::Look { .. } | Message::Watch { .. } => self.waits.push_back(Waits::Look),
                Message::LookAtJob { .. } => self.waits.push_back(Waits::JobLook),
                Message::Reply { token, result } => drop(self.replies.insert(token, result)),
                Message::Ready => self.is_ready = true,
                Message::Unwatch { .. } | Message::Notify(_) => {}
                Message::Admitted { token, .. } => drop(self.admitted.insert(token)),
                Message::Find {
                    number,
                    envelope,
                    find,
                } => {
                    self.finds.push_back((number, find));
                    self.envelopes.insert(number, envelope);
                }
                Message::Found {
                    token,
                    envelope,
                    found,
                } => drop(self.told.insert(token, (envelope, found))),
                Message::LookAtSettings { .. }
                | Message::PeerReply { .. }
                | Message::Ask { .. }
                | Message::Store { .. } => panic!("no other side: {message:?}"),
            }
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        let now = self.time();
        if let Some(engine) = &mut self.engine {
            let step = engine.step(now, input);
            self.take(step);
        }
    }

    /// All that waits is done.
    pub(super) fn pump(&mut self) {
        while !self.waits.is_empty() {
            self.pump_one();
        }
    }

    /// A client's command, whose answer nobody waits for.
    pub(super) fn plain(
        &mut self,
        execute: &str,
        arguments: &Value,
        is_out_of_band: bool,
    ) -> Token {
        self.token += 1;
        let token = Token(self.token);
        let command = MonitorCommand {
            execute: execute.to_owned(),
            arguments: arguments.to_string(),
            redacted: false,
            human: None,
            is_out_of_band,
            names_claim: false,
        };
        let (domain, uid) = (DOMAIN, 0);
        self.input(Input::Monitor {
            token,
            domain,
            uid,
            command,
        });
        token
    }

    /// A request, whose answer nobody waits for.
    pub(super) fn control(&mut self, request: ControlRequest) -> Token {
        self.token += 1;
        let token = Token(self.token);
        self.input(Input::Control { token, request });
        token
    }

    /// Does the oldest thing that waits.
    pub(super) fn pump_one(&mut self) {
        let Some(waits) = self.waits.pop_front() else {
            return;
        };
        let domain = DOMAIN;
        let input = match waits {
            Waits::Look => Input::Looked {
                domain,
                observed: self.qemu.observed(),
            },
            Waits::JobLook => Input::JobLooked {
                domain,
                seen: self.qemu.seen(),
            },
            Waits::Effect(effect) => Input::EffectFinished {
                effect: effect.intent,
                result: self.qemu.obey(&effect.command),
            },
        };
        self.input(input);
    }

    /// What came of it so far, for people.
    pub(super) fn answer(&self, token: Token) -> String {
        match (self.replies.get(&token), self.admitted.contains(&token)) {
            (Some(Ok(answer)), _) => format!("ok {answer:?}"),
            (Some(Err(refusal)), _) => format!("refused: {refusal}"),
            (None, true) => "admitted".to_owned(),
            (None, false) => "waits".to_owned(),
        }
    }

    /// QEMU says something.
    pub(super) fn tell(&mut self, event: QemuEvent) {
        let domain = DOMAIN;
        self.input(Input::Event { domain, event });
        self.pump();
    }

    /// Time passes; QEMU gets on with what it does.
    pub(super) fn run_for(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end && self.is_up() {
            self.now += TICK_INTERVAL_MS;
            if self.now % 1_000 < TICK_INTERVAL_MS {
                self.qemu.get_on();
            }
            self.input(Input::Tick);
            self.pump();
        }
    }

    /// Asks, and waits for the answer; an error of its own if the sidecar dies meanwhile.
    pub(super) fn ask(&mut self, request: ControlRequest) -> Result<Answer, String> {
        self.token += 1;
        let token = Token(self.token);
        self.input(Input::Control { token, request });
        self.pump();
        for _ in 0..100 {
            if let Some(result) = self.replies.remove(&token) {
                return result.map_err(|refusal| refusal.to_string());
            }
            if !self.is_up() {
                return Err("the sidecar died".to_owned());
            }
            self.run_for(100);
        }
        panic!("no answer\n{}", self.story());
    }

    /// A client's plain command on the domain's monitor: QEMU got it, or why not.
    pub(super) fn send(&mut self, execute: &str, arguments: &Value) -> Result<(), String> {
        self.token += 1;
        let token = Token(self.token);
        let command = MonitorCommand::plain(execute, arguments.to_string());
        let (domain, uid) = (DOMAIN, 0);
        self.input(Input::Monitor {
            token,
            domain,
            uid,
            command,
        });
        self.pump();
        for _ in 0..100 {
            if let Some(result) = self.replies.remove(&token) {
                return result.map(drop).map_err(|refusal| refusal.to_string());
            }
            if self.admitted.remove(&token) {
                return Ok(());
            }
            if !self.is_up() {
                return Err("the sidecar died".to_owned());
            }
            self.run_for(100);
        }
        panic!("no answer to {execute}\n{}", self.story());
    }

    pub(super) fn jobs(&mut self) -> Vec<JobView> {
        let name = Some(NAME.to_owned());
        match self.ask(ControlRequest::QueryJobs { job: None, name }) {
            Ok(Answer::Jobs(jobs)) => jobs,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn bodies(&self) -> impl Iterator<Item = &RecordBody> {
        self.journal.iter().filter_map(|entry| match entry {
            History::Record(record) => Some(&record.body),
            History::Gap(_) => None,
        })
    }

    /// Was an effect of that name intended?
    pub(super) fn intended(&self, name: &str) -> bool {
        self.bodies().any(
            |body| matches!(body, RecordBody::EffectIntended(one) if one.command.name() == name),
        )
    }

    /// The phases that were entered, in order.
    pub(super) fn phases(&self) -> Vec<String> {
        let phase = |body: &RecordBody| match body {
            RecordBody::JobPhaseEntered(entered) => Some(entered.phase.to_string()),
            _ => None,
        };
        self.bodies().filter_map(phase).collect()
    }

    /// How many effects were intended.
    pub(super) fn effects(&self) -> usize {
        let is_one = |body: &&RecordBody| matches!(body, RecordBody::EffectIntended(_));
        self.bodies().filter(is_one).count()
    }

    /// Did QEMU say success to an effect of that name?
    pub(super) fn is_done(&self, name: &str) -> bool {
        let intents = self.journal.iter().filter_map(|entry| match entry {
            History::Record(record) => match &record.body {
                RecordBody::EffectIntended(one) if one.command.name() == name => Some(record.lsn),
                _ => None,
            },
            History::Gap(_) => None,
        });
        let intents: Vec<Lsn> = intents.collect();
        self.bodies().any(|body| {
            matches!(body, RecordBody::EffectFinished(one)
                if one.result == EffectResult::Done && intents.contains(&one.effect))
        })
    }

    /// The rules that were decided by, in order.
    pub(super) fn rules(&self) -> Vec<&str> {
        self.bodies()
            .filter_map(|body| match body {
                RecordBody::JobDecided(decided) => Some(decided.rule.as_str()),
                _ => None,
            })
            .collect()
    }

    pub(super) fn story(&self) -> String {
        use std::fmt::Write as _;
        let mut story = format!("{:?}\n", self.qemu);
        for body in self.bodies() {
            let _ = writeln!(story, "  {body:?}");
        }
        story
    }
}

/// Arguments as a manager gives them.
pub(super) fn arguments(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{}", json!({"not an object": other})),
    }
}
