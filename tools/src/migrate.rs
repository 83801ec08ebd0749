//! `phase-journal migrate`: begins a migration and watches it.
//!
//! Invariant: the migration does not depend on this command: when it is interrupted or loses the
//! sidecar, the migration goes on under the journal's protection, and it says so.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use phase_journal::qmp::{QmpError, SidecarClient};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::error::{Found, ToolError};
use crate::online::{WAIT, absolute, runtime, some, text};
use crate::text::{json_line, size};

/// How often the progress is asked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a lost sidecar is waited for.
const RECONNECT_MAX: Duration = Duration::from_secs(60);
/// Width of the bar, in characters.
const BAR_WIDTH: u64 = 30;

/// What to migrate, and where.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The domain
    name: String,
    /// The other sidecar's peer socket
    #[arg(long, value_name = "PATH")]
    peer: PathBuf,
    /// QEMU's migration URI, such as unix:/run/m.sock
    #[arg(long)]
    uri: String,
    /// The domain's name at the destination, if it is another
    #[arg(long, value_name = "NAME")]
    destination_name: Option<String>,
    /// The protocol
    #[arg(long, value_name = "v2|v3")]
    protocol: Option<String>,
    /// Who decides: with v3 the destination (if nothing is said), a store that both sidecars reach, or the
    /// manager by `verdict` or its own cont or quit; with v2 the source
    #[arg(long, value_parser = ["destination", "store", "manager", "source"])]
    authority: Option<String>,
    /// With a store: milliseconds without an outcome after which the source tries to take the guest back
    #[arg(long, value_name = "MS")]
    in_doubt_limit: Option<u64>,
    /// Bytes per second
    #[arg(long, value_name = "BYTES")]
    max_bandwidth: Option<u64>,
    /// Milliseconds that the guest may be stopped
    #[arg(long, value_name = "MS")]
    downtime_limit: Option<u64>,
    /// A disk that the two sides do not share, by the name of its node in QEMU's block graph: it is copied; again for
    /// more
    #[arg(long = "copy-disk", value_name = "NODE[=NODE THERE]")]
    copy_disks: Vec<String>,
    /// How much of each disk is copied: all of it (if nothing is said), or its topmost image only
    #[arg(long, value_name = "full|top", requires = "copy_disks")]
    copy_sync: Option<String>,
    /// Where the destination's QEMU serves them by NBD: unix:PATH or tcp:HOST:PORT; a socket beside the other
    /// sidecar's if nothing is said
    #[arg(long, value_name = "ADDRESS", requires = "copy_disks")]
    copy_nbd: Option<String>,
    /// Let the guest go over after the first pass, and the rest of its memory follow (post-copy, with v3)
    #[arg(long)]
    postcopy: bool,
    /// Go over into post-copy so many seconds after the begin, if the guest has not converged before
    #[arg(long, value_name = "SECONDS", conflicts_with = "postcopy_after_passes")]
    postcopy_after_seconds: Option<u64>,
    /// The same after so many passes over the guest's memory
    #[arg(long, value_name = "PASSES")]
    postcopy_after_passes: Option<u64>,
    /// Give the migration up if it is not past its point of no return after so many seconds
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<u64>,
    /// A migration capability of QEMU's, such as multifd or xbzrle=off; again for more
    #[arg(long = "capability", value_name = "NAME[=on|off]", value_parser = capability)]
    capabilities: Vec<(String, bool)>,
    /// A migration parameter of QEMU's, such as multifd-channels=4 or tls-creds=tls0; again for more
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, Value)>,
    /// Begin it and do not watch
    #[arg(long)]
    no_wait: bool,
}

fn capability(text: &str) -> Result<(String, bool), String> {
    match text.split_once('=') {
        None => Ok((text.to_owned(), true)),
        Some((name, "on")) => Ok((name.to_owned(), true)),
        Some((name, "off")) => Ok((name.to_owned(), false)),
        Some(_) => Err("it is NAME, NAME=on or NAME=off".to_owned()),
    }
}

/// A value that is no number and neither true nor false is a string; in double quotes it is one whatever it is.
fn parameter(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE")?;
    let value = match serde_json::from_str(value) {
        Ok(plain @ (Value::Bool(_) | Value::Number(_) | Value::String(_))) => plain,
        Ok(Value::Null | Value::Array(_) | Value::Object(_)) | Err(_) => json!(value),
    };
    Ok((name.to_owned(), value))
}

/// An object of all that was given, or nothing.
fn members<T: Clone + Into<Value>>(all: &[(String, T)]) -> Value {
    let members: Map<String, Value> = all
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    match members.is_empty() {
        true => Value::Null,
        false => Value::Object(members),
    }
}

