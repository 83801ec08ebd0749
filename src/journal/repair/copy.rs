//! The files of a copy, and the directory that they are put together in.
//! Invariant: a block that the disk does not give back is told of, never made up; the copy's directory
//! gets its name when everything in it is synced.
//! Not here: what is copied (`repair`).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use journal_format::number::SegmentNumber;
use journal_format::{BLOCK_SIZE, SEGMENT_SIZE_MAX};

use super::RepairError;
use crate::journal::disk::{Disk, read_full};

/// What the copy's directory is called while it is made, behind its own name.
const UNFINISHED_SUFFIX: &str = ".unfinished";
/// Files are read and written in pieces of this many bytes, a multiple of the block size.
const PIECE_SIZE: usize = 1 << 20;

/// Bytes that the disk does not give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) at: u64,
    pub(super) until: u64,
    /// Why, in the system's words.
    pub(super) why: String,
}

/// A segment's file as far as it can be read, with zeros elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
    pub(super) holes: Vec<Hole>,
}

impl Image {
    /// A file of zeros.
    pub(super) fn zeros(size: u64) -> Image {
        Image {
            bytes: vec![0; in_memory(size)],
            holes: Vec::new(),
        }
    }

    /// The first bytes of a file, at most so many, and the length of the whole.
    pub(super) fn read<D: Disk>(
        disk: &D,
        segment: SegmentNumber,
        size_max: u64,
    ) -> Result<(Image, u64), RepairError> {
        let name = segment.file_name();
        let path = disk.path().join(&name);
        let file = disk.open(&name).map_err(RepairError::io(&path, "open"))?;
        let length = disk
            .length(&file)
            .map_err(RepairError::io(&path, "get the length of"))?;
        // What lies beyond the largest segment is none's (F4).
        let mut image = Image::zeros(length.min(SEGMENT_SIZE_MAX).min(size_max));
        let mut at = 0;
        for piece in image.bytes.chunks_mut(PIECE_SIZE) {
            if read_full(disk, &file, at, piece).is_err() {
                read_blocks(disk, &file, at, piece, &mut image.holes);
            }
            at += piece.len() as u64;
        }
        Ok((image, length))
    }
}

/// Reads a piece in which something cannot be read, block by block.
fn read_blocks<D: Disk>(
    disk: &D,
    file: &D::File,
    mut at: u64,
    piece: &mut [u8],
    holes: &mut Vec<Hole>,
) {
    for block in piece.chunks_mut(BLOCK_SIZE as usize) {
        let until = at + block.len() as u64;
        if let Err(error) = read_full(disk, file, at, block) {
            block.fill(0);
            match holes.last_mut() {
                Some(hole) if hole.until == at => hole.until = until,
                Some(_) | None => holes.push(Hole {
                    at,
                    until,
                    why: error.to_string(),
                }),
            }
        }
        at = until;
    }
}

/// Writes a segment's file, and syncs it.
pub(super) fn write<D: Disk>(
    disk: &D,
    segment: SegmentNumber,
    image: &Image,
) -> Result<(), RepairError> {
    let name = segment.file_name();
    let path = disk.path().join(&name);
    let file = disk
        .create(&name)
        .map_err(RepairError::io(&path, "create"))?;
    let mut at = 0;
    for piece in image.bytes.chunks(PIECE_SIZE) {
        let mut left = piece;
        while !left.is_empty() {
            let count = match disk.write_at(&file, at, left) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
                result => result,
            };
            let count = count.map_err(RepairError::io(&path, "write"))?;
            at += count as u64;
            left = &left[count..];
        }
    }
    disk.sync(&file).map_err(RepairError::io(&path, "sync"))
}

fn in_memory(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// The copy's directory while it is made: beside the place where it will be, so that it appears there
/// whole or not at all.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    to: PathBuf,
    parent: PathBuf,
    finished: bool,
}

impl Staging {
    /// Makes the directory, if a copy of the journal in `from` can be put at `to`.
    pub(super) fn prepare(from: &Path, to: &Path) -> Result<Staging, RepairError> {
        let journal = fs::canonicalize(from).map_err(RepairError::io(from, "open"))?;
        let not_empty = || RepairError::NotEmpty {
            directory: to.to_path_buf(),
        };
        let name = to.file_name().ok_or_else(not_empty)?;
        let parent = match to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let parent = fs::canonicalize(parent).map_err(RepairError::io(parent, "open"))?;
        if parent.starts_with(&journal) {
            return Err(RepairError::Inside {
                directory: to.to_path_buf(),
            });
        }
        match fs::symlink_metadata(to) {
            Ok(metadata) if metadata.is_dir() => {
                let mut names = fs::read_dir(to).map_err(RepairError::io(to, "list"))?;
                if names.next().is_some() {
                    return Err(not_empty());
                }
            }
            Ok(_) => return Err(not_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(RepairError::io(to, "open")(error)),
        }
        let mut unfinished = name.to_os_string();
        unfinished.push(UNFINISHED_SUFFIX);
        let path = parent.join(unfinished);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(RepairError::io(&path, "make the directory"))?;
        let finished = false;
        let to = parent.join(name);
        Ok(Staging {
            path,
            to,
            parent,
            finished,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory its name.
    pub(super) fn finish(mut self) -> Result<(), RepairError> {
        fs::rename(&self.path, &self.to).map_err(RepairError::io(&self.to, "make"))?;
        self.finished = true;
        fs::File::open(&self.parent)
            .and_then(|parent| parent.sync_all())
            .map_err(RepairError::io(&self.parent, "sync"))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            let directory = self.path.display();
            tracing::warn!(%directory, %error, "what was begun of a copy is left");
        }
    }
}
