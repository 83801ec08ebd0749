//! Records to bytes and back.
//! Invariant: the header is written by hand; bincode writes bodies only, with fixed-width integers,
//! a limit, and no trailing bytes (F9). A type's number and version never change their meaning.
//! Not here: what records mean.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Draft, Record, RecordBody};
use crate::RECORD_BODY_SIZE_MAX;
use crate::batch::domain_bytes;
use crate::bytes::{Fields, in_memory, is_zero, on_disk, salted_crc};
use crate::error::FormatError;
use crate::number::{DomainId, Id128, Lsn, Salt};

/// Size of a record's header in bytes.
pub const RECORD_HEADER_SIZE: usize = 48;

const CRC_OFFSET: usize = RECORD_HEADER_SIZE - 4;
const WHAT: &str = "record";

/// The version of every body that this program writes.
const BODY_VERSION: u16 = 1;

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

/// The table of record types: number on disk, name in text, payload.
macro_rules! record_types {
    ($($number:literal $name:literal $variant:ident $(($payload:ident))?,)+) => {
        impl RecordBody {
            /// Every type: its number on disk and its name.
            pub const TYPES: &'static [(u16, &'static str)] = &[$(($number, $name),)+];

            /// The number of its type on disk.
            #[must_use]
            pub const fn type_number(&self) -> u16 {
                match self { $(record_types!(@pattern $variant $($payload)?) => $number,)+ }
            }

            /// The name of its type.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self { $(record_types!(@pattern $variant $($payload)?) => $name,)+ }
            }
        }

        fn encode_body(body: &RecordBody) -> Result<Vec<u8>, FormatError> {
            match body {
                $(record_types!(@bind payload $variant $($payload)?) =>
                    encode(record_types!(@value payload $($payload)?), $name),)+
            }
        }

        fn decode_body(kind: u16, bytes: &[u8]) -> Option<Result<RecordBody, FormatError>> {
            match kind {
                $($number => Some(record_types!(@decode bytes $name $variant $($payload)?)),)+
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
        decode::<super::$payload>($bytes, $name).map(RecordBody::$variant)
    };
    (@decode $bytes:ident $name:literal $variant:ident) => {
        decode::<()>($bytes, $name).map(|()| RecordBody::$variant)
    };
}

record_types!(
    1 "checkpoint-begun" CheckpointBegun(CheckpointBegun),
    2 "checkpoint-ended" CheckpointEnded(CheckpointEnded),
    3 "domain-added" DomainAdded(DomainState),
    4 "domain-state" DomainState(DomainState),
    5 "domain-removed" DomainRemoved,
    6 "definition-part" DefinitionPart(DefinitionPart),
    7 "wanted-changed" WantedChanged(WantedChanged),
    8 "job-begun" JobBegun(JobBegun),
    9 "phase-entered" PhaseEntered(PhaseEntered),
    10 "effect-intended" EffectIntended(EffectIntended),
    11 "effect-finished" EffectFinished(EffectFinished),
    12 "qemu-observed" QemuObserved(QemuObserved),
    13 "peer-heard" PeerHeard(PeerHeard),
    14 "peer-prepared" PeerPrepared(PeerPrepared),
    15 "migration-granted" MigrationGranted(MigrationGranted),
    16 "migration-abandoned" MigrationAbandoned(MigrationAbandoned),
    17 "migration-committed" MigrationCommitted(MigrationCommitted),
    18 "migration-started" MigrationStarted(MigrationNamed),
    19 "migration-aborted" MigrationAborted(MigrationNamed),
    20 "outcome-learned" OutcomeLearned(OutcomeLearned),
    21 "decided" Decided(Decided),
    22 "operator-resolved" OperatorResolved(OperatorResolved),
    23 "job-ended" JobEnded(JobEnded),
    24 "migration-forgotten" MigrationForgotten(MigrationNamed),
    25 "migration-state" MigrationState(MigrationState),
    26 "sealed" Sealed,
);

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<{ RECORD_BODY_SIZE_MAX }>()
}

fn encode<T: Serialize>(payload: &T, kind: &'static str) -> Result<Vec<u8>, FormatError> {
    let too_large = FormatError::TooLarge {
        kind,
        size_max: RECORD_BODY_SIZE_MAX,
    };
    match bincode::serde::encode_to_vec(payload, configuration()) {
        Ok(bytes) if bytes.len() <= RECORD_BODY_SIZE_MAX => Ok(bytes),
        Ok(_) | Err(_) => Err(too_large),
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
    salt: &Salt,
    lsn: Lsn,
    previous: Option<Lsn>,
    draft: &Draft,
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let body = encode_body(&draft.body)?;
    append_record(
        salt,
        lsn,
        previous,
        draft.domain,
        draft.body.type_number(),
        &body,
        out,
    );
    Ok(())
}

/// Appends a record of any type; tests make a newer writer's with it.
pub(crate) fn append_record(
    salt: &Salt,
    lsn: Lsn,
    previous: Option<Lsn>,
    domain: Option<DomainId>,
    kind: u16,
    body: &[u8],
    out: &mut Vec<u8>,
) {
    let mut header = Vec::with_capacity(RECORD_HEADER_SIZE);
    header.extend(lsn.0.to_le_bytes());
    header.extend(previous.map_or(0, |previous| previous.0).to_le_bytes());
    header.extend(domain_bytes(domain));
    header.extend(kind.to_le_bytes());
    header.extend(BODY_VERSION.to_le_bytes());
    header.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    header.extend(salted_crc(salt, &[&lsn.0.to_le_bytes(), body]).to_le_bytes());
    debug_assert_eq!(header.len(), CRC_OFFSET);
    let crc = salted_crc(salt, &[&header]);
    header.extend(crc.to_le_bytes());
    out.extend(header);
    out.extend(body);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// A record's LSN and size in bytes, and the record or what is wrong with its body.
pub(crate) type DecodedRecord = (Lsn, usize, Result<Decoded, FormatError>);

/// Reads the record at the start of `bytes`.
///
/// # Errors
/// No record begins there, or its header is damaged.
pub(crate) fn decode_record(salt: &Salt, bytes: &[u8]) -> Result<DecodedRecord, FormatError> {
    let Some(header) = bytes.get(..RECORD_HEADER_SIZE) else {
        return Err(FormatError::TooShort { what: WHAT });
    };
    let crc = u32::from_le_bytes(Fields(&header[CRC_OFFSET..]).array());
    if salted_crc(salt, &[&header[..CRC_OFFSET]]) != crc {
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
    if salted_crc(salt, &[&lsn.0.to_le_bytes(), body]) != body_crc || !is_zero(padding) {
        return Ok((lsn, size, Err(FormatError::Checksum { what: WHAT })));
    }
    let known = (version == BODY_VERSION)
        .then(|| decode_body(kind, body))
        .flatten();
    let record = match known {
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

/// Bytes of a record on disk; for whoever fills batches.
#[must_use]
pub fn record_size(draft: &Draft) -> Option<u64> {
    let body = encode_body(&draft.body).ok()?;
    Some(on_disk(
        (RECORD_HEADER_SIZE + body.len()).next_multiple_of(8),
    ))
}
