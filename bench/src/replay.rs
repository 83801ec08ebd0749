//! Replay: a store of many records is opened and every record is gone over, in a fresh process, with the
//! page cache warm.
//!
//! Invariant: what was read is compared with what was written, by count, bytes and the sum of all
//! bytes; all stores are written in groups of [`GROUP`] records and closed before.
//! Not here: durability; nothing is lost between the writing and the reading.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use fjall::PersistMode;
use journal_format::number::Lsn;
use journal_format::record::{Decoded, DefinitionPart, Draft, RecordBody};
use okaywal::{Configuration, EntryId, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog};
use phase_journal::journal::read::{Entry as Shown, Reader};
use phase_journal::journal::replay::Seen as Replayed;
use phase_journal::journal::{Durable, OsDisk, Retention};
use redb::ReadableTable;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::ours;
use crate::payload::{PAYLOAD_SIZE, Seen, payload, text};
use crate::peers::{RECORDS, SQLITE_INSERT, sqlite_connection};
use crate::report::{Entry, Table};
use crate::statistics::{median, nanoseconds, number};

/// Records that are written together.
pub const GROUP: u64 = 256;

/// How a store is written and read back.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    /// How it is called.
    pub name: &'static str,
    /// What is done.
    pub does: &'static str,
    /// Which store's files it reads: two ways may read the same.
    pub files: &'static str,
    /// Writes the first so many payloads.
    pub write: fn(&Path, u64) -> Result<(), Failure>,
    /// Opens, and goes over all of them.
    pub read: fn(&Path) -> Result<Seen, Failure>,
}

/// All stores.
pub const STORES: [Store; 8] = [
    Store {
        name: "ours",
        does: "Reader::replay: batches' checksums and chain, records in place",
        files: "ours",
        write: write_ours,
        read: read_ours,
    },
    Store {
        name: "ours, decoded",
        does: "Reader: all checksums, every record decoded and owned",
        files: "ours",
        write: write_ours,
        read: read_ours_decoded,
    },
    Store {
        name: "raft-engine",
        does: "open (into memory), scan_raw_messages",
        files: "raft-engine",
        write: write_raft_engine,
        read: read_raft_engine,
    },
    Store {
        name: "okaywal",
        does: "recover, chunks with their checksums, without keeping them",
        files: "okaywal",
        write: write_okaywal,
        read: read_okaywal,
    },
    Store {
        name: "redb",
        does: "open, iterate the table",
        files: "redb",
        write: write_redb,
        read: read_redb,
    },
    Store {
        name: "SQLite",
        does: "SELECT; after a checkpoint; the main file has no checksums",
        files: "SQLite",
        write: write_sqlite,
        read: read_sqlite,
    },
    Store {
        name: "fjall",
        does: "open, iterate the keyspace",
        files: "fjall",
        write: write_fjall,
        read: read_fjall,
    },
    Store {
        name: "sled",
        does: "open, iterate the tree",
        files: "sled",
        write: write_sled,
        read: read_sled,
    },
];

/// The groups of the first `records` payloads: where each begins and ends.
fn groups(records: u64) -> impl Iterator<Item = core::ops::Range<u64>> {
    (0..records.div_ceil(GROUP)).map(move |group| group * GROUP..((group + 1) * GROUP).min(records))
}

fn write_ours(directory: &Path, records: u64) -> Result<(), Failure> {
    let mut options = ours::options();
    options.retention = Retention {
        bytes_max: u64::MAX,
        age_max: None,
        needed_bytes_max: u64::MAX,
    };
    let run = directory.with_extension("run");
    let mut log = ours::open_log(directory, &run, &options)?;
    let domain = Some(ours::domain(0));
    for group in groups(records) {
        let part = |index| Draft {
            domain,
            body: RecordBody::DefinitionPart(DefinitionPart {
                first: Lsn::FIRST,
                index: 0,
                count: 1,
                text: text(index),
            }),
        };
        let drafts: Vec<Draft> = group.map(part).collect();
        log.append(&drafts, ours::timestamps(), ())
            .map(Durable::into_inner)
            .map_err(Failure::store("ours", "append"))?;
    }
    Ok(())
}

/// The product's fast reader. The payload is the text at the end of the record's body.
fn read_ours(directory: &Path) -> Result<Seen, Failure> {
    let reader = Reader::open(OsDisk::new(directory)).map_err(Failure::store("ours", "open"))?;
    let mut seen = Seen::default();
    let mut whole = true;
    let kind = RecordBody::DefinitionPart(DefinitionPart {
        first: Lsn::FIRST,
        index: 0,
        count: 0,
        text: String::new(),
    })
    .type_number();
    reader
        .replay(|shown| match shown {
            Replayed::Batch(batch) => {
                for record in batch.records().filter(|record| record.kind == kind) {
                    let body = record.body();
                    seen.add(&body[body.len().saturating_sub(PAYLOAD_SIZE)..]);
                }
            }
            Replayed::Entry(_) => whole = false,
        })
        .map_err(Failure::store("ours", "read"))?;
    match whole {
        true => Ok(seen),
        false => Err(Failure::Wrong("ours is not whole".to_owned())),
    }
}

