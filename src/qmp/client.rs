//! A QMP client: one task reads, callers write and wait with a deadline.
//!
//! Invariant: a caller that gives up leaves its id behind, so that a late answer is dropped and
//! never taken for another's; when a connection ends every caller learns whether its command had
//! been written. Nothing that can change a guest leaves without [`Durable`] (P1).
//! Not here: when to look and what to do (`sidecar`).

use core::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use journal_format::record::{Effect, EffectResult};
use rustix::net::{Shutdown, shutdown};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::classify::{Class, classify};
use super::codec::{Message, Splitter};
use super::command::{is_out_of_band, qmp_command};
use super::outlet::Listeners;
use super::passing::{Adopted, Passing, Places, Waiter, result_of};
use super::socket::{Socket, inherited};
use super::streams::{Outgoing, Pending, READ_SIZE, Reader, Writer, lock, read_object};
use crate::journal::Durable;
use crate::keep::{KeptQemu, QemuState};

/// Largest message a server may send, in bytes (QEMU's own schema is 200 kB in one line).
const MESSAGE_SIZE_MAX: usize = 64 * 1024 * 1024;
/// Commands without an answer on one connection, at the most.
pub(super) const IN_FLIGHT_MAX: usize = 64;
/// The same on a QEMU's monitor, for commands in band: after eight QEMU reads no more until it has
/// answered one (`QMP_REQ_QUEUE_LEN_MAX`), and what goes out of band has to get through.
const IN_BAND_MAX: usize = 4;
/// Events that wait to be heard; more are dropped, and that is said.
const EVENTS_MAX: usize = 1024;
/// Pause between attempts to connect where too many wait already.
const DIAL_PAUSE: Duration = Duration::from_millis(10);

/// Why something did not work on a QMP connection.
#[derive(Clone, Debug)]
pub enum QmpError {
    /// The socket cannot be connected to.
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kind of error.
        kind: io::ErrorKind,
        /// The system's words.
        why: String,
    },
    /// Nothing greets: another client has the monitor, or it is no monitor.
    NoGreeting {
        /// The socket.
        path: PathBuf,
    },
    /// Whatever answers does not speak QMP.
    NotQmp {
        /// The socket.
        path: PathBuf,
    },
    /// That command may change something; it needs a record.
    NotAQuery {
        /// The command.
        name: String,
    },
    /// The server answered an error.
    Refused {
        /// The class; only this may be interpreted.
        class: String,
        /// For people.
        description: String,
    },
    /// Provably nothing was sent.
    NotSent {
        /// Why.
        why: String,
    },
    /// Nothing was sent, because QEMU has not answered what it was sent before.
    Busy,
    /// It was written, or part of it, and no answer can come any more.
    Lost {
        /// Why.
        why: String,
    },
    /// No answer came in time; one may still come and will be dropped.
    TimedOut {
        /// The command.
        name: String,
        /// How long it was waited.
        after: Duration,
    },
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QmpError::Connect { path, why, .. } => {
                write!(f, "cannot connect to {}: {why}", path.display())
            }
            QmpError::NoGreeting { path } => write!(
                f,
                "{} does not greet: another client has this monitor, or it is no QMP socket",
                path.display()
            ),
            QmpError::NotQmp { path } => {
                write!(
                    f,
                    "whatever answers on {} does not speak QMP",
                    path.display()
                )
            }
            QmpError::NotAQuery { name } => {
                write!(
                    f,
                    "{name} may change something and cannot be sent without a record"
                )
            }
            QmpError::Refused { description, .. } => f.write_str(description),
            QmpError::NotSent { why } => write!(f, "not sent: {why}"),
            QmpError::Busy => write!(
                f,
                "not sent: QEMU has not answered the last {IN_BAND_MAX} commands"
            ),
            QmpError::Lost { why } => write!(f, "no answer: {why}"),
            QmpError::TimedOut { name, after } => {
                write!(f, "no answer to {name} within {} ms", after.as_millis())
            }
        }
    }
}

impl std::error::Error for QmpError {}

/// Who made the listening socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process; 0 if it is in another pid namespace.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

