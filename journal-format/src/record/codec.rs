//! Records to bytes and back.
//! Invariant: the header is written by hand; bincode writes bodies only, with fixed-width integers and a limit; they are
//! read without trailing bytes (F9). A type's number and the version of its body never change their
//! meaning.
//! Not here: what records mean.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Draft, Record, RecordBody, fixed};
use crate::RECORD_BODY_SIZE_MAX;
use crate::batch::domain_bytes;
use crate::bytes::{Fields, Salted, in_memory, is_zero, on_disk};
use crate::error::FormatError;
use crate::number::{DomainId, Id128, Lsn, Salt};

/// Size of a record's header in bytes.
pub const RECORD_HEADER_SIZE: usize = 48;

const CRC_OFFSET: usize = RECORD_HEADER_SIZE - 4;
const WHAT: &str = "record";

/// A record that was read.
#[allow(
    clippy::large_enum_variant,
    reason = "records are few and short-lived in memory"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// One that this program knows.
    Known(Record),
    /// One of a type or version of a newer writer: skipped, never guessed at (F10).
    Unknown {
        /// Its place.
        lsn: Lsn,
        /// The domain it is about.
        domain: Option<DomainId>,
        /// The record of the same domain before it.
        previous: Option<Lsn>,
        /// The number of its type.
        kind: u16,
        /// The version of its body.
        version: u16,
        /// Its body.
        body: Vec<u8>,
    },
}

impl Decoded {
    /// Its place.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        match self {
            Decoded::Known(record) => record.lsn,
            Decoded::Unknown { lsn, .. } => *lsn,
        }
    }

    /// The domain it is about.
    #[must_use]
    pub fn domain(&self) -> Option<DomainId> {
        match self {
            Decoded::Known(record) => record.domain,
            Decoded::Unknown { domain, .. } => *domain,
        }
    }
}

/// The table of record types: number on disk, version of the body that this program writes and reads,
/// name in text, payload.
macro_rules! record_types {
    ($($number:literal v $version:literal $name:literal $variant:ident $(($payload:ident))?,)+) => {
        impl RecordBody {
            /// Every type: its number on disk and its name.
            pub const TYPES: &'static [(u16, &'static str)] = &[$(($number, $name),)+];

            /// Every type: its number on disk and the version of its body.
            pub const BODY_VERSIONS: &'static [(u16, u16)] = &[$(($number, $version),)+];

            /// The number of its type on disk.
            #[must_use]
            pub const fn type_number(&self) -> u16 {
                match self { $(record_types!(@pattern $variant $($payload)?) => $number,)+ }
            }

            /// The version of its body: the only one of its type that this program writes and reads.
            #[must_use]
            pub const fn body_version(&self) -> u16 {
                match self { $(record_types!(@pattern $variant $($payload)?) => $version,)+ }
            }

            /// The name of its type.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self { $(record_types!(@pattern $variant $($payload)?) => $name,)+ }
            }
        }

        fn encode_body(body: &RecordBody, out: &mut Vec<u8>) -> Result<(), FormatError> {
            match body {
                $(record_types!(@bind payload $variant $($payload)?) =>
                    encode(record_types!(@value payload $($payload)?), $name, out),)+
            }
        }

        impl RecordHeader {
            /// What the record says whose header this is, and whose body these are.
            // Made where it is to stay: it is large.
            fn says(&self, bytes: &[u8]) -> Result<Decoded, FormatError> {
                let RecordHeader { lsn, previous, domain, kind, version, .. } = *self;
                match (kind, version) {
                    $(($number, $version) => Ok(Decoded::Known(Record {
                        lsn,
                        domain,
                        previous,
                        body: record_types!(@decode bytes $name $variant $($payload)?),
                    })),)+
                    _ => Ok(Decoded::Unknown {
                        lsn,
                        domain,
                        previous,
                        kind,
                        version,
                        body: bytes.to_vec(),
                    }),
                }
            }
        }

        /// The same by bincode's own reader.
        #[cfg(test)]
        fn decode_body_by_bincode(
            kind: u16,
            version: u16,
            bytes: &[u8],
        ) -> Option<Option<RecordBody>> {
            match (kind, version) {
                $(($number, $version) => Some(record_types!(@bincode bytes $variant $($payload)?)),)+
                _ => None,
            }
        }
    };
    (@bincode $bytes:ident $variant:ident $payload:ident) => {
        tests::by_bincode($bytes).map(RecordBody::$variant)
    };
    (@bincode $bytes:ident $variant:ident) => {
        tests::by_bincode::<()>($bytes).map(|()| RecordBody::$variant)
    };
    (@pattern $variant:ident $payload:ident) => { RecordBody::$variant(_) };
    (@pattern $variant:ident) => { RecordBody::$variant };
    (@bind $bound:ident $variant:ident $payload:ident) => { RecordBody::$variant($bound) };
    (@bind $bound:ident $variant:ident) => { RecordBody::$variant };
    (@value $bound:ident $payload:ident) => { $bound };
    (@value $bound:ident) => { &() };
    (@decode $bytes:ident $name:literal $variant:ident $payload:ident) => {
        RecordBody::$variant(decode($bytes, $name)?)
    };
    (@decode $bytes:ident $name:literal $variant:ident) => {{
        decode::<()>($bytes, $name)?;
        RecordBody::$variant
    }};
}

