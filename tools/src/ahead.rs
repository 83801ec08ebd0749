//! A journal read and chosen from by a thread of its own, ahead of whoever shows what is chosen.
//!
//! Invariant: hands over what [`Past::read_some`] hands over, in the same order, but of the headers of batches
//! only those that stand right before a gap: a record has its batch's. At most [`CHUNKS_MAX`] times
//! [`CHUNK_ITEMS`] items wait, and none for longer than it takes to read [`CHUNK_BYTES`].
//! Not here: what is chosen (`filter`), how it is shown.

use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use crate::error::ToolError;
use crate::past::{Choose, Item, Past};

/// Items that are handed over at once.
const CHUNK_ITEMS: usize = 128;
/// What is handed over and was not shown yet, in chunks.
const CHUNKS_MAX: usize = 4;
/// What was chosen is handed over after so many bytes of the journal at the latest.
const CHUNK_BYTES: u64 = 1024 * 1024;

/// What to do with something that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Hand it over.
    Show,
    /// Leave it out.
    Leave,
    /// Read no further.
    Stop,
}

/// Hands what is chosen and picked to `each`, until that has seen enough.
pub(crate) fn read(
    past: &mut Past,
    choose: &mut (impl Choose + Send),
    pick: impl Fn(&Item) -> Pick + Sync,
    mut each: impl FnMut(Item) -> Result<ControlFlow<()>, ToolError>,
) -> Result<ControlFlow<()>, ToolError> {
    let ran = thread::scope(|scope| {
        let (sender, receiver) = sync_channel(CHUNKS_MAX);
        let (past, choose, pick) = (&mut *past, &mut *choose, &pick);
        let thread = thread::Builder::new();
        let thread = thread.spawn_scoped(scope, move || {
            let mut chunks = Chunks::to(sender);
            let read = past.read_some(choose, |item| Ok(chunks.add(item, pick)));
            // If nobody takes it, nobody wants more.
            let _ = chunks.hand_over();
            read
        });
        let thread = thread.ok()?;
        let mut shown = Ok(ControlFlow::Continue(()));
        'all: for chunk in &receiver {
            for item in chunk {
                shown = each(item);
                if !matches!(shown, Ok(ControlFlow::Continue(()))) {
                    break 'all;
                }
            }
        }
        // Whoever still reads is told that nobody looks.
        drop(receiver);
        // If it panicked, so does this one.
        let read = thread.join().unwrap_or_else(|why| resume_unwind(why));
        Some(match shown {
            Ok(ControlFlow::Continue(())) => read,
            Ok(ControlFlow::Break(())) | Err(_) => shown,
        })
    });
    // Where no thread is to be had it goes without one.
    ran.unwrap_or_else(|| {
        past.read_some(choose, |item| match pick(&item) {
            Pick::Show => each(item),
            Pick::Leave => Ok(ControlFlow::Continue(())),
            Pick::Stop => Ok(ControlFlow::Break(())),
        })
    })
}

/// What was picked and is not handed over yet.
struct Chunks {
    to: SyncSender<Vec<Item>>,
    items: Vec<Item>,
    /// The header of the batch whose records come now, unless it was handed over.
    batch: Option<Item>,
    /// Bytes that were read since something was handed over.
    bytes: u64,
}

impl Chunks {
    fn to(to: SyncSender<Vec<Item>>) -> Chunks {
        Chunks {
            to,
            items: Vec::new(),
            batch: None,
            bytes: 0,
        }
    }

    fn add(&mut self, item: Item, pick: impl Fn(&Item) -> Pick) -> ControlFlow<()> {
        match pick(&item) {
            Pick::Stop => return ControlFlow::Break(()),
            Pick::Leave => return ControlFlow::Continue(()),
            Pick::Show => {}
        }
        match &item {
            Item::Batch(header, _) => {
                self.bytes += header.size();
                self.batch = Some(item);
            }
            Item::Gap(_) => {
                self.items.extend(self.batch.take());
                self.items.push(item);
            }
            Item::Record(_) => {
                self.batch = None;
                self.items.push(item);
            }
        }
        let is_due = self.items.len() >= CHUNK_ITEMS || self.bytes >= CHUNK_BYTES;
        match is_due && !self.items.is_empty() {
            true => self.hand_over(),
            false => ControlFlow::Continue(()),
        }
    }

    fn hand_over(&mut self) -> ControlFlow<()> {
        self.bytes = 0;
        match self.to.send(std::mem::take(&mut self.items)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}
