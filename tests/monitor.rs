//! The monitor in QEMU's place, on real QEMU.

use std::fs;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use journal_format::record::{EffectCommand, EffectResult, RecordBody};
use phase_journal::qmp::{Class, classify, is_known, may_go_out_of_band};
use phase_journal_lab::pair::{DOMAIN, Limits, Pair, Side, Waited};
use phase_journal_lab::qmp::Qmp;
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use phase_journal_lab::until;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::scenario::{TIMEOUT, assert_one_runs, assert_sound, pair, records_in, settle, wait_for};

/// A client that sees bytes.
pub(crate) struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    /// One that was greeted.
    pub(crate) fn greeted(path: &Path) -> (Client, String) {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        let mut client = Client { stream, lines };
        let greeting = client.line();
        (client, greeting)
    }

    pub(crate) fn connect(path: &Path) -> Client {
        let (mut client, _) = Client::greeted(path);
        assert_eq!(
            client.ask(r#"{"execute":"qmp_capabilities"}"#),
            "{\"return\": {}}\r\n"
        );
        client
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.try_say(bytes).unwrap();
    }

    pub(crate) fn try_say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            // Cut off with something unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            result => drop(result.unwrap()),
        }
        line
    }

    /// The next answer; events are passed over.
    pub(crate) fn answer(&mut self) -> String {
        loop {
            let line = self.line();
            if !line.contains("\"timestamp\"") {
                return line;
            }
        }
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.say(command.as_bytes());
        self.answer()
    }

    fn send_with_fds(&mut self, command: &str, count: usize) {
        let file = fs::File::open("/dev/null").unwrap();
        let fds = vec![file.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [IoSlice::new(command.as_bytes())];
        let sent = sendmsg(&self.stream, &bytes, &mut ancillary, SendFlags::empty());
        assert_eq!(sent.unwrap(), command.len());
    }
}

pub(crate) fn plain() -> Pair {
    pair(RunOptions::default(), RunOptions::default())
}

pub(crate) fn client(pair: &mut Pair, side: Side) -> Client {
    Client::connect(&pair.sidecar(side).monitor_socket(DOMAIN))
}

fn monitor(pair: &mut Pair, side: Side) -> Qmp {
    let path = pair.sidecar(side).monitor_socket(DOMAIN);
    Qmp::connect(&path, TIMEOUT).unwrap()
}

/// What clients sent to QEMU, in order, as the journal has it.
fn passed(pair: &mut Pair, side: Side) -> Vec<(String, String)> {
    let records = records_in(pair.sidecar(side).journal());
    let of_client = |body: RecordBody| match body {
        RecordBody::EffectIntended(intended) => match intended.command {
            EffectCommand::Monitor {
                execute, arguments, ..
            } => Some((execute, arguments)),
            _ => None,
        },
        _ => None,
    };
    records.into_iter().filter_map(of_client).collect()
}

#[test]
fn every_command_of_this_qemu_is_classified() {
    let mut pair = plain();
    let schema = monitor(&mut pair, Side::A)
        .execute("query-qmp-schema", json!({}))
        .unwrap();
    let mut count = 0;
    for one in schema.as_array().unwrap() {
        if one["meta-type"] != "command" {
            continue;
        }
        let name = one["name"].as_str().unwrap();
        assert!(is_known(name), "{name} is not listed");
        let oob = one["allow-oob"] == true;
        assert_eq!(may_go_out_of_band(name), oob, "{name}");
        if name.starts_with("query-") {
            assert_eq!(classify(name), Class::Reading, "{name}");
        }
        count += 1;
    }
    assert!(count > 200, "{count} commands");
}

