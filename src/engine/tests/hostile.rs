//! What hostile or unlucky surroundings do: old journals, late words, gaps, a hand from outside. Each
//! test is named after what once went wrong, and asserts that it does not.

use super::*;
use crate::engine::{Gap, History, PeerResponse, Rule};
use journal_format::record::{Decision, EffectCommand, EffectResult, PeerAnswer};

pub(super) fn set(world: &mut World, at: usize, wanted: WantedRunState) {
    world.control(
        at,
        ControlRequest::DomainSetWanted {
            name: "g".into(),
            wanted,
        },
    );
    world.run_for(50);
}
fn resolve(world: &mut World, at: usize, decision: Decision) {
    world.replies.clear();
    world.control(
        at,
        ControlRequest::Resolve {
            name: "g".into(),
            decision,
            force: false,
            statement: String::new(),
            uid: 0,
        },
    );
    world.run_for(50);
}
/// What the last caller was told: yes, no, or nothing yet.
pub(super) fn told(world: &World) -> Option<bool> {
    world.replies.last().map(|(_, reply)| reply.is_ok())
}

pub(super) fn ok(world: &World) -> bool {
    told(world) == Some(true)
}

fn open_job(world: &World, at: usize) -> Lsn {
    let engine = world.hosts[at].engine.as_ref().unwrap();
    let mut migrations = engine.state.migrations.values();
    migrations.find(|known| known.state.open).unwrap().state.job
}

pub(super) fn cancel(world: &mut World, at: usize) {
    let job = open_job(world, at);
    world.replies.clear();
    world.control(at, ControlRequest::JobCancel { job });
    world.run_for(50);
}

/// A granted, B's sidecar is down and B undecided and whole.
pub(super) fn granted_b_undecided() -> World {
    for crash in crash_points(Protocol::V3, B) {
        let mut world = World::new();
        world.hosts[B].crash = Some(crash);
        world.migrate(A);
        world.run_for(1_000);
        if world.hosts[B].engine.is_none()
            && world.has(A, |b| matches!(b, RecordBody::MigrationGranted(_)))
            && !world.has(B, |b| matches!(b, RecordBody::MigrationCommitted(_)))
            && world.hosts[B].qemu.run == RunState::Paused
        {
            return world;
        }
    }
    panic!("none");
}
/// B started; A granted, its sidecar dead, has not heard.
fn started_a_unaware() -> World {
    for crash in crash_points(Protocol::V3, A) {
        let mut world = World::new();
        world.hosts[A].crash = Some(crash);
        world.migrate(A);
        world.run_for(3_000);
        if world.hosts[A].engine.is_none()
            && world.running() == vec![B]
            && world.hosts[A].qemu.alive
            && world.has(A, |b| matches!(b, RecordBody::MigrationGranted(_)))
            && !world.has(A, |b| matches!(b, RecordBody::OutcomeLearned(_)))
        {
            return world;
        }
    }
    panic!("none");
}

fn perform_frozen(status: MigrationStatus) -> World {
    let mut w = World::new();
    w.freeze = Some(status);
    w
}

fn gap_from_commit(w: &mut World) {
    let at = w.hosts[B].journal.iter().position(|e| matches!(e, History::Record(r) if matches!(r.body, RecordBody::MigrationCommitted(_)))).unwrap();
    let last = match w.hosts[B].journal.last().unwrap() {
        History::Record(r) => r.lsn,
        History::Gap(g) => g.last,
    };
    let History::Record(first) = &w.hosts[B].journal[at] else {
        panic!()
    };
    let first = first.lsn;
    w.hosts[B].journal.truncate(at);
    w.hosts[B].journal.push(History::Gap(Gap { first, last }));
}

fn t13(b_first: bool, refuse: bool) -> World {
    let mut w = World::new();
    w.stall = Some(|at, c| at == B && *c == EffectCommand::Cont);
    w.migrate(A);
    w.run_for(3_000);
    // A recorded B's position behind B's MigrationCommitted.
    assert!(w.has(
        A,
        |b| matches!(b, RecordBody::PeerHeard(h) if h.answer == PeerAnswer::Deciding)
    ));
    w.crash(A);
    w.unstall();
    w.run_for(2_000);
    assert_eq!(w.running(), vec![B]);
    set(&mut w, B, WantedRunState::Paused);
    assert_eq!(w.running(), Vec::<usize>::new());
    w.crash(B);
    let at = w.hosts[B].journal.iter().position(|e| matches!(e, History::Record(r) if matches!(r.body, RecordBody::MigrationCommitted(_)))).unwrap();
    w.hosts[B].journal.truncate(at - 2);
    w.hosts[B].qemu.refuse_cont = refuse;
    w.hold_asks = [b_first, !b_first];
    w.restart(B);
    w.restart(A);
    w.run_for(3_000);
    w.release_asks();
    w.run_for(SETTLE_MS);
    w
}

