//! A journal as records that were decoded: what is chosen of it, in the order of LSNs, with what is lost in
//! its place among them.
//!
//! Invariant: agrees with the iterator of [`Reader`] on all that is chosen; memory is that of a window, and
//! of one segment where that is damaged. What is not chosen is not decoded: of its checksums only the
//! batch's were looked at.
//! Not here: what the records mean.

use core::ops::ControlFlow;

use journal_format::batch::BatchHeader;
use journal_format::error::FormatError;
use journal_format::number::{Chain, DomainId, Lsn};
use journal_format::record::{Decoded, RECORD_HEADER_SIZE, body_size};
use journal_format::scan::Batch;
use journal_format::whole::{RecordView, WholeBatch};

use super::disk::Disk;
use super::read::{Cause, Entry, Gap, ReadError, Reader};
use super::replay::Seen;

/// What a record's header says: enough to choose by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its place.
    pub lsn: Lsn,
    /// The domain it is about.
    pub domain: Option<DomainId>,
    /// The number of its type.
    pub kind: u16,
}

impl Head {
    #[inline]
    fn of_view(view: &RecordView<'_>) -> Head {
        Head {
            lsn: view.lsn,
            domain: view.domain,
            kind: view.kind,
        }
    }

    /// That of a record.
    #[must_use]
    pub fn of(record: &Decoded) -> Head {
        let kind = match record {
            Decoded::Known(record) => record.body.type_number(),
            Decoded::Unknown { kind, .. } => *kind,
        };
        Head {
            lsn: record.lsn(),
            domain: record.domain(),
            kind,
        }
    }
}

/// Something in a journal; `R` is a record, or a look at one.
#[allow(clippy::large_enum_variant, reason = "nearly all are records")]
#[derive(Debug)]
pub enum Item<'a, R = Decoded> {
    /// A batch begins.
    Batch {
        /// Its header, or if that is lost, what is known of its records' place.
        header: &'a BatchHeader,
        /// The chain value after it.
        chain: Chain,
        /// Records of it were found one by one (F23).
        header_lost: bool,
        /// It is whole, with its padding; else what of it can be read was looked for.
        is_whole: bool,
    },
    /// A record that was chosen.
    Record {
        /// The header of its batch.
        header: &'a BatchHeader,
        /// Where it begins, in bytes from the start of the segment.
        offset: u64,
        /// Its bytes, header and padding included.
        size: u64,
        /// What it says.
        record: R,
    },
    /// Records that are lost.
    Gap(Gap),
}

impl Item<'_> {
    /// The same, whose record stays where it is.
    #[must_use]
    pub fn by_reference(&self) -> Item<'_, &Decoded> {
        match self {
            Item::Batch {
                header,
                chain,
                header_lost,
                is_whole,
            } => Item::Batch {
                header,
                chain: *chain,
                header_lost: *header_lost,
                is_whole: *is_whole,
            },
            Item::Record {
                header,
                offset,
                size,
                record,
            } => Item::Record {
                header,
                offset: *offset,
                size: *size,
                record,
            },
            Item::Gap(gap) => Item::Gap(gap.clone()),
        }
    }
}

impl<D: Disk> Reader<D> {
    /// Shows what was not read yet, until `each` has seen enough: all batches and gaps, and the records that
    /// `choose` chooses.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn decoded(
        &mut self,
        mut choose: impl FnMut(&BatchHeader, &Head) -> bool,
        mut each: impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let mut held = Held::default();
        let read = self.replay_until(|seen| match seen {
            Seen::Batch(batch) => {
                held.flush(&mut choose, &mut each)?;
                let chosen = batch
                    .records()
                    .filter(|view| choose(&batch.header, &Head::of_view(view)));
                show_whole(batch, chosen.map(|view| Said::of(&view)), &mut each)
            }
            Seen::Entry(entry) => held.see(entry, &mut choose, &mut each),
        });
        match read? {
            ControlFlow::Continue(()) => Ok(held.flush(&mut choose, &mut each)),
            ControlFlow::Break(()) => Ok(ControlFlow::Break(())),
        }
    }
}

/// What a record of a whole batch says, or why it does not decode; and where it lies.
#[derive(Debug)]
pub(super) struct Said<R> {
    lsn: Lsn,
    offset: u64,
    size: u64,
    says: Result<R, FormatError>,
}

