//! A connection to one QEMU: who is at its other end, what can be asked, what it says by itself.
//!
//! Invariant: not a byte goes to a process that is not the instance meant.
//! Not here: when to connect and to ask (`monitor`, `register`), the wire (`qmp`).

use core::fmt;
use core::time::Duration;
use std::io;
use std::path::Path;

use journal_format::number::{BootId, Id128};
use journal_format::record::{Instance, Observed, Process, Settings};
use serde_json::{Value, json};

use super::observe::{self, CLAIM_PROPERTY, Progress};
use super::observe_job as job;
use super::observe_settings;
use super::process::{find, leads_to, leads_to_renamed};
use super::take_over::TakenOver;
use crate::engine::{JobSeen, QemuEvent};
use crate::keep::KeptQemu;
use crate::qmp::{CLAIM_ID, Client, Dialled, Event, Events, Listeners, QmpError, Resumed};

/// Longest wait for one step of a connection or one answer to a question, in milliseconds. Who asks
/// has a deadline of its own, which is shorter or equal.
pub(crate) const QUERY_WAIT_MS_MAX: u64 = 2_000;
const QUERY_WAIT: Duration = Duration::from_millis(QUERY_WAIT_MS_MAX);

/// Why a QEMU could not be asked.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Another process than the instance is at the other end.
    OtherInstance {
        /// It, if it can still be named.
        found: Option<Instance>,
    },
    /// No connection could be made.
    NotConnected(QmpError),
    /// The connection broke, or the process ended.
    Lost(String),
    /// There was no answer in time.
    Silent,
    /// It is no QEMU: it does not know what every QEMU knows.
    NotQemu(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::OtherInstance { found: Some(found) } => {
                write!(f, "another process serves the monitor socket: {found}")
            }
            ConnectError::OtherInstance { found: None } => {
                f.write_str("another process serves the monitor socket")
            }
            ConnectError::NotConnected(error) => error.fmt(f),
            ConnectError::Lost(why) => write!(f, "the connection to QEMU broke: {why}"),
            ConnectError::Silent => write!(f, "QEMU gave no answer within {QUERY_WAIT_MS_MAX} ms"),
            ConnectError::NotQemu(why) => write!(f, "this is not a QEMU's monitor: {why}"),
        }
    }
}

impl core::error::Error for ConnectError {}

impl From<QmpError> for ConnectError {
    fn from(error: QmpError) -> ConnectError {
        match error {
            QmpError::Connect { .. } | QmpError::NoGreeting { .. } | QmpError::NotQmp { .. } => {
                ConnectError::NotConnected(error)
            }
            QmpError::TimedOut { .. } | QmpError::Busy => ConnectError::Silent,
            QmpError::Lost { why } | QmpError::NotSent { why } => ConnectError::Lost(why),
            QmpError::Refused { .. } | QmpError::NotAQuery { .. } => {
                ConnectError::NotQemu(error.to_string())
            }
        }
    }
}

/// Something that came from QEMU by itself.
#[derive(Debug)]
pub(crate) enum Heard {
    /// An event that matters.
    Event(QemuEvent),
    /// One that does not.
    Other,
    /// The connection ended, and all before was heard.
    Closed,
}

/// What QEMU says by itself, in order.
#[derive(Debug)]
pub(crate) struct Ears(Events);

impl Ears {
    /// The next event, or the end of the connection.
    pub(crate) async fn heard(&mut self) -> Heard {
        self.0
            .next()
            .await
            .map_or(Heard::Closed, |event| sort(&event))
    }

    /// The next event, if it is here by now.
    pub(crate) fn heard_by_now(&mut self) -> Option<Heard> {
        self.0.next_now().map(|event| sort(&event))
    }
}

fn sort(event: &Event) -> Heard {
    match event {
        Event::Happened { name, data } => {
            observe::event(name, data).map_or(Heard::Other, Heard::Event)
        }
        Event::Lost => Heard::Event(QemuEvent::Lost),
    }
}

/// A connection to a QEMU that has negotiated.
#[derive(Debug)]
pub(crate) struct Connection {
    /// For effects and questions.
    pub(crate) client: Client,
    /// For events.
    pub(crate) ears: Ears,
}

impl Connection {
    /// Connects to the instance. It was proven alive, and must be again afterwards: only then was it
    /// the one that the check saw.
    pub(crate) async fn open(
        path: &Path,
        instance: Instance,
        boot: BootId,
        listeners: Listeners,
        kept: Option<KeptQemu>,
    ) -> Result<Connection, ConnectError> {
        let dialled = Dialled::dial(path, QUERY_WAIT).await?;
        let maker = dialled.credentials().pid;
        let is_it = match TakenOver::from_behind(path) {
            None => leads_to(instance, path, maker),
            Some(taken) => leads_to_renamed(instance, &taken.front, maker),
        };
        if !is_it {
            return Err(ConnectError::OtherInstance {
                found: find(maker, boot),
            });
        }
        Connection::greet(dialled, listeners, kept).await
    }

