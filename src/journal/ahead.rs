//! A journal as records that were decoded, by a thread that reads ahead of whoever looks at them.
//!
//! Invariant: shows what [`Reader::decoded`] shows when everything is chosen, in the same order: it is that one,
//! on another processor. At most [`CHUNKS_MAX`] times [`CHUNK_ITEMS`] items are held.
//! Not here: what the records mean.

use core::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use journal_format::batch::BatchHeader;
use journal_format::number::Chain;
use journal_format::record::Decoded;

use super::decoded::Item;
use super::disk::Disk;
use super::read::{Gap, ReadError, Reader};

/// Batches, records and gaps that are handed over at once: what fits into a processor's cache.
const CHUNK_ITEMS: usize = 256;
/// Chunks that are filled, under way, or looked at.
const CHUNKS_MAX: usize = 8;

/// An [`Item`] that can leave its thread.
#[allow(clippy::large_enum_variant, reason = "nearly all are records")]
enum Read {
    Batch {
        header: BatchHeader,
        chain: Chain,
        header_lost: bool,
        is_whole: bool,
    },
    Record {
        offset: u64,
        size: u64,
        record: Decoded,
    },
    Gap(Gap),
}

impl Read {
    fn of(item: Item<'_>) -> Read {
        match item {
            Item::Batch {
                header,
                chain,
                header_lost,
                is_whole,
            } => Read::Batch {
                header: *header,
                chain,
                header_lost,
                is_whole,
            },
            Item::Record {
                offset,
                size,
                record,
                ..
            } => Read::Record {
                offset,
                size,
                record,
            },
            Item::Gap(gap) => Read::Gap(gap),
        }
    }
}

/// The two ends of the way from the one who reads to the one who looks, and of the way back: chunks are emptied
/// and filled again where their memory came from.
struct Filled {
    chunks: SyncSender<Vec<Read>>,
    emptied: Receiver<Vec<Read>>,
}

struct Emptied {
    chunks: Receiver<Vec<Read>>,
    emptied: Sender<Vec<Read>>,
}

fn ways() -> (Filled, Emptied) {
    // One chunk is being filled and one looked at.
    let (to, chunks) = sync_channel(CHUNKS_MAX - 2);
    let (back, emptied) = channel();
    let filled = Filled {
        chunks: to,
        emptied,
    };
    let emptied = Emptied {
        chunks,
        emptied: back,
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
        let ran = thread::scope(|scope| {
            let (filled, emptied) = ways();
            let reader = &mut *self;
            let thread = thread::Builder::new().spawn_scoped(scope, move || read(reader, &filled));
            let thread = thread.ok()?;
            show(emptied, &mut each);
            // If it panicked, so does this one.
            Some(thread.join().unwrap_or_else(|why| resume_unwind(why)))
        });
        // Where no thread is to be had it goes without one.
        ran.unwrap_or_else(|| {
            let shown = self.decoded(
                |_, _| true,
                |item| {
                    each(item.by_reference());
                    ControlFlow::Continue(())
                },
            );
            // It is never stopped.
            shown.map(drop)
        })
    }
}

/// Reads on until everything is handed over, or nobody takes it any more.
fn read<D: Disk>(reader: &mut Reader<D>, filled: &Filled) -> Result<(), ReadError> {
    let mut chunk = Vec::with_capacity(CHUNK_ITEMS);
    let read = reader.decoded(
        |_, _| true,
        |item| {
            chunk.push(Read::of(item));
            if chunk.len() < CHUNK_ITEMS {
                return ControlFlow::Continue(());
            }
            let empty = filled.emptied.try_recv().unwrap_or_default();
            let full = core::mem::replace(&mut chunk, empty);
            chunk.clear();
            match filled.chunks.send(full) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        },
    );
    // Whoever does not take it has seen enough.
    drop(filled.chunks.send(chunk));
    read.map(drop)
}

/// Shows what is handed over, until all of it was.
fn show(ways: Emptied, each: &mut impl FnMut(Item<'_, &Decoded>)) {
    let mut batch: Option<BatchHeader> = None;
    for chunk in &ways.chunks {
        for read in &chunk {
            match read {
                Read::Gap(gap) => each(Item::Gap(gap.clone())),
                Read::Batch {
                    header,
                    chain,
                    header_lost,
                    is_whole,
                } => each(Item::Batch {
                    header: batch.insert(*header),
                    chain: *chain,
                    header_lost: *header_lost,
                    is_whole: *is_whole,
                }),
                Read::Record {
                    offset,
                    size,
                    record,
                } => {
                    // Each record stands behind its batch.
                    if let Some(header) = &batch {
                        each(Item::Record {
                            header,
                            offset: *offset,
                            size: *size,
                            record,
                        });
                    }
                }
            }
        }
        // If that one has read everything, nobody wants it back.
        drop(ways.emptied.send(chunk));
    }
}
