//! Authority manager: without its word both sides hold; its word is taken once, and never against what the two
//! sides see.

use journal_format::number::{Id128, Lsn, MigrationId, Nonce, Position};
use journal_format::record::{
    Authority, ClaimSeen, Decision, EffectCommand, MigrationStatus, Outcome, PeerAnswer,
    RecordBody, RunState, VerdictBy, WantedRunState,
};

use super::world::{A, B, Crash, World};
use super::{SETTLE_MS, assert_settled};
use crate::engine::{
    Answer, ControlRequest, Envelope, Input, JobTarget, PeerRequest, PeerResponse, Refusal,
};

/// Both sides wait for the manager.
fn waiting() -> World {
    let mut world = World::decided_by(Authority::Manager);
    world.migrate(A);
    world.run_for(3_000);
    assert_eq!(world.held(A), Some("source-verdict-awaited"));
    assert_eq!(world.held(B), Some("destination-verdict-awaited"));
    assert_eq!(world.running(), Vec::<usize>::new());
    world
}

fn give(world: &mut World, at: usize, outcome: Outcome) {
    let target = JobTarget::Domain("g".to_owned());
    let uid = 1000;
    world.control(
        at,
        ControlRequest::Verdict {
            target,
            outcome,
            uid,
        },
    );
}

/// Gives a verdict and waits for its answer.
fn verdict(world: &mut World, at: usize, outcome: Outcome) -> Result<Answer, Refusal> {
    let before = world.replies.len();
    give(world, at, outcome);
    for _ in 0..400 {
        world.run_for(50);
        if world.replies.len() > before {
            let (from, reply) = world.replies.remove(before);
            assert_eq!(from, at);
            return reply;
        }
    }
    panic!("no answer\n{}", world.story());
}

