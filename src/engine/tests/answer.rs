//! What is said of a QEMU that ended before the answer could leave, and what is not concluded from the end of another one.
//!
//! Not here: who is asked what, and when (`hostile`, the model).

use super::world::DOMAIN;
use super::*;
use crate::engine::{Engine, Message, Now, PeerResponse, Token};
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
