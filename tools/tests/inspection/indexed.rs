//! A dump of one domain by the index shows what one without it shows.

use journal_format::number::{DomainId, Lsn};
use journal_format::record::RecordBody;
use phase_journal::journal::index::Index;
use phase_journal::journal::{INDEX_NAME, OsDisk};

use super::*;

/// A journal with its index.
fn indexed() -> TempDir {
    let journal = journal(true);
    said(&on("reindex", &[journal.path()], &[]), 0);
    journal
}

fn of_domain(journal: &TempDir, arguments: &[&str]) -> String {
    let all = [&["--domain", "web-1"], arguments].concat();
    said(&on("dump", &[journal.path()], &all), 0)
}

const WAYS: [&[&str]; 6] = [
    &[],
    &["--json"],
    &["-o", "hex"],
    &["-o", "table", "--from", "20"],
    &["--json", "--type", "decided"],
    &["--json", "--from", "5", "--to", "30", "--phase", "perform3"],
];

#[test]
fn the_same_is_shown_with_and_without_the_index() {
    let (with, without) = (indexed(), journal(true));
    for arguments in WAYS {
        assert_eq!(
            of_domain(&with, arguments),
            of_domain(&without, arguments),
            "{arguments:?}"
        );
    }
    refused(
        &on("dump", &[with.path()], &["--domain", "web-2"]),
        "no domain 'web-2'",
    );
}

/// By job, and by time: what the index leaves out is what would not be shown.
#[test]
fn jobs_and_times_are_shown_with_and_without_the_index() {
    let (with, without) = (indexed(), journal(true));
    let all = values(&said(&on("dump", &[without.path()], &["--json"]), 0));
    let job = all.iter().find(|one| one["type"] == "job-begun").unwrap();
    let job = job["lsn"].to_string();
    let mut times: Vec<u64> = all
        .iter()
        .map(|one| one["time"].as_u64().unwrap())
        .collect();
    times.dedup();
    let shown = |journal: &TempDir, arguments: &[&str]| {
        shown(&[journal.path()], &on("dump", &[journal.path()], arguments))
    };
    for time in times {
        let since = format!("@{}.{:09}", time / 1_000_000_000, time % 1_000_000_000);
        for arguments in [
            &["--since", &since][..],
            &["--since", &since, "--domain", "web-1"],
            &["--since", &since, "--json", "--job", &job],
        ] {
            assert_eq!(shown(&with, arguments), shown(&without, arguments));
        }
    }
    for arguments in [
        &["--job", &job][..],
        &["--job", &job, "--type", "decided"],
        &["--job", &job, "--to", "22"],
        &["--job", "7"],
        &["--domain", "web-1", "--to", "12"],
        &["--domain", "web-1", "--from", "30"],
    ] {
        assert_eq!(shown(&with, arguments), shown(&without, arguments));
    }
}

/// It is asked where records lie, and what is not there is read from the journal.
#[test]
fn whatever_became_of_the_index() {
    let without = journal(true);
    let expected: Vec<String> = WAYS.iter().map(|way| of_domain(&without, way)).collect();
    let check = |journal: &TempDir, what: &str| {
        for (way, expected) in WAYS.iter().zip(&expected) {
            assert_eq!(&of_domain(journal, way), expected, "{what}: {way:?}");
        }
    };
    let path = |journal: &TempDir| journal.path().join(INDEX_NAME);

    // One that ends before the journal does.
    let behind = journal(true);
    let newest = behind.path().join("0000000000000002.seg");
    let bytes = fs::read(&newest).unwrap();
    fs::remove_file(&newest).unwrap();
    said(&on("reindex", &[behind.path()], &[]), 0);
    fs::write(&newest, &bytes).unwrap();
    check(&behind, "behind");

    // One of another journal.
    let other = indexed();
    fs::remove_dir_all(path(&other)).unwrap();
    let foreign = tempfile::tempdir().unwrap();
    fs::copy(
        golden("every-record.seg"),
        foreign.path().join("0000000000000001.seg"),
    )
    .unwrap();
    said(&on("reindex", &[foreign.path()], &[]), 0);
    fs::rename(path(&foreign), path(&other)).unwrap();
    check(&other, "foreign");

    // One that is in use, one that is none, one that is damaged.
    let used = indexed();
    let (index, _) = Index::open(&path(&used), &OsDisk::new(used.path())).unwrap();
    check(&used, "in use");
    drop(index);
    let none = journal(true);
    fs::write(path(&none), "no index").unwrap();
    check(&none, "a file");
    let damaged = indexed();
    for entry in fs::read_dir(path(&damaged)).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            let length = fs::metadata(&file).unwrap().len();
            fs::write(
                &file,
                vec![0xa5; usize::try_from(length).unwrap().min(1 << 20)],
            )
            .unwrap();
        }
    }
    check(&damaged, "damaged");
}

