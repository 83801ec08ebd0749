//! Inputs to the engine drawn from bytes: mostly plausible, any of them at any moment.
//! Not here: what a running engine waits for (`engine`).

use std::collections::BTreeMap;

use journal_format::number::{
    BootId, DomainId, Epoch, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId, Position,
};
use journal_format::record::{
    Authority, Capability, Claim, ClaimSeen, Cookie, Decision, DiskSync, DumpStatus, Effect,
    EffectCommand, EffectResult, Instance, JobKind, JobPhase, JobResult, KeyValue, MigrationStatus,
    Observed, Outcome, Parameter, ParameterValue, PeerAnswer, PostcopyAfter, Process, Protocol,
    QemuJobSeen, QemuJobStatus, Role, RunState, Settings, WantedRunState, definition_checksum,
};
use phase_journal::engine::{
    ControlRequest, DiskNames, DisksWanted, Envelope, JobSeen, JobTarget, ManagerEffect,
    MigrateOptions, NodeSeen, PeerFailure, PeerRequest, PeerResponse, QemuEvent, StoreFailure,
    StoreResult, commands,
};
use serde_json::{Map, Value, json};

use super::bytes::Bytes;

/// This sidecar's journal.
pub const HERE: JournalId = JournalId(Id128([0xA0; 16]));
/// The other sidecar's, and one that has no business here.
const THERE: [JournalId; 2] = [JournalId(Id128([0xB0; 16])), JournalId(Id128([0xC0; 16]))];
/// The boots that instances are of; the first is this one.
pub const BOOTS: [Id128; 2] = [Id128([0xD0; 16]), Id128([0xD1; 16])];
/// Mostly the one that needs nothing else; the manager's a migration that begins here may have.
const AUTHORITIES: &[Authority] = &[
    Authority::Destination,
    Authority::Destination,
    Authority::Source,
    Authority::Store,
];
/// What every prepare offers.
pub const NONCE: Nonce = Nonce(Id128([0x99; 16]));

fn of<T: Copy>(choices: &mut Bytes<'_>, words: &[T]) -> T {
    choices.pick(words)
}

/// One of two domains.
pub fn domain(choices: &mut Bytes<'_>) -> DomainId {
    DomainId(Id128([1 + choices.byte() % 2; 16]))
}

fn name(choices: &mut Bytes<'_>) -> String {
    of(choices, &["g", "h"]).to_owned()
}

fn migration(choices: &mut Bytes<'_>) -> MigrationId {
    MigrationId(Id128([0x40 + choices.byte() % 2; 16]))
}

fn wanted(choices: &mut Bytes<'_>) -> WantedRunState {
    of(choices, WantedRunState::ALL)
}

fn text(choices: &mut Bytes<'_>) -> String {
    let long = of(choices, &[1, 1, 1, 5_000, 200_000]);
    of(choices, &["x", "", "\u{20ac}", "\0\n"]).repeat(long)
}

/// How a guest may travel, and how it must not.
const URIS: &[&str] = &["unix:/m", "tcp:[::1]:49152", "exec:x"];

/// Mostly one of these, sometimes any text.
fn visible(choices: &mut Bytes<'_>, of_these: &[&str]) -> String {
    if choices.below(16) == 15 {
        return text(choices);
    }
    of(choices, of_these).to_owned()
}

/// What is around the engine, so that most inputs fit to those before.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// How far the other sidecar's journal is.
    peer: u64,
    claims: BTreeMap<DomainId, Claim>,
}

/// States that a QEMU is in, in the course of a migration.
const PLAUSIBLE: &[(RunState, MigrationStatus)] = &[
    (RunState::Running, MigrationStatus::None),
    (RunState::Inmigrate, MigrationStatus::None),
    (RunState::Inmigrate, MigrationStatus::Active),
    (RunState::Running, MigrationStatus::Active),
    (RunState::FinishMigrate, MigrationStatus::PreSwitchover),
    (RunState::Postmigrate, MigrationStatus::Completed),
    (RunState::Paused, MigrationStatus::Completed),
    (RunState::Running, MigrationStatus::Completed),
    (RunState::Running, MigrationStatus::Failed),
    (RunState::Paused, MigrationStatus::None),
];

