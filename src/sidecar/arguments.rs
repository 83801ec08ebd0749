//! What was asked on the control socket: the commands and their arguments, checked one by one.
//!
//! Invariant: a command is taken whole or refused with one error that names the argument; an
//! argument that nobody knows is an error, never ignored.
//! Not here: carrying a command out (`control`), whether it is possible now (the engine).

mod disks;
mod effect;
mod settings;

use core::fmt;

use journal_format::number::{DomainId, Id128, Lsn};
use journal_format::record::{
    Authority, Decision, JobKind, JobPhase, JobResult, Outcome, Protocol,
};
use serde_json::{Map, Value};

use crate::engine::{DisksWanted, JobTarget, ManagerEffect, MigrateOptions};

/// Names of all commands, as `query-commands` lists them (besides `qmp_capabilities`).
pub const COMMAND_NAMES: &[&str] = &[
    "domain-add",
    "domain-remove",
    "domain-resume",
    "domain-suspend",
    "job-begin",
    "job-cancel",
    "job-end",
    "migrate-domain",
    "migrate-verdict",
    "phase-enter",
    "qmp_capabilities",
    "query-commands",
    "query-decisions",
    "query-domains",
    "query-jobs",
    "query-journal",
    "query-version",
    "resolve",
];

/// Most decisions in one answer, and how many there are without a limit given.
pub(crate) const DECISIONS_MAX: usize = 1000;

/// A command of the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `domain-add`.
    DomainAdd(DomainAdd),
    /// `domain-remove`.
    DomainRemove {
        /// The domain.
        name: String,
    },
    /// `domain-suspend`.
    DomainSuspend {
        /// The domain.
        name: String,
    },
    /// `domain-resume`.
    DomainResume {
        /// The domain.
        name: String,
    },
    /// `query-domains`.
    QueryDomains {
        /// Only this one.
        name: Option<String>,
    },
    /// `migrate-domain`.
    MigrateDomain(MigrateDomain),
    /// `job-begin`.
    JobBegin {
        /// The domain.
        name: String,
        /// What it is.
        kind: JobKind,
        /// The manager's own data.
        cookie: Option<String>,
    },
    /// `phase-enter`.
    PhaseEnter {
        /// The job.
        job: Lsn,
        /// The phase.
        phase: JobPhase,
        /// What to run in it.
        effects: Vec<ManagerEffect>,
        /// The manager's own data.
        cookie: Option<String>,
        /// What `perform3_done` answered at the source.
        peer_cookie: Option<String>,
    },
    /// `job-end`.
    JobEnd {
        /// The job.
        job: Lsn,
        /// Completed, or failed.
        result: JobResult,
    },
    /// `job-cancel`.
    JobCancel {
        /// The job.
        job: Lsn,
    },
    /// `migrate-verdict`.
    MigrateVerdict {
        /// The migration's job.
        target: JobTarget,
        /// The manager's word.
        outcome: Outcome,
    },
    /// `query-jobs`.
    QueryJobs {
        /// Only this one.
        job: Option<Lsn>,
        /// Only this domain's.
        name: Option<String>,
    },
    /// `query-decisions`.
    QueryDecisions(QueryDecisions),
    /// `query-journal`.
    QueryJournal,
    /// `resolve`.
    Resolve {
        /// The domain.
        name: String,
        /// The operator's word.
        decision: Decision,
        /// Against missing evidence.
        force: bool,
        /// What the operator states.
        statement: String,
    },
    /// `query-commands`.
    QueryCommands,
    /// `query-version`.
    QueryVersion,
}

/// Arguments of `domain-add`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DomainAdd {
    /// The domain's name.
    pub(crate) name: String,
    /// QEMU's monitor socket.
    pub(crate) qmp: String,
    /// The domain's identity, for a QEMU that was given none.
    pub(crate) uuid: Option<DomainId>,
    /// QEMU's process, where the socket does not tell.
    pub(crate) pid: Option<u32>,
    /// Opaque.
    pub(crate) definition: Option<String>,
    /// The sidecar's monitor takes the place of QEMU's socket.
    pub(crate) take_over: bool,
}

