//! Journals that tell of more migrations than are compared at once: what of them waits where, and what is said when it
//! cannot.

use journal_format::number::{
    BootId, DomainId, Epoch, HostId, JournalId, Lsn, MigrationId, OpeningId, Salt, SegmentNumber,
};
use journal_format::record::{
    Authority, CheckpointBegun, CheckpointEnded, DomainState, Draft, Instance, JobBegun, JobEnded,
    JobKind, JobResult, MigrationNamed, MigrationTerms, Opening, Protocol, RecordBody, Role,
    WantedRunState,
};
use journal_format::segment::SegmentHeader;

use super::format::{Writer, id};
use super::*;

/// With texts as long as these, so many do not fit into 16 MiB, which is what is kept of each of two journals.
const MIGRATIONS: u64 = 2500;
const URI_SIZE: usize = 7500;

const DOMAIN: DomainId = DomainId(journal_format::number::Id128([0x11; 16]));

fn terms(role: Role, number: u64, uri: char) -> MigrationTerms {
    let mut name = [0x22; 16];
    name[..8].copy_from_slice(&number.to_le_bytes());
    MigrationTerms {
        migration: MigrationId(journal_format::number::Id128(name)),
        role,
        protocol: Protocol::V3,
        authority: Authority::Destination,
        peer: "/run/peer.sock".to_owned(),
        peer_domain: "web-1".to_owned(),
        uri: std::iter::repeat_n(uri, URI_SIZE).collect(),
        max_bandwidth: None,
        downtime_limit: None,
        postcopy: false,
        nonce: None,
        store: None,
        in_doubt_limit: None,
    }
}

