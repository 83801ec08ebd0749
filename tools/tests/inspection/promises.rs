//! Promises that were broken on purpose, in journals whose every checksum is right: verify names each.

use journal_format::number::{DomainId, Id128, Lsn, MigrationId, Nonce, Position};
use journal_format::number::{Epoch, JournalId, OpeningId};
use journal_format::record::{
    Authority, Cookie, Decoded, Draft, EffectFinished, EffectResult, Instance, JobBegun, JobKind,
    MigrationCommitted, MigrationNamed, MigrationTerms, Outcome, OutcomeLearned, PeerAnswer,
    PeerHeard, Phase, Protocol, RecordBody, Role, WantedRunState,
};
use journal_format::record::{CheckpointBegun, CheckpointEnded, DomainState};

use super::format::{Writer, id};
use super::*;

/// A record before it is written again: its LSN, what it says, and the one before it that it names.
pub(super) struct Rewritten {
    pub(super) lsn: Lsn,
    pub(super) draft: Draft,
    pub(super) previous: Option<Lsn>,
}

/// The story's journal with its records changed.
pub(super) fn changed(mut change: impl FnMut(&mut Rewritten)) -> TempDir {
    let directory = journal(true);
    let mut before: Option<(
        Lsn,
        u64,
        journal_format::number::Chain,
        journal_format::number::SegmentNumber,
    )> = None;
    for number in 1..=2 {
        let path = directory.path().join(format!("{number:016}.seg"));
        let scan = journal_format::scan::scan(&fs::read(&path).unwrap()).unwrap();
        let mut header = scan.header;
        if let (Some(end), Some((last, at, chain, number))) = (&mut header.before, before) {
            (end.last, end.end, end.chain, end.number) = (last, at, chain, number);
        }
        let mut writer = Writer::new(header);
        for batch in &scan.batches {
            let head = writer.head(batch.header.boot, batch.header.wall, batch.header.monotonic);
            let mut records = Vec::new();
            for placed in &batch.records {
                let Decoded::Known(record) = &placed.record else {
                    unreachable!("the story has no such record");
                };
                let draft = Draft {
                    domain: record.domain,
                    body: record.body.clone(),
                };
                let mut one = Rewritten {
                    lsn: record.lsn,
                    draft,
                    previous: record.previous,
                };
                change(&mut one);
                records.push((one.draft, one.previous));
            }
            writer.batch(head, &records);
        }
        let last = Lsn(writer.next.0 - 1);
        before = Some((last, writer.bytes.len() as u64, writer.chain, header.number));
        fs::write(&path, writer.finish()).unwrap();
    }
    directory
}

/// What verify says of broken promises.
#[track_caller]
fn breaks(journal: &TempDir, law: &str, how: &str) {
    let text = said(&on("verify", &[journal.path()], &[]), 2);
    assert!(
        text.contains(&format!(", {law}: ")) && text.contains(how),
        "{text}"
    );
    assert!(text.contains("BROKEN: "), "{text}");
    let value = said(&on("verify", &[journal.path()], &["--json"]), 2);
    let value: Value = serde_json::from_str(&value).unwrap();
    assert_eq!(value["broken"][0]["law"], law, "{value}");
    assert_eq!(value["gaps"], serde_json::json!([]), "{value}");
}

#[test]
fn the_story_keeps_them_all() {
    let journal = changed(|_| {});
    let text = said(&on("verify", &[journal.path()], &[]), 0);
    assert!(text.contains("verdict   clean"), "{text}");
}

/// What breaks which law: its name, what is said, and the change.
type Case = (&'static str, &'static str, fn(&mut Rewritten));

