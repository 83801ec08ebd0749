//! Verifying a journal: everything is read, counted and judged.
//! Invariant: never writes, needs no lock; what is normal after a crash is told from damage.
//! Not here: repairing, and how a report is printed.

use core::ops::ControlFlow;
use std::path::PathBuf;

use journal_format::BLOCK_SIZE;
use journal_format::batch::{BatchHeader, is_content_whole};
use journal_format::error::FormatError;
use journal_format::number::{HostId, JournalId, Lsn, SegmentNumber};
use journal_format::record::{Decoded, RecordBody};
use journal_format::segment::SegmentHeader;

use super::decoded::Item;
use super::disk::{Disk, read_full};
use super::judge::open;
use super::read::{Cause, Ending, Gap, ReadError, Reader, SegmentFile};

/// What is to be said of a whole journal, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Everything is there.
    Clean,
    /// Everything that was acknowledged is there; the last write was cut short, as a crash does, or is
    /// being made now.
    Torn,
    /// Something that was acknowledged, or may have been, cannot be read; be it only a header.
    Damaged,
    /// Nothing was read: all of it was written in another version of the format. Whether it is damaged is not known (F5).
    NotRead,
}

impl Verdict {
    /// The verdict as text and JSON say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Torn => "torn",
            Verdict::Damaged => "damaged",
            Verdict::NotRead => "not-read",
        }
    }

    /// Is nothing wrong that a crash does not explain?
    #[must_use]
    pub const fn is_sound(self) -> bool {
        match self {
            Verdict::Clean | Verdict::Torn => true,
            Verdict::Damaged | Verdict::NotRead => false,
        }
    }
}

/// A file whose place in the journal is wrong or unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// Its number.
    pub segment: SegmentNumber,
    /// What is wrong.
    pub why: Cause,
}

/// What was found in a journal.
#[derive(Clone, Debug)]
pub struct Report {
    /// The directory.
    pub directory: PathBuf,
    /// The journal, if a segment's head can be read.
    pub journal: Option<JournalId>,
    /// The host it was made on.
    pub host: Option<HostId>,
    /// How many segment files there are.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Batches that can be read.
    pub batches: u64,
    /// Records that can be read.
    pub records: u64,
    /// Those of them that only a newer program understands.
    pub unknown_records: u64,
    /// Ends of checkpoints that can be read.
    pub checkpoints: u64,
    /// The first LSN that can be read.
    pub first: Option<Lsn>,
    /// The last LSN that can be read.
    pub last: Option<Lsn>,
    /// Records that are lost, oldest first.
    pub gaps: Vec<Gap>,
    /// Files whose head cannot be read or does not belong there.
    pub bad_files: Vec<BadFile>,
    /// Segments whose header is damaged at one of its two places (F24).
    pub damaged_headers: Vec<DamagedHeader>,
    /// Batches whose header is damaged and whose records were found all the same.
    pub lost_headers: Vec<LostHeader>,
    /// Batches that are damaged where nothing is lost by it: in the zeros behind their records.
    pub damaged_padding: Vec<BatchHeader>,
    /// All of it is of another version of the format.
    pub is_not_read: bool,
    /// How the journal ends.
    pub ending: Ending,
}

/// Are all segments of a journal there, and of another version of the format? What is missing between them, or
/// damaged beside them, is something else.
#[must_use]
pub fn is_of_another_version(files: &[SegmentFile]) -> bool {
    let is_it = |file: &SegmentFile| {
        let why = file.header.as_ref().err();
        matches!(why, Some(Cause::Damaged(FormatError::Version { .. })))
    };
    let mut pairs = files.windows(2);
    let has_all = pairs.all(|pair| pair[0].number.next() == Some(pair[1].number));
    !files.is_empty() && has_all && files.iter().all(is_it)
}

/// One of a segment's two headers that cannot be read. Nothing is lost by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedHeader {
    /// The segment.
    pub segment: SegmentNumber,
    /// Where the header begins, in bytes.
    pub at: u64,
    /// What is wrong.
    pub why: FormatError,
}

/// The damaged header of a batch, or of several in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostHeader {
    /// The segment.
    pub segment: SegmentNumber,
    /// Where in it the damage begins, in bytes.
    pub at: u64,
    /// Where what can be read begins again.
    pub until: u64,
}

impl Report {
    /// The verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.is_not_read {
            return Verdict::NotRead;
        }
        let is_whole = self.gaps.is_empty()
            && self.bad_files.is_empty()
            && self.damaged_headers.is_empty()
            && self.lost_headers.is_empty()
            && self.damaged_padding.is_empty();
        if !is_whole {
            return Verdict::Damaged;
        }
        match self.ending {
            Ending::Clean => Verdict::Clean,
            Ending::Torn { .. } => Verdict::Torn,
            Ending::Damaged => Verdict::Damaged,
        }
    }

    /// The LSNs that are lost, at the most.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.gaps
            .iter()
            .map(|gap| gap.last.0 - gap.first.0 + 1)
            .sum()
    }
}

/// Reads the journal in a directory to its end.
///
/// # Errors
/// What the system refuses, and that there is no journal. Damage is no error.
pub fn verify<D: Disk>(disk: D) -> Result<Report, ReadError> {
    let mut reader = Reader::open(disk)?;
    let mut counted = Counted::begin(&reader)?;
    // Everything is to be seen.
    let _ = reader.decoded(
        |_, _| true,
        |item| {
            counted.see(&item.by_reference());
            ControlFlow::Continue(())
        },
    )?;
    counted.end(&reader)
}