/// A record that the index knows and the journal lost is told of, and not left out.
#[test]
fn what_was_lost_since_is_told() {
    let journal = indexed();
    let path = journal.path().join("0000000000000001.seg");
    let mut bytes = fs::read(&path).unwrap();
    let scan = journal_format::scan::scan(&bytes).unwrap();
    let placed = &scan.batches[scan.batches.len() / 2].records[0];
    bytes[usize::try_from(placed.offset).unwrap() + 60] ^= 1;
    fs::write(&path, bytes).unwrap();
    let output = on("dump", &[journal.path()], &["--domain", "web-1"]);
    let text = said(&output, 2);
    assert!(text.contains("!! lsn"), "{text}");
    // And what follows it is there all the same.
    assert!(text.contains("job-ended"), "{text}");
}

/// A segment whose headers are lost is not one that was let go.
#[test]
fn what_was_lost_at_the_begin_is_told() {
    let (with, without) = (indexed(), journal(true));
    let dump = |journal: &TempDir| {
        let path = journal.path().join("0000000000000001.seg");
        let mut bytes = fs::read(&path).unwrap();
        let copy = bytes.len() - 4096;
        bytes[200] ^= 1;
        bytes[copy + 200] ^= 1;
        fs::write(path, bytes).unwrap();
        said(&on("dump", &[journal.path()], &["--domain", "web-1"]), 2)
    };
    let shown = dump(&with);
    assert!(shown.contains("!! lsn 1 to "), "{shown}");
    assert_eq!(shown, dump(&without));
}

#[test]
fn verify_says_whether_the_index_agrees() {
    let journal = indexed();
    let path = journal.path().join(INDEX_NAME);
    let verify = |code| said(&on("verify", &[journal.path()], &[]), code);
    assert!(
        verify(0).contains("index     agrees, 37 records"),
        "{}",
        verify(0)
    );
    let before: Vec<_> = fs::read_dir(&path)
        .unwrap()
        .map(|one| one.unwrap().path())
        .collect();
    let files = |before: &[PathBuf]| -> Vec<Vec<u8>> {
        before
            .iter()
            .filter(|path| path.is_file())
            .map(|path| fs::read(path).unwrap())
            .collect()
    };
    let bytes = files(&before);
    verify(0);
    assert_eq!(files(&before), bytes, "looking changes nothing");

    // In use by somebody.
    let (index, _) = Index::open(&path, &OsDisk::new(journal.path())).unwrap();
    let domain = DomainId(journal_format::number::Id128([0x11; 16]));
    assert!(index.newest_decisions(domain, 1).unwrap().is_some());
    assert_eq!(index.last(), Some(Lsn(37)));
    assert!(
        verify(0).contains("index     not looked at: it is in use"),
        "{}",
        verify(0)
    );
    drop(index);

    // Another story's, under this one's name.
    fs::remove_dir_all(&path).unwrap();
    let other = promises::changed(|one| {
        if let RecordBody::DomainAdded(state) = &mut one.draft.body {
            state.qmp.push('x');
        }
    });
    said(&on("reindex", &[other.path()], &[]), 0);
    fs::rename(other.path().join(INDEX_NAME), &path).unwrap();
    assert!(
        verify(2).contains("!! the index does not agree"),
        "{}",
        verify(2)
    );
    let without = on("verify", &[journal.path()], &["--no-index"]);
    said(&without, 0);
}
