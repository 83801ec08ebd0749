//! What QEMU does that a recovery must know: each danger on plain QEMU, without any sidecar.
//!
//! Invariant: a test here says what QEMU does, not what is right; that the product avoids it is the
//! matter of the test named beside it (in the program's own end-to-end tests).
//! Not here: the product.
//!
//! | QEMU | here | how the product avoids it |
//! |---|---|---|
//! | `cont` on a destination that waits for its stream is kept: it starts by itself; `stop` clears it | [`a_cont_while_the_stream_runs_starts_the_guest_by_itself`], [`a_stop_clears_such_a_cont`] | `dangers::a_foreign_cont_before_the_migration_does_not_start_the_guest`, `dangers::a_foreign_cont_during_the_stream_is_taken_for_what_it_is` |
//! | `migrate_cancel` always succeeds, and does nothing after the end: `completed` stays | [`a_cancel_always_succeeds_and_completed_stays`] | `dangers::a_cancel_is_believed_when_query_migrate_says_so`, `dangers::nothing_is_cancelled_once_all_was_sent` |
//! | in post-copy it destroys the guest | [`a_cancel_in_postcopy_destroys_the_guest`] | `dangers::postcopy_that_nobody_asked_for_cannot_begin`, `postcopy::a_split_guest_is_not_cancelled` |
//! | `cont` fails before `postmigrate` | [`a_cont_before_postmigrate_fails`] | `dangers::a_guest_stopped_for_the_switchover_is_cancelled_not_continued` |
//! | `cont` in `postmigrate` works, whatever the destination did | `real_qemu::both_copies_running_is_judged_ran_twice`, `real_qemu::a_source_resumed_from_stale_memory_is_judged_ran_twice` | `crash::a_source_in_doubt_holds_until_the_destination_is_back`, `qemu_death::the_destination_dies_after_it_started` |
//! | only an image lock refuses it, and who comes first has it | [`a_lock_is_who_comes_first`] | `image_locks::an_intruder_sends_the_guest_back` and its neighbours |
//! | without return-path the source says completed though nothing was loaded | [`without_return_path_completed_means_nothing`], [`with_return_path_completed_means_loaded`] | `qmp::tests` (what is set), `dangers::a_destination_that_cannot_load_leaves_the_guest_at_the_source` |
//! | with it, a failure in the device phase restarts the source by itself | [`with_return_path_a_failure_restarts_the_source_by_itself`] | the same, `dangers::a_source_that_was_blocked_runs_on_when_its_destination_dies` |
//! | a whole destination may stand beside a source that runs | [`a_whole_destination_beside_a_running_source`] | `dangers::a_copy_that_becomes_whole_after_the_source_gave_up_never_runs`, `dangers::a_whole_destination_without_a_licence_stays_paused` |
//! | `postmigrate` does not mean completed | [`a_paused_source_that_was_cancelled_is_postmigrate`] | `dangers::postmigrate_after_a_cancel_is_no_completed_migration` |
//! | a save leaves `completed` on a running guest | [`a_save_leaves_completed_on_a_running_guest`] | `dangers::an_old_completed_is_not_this_migration`, `dangers::a_save_in_between_runs_no_second_copy` |
//! | blocked in the device phase it does not answer | [`a_source_in_the_device_phase_may_not_answer`] | `dangers::a_source_that_is_mute_in_the_device_phase_is_left_alone`, `dangers::a_sidecar_that_comes_back_to_a_mute_source` |
//! | events are lost while nobody is there, and before `qmp_capabilities` | [`events_are_lost_while_nobody_hears`] | `owner::a_guest_paused_during_a_job_that_is_given_up_stays_paused`, `qemu_death::the_source_dies_unwatched_before_it_granted` |
//! | a monitor socket serves one client, and the next one hears nothing | [`the_second_client_hears_nothing`] | `dangers::a_monitor_that_somebody_else_has_is_mute` |
//! | an object has one maker and does not travel | [`an_object_has_one_maker_and_does_not_travel`] | `dangers::each_side_carries_its_own_claim` |
//! | a socket's peer is who made it: QEMU, or a launcher | `dangers::the_peer_of_a_monitor_is_its_maker` | the same |