fn read_ours_decoded(directory: &Path) -> Result<Seen, Failure> {
    let reader = Reader::open(OsDisk::new(directory)).map_err(Failure::store("ours", "open"))?;
    let mut seen = Seen::default();
    for entry in reader {
        let batch = match entry.map_err(Failure::store("ours", "read"))? {
            Shown::Batch(batch) => batch,
            Shown::Gap(gap) => return Err(Failure::Wrong(gap.to_string())),
        };
        for placed in batch.records {
            if let Decoded::Known(record) = placed.record
                && let RecordBody::DefinitionPart(part) = record.body
            {
                seen.add(part.text.as_bytes());
            }
        }
    }
    Ok(seen)
}

fn open_raft_engine(directory: &Path) -> Result<raft_engine::Engine, Failure> {
    raft_engine::Engine::open(raft_engine::Config {
        dir: directory.to_string_lossy().into_owned(),
        ..raft_engine::Config::default()
    })
    .map_err(Failure::store("raft-engine", "open"))
}

fn write_raft_engine(directory: &Path, records: u64) -> Result<(), Failure> {
    let engine = open_raft_engine(directory)?;
    for group in groups(records) {
        let mut batch = raft_engine::LogBatch::default();
        for index in group {
            batch
                .put(1, index.to_be_bytes().to_vec(), payload(index).to_vec())
                .map_err(Failure::store("raft-engine", "put"))?;
        }
        engine
            .write(&mut batch, true)
            .map_err(Failure::store("raft-engine", "write"))?;
    }
    Ok(())
}

fn read_raft_engine(directory: &Path) -> Result<Seen, Failure> {
    let engine = open_raft_engine(directory)?;
    let mut seen = Seen::default();
    let add = |_: &[u8], value: &[u8]| {
        seen.add(value);
        true
    };
    engine
        .scan_raw_messages(1, None, None, false, add)
        .map_err(Failure::store("raft-engine", "scan"))?;
    Ok(seen)
}

/// Recovers entries into a sum, and never lets go of any.
#[derive(Debug)]
struct Recovered(Arc<Mutex<Seen>>);

impl LogManager for Recovered {
    fn recover(&mut self, entry: &mut okaywal::Entry<'_>) -> io::Result<()> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::with_capacity(PAYLOAD_SIZE);
        loop {
            match entry.read_chunk()? {
                ReadChunkResult::Chunk(mut chunk) => {
                    bytes.clear();
                    io::Read::read_to_end(&mut chunk, &mut bytes)?;
                    if !chunk.check_crc()? {
                        return Err(io::Error::other("a chunk's checksum is wrong"));
                    }
                    seen.add(&bytes);
                }
                ReadChunkResult::EndOfEntry => return Ok(()),
                ReadChunkResult::AbortedEntry => {
                    return Err(io::Error::other("an entry was aborted"));
                }
            }
        }
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _log: &WriteAheadLog,
    ) -> io::Result<()> {
        Err(io::Error::other("a checkpoint would let go of entries"))
    }
}

/// Never lets go of anything.
fn okaywal_configuration(directory: &Path) -> Configuration {
    Configuration::default_for(directory).checkpoint_after_bytes(u64::MAX)
}

fn write_okaywal(directory: &Path, records: u64) -> Result<(), Failure> {
    let name = "okaywal";
    // One segment that holds them all; a growing one would do as well, but takes longer to write.
    let size = records.saturating_mul(PAYLOAD_SIZE as u64 + 20) + (1 << 20);
    let log = okaywal_configuration(directory)
        .preallocate_bytes(u32::try_from(size).unwrap_or(u32::MAX))
        .open(Recovered(Arc::default()))
        .map_err(Failure::store(name, "open"))?;
    for group in groups(records) {
        let mut entry = log.begin_entry().map_err(Failure::store(name, "begin"))?;
        for index in group {
            entry
                .write_chunk(&payload(index))
                .map_err(Failure::store(name, "write"))?;
        }
        entry.commit().map_err(Failure::store(name, "commit"))?;
    }
    log.shutdown().map_err(Failure::store(name, "close"))
}

fn read_okaywal(directory: &Path) -> Result<Seen, Failure> {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let log = okaywal_configuration(directory)
        .open(Recovered(Arc::clone(&seen)))
        .map_err(Failure::store("okaywal", "recover"))?;
    // Closing it makes a new segment, which is not part of reading.
    core::mem::forget(log);
    let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(seen)
}

