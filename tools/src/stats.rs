//! `phase-journal stats`: how much of what a journal holds, and how long the phases took.
//!
//! Invariant: a sync is a batch; memory does not grow with the journal: durations are counted in histograms,
//! and jobs beyond [`JOBS_MAX`] are counted together.
//! Not here: which records (`filter`).

use std::collections::HashMap;
use std::hash::Hash;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use hdrhistogram::Histogram;
use journal_format::batch::BatchHeader;
use journal_format::number::{BootId, Lsn};
use journal_format::record::{Decoded, Phase, RecordBody};
use phase_journal::journal::read::{Ending, Gap};
use serde_json::{Value, json};

use crate::ahead::{self, Pick};
use crate::backwards::boots;
use crate::error::{Found, ToolError};
use crate::filter::{Filter, FilterArgs};
use crate::merge;
use crate::past::{Item, Past, Recorded};
use crate::source;
use crate::terminal::{Look, Paint};
use crate::text::{json_line, plain, size};
use crate::words::{gap_json, gap_line};

/// Jobs that are told apart.
const JOBS_MAX: usize = 100_000;
/// Rows of a table for people; programs get all.
const ROWS_MAX: usize = 20;
/// The longest duration that is told from longer ones, in microseconds: 30 days.
const LONGEST: u64 = 30 * 86_400 * 1_000_000;

/// What to count.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  phase-journal stats /var/lib/phase-journal
  phase-journal stats /var/lib/phase-journal --since yesterday --domain web-1
  phase-journal stats host-a/journal host-b/journal --json

A sync is one batch: one write that was made durable. Of a type, domain or job it is counted if it held a record of \
it. A phase lasts until the next one, or the end of the job.

Exit codes: 0 fine; 2 something of what was read is damaged; 3 could not be read.")]
pub(crate) struct StatsArgs {
    /// The journal's directory, or a segment file; several are counted one by one
    #[arg(value_name = "JOURNAL", required = true)]
    journals: Vec<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Counts what journals hold.
pub(crate) fn run(args: &StatsArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    let paint = Paint::of_stdout();
    let mut found = Found::Nothing;
    let mut values = Vec::new();
    let labels = merge::labels(&args.journals);
    let mut asked = Filter::new(&args.filter)?;
    let mut counted = Vec::new();
    for journal in &args.journals {
        let mut filter = asked.clone();
        let (stats, here) = read(journal, &mut filter)?;
        found = found.max(here);
        // Of several journals one is enough to know a name.
        asked.learn(&filter);
        counted.push(stats);
    }
    if let Some(why) = asked.not_found() {
        return Err(ToolError::Argument(why));
    }
    for (index, (stats, label)) in counted.iter().zip(labels).enumerate() {
        if json {
            values.push(stats.json());
            continue;
        }
        if let Some(label) = label {
            let gap = if index > 0 { "\n" } else { "" };
            let title = format!("== {}", label.trim_end());
            writeln!(out, "{gap}{}", paint.text(Look::Title, &title))?;
        }
        stats.text(paint, out)?;
    }
    if json {
        let value = match values.len() {
            1 => values.remove(0),
            _ => json!(values),
        };
        writeln!(out, "{}", json_line(&value))?;
    }
    Ok(found)
}

fn read(journal: &Path, filter: &mut Filter) -> Result<(Stats, Found), ToolError> {
    let disk = source::open(journal)?;
    let mut past = Past::of(disk.clone())?;
    filter.settle_boot(&boots(&disk, past.segments()))?;
    let mut stats = Stats::default();
    let mut found = Found::Nothing;
    // It is never stopped.
    let _ = ahead::read(
        &mut past,
        filter,
        |_| Pick::Show,
        |item| {
            match item {
                Item::Gap(gap) => {
                    found = Found::Damage;
                    stats.gaps.push(gap);
                }
                Item::Batch(..) => {}
                Item::Record(recorded) => stats.count(&recorded),
            }
            Ok(ControlFlow::Continue(()))
        },
    )?;
    if past.ending() == Ending::Damaged {
        found = Found::Damage;
    }
    Ok((stats, source::found(past.segments(), found)))
}

/// What one kind of records takes.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    records: u64,
    bytes: u64,
    syncs: u64,
    /// The last batch that was counted.
    batch: Option<Lsn>,
}

impl Tally {
    fn add(&mut self, batch: Lsn, bytes: u64) {
        self.records += 1;
        self.bytes += bytes;
        if self.batch.replace(batch) != Some(batch) {
            self.syncs += 1;
        }
    }

    fn json(&self) -> Value {
        json!({"records": self.records, "bytes": self.bytes, "syncs": self.syncs})
    }
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    boot: BootId,
    wall: u64,
    monotonic: u64,
}

impl Moment {
    fn of(batch: &BatchHeader) -> Moment {
        Moment {
            boot: batch.boot,
            wall: batch.wall,
            monotonic: batch.monotonic,
        }
    }

