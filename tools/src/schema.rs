//! `phase-journal schema`: the format of a segment in the language of Kaitai Struct.
//!
//! Invariant: the very file that journal-format's tests hold against every golden journal.

use std::io::Write;

use crate::error::{Found, ToolError};

const SCHEMA: &str = include_str!("../../journal-format/format.ksy");

/// Prints it.
pub(crate) fn run(out: &mut impl Write) -> Result<Found, ToolError> {
    out.write_all(SCHEMA.as_bytes())?;
    Ok(Found::Nothing)
}
