//! A client's command on its way through to QEMU, and QEMU's answer on its way back, byte for byte.
//!
//! Invariant: only the id is exchanged, and on the way to QEMU the white space between tokens left out; nothing else is
//! written anew. What is passed on is an object that QEMU's own parser takes, so that every answer to it has its id, and it
//! has exactly one command, whose class is known.
//! Not here: when it may go (`client`), where the answer goes (`outlet`).

use core::fmt;
use core::ops::Range;
use std::borrow::Cow;
use std::os::fd::OwnedFd;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::classify::{self, Class, FDS_MAX};
use super::server::CommandError;

/// A command of a client, understood as far as it must be.
#[derive(Debug)]
pub struct Passed {
    object: Vec<u8>,
    name: String,
    is_out_of_band: bool,
    id: Option<Range<usize>>,
    arguments: Option<Range<usize>>,
    fds: Vec<OwnedFd>,
    key: u64,
}

/// A client's object that is no command; the id is told with the error, as it was sent.
#[derive(Debug)]
pub struct Misunderstood {
    /// As sent.
    pub id: Option<Vec<u8>>,
    /// What is wrong, in QEMU's words.
    pub error: CommandError,
}

impl Passed {
    /// Understands an object; `oob` tells whether this client has negotiated commands out of band.
    ///
    /// # Errors
    /// It is no command, or has what no command has; it is to be answered and nothing more.
    pub fn understand(
        object: Vec<u8>,
        oob: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<Passed, Misunderstood> {
        let object = match check(&object) {
            Ok(()) => object,
            Err(error) => {
                // QEMU also takes strings in single quotes.
                let quoted = double_quoted(&object).filter(|quoted| check(quoted).is_ok());
                let Some(quoted) = quoted else {
                    return Err(Misunderstood {
                        id: None,
                        error: CommandError::generic(format!("JSON parse error, {error}")),
                    });
                };
                quoted
            }
        };
        let (mut name, mut is_out_of_band, mut id, mut arguments) = (None, false, None, None);
        let mut wrong = None;
        for Member { key, value, .. } in members(&object).unwrap_or_default() {
            match &*key {
                "execute" | "exec-oob" if key == "execute" || oob => {
                    let text: Option<String> = serde_json::from_slice(&object[value]).ok();
                    if name.is_some() {
                        let other = if is_out_of_band {
                            "exec-oob"
                        } else {
                            "execute"
                        };
                        wrong = Some(format!("QMP input member '{key}' clashes with '{other}'"));
                    } else if text.is_none() {
                        wrong = Some(format!("QMP input member '{key}' must be a string"));
                    }
                    is_out_of_band = key == "exec-oob";
                    name = text;
                }
                "arguments" if object[value.start] == b'{' => arguments = Some(value),
                "arguments" => {
                    wrong = Some("QMP input member 'arguments' must be an object".to_owned());
                }
                "id" => id = Some(value),
                key => wrong = Some(format!("QMP input member '{key}' is unexpected")),
            }
        }
        let error = match (wrong, &name) {
            (Some(wrong), _) => Some(wrong),
            (None, None) => Some("QMP input lacks member 'execute'".to_owned()),
            (None, Some(name)) => wrong_fds(name, fds.len()),
        };
        let id_sent = || id.clone().map(|id| object[id].to_vec());
        match (error, name) {
            (None, Some(name)) => Ok(Passed {
                object,
                name,
                is_out_of_band,
                id,
                arguments,
                fds,
                key: 0,
            }),
            (error, _) => Err(Misunderstood {
                id: id_sent(),
                error: CommandError::generic(error.unwrap_or_default()),
            }),
        }
    }

    /// The same with the key by which what is kept of its client knows it.
    #[must_use]
    pub fn with_key(self, key: u64) -> Passed {
        Passed { key, ..self }
    }

    /// That key; 0 where nothing is kept.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// All of it, but for descriptors.
    #[must_use]
    pub fn object(&self) -> &[u8] {
        &self.object
    }

    /// Whether descriptors came with it.
    #[must_use]
    pub fn has_fds(&self) -> bool {
        !self.fds.is_empty()
    }

    /// The command's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does.
    #[must_use]
    pub fn class(&self) -> Class {
        classify::classify(&self.name)
    }

    /// It was sent to be carried out before those that wait, and QEMU does that with this command.
    #[must_use]
    pub fn is_out_of_band(&self) -> bool {
        self.is_out_of_band
    }

    /// Its id as the client sent it.
    #[must_use]
    pub fn id(&self) -> Option<&[u8]> {
        self.id.clone().map(|id| &self.object[id])
    }

    /// Its arguments; an empty object if it has none.
    #[must_use]
    pub fn arguments(&self) -> Value {
        self.arguments
            .clone()
            .and_then(|arguments| serde_json::from_slice(&self.object[arguments]).ok())
            .unwrap_or_else(|| Value::Object(serde_json::Map::new()))
    }

    /// Its arguments as they are journaled, and whether that is less than was sent.
    #[must_use]
    pub fn journaled(&self) -> (String, bool) {
        classify::journaled(&self.name, &self.arguments())
    }

    /// The bytes for QEMU, with this id in the place of the client's, and the descriptors that go with them. White space
    /// between tokens means nothing in JSON and is left out: QEMU reads a command byte by byte, some 2 us each (7.2). So is
    /// the end of the line, for which QEMU would wake once more when it has answered (its parser stops while it carries a
    /// command out).
    #[must_use]
    pub fn with_id(self, id: u64) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut line = Vec::with_capacity(self.object.len() + 24);
        match self.id {
            Some(Range { start, end }) => {
                put_dense(&mut line, &self.object[..start]);
                line.extend_from_slice(id.to_string().as_bytes());
                put_dense(&mut line, &self.object[end..]);
            }
            // It has a command in it, so that there is a member behind this one.
            None => {
                line.extend_from_slice(format!("{{\"id\":{id},").as_bytes());
                put_dense(&mut line, &self.object[1..]);
            }
        }
        (line, self.fds)
    }
}

