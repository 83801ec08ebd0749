//! Each law is broken once: by the record that breaks it, right behind records that keep them all, and it is named.

mod rows;

use journal_format::number::{BootId, DomainId};
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, Cookie, Decided, Decision, DiskCopy, DiskSync, DomainState,
    EffectFinished, EffectIntended, EffectResult, EndedJob, Facts, Instance, JobBegun, JobDecided,
    JobEnded, JobEvidence, JobFacts, JobKind, JobPhase, JobPhaseEntered, JobResult,
    MigrationAbandoned, MigrationCommitted, MigrationDisks, MigrationGranted, MigrationNamed,
    MigrationTerms, NodesSeen, Observed, OperatorResolved, Outcome, OutcomeLearned, PeerAnswer,
    PeerPrepared, Phase, PhaseEntered, Process, Record, Role, StoreAnswer, WantedChanged,
    WantedReason,
};
use journal_format::record::{ContIntent, EffectStanding, Evidence};

use super::*;
use crate::engine::laws::{Auditor, Breach, Law};
use crate::engine::{Gap, Rule};
use rows::{
    rows_of_decisions, rows_of_effects, rows_of_facts, rows_of_jobs, rows_of_no_migration,
    rows_of_phases,
};

const DOMAIN: DomainId = DomainId(Id128([0x0d; 16]));
const MIGRATION: MigrationId = MigrationId(Id128([0x22; 16]));
const NONCE: Nonce = Nonce(Id128([0x99; 16]));
const OTHER_NONCE: Nonce = Nonce(Id128([0x98; 16]));
/// Every story begins with the domain's registration, and goes on with its job.
const JOB: Lsn = Lsn(2);
const INSTANCE: Instance = Instance {
    boot: BootId(Id128([0xb0; 16])),
    pid: 10,
    start_time: 1,
};

/// A journal that is told record by record.
struct Book {
    auditor: Auditor,
    next: Lsn,
}

impl Book {
    fn tell(&mut self, domain: Option<DomainId>, body: RecordBody) -> Result<(), Breach> {
        let record = Record {
            lsn: self.next,
            domain,
            previous: Some(Lsn(self.next.0 - 1)).filter(|previous| previous.0 > 0),
            body,
        };
        self.next = Lsn(self.next.0 + 1);
        self.auditor.record(&record)
    }

    /// A journal in which these were told of the domain, none of which breaks a law.
    fn with(told: &[RecordBody]) -> Book {
        let mut book = Book {
            auditor: Auditor::default(),
            next: Lsn::FIRST,
        };
        for body in told {
            let kept = book.tell(Some(DOMAIN), body.clone());
            assert_eq!(kept, Ok(()), "{body:?}");
        }
        book
    }
}

fn registered() -> RecordBody {
    RecordBody::DomainAdded(Box::new(DomainState {
        name: "web-1".to_owned(),
        qmp: "/run/web-1.qmp".to_owned(),
        instance: INSTANCE,
        wanted: WantedRunState::Running,
        definition: None,
        claim: None,
        dead: false,
        damaged: false,
        last_job: None::<EndedJob>,
    }))
}

fn migrates(role: Role, protocol: Protocol, authority: Authority) -> RecordBody {
    let nonce = (role == Role::Destination).then_some(NONCE);
    RecordBody::JobBegun(Box::new(JobBegun {
        kind: match role {
            Role::Source => JobKind::MigrationOut,
            Role::Destination => JobKind::MigrationIn,
        },
        migration: Some(MigrationTerms {
            migration: MIGRATION,
            role,
            protocol,
            authority,
            peer: "/run/peer.sock".to_owned(),
            peer_domain: "web-1".to_owned(),
            uri: "unix:/run/web-1.migrate".to_owned(),
            max_bandwidth: None,
            downtime_limit: None,
            postcopy: false,
            nonce,
            store: None,
            in_doubt_limit: None,
        }),
    }))
}

