//! What outlives the process: connections that the service manager keeps, each with a memory file that says how it stands.
//!
//! Invariant: a file is written before what it says is done, and one that says that something was under way, or is damaged, is
//! never believed: its connection is closed. Without a service manager that keeps anything, nothing here does anything.
//! Not here: what goes over a connection (`qmp`), whose it is (`sidecar`).

mod client;
mod manager;
mod qemu;
mod state;

pub use client::{ClientState, KeptClient, Rest, Stage, Taken};
pub use manager::{Inherited, Left, Manager, Ticket};
pub use qemu::{KeptQemu, QemuState};
pub use state::{Owner, STATE_SIZE_MAX, StateFile};

#[cfg(test)]
mod tests;
