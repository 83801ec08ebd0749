//! A journal as records that were decoded, by two threads: one reads ahead of the other, which shows.
//!
//! Invariant: shows what [`Reader::decoded`] shows when everything is chosen, in the same order: it is that one,
//! whose whole batches were read, and some of them decoded, by another thread. At most [`CHUNKS_MAX`] chunks are held.
//! Not here: what the records mean.

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use journal_format::batch::BatchHeader;
use journal_format::record::Decoded;
use journal_format::whole::{Copied, WholeBatch};

use super::decoded::{Head, Held, Item, Said, show_whole};
use super::disk::Disk;
use super::read::{Entry, ReadError, Reader};
use super::replay::Seen;

/// Bytes of records that are handed over at once, beside one batch: what fits into a processor's cache.
const CHUNK_SIZE: usize = 64 * 1024;
/// Batches, and records and gaps of segments that are not whole, that are handed over at once: of small ones the bytes
/// do not tell.
const CHUNK_COUNT_MAX: usize = 256;
/// Chunks that are filled, under way, or looked at.
const CHUNKS_MAX: usize = 10;
/// So many chunks wait, and the one who reads has time to decode.
const WAITING_MIN: usize = 3;

/// What is handed over at once.
#[derive(Debug, Default)]
struct Chunk {
    batches: Copied,
    /// What their records say, all of them, once somebody decoded them.
    says: Vec<Said<Decoded>>,
    is_decoded: bool,
    /// What of a segment that is not whole comes behind them.
    entries: Vec<Entry>,
}

impl Chunk {
    fn is_full(&self) -> bool {
        let one_by_one = self.entries.iter().map(|entry| match entry {
            Entry::Batch(batch) => batch.records.len().max(1),
            Entry::Gap(_) => 1,
        });
        let count = self.batches.count() + one_by_one.sum::<usize>();
        self.batches.size() >= CHUNK_SIZE || count >= CHUNK_COUNT_MAX
    }

    /// Takes in a batch, and decodes its records where they lie if somebody has time.
    fn add(&mut self, batch: &WholeBatch<'_>, has_time: bool) {
        if self.batches.count() == 0 {
            self.is_decoded = has_time;
        }
        match self.is_decoded {
            true => {
                decode(batch, &mut self.says);
                self.batches.add_head(batch);
            }
            false => self.batches.add(batch),
        }
    }

    fn decode(&mut self) {
        for batch in self.batches.batches() {
            decode(&batch, &mut self.says);
        }
        self.is_decoded = true;
    }

    /// Forgets what its records say; the memory is kept for others.
    fn forget(&mut self) {
        self.says.clear();
        self.is_decoded = false;
    }

    fn clear(&mut self) {
        self.batches.clear();
        self.forget();
        self.entries.clear();
    }
}

/// Appends what the records of a batch say.
fn decode(batch: &WholeBatch<'_>, says: &mut Vec<Said<Decoded>>) {
    says.reserve(batch.header.records as usize);
    for view in batch.records() {
        says.push(Said::of(&view));
    }
}

/// The two ends of the way from the one who reads to the one who shows, and of the way back: chunks are emptied
/// and filled again where their memory came from.
struct Filled<'a> {
    chunks: SyncSender<Chunk>,
    emptied: Receiver<Chunk>,
    waiting: &'a AtomicUsize,
}

struct Emptied<'a> {
    chunks: Receiver<Chunk>,
    emptied: Sender<Chunk>,
    waiting: &'a AtomicUsize,
}

/// `waiting` counts the chunks that are under way.
fn ways(waiting: &AtomicUsize) -> (Filled<'_>, Emptied<'_>) {
    // One chunk is being filled and one looked at.
    let (to, chunks) = sync_channel(CHUNKS_MAX - 2);
    let (back, emptied) = channel();
    let filled = Filled {
        chunks: to,
        emptied,
        waiting,
    };
    let emptied = Emptied {
        chunks,
        emptied: back,
        waiting,
    };
    (filled, emptied)
}

