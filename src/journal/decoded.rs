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
        choose: impl FnMut(&BatchHeader, &Head) -> bool,
        each: impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let mut decoder = Decoder::new(choose, each);
        if self.replay_until(|seen| decoder.see(&seen))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        Ok(decoder.flush())
    }
}

/// Shows what is chosen of what was seen.
pub(super) struct Decoder<C, E> {
    choose: C,
    each: E,
    /// The whole batch whose records are shown.
    batch: Option<BatchHeader>,
    /// Records of it that do not decode.
    lost: Option<Gap>,
    /// A batch that is not whole: its gaps are told of behind it.
    held: Option<Batch>,
    gaps: Vec<Gap>,
}

impl<C, E> Decoder<C, E>
where
    C: FnMut(&BatchHeader, &Head) -> bool,
    E: FnMut(Item<'_>) -> ControlFlow<()>,
{
    pub(super) fn new(choose: C, each: E) -> Decoder<C, E> {
        Decoder {
            choose,
            each,
            batch: None,
            lost: None,
            held: None,
            gaps: Vec::new(),
        }
    }

    pub(super) fn see(&mut self, seen: &Seen<'_>) -> ControlFlow<()> {
        match seen {
            Seen::Begun(batch) => self.begin(batch),
            Seen::Record { view, .. } => {
                let Some(header) = &self.batch else {
                    return ControlFlow::Continue(());
                };
                let head = Head {
                    lsn: view.lsn,
                    domain: view.domain,
                    kind: view.kind,
                };
                match (self.choose)(header, &head) {
                    true => self.record(view, view.decode()),
                    false => ControlFlow::Continue(()),
                }
            }
            Seen::Entry(Entry::Gap(gap)) => {
                if self.held.is_none() {
                    self.flush()?;
                    return (self.each)(Item::Gap(gap.clone()));
                }
                self.gaps.push(gap.clone());
                ControlFlow::Continue(())
            }
            Seen::Entry(Entry::Batch(batch)) => {
                self.flush()?;
                self.held = Some(batch.clone());
                ControlFlow::Continue(())
            }
        }
    }

    /// A whole batch begins.
    pub(super) fn begin(&mut self, batch: &WholeBatch<'_>) -> ControlFlow<()> {
        self.flush()?;
        self.batch = Some(batch.header);
        (self.each)(Item::Batch {
            header: &batch.header,
            chain: batch.chain,
            header_lost: false,
            is_whole: true,
        })
    }

    /// The next record of that batch, and what it says.
    #[inline]
    pub(super) fn record(
        &mut self,
        view: &RecordView<'_>,
        says: Result<Decoded, FormatError>,
    ) -> ControlFlow<()> {
        let Some(header) = &self.batch else {
            return ControlFlow::Continue(());
        };
        match says {
            Ok(record) => {
                if let Some(gap) = self.lost.take() {
                    (self.each)(Item::Gap(gap))?;
                }
                (self.each)(Item::Record {
                    header,
                    offset: view.offset,
                    size: view.end() - view.offset,
                    record,
                })
            }
            // The batch is whole, so it was written like this (F9).
            Err(why) => {
                let follows = |gap: &&mut Gap| gap.last.next() == Some(view.lsn);
                if let Some(gap) = self.lost.as_mut().filter(follows) {
                    gap.last = view.lsn;
                    return ControlFlow::Continue(());
                }
                let gap = Gap {
                    first: view.lsn,
                    last: view.lsn,
                    segment: header.segment,
                    at: header.offset,
                    until: header.offset + header.size(),
                    why: Cause::Damaged(why),
                };
                match self.lost.replace(gap) {
                    Some(before) => (self.each)(Item::Gap(before)),
                    None => ControlFlow::Continue(()),
                }
            }
        }
    }

    /// Shows what is held back.
    pub(super) fn flush(&mut self) -> ControlFlow<()> {
        self.batch = None;
        if let Some(gap) = self.lost.take() {
            (self.each)(Item::Gap(gap))?;
        }
        let Some(batch) = self.held.take() else {
            return ControlFlow::Continue(());
        };
        let header = &batch.header;
        (self.each)(Item::Batch {
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
                (self.each)(Item::Gap(gap))?;
            }
            if (self.choose)(header, &Head::of(&placed.record)) {
                (self.each)(Item::Record {
                    header,
                    offset: placed.offset,
                    size: size_of(&placed.record),
                    record: placed.record,
                })?;
            }
        }
        gaps.try_for_each(|gap| (self.each)(Item::Gap(gap)))
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
