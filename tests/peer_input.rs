//! What another sidecar must not say: phases out of order or of the other side, licences that are none,
//! migrations that were there before, words cut short. One clear refusal each, and nothing is changed:
//! no record, no effect, and the migration goes on. And what an operator must not say.

use std::io::Write;
use std::os::unix::net::UnixStream;

use journal_format::record::RecordBody;
use phase_journal_lab::Error;
use phase_journal_lab::pair::{DOMAIN, Limits, Pair, Side, Submitted, Waited};
use phase_journal_lab::qemu::{Begin, Locking, Qemu, QemuOptions};
use phase_journal_lab::qmp::{COMMAND_TIMEOUT, Qmp};
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use serde_json::{Value, json};

use crate::dangers::{assert_stopped, records, wait_held};
use crate::scenario::{TIMEOUT, assert_one_runs, pair, performing};

const STRANGER: &str = "5a5a5a5a-5a5a-4a5a-8a5a-5a5a5a5a5a5a";
/// A domain beside the pair's own, which waits for a guest.
const OTHER: &str = "other";
const OTHER_UUID: &str = "99999999-2222-4333-8444-555555555555";

/// Somebody on a sidecar's peer socket, and who it says that it is.
struct Peer {
    connection: Qmp,
    envelope: Value,
}

impl Peer {
    fn of(pair: &mut Pair, side: Side, position: &Value) -> Peer {
        let socket = pair.sidecar(side).peer_socket();
        Peer {
            connection: Qmp::connect(&socket, COMMAND_TIMEOUT).unwrap(),
            envelope: json!({"sender": position, "saw": null}),
        }
    }

    /// A sidecar that nobody knows.
    fn stranger(pair: &mut Pair, side: Side) -> Peer {
        Peer::of(pair, side, &position(STRANGER, STRANGER, 1, 100))
    }

    fn say(&mut self, message: &Value) -> Result<Value, Error> {
        let arguments = json!({"envelope": self.envelope, "message": message});
        self.connection.execute("peer-message", arguments)
    }

    /// What it is told: the reason of a refusal, the name of an answer, or the error of the command.
    fn told(&mut self, message: &Value) -> String {
        match self.say(message) {
            Ok(answer) => match answer["message"]["response"].as_str() {
                Some("refused") => answer["message"]["why"].as_str().unwrap().to_owned(),
                Some("answer") => answer["message"]["answer"].as_str().unwrap().to_owned(),
                _ => format!("taken: {answer}"),
            },
            Err(Error::Refused { description, .. }) => description,
            Err(other) => panic!("{other}"),
        }
    }
}

fn position(journal: &str, opening: &str, epoch: u64, lsn: u64) -> Value {
    json!({"journal": journal, "opening": opening, "epoch": epoch, "lsn": lsn})
}

/// A side's records without the seals, which only say that it was quiet.
fn written(pair: &mut Pair, side: Side) -> Vec<RecordBody> {
    let mut records = records(pair, side);
    records.retain(|body| !matches!(body, RecordBody::Sealed));
    records
}

/// LSNs count from 1 on.
fn last_lsn(pair: &mut Pair, side: Side) -> usize {
    records(pair, side).len()
}

/// Nothing that is said in `words` changes a journal; each of them is told what is wrong.
fn refused(pair: &mut Pair, side: Side, peer: &mut Peer, words: &[(Value, &str)]) {
    let before = Side::BOTH.map(|of| written(pair, of));
    for (message, why) in words {
        let told = peer.told(message);
        assert!(
            told.contains(why),
            "{message} at {side}: '{told}', not '{why}'"
        );
        assert!(!told.contains('\n'), "more than one line: {told}");
    }
    assert_eq!(Side::BOTH.map(|of| written(pair, of)), before, "at {side}");
}

fn prepare(migration: &str, name: &str) -> Value {
    json!({
        "request": "prepare", "migration": migration, "protocol": "v3", "authority": "destination",
        "name": name, "source-name": DOMAIN, "peer": "/nowhere/peer.sock", "uri": "unix:/nowhere/m",
        "wanted": "running", "postcopy": false, "definition": null,
    })
}

fn about(request: &str, migration: &str) -> Value {
    json!({"request": request, "migration": migration})
}

fn finish(cookie: &Value) -> Value {
    json!({"request": "finish", "cookie": cookie})
}

