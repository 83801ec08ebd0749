//! Maps whose keys are identities or LSNs, looked into with each record.
//!
//! Invariant: the same key gives the same hash in each process; nothing is told by the order of such a map.
//! Not here: maps that are gone over in an order.

use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;

/// A map from an identity, or an LSN, that has no order.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// An odd number without a pattern: the fraction of the golden ratio, as in Knuth's multiplicative hashing.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hashes a few words that are random, or count up, in some nanoseconds. It does not stand up to somebody who chooses
/// keys that collide: how many keys there can be is bounded elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        // Both halves of the product: the map takes its bits from either end.
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        let [low, high] = [product & u128::from(u64::MAX), product >> 64];
        self.0 = u64::try_from(low ^ high).unwrap_or(0).rotate_left(32);
    }

    // The length before an array: that of a type never changes.
    #[inline]
    fn write_usize(&mut self, _length: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use core::hash::BuildHasher;
    use std::collections::HashSet;

    use super::*;
    use crate::number::{DomainId, Id128, Lsn};

    /// Keys that differ in one bit, and keys that count up, spread over both ends of the hash.
    #[test]
    fn like_keys_get_unlike_hashes() {
        let hasher = BuildHasherDefault::<IdHasher>::default();
        let bits =
            (0..128).map(|bit| hasher.hash_one(DomainId(Id128((1_u128 << bit).to_le_bytes()))));
        let counted = (1..=128).map(|lsn| hasher.hash_one(Lsn(lsn)));
        for hashes in [bits.collect::<Vec<u64>>(), counted.collect()] {
            let all: HashSet<u64> = hashes.iter().copied().collect();
            assert_eq!(all.len(), 128);
            // Of 128 into 128 at random some 80 are hit.
            let low: HashSet<u64> = hashes.iter().map(|hash| hash % 128).collect();
            let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            assert!(low.len() > 60, "only {} of the low ends differ", low.len());
            assert!(
                high.len() > 60,
                "only {} of the high ends differ",
                high.len()
            );
        }
    }
}