impl Said<Decoded> {
    #[inline]
    pub(super) fn of(view: &RecordView<'_>) -> Said<Decoded> {
        Said {
            lsn: view.lsn,
            offset: view.offset,
            size: view.end() - view.offset,
            says: view.decode(),
        }
    }

    /// The same, which stays where it is.
    #[inline]
    pub(super) fn by_reference(&self) -> Said<&Decoded> {
        Said {
            lsn: self.lsn,
            offset: self.offset,
            size: self.size,
            says: self.says.as_ref().map_err(FormatError::clone),
        }
    }
}

/// Shows a whole batch and these records of it. What does not decode is lost: the batch is whole, so it was written
/// like this (F9).
#[inline]
pub(super) fn show_whole<'a, R>(
    batch: &'a WholeBatch<'_>,
    records: impl Iterator<Item = Said<R>>,
    mut each: impl FnMut(Item<'a, R>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let header = &batch.header;
    each(Item::Batch {
        header,
        chain: batch.chain,
        header_lost: false,
        is_whole: true,
    })?;
    let mut lost: Option<Gap> = None;
    for Said {
        lsn,
        offset,
        size,
        says,
    } in records
    {
        match says {
            Ok(record) => {
                if let Some(gap) = lost.take() {
                    each(Item::Gap(gap))?;
                }
                each(Item::Record {
                    header,
                    offset,
                    size,
                    record,
                })?;
            }
            Err(why) => {
                if let Some(gap) = lost.as_mut().filter(|gap| gap.last.next() == Some(lsn)) {
                    gap.last = lsn;
                    continue;
                }
                let gap = Gap {
                    first: lsn,
                    last: lsn,
                    segment: header.segment,
                    at: header.offset,
                    until: header.offset + header.size(),
                    why: Cause::Damaged(why),
                };
                if let Some(before) = lost.replace(gap) {
                    each(Item::Gap(before))?;
                }
            }
        }
    }
    match lost {
        Some(gap) => each(Item::Gap(gap)),
        None => ControlFlow::Continue(()),
    }
}

/// Of a segment that is not whole: a batch whose gaps are told of behind it.
#[derive(Debug, Default)]
pub(super) struct Held {
    batch: Option<Batch>,
    gaps: Vec<Gap>,
}

impl Held {
    /// Takes in what comes next, and shows what that does not belong to.
    pub(super) fn see(
        &mut self,
        entry: &Entry,
        choose: impl FnMut(&BatchHeader, &Head) -> bool,
        mut each: impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match entry {
            Entry::Gap(gap) if self.batch.is_none() => each(Item::Gap(gap.clone())),
            Entry::Gap(gap) => {
                self.gaps.push(gap.clone());
                ControlFlow::Continue(())
            }
            Entry::Batch(batch) => {
                self.flush(choose, each)?;
                self.batch = Some(batch.clone());
                ControlFlow::Continue(())
            }
        }
    }

    /// Shows what is held.
    pub(super) fn flush(
        &mut self,
        mut choose: impl FnMut(&BatchHeader, &Head) -> bool,
        mut each: impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(batch) = self.batch.take() else {
            return ControlFlow::Continue(());
        };
        let header = &batch.header;
        each(Item::Batch {
            header,
            chain: batch.chain,
            header_lost: batch.header_lost,
            is_whole: false,
        })?;
        self.gaps.sort_by_key(|gap| gap.first);
        let mut gaps = core::mem::take(&mut self.gaps).into_iter().peekable();
        for placed in batch.records {
            let lsn = placed.record.lsn();
            while let Some(gap) = gaps.next_if(|gap| gap.first <= lsn) {
                each(Item::Gap(gap))?;
            }
            if choose(header, &Head::of(&placed.record)) {
                each(Item::Record {
                    header,
                    offset: placed.offset,
                    size: size_of(&placed.record),
                    record: placed.record,
                })?;
            }
        }
        gaps.try_for_each(|gap| each(Item::Gap(gap)))
    }
}

/// The bytes of a record on disk, with header and padding: a value has one encoding (F9).
#[must_use]
pub fn size_of(record: &Decoded) -> u64 {
    let body = match record {
        Decoded::Known(record) => body_size(&record.body).unwrap_or(0),
        Decoded::Unknown { body, .. } => body.len() as u64,
    };
    (RECORD_HEADER_SIZE as u64 + body).next_multiple_of(8)
}
