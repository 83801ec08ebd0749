//! The segment files: how one comes into being, and which may go.
//! Invariant: a file with a segment's name has a whole, durable header and zeros behind it, or it
//! was damaged later; making one is never cut short in between. A segment that is needed stays.
//! Not here: what is written into a segment (`log`), what is found in one (`read`).

use std::io;

use journal_format::BLOCK_SIZE;
use journal_format::number::{Lsn, SegmentNumber};
use journal_format::segment::SegmentHeader;

use super::disk::Disk;

/// What a segment is called while it is made.
const NEW_SUFFIX: &str = ".new";

/// Zeros are written in pieces of this many bytes.
const ZERO_PIECE_SIZE: usize = 1 << 20;

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

/// Makes a segment: zeros behind its header, synced, then named, and the directory synced.
///
/// A segment that has the name already is replaced: the caller knows that nothing in it counts.
pub(super) fn create<D: Disk>(disk: &D, header: &SegmentHeader) -> Result<D::File, CreateError> {
    let name = header.number.file_name();
    let new_name = format!("{name}{NEW_SUFFIX}");
    let failed = |doing, named| {
        move |source| CreateError {
            doing,
            named,
            source,
        }
    };
    remove_if_there(disk, &new_name).map_err(failed("remove what was left of", false))?;
    let file = disk.create(&new_name).map_err(failed("create", false))?;
    let filled = fill(disk, &file, header)
        .map_err(failed("fill", false))
        .and_then(|()| disk.sync(&file).map_err(failed("sync", false)));
    if let Err(error) = filled {
        // Gives the space back at once; what stays is removed by the next attempt or opening.
        if let Err(source) = disk.remove(&new_name) {
            tracing::warn!(file = new_name, error = %source, "could not remove an unfinished segment");
        }
        return Err(error);
    }
    disk.rename(&new_name, &name)
        .map_err(failed("name", true))?;
    disk.sync_directory()
        .map_err(failed("sync the directory of", true))?;
    Ok(file)
}

fn fill<D: Disk>(disk: &D, file: &D::File, header: &SegmentHeader) -> io::Result<()> {
    write_all(disk, file, 0, &header.encode())?;
    let zeros = vec![0; ZERO_PIECE_SIZE];
    let mut at = u64::from(BLOCK_SIZE);
    while at < header.size {
        let left = usize::try_from(header.size - at).unwrap_or(ZERO_PIECE_SIZE);
        let piece = &zeros[..left.min(ZERO_PIECE_SIZE)];
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

fn remove_if_there<D: Disk>(disk: &D, name: &str) -> io::Result<()> {
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
    /// The file's length in bytes.
    pub(super) size: u64,
    /// It is known to hold a whole checkpoint.
    pub(super) checkpoint: bool,
}

/// How many of the oldest of `kept` (in order of their numbers) may go: so many that the rest is
/// not above `bytes_max`, but none of the last two that hold whole checkpoints or of what follows
/// them, and none with a record at or after `needed_from`.
pub(super) fn expendable(kept: &[Kept], needed_from: Option<Lsn>, bytes_max: u64) -> usize {
    let mut checkpoints = kept
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, kept)| kept.checkpoint);
    let Some((newest_two, _)) = checkpoints.nth(1) else {
        return 0;
    };
    let mut total: u64 = kept.iter().map(|kept| kept.size).sum();
    let mut count = 0;
    while count < newest_two && total > bytes_max {
        // Its records end where those of the next begin, as far as that is known.
        let Some(ends_before) = kept[count + 1..].iter().find_map(|next| next.first) else {
            break;
        };
        if needed_from.is_some_and(|needed| ends_before > needed) {
            break;
        }
        total -= kept[count].size;
        count += 1;
    }
    count
}

/// Lets old segments go. What cannot be removed is tried again the next time.
pub(super) fn retire<D: Disk>(
    disk: &D,
    kept: &mut Vec<Kept>,
    needed_from: Option<Lsn>,
    bytes_max: u64,
) {
    // Oldest first, so that what stays is always without a hole.
    for _ in 0..expendable(kept, needed_from, bytes_max) {
        let name = kept[0].number.file_name();
        match remove_if_there(disk, &name) {
            Ok(()) => tracing::info!(file = name, "removed an old segment"),
            Err(error) => {
                tracing::warn!(file = name, %error, "could not remove an old segment");
                return;
            }
        }
        kept.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(checkpoints: &[u8]) -> Vec<Kept> {
        (0..)
            .zip(checkpoints)
            .map(|(index, checkpoint)| Kept {
                number: SegmentNumber(index + 1),
                first: Some(Lsn(10 * index + 1)),
                size: 100,
                checkpoint: *checkpoint == 1,
            })
            .collect()
    }

    #[test]
    fn the_last_two_checkpoints_stay() {
        assert_eq!(expendable(&kept(&[1]), None, 0), 0);
        assert_eq!(expendable(&kept(&[1, 1]), None, 0), 0);
        assert_eq!(expendable(&kept(&[1, 1, 1]), None, 0), 1);
        assert_eq!(expendable(&kept(&[1, 1, 0, 0, 1, 0]), None, 0), 1);
        assert_eq!(expendable(&kept(&[0, 0, 1, 1, 1]), None, 0), 3);
        assert_eq!(expendable(&kept(&[0, 0, 0, 0, 1]), None, 0), 0);
    }

    #[test]
    fn no_more_goes_than_the_limit_asks() {
        assert_eq!(expendable(&kept(&[1; 10]), None, 1000), 0);
        assert_eq!(expendable(&kept(&[1; 10]), None, 999), 1);
        assert_eq!(expendable(&kept(&[1; 10]), None, 800), 2);
        assert_eq!(expendable(&kept(&[1; 10]), None, 150), 8);
    }

    #[test]
    fn needed_records_stay() {
        // Segment 1 holds 1 to 10, segment 2 holds 11 to 20, and so on.
        for (needed, count) in [(1, 0), (10, 0), (11, 1), (20, 1), (21, 2), (1000, 8)] {
            assert_eq!(
                expendable(&kept(&[1; 10]), Some(Lsn(needed)), 0),
                count,
                "{needed}"
            );
        }
        let mut unknown = kept(&[1; 10]);
        unknown[2].first = None;
        assert_eq!(
            expendable(&unknown, Some(Lsn(30)), 0),
            1,
            "where segment 2 ends is not known"
        );
        assert_eq!(expendable(&unknown, Some(Lsn(31)), 0), 3);
    }
}
