//! The pair against real QEMU, with a stand-in for `phase-journald` that keeps no journal.
//!
//! Invariant: the harness itself is tested here, so that what a crash test says of the product is not
//! the harness' fault: a right sidecar is found right, a wrong one is found wrong.
//!
//! The stand-in is this test program again: a script in the sidecar's place starts it with
//! `stand_in` as its only test, and the environment tells that one to serve.

// Clippy knows only the test functions themselves as tests, not their helpers.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use phase_journal_lab::guest::{GuestImage, GuestOptions};
use phase_journal_lab::judge::Verdict;
use phase_journal_lab::pair::{DOMAIN, Limits, Pair, PairOptions, Side, Submitted, Waited};
use phase_journal_lab::qemu::{GUEST_TIMEOUT, Locking, PROCESS_TIMEOUT, RunningNow};
use phase_journal_lab::qmp::Qmp;
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use phase_journal_lab::{Error, Scratch, by_hand};
use serde_json::{Value, json};

/// Set by the script: the sidecar's command line.
const ARGUMENTS: &str = "PHASE_JOURNAL_LAB_TEST_ARGUMENTS";

/// Set by a test: the stand-in lets both copies run.
const WRONG: &str = "PHASE_JOURNAL_LAB_TEST_WRONG";

const TIMEOUT: Duration = Duration::from_secs(60);

/// Numbers to see before the guest is judged.
const NUMBERS: u32 = 5;

/// Serves one domain on `control.sock`, and migrates it by hand before it answers. The other side's
/// monitor it learns from the other stand-in.
#[test]
fn stand_in() {
    let Some(arguments) = env::var_os(ARGUMENTS) else {
        return;
    };
    let arguments = arguments.into_string().unwrap();
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let after = |flag| arguments.iter().skip_while(|word| **word != flag).nth(1);
    let run = PathBuf::from(after("--run").unwrap());
    let crash = after("--crash-after-batch").is_some();
    fs::create_dir_all(&run).unwrap();
    let socket = run.join("control.sock");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).unwrap();
    fs::write("/proc/self/fd/3", "ready\n").unwrap();
    let domain = Arc::new(Mutex::new(None));
    for client in listener.incoming() {
        let domain = Arc::clone(&domain);
        thread::spawn(move || serve(client.unwrap(), &domain, crash));
    }
}

fn serve(mut client: UnixStream, domain: &Mutex<Option<Value>>, crash: bool) {
    client.write_all(b"{\"QMP\":{}}\n").unwrap();
    for line in BufReader::new(client.try_clone().unwrap()).lines() {
        let asked: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let arguments = &asked["arguments"];
        let answer = match asked["execute"].as_str().unwrap() {
            "qmp_capabilities" => json!({}),
            "domain-add" => {
                let added = json!({
                    "name": arguments["name"], "qmp": arguments["qmp"], "process": "alive",
                    "wanted": "running", "job": null, "held": null,
                });
                domain.lock().unwrap().insert(added).clone()
            }
            "query-domains" => json!(Vec::from_iter(domain.lock().unwrap().clone())),
            "query-jobs" => json!([]),
            "query-journal" => json!({"kept-migrations": 0}),
            "migrate-domain" if crash => kill_myself(),
            "migrate-domain" => {
                let source = domain.lock().unwrap().clone().unwrap();
                migrate(&source, arguments).unwrap();
                json!({"job": 1, "migration": "m"})
            }
            other => panic!("unexpected command {other}"),
        };
        writeln!(client, "{}", json!({"return": answer, "id": asked["id"]})).unwrap();
    }
}

fn migrate(source: &Value, arguments: &Value) -> Result<(), Error> {
    let peer = Path::new(arguments["peer"].as_str().unwrap()).with_file_name("control.sock");
    let destination = Qmp::connect(&peer, TIMEOUT)?.execute("query-domains", json!({}))?;
    let monitor =
        |domain: &Value| Qmp::connect(Path::new(domain["qmp"].as_str().unwrap()), TIMEOUT);
    let (mut source, mut destination) = (monitor(source)?, monitor(&destination[0])?);
    let uri = arguments["uri"].as_str().unwrap();
    if env::var_os(WRONG).is_none() {
        return by_hand::migrate(&mut source, &mut destination, uri);
    }
    by_hand::prepare(&mut source, &mut destination, uri)?;
    by_hand::perform(&mut source, uri)?;
    by_hand::switch_over(&mut source, &mut destination)?;
    destination.execute("cont", json!({}))?;
    source.execute("cont", json!({})).map(drop)
}

fn kill_myself() -> ! {
    Command::new("kill")
        .args(["-9", &process::id().to_string()])
        .status()
        .unwrap();
    unreachable!("no process outlives its SIGKILL")
}

