//! A QMP connection's bytes, on either side: the same messages however they are cut, within limits.

use phase_journal::qmp::{Message, Passed, SplitError, Splitter};

use super::bytes::Bytes;

/// Limits on a message's size that are worth to be tried.
const SIZES_MAX: &[usize] = &[16_384, 64, 1, 4096];

/// More than the largest of them, and no more than is gone over quickly.
const STREAM_SIZE_MAX: usize = 20_000;
/// Bytes read at once, at the most.
const READ_SIZE: usize = 16 * 1024;

/// The first bytes say the limit and how the others are cut.
///
/// # Panics
/// When the messages depend on the cuts, or one is over a limit.
pub fn run(bytes: &[u8]) {
    let mut choices = Bytes::new(bytes);
    let size_max = choices.pick(SIZES_MAX);
    // Whatever is repeated makes long stretches out of few bytes.
    let times = 1 + choices.below(128);
    // One byte at a time, too.
    let cut = 1 + choices.number() % 5_000;
    let mut stream = choices.rest().repeat(times);
    stream.truncate(STREAM_SIZE_MAX);
    let whole = messages(size_max, stream.chunks(READ_SIZE));
    assert_eq!(whole, messages(size_max, stream.chunks(cut)));
    let broken = whole.iter().position(is_fatal);
    assert!(broken.is_none_or(|at| at + 1 == whole.len()));
    let length: usize = whole.iter().flatten().map(Vec::len).sum();
    assert!(length <= stream.len());
    for object in whole.iter().flatten() {
        assert!(object.len() <= size_max);
        assert_eq!((object.first(), object.len() >= 2), (Some(&b'{'), true));
        understood(object);
        passed(object);
    }
}

/// What goes on to QEMU for a client is JSON with our id and its command, whatever came.
fn passed(object: &[u8]) {
    let Ok(passed) = Passed::understand(object.to_vec(), true, Vec::new()) else {
        return;
    };
    let (name, text) = (passed.name().to_owned(), passed.journaled().0);
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    let (line, _) = passed.with_id(7);
    let json: serde_json::Value = serde_json::from_slice(&line).expect("QEMU can read it");
    assert_eq!(json["id"], 7);
    let command = ["execute", "exec-oob"].map(|key| json.get(key).and_then(|one| one.as_str()));
    assert!(command.contains(&Some(name.as_str())));
}

fn is_fatal(one: &Result<Vec<u8>, SplitError>) -> bool {
    one.as_ref().is_err_and(|error| !error.is_recoverable())
}

/// Everything up to the end, or to what nothing can be read behind.
fn messages<'a>(
    size_max: usize,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Vec<Result<Vec<u8>, SplitError>> {
    let mut splitter = Splitter::new(size_max);
    let mut found = Vec::new();
    for piece in pieces {
        splitter.push(piece);
        while let Some(one) = splitter.next_object() {
            let fatal = is_fatal(&one);
            found.push(one);
            if fatal {
                return found;
            }
        }
    }
    found
}

/// An object means the same to both sides.
fn understood(object: &[u8]) {
    let json: Result<serde_json::Map<String, serde_json::Value>, _> =
        serde_json::from_slice(object);
    let message = Message::parse(object);
    let Ok(json) = json else {
        assert_eq!(message, None, "no JSON is no message");
        return;
    };
    let id = json.get("id");
    match message.expect("an object is a message") {
        Message::Greeting { greeting, .. } => assert_eq!(json.get("QMP"), Some(&greeting)),
        Message::Return { id: found, value } => {
            assert_eq!((id, json.get("return")), (found.as_ref(), Some(&value)));
        }
        Message::Error { id: found, .. } => {
            assert!(id == found.as_ref() && json.contains_key("error"));
        }
        Message::Event { name, .. } => assert_eq!(json["event"], name.as_str()),
        Message::Other(_) => {
            let known = ["QMP", "return", "error"];
            assert!(known.iter().all(|key| !json.contains_key(*key)));
        }
    }
}
