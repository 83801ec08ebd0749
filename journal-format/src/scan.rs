//! The bytes of a segment to batches, damage and tail.
//!
//! Invariant: total over any bytes, in time and memory linear in their number. One batch at a time is
//! in flight, so a valid batch behind a bad one proves that the bad one was acknowledged (F11).
//! Not here: what follows from damage (the journal opens, the engine holds).

use std::collections::BTreeMap;

use crate::batch::{BATCH_HEADER_SIZE, BatchHeader, Placed, chain_after, read_content};
use crate::bytes::{Salted, in_memory, is_zero, on_disk};
use crate::error::FormatError;
use crate::number::{BootId, Chain, Id128, Lsn};
use crate::record::decode_record;
use crate::segment::{SegmentEnd, SegmentHeader};
use crate::{BATCH_SIZE_MAX, BLOCK_SIZE};

/// A batch that was read, whole or with damage inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its head.
    pub header: BatchHeader,
    /// Its head is lost, and perhaps those of others behind it: these are records that were found
    /// one by one (F23). `header` says where they lie and which LSNs they are among; its boot and times
    /// are those of the batch before, its checksums are zero.
    pub header_lost: bool,
    /// Its readable records.
    pub records: Vec<Placed>,
    /// The chain value after it.
    pub chain: Chain,
}

/// Bytes that were acknowledged and cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins, in bytes from the start of the segment.
    pub at: u64,
    /// Where it ends.
    pub until: u64,
    /// The first LSN that is lost.
    pub first: Lsn,
    /// The last LSN that is lost.
    pub last: Lsn,
    /// What is wrong.
    pub why: FormatError,
}

/// The end of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Only zeros follow.
    Clean,
    /// A batch that was being written when the writer died: never acknowledged (F12).
    Torn {
        /// Where it begins.
        at: u64,
    },
    /// Bytes that no torn write leaves: something was acknowledged here, or the file is not ours
    /// (F13).
    Corrupt {
        /// Where they begin.
        at: u64,
        /// What is wrong.
        why: FormatError,
    },
}

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Its head.
    pub header: SegmentHeader,
    /// Its batches, in order.
    pub batches: Vec<Batch>,
    /// What is damaged between them.
    pub damage: Vec<Damage>,
    /// Its end.
    pub tail: Tail,
    /// Where the last batch ends, in bytes from the start of the segment.
    pub end: u64,
    /// The chain value after the last batch.
    pub chain: Chain,
    /// The LSN after the last batch.
    pub next: Lsn,
}

/// A batch that begins at a place. Its content is looked at only where it matters: every block could
/// begin with a header, and each of them could name the same megabyte as its content.
struct Candidate<'a> {
    header: BatchHeader,
    chain: Chain,
    content: &'a [u8],
}

impl Candidate<'_> {
    /// A body that does not decode though all checksums are right was written so, and acknowledged:
    /// the batch is whole and the record is damaged (F9). Damage of the padding alone costs nothing, at
    /// the end of a segment either: a torn write of these records would not have left them all (F12).
    fn is_whole(&self, salted: &Salted) -> bool {
        salted.crc(&[self.content]) == self.header.content
    }
}

fn candidate<'a>(
    segment: &SegmentHeader,
    salted: &Salted,
    bytes: &'a [u8],
    at: usize,
) -> Result<Candidate<'a>, FormatError> {
    let rest = bytes.get(at..).unwrap_or_default();
    let header = BatchHeader::decode_salted(salted, segment.number, on_disk(at), rest)?;
    let size = usize::try_from(header.size()).unwrap_or(usize::MAX);
    let begin = in_memory(BATCH_HEADER_SIZE);
    let end = begin + in_memory(header.length);
    let (Some(content), Some(_)) = (rest.get(begin..end), rest.get(end..size)) else {
        return Err(FormatError::TooShort { what: "batch" });
    };
    Ok(Candidate {
        header,
        chain: chain_after(rest),
        content,
    })
}

/// Reads a whole segment file.
///
/// # Errors
/// Only if its head cannot be read: without the salt nothing in it can be told.
pub fn scan(bytes: &[u8]) -> Result<Scan, FormatError> {
    scan_until(bytes, None)
}

/// The same, knowing what the next segment says of this one's end: what lies before it was
/// acknowledged (F20).
///
/// # Errors
/// As [`scan`].
pub fn scan_until(bytes: &[u8], known: Option<&SegmentEnd>) -> Result<Scan, FormatError> {
    let header = SegmentHeader::of_bytes(bytes)?;
    Ok(scan_with(header, bytes, known))
}

