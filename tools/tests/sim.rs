//! `phase-journal sim`: what it prints, how it ends, and that its journals are real ones.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use phase_journal::sim::{Fleet, Shape, World, plan};

fn phase_journal(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phase-journal"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_run_says_what_it_reached() {
    let run = || phase_journal(&["sim", "--seed", "1", "--minutes", "1", "--domains", "2"]);
    let (one, other) = (run(), run());
    assert_eq!(one.status.code(), Some(0), "{}", text(&one.stdout));
    let printed = text(&one.stdout);
    for word in ["seeds ", "migrations ", "faults ", "crashes ", "rules "] {
        assert!(printed.contains(word), "{word}: {printed}");
    }
    // But for how long it took.
    let counted = |output: &Output| {
        let lines = text(&output.stdout);
        let is_timed = |line: &&str| line.starts_with("migrations") || line.starts_with("work");
        lines
            .lines()
            .filter(|line| !is_timed(line))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(counted(&one), counted(&other));
}

#[test]
fn the_example_says_what_holds_without_it() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("fleet.toml");
    let shape: Shape = toml::from_str(&fs::read_to_string(example).unwrap()).unwrap();
    assert_eq!(shape, Shape::default());
}

/// Each begins where what it is about is made often.
#[test]
fn other_examples_are_run() {
    let fleets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fleets");
    let files: Vec<_> = fs::read_dir(fleets).unwrap().collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let path = file.unwrap().path();
        let output = phase_journal(&[
            "sim",
            "--seed",
            "1",
            "--domains",
            "3",
            "--config",
            path.to_str().unwrap(),
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}

#[test]
fn a_shape_that_is_none_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("fleet.toml");
    let path = file.to_str().unwrap();
    for (written, expected) in [
        ("hosts = 1", "two hosts"),
        ("hosst = 3", "hosst"),
        ("[faults]\npower = -1", "power"),
    ] {
        fs::write(&file, written).unwrap();
        let output = phase_journal(&["sim", "--config", path]);
        assert_eq!(output.status.code(), Some(3));
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn its_journals_are_opened_by_the_other_commands() {
    let shape = Shape {
        domains: 3,
        ..Shape::default()
    };
    let mut world = World::new(5, &shape, plan(5, &shape), Box::new(Fleet::default()));
    world.run_until(20_000_000);
    for files in world.journals() {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let path = directory.path().to_str().unwrap();
        let dump = phase_journal(&["dump", path]);
        assert!(text(&dump.stdout).contains("job-begun"), "{dump:?}");
        let explain = phase_journal(&["explain", path]);
        assert!(
            text(&explain.stdout).contains("  rule      "),
            "{explain:?}"
        );
    }
}
