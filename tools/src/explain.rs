//! `phase-journal explain`: every decision, with all that led to it, made again.
//!
//! Invariant (P7): what is shown comes from the journal alone; the rule is found again by the very
//! code that decides, from the recorded evidence.

pub(crate) mod otherwise;
mod whatif;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use journal_format::number::{DomainId, Id128, Lsn};
use journal_format::record::{
    Decided, Decision, Decoded, JobDecided, MigrationHistories, OperatorResolved, RecordBody,
    StoreAnswer,
};
use phase_journal::engine::{Rule, decide_job, disagreement};
use phase_journal::journal::read::{Ending, Gap};
use phase_journal::journal::verify::is_of_another_version;
use serde_json::{Value, json};

use crate::error::{Found, ToolError};
use crate::past::{Item, Past, Recorded};
use crate::terminal::{self, Paint};
use crate::text::{json_line, plain, time};
use crate::words;
use otherwise::{otherwise, rule};
use whatif::{Restart, Supposed, Word};

pub(crate) use whatif::Look;

/// What to explain.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The journal's directory
    directory: PathBuf,
    /// Only this domain (name or UUID)
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Only this job (the LSN of its first record)
    #[arg(long, value_name = "LSN")]
    job: Option<u64>,
    /// As if the sidecar had crashed after this record, and its host's QEMUs had not
    #[arg(long, value_name = "LSN")]
    at: Option<u64>,
    /// As if QEMU showed this after a restart: dead, mute, or states such as postmigrate,completed
    /// (else as it was last seen)
    #[arg(long, value_name = "STATES", value_parser = Look::parse)]
    observe: Option<Look>,
    /// As if the other side said this: committed, aborted, undecided, unreachable, amnesia, or any of the
    /// engine's words (else it is not heard)
    #[arg(long, value_name = "WORD", value_parser = Word::parse)]
    peer: Option<Word>,
    /// As if the key in the store said this, where a store is the authority (else it is not read)
    #[arg(long, value_name = "WORD", value_parser = store_word)]
    store: Option<StoreAnswer>,
}

fn store_word(text: &str) -> Result<StoreAnswer, String> {
    StoreAnswer::from_name(text).ok_or_else(|| {
        let words: Vec<&str> = StoreAnswer::ALL.iter().map(|word| word.name()).collect();
        format!(
            "the key in the store never says '{text}'; it says {}",
            words.join(", ")
        )
    })
}

impl ExplainArgs {
    fn asked(&self) -> Asked<'_> {
        Asked {
            domain: self.domain.as_deref(),
            job: self.job.map(Lsn),
        }
    }

    /// What is supposed, if anything is.
    fn supposed(&self) -> Option<Supposed> {
        let any = self.at.is_some()
            || self.observe.is_some()
            || self.peer.is_some()
            || self.store.is_some();
        any.then(|| Supposed {
            at: self.at.map(Lsn),
            look: self.observe.clone().unwrap_or_default(),
            word: self.peer,
            store: self.store,
        })
    }
}

/// Records of open jobs that are kept for citing, at the most.
const CITED_MAX: usize = 100_000;

/// Whose decisions are asked for.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    /// A name or a UUID.
    domain: Option<&'a str>,
    job: Option<Lsn>,
}

impl Asked<'_> {
    fn is(&self, job: Lsn, domain: Option<DomainId>, name: Option<&str>) -> bool {
        let is_of = |wanted: &str| {
            name == Some(wanted) || domain.is_some() && Id128::parse(wanted).map(DomainId) == domain
        };
        self.job.is_none_or(|wanted| wanted == job) && self.domain.is_none_or(is_of)
    }

    /// What is to be said if no record is of it.
    fn not_found(&self) -> Option<ToolError> {
        let why = match (self.job, self.domain) {
            (None, None) => return None,
            (None, Some(domain)) => format!("the journal has no job of a domain '{domain}'"),
            (Some(job), None) => format!("there is no job {job} in the journal"),
            (Some(job), Some(domain)) => {
                format!("there is no job {job} of a domain '{domain}' in the journal")
            }
        };
        Some(ToolError::Argument(why))
    }
}

