//! `phase-journal inspect`: a journal on one screen.
//!
//! Invariant: shows what one pass over the journal finds, and nothing twice.
//! Not here: the looking (`examine`), what recovery would do (`outlook`), every what-if (`explain`).

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use journal_format::record::{Decision, EffectStanding, Facts, JobKind, JobState};
use phase_journal::engine::{OpenJob, Rule};
use serde_json::{Value, json};

use crate::error::{Found, ToolError};
use crate::examine::{Examined, examine};
use crate::merge;
use crate::outlook::Outlook;
use crate::terminal::{Look, Paint};
use crate::text::{count, json_line, plain, size, time};
use crate::verify::{damage_lines, unknown, whole_verdict};

/// Lines of one kind that fit on the screen; of more there is only the number.
const LINES_MAX: usize = 20;

/// What to look into.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  phase-journal inspect /var/lib/phase-journal
  phase-journal inspect host-a/journal host-b/journal
  phase-journal inspect 0000000000000042.seg --json

What recovery would do is the engine's own rule for a QEMU and another side of which nothing is known yet; the lines \
below it say what else it may come to, and on what that depends.

Exit codes: 0 nothing to be said of; 1 a torn tail, or a job is open; 2 damage, or a promise that was broken; 3 could \
not be read.")]
pub(crate) struct InspectArgs {
    /// The journal's directory, or a segment file
    #[arg(value_name = "JOURNAL", required = true)]
    journals: Vec<PathBuf>,
}

/// Shows what journals are, and how things stand in them.
pub(crate) fn run(
    args: &InspectArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    let mut found = Found::Nothing;
    let mut values = Vec::new();
    let paint = Paint::of_stdout();
    let labels = merge::labels(&args.journals);
    for (index, (journal, label)) in args.journals.iter().zip(labels).enumerate() {
        let examined = examine(journal, |_, _| {})?;
        let jobs = examined.auditor.told().open_jobs();
        found = found.max(examined.found());
        let has_others = examined.auditor.told().other_jobs().next().is_some();
        if !jobs.is_empty() || has_others {
            found = found.max(Found::Something);
        }
        if json {
            values.push(as_json(&examined, &jobs));
            continue;
        }
        if let Some(label) = label {
            let gap = if index > 0 { "\n" } else { "" };
            let title = format!("== {}", label.trim_end());
            writeln!(out, "{gap}{}", paint.text(Look::Title, &title))?;
        }
        as_text(&examined, &jobs, paint, out)?;
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

fn as_text(
    examined: &Examined,
    jobs: &[OpenJob],
    paint: Paint,
    out: &mut impl Write,
) -> Result<(), ToolError> {
    let report = &examined.report;
    let or_unknown = |id: Option<String>| id.unwrap_or_else(|| "unknown".to_owned());
    let journal = or_unknown(report.journal.map(|id| id.to_string()));
    writeln!(out, "journal   {journal}")?;
    writeln!(
        out,
        "host      {}",
        or_unknown(report.host.map(|id| id.to_string()))
    )?;
    if let Some(last) = examined.openings.last() {
        writeln!(
            out,
            "opened    {}, the last in epoch {} at lsn {}; {}",
            count_times(examined.openings.len()),
            last.epoch,
            last.first,
            count(examined.boots.len() as u64, "boot")
        )?;
    }
    writeln!(out, "segments  {}, {}", report.segments, size(report.bytes))?;
    if let (Some(first), Some(last)) = (report.first, report.last) {
        writeln!(
            out,
            "records   {}, lsn {first} to {last}, in {}",
            report.records,
            count(report.batches, "batch").replace("batchs", "batches")
        )?;
    }
    if let Some((first, last)) = examined.written {
        writeln!(
            out,
            "written   {} to {} UTC, {}",
            time(first),
            time(last),
            span(last.saturating_sub(first))
        )?;
    }
    for ((kind, version), many) in &examined.unknown {
        writeln!(out, "unknown   {}", plain(&unknown(*kind, *version, *many)))?;
    }
    let look = match examined.found() {
        Found::Nothing => Look::Good,
        Found::Something => Look::Doubt,
        Found::Damage | Found::NotRead => Look::Bad,
    };
    writeln!(
        out,
        "integrity {}",
        paint.text(look, &whole_verdict(examined))
    )?;
    let damage = damage_lines(report);
    limited(out, damage.len(), |out, index| {
        writeln!(out, "{}", paint.text(Look::Bad, &plain(&damage[index])))
    })?;
    domains(examined, paint, out)?;
    let kept = examined.auditor.told().kept_migrations() as u64;
    if kept > 0 {
        writeln!(
            out,
            "kept      {}, until the other side is known to know the outcome",
            count(kept, "ended migration")
        )?;
    }
    let told = examined.auditor.told();
    let others: Vec<(String, &JobState)> = told
        .other_jobs()
        .map(|(domain, state)| {
            let mut domains = told.domains();
            let name = domains.find(|(id, _)| *id == domain);
            let name = name.map(|(_, domain)| domain.name.clone());
            (name.unwrap_or_default(), state)
        })
        .collect();
    if examined.found() == Found::NotRead {
        writeln!(out, "\nwhat recovery would do cannot be told")?;
    } else if jobs.is_empty() && others.is_empty() {
        writeln!(
            out,
            "\nno job is open: recovery would have nothing to decide"
        )?;
    }
    limited(out, jobs.len(), |out, index| {
        job_text(&jobs[index], paint, out)
    })?;
    limited(out, others.len(), |out, index| {
        let (name, state) = &others[index];
        other_job_text(name, state, paint, out)
    })
}

fn count_times(openings: usize) -> String {
    match openings {
        1 => "once".to_owned(),
        more => format!("{more} times"),
    }
}

/// Some nanoseconds in words: `3 days 4 h`.
fn span(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{}.{:03} s", seconds, nanoseconds / 1_000_000 % 1000),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{} {hours} h", count(days, "day")),
    }
}

