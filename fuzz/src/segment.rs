//! One segment that was written as it should be, and what a disk may make of it: what was not hit is
//! found, what was hit is told, and nothing is found that was not written.

use core::ops::Range;

use journal_format::batch::{BatchBuilder, BatchHeader};
use journal_format::number::{BootId, Chain, DomainId, Id128, Lsn};
use journal_format::record::{
    Decoded, DefinitionPart, Draft, Phase, PhaseEntered, Record, RecordBody,
};
use journal_format::scan::{Scan, Tail, scan, scan_until};
use journal_format::segment::{SegmentEnd, SegmentHeader};

use super::bytes::Bytes;
use super::scan::{self, BLOCK, SALT};

/// A disk loses or mixes up bytes in units of this size.
const SECTOR: usize = 512;
/// The segment's size in bytes.
const SIZE: usize = 64 * 1024;

/// A segment as it was written.
struct Sound {
    header: SegmentHeader,
    file: Vec<u8>,
    /// Where each batch lies, and the LSNs of its records.
    batches: Vec<(Range<usize>, Range<u64>)>,
    records: Vec<Record>,
    chain: Chain,
    next: Lsn,
}

/// What is written, and what becomes of it, is drawn from the bytes.
///
/// # Panics
/// When something is lost that need not be, is not told of, or is not what was written.
pub fn run(bytes: &[u8]) {
    let mut choices = Bytes::new(bytes);
    let sound = written(&mut choices);
    let mut file = sound.file.clone();
    for _ in 0..choices.below(5) {
        damage(&mut choices, &mut file);
    }
    scan::check(&file);
    let whole_head = |at: usize| file.get(at..at + BLOCK) == Some(&sound.file[..BLOCK]);
    let copy = sound.file.len() - BLOCK;
    let readable = whole_head(0) || whole_head(copy) && file.len() == sound.file.len();
    match scan(&file) {
        Ok(found) => judge(&sound, &file, &found),
        Err(error) => assert!(!readable, "{error}"),
    }
}

fn draft(choices: &mut Bytes<'_>) -> Draft {
    let domain = Some(DomainId(Id128([1 + choices.byte() % 3; 16])));
    let body = match choices.below(4) {
        0 => RecordBody::Sealed,
        1 => RecordBody::PhaseEntered(PhaseEntered {
            job: Lsn(u64::from(choices.byte())),
            phase: choices.pick(Phase::ALL),
        }),
        _ => RecordBody::DefinitionPart(DefinitionPart {
            first: Lsn(1),
            index: 0,
            count: 1,
            text: "x".repeat(choices.number() % 4096),
        }),
    };
    Draft { domain, body }
}

fn written(choices: &mut Bytes<'_>) -> Sound {
    let header = scan::header();
    assert_eq!(header.size, SIZE as u64);
    let (mut file, mut chain, mut next) = (header.encode(), header.chain(), header.first);
    let (mut batches, mut records) = (Vec::new(), Vec::new());
    for _ in 0..choices.below(8) {
        let begun = BatchHeader {
            first: next,
            records: 0,
            length: 0,
            epoch: header.epoch,
            chain,
            boot: BootId(Id128([9; 16])),
            wall: 7,
            monotonic: 3,
            segment: header.number,
            offset: file.len() as u64,
            content: 0,
        };
        let mut builder = BatchBuilder::new(SALT, begun);
        for _ in 0..=choices.below(5) {
            let draft = draft(choices);
            let lsn = builder.next_lsn();
            builder.push(&draft, None).expect("five small records fit");
            records.push(Record {
                lsn,
                domain: draft.domain,
                previous: None,
                body: draft.body,
            });
        }
        let after = builder.next_lsn();
        let (bytes, chain_after) = builder.finish();
        // The last block is the header's copy.
        if file.len() + bytes.len() + BLOCK > SIZE {
            records.retain(|record| record.lsn < next);
            break;
        }
        let begin = file.len();
        file.extend(bytes);
        batches.push((begin..file.len(), next.0..after.0));
        (next, chain) = (after, chain_after);
    }
    file.resize(SIZE - BLOCK, 0);
    file.extend(header.encode());
    Sound {
        header,
        file,
        batches,
        records,
        chain,
        next,
    }
}

