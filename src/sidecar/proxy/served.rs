//! One client of a domain's monitor.
//!
//! Invariant: its commands are answered in its own order, those out of band as they come; it hears every event once
//! after its own negotiation. What is wrong is answered or ends this client, and nobody else.
//! Not here: reading its stream (`incoming`), writing to it (`qmp::Outlet`).

use core::pin::{Pin, pin};
use core::time::Duration;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use journal_format::record::EffectResult;
use rustix::process::getuid;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::incoming::{Incoming, Read};
use super::passage::{Arrived, Passage};
use super::{LeftClient, Port, Shared, Upstream};
use crate::engine::{DISK_NAME_PREFIX, MonitorCommand};
use crate::keep::{ClientState, KeptClient, Stage, Taken};
use crate::qmp::{
    Adopted, CLAIM_ID, Class, CommandError, Misunderstood, Outlet, Passed, Passing, Place, Socket,
    inherited,
};

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
    /// An answer, and the key of what it answers.
    Answer(Vec<u8>, u64),
    /// What QEMU may have got from an earlier life.
    Adopted(AtQemu),
}

/// A command that QEMU may have got from an earlier life.
#[derive(Debug)]
struct AtQemu {
    id: Option<Vec<u8>>,
    key: u64,
    result: oneshot::Receiver<EffectResult>,
}

/// Serves a client until it leaves, is cut off, or QEMU ends.
pub(super) async fn serve(stream: UnixStream, shared: Shared) {
    let Some(uid) = allowed(&stream) else {
        return;
    };
    let Ok(socket) = Socket::new(stream) else {
        return;
    };
    let kept = shared.port.keep(socket.as_fd());
    let socket = Arc::new(socket);
    let outlet = Outlet::keeping(socket.clone(), kept);
    let incoming = Incoming::new(socket, outlet.clone(), &[]);
    let served = Served {
        shared,
        outlet,
        uid,
    };
    served.serve(incoming, Stood::default()).await;
}

/// Who may ask.
fn allowed(stream: &UnixStream) -> Option<u32> {
    let uid = stream.peer_cred().ok()?.uid();
    (uid == 0 || uid == getuid().as_raw()).then_some(uid)
}

/// A client of an earlier life, which hears QEMU's events from now on.
#[derive(Debug)]
pub(super) struct Resumed {
    served: Served,
    incoming: Incoming,
    stood: Stood,
}

/// How a client stood at the end of an earlier life.
#[derive(Debug, Default)]
struct Stood {
    greeted: bool,
    negotiated: Option<bool>,
    in_order: Vec<InOrder>,
    out_of_band: Vec<InOrder>,
}

/// Takes a client of an earlier life up again; `None` if it may not be served any more. To be called before the connection to
/// QEMU is taken up, so that it hears everything.
pub(super) fn resume(left: LeftClient, shared: Shared) -> Option<Resumed> {
    let LeftClient {
        socket,
        kept,
        state,
    } = left;
    let stream = inherited(socket).ok()?;
    let uid = allowed(&stream)?;
    let socket = Arc::new(Socket::new(stream).ok()?);
    let outlet = Outlet::keeping(socket.clone(), Some(kept));
    if state.negotiated.is_some() {
        shared.port.listeners().join(&outlet, state.heard);
    }
    let incoming = Incoming::new(socket, outlet.clone(), &state.input);
    let mut stood = Stood {
        greeted: state.greeted,
        negotiated: state.negotiated,
        ..Stood::default()
    };
    let oob = state.negotiated.unwrap_or(false);
    for command in state.commands {
        let (item, is_out_of_band) = take_up(command, oob, &outlet, &shared.port);
        match is_out_of_band {
            true => stood.out_of_band.push(item),
            false => stood.in_order.push(item),
        }
    }
    Some(Resumed {
        served: Served {
            shared,
            outlet,
            uid,
        },
        incoming,
        stood,
    })
}

