//! A segment's damaged header, found again.
//! Invariant: a header counts as found only if its checksum is the one that the segment's first batch
//! names as what came before it, and that batch's own checksum fits with its salt: what is written is
//! then what stood there, to the bit (F3, F6).
//! Not here: reading and copying the file (`repair`).

use journal_format::BLOCK_SIZE;
use journal_format::batch::{BATCH_HEADER_SIZE, BatchHeader};
use journal_format::number::{
    Chain, Epoch, HostId, Id128, JournalId, Lsn, OpeningId, Salt, SegmentNumber,
};
use journal_format::segment::{SegmentEnd, SegmentHeader};

/// Where the salt lies in the header, in bytes.
const SALT: usize = 64;
/// Where the identities lie that nothing else may tell of: journal, host and opening.
const IDENTITIES: [usize; 3] = [16, 32, 96];
/// Bytes of a salt or an identity.
const ID_SIZE: usize = 16;

/// What the rest of the journal says of a segment.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    /// Headers of other segments of the journal.
    pub(super) others: Vec<SegmentHeader>,
    /// How the segment before ends.
    pub(super) before: Option<SegmentEnd>,
}

/// Finds the header of segment `number`, whose file begins with `bytes` and is `length` bytes long.
pub(super) fn find(
    number: SegmentNumber,
    length: u64,
    bytes: &[u8],
    context: &Context,
) -> Option<SegmentHeader> {
    let (block, rest) = bytes.split_at_checked(BLOCK_SIZE as usize)?;
    let first = rest.get(..BATCH_HEADER_SIZE as usize)?;
    // As it stands, and with any one bit the other way of what can be known from nowhere else.
    let unknown = IDENTITIES.into_iter().chain([SALT]);
    let bits = unknown.flat_map(|at| at * 8..(at + ID_SIZE) * 8);
    core::iter::once(None)
        .chain(bits.map(Some))
        .find_map(|bit| {
            let mut block = block.to_vec();
            if let Some(bit) = bit {
                block[bit / 8] ^= 1 << (bit % 8);
            }
            let salt = Salt(array(&block, SALT));
            let begin = SegmentHeader::batches_begin();
            let first = BatchHeader::decode(&salt, number, begin, first).ok()?;
            let mut possible = possible(number, length, &block, &first, context).into_iter();
            possible.find(|header| proven(header, &first))
        })
}

/// Does the first batch name this header?
fn proven(header: &SegmentHeader, first: &BatchHeader) -> bool {
    // What cannot be written is none, whatever its checksum.
    header.chain() == first.chain && SegmentHeader::decode(&header.encode()).as_ref() == Ok(header)
}

/// Every header that it may have been: its own fields, or what the rest of the journal says of them.
fn possible(
    number: SegmentNumber,
    length: u64,
    block: &[u8],
    first: &BatchHeader,
    context: &Context,
) -> Vec<SegmentHeader> {
    let own = SegmentHeader {
        journal: JournalId(id(block, 16)),
        host: HostId(id(block, 32)),
        number,
        size: u64::from_le_bytes(array(block, 56)),
        salt: Salt(array(block, SALT)),
        first: first.first,
        epoch: first.epoch,
        opening: OpeningId(id(block, 96)),
        before: None,
    };
    let own_before = SegmentEnd {
        number: SegmentNumber(u64::from_le_bytes(array(block, 112))),
        end: u64::from_le_bytes(array(block, 120)),
        chain: Chain(u32::from_le_bytes(array(block, 128))),
        last: Lsn(u64::from_le_bytes(array(block, 136))),
    };
    let others = &context.others;
    let journals = with(own.journal, others.first().map(|head| head.journal));
    let hosts = with(own.host, others.first().map(|head| head.host));
    let sizes = with(own.size, Some(length));
    let openings = with(own.opening, opening_of(own.epoch, others));
    // The last record before is the one before its own first, unless that was never found.
    let nearly = SegmentEnd {
        last: Lsn(own.first.0.saturating_sub(1)),
        ..own_before
    };
    let mut befores = vec![Some(own_before), Some(nearly), None];
    befores.extend(context.before.map(Some));
    let mut possible = Vec::new();
    for journal in &journals {
        for host in &hosts {
            for size in &sizes {
                for opening in &openings {
                    for before in &befores {
                        possible.push(SegmentHeader {
                            journal: *journal,
                            host: *host,
                            size: *size,
                            opening: *opening,
                            before: *before,
                            ..own
                        });
                    }
                }
            }
        }
    }
    possible
}

fn with<T: PartialEq>(own: T, other: Option<T>) -> Vec<T> {
    let mut all = vec![own];
    all.extend(other.filter(|other| *other != all[0]));
    all
}

/// The identity of the opening with this number, if another segment of it is there.
fn opening_of(epoch: Epoch, others: &[SegmentHeader]) -> Option<OpeningId> {
    let same = others.iter().find(|head| head.epoch == epoch);
    same.map(|head| head.opening)
}

fn id(block: &[u8], at: usize) -> Id128 {
    Id128(array(block, at))
}

/// The bytes at a place; zeros beyond the end, which a whole block does not have.
fn array<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    if let Some(bytes) = block.get(at..at + N) {
        array.copy_from_slice(bytes);
    }
    array
}
