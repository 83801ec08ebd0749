//! The code's own rules: who may import whom, pure core, file sizes, rule ids.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the main crate and what of it they may import; everything may import journal-format.
/// No arrow goes back: engine and journal do not know each other, the wire knows no jobs.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("engine", &[]),
    ("journal", &[]),
    ("keep", &[]),
    ("node", &["engine", "journal"]),
    ("qmp", &["journal", "keep"]),
    ("sidecar", &["engine", "journal", "keep", "node", "qmp"]),
    ("sim", &["engine", "journal", "node"]),
];

/// What the pure core must not mention.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::time",
    "std::thread",
    "std::io",
    "std::os",
    "std::env",
    "tokio",
    "tracing",
    "async ",
    "SystemTime",
    "Instant::now",
    "println!",
    "eprintln!",
];

/// Lines of a file without its tests.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(under: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![under.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {}", under.display());
    found
}

/// A file without its test module and without comments.
fn code(text: &str) -> String {
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().collect();
    parts
        .iter()
        .any(|part| *part == "tests" || *part == "tests.rs" || *part == "testing.rs")
}

#[test]
fn imports_point_one_way() {
    for (module, allowed) in MAY_IMPORT {
        let folder = root().join("src").join(module);
        let files = if folder.is_dir() {
            sources(&folder)
        } else {
            let path = folder.with_extension("rs");
            let text = fs::read_to_string(&path).unwrap();
            vec![(path, text)]
        };
        for (path, text) in files {
            if is_test(&path) {
                continue;
            }
            for (other, _) in MAY_IMPORT {
                let imports = code(&text).contains(&format!("crate::{other}"));
                let fine = other == module || allowed.contains(other);
                assert!(!imports || fine, "{} imports {other}", path.display());
            }
        }
    }
}

#[test]
fn the_core_is_pure() {
    for (path, text) in sources(&root().join("src/engine")) {
        if is_test(&path) {
            continue;
        }
        for word in IMPURE {
            assert!(
                !code(&text).contains(word),
                "{} mentions {word}",
                path.display()
            );
        }
    }
}

#[test]
fn files_stay_small_enough_to_hold_in_the_head() {
    for under in [
        "src",
        "journal-format/src",
        "tools/src",
        "bench/src",
        "tests",
    ] {
        for (path, text) in sources(&root().join(under)) {
            let text = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for under in [
        "src",
        "journal-format/src",
        "tools/src",
        "bench/src",
        "tests",
    ] {
        for (path, text) in sources(&root().join(under)) {
            assert!(text.starts_with("//!"), "{} has no header", path.display());
            assert!(text.is_ascii(), "{} is not ASCII", path.display());
        }
    }
}

/// Every rule of the format is cited in code and in a test.
#[test]
fn every_format_rule_is_cited() {
    let format = fs::read_to_string(root().join("journal-format/FORMAT.md")).unwrap();
    let rules: Vec<&str> = format
        .lines()
        .filter_map(|line| line.strip_prefix("**[F"))
        .filter_map(|line| line.split(']').next())
        .collect();
    assert!(rules.len() >= 10, "FORMAT.md has only the rules {rules:?}");
    let cites = |text: &str, rule: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| word == format!("F{rule}"))
    };
    let code = [
        sources(&root().join("journal-format/src")),
        sources(&root().join("src/journal")),
    ];
    let tests = [
        sources(&root().join("journal-format/tests")),
        sources(&root().join("src/journal")),
    ];
    for rule in rules {
        let in_code = code
            .iter()
            .flatten()
            .any(|(path, text)| !is_test(path) && cites(text, rule));
        let in_tests = tests
            .iter()
            .flatten()
            .any(|(path, text)| is_test(path) && cites(text, rule));
        assert!(in_code, "F{rule} is not cited in code");
        assert!(in_tests, "F{rule} is not cited in a test");
    }
}
