//! Whether a journal's index says what the journal says.
//!
//! Invariant: the index itself is not touched: a copy of it is opened. One that is in use is left alone.
//! Not here: what is in an index (`phase_journal::journal::index`).

use std::fs;
use std::io;
use std::path::Path;

use phase_journal::journal::INDEX_NAME;
use phase_journal::journal::index::{self, IndexError};

use crate::error::ToolError;
use crate::source;
use crate::text::size;

/// A larger one is not copied.
const COPIED_MAX: u64 = 1 << 30;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// Nobody asked.
    NotAsked,
    /// There is no index.
    Absent,
    /// It says what the journal says, as far as it goes.
    Agrees {
        /// Records in it.
        records: u64,
    },
    /// It could not be looked at, which says nothing of it.
    NotLookedAt(String),
    /// It says something else.
    Differs(String),
}

/// Compares the index of the journal at a path with the journal.
pub(crate) fn check(journal: &Path) -> Result<Agreement, ToolError> {
    let directory = journal.join(INDEX_NAME);
    if !directory.is_dir() {
        return Ok(Agreement::Absent);
    }
    let not = |why: String| Ok(Agreement::NotLookedAt(why));
    let copied = tempfile::tempdir().and_then(|copy| {
        let to = copy.path().join(INDEX_NAME);
        let bytes = copy_files(&directory, &to, COPIED_MAX)?;
        Ok((copy, to, bytes))
    });
    let (_copy, to) = match copied {
        Ok((copy, to, Some(_))) => (copy, to),
        Ok((_, _, None)) => return not(format!("it is larger than {}", size(COPIED_MAX))),
        Err(error) => return not(error.to_string()),
    };
    match index::is_in_use(&directory) {
        Ok(false) => {}
        // What was copied may be half of a change.
        Ok(true) => return not("it is in use by a sidecar".to_owned()),
        Err(error) => return not(error.to_string()),
    }
    match index::compare(&to, &source::open(journal)?) {
        Ok(index::Comparison::Agrees { records }) => Ok(Agreement::Agrees { records }),
        Ok(index::Comparison::Differs(how)) => Ok(Agreement::Differs(how)),
        Err(IndexError::Journal(error)) => Err(error.into()),
        Err(IndexError::Store { cause, .. }) => Ok(Agreement::Differs(cause)),
        Err(error @ (IndexError::InUse { .. } | IndexError::Gone { .. })) => not(error.to_string()),
    }
}

/// Copies a directory's files; `None` if they are larger than that.
fn copy_files(from: &Path, to: &Path, bytes_max: u64) -> io::Result<Option<u64>> {
    let mut bytes: u64 = 0;
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (metadata, to) = (entry.metadata()?, to.join(entry.file_name()));
        if metadata.is_dir() {
            match copy_files(&entry.path(), &to, bytes_max.saturating_sub(bytes))? {
                Some(more) => bytes += more,
                None => return Ok(None),
            }
        } else if metadata.is_file() {
            bytes = bytes.saturating_add(metadata.len());
            if bytes > bytes_max {
                return Ok(None);
            }
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(Some(bytes))
}
