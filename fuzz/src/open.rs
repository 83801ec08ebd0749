//! A journal's directory as crashes and a bad disk left it, through the real opening: whatever is there,
//! it is opened or refused, nothing that was acknowledged is dropped in silence, and no file that was
//! left is written again.

use core::ops::RangeInclusive;
use std::collections::BTreeMap;

use journal_format::number::{BootId, HostId, Id128, Lsn, SegmentNumber};
use journal_format::record::{Decoded, Record};
use journal_format::scan::scan;
use phase_journal::engine::{Input, Now, Told};
use phase_journal::journal::disk::Disk;
use phase_journal::journal::read::{Entry, Reader};
use phase_journal::journal::testing::{Fault, SECTOR_SIZE, Survival, TestDisk};
use phase_journal::journal::verify::verify;
use phase_journal::journal::{Log, OpenOptions, Opened, Past};
use phase_journal::node::{CrashSwitch, Node, open_journal};

use super::bytes::Bytes;
use super::inputs::{self, NONCE, Surroundings};

/// Openings before the one that is judged, at the most.
const LIVES_MAX: usize = 5;
/// Turns of one life, at the most.
const TURNS_MAX: usize = 12;
/// The host's boots; the witness counts only for the boot that it is of.
const BOOTS: [BootId; 2] = [BootId(Id128([8; 16])), BootId(Id128([9; 16]))];

/// How the opening that was judged ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opening {
    /// It was refused.
    Refused,
    /// Nothing was lost.
    Whole,
    /// Some of it was lost.
    Damaged,
}

/// A journal, its witness, and what is known of it from outside.
struct Place {
    journal: TestDisk,
    run: TestDisk,
    /// Every record that was ever readable, as it was written; an LSN whose record was never
    /// acknowledged may be given again.
    ever: BTreeMap<Lsn, Vec<Record>>,
    /// The last record that was acknowledged.
    acknowledged: Lsn,
    /// Segments as they were when a life ended.
    copies: Vec<(String, Vec<u8>)>,
    /// Nanoseconds.
    time: u64,
    around: Surroundings,
}

/// Lives, crashes and damage are drawn from the bytes.
///
/// # Panics
/// When the opening drops, invents or overwrites something.
pub fn run(bytes: &[u8]) -> Opening {
    let mut choices = Bytes::new(bytes);
    let mut place = Place {
        journal: TestDisk::new("journal"),
        run: TestDisk::new("run"),
        ever: BTreeMap::new(),
        acknowledged: Lsn(0),
        copies: Vec::new(),
        time: 1_000_000_000,
        around: Surroundings::default(),
    };
    for _ in 0..=choices.below(LIVES_MAX) {
        place.live(&mut choices);
    }
    let mut is_foreign = false;
    for _ in 0..choices.below(5) {
        is_foreign |= place.damage(&mut choices);
    }
    let options = OpenOptions {
        accept_older: choices.yes(),
        ..options(choices.pick(&BOOTS))
    };
    place.judge(&options, is_foreign)
}

fn options(boot: BootId) -> OpenOptions {
    OpenOptions {
        first_segment_size: 64 * 1024,
        segment_size: 64 * 1024,
        ..OpenOptions::new(HostId(Id128([7; 16])), boot)
    }
}

impl Place {
    fn now(&mut self) -> Now {
        self.time += 50_000_000;
        Now {
            wall: self.time,
            monotonic: self.time,
        }
    }

    fn begin(
        &mut self,
        opened: Opened<TestDisk>,
        told: Told,
        boot: BootId,
    ) -> Option<Node<TestDisk>> {
        let now = self.now();
        let peer = "here".to_owned();
        let node = Node::open(opened, told, boot, peer, None, now, CrashSwitch::default());
        let (node, outbox) = node.ok()?;
        drop(outbox.into_inner());
        Some(node)
    }

    /// One life of a sidecar, up to its end or to a fault of its disk.
    fn live(&mut self, choices: &mut Bytes<'_>) {
        if choices.yes() {
            let operation = self.journal.operations() + choices.number() as u64 % 120;
            self.journal.plan(operation, fault(choices));
        }
        let (disk, run) = (self.journal.clone(), self.run.clone());
        if let Ok((opened, told)) = open_journal(disk, Some(run), &options(BOOTS[0]))
            && let Some(mut node) = self.begin(opened, told, BOOTS[0])
        {
            self.acknowledged = Lsn(node.log().next_lsn().0 - 1);
            for _ in 0..choices.below(TURNS_MAX) {
                let inputs = (0..choices.below(4)).map(|at| self.input(choices, at as u64));
                let inputs: Vec<Input> = inputs.collect();
                let now = self.now();
                let was_sealed = match node.turn(now, inputs) {
                    Ok(outbox) => {
                        drop(outbox.into_inner());
                        self.acknowledged = Lsn(node.log().next_lsn().0 - 1);
                        !choices.yes() || node.seal(now).is_ok()
                    }
                    Err(_) => false,
                };
                if !was_sealed {
                    break;
                }
                self.acknowledged = Lsn(node.log().next_lsn().0 - 1);
            }
        }
        let survival = match choices.below(4) {
            0 | 1 => Survival::Everything,
            2 => Survival::Nothing,
            _ => Survival::Some(u64::from(choices.byte())),
        };
        self.journal.restart(survival);
        self.run.restart(Survival::Everything);
        self.remember();
        self.copies.extend(self.segments());
    }

