//! What is written: records of 300 bytes that no store can make smaller by looking for repetitions.

/// Bytes of payload in a record.
pub const PAYLOAD_SIZE: usize = 300;

/// Bits of one character.
const CHARACTER_BITS: usize = 6;
/// Visible characters, as many as their bits can tell apart: our own texts hold no others.
const CHARACTERS: &[u8; 1 << CHARACTER_BITS] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The payload number `index`: always the same, and like no other.
#[must_use]
pub fn payload(index: u64) -> [u8; PAYLOAD_SIZE] {
    let mut state = index.wrapping_mul(0xd134_2543_de82_ef95);
    let mut payload = [0; PAYLOAD_SIZE];
    for piece in payload.chunks_mut(u64::BITS as usize / CHARACTER_BITS) {
        let mut bits = next(&mut state);
        for character in piece {
            *character = CHARACTERS[(bits & 0x3f) as usize];
            bits >>= CHARACTER_BITS;
        }
    }
    payload
}

/// The payload as text, for records whose payload is one.
#[must_use]
pub fn text(index: u64) -> String {
    payload(index).iter().copied().map(char::from).collect()
}

/// One step of the generator SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// What was read back: so that no store gets away with less than all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many payloads.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The sum of their words of eight bytes: every byte was touched.
    pub sum: u64,
}

impl Seen {
    /// One more payload.
    pub fn add(&mut self, payload: &[u8]) {
        self.records += 1;
        self.bytes += payload.len() as u64;
        let (words, rest) = payload.as_chunks();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        let rest = rest.iter().map(|byte| u64::from(*byte));
        self.sum = words.chain(rest).fold(self.sum, u64::wrapping_add);
    }

    /// What is seen of the first `records` payloads if none is missing.
    #[must_use]
    pub fn expected(records: u64) -> Seen {
        let mut seen = Seen::default();
        for index in 0..records {
            seen.add(&payload(index));
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn payloads_differ_and_are_text() {
        let distinct: BTreeSet<_> = (0..1000).map(payload).collect();
        assert_eq!(distinct.len(), 1000);
        assert_eq!(payload(7), payload(7));
        assert_eq!(text(7).as_bytes(), payload(7));
        assert!(payload(7).iter().all(u8::is_ascii_graphic));
    }

    #[test]
    fn what_is_missing_is_seen() {
        let mut seen = Seen::default();
        for index in [0, 1, 3] {
            seen.add(&payload(index));
        }
        assert_eq!(seen.bytes, 3 * PAYLOAD_SIZE as u64);
        assert_ne!(seen, Seen::expected(3));
        assert_ne!(seen, Seen::expected(4));
    }
}
