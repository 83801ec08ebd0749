//! `phase-journal sim`: whole fleets in a deterministic world.
//!
//! Invariant: what is printed names the seed that does it again; the journals of a violation are saved
//! so that `dump` and `explain` open them.
//! Not here: the world (`phase_journal::sim`).

use std::fs;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use phase_journal::sim::{self, Coverage, Fleet, Outcome, Shape, exhaustive};

use crate::error::{Found, ToolError};

/// Rules that were reached less often are named.
const REACHED_MIN: u64 = 100;

/// Runs that may be spent on taking faults out of a schedule that broke a promise.
const MINIMISING_RUNS_MAX: usize = 400;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// The first seed; without it one is drawn
    #[arg(long)]
    seed: Option<u64>,
    /// How many worlds, each with the seed after the one before
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Stop when so many migrations were simulated
    #[arg(long)]
    migrations: Option<u64>,
    /// Hosts in a world
    #[arg(long)]
    hosts: Option<usize>,
    /// Guests in a world
    #[arg(long)]
    domains: Option<usize>,
    /// Simulated minutes with faults
    #[arg(long)]
    minutes: Option<u64>,
    /// A fleet's shape: hosts, guests, latencies, fault rates (TOML; see tools/fleet.toml)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Runs that may be spent on taking faults out of the schedule of a violation; 0: it is told as it is
    #[arg(long, value_name = "RUNS", default_value_t = MINIMISING_RUNS_MAX)]
    minimise: usize,
    /// Print what happens, line by line
    #[arg(long)]
    story: bool,
    /// Instead: every crash point of one migration of each kind, with every kind of fault
    #[arg(long)]
    exhaustive: bool,
    /// Instead: make each rule wrong in turn, and see that it is caught
    #[cfg(feature = "mutants")]
    #[arg(long)]
    mutants: bool,
    /// The same for the rules whose name contains this
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Where the journals of a violation are saved
    #[arg(long, value_name = "DIR", default_value = "sim-violation")]
    save: PathBuf,
}

/// Runs worlds until one breaks a promise.
pub(crate) fn run(args: &SimArgs, _json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    let shape = shape(args)?;
    let first = args.seed.unwrap_or_else(drawn);
    if args.exhaustive {
        return exhaustive(first, out);
    }
    #[cfg(feature = "mutants")]
    if args.mutants || args.mutant.is_some() {
        let own = args.config.is_some().then_some(&shape);
        let name = args.mutant.as_deref().unwrap_or_default();
        return mutants::run(name, first, own, out);
    }
    let begun = Instant::now();
    let mut all = Coverage::default();
    let mut runs = 0;
    let mut last_shown = Instant::now();
    loop {
        let seed = first.wrapping_add(runs);
        let outcome = match args.story {
            true => {
                let plan = sim::plan(seed, &shape);
                sim::run_plan(seed, &shape, plan, Box::new(Fleet::default()), true)
            }
            false => sim::run(seed, &shape),
        };
        runs += 1;
        all.add(&outcome.coverage);
        if args.story {
            for line in &outcome.story {
                writeln!(out, "{line}")?;
            }
        }
        if let Some(broken) = &outcome.broken {
            show_progress("");
            writeln!(out, "seed {seed}: {broken}")?;
            report(args, &shape, &outcome, out)?;
            return Ok(Found::Something);
        }
        let is_over = match args.migrations {
            Some(migrations) => all.migrations >= migrations,
            None => runs >= args.runs,
        };
        if is_over {
            break;
        }
        if last_shown.elapsed().as_millis() > 200 {
            last_shown = Instant::now();
            show_progress(&progress(args, runs, &all, begun));
        }
    }
    show_progress("");
    summary(first, runs, &all, begun, out)?;
    Ok(Found::Nothing)
}

fn shape(args: &SimArgs) -> Result<Shape, ToolError> {
    let mut shape = match &args.config {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|source| ToolError::File {
                path: path.clone(),
                source,
            })?;
            toml::from_str(&text)
                .map_err(|error| ToolError::Argument(format!("{}: {error}", path.display())))?
        }
        None => Shape::default(),
    };
    shape.hosts = args.hosts.unwrap_or(shape.hosts);
    shape.domains = args.domains.unwrap_or(shape.domains);
    shape.minutes = args.minutes.unwrap_or(shape.minutes);
    if shape.hosts < 2 || shape.domains == 0 || shape.minutes == 0 {
        let why = "a fleet has two hosts, a guest and a minute at the least";
        return Err(ToolError::Argument(why.to_owned()));
    }
    Ok(shape)
}