record_types!(
    1 v 1 "checkpoint-begun" CheckpointBegun(CheckpointBegun),
    2 v 1 "checkpoint-ended" CheckpointEnded(CheckpointEnded),
    3 v 1 "domain-added" DomainAdded(DomainState),
    4 v 1 "domain-state" DomainState(DomainState),
    5 v 1 "domain-removed" DomainRemoved,
    6 v 1 "definition-part" DefinitionPart(DefinitionPart),
    7 v 1 "wanted-changed" WantedChanged(WantedChanged),
    8 v 3 "job-begun" JobBegun(JobBegun),
    9 v 1 "phase-entered" PhaseEntered(PhaseEntered),
    10 v 3 "effect-intended" EffectIntended(EffectIntended),
    11 v 1 "effect-finished" EffectFinished(EffectFinished),
    12 v 1 "qemu-observed" QemuObserved(QemuObserved),
    13 v 3 "peer-heard" PeerHeard(PeerHeard),
    14 v 1 "peer-prepared" PeerPrepared(PeerPrepared),
    15 v 1 "migration-granted" MigrationGranted(MigrationGranted),
    16 v 1 "migration-abandoned" MigrationAbandoned(MigrationAbandoned),
    17 v 1 "migration-committed" MigrationCommitted(MigrationCommitted),
    18 v 1 "migration-started" MigrationStarted(MigrationNamed),
    19 v 1 "migration-aborted" MigrationAborted(MigrationNamed),
    20 v 1 "outcome-learned" OutcomeLearned(OutcomeLearned),
    21 v 3 "decided" Decided(Decided),
    22 v 1 "operator-resolved" OperatorResolved(OperatorResolved),
    23 v 1 "job-ended" JobEnded(JobEnded),
    24 v 1 "migration-forgotten" MigrationForgotten(MigrationNamed),
    25 v 4 "migration-state" MigrationState(MigrationState),
    26 v 1 "sealed" Sealed,
    27 v 2 "migration-histories" MigrationHistories(MigrationHistories),
    28 v 1 "store-intended" StoreIntended(StoreIntended),
    29 v 1 "store-read" StoreRead(StoreRead),
    30 v 1 "verdict-given" VerdictGiven(VerdictGiven),
    31 v 4 "job-phase-entered" JobPhaseEntered(JobPhaseEntered),
    32 v 4 "job-decided" JobDecided(JobDecided),
    33 v 4 "job-state" JobState(JobState),
    34 v 1 "migration-settings" MigrationSettings(MigrationSettings),
    35 v 1 "settings-kept" SettingsKept(SettingsKept),
    36 v 1 "migration-disks" MigrationDisks(MigrationDisks),
    37 v 1 "guest-sent" GuestSent(GuestSent),
);

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<{ RECORD_BODY_SIZE_MAX }>()
}

/// Appends a body. On an error a part of it may be there.
fn encode<T: Serialize>(
    payload: &T,
    kind: &'static str,
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let before = out.len();
    match bincode::serde::encode_into_std_write(payload, out, configuration()) {
        Ok(_) if out.len() - before <= RECORD_BODY_SIZE_MAX => Ok(()),
        Ok(_) | Err(_) => Err(FormatError::TooLarge {
            kind,
            size_max: RECORD_BODY_SIZE_MAX,
        }),
    }
}

#[inline]
fn decode<T: DeserializeOwned>(bytes: &[u8], kind: &'static str) -> Result<T, FormatError> {
    fixed::read_all(bytes).map_err(|fixed::NotThat| FormatError::Body { kind })
}

