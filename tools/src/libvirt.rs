//! `phase-journal libvirt`: libvirt's domain status files, what libvirt does with them at its next start, and what this
//! engine would.
//!
//! Invariant: reads only; whatever a file holds, the answer is one of the tables' or one clear error.
//! Not here: libvirt's decisions (`table`), the engine's (`phase_journal::engine`).

mod status;
mod table;

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use journal_format::number::{Epoch, Id128, JournalId, MigrationId};
use journal_format::record::{
    Authority, Claim, ClaimSeen, ContIntent, Decision, Evidence, Facts, MigrationStatus, Observed,
    Outcome, PeerAnswer, Phase, Process, Protocol, Role, RunState, StoreAnswer, WantedRunState,
};
use phase_journal::engine::{Rule, decide};
use serde_json::{Value, json};

use crate::error::{Found, ToolError};
use crate::explain::Look;
use crate::explain::otherwise::{Otherwise, otherwise};
use crate::terminal::{self, Paint};
use crate::text::{json_line, plain};
use status::{AsyncJob, State, Status};
use table::{Deed, Would};

/// Largest status file that is read, in bytes; libvirt's are some ten thousand.
const FILE_SIZE_MAX: u64 = 16 * 1024 * 1024;

/// Which files, and what QEMU is supposed to show.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing is in doubt; 1 a domain is, or would be held; 3 a file could not be read."
)]
pub(crate) struct LibvirtArgs {
    /// Status files of libvirt's QEMU driver: /run/libvirt/qemu/NAME.xml, or copies of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// As if QEMU showed this at libvirt's start: dead, or states such as postmigrate,completed (else
    /// everything that makes a difference)
    #[arg(long, value_name = "STATES", value_parser = Look::parse)]
    observe: Option<Look>,
}

/// What is said of one domain.
struct Said {
    status: Status,
    libvirt: Vec<Would>,
    engine: Option<Engine>,
}

/// What this engine decides from as much as libvirt has, and from more.
struct Engine {
    evidence: Evidence,
    rule: Option<Rule>,
    otherwise: Vec<Otherwise>,
}

/// Reads the files and says what would be done.
pub(crate) fn run(
    args: &LibvirtArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    let mut found = Found::Nothing;
    let mut failed: Vec<ToolError> = Vec::new();
    let mut all = Vec::new();
    for path in &args.files {
        let said = match read(path).and_then(|text| say(path, &text, args.observe.as_ref())) {
            Ok(said) => said,
            Err(error) => {
                failed.push(error);
                continue;
            }
        };
        if said.is_in_doubt() {
            found = Found::Something;
        }
        if json {
            all.push(said.json(path));
        } else {
            said.text(out)?;
        }
    }
    if json {
        writeln!(out, "{}", json_line(&Value::Array(all)))?;
    }
    out.flush()?;
    let count = failed.len();
    match failed.pop() {
        None => Ok(found),
        Some(error) if args.files.len() == 1 => Err(error),
        Some(last) => {
            for error in failed.iter().chain([&last]) {
                let error = plain(&error.to_string());
                drop(writeln!(io::stderr(), "phase-journal: {error}"));
            }
            let of = args.files.len();
            Err(ToolError::Argument(format!(
                "{count} of {of} files could not be used"
            )))
        }
    }
}

fn read(path: &Path) -> Result<String, ToolError> {
    let failed = |source| ToolError::File {
        path: path.to_owned(),
        source,
    };
    // Opening a FIFO would wait for somebody to write to it.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_SIZE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > FILE_SIZE_MAX {
        let why = format!("longer than {FILE_SIZE_MAX} bytes: no status file of libvirt's");
        return Err(failed(io::Error::other(why)));
    }
    Ok(text)
}

fn say(path: &Path, text: &str, look: Option<&Look>) -> Result<Said, ToolError> {
    let status = status::parse(text).map_err(|why| ToolError::File {
        path: path.to_owned(),
        source: io::Error::other(why),
    })?;
    let shown = look
        .map(|look| look.observed(None, ClaimSeen::Absent))
        .unwrap_or_default();
    let libvirt = table::at_start(&status, shown.as_ref());
    let engine = evidence(&status, shown).map(|evidence| Engine {
        rule: decide(&evidence),
        // What else QEMU might show is libvirt's question too; who is asked besides is the difference.
        otherwise: otherwise(&evidence, None)
            .into_iter()
            .filter(|other| look.is_none() || other.of == "peer")
            .collect(),
        evidence,
    });
    Ok(Said {
        status,
        libvirt,
        engine,
    })
}

