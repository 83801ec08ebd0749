//! Words of another sidecar that the wire allows only in an unlucky order: nothing is changed by them.

use super::*;
use crate::engine::{History, PeerResponse};
use journal_format::number::DomainId;
use journal_format::record::{Decision, Instance, Observed, PeerAnswer, Process, Settings};

/// Early in A's journal.
fn early(world: &World) -> Position {
    let opening = world.hosts[A].openings[0];
    Position {
        journal: world.hosts[A].journal_id,
        epoch: opening.epoch,
        opening: opening.opening,
        lsn: Lsn(9),
    }
}

/// A prepare for one of B's domains, from A's journal.
fn prepare(world: &mut World, migration: MigrationId, name: &str) {
    prepare_by(world, migration, name, Protocol::V3);
}

fn prepare_by(world: &mut World, migration: MigrationId, name: &str, protocol: Protocol) {
    let token = world.token();
    let sender = early(world);
    let authority = match protocol {
        Protocol::V2 => Authority::Source,
        Protocol::V3 => Authority::Destination,
    };
    let request = PeerRequest::Prepare {
        migration,
        protocol,
        authority,
        store: None,
        name: name.to_owned(),
        source_name: "g".to_owned(),
        peer: "peer-0".to_owned(),
        uri: "unix:/m".to_owned(),
        wanted: WantedRunState::Running,
        postcopy: false,
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
}

/// How many jobs a host began for this migration.
fn begun(world: &World, at: usize, id: MigrationId) -> usize {
    let mut count = 0;
    world.find(at, |body| {
        if let RecordBody::JobBegun(begun) = body
            && begun
                .migration
                .as_ref()
                .is_some_and(|terms| terms.migration == id)
        {
            count += 1;
        }
        None::<()>
    });
    count
}

/// B has a second domain, whose QEMU waits too.
fn with_second_domain() -> World {
    let mut world = World::new();
    let other = &world.hosts[B].qemu;
    let instance = Instance {
        pid: other.instance.pid + 500,
        ..other.instance
    };
    let observed = Observed {
        process: Process::Alive,
        instance: Some(instance),
        run_state: Some(RunState::Inmigrate),
        migration: Some(MigrationStatus::None),
        claim: ClaimSeen::Absent,
    };
    let request = ControlRequest::DomainAdd {
        name: "h".to_owned(),
        domain: DomainId(Id128([0x68; 16])),
        qmp: "/qemu-h".to_owned(),
        instance,
        observed,
        definition: None,
    };
    world.control(B, request);
    world.run_for(200);
    assert!(world.replies.last().is_some_and(|(_, reply)| reply.is_ok()));
    world
}

/// The look that a prepare waits for has not come back when the same migration is prepared for another
/// domain.
#[test]
fn one_migration_prepared_for_two_domains_at_once() {
    let id = MigrationId(Id128([0x77; 16]));
    for names in [["g", "h"], ["h", "g"], ["g", "g"]] {
        let mut world = with_second_domain();
        for name in names {
            prepare(&mut world, id, name);
        }
        world.run_for(200);
        assert_eq!(begun(&world, B, id), 1, "{names:?}");
        assert_eq!(world.open_jobs().len(), 1, "{names:?}");
    }
}

/// Neither while it is open, nor kept, nor forgotten, nor after a restart.
#[test]
fn a_migration_prepared_once_more() {
    let mut world = World::new();
    migrated(&mut world);
    assert_settled(&world, "there");
    let id = world.find(B, |body| match body {
        RecordBody::JobBegun(begun) => begun.migration.as_ref().map(|terms| terms.migration),
        _ => None,
    });
    let id = id.expect("it came");
    // The domain is free for another guest.
    world.replace_qemu(B);
    world.add_domain(B);
    world.run_for(200);
    for restarted in [false, true] {
        if restarted {
            world.crash(B);
            world.restart(B);
            world.run_for(200);
        }
        prepare(&mut world, id, "g");
        world.run_for(200);
        assert_eq!(begun(&world, B, id), 1, "restarted: {restarted}");
    }
}

/// Protocol v2: a prepare that was repeated on its way comes when its migration is over and forgotten, and the source, whose
/// journal is an older copy, repeats the licence that it gave for the first one. Nothing comes for this one, by v3 it may.
#[test]
fn a_licence_for_an_earlier_prepare_ends_an_empty_one() {
    let id = MigrationId(Id128([0x77; 16]));
    let nonces = [Some(0x5c), Some(0x5b), None];
    for (protocol, nonce) in [Protocol::V2, Protocol::V3]
        .map(|one| nonces.map(|nonce| (one, nonce)))
        .into_iter()
        .flatten()
    {
        let mut world = World::new();
        world.hold_asks = [true, true];
        prepare_by(&mut world, id, "g", protocol);
        world.run_for(10_000);
        assert_eq!(begun(&world, B, id), 1);
        let sender = Position {
            lsn: Lsn(20),
            ..early(&world)
        };
        let cookie = nonce.map(|nonce| Cookie {
            migration: id,
            nonce: Nonce(Id128([nonce; 16])),
            granted: sender,
            authority: match protocol {
                Protocol::V2 => Authority::Source,
                Protocol::V3 => Authority::Destination,
            },
            wanted: WantedRunState::Running,
        });
        let response = PeerResponse::Answer {
            answer: PeerAnswer::Granted,
            cookie,
        };
        let result = Ok((Envelope { sender, saw: None }, response));
        world.input(
            B,
            Input::PeerAnswered {
                migration: id,
                result,
            },
        );
        world.run_for(200);
        let is_aborted = world.has(B, |body| matches!(body, RecordBody::MigrationAborted(_)));
        let is_over = protocol == Protocol::V2 && nonce == Some(0x5c);
        assert_eq!(
            is_aborted,
            is_over,
            "{protocol:?} {nonce:?}: {}",
            world.story()
        );
        assert_eq!(
            world.hosts[B].qemu.alive, !is_over,
            "{protocol:?} {nonce:?}"
        );
    }
}

/// Another journal that shows a prepare or a licence for a migration proves nothing about the one that
/// was there before: it is refused, and not taken for amnesia.
#[test]
fn a_stranger_s_prepare_and_licence_are_no_amnesia() {
    let (mut world, cookie, envelope) = waiting_for_a_licence();
    let records = world.hosts[B].journal.len();
    let stranger = Position {
        journal: JournalId(Id128([0x5a; 16])),
        ..envelope.sender
    };
    let theirs = Cookie {
        granted: stranger,
        ..cookie
    };
    let later = Position {
        lsn: Lsn(envelope.sender.lsn.0 + 1),
        ..envelope.sender
    };
    let not_yet = Cookie {
        granted: later,
        ..cookie
    };
    for (sender, cookie) in [
        (stranger, theirs),
        (stranger, cookie),
        (envelope.sender, not_yet),
    ] {
        let token = world.token();
        let input = Input::Peer {
            token,
            envelope: Envelope { sender, saw: None },
            nonce: Nonce(Id128([0x5b; 16])),
            request: PeerRequest::Finish { cookie },
        };
        world.input(B, input);
        world.run_for(50);
    }
    let added = &world.hosts[B].journal[records..];
    let heard = added.iter().find_map(|entry| match entry {
        History::Record(record) => match &record.body {
            RecordBody::PeerHeard(heard) => Some(heard.answer),
            _ => None,
        },
        History::Gap(_) => None,
    });
    assert_ne!(heard, Some(PeerAnswer::Amnesia));
    assert_ne!(heard, Some(PeerAnswer::Granted));
    assert!(!world.has(B, |body| matches!(body, RecordBody::MigrationCommitted(_))));
    // The source comes back, and all is well.
    world.restart(A);
    world.run_for(SETTLE_MS);
    assert_settled(&world, "the source itself");
}

/// Once the outcome is no longer this side's to choose, a cancel is refused and changes nothing; in v2 that is
/// when this side has chosen.
#[test]
fn a_cancel_after_the_point_of_no_return() {
    for (protocol, role) in [(Protocol::V2, A), (Protocol::V3, A), (Protocol::V3, B)] {
        let mut world = World::of(protocol);
        world.stall = Some(match protocol {
            Protocol::V2 => |at, command| at == A && *command == EffectCommand::Kill,
            Protocol::V3 => |at, command| at == B && *command == EffectCommand::Cont,
        });
        world.migrate(A);
        world.run_for(3_000);
        let engine = world.hosts[role].engine.as_ref().expect("it lives");
        let open = engine
            .state
            .migrations
            .values()
            .find(|known| known.state.open);
        let job = open.expect("its job is open").state.job;
        let records = world.hosts[role].journal.len();
        world.replies.clear();
        world.control(role, ControlRequest::JobCancel { job });
        world.run_for(50);
        let replies = &world.replies;
        assert!(
            matches!(replies.as_slice(), [(_, Err(Refusal::TooLate { .. }))]),
            "{protocol}: {replies:?}"
        );
        assert_eq!(world.hosts[role].journal.len(), records, "{protocol}");
        world.unstall();
        world.run_for(SETTLE_MS);
        assert_settled(&world, "not cancelled");
        assert_eq!(world.running(), vec![B]);
    }
}

/// On either side of a licence whose fate is not known, no word is carried out without force and a
/// statement; with both it is, and is recorded.
#[test]
fn a_word_against_the_evidence() {
    let statement = "the other host is off";
    for at in [A, B] {
        for decision in [Decision::Resume, Decision::Kill, Decision::Confirm] {
            for (force, said) in [
                (false, ""),
                (true, ""),
                (false, statement),
                (true, statement),
            ] {
                let (mut world, _, _) = waiting_for_a_licence();
                if at == A {
                    // The other one goes away in the moment of the grant.
                    world = World::new();
                    world.stall = Some(|at, command| at == B && *command == EffectCommand::Cont);
                    world.migrate(A);
                    world.run_for(3_000);
                    world.crash(B);
                }
                world.run_for(20_000);
                assert!(world.held(at).is_some(), "not held");
                let records = world.hosts[at].journal.len();
                world.replies.clear();
                let request = ControlRequest::Resolve {
                    name: "g".to_owned(),
                    decision,
                    force,
                    statement: said.to_owned(),
                    uid: 1_000,
                };
                world.control(at, request);
                world.run_for(50);
                let what = format!("{decision:?} at {at}, force {force}, '{said}'");
                let word = world.find(at, |body| match body {
                    RecordBody::OperatorResolved(word) => Some(word.clone()),
                    _ => None,
                });
                if force && !said.is_empty() {
                    let word = word.unwrap_or_else(|| panic!("{what}: {:?}", world.replies));
                    assert_eq!(
                        (word.force, word.statement.as_str(), word.uid, word.decision),
                        (true, statement, 1_000, decision)
                    );
                    continue;
                }
                assert!(
                    matches!(
                        world.replies.as_slice(),
                        [(_, Err(Refusal::NeedsForce { .. }))]
                    ),
                    "{what}: {:?}",
                    world.replies
                );
                assert_eq!(word, None, "{what}");
                assert_eq!(world.hosts[at].journal.len(), records, "{what}");
            }
        }
    }
}

/// The destination's QEMU ends while it is prepared: the source hears so at once, and not only when its patience ends.
#[test]
fn a_prepare_is_answered_when_its_job_ends() {
    for protocol in PROTOCOLS {
        for is_it in [
            (|at, command| at == B && matches!(command, EffectCommand::SetCapabilities { .. }))
                as fn(usize, &EffectCommand) -> bool,
            |at, command| at == B && matches!(command, EffectCommand::MigrateIncoming { .. }),
        ] {
            let mut world = World::of(protocol);
            world.stall = Some(is_it);
            world.migrate(A);
            world.run_for(1_000);
            world.kill(B);
            world.unstall();
            world.run_for(1_000);
            assert_settled(&world, "prepared by nobody");
            assert_eq!(world.running(), vec![A], "{}", world.story());
        }
    }
}
