//! What an earlier life of the sidecar left with the service manager, sorted by whose it is.
//!
//! Invariant: what cannot be gone on with, or is nobody's, is closed, which its other end sees.
//! Not here: how it is kept (`keep`), going on with it (`served`, `monitor`).

use std::os::fd::{AsFd, OwnedFd};

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
        let at = self.qemus.iter().position(|one| one.state.owner == owner);
        OfDomain {
            clients,
            qemu: at.map(|at| self.qemus.swap_remove(at)),
        }
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

/// The service manager may still have it open, and the other end is to know.
fn close(what: &str, socket: &OwnedFd, why: &str) {
    warn!(why, "{what} is closed");
    // It fails only where the other end has done it already.
    let _ = shutdown(socket, Shutdown::Both);
}
