//! What another sidecar says, true or not: requests, answers and licences that are forged, replayed, cut
//! off or mixed up, against an engine whose migration is in any phase.

use journal_format::record::{Phase, Protocol, RecordBody, Role};
use phase_journal::engine::{Envelope, History, Input, PeerFailure, PeerRequest, PeerResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bytes::Bytes;
use super::fair::Fair;
use super::harness::{Harness, Life};
use super::inputs::NONCE;

/// More than that show nothing new and only take time.
const MESSAGES_MAX: usize = 150;

/// Everything that was said, as it travelled: any of it may be said again, whole or in part.
type Said = Vec<Value>;

/// A migration is begun and brought on, then messages are drawn. Returns the phase in which the first of
/// them found it.
///
/// # Panics
/// When the engine breaks a rule.
pub fn run(bytes: &[u8]) -> Option<Phase> {
    let mut choices = Bytes::new(bytes);
    let mut harness = Harness::new();
    let mut life = harness.open();
    let mut fair = Fair::drawn(&mut choices, &mut harness, &mut life);
    let cookie = fair.cookie(&mut harness);
    let mut said: Said = vec![travelled(&PeerRequest::Finish { cookie })];
    let phase = harness.history.iter().rev().find_map(phase_of);
    for _ in 0..MESSAGES_MAX {
        if choices.is_empty() {
            break;
        }
        match choices.below(8) {
            0 => life = harness.open(),
            1 | 2 => fair.step(&mut harness, &mut life),
            3 if !life.asks.is_empty() => answer(&mut choices, &mut harness, &mut life, &mut said),
            _ => ask(&mut choices, &mut harness, &mut life, &mut said),
        }
    }
    harness.open();
    phase
}

/// The phase that a job is in from that record on.
fn phase_of(entry: &History) -> Option<Phase> {
    let History::Record(record) = entry else {
        return None;
    };
    match &record.body {
        RecordBody::PhaseEntered(entered) => Some(entered.phase),
        RecordBody::JobBegun(begun) => {
            let terms = begun.migration.as_ref()?;
            Some(match (terms.role, terms.protocol) {
                (Role::Source, Protocol::V2) => Phase::Perform2,
                (Role::Source, Protocol::V3) => Phase::Begin3,
                (Role::Destination, Protocol::V2 | Protocol::V3) => Phase::Prepare,
            })
        }
        _ => None,
    }
}

fn ask(choices: &mut Bytes<'_>, harness: &mut Harness, life: &mut Life, said: &mut Said) {
    let request = harness.around.peer_request(choices);
    let envelope = harness.around.envelope(choices);
    let request: Option<PeerRequest> = arrived(choices, said, &request);
    let envelope: Option<Envelope> = arrived(choices, said, &envelope);
    // What is not understood is refused before anybody hears of it.
    if let (Some(request), Some(envelope)) = (request, envelope) {
        let token = harness.token(life);
        let input = Input::Peer {
            token,
            envelope,
            nonce: NONCE,
            request,
        };
        harness.step(life, input);
    }
}

fn answer(choices: &mut Bytes<'_>, harness: &mut Harness, life: &mut Life, said: &mut Said) {
    let request = life.asks.remove(choices.below(life.asks.len()));
    said.push(travelled(&request));
    let result = harness.around.answer(choices, &request);
    let result = result.and_then(|(envelope, response)| {
        let envelope: Option<Envelope> = arrived(choices, said, &envelope);
        let response: Option<PeerResponse> = arrived(choices, said, &response);
        let no_answer = || PeerFailure::Unreachable("not understood".to_owned());
        envelope.zip(response).ok_or_else(no_answer)
    });
    let migration = request.migration();
    harness.step(life, Input::PeerAnswered { migration, result });
}

fn travelled(message: &impl Serialize) -> Value {
    serde_json::to_value(message).expect("what sidecars say is JSON")
}

/// A message as it arrives: as it was said, as another was said before, or with something wrong in it.
fn arrived<T: Serialize + DeserializeOwned>(
    choices: &mut Bytes<'_>,
    said: &mut Said,
    message: &T,
) -> Option<T> {
    let mut json = travelled(message);
    match choices.below(6) {
        0 if !said.is_empty() => json = said[choices.below(said.len())].clone(),
        1 if !said.is_empty() => {
            let other = said[choices.below(said.len())].clone();
            spoil(choices, &mut json, Some(&other));
        }
        2 => spoil(choices, &mut json, None),
        _ => {}
    }
    said.push(json.clone());
    let text = json.to_string();
    // The connection may break in the middle.
    let length = match choices.below(32) {
        31 => choices.number() % text.len(),
        _ => text.len(),
    };
    let message: T = serde_json::from_slice(&text.as_bytes()[..length]).ok()?;
    let again: T = serde_json::from_value(travelled(&message)).expect("it was understood");
    assert_eq!(travelled(&again), travelled(&message));
    Some(message)
}

/// Changes one place of a message: something of another one there, or less, or nonsense.
fn spoil(choices: &mut Bytes<'_>, json: &mut Value, other: Option<&Value>) {
    match json {
        Value::Object(members) if !members.is_empty() => {
            let keys: Vec<String> = members.keys().cloned().collect();
            let key = choices.pick(&keys);
            let theirs = other.and_then(|other| found(other, &key)).cloned();
            match (theirs, choices.below(4)) {
                (Some(theirs), 0 | 1) => members[&key] = theirs,
                (_, 2) => drop(members.remove(&key)),
                _ => spoil(choices, &mut members[&key], other),
            }
        }
        Value::String(text) => {
            let count = text.chars().count();
            *text = match choices.below(3) {
                0 => text.chars().take(choices.below(count + 1)).collect(),
                1 => text.replace('9', "8").replace('4', "b"),
                _ if count < 1_000 => text.repeat(choices.below(200)),
                _ => String::new(),
            };
        }
        Value::Number(number) => {
            let number = number.as_u64().unwrap_or(0);
            let near = number.wrapping_add(u64::from(choices.byte()).wrapping_sub(128));
            *json = Value::from(choices.pick(&[near, 0, u64::MAX]));
        }
        Value::Null => *json = other.cloned().unwrap_or(Value::from(0)),
        Value::Bool(yes) => *yes = !*yes,
        Value::Array(_) | Value::Object(_) => *json = Value::Null,
    }
}

/// The member of that name, however deep.
fn found<'a>(json: &'a Value, key: &str) -> Option<&'a Value> {
    let members = json.as_object()?;
    let here = members.get(key);
    here.or_else(|| members.values().find_map(|member| found(member, key)))
}
