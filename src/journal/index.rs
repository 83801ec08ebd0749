//! An index over the journal: where the records of a domain, of a job, or around an LSN or a time lie.
//! Invariant: derived. It is never asked whether something is durable or true; what it says is looked
//! up in the journal; when it is missing, damaged, of another journal or ahead of this one, it is
//! made anew. No append waits for it.
//! Not here: the journal's own reading (`read`); deciding when to catch up (the caller, on a thread
//! of its own).

mod compare;
mod jobs;
mod keys;
mod store;

use core::fmt;
use std::path::{Path, PathBuf};

use journal_format::number::{DomainId, JournalId, Lsn, SegmentNumber};
use journal_format::record::{Decoded, RecordBody};
use journal_format::scan::Batch;

use super::disk::Disk;
use super::read::{Entry, ReadError, Reader};
pub use compare::{Comparison, compare, is_in_use};
use jobs::JobsOfBatch;
use keys::{
    BATCHES, META_KEY, TIMES, batch_key, decode_batch, decode_meta, decode_name_key, decode_place,
    decode_time_key, domain_key, encode_batch, encode_job, encode_meta, encode_place, job_key,
    name_key, name_prefix, needs, sortable, time_key, unsortable,
};
use store::Store;

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

/// Where a batch lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlace {
    /// Its first record.
    pub first: Lsn,
    /// Its last record.
    pub last: Lsn,
    /// The segment.
    pub segment: SegmentNumber,
    /// Where in it, in bytes.
    pub offset: u64,
    /// When it was written, in nanoseconds since 1970.
    pub wall: u64,
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
pub struct Meta {
    /// The journal.
    pub journal: JournalId,
    /// The last record in the index.
    pub last: Lsn,
    /// The segment it lies in.
    pub segment: SegmentNumber,
    /// The chain value after the batch it lies in: tells this history from another one.
    pub chain: u32,
}

/// What a batch adds to the index.
struct Changes {
    place: BatchPlace,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

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
    /// Somebody else is at work on it.
    InUse {
        /// The index's directory.
        directory: PathBuf,
    },
    /// It was deleted, or replaced, while it was open. It is to be opened anew.
    Gone {
        /// The index's directory.
        directory: PathBuf,
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
            IndexError::InUse { directory } => {
                write!(
                    f,
                    "the index {} is in use by another process",
                    directory.display()
                )
            }
            IndexError::Gone { directory } => {
                write!(f, "the index {} was deleted", directory.display())
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
    store: Store,
    meta: Option<Meta>,
    /// Nothing before this is in the index, as far as that was looked after.
    oldest: Lsn,
    /// The latest time of a batch.
    latest: Option<u64>,
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
            Err(error @ (IndexError::Journal(_) | IndexError::InUse { .. })) => Err(error),
            Err(error @ (IndexError::Store { .. } | IndexError::Gone { .. })) => {
                tracing::warn!(%error, "the index is made anew");
                let (index, caught_up) = Index::rebuild(directory, disk)?;
                let rebuilt = true;
                Ok((
                    index,
                    CaughtUp {
                        rebuilt,
                        ..caught_up
                    },
                ))
            }
        }
    }

    /// Throws away the index in `directory`, whatever it is, and makes it anew.
    ///
    /// # Errors
    /// [`IndexError::InUse`] when somebody else is at work on it; as [`Index::open`].
    pub fn rebuild<D: Disk + Clone>(
        directory: &Path,
        disk: &D,
    ) -> Result<(Index, CaughtUp), IndexError> {
        remove(directory)?;
        let mut index = Index::open_store(directory)?;
        let caught_up = index.catch_up(disk)?;
        Ok((index, caught_up))
    }

    /// Opens the index in `directory` as it is, without bringing it up to the journal's end. `None`: there
    /// is none.
    ///
    /// # Errors
    /// As [`Index::open`]; nothing is made anew.
    pub fn open_as_it_is(directory: &Path) -> Result<Option<Index>, IndexError> {
        match store::is_there(directory) {
            true => Index::open_store(directory).map(Some),
            false => Ok(None),
        }
    }

    /// How far it has read, and of what; `None` if it has read nothing.
    #[must_use]
    pub fn meta(&self) -> Option<Meta> {
        self.meta
    }

