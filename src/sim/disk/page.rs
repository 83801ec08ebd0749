//! A file's pages in memory: most of them are zero, and of the others most bytes are.
//!
//! Invariant: a page is what was written to it, whatever of it is kept.
//! Not here: which of them are durable (`disk`).

use std::rc::Rc;

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

/// A page without the zeros at its end.
pub(super) type Page = Rc<[u8]>;
/// The pages of a file; what was never written, or is zero, takes no memory.
pub(super) type Image = Vec<Option<Page>>;

/// The page that holds these bytes; none if they are zero.
pub(super) fn page_of(bytes: &[u8]) -> Option<Page> {
    if bytes == &ZEROS[..bytes.len().min(PAGE)] {
        return None;
    }
    let mut end = bytes.len();
    while end >= CHUNK && is_zero(&bytes[end - CHUNK..end]) {
        end -= CHUNK;
    }
    (end > 0).then(|| Rc::from(&bytes[..end]))
}

/// Zeros are looked for in pieces of this size.
const CHUNK: usize = 64;

/// A page with the zeros at its end.
pub(super) fn whole(page: Option<&Page>) -> [u8; PAGE] {
    let mut bytes = [0; PAGE];
    if let Some(page) = page {
        bytes[..page.len()].copy_from_slice(page);
    }
    bytes
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes == &ZEROS[..bytes.len().min(PAGE)]
}

static ZEROS: [u8; PAGE] = [0; PAGE];
