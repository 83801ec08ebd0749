//! One journal's worth of records: every type, every word, every variant at least once.

use journal_format::number::{
    BootId, DomainId, Epoch, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId, Position,
};
use journal_format::record::*;

use crate::support::id;

/// Two domains, so that chains of previous LSNs are interleaved.
pub(crate) const DOMAINS: [DomainId; 2] =
    [DomainId(Id128([0xd1; 16])), DomainId(Id128([0xd2; 16]))];

/// Bytes of definition in each of the two parts: the first is as large as one may be.
const PARTS: [usize; 2] = [DEFINITION_PART_SIZE_MAX, 100];

pub(crate) fn boot() -> BootId {
    BootId(id(0xb0))
}

/// This opening of the journal; the first one began it.
pub(crate) fn opening(number: u8, first: u64) -> Opening {
    Opening {
        epoch: Epoch(u32::from(number)),
        opening: OpeningId(id(0xe0 + number)),
        first: Lsn(first),
    }
}

fn migration() -> MigrationId {
    MigrationId(Id128([
        0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255,
    ]))
}

fn position() -> Position {
    Position {
        journal: JournalId(id(0xa2)),
        epoch: Epoch(3),
        opening: OpeningId(id(0xe9)),
        lsn: Lsn(0x0102_0304_0506_0708),
    }
}

pub(crate) fn instance() -> Instance {
    Instance {
        boot: boot(),
        pid: 4_194_304,
        start_time: 123_456_789_012,
    }
}

fn claim(role: Role) -> Claim {
    Claim {
        journal: JournalId(id(0xa1)),
        epoch: Epoch(1),
        migration: migration(),
        role,
    }
}

fn cookie(authority: Authority, wanted: WantedRunState) -> Cookie {
    Cookie {
        migration: migration(),
        nonce: Nonce(id(0xcc)),
        granted: position(),
        authority,
        wanted,
    }
}

fn terms(role: Role, protocol: Protocol, authority: Authority) -> MigrationTerms {
    let source = role == Role::Source;
    MigrationTerms {
        migration: migration(),
        role,
        protocol,
        authority,
        peer: "/run/phase-journal/b/peer.sock".to_owned(),
        peer_domain: "web".to_owned(),
        uri: "unix:/run/web.migrate".to_owned(),
        max_bandwidth: source.then_some(1 << 40),
        downtime_limit: source.then_some(300),
        postcopy: source,
        nonce: (!source).then_some(Nonce(id(0xcc))),
        store: (authority == Authority::Store).then(|| "etcd:14841639068965178418".to_owned()),
        in_doubt_limit: source.then_some(30_000),
    }
}

fn observed(process: Process, claim: ClaimSeen) -> Observed {
    let answers = process == Process::Alive;
    Observed {
        process,
        instance: answers.then(instance),
        run_state: answers.then_some(RunState::Postmigrate),
        migration: answers.then_some(MigrationStatus::Completed),
        claim,
    }
}

fn evidence(facts: Facts, phase: Phase) -> Evidence {
    Evidence {
        role: Role::Source,
        protocol: Protocol::V3,
        authority: Authority::Destination,
        phase,
        facts,
        observed: observed(Process::Alive, ClaimSeen::Present(claim(Role::Source))),
        claim: Some(claim(Role::Source)),
        peer: PeerAnswer::Started,
        watched: true,
        recovering: false,
        journal_damaged: false,
        wanted: WantedRunState::Running,
        store: StoreAnswer::NotRead,
        overdue: true,
        source_touched: false,
    }
}

fn facts(cont: ContIntent, outcome: Option<Outcome>) -> Facts {
    Facts {
        migrate_intended: true,
        postcopy: outcome.is_none(),
        granted: true,
        abandoned: false,
        committed: outcome.is_some(),
        started: false,
        aborted: false,
        outcome,
        cont,
        proposed: outcome.is_some(),
        verdict: outcome,
    }
}

