//! Connections that outlive the sidecar, kept by the service manager: on real QEMU.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use journal_format::record::{EffectCommand, EffectResult, RecordBody};
use phase_journal_lab::pair::{DOMAIN, Pair, Side};
use phase_journal_lab::sidecar::RunOptions;
use phase_journal_lab::supervisor::Supervisor;
use phase_journal_lab::{Scratch, until};

use crate::monitor::{Client, client, plain};
use crate::scenario::{TIMEOUT, assert_sound, records_in, settle};

/// A pair whose first sidecar runs under a service manager.
fn supervised() -> (Pair, Supervisor, Scratch) {
    let mut pair = plain();
    let scratch = Scratch::create().unwrap();
    let supervisor = Supervisor::start(scratch.path()).unwrap();
    pair.sidecar(Side::A).kill().unwrap();
    start(&mut pair, &supervisor);
    (pair, supervisor, scratch)
}

fn start(pair: &mut Pair, supervisor: &Supervisor) {
    let sidecar = pair.sidecar(Side::A);
    sidecar
        .start_under(&RunOptions::default(), supervisor)
        .unwrap();
}

/// A client that has negotiated commands out of band.
fn with_oob(pair: &mut Pair) -> Client {
    let (mut client, _) = Client::greeted(&pair.sidecar(Side::A).monitor_socket(DOMAIN));
    let answer =
        client.ask(r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":"n"}"#);
    assert_eq!(answer, "{\"return\": {}, \"id\": \"n\"}\r\n");
    client
}

/// Effects of clients with this text in the journal, and how many of them have this result.
fn effects(pair: &mut Pair, text: &str) -> (usize, usize) {
    let records = records_in(pair.sidecar(Side::A).journal());
    let has_text = |command: &EffectCommand| match command {
        EffectCommand::Monitor {
            execute, arguments, ..
        } => format!("{execute} {arguments}").contains(text),
        _ => false,
    };
    let mut lsns = Vec::new();
    for (at, body) in records.iter().enumerate() {
        if let RecordBody::EffectIntended(intended) = body
            && has_text(&intended.command)
        {
            lsns.push(at);
        }
    }
    let unknown = records.iter().filter(|body| {
        matches!(body, RecordBody::EffectFinished(finished)
            if matches!(finished.result, EffectResult::Unknown { .. }))
    });
    (lsns.len(), unknown.count())
}

/// All that a client hears up to the answer to a last question, by which all else has been said.
fn heard(client: &mut Client) -> Vec<String> {
    client.say(br#"{"execute":"query-name","id":"last"}"#);
    let mut lines = Vec::new();
    loop {
        let line = client.line();
        assert!(!line.is_empty(), "its connection ended after {lines:?}");
        if line.contains("\"last\"") {
            return lines;
        }
        lines.push(line);
    }
}

fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

/// What QEMU is busy with for a while.
const BUSY: &str = r#"{"execute":"human-monitor-command","arguments":{"command-line":"qemu-io virtio0 \"sleep 1500\""},"id":{"long":[1.50]}}"#;

fn connections_outlive(end: fn(&mut Pair)) {
    let (mut pair, supervisor, _scratch) = supervised();
    let mut one = client(&mut pair, Side::A);
    let (mut other, mut third) = (with_oob(&mut pair), client(&mut pair, Side::A));
    let mut stranger = Client::greeted(&pair.sidecar(Side::A).monitor_socket(DOMAIN)).0;
    assert_eq!(supervisor.kept().unwrap().len(), 5);

    // An effect that QEMU has begun, when it answers somebody who came later; then a question and an effect behind it,
    // and half a command.
    one.say(BUSY.as_bytes());
    until("it is at QEMU", TIMEOUT, || {
        let is_intended = effects(&mut pair, "sleep 1500").0 == 1;
        Ok((is_intended && supervisor.has_sent("execute\":\"human")?).then_some(()))
    })
    .unwrap();
    let answer = other.ask(r#"{"exec-oob":"query-yank","id":7}"#);
    assert!(answer.contains("\"return\""), "{answer}");
    other.say(br#"{"execute":"query-status","id":"status"} {"execute":"query-na"#);
    third.say(br#"{"execute":"stop","id":"stop"}"#);
    stranger.say(br#"{"execute":"query-status"}"#);
    assert!(stranger.line().contains("capabilities negotiation"));
    supervisor.at_rest(TIMEOUT).unwrap();
    end(&mut pair);
    one.say(br#"{"execute":"query-status","id":"meanwhile"}"#);
    start(&mut pair, &supervisor);

    other.say(br#"me","id":"name"}"#);
    let answer = one.answer();
    assert!(
        answer.ends_with("\"id\": {\"long\":[1.50]}}\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\"return\""), "{answer}");
    assert!(one.answer().contains("meanwhile"));
    let answers = [other.answer(), other.answer()];
    assert!(
        answers[0].contains("\"status\"") && answers[1].contains("\"name\""),
        "{answers:?}"
    );
    assert_eq!(third.answer(), "{\"return\": {}, \"id\": \"stop\"}\r\n");
    third.ask(r#"{"execute":"cont"}"#);
    stranger.say(br#"{"execute":"qmp_capabilities"}"#);
    assert_eq!(stranger.line(), "{\"return\": {}}\r\n");
    for client in [&mut one, &mut other, &mut third] {
        let lines = heard(client);
        // Of STOP those who came after its answer may have heard before.
        assert!(count(&lines, "\"RESUME\"") <= 1, "{lines:?}");
        assert_eq!(count(&lines, "\"return\""), 0, "answered twice: {lines:?}");
        assert_eq!(count(&lines, "\"error\""), 0, "{lines:?}");
    }
    let (sent, unknown) = effects(&mut pair, "sleep 1500");
    assert_eq!(
        (sent, unknown),
        (1, 1),
        "sent once, and no result in the journal"
    );
    assert_eq!(effects(&mut pair, "stop ").0, 1);
    assert_eq!(supervisor.kept().unwrap().len(), 5);
    drop((one, other, third, stranger));
    until("nobody is kept but QEMU", TIMEOUT, || {
        Ok((supervisor.kept()?.len() == 1).then_some(()))
    })
    .unwrap();
    assert!(supervisor.told().unwrap().contains(&"READY=1".to_owned()));
    pair.sidecar(Side::A).kill().unwrap();
    assert_sound(&mut pair, Side::A, "kept connections");
}

#[test]
fn connections_outlive_a_kill() {
    connections_outlive(|pair| pair.sidecar(Side::A).kill().unwrap());
}

#[test]
fn connections_outlive_a_stop() {
    connections_outlive(|pair| assert!(pair.sidecar(Side::A).stop().unwrap().success()));
}

/// What QEMU says while nobody is there waits in its connection, and everyone hears it once.
#[test]
fn events_wait_for_the_next_life() {
    let (mut pair, supervisor, _scratch) = supervised();
    let mut clients = [(); 3].map(|()| client(&mut pair, Side::A));
    for life in 0..3 {
        supervisor.at_rest(TIMEOUT).unwrap();
        pair.sidecar(Side::A).kill().unwrap();
        for command in ["stop", "cont"] {
            let monitor = pair.qemu(Side::A).monitor();
            monitor.execute(command, serde_json::json!({})).unwrap();
        }
        start(&mut pair, &supervisor);
        for client in &mut clients {
            let lines = heard(client);
            for event in ["\"STOP\"", "\"RESUME\""] {
                assert_eq!(count(&lines, event), 1, "life {life}: {lines:?}");
            }
        }
    }
    assert_eq!(supervisor.kept().unwrap().len(), 4);
    settle(&mut pair);
}

/// Damage, strangers and those who left meanwhile hurt nobody else.
#[test]
fn what_cannot_be_gone_on_with_is_closed() {
    let (mut pair, supervisor, _scratch) = supervised();
    let mut good = client(&mut pair, Side::A);
    let before = supervisor.kept().unwrap();
    let mut damaged = client(&mut pair, Side::A);
    let after = supervisor.kept().unwrap();
    let its = after.iter().find(|name| !before.contains(name)).unwrap();
    let gone = client(&mut pair, Side::A);
    supervisor.at_rest(TIMEOUT).unwrap();
    pair.sidecar(Side::A).kill().unwrap();
    drop(gone);
    supervisor.damage(its, b"X", 40).unwrap();
    let (unknown, mut other_end) = UnixStream::pair().unwrap();
    supervisor.keep("somebody-elses", vec![unknown.into()]);
    start(&mut pair, &supervisor);
    assert_eq!(damaged.line(), "");
    assert_eq!(std::io::Read::read(&mut other_end, &mut [0]).unwrap(), 0);
    assert_eq!(heard(&mut good), [] as [String; 0]);
    assert_eq!(supervisor.kept().unwrap().len(), 2, "one client, and QEMU");

    // A QEMU that died meanwhile: its clients hear that as from QEMU.
    supervisor.at_rest(TIMEOUT).unwrap();
    pair.sidecar(Side::A).kill().unwrap();
    pair.qemu(Side::A).kill().unwrap();
    start(&mut pair, &supervisor);
    assert_eq!(good.line(), "");
    until("nothing is kept", TIMEOUT, || {
        Ok(supervisor.kept()?.is_empty().then_some(()))
    })
    .unwrap();
}

/// A service manager that keeps nothing is as none.
#[test]
fn without_room_all_is_as_without_a_service_manager() {
    let (mut pair, supervisor, _scratch) = supervised();
    let mut client = client(&mut pair, Side::A);
    supervisor.kept().unwrap();
    supervisor.forget();
    pair.sidecar(Side::A).kill().unwrap();
    assert_eq!(client.line(), "");
    start(&mut pair, &supervisor);
    let mut client = crate::monitor::client(&mut pair, Side::A);
    assert!(
        client
            .ask(r#"{"execute":"query-status"}"#)
            .contains("running")
    );
}

/// What a client that never rests heard.
struct Heard {
    events: Vec<String>,
    answers: usize,
    /// Its connection ended.
    ended: bool,
}

/// Asks one question after the other until it is told to stop; each must be answered once.
fn ask_on(mut client: Client, asked: &AtomicUsize, is_over: &AtomicBool) -> Heard {
    let mut heard = Heard {
        events: Vec::new(),
        answers: 0,
        ended: false,
    };
    loop {
        let last = is_over.load(Ordering::SeqCst);
        let id = format!("\"id\": {}}}", heard.answers);
        let question = format!("{{\"execute\":\"query-status\",\"id\":{}}}", heard.answers);
        if client.try_say(question.as_bytes()).is_err() {
            heard.ended = true;
            return heard;
        }
        loop {
            let line = client.line();
            if line.is_empty() {
                heard.ended = true;
                return heard;
            }
            if line.contains("\"timestamp\"") {
                heard.events.push(line);
                continue;
            }
            assert!(line.trim_end().ends_with(&id), "{line} in place of {id}");
            heard.answers += 1;
            asked.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if last {
            return heard;
        }
    }
}

/// Killed wherever it is: whose connection goes on has each answer and each event once.
#[test]
fn killed_at_any_moment() {
    const LIVES: usize = 8;
    let (mut pair, supervisor, _scratch) = supervised();
    let clients: Vec<_> = (0..6).map(|_| client(&mut pair, Side::A)).collect();
    let asked = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let qemu = |supervisor: &Supervisor| {
        let kept = supervisor.kept().unwrap();
        kept.into_iter().find(|name| name.contains("qemu"))
    };
    supervisor.at_rest(TIMEOUT).unwrap();
    let its = qemu(&supervisor);
    let threads: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let (asked, is_over) = (asked.clone(), is_over.clone());
            thread::spawn(move || ask_on(client, &asked, &is_over))
        })
        .collect();
    let mut went_on = its.is_some();
    for life in 0..LIVES {
        let enough = asked.load(Ordering::SeqCst) + 20 + 7 * life;
        let all_ended = || threads.iter().all(thread::JoinHandle::is_finished);
        until("some answers", TIMEOUT, || {
            let is_enough = asked.load(Ordering::SeqCst) >= enough || all_ended();
            Ok(is_enough.then_some(()))
        })
        .unwrap();
        let monitor = pair.qemu(Side::A).monitor();
        for command in ["stop", "cont"] {
            monitor.execute(command, serde_json::json!({})).unwrap();
        }
        pair.sidecar(Side::A).kill().unwrap();
        start(&mut pair, &supervisor);
        went_on &= qemu(&supervisor) == its;
    }
    is_over.store(true, Ordering::SeqCst);
    let heard: Vec<_> = threads.into_iter().map(|one| one.join().unwrap()).collect();
    let ended = heard.iter().filter(|one| one.ended).count();
    // Only in the moment between a look at what came and taking it nobody can tell.
    assert!(ended <= 2, "{ended} of {} ended", heard.len());
    for one in heard.iter().filter(|one| !one.ended) {
        // Each has the time to the microsecond in it.
        let all: BTreeSet<_> = one.events.iter().collect();
        assert_eq!(all.len(), one.events.len(), "{:?}", one.events);
        if went_on {
            assert_eq!(all.len(), 2 * LIVES, "{:?}", one.events);
        }
    }
    settle(&mut pair);
}

/// QEMU lets two wait while it has a client, and its client outlives every life of the sidecar: none of them takes such a place, or the
/// next ones could not know any more that QEMU is there.
#[test]
fn a_place_that_was_taken_is_taken_in_every_life() {
    let (mut pair, supervisor, _scratch) = supervised();
    let path = pair.qemu(Side::A).sidecar_socket();
    let sidecar = pair.sidecar(Side::A);
    let name = serde_json::json!({"name": DOMAIN});
    sidecar.execute("domain-remove", name.clone()).unwrap();
    let add = serde_json::json!({"name": DOMAIN, "qmp": path, "take-over": true});
    sidecar.execute("domain-add", add).unwrap();
    let mut manager = Client::connect(&path);
    for life in 0..5 {
        supervisor.at_rest(TIMEOUT).unwrap();
        pair.sidecar(Side::A).kill().unwrap();
        start(&mut pair, &supervisor);
        assert_eq!(heard(&mut manager), [] as [String; 0], "life {life}");
        until("somebody is at QEMU's place", TIMEOUT, || {
            Ok(UnixStream::connect(&path).ok().map(drop))
        })
        .unwrap();
        assert_eq!(heard(&mut Client::connect(&path)), [] as [String; 0]);
    }
    pair.sidecar(Side::A)
        .execute("domain-remove", name)
        .unwrap();
    assert_eq!(manager.line(), "");
    let mut direct = Client::connect(&path);
    assert_eq!(heard(&mut direct), [] as [String; 0]);
}