fn credentials(stream: &UnixStream) -> io::Result<Credentials> {
    let peer = stream.peer_cred()?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    Ok(Credentials {
        pid: pid.unwrap_or(0),
        uid: peer.uid(),
    })
}

/// A connection over which nothing was said yet, for who must know first whom it leads to.
#[derive(Debug)]
pub struct Dialled {
    stream: UnixStream,
    credentials: Credentials,
    path: PathBuf,
}

impl Dialled {
    /// Connects, and says nothing.
    ///
    /// # Errors
    /// One that names the socket: nobody listens, or too many wait to be let in.
    pub async fn dial(path: &Path, wait: Duration) -> Result<Dialled, QmpError> {
        let failed = |error: io::Error| QmpError::Connect {
            path: path.to_owned(),
            kind: error.kind(),
            why: error.to_string(),
        };
        let deadline = Instant::now() + wait;
        let stream = loop {
            match UnixStream::connect(path).await {
                Ok(stream) => break stream,
                // Too many wait already to be let in; QEMU lets one client wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
            if Instant::now() >= deadline {
                return Err(QmpError::NoGreeting {
                    path: path.to_owned(),
                });
            }
            tokio::time::sleep(DIAL_PAUSE).await;
        };
        let credentials = credentials(&stream).map_err(failed)?;
        Ok(Dialled {
            stream,
            credentials,
            path: path.to_owned(),
        })
    }

    /// Who made the listening socket.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.credentials
    }
}

/// Something the server said by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An event.
    Happened {
        /// Its name.
        name: String,
        /// Its data.
        data: Value,
    },
    /// Events were dropped because nobody listened: what was known may be old.
    Lost,
}

/// The events of one connection, in order.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<Event>,
    overflown: Arc<AtomicBool>,
}

impl Events {
    /// The next event; `None` when the connection has ended and all events were heard.
    pub async fn next(&mut self) -> Option<Event> {
        if self.overflown.swap(false, Ordering::Relaxed) {
            return Some(Event::Lost);
        }
        self.queue.recv().await
    }

    /// The next event if it is there already.
    pub fn next_now(&mut self) -> Option<Event> {
        if self.overflown.swap(false, Ordering::Relaxed) {
            return Some(Event::Lost);
        }
        self.queue.try_recv().ok()
    }
}

pub(super) type Answer = Result<Value, QmpError>;

/// What both kinds of client share.
#[derive(Debug)]
pub(super) struct Core {
    socket: Arc<Socket>,
    pub(super) writer: Arc<Writer>,
    pending: Arc<Mutex<Pending>>,
    next_id: AtomicU64,
    /// What ids on the wire are counted from: QEMU 7.2 reads a command byte by byte (`monitor_can_read`), some 2 us each.
    ids_from: u64,
    /// The connection outlives the process.
    kept: Option<Arc<KeptQemu>>,
    credentials: Credentials,
    /// Commands out of band were negotiated.
    pub(super) oob: bool,
    pub(super) greeting: Arc<[u8]>,
    pub(super) places: Places,
    reading: JoinHandle<()>,
}

impl Drop for Core {
    fn drop(&mut self) {
        self.reading.abort();
        // The service manager may have it open too, and QEMU serves one client. At the end of the process it is left to the next life.
        if !self.kept.as_ref().is_some_and(|kept| kept.is_left_open()) {
            // It fails only where the other end has done it already.
            let _ = shutdown(&*self.socket, Shutdown::Both);
        }
    }
}

impl Core {
    async fn connect(
        path: &Path,
        wait: Duration,
        size_max: usize,
    ) -> Result<(Core, Events), QmpError> {
        let deadline = Instant::now() + wait;
        let dialled = Dialled::dial(path, wait).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        Core::greet(dialled, left, size_max, Listeners::default(), None).await
    }