fn ended_job() -> EndedJob {
    EndedJob {
        job: Lsn(7),
        kind: JobKind::MigrationIn,
        migration: Some(migration()),
        phase: Some(Phase::Finish3),
        result: JobResult::Completed,
        detail: String::new(),
    }
}

pub(crate) fn domain_state(name: &str, definition: Option<Lsn>) -> RecordBody {
    let whole = definition.is_some();
    RecordBody::DomainState(Box::new(DomainState {
        name: name.to_owned(),
        qmp: format!("/run/{name}.qmp"),
        instance: instance(),
        wanted: if whole {
            WantedRunState::Running
        } else {
            WantedRunState::Paused
        },
        definition,
        claim: whole.then(|| claim(Role::Destination)),
        dead: !whole,
        damaged: false,
        last_job: whole.then(ended_job),
    }))
}

fn migration_state() -> RecordBody {
    RecordBody::MigrationState(Box::new(MigrationState {
        job: Lsn(9),
        open: true,
        terms: terms(Role::Source, Protocol::V3, Authority::Destination),
        phase: Phase::Perform3Done,
        migrate_intended: true,
        postcopy_intended: true,
        postcopy: false,
        source_touched: false,
        granted: Some(cookie(Authority::Destination, WantedRunState::Running)),
        abandoned: false,
        cancel_asked: false,
        committed: false,
        started: false,
        aborted: false,
        outcome: None,
        cont: ContIntent::Never,
        cont_count: 0,
        in_flight: Some((Lsn(40), EffectCommand::MigrateContinue)),
        peer_position: Some(position()),
        peer_answer: PeerAnswer::Whole,
        last_rule: Some("source-perform3-go-on".to_owned()),
        key_intent: Some(KeyChange::Create(KeyValue::Aborted)),
        licence: Some(cookie(Authority::Store, WantedRunState::Paused)),
        key_read: Some(committed()),
        verdict: None,
    }))
}

/// A checkpoint of two domains and a migration, whose first record gets the LSN `first`.
pub(crate) fn checkpoint(openings: Vec<Opening>, first: u64) -> Vec<Draft> {
    let [one, two] = DOMAINS;
    let definition = Lsn(first + 1);
    let part = |index: u16, size: usize| {
        RecordBody::DefinitionPart(DefinitionPart {
            first: definition,
            index,
            count: 2,
            text: "<domain/>".chars().cycle().take(size).collect(),
        })
    };
    let begun = CheckpointBegun {
        records: 5,
        openings,
    };
    let ended = CheckpointEnded { records: 5 };
    vec![
        draft(None, RecordBody::CheckpointBegun(begun)),
        draft(Some(one), part(0, PARTS[0])),
        draft(Some(one), part(1, PARTS[1])),
        draft(Some(one), domain_state("web", Some(definition))),
        draft(Some(two), domain_state("d\u{e4}mon", None)),
        draft(Some(one), migration_state()),
        draft(None, RecordBody::CheckpointEnded(ended)),
    ]
}

pub(crate) fn draft(domain: Option<DomainId>, body: RecordBody) -> Draft {
    Draft { domain, body }
}

