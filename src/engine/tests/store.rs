//! Authority store: crashes of either side at every batch, a store that loses, delays or answers nothing, and
//! who wins when both sides want to.

use journal_format::record::{
    Authority, EffectCommand, EffectResult, KeyChange, KeyValue, MigrationStatus, RecordBody,
    RunState,
};

use super::world::{A, B, Crash, StoreFault, World};
use super::{SETTLE_MS, assert_settled, migrated};
use crate::engine::{ControlRequest, History, Refusal};

fn of_store() -> World {
    World::decided_by(Authority::Store)
}

fn crash_points(at: usize) -> Vec<Crash> {
    let mut world = of_store();
    migrated(&mut world);
    let count = world.hosts[at].batches;
    assert!(count > 8, "a migration has more batches than {count}");
    (1..=count)
        .flat_map(|n| [Crash::Before(n), Crash::After(n)])
        .collect()
}

/// One copy runs, nothing is open or kept, and the store has forgotten it too.
fn assert_all_settled(world: &World, what: &str) {
    assert_settled(world, what);
    assert!(
        world.store.keys.is_empty(),
        "{what}: {:?}\n{}",
        world.store.keys,
        world.story()
    );
}

fn is_after(crash: &Crash) -> bool {
    matches!(crash, Crash::After(_))
}

/// Some die only when the other side tells that it knows the outcome.
fn restart_until_settled(world: &mut World) {
    while [A, B].iter().any(|at| world.hosts[*at].engine.is_none()) {
        restart_dead(world);
        world.run_for(SETTLE_MS);
    }
}

fn restart_dead(world: &mut World) {
    for at in [A, B] {
        if world.hosts[at].engine.is_none() {
            world.restart(at);
        }
    }
}

fn has_change(world: &World, at: usize, is_it: fn(&KeyChange) -> bool) -> bool {
    world.has(
        at,
        |body| matches!(body, RecordBody::StoreIntended(intended) if is_it(&intended.change)),
    )
}

fn refusal_of(world: &World) -> Refusal {
    match world.replies.last() {
        Some((A, Err(refusal))) => refusal.clone(),
        other => panic!("{other:?}"),
    }
}

fn is_create_aborted(change: &KeyChange) -> bool {
    *change == KeyChange::Create(KeyValue::Aborted)
}

#[test]
fn the_winner_runs_the_guest() {
    let mut world = of_store();
    migrated(&mut world);
    assert_all_settled(&world, "no crash");
    assert_eq!(world.running(), vec![B]);
    assert!(!world.hosts[A].qemu.alive);
    // Committed, started, gone.
    assert_eq!(world.store.changes, 3);
    // The intent before the fact, the fact before the key says so.
    let order: Vec<&str> = world.names(B);
    let place = |name: &str| order.iter().position(|one| *one == name).unwrap();
    assert!(place("store-intended") < place("store-read"));
    assert!(place("store-read") < place("migration-committed"));
    let moved = order
        .iter()
        .enumerate()
        .filter(|(_, name)| **name == "store-intended");
    let moved: Vec<usize> = moved.map(|(at, _)| at).collect();
    assert!(place("migration-started") < moved[1] && moved[1] < place("job-ended"));
}

#[test]
fn one_sidecar_crashes_at_every_batch() {
    for at in [A, B] {
        for crash in crash_points(at) {
            for effects_survive in [false, true] {
                for pause in [100, 3_000, 20_000] {
                    let mut world = of_store();
                    world.effects_survive = effects_survive;
                    world.hosts[at].crash = Some(crash);
                    world.migrate(A);
                    world.run_for(pause);
                    world.run_for(SETTLE_MS);
                    restart_until_settled(&mut world);
                    let what = format!(
                        "host {at} {crash:?} effects survive {effects_survive} pause {pause}"
                    );
                    assert_all_settled(&world, &what);
                    assert!(world.hosts[at].ready, "{what}: never ready");
                }
            }
        }
    }
}

