//! The locks on the image through a migration by two sidecars: they are kept or missing, taken by the
//! destination with its copy or when it runs, and by somebody else in between; and a sidecar is killed.
//!
//! No decision rests on a lock: the outcome is the same with and without. What a lock can do is
//! refuse a `cont`, and then the guest runs at the source, or later.

use phase_journal_lab::Error;
use phase_journal_lab::pair::{Limits, Pair, Side, Waited};
use phase_journal_lab::qemu::{Begin, Locking, Qemu, QemuOptions};
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use phase_journal_lab::until;
use serde_json::json;

use crate::dangers::{assert_stopped, refused_conts};
use crate::scenario::{TIMEOUT, assert_one_runs, pair_with_locks, performing_with};

/// When the destination takes the image.
#[derive(Clone, Copy, Debug)]
enum Activation {
    /// When it runs: as the sidecar sets it.
    Late,
    /// As soon as its copy is whole: somebody cleared the capability.
    Early,
}

fn crash_at(record: &str) -> RunOptions {
    RunOptions::crashing(CrashPoint::AfterRecord(record.to_owned()))
}

/// The source's sidecar is dead with its licence given, and the destination is whole.
fn granted(locking: Locking, activation: Activation) -> Pair {
    let mut pair = performing_with(locking, 1, crash_at("migration-granted"));
    let late = matches!(activation, Activation::Late);
    let capability = json!([{"capability": "late-block-activate", "state": late}]);
    let set = json!({"capabilities": capability});
    let monitor = pair.qemu(Side::B).monitor();
    monitor.execute("migrate-set-capabilities", set).unwrap();
    let converge = json!({"max-bandwidth": 0, "downtime-limit": 300});
    let monitor = pair.qemu(Side::A).monitor();
    monitor.execute("migrate-set-parameters", converge).unwrap();
    let waited = pair.wait_for_crash(Side::A, TIMEOUT).unwrap();
    assert_eq!(waited, Waited::Crashed);
    pair
}

/// Another program that wants to write to the image. QEMU refuses it, or it holds the locks.
fn intruder(pair: &Pair) -> Result<Qemu, Error> {
    let directory = pair.directory().join("intruder");
    match std::fs::create_dir(&directory) {
        Err(problem) if problem.kind() != std::io::ErrorKind::AlreadyExists => panic!("{problem}"),
        Ok(()) | Err(_) => {}
    }
    Qemu::start(&QemuOptions {
        name: "intruder".to_owned(),
        directory,
        disk: pair.directory().join("disk"),
        uuid: "99999999-2222-4333-8444-555555555555".to_owned(),
        begin: Begin::Running,
        locking: Locking::On,
        data: Vec::new(),
    })
}

fn assert_locked(pair: &Pair, what: &str) {
    let refused = intruder(pair).expect_err(what).to_string();
    assert!(refused.contains("\"write\" lock"), "{what}: {refused}");
}

/// The image is nobody's, and then an intruder's.
pub(crate) fn intrude(pair: &Pair) -> Qemu {
    intruder(pair).unwrap_or_else(|error| panic!("the image is not free: {error}"))
}

fn recover(locking: Locking, activation: Activation) -> Pair {
    let what = format!("{locking:?}, {activation:?}");
    let mut pair = granted(locking, activation);
    if let (Locking::On, Activation::Early) = (locking, activation) {
        assert_locked(&pair, "a whole copy that took the image at once");
    }
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, &what), Side::B, "{what}");
    pair
}

#[test]
fn locks_taken_late() {
    let pair = recover(Locking::On, Activation::Late);
    assert_locked(&pair, "the guest runs at the destination");
}

#[test]
fn locks_taken_with_the_copy() {
    let pair = recover(Locking::On, Activation::Early);
    assert_locked(&pair, "the guest runs at the destination");
}

#[test]
fn no_locks_and_late_activation() {
    drop(recover(Locking::Off, Activation::Late));
}

#[test]
fn no_locks_and_early_activation() {
    drop(recover(Locking::Off, Activation::Early));
}

/// The source takes the image back when the destination is gone, whoever had it.
#[test]
fn the_source_takes_the_image_back() {
    for activation in [Activation::Late, Activation::Early] {
        let what = format!("{activation:?}, destination killed");
        let mut pair = granted(Locking::On, activation);
        pair.qemu(Side::B).kill().unwrap();
        pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
        assert_eq!(assert_one_runs(&mut pair, &what), Side::A, "{what}");
        assert_locked(&pair, &what);
    }
}

/// The destination's sidecar is killed between its decision and its `cont`, and with locks.
#[test]
fn the_destination_killed_after_it_committed() {
    let mut pair = pair_with_locks(RunOptions::default(), crash_at("migration-committed"));
    pair.migrate(Side::A, Limits::default()).unwrap();
    let waited = pair.wait_for_crash(Side::B, TIMEOUT).unwrap();
    assert_eq!(waited, Waited::Crashed);
    pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "committed"), Side::B);
    assert_locked(&pair, "the guest runs at the destination");
}

/// Between the two somebody else takes the image. The destination's `cont` is refused, provably nothing
/// ran there, and the source's copy is safe: the guest goes back, as soon as the image is free.
#[test]
fn an_intruder_sends_the_guest_back() {
    let mut pair = granted(Locking::On, Activation::Late);
    let intruder = intrude(&pair);
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    pair.qemu(Side::B).wait_dead(TIMEOUT).unwrap();
    let tried = until("a refused cont at the source", TIMEOUT, || {
        Ok((refused_conts(&mut pair, Side::A) > 0).then_some(()))
    });
    tried.unwrap();
    assert_eq!(refused_conts(&mut pair, Side::B), 1);
    assert_stopped(&pair, "the image is the intruder's");
    drop(intruder);
    assert_eq!(assert_one_runs(&mut pair, "the image is free"), Side::A);
    assert_locked(&pair, "the guest runs at the source");
}

/// The same in v2, where the source's copy is gone when the licence goes out: the destination tries
/// until the image is free.
#[test]
fn an_intruder_makes_a_v2_destination_wait() {
    let mut pair = pair_with_locks(crash_at("migration-committed"), RunOptions::default());
    let limits = Limits {
        protocol: Some("v2"),
        ..Limits::default()
    };
    pair.migrate(Side::A, limits).unwrap();
    let waited = pair.wait_for_crash(Side::A, TIMEOUT).unwrap();
    assert_eq!(waited, Waited::Crashed);
    let intruder = intrude(&pair);
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    let tried = until("refused conts at the destination", TIMEOUT, || {
        Ok((refused_conts(&mut pair, Side::B) > 1).then_some(()))
    });
    tried.unwrap();
    assert_stopped(&pair, "the image is the intruder's");
    drop(intruder);
    assert_eq!(assert_one_runs(&mut pair, "the image is free"), Side::B);
    assert_locked(&pair, "the guest runs at the destination");
}