/// The evidence that this engine would have after a restart, had its journal the same phase.
fn evidence(status: &Status, shown: Option<Observed>) -> Option<Evidence> {
    let (role, phase) = match (status.async_job, status.phase?) {
        (AsyncJob::MigrationOut, phase) => (Role::Source, phase),
        (AsyncJob::MigrationIn, phase) => (Role::Destination, phase),
        (
            AsyncJob::None
            | AsyncJob::Save
            | AsyncJob::Dump
            | AsyncJob::Snapshot
            | AsyncJob::Start
            | AsyncJob::Backup,
            _,
        ) => return None,
    };
    let protocol = match phase {
        Phase::Perform2 | Phase::Finish2 => Protocol::V2,
        Phase::Begin3
        | Phase::Perform3
        | Phase::Perform3Done
        | Phase::Confirm3
        | Phase::Confirm3Cancelled
        | Phase::Prepare
        | Phase::Finish3
        | Phase::PostcopyFailed
        | Phase::BeginResume
        | Phase::PerformResume
        | Phase::ConfirmResume
        | Phase::PrepareResume
        | Phase::FinishResume => Protocol::V3,
    };
    let facts = facts(role, phase, status.is_postcopy());
    let nil = Id128::NIL;
    let claim = Claim {
        journal: JournalId(nil),
        epoch: Epoch::FIRST,
        migration: MigrationId(nil),
        role,
    };
    let observed = shown.unwrap_or_else(|| usual(status, role, phase));
    let claimed = match observed.process {
        Process::Alive => ClaimSeen::Present(claim),
        Process::Mute | Process::Dead | Process::OtherInstance => ClaimSeen::Unread,
    };
    Some(Evidence {
        role,
        protocol,
        phase,
        facts,
        observed: Observed {
            claim: claimed,
            ..observed
        },
        claim: Some(claim),
        peer: PeerAnswer::NotAsked,
        watched: false,
        authority: match protocol {
            Protocol::V2 => Authority::Source,
            Protocol::V3 => Authority::Destination,
        },
        store: StoreAnswer::NotRead,
        overdue: false,
        source_touched: false,
        recovering: true,
        journal_damaged: false,
        wanted: WantedRunState::Running,
    })
}

/// What this engine's journal would have by then.
fn facts(role: Role, phase: Phase, postcopy: bool) -> Facts {
    let mut facts = Facts {
        migrate_intended: false,
        postcopy,
        granted: false,
        abandoned: false,
        committed: false,
        started: false,
        aborted: false,
        proposed: false,
        verdict: None,
        outcome: None,
        cont: ContIntent::Never,
    };
    match (role, phase) {
        (Role::Source, Phase::Perform2 | Phase::Perform3) => facts.migrate_intended = true,
        (Role::Source, Phase::Perform3Done) => {
            (facts.migrate_intended, facts.granted) = (true, true);
        }
        (Role::Source, Phase::Confirm3 | Phase::ConfirmResume) => {
            (facts.migrate_intended, facts.granted) = (true, true);
            facts.outcome = Some(Outcome::Committed);
        }
        (Role::Source, Phase::Confirm3Cancelled) => {
            (facts.migrate_intended, facts.granted) = (true, true);
            facts.outcome = Some(Outcome::Aborted);
        }
        (Role::Source, Phase::PostcopyFailed | Phase::BeginResume | Phase::PerformResume) => {
            (facts.migrate_intended, facts.granted, facts.postcopy) = (true, true, true);
            facts.outcome = Some(Outcome::Committed);
        }
        (Role::Destination, Phase::Finish2 | Phase::Finish3) => {
            facts.committed = true;
            facts.cont = ContIntent::Unknown;
        }
        (Role::Destination, Phase::PostcopyFailed | Phase::PrepareResume | Phase::FinishResume) => {
            (facts.committed, facts.started, facts.postcopy) = (true, true, true);
            facts.cont = ContIntent::Done;
        }
        // Nothing is durable yet, or the phase is the other side's.
        (
            Role::Source,
            Phase::Begin3
            | Phase::Prepare
            | Phase::Finish2
            | Phase::Finish3
            | Phase::PrepareResume
            | Phase::FinishResume,
        )
        | (
            Role::Destination,
            Phase::Prepare
            | Phase::Begin3
            | Phase::Perform2
            | Phase::Perform3
            | Phase::Perform3Done
            | Phase::Confirm3
            | Phase::Confirm3Cancelled
            | Phase::BeginResume
            | Phase::PerformResume
            | Phase::ConfirmResume,
        ) => {}
    }
    facts
}

