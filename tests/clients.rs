//! Clients that others wrote, on the monitors that the sidecar serves: QEMU's own Python library, the one before it that QEMU's
//! test machines use, its shell, and socat.
//!
//! They lie under target/clients, where tools/install puts them. Without them these tests fail: that any client can be
//! used is shown with clients that know nothing of the sidecar.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use journal_format::record::{EffectCommand, RecordBody};
use phase_journal_lab::pair::{DOMAIN, Pair, Side};
use phase_journal_lab::sidecar::RunOptions;

use crate::scenario::{NUMBERS, TIMEOUT, assert_sound, pair, records_in};

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What tools/install put there.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = root().join("target/clients/python/bin").join(name);
    let there = path.exists();
    assert!(
        there,
        "there is no {}: tools/test installs it",
        path.display()
    );
    path
}

fn plain() -> Pair {
    pair(RunOptions::default(), RunOptions::default())
}

fn socket(pair: &mut Pair, side: Side) -> PathBuf {
    pair.sidecar(side).monitor_socket(DOMAIN)
}

/// Runs a program with this input; it must succeed.
fn run(command: &mut Command, input: &str) -> String {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// Runs a part of the script; what it says worked.
fn python(pair: &mut Pair, part: &str) -> Vec<String> {
    let sockets = Side::BOTH.map(|side| socket(pair, side));
    let mut command = Command::new(tool("python"));
    command
        .arg("-B")
        .arg(root().join("tests/clients/qemu_qmp.py"))
        .arg(part)
        .args(sockets)
        .arg(pair.directory());
    run(&mut command, "").lines().map(str::to_owned).collect()
}

/// What clients sent to QEMU, in order.
fn passed(pair: &mut Pair, side: Side) -> Vec<String> {
    passed_in(pair.sidecar(side).journal())
}

/// The same, of a journal.
pub(crate) fn passed_in(journal: &Path) -> Vec<String> {
    let records = records_in(journal);
    let of_client = |body: RecordBody| match body {
        RecordBody::EffectIntended(intended) => match intended.command {
            EffectCommand::Monitor { execute, .. } => Some(execute),
            _ => None,
        },
        _ => None,
    };
    records.into_iter().filter_map(of_client).collect()
}

#[test]
fn qemus_python_library() {
    let mut pair = plain();
    let parts = python(&mut pair, "plain");
    assert_eq!(
        parts,
        [
            "query everything",
            "events",
            "hotplug",
            "snapshot",
            "at once"
        ]
    );
    let effects = [
        "stop",
        "cont",
        "object-add",
        "object-del",
        "chardev-add",
        "chardev-remove",
        "device_add",
        "blockdev-snapshot-sync",
    ];
    assert_eq!(
        passed(&mut pair, Side::A),
        effects,
        "and nothing that only reads"
    );
    assert_sound(&mut pair, Side::A, "the library");
}

#[test]
fn the_library_of_qemus_test_machines() {
    let mut pair = plain();
    assert_eq!(python(&mut pair, "legacy"), ["legacy"]);
    assert_eq!(
        passed(&mut pair, Side::A),
        ["getfd", "closefd", "stop", "cont"]
    );
}

/// A migration by plain commands, given to the monitors as to QEMU's own.
#[test]
fn a_migration_by_plain_commands() {
    let mut pair = plain();
    assert_eq!(python(&mut pair, "migrate"), ["migrate"]);
    let conclusion = pair.conclude(NUMBERS, TIMEOUT).unwrap();
    assert!(conclusion.is_clean_and_running(), "{conclusion}");
    pair.qemu(Side::A).wait_dead(TIMEOUT).unwrap();
    assert_eq!(
        passed(&mut pair, Side::A),
        ["migrate-set-capabilities", "migrate", "quit"]
    );
    assert_eq!(
        passed(&mut pair, Side::B),
        ["migrate-set-capabilities", "migrate-incoming", "cont"]
    );
}

#[test]
fn qemus_shell() {
    let mut pair = plain();
    let socket = socket(&mut pair, Side::A);
    let said = run(
        Command::new(tool("qmp-shell")).arg(socket),
        "query-status\nstop\nquery-status\nobject-add qom-type=iothread id=io\ncont\n",
    );
    assert!(said.contains("\"status\": \"running\""), "{said}");
    assert!(said.contains("\"status\": \"paused\""), "{said}");
    assert_eq!(passed(&mut pair, Side::A), ["stop", "object-add", "cont"]);
}

#[test]
fn socat_by_hand() {
    let mut pair = plain();
    let address = format!("UNIX-CONNECT:{}", socket(&mut pair, Side::A).display());
    let said = run(
        // It waits for the last answers.
        Command::new("socat").args(["-t", "2", "-", &address]),
        "{'execute': 'qmp_capabilities'}\n{'execute': 'query-status'}\n{'execute': 'system_reset'}\n",
    );
    assert!(said.starts_with("{\"QMP\": "), "{said}");
    assert!(said.contains("\"status\": \"running\""), "{said}");
    assert!(said.contains("\"event\": \"RESET\""), "{said}");
    assert_eq!(passed(&mut pair, Side::A), ["system_reset"]);
}
