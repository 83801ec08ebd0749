//! The commands that talk to a running sidecar.
//!
//! Invariant: what the sidecar says is shown as it is; errors are its own one line.
//! Not here: following a migration (`migrate`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use phase_journal::qmp::{Events, SidecarClient};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::error::{Found, ToolError};
use crate::text::{json_line, plain};

/// How long the sidecar may take to greet and to answer.
pub(crate) const WAIT: Duration = Duration::from_secs(15);

/// Which jobs.
#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    /// Only this domain's; its last ended one too
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Only this one, also when it ended
    #[arg(long, value_name = "LSN")]
    job: Option<u64>,
}

/// Which decisions.
#[derive(Debug, Args)]
pub(crate) struct DecisionsArgs {
    /// Only this domain's
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Only this job's
    #[arg(long, value_name = "LSN")]
    job: Option<u64>,
    /// The last N
    #[arg(short = 'n', long = "last", value_name = "N")]
    last: Option<u64>,
}

/// A new domain.
#[derive(Debug, Args)]
pub(crate) struct DomainAddArgs {
    /// Its name
    name: String,
    /// QEMU's monitor socket
    #[arg(long, value_name = "PATH")]
    qmp: PathBuf,
    /// Rename that socket, and serve the domain's monitor in its place
    #[arg(long)]
    take_over: bool,
    /// QEMU's process, where the socket does not tell it
    #[arg(long)]
    pid: Option<u32>,
    /// The guest's UUID
    #[arg(long)]
    uuid: Option<String>,
    /// A file with the domain's definition, which travels with the guest
    #[arg(long, value_name = "FILE")]
    definition: Option<PathBuf>,
}

/// A job to end.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The job (the LSN of its first record)
    job: u64,
}

/// The manager's word.
#[derive(Debug, Args)]
pub(crate) struct VerdictArgs {
    /// The domain
    name: String,
    /// committed gives the guest to the destination, aborted leaves it at the source
    #[arg(value_parser = ["committed", "aborted"])]
    outcome: String,
}

/// An operator's word.
#[derive(Debug, Args)]
pub(crate) struct ResolveArgs {
    /// The held domain
    name: String,
    /// kill ends this copy, resume runs it, confirm closes the job and touches nothing
    #[arg(value_parser = ["kill", "resume", "confirm"])]
    decision: String,
    /// Against missing evidence; needs --statement
    #[arg(long, requires = "statement")]
    force: bool,
    /// What you state, such as that the other side is fenced; goes on record
    #[arg(long, value_name = "TEXT")]
    statement: Option<String>,
}

/// A connection to a sidecar.
pub(crate) struct Online {
    runtime: Runtime,
    client: SidecarClient,
    // The connection's events are not heard here; dropped, they would be dropped too.
    _events: Events,
    json: bool,
}

/// A text of an answer; `-` where there is none.
pub(crate) fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => plain(text),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

pub(crate) fn runtime() -> Result<Runtime, ToolError> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

impl Online {
    pub(crate) fn connect(socket: &Path, json: bool) -> Result<Online, ToolError> {
        let runtime = runtime()?;
        let (client, events) = runtime.block_on(SidecarClient::connect(socket, WAIT))?;
        Ok(Online {
            runtime,
            client,
            _events: events,
            json,
        })
    }

    fn call(&self, command: &str, arguments: Value) -> Result<Value, ToolError> {
        Ok(self
            .runtime
            .block_on(self.client.call(command, arguments, WAIT))?)
    }

    fn list(&self, command: &str, arguments: Value) -> Result<Vec<Value>, ToolError> {
        match self.call(command, arguments)? {
            Value::Array(list) => Ok(list),
            other => Err(ToolError::Answer(other.to_string())),
        }
    }

