//! An index over the journal: which records a domain or a job has, and where they lie.
//! Invariant: derived. It is never asked whether something is durable or true; what it says is looked
//! up in the journal; when it is missing, damaged, of another journal or ahead of this one, it is
//! made anew. No append waits for it.
//! Not here: the journal's own reading (`read`); deciding when to catch up (the caller, on a thread
//! of its own).

use core::fmt;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use journal_format::number::{DomainId, Id128, JournalId, Lsn, MigrationId, SegmentNumber};
use journal_format::record::{Decoded, PeerHeard, RecordBody};
use journal_format::scan::Batch;

use super::disk::Disk;
use super::read::{Entry, ReadError, Reader};

/// Bytes of cache, at the most.
const CACHE_SIZE_MAX: u64 = 4 * 1024 * 1024;
/// The version of the keys and values; another one is made anew.
const INDEX_VERSION: u8 = 1;

const META_KEY: &[u8] = b"!meta";
/// Keys of records by domain: this, the domain, the LSN.
const BY_DOMAIN: u8 = b'd';
/// Keys of records by job: this, the job, the LSN.
const BY_JOB: u8 = b'j';
/// Keys of the jobs of migrations: this, the migration.
const JOB_OF_MIGRATION: u8 = b'm';
/// Keys of the jobs of effects: this, the effect.
const JOB_OF_EFFECT: u8 = b'e';

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The record.
    pub lsn: Lsn,
    /// The segment.
    pub segment: SegmentNumber,
    /// Where in it, in bytes.
    pub offset: u64,
    /// The number of its type.
    pub kind: u16,
}

/// Whose records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainOrJob {
    /// A domain's.
    Domain(DomainId),
    /// A job's.
    Job(Lsn),
}

/// How far the index has read, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    journal: JournalId,
    /// The last record in the index.
    last: Lsn,
    /// The segment it lies in.
    segment: SegmentNumber,
    /// The chain value after the batch it lies in: tells this history from another one.
    chain: u32,
}

const META_SIZE: usize = 1 + 16 + 8 + 8 + 4;

/// Why the index cannot be used. The journal is not affected.
#[derive(Debug)]
pub enum IndexError {
    /// The index's own store failed, in its words.
    Store {
        /// The index's directory.
        directory: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Why.
        cause: String,
    },
    /// The journal could not be read.
    Journal(ReadError),
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IndexError::Store {
                directory,
                doing,
                cause,
            } => {
                write!(
                    f,
                    "could not {doing} the index {}: {cause}",
                    directory.display()
                )
            }
            IndexError::Journal(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for IndexError {}

impl From<ReadError> for IndexError {
    fn from(error: ReadError) -> IndexError {
        IndexError::Journal(error)
    }
}

/// What catching up did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaughtUp {
    /// Records that were added.
    pub added: u64,
    /// The index was made anew.
    pub rebuilt: bool,
}

/// The index of one journal.
#[derive(Debug)]
pub struct Index {
    directory: PathBuf,
    store: sled::Db,
    meta: Option<Meta>,
    /// Nothing before this is in the index, as far as that was looked after.
    oldest: Lsn,
}

impl Index {
    /// Opens the index in `directory`, and brings it up to the journal's end. One that cannot be used,
    /// or is not of this journal, is deleted and made anew.
    ///
    /// # Errors
    /// Only when a new one cannot be made either, or the journal cannot be read.
    pub fn open<D: Disk + Clone>(
        directory: &Path,
        disk: &D,
    ) -> Result<(Index, CaughtUp), IndexError> {
        let opened = Index::open_store(directory).and_then(|mut index| {
            let caught_up = index.catch_up(disk)?;
            Ok((index, caught_up))
        });
        match opened {
            Ok(opened) => Ok(opened),
            Err(error @ IndexError::Journal(_)) => Err(error),
            Err(error @ IndexError::Store { .. }) => {
                tracing::warn!(%error, "the index is made anew");
                remove(directory)?;
                let mut index = Index::open_store(directory)?;
                let caught_up = index.catch_up(disk)?;
                Ok((
                    index,
                    CaughtUp {
                        rebuilt: true,
                        ..caught_up
                    },
                ))
            }
        }
    }

    /// The last record in the index.
    #[must_use]
    pub fn last(&self) -> Option<Lsn> {
        self.meta.map(|meta| meta.last)
    }

