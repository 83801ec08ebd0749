//! One domain's records, one job's, or those of a time, by the journal's index: they begin to be shown at once,
//! however long the journal is.
//!
//! Invariant: shows what going over the journal shows, or hands over to that: every record is read from the
//! journal itself, and each names the one of its domain before it, so that none of those between the domain's
//! coming and going can be missing unnoticed.
//! The index is left alone if it is somebody else's or in use.
//! Not here: going over the journal (`past`).

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use journal_format::batch::BatchHeader;
use journal_format::number::{DomainId, Id128, Lsn, SegmentNumber};
use journal_format::record::RecordBody;
use journal_format::whole::RecordView;
use phase_journal::journal::decoded::Head;
use phase_journal::journal::disk::Disk;
use phase_journal::journal::extent::{Extents, Shown};
use phase_journal::journal::index::{Extent, Index, IndexError, Meta};
use phase_journal::journal::read::SegmentFile;
use phase_journal::journal::{INDEX_NAME, OsDisk};

use crate::error::ToolError;
use crate::past::{Choose, Item, Known, Place};

/// Extents that are asked for: what lies behind them is read from the journal.
const EXTENTS_MAX: usize = 1_000_000;

/// A larger index is left alone: opening sled's file takes time and memory by its size. One of ten million
/// records has some 14 MiB.
const INDEX_SIZE_MAX: u64 = 64 * 1024 * 1024;

/// Whose records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// A domain's, by its name or identity.
    Domain(String),
    /// Those of the domain that a job is of, which its first record tells.
    Job(Lsn),
}

/// Where going over the journal is to go on.
#[derive(Debug)]
pub(crate) struct After {
    /// The first LSN that was not looked at.
    pub(crate) next: Lsn,
    /// Nobody wants more.
    pub(crate) is_stopped: bool,
}

/// An index that can be used: it is there, ours, not in use, and of this history of this journal.
pub(crate) struct Opened {
    index: Index,
    meta: Meta,
    reader: Extents<OsDisk>,
}

impl Opened {
    /// The index will be opened, when something else was read: meanwhile the disk can be at it.
    pub(crate) fn announce(disk: &OsDisk) {
        if disk.is_directory() {
            Index::ask_for(&disk.path().join(INDEX_NAME));
        }
    }

    /// Opens the index of the journal that these files are of.
    pub(crate) fn of(disk: &OsDisk, files: &[SegmentFile]) -> Option<Opened> {
        let mut heads = files.iter().filter_map(|file| file.header.as_ref().ok());
        let journal = heads.next()?.journal;
        let directory = disk.path().join(INDEX_NAME);
        // Opening it writes to it: what belongs to somebody else is left as it is, and to its owner.
        let owner = fs::metadata(&directory).ok()?.uid();
        if owner != rustix::process::geteuid().as_raw() || !disk.is_directory() {
            return None;
        }
        let files_of_index = fs::read_dir(&directory).ok()?;
        let sizes = files_of_index.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        if sizes.sum::<u64>() > INDEX_SIZE_MAX {
            return None;
        }
        let index = Index::open_as_it_is(&directory).ok()??;
        let meta = index.meta()?;
        let mut reader = Extents::new(disk.clone(), journal);
        reader.has_end(&meta).then_some(Opened {
            index,
            meta,
            reader,
        })
    }

    /// The segment that holds the first batch of a time or later; all before it is older.
    pub(crate) fn segment_at_time(&self, wall: u64) -> Option<SegmentNumber> {
        let found = self.index.segment_at_time(wall).ok()?;
        // All that the index has is older: what is behind it may not be.
        Some(found.unwrap_or(self.meta.segment))
    }

    /// Whose records are asked for, if there is just one domain of that name; `begin` is the segment that a
    /// job begins in.
    fn domain(&mut self, of: &Of, begin: SegmentNumber) -> Option<DomainId> {
        match of {
            Of::Domain(name) => match Id128::parse(name) {
                Some(id) => Some(DomainId(id)),
                None => match self.index.domains_named(name).ok()?.as_slice() {
                    [one] => Some(*one),
                    _ => None,
                },
            },
            Of::Job(job) => self.domain_of(begin, *job),
        }
    }

