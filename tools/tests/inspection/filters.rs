//! Which records are shown, and how.

use journal_format::record::RecordBody;

use super::promises::changed;
use super::*;

/// The lines that a filter leaves of a dump, as LSNs.
fn lsns(journal: &TempDir, arguments: &[&str]) -> Vec<u64> {
    let all = [arguments, &["--json"]].concat();
    let text = said(&on("dump", &[journal.path()], &all), 0);
    values(&text)
        .iter()
        .map(|record| record["lsn"].as_u64().unwrap())
        .collect()
}

fn all(journal: &TempDir) -> Vec<Value> {
    values(&said(&on("dump", &[journal.path()], &["--json"]), 0))
}

/// The LSNs of those records that fit.
fn of(records: &[Value], fits: impl Fn(&Value) -> bool) -> Vec<u64> {
    let fitting = records.iter().filter(|record| fits(record));
    fitting
        .map(|record| record["lsn"].as_u64().unwrap())
        .collect()
}

#[test]
fn each_filter_leaves_what_it_says() {
    let journal = journal(true);
    let records = all(&journal);
    let job = records
        .iter()
        .find(|record| record["type"] == "job-begun")
        .unwrap();
    let job = job["lsn"].as_u64().unwrap();
    let migration = "22222222-2222-2222-2222-222222222222";
    let of_job = |record: &Value| record["job"] == job;
    for (arguments, expected) in [
        (
            vec!["--domain", "web-1"],
            of(&records, |one| !one["domain"].is_null()),
        ),
        (
            vec!["--domain", "11111111-1111-1111-1111-111111111111"],
            of(&records, |one| !one["domain"].is_null()),
        ),
        (vec!["--migration", migration], of(&records, of_job)),
        (
            vec!["--type", "decided,job-ended"],
            of(&records, |one| {
                one["type"] == "decided" || one["type"] == "job-ended"
            }),
        ),
        (
            vec!["--type", "21"],
            of(&records, |one| one["type"] == "decided"),
        ),
        (vec!["--from", "10", "--to", "12"], vec![10, 11, 12]),
        (
            vec!["--decision", "hold"],
            of(&records, |one| one["body"]["decision"] == "hold"),
        ),
        (
            vec!["--decision", "kill", "--decision", "hold"],
            of(&records, |one| {
                one["type"] == "decided" && one["body"]["decision"] != "confirm"
            }),
        ),
    ] {
        assert_eq!(lsns(&journal, &arguments), expected, "{arguments:?}");
        assert!(!expected.is_empty(), "{arguments:?}");
    }
    assert_eq!(
        lsns(&journal, &["--job", &job.to_string()]),
        of(&records, of_job)
    );
    // Of a job that is in a phase: from its record on, up to the next one's.
    let entered = |phase: &str| {
        let found = records
            .iter()
            .find(|record| record["body"]["phase"] == phase);
        found.unwrap()["lsn"].as_u64().unwrap()
    };
    let (perform, done) = (entered("perform3"), entered("perform3_done"));
    let expected = of(&records, |one| {
        of_job(one) && (perform..done).contains(&one["lsn"].as_u64().unwrap())
    });
    assert_eq!(lsns(&journal, &["--phase", "perform3"]), expected);
}

/// A record of one type is shown as among all others, though those others were not looked at.
#[test]
fn each_type_alone_is_shown_as_among_all() {
    let journals = [journal(true), changed(|_| ())];
    for journal in &journals {
        for format in ["json", "text", "table"] {
            let dump = |arguments: &[&str]| {
                let all = [arguments, &["-o", format]].concat();
                said(&on("dump", &[journal.path()], &all), 0)
            };
            let all = dump(&[]);
            let mut seen = 0;
            for (_, name) in RecordBody::TYPES {
                let alone = dump(&["--type", name]);
                let records = alone.lines().filter(|line| line.contains(name));
                for line in records {
                    seen += 1;
                    assert!(all.lines().any(|one| one == line), "{format}: {line}");
                }
            }
            assert!(seen >= 30, "{format}: {seen}");
        }
    }
}

