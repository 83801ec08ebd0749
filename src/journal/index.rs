//! An index over the journal: in which stretches of it the records of a domain lie.
//! Invariant: derived. It is never asked whether something is durable or true; what it says is looked
//! up in the journal; when it is missing, damaged, of another journal or ahead of this one, it is
//! made anew. No append waits for it. Its size goes with the journal's length in extents and the domains
//! in each segment, not with its records: of ten million it is some 14 MiB, so that it opens at once.
//! Not here: the journal's own reading (`read`, `extent`); deciding when to catch up (the caller, on a
//! thread of its own).
//!
//! It is coarse, as block range indexes are (PostgreSQL's BRIN): whoever looks something up reads whole
//! extents and leaves out what is not asked for. A job needs no entries: its number is the place of its
//! first record, which names the domain.

mod compare;
mod gather;
mod keys;
mod store;

use core::fmt;
use core::ops::ControlFlow;
use std::path::{Path, PathBuf};

use journal_format::number::{Chain, DomainId, JournalId, Lsn, SegmentNumber};

use super::disk::Disk;
use super::read::{ReadError, Reader};
pub use compare::{Comparison, compare, is_in_use};
use gather::{Gathered, LastBatch, begun};
use keys::{
    BY_DOMAINS, EXTENTS, InSegment, META_KEY, decode_domain_key, decode_extent, decode_meta,
    decode_name_key, domain_key, domains_of, encode_extent, encode_meta, extent_key, is_let_go,
    name_prefix,
};
use store::Store;

/// Bytes of a segment that are one extent: little enough to be read at once, so much that few entries
/// tell of a journal.
pub const EXTENT_SIZE: u64 = 256 * 1024;

/// Domains and names that are kept until they are written to the index.
const GATHERED_MAX: usize = 65_536;
/// After so many segments were added at once the store is opened anew: it keeps in memory what was written, whatever its cache
/// may have. A sidecar adds one at a time.
const WRITES_MAX: u64 = 4;

/// The batches that begin in one [`EXTENT_SIZE`] of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The segment.
    pub segment: SegmentNumber,
    /// Which extent of it, counted from 0; one in which no batch begins is not told of.
    pub number: u16,
    /// The first record.
    pub first: Lsn,
    /// The last record.
    pub last: Lsn,
    /// Where its first batch begins, in bytes from the start of the segment.
    pub begin: u64,
    /// Where its last batch ends.
    pub end: u64,
    /// The chain value before its first batch.
    pub before: Chain,
    /// The latest time at which a batch of it was written, in nanoseconds since 1970.
    pub latest: u64,
}

impl Extent {
    /// The same with batches behind it.
    fn joined(&self, behind: &Extent) -> Extent {
        Extent {
            last: behind.last,
            end: behind.end,
            latest: self.latest.max(behind.latest),
            ..*self
        }
    }
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
    /// Where its batch begins, in bytes from the start of the segment.
    pub at: u64,
    /// The chain value after that batch: tells this history from another one.
    pub chain: Chain,
}

impl Meta {
    fn of(journal: JournalId, end: LastBatch) -> Meta {
        let LastBatch {
            last,
            segment,
            at,
            chain,
        } = end;
        Meta {
            journal,
            last,
            segment,
            at,
            chain,
        }
    }

    fn is_end(&self, end: LastBatch) -> bool {
        *self == Meta::of(self.journal, end)
    }
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
    /// Segments, or parts of one, that were added since it began to catch up.
    writes: u64,
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

    /// Asks the system to read the index in `directory` into memory, for whoever is about to open it, and does not
    /// wait for that.
    pub fn ask_for(directory: &Path) {
        store::ask_for(directory);
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

    /// The extents that hold records of a domain, from a segment on, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn of_domain(
        &self,
        domain: DomainId,
        from: SegmentNumber,
        limit: usize,
    ) -> Result<Vec<Extent>, IndexError> {
        self.store.read(|db| {
            let mut extents = Vec::new();
            for segment in segments(db)?.into_iter().filter(|segment| *segment >= from) {
                extents.extend(extents_of(db, domain, segment)?);
                if extents.len() >= limit {
                    extents.truncate(limit);
                    break;
                }
            }
            Ok(extents)
        })
    }

