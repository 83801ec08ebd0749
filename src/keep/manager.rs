//! The service manager: it is told that the sidecar is ready, and keeps file descriptors for the next life (sd_notify(3), "File Descriptor
//! Store").
//!
//! Invariant: without a service manager, or one that cannot be reached, nothing changes. What is put into the store is taken
//! out again when it is over, unless the process ends.
//! Not here: what is kept (`client`, `qemu`), when the sidecar is ready (`sidecar::startup`).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use journal_format::number::Id128;
use rustix::fs::{FileType, fstat};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg, shutdown,
};
use tracing::{debug, warn};

use super::state::StateFile;

/// Environment variable that names the service manager's socket.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// What the names of all that is kept begin with.
const PREFIX: &str = "phase-journal-";

/// Connections that are taken up again at the most, so that a store that is full of something else costs nothing.
const KEPT_MAX: usize = 8192;

/// The service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Manager(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    address: Option<SocketAddr>,
    is_stopping: AtomicBool,
    /// What is to leave the store, and could not be said yet: the service manager reads slowly.
    leaving: Mutex<Vec<String>>,
}

/// Something in the store, which is taken out with this.
#[derive(Debug)]
pub struct Ticket {
    manager: Manager,
    name: String,
}

/// A connection that an earlier life left in the store.
#[derive(Debug)]
pub struct Left {
    /// The connection.
    pub socket: OwnedFd,
    /// How it stood.
    pub file: OwnedFd,
    /// Its place in the store.
    pub ticket: Ticket,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Clients of monitors.
    pub clients: Vec<Left>,
    /// Connections to QEMUs.
    pub qemus: Vec<Left>,
}

impl Manager {
    /// As the environment names it.
    #[must_use]
    pub fn from_environment() -> Manager {
        let socket = std::env::var(SOCKET_VARIABLE).ok();
        let address = socket.and_then(|socket| {
            let address = address(&socket);
            if let Err(error) = &address {
                warn!(%error, socket, "the service manager cannot be reached");
            }
            address.ok()
        });
        Manager::at(address)
    }

    fn at(address: Option<SocketAddr>) -> Manager {
        Manager(Arc::new(Shared {
            address,
            ..Shared::default()
        }))
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.address.is_some()
    }

    /// From now on nothing is taken out of the store any more: the process is about to end.
    pub fn stop(&self) {
        self.0.is_stopping.store(self.is_there(), Ordering::SeqCst);
    }

    /// Whether the process is about to end, and leaves to the next life what is kept.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.is_stopping.load(Ordering::SeqCst)
    }

    /// Sends `state`, such as `READY=1`, if there is somebody.
    ///
    /// # Errors
    /// There is one, and it could not be told.
    pub fn notify(&self, state: &str) -> io::Result<()> {
        self.send(state, &[])
    }

    /// Has a connection and its state kept.
    ///
    /// # Errors
    /// It could not be told. Whether it keeps anything nobody learns.
    pub(super) fn store(
        &self,
        kind: &str,
        file: &StateFile,
        socket: BorrowedFd<'_>,
    ) -> io::Result<Ticket> {
        self.let_leave();
        let name = format!("{PREFIX}{kind}-{}", Id128::random());
        // A client that hung up needs no place. Of a QEMU that ended its last words may still be there.
        let poll = match kind {
            "qemu" => "\nFDPOLL=0",
            _ => "",
        };
        let state = format!("FDSTORE=1\nFDNAME={name}{poll}");
        self.send(&state, &[socket, file.as_fd()])?;
        Ok(Ticket {
            manager: self.clone(),
            name,
        })
    }

    /// Takes out of the store what is over.
    fn let_leave(&self) {
        // Nothing panics while it holds this lock.
        let leaving = self.0.leaving.lock();
        let mut leaving = leaving.unwrap_or_else(PoisonError::into_inner);
        while let Some(name) = leaving.last() {
            let state = format!("FDSTOREREMOVE=1\nFDNAME={name}");
            if let Err(error) = self.notify(&state) {
                debug!(%error, name, "it stays in the file descriptor store for now");
                return;
            }
            leaving.pop();
        }
    }

    fn send(&self, state: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(address) = &self.0.address else {
            return Ok(());
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(address)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("too many file descriptors"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(
            &socket,
            &[IoSlice::new(state.as_bytes())],
            &mut ancillary,
            flags,
        )?;
        Ok(())
    }
}

/// A name that begins with `@` is in the abstract namespace, anything else is a path.
fn address(socket: &str) -> io::Result<SocketAddr> {
    match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
impl Manager {
    pub(crate) fn at_path(path: &std::path::Path) -> Manager {
        Manager::at(SocketAddr::from_pathname(path).ok())
    }
}

#[cfg(test)]
impl Ticket {
    pub(crate) fn for_test(manager: &Manager) -> Ticket {
        Ticket {
            manager: manager.clone(),
            name: String::new(),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.manager.is_stopping() {
            return;
        }
        let leaving = self.manager.0.leaving.lock();
        let mut leaving = leaving.unwrap_or_else(PoisonError::into_inner);
        if leaving.len() < KEPT_MAX {
            leaving.push(core::mem::take(&mut self.name));
        }
        drop(leaving);
        self.manager.let_leave();
    }
}

impl Inherited {
    /// What the service manager kept for this process. To be called once, at its begin.
    #[must_use]
    pub fn take(manager: &Manager) -> Inherited {
        let fds = sd_listen_fds::get().unwrap_or_else(|error| {
            warn!(%error, "nothing is taken from the file descriptor store");
            Vec::new()
        });
        let named = fds
            .into_iter()
            .map(|(name, fd)| (name.unwrap_or_default(), fd.into_std()));
        Inherited::of(manager, named)
    }

    fn of(manager: &Manager, fds: impl Iterator<Item = (String, OwnedFd)>) -> Inherited {
        let mut groups: Vec<(String, Vec<OwnedFd>)> = Vec::new();
        for (name, fd) in fds {
            // It fails for what is no descriptor at all; that is found out below.
            let _ = fcntl_setfd(&fd, FdFlags::CLOEXEC);
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, group)) => group.push(fd),
                None => groups.push((name, vec![fd])),
            }
        }
        let mut inherited = Inherited::default();
        for (name, fds) in groups {
            // Whatever becomes of it: it leaves the store when it is over.
            let ticket = Ticket {
                manager: manager.clone(),
                name: name.clone(),
            };
            let kind = name.strip_prefix(PREFIX).and_then(|rest| {
                let (kind, _) = rest.split_once('-')?;
                Some(kind)
            });
            let list = match kind {
                Some("client") => &mut inherited.clients,
                Some("qemu") => &mut inherited.qemus,
                Some(_) | None => {
                    warn!(
                        name,
                        "closed: it is not known from the file descriptor store"
                    );
                    continue;
                }
            };
            match pair(fds) {
                Ok((socket, file)) if manager.is_there() && list.len() < KEPT_MAX => {
                    list.push(Left {
                        socket,
                        file,
                        ticket,
                    });
                }
                Ok((socket, file)) => end(&[socket, file]),
                Err(fds) => {
                    debug!(name, "closed: the other end hung up, or it is not whole");
                    end(&fds);
                }
            }
        }
        inherited
    }
}

