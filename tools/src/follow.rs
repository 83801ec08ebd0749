//! `phase-journal dump --follow`: each record as it becomes durable.
//!
//! Invariant: what nothing proves durable yet is shown only with a mark, and taken back by a line of its
//! own if it never was; nothing is shown twice. Ends on Ctrl-C, and when nobody reads any more.
//! Not here: what is new in a journal (`phase_journal::journal::follow`).

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use journal_format::scan::Batch;
use phase_journal::journal::decoded::{self, Head};
use phase_journal::journal::follow::{Follower, News};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::{Errno, read, write};
use serde_json::json;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::backwards::boots;
use crate::dump::DumpArgs;
use crate::error::{Found, ToolError};
use crate::filter::Filter;
use crate::past::{Choose, Known, Past, Place};
use crate::print::{Format, Line, Printer, Sheet};
use crate::source;

/// How long a batch is held back for something that proves it: an idle journal is sealed within a few
/// milliseconds, so that this passes only where it is not, as while a guest is handed over.
const SETTLE_WAIT: Duration = Duration::from_millis(100);
/// How often is looked even if nothing tells of a change: where the system cannot, or does not.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Shows what there is, and then what comes.
pub(crate) fn run(
    args: &DumpArgs,
    mut filter: Filter,
    journal: &Path,
    format: Format,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    // Before the first look, so that nothing comes between unnoticed.
    let watch = Watch::new(journal)?;
    let disk = source::open(journal)?;
    filter.settle_boot(&boots(&disk, Past::of(disk.clone())?.segments()))?;
    let mut follower = Follower::open(disk.clone())?;
    let mut shower = Shower {
        printer: Printer::new(format, disk, None),
        filter,
        known: Known::default(),
        kept: args.last.map(|last| (last, VecDeque::new())),
        sheet: Sheet::new(out),
        is_done: false,
    };
    if let Some(title) = shower.printer.title() {
        shower.sheet.text(&title)?;
    }
    // Since when a batch waits to be proven.
    let mut unsettled: Option<Instant> = None;
    loop {
        while let Some(news) = follower.poll()? {
            shower.news(news)?;
            unsettled = None;
        }
        let waits = follower.has_unsettled() && !args.settled;
        unsettled = waits.then(|| unsettled.unwrap_or_else(Instant::now));
        let waited = unsettled.map(|since| since.elapsed());
        // Among the last that there are, it counts at once.
        if waited.is_some_and(|waited| shower.kept.is_some() || waited >= SETTLE_WAIT) {
            for batch in follower.take_unsettled() {
                shower.batch(batch, false)?;
            }
            unsettled = None;
        }
        shower.caught_up()?;
        if shower.is_done {
            break;
        }
        let wait = match unsettled {
            Some(since) => SETTLE_WAIT.saturating_sub(since.elapsed()),
            None => POLL_INTERVAL,
        };
        match watch.wait(wait)? {
            Wake::Look => {}
            Wake::Stop => break,
        }
    }
    Ok(Found::Nothing)
}

/// Shows news as lines.
struct Shower<W> {
    printer: Printer,
    filter: Filter,
    known: Known,
    /// How many of the last lines, and those, until everything is there that was there at first.
    kept: Option<(usize, VecDeque<Line>)>,
    sheet: Sheet<W>,
    /// Nothing that comes can be asked for.
    is_done: bool,
}

impl<W: Write> Shower<W> {
    fn news(&mut self, news: News) -> Result<(), ToolError> {
        let line = match news {
            News::Batch(batch) => return self.batch(batch, true),
            News::Gap(gap) => self.printer.gap(&gap),
            News::LetGo { first, last } => self.printer.remark(
                &format!(
                    "-- lsn {first} to {last} were let go by the journal before they were read"
                ),
                json!({"let-go": {"first": first, "last": last}}),
            ),
            News::Vanished { first, last } => self.printer.remark(
                &format!(
                    "-- lsn {first} to {last}, shown above as not settled, were never durable"
                ),
                json!({"vanished": {"first": first, "last": last}}),
            ),
        };
        self.line(line)
    }

    fn batch(&mut self, batch: Batch, settled: bool) -> Result<(), ToolError> {
        for placed in batch.records {
            let head = Head::of(&placed.record);
            let place = Place {
                batch: batch.header,
                offset: placed.offset,
                size: decoded::size_of(&placed.record),
            };
            let recorded = self.known.recorded(placed.record, place);
            let is_wanted = self.filter.wants(&recorded)
                && self.filter.may_want(&batch.header, &head, &self.known);
            if is_wanted {
                let line = self.printer.record(&recorded)?;
                self.line(match settled {
                    true => line,
                    false => line.not_settled(self.printer.is_json()),
                })?;
            }
            self.is_done |= head.lsn >= self.filter.to();
        }
        Ok(())
    }

    fn line(&mut self, line: Line) -> Result<(), ToolError> {
        match &mut self.kept {
            Some((last, kept)) => {
                kept.push_back(line);
                if kept.len() > *last {
                    kept.pop_front();
                }
                Ok(())
            }
            None => self.sheet.write(&line),
        }
    }

    fn caught_up(&mut self) -> Result<(), ToolError> {
        for line in self.kept.take().into_iter().flat_map(|(_, kept)| kept) {
            self.sheet.write(&line)?;
        }
        self.sheet.flush()
    }
}

/// Why waiting is over.
enum Wake {
    /// Something may be new.
    Look,
    /// Ctrl-C.
    Stop,
}

/// Waits for changes in a directory, for Ctrl-C, and for the end of whoever reads.
struct Watch {
    /// `None`: the system cannot tell of changes.
    changes: Option<OwnedFd>,
    stop: OwnedFd,
}

impl Watch {
    fn new(directory: &Path) -> Result<Watch, ToolError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
        stop_on_signal(stop.try_clone()?)?;
        let watch = || {
            let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let kinds = WatchFlags::MODIFY
                | WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF;
            inotify::add_watch(&changes, directory, kinds)?;
            Ok::<OwnedFd, Errno>(changes)
        };
        // Without it, as where too many watch, there is the interval.
        let changes = watch().ok();
        Ok(Watch { changes, stop })
    }

    fn wait(&self, at_most: Duration) -> Result<Wake, ToolError> {
        let stdout = io::stdout();
        let mut fds = vec![
            PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty()),
            PollFd::new(&self.stop, PollFlags::IN),
        ];
        fds.extend(self.changes.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = Timespec::try_from(at_most).unwrap_or_default();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        // A pipe that nobody reads; a terminal that is gone.
        if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        if fds[1].revents().contains(PollFlags::IN) {
            return Ok(Wake::Stop);
        }
        if let Some(changes) = &self.changes {
            // What changed is found out by looking.
            let mut events = [0; 4096];
            while read(changes, &mut events).is_ok_and(|count| count > 0) {}
        }
        Ok(Wake::Look)
    }
}

/// Makes `stop` readable on Ctrl-C or SIGTERM.
fn stop_on_signal(stop: OwnedFd) -> Result<(), ToolError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // It always has room for this one.
        let _ = write(&stop, &1u64.to_le_bytes());
    });
    Ok(())
}