// Clippy knows only the test functions themselves as tests, not their helpers.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use phase_journal_lab::by_hand::{self, wait_status};
use phase_journal_lab::guest::{GuestImage, GuestOptions, RESTLESS_BANDWIDTH};
use phase_journal_lab::judge::{Verdict, judge};
use phase_journal_lab::qemu::{
    Begin, GUEST_TIMEOUT, Locking, PROCESS_TIMEOUT, Qemu, QemuOptions, RunningNow, running_now,
};
use phase_journal_lab::qmp::Qmp;
use phase_journal_lab::{Scratch, until};
use serde_json::{Value, json};

const UUID: &str = "11111111-2222-4333-8444-555555555555";
/// Long enough that a guest which runs would have printed some 20 numbers.
const STOPPED_FOR: Duration = Duration::from_millis(200);
/// Long enough for an answer of a QEMU that can answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);
/// So little that what is sent while the guest is stopped fits into a socket's buffer.
const QUIET: GuestOptions = GuestOptions {
    dirty_pages: 2,
    paced: false,
};
/// What a Unix socket takes before somebody reads, in bytes (`net.core.wmem_default`).
const SOCKET_BUFFER: u64 = 200_000;
/// Of the stream, in bytes per second: all of the guest takes a fraction of a second.
const BANDWIDTH: u64 = 10_000_000;
const NOT_FINALIZED: &str = "Migration is not finalized yet";

/// A guest that runs at a, and b waiting for it. Without locks on the disk nothing but the test's
/// own conduct keeps two copies from running.
struct Two {
    a: Qemu,
    b: Qemu,
    uri: String,
    _scratch: Scratch,
}

impl Two {
    fn start(guest: GuestOptions) -> Two {
        Two::with_locking(guest, Locking::Off)
    }

    fn with_locking(guest: GuestOptions, locking: Locking) -> Two {
        let scratch = Scratch::create().unwrap();
        let disk = scratch.path().join("disk");
        GuestImage::assemble(guest).unwrap().write(&disk).unwrap();
        let qemu = |name: &str, begin| {
            let options = QemuOptions {
                name: name.to_owned(),
                directory: scratch.directory(name).unwrap(),
                disk: disk.clone(),
                uuid: UUID.to_owned(),
                begin,
                locking,
                data: Vec::new(),
            };
            Qemu::start(&options).unwrap()
        };
        let mut a = qemu("a", Begin::Running);
        let b = qemu("b", Begin::Incoming);
        a.wait_for_number(3, GUEST_TIMEOUT).unwrap();
        let uri = format!("unix:{}", scratch.path().join("m").display());
        Two {
            a,
            b,
            uri,
            _scratch: scratch,
        }
    }

    fn prepare(&mut self) {
        by_hand::prepare(self.a.monitor(), self.b.monitor(), &self.uri).unwrap();
    }

    fn perform(&mut self) {
        by_hand::perform(self.a.monitor(), &self.uri).unwrap();
    }

    /// Performs up to where the guest is stopped; at most about this much is left then, in bytes.
    fn perform_but(&mut self, left: u64) {
        let limits = json!({"max-bandwidth": BANDWIDTH, "downtime-limit": left * 1000 / BANDWIDTH});
        run(&mut self.a, "migrate-set-parameters", limits);
        run(&mut self.a, "migrate", json!({"uri": self.uri}));
        wait_status(self.a.monitor(), "pre-switchover").unwrap();
    }

    fn switch_over(&mut self) {
        by_hand::switch_over(self.a.monitor(), self.b.monitor()).unwrap();
    }

    /// Run state and migration status of both sides.
    fn states(&mut self) -> [(String, String); 2] {
        [&mut self.a, &mut self.b].map(state)
    }

    fn running(&self, timeout: Duration) -> RunningNow {
        let logs = || [&self.a, &self.b].map(|qemu| qemu.guest_log().unwrap());
        let before = logs();
        let grown = || {
            let now = logs();
            let grown = before.iter().zip(now);
            let names = grown.filter(|(before, now)| now.bytes.len() > before.bytes.len() + 45);
            names.map(|(_, now)| now.instance).collect::<Vec<_>>()
        };
        let found = until("progress of a guest", timeout, || {
            Ok(Some(grown()).filter(|names| !names.is_empty()))
        });
        match found.unwrap_or_default().as_slice() {
            [] => RunningNow::None,
            [one] => RunningNow::One(one.clone()),
            several => RunningNow::Several(several.to_vec()),
        }
    }

