//! Openings that no checkpoint tells of.

use journal_format::number::{BootId, Epoch, Id128, JournalId, Lsn, OpeningId, Position};
use journal_format::record::{Opening, Record, RecordBody};

use crate::engine::{Config, Engine, Gap, History};

const JOURNAL: JournalId = JournalId(Id128([7; 16]));

fn opening(epoch: u32, first: u64) -> Opening {
    let byte = u8::try_from(epoch).unwrap();
    Opening {
        epoch: Epoch(epoch),
        opening: OpeningId(Id128([byte; 16])),
        first: Lsn(first),
    }
}

fn config(openings: &[Opening], own: Opening) -> Config {
    Config {
        journal: JOURNAL,
        epoch: own.epoch,
        opening: own.opening,
        openings: openings.to_vec(),
        next: own.first,
        boot: BootId(Id128([1; 16])),
        peer: "peer".to_owned(),
        store: None,
    }
}

/// An older copy was accepted (FORMAT F25): whoever saw a record behind it knows more than this journal, then and in each
/// later life.
#[test]
fn what_came_behind_an_accepted_older_copy_is_not_remembered() {
    let [first, lost, second, third] =
        [(1, 1), (2, 3), (3, 1027), (4, 2000)].map(|(epoch, lsn)| opening(epoch, lsn));
    let mut history: Vec<History> = Vec::new();
    let write = |engine: &mut Engine, history: &mut Vec<History>, own: Opening| {
        let drafts = engine.checkpoint().into_iter().zip(own.first.0..);
        history.extend(drafts.map(|(draft, lsn)| {
            History::Record(Record {
                lsn: Lsn(lsn),
                domain: draft.domain,
                previous: None,
                body: draft.body,
            })
        }));
    };
    let mut engine = Engine::open(config(&[], first), &history);
    write(&mut engine, &mut history, first);
    assert!(matches!(&history[0], History::Record(record)
        if matches!(record.body, RecordBody::CheckpointBegun(_))));
    history.push(History::Gap(Gap {
        first: lost.first,
        last: Lsn(second.first.0 - 1),
    }));
    let mut engine = Engine::open(config(&[first, lost], second), &history);
    write(&mut engine, &mut history, second);
    let later = Engine::open(config(&[first, lost, second], third), &history);
    for engine in [engine, later] {
        for (lsn, is_here) in [(1, true), (2, true), (3, false), (50, false)] {
            let position = Position {
                journal: JOURNAL,
                epoch: first.epoch,
                opening: first.opening,
                lsn: Lsn(lsn),
            };
            let contains = engine.state.contains(&position, Lsn(3000));
            assert_eq!(contains, is_here, "lsn {lsn}");
        }
    }
}
