//! The correctness table: what becomes of 1,000 acknowledged records when the bytes under them are
//! damaged. Prints itself:
//! `cargo nextest run -p phase-journal --lib --success-output immediate the_correctness_table`.

#![allow(clippy::cast_possible_truncation, reason = "places in small files")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;

use journal_format::record::DefinitionPart;
use journal_format::scan::scan;

use super::super::verify::{Verdict, verify};
use super::*;

const RECORDS: u64 = 1000;
/// Single-bit flips of the journal below; the others have fewer cases.
const FLIPS: usize = 2000;
const EVERY_CASE: &str = "many segments, sealed";
/// The journal is also opened in one of so many cases.
const OPENING_EVERY: usize = 10;
const SECTOR: usize = testing::SECTOR_SIZE;
const BLOCK: usize = 4096;

/// Numbers that depend on the seed alone (an LCG's upper half).
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((self.0 >> 33) as usize) % limit
    }
}

/// Where a record lies: its segment's file, and its bytes there.
type Lies = (String, Range<usize>);

/// A journal and what was acknowledged in it.
struct Truth {
    disk: TestDisk,
    records: BTreeMap<Lsn, Decoded>,
    places: BTreeMap<Lsn, Lies>,
    /// Nothing proves the last batch as acknowledged: its records.
    unproven: Vec<Lsn>,
}

/// A body of random size, from a phase to a definition's part.
fn any_draft(tag: u64, draw: &mut Draw) -> Draft {
    if draw.below(3) == 0 {
        return draft(tag);
    }
    let text = match draw.below(4) {
        0 => planted(tag).repeat(draw.below(8)),
        _ => "<a definition/>".repeat(draw.below(60)),
    };
    let part = DefinitionPart {
        first: Lsn(tag),
        index: 0,
        count: 1,
        text,
    };
    Draft {
        domain: Some(domain((tag % 3) as u8 + 1)),
        body: RecordBody::DefinitionPart(part),
    }
}

/// What a guest's definition may hold: a batch's header and a record's, as far as text can be one, where
/// a reader that lost its place looks for them.
fn planted(tag: u64) -> String {
    let lsn = char::from(u8::try_from(tag % 120).unwrap());
    // The text begins 4 bytes before a multiple of 8.
    let batch = format!("    PHJB`\0\0\0{lsn}\0\0\0\0\0\0\0\x01\0\0\0@\0\0\0\x01\0\0\0");
    let record = format!(
        "{lsn}\0\0\0\0\0\0\0{}\x07\0\x01\0\x08\0\0\0",
        "\0".repeat(24)
    );
    format!("{batch:\0<100}{record:\0<60}")
}

/// 1,000 records in batches of 1 to 40, the process killed; sealed if it was idle before.
fn truth(segment_size: u64, is_sealed: bool, seed: u64) -> Truth {
    let options = OpenOptions {
        first_segment_size: segment_size,
        segment_size,
        ..options()
    };
    let place = Place::new();
    let mut log = begin(place.open_with(&options).unwrap()).unwrap();
    let mut draw = Draw(seed);
    let mut tag = 0;
    let mut last_batch = log.next_lsn();
    while tag < RECORDS {
        let size = (draw.below(40) as u64 + 1).min(RECORDS - tag);
        let drafts: Vec<Draft> = (tag..tag + size)
            .map(|tag| any_draft(tag, &mut draw))
            .collect();
        if log.must_roll() {
            roll(&mut log).unwrap();
        }
        last_batch = log.next_lsn();
        let _ = log.append(&drafts, NOW, ()).unwrap();
        tag += size;
    }
    let end = log.next_lsn();
    if is_sealed {
        let seal = Draft {
            domain: None,
            body: RecordBody::Sealed,
        };
        let _ = log.append(&[seal], NOW, ()).unwrap();
    }
    place.journal.restart(Survival::Everything);
    let mut truth = Truth {
        disk: place.journal,
        records: BTreeMap::new(),
        places: BTreeMap::new(),
        unproven: Vec::new(),
    };
    for name in files(&truth.disk) {
        for batch in scan(&truth.disk.read(&name).unwrap()).unwrap().batches {
            for (index, placed) in batch.records.iter().enumerate() {
                let begin = placed.offset as usize;
                let next = batch.records.get(index + 1).map(|next| next.offset);
                let content = batch.header.offset + 96 + u64::from(batch.header.length);
                let range = begin..next.unwrap_or(content) as usize;
                let lsn = placed.record.lsn();
                truth.places.insert(lsn, (name.clone(), range));
                truth.records.insert(lsn, placed.record.clone());
            }
        }
    }
    let is_unproven = |lsn: &Lsn| match is_sealed {
        true => *lsn >= end,
        false => *lsn >= last_batch,
    };
    truth.unproven = truth.records.keys().copied().filter(is_unproven).collect();
    truth
}

