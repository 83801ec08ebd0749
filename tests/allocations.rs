//! What an append asks of the allocator once the log is at work: nothing.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use allocation_counter::measure;
use journal_format::number::{BootId, DomainId, HostId, Id128, Lsn};
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, Draft, MigrationAbandoned, Opening, Phase, PhaseEntered,
    RecordBody,
};
use phase_journal::journal::{Checkpoint, Log, OpenOptions, OsDisk, Timestamps};

const NOW: Timestamps = Timestamps {
    wall: 1,
    monotonic: 1,
};

fn checkpoint(opening: Opening) -> Checkpoint {
    let begun = CheckpointBegun {
        records: 0,
        openings: vec![opening],
    };
    let bodies = [
        RecordBody::CheckpointBegun(begun),
        RecordBody::CheckpointEnded(CheckpointEnded { records: 0 }),
    ];
    let draft = |body| Draft { domain: None, body };
    Checkpoint {
        drafts: bodies.into_iter().map(draft).collect(),
        needed_from: None,
    }
}

fn open(directory: &Path) -> Log<OsDisk> {
    let (journal, run) = (directory.join("journal"), directory.join("run"));
    std::fs::create_dir(&run).unwrap();
    let options = OpenOptions::new(HostId(Id128([4; 16])), BootId(Id128([2; 16])));
    let opened = Log::open(
        OsDisk::new(&journal),
        Some(OsDisk::new(&run)),
        &options,
        drop,
    )
    .unwrap();
    let checkpoint = checkpoint(opened.opening());
    opened.begin(&checkpoint, NOW).unwrap()
}

/// Records of many domains, with and without text.
fn drafts(count: u64) -> Vec<Draft> {
    let draft = |index: u64| {
        let body = match index % 2 {
            0 => RecordBody::PhaseEntered(PhaseEntered {
                job: Lsn(index + 1),
                phase: Phase::Perform3,
            }),
            _ => RecordBody::MigrationAbandoned(MigrationAbandoned {
                migration: journal_format::number::MigrationId(Id128([3; 16])),
                why: "x".repeat(200),
                asked: true,
            }),
        };
        let domain = DomainId(Id128([u8::try_from(index % 100).unwrap() + 1; 16]));
        Draft {
            domain: Some(domain),
            body,
        }
    };
    (0..count).map(draft).collect()
}

#[test]
fn an_append_allocates_nothing() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut log = open(directory.path());
    let (one, many) = (drafts(1), drafts(256));
    for warm in [&many, &one] {
        let _ = log.append(warm, NOW, ()).unwrap();
    }
    for (drafts, rounds) in [(&one, 20), (&many, 5)] {
        let counted = measure(|| {
            for _ in 0..rounds {
                let _ = log.append(drafts, NOW, ()).unwrap();
            }
        });
        let allocations = counted.count_total;
        assert_eq!(allocations, 0, "{} records, {rounds} times", drafts.len());
    }
    assert_eq!(log.status().segment.0, 1, "the segment was not left");
}
