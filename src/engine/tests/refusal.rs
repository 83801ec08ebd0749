//! What is said of each refusal: one line, that people understand and no name can break.

use std::fmt::Write as _;

use journal_format::number::DomainId;
use journal_format::record::{JobKind, JobPhase, JobResult, Outcome, Phase};

use super::*;
use crate::engine::interface::{AnyPhase, DisksRefused};
use crate::engine::monitor::Why;
use crate::engine::settings::SettingsError;

const JOB: Lsn = Lsn(7);

/// Every kind of refusal, and each way in which one is said. A new kind does not compile until somebody was here.
fn refusals() -> Vec<Refusal> {
    let name = || "web-1".to_owned();
    let phase = || AnyPhase::Job(JobPhase::Perform);
    let kind = JobKind::Save;
    let execute = || "blockdev-add".to_owned();
    let all = vec![
        Refusal::NoSuchDomain(name()),
        Refusal::NoSuchJob(JOB),
        Refusal::NoOpenJob(name()),
        Refusal::DomainExists {
            name: name(),
            pid: 4711,
        },
        Refusal::UuidTaken {
            uuid: DomainId(Id128([0x11; 16])),
            name: name(),
        },
        Refusal::Busy {
            name: name(),
            job: JOB,
            kind,
            phase: phase(),
            age: Some(12),
        },
        Refusal::Busy {
            name: name(),
            job: JOB,
            kind: JobKind::MigrationOut,
            phase: AnyPhase::Migration(Phase::Perform3),
            age: None,
        },
        Refusal::NotInThisPhase {
            execute: execute(),
            kind,
            phase: JobPhase::Perform,
            allowed: &["migrate", "stop"],
        },
        Refusal::NotInThisPhase {
            execute: execute(),
            kind,
            phase: JobPhase::Cancel,
            allowed: &[],
        },
        Refusal::Command {
            execute: execute(),
            why: "needs a node-name",
        },
        Refusal::CommandNeeds {
            execute: execute(),
            argument: "job-id",
        },
        Refusal::CommandMust {
            execute: execute(),
            argument: "auto-dismiss",
            value: false,
        },
        Refusal::NoWayBack {
            job: JOB,
            phase: JobPhase::Cancel,
            wanted: JobPhase::Perform,
        },
        Refusal::NoWayBack {
            job: JOB,
            phase: JobPhase::Confirm3Cancelled,
            wanted: JobPhase::Confirm3,
        },
        Refusal::NotAManagersJob(JobKind::MigrationIn),
        Refusal::PeerCookie {
            job: JOB,
            why: "it is of another migration",
        },
        Refusal::JobNotOpen {
            job: JOB,
            why: "it is held".to_owned(),
        },
        Refusal::EffectOpen {
            job: JOB,
            effect: execute(),
        },
        Refusal::JobOver {
            job: JOB,
            result: JobResult::Failed,
            detail: "the disk was full".to_owned(),
        },
        Refusal::JobLeft {
            job: JOB,
            what: "node 'over' is in QEMU".to_owned(),
        },
        Refusal::PhaseEffect {
            job: JOB,
            phase: JobPhase::Perform,
            number: 2,
            count: 3,
            what: "stop: refused".to_owned(),
        },
        Refusal::WrongState {
            name: name(),
            wish: "migrate",
            seen: "paused".to_owned(),
        },
        Refusal::Claimed {
            name: name(),
            claim: "a claim\nof two lines".to_owned(),
        },
        Refusal::MigrationToItself(name()),
        Refusal::PostcopyNeedsV3,
        Refusal::PostcopyNeedsDestination(Authority::Store),
        Refusal::NoSuchAuthority {
            protocol: Protocol::V2,
            authority: Authority::Manager,
        },
        Refusal::NoStore,
        Refusal::NotTheStores,
        Refusal::NotTheManagers {
            job: JOB,
            authority: Authority::Destination,
        },
        Refusal::Verdict {
            job: JOB,
            outcome: Outcome::Aborted,
            why: "the guest runs at the destination",
        },
        Refusal::TooLate {
            job: JOB,
            phase: AnyPhase::Migration(Phase::Perform3Done),
        },
        Refusal::TooLate {
            job: JOB,
            phase: AnyPhase::Job(JobPhase::Finish3),
        },
        Refusal::NotHeld(name()),
        Refusal::NotHeldYet {
            name: name(),
            job: JOB,
        },
        Refusal::NeedsForce {
            name: name(),
            danger: "could run a second copy",
        },
        Refusal::Damaged { name: name() },
        Refusal::OnlyConfirm { name: name() },
        Refusal::TooLong {
            what: "name",
            size_max: 255,
        },
        Refusal::NotVisible { what: "name" },
        Refusal::UnknownUri {
            schemes: &["tcp:", "unix:"],
        },
        Refusal::TooMany {
            what: "domains",
            count_max: 4096,
        },
        Refusal::NoRoom {
            why: "no spare segment is ready".to_owned(),
        },
        Refusal::Monitor {
            name: name(),
            command: "cont\u{1b}[2J".to_owned(),
            why: Why::Owned,
        },
        Refusal::Settings {
            name: name(),
            why: SettingsError::TooLong,
        },
        Refusal::DefinitionChecksum,
        Refusal::Disks {
            name: name(),
            why: DisksRefused::NoneNamed,
        },
        Refusal::Effect {
            name: name(),
            result: "cont: QEMU refused it".to_owned(),
        },
    ];
    for refusal in &all {
        match refusal {
            Refusal::NoSuchDomain(_)
            | Refusal::NoSuchJob(_)
            | Refusal::NoOpenJob(_)
            | Refusal::DomainExists { .. }
            | Refusal::UuidTaken { .. }
            | Refusal::Busy { .. }
            | Refusal::NotInThisPhase { .. }
            | Refusal::Command { .. }
            | Refusal::CommandNeeds { .. }
            | Refusal::CommandMust { .. }
            | Refusal::NoWayBack { .. }
            | Refusal::NotAManagersJob(_)
            | Refusal::PeerCookie { .. }
            | Refusal::JobNotOpen { .. }
            | Refusal::EffectOpen { .. }
            | Refusal::JobOver { .. }
            | Refusal::JobLeft { .. }
            | Refusal::PhaseEffect { .. }
            | Refusal::WrongState { .. }
            | Refusal::Claimed { .. }
            | Refusal::MigrationToItself(_)
            | Refusal::PostcopyNeedsV3
            | Refusal::PostcopyNeedsDestination(_)
            | Refusal::NoSuchAuthority { .. }
            | Refusal::NoStore
            | Refusal::NotTheStores
            | Refusal::NotTheManagers { .. }
            | Refusal::Verdict { .. }
            | Refusal::TooLate { .. }
            | Refusal::NotHeld(_)
            | Refusal::NotHeldYet { .. }
            | Refusal::NeedsForce { .. }
            | Refusal::Damaged { .. }
            | Refusal::OnlyConfirm { .. }
            | Refusal::TooLong { .. }
            | Refusal::NotVisible { .. }
            | Refusal::UnknownUri { .. }
            | Refusal::TooMany { .. }
            | Refusal::NoRoom { .. }
            | Refusal::Monitor { .. }
            | Refusal::Settings { .. }
            | Refusal::DefinitionChecksum
            | Refusal::Disks { .. }
            | Refusal::Effect { .. } => {}
        }
    }
    all
}