#[test]
fn granted_running_gives_licence_to_asker() {
    let mut w = granted_b_undecided();
    w.set_run(A, RunState::Running);
    w.run_for(1_000);
    assert_eq!(w.held(A), Some("source-granted-running"));
    w.restart(B);
    w.run_for(20_000);
    assert_eq!(w.broken, None, "{:?}", w.open_jobs());
}

#[test]
fn granted_ran_then_paused_goes_forward() {
    let mut w = granted_b_undecided();
    w.set_run(A, RunState::Running);
    w.run_for(1_000);
    w.set_run(A, RunState::Paused);
    w.run_for(1_000);
    assert_eq!(w.held(A), Some("source-granted-running"));
    w.restart(B);
    w.run_for(20_000);
    assert_eq!(w.broken, None, "{:?}", w.open_jobs());
}

#[test]
fn granted_ran_then_died() {
    let mut w = granted_b_undecided();
    w.set_run(A, RunState::Running);
    w.run_for(1_000);
    assert_eq!(w.held(A), Some("source-granted-running"));
    w.kill(A);
    w.run_for(1_000);
    w.restart(B);
    w.run_for(20_000);
    assert_eq!(w.broken, None, "{:?}", w.open_jobs());
}

#[test]
fn resolve_confirm_without_force_then_two() {
    let mut w = granted_b_undecided();
    w.set_run(A, RunState::Running);
    w.run_for(1_000);
    resolve(&mut w, A, Decision::Confirm);
    assert!(
        matches!(w.replies.last(), Some((_, Err(Refusal::NeedsForce { .. })))),
        "{:?}",
        w.replies
    );
}

#[test]
fn job_cancel_with_dead_source_kills_last_copy() {
    let (mut w, _, _) = waiting_for_a_licence();
    w.kill(A);
    w.crash(B);
    w.restart(A);
    w.run_for(1_000);
    cancel(&mut w, A);
    assert!(
        matches!(w.replies.last(), Some((_, Err(Refusal::TooLate { .. })))),
        "{:?}",
        w.replies
    );
    w.restart(B);
    w.run_for(SETTLE_MS);
    assert!(w.hosts[B].qemu.alive, "{:?}", w.rules(B));
}

#[test]
fn not_whole_yet() {
    let mut w = perform_frozen(MigrationStatus::Device);
    w.migrate(A);
    w.run_for(200);
    assert_eq!(w.hosts[B].qemu.status, MigrationStatus::Active);
    // All was sent; the source's host QEMU dies while B still loads from its socket buffer.
    w.hosts[A].qemu.alive = false;
    w.run_for(60); // ticks look: dead; asks; B is still loading
    w.run_for(60);
    // 100 ms later B is whole.
    if w.hosts[B].qemu.alive {
        w.hosts[B].qemu.memory = w.hosts[A].qemu.memory;
        w.set_run(B, RunState::Paused);
        w.set_status(B, MigrationStatus::Completed);
    }
    w.run_for(SETTLE_MS);
    assert!(
        w.hosts[B].qemu.alive,
        "A {:?} B {:?}",
        w.rules(A),
        w.rules(B)
    );
}

#[test]
fn refused_cont_owner_resumed_before() {
    let mut w = perform_frozen(MigrationStatus::Active);
    w.hosts[A].qemu.run = RunState::Paused;
    w.hosts[B].qemu.refuse_cont = true;
    w.migrate(A);
    w.run_for(200);
    set(&mut w, A, WantedRunState::Running);
    assert_eq!(w.running(), vec![A]);
    w.thaw();
    w.run_for(300_000);
    assert_eq!(w.running().len(), 1);
}

#[test]
fn damaged_dead_destination_kill_without_force() {
    let mut w = started_a_unaware();
    w.run_for(1_000);
    w.kill(B);
    w.crash(B);
    gap_from_commit(&mut w);
    w.restart(B);
    w.run_for(1_000);
    resolve(&mut w, B, Decision::Kill);
    assert!(
        matches!(w.replies.last(), Some((_, Err(Refusal::NeedsForce { .. })))),
        "{:?}",
        w.replies
    );
}