#[test]
fn every_law_is_looked_at() {
    let cases: [Case; 12] = [
        ("phase-order", "perform3_done after begin3", |one| {
            if let RecordBody::PhaseEntered(entered) = &mut one.draft.body
                && entered.phase == Phase::Perform3
            {
                entered.phase = Phase::Perform3Done;
            }
        }),
        ("phase-order", "finish3 is no phase of a v3 source", |one| {
            if let RecordBody::PhaseEntered(entered) = &mut one.draft.body
                && entered.phase == Phase::Perform3Done
            {
                entered.phase = Phase::Finish3;
            }
        }),
        ("write-ahead", "whose intent is not open", |one| {
            if let RecordBody::EffectFinished(finished) = &mut one.draft.body {
                finished.effect = Lsn(1);
            }
        }),
        // A result is turned into something else: the next intent comes while one is open.
        (
            "write-ahead",
            "a second intent while the result of effect",
            |one| {
                if matches!(one.draft.body, RecordBody::EffectFinished(_)) {
                    one.draft.body =
                        RecordBody::WantedChanged(journal_format::record::WantedChanged {
                            wanted: WantedRunState::Running,
                            why: journal_format::record::WantedReason::Asked,
                        });
                }
            },
        ),
        ("write-ahead", "on another process", |one| {
            if let RecordBody::EffectIntended(intended) = &mut one.draft.body {
                intended.instance.pid += 1;
            }
        }),
        ("fact", "a nonce that was not prepared", |one| {
            if let RecordBody::MigrationGranted(granted) = &mut one.draft.body {
                granted.cookie.nonce = Nonce(id(0x98));
            }
        }),
        ("decision", "the evidence gives", |one| {
            if let RecordBody::Decided(decided) = &mut one.draft.body {
                decided.evidence.observed.run_state = None;
            }
        }),
        ("decision", "cites a record that came later", |one| {
            if let RecordBody::Decided(decided) = &mut one.draft.body {
                decided.based_on.push(Lsn(1000));
            }
        }),
        ("checkpoint", "restates otherwise", |one| {
            if let RecordBody::DomainState(state) = &mut one.draft.body {
                state.wanted = WantedRunState::Paused;
            }
        }),
        ("previous", "as the domain's record before it", |one| {
            if matches!(one.draft.body, RecordBody::MigrationGranted(_)) {
                one.previous = Some(Lsn(1));
            }
        }),
        ("job", "did not begin", |one| {
            if let RecordBody::JobEnded(ended) = &mut one.draft.body {
                ended.job = Lsn(1);
            }
        }),
        ("job", "of a domain that is not registered", |one| {
            if let RecordBody::DomainAdded(_) = &one.draft.body {
                one.draft.body = RecordBody::Sealed;
            }
        }),
    ];
    for (law, how, change) in cases {
        breaks(&changed(change), law, how);
    }
}

/// What is told for people, once.
#[test]
fn a_broken_promise() {
    let journal = changed(|one| {
        if let RecordBody::MigrationGranted(granted) = &mut one.draft.body {
            granted.cookie.nonce = Nonce(id(0x98));
        }
    });
    let output = on("verify", &[journal.path()], &[]);
    insta::assert_snapshot!(shown(&[journal.path()], &output));
}

/// Records that cannot be read may have said what is missing: nothing else is called broken.
#[test]
fn damage_alone_breaks_no_promise() {
    let journal = journal(true);
    let path = journal.path().join("0000000000000001.seg");
    let whole = fs::read(&path).unwrap();
    let scan = journal_format::scan::scan(&whole).unwrap();
    for batch in &scan.batches {
        for placed in &batch.records {
            let mut bytes = whole.clone();
            bytes[usize::try_from(placed.offset).unwrap() + 60] ^= 1;
            fs::write(&path, bytes).unwrap();
            let output = on("verify", &[journal.path()], &["--json"]);
            let value: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(value["broken"], serde_json::json!([]), "{value}");
        }
    }
}

const MIGRATION: MigrationId = MigrationId(Id128([0x22; 16]));

/// The other side of the story, as far as it is told.
fn destination(nonce: u8, last: u64, told: &[RecordBody]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let domain = Some(DomainId(id(0x33)));
    let header = journal_format::segment::SegmentHeader {
        journal: JournalId(id(0xC0)),
        host: journal_format::number::HostId(id(0x0C)),
        number: journal_format::number::SegmentNumber::FIRST,
        size: journal_format::SEGMENT_SIZE_MIN,
        salt: journal_format::number::Salt([0x77; 16]),
        first: Lsn::FIRST,
        epoch: Epoch(1),
        opening: OpeningId(id(0xC1)),
        before: None,
    };
    let state = DomainState {
        name: "web-1".to_owned(),
        qmp: "/run/b/web-1.qmp".to_owned(),
        instance: Instance {
            boot: journal_format::number::BootId(id(0xB2)),
            pid: 99,
            start_time: 1,
        },
        wanted: WantedRunState::Running,
        definition: None,
        claim: None,
        dead: false,
        damaged: false,
        last_job: None,
    };
    let terms = MigrationTerms {
        migration: MIGRATION,
        role: Role::Destination,
        protocol: Protocol::V3,
        authority: Authority::Destination,
        peer: "/run/a/peer.sock".to_owned(),
        peer_domain: "web-1".to_owned(),
        uri: "unix:/run/qemu/web-1.migrate".to_owned(),
        max_bandwidth: None,
        downtime_limit: None,
        postcopy: false,
        nonce: Some(Nonce(id(nonce))),
        store: None,
        in_doubt_limit: None,
    };
    let openings = vec![journal_format::record::Opening {
        epoch: Epoch(1),
        opening: OpeningId(id(0xC1)),
        first: Lsn::FIRST,
    }];
    let of_domain = |body| Draft { domain, body };
    let of_all = |body| Draft { domain: None, body };
    let mut drafts = vec![
        of_all(RecordBody::CheckpointBegun(CheckpointBegun {
            records: 0,
            openings,
        })),
        of_all(RecordBody::CheckpointEnded(CheckpointEnded { records: 0 })),
        of_domain(RecordBody::DomainAdded(Box::new(state))),
        of_domain(RecordBody::JobBegun(Box::new(JobBegun {
            kind: JobKind::MigrationIn,
            migration: Some(terms),
        }))),
    ];
    drafts.extend(told.iter().cloned().map(of_domain));
    while (drafts.len() as u64) < last {
        drafts.push(of_all(RecordBody::Sealed));
    }
    let mut writer = Writer::new(header);
    let mut before = None;
    let mut records = Vec::new();
    for (lsn, draft) in (1..).zip(drafts) {
        let previous = draft.domain.and(before);
        before = if draft.domain.is_some() {
            Some(Lsn(lsn))
        } else {
            before
        };
        records.push((draft, previous));
    }
    let head = writer.head(
        journal_format::number::BootId(id(0xB2)),
        1_767_323_045_000_000_000,
        0,
    );
    writer.batch(head, &records);
    fs::write(
        directory.path().join("0000000000000001.seg"),
        writer.finish(),
    )
    .unwrap();
    directory
}

