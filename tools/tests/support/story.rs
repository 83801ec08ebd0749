//! A journal that is always the same: the source of a v3 migration whose sidecar is killed after
//! perform3_done and started again, as the engine itself records it, with fixed identities and times.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;

use journal_format::SEGMENT_SIZE_MIN;
use journal_format::number::{
    BootId, DomainId, Epoch, HostId, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId,
    Position, Salt, SegmentNumber,
};
use journal_format::record::{
    Authority, ClaimSeen, Draft, Effect, EffectCommand, EffectResult, Instance, JobKind, JobPhase,
    MigrationStatus, Observed, Opening, PeerAnswer, Process, Protocol, Record, RecordBody,
    RunState, Settings,
};
use journal_format::segment::{SegmentEnd, SegmentHeader};
use phase_journal::engine::{
    Config, ControlRequest, Engine, Envelope, History, Input, JobSeen, ManagerEffect, Message,
    MigrateOptions, Now, PeerResponse, QemuEvent, Step, Token,
};

use super::format::{Writer, id};

const BOOT: BootId = BootId(Id128([0xB0; 16]));
const DOMAIN: DomainId = DomainId(Id128([0x11; 16]));
const MIGRATION: MigrationId = MigrationId(Id128([0x22; 16]));
/// 2026-01-02 03:04:05 UTC, in nanoseconds.
const BEGIN: u64 = 1_767_323_045_000_000_000;
/// What passes between two inputs, in nanoseconds.
const PASSES: u64 = 1_250_000;

fn instance() -> Instance {
    Instance {
        boot: BOOT,
        pid: 4321,
        start_time: 98_765,
    }
}

/// One journal in the making, and the QEMU it is about.
struct Story {
    segments: Vec<(SegmentNumber, Vec<u8>)>,
    writer: Writer,
    engine: Engine,
    history: Vec<History>,
    openings: Vec<Opening>,
    previous: BTreeMap<DomainId, Lsn>,
    time: u64,
    observed: Observed,
    /// What the engine waits for.
    waits: VecDeque<Wait>,
    /// Whether the peer's socket answers.
    peer_answers: bool,
}

enum Wait {
    Effect(Effect),
    Look,
    JobLook,
    Ask(MigrationId),
}

fn config(epoch: u32, first: Lsn, openings: &[Opening]) -> Config {
    Config {
        journal: JournalId(id(0xA0)),
        epoch: Epoch(epoch),
        opening: OpeningId(id(u8::try_from(epoch).unwrap())),
        openings: openings.to_vec(),
        next: first,
        boot: BOOT,
        peer: "/run/a/peer.sock".to_owned(),
        store: None,
    }
}

fn header(epoch: u32, first: Lsn, before: Option<SegmentEnd>) -> SegmentHeader {
    SegmentHeader {
        journal: JournalId(id(0xA0)),
        host: HostId(id(0x0A)),
        number: SegmentNumber(epoch.into()),
        size: 2 * SEGMENT_SIZE_MIN,
        salt: Salt([u8::try_from(epoch).unwrap() | 0x50; 16]),
        first,
        epoch: Epoch(epoch),
        opening: OpeningId(id(u8::try_from(epoch).unwrap())),
        before,
    }
}

impl Story {
    fn begin() -> Story {
        let engine = Engine::open(config(1, Lsn(1), &[]), &[]);
        let mut story = Story {
            segments: Vec::new(),
            writer: Writer::new(header(1, Lsn(1), None)),
            engine,
            history: Vec::new(),
            openings: Vec::new(),
            previous: BTreeMap::new(),
            time: BEGIN,
            observed: Observed {
                process: Process::Alive,
                instance: Some(instance()),
                run_state: Some(RunState::Running),
                migration: Some(MigrationStatus::None),
                claim: ClaimSeen::Absent,
            },
            waits: VecDeque::new(),
            peer_answers: true,
        };
        story.start();
        story
    }

    fn start(&mut self) {
        let checkpoint = self.engine.checkpoint();
        self.write(&checkpoint);
        let step = self.engine.start(self.now());
        self.carry_out(step);
    }

