//! What a terminal is shown and a pipe is not: colours, and how far a long command has come.
//!
//! Invariant: colours and progress go to a terminal only; NO_COLOR (<https://no-color.org>), CLICOLOR and
//! TERM=dumb are heeded; a command that is done within [`SHOWN_AFTER`] shows no progress. What comes from a
//! journal goes through [`crate::text::plain`] before it is painted.
//! Not here: what is said.

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A command that takes longer says how far it has come.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// The clock is looked at after so many bytes.
const LOOK_EVERY: u64 = 4 * 1024 * 1024;

/// How often a sign of life is given.
const TICK: Duration = Duration::from_millis(100);

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Titles of columns and lines.
    Title,
    /// What is well.
    Good,
    /// What somebody should look at.
    Doubt,
    /// Damage, and promises that were broken.
    Bad,
    /// What stands around the records.
    Faint,
}

impl Look {
    const fn style(self) -> Style {
        match self {
            Look::Title => Style::new().bold(),
            Look::Good => AnsiColor::Green.on_default(),
            Look::Doubt => AnsiColor::Yellow.on_default(),
            Look::Bad => AnsiColor::Red.on_default().bold(),
            Look::Faint => Style::new().dimmed(),
        }
    }
}

/// Paints text if standard output is a terminal that may be painted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    is_on: bool,
}

impl Paint {
    /// For standard output, as the environment wants it.
    pub(crate) fn of_stdout() -> Paint {
        Paint {
            is_on: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
        }
    }

    /// The text as it is shown.
    pub(crate) fn text(self, look: Look, text: &str) -> String {
        if !self.is_on || text.is_empty() {
            return text.to_owned();
        }
        let style = look.style();
        format!("{style}{text}{style:#}")
    }
}

/// How much of a journal was read, on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    doing: &'static str,
    total: u64,
    begun: Instant,
    done: u64,
    looked: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing is shown.
    pub(crate) fn hidden() -> Progress {
        let mut progress = Progress::new("", u64::MAX);
        // Never reached.
        progress.looked = u64::MAX;
        progress
    }

    /// For something that goes over so many bytes; `doing` is a verb, such as "reading".
    pub(crate) fn new(doing: &'static str, total: u64) -> Progress {
        Progress {
            doing,
            total,
            begun: Instant::now(),
            done: 0,
            looked: 0,
            bar: None,
        }
    }

    /// So many bytes more are done.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        if self.done.saturating_sub(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = self.done;
        if self.bar.is_none() && self.begun.elapsed() >= SHOWN_AFTER {
            self.bar = Some(self.new_bar());
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done.min(self.total));
        }
    }

    /// Hidden where standard error is no terminal.
    fn new_bar(&self) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(self.total), ProgressDrawTarget::stderr());
        let template =
            "{msg} {bytes} of {total_bytes} [{bar:30}] {binary_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(self.doing);
        bar
    }
}

/// Something is at work of which nobody knows how long it takes.
#[derive(Debug)]
pub(crate) struct Busy {
    /// Closed when it is done.
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    /// `doing` is a verb, such as "indexing".
    pub(crate) fn new(doing: &'static str) -> Busy {
        let (done, waits) = channel();
        let thread = io::stderr().is_terminal().then(|| {
            thread::spawn(move || {
                if waits.recv_timeout(SHOWN_AFTER) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                    bar.set_style(style);
                }
                bar.set_message(doing);
                while waits.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    bar.tick();
                }
                bar.finish_and_clear();
            })
        });
        Busy {
            done: Some(done),
            thread,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // What it drew is gone then; if it panicked, nothing is lost.
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_text_stays_as_it_is() {
        let plain = Paint { is_on: false };
        assert_eq!(plain.text(Look::Bad, "DAMAGED"), "DAMAGED");
        let painted = Paint { is_on: true };
        assert_eq!(
            painted.text(Look::Bad, "DAMAGED"),
            "\u{1b}[1m\u{1b}[31mDAMAGED\u{1b}[0m"
        );
        assert_eq!(painted.text(Look::Bad, ""), "");
    }

    #[test]
    fn what_is_done_at_once_shows_no_progress() {
        let mut progress = Progress::new("reading", 1 << 40);
        for _ in 0..100 {
            progress.add(LOOK_EVERY);
        }
        assert!(progress.bar.is_none());
        progress.begun -= SHOWN_AFTER;
        progress.add(LOOK_EVERY);
        assert!(progress.bar.is_some());
        assert_eq!(progress.done, 101 * LOOK_EVERY);
    }
}
