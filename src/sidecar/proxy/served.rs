//! One client of a domain's monitor.
//!
//! Invariant: its commands are answered in its own order, those out of band as they come; it hears every event once
//! after its own negotiation. What is wrong is answered or ends this client, and nobody else.
//! Not here: reading its stream (`incoming`), writing to it (`qmp::Outlet`).

use core::time::Duration;
use std::sync::Arc;

use journal_format::record::EffectResult;
use rustix::process::getuid;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::incoming::{Incoming, Read};
use super::passage::{Arrived, Passage};
use super::{Shared, Upstream};
use crate::engine::{DISK_NAME_PREFIX, MonitorCommand};
use crate::qmp::{CLAIM_ID, Class, CommandError, Misunderstood, Outlet, Passed, Passing, Place};

/// Commands of a client that wait for the one before, as many as QEMU itself takes (`QMP_REQ_QUEUE_LEN_MAX`).
const QUEUE_MAX: usize = 8;

/// Commands of a client out of band at the same time.
const OUT_OF_BAND_MAX: usize = 2;

/// How long a command waits for a connection to QEMU.
const UPSTREAM_WAIT: Duration = Duration::from_secs(10);

/// How long it may take until it is known that a QEMU whose connection broke is gone.
const END_WAIT: Duration = Duration::from_millis(500);

/// A client.
#[derive(Clone, Debug)]
struct Served {
    shared: Shared,
    outlet: Arc<Outlet>,
    uid: u32,
}

/// What is answered in the order it came.
#[derive(Debug)]
enum InOrder {
    Command(Passed),
    Answer(Vec<u8>),
}

/// Serves a client until it leaves, is cut off, or QEMU ends.
pub(super) async fn serve(stream: UnixStream, shared: Shared) {
    let Ok(credentials) = stream.peer_cred() else {
        return;
    };
    let uid = credentials.uid();
    if uid != 0 && uid != getuid().as_raw() {
        return;
    }
    let stream = Arc::new(stream);
    let outlet = Outlet::new(stream.clone());
    let incoming = Incoming::new(stream);
    let port = shared.port.clone();
    let served = Served {
        shared,
        outlet: outlet.clone(),
        uid,
    };
    tokio::select! {
        () = served.run(incoming) => outlet.end(),
        () = port.ended() => outlet.end(),
    }
}