/// What is to be done about a command of an earlier life: what only reads is asked again; an effect never.
fn take_up(taken: Taken, oob: bool, outlet: &Arc<Outlet>, port: &Port) -> (InOrder, bool) {
    let Taken {
        key,
        stage,
        bytes,
        has_fds,
    } = taken;
    if stage == Stage::Answered {
        return (InOrder::Answer(bytes, key), false);
    }
    let passed = match Passed::understand(bytes, oob, Vec::new()) {
        Ok(passed) => passed.with_key(key),
        Err(wrong) => return (InOrder::Answer(misunderstood(&wrong), key), false),
    };
    let is_out_of_band = passed.is_out_of_band();
    let id = passed.id().map(<[u8]>::to_vec);
    let refused =
        |why: &str| InOrder::Answer(error_line(id.as_deref(), &CommandError::generic(why)), key);
    let item = match stage {
        Stage::Waiting if has_fds => refused(
            "not sent to QEMU: its file descriptors were lost when the sidecar was restarted",
        ),
        Stage::Waiting | Stage::Answered => InOrder::Command(passed),
        Stage::AtEngine => refused(
            "the sidecar was restarted before it answered: this command was not sent to QEMU, but in an open job it may have been taken as its owner's word",
        ),
        Stage::Sent { id: at_qemu } => {
            let (done, result) = oneshot::channel();
            port.adopt(Adopted {
                at_qemu,
                outlet: outlet.clone(),
                id: id.clone(),
                key,
                done,
            });
            InOrder::Adopted(AtQemu { id, key, result })
        }
    };
    (item, is_out_of_band)
}

impl Resumed {
    /// Serves it like any other.
    pub(super) async fn serve(self) {
        self.served.serve(self.incoming, self.stood).await;
    }
}

impl Served {
    async fn serve(self, incoming: Incoming, stood: Stood) {
        let port = self.shared.port.clone();
        tokio::select! {
            () = self.run(incoming, stood) => self.outlet.end(),
            () = port.ended() => self.outlet.end(),
        }
        // Until the client has it, or is cut off since it does not read.
        self.outlet.drained().await;
    }

    /// Writes down that this was taken from what was read; gives the key by which it is known from now on.
    fn take(&self, stage: Stage, bytes: &[u8], has_fds: bool, incoming: &Incoming) -> u64 {
        self.outlet.kept().map_or(0, |kept| {
            kept.take(stage, bytes.to_vec(), has_fds, incoming.rest())
        })
    }

    fn answer_in_order(&self, line: Vec<u8>, incoming: &Incoming) -> InOrder {
        let key = self.take(Stage::Answered, &line, false, incoming);
        InOrder::Answer(line, key)
    }