/// Appends a record's bytes, padded to a multiple of 8. On an error nothing is appended.
pub(crate) fn encode_record(
    salted: &Salted,
    lsn: Lsn,
    previous: Option<Lsn>,
    (domain, body): (Option<DomainId>, &RecordBody),
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let (kind, version) = (body.type_number(), body.body_version());
    let begin = out.len();
    out.resize(begin + RECORD_HEADER_SIZE, 0);
    if let Err(error) = encode_body(body, out) {
        out.truncate(begin);
        return Err(error);
    }
    let (header, body) = out[begin..].split_at_mut(RECORD_HEADER_SIZE);
    let lsn = lsn.0.to_le_bytes();
    header[..8].copy_from_slice(&lsn);
    header[8..16].copy_from_slice(&previous.map_or(0, |previous| previous.0).to_le_bytes());
    header[16..32].copy_from_slice(&domain_bytes(domain));
    header[32..34].copy_from_slice(&kind.to_le_bytes());
    header[34..36].copy_from_slice(&version.to_le_bytes());
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    header[36..40].copy_from_slice(&length.to_le_bytes());
    header[40..44].copy_from_slice(&salted.crc(&[&lsn, body]).to_le_bytes());
    let crc = salted.crc(&[&header[..CRC_OFFSET]]);
    header[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
    let size = (RECORD_HEADER_SIZE + body.len()).next_multiple_of(8);
    out.resize(begin + size, 0);
    Ok(())
}

/// A record's header, as its bytes say.
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// Its place.
    pub lsn: Lsn,
    /// The record of the same domain before it.
    pub previous: Option<Lsn>,
    /// The domain it is about.
    pub domain: Option<DomainId>,
    /// The number of its type.
    pub kind: u16,
    /// The version of its body.
    pub version: u16,
    /// Bytes of its body, without padding.
    pub length: usize,
    body_crc: u32,
}

impl RecordHeader {
    #[inline]
    pub(crate) fn read(bytes: &[u8; RECORD_HEADER_SIZE]) -> RecordHeader {
        let mut fields = Fields(bytes);
        RecordHeader {
            lsn: Lsn(fields.u64()),
            previous: Some(Lsn(fields.u64())).filter(|previous| previous.0 > 0),
            domain: Some(DomainId(Id128(fields.array()))).filter(|domain| domain.0 != Id128::NIL),
            kind: fields.u16(),
            version: fields.u16(),
            length: in_memory(fields.u32()),
            body_crc: fields.u32(),
        }
    }

    /// Bytes of the record, with header and padding.
    #[must_use]
    pub fn size(&self) -> usize {
        (RECORD_HEADER_SIZE + self.length).next_multiple_of(8)
    }

    /// What the record says whose header this is, and whose bytes begin with it.
    ///
    /// # Errors
    /// It is damaged, or the bytes are too few.
    #[inline]
    pub(crate) fn decode(&self, salted: &Salted, bytes: &[u8]) -> Result<Decoded, FormatError> {
        self.says(self.checked(salted, bytes)??)
    }

    /// The body of the record whose header this is, and whose bytes begin with it, or that it is damaged.
    ///
    /// # Errors
    /// Its header is damaged, or the bytes are too few.
    #[inline]
    fn checked<'a>(
        &self,
        salted: &Salted,
        bytes: &'a [u8],
    ) -> Result<Result<&'a [u8], FormatError>, FormatError> {
        const TOO_SHORT: FormatError = FormatError::TooShort { what: WHAT };
        let header = bytes.first_chunk::<RECORD_HEADER_SIZE>().ok_or(TOO_SHORT)?;
        let (checked, crc) = header.split_at(CRC_OFFSET);
        if salted.crc(&[checked]) != Fields(crc).u32() {
            return Err(FormatError::Checksum { what: WHAT });
        }
        if self.length > RECORD_BODY_SIZE_MAX {
            return Err(FormatError::Field { what: WHAT });
        }
        let rest = bytes.get(RECORD_HEADER_SIZE..self.size());
        let (body, padding) = rest
            .and_then(|rest| rest.split_at_checked(self.length))
            .ok_or(TOO_SHORT)?;
        if salted.crc(&[&header[..8], body]) != self.body_crc || !is_zero(padding) {
            return Ok(Err(FormatError::Checksum { what: WHAT }));
        }
        Ok(Ok(body))
    }
}

/// A record's LSN and size in bytes, and the record or what is wrong with its body.
pub(crate) type DecodedRecord = (Lsn, usize, Result<Decoded, FormatError>);

/// Reads the record at the start of `bytes`.
///
/// # Errors
/// No record begins there, or its header is damaged.
pub(crate) fn decode_record(salted: &Salted, bytes: &[u8]) -> Result<DecodedRecord, FormatError> {
    let header = bytes
        .first_chunk()
        .ok_or(FormatError::TooShort { what: WHAT })?;
    let header = RecordHeader::read(header);
    let body = header.checked(salted, bytes)?;
    let record = body.and_then(|body| header.says(body));
    Ok((header.lsn, header.size(), record))
}

