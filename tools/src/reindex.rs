//! `phase-journal reindex`: a journal's index is made anew.
//!
//! Invariant: only the index is touched, and only while no sidecar has the journal open: a sidecar keeps
//! its index itself. While it is made, nothing but the index is locked: a sidecar that starts meanwhile
//! starts, and goes without the index until this is done.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use phase_journal::journal::index::Index;
use phase_journal::journal::lock::NoWriter;
use phase_journal::journal::read::Reader;
use phase_journal::journal::{INDEX_NAME, OsDisk};
use serde_json::json;

use crate::error::{Found, ToolError};
use crate::source;
use crate::terminal::Busy;
use crate::text::count;

/// Whose index to make.
#[derive(Debug, Args)]
#[command(after_help = "\
A running sidecar does so by itself; run this as the sidecar's user, so that it can go on with the index. It is \
refused while a sidecar has the journal open.")]
pub(crate) struct ReindexArgs {
    /// The journal's directory
    directory: PathBuf,
}

/// Throws the index away and makes it anew; says how many records are in it.
pub(crate) fn run(
    args: &ReindexArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    source::check_directory(&args.directory)?;
    let disk = OsDisk::new(&args.directory);
    // Without a journal, no index is deleted or made.
    let journal = Reader::open(disk.clone())?.journal();
    if journal.is_none() {
        return Err(ToolError::Argument(format!(
            "no segment's header can be read in {}: there is nothing to be indexed",
            args.directory.display()
        )));
    }
    // Only looked at: who held it would hold up a sidecar that starts.
    drop(NoWriter::of(&args.directory)?);
    let busy = Busy::new("indexing");
    let (index, made) = Index::rebuild(&args.directory.join(INDEX_NAME), &disk)?;
    let last = index.last();
    // Closing it brings it to the disk.
    drop(index);
    drop(busy);
    if json {
        let value = json!({"journal": journal, "records": made.added, "last": last});
        writeln!(out, "{value}")?;
    } else {
        let last = last.map_or(String::new(), |last| format!(", up to lsn {last}"));
        writeln!(out, "indexed   {}{last}", count(made.added, "record"))?;
    }
    Ok(Found::Nothing)
}
