//! Wrong requests, wrong peers, wrong directories: one clear error each, naming what is wrong, and
//! nothing is lost.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use phase_journal_lab::pair::{DOMAIN, Limits, Pair, Side};
use phase_journal_lab::sidecar::RunOptions;
use serde_json::{Value, json};

use crate::scenario::{NUMBERS, TIMEOUT, assert_one_runs, pair, program};

/// The error of a command that must be refused.
fn refused(pair: &mut Pair, side: Side, command: &str, arguments: Value) -> String {
    match pair.sidecar(side).execute(command, arguments.clone()) {
        Ok(answer) => panic!("{command} {arguments} was accepted: {answer}"),
        Err(error) => error.to_string(),
    }
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "'{error}' does not name '{part}'");
    }
    assert!(!error.contains('\n'), "more than one line: {error}");
}

fn assert_unharmed(pair: &mut Pair) {
    let conclusion = pair.conclude(NUMBERS, TIMEOUT).unwrap();
    assert!(conclusion.is_clean_and_running(), "{conclusion}");
}

#[test]
fn wrong_commands_and_arguments() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    for (command, arguments, parts) in [
        ("domain-ad", json!({}), &["domain-ad"] as &[&str]),
        ("domain-add", json!({}), &["name"]),
        ("domain-add", json!({"name": "x"}), &["qmp"]),
        ("domain-add", json!({"name": 7, "qmp": "/x"}), &["name"]),
        (
            "domain-add",
            json!({"name": "x", "qmp": "/x", "extra": 1}),
            &["extra"],
        ),
        (
            "domain-add",
            json!({"name": "x", "qmp": "/x", "uuid": "not-one"}),
            &["uuid"],
        ),
        (
            "domain-add",
            json!({"name": "x", "qmp": "/nowhere/q.sock"}),
            &["/nowhere/q.sock"],
        ),
        ("domain-remove", json!({"name": "nobody"}), &["nobody"]),
        ("query-domains", json!({"name": "nobody"}), &["nobody"]),
        ("domain-suspend", json!({"name": "nobody"}), &["nobody"]),
        ("migrate-domain", json!({"name": DOMAIN}), &["peer"]),
        (
            "migrate-domain",
            json!({"name": DOMAIN, "peer": "/p", "uri": 7}),
            &["uri"],
        ),
        (
            "migrate-domain",
            json!({"name": DOMAIN, "peer": "/p", "uri": "unix:/m", "max-bandwidth": -1}),
            &["max-bandwidth"],
        ),
        (
            "migrate-domain",
            json!({"name": "nobody", "peer": "/p", "uri": "u"}),
            &["nobody"],
        ),
        // No store was given to this sidecar; and a protocol has its own authorities.
        (
            "migrate-domain",
            json!({"name": DOMAIN, "peer": "/p", "uri": "unix:/m", "authority": "store"}),
            &["without a store"],
        ),
        (
            "migrate-domain",
            json!({"name": DOMAIN, "peer": "/p", "uri": "unix:/m", "protocol": "v2", "authority": "manager"}),
            &["v2", "manager"],
        ),
        (
            "migrate-domain",
            json!({"name": DOMAIN, "peer": "/p", "uri": "unix:/m", "authority": "manager", "postcopy": true}),
            &["post-copy", "manager"],
        ),
        (
            "migrate-domain",
            json!({"name": DOMAIN, "peer": "/p", "uri": "unix:/m", "in-doubt-limit": 7}),
            &["in-doubt-limit"],
        ),
        (
            "migrate-verdict",
            json!({"name": DOMAIN, "outcome": "committed"}),
            &["no open job"],
        ),
        (
            "migrate-verdict",
            json!({"job": 999_999, "outcome": "aborted"}),
            &["999999"],
        ),
        ("job-cancel", json!({"job": 999_999}), &["999999"]),
        ("job-cancel", json!({"job": "one"}), &["job"]),
        (
            "resolve",
            json!({"name": DOMAIN, "decision": "explode"}),
            &["decision"],
        ),
        (
            "resolve",
            json!({"name": DOMAIN, "decision": "kill"}),
            &["not held"],
        ),
        ("query-jobs", json!([1]), &["arguments"]),
    ] {
        let error = refused(&mut pair, Side::A, command, arguments);
        assert_says(&error, parts);
    }
    assert_unharmed(&mut pair);
}