/// Records that a decision may cite: those of each domain's newest job, until it ends.
#[derive(Debug)]
struct Citable {
    of: HashMap<Option<DomainId>, BTreeMap<Lsn, Recorded>>,
    count: usize,
    most: usize,
}

impl Citable {
    fn new(most: usize) -> Citable {
        Citable {
            of: HashMap::new(),
            count: 0,
            most,
        }
    }

    /// All of them.
    fn into_records(self) -> BTreeMap<Lsn, Recorded> {
        self.of.into_values().flatten().collect()
    }

    /// A record of a domain.
    fn record(&self, domain: Option<DomainId>, lsn: Lsn) -> Option<&Recorded> {
        self.of.get(&domain)?.get(&lsn)
    }

    /// Takes a record in, if it is of a job. Nothing is decided any more about a job that ended, nor about the
    /// one before a domain's next.
    fn see(&mut self, recorded: &Recorded) {
        let (Decoded::Known(record), Some(job)) = (&recorded.record, recorded.job) else {
            return;
        };
        let known = self.of.entry(record.domain).or_default();
        let before = known.len();
        if self.count < self.most {
            known.insert(record.lsn, recorded.clone());
        }
        match &record.body {
            RecordBody::JobBegun(_) => known.retain(|_, known| known.job == Some(job)),
            RecordBody::JobEnded(_) => known.retain(|_, known| known.job != Some(job)),
            _ => {}
        }
        self.count = self.count + known.len() - before;
        if known.is_empty() {
            self.of.remove(&record.domain);
        }
    }
}

/// A decision and what is said about it.
struct Explained {
    at: Recorded,
    made: Made,
    cited: Vec<Recorded>,
    /// For an operator's word.
    resolved: Option<OperatorResolved>,
}

/// A decision as it is recorded.
enum Made {
    /// About a migration.
    Migration(Decided),
    /// About another job.
    Job(JobDecided),
}

impl Made {
    fn rule(&self) -> &str {
        match self {
            Made::Migration(decided) => &decided.rule,
            Made::Job(decided) => &decided.rule,
        }
    }

    fn job(&self) -> Lsn {
        match self {
            Made::Migration(decided) => decided.job,
            Made::Job(decided) => decided.job,
        }
    }

    fn decision(&self) -> Decision {
        match self {
            Made::Migration(decided) => decided.decision,
            Made::Job(decided) => decided.decision,
        }
    }

    fn based_on(&self) -> &[Lsn] {
        match self {
            Made::Migration(decided) => &decided.based_on,
            Made::Job(decided) => &decided.based_on,
        }
    }
}

/// A decision as it would have been.
struct Would<'a> {
    job: &'a whatif::Job,
    decided: &'a Decided,
    histories: Option<&'a MigrationHistories>,
    cited: Vec<&'a Recorded>,
}

/// How the recorded rule compares with the one found again.
enum Again {
    Same,
    /// An operator's word follows from no table.
    Operator,
    /// The rule is of another version of the table.
    Unknown,
    Other(Option<Rule>),
}

impl Explained {
    /// What damaged records may have said, if the decision was made over some.
    fn histories(&self) -> Option<&MigrationHistories> {
        match &self.made {
            Made::Migration(decided) if decided.evidence.journal_damaged => {}
            Made::Migration(_) | Made::Job(_) => return None,
        }
        self.cited
            .iter()
            .rev()
            .find_map(|cited| match &cited.record {
                Decoded::Known(record) => match &record.body {
                    RecordBody::MigrationHistories(restated) => Some(restated),
                    _ => None,
                },
                Decoded::Unknown { .. } => None,
            })
    }

    fn again(&self) -> Again {
        match Rule::from_name(self.made.rule()) {
            None => Again::Unknown,
            Some(Rule::OperatorResolved) => Again::Operator,
            recorded => {
                let found = match &self.made {
                    Made::Migration(decided) => rule(&decided.evidence, self.histories()),
                    Made::Job(decided) => decide_job(&decided.evidence),
                };
                if found == recorded {
                    Again::Same
                } else {
                    Again::Other(found)
                }
            }
        }
    }
}