/// The same, with the header that was found at one of its two places (F24).
#[must_use]
pub fn scan_with(header: SegmentHeader, bytes: &[u8], known: Option<&SegmentEnd>) -> Scan {
    // Behind that is the header's copy, and nothing of the segment's beyond its size (F4, F24).
    let end = usize::try_from(header.batches_end()).unwrap_or(usize::MAX);
    let bytes = &bytes[..bytes.len().min(end)];
    let mut scan = Scan {
        header,
        batches: Vec::new(),
        damage: Vec::new(),
        tail: Tail::Clean,
        end: SegmentHeader::batches_begin(),
        chain: header.chain(),
        next: header.first,
    };
    let salted = &Salted::new(&header.salt);
    let block = in_memory(BLOCK_SIZE);
    let used = bytes
        .chunks(block)
        .rposition(|block| !is_zero(block))
        .map_or(0, |last| bytes.len().min((last + 1) * block));
    let mut at = block;
    // Where a bad stretch began, and what was wrong there.
    let mut bad: Option<(usize, Bad<'_>)> = None;
    while at < used {
        match candidate(&header, salted, bytes, at) {
            Ok(found) if follows(&scan, &found, bad.as_ref()) && found.is_whole(salted) => {
                if let Some((begun, what)) = bad.take() {
                    let stretch = Stretch {
                        bytes: &bytes[..at],
                        begun,
                        before: found.header.first,
                    };
                    close(&mut scan, salted, &stretch, what);
                }
                at += usize::try_from(found.header.size()).unwrap_or(usize::MAX);
                push(&mut scan, salted, &found);
            }
            Ok(found) if bad.is_none() => {
                if follows(&scan, &found, None) {
                    // Its head is whole: where the next one begins is known.
                    let size = usize::try_from(found.header.size()).unwrap_or(usize::MAX);
                    bad = Some((at, Bad::Damaged(found, None)));
                    at += size;
                } else {
                    bad = Some((at, Bad::Nothing(FormatError::OutOfPlace)));
                    at += block;
                }
            }
            Err(why) if bad.is_none() => {
                bad = Some((at, Bad::Nothing(why)));
                at += block;
            }
            other => {
                if let Some((_, Bad::Damaged(_, behind @ None))) = &mut bad {
                    *behind = Some(other.err().unwrap_or(FormatError::OutOfPlace));
                }
                at += block;
            }
        }
    }
    if let Some((begun, what)) = bad {
        let until = known.and_then(|end| usize::try_from(end.end).ok());
        let until = until.filter(|until| (begun + 1..=bytes.len()).contains(until));
        let before = known.and_then(|end| end.last.next());
        match (until, before) {
            (Some(until), Some(before)) if before > scan.next && what.ends_before(before) => {
                let stretch = Stretch {
                    bytes: &bytes[..until],
                    begun,
                    before,
                };
                close(&mut scan, salted, &stretch, what);
            }
            _ => scan.tail = tail(begun, &what, used),
        }
    }
    scan
}

/// A bad stretch that was acknowledged.
struct Stretch<'a> {
    /// The segment up to its end.
    bytes: &'a [u8],
    /// Where it begins.
    begun: usize,
    /// The LSN behind it.
    before: Lsn,
}

/// What stands at the begin of a bad stretch.
enum Bad<'a> {
    /// No batch that could be there.
    Nothing(FormatError),
    /// The right batch with a whole head and a damaged content, and what is wrong behind it.
    Damaged(Candidate<'a>, Option<FormatError>),
}

impl Bad<'_> {
    /// Does nothing that is known of it say that it reaches that LSN?
    fn ends_before(&self, before: Lsn) -> bool {
        match self {
            Bad::Nothing(_) => true,
            Bad::Damaged(found, _) => found.header.last() < before,
        }
    }
}

/// Is that the next batch? Behind a stretch without a batch the chain cannot be followed, only the
/// order; a damaged content leaves the chain as it is (F6, F7).
fn follows(scan: &Scan, found: &Candidate<'_>, behind: Option<&(usize, Bad<'_>)>) -> bool {
    let Candidate { header, .. } = found;
    let in_order = match behind {
        None => header.first == scan.next && header.chain == scan.chain,
        Some((_, Bad::Nothing(_))) => header.first > scan.next,
        Some((_, Bad::Damaged(damaged, _))) => {
            let last = damaged.header.last();
            let next = last.next() == Some(header.first);
            header.first > last && (!next || header.chain == damaged.chain)
        }
    };
    in_order && header.epoch == scan.header.epoch
}

