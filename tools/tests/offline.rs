//! The commands that work on a journal's directory and do more than show it.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

#[path = "../../journal-format/tests/support/mod.rs"]
mod format;
#[path = "support/story.rs"]
mod story;

#[path = "offline/follow.rs"]
mod follow;
#[path = "offline/reindex.rs"]
mod reindex;
#[path = "offline/repair.rs"]
mod repair;

use journal_format::number::{BootId, HostId, Id128};
use journal_format::record::{CheckpointBegun, CheckpointEnded, Draft, RecordBody};
use phase_journal::journal::{Checkpoint, Log, OpenOptions, OsDisk, Timestamps};
use tempfile::TempDir;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phase-journal"));
    command
        .args(arguments)
        .env_remove("PHASE_JOURNAL_SOCKET")
        .stdin(Stdio::null());
    command
}

/// Held while a process is started, and while something that is locked is closed: a process that is being
/// started shares the locks of this one for a moment.
static STARTING: Mutex<()> = Mutex::new(());

fn start(command: &mut Command) -> Child {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Gives up something that is locked.
fn close<T>(locked: T) {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    drop(locked);
}

/// What a command printed, if it ended with this code; a code of 3 comes with one line of error.
#[track_caller]
fn said(command: &mut Command, code: i32) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = start(command).wait_with_output().unwrap();
    let (out, error) = (
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    );
    assert_eq!(status.code(), Some(code), "{command:?}: {out}{error}");
    if code == 3 {
        assert_eq!(error.lines().count(), 1, "{command:?}: {error}");
        return error;
    }
    assert_eq!(error, "", "{command:?}");
    out
}

/// A journal of a migration, two segments long.
fn journal() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    story::write(directory.path(), true);
    directory
}

/// Every file in a directory, with its bytes and when it was changed; and when the directory was.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let mut all: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            (path.clone(), fs::read(&path).unwrap(), modified)
        })
        .collect();
    all.sort();
    let modified = fs::metadata(directory).unwrap().modified().unwrap();
    all.push((directory.to_owned(), Vec::new(), modified));
    all
}

/// Opens a journal for writing, as a sidecar does.
fn open(directory: &Path) -> Log<OsDisk> {
    let options = OpenOptions {
        accept_older: true,
        first_segment_size: journal_format::SEGMENT_SIZE_MIN,
        segment_size: journal_format::SEGMENT_SIZE_MIN,
        ..OpenOptions::new(HostId(Id128([0x0A; 16])), BootId(Id128([2; 16])))
    };
    let opened = Log::open(OsDisk::new(directory), None, &options, drop).unwrap();
    let mut openings = opened.openings().to_vec();
    openings.push(opened.opening());
    opened
        .begin(&checkpoint(openings), Timestamps::default())
        .unwrap()
}

/// A checkpoint of a node without domains.
fn checkpoint(openings: Vec<journal_format::record::Opening>) -> Checkpoint {
    let bodies = [
        RecordBody::CheckpointBegun(CheckpointBegun {
            records: 0,
            openings,
        }),
        RecordBody::CheckpointEnded(CheckpointEnded { records: 0 }),
    ];
    Checkpoint {
        drafts: bodies
            .map(|body| Draft { domain: None, body })
            .into_iter()
            .collect(),
        needed_from: None,
    }
}
