//! One record's body: any bytes under a head whose checksums fit.

use journal_format::RECORD_BODY_SIZE_MAX;
use journal_format::batch::{BatchBuilder, BatchHeader};
use journal_format::error::FormatError;
use journal_format::record::{Decoded, Draft, Record, RecordBody, body_size};
use journal_format::whole::{Cursor, WholeBatch};

use super::bytes::Bytes;
use super::scan::{self, SALT};

/// The first byte names the type, the second says what else the head holds; the others are the body.
/// Returns the name of the type if that is what they are.
///
/// # Panics
/// When a body that was read is not the one way to write what it says (F9), or something else is
/// made of it.
pub fn run(bytes: &[u8]) -> Option<&'static str> {
    let mut choices = Bytes::new(bytes);
    let (kind, version) = choices.pick(RecordBody::BODY_VERSIONS);
    let flags = choices.byte();
    let is_known = flags < 0xf0;
    let kind = if is_known { kind } else { kind + 1_000 };
    let body = choices.rest();
    let body = &body[..body.len().min(RECORD_BODY_SIZE_MAX)];
    let (domain, previous) = ([flags & 1; 16], u64::from(flags >> 1 & 1));

    let header = scan::header();
    let mut content = Vec::new();
    scan::put_record(
        header.first,
        previous,
        domain,
        (kind, version),
        body,
        &mut content,
    );
    let (batch, _) = scan::batch(header.first, 1, header.chain(), scan::BLOCK, 0, &content);
    let whole = Cursor::new(&header).advance(&batch);
    let whole = whole.expect("its checksums and its place are right");
    let mut views = whole.records();
    let view = views.next().expect("it has one record");
    assert!(views.next().is_none());
    assert_eq!(
        (view.kind, view.version, view.body()),
        (kind, version, body)
    );
    match view.decode() {
        Ok(Decoded::Known(record)) => {
            assert_eq!(body_size(&record.body), Some(body.len() as u64));
            let type_name = record.body.type_name();
            assert_eq!(
                rebuilt(&whole, core::slice::from_ref(&record)),
                batch,
                "{record:?}"
            );
            // What people are shown of it.
            serde_json::to_string(&record.body).expect("a body is shown as JSON");
            Some(type_name)
        }
        Ok(Decoded::Unknown { body: kept, .. }) => {
            assert!(!is_known, "type {kind} of version {version} is ours");
            assert_eq!(kept, body, "what is skipped stays as it is");
            None
        }
        Err(FormatError::Body { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// The batch with these records, as this program writes it.
pub(super) fn rebuilt(whole: &WholeBatch<'_>, records: &[Record]) -> Vec<u8> {
    let header = BatchHeader {
        records: 0,
        length: 0,
        content: 0,
        ..whole.header
    };
    let mut builder = BatchBuilder::new(SALT, header);
    for record in records {
        let (domain, body) = (record.domain, record.body.clone());
        assert_eq!(builder.next_lsn(), record.lsn);
        builder
            .push(&Draft { domain, body }, record.previous)
            .expect("what was read can be written");
    }
    let (bytes, chain) = builder.finish();
    assert_eq!(chain, whole.chain);
    bytes
}
