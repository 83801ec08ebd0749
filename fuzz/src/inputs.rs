//! Inputs to the engine drawn from bytes: mostly plausible, any of them at any moment.
//! Not here: what a running engine waits for (`engine`).

use journal_format::number::{
    BootId, DomainId, Epoch, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId, Position,
};
use journal_format::record::{
    Authority, Claim, ClaimSeen, Cookie, Decision, EffectResult, Instance, MigrationStatus,
    Observed, PeerAnswer, Process, Protocol, Role, RunState, WantedRunState,
};
use phase_journal::engine::{ControlRequest, Envelope, PeerRequest, QemuEvent};

use super::bytes::Bytes;

/// This sidecar's journal.
pub const HERE: JournalId = JournalId(Id128([0xA0; 16]));
/// The other sidecar's, and one that has no business here.
const THERE: [JournalId; 2] = [JournalId(Id128([0xB0; 16])), JournalId(Id128([0xC0; 16]))];
/// The boots that instances are of; the first is this one.
pub const BOOTS: [Id128; 2] = [Id128([0xD0; 16]), Id128([0xD1; 16])];
/// What every prepare offers.
pub const NONCE: Nonce = Nonce(Id128([0x99; 16]));

fn of<T: Copy>(choices: &mut Bytes<'_>, words: &[T]) -> T {
    choices.pick(words)
}

fn domain(choices: &mut Bytes<'_>) -> DomainId {
    DomainId(Id128([1 + choices.byte() % 2; 16]))
}

fn name(choices: &mut Bytes<'_>) -> String {
    of(choices, &["g", "h"]).to_owned()
}

fn migration(choices: &mut Bytes<'_>) -> MigrationId {
    MigrationId(Id128([0x40 + choices.byte() % 4; 16]))
}

fn wanted(choices: &mut Bytes<'_>) -> WantedRunState {
    of(choices, WantedRunState::ALL)
}

fn text(choices: &mut Bytes<'_>) -> String {
    let long = of(choices, &[1, 1, 1, 5_000, 200_000]);
    of(choices, &["x", "", "\u{20ac}", "\0\n"]).repeat(long)
}

fn instance(choices: &mut Bytes<'_>) -> Instance {
    Instance {
        boot: BootId(of(choices, &[BOOTS[0], BOOTS[0], BOOTS[1]])),
        pid: 100 + u32::from(choices.byte() % 2),
        start_time: 7,
    }
}

fn position(choices: &mut Bytes<'_>) -> Position {
    Position {
        journal: of(choices, &[THERE[0], THERE[0], THERE[0], THERE[1], HERE]),
        epoch: Epoch(1 + u32::from(choices.byte() % 2)),
        opening: OpeningId(Id128([choices.byte() % 2; 16])),
        lsn: Lsn(choices.byte().into()),
    }
}

/// Of a peer.
pub fn envelope(choices: &mut Bytes<'_>) -> Envelope {
    Envelope {
        sender: position(choices),
        saw: choices.perhaps(position),
    }
}

/// A licence: mostly the right nonce, sometimes an invented one.
pub fn cookie(choices: &mut Bytes<'_>) -> Cookie {
    Cookie {
        migration: migration(choices),
        nonce: of(choices, &[NONCE, NONCE, Nonce(Id128([1; 16]))]),
        granted: position(choices),
        authority: of(choices, Authority::ALL),
        wanted: wanted(choices),
    }
}

/// QEMU in any state, also impossible ones.
pub fn observed(choices: &mut Bytes<'_>) -> Observed {
    let claim = match choices.below(5) {
        0 => ClaimSeen::Unread,
        1 | 2 => ClaimSeen::Absent,
        3 => ClaimSeen::Present(Claim {
            journal: of(choices, &[HERE, THERE[0]]),
            epoch: Epoch(1 + u32::from(choices.byte() % 3)),
            migration: migration(choices),
            role: of(choices, Role::ALL),
        }),
        _ => ClaimSeen::Foreign(text(choices)),
    };
    Observed {
        process: of(choices, Process::ALL),
        instance: choices.perhaps(instance),
        run_state: choices.perhaps(|choices| choices.pick(RunState::KNOWN)),
        migration: choices.perhaps(|choices| choices.pick(MigrationStatus::KNOWN)),
        claim,
    }
}

