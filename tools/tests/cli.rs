//! The command as people and programs use it: what it prints, and how it ends.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[path = "../../journal-format/tests/support/mod.rs"]
mod format;
#[path = "support/story.rs"]
mod story;

use tempfile::TempDir;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phase-journal"));
    command
        .args(arguments)
        .env_remove("PHASE_JOURNAL_SOCKET")
        .stdin(Stdio::null());
    command
}

/// Runs it on a journal.
fn on(journal: &TempDir, verb: &str, arguments: &[&str]) -> Output {
    command(&[verb])
        .arg(journal.path())
        .args(arguments)
        .output()
        .unwrap()
}

/// What it printed, with the exit code, and without the directory's name.
fn shown(journal: &TempDir, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().unwrap();
    let mut shown = format!("{}exit code {code}\n", text(&output.stdout));
    if !output.stderr.is_empty() {
        shown = format!("{shown}-- standard error\n{}", text(&output.stderr));
    }
    shown.replace(journal.path().to_str().unwrap(), "JOURNAL")
}

fn journal(whole: bool) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    story::write(directory.path(), whole);
    directory
}

/// A journal of golden segments, which have every record type.
fn golden(names: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../journal-format/tests/golden");
    for (number, name) in (1..).zip(names) {
        let file = directory.path().join(format!("{number:016}.seg"));
        fs::copy(golden.join(name), file).unwrap();
    }
    directory
}

fn first_segment(journal: &TempDir) -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(journal.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.remove(0)
}

