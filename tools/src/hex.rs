//! Bytes with the names of their fields: `dump -o hex`.
//!
//! Invariant: every byte of a record is shown once, in order, as it lies in the file; the names are those of
//! FORMAT.md's tables and of `dump -o json`.
//! Not here: where a body's fields lie (`fields`), which records are shown (`dump`).

mod fields;

use std::fmt::Write as _;

use journal_format::record::{Decoded, RECORD_HEADER_SIZE};

use crate::text::{hex, plain};
use fields::Field;

/// Bytes in a line at the most.
const LINE: usize = 16;

/// Fields of a fixed layout: offset, size, name.
type Layout = &'static [(usize, usize, &'static str)];

/// FORMAT.md, "Records".
const RECORD: Layout = &[
    (0, 8, "lsn"),
    (8, 8, "previous"),
    (16, 16, "domain"),
    (32, 2, "type"),
    (34, 2, "version"),
    (36, 4, "body length"),
    (40, 4, "body checksum"),
    (44, 4, "checksum"),
];

/// FORMAT.md, "Batches".
const BATCH: Layout = &[
    (0, 4, "magic"),
    (4, 4, "header size"),
    (8, 8, "first lsn"),
    (16, 4, "records"),
    (20, 4, "length"),
    (24, 4, "epoch"),
    (28, 4, "chain"),
    (32, 16, "boot"),
    (48, 8, "wall time"),
    (56, 8, "monotonic time"),
    (64, 8, "segment"),
    (72, 8, "offset"),
    (80, 4, "content"),
    (84, 8, "reserved"),
    (92, 4, "checksum"),
];

/// FORMAT.md, "Segment header", without the zeros before the checksum.
const SEGMENT: Layout = &[
    (0, 8, "magic"),
    (8, 4, "version"),
    (12, 4, "block size"),
    (16, 16, "journal"),
    (32, 16, "host"),
    (48, 8, "number"),
    (56, 8, "size"),
    (64, 16, "salt"),
    (80, 8, "first lsn"),
    (88, 4, "epoch"),
    (92, 4, "flags"),
    (96, 16, "opening"),
    (112, 8, "before: number"),
    (120, 8, "before: end"),
    (128, 4, "before: chain"),
    (132, 4, "reserved"),
    (136, 8, "before: last lsn"),
    (4092, 4, "checksum"),
];

/// A record's bytes, which lie at `at` in the segment.
pub(crate) fn record(record: &Decoded, at: u64, bytes: &[u8]) -> String {
    let mut text = fixed(RECORD, at, bytes);
    let body = bytes.get(RECORD_HEADER_SIZE..).unwrap_or_default();
    let named = match record {
        Decoded::Known(record) => fields::of(&record.body),
        Decoded::Unknown { body, .. } => vec![Field {
            at: 0,
            size: body.len(),
            name: "body".to_owned(),
            value: "of another version".to_owned(),
        }],
    };
    let mut end = 0;
    for field in &named {
        let value = plain(&field.value);
        let here = body.get(field.at..field.at + field.size);
        line(
            &mut text,
            at,
            RECORD_HEADER_SIZE + field.at,
            here.unwrap_or_default(),
            &field.name,
            &value,
        );
        end = field.at + field.size;
    }
    let padding = body.get(end..).unwrap_or_default();
    if !padding.is_empty() {
        line(
            &mut text,
            at,
            RECORD_HEADER_SIZE + end,
            padding,
            "padding",
            "",
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// A batch's header.
pub(crate) fn batch(at: u64, bytes: &[u8]) -> String {
    let mut text = fixed(BATCH, at, bytes);
    text.truncate(text.trim_end().len());
    text
}

/// A segment's header.
pub(crate) fn segment(bytes: &[u8]) -> String {
    let mut text = fixed(SEGMENT, 0, bytes);
    text.truncate(text.trim_end().len());
    text
}

fn fixed(layout: Layout, at: u64, bytes: &[u8]) -> String {
    let mut text = String::new();
    for (offset, size, name) in layout {
        let here = bytes.get(*offset..offset + size).unwrap_or_default();
        line(&mut text, at, *offset, here, name, &value(name, here));
    }
    text
}

/// What bytes of a fixed layout say: a number, or an identity.
fn value(name: &str, bytes: &[u8]) -> String {
    match bytes.len() {
        16 if name != "salt" => <[u8; 16]>::try_from(bytes).map_or_else(
            |_| String::new(),
            |id| journal_format::number::Id128(id).to_string(),
        ),
        2 | 8 | 4
            if !matches!(
                name,
                "magic" | "checksum" | "body checksum" | "content" | "chain" | "before: chain"
            ) =>
        {
            let mut number = [0; 8];
            number[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(number).to_string()
        }
        _ => String::new(),
    }
}

/// One field, in as many lines as it takes; the name stands in the first.
fn line(text: &mut String, at: u64, offset: usize, bytes: &[u8], name: &str, value: &str) {
    let mut said = match (name, value) {
        (name, "") => name.to_owned(),
        (name, value) => format!("{name} = {value}"),
    };
    let mut place = at + offset as u64;
    for chunk in bytes.chunks(LINE) {
        let pairs: Vec<String> = chunk.iter().map(|byte| hex(&[*byte])).collect();
        let shown = format!("{place:08x}  {:<47}  {said}", pairs.join(" "));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", shown.trim_end());
        said.clear();
        place += chunk.len() as u64;
    }
    if bytes.is_empty() {
        let _ = writeln!(text, "{place:08x}  {:<47}  {said}", "");
    }
}

#[cfg(test)]
mod tests;