/// Puts JSON, from anywhere between two tokens on, behind what is there, without the white space between tokens (RFC 8259,
/// section 2).
fn put_dense(line: &mut Vec<u8>, json: &[u8]) {
    let (mut is_string, mut is_escaped) = (false, false);
    for byte in json {
        match (is_string, byte) {
            (false, b' ' | b'\t' | b'\n' | b'\r') => continue,
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => is_string = !is_string,
            _ => {}
        }
        line.push(*byte);
    }
}

fn wrong_fds(name: &str, count: usize) -> Option<String> {
    if count > FDS_MAX {
        return Some(format!(
            "more than {FDS_MAX} file descriptors came with '{name}'"
        ));
    }
    (count > 0 && !classify::takes_fds(name))
        .then(|| format!("file descriptors came with '{name}', which takes none"))
}

/// QEMU's answer with the client's id in the place of ours, or without one, and with the end of a line; `None` if it is no
/// object with that id.
pub(super) fn answer_with(object: &[u8], id: Option<&[u8]>) -> Option<Vec<u8>> {
    let members = members(object)?;
    let at = members.iter().position(|member| member.key == "id")?;
    let member = &members[at];
    let (range, put) = match (id, at.checked_sub(1), members.get(at + 1)) {
        (Some(id), _, _) => (member.value.clone(), id),
        (None, Some(before), _) => (members[before].value.end..member.value.end, &b""[..]),
        (None, None, Some(next)) => (member.start?..next.start?, &b""[..]),
        (None, None, None) => return None,
    };
    let mut line = Vec::with_capacity(object.len() + put.len() + 2);
    line.extend_from_slice(&object[..range.start]);
    line.extend_from_slice(put);
    line.extend_from_slice(&object[range.end..]);
    line.extend_from_slice(b"\r\n");
    Some(line)
}

/// QEMU's answer that has no id, for the client whose it must be.
pub(super) fn without_id(object: &[u8], id: Option<&[u8]>) -> Vec<u8> {
    let rest = object.strip_prefix(b"{").unwrap_or(object);
    match id {
        None => [object, b"\r\n"].concat(),
        Some(id) => [&b"{\"id\": "[..], id, b", ", rest, b"\r\n"].concat(),
    }
}

/// A member of an object.
struct Member<'a> {
    key: Cow<'a, str>,
    /// Where its key's first quote stands, if the key has no escapes.
    start: Option<usize>,
    value: Range<usize>,
}

/// The members of an object's bytes; `None` if they are no JSON object.
fn members(object: &[u8]) -> Option<Vec<Member<'_>>> {
    let text = core::str::from_utf8(object).ok()?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let list = reader.deserialize_map(MemberVisitor(text)).ok()?;
    reader.end().ok()?;
    Some(list)
}

/// What an object of QEMU's is, and its id if that is one of ours.
pub(super) enum Kind {
    Answer { id: Option<u64>, is_error: bool },
    Event,
    Other,
}

