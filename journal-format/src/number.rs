//! Numbers and identities that stand in the journal, each with its own type.
//! Invariant: a number never wraps; running out is an error the caller sees.
//! Not here: how they lie on disk (`segment`, `batch`, `record::codec`).

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Log sequence number: the position of a record, counted from 1 over the whole life of a journal.
///
/// A count of records, not a byte offset. A job is named by the LSN of its first record, an effect
/// by the LSN of the record of its intent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The first record of a journal.
    pub const FIRST: Lsn = Lsn(1);

    /// The LSN after this one; `None` when the number space is used up.
    #[must_use]
    pub fn next(self) -> Option<Lsn> {
        self.plus(1)
    }

    /// This LSN moved on by `count` records; `None` when the number space is used up.
    #[must_use]
    pub fn plus(self, count: u64) -> Option<Lsn> {
        self.0.checked_add(count).map(Lsn)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({})", self.0)
    }
}

/// Number of an opening of the journal, counted from 1. Every opening for writing takes the next
/// one, so that a message of an earlier life of a sidecar can be told from one of this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch of a new journal's first opening.
    pub const FIRST: Epoch = Epoch(1);

    /// The epoch after this one; `None` when the number space is used up.
    #[must_use]
    pub fn next(self) -> Option<Epoch> {
        self.0.checked_add(1).map(Epoch)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// 128 bits of identity. In the journal: 16 bytes as they stand. In text and JSON: the usual
/// hyphenated form of a UUID.
///
/// Aligned as words are: else it stands at an odd place in an `Option`, and a copy of it is read in other pieces than it
/// was written, for which a processor waits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(align(8))]
pub struct Id128(pub [u8; 16]);

/// By bytes, first one first; compared as one number, since maps of identities are most of what a fold does.
impl Ord for Id128 {
    #[allow(
        clippy::big_endian_bytes,
        reason = "in this order numbers compare as their bytes do; nothing is written"
    )]
    #[inline]
    fn cmp(&self, other: &Id128) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

/// As two words: maps of identities are most of what a fold does.
impl Hash for Id128 {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (halves, _) = self.0.as_chunks::<8>();
        for half in halves {
            state.write_u64(u64::from_le_bytes(*half));
        }
    }
}

impl PartialOrd for Id128 {
    #[inline]
    fn partial_cmp(&self, other: &Id128) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Id128 {
    /// All bits zero: stands for "none" in record headers.
    pub const NIL: Id128 = Id128([0; 16]);

    /// A random identity (UUID version 4).
    #[must_use]
    pub fn random() -> Id128 {
        Id128(*uuid::Uuid::new_v4().as_bytes())
    }

    /// Reads any of the usual textual forms of a UUID; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Id128> {
        uuid::Uuid::try_parse(text)
            .ok()
            .map(|uuid| Id128(*uuid.as_bytes()))
    }
}

impl fmt::Display for Id128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for Id128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Id128 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            // In one piece, as it is read.
            serializer.serialize_u128(u128::from_le_bytes(self.0))
        }
    }
}

impl<'de> Deserialize<'de> for Id128 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id128, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
            Id128::parse(&text).ok_or_else(|| serde::de::Error::custom("not a UUID"))
        } else {
            // The same 16 bytes in one piece: one by one they would take most of reading a journal.
            u128::deserialize(deserializer).map(|number| Id128(number.to_le_bytes()))
        }
    }
}

/// Defines an identity of its own type over [`Id128`], so that one cannot stand for another.
macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Id128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identity!(
    /// A journal, for its whole life; random, made with the journal.
    JournalId
);
identity!(
    /// The host that a journal was made on (machine id).
    HostId
);
identity!(
    /// One boot of a host (`/proc/sys/kernel/random/boot_id`).
    BootId
);
identity!(
    /// One opening of a journal for writing; random. Two histories that both have an epoch 5 (one of
    /// them grown from a restored copy) differ in it.
    OpeningId
);
identity!(
    /// A domain of one journal: the UUID that QEMU was given, or a random one if it was given none.
    DomainId
);
identity!(
    /// One migration, named alike in both journals; random, never used twice.
    MigrationId
);
identity!(
    /// Made by the destination in prepare; whoever shows it was given it by that prepare.
    Nonce
);

/// Where a record stands in the history of one journal, told to others and remembered by them.
///
/// `opening` makes histories comparable: a journal contains a position if it had that opening and
/// that opening reached that LSN. It does the work of a chain value at the LSN, and can be checked
/// without reading the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Position {
    /// The journal.
    pub journal: JournalId,
    /// The number of the opening.
    pub epoch: Epoch,
    /// The identity of the opening.
    pub opening: OpeningId,
    /// The last record that was durable (or becomes so before the position leaves the process).
    pub lsn: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "lsn {} of journal {} (epoch {})",
            self.lsn, self.journal, self.epoch
        )
    }
}

/// Number of a segment in its journal, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The first segment of a journal.
    pub const FIRST: SegmentNumber = SegmentNumber(1);

    /// The segment after this one; `None` when the number space is used up.
    #[must_use]
    pub fn next(self) -> Option<SegmentNumber> {
        self.0.checked_add(1).map(SegmentNumber)
    }

    /// Its file's name: 16 decimal digits (more when needed) and `.seg` (F2).
    #[must_use]
    pub fn file_name(self) -> String {
        format!("{:016}.seg", self.0)
    }

    /// The number in a file's name; `None` if no writer gives that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<SegmentNumber> {
        let number = SegmentNumber(name.strip_suffix(".seg")?.parse().ok()?);
        (number.0 > 0 && number.file_name() == name).then_some(number)
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Links a batch to all of its segment before it: the checksum of the header before, which holds
/// the value of the one before that (F6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Chain(pub u32);

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({:08x})", self.0)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// 128 random bits that go into every checksum of a segment, so that nothing written for another
/// segment, or by a guest, passes in it (F3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 16]);

impl Salt {
    /// A fresh salt.
    #[must_use]
    pub fn random() -> Salt {
        Salt(Id128::random().0)
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Salt({})", Id128(self.0))
    }
}