    async fn greet(
        dialled: Dialled,
        wait: Duration,
        size_max: usize,
        listeners: Listeners,
        kept: Option<KeptQemu>,
    ) -> Result<(Core, Events), QmpError> {
        let Dialled {
            stream,
            credentials,
            path,
        } = dialled;
        let path = path.as_path();
        let deadline = Instant::now() + wait;
        let failed = |error: io::Error| QmpError::Connect {
            path: path.to_owned(),
            kind: error.kind(),
            why: error.to_string(),
        };
        let no_greeting = || QmpError::NoGreeting {
            path: path.to_owned(),
        };
        let kept = kept.map(Arc::new);
        let socket = Arc::new(Socket::new(stream).map_err(failed)?);
        let mut splitter = Splitter::new(size_max);
        let first = timeout_at(deadline, read_object(&socket, &mut splitter))
            .await
            .map_err(|_| no_greeting())?
            .map_err(failed)?;
        let Some(greeting) = first else {
            return Err(no_greeting());
        };
        let Some(Message::Greeting { oob, .. }) = Message::parse(&greeting) else {
            return Err(QmpError::NotQmp {
                path: path.to_owned(),
            });
        };
        let beginning = Beginning {
            socket,
            splitter,
            credentials,
            oob,
            greeting: greeting.into(),
            next_id: kept.as_ref().map_or(1, |kept| kept.first_id()),
            ids_from: kept.as_ref().map_or(0, |kept| kept.first_id() - 1),
            pending: Pending::default(),
            places: Places::default(),
            kept,
        };
        let (core, events) = beginning.begin(listeners);
        let enable = if oob {
            json!({"enable": ["oob"]})
        } else {
            json!({})
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match core.call("execute", "qmp_capabilities", enable, left).await {
            Ok(_) => {
                if let Some(kept) = &core.kept {
                    kept.negotiated(&core.greeting, oob, core.socket.as_fd());
                }
                Ok((core, events))
            }
            Err(QmpError::TimedOut { .. } | QmpError::Lost { .. } | QmpError::NotSent { .. }) => {
                Err(no_greeting())
            }
            Err(_) => Err(QmpError::NotQmp {
                path: path.to_owned(),
            }),
        }
    }

    /// Goes on with a connection of an earlier life. Behind what that sent goes a question of ours: with its answer, whatever has none by
    /// then never got to QEMU, which takes commands in the order they come.
    fn resume(resumed: Resumed, listeners: Listeners) -> io::Result<(Core, Events)> {
        let Resumed {
            socket,
            kept,
            state,
            adopted,
        } = resumed;
        let stream = inherited(socket)?;
        let credentials = credentials(&stream)?;
        let socket = Socket::new(stream)?;
        let places = Places::default();
        let mut pending = Pending::default();
        for one in adopted {
            if !(state.first_id..state.next_id).contains(&one.at_qemu) {
                one.is_lost("the connection to QEMU that it was sent over broke");
                continue;
            }
            let (id, waiter) = one.waiter(&places);
            pending.adopted.push(id);
            pending.waiting.insert(id, waiter);
        }
        pending.fence = Some(state.next_id);
        let mut splitter = Splitter::new(MESSAGE_SIZE_MAX);
        splitter.push(&state.input);
        listeners.go_on(state.told);
        let beginning = Beginning {
            socket: Arc::new(socket),
            splitter,
            credentials,
            oob: state.oob,
            greeting: state.greeting.into(),
            next_id: state.next_id,
            ids_from: state.first_id.saturating_sub(1),
            pending,
            places,
            kept: Some(Arc::new(kept)),
        };
        let (core, events) = beginning.begin(listeners);
        let (outgoing, _) = core.outgoing("execute", "query-status", &json!({}));
        core.writer.send(outgoing);
        Ok((core, events))
    }

    /// An id that was never used on this connection.
    pub(super) fn new_id(&self) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Some(kept) = &self.kept {
            kept.use_id(id);
        }
        id
    }

    /// As it stands in the command: counted on this connection, from 1 on.
    pub(super) fn on_the_wire(&self, id: u64) -> u64 {
        id.saturating_sub(self.ids_from)
    }

