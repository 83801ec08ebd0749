//! The monitor in QEMU's place: a socket for each domain that any QMP client can use.
//!
//! Invariant: clients are bounded and none of them holds up another, QEMU or the sidecar; what only reads passes straight
//! through, an effect only when its intent is durable (P1). Clients keep their connections while the one to QEMU is made
//! anew, and lose them when QEMU ends.
//! Not here: the connection to QEMU (`monitor`), what a command may do (the engine), its bytes (`qmp`).

mod incoming;
mod left;
mod passage;
mod served;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal_format::number::{BootId, DomainId};
use journal_format::record::Instance;
use tokio::net::UnixListener;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::config::{SOCKET_PATH_SIZE_MAX, fits_socket_address};
use super::link::Link;
use super::process::Held;
use super::take_over::{Name, Placed, TakeOverError, TakenOver};
use crate::keep::{KeptClient, KeptQemu, Manager, Owner};
use crate::qmp::{Adopted, Listeners, Passing, Resumed, bind, remove_socket};

pub(crate) use left::{KeptConnections, LeftClient, LeftQemu};
pub(crate) use passage::{Arrived, Finished, Passage};

/// Clients of one domain's monitor at the same time, at the most; one more is turned away.
pub(crate) const CLIENTS_MAX: usize = 128;

/// How long to wait before accepting again when the system refuses to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long to wait before trying again to take QEMU's socket over.
const TAKE_OVER_PAUSE: Duration = Duration::from_secs(1);

/// Longest wait for a domain's sockets to be there.
const SERVED_WAIT: Duration = Duration::from_secs(2);

/// The connection to QEMU, as clients see it.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    /// There is none now; one is being made.
    Away,
    /// There is one.
    Here(Passing),
    /// QEMU is gone for good.
    Ended,
}

/// Where the task that holds the connection to QEMU meets those of the clients.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    upstream: Arc<watch::Sender<Upstream>>,
    listeners: Listeners,
    keeping: Arc<Keeping>,
}

impl Port {
    /// A port without a connection.
    pub(crate) fn new(keeping: Keeping) -> Port {
        Port {
            upstream: Arc::new(watch::Sender::new(Upstream::Away)),
            listeners: Listeners::default(),
            keeping: Arc::new(keeping),
        }
    }

    /// Has a client's connection kept, if somebody keeps any.
    fn keep(&self, socket: BorrowedFd<'_>) -> Option<KeptClient> {
        KeptClient::keep(&self.keeping.manager, self.keeping.owner?, socket)
    }

    /// For a connection to QEMU that is to be kept.
    pub(crate) fn keep_qemu(&self) -> Option<KeptQemu> {
        KeptQemu::prepare(&self.keeping.manager, self.keeping.owner?)
    }

    /// Leaves it to who takes up QEMU's connection to have an effect of an earlier life answered.
    fn adopt(&self, adopted: Adopted) {
        self.keeping.adopted().push(adopted);
    }

    /// The connection to QEMU of an earlier life, and whether there was one that is lost. Once.
    pub(crate) fn left(&self) -> Option<Resumed> {
        let adopted = core::mem::take(&mut *self.keeping.adopted());
        match self.keeping.qemu().take() {
            Some(LeftQemu {
                socket,
                kept,
                state,
            }) => Some(Resumed {
                socket,
                kept,
                state,
                adopted,
            }),
            None => {
                for one in adopted {
                    one.is_lost(
                        "the connection to QEMU was not kept when the sidecar was restarted",
                    );
                }
                None
            }
        }
    }

    /// Says what clients see from now on. What has ended stays so.
    pub(crate) fn set(&self, upstream: Upstream) {
        self.upstream.send_if_modified(|now| {
            let changes = !matches!(now, Upstream::Ended);
            if changes {
                *now = upstream;
            }
            changes
        });
    }

    /// Who hears QEMU's events.
    pub(crate) fn listeners(&self) -> Listeners {
        self.listeners.clone()
    }

    /// The connection, once there is one; `None` when QEMU is gone.
    async fn here(&self) -> Option<Passing> {
        let mut upstream = self.upstream.subscribe();
        let found = upstream
            .wait_for(|upstream| !matches!(upstream, Upstream::Away))
            .await;
        match found.as_deref() {
            Ok(Upstream::Here(passing)) => Some(passing.clone()),
            Ok(Upstream::Ended | Upstream::Away) | Err(_) => None,
        }
    }

