//! Differences: copies of a journal, and two sides of migrations.

use std::fs;
use std::path::Path;

use journal_format::record::Authority;

use crate::evacuation::{GRANTED, many, one, one_named, one_under};
use crate::{journals, shown};

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn sides_that_agree() {
    let journals = journals(one(&[GRANTED]));
    insta::assert_snapshot!(shown(journals.path(), &["diff", "a", "b"]));
}

#[test]
fn sides_that_agree_whatever_crashed() {
    let journals = journals(many(8));
    let said = shown(journals.path(), &["diff", "a", "b"]);
    assert!(said.ends_with("the sides agree\nexit code 0\n"), "{said}");
    assert!(said.contains("only in a"), "{said}");
}

#[test]
fn sides_that_a_store_decides_for() {
    let journals = journals(one_under(Authority::Store, &[GRANTED]));
    let said = shown(journals.path(), &["diff", "a", "b"]);
    assert!(said.ends_with("the sides agree\nexit code 0\n"), "{said}");
    assert!(
        said.contains("store-intended") && said.contains("store-read"),
        "{said}"
    );
}

#[test]
fn copies() {
    let journals = journals(one(&[GRANTED]));
    let path = |name: &str| journals.path().join(name);
    copy(&path("a"), &path("copy"));
    let same = shown(journals.path(), &["diff", "a", "copy"]);
    assert!(
        same.contains("no difference: 37 records alike\nexit code 0\n"),
        "{same}"
    );

    fs::remove_file(path("copy/0000000000000002.seg")).unwrap();
    insta::assert_snapshot!(shown(journals.path(), &["diff", "a", "copy"]), @r"
    < a
    > copy
    two copies of journal a000a0a0-a0a0-a0a0-0000-000000000000
    < 17 records, lsn 21 to 37, only here
    1 difference, 20 records alike
    exit code 1
    ");
    let other = shown(journals.path(), &["diff", "copy", "a"]);
    assert!(
        other.contains("> 17 records, lsn 21 to 37, only here"),
        "{other}"
    );
}

/// A copy that was put back and written on is another history from there on.
#[test]
fn copies_that_went_different_ways() {
    let first = journals(one(&[GRANTED]));
    // The same begin; then the sidecar comes back later, so that all its times differ.
    let second = journals(one(&[crate::evacuation::Crash {
        gone: Some(400),
        ..GRANTED
    }]));
    copy(&second.path().join("a"), &first.path().join("other"));
    let said = shown(first.path(), &["diff", "a", "other", "-n", "2"]);
    assert!(said.contains("lsn 21 differs\n<"), "{said}");
    assert!(
        said.contains("... and 15 more\n17 differences, 20 records alike"),
        "{said}"
    );
    assert!(said.ends_with("exit code 1\n"), "{said}");
}

#[test]
fn damage_in_one_of_them() {
    let journals = journals(one(&[GRANTED]));
    let path = |name: &str| journals.path().join(name);
    copy(&path("a"), &path("copy"));
    let file = path("copy/0000000000000001.seg");
    let mut bytes = fs::read(&file).unwrap();
    let scan = journal_format::scan::scan(&bytes).unwrap();
    let record = &scan.batches[scan.batches.len() / 2].records[0];
    bytes[usize::try_from(record.offset).unwrap() + 60] ^= 1;
    fs::write(&file, bytes).unwrap();
    let said = shown(journals.path(), &["diff", "a", "copy"]);
    assert!(
        said.contains("> !! lsn ") && said.ends_with("exit code 1\n"),
        "{said}"
    );
    let sides = shown(journals.path(), &["diff", "copy", "b"]);
    assert!(
        sides.contains("!! lsn ") && sides.ends_with("exit code 1\n"),
        "{sides}"
    );
}

/// A destination that was put back to before it took the licence: what the source saw of it is gone.
#[test]
fn a_side_that_lost_what_it_had() {
    let whole = journals(one(&[GRANTED]));
    // The same destination, that nobody ever gave a licence: the source is gone for good.
    let early = journals(one(&[crate::evacuation::Crash {
        gone: None,
        ..GRANTED
    }]));
    copy(&early.path().join("b"), &whole.path().join("early"));
    let said = shown(whole.path(), &["diff", "a", "early"]);
    assert!(
        said.contains("it is an older copy, or has lost its end"),
        "{said}"
    );
    assert!(said.ends_with("exit code 1\n"), "{said}");
}

/// Two worlds that decided differently about one migration: both copies ran.
#[test]
fn two_outcomes() {
    let committed = journals(one(&[GRANTED]));
    // The same migration, given up by its source while it performed.
    let given_up = journals(one(&[crate::evacuation::Crash {
        record: "effect-finished",
        ..GRANTED
    }]));
    copy(
        &given_up.path().join("a"),
        &committed.path().join("given-up"),
    );
    let said = shown(committed.path(), &["diff", "given-up", "b"]);
    assert!(said.contains("the source gave up (lsn "), "{said}");
    assert!(said.contains("both say that the guest is theirs"), "{said}");
    assert!(
        said.contains("a licence that the source never granted"),
        "{said}"
    );
    assert!(said.ends_with("exit code 1\n"), "{said}");
}

#[test]
fn one_domain() {
    let journals = journals(many(8));
    let said = shown(journals.path(), &["diff", "a", "b", "--domain", "mail-2"]);
    assert!(
        said.contains("of mail-2") && !said.contains("of web-0"),
        "{said}"
    );
}

/// Names from a journal do not command a terminal, not in JSON either, which escapes only some of them.
#[test]
fn names_are_shown_plain() {
    let hostile = journals(one_named("web\u{9b}31m\u{202e}"));
    for arguments in [
        vec!["diff", "a", "b"],
        vec!["diff", "a", "b", "--json"],
        vec!["explain", "a"],
        vec!["explain", "a", "--json"],
        vec!["explain", "a", "--at", "20"],
        vec!["explain", "a", "--at", "20", "--json"],
    ] {
        let said = shown(hostile.path(), &arguments);
        let is_obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(
            said.contains("202e") && !said.contains(is_obeyed),
            "{arguments:?}: {said}"
        );
    }
    let journals = journals(one_named("web\u{1b}[31m"));
    let said = shown(journals.path(), &["diff", "a", "b"]);
    assert!(
        said.contains("web\\u{1b}[31m") && !said.contains('\u{1b}'),
        "{said}"
    );
}

#[test]
fn what_cannot_be_compared() {
    let journals = journals(one(&[]));
    fs::create_dir(journals.path().join("empty")).unwrap();
    for (arguments, says) in [
        (vec!["diff", "a"], "OTHER"),
        (vec!["diff", "a", "nowhere"], "nowhere"),
        (vec!["diff", "a", "empty"], "empty"),
        (vec!["diff", "a", "a", "--domain", "web-1"], "two sides"),
        (vec!["diff", "a", "b", "--domain", "nobody"], "no job"),
    ] {
        let said = shown(journals.path(), &arguments);
        assert!(
            said.contains(says) && said.ends_with("exit code 3\n"),
            "{arguments:?}: {said}"
        );
    }
}