fn is_seal(record: &Decoded) -> bool {
    matches!(record, Decoded::Known(record) if record.body == RecordBody::Sealed)
}

fn files(disk: &TestDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    names
}

/// Bytes from the header to the last batch.
fn used(bytes: &[u8]) -> usize {
    let batches = &bytes[..bytes.len() - BLOCK];
    let last = batches.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| (last + 1).next_multiple_of(BLOCK))
}

/// A row of the table.
#[derive(Default)]
struct Row {
    cases: usize,
    silent: usize,
    wrong: usize,
    refused: usize,
    /// Acknowledged batches that nothing can tell from a torn write.
    untellable: usize,
    undamaged: usize,
    read: usize,
}

impl Row {
    /// Damages one file and judges what is read then. `is_torn`: it is what a crash in the last write
    /// leaves, which was never acknowledged.
    fn case(&mut self, truth: &Truth, name: &str, bytes: Vec<u8>, is_torn: bool, about: &str) {
        let before = truth.disk.read(name).unwrap();
        let end = used(&before);
        // Nothing is left behind the damage: several batches and all that proved them are gone.
        let first_hit = before
            .iter()
            .zip(&bytes)
            .position(|(one, other)| one != other);
        let reaches_end = !is_torn
            && name == files(&truth.disk).last().map_or("", String::as_str)
            && first_hit.is_some_and(|first| {
                first < end && bytes[first..end].iter().all(|byte| *byte == 0)
            });
        let is_hit = |range: &Range<usize>| before.get(range.clone()) != bytes.get(range.clone());
        let hit: BTreeSet<Lsn> = truth
            .places
            .iter()
            .filter(|(_, (file, range))| file == name && is_hit(range))
            .map(|(lsn, _)| *lsn)
            .collect();
        let disk = truth.disk.copy();
        disk.put(name, bytes);
        self.cases += 1;

        let mut found = BTreeMap::new();
        let mut gaps = Vec::new();
        let mut reader = Reader::open(disk.clone()).unwrap();
        for entry in reader.by_ref() {
            match entry.unwrap() {
                Entry::Gap(gap) => gaps.push((gap.first, gap.last)),
                Entry::Batch(batch) => {
                    for placed in batch.records {
                        let lsn = placed.record.lsn();
                        // Shown twice, or out of order.
                        let is_in_order =
                            found.last_key_value().is_none_or(|(last, _)| *last < lsn);
                        self.wrong += usize::from(!is_in_order);
                        found.insert(lsn, placed.record);
                    }
                }
            }
        }
        self.wrong += found
            .iter()
            .filter(|(lsn, record)| truth.records.get(lsn) != Some(record))
            .count();
        let is_told = |lsn: &Lsn| gaps.iter().any(|(first, last)| first <= lsn && lsn <= last);
        let missing: Vec<Lsn> = truth
            .records
            .keys()
            .filter(|lsn| !found.contains_key(lsn))
            .copied()
            .collect();
        let is_seal = |lsn: &Lsn| truth.records.get(lsn).is_some_and(is_seal);
        let silent: Vec<&Lsn> = missing
            .iter()
            .filter(|lsn| !is_told(lsn) && !is_seal(lsn))
            .collect();
        if silent.iter().all(|lsn| truth.unproven.contains(lsn)) || reaches_end {
            // A torn batch was never acknowledged.
            self.untellable += usize::from(!silent.is_empty() && !is_torn);
        } else {
            self.silent += 1;
            println!("{about}: {silent:?} are missing in silence");
        }
        for lsn in truth.records.keys() {
            let is_unproven = truth.unproven.contains(lsn);
            if !hit.contains(lsn) && !is_unproven && !reaches_end {
                self.undamaged += 1;
                self.read += usize::from(found.contains_key(lsn));
            }
        }
        if is_torn && (!gaps.is_empty() || reader.ending() == Ending::Damaged) {
            self.refused += 1;
            println!("{about}: a torn tail is damage");
        }
        if self.cases.is_multiple_of(OPENING_EVERY) || is_torn {
            self.check_opening(disk, &found, is_torn, about);
        }
    }