/// Changes one byte of a record in the middle of the first segment.
fn damage(journal: &TempDir) {
    let file = first_segment(journal);
    let mut bytes = fs::read(&file).unwrap();
    let scan = journal_format::scan::scan(&bytes).unwrap();
    let record = &scan.batches[scan.batches.len() / 2].records[0];
    bytes[usize::try_from(record.offset).unwrap() + 60] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// A journal with a record that cannot be read.
fn damaged() -> TempDir {
    let journal = journal(true);
    damage(&journal);
    journal
}

/// A journal whose last write was cut short.
fn torn() -> TempDir {
    let journal = journal(true);
    let file = journal.path().join("0000000000000002.seg");
    let mut bytes = fs::read(&file).unwrap();
    let end = usize::try_from(journal_format::scan::scan(&bytes).unwrap().end).unwrap();
    bytes[end..end + 700].fill(0x5a);
    fs::write(file, bytes).unwrap();
    journal
}

macro_rules! snapshots {
    ($($name:ident: $journal:expr, $verb:literal $(, $argument:literal)*;)+) => {
        $(#[test]
        fn $name() {
            let journal = $journal;
            let output = on(&journal, $verb, &[$($argument),*]);
            insta::assert_snapshot!(shown(&journal, &output));
        })+
    };
}

snapshots!(
    dump_of_a_migration: journal(true), "dump";
    dump_of_a_migration_as_json: journal(true), "dump", "--json", "-n", "12";
    dump_of_decisions: journal(true), "dump", "--type", "decided", "--domain", "web-1";
    dump_of_every_record: golden(&["every-record.seg", "later.seg"]), "dump";
    dump_of_a_newer_writer: golden(&["every-record.seg", "newer-record.seg"]), "dump", "-n", "6";
    dump_of_damage: golden(&["damaged-middle.seg"]), "dump";
    dump_of_a_torn_tail: golden(&["every-record.seg", "torn-tail.seg"]), "dump", "-n", "3";
    dump_of_an_unknown_type: journal(true), "dump", "--type", "decision";
    dump_of_headers: golden(&["every-record.seg", "torn-tail.seg"]), "dump", "--headers", "--type", "sealed";
    dump_of_headers_as_json: golden(&["every-record.seg", "torn-tail.seg"]), "dump", "--json", "--headers", "--type", "sealed";
    dump_of_a_newer_writer_as_json: golden(&["every-record.seg", "newer-record.seg"]), "dump", "--json", "--from", "101", "--to", "101";
    dump_of_a_cut_off_segment: golden(&["cut-off.seg", "later.seg"]), "dump", "--headers", "--type", "sealed";
    dump_of_nothing: tempfile::tempdir().unwrap(), "dump";
    explain_a_migration: journal(true), "explain";
    explain_a_migration_as_json: journal(true), "explain", "--json";
    explain_a_hold: journal(false), "explain", "--domain", "web-1";
    verify_a_sound_journal: journal(true), "verify";
    verify_a_sound_journal_as_json: journal(true), "verify", "--json";
    verify_damage: damaged(), "verify";
    verify_damage_as_json: damaged(), "verify", "--json";
    verify_a_torn_tail: torn(), "verify";
);

#[test]
fn help() {
    let output = command(&["--help"]).output().unwrap();
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}

#[test]
fn damage_in_the_middle_is_told_and_both_sides_of_it_are_shown() {
    let journal = journal(true);
    damage(&journal);
    let dump = on(&journal, "dump", &[]);
    let text = String::from_utf8(dump.stdout).unwrap();
    assert_eq!(dump.status.code(), Some(2), "{text}");
    assert!(
        text.contains("domain-added") && text.contains("job-ended"),
        "{text}"
    );
    assert_eq!(on(&journal, "verify", &[]).status.code(), Some(2));
}

/// A decision may be among what is lost: silence would be wrong.
#[test]
fn nothing_to_explain_for_lack_of_records_is_told() {
    let journal = tempfile::tempdir().unwrap();
    fs::write(journal.path().join("0000000000000001.seg"), [0x5a; 100_000]).unwrap();
    for verb in ["dump", "verify", "explain"] {
        let output = on(&journal, verb, &[]);
        let text = shown(&journal, &output);
        assert_eq!(output.status.code(), Some(2), "{verb}: {text}");
        assert!(text.contains("!!"), "{verb}: {text}");
    }
}

#[test]
fn a_command_s_help_tells_its_own_exit_codes_and_conditions() {
    for (verb, text) in [
        ("repair", "2 something could not be saved"),
        ("reindex", "refused while a sidecar"),
    ] {
        let output = command(&[verb, "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap().replace('\n', " ");
        assert!(help.contains(text), "{verb}: {help}");
    }
}

#[test]
fn a_segment_that_is_no_file() {
    let journal = tempfile::tempdir().unwrap();
    let name = journal.path().join("0000000000000001.seg");
    let made = Command::new("mkfifo").arg(&name).status().unwrap();
    assert!(made.success());
    for verb in ["dump", "verify", "explain"] {
        let output = on(&journal, verb, &[]);
        let text = shown(&journal, &output);
        assert_eq!(output.status.code(), Some(3), "{verb}: {text}");
        assert!(text.contains("not a regular file"), "{verb}: {text}");
    }
}

/// Nothing offline changes a journal.
#[test]
fn a_journal_is_left_as_it_is() {
    let journal = journal(true);
    damage(&journal);
    let contents = || -> Vec<(PathBuf, Vec<u8>)> {
        let mut all: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(journal.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = contents();
    for verb in ["dump", "verify", "explain"] {
        on(&journal, verb, &[]);
        on(&journal, verb, &["--json"]);
    }
    assert_eq!(contents(), before);
}

#[test]
fn every_line_of_json_is_json() {
    let journal = journal(true);
    let dump = on(&journal, "dump", &["--json"]);
    let text = String::from_utf8(dump.stdout).unwrap();
    assert!(text.lines().count() > 20, "{text}");
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value.is_object(), "{line}");
    }
    for verb in ["explain", "verify"] {
        let output = on(&journal, verb, &["--json"]);
        let _: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    }
}

/// A reader that has seen enough is no failure, and no panic.
#[test]
fn a_reader_that_goes_away() {
    let journal = journal(true);
    for verb in ["dump", "explain", "verify"] {
        let mut child = command(&[verb])
            .arg(journal.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{verb}: {output:?}");
        assert!(output.stderr.is_empty(), "{verb}: {output:?}");
    }
}

/// One line that names what is wrong, and exit code 3.
#[test]
fn what_cannot_be_done() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    fs::write(path("file"), "x").unwrap();
    let (missing, file, socket) = (path("missing"), path("file"), path("no.sock"));
    for (arguments, named) in [
        (vec!["dump", &missing], &missing),
        (vec!["verify", &missing], &missing),
        (vec!["explain", &missing], &missing),
        (vec!["verify", &file], &file),
        (vec!["--socket", &socket, "status"], &socket),
        (vec!["--socket", &file, "jobs"], &file),
        (
            vec![
                "--socket", &socket, "migrate", "g", "--peer", "/p", "--uri", "unix:/m",
            ],
            &socket,
        ),
    ] {
        let output = command(&arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {error}");
        assert!(error.contains(named.as_str()), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn wrong_arguments() {
    for arguments in [
        vec![],
        vec!["no-such-command"],
        vec!["dump"],
        vec!["dump", "/j", "--from", "x"],
        vec!["dump", "/j", "-n", "-1"],
        vec!["migrate", "g"],
        vec!["resolve", "g", "perhaps"],
    ] {
        let output = command(&arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {error}");
        assert!(
            error.contains("Usage") || error.contains("--help"),
            "{error}"
        );
    }
}

#[test]
fn bench_hands_over_to_its_own_program() {
    let run = |program: &str, arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("PHASE_JOURNAL_BENCH", program);
        command.output().unwrap()
    };
    let arguments = ["--json", "bench", "journal", "--part", "append", "-x"];
    let output = run("/bin/echo", &arguments);
    assert_eq!(output.stdout, b"journal --part append -x --json\n");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(run("/bin/false", &arguments).status.code(), Some(1));

    let output = run("/no/such/program", &arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("/no/such/program"), "{error}");
}