/// Explains decisions.
pub(crate) fn run(
    args: &ExplainArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    if let Some(supposed) = args.supposed() {
        return suppose(args, &supposed, json, out);
    }
    let paint = Paint::of_stdout();
    // Decisions are shown as they come: a long journal has more than should be kept.
    let (mut decisions, mut reproduced) = (0_u64, true);
    let Read {
        open,
        gaps,
        ending,
        is_not_read,
    } = read(args, |one| {
        reproduced &= matches!(one.again(), Again::Same | Again::Operator);
        decisions += 1;
        if json {
            let before = if decisions == 1 { DECISIONS } else { "," };
            write!(out, "{before}{}", json_line(&as_json(one)))?;
            return Ok(());
        }
        as_text(one, paint, out)
    })?;
    if json {
        let open: Vec<Value> = open
            .iter()
            .map(|(job, last)| open_json(*job, last))
            .collect();
        let gaps: Vec<Value> = gaps.iter().map(words::gap_json).collect();
        let before = if decisions == 0 { DECISIONS } else { "" };
        let (gaps, open) = (json_line(&json!(gaps)), json_line(&json!(open)));
        writeln!(out, "{before}],\"gaps\":{gaps},\"open-jobs\":{open}}}")?;
    } else {
        if decisions == 0 {
            let none = match gaps.is_empty() {
                true => "no decision is recorded",
                false => "no decision is recorded in what can be read",
            };
            writeln!(out, "{none}")?;
        }
        for gap in &gaps {
            writeln!(
                out,
                "{}",
                paint.text(terminal::Look::Bad, &words::gap_line(gap))
            )?;
        }
        for (job, last) in &open {
            let name = plain(last.name.as_deref().unwrap_or("-"));
            let line = format!("job {job} of {name} is open; its last record:");
            writeln!(out, "{}", paint.text(terminal::Look::Doubt, &line))?;
            writeln!(out, "  {}", words::line(last))?;
            writeln!(
                out,
                "  what follows depends on what QEMU shows and the other side says: suppose it with --observe and --peer"
            )?;
        }
    }
    let is_damaged = !gaps.is_empty() || ending == Ending::Damaged;
    Ok(if is_not_read {
        Found::NotRead
    } else if is_damaged || !reproduced {
        Found::Damage
    } else if !open.is_empty() {
        Found::Something
    } else {
        Found::Nothing
    })
}

/// What stands before the decisions in JSON.
const DECISIONS: &str = "{\"decisions\":[";

/// What a journal has to be explained, beside its decisions.
struct Read {
    /// Open jobs, each with its last record.
    open: BTreeMap<Lsn, Recorded>,
    /// What is missing may have held a decision.
    gaps: Vec<Gap>,
    ending: Ending,
    /// All of it is of another version of the format.
    is_not_read: bool,
}

/// Hands the decisions that are asked for to `each`.
fn read(
    args: &ExplainArgs,
    mut each: impl FnMut(&Explained) -> Result<(), ToolError>,
) -> Result<Read, ToolError> {
    let asked = args.asked();
    let mut gaps = Vec::new();
    let mut open: BTreeMap<Lsn, Recorded> = BTreeMap::new();
    let mut citable = Citable::new(CITED_MAX);
    let mut is_known = false;
    let mut resolved: Option<OperatorResolved> = None;
    // What is read is printed meanwhile.
    let past = Past::open(&args.directory)?.silent();
    let is_not_read = is_of_another_version(past.segments());
    let ending = past.read(|item| {
        let recorded = match item {
            Item::Record(recorded) => recorded,
            Item::Batch(..) => return Ok(()),
            Item::Gap(gap) => {
                gaps.push(gap);
                return Ok(());
            }
        };
        let (Decoded::Known(record), Some(job)) = (&recorded.record, recorded.job) else {
            return Ok(());
        };
        if !asked.is(job, record.domain, recorded.name.as_deref()) {
            return Ok(());
        }
        is_known = true;
        citable.see(&recorded);
        match &record.body {
            RecordBody::JobBegun(_) => drop(open.insert(job, (*recorded).clone())),
            RecordBody::MigrationState(state) if state.open => {
                open.insert(job, (*recorded).clone());
            }
            RecordBody::JobState(_) => drop(open.insert(job, (*recorded).clone())),
            RecordBody::JobEnded(_) => drop(open.remove(&job)),
            RecordBody::OperatorResolved(word) => resolved = Some(word.clone()),
            RecordBody::Decided(_) | RecordBody::JobDecided(_) => {
                let Some(made) = made(&record.body) else {
                    return Ok(());
                };
                let based_on = made.based_on().iter();
                let cited = based_on.filter_map(|lsn| citable.record(record.domain, *lsn));
                let cited = cited.cloned().collect();
                each(&Explained {
                    at: (*recorded).clone(),
                    made,
                    cited,
                    resolved: resolved.take(),
                })?;
            }
            _ => {
                if let Some(last) = open.get_mut(&job) {
                    *last = (*recorded).clone();
                }
            }
        }
        Ok(())
    })?;
    if let Some(error) = asked.not_found().filter(|_| !is_known) {
        return Err(error);
    }
    Ok(Read {
        open,
        gaps,
        ending,
        is_not_read,
    })
}