    fn verdict(&self) -> Verdict {
        judge(&[&self.a, &self.b].map(|qemu| qemu.guest_log().unwrap()))
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}{}", self.a.report(), self.b.report());
        }
    }
}

fn state(qemu: &mut Qemu) -> (String, String) {
    (qemu.run_state().unwrap(), qemu.migration_status().unwrap())
}

fn is(state: &(String, String), run_state: &str, migration: &str) -> bool {
    state.0 == run_state && state.1 == migration
}

fn run(qemu: &mut Qemu, command: &str, arguments: Value) -> Value {
    let done = qemu.monitor().execute(command, arguments);
    done.unwrap_or_else(|error| panic!("{command} at {}: {error}", qemu.name()))
}

/// A command that QEMU must refuse, and its words.
fn refused(qemu: &mut Qemu, command: &str, arguments: Value) -> String {
    match qemu.monitor().execute(command, arguments) {
        Ok(answer) => panic!("{command} was accepted: {answer}"),
        Err(error) => error.to_string(),
    }
}

fn set_capability(qemu: &mut Qemu, name: &str, state: bool) {
    let one = json!([{"capability": name, "state": state}]);
    run(
        qemu,
        "migrate-set-capabilities",
        json!({"capabilities": one}),
    );
}

fn signal(qemu: &Qemu, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), qemu.pid().to_string()])
        .status();
    assert!(status.unwrap().success());
}

fn wait_run_state(qemu: &mut Qemu, wanted: &str) {
    let waiting_for = format!("run state {wanted} at {}", qemu.name());
    let seen = until(&waiting_for, GUEST_TIMEOUT, || {
        Ok((qemu.run_state()? == wanted).then_some(()))
    });
    seen.unwrap();
}

#[test]
fn a_cont_while_the_stream_runs_starts_the_guest_by_itself() {
    let mut two = Two::start(GuestOptions::ORDINARY);
    two.prepare();
    run(&mut two.b, "cont", json!({}));
    assert_eq!(two.b.run_state().unwrap(), "inmigrate");
    assert_eq!(two.b.guest_log().unwrap().bytes, b"");
    two.perform();
    assert_eq!(two.b.run_state().unwrap(), "inmigrate");
    // From here the destination gets no command at all.
    let go_on = json!({"state": "pre-switchover"});
    run(&mut two.a, "migrate-continue", go_on);
    let ran = two.b.wait_for_number(5, GUEST_TIMEOUT).unwrap();
    assert!(is(&state(&mut two.b), "running", "completed"), "{ran}");
    assert!(two.verdict().is_clean(), "{}", two.verdict());
}

#[test]
fn a_stop_clears_such_a_cont() {
    let mut two = Two::start(GuestOptions::ORDINARY);
    two.prepare();
    run(&mut two.b, "cont", json!({}));
    run(&mut two.b, "stop", json!({}));
    assert_eq!(two.b.run_state().unwrap(), "inmigrate");
    two.perform();
    two.switch_over();
    assert!(is(&state(&mut two.b), "paused", "completed"));
    assert_eq!(two.running(STOPPED_FOR), RunningNow::None);
    assert_eq!(two.b.guest_log().unwrap().bytes, b"");
}

#[test]
fn a_cancel_always_succeeds_and_completed_stays() {
    let mut two = Two::start(GuestOptions::ORDINARY);
    // There is nothing to cancel.
    run(&mut two.a, "migrate_cancel", json!({}));
    run(&mut two.b, "migrate_cancel", json!({}));
    assert!(is(&state(&mut two.a), "running", "none"));
    two.prepare();
    two.perform();
    // The destination cannot cancel.
    run(&mut two.b, "migrate_cancel", json!({}));
    two.switch_over();
    run(&mut two.a, "migrate_cancel", json!({}));
    run(&mut two.b, "migrate_cancel", json!({}));
    let [a, b] = two.states();
    assert!(is(&a, "postmigrate", "completed"), "{a:?}");
    assert!(is(&b, "paused", "completed"), "{b:?}");
    assert_eq!(two.running(STOPPED_FOR), RunningNow::None);
    // Nothing of it has hurt the destination's copy.
    run(&mut two.b, "cont", json!({}));
    assert_eq!(two.running(GUEST_TIMEOUT), RunningNow::One("b".into()));
    assert!(two.verdict().is_clean(), "{}", two.verdict());
}

