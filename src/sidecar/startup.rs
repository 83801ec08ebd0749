//! From nothing to ready, and to the end: the order in which the sidecar comes up and goes down.
//!
//! Invariant: the journal first (its lock keeps a second sidecar out), then the peer socket, then
//! recovery, and only when every open job was decided once the control socket and the word `ready`.
//! A journal that fails ends the process, after everyone who waits was told.
//! Not here: the command line (`bin/phase-journald`), what recovery does (the engine).

use core::fmt;
use core::time::Duration;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use journal_format::number::{BootId, HostId, Id128};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use super::config::{Config, PEERS_MAX, SOCKET_PATH_SIZE_MAX, fits_socket_address};
use super::control::Control;
use super::dispatch::{Dispatcher, NOTICE_QUEUE_MAX, Outside};
use super::history::History;
use super::link::{self, Failure, HandedOut, Inbound, Link, now};
use super::peer::PeerClients;
use super::process::boot_id;
use super::progress::ProgressBoard;
use super::proxy::{KeptConnections, Proxies, ServedDomains};
use super::register::Registrar;
use super::serve::{Requests, serve_control, serve_peers};
use super::store::StoreClient;
use crate::engine::{Input, TICK_INTERVAL_MS, Told};
use crate::journal::disk::{Disk as _, OsDisk};
use crate::journal::lock::{LockError, NoWriter};
use crate::journal::{AppendError, OpenError, OpenOptions, Opened};
use crate::keep::{Inherited, Manager};
use crate::node::{self, Node};
use crate::qmp::{bind, remove_socket};

/// Longest wait, at the end, for answers to be written and the node's thread to stop, in
/// milliseconds.
const STOP_WAIT_MS_MAX: u64 = 2_000;

/// Where the host's identity is, as systemd and dbus have it.
const MACHINE_ID_PATH: &str = "/etc/machine-id";

