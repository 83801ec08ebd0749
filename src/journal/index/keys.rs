//! The index's keys and values as bytes.
//! Invariant: keys of one kind sort as the numbers in them do; what does not decode is `None`, never a
//! guess.
//! Not here: the store (`store`), what a key is good for (`index`).

use journal_format::number::{Chain, DomainId, Id128, JournalId, Lsn, SegmentNumber};

use super::{Extent, Meta};

/// The version of the keys and values; another one is made anew.
const INDEX_VERSION: u8 = 4;

/// The key of what the index is of, and how far it has read.
pub(super) const META_KEY: &[u8] = b"!meta";
/// Keys of where a domain's records are: this, the segment, the domain. In this order what is new comes
/// behind all that is there, which keeps sled's file small.
pub(super) const BY_DOMAIN: u8 = b'd';
/// Keys of domains by name: this, the name, a zero, the domain.
pub(super) const BY_NAME: u8 = b'n';
/// Keys of extents: this, the segment, the number in it.
pub(super) const EXTENT: u8 = b'x';

/// A version, a journal, three numbers and a chain value.
const META_SIZE: usize = 1 + 16 + 8 + 8 + 8 + 4;
/// Five numbers and a chain value.
const EXTENT_VALUE_SIZE: usize = 5 * 8 + 4;
/// A number of decisions, before the bits.
const DECISIONS_SIZE: usize = 4;

/// The keys of all domains' places.
pub(super) const BY_DOMAINS: std::ops::Range<[u8; 1]> = [BY_DOMAIN]..[BY_DOMAIN + 1];
/// The keys of all extents.
pub(super) const EXTENTS: std::ops::Range<[u8; 1]> = [EXTENT]..[EXTENT + 1];

/// In which extents of a segment a domain has records, and how many of them are decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InSegment {
    pub(super) decisions: u32,
    /// A bit for each extent, the lowest of the first byte for the first one.
    bits: Vec<u8>,
}

impl InSegment {
    pub(super) fn insert(&mut self, extent: u16) {
        let (byte, bit) = (usize::from(extent / 8), extent % 8);
        if self.bits.len() <= byte {
            self.bits.resize(byte + 1, 0);
        }
        if let Some(bits) = self.bits.get_mut(byte) {
            *bits |= 1 << bit;
        }
    }

    /// The same with what another one tells of the same segment.
    pub(super) fn join(&mut self, other: &InSegment) {
        self.decisions = self.decisions.saturating_add(other.decisions);
        let length = self.bits.len().max(other.bits.len());
        self.bits.resize(length, 0);
        for (mine, theirs) in self.bits.iter_mut().zip(&other.bits) {
            *mine |= theirs;
        }
    }

