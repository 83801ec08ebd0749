//! Durable appends: closed loops of N writers, all candidates in turn, each between two measurements of
//! the raw limit.
//!
//! Invariant: a candidate's share is of the limit measured right before and right after it; a run
//! between limits that were not quiet is made again, and counted as noisy if it stays so.
//! Not here: the candidates (`ours`, `peers`), the limit (`limit`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::limit::{Limit, RECORD_SIZE};
use crate::node;
use crate::ours;
use crate::payload::PAYLOAD_SIZE;
use crate::peers;
use crate::report::{Entry, Table};
use crate::statistics::{Figures, Sample, median, nanoseconds, number, share};

/// Appends before a run that do not count; shared by its writers.
pub const WARM_UPS: usize = 20;

/// How often a run between noisy limits is made again.
const RETRIES_MAX: usize = 2;

/// One run of one candidate.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    /// Does not exist yet, and is the candidate's alone.
    pub directory: &'a Path,
    /// For our witness: the run directory, which the sidecar has under /run.
    pub run: &'a Path,
    /// How many append at the same time.
    pub writers: usize,
    /// For how long.
    pub duration: Duration,
    /// Threads that run the tasks of candidates that have tasks; `None`: one for each CPU, as in the
    /// sidecar.
    pub workers: Option<usize>,
}

impl Cell<'_> {
    /// The writers, for whoever numbers them.
    #[must_use]
    pub fn writers_u32(&self) -> u32 {
        u32::try_from(self.writers).unwrap_or(u32::MAX)
    }
}

/// Something that appends.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// How it is called.
    pub name: &'static str,
    /// What it does, in a few words.
    pub does: &'static str,
    /// Why its figures say something else than those of the others, if they do.
    pub not_comparable: Option<&'static str>,
    /// Appends in a closed loop.
    pub append: fn(&Cell<'_>) -> Result<Sample, Failure>,
}

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// On the disk to be measured.
    pub directory: PathBuf,
    /// For our witness.
    pub run: PathBuf,
    /// Numbers of writers.
    pub writers: Vec<usize>,
    /// How often each run is made.
    pub rounds: usize,
    /// How long each run is.
    pub duration: Duration,
    /// How long the limit is measured before and after each run.
    pub bracket: Duration,
    /// A limit whose p99 is above this many microseconds is not quiet.
    pub quiet_p99: f64,
    /// See [`Cell::workers`].
    pub workers: Option<usize>,
    /// Only candidates whose names contain one of these.
    pub only: Vec<String>,
}

impl Settings {
    /// Is a candidate asked for?
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }
}

/// All that appends.
#[must_use]
pub fn candidates() -> Vec<Candidate> {
    let mut all = vec![
        Candidate {
            name: node::NODE,
            does: "tasks, Link, node, engine, log, as in the sidecar",
            not_comparable: None,
            append: node::append,
        },
        Candidate {
            name: node::NO_ENGINE,
            does: "the same with a machine that only writes down what it is given",
            not_comparable: None,
            append: node::append_without_engine,
        },
        Candidate {
            name: ours::LOG,
            does: "one thread, Log::append of N records",
            not_comparable: Some("one caller with N records, not N callers"),
            append: ours::append_to_log,
        },
    ];
    all.extend(peers::CANDIDATES);
    all
}

/// N threads, each with a call of its own that `make` makes for it, each call one durable record.
///
/// # Errors
/// The first that a call gave.
pub fn closed_loop<C>(
    cell: &Cell<'_>,
    make: impl Fn(u64) -> Result<C, Failure> + Sync,
) -> Result<Sample, Failure>
where
    C: FnMut(u64) -> Result<(), Failure>,
{
    let barrier = Barrier::new(cell.writers + 1);
    let (barrier, make) = (&barrier, &make);
    let warm_ups = WARM_UPS.div_ceil(cell.writers) as u64;
    let writer = move |writer: u64| {
        // Whatever happens before, every writer comes to the barrier, or the others wait for ever.
        let warmed = make(writer).and_then(|mut append| {
            (0..warm_ups).try_for_each(&mut append)?;
            Ok(append)
        });
        barrier.wait();
        let mut append = warmed?;
        let mut calls = Vec::new();
        let begin = Instant::now();
        let mut last = begin;
        while last - begin < cell.duration {
            append(warm_ups + calls.len() as u64)?;
            let now = Instant::now();
            calls.push(nanoseconds(now - last));
            last = now;
        }
        Ok((calls, last))
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cell.writers as u64)
            .map(|number| scope.spawn(move || writer(number)))
            .collect();
        barrier.wait();
        let begin = Instant::now();
        let (mut calls, mut end) = (Vec::new(), begin);
        for thread in threads {
            let result: Result<(Vec<u64>, Instant), Failure> = thread
                .join()
                .map_err(|_| Failure::Wrong("a writer panicked".to_owned()))?;
            let (of_writer, last) = result?;
            calls.extend(of_writer);
            end = end.max(last);
        }
        Ok(Sample {
            calls,
            records_per_call: 1,
            elapsed: end - begin,
            records_per_sync: None,
        })
    })
}

