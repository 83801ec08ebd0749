//! The index's keys and values as bytes.
//! Invariant: keys of one kind sort as the numbers in them do; what does not decode is `None`, never a
//! guess.
//! Not here: the store (`store`), what a key is good for (`index`).

use journal_format::number::{DomainId, Id128, JournalId, Lsn, MigrationId, SegmentNumber};

use super::{BatchPlace, Meta, Place};

/// The version of the keys and values; another one is made anew.
const INDEX_VERSION: u8 = 3;

/// The key of what the index is of, and how far it has read.
pub(super) const META_KEY: &[u8] = b"!meta";
/// Keys of batches: this, the first LSN.
pub(super) const BATCH: u8 = b'b';
/// Keys of records by domain: this, the domain, the LSN.
pub(super) const BY_DOMAIN: u8 = b'd';
/// Keys of the jobs of effects: this, the effect.
const JOB_OF_EFFECT: u8 = b'e';
/// Keys of records by job: this, the job, the LSN.
pub(super) const BY_JOB: u8 = b'j';
/// Keys of the jobs of migrations: this, the migration.
const JOB_OF_MIGRATION: u8 = b'm';
/// Keys of domains by name: this, the name, a zero, the domain.
const BY_NAME: u8 = b'n';
/// Keys of batches by time: this, the time. Only of those that are later than all before them.
const AT_TIME: u8 = b't';

/// A version, a journal, two numbers and a chain value.
const META_SIZE: usize = 1 + 16 + 8 + 8 + 4;

/// The keys of a kind that has a number for all it is told apart by.
pub(super) const BATCHES: std::ops::Range<[u8; 1]> = [BATCH]..[BATCH + 1];
/// See [`BATCHES`].
pub(super) const TIMES: std::ops::Range<[u8; 1]> = [AT_TIME]..[AT_TIME + 1];

/// A number as bytes that sort as the number does.
#[allow(clippy::big_endian_bytes, reason = "keys are compared byte by byte")]
pub(super) fn sortable(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

#[allow(clippy::big_endian_bytes, reason = "the inverse of `sortable`")]
pub(super) fn unsortable(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn key(kind: u8, of: &[u8], lsn: &[u8]) -> Vec<u8> {
    [&[kind], of, lsn].concat()
}

pub(super) fn batch_key(first: Lsn) -> Vec<u8> {
    key(BATCH, &[], &sortable(first.0))
}

pub(super) fn time_key(wall: u64) -> Vec<u8> {
    key(AT_TIME, &[], &sortable(wall))
}

pub(super) fn domain_key(domain: DomainId, lsn: Lsn) -> Vec<u8> {
    key(BY_DOMAIN, &domain.0.0, &sortable(lsn.0))
}

pub(super) fn job_key(job: Lsn, lsn: Lsn) -> Vec<u8> {
    key(BY_JOB, &sortable(job.0), &sortable(lsn.0))
}

pub(super) fn migration_key(migration: MigrationId) -> Vec<u8> {
    key(JOB_OF_MIGRATION, &migration.0.0, &[])
}

pub(super) fn effect_key(effect: Lsn) -> Vec<u8> {
    key(JOB_OF_EFFECT, &sortable(effect.0), &[])
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

/// The value of a migration or an effect: its job, and the record that says so.
pub(super) fn encode_job(job: Lsn, named: Lsn) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&job.0.to_le_bytes());
    value[8..].copy_from_slice(&named.0.to_le_bytes());
    value
}

/// The job in such a value.
pub(super) fn decode_job(value: &[u8]) -> Option<Lsn> {
    Some(Lsn(number(value.get(..8)?)?))
}

/// The newest record that an entry needs: when the journal has let that go, the entry may go. `None`
/// for the keys that are looked after otherwise.
pub(super) fn needs(key: &[u8], value: &[u8]) -> Option<Lsn> {
    let (kind, rest) = key.split_first()?;
    match *kind {
        BY_DOMAIN | BY_JOB => Some(decode_place(key, value)?.lsn),
        BATCH => Some(decode_batch(key, value)?.last),
        JOB_OF_EFFECT => Some(Lsn(unsortable(rest)?)),
        JOB_OF_MIGRATION => Some(Lsn(number(value.get(8..)?)?)),
        // The newest record that says so.
        BY_NAME => Some(Lsn(number(value)?)),
        _ => None,
    }
}

/// The time in a key by time.
pub(super) fn decode_time_key(key: &[u8]) -> Option<u64> {
    match key.split_first()? {
        (&AT_TIME, time) => unsortable(time),
        (_, _) => None,
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

pub(super) fn encode_batch(place: &BatchPlace) -> Vec<u8> {
    let numbers = [place.last.0, place.segment.0, place.offset, place.wall];
    numbers.map(u64::to_le_bytes).concat()
}

/// The batch that a key and its value tell of; `None` for other keys.
pub(super) fn decode_batch(key: &[u8], value: &[u8]) -> Option<BatchPlace> {
    let (&BATCH, first) = key.split_first()? else {
        return None;
    };
    Some(BatchPlace {
        first: Lsn(unsortable(first)?),
        last: Lsn(number(value.get(..8)?)?),
        segment: SegmentNumber(number(value.get(8..16)?)?),
        offset: number(value.get(16..24)?)?,
        wall: number(value.get(24..)?)?,
    })
}

pub(super) fn encode_place(segment: SegmentNumber, offset: u64, kind: u16) -> Vec<u8> {
    [
        &segment.0.to_le_bytes()[..],
        &offset.to_le_bytes(),
        &kind.to_le_bytes(),
    ]
    .concat()
}

/// The place that a key and its value tell of; `None` for other keys.
pub(super) fn decode_place(key: &[u8], value: &[u8]) -> Option<Place> {
    let (kind, rest) = key.split_first()?;
    let of = match *kind {
        BY_DOMAIN => size_of::<DomainId>(),
        BY_JOB => size_of::<Lsn>(),
        _ => return None,
    };
    Some(Place {
        lsn: Lsn(unsortable(rest.get(of..)?)?),
        segment: SegmentNumber(number(value.get(..8)?)?),
        offset: number(value.get(8..16)?)?,
        kind: u16::from_le_bytes(value.get(16..)?.try_into().ok()?),
    })
}

pub(super) fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut bytes = vec![INDEX_VERSION];
    bytes.extend(meta.journal.0.0);
    bytes.extend(meta.last.0.to_le_bytes());
    bytes.extend(meta.segment.0.to_le_bytes());
    bytes.extend(meta.chain.to_le_bytes());
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
        chain: u32::from_le_bytes(bytes.get(33..37)?.try_into().ok()?),
    })
}
