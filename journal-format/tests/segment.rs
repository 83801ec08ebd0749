//! A small segment, written and read back, whole and damaged in every way.

mod support;

use journal_format::batch::{BatchBuilder, BatchHeader};
use journal_format::error::FormatError;
use journal_format::number::{
    BootId, DomainId, Epoch, HostId, JournalId, Lsn, OpeningId, Salt, SegmentNumber,
};
use journal_format::record::{Decoded, DefinitionPart, Draft, RecordBody};
use journal_format::scan::{Scan, Tail, scan};
use journal_format::segment::SegmentHeader;
use journal_format::whole::Cursor;
use journal_format::{
    BATCH_RECORDS_MAX, BATCH_SIZE_MAX, BLOCK_SIZE, RECORD_BODY_SIZE_MAX, SEGMENT_SIZE_MIN,
};

use support::{Writer, id, records};

const BLOCK: usize = BLOCK_SIZE as usize;

fn header() -> SegmentHeader {
    SegmentHeader {
        journal: JournalId(id(1)),
        host: HostId(id(2)),
        number: SegmentNumber(3),
        size: SEGMENT_SIZE_MIN,
        salt: Salt([4; 16]),
        first: Lsn(10),
        epoch: Epoch(2),
        opening: OpeningId(id(5)),
        before: None,
    }
}

fn part(index: u16, size: usize) -> Draft {
    let text = "x".repeat(size);
    let body = RecordBody::DefinitionPart(DefinitionPart {
        first: Lsn(10),
        index,
        count: 9,
        text,
    });
    Draft {
        domain: Some(DomainId(id(6))),
        body,
    }
}

/// A segment with batches of records of those sizes: where each batch begins, and the bytes.
fn segment(batches: &[&[usize]]) -> (Vec<usize>, Vec<u8>) {
    let mut writer = Writer::new(header());
    for sizes in batches {
        let records: Vec<_> = (0u16..)
            .zip(*sizes)
            .map(|(index, size)| (part(index, *size), None))
            .collect();
        writer.batch(writer.head(BootId(id(7)), 1, 2), &records);
    }
    (writer.begins.clone(), writer.finish())
}

fn lsns(scan: &Scan) -> Vec<u64> {
    records(scan)
        .into_iter()
        .map(|record| record.lsn().0)
        .collect()
}

const BATCHES: &[&[usize]] = &[&[10, 20], &[3000, 3000, 10], &[5], &[100, 4000, 100]];

#[test]
fn what_is_written_is_read() {
    let (_, bytes) = segment(BATCHES);
    let scan = scan(&bytes).unwrap();
    assert_eq!(lsns(&scan), (10..19).collect::<Vec<u64>>());
    assert_eq!(
        (scan.damage.len(), scan.tail, scan.next),
        (0, Tail::Clean, Lsn(19))
    );
    let first = &scan.batches[0].records[0].record;
    let Decoded::Known(record) = first else {
        panic!("{first:?}")
    };
    assert_eq!(
        (record.domain, record.body.clone()),
        (Some(DomainId(id(6))), part(0, 10).body)
    );
}

/// F11, F12: whatever bit flips, nothing wrong is read, and nothing that was acknowledged (all but
/// the last batch, for which torn is the honest answer if its header or a record is hit) is lost in silence.
#[test]
fn every_flipped_bit_is_found() {
    let (begins, clean) = segment(BATCHES);
    let whole = scan(&clean).unwrap();
    let last = *begins.last().unwrap();
    let used = last + 2 * BLOCK;
    let head = whole.batches.last().unwrap().header;
    let content_end = last + 96 + usize::try_from(head.length).unwrap();
    assert!(content_end + 100 < used);
    for at in (0..used).step_by(7) {
        for bit in [0, 5] {
            let mut bytes = clean.clone();
            bytes[at] ^= 1 << bit;
            let damaged = scan(&bytes).unwrap();
            let intact = records(&whole);
            for record in records(&damaged) {
                assert!(intact.contains(&record), "wrong data at {at}");
            }
            let mut seen = lsns(&damaged);
            for gap in &damaged.damage {
                seen.extend(gap.first.0..=gap.last.0);
            }
            seen.sort_unstable();
            // Behind the records is only padding, which costs nothing.
            let in_last = (last..content_end).contains(&at);
            let expected: Vec<u64> = if in_last {
                (10..16).collect()
            } else {
                (10..19).collect()
            };
            assert_eq!(
                seen, expected,
                "at {at} bit {bit}: {:?} {:?}",
                damaged.damage, damaged.tail
            );
            assert_eq!(damaged.tail == Tail::Clean, !in_last, "at {at}");
        }
    }
}