/// What the runs of one candidate with one number of writers gave.
#[derive(Debug, Default)]
struct Runs(Vec<Run>);

/// One of them.
#[derive(Clone, Copy, Debug)]
struct Run {
    figures: Figures,
    share: Option<f64>,
    is_quiet: bool,
}

impl Runs {
    /// Those that count: the quiet ones, if there are any.
    fn counted(&self) -> Vec<Run> {
        let mut runs = self.0.clone();
        if runs.iter().any(|run| run.is_quiet) {
            runs.retain(|run| run.is_quiet);
        }
        runs
    }

    fn figures(&self) -> Option<Figures> {
        let figures: Vec<Figures> = self.counted().iter().map(|run| run.figures).collect();
        Figures::medians(&figures)
    }

    fn share(&self) -> Option<f64> {
        let shares: Vec<f64> = self.counted().iter().filter_map(|run| run.share).collect();
        median(&shares)
    }

    fn noisy(&self) -> usize {
        self.0.iter().filter(|run| !run.is_quiet).count()
    }
}

/// Measures, and says how far it is on the way.
///
/// # Errors
/// A candidate failed, or the disk.
pub fn measure(settings: &Settings, say: &dyn Fn(&str)) -> Result<Vec<Table>, Failure> {
    let candidates: Vec<Candidate> = candidates()
        .into_iter()
        .filter(|one| settings.wants(one.name))
        .collect();
    let mut limit = Limit::new(&settings.directory)?;
    // By writers, by candidate.
    let mut runs: Vec<Vec<Runs>> = Vec::new();
    for _ in &settings.writers {
        runs.push(candidates.iter().map(|_| Runs::default()).collect());
    }
    let mut limits: Vec<(Runs, Runs)> = settings
        .writers
        .iter()
        .map(|_| Default::default())
        .collect();
    for round in 0..settings.rounds {
        for (index, writers) in settings.writers.iter().enumerate() {
            say(&format!("round {}, {writers} writers", round + 1));
            let (buffered, direct) = &mut limits[index];
            if let Some(sample) = limit.measure_direct(*writers, settings.bracket)? {
                let before = measured(&mut limit, settings, *writers)?;
                let figures = needed(sample.figures())?;
                direct.0.push(Run {
                    share: share(figures.per_second, before.figures.per_second),
                    figures,
                    is_quiet: before.is_quiet,
                });
            }
            for (candidate, runs) in candidates.iter().zip(&mut runs[index]) {
                let (run, limits) = run(settings, *writers, candidate, &mut limit)?;
                runs.0.push(run);
                buffered.0.extend(limits);
            }
        }
    }
    let tables = settings.writers.iter().zip(&runs).zip(&limits);
    Ok(tables
        .map(|((writers, runs), limits)| table(*writers, &candidates, runs, limits))
        .collect())
}

fn needed(figures: Option<Figures>) -> Result<Figures, Failure> {
    figures.ok_or_else(|| Failure::Wrong("a run was too short to measure anything".to_owned()))
}

/// One measurement of the limit.
fn measured(limit: &mut Limit, settings: &Settings, writers: usize) -> Result<Run, Failure> {
    let sample = limit.measure(writers, settings.bracket)?;
    let figures = needed(sample.figures())?;
    Ok(Run {
        share: Some(100.0),
        figures,
        is_quiet: figures.p99 <= settings.quiet_p99,
    })
}

