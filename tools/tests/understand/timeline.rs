//! Pictures: what they show, that they are always the same, and that no name does harm in them.

use std::fs;

use serde_json::Value;

use crate::evacuation::{GRANTED, World, hostile, many, one, plan};
use crate::{journals, printed, run, shown};

/// A picture without its style, which says nothing about the journal.
fn without_style(svg: &str) -> String {
    let (before, rest) = svg.split_once("<style>").unwrap();
    let (_, after) = rest.split_once("</style>").unwrap();
    format!("{before}{after}")
}

#[test]
fn one_migration() {
    let journals = journals(one(&[GRANTED]));
    let svg = printed(journals.path(), &["timeline", "a", "b", "--svg"]);
    insta::assert_snapshot!(without_style(&svg));
}

#[test]
fn an_evacuation() {
    let journals = journals(many(6));
    let svg = printed(journals.path(), &["timeline", "a", "b", "c", "--svg"]);
    insta::assert_snapshot!(without_style(&svg));
}

/// The numbers that people will quote are those of the story: the guest stops 2.3 s after `migrate`, its
/// sidecar is away for 180 ms, and the clocks are 37 s apart.
#[test]
fn downtime_restart_and_clocks_are_measured() {
    let journals = journals(one(&[GRANTED]));
    let svg = printed(journals.path(), &["timeline", "a", "b", "--svg"]);
    for said in [
        "the guest stood still for 182.6 ms (\u{b1} 550 us, two clocks)",
        "its clock was 37.0 s ahead, \u{b1} 550 us, by the messages",
        "180.0 ms",
        "runs at a",
        "runs at b",
    ] {
        assert!(svg.contains(said), "{said}: {svg}");
    }
}

/// Of one side alone no more is said than it knows.
#[test]
fn one_side_alone() {
    let journals = journals(one(&[GRANTED]));
    let source = printed(journals.path(), &["timeline", "a", "--svg"]);
    assert!(
        source.contains("stands still 1.0 ms to 183.1 ms"),
        "{source}"
    );
    assert!(source.contains("runs at the destination"), "{source}");
    let destination = printed(journals.path(), &["timeline", "b", "--svg"]);
    assert!(destination.contains("no record shows the guest standing still"));
    assert!(!destination.contains("runs at a"));
}

/// Nobody watched when it stopped: 645 ms after the begin, in a silence from 500 to 900 ms.
#[test]
fn a_stop_in_a_silence() {
    let mut world = World::new(&[0, 0], &[], 1);
    world.plan(plan("web-1", 600));
    world.crash_at(0, 500, 400);
    world.run();
    let journals = journals(world);
    let svg = printed(journals.path(), &["timeline", "a", "b", "--svg"]);
    // The last record before the silence is 48 ms after the begin, the next one 900.
    assert!(svg.contains("stands still 1.3 ms to 852.2 ms"), "{svg}");
}

#[test]
fn always_the_same() {
    let journals = journals(many(9));
    for form in ["--svg", "--html", "--perfetto"] {
        let arguments = ["timeline", "a", "b", "c", form];
        let (one, other) = (
            printed(journals.path(), &arguments),
            printed(journals.path(), &arguments),
        );
        assert!(one == other, "{form}");
    }
}

#[test]
fn a_file_holds_what_would_be_printed() {
    let journals = journals(one(&[]));
    let printed = printed(journals.path(), &["timeline", "a", "b", "--html"]);
    let output = run(
        journals.path(),
        &["timeline", "a", "b", "--html", "-o", "page.html"],
    );
    assert!(output.stdout.is_empty() && output.status.success());
    assert_eq!(
        fs::read_to_string(journals.path().join("page.html")).unwrap(),
        printed
    );
}

/// A page asks nothing of a network and holds every record, as text too.
#[test]
fn a_page_stands_for_itself() {
    let journals = journals(one(&[GRANTED]));
    let page = printed(journals.path(), &["timeline", "a", "b", "--html"]);
    assert!(page.contains("default-src 'none'"));
    for outside in ["src=\"http", "href=\"http", "url(http", "@import", "//cdn"] {
        assert!(!page.contains(outside), "{outside}");
    }
    // Records of the job: all but those of the openings and the domains.
    for (journal, records) in [("a", 32 - 2), ("b", 20)] {
        let dump = printed(journals.path(), &["dump", journal, "--job", "4"]);
        let dumped = dump.lines().filter(|line| !line.starts_with("--")).count();
        assert_eq!(dumped, records, "{dump}");
        let rows = page
            .matches(&format!("<td><bdi>{journal}</bdi></td>"))
            .count();
        assert_eq!(rows, records);
    }
}

#[test]
fn names_are_text() {
    let journals = journals(hostile());
    for form in ["--svg", "--html", "--perfetto"] {
        let drawn = printed(journals.path(), &["timeline", "a", "b", form]);
        // A trace is JSON: nobody reads it as markup.
        let is_markup = form != "--perfetto";
        for markup in ["<script>alert", "</title><img"] {
            assert!(!(is_markup && drawn.contains(markup)), "{form}: {markup}");
        }
        assert!(
            !drawn.contains('\u{202e}'),
            "{form}: a turned direction of writing"
        );
        assert!(
            drawn.contains("202e"),
            "{form}: and it is shown that there was one"
        );
    }
    let svg = printed(journals.path(), &["timeline", "a", "b", "--svg"]);
    let read = roxmltree::Document::parse(&svg).unwrap();
    assert!(read.descendants().all(|node| !node.has_tag_name("script")));
    assert!(svg.contains("&lt;script&gt;alert(1)"));
}

