//! The laboratory against real QEMU, without any sidecar: what the judge calls clean is clean, and
//! what ran twice is called so.
//!
//! Invariant: these tests never pass by being skipped; without QEMU they fail and name the package.
//!
//! Not here: anything about the product.

// Clippy knows only the test functions themselves as tests, not their helpers.
#![allow(clippy::unwrap_used)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use phase_journal_lab::guest::{FIRST_PAGE_ADDRESS, GuestImage, GuestOptions, RESTLESS_BANDWIDTH};
use phase_journal_lab::judge::{Verdict, judge, last_number};
use phase_journal_lab::qemu::{
    Begin, GUEST_TIMEOUT, Locking, Qemu, QemuOptions, RunningNow, running_now,
};
use phase_journal_lab::{Error, Scratch, by_hand};
use serde_json::json;

const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// Long enough that a guest which runs would have printed some 30 numbers.
const STOPPED_FOR: Duration = Duration::from_millis(300);

/// One guest over any number of QEMUs.
struct Hops {
    instances: Vec<Qemu>,
    disk: PathBuf,
    locking: Locking,
    scratch: Scratch,
}

impl Hops {
    /// The guest runs and has printed some numbers.
    fn start(options: GuestOptions, locking: Locking) -> Hops {
        let scratch = Scratch::create().unwrap();
        let disk = scratch.path().join("disk");
        GuestImage::assemble(options).unwrap().write(&disk).unwrap();
        let mut hops = Hops {
            instances: Vec::new(),
            disk,
            locking,
            scratch,
        };
        hops.add(Begin::Running).unwrap();
        hops
    }

    fn add(&mut self, begin: Begin) -> Result<(), Error> {
        let name = format!("q{}", self.instances.len());
        self.instances.push(Qemu::start(&QemuOptions {
            directory: self.scratch.directory(&name)?,
            name,
            disk: self.disk.clone(),
            uuid: UUID.to_owned(),
            begin,
            locking: self.locking,
            data: Vec::new(),
        })?);
        Ok(())
    }

    /// The last two, and a fresh migration socket.
    fn ends(&mut self) -> (&mut Qemu, &mut Qemu, String) {
        let [.., source, destination] = self.instances.as_mut_slice() else {
            panic!("a migration needs two QEMUs");
        };
        let socket = self
            .scratch
            .path()
            .join(destination.name().to_owned() + ".mig");
        (source, destination, format!("unix:{}", socket.display()))
    }

    /// Migrates from the last QEMU to a new one.
    fn hop(&mut self) {
        self.add(Begin::Incoming).unwrap();
        let (source, destination, uri) = self.ends();
        by_hand::migrate(source.monitor(), destination.monitor(), &uri).unwrap();
        source.wait_dead(GUEST_TIMEOUT).unwrap();
    }

    fn wait_for(&mut self, number: u32) -> u32 {
        self.instances
            .last_mut()
            .unwrap()
            .wait_for_number(number, GUEST_TIMEOUT)
            .unwrap()
    }

    fn verdict(&self) -> Verdict {
        let logs: Vec<_> = self
            .instances
            .iter()
            .map(|qemu| qemu.guest_log().unwrap())
            .collect();
        judge(&logs)
    }

    fn running(&self, timeout: Duration) -> RunningNow {
        running_now(&self.instances, 5, timeout).unwrap()
    }
}

impl Drop for Hops {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.instances
                .iter()
                .for_each(|qemu| eprintln!("{}", qemu.report()));
        }
    }
}

fn check_ran(verdict: &Verdict, instances: &[&str]) {
    let Verdict::Clean { ran, .. } = verdict else {
        panic!("{verdict}")
    };
    let names: Vec<&str> = ran.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, instances, "{verdict}");
}

