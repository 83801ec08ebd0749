//! The peers, each used as its documentation says that a record becomes durable.
//!
//! Invariant: a call returns when the peer says that the record is durable; every peer starts in an
//! empty directory and gets incompressible payloads that never repeat.
//! Not here: reading them back (`replay`).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use fjall::PersistMode;
use okaywal::{LogVoid, WriteAheadLog};
use rusqlite::Connection;

use crate::append::{Candidate, Cell, closed_loop};
use crate::failure::Failure;
use crate::payload::payload;
use crate::statistics::Sample;

/// The peers' versions, as they are pinned.
pub const VERSIONS: [(&str, &str); 6] = [
    ("fjall", "3.1.13"),
    ("okaywal", "0.3.1"),
    ("raft-engine", "0.4.2"),
    ("redb", "4.6.0"),
    ("rusqlite", "0.37.0"),
    ("sled", "0.34.7"),
];

/// The version of SQLite in it.
#[must_use]
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// What libvirt writes anew for each change of a domain, in bytes.
const REWRITE_SIZE: usize = 12 * 1024;

/// All peers.
pub const CANDIDATES: [Candidate; 7] = [
    Candidate {
        name: "raft-engine",
        does: "put, write(sync)",
        not_comparable: None,
        append: raft_engine,
    },
    Candidate {
        name: "okaywal",
        does: "one entry of one chunk, commit",
        not_comparable: None,
        append: okaywal,
    },
    Candidate {
        name: "redb",
        does: "one transaction, Durability::Immediate",
        not_comparable: None,
        append: redb,
    },
    Candidate {
        name: "SQLite",
        does: "one INSERT, WAL, synchronous=FULL, one connection",
        not_comparable: None,
        append: sqlite,
    },
    Candidate {
        name: "fjall",
        does: "one batch, PersistMode::SyncData",
        not_comparable: None,
        append: fjall,
    },
    Candidate {
        name: "sled",
        does: "insert, flush",
        not_comparable: Some(
            "its flush is sync_file_range: the disk's own cache is not flushed, so that a power \
             failure can take what was acknowledged",
        ),
        append: sled,
    },
    Candidate {
        name: "whole-file rewrite",
        does: "12 KiB to a temporary file, fsync, rename, as libvirt keeps its status",
        not_comparable: Some(
            "each writer has a file of its own, holds only its last state, and the rename itself is \
             not synced",
        ),
        append: rewrite,
    },
];

/// Numbers that no other writer gives.
fn unique(writer: u64, number: u64) -> u64 {
    (writer << 40) | number
}

fn make(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(Failure::io("make the directory", directory))
}

fn raft_engine(cell: &Cell<'_>) -> Result<Sample, Failure> {
    const NAME: &str = "raft-engine";
    let engine = raft_engine::Engine::open(raft_engine::Config {
        dir: cell.directory.to_string_lossy().into_owned(),
        ..raft_engine::Config::default()
    })
    .map_err(Failure::store(NAME, "open"))?;
    closed_loop(cell, |writer| {
        let engine = &engine;
        Ok(move |number: u64| {
            let mut batch = raft_engine::LogBatch::default();
            let value = payload(unique(writer, number)).to_vec();
            batch
                .put(writer + 1, number.to_be_bytes().to_vec(), value)
                .map_err(Failure::store(NAME, "put"))?;
            engine
                .write(&mut batch, true)
                .map(drop)
                .map_err(Failure::store(NAME, "write"))
        })
    })
}

fn okaywal(cell: &Cell<'_>) -> Result<Sample, Failure> {
    const NAME: &str = "okaywal";
    let log =
        WriteAheadLog::recover(cell.directory, LogVoid).map_err(Failure::store(NAME, "open"))?;
    let sample = closed_loop(cell, |writer| {
        let log = &log;
        Ok(move |number: u64| {
            let mut entry = log.begin_entry().map_err(Failure::store(NAME, "begin"))?;
            entry
                .write_chunk(&payload(unique(writer, number)))
                .map_err(Failure::store(NAME, "write"))?;
            entry
                .commit()
                .map(drop)
                .map_err(Failure::store(NAME, "commit"))
        })
    });
    log.shutdown().map_err(Failure::store(NAME, "close"))?;
    sample
}

/// The table of redb.
pub(crate) const RECORDS: redb::TableDefinition<'static, u64, &[u8]> =
    redb::TableDefinition::new("records");

