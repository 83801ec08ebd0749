//! What was decided, from the journal itself.
//!
//! Invariant: reads beside the node, without a lock and away from its thread; nothing is decided by
//! it. One reading at a time: each may be long.
//! Not here: the reader (`journal::read`).

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{Decided, Decision, Decoded, Evidence, Record, RecordBody};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::arguments::QueryDecisions;
use crate::engine::Rule;
use crate::journal::disk::OsDisk;
use crate::journal::read::{Entry, ReadError, Reader};

/// The journal's past.
#[derive(Clone, Debug)]
pub(crate) struct History {
    directory: PathBuf,
    turn: Arc<Mutex<()>>,
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
    evidence: Evidence,
    based_on: Vec<Lsn>,
}

impl History {
    /// The past of the journal in this directory.
    pub(crate) fn new(directory: PathBuf) -> History {
        History {
            directory,
            turn: Arc::default(),
        }
    }

    /// The newest decisions that match, oldest first.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(crate) async fn decisions(&self, query: QueryDecisions) -> Result<Value, String> {
        let _turn = self.turn.lock().await;
        let directory = self.directory.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let reader =
                Reader::open(OsDisk::new(&directory)).map_err(|error| error.to_string())?;
            let made = collect(reader, &query).map_err(|error| error.to_string())?;
            serde_json::to_value(made).map_err(|error| error.to_string())
        });
        reading
            .await
            .unwrap_or_else(|error| Err(format!("reading the journal failed: {error}")))
    }
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
            let RecordBody::Decided(decided) = record.body else {
                continue;
            };
            let name = record.domain.and_then(|domain| names.get(&domain));
            let name = name.cloned().unwrap_or_default();
            let matches = query.name.as_ref().is_none_or(|wanted| *wanted == name)
                && query.job.is_none_or(|wanted| wanted == decided.job);
            if matches {
                if made.len() >= query.limit {
                    made.pop_front();
                }
                made.push_back(shown(record.lsn, batch.header.wall, name, decided));
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

fn shown(lsn: Lsn, time: u64, name: String, decided: Decided) -> DecisionMade {
    let reason = Rule::from_name(&decided.rule).map_or("", |rule| rule.text().reason);
    DecisionMade {
        lsn,
        time,
        name,
        job: decided.job,
        rule: decided.rule,
        decision: decided.decision,
        reason,
        evidence: decided.evidence,
        based_on: decided.based_on,
    }
}
