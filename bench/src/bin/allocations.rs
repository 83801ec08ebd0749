//! Counts allocations on the append path in steady state, and prints them as JSON, one line.
//!
//! A program of its own: its allocator counts every call, which would disturb whatever is timed.
//! Nothing runs beside what is measured: no thread makes spare segments, and the segment is so large
//! that none is needed.

use std::alloc::System;
use std::path::Path;
use std::process::ExitCode;

use phase_journal::engine::{Input, Token};
use phase_journal::journal::Durable;
use phase_journal::sidecar::link;
use phase_journal_bench::failure::Failure;
use phase_journal_bench::ours;
use phase_journal_bench::statistics::number;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Calls before, until every buffer has its size.
const WARM_UPS: usize = 50;
/// Calls that count.
const CALLS: usize = 200;
/// Larger than all that is written.
const SEGMENT_SIZE: u64 = 256 * 1024 * 1024;

/// Calls that allocated, freed, and the bytes, summed.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    allocations: usize,
    bytes: usize,
}

impl Sum {
    fn add(&mut self, stats: Stats) {
        self.allocations += stats.allocations + stats.reallocations;
        self.bytes += stats.bytes_allocated;
    }

    fn json(self, what: &str, records: usize) -> Value {
        let (calls, records) = (number(CALLS as u64), number(records as u64));
        json!({
            "what": what,
            "records": records,
            "per_call": number(self.allocations as u64) / calls,
            "per_record": number(self.allocations as u64) / calls / records,
            "bytes_per_record": number(self.bytes as u64) / calls / records,
        })
    }
}

fn log(directory: &Path, records: u32) -> Result<Value, Failure> {
    let mut options = ours::options();
    options.first_segment_size = SEGMENT_SIZE;
    let mut log = ours::open_log(&directory.join("log"), &directory.join("run"), &options)?;
    let drafts: Vec<_> = (0..records).map(ours::draft).collect();
    let mut sum = Sum::default();
    for call in 0..WARM_UPS + CALLS {
        let now = ours::timestamps();
        let region = Region::new(ALLOCATOR);
        let appended = log.append(&drafts, now, ()).map(Durable::into_inner);
        let change = region.change();
        appended.map_err(Failure::store("ours", "append"))?;
        if call >= WARM_UPS {
            sum.add(change);
        }
    }
    Ok(sum.json("Log::append", drafts.len()))
}

fn node(directory: &Path, records: u32) -> Result<Value, Failure> {
    let mut options = ours::options();
    options.first_segment_size = SEGMENT_SIZE;
    let (node, run) = (directory.join("node"), directory.join("run"));
    let (mut node, _first) = ours::open_node(&node, &run, &options)?;
    let mut sum = Sum::default();
    for call in 0..WARM_UPS + CALLS {
        let inputs: Vec<Input> = (0..records)
            .map(|index| Input::Control {
                token: Token(u64::from(index)),
                request: ours::request(index),
            })
            .collect();
        let now = link::now();
        let region = Region::new(ALLOCATOR);
        let turned = node.turn(now, inputs);
        let change = region.change();
        drop(turned.map_err(Failure::store("ours", "append"))?);
        if call >= WARM_UPS {
            sum.add(change);
        }
    }
    Ok(sum.json("Node::turn", records as usize))
}

fn run(directory: &Path) -> Result<Value, Failure> {
    let mut rows = Vec::new();
    for measure in [log, node] {
        for records in [1, 256] {
            let place = tempfile::tempdir_in(directory)
                .map_err(Failure::io("make a directory in", directory))?;
            rows.push(measure(place.path(), records)?);
        }
    }
    Ok(Value::Array(rows))
}

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: phase-journal-bench-allocations DIRECTORY");
        return ExitCode::from(2);
    };
    match run(Path::new(&directory)) {
        Ok(rows) => {
            println!("{rows}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("phase-journal-bench-allocations: {error}");
            ExitCode::from(2)
        }
    }
}