/// The decision that a record is, if it is one.
fn made(body: &RecordBody) -> Option<Made> {
    match body {
        RecordBody::Decided(decided) => Some(Made::Migration((**decided).clone())),
        RecordBody::JobDecided(decided) => Some(Made::Job((**decided).clone())),
        _ => None,
    }
}

fn as_text(one: &Explained, paint: Paint, out: &mut impl Write) -> Result<(), ToolError> {
    let made = &one.made;
    let name = plain(one.at.name.as_deref().unwrap_or("-"));
    let title = format!(
        "{} {name} (job {}, record {}, {} UTC)",
        made.decision().name().to_uppercase(),
        made.job(),
        one.at.record.lsn(),
        time(one.at.batch.wall)
    );
    writeln!(out, "{}", paint.text(look_of(made.decision()), &title))?;
    writeln!(out, "  rule      {}", plain(made.rule()))?;
    writeln!(out, "  because   {}", words::reason(made.rule()))?;
    if let Some(resolved) = &one.resolved {
        writeln!(
            out,
            "  operator  uid {}{}: {}",
            resolved.uid,
            if resolved.force { ", with force" } else { "" },
            plain(&resolved.statement)
        )?;
    }
    let cited: Vec<&Recorded> = one.cited.iter().collect();
    match made {
        Made::Migration(decided) => reasons(decided, one.histories(), &cited, out)?,
        Made::Job(decided) => job_reasons(decided, &cited, out)?,
    }
    let again = match one.again() {
        Again::Same => "reproduced from the evidence".to_owned(),
        Again::Operator => "an operator's word: follows from no rule".to_owned(),
        Again::Unknown => "NOT reproduced: this program has no such rule".to_owned(),
        Again::Other(found) => {
            format!(
                "NOT reproduced: the evidence gives {}",
                found.map_or("no rule", Rule::name)
            )
        }
    };
    let again = match one.again() {
        Again::Same | Again::Operator => again,
        Again::Unknown | Again::Other(_) => paint.text(terminal::Look::Bad, &again),
    };
    writeln!(out, "  again     {again}\n")?;
    Ok(())
}

/// How a decision's title stands out: as in a dump, a hold does more than the others.
fn look_of(decision: Decision) -> terminal::Look {
    match decision {
        Decision::Hold => terminal::Look::Doubt,
        Decision::Kill | Decision::Resume | Decision::Confirm => terminal::Look::Title,
    }
}

/// What a decision rests on, what would settle it, what other evidence would have led to, and what
/// libvirt does.
fn reasons(
    decided: &Decided,
    histories: Option<&MigrationHistories>,
    cited: &[&Recorded],
    out: &mut impl Write,
) -> Result<(), ToolError> {
    for (what, was) in words::evidence(&decided.evidence) {
        writeln!(out, "  {what:<9} {}", plain(&was))?;
    }
    if let Some(restated) = histories {
        let histories = &restated.histories;
        let said = disagreement(&decided.evidence, histories);
        writeln!(out, "  over      {} histories: {said}", histories.len())?;
    }
    for cited in cited {
        writeln!(out, "  record  {}", words::line(cited))?;
    }
    let Some(rule) = Rule::from_name(&decided.rule) else {
        return Ok(());
    };
    let settled_by = rule.text().settled_by;
    if !settled_by.is_empty() {
        writeln!(out, "  settled   by {settled_by}")?;
    }
    // An operator's word does not follow from the evidence.
    if rule != Rule::OperatorResolved {
        for other in otherwise(&decided.evidence, histories) {
            writeln!(out, "  otherwise {}", other.text())?;
        }
    }
    writeln!(out, "  libvirt   {}", rule.text().libvirt)?;
    Ok(())
}

