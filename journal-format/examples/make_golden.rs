//! Makes the golden segments under `tests/golden`, always the same bytes.
//!
//! Golden files are never made anew: a program that reads them differently is wrong. This one
//! refuses to overwrite a file, and is kept to show where they came from, and to add new ones.
//! Records of a newer writer are laid out here by hand from FORMAT.md, with none of the crate's code.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use journal_format::SEGMENT_SIZE_MIN;
use journal_format::number::{DomainId, HostId, JournalId, Lsn, Salt, SegmentNumber};
use journal_format::record::{Draft, Opening, RecordBody};
use journal_format::segment::{SegmentEnd, SegmentHeader};

#[path = "../tests/support/samples.rs"]
mod samples;
#[path = "../tests/support/mod.rs"]
mod support;

use samples::{boot, checkpoint, draft, intents, observations, opening, outcomes};
use support::{Writer, id};

/// The wall clock of the first batch, and what passes until the next one, in nanoseconds.
const WALL: u64 = 1_753_000_000_123_456_789;
const PASSES: u64 = 1_500_000_000;

fn header(number: u64, opening: Opening, before: Option<SegmentEnd>) -> SegmentHeader {
    SegmentHeader {
        journal: JournalId(id(0xa1)),
        host: HostId(id(0x05)),
        number: SegmentNumber(number),
        size: SEGMENT_SIZE_MIN,
        salt: Salt([u8::try_from(number).unwrap_or(0xff) ^ 0x55; 16]),
        first: opening.first,
        epoch: opening.epoch,
        opening: opening.opening,
        before,
    }
}

/// Appends one batch, and links each record to the one of its domain before.
fn append(writer: &mut Writer, previous: &mut Vec<(DomainId, Lsn)>, drafts: &[Draft]) {
    let passed = PASSES * writer.begins.len() as u64;
    let head = writer.head(boot(), WALL + passed, 5_000_000_000 + passed);
    let mut records = Vec::new();
    for (count, draft) in (0..).zip(drafts) {
        let mut before = None;
        if let Some(domain) = draft.domain {
            let known = previous.iter().position(|(other, _)| *other == domain);
            before = known.map(|at| previous.remove(at).1);
            previous.push((domain, Lsn(head.first.0 + count)));
        }
        records.push((draft.clone(), before));
    }
    writer.batch(head, &records);
}

fn sealed() -> Vec<Draft> {
    vec![draft(None, RecordBody::Sealed)]
}

/// The first segment of a journal: every record type, word and variant.
fn every_record() -> Writer {
    let mut writer = Writer::new(header(1, opening(1, 1), None));
    let mut previous = Vec::new();
    for drafts in [
        checkpoint(vec![opening(1, 1)], 1),
        intents(),
        observations(),
        outcomes(),
        sealed(),
    ] {
        append(&mut writer, &mut previous, &drafts);
    }
    writer
}

/// A later segment, begun by another opening: it knows how the one before ended.
fn later(before: &Writer, number: u64) -> (Writer, Vec<(DomainId, Lsn)>) {
    let first = before.next.0;
    let end = SegmentEnd {
        number: before.header.number,
        end: before.bytes.len() as u64,
        chain: before.chain,
        last: Lsn(first - 1),
    };
    let this = opening(u8::try_from(number).unwrap_or(0xff), first);
    let mut writer = Writer::new(header(number, this, Some(end)));
    let mut previous = Vec::new();
    let openings = vec![opening(1, 1), this];
    append(&mut writer, &mut previous, &checkpoint(openings, first));
    (writer, previous)
}

/// A checksum as FORMAT.md F3 says.
fn salted(writer: &Writer, bytes: &[u8]) -> [u8; 4] {
    let crc = crc32fast::hash(&[&writer.header.salt.0, bytes].concat());
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// One record as FORMAT.md lays it out.
fn by_hand(
    writer: &Writer,
    lsn: u64,
    domain: DomainId,
    kind: u16,
    version: u16,
    body: &[u8],
) -> Vec<u8> {
    let mut record = Vec::new();
    record.extend(lsn.to_le_bytes());
    record.extend(0u64.to_le_bytes());
    record.extend(domain.0.0);
    record.extend(kind.to_le_bytes());
    record.extend(version.to_le_bytes());
    record.extend(u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
    record.extend(salted(writer, &[&lsn.to_le_bytes(), body].concat()));
    record.extend(salted(writer, &record));
    record.extend(body);
    record.resize(record.len().next_multiple_of(8), 0);
    record
}

/// A batch of a newer writer: an unknown type, a known type with an unknown version, and a
/// `migration-started` as it is, all by hand.
fn append_newer(writer: &mut Writer) {
    let first = writer.next.0;
    let domain = samples::DOMAINS[0];
    let content = [
        by_hand(writer, first, domain, 999, 1, b"what a newer writer knows"),
        by_hand(writer, first + 1, domain, 9, 2, &[7; 30]),
        by_hand(writer, first + 2, domain, 18, 1, &[0x77; 16]),
    ]
    .concat();
    let mut bytes = b"PHJB".to_vec();
    bytes.extend(96u32.to_le_bytes());
    bytes.extend(first.to_le_bytes());
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(u32::try_from(content.len()).unwrap_or(0).to_le_bytes());
    bytes.extend(writer.header.epoch.0.to_le_bytes());
    bytes.extend(writer.chain.0.to_le_bytes());
    bytes.extend(boot().0.0);
    bytes.extend(WALL.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(writer.header.number.0.to_le_bytes());
    bytes.extend((writer.bytes.len() as u64).to_le_bytes());
    bytes.extend(salted(writer, &content));
    bytes.extend([0; 8]);
    bytes.extend(salted(writer, &bytes));
    let chain = bytes[92..].try_into().unwrap_or_default();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    writer.chain.0 = u32::from_le_bytes(chain);
    writer.next = Lsn(first + 3);
    writer.begins.push(writer.bytes.len());
    writer.bytes.extend(bytes);
}

fn segments() -> Vec<(&'static str, Vec<u8>)> {
    let first = every_record();
    let (mut second, mut previous) = later(&first, 2);
    append(&mut second, &mut previous, &outcomes());
    append(&mut second, &mut previous, &sealed());

    let (mut newer, mut previous) = later(&first, 2);
    append_newer(&mut newer);
    append(&mut newer, &mut previous, &sealed());

    // The last batch was cut short: its second block never reached the disk.
    let (mut torn, mut previous) = later(&first, 2);
    append(
        &mut torn,
        &mut previous,
        &[intents(), observations()].concat(),
    );
    let missing = torn.begins[1] + 4096;
    let mut torn = torn.finish();
    torn[missing..].fill(0);

    // One record of the second batch and the head of the third are damaged; two batches follow.
    let damaged = every_record();
    let (in_record, in_head) = (damaged.begins[1] + 1234, damaged.begins[2] + 20);
    let mut damaged = damaged.finish();
    damaged[in_record] ^= 0x10;
    damaged[in_head] ^= 0x01;

    vec![
        ("every-record.seg", first.finish()),
        ("later.seg", second.finish()),
        ("newer-record.seg", newer.finish()),
        ("torn-tail.seg", torn),
        ("damaged-middle.seg", damaged),
    ]
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)
}

fn main() -> ExitCode {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let directory = std::env::args_os().nth(1).map_or(golden, PathBuf::from);
    let mut code = ExitCode::SUCCESS;
    for (name, bytes) in segments() {
        let path = directory.join(name);
        if let Err(error) = write_new(&path, &bytes) {
            eprintln!("could not make {}: {error}", path.display());
            code = ExitCode::FAILURE;
        }
    }
    code
}
