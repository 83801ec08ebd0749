//! A migration that its manager drives itself, as the commands show it.

use super::{on, said, shown, story};
use serde_json::Value;

/// Its sidecar was killed after perform3_done, and holds.
fn journal() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    story::write_driven(directory.path());
    directory
}

#[test]
fn on_one_screen() {
    let journal = journal();
    let output = on("inspect", &[journal.path()], &[]);
    insta::assert_snapshot!(shown(&[journal.path()], &output));
}

#[test]
fn record_by_record() {
    let journal = journal();
    let output = on("dump", &[journal.path()], &[]);
    insta::assert_snapshot!(shown(&[journal.path()], &output));
}

#[test]
fn its_decisions_explained() {
    let journal = journal();
    let output = on("explain", &[journal.path()], &[]);
    insta::assert_snapshot!(shown(&[journal.path()], &output));
}

/// The laws hold, and the others show it too.
#[test]
fn it_is_sound() {
    let journal = journal();
    said(&on("verify", &[journal.path()], &[]), 0);
    let stats = said(&on("stats", &[journal.path()], &[]), 0);
    assert!(stats.contains("job-phase-entered"), "{stats}");
    let page = journal.path().join("page.html");
    let to = ["--html", "--output", page.to_str().unwrap()];
    said(&on("timeline", &[journal.path()], &to), 0);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("perform3_done") && page.contains("driven-source-completed"));
    let output = on("inspect", &[journal.path()], &["--json"]);
    let value: Value = serde_json::from_str(&said(&output, 1)).unwrap();
    assert_eq!(value["other-jobs"][0]["kind"], "migration-out", "{value}");
}