fn outgoing() -> RecordBody {
    migrates(Role::Source, Protocol::V3, Authority::Destination)
}

fn incoming() -> RecordBody {
    migrates(Role::Destination, Protocol::V3, Authority::Destination)
}

fn saves() -> RecordBody {
    RecordBody::JobBegun(Box::new(JobBegun {
        kind: JobKind::Save,
        migration: None,
    }))
}

fn cookie(nonce: Nonce) -> Cookie {
    Cookie {
        migration: MIGRATION,
        nonce,
        granted: position(),
        authority: Authority::Destination,
        wanted: WantedRunState::Running,
    }
}

fn position() -> Position {
    Position {
        journal: JournalId(Id128([0xc0; 16])),
        epoch: Epoch(1),
        opening: journal_format::number::OpeningId(Id128([0xc1; 16])),
        lsn: Lsn(9),
    }
}

fn prepared() -> RecordBody {
    RecordBody::PeerPrepared(PeerPrepared {
        migration: MIGRATION,
        nonce: NONCE,
        position: position(),
    })
}

fn granted(nonce: Nonce) -> RecordBody {
    RecordBody::MigrationGranted(MigrationGranted {
        cookie: cookie(nonce),
    })
}

fn abandoned() -> RecordBody {
    RecordBody::MigrationAbandoned(MigrationAbandoned {
        migration: MIGRATION,
        why: String::new(),
        asked: true,
    })
}

fn committed(cookie: Option<Cookie>) -> RecordBody {
    RecordBody::MigrationCommitted(MigrationCommitted {
        cookie,
        migration: MIGRATION,
    })
}

const NAMED: MigrationNamed = MigrationNamed {
    migration: MIGRATION,
};

fn learned(outcome: Outcome, position: Option<Position>) -> RecordBody {
    RecordBody::OutcomeLearned(OutcomeLearned {
        migration: MIGRATION,
        outcome,
        position,
    })
}

fn entered(phase: Phase) -> RecordBody {
    RecordBody::PhaseEntered(PhaseEntered { job: JOB, phase })
}

fn job_entered(phase: JobPhase) -> RecordBody {
    RecordBody::JobPhaseEntered(JobPhaseEntered {
        job: JOB,
        phase,
        time: 1,
        cookie: None,
        other_side: None,
        recognised: false,
        listens: false,
    })
}

fn intended(command: EffectCommand) -> RecordBody {
    RecordBody::EffectIntended(EffectIntended {
        job: Some(JOB),
        instance: INSTANCE,
        command,
    })
}

fn finished(effect: u64) -> RecordBody {
    RecordBody::EffectFinished(EffectFinished {
        effect: Lsn(effect),
        result: EffectResult::Done,
    })
}

fn ended() -> RecordBody {
    RecordBody::JobEnded(JobEnded {
        job: JOB,
        result: JobResult::Failed,
        detail: String::new(),
    })
}

fn resolved(decision: Decision) -> RecordBody {
    RecordBody::OperatorResolved(OperatorResolved {
        job: JOB,
        decision,
        force: true,
        statement: "fenced".to_owned(),
        uid: 0,
    })
}

fn disks(settled: bool) -> RecordBody {
    RecordBody::MigrationDisks(MigrationDisks {
        job: JOB,
        nbd: None,
        sync: DiskSync::Full,
        disks: vec![DiskCopy {
            source: "disk0".to_owned(),
            destination: "disk0".to_owned(),
            size: 1 << 20,
        }],
        settled,
    })
}

fn observed() -> Observed {
    Observed {
        process: Process::Alive,
        instance: Some(INSTANCE),
        run_state: Some(RunState::Running),
        migration: Some(MigrationStatus::None),
        claim: ClaimSeen::Absent,
    }
}