    /// The numbers of the extents, in order.
    pub(super) fn extents(&self) -> impl Iterator<Item = u16> {
        let bits = self.bits.iter().zip((0_u16..).step_by(8));
        bits.flat_map(|(byte, first)| {
            (0..8).filter_map(move |bit| (byte & (1 << bit) != 0).then_some(first + bit))
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.decisions.to_le_bytes()[..], &self.bits].concat()
    }

    pub(super) fn decode(value: &[u8]) -> Option<InSegment> {
        let (decisions, bits) = value.split_first_chunk::<DECISIONS_SIZE>()?;
        Some(InSegment {
            decisions: u32::from_le_bytes(*decisions),
            bits: bits.to_vec(),
        })
    }
}

/// A number as bytes that sort as the number does.
#[allow(clippy::big_endian_bytes, reason = "keys are compared byte by byte")]
fn sortable(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

#[allow(clippy::big_endian_bytes, reason = "the inverse of `sortable`")]
fn unsortable(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn key(kind: u8, of: &[u8], number: &[u8]) -> Vec<u8> {
    [&[kind], of, number].concat()
}

#[allow(clippy::big_endian_bytes, reason = "keys are compared byte by byte")]
pub(super) fn extent_key(segment: SegmentNumber, number: u16) -> Vec<u8> {
    key(EXTENT, &sortable(segment.0), &number.to_be_bytes())
}

pub(super) fn domain_key(segment: SegmentNumber, domain: DomainId) -> Vec<u8> {
    key(BY_DOMAIN, &sortable(segment.0), &domain.0.0)
}

/// The first key by domain of a segment.
pub(super) fn domains_of(segment: SegmentNumber) -> Vec<u8> {
    key(BY_DOMAIN, &sortable(segment.0), &[])
}

/// What the keys of a name's domains begin with.
pub(super) fn name_prefix(name: &str) -> Vec<u8> {
    key(BY_NAME, name.as_bytes(), &[0])
}

pub(super) fn name_key(name: &str, domain: DomainId) -> Vec<u8> {
    [&name_prefix(name)[..], &domain.0.0].concat()
}

/// The domain in a key by name whose prefix has that length. A name may have a zero in it: then the rest
/// is no identity.
pub(super) fn decode_name_key(key: &[u8], prefix: usize) -> Option<DomainId> {
    Some(DomainId(Id128(key.get(prefix..)?.try_into().ok()?)))
}

/// The segment in a key by domain.
pub(super) fn decode_domain_key(key: &[u8]) -> Option<SegmentNumber> {
    match key.split_first()? {
        (&BY_DOMAIN, rest) => Some(SegmentNumber(unsortable(rest.get(..8)?)?)),
        (_, _) => None,
    }
}

/// Whether the journal has let go what an entry tells of, if it begins with that segment and that LSN.
pub(super) fn is_let_go(key: &[u8], value: &[u8], segment: SegmentNumber, oldest: Lsn) -> bool {
    let told = match key.first() {
        Some(&BY_DOMAIN) => decode_domain_key(key).map(|told| told < segment),
        Some(&EXTENT) => decode_extent(key, value).map(|extent| extent.segment < segment),
        // The newest record that says so.
        Some(&BY_NAME) => number(value).map(|told| Lsn(told) < oldest),
        _ => None,
    };
    told.unwrap_or(false)
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

pub(super) fn encode_extent(extent: &Extent) -> Vec<u8> {
    let Extent {
        segment: _,
        number: _,
        first,
        last,
        begin,
        end,
        before,
        latest,
    } = extent;
    let mut value = [first.0, last.0, *begin, *end, *latest]
        .map(u64::to_le_bytes)
        .concat();
    value.extend(before.0.to_le_bytes());
    value
}

/// The extent that a key and its value tell of; `None` for other keys.
#[allow(clippy::big_endian_bytes, reason = "the inverse of `extent_key`")]
pub(super) fn decode_extent(key: &[u8], value: &[u8]) -> Option<Extent> {
    let (&EXTENT, of) = key.split_first()? else {
        return None;
    };
    let (segment, extent) = of.split_first_chunk::<8>()?;
    if value.len() != EXTENT_VALUE_SIZE {
        return None;
    }
    let field = |at: usize| number(value.get(at * 8..at * 8 + 8)?);
    Some(Extent {
        segment: SegmentNumber(unsortable(segment)?),
        number: u16::from_be_bytes(extent.try_into().ok()?),
        first: Lsn(field(0)?),
        last: Lsn(field(1)?),
        begin: field(2)?,
        end: field(3)?,
        latest: field(4)?,
        before: Chain(u32::from_le_bytes(value.get(40..)?.try_into().ok()?)),
    })
}

pub(super) fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut bytes = vec![INDEX_VERSION];
    bytes.extend(meta.journal.0.0);
    bytes.extend(meta.last.0.to_le_bytes());
    bytes.extend(meta.segment.0.to_le_bytes());
    bytes.extend(meta.at.to_le_bytes());
    bytes.extend(meta.chain.0.to_le_bytes());
    bytes
}

pub(super) fn decode_meta(bytes: &[u8]) -> Option<Meta> {
    if bytes.len() != META_SIZE || bytes.first() != Some(&INDEX_VERSION) {
        return None;
    }
    Some(Meta {
        journal: JournalId(Id128(bytes.get(1..17)?.try_into().ok()?)),
        last: Lsn(number(bytes.get(17..25)?)?),
        segment: SegmentNumber(number(bytes.get(25..33)?)?),
        at: number(bytes.get(33..41)?)?,
        chain: Chain(u32::from_le_bytes(bytes.get(41..45)?.try_into().ok()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_counted_by_bits() {
        let mut one = InSegment::default();
        for extent in [9, 0, 7, 4095] {
            one.insert(extent);
        }
        assert_eq!(one.extents().collect::<Vec<_>>(), [0, 7, 9, 4095]);
        let mut other = InSegment {
            decisions: 2,
            ..InSegment::default()
        };
        other.insert(8);
        other.join(&one);
        assert_eq!(other.extents().collect::<Vec<_>>(), [0, 7, 8, 9, 4095]);
        assert_eq!(InSegment::decode(&other.encode()), Some(other));
        assert_eq!(InSegment::decode(&[0; 3]), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let extent = Extent {
            segment: SegmentNumber(7),
            number: 300,
            first: Lsn(1),
            last: Lsn(2),
            begin: 3,
            end: 4,
            before: Chain(5),
            latest: 6,
        };
        let key = extent_key(extent.segment, extent.number);
        assert_eq!(decode_extent(&key, &encode_extent(&extent)), Some(extent));
        assert_eq!(decode_extent(&key, &[0; 45]), None);
        assert_eq!(decode_extent(META_KEY, &encode_extent(&extent)), None);
        let meta = Meta {
            journal: JournalId(Id128([9; 16])),
            last: Lsn(1),
            segment: SegmentNumber(2),
            at: 3,
            chain: Chain(4),
        };
        assert_eq!(decode_meta(&encode_meta(&meta)), Some(meta));
        let mut older = encode_meta(&meta);
        older[0] = INDEX_VERSION - 1;
        assert_eq!(decode_meta(&older), None);
    }
}