/// Little goes through in post-copy, so that it lasts; and the guest needs little.
fn in_postcopy() -> Two {
    let mut two = Two::start(QUIET);
    for qemu in [&mut two.a, &mut two.b] {
        set_capability(qemu, "postcopy-ram", true);
    }
    two.prepare();
    let slow = json!({"max-bandwidth": RESTLESS_BANDWIDTH, "max-postcopy-bandwidth": 4096});
    run(&mut two.a, "migrate-set-parameters", slow);
    run(&mut two.a, "migrate", json!({"uri": two.uri}));
    wait_status(two.a.monitor(), "active").unwrap();
    run(&mut two.a, "migrate-start-postcopy", json!({}));
    wait_status(two.a.monitor(), "pre-switchover").unwrap();
    let go_on = json!({"state": "pre-switchover"});
    run(&mut two.a, "migrate-continue", go_on);
    wait_status(two.b.monitor(), "postcopy-active").unwrap();
    two
}

#[test]
fn a_cancel_in_postcopy_destroys_the_guest() {
    let mut two = in_postcopy();
    let [a, b] = two.states();
    assert!(is(&a, "finish-migrate", "postcopy-active"), "{a:?}");
    assert!(is(&b, "paused", "postcopy-active"), "{b:?}");
    run(&mut two.b, "cont", json!({}));
    let ran = two.b.wait_for_number(1, GUEST_TIMEOUT).unwrap();
    assert_eq!(two.b.migration_status().unwrap(), "postcopy-active");
    run(&mut two.a, "migrate_cancel", json!({}));
    wait_status(two.a.monitor(), "cancelled").unwrap();
    wait_run_state(&mut two.a, "postmigrate");
    wait_status(two.b.monitor(), "postcopy-paused").unwrap();
    // No way back into it.
    let again = refused(
        &mut two.a,
        "migrate",
        json!({"uri": two.uri, "resume": true}),
    );
    assert!(again.contains("Cannot resume"), "{again}");
    // The source's copy is older than what the guest did, and QEMU lets it run.
    run(&mut two.a, "cont", json!({}));
    two.a.wait_for_number(ran + 1, GUEST_TIMEOUT).unwrap();
    assert!(
        matches!(two.verdict(), Verdict::RanTwice { .. }),
        "{}",
        two.verdict()
    );
}

#[test]
fn a_cont_before_postmigrate_fails() {
    let mut two = Two::start(GuestOptions::RESTLESS);
    two.prepare();
    two.perform();
    assert!(is(&state(&mut two.a), "finish-migrate", "pre-switchover"));
    let words = refused(&mut two.a, "cont", json!({}));
    assert!(words.contains(NOT_FINALIZED), "{words}");
    assert!(is(&state(&mut two.a), "finish-migrate", "pre-switchover"));

    let go_on = json!({"state": "pre-switchover"});
    run(&mut two.a, "migrate-continue", go_on);
    let mut refusals = Vec::new();
    let done = until("a cont that is taken", GUEST_TIMEOUT, || {
        let status = two.a.migration_status()?;
        let answer = two.a.monitor().execute("cont", json!({}));
        refusals.extend(answer.as_ref().err().map(|e| (status, e.to_string())));
        Ok(answer.ok())
    });
    done.unwrap();
    assert!(
        refusals
            .iter()
            .all(|(_, words)| words.contains(NOT_FINALIZED)),
        "{refusals:?}"
    );
    // Seen also after the event `completed`, for a moment: in 2 of 15 migrations on a busy machine.
    // It was taken with the whole copy there: nothing but the one who sends it prevents two copies.
    wait_status(two.b.monitor(), "completed").unwrap();
    assert!(is(&state(&mut two.a), "running", "completed"));
    run(&mut two.b, "cont", json!({}));
    let last = two.a.wait_for_number(1, GUEST_TIMEOUT).unwrap();
    two.b.wait_for_number(last, GUEST_TIMEOUT).unwrap();
    assert!(matches!(two.verdict(), Verdict::RanTwice { .. }));
}