/// Why the sidecar did not come up, or ended by itself.
#[derive(Debug)]
pub enum RunError {
    /// A directory, file, socket or thread that is needed cannot be had.
    Start {
        /// What was being done.
        doing: &'static str,
        /// To which file, if to one.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another sidecar works in the run directory.
    RunDirectoryTaken {
        /// The directory.
        path: PathBuf,
    },
    /// The journal and the run directory are one: a witness that is put back together with the journal
    /// proves nothing.
    OneDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A socket's path is too long for its address.
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// More other sidecars are named than are asked.
    TooManyPeers,
    /// The path of another sidecar's socket cannot be said in JSON.
    PeerNotText {
        /// The path.
        path: PathBuf,
    },
    /// The journal cannot be opened.
    Open(OpenError),
    /// The journal was opened, and its first records could not be made durable.
    Begin(AppendError),
    /// The journal failed while the sidecar was at work.
    Failed(Failure),
}

impl RunError {
    /// Whether the sidecar never got to work.
    #[must_use]
    pub fn is_start(&self) -> bool {
        match self {
            RunError::Start { .. }
            | RunError::RunDirectoryTaken { .. }
            | RunError::OneDirectory { .. }
            | RunError::SocketPathTooLong { .. }
            | RunError::TooManyPeers
            | RunError::PeerNotText { .. }
            | RunError::Open(_)
            | RunError::Begin(_) => true,
            RunError::Failed(_) => false,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Start {
                doing,
                path,
                source,
            } => write!(f, "could not {doing} {}: {source}", path.display()),
            RunError::RunDirectoryTaken { path } => write!(
                f,
                "{}: another sidecar works in this run directory",
                path.display()
            ),
            RunError::OneDirectory { path } => write!(
                f,
                "{}: the journal and the run directory must not be the same",
                path.display()
            ),
            RunError::SocketPathTooLong { path } => write!(
                f,
                "{}: longer than {SOCKET_PATH_SIZE_MAX} bytes, the most that a socket's address holds",
                path.display()
            ),
            RunError::TooManyPeers => {
                write!(f, "more than {PEERS_MAX} other sidecars are named")
            }
            RunError::PeerNotText { path } => write!(
                f,
                "{}: the path of another sidecar's socket must be UTF-8",
                path.display()
            ),
            RunError::Open(error) => error.fmt(f),
            RunError::Begin(error) => error.fmt(f),
            RunError::Failed(failure) => failure.fmt(f),
        }
    }
}

impl core::error::Error for RunError {}

/// Runs the sidecar until it is asked to stop or its journal fails.
///
/// # Errors
/// See [`RunError`].
pub fn run(config: Config) -> Result<(), RunError> {
    // First of all: what is not gone on with is closed, however this ends.
    let manager = Manager::from_environment();
    let inherited = Inherited::take(&manager);
    let boot = boot_id().map_err(start_error("learn the boot id of", "this host"))?;
    let config = with_directories(config)?;
    if config.run == config.journal {
        return Err(RunError::OneDirectory { path: config.run });
    }
    let Some(_run_lock) = lock(&config.run)? else {
        return Err(RunError::RunDirectoryTaken { path: config.run });
    };
    // The lock in the journal can be removed, and then be had a second time; its directory cannot.
    let Some(_journal_lock) = lock(&config.journal)? else {
        return Err(RunError::Open(in_use(config.journal)));
    };
    let own = [config.control_socket(), config.peer_socket()];
    for socket in own.iter().chain(&config.peers) {
        if !fits_socket_address(socket) {
            let path = socket.clone();
            return Err(RunError::SocketPathTooLong { path });
        }
    }
    if config.peers.len() > PEERS_MAX {
        return Err(RunError::TooManyPeers);
    }
    if let Some(path) = config.peers.iter().find(|path| path.to_str().is_none()) {
        let path = path.clone();
        return Err(RunError::PeerNotText { path });
    }
    let journal = open_journal(&config, boot)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(link::workers())
        .enable_all()
        .build()
        .map_err(start_error("start the threads of", "the sidecar"))?;
    let kept = KeptConnections::new(manager, inherited);
    let result = runtime.block_on(serve(&config, boot, journal, kept));
    // Tasks that still wait for a QEMU are not waited for: the journal has all that matters.
    runtime.shutdown_background();
    result
}

/// Makes the directories, and all paths absolute.
fn with_directories(mut config: Config) -> Result<Config, RunError> {
    for directory in [&mut config.run, &mut config.journal] {
        // Each is durable: a journal must not go with the name of its directory.
        let made = OsDisk::new(directory)
            .make_directory()
            .and_then(|()| fs::canonicalize(&*directory));
        *directory = made.map_err(start_error("make the directory", &*directory))?;
    }
    Ok(config)
}

/// Keeps a second sidecar from taking the sockets away, or from writing the same journal; `None` when
/// there is one. Freed by any end of the process.
fn lock(directory: &Path) -> Result<Option<File>, RunError> {
    let file = File::open(directory).map_err(start_error("open", directory))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(start_error("lock", directory)(error.into())),
    }
}

/// Another sidecar works in the journal; its process, if its lock file is still there.
fn in_use(directory: PathBuf) -> OpenError {
    let holder = match NoWriter::of(&directory) {
        Err(LockError::InUse { holder, .. }) => holder,
        Ok(_) | Err(LockError::Io { .. }) => None,
    };
    OpenError::Locked { directory, holder }
}

fn open_journal(config: &Config, boot: BootId) -> Result<Journal, RunError> {
    let mut options = OpenOptions::new(host_id(), boot);
    options.accept_older = config.accept_older_journal;
    options.retention = config.retention;
    let (disk, run) = (OsDisk::new(&config.journal), OsDisk::new(&config.run));
    let (opened, told) = node::open_journal(disk, Some(run), &options).map_err(RunError::Open)?;
    let opening = opened.opening();
    info!(
        journal = %opened.journal(),
        epoch = %opening.epoch,
        lsn = %opening.first,
        is_new = opened.is_new(),
        ending = ?opened.ending(),
        io = %opened.io_mode(),
        "journal open"
    );
    Ok((opened, told))
}

