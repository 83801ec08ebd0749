//! What other evidence would have led to, and what a restart would have decided.

use journal_format::record::Authority;
use serde_json::Value;

use crate::evacuation::{GRANTED, many, one, one_under};
use crate::{journals, printed, run, shown};

#[test]
fn a_crash_after_the_licence_and_each_word_of_the_other_side() {
    let journals = journals(one(&[GRANTED]));
    for (word, rule, then) in [
        ("committed", "source-granted-started", "it would send: kill"),
        ("aborted", "source-granted-aborted", "it would send: cont"),
        ("undecided", "source-granted-in-doubt", "nothing more"),
        ("unreachable", "source-granted-in-doubt", "nothing more"),
        ("amnesia", "source-granted-amnesia", "nothing more"),
        (
            "no-such-migration",
            "source-granted-amnesia",
            "nothing more",
        ),
        ("started", "source-granted-started", "it would send: kill"),
    ] {
        let said = shown(
            journals.path(),
            &["explain", "a", "--at", "20", "--peer", word],
        );
        assert!(
            said.contains(&format!("rule      {rule}")),
            "{word}: {said}"
        );
        assert!(said.contains(then), "{word}: {said}");
        let in_doubt = then == "nothing more";
        assert!(
            said.ends_with(&format!("exit code {}\n", u8::from(in_doubt))),
            "{word}: {said}"
        );
    }
}

#[test]
fn a_supposed_restart() {
    let journals = journals(one(&[GRANTED]));
    let said = shown(
        journals.path(),
        &["explain", "a", "--at", "20", "--peer", "committed"],
    );
    insta::assert_snapshot!(said);
}

/// Records of one batch became durable together: none of them survives a crash alone.
#[test]
fn only_whole_batches_survive() {
    let journals = journals(one(&[GRANTED]));
    for at in ["18", "19", "20"] {
        let said = shown(journals.path(), &["explain", "a", "--at", at]);
        assert!(said.starts_with("a restart after record 20:"), "{said}");
    }
}

#[test]
fn looks() {
    let journals = journals(one(&[]));
    // After the results of `migrate` and before anything was seen.
    for (journal, at, look, rule, then) in [
        (
            "a",
            "14",
            "running,active",
            "source-perform-give-up",
            "migrate_cancel",
        ),
        (
            "a",
            "14",
            "postmigrate,completed",
            "source-granted-in-doubt",
            "nothing more",
        ),
        (
            "a",
            "14",
            "running,completed",
            "source-perform-running",
            "end: failed",
        ),
        (
            "a",
            "14",
            "dead",
            "source-perform-dead-asking",
            "nothing more",
        ),
        ("a", "14", "mute", "qemu-mute", "nothing more"),
        (
            "a",
            "14",
            "other-instance",
            "other-instance",
            "nothing more",
        ),
        ("a", "14", "colo", "no-rule-for-this", "nothing more"),
        (
            "b",
            "13",
            "inmigrate,failed",
            "destination-prepare-failed",
            "kill",
        ),
        (
            "b",
            "13",
            "running,completed",
            "destination-prepare-running",
            "end: completed",
        ),
    ] {
        let said = shown(
            journals.path(),
            &["explain", journal, "--at", at, "--observe", look],
        );
        assert!(
            said.contains(&format!("rule      {rule}")),
            "{look}: {said}"
        );
        assert!(said.contains(then), "{look}: {said}");
    }
}

/// Supposed with what really was seen and heard, the rules are those that were recorded.
#[test]
fn a_supposition_that_was_so_decides_as_it_was_decided() {
    let journals = journals(one(&[GRANTED]));
    let recorded = printed(journals.path(), &["explain", "a", "--json"]);
    let recorded: Value = serde_json::from_str(&recorded).unwrap();
    let arguments = ["explain", "a", "--at", "20", "--peer", "started", "--json"];
    let supposed: Value = serde_json::from_str(&printed(journals.path(), &arguments)).unwrap();
    let supposed = supposed["jobs"][0]["decisions"].as_array().unwrap();
    let recorded = recorded["decisions"].as_array().unwrap();
    assert_eq!(supposed.len(), 2);
    for (supposed, recorded) in supposed.iter().zip(recorded) {
        for field in ["rule", "decision", "evidence", "otherwise"] {
            assert_eq!(supposed[field], recorded[field], "{field}");
        }
    }
}

