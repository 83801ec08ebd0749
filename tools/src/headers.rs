//! Headers of segments and batches, field by field, and the end of a journal: what `dump --headers`
//! shows around the records.
//!
//! Invariant: says every field of FORMAT.md's tables that is not a constant of the layout.
//! Not here: what the headers mean for the records (`phase_journal::journal`).

use journal_format::batch::BatchHeader;
use journal_format::number::Chain;
use journal_format::segment::{SegmentEnd, SegmentHeader};
use journal_format::{BLOCK_SIZE, FORMAT_VERSION};
use phase_journal::journal::read::{Ending, SegmentFile};
use phase_journal::journal::verify::is_of_another_version;
use serde_json::{Value, json};

use crate::text::{hex, plain, time};

/// A segment's header, or why there is none.
pub(crate) fn segment_line(file: &SegmentFile, json: bool) -> String {
    let name = file.number.file_name();
    match (&file.header, json) {
        (Ok(header), true) => {
            json!({"segment": segment_json(&name, file.length, header)}).to_string()
        }
        (Err(why), true) => {
            let segment = json!({"file": name, "length": file.length, "why": why.to_string()});
            json!({"segment": segment}).to_string()
        }
        (Ok(header), false) => plain(&segment_words(&name, file.length, header)),
        (Err(why), false) => plain(&format!("== {name}, {} bytes: {why}", file.length)),
    }
}

fn segment_json(name: &str, length: u64, header: &SegmentHeader) -> Value {
    let before = header.before.map(|before| {
        json!({
            "number": before.number,
            "end": before.end,
            "chain": before.chain,
            "last": before.last,
        })
    });
    json!({
        "file": name,
        "length": length,
        "version": FORMAT_VERSION,
        "block-size": BLOCK_SIZE,
        "journal": header.journal,
        "host": header.host,
        "number": header.number,
        "size": header.size,
        "salt": hex(&header.salt.0),
        "first": header.first,
        "epoch": header.epoch,
        "opening": header.opening,
        "before": before,
        "checksum": header.chain(),
    })
}

fn segment_words(name: &str, length: u64, header: &SegmentHeader) -> String {
    let cut_off = if length < header.size {
        format!(", cut off at {length}")
    } else {
        String::new()
    };
    let before = header.before.map_or("the first one".to_owned(), |before| {
        let SegmentEnd {
            number,
            end,
            chain,
            last,
        } = before;
        format!("after segment {number} that ended at byte {end} with lsn {last}, chain {chain}")
    });
    format!(
        "== {name}: version {FORMAT_VERSION}, journal {}, host {}, {} bytes{cut_off}, salt {}, from lsn {}, \
         epoch {}, opening {}, {before}, checksum {}",
        header.journal,
        header.host,
        header.size,
        hex(&header.salt.0),
        header.first,
        header.epoch,
        header.opening,
        header.chain(),
    )
}

/// A batch's header; `checksum` is its own, which is the chain value after it (F6).
pub(crate) fn batch_line(header: &BatchHeader, checksum: Chain, json: bool) -> String {
    if json {
        let batch = json!({
            "file": header.segment.file_name(),
            "offset": header.offset,
            "first": header.first,
            "records": header.records,
            "length": header.length,
            "epoch": header.epoch,
            "chain": header.chain,
            "boot": header.boot,
            "time": header.wall,
            "monotonic": header.monotonic,
            "segment": header.segment,
            "content": header.content,
            "checksum": checksum,
        });
        return json!({"batch": batch}).to_string();
    }
    format!(
        "-- batch at byte {}: lsn {} to {}, {} bytes, epoch {}, boot {}, {}, {} ns since that boot, \
         chain {}, content {:08x}, checksum {checksum}",
        header.offset,
        header.first,
        header.last(),
        header.length,
        header.epoch,
        header.boot,
        time(header.wall),
        header.monotonic,
        header.chain,
        header.content,
    )
}

/// How a journal ends, for programs.
pub(crate) fn end_line(files: &[SegmentFile], ending: Ending) -> Value {
    let end = match ending {
        _ if is_of_another_version(files) => json!({"how": "not-read"}),
        Ending::Clean => json!({"how": "clean"}),
        Ending::Torn { segment, at } => {
            json!({"how": "torn", "file": segment.file_name(), "at": at})
        }
        Ending::Damaged => json!({"how": "damaged"}),
    };
    json!({"end": end})
}
