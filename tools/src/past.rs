//! A journal as the offline commands read it: records with their names, gaps, the end.
//!
//! Invariant: reads without a lock and writes nothing; memory is that of a few blocks, or of one segment where
//! that is damaged.
//! Not here: how it is shown (`dump`, `explain`); what of it (`filter`).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use journal_format::batch::BatchHeader;
use journal_format::number::{Chain, DomainId, JournalId, Lsn, MigrationId, SegmentNumber};
use journal_format::record::{Decoded, MigrationTerms, Phase, Protocol, RecordBody, Role};
use phase_journal::journal::OsDisk;
use phase_journal::journal::decoded::{self, Head};
use phase_journal::journal::read::{Ending, Gap, Reader, SegmentFile};

use crate::error::ToolError;
use crate::source;
use crate::terminal::Progress;

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
}

/// A record and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) record: Decoded,
    pub(crate) batch: BatchHeader,
    pub(crate) offset: u64,
    /// Its bytes on disk, header and padding included.
    pub(crate) size: u64,
    /// The domain's name, as far as it is known by then.
    pub(crate) name: Option<String>,
    /// The job it is about.
    pub(crate) job: Option<Lsn>,
    /// The migration that this job is.
    pub(crate) migration: Option<MigrationId>,
    /// The phase that this job is in, this record counted.
    pub(crate) phase: Option<Phase>,
}

/// What to read of a journal.
pub(crate) trait Choose {
    /// Whether a record that tells something of others tells it of some that may be shown.
    fn may_learn(&mut self, head: &Head, teaches: Teaches, known: &Known) -> bool;
    /// Whether to decode a record. Those that tell of others are decoded in any case.
    fn may_want(&mut self, batch: &BatchHeader, head: &Head, known: &Known) -> bool;
    /// Whether to show a record.
    fn wants(&mut self, recorded: &Recorded) -> bool;
}

/// Everything.
pub(crate) struct All;

impl Choose for All {
    fn may_learn(&mut self, _: &Head, _: Teaches, _: &Known) -> bool {
        true
    }

    fn may_want(&mut self, _: &BatchHeader, _: &Head, _: &Known) -> bool {
        true
    }

    fn wants(&mut self, _: &Recorded) -> bool {
        true
    }
}

/// Reads a journal, one record after the other.
pub(crate) struct Past {
    reader: Reader<OsDisk>,
    known: Known,
    shows_progress: bool,
}

impl Past {
    pub(crate) fn open(path: &Path) -> Result<Past, ToolError> {
        Past::of(source::open(path)?)
    }

    pub(crate) fn of(disk: OsDisk) -> Result<Past, ToolError> {
        Ok(Past {
            reader: Reader::open(disk)?,
            known: Known::default(),
            shows_progress: true,
        })
    }

    /// The same, without a word of how far it has come: what is read is printed meanwhile.
    pub(crate) fn silent(self) -> Past {
        Past {
            shows_progress: false,
            ..self
        }
    }

    /// The same, with what records before it told.
    pub(crate) fn knowing(self, known: Known) -> Past {
        Past { known, ..self }
    }

    /// The journal's identity; `None` if no segment's head can be read.
    pub(crate) fn journal(&self) -> Option<JournalId> {
        self.reader.journal()
    }

    /// The segments, oldest first.
    pub(crate) fn segments(&self) -> &[SegmentFile] {
        self.reader.segments()
    }

    /// Reads only these segments: from the first one on, and up to the one before the second.
    pub(crate) fn only(&mut self, from: SegmentNumber, before: Option<SegmentNumber>) {
        if let Some(before) = before {
            self.reader.stop_before(before);
        }
        self.reader.skip_to(from);
    }

