//! Every byte of every kind of record has a name.

use journal_format::record::{Decoded, RecordBody, body_size};
use journal_format::scan::scan;

use super::*;

fn golden(name: &str) -> Vec<u8> {
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../journal-format/tests/golden/"
    );
    std::fs::read(format!("{golden}{name}")).unwrap()
}

/// The fields are those that the bytes have: their sizes add up, and each number is read from its bytes.
#[test]
fn the_fields_of_every_golden_record_fill_its_body() {
    let mut kinds = std::collections::BTreeSet::new();
    for name in [
        "every-record.seg",
        "more-records.seg",
        "copied-disks.seg",
        "guests-sent.seg",
        "drawn.seg",
    ] {
        let bytes = golden(name);
        let batches = scan(&bytes).unwrap().batches;
        for placed in batches.iter().flat_map(|batch| &batch.records) {
            let Decoded::Known(record) = &placed.record else {
                continue;
            };
            kinds.insert(record.body.type_number());
            let named = fields::of(&record.body);
            let begin = usize::try_from(placed.offset).unwrap() + RECORD_HEADER_SIZE;
            let mut end = 0;
            for field in &named {
                assert_eq!(field.at, end, "{name}: {field:?}");
                end += field.size;
                let here = &bytes[begin + field.at..begin + end];
                if let (8, Ok(number)) = (field.size, field.value.parse::<u64>()) {
                    assert_eq!(here, number.to_le_bytes(), "{name}: {field:?}");
                }
                if let (16, Some(id)) = (
                    field.size,
                    journal_format::number::Id128::parse(&field.value),
                ) {
                    assert_eq!(here, id.0, "{name}: {field:?}");
                }
            }
            assert_eq!(
                Some(end as u64),
                body_size(&record.body),
                "{name}: {record:?}"
            );
        }
    }
    assert_eq!(kinds.len(), RecordBody::TYPES.len());
}

/// Layouts follow without a hole, but for the zeros before the last checksum of a segment's header.
#[test]
fn the_headers_have_no_hole() {
    for (layout, size) in [(RECORD, 48), (BATCH, 96), (SEGMENT, 4096)] {
        let mut end = 0;
        for (offset, length, name) in layout {
            assert!(*offset == end || *offset == 4092, "{name}");
            end = offset + length;
        }
        assert_eq!(end, size);
    }
}