    /// The domains that have, or had, a name.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn domains_named(&self, name: &str) -> Result<Vec<DomainId>, IndexError> {
        let prefix = name_prefix(name);
        self.store.read(|db| {
            let mut domains = Vec::new();
            for item in db.scan_prefix(&prefix) {
                let (key, _) = item?;
                domains.extend(decode_name_key(&key, prefix.len()));
            }
            Ok(domains)
        })
    }

    /// The last record in the index.
    #[must_use]
    pub fn last(&self) -> Option<Lsn> {
        self.meta.map(|meta| meta.last)
    }

    /// Adds what the journal has beyond the index, and forgets what it has let go.
    ///
    /// # Errors
    /// [`IndexError::Gone`], [`IndexError::Store`]: the index is to be dropped and opened anew.
    pub fn catch_up<D: Disk + Clone>(&mut self, disk: &D) -> Result<CaughtUp, IndexError> {
        if self.store.is_gone() {
            return Err(IndexError::Gone {
                directory: self.store.directory().to_path_buf(),
            });
        }
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

    /// The batch that a record is in, or was in; where a gap took it, or the journal let it go, the
    /// first batch behind it. `None`: all the index has is older.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn place_of_lsn(&self, lsn: Lsn) -> Result<Option<BatchPlace>, IndexError> {
        self.store.read(|db| {
            let mut before = db.range(BATCHES.start.as_slice()..=batch_key(lsn).as_slice());
            if let Some(item) = before.next_back() {
                let (key, value) = item?;
                let place = decode_batch(&key, &value).filter(|place| place.last >= lsn);
                if place.is_some() {
                    return Ok(place);
                }
            }
            let behind = db.range(batch_key(lsn).as_slice()..BATCHES.end.as_slice());
            for item in behind {
                let (key, value) = item?;
                let place = decode_batch(&key, &value).filter(|place| place.first >= lsn);
                if place.is_some() {
                    return Ok(place);
                }
            }
            Ok(None)
        })
    }

    /// The first batch, in the order of LSNs, that was written at that time or later, in nanoseconds
    /// since 1970. `None`: all the index has is older.
    ///
    /// A clock may be set back. Everything before this batch is older than the time that was asked
    /// for; behind it there may again be batches with an earlier time than that. So whoever reads on
    /// from here misses nothing of that time, and whoever wants just a stretch of time looks at each
    /// batch's own.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn place_at_time(&self, wall: u64) -> Result<Option<BatchPlace>, IndexError> {
        self.store.read(|db| {
            let mut later = db.range(time_key(wall).as_slice()..TIMES.end.as_slice());
            let Some(item) = later.next() else {
                return Ok(None);
            };
            let (_, first) = item?;
            let Some(first) = unsortable(&first).map(Lsn) else {
                return Ok(None);
            };
            let key = batch_key(first);
            let value = db.get(&key)?;
            Ok(value.and_then(|value| decode_batch(&key, &value)))
        })
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
        self.store.read(|db| {
            let mut oldest = None;
            let mut found = 0;
            for item in db.range(key(Lsn(0))..=key(Lsn(u64::MAX))).rev() {
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
        self.store.read(|db| {
            let mut places = Vec::new();
            for item in db.range(from..=to).take(limit) {
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
        let store = Store::open(directory)?;
        let (meta, last) = store.read(|db| {
            let mut times = db.range(TIMES.start.as_slice()..TIMES.end.as_slice());
            Ok((db.get(META_KEY)?, times.next_back().transpose()?))
        })?;
        let meta = match meta {
            None => None,
            Some(bytes) => Some(decode_meta(&bytes).ok_or_else(|| IndexError::Store {
                directory: directory.to_path_buf(),
                doing: "open",
                cause: "not its version".to_owned(),
            })?),
        };
        Ok(Index {
            store,
            meta,
            oldest: Lsn(0),
            latest: last.and_then(|(key, _)| decode_time_key(&key)),
        })
    }

    /// What a batch adds to the index, but for times and the index's own end.
    fn changes(&self, batch: &Batch) -> Result<Changes, IndexError> {
        let mut entries = Vec::new();
        let mut jobs = JobsOfBatch {
            store: &self.store,
            new: Vec::new(),
        };
        for placed in &batch.records {
            let (lsn, domain) = (placed.record.lsn(), placed.record.domain());
            let kind = match &placed.record {
                Decoded::Known(record) => record.body.type_number(),
                Decoded::Unknown { kind, .. } => *kind,
            };
            let value = encode_place(batch.header.segment, placed.offset, kind);
            if let Decoded::Known(record) = &placed.record
                && let Some(job) = jobs.job(lsn, &record.body)?
            {
                entries.push((job_key(job, lsn), value.clone()));
            }
            if let Some(domain) = domain {
                if let Some(name) = name_told(&placed.record) {
                    entries.push((name_key(name, domain), lsn.0.to_le_bytes().to_vec()));
                }
                entries.push((domain_key(domain, lsn), value));
            }
        }
        let place = BatchPlace {
            first: batch.header.first,
            last: batch.header.last(),
            segment: batch.header.segment,
            offset: batch.header.offset,
            wall: batch.header.wall,
        };
        for (key, job) in jobs.new {
            entries.push((key, encode_job(job, place.last).to_vec()));
        }
        entries.push((batch_key(place.first), encode_batch(&place)));
        Ok(Changes { place, entries })
    }

    /// Adds a batch, all or nothing; returns how many of its records were added.
    fn add(&mut self, journal: JournalId, batch: &Batch) -> Result<u64, IndexError> {
        let Changes { place, entries } = self.changes(batch)?;
        let mut changes = sled::Batch::default();
        for (key, value) in entries {
            changes.insert(key, value);
        }
        let is_latest = self.latest.is_none_or(|latest| place.wall > latest);
        if is_latest {
            changes.insert(time_key(place.wall), &sortable(place.first.0));
        }
        let meta = Meta {
            journal,
            last: batch.header.last(),
            segment: batch.header.segment,
            chain: batch.chain.0,
        };
        changes.insert(META_KEY, encode_meta(&meta));
        self.store.run("write", |db| db.apply_batch(changes))?;
        self.meta = Some(meta);
        if is_latest {
            self.latest = Some(place.wall);
        }
        Ok(batch.records.len() as u64)
    }

    /// Forgets the records before `oldest`: the journal has let them go.
    fn forget_before(&mut self, oldest: Lsn) -> Result<(), IndexError> {
        if oldest == self.oldest {
            return Ok(());
        }
        self.latest = self.store.run("prune", |db| {
            for item in db.iter() {
                let (key, value) = item?;
                if needs(&key, &value).is_some_and(|lsn| lsn < oldest) {
                    db.remove(key)?;
                }
            }
            renew_times(db)
        })?;
        self.oldest = oldest;
        Ok(())
    }

    fn clear(&mut self) -> Result<(), IndexError> {
        let directory = self.store.directory();
        tracing::warn!(directory = %directory.display(), "the index is not of this journal");
        self.meta = None;
        self.latest = None;
        self.store.run("clear", |db| db.clear())
    }
}

/// The name that a record gives its domain.
fn name_told(record: &Decoded) -> Option<&str> {
    match record {
        Decoded::Known(record) => match &record.body {
            RecordBody::DomainAdded(state) | RecordBody::DomainState(state) => Some(&state.name),
            _ => None,
        },
        Decoded::Unknown { .. } => None,
    }
}

/// Makes the keys by time anew from the batches: a batch that was later than all behind it may have
/// gone. Returns the latest time.
fn renew_times(db: &sled::Db) -> Result<Option<u64>, sled::Error> {
    for item in db.range(TIMES.start.as_slice()..TIMES.end.as_slice()) {
        let (key, _) = item?;
        db.remove(key)?;
    }
    let mut latest = None;
    for item in db.range(BATCHES.start.as_slice()..BATCHES.end.as_slice()) {
        let (key, value) = item?;
        if let Some(place) = decode_batch(&key, &value)
            && latest.is_none_or(|latest| place.wall > latest)
        {
            latest = Some(place.wall);
            db.insert(time_key(place.wall), &sortable(place.first.0))?;
        }
    }
    Ok(latest)
}

/// Deletes an index.
///
/// # Errors
/// [`IndexError::InUse`], [`IndexError::Store`]; none when there is no index.
pub fn remove(directory: &Path) -> Result<(), IndexError> {
    store::remove(directory)
}

#[cfg(test)]
mod tests;
