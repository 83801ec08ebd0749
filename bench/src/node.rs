//! Many callers and the node: tasks that each await their own record before the next one.
//!
//! The way is the product's own: callers await `Link::control`, the node's task runs `link::run` over a
//! real log, spare segments are made by their own thread. Only the dispatcher is replaced, by a task that
//! lets go of what it gets: there is no QEMU to connect to. Once with the engine, as in the sidecar, and
//! once with a machine that only writes down what it is given: the peers have no engine either.
//! Not here: the request and the journal (`ours`).

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use journal_format::number::Lsn;
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, DomainState, Draft, Opening, RecordBody, WantedRunState,
};
use phase_journal::engine::{Answer, ControlRequest, Input, Message, Now, Step};
use phase_journal::journal::read::{Entry, Reader};
use phase_journal::journal::{AppendError, OsDisk};
use phase_journal::node::{CrashSwitch, Machine, Node};
use phase_journal::sidecar::link::{self, Link};
use tokio::runtime::Runtime;
use tokio::sync::Barrier;

use crate::append::Cell;
use crate::failure::Failure;
use crate::ours::{open, open_node, options, request};
use crate::statistics::{Sample, nanoseconds, number};

/// How it is called in tables.
pub const NODE: &str = "ours";
/// How it is called without the engine.
pub const NO_ENGINE: &str = "ours, without engine";

/// Requests before a run at the most, until the spare segments are there.
const WARM_UP_MAX: usize = 2_000;
/// Spare segments that a journal at rest has.
const SPARES: u64 = 2;

/// A machine that writes down what it is given, answers, and knows nothing.
#[derive(Debug)]
struct Writer {
    next: Lsn,
    opening: Opening,
}

impl Writer {
    fn count(&mut self, records: u64) {
        self.next = Lsn(self.next.0 + records);
    }
}

impl Machine for Writer {
    fn step(&mut self, _now: Now, input: Input) -> Step {
        let mut step = Step::default();
        let Input::Control {
            token,
            request:
                ControlRequest::DomainAdd {
                    name,
                    domain,
                    qmp,
                    instance,
                    ..
                },
        } = input
        else {
            return step;
        };
        step.append.push(Draft {
            domain: Some(domain),
            body: RecordBody::DomainAdded(Box::new(DomainState {
                name,
                qmp,
                instance,
                wanted: WantedRunState::Running,
                definition: None,
                claim: None,
                dead: false,
                damaged: false,
                last_job: None,
            })),
        });
        self.count(1);
        step.messages.push(Message::Reply {
            token,
            result: Ok(Answer::Done {}),
        });
        step
    }

    fn checkpoint(&mut self) -> Vec<Draft> {
        let begun = RecordBody::CheckpointBegun(CheckpointBegun {
            records: 0,
            openings: vec![self.opening],
        });
        let ended = RecordBody::CheckpointEnded(CheckpointEnded { records: 0 });
        self.count(2);
        [begun, ended]
            .map(|body| Draft { domain: None, body })
            .to_vec()
    }

    fn seal(&mut self) -> Draft {
        self.count(1);
        Draft {
            domain: None,
            body: RecordBody::Sealed,
        }
    }

    fn next_lsn(&self) -> Lsn {
        self.next
    }

    fn in_blackout(&self) -> bool {
        false
    }

    fn set_no_room(&mut self, _why: Option<String>) {}

    fn kept_migrations(&self) -> usize {
        0
    }
}

/// A thread with a name, for whoever looks where the time goes.
fn thread<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Failure> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(Failure::store(NODE, "start a thread"))
}

/// The node at work, as the sidecar runs it.
struct Running {
    link: Link,
    node: tokio::task::JoinHandle<Result<(), AppendError>>,
    spares: JoinHandle<()>,
}

impl Running {
    fn start<M: Machine + Send + 'static>(
        runtime: &Runtime,
        node: Node<OsDisk, M>,
    ) -> Result<Running, Failure> {
        let (link, inbound) = Link::new();
        let maker = node.spare_maker();
        let spares = thread("spares", move || maker.run())?;
        let node = runtime.spawn(link::run(node, link.clone(), inbound, drop));
        Ok(Running { link, node, spares })
    }

    /// Ends it as the sidecar ends: the link is closed, and one more input comes.
    fn stop(self, runtime: &Runtime) -> Result<(), Failure> {
        let broken = || Failure::Wrong("a thread of ours panicked".to_owned());
        let result = runtime.block_on(async {
            self.link.close(&link::Failure::Stopping);
            self.link.tell(Input::Tick).await;
            self.node.await.map_err(|_| broken())
        })?;
        self.spares.join().map_err(|_| broken())?;
        result.map_err(Failure::store(NODE, "append"))
    }
}

async fn ask(link: &Link, request: ControlRequest) -> Result<(), Failure> {
    match link.control(request).await {
        Ok(answered) if matches!(answered.answer, Answer::Domain(_) | Answer::Done {}) => Ok(()),
        Ok(_) => Err(Failure::Wrong("ours gave another answer".to_owned())),
        Err(failure) => Err(Failure::store(NODE, "append")(failure)),
    }
}

