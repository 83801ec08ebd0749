//! `phase-journal verify`: is a journal sound?

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use phase_journal::journal::OsDisk;
use phase_journal::journal::read::Ending;
use phase_journal::journal::verify::{Report, Verdict, verify};
use serde_json::{Value, json};

use crate::error::{Found, ToolError};
use crate::text::{count, size};
use crate::words::{gap_json, gap_line};

/// What to verify.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The journal's directory
    directory: PathBuf,
}

/// Reads a journal to its end and says what is wrong with it.
pub(crate) fn run(args: &VerifyArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    let report = verify(OsDisk::new(&args.directory))?;
    if json {
        writeln!(out, "{}", as_json(&report))?;
    } else {
        as_text(&report, out)?;
    }
    Ok(match report.verdict() {
        Verdict::Clean => Found::Nothing,
        // What a crash leaves: nothing that was acknowledged is missing.
        Verdict::Torn => Found::Something,
        Verdict::Damaged => Found::Damage,
    })
}

fn as_text(report: &Report, out: &mut impl Write) -> Result<(), ToolError> {
    if let Some(journal) = report.journal {
        writeln!(out, "journal   {journal}")?;
    }
    writeln!(
        out,
        "holds     {}, {}, {}, {} in {}",
        count(report.records, "record"),
        count(report.batches, "batch").replace("batchs", "batches"),
        count(report.checkpoints, "checkpoint"),
        size(report.bytes),
        count(report.segments, "segment")
    )?;
    if let (Some(first), Some(last)) = (report.first, report.last) {
        writeln!(out, "lsn       {first} to {last}")?;
    }
    if report.unknown_records > 0 {
        writeln!(
            out,
            "unknown   {} of another version",
            count(report.unknown_records, "record")
        )?;
    }
    for gap in &report.gaps {
        writeln!(out, "{}", gap_line(gap))?;
    }
    for damaged in &report.damaged_headers {
        writeln!(
            out,
            "!! {}, the header at byte {}: {}; the other one is whole",
            damaged.segment.file_name(),
            damaged.at,
            damaged.why
        )?;
    }
    for lost in &report.lost_headers {
        writeln!(
            out,
            "!! {}, bytes {} to {}: the header of a batch is damaged; records were found one by one",
            lost.segment.file_name(),
            lost.at,
            lost.until
        )?;
    }
    for file in &report.bad_files {
        writeln!(out, "!! {}: {}", file.segment.file_name(), file.why)?;
    }
    writeln!(out, "verdict   {}", verdict(report))?;
    Ok(())
}

/// The verdict in words.
pub(crate) fn verdict(report: &Report) -> String {
    match report.verdict() {
        Verdict::Clean => "clean: everything is there".to_owned(),
        Verdict::Torn => match report.ending {
            Ending::Torn { segment, at } => format!(
                "torn tail in {} at byte {at}: the last write was cut short, nothing acknowledged is missing",
                segment.file_name()
            ),
            Ending::Clean | Ending::Damaged => "torn tail".to_owned(),
        },
        Verdict::Damaged if report.lost() == 0 => "DAMAGED: no record is lost".to_owned(),
        Verdict::Damaged => format!("DAMAGED: {} may be lost", count(report.lost(), "record")),
    }
}

/// A report for programs.
pub(crate) fn as_json(report: &Report) -> Value {
    json!({
        "journal": report.journal,
        "verdict": report.verdict().name(),
        "segments": report.segments,
        "bytes": report.bytes,
        "batches": report.batches,
        "records": report.records,
        "unknown-records": report.unknown_records,
        "checkpoints": report.checkpoints,
        "first": report.first,
        "last": report.last,
        "lost": report.lost(),
        "gaps": report.gaps.iter().map(gap_json).collect::<Vec<_>>(),
        "damaged-headers": report.damaged_headers.iter().map(|damaged| json!({
            "file": damaged.segment.file_name(), "at": damaged.at, "why": damaged.why.to_string(),
        })).collect::<Vec<_>>(),
        "lost-headers": report.lost_headers.iter().map(|lost| json!({
            "file": lost.segment.file_name(), "at": lost.at, "until": lost.until,
        })).collect::<Vec<_>>(),
        "bad-files": report.bad_files.iter().map(|file| json!({
            "file": file.segment.file_name(), "why": file.why.to_string(),
        })).collect::<Vec<_>>(),
    })
}
