//! Post-copy: a guest that is split over both sides comes through every crash of the sidecars, and
//! every break of the stream, without a human; where a half is lost, the other one is ended.

use journal_format::record::{
    Decision, EffectCommand, EffectResult, JobResult, MigrationStatus, Phase, RecordBody, RunState,
    WantedRunState,
};

use super::world::{A, B, Crash, World};
use super::{SETTLE_MS, assert_settled, migrated};
use crate::engine::Input;
use crate::engine::{ControlRequest, Refusal};

/// Breaks of the stream that every crash is tried with.
const BREAKS: [u32; 3] = [0, 1, 3];

fn phases(world: &World, at: usize) -> Vec<Phase> {
    let phase = |body: &RecordBody| match body {
        RecordBody::PhaseEntered(entered) => Some(entered.phase),
        _ => None,
    };
    let mut phases = Vec::new();
    world.has(at, |body| {
        phases.extend(phase(body));
        false
    });
    phases
}

fn result(world: &World, at: usize) -> Option<JobResult> {
    world.find(at, |body| match body {
        RecordBody::JobEnded(ended) => Some(ended.result),
        _ => None,
    })
}

fn cancels(world: &World, at: usize) -> bool {
    world.has(at, |body| {
        matches!(body, RecordBody::EffectIntended(one) if one.command == EffectCommand::MigrateCancel)
    })
}

fn points(breaks: u32, at: usize) -> Vec<Crash> {
    let mut world = World::of_postcopy(breaks);
    migrated(&mut world);
    let count = world.hosts[at].batches;
    assert!(count > 8, "only {count} batches");
    (1..=count)
        .flat_map(|n| [Crash::Before(n), Crash::After(n)])
        .collect()
}

#[test]
fn the_guest_goes_over_and_its_memory_follows() {
    let mut world = World::of_postcopy(0);
    migrated(&mut world);
    assert_settled(&world, "no crash");
    assert_eq!(world.running(), vec![B]);
    assert!(!world.hosts[A].qemu.alive);
    assert_eq!(
        phases(&world, A),
        [Phase::Perform3, Phase::Perform3Done, Phase::Confirm3]
    );
    assert_eq!(phases(&world, B), [Phase::Finish3]);
    // The destination ran before the source had sent everything.
    let started = world.find(A, |body| match body {
        RecordBody::OutcomeLearned(learned) => Some(learned.outcome),
        _ => None,
    });
    assert!(started.is_some());
}

#[test]
fn a_broken_stream_is_taken_up_again() {
    for breaks in 1..5 {
        let mut world = World::of_postcopy(breaks);
        migrated(&mut world);
        assert_settled(&world, &format!("{breaks} breaks"));
        assert_eq!(world.running(), vec![B]);
        assert_eq!((result(&world, A), result(&world, B)), {
            let completed = Some(JobResult::Completed);
            (completed, completed)
        });
        let source = phases(&world, A);
        for phase in [
            Phase::PostcopyFailed,
            Phase::BeginResume,
            Phase::PerformResume,
            Phase::ConfirmResume,
        ] {
            assert!(source.contains(&phase), "{phase} {source:?}");
        }
        let destination = phases(&world, B);
        for phase in [Phase::PrepareResume, Phase::FinishResume] {
            assert!(destination.contains(&phase), "{phase} {destination:?}");
        }
    }
}

/// Where packets are lost the destination's QEMU goes on waiting for a stream that is broken at its other
/// end; it hears so from the source.
#[test]
fn a_break_that_the_destination_does_not_notice_is_taken_up_again() {
    for breaks in 1..4 {
        let mut world = World::of_postcopy(breaks);
        world.breaks_unnoticed = true;
        migrated(&mut world);
        assert_settled(&world, &format!("{breaks} breaks"));
        assert_eq!(world.running(), vec![B]);
        assert_eq!(result(&world, A), Some(JobResult::Completed));
        let paused = world.has(B, |body| {
            matches!(body, RecordBody::EffectIntended(one) if one.command == EffectCommand::MigratePause)
        });
        assert!(paused, "{}", world.story());
    }
}

#[test]
fn one_sidecar_crashes_at_every_batch() {
    for breaks in BREAKS {
        for at in [A, B] {
            for crash in points(breaks, at) {
                for effects_survive in [false, true] {
                    for pause in [100, 3_000, 20_000] {
                        let mut world = World::of_postcopy(breaks);
                        world.effects_survive = effects_survive;
                        world.hosts[at].crash = Some(crash);
                        world.migrate(A);
                        world.run_for(pause);
                        for _ in 0..2 {
                            if world.hosts[at].engine.is_none() {
                                world.restart(at);
                            }
                            world.run_for(SETTLE_MS);
                        }
                        let what = format!(
                            "{breaks} breaks, host {at} {crash:?} effects survive {effects_survive} pause {pause}"
                        );
                        assert_settled(&world, &what);
                        assert!(world.hosts[at].ready, "{what}: never ready");
                    }
                }
            }
        }
    }
}

