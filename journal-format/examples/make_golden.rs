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
use journal_format::record::{
    Draft, EffectCommand, EffectIntended, Opening, RecordBody, record_size,
};
use journal_format::segment::{SegmentEnd, SegmentHeader};

#[path = "../tests/support/draw.rs"]
mod draw;
#[path = "../tests/support/samples.rs"]
mod samples;
#[path = "../tests/support/mod.rs"]
mod support;

use draw::Draw;
use samples::{
    authorities, boot, checkpoint, disks, draft, guests_sent, histories, intents, jobs,
    observations, opening, outcomes, settings,
};
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

/// The first segment of a journal: every record type of its time, word and variant.
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

/// A batch of records by hand, each of a type, a version and a body.
fn append_by_hand(writer: &mut Writer, records: &[(u16, u16, &[u8])]) {
    let first = writer.next.0;
    let mut content = Vec::new();
    for (lsn, (kind, version, body)) in (first..).zip(records) {
        let domain = samples::DOMAINS[0];
        content.extend(by_hand(writer, lsn, domain, *kind, *version, body));
    }
    let count = u32::try_from(records.len()).unwrap_or(0);
    let mut bytes = b"PHJB".to_vec();
    bytes.extend(96u32.to_le_bytes());
    bytes.extend(first.to_le_bytes());
    bytes.extend(count.to_le_bytes());
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
    writer.next = Lsn(first + u64::from(count));
    writer.begins.push(writer.bytes.len());
    writer.bytes.extend(bytes);
}

/// A batch of a newer writer: an unknown type, a known type with an unknown version, and a
/// `migration-started` as it is.
fn append_newer(writer: &mut Writer) {
    append_by_hand(
        writer,
        &[
            (999, 1, b"what a newer writer knows"),
            (9, 2, &[7; 30]),
            (18, 1, &[0x77; 16]),
        ],
    );
}

/// A batch whose checksums are right and most of whose bodies are not (F9): a `bool` of 2, a word
/// that there is not, text that is not UTF-8, a byte too many, one too few, an option of 2. The
/// first and the last record are whole.
fn append_undecodable(writer: &mut Writer) {
    let migration = [0x77; 16];
    let no_bool = [&migration[..], &0u64.to_le_bytes(), &[2]].concat();
    let no_word = [0u32.to_le_bytes(), 3u32.to_le_bytes()].concat();
    let no_text = [
        &9u64.to_le_bytes()[..],
        &[0; 4],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0xff],
    ]
    .concat();
    let no_option = [&[2][..], &migration].concat();
    append_by_hand(
        writer,
        &[
            (24, 1, &migration),
            (16, 1, &no_bool),
            (7, 1, &no_word),
            (23, 1, &no_text),
            (18, 1, &[0x77; 17]),
            (19, 1, &[0x77; 15]),
            (17, 1, &no_option),
            (24, 1, &migration),
        ],
    );
}

/// Records of every type, drawn: each optional field with and without a value, each word in many
/// places, numbers with all their bytes, text with characters of one to four bytes.
fn drawn() -> Writer {
    /// Larger ones would leave no place for others.
    const RECORD_SIZE_MAX: u64 = 600;
    const BATCHES: u64 = 4;
    const RECORDS: u64 = 39;
    let mut writer = Writer::new(header(1, opening(1, 1), None));
    let mut previous = Vec::new();
    append(
        &mut writer,
        &mut previous,
        &checkpoint(vec![opening(1, 1)], 1),
    );
    // As many as there were when the file was made.
    let types = 26;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for batch in 0..BATCHES {
        let mut drafts = Vec::new();
        while (drafts.len() as u64) < RECORDS {
            let kind = (batch * RECORDS + drafts.len() as u64) % types;
            let mut bytes = kind.to_le_bytes()[..1].to_vec();
            for _ in 0..128 {
                // Xorshift: any numbers, always the same.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.extend(state.to_le_bytes());
            }
            let draft = Draw(&bytes).draft();
            if record_size(&draft).is_some_and(|size| size <= RECORD_SIZE_MAX) {
                drafts.push(draft);
            }
        }
        append(&mut writer, &mut previous, &drafts);
    }
    // What is drawn too rarely.
    let command = EffectCommand::SetParameters {
        max_bandwidth: Some(0x0102_0304_0506_0708),
        downtime_limit: Some(0x1112_1314_1516_1718),
    };
    let (job, instance) = (Some(Lsn(9)), samples::instance());
    let intended = EffectIntended {
        job,
        instance,
        command,
    };
    let intended = draft(
        Some(samples::DOMAINS[0]),
        RecordBody::EffectIntended(intended),
    );
    append(&mut writer, &mut previous, &[intended]);
    writer
}