impl Surroundings {
    /// An effect was carried out.
    pub fn done(&mut self, effect: &Effect) {
        match &effect.command {
            EffectCommand::Claim(claim) => {
                self.claims.insert(effect.domain, *claim);
            }
            EffectCommand::Unclaim => {
                self.claims.remove(&effect.domain);
            }
            _ => {}
        }
    }

    /// QEMU: mostly in a state that there is, also an impossible one.
    pub fn observed(&self, choices: &mut Bytes<'_>, domain: DomainId) -> Observed {
        if choices.below(8) == 7 {
            return any_observed(choices);
        }
        let claim = self.claims.get(&domain);
        let claim = claim.map_or(ClaimSeen::Absent, |claim| ClaimSeen::Present(*claim));
        let choice = choices.below(PLAUSIBLE.len() + 2);
        let (process, state, claim) = match PLAUSIBLE.get(choice) {
            Some(state) => (Process::Alive, Some(state.clone()), claim),
            None if choice == PLAUSIBLE.len() => (Process::Dead, None, ClaimSeen::Unread),
            None => (Process::Mute, None, ClaimSeen::Unread),
        };
        let (run_state, migration) = state.unzip();
        Observed {
            process,
            instance: Some(its_instance(domain)),
            run_state,
            migration,
            claim,
        }
    }

    /// Where the other sidecar's journal stands: mostly further on in one history.
    fn position(&mut self, choices: &mut Bytes<'_>) -> Position {
        if choices.below(8) == 7 {
            return any_position(choices);
        }
        self.peer += 1;
        Position {
            journal: THERE[0],
            epoch: Epoch(1),
            opening: OpeningId(Id128([1; 16])),
            lsn: Lsn(self.peer),
        }
    }

    /// Where the other sidecar's journal stands now, a record further on.
    pub(super) fn peer_position(&mut self) -> Position {
        self.position(&mut Bytes::new(&[]))
    }

    /// Of the other sidecar, which tells nothing of what it saw.
    pub(super) fn fair_envelope(&mut self) -> Envelope {
        self.envelope(&mut Bytes::new(&[]))
    }

    /// Of a peer.
    pub fn envelope(&mut self, choices: &mut Bytes<'_>) -> Envelope {
        Envelope {
            sender: self.position(choices),
            saw: choices.perhaps(any_position),
        }
    }

    /// A licence: mostly the right nonce, sometimes an invented one.
    fn cookie(&mut self, choices: &mut Bytes<'_>) -> Cookie {
        Cookie {
            migration: migration(choices),
            nonce: of(choices, &[NONCE, NONCE, NONCE, Nonce(Id128([1; 16]))]),
            granted: self.position(choices),
            authority: of(choices, AUTHORITIES),
            wanted: wanted(choices),
        }
    }

    /// What a peer answers to what it was asked, or to something else.
    pub fn answer(
        &mut self,
        choices: &mut Bytes<'_>,
        request: &PeerRequest,
    ) -> Result<(Envelope, PeerResponse), PeerFailure> {
        let fitting = match request {
            PeerRequest::Prepare { .. } | PeerRequest::Resume { .. } => 3,
            PeerRequest::Finish { .. }
            | PeerRequest::Abandon { .. }
            | PeerRequest::Ask { .. }
            | PeerRequest::Acknowledge { .. } => 5,
        };
        let what = choices.below(10);
        let response = match if what > 5 { fitting } else { what } {
            0 => return Err(PeerFailure::NotSent(text(choices))),
            1 => return Err(PeerFailure::Unreachable(text(choices))),
            2 => return Err(PeerFailure::Refused(text(choices))),
            3 => PeerResponse::Prepared {
                nonce: NONCE,
                nbd: None,
            },
            4 => PeerResponse::Refused { why: text(choices) },
            _ => PeerResponse::Answer {
                answer: of(choices, PeerAnswer::ALL),
                cookie: choices.perhaps(|choices| self.cookie(choices)),
            },
        };
        Ok((self.envelope(choices), response))
    }

