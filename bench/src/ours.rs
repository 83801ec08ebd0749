//! Our journal as it is opened and fed here, and its log measured alone.
//!
//! The request is `domain-add` of a domain whose process is dead, which may be registered again and
//! again: it appends exactly one record, `domain-added`, whose body is [`PAYLOAD_SIZE`] bytes (its
//! monitor path is padded to that), and is answered when that record is durable.
//! Not here: callers and the node's thread (`node`).

use std::path::Path;
use std::time::Instant;

use journal_format::number::{BootId, DomainId, HostId, Id128};
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, ClaimSeen, DomainState, Draft, Instance, Observed, Process,
    RECORD_HEADER_SIZE, RecordBody, WantedRunState, record_size,
};
use phase_journal::engine::{ControlRequest, Told};
use phase_journal::journal::disk::IoMode;
use phase_journal::journal::{Checkpoint, Durable, Log, OpenOptions, Opened, OsDisk, Timestamps};
use phase_journal::node::{self, CrashSwitch, Node, Outbox};
use phase_journal::sidecar::link;

use crate::append::Cell;
use crate::failure::Failure;
use crate::node::NODE;
use crate::payload::{PAYLOAD_SIZE, text};
use crate::statistics::{Sample, nanoseconds, number};

/// How the log alone is called.
pub const LOG: &str = "ours, log alone";

/// This boot of a host that does not matter.
pub const BOOT: BootId = BootId(Id128([0xb0; 16]));

/// How a journal is opened here: as the sidecar does it.
#[must_use]
pub fn options() -> OpenOptions {
    OpenOptions::new(HostId(Id128([0x40; 16])), BOOT)
}

/// A domain's process, which is dead.
fn instance(index: u32) -> Instance {
    Instance {
        boot: BOOT,
        pid: index + 2,
        start_time: 1,
    }
}

/// The identity of domain number `index`.
#[must_use]
pub fn domain(index: u32) -> DomainId {
    let mut bytes = [0x0d; 16];
    bytes[..4].copy_from_slice(&index.to_be_bytes());
    DomainId(Id128(bytes))
}

fn name(index: u32) -> String {
    format!("vm-{index:06}")
}

fn added(index: u32, qmp: String) -> Draft {
    Draft {
        domain: Some(domain(index)),
        body: RecordBody::DomainAdded(Box::new(DomainState {
            name: name(index),
            qmp,
            instance: instance(index),
            wanted: WantedRunState::Running,
            definition: None,
            claim: None,
            dead: false,
            damaged: false,
            last_job: None,
        })),
    }
}

/// A path that makes the record's body [`PAYLOAD_SIZE`] bytes, up to what records are rounded to.
fn qmp(index: u32) -> String {
    let wanted = (RECORD_HEADER_SIZE + PAYLOAD_SIZE).next_multiple_of(8);
    let empty = record_size(&added(index, String::new())).unwrap_or(0);
    let room = wanted.saturating_sub(usize::try_from(empty).unwrap_or(wanted));
    text(u64::from(index))[..room].to_owned()
}

/// The record that each request appends.
#[must_use]
pub fn draft(index: u32) -> Draft {
    added(index, qmp(index))
}

/// Bytes that the record takes on disk, without its share of the batch's header and padding.
#[must_use]
pub fn record_bytes() -> u64 {
    record_size(&draft(0)).unwrap_or(0)
}

/// The request that appends it.
#[must_use]
pub fn request(index: u32) -> ControlRequest {
    ControlRequest::DomainAdd {
        name: name(index),
        domain: domain(index),
        qmp: qmp(index),
        instance: instance(index),
        observed: Observed {
            process: Process::Dead,
            instance: None,
            run_state: None,
            migration: None,
            claim: ClaimSeen::Unread,
        },
        definition: None,
    }
}

/// Opens a journal and the node over it.
///
/// # Errors
/// Whatever the journal says.
pub fn open_node(
    directory: &Path,
    run: &Path,
    options: &OpenOptions,
) -> Result<(Node<OsDisk>, Durable<Outbox>), Failure> {
    let (opened, told) = open(directory, run, options)?;
    let peer = "/run/phase-journal/peer.sock".to_owned();
    Node::open(
        opened,
        told,
        BOOT,
        peer,
        None,
        link::now(),
        CrashSwitch::default(),
    )
    .map_err(Failure::store(NODE, "begin its journal"))
}

/// Locks and reads a journal.
///
/// # Errors
/// Whatever the journal says.
pub fn open(
    directory: &Path,
    run: &Path,
    options: &OpenOptions,
) -> Result<(Opened<OsDisk>, Told), Failure> {
    std::fs::create_dir_all(run).map_err(Failure::io("make the directory", run))?;
    let (disk, run) = (OsDisk::new(directory), OsDisk::new(run));
    node::open_journal(disk, Some(run), options).map_err(Failure::store(NODE, "open its journal"))
}