impl<D: Disk> Reader<D> {
    /// Shows everything that was not read yet, while another thread reads on.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn decoded_ahead(
        &mut self,
        mut each: impl FnMut(&Item<'_, &Decoded>),
    ) -> Result<(), ReadError>
    where
        D: Send,
    {
        let waiting = AtomicUsize::new(0);
        let ran = thread::scope(|scope| {
            let (filled, emptied) = ways(&waiting);
            let reader = &mut *self;
            let thread = thread::Builder::new().spawn_scoped(scope, move || read(reader, &filled));
            let thread = thread.ok()?;
            show(emptied, &mut each);
            // If it panicked, so does this one.
            Some(thread.join().unwrap_or_else(|why| resume_unwind(why)))
        });
        // Where no thread is to be had it goes without one.
        ran.unwrap_or_else(|| {
            let decoded = self.decoded(all, by_reference(&mut each));
            decoded.map(drop)
        })
    }
}

/// Reads on until everything is handed over, or nobody takes it any more.
fn read<D: Disk>(reader: &mut Reader<D>, filled: &Filled<'_>) -> Result<(), ReadError> {
    let mut chunk = Chunk::default();
    let hand_over = |chunk: &mut Chunk| {
        let waiting = filled.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= WAITING_MIN && !chunk.is_decoded {
            chunk.decode();
        }
        let empty = filled.emptied.try_recv().unwrap_or_default();
        let full = core::mem::replace(chunk, empty);
        chunk.clear();
        match filled.chunks.send(full) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let read = reader.replay_until(|seen| match seen {
        Seen::Batch(batch) => {
            if !chunk.entries.is_empty() || chunk.is_full() {
                hand_over(&mut chunk)?;
            }
            let has_time = filled.waiting.load(Ordering::Relaxed) >= WAITING_MIN;
            chunk.add(batch, has_time);
            ControlFlow::Continue(())
        }
        Seen::Entry(entry) => {
            chunk.entries.push(entry.clone());
            match chunk.is_full() {
                true => hand_over(&mut chunk),
                false => ControlFlow::Continue(()),
            }
        }
    });
    // Whoever does not take it has seen enough.
    let _ = hand_over(&mut chunk);
    read.map(drop)
}

/// Everything is chosen.
fn all(_: &BatchHeader, _: &Head) -> bool {
    true
}

/// Shows what is somebody's own to whoever only looks at it, and is never stopped.
fn by_reference(
    each: &mut impl FnMut(&Item<'_, &Decoded>),
) -> impl FnMut(Item<'_>) -> ControlFlow<()> {
    |item| {
        each(&item.by_reference());
        ControlFlow::Continue(())
    }
}

/// Shows what is handed over, until all of it was.
fn show(ways: Emptied<'_>, mut each: impl FnMut(&Item<'_, &Decoded>)) {
    let mut held = Held::default();
    for mut chunk in &ways.chunks {
        ways.waiting.fetch_sub(1, Ordering::Relaxed);
        let is_ours = !chunk.is_decoded;
        if is_ours {
            chunk.decode();
        }
        let mut says = chunk.says.iter();
        for batch in chunk.batches.batches() {
            let _ = held.flush(all, by_reference(&mut each));
            let records = says.by_ref().take(batch.header.records as usize);
            let _ = show_whole(&batch, records.map(Said::by_reference), |item| {
                each(&item);
                ControlFlow::Continue(())
            });
        }
        for entry in &chunk.entries {
            let _ = held.see(entry, all, by_reference(&mut each));
        }
        // Memory goes back fastest where it came from.
        if is_ours {
            chunk.forget();
        }
        // If that one has read everything, nobody wants it back.
        drop(ways.emptied.send(chunk));
    }
    let _ = held.flush(all, by_reference(&mut each));
}