#[test]
fn a_migration_there_and_back_is_clean() {
    let begun = Instant::now();
    let mut hops = Hops::start(GuestOptions::ORDINARY, Locking::On);
    hops.wait_for(3);
    hops.hop();
    assert_eq!(hops.running(GUEST_TIMEOUT), RunningNow::One("q1".into()));
    check_ran(&hops.verdict(), &["q0", "q1"]);
    println!("start, migrate, judge: {:?}", begun.elapsed());
    let before = hops.wait_for(1);
    hops.hop();
    hops.wait_for(before + 5);
    assert_eq!(hops.running(GUEST_TIMEOUT), RunningNow::One("q2".into()));
    check_ran(&hops.verdict(), &["q0", "q1", "q2"]);
}

#[test]
fn between_switchover_and_finish_none_runs() {
    let mut hops = Hops::start(GuestOptions::ORDINARY, Locking::On);
    hops.wait_for(3);
    hops.add(Begin::Incoming).unwrap();
    let (source, destination, uri) = hops.ends();
    by_hand::prepare(source.monitor(), destination.monitor(), &uri).unwrap();
    by_hand::perform(source.monitor(), &uri).unwrap();
    by_hand::switch_over(source.monitor(), destination.monitor()).unwrap();
    assert_eq!(source.run_state().unwrap(), "postmigrate");
    assert_eq!(destination.run_state().unwrap(), "paused");
    assert_eq!(hops.running(STOPPED_FOR), RunningNow::None);
    check_ran(&hops.verdict(), &["q0"]);
}

#[test]
fn both_copies_running_is_judged_ran_twice() {
    let mut hops = Hops::start(GuestOptions::ORDINARY, Locking::Off);
    hops.wait_for(3);
    hops.add(Begin::Incoming).unwrap();
    let (source, destination, uri) = hops.ends();
    by_hand::prepare(source.monitor(), destination.monitor(), &uri).unwrap();
    by_hand::perform(source.monitor(), &uri).unwrap();
    by_hand::switch_over(source.monitor(), destination.monitor()).unwrap();
    let before = source.number_in_memory().unwrap();
    destination.monitor().execute("cont", json!({})).unwrap();
    source.monitor().execute("cont", json!({})).unwrap();
    let both_reach = before + 5;
    destination
        .wait_for_number(both_reach, GUEST_TIMEOUT)
        .unwrap();
    source.wait_for_number(both_reach, GUEST_TIMEOUT).unwrap();
    let both = RunningNow::Several(vec!["q0".into(), "q1".into()]);
    assert_eq!(hops.running(GUEST_TIMEOUT), both);
    let verdict = hops.verdict();
    let Verdict::RanTwice {
        first,
        second,
        shared,
        ..
    } = &verdict
    else {
        panic!("{verdict}")
    };
    assert_eq!((first.as_str(), second.as_str()), ("q0", "q1"));
    assert!(*shared > 1, "{verdict}");
}

/// The source goes back to its stale memory after the destination ran and died: one at a time,
/// and yet twice.
#[test]
fn a_source_resumed_from_stale_memory_is_judged_ran_twice() {
    let mut hops = Hops::start(GuestOptions::ORDINARY, Locking::On);
    hops.wait_for(3);
    hops.add(Begin::Incoming).unwrap();
    let (source, destination, uri) = hops.ends();
    by_hand::prepare(source.monitor(), destination.monitor(), &uri).unwrap();
    by_hand::perform(source.monitor(), &uri).unwrap();
    by_hand::switch_over(source.monitor(), destination.monitor()).unwrap();
    destination.monitor().execute("cont", json!({})).unwrap();
    let last = destination.wait_for_number(5, GUEST_TIMEOUT).unwrap();
    destination.kill().unwrap();
    source.monitor().execute("cont", json!({})).unwrap();
    source.wait_for_number(last, GUEST_TIMEOUT).unwrap();
    assert_eq!(hops.running(GUEST_TIMEOUT), RunningNow::One("q0".into()));
    let verdict = hops.verdict();
    assert!(matches!(verdict, Verdict::RanTwice { .. }), "{verdict}");
}

