//! The on-disk format of phase-journal: bytes to records and back.
pub mod number;
pub mod record;