#[test]
fn both_sidecars_crash_and_restart_in_both_orders() {
    for at in [A, B] {
        for crash in points(1, at) {
            for first in [A, B] {
                for gap in [0, 4_000] {
                    let mut world = World::of_postcopy(1);
                    world.hosts[at].crash = Some(crash);
                    world.migrate(A);
                    while world.hosts[at].engine.is_some() && world.now < 10_000 {
                        world.run_for(50);
                    }
                    for host in [A, B] {
                        if world.hosts[host].engine.is_some() {
                            world.crash(host);
                        }
                    }
                    world.run_for(500);
                    world.restart(first);
                    world.run_for(gap);
                    world.restart(1 - first);
                    world.run_for(SETTLE_MS);
                    let what = format!("both at host {at} {crash:?} first {first} gap {gap}");
                    assert_settled(&world, &what);
                }
            }
        }
    }
}

/// Either copy runs whole, or the guest is lost because a half of it died: then nothing of it lives
/// on, and nothing stays open.
#[test]
fn a_qemu_dies_at_every_moment() {
    let mut lost = 0;
    for breaks in [0, 1] {
        let moments = {
            let mut world = World::of_postcopy(breaks);
            migrated(&mut world);
            world.steps
        };
        for at in [A, B] {
            for moment in 1..moments.min(500) {
                let mut world = World::of_postcopy(breaks);
                world.kill_qemu = Some((at, moment));
                migrated(&mut world);
                let what = format!("{breaks} breaks, host {at} moment {moment}");
                assert_eq!(world.broken, None, "{what}\n{}", world.story());
                let alive = world.hosts.iter().any(|host| host.qemu.holds_guest());
                let held = [A, B].iter().any(|at| world.held(*at).is_some());
                let runs = world.running().len() == 1;
                assert!(runs || !alive || held, "{what}\n{}", world.story());
                let split = [A, B].iter().any(|at| {
                    let qemu = &world.hosts[*at].qemu;
                    qemu.alive && qemu.status == MigrationStatus::PostcopyPaused
                });
                assert!(!split, "{what}: a half lives on\n{}", world.story());
                let was_split = world.has(A, |body| {
                    matches!(body, RecordBody::QemuObserved(seen)
                        if seen.observed.migration == Some(MigrationStatus::PostcopyActive))
                });
                if was_split && !runs {
                    lost += 1;
                    assert_eq!(
                        world.open_jobs(),
                        Vec::<String>::new(),
                        "{what}\n{}",
                        world.story()
                    );
                }
            }
        }
    }
    assert!(lost > 4, "only {lost} guests were lost");
}

#[test]
fn a_paused_guest_stays_paused() {
    for at in [A, B] {
        for crash in points(0, at) {
            let mut world = World::of_postcopy(0);
            world.hosts[A].qemu.run = RunState::Paused;
            world.hosts[at].crash = Some(crash);
            world.migrate(A);
            world.run_for(3_000);
            if world.hosts[at].engine.is_none() {
                world.restart(at);
            }
            world.run_for(SETTLE_MS);
            let what = format!("host {at} {crash:?}");
            assert_eq!(world.broken, None, "{what}\n{}", world.story());
            assert_eq!(world.running(), Vec::<usize>::new(), "{what}");
            assert_eq!(
                world.open_jobs(),
                Vec::<String>::new(),
                "{what}\n{}",
                world.story()
            );
            let there = [A, B]
                .into_iter()
                .find(|at| world.hosts[*at].qemu.holds_guest());
            assert_eq!(
                there.and_then(|at| world.wanted(at)),
                Some(WantedRunState::Paused),
                "{what}"
            );
        }
    }
}

