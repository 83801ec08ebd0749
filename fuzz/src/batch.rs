//! One batch: any bytes at a batch's place, and batches that are nearly right.

use journal_format::batch::BatchHeader;
use journal_format::number::Lsn;
use journal_format::record::{Decoded, Record, RecordBody};
use journal_format::scan::scan;
use journal_format::whole::Cursor;

use super::bytes::Bytes;
use super::record::rebuilt;
use super::scan::{self, BLOCK, SALT};

/// The first byte says whether the others are a batch as they are, or say what one is made of.
///
/// # Panics
/// When the one who reads in place and the scanner do not agree, or a whole batch of known records is
/// not the one way to write them.
pub fn run(bytes: &[u8]) {
    let mut choices = Bytes::new(bytes);
    let batch = if choices.yes() {
        drawn(&mut choices)
    } else {
        choices.rest().to_vec()
    };
    check(&batch);
}

/// A batch whose records and header are drawn: wrong in a few places or none.
fn drawn(choices: &mut Bytes<'_>) -> Vec<u8> {
    let header = scan::header();
    let odd = choices.byte();
    let odd = if choices.yes() { odd } else { 0 };
    let (mut content, mut next) = (Vec::new(), header.first);
    let mut records = 0;
    for _ in 0..=choices.below(6) {
        let (kind, version) = choices.pick(RecordBody::BODY_VERSIONS);
        let skips = choices.byte();
        let length = choices.number() % 600;
        let body: Vec<u8> = (0..length).map(|_| choices.byte()).collect();
        let domain = [skips & 3; 16];
        let lsn = Lsn(next.0 + u64::from(skips == u8::MAX));
        scan::put_record(lsn, 0, domain, (kind, version), &body, &mut content);
        next = Lsn(lsn.0 + 1);
        records += 1;
    }
    let (mut batch, _) = scan::batch(header.first, records, header.chain(), BLOCK, odd, &content);
    if choices.yes() {
        let at = choices.number() % batch.len();
        batch[at] ^= choices.byte();
    }
    batch
}

fn check(batch: &[u8]) {
    let header = scan::header();
    let decoded = BatchHeader::decode(&SALT, header.number, BLOCK as u64, batch);
    if let Ok(decoded) = &decoded {
        assert!(decoded.records > 0 && decoded.first <= decoded.last());
        assert!(decoded.size().is_multiple_of(BLOCK as u64));
    }
    let mut cursor = Cursor::new(&header);
    let whole = cursor.advance(batch);
    let mut file = header.encode();
    file.extend(batch);
    scan::check(&file);
    let found = scan(&file).expect("its head is right");
    let Some(whole) = whole else {
        let place = (cursor.at(), cursor.next_lsn(), cursor.chain());
        let before = (BLOCK as u64, header.first, header.chain());
        assert_eq!(place, before, "no step over what is not whole");
        return;
    };
    assert_eq!(decoded, Ok(whole.header));
    assert_eq!(cursor.at(), BLOCK as u64 + whole.header.size());
    assert_eq!(cursor.next_lsn().0, whole.header.last().0 + 1);
    let first = found.batches.first().expect("the scanner finds it too");
    assert_eq!((first.header, first.chain), (whole.header, whole.chain));
    let views: Vec<_> = whole.records().collect();
    assert_eq!(views.len() as u64, u64::from(whole.header.records));
    let known = views.iter().map(|view| match view.decode() {
        Ok(Decoded::Known(record)) => Some(record),
        Ok(Decoded::Unknown { .. }) | Err(_) => None,
    });
    if let Some(records) = known.collect::<Option<Vec<Record>>>() {
        let size = usize::try_from(whole.header.size()).unwrap_or(usize::MAX);
        assert_eq!(rebuilt(&whole, &records), batch[..size]);
    }
}