    /// Returns when QEMU is gone.
    async fn ended(&self) {
        let mut upstream = self.upstream.subscribe();
        // The sender is ours.
        drop(
            upstream
                .wait_for(|upstream| matches!(upstream, Upstream::Ended))
                .await,
        );
    }
}

/// What of a domain's connections outlives the process.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    manager: Manager,
    /// `None` where nothing is kept.
    owner: Option<Owner>,
    qemu: Mutex<Option<LeftQemu>>,
    adopted: Mutex<Vec<Adopted>>,
}

impl Keeping {
    fn adopted(&self) -> MutexGuard<'_, Vec<Adopted>> {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn qemu(&self) -> MutexGuard<'_, Option<LeftQemu>> {
        self.qemu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client's tasks share.
#[derive(Clone, Debug)]
struct Shared {
    domain: DomainId,
    link: Link,
    port: Port,
    /// One effect of this domain's clients at a time; the engine sees the others when it is done.
    effects: Arc<Semaphore>,
}

/// All domains' sockets.
#[derive(Debug)]
pub(crate) struct Proxies {
    directory: PathBuf,
    link: Link,
    served: ServedDomains,
    kept: KeptConnections,
    open: HashMap<DomainId, Proxy>,
}

impl Proxies {
    /// None yet; they will be in this directory.
    pub(crate) fn new(
        directory: PathBuf,
        link: Link,
        served: ServedDomains,
        kept: KeptConnections,
    ) -> Proxies {
        Proxies {
            directory,
            link,
            served,
            kept,
            open: HashMap::new(),
        }
    }

    /// Serves a domain's monitor under its name, in place of an earlier one of that domain. Says where the connection to
    /// QEMU is to be handed over.
    /// Does it at the place of QEMU's own socket too if that was, or is to be, taken over.
    /// Clients and the connection to QEMU of an earlier life go on.
    pub(crate) fn start(
        &mut self,
        domain: DomainId,
        name: &str,
        instance: Instance,
        front: Option<Front>,
    ) -> Port {
        // The old one's socket goes first: the new one takes its place.
        self.stop(domain);
        let owner = Owner { domain, instance };
        let (manager, left) = (self.kept.manager.clone(), self.kept.take(owner));
        let keeping = Keeping {
            owner: Some(owner),
            qemu: Mutex::new(left.qemu),
            manager,
            ..Keeping::default()
        };
        let shared = Shared {
            domain,
            link: self.link.clone(),
            port: Port::new(keeping),
            effects: Arc::new(Semaphore::new(1)),
        };
        let served = self.served.clone();
        let proxy = Proxy::start(&self.directory, name, front, shared, left.clients, served);
        let port = proxy.port.clone();
        self.open.insert(domain, proxy);
        port
    }

    /// All domains are known: whose connections are left over is gone.
    pub(crate) fn has_all(&mut self) {
        self.kept.close_rest();
    }

    /// No longer.
    pub(crate) fn stop(&mut self, domain: DomainId) {
        drop(self.open.remove(&domain));
    }
}

/// Which domains' sockets are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServedDomains(Arc<watch::Sender<BTreeMap<DomainId, Served>>>);

/// How a domain is served.
#[derive(Clone, Debug)]
struct Served {
    /// Its sockets are all there, or why one is not; `None` while that is not known.
    result: Option<Result<(), String>>,
    /// If it is served at the place of QEMU's socket.
    front: Option<Arc<Front>>,
}

impl ServedDomains {
    /// Returns when the domain's sockets are there, or have had time to be.
    ///
    /// # Errors
    /// Why QEMU's socket was not taken over.
    pub(crate) async fn wait(&self, domain: DomainId) -> Result<(), String> {
        let mut served = self.0.subscribe();
        let is_known = served.wait_for(|served| {
            let one = served.get(&domain);
            one.is_some_and(|one| one.result.is_some())
        });
        let known = timeout(SERVED_WAIT, is_known).await;
        let result = match &known {
            Ok(Ok(served)) => served.get(&domain).and_then(|one| one.result.clone()),
            Ok(Err(_)) | Err(_) => None,
        };
        result.unwrap_or_else(|| Err("its monitor is not served yet".to_owned()))
    }

    /// Puts QEMU's socket back if it was taken over; from now on it is not.
    ///
    /// # Errors
    /// As [`TakenOver::put_back`].
    pub(crate) async fn give_back(&self, domain: DomainId) -> io::Result<()> {
        let Some(front) = self.front(domain) else {
            return Ok(());
        };
        let mut is_given_back = front.is_given_back.lock().await;
        *is_given_back = true;
        front.taken.put_back(front.instance).await
    }

    /// It is to be taken over all the same.
    pub(crate) async fn take_over_again(&self, domain: DomainId) {
        if let Some(front) = self.front(domain) {
            *front.is_given_back.lock().await = false;
            front.again.notify_one();
        }
    }

    fn front(&self, domain: DomainId) -> Option<Arc<Front>> {
        self.0.borrow().get(&domain)?.front.clone()
    }

    fn begin(&self, domain: DomainId, front: Option<Arc<Front>>) {
        self.0.send_modify(|served| {
            let one = Served {
                result: None,
                front,
            };
            served.insert(domain, one);
        });
    }

    fn set(&self, domain: DomainId, result: Result<(), String>) {
        self.0.send_modify(|served| {
            if let Some(one) = served.get_mut(&domain) {
                one.result = Some(result);
            }
        });
    }

    fn end(&self, domain: DomainId) {
        self.0.send_modify(|served| {
            served.remove(&domain);
        });
    }
}

/// QEMU's own socket, at whose place a domain is served.
#[derive(Debug)]
pub(crate) struct Front {
    taken: TakenOver,
    instance: Instance,
    boot: BootId,
    /// Held while names change: what is being put back is not taken over meanwhile.
    is_given_back: AsyncMutex<bool>,
    /// Wakes who has to see whether it is still taken over.
    again: Notify,
}

impl Front {
    /// For a socket that was, or is to be, taken over.
    pub(crate) fn new(taken: TakenOver, instance: Instance, boot: BootId) -> Front {
        Front {
            taken,
            instance,
            boot,
            is_given_back: AsyncMutex::new(false),
            again: Notify::new(),
        }
    }
}

/// A domain's sockets, for as long as they are served.
#[derive(Debug)]
struct Proxy {
    port: Port,
    tasks: Vec<JoinHandle<()>>,
    names: Names,
    front_names: Names,
    domain: DomainId,
    served: ServedDomains,
}

/// The names of its sockets. They go at once when it is no longer served: a task that is ended goes a moment later, when its
/// successor may have them.
#[derive(Clone, Debug, Default)]
struct Names(Arc<Mutex<Vec<Name>>>);

impl Names {
    fn list(&self) -> MutexGuard<'_, Vec<Name>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the socket's name, and gives the socket.
    fn keep(&self, placed: Placed) -> UnixListener {
        self.list().push(placed.name);
        placed.listener
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.names.list().clear();
        self.front_names.list().clear();
        // At the end of the process what is kept stays open.
        if !self.port.keeping.manager.is_stopping() {
            self.port.set(Upstream::Ended);
        }
        self.served.end(self.domain);
    }
}

impl Proxy {
    /// Serves a domain's monitor under its name in this directory.
    fn start(
        directory: &Path,
        name: &str,
        front: Option<Front>,
        shared: Shared,
        left: Vec<LeftClient>,
        served: ServedDomains,
    ) -> Proxy {
        let (domain, port) = (shared.domain, shared.port.clone());
        let front = front.map(Arc::new);
        served.begin(domain, front.clone());
        let clients = Clients {
            places: Arc::new(Semaphore::new(CLIENTS_MAX)),
            shared,
        };
        let (names, front_names) = (Names::default(), Names::default());
        let mut tasks = vec![tokio::spawn(clients.clone().go_on(left))];
        let path = directory.join(file_name(name));
        match listen(&path) {
            Ok(placed) => {
                let (listener, clients) = (names.keep(placed), clients.clone());
                tasks.push(tokio::spawn(async move {
                    clients.accept(&listener, &mut JoinSet::new()).await;
                }));
            }
            Err(error) => warn!(domain = %name, %error, "its monitor is not served"),
        }
        match front {
            None => served.set(domain, Ok(())),
            Some(front) => {
                let fronted = Fronted {
                    front,
                    names: front_names.clone(),
                    clients,
                    served: served.clone(),
                };
                tasks.push(tokio::spawn(fronted.run()));
            }
        }
        Proxy {
            port,
            tasks,
            names,
            front_names,
            domain,
            served,
        }
    }
}

/// The task that serves a domain in the place of QEMU's own socket.
#[derive(Debug)]
struct Fronted {
    front: Arc<Front>,
    names: Names,
    clients: Clients,
    served: ServedDomains,
}

impl Fronted {
    async fn run(self) {
        let (domain, port) = (self.clients.shared.domain, self.clients.shared.port.clone());
        // They stay when the socket has to be made anew.
        let mut connected = JoinSet::new();
        let mut told = None;
        while !self.has_ended() {
            let listener = match self.establish().await {
                Some(Ok(listener)) => Some(listener),
                Some(Err(error)) => {
                    let error = error.to_string();
                    // It is tried on and on, and said once.
                    if told.as_ref() != Some(&error) {
                        warn!(%domain, error, "QEMU's socket is not taken over");
                    }
                    self.served.set(domain, Err(error.clone()));
                    told = Some(error);
                    tokio::select! {
                        () = port.ended() => break,
                        () = sleep(TAKE_OVER_PAUSE) => continue,
                    }
                }
                None => None,
            };
            if listener.is_some() {
                told = None;
                self.served.set(domain, Ok(()));
            }
            tokio::select! {
                () = self.serve(listener, &mut connected) => {}
                () = self.front.again.notified() => {}
                () = port.ended() => break,
            }
        }
        self.names.list().clear();
        self.served.set(domain, Ok(()));
        self.front.taken.clear();
    }

    /// A process that is gone has no socket; one with its number may have one. Where the system does not say, it is tried.
    fn has_ended(&self) -> bool {
        matches!(Held::open(self.front.instance, self.front.boot), Ok(None))
    }

    /// Nothing if QEMU's socket was given back.
    async fn establish(&self) -> Option<Result<UnixListener, TakeOverError>> {
        let is_given_back = self.front.is_given_back.lock().await;
        if *is_given_back {
            return None;
        }
        self.names.list().clear();
        let placed = self.front.taken.establish(self.front.instance).await;
        Some(placed.map(|placed| self.names.keep(placed)))
    }

    async fn serve(&self, listener: Option<UnixListener>, connected: &mut JoinSet<()>) {
        match listener {
            Some(listener) => self.clients.accept(&listener, connected).await,
            None => core::future::pending().await,
        }
    }
}

fn listen(path: &Path) -> io::Result<Placed> {
    if !fits_socket_address(path) {
        let why = format!(
            "{}: longer than {SOCKET_PATH_SIZE_MAX} bytes, the most that a socket's address holds",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    match remove_socket(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    Ok(Placed::new(bind(path)?, path))
}

/// The name of a domain's socket. A name may have anything in it that can be shown: what cannot stand in the name of a
/// file is written as in a URL.
pub(crate) fn file_name(name: &str) -> String {
    let mut file = String::with_capacity(name.len() + 5);
    for (at, character) in name.char_indices() {
        match character {
            '/' | '%' => file.push_str(&format!("%{:02X}", u32::from(character))),
            '.' if at == 0 => file.push_str("%2E"),
            other => file.push(other),
        }
    }
    file.push_str(".sock");
    file
}

/// The clients of a domain's sockets.
#[derive(Clone, Debug)]
struct Clients {
    places: Arc<Semaphore>,
    shared: Shared,
}

impl Clients {
    /// Serves clients of an earlier life. They hear events from now on, before QEMU is asked for any.
    fn go_on(self, left: Vec<LeftClient>) -> impl Future<Output = ()> + Send + 'static {
        let mut clients = JoinSet::new();
        for one in left {
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                continue;
            };
            if let Some(resumed) = served::resume(one, self.shared.clone()) {
                clients.spawn(async move {
                    let _place = place;
                    resumed.serve().await;
                });
            }
        }
        async move { while clients.join_next().await.is_some() {} }
    }

    /// Serves whoever connects, for as long as it is waited for.
    async fn accept(&self, listener: &UnixListener, clients: &mut JoinSet<()>) {
        loop {
            while clients.try_join_next().is_some() {}
            let Ok((stream, _)) = listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Without a place the connection is closed at once, which a client sees.
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                continue;
            };
            let shared = self.shared.clone();
            clients.spawn(async move {
                let _place = place;
                served::serve(stream, shared).await;
            });
        }
    }
}
