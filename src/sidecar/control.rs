//! The control socket: managers and operators ask, and hear what happens.
//!
//! Invariant: a command is answered once, by the engine's word or one clear error; nothing is
//! decided here. Whoever is neither root nor the sidecar's own user is turned away.
//! Not here: arguments (`arguments`), finding a domain's QEMU (`register`), the journal's history
//! (`history`).

use std::path::{Path, PathBuf};

use journal_format::number::{DomainId, Id128, MigrationId};
use journal_format::record::{Authority, Protocol, WantedRunState};
use serde::Serialize;
use serde_json::{Value, json};

use super::arguments::{
    self, ArgumentError, COMMAND_NAMES, Command, DomainAdd, MigrateDomain, QueryDecisions,
};
use super::history::History;
use super::link::{Answered, Failure, Link, NodeStatus};
use super::progress::ProgressBoard;
use super::proxy::ServedDomains;
use super::register::{RegisterError, Registrar};
use super::serve::version;
use crate::engine::{Answer, ControlRequest, DecisionView, DomainView, JobView, Notice};
use crate::qmp::{Call, CommandError};

/// Everything a control connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) link: Link,
    pub(crate) board: ProgressBoard,
    pub(crate) registrar: Registrar,
    pub(crate) history: History,
    pub(crate) served: ServedDomains,
}

/// An error without a class of its own.
pub(crate) fn generic(error: impl core::fmt::Display) -> CommandError {
    CommandError {
        class: "GenericError",
        description: error.to_string(),
    }
}

impl From<ArgumentError> for CommandError {
    fn from(error: ArgumentError) -> CommandError {
        let class = match &error {
            ArgumentError::UnknownCommand { .. } => "CommandNotFound",
            ArgumentError::NotAnObject { .. }
            | ArgumentError::Missing { .. }
            | ArgumentError::WrongType { .. }
            | ArgumentError::Invalid { .. }
            | ArgumentError::Unknown { .. } => "GenericError",
        };
        CommandError {
            class,
            description: error.to_string(),
        }
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> CommandError {
        generic(failure)
    }
}

/// A job as `query-jobs` shows it: what is durable, and how far it got.
#[derive(Debug, Serialize)]
struct JobWithProgress {
    #[serde(flatten)]
    job: JobView,
    progress: Option<super::observe::Progress>,
}

/// Who answers a command.
enum Asked {
    /// The engine.
    Engine(ControlRequest),
    /// The engine, once the domain's QEMU was found.
    Add(DomainAdd),
    /// The journal's history.
    Decisions(QueryDecisions),
    /// The node.
    Journal,
    /// Nobody: it is always the same.
    Commands,
    /// The same.
    Version,
}

fn asked(command: Command, uid: u32) -> Asked {
    let request = match command {
        Command::QueryCommands => return Asked::Commands,
        Command::QueryVersion => return Asked::Version,
        Command::QueryJournal => return Asked::Journal,
        Command::QueryDecisions(query) => return Asked::Decisions(query),
        Command::DomainAdd(domain) => return Asked::Add(domain),
        Command::QueryJobs { job, name } => ControlRequest::QueryJobs { job, name },
        Command::DomainRemove { name } => ControlRequest::DomainRemove { name },
        Command::DomainSuspend { name } => ControlRequest::DomainSetWanted {
            name,
            wanted: WantedRunState::Paused,
        },
        Command::DomainResume { name } => ControlRequest::DomainSetWanted {
            name,
            wanted: WantedRunState::Running,
        },
        Command::QueryDomains { name } => ControlRequest::QueryDomains { name },
        Command::MigrateDomain(migrate) => migrate_request(migrate),
        Command::JobBegin { name, kind, cookie } => ControlRequest::JobBegin { name, kind, cookie },
        Command::PhaseEnter {
            job,
            phase,
            effects,
            cookie,
            peer_cookie,
        } => ControlRequest::PhaseEnter {
            job,
            phase,
            effects,
            cookie,
            peer_cookie,
        },
        Command::JobEnd { job, result } => ControlRequest::JobEnd { job, result },
        Command::JobCancel { job } => ControlRequest::JobCancel { job },
        Command::MigrateVerdict { target, outcome } => ControlRequest::Verdict {
            target,
            outcome,
            uid,
        },
        Command::Resolve {
            name,
            decision,
            force,
            statement,
        } => ControlRequest::Resolve {
            name,
            decision,
            force,
            statement,
            uid,
        },
    };
    Asked::Engine(request)
}

/// What a command of the control socket asks of the engine; `None` if that is something that the shell
/// has to look up, or answers itself.
///
/// # Errors
/// No such command, or its arguments are wrong: one line that names what is.
pub fn engine_request(
    name: &str,
    arguments: Option<Value>,
    uid: u32,
) -> Result<Option<ControlRequest>, CommandError> {
    Ok(match asked(arguments::parse(name, arguments)?, uid) {
        Asked::Engine(request) => Some(request),
        Asked::Add(_) | Asked::Decisions(_) | Asked::Journal | Asked::Commands | Asked::Version => {
            None
        }
    })
}

impl Control {
    /// Carries out one command.
    ///
    /// # Errors
    /// One error that names what is wrong.
    pub(crate) async fn execute(&self, call: Call) -> Result<Value, CommandError> {
        let command = arguments::parse(&call.name, call.arguments)?;
        let request = match asked(command, call.uid) {
            Asked::Commands => {
                let names = COMMAND_NAMES.iter().map(|name| json!({"name": name}));
                return Ok(Value::Array(names.collect()));
            }
            Asked::Version => return Ok(version()),
            Asked::Journal => return self.query_journal().await,
            Asked::Decisions(query) => {
                let domain = match &query.name {
                    Some(name) => self.domain_id(name).await?,
                    None => None,
                };
                let decisions = self.history.decisions(query, domain).await;
                return decisions.map_err(generic);
            }
            Asked::Add(domain) => self.registrar.find(domain).await.map_err(generic)?,
            Asked::Engine(ControlRequest::DomainRemove { name }) => {
                return self.domain_remove(name).await;
            }
            Asked::Engine(request) => request,
        };
        let is_add = matches!(request, ControlRequest::DomainAdd { .. });
        let Answered { answer, time } = self.link.control(request).await?;
        if let (true, Answer::Domain(domain)) = (is_add, &answer)
            && let Err(why) = self.served.wait(domain.uuid).await
        {
            // Nothing is there to be put back, but it is tried no more.
            drop(self.served.give_back(domain.uuid).await);
            let name = domain.name.clone();
            self.link
                .control(ControlRequest::DomainRemove { name })
                .await?;
            return Err(generic(RegisterError::NotTakenOver { why }));
        }
        Ok(match &answer {
            Answer::Domain(domain) => domain_json(domain),
            Answer::Domains(domains) => domains.iter().map(domain_json).collect(),
            Answer::Decision(decision) => decision_json(decision, time),
            Answer::Jobs(jobs) => self.with_progress(jobs),
            Answer::Done {}
            | Answer::Migrating { .. }
            | Answer::JobBegun { .. }
            | Answer::PhaseEntered { .. } => to_json(&answer),
        })
    }

