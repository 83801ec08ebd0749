//! Guests that are given back to the source, and hands from outside that come before that: a paused guest can be
//! resumed by its owner, and no second copy is made to run.
//!
//! Not here: other hostile surroundings (`hostile`).

use super::hostile::{cancel, granted_b_undecided, ok, set, told};
use super::*;
use journal_format::record::{Decision, EffectCommand};

/// A guest that its owner paused stands at the source as QEMU left it, and runs on when its owner says so.
fn assert_its_owner_can_resume(mut world: World, restarted: bool, what: &str) {
    assert_eq!(world.hosts[A].qemu.run, RunState::Postmigrate, "{what}");
    if restarted {
        world.crash(A);
        world.restart(A);
        world.run_for(1_000);
    }
    world.replies.clear();
    set(&mut world, A, WantedRunState::Running);
    assert!(ok(&world), "{what}: {:?}", world.replies);
    assert_eq!(world.running(), vec![A], "{what}");
}

/// Everything was sent, and the destination's QEMU died before it took the licence: a guest that its owner
/// had paused is back, paused, and its owner can have it run on, also after a restart of the sidecar.
#[test]
fn paused_guest_given_back_after_completed() {
    let mut visited = 0;
    for (crash, restarted) in crash_points(Protocol::V3, B)
        .into_iter()
        .flat_map(|crash| [(crash, false), (crash, true)])
    {
        let mut w = World::new();
        set(&mut w, A, WantedRunState::Paused);
        w.hosts[B].batches = 0;
        w.hosts[B].crash = Some(crash);
        w.migrate(A);
        w.run_for(1_000);
        let granted = w.has(A, |b| matches!(b, RecordBody::MigrationGranted(_)));
        let committed = w.has(B, |b| matches!(b, RecordBody::MigrationCommitted(_)));
        if w.hosts[B].engine.is_some() || !granted || committed {
            continue;
        }
        visited += 1;
        w.kill(B);
        w.restart(B);
        w.run_for(SETTLE_MS);
        assert_eq!(w.running(), Vec::<usize>::new());
        assert_eq!(w.open_jobs(), Vec::<String>::new());
        assert_its_owner_can_resume(w, restarted, &format!("{crash:?}"));
    }
    assert!(visited > 0);
}

/// The same in v2, where the destination's QEMU dies before the source has decided.
#[test]
fn paused_guest_given_back_in_v2() {
    for restarted in [false, true] {
        let mut w = World::of(Protocol::V2);
        set(&mut w, A, WantedRunState::Paused);
        w.freeze = Some(MigrationStatus::Device);
        w.migrate(A);
        w.run_for(200);
        w.partitioned = true;
        w.thaw();
        w.run_for(1_000);
        assert_eq!(w.held(A), Some("source-perform2-completed"));
        w.kill(B);
        w.partitioned = false;
        w.run_for(SETTLE_MS);
        assert_eq!(w.open_jobs(), Vec::<String>::new(), "{}", w.story());
        assert_its_owner_can_resume(w, restarted, "v2");
    }
}

/// Whoever gave a licence and was closed by an operator, who did not say where the guest is, is not continued on
/// a mere wish.
#[test]
fn paused_guest_closed_by_an_operator_is_not_continued() {
    let mut w = granted_b_undecided();
    w.run_for(1_000);
    w.control(
        A,
        ControlRequest::Resolve {
            name: "g".into(),
            decision: Decision::Confirm,
            force: true,
            statement: "I look after both".into(),
            uid: 0,
        },
    );
    w.run_for(1_000);
    w.replies.clear();
    set(&mut w, A, WantedRunState::Running);
    assert_eq!(told(&w), Some(false), "{:?}", w.replies);
    assert_eq!(w.running(), Vec::<usize>::new());
}

/// v2: somebody continues the guest at the destination before the source has decided. It runs there, and
/// what the source has is older: there is nothing left to ask for.
#[test]
fn v2_destination_continued_before_the_decision() {
    let mut w = World::of(Protocol::V2);
    w.freeze = Some(MigrationStatus::Device);
    w.migrate(A);
    w.run_for(200);
    w.partitioned = true;
    w.thaw();
    w.run_for(1_000);
    assert_eq!(w.held(A), Some("source-perform2-completed"));
    w.set_run(B, RunState::Running);
    w.run_for(1_000);
    assert!(w.has(B, |body| matches!(body, RecordBody::MigrationStarted(_))));
    w.partitioned = false;
    w.run_for(SETTLE_MS);
    assert_eq!(w.broken, None, "{}", w.story());
    assert_eq!(w.open_jobs(), Vec::<String>::new(), "{}", w.story());
    assert_eq!(w.running(), vec![B]);
    assert!(!w.hosts[A].qemu.alive, "{}", w.story());
}

/// Given up, and somebody continued the guest at the destination all the same: no second copy is made to run
/// beside it, until an operator says which one it is.
#[test]
pub(super) fn a_second_copy_is_not_made_of_what_was_given_up() {
    for protocol in PROTOCOLS {
        for word in [Decision::Kill, Decision::Resume, Decision::Confirm] {
            let mut w = World::of(protocol);
            w.freeze = Some(MigrationStatus::Device);
            w.migrate(A);
            w.run_for(200);
            w.stall = Some(|at, command| at == A && *command == EffectCommand::MigrateCancel);
            w.hold_asks = [true, false];
            cancel(&mut w, A);
            w.thaw();
            w.run_for(200);
            w.set_run(B, RunState::Running);
            w.run_for(1_000);
            assert!(w.has(B, |body| matches!(body, RecordBody::MigrationStarted(_))));
            w.release_asks();
            w.run_for(3_000);
            w.unstall();
            w.run_for(SETTLE_MS);
            let what = format!("{protocol} {word}");
            assert_eq!(
                w.held(A),
                Some("source-abandoned-started"),
                "{what} {}",
                w.story()
            );
            assert_eq!(w.running(), vec![B], "{what}");
            if word == Decision::Resume {
                w.kill(B);
            }
            w.replies.clear();
            let request = ControlRequest::Resolve {
                name: "g".into(),
                decision: word,
                force: true,
                statement: "I looked at both".into(),
                uid: 0,
            };
            w.control(A, request);
            w.run_for(SETTLE_MS);
            assert!(ok(&w), "{what} {:?}", w.replies);
            if word == Decision::Resume {
                // The guest goes back to what it was: that is what was said.
                assert_eq!(w.running(), vec![A], "{what}");
                continue;
            }
            assert_eq!(w.open_jobs(), Vec::<String>::new(), "{what} {}", w.story());
            assert_eq!(w.hosts[A].qemu.alive, word != Decision::Kill, "{what}");
        }
    }
}
