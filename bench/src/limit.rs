//! The raw limit: what the disk gives to whoever does nothing but write and sync.
//!
//! One thread, a file filled with zeros and synced before, one `pwrite` of N records and one
//! `fdatasync` for N acknowledgements: no log can be faster without a better way to the disk. One such
//! way is measured beside it: one write with `O_DIRECT | O_DSYNC`, rounded up to whole blocks.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::failure::Failure;
use crate::payload::{PAYLOAD_SIZE, payload};
use crate::statistics::{Sample, nanoseconds};

/// Bytes that the limit writes for one record: the payload and the least that any log must add to it
/// (a length, a checksum, a number).
pub const RECORD_SIZE: usize = PAYLOAD_SIZE + 16;

/// What a direct write is rounded up to, in bytes.
const BLOCK_SIZE: usize = 4096;

/// The file's size in bytes: large enough that no write meets an earlier one of the same run soon.
const FILE_SIZE: usize = 64 * 1024 * 1024;

/// Zeros are written in pieces of this many bytes.
const PIECE_SIZE: usize = 1024 * 1024;

/// The file that the limit is measured with.
#[derive(Debug)]
pub struct Limit {
    path: PathBuf,
    buffered: File,
    /// `None` where the file system has no such writes.
    direct: Option<File>,
    /// Where the next write goes.
    at: usize,
    bytes: Vec<u8>,
}

impl Limit {
    /// Makes the file.
    ///
    /// # Errors
    /// The system's.
    pub fn new(directory: &Path) -> Result<Limit, Failure> {
        let path = directory.join("raw-limit");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(Failure::io("create", &path))?;
        let zeros = vec![0; PIECE_SIZE];
        for piece in 0..FILE_SIZE / PIECE_SIZE {
            file.write_all_at(&zeros, (piece * PIECE_SIZE) as u64)
                .map_err(Failure::io("fill", &path))?;
        }
        file.sync_all().map_err(Failure::io("sync", &path))?;
        let flags = i32::try_from((OFlags::DIRECT | OFlags::DSYNC).bits()).unwrap_or(0);
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(&path)
            .ok();
        let bytes = (0..)
            .flat_map(payload)
            .take(PIECE_SIZE + BLOCK_SIZE)
            .collect();
        Ok(Limit {
            path,
            buffered: file,
            direct,
            at: 0,
            bytes,
        })
    }

    /// One `pwrite` of `records` records and one `fdatasync`, again and again.
    ///
    /// # Errors
    /// The system's.
    pub fn measure(&mut self, records: usize, duration: Duration) -> Result<Sample, Failure> {
        let size = records * RECORD_SIZE;
        self.run(records, size, duration, |limit, at| {
            limit
                .buffered
                .write_all_at(&limit.bytes[..size], at)
                .and_then(|()| limit.buffered.sync_data())
        })
    }

    /// The same with `O_DIRECT | O_DSYNC`; `None` where there is no such thing.
    ///
    /// # Errors
    /// The system's.
    pub fn measure_direct(
        &mut self,
        records: usize,
        duration: Duration,
    ) -> Result<Option<Sample>, Failure> {
        if self.direct.is_none() {
            return Ok(None);
        }
        let size = (records * RECORD_SIZE).next_multiple_of(BLOCK_SIZE);
        self.at = self.at.next_multiple_of(BLOCK_SIZE);
        let aligned = self.bytes.as_ptr().align_offset(BLOCK_SIZE);
        let sample = self.run(records, size, duration, |limit, at| match &limit.direct {
            Some(direct) => direct.write_all_at(&limit.bytes[aligned..aligned + size], at),
            None => Ok(()),
        })?;
        Ok(Some(sample))
    }

    /// One `pwrite` of one record and one `fdatasync`.
    ///
    /// # Errors
    /// The system's.
    pub fn sync_one(&mut self) -> Result<(), Failure> {
        self.once(RECORD_SIZE, &|limit, at| {
            limit
                .buffered
                .write_all_at(&limit.bytes[..RECORD_SIZE], at)
                .and_then(|()| limit.buffered.sync_data())
        })
    }

    fn once(
        &mut self,
        size: usize,
        write: &impl Fn(&Limit, u64) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        if self.at + size > FILE_SIZE {
            self.at = 0;
        }
        write(self, self.at as u64).map_err(Failure::io("write to", &self.path))?;
        self.at += size;
        Ok(())
    }

    fn run(
        &mut self,
        records: usize,
        size: usize,
        duration: Duration,
        write: impl Fn(&Limit, u64) -> std::io::Result<()>,
    ) -> Result<Sample, Failure> {
        if size > PIECE_SIZE {
            let why = format!("{records} records are more than one write of the raw limit takes");
            return Err(Failure::Wrong(why));
        }
        let mut calls = Vec::new();
        let begin = Instant::now();
        let mut last = begin;
        while last - begin < duration {
            self.once(size, &write)?;
            let now = Instant::now();
            calls.push(nanoseconds(now - last));
            last = now;
        }
        Ok(Sample {
            calls,
            records_per_call: records as u64,
            elapsed: last - begin,
            records_per_sync: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_write_acknowledges_all_its_records() {
        let directory = tempfile::tempdir().unwrap();
        let mut limit = Limit::new(directory.path()).unwrap();
        let sample = limit.measure(8, Duration::from_millis(1)).unwrap();
        assert_eq!(sample.records_per_call, 8);
        let calls = sample.calls.len();
        assert!(calls > 0);
        assert_eq!(limit.at, calls * 8 * RECORD_SIZE);
        let content = std::fs::read(&limit.path).unwrap();
        assert_eq!(content.len(), FILE_SIZE);
        assert!(content[limit.at..].iter().all(|byte| *byte == 0));
        assert_eq!(content[..RECORD_SIZE], limit.bytes[..RECORD_SIZE]);
    }

    #[test]
    fn more_than_a_write_takes_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut limit = Limit::new(directory.path()).unwrap();
        assert!(limit.measure(1_000_000, Duration::ZERO).is_err());
    }
}