#[test]
fn by_time_and_boot() {
    let journal = journal(true);
    let records = all(&journal);
    let middle = records[records.len() / 2]["time"].as_u64().unwrap();
    let seconds = format!("@{}.{:09}", middle / 1_000_000_000, middle % 1_000_000_000);
    let since = of(&records, |one| one["time"].as_u64().unwrap() >= middle);
    assert_eq!(lsns(&journal, &["--since", &seconds]), since);
    let until = of(&records, |one| one["time"].as_u64().unwrap() <= middle);
    assert_eq!(lsns(&journal, &["-U", &seconds]), until);
    let everything = of(&records, |_| true);
    assert_eq!(
        lsns(
            &journal,
            &["--since", "2026-01-02", "--until", "2026-01-02 03:05"]
        ),
        everything
    );
    assert_eq!(
        lsns(&journal, &["--since", "2026-01-02 03:04:06"]),
        Vec::<u64>::new()
    );
    assert_eq!(lsns(&journal, &["-S", "-9999d"]), everything);
    for boot in ["0", "b0b0b0b0-b0b0-b0b0-b0b0-b0b0b0b0b0b0"] {
        assert_eq!(lsns(&journal, &["--boot", boot]), everything, "{boot}");
    }
    assert_eq!(lsns(&journal, &["-b"]), everything);
    assert_eq!(
        lsns(&journal, &["--boot", &"00".repeat(16)]),
        Vec::<u64>::new()
    );
    refused(
        &on("dump", &[journal.path()], &["--boot", "-1"]),
        "no boot -1",
    );
}

#[test]
fn the_last_and_the_newest_first() {
    let journal = journal(true);
    let forwards = of(&all(&journal), |_| true);
    let backwards: Vec<u64> = forwards.iter().rev().copied().collect();
    assert_eq!(lsns(&journal, &["--reverse"]), backwards);
    for last in [0, 1, 5, 20, 1000] {
        let kept = &forwards[forwards.len().saturating_sub(last)..];
        let last = last.to_string();
        assert_eq!(lsns(&journal, &["-n", &last]), kept, "{last}");
        let newest: Vec<u64> = kept.iter().rev().copied().collect();
        assert_eq!(lsns(&journal, &["-r", "-n", &last]), newest, "{last}");
    }
    assert_eq!(
        lsns(&journal, &["-r", "--from", "10", "--to", "12"]),
        [12, 11, 10]
    );
    // The same lines, whichever way they were read.
    let text = said(&on("dump", &[journal.path()], &[]), 0);
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("--"))
        .collect();
    lines.reverse();
    let text = said(&on("dump", &[journal.path()], &["-r"]), 0);
    let reversed: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("--"))
        .collect();
    assert_eq!(reversed, lines);
}

/// Names of records before the first one that is shown are known all the same.
#[test]
fn a_dump_that_begins_late_shows_the_same() {
    let journal = journal(true);
    let whole = said(&on("dump", &[journal.path()], &["--json"]), 0);
    let count = whole.lines().count();
    for from in 1..=count {
        let output = on(
            "dump",
            &[journal.path()],
            &["--json", "--from", &from.to_string()],
        );
        let expected: Vec<&str> = whole.lines().skip(from - 1).collect();
        assert_eq!(
            said(&output, 0).lines().collect::<Vec<_>>(),
            expected,
            "from {from}"
        );
    }
}

#[test]
fn what_no_record_has_is_an_error() {
    let journal = journal(true);
    for (arguments, named) in [
        (vec!["--domain", "web-2"], "no domain 'web-2'"),
        (
            vec!["--domain", "web-2", "--from", "20"],
            "no domain 'web-2'",
        ),
        (
            vec!["--domain", "web\u{1b}[31m"],
            "no domain 'web\\u{1b}[31m'",
        ),
        (
            vec!["--domain", "22222222-1111-1111-1111-111111111111"],
            "no domain",
        ),
        (vec!["--job", "9"], "no job 9"),
        (
            vec!["--migration", "11111111-1111-1111-1111-111111111111"],
            "no migration",
        ),
        (vec!["--migration", "x"], "no UUID"),
        (vec!["--type", "decision"], "no record type 'decision'"),
        (vec!["--phase", "perform"], "perform3_done"),
        (vec!["--decision", "stop"], "kill, resume, confirm, hold"),
        (vec!["--since", "whenever"], "yesterday"),
        (vec!["--boot", "x"], "is no boot"),
    ] {
        refused(&on("dump", &[journal.path()], &arguments), named);
    }
    // One that is there, but not where was looked.
    let text = said(
        &on(
            "dump",
            &[journal.path()],
            &["--domain", "web-1", "--to", "1"],
        ),
        0,
    );
    assert_eq!(text, "");
}

#[test]
fn as_a_table() {
    let journal = journal(true);
    let output = on("dump", &[journal.path()], &["-o", "table", "--to", "14"]);
    insta::assert_snapshot!(shown(&[journal.path()], &output));
}

#[test]
fn as_bytes_with_their_names() {
    let journal = journal(true);
    let arguments = [
        "-o",
        "hex",
        "--type",
        "job-begun,phase-entered",
        "--to",
        "10",
        "--headers",
    ];
    let output = on("dump", &[journal.path()], &arguments);
    insta::assert_snapshot!(shown(&[journal.path()], &output));
}

