//! `phase-journal diff`: two journals beside each other.
//!
//! A journal and its copy (the same identity) are compared record by record; two sides of migrations by what
//! they say of each other.
//! Invariant: reads without a lock, writes nothing; exit codes as diff's: 0 no difference, 1 differences, more is trouble.
//! Not here: whether one journal is sound by itself (`verify`).

mod copies;
mod sides;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::error::{Found, ToolError};
use crate::past::Past;

/// What to compare.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the copies are alike, or the sides agree; 1 they differ, or contradict each other; \
                  3 it could not be found out."
)]
pub(crate) struct DiffArgs {
    /// A journal's directory
    one: PathBuf,
    /// Its copy, or the journal of the other side
    other: PathBuf,
    /// Only this domain (name or UUID; between two sides)
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// So many differences are shown, at the most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    most: u64,
}

/// Compares.
pub(crate) fn run(args: &DiffArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    let identity = |path| Past::open(path).map(|past| past.journal());
    let (one, other) = (identity(&args.one)?, identity(&args.other)?);
    match (one, other) {
        (Some(one), Some(other)) if one != other => sides::run(args, json, out),
        (Some(_), Some(_)) => copies::run(args, json, out),
        (None, _) | (_, None) => {
            let which = if one.is_none() {
                &args.one
            } else {
                &args.other
            };
            Err(ToolError::Argument(format!(
                "no segment of {} has a readable head: what journal it is cannot be told",
                which.display()
            )))
        }
    }
}
