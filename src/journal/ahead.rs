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
use journal_format::error::FormatError;
use journal_format::record::Decoded;
use journal_format::whole::Copied;

use super::decoded::{Decoder, Head, Item};
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
    /// What their records say, all of them, if the one who read them had time to decode them.
    says: Vec<Result<Decoded, FormatError>>,
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

    fn decode(&mut self) {
        for batch in self.batches.batches() {
            self.says.reserve(batch.header.records as usize);
            for view in batch.records() {
                self.says.push(view.decode());
            }
        }
    }

    fn clear(&mut self) {
        self.batches.clear();
        self.says.clear();
        self.entries.clear();
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
        mut each: impl FnMut(Item<'_, &Decoded>),
    ) -> Result<(), ReadError>
    where
        D: Send,
    {
        let mut decoder = Decoder::new(
            |_, _| true,
            |item: Item<'_>| {
                each(item.by_reference());
                ControlFlow::Continue(())
            },
        );
        let waiting = AtomicUsize::new(0);
        let ran = thread::scope(|scope| {
            let (filled, emptied) = ways(&waiting);
            let reader = &mut *self;
            let thread = thread::Builder::new().spawn_scoped(scope, move || read(reader, &filled));
            let thread = thread.ok()?;
            // It is never stopped.
            let _ = show(emptied, &mut decoder);
            // If it panicked, so does this one.
            Some(thread.join().unwrap_or_else(|why| resume_unwind(why)))
        });
        // Where no thread is to be had it goes without one.
        let read = ran.unwrap_or_else(|| self.replay_until(|seen| decoder.see(&seen)).map(drop));
        let _ = decoder.flush();
        read
    }
}

/// Reads on until everything is handed over, or nobody takes it any more.
fn read<D: Disk>(reader: &mut Reader<D>, filled: &Filled<'_>) -> Result<(), ReadError> {
    let mut chunk = Chunk::default();
    let hand_over = |chunk: &mut Chunk| {
        if filled.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MIN {
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
        Seen::Begun(batch) => {
            if !chunk.entries.is_empty() || chunk.is_full() {
                hand_over(&mut chunk)?;
            }
            chunk.batches.add(batch);
            ControlFlow::Continue(())
        }
        // It lies in its batch.
        Seen::Record { .. } => ControlFlow::Continue(()),
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

/// Shows what is handed over, until all of it was.
fn show<C, E>(ways: Emptied<'_>, decoder: &mut Decoder<C, E>) -> ControlFlow<()>
where
    C: FnMut(&BatchHeader, &Head) -> bool,
    E: FnMut(Item<'_>) -> ControlFlow<()>,
{
    for mut chunk in &ways.chunks {
        ways.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut says = chunk.says.drain(..);
        for batch in chunk.batches.batches() {
            decoder.begin(&batch)?;
            for view in batch.records() {
                let says = says.next().unwrap_or_else(|| view.decode());
                decoder.record(&view, says)?;
            }
        }
        drop(says);
        for entry in &chunk.entries {
            decoder.see(&Seen::Entry(entry))?;
        }
        // If that one has read everything, nobody wants it back.
        drop(ways.emptied.send(chunk));
    }
    ControlFlow::Continue(())
}
