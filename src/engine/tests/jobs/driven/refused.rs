//! What a manager may not do in a migration that it drives: refused with one reason, and nothing is written down.

use journal_format::record::{JobKind, JobPhase, MigrationStatus, Outcome, RunState};
use serde_json::{Value, json};

use super::super::NOTHING;
use super::{NAME, Pair, Side, granted, send};
use crate::engine::{Answer, ControlRequest, JobTarget};
use journal_format::record::JobResult;

/// Refused with these words, and neither journal nor QEMU knows of it.
fn refuses(pair: &mut Pair, side: Side, request: ControlRequest, expected: &str) {
    let bench = pair.side(side);
    let before = bench.journal.len();
    let refused: Result<Answer, String> = bench.ask(request);
    let text = format!("{refused:?}");
    assert!(
        refused.is_err() && text.contains(expected),
        "{text}\n{}",
        pair.story()
    );
    let after = pair.side(side).journal.len();
    assert_eq!(before, after, "{text}\n{}", pair.story());
}

fn phase(
    job: journal_format::number::Lsn,
    phase: JobPhase,
    effects: &[(&str, Value)],
) -> ControlRequest {
    with_cookie(job, phase, effects, None)
}

fn with_cookie(
    job: journal_format::number::Lsn,
    phase: JobPhase,
    effects: &[(&str, Value)],
    peer_cookie: Option<&str>,
) -> ControlRequest {
    let effects = effects
        .iter()
        .map(|(execute, value)| crate::engine::ManagerEffect {
            execute: (*execute).to_owned(),
            arguments: super::arguments(value.clone()),
        });
    ControlRequest::PhaseEnter {
        job,
        phase,
        effects: effects.collect(),
        cookie: None,
        peer_cookie: peer_cookie.map(str::to_owned),
    }
}

fn end(job: journal_format::number::Lsn, result: JobResult) -> ControlRequest {
    ControlRequest::JobEnd { job, result }
}

const QUIT: fn() -> Vec<(&'static str, Value)> = || vec![("quit", NOTHING())];
const CONT: fn() -> Vec<(&'static str, Value)> = || vec![("cont", NOTHING())];

/// Before everything was sent the source is neither ended nor given away.
#[test]
fn a_source_before_it_sent_everything() {
    let mut pair = Pair::new(RunState::Running);
    let job = pair.source.begin(JobKind::MigrationOut).unwrap();
    let from = Side::Source;
    for (request, expected) in [
        (
            phase(job, JobPhase::Begin3, &QUIT()),
            "quit is not for phase begin3",
        ),
        (
            phase(job, JobPhase::Perform3, &CONT()),
            "cont is not for phase perform3",
        ),
        (
            phase(job, JobPhase::Prepare, &[]),
            "from which prepare cannot be entered",
        ),
        (
            phase(job, JobPhase::Confirm3, &QUIT()),
            "from which confirm3 cannot be entered",
        ),
        (
            phase(job, JobPhase::Perform3Done, &[]),
            "from which perform3_done cannot be entered",
        ),
        (end(job, JobResult::Completed), "ends as failed"),
    ] {
        refuses(&mut pair, from, request, expected);
    }
    let streams = [
        (json!({"uri": "file:/image"}), "to a file is a save"),
        (json!({}), "needs 'uri' or 'channels'"),
        (
            json!({"uri": "tcp:x:1", "resume": true}),
            "takes no 'resume' here",
        ),
    ];
    for (migrate, expected) in streams {
        let request = phase(job, JobPhase::Perform3, &[("migrate", migrate)]);
        refuses(&mut pair, from, request, expected);
    }
    let postcopy = json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]});
    let postcopy = [
        ("migrate-start-postcopy", NOTHING()),
        ("migrate-set-capabilities", postcopy),
    ];
    for one in postcopy {
        let request = phase(job, JobPhase::Perform3, &[one]);
        refuses(
            &mut pair,
            from,
            request,
            "post-copy, which goes by migrate-domain",
        );
    }
    let begin = ControlRequest::JobBegin {
        name: NAME.to_owned(),
        kind: JobKind::MigrationOut,
        cookie: None,
    };
    refuses(&mut pair, from, begin, "is busy");
    let migrate = [("migrate", json!({"uri": "tcp:[::1]:4444"}))];
    pair.source
        .enter(job, JobPhase::Perform3, &migrate)
        .unwrap();
    assert_eq!(pair.source.qemu.status, MigrationStatus::Active);
    for (request, expected) in [
        (
            phase(job, JobPhase::Perform3Done, &[]),
            "not everything was sent",
        ),
        (
            phase(job, JobPhase::Confirm3Cancelled, &CONT()),
            "its migration has not ended",
        ),
        (end(job, JobResult::Failed), "its migration is active"),
    ] {
        refuses(&mut pair, from, request, expected);
    }
    let verdict = |outcome| ControlRequest::Verdict {
        target: JobTarget::Job(job),
        outcome,
        uid: 0,
    };
    refuses(
        &mut pair,
        from,
        verdict(Outcome::Committed),
        "not everything was sent",
    );
    refuses(
        &mut pair,
        from,
        verdict(Outcome::Aborted),
        "its migration has not ended",
    );
}