    /// Microseconds since another one; over a reboot by the wall clock, which may have been set.
    fn since(&self, before: &Moment) -> u64 {
        let nanoseconds = match self.boot == before.boot {
            true => self.monotonic.saturating_sub(before.monotonic),
            false => self.wall.saturating_sub(before.wall),
        };
        nanoseconds / 1000
    }
}

/// How long something took.
#[derive(Debug)]
struct Durations(Histogram<u64>);

impl Durations {
    fn new() -> Option<Durations> {
        Histogram::new_with_bounds(1, LONGEST, 3)
            .ok()
            .map(Durations)
    }
}

/// A job that is not over.
#[derive(Debug)]
struct Open {
    begun: Moment,
    phase: Option<(Phase, Moment)>,
}

#[derive(Debug, Default)]
struct Stats {
    total: Tally,
    /// Bytes of the batches that records were counted of, with their headers and padding.
    written: u64,
    counted: Option<Lsn>,
    types: HashMap<String, Tally>,
    domains: HashMap<String, Tally>,
    jobs: HashMap<Lsn, (Option<String>, Tally)>,
    other_jobs: Tally,
    open: HashMap<Lsn, Open>,
    phases: HashMap<Phase, Durations>,
    whole: Option<Durations>,
    /// What could not be counted.
    gaps: Vec<Gap>,
}

fn tally<K: Hash + Eq>(tallies: &mut HashMap<K, Tally>, key: K) -> &mut Tally {
    tallies.entry(key).or_default()
}

impl Stats {
    fn count(&mut self, recorded: &Recorded) {
        let (batch, bytes) = (recorded.batch.first, recorded.size);
        self.total.add(batch, bytes);
        if self.counted.replace(batch) != Some(batch) {
            self.written += recorded.batch.size();
        }
        let kind = match &recorded.record {
            Decoded::Known(record) => record.body.type_name().to_owned(),
            Decoded::Unknown { kind, version, .. } => format!("type {kind} version {version}"),
        };
        tally(&mut self.types, kind).add(batch, bytes);
        let domain = recorded.record.domain().map(|id| {
            let name = recorded.name.clone();
            name.unwrap_or_else(|| id.to_string())
        });
        if let Some(domain) = domain {
            tally(&mut self.domains, domain).add(batch, bytes);
        }
        if let Some(job) = recorded.job {
            self.job(job, recorded, bytes);
        }
    }

    fn job(&mut self, job: Lsn, recorded: &Recorded, bytes: u64) {
        let batch = recorded.batch.first;
        let now = Moment::of(&recorded.batch);
        if self.jobs.len() < JOBS_MAX || self.jobs.contains_key(&job) {
            let entry = self.jobs.entry(job);
            let new = || (recorded.name.clone(), Tally::default());
            entry.or_insert_with(new).1.add(batch, bytes);
        } else {
            self.other_jobs.add(batch, bytes);
        }
        let Decoded::Known(record) = &recorded.record else {
            return;
        };
        match &record.body {
            RecordBody::JobBegun(_) => {
                let phase = recorded.phase.map(|phase| (phase, now));
                self.open.insert(job, Open { begun: now, phase });
            }
            RecordBody::PhaseEntered(entered) => {
                if let Some(open) = self.open.get_mut(&job)
                    && let Some((phase, since)) = open.phase.replace((entered.phase, now))
                {
                    self.lasted(phase, now.since(&since));
                }
            }
            RecordBody::JobEnded(_) => {
                if let Some(open) = self.open.remove(&job) {
                    if let Some((phase, since)) = open.phase {
                        self.lasted(phase, now.since(&since));
                    }
                    self.whole = self.whole.take().or_else(Durations::new);
                    if let Some(Durations(whole)) = &mut self.whole {
                        whole.saturating_record(now.since(&open.begun));
                    }
                }
            }
            _ => {}
        }
    }

    fn lasted(&mut self, phase: Phase, microseconds: u64) {
        if !self.phases.contains_key(&phase)
            && let Some(new) = Durations::new()
        {
            self.phases.insert(phase, new);
        }
        if let Some(Durations(phase)) = self.phases.get_mut(&phase) {
            phase.saturating_record(microseconds);
        }
    }

    fn text(&self, paint: Paint, out: &mut impl Write) -> Result<(), ToolError> {
        writeln!(
            out,
            "{} records, {}, in {} syncs of {}",
            self.total.records,
            size(self.total.bytes),
            self.total.syncs,
            size(self.written)
        )?;
        for gap in self.gaps.iter().take(ROWS_MAX) {
            let line = plain(&gap_line(gap));
            writeln!(out, "{}", paint.text(Look::Bad, &line))?;
        }
        table(out, paint, "type", sorted(&self.types))?;
        table(out, paint, "domain", sorted(&self.domains))?;
        let jobs = self.jobs.iter().map(|(job, (name, tally))| {
            let name = name.as_deref().unwrap_or("-");
            (format!("{job} of {name}"), *tally)
        });
        let mut jobs: Vec<(String, Tally)> = jobs.collect();
        if self.other_jobs.records > 0 {
            jobs.push(("others".to_owned(), self.other_jobs));
        }
        jobs.sort_by(by_bytes);
        table(out, paint, "job", jobs)?;
        self.durations(out, paint)
    }