/// The journal of one side of many migrations that came to nothing.
fn side(role: Role, uri: char) -> TempDir {
    let of_role = match role {
        Role::Source => 0xA1,
        Role::Destination => 0xA2,
    };
    let header = SegmentHeader {
        journal: JournalId(id(of_role)),
        host: HostId(id(0x0A)),
        number: SegmentNumber(1),
        size: 32 * 1024 * 1024,
        salt: Salt([0x51; 16]),
        first: Lsn::FIRST,
        epoch: Epoch(1),
        opening: OpeningId(id(1)),
        before: None,
    };
    let opening = Opening {
        epoch: header.epoch,
        opening: header.opening,
        first: Lsn::FIRST,
    };
    let added = DomainState {
        name: "web-1".to_owned(),
        qmp: "/run/qemu/web-1.qmp".to_owned(),
        instance: Instance {
            boot: BootId(id(0xB0)),
            pid: 4321,
            start_time: 98_765,
        },
        wanted: WantedRunState::Running,
        definition: None,
        claim: None,
        dead: false,
        damaged: false,
        last_job: None,
    };
    let begun = CheckpointBegun {
        records: 0,
        openings: vec![opening],
    };
    let checkpoint = [
        RecordBody::CheckpointBegun(begun),
        RecordBody::CheckpointEnded(CheckpointEnded { records: 0 }),
    ];
    let mut bodies: Vec<_> = checkpoint.map(|body| (None, body)).into();
    bodies.push((Some(DOMAIN), RecordBody::DomainAdded(Box::new(added))));
    for number in 0..MIGRATIONS {
        let job = Lsn(bodies.len() as u64 + 1);
        let begun = JobBegun {
            kind: match role {
                Role::Source => JobKind::MigrationOut,
                Role::Destination => JobKind::MigrationIn,
            },
            migration: Some(terms(role, number, uri)),
        };
        let ended = JobEnded {
            job,
            result: JobResult::Failed,
            detail: String::new(),
        };
        bodies.push((Some(DOMAIN), RecordBody::JobBegun(Box::new(begun))));
        bodies.push((Some(DOMAIN), RecordBody::JobEnded(ended)));
        // Else the engine itself would keep all of them.
        let forgotten = MigrationNamed {
            migration: terms(role, number, uri).migration,
        };
        bodies.push((Some(DOMAIN), RecordBody::MigrationForgotten(forgotten)));
    }
    let mut writer = Writer::new(header);
    let mut previous = None;
    for batch in bodies.chunks(128) {
        let head = writer.head(BootId(id(0xB0)), 1_767_323_045_000_000_000, 1);
        let mut records = Vec::new();
        for (lsn, (domain, body)) in (writer.next.0..).zip(batch) {
            let before = domain.and_then(|_| previous.replace(Lsn(lsn)));
            let draft = Draft {
                domain: *domain,
                body: body.clone(),
            };
            records.push((draft, before));
        }
        writer.batch(head, &records);
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(header.number.file_name());
    fs::write(file, writer.finish()).unwrap();
    directory
}

/// Verifies both, with what does not fit in that directory.
fn verify(source: &TempDir, destination: &TempDir, scratch: &Path, more: &[&str]) -> Output {
    command(&["verify"])
        .args([source.path(), destination.path()])
        .args(more)
        .env("TMPDIR", scratch)
        .output()
        .unwrap()
}

#[test]
fn what_does_not_fit_is_compared_all_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let source = side(Role::Source, 'u');
    let text = said(
        &verify(&source, &side(Role::Destination, 'u'), scratch.path(), &[]),
        0,
    );
    let verdict = "2500 migrations with both sides here, and nothing that contradicts";
    assert!(text.contains(verdict), "{text}");

    // Each contradicts: the first are told, and none of them with all that a hostile journal says.
    let other = side(Role::Destination, 'v');
    let output = verify(&source, &other, scratch.path(), &[]);
    let text = said(&output, 2);
    let told = text.lines().filter(|line| line.contains(": URI: "));
    assert_eq!(told.count(), 1000);
    let more = "!! and 1500 contradictions more";
    let end = text
        .get(text.len().saturating_sub(300)..)
        .unwrap_or_default();
    assert!(text.contains(more), "{end}");
    assert!(text.lines().all(|line| line.len() < 3000));
    let again = verify(&source, &other, scratch.path(), &[]);
    assert!(again.stdout == output.stdout, "they are the same each time");
    let value = said(&verify(&source, &other, scratch.path(), &["--json"]), 2);
    let value: Value = serde_json::from_str(&value).unwrap();
    assert_eq!(value["contradiction-count"], 2500);
    assert_eq!(value["contradictions"].as_array().unwrap().len(), 1000);
    assert_eq!(value["not-compared"], Value::Null);
    let left = fs::read_dir(scratch.path()).unwrap();
    assert_eq!(left.count(), 0, "the file has no name");
}

/// What was found in each journal is told where the rest cannot be put down; damage stands above that.
#[test]
fn what_was_found_is_told_where_the_rest_cannot_be_compared() {
    let scratch = tempfile::tempdir().unwrap();
    let missing = scratch.path().join("missing");
    let (source, destination) = (side(Role::Source, 'u'), side(Role::Destination, 'u'));
    let output = verify(&source, &destination, &missing, &[]);
    let text = said(&output, 3);
    assert_eq!(text.matches("verdict   clean").count(), 2, "{text}");
    assert!(text.contains("verdict   NOT COMPARED"), "{text}");
    assert!(!text.contains("migrations with both sides here, and nothing that contradicts"));
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");

    let file = source.path().join("0000000000000001.seg");
    let mut bytes = fs::read(&file).unwrap();
    bytes[2 * 1024 * 1024] ^= 1;
    fs::write(&file, bytes).unwrap();
    let text = said(&verify(&source, &destination, &missing, &[]), 2);
    assert!(text.contains("verdict   DAMAGED"), "{text}");
    assert!(text.contains("verdict   NOT COMPARED"), "{text}");
    let why = format!(
        "!! the others could not be compared: writing {}",
        missing.display()
    );
    assert!(text.contains(&why), "{text}");
    let value = said(&verify(&source, &destination, &missing, &["--json"]), 2);
    let value: Value = serde_json::from_str(&value).unwrap();
    let why = value["not-compared"].as_str().unwrap();
    assert!(why.contains(missing.to_str().unwrap()), "{why}");
    assert_eq!(value["journals"][0]["verdict"], "damaged");
}