fn without(value: &Value, member: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(member).unwrap();
    value
}

fn with(value: &Value, member: &str, new: Value) -> Value {
    let mut value = value.clone();
    value[member] = new;
    value
}

/// The migration that a destination takes part in: its id, the position of its source, and what a
/// licence of that source would be.
fn known_to_destination(pair: &mut Pair) -> (String, Value, Value) {
    let records = written(pair, Side::B);
    let terms = records.iter().find_map(|body| match body {
        RecordBody::JobBegun(begun) => begun.migration.clone(),
        _ => None,
    });
    let heard = records.iter().find_map(|body| match body {
        RecordBody::PeerHeard(heard) => heard.position,
        _ => None,
    });
    let terms = serde_json::to_value(terms.unwrap()).unwrap();
    let source = serde_json::to_value(heard.unwrap()).unwrap();
    // Where it stands now, in the same life.
    let later = with(&source, "lsn", json!(last_lsn(pair, Side::A)));
    let cookie = json!({
        "migration": terms["migration"], "nonce": terms["nonce"], "granted": later,
        "authority": terms["authority"], "wanted": "running",
    });
    (
        terms["migration"].as_str().unwrap().to_owned(),
        later,
        cookie,
    )
}

/// The licence that a source recorded.
fn granted(pair: &mut Pair, side: Side) -> Value {
    let granted = written(pair, side).into_iter().find_map(|body| match body {
        RecordBody::MigrationGranted(granted) => Some(granted.cookie),
        _ => None,
    });
    serde_json::to_value(granted.unwrap()).unwrap()
}

/// A QEMU that waits for a guest, registered at B beside the pair's own.
fn other_destination(pair: &mut Pair) -> Qemu {
    let directory = pair.directory().join(OTHER);
    std::fs::create_dir(&directory).unwrap();
    let disk = directory.join("disk");
    std::fs::copy(pair.directory().join("disk"), &disk).unwrap();
    let qemu = Qemu::start(&QemuOptions {
        name: OTHER.to_owned(),
        directory,
        disk,
        uuid: OTHER_UUID.to_owned(),
        begin: Begin::Incoming,
        locking: Locking::Off,
        data: Vec::new(),
    });
    let qemu = qemu.unwrap();
    let (socket, pid) = (qemu.sidecar_socket(), qemu.pid());
    let added = pair
        .sidecar(Side::B)
        .domain_add(OTHER, &socket, OTHER_UUID, pid);
    added.unwrap();
    qemu
}

#[test]
fn words_about_a_migration_that_nobody_knows() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    let cookie = json!({
        "migration": STRANGER, "nonce": STRANGER, "granted": position(STRANGER, STRANGER, 1, 99),
        "authority": "destination", "wanted": "running",
    });
    for side in Side::BOTH {
        let mut stranger = Peer::stranger(&mut pair, side);
        let words = [
            (finish(&cookie), "no-such-migration"),
            (about("abandon", STRANGER), "no-such-migration"),
            (about("ask", STRANGER), "no-such-migration"),
            (about("acknowledge", STRANGER), "no-such-migration"),
            (about("resume", STRANGER), "no-such-migration"),
            (prepare(STRANGER, "nobody"), "no domain named 'nobody'"),
        ];
        refused(&mut pair, side, &mut stranger, &words);
        // It says that it saw more of this journal than there ever was.
        let saw = position(STRANGER, STRANGER, 9, 9_000);
        stranger.envelope["saw"] = saw;
        refused(
            &mut pair,
            side,
            &mut stranger,
            &[(about("ask", STRANGER), "amnesia")],
        );
    }
    // A guest that runs is no destination.
    let mut stranger = Peer::stranger(&mut pair, Side::A);
    let words = [(prepare(STRANGER, DOMAIN), "running")];
    refused(&mut pair, Side::A, &mut stranger, &words);
    // Terms that no sidecar offers, or that are none.
    let whole = prepare(STRANGER, DOMAIN);
    let but = |member: &str, value: Value| with(&whole, member, value);
    let v2 = but("protocol", json!("v2"));
    let words = [
        (
            but("authority", json!("source")),
            "protocol v3 with authority source is not offered",
        ),
        (
            but("authority", json!("store")),
            "was started without a store",
        ),
        (
            v2.clone(),
            "protocol v2 with authority destination is not offered",
        ),
        (
            with(
                &with(&v2, "authority", json!("source")),
                "postcopy",
                json!(true),
            ),
            "post-copy is not offered",
        ),
        (but("protocol", json!("v4")), "unknown variant `v4`"),
        (but("uri", json!("exec:true")), "uri must begin with"),
        (but("name", json!("")), "must not be empty"),
        (but("peer", json!("p".repeat(5_000))), "peer is longer than"),
        (but("wanted", json!("asleep")), "unknown variant `asleep`"),
        (but("beyond", json!(1)), "unknown field `beyond`"),
        (without(&whole, "migration"), "missing field `migration`"),
    ];
    let mut stranger = Peer::stranger(&mut pair, Side::B);
    refused(&mut pair, Side::B, &mut stranger, &words);
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "after that"), Side::B);
}

