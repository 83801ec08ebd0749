//! Disks that are not shared: copied, settled before the guest goes over, and nothing left of a try that came to
//! nothing, under crashes at every batch and deaths at every step.

use journal_format::record::{
    Authority, DISKS_MAX, Decision, EffectCommand, EffectResult, JobResult, MigrationStatus,
    Outcome, Protocol, RecordBody, RunState, WantedRunState,
};

use super::world::{A, B, Copying, Crash, World};
use super::{PROTOCOLS, SETTLE_MS, assert_settled, migrated};
use crate::engine::{ControlRequest, DisksRefused, JobTarget, Refusal};

fn copying(protocol: Protocol) -> World {
    let mut world = World::of(protocol);
    world.copies(2);
    world
}

fn assert_clean(world: &World, what: &str) {
    assert_settled(world, what);
    let left = world.left_of_disks();
    assert!(left.is_empty(), "{what}: {left:?}\n{}", world.story());
}

/// How the last job of a host ended.
fn ended(world: &World, at: usize) -> (JobResult, String) {
    let ended = world.hosts[at].journal.iter().rev().find_map(|entry| {
        let crate::engine::History::Record(record) = entry else {
            return None;
        };
        match &record.body {
            RecordBody::JobEnded(ended) => Some((ended.result, ended.detail.clone())),
            _ => None,
        }
    });
    ended.expect("a job ended")
}

fn is_granted(body: &RecordBody) -> bool {
    matches!(
        body,
        RecordBody::MigrationGranted(_) | RecordBody::MigrationCommitted(_)
    )
}

/// The next try, with a new destination, takes the guest and its disks.
fn assert_next_works(world: &mut World, what: &str) {
    if !world.hosts[B].qemu.alive {
        world.replace_qemu(B);
        world.add_domain(B);
        world.run_for(500);
    }
    migrated(world);
    assert_clean(world, &format!("{what}, again"));
    assert_eq!(world.running(), vec![B], "{what}, again");
}

#[test]
fn the_disks_go_with_the_guest() {
    for protocol in PROTOCOLS {
        let mut world = copying(protocol);
        migrated(&mut world);
        assert_clean(&world, "no crash");
        assert_eq!(world.running(), vec![B]);
        let settled =
            |body: &RecordBody| matches!(body, RecordBody::MigrationDisks(disks) if disks.settled);
        assert!(world.has(A, settled) && world.has(B, settled));
    }
    let mut world = World::of_postcopy(0);
    world.copies(1);
    migrated(&mut world);
    assert_clean(&world, "post-copy");
    assert_eq!(world.running(), vec![B]);
}

#[test]
fn a_sidecar_crashes_at_every_batch() {
    for protocol in PROTOCOLS {
        for at in [A, B] {
            let mut plain = copying(protocol);
            migrated(&mut plain);
            let batches = plain.hosts[at].batches;
            assert!(batches > 15, "{batches}");
            let mut went = [0, 0];
            for batch in 1..=batches {
                for crash in [Crash::Before(batch), Crash::After(batch)] {
                    for (effects_survive, pause) in [(false, 100), (true, 3_000)] {
                        let mut world = copying(protocol);
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
                        let what =
                            format!("{protocol} host {at} {crash:?} {effects_survive} {pause}");
                        assert_clean(&world, &what);
                        let runs = world.running()[0];
                        went[runs] += 1;
                        if runs == A && effects_survive {
                            assert_next_works(&mut world, &what);
                        }
                    }
                }
            }
            assert!(went[A] > 20 && went[B] > 3, "{protocol} {at}: {went:?}");
        }
    }
}

/// Whichever QEMU dies: the other one's guest is on its own disks, if it has one, and nothing is left there.
#[test]
fn a_qemu_dies_at_every_step() {
    for victim in [A, B] {
        let mut plain = copying(Protocol::V3);
        migrated(&mut plain);
        for step in (1..plain.steps).step_by(3) {
            let mut world = copying(Protocol::V3);
            world.kill_qemu = Some((victim, step));
            migrated(&mut world);
            let what = format!("host {victim} dies at step {step}");
            assert_eq!(world.broken, None, "{what}\n{}", world.story());
            let left = world.left_of_disks();
            // A held copy is looked at by an operator.
            let is_held = [A, B].iter().any(|at| world.held(*at).is_some());
            assert!(
                left.is_empty() || is_held,
                "{what}: {left:?}\n{}",
                world.story()
            );
            if victim == B && world.hosts[A].qemu.alive {
                assert_eq!(world.running(), vec![A], "{what}\n{}", world.story());
                assert_next_works(&mut world, &what);
            }
        }
    }
}

