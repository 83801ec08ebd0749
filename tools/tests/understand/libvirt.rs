//! libvirt's status files: every job and phase, and what is no status file.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use crate::{printed, run, shown};

/// A status file after the shape that libvirt documents.
fn status(name: &str, state: &str, reason: &str, job: &str) -> String {
    format!(
        "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\
         <domstatus state='{state}' reason='{reason}' pid='4321'>\n  \
         <taint flag='high-privileges'/>\n  \
         <monitor path='/var/lib/libvirt/qemu/domain-3-{name}/monitor.sock' type='unix'/>\n  \
         <vcpus><vcpu id='0' pid='4330'/></vcpus>\n  {job}\n  \
         <domain type='kvm' id='3'>\n    <name>{name}</name>\n    \
         <uuid>6a1d2c3b-0000-4000-8000-000000000001</uuid>\n  </domain>\n</domstatus>\n"
    )
}

fn migration(direction: &str, phase: &str) -> String {
    format!(
        "<job type='none' async='migration {direction}' phase='{phase}' flags='0x1' startedAt='1767323045000'/>"
    )
}

fn file(directory: &Path, name: &str, text: &str) -> String {
    let name = format!("{name}.xml");
    fs::write(directory.join(&name), text).unwrap();
    name
}

/// Without what would be otherwise: the decisions alone.
fn decisions(said: &str) -> String {
    let lines = said.lines().filter(|line| {
        !line.starts_with("  otherwise") && !line.starts_with("  because") && !line.is_empty()
    });
    lines
        .collect::<Vec<_>>()
        .join("\n")
        .replace(" (6a1d2c3b-0000-4000-8000-000000000001, pid 4321)", "")
}

const PHASES: [&str; 16] = [
    "none",
    "perform2",
    "begin3",
    "perform3",
    "perform3_done",
    "confirm3_cancelled",
    "confirm3",
    "prepare",
    "finish2",
    "finish3",
    "postcopy_failed",
    "begin_resume",
    "perform_resume",
    "confirm_resume",
    "prepare_resume",
    "finish_resume",
];