/// A seed nobody chose.
fn drawn() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

fn progress(args: &SimArgs, runs: u64, all: &Coverage, begun: Instant) -> String {
    const WIDTH: u64 = 30;
    let (done, wanted) = match args.migrations {
        Some(wanted) => (all.migrations, wanted),
        None => (runs, args.runs),
    };
    let filled = usize::try_from(WIDTH * done / wanted.max(1)).unwrap_or(0);
    let bar: String = "#".repeat(filled) + &".".repeat(30 - filled.min(30));
    let seconds = begun.elapsed().as_secs_f64();
    format!(
        "[{bar}] {runs} runs ({:.1}/s), {} migrations ({:.0}/s)",
        per_second(runs, seconds),
        all.migrations,
        per_second(all.migrations, seconds)
    )
}

/// What this process has used: whatever else runs on the machine.
#[allow(clippy::cast_precision_loss, reason = "for people")]
fn processor_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-9)
}

/// One line that is written over, on a terminal only.
fn show_progress(line: &str) {
    let mut terminal = io::stderr();
    if terminal.is_terminal() {
        drop(write!(terminal, "\r\x1b[K{line}"));
        drop(terminal.flush());
    }
}

fn summary(
    first: u64,
    runs: u64,
    all: &Coverage,
    begun: Instant,
    out: &mut impl Write,
) -> Result<(), ToolError> {
    let seconds = begun.elapsed().as_secs_f64();
    let last = first.wrapping_add(runs - 1);
    writeln!(out, "seeds       {first} to {last}: no promise was broken")?;
    writeln!(
        out,
        "migrations  {} in {runs} runs, {:.0} a second, {:.0} a second of the processor",
        all.migrations,
        per_second(all.migrations, seconds),
        per_second(all.migrations, processor_seconds())
    )?;
    writeln!(
        out,
        "work        {} other jobs, {} inputs, {} batches, {seconds:.1} s",
        all.jobs, all.inputs, all.batches
    )?;
    let list = |counts: &std::collections::BTreeMap<String, u64>| {
        let mut counts: Vec<_> = counts.iter().collect();
        counts.sort_by_key(|(_, count)| core::cmp::Reverse(**count));
        let words: Vec<String> = counts
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        words.join(", ")
    };
    writeln!(out, "ended       {}", list(&all.results))?;
    writeln!(out, "faults      {}", list(&all.faults))?;
    writeln!(
        out,
        "crashes     at {} points; {}",
        all.crash_points.len(),
        list(&all.crash_points)
    )?;
    writeln!(out, "rules       {}", list(&all.rules))?;
    let rare: Vec<String> = all
        .rare_rules(REACHED_MIN)
        .iter()
        .map(|(rule, times)| format!("{} {times}", rule.name()))
        .collect();
    if !rare.is_empty() {
        writeln!(out, "rare rules  {}", rare.join(", "))?;
    }
    writeln!(
        out,
        "holds       {}; {} words of operators",
        list(&all.holds),
        all.resolved
    )?;
    Ok(())
}

/// What a violation leaves: the schedule that does it, the story, the journals.
fn report(
    args: &SimArgs,
    shape: &Shape,
    outcome: &Outcome,
    out: &mut impl Write,
) -> Result<(), ToolError> {
    let seed = outcome.seed;
    let plan = sim::minimise(shape, outcome, args.minimise);
    let again = sim::run_plan(seed, shape, plan.clone(), Box::new(Fleet::default()), true);
    let broken = again.broken.as_deref().unwrap_or("gone when run again");
    writeln!(out, "\nminimised to {} faults: {broken}", plan.len())?;
    for planned in &plan {
        writeln!(
            out,
            "  after {:>5} begun, at {:>9} us, for {:>9} us: {}",
            planned.begun,
            planned.at,
            planned.lasts,
            planned.fault.name()
        )?;
    }
    let story = again.story.join("\n");
    save(&args.save, &again, &story).map_err(|source| ToolError::File {
        path: args.save.clone(),
        source,
    })?;
    writeln!(out, "\nthe end of the story:")?;
    let from = again.story.len().saturating_sub(60);
    for line in &again.story[from..] {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "\nsaved: the story and the journals of all hosts in {}",
        args.save.display()
    )?;
    Ok(())
}