    /// What another sidecar asks.
    pub fn peer_request(&mut self, choices: &mut Bytes<'_>) -> PeerRequest {
        match choices.below(5) {
            0 => {
                let migration = migration(choices);
                let protocol = of(choices, &[Protocol::V3, Protocol::V3, Protocol::V2]);
                let authority = of(choices, AUTHORITIES);
                let (name, source_name) = (name(choices), visible(choices, &["g", "s"]));
                let (peer, uri) = (visible(choices, &["there"]), visible(choices, URIS));
                let wanted = wanted(choices);
                let definition = choices.perhaps(text);
                PeerRequest::Prepare {
                    migration,
                    protocol,
                    authority,
                    name,
                    // No choice of its own: the corpus was found without it.
                    postcopy: source_name == "s",
                    store: (authority == Authority::Store).then(|| "store".to_owned()),
                    source_name,
                    peer,
                    uri,
                    wanted,
                    definition_checksum: definition.as_deref().map(definition_checksum),
                    settings: match &definition {
                        Some(text) if text.len() % 2 == 1 => told(),
                        Some(_) | None => Settings::default(),
                    },
                    definition,
                    disks: None,
                }
            }
            1 => PeerRequest::Finish {
                cookie: self.cookie(choices),
            },
            2 => PeerRequest::Abandon {
                migration: migration(choices),
            },
            3 => PeerRequest::Ask {
                migration: migration(choices),
            },
            _ if choices.yes() => PeerRequest::Resume {
                migration: migration(choices),
            },
            _ => PeerRequest::Acknowledge {
                migration: migration(choices),
            },
        }
    }

    /// What somebody asks on the control socket.
    pub fn control_request(&mut self, choices: &mut Bytes<'_>) -> ControlRequest {
        match choices.below(10) {
            0 | 1 => {
                let domain = domain(choices);
                ControlRequest::DomainAdd {
                    name: name(choices),
                    domain,
                    qmp: "/qmp".to_owned(),
                    instance: its_instance(domain),
                    observed: self.observed(choices, domain),
                    definition: choices.perhaps(text),
                }
            }
            2 => ControlRequest::DomainRemove {
                name: name(choices),
            },
            3 => ControlRequest::DomainSetWanted {
                name: name(choices),
                wanted: wanted(choices),
            },
            4 | 5 => {
                let (name, migration) = (name(choices), migration(choices));
                let peer = of(choices, &["there", "there", "here"]).to_owned();
                let (peer_domain, uri) = (self::name(choices), visible(choices, URIS));
                let max_bandwidth = choices.perhaps(|choices| choices.byte().into());
                // No choice of its own: the corpus was found without it.
                let protocol = match max_bandwidth {
                    Some(bandwidth) if bandwidth % 2 == 1 => Protocol::V2,
                    Some(_) | None => Protocol::V3,
                };
                ControlRequest::Migrate {
                    name,
                    migration,
                    peer,
                    peer_domain,
                    uri,
                    protocol,
                    authority: match (protocol, max_bandwidth.map(|bandwidth| bandwidth % 16)) {
                        (Protocol::V2, _) => Authority::Source,
                        (Protocol::V3, Some(4)) => Authority::Store,
                        (Protocol::V3, Some(8)) => Authority::Manager,
                        (Protocol::V3, _) => Authority::Destination,
                    },
                    in_doubt_limit: None,
                    // No choice of its own: the corpus was found without it.
                    disks: max_bandwidth
                        .filter(|bandwidth| bandwidth % 16 == 12)
                        .map(copied),
                    max_bandwidth,
                    postcopy: max_bandwidth.is_some_and(|bandwidth| bandwidth % 4 == 2),
                    downtime_limit: choices.perhaps(|choices| choices.byte().into()),
                    options: match max_bandwidth {
                        Some(bandwidth) if bandwidth % 8 >= 6 => MigrateOptions {
                            settings: told(),
                            postcopy_after: (bandwidth % 4 == 2)
                                .then_some(PostcopyAfter::Seconds(bandwidth)),
                            deadline: Some(bandwidth),
                        },
                        Some(_) | None => MigrateOptions::default(),
                    },
                }
            }
            6 => ControlRequest::JobCancel {
                job: Lsn(choices.byte().into()),
            },
            7 => ControlRequest::Resolve {
                name: name(choices),
                decision: of(choices, Decision::ALL),
                force: choices.yes(),
                statement: text(choices),
                uid: 0,
            },
            8 => ControlRequest::QueryDomains {
                name: choices.perhaps(name),
            },
            _ => ControlRequest::QueryJobs {
                job: choices.perhaps(|choices| Lsn(choices.byte().into())),
                name: choices.perhaps(name),
            },
        }
    }
}

