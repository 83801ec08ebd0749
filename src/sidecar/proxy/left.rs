//! What an earlier life of the sidecar left with the service manager, sorted by whose it is.
//!
//! Invariant: what cannot be gone on with, or is nobody's, is closed, which its other end sees.
//! Not here: how it is kept (`keep`), going on with it (`served`, `monitor`).

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};
use tracing::{info, warn};

use crate::keep::{ClientState, Inherited, KeptClient, KeptQemu, Left, Manager, Owner, QemuState};

/// A client of an earlier life.
#[derive(Debug)]
pub(crate) struct LeftClient {
    pub(super) socket: OwnedFd,
    pub(super) kept: KeptClient,
    pub(super) state: ClientState,
}

/// A connection to a QEMU of an earlier life.
#[derive(Debug)]
pub(crate) struct LeftQemu {
    pub(super) socket: OwnedFd,
    pub(super) kept: KeptQemu,
    pub(super) state: QemuState,
}

/// Of one domain.
#[derive(Debug, Default)]
pub(super) struct OfDomain {
    pub(super) clients: Vec<LeftClient>,
    pub(super) qemu: Option<LeftQemu>,
}

/// Of all domains.
#[derive(Debug, Default)]
pub(crate) struct KeptConnections {
    pub(super) manager: Manager,
    clients: Vec<LeftClient>,
    qemus: Vec<LeftQemu>,
}

impl KeptConnections {
    /// Reads how they stood.
    pub(crate) fn new(manager: Manager, inherited: Inherited) -> KeptConnections {
        let mut kept = KeptConnections {
            manager,
            ..KeptConnections::default()
        };
        for Left {
            socket,
            file,
            ticket,
        } in inherited.clients
        {
            match KeptClient::resume(&kept.manager, socket.as_fd(), file, ticket) {
                Ok((client, state)) => kept.clients.push(LeftClient {
                    socket,
                    kept: client,
                    state,
                }),
                Err(why) => close("a client's connection", &socket, &why),
            }
        }
        for Left {
            socket,
            file,
            ticket,
        } in inherited.qemus
        {
            match KeptQemu::resume(&kept.manager, socket.as_fd(), file, ticket) {
                Ok((qemu, state)) => kept.qemus.push(LeftQemu {
                    socket,
                    kept: qemu,
                    state,
                }),
                Err(why) => close("the connection to a QEMU", &socket, &why),
            }
        }
        let (clients, qemus) = (kept.clients.len(), kept.qemus.len());
        if clients + qemus > 0 {
            info!(clients, qemus, "connections of an earlier life");
        }
        kept
    }

    /// Who keeps connections.
    pub(crate) fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Those of this domain and this very process for it.
    pub(super) fn take(&mut self, owner: Owner) -> OfDomain {
        let is_its = |one: &mut LeftClient| one.state.owner == owner;
        let clients = self.clients.extract_if(.., is_its).collect();
        let is_its = |one: &mut LeftQemu| one.state.owner == owner;
        let mut qemus: Vec<_> = self.qemus.extract_if(.., is_its).collect();
        // QEMU serves one client: of two, one was closed, and the service manager not told in time.
        qemus.sort_by_key(|one| !has_hung_up(&one.socket));
        let qemu = qemus.pop();
        for one in qemus {
            close(
                "the connection to a QEMU",
                &one.socket,
                "there is a later one",
            );
        }
        OfDomain { clients, qemu }
    }

    pub(super) fn close_rest(&mut self) {
        let why = "its domain is not here any more, or has another QEMU";
        for one in self.clients.drain(..) {
            close("a client's connection", &one.socket, why);
        }
        for one in self.qemus.drain(..) {
            close("the connection to a QEMU", &one.socket, why);
        }
    }
}

fn has_hung_up(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let polled = poll(&mut fds, Some(&at_once));
    polled.is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// The service manager may still have it open, and the other end is to know.
fn close(what: &str, socket: &OwnedFd, why: &str) {
    warn!(why, "{what} is closed");
    // It fails only where the other end has done it already.
    let _ = shutdown(socket, Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use journal_format::number::{BootId, DomainId, Id128};
    use journal_format::record::Instance;

    use super::*;
    use crate::keep::Ticket;

    fn left(manager: &Manager, owner: Owner) -> (LeftQemu, UnixStream) {
        let prepared = KeptQemu::prepare(manager, owner).unwrap();
        let (socket, other) = UnixStream::pair().unwrap();
        prepared.negotiated(b"{}", false, socket.as_fd());
        let (file, ticket) = (prepared.file(), Ticket::for_test(manager));
        let (kept, state) = KeptQemu::resume(manager, socket.as_fd(), file, ticket).unwrap();
        let left = LeftQemu {
            socket: socket.into(),
            kept,
            state,
        };
        (left, other)
    }

    /// In whatever order they come.
    #[test]
    fn of_two_connections_to_a_qemu_the_open_one_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _keeper = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at_path(&path);
        let owner = Owner {
            domain: DomainId(Id128([1; 16])),
            instance: Instance {
                boot: BootId(Id128([2; 16])),
                pid: 3,
                start_time: 4,
            },
        };
        for open_comes_first in [false, true] {
            let (open, mut at_open) = left(&manager, owner);
            let (over, mut at_over) = left(&manager, owner);
            shutdown(&over.socket, Shutdown::Both).unwrap();
            let qemus = match open_comes_first {
                true => vec![open, over],
                false => vec![over, open],
            };
            let mut kept = KeptConnections {
                qemus,
                ..KeptConnections::default()
            };
            let taken = kept.take(owner).qemu.unwrap();
            std::io::Write::write_all(&mut &UnixStream::from(taken.socket), b"on").unwrap();
            let mut heard = [0; 2];
            at_open.read_exact(&mut heard).unwrap();
            assert_eq!(at_over.read(&mut heard).unwrap(), 0);
            assert!(kept.qemus.is_empty());
        }
    }
}