    /// SIGKILL, and a new start: what it waited for is lost, the next segment begins.
    fn crash_and_restart(&mut self) {
        self.waits.clear();
        self.time += 40 * PASSES;
        let epoch = u32::try_from(self.segments.len()).unwrap() + 2;
        let before = SegmentEnd {
            number: self.writer.header.number,
            end: self.writer.bytes.len() as u64,
            chain: self.writer.chain,
            last: Lsn(self.writer.next.0 - 1),
        };
        let next = self.writer.next;
        let following = Writer::new(header(epoch, next, Some(before)));
        let ended = std::mem::replace(&mut self.writer, following);
        self.segments.push((ended.header.number, ended.finish()));
        self.engine = Engine::open(config(epoch, next, &self.openings), &self.history);
        self.start();
    }

    fn now(&self) -> Now {
        Now {
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
        self.write(&step.append);
        self.waits
            .extend(step.effects.into_iter().map(Wait::Effect));
        for message in step.messages {
            match message {
                Message::Look { .. } | Message::Watch { .. } => self.waits.push_back(Wait::Look),
                Message::LookAtJob { .. } => self.waits.push_back(Wait::JobLook),
                Message::Ask { request, .. } => {
                    self.waits.push_back(Wait::Ask(request.migration()));
                }
                // At once, and without a record.
                Message::LookAtSettings { domain } => {
                    let seen = Some(Settings::default());
                    let input = Input::SettingsLooked { domain, seen };
                    assert!(self.engine.step(self.now(), input).append.is_empty());
                }
                Message::Reply { .. }
                | Message::Admitted { .. }
                | Message::PeerReply { .. }
                | Message::Find { .. }
                | Message::Found { .. }
                // This story's authority is the destination.
                | Message::Store { .. }
                | Message::Unwatch { .. }
                | Message::Notify(_)
                | Message::Ready => {}
            }
        }
    }

    fn write(&mut self, drafts: &[Draft]) {
        if drafts.is_empty() {
            return;
        }
        let head = self.writer.head(BOOT, self.time, self.time - BEGIN);
        let mut records = Vec::new();
        for (lsn, draft) in (self.writer.next.0..).zip(drafts) {
            let previous = draft
                .domain
                .and_then(|domain| self.previous.insert(domain, Lsn(lsn)));
            if let RecordBody::CheckpointBegun(begun) = &draft.body {
                self.openings.clone_from(&begun.openings);
            }
            self.history.push(History::Record(Record {
                lsn: Lsn(lsn),
                domain: draft.domain,
                previous,
                body: draft.body.clone(),
            }));
            records.push((draft.clone(), previous));
        }
        self.writer.batch(head, &records);
    }

    /// QEMU and the peer answer until it is over, or nothing is waited for.
    fn run(&mut self, answer: &PeerResponse, is_over: impl Fn(&Story) -> bool) {
        while !is_over(self)
            && let Some(wait) = self.waits.pop_front()
        {
            match wait {
                Wait::Effect(effect) => self.perform(&effect),
                Wait::Look => self.tell(Input::Looked {
                    domain: DOMAIN,
                    observed: self.observed.clone(),
                }),
                Wait::JobLook => self.tell(Input::JobLooked {
                    domain: DOMAIN,
                    seen: JobSeen {
                        qemu_jobs: Some(Vec::new()),
                        ..JobSeen::default()
                    },
                }),
                Wait::Ask(migration) if self.peer_answers => {
                    let sender = Position {
                        journal: JournalId(id(0xC0)),
                        epoch: Epoch(1),
                        opening: OpeningId(id(0xC1)),
                        lsn: Lsn(22),
                    };
                    let envelope = Envelope { sender, saw: None };
                    let result = Ok((envelope, answer.clone()));
                    self.tell(Input::PeerAnswered { migration, result });
                }
                Wait::Ask(_) => {}
            }
        }
    }

    fn perform(&mut self, effect: &Effect) {
        let mut status = None;
        match &effect.command {
            EffectCommand::Claim(claim) => self.observed.claim = ClaimSeen::Present(*claim),
            EffectCommand::Migrate { .. } => {
                self.observed.run_state = Some(RunState::FinishMigrate);
                status = Some(MigrationStatus::PreSwitchover);
            }
            EffectCommand::MigrateContinue => {
                self.observed.run_state = Some(RunState::Postmigrate);
                status = Some(MigrationStatus::Completed);
            }
            EffectCommand::Monitor { execute, .. } if execute == "migrate" => {
                self.observed.run_state = Some(RunState::Postmigrate);
                status = Some(MigrationStatus::Completed);
            }
            EffectCommand::Kill => {
                self.observed = Observed {
                    process: Process::Dead,
                    instance: Some(instance()),
                    run_state: None,
                    migration: None,
                    claim: ClaimSeen::Unread,
                };
            }
            other => assert!(!matches!(other, EffectCommand::Cont), "the source ran on"),
        }
        self.tell(Input::EffectFinished {
            effect: effect.intent,
            result: EffectResult::Done,
        });
        if let Some(status) = status {
            self.observed.migration = Some(status.clone());
            let event = QemuEvent::Migration(status);
            self.tell(Input::Event {
                domain: DOMAIN,
                event,
            });
        }
    }

    fn control(&mut self, request: ControlRequest) {
        self.tell(Input::Control {
            token: Token(self.time),
            request,
        });
    }

    fn finish(mut self, directory: &Path) {
        self.segments
            .push((self.writer.header.number, self.writer.finish()));
        for (number, bytes) in self.segments {
            fs::write(directory.join(number.file_name()), bytes).unwrap();
        }
    }
}

fn is_granted(story: &Story) -> bool {
    let granted = |entry: &History| {
        matches!(entry, History::Record(record)
            if matches!(record.body, RecordBody::MigrationGranted(_)))
    };
    story.history.iter().any(granted)
}

/// Writes the journal's segments into a directory. In `whole` the peer is heard after the restart
/// and the job ends; else it does not answer, and the domain is held.
pub(crate) fn write(directory: &Path, whole: bool) {
    let mut story = Story::begin();
    story.control(ControlRequest::DomainAdd {
        name: "web-1".to_owned(),
        domain: DOMAIN,
        qmp: "/run/qemu/web-1.qmp".to_owned(),
        instance: instance(),
        observed: story.observed.clone(),
        definition: None,
    });
    story.control(ControlRequest::Migrate {
        name: "web-1".to_owned(),
        migration: MIGRATION,
        peer: "/run/b/peer.sock".to_owned(),
        peer_domain: "web-1".to_owned(),
        uri: "unix:/run/qemu/web-1.migrate".to_owned(),
        protocol: Protocol::V3,
        authority: Authority::Destination,
        in_doubt_limit: None,
        max_bandwidth: Some(100_000_000),
        downtime_limit: Some(300),
        postcopy: false,
        options: MigrateOptions::default(),
        disks: None,
    });
    let nonce = Nonce(id(0x99));
    // With the record of the licence durable it goes out; what comes after is lost.
    story.run(&PeerResponse::Prepared { nonce, nbd: None }, is_granted);
    story.peer_answers = whole;
    story.crash_and_restart();
    let started = PeerResponse::Answer {
        answer: PeerAnswer::Started,
        cookie: None,
    };
    story.run(&started, |_| false);
    story.finish(directory);
}

/// The same of a source whose manager drives the migration itself: its sidecar is killed after perform3_done, and holds
/// until its manager says who has the guest.
#[allow(dead_code, reason = "not every test program shows one")]
pub(crate) fn write_driven(directory: &Path) {
    let mut story = Story::begin();
    let nothing = PeerResponse::Refused { why: String::new() };
    story.control(ControlRequest::DomainAdd {
        name: "web-1".to_owned(),
        domain: DOMAIN,
        qmp: "/run/qemu/web-1.qmp".to_owned(),
        instance: instance(),
        observed: story.observed.clone(),
        definition: None,
    });
    story.control(ControlRequest::JobBegin {
        name: "web-1".to_owned(),
        kind: JobKind::MigrationOut,
        cookie: Some("<manager/>".to_owned()),
    });
    story.run(&nothing, |_| false);
    let begun = |entry: &History| match entry {
        History::Record(record) if matches!(record.body, RecordBody::JobBegun(_)) => {
            Some(record.lsn)
        }
        History::Record(_) | History::Gap(_) => None,
    };
    let job = story.history.iter().find_map(begun).unwrap();
    let uri = serde_json::json!({"uri": "unix:/run/qemu/web-1.migrate"});
    let migrate = ManagerEffect {
        execute: "migrate".to_owned(),
        arguments: uri.as_object().unwrap().clone(),
    };
    for (phase, effects) in [
        (JobPhase::Perform3, vec![migrate]),
        (JobPhase::Perform3Done, Vec::new()),
    ] {
        story.control(ControlRequest::PhaseEnter {
            job,
            phase,
            effects,
            cookie: None,
            peer_cookie: None,
        });
        story.run(&nothing, |_| false);
    }
    story.crash_and_restart();
    story.run(&nothing, |_| false);
    story.finish(directory);
}