/// From its first byte on, while memory is sent, or when it was told to end.
#[test]
fn a_mirror_that_fails_ends_the_migration_and_not_the_guest() {
    for (first, then) in [
        (Copying::Full, Copying::Full),
        (Copying::Well, Copying::Full),
        (Copying::FullAtLast, Copying::FullAtLast),
    ] {
        let mut world = copying(Protocol::V3);
        world.copying = first;
        world.freeze = (first != then).then_some(MigrationStatus::Active);
        world.migrate(A);
        world.run_for(1_000);
        world.copying = then;
        world.run_for(3_000);
        world.thaw();
        world.run_for(SETTLE_MS);
        let what = format!("{first:?}, then {then:?}");
        assert_clean(&world, &what);
        assert_eq!(world.running(), vec![A], "{what}");
        assert!(!world.has(A, is_granted), "{what}");
        let why = world.find(A, |body| match body {
            RecordBody::MigrationAbandoned(abandoned) => Some(abandoned.why.clone()),
            _ => None,
        });
        let expected = "the mirror of node 'disk0' failed: Input/output error";
        assert_eq!(why.as_deref(), Some(expected), "{what}");
        world.copying = Copying::Well;
        assert_next_works(&mut world, &what);
    }
}

/// A destination that does not answer any more: the guest stands still for its mirrors for a bounded time, and then
/// goes on where it is, with their connections cut.
#[test]
fn a_destination_that_hangs_keeps_the_guest_for_a_bounded_time() {
    let mut world = copying(Protocol::V3);
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(1_000);
    world.copying = Copying::Hanging;
    world.thaw();
    world.run_for(5_000);
    assert_eq!(world.running(), Vec::<usize>::new(), "it stands still");
    world.run_for(9_000);
    assert_eq!(world.running(), vec![A], "{}", world.story());
    let cut = |body: &RecordBody| match body {
        RecordBody::EffectIntended(intended) => intended.command.name() == "yank",
        _ => false,
    };
    assert!(world.has(A, cut));
    world.run_for(SETTLE_MS);
    assert_clean(&world, "hanging");
    world.copying = Copying::Well;
    assert_next_works(&mut world, "hanging");
}

/// A QEMU that answers nothing while it waits for such a destination is freed out of band.
#[test]
fn a_mute_source_is_freed_from_a_destination_that_hangs() {
    let mut world = copying(Protocol::V3);
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(1_000);
    world.copying = Copying::Hanging;
    world.hosts[A].qemu.mute = true;
    world.run_for(8_000);
    let cut = |body: &RecordBody| match body {
        RecordBody::EffectIntended(intended) => intended.command.name() == "yank",
        _ => false,
    };
    assert!(!world.has(A, cut), "it may just be slow");
    world.run_for(9_000);
    assert!(world.has(A, cut), "{}", world.story());
    world.hosts[A].qemu.mute = false;
    world.thaw();
    world.run_for(SETTLE_MS);
    assert_clean(&world, "mute");
    assert_eq!(world.running(), vec![A]);
}

/// A mirror that nothing ends: the guest runs all the same, the job ends, and says what is left.
#[test]
fn what_cannot_be_removed_is_shown_and_keeps_nobody() {
    let mut world = copying(Protocol::V3);
    world.copying = Copying::Hanging;
    world.fail = Some(|_, command| (command.name() == "yank").then(refused));
    world.migrate(A);
    world.run_for(1_000);
    let job = world.find(A, |body| match body {
        RecordBody::MigrationDisks(disks) => Some(disks.job),
        _ => None,
    });
    world.control(
        A,
        crate::engine::ControlRequest::JobCancel { job: job.unwrap() },
    );
    world.run_for(SETTLE_MS);
    assert_settled(&world, "stuck");
    assert_eq!(world.running(), vec![A]);
    let (result, detail) = ended(&world, A);
    assert_eq!(result, JobResult::Cancelled);
    assert!(detail.contains("left in QEMU: phase-journal-"), "{detail}");
}