/// Why a client's command does not pass, settings are not told, disks are not copied.
fn reasons() -> Vec<String> {
    let node = || "disk0".to_owned();
    let name = || "xbzrle".to_owned();
    let whys = [
        Why::Recovering,
        Why::Owned,
        Why::GaveAway,
        Why::Unseen,
        Why::Damaged,
        Why::Claim,
        Why::NotWhole,
        Why::Human("cont"),
    ];
    let settings = [
        SettingsError::TooMany {
            what: "capabilities",
        },
        SettingsError::TooLong,
        SettingsError::NotVisible,
        SettingsError::Twice { name: name() },
        SettingsError::Needed {
            name: name(),
            state: true,
        },
        SettingsError::Postcopy,
        SettingsError::NotAMigration { name: name() },
        SettingsError::Otherwise {
            name: "max-bandwidth",
        },
        SettingsError::WrongType {
            name: name(),
            expected: "a number",
            found: "a text",
        },
        SettingsError::Downtime,
        SettingsError::Unknown {
            what: "capability",
            name: name(),
        },
        SettingsError::Unread,
        SettingsError::TooLongToKeep,
        SettingsError::Zero { what: "deadline" },
        SettingsError::NoPostcopy,
    ];
    let disks = [
        DisksRefused::NoneNamed,
        DisksRefused::TooMany,
        DisksRefused::NoNode,
        DisksRefused::Twice { node: node() },
        DisksRefused::NoAddress,
        DisksRefused::Unread,
        DisksRefused::NoSuchNode { node: node() },
        DisksRefused::NoSize { node: node() },
        DisksRefused::OtherSize {
            node: node(),
            size: 1 << 20,
            source: 1 << 21,
        },
    ];
    let whys = whys.iter().map(ToString::to_string);
    let settings = settings.iter().map(ToString::to_string);
    whys.chain(settings)
        .chain(disks.iter().map(ToString::to_string))
        .collect()
}

#[test]
fn each_refusal_says_why_in_one_line() {
    let mut text = String::new();
    let refusals = refusals();
    let lines = refusals.iter().map(ToString::to_string);
    for line in lines.chain(reasons()) {
        assert!(!line.is_empty());
        assert!(!line.contains(char::is_control), "{line:?}");
        writeln!(text, "{line}").unwrap();
    }
    insta::assert_snapshot!("refusals", text);
}