    /// Adds what the journal has beyond the index, and forgets what it has let go.
    ///
    /// # Errors
    /// [`IndexError::Store`]: the index is to be deleted and opened anew.
    pub fn catch_up<D: Disk + Clone>(&mut self, disk: &D) -> Result<CaughtUp, IndexError> {
        let mut reader = Reader::open(disk.clone())?;
        let mut caught_up = CaughtUp::default();
        if let Some(meta) = self.meta
            && !self.continues(&meta, &mut reader)?
        {
            self.clear()?;
            caught_up.rebuilt = true;
            reader = Reader::open(disk.clone())?;
        }
        let oldest = reader
            .segments()
            .iter()
            .find_map(|file| file.header.as_ref().ok());
        let oldest = oldest.map(|head| head.first);
        let Some(journal) = reader.journal() else {
            return Ok(caught_up);
        };
        for entry in reader {
            if let Entry::Batch(batch) = entry? {
                caught_up.added += self.add(journal, &batch)?;
            }
        }
        if let Some(oldest) = oldest {
            self.forget_before(oldest)?;
        }
        Ok(caught_up)
    }

    /// Is the index of this journal, and of this history of it? Leaves the reader behind what the
    /// index has.
    fn continues<D: Disk>(&self, meta: &Meta, reader: &mut Reader<D>) -> Result<bool, IndexError> {
        if reader.journal() != Some(meta.journal) {
            return Ok(false);
        }
        reader.skip_to(meta.segment);
        for entry in reader.by_ref() {
            if let Entry::Batch(batch) = entry? {
                let last = batch.header.last();
                if last >= meta.last {
                    let same = batch.header.segment == meta.segment && batch.chain.0 == meta.chain;
                    return Ok(last == meta.last && same);
                }
            }
        }
        Ok(false)
    }

    /// The records of a domain from an LSN on, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn of_domain(
        &self,
        domain: DomainId,
        from: Lsn,
        limit: usize,
    ) -> Result<Vec<Place>, IndexError> {
        self.range(
            &domain_key(domain, from),
            &domain_key(domain, Lsn(u64::MAX)),
            limit,
        )
    }

    /// The records of a job from an LSN on, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn of_job(&self, job: Lsn, from: Lsn, limit: usize) -> Result<Vec<Place>, IndexError> {
        self.range(&job_key(job, from), &job_key(job, Lsn(u64::MAX)), limit)
    }

    /// The oldest among the newest `limit` records of one type (by its name) that a domain or job has:
    /// whoever wants just those need not read what lies before it.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn newest(
        &self,
        of: DomainOrJob,
        kind: &str,
        limit: usize,
    ) -> Result<Option<Place>, IndexError> {
        let number = RecordBody::TYPES.iter().find(|(_, name)| *name == kind);
        let number = number.map(|(number, _)| *number);
        let key = |lsn| match of {
            DomainOrJob::Domain(domain) => domain_key(domain, lsn),
            DomainOrJob::Job(job) => job_key(job, lsn),
        };
        self.guard("read", || {
            let mut oldest = None;
            let mut found = 0;
            for item in self.store.range(key(Lsn(0))..=key(Lsn(u64::MAX))).rev() {
                let (key, value) = item?;
                let place = decode_place(&key, &value);
                if let Some(place) = place.filter(|place| Some(place.kind) == number) {
                    oldest = Some(place);
                    found += 1;
                    if found >= limit {
                        break;
                    }
                }
            }
            Ok(oldest)
        })
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Place>, IndexError> {
        self.guard("read", || {
            let mut places = Vec::new();
            for item in self.store.range(from..=to).take(limit) {
                let (key, value) = item?;
                // What does not decode is left out: the index is never believed.
                if let Some(place) = decode_place(&key, &value) {
                    places.push(place);
                }
            }
            Ok(places)
        })
    }

    fn open_store(directory: &Path) -> Result<Index, IndexError> {
        let failed = |cause: String| IndexError::Store {
            directory: directory.to_path_buf(),
            doing: "open",
            cause,
        };
        let open = || {
            sled::Config::new()
                .path(directory)
                .cache_capacity(CACHE_SIZE_MAX)
                .mode(sled::Mode::LowSpace)
                .flush_every_ms(None)
                .open()
        };
        let store = catch_unwind(AssertUnwindSafe(open))
            .map_err(|_| failed("the store panicked".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        let mut index = Index {
            directory: directory.to_path_buf(),
            store,
            meta: None,
            oldest: Lsn(0),
        };
        let meta = index.guard("read", || index.store.get(META_KEY))?;
        index.meta = match meta {
            None => None,
            Some(bytes) => {
                Some(decode_meta(&bytes).ok_or_else(|| failed("not its version".to_owned()))?)
            }
        };
        Ok(index)
    }

    /// Adds a batch, all or nothing; returns how many of its records were added.
    fn add(&mut self, journal: JournalId, batch: &Batch) -> Result<u64, IndexError> {
        let mut changes = sled::Batch::default();
        let mut jobs = JobsOfBatch {
            index: self,
            new: Vec::new(),
        };
        let mut added = 0;
        for placed in &batch.records {
            let (lsn, domain) = (placed.record.lsn(), placed.record.domain());
            let kind = match &placed.record {
                Decoded::Known(record) => record.body.type_number(),
                Decoded::Unknown { kind, .. } => *kind,
            };
            let value = encode_place(batch.header.segment, placed.offset, kind);
            if let Some(domain) = domain {
                changes.insert(domain_key(domain, lsn), value.as_slice());
            }
            if let Decoded::Known(record) = &placed.record
                && let Some(job) = jobs.job(lsn, &record.body)?
            {
                changes.insert(job_key(job, lsn), value.as_slice());
            }
            added += 1;
        }
        for (key, job) in jobs.new {
            changes.insert(key, &sortable(job.0));
        }
        let meta = Meta {
            journal,
            last: batch.header.last(),
            segment: batch.header.segment,
            chain: batch.chain.0,
        };
        changes.insert(META_KEY, encode_meta(&meta));
        self.guard("write", || self.store.apply_batch(changes))?;
        self.meta = Some(meta);
        Ok(added)
    }

    /// Forgets the records before `oldest`: the journal has let them go.
    fn forget_before(&mut self, oldest: Lsn) -> Result<(), IndexError> {
        if oldest == self.oldest {
            return Ok(());
        }
        self.guard("prune", || {
            for item in self.store.iter() {
                let (key, value) = item?;
                let lsn = decode_place(&key, &value)
                    .map(|place| place.lsn)
                    .or_else(|| decode_effect_key(&key));
                if lsn.is_some_and(|lsn| lsn < oldest) {
                    self.store.remove(key)?;
                }
            }
            Ok(())
        })?;
        self.oldest = oldest;
        Ok(())
    }

    fn clear(&mut self) -> Result<(), IndexError> {
        tracing::warn!(directory = %self.directory.display(), "the index is not of this journal");
        self.meta = None;
        self.guard("clear", || self.store.clear())
    }

    /// Runs something of the store. It is known to panic on files that it finds damaged: that is an
    /// error like any other here.
    fn guard<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce() -> Result<T, sled::Error>,
    ) -> Result<T, IndexError> {
        let cause = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the store panicked".to_owned(),
        };
        Err(IndexError::Store {
            directory: self.directory.clone(),
            doing,
            cause,
        })
    }
}

