//! What QEMU does that a recovery must know, and what the sidecars do about it.
//!
//! The table of dangers, each with the test that shows it on plain QEMU and the one that shows how it
//! is avoided, heads the laboratory's `tests/dangers.rs`.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use journal_format::record::{EffectCommand, EffectResult, MigrationStatus, RecordBody};
use phase_journal_lab::by_hand::wait_status;
use phase_journal_lab::guest::RESTLESS_BANDWIDTH;
use phase_journal_lab::pair::{DOMAIN, Limits, Pair, Side, Waited};
use phase_journal_lab::qemu::PROCESS_TIMEOUT;
use phase_journal_lab::qmp::Qmp;
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use phase_journal_lab::{Error, until};
use rustix::net::sockopt::socket_peercred;
use serde_json::{Value, json};

use crate::scenario::{
    TIMEOUT, assert_one_runs, pair, performing, quiet_pair, records_in, settle_all,
};

/// Long enough that a guest which runs would have printed some 30 numbers.
const STOPPED_FOR: Duration = Duration::from_millis(300);
/// Longer than a QEMU that can answer takes, on a machine with much else to do.
const SILENT_FOR: Duration = Duration::from_secs(3);
/// In milliseconds: so much that QEMU stops the guest at the next occasion, with all it writes unsent.
const AMPLE_LIMIT: u64 = 5_000;
/// Of a migration's batches at the source, one shortly before the one with the intent of `migrate`.
const FIRST_POINT: u32 = 7;

fn run(pair: &mut Pair, side: Side, command: &str, arguments: Value) -> Value {
    let done = pair.qemu(side).monitor().execute(command, arguments);
    done.unwrap_or_else(|error| panic!("{command} at {side}: {error}"))
}

/// To a process that this test, or its laboratory, started.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// All that a side's journal says, in order.
pub(crate) fn records(pair: &mut Pair, side: Side) -> Vec<RecordBody> {
    records_in(pair.sidecar(side).journal())
}

/// The effects that a side meant to have, in order.
pub(crate) fn intents(pair: &mut Pair, side: Side) -> Vec<String> {
    let intended = |body: RecordBody| match body {
        RecordBody::EffectIntended(intended) => Some(intended.command.name().to_owned()),
        _ => None,
    };
    let all = records(pair, side);
    all.into_iter().filter_map(intended).collect()
}

/// How many times QEMU refused this side's `cont`.
pub(crate) fn refused_conts(pair: &mut Pair, side: Side) -> usize {
    let records = records(pair, side);
    let refused = |body: &&RecordBody| {
        matches!(body, RecordBody::EffectFinished(finished)
            if matches!(&finished.result, EffectResult::Refused { description, .. }
                if description.contains("lock")))
    };
    records.iter().filter(refused).count()
}

/// The rules that a side decided by, in order.
fn rules(pair: &mut Pair, side: Side) -> Vec<String> {
    let decisions = pair.sidecar(side).decisions().unwrap();
    decisions.into_iter().map(|known| known.rule).collect()
}

pub(crate) fn wait_held(pair: &mut Pair, side: Side, rule: &str) {
    let held = until(&format!("{rule} at {side}"), TIMEOUT, || {
        let domains = pair.sidecar(side).domains()?;
        let held = domains[0].held.as_ref();
        Ok(held.is_some_and(|held| held.rule == rule).then_some(()))
    });
    held.unwrap();
}

fn wait_intended(pair: &mut Pair, side: Side, effect: &str) {
    let intended = until(&format!("{effect} at {side}"), TIMEOUT, || {
        Ok(intents(pair, side)
            .iter()
            .any(|one| one == effect)
            .then_some(()))
    });
    intended.unwrap();
}

fn wait_crashed(pair: &mut Pair, side: Side) {
    assert_eq!(pair.wait_for_crash(side, TIMEOUT).unwrap(), Waited::Crashed);
}

pub(crate) fn assert_stopped(pair: &Pair, what: &str) {
    let conclusion = pair.conclude(3, STOPPED_FOR).unwrap();
    assert!(conclusion.is_clean_and_stopped(), "{what}: {conclusion}");
}