/// The service manager may not be told, and has them open too: the other end, of which QEMU serves no second, is to know all the same.
fn end(fds: &[OwnedFd]) {
    for fd in fds {
        // It fails for what is no connection, or is none any more.
        let _ = shutdown(fd, Shutdown::Both);
    }
}

/// A connection and its state, in whatever order; else they come back.
fn pair(fds: Vec<OwnedFd>) -> Result<(OwnedFd, OwnedFd), Vec<OwnedFd>> {
    let [one, other]: [OwnedFd; 2] = fds.try_into()?;
    let kind = |fd: &OwnedFd| fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match (kind(&one), kind(&other)) {
        (Ok(FileType::Socket), Ok(FileType::RegularFile)) => Ok((one, other)),
        (Ok(FileType::RegularFile), Ok(FileType::Socket)) => Ok((other, one)),
        _ => Err(vec![one, other]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(socket: &str) -> Manager {
        Manager::at(Some(address(socket).unwrap()))
    }

    #[test]
    fn by_path_and_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        manager(path.to_str().unwrap()).notify("READY=1").unwrap();
        let mut buffer = [0; 64];
        let length = by_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");

        let name = format!("phase-journal-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        manager(&format!("@{name}")).notify("STOPPING=1").unwrap();
        let length = by_name.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1");
    }

    #[test]
    fn nobody_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nobody");
        assert!(manager(path.to_str().unwrap()).notify("READY=1").is_err());
        Manager::default().notify("READY=1").unwrap();
    }

    /// What is not known, or not whole, is closed and leaves the store.
    #[test]
    fn only_whole_pairs_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let keeper = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.to_str().unwrap());
        let socket = || OwnedFd::from(UnixDatagram::unbound().unwrap());
        let file = || {
            let (file, _) = (tempfile::tempfile().unwrap(), ());
            OwnedFd::from(file)
        };
        let client = format!("{PREFIX}client-1");
        let given = [
            (client.clone(), file()),
            (format!("{PREFIX}qemu-1"), socket()),
            ("varlink".to_owned(), socket()),
            (client.clone(), socket()),
            (format!("{PREFIX}client-2"), socket()),
            (format!("{PREFIX}client-2"), socket()),
        ];
        let inherited = Inherited::of(&manager, given.into_iter());
        assert!(inherited.qemus.is_empty());
        assert_eq!(inherited.clients.len(), 1);
        assert_eq!(inherited.clients[0].ticket.name, client);
        let mut said = Vec::new();
        for _ in 0..3 {
            let mut buffer = [0; 256];
            let length = keeper.recv(&mut buffer).unwrap();
            said.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        for name in ["phase-journal-qemu-1", "varlink", "phase-journal-client-2"] {
            let expected = format!("FDSTOREREMOVE=1\nFDNAME={name}");
            assert!(said.contains(&expected), "{said:?}");
        }
        // Whoever is at the other end of a half is told, also where the service manager cannot be.
        let (half, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let given = [(
            format!("{PREFIX}qemu-2"),
            OwnedFd::from(half.try_clone().unwrap()),
        )];
        drop(Inherited::of(&Manager::default(), given.into_iter()));
        assert_eq!(std::io::Read::read(&mut &other, &mut [0]).unwrap(), 0);
        drop(half);
        // At the end of the process all stays there.
        manager.stop();
        drop(inherited);
        keeper.set_nonblocking(true).unwrap();
        assert!(keeper.recv(&mut [0; 256]).is_err());
    }
}