/// Arguments of `migrate-domain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MigrateDomain {
    /// The domain's name here.
    pub(crate) name: String,
    /// The other sidecar's peer socket.
    pub(crate) peer: String,
    /// QEMU's migration URI.
    pub(crate) uri: String,
    /// The domain's name there; the same as here if absent.
    pub(crate) destination_name: Option<String>,
    /// v3 if absent.
    pub(crate) protocol: Option<Protocol>,
    /// The protocol's own if absent.
    pub(crate) authority: Option<Authority>,
    /// Bytes per second.
    pub(crate) max_bandwidth: Option<u64>,
    /// Milliseconds.
    pub(crate) downtime_limit: Option<u64>,
    /// Post-copy after the first pass; false if absent.
    pub(crate) postcopy: bool,
    /// Authority store: milliseconds without an outcome before the source tries to win aborted.
    pub(crate) in_doubt_limit: Option<u64>,
    /// What QEMU is told beside that, and times to keep.
    pub(crate) options: MigrateOptions,
    /// Disks that are not shared, to be copied.
    pub(crate) disks: Option<Box<DisksWanted>>,
}

/// Arguments of `query-decisions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueryDecisions {
    /// Only this domain's.
    pub(crate) name: Option<String>,
    /// Only this job's.
    pub(crate) job: Option<Lsn>,
    /// At most so many, the newest ones.
    pub(crate) limit: usize,
}

/// Why a command is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ArgumentError {
    /// No such command.
    UnknownCommand {
        /// What was asked for.
        command: String,
    },
    /// `arguments` is something else than an object.
    NotAnObject {
        /// The command.
        command: String,
        /// What it is.
        found: &'static str,
    },
    /// An argument is missing.
    Missing {
        /// The command.
        command: String,
        /// The argument.
        argument: &'static str,
    },
    /// An argument has another type.
    WrongType {
        /// The command.
        command: String,
        /// The argument.
        argument: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// An argument has a value that cannot be.
    Invalid {
        /// The command.
        command: String,
        /// The argument.
        argument: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// An argument that this command does not have.
    Unknown {
        /// The command.
        command: String,
        /// The argument.
        argument: String,
    },
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArgumentError::UnknownCommand { command } => {
                write!(f, "The command {command} has not been found")
            }
            ArgumentError::NotAnObject { command, found } => {
                write!(f, "{command}: 'arguments' must be an object, not {found}")
            }
            ArgumentError::Missing { command, argument } => {
                write!(f, "{command}: argument '{argument}' is missing")
            }
            ArgumentError::WrongType {
                command,
                argument,
                expected,
                found,
            } => {
                write!(
                    f,
                    "{command}: argument '{argument}' must be {expected}, not {found}"
                )
            }
            ArgumentError::Invalid {
                command,
                argument,
                expected,
            } => write!(f, "{command}: argument '{argument}' must be {expected}"),
            ArgumentError::Unknown { command, argument } => {
                write!(f, "{command}: there is no argument '{argument}'")
            }
        }
    }
}

impl core::error::Error for ArgumentError {}