/// A source's sidecar that is dead right before it would give its licence: the destination is whole.
fn sent_without_a_licence(mut before: impl FnMut(&mut Pair)) -> Pair {
    let crash = RunOptions::crashing(CrashPoint::BeforeRecord("migration-granted".to_owned()));
    let mut pair = pair(crash, RunOptions::default());
    before(&mut pair);
    pair.migrate(Side::A, Limits::default()).unwrap();
    wait_crashed(&mut pair, Side::A);
    wait_status(pair.qemu(Side::B).monitor(), "completed").unwrap();
    pair
}

/// Lets QEMU at A converge with all that the guest writes unsent, and waits until it has stopped the
/// guest. The sidecar there must be dead, or stand still.
fn wait_pre_switchover(pair: &mut Pair) {
    let limits = json!({"max-bandwidth": RESTLESS_BANDWIDTH, "downtime-limit": AMPLE_LIMIT});
    run(pair, Side::A, "migrate-set-parameters", limits);
    wait_status(pair.qemu(Side::A).monitor(), "pre-switchover").unwrap();
}

#[test]
fn a_foreign_cont_before_the_migration_does_not_start_the_guest() {
    let mut pair = sent_without_a_licence(|pair| {
        run(pair, Side::B, "cont", json!({}));
        assert_eq!(pair.qemu(Side::B).run_state().unwrap(), "inmigrate");
    });
    assert_eq!(pair.qemu(Side::B).run_state().unwrap(), "paused");
    assert_stopped(&pair, "whole, without a licence");
    let intents = intents(&mut pair, Side::B);
    let place = |name| intents.iter().position(|intent| *intent == name).unwrap();
    assert!(place("stop") < place("migrate-incoming"), "{intents:?}");
    assert!(!intents.iter().any(|one| one == "cont"), "{intents:?}");
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "after the licence"), Side::B);
}

/// Nothing keeps another client from it. Then the guest runs here without a licence, and that is how it
/// is: never taken back, and the source's copy never runs.
#[test]
fn a_foreign_cont_during_the_stream_is_taken_for_what_it_is() {
    let mut pair = performing();
    run(&mut pair, Side::B, "cont", json!({}));
    assert_eq!(pair.qemu(Side::B).run_state().unwrap(), "inmigrate");
    let source = pair.sidecar(Side::A).pid().unwrap();
    signal(source, "STOP");
    wait_pre_switchover(&mut pair);
    let go_on = json!({"state": "pre-switchover"});
    run(&mut pair, Side::A, "migrate-continue", go_on);
    pair.qemu(Side::B).wait_for_number(1, TIMEOUT).unwrap();
    let told = until("a decision at the destination", TIMEOUT, || {
        let decisions = pair.sidecar(Side::B).decisions()?;
        let told = |rule: &str| decisions.iter().any(|known| known.rule == rule);
        Ok(told("destination-prepare-running").then_some(()))
    });
    told.unwrap();
    signal(source, "CONT");
    assert_eq!(assert_one_runs(&mut pair, "started by itself"), Side::B);
    assert!(!intents(&mut pair, Side::A).iter().any(|one| one == "cont"));
}

/// The answer to `migrate_cancel` proves nothing: the job ends when QEMU was seen to have ended it.
#[test]
fn a_cancel_is_believed_when_query_migrate_says_so() {
    let mut pair = performing();
    let job = pair.sidecar(Side::A).jobs(None).unwrap()[0].job;
    let cancel = json!({"job": job});
    pair.sidecar(Side::A).execute("job-cancel", cancel).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "cancelled"), Side::A);
    let records = records(&mut pair, Side::A);
    let after = |from: usize, what: &str, wanted: &dyn Fn(&RecordBody) -> bool| {
        let found = records[from..].iter().position(wanted);
        from + found.unwrap_or_else(|| panic!("no {what} after record {from} of {records:#?}"))
    };
    let cancel = after(
        0,
        "cancel",
        &|body| matches!(body, RecordBody::EffectIntended(intended) if intended.command == EffectCommand::MigrateCancel),
    );
    let answered = after(
        cancel,
        "answer",
        &|body| matches!(body, RecordBody::EffectFinished(finished) if finished.result == EffectResult::Done),
    );
    let seen = after(
        answered,
        "look",
        &|body| matches!(body, RecordBody::QemuObserved(seen) if seen.observed.migration == Some(MigrationStatus::Cancelled)),
    );
    after(seen, "end", &|body| matches!(body, RecordBody::JobEnded(_)));
}