/// A log without a node, with an empty checkpoint.
///
/// # Errors
/// Whatever the journal says.
pub fn open_log(
    directory: &Path,
    run: &Path,
    options: &OpenOptions,
) -> Result<Log<OsDisk>, Failure> {
    std::fs::create_dir_all(run).map_err(Failure::io("make the directory", run))?;
    let (disk, run) = (OsDisk::new(directory), OsDisk::new(run));
    let opened = Log::open(disk, Some(run), options, drop);
    let opened = opened.map_err(Failure::store(LOG, "open its journal"))?;
    let mut openings = opened.openings().to_vec();
    openings.push(opened.opening());
    let begun = RecordBody::CheckpointBegun(CheckpointBegun {
        records: 0,
        openings,
    });
    let ended = RecordBody::CheckpointEnded(CheckpointEnded { records: 0 });
    let drafts = [begun, ended].map(|body| Draft { domain: None, body });
    let checkpoint = Checkpoint {
        drafts: drafts.to_vec(),
        needed_from: None,
    };
    opened
        .begin(&checkpoint, timestamps())
        .map_err(Failure::store(LOG, "begin"))
}

/// The time now, as a batch has it.
#[must_use]
pub fn timestamps() -> Timestamps {
    let now = link::now();
    Timestamps {
        wall: now.wall,
        monotonic: now.monotonic,
    }
}

/// How our bytes become durable in this directory.
///
/// # Errors
/// Whatever the journal says.
pub fn io_mode(directory: &Path, run: &Path) -> Result<IoMode, Failure> {
    Ok(open(directory, run, &options())?.0.io_mode())
}

/// The log alone: one thread, N records made before, one append for all of them.
///
/// # Errors
/// The journal's or the system's.
pub fn append_to_log(cell: &Cell<'_>) -> Result<Sample, Failure> {
    let mut log = open_log(cell.directory, cell.run, &options())?;
    let maker = log.spare_maker();
    let spares = std::thread::spawn(move || maker.run());
    let drafts: Vec<Draft> = (0..cell.writers_u32()).map(draft).collect();
    let mut append = || {
        log.append(&drafts, timestamps(), ())
            .map(Durable::into_inner)
            .map_err(Failure::store(LOG, "append"))
    };
    for _ in 0..crate::append::WARM_UPS {
        append()?;
    }
    let mut calls = Vec::new();
    let begin = Instant::now();
    let mut last = begin;
    while last - begin < cell.duration {
        append()?;
        let now = Instant::now();
        calls.push(nanoseconds(now - last));
        last = now;
    }
    drop(log);
    let broken = |_| Failure::Wrong("the thread that makes spares panicked".to_owned());
    spares.join().map_err(broken)?;
    Ok(Sample {
        calls,
        records_per_call: cell.writers as u64,
        elapsed: last - begin,
        records_per_sync: Some(number(cell.writers as u64)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal_format::record::Decoded;
    use phase_journal::engine::{Input, Token};
    use phase_journal::journal::read::{Entry, Reader};

    #[test]
    fn a_request_appends_one_record_of_the_right_size() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, run) = (
            directory.path().join("journal"),
            directory.path().join("run"),
        );
        let (mut node, _first) = open_node(&journal, &run, &options()).unwrap();
        let inputs = |token: u64| {
            (0..3)
                .map(|index| Input::Control {
                    token: Token(token + u64::from(index)),
                    request: request(index),
                })
                .collect()
        };
        // The first time it is new, the second time it is there.
        for round in 0..2u64 {
            let before = node.log().next_lsn();
            let _ = node.turn(link::now(), inputs(round * 3)).unwrap();
            assert_eq!(node.log().next_lsn().0, before.0 + 3);
        }
        drop(node);
        let mut bodies = Vec::new();
        for entry in Reader::open(OsDisk::new(&journal)).unwrap() {
            let Entry::Batch(batch) = entry.unwrap() else {
                panic!("a gap");
            };
            for placed in batch.records {
                if let Decoded::Known(record) = placed.record
                    && matches!(record.body, RecordBody::DomainAdded(_))
                {
                    bodies.push(Draft {
                        domain: record.domain,
                        body: record.body,
                    });
                }
            }
        }
        assert_eq!(bodies.len(), 6);
        assert_eq!(bodies[4], draft(1));
        let wanted = (RECORD_HEADER_SIZE + PAYLOAD_SIZE).next_multiple_of(8) as u64;
        assert!(bodies.iter().all(|one| record_size(one) == Some(wanted)));
        assert_eq!(record_bytes(), wanted);
    }
}