/// A journal that was opened, and what it told.
type Journal = (Opened<OsDisk>, Told);

/// The host's identity; all zero where there is none (in a container, say).
fn host_id() -> HostId {
    let text = fs::read_to_string(MACHINE_ID_PATH).unwrap_or_default();
    HostId(Id128::parse(text.trim()).unwrap_or(Id128::NIL))
}

/// What stops the sidecar from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn asked_to_stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve(
    config: &Config,
    boot: BootId,
    journal: Journal,
    kept: KeptConnections,
) -> Result<(), RunError> {
    let manager = kept.manager().clone();
    let mut signals =
        Signals::listen().map_err(start_error("listen for signals of", "the system"))?;
    let mut sidecar = Sidecar::start(config, boot, journal, kept)?;
    let mut result = Ok(());
    let recovered = tokio::select! {
        result = sidecar.is_ready.wait_for(|ready| *ready) => result.is_ok(),
        () = signals.asked_to_stop() => false,
        _ = sidecar.link.ended() => false,
    };
    if recovered {
        result = sidecar.open_control(config, boot);
        if result.is_ok() {
            announce(&manager);
            tokio::select! {
                () = signals.asked_to_stop() => {}
                _ = sidecar.link.ended() => {}
            }
        }
    }
    manager.stop();
    let stopped = sidecar.stop().await;
    remove_sockets(config);
    result.and(stopped)
}

