//! What is no journal, or no longer one: a clear word and the right exit code, never a panic, never a wait.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const VERBS: [&str; 4] = ["dump", "inspect", "stats", "verify"];

#[test]
fn what_is_no_journal() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("somebody's"), "a letter").unwrap();
    fs::write(path("nothing"), "").unwrap();
    symlink(path("loop"), path("loop")).unwrap();
    symlink(path("nowhere"), path("dangling")).unwrap();
    let fifo = path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for verb in VERBS {
        for (name, named) in [
            ("missing", "missing"),
            ("empty", "there is no journal in"),
            ("somebody's", "is no segment of a journal"),
            ("nothing", "is no segment of a journal"),
            ("loop", "loop"),
            ("dangling", "dangling"),
            ("fifo", "neither a directory nor a regular file"),
            ("somebody's/below", "Not a directory"),
        ] {
            refused(&on(verb, &[&path(name)], &[]), named);
        }
        refused(
            &on(verb, &[Path::new("/dev/null")], &[]),
            "neither a directory nor",
        );
    }
}

#[test]
fn what_is_named_like_a_segment() {
    let scratch = tempfile::tempdir().unwrap();
    let segment = scratch.path().join("0000000000000001.seg");
    for verb in VERBS {
        fs::create_dir(&segment).unwrap();
        refused(&on(verb, &[scratch.path()], &[]), "not a regular file");
        fs::remove_dir(&segment).unwrap();
        symlink(&segment, &segment).unwrap();
        refused(&on(verb, &[scratch.path()], &[]), "0000000000000001.seg");
        fs::remove_file(&segment).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(&segment)
                .status()
                .unwrap()
                .success()
        );
        refused(&on(verb, &[scratch.path()], &[]), "not a regular file");
        fs::remove_file(&segment).unwrap();
        // Somebody else's file under a segment's name was one, for all that is known.
        fs::write(&segment, "a letter").unwrap();
        said(&on(verb, &[scratch.path()], &[]), 2);
        fs::remove_file(&segment).unwrap();
    }
}

#[test]
fn without_permission() {
    let journal = journal(true);
    let segment = journal.path().join("0000000000000001.seg");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&segment, 0o000);
    // Who may read everything is refused nothing.
    let is_refused = fs::File::open(&segment).is_err();
    for verb in VERBS {
        let output = on(verb, &[journal.path()], &[]);
        if is_refused {
            refused(&output, "0000000000000001.seg");
        } else {
            said(&output, 0);
        }
    }
    mode(&segment, 0o600);
}

/// Names and paths are shown, and not obeyed.
#[test]
fn names_with_escape_characters() {
    let scratch = tempfile::tempdir().unwrap();
    let evil = scratch.path().join("\u{1b}[31mevil\n\u{9b}m");
    for verb in VERBS {
        refused(&on(verb, &[&evil], &[]), "\\u{1b}[31mevil\\n\\u{9b}m");
    }
    fs::create_dir(&evil).unwrap();
    for verb in VERBS {
        refused(&on(verb, &[&evil], &[]), "\\u{1b}[31mevil\\n\\u{9b}m");
    }
    story::write(&evil, false);
    let other = journal(false);
    for verb in VERBS {
        for arguments in [&[][..], &["--json"]] {
            let output = on(verb, &[&evil, other.path()], arguments);
            let text = String::from_utf8(output.stdout).unwrap();
            let obeyed = |c: char| c.is_control() && c != '\n';
            assert!(
                !text.contains(obeyed) && !text.contains("evil\n"),
                "{verb}: {text}"
            );
            assert!(output.status.code() < Some(2), "{verb}: {text}");
        }
    }
}

/// A directory in which a sidecar writes and rolls meanwhile is no damaged one.
#[test]
fn while_it_is_written() {
    use journal_format::number::{BootId, HostId, Id128};
    use journal_format::record::{CheckpointBegun, CheckpointEnded, Draft, RecordBody};
    use phase_journal::journal::{Checkpoint, Durable, Log, OpenOptions, OsDisk, Timestamps};
    use std::sync::atomic::{AtomicBool, Ordering};

    let of_all = |body| Draft { domain: None, body };
    let journal = tempfile::tempdir().unwrap();
    let options = OpenOptions {
        first_segment_size: journal_format::SEGMENT_SIZE_MIN,
        segment_size: journal_format::SEGMENT_SIZE_MIN,
        ..OpenOptions::new(HostId(Id128([0x0A; 16])), BootId(Id128([2; 16])))
    };
    let opened = Log::open(OsDisk::new(journal.path()), None, &options, drop).unwrap();
    let openings = vec![opened.opening()];
    let checkpoint = Checkpoint {
        drafts: vec![
            of_all(RecordBody::CheckpointBegun(CheckpointBegun {
                records: 0,
                openings,
            })),
            of_all(RecordBody::CheckpointEnded(CheckpointEnded { records: 0 })),
        ],
        needed_from: None,
    };
    let mut log = opened.begin(&checkpoint, Timestamps::default()).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let drafts = vec![of_all(RecordBody::Sealed); 3];
                log.append(&drafts, Timestamps::default(), ())
                    .map(Durable::into_inner)
                    .unwrap();
                if log.must_roll() {
                    log.roll(&checkpoint, Timestamps::default()).unwrap();
                }
            }
        });
        for _ in 0..5 {
            for verb in VERBS {
                let output = on(verb, &[journal.path()], &[]);
                let text = shown(&[], &output);
                // The batch that is being written looks like one that was cut short.
                assert!(output.status.code() < Some(2), "{verb}: {text}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}