    /// The identity of the domain of that name, if one is registered now.
    async fn domain_id(&self, name: &str) -> Result<Option<DomainId>, CommandError> {
        let domain = self.domain(name).await?;
        Ok(domain.map(|domain| domain.uuid))
    }

    /// A socket that was taken over is put back before the engine forgets where it is; a life that ends in between takes it
    /// over again.
    async fn domain_remove(&self, name: String) -> Result<Value, CommandError> {
        let idle = self
            .domain(&name)
            .await?
            .filter(|domain| domain.job.is_none());
        if let Some(domain) = &idle
            && let Err(error) = self.served.give_back(domain.uuid).await
        {
            self.served.take_over_again(domain.uuid).await;
            let why = format!("the socket of '{name}' cannot be put back: {error}");
            return Err(generic(why));
        }
        match self
            .link
            .control(ControlRequest::DomainRemove { name })
            .await
        {
            Ok(answered) => Ok(to_json(&answered.answer)),
            Err(failure) => {
                if let Some(domain) = idle {
                    self.served.take_over_again(domain.uuid).await;
                }
                Err(failure.into())
            }
        }
    }

    /// The domain of that name, if one is registered now.
    async fn domain(&self, name: &str) -> Result<Option<DomainView>, CommandError> {
        let request = ControlRequest::QueryDomains { name: None };
        Ok(match self.link.control(request).await?.answer {
            Answer::Domains(domains) => domains.into_iter().find(|domain| domain.name == name),
            Answer::Domain(_)
            | Answer::Decision(_)
            | Answer::Done {}
            | Answer::Jobs(_)
            | Answer::JobBegun { .. }
            | Answer::PhaseEntered { .. }
            | Answer::Migrating { .. } => None,
        })
    }