/// One run between two measurements of the limit, made again while those are noisy.
fn run(
    settings: &Settings,
    writers: usize,
    candidate: &Candidate,
    limit: &mut Limit,
) -> Result<(Run, [Run; 2]), Failure> {
    let mut attempts = 0;
    loop {
        let place = tempfile::Builder::new()
            .prefix("cell-")
            .tempdir_in(&settings.directory)
            .map_err(Failure::io("make a directory in", &settings.directory))?;
        let run = settings.run.join("cell");
        let cell = Cell {
            directory: &place.path().join("store"),
            run: &run,
            writers,
            duration: settings.duration,
            workers: settings.workers,
        };
        let before = measured(limit, settings, writers)?;
        let sample = (candidate.append)(&cell)?;
        let after = measured(limit, settings, writers)?;
        // The witness of a journal that is gone.
        if run.exists() {
            fs::remove_dir_all(&run).map_err(Failure::io("remove", &run))?;
        }
        let is_quiet = before.is_quiet && after.is_quiet;
        if is_quiet || attempts == RETRIES_MAX {
            let figures = needed(sample.figures())?;
            let [before_it, after_it] = [before, after].map(|run| run.figures.per_second);
            let run = Run {
                share: share(figures.per_second, f64::midpoint(before_it, after_it)),
                figures,
                is_quiet,
            };
            return Ok((run, [before, after]));
        }
        attempts += 1;
    }
}

/// A row in the making.
struct Row {
    name: String,
    does: &'static str,
    figures: Option<Figures>,
    share: Option<f64>,
    noisy: usize,
}

impl Row {
    fn new(name: &str, is_comparable: bool, does: &'static str, runs: &Runs) -> Row {
        let mark = if is_comparable { "" } else { " (*)" };
        Row {
            name: format!("{name}{mark}"),
            does,
            figures: runs.figures(),
            share: runs.share(),
            noisy: runs.noisy(),
        }
    }

    fn entries(self) -> Vec<Entry> {
        let of = |figure: fn(&Figures) -> f64| Entry::of(self.figures.as_ref().map(figure), 0);
        vec![
            Entry::Text(self.name),
            of(|one| one.per_second),
            of(|one| one.p50),
            of(|one| one.p99),
            Entry::of(self.share, 0),
            Entry::of(self.figures.and_then(|one| one.records_per_sync), 1),
            Entry::Number(number(self.noisy as u64), 0),
            Entry::Text(self.does.to_owned()),
        ]
    }
}

fn table(
    writers: usize,
    candidates: &[Candidate],
    runs: &[Runs],
    (buffered, direct): &(Runs, Runs),
) -> Table {
    let mut rows: Vec<Row> = candidates
        .iter()
        .zip(runs)
        .map(|(candidate, runs)| {
            let is_comparable = candidate.not_comparable.is_none();
            Row::new(candidate.name, is_comparable, candidate.does, runs)
        })
        .collect();
    let does = "pwrite of N records + fdatasync";
    rows.push(Row::new("raw limit", true, does, buffered));
    let does = "the same with O_DIRECT|O_DSYNC, in 4 KiB blocks";
    rows.push(Row::new("raw limit, direct", false, does, direct));
    let speed = |row: &Row| row.figures.map_or(0.0, |figures| figures.per_second);
    rows.sort_by(|one, other| speed(other).total_cmp(&speed(one)));
    Table {
        title: format!("Durable appends, {writers} writer(s)"),
        columns: vec![
            "store",
            "acknowledged/s",
            "p50 us",
            "p99 us",
            "% of the raw limit",
            "records/sync",
            "noisy runs",
            "how",
        ],
        rows: rows.into_iter().map(Row::entries).collect(),
        notes: Vec::new(),
    }
}

