//! Every byte of a journal damaged, and the journal cut off at every byte: the commands end, say so, and call
//! nothing sound that is not.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use journal_format::batch::BATCH_HEADER_SIZE;

use super::*;

#[path = "../../journal-format/tests/support/mod.rs"]
mod format;
#[path = "../tests/support/story.rs"]
mod story;

/// What a command prints, and what it found.
fn ran(verb: &str, journal: &Path, more: &[&str]) -> (String, Found) {
    let journal = journal.to_str().unwrap();
    let arguments = [&["phase-journal", verb, journal], more].concat();
    let mut out = Vec::new();
    let found = run(&Cli::try_parse_from(arguments).unwrap(), &mut out).unwrap();
    (String::from_utf8(out).unwrap(), found)
}

/// A journal of a migration, two segments long.
pub(crate) fn journal() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    story::write(directory.path(), true);
    directory
}

/// A segment's file, its bytes, and the places in it that mean something: all of headers and records, and
/// some of the zeros behind each batch.
fn segment(journal: &tempfile::TempDir, number: u64) -> (PathBuf, Vec<u8>, Vec<usize>) {
    let path = journal.path().join(format!("{number:016}.seg"));
    let bytes = fs::read(&path).unwrap();
    let scan = journal_format::scan::scan(&bytes).unwrap();
    let copy = bytes.len() - 4096;
    let mut places: Vec<usize> = (0..144).chain(4092..4096).chain(copy..copy + 144).collect();
    for batch in &scan.batches {
        let begin = usize::try_from(batch.header.offset).unwrap();
        let size = usize::try_from(batch.header.size()).unwrap();
        let used = 96 + usize::try_from(batch.header.length).unwrap();
        places.extend(begin..begin + used);
        places.extend([begin + used, begin + size - 1]);
    }
    places.retain(|at| *at < bytes.len());
    (path, bytes, places)
}

/// All changes of one byte are damage, or a torn tail: the last batch may never have been acknowledged, unless all but its padding
/// is whole.
#[test]
fn bytes_flipped() {
    let journal = journal();
    assert_eq!(ran("verify", journal.path(), &[]).1, Found::Nothing);
    for number in [1, 2] {
        let (path, whole, places) = segment(&journal, number);
        let last = journal_format::scan::scan(&whole)
            .unwrap()
            .batches
            .pop()
            .unwrap()
            .header;
        let last = match number {
            // The next segment tells how this one ended.
            1 => 0..0,
            _ => last.offset..last.offset + u64::from(BATCH_HEADER_SIZE + last.length),
        };
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // A part of them, in steps that meet every field of records and headers: what a reader makes of each
        // single bit is tested beside it (`journal::tests`, journal-format).
        let step = if number == 1 { 29 } else { 5 };
        for (index, at) in places.into_iter().step_by(step).enumerate() {
            file.write_all_at(&[whole[at] ^ 0x40], at as u64).unwrap();
            let (text, found) = ran("verify", journal.path(), &[]);
            let expected = match last.contains(&(at as u64)) {
                true => Found::Something,
                false => Found::Damage,
            };
            assert_eq!(found, expected, "byte {at} of {number}: {text}");
            if index % 16 == 0 {
                let (dump, _) = ran("dump", journal.path(), &["--json"]);
                for line in dump.lines() {
                    let _: serde_json::Value = serde_json::from_str(line).unwrap();
                }
                ran("dump", journal.path(), &["-r", "-o", "hex"]);
                ran("inspect", journal.path(), &[]);
                ran("stats", journal.path(), &[]);
            }
            file.write_all_at(&whole[at..=at], at as u64).unwrap();
        }
    }
    assert_eq!(ran("verify", journal.path(), &[]).1, Found::Nothing);
}