/// The process that a domain is registered with.
pub(super) fn its_instance(domain: DomainId) -> Instance {
    Instance {
        boot: BootId(BOOTS[0]),
        pid: 100 + u32::from(domain.0.0[0]),
        start_time: 7,
    }
}

fn any_instance(choices: &mut Bytes<'_>) -> Instance {
    Instance {
        boot: BootId(of(choices, &BOOTS)),
        pid: 100 + u32::from(choices.byte() % 3),
        start_time: 7,
    }
}

fn any_position(choices: &mut Bytes<'_>) -> Position {
    Position {
        journal: of(choices, &[THERE[0], THERE[1], HERE]),
        epoch: Epoch(1 + u32::from(choices.byte() % 2)),
        opening: OpeningId(Id128([choices.byte() % 2; 16])),
        lsn: Lsn(choices.byte().into()),
    }
}

fn any_observed(choices: &mut Bytes<'_>) -> Observed {
    let claim = match choices.below(4) {
        0 => ClaimSeen::Unread,
        1 => ClaimSeen::Absent,
        2 => ClaimSeen::Present(Claim {
            journal: of(choices, &[HERE, THERE[0]]),
            epoch: Epoch(1 + u32::from(choices.byte() % 3)),
            migration: migration(choices),
            role: of(choices, Role::ALL),
        }),
        _ => ClaimSeen::Foreign(text(choices)),
    };
    Observed {
        process: of(choices, Process::ALL),
        instance: choices.perhaps(any_instance),
        run_state: choices.perhaps(|choices| choices.pick(RunState::KNOWN)),
        migration: choices.perhaps(|choices| choices.pick(MigrationStatus::KNOWN)),
        claim,
    }
}

/// What QEMU told.
pub fn event(choices: &mut Bytes<'_>) -> (DomainId, QemuEvent) {
    let event = match choices.below(6) {
        0 => QemuEvent::Stop,
        1 => QemuEvent::Resume,
        2..=4 => QemuEvent::Migration(choices.pick(MigrationStatus::KNOWN)),
        _ => QemuEvent::Lost,
    };
    (domain(choices), event)
}

/// What the store says of a key.
pub fn key(choices: &mut Bytes<'_>) -> StoreResult {
    Ok(match choices.below(6) {
        0 => return Err(StoreFailure(text(choices))),
        1 => None,
        2 => Some(KeyValue::Started),
        3 => Some(KeyValue::Aborted),
        journal => Some(KeyValue::Committed {
            journal: if journal == 4 { HERE } else { THERE[0] },
            nonce: NONCE,
        }),
    })
}

/// A manager's word.
pub fn verdict(choices: &mut Bytes<'_>) -> ControlRequest {
    ControlRequest::Verdict {
        target: JobTarget::Domain(name(choices)),
        outcome: of(choices, Outcome::ALL),
        uid: 0,
    }
}

/// What became of an effect.
pub fn result(choices: &mut Bytes<'_>) -> EffectResult {
    match choices.below(12) {
        0 => EffectResult::Refused {
            class: "GenericError".to_owned(),
            description: text(choices),
        },
        1 => EffectResult::NotSent { why: text(choices) },
        2 => EffectResult::Unknown { why: text(choices) },
        _ => EffectResult::Done,
    }
}

