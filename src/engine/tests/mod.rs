//! The engine under crashes: every batch of either side, both, every moment of a QEMU's death.

mod answer;
mod bad_input;
mod disks;
mod gap;
mod given_back;
mod hostile;
mod jobs;
mod laws;
mod manager;
mod model;
mod monitor;
mod openings;
mod operator;
mod postcopy;
mod product;
mod refusal;
mod rows;
mod settings;
mod store;
mod unregistered;
mod untold;
mod world;

use journal_format::number::{Epoch, Id128, JournalId, Lsn, MigrationId, Nonce, Position};
use journal_format::record::{
    Authority, ClaimSeen, Cookie, EffectCommand, MigrationStatus, Protocol, RecordBody, RunState,
    Settings, WantedRunState,
};

use super::{ControlRequest, Envelope, Input, PeerRequest, QemuEvent, Refusal};
use world::{A, B, Crash, World};

/// Long enough for every bounded wait of the engine.
const SETTLE_MS: u64 = 60_000;

fn migrated(world: &mut World) {
    world.migrate(A);
    world.run_for(SETTLE_MS);
}

/// P2, P3, P4: exactly one copy runs, from the newest state, nothing open, nothing kept.
fn assert_settled(world: &World, what: &str) {
    assert_eq!(world.broken, None, "{what}\n{}", world.story());
    assert_eq!(
        world.running().len(),
        1,
        "{what}: runs nowhere\n{}",
        world.story()
    );
    assert_eq!(
        world.open_jobs(),
        Vec::<String>::new(),
        "{what}\n{}",
        world.story()
    );
}

#[test]
fn a_migration_moves_the_guest() {
    for protocol in PROTOCOLS {
        let mut world = World::of(protocol);
        migrated(&mut world);
        assert_settled(&world, "no crash");
        assert_eq!(world.running(), vec![B]);
        assert!(!world.hosts[A].qemu.alive);
    }
}

/// Both of them move a guest the same way, and differ in who decides.
const PROTOCOLS: [Protocol; 2] = [Protocol::V2, Protocol::V3];

fn batches(protocol: Protocol) -> [u32; 2] {
    let mut world = World::of(protocol);
    migrated(&mut world);
    [world.hosts[A].batches, world.hosts[B].batches]
}

fn crash_points(protocol: Protocol, at: usize) -> Vec<Crash> {
    let count = batches(protocol)[at];
    assert!(count > 8, "a migration has more batches than {count}");
    (1..=count)
        .flat_map(|n| [Crash::Before(n), Crash::After(n)])
        .collect()
}

#[test]
fn one_sidecar_crashes_at_every_batch() {
    for protocol in PROTOCOLS {
        let mut runs = 0;
        for at in [A, B] {
            for crash in crash_points(protocol, at) {
                for effects_survive in [false, true] {
                    for pause in [100, 3_000, 20_000] {
                        let mut world = World::of(protocol);
                        world.effects_survive = effects_survive;
                        world.hosts[at].crash = Some(crash);
                        world.migrate(A);
                        world.run_for(pause);
                        // Some die only when the other side tells that it knows the outcome.
                        for _ in 0..2 {
                            if world.hosts[at].engine.is_none() {
                                world.restart(at);
                            }
                            world.run_for(SETTLE_MS);
                        }
                        let what = format!(
                            "{protocol} host {at} {crash:?} effects survive {effects_survive} pause {pause}"
                        );
                        assert_settled(&world, &what);
                        assert!(world.hosts[at].ready, "{what}: never ready");
                        runs += 1;
                    }
                }
            }
        }
        assert!(runs > 200, "only {runs} runs");
    }
}

