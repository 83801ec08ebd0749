//! The tokio shell around the node: sockets, processes, time. No decisions.
//!
//! Invariant: all of it only turns what happens into inputs and outboxes into deeds; whatever dies
//! here can be learnt again after a restart.
//! Not here: what follows from an input (`engine`), when it is durable (`node`, `journal`), the
//! wire (`qmp`).

mod arguments;
mod config;
mod connection;
mod control;
mod dispatch;
mod gather;
mod history;
pub mod link;
mod monitor;
mod observe;
mod observe_job;
mod observe_settings;
mod peer;
mod process;
mod progress;
mod proxy;
mod register;
mod serve;
mod startup;
mod store;
mod take_over;

#[cfg(test)]
mod testing;

pub use arguments::COMMAND_NAMES;
pub use config::{Config, LogFormat, SOCKET_PATH_SIZE_MAX};
pub use control::engine_request;
pub use link::Failure;
pub use process::{BOOT_ID_OVERRIDE, KILL_WAIT_MS_MAX};
pub use startup::{RunError, run};
pub use store::{Answering, MemoryStore, Store};
