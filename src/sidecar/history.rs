//! What was decided, from the journal itself.
//!
//! Invariant: reads beside the node, without a lock and away from its thread; nothing is decided by
//! it. One reading at a time: each may be long. The index only tells where reading may begin; without
//! it everything is read.
//! Not here: the reader (`journal::read`), the index (`journal::index`).

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal_format::number::{DomainId, Lsn, SegmentNumber};
use journal_format::record::{Decided, Decision, Decoded, JobDecided, Record, RecordBody};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::{debug, warn};

use super::arguments::QueryDecisions;
use crate::engine::{AnyEvidence, Rule};
use crate::journal::INDEX_NAME;
use crate::journal::disk::OsDisk;
use crate::journal::index::{CaughtUp, Index};
use crate::journal::read::{Entry, ReadError, Reader, SegmentFile};

/// The journal's past.
#[derive(Clone, Debug)]
pub(crate) struct History {
    directory: PathBuf,
    index: Arc<Mutex<Option<Index>>>,
}

/// A decision as it stands in the journal.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct DecisionMade {
    lsn: Lsn,
    /// When it became durable, in nanoseconds since 1970.
    time: u64,
    name: String,
    job: Lsn,
    rule: String,
    decision: Decision,
    reason: &'static str,
    evidence: AnyEvidence,
    based_on: Vec<Lsn>,
}

impl History {
    /// The past of the journal in this directory.
    pub(crate) fn new(directory: PathBuf) -> History {
        History {
            directory,
            index: Arc::default(),
        }
    }

    /// Brings the index up to the journal's end, away from everything that waits.
    pub(crate) async fn index(&self) {
        let mut index = Arc::clone(&self.index).lock_owned().await;
        let directory = self.directory.clone();
        let work = tokio::task::spawn_blocking(move || catch_up(&mut index, &directory));
        if work.await.is_err() {
            warn!("the index could not be brought up to date");
        }
    }

    /// The newest decisions that match, oldest first. `domain` is the one of the query's name, if it
    /// is registered.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(crate) async fn decisions(
        &self,
        query: QueryDecisions,
        domain: Option<DomainId>,
    ) -> Result<Value, String> {
        let mut index = Arc::clone(&self.index).lock_owned().await;
        let directory = self.directory.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let open = || Reader::open(OsDisk::new(&directory)).map_err(|error| error.to_string());
            // Without a journal, no index is made.
            drop(open()?);
            catch_up(&mut index, &directory);
            // Only now: what the index tells of must not lie behind the segments that are read.
            let mut reader = open()?;
            match (query.job, domain, &*index) {
                // Nothing of a job stands before its first record, whose LSN is its number.
                (Some(job), _, _) => {
                    let begins = segment_of(reader.segments(), job);
                    begins
                        .into_iter()
                        .for_each(|segment| reader.skip_to(segment));
                }
                (None, Some(domain), Some(index)) => {
                    match index.newest_decisions(domain, query.limit) {
                        Ok(Some(segment)) => reader.skip_to(segment),
                        // Nothing is concluded from an index that knows of none.
                        Ok(None) => {}
                        Err(error) => warn!(%error, "the whole journal is read"),
                    }
                }
                (None, _, _) => {}
            }
            let made = collect(reader, &query).map_err(|error| error.to_string())?;
            serde_json::to_value(made).map_err(|error| error.to_string())
        });
        reading
            .await
            .unwrap_or_else(|error| Err(format!("reading the journal failed: {error}")))
    }
}

/// Opens the index if it is not, and adds what is new. One that fails under way, or was deleted, is
/// opened anew; what cannot be opened is left alone until the next time: it is never needed.
fn catch_up(index: &mut Option<Index>, journal: &Path) {
    let disk = OsDisk::new(journal);
    if let Some(open) = index {
        match open.catch_up(&disk) {
            Ok(caught_up) => return told(caught_up),
            Err(error) => warn!(%error, "the index is opened anew"),
        }
        // First of all: what it still writes must not get among the files of the next one.
        *index = None;
    }
    match Index::open(&journal.join(INDEX_NAME), &disk) {
        Ok((open, caught_up)) => {
            *index = Some(open);
            told(caught_up);
        }
        Err(error) => warn!(%error, "no index"),
    }
}

