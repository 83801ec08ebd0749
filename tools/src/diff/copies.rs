//! A journal and its copy: what differs, and what one has and the other lacks.
//!
//! Invariant: both are read as streams; memory does not grow with them.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use journal_format::number::{JournalId, Lsn};
use phase_journal::journal::read::Gap;
use serde_json::{Value, json};

use super::DiffArgs;
use crate::error::{Found, ToolError};
use crate::past::{Item, Past, Recorded};
use crate::print::record_json;
use crate::terminal::{Look, Paint};
use crate::text::{count, json_line, plain};
use crate::words;

/// Entries that wait to be compared, at the most.
const WAITING_MAX: usize = 1024;

/// Something at a place of the journal.
enum Here {
    Record(Box<Recorded>),
    Gap(Gap),
}

impl Here {
    fn first(&self) -> Lsn {
        match self {
            Here::Record(recorded) => recorded.record.lsn(),
            Here::Gap(gap) => gap.first,
        }
    }

    fn last(&self) -> Lsn {
        match self {
            Here::Record(recorded) => recorded.record.lsn(),
            Here::Gap(gap) => gap.last,
        }
    }
}

/// Reads one side until nobody wants more.
fn stream(directory: &Path, to: &SyncSender<Result<Here, ToolError>>) {
    let read = Past::open(directory).and_then(|past| {
        // Two of them at once would write over each other.
        past.silent().read(|item| {
            let here = match item {
                Item::Batch(..) => return Ok(()),
                Item::Record(recorded) => Here::Record(recorded),
                Item::Gap(gap) => Here::Gap(gap),
            };
            // The reader went away: it has seen enough, or failed, and says so itself.
            to.send(Ok(here)).map_err(|_| {
                ToolError::Output(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
            })
        })
    });
    if let Err(error) = read {
        drop(to.send(Err(error)));
    }
}

/// What was found, kept down to so many.
struct Differences {
    shown: Vec<(Value, String)>,
    found: u64,
    most: u64,
    /// Runs of records that only one of them has.
    only: [Option<(Lsn, Lsn)>; 2],
    alike: u64,
}

pub(super) fn run(args: &DiffArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    if args.domain.is_some() {
        let why = "--domain is for two sides of a migration; copies are compared as a whole";
        return Err(ToolError::Argument(why.to_owned()));
    }
    let mut differences = Differences {
        shown: Vec::new(),
        found: 0,
        most: args.most,
        only: [None, None],
        alike: 0,
    };
    thread::scope(|scope| {
        let reader = |directory| {
            let (to, from) = sync_channel(WAITING_MAX);
            scope.spawn(move || stream(directory, &to));
            from
        };
        let (one, other) = (reader(&args.one), reader(&args.other));
        merge(&one, &other, &mut differences)
    })?;
    let journal = Past::open(&args.one)?.journal();
    report(args, journal, &differences, json, out)?;
    Ok(match differences.found {
        0 => Found::Nothing,
        _ => Found::Something,
    })
}

/// Walks over both in the order of LSNs.
fn merge(
    one: &Receiver<Result<Here, ToolError>>,
    other: &Receiver<Result<Here, ToolError>>,
    differences: &mut Differences,
) -> Result<(), ToolError> {
    let next = |from: &Receiver<Result<Here, ToolError>>| from.recv().ok().transpose();
    let (mut left, mut right) = (next(one)?, next(other)?);
    loop {
        match (&left, &right) {
            (None, None) => break,
            (Some(a), Some(b)) if a.last() < b.first() => {
                differences.only(0, a);
                left = next(one)?;
            }
            (Some(a), Some(b)) if b.last() < a.first() => {
                differences.only(1, b);
                right = next(other)?;
            }
            (Some(a), None) => {
                differences.only(0, a);
                left = next(one)?;
            }
            (None, Some(b)) => {
                differences.only(1, b);
                right = next(other)?;
            }
            (Some(a), Some(b)) => {
                differences.both(a, b);
                let (a, b) = (a.last(), b.last());
                if a <= b {
                    left = next(one)?;
                }
                if b <= a {
                    right = next(other)?;
                }
            }
        }
    }
    differences.close(0);
    differences.close(1);
    Ok(())
}

impl Differences {
    fn say(&mut self, value: Value, text: String) {
        self.found += 1;
        if self.found <= self.most {
            self.shown.push((value, text));
        }
    }

    fn close(&mut self, side: usize) {
        if let Some((first, last)) = self.only[side].take() {
            let sign = ["<", ">"][side];
            let records = count(last.0 - first.0 + 1, "record");
            let value = json!({"only": sign, "first": first, "last": last});
            self.say(
                value,
                format!("{sign} {records}, lsn {first} to {last}, only here"),
            );
        }
    }

    fn only(&mut self, side: usize, here: &Here) {
        match here {
            Here::Gap(gap) => self.gap(side, gap),
            Here::Record(recorded) => {
                let lsn = recorded.record.lsn();
                match &mut self.only[side] {
                    Some((_, last)) if last.next() == Some(lsn) => *last = lsn,
                    _ => {
                        self.close(side);
                        self.only[side] = Some((lsn, lsn));
                    }
                }
            }
        }
    }

    fn gap(&mut self, side: usize, gap: &Gap) {
        self.close(side);
        let sign = ["<", ">"][side];
        let value = json!({"gap": words::gap_json(gap), "in": sign});
        self.say(value, format!("{sign} {}", words::gap_line(gap)));
    }

    fn both(&mut self, one: &Here, other: &Here) {
        self.close(0);
        self.close(1);
        let (one, other) = match (one, other) {
            (Here::Record(one), Here::Record(other)) => (one, other),
            // Lost here and there: no difference between them.
            (Here::Gap(one), Here::Gap(other))
                if (one.first, one.last) == (other.first, other.last) =>
            {
                return;
            }
            (Here::Gap(gap), Here::Record(_) | Here::Gap(_)) => return self.gap(0, gap),
            (Here::Record(_), Here::Gap(gap)) => return self.gap(1, gap),
        };
        let is_same = one.record == other.record
            && one.batch.epoch == other.batch.epoch
            && one.batch.boot == other.batch.boot
            && one.batch.wall == other.batch.wall;
        if is_same {
            self.alike += 1;
            return;
        }
        let lsn = one.record.lsn();
        let epochs = match one.batch.epoch == other.batch.epoch {
            true => String::new(),
            false => format!(" (epoch {} and {})", one.batch.epoch, other.batch.epoch),
        };
        let text = format!(
            "lsn {lsn} differs{epochs}\n<{}\n>{}",
            words::line(one),
            words::line(other)
        );
        let value = json!({"lsn": lsn, "<": record_json(one), ">": record_json(other)});
        self.say(value, text);
    }
}

fn report(
    args: &DiffArgs,
    journal: Option<JournalId>,
    differences: &Differences,
    json: bool,
    out: &mut impl Write,
) -> Result<(), ToolError> {
    if json {
        let shown: Vec<&Value> = differences.shown.iter().map(|(value, _)| value).collect();
        let all = json!({
            "journal": journal,
            "alike": differences.alike,
            "differences": differences.found,
            "shown": shown,
        });
        writeln!(out, "{}", json_line(&all))?;
        return Ok(());
    }
    let name = |path: &Path| plain(&path.display().to_string());
    writeln!(out, "< {}\n> {}", name(&args.one), name(&args.other))?;
    if let Some(journal) = journal {
        writeln!(out, "two copies of journal {journal}")?;
    }
    let paint = Paint::of_stdout();
    for (_, text) in &differences.shown {
        let (title, rest) = text.split_once('\n').unwrap_or((text, ""));
        let look = match title.contains("!!") {
            true => Look::Bad,
            false => Look::Doubt,
        };
        writeln!(out, "{}", paint.text(look, title))?;
        if !rest.is_empty() {
            writeln!(out, "{rest}")?;
        }
    }
    let shown = differences.shown.len() as u64;
    if differences.found > shown {
        writeln!(out, "... and {} more", differences.found - shown)?;
    }
    let alike = count(differences.alike, "record");
    match differences.found {
        0 => {
            let line = format!("no difference: {alike} alike");
            writeln!(out, "{}", paint.text(Look::Good, &line))?;
        }
        found => {
            let line = format!("{}, {alike} alike", count(found, "difference"));
            writeln!(out, "{}", paint.text(Look::Doubt, &line))?;
        }
    }
    Ok(())
}