#[test]
fn nothing_is_cancelled_once_all_was_sent() {
    let mut pair = sent_without_a_licence(|_| {});
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "all was sent"), Side::B);
    let intents = intents(&mut pair, Side::A);
    assert!(
        !intents.iter().any(|one| one == "migrate_cancel"),
        "{intents:?}"
    );
    assert!(!intents.iter().any(|one| one == "cont"), "{intents:?}");
}

/// Somebody else would switch to post-copy under the sidecars, where a cancel is taken and destroys the
/// guest: a migration that was asked for without it has the capability off, whatever was set before.
#[test]
fn postcopy_that_nobody_asked_for_cannot_begin() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let on = json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]});
    for side in Side::BOTH {
        run(&mut pair, side, "migrate-set-capabilities", on.clone());
    }
    let limits = Limits {
        max_bandwidth: Some(RESTLESS_BANDWIDTH),
        ..Limits::default()
    };
    pair.migrate(Side::A, limits).unwrap();
    wait_status(pair.qemu(Side::A).monitor(), "active").unwrap();
    let monitor = pair.qemu(Side::A).monitor();
    let refused = monitor.execute("migrate-start-postcopy", json!({}));
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("Enable postcopy"), "{why}");
    pair.sidecar(Side::A).kill().unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "given up"), Side::A);
}

#[test]
fn a_guest_stopped_for_the_switchover_is_cancelled_not_continued() {
    let mut pair = performing();
    pair.sidecar(Side::A).kill().unwrap();
    wait_pre_switchover(&mut pair);
    let refused = pair.qemu(Side::A).monitor().execute("cont", json!({}));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("not finalized"), "{refused}");
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "given up"), Side::A);
    let intents = intents(&mut pair, Side::A);
    assert!(
        intents.iter().any(|one| one == "migrate_cancel"),
        "{intents:?}"
    );
    assert!(!intents.iter().any(|one| one == "cont"), "{intents:?}");
}

/// The destination lacks a device that the guest has: its QEMU ends over it, in the last step. The
/// source's runs on by itself, and no licence goes out.
#[test]
fn a_destination_that_cannot_load_leaves_the_guest_at_the_source() {
    for protocol in ["v2", "v3"] {
        let mut pair = pair(RunOptions::default(), RunOptions::default());
        let device = json!({"driver": "virtio-rng-pci", "id": "extra"});
        run(&mut pair, Side::A, "device_add", device);
        let limits = Limits {
            protocol: Some(protocol),
            ..Limits::default()
        };
        pair.migrate(Side::A, limits).unwrap();
        let ended = pair.qemu(Side::B).wait_dead(PROCESS_TIMEOUT).unwrap();
        assert_eq!(ended.code(), Some(1), "it ended by itself");
        assert_eq!(assert_one_runs(&mut pair, protocol), Side::A);
        assert_eq!(pair.qemu(Side::A).migration_status().unwrap(), "failed");
        let decided = |body: &RecordBody| {
            matches!(
                body,
                RecordBody::MigrationGranted(_) | RecordBody::MigrationCommitted(_)
            )
        };
        assert!(!records(&mut pair, Side::A).iter().any(decided));
        assert!(!records(&mut pair, Side::B).iter().any(decided));
    }
}

/// The source's QEMU is in its last step, or about to be, and will not get through it: the destination
/// does not read, and there is more to send than the socket takes.
fn blocked_in_the_device_phase() -> Pair {
    let mut pair = performing();
    let source = pair.sidecar(Side::A).pid().unwrap();
    signal(source, "STOP");
    wait_pre_switchover(&mut pair);
    signal(pair.qemu(Side::B).pid(), "STOP");
    signal(source, "CONT");
    pair
}