    fn outgoing(
        &self,
        how: &str,
        name: &str,
        arguments: &Value,
    ) -> (Outgoing, oneshot::Receiver<Answer>) {
        let id = self.new_id();
        let wire = self.on_the_wire(id);
        // No more bytes than needed, which QEMU reads one by one; it needs no end of the line.
        let is_empty = arguments.as_object().is_some_and(serde_json::Map::is_empty);
        let command = match is_empty {
            true => json!({how: name, "id": wire}),
            false => json!({how: name, "arguments": arguments, "id": wire}),
        };
        let (answer, answered) = oneshot::channel();
        let outgoing = Outgoing {
            id,
            line: command.to_string().into_bytes(),
            fds: Vec::new(),
            waiter: Waiter::Caller(answer),
        };
        (outgoing, answered)
    }

    /// Has QEMU kept so many commands without an answer that it may soon read no more?
    fn is_busy(&self) -> bool {
        let pending = lock(&self.pending);
        let own = pending.waiting.values();
        own.filter(|waiter| matches!(waiter, Waiter::Caller(_)))
            .count()
            >= IN_BAND_MAX
    }

    async fn call(&self, how: &str, name: &str, arguments: Value, wait: Duration) -> Answer {
        let deadline = Instant::now() + wait;
        let (outgoing, answered) = self.outgoing(how, name, &arguments);
        self.writer.send(outgoing);
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(QmpError::Lost {
                why: self.why_closed(),
            }),
            Err(_) => Err(QmpError::TimedOut {
                name: name.to_owned(),
                after: wait,
            }),
        }
    }

    pub(super) fn why_closed(&self) -> String {
        lock(&self.pending)
            .closed
            .clone()
            .unwrap_or_else(|| "the connection ended".to_owned())
    }
}

/// A connection of an earlier life, with what was under way on it.
#[derive(Debug)]
pub struct Resumed {
    /// The connection.
    pub socket: OwnedFd,
    /// How it stands from now on.
    pub kept: KeptQemu,
    /// How it stood.
    pub state: QemuState,
    /// Effects of clients that QEMU may have got.
    pub adopted: Vec<Adopted>,
}

/// A connection whose tasks do not run yet.
struct Beginning {
    socket: Arc<Socket>,
    splitter: Splitter,
    credentials: Credentials,
    oob: bool,
    greeting: Arc<[u8]>,
    next_id: u64,
    ids_from: u64,
    pending: Pending,
    places: Places,
    kept: Option<Arc<KeptQemu>>,
}

impl Beginning {
    fn begin(self, listeners: Listeners) -> (Core, Events) {
        let (events, queue) = mpsc::channel(EVENTS_MAX);
        let overflown = Arc::new(AtomicBool::new(false));
        let pending = Arc::new(Mutex::new(self.pending));
        let socket = self.socket;
        let reader = Reader {
            socket: socket.clone(),
            splitter: self.splitter,
            pending: pending.clone(),
            events,
            listeners,
            overflown: overflown.clone(),
            room: vec![0; READ_SIZE],
            ids_from: self.ids_from,
            kept: self.kept.clone(),
        };
        let writer = Writer::new(socket.clone(), pending.clone(), self.kept.clone());
        let core = Core {
            socket,
            writer,
            pending,
            next_id: AtomicU64::new(self.next_id),
            ids_from: self.ids_from,
            kept: self.kept,
            credentials: self.credentials,
            oob: self.oob,
            greeting: self.greeting,
            places: self.places,
            reading: tokio::spawn(reader.run()),
        };
        (core, Events { queue, overflown })
    }
}

/// A client on a QEMU's monitor. Cheap to clone; the connection ends with the last clone.
#[derive(Clone, Debug)]
pub struct Client(Arc<Core>);

impl Client {
    /// Connects, waits for the greeting, negotiates.
    ///
    /// # Errors
    /// One that names the socket: nobody listens, nobody greets, or it is no QMP.
    pub async fn connect(path: &Path, wait: Duration) -> Result<(Client, Events), QmpError> {
        let (core, events) = Core::connect(path, wait, MESSAGE_SIZE_MAX).await?;
        Ok((Client(Arc::new(core)), events))
    }

