//! The commands that look into journals: which records they show, which promises they find broken, and what
//! they say of what is no journal.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[path = "../../journal-format/tests/support/mod.rs"]
mod format;
#[path = "support/story.rs"]
mod story;

#[path = "inspection/bad_input.rs"]
mod bad_input;
#[path = "inspection/driven.rs"]
mod driven;
#[path = "inspection/filters.rs"]
mod filters;
#[path = "inspection/indexed.rs"]
mod indexed;
#[path = "inspection/many.rs"]
mod many;
#[path = "inspection/promises.rs"]
mod promises;

use serde_json::Value;
use tempfile::TempDir;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phase-journal"));
    command
        .args(arguments)
        .env_remove("PHASE_JOURNAL_SOCKET")
        .stdin(Stdio::null());
    command
}

/// Runs a command on paths.
fn on(verb: &str, paths: &[&Path], arguments: &[&str]) -> Output {
    command(&[verb])
        .args(paths)
        .args(arguments)
        .output()
        .unwrap()
}

/// What it printed, with the exit code, and without the directories' names.
fn shown(paths: &[&Path], output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().unwrap();
    let mut shown = format!("{}exit code {code}\n", text(&output.stdout));
    if !output.stderr.is_empty() {
        shown = format!("{shown}-- standard error\n{}", text(&output.stderr));
    }
    for path in paths {
        shown = shown.replace(path.to_str().unwrap(), "JOURNAL");
    }
    shown
}

/// What it printed, if it ended with this code.
#[track_caller]
fn said(output: &Output, code: i32) -> String {
    let text = shown(&[], output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// One line of error that names what is wrong, and exit code 3.
#[track_caller]
fn refused(output: &Output, named: &str) {
    let text = shown(&[], output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(error.contains(named), "{text}");
    assert_eq!(error.lines().count(), 1, "{text}");
    assert!(
        !error.trim_end().contains(|c: char| c.is_control()),
        "{text}"
    );
    assert!(output.stdout.is_empty(), "{text}");
}

fn journal(whole: bool) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    story::write(directory.path(), whole);
    directory
}

fn golden(name: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../journal-format/tests/golden");
    golden.join(name)
}

/// The lines of JSON.
fn values(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_schema_is_the_format_s_own() {
    let ksy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../journal-format/format.ksy");
    let output = command(&["schema"]).output().unwrap();
    assert_eq!(said(&output, 0), fs::read_to_string(ksy).unwrap());
}

#[test]
fn a_journal_on_one_screen() {
    let journal = journal(true);
    let output = on("inspect", &[journal.path()], &[]);
    insta::assert_snapshot!(shown(&[journal.path()], &output));
}

#[test]
fn a_journal_with_an_open_job_on_one_screen() {
    let journal = journal(false);
    let output = on("inspect", &[journal.path()], &[]);
    let text = shown(&[journal.path()], &output);
    assert!(text.lines().count() < 30, "{text}");
    insta::assert_snapshot!(text);
    let output = on("inspect", &[journal.path()], &["--json"]);
    let value: Value = serde_json::from_str(&said(&output, 1)).unwrap();
    assert_eq!(value["open-jobs"][0]["recovery"]["decision"], "hold");
    assert_eq!(value["open-jobs"][0]["depends-on-peer"], true);
}

#[test]
fn what_a_journal_holds_in_numbers() {
    let journal = journal(true);
    let output = on("stats", &[journal.path()], &[]);
    insta::assert_snapshot!(shown(&[journal.path()], &output));
    let output = on("stats", &[journal.path()], &["--json"]);
    let value: Value = serde_json::from_str(&said(&output, 0)).unwrap();
    let dump = values(&said(&on("dump", &[journal.path()], &["--json"]), 0));
    assert_eq!(value["total"]["records"], dump.len());
    let decided = dump
        .iter()
        .filter(|record| record["type"] == "decided")
        .count();
    assert_eq!(value["types"]["decided"]["records"], decided);
    let verify = said(&on("verify", &[journal.path()], &["--json"]), 0);
    let verify: Value = serde_json::from_str(&verify).unwrap();
    assert_eq!(value["total"]["syncs"], verify["batches"]);
}

/// Standard output is no terminal here: nothing is coloured, and nothing but the output is printed.
#[test]
fn nothing_is_painted_where_nobody_looks() {
    let journal = journal(false);
    for verb in ["inspect", "stats", "verify", "dump", "explain"] {
        let output = on(verb, &[journal.path()], &[]);
        assert!(!output.stdout.contains(&0x1b), "{verb}");
        assert!(output.stderr.is_empty(), "{verb}");
    }
}

/// Colours only add to what is said, all commands have them, and NO_COLOR takes them away.
#[test]
fn what_is_painted_says_the_same() {
    let (journal, whole) = (journal(false), journal(true));
    let damaged = golden("damaged-middle.seg");
    for (verb, paths) in [
        ("inspect", vec![journal.path()]),
        ("stats", vec![journal.path()]),
        ("verify", vec![damaged.as_path()]),
        ("dump", vec![damaged.as_path()]),
        ("explain", vec![journal.path()]),
        ("diff", vec![journal.path(), whole.path()]),
    ] {
        let ran = |variables: &[&str]| {
            let mut command = command(&[verb]);
            command.args(&paths);
            for variable in variables {
                command.env(variable, "1");
            }
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let (plain, painted) = (ran(&[]), ran(&["CLICOLOR_FORCE"]));
        let mut pieces = painted.split('\u{1b}');
        let mut without = pieces.next().unwrap().to_owned();
        for piece in pieces.by_ref() {
            without.push_str(piece.split_once('m').unwrap().1);
        }
        assert_eq!(without, plain, "{verb}");
        assert_ne!(painted, plain, "{verb}");
        assert_eq!(ran(&["CLICOLOR_FORCE", "NO_COLOR"]), plain, "{verb}");
    }
}