fn told(CaughtUp { added, rebuilt }: CaughtUp) {
    debug!(added, rebuilt, "index");
}

/// The segment that a record is in, if the journal still has it.
fn segment_of(files: &[SegmentFile], lsn: Lsn) -> Option<SegmentNumber> {
    let heads = files.iter().filter_map(|file| file.header.as_ref().ok());
    let head = heads.take_while(|head| head.first <= lsn).last();
    head.map(|head| head.number)
}

/// The newest decisions that match, oldest first. What is damaged or of a newer version is left out.
fn collect(
    entries: impl Iterator<Item = Result<Entry, ReadError>>,
    query: &QueryDecisions,
) -> Result<VecDeque<DecisionMade>, ReadError> {
    let mut names: HashMap<DomainId, String> = HashMap::new();
    let mut made = VecDeque::new();
    for entry in entries {
        let Entry::Batch(batch) = entry? else {
            continue;
        };
        for placed in batch.records {
            let Decoded::Known(record) = placed.record else {
                continue;
            };
            learn_name(&mut names, &record);
            let decided = match record.body {
                RecordBody::Decided(decided) => decision(*decided),
                RecordBody::JobDecided(decided) => decision_on_job(*decided),
                _ => continue,
            };
            let name = record.domain.and_then(|domain| names.get(&domain));
            let name = name.cloned().unwrap_or_default();
            let matches = query.name.as_ref().is_none_or(|wanted| *wanted == name)
                && query.job.is_none_or(|wanted| wanted == decided.job);
            if matches {
                if made.len() >= query.limit {
                    made.pop_front();
                }
                made.push_back(DecisionMade {
                    lsn: record.lsn,
                    time: batch.header.wall,
                    name,
                    ..decided
                });
            }
        }
    }
    Ok(made)
}

fn learn_name(names: &mut HashMap<DomainId, String>, record: &Record) {
    if let RecordBody::DomainAdded(state) | RecordBody::DomainState(state) = &record.body
        && let Some(domain) = record.domain
    {
        names.insert(domain, state.name.clone());
    }
}

fn reason(rule: &str) -> &'static str {
    Rule::from_name(rule).map_or("", |rule| rule.text().reason)
}

/// A decision without its place.
fn decision(decided: Decided) -> DecisionMade {
    DecisionMade {
        lsn: decided.job,
        time: 0,
        name: String::new(),
        job: decided.job,
        reason: reason(&decided.rule),
        rule: decided.rule,
        decision: decided.decision,
        evidence: AnyEvidence::Migration(decided.evidence),
        based_on: decided.based_on,
    }
}