    /// The extents of one segment in which a domain has records, oldest first.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn of_domain_in(
        &self,
        domain: DomainId,
        segment: SegmentNumber,
    ) -> Result<Vec<Extent>, IndexError> {
        self.store.read(|db| extents_of(db, domain, segment))
    }

    /// The extents of a segment, in order.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn of_segment(&self, segment: SegmentNumber) -> Result<Vec<Extent>, IndexError> {
        let keys = extent_key(segment, 0)..=extent_key(segment, u16::MAX);
        self.store.read(|db| {
            let mut extents = Vec::new();
            for item in db.range(keys) {
                let (key, value) = item?;
                extents.extend(decode_extent(&key, &value));
            }
            Ok(extents)
        })
    }

    /// The segment from which on a domain has so many decisions: whoever wants just the newest of them
    /// need not read what lies before it. `None`: it has none.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn newest_decisions(
        &self,
        domain: DomainId,
        limit: usize,
    ) -> Result<Option<SegmentNumber>, IndexError> {
        self.store.read(|db| {
            let (mut from, mut found) = (None, 0);
            for segment in segments(db)?.into_iter().rev() {
                let here = db.get(domain_key(segment, domain))?;
                let here = here.and_then(|value| InSegment::decode(&value));
                let decisions = here.map_or(0, |here| here.decisions);
                if decisions > 0 {
                    from = Some(segment);
                    found += usize::try_from(decisions).unwrap_or(usize::MAX);
                }
                if found >= limit {
                    break;
                }
            }
            Ok(from)
        })
    }

    /// The segment of the first batch, in the order of LSNs, that was written at that time or later, in
    /// nanoseconds since 1970. `None`: all the index has is older.
    ///
    /// A clock may be set back. All segments before this one are older than the time that was asked for;
    /// behind it there may again be batches with an earlier time than that.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn segment_at_time(&self, wall: u64) -> Result<Option<SegmentNumber>, IndexError> {
        self.store.read(|db| {
            for item in db.range(EXTENTS.start.as_slice()..EXTENTS.end.as_slice()) {
                let (key, value) = item?;
                let extent = decode_extent(&key, &value);
                if let Some(extent) = extent.filter(|extent| extent.latest >= wall) {
                    return Ok(Some(extent.segment));
                }
            }
            Ok(None)
        })
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
        self.writes = 0;
        let mut caught_up = CaughtUp::default();
        let mut reader = Reader::open(disk.clone())?;
        let mut is_continued =
            reader.journal().is_none() || self.add(&mut reader, &mut caught_up)?;
        if !is_continued {
            self.clear()?;
            caught_up.rebuilt = true;
            reader = Reader::open(disk.clone())?;
            is_continued = self.add(&mut reader, &mut caught_up)?;
        }
        debug_assert!(is_continued, "an empty index continues every journal");
        let mut files = reader.segments().iter();
        let oldest = files.find_map(|file| Some((file.number, file.header.as_ref().ok()?.first)));
        if let Some((segment, first)) = oldest {
            self.forget_before(segment, first)?;
        }
        Ok(caught_up)
    }

    /// Adds what the reader has beyond the index. `false`, and nothing is added: the index is of another
    /// journal, or of another history of it.
    fn add<D: Disk>(
        &mut self,
        reader: &mut Reader<D>,
        caught_up: &mut CaughtUp,
    ) -> Result<bool, IndexError> {
        let Some(journal) = reader.journal() else {
            return Ok(true);
        };
        let had = self.meta;
        if let Some(meta) = had {
            if journal != meta.journal {
                return Ok(false);
            }
            reader.skip_to(meta.segment);
        }
        // Until the batch that the index ends with, it has everything.
        let mut is_behind = had.is_none();
        let mut shows_known = false;
        let mut gathered = Gathered::default();
        let mut failed = None;
        let read = reader.replay_until(|seen| {
            if let Some((header, chain)) = begun(&seen) {
                let here = LastBatch::of(header, chain);
                shows_known = !is_behind;
                if shows_known && had.is_some_and(|had| here.last >= had.last) {
                    if !had.is_some_and(|had| had.is_end(here)) {
                        return ControlFlow::Break(());
                    }
                    is_behind = true;
                }
                let is_next = gathered
                    .end
                    .is_some_and(|end| end.segment != header.segment);
                if is_next || gathered.len() >= GATHERED_MAX {
                    caught_up.added += gathered.records;
                    if let Err(error) = self.write(journal, &std::mem::take(&mut gathered)) {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            if !shows_known {
                gathered.add(&seen);
            }
            ControlFlow::Continue(())
        });
        // What was told of a batch of which reading was broken off is not all of it.
        let _ = read?;
        if let Some(error) = failed {
            return Err(error);
        }
        if is_behind {
            caught_up.added += gathered.records;
            self.write(journal, &gathered)?;
        }
        Ok(is_behind)
    }

    /// Writes what batches of one segment add, all or nothing.
    fn write(&mut self, journal: JournalId, gathered: &Gathered) -> Result<(), IndexError> {
        let Some(end) = gathered.end else {
            return Ok(());
        };
        let meta = Meta::of(journal, end);
        let has_begun = self.meta.is_some_and(|meta| meta.segment == end.segment);
        self.store.run("write", |db| {
            let mut changes = sled::Batch::default();
            let earlier = |key: &[u8]| match has_begun {
                true => db.get(key),
                false => Ok(None),
            };
            for extent in gathered.extents() {
                let key = extent_key(extent.segment, extent.number);
                let known = earlier(&key)?.and_then(|value| decode_extent(&key, &value));
                let all = known.map_or(*extent, |known| known.joined(extent));
                changes.insert(key, encode_extent(&all));
            }
            for (domain, here) in gathered.domains() {
                let key = domain_key(end.segment, *domain);
                let known = earlier(&key)?.and_then(|value| InSegment::decode(&value));
                let mut all = known.unwrap_or_default();
                all.join(here);
                changes.insert(key, all.encode());
            }
            for (key, value) in gathered.names() {
                changes.insert(key, value);
            }
            changes.insert(META_KEY, encode_meta(&meta));
            db.apply_batch(changes)
        })?;
        self.meta = Some(meta);
        self.writes += 1;
        if self.writes.is_multiple_of(WRITES_MAX) {
            self.store.open_anew()?;
        }
        Ok(())
    }

    fn open_store(directory: &Path) -> Result<Index, IndexError> {
        let store = Store::open(directory)?;
        let meta = match store.read(|db| db.get(META_KEY))? {
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
            writes: 0,
        })
    }

    /// Forgets what lies before that segment and its first record: the journal has let it go.
    fn forget_before(&mut self, segment: SegmentNumber, oldest: Lsn) -> Result<(), IndexError> {
        if oldest == self.oldest {
            return Ok(());
        }
        self.store.run("prune", |db| {
            for item in db.iter() {
                let (key, value) = item?;
                if is_let_go(&key, &value, segment, oldest) {
                    db.remove(key)?;
                }
            }
            Ok(())
        })?;
        self.oldest = oldest;
        Ok(())
    }

    fn clear(&mut self) -> Result<(), IndexError> {
        let directory = self.store.directory();
        tracing::warn!(directory = %directory.display(), "the index is not of this journal");
        self.meta = None;
        self.store.run("clear", |db| db.clear())
    }
}

/// The extents of a segment in which a domain has records, oldest first. What does not decode is left out: the index is
/// never believed.
fn extents_of(
    db: &sled::Db,
    domain: DomainId,
    segment: SegmentNumber,
) -> Result<Vec<Extent>, sled::Error> {
    let mut extents = Vec::new();
    let here = db.get(domain_key(segment, domain))?;
    let here = here.and_then(|value| InSegment::decode(&value));
    let here: Vec<u16> = here.unwrap_or_default().extents().collect();
    if let (Some(first), Some(last)) = (here.first(), here.last()) {
        // One range is read much faster than as many single entries.
        for item in db.range(extent_key(segment, *first)..=extent_key(segment, *last)) {
            let (key, value) = item?;
            let extent = decode_extent(&key, &value);
            extents.extend(extent.filter(|extent| here.contains(&extent.number)));
        }
    }
    Ok(extents)
}

/// The segments in which domains have records, oldest first.
fn segments(db: &sled::Db) -> Result<Vec<SegmentNumber>, sled::Error> {
    let mut segments = Vec::new();
    let mut from = BY_DOMAINS.start.to_vec();
    while let Some(item) = db.range(from.as_slice()..BY_DOMAINS.end.as_slice()).next() {
        let (key, _) = item?;
        let next = decode_domain_key(&key).and_then(|here| {
            segments.push(here);
            here.next()
        });
        match next {
            Some(next) => from = domains_of(next),
            None => break,
        }
    }
    Ok(segments)
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
