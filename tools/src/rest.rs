//! What did not fit into memory when the journals were read: they are gone over once more, and what they say of
//! migrations is put down by parts, one of which is compared after the other.
//!
//! Invariant: finds in the parts what would be found in all of them together.
//! Not here: how a part lies in its file (`parts`), what is compared (`sides`).

use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use journal_format::number::Lsn;
use journal_format::record::Decoded;
use phase_journal::journal::decoded::Item;
use phase_journal::journal::read::Reader;

use crate::error::ToolError;
use crate::parts::{PARTS_MAX, Parts};
use crate::sides::{Contradictions, End, Part, Side, Sides};
use crate::source;

/// What is compared when the journals are gone over once more.
pub(crate) struct Rest<'a> {
    /// The journals.
    pub(crate) journals: &'a [PathBuf],
    /// How each of them ends.
    pub(crate) ends: &'a [End],
    /// How each of them is called.
    pub(crate) names: &'a [&'a str],
    /// Of 2^`bits` parts of the migrations, those from the second on.
    pub(crate) bits: u32,
    /// How many parts that are, with the first.
    pub(crate) parts: u64,
}

impl Rest<'_> {
    /// Adds what does not fit, and how many migrations both sides are here of.
    ///
    /// # Errors
    /// A journal cannot be read any more, or nothing can be put down. What was added holds.
    pub(crate) fn compare(
        &self,
        contradictions: &mut Contradictions,
        shared: &mut u64,
    ) -> Result<(), ToolError> {
        let mut begin = 1;
        while begin < self.parts {
            // What of so many parts is said is put down while the journals are gone over once more.
            let count = (self.parts - begin).min(PARTS_MAX);
            let journals: Vec<_> = self.journals.iter().zip(self.ends).collect();
            let mut put_down = Vec::new();
            for two in journals.chunks(2) {
                let read = |(journal, end): (&PathBuf, &End)| {
                    read_again(journal, Parts::new(self.bits, begin, count)?, end.last)
                };
                for parts in both(two, read) {
                    put_down.push(parts?);
                }
            }
            for index in begin..begin + count {
                let mut sides = Sides::default();
                for ((parts, end), label) in put_down.iter().zip(self.ends).zip(self.names) {
                    let mut side = Side::begin(
                        label,
                        Part::Share {
                            bits: self.bits,
                            index,
                        },
                        self.names.len(),
                    );
                    parts.read(index, |record| side.see(record))?;
                    side.end(end.clone());
                    sides.add(side);
                }
                sides.contradicted(|one| contradictions.add(one));
                *shared += sides.shared();
            }
            begin += count;
        }
        Ok(())
    }
}

/// What becomes of one or two, at the same time if a thread is to be had.
fn both<T: Copy + Sync, R: Send>(two: &[T], each: impl Fn(T) -> R + Sync) -> Vec<R> {
    let [one, other] = two else {
        return two.iter().map(|one| each(*one)).collect();
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || each(*one));
        let second = each(*other);
        let first = match thread {
            // If it panicked, so does this one.
            Ok(thread) => thread.join().unwrap_or_else(|why| resume_unwind(why)),
            Err(_) => each(*one),
        };
        vec![first, second]
    })
}

/// Puts down by parts what a journal says of migrations, up to where it was read before. What is lost was told of then.
fn read_again(journal: &Path, mut parts: Parts, last: Lsn) -> Result<Parts, ToolError> {
    let mut reader = Reader::open(source::open(journal)?)?;
    // What stops it, `done` tells.
    let _ = reader.decoded(
        |_, head| Side::looks_at(head.kind) && head.lsn <= last,
        |item| {
            if let Item::Record {
                record: Decoded::Known(record),
                ..
            } = &item
            {
                parts.put(record);
            }
            match parts.has_failed() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        },
    )?;
    parts.done()
}