#[test]
fn a_name_that_is_too_long() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let peer = format!("/{}", "p".repeat(5000));
    let arguments = json!({"name": DOMAIN, "peer": peer, "uri": "unix:/m"});
    let error = refused(&mut pair, Side::A, "migrate-domain", arguments);
    assert_says(&error, &["peer"]);
    assert_unharmed(&mut pair);
}

#[test]
fn sockets_that_are_no_monitor() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let directory = pair.directory().to_owned();
    let file = directory.join("file");
    fs::write(&file, "x").unwrap();
    let dead = directory.join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    // Accepts and says nothing, as a monitor does that another client has.
    let silent = directory.join("silent");
    let _listener = UnixListener::bind(&silent).unwrap();
    for path in [&file, &dead, &silent, &directory] {
        let path = path.to_str().unwrap();
        let arguments = json!({"name": "x", "qmp": path, "pid": std::process::id()});
        let error = refused(&mut pair, Side::A, "domain-add", arguments);
        assert_says(&error, &[path]);
    }
    // A pid that does not hold the socket is not believed.
    let socket = pair.qemu(Side::B).sidecar_socket();
    let arguments =
        json!({"name": "x", "qmp": socket.to_str().unwrap(), "pid": std::process::id()});
    assert_says(
        &refused(&mut pair, Side::A, "domain-add", arguments),
        &["does not listen"],
    );
    assert_unharmed(&mut pair);
}

#[test]
fn a_domain_registered_twice() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let socket = pair.qemu(Side::A).sidecar_socket();
    for name in [DOMAIN, "another-name"] {
        let arguments = json!({"name": name, "qmp": socket.to_str().unwrap()});
        let error = refused(&mut pair, Side::A, "domain-add", arguments);
        assert_says(&error, &["already", DOMAIN]);
    }
    assert_unharmed(&mut pair);
}

#[test]
fn a_migration_that_cannot_be() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let own = pair.sidecar(Side::A).peer_socket();
    let arguments = json!({"name": DOMAIN, "peer": own.to_str().unwrap(), "uri": "unix:/m"});
    let error = refused(&mut pair, Side::A, "migrate-domain", arguments);
    assert_says(&error, &["already has it", DOMAIN]);
    // A destination cannot be a source.
    let peer = pair.sidecar(Side::A).peer_socket();
    let arguments = json!({"name": DOMAIN, "peer": peer.to_str().unwrap(), "uri": "unix:/m"});
    let error = refused(&mut pair, Side::B, "migrate-domain", arguments);
    assert_says(&error, &["inmigrate"]);
    // A peer that is not there, and a domain that the peer does not have: the job fails, the guest
    // stays.
    for (peer, name, part) in [
        (
            "/nowhere/peer.sock".to_owned(),
            DOMAIN,
            "/nowhere/peer.sock",
        ),
        (
            pair.sidecar(Side::B)
                .peer_socket()
                .to_str()
                .unwrap()
                .to_owned(),
            "nobody",
            "nobody",
        ),
    ] {
        let arguments =
            json!({"name": DOMAIN, "peer": peer, "uri": "unix:/m", "destination-name": name});
        pair.sidecar(Side::A)
            .execute("migrate-domain", arguments)
            .unwrap();
        crate::scenario::settle_all(&mut pair, part);
        let jobs = pair
            .sidecar(Side::A)
            .execute("query-jobs", json!({"name": DOMAIN}))
            .unwrap();
        assert_eq!(jobs[0]["result"], "failed", "{jobs}");
        assert!(jobs[0]["detail"].as_str().unwrap().contains(part), "{jobs}");
    }
    assert_unharmed(&mut pair);
    // All of that left nothing behind: a right one works.
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "after refusals"), Side::B);
}

/// QEMU would run the command.
#[test]
fn a_migration_over_what_is_no_wire() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let peer = pair.sidecar(Side::B).peer_socket().display().to_string();
    let trace = pair.directory().join("trace");
    for uri in [
        format!("exec:touch {}", trace.display()),
        "fd:3".to_owned(),
        "/no/scheme".to_owned(),
        "unix:/a\u{1b}[31m".to_owned(),
    ] {
        let arguments = json!({"name": DOMAIN, "peer": peer, "uri": uri});
        let error = refused(&mut pair, Side::A, "migrate-domain", arguments);
        assert_says(&error, &["uri"]);
    }
    assert!(!trace.exists());
    assert_unharmed(&mut pair);
}