/// Each `otherwise` is what the engine's table gives: another rule, and for the other side's words also what
/// a restart comes to.
#[test]
fn what_would_have_been_otherwise() {
    let journals = journals(many(8));
    let explained = run(journals.path(), &["explain", "a", "--json"]);
    let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
    let mut seen = 0;
    for decision in explained["decisions"].as_array().unwrap() {
        let others = decision["otherwise"].as_array().unwrap();
        assert!(!others.is_empty(), "{decision}");
        for other in others {
            assert_ne!(other["rule"], decision["rule"]);
            assert!(!other["values"].as_array().unwrap().is_empty());
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

/// Where a store decides, its key is what is supposed; what the destination says settles nothing.
#[test]
fn a_key_in_the_store() {
    let journals = journals(one_under(Authority::Store, &[GRANTED]));
    for (arguments, rule, then) in [
        (
            &["--store", "started"][..],
            "source-granted-started",
            "it would send: kill",
        ),
        (
            &["--store", "aborted"],
            "source-granted-aborted",
            "it would send: cont",
        ),
        (
            &["--store", "committed"],
            "source-store-in-doubt",
            "nothing more",
        ),
        (
            &["--store", "unreachable"],
            "source-store-in-doubt",
            "nothing more",
        ),
        (
            &["--peer", "started"],
            "source-store-in-doubt",
            "nothing more",
        ),
    ] {
        let mut all = vec!["explain", "a", "--at", "20"];
        all.extend(arguments);
        let said = shown(journals.path(), &all);
        assert!(
            said.contains(&format!("rule      {rule}")),
            "{arguments:?}: {said}"
        );
        assert!(said.contains(then), "{arguments:?}: {said}");
    }
    let said = shown(journals.path(), &["explain", "a", "--at", "20"]);
    for other in [
        "otherwise store started: KILL by source-granted-started",
        "otherwise store aborted: RESUME by source-granted-aborted",
    ] {
        assert!(said.contains(other), "{other}: {said}");
    }
    let said = shown(journals.path(), &["explain", "a", "--store", "perhaps"]);
    assert!(said.contains("never says 'perhaps'") && said.ends_with("exit code 3\n"));
}

#[test]
fn a_manager_s_verdict() {
    let journals = journals(one_under(Authority::Manager, &[GRANTED]));
    let said = shown(journals.path(), &["explain", "a", "--at", "20"]);
    assert!(said.contains("rule      source-verdict-awaited"), "{said}");
    assert!(said.contains("otherwise verdict "), "{said}");
}

#[test]
fn one_job_among_many() {
    let journals = journals(many(8));
    let of = |arguments: &[&str]| {
        let mut all = vec!["explain", "a", "--at", "60"];
        all.extend(arguments);
        shown(journals.path(), &all)
    };
    let all = of(&[]);
    let jobs = all
        .lines()
        .filter(|line| !line.starts_with(' ') && line.contains("): it "))
        .count();
    assert!(jobs > 1, "{all}");
    let one = of(&["--domain", "db-1"]);
    assert!(one.contains("db-1") && !one.contains("web-0 ("), "{one}");
}

/// What holds still is said again, though the journal has it already.
#[test]
fn a_hold_that_still_holds() {
    let crash = crate::evacuation::Crash {
        host: 1,
        record: "migration-committed",
        gone: None,
    };
    let journals = journals(one(&[crash]));
    let recorded = shown(journals.path(), &["explain", "a"]);
    assert!(recorded.contains("source-granted-in-doubt"), "{recorded}");
    let said = shown(journals.path(), &["explain", "a", "--peer", "unreachable"]);
    assert!(said.contains("rule      source-granted-in-doubt"), "{said}");
    assert!(said.ends_with("exit code 1\n"), "{said}");
}

#[test]
fn nothing_is_open() {
    let journals = journals(one(&[GRANTED]));
    for at in [&["--at", "3"][..], &["--observe", "dead"]] {
        let mut arguments = vec!["explain", "a"];
        arguments.extend(at);
        let said = shown(journals.path(), &arguments);
        assert!(said.contains("no job is open"), "{said}");
        assert!(said.ends_with("exit code 0\n"), "{said}");
    }
}

/// A slip of the fingers is no reassuring answer.
#[test]
fn who_is_not_there_is_an_error() {
    let journals = journals(one(&[]));
    let uuid = "11001111-1111-1111-0000-000000000000";
    for (arguments, says) in [
        (vec!["--domain", "nobody"], "no job of a domain 'nobody'"),
        (vec!["--job", "999"], "no job 999"),
        (
            vec!["--job", "4", "--domain", "nobody"],
            "no job 4 of a domain 'nobody'",
        ),
    ] {
        for supposed in [&[][..], &["--at", "20"], &["--peer", "aborted"]] {
            let all = [&["explain", "a"], arguments.as_slice(), supposed].concat();
            let said = shown(journals.path(), &all);
            assert!(
                said.contains(says) && said.ends_with("exit code 3\n"),
                "{all:?}: {said}"
            );
        }
    }
    for domain in ["web-1", uuid] {
        let said = shown(journals.path(), &["explain", "a", "--domain", domain]);
        assert!(said.contains(" web-1 (job 4, record "), "{said}");
        // It is there, and its job is over.
        let said = shown(
            journals.path(),
            &["explain", "a", "--domain", domain, "--peer", "aborted"],
        );
        assert!(
            said.contains("no job is open") && said.ends_with("exit code 0\n"),
            "{said}"
        );
    }
}

#[test]
fn what_cannot_be_supposed() {
    let journals = journals(one(&[]));
    for (arguments, says) in [
        (["--at", "999"], "there is no record 999"),
        (["--at", "0"], "no record 0"),
        (["--observe", "asleep"], "there is no state 'asleep'"),
        (["--observe", "dead,running"], "shows no run state"),
        (["--observe", "running,paused"], "twice"),
        (["--peer", "yes"], "never says 'yes'"),
    ] {
        let mut all = vec!["explain", "a"];
        all.extend(arguments);
        let said = shown(journals.path(), &all);
        assert!(
            said.contains(says) && said.ends_with("exit code 3\n"),
            "{said}"
        );
    }
    // What is good is listed.
    let said = shown(journals.path(), &["explain", "a", "--observe", "asleep"]);
    for good in ["other-instance", "finish-migrate", "postcopy-paused"] {
        assert!(said.contains(good), "{said}");
    }
}