/// Reads a command of the control socket.
///
/// # Errors
/// See [`ArgumentError`].
pub(crate) fn parse(name: &str, arguments: Option<Value>) -> Result<Command, ArgumentError> {
    let mut rest = Arguments::new(name, arguments)?;
    let command = match name {
        "domain-add" => Command::DomainAdd(DomainAdd {
            name: rest.name("name")?,
            qmp: rest.path("qmp")?,
            uuid: rest.optional_uuid("uuid")?.map(DomainId),
            pid: rest.optional_pid("pid")?,
            definition: rest.optional_text("definition")?,
            take_over: rest.optional_bool("take-over")?.unwrap_or(false),
        }),
        "domain-remove" => Command::DomainRemove {
            name: rest.name("name")?,
        },
        "domain-suspend" => Command::DomainSuspend {
            name: rest.name("name")?,
        },
        "domain-resume" => Command::DomainResume {
            name: rest.name("name")?,
        },
        "query-domains" => Command::QueryDomains {
            name: rest.optional_name("name")?,
        },
        "migrate-domain" => {
            let options = rest.migrate_options()?;
            let has_after = options.postcopy_after.is_some();
            Command::MigrateDomain(MigrateDomain {
                name: rest.name("name")?,
                peer: rest.path("peer")?,
                uri: rest.filled("uri")?,
                destination_name: rest.optional_name("destination-name")?,
                protocol: rest.optional_protocol("protocol")?,
                max_bandwidth: rest.optional_number("max-bandwidth")?,
                downtime_limit: rest.optional_number("downtime-limit")?,
                postcopy: rest.optional_bool("postcopy")?.unwrap_or(has_after),
                authority: rest.optional_authority("authority")?,
                in_doubt_limit: rest.optional_number("in-doubt-limit")?,
                options,
                disks: disks::take(&mut rest)?.map(Box::new),
            })
        }
        "migrate-verdict" => Command::MigrateVerdict {
            target: rest.job_or_name()?,
            outcome: rest.outcome("outcome")?,
        },
        "job-begin" => Command::JobBegin {
            name: rest.name("name")?,
            kind: rest.job_kind("kind")?,
            cookie: rest.optional_text("cookie")?,
        },
        "phase-enter" => Command::PhaseEnter {
            job: Lsn(rest.number("job")?),
            phase: rest.job_phase("phase")?,
            effects: rest.effects("effects")?,
            cookie: rest.optional_text("cookie")?,
            peer_cookie: rest.optional_text("peer-cookie")?,
        },
        "job-end" => Command::JobEnd {
            job: Lsn(rest.number("job")?),
            result: rest.optional_end("result")?,
        },
        "job-cancel" => Command::JobCancel {
            job: Lsn(rest.number("job")?),
        },
        "query-jobs" => Command::QueryJobs {
            job: rest.optional_number("job")?.map(Lsn),
            name: rest.optional_name("name")?,
        },
        "query-decisions" => Command::QueryDecisions(QueryDecisions {
            name: rest.optional_text("name")?,
            job: rest.optional_number("job")?.map(Lsn),
            limit: rest.optional_limit("limit", DECISIONS_MAX)?,
        }),
        "query-journal" => Command::QueryJournal,
        "resolve" => Command::Resolve {
            name: rest.name("name")?,
            decision: rest.resolution("decision")?,
            force: rest.optional_bool("force")?.unwrap_or(false),
            statement: rest.optional_text("statement")?.unwrap_or_default(),
        },
        "query-commands" => Command::QueryCommands,
        "query-version" => Command::QueryVersion,
        unknown => {
            return Err(ArgumentError::UnknownCommand {
                command: unknown.to_owned(),
            });
        }
    };
    rest.finish()?;
    Ok(command)
}

/// Arguments not yet taken.
#[derive(Debug)]
struct Arguments {
    command: String,
    values: Map<String, Value>,
}

impl Arguments {
    fn new(command: &str, arguments: Option<Value>) -> Result<Arguments, ArgumentError> {
        let values = match arguments {
            None => Map::new(),
            Some(Value::Object(values)) => values,
            Some(other) => {
                return Err(ArgumentError::NotAnObject {
                    command: command.to_owned(),
                    found: type_name(&other),
                });
            }
        };
        Ok(Arguments {
            command: command.to_owned(),
            values,
        })
    }

    fn missing(&self, argument: &'static str) -> ArgumentError {
        ArgumentError::Missing {
            command: self.command.clone(),
            argument,
        }
    }

    fn invalid(&self, argument: &'static str, expected: &'static str) -> ArgumentError {
        ArgumentError::Invalid {
            command: self.command.clone(),
            argument,
            expected,
        }
    }

    fn wrong(
        &self,
        argument: &'static str,
        expected: &'static str,
        found: &Value,
    ) -> ArgumentError {
        ArgumentError::WrongType {
            command: self.command.clone(),
            argument,
            expected,
            found: type_name(found),
        }
    }