/// As many lines as fit, and how many there are more.
fn limited<W: Write>(
    out: &mut W,
    length: usize,
    mut line: impl FnMut(&mut W, usize) -> std::io::Result<()>,
) -> Result<(), ToolError> {
    (0..length.min(LINES_MAX)).try_for_each(|index| line(out, index))?;
    if length > LINES_MAX {
        writeln!(
            out,
            "... and {} more; --json tells of all",
            length - LINES_MAX
        )?;
    }
    Ok(())
}

fn domains(examined: &Examined, paint: Paint, out: &mut impl Write) -> Result<(), ToolError> {
    let told = examined.auditor.told();
    let all: Vec<_> = told.domains().collect();
    if all.is_empty() {
        writeln!(out, "domains   none")?;
        return Ok(());
    }
    let width = all
        .iter()
        .map(|(_, state)| plain(&state.name).chars().count());
    let width = width.max().unwrap_or(0).clamp(6, 32);
    let title = format!("{:width$}  {:36}  wanted   QEMU  job", "domain", "uuid");
    writeln!(out, "\n{}", paint.text(Look::Title, &title))?;
    limited(out, all.len(), |out, index| {
        let (id, state) = &all[index];
        let process = if state.dead { "dead" } else { "-" };
        let other = || told.other_jobs().find(|(domain, _)| domain == id);
        let job = match (told.open_job_of(*id), &state.last_job) {
            (None, _) if other().is_some() => other().map_or_else(String::new, |(_, open)| {
                format!("{} open in {}", open.job, open.phase)
            }),
            (Some(open), _) => format!("{} open in {}", open.job, open.phase),
            (None, Some(last)) => format!("{} {} {}", last.job, last.kind, last.result),
            (None, None) => "-".to_owned(),
        };
        let damaged = if state.damaged {
            ", records may be damaged"
        } else {
            ""
        };
        let name = plain(&state.name);
        let wanted = state.wanted.name();
        writeln!(
            out,
            "{name:width$}  {id}  {wanted:<7}  {process:<4}  {job}{damaged}"
        )
    })
}

fn job_text(job: &OpenJob, paint: Paint, out: &mut impl Write) -> std::io::Result<()> {
    let evidence = &job.evidence;
    let name = match job.name.as_str() {
        "" => format!(
            "{} (its registration is lost: domain-add takes it up)",
            job.domain
        ),
        name => plain(name),
    };
    let facts = facts(&evidence.facts);
    writeln!(
        out,
        "\n{} of {name}: {} {}, {}{facts}",
        paint.text(Look::Title, &format!("job {}", job.job)),
        evidence.protocol,
        evidence.role,
        evidence.phase
    )?;
    writeln!(
        out,
        "  migration {} with {}",
        job.terms.migration,
        plain(&job.terms.peer)
    )?;
    if let Some(command) = &job.in_flight {
        writeln!(
            out,
            "  in flight {}: its result is not recorded",
            command.name()
        )?;
    }
    let outlook = Outlook::of(job);
    writeln!(out, "  recovery  {}", rule_words(outlook.now, paint))?;
    for (decision, rules) in &outlook.possible {
        let names: Vec<&str> = rules.iter().map(|rule| rule.name()).collect();
        writeln!(out, "  or {:<6} {}", decision.name(), names.join(", "))?;
    }
    writeln!(out, "  depends   {}", outlook.depends_on())
}

