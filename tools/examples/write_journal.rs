//! Writes a large journal of a source's migrations, as the real engine records them: what the reach of the
//! offline commands is measured on (`tools/bench inspect`).
//!
//!     write_journal DIRECTORY RECORDS GROUP DOMAINS
//!
//! GROUP is the number of records that go into one batch at least: 1 is a quiet host, whose every batch
//! fills a block of 4 KiB; 256 is a host whose domains all move at once. One domain more, the last by name, moves
//! just once, halfway.
//!
//! Invariant: the same arguments give the same records; QEMU and the other side do what they are told.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for the bench"
)]

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use journal_format::number::{BootId, DomainId, Epoch, HostId, Id128, JournalId, Lsn, MigrationId};
use journal_format::number::{Nonce, OpeningId, Position};
use journal_format::record::{
    Authority, ClaimSeen, Draft, Effect, EffectCommand, EffectResult, Instance, MigrationStatus,
    Observed, PeerAnswer, Process, Protocol, RunState, Settings,
};
use phase_journal::engine::{
    Config, ControlRequest, Engine, Envelope, Input, Message, MigrateOptions, Now, PeerRequest,
    PeerResponse, QemuEvent, Step, Token,
};
use phase_journal::journal::{
    Checkpoint, Durable, Log, OpenOptions, OsDisk, Retention, Timestamps,
};

const BOOT: BootId = BootId(Id128([0xB0; 16]));
/// 2026-01-02 03:04:05 UTC, in nanoseconds.
const BEGIN: u64 = 1_767_323_045_000_000_000;
/// What passes between two inputs, in nanoseconds.
const PASSES: u64 = 250_000;

fn id(first: u8, number: u64) -> Id128 {
    let mut bytes = [first; 16];
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    Id128(bytes)
}

struct World {
    engine: Engine,
    log: Log<OsDisk>,
    drafts: Vec<Draft>,
    group: usize,
    time: u64,
    migrations: u64,
    qemus: BTreeMap<DomainId, Observed>,
    waits: VecDeque<Wait>,
}

enum Wait {
    Effect(Effect),
    Look(DomainId),
    Ask(PeerRequest),
}

impl World {
    fn now(&self) -> Now {
        Now {
            wall: self.time,
            monotonic: self.time - BEGIN,
        }
    }

    fn stamps(&self) -> Timestamps {
        Timestamps {
            wall: self.time,
            monotonic: self.time - BEGIN,
        }
    }

    fn tell(&mut self, input: Input) {
        self.time += PASSES;
        let step = self.engine.step(self.now(), input);
        self.carry_out(step);
    }

    fn carry_out(&mut self, step: Step) {
        self.drafts.extend(step.append);
        if self.drafts.len() >= self.group {
            self.write();
        }
        self.waits
            .extend(step.effects.into_iter().map(Wait::Effect));
        for message in step.messages {
            match message {
                Message::Look { domain } | Message::Watch { domain, .. } => {
                    self.waits.push_back(Wait::Look(domain));
                }
                Message::Ask { request, .. } => self.waits.push_back(Wait::Ask(request)),
                Message::Reply {
                    result: Err(why), ..
                } => panic!("refused: {why:?}"),
                // At once, and without a record.
                Message::LookAtSettings { domain } => {
                    let seen = Some(Settings::default());
                    let input = Input::SettingsLooked { domain, seen };
                    assert!(self.engine.step(self.now(), input).append.is_empty());
                }
                Message::Reply { .. }
                | Message::Store { .. }
                | Message::PeerReply { .. }
                | Message::Find { .. }
                | Message::Found { .. }
                | Message::LookAtJob { .. }
                | Message::Admitted { .. }
                | Message::Unwatch { .. }
                | Message::Notify(_)
                | Message::Ready => {}
            }
        }
    }

    fn write(&mut self) {
        let drafts = std::mem::take(&mut self.drafts);
        self.log
            .append(&drafts, self.stamps(), ())
            .map(Durable::into_inner)
            .unwrap();
        if self.log.must_roll() {
            let checkpoint = Checkpoint {
                drafts: self.engine.checkpoint(),
                needed_from: Some(Lsn::FIRST),
            };
            self.log.roll(&checkpoint, self.stamps()).unwrap();
        }
    }

    fn answer(&mut self, wait: Wait) {
        match wait {
            Wait::Effect(effect) => self.perform(&effect),
            Wait::Look(domain) => {
                let observed = self.qemus[&domain].clone();
                self.tell(Input::Looked { domain, observed });
            }
            Wait::Ask(request) => {
                let migration = request.migration();
                let answer = |answer| PeerResponse::Answer {
                    answer,
                    cookie: None,
                };
                let response = match request {
                    PeerRequest::Prepare { .. } => PeerResponse::Prepared {
                        nonce: Nonce(id(0x99, self.migrations)),
                        nbd: None,
                    },
                    PeerRequest::Finish { .. } => answer(PeerAnswer::Started),
                    _ => answer(PeerAnswer::NoSuchMigration),
                };
                let sender = Position {
                    journal: JournalId(id(0xC0, 0)),
                    epoch: Epoch(1),
                    opening: OpeningId(id(0xC1, 0)),
                    lsn: Lsn(self.time / PASSES),
                };
                let result = Ok((Envelope { sender, saw: None }, response));
                self.tell(Input::PeerAnswered { migration, result });
            }
        }
    }

