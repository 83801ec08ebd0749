//! Where a segment does not end as it was read: what a reader makes of it.
//! Invariant: what was given is not given again; a gap is told before what lies behind it.
//! Not here: how damage is judged (`read`).

use journal_format::number::{Lsn, SegmentNumber};
use journal_format::segment::SegmentHeader;
use journal_format::whole::Cursor;

use super::{FollowError, Follower, Held, News};
use crate::journal::disk::Disk;
use crate::journal::read::{Entry, ReadError, Reader};

impl<D: Disk + Clone> Follower<D> {
    /// What a reader makes of this segment from the first record on that was not given, and of what is
    /// lost behind it; and the next segment that has a batch.
    fn judge(
        &self,
        number: SegmentNumber,
    ) -> Result<(Vec<Entry>, Option<SegmentNumber>), ReadError> {
        let mut reader = Reader::open(self.disk.clone())?;
        reader.skip_to(number);
        let behind = reader.segments().iter();
        let mut behind = behind.filter(|file| file.number > number && file.header.is_ok());
        let next = behind.next().map(|file| file.number);
        let begin = self.next.unwrap_or(Lsn::FIRST);
        let mut entries = Vec::new();
        for entry in reader {
            match entry? {
                Entry::Batch(batch) if batch.header.segment > number => break,
                Entry::Batch(batch) if batch.header.first < begin => {}
                Entry::Gap(gap)
                    if gap.segment > number && next.is_some_and(|next| gap.segment >= next) =>
                {
                    break;
                }
                Entry::Gap(gap) if gap.last < begin => {}
                entry => entries.push(entry),
            }
        }
        Ok((entries, next))
    }

    /// The segment has another end than what was read of it, or the next one cannot be read.
    pub(super) fn judge_closed(
        &mut self,
        header: &SegmentHeader,
        newest: SegmentNumber,
    ) -> Result<(), FollowError> {
        let (entries, next) = self.judge(header.number)?;
        self.give(entries);
        self.vanish();
        match next {
            Some(next) => self.enter(next).map(drop)?,
            None => self.stuck_at = Some(newest),
        }
        Ok(())
    }

    /// The newest segment has something behind its last batch that does not go away: whole batches may
    /// lie behind it.
    pub(super) fn judge_newest(&mut self, header: &SegmentHeader) -> Result<(), FollowError> {
        let (mut entries, _) = self.judge(header.number)?;
        let is_batch = |entry: &Entry| matches!(entry, Entry::Batch(_));
        let rest = match entries.iter().rposition(is_batch) {
            Some(last) => entries.split_off(last),
            None => core::mem::take(&mut entries),
        };
        self.give(entries);
        let mut gaps = Vec::new();
        for entry in rest {
            match entry {
                Entry::Gap(gap) => gaps.push(gap),
                Entry::Batch(batch) => {
                    let Some(segment) = &mut self.segment else {
                        continue;
                    };
                    // What is held is this one, or was given just now.
                    if segment.cursor.at() <= batch.header.offset {
                        segment.cursor = Cursor::behind(header, &batch);
                        segment.awaits = None;
                        segment.looks = 0;
                        let (shown, gaps) = (false, Vec::new());
                        segment.held = vec![Held { batch, gaps, shown }];
                    }
                }
            }
        }
        for gap in gaps {
            if self.told_from.is_none_or(|told| gap.first > told) {
                self.told_from = Some(gap.first);
                self.ready.push_back(News::Gap(gap));
            }
        }
        Ok(())
    }

    /// Gives what a reader found, but for what was shown as unsettled.
    fn give(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let news = match entry {
                Entry::Gap(gap) => {
                    self.next = gap.last.next();
                    News::Gap(gap)
                }
                Entry::Batch(batch) => {
                    self.next = batch.header.last().next();
                    let held = self.segment.as_mut().map(|segment| &mut segment.held);
                    let same = |held: &Held| {
                        held.batch.header.first == batch.header.first
                            && held.batch.chain == batch.chain
                    };
                    let found = held.and_then(|held| {
                        let index = held.iter().position(same)?;
                        Some(held.remove(index))
                    });
                    if found.is_some_and(|held| held.shown) {
                        continue;
                    }
                    News::Batch(batch)
                }
            };
            self.ready.push_back(news);
        }
    }
}
