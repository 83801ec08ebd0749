//! The wire against scripted peers, and the client against the server.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use journal_format::number::{BootId, DomainId, Id128, Lsn};
use journal_format::record::{Effect, EffectCommand, EffectResult, Instance, Role};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, oneshot};
use tokio::time::timeout;

use super::codec::{Message, SplitError, Splitter};
use super::command::qmp_command;
use super::*;
use crate::journal::Durable;
use crate::keep::{KeptQemu, Manager, Owner, QemuState, Ticket};

const WAIT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

fn split(bytes: &[u8], cuts: &[usize]) -> Vec<Result<Vec<u8>, SplitError>> {
    let mut splitter = Splitter::new(1 << 20);
    let mut out = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        let cut = cut.clamp(at, bytes.len());
        splitter.push(&bytes[at..cut]);
        at = cut;
        while let Some(found) = splitter.next_object() {
            let last = found.as_ref().is_err_and(|error| !error.is_recoverable());
            out.push(found);
            if last {
                return out;
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_messages(cuts in proptest::collection::vec(0usize..120, 0..20)) {
        let stream = br#"{"a":"}{\"","b":[{},[]]}{"c":1}
            junk
            {"d":"\\"} {"e":{}}"#;
        let mut cuts = cuts;
        cuts.sort_unstable();
        let whole = split(stream, &[]);
        prop_assert_eq!(whole.len(), 5);
        prop_assert_eq!(split(stream, &cuts), whole);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        for object in split(&bytes, &[]).into_iter().flatten() {
            drop(Message::parse(&object));
        }
    }
}

/// A QEMU's connection of an earlier life, in which it has negotiated; and QEMU's end.
async fn of_an_earlier_life(manager: &Manager) -> (OwnedFd, KeptQemu, QemuState, UnixStream) {
    let owner = Owner {
        domain: DomainId(Id128([1; 16])),
        instance: instance(),
    };
    let kept = KeptQemu::prepare(manager, owner).unwrap();
    let (ours, qemu) = UnixStream::pair().unwrap();
    kept.negotiated(b"{\"QMP\": {}}", false, ours.as_fd());
    for id in 0..3 {
        kept.use_id(kept.first_id() + id);
    }
    let socket = OwnedFd::from(ours.into_std().unwrap());
    let (ticket, file) = (Ticket::for_test(manager), kept.file());
    drop(kept);
    let (kept, state) = KeptQemu::resume(manager, socket.as_fd(), file, ticket).unwrap();
    (socket, kept, state, qemu)
}

/// An effect that was sent over a connection that broke is not looked for on the one behind it, where its id is another's.
#[tokio::test]
async fn effects_of_a_broken_connection_are_not_adopted_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let _keeper = UnixDatagram::bind(&path).unwrap();
    let manager = Manager::at_path(&path);
    let (_, _, broken, _) = of_an_earlier_life(&manager).await;
    let (socket, kept, state, mut qemu) = of_an_earlier_life(&manager).await;
    let (first, next_id) = (state.first_id, state.next_id);
    let (client, mut answers) = UnixStream::pair().unwrap();
    let outlet = Outlet::new(Arc::new(Socket::new(client).unwrap()));
    let (mut adopted, mut results) = (Vec::new(), Vec::new());
    for (key, at_qemu) in [(1, broken.first_id), (2, first), (3, first + 1)] {
        let (done, result) = oneshot::channel();
        results.push(result);
        adopted.push(Adopted {
            at_qemu,
            outlet: outlet.clone(),
            id: Some(key.to_string().into_bytes()),
            key,
            done,
        });
    }
    let resumed = Resumed {
        socket,
        kept,
        state,
        adopted,
    };
    let (client, _events) = Client::resume(resumed, Listeners::default()).unwrap();
    // Both were counted from 1 on when they were sent.
    let last = next_id - first + 1;
    let said = format!("{{\"return\": {{}}, \"id\": 1}}\n{{\"return\": {{}}, \"id\": {last}}}\n");
    qemu.write_all(said.as_bytes()).await.unwrap();
    let mut known = Vec::new();
    for result in results {
        let told = timeout(WAIT, result).await.expect("it is told in time");
        known.push(told.unwrap());
    }
    assert!(
        matches!(
            known.as_slice(),
            [
                EffectResult::Unknown { .. },
                EffectResult::Done,
                EffectResult::NotSent { .. }
            ]
        ),
        "{known:?}"
    );
    drop(outlet);
    let mut heard = String::new();
    answers.read_to_string(&mut heard).await.unwrap();
    drop(client);
    assert_eq!(heard, "{\"return\": {}, \"id\": 2}\r\n");
}

/// Found by fuzzing: a stretch of garbage was one error or several, as it came.
#[test]
fn long_garbage_gives_the_same_errors_however_it_is_cut() {
    let stream = [vec![b'x'; 5_000], b"\n{}".to_vec()].concat();
    let bytewise: Vec<usize> = (0..stream.len()).collect();
    let whole = split(&stream, &[]);
    let error = || Err(SplitError::NotAnObject);
    assert_eq!(whole, [error(), error(), Ok(b"{}".to_vec())]);
    assert_eq!(split(&stream, &bytewise), whole);
}

#[test]
fn limits_of_a_message() {
    let mut splitter = Splitter::new(10);
    splitter.push(b"{\"a\":\"0123456789\"}");
    assert_eq!(
        splitter.next_object(),
        Some(Err(SplitError::TooLong { size_max: 10 }))
    );
    let deep = "[".repeat(200);
    assert_eq!(
        split(format!("{{\"a\":{deep}").as_bytes(), &[]),
        vec![Err(SplitError::TooDeep)]
    );
}

#[test]
fn what_a_newer_qemu_says_survives() {
    let event = br#"{"event":"BRAND_NEW","data":{"status":"never-heard-of"},"extra":1}"#;
    assert_eq!(
        Message::parse(event),
        Some(Message::Event {
            name: "BRAND_NEW".to_owned(),
            data: json!({"status": "never-heard-of"})
        })
    );
}

/// A monitor by hand: a listener, and what is said on it.
struct Monitor {
    _directory: tempfile::TempDir,
    path: PathBuf,
    listener: UnixListener,
}

impl Monitor {
    fn new() -> Monitor {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        Monitor {
            _directory: directory,
            path,
            listener,
        }
    }

    /// Connects a client, and answers its negotiation.
    async fn connect(&self) -> (Client, Events, Said) {
        let serve = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            let mut said = Said {
                stream,
                splitter: Splitter::new(1 << 20),
            };
            said.say(r#"{"QMP":{"version":{},"capabilities":["oob"]}}"#)
                .await;
            let negotiation = said.hear().await;
            assert_eq!(negotiation["arguments"], json!({"enable": ["oob"]}));
            said.say(&json!({"return": {}, "id": negotiation["id"]}).to_string())
                .await;
            said
        };
        let (client, said) = tokio::join!(Client::connect(&self.path, WAIT), serve);
        let (client, events) = client.unwrap();
        (client, events, said)
    }
}

struct Said {
    stream: UnixStream,
    splitter: Splitter,
}

impl Said {
    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        loop {
            if let Some(object) = self.splitter.next_object() {
                return serde_json::from_slice(&object.unwrap()).unwrap();
            }
            let mut bytes = [0; 999];
            let size = self.stream.read(&mut bytes).await.unwrap();
            assert!(size > 0, "the client left");
            self.splitter.push(&bytes[..size]);
        }
    }
}