/// Deletes an index.
///
/// # Errors
/// [`IndexError::Store`]; none when there is no index.
pub fn remove(directory: &Path) -> Result<(), IndexError> {
    let removed = match fs::symlink_metadata(directory) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(directory),
        Ok(_) => fs::remove_file(directory),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(IndexError::Store {
            directory: directory.to_path_buf(),
            doing: "delete",
            cause: error.to_string(),
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Finds the jobs of a batch's records, some of which are named only in the batch itself.
struct JobsOfBatch<'a> {
    index: &'a Index,
    new: Vec<(Vec<u8>, Lsn)>,
}

impl JobsOfBatch<'_> {
    /// The job that a record belongs to.
    fn job(&mut self, lsn: Lsn, body: &RecordBody) -> Result<Option<Lsn>, IndexError> {
        Ok(match body {
            RecordBody::JobBegun(begun) => {
                if let Some(terms) = &begun.migration {
                    self.new.push((migration_key(terms.migration), lsn));
                }
                Some(lsn)
            }
            RecordBody::MigrationState(state) => {
                self.new
                    .push((migration_key(state.terms.migration), state.job));
                Some(state.job)
            }
            RecordBody::EffectIntended(intended) => {
                if let Some(job) = intended.job {
                    self.new.push((effect_key(lsn), job));
                }
                intended.job
            }
            RecordBody::EffectFinished(finished) => self.known(&effect_key(finished.effect))?,
            RecordBody::PhaseEntered(entered) => Some(entered.job),
            RecordBody::QemuObserved(observed) => observed.job,
            RecordBody::Decided(decided) => Some(decided.job),
            RecordBody::JobEnded(ended) => Some(ended.job),
            RecordBody::OperatorResolved(resolved) => Some(resolved.job),
            RecordBody::PeerHeard(PeerHeard { migration, .. }) => self.of_migration(*migration)?,
            RecordBody::PeerPrepared(prepared) => self.of_migration(prepared.migration)?,
            RecordBody::MigrationGranted(granted) => self.of_migration(granted.cookie.migration)?,
            RecordBody::MigrationAbandoned(abandoned) => self.of_migration(abandoned.migration)?,
            RecordBody::MigrationCommitted(committed) => self.of_migration(committed.migration)?,
            RecordBody::MigrationStarted(named)
            | RecordBody::MigrationAborted(named)
            | RecordBody::MigrationForgotten(named) => self.of_migration(named.migration)?,
            RecordBody::OutcomeLearned(learned) => self.of_migration(learned.migration)?,
            RecordBody::CheckpointBegun(_)
            | RecordBody::CheckpointEnded(_)
            | RecordBody::DomainAdded(_)
            | RecordBody::DomainState(_)
            | RecordBody::DomainRemoved
            | RecordBody::DefinitionPart(_)
            | RecordBody::WantedChanged(_)
            | RecordBody::Sealed => None,
        })
    }

    fn of_migration(&self, migration: MigrationId) -> Result<Option<Lsn>, IndexError> {
        self.known(&migration_key(migration))
    }

    fn known(&self, key: &[u8]) -> Result<Option<Lsn>, IndexError> {
        if let Some((_, job)) = self.new.iter().rev().find(|(new, _)| new == key) {
            return Ok(Some(*job));
        }
        let value = self.index.guard("read", || self.index.store.get(key))?;
        Ok(value.and_then(|value| Some(Lsn(unsortable(&value)?))))
    }
}

/// A number as bytes that sort as the number does.
#[allow(clippy::big_endian_bytes, reason = "keys are compared byte by byte")]
fn sortable(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

#[allow(clippy::big_endian_bytes, reason = "the inverse of `sortable`")]
fn unsortable(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn key(kind: u8, of: &[u8], lsn: &[u8]) -> Vec<u8> {
    [&[kind], of, lsn].concat()
}

fn domain_key(domain: DomainId, lsn: Lsn) -> Vec<u8> {
    key(BY_DOMAIN, &domain.0.0, &sortable(lsn.0))
}

fn job_key(job: Lsn, lsn: Lsn) -> Vec<u8> {
    key(BY_JOB, &sortable(job.0), &sortable(lsn.0))
}

fn migration_key(migration: MigrationId) -> Vec<u8> {
    key(JOB_OF_MIGRATION, &migration.0.0, &[])
}

fn effect_key(effect: Lsn) -> Vec<u8> {
    key(JOB_OF_EFFECT, &sortable(effect.0), &[])
}

fn decode_effect_key(key: &[u8]) -> Option<Lsn> {
    match key.split_first()? {
        (&JOB_OF_EFFECT, effect) => Some(Lsn(unsortable(effect)?)),
        (_, _) => None,
    }
}

fn encode_place(segment: SegmentNumber, offset: u64, kind: u16) -> Vec<u8> {
    [
        &segment.0.to_le_bytes()[..],
        &offset.to_le_bytes(),
        &kind.to_le_bytes(),
    ]
    .concat()
}

/// The place that a key and its value tell of; `None` for other keys.
fn decode_place(key: &[u8], value: &[u8]) -> Option<Place> {
    let (kind, rest) = key.split_first()?;
    let of = match *kind {
        BY_DOMAIN => size_of::<DomainId>(),
        BY_JOB => size_of::<Lsn>(),
        _ => return None,
    };
    let lsn = Lsn(unsortable(rest.get(of..)?)?);
    let segment = SegmentNumber(u64::from_le_bytes(value.get(..8)?.try_into().ok()?));
    let offset = u64::from_le_bytes(value.get(8..16)?.try_into().ok()?);
    let kind = u16::from_le_bytes(value.get(16..)?.try_into().ok()?);
    Some(Place {
        lsn,
        segment,
        offset,
        kind,
    })
}

fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut bytes = vec![INDEX_VERSION];
    bytes.extend(meta.journal.0.0);
    bytes.extend(meta.last.0.to_le_bytes());
    bytes.extend(meta.segment.0.to_le_bytes());
    bytes.extend(meta.chain.to_le_bytes());
    bytes
}

fn decode_meta(bytes: &[u8]) -> Option<Meta> {
    if bytes.len() != META_SIZE || bytes.first() != Some(&INDEX_VERSION) {
        return None;
    }
    let journal = JournalId(Id128(bytes.get(1..17)?.try_into().ok()?));
    let last = Lsn(u64::from_le_bytes(bytes.get(17..25)?.try_into().ok()?));
    let segment = SegmentNumber(u64::from_le_bytes(bytes.get(25..33)?.try_into().ok()?));
    let chain = u32::from_le_bytes(bytes.get(33..37)?.try_into().ok()?);
    Some(Meta {
        journal,
        last,
        segment,
        chain,
    })
}

#[cfg(test)]
mod tests;
