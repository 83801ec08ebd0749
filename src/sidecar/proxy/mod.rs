//! The monitor in QEMU's place: a socket for each domain that any QMP client can use.
//!
//! Invariant: clients are bounded and none of them holds up another, QEMU or the sidecar; what only reads passes straight
//! through, an effect only when its intent is durable (P1). Clients keep their connections while the one to QEMU is made
//! anew, and lose them when QEMU ends.
//! Not here: the connection to QEMU (`monitor`), what a command may do (the engine), its bytes (`qmp`).

mod incoming;
mod passage;
mod served;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use journal_format::number::DomainId;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::config::{SOCKET_PATH_SIZE_MAX, fits_socket_address};
use super::link::Link;
use crate::qmp::{Listeners, Passing, bind, remove_socket};

pub(crate) use passage::{Arrived, Passage};

/// Clients of one domain's monitor at the same time, at the most; one more is turned away.
pub(crate) const CLIENTS_MAX: usize = 128;

/// How long to wait before accepting again when the system refuses to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest wait for a domain's socket to be there.
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
}

impl Port {
    /// A port without a connection.
    pub(crate) fn new() -> Port {
        Port {
            upstream: Arc::new(watch::Sender::new(Upstream::Away)),
            listeners: Listeners::default(),
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
    open: HashMap<DomainId, Proxy>,
}

impl Proxies {
    /// None yet; they will be in this directory.
    pub(crate) fn new(directory: PathBuf, link: Link, served: ServedDomains) -> Proxies {
        Proxies {
            directory,
            link,
            served,
            open: HashMap::new(),
        }
    }

    /// Serves a domain's monitor under its name, in place of an earlier one of that domain. Says where the connection to
    /// QEMU is to be handed over.
    pub(crate) fn start(&mut self, domain: DomainId, name: &str) -> Port {
        // The old one's socket goes first: the new one takes its place.
        self.stop(domain);
        let (link, served) = (self.link.clone(), self.served.clone());
        let proxy = Proxy::start(&self.directory, name, domain, link, served);
        let port = proxy.port.clone();
        self.open.insert(domain, proxy);
        port
    }

    /// No longer.
    pub(crate) fn stop(&mut self, domain: DomainId) {
        drop(self.open.remove(&domain));
    }
}

/// Which domains' sockets are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServedDomains(Arc<watch::Sender<BTreeSet<DomainId>>>);

impl ServedDomains {
    /// Returns when the domain's socket is there, or has had time to be.
    pub(crate) async fn wait(&self, domain: DomainId) {
        let mut served = self.0.subscribe();
        let is_there = served.wait_for(|served| served.contains(&domain));
        drop(timeout(SERVED_WAIT, is_there).await);
    }
}

/// A domain's socket, for as long as it is served.
#[derive(Debug)]
struct Proxy {
    path: Option<PathBuf>,
    port: Port,
    task: JoinHandle<()>,
    domain: DomainId,
    served: ServedDomains,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.port.set(Upstream::Ended);
        self.served.0.send_modify(|served| {
            served.remove(&self.domain);
        });
        if let Some(path) = &self.path {
            // One that stays behind does no harm: whoever comes next takes its place.
            drop(remove_socket(path));
        }
    }
}

impl Proxy {
    /// Serves a domain's monitor under its name in this directory.
    fn start(
        directory: &Path,
        name: &str,
        domain: DomainId,
        link: Link,
        served: ServedDomains,
    ) -> Proxy {
        let port = Port::new();
        let path = directory.join(file_name(name));
        let listener = listen(&path);
        served.0.send_modify(|served| {
            served.insert(domain);
        });
        let (path, task) = match listener {
            Ok(listener) => {
                let shared = Shared {
                    domain,
                    link,
                    port: port.clone(),
                    effects: Arc::new(Semaphore::new(1)),
                };
                (Some(path), tokio::spawn(accept(listener, shared)))
            }
            Err(error) => {
                warn!(domain = %name, %error, "its monitor is not served");
                (None, tokio::spawn(async {}))
            }
        };
        Proxy {
            path,
            port,
            task,
            domain,
            served,
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
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
    bind(path)
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

async fn accept(listener: UnixListener, shared: Shared) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut clients = tokio::task::JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Without a place the connection is closed at once, which a client sees.
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let shared = shared.clone();
        clients.spawn(async move {
            let _place = place;
            served::serve(stream, shared).await;
        });
    }
}