/// At every seventh byte, so that all residues come, and at all of the first batch.
#[test]
fn cut_off_anywhere() {
    let journal = journal();
    for number in [2, 1] {
        let (path, _, mut places) = segment(&journal, number);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        places.sort_unstable();
        let dense = places
            .iter()
            .filter(|at| (4096..4400).contains(*at))
            .copied();
        let mut lengths: Vec<usize> = places.iter().step_by(7).copied().chain(dense).collect();
        lengths.sort_unstable();
        for length in lengths.into_iter().rev() {
            file.set_len(length as u64).unwrap();
            let (text, found) = ran("verify", journal.path(), &[]);
            assert_eq!(found, Found::Damage, "{length} bytes of {number}: {text}");
            assert!(text.contains("!!"), "{length} bytes of {number}: {text}");
            if length % 16 == 0 {
                let (text, found) = ran("dump", journal.path(), &[]);
                assert_eq!(found, Found::Damage, "{length} bytes of {number}: {text}");
                assert!(text.contains("!!"), "{length} bytes of {number}: {text}");
            }
        }
    }
}

/// Every golden journal is read, and what of it is of another version is named.
#[test]
fn golden_journals_of_every_version() {
    let names = fs::read_dir(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../journal-format/tests/golden"
    ));
    for entry in names.unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for verb in ["dump", "inspect", "stats", "verify"] {
            let (text, found) = ran(verb, &path, &[]);
            let named = match name.as_str() {
                "version-1.seg" => "version 1",
                "newer-record.seg" if verb != "stats" => "version",
                "older-bodies.seg" if verb == "verify" || verb == "inspect" => {
                    "which is another one"
                }
                _ => continue,
            };
            assert!(text.contains(named), "{verb} {name}: {text}");
            if name == "version-1.seg" {
                assert_eq!(found, Found::NotRead, "{verb} {name}: {text}");
                let is_called_damaged = text.contains("DAMAGED") || text.contains("are lost");
                assert!(!is_called_damaged, "{verb} {name}: {text}");
            }
        }
    }
}

/// Segments of another version are not damaged, all of them and nothing else; one that is missing between them is.
#[test]
fn what_is_missing_beside_another_version() {
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../journal-format/tests/golden/version-1.seg"
    );
    for (second, is_all) in [(2, true), (3, false)] {
        let journal = tempfile::tempdir().unwrap();
        for number in [1, second] {
            let name = format!("{number:016}.seg");
            fs::copy(golden, journal.path().join(name)).unwrap();
        }
        let expected = match is_all {
            true => Found::NotRead,
            false => Found::Damage,
        };
        let (text, found) = ran("verify", journal.path(), &[]);
        assert_eq!(found, expected, "{text}");
        assert_eq!(text.contains("NOT READ: 2 segments"), is_all, "{text}");
        assert_eq!(text.contains("DAMAGED"), !is_all, "{text}");
        // For programs the same.
        let (json, found) = ran("verify", journal.path(), &["--json"]);
        assert_eq!(found, expected, "{json}");
        assert_eq!(json.contains("\"verdict\":\"not-read\""), is_all, "{json}");
        assert_eq!(json.contains("\"verdict\":\"damaged\""), !is_all, "{json}");
        for verb in ["inspect", "dump", "stats", "explain"] {
            let (text, found) = ran(verb, journal.path(), &[]);
            assert_eq!(found, expected, "{verb}: {text}");
            assert!(
                !text.contains("nothing to decide") || !is_all,
                "{verb}: {text}"
            );
        }
    }
}

/// Of how many bytes one is damaged in golden journals: a sample, unless something else is said. All of them
/// (`tools/soak --damage`) take two hours of processor time.
fn step() -> usize {
    let said = std::env::var("PHASE_JOURNAL_DAMAGE_STEP").ok();
    said.map_or(5003, |said| said.parse().unwrap())
}

