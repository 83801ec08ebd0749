//! `phase-journal dump`: every record of a journal, in order, and all that stands around it.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use journal_format::number::{BootId, Epoch, Id128, Lsn};
use journal_format::record::{Decoded, RecordBody, body_size};
use phase_journal::journal::read::{Ending, Gap, SegmentFile};
use serde_json::json;

use crate::error::{Found, ToolError};
use crate::follow;
use crate::headers;
use crate::past::{Item, Past, Recorded};
use crate::text::hex;
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
    pub(crate) to: Option<u64>,
    /// Only the last N
    #[arg(short = 'n', long = "last", value_name = "N")]
    pub(crate) last: Option<usize>,
    /// Also the headers of all segments and batches, and how the journal ends
    #[arg(long)]
    headers: bool,
    /// Go on with each new record, until Ctrl-C
    #[arg(short, long, conflicts_with = "headers")]
    follow: bool,
    /// Not before it is certain that a record is durable (else the newest are shown, and marked)
    #[arg(long, requires = "follow")]
    pub(crate) settled: bool,
}

impl DumpArgs {
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn wants(&self, recorded: &Recorded) -> bool {
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
    match args.kind.as_deref() {
        Some("list") => {
            for (number, name) in RecordBody::TYPES {
                writeln!(out, "{number:>3}  {name}")?;
            }
            Ok(Found::Nothing)
        }
        Some(kind) if !RecordBody::TYPES.iter().any(|(_, name)| *name == kind) => {
            let why = format!("there is no record type '{kind}'; `--type list` shows them");
            Err(ToolError::Argument(why))
        }
        Some(_) | None if args.follow => follow::run(args, json, out),
        Some(_) | None => show(args, json, out),
    }
}

fn show(args: &DumpArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    let mut found = Found::Nothing;
    let mut lines = Lines {
        out,
        last: args.last,
        kept: VecDeque::new(),
    };
    let past = Past::open(&args.directory)?;
    let mut segments: VecDeque<SegmentFile> = VecDeque::new();
    if args.headers {
        segments.extend(past.segments().iter().cloned());
    }
    let mut opening = None;
    let ending = past.read(|item| {
        let segment = item.segment();
        while let Some(file) = segments.pop_front_if(|file| file.number <= segment) {
            lines.add(headers::segment_line(&file, json))?;
        }
        match &item {
            Item::Gap(gap) => {
                found = Found::Damage;
                lines.add(gap_line(gap, json))
            }
            Item::Batch(header, chain) if args.headers => {
                lines.add(headers::batch_line(header, *chain, json))
            }
            Item::Record(recorded) if args.wants(recorded) => {
                let line = record_line(recorded, json);
                lines.add(under_opening(&mut opening, recorded, line, json))
            }
            Item::Batch(..) | Item::Record(_) => Ok(()),
        }
    })?;
    for file in segments {
        lines.add(headers::segment_line(&file, json))?;
    }
    if args.headers && json {
        lines.add(headers::end_line(ending))?;
    }
    lines.finish()?;
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
        Ending::Damaged => found = Found::Damage,
    }
    Ok(found)
}

/// Lost records as a line.
pub(crate) fn gap_line(gap: &Gap, json: bool) -> String {
    if json {
        json!({"gap": words::gap_json(gap)}).to_string()
    } else {
        words::gap_line(gap)
    }
}

/// A record's line, for people under a line for its opening, if that is another than the last one's.
pub(crate) fn under_opening(
    last: &mut Option<(Epoch, BootId)>,
    recorded: &Recorded,
    line: String,
    json: bool,
) -> String {
    let opening = (recorded.batch.epoch, recorded.batch.boot);
    if last.replace(opening) == Some(opening) || json {
        return line;
    }
    format!("-- epoch {}, boot {}\n{line}", opening.0, opening.1)
}

/// Lines that are written at once, or only the last of them at the end.
struct Lines<'a, W: Write> {
    out: &'a mut W,
    last: Option<usize>,
    kept: VecDeque<String>,
}

impl<W: Write> Lines<'_, W> {
    fn add(&mut self, line: String) -> Result<(), ToolError> {
        match self.last {
            None => writeln!(self.out, "{line}")?,
            Some(last) => {
                self.kept.push_back(line);
                if self.kept.len() > last {
                    self.kept.pop_front();
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), ToolError> {
        for line in self.kept {
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }
}

/// A record as one line of JSON: where it stands, and all that it says.
pub(crate) fn record_line(recorded: &Recorded, json: bool) -> String {
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
            value["type-number"] = json!(record.body.type_number());
            value["version"] = json!(record.body.body_version());
            value["size"] = json!(body_size(&record.body));
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
            value["bytes"] = json!(hex(body));
        }
    }
    value.to_string()
}
