//! Where the time of an append goes, piece by piece: none of this touches the disk.
//!
//! Each piece is measured alone, for N records or callers at once, and given per record: what the engine
//! takes, what laying out a batch takes, its checksums alone, the way there and back between a task and
//! the node's thread. The whole on a file system in memory shows what all of it takes together.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use journal_format::batch::{BatchBuilder, BatchHeader};
use journal_format::number::{Chain, Epoch, Id128, JournalId, Lsn, OpeningId, Salt, SegmentNumber};
use journal_format::record::Draft;
use phase_journal::engine::{Config, Engine, Input, Token};
use phase_journal::sidecar::link;
use tokio::sync::{Barrier, mpsc, oneshot};

use crate::append::Cell;
use crate::failure::Failure;
use crate::node;
use crate::ours;
use crate::report::{Entry, Table};
use crate::statistics::{median, nanoseconds, number};

/// Most that wait for the thread at the far end; as the product has it.
const QUEUE_MAX: usize = link::INPUT_QUEUE_MAX;
/// Most that it takes at once.
const TAKEN_MAX: usize = 256;

/// Calls `run`, which does something for `records` records, for `duration`; nanoseconds per record,
/// as the median of the calls.
fn per_record(
    records: usize,
    duration: Duration,
    mut run: impl FnMut() -> Result<Duration, Failure>,
) -> Result<Option<f64>, Failure> {
    let mut calls = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < duration {
        calls.push(number(nanoseconds(run()?)) / number(records as u64));
    }
    Ok(median(&calls))
}

fn engine() -> Engine {
    let config = Config {
        journal: JournalId(Id128([1; 16])),
        epoch: Epoch::FIRST,
        opening: OpeningId(Id128([2; 16])),
        openings: Vec::new(),
        next: Lsn::FIRST,
        boot: ours::BOOT,
        peer: "/run/phase-journal/peer.sock".to_owned(),
        store: None,
    };
    let mut engine = Engine::open(config, &[]);
    let _ = engine.checkpoint();
    let _ = engine.start(link::now());
    engine
}

/// The engine's steps for N requests to N domains.
fn engine_steps(count: usize, duration: Duration) -> Result<Option<f64>, Failure> {
    let mut engine = engine();
    let numbers = 0..u32::try_from(count).unwrap_or(u32::MAX);
    per_record(count, duration, || {
        let inputs: Vec<Input> = numbers
            .clone()
            .map(|index| Input::Control {
                token: Token(u64::from(index)),
                request: ours::request(index),
            })
            .collect();
        let now = link::now();
        let mut records = 0;
        let begin = Instant::now();
        for input in inputs {
            records += black_box(engine.step(now, input)).append.len();
        }
        let elapsed = begin.elapsed();
        match records == count {
            true => Ok(elapsed),
            false => Err(Failure::Wrong(format!(
                "{count} requests gave {records} records"
            ))),
        }
    })
}

/// Laying N records out as one batch, with all checksums.
fn batch(count: usize, duration: Duration) -> Result<Option<f64>, Failure> {
    let drafts: Vec<Draft> = (0..u32::try_from(count).unwrap_or(u32::MAX))
        .map(ours::draft)
        .collect();
    let header = BatchHeader {
        first: Lsn(1),
        records: 0,
        length: 0,
        epoch: Epoch::FIRST,
        chain: Chain(0),
        boot: ours::BOOT,
        wall: 1,
        monotonic: 1,
        segment: SegmentNumber::FIRST,
        offset: 4096,
        content: 0,
    };
    let mut bytes = Vec::new();
    per_record(count, duration, || {
        bytes.clear();
        let begin = Instant::now();
        let salt = Salt([3; 16]);
        let mut batch = BatchBuilder::behind(core::mem::take(&mut bytes), salt, header);
        for draft in &drafts {
            batch
                .push(draft, Some(Lsn(1)))
                .map_err(Failure::store("ours", "lay out a batch"))?;
        }
        let (finished, chain) = batch.finish();
        bytes = finished;
        black_box(chain);
        Ok(begin.elapsed())
    })
}

/// The checksums in it alone: one over each record, one over all of them.
fn checksums(count: usize, duration: Duration) -> Result<Option<f64>, Failure> {
    let size = usize::try_from(ours::record_bytes()).unwrap_or(usize::MAX);
    let bytes = vec![0x5a; size * count];
    per_record(count, duration, || {
        let begin = Instant::now();
        for record in bytes.chunks(size) {
            black_box(crc32fast::hash(record));
        }
        black_box(crc32fast::hash(&bytes));
        Ok(begin.elapsed())
    })
}