#[test]
fn a_second_migration_of_a_busy_domain() {
    let mut pair = crate::scenario::performing();
    let peer = pair.sidecar(Side::B).peer_socket();
    let arguments = json!({"name": DOMAIN, "peer": peer.to_str().unwrap(), "uri": "unix:/m2"});
    let error = refused(&mut pair, Side::A, "migrate-domain", arguments);
    assert_says(&error, &["busy", DOMAIN]);
    let error = refused(&mut pair, Side::A, "domain-remove", json!({"name": DOMAIN}));
    assert_says(&error, &["busy", DOMAIN]);
    // The destination is busy too, and refuses another source.
    let error = refused(&mut pair, Side::B, "domain-remove", json!({"name": DOMAIN}));
    assert_says(&error, &["busy", DOMAIN]);
}

#[test]
fn qemu_gone() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    pair.qemu(Side::A).kill().unwrap();
    let gone = |pair: &mut Pair| {
        let domains = pair.sidecar(Side::A).domains()?;
        Ok((domains[0].process == "dead").then_some(()))
    };
    phase_journal_lab::until("dead domain", TIMEOUT, || gone(&mut pair)).unwrap();
    let peer = pair.sidecar(Side::B).peer_socket();
    let arguments = json!({"name": DOMAIN, "peer": peer.to_str().unwrap(), "uri": "unix:/m"});
    let error = refused(&mut pair, Side::A, "migrate-domain", arguments);
    assert_says(&error, &["dead", DOMAIN]);
    pair.sidecar(Side::A)
        .execute("domain-remove", json!({"name": DOMAIN}))
        .unwrap();
}

#[test]
fn wrong_json_on_both_sockets() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let sockets = [
        pair.sidecar(Side::A).control_socket(),
        pair.sidecar(Side::A).peer_socket(),
    ];
    for socket in sockets {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut said = |bytes: &[u8]| {
            stream.write_all(bytes).unwrap();
            let mut line = Vec::new();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
                line.push(byte[0]);
            }
            String::from_utf8(line).unwrap()
        };
        assert!(said(b"").contains("QMP"));
        assert!(said(b"rubbish\n").contains("JSON parse error"));
        assert!(said(br#"{"execute":"query-domains"}"#).contains("qmp_capabilities"));
        assert!(said(br#"{"execute":"qmp_capabilities"}"#).contains("return"));
        assert!(said(br#"{"execute":"nonsense"}"#).contains("nonsense"));
        let half = br#"{"execute":"peer-message","arguments":{"envelope":{}}}"#;
        assert!(said(half).contains("error"));
    }
    assert_unharmed(&mut pair);
}

/// Starts a sidecar that should end by itself; one that does not is ended.
fn start(journal: &Path, run: &Path) -> Output {
    Command::new("timeout")
        .args(["--signal=KILL", "20"])
        .arg(program())
        .args([
            "--journal",
            journal.to_str().unwrap(),
            "--run",
            run.to_str().unwrap(),
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Starts that must end with exit code 2 and one line that names what is wrong.
fn assert_no_start(journal: &Path, run: &Path, parts: &[&str]) {
    let output = start(journal, run);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    let last = error.lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "'{last}' does not name '{part}'");
    }
}

#[test]
fn directories_that_are_no_journal() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let file = scratch.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_no_start(&file, &run, &["file"]);

    let garbage = scratch.path().join("garbage");
    fs::create_dir(&garbage).unwrap();
    fs::write(garbage.join("0000000000000001.seg"), vec![0x5a; 100_000]).unwrap();
    assert_no_start(&garbage, &run, &["0000000000000001.seg"]);
    let kept = fs::read(garbage.join("0000000000000001.seg")).unwrap();
    assert_eq!(kept, vec![0x5a; 100_000], "what was there was changed");

    // A witness must not be put back together with the journal.
    let one = scratch.path().join("one");
    assert_no_start(&one, &one, &["one", "must not be the same"]);
}

/// What is there and is no socket is somebody's; it is named, and stays.
#[test]
fn a_file_in_a_socket_s_place() {
    let scratch = tempfile::tempdir().unwrap();
    let (journal, run) = (scratch.path().join("journal"), scratch.path().join("run"));
    fs::create_dir(&run).unwrap();
    for name in ["control.sock", "peer.sock"] {
        let notes = run.join(name);
        fs::write(&notes, "notes").unwrap();
        assert_no_start(&journal, &run, &[name, "no socket"]);
        assert_eq!(fs::read_to_string(&notes).unwrap(), "notes");
        fs::remove_file(&notes).unwrap();
    }
}

/// A full disk under the log, or nobody who reads it, does not end recovery.
#[test]
fn a_log_that_cannot_be_written() {
    let scratch = tempfile::tempdir().unwrap();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = Command::new(program())
        .arg("--journal")
        .arg(scratch.path().join("journal"))
        .arg("--run")
        .arg(scratch.path().join("run"))
        .stdout(Stdio::piped())
        .stderr(full)
        .spawn()
        .unwrap();
    let mut word = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"ready\n");
    let terminated = Command::new("kill").arg(child.id().to_string()).status();
    assert!(terminated.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_journal_of_a_running_sidecar() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let journal = pair.sidecar(Side::A).journal().to_owned();
    let run = pair.directory().join("other-run");
    let parts = [journal.to_str().unwrap(), "in use by process"];
    assert_no_start(&journal, &run, &parts);
    // Somebody takes the lock's file for a leftover.
    fs::remove_file(journal.join("lock")).unwrap();
    let parts = [journal.to_str().unwrap(), "in use by another process"];
    assert_no_start(&journal, &run, &parts);
    assert_unharmed(&mut pair);
}

/// Root writes everywhere; a file system that is read-only stops even root. Without the right to
/// mount one, the permissions of an ordinary user stand in for it.
#[test]
fn a_read_only_journal() {
    let scratch = tempfile::tempdir().unwrap();
    let journal = scratch.path().join("journal");
    let run = scratch.path().join("run");
    fs::create_dir(&journal).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "ro,size=1m", "none"])
        .arg(&journal)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        fs::set_permissions(&journal, fs::Permissions::from_mode(0o500)).unwrap();
    }
    let output = start(&journal, &run);
    if mounted {
        assert!(
            Command::new("umount")
                .arg(&journal)
                .status()
                .unwrap()
                .success()
        );
    }
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(journal.to_str().unwrap()), "{error}");
}

