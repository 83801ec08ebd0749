//! The format read twice: by this program, and by a reader that Kaitai Struct makes of format.ksy and
//! that shares no code with it. Both must say the same of every journal, field by field.
//!
//! The compiler and the Python library lie under target/kaitai, where tools/install puts them. Without
//! them these tests fail: a format that only its own program reads is not specified.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[path = "../../journal-format/tests/support/mod.rs"]
mod format;
#[path = "support/story.rs"]
mod story;

use serde_json::Value;
use tempfile::TempDir;

const BLOCK: usize = 4096;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What tools/install put there.
fn tool(name: &str) -> PathBuf {
    let path = root().join("target/kaitai").join(name);
    assert!(
        path.exists(),
        "there is no {}: tools/test installs it",
        path.display()
    );
    path
}

/// Runs a program that must succeed; its output as text.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// The reader that is made of a format.ksy.
struct Reader(TempDir);

impl Reader {
    fn new(ksy: &Path) -> Reader {
        let directory = tempfile::tempdir().unwrap();
        run(Command::new("node")
            .arg(root().join("journal-format/tests/kaitai/compile.js"))
            .arg(tool("node_modules").parent().unwrap())
            .arg(ksy)
            .arg(directory.path()));
        Reader(directory)
    }

    fn run(&self, arguments: &[&str], journals: &Journals) -> String {
        run(Command::new(tool("python/bin/python"))
            .arg("-B")
            .arg(root().join("journal-format/tests/kaitai/read.py"))
            .arg(self.0.path())
            .args(arguments)
            .args(journals.directories.values()))
    }

    /// What it says of each journal, a value for each line.
    fn read(&self, journals: &Journals) -> BTreeMap<PathBuf, Vec<Value>> {
        let mut said: BTreeMap<PathBuf, Vec<Value>> = BTreeMap::new();
        let mut of = PathBuf::new();
        for line in self.run(&[], journals).lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            if let Some(directory) = value["directory"].as_str() {
                of = PathBuf::from(directory);
            } else {
                said.entry(of.clone()).or_default().push(value);
            }
        }
        said
    }
}

fn format_ksy() -> PathBuf {
    root().join("journal-format/format.ksy")
}

/// What `dump` says of a journal, without what is not on the disk but concluded: the name of a
/// record's domain, its job, and the words for what is wrong.
fn dumped(journal: &Path) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_phase-journal"))
        .args(["dump", "--json", "--headers"])
        .arg(journal)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Damage is told by the exit code, and that all of it is of another version.
    let codes = match text.contains("\"how\":\"not-read\"") {
        true => 3..=3,
        false => 0..=2,
    };
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| codes.contains(&code)),
        "{code:?}: {text}"
    );
    let lines = text.lines().map(|line| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        let fields = value.as_object_mut().unwrap();
        if fields.contains_key("lsn") {
            assert!(fields.remove("name").is_some() && fields.remove("job").is_some());
        }
        for around in ["gap", "segment"] {
            if let Some(told) = fields.get_mut(around) {
                told.as_object_mut().unwrap().remove("why");
            }
        }
        value
    });
    lines.collect()
}

/// Journals by name.
struct Journals {
    scratch: TempDir,
    directories: BTreeMap<String, PathBuf>,
}

impl Journals {
    fn new() -> Journals {
        Journals {
            scratch: tempfile::tempdir().unwrap(),
            directories: BTreeMap::new(),
        }
    }

    fn directory(&mut self, name: &str) -> PathBuf {
        let directory = self.scratch.path().join(name);
        fs::create_dir(&directory).unwrap();
        let known = self.directories.insert(name.to_owned(), directory.clone());
        assert!(known.is_none(), "{name} twice");
        directory
    }

    /// A journal of these segments under these numbers.
    fn add(&mut self, name: &str, segments: &[(u64, &[u8])]) {
        let directory = self.directory(name);
        for (number, bytes) in segments {
            fs::write(directory.join(format!("{number:016}.seg")), bytes).unwrap();
        }
    }
}