/// The disks that were named, or nothing.
fn copied(named: &[String]) -> Value {
    let disk = |text: &String| match text.split_once('=') {
        None => json!(text),
        Some((here, there)) => json!({"source": here, "destination": there}),
    };
    match named.is_empty() {
        true => Value::Null,
        false => named.iter().map(disk).collect(),
    }
}

/// How the watching ended.
enum Watched {
    Ended(Value),
    Held(Value),
    Interrupted,
}

/// Begins a migration, and watches it until its job ends.
pub(crate) fn run(
    args: &MigrateArgs,
    socket: &Path,
    json: bool,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    let runtime = runtime()?;
    let postcopy_after = match (args.postcopy_after_seconds, args.postcopy_after_passes) {
        (Some(seconds), _) => json!({"seconds": seconds}),
        (None, Some(passes)) => json!({"passes": passes}),
        (None, None) => Value::Null,
    };
    let arguments = some([
        ("name", json!(args.name)),
        ("peer", json!(absolute(&args.peer)?)),
        ("uri", json!(args.uri)),
        ("destination-name", json!(args.destination_name)),
        ("protocol", json!(args.protocol)),
        ("authority", json!(args.authority)),
        ("in-doubt-limit", json!(args.in_doubt_limit)),
        ("max-bandwidth", json!(args.max_bandwidth)),
        ("downtime-limit", json!(args.downtime_limit)),
        ("postcopy", json!(args.postcopy.then_some(true))),
        ("postcopy-after", postcopy_after),
        ("deadline", json!(args.deadline)),
        ("capabilities", members(&args.capabilities)),
        ("parameters", members(&args.parameters)),
        ("copy-disks", copied(&args.copy_disks)),
        ("copy-sync", json!(args.copy_sync)),
        ("copy-nbd", json!(args.copy_nbd)),
    ]);
    runtime.block_on(async {
        let (client, events) = SidecarClient::connect(socket, WAIT).await?;
        let begun = client.call("migrate-domain", arguments, WAIT).await?;
        // Only asked for its answers from here on.
        drop(events);
        let job = begun["job"]
            .as_u64()
            .ok_or_else(|| ToolError::Answer(begun.to_string()))?;
        if args.no_wait {
            if json {
                writeln!(out, "{}", json_line(&begun))?;
            } else {
                writeln!(out, "job {job}, migration {}", text(&begun, "migration"))?;
            }
            return Ok(Found::Nothing);
        }
        let mut watch = Watch {
            socket,
            client,
            job,
            bar: Bar::new(json),
        };
        let watched = watch.until_ended().await;
        watch.bar.clear();
        conclude(watched?, job, json, out)
    })
}

fn conclude(
    watched: Watched,
    job: u64,
    json: bool,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    match watched {
        Watched::Ended(ended) => {
            if json {
                writeln!(out, "{}", json_line(&ended))?;
            } else {
                writeln!(
                    out,
                    "job {job} {}: {}",
                    text(&ended, "result"),
                    text(&ended, "detail")
                )?;
            }
            let completed = ended["result"] == "completed";
            Ok(if completed {
                Found::Nothing
            } else {
                Found::Something
            })
        }
        Watched::Held(domain) => {
            if json {
                writeln!(out, "{}", json_line(&domain))?;
            } else {
                let held = &domain["held"];
                writeln!(out, "job {job} is held: {}", text(held, "reason"))?;
                writeln!(out, "settled by {}", text(held, "settled-by"))?;
            }
            Ok(Found::Something)
        }
        Watched::Interrupted => {
            writeln!(
                out,
                "job {job} goes on without this command; look with: phase-journal jobs --job {job}"
            )?;
            Ok(Found::Something)
        }
    }
}

struct Watch<'a> {
    socket: &'a Path,
    client: SidecarClient,
    job: u64,
    bar: Bar,
}