#[test]
fn it_answers_as_the_qemu_behind_it() {
    let mut pair = plain();
    let path = pair.sidecar(Side::A).monitor_socket(DOMAIN);
    let (_, greeting) = Client::greeted(&path);
    let version = pair
        .qemu(Side::A)
        .monitor()
        .execute("query-version", json!({}))
        .unwrap();
    let greeting: Value = serde_json::from_str(&greeting).unwrap();
    assert_eq!(greeting["QMP"]["version"], version);
    assert_eq!(greeting["QMP"]["capabilities"], json!(["oob"]));

    let mut client = client(&mut pair, Side::A);
    // In pieces, several in one, without line ends, with any id.
    client.say(br#"{"execute":"query-name","id":{"a":[1.0,null]}}{'execute':'query-na"#);
    client.say(b"me'}\r\n\r\n{\"execute\":\"query-nope\",\"id\":\"x\"}");
    assert!(
        client
            .answer()
            .ends_with(", \"id\": {\"a\":[1.0,null]}}\r\n")
    );
    assert!(!client.answer().contains("\"id\""));
    let line = client.answer();
    assert!(
        line.contains("CommandNotFound") && line.contains("\"id\": \"x\""),
        "{line}"
    );
    let schema = client.ask(r#"{"execute":"query-qmp-schema"}"#);
    assert!(schema.len() > 100_000, "{}", schema.len());
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let direct = pair
        .qemu(Side::A)
        .monitor()
        .execute("query-qmp-schema", json!({}))
        .unwrap();
    assert_eq!(schema["return"], direct);
    // Reading leaves no record, and what QEMU does not know is an effect that it refused.
    assert_eq!(
        passed(&mut pair, Side::A),
        [("query-nope".to_owned(), "{}".to_owned())]
    );
}

#[test]
fn an_effect_is_journaled_first_and_its_result_after() {
    let mut pair = plain();
    let (mut one, mut other) = (monitor(&mut pair, Side::A), monitor(&mut pair, Side::A));
    one.execute("stop", json!({})).unwrap();
    for client in [&mut one, &mut other] {
        client.wait_event("STOP", TIMEOUT, |_| true).unwrap();
    }
    assert_eq!(pair.sidecar(Side::A).domains().unwrap()[0].wanted, "paused");
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "paused");
    let password = json!({"protocol": "vnc", "password": "correct horse"});
    assert!(
        other.execute("set_password", password).is_err(),
        "there is no VNC"
    );
    let secret = json!({"qom-type": "secret", "id": "s", "data": "battery staple"});
    other.execute("object-add", secret).unwrap();
    let line = json!({"command-line": "info status"});
    one.execute("human-monitor-command", line).unwrap();
    one.execute("cont", json!({})).unwrap();
    pair.sidecar(Side::A).kill().unwrap();

    let journal = pair.sidecar(Side::A).journal().to_owned();
    let mut open = None;
    let mut results = Vec::new();
    for body in records_in(&journal) {
        match body {
            RecordBody::EffectIntended(intended) => {
                assert_eq!(intended.job, None);
                assert!(open.replace(intended.command.name().to_owned()).is_none());
            }
            RecordBody::EffectFinished(finished) => {
                let name = open.take().unwrap();
                results.push((name, finished.result == EffectResult::Done));
            }
            _ => {}
        }
    }
    // The result of the last one may not have been written yet.
    let expected = [
        "stop",
        "set_password",
        "object-add",
        "human-monitor-command",
        "cont",
    ];
    for ((name, done), expected) in results.iter().zip(expected) {
        assert_eq!(name, expected);
        assert_eq!(*done, name != "set_password", "{name}");
    }
    assert!(results.len() >= expected.len() - 1, "{results:?}");
    for file in fs::read_dir(&journal).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            for secret in [&b"correct horse"[..], b"battery staple"] {
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                assert!(!found, "a secret in {}", path.display());
            }
        }
    }
    assert_sound(&mut pair, Side::A, "clients");
}

/// P1: the sidecar dies when the intent is durable and QEMU has not heard of it; the next life says that nothing is
/// known.
#[test]
fn an_effect_whose_sidecar_dies_is_unknown() {
    let crash = CrashPoint::AfterRecord("effect-intended".to_owned());
    let mut pair = pair(RunOptions::crashing(crash), RunOptions::default());
    let mut client = monitor(&mut pair, Side::A);
    assert!(client.execute("stop", json!({})).is_err());
    pair.sidecar(Side::A).wait_ended(TIMEOUT).unwrap();
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "running");
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    // Its socket is there again, and works.
    let path = pair.sidecar(Side::A).monitor_socket(DOMAIN);
    let mut client = until("its monitor", TIMEOUT, || {
        Ok(Qmp::connect(&path, TIMEOUT).ok())
    })
    .unwrap();
    let status = client.execute("query-status", json!({})).unwrap();
    assert_eq!(status["status"], "running");
    let finished = records_in(pair.sidecar(Side::A).journal())
        .into_iter()
        .find_map(|body| match body {
            RecordBody::EffectFinished(finished) => Some(finished.result),
            _ => None,
        });
    assert!(
        matches!(finished, Some(EffectResult::Unknown { .. })),
        "{finished:?}"
    );
}