    /// Everything at a glance; something is found if a domain is held.
    pub(crate) fn status(&self, out: &mut impl Write) -> Result<Found, ToolError> {
        let journal = self.call("query-journal", json!({}))?;
        let domains = self.list("query-domains", json!({}))?;
        let jobs = self.list("query-jobs", json!({}))?;
        let held: Vec<&Value> = domains
            .iter()
            .filter(|one| !one["held"].is_null())
            .collect();
        if self.json {
            let all = json!({"journal": journal, "domains": domains, "jobs": jobs});
            writeln!(out, "{}", json_line(&all))?;
        } else {
            writeln!(
                out,
                "journal {} at lsn {} (epoch {}, {})",
                text(&journal, "journal"),
                text(&journal, "lsn"),
                text(&journal, "epoch"),
                text(&journal, "io")
            )?;
            show_domains(&domains, out)?;
            show_jobs(&jobs, out)?;
            for domain in &held {
                let held = &domain["held"];
                writeln!(out, "HELD {}: {}", text(domain, "name"), text(held, "rule"))?;
                writeln!(out, "  {}", text(held, "reason"))?;
                writeln!(out, "  settled by {}", text(held, "settled-by"))?;
            }
        }
        Ok(if held.is_empty() {
            Found::Nothing
        } else {
            Found::Something
        })
    }

    pub(crate) fn domains(&self, out: &mut impl Write) -> Result<Found, ToolError> {
        let domains = self.list("query-domains", json!({}))?;
        if self.json {
            writeln!(out, "{}", json_line(&Value::Array(domains)))?;
        } else {
            show_domains(&domains, out)?;
        }
        Ok(Found::Nothing)
    }

    pub(crate) fn jobs(&self, args: &JobsArgs, out: &mut impl Write) -> Result<Found, ToolError> {
        let arguments = some([("name", json!(args.domain)), ("job", json!(args.job))]);
        let jobs = self.list("query-jobs", arguments)?;
        if self.json {
            writeln!(out, "{}", json_line(&Value::Array(jobs)))?;
        } else {
            show_jobs(&jobs, out)?;
        }
        Ok(Found::Nothing)
    }

    pub(crate) fn decisions(
        &self,
        args: &DecisionsArgs,
        out: &mut impl Write,
    ) -> Result<Found, ToolError> {
        let arguments = some([
            ("name", json!(args.domain)),
            ("job", json!(args.job)),
            ("limit", json!(args.last)),
        ]);
        let decisions = self.list("query-decisions", arguments)?;
        if self.json {
            writeln!(out, "{}", json_line(&Value::Array(decisions)))?;
            return Ok(Found::Nothing);
        }
        for one in &decisions {
            writeln!(
                out,
                "{:>6}  {}  job {}  {:<7} {}: {}",
                text(one, "lsn"),
                text(one, "name"),
                text(one, "job"),
                text(one, "decision").to_uppercase(),
                text(one, "rule"),
                text(one, "reason")
            )?;
        }
        Ok(Found::Nothing)
    }

    pub(crate) fn journal(&self, out: &mut impl Write) -> Result<Found, ToolError> {
        let journal = self.call("query-journal", json!({}))?;
        match (&journal, self.json) {
            (Value::Object(fields), false) => {
                for key in fields.keys() {
                    writeln!(out, "{key:<10} {}", text(&journal, key))?;
                }
            }
            _ => writeln!(out, "{}", json_line(&journal))?,
        }
        Ok(Found::Nothing)
    }

    pub(crate) fn domain_add(
        &self,
        args: &DomainAddArgs,
        out: &mut impl Write,
    ) -> Result<Found, ToolError> {
        let definition = match &args.definition {
            None => None,
            Some(path) => {
                let failed = |source| ToolError::File {
                    path: path.clone(),
                    source,
                };
                Some(std::fs::read_to_string(path).map_err(failed)?)
            }
        };
        let arguments = some([
            ("name", json!(args.name)),
            ("qmp", json!(absolute(&args.qmp)?)),
            ("take-over", json!(args.take_over.then_some(true))),
            ("pid", json!(args.pid)),
            ("uuid", json!(args.uuid)),
            ("definition", json!(definition)),
        ]);
        let domain = self.call("domain-add", arguments)?;
        if self.json {
            writeln!(out, "{}", json_line(&domain))?;
        } else {
            show_domains(&[domain], out)?;
        }
        Ok(Found::Nothing)
    }