impl Watch<'_> {
    async fn until_ended(&mut self) -> Result<Watched, ToolError> {
        let mut held_since: Option<Instant> = None;
        loop {
            let (job, held) = tokio::select! {
                seen = self.look() => seen?,
                _ = tokio::signal::ctrl_c() => return Ok(Watched::Interrupted),
            };
            if job["state"] == "ended" {
                return Ok(Watched::Ended(job));
            }
            self.bar.show(&job);
            // A hold for a moment is the protocol's own; one that stays is worth an end.
            match held {
                None => held_since = None,
                Some(domain) => {
                    let since = *held_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > WAIT {
                        return Ok(Watched::Held(domain));
                    }
                }
            }
            tokio::select! {
                () = sleep(LOOK_INTERVAL) => {}
                _ = tokio::signal::ctrl_c() => return Ok(Watched::Interrupted),
            }
        }
    }

    /// The job, and its domain if that is held.
    async fn look(&mut self) -> Result<(Value, Option<Value>), ToolError> {
        let jobs = self.ask("query-jobs", json!({"job": self.job})).await?;
        let Some(job) = jobs.get(0).cloned() else {
            let what = format!("it knows no job {}", self.job);
            return Err(ToolError::Answer(what));
        };
        // The domain of a job that ended may be gone.
        if job["state"] == "ended" {
            return Ok((job, None));
        }
        let domains = self.ask("query-domains", json!({})).await?;
        let held = domains
            .as_array()
            .into_iter()
            .flatten()
            .find(|domain| domain["name"] == job["name"] && !domain["held"].is_null());
        let held = held.cloned();
        Ok((job, held))
    }

    /// Asks, and when the sidecar is gone waits a bounded time for it to come back.
    async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, ToolError> {
        let begun = Instant::now();
        let mut told = false;
        loop {
            let error = match self.client.call(command, arguments.clone(), WAIT).await {
                Ok(answer) => return Ok(answer),
                Err(error @ (QmpError::NotSent { .. } | QmpError::Lost { .. })) => error,
                Err(error) => return Err(error.into()),
            };
            if !told {
                self.bar.clear();
                tell(
                    "the sidecar is gone; the migration is in its journal, and recovery decides when it is back\n",
                );
                told = true;
            }
            if begun.elapsed() > RECONNECT_MAX {
                return Err(error.into());
            }
            sleep(LOOK_INTERVAL).await;
            if let Ok((client, _)) = SidecarClient::connect(self.socket, WAIT).await {
                self.client = client;
            }
        }
    }
}

/// To standard error; where nobody reads it, it is lost.
fn tell(text: &str) {
    let mut error = std::io::stderr();
    drop(
        error
            .write_all(text.as_bytes())
            .and_then(|()| error.flush()),
    );
}

/// The progress on standard error: a bar on a terminal, else a line now and then.
struct Bar {
    terminal: bool,
    quiet: bool,
    last: Option<(Instant, String)>,
}

impl Bar {
    fn new(json: bool) -> Bar {
        let terminal = std::io::stderr().is_terminal();
        Bar {
            terminal,
            quiet: json && !terminal,
            last: None,
        }
    }

    fn show(&mut self, job: &Value) {
        let line = line(job);
        if self.terminal {
            tell(&format!("\r\x1b[K{line}"));
            self.last = Some((Instant::now(), line));
            return;
        }
        let is_due = self.last.as_ref().is_none_or(|(at, last)| {
            at.elapsed() >= LINE_INTERVAL || phase_of(last) != phase_of(&line)
        });
        if is_due && !self.quiet {
            tell(&format!("{line}\n"));
            self.last = Some((Instant::now(), line));
        }
    }

    fn clear(&mut self) {
        if self.terminal && self.last.take().is_some() {
            tell("\r\x1b[K");
        }
    }
}

fn phase_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// Phase, bar, bytes left, dirty rate.
fn line(job: &Value) -> String {
    let phase = text(job, "phase");
    let progress = &job["progress"];
    let number = |key: &str| progress[key].as_u64().unwrap_or(0);
    let (total, remaining) = (number("total"), number("remaining"));
    if total == 0 {
        return phase;
    }
    let done = total.saturating_sub(remaining);
    let filled = BAR_WIDTH * done / total;
    let bar: String = (0..BAR_WIDTH)
        .map(|at| if at < filled { '#' } else { '.' })
        .collect();
    format!(
        "{phase:<14} [{bar}] {:>3} %  {} left  {} pages/s dirtied  {} Mbit/s",
        100 * done / total,
        size(remaining),
        number("dirty-pages-rate"),
        progress["mbps"].as_f64().unwrap_or(0.0).round()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_as_people_write_them() {
        assert_eq!(capability("multifd"), Ok(("multifd".to_owned(), true)));
        assert_eq!(capability("xbzrle=off"), Ok(("xbzrle".to_owned(), false)));
        assert!(capability("xbzrle=maybe").is_err());
        for (text, value) in [
            ("n=4", json!(4)),
            ("n=true", json!(true)),
            ("n=tls0", json!("tls0")),
            ("n=", json!("")),
            ("n=\"4\"", json!("4")),
            ("n=null", json!("null")),
        ] {
            assert_eq!(parameter(text), Ok(("n".to_owned(), value)), "{text}");
        }
        assert!(parameter("n").is_err());
        assert_eq!(members::<bool>(&[]), Value::Null);
    }

    #[test]
    fn lines_of_progress() {
        assert_eq!(
            line(&json!({"phase": "begin3", "progress": null})),
            "begin3"
        );
        let progress = json!({"total": 1 << 25, "remaining": 1 << 24, "dirty-pages-rate": 12,
                              "mbps": 268.6, "transferred": 5, "downtime": null});
        assert_eq!(
            line(&json!({"phase": "perform3", "progress": progress})),
            "perform3       [###############...............]  50 %  16.0 MiB left  12 pages/s dirtied  269 Mbit/s"
        );
    }
}