fn write_redb(directory: &Path, records: u64) -> Result<(), Failure> {
    let name = "redb";
    std::fs::create_dir_all(directory).map_err(Failure::io("make the directory", directory))?;
    let database =
        redb::Database::create(directory.join("db")).map_err(Failure::store(name, "create"))?;
    for group in groups(records) {
        let write = database
            .begin_write()
            .map_err(Failure::store(name, "begin"))?;
        {
            let mut table = write
                .open_table(RECORDS)
                .map_err(Failure::store(name, "open its table"))?;
            for index in group {
                table
                    .insert(index, &payload(index)[..])
                    .map_err(Failure::store(name, "insert"))?;
            }
        }
        write.commit().map_err(Failure::store(name, "commit"))?;
    }
    Ok(())
}

fn read_redb(directory: &Path) -> Result<Seen, Failure> {
    use redb::ReadableDatabase;
    let name = "redb";
    let database =
        redb::Database::open(directory.join("db")).map_err(Failure::store(name, "open"))?;
    let read = database
        .begin_read()
        .map_err(Failure::store(name, "begin"))?;
    let table = read
        .open_table(RECORDS)
        .map_err(Failure::store(name, "open its table"))?;
    let mut seen = Seen::default();
    for entry in table.iter().map_err(Failure::store(name, "iterate"))? {
        let (_, value) = entry.map_err(Failure::store(name, "iterate"))?;
        seen.add(value.value());
    }
    Ok(seen)
}

fn write_sqlite(directory: &Path, records: u64) -> Result<(), Failure> {
    let name = "SQLite";
    let connection = sqlite_connection(directory)?;
    for group in groups(records) {
        let transaction = connection
            .unchecked_transaction()
            .map_err(Failure::store(name, "begin"))?;
        {
            let mut insert = transaction
                .prepare_cached(SQLITE_INSERT)
                .map_err(Failure::store(name, "prepare"))?;
            for index in group {
                insert
                    .execute([&payload(index)[..]])
                    .map_err(Failure::store(name, "insert"))?;
            }
        }
        transaction
            .commit()
            .map_err(Failure::store(name, "commit"))?;
    }
    connection
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE);")
        .map_err(Failure::store(name, "checkpoint"))
}

fn read_sqlite(directory: &Path) -> Result<Seen, Failure> {
    let name = "SQLite";
    let connection = sqlite_connection(directory)?;
    let mut select = connection
        .prepare("SELECT payload FROM records ORDER BY number")
        .map_err(Failure::store(name, "prepare"))?;
    let mut rows = select.query([]).map_err(Failure::store(name, "select"))?;
    let mut seen = Seen::default();
    while let Some(row) = rows.next().map_err(Failure::store(name, "read"))? {
        let value = row.get_ref(0).map_err(Failure::store(name, "read"))?;
        seen.add(value.as_blob().map_err(Failure::store(name, "read"))?);
    }
    Ok(seen)
}

fn open_fjall(directory: &Path) -> Result<(fjall::Database, fjall::Keyspace), Failure> {
    let database = fjall::Database::builder(directory)
        .open()
        .map_err(Failure::store("fjall", "open"))?;
    let records = database
        .keyspace("records", fjall::KeyspaceCreateOptions::default)
        .map_err(Failure::store("fjall", "open its keyspace"))?;
    Ok((database, records))
}

fn write_fjall(directory: &Path, records: u64) -> Result<(), Failure> {
    let (database, keyspace) = open_fjall(directory)?;
    for group in groups(records) {
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        for index in group {
            batch.insert(&keyspace, index.to_be_bytes(), payload(index));
        }
        batch.commit().map_err(Failure::store("fjall", "commit"))?;
    }
    Ok(())
}

fn read_fjall(directory: &Path) -> Result<Seen, Failure> {
    let (_database, keyspace) = open_fjall(directory)?;
    let mut seen = Seen::default();
    for guard in keyspace.iter() {
        let value = guard.value().map_err(Failure::store("fjall", "iterate"))?;
        seen.add(&value);
    }
    Ok(seen)
}

fn write_sled(directory: &Path, records: u64) -> Result<(), Failure> {
    let database = sled::open(directory).map_err(Failure::store("sled", "open"))?;
    for group in groups(records) {
        let mut batch = sled::Batch::default();
        for index in group {
            batch.insert(&index.to_be_bytes(), &payload(index)[..]);
        }
        database
            .apply_batch(batch)
            .map_err(Failure::store("sled", "insert"))?;
    }
    database
        .flush()
        .map(drop)
        .map_err(Failure::store("sled", "flush"))
}

