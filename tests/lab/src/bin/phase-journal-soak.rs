//! The whole crash matrix on real QEMU: every sweep, or some; prints it, and how to repeat what failed.
//!
//! Invariant: a point counts as passed only if it was visited and went as it must; the exit code is the
//! verdict.
//! Not here: installing and building (`tools/soak`), what a point is (the laboratory's `matrix`).

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use phase_journal_lab::matrix::Point;
use phase_journal_lab::matrix::outcome::{End, Place};
use phase_journal_lab::matrix::sweep::{Sweep, all};
use phase_journal_lab::matrix::visit::{Failed, Journals, Laboratory, Visited};
use serde_json::Value;

/// Something went otherwise than it must.
const EXIT_FAILED: u8 = 1;
/// It could not be tried.
const EXIT_NOT_STARTED: u8 = 2;

/// Kills sidecars and QEMUs at every durable batch of migrations on real QEMU, and judges the guest.
///
/// Each sweep is one line: its points, where the guest ended, and how many decisions to hold were made on
/// the way, by rule. The last line is `N passed, N failed`. Ends with 0 if none failed, 1 if one did, 2 if
/// nothing could be tried. Without options all sweeps are gone through, which takes hours.
#[derive(Debug, Parser)]
#[command(name = "tools/soak")]
struct Arguments {
    /// Directory of phase-journald and phase-journal
    #[arg(long, value_name = "DIR", hide = true)]
    programs: PathBuf,

    /// Only sweeps whose name holds this text, as v3/, paused, qemu-a or again; several must all be there
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,

    /// No sweeps whose name holds this text
    #[arg(long, value_name = "TEXT")]
    skip: Vec<String>,

    /// Begin no further point after so many minutes, and say how far it came
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,

    /// Go through the sweeps in an order drawn from this number, in place of the one of the list
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// So many migrations at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pairs: u8,

    /// Visit this one point, by the name that a failure gives
    #[arg(long, value_name = "NAME", conflicts_with_all = ["filter", "skip", "seed", "minutes", "list"])]
    point: Option<Point>,

    /// Only name the sweeps
    #[arg(long)]
    list: bool,
}

/// Reads journals with the project's own command.
#[derive(Debug)]
struct ByCommand {
    program: PathBuf,
}

impl ByCommand {
    fn run(&self, arguments: &[&str], journal: &Path) -> Result<String, String> {
        let output = Command::new(&self.program)
            .args(arguments)
            .arg(journal)
            .output()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "{arguments:?}: {}\n{complaint}{said}",
            output.status
        ))
    }
}

impl Journals for ByCommand {
    fn check(&self, journal: &Path) -> Result<(), String> {
        self.run(&["verify"], journal).map(drop)
    }

    fn records(&self, journal: &Path) -> Result<Vec<Value>, String> {
        let dump = self.run(&["dump", "--json"], journal)?;
        let read = |line: &str| -> Result<Value, String> {
            let mut record: Value =
                serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
            let kind = record["type"].take();
            let mut body = record["body"].take();
            // A body without fields is null.
            if !body.is_object() {
                body = Value::Object(serde_json::Map::new());
            }
            body["type"] = kind;
            Ok(body)
        };
        dump.lines().map(read).collect()
    }
}

/// What a sweep, or all of them, came to.
#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    failed: u32,
    places: BTreeMap<Place, u32>,
    holds: BTreeMap<String, u32>,
}

impl Tally {
    fn count(&mut self, visited: &Result<Visited, Failed>) {
        match visited {
            // That a sweep has no more points is no point.
            Ok(Visited::NoSuchPoint | Visited::NoSecondPoint(_)) => {}
            Ok(Visited::Ended(End { place, holds })) => {
                self.passed += 1;
                *self.places.entry(*place).or_default() += 1;
                for (rule, count) in holds {
                    *self.holds.entry(rule.clone()).or_default() += count;
                }
            }
            Err(_) => self.failed += 1,
        }
    }

    fn add(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        for (place, count) in &other.places {
            *self.places.entry(*place).or_default() += count;
        }
        for (rule, count) in &other.holds {
            *self.holds.entry(rule.clone()).or_default() += count;
        }
    }

    /// Where the guest ended, and the holds on the way.
    fn ends(&self) -> String {
        let places = self.places.iter();
        let places: Vec<String> = places
            .map(|(place, count)| format!("{place} {count}"))
            .collect();
        let mut text = places.join(", ");
        if self.failed > 0 {
            text.push_str(&format!(", FAILED {}", self.failed));
        }
        if !self.holds.is_empty() {
            let holds = self.holds.iter();
            let holds: Vec<String> = holds
                .map(|(rule, count)| format!("{rule} {count}"))
                .collect();
            text.push_str(&format!("; holds: {}", holds.join(", ")));
        }
        text
    }
}