    fn optional_text(&mut self, argument: &'static str) -> Result<Option<String>, ArgumentError> {
        match self.values.remove(argument) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(argument, "a string", &other)),
        }
    }

    /// A string that is not empty.
    fn filled(&mut self, argument: &'static str) -> Result<String, ArgumentError> {
        let text = self
            .optional_text(argument)?
            .ok_or_else(|| self.missing(argument))?;
        if text.is_empty() {
            return Err(self.invalid(argument, "a string that is not empty"));
        }
        Ok(text)
    }

    /// A name: not empty, and fit for one line of a log.
    fn optional_name(&mut self, argument: &'static str) -> Result<Option<String>, ArgumentError> {
        let name = self.optional_text(argument)?;
        if name
            .as_ref()
            .is_some_and(|name| name.is_empty() || name.chars().any(char::is_control))
        {
            return Err(self.invalid(argument, "a name: not empty, no control characters"));
        }
        Ok(name)
    }

    fn name(&mut self, argument: &'static str) -> Result<String, ArgumentError> {
        self.optional_name(argument)?
            .ok_or_else(|| self.missing(argument))
    }

    /// An absolute path: a relative one would mean another file here than for the caller.
    fn path(&mut self, argument: &'static str) -> Result<String, ArgumentError> {
        let path = self.filled(argument)?;
        if !path.starts_with('/') || path.contains('\0') {
            return Err(self.invalid(argument, "an absolute path"));
        }
        Ok(path)
    }

    fn optional_number(&mut self, argument: &'static str) -> Result<Option<u64>, ArgumentError> {
        match self.values.remove(argument) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None if value.is_number() => {
                    Err(self.invalid(argument, "a whole number, 0 or more"))
                }
                None => Err(self.wrong(argument, "a whole number", &value)),
            },
        }
    }

    fn number(&mut self, argument: &'static str) -> Result<u64, ArgumentError> {
        self.optional_number(argument)?
            .ok_or_else(|| self.missing(argument))
    }

    fn optional_pid(&mut self, argument: &'static str) -> Result<Option<u32>, ArgumentError> {
        self.optional_number(argument)?
            .map(|pid| u32::try_from(pid).map_err(|_| self.invalid(argument, "a process id")))
            .transpose()
    }

    /// A count from 1 to `max`, which is also what its absence means.
    fn optional_limit(
        &mut self,
        argument: &'static str,
        max: usize,
    ) -> Result<usize, ArgumentError> {
        match self.optional_number(argument)? {
            None => Ok(max),
            Some(0) => Err(self.invalid(argument, "1 or more")),
            Some(limit) => Ok(usize::try_from(limit).map_or(max, |limit| limit.min(max))),
        }
    }

    fn optional_bool(&mut self, argument: &'static str) -> Result<Option<bool>, ArgumentError> {
        match self.values.remove(argument) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(argument, "true or false", &other)),
        }
    }

    fn optional_uuid(&mut self, argument: &'static str) -> Result<Option<Id128>, ArgumentError> {
        let Some(text) = self.optional_text(argument)? else {
            return Ok(None);
        };
        match Id128::parse(&text) {
            Some(id) if id != Id128::NIL => Ok(Some(id)),
            Some(_) | None => Err(self.invalid(argument, "a UUID that is not all zero")),
        }
    }

    /// What an operator may say. Hold is no answer to a domain that is held.
    fn resolution(&mut self, argument: &'static str) -> Result<Decision, ArgumentError> {
        let word = self.filled(argument)?;
        match Decision::from_name(&word) {
            Some(decision @ (Decision::Kill | Decision::Resume | Decision::Confirm)) => {
                Ok(decision)
            }
            Some(Decision::Hold) | None => Err(self.invalid(argument, "kill, resume or confirm")),
        }
    }

    fn optional_protocol(
        &mut self,
        argument: &'static str,
    ) -> Result<Option<Protocol>, ArgumentError> {
        let Some(word) = self.optional_text(argument)? else {
            return Ok(None);
        };
        match Protocol::from_name(&word) {
            Some(protocol) => Ok(Some(protocol)),
            None => Err(self.invalid(argument, "v2 or v3")),
        }
    }

    fn optional_authority(
        &mut self,
        argument: &'static str,
    ) -> Result<Option<Authority>, ArgumentError> {
        let Some(word) = self.optional_text(argument)? else {
            return Ok(None);
        };
        match Authority::from_name(&word) {
            Some(authority) => Ok(Some(authority)),
            None => Err(self.invalid(argument, "destination, store, source or manager")),
        }
    }

    fn outcome(&mut self, argument: &'static str) -> Result<Outcome, ArgumentError> {
        let word = self.filled(argument)?;
        Outcome::from_name(&word).ok_or_else(|| self.invalid(argument, "committed or aborted"))
    }

    /// A job, by its number or by its domain's name; exactly one of them.
    fn job_or_name(&mut self) -> Result<JobTarget, ArgumentError> {
        let job = self.optional_number("job")?;
        match (job, self.optional_name("name")?) {
            (Some(job), None) => Ok(JobTarget::Job(Lsn(job))),
            (None, Some(name)) => Ok(JobTarget::Domain(name)),
            (None, None) => Err(self.missing("name")),
            (Some(_), Some(_)) => Err(self.invalid("job", "left out where 'name' is given")),
        }
    }

    fn job_kind(&mut self, argument: &'static str) -> Result<JobKind, ArgumentError> {
        let word = self.filled(argument)?;
        let kinds = "migration-out, migration-in, save, dump, snapshot, backup, start, restore, destroy, suspend, modify, query or abort";
        JobKind::from_name(&word).ok_or_else(|| self.invalid(argument, kinds))
    }

    fn job_phase(&mut self, argument: &'static str) -> Result<JobPhase, ArgumentError> {
        let word = self.filled(argument)?;
        let phases = "prepare, perform or finish; of a migration begin3, perform3, perform3_done, confirm3, confirm3_cancelled, prepare or finish3";
        JobPhase::from_name(&word).ok_or_else(|| self.invalid(argument, phases))
    }

    fn optional_end(&mut self, argument: &'static str) -> Result<JobResult, ArgumentError> {
        let word = self.optional_text(argument)?;
        match word.as_deref().map(JobResult::from_name) {
            None => Ok(JobResult::Completed),
            Some(Some(result @ (JobResult::Completed | JobResult::Failed))) => Ok(result),
            Some(Some(JobResult::Cancelled | JobResult::Crashed) | None) => {
                Err(self.invalid(argument, "completed or failed"))
            }
        }
    }

    /// QMP commands, as a manager would send them to QEMU.
    fn effects(&mut self, argument: &'static str) -> Result<Vec<ManagerEffect>, ArgumentError> {
        let list = match self.values.remove(argument) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(self.wrong(argument, "an array", &other)),
        };
        let effects: Result<Vec<ManagerEffect>, _> = list.into_iter().map(effect::parse).collect();
        effects.map_err(|expected| self.invalid(argument, expected))
    }

    /// Refuses what is left.
    fn finish(self) -> Result<(), ArgumentError> {
        match self.values.into_iter().next() {
            None => Ok(()),
            Some((argument, _)) => Err(ArgumentError::Unknown {
                command: self.command,
                argument,
            }),
        }
    }
}