#[test]
fn confirm_at_destination_then_resume() {
    let (mut w, _, _) = waiting_for_a_licence();
    w.run_for(10_000);
    resolve(&mut w, B, Decision::Confirm);
    assert!(
        matches!(w.replies.last(), Some((_, Err(Refusal::NeedsForce { .. })))),
        "{:?}",
        w.replies
    );
}

#[test]
fn control_source_asks_first() {
    let w = t13(false, true);
    assert_eq!(w.broken, None);
    assert!(w.hosts[B].qemu.alive);
}

#[test]
fn restored_destination_asks_first_p3() {
    let w = t13(true, true);
    assert_eq!(w.broken, None);
    assert!(w.hosts[B].qemu.alive);
}

#[test]
fn restored_destination_asks_first_p8() {
    let w = t13(true, false);
    assert_eq!(w.running(), Vec::<usize>::new());
}

#[test]
fn damaged_source_gives_licence() {
    let mut w = granted_b_undecided();
    let from = w.hosts[A].journal.len();
    w.control(
        A,
        ControlRequest::Resolve {
            name: "g".into(),
            decision: Decision::Resume,
            force: true,
            statement: "B is fenced for now".into(),
            uid: 0,
        },
    );
    w.run_for(2_000);
    assert_eq!(w.running(), vec![A]);
    w.crash(A);
    let lsn = |e: &History| match e {
        History::Record(r) => r.lsn,
        History::Gap(g) => g.last,
    };
    let gap = Gap {
        first: lsn(&w.hosts[A].journal[from]),
        last: lsn(w.hosts[A].journal.last().unwrap()),
    };
    w.hosts[A].journal.truncate(from);
    w.hosts[A].journal.push(History::Gap(gap));
    w.restart(A);
    w.run_for(1_000);
    w.restart(B);
    w.run_for(20_000);
    assert_eq!(w.broken, None);
}

#[test]
fn gap_over_job_ended_kills_the_next_instance() {
    let mut w = World::new();
    w.hosts[B].qemu.refuse_cont = true;
    migrated(&mut w);
    assert_eq!(w.running(), vec![A]);
    w.replace_qemu(B);
    w.add_domain(B);
    w.run_for(200);
    w.migrate(A);
    w.run_for(SETTLE_MS);
    assert_eq!(w.running(), vec![B]);
    assert!(w.open_jobs().is_empty());
    w.crash(B);
    let journal = &mut w.hosts[B].journal;
    let is =
        |e: &History, f: fn(&RecordBody) -> bool| matches!(e, History::Record(r) if f(&r.body));
    let end = journal
        .iter()
        .position(|e| is(e, |b| matches!(b, RecordBody::JobEnded(_))))
        .unwrap();
    let add = journal
        .iter()
        .rposition(|e| is(e, |b| matches!(b, RecordBody::DomainAdded(_))))
        .unwrap();
    assert!(end < add);
    let (History::Record(first), History::Record(last)) = (&journal[end], &journal[add - 1]) else {
        panic!()
    };
    let gap = Gap {
        first: first.lsn,
        last: last.lsn,
    };
    journal.splice(end..add, [History::Gap(gap)]);
    w.restart(B);
    w.run_for(SETTLE_MS);
    assert_eq!(
        w.running(),
        vec![B],
        "B {:?} {:?}",
        w.rules(B),
        w.open_jobs()
    );
}

#[test]
fn reordered_reply_makes_destination_forget() {
    let mut w = started_a_unaware();
    let cookie = w
        .find(A, |b| match b {
            RecordBody::MigrationGranted(g) => Some(g.cookie),
            _ => None,
        })
        .unwrap();
    let opening = w.hosts[A].openings[0];
    let pos = |lsn| Position {
        journal: cookie.granted.journal,
        epoch: opening.epoch,
        opening: opening.opening,
        lsn: Lsn(lsn),
    };
    let l = cookie.granted.lsn.0;
    w.hold_asks[B] = true;
    w.run_for(30_000);
    assert_eq!(w.held_asks.len(), 1);
    let token = w.token();
    // The Finish that A sent (position l+1), handled before the older reply (position l).
    w.input(
        B,
        Input::Peer {
            token,
            envelope: Envelope {
                sender: pos(l),
                saw: None,
            },
            nonce: cookie.nonce,
            request: PeerRequest::Finish { cookie },
        },
    );
    w.run_for(50);
    w.input(
        B,
        Input::PeerAnswered {
            migration: cookie.migration,
            result: Ok((
                Envelope {
                    sender: pos(l - 1),
                    saw: None,
                },
                PeerResponse::Answer {
                    answer: PeerAnswer::Granted,
                    cookie: Some(cookie),
                },
            )),
        },
    );
    w.run_for(50);
    w.held_asks.clear();
    w.hold_asks[B] = false;
    w.restart(A);
    w.run_for(120_000);
    assert_eq!(w.held(A), None);
}

