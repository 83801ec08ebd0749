//! What the model has no words for: another process on the socket, a state of QEMU that nobody knows, a key of
//! somebody else's. Each is held, and nothing is done to the guest.
//!
//! Not here: what the model goes through (`model`), single rows of the table (`rows`).

use journal_format::number::{Id128, JournalId, Nonce};
use journal_format::record::{
    Authority, EffectCommand, KeyValue, MigrationStatus, RecordBody, RunState,
};

use super::SETTLE_MS;
use super::hostile::granted_b_undecided;
use super::world::{A, B, World};
use crate::engine::QemuEvent;

fn effects(world: &World, at: usize) -> usize {
    let names = world.names(at);
    names
        .iter()
        .filter(|name| **name == "effect-intended")
        .count()
}

/// Somebody else's QEMU at the path of the monitor is neither looked at as the job's nor touched.
pub(super) fn another_process_on_the_socket() {
    let mut world = World::new();
    world.stall = Some(|at, command| at == A && *command == EffectCommand::MigrateContinue);
    world.migrate(A);
    world.run_for(3_000);
    world.crash(A);
    world.hosts[A].qemu.is_another = true;
    let before = effects(&world, A);
    world.restart(A);
    world.run_for(SETTLE_MS);
    assert_eq!(world.held(A), Some("other-instance"), "{}", world.story());
    assert_eq!(effects(&world, A), before, "{}", world.story());
    assert!(world.hosts[A].qemu.alive, "{}", world.story());
}

/// It was there only while the destination was asked to prepare: the claim of the migration before is taken back when
/// the job's own QEMU answers again, though none was seen in between.
pub(super) fn another_process_while_it_is_prepared() {
    let mut world = World::new();
    world.migrate(A);
    world.run_for(SETTLE_MS);
    world.replace_qemu(A);
    world.add_domain(A);
    world.migrate(B);
    world.run_for(SETTLE_MS);
    assert_eq!(world.running(), vec![A], "{}", world.story());
    // What A's QEMU carries now is of the migration that came.
    world.replace_qemu(B);
    world.add_domain(B);
    world.hold_asks = [true; 2];
    world.migrate(A);
    world.run_for(200);
    world.hosts[A].qemu.is_another = true;
    world.event(A, QemuEvent::Resume);
    world.run_for(200);
    world.release_asks();
    world.run_for(200);
    assert_eq!(world.held(A), Some("other-instance"), "{}", world.story());
    world.hosts[A].qemu.is_another = false;
    world.run_for(SETTLE_MS);
    assert_eq!(world.running(), vec![B], "{}", world.story());
}

/// A state that no row is about leads to a hold, never to a guess.
pub(super) fn a_state_that_no_row_is_about() {
    let mut world = granted_b_undecided();
    world.set_run(B, RunState::GuestPanicked);
    let before = effects(&world, B);
    world.restart(B);
    world.run_for(SETTLE_MS);
    assert_eq!(world.held(B), Some("no-rule-for-this"), "{}", world.story());
    assert_eq!(effects(&world, B), before, "{}", world.story());
    assert!(world.hosts[B].qemu.alive, "{}", world.story());
}

/// The guest came, its job ended, and a save of it was cancelled: an older copy of the journal, which has the job
/// open, does not take the save for its stream.
pub(super) fn a_stream_that_went_out_since() {
    let mut world = granted_b_undecided();
    world.set_status(B, MigrationStatus::Cancelled);
    let before = effects(&world, B);
    world.restart(B);
    world.run_for(SETTLE_MS);
    assert_eq!(world.held(B), Some("no-rule-for-this"), "{}", world.story());
    assert_eq!(effects(&world, B), before, "{}", world.story());
    assert!(world.hosts[B].qemu.alive, "{}", world.story());
}

/// A key that another journal committed proves nothing about this migration.
pub(super) fn a_key_of_another_journal() {
    let mut world = World::decided_by(Authority::Store);
    world.store.down = true;
    world.migrate(A);
    world.run_for(3_000);
    let migration = world.find(A, |body| match body {
        RecordBody::MigrationGranted(granted) => Some(granted.cookie.migration),
        _ => None,
    });
    let other = Id128([0xEE; 16]);
    let key = KeyValue::Committed {
        journal: JournalId(other),
        nonce: Nonce(other),
    };
    world.store.keys.insert(migration.unwrap(), key);
    world.store.down = false;
    world.run_for(SETTLE_MS);
    for at in [A, B] {
        let held = world.held(at);
        assert_eq!(held, Some("store-key-foreign"), "{}", world.story());
        assert!(world.hosts[at].qemu.alive, "{}", world.story());
    }
    assert_eq!(world.running(), Vec::<usize>::new(), "{}", world.story());
}

#[test]
fn what_is_not_known_is_held() {
    another_process_on_the_socket();
    another_process_while_it_is_prepared();
    a_state_that_no_row_is_about();
    a_stream_that_went_out_since();
    a_key_of_another_journal();
}
