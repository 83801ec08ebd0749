//! The control socket: any command with any arguments, against an engine in the middle of something.
//! One clear error that changed nothing, or an effect.

use std::collections::BTreeSet;

use journal_format::number::{DomainId, Id128, Lsn};
use phase_journal::engine::{ControlRequest, Input, Message};
use phase_journal::qmp::CommandError;
use phase_journal::sidecar::{COMMAND_NAMES, engine_request};
use serde_json::{Map, Value};

use super::bytes::Bytes;
use super::fair::Fair;
use super::harness::{Harness, Life};
use super::inputs::its_instance;

/// More than that show nothing new and only take time.
const COMMANDS_MAX: usize = 100;

/// Commands that came later: they are drawn so that what was found before means what it meant.
const LATER: &[&str] = &["job-begin", "phase-enter", "job-end"];

/// Every argument that some command has, and a few that none has.
const ARGUMENTS: &[&str] = &[
    "name",
    "qmp",
    "uuid",
    "pid",
    "definition",
    "peer",
    "uri",
    "destination-name",
    "protocol",
    "authority",
    "max-bandwidth",
    "downtime-limit",
    "postcopy",
    "in-doubt-limit",
    "job",
    "outcome",
    "limit",
    "decision",
    "force",
    "statement",
    "",
    "Name",
];

/// Strings that mean something to one argument or another.
const WORDS: &[&str] = &[
    "g",
    "h",
    "/qmp",
    "/there",
    "unix:/m",
    "tcp:[::1]:49152",
    "exec:x",
    "v2",
    "v3",
    "destination",
    "source",
    "store",
    "manager",
    "committed",
    "aborted",
    "kill",
    "resume",
    "confirm",
    "hold",
    "01010101-0101-0101-0101-010101010101",
    "02020202-0202-0202-0202-020202020202",
    "",
    "\n",
    "relative",
];

/// A migration is begun and brought on, then commands are drawn. Returns the commands that were taken.
///
/// # Panics
/// When an error says nothing, changed something, or an answer is missing.
pub fn run(bytes: &[u8]) -> BTreeSet<String> {
    let mut choices = Bytes::new(bytes);
    let mut harness = Harness::new();
    let mut life = harness.open();
    let mut taken = BTreeSet::new();
    let mut fair = Fair::drawn(&mut choices, &mut harness, &mut life);
    for _ in 0..COMMANDS_MAX {
        if choices.is_empty() {
            break;
        }
        match choices.below(8) {
            0 => life = harness.open(),
            1 | 2 => fair.step(&mut harness, &mut life),
            _ => {
                let (name, arguments) = command(&mut choices, life.last_job);
                if told(&mut choices, &mut harness, &mut life, &name, arguments) {
                    taken.insert(name);
                }
            }
        }
    }
    taken
}

fn command(choices: &mut Bytes<'_>, last: Option<Lsn>) -> (String, Option<Value>) {
    // What a client may send that is no command of ours.
    if choices.below(16) == 15 {
        let length = choices.number() % 256;
        let bytes: Vec<u8> = (0..length).map(|_| choices.byte()).collect();
        let value = serde_json::from_slice(&bytes).ok();
        return (choices.pick(COMMAND_NAMES).to_owned(), value);
    }
    let first: Vec<&str> = COMMAND_NAMES
        .iter()
        .copied()
        .filter(|name| !LATER.contains(name))
        .collect();
    let choice = usize::from(choices.byte());
    let (command, later) = (choice % (first.len() + 1), choice / (first.len() + 1));
    let name = match (command, later) {
        (0, 0) => "migrate".to_owned(),
        (0, later) => LATER[(later - 1) % LATER.len()].to_owned(),
        (command, _) => first[command - 1].to_owned(),
    };
    let mut arguments = Map::new();
    if let (Some(job), "phase-enter" | "job-end") = (last, name.as_str()) {
        arguments.insert("job".to_owned(), Value::from(job.0));
    }
    for argument in usual(&name) {
        let (argument, value) = argument;
        arguments.insert((*argument).to_owned(), Value::from(*value));
    }
    for _ in 0..choices.below(6) {
        let argument = choices.pick(ARGUMENTS).to_owned();
        if choices.below(4) == 3 {
            arguments.remove(&argument);
        } else {
            let value = value(choices);
            arguments.insert(argument, value);
        }
    }
    let arguments = (!arguments.is_empty()).then_some(Value::Object(arguments));
    (name, arguments)
}

/// What a command needs.
fn usual(command: &str) -> &'static [(&'static str, &'static str)] {
    match command {
        "domain-add" => &[("name", "h"), ("qmp", "/qmp")],
        "domain-remove" | "domain-suspend" | "domain-resume" => &[("name", "g")],
        "migrate-domain" => &[("name", "g"), ("peer", "/there"), ("uri", "unix:/m")],
        "job-begin" => &[("name", "g"), ("kind", "query")],
        "phase-enter" => &[("phase", "perform")],
        "migrate-verdict" => &[("name", "g"), ("outcome", "committed")],
        "resolve" => &[("name", "g"), ("decision", "resume")],
        _ => &[],
    }
}

fn value(choices: &mut Bytes<'_>) -> Value {
    match choices.below(12) {
        0 => Value::Null,
        1 => Value::from(true),
        2 => Value::from(-1),
        3 => Value::from(1.5),
        4 => Value::from(u64::MAX),
        5 | 6 => Value::from(choices.byte()),
        7 => Value::from(vec![1]),
        8 => Value::from("x".repeat(choices.number())),
        _ => Value::from(choices.pick(WORDS)),
    }
}

/// Tells one command as the control socket does. Was it taken?
fn told(
    choices: &mut Bytes<'_>,
    harness: &mut Harness,
    life: &mut Life,
    name: &str,
    arguments: Option<Value>,
) -> bool {
    let added = arguments
        .as_ref()
        .map(|arguments| arguments["name"].clone());
    let request = match engine_request(name, arguments, 0) {
        Ok(Some(request)) => request,
        Ok(None) if name == "domain-add" => {
            let domain = DomainId(Id128([1 + choices.byte() % 3; 16]));
            ControlRequest::DomainAdd {
                name: added
                    .and_then(|name| name.as_str().map(str::to_owned))
                    .expect("it is not taken without a name"),
                domain,
                qmp: "/qmp".to_owned(),
                instance: its_instance(domain),
                observed: harness.around.observed(choices, domain),
                definition: None,
            }
        }
        Ok(None) => return true,
        Err(error) => {
            one_clear_line(&error);
            return false;
        }
    };
    let token = harness.token(life);
    let before = life.engine.clone().checkpoint();
    let input = Input::Control { token, request };
    let step = life.engine.step(harness.now(), input);
    let refusal = step.messages.iter().find_map(|message| match message {
        Message::Reply {
            token: answered,
            result: Err(refusal),
        } if *answered == token => Some(refusal.to_string()),
        _ => None,
    });
    if let Some(refusal) = &refusal {
        let is_quiet = step.append.is_empty() && step.effects.is_empty();
        assert!(is_quiet, "{refusal}: {step:?}");
        assert_eq!(before, life.engine.clone().checkpoint(), "{refusal}");
        one_line(refusal);
    }
    harness.carry_out(life, step);
    refusal.is_none()
}

fn one_clear_line(error: &CommandError) {
    assert!(matches!(error.class, "GenericError" | "CommandNotFound"));
    one_line(&error.description);
}

fn one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}
