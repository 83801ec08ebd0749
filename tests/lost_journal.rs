//! Journals that are lost, put back from an older copy, or of another boot of the host.

use std::fs;
use std::path::Path;
use std::time::Duration;

use journal_format::record::{Decoded, RecordBody};
use phase_journal::journal::OsDisk;
use phase_journal::journal::read::{Entry, Reader};
use phase_journal_lab::pair::{DOMAIN, Limits, Pair, Side, UUID, Waited};
use phase_journal_lab::qemu::Locking;
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use phase_journal_lab::{Error, copy_directory};
use serde_json::json;

use crate::scenario::{
    NUMBERS, TIMEOUT, assert_never_two, assert_one_runs, pair, performing_with, settle, settle_all,
};

const OTHER_BOOT: &str = "deadbeef-0000-4000-8000-000000000001";

/// The destination runs the guest; the source's sidecar died before it heard so.
fn committed_and_source_dead(copy_at: Option<&str>) -> Pair {
    let before_outcome =
        RunOptions::crashing(CrashPoint::BeforeRecord("outcome-learned".to_owned()));
    let b = match copy_at {
        Some(record) => RunOptions::crashing(CrashPoint::BeforeRecord(record.to_owned())),
        None => RunOptions::default(),
    };
    let mut pair = pair(before_outcome, b);
    pair.migrate(Side::A, Limits::default()).unwrap();
    if copy_at.is_some() {
        assert_eq!(
            pair.wait_for_crash(Side::B, TIMEOUT).unwrap(),
            Waited::Crashed
        );
        let copy = pair.directory().join("older");
        copy_directory(pair.sidecar(Side::B).journal(), &copy).unwrap();
        pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    }
    assert_eq!(
        pair.wait_for_crash(Side::A, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    pair
}

fn assert_both_hold_and_destination_runs(pair: &mut Pair, rule: &str, what: &str) {
    let held = pair.view(Side::A).unwrap();
    let held = held.domains[0]
        .held
        .clone()
        .unwrap_or_else(|| panic!("{what}: not held {held:?}"));
    assert_eq!(held.rule, rule, "{what}");
    let conclusion = pair.conclude(NUMBERS, TIMEOUT).unwrap();
    assert!(conclusion.is_clean_and_running(), "{what}: {conclusion}");
    assert_eq!(pair.qemu(Side::B).run_state().unwrap(), "running", "{what}");
    assert_eq!(
        pair.qemu(Side::A).run_state().unwrap(),
        "postmigrate",
        "{what}"
    );
}

/// The sidecar refuses to open what is older than its witness, and says so.
fn assert_refused(pair: &mut Pair, what: &str) {
    let error = pair
        .sidecar(Side::B)
        .start(&RunOptions::default())
        .unwrap_err();
    assert!(matches!(error, Error::Died { .. }), "{what}: {error}");
    let error = error.to_string();
    assert!(
        error.contains("older than what was durable"),
        "{what}: {error}"
    );
    assert!(error.contains("--accept-older-journal"), "{what}: {error}");
}

#[test]
fn a_deleted_journal_is_refused_while_its_witness_stands() {
    let what = "deleted journal, witness there";
    let mut pair = committed_and_source_dead(None);
    pair.sidecar(Side::B).kill().unwrap();
    fs::remove_dir_all(pair.sidecar(Side::B).journal()).unwrap();
    assert_refused(&mut pair, what);
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_both_hold_and_destination_runs_alone(&mut pair, what);
}

/// The destination's sidecar does not even run: the source finds nobody.
fn assert_both_hold_and_destination_runs_alone(pair: &mut Pair, what: &str) {
    assert_both_hold_and_destination_runs(pair, "source-granted-in-doubt", what);
}

#[test]
fn a_deleted_journal_without_witness_is_amnesia() {
    let what = "deleted journal, no witness";
    let mut pair = committed_and_source_dead(None);
    pair.sidecar(Side::B).kill().unwrap();
    fs::remove_dir_all(pair.sidecar(Side::B).journal()).unwrap();
    fs::remove_file(pair.sidecar(Side::B).run_directory().join("witness")).unwrap();
    pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    settle(&mut pair);
    assert_both_hold_and_destination_runs(&mut pair, "source-granted-amnesia", what);
    // The QEMU there is not taken over either: it carries the lost journal's claim.
    let (socket, pid) = (
        pair.qemu(Side::B).sidecar_socket(),
        pair.qemu(Side::B).pid(),
    );
    let uuid = "11111111-2222-4333-8444-555555555555";
    let error = pair
        .sidecar(Side::B)
        .domain_add(DOMAIN, &socket, uuid, pid)
        .unwrap_err();
    assert!(error.to_string().contains("claimed"), "{error}");
}

#[test]
fn an_older_copy_is_refused_while_its_witness_stands() {
    let what = "older copy, witness there";
    let mut pair = committed_and_source_dead(Some("migration-committed"));
    put_back_older(&mut pair);
    assert_refused(&mut pair, what);
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_both_hold_and_destination_runs_alone(&mut pair, what);
}

/// Opened all the same, it finds the guest running: it never takes that back, and never answers
/// aborted. Nothing runs twice.
#[test]
fn an_older_copy_that_is_accepted_never_takes_a_running_guest_back() {
    let what = "older copy, accepted";
    let mut pair = committed_and_source_dead(Some("migration-committed"));
    put_back_older(&mut pair);
    let accepting = RunOptions {
        accept_older_journal: true,
        ..RunOptions::default()
    };
    pair.sidecar(Side::B).start(&accepting).unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    settle(&mut pair);
    assert_never_two(&pair, what);
    let conclusion = pair.conclude(NUMBERS, TIMEOUT).unwrap();
    assert!(conclusion.is_clean_and_running(), "{what}: {conclusion}");
    assert_eq!(pair.qemu(Side::B).run_state().unwrap(), "running", "{what}");
}

fn put_back_older(pair: &mut Pair) {
    pair.sidecar(Side::B).kill().unwrap();
    let journal = pair.sidecar(Side::B).journal().to_owned();
    fs::remove_dir_all(&journal).unwrap();
    copy_directory(&pair.directory().join("older"), &journal).unwrap();
}

/// After a reboot of the source's host its QEMU is dead whatever pid it had, and is not touched:
/// here the process lives on, and must survive.
#[test]
fn a_reboot_of_the_source_after_the_grant_goes_forward() {
    let mut pair = pair(
        RunOptions::crashing(CrashPoint::AfterRecord("migration-granted".to_owned())),
        RunOptions::default(),
    );
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::A, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    let rebooted = RunOptions {
        boot_id: Some(OTHER_BOOT.to_owned()),
        ..RunOptions::default()
    };
    pair.sidecar(Side::A).start(&rebooted).unwrap();
    let side = assert_one_runs(&mut pair, "reboot after the grant");
    assert_eq!(side, Side::B);
    assert!(
        pair.qemu(Side::A).is_alive().unwrap(),
        "a process of another boot was killed"
    );
}

/// A reboot of the destination's host before it took the licence: its copy is gone, the source's is
/// good.
#[test]
fn a_reboot_of_the_destination_before_it_committed_gives_the_guest_back() {
    let mut pair = pair(
        RunOptions::default(),
        RunOptions::crashing(CrashPoint::BeforeRecord("migration-committed".to_owned())),
    );
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::B, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    // The machine is gone, and with it the process.
    pair.qemu(Side::B).kill().unwrap();
    fs::remove_file(pair.sidecar(Side::B).run_directory().join("witness")).unwrap();
    let rebooted = RunOptions {
        boot_id: Some(OTHER_BOOT.to_owned()),
        ..RunOptions::default()
    };
    pair.sidecar(Side::B).start(&rebooted).unwrap();
    assert_eq!(
        assert_one_runs(&mut pair, "reboot before committed"),
        Side::A
    );
}

/// A reboot of the destination's host after it committed: the guest may have run there.
#[test]
fn a_reboot_of_the_destination_after_it_committed_never_resumes_the_source() {
    let mut pair = pair(
        RunOptions::default(),
        RunOptions::crashing(CrashPoint::AfterRecord("migration-committed".to_owned())),
    );
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::B, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    pair.qemu(Side::B).kill().unwrap();
    let rebooted = RunOptions {
        boot_id: Some(OTHER_BOOT.to_owned()),
        ..RunOptions::default()
    };
    pair.sidecar(Side::B).start(&rebooted).unwrap();
    settle(&mut pair);
    let conclusion = pair.conclude(3, Duration::from_millis(500)).unwrap();
    assert!(conclusion.is_clean_and_stopped(), "{conclusion}");
}

/// A bit of the record in which the domain was registered rots, while the sidecar is dead.
fn rot_registration(journal: &Path) {
    let is_it = |record: &Decoded| match record {
        Decoded::Known(record) => matches!(record.body, RecordBody::DomainAdded(_)),
        Decoded::Unknown { .. } => false,
    };
    let mut entries = Reader::open(OsDisk::new(journal)).unwrap();
    let [segment] = entries.segments() else {
        panic!("{:?}", entries.segments())
    };
    let file = journal.join(segment.number.file_name());
    let offset = entries.find_map(|entry| match entry.unwrap() {
        Entry::Batch(batch) => {
            let placed = batch.records.into_iter().find(|one| is_it(&one.record))?;
            Some(placed.offset)
        }
        Entry::Gap(_) => None,
    });
    let offset = offset.expect("it was registered");
    // Behind the head of the record.
    let at = usize::try_from(offset).unwrap() + 40;
    let mut bytes = fs::read(&file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(&file, bytes).unwrap();
}

/// Nothing is done to a guest that only its job names; registered again, the job is decided.
#[test]
fn a_lost_registration_is_held_until_the_domain_is_registered_again() {
    let mut pair = performing_with(Locking::Off, 1, RunOptions::default());
    pair.sidecar(Side::A).kill().unwrap();
    rot_registration(pair.sidecar(Side::A).journal());
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    let query = |pair: &mut Pair| {
        let said = pair.sidecar(Side::A).execute("query-domains", json!({}));
        said.unwrap()[0].clone()
    };
    let lost = query(&mut pair);
    assert_eq!(lost["name"], UUID, "{lost}");
    assert_eq!(lost["held"]["rule"], "journal-damaged", "{lost}");
    assert!(lost["pid"].is_null() && lost["job"].is_u64(), "{lost}");
    let word = json!({"name": UUID, "decision": "kill", "force": true, "statement": "looked"});
    let refused = pair.sidecar(Side::A).execute("resolve", word).unwrap_err();
    assert!(refused.to_string().contains("domain-add"), "{refused}");
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "running");

    pair.domain_add(Side::A).unwrap();
    settle_all(&mut pair, "registered again");
    let conclusion = pair.conclude(NUMBERS, TIMEOUT).unwrap();
    assert!(conclusion.is_clean_and_running(), "{conclusion}");
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "running");
    assert_eq!(query(&mut pair)["name"], DOMAIN);
}