/// What was asked, begun and sent.
pub(crate) fn intents() -> Vec<Draft> {
    let [one, two] = DOMAINS;
    let RecordBody::DomainState(added) = domain_state("web", None) else {
        return Vec::new();
    };
    let mut bodies = vec![RecordBody::DomainAdded(added)];
    for (wanted, why) in [
        (WantedRunState::Paused, WantedReason::Asked),
        (WantedRunState::Running, WantedReason::Seen),
        (WantedRunState::Paused, WantedReason::Carried),
    ] {
        bodies.push(RecordBody::WantedChanged(WantedChanged { wanted, why }));
    }
    for kind in JobKind::ALL {
        let migration = match kind {
            JobKind::MigrationOut => Some(terms(Role::Source, Protocol::V2, Authority::Source)),
            JobKind::MigrationIn => Some(terms(Role::Destination, Protocol::V3, Authority::Store)),
            _ => None,
        };
        let kind = *kind;
        bodies.push(RecordBody::JobBegun(Box::new(JobBegun { kind, migration })));
    }
    for phase in Phase::ALL {
        let (job, phase) = (Lsn(9), *phase);
        bodies.push(RecordBody::PhaseEntered(PhaseEntered { job, phase }));
    }
    let uri = "tcp:[2001:db8::1]:49152".to_owned();
    let commands = [
        EffectCommand::Claim(claim(Role::Source)),
        EffectCommand::Unclaim,
        EffectCommand::SetCapabilities {
            role: Role::Destination,
            postcopy: true,
        },
        EffectCommand::SetParameters {
            max_bandwidth: Some(u64::MAX),
            downtime_limit: None,
        },
        EffectCommand::MigrateIncoming { uri: uri.clone() },
        EffectCommand::Migrate { uri: uri.clone() },
        EffectCommand::MigrateContinue,
        EffectCommand::MigrateCancel,
        EffectCommand::Cont,
        EffectCommand::Stop,
        EffectCommand::Kill,
        EffectCommand::StartPostcopy,
        EffectCommand::MigrateRecover { uri: uri.clone() },
        EffectCommand::MigrateResume { uri },
        EffectCommand::MigratePause,
        EffectCommand::SetCapabilities {
            role: Role::Source,
            postcopy: false,
        },
        EffectCommand::SetParameters {
            max_bandwidth: None,
            downtime_limit: Some(1),
        },
        EffectCommand::Monitor {
            execute: "blockdev-backup".to_owned(),
            arguments: r#"{"job-id":"b0","device":"n0"}"#.to_owned(),
            redacted: false,
        },
        EffectCommand::Monitor {
            execute: "set_password".to_owned(),
            arguments: r#"{"protocol":"vnc"}"#.to_owned(),
            redacted: true,
        },
    ];
    for (job, command) in (0..).zip(commands) {
        bodies.push(RecordBody::EffectIntended(EffectIntended {
            job: (job > 0).then_some(Lsn(job)),
            instance: instance(),
            command,
        }));
    }
    // The domains take turns, so that their chains of previous LSNs interleave.
    let turns = [one, one, two].into_iter().cycle();
    turns
        .zip(bodies)
        .map(|(domain, body)| draft(Some(domain), body))
        .collect()
}

/// What was seen and heard.
pub(crate) fn observations() -> Vec<Draft> {
    let mut bodies = Vec::new();
    let why = "connection reset by peer".to_owned();
    for result in [
        EffectResult::Done,
        EffectResult::Refused {
            class: "GenericError".to_owned(),
            description: "Failed to get \"write\" lock".to_owned(),
        },
        EffectResult::NotSent { why: why.clone() },
        EffectResult::Unknown { why },
    ] {
        let effect = Lsn(50);
        bodies.push(RecordBody::EffectFinished(EffectFinished {
            effect,
            result,
        }));
    }
    let claims = [
        ClaimSeen::Unread,
        ClaimSeen::Absent,
        ClaimSeen::Present(claim(Role::Destination)),
        ClaimSeen::Foreign("someone else's".to_owned()),
    ];
    for (process, claim) in Process::ALL.iter().zip(claims) {
        bodies.push(RecordBody::QemuObserved(Box::new(QemuObserved {
            job: None,
            observed: observed(*process, claim),
        })));
    }
    let newer = Observed {
        run_state: Some(RunState::from_qemu("a-state-of-a-newer-qemu")),
        migration: Some(MigrationStatus::from_qemu("a-status-of-a-newer-qemu")),
        ..observed(Process::Alive, ClaimSeen::Absent)
    };
    bodies.push(RecordBody::QemuObserved(Box::new(QemuObserved {
        job: Some(Lsn(9)),
        observed: newer,
    })));
    for answer in PeerAnswer::ALL {
        let reached = *answer != PeerAnswer::Unreachable;
        bodies.push(RecordBody::PeerHeard(PeerHeard {
            migration: migration(),
            position: reached.then(position),
            answer: *answer,
        }));
    }
    bodies
        .into_iter()
        .map(|body| draft(Some(DOMAINS[0]), body))
        .collect()
}