fn save(directory: &Path, outcome: &Outcome, story: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("story.txt"), story)?;
    for (host, files) in outcome.journals.iter().enumerate() {
        let journal = directory.join(format!("host-{host}"));
        fs::create_dir_all(&journal)?;
        for (name, bytes) in files {
            fs::write(journal.join(name), bytes)?;
        }
    }
    Ok(())
}

/// Goes through every crash point of one migration of each kind.
fn exhaustive(seed: u64, out: &mut impl Write) -> Result<Found, ToolError> {
    let begun = Instant::now();
    let mut total = 0_u64;
    for subject in exhaustive::SUBJECTS {
        let batches = exhaustive::batches(seed, subject);
        let mut points = 0_u64;
        for point in exhaustive::points(batches) {
            points += 1;
            let outcome = exhaustive::run_point(seed, subject, point, false);
            if let Some(broken) = &outcome.broken {
                show_progress("");
                let name = subject.name();
                writeln!(out, "{name}, seed {seed}, {point:?}: {broken}")?;
                let again = exhaustive::run_point(seed, subject, point, true);
                for line in &again.story {
                    writeln!(out, "{line}")?;
                }
                return Ok(Found::Something);
            }
            if points.is_multiple_of(100) {
                show_progress(&format!("{}: {points} points", subject.name()));
            }
        }
        show_progress("");
        let [source, destination] = batches;
        writeln!(
            out,
            "{:<18} {source} + {destination} batches, {points} points",
            subject.name()
        )?;
        total += points;
    }
    writeln!(
        out,
        "{total} worlds, {:.1} s: no promise was broken",
        begun.elapsed().as_secs_f64()
    )?;
    Ok(Found::Nothing)
}

#[cfg(feature = "mutants")]
mod mutants {
    //! `sim --mutants`: each rule is made wrong in turn, and must be caught.

    use std::io::Write;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::{Duration, Instant};

    use phase_journal::sim::Shape;
    use phase_journal::sim::mutants::{LEFT_OUT, MUTANTS, Row};

    use crate::error::{Found, ToolError};

    /// How long a mutant has.
    const CATCH_MAX: Duration = Duration::from_mins(1);

    pub(super) fn run(
        name: &str,
        first: u64,
        own: Option<&Shape>,
        out: &mut impl Write,
    ) -> Result<Found, ToolError> {
        let mut found = Found::Nothing;
        for row in MUTANTS.iter().filter(|row| row.name.contains(name)) {
            let begun = Instant::now();
            let shape = own.map_or_else(|| row.shape(), Clone::clone);
            let line = match catch(row, first, &shape) {
                Some((seed, broken)) => {
                    let seconds = begun.elapsed().as_secs_f64();
                    format!("seed {seed}, {seconds:.1} s: {broken}")
                }
                None => {
                    found = Found::Something;
                    "NOT CAUGHT".to_owned()
                }
            };
            writeln!(out, "{:<32} {:<50} {line}", row.name, row.does)?;
            out.flush()?;
        }
        for one in LEFT_OUT.iter().filter(|one| one.name().contains(name)) {
            writeln!(out, "{:<32} the model's alone: {}", one.name(), one.why)?;
        }
        Ok(found)
    }

    fn catch(row: &Row, first: u64, shape: &Shape) -> Option<(u64, String)> {
        let begun = Instant::now();
        let mut seed = first;
        while begun.elapsed() < CATCH_MAX {
            // An assertion that fails is as good as a promise that is broken.
            match catch_unwind(AssertUnwindSafe(|| row.run(seed, shape))) {
                Ok(outcome) => {
                    if let Some(broken) = outcome.broken {
                        return Some((seed, broken));
                    }
                }
                Err(_) => return Some((seed, "an assertion failed".to_owned())),
            }
            seed = seed.wrapping_add(1);
        }
        None
    }
}