/// After it the guest is whose its manager says, and it says so once.
#[test]
fn a_source_that_sent_everything() {
    let mut pair = Pair::new(RunState::Running);
    let (job, _) = send(&mut pair).unwrap();
    let from = Side::Source;
    let again = [("migrate", json!({"uri": "tcp:[::1]:4444"}))];
    for (request, expected) in [
        (
            phase(job, JobPhase::Perform3, &again),
            "everything was sent",
        ),
        (
            phase(job, JobPhase::Confirm3, &QUIT()),
            "from which confirm3 cannot be entered",
        ),
        (
            end(job, JobResult::Failed),
            "whose the guest is was not said",
        ),
        (
            end(job, JobResult::Completed),
            "whose the guest is was not said",
        ),
    ] {
        refuses(&mut pair, from, request, expected);
    }
    granted(&mut pair, job).unwrap();
    let cancel = ControlRequest::JobCancel { job };
    refuses(&mut pair, from, cancel, "no longer ours to choose");
    pair.enter(from, job, JobPhase::Confirm3, &[], None)
        .unwrap();
    for (request, expected) in [
        (
            phase(job, JobPhase::Confirm3Cancelled, &CONT()),
            "cannot be entered",
        ),
        (phase(job, JobPhase::Perform3Done, &[]), "cannot be entered"),
        (
            phase(job, JobPhase::Confirm3, &CONT()),
            "cont is not for phase confirm3",
        ),
        (end(job, JobResult::Failed), "ends as completed"),
    ] {
        refuses(&mut pair, from, request, expected);
    }
    let aborted = ControlRequest::Verdict {
        target: JobTarget::Job(job),
        outcome: Outcome::Aborted,
        uid: 0,
    };
    refuses(&mut pair, from, aborted, "cannot be entered");
}

/// A destination runs only when it is whole, and what may have run is not given up.
#[test]
fn a_destination() {
    let mut pair = Pair::new(RunState::Running);
    let to = Side::Destination;
    let job = pair.destination.begin(JobKind::MigrationIn).unwrap();
    for (request, expected) in [
        (
            phase(job, JobPhase::Prepare, &CONT()),
            "cont is not for phase prepare",
        ),
        (phase(job, JobPhase::Perform3, &[]), "cannot be entered"),
        (
            phase(job, JobPhase::Finish3, &CONT()),
            "its copy is not whole",
        ),
        (end(job, JobResult::Completed), "there is no guest here"),
        (
            with_cookie(job, JobPhase::Prepare, &[], Some("x")),
            "it is for finish3",
        ),
    ] {
        refuses(&mut pair, to, request, expected);
    }
    let mut pair = Pair::new(RunState::Running);
    let (from, job) = send(&mut pair).unwrap();
    let both = [CONT(), QUIT()].concat();
    for (request, expected) in [
        (
            phase(job, JobPhase::Finish3, &both),
            "be continued and ended at once",
        ),
        (
            end(job, JobResult::Completed),
            "whose the guest is was not said",
        ),
        (
            end(job, JobResult::Failed),
            "whose the guest is was not said",
        ),
    ] {
        refuses(&mut pair, to, request, expected);
    }
    let cookie = granted(&mut pair, from).unwrap();
    let last = cookie.len() - 1;
    let other = cookie.replace("d0d0", "d1d1");
    for wrong in ["", "x", &cookie[..last], &format!("{cookie} "), &other] {
        let request = with_cookie(job, JobPhase::Finish3, &[], Some(wrong));
        refuses(
            &mut pair,
            to,
            request,
            "it is not what perform3_done answered",
        );
    }
    pair.enter(to, job, JobPhase::Finish3, &CONT(), Some(cookie))
        .unwrap();
    let jobs = pair.destination.jobs();
    let detail = &jobs[0].detail;
    assert!(
        detail.contains("granted by the source's journal"),
        "{detail}"
    );
    assert_eq!(jobs[0].cookie.as_deref(), Some("<manager/>"));
    for (request, expected) in [
        (
            phase(job, JobPhase::Finish3, &QUIT()),
            "the guest may have run here",
        ),
        (phase(job, JobPhase::Prepare, &[]), "cannot be entered"),
        (end(job, JobResult::Failed), "ends as completed"),
        (
            ControlRequest::JobCancel { job },
            "no longer ours to choose",
        ),
    ] {
        refuses(&mut pair, to, request, expected);
    }
}

/// A cookie of another guest's, or of another source than the one before.
#[test]
fn a_cookie_from_elsewhere() {
    use super::super::super::super::job::driven::Carried;
    let mut pair = Pair::new(RunState::Running);
    let (from, job) = send(&mut pair).unwrap();
    let cookie = granted(&mut pair, from).unwrap();
    let mut carried = Carried::parse(&cookie).unwrap();
    let domain = carried.domain;
    carried.domain = journal_format::number::DomainId(journal_format::number::Id128([7; 16]));
    let request = with_cookie(job, JobPhase::Finish3, &[], Some(&carried.to_string()));
    refuses(
        &mut pair,
        Side::Destination,
        request,
        "it is another guest's",
    );
    pair.enter(Side::Destination, job, JobPhase::Finish3, &[], Some(cookie))
        .unwrap();
    carried.domain = domain;
    carried.granted.journal =
        journal_format::number::JournalId(journal_format::number::Id128([7; 16]));
    let request = with_cookie(job, JobPhase::Finish3, &[], Some(&carried.to_string()));
    refuses(&mut pair, Side::Destination, request, "from another source");
}
