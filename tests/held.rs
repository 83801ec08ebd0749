//! A domain that cannot be settled is held, says why and what would settle it, costs next to nothing, and
//! is taken up again; the other domains of the same sidecars do not wait for it.

use std::fs;
use std::path::Path;

use journal_format::record::{Decoded, EffectCommand, RecordBody};
use phase_journal::journal::OsDisk;
use phase_journal::journal::read::{Entry, Reader};
use phase_journal_lab::guest::RESTLESS_BANDWIDTH;
use phase_journal_lab::judge::judge;
use phase_journal_lab::pair::{DOMAIN, Limits, Pair, Side, Waited};
use phase_journal_lab::qemu::{Begin, GUEST_TIMEOUT, Locking, Qemu, QemuOptions};
use phase_journal_lab::sidecar::{CrashPoint, DomainView, HeldView, RunOptions};
use phase_journal_lab::until;
use serde_json::json;

use crate::dangers::{refused_conts, signal};
use crate::image_locks::intrude;
use crate::scenario::{
    NUMBERS, RESTLESS, TIMEOUT, assert_one_runs, pair_with_locks, performing_with, records_in,
};

/// A second guest of the same sidecars.
const SECOND: &str = "second";
const SECOND_UUID: &str = "77777777-2222-4333-8444-555555555555";

/// Shortest and longest pause before an effect is tried again, in milliseconds, as the engine has them.
const RETRY_MS: (u64, u64) = (50, 2_000);
/// The most records from one try to the next: the look, the intent, its result, and a decision.
const RECORDS_PER_TRY_MAX: usize = 8;
/// Tries that are looked at.
const TRIES: usize = 6;
/// The most records that a held domain costs while another one recovers.
const RECORDS_HELD_MAX: usize = 12;

/// Where the second guest runs, and where it is going.
struct Second {
    source: Qemu,
    destination: Qemu,
}

impl Second {
    /// Registered on both sides, and being sent, until somebody lets it converge.
    fn performing(pair: &mut Pair) -> Second {
        let directory = pair.directory().join(SECOND);
        fs::create_dir(&directory).unwrap();
        RESTLESS.write(&directory.join("disk")).unwrap();
        let mut source = Second::start(&directory, "s0", Begin::Running);
        let destination = Second::start(&directory, "s1", Begin::Incoming);
        source.wait_for_number(1, GUEST_TIMEOUT).unwrap();
        for (side, qemu) in [(Side::A, &source), (Side::B, &destination)] {
            let (socket, pid) = (qemu.sidecar_socket(), qemu.pid());
            let added = pair
                .sidecar(side)
                .domain_add(SECOND, &socket, SECOND_UUID, pid);
            added.unwrap();
        }
        let arguments = json!({
            "name": SECOND, "peer": pair.sidecar(Side::B).peer_socket(),
            "uri": format!("unix:{}", directory.join("m").display()),
            "max-bandwidth": RESTLESS_BANDWIDTH, "downtime-limit": 1,
        });
        pair.sidecar(Side::A)
            .execute("migrate-domain", arguments)
            .unwrap();
        let active = until("active migration of the second", TIMEOUT, || {
            let domain = domain(pair, Side::A, SECOND)?;
            Ok((domain.migration.as_deref() == Some("active")).then_some(()))
        });
        active.unwrap();
        Second {
            source,
            destination,
        }
    }

    fn start(directory: &Path, name: &str, begin: Begin) -> Qemu {
        let own = directory.join(name);
        fs::create_dir(&own).unwrap();
        let qemu = Qemu::start(&QemuOptions {
            name: name.to_owned(),
            directory: own,
            disk: directory.join("disk"),
            uuid: SECOND_UUID.to_owned(),
            begin,
            locking: Locking::Off,
            data: Vec::new(),
        });
        qemu.unwrap()
    }

    /// It counts on at the source, and never ran anywhere else.
    fn assert_runs_at_source(&mut self) {
        assert_eq!(self.source.run_state().unwrap(), "running");
        let logs = || [&self.source, &self.destination].map(|qemu| qemu.guest_log().unwrap());
        let last = phase_journal_lab::judge::last_number(&logs()[0].bytes);
        self.source
            .wait_for_number(last + NUMBERS, TIMEOUT)
            .unwrap();
        let logs = [&self.source, &self.destination].map(|qemu| qemu.guest_log().unwrap());
        let verdict = judge(&logs);
        assert!(verdict.is_clean(), "{verdict}");
        assert!(logs[1].bytes.is_empty());
    }
}

fn domain(pair: &mut Pair, side: Side, name: &str) -> Result<DomainView, phase_journal_lab::Error> {
    let domains = pair.sidecar(side).domains()?;
    let found = domains.into_iter().find(|domain| domain.name == name);
    Ok(found.unwrap_or_else(|| panic!("no domain {name} at {side}")))
}

/// Waits until that domain is held, and says how.
fn held(pair: &mut Pair, side: Side, name: &str) -> HeldView {
    let held = until(&format!("hold of {name} at {side}"), TIMEOUT, || {
        Ok(domain(pair, side, name)?.held)
    });
    held.unwrap()
}

/// Waits until that domain has no open job.
fn free(pair: &mut Pair, side: Side, name: &str) {
    let free = until(
        &format!("end of the job of {name} at {side}"),
        TIMEOUT,
        || Ok(domain(pair, side, name)?.job.is_none().then_some(())),
    );
    free.unwrap();
}