/// N tasks, each waits for its own record before the next one; and when they began, in nanoseconds since
/// 1970.
async fn closed_loop(link: &Link, cell: &Cell<'_>) -> Result<(Sample, u64), Failure> {
    let requests: Vec<ControlRequest> = (0..cell.writers_u32()).map(request).collect();
    for request in &requests {
        ask(link, request.clone()).await?;
    }
    for request in requests.iter().cycle().take(WARM_UP_MAX) {
        let status = link.status().await;
        if status
            .map_err(Failure::store(NODE, "say its status"))?
            .journal
            .spares
            >= SPARES
        {
            break;
        }
        ask(link, request.clone()).await?;
    }
    let barrier = Arc::new(Barrier::new(requests.len() + 1));
    let duration = cell.duration;
    let tasks: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let (link, barrier) = (link.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                let mut calls = Vec::new();
                barrier.wait().await;
                let begin = Instant::now();
                let mut last = begin;
                while last - begin < duration {
                    ask(&link, request.clone()).await?;
                    let now = Instant::now();
                    calls.push(nanoseconds(now - last));
                    last = now;
                }
                Ok::<_, Failure>((calls, last))
            })
        })
        .collect();
    let since = link::now().wall;
    barrier.wait().await;
    let begin = Instant::now();
    let (mut calls, mut end) = (Vec::new(), begin);
    for task in tasks {
        let result = task.await;
        let (of_task, last) =
            result.map_err(|_| Failure::Wrong("a task of ours panicked".to_owned()))??;
        calls.extend(of_task);
        end = end.max(last);
    }
    let sample = Sample {
        calls,
        records_per_call: 1,
        elapsed: end - begin,
        records_per_sync: None,
    };
    Ok((sample, since))
}

/// Through the node, with the engine, as the sidecar does it.
///
/// # Errors
/// The journal's or the system's.
pub fn append(cell: &Cell<'_>) -> Result<Sample, Failure> {
    let (node, _first) = open_node(cell.directory, cell.run, &options())?;
    append_through(node, cell)
}

/// Through the node, with a machine that only writes down.
///
/// # Errors
/// The journal's or the system's.
pub fn append_without_engine(cell: &Cell<'_>) -> Result<Sample, Failure> {
    let (opened, _) = open(cell.directory, cell.run, &options())?;
    let writer = Writer {
        next: opened.first_lsn(),
        opening: opened.opening(),
    };
    let node = Node::begin(opened, writer, link::now(), CrashSwitch::default())
        .map_err(Failure::store(NO_ENGINE, "begin its journal"))?;
    append_through(node, cell)
}

fn append_through<M: Machine + Send + 'static>(
    node: Node<OsDisk, M>,
    cell: &Cell<'_>,
) -> Result<Sample, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(cell.workers.unwrap_or_else(link::workers));
    let runtime = builder
        .enable_all()
        .build()
        .map_err(Failure::store(NODE, "start its threads"))?;
    let running = Running::start(&runtime, node)?;
    let result = runtime.block_on(closed_loop(&running.link, cell));
    running.stop(&runtime)?;
    let (sample, since) = result?;
    Ok(Sample {
        records_per_sync: records_per_batch(cell.directory, since)?,
        ..sample
    })
}

/// The mean over the batches of the run that are still there.
fn records_per_batch(directory: &Path, since: u64) -> Result<Option<f64>, Failure> {
    let reader =
        Reader::open(OsDisk::new(directory)).map_err(Failure::store(NODE, "read its journal"))?;
    let (mut batches, mut records) = (0u64, 0u64);
    for entry in reader {
        match entry.map_err(Failure::store(NODE, "read its journal"))? {
            Entry::Batch(batch) if batch.header.wall < since => {}
            Entry::Batch(batch) => {
                batches += 1;
                records += u64::from(batch.header.records);
            }
            Entry::Gap(gap) => return Err(Failure::Wrong(format!("ours has a gap: {gap}"))),
        }
    }
    Ok((batches > 0).then(|| number(records) / number(batches)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal_format::record::Decoded;

    #[test]
    fn every_acknowledgement_is_a_record() {
        for append in [append, append_without_engine] {
            check(append);
        }
    }

    fn check(append: fn(&Cell<'_>) -> Result<Sample, Failure>) {
        let directory = tempfile::tempdir().unwrap();
        let (journal, run) = (
            directory.path().join("journal"),
            directory.path().join("run"),
        );
        let cell = Cell {
            directory: &journal,
            run: &run,
            writers: 8,
            duration: std::time::Duration::from_millis(5),
            workers: None,
        };
        let sample = append(&cell).unwrap();
        let mut records = 0;
        for entry in Reader::open(OsDisk::new(&journal)).unwrap() {
            let Entry::Batch(batch) = entry.unwrap() else {
                panic!("a gap");
            };
            let is_added = |record: &Decoded| {
                matches!(record, Decoded::Known(record)
                    if matches!(record.body, RecordBody::DomainAdded(_)))
            };
            let added = batch.records.iter().filter(|one| is_added(&one.record));
            records += added.count();
        }
        assert!(sample.calls.len() >= 8);
        assert!(
            sample
                .records_per_sync
                .is_some_and(|records| records >= 1.0)
        );
        assert!(records >= sample.calls.len() + 8);
        assert!(records <= sample.calls.len() + 8 + WARM_UP_MAX);
    }
}