/// What the workers share.
#[derive(Debug)]
struct Shared {
    waiting: VecDeque<Sweep>,
    finished: u32,
    total: Tally,
    failures: Vec<Point>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // A worker that panicked has counted whole visits.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let daemon = arguments.programs.join("phase-journald");
    let journals = ByCommand {
        program: arguments.programs.join("phase-journal"),
    };
    let laboratory = match Laboratory::new(&daemon, journals) {
        Ok(laboratory) => laboratory,
        Err(error) => {
            eprintln!("tools/soak: {error}");
            return ExitCode::from(EXIT_NOT_STARTED);
        }
    };
    if let Some(point) = arguments.point {
        return visit_one(&laboratory, &point);
    }
    let mut sweeps: Vec<Sweep> = all();
    let is_wanted = |sweep: &Sweep| {
        let name = sweep.to_string();
        let holds = |text: &String| name.contains(text);
        arguments.filter.iter().all(holds) && !arguments.skip.iter().any(holds)
    };
    sweeps.retain(is_wanted);
    if sweeps.is_empty() {
        eprintln!(
            "tools/soak: no sweep has a name with all of {:?}",
            arguments.filter
        );
        return ExitCode::from(EXIT_NOT_STARTED);
    }
    if let Some(seed) = arguments.seed {
        fastrand::Rng::with_seed(seed).shuffle(&mut sweeps);
    }
    if arguments.list {
        for sweep in &sweeps {
            println!("{sweep}");
        }
        return ExitCode::SUCCESS;
    }
    go(&laboratory, sweeps, &arguments)
}

fn visit_one<J: Journals>(laboratory: &Laboratory<'_, J>, point: &Point) -> ExitCode {
    let visited = laboratory.visit(point);
    let mut tally = Tally::default();
    tally.count(&visited);
    match &visited {
        Ok(Visited::NoSuchPoint) => println!("{point}: the migration has no such batch"),
        Ok(Visited::NoSecondPoint(_)) => println!("{point}: the recovery has no such batch"),
        Ok(Visited::Ended(_)) => println!("{point}: {}", tally.ends()),
        Err(failed) => println!("{point}: FAILED: {failed}"),
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    ExitCode::from(if tally.failed > 0 { EXIT_FAILED } else { 0 })
}

fn go<J: Journals>(
    laboratory: &Laboratory<'_, J>,
    sweeps: Vec<Sweep>,
    arguments: &Arguments,
) -> ExitCode {
    let begun = Instant::now();
    let limit = arguments
        .minutes
        .map(|minutes| Duration::from_secs(minutes * 60));
    let is_over = || limit.is_some_and(|limit| begun.elapsed() >= limit);
    let count = sweeps.len();
    println!(
        "{count} sweeps, {} migrations at the same time",
        arguments.pairs
    );
    if let Some(seed) = arguments.seed {
        println!("in the order of seed {seed}");
    }
    let shared = Mutex::new(Shared {
        waiting: sweeps.into(),
        finished: 0,
        total: Tally::default(),
        failures: Vec::new(),
    });
    std::thread::scope(|scope| {
        for _ in 0..arguments.pairs {
            scope.spawn(|| work(laboratory, &shared, &is_over));
        }
    });
    let shared = lock(&shared);
    println!("\nall sweeps: {}", shared.total.ends());
    for point in &shared.failures {
        println!("failed: {point}\n  again: tools/soak --point {point}");
    }
    let minutes = begun.elapsed().as_secs().div_ceil(60);
    if (shared.finished as usize) < count {
        println!(
            "the time was over: {} of {count} sweeps went to their end in {minutes} min",
            shared.finished
        );
    }
    println!(
        "{} passed, {} failed",
        shared.total.passed, shared.total.failed
    );
    ExitCode::from(if shared.total.failed > 0 {
        EXIT_FAILED
    } else {
        0
    })
}

/// Takes sweep after sweep until none is left, or the time is over.
fn work<J: Journals>(
    laboratory: &Laboratory<'_, J>,
    shared: &Mutex<Shared>,
    is_over: &(impl Fn() -> bool + Sync),
) {
    while !is_over() {
        let Some(sweep) = lock(shared).waiting.pop_front() else {
            return;
        };
        let mut tally = Tally::default();
        let gone = sweep.go(laboratory, |point, visited| {
            tally.count(visited);
            if let Err(failed) = visited {
                lock(shared).failures.push(*point);
                println!("FAILED {point}: {failed}\n  again: tools/soak --point {point}");
            }
            if is_over() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let is_whole = gone.is_continue();
        let mut shared = lock(shared);
        shared.finished += u32::from(is_whole);
        shared.total.add(&tally);
        let cut = if is_whole {
            ""
        } else {
            " (cut short by the time)"
        };
        let points = tally.passed + tally.failed;
        println!("{sweep}: {points} points{cut}: {}", tally.ends());
    }
}