/// What a reader of the tables must know.
#[must_use]
pub fn notes(settings: &Settings) -> Vec<String> {
    let mut notes = vec![
        format!(
            "closed loop, {} round(s) x {} ms, candidates in turn, medians; peers append {PAYLOAD_SIZE} \
             incompressible bytes from N threads, ours a record with a body of {PAYLOAD_SIZE} bytes \
             ({} with its header, then its batch's header and padding to 4096) from N tasks",
            settings.rounds,
            settings.duration.as_millis(),
            ours::record_bytes(),
        ),
        format!(
            "raw limit for N: one thread, one pwrite of N x {RECORD_SIZE} bytes and one fdatasync on a \
             file filled with zeros and synced before = N acknowledgements; measured for {} ms before \
             and after each run, and the share is of the mean of these two",
            settings.bracket.as_millis(),
        ),
        format!(
            "noisy: the limit around the run had a p99 above {} us, also when the run was made again; \
             such runs count only where there are no others",
            settings.quiet_p99
        ),
        "(*) raw limit, direct: a better way to the disk, for information; its share is of the raw limit"
            .to_owned(),
    ];
    for candidate in candidates() {
        if let Some(why) = candidate
            .not_comparable
            .filter(|_| settings.wants(candidate.name))
        {
            notes.push(format!("(*) {}: {why}", candidate.name));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    fn settings(directory: &Path, only: &str) -> Settings {
        Settings {
            directory: directory.to_path_buf(),
            run: directory.join("run"),
            writers: vec![2],
            rounds: 1,
            duration: Duration::from_millis(2),
            bracket: Duration::from_millis(1),
            quiet_p99: 0.0,
            workers: None,
            only: vec![only.to_owned()],
        }
    }

    #[test]
    fn writers_append_side_by_side_and_each_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let cell = Cell {
            directory: directory.path(),
            run: directory.path(),
            writers: 3,
            duration: Duration::from_millis(2),
            workers: None,
        };
        let seen: Mutex<Vec<(u64, u64)>> = Mutex::default();
        let sample = closed_loop(&cell, |writer| {
            let seen = &seen;
            Ok(move |number| {
                seen.lock().unwrap().push((writer, number));
                Ok(())
            })
        })
        .unwrap();
        let seen = seen.into_inner().unwrap();
        let warm_ups = WARM_UPS.div_ceil(3) * 3;
        assert_eq!(sample.calls.len(), seen.len() - warm_ups);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
        assert_eq!(
            seen.iter().map(|one| one.0).collect::<BTreeSet<_>>().len(),
            3
        );
    }

    #[test]
    fn one_writer_that_fails_ends_the_run() {
        let directory = tempfile::tempdir().unwrap();
        let cell = Cell {
            directory: directory.path(),
            run: directory.path(),
            writers: 4,
            duration: Duration::from_millis(2),
            workers: None,
        };
        let failing = closed_loop(&cell, |writer| {
            Ok(move |_| match writer {
                2 => Err(Failure::Wrong("no".to_owned())),
                _ => Ok(()),
            })
        });
        assert_eq!(failing.unwrap_err().to_string(), "no");
    }

    #[test]
    fn noisy_runs_count_only_where_there_are_no_others() {
        let run = |per_second, is_quiet| Run {
            figures: Figures {
                per_second,
                p50: 1.0,
                p99: 1.0,
                records_per_sync: None,
            },
            share: Some(per_second),
            is_quiet,
        };
        let mixed = Runs(vec![run(1.0, false), run(5.0, true), run(7.0, true)]);
        assert_eq!((mixed.share(), mixed.noisy()), (Some(6.0), 1));
        assert_eq!(mixed.figures().unwrap().per_second, 6.0);
        let noisy = Runs(vec![run(1.0, false), run(3.0, false)]);
        assert_eq!((noisy.share(), noisy.noisy()), (Some(2.0), 2));
        assert_eq!(Runs::default().share(), None);
    }

    #[test]
    fn a_table_has_every_candidate_and_both_limits() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), "ours");
        let tables = measure(&settings, &|_| {}).unwrap();
        let [table] = &tables[..] else {
            panic!("{tables:?}");
        };
        assert_eq!(table.rows.len(), 5);
        // Nothing is ever quiet here, so every run is noisy, and none was left out.
        let of_ours = table
            .rows
            .iter()
            .find(|row| row[0] == Entry::Text("ours".to_owned()));
        assert_eq!(of_ours.unwrap()[6], Entry::Number(1.0, 0));
        assert!(
            notes(&settings)
                .iter()
                .any(|note| note.contains("log alone"))
        );
        assert!(!notes(&settings).iter().any(|note| note.contains("sled")));
    }
}