#[test]
fn confirm_at_dead_source_leaves_destination() {
    let (mut w, _, _) = waiting_for_a_licence();
    w.kill(A);
    w.restart(A);
    w.run_for(5_000);
    resolve(&mut w, A, Decision::Confirm);
    assert!(
        matches!(w.replies.last(), Some((_, Err(Refusal::NeedsForce { .. })))),
        "{:?}",
        w.replies
    );
}

#[test]
fn restored_with_reboot_source_asks_first() {
    let mut w = World::new();
    w.stall = Some(|at, c| at == B && *c == EffectCommand::Cont);
    w.migrate(A);
    w.run_for(3_000);
    assert!(w.has(
        A,
        |b| matches!(b, RecordBody::PeerHeard(h) if h.answer == PeerAnswer::Deciding)
    ));
    w.crash(A);
    w.unstall();
    w.run_for(2_000);
    assert_eq!(w.running(), vec![B]);
    w.crash(B);
    w.kill(B);
    w.hosts[B].boot = journal_format::number::BootId(Id128([3; 16]));
    let at = w.hosts[B].journal.iter().position(|e| matches!(e, History::Record(r) if matches!(r.body, RecordBody::MigrationCommitted(_)))).unwrap();
    w.hosts[B].journal.truncate(at - 2);
    w.hold_asks = [false, true];
    w.restart(B);
    w.restart(A);
    w.run_for(3_000);
    w.release_asks();
    w.run_for(SETTLE_MS);
    assert_eq!(w.broken, None);
}

/// What was answered was done: a crash before it leaves nothing promised.
#[test]
fn suspend_acked_then_crash() {
    let mut w = perform_frozen(MigrationStatus::Active);
    w.stall = Some(|_, c| *c == EffectCommand::Stop);
    w.migrate(A);
    w.stall = None;
    w.run_for(200);
    w.stall = Some(|_, c| *c == EffectCommand::Stop);
    w.replies.clear();
    set(&mut w, A, WantedRunState::Paused);
    assert_eq!(told(&w), None, "answered before it was done");
    assert_eq!(w.stalled.len(), 1);
    w.crash(A);
    w.stall = None;
    w.stalled.clear();
    w.restart(A);
    w.run_for(SETTLE_MS);
    assert_eq!(w.running(), vec![A], "never done, and never said to be");
}

#[test]
fn suspend_acked_stop_not_sent() {
    let mut w = perform_frozen(MigrationStatus::Active);
    w.migrate(A);
    w.run_for(200);
    w.replies.clear();
    w.fail =
        Some(|_, c| (*c == EffectCommand::Stop).then(|| EffectResult::NotSent { why: "x".into() }));
    set(&mut w, A, WantedRunState::Paused);
    assert_eq!(told(&w), Some(false));
    w.fail = None;
    w.run_for(5_000);
    w.thaw();
    w.run_for(SETTLE_MS);
    assert_eq!(w.running(), vec![B], "{:?}", w.wanted(B));
}

#[test]
fn suspend_in_begin_prepare_refused() {
    let mut w = World::new();
    w.hold_asks = [true; 2];
    w.migrate(A);
    w.run_for(200);
    w.replies.clear();
    set(&mut w, A, WantedRunState::Paused);
    assert_eq!(told(&w), None, "answered before it was done");
    w.hosts[B].qemu.run = RunState::Paused;
    w.release_asks();
    w.run_for(SETTLE_MS);
    let refused = w.replies.iter().filter(|(_, reply)| reply.is_err()).count();
    assert_eq!((w.running(), refused), (vec![A], 1), "{:?}", w.replies);
}

