//! Clients of the domains' monitors: what goes to QEMU at each moment of a job, and that nothing of it runs a guest twice
//! or ends its last copy.

use std::fmt::Write as _;

use journal_format::record::{
    Authority, Decision, EffectCommand, EffectResult, JobKind, JobPhase, JobResult, Outcome,
    Protocol, RecordBody, Role, WantedRunState,
};

use super::hostile::granted_b_undecided;
use super::world::{A, B, DOMAIN, World};
use super::*;
use crate::engine::monitor::{Admission, Standing, Verb, Why, admission, verb};
use crate::engine::{Answer, JobSeen, ManagerEffect, MonitorCommand};

fn command(execute: &str) -> MonitorCommand {
    MonitorCommand {
        execute: execute.to_owned(),
        arguments: "{}".to_owned(),
        redacted: false,
        human: None,
        is_out_of_band: false,
        names_claim: false,
    }
}

fn human(word: &str) -> MonitorCommand {
    MonitorCommand {
        human: Some(word.to_owned()),
        ..command("human-monitor-command")
    }
}

fn send(world: &mut World, at: usize, command: MonitorCommand) {
    let token = world.token();
    world.input(
        at,
        Input::Monitor {
            token,
            domain: DOMAIN,
            uid: 0,
            command,
        },
    );
}

/// The commands that went to QEMU for clients.
fn passed(world: &World, at: usize) -> Vec<String> {
    let mut names = Vec::new();
    world.find(at, |body| {
        if let RecordBody::EffectIntended(intended) = body
            && let EffectCommand::Monitor { execute, .. } = &intended.command
        {
            assert_eq!(intended.job, None);
            names.push(execute.clone());
        }
        None::<()>
    });
    names
}

const STANDINGS: [Standing; 10] = [
    Standing::Free,
    Standing::Unseen,
    Standing::GaveAway,
    Standing::Damaged,
    Standing::Recovering,
    Standing::OtherJob,
    busy(Role::Source, false),
    busy(Role::Source, true),
    busy(Role::Destination, false),
    busy(Role::Destination, true),
];

const fn busy(role: Role, awaits_verdict: bool) -> Standing {
    Standing::Busy {
        role,
        awaits_verdict,
    }
}

#[test]
fn the_table() {
    let mut table = String::new();
    for standing in STANDINGS {
        writeln!(table, "{standing:?}").unwrap();
        for verb in Verb::ALL {
            writeln!(table, "    {verb:?}: {:?}", admission(verb, standing)).unwrap();
        }
    }
    insta::assert_snapshot!("monitor", table);
}

/// P2: whatever the table says, nothing that lets a guest run goes through while a job has it.
#[test]
fn nothing_that_runs_a_guest_passes_in_a_job() {
    for standing in STANDINGS {
        if standing == Standing::Free {
            continue;
        }
        for verb in [Verb::Cont, Verb::RunState, Verb::Human, Verb::Migration] {
            assert_ne!(
                admission(verb, standing),
                Admission::Pass,
                "{verb:?} {standing:?}"
            );
        }
        assert_eq!(
            admission(Verb::Claim, standing),
            Admission::Refuse(Why::Claim)
        );
    }
}

#[test]
fn commands_are_told_apart() {
    for (command, expected) in [
        (command("cont"), Verb::Cont),
        (command("migrate-set-parameters"), Verb::Migration),
        (command("snapshot-load"), Verb::RunState),
        (command("device_add"), Verb::Other),
        (command("something-new"), Verb::Other),
        (human("info"), Verb::Other),
        (human("cont"), Verb::Human),
        (human("c"), Verb::Human),
        (human(""), Verb::Human),
        (command("human-monitor-command"), Verb::Human),
    ] {
        assert_eq!(verb(&command), expected, "{command:?}");
    }
    let claim = MonitorCommand {
        names_claim: true,
        ..command("object-del")
    };
    assert_eq!(verb(&claim), Verb::Claim);
}

