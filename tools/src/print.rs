//! What a journal holds as lines: text, a table, JSON, or bytes with the names of their fields.
//!
//! Invariant: one item gives the same line wherever it was read from; nothing that came from outside is
//! printed raw.
//! Not here: which items (`filter`), in which order (`dump`, `backwards`, `merge`).

use std::io::Write;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use journal_format::batch::{BATCH_HEADER_SIZE, BatchHeader};
use journal_format::number::{BootId, Chain, Epoch, SegmentNumber};
use journal_format::record::{Decision, Decoded, RecordBody, body_size};
use journal_format::{BLOCK_SIZE, RECORD_BODY_SIZE_MAX};
use phase_journal::journal::OsDisk;
use phase_journal::journal::disk::{Disk, read_full};
use phase_journal::journal::read::{Gap, SegmentFile};
use serde_json::{Value, json};

use crate::error::ToolError;
use crate::headers;
use crate::hex;
use crate::past::{Item, Recorded};
use crate::terminal::{Look, Paint};
use crate::text::{hex as digits, json_line, plain, time};
use crate::words;

/// No line waits longer for those behind it before it is shown.
const FLUSHED_AFTER: Duration = Duration::from_millis(50);

/// How records are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A line each, for people
    Text,
    /// A line each, in columns under titles
    Table,
    /// One JSON object per line, with all that a record says
    Json,
    /// The bytes as they lie in the file, with the names of their fields
    Hex,
}

/// One item as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The opening and boot of a record, for people; a new one is announced.
    opening: Option<(Epoch, BootId)>,
    text: String,
}

/// Makes lines of items.
#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
    paint: Paint,
    disk: OsDisk,
    /// What stands before each line where several journals are shown together.
    label: Option<String>,
}

impl Printer {
    pub(crate) fn new(format: Format, disk: OsDisk, label: Option<String>) -> Printer {
        Printer {
            format,
            paint: Paint::of_stdout(),
            disk,
            label,
        }
    }

    /// Is it for programs?
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// What stands above everything.
    pub(crate) fn title(&self) -> Option<String> {
        let title = table_line([
            "lsn",
            "time (UTC)",
            "domain",
            "job",
            "phase",
            "type",
            "bytes",
            "",
        ]);
        let label = self.label.as_ref().map_or(String::new(), |label| {
            format!("{:width$}  ", "journal", width = label.chars().count())
        });
        (self.format == Format::Table).then(|| {
            self.paint
                .text(Look::Title, format!("{label}{title}").trim_end())
        })
    }

    pub(crate) fn item(&self, item: &Item) -> Result<Line, ToolError> {
        match item {
            Item::Record(recorded) => self.record(recorded),
            Item::Gap(gap) => Ok(self.gap(gap)),
            Item::Batch(header, chain) => self.batch(header, *chain),
        }
    }

    pub(crate) fn record(&self, recorded: &Recorded) -> Result<Line, ToolError> {
        let mut opening = None;
        let text = match self.format {
            Format::Json => json_line(&self.labelled(record_json(recorded))),
            Format::Text => {
                opening = Some((recorded.batch.epoch, recorded.batch.boot));
                let line = self.under_label(&words::line(recorded));
                match is_hold(recorded) {
                    true => self.paint.text(Look::Doubt, &line),
                    false => line,
                }
            }
            Format::Table => self.under_label(&record_row(recorded)),
            Format::Hex => {
                let title = self.under_label(&words::line(recorded));
                let bytes = self.bytes_of(recorded)?;
                let shown = hex::record(&recorded.record, recorded.offset, &bytes);
                format!("{}\n{shown}", self.paint.text(Look::Title, &title))
            }
        };
        Ok(Line { opening, text })
    }

    pub(crate) fn gap(&self, gap: &Gap) -> Line {
        let text = match self.format {
            Format::Json => json_line(&self.labelled(json!({"gap": words::gap_json(gap)}))),
            Format::Text | Format::Table | Format::Hex => {
                let line = self.under_label(&words::gap_line(gap));
                self.paint.text(Look::Bad, &line)
            }
        };
        Line {
            opening: None,
            text,
        }
    }

    pub(crate) fn batch(&self, header: &BatchHeader, chain: Chain) -> Result<Line, ToolError> {
        let mut text = headers::batch_line(header, chain, self.is_json());
        if !self.is_json() {
            text = self.paint.text(Look::Faint, &text);
        }
        if self.format == Format::Hex {
            let size = BATCH_HEADER_SIZE as usize;
            let bytes = self.bytes(header.segment, header.offset, size)?;
            text = format!("{text}\n{}", hex::batch(header.offset, &bytes));
        }
        Ok(Line {
            opening: None,
            text,
        })
    }

    pub(crate) fn segment(&self, file: &SegmentFile) -> Result<Line, ToolError> {
        let mut text = headers::segment_line(file, self.is_json());
        if !self.is_json() {
            text = self.paint.text(Look::Faint, &text);
        }
        if self.format == Format::Hex {
            let bytes = self.bytes(file.number, 0, BLOCK_SIZE as usize)?;
            text = format!("{text}\n{}", hex::segment(&bytes));
        }
        Ok(Line {
            opening: None,
            text,
        })
    }