    /// The domain that a record is about, which lies in that segment.
    fn domain_of(&mut self, segment: SegmentNumber, lsn: Lsn) -> Option<DomainId> {
        let extents = self.index.of_segment(segment).ok()?;
        let mut extents = extents.iter();
        let extent = extents.find(|extent| (extent.first..=extent.last).contains(&lsn))?;
        let mut domain = None;
        self.reader.show(extent, |_, view| {
            if view.lsn == lsn {
                domain = view.domain;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        domain
    }
}

/// Hands the records of a domain that are chosen to `each`, as far as the index leads, from the segment
/// `begin` (which must begin with a checkpoint, or be the first) up to the one that holds `to`. Nothing is
/// shown, and `next` is the first LSN, where it cannot be used. Records are shown while the index is still asked where
/// more are.
pub(crate) fn read(
    mut opened: Opened,
    files: &[SegmentFile],
    of: &Of,
    (begin, to): (SegmentNumber, Lsn),
    choose: &mut impl Choose,
    known: &mut Known,
    each: impl FnMut(Item) -> Result<ControlFlow<()>, ToolError>,
) -> Result<After, ToolError> {
    let nothing = After {
        next: Lsn::FIRST,
        is_stopped: false,
    };
    // If that cannot be read, what is lost there would be taken for what was let go.
    let file = files.iter().find(|file| file.number == begin);
    let oldest = file.and_then(|file| file.header.as_ref().ok());
    let id = opened.domain(of, begin);
    let Opened {
        index,
        meta: Meta { last, segment, .. },
        mut reader,
    } = opened;
    let indexed = begin..=segment;
    let numbers = files.iter().map(|file| file.number);
    let segments: Vec<_> = numbers.filter(|here| indexed.contains(here)).collect();
    // A file that is missing is nobody's to leave out, nor one that was begun since they were listed.
    let mut pairs = segments.windows(2);
    let ends = (segments.first().copied(), segments.last().copied());
    let has_all = pairs.all(|pair| pair[0].next() == Some(pair[1]))
        && (begin > segment || ends == (Some(begin), Some(segment)));
    let (Some(oldest), Some(id), true) = (oldest, id, has_all) else {
        let _closing = Asking::begin(index, Vec::new(), None);
        return Ok(nothing);
    };
    let oldest = oldest.first;
    let mut shower = Shower {
        id,
        oldest,
        before: None,
        removed: None,
        next: Lsn::FIRST,
        choose,
        known,
        each,
        ended: Ended::No,
    };
    let (mut count, mut last_shown) = (0, last);
    let mut asking = Asking::begin(index, segments, Some(id));
    while let Some(extents) = asking.next() {
        let Ok(extents) = extents else {
            // The journal itself tells what comes then.
            return Ok(After {
                next: shower.next,
                is_stopped: false,
            });
        };
        for extent in extents.iter().take(EXTENTS_MAX - count) {
            if extent.first > to {
                return Ok(all_until(last.min(to)));
            }
            let shown = reader.show(extent, |header, view| shower.see(header, view));
            match (shown, std::mem::replace(&mut shower.ended, Ended::No)) {
                (Shown::Whole, Ended::No) => {}
                (Shown::Whole | Shown::NotThere | Shown::Stopped, Ended::Failed(error)) => {
                    return Err(error);
                }
                (Shown::Whole | Shown::NotThere | Shown::Stopped, ended) => {
                    return Ok(After {
                        next: shower.next,
                        is_stopped: matches!(ended, Ended::Enough),
                    });
                }
            }
            last_shown = extent.last;
        }
        count += extents.len();
        if count >= EXTENTS_MAX {
            return Ok(all_until(last_shown.min(to)));
        }
    }
    // What lies beyond `to` was not looked at, and is not asked for.
    Ok(all_until(last.min(to)))
}

/// Everything up to there was looked at.
fn all_until(last: Lsn) -> After {
    After {
        next: Lsn(last.0.saturating_add(1)),
        is_stopped: false,
    }
}

/// A thread that asks the index where a domain's records are, segment by segment, and closes it: whoever reads may take
/// his time, and a sidecar that starts wants it. Closing syncs sled's file, and nothing waits for that but the end.
struct Asking {
    /// `None` only while it ends.
    answers: Option<Receiver<Result<Vec<Extent>, IndexError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Asking {
    /// Without a domain it is only closed.
    fn begin(index: Index, segments: Vec<SegmentNumber>, domain: Option<DomainId>) -> Asking {
        // Of no more than the index has, which is bounded by its size.
        let (to, answers) = channel();
        let thread = thread::spawn(move || {
            for (segment, domain) in segments.into_iter().zip(domain.into_iter().cycle()) {
                let answer = index.of_domain_in(domain, segment);
                let is_last = answer.is_err();
                // Where nobody wants to know more, it is closed.
                if to.send(answer).is_err() || is_last {
                    break;
                }
            }
            drop(to);
            drop(index);
        });
        Asking {
            answers: Some(answers),
            thread: Some(thread),
        }
    }

    /// What the index says of the next segment.
    fn next(&mut self) -> Option<Result<Vec<Extent>, IndexError>> {
        self.answers.as_ref()?.recv().ok()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // It hears that nobody asks any more.
        self.answers = None;
        if let Some(thread) = self.thread.take() {
            // Closing does not panic, and if it did, what was read would stand.
            let _ = thread.join();
        }
    }
}

/// Why showing was ended.
#[derive(Debug)]
enum Ended {
    No,
    /// Nobody wants more.
    Enough,
    /// It is to go on without the index.
    HandOver,
    Failed(ToolError),
}

/// Shows records in the order of their places.
struct Shower<'a, C, E> {
    id: DomainId,
    /// The first LSN that is looked at.
    oldest: Lsn,
    /// The last record of the domain that was looked at.
    before: Option<Lsn>,
    /// The same, if it took the domain away.
    removed: Option<Lsn>,
    /// The first LSN that was not looked at.
    next: Lsn,
    choose: &'a mut C,
    known: &'a mut Known,
    each: E,
    ended: Ended,
}

impl<C, E> Shower<'_, C, E>
where
    C: Choose,
    E: FnMut(Item) -> Result<ControlFlow<()>, ToolError>,
{
    fn see(&mut self, header: &BatchHeader, view: &RecordView<'_>) -> ControlFlow<()> {
        if view.domain != Some(self.id) {
            return ControlFlow::Continue(());
        }
        let ended = match self.show(header, view) {
            Ok(Ended::No) => return ControlFlow::Continue(()),
            Ok(ended) => ended,
            Err(error) => Ended::Failed(error),
        };
        self.ended = ended;
        ControlFlow::Break(())
    }

    fn show(&mut self, header: &BatchHeader, view: &RecordView<'_>) -> Result<Ended, ToolError> {
        let follows = match (self.before, view.previous) {
            (Some(before), Some(previous)) => previous == before,
            // It was taken away, and begins anew.
            (Some(_), None) => self.removed == self.before,
            (None, Some(previous)) => previous < self.oldest,
            (None, None) => true,
        };
        // One is missing here: the journal itself tells which.
        let Some(record) = view.decode().ok().filter(|_| follows) else {
            return Ok(Ended::HandOver);
        };
        self.before = Some(view.lsn);
        if view.kind == RecordBody::DomainRemoved.type_number() {
            self.removed = Some(view.lsn);
        }
        self.next = Lsn(view.lsn.0.saturating_add(1));
        let stands = Place {
            batch: *header,
            offset: view.offset,
            size: view.end() - view.offset,
        };
        let head = Head::of(&record);
        let recorded = self.known.recorded(record, stands);
        let is_wanted = self.choose.wants(&recorded)
            && self.choose.may_want(&recorded.batch, &head, self.known);
        let is_enough = is_wanted && (self.each)(Item::Record(Box::new(recorded)))?.is_break();
        Ok(if is_enough { Ended::Enough } else { Ended::No })
    }
}

#[cfg(test)]
mod tests {
    use phase_journal::journal::read::Reader;

    use super::*;
    use crate::past::All;
    use crate::tests::journal;

    fn files(disk: &OsDisk) -> Vec<SegmentFile> {
        Reader::open(disk.clone()).unwrap().segments().to_vec()
    }

    /// What the index leads to, by that list of the journal's files.
    fn led(disk: &OsDisk, files: &[SegmentFile]) -> (Vec<Lsn>, Lsn) {
        let opened = Opened::of(disk, files).unwrap();
        let mut shown = Vec::new();
        let begin = files[0].number;
        let of = Of::Domain("web-1".to_owned());
        let range = (begin, Lsn(u64::MAX));
        let mut known = Known::default();
        let after = read(opened, files, &of, range, &mut All, &mut known, |item| {
            if let Item::Record(recorded) = item {
                shown.push(recorded.record.lsn());
            }
            Ok(ControlFlow::Continue(()))
        });
        (shown, after.unwrap().next)
    }

    /// The files were listed, then a segment was begun and indexed, then the index was taken: it does not lead past what
    /// lies in that segment.
    #[test]
    fn an_index_that_is_newer_than_the_list_of_files_leads_nowhere() {
        let journal = journal();
        let disk = OsDisk::new(journal.path());
        let (index, _) = Index::open(&journal.path().join(INDEX_NAME), &disk).unwrap();
        drop(index);
        let now = files(&disk);
        assert_eq!(now.len(), 2);
        let (shown, next) = led(&disk, &now);
        assert!(shown.len() > 20, "{shown:?}");
        assert_eq!(next, Lsn(38));

        let before = &now[..1];
        assert_eq!(led(&disk, before), (Vec::new(), Lsn::FIRST));
        // Nor one that lacks a file between.
        let mut lacking = now.clone();
        lacking[1].number = SegmentNumber(3);
        assert_eq!(led(&disk, &lacking), (Vec::new(), Lsn::FIRST));
    }
}