#[test]
fn a_source_that_is_mute_in_the_device_phase_is_left_alone() {
    let mut pair = blocked_in_the_device_phase();
    wait_held(&mut pair, Side::A, "qemu-mute");
    assert!(pair.qemu(Side::A).is_alive().unwrap());
    assert_eq!(
        intents(&mut pair, Side::A).last().map(String::as_str),
        Some("migrate-continue")
    );
    signal(pair.qemu(Side::B).pid(), "CONT");
    assert_eq!(assert_one_runs(&mut pair, "it answers again"), Side::B);
}

/// A sidecar that comes back to a QEMU that lives and does not answer concludes nothing.
#[test]
fn a_sidecar_that_comes_back_to_a_mute_source() {
    let mut pair = performing();
    pair.sidecar(Side::A).kill().unwrap();
    wait_pre_switchover(&mut pair);
    signal(pair.qemu(Side::B).pid(), "STOP");
    let go_on = json!({"state": "pre-switchover"});
    // It may be mute before it has answered.
    let monitor = pair.qemu(Side::A).monitor();
    let taken = monitor.execute_within("migrate-continue", go_on, SILENT_FOR);
    assert!(
        matches!(taken, Ok(_) | Err(Error::Deadline { .. })),
        "{taken:?}"
    );
    let socket = pair.qemu(Side::A).sidecar_socket();
    let mute = until("a mute QEMU", TIMEOUT, || {
        let greeted = Qmp::connect(&socket, SILENT_FOR);
        Ok(matches!(greeted, Err(Error::Deadline { .. })).then_some(()))
    });
    mute.unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    wait_held(&mut pair, Side::A, "qemu-mute");
    signal(pair.qemu(Side::B).pid(), "CONT");
    // On either side: QEMU may be through the last step, or still in it, when it is looked at again.
    assert_one_runs(&mut pair, "it answers again");
}

#[test]
fn a_source_that_was_blocked_runs_on_when_its_destination_dies() {
    let mut pair = blocked_in_the_device_phase();
    wait_intended(&mut pair, Side::A, "migrate-continue");
    pair.qemu(Side::B).kill().unwrap();
    assert_eq!(assert_one_runs(&mut pair, "it failed"), Side::A);
    assert!(!intents(&mut pair, Side::A).iter().any(|one| one == "cont"));
}

#[test]
fn a_whole_destination_without_a_licence_stays_paused() {
    let mut pair = sent_without_a_licence(|_| {});
    pair.sidecar(Side::B).kill().unwrap();
    pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    wait_held(&mut pair, Side::B, "destination-prepare-alone");
    assert_eq!(pair.qemu(Side::B).run_state().unwrap(), "paused");
    assert_eq!(pair.qemu(Side::B).migration_status().unwrap(), "completed");
    assert_stopped(&pair, "a whole destination alone");
    assert!(!intents(&mut pair, Side::B).iter().any(|one| one == "cont"));
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "after the licence"), Side::B);
}

/// All was sent and nothing read yet, when the source is given up: its guest runs on, and then the
/// destination becomes whole, as after a migration that went well. It has no licence.
#[test]
fn a_copy_that_becomes_whole_after_the_source_gave_up_never_runs() {
    let mut pair = quiet_pair();
    let limits = Limits {
        max_bandwidth: Some(RESTLESS_BANDWIDTH),
        ..Limits::default()
    };
    pair.migrate(Side::A, limits).unwrap();
    wait_status(pair.qemu(Side::A).monitor(), "active").unwrap();
    pair.sidecar(Side::A).kill().unwrap();
    let little = json!({"max-bandwidth": 10 * RESTLESS_BANDWIDTH, "downtime-limit": 5});
    run(&mut pair, Side::A, "migrate-set-parameters", little);
    wait_status(pair.qemu(Side::A).monitor(), "pre-switchover").unwrap();
    // It reads whatever is there before it answers the next question.
    for _ in 0..3 {
        assert_eq!(pair.qemu(Side::B).run_state().unwrap(), "inmigrate");
    }
    let (sidecar, qemu) = (
        pair.sidecar(Side::B).pid().unwrap(),
        pair.qemu(Side::B).pid(),
    );
    signal(sidecar, "STOP");
    signal(qemu, "STOP");
    let go_on = json!({"state": "pre-switchover"});
    run(&mut pair, Side::A, "migrate-continue", go_on);
    wait_status(pair.qemu(Side::A).monitor(), "device").unwrap();

    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    wait_status(pair.qemu(Side::A).monitor(), "cancelled").unwrap();
    signal(qemu, "CONT");
    wait_status(pair.qemu(Side::B).monitor(), "completed").unwrap();
    assert_eq!(pair.qemu(Side::B).run_state().unwrap(), "paused");
    signal(sidecar, "CONT");
    assert_eq!(assert_one_runs(&mut pair, "given up"), Side::A);
    assert!(!intents(&mut pair, Side::B).iter().any(|one| one == "cont"));
}