/// P2: the source has granted, the destination's sidecar is dead: whoever asks, this copy does not run.
#[test]
fn a_source_that_granted_is_not_continued_by_a_client() {
    let crash = CrashPoint::AfterRecord("migration-committed".to_owned());
    let mut pair = pair(RunOptions::default(), RunOptions::crashing(crash));
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::B, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    until("the source holds", TIMEOUT, || {
        Ok(pair.sidecar(Side::A).domains()?.remove(0).held)
    })
    .unwrap();
    let mut client = monitor(&mut pair, Side::A);
    for (name, arguments) in [
        ("cont", json!({})),
        ("quit", json!({})),
        ("migrate_cancel", json!({})),
        ("migrate", json!({"uri": "unix:/nowhere"})),
        ("human-monitor-command", json!({"command-line": "cont"})),
        ("object-del", json!({"id": "phase-journal-claim"})),
    ] {
        let refused = client.execute(name, arguments);
        assert!(refused.is_err(), "{name}: {refused:?}");
    }
    let status = client.execute("query-status", json!({})).unwrap();
    assert_eq!(status["status"], "postmigrate");
    assert_eq!(passed(&mut pair, Side::A), []);
    pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    assert_eq!(
        assert_one_runs(&mut pair, "the destination is back"),
        Side::B
    );
}

/// The manager's own `cont` or `quit`, on the monitor that it was given, is its verdict.
#[test]
fn a_managers_cont_and_quit_on_its_monitor_are_its_verdict() {
    for (side, command, runs) in [
        (Side::A, "cont", Side::A),
        (Side::B, "cont", Side::B),
        (Side::A, "quit", Side::B),
        (Side::B, "quit", Side::A),
    ] {
        let mut pair = plain();
        let limits = Limits {
            authority: Some("manager"),
            ..Limits::default()
        };
        pair.migrate(Side::A, limits).unwrap();
        wait_for(&mut pair, "both wait for the manager", |settled| {
            settled.held().len() == 2
        });
        monitor(&mut pair, side)
            .execute(command, json!({}))
            .unwrap();
        let what = format!("{command} at {side}");
        assert_eq!(assert_one_runs(&mut pair, &what), runs, "{what}");
    }
}

/// A migration under clients that ask all the while, and that stop their guest in its midst.
#[test]
fn clients_stay_through_a_migration() {
    let mut pair = plain();
    let (mut source, mut destination) = (monitor(&mut pair, Side::A), monitor(&mut pair, Side::B));
    pair.migrate(Side::A, Limits::default()).unwrap();
    let resumed = destination.wait_event("RESUME", TIMEOUT, |_| true);
    resumed.unwrap();
    // The source's QEMU is ended, and its clients hear that as from QEMU.
    let gone = until("the end", TIMEOUT, || {
        Ok(source.execute("query-status", json!({})).err())
    });
    gone.unwrap();
    destination.execute("query-status", json!({})).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "with clients"), Side::B);
}