/// All that makes a guest stand still at the source when its sidecar is back, and what ends that.
fn assert_second_recovers_alone(
    pair: &mut Pair,
    second: &mut Second,
    rule: &str,
    settled_by: &str,
) {
    let is_held = held(pair, Side::A, DOMAIN);
    assert_eq!(is_held.rule, rule);
    assert!(!is_held.reason.is_empty(), "{is_held:?}");
    assert_eq!(is_held.settled_by.as_deref(), Some(settled_by));
    let before = records_in(pair.sidecar(Side::A).journal()).len();
    // The other one does not wait for it.
    free(pair, Side::A, SECOND);
    second.assert_runs_at_source();
    let is_held = held(pair, Side::A, DOMAIN);
    assert_eq!(is_held.rule, rule, "still");
    let of_job = |domain: &DomainView| domain.job;
    let job = of_job(&domain(pair, Side::A, DOMAIN).unwrap());
    assert!(job.is_some(), "the held one's job is open");
    let after = records_in(pair.sidecar(Side::A).journal());
    let about = after[before..]
        .iter()
        .filter(|body| !matches!(body, RecordBody::Sealed));
    let count = about.count();
    assert!(
        count <= RECORDS_HELD_MAX,
        "{count} records: {:?}",
        &after[before..]
    );
}

/// Its QEMU is stopped by a signal: it lives and answers nobody.
#[test]
fn a_domain_whose_qemu_is_mute_keeps_no_other_one_waiting() {
    let mut pair = performing_with(Locking::Off, 1, RunOptions::default());
    let mut second = Second::performing(&mut pair);
    pair.sidecar(Side::A).kill().unwrap();
    let stopped = pair.qemu(Side::A).pid();
    signal(stopped, "STOP");
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    let by = "QEMU answering or ending";
    assert_second_recovers_alone(&mut pair, &mut second, "qemu-mute", by);
    signal(stopped, "CONT");
    assert_eq!(assert_one_runs(&mut pair, "it answers again"), Side::A);
    second.assert_runs_at_source();
}

/// Its licence went out, and nobody says what became of it: the other sidecar is away.
#[test]
fn a_domain_whose_peer_is_away_keeps_no_other_one_waiting() {
    let crash = RunOptions::crashing(CrashPoint::AfterRecord("migration-granted".to_owned()));
    let mut pair = performing_with(Locking::Off, 1, crash);
    let mut second = Second::performing(&mut pair);
    let converge = json!({"max-bandwidth": 0, "downtime-limit": 300});
    let monitor = pair.qemu(Side::A).monitor();
    monitor.execute("migrate-set-parameters", converge).unwrap();
    let waited = pair.wait_for_crash(Side::A, TIMEOUT).unwrap();
    assert_eq!(waited, Waited::Crashed);
    pair.sidecar(Side::B).kill().unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    let by = "the destination's answer";
    assert_second_recovers_alone(&mut pair, &mut second, "source-granted-in-doubt", by);
    pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "the peer is back"), Side::B);
    second.assert_runs_at_source();
    second.destination.wait_dead(TIMEOUT).unwrap();
}

/// QEMU refuses the same effect again and again: the journal shows that it is tried at growing
/// intervals, up to one every two seconds, and that a try costs a handful of records.
#[test]
fn a_refused_effect_is_tried_at_growing_intervals() {
    let crash = RunOptions::crashing(CrashPoint::AfterRecord("migration-committed".to_owned()));
    let mut pair = pair_with_locks(crash, RunOptions::default());
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
        Ok((refused_conts(&mut pair, Side::B) >= TRIES).then_some(()))
    });
    tried.unwrap();
    let tries = conts(pair.sidecar(Side::B).journal());
    let mut pause = RETRY_MS.0;
    for (earlier, later) in tries.iter().zip(&tries[1..]) {
        let waited = (later.milliseconds - earlier.milliseconds) + 1;
        assert!(
            waited >= pause,
            "{waited} ms after the one before, not {pause}: {tries:?}"
        );
        let records = later.at - earlier.at;
        assert!(
            records <= RECORDS_PER_TRY_MAX,
            "{records} records: {tries:?}"
        );
        pause = (pause * 2).min(RETRY_MS.1);
    }
    drop(intruder);
    assert_eq!(assert_one_runs(&mut pair, "the image is free"), Side::B);
}

/// An intent of `cont`.
#[derive(Debug)]
struct Try {
    /// Its place among all records.
    at: usize,
    /// When its batch was written, since boot.
    milliseconds: u64,
}

fn conts(journal: &Path) -> Vec<Try> {
    let (mut tries, mut at) = (Vec::new(), 0);
    for entry in Reader::open(OsDisk::new(journal)).unwrap() {
        let Entry::Batch(batch) = entry.unwrap() else {
            panic!("a gap in {}", journal.display());
        };
        for placed in batch.records {
            at += 1;
            if let Decoded::Known(record) = placed.record
                && let RecordBody::EffectIntended(intended) = record.body
                && intended.command == EffectCommand::Cont
            {
                let milliseconds = batch.header.monotonic / 1_000_000;
                tries.push(Try { at, milliseconds });
            }
        }
    }
    tries
}