#[test]
fn postmigrate_after_a_cancel_is_no_completed_migration() {
    let mut pair = performing();
    pair.sidecar(Side::A).kill().unwrap();
    run(&mut pair, Side::A, "stop", json!({}));
    wait_pre_switchover(&mut pair);
    run(&mut pair, Side::A, "migrate_cancel", json!({}));
    wait_status(pair.qemu(Side::A).monitor(), "cancelled").unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    settle_all(&mut pair, "cancelled");
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "postmigrate");
    assert_stopped(&pair, "paused by its owner");
    assert!(!rules(&mut pair, Side::A).contains(&"source-perform-completed".to_owned()));
    let name = json!({"name": DOMAIN});
    pair.sidecar(Side::A)
        .execute("domain-resume", name)
        .unwrap();
    assert_eq!(assert_one_runs(&mut pair, "resumed"), Side::A);
}

/// Saves the guest, which stops it, as a manager does who knows what a save needs.
fn save(pair: &mut Pair) {
    let off = |name| json!({"capability": name, "state": false});
    let capabilities = json!([off("return-path"), off("pause-before-switchover")]);
    let capabilities = json!({"capabilities": capabilities});
    run(pair, Side::A, "migrate-set-capabilities", capabilities);
    let save = json!({"uri": "exec:cat > /dev/null"});
    run(pair, Side::A, "migrate", save);
    wait_status(pair.qemu(Side::A).monitor(), "completed").unwrap();
    let saved = until("the end of the save", TIMEOUT, || {
        Ok((pair.qemu(Side::A).run_state()? == "postmigrate").then_some(()))
    });
    saved.unwrap();
}

/// The source's sidecar is dead with the intent of `migrate` durable, and nothing of it was sent.
fn dead_with_the_intent_to_migrate(before: impl Fn(&mut Pair)) -> Pair {
    for point in FIRST_POINT.. {
        let crash = RunOptions::crashing(CrashPoint::AfterBatch(point));
        let mut pair = pair(crash, RunOptions::default());
        before(&mut pair);
        pair.migrate(Side::A, Limits::default()).unwrap();
        wait_crashed(&mut pair, Side::A);
        if intents(&mut pair, Side::A)
            .last()
            .is_some_and(|one| one == "migrate")
        {
            return pair;
        }
    }
    unreachable!("a migration has a last batch, and after it there is no crash");
}

/// The guest was saved before, and runs on: `completed` is that save's.
#[test]
fn an_old_completed_is_not_this_migration() {
    let mut pair = dead_with_the_intent_to_migrate(|pair| {
        save(pair);
        run(pair, Side::A, "cont", json!({}));
    });
    assert_eq!(pair.qemu(Side::A).migration_status().unwrap(), "completed");
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "running");
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "an older completed"), Side::A);
    // The same guest, and nothing in the way of the next migration.
    pair.add_destination(Side::B).unwrap();
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "the next one"), Side::B);
}

/// Somebody saves the guest just when the sidecar is dead with the intent of `migrate` durable. Now
/// QEMU looks as after a migration that was sent, and may not be continued on its look alone: the
/// destination decides, which nothing reached.
#[test]
fn a_save_in_between_runs_no_second_copy() {
    let mut pair = dead_with_the_intent_to_migrate(|_| {});
    save(&mut pair);
    assert_stopped(&pair, "saved in between");
    assert_eq!(pair.qemu(Side::B).run_state().unwrap(), "inmigrate");
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "saved in between"), Side::A);
    assert!(!intents(&mut pair, Side::B).iter().any(|one| one == "cont"));
    assert!(!pair.qemu(Side::B).is_alive().unwrap());
}

