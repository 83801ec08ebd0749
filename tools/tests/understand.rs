//! What helps to understand a journal: pictures, what-ifs, differences, libvirt's files, the manual.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

#[path = "support/evacuation.rs"]
mod evacuation;
#[path = "../../journal-format/tests/support/mod.rs"]
mod format;

#[path = "understand/browser.rs"]
mod browser;
#[path = "understand/diff.rs"]
mod diff;
#[path = "understand/explain.rs"]
mod explain;
#[path = "understand/libvirt.rs"]
mod libvirt;
#[path = "understand/manual.rs"]
mod manual;
#[path = "understand/timeline.rs"]
mod timeline;

use evacuation::World;
use tempfile::TempDir;

/// Runs it in a directory, so that nothing it says names where that is.
fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phase-journal"))
        .args(arguments)
        .env_remove("PHASE_JOURNAL_SOCKET")
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What it printed, with the exit code.
fn shown(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut shown = text(&output.stdout);
    if !output.stderr.is_empty() {
        shown = format!("{shown}-- standard error\n{}", text(&output.stderr));
    }
    format!("{shown}exit code {}\n", output.status.code().unwrap())
}

/// What it printed where nothing goes wrong.
fn printed(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The journals of a world: `a`, `b`, ...
fn journals(world: World) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    world.write(directory.path());
    directory
}