/// The licence that the story's source granted.
fn cookie(source: &TempDir, nonce: u8) -> Cookie {
    let path = source.path().join("0000000000000001.seg");
    let scan = journal_format::scan::scan(&fs::read(path).unwrap()).unwrap();
    let granted = scan
        .batches
        .iter()
        .flat_map(|batch| &batch.records)
        .find_map(|placed| match &placed.record {
            Decoded::Known(record) => match &record.body {
                RecordBody::MigrationGranted(granted) => Some(granted.cookie),
                _ => None,
            },
            Decoded::Unknown { .. } => None,
        });
    Cookie {
        nonce: Nonce(id(nonce)),
        ..granted.unwrap()
    }
}

fn committed(cookie: Cookie) -> RecordBody {
    RecordBody::MigrationCommitted(MigrationCommitted {
        cookie: Some(cookie),
        migration: MIGRATION,
    })
}

const NAMED: MigrationNamed = MigrationNamed {
    migration: MIGRATION,
};

#[track_caller]
fn together(source: &TempDir, destination: &TempDir, code: i32, how: &str) -> String {
    let paths = [source.path(), destination.path()];
    let output = on("verify", &paths, &[]);
    let text = shown(&[], &output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(how), "{text}");
    text
}

#[test]
fn two_sides_that_agree() {
    let source = journal(true);
    let told = [
        committed(cookie(&source, 0x99)),
        RecordBody::MigrationStarted(NAMED),
    ];
    let destination = destination(0x99, 22, &told);
    together(
        &source,
        &destination,
        0,
        "1 migration with both sides here, and nothing that contradicts",
    );
}

/// Each journal by itself keeps every law, or breaks another one than this: it takes both to see it.
#[test]
fn two_sides_that_contradict_each_other() {
    let source = journal(true);
    let started = RecordBody::MigrationStarted(NAMED);
    let aborted = RecordBody::MigrationAborted(NAMED);
    let other = [committed(cookie(&source, 0x98)), started.clone()];
    let text = together(&source, &destination(0x98, 22, &other), 2, "another nonce");
    assert!(text.contains("with another licence"), "{text}");
    together(
        &source,
        &destination(0x99, 22, &[aborted]),
        2,
        "no copy: the source learnt committed",
    );
    let never = destination(0x99, 22, &[committed(cookie(&source, 0x99))]);
    together(
        &source,
        &never,
        2,
        "a destination that never started the guest",
    );

    let position = Position {
        journal: JournalId(id(0xC0)),
        epoch: Epoch(1),
        opening: OpeningId(id(0xC1)),
        lsn: Lsn(22),
    };
    let took = [committed(cookie(&source, 0x99)), started];
    let destination = destination(0x99, 22, &took);
    let learnt = changed(|one| {
        if let RecordBody::OutcomeLearned(learned) = &mut one.draft.body {
            *learned = OutcomeLearned {
                outcome: Outcome::Aborted,
                ..*learned
            };
        }
    });
    together(
        &learnt,
        &destination,
        2,
        "two copies: the source learnt aborted",
    );
    let heard = changed(|one| {
        if let RecordBody::OutcomeLearned(_) = &one.draft.body {
            one.draft.body = RecordBody::PeerHeard(PeerHeard {
                migration: MIGRATION,
                position: Some(position),
                answer: PeerAnswer::Aborted,
            });
        }
    });
    together(&heard, &destination, 2, "answered aborted");
    let ungranted = changed(|one| {
        if let RecordBody::MigrationGranted(_) = &one.draft.body {
            one.draft.body = RecordBody::EffectFinished(EffectFinished {
                effect: one.lsn,
                result: EffectResult::Done,
            });
        }
        // Nor does a checkpoint tell of it.
        if let RecordBody::MigrationState(state) = &mut one.draft.body {
            state.granted = None;
        }
    });
    together(
        &ungranted,
        &destination,
        2,
        "a licence that the source never granted",
    );
}

#[test]
fn a_copy_that_is_older_is_told_of_as_that() {
    let source = journal(true);
    let told = [
        committed(cookie(&source, 0x99)),
        RecordBody::MigrationStarted(NAMED),
    ];
    let text = together(
        &source,
        &destination(0x99, 6, &told),
        1,
        "it is an older copy",
    );
    assert!(!text.contains("!!"), "{text}");
}