/// What a manager asks of a job that is no migration.
pub fn job(choices: &mut Bytes<'_>, last: Option<Lsn>) -> ControlRequest {
    let job = last.unwrap_or(Lsn(u64::from(choices.byte())));
    match choices.below(4) {
        0 => ControlRequest::JobBegin {
            name: name(choices),
            kind: of(choices, JobKind::ALL),
            cookie: choices.perhaps(text),
        },
        1 | 2 => ControlRequest::PhaseEnter {
            job,
            phase: of(choices, JobPhase::ALL),
            effects: (0..choices.below(3)).map(|_| effect(choices)).collect(),
            cookie: choices.perhaps(text),
            peer_cookie: None,
        },
        _ => ControlRequest::JobEnd {
            job,
            result: of(choices, JobResult::ALL),
        },
    }
}

/// A command with arguments that fit several.
fn effect(choices: &mut Bytes<'_>) -> ManagerEffect {
    let commands: Vec<&str> = JobKind::ALL
        .iter()
        .flat_map(|kind| {
            let phases = JobPhase::ALL.iter();
            phases.flat_map(|phase| commands(*kind, *phase).iter().copied())
        })
        .collect();
    let execute = choices.pick(&commands).to_owned();
    let all = json!({
        "uri": "exec:x", "job-id": "j", "id": "j", "node-name": "n", "overlay": "n",
        "snapshot-node-name": "n", "detach": true, "device": "d",
    });
    let mut arguments = match all {
        Value::Object(arguments) if !matches!(execute.as_str(), "stop" | "cont" | "kill") => {
            arguments
        }
        _ => Map::new(),
    };
    if choices.below(8) == 7 {
        let name = visible(choices, &["job-id", "uri", "actions"]);
        arguments.insert(name, Value::from(text(choices)));
    }
    ManagerEffect { execute, arguments }
}

/// What jobs left, as far as it can be seen.
pub fn job_seen(choices: &mut Bytes<'_>) -> JobSeen {
    let statuses = QemuJobStatus::KNOWN;
    JobSeen {
        dump: choices.perhaps(|choices| choices.pick(DumpStatus::KNOWN)),
        qemu_jobs: choices.perhaps(|choices| {
            let one = QemuJobSeen {
                id: "j".to_owned(),
                status: Some(choices.pick(statuses)),
                error: choices.perhaps(text),
            };
            choices.yes().then_some(one).into_iter().collect()
        }),
        nodes: choices.perhaps(|choices| {
            let one = NodeSeen {
                name: "n".to_owned(),
                is_overlay: choices.yes(),
                size: Some(4096),
            };
            choices.yes().then_some(one).into_iter().collect()
        }),
        exports: Some(Vec::new()),
    }
}

/// What QEMU says that it is told about migrations.
pub fn settings() -> Settings {
    let capability = |name: &str| Capability {
        name: name.to_owned(),
        state: false,
    };
    let parameter = |(name, value): (&str, u64)| Parameter {
        name: name.to_owned(),
        value: ParameterValue::Number(value),
    };
    Settings {
        capabilities: ["events", "multifd"].map(capability).into(),
        parameters: [("downtime-limit", 300), ("multifd-channels", 2)]
            .map(parameter)
            .into(),
    }
}

/// What a migration is told beside its terms.
fn told() -> Settings {
    Settings {
        capabilities: vec![Capability {
            name: "multifd".to_owned(),
            state: true,
        }],
        parameters: vec![Parameter {
            name: "multifd-channels".to_owned(),
            value: ParameterValue::Number(4),
        }],
    }
}

/// The disk that a migration copies: the one that is seen, or another.
fn copied(bandwidth: u64) -> Box<DisksWanted> {
    let name = if bandwidth % 32 == 12 { "n" } else { "m" };
    Box::new(DisksWanted {
        nbd: Some("unix:/nbd".to_owned()),
        sync: DiskSync::Full,
        disks: vec![DiskNames {
            source: name.to_owned(),
            destination: name.to_owned(),
        }],
    })
}