/// What QEMU told.
pub fn event(choices: &mut Bytes<'_>) -> (DomainId, QemuEvent) {
    let event = match choices.below(4) {
        0 => QemuEvent::Stop,
        1 => QemuEvent::Resume,
        2 => QemuEvent::Migration(choices.pick(MigrationStatus::KNOWN)),
        _ => QemuEvent::Lost,
    };
    (domain(choices), event)
}

/// What became of an effect.
pub fn result(choices: &mut Bytes<'_>) -> EffectResult {
    match choices.below(6) {
        0 => EffectResult::Refused {
            class: "GenericError".to_owned(),
            description: text(choices),
        },
        1 => EffectResult::NotSent { why: text(choices) },
        2 => EffectResult::Unknown { why: text(choices) },
        _ => EffectResult::Done,
    }
}

/// A look that nobody asked for.
pub fn look(choices: &mut Bytes<'_>) -> (DomainId, Observed) {
    (domain(choices), observed(choices))
}

/// What a peer answers to a question about how it stands.
pub fn answer(choices: &mut Bytes<'_>) -> (PeerAnswer, Option<Cookie>) {
    (of(choices, PeerAnswer::ALL), choices.perhaps(cookie))
}

/// What another sidecar asks.
pub fn peer_request(choices: &mut Bytes<'_>) -> PeerRequest {
    match choices.below(5) {
        0 => PeerRequest::Prepare {
            migration: migration(choices),
            protocol: of(choices, Protocol::ALL),
            authority: of(choices, Authority::ALL),
            name: name(choices),
            source_name: text(choices),
            peer: text(choices),
            uri: text(choices),
            wanted: wanted(choices),
            definition: choices.perhaps(text),
        },
        1 => PeerRequest::Finish {
            cookie: cookie(choices),
        },
        2 => PeerRequest::Abandon {
            migration: migration(choices),
        },
        3 => PeerRequest::Ask {
            migration: migration(choices),
        },
        _ => PeerRequest::Acknowledge {
            migration: migration(choices),
        },
    }
}

/// What somebody asks on the control socket.
pub fn control_request(choices: &mut Bytes<'_>) -> ControlRequest {
    match choices.below(10) {
        0 | 1 => ControlRequest::DomainAdd {
            name: name(choices),
            domain: domain(choices),
            qmp: "/qmp".to_owned(),
            instance: instance(choices),
            observed: observed(choices),
            definition: choices.perhaps(text),
        },
        2 => ControlRequest::DomainRemove {
            name: name(choices),
        },
        3 => ControlRequest::DomainSetWanted {
            name: name(choices),
            wanted: wanted(choices),
        },
        4 | 5 => ControlRequest::Migrate {
            name: name(choices),
            migration: migration(choices),
            peer: of(choices, &["there", "here"]).to_owned(),
            peer_domain: name(choices),
            uri: text(choices),
            max_bandwidth: choices.perhaps(|choices| choices.byte().into()),
            downtime_limit: choices.perhaps(|choices| choices.byte().into()),
        },
        6 => ControlRequest::JobCancel {
            job: Lsn(choices.byte().into()),
        },
        7 => ControlRequest::Resolve {
            name: name(choices),
            decision: of(choices, Decision::ALL),
            force: choices.yes(),
            statement: text(choices),
            uid: 0,
        },
        8 => ControlRequest::QueryDomains {
            name: choices.perhaps(name),
        },
        _ => ControlRequest::QueryJobs {
            job: choices.perhaps(|choices| Lsn(choices.byte().into())),
            name: choices.perhaps(name),
        },
    }
}