/// A torn tail is what a crash leaves: it opens, and loses nothing that was acknowledged.
#[test]
fn a_torn_tail_is_no_obstacle() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    pair.sidecar(Side::A).kill().unwrap();
    let journal = pair.sidecar(Side::A).journal().to_owned();
    tear(&journal);
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(pair.sidecar(Side::A).domains().unwrap().len(), 1);
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "after a torn tail"), Side::B);
}

/// Puts the first half of a batch behind the last one, as a power cut in the middle of a write does.
fn tear(journal: &Path) {
    let mut segments: Vec<_> = fs::read_dir(journal)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    let newest = segments.last().unwrap();
    let mut bytes = fs::read(newest).unwrap();
    let scan = journal_format::scan::scan(&bytes).unwrap();
    let end = usize::try_from(scan.end).unwrap();
    bytes[end..end + 300].fill(0xa5);
    fs::write(newest, bytes).unwrap();
}

/// The index is never needed: without it, and with garbage in its place, the same is answered.
#[test]
fn an_index_that_is_gone_or_garbage() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "migrated"), Side::B);
    let decisions = |pair: &mut Pair| {
        let sidecar = pair.sidecar(Side::B);
        sidecar
            .execute("query-decisions", json!({"name": DOMAIN}))
            .unwrap()
    };
    let before = decisions(&mut pair);
    assert!(!before.as_array().unwrap().is_empty());
    let index = pair.sidecar(Side::B).journal().join("index");
    assert!(index.is_dir(), "no index was made");
    fs::remove_dir_all(&index).unwrap();
    assert_eq!(decisions(&mut pair), before, "deleted under it");
    pair.sidecar(Side::B).kill().unwrap();
    fs::create_dir_all(&index).unwrap();
    for name in ["conf", "db", "snap.0000000000000001"] {
        fs::write(index.join(name), [0x5a; 5_000]).unwrap();
    }
    pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    assert_eq!(decisions(&mut pair), before, "garbage");
    pair.sidecar(Side::B).kill().unwrap();
    fs::remove_dir_all(&index).unwrap();
    fs::write(&index, "no directory").unwrap();
    pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    assert_eq!(decisions(&mut pair), before, "no directory");
    assert_unharmed(&mut pair);
}

#[test]
fn wrong_flags() {
    for arguments in [
        &["--nonsense"] as &[&str],
        &[],
        &["--journal", "x"],
        &[
            "--journal",
            "x",
            "--run",
            "y",
            "--crash-after-batch",
            "never",
        ],
        &["--journal", "x", "--run", "y", "--log-format", "morse"],
    ] {
        let output = Command::new(program()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}