impl Served {
    async fn run(&self, mut incoming: Incoming) {
        let Some(passing) = self.shared.port.here().await else {
            return;
        };
        self.outlet.put(with_line_end(passing.greeting()));
        let Some(oob) = self.negotiate(&mut incoming, &passing).await else {
            return;
        };
        drop(passing);
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().carry_out_in_order(waiting));
        let places = Arc::new(Semaphore::new(OUT_OF_BAND_MAX));
        loop {
            while tasks.try_join_next().is_some() {}
            let (object, fds) = match incoming.next().await {
                Read::Object(object, fds) => (object, fds),
                Read::Garbage(error) => {
                    let error = CommandError::generic(error.to_string());
                    if queue
                        .send(InOrder::Answer(error_line(None, &error)))
                        .await
                        .is_err()
                    {
                        return;
                    }
                    continue;
                }
                Read::Broken(error) => {
                    let error = CommandError::generic(error.to_string());
                    self.outlet.put(error_line(None, &error).into());
                    return;
                }
                Read::Ended => break,
            };
            let item = match Passed::understand(object, oob, fds) {
                Ok(passed) if passed.is_out_of_band() => {
                    let Ok(place) = places.clone().acquire_owned().await else {
                        return;
                    };
                    let served = self.clone();
                    tasks.spawn(async move {
                        served.carry_out(passed).await;
                        drop(place);
                    });
                    continue;
                }
                Ok(passed) => InOrder::Command(passed),
                Err(wrong) => InOrder::Answer(misunderstood(&wrong)),
            };
            if queue.send(item).await.is_err() {
                return;
            }
        }
        // Who only says no more (as a shell's pipe does) still wants to hear; of who is gone, nothing more is carried out.
        drop(queue);
        if self.outlet.is_heard() {
            while tasks.join_next().await.is_some() {}
            self.outlet.drained().await;
        }
    }

    /// Until the client has negotiated; whether commands out of band are among it. `None` when it left.
    async fn negotiate(&self, incoming: &mut Incoming, passing: &Passing) -> Option<bool> {
        loop {
            let answer = match incoming.next().await {
                Read::Object(object, fds) => match Passed::understand(object, false, fds) {
                    Ok(passed) if passed.name() == "qmp_capabilities" => {
                        match wanted_oob(&passed.arguments(), passing.oob()) {
                            Ok(oob) => {
                                let answer = return_line(passed.id());
                                self.shared
                                    .port
                                    .listeners()
                                    .add(&self.outlet, answer.into());
                                return Some(oob);
                            }
                            Err(error) => error_line(passed.id(), &error),
                        }
                    }
                    Ok(passed) => error_line(passed.id(), &not_negotiated()),
                    Err(wrong) => misunderstood(&wrong),
                },
                Read::Garbage(error) => error_line(None, &CommandError::generic(error.to_string())),
                Read::Broken(error) => {
                    let error = CommandError::generic(error.to_string());
                    self.outlet.put(error_line(None, &error).into());
                    return None;
                }
                Read::Ended => return None,
            };
            self.outlet.put(answer.into());
        }
    }

    async fn carry_out_in_order(self, mut waiting: mpsc::Receiver<InOrder>) {
        while let Some(item) = waiting.recv().await {
            // Who does not read its answers gets no more of them.
            self.outlet.drained().await;
            match item {
                InOrder::Command(passed) => self.carry_out(passed).await,
                InOrder::Answer(line) => self.outlet.put(line.into()),
            }
        }
    }

    /// Returns when the command is answered.
    async fn carry_out(&self, passed: Passed) {
        let id = passed.id().map(<[u8]>::to_vec);
        let line = match self.ask(passed).await {
            Ok(Answered::ByQemu) => return,
            Ok(Answered::BySidecar) => return_line(id.as_deref()),
            Err(error) => error_line(id.as_deref(), &error),
        };
        self.outlet.put(line.into());
    }

    async fn ask(&self, passed: Passed) -> Result<Answered, CommandError> {
        if passed.name() == "qmp_capabilities" {
            return Err(CommandError {
                class: "CommandNotFound",
                description: "Capabilities negotiation is already complete, command ignored"
                    .to_owned(),
            });
        }
        let class = passed.class();
        // Those that wait for their turn keep no place from those that only read.
        let _turn = match class {
            Class::Effect if !passed.is_out_of_band() => self.shared.effects.acquire().await.ok(),
            Class::Effect | Class::Reading => None,
        };
        let (passing, place) = self.place(passed.is_out_of_band()).await?;
        let result = match class {
            Class::Reading => passing
                .pass(passed, self.outlet.clone(), place)
                .map_err(|error| CommandError::generic(error.to_string()))?
                .await
                .ok(),
            Class::Effect => {
                let command = monitor_command(&passed);
                let (arrived, arrival) = oneshot::channel();
                let passage = Passage {
                    passed,
                    outlet: self.outlet.clone(),
                    place,
                    arrived,
                };
                let link = &self.shared.link;
                match link
                    .monitor(self.shared.domain, self.uid, command, passage, arrival)
                    .await
                {
                    Arrived::Settled => return Ok(Answered::BySidecar),
                    Arrived::Failed(failure) => {
                        return Err(CommandError::generic(failure.to_string()));
                    }
                    Arrived::AtQemu(result) => Some(result),
                }
            }
        };
        match result {
            Some(EffectResult::Done | EffectResult::Refused { .. }) => Ok(Answered::ByQemu),
            Some(EffectResult::NotSent { why }) => {
                self.until_qemu_ends().await;
                Err(CommandError::generic(format!("not sent to QEMU: {why}")))
            }
            Some(EffectResult::Unknown { .. }) | None => {
                self.until_qemu_ends().await;
                Err(CommandError::generic(
                    "the connection to QEMU broke: it is not known whether the command was carried out",
                ))
            }
        }
    }

    /// A connection to QEMU and a place on it. For a QEMU that is busy it waits as long as that is, as on QEMU's own
    /// monitor; for a connection only so long.
    async fn place(&self, out_of_band: bool) -> Result<(Passing, Place), CommandError> {
        let mut upstream = self.shared.port.upstream.subscribe();
        loop {
            let here = upstream.wait_for(|upstream| matches!(upstream, Upstream::Here(_)));
            let here = match timeout(UPSTREAM_WAIT, here).await {
                Ok(Ok(here)) => here.clone(),
                Ok(Err(_)) | Err(_) => {
                    let why = "the sidecar has no connection to QEMU";
                    return Err(CommandError::generic(why));
                }
            };
            let Upstream::Here(passing) = here else {
                continue;
            };
            tokio::select! {
                place = passing.place(out_of_band) => return Ok((passing, place)),
                // That connection is gone.
                _ = upstream.changed() => {}
            }
        }
    }

    /// A client of a QEMU that ended is told by the end of its connection, as QEMU would.
    async fn until_qemu_ends(&self) {
        drop(timeout(END_WAIT, self.shared.port.ended()).await);
    }
}