/// The same of a job that is no migration.
fn job_reasons(
    decided: &JobDecided,
    cited: &[&Recorded],
    out: &mut impl Write,
) -> Result<(), ToolError> {
    for (what, was) in words::job_evidence(&decided.evidence) {
        writeln!(out, "  {what:<9} {}", plain(&was))?;
    }
    for cited in cited {
        writeln!(out, "  record  {}", words::line(cited))?;
    }
    if let Some(rule) = Rule::from_name(&decided.rule) {
        let text = rule.text();
        if !text.settled_by.is_empty() {
            writeln!(out, "  settled   by {}", text.settled_by)?;
        }
        writeln!(out, "  libvirt   {}", text.libvirt)?;
    }
    Ok(())
}

/// What a restart would decide with what is supposed.
fn suppose(
    args: &ExplainArgs,
    supposed: &Supposed,
    json: bool,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    let (restart, cited) = whatif::restart(&args.directory, supposed, args.asked())?;
    if json {
        let jobs: Vec<Value> = restart.jobs.iter().map(job_json).collect();
        let all = json!({"last": restart.last, "jobs": jobs});
        writeln!(out, "{}", json_line(&all))?;
    } else {
        supposed_text(&restart, &cited, out)?;
    }
    let is_held = |job: &whatif::Job| job.effect.is_none() && job.ended.is_none();
    let is_in_doubt = restart.jobs.iter().any(is_held);
    Ok(match (restart.damaged, is_in_doubt) {
        (true, _) => Found::Damage,
        (false, true) => Found::Something,
        (false, false) => Found::Nothing,
    })
}

fn supposed_text(
    restart: &Restart,
    cited: &BTreeMap<Lsn, Recorded>,
    out: &mut impl Write,
) -> Result<(), ToolError> {
    writeln!(out, "a restart after record {}:", restart.last)?;
    if restart.jobs.is_empty() {
        writeln!(out, "no job is open: there is nothing to decide")?;
    }
    for job in &restart.jobs {
        let name = plain(&job.name);
        for (decided, histories) in &job.decisions {
            let would = Would {
                job,
                decided,
                histories: histories.as_ref(),
                cited: decided
                    .based_on
                    .iter()
                    .filter_map(|lsn| cited.get(lsn))
                    .collect(),
            };
            would_text(&would, out)?;
        }
        let then = match (&job.effect, &job.ended) {
            (Some(effect), _) => format!("it would send: {}", plain(effect)),
            (None, Some(ended)) => format!("the job would end: {}", plain(ended)),
            (None, None) if job.unseen => {
                "it waits: no look at QEMU is recorded; suppose one with --observe".to_owned()
            }
            (None, None) if job.decisions.is_empty() => {
                "it would decide nothing: the migration goes on".to_owned()
            }
            (None, None) => {
                "it would do nothing more until something else is seen or heard".to_owned()
            }
        };
        writeln!(out, "{name} (job {}): {then}\n", job.job)?;
    }
    Ok(())
}

fn would_text(would: &Would<'_>, out: &mut impl Write) -> Result<(), ToolError> {
    let decided = would.decided;
    let title = format!(
        "{} {} (job {}, supposed)",
        decided.decision.name().to_uppercase(),
        plain(&would.job.name),
        would.job.job
    );
    let paint = Paint::of_stdout();
    writeln!(out, "{}", paint.text(look_of(decided.decision), &title))?;
    writeln!(out, "  rule      {}", plain(&decided.rule))?;
    writeln!(out, "  because   {}", words::reason(&decided.rule))?;
    reasons(decided, would.histories, &would.cited, out)
}