/// What may have been said in records that are damaged.
pub(crate) fn histories() -> Vec<Draft> {
    let one = MigrationHistory {
        open: true,
        later: false,
        resolved: false,
        phase: Phase::Perform3,
        facts: facts(ContIntent::Never, None),
        source_touched: false,
        wanted: WantedRunState::Paused,
    };
    let mut all = vec![
        one,
        MigrationHistory {
            facts: facts(ContIntent::Unknown, Some(Outcome::Aborted)),
            source_touched: true,
            ..one
        },
        MigrationHistory {
            open: false,
            later: true,
            ..one
        },
    ];
    all.push(MigrationHistory {
        open: false,
        resolved: true,
        phase: Phase::Prepare,
        wanted: WantedRunState::Running,
        ..one
    });
    [Vec::new(), all]
        .into_iter()
        .map(|histories| {
            let body = RecordBody::MigrationHistories(MigrationHistories {
                job: Lsn(9),
                nonce_known: histories.is_empty(),
                histories,
            });
            draft(Some(DOMAINS[0]), body)
        })
        .collect()
}

fn committed() -> KeyValue {
    KeyValue::Committed {
        journal: JournalId(id(0xa2)),
        nonce: Nonce(id(0xcc)),
    }
}

/// What a store was asked and said, and what a manager decided.
pub(crate) fn authorities() -> Vec<Draft> {
    let migration = migration();
    let mut bodies = Vec::new();
    for change in [
        KeyChange::Create(committed()),
        KeyChange::Replace {
            expected: committed(),
            new: KeyValue::Started,
        },
        KeyChange::Delete,
    ] {
        let cookie = matches!(change, KeyChange::Create(_))
            .then(|| cookie(Authority::Store, WantedRunState::Running));
        bodies.push(RecordBody::StoreIntended(Box::new(StoreIntended {
            migration,
            change,
            cookie,
        })));
    }
    for key in [committed(), KeyValue::Started, KeyValue::Aborted] {
        bodies.push(RecordBody::StoreRead(StoreRead { migration, key }));
    }
    for (by, outcome) in VerdictBy::ALL.iter().zip(Outcome::ALL.iter().cycle()) {
        bodies.push(RecordBody::VerdictGiven(VerdictGiven {
            migration,
            outcome: *outcome,
            by: *by,
            uid: (*by == VerdictBy::Command).then_some(1000),
        }));
    }
    for store in StoreAnswer::ALL {
        let mut evidence = evidence(facts(ContIntent::Never, None), Phase::Perform3Done);
        (evidence.authority, evidence.store) = (Authority::Store, *store);
        bodies.push(RecordBody::Decided(Box::new(Decided {
            job: Lsn(9),
            rule: "source-store-in-doubt".to_owned(),
            decision: Decision::Hold,
            evidence,
            based_on: vec![Lsn(9)],
        })));
    }
    bodies
        .into_iter()
        .map(|body| draft(Some(DOMAINS[0]), body))
        .collect()
}