/// Every command that reads, on a journal and its whole copy; and whether it prints JSON. Understood once for each file:
/// that takes as long as some of them run.
fn all_commands(journal: &Path, whole: &Path) -> Vec<(Cli, bool)> {
    let (journal, whole) = (journal.to_str().unwrap(), whole.to_str().unwrap());
    let commands = [
        (&["verify", journal, "--no-index"][..], false),
        (&["verify", journal, whole, "--no-index", "--json"], true),
        (&["inspect", journal], false),
        (&["stats", journal, "--json"], true),
        (&["dump", journal, "--json", "--headers"], true),
        (&["dump", journal, "-o", "hex", "--reverse"], false),
        (&["dump", journal, "--domain", "web-1"], false),
        (&["explain", journal, "--json"], true),
        (
            &["explain", journal, "--at", "9", "--peer", "committed"],
            false,
        ),
        (&["timeline", journal, "--svg"], false),
        (&["diff", journal, whole], false),
    ];
    let parsed = commands.into_iter().map(|(arguments, is_json)| {
        let all = [&["phase-journal"], arguments].concat();
        (Cli::try_parse_from(&all).unwrap(), is_json)
    });
    parsed.collect()
}

/// Runs all these commands: each ends with what it found, or with an error in one line.
fn read_by_all(commands: &[(Cli, bool)], what: &str) {
    for (cli, is_json) in commands {
        let mut out = Vec::new();
        let ended = run(cli, &mut out);
        let text = String::from_utf8(out).unwrap();
        let said = || format!("{what}: {:?}: {text}", cli.command);
        let is_obeyed = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(is_obeyed), "{}", said());
        match ended {
            Ok(_) if *is_json => {
                for line in text.lines() {
                    assert!(
                        serde_json::from_str::<serde_json::Value>(line).is_ok(),
                        "{}",
                        said()
                    );
                }
            }
            Ok(_) => {}
            Err(ToolError::Output(error)) => panic!("{}: {error}", said()),
            Err(error) => assert!(!error.to_string().contains('\n'), "{}: {error}", said()),
        }
    }
}

/// Golden journals, each with a byte changed, and each cut off there: at what is not zero, and here and there at
/// what is. All processors share the places.
#[test]
fn golden_journals_damaged_anywhere() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../journal-format/tests/golden");
    let mut files: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(golden)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    let places = files.iter().flat_map(|(path, bytes)| {
        let places = (0..bytes.len()).rev();
        let meant = places.filter(|at| bytes[*at] != 0 || at % 64 == 63);
        meant.map(move |at| (path.as_path(), bytes.as_slice(), at))
    });
    // One sample goes over all files, so that it meets other bytes in each.
    let step = step();
    let chosen: Vec<_> = places.skip(step - 1).step_by(step).collect();
    assert!(chosen.len() > 20, "{}", chosen.len());
    // Seen with `--nocapture`, as tools/soak asks for.
    println!("{} places of {} files", chosen.len(), files.len());
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let scratch = tempfile::tempdir().unwrap();
                let mut file = None;
                while let Some((whole, bytes, at)) =
                    chosen.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    // The places are in the order of the files.
                    let here = file.take_if(|(of, _, _)| of == whole).unwrap_or_else(|| {
                        let journal = scratch.path().join(whole.file_name().unwrap());
                        let commands = all_commands(&journal, whole);
                        (*whole, journal, commands)
                    });
                    damage_at(&here.1, &here.2, bytes, *at);
                    file = Some(here);
                }
            });
        }
    });
}

/// Runs all commands on a copy of a journal that has a wrong byte at a place, and on one that ends there.
fn damage_at(journal: &Path, commands: &[(Cli, bool)], bytes: &[u8], at: usize) {
    fs::write(journal, bytes).unwrap();
    let file = OpenOptions::new().write(true).open(journal).unwrap();
    for change in [0x01, 0xff] {
        let changed = [bytes[at] ^ change];
        file.write_all_at(&changed, at as u64).unwrap();
        let what = format!("{} with byte {at} changed by {change}", journal.display());
        read_by_all(commands, &what);
    }
    file.set_len(at as u64).unwrap();
    let what = format!("{} cut off at {at}", journal.display());
    read_by_all(commands, &what);
}