#[test]
fn every_phase_of_a_migration() {
    let scratch = tempfile::tempdir().unwrap();
    let mut all = String::new();
    for direction in ["out", "in"] {
        let mut files = Vec::new();
        for phase in PHASES {
            let text = status(phase, "paused", "migration", &migration(direction, phase));
            files.push(file(scratch.path(), &format!("{direction}-{phase}"), &text));
        }
        let mut arguments = vec!["libvirt"];
        arguments.extend(files.iter().map(String::as_str));
        let output = run(scratch.path(), &arguments);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stdout).unwrap();
        writeln!(all, "{}", decisions(&said)).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn every_other_job() {
    let scratch = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for job in ["save", "dump", "snapshot"] {
        for (state, reason) in [
            ("paused", job),
            ("paused", "migration"),
            ("paused", "unknown"),
            ("paused", "user"),
            ("running", "booted"),
        ] {
            let xml = format!("<job type='none' async='{job}' phase='none' flags='0x0'/>");
            let name = format!("{job}-{state}-{reason}");
            files.push(file(
                scratch.path(),
                &name,
                &status(&name, state, reason, &xml),
            ));
        }
    }
    for (name, state, reason, job) in [
        (
            "starting",
            "paused",
            "starting up",
            "<job type='none' async='start' phase='none'/>",
        ),
        (
            "backup",
            "running",
            "booted",
            "<job type='none' async='backup' phase='none'/>",
        ),
        (
            "destroy",
            "running",
            "booted",
            "<job type='destroy' async='none'/>",
        ),
        ("idle", "running", "unpaused", ""),
        ("shutoff", "shutoff", "destroyed", ""),
        (
            "split",
            "paused",
            "post-copy",
            &migration("out", "perform3_done"),
        ),
        (
            "split-in",
            "running",
            "post-copy",
            &migration("in", "finish3"),
        ),
        ("runs", "running", "booted", &migration("out", "perform3")),
        (
            "runs-in",
            "running",
            "migrated",
            &migration("in", "finish3"),
        ),
    ] {
        files.push(file(
            scratch.path(),
            name,
            &status(name, state, reason, job),
        ));
    }
    let mut arguments = vec!["libvirt"];
    arguments.extend(files.iter().map(String::as_str));
    let output = run(scratch.path(), &arguments);
    insta::assert_snapshot!(decisions(&String::from_utf8(output.stdout).unwrap()));
}

/// The window that libvirt leaves undecided, in full.
#[test]
fn the_undecided_window() {
    let scratch = tempfile::tempdir().unwrap();
    file(
        scratch.path(),
        "web-1",
        &status(
            "web-1",
            "paused",
            "migration",
            &migration("out", "perform3_done"),
        ),
    );
    insta::assert_snapshot!(shown(scratch.path(), &["libvirt", "web-1.xml"]));
}

#[test]
fn with_a_look_at_qemu() {
    let scratch = tempfile::tempdir().unwrap();
    file(
        scratch.path(),
        "web-1",
        &status(
            "web-1",
            "paused",
            "migration",
            &migration("out", "perform3"),
        ),
    );
    for (look, libvirt, engine) in [
        (
            "running,active",
            "KEEP: migrate_cancel; it runs on",
            "source-perform-give-up",
        ),
        (
            "postmigrate,completed",
            "RESUME: migrate_cancel",
            "HOLD by source-perform-completed",
        ),
        ("dead", "REMOVE: ends", "source-perform-dead-asking"),
        ("mute", "KILL: a monitor", "qemu-mute"),
    ] {
        let said = shown(scratch.path(), &["libvirt", "web-1.xml", "--observe", look]);
        assert!(
            said.contains(libvirt) && said.contains(engine),
            "{look}: {said}"
        );
    }
}

#[test]
fn for_programs() {
    let scratch = tempfile::tempdir().unwrap();
    file(
        scratch.path(),
        "web-1",
        &status("web-1", "running", "booted", ""),
    );
    let said = printed(scratch.path(), &["libvirt", "web-1.xml", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said[0]["name"], "web-1");
    assert_eq!(said[0]["libvirt"][0]["does"], "keep");
    assert_eq!(said[0]["engine"], serde_json::Value::Null);
}

#[test]
fn what_is_no_status_file() {
    let scratch = tempfile::tempdir().unwrap();
    let laughs = "<!DOCTYPE d [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]><domstatus state='&b;'/>";
    let outside =
        "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domstatus>&x;</domstatus>";
    let good = status(
        "web-1",
        "paused",
        "migration",
        &migration("out", "perform3"),
    );
    let deep = format!("{}{}", "<a>".repeat(300_000), "</a>".repeat(300_000));
    let wide = format!("<domstatus>{}</domstatus>", "<a/>".repeat(1_100_000));
    for (name, text, says) in [
        ("empty", "", "no XML"),
        ("text", "hello", "no XML"),
        ("cut", &good[..good.len() / 2], "no XML"),
        ("laughs", laughs, "DTD"),
        ("outside", outside, "DTD"),
        ("undefined", "<domstatus>&nbsp;</domstatus>", "no XML"),
        ("deep", &deep, "the XML is a <a>"),
        ("wide", &wide, "no XML"),
        (
            "definition",
            "<domain><name>x</name></domain>",
            "a domain's definition",
        ),
        ("other", "<html/>", "the XML is a <html>"),
        ("stateless", "<domstatus/>", "has no state"),
        (
            "nameless",
            "<domstatus state='running'><domain/></domstatus>",
            "no <name>",
        ),
        ("domainless", "<domstatus state='running'/>", "no <domain>"),
        (
            "state",
            &good.replace("'paused'", "'asleep'"),
            "one of nostate, running",
        ),
        (
            "async",
            &good.replace("migration out", "migration up"),
            "one of none, migration out",
        ),
        (
            "phase",
            &good.replace("perform3'", "perform4'"),
            "there is no migration phase 'perform4'",
        ),
        (
            "job",
            &good.replace("type='none'", "type='odd'"),
            "one of none, query, destroy",
        ),
        (
            "save",
            &good.replace("migration out", "save"),
            "belongs to a migration",
        ),
        ("pid", &good.replace("4321", "x"), "is not a number"),
        ("escape", "<a\u{1b}[31m/>", "no XML"),
        (
            "bad-name",
            &good.replace("'migration out'", "'&lt;b&gt;&#27;[31m'"),
            "no XML",
        ),
    ] {
        let name = file(scratch.path(), name, text);
        let output = run(scratch.path(), &["libvirt", &name]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{name}: {error}");
        assert!(
            error.contains(says) && error.contains(&name),
            "{name}: {error}"
        );
        assert!(
            error.lines().count() == 1 && !error.contains('\u{1b}'),
            "{name}: {error}"
        );
    }
}

#[test]
fn what_cannot_be_read() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("binary.xml"), [0xff, 0xfe, 0, 1]).unwrap();
    let huge = fs::File::create(scratch.path().join("huge.xml")).unwrap();
    huge.set_len(17 * 1024 * 1024).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(scratch.path().join("pipe.xml"))
        .status();
    assert!(made.unwrap().success());
    for (name, says) in [
        ("missing.xml", "missing.xml"),
        (".", "not a regular file"),
        ("pipe.xml", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("binary.xml", "UTF-8"),
        ("huge.xml", "longer than"),
    ] {
        let said = shown(scratch.path(), &["libvirt", name]);
        assert!(
            said.contains(says) && said.ends_with("exit code 3\n"),
            "{name}: {said}"
        );
    }
    // One bad file keeps no good one from being told.
    file(
        scratch.path(),
        "web-1",
        &status("web-1", "running", "booted", ""),
    );
    let said = shown(scratch.path(), &["libvirt", "missing.xml", "web-1.xml"]);
    assert!(
        said.contains("web-1 (") && said.contains("1 of 2 files"),
        "{said}"
    );
    assert!(said.ends_with("exit code 3\n"), "{said}");
}

/// A path is bytes, and a name may hold what a terminal obeys: neither ends the command or is printed raw.
#[test]
fn paths_and_names_that_are_no_text() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join(OsStr::from_bytes(b"web-\xff.xml"));
    let text = status("web\u{9b}31m\u{202e}", "running", "booted", "");
    fs::write(&path, text).unwrap();
    for json in [&[][..], &["--json"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_phase-journal"))
            .arg("libvirt")
            .args(json)
            .arg(&path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let is_obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(said.contains("202e") && !said.contains(is_obeyed), "{said}");
    }
}

/// A domain in doubt stands out, and nothing but its title is painted; NO_COLOR is heeded.
#[test]
fn what_is_in_doubt_stands_out() {
    let scratch = tempfile::tempdir().unwrap();
    let done = status(
        "doubt",
        "paused",
        "migration",
        &migration("out", "perform3_done"),
    );
    let files = [
        file(scratch.path(), "doubt", &done),
        file(
            scratch.path(),
            "idle",
            &status("idle", "running", "booted", ""),
        ),
    ];
    let painted = |variables: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phase-journal"));
        command
            .arg("libvirt")
            .args(&files)
            .current_dir(scratch.path());
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
        for variable in variables {
            command.env(variable, "1");
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let (plain, colours) = (painted(&[]), painted(&["CLICOLOR_FORCE"]));
    assert!(!plain.contains('\u{1b}'), "{plain}");
    assert_eq!(painted(&["CLICOLOR_FORCE", "NO_COLOR"]), plain);
    let title = |name: &str| {
        let mut lines = colours.lines();
        let line = lines.find(|line| line.contains(&format!("{name} (")));
        line.unwrap().to_owned()
    };
    assert!(title("doubt").starts_with("\u{1b}[33m"), "{colours}");
    assert!(title("idle").starts_with("\u{1b}[1m"), "{colours}");
    assert_eq!(colours.matches("\u{1b}[0m").count(), 2, "{colours}");
    let bare = colours
        .replace("\u{1b}[33m", "")
        .replace("\u{1b}[1m", "")
        .replace("\u{1b}[0m", "");
    assert_eq!(bare, plain);
}
