//! `phase-journal repair`: what it says and leaves alone; what it refuses.

use super::*;

fn repair(from: &Path, to: &Path) -> Command {
    let mut command = command(&["repair"]);
    command.arg(from).arg("--to").arg(to);
    command
}

fn change(journal: &Path, segment: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let path = journal.join(format!("{segment:016}.seg"));
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn verify(journal: &Path, code: i32) -> String {
    said(command(&["verify"]).arg(journal), code)
}

/// What it says of a journal that something was done to; the journal itself stays as it is.
fn check(code: i32, harm: impl FnOnce(&Path)) -> (String, TempDir) {
    let (journal, scratch) = (journal(), tempfile::tempdir().unwrap());
    harm(journal.path());
    let before = contents(journal.path());
    let to = scratch.path().join("copy");
    let out = said(&mut repair(journal.path(), &to), code);
    assert_eq!(contents(journal.path()), before);
    let verdict = verify(&to, code);
    assert_eq!(out.lines().last(), verdict.lines().last());
    assert_eq!(
        fs::read_dir(scratch.path()).unwrap().count(),
        1,
        "nothing else is left"
    );
    let out = out.replace(to.to_str().unwrap(), "COPY");
    (out, scratch)
}

#[test]
fn a_sound_journal() {
    let (out, _copy) = check(0, |_| ());
    insta::assert_snapshot!(out);
}

#[test]
fn a_torn_tail() {
    let (out, _copy) = check(0, |journal| {
        change(journal, 2, |bytes| {
            let end = journal_format::scan::scan(bytes).unwrap().end;
            let at = usize::try_from(end).unwrap();
            bytes[at..at + 700].fill(0x5a);
        });
    });
    insta::assert_snapshot!(out);
}

#[test]
fn a_header_and_a_record() {
    let (out, _copy) = check(2, |journal| {
        change(journal, 1, |bytes| bytes[70] ^= 0x10);
        change(journal, 2, |bytes| bytes[2 * 4096 + 150] ^= 1);
    });
    insta::assert_snapshot!(out);
}

#[test]
fn a_file_that_belongs_elsewhere() {
    let (out, copy) = check(2, |journal| {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR"));
        let golden = golden.join("../journal-format/tests/golden/every-record.seg");
        change(journal, 1, |bytes| bytes[4096 + 200] ^= 1);
        let mut foreign =
            journal_format::segment::SegmentHeader::decode(&fs::read(golden).unwrap());
        let foreign = foreign.as_mut().unwrap();
        foreign.number = journal_format::number::SegmentNumber(3);
        change(journal, 2, |bytes| {
            let mut other = foreign.encode();
            other.resize(bytes.len(), 0);
            fs::write(journal.join("0000000000000003.seg"), other).unwrap();
        });
    });
    insta::assert_snapshot!(out);
    // A sidecar that refused the journal takes the copy.
    close(open(&copy.path().join("copy")));
}

#[test]
fn for_programs() {
    let (journal, scratch) = (journal(), tempfile::tempdir().unwrap());
    change(journal.path(), 1, |bytes| bytes[70] ^= 0x10);
    // An empty directory is as good as none.
    let to = scratch.path().join("copy");
    fs::create_dir(&to).unwrap();
    let out = said(repair(journal.path(), &to).arg("--json"), 0);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["whole"], true);
    assert_eq!(value["changes"][0]["change"], "restored-header");
    assert_eq!(value["copy"]["verdict"], "clean");
    assert_eq!(value["directory"], to.to_str().unwrap());
}

/// Only segments are the journal.
#[test]
fn what_is_no_segment_stays_behind() {
    let (_, copy) = check(0, |journal| {
        fs::write(journal.join("lock"), "").unwrap();
        fs::write(journal.join("0000000000000003.seg.new"), "x").unwrap();
        fs::create_dir(journal.join("index")).unwrap();
    });
    let names = fs::read_dir(copy.path().join("copy")).unwrap();
    assert!(
        names
            .map(|entry| entry.unwrap().path())
            .all(|path| path.extension().is_some_and(|end| end == "seg"))
    );
}

#[test]
fn places_that_cannot_be_copied_to() {
    let (journal, scratch) = (journal(), tempfile::tempdir().unwrap());
    let full = scratch.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), "x").unwrap();
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(scratch.path().join("nowhere"), &link).unwrap();
    let before = contents(journal.path());
    for (to, named) in [
        (full.clone(), "is no empty directory"),
        (full.join("x"), "is no empty directory"),
        (link, "is no empty directory"),
        (journal.path().to_owned(), "is no empty directory"),
        (
            journal.path().join("copy"),
            "in the journal's own directory",
        ),
        (journal.path().join("a/../copy"), "could not open"),
        (scratch.path().join("missing/copy"), "could not open"),
        (PathBuf::from("/"), "is no empty directory"),
    ] {
        let error = said(&mut repair(journal.path(), &to), 3);
        assert!(error.contains(named), "{}: {error}", to.display());
    }
    assert_eq!(contents(journal.path()), before);
    let error = said(
        &mut repair(
            &scratch.path().join("missing"),
            &scratch.path().join("copy"),
        ),
        3,
    );
    assert!(error.contains("missing"), "{error}");
    let error = said(&mut repair(&full, &scratch.path().join("copy")), 3);
    assert!(error.contains("there is no journal in"), "{error}");
    let segment = journal.path().join("0000000000000001.seg");
    let error = said(&mut repair(&segment, &scratch.path().join("copy")), 3);
    assert!(error.contains("is no directory: this takes"), "{error}");
    let names: Vec<_> = fs::read_dir(scratch.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_journal_in_use_is_not_copied() {
    let (journal, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open(journal.path());
    let to = scratch.path().join("copy");
    let error = said(&mut repair(journal.path(), &to), 3);
    assert!(
        error.contains(&format!("in use by process {}", std::process::id())),
        "{error}"
    );
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    close(log);
    said(&mut repair(journal.path(), &to), 0);
}

/// As on a full disk: no copy is left that looks like a shorter journal.
#[test]
fn a_copy_that_does_not_fit_is_none() {
    let (journal, scratch) = (journal(), tempfile::tempdir().unwrap());
    let to = scratch.path().join("copy");
    let limited = "trap '' XFSZ; ulimit -f 40; exec \"$0\" repair \"$1\" --to \"$2\"";
    let mut command = Command::new("bash");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_phase-journal")]);
    let error = said(command.arg(journal.path()).arg(&to), 3);
    assert!(
        error.contains("could not write") && error.contains(".seg"),
        "{error}"
    );
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}
