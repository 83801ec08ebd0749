//! The record of a domain's registration is lost while a job of it is open: shown, held, taken up when it is
//! registered again.
//!
//! Not here: what damage elsewhere leads to (`gap`).

use journal_format::record::{
    Authority, ClaimSeen, Decision, JobKind, JobPhase, JobResult, MigrationStatus, Outcome,
    RecordBody, RunState,
};

use super::gap::{
    Became, DECIDED_MS, Misfortune, assert_as_sound, became, crashed_with, damaged, end,
};
use super::world::{A, B, Crash, DOMAIN, World};
use super::{PROTOCOLS, SETTLE_MS, crash_points};
use crate::engine::{
    Answer, ControlRequest, DomainView, Gap, History, Input, JobSeen, JobTarget, JobView, Refusal,
};

/// Loses the registration of the domain at `at`, and nothing else.
fn lose_registration(world: &mut World, at: usize) {
    let is_it = |entry: &History| match entry {
        History::Record(record) => matches!(
            record.body,
            RecordBody::DomainAdded(_) | RecordBody::DomainState(_)
        ),
        History::Gap(_) => false,
    };
    let journal = &world.hosts[at].journal;
    let from = journal.iter().position(is_it).expect("it is registered");
    // What a later checkpoint restates is read as far as it is whole.
    let last = journal.iter().rposition(is_it).expect("it is registered");
    world.hosts[at].journal = damaged(journal, from, last + 1);
}

fn domains(world: &mut World, at: usize) -> Vec<DomainView> {
    match ask(world, at, ControlRequest::QueryDomains { name: None }) {
        Ok(Answer::Domains(views)) => views,
        other => panic!("{other:?}"),
    }
}

fn jobs(world: &mut World, at: usize, name: Option<String>) -> Vec<JobView> {
    match ask(world, at, ControlRequest::QueryJobs { job: None, name }) {
        Ok(Answer::Jobs(views)) => views,
        other => panic!("{other:?}"),
    }
}

fn ask(world: &mut World, at: usize, request: ControlRequest) -> Result<Answer, Refusal> {
    world.replies.clear();
    world.control(at, request);
    world.run_for(60);
    let (_, reply) = world.replies.pop().expect("it is answered");
    reply
}

fn word(decision: Decision, force: bool) -> ControlRequest {
    ControlRequest::Resolve {
        name: DOMAIN.to_string(),
        decision,
        force,
        statement: "both sides were looked at".to_owned(),
        uid: 0,
    }
}

/// Crashed, and its registration lost; `None` if it had no open job then.
fn without_registration(
    (protocol, at, crash): (journal_format::record::Protocol, usize, Crash),
) -> Option<World> {
    let mut world = crashed_with(protocol, at, crash, Misfortune::None)?;
    lose_registration(&mut world, at);
    world.restart(at);
    world.run_for(DECIDED_MS);
    let engine = world.hosts[at].engine.as_ref().expect("it runs");
    let is_lost = engine.state.unregistered().contains(&DOMAIN);
    is_lost.then_some(world)
}

/// P6: nothing is done to it, and it says so; registered again, it comes to what it would have come to.
#[test]
fn it_is_held_and_taken_up_when_it_is_registered_again() {
    let (mut taken_up, mut over) = (0, 0);
    for (protocol, at) in PROTOCOLS.into_iter().flat_map(|one| [(one, A), (one, B)]) {
        for crash in crash_points(protocol, at) {
            let run = (protocol, at, crash);
            let what = format!("{protocol} host {at} {crash:?}");
            let Some(mut world) = without_registration(run) else {
                continue;
            };
            let mut sound =
                crashed_with(protocol, at, crash, Misfortune::None).expect("it crashed");
            sound.restart(at);
            sound.run_for(DECIDED_MS);
            let sound = end(&sound);
            assert_as_sound(&world, &sound, &what);
            let views = domains(&mut world, at);
            let [view] = views.as_slice() else {
                panic!("{what}: {views:?}")
            };
            let held = view.held.as_ref().expect("it is held");
            assert_eq!(
                (view.uuid, held.rule),
                (DOMAIN, "journal-damaged"),
                "{what}"
            );
            assert_eq!((&view.qmp, view.pid), (&None, None), "{what}");
            let named = jobs(&mut world, at, Some(DOMAIN.to_string()));
            let open: Vec<_> = named.iter().map(|job| Some(job.job)).collect();
            assert_eq!(open, [view.job], "{what}");

            world.add_domain(at);
            world.run_for(SETTLE_MS);
            assert_as_sound(&world, &sound, &what);
            taken_up += 1;
            over += usize::from(became(&world, at) == Became::DecidedOver);
        }
    }
    println!("{taken_up} taken up, {over} of them decided");
    assert!(taken_up > 60 && over > 30, "{taken_up} {over}");
}