/// Who has answered the client.
enum Answered {
    ByQemu,
    BySidecar,
}

/// What names a block job, a node or an export in QEMU's commands.
const NAMING: &[&str] = &[
    "device",
    "export",
    "id",
    "job-id",
    "name",
    "node-name",
    "target",
];

/// A command as the engine sees it.
fn monitor_command(passed: &Passed) -> MonitorCommand {
    let sent = passed.arguments();
    let text = |key: &str| sent.get(key).and_then(Value::as_str).unwrap_or_default();
    let is_human = passed.name() == "human-monitor-command";
    let line = text("command-line");
    let names_claim = match passed.name() {
        "object-add" | "object-del" => text("id") == CLAIM_ID,
        "qom-set" => text("path").contains(CLAIM_ID),
        _ => is_human && line.contains(CLAIM_ID),
    } || NAMING
        .iter()
        .any(|key| text(key).starts_with(DISK_NAME_PREFIX));
    let (arguments, redacted) = passed.journaled();
    MonitorCommand {
        execute: passed.name().to_owned(),
        arguments,
        redacted,
        human: is_human.then(|| {
            line.split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        }),
        is_out_of_band: passed.is_out_of_band(),
        names_claim,
    }
}

/// Whether the client asks for commands out of band.
fn wanted_oob(arguments: &Value, is_offered: bool) -> Result<bool, CommandError> {
    let wrong = |why: &str| CommandError::generic(why);
    let mut oob = false;
    for (key, value) in arguments.as_object().into_iter().flatten() {
        let (true, Value::Array(wanted)) = (key == "enable", value) else {
            return Err(wrong(&format!("Parameter '{key}' is unexpected")));
        };
        for one in wanted {
            match one.as_str() {
                Some("oob") if is_offered => oob = true,
                Some("oob") => return Err(wrong("Capability oob not available")),
                Some(_) | None => {
                    return Err(wrong(&format!(
                        "Parameter 'enable' does not accept value {one}"
                    )));
                }
            }
        }
    }
    Ok(oob)
}

fn not_negotiated() -> CommandError {
    CommandError {
        class: "CommandNotFound",
        description: "Expecting capabilities negotiation with 'qmp_capabilities'".to_owned(),
    }
}

fn misunderstood(wrong: &Misunderstood) -> Vec<u8> {
    error_line(wrong.id.as_deref(), &wrong.error)
}

fn with_line_end(object: &[u8]) -> Arc<[u8]> {
    [object, b"\r\n"].concat().into()
}

/// An empty success, with the client's id as it was sent.
fn return_line(id: Option<&[u8]>) -> Vec<u8> {
    match id {
        Some(id) => [&b"{\"return\": {}, \"id\": "[..], id, b"}\r\n"].concat(),
        None => b"{\"return\": {}}\r\n".to_vec(),
    }
}

fn error_line(id: Option<&[u8]>, error: &CommandError) -> Vec<u8> {
    let error = json!({"class": error.class, "desc": error.description}).to_string();
    let error = error.as_bytes();
    match id {
        Some(id) => [&b"{\"id\": "[..], id, b", \"error\": ", error, b"}\r\n"].concat(),
        None => [&b"{\"error\": "[..], error, b"}\r\n"].concat(),
    }
}
