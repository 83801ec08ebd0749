//! What batches add to the index, segment by segment.
//! Invariant: the same batches give the same entries, in however many steps they are gathered.
//! Not here: the store (`store`), its keys and values (`keys`).

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use journal_format::batch::BatchHeader;
use journal_format::number::{Chain, DomainId, Lsn, SegmentNumber};
use journal_format::record::{Decoded, Record, RecordBody};

use super::keys::{InSegment, domain_key, encode_extent, extent_key, name_key};
use super::{EXTENT_SIZE, Extent};
use crate::journal::read::Entry;
use crate::journal::replay::Seen;

/// The types of records that are decoded: those that tell a name, and decisions.
static DECODED: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let types = RecordBody::TYPES.iter();
    let decoded =
        types.filter(|(_, name)| ["domain-added", "domain-state", "decided"].contains(name));
    decoded.map(|(number, _)| *number).collect()
});

/// The last batch that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastBatch {
    pub(super) last: Lsn,
    pub(super) segment: SegmentNumber,
    pub(super) at: u64,
    pub(super) chain: Chain,
}

impl LastBatch {
    pub(super) fn of(header: &BatchHeader, chain: Chain) -> LastBatch {
        LastBatch {
            last: header.last(),
            segment: header.segment,
            at: header.offset,
            chain,
        }
    }
}

/// The batch that begins here, if one does, and the chain value after it.
pub(super) fn begun<'a>(seen: &'a Seen<'_>) -> Option<(&'a BatchHeader, Chain)> {
    match seen {
        Seen::Batch(batch) => Some((&batch.header, batch.chain)),
        Seen::Entry(Entry::Batch(batch)) => Some((&batch.header, batch.chain)),
        Seen::Entry(Entry::Gap(_)) => None,
    }
}

/// What batches of one segment add.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) end: Option<LastBatch>,
    pub(super) records: u64,
    /// The number of the extent that the last batch is in.
    current: u16,
    extents: BTreeMap<u16, Extent>,
    domains: HashMap<DomainId, InSegment>,
    names: BTreeMap<(String, DomainId), Lsn>,
}

impl Gathered {
    /// How many domains and names it tells of: what it takes in memory.
    pub(super) fn len(&self) -> usize {
        self.domains.len() + self.names.len()
    }

    pub(super) fn add(&mut self, seen: &Seen<'_>) {
        if let Some((header, chain)) = begun(seen) {
            self.batch(header, chain);
        }
        match seen {
            Seen::Batch(batch) => {
                for view in batch.records() {
                    self.record(view.domain, view.kind, view.lsn, || view.decode().ok());
                }
            }
            Seen::Entry(Entry::Batch(batch)) => {
                for placed in &batch.records {
                    let (domain, lsn) = (placed.record.domain(), placed.record.lsn());
                    let kind = match &placed.record {
                        Decoded::Known(record) => record.body.type_number(),
                        Decoded::Unknown { kind, .. } => *kind,
                    };
                    self.record(domain, kind, lsn, || Some(placed.record.clone()));
                }
            }
            Seen::Entry(Entry::Gap(_)) => {}
        }
    }

    fn batch(&mut self, header: &BatchHeader, chain: Chain) {
        // A segment has no more than a GiB (F14).
        self.current = u16::try_from(header.offset / EXTENT_SIZE).unwrap_or(u16::MAX);
        let here = Extent {
            segment: header.segment,
            number: self.current,
            first: header.first,
            last: header.last(),
            begin: header.offset,
            end: header.offset + header.size(),
            before: header.chain,
            latest: header.wall,
        };
        let extent = self.extents.entry(self.current).or_insert(here);
        *extent = extent.joined(&here);
        self.end = Some(LastBatch::of(header, chain));
    }

    fn record(
        &mut self,
        domain: Option<DomainId>,
        kind: u16,
        lsn: Lsn,
        decode: impl FnOnce() -> Option<Decoded>,
    ) {
        self.records += 1;
        let Some(domain) = domain else {
            return;
        };
        let in_segment = self.domains.entry(domain).or_default();
        in_segment.insert(self.current);
        if !DECODED.contains(&kind) {
            return;
        }
        let Some(Decoded::Known(Record { body, .. })) = decode() else {
            return;
        };
        match body {
            RecordBody::Decided(_) => in_segment.decisions = in_segment.decisions.saturating_add(1),
            RecordBody::DomainAdded(state) | RecordBody::DomainState(state) => {
                self.names.insert((state.name, domain), lsn);
            }
            _ => {}
        }
    }

    /// The extents.
    pub(super) fn extents(&self) -> impl Iterator<Item = &Extent> {
        self.extents.values()
    }

    /// Where the domains are, in that segment.
    pub(super) fn domains(&self) -> impl Iterator<Item = (&DomainId, &InSegment)> {
        self.domains.iter()
    }

    /// Names, as keys and values.
    pub(super) fn names(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let names = self.names.iter();
        names.map(|((name, domain), lsn)| (name_key(name, *domain), lsn.0.to_le_bytes().to_vec()))
    }

    /// What stands in the index if nothing of this segment did before, but for names.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let segment = self.end.map_or(SegmentNumber(0), |end| end.segment);
        let extents = self.extents();
        let extents = extents.map(|one| (extent_key(one.segment, one.number), encode_extent(one)));
        let domains = self.domains();
        extents.chain(domains.map(move |(id, one)| (domain_key(segment, *id), one.encode())))
    }
}