/// Past `migrate-continue` there is no cancelling, neither by a manager nor by recovery.
#[test]
fn a_split_guest_is_never_cancelled() {
    let mut world = World::of_postcopy(2);
    world.stall = Some(|at, command| at == B && matches!(command, EffectCommand::Cont));
    world.migrate(A);
    world.run_for(3_000);
    assert_eq!(
        world.hosts[A].qemu.status,
        MigrationStatus::PostcopyPaused,
        "{}",
        world.story()
    );
    let job = world.find(A, |body| match body {
        RecordBody::PhaseEntered(entered) => Some(entered.job),
        _ => None,
    });
    let job = job.unwrap();
    world.replies.clear();
    world.control(A, ControlRequest::JobCancel { job });
    world.run_for(100);
    assert!(
        matches!(
            world.replies.as_slice(),
            [(A, Err(Refusal::TooLate { .. }))]
        ),
        "{:?}",
        world.replies
    );
    world.crash(A);
    world.restart(A);
    world.run_for(3_000);
    // Nor does an operator's word bring half a guest back.
    let resolve = ControlRequest::Resolve {
        name: "g".to_owned(),
        decision: Decision::Resume,
        force: true,
        statement: "the other host is fenced".to_owned(),
        uid: 0,
    };
    world.replies.clear();
    world.control(A, resolve);
    world.run_for(100);
    assert!(
        matches!(
            world.replies.as_slice(),
            [(A, Err(Refusal::WrongState { .. }))]
        ),
        "{:?}",
        world.replies
    );
    assert!(!cancels(&world, A), "{}", world.story());
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "released");
    assert_eq!(world.running(), vec![B]);
}

/// The intent of `migrate-continue` is enough: from there QEMU may be past the last way back.
#[test]
fn the_intent_to_go_over_is_the_point_of_no_return() {
    let mut world = World::of_postcopy(0);
    world.stall = Some(|at, command| at == A && matches!(command, EffectCommand::MigrateContinue));
    world.migrate(A);
    world.run_for(2_000);
    let is_intended = |body: &RecordBody| matches!(body, RecordBody::EffectIntended(one) if one.command == EffectCommand::MigrateContinue);
    assert!(world.has(A, is_intended), "{}", world.story());
    let job = world.find(A, |body| match body {
        RecordBody::PhaseEntered(entered) => Some(entered.job),
        _ => None,
    });
    world.replies.clear();
    world.control(A, ControlRequest::JobCancel { job: job.unwrap() });
    world.run_for(100);
    assert!(
        matches!(
            world.replies.as_slice(),
            [(A, Err(Refusal::TooLate { .. }))]
        ),
        "{:?}",
        world.replies
    );
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "went over");
    assert_eq!(world.running(), vec![B]);
}

/// Only forward: a destination whose `cont` is refused keeps trying, though its stream has ended and
/// the source's memory would be whole too.
#[test]
fn a_refused_cont_is_tried_again() {
    let mut world = World::of_postcopy(0);
    world.hosts[B].qemu.refuse_cont = true;
    world.migrate(A);
    world.run_for(SETTLE_MS);
    assert_eq!(world.broken, None, "{}", world.story());
    assert!(world.hosts[B].qemu.alive, "{}", world.story());
    assert_eq!(world.held(B), Some("destination-finish-refused"));
    world.hosts[B].qemu.refuse_cont = false;
    world.run_for(SETTLE_MS);
    assert_settled(&world, "accepted");
    assert_eq!(world.running(), vec![B]);
}

/// Before that it is as safe as ever.
#[test]
fn a_cancel_before_the_switchover_leaves_the_guest() {
    let mut world = World::of_postcopy(0);
    world.stall = Some(|at, command| at == A && matches!(command, EffectCommand::StartPostcopy));
    world.migrate(A);
    world.run_for(1_000);
    let job = world.find(A, |body| match body {
        RecordBody::PhaseEntered(entered) => Some(entered.job),
        _ => None,
    });
    world.control(A, ControlRequest::JobCancel { job: job.unwrap() });
    world.run_for(100);
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "cancelled");
    assert_eq!(world.running(), vec![A]);
}

#[test]
fn post_copy_needs_v3() {
    let mut world = World::of(journal_format::record::Protocol::V2);
    world.postcopy = true;
    world.migrate(A);
    world.run_for(100);
    assert!(
        matches!(
            world.replies.as_slice(),
            [(A, Err(Refusal::PostcopyNeedsV3))]
        ),
        "{:?}",
        world.replies
    );
    assert_eq!(world.open_jobs(), Vec::<String>::new());
}

