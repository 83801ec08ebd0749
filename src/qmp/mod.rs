//! The wire: QMP as QEMU, managers and other sidecars speak it.
//!
//! Invariant (P1): the only way to send an effect to QEMU is [`Client::perform`], which takes a
//! proof of durability; [`Client::query`] refuses everything that does more than read.
//! Not here: jobs, phases, what an answer means.

mod classify;
mod client;
mod codec;
mod command;
mod outlet;
mod passed;
mod passfd;
mod passing;
mod server;
mod socket;
mod streams;

#[cfg(test)]
mod tests;

pub use classify::{
    ARGUMENTS_SIZE_MAX, Class, FDS_MAX, REDACTED, carries_secret, classify, is_known,
    may_go_out_of_band, takes_fds,
};
pub use client::{Client, Credentials, Dialled, Event, Events, QmpError, Resumed, SidecarClient};
pub use codec::{Message, SplitError, Splitter};
pub use command::{CLAIM_ID, qmp_command};
pub use outlet::{BACKLOG_SIZE_MAX, Listeners, Outlet, STALL_MAX};
pub use passed::{Misunderstood, Passed};
pub use passfd::{Received, receive};
pub use passing::{Adopted, Passing, Place};
pub use server::{Call, CommandError, ServerOptions, bind, remove_socket, serve};
pub(crate) use server::{bind_new, bind_over};
pub use socket::{Socket, inherited};