#[test]
fn an_idle_domains_commands_pass_with_their_records() {
    let mut world = World::new();
    world.run_for(100);
    send(&mut world, A, command("stop"));
    world.run_for(100);
    assert_eq!(passed(&world, A), ["stop"]);
    assert_eq!(world.wanted(A), Some(WantedRunState::Paused));
    assert_eq!(world.running(), Vec::<usize>::new());
    send(&mut world, A, command("cont"));
    send(&mut world, A, command("device_add"));
    send(&mut world, A, command("netdev_add"));
    world.run_for(100);
    assert_eq!(
        passed(&world, A),
        ["stop", "cont", "device_add", "netdev_add"]
    );
    assert_eq!(world.wanted(A), Some(WantedRunState::Running));
    assert_eq!(world.running(), [A]);
    let results = world
        .names(A)
        .into_iter()
        .filter(|name| *name == "effect-finished");
    assert_eq!(results.count(), 4);
    assert!(
        world.replies.is_empty(),
        "QEMU answers: {:?}",
        world.replies
    );
}

/// A source that gave its licence away, and whose destination is not heard: P2 hangs on this copy.
#[test]
fn a_source_that_granted_is_not_continued() {
    for protocol in [Protocol::V3, Protocol::V2] {
        let mut world = World::of(protocol);
        world.freeze = Some(MigrationStatus::Device);
        world.migrate(A);
        world.run_for(200);
        world.partitioned = true;
        world.thaw();
        world.run_for(1_000);
        assert!(world.held(A).is_some(), "{}", world.story());
        for command in [
            command("cont"),
            command("quit"),
            command("migrate"),
            command("migrate_cancel"),
            command("snapshot-load"),
            human("cont"),
            human("loadvm"),
        ] {
            world.replies.clear();
            let name = command.execute.clone();
            // Until it has committed a source of v2 may still give up.
            if protocol == Protocol::V2 && name == "migrate_cancel" {
                continue;
            }
            send(&mut world, A, command);
            world.run_for(1_000);
            let refused = matches!(world.replies.as_slice(), [(A, Err(_))]);
            assert!(refused, "{name}: {:?}", world.replies);
        }
        assert_eq!(passed(&world, A), Vec::<String>::new());
        // What changes nothing about who runs passes.
        send(&mut world, A, command("device_del"));
        send(&mut world, A, human("info"));
        world.run_for(1_000);
        assert_eq!(passed(&world, A), ["device_del", "human-monitor-command"]);
        world.partitioned = false;
        world.run_for(SETTLE_MS);
        assert_settled(&world, "heard again");
        assert_eq!(world.running(), [B]);
    }
}

/// What QMP has a command for is not said as a human would: its meaning would not be recorded. No job is open.
#[test]
fn human_words_for_plain_commands_are_refused() {
    for (word, plain) in [
        ("c", "cont"),
        ("stop", "stop"),
        ("q", "quit"),
        ("migrate", "migrate"),
        ("migrate_incoming", "migrate-incoming"),
    ] {
        let mut world = World::of(Protocol::V3);
        world.run_for(20);
        send(&mut world, A, human(word));
        world.run_for(1_000);
        let [(A, Err(refusal))] = world.replies.as_slice() else {
            panic!("{word}: {:?}", world.replies);
        };
        let said = refusal.to_string();
        assert!(said.contains(&format!("QMP's own '{plain}'")), "{said}");
        assert_eq!(passed(&world, A), Vec::<String>::new());
    }
    let mut world = World::of(Protocol::V3);
    world.run_for(20);
    send(&mut world, A, human("savevm"));
    world.run_for(1_000);
    assert_eq!(passed(&world, A), ["human-monitor-command"]);
}