    fn durations(&self, out: &mut impl Write, paint: Paint) -> Result<(), ToolError> {
        let rows = self.duration_rows();
        if rows.is_empty() {
            return Ok(());
        }
        let title = format!(
            "{:<20}{:>10}{:>12}{:>12}{:>12}{:>12}",
            "phase", "times", "p50", "p95", "p99", "max"
        );
        writeln!(out, "\n{}", paint.text(Look::Title, &title))?;
        for (name, Durations(times)) in rows {
            let at = |quantile| span(times.value_at_quantile(quantile));
            writeln!(
                out,
                "{name:<20}{:>10}{:>12}{:>12}{:>12}{:>12}",
                times.len(),
                at(0.50),
                at(0.95),
                at(0.99),
                span(times.max())
            )?;
        }
        Ok(())
    }

    fn duration_rows(&self) -> Vec<(&'static str, &Durations)> {
        let phases = Phase::ALL.iter();
        let phases = phases.filter_map(|phase| Some((phase.name(), self.phases.get(phase)?)));
        phases
            .chain(self.whole.iter().map(|whole| ("whole job", whole)))
            .collect()
    }

    fn json(&self) -> Value {
        let named = |tallies: &HashMap<String, Tally>| {
            let rows = tallies
                .iter()
                .map(|(name, tally)| (name.clone(), tally.json()));
            Value::Object(rows.collect())
        };
        let mut jobs: Vec<_> = self.jobs.iter().collect();
        jobs.sort_by_key(|(job, _)| **job);
        let jobs = jobs.into_iter().map(|(job, (name, tally))| {
            let mut value = tally.json();
            value["job"] = json!(job);
            value["name"] = json!(name);
            value
        });
        let durations = self
            .duration_rows()
            .into_iter()
            .map(|(name, Durations(times))| {
                let at = |quantile| times.value_at_quantile(quantile);
                let value = json!({
                    "times": times.len(),
                    "p50": at(0.50),
                    "p95": at(0.95),
                    "p99": at(0.99),
                    "max": times.max(),
                });
                (name.to_owned(), value)
            });
        json!({
            "total": self.total.json(),
            "written": self.written,
            "types": named(&self.types),
            "domains": named(&self.domains),
            "jobs": jobs.collect::<Vec<_>>(),
            "other-jobs": self.other_jobs.json(),
            "gaps": self.gaps.iter().map(gap_json).collect::<Vec<_>>(),
            "microseconds": Value::Object(durations.collect()),
        })
    }
}

fn by_bytes(one: &(String, Tally), other: &(String, Tally)) -> std::cmp::Ordering {
    let by_size = other.1.bytes.cmp(&one.1.bytes);
    by_size.then_with(|| one.0.cmp(&other.0))
}

fn sorted(tallies: &HashMap<String, Tally>) -> Vec<(String, Tally)> {
    let rows = tallies.iter().map(|(name, tally)| (name.clone(), *tally));
    let mut rows: Vec<(String, Tally)> = rows.collect();
    rows.sort_by(by_bytes);
    rows
}

fn table(
    out: &mut impl Write,
    paint: Paint,
    what: &str,
    rows: Vec<(String, Tally)>,
) -> Result<(), ToolError> {
    if rows.is_empty() {
        return Ok(());
    }
    let title = format!("{what:<32}{:>12}{:>12}{:>12}", "records", "bytes", "syncs");
    writeln!(out, "\n{}", paint.text(Look::Title, &title))?;
    let more = rows.len().saturating_sub(ROWS_MAX);
    for (name, tally) in rows.into_iter().take(ROWS_MAX) {
        writeln!(
            out,
            "{:<32}{:>12}{:>12}{:>12}",
            plain(&name),
            tally.records,
            size(tally.bytes),
            tally.syncs
        )?;
    }
    if more > 0 {
        writeln!(out, "... and {more} more; --json tells of all")?;
    }
    Ok(())
}

/// Microseconds for people.
fn span(microseconds: u64) -> String {
    match microseconds {
        0..1_000 => format!("{microseconds} us"),
        1_000..1_000_000 => format!("{}.{} ms", microseconds / 1_000, microseconds / 100 % 10),
        1_000_000..60_000_000 => {
            format!(
                "{}.{} s",
                microseconds / 1_000_000,
                microseconds / 100_000 % 10
            )
        }
        60_000_000..3_600_000_000 => {
            format!(
                "{} min {} s",
                microseconds / 60_000_000,
                microseconds / 1_000_000 % 60
            )
        }
        _ => format!(
            "{} h {} min",
            microseconds / 3_600_000_000,
            microseconds / 60_000_000 % 60
        ),
    }
}
