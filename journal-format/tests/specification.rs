//! FORMAT.md says what the code does: its tables, and its segment byte by byte.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is the test's failure"
)]

mod support;

use journal_format::SEGMENT_SIZE_MIN;
use journal_format::number::{
    BootId, DomainId, Epoch, HostId, JournalId, Lsn, OpeningId, Salt, SegmentNumber,
};
use journal_format::record::{
    Authority, CheckpointBegun, CheckpointEnded, ContIntent, Decision, DomainState, Draft,
    EffectStanding, Instance, JobKind, JobPhase, JobResult, NodesSeen, Opening, Outcome,
    PeerAnswer, Phase, Process, Protocol, RecordBody, Role, StoreAnswer, VerdictBy, WantedChanged,
    WantedReason, WantedRunState,
};
use journal_format::scan::{Tail, scan};
use journal_format::segment::SegmentHeader;
use support::{Writer, id};

const FORMAT: &str = include_str!("../FORMAT.md");

/// The rows of every table, cells without the marks of code.
fn rows() -> Vec<Vec<String>> {
    let lines = FORMAT.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = |line: &str| {
        let line = line.trim_end_matches(" |").replace('`', "");
        line.split(" | ").map(str::to_owned).collect()
    };
    lines.map(cells).collect()
}

/// F10: a type keeps its number and name, and its body has a version.
#[test]
fn the_table_of_record_types_is_the_code_s() {
    let rows = rows();
    let versions = RecordBody::BODY_VERSIONS.iter().map(|(_, version)| version);
    for ((number, name), version) in RecordBody::TYPES.iter().zip(versions) {
        let cells = [number.to_string(), (*name).to_owned(), version.to_string()];
        let found = rows.iter().any(|row| row.len() == 4 && row[..3] == cells);
        assert!(found, "no row for {number} {name} {version}");
    }
}

/// F9: a word keeps its number.
#[test]
fn the_tables_of_words_are_the_code_s() {
    fn all<T: Copy + ToString>(words: &[T]) -> String {
        let numbered = words.iter().enumerate();
        let texts: Vec<String> = numbered
            .map(|(number, word)| format!("{number} {}", word.to_string()))
            .collect();
        texts.join(", ")
    }
    let rows = rows();
    for (name, words) in [
        ("JobKind", all(JobKind::ALL)),
        ("Role", all(Role::ALL)),
        ("Protocol", all(Protocol::ALL)),
        ("Phase", all(Phase::ALL)),
        ("Authority", all(Authority::ALL)),
        ("Outcome", all(Outcome::ALL)),
        ("WantedRunState", all(WantedRunState::ALL)),
        ("Decision", all(Decision::ALL)),
        ("JobResult", all(JobResult::ALL)),
        ("Process", all(Process::ALL)),
        ("PeerAnswer", all(PeerAnswer::ALL)),
        ("ContIntent", all(ContIntent::ALL)),
        ("StoreAnswer", all(StoreAnswer::ALL)),
        ("VerdictBy", all(VerdictBy::ALL)),
        ("JobPhase", all(JobPhase::ALL)),
        ("EffectStanding", all(EffectStanding::ALL)),
        ("NodesSeen", all(NodesSeen::ALL)),
    ] {
        assert!(
            rows.contains(&vec![name.to_owned(), words.clone()]),
            "no row for {name}: {words}"
        );
    }
}

/// The segment at the end of FORMAT.md.
fn small_segment() -> Vec<u8> {
    let (epoch, opening) = (Epoch(1), OpeningId(id(0xee)));
    let domain = Some(DomainId(id(0xdd)));
    let mut writer = Writer::new(SegmentHeader {
        journal: JournalId(id(0xaa)),
        host: HostId(id(0xbb)),
        number: SegmentNumber::FIRST,
        size: SEGMENT_SIZE_MIN,
        salt: Salt([0x5a; 16]),
        first: Lsn::FIRST,
        epoch,
        opening,
        before: None,
    });
    let boot = BootId(id(0xcc));
    let openings = vec![Opening {
        epoch,
        opening,
        first: Lsn::FIRST,
    }];
    let state = DomainState {
        name: "web".to_owned(),
        qmp: "/run/web.qmp".to_owned(),
        instance: Instance {
            boot,
            pid: 4711,
            start_time: 90_210,
        },
        wanted: WantedRunState::Running,
        definition: None,
        claim: None,
        dead: false,
        damaged: false,
        last_job: None,
    };
    let draft = |domain, body| Draft { domain, body };
    let begun = CheckpointBegun {
        records: 1,
        openings,
    };
    let head = writer.head(boot, 1_700_000_000_000_000_000, 1_000_000_000);
    writer.batch(
        head,
        &[
            (draft(None, RecordBody::CheckpointBegun(begun)), None),
            (
                draft(domain, RecordBody::DomainState(Box::new(state))),
                None,
            ),
            (
                draft(
                    None,
                    RecordBody::CheckpointEnded(CheckpointEnded { records: 1 }),
                ),
                None,
            ),
        ],
    );
    let head = writer.head(boot, 1_700_000_001_000_000_000, 2_000_000_000);
    let changed = WantedChanged {
        wanted: WantedRunState::Paused,
        why: WantedReason::Asked,
    };
    let changed = draft(domain, RecordBody::WantedChanged(changed));
    writer.batch(head, &[(changed, Some(Lsn(2)))]);
    writer.finish()
}

/// F1, F4, F6, F16, F18: what the page shows byte by byte is what is written; all that it does not show
/// is zero.
#[test]
fn the_segment_byte_by_byte_is_what_is_written() {
    let block = FORMAT.split("```hexdump\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let written = small_segment();
    let mut shown = vec![0; written.len()];
    let mut end = 0;
    for line in block.lines().filter(|line| !line.starts_with('#')) {
        let (place, rest) = line.split_once("  ").unwrap();
        let at = usize::from_str_radix(place, 16).unwrap();
        assert!(at >= end, "{line}: shown twice");
        let bytes: Vec<u8> = rest
            .split("  ")
            .next()
            .unwrap()
            .split(' ')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        end = at + bytes.len();
        assert_eq!(bytes, written[at..end], "{line}");
        shown[at..end].copy_from_slice(&bytes);
    }
    assert!(shown == written, "not all is shown");
    let scan = scan(&written).unwrap();
    assert_eq!(
        (scan.batches.len(), scan.damage.len(), scan.tail, scan.next),
        (2, 0, Tail::Clean, Lsn(5))
    );
}