    /// Hands everything to `each`, in the order of LSNs; says how the journal ends.
    pub(crate) fn read(
        mut self,
        mut each: impl FnMut(Item) -> Result<(), ToolError>,
    ) -> Result<Ending, ToolError> {
        // It is never stopped.
        let _ = self.read_some(&mut All, |item| {
            each(item)?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(self.reader.ending())
    }

    /// Hands what is chosen to `each`, and all batches and gaps, in the order of LSNs, until that has seen
    /// enough. How the journal ends [`Past::ending`] tells, if it was not stopped.
    pub(crate) fn read_some(
        &mut self,
        choose: &mut impl Choose,
        mut each: impl FnMut(Item) -> Result<ControlFlow<()>, ToolError>,
    ) -> Result<ControlFlow<()>, ToolError> {
        let total = self.reader.segments().iter().map(|file| file.length).sum();
        let mut progress = match self.shows_progress {
            true => Progress::new("reading", total),
            false => Progress::hidden(),
        };
        let mut failed = None;
        // Both closures look at these, one after the other.
        let known = std::cell::RefCell::new(std::mem::take(&mut self.known));
        let choose = std::cell::RefCell::new(choose);
        let read = self.reader.decoded(
            |batch, head| {
                let (mut choose, known) = (choose.borrow_mut(), known.borrow());
                let teaches = Teaches::of(head.kind);
                teaches.is_some_and(|teaches| choose.may_learn(head, teaches, &known))
                    || choose.may_want(batch, head, &known)
            },
            |item| {
                let item = match item {
                    decoded::Item::Gap(gap) => Item::Gap(gap),
                    // A header that is lost is not shown; its records are.
                    decoded::Item::Batch {
                        header_lost: true, ..
                    } => return ControlFlow::Continue(()),
                    decoded::Item::Batch { header, chain, .. } => {
                        progress.add(header.size());
                        Item::Batch(Box::new(*header), chain)
                    }
                    decoded::Item::Record {
                        header,
                        offset,
                        size,
                        record,
                    } => {
                        let head = Head::of(&record);
                        let place = Place {
                            batch: *header,
                            offset,
                            size,
                        };
                        let recorded = known.borrow_mut().recorded(record, place);
                        let mut choose = choose.borrow_mut();
                        let is_wanted = choose.wants(&recorded)
                            && choose.may_want(header, &head, &known.borrow());
                        if !is_wanted {
                            return ControlFlow::Continue(());
                        }
                        Item::Record(Box::new(recorded))
                    }
                };
                each(item).unwrap_or_else(|error| {
                    failed = Some(error);
                    ControlFlow::Break(())
                })
            },
        );
        self.known = known.into_inner();
        let stopped = read?;
        match failed {
            Some(error) => Err(error),
            None => Ok(stopped),
        }
    }

    /// How the journal ends; known when everything was read.
    pub(crate) fn ending(&self) -> Ending {
        self.reader.ending()
    }
}

/// Where a record stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) batch: BatchHeader,
    /// In bytes from the start of the segment.
    pub(crate) offset: u64,
    /// Its bytes on disk.
    pub(crate) size: u64,
}

/// What the records before a record tell of it.
#[derive(Debug, Default)]
pub(crate) struct Known {
    names: HashMap<DomainId, String>,
    /// The domains of each name.
    named: HashMap<String, Vec<DomainId>>,
    /// Another one after each change of a name, and in no other [`Known`]; 0 while there is none.
    names_version: u64,
    /// The open or last job of each domain: what a record without a job of its own is about.
    jobs: HashMap<DomainId, Lsn>,
    effects: HashMap<Lsn, Option<Lsn>>,
    /// The job of each migration that is not forgotten.
    migrations: HashMap<MigrationId, Lsn>,
    /// Where each of those jobs stands.
    standing: HashMap<Lsn, (MigrationId, Phase)>,
}

/// What a record tells of those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Teaches {
    /// A domain's name.
    Name,
    /// A job, its migration and its phase.
    Job,
    /// Which job an effect is of.
    Effect,
}

/// By the number of its type.
static TEACHES: LazyLock<Vec<Option<Teaches>>> = LazyLock::new(|| {
    let taught = |name: &str| match name {
        "domain-added" | "domain-state" => Some(Teaches::Name),
        "job-begun" | "phase-entered" | "migration-state" | "migration-forgotten" => {
            Some(Teaches::Job)
        }
        "effect-intended" | "effect-finished" => Some(Teaches::Effect),
        _ => None,
    };
    let last = RecordBody::TYPES.iter().map(|(number, _)| *number).max();
    let mut teaches = vec![None; usize::from(last.unwrap_or(0)) + 1];
    for (number, name) in RecordBody::TYPES {
        teaches[usize::from(*number)] = taught(name);
    }
    teaches
});

/// The types of records that do not name their job: those before them tell it.
static JOB_TOLD_BEFORE: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let is_one = |name: &str| match name {
        "effect-finished" | "peer-heard" | "peer-prepared" | "outcome-learned" => true,
        "store-intended" | "store-read" | "verdict-given" => true,
        // These name it.
        "migration-state" | "migration-histories" | "migration-settings" => false,
        _ => name.starts_with("migration-"),
    };
    let types = RecordBody::TYPES.iter();
    let told_before = types.filter(|(_, name)| is_one(name));
    told_before.map(|(number, _)| *number).collect()
});

/// Do records before one of that type tell which job it is of?
pub(crate) fn is_job_told_before(kind: u16) -> bool {
    JOB_TOLD_BEFORE.contains(&kind)
}

impl Teaches {
    /// What a record of a type tells.
    pub(crate) fn of(kind: u16) -> Option<Teaches> {
        TEACHES.get(usize::from(kind)).copied().flatten()
    }
}

/// Where versions of names are counted.
static NAMES_VERSIONS: AtomicU64 = AtomicU64::new(1);

impl Known {
    /// The domains that have a name.
    pub(crate) fn named(&self, name: &str) -> &[DomainId] {
        self.named.get(name).map_or(&[], Vec::as_slice)
    }

    /// What names are known: while it stays the same, [`Known::named`] does.
    pub(crate) fn names_version(&self) -> u64 {
        self.names_version
    }