#[test]
fn phases_out_of_order_and_of_the_other_side() {
    let mut pair = performing();
    let (migration, source, cookie) = known_to_destination(&mut pair);
    let _other = other_destination(&mut pair);
    let prepared = "this migration was prepared here before";
    // At the destination, from the source's own journal.
    let mut peer = Peer::of(&mut pair, Side::B, &source);
    let words = [
        (prepare(&migration, DOMAIN), prepared),
        (prepare(&migration, OTHER), prepared),
        (prepare(STRANGER, DOMAIN), "has an open job"),
        (
            about("resume", &migration),
            "this migration is no post-copy",
        ),
        (about("acknowledge", &migration), "not-whole"),
        (about("ask", &migration), "not-whole"),
    ];
    refused(&mut pair, Side::B, &mut peer, &words);
    // From another journal.
    let mut stranger = Peer::stranger(&mut pair, Side::B);
    let theirs = with(&cookie, "granted", position(STRANGER, STRANGER, 1, 100));
    let words = [
        (prepare(&migration, DOMAIN), prepared),
        (prepare(&migration, OTHER), prepared),
        (finish(&theirs), "the cookie is not of this migration"),
        (finish(&cookie), "the cookie is not of this migration"),
    ];
    refused(&mut pair, Side::B, &mut stranger, &words);
    // At the source, what only a source says.
    let destination = records(&mut pair, Side::A)
        .into_iter()
        .find_map(|body| match body {
            RecordBody::PeerPrepared(prepared) => Some(prepared.position),
            _ => None,
        });
    let destination = serde_json::to_value(destination.unwrap()).unwrap();
    let mut peer = Peer::of(&mut pair, Side::A, &destination);
    let is_source = "this side is the source of that migration";
    let words = [
        (prepare(&migration, DOMAIN), prepared),
        (finish(&cookie), "the cookie is not of this migration"),
        (about("abandon", &migration), is_source),
        (about("acknowledge", &migration), is_source),
        (about("resume", &migration), is_source),
    ];
    refused(&mut pair, Side::A, &mut peer, &words);
    // A destination's job is not its manager's to cancel.
    let jobs = pair.sidecar(Side::B).jobs(Some(DOMAIN)).unwrap();
    let cancel = json!({"job": jobs[0].job});
    let cancelled = pair.sidecar(Side::B).execute("job-cancel", cancel);
    let why = cancelled.unwrap_err().to_string();
    assert!(why.contains("no longer ours to choose"), "{why}");
    let converge = json!({"max-bandwidth": 0, "downtime-limit": 300});
    let monitor = pair.qemu(Side::A).monitor();
    monitor.execute("migrate-set-parameters", converge).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "after that"), Side::B);
}