/// What QEMU shows in that phase if nothing went wrong but libvirt.
fn usual(status: &Status, role: Role, phase: Phase) -> Observed {
    let (run_state, migration) = match (role, phase) {
        (
            _,
            Phase::PostcopyFailed
            | Phase::BeginResume
            | Phase::PerformResume
            | Phase::PrepareResume,
        ) => {
            let run = if role == Role::Source {
                RunState::Postmigrate
            } else {
                RunState::Running
            };
            (run, MigrationStatus::PostcopyPaused)
        }
        (Role::Source, Phase::Begin3) => (RunState::Running, MigrationStatus::None),
        (Role::Source, Phase::Perform2 | Phase::Perform3) if status.state == State::Running => {
            (RunState::Running, MigrationStatus::Active)
        }
        (Role::Source, Phase::Perform2 | Phase::Perform3) => {
            (RunState::FinishMigrate, MigrationStatus::PreSwitchover)
        }
        (Role::Source, _) if status.is_postcopy() => {
            (RunState::Postmigrate, MigrationStatus::PostcopyActive)
        }
        (Role::Source, _) => (RunState::Postmigrate, MigrationStatus::Completed),
        (Role::Destination, Phase::Prepare) => (RunState::Inmigrate, MigrationStatus::Active),
        (Role::Destination, _) if status.state == State::Running => {
            (RunState::Running, MigrationStatus::Completed)
        }
        (Role::Destination, _) => (RunState::Paused, MigrationStatus::Completed),
    };
    Observed {
        process: Process::Alive,
        instance: None,
        run_state: Some(run_state),
        migration: Some(migration),
        claim: ClaimSeen::Absent,
    }
}

impl Said {
    fn is_in_doubt(&self) -> bool {
        let engine = self.engine.as_ref().and_then(|engine| engine.rule);
        self.libvirt
            .iter()
            .any(|would| would.deed == Deed::Undecided)
            || engine.is_some_and(|rule| rule.decision() == Decision::Hold)
    }

    fn text(&self, out: &mut impl Write) -> Result<(), ToolError> {
        let status = &self.status;
        let uuid = status.uuid.as_deref().unwrap_or("no uuid");
        let pid = status
            .pid
            .map_or("no pid".to_owned(), |pid| format!("pid {pid}"));
        let title = format!(
            "{} ({}, {pid}): {}",
            plain(&status.name),
            plain(uuid),
            plain(&status.said())
        );
        let look = match self.is_in_doubt() {
            true => terminal::Look::Doubt,
            false => terminal::Look::Title,
        };
        writeln!(out, "{}", Paint::of_stdout().text(look, &title))?;
        for (number, would) in self.libvirt.iter().enumerate() {
            let label = if number == 0 { "libvirt" } else { "" };
            writeln!(out, "  {label:<9} {}", would.text())?;
        }
        match &self.engine {
            None => writeln!(out, "  engine    {}", nothing(status.async_job))?,
            Some(engine) => engine.text(out)?,
        }
        writeln!(out)?;
        Ok(())
    }

    fn json(&self, path: &Path) -> Value {
        let status = &self.status;
        let engine = self.engine.as_ref().map(|engine| {
            json!({
                "rule": engine.rule.map(Rule::name),
                "decision": engine.rule.map(Rule::decision),
                "reason": engine.rule.map(|rule| rule.text().reason),
                "settled-by": engine.rule.map(|rule| rule.text().settled_by),
                "observed": engine.evidence.observed,
                "otherwise": engine.otherwise.iter().map(Otherwise::json).collect::<Vec<_>>(),
            })
        });
        json!({
            // A path need not be text.
            "file": path.to_string_lossy(),
            "name": status.name,
            "uuid": status.uuid,
            "pid": status.pid,
            "state": status.state.name(),
            "reason": status.reason,
            "job": status.job,
            "async": status.async_job.name(),
            "phase": status.phase,
            "libvirt": self.libvirt.iter().map(Would::json).collect::<Vec<_>>(),
            "engine": engine,
        })
    }
}

/// Why this engine has no rule for a job.
const fn nothing(job: AsyncJob) -> &'static str {
    match job {
        AsyncJob::None => "nothing to decide: no job of a kind that it journals is open",
        AsyncJob::MigrationOut | AsyncJob::MigrationIn => {
            "nothing to decide: the migration is in no phase"
        }
        AsyncJob::Save
        | AsyncJob::Dump
        | AsyncJob::Snapshot
        | AsyncJob::Start
        | AsyncJob::Backup => {
            "it decides about migrations: for another job it has no rule, and does nothing"
        }
    }
}

impl Engine {
    fn text(&self, out: &mut impl Write) -> Result<(), ToolError> {
        let observed = &self.evidence.observed;
        let shows = match (&observed.run_state, &observed.migration) {
            (Some(run), Some(status)) => format!("{run}, migration {status}"),
            (Some(run), None) => run.to_string(),
            (None, Some(status)) => format!("migration {status}"),
            (None, None) => observed.process.to_string(),
        };
        match self.rule {
            None => writeln!(out, "  engine    with QEMU {shows}: nothing to decide")?,
            Some(rule) => {
                writeln!(
                    out,
                    "  engine    with QEMU {shows}, the other side not heard yet: {} by {}",
                    rule.decision().name().to_uppercase(),
                    rule.name()
                )?;
                writeln!(out, "  because   {}", rule.text().reason)?;
                if !rule.text().settled_by.is_empty() {
                    writeln!(out, "  settled   by {}", rule.text().settled_by)?;
                }
            }
        }
        for other in &self.otherwise {
            writeln!(out, "  otherwise {}", other.text())?;
        }
        Ok(())
    }
}