/// At every moment, on either side: never two copies, never none, and the job comes to its end.
#[test]
fn a_client_at_every_moment_of_a_migration() {
    let commands = [
        command("cont"),
        command("quit"),
        command("migrate_cancel"),
        command("migrate-continue"),
        command("migrate-incoming"),
        command("dump-guest-memory"),
        command("device_add"),
        human("cont"),
    ];
    for protocol in [Protocol::V3, Protocol::V2] {
        for at in [A, B] {
            for command in &commands {
                for moment in (1..40).step_by(3) {
                    let mut world = World::of(protocol);
                    world.run_for(20);
                    world.migrate(A);
                    world.run_for(moment);
                    send(&mut world, at, command.clone());
                    world.run_for(SETTLE_MS);
                    let what = format!("{} at {at} after {moment} ms, {protocol}", command.execute);
                    if passed(&world, at).contains(&"quit".to_owned()) {
                        // No job was open: that is its owner's own will.
                        assert_eq!(world.broken, None, "{what}");
                        assert_eq!(world.open_jobs(), Vec::<String>::new(), "{what}");
                    } else {
                        assert_settled(&world, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn an_owners_stop_in_a_job_is_carried_out_by_it() {
    let mut world = World::new();
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(300);
    send(&mut world, A, command("stop"));
    world.run_for(300);
    assert!(
        matches!(world.replies.last(), Some((A, Ok(Answer::Done {})))),
        "{:?}",
        world.replies
    );
    assert_eq!(passed(&world, A), Vec::<String>::new(), "the job's own");
    world.thaw();
    world.run_for(SETTLE_MS);
    assert_eq!(world.open_jobs(), Vec::<String>::new());
    assert_eq!(world.running(), Vec::<usize>::new());
    assert_eq!(world.wanted(B), Some(WantedRunState::Paused));
}

/// Authority manager: its cont and quit on a monitor are its verdict, with all that speaks against one.
#[test]
fn a_managers_cont_and_quit_are_its_verdict() {
    for (at, name, outcome, runs) in [
        (A, "cont", Outcome::Aborted, A),
        (A, "quit", Outcome::Committed, B),
        (B, "cont", Outcome::Committed, B),
        (B, "quit", Outcome::Aborted, A),
    ] {
        let mut world = World::decided_by(Authority::Manager);
        world.migrate(A);
        world.run_for(3_000);
        assert_eq!(world.held(A), Some("source-verdict-awaited"));
        send(&mut world, at, command(name));
        world.run_for(SETTLE_MS);
        let what = format!("{name} at {at}");
        assert_settled(&world, &what);
        assert_eq!(world.running(), [runs], "{what}");
        let given = world.find(at, |body| match body {
            RecordBody::VerdictGiven(given) => Some(given.outcome),
            _ => None,
        });
        assert_eq!(given, Some(outcome), "{what}");
        assert_eq!(passed(&world, at), Vec::<String>::new());
    }
}

#[test]
fn in_recovery_effects_are_refused() {
    let mut world = World::new();
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(300);
    // A life that has not seen its QEMU yet.
    let mut engine = world.hosts[A].engine.clone().unwrap();
    for live in engine.live.values_mut() {
        *live = crate::engine::live::Live {
            recovering: true,
            ..Default::default()
        };
    }
    let ask = |token| Input::Monitor {
        token: crate::engine::Token(token),
        domain: DOMAIN,
        uid: 0,
        command: command("device_add"),
    };
    let refused = engine.step(NOW, ask(901));
    let [crate::engine::Message::Reply { result, .. }] = refused.messages.as_slice() else {
        panic!("{refused:?}");
    };
    let why = match result {
        Err(Refusal::Monitor { why, .. }) => *why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why, Why::Recovering);
    assert!(refused.append.is_empty() && refused.effects.is_empty());
    // One look later it has decided.
    let observed = engine.eyes[&DOMAIN].observed.clone().unwrap();
    let domain = DOMAIN;
    engine.step(NOW, Input::Looked { domain, observed });
    let admitted = engine.step(NOW, ask(902));
    assert_eq!(admitted.effects.len(), 1, "{admitted:?}");
}

const NOW: crate::engine::Now = crate::engine::Now {
    wall: 1,
    monotonic: 1_000_000_000_000,
};

/// One is carried out at a time; what is for a QEMU that is stuck goes past it, and what became of the one that it
/// went past counts as unknown.
#[test]
fn out_of_band_goes_past_what_is_stuck() {
    let mut world = World::new();
    world.run_for(100);
    let mut engine = world.hosts[A].engine.take().unwrap();
    let ask = |token, command| Input::Monitor {
        token: crate::engine::Token(token),
        domain: DOMAIN,
        uid: 0,
        command,
    };
    let stuck = engine.step(NOW, ask(901, command("device_add")));
    assert_eq!(stuck.effects.len(), 1);
    let put_off = engine.step(NOW, ask(902, command("netdev_add")));
    assert!(
        put_off.effects.is_empty() && put_off.messages.is_empty(),
        "{put_off:?}"
    );
    let past = MonitorCommand {
        is_out_of_band: true,
        ..command("yank")
    };
    let past = engine.step(NOW, ask(903, past));
    assert_eq!(past.effects.len(), 1);
    let RecordBody::EffectFinished(finished) = &past.append[0].body else {
        panic!("{past:?}");
    };
    assert_eq!(finished.effect, stuck.effects[0].intent);
    assert!(matches!(finished.result, EffectResult::Unknown { .. }));
    let result = EffectResult::Done;
    let effect = past.effects[0].intent;
    let next = engine.step(NOW, Input::EffectFinished { effect, result });
    assert_eq!(next.effects.len(), 1, "what was put off: {next:?}");
    assert_eq!(next.effects[0].command.name(), "netdev_add");
    // The late result of the one that was stuck belongs to nothing any more.
    let (effect, result) = (stuck.effects[0].intent, EffectResult::Done);
    let late = engine.step(NOW, Input::EffectFinished { effect, result });
    assert!(late.append.is_empty(), "{late:?}");
}

/// A job that is no migration has the guest's run state to itself too, until it ends.
#[test]
fn another_jobs_run_state_is_its_own() {
    let mut world = World::new();
    world.run_for(100);
    world.control(
        A,
        ControlRequest::JobBegin {
            name: "g".to_owned(),
            kind: JobKind::Save,
            cookie: None,
        },
    );
    world.run_for(100);
    for (name, passes) in [("cont", false), ("migrate", false), ("device_add", true)] {
        send(&mut world, A, command(name));
        world.run_for(100);
        let has_passed = passed(&world, A).iter().any(|one| one == name);
        assert_eq!(has_passed, passes, "{name}: {}", world.story());
    }
}

/// P2: its licence went out, and an operator closed the job without a word on where the guest is. Neither a client, nor a
/// manager in another job, nor a client after such a job continues it.
#[test]
fn a_guest_that_was_given_away_is_not_continued_in_or_after_another_job() {
    let mut world = granted_b_undecided();
    world.run_for(1_000);
    world.control(
        A,
        ControlRequest::Resolve {
            name: "g".to_owned(),
            decision: Decision::Confirm,
            force: true,
            statement: "I look after both".to_owned(),
            uid: 0,
        },
    );
    world.run_for(1_000);
    world.control(
        A,
        ControlRequest::JobBegin {
            name: "g".to_owned(),
            kind: JobKind::Suspend,
            cookie: None,
        },
    );
    world.run_for(1_000);
    let job = world.replies.iter().find_map(|(_, reply)| match reply {
        Ok(Answer::JobBegun { job }) => Some(*job),
        _ => None,
    });
    let job = job.unwrap();
    world.replies.clear();
    world.control(
        A,
        ControlRequest::PhaseEnter {
            job,
            phase: JobPhase::Perform,
            effects: vec![ManagerEffect {
                execute: "cont".to_owned(),
                arguments: serde_json::Map::new(),
            }],
            cookie: None,
            peer_cookie: None,
        },
    );
    world.run_for(1_000);
    let refused = |world: &World| matches!(world.replies.as_slice(), [(A, Err(_))]);
    assert!(refused(&world), "{:?}", world.replies);
    world.replies.clear();
    let result = JobResult::Completed;
    world.control(A, ControlRequest::JobEnd { job, result });
    world.run_for(1_000);
    let (domain, seen) = (DOMAIN, JobSeen::default());
    world.input(A, Input::JobLooked { domain, seen });
    world.run_for(1_000);
    assert!(world.has(
        A,
        |body| matches!(body, RecordBody::JobEnded(ended) if ended.job == job)
    ));
    world.replies.clear();
    send(&mut world, A, command("cont"));
    world.run_for(1_000);
    assert!(refused(&world), "{:?}", world.replies);
    assert_eq!(world.running(), Vec::<usize>::new());
}
