//! Records to bytes and back.
//! Invariant: the header is written by hand; bincode writes bodies only, with fixed-width integers,
//! a limit, and no trailing bytes (F9). A type's number and the version of its body never change their
//! meaning.
//! Not here: what records mean.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Draft, Record, RecordBody};
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

        fn decode_body(
            kind: u16,
            version: u16,
            bytes: &[u8],
        ) -> Option<Result<RecordBody, FormatError>> {
            match (kind, version) {
                $(($number, $version) => Some(record_types!(@decode bytes $name $variant $($payload)?)),)+
                _ => None,
            }
        }
    };
    (@pattern $variant:ident $payload:ident) => { RecordBody::$variant(_) };
    (@pattern $variant:ident) => { RecordBody::$variant };
    (@bind $bound:ident $variant:ident $payload:ident) => { RecordBody::$variant($bound) };
    (@bind $bound:ident $variant:ident) => { RecordBody::$variant };
    (@value $bound:ident $payload:ident) => { $bound };
    (@value $bound:ident) => { &() };
    (@decode $bytes:ident $name:literal $variant:ident $payload:ident) => {
        decode($bytes, $name).map(RecordBody::$variant)
    };
    (@decode $bytes:ident $name:literal $variant:ident) => {
        decode::<()>($bytes, $name).map(|()| RecordBody::$variant)
    };
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
    33 v 3 "job-state" JobState(JobState),
    34 v 1 "migration-settings" MigrationSettings(MigrationSettings),
    35 v 1 "settings-kept" SettingsKept(SettingsKept),
    36 v 1 "migration-disks" MigrationDisks(MigrationDisks),
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

fn decode<T: DeserializeOwned>(bytes: &[u8], kind: &'static str) -> Result<T, FormatError> {
    match bincode::serde::decode_from_slice(bytes, configuration()) {
        Ok((payload, consumed)) if consumed == bytes.len() => Ok(payload),
        Ok(_) | Err(_) => Err(FormatError::Body { kind }),
    }
}

/// Appends a record's bytes, padded to a multiple of 8. On an error nothing is appended.
pub(crate) fn encode_record(
    salted: Salted,
    lsn: Lsn,
    previous: Option<Lsn>,
    draft: &Draft,
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let begin = out.len();
    out.resize(begin + RECORD_HEADER_SIZE, 0);
    if let Err(error) = encode_body(&draft.body, out) {
        out.truncate(begin);
        return Err(error);
    }
    let (header, body) = out[begin..].split_at_mut(RECORD_HEADER_SIZE);
    let kind = draft.body.type_number();
    let lsn = lsn.0.to_le_bytes();
    header[..8].copy_from_slice(&lsn);
    header[8..16].copy_from_slice(&previous.map_or(0, |previous| previous.0).to_le_bytes());
    header[16..32].copy_from_slice(&domain_bytes(draft.domain));
    header[32..34].copy_from_slice(&kind.to_le_bytes());
    header[34..36].copy_from_slice(&draft.body.body_version().to_le_bytes());
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    header[36..40].copy_from_slice(&length.to_le_bytes());
    header[40..44].copy_from_slice(&salted.crc(&[&lsn, body]).to_le_bytes());
    let crc = salted.crc(&[&header[..CRC_OFFSET]]);
    header[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
    let size = (RECORD_HEADER_SIZE + body.len()).next_multiple_of(8);
    out.resize(begin + size, 0);
    Ok(())
}

/// A record's LSN and size in bytes, and the record or what is wrong with its body.
pub(crate) type DecodedRecord = (Lsn, usize, Result<Decoded, FormatError>);

/// Reads the record at the start of `bytes`.
///
/// # Errors
/// No record begins there, or its header is damaged.
pub(crate) fn decode_record(salted: Salted, bytes: &[u8]) -> Result<DecodedRecord, FormatError> {
    let Some(header) = bytes.get(..RECORD_HEADER_SIZE) else {
        return Err(FormatError::TooShort { what: WHAT });
    };
    let crc = u32::from_le_bytes(Fields(&header[CRC_OFFSET..]).array());
    if salted.crc(&[&header[..CRC_OFFSET]]) != crc {
        return Err(FormatError::Checksum { what: WHAT });
    }
    let mut fields = Fields(header);
    let lsn = Lsn(fields.u64());
    let previous = Some(Lsn(fields.u64())).filter(|previous| previous.0 > 0);
    let domain = Some(DomainId(Id128(fields.array()))).filter(|domain| domain.0 != Id128::NIL);
    let kind = fields.u16();
    let version = fields.u16();
    let length = in_memory(fields.u32());
    let body_crc = fields.u32();
    if length > RECORD_BODY_SIZE_MAX {
        return Err(FormatError::Field { what: WHAT });
    }
    let size = (RECORD_HEADER_SIZE + length).next_multiple_of(8);
    let (Some(body), Some(padding)) = (
        bytes.get(RECORD_HEADER_SIZE..RECORD_HEADER_SIZE + length),
        bytes.get(RECORD_HEADER_SIZE + length..size),
    ) else {
        return Err(FormatError::TooShort { what: WHAT });
    };
    if salted.crc(&[&lsn.0.to_le_bytes(), body]) != body_crc || !is_zero(padding) {
        return Ok((lsn, size, Err(FormatError::Checksum { what: WHAT })));
    }
    let record = match decode_body(kind, version, body) {
        Some(Ok(body)) => Ok(Decoded::Known(Record {
            lsn,
            domain,
            previous,
            body,
        })),
        Some(Err(error)) => Err(error),
        None => Ok(Decoded::Unknown {
            lsn,
            domain,
            previous,
            kind,
            version,
            body: body.to_vec(),
        }),
    };
    Ok((lsn, size, record))
}

/// The record at the start of `bytes`, wherever they were found: it vouches for itself (F23). Returns its
/// bytes with header and padding, and what it says.
///
/// # Errors
/// No record of a segment with this salt begins there, or it is damaged.
pub fn record_at(salt: &Salt, bytes: &[u8]) -> Result<(u64, Decoded), FormatError> {
    let (_, size, record) = decode_record(Salted::new(salt), bytes)?;
    Ok((on_disk(size), record?))
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