/// With late-block-activate the image is nobody's when the copy is whole: the source's `cont` is taken, and
/// the destination's refused then. Without, it is the other way round.
#[test]
fn a_lock_is_who_comes_first() {
    for late in [true, false] {
        let mut two = Two::with_locking(GuestOptions::ORDINARY, Locking::On);
        two.prepare();
        set_capability(&mut two.b, "late-block-activate", late);
        two.perform();
        two.switch_over();
        let (first, second, name) = match late {
            true => (&mut two.a, &mut two.b, "a"),
            false => (&mut two.b, &mut two.a, "b"),
        };
        let words = match late {
            true => {
                run(first, "cont", json!({}));
                refused(second, "cont", json!({}))
            }
            // It has the image before it runs.
            false => {
                let words = refused(second, "cont", json!({}));
                run(first, "cont", json!({}));
                words
            }
        };
        assert!(words.contains("\"write\" lock"), "{words}");
        assert_eq!(two.running(GUEST_TIMEOUT), RunningNow::One(name.into()));
        assert!(two.verdict().is_clean(), "{}", two.verdict());
    }
}

/// The destination stands still from pre-switchover on; all that is left of a quiet guest is sent, and
/// waits for it in the socket.
fn send_unread(two: &mut Two) {
    two.perform_but(SOCKET_BUFFER / 4);
    let passes = |qemu: &mut Qemu| {
        let answer = run(qemu, "query-migrate", json!({}));
        answer["ram"]["dirty-sync-count"].as_u64().unwrap()
    };
    let before = passes(&mut two.a);
    // The destination reads whatever is there before it answers the next question; what it answers at
    // once may have come in together with that.
    for _ in 0..3 {
        assert_eq!(two.b.run_state().unwrap(), "inmigrate");
    }
    signal(&two.b, "STOP");
    let go_on = json!({"state": "pre-switchover"});
    run(&mut two.a, "migrate-continue", go_on);
    // QEMU lets nobody in between the last pass and the last byte.
    let sent = until("last pass", GUEST_TIMEOUT, || {
        Ok((passes(&mut two.a) > before).then_some(()))
    });
    sent.unwrap();
}

#[test]
fn without_return_path_completed_means_nothing() {
    let mut two = Two::start(QUIET);
    two.prepare();
    for qemu in [&mut two.a, &mut two.b] {
        set_capability(qemu, "return-path", false);
    }
    send_unread(&mut two);
    wait_status(two.a.monitor(), "completed").unwrap();
    wait_run_state(&mut two.a, "postmigrate");
    // By what the source's QEMU says the guest is with a destination that has read nothing of its
    // devices, and now never will.
    two.b.kill().unwrap();
    assert_eq!(two.running(STOPPED_FOR), RunningNow::None);
    assert!(is(&state(&mut two.a), "postmigrate", "completed"));
    run(&mut two.a, "cont", json!({}));
    assert_eq!(two.running(GUEST_TIMEOUT), RunningNow::One("a".into()));
    assert!(two.verdict().is_clean(), "{}", two.verdict());
}

#[test]
fn with_return_path_completed_means_loaded() {
    let mut two = Two::start(QUIET);
    two.prepare();
    send_unread(&mut two);
    assert!(is(&state(&mut two.a), "finish-migrate", "device"));
    assert_eq!(two.running(STOPPED_FOR), RunningNow::None);
    assert!(is(&state(&mut two.a), "finish-migrate", "device"));
    signal(&two.b, "CONT");
    wait_status(two.a.monitor(), "completed").unwrap();
    wait_status(two.b.monitor(), "completed").unwrap();
}

/// A device that the destination does not have: it cannot load the copy, and ends.
#[test]
fn with_return_path_a_failure_restarts_the_source_by_itself() {
    let mut two = Two::start(GuestOptions::ORDINARY);
    let device = json!({"driver": "virtio-rng-pci", "id": "extra"});
    run(&mut two.a, "device_add", device);
    two.prepare();
    two.perform();
    let go_on = json!({"state": "pre-switchover"});
    run(&mut two.a, "migrate-continue", go_on);
    let ended = two.b.wait_dead(PROCESS_TIMEOUT).unwrap();
    assert_eq!(ended.code(), Some(1), "{}", two.b.report());
    // No command but questions from here.
    wait_status(two.a.monitor(), "failed").unwrap();
    assert_eq!(two.running(GUEST_TIMEOUT), RunningNow::One("a".into()));
    assert_eq!(two.a.run_state().unwrap(), "running");
    assert!(two.verdict().is_clean(), "{}", two.verdict());
}