fn instance() -> Instance {
    Instance {
        boot: BootId(Id128([1; 16])),
        pid: 2,
        start_time: 3,
    }
}

fn effect(command: EffectCommand) -> Durable<Effect> {
    let instance = instance();
    let effect = Effect {
        intent: Lsn(1),
        domain: DomainId(Id128([4; 16])),
        instance,
        command,
    };
    crate::journal::durable_for_tests(effect)
}

#[tokio::test]
async fn events_and_answers_come_apart_whatever_their_order() {
    let monitor = Monitor::new();
    let (client, mut events, mut said) = monitor.connect().await;
    let serve = async {
        let first = said.hear().await;
        let second = said.hear().await;
        let (a, b) = (first["id"].clone(), second["id"].clone());
        said.say(r#"{"event":"STOP","timestamp":{}}{"event":"ODD","data":{"x":[1]}}"#)
            .await;
        said.say(&json!({"return": {"n": 2}, "id": b}).to_string())
            .await;
        said.say(&json!({"error": {"class": "GenericError", "desc": "no"}, "id": a}).to_string())
            .await;
    };
    let (first, second, ()) = tokio::join!(
        client.query("query-status", json!({}), WAIT),
        client.query("query-migrate", json!({}), WAIT),
        serve
    );
    assert!(matches!(first, Err(QmpError::Refused { .. })), "{first:?}");
    assert_eq!(second.unwrap(), json!({"n": 2}));
    let stop = Event::Happened {
        name: "STOP".to_owned(),
        data: Value::Null,
    };
    assert_eq!(events.next().await, Some(stop));
    assert!(matches!(events.next().await, Some(Event::Happened { name, .. }) if name == "ODD"));
}

#[tokio::test]
async fn a_late_answer_is_nobody_elses() {
    let monitor = Monitor::new();
    let (client, _events, mut said) = monitor.connect().await;
    let late = client.query("query-status", json!({}), SHORT).await;
    assert!(matches!(late, Err(QmpError::TimedOut { .. })), "{late:?}");
    let serve = async {
        let first = said.hear().await;
        let second = said.hear().await;
        said.say(&json!({"return": "late", "id": first["id"]}).to_string())
            .await;
        said.say(&json!({"return": "right", "id": second["id"]}).to_string())
            .await;
    };
    let (answer, ()) = tokio::join!(client.query("query-status", json!({}), WAIT), serve);
    assert_eq!(answer.unwrap(), json!("right"));
}

#[tokio::test]
async fn a_broken_connection_says_what_is_known() {
    let monitor = Monitor::new();
    let (client, mut events, mut said) = monitor.connect().await;
    let serve = async move {
        said.hear().await;
        drop(said);
    };
    let (result, ()) = tokio::join!(client.perform(effect(EffectCommand::Cont), WAIT), serve);
    assert!(matches!(result, EffectResult::Unknown { .. }), "{result:?}");
    assert_eq!(events.next().await, None);
    let result = client.perform(effect(EffectCommand::Cont), WAIT).await;
    assert!(matches!(result, EffectResult::NotSent { .. }), "{result:?}");
}

#[tokio::test]
async fn only_reading_goes_without_a_record() {
    let monitor = Monitor::new();
    let (client, _events, _said) = monitor.connect().await;
    for name in [
        "cont",
        "migrate",
        "quit",
        "human-monitor-command",
        "qom-set",
        "Query-status",
    ] {
        let result = client.query(name, json!({}), WAIT).await;
        assert!(
            matches!(result, Err(QmpError::NotAQuery { .. })),
            "{name}: {result:?}"
        );
    }
}

#[tokio::test]
async fn a_huge_answer_in_one_line_is_read() {
    let monitor = Monitor::new();
    let (client, _events, mut said) = monitor.connect().await;
    let huge = "x".repeat(3_000_000);
    let serve = async {
        let id = said.hear().await["id"].clone();
        said.say(&json!({"return": huge, "id": id}).to_string())
            .await;
    };
    let (answer, ()) = tokio::join!(client.query("query-qmp-schema", json!({}), WAIT), serve);
    assert_eq!(answer.unwrap(), json!(huge));
}

#[tokio::test]
async fn dropped_events_are_announced() {
    let monitor = Monitor::new();
    let (client, mut events, mut said) = monitor.connect().await;
    let serve = async {
        for _ in 0..3000 {
            said.say(r#"{"event":"TICK"}"#).await;
        }
        let id = said.hear().await["id"].clone();
        said.say(&json!({"return": {}, "id": id}).to_string()).await;
    };
    // Its answer comes behind all the events.
    let (answer, ()) = tokio::join!(client.query("query-status", json!({}), WAIT), serve);
    answer.unwrap();
    assert_eq!(events.next().await, Some(Event::Lost));
    assert!(matches!(events.next().await, Some(Event::Happened { .. })));
}

#[tokio::test]
async fn a_monitor_that_another_client_has_is_named() {
    let monitor = Monitor::new();
    let silent = Client::connect(&monitor.path, SHORT).await;
    let error = silent.unwrap_err();
    assert!(matches!(error, QmpError::NoGreeting { .. }), "{error}");
    let missing = Client::connect(&monitor.path.with_extension("no"), SHORT)
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("qmp.no"), "{missing}");
    let serve = async {
        let (mut stream, _) = monitor.listener.accept().await.unwrap();
        // The first one still waits in the queue of the socket.
        drop(stream.write_all(b"{\"hello\":1}").await);
        let (mut stream, _) = monitor.listener.accept().await.unwrap();
        stream.write_all(b"{\"hello\":1}").await.unwrap();
        stream
    };
    let (wrong, _stream) = tokio::join!(Client::connect(&monitor.path, WAIT), serve);
    assert!(matches!(wrong.unwrap_err(), QmpError::NotQmp { .. }));
}

#[test]
fn effects_as_qemu_reads_them() {
    let (name, arguments) = qmp_command(&EffectCommand::SetCapabilities {
        role: Role::Source,
        postcopy: true,
    })
    .unwrap();
    assert_eq!(name, "migrate-set-capabilities");
    let on: Vec<&str> = arguments["capabilities"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["state"] == true)
        .map(|one| one["capability"].as_str().unwrap())
        .collect();
    assert_eq!(
        on,
        [
            "events",
            "return-path",
            "pause-before-switchover",
            "postcopy-ram"
        ]
    );
    assert_eq!(qmp_command(&EffectCommand::Kill), None);
}

async fn echo(call: Call) -> Result<Value, CommandError> {
    match call.name.as_str() {
        "echo" => Ok(call.arguments.unwrap_or(Value::Null)),
        other => Err(CommandError {
            class: "CommandNotFound",
            description: format!("The command {other} has not been found"),
        }),
    }
}

fn options() -> ServerOptions {
    ServerOptions {
        greeting: json!({"version": {}, "capabilities": []}),
        clients_max: 2,
        message_size_max: 4096,
    }
}

#[tokio::test]
async fn server_and_client_understand_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let (events, _) = broadcast::channel(16);
    let server = tokio::spawn(serve(
        bind(&path).unwrap(),
        options(),
        Some(events.clone()),
        echo,
    ));
    let (client, mut heard) = SidecarClient::connect(&path, WAIT).await.unwrap();
    assert_eq!(
        client.call("echo", json!({"a": 1}), WAIT).await.unwrap(),
        json!({"a": 1})
    );
    let unknown = client.call("nonsense", json!({}), WAIT).await.unwrap_err();
    assert!(unknown.to_string().contains("nonsense"), "{unknown}");
    events.send(("HAPPENED", json!({"n": 1}))).unwrap();
    let expected = Event::Happened {
        name: "HAPPENED".to_owned(),
        data: json!({"n": 1}),
    };
    assert_eq!(heard.next().await, Some(expected));
    // Somebody listens: the socket is not taken away.
    assert_eq!(
        bind(&path).unwrap_err().kind(),
        std::io::ErrorKind::AddrInUse
    );
    server.abort();
    drop(server.await);
    // What a dead process left is.
    drop(bind(&path).unwrap());
}