#[test]
fn both_sidecars_crash_and_restart_in_both_orders() {
    for protocol in PROTOCOLS {
        for at in [A, B] {
            for crash in crash_points(protocol, at) {
                for effects_survive in [false, true] {
                    for first in [A, B] {
                        for gap in [0, 4_000] {
                            let mut world = World::of(protocol);
                            world.effects_survive = effects_survive;
                            world.hosts[at].crash = Some(crash);
                            world.migrate(A);
                            // Up to the crash and not further.
                            while world.hosts[at].engine.is_some() && world.now < 10_000 {
                                world.run_for(50);
                            }
                            world.crash(1 - at);
                            if world.hosts[at].engine.is_some() {
                                world.crash(at);
                            }
                            world.run_for(500);
                            world.restart(first);
                            world.run_for(gap);
                            world.restart(1 - first);
                            world.run_for(SETTLE_MS);
                            let what = format!(
                                "{protocol} both at host {at} {crash:?} effects survive {effects_survive} first {first} gap {gap}"
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
fn two_crashes_one_after_the_other() {
    for protocol in PROTOCOLS {
        for first in crash_points(protocol, A) {
            for second in crash_points(protocol, B) {
                let mut world = World::of(protocol);
                world.hosts[A].crash = Some(first);
                world.hosts[B].crash = Some(second);
                world.migrate(A);
                for _ in 0..4 {
                    world.run_for(2_500);
                    for at in [A, B] {
                        if world.hosts[at].engine.is_none() {
                            world.restart(at);
                        }
                    }
                }
                world.run_for(SETTLE_MS);
                assert_settled(&world, &format!("{protocol} {first:?} and {second:?}"));
            }
        }
    }
}

#[test]
fn a_crash_during_recovery_is_recovered() {
    for protocol in PROTOCOLS {
        for at in [A, B] {
            for crash in crash_points(protocol, at) {
                for again in 1..=8 {
                    for after in [Crash::Before(again), Crash::After(again)] {
                        let mut world = World::of(protocol);
                        world.hosts[at].crash = Some(crash);
                        world.migrate(A);
                        world.run_for(3_000);
                        if world.hosts[at].engine.is_none() {
                            world.hosts[at].batches = 0;
                            world.hosts[at].crash = Some(after);
                            world.restart(at);
                            world.run_for(3_000);
                        }
                        world.hosts[at].crash = None;
                        if world.hosts[at].engine.is_none() {
                            world.restart(at);
                        }
                        world.run_for(SETTLE_MS);
                        assert_settled(
                            &world,
                            &format!("{protocol} host {at} {crash:?} then {after:?}"),
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_qemu_dies_at_every_moment() {
    for protocol in PROTOCOLS {
        let moments = {
            let mut world = World::of(protocol);
            migrated(&mut world);
            world.steps
        };
        for at in [A, B] {
            for moment in 1..moments.min(400) {
                let mut world = World::of(protocol);
                world.kill_qemu = Some((at, moment));
                migrated(&mut world);
                assert_eq!(
                    world.broken,
                    None,
                    "host {at} moment {moment}\n{}",
                    world.story()
                );
                // Either a copy runs, or none is left, or the only copy is held with its reason.
                let alive = world.hosts.iter().any(|host| host.qemu.holds_guest());
                let held = [A, B].iter().any(|at| world.held(*at).is_some());
                let runs = world.running().len() == 1;
                assert!(
                    runs || !alive || held,
                    "host {at} moment {moment}: a living copy neither runs nor is held\n{}",
                    world.story()
                );
            }
        }
    }
}

#[test]
fn a_paused_guest_stays_paused() {
    for protocol in PROTOCOLS {
        for at in [A, B] {
            for crash in crash_points(protocol, at) {
                let mut world = World::of(protocol);
                world.hosts[A].qemu.run = RunState::Paused;
                world.hosts[at].crash = Some(crash);
                world.migrate(A);
                world.run_for(3_000);
                if world.hosts[at].engine.is_none() {
                    world.restart(at);
                }
                world.run_for(SETTLE_MS);
                let what = format!("{protocol} host {at} {crash:?}");
                assert_eq!(world.broken, None, "{what}\n{}", world.story());
                assert_eq!(
                    world.running(),
                    Vec::<usize>::new(),
                    "{what}\n{}",
                    world.story()
                );
                assert_eq!(
                    world.open_jobs(),
                    Vec::<String>::new(),
                    "{what}\n{}",
                    world.story()
                );
                let alive: Vec<usize> = [A, B]
                    .into_iter()
                    .filter(|at| world.hosts[*at].qemu.alive)
                    .collect();
                let there = if world.hosts[B].qemu.status == MigrationStatus::Completed
                    && world.hosts[B].qemu.alive
                {
                    B
                } else {
                    A
                };
                assert!(alive.contains(&there), "{what}");
                assert_eq!(world.wanted(there), Some(WantedRunState::Paused), "{what}");
            }
        }
    }
}

#[test]
fn there_and_back_again_with_a_crash_in_each_half() {
    for protocol in PROTOCOLS {
        for crash in crash_points(protocol, A) {
            let mut world = World::of(protocol);
            world.hosts[A].crash = Some(crash);
            world.migrate(A);
            world.run_for(3_000);
            if world.hosts[A].engine.is_none() {
                world.restart(A);
            }
            world.run_for(SETTLE_MS);
            assert_settled(&world, &format!("there {crash:?}"));
            if world.running() != vec![B] {
                continue;
            }
            world.replace_qemu(A);
            world.add_domain(A);
            world.run_for(500);
            world.hosts[B].batches = 0;
            world.hosts[B].crash = Some(crash);
            world.migrate(B);
            world.run_for(3_000);
            if world.hosts[B].engine.is_none() {
                world.restart(B);
            }
            world.run_for(SETTLE_MS);
            assert_settled(&world, &format!("back {crash:?}"));
        }
    }
}

#[test]
fn a_lost_journal_at_the_destination_holds_both() {
    // The destination committed and runs; the source died before it heard so.
    let mut found = 0;
    for crash in crash_points(Protocol::V3, A) {
        let mut world = World::new();
        world.hosts[A].crash = Some(crash);
        world.migrate(A);
        world.run_for(3_000);
        if world.hosts[A].engine.is_some() || world.running() != vec![B] {
            continue;
        }
        world.crash(B);
        world.hosts[B].lose_journal();
        world.restart(B);
        world.restart(A);
        world.run_for(SETTLE_MS);
        assert_eq!(world.broken, None, "{}", world.story());
        assert_eq!(world.running(), vec![B], "{}", world.story());
        if world.hosts[A].qemu.alive {
            assert_eq!(
                world.held(A),
                Some("source-granted-amnesia"),
                "{}",
                world.story()
            );
            found += 1;
        }
    }
    assert!(found > 0, "no run reached the window");
}

#[test]
fn a_partition_ends_in_a_hold_and_then_settles() {
    for protocol in PROTOCOLS {
        for crash in crash_points(protocol, A) {
            let mut world = World::of(protocol);
            world.hosts[A].crash = Some(crash);
            world.migrate(A);
            world.run_for(3_000);
            world.partitioned = true;
            if world.hosts[A].engine.is_none() {
                world.restart(A);
            }
            world.run_for(SETTLE_MS);
            assert_eq!(world.broken, None, "{crash:?}\n{}", world.story());
            assert!(
                world.hosts[A].ready,
                "{crash:?}: never ready without the peer"
            );
            world.partitioned = false;
            world.run_for(90_000);
            assert_settled(&world, &format!("after the partition {crash:?}"));
        }
    }
}

#[test]
fn a_host_reboot_counts_as_the_end_of_its_qemu() {
    for crash in crash_points(Protocol::V3, A) {
        let mut world = World::new();
        world.hosts[A].crash = Some(crash);
        world.migrate(A);
        world.run_for(3_000);
        if world.hosts[A].engine.is_some() {
            continue;
        }
        // The pid lives on in another boot: it must not be believed, and not be touched.
        world.kill(A);
        world.hosts[A].boot =
            journal_format::number::BootId(journal_format::number::Id128([3; 16]));
        world.restart(A);
        world.run_for(SETTLE_MS);
        assert_eq!(world.broken, None, "{crash:?}\n{}", world.story());
        let held = [A, B].iter().any(|at| world.held(*at).is_some());
        let runs = world.running() == vec![B];
        assert!(
            runs || held || !world.hosts[B].qemu.holds_guest(),
            "{crash:?}\n{}",
            world.story()
        );
    }
}

#[test]
fn a_refused_cont_with_a_safe_source_gives_the_guest_back() {
    let mut world = World::new();
    world.hosts[B].qemu.refuse_cont = true;
    migrated(&mut world);
    assert_settled(&world, "refused cont");
    assert_eq!(world.running(), vec![A]);
    assert!(
        world
            .rules(B)
            .contains(&"destination-finish-refused-safe".to_owned())
    );
}

#[test]
fn a_foreign_cont_on_a_granted_source_is_held_and_seen() {
    let mut world = World::new();
    world.hosts[B].crash = Some(Crash::After(batches(Protocol::V3)[B]));
    migrated(&mut world);
    // The destination runs; the source waits for its answer. Somebody continues the source.
    if world.hosts[A].qemu.alive {
        world.hosts[A].qemu.run = RunState::Running;
        world.hosts[A].qemu.memory = world.newest;
        world.run_for(3_000);
        assert!(world.held(A).is_some());
    }
}

/// The source's sidecar dies with the intent of `migrate` durable and nothing sent; somebody saves the
/// guest, and QEMU looks as if it had been migrated.
#[test]
fn a_save_in_place_of_the_migration_gives_the_guest_back() {
    for delay in [0, 3_000, 20_000] {
        let is_sent = |body: &RecordBody| {
            matches!(body, RecordBody::EffectIntended(intended)
                if matches!(intended.command, EffectCommand::Migrate { .. }))
        };
        let crash = crash_points(Protocol::V3, A).into_iter().find(|crash| {
            let mut world = World::new();
            world.hosts[A].crash = Some(*crash);
            world.migrate(A);
            world.run_for(1_000);
            matches!(crash, Crash::After(_)) && world.has(A, is_sent)
        });
        let mut world = World::new();
        world.hosts[A].crash = crash;
        world.migrate(A);
        world.run_for(1_000);
        let status = world.hosts[A].qemu.status.clone();
        assert_eq!(status, MigrationStatus::None, "{}", world.story());
        let qemu = &mut world.hosts[A].qemu;
        qemu.status = MigrationStatus::Completed;
        qemu.run = RunState::Postmigrate;
        world.run_for(delay);
        world.restart(A);
        world.run_for(SETTLE_MS);
        assert_settled(&world, "saved in between");
        assert_eq!(world.running(), vec![A]);
        assert!(!world.hosts[B].qemu.alive);
    }
}

#[test]
fn a_claimed_qemu_is_not_touched() {
    let mut world = World::new();
    world.hosts[A].qemu.claim = ClaimSeen::Foreign("somebody".to_owned());
    migrated(&mut world);
    assert_eq!(world.running(), vec![A]);
    assert!(matches!(
        world.replies.last(),
        Some((A, Err(Refusal::Claimed { .. })))
    ));
}

#[test]
fn cancelling_brings_the_guest_back() {
    let mut world = World::new();
    world.hold_stream = true;
    world.migrate(A);
    world.run_for(50);
    let job = world.replies.iter().find_map(|(_, reply)| match reply {
        Ok(super::Answer::Migrating { job, .. }) => Some(*job),
        _ => None,
    });
    world.control(
        A,
        ControlRequest::JobCancel {
            job: job.expect("a job began"),
        },
    );
    world.run_for(SETTLE_MS);
    assert_eq!(world.broken, None, "{}", world.story());
    assert_eq!(world.running().len(), 1, "{}", world.story());
    assert_eq!(world.open_jobs(), Vec::<String>::new(), "{}", world.story());
}

/// The destination is whole and waits; the source died before it gave a licence. Returns what a
/// real licence would be, and from where.
fn waiting_for_a_licence() -> (World, Cookie, Envelope) {
    for crash in crash_points(Protocol::V3, A).into_iter().rev() {
        let mut world = World::new();
        world.hosts[A].crash = Some(crash);
        world.migrate(A);
        world.run_for(3_000);
        let granted = world.has(A, |body| matches!(body, RecordBody::MigrationGranted(_)));
        if granted || world.hosts[A].engine.is_some() {
            continue;
        }
        assert_eq!(world.hosts[B].qemu.run, RunState::Paused, "not whole");
        let terms = world.find(B, |body| match body {
            RecordBody::JobBegun(begun) => begun.migration.clone(),
            _ => None,
        });
        let terms = terms.expect("it was prepared");
        let opening = world.hosts[A].openings[0];
        let sender = Position {
            journal: world.hosts[A].journal_id,
            epoch: opening.epoch,
            opening: opening.opening,
            lsn: Lsn(1_000),
        };
        let cookie = Cookie {
            migration: terms.migration,
            nonce: terms.nonce.expect("the destination made one"),
            granted: sender,
            authority: terms.authority,
            wanted: WantedRunState::Running,
        };
        return (world, cookie, Envelope { sender, saw: None });
    }
    panic!("no crash before the licence");
}

/// Only the licence of this very migration, from the source's own journal, starts the guest.
#[test]
fn a_forged_licence_starts_nothing() {
    let (_, genuine, envelope) = waiting_for_a_licence();
    let other = Id128([0x5a; 16]);
    let elsewhere = Position {
        journal: JournalId(other),
        ..genuine.granted
    };
    let later = Position {
        epoch: Epoch(genuine.granted.epoch.0 + 1),
        ..genuine.granted
    };
    let forged = |change: fn(&mut Cookie)| {
        let mut cookie = genuine;
        change(&mut cookie);
        (cookie, envelope)
    };
    let as_sender = |sender| Envelope { sender, saw: None };
    let attempts = [
        forged(|cookie| cookie.nonce = Nonce(Id128([0x5a; 16]))),
        forged(|cookie| cookie.migration = MigrationId(Id128([0x5a; 16]))),
        forged(|cookie| cookie.authority = Authority::Source),
        forged(|cookie| cookie.granted.journal = JournalId(Id128([0x5a; 16]))),
        (
            Cookie {
                granted: later,
                ..genuine
            },
            envelope,
        ),
        // Another journal than the one that prepared, in both places.
        (
            Cookie {
                granted: elsewhere,
                ..genuine
            },
            as_sender(elsewhere),
        ),
    ];
    for (cookie, envelope) in attempts {
        let committed = finished(cookie, envelope);
        assert!(!committed, "{cookie:?} from {envelope:?}");
    }
    assert!(finished(genuine, envelope), "the genuine one");
}

/// Does the destination commit when it is shown this?
fn finished(cookie: Cookie, envelope: Envelope) -> bool {
    let (mut world, _, _) = waiting_for_a_licence();
    let token = world.token();
    let input = Input::Peer {
        token,
        envelope,
        nonce: Nonce(Id128([0x5b; 16])),
        request: PeerRequest::Finish { cookie },
    };
    world.input(B, input);
    world.run_for(1_000);
    assert_eq!(world.broken, None, "{}", world.story());
    world.has(B, |body| matches!(body, RecordBody::MigrationCommitted(_)))
}

/// The destination does not pass on to QEMU whatever another host says.
#[test]
fn a_peer_s_uri_that_is_no_wire_is_refused() {
    for (uri, accepted) in [("unix:/m", true), ("exec:x", false), ("", false)] {
        let mut world = World::new();
        let token = world.token();
        let sender = Position {
            journal: world.hosts[A].journal_id,
            epoch: Epoch(1),
            opening: world.hosts[A].openings[0].opening,
            lsn: Lsn(9),
        };
        let request = PeerRequest::Prepare {
            migration: MigrationId(Id128([0x77; 16])),
            protocol: Protocol::V3,
            authority: Authority::Destination,
            name: "g".to_owned(),
            source_name: "g".to_owned(),
            peer: "peer-0".to_owned(),
            uri: uri.to_owned(),
            wanted: WantedRunState::Running,
            postcopy: false,
            store: None,
            definition: None,
            definition_checksum: None,
            settings: Settings::default(),
            disks: None,
        };
        let input = Input::Peer {
            token,
            envelope: Envelope { sender, saw: None },
            nonce: Nonce(Id128([0x5b; 16])),
            request,
        };
        world.input(B, input);
        world.run_for(200);
        let begun = world.has(B, |body| matches!(body, RecordBody::JobBegun(_)));
        assert_eq!(begun, accepted, "'{uri}'");
    }
}

/// Whatever comes from outside, every record fits: a journal that refuses one is the end of it.
#[test]
fn texts_from_outside_fit_into_records() {
    let mut world = World::new();
    let long = "x".repeat(100_000);
    world.hosts[A].qemu.run = RunState::Other(long.clone());
    world.hosts[A].qemu.status = MigrationStatus::Other(long.clone());
    world.hosts[A].qemu.claim = ClaimSeen::Foreign(long.clone());
    migrated(&mut world);
    world.hosts[A].qemu.claim = ClaimSeen::Absent;
    world.hosts[A].qemu.run = RunState::Running;
    world.hosts[A].qemu.status = MigrationStatus::None;
    world.migrate(A);
    world.run_for(100);
    world.hosts[A].qemu.claim = ClaimSeen::Foreign(long.clone());
    world.hosts[B].qemu.run = RunState::Other(long);
    world.run_for(SETTLE_MS);
    for host in &world.hosts {
        for entry in &host.journal {
            let super::History::Record(record) = entry else {
                continue;
            };
            let draft = journal_format::record::Draft {
                domain: record.domain,
                body: record.body.clone(),
            };
            assert!(
                journal_format::record::record_size(&draft).is_some(),
                "{:?}",
                record.lsn
            );
        }
    }
}

/// The downtime limit is held down until the switchover is near, and again when it is not any more.
#[test]
fn qemu_converges_only_when_it_is_let() {
    let mut world = World::new();
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(2_000);
    let limits = |world: &World| -> Vec<Option<u64>> {
        let mut limits = Vec::new();
        world.find(A, |body| {
            if let RecordBody::EffectIntended(intended) = body
                && let EffectCommand::SetParameters { downtime_limit, .. } = &intended.command
            {
                limits.push(*downtime_limit);
            }
            None::<()>
        });
        limits
    };
    assert_eq!(limits(&world), [Some(1)]);
    // The limit that was asked for is 300.
    for (downtime, expected) in [
        (301, vec![Some(1)]),
        (300, vec![Some(1), Some(300)]),
        (600, vec![Some(1), Some(300)]),
        (601, vec![Some(1), Some(300), Some(1)]),
    ] {
        let event = QemuEvent::Converging { downtime };
        world.input(
            A,
            Input::Event {
                domain: world::DOMAIN,
                event,
            },
        );
        world.run_for(5_000);
        assert_eq!(limits(&world), expected, "{downtime}");
    }
    world.thaw();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "let go");
}