#[test]
fn a_reset_is_judged_restarted() {
    let mut hops = Hops::start(GuestOptions::ORDINARY, Locking::On);
    let after = hops.wait_for(5);
    hops.instances[0]
        .monitor()
        .execute("system_reset", json!({}))
        .unwrap();
    let restarted = phase_journal_lab::until("restart", GUEST_TIMEOUT, || {
        Ok(Some(hops.verdict()).filter(|verdict| !verdict.is_clean()))
    });
    let verdict = restarted.unwrap();
    let Verdict::Restarted { after: last, .. } = verdict else {
        panic!("{verdict}")
    };
    assert!(last >= after);
}

/// One page of the guest is changed behind its back, through QEMU's debugger port.
#[test]
fn a_changed_page_is_judged_memory_lost() {
    let mut hops = Hops::start(GuestOptions::ORDINARY, Locking::On);
    let before = hops.wait_for(5);
    let socket = hops.scratch.path().join("gdb");
    let server = format!("gdbserver unix:{},server=on,wait=off", socket.display());
    let monitor = hops.instances[0].monitor();
    monitor
        .execute("human-monitor-command", json!({"command-line": server}))
        .unwrap();
    // The guest stops when the debugger connects.
    let mut debugger = UnixStream::connect(&socket).unwrap();
    debugger.set_read_timeout(Some(GUEST_TIMEOUT)).unwrap();
    let write = format!("M{:x},4:00000000", FIRST_PAGE_ADDRESS + 0x3000);
    let sum = write.bytes().fold(0u8, u8::wrapping_add);
    debugger
        .write_all(format!("${write}#{sum:02x}").as_bytes())
        .unwrap();
    // It also says that the guest stopped.
    let mut said = Vec::new();
    while !said.ends_with(b"$OK#9a") {
        let mut byte = [0];
        debugger.read_exact(&mut byte).unwrap();
        said.extend(byte);
    }
    monitor.execute("cont", json!({})).unwrap();
    let verdict = phase_journal_lab::until("loss of memory", GUEST_TIMEOUT, || {
        Ok(Some(hops.verdict()).filter(|verdict| !verdict.is_clean()))
    });
    let Verdict::MemoryLost { after, .. } = verdict.unwrap() else {
        panic!()
    };
    assert!(after >= before);
}

/// The switch falls within a printed line, byte by byte: the judge joins the halves. That some
/// log really ended so is asserted: a line takes nine ticks, so a hop misses with a chance of one
/// in nine.
#[test]
fn a_line_split_by_the_switch_is_one_line() {
    const HOPS_MAX: usize = 12;
    let mut hops = Hops::start(GuestOptions::PACED, Locking::On);
    hops.wait_for(1);
    let split = |qemu: &Qemu| qemu.guest_log().unwrap().bytes.last() != Some(&b'\n');
    let mut splits = 0;
    while splits < 2 {
        assert!(
            hops.instances.len() <= HOPS_MAX,
            "no switch fell within a line"
        );
        hops.hop();
        splits += usize::from(split(&hops.instances[hops.instances.len() - 2]));
        hops.wait_for(1);
    }
    let verdict = hops.verdict();
    assert!(verdict.is_clean(), "{verdict}");
}

/// What a guest printed is in the file when QEMU is killed: it is written by write(2) at each byte.
#[test]
fn a_killed_qemu_loses_nothing_of_its_log() {
    let mut hops = Hops::start(GuestOptions::ORDINARY, Locking::On);
    hops.wait_for(10);
    let qemu = &mut hops.instances[0];
    qemu.monitor().execute("stop", json!({})).unwrap();
    let number = qemu.number_in_memory().unwrap();
    let before = qemu.guest_log().unwrap();
    assert_eq!(qemu.kill().unwrap().signal(), Some(9));
    let log = qemu.guest_log().unwrap();
    assert_eq!(log, before);
    // The stop may fall between the write to memory and the last byte of the line.
    let last = last_number(&log.bytes);
    assert!(
        last == number || last + 1 == number,
        "{number} in memory, {last} in the log"
    );
}