    async fn run(&self, mut incoming: Incoming, stood: Stood) {
        let Stood {
            greeted,
            negotiated,
            in_order,
            out_of_band,
        } = stood;
        if !greeted {
            let Some(passing) = self.shared.port.here().await else {
                return;
            };
            let greeting = with_line_end(passing.greeting());
            self.outlet
                .put_and(greeting, Some(&|state| state.greeted = true));
        }
        let oob = match negotiated {
            Some(oob) => oob,
            None => {
                let Some(passing) = self.shared.port.here().await else {
                    return;
                };
                match self.negotiate(&mut incoming, &passing).await {
                    Some(oob) => oob,
                    None => return,
                }
            }
        };
        let mut queue = VecDeque::from(in_order);
        let mut in_hand = pin!(None);
        let mut tasks = JoinSet::new();
        for item in out_of_band {
            let served = self.clone();
            tasks.spawn(async move { served.carry_out_item(item).await });
        }
        let places = Arc::new(Semaphore::new(OUT_OF_BAND_MAX));
        let mut held_up = None;
        let mut is_over = false;
        loop {
            while tasks.try_join_next().is_some() {}
            if in_hand.is_none()
                && let Some(item) = queue.pop_front()
            {
                in_hand.set(Some(self.carry_out_item(item)));
            }
            if is_over && in_hand.is_none() && held_up.is_none() {
                break;
            }
            let reads_on = !is_over && held_up.is_none() && queue.len() < QUEUE_MAX;
            let read = tokio::select! {
                biased;
                // First: it goes to QEMU before more is read.
                () = done(in_hand.as_mut()) => {
                    in_hand.set(None);
                    continue;
                }
                place = places.clone().acquire_owned(), if held_up.is_some() => {
                    if let (Ok(place), Some(passed)) = (place, held_up.take()) {
                        let served = self.clone();
                        tasks.spawn(async move {
                            served.carry_out(passed).await;
                            drop(place);
                        });
                    }
                    continue;
                }
                read = incoming.next(), if reads_on => read,
            };
            let (object, fds) = match read {
                Read::Object(object, fds) => (object, fds),
                Read::Garbage(error) => {
                    let error = CommandError::generic(error.to_string());
                    queue.push_back(self.answer_in_order(error_line(None, &error), &incoming));
                    continue;
                }
                Read::Broken(error) => {
                    let error = CommandError::generic(error.to_string());
                    self.outlet.put(error_line(None, &error).into());
                    return;
                }
                // Who only says no more (as a shell's pipe does) still wants to hear; of who is gone, nothing more is carried out.
                Read::Ended if self.outlet.is_heard() => {
                    is_over = true;
                    continue;
                }
                Read::Ended => return,
            };
            match Passed::understand(object, oob, fds) {
                Ok(passed) => {
                    let (bytes, has_fds) = (passed.object(), passed.has_fds());
                    let key = self.take(Stage::Waiting, bytes, has_fds, &incoming);
                    let passed = passed.with_key(key);
                    match passed.is_out_of_band() {
                        true => held_up = Some(passed),
                        false => queue.push_back(InOrder::Command(passed)),
                    }
                }
                Err(wrong) => {
                    queue.push_back(self.answer_in_order(misunderstood(&wrong), &incoming));
                }
            }
        }
        while tasks.join_next().await.is_some() {}
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
                                let rest = incoming.rest();
                                let change = |state: &mut ClientState| {
                                    state.negotiated = Some(oob);
                                    state.set_input(rest);
                                };
                                self.shared.port.listeners().add(
                                    &self.outlet,
                                    answer.into(),
                                    &change,
                                );
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
            let rest = incoming.rest();
            self.outlet
                .put_and(answer.into(), Some(&|state| state.set_input(rest)));
        }
    }

    async fn carry_out_item(&self, item: InOrder) {
        // Who does not read its answers gets no more of them.
        self.outlet.drained().await;
        match item {
            InOrder::Command(passed) => self.carry_out(passed).await,
            InOrder::Answer(line, key) => self.outlet.answer(line.into(), key),
            InOrder::Adopted(AtQemu { id, key, result }) => {
                let answered = self.at_qemu(result.await.ok()).await;
                self.settle(answered, id.as_deref(), key).await;
            }
        }
    }

    /// The process is about to end, and what is not done is the next life's.
    fn is_left_open(&self) -> bool {
        self.outlet.kept().is_some_and(KeptClient::is_left_open)
    }

    /// Returns when the command is answered.
    async fn carry_out(&self, passed: Passed) {
        let id = passed.id().map(<[u8]>::to_vec);
        let key = passed.key();
        let answered = self.ask(passed).await;
        self.settle(answered, id.as_deref(), key).await;
    }

    /// Answers what QEMU has not answered. At the end of the process what only that end brought about is no answer: the next life
    /// gives one.
    async fn settle(&self, answered: Result<Answered, CommandError>, id: Option<&[u8]>, key: u64) {
        let line = match answered {
            Ok(Answered::ByQemu) => return,
            Ok(Answered::BySidecar) => return_line(id),
            Err(_) if self.is_left_open() => return core::future::pending().await,
            Err(error) => error_line(id, &error),
        };
        self.outlet.answer(line.into(), key);
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
                if self.is_left_open() {
                    return core::future::pending().await;
                }
                if let Some(kept) = self.outlet.kept() {
                    kept.advance(passage.passed.key(), Stage::AtEngine);
                }
                let link = &self.shared.link;
                match link
                    .monitor(self.shared.domain, self.uid, command, passage, arrival)
                    .await
                {
                    Arrived::Settled => return Ok(Answered::BySidecar),
                    Arrived::Failed(failure) => {
                        return Err(CommandError::generic(failure.to_string()));
                    }
                    Arrived::AtQemu(finished) => Some(finished.result.clone()),
                }
            }
        };
        self.at_qemu(result).await
    }

    /// Who answers a command that was given to QEMU.
    async fn at_qemu(&self, result: Option<EffectResult>) -> Result<Answered, CommandError> {
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
        if let Upstream::Here(passing) = &*self.shared.port.upstream.borrow()
            && let Some(place) = passing.place_now(out_of_band)
        {
            return Ok((passing.clone(), place));
        }
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

/// Returns when what is in hand is done; never, if nothing is.
async fn done<F: Future<Output = ()>>(in_hand: Pin<&mut Option<F>>) {
    match in_hand.as_pin_mut() {
        Some(in_hand) => in_hand.await,
        None => core::future::pending().await,
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
