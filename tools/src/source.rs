//! Where a journal lies: a directory, or one segment file by itself.
//!
//! Invariant: whatever a path names, nothing waits for it and nothing is written to it.
//! Not here: reading it (`phase_journal::journal`).

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use journal_format::BLOCK_SIZE;
use journal_format::error::FormatError;
use journal_format::number::SegmentNumber;
use journal_format::segment::SegmentHeader;
use phase_journal::journal::OsDisk;
use phase_journal::journal::read::SegmentFile;
use phase_journal::journal::verify::is_of_another_version;

use crate::error::{Found, ToolError};

/// The journal at a path: that of a directory, or one segment as if there were no other.
///
/// # Errors
/// The path names neither, or what it names cannot be read.
pub(crate) fn open(path: &Path) -> Result<OsDisk, ToolError> {
    let failed = |source| ToolError::File {
        path: path.to_path_buf(),
        source,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Ok(OsDisk::new(path));
    }
    if !metadata.is_file() {
        let why = format!(
            "{} is neither a directory nor a regular file",
            path.display()
        );
        return Err(ToolError::Argument(why));
    }
    let number = number_of(path, &metadata).map_err(failed)?;
    let number = number.ok_or_else(|| {
        ToolError::Argument(format!("{} is no segment of a journal", path.display()))
    })?;
    Ok(OsDisk::of_file(path, &number.file_name()))
}

/// What a command found in a journal of these files: of one that is of another version of the format it read nothing,
/// whatever it took that for.
pub(crate) fn found(files: &[SegmentFile], found: Found) -> Found {
    match is_of_another_version(files) {
        true => Found::NotRead,
        false => found,
    }
}

/// Refuses a file where a whole journal is wanted. What is not there is told of when it is opened.
///
/// # Errors
/// The path names something else than a directory.
pub(crate) fn check_directory(path: &Path) -> Result<(), ToolError> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            let why = format!(
                "{} is no directory: this takes a journal's directory, with all its segments",
                path.display()
            );
            Err(ToolError::Argument(why))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Which segment a file is, by its header, or else by its name; `None` if neither tells.
fn number_of(path: &Path, metadata: &Metadata) -> io::Result<Option<SegmentNumber>> {
    let file = File::open(path)?;
    let block = |at| -> io::Result<Vec<u8>> {
        let mut block = vec![0; BLOCK_SIZE as usize];
        let mut count = 0;
        while count < block.len() {
            match file.read_at(&mut block[count..], at + count as u64)? {
                0 => break,
                more => count += more,
            }
        }
        block.truncate(count);
        Ok(block)
    };
    let length = metadata.len();
    let (first, last) = (block(0)?, block(SegmentHeader::copy_begins(length))?);
    let by_name = path.file_name().and_then(|name| name.to_str());
    let by_name = by_name.and_then(SegmentNumber::parse);
    Ok(match SegmentHeader::of_file(&first, &last, length) {
        Ok(header) => Some(header.number),
        // Its magic is right: it is told of as what it is.
        Err(FormatError::NoMagic { .. } | FormatError::TooShort { .. }) => by_name,
        Err(_) => by_name.or(Some(SegmentNumber::FIRST)),
    })
}
