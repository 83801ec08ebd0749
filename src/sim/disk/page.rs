//! A file's pages in memory: most of them are zero, and of the others most bytes are.
//!
//! Invariant: a page is what was written to it, whatever of it is kept.
//! Not here: which of them are durable (`disk`).

use std::rc::Rc;

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

/// A page without the zeros at its end, or with some of them.
pub(super) type Page = Rc<[u8]>;
/// The pages of a file; what was never written, or is zero, takes no memory.
pub(super) type Image = Vec<Option<Page>>;

/// The page that holds these bytes; none if they are zero.
pub(super) fn page_of(bytes: &[u8]) -> Option<Page> {
    let is_zero = |piece: &[u8]| *piece == ZEROS[..piece.len()];
    let mut end = bytes.len();
    // In large steps, then in small ones: what is compared is compared many bytes at a time.
    for step in [PAGE, 512, 64] {
        while end > 0 && is_zero(&bytes[end.saturating_sub(step)..end]) {
            end = end.saturating_sub(step);
        }
    }
    (end > 0).then(|| Rc::from(&bytes[..end]))
}

static ZEROS: [u8; PAGE] = [0; PAGE];

/// A page with the zeros at its end.
pub(super) fn whole(page: Option<&Page>) -> [u8; PAGE] {
    let mut bytes = [0; PAGE];
    if let Some(page) = page {
        bytes[..page.len()].copy_from_slice(page);
    }
    bytes
}