/// F12: a batch that was cut short at any sector was never acknowledged.
#[test]
fn a_torn_batch_is_torn() {
    let (begins, clean) = segment(BATCHES);
    let last = *begins.last().unwrap();
    let end = last + 2 * BLOCK;
    for cut in (last + 512..end).step_by(512) {
        let mut bytes = clean.clone();
        bytes[cut..end].fill(0);
        let torn = scan(&bytes).unwrap();
        let whole = clean[cut..end].iter().all(|byte| *byte == 0);
        let expected = if whole {
            Tail::Clean
        } else {
            Tail::Torn { at: last as u64 }
        };
        assert_eq!(torn.tail, expected, "cut at {cut}");
        // Written out of order: the begin is missing, the rest is there.
        let mut bytes = clean.clone();
        bytes[last..cut].fill(0);
        let torn = scan(&bytes).unwrap();
        assert!(
            matches!(torn.tail, Tail::Torn { .. } | Tail::Clean),
            "begin lost up to {cut}"
        );
        assert_eq!(torn.next, Lsn(16));
    }
}

/// F11: zeros in the middle are damage, since a later batch is there.
#[test]
fn a_missing_batch_is_damage() {
    let (begins, mut bytes) = segment(BATCHES);
    bytes[begins[1]..begins[2]].fill(0);
    let scan = scan(&bytes).unwrap();
    assert_eq!(lsns(&scan), vec![10, 11, 15, 16, 17, 18]);
    assert_eq!(scan.damage.len(), 1);
    assert_eq!(
        (scan.damage[0].first, scan.damage[0].last),
        (Lsn(12), Lsn(14))
    );
    assert_eq!(scan.damage[0].at, begins[1] as u64);
}

/// F3, F7: a batch of another place or another segment, and one that a guest planted, never pass.
#[test]
fn a_batch_out_of_place_is_no_batch() {
    let (begins, clean) = segment(BATCHES);
    let mut repeated = clean.clone();
    let batch = clean[begins[2]..begins[2] + BLOCK].to_vec();
    let after = begins[3] + 2 * BLOCK;
    repeated[after..after + BLOCK].copy_from_slice(&batch);
    let found = scan(&repeated).unwrap();
    assert_eq!(found.next, Lsn(19));
    assert!(
        matches!(found.tail, Tail::Corrupt { .. }),
        "{:?}",
        found.tail
    );

    let mut other = header();
    other.salt = Salt([9; 16]);
    let mut swapped = clean;
    swapped[..BLOCK].copy_from_slice(&other.encode());
    let found = scan(&swapped).unwrap();
    assert_eq!(lsns(&found), Vec::<u64>::new());
}

/// F6: the chain value stands for everything before it, also for what stands in a record's header.
#[test]
fn the_chain_value_depends_on_every_byte() {
    let chain_of = |texts: usize, previous: Option<Lsn>, wall: u64| {
        let header = header();
        let mut head = BatchHeader {
            first: header.first,
            records: 0,
            length: 0,
            epoch: header.epoch,
            chain: header.chain(),
            boot: BootId(id(7)),
            wall,
            monotonic: 2,
            segment: header.number,
            offset: BLOCK_SIZE.into(),
            content: 0,
        };
        for _ in 0..2 {
            let mut builder = BatchBuilder::new(header.salt, head);
            for index in 0..2 {
                builder.push(&part(index, texts), previous).unwrap();
            }
            head.first = builder.next_lsn();
            head.chain = builder.finish().1;
            head.offset += u64::from(BLOCK_SIZE);
        }
        head.chain
    };
    let mut chains = vec![
        chain_of(10, None, 1),
        chain_of(11, None, 1),
        chain_of(10, Some(Lsn(3)), 1),
        chain_of(10, Some(Lsn(4)), 1),
        chain_of(10, None, 2),
        header().chain(),
        SegmentHeader {
            first: Lsn(11),
            ..header()
        }
        .chain(),
    ];
    chains.sort_unstable_by_key(|chain| chain.0);
    chains.dedup();
    assert_eq!(chains.len(), 7);
}