/// Segments that went wrong. What became of first ones, `later.seg` behind them settles.
fn damaged_segments() -> Vec<(&'static str, Vec<u8>)> {
    // Bodies of the second batch do not decode, and the last byte of the third one's padding is not
    // zero, which loses nothing.
    let mut undecodable = Writer::new(header(1, opening(1, 1), None));
    let mut previous = Vec::new();
    let begun = checkpoint(vec![opening(1, 1)], 1);
    append(&mut undecodable, &mut previous, &begun);
    append_undecodable(&mut undecodable);
    append(&mut undecodable, &mut previous, &outcomes());
    append(&mut undecodable, &mut previous, &sealed());
    let in_padding = undecodable.begins[3] - 1;
    let mut undecodable = undecodable.finish();
    undecodable[in_padding] = 1;

    // Behind the last batch stands a batch that was written for another place.
    let first = every_record();
    let (mut corrupt, mut previous) = later(&first, 2);
    append(&mut corrupt, &mut previous, &outcomes());
    let (begin, end) = (corrupt.begins[1], corrupt.bytes.len());
    let mut corrupt = corrupt.finish();
    corrupt.copy_within(begin..end, end);

    // The file ends in the middle of the third batch.
    let cut = first.begins[2] + 1000;
    let mut cut_off = first.finish();
    cut_off.truncate(cut);

    // The disk lost the first block.
    let mut lost_header = every_record().finish();
    lost_header[..4096].fill(0);

    // One batch more than the next segment tells of.
    let mut longer = every_record();
    append(&mut longer, &mut Vec::new(), &sealed());

    // As long as the next segment tells, but written at another time.
    let mut put_back = Writer::new(header(1, opening(1, 1), None));
    let mut previous = Vec::new();
    for drafts in [begun, intents(), observations(), outcomes()] {
        append(&mut put_back, &mut previous, &drafts);
    }
    let head = put_back.head(boot(), WALL, 0);
    put_back.batch(head, &[(draft(None, RecordBody::Sealed), None)]);

    vec![
        ("undecodable.seg", undecodable),
        ("corrupt-tail.seg", corrupt),
        ("cut-off.seg", cut_off),
        ("lost-header.seg", lost_header),
        ("longer.seg", longer.finish()),
        ("put-back.seg", put_back.finish()),
    ]
}

/// Record types that came later than `every-record.seg`.
fn more_records() -> Writer {
    let mut writer = Writer::new(header(1, opening(1, 1), None));
    let mut previous = Vec::new();
    for drafts in [
        checkpoint(vec![opening(1, 1)], 1),
        histories(),
        authorities(),
        jobs(),
        settings(),
        sealed(),
    ] {
        append(&mut writer, &mut previous, &drafts);
    }
    writer
}

/// Copied disks came later still.
fn copied_disks() -> Writer {
    let mut writer = Writer::new(header(1, opening(1, 1), None));
    let mut previous = Vec::new();
    for drafts in [checkpoint(vec![opening(1, 1)], 1), disks(), sealed()] {
        append(&mut writer, &mut previous, &drafts);
    }
    writer
}

/// And what was sent.
fn guests_sent_away() -> Writer {
    let mut writer = Writer::new(header(1, opening(1, 1), None));
    let mut previous = Vec::new();
    for drafts in [checkpoint(vec![opening(1, 1)], 1), guests_sent(), sealed()] {
        append(&mut writer, &mut previous, &drafts);
    }
    writer
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
    let copy = torn.len() - 4096;
    torn[missing..copy].fill(0);

    // One record of the second batch and the head of the third are damaged; two batches follow.
    let damaged = every_record();
    let (in_record, in_head) = (damaged.begins[1] + 1234, damaged.begins[2] + 20);
    let mut damaged = damaged.finish();
    damaged[in_record] ^= 0x10;
    damaged[in_head] ^= 0x01;

    let mut segments = vec![
        ("every-record.seg", first.finish()),
        ("later.seg", second.finish()),
        ("newer-record.seg", newer.finish()),
        ("torn-tail.seg", torn),
        ("damaged-middle.seg", damaged),
        ("drawn.seg", drawn().finish()),
        ("more-records.seg", more_records().finish()),
        ("copied-disks.seg", copied_disks().finish()),
        ("guests-sent.seg", guests_sent_away().finish()),
    ];
    segments.extend(damaged_segments());
    segments
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
