//! The command and a running sidecar, with real QEMU behind it.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use phase_journal_lab::guest::{GuestImage, GuestOptions, RESTLESS_BANDWIDTH};
use phase_journal_lab::pair::{DOMAIN, Limits, Pair, PairOptions, Side};
use phase_journal_lab::qemu::Locking;
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The sidecar's program, which the workspace's build puts beside the command.
fn daemon() -> PathBuf {
    let daemon = Path::new(env!("CARGO_BIN_EXE_phase-journal")).with_file_name("phase-journald");
    assert!(
        daemon.is_file(),
        "{}: build the whole workspace",
        daemon.display()
    );
    daemon
}

fn pair(guest: GuestOptions, a: RunOptions, b: RunOptions) -> Pair {
    let image = GuestImage::assemble(guest).unwrap();
    let options = PairOptions {
        program: &daemon(),
        image: &image,
        locking: Locking::Off,
        a,
        b,
    };
    Pair::start(&options).unwrap()
}

fn quiet(guest: GuestOptions) -> Pair {
    pair(guest, RunOptions::default(), RunOptions::default())
}

fn run(pair: &mut Pair, side: Side, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phase-journal"))
        .arg("--socket")
        .arg(pair.sidecar(side).control_socket())
        .args(arguments)
        .output()
        .unwrap()
}

/// What it printed, if it ended with this code; a code of 3 comes with one line of error.
fn said(pair: &mut Pair, side: Side, arguments: &[&str], code: i32) -> String {
    let output = run(pair, side, arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, error) = (text(output.stdout), text(output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {out}{error}"
    );
    if code == 3 {
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
        return error;
    }
    assert_eq!(error, "", "{arguments:?}");
    out
}

fn migrate(pair: &mut Pair, source: Side, more: &[&str]) -> Output {
    let peer = pair.sidecar(source.other()).peer_socket();
    let uri = format!("unix:{}/m", pair.directory().display());
    let peer = peer.display().to_string();
    let arguments = ["migrate", DOMAIN, "--peer", &peer, "--uri", &uri];
    run(pair, source, &[&arguments, more].concat())
}

#[test]
fn a_migration_is_begun_and_watched_to_its_end() {
    let mut pair = quiet(GuestOptions::ORDINARY);
    let text = said(&mut pair, Side::A, &["status"], 0);
    assert!(text.contains("guest") && text.contains("running"), "{text}");

    let output = migrate(&mut pair, Side::A, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("completed"), "{text}");

    let text = said(&mut pair, Side::A, &["jobs"], 0);
    assert_eq!(text, "", "no open job");
    let text = said(&mut pair, Side::A, &["jobs", "--domain", DOMAIN], 0);
    assert!(
        text.contains("migration-out") && text.contains("ended"),
        "{text}"
    );
    let text = said(&mut pair, Side::B, &["decisions", "--domain", DOMAIN], 0);
    assert!(text.contains("RESUME"), "{text}");
    for verb in ["status", "domains", "jobs", "decisions", "journal"] {
        let text = said(&mut pair, Side::B, &[verb, "--json"], 0);
        let _: Value = serde_json::from_str(&text).unwrap();
    }
    // The source's QEMU is gone, and its domain can be taken out.
    said(&mut pair, Side::A, &["domain-remove", DOMAIN], 0);
    let text = said(&mut pair, Side::A, &["domains"], 0);
    assert_eq!(text, "");
    assert!(pair.conclude(5, TIMEOUT).unwrap().is_clean_and_running());
}

#[test]
fn a_migration_that_is_cancelled_did_not_succeed() {
    let mut pair = quiet(GuestOptions::RESTLESS);
    let bandwidth = RESTLESS_BANDWIDTH.to_string();
    let slow = ["--max-bandwidth", &bandwidth, "--downtime-limit", "1"];
    let output = migrate(
        &mut pair,
        Side::A,
        &[&slow[..], &["--no-wait", "--json"]].concat(),
    );
    let begun: Value = serde_json::from_slice(&output.stdout).unwrap();
    let job = begun["job"].as_u64().unwrap().to_string();
    let busy = migrate(&mut pair, Side::A, &[]);
    assert_eq!(busy.status.code(), Some(3));
    said(&mut pair, Side::A, &["cancel", &job], 0);
    pair.wait_until_no_job_is_open(TIMEOUT).unwrap();
    let text = said(&mut pair, Side::A, &["jobs", "--job", &job], 0);
    assert!(text.contains("cancelled"), "{text}");
    assert!(pair.conclude(5, TIMEOUT).unwrap().is_clean_and_running());
}

#[test]
fn an_owner_stops_and_continues_a_guest() {
    let mut pair = quiet(GuestOptions::ORDINARY);
    said(&mut pair, Side::A, &["suspend", DOMAIN], 0);
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "paused");
    said(&mut pair, Side::A, &["resume", DOMAIN], 0);
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "running");
    let error = said(&mut pair, Side::A, &["suspend", "nobody"], 3);
    assert!(error.contains("nobody"), "{error}");
}

