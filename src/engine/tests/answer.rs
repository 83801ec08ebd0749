//! What is said of a QEMU that ended before the answer could leave, and what is not concluded from the end of another one.
//!
//! Not here: who is asked what, and when (`hostile`, the model).

use super::world::DOMAIN;
use super::*;
use crate::engine::{Engine, Message, Now, PeerResponse, Rule, Token};
use journal_format::record::{Observed, PeerAnswer, Process};

/// One answer, as it would leave after that input.
fn answer_after(engine: &mut Engine, inputs: Vec<Input>) -> Option<PeerAnswer> {
    let now = Now {
        wall: 1,
        monotonic: 1,
    };
    let steps = inputs.into_iter().map(|input| engine.step(now, input));
    let mut messages: Vec<Message> = steps.flat_map(|step| step.messages).collect();
    engine.amend(now, &mut messages);
    let mut answers = messages.into_iter().filter_map(|message| match message {
        Message::PeerReply {
            response: PeerResponse::Answer { answer, .. },
            ..
        } => Some(answer),
        _ => None,
    });
    let answer = answers.next();
    assert_eq!(answers.next(), None);
    answer
}

/// Everything was sent, and the source asks how it stands: the question, and the destination's engine.
fn asked(protocol: Protocol, at: usize) -> (Engine, Input) {
    let mut w = World::of(protocol);
    w.freeze = Some(MigrationStatus::Active);
    w.migrate(A);
    w.run_for(200);
    w.hold_asks = [true; 2];
    w.thaw();
    w.run_for(2_000);
    let (_, envelope, request) = w.held_asks.iter().find(|(from, ..)| *from != at).unwrap();
    let question = Input::Peer {
        token: Token(99),
        envelope: *envelope,
        nonce: journal_format::number::Nonce(Id128([9; 16])),
        request: request.clone(),
    };
    (w.hosts[at].engine.clone().unwrap(), question)
}

fn looked(process: Process, shows: Option<(RunState, MigrationStatus)>, like: &Engine) -> Input {
    let mut observed: Observed = like.eyes[&DOMAIN].observed.clone().unwrap();
    observed.process = process;
    let (run_state, migration) = shows.unzip();
    (observed.run_state, observed.migration) = (run_state, migration);
    Input::Looked {
        domain: DOMAIN,
        observed,
    }
}

/// v2: *whole* is the word on which the source ends its copy. A look shows the copy whole, and the same turn hears that its
/// QEMU ended: nothing of that turn has left yet.
#[test]
fn a_whole_that_its_qemu_does_not_outlive_is_taken_back() {
    let (engine, question) = asked(Protocol::V2, B);
    let whole = Some((RunState::Paused, MigrationStatus::Completed));
    let whole = looked(Process::Alive, whole, &engine);
    let ended = looked(Process::Dead, None, &engine);
    let alone = vec![question.clone(), whole.clone()];
    let answer = answer_after(&mut engine.clone(), alone);
    assert_eq!(answer, Some(PeerAnswer::Whole));
    let both = vec![question, whole, ended];
    let answer = answer_after(&mut engine.clone(), both);
    assert_eq!(answer, Some(PeerAnswer::Aborted));
}

/// The end of the process before is told once more, behind the registration of the next one: it is not that one's.
#[test]
fn a_late_look_at_the_process_before_says_nothing_of_this_one() {
    let mut w = World::new();
    w.run_for(200);
    let before = w.hosts[A].qemu.instance;
    w.kill(A);
    w.run_for(200);
    w.replace_qemu(A);
    w.add_domain(A);
    let observed = Observed {
        process: Process::Dead,
        instance: Some(before),
        run_state: None,
        migration: None,
        claim: ClaimSeen::Unread,
    };
    let domain = DOMAIN;
    w.input(A, Input::Looked { domain, observed });
    w.run_for(200);
    let engine = w.hosts[A].engine.as_ref().unwrap();
    let registered = &engine.state.domains.get(&DOMAIN).unwrap().state;
    assert_ne!(registered.instance, before);
    assert!(!registered.dead, "{}", w.story());
}

/// A source that died before it heard that the destination is prepared, and gave up where nobody hears it.
fn gave_up_alone(authority: Authority) -> World {
    let crashed = |batch| {
        let mut w = World::decided_by(authority);
        w.hosts[A].crash = Some(Crash::Before(batch));
        w.migrate(A);
        w.run_for(200);
        w
    };
    let is_prepared = |w: &World| {
        let state = &w.hosts[B].engine.as_ref().unwrap().state;
        w.hosts[A].engine.is_none() && state.open_of(DOMAIN).is_some()
    };
    let mut w = (1..20).map(crashed).find(is_prepared).unwrap();
    w.partitioned = true;
    w.restart(A);
    w.run_for(3_000);
    w
}

/// A destination whose QEMU died before anything was decided, and which closed that where nobody hears it.
fn withdrew_alone(authority: Authority) -> World {
    let mut w = World::decided_by(authority);
    w.freeze = Some(MigrationStatus::Active);
    w.migrate(A);
    w.run_for(200);
    w.crash(B);
    w.thaw();
    w.run_for(2_000);
    w.partitioned = true;
    w.kill(B);
    w.restart(B);
    w.run_for(3_000);
    w
}

/// The other side hears that the end is lost, now and after the next start, and holds; it is not told for ever that this side still decides.
fn assert_end_is_lost(mut w: World, at: usize, outcome: &str, held: Rule) {
    let names = w.names(at);
    assert_eq!(names.last(), Some(&"job-ended"), "{}", w.story());
    let from = names.iter().rposition(|name| *name == outcome).unwrap();
    w.crash(at);
    w.hosts[at].journal = super::gap::damaged(&w.hosts[at].journal, from, from + 1);
    w.restart(at);
    w.run_for(1_000);
    w.crash(at);
    w.restart(at);
    w.partitioned = false;
    w.run_for(SETTLE_MS);
    assert_eq!(w.held(1 - at), Some(held.name()), "{}", w.story());
    assert_eq!(w.broken, None);
}

#[test]
fn a_source_that_lost_what_it_gave_up_does_not_say_that_it_still_performs() {
    for authority in [Authority::Destination, Authority::Store, Authority::Manager] {
        let w = gave_up_alone(authority);
        let outcome = "migration-abandoned";
        assert_end_is_lost(w, A, outcome, Rule::DestinationPrepareAmnesia);
    }
}

#[test]
fn a_destination_that_lost_its_outcome_does_not_say_that_it_still_decides() {
    let w = withdrew_alone(Authority::Destination);
    assert_end_is_lost(w, B, "migration-aborted", Rule::SourceGrantedAmnesia);
}

/// The end is no more than that if the outcome can be read.
#[test]
fn a_closed_migration_whose_outcome_can_be_read_is_told_over_other_damage() {
    let w = withdrew_alone(Authority::Destination);
    let ended = w.names(B).len() - 1;
    for from in 0..ended {
        let mut w = withdrew_alone(Authority::Destination);
        let name = w.names(B)[from];
        if name == "migration-aborted" {
            continue;
        }
        w.crash(B);
        w.hosts[B].journal = super::gap::damaged(&w.hosts[B].journal, from, from + 1);
        w.partitioned = false;
        w.restart(B);
        w.run_for(SETTLE_MS);
        assert_eq!(w.running(), [A], "{name}: {}", w.story());
    }
}
