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
    let pieces = bytes.rchunks(CHUNK);
    let zeros = pieces.take_while(|piece| is_zero(piece)).map(<[u8]>::len);
    let end = bytes.len() - zeros.sum::<usize>();
    (end > 0).then(|| Rc::from(&bytes[..end]))
}

/// Zeros are looked for in pieces of this size.
const CHUNK: usize = 128;

/// A page with the zeros at its end.
pub(super) fn whole(page: Option<&Page>) -> [u8; PAGE] {
    let mut bytes = [0; PAGE];
    if let Some(page) = page {
        bytes[..page.len()].copy_from_slice(page);
    }
    bytes
}

/// Without a branch for each byte, so that many are looked at at once.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}