/// A JSON value's type as people call it.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(name: &str, arguments: Value, expected: &str) {
        let error = parse(name, Some(arguments)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn every_listed_command_is_known() {
        for name in COMMAND_NAMES {
            // The server itself answers the negotiation.
            let unknown = matches!(parse(name, None), Err(ArgumentError::UnknownCommand { .. }));
            assert_eq!(unknown, *name == "qmp_capabilities", "{name}");
        }
    }

    #[test]
    fn whole_commands() {
        let all = json!({
            "name": "vm", "qmp": "/run/vm.sock", "pid": 17, "definition": "<domain/>", "take-over": true,
            "uuid": "11111111-2222-3333-4444-555555555555",
        });
        let Ok(Command::DomainAdd(add)) = parse("domain-add", Some(all)) else {
            panic!("domain-add with all arguments");
        };
        assert_eq!((add.name.as_str(), add.pid), ("vm", Some(17)));
        assert!(add.uuid.is_some() && add.definition.is_some() && add.take_over);
        let migrate = json!({"name": "vm", "peer": "/run/b/peer.sock", "uri": "unix:/run/m"});
        let Ok(Command::MigrateDomain(migrate)) = parse("migrate-domain", Some(migrate)) else {
            panic!("migrate-domain without options");
        };
        assert_eq!(migrate.destination_name, None);
        assert_eq!(migrate.max_bandwidth, None);
        assert_eq!(
            parse("query-decisions", Some(json!({"limit": 5_000_000}))),
            Ok(Command::QueryDecisions(QueryDecisions {
                name: None,
                job: None,
                limit: DECISIONS_MAX
            }))
        );
        assert_eq!(parse("query-journal", None), Ok(Command::QueryJournal));
    }

    #[test]
    fn one_error_that_names_the_argument() {
        refused(
            "domain-add",
            json!({"qmp": "/x"}),
            "domain-add: argument 'name' is missing",
        );
        refused(
            "domain-add",
            json!({"name": 7, "qmp": "/x"}),
            "domain-add: argument 'name' must be a string, not a number",
        );
        refused(
            "domain-add",
            json!({"name": "vm", "qmp": "qmp.sock"}),
            "domain-add: argument 'qmp' must be an absolute path",
        );
        refused(
            "domain-add",
            json!({"name": "vm", "qmp": "/x", "pid": -1}),
            "domain-add: argument 'pid' must be a whole number, 0 or more",
        );
        refused(
            "domain-add",
            json!({"name": "vm", "qmp": "/x", "uuid": "all"}),
            "domain-add: argument 'uuid' must be a UUID that is not all zero",
        );
        refused(
            "domain-remove",
            json!({"name": ""}),
            "domain-remove: argument 'name' must be a name: not empty, no control characters",
        );
        refused(
            "query-domains",
            json!({"name": "\n"}),
            "query-domains: argument 'name' must be a name: not empty, no control characters",
        );
        refused(
            "job-begin",
            json!({"name": "vm", "kind": "move"}),
            "job-begin: argument 'kind' must be migration-out, migration-in, save, dump, snapshot, backup, start, restore, destroy, suspend, modify, query or abort",
        );
        refused(
            "phase-enter",
            json!({"job": 7, "phase": "perform", "effects": [{"execute": "stop", "id": 1}]}),
            "phase-enter: argument 'effects' must be an array of objects with 'execute' and perhaps 'arguments'",
        );
        refused(
            "job-end",
            json!({"job": 7, "result": "crashed"}),
            "job-end: argument 'result' must be completed or failed",
        );
        refused(
            "job-cancel",
            json!({"job": "seven"}),
            "job-cancel: argument 'job' must be a whole number, not a string",
        );
        refused(
            "migrate-domain",
            json!({"name": "vm", "peer": "/p", "uri": "unix:/m", "authority": "us"}),
            "migrate-domain: argument 'authority' must be destination, store, source or manager",
        );
        refused(
            "migrate-verdict",
            json!({"outcome": "committed"}),
            "migrate-verdict: argument 'name' is missing",
        );
        refused(
            "migrate-verdict",
            json!({"name": "vm", "job": 7, "outcome": "committed"}),
            "migrate-verdict: argument 'job' must be left out where 'name' is given",
        );
        refused(
            "migrate-verdict",
            json!({"job": 7, "outcome": "resume"}),
            "migrate-verdict: argument 'outcome' must be committed or aborted",
        );
        refused(
            "resolve",
            json!({"name": "vm", "decision": "hold"}),
            "resolve: argument 'decision' must be kill, resume or confirm",
        );
        refused(
            "resolve",
            json!({"name": "vm", "decision": "kill", "force": "yes"}),
            "resolve: argument 'force' must be true or false, not a string",
        );
        refused(
            "query-journal",
            json!({"verbose": true}),
            "query-journal: there is no argument 'verbose'",
        );
        refused(
            "query-journal",
            json!([1]),
            "query-journal: 'arguments' must be an object, not an array",
        );
        refused(
            "migrate",
            json!({}),
            "The command migrate has not been found",
        );
    }
}