    fn input(&mut self, choices: &mut Bytes<'_>, token: u64) -> Input {
        let token = phase_journal::engine::Token(self.time + token);
        match choices.below(4) {
            0 => Input::Tick,
            1 => Input::Peer {
                token,
                envelope: self.around.envelope(choices),
                nonce: NONCE,
                request: self.around.peer_request(choices),
            },
            2 => {
                let domain = inputs::domain(choices);
                let observed = self.around.observed(choices, domain);
                Input::Looked { domain, observed }
            }
            _ => Input::Control {
                token,
                request: self.around.control_request(choices),
            },
        }
    }

    /// The segments' files.
    fn segments(&self) -> BTreeMap<String, Vec<u8>> {
        let names = self.journal.list().unwrap_or_default();
        let is_segment = |name: &String| SegmentNumber::parse(name).is_some();
        let segments = names.into_iter().filter(is_segment);
        let read = |name: String| self.journal.read(&name).map(|bytes| (name, bytes));
        segments.filter_map(read).collect()
    }

    fn entries(&self) -> Vec<Entry> {
        let reader = Reader::open(self.journal.clone());
        let entries = reader.into_iter().flatten();
        entries
            .map(|entry| entry.expect("a disk without faults can be read"))
            .collect()
    }

    /// Keeps what can be read in mind. After nothing but crashes of process and power, that is
    /// everything that was acknowledged.
    fn remember(&mut self) {
        let mut last = Lsn(0);
        for entry in self.entries() {
            let Entry::Batch(batch) = entry else {
                panic!("a crash has damaged something: {entry:?}");
            };
            for placed in batch.records {
                let Decoded::Known(record) = placed.record else {
                    panic!("a record of nobody's");
                };
                last = record.lsn;
                let ever = self.ever.entry(record.lsn).or_default();
                if !ever.contains(&record) {
                    ever.push(record);
                }
            }
        }
        assert!(last >= self.acknowledged, "lost after {last}");
    }

    /// One fault of a disk or of whoever handles it. Was a file put where it does not belong?
    fn damage(&mut self, choices: &mut Bytes<'_>) -> bool {
        let segments: Vec<_> = self.segments().into_iter().collect();
        if segments.is_empty() {
            return false;
        }
        let (name, mut bytes) = choices.pick(&segments);
        if bytes.is_empty() {
            return false;
        }
        let mut is_foreign = false;
        match choices.below(8) {
            0 => {
                let at = choices.number() % bytes.len();
                bytes[at] ^= choices.byte();
            }
            1 => {
                let at = choices.number() % bytes.len() / SECTOR_SIZE * SECTOR_SIZE;
                let end = (at + SECTOR_SIZE * (1 + choices.below(24))).min(bytes.len());
                bytes[at..end].fill(choices.pick(&[0, 0xff]));
            }
            2 => bytes.truncate(choices.number() % bytes.len()),
            3 => {
                self.journal.take(&name);
                return false;
            }
            4 => {
                is_foreign = true;
                bytes = choices.pick(&segments).1;
            }
            5 => {
                let (name, bytes) = choices.pick(&self.copies);
                self.journal.put(&name, bytes);
                return true;
            }
            6 => {
                let at = choices.number() % bytes.len();
                let rest = choices.rest();
                let room = bytes[at..].iter_mut().zip(rest);
                room.for_each(|(place, byte)| *place = *byte);
            }
            _ => {
                let name = choices.pick(&["notes.txt", "segment.new", "probe.new", "lock"]);
                self.journal.put(name, choices.rest().to_vec());
                return false;
            }
        }
        self.journal.put(&name, bytes);
        is_foreign
    }

    /// What only the page cache shows of the newest segment after a sync that failed: an opening forgets it, and
    /// believes the disk. Nothing else about a segment may change by being opened.
    fn forget_cache(&self) {
        let newest = self.segments().into_keys().next_back();
        let file = newest.and_then(|name| self.journal.open(&name).ok());
        if let Some(file) = file {
            drop(self.journal.sync_and_forget_cache(&file));
        }
    }

