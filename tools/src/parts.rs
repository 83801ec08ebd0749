//! What a journal says of migrations, put down by parts of them, each of which fits into memory: so that a journal is
//! gone over once more for [`PARTS_MAX`] parts, however long it is.
//!
//! Invariant: a part gives back the records that tell something of its migrations, in their order. They lie in a file
//! without a name, which goes with its process; memory is [`HELD_MAX`] bytes a part while they are put down.
//! Not here: what is compared (`sides`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use journal_format::hash::IdMap;
use journal_format::number::{Lsn, MigrationId, Salt};
use journal_format::record::{Decoded, Record, put_record, record_at};

use crate::error::ToolError;
use crate::sides::{About, Part};

/// Parts that are put down at once.
pub(crate) const PARTS_MAX: u64 = 256;

/// Bytes of a part that are held until they are written; one record more may be.
const HELD_MAX: usize = 16 * 1024;

/// Nothing but these records lies in the file.
const SALT: Salt = Salt(*b"phase-journal/pa");

/// Parts of a journal, as they lie in their file.
#[derive(Debug)]
pub(crate) struct Parts {
    file: File,
    /// Where in the file the next bytes go.
    end: u64,
    /// Of 2^`bits` parts, those from `first` on.
    bits: u32,
    first: u64,
    parts: Vec<Lying>,
    /// The migrations that open jobs are.
    by_job: IdMap<Lsn, MigrationId>,
    /// The first thing that went wrong: nothing is put down after it.
    failed: Option<ToolError>,
}

/// One part: what is not written yet, and where in the file what is written lies.
#[derive(Debug, Default)]
struct Lying {
    held: Vec<u8>,
    written: Vec<(u64, usize)>,
}

impl Parts {
    /// For so many of 2^`bits` parts, from `first` on.
    pub(crate) fn new(bits: u32, first: u64, count: u64) -> Result<Parts, ToolError> {
        Ok(Parts {
            file: tempfile::tempfile().map_err(written)?,
            end: 0,
            bits,
            first,
            parts: (0..count).map(|_| Lying::default()).collect(),
            by_job: IdMap::default(),
            failed: None,
        })
    }

    /// Puts a record down, if it tells something of a migration of these parts. What fails [`Parts::done`] tells.
    pub(crate) fn put(&mut self, record: &Record) {
        let migration = match About::of(record) {
            Some(About::Migration(migration)) => migration,
            Some(About::Job(migration, job)) => {
                if self.place_of(migration).is_some() {
                    self.by_job.insert(job, migration);
                }
                migration
            }
            Some(About::OfJob(job)) => match self.by_job.get(&job) {
                Some(migration) => *migration,
                None => return,
            },
            Some(About::EndOf(job)) => match self.by_job.remove(&job) {
                Some(migration) => migration,
                None => return,
            },
            None => return,
        };
        let place = self.place_of(migration);
        if let Some(part) = place.and_then(|place| self.parts.get_mut(place))
            && self.failed.is_none()
        {
            let put = put_record(&SALT, record, &mut part.held);
            // It was read as a record of the same size.
            let put = put.map_err(|error| written(io::Error::other(error)));
            let is_full = part.held.len() >= HELD_MAX;
            let put = put.and_then(|()| match is_full {
                true => part.write(&self.file, &mut self.end),
                false => Ok(()),
            });
            self.failed = put.err();
        }
    }

    /// Where among these parts that of a migration is; `None` for one of another part.
    fn place_of(&self, migration: MigrationId) -> Option<usize> {
        let index = Part::index_of(migration, self.bits).checked_sub(self.first)?;
        let place = usize::try_from(index).ok()?;
        (place < self.parts.len()).then_some(place)
    }

    /// Nothing more is put down.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Everything was put down.
    ///
    /// # Errors
    /// Not everything could be.
    pub(crate) fn done(mut self) -> Result<Parts, ToolError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        for part in &mut self.parts {
            part.write(&self.file, &mut self.end)?;
            part.held = Vec::new();
        }
        self.by_job = IdMap::default();
        Ok(self)
    }

    /// Shows the records of a part.
    ///
    /// # Errors
    /// They cannot be read back.
    pub(crate) fn read(&self, index: u64, mut each: impl FnMut(&Record)) -> Result<(), ToolError> {
        let index = index.checked_sub(self.first);
        let index = index.and_then(|index| usize::try_from(index).ok());
        let lying = index.and_then(|index| self.parts.get(index));
        let mut bytes = Vec::new();
        for (at, size) in lying.into_iter().flat_map(|part| &part.written) {
            bytes.resize(*size, 0);
            let read = self.file.read_exact_at(&mut bytes, *at);
            read.map_err(read_back)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (size, record) =
                    record_at(&SALT, rest).map_err(|error| read_back(io::Error::other(error)))?;
                if let Decoded::Known(record) = &record {
                    each(record);
                }
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                rest = rest.get(size..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

impl Lying {
    fn write(&mut self, file: &File, end: &mut u64) -> Result<(), ToolError> {
        if self.held.is_empty() {
            return Ok(());
        }
        file.write_all_at(&self.held, *end).map_err(written)?;
        self.written.push((*end, self.held.len()));
        *end += self.held.len() as u64;
        self.held.clear();
        Ok(())
    }
}

fn written(source: io::Error) -> ToolError {
    ToolError::Write {
        path: std::env::temp_dir(),
        source,
    }
}

fn read_back(source: io::Error) -> ToolError {
    ToolError::File {
        path: std::env::temp_dir(),
        source,
    }
}
