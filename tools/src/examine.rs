//! A journal gone over once, as a whole: its files, its records, its laws.
//!
//! Invariant: nothing is said to be sound that was not looked at; what is only older, or of another version,
//! is told apart from what is wrong.
//! Not here: how it is shown (`verify`, `inspect`), whether two journals agree (`sides`).

use std::collections::HashMap;
use std::path::Path;

use journal_format::batch::BatchHeader;
use journal_format::hash::IdMap;
use journal_format::number::{BootId, DomainId, Epoch, Lsn};
use journal_format::record::{Decoded, Opening, Record, RecordBody};
use phase_journal::engine;
use phase_journal::engine::laws::Auditor;
use phase_journal::journal::decoded::Item;
use phase_journal::journal::read::{Reader, SegmentFile};
use phase_journal::journal::verify::{Report, Verdict, verify_with};

use crate::error::{Found, ToolError};
use crate::source;
use crate::terminal::Progress;

/// Broken promises that are told one by one; of more there is only the number.
const BROKEN_MAX: usize = 1000;

/// A promise that a record breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The record.
    pub(crate) lsn: Lsn,
    /// Its domain.
    pub(crate) domain: Option<DomainId>,
    /// Which law.
    pub(crate) law: &'static str,
    /// How.
    pub(crate) how: String,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Examined {
    /// Files, batches, records, gaps.
    pub(crate) report: Report,
    /// The first [`BROKEN_MAX`] broken promises.
    pub(crate) broken: Vec<Broken>,
    /// How many there are.
    pub(crate) broken_count: u64,
    /// What the engine would know.
    pub(crate) auditor: Auditor,
    /// The names that domains had, also those that are gone.
    pub(crate) names: HashMap<DomainId, String>,
    /// When the first and the last batch was written, in nanoseconds since 1970.
    pub(crate) written: Option<(u64, u64)>,
    /// The boots that it was written in, oldest first.
    pub(crate) boots: Vec<BootId>,
    /// The openings, as the newest checkpoint tells.
    pub(crate) openings: Vec<Opening>,
    /// Types and versions of records of a newer writer, and how many there are of each.
    pub(crate) unknown: Vec<((u16, u16), u64)>,
}

impl Examined {
    /// What the exit code says.
    pub(crate) fn found(&self) -> Found {
        if self.broken_count > 0 {
            return Found::Damage;
        }
        match self.report.verdict() {
            Verdict::Clean => Found::Nothing,
            // What a crash leaves: nothing that was acknowledged is missing.
            Verdict::Torn => Found::Something,
            Verdict::Damaged => Found::Damage,
            Verdict::NotRead => Found::NotRead,
        }
    }

    fn break_law(&mut self, broken: Broken) {
        self.broken_count += 1;
        if self.broken.len() < BROKEN_MAX {
            self.broken.push(broken);
        }
    }
}

/// Goes over a journal; each record is shown to `each` too.
pub(crate) fn examine(
    path: &Path,
    mut each: impl FnMut(&Record, &BatchHeader),
) -> Result<Examined, ToolError> {
    let reader = Reader::open(source::open(path)?)?;
    let files = reader.segments().to_vec();
    let mut examiner = Examiner::default();
    let mut progress = Progress::new("verifying", files.iter().map(|file| file.length).sum());
    let report = verify_with(reader, |item| {
        if let Item::Batch { header, .. } = item {
            progress.add(header.size());
        }
        examiner.see(item, &mut each);
    })?;
    let Examiner {
        auditor,
        names,
        written,
        boots,
        openings,
        unknown,
        broken,
        ..
    } = examiner;
    let mut unknown: Vec<_> = unknown.into_iter().collect();
    unknown.sort_unstable();
    let mut examined = Examined {
        report,
        broken: Vec::new(),
        broken_count: 0,
        auditor,
        names,
        written,
        boots,
        openings,
        unknown,
    };
    for one in broken.first.into_iter().chain(openings_in_order(&files)) {
        examined.break_law(one);
    }
    examined.broken_count += broken.more;
    Ok(examined)
}

/// Those that are told one by one, and how many more there are.
#[derive(Debug, Default)]
struct Breaches {
    first: Vec<Broken>,
    more: u64,
}

#[derive(Debug, Default)]
struct Examiner {
    auditor: Auditor,
    links: Links,
    names: HashMap<DomainId, String>,
    written: Option<(u64, u64)>,
    boots: Vec<BootId>,
    openings: Vec<Opening>,
    unknown: HashMap<(u16, u16), u64>,
    broken: Breaches,
    /// The boot of each opening.
    boot: Option<(Epoch, BootId)>,
}

impl Examiner {
    fn see(&mut self, item: &Item<'_, &Decoded>, each: &mut impl FnMut(&Record, &BatchHeader)) {
        match item {
            Item::Gap(gap) => {
                self.links.gap(gap.first, gap.last);
                self.tell_gap(gap.first, gap.last);
            }
            Item::Batch {
                header_lost: true, ..
            } => {}
            Item::Batch { header, .. } => self.batch(header),
            Item::Record { header, record, .. } => {
                let (lsn, domain) = (record.lsn(), record.domain());
                match record {
                    Decoded::Unknown {
                        previous,
                        kind,
                        version,
                        ..
                    } => {
                        *self.unknown.entry((*kind, *version)).or_default() += 1;
                        self.link(lsn, domain, *previous);
                        // What it says could matter: the engine would refuse it, or know less.
                        self.tell_gap(lsn, lsn);
                    }
                    Decoded::Known(record) => {
                        self.link(lsn, domain, record.previous);
                        self.record(record, header, each);
                    }
                }
            }
        }
    }