    async fn query_journal(&self) -> Result<Value, CommandError> {
        let NodeStatus {
            journal: status,
            kept_migrations,
        } = self.link.status().await?;
        Ok(json!({
            "journal": status.journal,
            "host": status.host,
            "epoch": status.opening.epoch,
            "lsn": status.last,
            "directory": status.directory.display().to_string(),
            "segment": status.segment.file_name(),
            "segments": status.segments,
            "spare-segments": status.spares,
            "io": status.io.to_string(),
            "kept-migrations": kept_migrations,
            "poisoned": status.poisoned.as_ref().map(ToString::to_string),
        }))
    }

    /// How far a migration got stands beside what the engine says of its job.
    fn with_progress(&self, jobs: &[JobView]) -> Value {
        let jobs: Vec<JobWithProgress> = jobs
            .iter()
            .map(|job| {
                let is_open = job.result.is_none();
                let progress = is_open.then(|| self.board.get(job.domain)).flatten();
                let job = job.clone();
                JobWithProgress { job, progress }
            })
            .collect();
        to_json(&jobs)
    }
}

/// The name of an event and what it is about; `time` is that of its records.
pub(crate) fn event(notice: &Notice, time: u64) -> (&'static str, Value) {
    match notice {
        Notice::DomainAdded(domain) => ("DOMAIN_ADDED", domain_json(domain)),
        Notice::DomainRemoved(domain) => ("DOMAIN_REMOVED", domain_json(domain)),
        Notice::WantedChanged(domain) => ("WANTED_CHANGED", domain_json(domain)),
        Notice::JobBegun(job) => ("JOB_BEGUN", job_event(job)),
        Notice::PhaseEntered(job) => ("PHASE_ENTERED", job_event(job)),
        Notice::JobEnded(job) => ("JOB_ENDED", job_event(job)),
        Notice::Decision(decision) => ("DECISION", decision_json(decision, time)),
    }
}

fn job_event(job: &JobView) -> Value {
    to_json(&JobWithProgress {
        job: job.clone(),
        progress: None,
    })
}

/// A domain; a process that was not looked at yet is `unknown`.
fn domain_json(domain: &DomainView) -> Value {
    let mut json = to_json(domain);
    if domain.process.is_none() {
        json["process"] = Value::from("unknown");
    }
    json
}

/// A decision, with the time at which it was made.
fn decision_json(decision: &DecisionView, time: u64) -> Value {
    let mut json = to_json(decision);
    json["time"] = Value::from(time);
    json
}

/// Views consist of strings, numbers and lists, which always are JSON.
fn to_json(view: &impl Serialize) -> Value {
    serde_json::to_value(view).unwrap_or(Value::Null)
}

/// What the greeting and `query-version` call this program.
pub(crate) const PACKAGE: &str = concat!("phase-journal ", env!("CARGO_PKG_VERSION"));

fn migrate_request(migrate: MigrateDomain) -> ControlRequest {
    let MigrateDomain {
        name,
        peer,
        uri,
        destination_name,
        protocol,
        authority,
        max_bandwidth,
        downtime_limit,
        postcopy,
        in_doubt_limit,
        options,
        disks,
    } = migrate;
    let protocol = protocol.unwrap_or(Protocol::V3);
    ControlRequest::Migrate {
        peer_domain: destination_name.unwrap_or_else(|| name.clone()),
        name,
        migration: MigrationId(Id128::random()),
        peer: plain_path(&peer),
        uri,
        protocol,
        authority: authority.unwrap_or(match protocol {
            Protocol::V2 => Authority::Source,
            Protocol::V3 => Authority::Destination,
        }),
        max_bandwidth,
        downtime_limit,
        postcopy,
        in_doubt_limit,
        options,
        disks,
    }
}

/// The path without links and dots in its directory, so that the sidecar knows its own socket by
/// whatever name; as it is if the directory cannot be read.
fn plain_path(path: &str) -> String {
    let plain = || -> Option<PathBuf> {
        let path = Path::new(path);
        let directory = std::fs::canonicalize(path.parent()?).ok()?;
        Some(directory.join(path.file_name()?))
    };
    plain()
        .and_then(|path| path.into_os_string().into_string().ok())
        .unwrap_or_else(|| path.to_owned())
}