    fn learn_name(&mut self, domain: DomainId, name: &str) {
        let before = self.names.insert(domain, name.to_owned());
        if let Some(others) = before.and_then(|before| self.named.get_mut(&before)) {
            others.retain(|other| *other != domain);
        }
        self.named.entry(name.to_owned()).or_default().push(domain);
        self.names_version = NAMES_VERSIONS.fetch_add(1, Ordering::Relaxed);
    }

    /// A record with its name and job. Each record is shown to it once, in order.
    pub(crate) fn recorded(&mut self, record: Decoded, place: Place) -> Recorded {
        let Place {
            batch,
            offset,
            size,
        } = place;
        let (lsn, domain) = (record.lsn(), record.domain());
        let (mut job, mut standing) = (None, None);
        if let (Decoded::Known(known), Some(domain)) = (&record, domain) {
            if let RecordBody::DomainAdded(state) | RecordBody::DomainState(state) = &known.body
                && self.names.get(&domain) != Some(&state.name)
            {
                self.learn_name(domain, &state.name);
            }
            job = self.job(lsn, domain, &known.body);
            standing = self.standing(job, &known.body);
        }
        let name = domain.and_then(|domain| self.names.get(&domain).cloned());
        Recorded {
            record,
            batch,
            offset,
            size,
            name,
            job,
            migration: standing.map(|(migration, _)| migration),
            phase: standing.map(|(_, phase)| phase),
        }
    }

    /// Where the job of a record stands with it.
    fn standing(&mut self, job: Option<Lsn>, body: &RecordBody) -> Option<(MigrationId, Phase)> {
        let job = job?;
        match body {
            RecordBody::JobBegun(begun) => {
                let terms = begun.migration.as_ref()?;
                let standing = (terms.migration, first_phase(terms));
                self.migrations.insert(terms.migration, job);
                self.standing.insert(job, standing);
            }
            RecordBody::MigrationState(state) => {
                self.migrations.insert(state.terms.migration, job);
                self.standing
                    .insert(job, (state.terms.migration, state.phase));
            }
            RecordBody::PhaseEntered(entered) => {
                if let Some((_, phase)) = self.standing.get_mut(&job) {
                    *phase = entered.phase;
                }
            }
            RecordBody::MigrationForgotten(named) => {
                self.migrations.remove(&named.migration);
                return self.standing.remove(&job);
            }
            _ => {}
        }
        self.standing.get(&job).copied()
    }

    /// The job that a record is about.
    fn job(&mut self, lsn: Lsn, domain: DomainId, body: &RecordBody) -> Option<Lsn> {
        let current = self.jobs.get(&domain).copied();
        let of = |migration: &MigrationId| self.migrations.get(migration).copied().or(current);
        match body {
            RecordBody::JobBegun(_) => {
                self.jobs.insert(domain, lsn);
                Some(lsn)
            }
            RecordBody::MigrationState(state) => {
                self.jobs.insert(domain, state.job);
                Some(state.job)
            }
            RecordBody::JobState(state) => {
                self.jobs.insert(domain, state.job);
                Some(state.job)
            }
            RecordBody::JobPhaseEntered(entered) => Some(entered.job),
            RecordBody::JobDecided(decided) => Some(decided.job),
            RecordBody::MigrationHistories(restated) => Some(restated.job),
            RecordBody::MigrationSettings(told) => Some(told.job),
            RecordBody::SettingsKept(kept) => Some(kept.job),
            RecordBody::MigrationDisks(disks) => Some(disks.job),
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
            RecordBody::PeerHeard(heard) => of(&heard.migration),
            RecordBody::PeerPrepared(prepared) => of(&prepared.migration),
            RecordBody::MigrationGranted(granted) => of(&granted.cookie.migration),
            RecordBody::MigrationAbandoned(abandoned) => of(&abandoned.migration),
            RecordBody::MigrationCommitted(committed) => of(&committed.migration),
            RecordBody::MigrationStarted(named)
            | RecordBody::MigrationAborted(named)
            | RecordBody::MigrationForgotten(named) => of(&named.migration),
            RecordBody::OutcomeLearned(learned) => of(&learned.migration),
            RecordBody::StoreIntended(intended) => of(&intended.migration),
            RecordBody::StoreRead(read) => of(&read.migration),
            RecordBody::VerdictGiven(verdict) => of(&verdict.migration),
            RecordBody::CheckpointBegun(_)
            | RecordBody::CheckpointEnded(_)
            | RecordBody::DomainAdded(_)
            | RecordBody::DomainState(_)
            | RecordBody::GuestSent(_)
            | RecordBody::DomainRemoved
            | RecordBody::DefinitionPart(_)
            | RecordBody::WantedChanged(_)
            | RecordBody::Sealed => None,
        }
    }
}

/// The phase that a migration begins in, without a record of its own.
pub(crate) fn first_phase(terms: &MigrationTerms) -> Phase {
    match (terms.role, terms.protocol) {
        (Role::Source, Protocol::V3) => Phase::Begin3,
        (Role::Source, Protocol::V2) => Phase::Perform2,
        (Role::Destination, Protocol::V2 | Protocol::V3) => Phase::Prepare,
    }
}