/// An export that cannot be taken back: the guest runs after a bounded time, and the job says what is left.
#[test]
fn an_export_that_stays_keeps_the_guest_for_a_bounded_time() {
    let mut world = copying(Protocol::V3);
    world.is_export_stuck = true;
    migrated(&mut world);
    assert_settled(&world, "stuck");
    assert_eq!(world.running(), vec![B]);
    let (result, detail) = ended(&world, B);
    assert_eq!(result, JobResult::Completed);
    assert!(detail.contains("left in QEMU: phase-journal-"), "{detail}");
}

/// Somebody else lets the guest go over while its mirrors still write: what was sent gets no licence.
#[test]
fn an_unsettled_disk_is_never_given_away() {
    for protocol in PROTOCOLS {
        let mut world = copying(protocol);
        world.copying = Copying::Well;
        world.stall = Some(|at, command| at == A && command.name() == "block-job-cancel");
        world.migrate(A);
        world.run_for(2_000);
        assert_eq!(world.hosts[A].qemu.status, MigrationStatus::PreSwitchover);
        let foreign = world.hosts[A].journal.len();
        world.set_status(A, MigrationStatus::Device);
        world.hosts[B].qemu.memory = world.hosts[A].qemu.memory;
        world.set_run(B, RunState::Paused);
        world.set_status(B, MigrationStatus::Completed);
        world.set_status(A, MigrationStatus::Completed);
        world.set_run(A, RunState::Postmigrate);
        world.stalled.clear();
        world.stall = None;
        world.crash(A);
        world.restart(A);
        world.run_for(SETTLE_MS);
        let what = format!("{protocol}, after record {foreign}");
        assert_clean(&world, &what);
        assert_eq!(world.running(), vec![A], "{what}");
        assert!(!world.has(A, is_granted), "{what}");
        assert!(!world.hosts[B].qemu.alive, "{what}");
    }
}

/// Makes something wrong before a migration is asked for.
type Spoil = fn(&mut World);

fn refusal(world: &World) -> &Refusal {
    let (at, reply) = world.replies.last().unwrap();
    assert_eq!(*at, A);
    reply.as_ref().unwrap_err()
}

#[test]
fn bad_input_begins_nothing() {
    let wrong: [(&str, Spoil, &str); 4] = [
        (
            "no such node",
            |world| {
                world.hosts[A].qemu.disks.sizes.remove("disk1");
            },
            "copy-disks: QEMU has no node 'disk1'",
        ),
        (
            "too many",
            |world| world.copies(DISKS_MAX + 1),
            "copy-disks names more than 16 disks",
        ),
        (
            "no name",
            |world| {
                let qemu = &mut world.hosts[A].qemu;
                qemu.disks.newest.insert("x".repeat(32), qemu.memory);
            },
            "a node's name has 1 to 31 bytes",
        ),
        (
            "mute",
            |world| world.hosts[A].qemu.mute = true,
            "cannot migrate",
        ),
    ];
    for (what, spoil, expected) in wrong {
        let mut world = World::copying(2);
        spoil(&mut world);
        let before = [world.hosts[A].journal.len(), world.hosts[B].journal.len()];
        migrated(&mut world);
        assert!(!world.replies.is_empty(), "{what}\n{}", world.story());
        let refused = refusal(&world).to_string();
        assert!(refused.contains(expected), "{what}: {refused}");
        let after = [world.hosts[A].journal.len(), world.hosts[B].journal.len()];
        assert_eq!(before, after, "{what}");
        if what != "mute" {
            assert!(matches!(refusal(&world), Refusal::Disks { .. }), "{what}");
        }
    }
    let twice = DisksRefused::Twice {
        node: "a".to_owned(),
    };
    assert_eq!(twice.to_string(), "copy-disks names node 'a' twice");
}