fn why(reply: Result<Answer, Refusal>) -> &'static str {
    match reply {
        Err(Refusal::Verdict { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

fn recorded(world: &World, at: usize) -> Option<(Outcome, VerdictBy)> {
    world.find(at, |body| match body {
        RecordBody::VerdictGiven(given) => Some((given.outcome, given.by)),
        _ => None,
    })
}

#[test]
fn without_a_verdict_both_hold() {
    let mut world = waiting();
    world.run_for(SETTLE_MS);
    for at in [A, B] {
        assert!(world.hosts[at].qemu.alive);
        world.crash(at);
        world.restart(at);
        world.run_for(5_000);
    }
    assert_eq!(world.running(), Vec::<usize>::new());
    assert_eq!(world.held(A), Some("source-verdict-awaited"));
    assert_eq!(world.held(B), Some("destination-verdict-awaited"));
    // However long it takes: nothing is written any more, and the journal may do slow things.
    let written = [A, B].map(|at| world.names(at).len());
    world.run_for(SETTLE_MS);
    assert_eq!([A, B].map(|at| world.names(at).len()), written);
    for host in &world.hosts {
        assert!(host.engine.as_ref().is_some_and(|one| !one.in_blackout()));
    }
}

/// A verdict at one side is enough while the two can talk, and given to both it is the same.
#[test]
fn a_verdict_is_carried_out_by_both_sides() {
    for outcome in Outcome::ALL {
        for order in [vec![A], vec![B], vec![A, B], vec![B, A]] {
            let mut world = waiting();
            for at in &order {
                if world.open_jobs().is_empty() {
                    break;
                }
                let name = JobTarget::Domain("g".to_owned());
                let reply = verdict(&mut world, *at, *outcome);
                // The second one may come when the job is over.
                let is_over = matches!(reply, Err(Refusal::NoOpenJob(_)));
                assert!(reply.is_ok() || is_over, "{order:?} {name:?}: {reply:?}");
            }
            world.run_for(SETTLE_MS);
            assert_settled(&world, &format!("{outcome} at {order:?}"));
            let expected = match outcome {
                Outcome::Committed => B,
                Outcome::Aborted => A,
            };
            assert_eq!(world.running(), vec![expected], "{outcome} at {order:?}");
            assert!(!world.hosts[1 - expected].qemu.alive);
            let first = recorded(&world, order[0]);
            assert_eq!(first, Some((*outcome, VerdictBy::Command)));
        }
    }
}

#[test]
fn contradictory_verdicts_are_refused_while_the_sides_talk() {
    for (first, second) in [(A, B), (B, A)] {
        for outcome in [Outcome::Committed, Outcome::Aborted] {
            let other = match outcome {
                Outcome::Committed => Outcome::Aborted,
                Outcome::Aborted => Outcome::Committed,
            };
            let mut world = waiting();
            // Neither is done before the other comes.
            give(&mut world, first, outcome);
            give(&mut world, second, other);
            world.run_for(SETTLE_MS);
            let what = format!("{outcome} at {first}, {other} at {second}");
            assert_settled(&world, &what);
            let verdicts: Vec<Option<(Outcome, VerdictBy)>> =
                [A, B].map(|at| recorded(&world, at)).to_vec();
            let taken: Vec<Outcome> = verdicts.iter().flatten().map(|(one, _)| *one).collect();
            assert!(
                taken.iter().all(|one| *one == taken[0]),
                "{what}: {taken:?}"
            );
        }
    }
}

/// Given one after the other, with the first one carried out as far as a moment goes.
#[test]
fn a_late_contradiction_is_refused() {
    for (first, second) in [(A, B), (B, A)] {
        for outcome in [Outcome::Committed, Outcome::Aborted] {
            let other = match outcome {
                Outcome::Committed => Outcome::Aborted,
                Outcome::Aborted => Outcome::Committed,
            };
            for moment in [0, 50, 200, 1_000, 5_000] {
                let mut world = waiting();
                assert!(verdict(&mut world, first, outcome).is_ok());
                world.run_for(moment);
                let reply = verdict(&mut world, second, other);
                let what = format!("{outcome} at {first}, {other} at {second}, {moment}");
                assert!(reply.is_err(), "{what}: {reply:?}");
                world.run_for(SETTLE_MS);
                assert_settled(&world, &what);
            }
        }
    }
}

#[test]
fn a_verdict_against_the_evidence_is_refused() {
    // Not whole, not completed.
    let mut world = World::decided_by(Authority::Manager);
    world.freeze = Some(journal_format::record::MigrationStatus::Active);
    world.migrate(A);
    world.run_for(1_000);
    for outcome in Outcome::ALL {
        let said = why(verdict(&mut world, A, *outcome));
        assert!(said.contains("QEMU has not sent everything"), "{said}");
    }
    let said = why(verdict(&mut world, B, Outcome::Committed));
    assert!(said.contains("not whole"), "{said}");
    world.thaw();
    world.run_for(2_000);

    // A source whose QEMU is gone, or in another state.
    world.hosts[A].qemu.status = journal_format::record::MigrationStatus::Failed;
    world.run_for(3_000);
    let said = why(verdict(&mut world, A, Outcome::Committed));
    assert!(said.contains("does not say completed"), "{said}");

    // What was started is never taken back, nor given back to the source.
    let mut world = waiting();
    world.stall = Some(|at, command| at == A && *command == EffectCommand::Kill);
    assert!(verdict(&mut world, B, Outcome::Committed).is_ok());
    world.run_for(2_000);
    assert_eq!(world.running(), vec![B]);
    assert!(verdict(&mut world, B, Outcome::Aborted).is_err());
    assert!(verdict(&mut world, A, Outcome::Aborted).is_err());
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "started");
}

/// Where the two sides cannot talk the manager has the word, at each of them.
#[test]
fn a_verdict_counts_where_the_other_side_is_away() {
    for at in [A, B] {
        for outcome in Outcome::ALL {
            let mut world = waiting();
            world.crash(1 - at);
            if at == A {
                // What was shown to the destination may still be on its way there.
                give(&mut world, at, *outcome);
                world.run_for(5_000);
                assert_eq!(recorded(&world, at), None, "{outcome}");
                world.run_for(SETTLE_MS);
            } else {
                assert!(verdict(&mut world, at, *outcome).is_ok());
            }
            let reply = world
                .replies
                .pop()
                .map_or(Ok(Answer::Done {}), |(_, reply)| reply);
            let what = format!("{outcome} at {at}\n{}", world.story());
            assert!(reply.is_ok(), "{reply:?}: {what}");
            world.run_for(5_000);
            world.restart(1 - at);
            world.run_for(SETTLE_MS);
            assert_settled(&world, &what);
            let expected = match outcome {
                Outcome::Committed => B,
                Outcome::Aborted => A,
            };
            assert_eq!(world.running(), vec![expected], "{what}");
        }
    }
}

/// A source whose QEMU is gone does not say so in words: that it no longer vouches for its copy is enough.
/// Found by the simulator.
#[test]
fn aborted_waits_for_a_source_that_vouches_for_its_copy() {
    let mut world = waiting();
    world.crash(A);
    world.kill(A);
    world.restart(A);
    let said = why(verdict(&mut world, B, Outcome::Aborted));
    assert!(said.contains("stands there whole"), "{said}");
    // Nor is its end taken for the manager's `quit`: it may have been continued before.
    assert_eq!(world.held(A), Some("source-verdict-awaited"));
    assert_eq!(world.running(), Vec::<usize>::new());
    assert!(verdict(&mut world, A, Outcome::Committed).is_ok());
    world.run_for(SETTLE_MS);
    assert_settled(&world, "the copy at the destination was the only one");
    assert_eq!(world.running(), vec![B]);
}

/// A QEMU that the manager continued, and that ended before its sidecar was back. Found by the simulator.
#[test]
fn an_end_that_nobody_watched_is_no_verdict() {
    for (at, word) in [
        (A, "source-verdict-awaited"),
        (B, "destination-verdict-awaited"),
    ] {
        let mut world = waiting();
        world.crash(at);
        world.kill(at);
        world.restart(at);
        world.run_for(SETTLE_MS);
        assert_eq!(world.held(at), Some(word), "{}", world.story());
        assert_eq!(recorded(&world, at), None);
        assert_eq!(world.running(), Vec::<usize>::new());
    }
}

/// Nor one behind a time in which it could not be seen: somebody else had its socket, or it was mute. Found by the simulator.
#[test]
fn an_end_behind_what_could_not_be_seen_is_no_verdict() {
    for (at, word) in [
        (A, "source-verdict-awaited"),
        (B, "destination-verdict-awaited"),
    ] {
        for is_another in [true, false] {
            let mut world = waiting();
            let qemu = &mut world.hosts[at].qemu;
            (qemu.is_another, qemu.mute) = (is_another, !is_another);
            world.run_for(60_000);
            let qemu = &mut world.hosts[at].qemu;
            (qemu.is_another, qemu.mute) = (false, false);
            world.kill(at);
            world.run_for(SETTLE_MS);
            assert_eq!(world.held(at), Some(word), "{}", world.story());
            assert_eq!(recorded(&world, at), None);
        }
    }
}

/// The manager continued the guest at the destination while nobody watched, it ran and died there; then it says so at
/// the source. That copy is an older one.
#[test]
fn committed_at_the_source_does_not_make_an_unwatched_end_an_aborted() {
    let mut world = waiting();
    world.crash(B);
    world.set_run(B, RunState::Running);
    world.kill(B);
    give(&mut world, A, Outcome::Committed);
    world.run_for(1_000);
    world.restart(B);
    world.run_for(SETTLE_MS);
    assert_eq!(world.running(), Vec::<usize>::new(), "{}", world.story());
    assert_eq!(world.held(B), Some("destination-verdict-awaited"));
    assert_eq!(recorded(&world, A), None);
    assert!(world.hosts[A].qemu.alive);
    let (from, reply) = world.replies.pop().expect("an answer");
    assert_eq!(from, A);
    assert_eq!(why(reply), "the destination's copy is not whole");
}

#[test]
fn the_manager_s_own_cont_is_its_verdict() {
    for (at, outcome) in [(A, Outcome::Aborted), (B, Outcome::Committed)] {
        for away in [false, true] {
            let mut world = waiting();
            if away {
                world.crash(1 - at);
            }
            world.set_run(at, RunState::Running);
            world.run_for(10_000);
            if away {
                world.restart(1 - at);
            }
            world.run_for(SETTLE_MS);
            let what = format!("cont at {at}, other side away {away}");
            assert_settled(&world, &what);
            assert_eq!(world.running(), vec![at], "{what}");
            assert!(!world.hosts[1 - at].qemu.alive);
            assert_eq!(recorded(&world, at), Some((outcome, VerdictBy::Cont)));
        }
    }
}

/// The manager continued the guest at the source, which then died or not, and the other copy was closed by hand: that
/// side never says whose the guest was. Found by the simulator.
#[test]
fn a_continued_source_is_held_when_the_other_side_was_closed_by_hand() {
    for dies in [false, true] {
        let mut world = waiting();
        world.crash(A);
        world.set_run(A, RunState::Running);
        world.kill(B);
        world.crash(B);
        world.restart(B);
        world.run_for(5_000);
        assert_eq!(world.held(B), Some("destination-verdict-awaited"));
        close(&mut world, B);
        world.restart(A);
        world.run_for(2_000);
        let word = Some((Outcome::Aborted, VerdictBy::Cont));
        assert_eq!(recorded(&world, A), word);
        if dies {
            world.kill(A);
        }
        world.run_for(SETTLE_MS);
        let held = Some("source-verdict-awaited");
        assert_eq!(world.held(A), held, "{dies}: {}", world.story());
        close(&mut world, A);
        world.run_for(SETTLE_MS);
        let jobs = world.open_jobs();
        let is_over = |job: &String| job.contains("open false");
        assert!(jobs.iter().all(is_over), "{jobs:?}");
        assert_eq!(world.hosts[A].qemu.alive, !dies);
    }
}

/// Given back to its source, whose QEMU refuses every `cont`, say since another process has the image: no rule holds it,
/// and yet an operator can close it. Found by the simulator.
#[test]
fn a_source_whose_cont_is_refused_for_ever_can_be_closed() {
    let mut world = waiting();
    world.hosts[A].qemu.refuse_cont = true;
    give(&mut world, A, Outcome::Aborted);
    world.run_for(SETTLE_MS);
    assert_eq!(world.held(A), Some("source-cancelled"));
    let is_open = |world: &World| {
        let jobs = world.open_jobs();
        jobs.iter().any(|job| job.starts_with("host 0: open true"))
    };
    assert!(is_open(&world), "{}", world.story());
    close(&mut world, A);
    world.run_for(SETTLE_MS);
    assert!(!is_open(&world), "{:?}", world.open_jobs());
    assert!(world.hosts[A].qemu.alive);
}

fn close(world: &mut World, at: usize) {
    let before = world.replies.len();
    world.control(
        at,
        ControlRequest::Resolve {
            name: "g".to_owned(),
            decision: Decision::Confirm,
            force: true,
            statement: "looked at".to_owned(),
            uid: 0,
        },
    );
    world.run_for(50);
    assert!(
        matches!(world.replies.get(before), Some((_, Ok(_)))),
        "{}",
        world.story()
    );
}

#[test]
fn the_manager_s_own_quit_is_its_verdict() {
    for (at, outcome) in [(A, Outcome::Committed), (B, Outcome::Aborted)] {
        let mut world = waiting();
        world.kill(at);
        world.run_for(SETTLE_MS);
        let what = format!("quit at {at}");
        assert_settled(&world, &what);
        assert_eq!(world.running(), vec![1 - at], "{what}");
        assert_eq!(recorded(&world, at), Some((outcome, VerdictBy::Quit)));
    }
}

/// A crash at every batch that follows a verdict, on either side; the manager gives it again if it got no
/// answer.
#[test]
fn a_crash_at_every_batch_after_a_verdict() {
    for outcome in Outcome::ALL {
        for told in [A, B] {
            for at in [A, B] {
                for number in 1..=12 {
                    for crash in [Crash::Before(number), Crash::After(number)] {
                        for effects_survive in [false, true] {
                            let mut world = waiting();
                            world.effects_survive = effects_survive;
                            world.hosts[at].batches = 0;
                            world.hosts[at].crash = Some(crash);
                            give(&mut world, told, *outcome);
                            world.run_for(3_000);
                            for host in [A, B] {
                                if world.hosts[host].engine.is_none() {
                                    world.restart(host);
                                }
                            }
                            world.run_for(5_000);
                            if world.held(told).is_some() {
                                give(&mut world, told, *outcome);
                            }
                            world.run_for(SETTLE_MS);
                            if world.hosts[at].engine.is_none() {
                                world.restart(at);
                                world.run_for(SETTLE_MS);
                            }
                            let what = format!(
                                "{outcome} told {told} host {at} {crash:?} effects survive {effects_survive}"
                            );
                            assert_settled(&world, &what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_paused_guest_stays_paused() {
    for outcome in Outcome::ALL {
        let mut world = World::decided_by(Authority::Manager);
        world.hosts[A].qemu.run = RunState::Paused;
        world.migrate(A);
        world.run_for(3_000);
        let at = match outcome {
            Outcome::Committed => B,
            Outcome::Aborted => A,
        };
        assert!(verdict(&mut world, at, *outcome).is_ok());
        world.run_for(SETTLE_MS);
        assert_eq!(world.broken, None);
        assert_eq!(world.running(), Vec::<usize>::new());
        assert_eq!(world.open_jobs(), Vec::<String>::new(), "{}", world.story());
        assert!(world.hosts[at].qemu.alive && !world.hosts[1 - at].qemu.alive);
        assert_eq!(world.wanted(at), Some(WantedRunState::Paused));
    }
}

/// Two contradictory verdicts whose questions cross on their way, and are answered before either is taken.
#[test]
fn crossing_verdicts_do_not_lose_the_guest() {
    let pairs = [
        [Outcome::Committed, Outcome::Aborted],
        [Outcome::Aborted, Outcome::Committed],
    ];
    for verdicts in pairs {
        for order in [[A, B], [B, A]] {
            for held in [[true, true], [true, false], [false, true], [false, false]] {
                for between in [0, 50, 100] {
                    let mut world = waiting();
                    world.hold_asks = held;
                    world.run_for(3_000);
                    let before = world.replies.len();
                    for at in order {
                        give(&mut world, at, verdicts[at]);
                        world.run_for(between);
                    }
                    world.run_for(1_000);
                    world.release_asks();
                    world.run_for(SETTLE_MS);
                    let what = format!("{verdicts:?} {order:?} held {held:?} between {between}");
                    assert_settled(&world, &what);
                    let taken: Vec<usize> = world.replies[before..]
                        .iter()
                        .filter(|(_, reply)| reply.is_ok())
                        .map(|(at, _)| *at)
                        .collect();
                    assert!(taken.len() <= 1, "{what}: both were taken");
                    for at in [A, B] {
                        let is_taken = taken.contains(&at);
                        assert_eq!(recorded(&world, at).is_some(), is_taken, "{what}");
                    }
                    if let Some(at) = taken.first() {
                        let runs = match verdicts[*at] {
                            Outcome::Committed => B,
                            Outcome::Aborted => A,
                        };
                        assert_eq!(world.running(), vec![runs], "{what}");
                    }
                }
            }
        }
    }
}

/// The source's copy is not ended on the manager's word alone while the destination can be heard.
#[test]
fn a_committed_source_waits_for_the_destination_to_have_started() {
    let mut world = waiting();
    world.stall = Some(|at, command| at == B && *command == EffectCommand::Cont);
    give(&mut world, A, Outcome::Committed);
    world.run_for(2_000);
    assert!(world.has(B, |body| matches!(body, RecordBody::MigrationCommitted(_))));
    assert!(world.hosts[A].qemu.alive, "{}", world.story());
    assert_eq!(recorded(&world, A), None);
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "started at last");
    assert_eq!(world.running(), vec![B]);
    let said = world.replies.last();
    assert!(matches!(said, Some((A, Ok(_)))), "{said:?}");
}

/// A copy that is being ended slowly is not yet one that the source may be ended for.
#[test]
fn a_word_against_the_one_before_waits_for_what_became_of_that() {
    let mut world = waiting();
    world.stall = Some(|at, command| at == B && *command == EffectCommand::Kill);
    let refused = verdict(&mut world, A, Outcome::Aborted);
    assert!(why(refused).contains("still may"));
    assert!(verdict(&mut world, A, Outcome::Committed).is_err());
    assert!(world.hosts[A].qemu.alive, "{}", world.story());
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "aborted, as it was said first");
    assert_eq!(world.running(), vec![A]);
}

/// A verdict is no licence to touch a QEMU that may be somebody else's.
#[test]
fn a_verdict_on_a_qemu_that_is_not_the_job_s_is_refused() {
    for at in [A, B] {
        for outcome in Outcome::ALL {
            for other_side_away in [false, true] {
                let mut world = waiting();
                if other_side_away {
                    world.crash(1 - at);
                }
                world.hosts[at].qemu.claim = ClaimSeen::Foreign("somebody".to_owned());
                let written = world.names(at).len();
                let said = why(verdict(&mut world, at, *outcome));
                assert!(said.contains("QEMU is not the one"), "{said}");
                world.run_for(5_000);
                let later = &world.names(at)[written..];
                let effects = later.iter().filter(|name| **name == "effect-intended");
                assert_eq!(effects.count(), 0, "{outcome} at {at}\n{}", world.story());
            }
        }
    }
}

/// What is refused, or comes from a former life, says nothing of how the other side stands.
#[test]
fn a_verdict_is_taken_on_no_other_word_than_the_answer_to_it() {
    // The destination cannot be reached, and then it is, and has no room.
    let mut world = waiting();
    world.crash(B);
    world.run_for(3_000);
    world.hold_asks = [true, false];
    give(&mut world, A, Outcome::Aborted);
    world.run_for(11_000);
    let why = "too many wait".to_owned();
    answered(&mut world, PeerResponse::Refused { why });
    assert_eq!(recorded(&world, A), None, "{}", world.story());

    // A question of the destination's former life arrives when it has answered, and looks like amnesia.
    let mut world = waiting();
    let former = position(&world, B);
    world.crash(B);
    world.restart(B);
    world.run_for(5_000);
    world.hold_asks = [false, true];
    give(&mut world, A, Outcome::Committed);
    world.run_for(100);
    let migration = migration(&world);
    let input = Input::Peer {
        token: world.token(),
        envelope: Envelope {
            sender: former,
            saw: None,
        },
        nonce: Nonce(Id128([9; 16])),
        request: PeerRequest::Ask { migration },
    };
    world.input(A, input);
    world.run_for(100);
    assert!(world.has(A, |body| {
        matches!(body, RecordBody::PeerHeard(heard) if heard.answer == PeerAnswer::Amnesia)
    }));
    assert_eq!(recorded(&world, A), None, "{}", world.story());
    assert!(world.hosts[A].qemu.alive, "{}", world.story());
}

/// A source whose copy is not there to fall back to passes no aborted on.
#[test]
fn aborted_is_not_passed_on_for_a_copy_that_is_gone() {
    let mut world = waiting();
    world.hold_asks = [true, true];
    give(&mut world, A, Outcome::Aborted);
    world.run_for(50);
    world.kill(A);
    world.hold_asks = [true, false];
    world.run_for(SETTLE_MS);
    let gone = world.has(B, |body| matches!(body, RecordBody::MigrationAborted(_)));
    assert!(!gone, "{}", world.story());
    assert!(world.hosts[B].qemu.alive, "{}", world.story());
}

/// Where the source's QEMU is gone, the destination's copy may be the only one.
#[test]
fn aborted_is_not_taken_from_a_source_that_is_not_whole() {
    for (answer, is_taken) in [
        (PeerAnswer::NotWhole, false),
        (PeerAnswer::GrantedAndSafe, true),
    ] {
        let mut world = waiting();
        world.hold_asks = [true, true];
        give(&mut world, B, Outcome::Aborted);
        world.run_for(50);
        let envelope = Envelope {
            sender: position(&world, A),
            saw: None,
        };
        let cookie = world.find(A, |body| match body {
            RecordBody::MigrationGranted(granted) => Some(granted.cookie),
            _ => None,
        });
        let cookie = cookie.filter(|_| is_taken);
        let result = Ok((envelope, PeerResponse::Answer { answer, cookie }));
        let migration = migration(&world);
        world.input(B, Input::PeerAnswered { migration, result });
        world.run_for(200);
        let aborted = world.has(B, |body| matches!(body, RecordBody::MigrationAborted(_)));
        assert_eq!(aborted, is_taken, "{answer}: {}", world.story());
        assert_eq!(world.hosts[B].qemu.alive, !is_taken, "{answer}");
    }
}

fn migration(world: &World) -> MigrationId {
    let granted = world.find(A, |body| match body {
        RecordBody::MigrationGranted(granted) => Some(granted.cookie.migration),
        _ => None,
    });
    granted.unwrap()
}

/// How far that side's journal is.
fn position(world: &World, at: usize) -> Position {
    let engine = world.hosts[at].engine.as_ref().unwrap();
    Position {
        journal: engine.config.journal,
        epoch: engine.config.epoch,
        opening: engine.config.opening,
        lsn: Lsn(engine.next.0 - 1),
    }
}

/// The source's question comes to that.
fn answered(world: &mut World, response: PeerResponse) {
    world.restart(B);
    let envelope = Envelope {
        sender: position(world, B),
        saw: None,
    };
    let result = Ok((envelope, response));
    let migration = migration(world);
    world.input(A, Input::PeerAnswered { migration, result });
    world.run_for(50);
}

/// A hand from outside saved the destination's copy, which may have run before, or saves it still: the manager, who does not know, does not end it by
/// its word. An operator does.
#[test]
fn aborted_does_not_end_a_copy_that_was_sent_on() {
    let sent_on = [
        (RunState::Postmigrate, MigrationStatus::Completed),
        (RunState::FinishMigrate, MigrationStatus::Active),
        (RunState::Paused, MigrationStatus::Active),
        (RunState::Paused, MigrationStatus::Failed),
    ];
    let mut held = 0;
    for (run, status) in sent_on {
        let mut world = waiting();
        world.hosts[B].qemu.run = run;
        world.hosts[B].qemu.status = status;
        let refused = why(verdict(&mut world, B, Outcome::Aborted));
        assert!(refused.contains("may be the guest"), "{refused}");
        assert!(world.hosts[B].qemu.alive, "{}", world.story());
        if world.held(B) != Some("no-rule-for-this") {
            // It may have loaded a moment ago; a source that says aborted has a copy to go on with.
            continue;
        }
        let refused = why(verdict(&mut world, A, Outcome::Aborted));
        assert!(refused.contains("did not say"), "{refused}");
        let word = ControlRequest::Resolve {
            name: "g".to_owned(),
            decision: Decision::Kill,
            force: true,
            statement: "it was looked at".to_owned(),
            uid: 0,
        };
        world.control(B, word);
        world.run_for(SETTLE_MS);
        assert!(!world.hosts[B].qemu.alive, "{}", world.story());
        held += 1;
    }
    assert_eq!(held, 3);
}