/// What a source knows that has sent nothing.
fn evidence() -> Evidence {
    Evidence {
        role: Role::Source,
        protocol: Protocol::V3,
        authority: Authority::Destination,
        phase: Phase::Begin3,
        facts: Facts {
            migrate_intended: false,
            postcopy: false,
            granted: false,
            abandoned: false,
            committed: false,
            started: false,
            aborted: false,
            outcome: None,
            cont: ContIntent::Never,
            proposed: false,
            verdict: None,
        },
        observed: observed(),
        claim: None,
        peer: PeerAnswer::NotAsked,
        watched: false,
        recovering: true,
        journal_damaged: false,
        store: StoreAnswer::NotRead,
        overdue: false,
        source_touched: false,
        wanted: WantedRunState::Running,
    }
}

fn decided(rule: &str, decision: Decision) -> RecordBody {
    RecordBody::Decided(Box::new(Decided {
        job: JOB,
        rule: rule.to_owned(),
        decision,
        evidence: evidence(),
        based_on: vec![JOB],
    }))
}

fn job_decided(rule: &str, decision: Decision, cited: u64) -> RecordBody {
    RecordBody::JobDecided(Box::new(JobDecided {
        job: JOB,
        rule: rule.to_owned(),
        decision,
        evidence: JobEvidence {
            kind: JobKind::Save,
            phase: JobPhase::Begin,
            facts: JobFacts {
                stream: EffectStanding::Never,
                main: EffectStanding::Never,
                end: EffectStanding::Never,
            },
            observed: observed(),
            dump: None,
            qemu_jobs: None,
            nodes: NodesSeen::Unread,
            claim: None,
            recovering: true,
            recognised: false,
            journal_damaged: false,
            wanted: WantedRunState::Running,
            peer: PeerAnswer::NotAsked,
        },
        based_on: vec![Lsn(cited)],
    }))
}

/// An operator's word on a migration, as the engine records it: the word, and the decision that it is.
fn by_operator() -> [RecordBody; 2] {
    [
        resolved(Decision::Resume),
        decided(Rule::OperatorResolved.name(), Decision::Resume),
    ]
}

#[test]
fn each_law_is_broken_by_name() {
    let rows = [
        rows_of_jobs(),
        rows_of_no_migration(),
        rows_of_phases(),
        rows_of_effects(),
        rows_of_facts(),
        rows_of_decisions(),
    ];
    for (told, breaks, law, how) in rows.into_iter().flatten() {
        let breach = Book::with(&told).tell(Some(DOMAIN), breaks.clone());
        let Err(breach) = breach else {
            panic!("{breaks:?} keeps all laws, and is {law}: {how}");
        };
        assert_eq!(breach.law, law, "{breaks:?}: {}", breach.how);
        assert!(breach.how.contains(how), "{}, not: {how}", breach.how);
        // What is lost may have said what is missing here.
        let mut damaged = Book::with(&told);
        damaged.auditor.gap(Gap {
            first: damaged.next,
            last: Lsn(damaged.next.0 + 9),
        });
        damaged.next = Lsn(damaged.next.0 + 10);
        assert_eq!(damaged.tell(Some(DOMAIN), breaks), Ok(()));
    }
}