#[test]
fn qemus_end_is_its_clients_end() {
    let mut pair = plain();
    let (mut one, mut other) = (client(&mut pair, Side::A), client(&mut pair, Side::A));
    assert_eq!(
        one.ask(r#"{"execute":"quit","id":1}"#),
        "{\"return\": {}, \"id\": 1}\r\n"
    );
    for client in [&mut one, &mut other] {
        let mut rest = String::new();
        client.lines.read_to_string(&mut rest).unwrap();
    }
    pair.qemu(Side::A).wait_dead(TIMEOUT).unwrap();
    let mut killed = client(&mut pair, Side::B);
    pair.qemu(Side::B).kill().unwrap();
    assert_eq!(killed.line(), "");
    settle(&mut pair);
}

fn open_fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn ten_thousand_descriptors_leave_none_behind() {
    const COUNT: usize = 10_000;
    let mut pair = plain();
    let sidecar = pair.sidecar(Side::A).pid().unwrap();
    let qemu = pair.qemu(Side::A).pid();
    let mut client = client(&mut pair, Side::A);
    let before = [open_fds(sidecar), open_fds(qemu)];
    for number in 0..COUNT {
        // A command that takes none never gets to QEMU; without a name QEMU closes it; the third one is QEMU's; and
        // some come with nothing at all. Effects are the fewer: each has its records.
        let fails = match number % 20 {
            0 => {
                client.send_with_fds(r#"{"execute":"getfd","arguments":{"no-name":1}}"#, 1);
                true
            }
            1 => {
                client.send_with_fds(r#"{"execute":"getfd","arguments":{"fdname":"f"}}"#, 1);
                false
            }
            2..10 => {
                client.send_with_fds("garbage\n", 1);
                true
            }
            _ => {
                client.send_with_fds(r#"{"execute":"query-status"}"#, 1);
                true
            }
        };
        let answer = client.answer();
        assert_eq!(answer.contains("error"), fails, "{number}: {answer}");
    }
    client.ask(r#"{"execute":"closefd","arguments":{"fdname":"f"}}"#);
    // Half a command with one, and the end.
    let mut half = Client::connect(&pair.sidecar(Side::A).monitor_socket(DOMAIN));
    half.send_with_fds(r#"{"execute":"ge"#, 2);
    drop(half);
    let settled = until("no more descriptors than before", TIMEOUT, || {
        let now = [open_fds(sidecar), open_fds(qemu)];
        Ok((now[0] <= before[0] && now[1] <= before[1]).then_some(now))
    });
    settled.unwrap_or_else(|error| panic!("{error}: {before:?}"));
}

#[test]
fn clients_that_misbehave_hurt_nobody_else() {
    let mut pair = plain();
    let sidecar = pair.sidecar(Side::A).pid().unwrap();
    let path = pair.sidecar(Side::A).monitor_socket(DOMAIN);
    let mut good = Client::connect(&path);
    // Half a command, and silence.
    let mut half = Client::connect(&path);
    half.say(br#"{"execute":"query-sta"#);
    // No end to it.
    let mut endless = Client::connect(&path);
    let piece = vec![b'x'; 1024 * 1024];
    endless.say(b"{\"execute\":\"");
    let mut mib = 0;
    while endless.stream.write_all(&piece).is_ok() {
        mib += 1;
        assert!(mib < 1024, "a line of a GiB was read");
    }
    // One connection for each command, as some managers do, and none of them leaves anything behind.
    let before = open_fds(sidecar);
    for _ in 0..2_000 {
        drop(Client::greeted(&path));
    }
    // More than there are places for.
    let mut crowd = Vec::new();
    let mut turned_away = 0;
    for _ in 0..200 {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut first = [0];
        match (&stream).read(&mut first) {
            Ok(1) => crowd.push(stream),
            Ok(_) | Err(_) => turned_away += 1,
        }
    }
    assert!(turned_away > 0, "{} were let in", crowd.len());
    assert!(
        good.ask(r#"{"execute":"query-status","id":1}"#)
            .contains("running")
    );
    drop(crowd);
    until("their descriptors are closed", TIMEOUT, || {
        Ok((open_fds(sidecar) <= before + 2).then_some(()))
    })
    .unwrap();
    half.say(b"tus\"}");
    assert!(half.answer().contains("running"));
    let rss = fs::read_to_string(format!("/proc/{sidecar}/status")).unwrap();
    let rss = rss.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kib: u64 = rss.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 200 * 1024, "{rss}");
}

/// Where QEMU's socket is when the sidecar is in its place.
fn behind(path: &Path) -> PathBuf {
    format!("{}.taken-over", path.display()).into()
}

fn add_taken_over(pair: &mut Pair, path: &Path) -> Result<Value, phase_journal_lab::Error> {
    let arguments = json!({"name": DOMAIN, "qmp": path, "take-over": true});
    pair.sidecar(Side::A).execute("domain-add", arguments)
}

/// A manager changes nothing: the path that it knows leads to the sidecar, whatever that died in, and to QEMU again
/// when the domain is removed.
#[test]
fn the_place_of_qemus_socket_is_taken_and_given_back() {
    let mut pair = plain();
    let path = pair.qemu(Side::A).sidecar_socket();
    let behind = behind(&path);
    let removal = json!({"name": DOMAIN});
    pair.sidecar(Side::A)
        .execute("domain-remove", removal.clone())
        .unwrap();

    // QEMU serves one client: a manager that is there stays, and the take-over is refused.
    let manager = Client::connect(&path);
    let refused = add_taken_over(&mut pair, &path).unwrap_err().to_string();
    assert!(
        refused.contains("another client has this monitor"),
        "{refused}"
    );
    assert!(!behind.exists());
    drop(manager);
    fs::write(&behind, "somebody's").unwrap();
    let refused = add_taken_over(&mut pair, &path).unwrap_err().to_string();
    assert!(refused.contains("in the way"), "{refused}");
    assert_eq!(pair.sidecar(Side::A).domains().unwrap(), []);
    drop(Client::connect(&path));
    fs::remove_file(&behind).unwrap();
    // Somebody's socket is not put in QEMU's place when that is undone, and nothing is left registered.
    let foreign = UnixListener::bind(&behind).unwrap();
    let refused = add_taken_over(&mut pair, &path).unwrap_err().to_string();
    assert!(refused.contains("in the way"), "{refused}");
    assert_eq!(pair.sidecar(Side::A).domains().unwrap(), []);
    drop(Client::connect(&path));
    drop((foreign, fs::remove_file(&behind)));

    for life in 0..3 {
        if life == 0 {
            add_taken_over(&mut pair, &path).unwrap();
        } else {
            pair.sidecar(Side::A).kill().unwrap();
            if life == 2 {
                // As if it had died right before the sockets changed places.
                fs::rename(&behind, &path).unwrap();
            }
            pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
        }
        until("QEMU's socket is taken over", TIMEOUT, || {
            let stream = UnixStream::connect(&path).ok();
            let maker = stream.and_then(|stream| socket_peercred(stream).ok());
            let maker = maker.and_then(|maker| u32::try_from(maker.pid.as_raw_pid()).ok());
            Ok((maker == pair.sidecar(Side::A).pid()).then_some(()))
        })
        .unwrap();
        let mut managers = [(); 2].map(|()| Qmp::connect(&path, TIMEOUT).unwrap());
        for one in &mut managers {
            one.execute("query-status", json!({})).unwrap();
        }
        managers[0].execute("stop", json!({})).unwrap();
        managers[1].wait_event("STOP", TIMEOUT, |_| true).unwrap();
        managers[1].execute("cont", json!({})).unwrap();
    }
    let sent = passed(&mut pair, Side::A);
    assert_eq!(sent.len(), 6, "{sent:?}");
    let plain = json!({"name": "other", "qmp": path});
    let refused = pair.sidecar(Side::A).execute("domain-add", plain);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("already serves domain"), "{refused}");
    let moved = json!({"name": "other", "qmp": behind});
    let refused = pair.sidecar(Side::A).execute("domain-add", moved);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("with 'take-over'"), "{refused}");

    pair.sidecar(Side::A)
        .execute("domain-remove", removal)
        .unwrap();
    assert!(!behind.exists());
    let status = until("QEMU itself answers", TIMEOUT, || {
        let mut qemu = Qmp::connect(&path, TIMEOUT).ok();
        Ok(qemu
            .as_mut()
            .and_then(|qemu| qemu.execute("query-status", json!({})).ok()))
    });
    assert_eq!(status.unwrap()["status"], "running");
    assert_eq!(passed(&mut pair, Side::A).len(), 6, "nothing went past it");
    settle(&mut pair);
}

/// A QEMU that ends leaves nothing, and its successor has its path to itself.
#[test]
fn a_taken_over_qemu_that_ends_leaves_its_path() {
    let mut pair = plain();
    let path = pair.qemu(Side::A).sidecar_socket();
    let behind = behind(&path);
    let removal = json!({"name": DOMAIN});
    pair.sidecar(Side::A)
        .execute("domain-remove", removal)
        .unwrap();
    add_taken_over(&mut pair, &path).unwrap();
    let mut manager = Client::connect(&path);
    pair.qemu(Side::A).kill().unwrap();
    assert_eq!(manager.line(), "");
    until("both sockets are gone", TIMEOUT, || {
        Ok((!behind.exists() && !path.exists()).then_some(()))
    })
    .unwrap();
}
