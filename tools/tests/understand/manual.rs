//! Manual pages and completions.

use std::fs;
use std::process::Command;

use crate::{printed, shown};

#[test]
fn a_page_for_every_command() {
    let scratch = tempfile::tempdir().unwrap();
    printed(scratch.path(), &["generate", "man", "man/man1"]);
    let read = |name: &str| {
        let path = scratch.path().join("man/man1").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let verbs = [
        "inspect", "stats", "dump", "explain", "timeline", "diff", "libvirt", "verify", "repair",
        "reindex", "schema", "migrate",
    ];
    for verb in verbs {
        let page = read(&format!("phase-journal-{verb}.1"));
        let examples = page.matches("Example").count();
        assert!(
            page.contains(".SH SYNOPSIS") && examples == 1,
            "{verb}: {examples}"
        );
    }
    assert!(read("phase-journal.1").contains("Exit codes"));
}

#[test]
fn completions_for_each_shell() {
    let scratch = tempfile::tempdir().unwrap();
    for (shell, file) in [
        ("bash", "phase-journal.bash"),
        ("zsh", "_phase-journal"),
        ("fish", "phase-journal.fish"),
    ] {
        printed(
            scratch.path(),
            &["generate", "completions", shell, "--to", "made"],
        );
        let script = fs::read_to_string(scratch.path().join("made").join(file)).unwrap();
        assert_eq!(
            script,
            printed(scratch.path(), &["generate", "completions", shell])
        );
        for word in ["timeline", "perfetto", "observe"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    // What bash itself makes of it: the verbs that begin so.
    let completes = r#". made/phase-journal.bash; COMP_WORDS=(phase-journal ti); COMP_CWORD=1;
        $(complete -p phase-journal | sed 's/.* -F \([^ ]*\) .*/\1/') phase-journal ti phase-journal; echo "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    let output = bash
        .args(["-ec", completes])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "timeline\n",
        "{output:?}"
    );
}

#[test]
fn what_cannot_be_generated() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("file"), "x").unwrap();
    for arguments in [
        vec!["generate", "man", "file"],
        vec!["generate", "completions", "bash", "--to", "file"],
        vec!["generate", "completions", "csh"],
    ] {
        let said = shown(scratch.path(), &arguments);
        assert!(said.ends_with("exit code 3\n"), "{said}");
    }
}