fn job_json(job: &whatif::Job) -> Value {
    let decision = |(decided, histories): &(Decided, Option<MigrationHistories>)| {
        json!({
            "rule": decided.rule,
            "decision": decided.decision,
            "reason": words::reason(&decided.rule),
            "evidence": decided.evidence,
            "based-on": decided.based_on,
            "histories": histories.as_ref().map(|restated| &restated.histories),
            "otherwise": otherwise(&decided.evidence, histories.as_ref())
                .iter()
                .map(otherwise::Otherwise::json)
                .collect::<Vec<_>>(),
        })
    };
    json!({
        "job": job.job,
        "name": job.name,
        "decisions": job.decisions.iter().map(decision).collect::<Vec<_>>(),
        "effect": job.effect,
        "ended": job.ended,
    })
}

fn as_json(one: &Explained) -> Value {
    let made = &one.made;
    let text = Rule::from_name(made.rule()).map(Rule::text);
    let evidence = match made {
        Made::Migration(decided) => json!(decided.evidence),
        Made::Job(decided) => json!(decided.evidence),
    };
    let mut explained = json!({
        "lsn": one.at.record.lsn(),
        "time": one.at.batch.wall,
        "name": one.at.name,
        "job": made.job(),
        "rule": made.rule(),
        "decision": made.decision(),
        "reason": words::reason(made.rule()),
        "settled-by": text.map(|text| text.settled_by),
        "libvirt": text.map(|text| text.libvirt),
        "evidence": evidence,
        "based-on": made.based_on(),
        "resolved": one.resolved,
        "reproduced": matches!(one.again(), Again::Same),
    });
    if let Made::Migration(decided) = made
        && text.is_some()
        && decided.rule != Rule::OperatorResolved.name()
    {
        let otherwise = otherwise(&decided.evidence, one.histories());
        explained["otherwise"] = otherwise.iter().map(otherwise::Otherwise::json).collect();
    }
    if let Some(restated) = one.histories() {
        explained["histories"] = json!(restated.histories);
    }
    explained
}

fn open_json(job: Lsn, last: &Recorded) -> Value {
    json!({"job": job, "name": last.name, "last": last.record.lsn()})
}

#[cfg(test)]
mod tests {
    use journal_format::batch::BatchHeader;
    use journal_format::number::{BootId, Chain, Epoch, SegmentNumber};
    use journal_format::record::{JobBegun, JobEnded, JobKind, JobResult, Record};

    use super::*;

    fn record(lsn: u64, job: u64, body: RecordBody) -> Recorded {
        let batch = BatchHeader {
            segment: SegmentNumber(1),
            offset: 4096,
            first: Lsn(lsn),
            records: 1,
            length: 64,
            epoch: Epoch(1),
            chain: Chain(0),
            boot: BootId(Id128::NIL),
            wall: 0,
            monotonic: 0,
            content: 0,
        };
        let domain = Some(DomainId(Id128::NIL));
        Recorded {
            record: Decoded::Known(Record {
                lsn: Lsn(lsn),
                previous: None,
                domain,
                body,
            }),
            batch,
            offset: 4096,
            size: 64,
            name: None,
            job: Some(Lsn(job)),
            migration: None,
            phase: None,
        }
    }

    /// However many jobs a journal has, the newest one's records are there to be cited.
    #[test]
    fn records_of_jobs_that_are_over_make_room() {
        let mut citable = Citable::new(4);
        for job in (1..100).step_by(5) {
            let begun = RecordBody::JobBegun(Box::new(JobBegun {
                kind: JobKind::Save,
                migration: None,
            }));
            let ended = RecordBody::JobEnded(JobEnded {
                job: Lsn(job),
                result: JobResult::Completed,
                detail: String::new(),
            });
            citable.see(&record(job, job, begun));
            citable.see(&record(job + 1, job, RecordBody::Sealed));
            let kept = citable.of.values().flat_map(BTreeMap::keys);
            let kept: Vec<u64> = kept.map(|lsn| lsn.0).collect();
            assert_eq!(kept, [job, job + 1]);
            citable.see(&record(job + 2, job, ended));
            assert!(citable.of.is_empty());
            assert_eq!(citable.count, 0);
            // What is still heard of it.
            citable.see(&record(job + 3, job, RecordBody::Sealed));
        }
    }
}