/// The same with what a reader has not read yet, which another thread reads meanwhile; all that it holds is shown
/// to `each`.
///
/// # Errors
/// What the system refuses. Damage is no error.
pub fn verify_with<D: Disk + Send>(
    mut reader: Reader<D>,
    mut each: impl FnMut(&Item<'_, &Decoded>),
) -> Result<Report, ReadError> {
    let mut counted = Counted::begin(&reader)?;
    reader.decoded_ahead(|item| {
        counted.see(item);
        each(item);
    })?;
    counted.end(&reader)
}

/// What was found so far.
struct Counted {
    report: Report,
    /// Batches of segments that are not whole, each of which may be.
    doubtful: Vec<BatchHeader>,
}

impl Counted {
    fn begin<D: Disk>(reader: &Reader<D>) -> Result<Counted, ReadError> {
        let heads = || reader.segments().iter();
        let bad_file = |file: &SegmentFile| {
            let why = file.header.as_ref().err()?.clone();
            Some(BadFile {
                segment: file.number,
                why,
            })
        };
        let mut damaged_headers = Vec::new();
        for file in heads() {
            damaged_headers.extend(damaged_header(&reader.disk, file)?);
        }
        let report = Report {
            directory: reader.disk.path().to_path_buf(),
            journal: reader.journal(),
            host: heads().find_map(|file| Some(file.header.as_ref().ok()?.host)),
            segments: heads().count() as u64,
            bytes: heads().map(|file| file.length).sum(),
            batches: 0,
            records: 0,
            unknown_records: 0,
            checkpoints: 0,
            first: None,
            last: None,
            gaps: Vec::new(),
            bad_files: heads().filter_map(bad_file).collect(),
            damaged_headers,
            lost_headers: Vec::new(),
            damaged_padding: Vec::new(),
            is_not_read: is_of_another_version(reader.segments()),
            ending: Ending::Clean,
        };
        Ok(Counted {
            report,
            doubtful: Vec::new(),
        })
    }

    fn see(&mut self, item: &Item<'_, &Decoded>) {
        match item {
            Item::Gap(gap) => self.report.gaps.push(gap.clone()),
            Item::Batch {
                header,
                header_lost,
                is_whole,
                ..
            } => {
                self.report.batches += 1;
                if !is_whole && !header_lost {
                    self.doubtful.push(**header);
                }
                if *header_lost {
                    self.report.lost_headers.push(LostHeader {
                        segment: header.segment,
                        at: header.offset,
                        until: header.offset + header.size(),
                    });
                }
            }
            Item::Record { record, .. } => self.report.count(record),
        }
    }

    /// The report, when everything was read.
    fn end<D: Disk>(self, reader: &Reader<D>) -> Result<Report, ReadError> {
        let Counted {
            mut report,
            doubtful,
        } = self;
        report.ending = reader.ending();
        for header in doubtful {
            let behind = report.gaps.partition_point(|gap| gap.last < header.first);
            let gap = report.gaps.get(behind);
            let is_told = gap.is_some_and(|gap| gap.first <= header.last());
            if !is_told && !is_as_written(reader, &header)? {
                report.damaged_padding.push(header);
            }
        }
        Ok(report)
    }
}

/// Is a batch on the disk as it was written, with its padding?
fn is_as_written<D: Disk>(reader: &Reader<D>, header: &BatchHeader) -> Result<bool, ReadError> {
    let name = header.segment.file_name();
    let path = reader.disk.path().join(&name);
    let segment = reader
        .segments()
        .iter()
        .find(|file| file.number == header.segment);
    let salt = segment
        .and_then(|file| file.header.as_ref().ok())
        .map(|found| found.salt);
    let (Some(salt), Some(file)) = (salt, open(&reader.disk, &name)?) else {
        return Ok(true);
    };
    let mut bytes = vec![0; usize::try_from(header.size()).unwrap_or(0)];
    let count = read_full(&reader.disk, &file, header.offset, &mut bytes);
    let count = count.map_err(ReadError::io(&path, "read"))?;
    Ok(is_content_whole(&salt, header, &bytes[..count]))
}

/// Which of the two headers of a segment with a readable one is damaged.
fn damaged_header<D: Disk>(
    disk: &D,
    file: &SegmentFile,
) -> Result<Option<DamagedHeader>, ReadError> {
    let Ok(header) = &file.header else {
        return Ok(None);
    };
    let name = file.number.file_name();
    let path = disk.path().join(&name);
    let Some(opened) = open(disk, &name)? else {
        return Ok(None);
    };
    for at in [0, header.batches_end()] {
        let mut block = [0; BLOCK_SIZE as usize];
        let count = read_full(disk, &opened, at, &mut block);
        let count = count.map_err(ReadError::io(&path, "read"))?;
        let why = match SegmentHeader::decode(&block[..count]) {
            Ok(found) if found == *header => continue,
            // Of another segment, though whole.
            Ok(_) => FormatError::OutOfPlace,
            Err(why) => why,
        };
        let segment = file.number;
        return Ok(Some(DamagedHeader { segment, at, why }));
    }
    Ok(None)
}

impl Report {
    fn count(&mut self, record: &Decoded) {
        self.records += 1;
        self.first = self.first.or(Some(record.lsn()));
        self.last = Some(record.lsn());
        match record {
            Decoded::Unknown { .. } => self.unknown_records += 1,
            Decoded::Known(record) => {
                if matches!(record.body, RecordBody::CheckpointEnded(_)) {
                    self.checkpoints += 1;
                }
            }
        }
    }
}