/// Every byte of the file's records is shown, and just those.
#[test]
fn the_bytes_are_those_of_the_file() {
    let file = golden("every-record.seg");
    let bytes = fs::read(&file).unwrap();
    let text = said(&on("dump", &[&file], &["-o", "hex"]), 0);
    let mut count = 0;
    for line in text.lines() {
        let Some((place, rest)) = line.split_once("  ") else {
            continue;
        };
        let (8, Ok(place)) = (place.len(), usize::from_str_radix(place, 16)) else {
            continue;
        };
        let pairs = rest.get(..47).unwrap_or(rest).split_whitespace();
        for (offset, pair) in pairs.enumerate() {
            assert_eq!(
                u8::from_str_radix(pair, 16).unwrap(),
                bytes[place + offset],
                "{line}"
            );
            count += 1;
        }
    }
    let scan = journal_format::scan::scan(&bytes).unwrap();
    let length: u32 = scan.batches.iter().map(|batch| batch.header.length).sum();
    assert_eq!(count, length);
}

#[test]
fn the_types() {
    let output = command(&["dump", "--type", "list"]).output().unwrap();
    let text = said(&output, 0);
    assert!(text.contains(" 21  decided\n"), "{text}");
    assert_eq!(
        text.lines().count(),
        journal_format::record::RecordBody::TYPES.len()
    );
}

#[test]
fn one_file_is_a_journal_too() {
    let journal = journal(true);
    let whole = said(&on("dump", &[journal.path()], &["--json"]), 0);
    let mut parts = String::new();
    for number in 1..=2 {
        let file = journal.path().join(format!("{number:016}.seg"));
        parts += &said(&on("dump", &[&file], &["--json"]), 0);
        said(&on("verify", &[&file], &[]), 0);
    }
    let lsns =
        |text: &str| -> Vec<Value> { values(text).iter().map(|one| one["lsn"].clone()).collect() };
    assert_eq!(lsns(&parts), lsns(&whole));
    // Under any name.
    let copy = journal.path().join("copy of a segment");
    fs::copy(journal.path().join("0000000000000002.seg"), &copy).unwrap();
    said(&on("inspect", &[&copy], &[]), 0);
}

#[test]
fn several_journals_in_the_order_of_their_times() {
    let (first, second) = (journal(true), journal(false));
    let paths = [first.path(), second.path()];
    let records = values(&said(&on("dump", &paths, &["--json"]), 0));
    let times: Vec<u64> = records
        .iter()
        .map(|one| one["time"].as_u64().unwrap())
        .collect();
    assert!(times.is_sorted());
    for (journal, path) in [(&first, paths[0]), (&second, paths[1])] {
        let label = path.file_name().unwrap().to_str().unwrap();
        let of_one = records.iter().filter(|one| one["journal"] == label);
        let of_one: Vec<u64> = of_one.map(|one| one["lsn"].as_u64().unwrap()).collect();
        assert_eq!(of_one, of(&all(journal), |_| true));
    }
    let backwards = values(&said(&on("dump", &paths, &["--json", "-r"]), 0));
    assert_eq!(backwards.len(), records.len());
    let last = values(&said(&on("dump", &paths, &["--json", "-n", "3"]), 0));
    assert_eq!(last.len(), 3);
    refused(&on("dump", &paths, &["--follow"]), "one journal");
}

/// A fleet's journals: a guest is in some of them.
#[test]
fn of_several_journals_one_is_enough_to_know_a_name() {
    let journal = journal(true);
    let other = tempfile::tempdir().unwrap();
    fs::copy(
        golden("every-record.seg"),
        other.path().join("0000000000000001.seg"),
    )
    .unwrap();
    let both = [journal.path(), other.path()];
    let job = [
        "--job",
        "4",
        "--migration",
        "22222222-2222-2222-2222-222222222222",
    ];
    for verb in ["dump", "stats"] {
        for arguments in [&["--domain", "web-1"][..], &job] {
            refused(&on(verb, &[other.path()], arguments), "there is no");
            let text = said(&on(verb, &both, arguments), 0);
            assert!(text.contains("job-begun"), "{verb} {arguments:?}: {text}");
        }
        for arguments in [
            &["--domain", "web-2"][..],
            &["--domain", "web-1", "--domain", "web-2"],
        ] {
            let output = on(verb, &both, arguments);
            assert_eq!(output.status.code(), Some(3), "{output:?}");
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(error.contains("no domain 'web-2'"), "{verb}: {error}");
        }
    }
}