/// The source's half dies unwatched when everything went over by itself, and no licence went out: that half
/// may have run on. Both sides say so, neither runs, and nothing is ended.
#[test]
fn a_whole_copy_without_a_licence_is_held_when_its_source_is_gone() {
    let mut visited = 0;
    for crash in points(0, A) {
        let mut world = World::of_postcopy(0);
        world.hosts[A].crash = Some(crash);
        world.migrate(A);
        world.run_for(3_000);
        let is_whole = world.hosts[B].qemu.run == RunState::Paused
            && world.hosts[B].qemu.status == MigrationStatus::Completed;
        let granted = world.has(A, |body| matches!(body, RecordBody::MigrationGranted(_)));
        if world.hosts[A].engine.is_some() || granted || !is_whole {
            continue;
        }
        visited += 1;
        world.kill(A);
        world.restart(A);
        world.run_for(SETTLE_MS);
        assert_eq!(world.broken, None, "{crash:?}\n{}", world.story());
        assert_eq!(
            world.held(A),
            Some("source-perform-dead-unwatched"),
            "{crash:?}"
        );
        assert_eq!(
            world.held(B),
            Some("destination-prepare-waiting"),
            "{crash:?}"
        );
        assert_eq!(world.running(), Vec::<usize>::new());
        assert!(world.hosts[B].qemu.alive);
    }
    assert!(visited > 0, "no such moment");
}

/// QEMU 7.2 says postcopy-active before it sends the devices: a destination that died before that took
/// nothing with it. Only a stream that broke is a half that is gone.
#[test]
fn a_source_that_could_not_send_the_devices_goes_on() {
    let mut world = World::of_postcopy(0);
    world.stall = Some(|at, command| at == A && matches!(command, EffectCommand::MigrateContinue));
    world.migrate(A);
    world.run_for(2_000);
    world.kill(B);
    world.set_status(A, MigrationStatus::PostcopyActive);
    world.stalled.clear();
    world.crash(A);
    world.restart(A);
    world.run_for(SETTLE_MS);
    assert!(world.hosts[A].qemu.alive, "{}", world.story());
    assert_eq!(world.held(A), Some("source-postcopy-ending"));
    world.end_migration(A, MigrationStatus::Failed);
    world.run_for(SETTLE_MS);
    assert_settled(&world, "the devices were not sent");
    assert_eq!(world.running(), vec![A]);
}

/// QEMU 7.2 can stand still there: that is a hold, and said, also by a sidecar that was there all the time.
#[test]
fn a_source_whose_qemu_does_not_end_is_held() {
    let mut world = World::of_postcopy(0);
    world.stall = Some(|at, command| at == A && matches!(command, EffectCommand::MigrateContinue));
    world.migrate(A);
    world.run_for(2_000);
    world.kill(B);
    world.set_status(A, MigrationStatus::PostcopyActive);
    let (_, _, taken) = world.stalled.pop().unwrap();
    let (effect, result) = (taken.intent, EffectResult::Done);
    world.input(A, Input::EffectFinished { effect, result });
    world.run_for(SETTLE_MS);
    // A hold that is on record, and no ordinary waiting.
    let held = "source-postcopy-ending".to_owned();
    assert!(world.rules(A).contains(&held), "{:?}", world.rules(A));
    assert_eq!(
        world.held(A),
        Some("source-postcopy-ending"),
        "{}",
        world.story()
    );
    assert!(world.hosts[A].qemu.alive, "{}", world.story());
}

/// QEMU takes `migrate-continue` a moment before it shows it: whoever comes back and sees pre-switchover
/// goes on, and sends no cancel that might find a split guest.
#[test]
fn a_source_that_may_have_gone_over_goes_forward() {
    let mut world = World::of_postcopy(0);
    world.stall = Some(|at, command| at == A && matches!(command, EffectCommand::MigrateContinue));
    world.migrate(A);
    world.run_for(2_000);
    world.crash(A);
    world.restart(A);
    world.run_for(2_000);
    assert_eq!(
        world.hosts[A].qemu.status,
        MigrationStatus::PreSwitchover,
        "{}",
        world.story()
    );
    assert!(!cancels(&world, A), "{}", world.story());
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "went over");
    assert_eq!(world.running(), vec![B]);
}

/// Where the journal that knows of the other half is lost, nobody listens again: that is a hold, and said.
#[test]
fn a_destination_that_forgot_the_split_guest_is_waited_for() {
    let mut world = World::of_postcopy(1);
    world.stall =
        Some(|at, command| at == B && matches!(command, EffectCommand::MigrateRecover { .. }));
    world.migrate(A);
    world.run_for(5_000);
    assert_eq!(
        world.hosts[A].qemu.status,
        MigrationStatus::PostcopyPaused,
        "{}",
        world.story()
    );
    world.crash(B);
    world.hosts[B].lose_journal();
    world.restart(B);
    world.run_for(SETTLE_MS);
    assert_eq!(world.held(A), Some("source-granted-amnesia"));
    assert_eq!(world.broken, None, "{}", world.story());
    assert!(world.hosts.iter().all(|host| host.qemu.alive));
}