/// The record at the start of `bytes`, wherever they were found: it vouches for itself (F23). Returns its
/// bytes with header and padding, and what it says.
///
/// # Errors
/// No record of a segment with this salt begins there, or it is damaged.
pub fn record_at(salt: &Salt, bytes: &[u8]) -> Result<(u64, Decoded), FormatError> {
    let (_, size, record) = decode_record(&Salted::new(salt), bytes)?;
    Ok((on_disk(size), record?))
}

/// Appends the bytes of a record that stands outside a batch, for [`record_at`] to read. On an error nothing is
/// appended.
///
/// # Errors
/// Its body is larger than one may be (F14).
pub fn put_record(salt: &Salt, record: &Record, out: &mut Vec<u8>) -> Result<(), FormatError> {
    let Record {
        lsn,
        domain,
        previous,
        body,
    } = record;
    encode_record(&Salted::new(salt), *lsn, *previous, (*domain, body), out)
}

/// Bytes of a record on disk; for whoever fills batches.
#[must_use]
pub fn record_size(draft: &Draft) -> Option<u64> {
    let mut body = Vec::new();
    encode_body(&draft.body, &mut body).ok()?;
    Some(on_disk(
        (RECORD_HEADER_SIZE + body.len()).next_multiple_of(8),
    ))
}

/// Bytes of a record's body on disk, without padding; `None` if it is larger than one may be (F14).
/// A value has one encoding (F9), so that this is also the size of the body it was read from.
#[must_use]
pub fn body_size(body: &RecordBody) -> Option<u64> {
    let mut bytes = Vec::new();
    encode_body(body, &mut bytes).ok()?;
    Some(on_disk(bytes.len()))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::draw::Draw;

    pub(super) fn by_bincode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        let (value, consumed) = bincode::serde::decode_from_slice(bytes, configuration()).ok()?;
        (consumed == bytes.len()).then_some(value)
    }

    /// What a body says; `None` if its type or version is not known.
    fn decode_body(
        kind: u16,
        version: u16,
        bytes: &[u8],
    ) -> Option<Result<RecordBody, FormatError>> {
        let header = RecordHeader {
            lsn: Lsn(1),
            previous: None,
            domain: None,
            kind,
            version,
            length: bytes.len(),
            body_crc: 0,
        };
        match header.says(bytes) {
            Ok(Decoded::Known(record)) => Some(Ok(record.body)),
            Ok(Decoded::Unknown { .. }) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn assert_read_alike(kind: u16, version: u16, bytes: &[u8]) -> Result<(), TestCaseError> {
        let ours = decode_body(kind, version, bytes).map(Result::ok);
        prop_assert_eq!(ours, decode_body_by_bincode(kind, version, bytes));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// What bincode wrote is read as bincode reads it, also when it was cut off, goes on, or is not what it was.
        #[test]
        fn bodies_are_read_as_bincode_reads_them(
            drawn in vec(any::<u8>(), 0..120),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            end in any::<prop::sample::Index>(),
        ) {
            let draft = Draw(&drawn).draft();
            let (kind, version) = (draft.body.type_number(), draft.body.body_version());
            let mut bytes = Vec::new();
            prop_assume!(encode_body(&draft.body, &mut bytes).is_ok());
            prop_assert_eq!(decode_body(kind, version, &bytes), Some(Ok(draft.body)));
            assert_read_alike(kind, version, &bytes)?;
            assert_read_alike(kind, version, &bytes[..end.index(bytes.len() + 1)])?;
            assert_read_alike(kind, version, &[bytes.as_slice(), &[0]].concat())?;
            for (at, byte) in changes.iter().filter(|_| !bytes.is_empty()) {
                let mut changed = bytes.clone();
                changed[at.index(bytes.len())] = *byte;
                assert_read_alike(kind, version, &changed)?;
            }
        }

        /// Any bytes at all, as a body of any type.
        #[test]
        fn any_bytes_are_read_as_bincode_reads_them(
            kind in 0..RecordBody::BODY_VERSIONS.len(),
            bytes in vec(prop_oneof![Just(0_u8), Just(1), 0..12_u8, any::<u8>()], 0..160),
        ) {
            let (kind, version) = RecordBody::BODY_VERSIONS[kind];
            assert_read_alike(kind, version, &bytes)?;
        }
    }
}