/// One fault of a disk.
fn damage(choices: &mut Bytes<'_>, file: &mut Vec<u8>) {
    if file.len() < 2 * SECTOR {
        return;
    }
    let sectors = file.len() / SECTOR;
    let sector = |choices: &mut Bytes<'_>| choices.number() % sectors;
    match choices.below(6) {
        0 => {
            let at = choices.number() % file.len();
            file[at] ^= choices.byte();
        }
        1 => {
            let at = sector(choices) * SECTOR;
            let end = (at + (1 + choices.below(16)) * SECTOR).min(file.len());
            file[at..end].fill(choices.pick(&[0, 0xff]));
        }
        2 => {
            let (from, to) = (sector(choices) * SECTOR, sector(choices) * SECTOR);
            file.copy_within(from..from + SECTOR, to);
        }
        3 => {
            let blocks = file.len() / BLOCK;
            if blocks > 0 {
                let from = choices.below(blocks) * BLOCK;
                let to = choices.below(blocks) * BLOCK;
                file.copy_within(from..from + BLOCK, to);
            }
        }
        4 => {
            let length = choices.number() % file.len();
            file.truncate(length);
        }
        _ => {
            let at = choices.number() % file.len();
            for (place, byte) in file[at..].iter_mut().zip(choices.rest().iter().take(64)) {
                *place = *byte;
            }
        }
    }
}

fn judge(sound: &Sound, file: &[u8], found: &Scan) {
    only_what_was_written(sound, found);
    // A batch that was not hit is there with all its records.
    for (place, lsns) in &sound.batches {
        if file.get(place.clone()) == Some(&sound.file[place.clone()]) {
            for lsn in lsns.clone() {
                assert!(has(found, Lsn(lsn)), "{lsn} was not hit and is lost");
            }
        }
    }
    // What is missing at the end can be taken for what was never written only if nothing is left of it.
    if found.next < sound.next && found.tail == Tail::Clean {
        let end = usize::try_from(found.end).unwrap_or(usize::MAX);
        let rest = file.get(end..sound.file.len() - BLOCK).unwrap_or(&[]);
        assert!(rest.iter().all(|byte| *byte == 0));
    }
    // Who knows the end misses nothing of what is there, and sees that there should be more.
    let end = SegmentEnd {
        number: sound.header.number,
        end: sound.batches.last().map_or(BLOCK, |(place, _)| place.end) as u64,
        chain: sound.chain,
        last: Lsn(sound.next.0 - 1),
    };
    let settled = scan_until(file, Some(&end)).expect("its head was read before");
    only_what_was_written(sound, &settled);
    let is_short = settled.next < sound.next && settled.end < end.end;
    assert!(is_short || settled.next == sound.next, "{settled:?}");
    let told = |lsn: u64| {
        let mut damage = settled.damage.iter();
        has(&settled, Lsn(lsn)) || damage.any(|lost| lost.first.0 <= lsn && lsn <= lost.last.0)
    };
    for lsn in sound.header.first.0..settled.next.0 {
        assert!(told(lsn), "{lsn} is dropped in silence");
    }
}

fn has(found: &Scan, lsn: Lsn) -> bool {
    let mut records = found.batches.iter().flat_map(|batch| &batch.records);
    records.any(|placed| placed.record.lsn() == lsn)
}

fn only_what_was_written(sound: &Sound, found: &Scan) {
    for placed in found.batches.iter().flat_map(|batch| &batch.records) {
        let Decoded::Known(record) = &placed.record else {
            panic!("{:?} was never written", placed.record);
        };
        assert!(
            sound.records.contains(record),
            "{record:?} was never written"
        );
    }
}