fn read_sled(directory: &Path) -> Result<Seen, Failure> {
    let database = sled::open(directory).map_err(Failure::store("sled", "open"))?;
    let mut seen = Seen::default();
    for entry in database.iter() {
        let (_, value) = entry.map_err(Failure::store("sled", "iterate"))?;
        seen.add(&value);
    }
    Ok(seen)
}

/// What a process that read a store says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Reading {
    /// From before the store was opened until every record was seen.
    pub nanoseconds: u64,
    /// How many payloads.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The sum of their bytes' values.
    pub sum: u64,
}

/// Reads a store once, in this process.
///
/// # Errors
/// The store's.
pub fn read_once(store: &Store, directory: &Path) -> Result<Reading, Failure> {
    let begin = Instant::now();
    let Seen {
        records,
        bytes,
        sum,
    } = (store.read)(directory)?;
    Ok(Reading {
        nanoseconds: nanoseconds(begin.elapsed()),
        records,
        bytes,
        sum,
    })
}

/// Measures; `write` and `read` do it in processes of their own. Every store is read `rounds` times, once
/// more at first for the page cache.
///
/// # Errors
/// A store failed, or read something else than was written.
pub fn measure(
    directory: &Path,
    records: u64,
    rounds: usize,
    wants: &dyn Fn(&str) -> bool,
    say: &dyn Fn(&str),
    write: &dyn Fn(&Store, &Path, u64) -> Result<(), Failure>,
    read: &dyn Fn(&Store, &Path) -> Result<Reading, Failure>,
) -> Result<Table, Failure> {
    let expected = Seen::expected(records);
    let mut found: Vec<(f64, Store)> = Vec::new();
    for files in STORES.iter().filter(|store| store.name == store.files) {
        let ways: Vec<&Store> = STORES
            .iter()
            .filter(|store| store.files == files.name && wants(store.name))
            .collect();
        if ways.is_empty() {
            continue;
        }
        say(&format!("{}: {records} records", files.name));
        let place = tempfile::Builder::new()
            .prefix("replay-")
            .tempdir_in(directory)
            .map_err(Failure::io("make a directory in", directory))?;
        let path = place.path().join("store");
        write(files, &path, records)?;
        for store in ways {
            let mut seconds = Vec::new();
            for round in 0..=rounds {
                let reading = read(store, &path)?;
                let seen = Seen {
                    records: reading.records,
                    bytes: reading.bytes,
                    sum: reading.sum,
                };
                if seen != expected {
                    let why = format!("{} gave {seen:?} back, not {expected:?}", store.name);
                    return Err(Failure::Wrong(why));
                }
                if round > 0 {
                    seconds.push(number(reading.nanoseconds) / 1e9);
                }
            }
            found.push((median(&seconds).unwrap_or(f64::INFINITY), *store));
        }
    }
    found.sort_by(|one, other| one.0.total_cmp(&other.0));
    let rows = found.iter().map(|(seconds, store)| {
        vec![
            Entry::Text(store.name.to_owned()),
            Entry::Number(*seconds, 3),
            Entry::Number(number(expected.bytes) / seconds / 1e6, 0),
            Entry::Text(store.does.to_owned()),
        ]
    });
    Ok(Table {
        title: format!("Replay of {records} records of {PAYLOAD_SIZE} bytes"),
        columns: vec!["store", "seconds", "MB/s of payload", "how"],
        rows: rows.collect(),
        notes: vec![format!(
            "fresh process, page cache warm: open, go over all records, add up every byte (checked \
             against what was written); written in groups of {GROUP}; median of {rounds}"
        )],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_store_gives_back_what_was_written() {
        const COUNT: u64 = 3 * GROUP + 7;
        let directory = tempfile::tempdir().unwrap();
        for store in STORES {
            let path = directory.path().join(store.files);
            if store.name == store.files {
                (store.write)(&path, COUNT).unwrap();
            }
            let seen = (store.read)(&path).unwrap();
            assert_eq!(seen, Seen::expected(COUNT), "{}", store.name);
        }
    }

    #[test]
    fn what_is_missing_is_no_result() {
        let directory = tempfile::tempdir().unwrap();
        let measured = measure(
            directory.path(),
            GROUP,
            1,
            &|name| name == "ours",
            &|_| {},
            &|store, path, records| (store.write)(path, records - 1),
            &read_once,
        );
        assert!(matches!(measured, Err(Failure::Wrong(_))), "{measured:?}");
        let measured = measure(
            directory.path(),
            GROUP,
            1,
            &|name| name == "ours",
            &|_| {},
            &|store, path, records| (store.write)(path, records),
            &read_once,
        );
        assert_eq!(measured.unwrap().rows.len(), 1);
    }
}
