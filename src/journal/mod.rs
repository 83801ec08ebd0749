//! The journal's files.
//!
//! [`Log::open`] locks and reads a journal, [`Opened::begin`] begins a segment with a checkpoint, and
//! [`Log::append`] makes records durable. [`read::Reader`] reads beside a writer, without a lock.
//!
//! Invariant (P1, P5): a [`Durable`] exists only for what was written and synced; nothing that was
//! acknowledged is dropped in silence. Files once left are never written again.
//! Not here: what records mean (the engine), when to checkpoint (the node), bytes (journal-format).

mod ahead;
mod checkpoint;
pub mod decoded;
pub mod disk;
mod durable;
mod error;
pub mod extent;
pub mod follow;
pub mod index;
mod judge;
mod layout;
pub mod lock;
mod log;
mod open;
pub mod read;
pub mod repair;
pub mod replay;
mod segments;
mod spares;
mod survey;
pub mod testing;
pub mod verify;
pub mod witness;

pub use disk::{Disk, OsDisk};
pub use durable::Durable;
pub use error::{AppendError, OlderJournal, OpenError, Poison};
pub use layout::Timestamps;
pub use log::{Checkpoint, Log, Status};
pub use open::{FIRST_SEGMENT_SIZE_DEFAULT, INDEX_NAME, LOCK_NAME, OpenOptions, Opened, Past};
pub use segments::Retention;
#[cfg(test)]
pub(crate) use spares::SPARE_WAIT_MAX;
pub use spares::SpareMaker;

/// A value that was never written down, for tests of what takes one.
#[cfg(test)]
pub(crate) fn durable_for_tests<T>(value: T) -> Durable<T> {
    Durable::new(value)
}

#[cfg(test)]
mod tests;