fn start_error(
    doing: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> RunError {
    let path = path.into();
    move |source| RunError::Start {
        doing,
        path,
        source,
    }
}

/// Everything that runs.
struct Sidecar {
    link: Link,
    board: ProgressBoard,
    notices: broadcast::Sender<(&'static str, Value)>,
    requests: Requests,
    servers: JoinSet<()>,
    tasks: Tasks,
    is_ready: watch::Receiver<bool>,
    served: ServedDomains,
}

impl Sidecar {
    /// The peer socket first: who asks before the first turn waits for it.
    fn start(
        config: &Config,
        boot: BootId,
        (opened, told): Journal,
        kept: KeptConnections,
    ) -> Result<Sidecar, RunError> {
        let (link, inbound) = Link::new();
        let requests = Requests::default();
        let path = config.peer_socket();
        let socket = bind(&path).map_err(start_error("bind", &path))?;
        let mut servers = JoinSet::new();
        servers.spawn(serve_peers(socket, link.clone(), requests.clone()));

        let peer = path.to_string_lossy().into_owned();
        let begin = now();
        let store = config.store.as_ref().map(|store| store.id().to_owned());
        let switch = config.crash.clone();
        let (mut node, first) =
            Node::open(opened, told, boot, peer, store, begin, switch).map_err(RunError::Begin)?;
        if !config.peers.is_empty() {
            node.ask_others();
        }
        let (notices, _) = broadcast::channel(NOTICE_QUEUE_MAX);
        let (ready, is_ready) = watch::channel(false);
        let board = ProgressBoard::default();
        let outside = Outside {
            peers: PeerClients::new(link.clone(), config.peers.clone()),
            store: StoreClient::new(link.clone(), config.store.clone()),
        };
        let directory = config.domains_directory();
        OsDisk::new(&directory)
            .make_directory()
            .map_err(start_error("make the directory", &directory))?;
        let served = ServedDomains::default();
        let dispatcher = Dispatcher::new(
            boot,
            link.clone(),
            board.clone(),
            outside,
            notices.clone(),
            ready,
            Proxies::new(directory, link.clone(), served.clone(), kept),
        );
        let (_, first) = link.hand_out(begin, first);
        let tasks = Tasks::start(node, first, &link, inbound, dispatcher)
            .map_err(start_error("start a thread of", "the sidecar"))?;
        Ok(Sidecar {
            link,
            board,
            notices,
            requests,
            servers,
            tasks,
            is_ready,
            served,
        })
    }

    fn open_control(&mut self, config: &Config, boot: BootId) -> Result<(), RunError> {
        let link = self.link.clone();
        let control = Control {
            registrar: Registrar {
                link: link.clone(),
                boot,
            },
            history: History::new(config.journal.clone()),
            link,
            board: self.board.clone(),
            served: self.served.clone(),
        };
        let history = control.history.clone();
        self.servers.spawn(async move { history.index().await });
        let path = config.control_socket();
        let socket = bind(&path).map_err(start_error("bind", path))?;
        let (notices, requests) = (self.notices.clone(), self.requests.clone());
        self.servers
            .spawn(serve_control(socket, control, notices, requests));
        Ok(())
    }

    /// Tells everyone who waits, and ends.
    async fn stop(self) -> Result<(), RunError> {
        info!("stopping");
        let failure = self.link.failure();
        self.link.close(&Failure::Stopping);
        let result = self.tasks.stop(failure).await;
        let wait = Duration::from_millis(STOP_WAIT_MS_MAX);
        self.requests.finished(wait).await;
        // Only now: a server that ends takes its clients along.
        drop(self.servers);
        result
    }
}

/// One line for people and scripts, one datagram for the service manager.
fn announce(manager: &Manager) {
    info!("ready");
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "ready").and_then(|()| stdout.flush()) {
        warn!(%error, "nobody reads that the sidecar is ready");
    }
    if let Err(error) = manager.notify("READY=1") {
        warn!(%error, "the service manager could not be told");
    }
}

fn remove_sockets(config: &Config) {
    for socket in [config.control_socket(), config.peer_socket()] {
        // A socket that stays behind does no harm: the next start takes its place.
        drop(remove_socket(&socket));
    }
}

/// The node's thread and the tasks closest to it.
struct Tasks {
    node: JoinHandle<Result<(), AppendError>>,
    /// With all that it holds; the node's task gives it what is to be carried out.
    dispatcher: Arc<Mutex<Dispatcher>>,
    ticker: JoinHandle<()>,
}

impl Tasks {
    fn start(
        node: Node<OsDisk>,
        first: Option<HandedOut>,
        link: &Link,
        inbound: mpsc::Receiver<Inbound>,
        dispatcher: Dispatcher,
    ) -> io::Result<Tasks> {
        let dispatcher = Arc::new(Mutex::new(dispatcher));
        let carrying = dispatcher.clone();
        // A task that panicked ends the process.
        let carry_out = move |one| {
            let mut dispatcher = carrying.lock().unwrap_or_else(PoisonError::into_inner);
            dispatcher.hand_out(one);
        };
        if let Some(first) = first {
            carry_out(first);
        }
        let spare_maker = node.spare_maker();
        std::thread::Builder::new()
            .name("spares".to_owned())
            .spawn(move || spare_maker.run())?;
        let running = tokio::spawn(link::run(node, link.clone(), inbound, carry_out));
        let watch_link = link.clone();
        let node = tokio::spawn(async move {
            // It panicked: everyone is told.
            running.await.unwrap_or_else(|_| {
                watch_link.close(&Failure::Broken);
                Ok(())
            })
        });
        let tick_link = link.clone();
        let ticker = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(TICK_INTERVAL_MS));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                tick_link.tell_if_idle(Input::Tick);
            }
        });
        Ok(Tasks {
            node,
            dispatcher,
            ticker,
        })
    }

    /// Ends them. With the link closed the node's task ends after its next turn, which the next
    /// tick brings.
    async fn stop(self, failure: Option<Failure>) -> Result<(), RunError> {
        let wait = Duration::from_millis(STOP_WAIT_MS_MAX);
        let ended = timeout(wait, self.node).await;
        self.ticker.abort();
        drop(self.dispatcher);
        if ended.is_err() {
            warn!("the journal did not come to rest in time");
        }
        match failure {
            None | Some(Failure::Stopping) => Ok(()),
            Some(failure) => {
                error!(%failure, "ending");
                Err(RunError::Failed(failure))
            }
        }
    }
}
