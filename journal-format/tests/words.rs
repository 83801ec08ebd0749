//! The words of the journal and the texts of its errors, as people and programs read them.
//!
//! A snapshot that changes here means that scripts in the field read other words than they did.

#![allow(clippy::unwrap_used, reason = "a panic is the test's failure")]

use std::fmt::Write as _;

use journal_format::error::FormatError;
use journal_format::number::{
    BootId, DomainId, Epoch, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId, Position,
};
use journal_format::record::{
    Authority, Capability, Claim, ContIntent, Decision, DiskSync, DumpStatus, EffectCommand,
    EffectStanding, Instance, JobKind, JobPhase, JobResult, KeyChange, KeyValue, MigrationStatus,
    NodesSeen, Outcome, Parameter, ParameterValue, PeerAnswer, Phase, PostcopyAfter, Process,
    Protocol, QemuJobStatus, Role, RunState, Settings, StoreAnswer, VerdictBy, WantedRunState,
};

/// The words of a type, in the order of their numbers on disk: each is found by its own name, and by no other.
macro_rules! own {
    ($($name:ident),+) => {{
        let mut text = String::new();
        $({
            let names: Vec<String> = $name::ALL.iter().map(ToString::to_string).collect();
            for (word, name) in $name::ALL.iter().zip(&names) {
                assert_eq!($name::from_name(name), Some(*word));
            }
            assert_eq!($name::from_name("no such word"), None);
            writeln!(text, "{}: {}", stringify!($name), names.join(", ")).unwrap();
        })+
        text
    }};
}

/// The same of QEMU's words, of which one that is not known stays what it is.
macro_rules! of_qemu {
    ($($name:ident),+) => {{
        let mut text = String::new();
        $({
            let names: Vec<String> = $name::KNOWN.iter().map(ToString::to_string).collect();
            for (word, name) in $name::KNOWN.iter().zip(&names) {
                assert_eq!(&$name::from_qemu(name), word);
                assert!(!matches!(word, $name::Other(_)));
            }
            let newer = $name::from_qemu("of-a-newer-qemu");
            assert!(matches!(newer, $name::Other(_)));
            assert_eq!(newer.to_string(), "of-a-newer-qemu");
            writeln!(text, "{}: {}", stringify!($name), names.join(", ")).unwrap();
        })+
        text
    }};
}

#[test]
fn each_word_has_one_spelling() {
    insta::assert_snapshot!(
        "own-words",
        own!(
            JobKind,
            Role,
            Protocol,
            Phase,
            Authority,
            Outcome,
            WantedRunState,
            Decision,
            JobResult,
            Process,
            PeerAnswer,
            StoreAnswer,
            VerdictBy,
            ContIntent,
            JobPhase,
            EffectStanding,
            NodesSeen,
            DiskSync
        )
    );
    insta::assert_snapshot!(
        "words-of-qemu",
        of_qemu!(RunState, MigrationStatus, DumpStatus, QemuJobStatus)
    );
}

fn id(byte: u8) -> Id128 {
    Id128([byte; 16])
}

fn claim() -> Claim {
    Claim {
        journal: JournalId(id(1)),
        epoch: Epoch(2),
        migration: MigrationId(id(3)),
        role: Role::Source,
    }
}

#[test]
fn effects_are_named_as_qmp_names_them() {
    let uri = || "unix:/m".to_owned();
    let commands = [
        EffectCommand::Claim(claim()),
        EffectCommand::Unclaim,
        EffectCommand::SetCapabilities {
            role: Role::Source,
            postcopy: false,
        },
        EffectCommand::SetParameters {
            max_bandwidth: None,
            downtime_limit: None,
        },
        EffectCommand::MigrateIncoming { uri: uri() },
        EffectCommand::Migrate { uri: uri() },
        EffectCommand::MigrateContinue,
        EffectCommand::MigrateCancel,
        EffectCommand::Cont,
        EffectCommand::Stop,
        EffectCommand::Kill,
        EffectCommand::StartPostcopy,
        EffectCommand::MigrateRecover { uri: uri() },
        EffectCommand::MigrateResume { uri: uri() },
        EffectCommand::MigratePause,
        EffectCommand::Monitor {
            execute: "blockdev-add".to_owned(),
            arguments: "{}".to_owned(),
            redacted: false,
        },
    ];
    let names: Vec<&str> = commands.iter().map(EffectCommand::name).collect();
    insta::assert_snapshot!("commands", names.join("\n"));
}