#[test]
fn suspend_resume_in_begin_stays_paused() {
    let mut w = perform_frozen(MigrationStatus::Active);
    w.hold_asks = [true; 2];
    w.migrate(A);
    w.run_for(200);
    w.replies.clear();
    set(&mut w, A, WantedRunState::Paused);
    assert_eq!(told(&w), None, "answered before it was done");
    set(&mut w, A, WantedRunState::Running);
    assert!(ok(&w));
    w.release_asks();
    w.run_for(1_000);
    w.thaw();
    w.run_for(SETTLE_MS);
    assert_eq!(
        w.running().len(),
        1,
        "{:?} {:?} {:?}",
        w.wanted(A),
        w.wanted(B),
        w.replies
    );
}

#[test]
fn t05e_suspend_then_cancel() {
    let mut w = perform_frozen(MigrationStatus::Active);
    w.stall = Some(|_, c| matches!(c, EffectCommand::Migrate { .. }));
    w.migrate(A);
    w.run_for(200);
    w.replies.clear();
    set(&mut w, A, WantedRunState::Paused);
    assert_eq!(told(&w), None, "answered before it was done");
    let job = open_job(&w, A);
    w.control(A, ControlRequest::JobCancel { job });
    w.run_for(50);
    assert!(ok(&w));
    w.unstall();
    w.run_for(SETTLE_MS);
    let refused = w
        .replies
        .iter()
        .any(|(_, reply)| matches!(reply, Err(Refusal::Effect { .. })));
    assert!(refused, "{:?}", w.replies);
    assert_eq!(w.running(), vec![A]);
}

#[test]
fn resume_in_device_then_failed() {
    let mut w = perform_frozen(MigrationStatus::Device);
    w.hosts[A].qemu.run = RunState::Paused;
    w.migrate(A);
    w.run_for(200);
    assert_eq!(w.hosts[A].qemu.status, MigrationStatus::Device);
    w.replies.clear();
    set(&mut w, A, WantedRunState::Running);
    assert_eq!(told(&w), Some(false), "too late to be sure of it");
    w.end_migration(A, MigrationStatus::Failed);
    w.run_for(SETTLE_MS);
    assert_eq!(
        (w.running(), w.wanted(A)),
        (vec![], Some(WantedRunState::Paused))
    );
}

#[test]
fn ran_state_travels() {
    let mut w = perform_frozen(MigrationStatus::Device);
    w.migrate(A);
    w.run_for(200);
    // The guest hit an I/O error before the switchover; QEMU's global state carries it.
    w.hosts[B].qemu.memory = w.hosts[A].qemu.memory;
    w.set_run(B, RunState::IoError);
    w.set_status(B, MigrationStatus::Completed);
    w.run_for(200);
    // The return path breaks: the source fails and runs on.
    w.thaw();
    w.run_for(SETTLE_MS);
    assert!(
        !w.has(B, |b| matches!(b, RecordBody::MigrationStarted(_))),
        "B {:?} alive {} A {:?} {:?}",
        w.rules(B),
        w.hosts[B].qemu.alive,
        w.rules(A),
        w.running()
    );
}

#[test]
fn remove_swallows_pending() {
    let mut w = World::new();
    w.migrate(A);
    w.control(A, ControlRequest::DomainRemove { name: "g".into() });
    w.run_for(20_000);
    assert_eq!(w.replies.len(), 2, "{:?}", w.replies);
}

#[test]
fn paused_guest_after_failed_migration() {
    let mut w = perform_frozen(MigrationStatus::Device);
    w.hosts[A].qemu.run = RunState::Paused;
    w.migrate(A);
    w.run_for(200);
    w.end_migration(A, MigrationStatus::Failed);
    w.run_for(SETTLE_MS);
    w.replies.clear();
    set(&mut w, A, WantedRunState::Running);
    assert_eq!(w.running(), vec![A], "{:?}", w.replies);
}

#[test]
fn remove_add_then_claimed() {
    let mut w = World::new();
    migrated(&mut w);
    assert_eq!(w.running(), vec![B]);
    w.control(B, ControlRequest::DomainRemove { name: "g".into() });
    w.run_for(100);
    w.add_domain(B);
    w.replace_qemu(A);
    w.add_domain(A);
    w.run_for(500);
    w.replies.clear();
    w.migrate(B);
    w.run_for(SETTLE_MS);
    assert_eq!(w.running(), vec![A], "{:?}", w.replies);
}

