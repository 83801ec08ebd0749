//! The proxy between clients and a QEMU that is played by hand, byte by byte.

use std::os::fd::AsFd;
use std::time::Duration;

use journal_format::number::Id128;
use journal_format::record::Instance;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::*;
use crate::qmp::{Client, Dialled, Events, Splitter};
use crate::sidecar::link::Inbound;

const WAIT: Duration = Duration::from_secs(20);
const GREETING: &str = r#"{"QMP": {"version": {"x": 1.0},  "capabilities": ["oob"]}}"#;

/// The other end of the sidecar's connection: what a QEMU would get and say, by hand.
struct Qemu {
    lines: BufReader<OwnedReadHalf>,
    output: OwnedWriteHalf,
    port: Port,
    shared: Shared,
    inbound: tokio::sync::mpsc::Receiver<Inbound>,
    _client: (Client, Events),
    _directory: tempfile::TempDir,
}

/// A client of the domain's monitor.
struct Visitor {
    lines: BufReader<OwnedReadHalf>,
    output: OwnedWriteHalf,
}

async fn line_of(lines: &mut BufReader<OwnedReadHalf>) -> String {
    let mut line = String::new();
    timeout(WAIT, lines.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    line
}

/// As QEMU reads: up to the end of an object, and no further.
async fn object_of(input: &mut BufReader<OwnedReadHalf>) -> String {
    let mut splitter = Splitter::new(1 << 20);
    loop {
        if let Some(object) = splitter.next_object() {
            return String::from_utf8(object.unwrap()).unwrap();
        }
        let byte = timeout(WAIT, input.read_u8()).await.unwrap().unwrap();
        splitter.push(&[byte]);
    }
}

impl Qemu {
    async fn start() -> Qemu {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let port = Port::new(Keeping::default());
        let listeners = port.listeners();
        let connecting = tokio::spawn(async move {
            let dialled = Dialled::dial(&path, WAIT).await.unwrap();
            Client::greet(dialled, WAIT, listeners, None).await.unwrap()
        });
        let (stream, _) = listener.accept().await.unwrap();
        let (reading, mut output) = stream.into_split();
        let mut lines = BufReader::new(reading);
        output
            .write_all(format!("{GREETING}\r\n").as_bytes())
            .await
            .unwrap();
        object_of(&mut lines).await;
        output
            .write_all(b"{\"return\": {}, \"id\": 1}\r\n")
            .await
            .unwrap();
        let client = connecting.await.unwrap();
        port.set(Upstream::Here(client.0.passing()));
        let (link, inbound) = Link::new();
        let shared = Shared {
            domain: DomainId(Id128([1; 16])),
            link,
            port: port.clone(),
            effects: Arc::new(Semaphore::new(1)),
        };
        Qemu {
            lines,
            output,
            port,
            shared,
            inbound,
            _client: client,
            _directory: directory,
        }
    }

    /// A client that has negotiated.
    async fn visitor(&self) -> Visitor {
        let mut visitor = self.stranger().await;
        visitor
            .say(r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#)
            .await;
        assert_eq!(visitor.hear().await, "{\"return\": {}}\r\n");
        visitor
    }

    /// One that was only greeted.
    async fn stranger(&self) -> Visitor {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(served::serve(theirs, self.shared.clone()));
        let (reading, output) = ours.into_split();
        let mut visitor = Visitor {
            lines: BufReader::new(reading),
            output,
        };
        assert_eq!(visitor.hear().await, format!("{GREETING}\r\n"));
        visitor
    }

    /// The next command, and the id that it came with.
    async fn asked(&mut self) -> (String, u64) {
        let line = object_of(&mut self.lines).await;
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        (line, value["id"].as_u64().unwrap())
    }

    async fn say(&mut self, text: &str) {
        self.output.write_all(text.as_bytes()).await.unwrap();
        self.output.write_all(b"\r\n").await.unwrap();
    }
}

impl Visitor {
    async fn say(&mut self, text: &str) {
        self.output.write_all(text.as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> String {
        line_of(&mut self.lines).await
    }

    async fn hears_the_end(&mut self) {
        let mut rest = Vec::new();
        // A connection that is reset has ended as well.
        drop(
            timeout(WAIT, self.lines.read_to_end(&mut rest))
                .await
                .unwrap(),
        );
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

#[tokio::test]
async fn what_passes_is_not_written_anew() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor
        .say(r#"{ "execute" : "query-status","arguments":{ "n":1.50e+2 , "t":"\u00e9\/" }, "id":{"a" : [ 1.0 ]} }"#)
        .await;
    let (line, id) = qemu.asked().await;
    let expected = format!(
        "{{\"execute\":\"query-status\",\"arguments\":{{\"n\":1.50e+2,\"t\":\"\\u00e9\\/\"}},\"id\":{id}}}"
    );
    assert_eq!(line, expected);
    qemu.say(&format!(
        r#"{{"id": {id}, "return": {{"z": 1.500, "a": "\u00e9", "later": [1E2]}}}}"#
    ))
    .await;
    assert_eq!(
        visitor.hear().await,
        "{\"id\": {\"a\" : [ 1.0 ]}, \"return\": {\"z\": 1.500, \"a\": \"\\u00e9\", \"later\": [1E2]}}\r\n"
    );
}

#[tokio::test]
async fn commands_come_in_any_pieces() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor
        .say(
            "{\"execute\":\"query-name\"}{\"execute\":\"query-uuid\",\"id\":2}\n\n{'execute':'quer",
        )
        .await;
    for expected in ["query-name", "query-uuid"] {
        let (line, id) = qemu.asked().await;
        assert!(line.contains(expected), "{line}");
        qemu.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
            .await;
        assert!(visitor.hear().await.starts_with("{\"return\": {}"));
    }
    for piece in ["y-", "kvm", "'}"] {
        visitor.say(piece).await;
    }
    let (line, _) = qemu.asked().await;
    assert!(line.contains("\"query-kvm\""), "{line}");
}

#[tokio::test]
async fn answers_of_megabytes_pass() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor
        .say(r#"{"execute":"query-qmp-schema","id":"big"}"#)
        .await;
    let (_, id) = qemu.asked().await;
    let long = "x".repeat(8 * 1024 * 1024);
    let saying = tokio::spawn(async move {
        qemu.say(&format!(r#"{{"return": "{long}", "id": {id}}}"#))
            .await;
        qemu
    });
    let line = visitor.hear().await;
    assert_eq!(
        line.len(),
        8 * 1024 * 1024 + "{\"return\": \"\", \"id\": \"big\"}\r\n".len()
    );
    drop(saying.await);
}

#[tokio::test]
async fn answers_out_of_order_and_twice_find_their_clients() {
    let mut qemu = Qemu::start().await;
    let (mut one, mut other) = (qemu.visitor().await, qemu.visitor().await);
    one.say(r#"{"execute":"query-name","id":"one"}"#).await;
    let (_, first) = qemu.asked().await;
    other.say(r#"{"execute":"query-name","id":"other"}"#).await;
    let (_, second) = qemu.asked().await;
    for id in [second, second, 4711, first, first] {
        qemu.say(&format!(r#"{{"return": {{"id": {id}}}, "id": {id}}}"#))
            .await;
    }
    assert_eq!(
        one.hear().await,
        format!("{{\"return\": {{\"id\": {first}}}, \"id\": \"one\"}}\r\n")
    );
    assert_eq!(
        other.hear().await,
        format!("{{\"return\": {{\"id\": {second}}}, \"id\": \"other\"}}\r\n")
    );
    // Nothing of the second copies: the next answer is that of the next command.
    one.say(r#"{"execute":"query-kvm","id":3}"#).await;
    let (_, id) = qemu.asked().await;
    qemu.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
        .await;
    assert_eq!(one.hear().await, "{\"return\": {}, \"id\": 3}\r\n");
}

#[tokio::test]
async fn every_client_hears_every_event_once_after_its_negotiation() {
    let mut qemu = Qemu::start().await;
    let mut stranger = qemu.stranger().await;
    let (mut one, mut other) = (qemu.visitor().await, qemu.visitor().await);
    qemu.say(r#"{"timestamp": {"seconds": 1,  "microseconds": 2}, "event": "A"}"#)
        .await;
    for visitor in [&mut one, &mut other] {
        let line = visitor.hear().await;
        assert_eq!(
            line,
            "{\"timestamp\": {\"seconds\": 1,  \"microseconds\": 2}, \"event\": \"A\"}\r\n"
        );
    }
    stranger.say(r#"{"execute":"qmp_capabilities"}"#).await;
    assert_eq!(stranger.hear().await, "{\"return\": {}}\r\n");
    // An event and an answer keep their order.
    one.say(r#"{"execute":"query-name"}"#).await;
    let (_, id) = qemu.asked().await;
    qemu.say(r#"{"event": "B"}"#).await;
    qemu.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
        .await;
    assert_eq!(one.hear().await, "{\"event\": \"B\"}\r\n");
    assert_eq!(one.hear().await, "{\"return\": {}}\r\n");
    for visitor in [&mut other, &mut stranger] {
        assert_eq!(visitor.hear().await, "{\"event\": \"B\"}\r\n");
    }
}

#[tokio::test]
async fn what_is_out_of_band_overtakes() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor.say(r#"{"execute":"query-name","id":1}{"execute":"query-kvm","id":2}{"exec-oob":"query-yank","id":3}"#).await;
    let (_, first) = qemu.asked().await;
    let (line, past) = qemu.asked().await;
    assert!(line.contains("exec-oob"), "{line}");
    qemu.say(&format!(r#"{{"return": {{}}, "id": {past}}}"#))
        .await;
    assert_eq!(visitor.hear().await, "{\"return\": {}, \"id\": 3}\r\n");
    qemu.say(&format!(r#"{{"return": {{}}, "id": {first}}}"#))
        .await;
    assert_eq!(visitor.hear().await, "{\"return\": {}, \"id\": 1}\r\n");
    assert!(qemu.asked().await.0.contains("query-kvm"));
}

/// A QEMU that does not answer keeps its clients waiting, and takes no more of their commands than leaves it room for the
/// sidecar's own.
#[tokio::test]
async fn a_qemu_that_never_answers_is_not_asked_without_end() {
    let mut qemu = Qemu::start().await;
    let mut visitors = Vec::new();
    for _ in 0..10 {
        let mut visitor = qemu.visitor().await;
        visitor
            .say(r#"{"execute":"query-name"}{"execute":"query-name"}"#)
            .await;
        visitors.push(visitor);
    }
    for _ in 0..3 {
        qemu.asked().await;
    }
    // The sidecar's own question is the next one.
    let client = qemu._client.0.clone();
    let asking = tokio::spawn(async move {
        client
            .query("query-status", serde_json::json!({}), WAIT)
            .await
    });
    let (line, id) = qemu.asked().await;
    assert!(line.contains("query-status"), "{line}");
    qemu.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
        .await;
    asking.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_qemu_that_dies_in_an_answer_ends_its_clients() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor.say(r#"{"execute":"query-name","id":1}"#).await;
    qemu.asked().await;
    qemu.output.write_all(b"{\"return\": {\"na").await.unwrap();
    let port = qemu.port.clone();
    drop(qemu.output);
    drop(qemu.lines);
    port.set(Upstream::Ended);
    visitor.hears_the_end().await;
}

/// What QEMU said before it ended reaches a client that has not read it yet.
#[tokio::test]
async fn what_waits_for_a_client_reaches_it_though_qemu_ends() {
    let mut qemu = Qemu::start().await;
    let mut slow = qemu.visitor().await;
    let mut other = qemu.visitor().await;
    let long = "x".repeat(2 << 20);
    for (visitor, said) in [(&mut slow, long.as_str()), (&mut other, "short")] {
        visitor.say(r#"{"execute":"query-name","id":1}"#).await;
        let (_, id) = qemu.asked().await;
        qemu.say(&format!(r#"{{"return": "{said}", "id": {id}}}"#))
            .await;
    }
    // It came behind the other one.
    assert!(other.hear().await.contains("short"));
    qemu.port.set(Upstream::Ended);
    other.hears_the_end().await;
    assert!(slow.hear().await.contains(&long));
    slow.hears_the_end().await;
}

/// While the connection is made anew, clients stay; what was under way is answered by an error.
#[tokio::test]
async fn a_lost_connection_is_told_and_waited_for() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor.say(r#"{"execute":"query-name","id":1}"#).await;
    qemu.asked().await;
    qemu.port.set(Upstream::Away);
    drop(qemu.output);
    let line = visitor.hear().await;
    assert!(
        line.starts_with("{\"id\": 1, \"error\": ") && line.contains("connection to QEMU"),
        "{line}"
    );
    visitor.say(r#"{"execute":"query-name","id":2}"#).await;
    let mut again = Qemu::start().await;
    qemu.port.set(Upstream::Here(again._client.0.passing()));
    let (_, id) = again.asked().await;
    again
        .say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
        .await;
    assert_eq!(visitor.hear().await, "{\"return\": {}, \"id\": 2}\r\n");
}

#[tokio::test]
async fn what_is_no_command_is_answered_and_passed_over() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.stranger().await;
    let not_yet = "Expecting capabilities negotiation with 'qmp_capabilities'";
    for (said, expected) in [
        (r#"{"execute":"query-status","id":1}"#, not_yet),
        ("nonsense\n", "JSON parse error"),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["x"]}}"#,
            "does not accept",
        ),
        (
            r#"{"execute":"qmp_capabilities","id":[]}"#,
            "{\"return\": {}, \"id\": []}",
        ),
        (r#"{"execute":"qmp_capabilities"}"#, "already complete"),
        (r#"{"exec-oob":"query-yank"}"#, "'exec-oob' is unexpected"),
        ("\u{0}\u{1}\u{7f}garbage\n", "JSON parse error"),
        (
            r#"{"execute":"query-name","arguments":{"a":1,"a":2}}"#,
            "duplicate key",
        ),
    ] {
        visitor.say(said).await;
        let line = visitor.hear().await;
        assert!(line.contains(expected), "{said}: {line}");
    }
    visitor.say(r#"{"execute":"query-name"}"#).await;
    assert!(
        qemu.asked().await.0.contains("query-name"),
        "nothing of all that came here"
    );
}

#[tokio::test]
async fn a_command_without_end_is_cut_off() {
    let qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor.say(r#"{"execute":""#).await;
    let piece = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while visitor.output.write_all(&piece).await.is_ok() {
        sent += piece.len();
        assert!(sent < 64 * incoming::COMMAND_SIZE_MAX, "still read");
    }
    // It may be reset before the reason is read.
    let mut line = String::new();
    if timeout(WAIT, visitor.lines.read_line(&mut line))
        .await
        .unwrap()
        .is_ok()
        && !line.is_empty()
    {
        assert!(line.contains("longer than"), "{line}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_holds_up_nobody() {
    let mut qemu = Qemu::start().await;
    let (mut deaf, mut other) = (qemu.visitor().await, qemu.visitor().await);
    let event = format!(r#"{{"event": "{}"}}"#, "E".repeat(10_000));
    for _ in 0..300 {
        qemu.say(&event).await;
        assert_eq!(other.hear().await.len(), event.len() + 2);
    }
    // What the kernel had taken is still there, and then the end.
    let mut rest = Vec::new();
    drop(
        timeout(WAIT, deaf.lines.read_to_end(&mut rest))
            .await
            .unwrap(),
    );
    assert!(rest.len() < 300 * event.len(), "{}", rest.len());
}

/// As a shell's pipe does: it says all it has to say, and then only hears.
#[tokio::test]
async fn a_client_that_says_no_more_still_hears() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor
        .say(r#"{"execute":"query-name","id":1}{"execute":"query-kvm","id":2}"#)
        .await;
    visitor.output.shutdown().await.unwrap();
    for number in 1..3 {
        let (_, id) = qemu.asked().await;
        qemu.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
            .await;
        assert_eq!(
            visitor.hear().await,
            format!("{{\"return\": {{}}, \"id\": {number}}}\r\n")
        );
    }
    visitor.hears_the_end().await;
    // Of one that is gone altogether, what still waited is not carried out.
    let mut gone = qemu.visitor().await;
    gone.say(r#"{"execute":"query-name"}{"execute":"query-name"}"#)
        .await;
    let (_, id) = qemu.asked().await;
    drop(gone);
    let mut other = qemu.visitor().await;
    qemu.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
        .await;
    other.say(r#"{"execute":"query-kvm"}"#).await;
    assert!(qemu.asked().await.0.contains("query-kvm"));
}

/// Who asks for more than it reads waits, and is not cut off for it.
#[tokio::test]
async fn a_client_that_reads_late_gets_all_its_answers() {
    const COUNT: usize = 40;
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    let long = "x".repeat(100_000);
    let answering = tokio::spawn(async move {
        for _ in 0..COUNT {
            let (_, id) = qemu.asked().await;
            qemu.say(&format!(r#"{{"return": "{long}", "id": {id}}}"#))
                .await;
        }
        qemu
    });
    for _ in 0..COUNT {
        visitor.say(r#"{"execute":"query-name"}"#).await;
    }
    for _ in 0..COUNT {
        assert_eq!(
            visitor.hear().await.len(),
            100_000 + "{\"return\": \"\"}\r\n".len()
        );
    }
    drop(answering.await);
}

fn pass(stream: &OwnedWriteHalf, bytes: &[u8], count: usize) {
    let file = std::fs::File::open("/dev/null").unwrap();
    let fds = vec![file.as_fd(); count];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let stream: &UnixStream = stream.as_ref();
    let sent = sendmsg(
        stream,
        &[std::io::IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::empty(),
    );
    assert_eq!(sent.unwrap(), bytes.len());
}

#[tokio::test]
async fn descriptors_without_a_command_that_takes_them_are_refused() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor.say("  ").await;
    pass(&visitor.output, br#"{"execute":"query-name","id":1}"#, 2);
    assert!(visitor.hear().await.contains("which takes none"));
    pass(&visitor.output, br#"{"execute":"getfd","id":2}"#, FDS_OVER);
    visitor.hears_the_end().await;
    // A piece of garbage takes its descriptors along.
    let mut visitor = qemu.visitor().await;
    pass(&visitor.output, b"garbage\n", 1);
    assert!(visitor.hear().await.contains("JSON parse error"));
    visitor.say(r#"{"execute":"query-name","id":3}"#).await;
    let (_, id) = qemu.asked().await;
    qemu.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#))
        .await;
    assert_eq!(visitor.hear().await, "{\"return\": {}, \"id\": 3}\r\n");
}

const FDS_OVER: usize = crate::qmp::FDS_MAX + 1;

/// The kernel glues what is sent to what was sent before; the descriptor still belongs to what it was sent with.
#[tokio::test]
async fn a_descriptor_belongs_to_the_command_it_came_with() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (_reading, mut output) = ours.into_split();
    output
        .write_all(br#"{"execute":"a"} {"execute":"b"}"#)
        .await
        .unwrap();
    pass(&output, br#"{"execute":"c"}"#, 2);
    pass(&output, br#" {"exec"#, 1);
    output
        .write_all(br#"ute":"d"}{"execute":"e"}"#)
        .await
        .unwrap();
    drop(output);
    let theirs = Arc::new(crate::qmp::Socket::new(theirs).unwrap());
    let outlet = crate::qmp::Outlet::new(theirs.clone());
    let mut incoming = incoming::Incoming::new(theirs, outlet, &[]);
    let mut counts = Vec::new();
    loop {
        match incoming.next().await {
            incoming::Read::Object(_, fds) => counts.push(fds.len()),
            incoming::Read::Ended => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(counts, [0, 0, 2, 1, 0]);
}

#[tokio::test]
async fn an_effect_waits_for_the_engine() {
    let mut qemu = Qemu::start().await;
    let mut visitor = qemu.visitor().await;
    visitor.say(r#"{"execute":"set_password","arguments":{"protocol":"vnc","password":"hunter2"},"id":1}"#).await;
    let Some(Inbound::Input(crate::engine::Input::Monitor { token, command, .. })) =
        timeout(WAIT, qemu.inbound.recv()).await.unwrap()
    else {
        panic!("a command for the engine");
    };
    assert_eq!(command.execute, "set_password");
    assert_eq!(
        command.arguments,
        r#"{"password":"(redacted)","protocol":"vnc"}"#
    );
    assert!(command.redacted);
    let refusal = crate::engine::Refusal::NoSuchDomain("vm".to_owned());
    let reply = crate::engine::Message::Reply {
        token,
        result: Err(refusal),
    };
    qemu.shared.link.answer(vec![reply], 1);
    let line = visitor.hear().await;
    assert!(
        line.starts_with("{\"id\": 1, \"error\": ") && line.contains("no domain named"),
        "{line}"
    );
    // Nothing of it came to QEMU.
    visitor.say(r#"{"execute":"query-name"}"#).await;
    assert!(qemu.asked().await.0.contains("query-name"));
}

#[test]
fn a_name_that_is_no_file_name_is_written_as_in_a_url() {
    for (name, expected) in [
        ("web1", "web1.sock"),
        ("a/b%", "a%2Fb%25.sock"),
        ("..", "%2E..sock"),
        (".hidden", "%2Ehidden.sock"),
    ] {
        assert_eq!(file_name(name), expected);
    }
}

/// The service manager has a client's connection open too: its end must be seen all the same, whether it is cut off or just let go.
#[tokio::test]
async fn a_client_that_is_let_go_sees_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let keeper = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let manager = Manager::at_path(&path);
    for is_closed in [false, true] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let owner = Owner {
            domain: DomainId(Id128([1; 16])),
            instance: Instance {
                boot: BootId(Id128([2; 16])),
                pid: 17,
                start_time: 1,
            },
        };
        // As the service manager has it.
        let stored = theirs.as_fd().try_clone_to_owned().unwrap();
        let kept = KeptClient::keep(&manager, owner, theirs.as_fd()).unwrap();
        let outlet = crate::qmp::Outlet::keeping(
            Arc::new(crate::qmp::Socket::new(theirs).unwrap()),
            Some(kept),
        );
        if is_closed {
            outlet.close();
        } else {
            drop(outlet);
        }
        let mut ours = ours;
        let read = timeout(WAIT, ours.read(&mut [0; 8])).await;
        assert_eq!(read.unwrap().unwrap(), 0);
        drop(stored);
    }
    drop(keeper);
}

/// While a socket is given back it is not taken over, and not after, until it is to be once more; who asks meanwhile waits.
#[tokio::test]
async fn what_is_given_back_is_not_taken_over_meanwhile() {
    use core::future::Future;
    let fake = crate::sidecar::testing::FakeQemu::start(&serde_json::json!({})).await;
    let instance = fake.instance();
    let taken = TakenOver::from_front(&fake.path);
    let (link, _inbound) = Link::new();
    let domain = DomainId(Id128([1; 16]));
    let served = ServedDomains::default();
    let front = Arc::new(Front::new(taken, instance, instance.boot));
    served.begin(domain, Some(front.clone()));
    let fronted = Fronted {
        front: front.clone(),
        names: Names::default(),
        clients: Clients {
            places: Arc::new(Semaphore::new(1)),
            shared: Shared {
                domain,
                link,
                port: Port::new(Keeping::default()),
                effects: Arc::new(Semaphore::new(1)),
            },
        },
        served: served.clone(),
    };
    let listener = fronted.establish().await.unwrap().unwrap();
    {
        // Names change right now.
        let _changing = front.is_given_back.lock().await;
        let mut giving = Box::pin(served.give_back(domain));
        let mut taking = Box::pin(fronted.establish());
        let mut context = core::task::Context::from_waker(core::task::Waker::noop());
        assert!(giving.as_mut().poll(&mut context).is_pending());
        assert!(taking.as_mut().poll(&mut context).is_pending());
    }
    {
        let mut giving = Box::pin(served.give_back(domain));
        let mut context = core::task::Context::from_waker(core::task::Waker::noop());
        assert!(giving.as_mut().poll(&mut context).is_pending());
        assert!(front.is_given_back.try_lock().is_err(), "on its way");
        giving.await.unwrap();
    }
    assert!(fronted.establish().await.is_none());
    drop(listener);
    assert!(
        UnixStream::connect(&fake.path).await.is_ok(),
        "it is QEMU's"
    );
    served.take_over_again(domain).await;
    assert!(matches!(fronted.establish().await, Some(Ok(_))));
}
