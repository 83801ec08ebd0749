//! Numbers that depend on a seed alone.
//!
//! Invariant: the same seed gives the same numbers in every version and on every machine; so it is
//! written out here (SplitMix64) and not taken from a library, which may change its ranges.
//! Not here: what is drawn.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Chances are counted in millionths.
pub(super) const MILLION: u32 = 1_000_000;

impl Random {
    /// The stream of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A stream of its own, so that what is drawn for one thing does not move another.
    #[must_use]
    pub fn fork(&mut self, purpose: u64) -> Random {
        let seed = self.number() ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93);
        Random(seed)
    }

    /// 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.number()) * u128::from(bound);
        // The upper half of a product with a 64-bit number fits.
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// An index into something of that length; 0 if it is empty.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// A number from the first to the last.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first).saturating_add(1))
    }

    /// True so many times in a million.
    pub fn chance(&mut self, millionths: u32) -> bool {
        self.below(u64::from(MILLION)) < u64::from(millionths)
    }

    /// One of two.
    pub fn coin(&mut self) -> bool {
        self.number() >> 63 == 1
    }

    /// 128 bits for an identity.
    pub fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.number().to_le_bytes());
        bytes[8..].copy_from_slice(&self.number().to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_stay_what_they_are() {
        let mut random = Random::new(7);
        let numbers: Vec<u64> = (0..3).map(|_| random.number()).collect();
        assert_eq!(
            numbers,
            [
                0x63cb_e1e4_5932_0dd7,
                0x044c_3cd7_f43c_661c,
                0xe698_4080_bab1_2a02
            ]
        );
        assert!((0..1000).all(|_| random.between(3, 5).clamp(3, 5) != 9));
        assert_eq!(random.below(0), 0);
    }
}
