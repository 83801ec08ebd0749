//! The on-disk format of phase-journal: bytes to records and back.
//!
//! No I/O, no clock. What is on disk is specified in [`format`](mod@format); its rules, F1 and up,
//! are cited throughout. Read in this order: [`number`], [`record`], [`batch`], [`segment`], [`scan`].

#[cfg(test)]
extern crate self as journal_format;

pub mod number;
pub mod record;

pub mod batch;
pub mod segment;

pub mod scan;
pub mod whole;

pub mod error;
pub mod hash;

mod bytes;

// Records for this crate's own tests, as those beside it draw them.
#[cfg(test)]
#[path = "../tests/support/draw.rs"]
mod draw;

pub use bytes::is_zero;

#[allow(
    rustdoc::broken_intra_doc_links,
    reason = "[F1] and the like are the numbers of rules"
)]
#[doc = include_str!("../FORMAT.md")]
pub mod format {}

/// The version of the layout that this crate writes.
pub const FORMAT_VERSION: u32 = 2;
// Limits: F14.
/// The unit of writing, in bytes: a block that became durable is never written again (F16).
pub const BLOCK_SIZE: u32 = 4096;
/// The smallest segment, in bytes.
pub const SEGMENT_SIZE_MIN: u64 = 64 * 1024;
/// The usual segment, in bytes.
pub const SEGMENT_SIZE_DEFAULT: u64 = 16 * 1024 * 1024;
/// The largest segment, in bytes.
pub const SEGMENT_SIZE_MAX: u64 = 1024 * 1024 * 1024;
/// The largest batch, in bytes, with header and padding.
pub const BATCH_SIZE_MAX: u32 = 1024 * 1024;
/// The most records in a batch.
pub const BATCH_RECORDS_MAX: u32 = 16_384;
/// The largest body of a record, in bytes: with its header it stays within what CRC-32 protects
/// well.
pub const RECORD_BODY_SIZE_MAX: usize = 8 * 1024 - record::RECORD_HEADER_SIZE;
