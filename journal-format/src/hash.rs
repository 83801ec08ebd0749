//! Maps whose keys are identities or LSNs, looked into with each record.
//!
//! Invariant: nobody can choose keys that collide, since each process draws what the hash goes by; so nothing may be told
//! by the order of such a map.
//! Not here: maps that are gone over in an order.

use core::hash::{BuildHasher, Hasher};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::sync::LazyLock;

/// A map from an identity, or an LSN, that has no order.
pub type IdMap<K, V> = HashMap<K, V, IdState>;

/// What the hash goes by.
#[derive(Clone, Copy, Debug)]
struct Secret {
    begin: u64,
    /// Odd, so that no bit of a word is lost.
    factor: u64,
}

/// An odd number without a pattern: the fraction of the golden ratio, as in Knuth's multiplicative hashing.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// One for the whole process: a map is made with each checkpoint that is read.
static SECRET: LazyLock<Secret> = LazyLock::new(|| {
    let random = RandomState::new();
    Secret {
        begin: random.hash_one(0),
        factor: random.hash_one(1) | 1,
    }
});

/// Makes the hashers of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdState;

impl BuildHasher for IdState {
    type Hasher = IdHasher;

    #[inline]
    fn build_hasher(&self) -> IdHasher {
        IdHasher::of(*SECRET)
    }
}

/// Hashes a few words in some nanoseconds: multiplicative hashing with a factor that nobody knows.
#[derive(Clone, Copy, Debug)]
pub struct IdHasher {
    state: u64,
    secret: Secret,
}

impl IdHasher {
    #[inline]
    fn of(secret: Secret) -> IdHasher {
        IdHasher {
            state: secret.begin,
            secret,
        }
    }
}

/// Both halves of a product: the map takes its bits from either end.
#[inline]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    let [low, high] = [product & u128::from(u64::MAX), product >> 64];
    u64::try_from(low ^ high).unwrap_or(0)
}

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
        self.state = fold(self.state ^ word, self.secret.factor);
    }

    // The length before an array: that of a type never changes.
    #[inline]
    fn write_usize(&mut self, _length: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        // Half of all factors leave keys that count up close together.
        fold(self.state ^ self.secret.begin, SPREAD)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::number::{DomainId, Id128, Lsn};

    /// Two words as an identity.
    fn id(first: u64, second: u64) -> DomainId {
        let bytes = u128::from(first) | u128::from(second) << 64;
        DomainId(Id128(bytes.to_le_bytes()))
    }

    /// How many different ones there are among the hashes of 128 keys: of all their bits, the low ones, the high ones.
    fn spread(hashes: impl Iterator<Item = u64>) -> [usize; 3] {
        let hashes: Vec<u64> = hashes.collect();
        assert_eq!(hashes.len(), 128);
        let count = |part: fn(u64) -> u64| -> usize {
            let parts: HashSet<u64> = hashes.iter().map(|hash| part(*hash)).collect();
            parts.len()
        };
        [
            count(|hash| hash),
            count(|hash| hash % 128),
            count(|hash| hash >> 57),
        ]
    }

    fn assert_spread(what: &str, hashes: impl Iterator<Item = u64>) {
        let [all, low, high] = spread(hashes);
        assert_eq!(all, 128, "{what}");
        // Of 128 into 128 at random some 80 are hit.
        assert!(low > 55, "{what}: only {low} of the low ends differ");
        assert!(high > 55, "{what}: only {high} of the high ends differ");
    }

    /// Keys that differ in one bit, and keys that count up, spread over both ends of the hash.
    #[test]
    fn like_keys_get_unlike_hashes() {
        let bits = (0..128).map(|bit| DomainId(Id128((1_u128 << bit).to_le_bytes())));
        assert_spread("bits", bits.map(|id| IdState.hash_one(id)));
        assert_spread("counted", (1..=128).map(|lsn| IdState.hash_one(Lsn(lsn))));
        assert_spread(
            "first words",
            (0..128).map(|word| IdState.hash_one(id(word, 0))),
        );
    }

    /// Keys that all collide for somebody who knows what the hash goes by: the second word takes back what the
    /// first one made of the state. In a process that drew something else they are like any others.
    #[test]
    fn keys_that_were_made_to_collide_do_not() {
        let known = Secret {
            begin: 1234,
            factor: 0x2545_F491_4F6C_DD1D,
        };
        let hash = |secret: Secret, key: DomainId| {
            let mut hasher = IdHasher::of(secret);
            core::hash::Hash::hash(&key, &mut hasher);
            hasher.finish()
        };
        let made = |word: u64| {
            let mut hasher = IdHasher::of(known);
            hasher.write_u64(word);
            id(word, hasher.state ^ 77)
        };
        // They are what they are meant to be.
        let [all, _, _] = spread((0..128).map(|word| hash(known, made(word))));
        assert_eq!(all, 1);
        assert_spread("made", (0..128).map(|word| IdState.hash_one(made(word))));
    }
}