/// What the Trace Event Format asks for, and that slices of one thread nest: else a viewer drops them.
#[test]
fn a_trace() {
    let journals = journals(many(8));
    let trace = printed(journals.path(), &["timeline", "a", "b", "c", "--perfetto"]);
    let trace: Value = serde_json::from_str(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let number = |event: &Value, field: &str| event[field].as_f64().unwrap();
    let mut slices: Vec<(u64, u64, f64, f64)> = Vec::new();
    let (mut begun, mut ended, mut bound) = (Vec::new(), Vec::new(), Vec::new());
    for event in events {
        let (pid, tid) = (
            event["pid"].as_u64().unwrap(),
            event["tid"].as_u64().unwrap(),
        );
        match event["ph"].as_str().unwrap() {
            "M" => assert!(event["args"]["name"].is_string()),
            "X" => {
                assert!(
                    number(event, "ts") >= 0.0 && number(event, "dur") >= 0.0,
                    "{event}"
                );
                let end = number(event, "ts") + number(event, "dur");
                slices.push((pid, tid, number(event, "ts"), end));
            }
            "i" => assert_eq!(event["s"], "t"),
            flow @ ("s" | "f") => {
                let (id, at) = (event["id"].as_u64().unwrap(), number(event, "ts"));
                let ends = if flow == "s" { &mut begun } else { &mut ended };
                ends.push((id, at));
                bound.push((pid, tid, at));
            }
            other => panic!("an event of phase {other}"),
        }
    }
    assert!(slices.len() > 50, "{}", slices.len());
    let overlap = |one: &(u64, u64, f64, f64), other: &(u64, u64, f64, f64)| {
        let same = (one.0, one.1) == (other.0, other.1);
        same && one.2 < other.2 && other.2 < one.3 && one.3 < other.3
    };
    for one in &slices {
        assert!(
            !slices.iter().any(|other| overlap(one, other)),
            "{one:?} overlaps another slice"
        );
    }
    assert!(!begun.is_empty() && begun.len() == ended.len());
    // A flow binds to the slice around it.
    for (pid, tid, at) in bound {
        let mut slices = slices.iter();
        let is_around = |one: &(u64, u64, f64, f64)| {
            (one.0, one.1) == (pid, tid) && (one.2..one.3).contains(&at)
        };
        assert!(slices.any(is_around), "a flow of {pid}, {tid} at {at}");
    }
    for (id, ts) in &begun {
        let end = ended.iter().find(|(other, _)| other == id).unwrap();
        assert!(end.1 >= *ts, "word {id} was heard before it was said");
    }
}

#[test]
fn what_is_wanted() {
    let journals = journals(many(6));
    let of = |arguments: &[&str]| {
        let mut all = vec!["timeline", "a", "b", "c", "--svg"];
        all.extend(arguments);
        printed(journals.path(), &all)
    };
    assert!(of(&["--domain", "db-1"]).contains("Timeline of db-1"));
    assert!(of(&["-n", "1"]).contains("Timeline of ldap-5"));
    assert!(of(&["--scale", "linear", "--domain", "db-1"]).contains("lengths are to scale"));
    // Both sides, though only one of them has that job.
    let both = of(&["--job", "9"]);
    assert!(
        both.contains(">source</text>") && both.contains(">destination</text>"),
        "{both}"
    );
    let none = shown(
        journals.path(),
        &["timeline", "a", "--svg", "--domain", "nobody"],
    );
    insta::assert_snapshot!(none, @r"
    -- standard error
    phase-journal: no job in these journals is what was asked for
    exit code 3
    ");
}

/// Journals are told apart by as much of their paths as that takes.
#[test]
fn journals_of_one_name() {
    let journals = journals(one(&[]));
    for host in ["a", "b"] {
        let path = |name: &str| journals.path().join(name);
        fs::create_dir(path(&format!("host-{host}"))).unwrap();
        fs::rename(path(host), path(&format!("host-{host}/journal"))).unwrap();
    }
    let arguments = ["timeline", "host-a/journal", "host-b/journal", "--svg"];
    let svg = printed(journals.path(), &arguments);
    assert!(svg.contains("runs at host-a/journal"), "{svg}");
    assert!(svg.contains("runs at host-b/journal"), "{svg}");
}

#[test]
fn lost_records_are_shown_and_told() {
    let journals = journals(one(&[GRANTED]));
    let file = journals.path().join("a/0000000000000001.seg");
    let mut bytes = fs::read(&file).unwrap();
    let scan = journal_format::scan::scan(&bytes).unwrap();
    let record = &scan.batches[scan.batches.len() / 2].records[0];
    bytes[usize::try_from(record.offset).unwrap() + 60] ^= 1;
    fs::write(&file, bytes).unwrap();
    let output = run(journals.path(), &["timeline", "a", "b", "--svg"]);
    let svg = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        svg.contains("records lost") && svg.contains("are lost:"),
        "{svg}"
    );
}

#[test]
fn what_cannot_be_drawn() {
    let journals = journals(one(&[]));
    for (arguments, says) in [
        (vec!["timeline", "a"], "--svg"),
        (
            vec!["timeline", "a", "--svg", "--html"],
            "cannot be used with",
        ),
        (vec!["timeline", "--svg"], "DIRECTORY"),
        (vec!["timeline", "nowhere", "--svg"], "nowhere"),
        (
            vec!["timeline", "a", "--svg", "-o", "no/such/file"],
            "no/such/file",
        ),
        (vec!["timeline", "a", "--svg", "-n", "0"], "0"),
        (
            vec!["timeline", "a", "./a", "--svg"],
            "are the same journal",
        ),
    ] {
        let said = shown(journals.path(), &arguments);
        assert!(
            said.contains(says) && said.ends_with("exit code 3\n"),
            "{arguments:?}: {said}"
        );
    }
}
