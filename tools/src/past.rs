//! A journal as the offline commands read it: records with their names, gaps, the end.
//!
//! Invariant: reads without a lock and writes nothing; never more than one segment in memory.
//! Not here: how it is shown (`dump`, `explain`).

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use journal_format::batch::BatchHeader;
use journal_format::number::{Chain, DomainId, JournalId, Lsn, SegmentNumber};
use journal_format::record::{Decoded, RecordBody};
use phase_journal::journal::OsDisk;
use phase_journal::journal::read::{Ending, Entry, Gap, Reader, SegmentFile};

use crate::error::ToolError;

/// Something in a journal.
#[derive(Debug)]
pub(crate) enum Item {
    /// A batch begins: its header, and the chain value after it, which is the header's checksum (F6).
    Batch(Box<BatchHeader>, Chain),
    /// A record.
    Record(Box<Recorded>),
    /// Records that are lost.
    Gap(Gap),
}

impl Item {
    /// The segment it stands in.
    pub(crate) fn segment(&self) -> SegmentNumber {
        match self {
            Item::Batch(header, _) => header.segment,
            Item::Record(recorded) => recorded.batch.segment,
            Item::Gap(gap) => gap.segment,
        }
    }

    /// Does it stand before a gap that was found in the same batch? The batch's own header always does.
    fn is_before(&self, gap: &Gap) -> bool {
        match self {
            Item::Batch(..) => true,
            Item::Record(recorded) => recorded.record.lsn() < gap.first,
            Item::Gap(other) => other.first < gap.first,
        }
    }
}

/// A record and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) record: Decoded,
    pub(crate) batch: BatchHeader,
    pub(crate) offset: u64,
    /// The domain's name, as far as it is known by then.
    pub(crate) name: Option<String>,
    /// The job it is about.
    pub(crate) job: Option<Lsn>,
}

/// Reads a journal, one record after the other.
pub(crate) struct Past {
    reader: Reader<OsDisk>,
    known: Known,
}

/// What the records before a record tell of it.
#[derive(Debug, Default)]
pub(crate) struct Known {
    names: HashMap<DomainId, String>,
    /// The open or last job of each domain: what a record without a job of its own is about.
    jobs: HashMap<DomainId, Lsn>,
    effects: HashMap<Lsn, Option<Lsn>>,
}

impl Past {
    pub(crate) fn open(directory: &Path) -> Result<Past, ToolError> {
        Ok(Past {
            reader: Reader::open(OsDisk::new(directory))?,
            known: Known::default(),
        })
    }

    /// The journal's identity; `None` if no segment's head can be read.
    pub(crate) fn journal(&self) -> Option<JournalId> {
        self.reader.journal()
    }

    /// The segments, oldest first.
    pub(crate) fn segments(&self) -> &[SegmentFile] {
        self.reader.segments()
    }

    /// Hands everything to `each`, in the order of LSNs; says how the journal ends.
    pub(crate) fn read(
        mut self,
        mut each: impl FnMut(Item) -> Result<(), ToolError>,
    ) -> Result<Ending, ToolError> {
        // The reader tells of the gaps in a batch after the batch: one batch waits for its gaps.
        let mut items: VecDeque<Item> = VecDeque::new();
        for entry in self.reader.by_ref() {
            match entry? {
                Entry::Gap(gap) => {
                    let at = items.partition_point(|item| item.is_before(&gap));
                    items.insert(at, Item::Gap(gap));
                }
                Entry::Batch(batch) => {
                    items.drain(..).try_for_each(&mut each)?;
                    // A header that is lost is not shown; its records are.
                    if !batch.header_lost {
                        items.push_back(Item::Batch(Box::new(batch.header), batch.chain));
                    }
                    for placed in batch.records {
                        let recorded =
                            self.known
                                .recorded(placed.record, batch.header, placed.offset);
                        items.push_back(Item::Record(Box::new(recorded)));
                    }
                }
            }
        }
        items.drain(..).try_for_each(each)?;
        Ok(self.reader.ending())
    }
}

impl Known {
    /// A record with its name and job. Each record is shown to it once, in order.
    pub(crate) fn recorded(
        &mut self,
        record: Decoded,
        batch: BatchHeader,
        offset: u64,
    ) -> Recorded {
        let (lsn, domain) = (record.lsn(), record.domain());
        let mut job = None;
        if let (Decoded::Known(known), Some(domain)) = (&record, domain) {
            if let RecordBody::DomainAdded(state) | RecordBody::DomainState(state) = &known.body {
                self.names.insert(domain, state.name.clone());
            }
            job = self.job(lsn, domain, &known.body);
        }
        let name = domain.and_then(|domain| self.names.get(&domain).cloned());
        Recorded {
            record,
            batch,
            offset,
            name,
            job,
        }
    }

    /// The job that a record is about.
    fn job(&mut self, lsn: Lsn, domain: DomainId, body: &RecordBody) -> Option<Lsn> {
        let current = self.jobs.get(&domain).copied();
        match body {
            RecordBody::JobBegun(_) => {
                self.jobs.insert(domain, lsn);
                Some(lsn)
            }
            RecordBody::MigrationState(state) => {
                self.jobs.insert(domain, state.job);
                Some(state.job)
            }
            RecordBody::MigrationHistories(restated) => Some(restated.job),
            RecordBody::PhaseEntered(entered) => Some(entered.job),
            RecordBody::Decided(decided) => Some(decided.job),
            RecordBody::OperatorResolved(resolved) => Some(resolved.job),
            RecordBody::JobEnded(ended) => Some(ended.job),
            RecordBody::QemuObserved(observed) => observed.job,
            RecordBody::EffectIntended(intended) => {
                self.effects.insert(lsn, intended.job);
                intended.job
            }
            RecordBody::EffectFinished(finished) => {
                self.effects.remove(&finished.effect).unwrap_or(current)
            }
            RecordBody::PeerHeard(_)
            | RecordBody::PeerPrepared(_)
            | RecordBody::MigrationGranted(_)
            | RecordBody::MigrationAbandoned(_)
            | RecordBody::MigrationCommitted(_)
            | RecordBody::MigrationStarted(_)
            | RecordBody::MigrationAborted(_)
            | RecordBody::OutcomeLearned(_)
            | RecordBody::StoreIntended(_)
            | RecordBody::StoreRead(_)
            | RecordBody::VerdictGiven(_)
            | RecordBody::MigrationForgotten(_) => current,
            RecordBody::CheckpointBegun(_)
            | RecordBody::CheckpointEnded(_)
            | RecordBody::DomainAdded(_)
            | RecordBody::DomainState(_)
            | RecordBody::DomainRemoved
            | RecordBody::DefinitionPart(_)
            | RecordBody::WantedChanged(_)
            | RecordBody::Sealed => None,
        }
    }
}