#[tokio::test]
async fn wrong_lines_get_one_clear_error_each_and_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    tokio::spawn(serve(bind(&path).unwrap(), options(), None, echo));
    let stream = UnixStream::connect(&path).await.unwrap();
    let mut said = Said {
        stream,
        splitter: Splitter::new(1 << 20),
    };
    said.hear().await;
    said.say(r#"{"execute":"echo","id":1}"#).await;
    let early = said.hear().await;
    assert_eq!(early["error"]["class"], "CommandNotFound");
    assert_eq!(early["id"], 1);
    said.say(r#"{"execute":"qmp_capabilities"}"#).await;
    said.hear().await;
    for (wrong, part) in [
        ("nonsense\n", "expected an object"),
        ("{\"execute\":}", "JSON parse error"),
        ("{}", "lacks member 'execute'"),
        ("{\"execute\":7}", "must be a string"),
        (
            "{\"execute\":\"echo\",\"argumnets\":{}}",
            "'argumnets' is unexpected",
        ),
    ] {
        said.say(wrong).await;
        let answer = said.hear().await;
        let description = answer["error"]["desc"].as_str().unwrap();
        assert!(description.contains(part), "{wrong}: {description}");
    }
    said.say(r#"{"execute":"echo","arguments":[2],"id":"still here"}"#)
        .await;
    assert_eq!(
        said.hear().await,
        json!({"return": [2], "id": "still here"})
    );
    // Beyond the limit the stream cannot go on: one error, then the end.
    said.say(&format!(
        r#"{{"execute":"echo","arguments":"{}"}}"#,
        "x".repeat(5000)
    ))
    .await;
    let answer = said.hear().await;
    assert!(
        answer["error"]["desc"]
            .as_str()
            .unwrap()
            .contains("longer than 4096 bytes")
    );
}

#[tokio::test]
async fn one_client_too_many_is_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    tokio::spawn(serve(bind(&path).unwrap(), options(), None, echo));
    let first = SidecarClient::connect(&path, WAIT).await.unwrap();
    let _second = SidecarClient::connect(&path, WAIT).await.unwrap();
    let third = SidecarClient::connect(&path, WAIT).await;
    assert!(matches!(third, Err(QmpError::NoGreeting { .. })));
    drop(first);
}