/// What the destination lacks it says in its prepare, and has begun nothing.
#[test]
fn a_destination_without_these_disks_refuses() {
    let wrong: [(Spoil, &str); 2] = [
        (
            |world| {
                world.hosts[B].qemu.disks.sizes.remove("disk1");
            },
            "QEMU has no node 'disk1'",
        ),
        (
            |world| {
                let disks = &mut world.hosts[B].qemu.disks;
                disks.sizes.insert("disk0".to_owned(), 512);
            },
            "node 'disk0' has 512 bytes, and the disk at the source 1048576",
        ),
    ];
    for (spoil, expected) in wrong {
        let mut world = World::copying(2);
        spoil(&mut world);
        migrated(&mut world);
        assert_clean(&world, expected);
        assert_eq!(world.running(), vec![A]);
        let (result, detail) = ended(&world, A);
        assert_eq!(result, JobResult::Failed);
        assert!(detail.contains(expected), "{detail}");
        let began = |body: &RecordBody| matches!(body, RecordBody::JobBegun(_));
        assert!(!world.has(B, began), "{expected}");
        assert!(world.hosts[B].qemu.alive, "it was asked nothing");
    }
}

/// What a destination says instead of where it serves.
type Serves = fn() -> Option<String>;

/// The source's QEMU connects to where its owner said, or to a socket beside the destination's sidecar, whatever a
/// destination says; what a destination says is no longer than an address.
#[test]
fn a_destination_sends_the_source_nowhere_else() {
    let answers: [(bool, Serves); 5] = [
        (false, || None),
        (false, || Some("tcp:elsewhere:10809".to_owned())),
        (false, || Some("unix:/run/other.sock".to_owned())),
        (true, || Some("tcp:elsewhere:10809".to_owned())),
        (true, || Some(format!("unix:/{}", "x".repeat(9_000)))),
    ];
    for protocol in PROTOCOLS {
        for (is_unasked, serves) in answers {
            let mut world = copying(protocol);
            world.told.is_nbd_unasked = is_unasked;
            world.told.serves = Some(serves);
            migrated(&mut world);
            let what = format!("{protocol} {is_unasked}");
            assert_clean(&world, &what);
            assert_eq!(world.running(), vec![A], "{what}");
            let (result, detail) = ended(&world, A);
            assert_eq!(result, JobResult::Failed, "{what}");
            assert!(detail.contains("where it serves the disks"), "{detail}");
            let believed = |body: &RecordBody| match body {
                RecordBody::MigrationDisks(disks) => disks.nbd == serves() && serves().is_some(),
                RecordBody::EffectIntended(intended) => intended.command.name() == "blockdev-add",
                _ => false,
            };
            assert!(!world.has(A, believed), "{what}");
            world.told.is_nbd_unasked = false;
            world.told.serves = None;
            assert_next_works(&mut world, &what);
        }
    }
}

/// Disks take hours: what the owner does to the guest by another way meanwhile holds when it comes to nothing (P8).
#[test]
fn a_guest_that_its_owner_paused_while_disks_are_copied_stays_so() {
    let cancel = |world: &mut World| {
        let job = world.find(A, |body| match body {
            RecordBody::MigrationDisks(disks) => Some(disks.job),
            _ => None,
        });
        let job = job.unwrap();
        world.control(A, ControlRequest::JobCancel { job });
    };
    let restart = |world: &mut World| {
        world.crash(A);
        world.restart(A);
    };
    let ends: [fn(&mut World); 2] = [cancel, restart];
    for end in ends {
        let mut world = copying(Protocol::V3);
        world.stall = Some(|at, command| at == A && command.name() == "migrate");
        world.copying = Copying::Hanging;
        world.migrate(A);
        world.run_for(2_000);
        assert!(!world.left_of_disks().is_empty(), "it copies");
        world.set_run(A, RunState::Paused);
        world.copying = Copying::Well;
        world.stall = None;
        // Nobody tells: it is seen only.
        end(&mut world);
        world.run_for(SETTLE_MS);
        assert_eq!(
            world.hosts[A].qemu.run,
            RunState::Paused,
            "{}",
            world.story()
        );
        assert_eq!(world.wanted(A), Some(WantedRunState::Paused));
        assert!(world.left_of_disks().is_empty(), "{}", world.story());
    }
}