    /// An opening goes on beside the damage, and nothing that was read is lost by it.
    fn check_opening(
        &mut self,
        disk: TestDisk,
        found: &BTreeMap<Lsn, Decoded>,
        is_torn: bool,
        about: &str,
    ) {
        let opened = match Resumed::open(disk.clone(), None, &options()) {
            Ok(opened) => opened,
            // Nothing is lost where nothing is touched; only a torn tail must never be refused.
            Err(error) => {
                self.refused += usize::from(is_torn);
                println!("{about}: not opened: {error}");
                return;
            }
        };
        drop(begin(opened).unwrap());
        let after: BTreeSet<Lsn> = Reader::open(disk)
            .unwrap()
            .flat_map(|entry| match entry.unwrap() {
                Entry::Batch(batch) => batch.records,
                Entry::Gap(_) => Vec::new(),
            })
            .map(|placed| placed.record.lsn())
            .collect();
        if let Some(lost) = found.keys().find(|lsn| !after.contains(lsn)) {
            self.silent += 1;
            println!("{about}: lsn {lost} is lost by an opening");
        }
    }
}

/// Single bits of the used bytes; those of segment headers in a row of their own.
fn flips(truth: &Truth, count: usize, seed: u64) -> (Row, Row) {
    let mut rows = (Row::default(), Row::default());
    let mut draw = Draw(seed);
    let sizes: Vec<(String, usize)> = files(&truth.disk)
        .into_iter()
        .map(|name| {
            let used = used(&truth.disk.read(&name).unwrap());
            // And the header's copy.
            (name, used + BLOCK)
        })
        .collect();
    let total: usize = sizes.iter().map(|(_, used)| used).sum();
    for _ in 0..count {
        let mut at = draw.below(total);
        let bit = draw.below(8);
        for (name, used) in &sizes {
            if at < *used {
                let mut bytes = truth.disk.read(name).unwrap();
                let is_copy = at >= used - BLOCK;
                if is_copy {
                    at = bytes.len() - BLOCK + (at + BLOCK - used);
                }
                bytes[at] ^= 1 << bit;
                let about = format!("{name}: bit {bit} of {at}");
                let is_header = at < BLOCK || is_copy;
                let row = if is_header { &mut rows.1 } else { &mut rows.0 };
                row.case(truth, name, bytes, false, &about);
                break;
            }
            at -= used;
        }
    }
    rows
}

/// The last batch torn at every sector: the first sectors on the disk, the last ones, or some.
fn torn(truth: &Truth) -> Row {
    let mut row = Row::default();
    let name = files(&truth.disk).pop().unwrap();
    let bytes = truth.disk.read(&name).unwrap();
    let last = scan(&bytes).unwrap().batches.pop().unwrap();
    let begin = last.header.offset as usize;
    let end = begin + last.header.size() as usize;
    let mut draw = Draw(7);
    for sectors in 0..(end - begin) / SECTOR {
        let cut = begin + sectors * SECTOR;
        let mut prefix = bytes.clone();
        prefix[cut..end].fill(0);
        let mut suffix = bytes.clone();
        suffix[begin..cut + SECTOR].fill(0);
        let mut some = bytes.clone();
        for sector in some[begin..end].chunks_mut(SECTOR) {
            if draw.below(2) == 0 {
                sector.fill(0);
            }
        }
        for (kind, bytes) in [("first", prefix), ("last", suffix), ("some", some)] {
            let about = format!("{name}: {kind} sectors, {sectors}");
            row.case(truth, &name, bytes, true, &about);
        }
    }
    row
}

