//! `phase-journal dump --follow` beside a writer.

use std::io::{BufRead as _, BufReader};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{Phase, PhaseEntered};
use phase_journal::journal::Durable;
use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Far longer than anything takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A command that goes on, and the lines that it prints.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(journal: &Path, arguments: &[&str]) -> Following {
        let mut command = command(&["dump", "--follow"]);
        let mut child = start(command.arg(journal).args(arguments));
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || out.lines().try_for_each(|line| sender.send(line.unwrap())));
        Following { child, lines }
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(TIMEOUT).unwrap()
    }

    /// The LSNs of the next records, with a mark for what is not settled; the lines of openings are left
    /// out.
    #[track_caller]
    fn records(&self, count: usize) -> Vec<String> {
        let mut records = Vec::new();
        while records.len() < count {
            let line = self.line();
            if line.starts_with("--") {
                continue;
            }
            let lsn = line.split_whitespace().next().unwrap().to_owned();
            let mark = if line.ends_with("(not settled)") {
                "?"
            } else {
                ""
            };
            records.push(format!("{lsn}{mark}"));
        }
        records
    }

    /// Its end: exit code, error, and how many more lines it printed.
    #[track_caller]
    fn end(self) -> (Option<i32>, String, usize) {
        let mut more = 0;
        loop {
            match self.lines.recv_timeout(TIMEOUT) {
                Ok(_) => more += 1,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
        let output = self.child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), error, more)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

fn append(log: &mut Log<OsDisk>, body: RecordBody) {
    let domain = match &body {
        RecordBody::Sealed => None,
        _ => Some(DomainId(Id128([1; 16]))),
    };
    let drafts = [Draft { domain, body }];
    log.append(&drafts, Timestamps::default(), ())
        .map(Durable::into_inner)
        .unwrap();
}

fn phase(log: &mut Log<OsDisk>) {
    append(
        log,
        RecordBody::PhaseEntered(PhaseEntered {
            job: Lsn(1),
            phase: Phase::Begin3,
        }),
    );
}

fn seal(log: &mut Log<OsDisk>) {
    append(log, RecordBody::Sealed);
}

#[test]
fn each_record_is_shown_as_it_becomes_durable_over_rolls_and_restarts() {
    let journal = tempfile::tempdir().unwrap();
    let mut log = open(journal.path());
    phase(&mut log);
    let following = Following::start(journal.path(), &["--settled"]);
    assert_eq!(following.line().split_whitespace().nth(1), Some("epoch"));
    assert_eq!(following.records(2), ["1", "2"]);
    seal(&mut log);
    assert_eq!(following.records(1), ["3"]);
    phase(&mut log);
    seal(&mut log);
    assert_eq!(following.records(2), ["4", "5"]);
    let opening = log.status().opening;
    log.roll(&checkpoint(vec![opening]), Timestamps::default())
        .unwrap();
    seal(&mut log);
    assert_eq!(following.records(3), ["6", "7", "8"]);
    close(log);
    let mut log = open(journal.path());
    assert_eq!(following.records(1), ["9"]);
    seal(&mut log);
    assert!(
        following.line().starts_with("-- epoch 2"),
        "a new opening is told"
    );
    assert_eq!(following.records(2), ["10", "11"]);
    following.signal(Signal::INT);
    assert_eq!(following.end(), (Some(0), String::new(), 0));
}

#[test]
fn what_is_not_proven_is_marked() {
    let journal = tempfile::tempdir().unwrap();
    let mut log = open(journal.path());
    phase(&mut log);
    let following = Following::start(journal.path(), &[]);
    assert_eq!(following.records(3), ["1", "2", "3?"]);
    // It is not shown again when it is proven; the next one is not yet.
    phase(&mut log);
    assert_eq!(following.records(1), ["4?"]);
    phase(&mut log);
    seal(&mut log);
    let next = following.records(1);
    assert!(next == ["5"] || next == ["5?"], "{next:?}");
    let json = Following::start(journal.path(), &["--json", "-n", "1"]);
    let value: serde_json::Value = serde_json::from_str(&json.line()).unwrap();
    assert_eq!((&value["lsn"], value.get("settled")), (&5.into(), None));
    phase(&mut log);
    let sealed = json.line();
    assert!(sealed.contains("sealed"), "{sealed}");
    let value: serde_json::Value = serde_json::from_str(&json.line()).unwrap();
    assert_eq!(
        (&value["lsn"], &value["settled"]),
        (&7.into(), &false.into())
    );
    json.signal(Signal::TERM);
    assert_eq!(json.end(), (Some(0), String::new(), 0));
    following.signal(Signal::INT);
    assert_eq!(following.end().0, Some(0));
}

#[test]
fn the_last_ones_and_up_to_one() {
    let journal = journal();
    let following = Following::start(journal.path(), &["-n", "3"]);
    let last = following.records(3);
    assert_eq!(last, ["35", "36", "37?"], "its writer is dead");
    let up_to = Following::start(journal.path(), &["--from", "5", "--to", "9"]);
    assert_eq!(up_to.records(5), ["5", "6", "7", "8", "9"]);
    assert_eq!(up_to.end(), (Some(0), String::new(), 0));
    let mut log = open(journal.path());
    seal(&mut log);
    assert_eq!(following.records(2), ["38", "39"]);
    following.signal(Signal::INT);
    assert_eq!(following.end(), (Some(0), String::new(), 0));
}

/// A reader that goes away is noticed also when nothing new comes.
#[test]
fn nobody_reads_any_more() {
    let journal = journal();
    let mut child = start(command(&["dump", "--follow", "-n", "1"]).arg(journal.path()));
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn damage_is_told_and_followed_over() {
    let journal = tempfile::tempdir().unwrap();
    let mut log = open(journal.path());
    phase(&mut log);
    phase(&mut log);
    let opening = log.status().opening;
    log.roll(&checkpoint(vec![opening]), Timestamps::default())
        .unwrap();
    let first = journal.path().join("0000000000000001.seg");
    let mut bytes = fs::read(&first).unwrap();
    // The head of a batch, and its record.
    bytes[2 * 4096 + 10] ^= 1;
    bytes[2 * 4096 + 100] ^= 1;
    fs::write(&first, bytes).unwrap();
    let following = Following::start(journal.path(), &["--settled"]);
    assert_eq!(following.records(2), ["1", "2"]);
    let gap = following.line();
    assert!(gap.starts_with("!! lsn 3 to 3 are lost"), "{gap}");
    assert_eq!(following.records(1), ["4"]);
    seal(&mut log);
    assert_eq!(following.records(2), ["5", "6"]);
    following.signal(Signal::INT);
    assert_eq!(following.end(), (Some(0), String::new(), 0));
}

#[test]
fn a_journal_that_is_taken_away_is_an_end() {
    let journal = journal();
    let path = journal.path().to_owned();
    let following = Following::start(&path, &["-n", "1"]);
    following.records(1);
    drop(journal);
    let (code, error, _) = following.end();
    assert_eq!(code, Some(3));
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    let error = said(command(&["dump", "-f"]).arg(&path), 3);
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}