#[test]
fn both_sidecars_crash_and_restart_in_both_orders() {
    for at in [A, B] {
        for crash in crash_points(at) {
            for (first, gap) in [(A, 0), (B, 0), (A, 9_000), (B, 9_000)] {
                let mut world = of_store();
                world.effects_survive = true;
                world.hosts[at].crash = Some(crash);
                world.migrate(A);
                while world.hosts[at].engine.is_some() && world.now < 10_000 {
                    world.run_for(50);
                }
                for at in [1 - at, at] {
                    if world.hosts[at].engine.is_some() {
                        world.crash(at);
                    }
                }
                world.run_for(500);
                world.restart(first);
                world.run_for(gap);
                world.restart(1 - first);
                world.run_for(SETTLE_MS);
                let what = format!("both at host {at} {crash:?} first {first} gap {gap}");
                assert_all_settled(&world, &what);
            }
        }
    }
}

#[test]
fn two_crashes_one_after_the_other() {
    let after = |at| crash_points(at).into_iter().filter(is_after);
    for first in after(A) {
        for second in after(B) {
            let mut world = of_store();
            world.hosts[A].crash = Some(first);
            world.hosts[B].crash = Some(second);
            world.migrate(A);
            for _ in 0..4 {
                world.run_for(2_500);
                restart_dead(&mut world);
            }
            world.run_for(SETTLE_MS);
            assert_all_settled(&world, &format!("{first:?} and {second:?}"));
        }
    }
}

const FAULTS: [StoreFault; 4] = [
    StoreFault::Lost,
    StoreFault::Unanswered,
    StoreFault::Late(700),
    StoreFault::Late(8_000),
];