    /// A command with nothing but a domain's name.
    pub(crate) fn by_name(
        &self,
        command: &str,
        name: &str,
        out: &mut impl Write,
    ) -> Result<Found, ToolError> {
        let answer = self.call(command, json!({"name": name}))?;
        self.done(&answer, out)
    }

    pub(crate) fn cancel(
        &self,
        args: &CancelArgs,
        out: &mut impl Write,
    ) -> Result<Found, ToolError> {
        let answer = self.call("job-cancel", json!({"job": args.job}))?;
        self.done(&answer, out)
    }

    pub(crate) fn resolve(
        &self,
        args: &ResolveArgs,
        out: &mut impl Write,
    ) -> Result<Found, ToolError> {
        let arguments = some([
            ("name", json!(args.name)),
            ("decision", json!(args.decision)),
            ("force", json!(args.force)),
            ("statement", json!(args.statement)),
        ]);
        let decision = self.call("resolve", arguments)?;
        self.decided(&decision, out)
    }

    pub(crate) fn verdict(
        &self,
        args: &VerdictArgs,
        out: &mut impl Write,
    ) -> Result<Found, ToolError> {
        let arguments = some([("name", json!(args.name)), ("outcome", json!(args.outcome))]);
        let decision = self.call("migrate-verdict", arguments)?;
        self.decided(&decision, out)
    }

    /// Somebody's word, and where it is on record.
    fn decided(&self, decision: &Value, out: &mut impl Write) -> Result<Found, ToolError> {
        if self.json {
            writeln!(out, "{}", json_line(decision))?;
        } else {
            let (name, lsn) = (text(decision, "name"), text(decision, "lsn"));
            writeln!(
                out,
                "{name}: {} on record {lsn}",
                text(decision, "decision")
            )?;
        }
        Ok(Found::Nothing)
    }

    fn done(&self, answer: &Value, out: &mut impl Write) -> Result<Found, ToolError> {
        if self.json {
            writeln!(out, "{}", json_line(answer))?;
        }
        Ok(Found::Nothing)
    }
}

/// Arguments without those that were not given.
pub(crate) fn some<const N: usize>(arguments: [(&str, Value); N]) -> Value {
    let given = arguments.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        given
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<Map<_, _>>(),
    )
}

/// The sidecar has another working directory.
pub(crate) fn absolute(path: &Path) -> Result<String, ToolError> {
    let failed = |source| ToolError::File {
        path: path.to_owned(),
        source,
    };
    let absolute = std::path::absolute(path).map_err(failed)?;
    match absolute.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(ToolError::Argument(format!(
            "{} is no text in UTF-8",
            path.display()
        ))),
    }
}

fn show_domains(domains: &[Value], out: &mut impl Write) -> Result<(), ToolError> {
    for domain in domains {
        writeln!(
            out,
            "{:<16} {:<8} {:<14} migration {:<14} wanted {:<8} pid {:<8} job {}",
            text(domain, "name"),
            text(domain, "process"),
            text(domain, "run-state"),
            text(domain, "migration"),
            text(domain, "wanted"),
            text(domain, "pid"),
            text(domain, "job")
        )?;
    }
    Ok(())
}

fn show_jobs(jobs: &[Value], out: &mut impl Write) -> Result<(), ToolError> {
    for job in jobs {
        let ended = match job.get("result") {
            None | Some(Value::Null) => String::new(),
            Some(_) => format!(" {}: {}", text(job, "result"), text(job, "detail")),
        };
        writeln!(
            out,
            "job {:<6} {:<16} {:<14} {:<18} {}{ended}",
            text(job, "job"),
            text(job, "name"),
            text(job, "kind"),
            text(job, "phase"),
            text(job, "state")
        )?;
    }
    Ok(())
}
