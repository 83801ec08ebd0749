//! `phase-journal reindex`: what it makes, and what it refuses.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use journal_format::number::Lsn;
use phase_journal::journal::INDEX_NAME;
use phase_journal::journal::index::{CaughtUp, Index};

use super::*;

/// Somebody who may write only what is theirs.
const NOBODY: u32 = 65_534;

fn reindex(directory: &Path) -> Command {
    let mut command = command(&["reindex"]);
    command.arg(directory);
    command
}

#[test]
fn the_index_is_made_anew_whatever_was_there() {
    let journal = journal();
    let path = journal.path().join(INDEX_NAME);
    let before = contents(journal.path());
    let spoil: [&dyn Fn(); 5] = [
        &|| (),
        &|| (),
        &|| fs::write(path.join("db"), [0xa5; 8192]).unwrap(),
        // Opening a pipe waits for its writer.
        &|| {
            fs::remove_file(path.join("db")).unwrap();
            let made = Command::new("mkfifo").arg(path.join("db")).status();
            assert!(made.unwrap().success());
        },
        &|| {
            fs::remove_dir_all(&path).unwrap();
            fs::write(&path, "no index").unwrap();
        },
    ];
    for spoil in spoil {
        spoil();
        let out = said(&mut reindex(journal.path()), 0);
        assert_eq!(out, "indexed   37 records, up to lsn 37\n");
        let disk = OsDisk::new(journal.path());
        let (index, caught_up) = Index::open(&path, &disk).unwrap();
        assert_eq!(caught_up, CaughtUp::default(), "all of it was there");
        assert_eq!(index.last(), Some(Lsn(37)));
        close(index);
    }
    let out = said(reindex(journal.path()).arg("--json"), 0);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&value["records"], &value["last"]),
        (&37.into(), &37.into())
    );
    fs::remove_dir_all(&path).unwrap();
    let files = |mut all: Vec<(PathBuf, Vec<u8>, SystemTime)>| {
        all.pop();
        all
    };
    assert_eq!(files(contents(journal.path())), files(before));
}

#[test]
fn a_journal_in_use_keeps_its_index() {
    let journal = tempfile::tempdir().unwrap();
    let log = open(journal.path());
    let error = said(&mut reindex(journal.path()), 3);
    let holder = std::process::id();
    assert!(
        error.contains(&format!("is in use by process {holder}")),
        "{error}"
    );
    assert!(!journal.path().join(INDEX_NAME).exists());
    close(log);
    said(&mut reindex(journal.path()), 0);
}

/// An index that somebody works on, such as another `reindex`, is left to them; and who opens the
/// journal meanwhile is not held up.
#[test]
fn an_index_in_use_is_left_and_holds_up_nobody() {
    let journal = journal();
    let path = journal.path().join(INDEX_NAME);
    let (index, _) = Index::open(&path, &OsDisk::new(journal.path())).unwrap();
    let error = said(&mut reindex(journal.path()), 3);
    assert!(error.contains("is in use by another process"), "{error}");
    close(open(journal.path()));
    close(index);
    said(&mut reindex(journal.path()), 0);
}

#[test]
fn where_no_journal_is_no_index_is_made() {
    let scratch = tempfile::tempdir().unwrap();
    let error = said(&mut reindex(scratch.path()), 3);
    assert!(error.contains("there is no journal in"), "{error}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    let missing = scratch.path().join("missing");
    let error = said(&mut reindex(&missing), 3);
    assert!(error.contains("missing"), "{error}");
    assert!(!missing.exists());
    let foreign = scratch.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("0000000000000001.seg"), "no segment").unwrap();
    let error = said(&mut reindex(&foreign), 3);
    assert!(error.contains("nothing to be indexed"), "{error}");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
    let file = scratch.path().join("file");
    fs::write(&file, "no journal").unwrap();
    let error = said(&mut reindex(&file), 3);
    assert!(error.contains("is no directory: this takes"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let journal = journal();
    let before = contents(journal.path());
    let mode = |mode| fs::set_permissions(journal.path(), fs::Permissions::from_mode(mode));
    mode(0o555).unwrap();
    let mut refused = reindex(journal.path());
    // Root may write everywhere: then by somebody who may not, from a place where they may read.
    let program = tempfile::tempdir().unwrap();
    if rustix::process::geteuid().is_root() {
        let copy = program.path().join("phase-journal");
        fs::copy(env!("CARGO_BIN_EXE_phase-journal"), &copy).unwrap();
        fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).unwrap();
        refused = Command::new(copy);
        refused
            .arg("reindex")
            .arg(journal.path())
            .uid(NOBODY)
            .gid(NOBODY);
    }
    let error = said(&mut refused, 3);
    mode(0o755).unwrap();
    assert!(
        error.contains("the index") && error.contains("ermission denied"),
        "{error}"
    );
    assert_eq!(contents(journal.path()), before);
}