fn refused() -> EffectResult {
    EffectResult::Refused {
        class: "GenericError".to_owned(),
        description: "no".to_owned(),
    }
}

/// The manager's word comes while the exports are taken back: it waits for that.
#[test]
fn a_verdict_waits_until_nothing_is_served() {
    let is_release = |body: &RecordBody| match body {
        RecordBody::EffectIntended(intended) => intended.command.name() == "block-export-del",
        _ => false,
    };
    let mut world = World::decided_by(Authority::Manager);
    world.copies(1);
    world.fail = Some(|_, command| (command.name() == "block-export-del").then(refused));
    world.migrate(A);
    for _ in 0..100 {
        if !world.has(B, is_release) {
            world.run_for(50);
        }
    }
    assert!(world.has(B, is_release), "{}", world.story());
    let verdict = ControlRequest::Verdict {
        target: JobTarget::Domain("g".to_owned()),
        outcome: Outcome::Committed,
        uid: 0,
    };
    world.control(B, verdict);
    world.run_for(300);
    world.fail = None;
    world.run_for(SETTLE_MS);
    assert_clean(&world, "verdict");
    assert_eq!(world.running(), vec![B]);
}

fn resolve(world: &mut World, at: usize, decision: Decision) {
    world.replies.clear();
    let request = ControlRequest::Resolve {
        name: "g".to_owned(),
        decision,
        force: true,
        statement: "the other one is fenced".to_owned(),
        uid: 0,
    };
    world.control(at, request);
    world.run_for(100);
    let taken = world.replies.last().is_some_and(|(_, reply)| reply.is_ok());
    assert!(taken, "{:?}", world.replies);
}

/// An operator lets a copy run whose source is gone: not before nothing is served any more.
#[test]
fn an_operators_resume_takes_the_exports_back_first() {
    let mut world = copying(Protocol::V3);
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(1_000);
    world.hold_asks[A] = true;
    world.thaw();
    world.run_for(2_000);
    assert!(world.has(A, is_granted), "{}", world.story());
    world.crash(A);
    world.hosts[A].qemu.alive = false;
    world.partitioned = true;
    world.run_for(10_000);
    assert_eq!(world.held(B), Some("destination-prepare-alone"));
    resolve(&mut world, B, Decision::Resume);
    world.run_for(SETTLE_MS);
    assert_eq!(world.broken, None, "{}", world.story());
    assert_eq!(world.running(), vec![B], "{}", world.story());
    assert!(world.left_of_disks().is_empty(), "{}", world.story());
}

/// An operator who ends a source is obeyed, also where its disks were not settled: it does not run again instead.
#[test]
fn an_operators_kill_is_none_that_resumes() {
    let mut world = copying(Protocol::V2);
    world.stall = Some(|at, command| at == A && command.name() == "block-job-cancel");
    world.migrate(A);
    world.run_for(2_000);
    world.set_status(A, MigrationStatus::Completed);
    world.set_run(A, RunState::Postmigrate);
    world.stalled.clear();
    world.stall = None;
    world.crash(A);
    world.partitioned = true;
    world.restart(A);
    world.run_for(2_000);
    assert_eq!(world.held(A), Some("source-perform2-completed"));
    resolve(&mut world, A, Decision::Kill);
    world.run_for(SETTLE_MS);
    assert!(!world.hosts[A].qemu.alive, "{}", world.story());
    assert!(!world.has(A, is_granted));
}

/// A migration that copies no disk does nothing else than before.
#[test]
fn without_disks_nothing_is_new() {
    let mut world = World::new();
    migrated(&mut world);
    assert_settled(&world, "no disks");
    for at in [A, B] {
        let is_new = |body: &RecordBody| match body {
            RecordBody::MigrationDisks(_) => true,
            RecordBody::EffectIntended(intended) => {
                matches!(intended.command, EffectCommand::Monitor { .. })
            }
            _ => false,
        };
        assert!(!world.has(at, is_new));
    }
}