/// A job of every phase, standing and look.
pub(crate) fn jobs() -> Vec<Draft> {
    let job = Lsn(9);
    let monitor = |execute: &str, arguments: &str| EffectCommand::Monitor {
        execute: execute.to_owned(),
        arguments: arguments.to_owned(),
        redacted: false,
    };
    let mut bodies = Vec::new();
    for phase in JobPhase::ALL {
        bodies.push(RecordBody::JobPhaseEntered(JobPhaseEntered {
            job,
            phase: *phase,
            time: 1_753_000_000_123_456_789,
            cookie: (*phase == JobPhase::Begin).then(|| "<backup id='7'/>".to_owned()),
            other_side: (*phase == JobPhase::Finish3).then(position),
            recognised: *phase == JobPhase::Begin3,
            listens: *phase == JobPhase::Prepare,
        }));
    }
    let mut evidence = JobEvidence {
        kind: JobKind::Backup,
        phase: JobPhase::Perform,
        facts: JobFacts {
            stream: EffectStanding::Never,
            main: EffectStanding::Unknown,
            end: EffectStanding::Never,
        },
        observed: observed(Process::Alive, ClaimSeen::Absent),
        dump: Some(DumpStatus::Completed),
        qemu_jobs: Some(vec![
            QemuJobSeen {
                id: "b0".to_owned(),
                status: Some(QemuJobStatus::Concluded),
                error: Some("No space left on device".to_owned()),
            },
            QemuJobSeen {
                id: "b1".to_owned(),
                status: None,
                error: None,
            },
        ]),
        nodes: NodesSeen::Unread,
        claim: None,
        recovering: true,
        recognised: true,
        journal_damaged: false,
        wanted: WantedRunState::Running,
        peer: PeerAnswer::Started,
    };
    for (nodes, standing) in NodesSeen::ALL
        .iter()
        .zip(EffectStanding::ALL.iter().cycle())
    {
        evidence.nodes = *nodes;
        evidence.facts.end = *standing;
        bodies.push(RecordBody::JobDecided(Box::new(JobDecided {
            job,
            rule: "backup-ended".to_owned(),
            decision: Decision::Confirm,
            evidence: evidence.clone(),
            based_on: vec![job, Lsn(12)],
        })));
        evidence.dump = None;
        evidence.qemu_jobs = None;
        evidence.claim = Some(claim(Role::Source));
        evidence.recovering = false;
        evidence.recognised = false;
        evidence.journal_damaged = true;
    }
    let mut state = JobState::begun(job, JobKind::Snapshot);
    bodies.push(RecordBody::JobState(Box::new(state.clone())));
    state.cookie = Some("7".to_owned());
    state.other_side = Some(position());
    state.recognised = true;
    state.main = EffectCount {
        done: 2,
        unknown: 1,
    };
    state.nodes = vec!["overlay".to_owned()];
    state.qemu_jobs = vec!["s0".to_owned()];
    state.leftovers = vec![monitor("blockdev-del", r#"{"node-name":"overlay"}"#)];
    state.in_flight = Some((Lsn(14), monitor("job-dismiss", r#"{"id":"s0"}"#)));
    state.last_rule = Some("snapshot-active".to_owned());
    bodies.push(RecordBody::JobState(Box::new(state)));
    bodies
        .into_iter()
        .map(|body| draft(Some(DOMAINS[0]), body))
        .collect()
}

/// What a migration was told, and what there was before.
pub(crate) fn settings() -> Vec<Draft> {
    let job = Lsn(9);
    let told = Settings {
        capabilities: [("auto-converge", false), ("multifd", true)]
            .map(|(name, state)| Capability {
                name: name.to_owned(),
                state,
            })
            .into(),
        parameters: [
            ("block-incremental", ParameterValue::Bool(false)),
            ("multifd-channels", ParameterValue::Number(4)),
            ("tls-creds", ParameterValue::Text("tls0".to_owned())),
        ]
        .map(|(name, value)| Parameter {
            name: name.to_owned(),
            value,
        })
        .into(),
    };
    let mut bodies = Vec::new();
    for (postcopy_after, deadline) in [
        (Some(PostcopyAfter::Seconds(30)), Some(600)),
        (Some(PostcopyAfter::Passes(3)), None),
        (None, None),
    ] {
        bodies.push(RecordBody::MigrationSettings(MigrationSettings {
            job,
            time: 1_753_000_000_123_456_789,
            settings: told.clone(),
            postcopy_after,
            deadline,
        }));
    }
    for (changed, settings) in [(true, told), (false, Settings::default())] {
        bodies.push(RecordBody::SettingsKept(SettingsKept {
            job,
            changed,
            settings,
        }));
    }
    bodies
        .into_iter()
        .map(|body| draft(Some(DOMAINS[0]), body))
        .collect()
}

/// The disks that a migration copies: as many as there can be, and one.
pub(crate) fn disks() -> Vec<Draft> {
    let mut bodies = Vec::new();
    for (count, sync, nbd) in [
        (DISKS_MAX, DiskSync::Full, Some("tcp:b.example:10809")),
        (1, DiskSync::Top, None),
    ] {
        let disk = |index: usize| DiskCopy {
            source: format!("{index:0>width$}", width = NODE_NAME_SIZE_MAX),
            destination: format!("data{index}"),
            size: 1 << (30 + index),
        };
        for settled in [false, true] {
            bodies.push(RecordBody::MigrationDisks(MigrationDisks {
                job: Lsn(9),
                nbd: nbd.map(str::to_owned),
                sync,
                disks: (0..count).map(disk).collect(),
                settled,
            }));
        }
    }
    bodies
        .into_iter()
        .map(|body| draft(Some(DOMAINS[0]), body))
        .collect()
}

/// Guests that were sent, and are here or are not.
pub(crate) fn guests_sent() -> Vec<Draft> {
    let sent = |is_here| RecordBody::GuestSent(GuestSent { is_here });
    vec![
        draft(Some(DOMAINS[0]), sent(true)),
        draft(Some(DOMAINS[1]), sent(false)),
    ]
}

/// What became of it.
pub(crate) fn outcomes() -> Vec<Draft> {
    let migration = migration();
    let named = MigrationNamed { migration };
    let mut bodies = vec![
        RecordBody::PeerPrepared(PeerPrepared {
            migration,
            nonce: Nonce(id(0xcc)),
            position: position(),
        }),
        RecordBody::MigrationGranted(MigrationGranted {
            cookie: cookie(Authority::Destination, WantedRunState::Running),
        }),
        RecordBody::MigrationAbandoned(MigrationAbandoned {
            migration,
            why: "the destination refused: busy".to_owned(),
            asked: false,
        }),
        RecordBody::MigrationCommitted(MigrationCommitted {
            cookie: Some(cookie(Authority::Manager, WantedRunState::Paused)),
            migration,
        }),
        RecordBody::MigrationCommitted(MigrationCommitted {
            cookie: None,
            migration,
        }),
        RecordBody::MigrationStarted(named),
        RecordBody::MigrationAborted(named),
    ];
    for outcome in Outcome::ALL {
        bodies.push(RecordBody::OutcomeLearned(OutcomeLearned {
            migration,
            outcome: *outcome,
            position: (*outcome == Outcome::Committed).then(position),
        }));
    }
    for (decision, cont) in Decision::ALL.iter().zip(ContIntent::ALL) {
        let outcome = (*decision == Decision::Kill).then_some(Outcome::Committed);
        bodies.push(RecordBody::Decided(Box::new(Decided {
            job: Lsn(9),
            rule: format!("source-confirm3-{decision}"),
            decision: *decision,
            evidence: evidence(facts(*cont, outcome), Phase::Confirm3),
            based_on: vec![Lsn(9), Lsn(40), Lsn(41)],
        })));
    }
    bodies.push(RecordBody::OperatorResolved(OperatorResolved {
        job: Lsn(9),
        decision: Decision::Resume,
        force: true,
        statement: "the other host is off, its cable is in my hand".to_owned(),
        uid: 1000,
    }));
    for result in JobResult::ALL {
        bodies.push(RecordBody::JobEnded(JobEnded {
            job: Lsn(9),
            result: *result,
            detail: format!("it {result}"),
        }));
    }
    bodies.push(RecordBody::MigrationForgotten(named));
    bodies.push(RecordBody::DomainRemoved);
    bodies
        .into_iter()
        .map(|body| draft(Some(DOMAINS[1]), body))
        .collect()
}
