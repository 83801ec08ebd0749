//! The segment files: how one comes into being, and which may go.
//! Invariant: a file with a segment's name has a whole, durable header and zeros behind it, or it
//! was damaged later; making one is never cut short in between. A segment that is needed stays.
//! Not here: what is written into a segment (`log`), what is found in one (`read`).

use std::io;

use journal_format::BLOCK_SIZE;
use journal_format::number::{Lsn, SegmentNumber};
use journal_format::segment::SegmentHeader;

use super::disk::{Disk, ZEROS_SIZE, is_full, zeros};
use super::spares::{Spare, Spares};

/// What a segment is called while it is made.
const NEW_SUFFIX: &str = ".new";

/// Why a segment could not be made.
#[derive(Debug)]
pub(super) struct CreateError {
    /// What was being done.
    pub(super) doing: &'static str,
    /// The segment's own name may stand in the directory: nothing may go on in the one before it.
    pub(super) named: bool,
    /// The system's error.
    pub(super) source: io::Error,
}

impl CreateError {
    /// Of something that was done before the segment got its name.
    pub(super) fn unnamed(doing: &'static str) -> impl FnOnce(io::Error) -> CreateError {
        move |source| CreateError {
            doing,
            named: false,
            source,
        }
    }

    /// The disk, or this user's share of it, is full.
    pub(super) fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

/// Makes a segment: its header, zeros, and its header again (F24), synced, then named, and the directory synced.
///
/// A segment that has the name already is replaced: the caller knows that nothing in it counts.
pub(super) fn create<D: Disk>(disk: &D, header: &SegmentHeader) -> Result<D::File, CreateError> {
    let name = header.number.file_name();
    let new_name = format!("{name}{NEW_SUFFIX}");
    remove_if_there(disk, &new_name).map_err(CreateError::unnamed("remove what was left of"))?;
    let file = disk
        .create(&new_name)
        .map_err(CreateError::unnamed("create"))?;
    let block = header.encode();
    let (begin, end) = (u64::from(BLOCK_SIZE), header.batches_end());
    let filled = write_all(disk, &file, 0, &block)
        .and_then(|()| fill_with_zeros(disk, &file, begin, end))
        .and_then(|()| write_all(disk, &file, end, &block))
        .map_err(CreateError::unnamed("fill"))
        .and_then(|()| disk.sync(&file).map_err(CreateError::unnamed("sync")));
    if let Err(error) = filled {
        // Gives the space back at once; what stays is removed by the next attempt or opening.
        if let Err(source) = disk.remove(&new_name) {
            tracing::warn!(file = new_name, error = %source, "could not remove an unfinished segment");
        }
        return Err(error);
    }
    give_name(disk, &new_name, &name)?;
    Ok(file)
}

/// Makes a segment of a spare: its header at both ends (F24), synced, then its name, and the directory
/// synced.
pub(super) fn enter<D: Disk>(
    disk: &D,
    spare: Spare<D::File>,
    header: &SegmentHeader,
) -> Result<D::File, CreateError> {
    assert_eq!(spare.size, header.size, "a segment fills its file");
    let block = header.encode();
    for at in [header.batches_end(), 0] {
        let written = match disk.write_through(&spare.file, at, &block) {
            Ok(count) if count == block.len() => Ok(()),
            Ok(count) => Err(short_write(count, block.len())),
            Err(error) => Err(error),
        };
        written.map_err(CreateError::unnamed("write the header of"))?;
    }
    give_name(disk, &spare.name, &header.number.file_name())?;
    Ok(spare.file)
}

fn give_name<D: Disk>(disk: &D, from: &str, to: &str) -> Result<(), CreateError> {
    let failed = |doing| {
        move |source| CreateError {
            doing,
            named: true,
            source,
        }
    };
    disk.rename(from, to).map_err(failed("name"))?;
    disk.sync_directory()
        .map_err(failed("sync the directory of"))
}

/// Writes zeros from one place to another, not durably.
pub(super) fn fill_with_zeros<D: Disk>(
    disk: &D,
    file: &D::File,
    from: u64,
    until: u64,
) -> io::Result<()> {
    let mut at = from;
    while at < until {
        let piece = zeros(usize::try_from(until - at).unwrap_or(ZEROS_SIZE));
        write_all(disk, file, at, piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn write_all<D: Disk>(disk: &D, file: &D::File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let written = disk.write_at(file, at, bytes)?;
    if written == bytes.len() {
        Ok(())
    } else {
        Err(short_write(written, bytes.len()))
    }
}

/// The error for a write that stopped early: on a file of its final length it means a full disk or
/// a failing one, and is never carried on.
pub(super) fn short_write(written: usize, wanted: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::WriteZero,
        format!("only {written} of {wanted} bytes were written"),
    )
}

/// Removes what an opening or a roll that was cut short has left.
pub(super) fn remove_unfinished<D: Disk>(disk: &D, names: &[String]) -> io::Result<()> {
    for name in names.iter().filter(|name| is_unfinished(name)) {
        remove_if_there(disk, name)?;
    }
    Ok(())
}

/// Whether a name is that of a segment that was never finished.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(NEW_SUFFIX)
        .is_some_and(|name| SegmentNumber::parse(name).is_some())
}

pub(super) fn remove_if_there<D: Disk>(disk: &D, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A segment in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) number: SegmentNumber,
    /// Its first LSN; unknown if its header is damaged.
    pub(super) first: Option<Lsn>,
    /// When its first batch was written, in nanoseconds since 1970; unknown if that is damaged.
    pub(super) begun: Option<u64>,
    /// The file's length in bytes.
    pub(super) size: u64,
    /// It is known to hold a whole checkpoint.
    pub(super) checkpoint: bool,
}

/// How much of the past is kept. The last two whole checkpoints and what follows them always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Segments beyond so many bytes go, oldest first, but none with records that are needed: those
    /// of open jobs.
    pub bytes_max: u64,
    /// So do segments whose records are all older than this, in nanoseconds.
    pub age_max: Option<u64>,
    /// Beyond so many bytes also segments go that an open job's older records are in: what bounds a
    /// journal that is opened over and over again. Recovery does not need them; their loss is told
    /// in the log.
    pub needed_bytes_max: u64,
}