/// Each change of the key is lost, has an unknown result, or comes late; and either side crashes.
#[test]
fn a_store_that_loses_delays_and_does_not_answer() {
    for number in 1..=3 {
        for fault in FAULTS {
            for at in [A, B] {
                let crashes = crash_points(at).into_iter().filter(is_after).map(Some);
                for crash in crashes.chain([None]) {
                    for pause in [200, 12_000] {
                        let mut world = of_store();
                        world.effects_survive = true;
                        world.store.fault = Some((number, fault));
                        world.hosts[at].crash = crash;
                        world.migrate(A);
                        world.run_for(pause);
                        restart_dead(&mut world);
                        world.run_for(SETTLE_MS);
                        restart_until_settled(&mut world);
                        let what = format!("change {number} {fault:?} host {at} {crash:?} {pause}");
                        // A late create may come after all is over; that key means nothing to anybody.
                        match fault {
                            StoreFault::Late(_) => assert_settled(&world, &what),
                            StoreFault::Lost | StoreFault::Unanswered => {
                                assert_all_settled(&world, &what);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The store is away from any moment on: nothing is lost, and when it comes back all settles.
#[test]
fn a_store_that_is_down_for_a_while() {
    for at in [A, B] {
        for crash in crash_points(at) {
            let (Crash::Before(number) | Crash::After(number)) = crash;
            for crashes in [false, true] {
                let mut world = of_store();
                world.hosts[at].crash = crashes.then_some(crash);
                world.migrate(A);
                while world.hosts[at].batches < number && world.now < 10_000 {
                    world.run_for(50);
                }
                world.store.down = true;
                world.run_for(20_000);
                restart_dead(&mut world);
                world.run_for(20_000);
                let what = format!("host {at} {crash:?} crashes {crashes}");
                assert_eq!(world.broken, None, "{what}\n{}", world.story());
                assert!(
                    world.hosts[at].ready,
                    "{what}: never ready without the store"
                );
                world.store.down = false;
                world.run_for(SETTLE_MS);
                assert_all_settled(&world, &what);
            }
        }
    }
}

/// The whole migration with the store away: both copies stay, paused and held, until it is back.
#[test]
fn without_the_store_both_sides_hold() {
    let mut world = of_store();
    world.store.down = true;
    world.migrate(A);
    world.run_for(20_000);
    assert_eq!(world.running(), Vec::<usize>::new(), "{}", world.story());
    assert!(world.hosts[A].qemu.alive && world.hosts[B].qemu.alive);
    assert_eq!(world.held(A), Some("source-store-in-doubt"));
    assert_eq!(world.held(B), Some("destination-store-proposed"));
    // However long it takes: nothing is written any more, and the journal may do slow things.
    let written = [A, B].map(|at| world.names(at).len());
    world.run_for(SETTLE_MS);
    assert_eq!([A, B].map(|at| world.names(at).len()), written);
    for host in &world.hosts {
        assert!(host.engine.as_ref().is_some_and(|one| !one.in_blackout()));
    }
    world.store.down = false;
    world.run_for(SETTLE_MS);
    assert_all_settled(&world, "the store is back");
}

/// The source won aborted, and somebody continued the destination's copy all the same: held, never killed,
/// until an operator says which copy goes.
#[test]
pub(super) fn a_destination_that_runs_against_the_key_is_held() {
    let mut world = of_store();
    world.store.down = true;
    world.migrate(A);
    world.run_for(3_000);
    let migration = world.find(A, |body| match body {
        RecordBody::MigrationGranted(granted) => Some(granted.cookie.migration),
        _ => None,
    });
    world.kill(A);
    world
        .store
        .keys
        .insert(migration.unwrap(), KeyValue::Aborted);
    world.set_run(B, RunState::Running);
    world.run_for(1_000);
    world.store.down = false;
    world.run_for(10_000);
    assert_eq!(world.held(B), Some("destination-store-contradicted"));
    assert_eq!(world.running(), vec![B], "{}", world.story());
    world.control(
        B,
        ControlRequest::Resolve {
            name: "g".to_owned(),
            decision: journal_format::record::Decision::Kill,
            force: true,
            statement: "the other one is the guest".to_owned(),
            uid: 0,
        },
    );
    world.run_for(SETTLE_MS);
    assert!(!world.hosts[B].qemu.alive, "{}", world.story());
    assert_eq!(world.open_jobs(), Vec::<String>::new(), "{}", world.story());
}

/// Both want to win: whoever is first in the store does, whatever happens to the requests.
#[test]
fn two_proposals_race() {
    let mut won = [0, 0];
    for limit in [0, 50, 100, 200, 400] {
        for number in 1..=4 {
            let faults = FAULTS.into_iter().map(Some).chain([None]);
            for fault in faults {
                for hold_asks in [false, true] {
                    let mut world = of_store();
                    world.in_doubt_limit = limit;
                    world.store.fault = fault.map(|fault| (number, fault));
                    world.migrate(A);
                    while !world.has(A, |body| matches!(body, RecordBody::MigrationGranted(_))) {
                        world.run_for(50);
                        if world.now > 20_000 {
                            break;
                        }
                    }
                    world.hold_asks[A] = hold_asks;
                    world.run_for(3_000);
                    world.release_asks();
                    world.run_for(SETTLE_MS);
                    let what = format!("limit {limit} {number} {fault:?} {hold_asks}");
                    assert_settled(&world, &what);
                    won[world.running()[0]] += 1;
                }
            }
        }
    }
    assert!(won[A] > 10 && won[B] > 10, "one always wins: {won:?}");
}

/// A dead peer blocks nobody: a destination with its licence goes on, and a granted source wins aborted.
#[test]
fn a_peer_that_never_comes_back() {
    let mut held = std::collections::BTreeSet::new();
    for at in [A, B] {
        for crash in crash_points(at) {
            let mut world = of_store();
            world.hosts[at].crash = Some(crash);
            world.migrate(A);
            world.run_for(SETTLE_MS);
            let what = format!("host {at} {crash:?}\n{}", world.story());
            assert_eq!(world.broken, None, "{what}");
            if world.hosts[at].engine.is_some() || world.running().len() == 1 {
                continue;
            }
            let other = world
                .held(1 - at)
                .unwrap_or_else(|| panic!("no hold: {what}"));
            held.insert((1 - at, other));
        }
    }
    let expected = [
        // The winner is gone before it said that it started.
        (A, "source-store-in-doubt"),
        // A copy without a licence, whole or not.
        (B, "destination-prepare-alone"),
    ];
    assert_eq!(held, expected.into_iter().collect());
}

#[test]
fn a_source_wins_aborted_only_when_its_time_is_over() {
    let mut world = of_store();
    // The destination does not live to be licensed.
    world.freeze = Some(MigrationStatus::Device);
    world.migrate(A);
    world.run_for(1_000);
    world.hold_asks[A] = true;
    world.thaw();
    world.run_for(100);
    assert!(world.has(A, |body| matches!(body, RecordBody::MigrationGranted(_))));
    world.crash(B);
    world.release_asks();
    world.run_for(4_000);
    assert!(
        !has_change(&world, A, is_create_aborted),
        "{}",
        world.story()
    );
    assert_eq!(world.held(A), Some("source-store-in-doubt"));
    world.run_for(3_000);
    assert!(has_change(&world, A, is_create_aborted));
    assert_eq!(world.running(), vec![A], "{}", world.story());
    world.restart(B);
    world.run_for(SETTLE_MS);
    assert_all_settled(&world, "the destination came back");
    assert_eq!(world.running(), vec![A]);
}

/// A source whose QEMU is dead never proposes aborted: the destination's copy is the only one.
#[test]
fn a_dead_source_leaves_it_to_the_destination() {
    let mut world = of_store();
    world.stall = Some(|at, command| at == A && *command == EffectCommand::Kill);
    world.store.down = true;
    world.migrate(A);
    world.run_for(3_000);
    world.crash(B);
    world.kill(A);
    world.run_for(20_000);
    world.store.down = false;
    world.run_for(20_000);
    assert!(
        !has_change(&world, A, is_create_aborted),
        "{}",
        world.story()
    );
    assert_eq!(world.held(A), Some("source-store-dead"));
    world.restart(B);
    world.run_for(SETTLE_MS);
    assert_all_settled(&world, "the destination is back");
    assert_eq!(world.running(), vec![B]);
}

#[test]
fn a_qemu_dies_at_every_moment() {
    let moments = {
        let mut world = of_store();
        migrated(&mut world);
        world.steps
    };
    for at in [A, B] {
        for moment in 1..moments.min(500) {
            let mut world = of_store();
            world.kill_qemu = Some((at, moment));
            migrated(&mut world);
            let what = format!("host {at} moment {moment}\n{}", world.story());
            assert_eq!(world.broken, None, "{what}");
            let alive = world.hosts.iter().any(|host| host.qemu.holds_guest());
            let held = [A, B].iter().any(|at| world.held(*at).is_some());
            assert!(
                world.running().len() == 1 || !alive || held,
                "a living copy neither runs nor is held: {what}"
            );
            // Both sides talk and the store answers: nothing stays open but for a source that may have run on.
            let open = world.open_jobs();
            let unwatched = world.held(A) == Some("source-perform-dead-unwatched");
            assert!(open.is_empty() || unwatched, "{what}");
        }
    }
}

#[test]
fn a_refused_cont_with_a_safe_source_gives_the_guest_back() {
    let mut world = of_store();
    world.hosts[B].qemu.refuse_cont = true;
    migrated(&mut world);
    assert_all_settled(&world, "refused cont");
    assert_eq!(world.running(), vec![A]);
    let rules = world.rules(B);
    for rule in [
        "destination-finish-refused-safe",
        "destination-store-withdraw",
    ] {
        assert!(rules.contains(&rule.to_owned()), "{rule} of {rules:?}");
    }
    // Its copy is gone before the key says so.
    let order = world.names(B);
    let place = |name: &str| order.iter().rposition(|one| *one == name).unwrap();
    assert!(place("migration-aborted") < place("store-read"));
}

/// Withdrawn with the store away: the source hears of it only by the key.
#[test]
fn a_withdrawal_waits_for_the_store() {
    for crash in [false, true] {
        let mut world = of_store();
        world.hosts[B].qemu.refuse_cont = true;
        world.stall = Some(|at, command| at == B && *command == EffectCommand::Cont);
        world.migrate(A);
        world.run_for(1_000);
        assert!(world.has(B, |body| matches!(body, RecordBody::MigrationCommitted(_))));
        world.store.down = true;
        world.unstall();
        world.run_for(10_000);
        assert!(!world.hosts[B].qemu.alive, "{}", world.story());
        assert_eq!(world.running(), Vec::<usize>::new());
        if crash {
            world.crash(A);
            world.crash(B);
            world.restart(B);
            world.restart(A);
            world.run_for(10_000);
            assert_eq!(world.running(), Vec::<usize>::new());
        }
        world.store.down = false;
        world.run_for(SETTLE_MS);
        assert_all_settled(&world, "the store is back");
        assert_eq!(world.running(), vec![A]);
    }
}

/// One `cont` of unknown result is never taken back, whatever the others answer.
#[test]
fn a_cont_of_unknown_result_is_never_withdrawn() {
    let mut world = of_store();
    world.fail = Some(|at, command| {
        (at == B && *command == EffectCommand::Cont).then(|| EffectResult::Unknown {
            why: "no answer".to_owned(),
        })
    });
    world.migrate(A);
    world.run_for(10_000);
    assert!(!world.has(B, |body| matches!(body, RecordBody::MigrationAborted(_))));
    world.fail = None;
    world.run_for(SETTLE_MS);
    assert_all_settled(&world, "cont at last");
    assert_eq!(world.running(), vec![B]);
}

#[test]
fn a_foreign_cont_at_the_granted_source_wins_aborted() {
    let mut world = of_store();
    world.store.down = true;
    world.migrate(A);
    world.run_for(3_000);
    world.set_run(A, RunState::Running);
    world.hosts[B].qemu.refuse_cont = true;
    world.crash(B);
    world.run_for(1_000);
    assert_eq!(world.held(A), Some("source-store-running"));
    world.store.down = false;
    world.run_for(10_000);
    assert!(
        has_change(&world, A, is_create_aborted),
        "{}",
        world.story()
    );
    world.restart(B);
    world.run_for(SETTLE_MS);
    assert_all_settled(&world, "continued from outside");
    assert_eq!(world.running(), vec![A]);
}

#[test]
fn a_foreign_cont_at_the_whole_destination_is_told_to_the_store() {
    let mut world = of_store();
    world.store.down = true;
    world.migrate(A);
    world.run_for(2_000);
    world.set_run(B, RunState::Running);
    world.run_for(2_000);
    assert!(world.has(B, |body| matches!(body, RecordBody::MigrationStarted(_))));
    assert_eq!(world.held(B), Some("destination-store-started"));
    world.store.down = false;
    world.run_for(SETTLE_MS);
    assert_all_settled(&world, "continued from outside");
    assert_eq!(world.running(), vec![B]);
}

/// The destination's journal is lost after it won: the key says more than it knows, and it holds.
#[test]
fn a_destination_that_lost_its_journal_holds() {
    let mut found = std::collections::BTreeSet::new();
    for crash in crash_points(B) {
        let mut world = of_store();
        world.hosts[B].crash = Some(crash);
        world.migrate(A);
        world.run_for(1_000);
        if world.hosts[B].engine.is_some() {
            continue;
        }
        world.hosts[B].lose_journal();
        world.restart(B);
        world.run_for(SETTLE_MS);
        assert_eq!(world.broken, None, "{crash:?}\n{}", world.story());
        found.extend(world.held(A));
    }
    // Committed and not started: it may have run, and nobody knows.
    assert!(found.contains("source-store-in-doubt"), "{found:?}");
}

/// A winner whose journal was put back, to before it wanted to win: the key says more than it knows, and nothing is
/// withdrawn.
#[test]
pub(super) fn a_winner_whose_journal_is_older_holds() {
    let mut world = of_store();
    world.fail = Some(|at, command| {
        let why = String::new();
        let is_cont = at == B && *command == EffectCommand::Cont;
        is_cont.then_some(EffectResult::NotSent { why })
    });
    world.migrate(A);
    world.run_for(3_000);
    world.crash(B);
    let mut journal = world.hosts[B].journal.iter();
    let at = journal.position(|entry| match entry {
        History::Record(record) => matches!(record.body, RecordBody::StoreIntended(_)),
        History::Gap(_) => false,
    });
    world.hosts[B].journal.truncate(at.unwrap());
    world.fail = None;
    world.restart(B);
    world.run_for(SETTLE_MS);
    let held = world.held(B);
    assert_eq!(held, Some("destination-store-amnesia"), "{}", world.story());
    assert!(world.hosts[B].qemu.alive, "{}", world.story());
}

/// A store that was put back says less than before: nothing follows from it, and nobody wins by it.
#[test]
pub(super) fn a_store_that_was_put_back_is_not_believed() {
    let mut world = of_store();
    world.stall = Some(|at, command| at == B && *command == EffectCommand::Cont);
    world.migrate(A);
    world.run_for(3_000);
    assert!(world.has(A, |body| matches!(body, RecordBody::StoreRead(_))));
    world.store.keys.clear();
    world.run_for(20_000);
    assert!(
        !has_change(&world, A, is_create_aborted),
        "{}",
        world.story()
    );
    assert_eq!(world.held(A), Some("source-store-older"));
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_all_settled(&world, "the winner puts its commit there again");
    assert_eq!(world.running(), vec![B]);
}

/// Who decides is agreed on before anything begins.
#[test]
fn an_authority_that_a_side_cannot_serve_is_refused() {
    let refused = |change: fn(&mut World)| {
        let mut world = of_store();
        change(&mut world);
        world.migrate(A);
        world.run_for(3_000);
        assert_eq!(world.running(), vec![A], "{}", world.story());
        assert!(world.store.keys.is_empty() && world.store.changes == 0);
        world
    };
    let none = refused(|world| {
        world.stores[A] = None;
        world.restart_with_stores();
    });
    assert_eq!(refusal_of(&none), Refusal::NoStore);
    for other in [None, Some("another")] {
        let mut world = of_store();
        world.stores[B] = other;
        world.restart_with_stores();
        world.migrate(A);
        world.run_for(3_000);
        assert_eq!(world.running(), vec![A]);
        let begun = world.has(B, |body| matches!(body, RecordBody::JobBegun(_)));
        assert!(!begun, "{other:?}\n{}", world.story());
        assert_eq!(world.open_jobs(), Vec::<String>::new());
    }
    let mut world = of_store();
    world.postcopy = true;
    world.migrate(A);
    world.run_for(1_000);
    let refusal = Refusal::PostcopyNeedsDestination(Authority::Store);
    assert_eq!(refusal_of(&world), refusal);
}

/// A sidecar that is started with another store asks nothing of it about a migration of the old one.
#[test]
fn another_store_is_never_asked_about_it() {
    let mut world = of_store();
    world.store.down = true;
    world.migrate(A);
    world.run_for(3_000);
    world.stores = [Some("another"), Some("another")];
    world.store.down = false;
    world.restart_with_stores();
    world.run_for(20_000);
    assert_eq!(world.running(), Vec::<usize>::new(), "{}", world.story());
    assert!(world.store.keys.is_empty());
    assert_eq!(world.held(A), Some("source-store-in-doubt"));
    world.stores = [Some("the-store"), Some("the-store")];
    world.restart_with_stores();
    world.run_for(SETTLE_MS);
    assert_all_settled(&world, "the right store again");
}

#[test]
fn a_manager_s_word_decides_nothing_here() {
    let mut world = of_store();
    world.store.down = true;
    world.migrate(A);
    world.run_for(3_000);
    let target = crate::engine::JobTarget::Domain("g".to_owned());
    let outcome = journal_format::record::Outcome::Aborted;
    world.control(
        A,
        ControlRequest::Verdict {
            target,
            outcome,
            uid: 0,
        },
    );
    world.run_for(100);
    let last = world.replies.last();
    assert!(
        matches!(last, Some((A, Err(Refusal::NotTheManagers { .. })))),
        "{last:?}"
    );
}