    fn perform(&mut self, effect: &Effect) {
        let qemu = self.qemus.get_mut(&effect.domain).unwrap();
        let mut status = None;
        match &effect.command {
            EffectCommand::Claim(claim) => qemu.claim = ClaimSeen::Present(*claim),
            EffectCommand::Migrate { .. } => {
                qemu.run_state = Some(RunState::FinishMigrate);
                status = Some(MigrationStatus::PreSwitchover);
            }
            EffectCommand::MigrateContinue => {
                qemu.run_state = Some(RunState::Postmigrate);
                status = Some(MigrationStatus::Completed);
            }
            EffectCommand::Kill => {
                *qemu = Observed {
                    process: Process::Dead,
                    instance: qemu.instance,
                    run_state: None,
                    migration: None,
                    claim: ClaimSeen::Unread,
                };
            }
            _ => {}
        }
        if status.is_some() {
            qemu.migration.clone_from(&status);
        }
        self.tell(Input::EffectFinished {
            effect: effect.intent,
            result: EffectResult::Done,
        });
        if let Some(status) = status {
            self.tell(Input::Event {
                domain: effect.domain,
                event: QemuEvent::Migration(status),
            });
        }
    }

    fn control(&mut self, request: ControlRequest) {
        self.tell(Input::Control {
            token: Token(self.time),
            request,
        });
    }

    /// A guest that came here some time ago, and leaves.
    fn begin(&mut self, number: u64) {
        self.migrations += 1;
        let (name, domain) = (format!("vm-{number:04}"), DomainId(id(0x0D, number)));
        let instance = Instance {
            boot: BOOT,
            pid: u32::try_from(self.migrations % 4_000_000).unwrap() + 2,
            start_time: self.migrations,
        };
        let observed = Observed {
            process: Process::Alive,
            instance: Some(instance),
            run_state: Some(RunState::Running),
            migration: Some(MigrationStatus::None),
            claim: ClaimSeen::Absent,
        };
        self.qemus.insert(domain, observed.clone());
        self.control(ControlRequest::DomainAdd {
            name: name.clone(),
            domain,
            qmp: format!("/run/qemu/{name}.qmp"),
            instance,
            observed,
            definition: None,
        });
        self.control(ControlRequest::Migrate {
            name: name.clone(),
            migration: MigrationId(id(0x22, self.migrations)),
            peer: "/run/other/peer.sock".to_owned(),
            uri: format!("unix:/run/qemu/{name}.migrate"),
            peer_domain: name,
            protocol: Protocol::V3,
            authority: Authority::Destination,
            in_doubt_limit: None,
            max_bandwidth: Some(100_000_000),
            downtime_limit: Some(300),
            postcopy: false,
            options: MigrateOptions::default(),
            disks: None,
        });
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, records, group, domains] = arguments.as_slice() else {
        panic!("write_journal DIRECTORY RECORDS GROUP DOMAINS");
    };
    let (records, domains): (u64, u64) = (records.parse().unwrap(), domains.parse().unwrap());
    let mut options = OpenOptions::new(HostId(Id128([0x40; 16])), BOOT);
    options.retention = Retention {
        bytes_max: u64::MAX,
        age_max: None,
        needed_bytes_max: u64::MAX,
    };
    let opened = Log::open(OsDisk::new(Path::new(directory)), None, &options, drop).unwrap();
    let opening = opened.opening();
    let mut engine = Engine::open(
        Config {
            journal: opened.journal(),
            epoch: opening.epoch,
            opening: opening.opening,
            openings: opened.openings().to_vec(),
            next: opened.first_lsn(),
            boot: BOOT,
            peer: "/run/own/peer.sock".to_owned(),
            store: None,
        },
        &[],
    );
    let checkpoint = Checkpoint {
        drafts: engine.checkpoint(),
        needed_from: None,
    };
    let stamps = Timestamps {
        wall: BEGIN,
        monotonic: 0,
    };
    let log = opened.begin(&checkpoint, stamps).unwrap();
    let mut world = World {
        engine,
        log,
        drafts: Vec::new(),
        group: group.parse().unwrap(),
        time: BEGIN,
        migrations: 0,
        qemus: BTreeMap::new(),
        waits: VecDeque::new(),
    };
    let step = world.engine.start(world.now());
    world.carry_out(step);
    let mut is_halfway = false;
    while world.engine.next_lsn().0 <= records {
        // One more than the others moves once: few records are of it.
        if !is_halfway && world.engine.next_lsn().0 > records / 2 {
            is_halfway = true;
            world.begin(domains);
        }
        // All domains at once, so that their records lie among each other's.
        (0..domains).for_each(|number| world.begin(number));
        while let Some(wait) = world.waits.pop_front() {
            world.answer(wait);
        }
    }
    world.write();
    println!("{} records", world.log.next_lsn().0 - 1);
}