#[test]
fn a_whole_destination_beside_a_running_source() {
    let mut two = Two::start(QUIET);
    two.prepare();
    send_unread(&mut two);
    assert!(is(&state(&mut two.a), "finish-migrate", "device"));
    run(&mut two.a, "migrate_cancel", json!({}));
    wait_status(two.a.monitor(), "cancelled").unwrap();
    wait_run_state(&mut two.a, "running");
    signal(&two.b, "CONT");
    wait_status(two.b.monitor(), "completed").unwrap();
    assert_eq!(two.b.run_state().unwrap(), "paused");
    assert_eq!(two.running(GUEST_TIMEOUT), RunningNow::One("a".into()));
    assert!(two.verdict().is_clean(), "{}", two.verdict());
    // By its own look the destination is as it would be after a migration that went well.
    run(&mut two.b, "cont", json!({}));
    let last = two.a.wait_for_number(1, GUEST_TIMEOUT).unwrap();
    two.b.wait_for_number(last, GUEST_TIMEOUT).unwrap();
    assert!(matches!(two.verdict(), Verdict::RanTwice { .. }));
}

#[test]
fn a_paused_source_that_was_cancelled_is_postmigrate() {
    let mut two = Two::start(GuestOptions::ORDINARY);
    run(&mut two.a, "stop", json!({}));
    two.prepare();
    two.perform();
    run(&mut two.a, "migrate_cancel", json!({}));
    wait_status(two.a.monitor(), "cancelled").unwrap();
    wait_run_state(&mut two.a, "postmigrate");
    assert_eq!(two.running(STOPPED_FOR), RunningNow::None);
    // Whole: it was never sent to the end, and can run here.
    run(&mut two.a, "cont", json!({}));
    assert_eq!(two.running(GUEST_TIMEOUT), RunningNow::One("a".into()));
    assert!(two.verdict().is_clean(), "{}", two.verdict());
}

#[test]
fn a_save_leaves_completed_on_a_running_guest() {
    let mut two = Two::start(GuestOptions::ORDINARY);
    run(
        &mut two.a,
        "migrate",
        json!({"uri": "exec:cat > /dev/null"}),
    );
    wait_status(two.a.monitor(), "completed").unwrap();
    wait_run_state(&mut two.a, "postmigrate");
    run(&mut two.a, "cont", json!({}));
    assert!(is(&state(&mut two.a), "running", "completed"));
    // It stays through the beginning of the next migration; only `migrate` itself ends it.
    two.prepare();
    assert!(is(&state(&mut two.a), "running", "completed"));
    // And nothing in it says which migration it was.
    let answer = run(&mut two.a, "query-migrate", json!({}));
    assert!(answer.get("socket-address").is_none(), "{answer}");
    assert!(!answer.to_string().contains("/dev/null"), "{answer}");
}

#[test]
fn a_source_in_the_device_phase_may_not_answer() {
    let mut two = Two::start(GuestOptions::RESTLESS);
    two.prepare();
    two.perform_but(10 * SOCKET_BUFFER);
    signal(&two.b, "STOP");
    let go_on = json!({"state": "pre-switchover"});
    run(&mut two.a, "migrate-continue", go_on);
    let answered = |line: &Value| line["return"].get("status").is_some();
    let silent = until("a QEMU that does not answer", GUEST_TIMEOUT, || {
        let mut other = Raw::connect(&two.a.sidecar_socket());
        other.send("qmp_capabilities");
        other.send("query-status");
        let mut lines = std::iter::from_fn(|| other.line(ANSWER_WITHIN));
        let is_silent = !lines.any(|line| answered(&line));
        Ok(is_silent.then_some(other))
    });
    let mut other = silent.unwrap();
    assert!(two.a.is_alive().unwrap());
    // The source is not hurt by the destination's death: it was mute, not dead, and runs on by itself.
    two.b.kill().unwrap();
    let mut lines = std::iter::from_fn(|| other.line(GUEST_TIMEOUT));
    assert!(lines.any(|line| answered(&line)), "it answers now");
    wait_status(two.a.monitor(), "failed").unwrap();
    assert_eq!(two.running(GUEST_TIMEOUT), RunningNow::One("a".into()));
    assert!(two.verdict().is_clean(), "{}", two.verdict());
}