/// Looks at the names of an object's members only.
pub(super) fn kind(object: &[u8]) -> Kind {
    let list = members(object).unwrap_or_default();
    let has = |name: &str| list.iter().any(|member| member.key == name);
    if has("return") || has("error") {
        let id = list.iter().find(|member| member.key == "id");
        let number = id.and_then(|id| serde_json::from_slice(&object[id.value.clone()]).ok());
        return Kind::Answer {
            id: number,
            is_error: has("error"),
        };
    }
    match has("event") {
        true => Kind::Event,
        false => Kind::Other,
    }
}

struct MemberVisitor<'a>(&'a str);

/// Where a part of a text begins in it.
fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

impl<'a> Visitor<'a> for MemberVisitor<'a> {
    type Value = Vec<Member<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Vec<Member<'a>>, A::Error> {
        let mut list = Vec::new();
        while let Some(key) = map.next_key_seed(TextSeed)? {
            let value: &RawValue = map.next_value()?;
            let begin = offset(self.0, value.get());
            let start = match &key {
                Cow::Borrowed(key) => offset(self.0, key).checked_sub(1),
                Cow::Owned(_) => None,
            };
            list.push(Member {
                key,
                start,
                value: begin..begin + value.get().len(),
            });
        }
        Ok(list)
    }
}

/// A string, borrowed where it has no escapes.
struct TextSeed;

impl<'a> DeserializeSeed<'a> for TextSeed {
    type Value = Cow<'a, str>;

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<Cow<'a, str>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for TextSeed {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Would QEMU's parser take this object? It answers what it cannot parse without an id.
///
/// Beyond JSON it refuses a key that comes twice and Unicode's noncharacters (QEMU, `qobject/json-parser.c`).
fn check(object: &[u8]) -> Result<(), serde_json::Error> {
    let text = core::str::from_utf8(object).map_err(serde_json::Error::custom)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_any(Check)?;
    reader.end()
}

struct Check;

fn check_text<E: serde::de::Error>(text: &str) -> Result<(), E> {
    let is_noncharacter =
        |one: char| (one as u32 & 0xfffe) == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&one);
    match text.chars().any(is_noncharacter) {
        true => Err(E::custom("invalid character in a string")),
        false => Ok(()),
    }
}

impl<'a> DeserializeSeed<'a> for Check {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Check {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        check_text(text)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Check)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = Vec::new();
        while let Some(key) = map.next_key_seed(TextSeed)? {
            check_text(&key)?;
            map.next_value_seed(Check)?;
            keys.push(key);
        }
        keys.sort_unstable();
        match keys.windows(2).any(|two| two[0] == two[1]) {
            true => Err(A::Error::custom("duplicate key")),
            false => Ok(()),
        }
    }
}