    fn judge(&mut self, options: &OpenOptions, is_foreign: bool) -> Opening {
        self.forget_cache();
        drop(verify(self.journal.clone()));
        drop(self.entries());
        let before = self.segments();
        let (disk, run) = (self.journal.clone(), self.run.clone());
        let mut past = Vec::new();
        let opened = Log::open(disk, Some(run), options, |one| past.push(one));
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                assert_eq!(before, self.segments(), "refused, and changed something");
                let text = error.to_string();
                assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
                return Opening::Refused;
            }
        };
        let next = opened.first_lsn();
        let lost = self.account(&past, next);
        // The witness knows how far it came.
        if !options.accept_older && options.boot == BOOTS[0] {
            assert!(next > self.acknowledged, "older than the witness knows");
        }
        let told_from = past.first().map_or(next, first_of);
        if !is_foreign {
            no_more_is_lost(&before, (told_from, next), &lost);
        }
        assert_eq!(
            before,
            self.segments(),
            "nothing is written before it is begun"
        );
        drop(opened);
        self.go_on(options, &before, next);
        if lost.is_empty() {
            Opening::Whole
        } else {
            Opening::Damaged
        }
    }

    /// Every LSN from the first that is told up to the next one to be given is either read or lost, and
    /// what is read was written. Returns what is lost.
    fn account(&self, past: &[Past], next: Lsn) -> Vec<RangeInclusive<u64>> {
        let mut lost = Vec::new();
        let mut told = Vec::new();
        for one in past {
            match one {
                Past::Record(record) => {
                    let ever = self.ever.get(&record.lsn);
                    let was_written = ever.is_some_and(|ever| ever.contains(record));
                    assert!(was_written, "{record:?} was never written");
                    told.push(record.lsn.0..=record.lsn.0);
                }
                // As many as there can have been: they are not gone over one by one.
                Past::Gap(gap) => lost.push(gap.first.0..=gap.last.0),
            }
        }
        let in_order = told.is_sorted_by(|before, after| before.end() < after.start());
        assert!(in_order, "{past:?}");
        told.extend(lost.iter().cloned());
        told.sort_unstable_by_key(|range| *range.start());
        let mut expected = past.first().map_or(next, first_of).0;
        for range in told {
            assert_eq!(
                *range.start(),
                expected,
                "dropped in silence, or told twice"
            );
            expected = range.end() + 1;
        }
        assert_eq!(expected, next.0);
        lost
    }

    /// A life after it: what was left stays as it was, and is found again with what came since.
    fn go_on(&mut self, options: &OpenOptions, before: &BTreeMap<String, Vec<u8>>, next: Lsn) {
        let open = |place: &Place| {
            let (disk, run) = (place.journal.clone(), place.run.clone());
            open_journal(disk, Some(run), options)
        };
        let (opened, told) = open(self).expect("it was opened just now");
        assert_eq!(opened.first_lsn(), next);
        let mut node = self
            .begin(opened, told, options.boot)
            .expect("the disk has no fault");
        let now = self.now();
        let turned = node.turn(now, vec![Input::Tick]);
        drop(turned.expect("the disk has no fault").into_inner());
        let end = node.log().next_lsn();
        drop(node);
        self.journal.restart(Survival::Nothing);
        for (name, bytes) in before {
            let Some(now) = self.journal.read(name) else {
                continue;
            };
            let is_replaced = scan(&now).is_ok_and(|found| found.header.first == next);
            assert!(*bytes == now || is_replaced, "{name} was written again");
        }
        let mut past = Vec::new();
        let (disk, run) = (self.journal.clone(), self.run.clone());
        let opened = Log::open(disk, Some(run), options, |one| past.push(one));
        let opened = opened.expect("what was just written is opened again");
        assert_eq!(opened.first_lsn(), end);
        let records = past.iter().filter(|one| matches!(one, Past::Record(_)));
        assert_eq!(records.count() as u64, end.0 - next.0, "{past:?}");
        assert_eq!(past.len() as u64, end.0 - next.0, "{past:?}");
    }
}

fn first_of(past: &Past) -> Lsn {
    match past {
        Past::Record(record) => record.lsn,
        Past::Gap(gap) => gap.first,
    }
}

/// What a scan of a file by itself finds is not lost, where each file is in its own place.
fn no_more_is_lost(
    files: &BTreeMap<String, Vec<u8>>,
    told: (Lsn, Lsn),
    lost: &[RangeInclusive<u64>],
) {
    for (name, bytes) in files {
        let Ok(found) = scan(bytes) else { continue };
        for placed in found.batches.iter().flat_map(|batch| &batch.records) {
            let lsn = placed.record.lsn();
            if lsn >= told.0 && lsn < told.1 {
                let is_lost = lost.iter().any(|range| range.contains(&lsn.0));
                assert!(!is_lost, "{lsn} is readable in {name}");
            }
        }
    }
}

fn fault(choices: &mut Bytes<'_>) -> Fault {
    match choices.below(6) {
        0 => Fault::CrashBefore,
        1 => Fault::CrashAfter,
        2 => Fault::CrashTorn(choices.below(32)),
        3 => Fault::Error(choices.pick(&[5, 28])),
        4 => Fault::Short(choices.number()),
        _ => Fault::LostSync(5),
    }
}
