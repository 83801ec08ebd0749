//! The wire: QMP as QEMU, managers and other sidecars speak it.
//!
//! Invariant (P1): the only way to send an effect to QEMU is [`Client::perform`], which takes a
//! proof of durability; [`Client::query`] refuses everything that does more than read.
//! Not here: jobs, phases, what an answer means.

mod client;
mod codec;
mod command;
mod server;

#[cfg(test)]
mod tests;

pub use client::{Client, Credentials, Dialled, Event, Events, QmpError, SidecarClient};
pub use codec::{Message, SplitError, Splitter};
pub use command::CLAIM_ID;
pub use server::{Call, CommandError, ServerOptions, bind, remove_socket, serve};