/// What an operator, the store or a manager says, no record here need lead up to; and what another version of the
/// table decided is not judged by this one.
#[test]
fn what_is_not_judged() {
    let operator = by_operator();
    let outside = |authority| {
        vec![
            registered(),
            migrates(Role::Destination, Protocol::V3, authority),
        ]
    };
    let took = committed(Some(cookie(NONCE)));
    let mut overruled = vec![
        registered(),
        outgoing(),
        prepared(),
        granted(NONCE),
        learned(Outcome::Aborted, Some(position())),
    ];
    overruled.extend(operator.clone());
    let mut forced = vec![
        registered(),
        incoming(),
        took,
        intended(EffectCommand::Cont),
    ];
    forced.extend(operator.clone());
    let mut unsettled = vec![registered(), outgoing(), disks(false)];
    unsettled.extend(operator.clone());
    let mut skipped = vec![registered(), outgoing()];
    skipped.extend(operator);
    let kept: Vec<(Vec<RecordBody>, RecordBody)> = vec![
        (overruled, learned(Outcome::Committed, None)),
        (forced, RecordBody::MigrationAborted(NAMED)),
        (unsettled, intended(EffectCommand::MigrateContinue)),
        (skipped, entered(Phase::Confirm3)),
        (
            outside(Authority::Store),
            RecordBody::MigrationStarted(NAMED),
        ),
        (
            outside(Authority::Manager),
            RecordBody::MigrationAborted(NAMED),
        ),
        (
            vec![registered(), outgoing()],
            decided("a-rule-of-another-version", Decision::Kill),
        ),
        (
            vec![registered(), saves()],
            job_decided("a-rule-of-another-version", Decision::Kill, 2),
        ),
        (
            vec![registered(), saves()],
            job_decided(Rule::OperatorResolved.name(), Decision::Confirm, 2),
        ),
        (vec![registered(), saves()], job_entered(JobPhase::Cancel)),
    ];
    for (told, body) in kept {
        let judged = Book::with(&told).tell(Some(DOMAIN), body.clone());
        assert_eq!(judged, Ok(()), "{body:?}");
    }
}

/// A checkpoint says again what the records before it tell, all of it and nothing else.
#[test]
fn a_checkpoint_restates_what_was_told() {
    let begun = RecordBody::CheckpointBegun(CheckpointBegun {
        records: 2,
        openings: Vec::new(),
    });
    let finish = RecordBody::CheckpointEnded(CheckpointEnded { records: 2 });
    let story = [registered(), outgoing()];
    let restated: Vec<_> = Book::with(&story).auditor.told().restated(Lsn(3));
    assert_eq!(restated.len(), 2);

    let mut whole = Book::with(&story);
    assert_eq!(whole.tell(None, begun.clone()), Ok(()));
    for draft in restated.clone() {
        assert_eq!(whole.tell(draft.domain, draft.body), Ok(()));
    }
    assert_eq!(whole.tell(None, finish.clone()), Ok(()));

    // Cut short by a crash, and begun anew.
    let mut again = Book::with(&story);
    assert_eq!(again.tell(None, begun.clone()), Ok(()));
    assert_eq!(again.tell(None, begun.clone()), Ok(()));
    for draft in restated.clone() {
        assert_eq!(again.tell(draft.domain, draft.body), Ok(()));
    }

    let breaks = |told: Vec<RecordBody>, how: &str| {
        let mut book = Book::with(&story);
        assert_eq!(book.tell(None, begun.clone()), Ok(()));
        let mut said = Ok(());
        for body in told {
            let of_all = matches!(body, RecordBody::CheckpointEnded(_));
            said = book.tell((!of_all).then_some(DOMAIN), body);
        }
        let breach = said.unwrap_err();
        assert_eq!((breach.law, breach.how.as_str()), (Law::Checkpoint, how));
    };
    let bodies: Vec<RecordBody> = restated.into_iter().map(|draft| draft.body).collect();
    let otherwise = "it restates otherwise than the records before it tell";
    breaks(
        vec![bodies[0].clone(), finish],
        "it leaves out what the records before it tell",
    );
    breaks(vec![bodies[1].clone()], otherwise);
    let changed = RecordBody::WantedChanged(WantedChanged {
        wanted: WantedRunState::Paused,
        why: WantedReason::Asked,
    });
    breaks(
        vec![bodies[0].clone(), bodies[1].clone(), changed],
        otherwise,
    );
}

#[test]
fn laws_have_names() {
    let laws = [
        Law::Job,
        Law::Phase,
        Law::WriteAhead,
        Law::Fact,
        Law::Decision,
        Law::Checkpoint,
    ];
    let names = laws.map(|law| law.to_string()).join(" ");
    assert_eq!(
        names,
        "job phase-order write-ahead fact decision checkpoint"
    );
}