impl Retention {
    /// 256 MiB, of any age, and at most 1 GiB for open jobs.
    pub const DEFAULT: Retention = Retention {
        bytes_max: 256 * 1024 * 1024,
        age_max: None,
        needed_bytes_max: 1024 * 1024 * 1024,
    };

    /// Only what always stays.
    pub(super) const NOTHING: Retention = Retention {
        bytes_max: 0,
        age_max: None,
        needed_bytes_max: 0,
    };
}

/// What decides about the oldest segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) retention: Retention,
    /// The oldest record outside the last checkpoint that is needed.
    pub(super) needed_from: Option<Lsn>,
    /// The time in nanoseconds since 1970.
    pub(super) now: u64,
}

/// Is there more, or older, than is to be kept?
pub(super) fn is_over(kept: &[Kept], wanted: &Wanted) -> bool {
    let total: u64 = kept.iter().map(|kept| kept.size).sum();
    let oldest = kept.iter().find_map(|kept| kept.begun).unwrap_or(u64::MAX);
    let age = wanted.now.saturating_sub(oldest);
    let retention = &wanted.retention;
    total > retention.bytes_max || retention.age_max.is_some_and(|age_max| age > age_max)
}

/// How many of the oldest of `kept` (in order of their numbers) may go, and how many of those held
/// records that were needed.
pub(super) fn expendable(kept: &[Kept], wanted: &Wanted) -> (usize, usize) {
    let checkpoints = kept.iter().enumerate().rev();
    let Some((newest_two, _)) = checkpoints.filter(|(_, kept)| kept.checkpoint).nth(1) else {
        return (0, 0);
    };
    let Wanted {
        retention,
        needed_from,
        now,
    } = *wanted;
    let mut total: u64 = kept.iter().map(|kept| kept.size).sum();
    let mut needed_ones = 0;
    let mut count = 0;
    while count < newest_two {
        let later = &kept[count + 1..];
        // Its records end where those of the next begin, as far as that is known.
        let ends_before = later.iter().find_map(|next| next.first);
        let is_needed = needed_from
            .is_some_and(|needed| ends_before.is_none_or(|ends_before| ends_before > needed));
        let is_old = retention.age_max.is_some_and(|age| {
            let ended = later.iter().find_map(|next| next.begun);
            ended.is_some_and(|ended| now.saturating_sub(ended) > age)
        });
        let goes = match is_needed {
            true => total > retention.needed_bytes_max,
            false => total > retention.bytes_max || is_old,
        };
        if !goes {
            break;
        }
        total -= kept[count].size;
        needed_ones += usize::from(is_needed);
        count += 1;
    }
    (count, needed_ones)
}