/// The destination is whole, and no licence went out: what is no licence starts nothing.
#[test]
fn licences_that_are_none() {
    let crash = RunOptions::crashing(CrashPoint::BeforeRecord("migration-granted".to_owned()));
    let mut pair = pair(crash, RunOptions::default());
    pair.migrate(Side::A, Limits::default()).unwrap();
    let waited = pair.wait_for_crash(Side::A, TIMEOUT).unwrap();
    assert_eq!(waited, Waited::Crashed);
    let (_, source, cookie) = known_to_destination(&mut pair);
    wait_held(&mut pair, Side::B, "destination-prepare-alone");
    let granted = &cookie["granted"];
    let not_of_this = "the cookie is not of this migration";
    let missing = |member: &str| {
        (
            finish(&without(&cookie, member)),
            format!("missing field `{member}`"),
        )
    };
    let mut words: Vec<(Value, String)> = [
        ("nonce", json!(STRANGER)),
        ("authority", json!("source")),
        ("authority", json!("store")),
        ("granted", with(granted, "journal", json!(STRANGER))),
        ("granted", with(granted, "epoch", json!(2))),
        ("granted", with(granted, "lsn", json!(1_000))),
        ("granted", with(granted, "opening", json!(STRANGER))),
    ]
    .map(|(member, forged)| {
        (
            finish(&with(&cookie, member, forged)),
            not_of_this.to_owned(),
        )
    })
    .into();
    words.extend(["migration", "nonce", "granted", "authority", "wanted"].map(missing));
    words.extend([
        (
            finish(&with(&cookie, "migration", json!(STRANGER))),
            "no-such-migration".to_owned(),
        ),
        (
            finish(&with(&cookie, "nonce", json!("00"))),
            "not a UUID".to_owned(),
        ),
        (
            finish(&with(&cookie, "wanted", json!("asleep"))),
            "asleep".to_owned(),
        ),
        (finish(&with(&cookie, "more", json!(1))), "more".to_owned()),
        (
            finish(&with(&cookie, "granted", with(granted, "beyond", json!(1)))),
            "beyond".to_owned(),
        ),
        (
            json!({"request": "finish"}),
            "missing field `cookie`".to_owned(),
        ),
        (finish(&json!(null)), "invalid type".to_owned()),
    ]);
    let words: Vec<(Value, &str)> = words
        .iter()
        .map(|(said, why)| (said.clone(), why.as_str()))
        .collect();
    let mut peer = Peer::of(&mut pair, Side::B, &source);
    refused(&mut pair, Side::B, &mut peer, &words);
    cut_short(&mut pair, Side::B, &peer.envelope, &finish(&cookie));
    assert_stopped(&pair, "no licence");
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "the genuine one"), Side::B);
}

/// A message that ends in the middle, wherever that is, was not said.
fn cut_short(pair: &mut Pair, side: Side, envelope: &Value, message: &Value) {
    let before = written(pair, side);
    let arguments = json!({"envelope": envelope, "message": message});
    let line = json!({"execute": "peer-message", "arguments": arguments}).to_string();
    for length in (1..line.len()).step_by(37).chain([line.len() - 1]) {
        let mut stream = UnixStream::connect(pair.sidecar(side).peer_socket()).unwrap();
        stream
            .write_all(b"{\"execute\":\"qmp_capabilities\"}\n")
            .unwrap();
        stream.write_all(&line.as_bytes()[..length]).unwrap();
        drop(stream);
    }
    // Whoever comes now is heard after all of them.
    let mut last = Peer::of(pair, side, &envelope["sender"]);
    last.told(&about("ask", STRANGER));
    assert_eq!(written(pair, side), before);
}

/// A licence is good for its own migration, once: shown again it changes nothing, and in the next
/// migration, on the way back, it is none.
#[test]
fn a_licence_shown_again() {
    let crash = RunOptions::crashing(CrashPoint::BeforeRecord("outcome-learned".to_owned()));
    let mut pair = pair(crash, RunOptions::default());
    pair.migrate(Side::A, Limits::default()).unwrap();
    let waited = pair.wait_for_crash(Side::A, TIMEOUT).unwrap();
    assert_eq!(waited, Waited::Crashed);
    let cookie = granted(&mut pair, Side::A);
    let first = cookie["migration"].as_str().unwrap().to_owned();
    // The destination runs the guest, and keeps the outcome for a source that did not hear it.
    let later = with(
        &cookie["granted"],
        "lsn",
        json!(last_lsn(&mut pair, Side::A)),
    );
    let mut peer = Peer::of(&mut pair, Side::B, &later);
    let words = [(finish(&cookie), "started"), (finish(&cookie), "started")];
    refused(&mut pair, Side::B, &mut peer, &words);
    let words = [(
        prepare(&first, DOMAIN),
        "this migration was prepared here before",
    )];
    refused(&mut pair, Side::B, &mut peer, &words);
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "there"), Side::B);

    // It is over and forgotten on both sides; its id is still no new one, in either role.
    let other = other_destination(&mut pair);
    for side in Side::BOTH {
        let mut peer = Peer::stranger(&mut pair, side);
        let words = [
            (
                prepare(&first, DOMAIN),
                "this migration was prepared here before",
            ),
            (
                prepare(&first, OTHER),
                "this migration was prepared here before",
            ),
            (finish(&cookie), "no-such-migration"),
        ];
        refused(&mut pair, side, &mut peer, &words);
    }
    drop(other);

    // On the way back A is whole and waits for B's licence.
    pair.sidecar(Side::B).kill().unwrap();
    let crash = RunOptions::crashing(CrashPoint::BeforeRecord("migration-granted".to_owned()));
    pair.sidecar(Side::B).start(&crash).unwrap();
    pair.add_destination(Side::A).unwrap();
    let submitted = pair.migrate(Side::B, Limits::default()).unwrap();
    let Submitted::Accepted { migration, .. } = submitted else {
        panic!("{submitted:?}");
    };
    let waited = pair.wait_for_crash(Side::B, TIMEOUT).unwrap();
    assert_eq!(waited, Waited::Crashed);
    let mut peer = Peer::stranger(&mut pair, Side::A);
    let words = [
        (finish(&cookie), "no-such-migration"),
        (
            finish(&with(&cookie, "migration", json!(migration))),
            "the cookie is not of this migration",
        ),
    ];
    refused(&mut pair, Side::A, &mut peer, &words);
    pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "back"), Side::A);
}