#[test]
fn each_error_says_what_is_wrong() {
    let errors = [
        FormatError::TooShort { what: "record" },
        FormatError::NoMagic {
            what: "segment header",
        },
        FormatError::Checksum {
            what: "batch header",
        },
        FormatError::Version { found: 9 },
        FormatError::Field {
            what: "batch header",
        },
        FormatError::OutOfPlace,
        FormatError::Body { kind: "decided" },
        FormatError::TooLarge {
            kind: "definition-part",
            size_max: 8144,
        },
        FormatError::BatchFull,
    ];
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!("errors", lines.join("\n"));
}

#[test]
fn what_names_a_place_or_a_process_reads_well() {
    let position = Position {
        journal: JournalId(id(1)),
        epoch: Epoch(2),
        opening: OpeningId(id(4)),
        lsn: Lsn(5),
    };
    let instance = Instance {
        boot: BootId(id(6)),
        pid: 7,
        start_time: 8,
    };
    let committed = KeyValue::Committed {
        journal: JournalId(id(1)),
        nonce: Nonce(id(10)),
    };
    let changes = [
        KeyChange::Create(committed),
        KeyChange::Replace {
            expected: committed,
            new: KeyValue::Started,
        },
        KeyChange::Create(KeyValue::Aborted),
        KeyChange::Delete,
    ];
    let mut lines = vec![
        position.to_string(),
        instance.to_string(),
        claim().to_string(),
        DomainId(id(9)).to_string(),
        PostcopyAfter::Seconds(30).to_string(),
        PostcopyAfter::Passes(3).to_string(),
        settings().to_string(),
    ];
    lines.extend(changes.iter().map(ToString::to_string));
    insta::assert_snapshot!("names", lines.join("\n"));
}

fn settings() -> Settings {
    let parameter = |name: &str, value| Parameter {
        name: name.to_owned(),
        value,
    };
    let capability = |name: &str, state| Capability {
        name: name.to_owned(),
        state,
    };
    Settings {
        capabilities: vec![
            capability("auto-converge", true),
            capability("xbzrle", false),
        ],
        parameters: vec![
            parameter("cpu-throttle-initial", ParameterValue::Number(20)),
            parameter("direct-io", ParameterValue::Bool(true)),
            parameter("tls-creds", ParameterValue::Text("tls0".to_owned())),
        ],
    }
}

#[test]
fn settings_count_names_and_texts() {
    assert!(Settings::default().is_empty());
    assert_eq!(Settings::default().size(), 0);
    let settings = settings();
    assert!(!settings.is_empty());
    // Of values, texts alone have a length of their own.
    let names = [
        "auto-converge",
        "xbzrle",
        "cpu-throttle-initial",
        "direct-io",
        "tls-creds",
    ];
    assert_eq!(settings.size(), names.concat().len() + "tls0".len());
    let types = settings.parameters.iter().map(|one| one.value.type_name());
    let types: Vec<&str> = types.collect();
    assert_eq!(types, ["a whole number", "true or false", "a string"]);
}

/// A claim is read from its own text alone: what is anything else in QEMU is not taken for one.
#[test]
fn a_claim_is_read_as_it_is_written() {
    let text = claim().to_string();
    assert_eq!(Claim::parse(&text), Some(claim()));
    let words: Vec<&str> = text.split(' ').collect();
    for missing in 0..words.len() {
        let mut some = words.clone();
        some.remove(missing);
        assert_eq!(Claim::parse(&some.join(" ")), None, "without {missing}");
    }
    let others = [
        format!("{text} and=more"),
        text.replace("source", "neither"),
        text.replace("epoch=2", "epoch=02"),
        text.replace("epoch=2", "epoch=two"),
        text.replace("journal=", "journal:"),
        text.to_uppercase(),
        String::new(),
    ];
    for other in others {
        assert_eq!(Claim::parse(&other), None, "{other}");
    }
}
