//! `phase-journal dump`: every record of a journal, in order.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use journal_format::number::{Id128, Lsn};
use journal_format::record::{Decoded, RecordBody};
use phase_journal::journal::read::Ending;
use serde_json::json;

use crate::error::{Found, ToolError};
use crate::past::{Item, Past, Recorded};
use crate::words;

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// The journal's directory
    directory: PathBuf,
    /// Only this domain (name or UUID)
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Only this job (the LSN of its first record)
    #[arg(long, value_name = "LSN")]
    job: Option<u64>,
    /// Only records of this type; `list` shows the types
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// From this LSN on
    #[arg(long, value_name = "LSN")]
    from: Option<u64>,
    /// Up to this LSN
    #[arg(long, value_name = "LSN")]
    to: Option<u64>,
    /// Only the last N
    #[arg(short = 'n', long = "last", value_name = "N")]
    last: Option<usize>,
}

impl DumpArgs {
    fn wants(&self, recorded: &Recorded) -> bool {
        let lsn = recorded.record.lsn().0;
        let of_domain = |wanted: &String| {
            recorded.name.as_ref() == Some(wanted)
                || Id128::parse(wanted)
                    .is_some_and(|id| recorded.record.domain().map(|domain| domain.0) == Some(id))
        };
        let of_kind = |wanted: &String| match &recorded.record {
            Decoded::Known(record) => record.body.type_name() == wanted,
            Decoded::Unknown { .. } => false,
        };
        self.from.is_none_or(|from| lsn >= from)
            && self.to.is_none_or(|to| lsn <= to)
            && self.job.is_none_or(|job| recorded.job == Some(Lsn(job)))
            && self.domain.as_ref().is_none_or(of_domain)
            && self.kind.as_ref().is_none_or(of_kind)
    }
}

/// Shows a journal's records.
pub(crate) fn run(args: &DumpArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    if let Some(kind) = &args.kind {
        if kind == "list" {
            for (number, name) in RecordBody::TYPES {
                writeln!(out, "{number:>3}  {name}")?;
            }
            return Ok(Found::Nothing);
        }
        if !RecordBody::TYPES.iter().any(|(_, name)| name == kind) {
            let why = format!("there is no record type '{kind}'; `--type list` shows them");
            return Err(ToolError::Argument(why));
        }
    }
    let mut found = Found::Nothing;
    let mut kept: VecDeque<String> = VecDeque::new();
    let mut boot = None;
    let ending = Past::open(&args.directory)?.read(|item| {
        let line = match &item {
            Item::Gap(gap) => {
                found = Found::Something;
                if json {
                    json!({"gap": words::gap_json(gap)}).to_string()
                } else {
                    words::gap_line(gap)
                }
            }
            Item::Record(recorded) if args.wants(recorded) => {
                let opening = (recorded.batch.epoch, recorded.batch.boot);
                let is_new = boot.replace(opening) != Some(opening);
                let line = record_line(recorded, json);
                if is_new && !json {
                    format!("-- epoch {}, boot {}\n{line}", opening.0, opening.1)
                } else {
                    line
                }
            }
            Item::Record(_) => return Ok(()),
        };
        match args.last {
            None => writeln!(out, "{line}")?,
            Some(last) => {
                kept.push_back(line);
                if kept.len() > last {
                    kept.pop_front();
                }
            }
        }
        Ok(())
    })?;
    for line in kept {
        writeln!(out, "{line}")?;
    }
    match ending {
        Ending::Clean => {}
        Ending::Torn { segment, at } if !json => {
            writeln!(
                out,
                "-- a batch that was never acknowledged begins in {} at byte {at}",
                segment.file_name()
            )?;
        }
        Ending::Torn { .. } => {}
        Ending::Damaged => found = Found::Something,
    }
    Ok(found)
}

/// A record as one line of JSON: where it stands, and all that it says.
fn record_line(recorded: &Recorded, json: bool) -> String {
    if !json {
        return words::line(recorded);
    }
    let batch = &recorded.batch;
    let mut value = json!({
        "lsn": recorded.record.lsn(),
        "domain": recorded.record.domain(),
        "name": recorded.name,
        "job": recorded.job,
        "time": batch.wall,
        "monotonic": batch.monotonic,
        "epoch": batch.epoch,
        "boot": batch.boot,
        "file": batch.segment.file_name(),
        "offset": recorded.offset,
    });
    match &recorded.record {
        Decoded::Known(record) => {
            value["type"] = json!(record.body.type_name());
            value["previous"] = json!(record.previous);
            // A body that cannot be shown would be a program error; the line is then without it.
            let mut body = serde_json::to_value(&record.body).unwrap_or_default();
            if let Some(fields) = body.as_object_mut() {
                fields.remove("type");
            }
            value["body"] = body;
        }
        Decoded::Unknown {
            previous,
            kind,
            version,
            body,
            ..
        } => {
            value["previous"] = json!(previous);
            value["type-number"] = json!(kind);
            value["version"] = json!(version);
            value["size"] = json!(body.len());
        }
    }
    value.to_string()
}