/// Takes a batch, and tells of the records in it that are not readable.
fn push(scan: &mut Scan, salted: &Salted, found: &Candidate<'_>) {
    let content = read_content(salted, &found.header, found.content);
    scan.end = found.header.offset + found.header.size();
    let checksum = FormatError::Checksum { what: "batch" };
    let why = content.why.unwrap_or(checksum);
    for (first, last) in runs(&content.lost) {
        scan.damage.push(Damage {
            at: found.header.offset,
            until: scan.end,
            first,
            last,
            why: why.clone(),
        });
    }
    scan.chain = found.chain;
    scan.next = Lsn(found.header.last().0.saturating_add(1));
    scan.batches.push(Batch {
        header: found.header,
        header_lost: false,
        records: content.records,
        chain: found.chain,
    });
}

/// A bad stretch that was acknowledged, since a valid batch lies behind it or the next segment says so.
fn close(scan: &mut Scan, salted: &Salted, stretch: &Stretch<'_>, what: Bad<'_>) {
    match what {
        Bad::Nothing(why) => salvage(scan, salted, stretch, why),
        Bad::Damaged(found, behind) => {
            let end = found.header.offset + found.header.size();
            push(scan, salted, &found);
            if stretch.before > scan.next {
                let rest = Stretch {
                    begun: usize::try_from(end).unwrap_or(usize::MAX),
                    ..*stretch
                };
                salvage(
                    scan,
                    salted,
                    &rest,
                    behind.unwrap_or(FormatError::OutOfPlace),
                );
            }
        }
    }
}

/// Finds the records of a stretch whose batches cannot be told: each vouches for itself, wherever in
/// the stretch it lies (F23).
fn salvage(scan: &mut Scan, salted: &Salted, stretch: &Stretch<'_>, why: FormatError) {
    let Stretch {
        bytes,
        begun,
        before,
    } = *stretch;
    let mut found = BTreeMap::new();
    let mut at = begun;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match decode_record(salted, rest) {
            Ok((lsn, size, Ok(record))) if (scan.next..before).contains(&lsn) => {
                let offset = on_disk(at);
                found.entry(lsn).or_insert(Placed { offset, record });
                at += size;
            }
            _ => at += 8,
        }
    }
    let first = scan.next;
    let lose = |scan: &mut Scan, from: Lsn, until: Lsn| {
        if from < until {
            scan.damage.push(Damage {
                at: on_disk(begun),
                until: on_disk(bytes.len()),
                first: from,
                last: Lsn(until.0 - 1),
                why: why.clone(),
            });
        }
    };
    let mut expected = first;
    for lsn in found.keys() {
        lose(scan, expected, *lsn);
        expected = Lsn(lsn.0 + 1);
    }
    lose(scan, expected, before);
    scan.end = on_disk(bytes.len());
    scan.next = before;
    if found.is_empty() {
        return;
    }
    let before_it = scan.batches.last().map(|batch| &batch.header);
    let header = BatchHeader {
        first,
        records: u32::try_from(before.0 - first.0).unwrap_or(u32::MAX),
        length: u32::try_from(bytes.len() - begun)
            .unwrap_or(u32::MAX)
            .saturating_sub(BATCH_HEADER_SIZE),
        epoch: scan.header.epoch,
        chain: Chain(0),
        boot: before_it.map_or(BootId(Id128::NIL), |header| header.boot),
        wall: before_it.map_or(0, |header| header.wall),
        monotonic: before_it.map_or(0, |header| header.monotonic),
        segment: scan.header.number,
        offset: on_disk(begun),
        content: 0,
    };
    scan.batches.push(Batch {
        header,
        header_lost: true,
        records: found.into_values().collect(),
        chain: Chain(0),
    });
}

/// Consecutive LSNs as ranges.
fn runs(lost: &[Lsn]) -> Vec<(Lsn, Lsn)> {
    let mut runs: Vec<(Lsn, Lsn)> = Vec::new();
    for lsn in lost {
        match runs.last_mut() {
            Some((_, last)) if last.next() == Some(*lsn) => *last = *lsn,
            _ => runs.push((*lsn, *lsn)),
        }
    }
    runs
}

/// The bad stretch is the last: torn if nothing lies beyond what one batch could have reached.
fn tail(begun: usize, what: &Bad<'_>, used: usize) -> Tail {
    let at = on_disk(begun);
    let (furthest, why) = match what {
        Bad::Damaged(found, _) => (
            at + found.header.size(),
            FormatError::Checksum { what: "batch" },
        ),
        Bad::Nothing(why) => (at + u64::from(BATCH_SIZE_MAX), why.clone()),
    };
    let placed_elsewhere = matches!(what, Bad::Nothing(FormatError::OutOfPlace));
    if on_disk(used) <= furthest && !placed_elsewhere {
        Tail::Torn { at }
    } else {
        Tail::Corrupt { at, why }
    }
}