fn redb(cell: &Cell<'_>) -> Result<Sample, Failure> {
    const NAME: &str = "redb";
    make(cell.directory)?;
    let database = redb::Database::create(cell.directory.join("db"))
        .map_err(Failure::store(NAME, "create"))?;
    closed_loop(cell, |writer| {
        let database = &database;
        Ok(move |number: u64| {
            let write = database
                .begin_write()
                .map_err(Failure::store(NAME, "begin"))?;
            {
                let mut table = write
                    .open_table(RECORDS)
                    .map_err(Failure::store(NAME, "open its table"))?;
                let number = unique(writer, number);
                table
                    .insert(number, &payload(number)[..])
                    .map_err(Failure::store(NAME, "insert"))?;
            }
            write.commit().map_err(Failure::store(NAME, "commit"))
        })
    })
}

/// A connection as a careful user has it.
pub(crate) fn sqlite_connection(directory: &Path) -> Result<Connection, Failure> {
    make(directory)?;
    let connection =
        Connection::open(directory.join("db")).map_err(Failure::store("SQLite", "open"))?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, payload BLOB NOT NULL);",
        )
        .map_err(Failure::store("SQLite", "prepare"))?;
    Ok(connection)
}

/// Adds one record.
pub(crate) const SQLITE_INSERT: &str = "INSERT INTO records (payload) VALUES (?1)";

fn sqlite(cell: &Cell<'_>) -> Result<Sample, Failure> {
    const NAME: &str = "SQLite";
    // One connection behind a lock: connections of their own would wait for each other too, longer.
    let connection = Mutex::new(sqlite_connection(cell.directory)?);
    closed_loop(cell, |writer| {
        let connection = &connection;
        Ok(move |number: u64| {
            let value = payload(unique(writer, number));
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let mut insert = connection
                .prepare_cached(SQLITE_INSERT)
                .map_err(Failure::store(NAME, "prepare"))?;
            insert
                .execute([&value[..]])
                .map(drop)
                .map_err(Failure::store(NAME, "insert"))
        })
    })
}

fn fjall(cell: &Cell<'_>) -> Result<Sample, Failure> {
    const NAME: &str = "fjall";
    let database = fjall::Database::builder(cell.directory)
        .open()
        .map_err(Failure::store(NAME, "open"))?;
    let records = database
        .keyspace("records", fjall::KeyspaceCreateOptions::default)
        .map_err(Failure::store(NAME, "open its keyspace"))?;
    closed_loop(cell, |writer| {
        let (database, records) = (&database, &records);
        Ok(move |number: u64| {
            let number = unique(writer, number);
            let mut batch = database.batch().durability(Some(PersistMode::SyncData));
            batch.insert(records, number.to_be_bytes(), payload(number));
            batch.commit().map_err(Failure::store(NAME, "commit"))
        })
    })
}

fn sled(cell: &Cell<'_>) -> Result<Sample, Failure> {
    const NAME: &str = "sled";
    let database = sled::open(cell.directory).map_err(Failure::store(NAME, "open"))?;
    closed_loop(cell, |writer| {
        let database = &database;
        Ok(move |number: u64| {
            let number = unique(writer, number);
            database
                .insert(number.to_be_bytes(), &payload(number)[..])
                .map_err(Failure::store(NAME, "insert"))?;
            database
                .flush()
                .map(drop)
                .map_err(Failure::store(NAME, "flush"))
        })
    })
}

fn rewrite(cell: &Cell<'_>) -> Result<Sample, Failure> {
    make(cell.directory)?;
    closed_loop(cell, |writer| {
        let path = cell.directory.join(format!("vm-{writer}.xml"));
        let new = cell.directory.join(format!("vm-{writer}.xml.new"));
        let content: Vec<u8> = (0..)
            .flat_map(|part| payload(unique(writer, part)))
            .take(REWRITE_SIZE)
            .collect();
        Ok(move |_: u64| {
            let mut file = File::create(&new).map_err(Failure::io("create", &new))?;
            file.write_all(&content)
                .and_then(|()| file.sync_all())
                .map_err(Failure::io("write", &new))?;
            fs::rename(&new, &path).map_err(Failure::io("rename", &new))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn versions_are_those_that_are_built() {
        let lock = include_str!("../Cargo.lock");
        for (name, version) in VERSIONS {
            let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            assert!(lock.contains(&entry), "{name} {version}");
        }
    }

    #[test]
    fn every_peer_appends() {
        for candidate in CANDIDATES {
            let directory = tempfile::tempdir().unwrap();
            let cell = Cell {
                directory: &directory.path().join("store"),
                run: directory.path(),
                writers: 2,
                duration: Duration::from_millis(1),
                workers: None,
            };
            let sample = (candidate.append)(&cell).unwrap();
            assert!(sample.calls.len() >= 2, "{}", candidate.name);
        }
    }
}