/// The same object with all its strings in double quotes; `None` if it has none in single ones.
fn double_quoted(object: &[u8]) -> Option<Vec<u8>> {
    if !object.contains(&b'\'') {
        return None;
    }
    let mut quoted = Vec::with_capacity(object.len() + 16);
    let mut inside: Option<u8> = None;
    let mut bytes = object.iter().copied();
    while let Some(byte) = bytes.next() {
        match (inside, byte) {
            (None, b'"' | b'\'') => {
                inside = Some(byte);
                quoted.push(b'"');
            }
            (Some(quote), _) if byte == quote => {
                inside = None;
                quoted.push(b'"');
            }
            (Some(_), b'"') => quoted.extend_from_slice(b"\\\""),
            (Some(_), b'\\') => match bytes.next() {
                Some(b'\'') => quoted.push(b'\''),
                Some(escaped) => quoted.extend_from_slice(&[b'\\', escaped]),
                None => quoted.push(b'\\'),
            },
            (Some(_) | None, _) => quoted.push(byte),
        }
    }
    Some(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn understand(text: &str) -> Result<Passed, String> {
        Passed::understand(text.as_bytes().to_vec(), true, Vec::new())
            .map_err(|wrong| wrong.error.description)
    }

    fn sent(text: &str) -> String {
        let (line, _) = understand(text).unwrap().with_id(7);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn only_the_id_is_exchanged() {
        let cases = [
            (
                r#"{"execute": "x", "id": {"a": [1.50, "\u00e9"]}, "arguments": {"n": 1e2}}"#,
                "{\"execute\":\"x\",\"id\":7,\"arguments\":{\"n\":1e2}}",
            ),
            (r#"{ "execute":"x" }"#, "{\"id\":7,\"execute\":\"x\"}"),
            // White space within strings is theirs, also behind a quote that is escaped and a backslash that is.
            (
                "{\"execute\" :\t\"x\",\r\n\"arguments\": {\"a \\\" b\": \" \\\\\", \"c\": [1, true ]}}",
                "{\"id\":7,\"execute\":\"x\",\"arguments\":{\"a \\\" b\":\" \\\\\",\"c\":[1,true]}}",
            ),
            (
                r#"{"id":null,"exec-oob":"x"}"#,
                "{\"id\":7,\"exec-oob\":\"x\"}",
            ),
            // An escape in a key, and strings as QEMU's own people type them.
            (
                r#"{"\u0065xecute":"x","id":1}"#,
                "{\"\\u0065xecute\":\"x\",\"id\":7}",
            ),
            (
                r#"{'execute':'x','id':'it\'s "q"'}"#,
                "{\"execute\":\"x\",\"id\":7}",
            ),
        ];
        for (command, expected) in cases {
            assert_eq!(sent(command), expected);
        }
        let quoted = understand(r#"{'execute':'x','id':'it\'s "q"'}"#).unwrap();
        assert_eq!(quoted.id(), Some(&br#""it's \"q\"""#[..]));
    }

    #[test]
    fn what_is_no_command_is_said_in_qemus_words() {
        let cases = [
            ("{}", "QMP input lacks member 'execute'"),
            (
                r#"{"execute":1}"#,
                "QMP input member 'execute' must be a string",
            ),
            (
                r#"{"execute":"x","arguments":[]}"#,
                "QMP input member 'arguments' must be an object",
            ),
            (
                r#"{"execute":"x","more":1}"#,
                "QMP input member 'more' is unexpected",
            ),
            (
                r#"{"execute":"x","exec-oob":"y"}"#,
                "QMP input member 'exec-oob' clashes with 'execute'",
            ),
        ];
        for (command, expected) in cases {
            assert_eq!(understand(command).unwrap_err(), expected);
        }
        let without = Passed::understand(br#"{"exec-oob":"x","id":3}"#.to_vec(), false, Vec::new());
        let wrong = without.unwrap_err();
        assert_eq!(
            wrong.error.description,
            "QMP input member 'exec-oob' is unexpected"
        );
        assert_eq!(wrong.id.as_deref(), Some(&b"3"[..]));
        // QEMU would answer these without an id, and nobody knew whose answer it is.
        for broken in [
            r#"{"execute":"x","arguments":{"a":1,"a":2}}"#,
            r#"{"execute":"x","arguments":{"a":1,"\u0061":2}}"#,
            r#"{"execute":"x","execute":"y"}"#,
            r#"{"execute":"\uffff"}"#,
            r#"{"execute":"\ud800"}"#,
            "{\"execute\":\"\u{fdd0}\"}",
            "{\"execute\":\"\u{1}\"}",
            "{\"execute\":\"x\" nonsense}",
        ] {
            assert!(
                understand(broken)
                    .unwrap_err()
                    .starts_with("JSON parse error, "),
                "{broken}"
            );
        }
    }

    #[test]
    fn an_answer_gets_its_clients_id_back() {
        let cases = [
            (
                r#"{"return": {"id": 7}, "id": 7}"#,
                Some("\"a\""),
                "{\"return\": {\"id\": 7}, \"id\": \"a\"}\r\n",
            ),
            (
                r#"{"id": 7, "return": {}}"#,
                Some("[1]"),
                "{\"id\": [1], \"return\": {}}\r\n",
            ),
            (r#"{"return": {}, "id": 7}"#, None, "{\"return\": {}}\r\n"),
            (r#"{"id": 7, "return": {}}"#, None, "{\"return\": {}}\r\n"),
            (
                r#"{"a": 1.0, "id": 7, "error": {"x": "\u00e9"}}"#,
                None,
                "{\"a\": 1.0, \"error\": {\"x\": \"\\u00e9\"}}\r\n",
            ),
        ];
        for (answer, id, expected) in cases {
            let line = answer_with(answer.as_bytes(), id.map(str::as_bytes)).unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
        assert!(answer_with(br#"{"return": {}}"#, None).is_none());
    }

    proptest! {
        /// Whatever a client sends, what goes on to QEMU is JSON with our id and its command.
        #[test]
        fn what_is_passed_on_is_a_command(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut object = br#"{"execute":"x","arguments":{"a":"#.to_vec();
            object.extend_from_slice(&bytes);
            object.push(b'}');
            object.push(b'}');
            if let Ok(passed) = Passed::understand(object, true, Vec::new()) {
                let (name, arguments) = (passed.name().to_owned(), passed.arguments());
                let (line, _) = passed.with_id(7);
                let value: Value = serde_json::from_slice(&line).unwrap();
                prop_assert_eq!(&value["id"], 7);
                prop_assert_eq!(value.get("arguments"), Some(&arguments));
                prop_assert!(value["execute"] == name.as_str() || value["exec-oob"] == name.as_str());
            }
        }
    }
}
