//! JSON objects out of a stream of bytes, and QMP messages out of objects.
//!
//! Invariant: total over any bytes; every byte is looked at once, however the stream is cut. What a
//! newer QEMU adds (members, events, enum values) survives.
//! Not here: sockets.

use core::fmt;

use serde_json::{Map, Value};

/// Deepest nesting of a message.
const DEPTH_MAX: usize = 128;
/// The longest stretch of something that is no JSON object that is swallowed in one piece.
const GARBAGE_SIZE_MAX: usize = 4096;

/// Why the bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// Something else than a JSON object; the stream goes on behind it.
    NotAnObject,
    /// A message over the limit; the stream cannot go on.
    TooLong {
        /// The limit in bytes.
        size_max: usize,
    },
    /// Nested too deeply; the stream cannot go on.
    TooDeep,
}

impl SplitError {
    /// Can the stream be read on behind it?
    #[must_use]
    pub fn is_recoverable(self) -> bool {
        match self {
            SplitError::NotAnObject => true,
            SplitError::TooLong { .. } | SplitError::TooDeep => false,
        }
    }
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SplitError::NotAnObject => f.write_str("JSON parse error: expected an object"),
            SplitError::TooLong { size_max } => {
                write!(f, "JSON parse error: message longer than {size_max} bytes")
            }
            SplitError::TooDeep => {
                write!(f, "JSON parse error: nested deeper than {DEPTH_MAX} levels")
            }
        }
    }
}

impl core::error::Error for SplitError {}

/// Cuts a stream of bytes into JSON objects; a newline between them is allowed and not needed.
#[derive(Debug)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// How far the buffer was looked at.
    scanned: usize,
    depth: usize,
    /// The quote that ends the string, within one. QEMU also takes single ones.
    quote: Option<u8>,
    escaped: bool,
    size_max: usize,
}

impl Splitter {
    /// A splitter for messages up to `size_max` bytes.
    #[must_use]
    pub fn new(size_max: usize) -> Splitter {
        Splitter {
            buffer: Vec::new(),
            scanned: 0,
            depth: 0,
            quote: None,
            escaped: false,
            size_max,
        }
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many of the bytes that were taken have not been given out yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Those bytes.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.buffer
    }

    /// The next object's bytes; `None` when more must be read first.
    pub fn next_object(&mut self) -> Option<Result<Vec<u8>, SplitError>> {
        if self.depth == 0 && self.scanned == 0 {
            let blank = self
                .buffer
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count();
            self.buffer.drain(..blank);
            if *self.buffer.first()? != b'{' {
                return self.garbage();
            }
        }
        while let Some(byte) = self.buffer.get(self.scanned).copied() {
            self.scanned += 1;
            if self.scanned > self.size_max {
                return Some(Err(SplitError::TooLong {
                    size_max: self.size_max,
                }));
            }
            match (self.quote, byte) {
                (Some(_), _) if self.escaped => self.escaped = false,
                (Some(_), b'\\') => self.escaped = true,
                (Some(quote), _) if byte == quote => self.quote = None,
                (None, b'"' | b'\'') => self.quote = Some(byte),
                (None, b'{' | b'[') => {
                    self.depth += 1;
                    if self.depth > DEPTH_MAX {
                        return Some(Err(SplitError::TooDeep));
                    }
                }
                (None, b'}' | b']') => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(Ok(self.take(self.scanned)));
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn take(&mut self, size: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(size);
        self.scanned = 0;
        core::mem::replace(&mut self.buffer, rest)
    }

    /// Swallows what is no object, up to the next line or object, however it arrives.
    fn garbage(&mut self) -> Option<Result<Vec<u8>, SplitError>> {
        let ends = |byte: &u8| *byte == b'\n' || *byte == b'{';
        let mut piece = self.buffer.iter().take(GARBAGE_SIZE_MAX);
        let length = piece.len();
        let size = match piece.position(ends) {
            Some(size) => size,
            None if length == GARBAGE_SIZE_MAX => GARBAGE_SIZE_MAX,
            None => return None,
        };
        self.take(size.max(1));
        Some(Err(SplitError::NotAnObject))
    }
}

/// A message from a QMP server.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first one of a connection.
    Greeting {
        /// Whether out-of-band commands are offered.
        oob: bool,
        /// All of it.
        greeting: Value,
    },
    /// A command succeeded.
    Return {
        /// As sent with the command.
        id: Option<Value>,
        /// The result.
        value: Value,
    },
    /// A command failed, or what was sent was no command.
    Error {
        /// As sent with the command; absent if the command could not be read.
        id: Option<Value>,
        /// The class; only this may be interpreted.
        class: String,
        /// For people.
        description: String,
    },
    /// Something happened.
    Event {
        /// Its name.
        name: String,
        /// Its data; null if it has none.
        data: Value,
    },
    /// Something that is none of these.
    Other(Value),
}

impl Message {
    /// Reads an object's bytes; `None` if they are no JSON.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Message> {
        let mut object: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
        let id = object.remove("id");
        if let Some(greeting) = object.remove("QMP") {
            let offered = greeting.get("capabilities").and_then(Value::as_array);
            let oob = offered.is_some_and(|offered| offered.iter().any(|one| one == "oob"));
            return Some(Message::Greeting { oob, greeting });
        }
        if let Some(value) = object.remove("return") {
            return Some(Message::Return { id, value });
        }
        if let Some(error) = object.remove("error") {
            let text = |key: &str| {
                error
                    .get(key)
                    .and_then(Value::as_str)
                    .unwrap_or("unknown")
                    .to_owned()
            };
            return Some(Message::Error {
                id,
                class: text("class"),
                description: text("desc"),
            });
        }
        if let Some(Value::String(name)) = object.get("event") {
            let name = name.clone();
            let data = object.remove("data").unwrap_or(Value::Null);
            return Some(Message::Event { name, data });
        }
        Some(Message::Other(Value::Object(object)))
    }
}
