//! Fixed-width numbers and salted checksums over bytes.
//! Invariant: little-endian everywhere (F1); reading is total.

use crate::BLOCK_SIZE;
use crate::number::Salt;

/// A checksum as it is stored (F3).
///
/// A CRC that runs over bytes and their own CRC behind them is the same for all bytes, so that a
/// checksum over records with checksums would not see the records' headers. Masked, it does.
pub(crate) fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The checksums of one segment: CRC-32 (IEEE) over the segment's salt and the bytes (F3). The salt
/// is gone over once.
#[derive(Clone, Debug)]
pub(crate) struct Salted(crc32fast::Hasher);

impl Salted {
    pub(crate) fn new(salt: &Salt) -> Salted {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salt.0);
        Salted(hasher)
    }

    #[inline]
    pub(crate) fn crc(&self, parts: &[&[u8]]) -> u32 {
        // It knows already what this processor can do.
        let mut hasher = self.0.clone();
        for part in parts {
            hasher.update(part);
        }
        masked(hasher.finalize())
    }
}

/// Reads fields one after the other; past the end everything is zero, and the caller has checked
/// the length before.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        if let Some((array, rest)) = self.0.split_first_chunk() {
            self.0 = rest;
            return *array;
        }
        let mut array = [0; N];
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        array[..head.len()].copy_from_slice(head);
        self.0 = rest;
        array
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

const ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];

/// Are all bytes zero?
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Behind most records.
    if bytes.len() < 8 {
        return bytes.iter().fold(0, |all, byte| all | byte) == 0;
    }
    bytes
        .chunks(ZEROS.len())
        .all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// A size on disk as a number of bytes in memory; sizes are bounded far below either limit.
pub(crate) fn in_memory(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// A number of bytes in memory as a place on disk.
pub(crate) fn on_disk(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