/// A job that its manager drives.
fn other_job_text(
    name: &str,
    state: &JobState,
    paint: Paint,
    out: &mut impl Write,
) -> std::io::Result<()> {
    writeln!(
        out,
        "\n{} of {}: {}, {}",
        paint.text(Look::Title, &format!("job {}", state.job)),
        plain(name),
        state.kind,
        state.phase
    )?;
    if let Some((_, command)) = &state.in_flight {
        writeln!(
            out,
            "  in flight {}: its result is not recorded",
            plain(command.name())
        )?;
    }
    match (state.other_side, state.kind) {
        (Some(begun), JobKind::MigrationOut) => {
            writeln!(out, "  comes in  at the other side as the job at {begun}")?;
        }
        (Some(granted), _) => writeln!(out, "  granted   by the source's journal at {granted}")?,
        (None, _) => {}
    }
    if !is_migration(state.kind) {
        return writeln!(out, "  depends   on what QEMU shows");
    }
    let facts = state.facts();
    let ends = match state.kind {
        JobKind::MigrationOut => ("sent", "continued here", "ended"),
        _ => ("listened", "continued", "ended"),
    };
    for (what, standing) in [
        (ends.0, facts.stream),
        (ends.1, facts.main),
        (ends.2, facts.end),
    ] {
        let known = match standing {
            EffectStanding::Never => continue,
            EffectStanding::Unknown => "intended, and its result is not recorded",
            EffectStanding::Done => "yes",
        };
        writeln!(out, "  {what:<9} {known}")?;
    }
    let how = match state.recognised {
        true => "by plain commands",
        false => "by phases",
    };
    writeln!(
        out,
        "  depends   on its manager, who drives it {how} and decides, and on what QEMU shows"
    )
}

/// A migration among such jobs is one that its manager drives itself.
fn is_migration(kind: JobKind) -> bool {
    matches!(kind, JobKind::MigrationOut | JobKind::MigrationIn)
}

fn facts(facts: &Facts) -> String {
    let flags = [
        (facts.migrate_intended, "migrate intended"),
        (facts.postcopy, "post-copy"),
        (facts.granted, "granted"),
        (facts.abandoned, "abandoned"),
        (facts.committed, "committed"),
        (facts.started, "started"),
        (facts.aborted, "aborted"),
    ];
    flags
        .into_iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| format!(", {name}"))
        .collect()
}

fn rule_words(rule: Option<Rule>, paint: Paint) -> String {
    match rule {
        None => "goes on by the protocol".to_owned(),
        Some(rule) => {
            let look = match rule.decision() {
                Decision::Hold => Look::Doubt,
                Decision::Kill | Decision::Resume | Decision::Confirm => Look::Title,
            };
            let decision = rule.decision().name().to_uppercase();
            let text = rule.text();
            format!(
                "{} by {}: {}",
                paint.text(look, &decision),
                text.name,
                text.reason
            )
        }
    }
}

fn as_json(examined: &Examined, jobs: &[OpenJob]) -> Value {
    let told = examined.auditor.told();
    let mut value = crate::verify::as_json(&examined.report);
    value["host"] = json!(examined.report.host);
    value["boots"] = json!(examined.boots);
    value["openings"] = json!(examined.openings);
    value["written"] = json!(
        examined
            .written
            .map(|(first, last)| json!({"first": first, "last": last}))
    );
    value["broken-count"] = json!(examined.broken_count);
    value["kept-migrations"] = json!(told.kept_migrations());
    let domains = told.domains().map(|(id, state)| {
        let job = told.open_job_of(id).map(|open| open.job);
        let other = || told.other_jobs().find(|(domain, _)| *domain == id);
        let job = job.or_else(|| other().map(|(_, state)| state.job));
        json!({"uuid": id, "state": state, "open-job": job})
    });
    let others = told.other_jobs().map(|(_, state)| state);
    value["other-jobs"] = json!(others.collect::<Vec<_>>());
    value["domains"] = json!(domains.collect::<Vec<_>>());
    value["open-jobs"] = json!(jobs.iter().map(job_json).collect::<Vec<_>>());
    value
}

fn job_json(job: &OpenJob) -> Value {
    let outlook = Outlook::of(job);
    let rule = |rule: &Rule| json!({"rule": rule.name(), "decision": rule.decision()});
    json!({
        "job": job.job,
        "name": job.name,
        "domain": job.domain,
        "migration": job.terms.migration,
        "peer": job.terms.peer,
        "in-flight": job.in_flight,
        "evidence": job.evidence,
        "recovery": outlook.now.as_ref().map(rule),
        "possible": outlook.possible.values().flatten().map(rule).collect::<Vec<_>>(),
        "depends-on-qemu": outlook.on_qemu,
        "depends-on-peer": outlook.on_peer,
    })
}