/// The number in a segment's header, or in its copy where that is lost.
fn number(segment: &[u8]) -> u64 {
    let at = |at: usize| u64::from_le_bytes(segment[at..at + 8].try_into().unwrap());
    match at(48) {
        0 => at(segment.len() - BLOCK + 48),
        number => number,
    }
}

/// The golden segments by name.
fn golden() -> BTreeMap<String, Vec<u8>> {
    let directory = root().join("journal-format/tests/golden");
    let files = fs::read_dir(directory).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    });
    let golden: BTreeMap<_, _> = files.collect();
    assert!(golden.len() >= 13, "{:?}", golden.keys());
    golden
}

/// Every golden segment alone, and every first one with every second one behind it.
fn golden_journals() -> Journals {
    let mut journals = Journals::new();
    let golden = golden();
    let of = |wanted: u64| {
        golden
            .iter()
            .filter(move |(_, bytes)| number(bytes) == wanted)
    };
    for (name, bytes) in &golden {
        assert!(matches!(number(bytes), 1 | 2), "{name}: which journal?");
        journals.add(name, &[(number(bytes), bytes)]);
    }
    for (first, one) in of(1) {
        for (second, two) in of(2) {
            journals.add(&format!("{first}-{second}"), &[(1, one), (2, two)]);
        }
    }
    journals
}

/// The segment that FORMAT.md shows byte by byte.
fn specified() -> Vec<u8> {
    let format = fs::read_to_string(root().join("journal-format/FORMAT.md")).unwrap();
    let block = format.split("```hexdump\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let mut segment = vec![0; 16 * BLOCK];
    for line in block.lines().filter(|line| !line.starts_with('#')) {
        let (at, rest) = line.split_once("  ").unwrap();
        let at = usize::from_str_radix(at, 16).unwrap();
        let bytes = rest.split("  ").next().unwrap().split(' ');
        for (byte, place) in bytes.zip(&mut segment[at..]) {
            *place = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    segment
}

/// The first difference between two values, with its path.
fn difference(path: &str, ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys());
            let mut differences = names.map(|name| {
                let of = |fields: &serde_json::Map<String, Value>| {
                    let missing = || Value::String("MISSING".to_owned());
                    fields.get(name).cloned().unwrap_or_else(missing)
                };
                difference(&format!("{path}.{name}"), &of(one), &of(other))
            });
            differences.find_map(|difference| difference)
        }
        (one, other) if one == other => None,
        (one, other) => Some(format!("{path}: dump says {one}, the reader says {other}")),
    }
}

/// The first difference in what both say of each journal.
fn differences(reader: &Reader, journals: &Journals) -> Vec<String> {
    let said = reader.read(journals);
    let mut found = Vec::new();
    for (name, directory) in &journals.directories {
        let (ours, theirs) = (dumped(directory), &said[directory]);
        // A segment, and the end.
        assert!(ours.len() >= 2, "{name}: {ours:?}");
        let mut lines = ours.iter().zip(theirs).zip(1..);
        let line = lines.find_map(|((one, other), line)| {
            difference(&format!("{name}, line {line}: "), one, other)
        });
        let count = (ours.len() != theirs.len()).then(|| {
            format!(
                "{name}: dump has {} lines, the reader {}",
                ours.len(),
                theirs.len()
            )
        });
        found.extend(line.or(count));
    }
    found
}