    /// The same over a connection that was made before; `listeners` hear every event as it is. With `kept` it outlives
    /// the process.
    ///
    /// # Errors
    /// As for [`Client::connect`].
    pub async fn greet(
        dialled: Dialled,
        wait: Duration,
        listeners: Listeners,
        kept: Option<KeptQemu>,
    ) -> Result<(Client, Events), QmpError> {
        let (core, events) = Core::greet(dialled, wait, MESSAGE_SIZE_MAX, listeners, kept).await?;
        Ok((Client(Arc::new(core)), events))
    }

    /// Goes on with a connection that an earlier life of this process negotiated.
    ///
    /// # Errors
    /// As the system says; the connection is closed.
    pub fn resume(resumed: Resumed, listeners: Listeners) -> io::Result<(Client, Events)> {
        let (core, events) = Core::resume(resumed, listeners)?;
        Ok((Client(Arc::new(core)), events))
    }

    /// Who made the listening socket.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.0.credentials
    }

    /// Asks something that changes nothing.
    ///
    /// # Errors
    /// [`QmpError::NotAQuery`] for everything else; QEMU's error; no answer in time or at all.
    pub async fn query(&self, name: &str, arguments: Value, wait: Duration) -> Answer {
        if classify(name) != Class::Reading {
            return Err(QmpError::NotAQuery {
                name: name.to_owned(),
            });
        }
        if self.0.is_busy() {
            return Err(QmpError::Busy);
        }
        self.0.call("execute", name, arguments, wait).await
    }

    /// Carries out an effect whose intent is durable (P1). The answer says what is known of it.
    ///
    /// There is no other way to a command that changes something, and nobody but the journal can
    /// make its argument:
    ///
    /// ```compile_fail
    /// # use phase_journal::qmp::Client;
    /// # use journal_format::record::Effect;
    /// # async fn f(client: &Client, effect: Effect) {
    /// // An effect as such is not enough: there is no proof that its record is durable.
    /// client.perform(effect, std::time::Duration::from_secs(1)).await;
    /// # }
    /// ```
    pub async fn perform(&self, effect: Durable<Effect>, wait: Duration) -> EffectResult {
        let effect = effect.into_inner();
        let Some((name, arguments)) = qmp_command(&effect.command) else {
            return EffectResult::NotSent {
                why: "it is no QMP command".to_owned(),
            };
        };
        let how = match is_out_of_band(&effect.command) && self.0.oob {
            true => "exec-oob",
            false if self.0.is_busy() => {
                return EffectResult::NotSent {
                    why: QmpError::Busy.to_string(),
                };
            }
            false => "execute",
        };
        result_of(self.0.call(how, name, arguments, wait).await)
    }

    /// The way for clients of the monitor, which does not keep the connection.
    #[must_use]
    pub fn passing(&self) -> Passing {
        Passing::new(&self.0)
    }
}

/// A client on a sidecar's socket: control or peer. Never to be used on a QEMU's monitor, where it
/// would go around the journal.
#[derive(Clone, Debug)]
pub struct SidecarClient(Arc<Core>);

impl SidecarClient {
    /// Connects, waits for the greeting, negotiates.
    ///
    /// # Errors
    /// One that names the socket: nobody listens, nobody greets, or it is no QMP.
    pub async fn connect(path: &Path, wait: Duration) -> Result<(SidecarClient, Events), QmpError> {
        SidecarClient::connect_bounded(path, wait, MESSAGE_SIZE_MAX).await
    }

    /// The same; what is said may have so many bytes, or the connection ends.
    ///
    /// # Errors
    /// As for [`SidecarClient::connect`].
    pub async fn connect_bounded(
        path: &Path,
        wait: Duration,
        size_max: usize,
    ) -> Result<(SidecarClient, Events), QmpError> {
        let (core, events) = Core::connect(path, wait, size_max).await?;
        Ok((SidecarClient(Arc::new(core)), events))
    }

    /// Asks the sidecar.
    ///
    /// # Errors
    /// The sidecar's error; no answer in time or at all.
    pub async fn call(&self, name: &str, arguments: Value, wait: Duration) -> Answer {
        self.0.call("execute", name, arguments, wait).await
    }
}
