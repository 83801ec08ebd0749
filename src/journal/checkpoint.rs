//! Finding a journal's last whole checkpoint, record by record.
//! Invariant: a checkpoint counts only if nothing between its two ends is missing or unreadable (F18).
//! Not here: where the records come from (`replay`, `judge`), what they say (the engine).

use journal_format::number::Lsn;
use journal_format::record::{Decoded, RecordBody};
use journal_format::whole::RecordView;

use super::read::Entry;
use super::replay::Seen;

/// Goes over a segment's records, and keeps the last whole checkpoint in mind.
#[derive(Debug, Default)]
pub(super) struct CheckpointFinder {
    whole: Option<Lsn>,
    /// The head of the checkpoint that is being read, and how many records it announced.
    begun: Option<(Lsn, u32)>,
    expected: Option<Lsn>,
}

impl CheckpointFinder {
    /// The LSN of the head of the last whole checkpoint.
    pub(super) fn whole(&self) -> Option<Lsn> {
        self.whole
    }

    pub(super) fn see(&mut self, seen: &Seen<'_>) {
        match seen {
            Seen::Batch(batch) => batch.records().for_each(|view| self.see_view(&view)),
            Seen::Entry(entry) => self.see_entry(entry),
        }
    }

    pub(super) fn see_entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Batch(batch) => {
                for placed in &batch.records {
                    self.see_record(&placed.record);
                }
            }
            Entry::Gap(_) => self.begun = None,
        }
    }

    fn see_view(&mut self, view: &RecordView<'_>) {
        // Decoding takes time, and outside a checkpoint nothing but its begin is looked for.
        if self.begun.is_none() && !view.is_checkpoint_begun() {
            self.expected = view.lsn.next();
            return;
        }
        match view.decode() {
            Ok(record) => self.see_record(&record),
            Err(_) => self.begun = None,
        }
    }

    fn see_record(&mut self, record: &Decoded) {
        let lsn = record.lsn();
        if self.expected != Some(lsn) {
            self.begun = None;
        }
        self.expected = lsn.next();
        let Decoded::Known(record) = record else {
            return;
        };
        match (&record.body, self.begun) {
            (RecordBody::CheckpointBegun(head), _) => self.begun = Some((lsn, head.records)),
            (RecordBody::CheckpointEnded(end), Some((first, records))) => {
                let in_place = first.plus(u64::from(records) + 1) == Some(lsn);
                if in_place && end.records == records {
                    self.whole = Some(first);
                }
                self.begun = None;
            }
            _ => {}
        }
    }
}
