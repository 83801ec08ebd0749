//! Whether an index says what the journal says.
//!
//! Invariant: nothing is changed; memory is that of a segment: of the entries on both sides there are only
//! their number and the sum of their checksums, by kind.
//! Not here: making it agree (`Index::catch_up`).

use core::ops::ControlFlow;
use std::path::Path;

use journal_format::number::{Lsn, SegmentNumber};

use super::gather::{Gathered, LastBatch, begun};
use super::keys::{BY_DOMAIN, EXTENT, is_let_go};
use super::store;
use super::{Index, IndexError};
use crate::journal::disk::Disk;
use crate::journal::read::{Entry, Reader};
use crate::journal::replay::Seen;

/// How an index compares with its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It says what the journal says, as far as it goes.
    Agrees {
        /// Records in it.
        records: u64,
    },
    /// It says something else, in words.
    Differs(String),
}

/// Is somebody at work on the index in `directory`?
///
/// # Errors
/// [`IndexError::Store`]: that cannot be found out.
pub fn is_in_use(directory: &Path) -> Result<bool, IndexError> {
    match store::take(directory) {
        Ok(_) => Ok(false),
        Err(IndexError::InUse { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Compares the index in `directory` with a journal. Opening it changes its files: a copy is to be given.
///
/// # Errors
/// As [`Index::open`].
pub fn compare<D: Disk + Clone>(directory: &Path, disk: &D) -> Result<Comparison, IndexError> {
    let index = Index::open_store(directory)?;
    let Some(meta) = index.meta else {
        // One that was just made: its writer died before anything of it was durable, and will begin anew.
        return Ok(match index.store.read(|db| Ok(db.is_empty()))? {
            true => Comparison::Agrees { records: 0 },
            false => Comparison::Differs("it is of no journal".to_owned()),
        });
    };
    let mut reader = Reader::open(disk.clone())?;
    if reader.journal() != Some(meta.journal) {
        let of = format!("it is of journal {}", meta.journal);
        return Ok(Comparison::Differs(of));
    }
    let mut expected = Sums::default();
    let (mut records, mut oldest, mut is_damaged) = (0, None, false);
    let mut gathered = Gathered::default();
    let mut end = None;
    let mut sum = |gathered: &Gathered| {
        records += gathered.records;
        gathered
            .entries()
            .for_each(|(key, value)| expected.add(&key, &value));
    };
    let read = reader.replay_until(|seen| {
        // Lost records may be in the index, which knew them.
        is_damaged |= matches!(seen, Seen::Entry(Entry::Gap(_)));
        if let Some((header, chain)) = begun(&seen) {
            if header.first > meta.last {
                return ControlFlow::Break(());
            }
            oldest.get_or_insert((header.segment, header.first));
            if gathered
                .end
                .is_some_and(|end| end.segment != header.segment)
            {
                sum(&std::mem::take(&mut gathered));
            }
            end = Some(LastBatch::of(header, chain));
        }
        gathered.add(&seen);
        ControlFlow::Continue(())
    });
    // What the index does not reach is not looked at.
    let _ = read?;
    sum(&gathered);
    if !end.is_some_and(|end| meta.is_end(end)) {
        let how = format!(
            "it ends with lsn {}, which is not in the journal as it says",
            meta.last
        );
        return Ok(Comparison::Differs(how));
    }
    let (segment, first) = oldest.unwrap_or((SegmentNumber::FIRST, Lsn::FIRST));
    let found = index.store.read(|db| {
        let mut found = Sums::default();
        for item in db.iter() {
            let (key, value) = item?;
            // What the journal let go, it may still have.
            if !is_let_go(&key, &value, segment, first) {
                found.add(&key, &value);
            }
        }
        Ok(found)
    })?;
    Ok(match expected.differs(&found) {
        None => Comparison::Agrees { records },
        Some(_) if is_damaged => Comparison::Agrees { records },
        Some(how) => Comparison::Differs(how),
    })
}

/// Number of entries and sum of their checksums, for each kind that is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums([(u64, u64); 2]);

const KINDS: [(u8, &str); 2] = [(BY_DOMAIN, "domain"), (EXTENT, "extent")];

impl Sums {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let kind = KINDS.iter().position(|(kind, _)| key.first() == Some(kind));
        let Some((count, sum)) = kind.and_then(|at| self.0.get_mut(at)) else {
            return;
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(key);
        hasher.update(value);
        *count += 1;
        *sum = sum.wrapping_add(u64::from(hasher.finalize()));
    }

    fn differs(&self, found: &Sums) -> Option<String> {
        let pairs = KINDS.iter().zip(self.0.iter().zip(&found.0));
        let mut wrong = pairs.filter(|(_, (here, there))| here != there);
        wrong.next().map(|((_, kind), ((here, _), (there, _)))| {
            if here == there {
                format!("entries by {kind} lead elsewhere")
            } else {
                format!("{there} entries by {kind}, where the journal has {here}")
            }
        })
    }
}