/// A connection by hand, to see what comes before the negotiation.
struct Raw {
    lines: BufReader<UnixStream>,
}

impl Raw {
    fn connect(path: &Path) -> Raw {
        let stream = UnixStream::connect(path).unwrap();
        Raw {
            lines: BufReader::new(stream),
        }
    }

    fn send(&mut self, command: &str) {
        writeln!(self.lines.get_mut(), "{}", json!({"execute": command})).unwrap();
    }

    /// The next line; `None` if there is none within that time.
    fn line(&mut self, timeout: Duration) -> Option<Value> {
        let stream = self.lines.get_mut();
        stream.set_read_timeout(Some(timeout)).unwrap();
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
            Err(_) => None,
        }
    }
}

#[test]
fn events_are_lost_while_nobody_hears() {
    let mut two = Two::start(GuestOptions::ORDINARY);
    let socket = two.a.sidecar_socket();
    // Nobody is there.
    run(&mut two.a, "stop", json!({}));
    let events = two.a.monitor().take_events();
    assert!(
        events.iter().any(|event| event.name == "STOP"),
        "{events:?}"
    );
    // Somebody is, and has not negotiated.
    let mut early = Raw::connect(&socket);
    assert!(early.line(GUEST_TIMEOUT).unwrap().get("QMP").is_some());
    run(&mut two.a, "cont", json!({}));
    run(&mut two.a, "stop", json!({}));
    early.send("query-status");
    let answer = early.line(GUEST_TIMEOUT).unwrap();
    assert_eq!(answer["error"]["class"], "CommandNotFound", "{answer}");
    early.send("qmp_capabilities");
    assert_eq!(early.line(GUEST_TIMEOUT).unwrap(), json!({"return": {}}));
    // What comes first is the answer: no event was kept. Only the question tells.
    early.send("query-status");
    let answer = early.line(GUEST_TIMEOUT).unwrap();
    assert_eq!(answer["return"]["status"], "paused", "{answer}");
    // From here it hears.
    run(&mut two.a, "cont", json!({}));
    let event = early.line(GUEST_TIMEOUT).unwrap();
    assert_eq!(event["event"], "RESUME", "{event}");
}

#[test]
fn the_second_client_hears_nothing() {
    let two = Two::start(GuestOptions::ORDINARY);
    let socket = two.a.sidecar_socket();
    let first = Qmp::connect(&socket, GUEST_TIMEOUT).unwrap();
    let mut second = Raw::connect(&socket);
    second.send("qmp_capabilities");
    second.send("stop");
    assert_eq!(second.line(ANSWER_WITHIN), None);
    assert_eq!(two.running(GUEST_TIMEOUT), RunningNow::One("a".into()));
    // What it sent was kept, and comes into effect when the first one leaves.
    drop(first);
    assert!(second.line(GUEST_TIMEOUT).unwrap().get("QMP").is_some());
    assert_eq!(second.line(GUEST_TIMEOUT).unwrap(), json!({"return": {}}));
    let event = second.line(GUEST_TIMEOUT).unwrap();
    assert_eq!(event["event"], "STOP", "{event}");
    let two_now = running_now(std::slice::from_ref(&two.a), 1, STOPPED_FOR).unwrap();
    assert_eq!(two_now, RunningNow::None);
}

#[test]
fn an_object_has_one_maker_and_does_not_travel() {
    let mut two = Two::start(GuestOptions::ORDINARY);
    let object =
        |whose: &str| json!({"qom-type": "authz-simple", "id": "claim", "identity": whose});
    let property = json!({"path": "/objects/claim", "property": "identity"});
    run(&mut two.a, "object-add", object("one"));
    let words = refused(&mut two.a, "object-add", object("other"));
    assert!(words.contains("duplicate"), "{words}");
    // It is QEMU's, not its maker's: whoever connects next finds it.
    let mut other = Qmp::connect(&two.a.sidecar_socket(), GUEST_TIMEOUT).unwrap();
    let seen = other.execute("qom-get", property.clone()).unwrap();
    assert_eq!(seen, json!("one"));
    two.prepare();
    two.perform();
    two.switch_over();
    let words = refused(&mut two.b, "qom-get", property.clone());
    assert!(words.contains("DeviceNotFound"), "{words}");
    assert_eq!(run(&mut two.a, "qom-get", property), json!("one"));
}