/// Lets old segments go; some become spares. What cannot be removed is tried again the next time.
pub(super) fn retire<D: Disk>(
    disk: &D,
    kept: &mut Vec<Kept>,
    wanted: &Wanted,
    spares: &Spares<D::File>,
) {
    let (count, needed_ones) = expendable(kept, wanted);
    if needed_ones > 0 {
        tracing::error!(
            segments = needed_ones,
            limit = wanted.retention.needed_bytes_max,
            "the oldest records of open jobs go: there is no more room for them"
        );
    }
    // Oldest first, so that what stays is always without a hole.
    for _ in 0..count {
        let name = kept[0].number.file_name();
        let spare = spares.name_for_used(kept[0].size);
        let removed = match &spare {
            Some(spare) => disk.rename(&name, spare),
            None => remove_if_there(disk, &name),
        };
        match removed {
            Ok(()) => tracing::info!(file = name, "removed an old segment"),
            Err(error) => {
                tracing::warn!(file = name, %error, "could not remove an old segment");
                return;
            }
        }
        if let Some(spare) = spare {
            spares.add_used(spare);
        }
        kept.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segment 1 holds 1 to 10, written at 10 to 19; segment 2 holds 11 to 20, and so on.
    fn kept(checkpoints: &[u8]) -> Vec<Kept> {
        (0..)
            .zip(checkpoints)
            .map(|(index, checkpoint)| Kept {
                number: SegmentNumber(index + 1),
                first: Some(Lsn(10 * index + 1)),
                begun: Some(10 * (index + 1)),
                size: 100,
                checkpoint: *checkpoint == 1,
            })
            .collect()
    }

    fn wanted(needed_from: Option<u64>, bytes_max: u64) -> Wanted {
        let retention = Retention {
            bytes_max,
            age_max: None,
            needed_bytes_max: 10_000,
        };
        Wanted {
            retention,
            needed_from: needed_from.map(Lsn),
            now: 0,
        }
    }

    fn count(kept: &[Kept], needed_from: Option<u64>, bytes_max: u64) -> usize {
        expendable(kept, &wanted(needed_from, bytes_max)).0
    }

    #[test]
    fn the_last_two_checkpoints_stay() {
        assert_eq!(count(&kept(&[1]), None, 0), 0);
        assert_eq!(count(&kept(&[1, 1]), None, 0), 0);
        assert_eq!(count(&kept(&[1, 1, 1]), None, 0), 1);
        assert_eq!(count(&kept(&[1, 1, 0, 0, 1, 0]), None, 0), 1);
        assert_eq!(count(&kept(&[0, 0, 1, 1, 1]), None, 0), 3);
        assert_eq!(count(&kept(&[0, 0, 0, 0, 1]), None, 0), 0);
    }

    #[test]
    fn no_more_goes_than_the_limit_asks() {
        assert_eq!(count(&kept(&[1; 10]), None, 1000), 0);
        assert_eq!(count(&kept(&[1; 10]), None, 999), 1);
        assert_eq!(count(&kept(&[1; 10]), None, 800), 2);
        assert_eq!(count(&kept(&[1; 10]), None, 150), 8);
    }

    #[test]
    fn needed_records_stay() {
        for (needed, expected) in [(1, 0), (10, 0), (11, 1), (20, 1), (21, 2), (1000, 8)] {
            let count = count(&kept(&[1; 10]), Some(needed), 0);
            assert_eq!(count, expected, "{needed}");
        }
        let mut unknown = kept(&[1; 10]);
        unknown[2].first = None;
        let why = "where segment 2 ends is not known";
        assert_eq!(count(&unknown, Some(30), 0), 1, "{why}");
        assert_eq!(count(&unknown, Some(31), 0), 3);
    }

    #[test]
    fn needed_records_go_beyond_a_limit_of_their_own() {
        let mut wanted = wanted(Some(1), 0);
        wanted.retention.needed_bytes_max = 700;
        assert_eq!(expendable(&kept(&[1; 10]), &wanted), (3, 3));
        // What is not needed goes down to its own limit.
        wanted.needed_from = Some(Lsn(11));
        assert_eq!(expendable(&kept(&[1; 10]), &wanted), (3, 2));
        wanted.retention.needed_bytes_max = 0;
        assert_eq!(expendable(&kept(&[1; 10]), &wanted), (8, 7));
    }

    #[test]
    fn old_records_go() {
        let mut wanted = wanted(None, 10_000);
        wanted.retention.age_max = Some(40);
        // Segment 1 ended before 20, segment 2 before 30.
        for (now, expected) in [(0, 0), (60, 0), (61, 1), (70, 1), (71, 2), (10_000, 8)] {
            wanted.now = now;
            assert_eq!(expendable(&kept(&[1; 10]), &wanted), (expected, 0), "{now}");
        }
        wanted.needed_from = Some(Lsn(1));
        assert_eq!(expendable(&kept(&[1; 10]), &wanted), (0, 0));
    }
}