#[test]
fn refused_cont_one_unreachable_moment() {
    let mut w = World::new();
    w.hosts[B].qemu.refuse_cont = true;
    w.stall = Some(|at, c| at == B && *c == EffectCommand::Cont);
    w.migrate(A);
    w.run_for(200);
    assert!(!w.stalled.is_empty());
    w.partitioned = true;
    w.unstall();
    w.run_for(500);
    w.partitioned = false;
    w.run_for(300_000);
    assert_eq!(w.running().len(), 1);
}

#[test]
fn abandoned_unknown_state_no_hold() {
    let mut w = perform_frozen(MigrationStatus::Active);
    w.migrate(A);
    w.run_for(200);
    w.hosts[A].qemu.status = MigrationStatus::Other("odd".into());
    cancel(&mut w, A);
    w.run_for(SETTLE_MS);
    assert!(
        w.open_jobs().is_empty() || w.rules(A).iter().any(|r| r.contains("no-rule")),
        "{:?}",
        w.rules(A)
    );
}

/// P3: an older copy of the source's journal is found out by QEMU's claim, and that QEMU dies: what showed it is gone, and
/// the copy at the destination is not given up on what such a journal says.
#[test]
fn a_source_whose_journal_is_older_outlives_its_qemu() {
    for is_mute_first in [false, true] {
        outlive_its_qemu(is_mute_first);
    }
}

fn outlive_its_qemu(is_mute_first: bool) {
    let mut w = World::new();
    w.migrate(A);
    w.run_for(SETTLE_MS);
    assert_eq!(w.running(), vec![B], "{}", w.story());
    w.replace_qemu(A);
    w.add_domain(A);
    // Back again: its claim of before is exchanged.
    w.freeze = Some(MigrationStatus::Device);
    w.migrate(B);
    w.run_for(500);
    w.partitioned = true;
    w.thaw();
    w.run_for(500);
    assert!(w.has(B, |b| matches!(b, RecordBody::MigrationGranted(_))));
    w.crash(B);
    let is_begun = |entry: &History| matches!(entry, History::Record(one) if matches!(one.body, RecordBody::JobBegun(_)));
    let begun = w.hosts[B].journal.iter().rposition(is_begun).unwrap();
    let is_intent = |entry: &History| matches!(entry, History::Record(one) if matches!(one.body, RecordBody::EffectIntended(_)));
    let intent = w.hosts[B].journal[begun..].iter().position(is_intent);
    w.hosts[B].journal.truncate(begun + intent.unwrap());
    w.restart(B);
    w.run_for(3_000);
    assert_eq!(w.held(B), Some("journal-older-than-qemu"), "{}", w.story());
    if is_mute_first {
        w.hosts[B].qemu.mute = true;
        w.crash(B);
        w.restart(B);
        w.run_for(3_000);
        w.hosts[B].qemu.mute = false;
    }
    w.kill(B);
    w.partitioned = false;
    for is_restarted in [false, true] {
        if is_restarted {
            w.crash(B);
            w.restart(B);
        }
        w.run_for(SETTLE_MS);
        assert_eq!(w.held(B), Some("journal-damaged"), "{}", w.story());
        assert!(w.hosts[A].qemu.alive, "{}", w.story());
    }
}

/// P3: the guest came and was started, and both sides forgot how; its owner stopped it, and it is on its way to a file when an older copy of
/// the destination's journal is put back. That the source knows of no such migration does not end the one copy that there is.
#[test]
fn a_guest_that_came_and_streams_is_not_ended_by_an_older_journal() {
    let mut w = World::new();
    w.migrate(A);
    w.run_for(SETTLE_MS);
    assert_settled(&w, "it came");
    assert_eq!(w.running(), [B]);
    w.crash(B);
    let entries = w.hosts[B].journal.iter();
    let names = entries.map(|entry| match entry {
        History::Record(record) => record.body.type_name(),
        History::Gap(_) => "",
    });
    let decided = names.clone().position(|name| name == "phase-entered");
    w.hosts[B].journal.truncate(decided.unwrap());
    w.hosts[B].qemu.run = RunState::Paused;
    w.hosts[B].qemu.status = MigrationStatus::Active;
    w.restart(B);
    w.run_for(SETTLE_MS);
    assert!(w.hosts[B].qemu.alive, "{}", w.story());
    let held = Some(Rule::DestinationPrepareAmnesia.name());
    assert_eq!(w.held(B), held, "{}", w.story());
}
