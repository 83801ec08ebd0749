//! What the tests of this crate share: laying batches out in a segment.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test program uses its part of this; a panic is the test's failure"
)]

use journal_format::batch::{BatchBuilder, BatchHeader};
use journal_format::number::{BootId, Chain, Id128, Lsn};
use journal_format::record::{Decoded, Draft, Record};
use journal_format::scan::Scan;
use journal_format::segment::SegmentHeader;

/// A recognisable identity.
pub(crate) fn id(byte: u8) -> Id128 {
    Id128([byte; 16])
}

/// A segment in the making.
pub(crate) struct Writer {
    pub(crate) header: SegmentHeader,
    pub(crate) bytes: Vec<u8>,
    pub(crate) chain: Chain,
    pub(crate) next: Lsn,
    /// Where each batch begins.
    pub(crate) begins: Vec<usize>,
}

impl Writer {
    pub(crate) fn new(header: SegmentHeader) -> Writer {
        Writer {
            bytes: header.encode(),
            chain: header.chain(),
            next: header.first,
            begins: Vec::new(),
            header,
        }
    }

    /// The head of the next batch, with these times.
    pub(crate) fn head(&self, boot: BootId, wall: u64, monotonic: u64) -> BatchHeader {
        BatchHeader {
            first: self.next,
            records: 0,
            length: 0,
            epoch: self.header.epoch,
            chain: self.chain,
            boot,
            wall,
            monotonic,
            segment: self.header.number,
            offset: self.bytes.len() as u64,
            content: 0,
        }
    }

    /// Appends one batch of these records, each with its previous LSN.
    pub(crate) fn batch(&mut self, head: BatchHeader, records: &[(Draft, Option<Lsn>)]) {
        let mut builder = BatchBuilder::new(self.header.salt, head);
        for (draft, previous) in records {
            builder.push(draft, *previous).unwrap();
        }
        self.next = builder.next_lsn();
        self.begins.push(self.bytes.len());
        let (bytes, chain) = builder.finish();
        self.bytes.extend(bytes);
        self.chain = chain;
    }

    /// The whole file.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let end = usize::try_from(self.header.batches_end()).unwrap();
        assert!(self.bytes.len() <= end);
        self.bytes.resize(end, 0);
        self.bytes.extend(self.header.encode());
        self.bytes
    }
}

/// All readable records of a scan.
pub(crate) fn records(scan: &Scan) -> Vec<&Decoded> {
    let records = scan.batches.iter().flat_map(|batch| &batch.records);
    records.map(|placed| &placed.record).collect()
}

/// The segment that a scan without unknown records came from, written again.
pub(crate) fn written_again(scan: &Scan) -> Vec<u8> {
    let mut writer = Writer::new(scan.header);
    for batch in &scan.batches {
        let head = writer.head(batch.header.boot, batch.header.wall, batch.header.monotonic);
        let records: Vec<_> = batch
            .records
            .iter()
            .map(|placed| match &placed.record {
                Decoded::Known(Record {
                    domain,
                    body,
                    previous,
                    ..
                }) => {
                    let draft = Draft {
                        domain: *domain,
                        body: body.clone(),
                    };
                    (draft, *previous)
                }
                Decoded::Unknown { lsn, .. } => panic!("record {lsn} is of a newer writer"),
            })
            .collect();
        writer.batch(head, &records);
    }
    writer.finish()
}
