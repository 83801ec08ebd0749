//! What is done in a process of its own, and how it is asked to.
//!
//! Each child is this program again, with a hidden command; it says what it found as one line of JSON.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Subcommand;
use phase_journal_bench::failure::Failure;
use phase_journal_bench::opening::{self, Opening};
use phase_journal_bench::replay::{self, Reading, STORES, Store};
use phase_journal_bench::report::{Entry, Table};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The program that counts allocations.
const ALLOCATIONS: &str = "phase-journal-bench-allocations";

/// What a child is for.
#[derive(Debug, Subcommand)]
pub(crate) enum Child {
    #[command(hide = true)]
    WriteStore {
        name: String,
        directory: PathBuf,
        records: u64,
    },
    #[command(hide = true)]
    ReadStore { name: String, directory: PathBuf },
    #[command(hide = true)]
    BuildJournal {
        directory: PathBuf,
        jobs: u32,
        bytes: u64,
    },
    #[command(hide = true)]
    OpenJournal { directory: PathBuf, run: PathBuf },
    #[command(hide = true)]
    WeighLog { directory: PathBuf, run: PathBuf },
}

fn store(name: &str) -> Result<&'static Store, Failure> {
    STORES
        .iter()
        .find(|store| store.name == name)
        .ok_or_else(|| Failure::Wrong(format!("no store is called {name}")))
}

impl Child {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let said = match self {
            Child::WriteStore {
                name,
                directory,
                records,
            } => {
                (store(name)?.write)(directory, *records)?;
                Value::Null
            }
            Child::ReadStore { name, directory } => {
                json!(replay::read_once(store(name)?, directory)?)
            }
            Child::BuildJournal {
                directory,
                jobs,
                bytes,
            } => {
                opening::build(directory, *jobs, *bytes)?;
                Value::Null
            }
            Child::OpenJournal { directory, run } => {
                json!(opening::open_once(directory, run, opening::APPENDS)?)
            }
            Child::WeighLog { directory, run } => json!(opening::weigh_log(directory, run)?),
        };
        println!("{said}");
        Ok(())
    }
}

/// Runs a program to its end, and reads what it said.
fn ask<T: DeserializeOwned>(program: &Path, arguments: &[&OsStr]) -> Result<T, Failure> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Failure::io("run", program))?;
    if !output.status.success() {
        let why = format!("a process of its own failed: {}", output.status);
        return Err(Failure::Wrong(why));
    }
    serde_json::from_slice(&output.stdout).map_err(Failure::store("bench", "read its child"))
}

fn ask_self<T: DeserializeOwned>(arguments: &[&OsStr]) -> Result<T, Failure> {
    let program = Path::new("/proc/self/exe");
    ask(program, arguments)
}

pub(crate) fn write_store(store: &Store, directory: &Path, records: u64) -> Result<(), Failure> {
    let records = records.to_string();
    ask_self(&[
        "write-store".as_ref(),
        store.name.as_ref(),
        directory.as_ref(),
        records.as_ref(),
    ])
}

pub(crate) fn read_store(store: &Store, directory: &Path) -> Result<Reading, Failure> {
    ask_self(&[
        "read-store".as_ref(),
        store.name.as_ref(),
        directory.as_ref(),
    ])
}

pub(crate) fn build_journal(directory: &Path, jobs: u32, bytes: u64) -> Result<(), Failure> {
    let (jobs, bytes) = (jobs.to_string(), bytes.to_string());
    ask_self(&[
        "build-journal".as_ref(),
        directory.as_ref(),
        jobs.as_ref(),
        bytes.as_ref(),
    ])
}

pub(crate) fn open_journal(directory: &Path, run: &Path) -> Result<Opening, Failure> {
    ask_self(&["open-journal".as_ref(), directory.as_ref(), run.as_ref()])
}

pub(crate) fn weigh_log(directory: &Path, run: &Path) -> Result<u64, Failure> {
    ask_self(&["weigh-log".as_ref(), directory.as_ref(), run.as_ref()])
}

/// Has the allocations counted by the program beside this one.
pub(crate) fn allocations(directory: &Path) -> Result<Table, Failure> {
    let own = std::env::current_exe().map_err(Failure::store("bench", "find itself"))?;
    let program = own.with_file_name(ALLOCATIONS);
    let found: Vec<Value> = ask(&program, &[directory.as_ref()])?;
    let rows = found.iter().map(|row| {
        vec![
            Entry::Text(row["what"].as_str().unwrap_or_default().to_owned()),
            Entry::of(row["records"].as_f64(), 0),
            Entry::of(row["per_call"].as_f64(), 2),
            Entry::of(row["per_record"].as_f64(), 3),
            Entry::of(row["bytes_per_record"].as_f64(), 0),
        ]
    });
    Ok(Table {
        title: "Allocations in steady state".to_owned(),
        columns: vec![
            "call",
            "records",
            "allocations per call",
            "per record",
            "bytes per record",
        ],
        rows: rows.collect(),
        notes: vec![
            "counted around the call alone, drafts and inputs made before, no thread beside it; \
             growing a buffer counts as an allocation"
                .to_owned(),
        ],
    })
}