/// The same of a job that is no migration.
fn decision_on_job(decided: JobDecided) -> DecisionMade {
    DecisionMade {
        lsn: decided.job,
        time: 0,
        name: String::new(),
        job: decided.job,
        reason: reason(&decided.rule),
        rule: decided.rule,
        decision: decided.decision,
        evidence: AnyEvidence::Job(decided.evidence),
        based_on: decided.based_on,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Rule;
    use crate::journal::disk::Disk;
    use crate::journal::testing::TestDisk;
    use crate::journal::{Checkpoint, Log, OpenOptions, Timestamps};
    use journal_format::number::{BootId, HostId, Id128};
    use journal_format::record::{
        Authority, CheckpointBegun, CheckpointEnded, ClaimSeen, ContIntent, DomainState, Draft,
        Evidence, Facts, Instance, Observed, PeerAnswer, Phase, Process, Protocol, Role,
        StoreAnswer, WantedRunState,
    };

    const BOOT: BootId = BootId(Id128([2; 16]));

    fn domain(number: u8, body: RecordBody) -> Draft {
        Draft {
            domain: Some(DomainId(Id128([number; 16]))),
            body,
        }
    }

    fn added(name: &str) -> RecordBody {
        RecordBody::DomainAdded(Box::new(DomainState {
            name: name.to_owned(),
            qmp: "/run/qmp.sock".to_owned(),
            instance: Instance {
                boot: BOOT,
                pid: 17,
                start_time: 18,
            },
            wanted: WantedRunState::Running,
            definition: None,
            claim: None,
            dead: false,
            damaged: false,
            last_job: None,
        }))
    }

    fn decided(job: u64) -> RecordBody {
        let facts = Facts {
            migrate_intended: false,
            postcopy: false,
            granted: false,
            abandoned: false,
            committed: false,
            started: false,
            aborted: false,
            outcome: None,
            cont: ContIntent::Never,
            proposed: false,
            verdict: None,
        };
        let evidence = Evidence {
            role: Role::Source,
            protocol: Protocol::V3,
            authority: Authority::Destination,
            phase: Phase::Perform3Done,
            facts,
            observed: Observed {
                process: Process::Mute,
                instance: None,
                run_state: None,
                migration: None,
                claim: ClaimSeen::Unread,
            },
            claim: None,
            peer: PeerAnswer::NotAsked,
            watched: false,
            recovering: true,
            journal_damaged: false,
            wanted: WantedRunState::Running,
            store: StoreAnswer::NotRead,
            overdue: false,
            source_touched: false,
        };
        RecordBody::Decided(Box::new(Decided {
            job: Lsn(job),
            rule: Rule::QemuMute.name().to_owned(),
            decision: Decision::Hold,
            evidence,
            based_on: vec![Lsn(job)],
        }))
    }

    /// A journal with two domains and four decisions.
    fn journal() -> TestDisk {
        let disk = TestDisk::new("journal");
        written(&disk);
        disk
    }

    fn written<D: Disk + Clone>(disk: &D) -> Log<D> {
        let options = OpenOptions::new(HostId(Id128([4; 16])), BOOT);
        let opened = Log::open(disk.clone(), None, &options, drop).unwrap();
        let begun = CheckpointBegun {
            records: 0,
            openings: vec![opened.opening()],
        };
        let checkpoint = Checkpoint {
            drafts: vec![
                Draft {
                    domain: None,
                    body: RecordBody::CheckpointBegun(begun),
                },
                Draft {
                    domain: None,
                    body: RecordBody::CheckpointEnded(CheckpointEnded { records: 0 }),
                },
            ],
            needed_from: None,
        };
        let mut log = opened.begin(&checkpoint, Timestamps::default()).unwrap();
        let drafts = [
            domain(1, added("one")),
            domain(2, added("two")),
            domain(1, decided(10)),
            domain(2, decided(20)),
            domain(1, decided(11)),
            domain(1, decided(10)),
        ];
        let _ = log.append(&drafts, TIME, ()).unwrap();
        log
    }

    const TIME: Timestamps = Timestamps {
        wall: 77,
        monotonic: 1,
    };

    fn check(name: Option<&str>, job: Option<u64>, limit: usize, expected: &[(&str, u64)]) {
        let query = QueryDecisions {
            name: name.map(str::to_owned),
            job: job.map(Lsn),
            limit,
        };
        let made = collect(Reader::open(journal()).unwrap(), &query).unwrap();
        let found: Vec<(&str, u64)> = made
            .iter()
            .map(|decision| (decision.name.as_str(), decision.job.0))
            .collect();
        assert_eq!(found, expected);
        assert!(made.iter().all(|decision| decision.time == 77));
        assert!(made.iter().all(|decision| !decision.reason.is_empty()));
    }

    #[test]
    fn by_domain_and_job_and_the_newest_first_to_stay() {
        let all = [("one", 10), ("two", 20), ("one", 11), ("one", 10)];
        check(None, None, 1000, &all);
        check(None, None, 2, &all[2..]);
        check(Some("two"), None, 1000, &[("two", 20)]);
        check(Some("one"), Some(10), 1000, &[("one", 10), ("one", 10)]);
        check(Some("three"), None, 1000, &[]);
    }
    async fn jobs(history: &History) -> Vec<u64> {
        let query = QueryDecisions {
            name: Some("one".to_owned()),
            job: None,
            limit: 1000,
        };
        let domain = DomainId(Id128([1; 16]));
        let made = history.decisions(query, Some(domain)).await.unwrap();
        let made = made.as_array().unwrap().iter();
        made.map(|made| made["job"].as_u64().unwrap()).collect()
    }

    async fn last_in_index(history: &History) -> Option<Lsn> {
        let index = history.index.lock().await;
        index.as_ref().and_then(Index::last)
    }

    /// Whoever deletes it does not ask whether it is open.
    #[tokio::test]
    async fn an_index_that_is_deleted_while_it_is_used_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(INDEX_NAME);
        let mut log = written(&OsDisk::new(directory.path()));
        let history = History::new(directory.path().to_owned());
        history.index().await;
        assert_eq!(last_in_index(&history).await, Some(Lsn(8)));
        assert_eq!(jobs(&history).await, [10, 11, 10]);

        for round in 1..4 {
            std::fs::remove_dir_all(&path).unwrap();
            let more = [domain(1, decided(100 + round))];
            let _ = log.append(&more, TIME, ()).unwrap();
            let mut expected = vec![10, 11, 10];
            expected.extend((1..=round).map(|round| 100 + round));
            assert_eq!(jobs(&history).await, expected);
            assert!(path.is_dir(), "the index is back");
            assert_eq!(last_in_index(&history).await, Some(Lsn(8 + round)));
            // And is what the next one finds.
            let (found, caught_up) = {
                *history.index.lock().await = None;
                Index::open(&path, &OsDisk::new(directory.path())).unwrap()
            };
            assert_eq!(
                (found.last(), caught_up),
                (Some(Lsn(8 + round)), CaughtUp::default())
            );
            drop(found);
            history.index().await;
        }
        // Put back from elsewhere, while the old one is still open.
        let aside = directory.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(jobs(&history).await, [10, 11, 10, 101, 102, 103]);
        assert_eq!(last_in_index(&history).await, Some(Lsn(11)));
    }

    /// With the index less is read, and the same is found.
    #[tokio::test]
    async fn the_newest_are_found_where_the_index_says_that_they_begin() {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(directory.path());
        drop(written(&disk));
        drop(written(&disk));
        drop(written(&disk));
        let history = History::new(directory.path().to_owned());
        let query = |job: Option<Lsn>, limit| QueryDecisions {
            name: job.is_none().then(|| "one".to_owned()),
            job,
            limit,
        };
        let id = DomainId(Id128([1; 16]));
        for (limit, expected) in [(1, 3), (3, 3), (4, 2), (7, 1), (100, 1)] {
            let made = history.decisions(query(None, limit), Some(id)).await;
            let made = made.unwrap();
            assert_eq!(made.as_array().unwrap().len(), limit.min(9));
            let index = history.index.lock().await;
            let begin = index.as_ref().unwrap().newest_decisions(id, limit);
            assert_eq!(begin.unwrap(), Some(SegmentNumber(expected)), "{limit}");
        }
        // A job of that number begins in the second segment: the first has nothing of it.
        let made = history.decisions(query(Some(Lsn(11)), 100), None).await;
        assert_eq!(made.unwrap().as_array().unwrap().len(), 2);
    }

    /// Somebody makes the index anew, or nothing can be written there.
    #[tokio::test]
    async fn decisions_are_found_without_an_index() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(INDEX_NAME);
        let disk = OsDisk::new(directory.path());
        let _log = written(&disk);
        let (held, _) = Index::open(&path, &disk).unwrap();
        let history = History::new(directory.path().to_owned());
        history.index().await;
        assert_eq!(last_in_index(&history).await, None);
        assert_eq!(jobs(&history).await, [10, 11, 10]);
        drop(held);
        assert_eq!(jobs(&history).await, [10, 11, 10]);
        assert_eq!(last_in_index(&history).await, Some(Lsn(8)));
    }
}