    /// Something that is said beside the items.
    pub(crate) fn remark(&self, people: &str, programs: Value) -> Line {
        let text = match self.is_json() {
            true => json_line(&self.labelled(programs)),
            false => self.paint.text(Look::Faint, &self.under_label(people)),
        };
        Line {
            opening: None,
            text,
        }
    }

    fn under_label(&self, line: &str) -> String {
        match &self.label {
            Some(label) => format!("{label}  {line}"),
            None => line.to_owned(),
        }
    }

    fn labelled(&self, mut value: Value) -> Value {
        if let (Some(label), Some(members)) = (&self.label, value.as_object_mut()) {
            members.insert("journal".to_owned(), json!(label.trim_end()));
        }
        value
    }

    /// A record's header, body and padding.
    fn bytes_of(&self, recorded: &Recorded) -> Result<Vec<u8>, ToolError> {
        let size = usize::try_from(recorded.size).unwrap_or(RECORD_BODY_SIZE_MAX);
        self.bytes(recorded.batch.segment, recorded.offset, size)
    }

    /// Bytes of a segment. Fewer if the file is no longer what it was.
    fn bytes(&self, segment: SegmentNumber, at: u64, size: usize) -> Result<Vec<u8>, ToolError> {
        let name = segment.file_name();
        let failed = |source| ToolError::File {
            path: self.disk.path().join(&name),
            source,
        };
        let mut bytes = vec![0; size];
        let file = self.disk.open(&name).map_err(failed)?;
        let count = read_full(&self.disk, &file, at, &mut bytes).map_err(failed)?;
        bytes.truncate(count);
        Ok(bytes)
    }
}

fn is_hold(recorded: &Recorded) -> bool {
    match &recorded.record {
        Decoded::Known(record) => match &record.body {
            RecordBody::Decided(decided) => decided.decision == Decision::Hold,
            _ => false,
        },
        Decoded::Unknown { .. } => false,
    }
}

/// Columns of a fixed width; what is longer moves the rest on.
fn table_line([lsn, time, domain, job, phase, kind, size, said]: [&str; 8]) -> String {
    format!(
        "{lsn:>10}  {time:<26}  {domain:<16} {job:>10}  {phase:<17}  {kind:<19} {size:>5}  {said}"
    )
}

fn record_row(recorded: &Recorded) -> String {
    let job = recorded.job.map_or("-".to_owned(), |job| job.to_string());
    let phase = recorded.phase.map_or("-", |phase| phase.name());
    let (kind, size, said) = match &recorded.record {
        Decoded::Known(record) => (
            record.body.type_name().to_owned(),
            body_size(&record.body).unwrap_or(0),
            words::body(&record.body),
        ),
        Decoded::Unknown {
            kind,
            version,
            body,
            ..
        } => (
            format!("type {kind} version {version}"),
            body.len() as u64,
            "of another version".to_owned(),
        ),
    };
    let line = table_line([
        &recorded.record.lsn().to_string(),
        &time(recorded.batch.wall),
        recorded.name.as_deref().unwrap_or("-"),
        &job,
        phase,
        &kind,
        &size.to_string(),
        &said,
    ]);
    plain(line.trim_end())
}

/// A record as JSON: where it stands, and all that it says.
pub(crate) fn record_json(recorded: &Recorded) -> Value {
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
            value["bytes"] = json!(digits(body));
        }
    }
    value
}

/// Writes lines, each record for people under a line that names its opening, if that is another than that of
/// the one before.
#[derive(Debug)]
pub(crate) struct Sheet<W> {
    out: W,
    paint: Paint,
    opening: Option<(Epoch, BootId)>,
    /// When what was written was last brought to its reader.
    flushed: Option<Instant>,
}

impl<W: Write> Sheet<W> {
    pub(crate) fn new(out: W) -> Sheet<W> {
        Sheet {
            out,
            paint: Paint::of_stdout(),
            opening: None,
            flushed: None,
        }
    }

    pub(crate) fn write(&mut self, line: &Line) -> Result<(), ToolError> {
        if let Some(opening) = line.opening
            && self.opening.replace(opening) != Some(opening)
        {
            let heading = format!("-- epoch {}, boot {}", opening.0, opening.1);
            writeln!(self.out, "{}", self.paint.text(Look::Faint, &heading))?;
        }
        writeln!(self.out, "{}", line.text)?;
        // The first line at once, and what trickles in as it comes.
        if self.flushed.is_none_or(|at| at.elapsed() >= FLUSHED_AFTER) {
            self.flush()?;
        }
        Ok(())
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), ToolError> {
        writeln!(self.out, "{text}")?;
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), ToolError> {
        self.out.flush()?;
        self.flushed = Some(Instant::now());
        Ok(())
    }
}

impl Line {
    /// The same with a mark behind it: the record may still vanish.
    pub(crate) fn not_settled(mut self, is_json: bool) -> Line {
        if !is_json {
            self.text.push_str("  (not settled)");
        } else if let Ok(Value::Object(mut members)) = serde_json::from_str(&self.text) {
            members.insert("settled".to_owned(), json!(false));
            self.text = json_line(&Value::Object(members));
        }
        self
    }
}
