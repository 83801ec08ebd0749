//! `phase-journal dump`: the records of a journal, in order, and all that stands around them.
//!
//! Invariant: what is shown does not depend on where reading began; damage within it is shown in its place
//! and is in the exit code.
//! Not here: which records (`filter`), what a line looks like (`print`), several journals (`merge`).

use std::cell::LazyCell;
use std::collections::VecDeque;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use journal_format::number::{Lsn, SegmentNumber};
use journal_format::record::RecordBody;
use phase_journal::journal::OsDisk;
use phase_journal::journal::read::{Ending, SegmentFile};
use serde_json::json;

use crate::ahead::{self, Pick};
use crate::backwards::{self, boots, stretch_of, stretches};
use crate::error::{Found, ToolError};
use crate::filter::{Filter, FilterArgs};
use crate::follow;
use crate::headers;
use crate::indexed::{self, Opened};
use crate::merge;
use crate::past::{Item, Known, Past};
use crate::print::{Format, Line, Printer, Sheet};
use crate::source;

/// Bytes that are printed at once.
const BUFFER_SIZE: usize = 16 * 1024;

/// What to show.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  phase-journal dump /var/lib/phase-journal --domain web-1 --since yesterday
  phase-journal dump host-a/journal host-b/journal -o table
  phase-journal dump 0000000000000042.seg -o hex --from 1017 -n 1
  phase-journal dump --type list

A JOURNAL is a directory or a single segment file; several are shown in the order of their times. Reads without a \
lock and writes nothing, also while a sidecar writes. Lines that begin with !! tell of damage.

Exit codes: 0 fine; 2 something of what was read is damaged; 3 could not be read.")]
pub(crate) struct DumpArgs {
    /// The journal's directory, or a segment file
    #[arg(value_name = "JOURNAL")]
    journals: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How: text, table, json or hex
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    /// Only the last N
    #[arg(short = 'n', long = "last", value_name = "N")]
    pub(crate) last: Option<usize>,
    /// The newest first
    #[arg(short, long, conflicts_with_all = ["headers", "follow"])]
    reverse: bool,
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
    /// How records are shown.
    pub(crate) fn format(&self, json: bool) -> Format {
        let usual = if json { Format::Json } else { Format::Text };
        self.output.unwrap_or(usual)
    }
}

/// Shows a journal's records.
pub(crate) fn run(args: &DumpArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    if args.filter.kind.iter().any(|kind| kind == "list") {
        for (number, name) in RecordBody::TYPES {
            writeln!(out, "{number:>3}  {name}")?;
        }
        return Ok(Found::Nothing);
    }
    let filter = Filter::new(&args.filter)?;
    let format = args.format(json);
    match args.journals.as_slice() {
        [] => Err(ToolError::Argument(
            "which journal? Give its directory, or a segment file; --help tells more".to_owned(),
        )),
        [journal] if args.follow => follow::run(args, filter, journal, format, out),
        [journal] if args.headers => show_headers(args, filter, journal, format, out),
        [_, _, ..] if args.follow || args.headers => Err(ToolError::Argument(
            "--follow and --headers take one journal".to_owned(),
        )),
        journals => show(args, filter, journals, format, out),
    }
}