/// A pair with the stand-in on both sides.
fn pair(locking: Locking, a: RunOptions) -> (Pair, Scratch) {
    let scratch = Scratch::create().unwrap();
    let program = scratch.path().join("program");
    let this = env::current_exe().unwrap();
    // The test runner's own output is not for the harness, which gets its pipe as descriptor 3.
    let script = format!(
        "#!/bin/sh\nexec 3>&1 >/dev/null\n{ARGUMENTS}=\"$*\" exec {} --exact stand_in\n",
        this.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let image = GuestImage::assemble(GuestOptions::ORDINARY).unwrap();
    let b = RunOptions::default();
    let options = PairOptions {
        program: &program,
        image: &image,
        locking,
        a,
        b,
    };
    (Pair::start(&options).unwrap(), scratch)
}

#[test]
fn there_and_back_is_clean() {
    let begun = Instant::now();
    let (mut pair, _program) = pair(Locking::On, RunOptions::default());
    let submitted = pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(
        submitted,
        Submitted::Accepted {
            job: 1,
            migration: "m".into()
        }
    );
    let settled = pair.wait_until_settled(TIMEOUT).unwrap();
    assert_eq!((settled.open_jobs(), settled.held().len()), (0, 0));
    let conclusion = pair.conclude(NUMBERS, GUEST_TIMEOUT).unwrap();
    assert!(conclusion.is_clean_and_running(), "{conclusion}");
    assert_eq!(conclusion.running, RunningNow::One("q1-b".into()));
    println!("there: {:?}", begun.elapsed());

    pair.qemu(Side::A).wait_dead(PROCESS_TIMEOUT).unwrap();
    pair.add_destination(Side::A).unwrap();
    pair.migrate(Side::B, Limits::default()).unwrap();
    pair.wait_until_settled(TIMEOUT).unwrap();
    let conclusion = pair.conclude(NUMBERS, GUEST_TIMEOUT).unwrap();
    let Verdict::Clean { ran, .. } = &conclusion.verdict else {
        panic!("{conclusion}")
    };
    let names: Vec<&str> = ran.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["q0-a", "q1-b", "q2-a"], "{conclusion}");
    assert_eq!(conclusion.running, RunningNow::One("q2-a".into()));
}

#[test]
fn a_wrong_sidecar_is_found_wrong() {
    let wrong = vec![(WRONG.to_owned(), "1".to_owned())];
    let options = RunOptions {
        environment: wrong,
        ..RunOptions::default()
    };
    let (mut pair, _program) = pair(Locking::Off, options);
    pair.migrate(Side::A, Limits::default()).unwrap();
    pair.wait_until_settled(TIMEOUT).unwrap();
    let conclusion = pair.conclude(NUMBERS, GUEST_TIMEOUT).unwrap();
    assert!(
        matches!(conclusion.verdict, Verdict::RanTwice { .. }),
        "{conclusion}"
    );
    assert!(!conclusion.is_clean_and_running() && !conclusion.is_clean_and_stopped());
}

#[test]
fn a_crash_is_waited_for_and_a_restart_goes_on() {
    let crash = RunOptions::crashing(CrashPoint::AfterBatch(1));
    let (mut pair, _program) = pair(Locking::On, crash);
    let waited = pair.wait_for_crash(Side::A, TIMEOUT).unwrap();
    assert!(
        matches!(waited, Waited::Ended(_)),
        "nothing crashes before the migration"
    );
    assert_eq!(
        pair.migrate(Side::A, Limits::default()).unwrap(),
        Submitted::NoAnswer
    );
    assert_eq!(
        pair.wait_for_crash(Side::A, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    pair.sidecar(Side::B).kill().unwrap();
    pair.restart_both(Side::B, &RunOptions::default(), &RunOptions::default())
        .unwrap();
    let settled = pair.wait_until_settled(TIMEOUT).unwrap();
    assert!(
        settled.a.domains.is_empty(),
        "the stand-in keeps nothing: {settled:?}"
    );
    let conclusion = pair.conclude(NUMBERS, GUEST_TIMEOUT).unwrap();
    assert_eq!(conclusion.running, RunningNow::One("q0-a".into()));
    assert!(conclusion.is_clean_and_running(), "{conclusion}");
}

/// The owner stops the guest through the harness' monitor: clean, and none runs.
#[test]
fn a_stopped_guest_is_clean_and_stopped() {
    let (mut pair, _program) = pair(Locking::On, RunOptions::default());
    pair.qemu(Side::A)
        .monitor()
        .execute("stop", json!({}))
        .unwrap();
    let conclusion = pair.conclude(NUMBERS, Duration::from_millis(300)).unwrap();
    assert!(conclusion.is_clean_and_stopped(), "{conclusion}");
    assert!(!conclusion.is_clean_and_running());
}

/// A sidecar that does not run is an error with the reason, not a wait without end.
#[test]
fn a_dead_sidecar_is_an_error_with_its_name() {
    let (mut pair, _program) = pair(Locking::On, RunOptions::default());
    pair.sidecar(Side::B).kill().unwrap();
    let error = pair.wait_until_settled(TIMEOUT).unwrap_err().to_string();
    assert!(error.contains("b/run/control.sock"), "{error}");
    let report = pair.report();
    assert!(
        report.contains("QEMU q1-b") && report.contains("sidecar b"),
        "{report}"
    );
    assert_eq!(pair.view(Side::A).unwrap().domains[0].name, DOMAIN);
}