/// Batches in each other's place, twice, or of another life of the segment. Definitions that look like
/// batches are in every journal here.
fn moved(truth: &Truth, other: &Truth) -> Row {
    let mut row = Row::default();
    for name in files(&truth.disk) {
        let bytes = truth.disk.read(&name).unwrap();
        let places: Vec<Range<usize>> = scan(&bytes)
            .unwrap()
            .batches
            .iter()
            .map(|batch| {
                let begin = batch.header.offset as usize;
                begin..begin + batch.header.size() as usize
            })
            .collect();
        let stale = other.disk.read(&name);
        for (index, here) in places.iter().enumerate() {
            let is_last = index + 1 == places.len();
            let mut put = |from: &[u8], about: &str| {
                let mut changed = bytes.clone();
                let count = from.len().min(changed.len() - here.start);
                changed[here.start..here.start + count].copy_from_slice(&from[..count]);
                if !(is_last && truth.unproven.is_empty()) || changed != bytes {
                    row.case(
                        truth,
                        &name,
                        changed,
                        false,
                        &format!("{name}: {about} at {index}"),
                    );
                }
            };
            for (from, there) in places.iter().enumerate().step_by(7) {
                if from != index && there.len() <= here.len() {
                    put(&bytes[there.clone()], &format!("batch {from} again"));
                }
            }
            if let Some(stale) = &stale {
                put(&stale[here.clone()], "another life's bytes");
            }
            if let Some(next) = places
                .get(index + 1)
                .filter(|next| next.len() == here.len())
            {
                let mut swapped = bytes.clone();
                swapped[here.clone()].copy_from_slice(&bytes[next.clone()]);
                swapped[next.clone()].copy_from_slice(&bytes[here.clone()]);
                row.case(
                    truth,
                    &name,
                    swapped,
                    false,
                    &format!("{name}: {index} swapped"),
                );
            }
        }
    }
    row
}

/// Zeroed sectors, one, eight, or forty in a row; those of segment headers in a row of their own.
fn zeroed(truth: &Truth, counts: &[usize]) -> (Row, Row) {
    let mut rows = (Row::default(), Row::default());
    for name in files(&truth.disk) {
        let bytes = truth.disk.read(&name).unwrap();
        for &count in counts {
            for at in (0..used(&bytes)).step_by(count * SECTOR) {
                let mut zeroed = bytes.clone();
                let end = (at + count * SECTOR).min(zeroed.len());
                zeroed[at..end].fill(0);
                if zeroed != bytes {
                    let about = format!("{name}: {count} sectors zeroed at {at}");
                    let row = if at < BLOCK { &mut rows.1 } else { &mut rows.0 };
                    row.case(truth, &name, zeroed, false, &about);
                }
            }
        }
    }
    rows
}

#[test]
fn the_correctness_table() {
    let mut table = String::from(
        "| damage | journal | cases | silent losses | wrong data | torn tails refused | cannot be told | undamaged records read |\n|---|---|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut all_is_well = true;
    for (journal, size, is_sealed) in [
        ("one segment, sealed", 4 << 20, true),
        (EVERY_CASE, 64 << 10, true),
        ("many segments, not sealed", 64 << 10, false),
    ] {
        let truth = truth(size, is_sealed, 1);
        let other = self::truth(size, is_sealed, 2);
        let intact = verify(truth.disk.clone()).unwrap();
        assert_eq!(intact.verdict(), Verdict::Clean);
        assert!(intact.records > RECORDS);
        let (count, zeros): (usize, &[usize]) = match journal == EVERY_CASE {
            true => (FLIPS, &[1, 8, 40]),
            false => (FLIPS / 10, &[8, 40]),
        };
        let (flipped, flipped_heads) = flips(&truth, count, 3);
        let (zeroed, zeroed_heads) = zeroed(&truth, zeros);
        for (damage, row) in [
            ("one bit flipped", flipped),
            ("the same, in a segment's header", flipped_heads),
            ("last batch torn", torn(&truth)),
            ("batch swapped, repeated, stale", moved(&truth, &other)),
            ("sectors zeroed", zeroed),
            ("the same, with a segment's header", zeroed_heads),
        ] {
            if row.cases == 0 {
                continue;
            }
            let share = 100.0 * row.read as f64 / row.undamaged as f64;
            writeln!(
                table,
                "| {damage} | {journal} | {} | {} | {} | {} | {} | {share:.2} % |",
                row.cases, row.silent, row.wrong, row.refused, row.untellable
            )
            .unwrap();
            all_is_well &= row.silent + row.wrong + row.refused == 0;
            all_is_well &= row.read == row.undamaged;
        }
    }
    println!("{table}");
    assert!(all_is_well, "{table}");
}