/// The destination is lost for good after the licence went out: the source is held, and says so
/// until an operator, who knows that nothing runs there, has a word.
#[test]
fn a_held_domain_is_told_and_settled_by_an_operator() {
    let crash = RunOptions::crashing(CrashPoint::BeforeRecord("migration-committed".to_owned()));
    let mut pair = pair(GuestOptions::ORDINARY, RunOptions::default(), crash);
    let error = said(&mut pair, Side::A, &["resolve", DOMAIN, "resume"], 3);
    assert!(error.contains("not held"), "{error}");
    pair.migrate(Side::A, Limits::default()).unwrap();
    pair.wait_for_crash(Side::B, TIMEOUT).unwrap();
    pair.qemu(Side::B).kill().unwrap();
    let held = phase_journal_lab::until("hold", TIMEOUT, || {
        let held = pair.view(Side::A)?.domains[0].held.clone();
        Ok(held)
    });
    assert_eq!(held.unwrap().rule, "source-granted-in-doubt");

    let text = said(&mut pair, Side::A, &["status"], 1);
    assert!(
        text.contains("HELD guest: source-granted-in-doubt"),
        "{text}"
    );
    let error = said(&mut pair, Side::A, &["resolve", DOMAIN, "resume"], 3);
    assert!(error.contains("force"), "{error}");
    let statement = [
        "--force",
        "--statement",
        "host b is fenced, its QEMU is dead",
    ];
    let word = [&["resolve", DOMAIN, "resume"][..], &statement].concat();
    said(&mut pair, Side::A, &word, 0);
    phase_journal_lab::until("end of the job", TIMEOUT, || {
        Ok(pair.view(Side::A)?.jobs.is_empty().then_some(()))
    })
    .unwrap();
    said(&mut pair, Side::A, &["status"], 0);
    assert!(pair.conclude(5, TIMEOUT).unwrap().is_clean_and_running());
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "running");
}

/// What works on a journal's directory leaves the sidecar in peace that has it open, and the sidecar
/// works whatever is done to its index.
#[test]
fn a_journal_in_use_is_followed_and_its_index_may_go() {
    let mut pair = quiet(GuestOptions::ORDINARY);
    let journal = pair.sidecar(Side::A).journal().to_owned();
    let offline = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phase-journal"));
        command.args(arguments).arg(&journal);
        command
    };
    let mut following = offline(&["dump", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    let mut followed = Vec::new();
    while !followed
        .iter()
        .any(|line: &String| line.contains("domain-added"))
    {
        followed.push(lines.next().unwrap());
    }

    let output = migrate(&mut pair, Side::A, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    while !followed
        .iter()
        .any(|line: &String| line.contains("job-ended"))
    {
        followed.push(lines.next().unwrap());
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&following),
        rustix::process::Signal::INT,
    )
    .unwrap();
    followed.extend(lines);
    assert_eq!(following.wait().unwrap().code(), Some(0));
    let dump = String::from_utf8(offline(&["dump"]).output().unwrap().stdout).unwrap();
    let expected: Vec<&str> = dump.lines().take(followed.len()).collect();
    let plain = |line: &String| line.trim_end_matches("  (not settled)").to_owned();
    let followed: Vec<String> = followed.iter().map(plain).collect();
    assert_eq!(followed, expected);

    let before = said(&mut pair, Side::A, &["decisions", "--domain", DOMAIN], 0);
    assert!(before.contains("KILL"), "{before}");
    let index = journal.join("index");
    for _ in 0..2 {
        std::fs::remove_dir_all(&index).unwrap();
        let after = said(&mut pair, Side::A, &["decisions", "--domain", DOMAIN], 0);
        assert_eq!(after, before);
        assert!(index.join("db").is_file(), "the index is back");
    }
    let to = format!("--to={}/copy", pair.directory().display());
    for arguments in [&["reindex"][..], &["repair", &to]] {
        let output = offline(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {error}");
        assert!(error.contains("is in use by process"), "{error}");
    }
    assert!(pair.conclude(5, TIMEOUT).unwrap().is_clean_and_running());
}