/// While another client has the monitor QEMU answers nothing, and nothing is concluded from that.
#[test]
fn a_monitor_that_somebody_else_has_is_mute() {
    let mut pair = performing();
    pair.sidecar(Side::A).kill().unwrap();
    let other = Qmp::connect(&pair.qemu(Side::A).sidecar_socket(), TIMEOUT).unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    wait_held(&mut pair, Side::A, "qemu-mute");
    let before = intents(&mut pair, Side::A);
    assert_eq!(
        before.last().map(String::as_str),
        Some("migrate"),
        "{before:?}"
    );
    drop(other);
    assert_eq!(assert_one_runs(&mut pair, "the monitor is free"), Side::A);
}

#[test]
fn each_side_carries_its_own_claim() {
    let mut pair = sent_without_a_licence(|_| {});
    let claim = json!({"path": "/objects/phase-journal-claim", "property": "identity"});
    let claims = Side::BOTH.map(|side| {
        let seen = run(&mut pair, side, "qom-get", claim.clone());
        seen.as_str().unwrap().to_owned()
    });
    assert!(claims[0].ends_with("role=source"), "{claims:?}");
    assert!(claims[1].ends_with("role=destination"), "{claims:?}");
    let journals = claims
        .each_ref()
        .map(|claim| &claim[..claim.find(' ').unwrap()]);
    assert_ne!(journals[0], journals[1]);
    // And neither can be made a second time.
    let object = json!({"qom-type": "authz-simple", "id": "phase-journal-claim", "identity": "x"});
    for side in Side::BOTH {
        let monitor = pair.qemu(side).monitor();
        let refused = monitor.execute("object-add", object.clone()).unwrap_err();
        assert!(refused.to_string().contains("duplicate"), "{refused}");
    }
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "after the licence"), Side::B);
}

/// A QEMU whose monitor's listening socket was made here. Killed on drop.
struct Launched(Child);

impl Launched {
    fn start(listener: UnixListener) -> Launched {
        let monitor = "socket,id=m1,fd=0,server=on,wait=off";
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args(["-machine", "none", "-nodefaults", "-display", "none", "-S"])
            .args(["-chardev", monitor, "-mon", "chardev=m1,mode=control"])
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .spawn();
        Launched(child.unwrap())
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn maker_of(socket: &Path) -> u32 {
    let stream = UnixStream::connect(socket).unwrap();
    let maker = socket_peercred(&stream).unwrap().pid;
    u32::try_from(maker.as_raw_nonzero().get()).unwrap()
}

#[test]
fn the_peer_of_a_monitor_is_its_maker() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    // QEMU made its socket.
    let (pid, socket) = (
        pair.qemu(Side::B).pid(),
        pair.qemu(Side::B).sidecar_socket(),
    );
    assert_eq!(maker_of(&socket), pid);
    let name = json!({"name": DOMAIN});
    pair.sidecar(Side::B)
        .execute("domain-remove", name)
        .unwrap();
    let unnamed = json!({"name": DOMAIN, "qmp": socket.to_str().unwrap()});
    let added = pair
        .sidecar(Side::B)
        .execute("domain-add", unnamed)
        .unwrap();
    assert_eq!(added["pid"], pid, "{added}");

    // A launcher did: the kernel names it, and the launcher is not taken for a QEMU.
    let socket = pair.directory().join("launched");
    let launched = Launched::start(UnixListener::bind(&socket).unwrap());
    assert_eq!(maker_of(&socket), std::process::id());
    let mut arguments = json!({"name": "launched", "qmp": socket.to_str().unwrap()});
    let refused = pair
        .sidecar(Side::B)
        .execute("domain-add", arguments.clone());
    let refused = refused.unwrap_err().to_string();
    let maker = format!(
        "made by process {}, which does not hold it",
        std::process::id()
    );
    assert!(refused.contains(&maker), "{refused}");
    arguments["pid"] = json!(launched.0.id());
    let added = pair
        .sidecar(Side::B)
        .execute("domain-add", arguments)
        .unwrap();
    assert_eq!(
        (&added["pid"], &added["process"]),
        (&json!(launched.0.id()), &json!("alive"))
    );
}