fn assert_same(journals: &Journals) {
    let found = differences(&Reader::new(&format_ksy()), journals);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_golden_journal_is_read_alike() {
    assert_same(&golden_journals());
}

/// F9: there is no word, variant, type or option that the golden journals lack, so that each was
/// compared.
#[test]
fn the_golden_journals_have_everything() {
    let unseen = Reader::new(&format_ksy()).run(&["--unseen"], &golden_journals());
    assert_eq!(unseen, "");
}

/// The segment that the specification shows, and what a sidecar's engine writes.
#[test]
fn every_other_journal_is_read_alike() {
    let mut journals = Journals::new();
    journals.add("specified", &[(1, &specified())]);
    for whole in [true, false] {
        story::write(&journals.directory(&format!("whole-{whole}")), whole);
    }
    assert_same(&journals);
}

/// Ways to damage a segment, by name.
fn damages() -> Vec<(String, Damage)> {
    let mut damages: Vec<(String, Damage)> = Vec::new();
    // A step that shares no factor with the sizes of blocks and records.
    for at in (0..28_672).step_by(2039) {
        let flip = move |bytes: &mut Vec<u8>| bytes[at] ^= 0x41;
        damages.push((format!("byte-{at}"), Box::new(flip)));
    }
    for block in 1..7 {
        let at = block * BLOCK;
        let ways: [(&str, Damage); 6] = [
            ("header", Box::new(move |bytes| bytes[at + 17] ^= 1)),
            (
                "zeroed",
                Box::new(move |bytes| bytes[at..at + BLOCK].fill(0)),
            ),
            ("torn", Box::new(move |bytes| bytes[at + 600..].fill(0))),
            ("cut", Box::new(move |bytes| bytes.truncate(at + 30))),
            (
                "repeated",
                Box::new(move |bytes| bytes.copy_within(at..at + BLOCK, 8 * BLOCK)),
            ),
            (
                "swapped",
                Box::new(move |bytes| bytes[at..at + 2 * BLOCK].rotate_left(BLOCK)),
            ),
        ];
        damages.extend(ways.map(|(way, damage)| (format!("{way}-{block}"), damage)));
    }
    let whole: [(&str, Damage); 5] = [
        ("longer-file", Box::new(|bytes| bytes.extend([0x5a; 5000]))),
        ("empty-file", Box::new(Vec::clear)),
        ("far-away", Box::new(|bytes| bytes[60_000] = 1)),
        ("in-the-copy", Box::new(|bytes| bytes[15 * BLOCK + 20] = 1)),
        (
            "both-headers",
            Box::new(|bytes| {
                bytes[20] ^= 1;
                bytes[15 * BLOCK + 20] ^= 1;
            }),
        ),
    ];
    damages.extend(whole.map(|(way, damage)| (way.to_owned(), damage)));
    damages
}

type Damage = Box<dyn Fn(&mut Vec<u8>)>;

/// F4, F8, F11, F12, F13, F20: what is damaged, torn, lost, and what still counts.
#[test]
fn damage_is_judged_alike() {
    let golden = golden();
    let (first, second) = (&golden["every-record"], &golden["later"]);
    let mut journals = Journals::new();
    for (name, damage) in damages() {
        let damaged = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            damage(&mut bytes);
            bytes
        };
        let (one, two) = (damaged(first), damaged(second));
        journals.add(&format!("{name}-alone"), &[(1, &one)]);
        journals.add(&format!("{name}-first"), &[(1, &one), (2, second)]);
        journals.add(&format!("{name}-second"), &[(1, first), (2, &two)]);
    }
    journals.add("missing", &[(1, first), (3, second)]);
    assert_same(&journals);
}

/// The comparison sees what differs: with the type, place or name of one field or word changed in
/// format.ksy, the two no longer say the same.
#[test]
fn a_changed_format_is_noticed() {
    let ksy = fs::read_to_string(format_ksy()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut journals = Journals::new();
    journals.add("drawn", &[(1, &golden()["drawn"])]);
    for (was, is) in [
        ("{ id: uid, type: u4 }", "{ id: uid, type: u4be }"),
        (
            "id: monotonic\n        type: u8\n",
            "id: monotonic\n        type: u8be\n",
        ),
        ("13: prepare_resume\n", "13: resume_prepare\n"),
        (
            "{ id: index, type: u2 }\n      - { id: count, type: u2 }",
            "{ id: count, type: u2 }\n      - { id: index, type: u2 }",
        ),
    ] {
        assert_eq!(ksy.matches(was).count(), 1, "{was}");
        let changed = scratch.path().join("format.ksy");
        fs::write(&changed, ksy.replace(was, is)).unwrap();
        let found = differences(&Reader::new(&changed), &journals);
        assert!(!found.is_empty(), "{is} was not noticed");
    }
}