#[test]
fn the_disk_lock_keeps_a_third_qemu_out() {
    let mut hops = Hops::start(GuestOptions::ORDINARY, Locking::On);
    hops.wait_for(1);
    let refused = hops.add(Begin::Running).unwrap_err();
    assert!(
        refused.to_string().contains("Failed to get \"write\" lock"),
        "{refused}"
    );
}

/// And many passes lose no page: QEMU before 9.0 would, of a guest that did not flush its TLB.
#[test]
fn little_bandwidth_keeps_a_restless_guest_active() {
    let mut hops = Hops::start(GuestOptions::RESTLESS, Locking::On);
    hops.wait_for(3);
    hops.add(Begin::Incoming).unwrap();
    let (source, destination, uri) = hops.ends();
    by_hand::prepare(source.monitor(), destination.monitor(), &uri).unwrap();
    let limits = json!({"max-bandwidth": RESTLESS_BANDWIDTH, "downtime-limit": 1});
    source
        .monitor()
        .execute("migrate-set-parameters", limits)
        .unwrap();
    source
        .monitor()
        .execute("migrate", json!({"uri": uri}))
        .unwrap();
    source
        .monitor()
        .wait_event("MIGRATION_PASS", GUEST_TIMEOUT, |data| {
            data["pass"].as_u64() >= Some(5)
        })
        .unwrap();
    assert_eq!(source.migration_status().unwrap(), "active");
    assert_eq!(source.run_state().unwrap(), "running");
    let limits = json!({"max-bandwidth": 0, "downtime-limit": 300});
    source
        .monitor()
        .execute("migrate-set-parameters", limits)
        .unwrap();
    by_hand::wait_status(source.monitor(), "pre-switchover").unwrap();
    by_hand::switch_over(source.monitor(), destination.monitor()).unwrap();
    by_hand::finish(source.monitor(), destination.monitor()).unwrap();
    assert_eq!(hops.running(GUEST_TIMEOUT), RunningNow::One("q1".into()));
    check_ran(&hops.verdict(), &["q0", "q1"]);
}

#[test]
fn a_drop_leaves_no_qemu() {
    let hops = Hops::start(GuestOptions::ORDINARY, Locking::On);
    let process = process_directory(hops.instances[0].pid());
    assert!(process.exists());
    drop(hops);
    assert!(!process.exists());
}

/// This test program runs itself, as a program that is killed in the middle of a scenario.
#[test]
fn a_killed_program_leaves_no_qemu() {
    const KILLED: &str = "PHASE_JOURNAL_LAB_TEST_KILLED";
    if env::var_os(KILLED).is_some() {
        let hops = Hops::start(GuestOptions::ORDINARY, Locking::On);
        println!("\nqemu {}", hops.instances[0].pid());
        // Until the other one kills us; it never writes.
        let _ = io::stdin().read(&mut [0]);
        return;
    }
    let scratch = Scratch::create().unwrap();
    let mut program = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "a_killed_program_leaves_no_qemu"])
        .env(KILLED, "1")
        // It cannot clean up after itself.
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(program.stdout.take().unwrap());
    let pid = said
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("qemu ")?.parse().ok());
    let process = process_directory(pid.unwrap());
    assert!(process.exists());
    program.kill().unwrap();
    program.wait().unwrap();
    phase_journal_lab::until("end of QEMU", GUEST_TIMEOUT, || {
        // It may stay as a zombie where nobody reaps orphans.
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let alive = status
            .lines()
            .any(|line| line.starts_with("State:") && !line.contains('Z'));
        Ok((!alive).then_some(()))
    })
    .unwrap();
}

fn process_directory(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}