/// After the licence went out nobody cancels, and an operator's word against the evidence needs force
/// and a statement, which are recorded with who said it.
#[test]
fn an_operator_against_the_evidence() {
    let crash = RunOptions::crashing(CrashPoint::AfterRecord("migration-granted".to_owned()));
    let mut pair = pair(crash, RunOptions::default());
    let submitted = pair.migrate(Side::A, Limits::default()).unwrap();
    let Submitted::Accepted { job, .. } = submitted else {
        panic!("{submitted:?}");
    };
    let waited = pair.wait_for_crash(Side::A, TIMEOUT).unwrap();
    assert_eq!(waited, Waited::Crashed);
    pair.sidecar(Side::B).kill().unwrap();
    pair.sidecar(Side::A).start(&RunOptions::default()).unwrap();
    wait_held(&mut pair, Side::A, "source-granted-in-doubt");
    let before = written(&mut pair, Side::A);
    let statement = "the host of b has no power";
    for (command, arguments, why) in [
        (
            "job-cancel",
            json!({"job": job}),
            "no longer ours to choose",
        ),
        (
            "resolve",
            json!({"decision": "resume"}),
            "could make a second copy of the guest run",
        ),
        (
            "resolve",
            json!({"decision": "resume", "force": true}),
            "state that the other side is fenced",
        ),
        (
            "resolve",
            json!({"decision": "resume", "statement": statement}),
            "use force",
        ),
        (
            "resolve",
            json!({"decision": "kill"}),
            "could end the last good copy",
        ),
        (
            "resolve",
            json!({"decision": "kill", "statement": statement}),
            "use force",
        ),
        (
            "resolve",
            json!({"decision": "confirm"}),
            "nobody looks after either",
        ),
        (
            "resolve",
            json!({"decision": "hold", "force": true, "statement": statement}),
            "decision",
        ),
    ] {
        let mut arguments = arguments;
        if command == "resolve" {
            arguments["name"] = json!(DOMAIN);
        }
        let refused = pair.sidecar(Side::A).execute(command, arguments.clone());
        let said = refused.expect_err("refused").to_string();
        assert!(said.contains(why), "{command} {arguments}: {said}");
    }
    assert_eq!(written(&mut pair, Side::A), before);
    assert_eq!(pair.qemu(Side::A).run_state().unwrap(), "postmigrate");

    // The other side is fenced indeed.
    pair.qemu(Side::B).kill().unwrap();
    let word = json!({"name": DOMAIN, "decision": "resume", "force": true, "statement": statement});
    pair.sidecar(Side::A).execute("resolve", word).unwrap();
    let resolved = written(&mut pair, Side::A)
        .into_iter()
        .find_map(|body| match body {
            RecordBody::OperatorResolved(resolved) => Some(resolved),
            _ => None,
        });
    let resolved = resolved.expect("an operator's word is recorded");
    assert!(resolved.force);
    assert_eq!(resolved.statement, statement);
    assert_eq!(resolved.uid, rustix::process::geteuid().as_raw());
    pair.sidecar(Side::B).start(&RunOptions::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "resolved"), Side::A);
}