    /// Goes on with a connection of an earlier life, which led to the instance.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn resume(resumed: Resumed, listeners: Listeners) -> io::Result<Connection> {
        let (client, events) = Client::resume(resumed, listeners)?;
        let ears = Ears(events);
        Ok(Connection { client, ears })
    }

    /// Negotiates. With `kept` the connection outlives the process.
    pub(crate) async fn greet(
        dialled: Dialled,
        listeners: Listeners,
        kept: Option<KeptQemu>,
    ) -> Result<Connection, ConnectError> {
        let (client, events) = Client::greet(dialled, QUERY_WAIT, listeners, kept).await?;
        let ears = Ears(events);
        Ok(Connection { client, ears })
    }

    /// Looks once: run state, migration, claim, and the run state again. Says also whether that was
    /// the same both times, so that all of it was true at one moment.
    pub(crate) async fn look(&self, instance: Instance) -> Result<(Observed, bool), ConnectError> {
        let before = self.answer("query-status", json!({})).await?;
        let migration = self.answer("query-migrate", json!({})).await?;
        let claim_at = json!({
            "path": format!("/objects/{CLAIM_ID}"),
            "property": CLAIM_PROPERTY,
        });
        let claim = self.answer("qom-get", claim_at).await?;
        let after = self.answer("query-status", json!({})).await?;
        let run_state = after.as_ref().ok().and_then(observe::run_state);
        let is_steady = before.as_ref().ok().and_then(observe::run_state) == run_state;
        let observed = Observed {
            process: Process::Alive,
            instance: Some(instance),
            run_state,
            migration: migration.as_ref().ok().and_then(observe::migration_status),
            claim: observe::claim(claim.as_ref().map_err(String::as_str)),
        };
        Ok((observed, is_steady))
    }

    /// The guest's UUID, if QEMU was given one.
    pub(crate) async fn uuid(&self) -> Result<Option<Id128>, ConnectError> {
        let answer = self
            .client
            .query("query-uuid", json!({}), QUERY_WAIT)
            .await?;
        let text = answer.get("UUID").and_then(Value::as_str);
        match text.and_then(Id128::parse) {
            Some(Id128::NIL) => Ok(None),
            Some(uuid) => Ok(Some(uuid)),
            None => Err(ConnectError::NotQemu("it has no UUID".to_owned())),
        }
    }

    /// Does it wait for a guest at an address, and nothing of it has come?
    pub(crate) async fn listens(&self) -> bool {
        let answer = self.answer("query-migrate", json!({})).await;
        matches!(&answer, Ok(Ok(answer)) if observe::listens(answer))
    }

    /// What jobs left: the dump, QEMU's jobs, the block graph.
    pub(crate) async fn look_at_job(&self) -> JobSeen {
        let ask = async |name: &str, arguments: Value| {
            let answer = self.client.query(name, arguments, QUERY_WAIT).await;
            answer.ok()
        };
        let dump = ask("query-dump", json!({})).await;
        let jobs = ask("query-jobs", json!({})).await;
        // A flat answer says of no node that it lies on top of another.
        let nodes = ask("query-named-block-nodes", json!({"flat": false})).await;
        let exports = ask("query-block-exports", json!({})).await;
        JobSeen {
            dump: dump.as_ref().and_then(job::dump_status),
            qemu_jobs: jobs.as_ref().and_then(job::qemu_jobs),
            nodes: nodes.as_ref().and_then(job::nodes),
            exports: exports.as_ref().and_then(job::exports),
        }
    }

    /// What QEMU is told about migrations.
    pub(crate) async fn settings(&self) -> Option<Settings> {
        let ask = async |name: &str| self.client.query(name, json!({}), QUERY_WAIT).await.ok();
        let capabilities = ask("query-migrate-capabilities").await?;
        let parameters = ask("query-migrate-parameters").await?;
        observe_settings::settings(&capabilities, &parameters)
    }

    /// How far a migration got; a destination has no progress.
    pub(crate) async fn progress(&self) -> Option<Progress> {
        let answer = self
            .client
            .query("query-migrate", json!({}), QUERY_WAIT)
            .await;
        answer.ok().as_ref().and_then(observe::progress)
    }

    /// QEMU's answer, or the class of its error.
    async fn answer(
        &self,
        name: &str,
        arguments: Value,
    ) -> Result<Result<Value, String>, ConnectError> {
        match self.client.query(name, arguments, QUERY_WAIT).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(QmpError::Refused { class, .. }) => Ok(Err(class)),
            Err(error) => Err(error.into()),
        }
    }
}