/// Another QEMU of that name and identity, whatever it shows, is not the one that the job is about.
#[test]
fn another_qemu_in_its_place_is_left_alone() {
    let mut tried = 0;
    for (protocol, at) in PROTOCOLS.into_iter().flat_map(|one| [(one, A), (one, B)]) {
        for crash in crash_points(protocol, at) {
            for (run, status) in [
                (RunState::Inmigrate, MigrationStatus::None),
                (RunState::Paused, MigrationStatus::None),
                (RunState::Paused, MigrationStatus::Failed),
                (RunState::Postmigrate, MigrationStatus::Completed),
            ] {
                let what = format!("{protocol} host {at} {crash:?}, then {run} {status}");
                let Some(mut world) = without_registration((protocol, at, crash)) else {
                    continue;
                };
                world.replace_qemu(at);
                world.hosts[at].qemu.run = run;
                world.set_status(at, status);
                let before = world.hosts[at].journal.len();
                world.add_domain(at);
                world.run_for(SETTLE_MS);
                assert!(world.hosts[at].qemu.alive, "{what}\n{}", world.story());
                let story = world.story();
                assert_eq!(world.held(at), Some("journal-damaged"), "{what}\n{story}");
                let is_effect = |entry: &History| match entry {
                    History::Record(one) => matches!(one.body, RecordBody::EffectIntended(_)),
                    History::Gap(_) => false,
                };
                let since = &world.hosts[at].journal[before..];
                assert!(!since.iter().any(is_effect), "{what}\n{story}");
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried}");
}

/// An operator who cannot register its QEMU closes the job as it is; nothing else is possible without one.
#[test]
fn an_operator_closes_it_as_it_is() {
    let crash = crash_points(PROTOCOLS[1], A)[4];
    let mut world = without_registration((PROTOCOLS[1], A, crash)).expect("a job is open");
    for decision in [Decision::Kill, Decision::Resume, Decision::Hold] {
        let said = ask(&mut world, A, word(decision, true));
        assert!(matches!(said, Err(Refusal::OnlyConfirm { .. })), "{said:?}");
    }
    let said = ask(&mut world, A, word(Decision::Confirm, false));
    assert!(matches!(said, Err(Refusal::NeedsForce { .. })), "{said:?}");
    let said = ask(&mut world, A, word(Decision::Confirm, true));
    assert!(matches!(said, Ok(Answer::Done {})), "{said:?}");
    assert_eq!(domains(&mut world, A).len(), 0);
    assert_eq!(jobs(&mut world, A, None).len(), 0);
    // It stays so, and a restart finds nothing either.
    world.crash(A);
    world.restart(A);
    world.run_for(DECIDED_MS);
    assert_eq!(domains(&mut world, A).len(), 0);
}

/// A cancel and a manager's verdict are about a QEMU that nobody names: refused at once.
#[test]
fn nothing_else_is_said_of_it() {
    let mut world = World::decided_by(Authority::Manager);
    world.migrate(A);
    world.run_for(3_000);
    world.crash(A);
    lose_registration(&mut world, A);
    world.restart(A);
    world.run_for(1_000);
    let job = domains(&mut world, A)[0].job.expect("a job is open");
    let verdict = ControlRequest::Verdict {
        target: JobTarget::Job(job),
        outcome: Outcome::Committed,
        uid: 0,
    };
    let before = world.hosts[A].journal.len();
    for request in [verdict, ControlRequest::JobCancel { job }] {
        let said = ask(&mut world, A, request);
        assert!(matches!(said, Err(Refusal::OnlyConfirm { .. })), "{said:?}");
    }
    assert_eq!(world.hosts[A].journal.len(), before, "{}", world.story());
}

/// A checkpoint says again what is known, and the hold with it.
#[test]
fn it_stays_held_over_restarts() {
    let is_claimed = |world: &World| matches!(world.hosts[A].qemu.claim, ClaimSeen::Present(_));
    let mut worlds = crash_points(PROTOCOLS[0], A)
        .into_iter()
        .filter_map(|crash| without_registration((PROTOCOLS[0], A, crash)));
    let mut world = worlds.find(is_claimed).expect("one is claimed");
    let before = domains(&mut world, A);
    for _ in 0..2 {
        world.crash(A);
        world.restart(A);
        world.run_for(DECIDED_MS);
    }
    let after = domains(&mut world, A);
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    world.add_domain(A);
    world.run_for(SETTLE_MS);
    assert_eq!(became(&world, A), Became::DecidedOver, "{}", world.story());
}

/// Damage that may concern a domain without a job is a hold too, and a word of an operator frees it.
#[test]
fn a_domain_without_a_job_is_held_for_damage() {
    let mut world = World::new();
    world.crash(A);
    let host = &mut world.hosts[A];
    let last = host.journal.iter().rev().find_map(|entry| match entry {
        History::Record(record) => Some(record.lsn),
        History::Gap(_) => None,
    });
    let first = last
        .and_then(journal_format::number::Lsn::next)
        .expect("there is a record");
    host.journal.push(History::Gap(Gap { first, last: first }));
    world.restart(A);
    world.run_for(1_000);
    let views = domains(&mut world, A);
    let held = views[0].held.as_ref().expect("it is held");
    assert_eq!(held.rule, "journal-damaged");
    world.migrate(A);
    world.run_for(100);
    let (_, said) = world.replies.pop().expect("it is answered");
    assert!(matches!(said, Err(Refusal::Damaged { .. })), "{said:?}");
    let request = ControlRequest::Resolve {
        name: "g".to_owned(),
        decision: Decision::Confirm,
        force: true,
        statement: "it is the only copy".to_owned(),
        uid: 0,
    };
    let said = ask(&mut world, A, request);
    assert!(matches!(said, Ok(Answer::Done {})), "{said:?}");
    assert!(domains(&mut world, A)[0].held.is_none());
    world.migrate(A);
    world.run_for(SETTLE_MS);
    assert_eq!(world.running(), vec![B], "{}", world.story());
    let learned = |body: &RecordBody| matches!(body, RecordBody::OutcomeLearned(one) if one.outcome == Outcome::Committed);
    assert!(world.has(A, learned), "{}", world.story());
}

/// A job that is no migration, of a domain that lost its registration: held, and a word that could make a second copy run
/// needs force, since the damage may hide where the guest is.
#[test]
fn another_job_is_held_and_taken_up_as_well() {
    let mut world = World::new();
    let begin = ControlRequest::JobBegin {
        name: "g".to_owned(),
        kind: JobKind::Suspend,
        cookie: None,
    };
    let Ok(Answer::JobBegun { job }) = ask(&mut world, A, begin) else {
        panic!("{:?}", world.replies)
    };
    world.crash(A);
    lose_registration(&mut world, A);
    world.restart(A);
    world.run_for(1_000);
    let views = domains(&mut world, A);
    assert_eq!(views[0].name, DOMAIN.to_string());
    assert_eq!(views[0].job, Some(job));
    assert_eq!(jobs(&mut world, A, None)[0].name, DOMAIN.to_string());

    // What needs a QEMU has one clear error, at once.
    let enter = ControlRequest::PhaseEnter {
        job,
        phase: JobPhase::Perform,
        effects: Vec::new(),
        cookie: None,
        peer_cookie: None,
    };
    let result = JobResult::Completed;
    let end = ControlRequest::JobEnd { job, result };
    for request in [enter, end, ControlRequest::JobCancel { job }] {
        let said = ask(&mut world, A, request);
        assert!(matches!(said, Err(Refusal::OnlyConfirm { .. })), "{said:?}");
    }

    world.add_domain(A);
    world.run_for(1_000);
    let (domain, seen) = (DOMAIN, JobSeen::default());
    world.input(A, Input::JobLooked { domain, seen });
    world.run_for(1_000);
    let views = domains(&mut world, A);
    let held = views[0].held.as_ref().expect("it is held");
    assert_eq!((views[0].job, held.rule), (Some(job), "journal-damaged"));
    let word = |decision, force| ControlRequest::Resolve {
        name: "g".to_owned(),
        decision,
        force,
        statement: "looked".to_owned(),
        uid: 0,
    };
    let said = ask(&mut world, A, word(Decision::Resume, false));
    assert!(matches!(said, Err(Refusal::NeedsForce { .. })), "{said:?}");
    let said = ask(&mut world, A, word(Decision::Confirm, true));
    assert!(matches!(said, Ok(Answer::Decision(_))), "{said:?}");
    assert!(jobs(&mut world, A, None).is_empty());
}

/// The begin of the job is lost with the registration: only QEMU's claim tells that there was one, and that holds it.
#[test]
fn a_claim_of_nothing_known_is_held() {
    let mut world = World::decided_by(Authority::Manager);
    world.migrate(A);
    world.run_for(3_000);
    world.crash(A);
    let journal = &world.hosts[A].journal;
    let is_it = |entry: &History| match entry {
        History::Record(one) => matches!(one.body, RecordBody::DomainAdded(_)),
        History::Gap(_) => false,
    };
    let from = journal.iter().position(is_it).expect("it is registered");
    world.hosts[A].journal = damaged(journal, from, journal.len());
    world.restart(A);
    world.run_for(1_000);
    world.add_domain(A);
    world.run_for(1_000);
    let views = domains(&mut world, A);
    let held = views[0].held.as_ref().expect("it is held");
    assert_eq!((views[0].job, held.rule), (None, "journal-damaged"));
}