fn show(
    args: &DumpArgs,
    mut filter: Filter,
    journals: &[PathBuf],
    format: Format,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    if format != Format::Table {
        filter = filter.without_phase();
    }
    // A system call for each line would take most of the time.
    let mut sheet = Sheet::new(BufWriter::with_capacity(BUFFER_SIZE, out));
    let is_backwards = args.reverse || args.last.is_some();
    let labels = merge::labels(journals);
    let mut walks = Vec::new();
    for (journal, label) in journals.iter().zip(labels) {
        let disk = source::open(journal)?;
        walks.push(Walk {
            printer: Printer::new(format, disk.clone(), label),
            filter: filter.clone(),
            is_backwards,
            disk,
            shows_progress: journals.len() == 1 && !io::stdout().is_terminal(),
        });
    }
    if let Some(title) = walks.first().and_then(|walk| walk.printer.title()) {
        sheet.text(&title)?;
    }
    let mut last: VecDeque<Line> = VecDeque::new();
    let wanted = args.last.unwrap_or(usize::MAX);
    let mut count = 0;
    let each = |line: Line| {
        count += 1;
        if count > wanted {
            return Ok(ControlFlow::Break(()));
        }
        if args.last.is_some() && !args.reverse {
            last.push_front(line);
        } else {
            sheet.write(&line)?;
        }
        Ok(if count == wanted {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    };
    let outcomes = match wanted {
        0 => Vec::new(),
        _ => merge::read(walks, each)?,
    };
    let mut found = Found::Nothing;
    last.iter().try_for_each(|line| sheet.write(line))?;
    let mut is_known = !outcomes.is_empty();
    for outcome in outcomes {
        match &outcome.filter {
            // Of several journals one is enough to know a name.
            Some(seen) => filter.learn(seen),
            None => is_known = false,
        }
        found = found.max(outcome.found);
        outcome.end.iter().try_for_each(|line| sheet.write(line))?;
    }
    sheet.flush()?;
    match filter.not_found().filter(|_| is_known) {
        Some(why) => Err(ToolError::Argument(why)),
        None => Ok(found),
    }
}

/// One journal to be walked over.
#[derive(Debug)]
pub(crate) struct Walk {
    disk: OsDisk,
    printer: Printer,
    filter: Filter,
    is_backwards: bool,
    /// Nothing is printed on the terminal meanwhile.
    shows_progress: bool,
}

impl Walk {
    /// Is the newest record its first line?
    pub(crate) fn is_backwards(&self) -> bool {
        self.is_backwards
    }

    /// Its lines, in the order in which they are to be shown; each with when it was written.
    pub(crate) fn lines(
        self,
        each: &mut dyn FnMut(u64, Line) -> Result<ControlFlow<()>, ToolError>,
    ) -> Result<Outcome, ToolError> {
        let Walk {
            disk,
            printer,
            mut filter,
            is_backwards,
            shows_progress,
        } = self;
        let by_index = filter.only_of().is_some() || filter.since().is_some();
        if by_index && !is_backwards {
            Opened::announce(&disk);
        }
        let files = Past::of(disk.clone())?.segments().to_vec();
        if filter.counts_boots() {
            filter.settle_boot(&boots(&disk, &files))?;
        }
        let mut found = Found::Nothing;
        let mut wall = 0;
        let mut is_whole = true;
        let mut show = |item: Item| {
            match &item {
                Item::Batch(header, _) => {
                    wall = header.wall;
                    return Ok(ControlFlow::Continue(()));
                }
                Item::Record(recorded) => wall = recorded.batch.wall,
                Item::Gap(_) => found = Found::Damage,
            }
            let shown = each(wall, printer.item(&item)?)?;
            is_whole &= shown.is_continue();
            Ok(shown)
        };
        let (from, to) = (filter.from(), filter.to());
        let ending = match is_backwards {
            true => backwards::read(&disk, &mut filter, from, |item| {
                match is_behind(&item, to) {
                    true => Ok(ControlFlow::Continue(())),
                    false => show(item),
                }
            })?,
            false => {
                let mut known = Known::default();
                let mut from = from;
                let mut is_stopped = false;
                // Each file is looked into for that: only if it is needed, and after what is shown at once.
                let begins = LazyCell::new(|| stretches(&disk, &files));
                let first = files.first().map(|file| file.number);
                let begin_of = |from| match from > Lsn::FIRST {
                    true => stretch_of(&begins, &files, from).or(first),
                    false => first,
                };
                let (of, since) = (filter.only_of(), filter.since());
                let opened = match by_index {
                    true => Opened::of(&disk, &files),
                    false => None,
                };
                if let Some(opened) = opened {
                    let at_time = since.and_then(|since| opened.segment_at_time(since));
                    let at_time = at_time.and_then(|segment| first_lsn(&files, segment));
                    from = at_time.map_or(from, |first| from.max(first));
                    if let (Some(of), Some(begin)) = (of, begin_of(from)) {
                        let range = (begin, to);
                        let after = indexed::read(
                            opened,
                            &files,
                            &of,
                            range,
                            &mut filter,
                            &mut known,
                            &mut show,
                        )?;
                        from = from.max(after.next);
                        is_stopped = after.is_stopped;
                    }
                    filter.begin_at(from);
                }
                let mut past = Past::of(disk.clone())?.knowing(known);
                if !shows_progress {
                    past = past.silent();
                }
                if let Some(begin) = begin_of(from) {
                    past.only(begin, None);
                }
                let stopped = match is_stopped {
                    true => ControlFlow::Break(()),
                    false => {
                        let pick = |item: &Item| match is_behind(item, to) {
                            true => Pick::Stop,
                            false if is_before(item, from) => Pick::Leave,
                            false => Pick::Show,
                        };
                        ahead::read(&mut past, &mut filter, pick, show)?
                    }
                };
                match stopped {
                    ControlFlow::Continue(()) => past.ending(),
                    ControlFlow::Break(()) => Ending::Clean,
                }
            }
        };
        if is_whole && filter.not_found().is_some() {
            // It may stand where nothing was looked for.
            look_for_names(&disk, &mut filter)?;
        }
        let end = match ending {
            // For programs `--headers` tells of the end.
            Ending::Torn { segment, at } if !printer.is_json() => {
                let file = segment.file_name();
                let people =
                    format!("-- a batch that was never acknowledged begins in {file} at byte {at}");
                Some(printer.remark(&people, json!({})))
            }
            Ending::Clean | Ending::Torn { .. } => None,
            Ending::Damaged => {
                found = Found::Damage;
                None
            }
        };
        Ok(Outcome {
            found: source::found(&files, found),
            end,
            filter: is_whole.then_some(filter),
        })
    }
}

/// How a walk went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) found: Found,
    /// What is to be said of the journal's end.
    pub(crate) end: Option<Line>,
    /// What was found of what was asked for; `None` if it was stopped before it could know.
    filter: Option<Filter>,
}

/// Goes over the whole journal for names alone.
fn look_for_names(disk: &OsDisk, filter: &mut Filter) -> Result<(), ToolError> {
    let mut names = filter.clone();
    let mut past = Past::of(disk.clone())?;
    // It is never stopped.
    let _ = past.read_some(&mut names, |_| Ok(ControlFlow::Continue(())))?;
    filter.learn(&names);
    Ok(())
}

/// The first LSN of a segment.
fn first_lsn(files: &[SegmentFile], segment: SegmentNumber) -> Option<Lsn> {
    let file = files.iter().find(|file| file.number == segment)?;
    Some(file.header.as_ref().ok()?.first)
}

/// Does it stand before that LSN, where nothing is asked for?
fn is_before(item: &Item, from: Lsn) -> bool {
    match item {
        Item::Batch(..) => false,
        Item::Record(recorded) => recorded.record.lsn() < from,
        Item::Gap(gap) => gap.last < from,
    }
}

/// Does it stand behind that LSN?
fn is_behind(item: &Item, to: Lsn) -> bool {
    match item {
        Item::Batch(header, _) => header.first > to,
        Item::Record(recorded) => recorded.record.lsn() > to,
        Item::Gap(gap) => gap.first > to,
    }
}

/// One journal with all that stands around its records.
fn show_headers(
    args: &DumpArgs,
    mut filter: Filter,
    journal: &Path,
    format: Format,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    let disk = source::open(journal)?;
    let printer = Printer::new(format, disk.clone(), None);
    let mut sheet = Sheet::new(BufWriter::new(out));
    let mut found = Found::Nothing;
    let mut past = Past::of(disk.clone())?.silent();
    let mut segments: VecDeque<SegmentFile> = past.segments().iter().cloned().collect();
    filter.settle_boot(&boots(&disk, past.segments()))?;
    let mut kept: VecDeque<Line> = VecDeque::new();
    let mut add = |line: Line, sheet: &mut Sheet<_>| match args.last {
        None => sheet.write(&line),
        Some(last) => {
            kept.push_back(line);
            if kept.len() > last {
                kept.pop_front();
            }
            Ok(())
        }
    };
    // It is never stopped.
    let _ = past.read_some(&mut filter, |item| {
        let here = item.segment();
        while let Some(file) = segments.pop_front_if(|file| file.number <= here) {
            add(printer.segment(&file)?, &mut sheet)?;
        }
        if matches!(item, Item::Gap(_)) {
            found = Found::Damage;
        }
        add(printer.item(&item)?, &mut sheet)?;
        Ok(ControlFlow::Continue(()))
    })?;
    for file in segments {
        add(printer.segment(&file)?, &mut sheet)?;
    }
    let ending = past.ending();
    let end = headers::end_line(past.segments(), ending);
    if printer.is_json() {
        add(printer.remark("", end), &mut sheet)?;
    }
    kept.iter().try_for_each(|line| sheet.write(line))?;
    match ending {
        Ending::Clean => {}
        Ending::Torn { segment, at } if !printer.is_json() => sheet.text(&format!(
            "-- a batch that was never acknowledged begins in {} at byte {at}",
            segment.file_name()
        ))?,
        Ending::Torn { .. } => {}
        Ending::Damaged => found = Found::Damage,
    }
    sheet.flush()?;
    match filter.not_found() {
        Some(why) => Err(ToolError::Argument(why)),
        None => Ok(source::found(past.segments(), found)),
    }
}