/// F15: a field that must be zero and is not makes a header invalid, whatever its checksum says.
#[test]
fn a_reserved_byte_is_zero() {
    let masked = |bytes: &[u8]| {
        let crc = crc32fast::hash(bytes);
        crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    let whole = header().encode();
    for at in [92, 93, 132, 144, 4000, 4091] {
        let mut block = whole.clone();
        block[at] = 0x80;
        let checksum = masked(&block[..4092]);
        block[4092..].copy_from_slice(&checksum);
        let what = "segment header";
        assert_eq!(
            SegmentHeader::decode(&block),
            Err(FormatError::Field { what }),
            "at {at}"
        );
    }
    let (begins, clean) = segment(BATCHES);
    let salt = header().salt.0;
    for at in 84..92 {
        let mut bytes = clean.clone();
        let batch = &mut bytes[begins[3]..];
        batch[at] = 1;
        let checksum = masked(&[&salt, &batch[..92]].concat());
        batch[92..96].copy_from_slice(&checksum);
        let found = scan(&bytes).unwrap();
        assert_eq!((found.next, found.batches.len()), (Lsn(16), 3), "at {at}");
    }
}

/// F5: another version is told before the checksum is looked at.
#[test]
fn another_version_is_named() {
    let mut block = header().encode();
    block[8] = 3;
    assert_eq!(
        SegmentHeader::decode(&block),
        Err(FormatError::Version { found: 3 })
    );
    block[0] = 0;
    let what = "segment header";
    assert_eq!(
        SegmentHeader::decode(&block),
        Err(FormatError::NoMagic { what })
    );
}

/// F2: only the name that a writer gives is a segment's.
#[test]
fn a_segment_s_name() {
    for (number, name) in [
        (1, "0000000000000001.seg"),
        (u64::MAX, "18446744073709551615.seg"),
    ] {
        let number = SegmentNumber(number);
        assert_eq!(number.file_name(), name);
        assert_eq!(SegmentNumber::parse(name), Some(number));
    }
    for name in [
        "1.seg",
        "0000000000000000.seg",
        "00000000000000001.seg",
        "0000000000000001.seg.new",
        "+000000000000001.seg",
        "18446744073709551616.seg",
        "lock",
    ] {
        assert_eq!(SegmentNumber::parse(name), None, "{name}");
    }
}

/// F4: what lies behind a segment's size is not the segment's.
#[test]
fn bytes_beyond_the_size_do_not_count() {
    let (_, clean) = segment(BATCHES);
    let mut longer = clean.clone();
    longer.extend([0x55; 5000]);
    assert_eq!(scan(&longer), scan(&clean));
}

/// Every block begins with a header that claims the largest content: reading them costs no more than
/// their number and one look at each content.
#[test]
fn headers_that_claim_the_same_bytes_are_soon_read() {
    let size = 64 * u64::from(BATCH_SIZE_MAX) / 4;
    let header = SegmentHeader { size, ..header() };
    let mut bytes = header.encode();
    let last = usize::try_from(size).unwrap() - BLOCK - BATCH_SIZE_MAX as usize;
    while bytes.len() < last {
        let at = bytes.len() as u64;
        let head = BatchHeader {
            first: Lsn(100 + at),
            records: 0,
            length: 0,
            epoch: header.epoch,
            chain: header.chain(),
            boot: BootId(id(7)),
            wall: 1,
            monotonic: 2,
            segment: header.number,
            offset: at,
            content: 0,
        };
        let mut claim = BatchBuilder::new(header.salt, head);
        while claim.push(&part(0, 4000), None).is_ok() {}
        let (claim, _) = claim.finish();
        bytes.extend(&claim[..BLOCK]);
    }
    bytes.resize(usize::try_from(size).unwrap(), 0);
    let begun = std::time::Instant::now();
    let scan = scan(&bytes).unwrap();
    assert_eq!((scan.batches.len(), scan.next), (0, header.first));
    assert!(matches!(scan.tail, Tail::Corrupt { .. }), "{:?}", scan.tail);
    // With every claimed content read record by record this is more than a quarter of a minute.
    let passed = begun.elapsed();
    assert!(passed.as_secs() < 8, "{passed:?}");
}

fn batch_of(writer: &mut Writer, first: u64, sizes: &[usize]) {
    let head = BatchHeader {
        first: Lsn(first),
        ..writer.head(BootId(id(7)), 1, 2)
    };
    let records: Vec<_> = (0u16..)
        .zip(sizes)
        .map(|(index, size)| (part(index, *size), None))
        .collect();
    writer.batch(head, &records);
}

/// F7: all else fits, and it was written by another opening.
#[test]
fn a_batch_of_another_epoch_is_no_batch() {
    let mut writer = Writer::new(header());
    let head = BatchHeader {
        epoch: Epoch(3),
        ..writer.head(BootId(id(7)), 1, 2)
    };
    writer.batch(head, &[(part(0, 10), None)]);
    let bytes = writer.finish();
    let scan = scan(&bytes).unwrap();
    assert!(scan.batches.is_empty());
    assert!(matches!(scan.tail, Tail::Corrupt { .. }), "{:?}", scan.tail);
    let mut cursor = Cursor::new(&header());
    assert!(cursor.advance(&bytes[BLOCK..]).is_none());
}

/// F6: right behind a damaged batch with a whole header, the very next LSN is not enough.
#[test]
fn a_batch_behind_a_damaged_one_continues_its_chain() {
    for follows in [true, false] {
        let mut writer = Writer::new(header());
        batch_of(&mut writer, 10, &[10]);
        batch_of(&mut writer, 11, &[10]);
        if !follows {
            writer.chain.0 ^= 1;
        }
        batch_of(&mut writer, 12, &[10]);
        let damaged = writer.begins[1];
        let mut bytes = writer.finish();
        bytes[damaged + 96 + 60] ^= 1;
        let scan = scan(&bytes).unwrap();
        if follows {
            assert_eq!(lsns(&scan), [10, 12]);
        } else {
            assert_eq!(lsns(&scan), [10]);
            assert!(matches!(scan.tail, Tail::Corrupt { .. }), "{:?}", scan.tail);
        }
    }
}

/// F23: of two records with the same LSN the first counts.
#[test]
fn of_two_records_without_a_batch_the_first_counts() {
    let mut writer = Writer::new(header());
    for (first, size) in [(10, 10), (11, 20), (11, 30), (12, 40)] {
        batch_of(&mut writer, first, &[size]);
    }
    let begins = writer.begins.clone();
    let mut bytes = writer.finish();
    bytes[begins[1]] ^= 1;
    bytes[begins[2]] ^= 1;
    let scan = scan(&bytes).unwrap();
    assert_eq!(lsns(&scan), [10, 11, 12]);
    assert_eq!(scan.damage, []);
    let found = &scan.batches[1].records[0];
    assert_eq!(found.offset, begins[1] as u64 + 96);
}

/// F24: a copy does not tell of a file that goes on behind it.
#[test]
fn a_copy_of_the_header_ends_its_file() {
    let (_, bytes) = segment(BATCHES);
    let (block, other) = (&bytes[..BLOCK], [0; BLOCK]);
    let length = bytes.len() as u64;
    assert!(SegmentHeader::of_file(&other, block, length).is_ok());
    assert!(SegmentHeader::of_file(&other, block, length - 1).is_err());
    assert!(SegmentHeader::of_file(&other, block, length + BLOCK as u64).is_err());
}

/// F14: a batch whose content goes on behind its last record, to the end of all numbers.
#[test]
fn numbers_end_where_a_batch_has_more_records_than_it_says() {
    let header = SegmentHeader {
        first: Lsn(u64::MAX - 1),
        ..header()
    };
    let head = BatchHeader {
        first: header.first,
        records: 0,
        length: 0,
        epoch: header.epoch,
        chain: header.chain(),
        boot: BootId(id(7)),
        wall: 1,
        monotonic: 2,
        segment: header.number,
        offset: SegmentHeader::batches_begin(),
        content: 0,
    };
    let mut batch = BatchBuilder::new(header.salt, head);
    for index in 0..3 {
        batch.push(&part(index, 10), None).unwrap();
    }
    let (mut batch, _) = batch.finish();
    batch[16..20].copy_from_slice(&1u32.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header.salt.0);
    crc.update(&batch[..92]);
    let crc = crc.finalize().rotate_right(15).wrapping_add(0xa282_ead8);
    batch[92..96].copy_from_slice(&crc.to_le_bytes());
    assert!(BatchHeader::decode(&header.salt, header.number, head.offset, &batch).is_ok());
    let mut cursor = Cursor::new(&header);
    assert!(cursor.advance(&batch).is_none());
    assert_eq!(cursor.next_lsn(), header.first);
}

/// F13: bytes where no torn write of one batch reaches are no torn tail.
#[test]
fn bytes_beyond_a_torn_batch_are_corruption() {
    let (begins, clean) = segment(BATCHES);
    let (last, end) = (begins[3], begins[3] + 2 * BLOCK);
    for at in [end, end + BLOCK + 17, clean.len() - BLOCK - 1] {
        let mut bytes = clean.clone();
        bytes[last + 500] ^= 1;
        bytes[at] = 1;
        let found = scan(&bytes).unwrap();
        assert!(
            matches!(found.tail, Tail::Corrupt { at, .. } if at == last as u64),
            "{at}: {:?}",
            found.tail
        );
        assert_eq!(found.next, Lsn(16));
    }
}

/// F11: a damaged batch, a lost one behind it, and one that is whole: each is told for itself.
#[test]
fn damage_and_a_lost_batch_in_a_row() {
    let (begins, mut bytes) = segment(BATCHES);
    bytes[begins[1] + 200] ^= 1;
    // The header, and the only record.
    bytes[begins[2]] ^= 1;
    bytes[begins[2] + 100] ^= 1;
    let found = scan(&bytes).unwrap();
    assert_eq!(lsns(&found), vec![10, 11, 13, 14, 16, 17, 18]);
    let told: Vec<_> = found
        .damage
        .iter()
        .map(|damage| (damage.first.0, damage.last.0, damage.why.clone()))
        .collect();
    let checksum = FormatError::Checksum { what: "record" };
    let magic = FormatError::NoMagic {
        what: "batch header",
    };
    assert_eq!(told, vec![(12, 12, checksum), (15, 15, magic)]);
}

/// F14: a batch takes what a batch may have and no more, and is as it was after a refusal.
#[test]
fn limits_are_kept() {
    let (begins, bytes) = segment(&[&[10]]);
    let header = header();
    let head = BatchHeader::decode(
        &header.salt,
        header.number,
        begins[0] as u64,
        &bytes[begins[0]..],
    )
    .unwrap();
    let mut builder = BatchBuilder::new(header.salt, head);
    assert!(matches!(
        builder.push(&part(0, RECORD_BODY_SIZE_MAX), None),
        Err(FormatError::TooLarge { .. })
    ));
    let mut count = 0;
    while builder.push(&part(0, 4096), None).is_ok() {
        count += 1;
    }
    let (whole, _) = builder.finish();
    assert_eq!(count, (BATCH_SIZE_MAX as usize - 96) / (48 + 24 + 4096));
    assert!(whole.len() <= BATCH_SIZE_MAX as usize);
    let mut builder = BatchBuilder::new(header.salt, head);
    let sealed = Draft {
        domain: None,
        body: RecordBody::Sealed,
    };
    while builder.push(&sealed, None).is_ok() {}
    assert_eq!(
        builder.next_lsn(),
        head.first.plus(BATCH_RECORDS_MAX.into()).unwrap()
    );
}