/// The way there and back: N tasks, each sends through a bounded queue to a thread that takes all that
/// waits and answers each through a channel of its own, and does nothing else. Nanoseconds between two
/// answers.
fn there_and_back(count: usize, duration: Duration) -> Result<Option<f64>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::store("tokio", "start its threads"))?;
    let (sender, mut receiver) = mpsc::channel::<oneshot::Sender<()>>(QUEUE_MAX);
    let far_end = std::thread::spawn(move || {
        let mut taken = Vec::new();
        while receiver.blocking_recv_many(&mut taken, TAKEN_MAX) > 0 {
            for answer in taken.drain(..) {
                // Whoever asked waits.
                let _ = answer.send(());
            }
        }
    });
    let result = runtime.block_on(async {
        let barrier = std::sync::Arc::new(Barrier::new(count + 1));
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let (sender, barrier) = (sender.clone(), std::sync::Arc::clone(&barrier));
                tokio::spawn(async move {
                    barrier.wait().await;
                    let begin = Instant::now();
                    let mut answers = 0u64;
                    while begin.elapsed() < duration {
                        let (answer, answered) = oneshot::channel();
                        let _ = sender.send(answer).await;
                        answers += u64::from(answered.await.is_ok());
                    }
                    answers
                })
            })
            .collect();
        barrier.wait().await;
        let begin = Instant::now();
        let mut answers = 0;
        for task in tasks {
            answers += task.await.unwrap_or(0);
        }
        (answers > 0).then(|| number(nanoseconds(begin.elapsed())) / number(answers))
    });
    drop(sender);
    far_end
        .join()
        .map_err(|_| Failure::Wrong("the thread at the far end panicked".to_owned()))?;
    Ok(result)
}

/// The whole way, or the log alone, on a file system in memory.
fn in_memory(
    memory: Option<&Path>,
    count: usize,
    duration: Duration,
    append: fn(&Cell<'_>) -> Result<crate::statistics::Sample, Failure>,
) -> Result<Option<f64>, Failure> {
    let Some(memory) = memory else {
        return Ok(None);
    };
    let place = tempfile::Builder::new()
        .prefix("phase-journal-bench-")
        .tempdir_in(memory)
        .map_err(Failure::io("make a directory in", memory))?;
    let cell = Cell {
        directory: &place.path().join("journal"),
        run: &place.path().join("run"),
        writers: count,
        duration,
        workers: None,
    };
    let figures = append(&cell)?.figures();
    Ok(figures.map(|figures| 1e9 / figures.per_second))
}

/// Measures. `memory` is a directory in memory, if there is one.
///
/// # Errors
/// The journal's or the system's.
pub fn measure(
    counts: &[usize],
    duration: Duration,
    memory: Option<&Path>,
    say: &dyn Fn(&str),
) -> Result<Table, Failure> {
    let mut rows = Vec::new();
    for count in counts {
        say(&format!("{count} at once"));
        let figures = [
            engine_steps(*count, duration)?,
            batch(*count, duration)?,
            checksums(*count, duration)?,
            there_and_back(*count, duration)?,
            in_memory(memory, *count, duration, ours::append_to_log)?,
            in_memory(memory, *count, duration, node::append_without_engine)?,
            in_memory(memory, *count, duration, node::append)?,
        ];
        let mut row = vec![Entry::Number(number(*count as u64), 0)];
        row.extend(figures.map(|figure| Entry::of(figure, 0)));
        rows.push(row);
    }
    Ok(Table {
        title: "Where the time goes, nanoseconds per record".to_owned(),
        columns: vec![
            "at once",
            "engine step",
            "batch laid out",
            "its checksums alone",
            "task to thread and back",
            "log in memory",
            "all but the engine in memory",
            "all of ours in memory",
        ],
        rows,
        notes: vec![
            "each piece alone, without the disk; the three on a file system in memory are the time \
             between two acknowledgements, zeroing of segments included"
                .to_owned(),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_measured() {
        let directory = tempfile::tempdir().unwrap();
        let duration = Duration::from_millis(1);
        let table = measure(&[1, 3], duration, Some(directory.path()), &|_| {}).unwrap();
        assert_eq!(table.rows.len(), 2);
        for row in &table.rows {
            assert_eq!(row.len(), table.columns.len());
            for entry in row {
                assert!(
                    matches!(entry, Entry::Number(figure, _) if *figure > 0.0),
                    "{row:?}"
                );
            }
        }
    }
}