    fn batch(&mut self, header: &BatchHeader) {
        let (first, last) = self.written.unwrap_or((header.wall, header.wall));
        self.written = Some((first, last.max(header.wall)));
        if self.boots.last() != Some(&header.boot) {
            self.boots.push(header.boot);
        }
        let before = self.boot.replace((header.epoch, header.boot));
        if before.is_some_and(|(epoch, boot)| epoch == header.epoch && boot != header.boot) {
            let how = format!("epoch {} goes on in another boot of the host", header.epoch);
            self.break_law(header.first, None, "opening", how);
        }
    }

    fn link(&mut self, lsn: Lsn, domain: Option<DomainId>, previous: Option<Lsn>) {
        if let Some(domain) = domain
            && let Err(how) = self.links.see(lsn, domain, previous)
        {
            self.break_law(lsn, Some(domain), "previous", how);
        }
    }

    fn record(
        &mut self,
        record: &Record,
        header: &BatchHeader,
        each: &mut impl FnMut(&Record, &BatchHeader),
    ) {
        match &record.body {
            RecordBody::CheckpointBegun(begun) => {
                self.openings.clone_from(&begun.openings);
                self.links.checkpoint(record.lsn);
            }
            RecordBody::DomainAdded(state) | RecordBody::DomainState(state) => {
                if let Some(domain) = record.domain
                    && self.names.get(&domain) != Some(&state.name)
                {
                    self.names.insert(domain, state.name.clone());
                }
            }
            _ => {}
        }
        each(record, header);
        let (lsn, domain) = (record.lsn, record.domain);
        if let Err(breach) = self.auditor.record(record) {
            self.break_law(lsn, domain, breach.law.name(), breach.how);
        }
    }

    fn tell_gap(&mut self, first: Lsn, last: Lsn) {
        self.auditor.gap(engine::Gap { first, last });
    }

    fn break_law(&mut self, lsn: Lsn, domain: Option<DomainId>, law: &'static str, how: String) {
        if self.broken.first.len() == BROKEN_MAX {
            self.broken.more += 1;
            return;
        }
        self.broken.first.push(Broken {
            lsn,
            domain,
            law,
            how,
        });
    }
}

/// The links from each record to the one of the same domain before it (F17).
#[derive(Debug, Default)]
struct Links {
    last: IdMap<DomainId, Lsn>,
    /// The first record that was seen.
    first: Option<Lsn>,
    /// What is lost, oldest first.
    gaps: Vec<(Lsn, Lsn)>,
    /// The newest checkpoint.
    checkpoint: Option<Lsn>,
}

impl Links {
    fn gap(&mut self, first: Lsn, last: Lsn) {
        self.gaps.push((first, last));
        self.first.get_or_insert(first);
    }

    fn is_lost(&self, lsn: Lsn) -> bool {
        let behind = self.gaps.partition_point(|(first, _)| *first <= lsn);
        let gap = behind.checked_sub(1).and_then(|at| self.gaps.get(at));
        gap.is_some_and(|(_, last)| lsn <= *last)
    }

    fn checkpoint(&mut self, begun: Lsn) {
        self.first.get_or_insert(begun);
        self.checkpoint = Some(begun);
    }

    fn see(&mut self, lsn: Lsn, domain: DomainId, previous: Option<Lsn>) -> Result<(), String> {
        let first = *self.first.get_or_insert(lsn);
        let known = match self.last.get_mut(&domain) {
            Some(last) => Some(std::mem::replace(last, lsn)),
            None => self.last.insert(domain, lsn),
        };
        let is_right = match (known, previous) {
            (Some(known), Some(previous)) if known == previous => true,
            // The one before is lost.
            (known, Some(previous)) if self.is_lost(previous) => {
                known.is_none_or(|known| known < previous)
            }
            // A domain that a checkpoint does not restate begins anew.
            (Some(known), None) => self.checkpoint.is_some_and(|begun| known < begun),
            (None, None) => true,
            // Of those that were let go.
            (None, Some(previous)) => previous < first,
            (Some(_), Some(_)) => false,
        };
        if is_right {
            return Ok(());
        }
        let named = previous.map_or("none".to_owned(), |lsn| lsn.to_string());
        let known = known.map_or("none".to_owned(), |lsn| lsn.to_string());
        Err(format!(
            "it names {named} as the domain's record before it, which is {known}"
        ))
    }
}

/// Epochs grow from opening to opening, and segments of one opening are of one host (F19).
fn openings_in_order(files: &[SegmentFile]) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut before = None;
    for header in files.iter().filter_map(|file| file.header.as_ref().ok()) {
        let here = (header.epoch, header.opening, header.host);
        let is_right = before.is_none_or(|(epoch, opening, host)| {
            if epoch == header.epoch {
                opening == header.opening && host == header.host
            } else {
                epoch < header.epoch && opening != header.opening
            }
        });
        if !is_right {
            broken.push(Broken {
                lsn: header.first,
                domain: None,
                law: "opening",
                how: format!(
                    "{} does not belong behind the one before",
                    header.number.file_name()
                ),
            });
        }
        before = Some(here);
    }
    broken
}
