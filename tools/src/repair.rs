//! `phase-journal repair`: what can be read of a journal, in a new directory.
//!
//! Invariant: the journal itself is not changed; what could not be saved is told, and is in the exit code.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use phase_journal::journal::repair::{Change, Repaired, repair};
use serde_json::{Value, json};

use crate::error::{Found, ToolError};
use crate::source;
use crate::terminal::Busy;
use crate::text::{count, size};
use crate::verify::{as_json, verdict};
use crate::words::gap_line;

/// What to copy, and where to.
#[derive(Debug, Args)]
#[command(after_help = "\
Never in place. Drops a write that was cut short, writes damaged segment headers anew from their copies, and \
keeps every gap visible: recovery decides on the copy as it would on the journal, and holds what the damage \
concerns. Refused while a sidecar has the journal open, and a sidecar that is started meanwhile is refused.

Exit codes: 0 everything is in the copy; 2 something could not be saved; 3 there is no copy.")]
pub(crate) struct RepairArgs {
    /// The journal's directory
    directory: PathBuf,
    /// The directory to be made; it must not exist, or be empty
    #[arg(long, value_name = "DIRECTORY")]
    to: PathBuf,
}

/// Copies a journal, and says what is not as it was and what is lost.
pub(crate) fn run(args: &RepairArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    source::check_directory(&args.directory)?;
    let busy = Busy::new("copying");
    let repaired = repair(&args.directory, &args.to)?;
    drop(busy);
    if json {
        let changes: Vec<Value> = repaired.changes.iter().map(change_json).collect();
        let value = json!({
            "directory": args.to,
            "whole": repaired.is_whole(),
            "changes": changes,
            "copy": as_json(&repaired.report),
        });
        writeln!(out, "{value}")?;
    } else {
        as_text(&repaired, &args.to, out)?;
    }
    Ok(if repaired.is_whole() {
        Found::Nothing
    } else {
        Found::Damage
    })
}

fn as_text(repaired: &Repaired, to: &Path, out: &mut impl Write) -> Result<(), ToolError> {
    let Repaired { changes, report } = repaired;
    writeln!(
        out,
        "copied    {} in {}, {}, to {}",
        count(report.records, "record"),
        count(report.segments, "segment"),
        size(report.bytes),
        to.display()
    )?;
    for change in changes {
        writeln!(out, "{}", change_line(change))?;
    }
    for gap in &report.gaps {
        writeln!(out, "{}", gap_line(gap))?;
    }
    writeln!(out, "verdict   {}", verdict(report))?;
    Ok(())
}

fn change_line(change: &Change) -> String {
    match change {
        Change::DroppedTail { segment, at } => format!(
            "dropped   {} from byte {at}: a write that was cut short, never acknowledged",
            segment.file_name()
        ),
        Change::RestoredHeader { segment } => format!(
            "restored  {}: its header, which stands at both ends",
            segment.file_name()
        ),
        Change::Renamed { from, to } => {
            format!("renamed   {} to {}", from.file_name(), to.file_name())
        }
        Change::LeftOut { segment, why } => format!(
            "!! {}: {why}; left out, zeros keep its place",
            segment.file_name()
        ),
        Change::Unreadable {
            segment,
            at,
            until,
            why,
        } => format!("!! {}, bytes {at} to {until}: {why}", segment.file_name()),
    }
}

fn change_json(change: &Change) -> Value {
    match change {
        Change::DroppedTail { segment, at } => {
            json!({"change": "dropped-tail", "file": segment.file_name(), "at": at})
        }
        Change::RestoredHeader { segment } => {
            json!({"change": "restored-header", "file": segment.file_name()})
        }
        Change::Renamed { from, to } => {
            json!({"change": "renamed", "file": to.file_name(), "from": from.file_name()})
        }
        Change::LeftOut { segment, why } => {
            json!({"change": "left-out", "file": segment.file_name(), "why": why.to_string()})
        }
        Change::Unreadable {
            segment,
            at,
            until,
            why,
        } => json!({
            "change": "unreadable",
            "file": segment.file_name(),
            "at": at,
            "until": until,
            "why": why,
        }),
    }
}
