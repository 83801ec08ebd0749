//! Opening: a large journal with many open migration jobs, from the lock to the moment in which the new
//! checkpoint is durable and the first outbox is there; and what the process then weighs.
//!
//! The journal is written by the real node: every job is begun by `migrate`, prepared by a peer that says
//! yes, and stands in perform3 with `migrate` sent, as QEMU's would that take their time. Then one more
//! domain is registered again and again until the journal is as large as asked for and its last segment
//! is nearly full: whatever was written since the last checkpoint is what opening must go over.
//!
//! Each opening is of a fresh directory of hard links to the same segments (an opening writes to none of
//! them), in a fresh process, with the page cache warm.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use journal_format::number::{
    DomainId, Epoch, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId, Position, SegmentNumber,
};
use journal_format::record::{
    Authority, Claim, ClaimSeen, Draft, Effect, EffectCommand, EffectResult, Instance,
    MigrationStatus, Observed, Process, Protocol, RecordBody, RunState, Settings,
};
use phase_journal::engine::{
    Answer, ControlRequest, Envelope, Input, Message, MigrateOptions, PeerFailure, PeerRequest,
    PeerResponse, Token,
};
use phase_journal::journal::{OpenOptions, OsDisk, Retention};
use phase_journal::node::{CrashSwitch, Node, Outbox};
use phase_journal::sidecar::link;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::host;
use crate::node::NODE;
use crate::ours::{self, BOOT};
use crate::payload::text;
use crate::report::{Entry, Table};
use crate::statistics::{median, nanoseconds, number};

/// Appends after the opening, until the process is weighed again.
pub const APPENDS: usize = 100_000;

/// Requests in a turn; as many as the sidecar takes at once.
const TURN: usize = 256;

/// Turns in which nothing but answers to the node come, at the most.
const ANSWERS_MAX: usize = 1_000;

/// The domain that is registered again and again; the others have jobs.
const FILLER: u32 = 0;

fn options() -> OpenOptions {
    let mut options = ours::options();
    options.retention = Retention {
        bytes_max: u64::MAX,
        age_max: None,
        needed_bytes_max: u64::MAX,
    };
    options
}

/// A QEMU that does what it is told, and whose migration takes its time.
#[derive(Debug)]
struct Qemu {
    instance: Instance,
    claim: Option<Claim>,
    migrating: bool,
}

impl Qemu {
    fn observed(&self) -> Observed {
        let migration = match self.migrating {
            true => MigrationStatus::Active,
            false => MigrationStatus::None,
        };
        Observed {
            process: Process::Alive,
            instance: Some(self.instance),
            run_state: Some(RunState::Running),
            migration: Some(migration),
            claim: self.claim.map_or(ClaimSeen::Absent, ClaimSeen::Present),
        }
    }

    fn perform(&mut self, command: &EffectCommand) {
        match command {
            EffectCommand::Claim(claim) => self.claim = Some(*claim),
            EffectCommand::Unclaim => self.claim = None,
            EffectCommand::Migrate { .. } => self.migrating = true,
            EffectCommand::SetCapabilities { .. }
            | EffectCommand::SetParameters { .. }
            | EffectCommand::MigrateIncoming { .. }
            | EffectCommand::MigrateContinue
            | EffectCommand::MigrateCancel
            | EffectCommand::Cont
            | EffectCommand::Stop
            | EffectCommand::Kill
            | EffectCommand::StartPostcopy
            | EffectCommand::MigrateRecover { .. }
            | EffectCommand::MigrateResume { .. }
            | EffectCommand::MigratePause
            | EffectCommand::Monitor { .. } => {}
        }
    }
}

/// All that the node talks to.
#[derive(Debug, Default)]
struct World {
    qemus: BTreeMap<DomainId, Qemu>,
    tokens: u64,
}

impl World {
    fn ask(&mut self, request: ControlRequest) -> Input {
        self.tokens += 1;
        Input::Control {
            token: Token(self.tokens),
            request,
        }
    }

    fn perform(&mut self, effect: &Effect) -> Input {
        if let Some(qemu) = self.qemus.get_mut(&effect.domain) {
            qemu.perform(&effect.command);
        }
        Input::EffectFinished {
            effect: effect.intent,
            result: EffectResult::Done,
        }
    }

    fn hear(&mut self, message: &Message) -> Result<Option<Input>, Failure> {
        match message {
            Message::Reply {
                result: Err(refusal),
                ..
            } => Err(Failure::Wrong(format!("ours refused: {refusal}"))),
            Message::Ask {
                envelope, request, ..
            } => Ok(Some(answer_of_peer(envelope, request))),
            Message::Look { domain } => {
                let qemu = self.qemus.get(domain);
                let observed = qemu.map(Qemu::observed);
                Ok(observed.map(|observed| Input::Looked {
                    domain: *domain,
                    observed,
                }))
            }
            Message::LookAtSettings { domain } => Ok(Some(Input::SettingsLooked {
                domain: *domain,
                seen: Some(Settings::default()),
            })),
            Message::Reply { result: Ok(_), .. }
            | Message::PeerReply { .. }
            | Message::Find { .. }
            | Message::Found { .. }
            | Message::Admitted { .. }
            | Message::Store { .. }
            | Message::Watch { .. }
            | Message::LookAtJob { .. }
            | Message::Unwatch { .. }
            | Message::Notify(_)
            | Message::Ready => Ok(None),
        }
    }

    /// Gives the node these inputs, and everything that follows from them.
    fn settle(&mut self, node: &mut Node<OsDisk>, mut inputs: Vec<Input>) -> Result<(), Failure> {
        for _ in 0..ANSWERS_MAX {
            if inputs.is_empty() {
                return Ok(());
            }
            let outbox = node
                .turn(link::now(), inputs)
                .map_err(Failure::store(NODE, "append"))?;
            let (effects, messages): Outbox = outbox.into_inner();
            inputs = effects.iter().map(|effect| self.perform(effect)).collect();
            for message in &messages {
                inputs.extend(self.hear(message)?);
            }
        }
        Err(Failure::Wrong("ours does not come to rest".to_owned()))
    }
}

/// A destination that is always ready.
fn answer_of_peer(envelope: &Envelope, request: &PeerRequest) -> Input {
    let sender = Position {
        journal: JournalId(Id128([0xee; 16])),
        epoch: Epoch::FIRST,
        opening: OpeningId(Id128([0xef; 16])),
        lsn: Lsn(17),
    };
    let answering = Envelope {
        sender,
        saw: Some(envelope.sender),
    };
    let result = match request {
        PeerRequest::Prepare { .. } => Ok((
            answering,
            PeerResponse::Prepared {
                nonce: Nonce(Id128([0xed; 16])),
                nbd: None,
            },
        )),
        PeerRequest::Finish { .. }
        | PeerRequest::Abandon { .. }
        | PeerRequest::Ask { .. }
        | PeerRequest::Acknowledge { .. }
        | PeerRequest::Resume { .. } => {
            Err(PeerFailure::Unreachable("it is not asked here".to_owned()))
        }
    };
    Input::PeerAnswered {
        migration: request.migration(),
        result,
    }
}

fn register(world: &mut World, index: u32) -> Input {
    let ControlRequest::DomainAdd {
        name,
        domain,
        qmp,
        instance,
        definition,
        ..
    } = ours::request(index)
    else {
        unreachable!("the request registers a domain");
    };
    let qemu = Qemu {
        instance,
        claim: None,
        migrating: false,
    };
    let observed = qemu.observed();
    world.qemus.insert(domain, qemu);
    world.ask(ControlRequest::DomainAdd {
        name,
        domain,
        qmp,
        instance,
        observed,
        definition,
    })
}

fn migrate(world: &mut World, index: u32) -> Input {
    let name = format!("vm-{index:06}");
    let mut migration = [0x3d; 16];
    migration[..4].copy_from_slice(&index.to_be_bytes());
    world.ask(ControlRequest::Migrate {
        peer_domain: name.clone(),
        name,
        migration: MigrationId(Id128(migration)),
        peer: "/run/phase-journal-elsewhere/peer.sock".to_owned(),
        uri: format!("unix:/run/migrations/{}", &text(u64::from(index))[..40]),
        protocol: Protocol::V3,
        max_bandwidth: Some(1 << 30),
        downtime_limit: Some(300),
        postcopy: false,
        authority: Authority::Destination,
        in_doubt_limit: None,
        options: MigrateOptions::default(),
        disks: None,
    })
}

/// Open jobs, as the node tells.
fn open_jobs(node: &mut Node<OsDisk>) -> Result<usize, Failure> {
    let ask = Input::Control {
        token: Token(u64::MAX),
        request: ControlRequest::QueryJobs {
            job: None,
            name: None,
        },
    };
    let outbox = node
        .turn(link::now(), vec![ask])
        .map_err(Failure::store(NODE, "append"))?;
    let jobs = outbox.into_inner().1.into_iter().find_map(|message| {
        let Message::Reply {
            result: Ok(Answer::Jobs(jobs)),
            ..
        } = message
        else {
            return None;
        };
        Some(jobs.len())
    });
    jobs.ok_or_else(|| Failure::Wrong("ours does not tell its jobs".to_owned()))
}

fn register_again(node: &mut Node<OsDisk>) -> Result<(), Failure> {
    let inputs = (0..TURN as u64).map(|token| Input::Control {
        token: Token(token),
        request: ours::request(FILLER),
    });
    node.turn(link::now(), inputs.collect())
        .map(drop)
        .map_err(Failure::store(NODE, "append"))
}

/// Runs something with a node whose spare segments are made beside it.
fn with_node<T>(
    mut node: Node<OsDisk>,
    run: impl FnOnce(&mut Node<OsDisk>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let maker = node.spare_maker();
    let spares = std::thread::spawn(move || maker.run());
    let result = run(&mut node);
    drop(node);
    let broken = |_| Failure::Wrong("the thread that makes spares panicked".to_owned());
    spares.join().map_err(broken)?;
    result
}

/// Writes the journal.
///
/// # Errors
/// The journal's, or it is not as wanted.
pub fn build(directory: &Path, jobs: u32, bytes: u64) -> Result<(), Failure> {
    let run = directory.with_extension("run");
    let (node, _first) = ours::open_node(directory, &run, &options())?;
    with_node(node, |node| {
        let mut world = World::default();
        let inputs = (1..=jobs)
            .map(|index| register(&mut world, index))
            .collect();
        world.settle(node, inputs)?;
        let inputs = (1..=jobs).map(|index| migrate(&mut world, index)).collect();
        world.settle(node, inputs)?;
        let open = open_jobs(node)?;
        let migrating = world.qemus.values().filter(|qemu| qemu.migrating).count();
        if (open, migrating) != (jobs as usize, jobs as usize) {
            let why = format!("of {jobs} jobs {open} are open and {migrating} migrate");
            return Err(Failure::Wrong(why));
        }
        loop {
            register_again(node)?;
            let status = node.log().status();
            let written = (status.segments - 1) * status.segment_size + status.segment_end;
            let is_late = status.segment_end > status.segment_size / 4 * 3;
            if written >= bytes && is_late {
                return Ok(());
            }
        }
    })
}

/// What a process that opened the journal says. Sizes in bytes, times in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Opening {
    /// Lock, directory, and all that must be read.
    pub log_open: u64,
    /// The engine, its checkpoint durable in a new segment, and the first outbox.
    pub node_open: u64,
    /// Read through the system by both.
    pub bytes_read: u64,
    /// Open jobs afterwards.
    pub jobs: u64,
    /// Segments of the journal.
    pub segments: u64,
    /// Resident before.
    pub resident_before: u64,
    /// Resident afterwards.
    pub resident_open: u64,
    /// Most that was resident until then.
    pub most_open: u64,
    /// Resident after [`APPENDS`] appends; zero if none were made.
    pub resident_appended: u64,
    /// Most that was resident until then.
    pub most_appended: u64,
}

/// Opens it once, in this process.
///
/// # Errors
/// The journal's.
pub fn open_once(directory: &Path, run: &Path, appends: usize) -> Result<Opening, Failure> {
    let (options, resident_before, read_before) =
        (options(), host::memory("VmRSS"), host::bytes_read());
    let begin = Instant::now();
    let (opened, told) = ours::open(directory, run, &options)?;
    let log_open = nanoseconds(begin.elapsed());
    let begin = Instant::now();
    let peer = "/run/phase-journal/peer.sock".to_owned();
    let (node, first) = Node::open(
        opened,
        told,
        BOOT,
        peer,
        None,
        link::now(),
        CrashSwitch::default(),
    )
    .map_err(Failure::store(NODE, "begin its journal"))?;
    let node_open = nanoseconds(begin.elapsed());
    let bytes_read = host::bytes_read() - read_before;
    drop(first);
    let (resident_open, most_open) = (host::memory("VmRSS"), host::memory("VmHWM"));
    let segments = node.log().status().segments;
    with_node(node, |node| {
        for _ in 0..appends.div_ceil(TURN) {
            register_again(node)?;
        }
        let (resident_appended, most_appended) = (host::memory("VmRSS"), host::memory("VmHWM"));
        Ok(Opening {
            log_open,
            node_open,
            bytes_read,
            jobs: open_jobs(node)? as u64,
            segments,
            resident_before,
            resident_open,
            most_open,
            resident_appended,
            most_appended,
        })
    })
}

/// What the journal alone makes this process heavier, in bytes: opened, with nothing kept of what it
/// told, and appended to.
///
/// # Errors
/// The journal's.
pub fn weigh_log(directory: &Path, run: &Path) -> Result<u64, Failure> {
    let before = host::memory("VmRSS");
    let mut log = ours::open_log(directory, run, &options())?;
    let draft = Draft {
        domain: None,
        body: RecordBody::Sealed,
    };
    let drafts = vec![draft; TURN];
    for _ in 0..APPENDS.div_ceil(TURN) {
        let appended = log.append(&drafts, ours::timestamps(), ());
        appended
            .map_err(Failure::store("ours", "append"))?
            .into_inner();
    }
    Ok(host::memory("VmRSS").saturating_sub(before))
}

/// A directory of hard links to the segments of a journal.
fn link_segments(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to).map_err(Failure::io("make the directory", to))?;
    let entries = fs::read_dir(from).map_err(Failure::io("list", from))?;
    for entry in entries {
        let name = entry.map_err(Failure::io("list", from))?.file_name();
        if SegmentNumber::parse(&name.to_string_lossy()).is_some() {
            let target = to.join(&name);
            fs::hard_link(from.join(&name), &target).map_err(Failure::io("link", &target))?;
        }
    }
    Ok(())
}

/// Measures; `build` and `open` do it in processes of their own. Opened `rounds` times, once more at first
/// for the page cache.
///
/// # Errors
/// The journal's, or the jobs are not found again.
pub fn measure(
    directory: &Path,
    jobs: u32,
    bytes: u64,
    rounds: usize,
    say: &dyn Fn(&str),
    build: &dyn Fn(&Path) -> Result<(), Failure>,
    open: &dyn Fn(&Path, &Path) -> Result<Opening, Failure>,
    weigh: &dyn Fn(&Path, &Path) -> Result<u64, Failure>,
) -> Result<Table, Failure> {
    let place = tempfile::Builder::new()
        .prefix("open-")
        .tempdir_in(directory)
        .map_err(Failure::io("make a directory in", directory))?;
    let journal = place.path().join("journal");
    say(&format!(
        "writing {} MiB with {jobs} open jobs",
        bytes >> 20
    ));
    build(&journal)?;
    let mut openings = Vec::new();
    for round in 0..=rounds {
        say(&format!("opening {round} of {rounds}"));
        let copy = place.path().join(format!("copy-{round}"));
        let run = place.path().join(format!("run-{round}"));
        link_segments(&journal, &copy)?;
        let opening = open(&copy, &run)?;
        if opening.jobs != u64::from(jobs) {
            let why = format!("{} of {jobs} open jobs were found again", opening.jobs);
            return Err(Failure::Wrong(why));
        }
        if round > 0 {
            openings.push(opening);
        }
        fs::remove_dir_all(&copy).map_err(Failure::io("remove", &copy))?;
    }
    let copy = place.path().join("copy");
    link_segments(&journal, &copy)?;
    let journal_alone = weigh(&copy, &place.path().join("run"))?;
    Ok(table(jobs, rounds, &openings, journal_alone))
}

fn table(jobs: u32, rounds: usize, openings: &[Opening], journal_alone: u64) -> Table {
    let of = |figure: fn(&Opening) -> u64, unit: f64, decimals| {
        let figures: Vec<f64> = openings
            .iter()
            .map(|one| number(figure(one)) / unit)
            .collect();
        Entry::of(median(&figures), decimals)
    };
    const MILLISECOND: f64 = 1e6;
    const MIB: f64 = 1_048_576.0;
    let row = |name: &str, entry| vec![Entry::Text(name.to_owned()), entry];
    let rows = vec![
        row(
            "Log::open + Node::open, ms",
            of(|one| one.log_open + one.node_open, MILLISECOND, 1),
        ),
        row(
            "of that Log::open, ms",
            of(|one| one.log_open, MILLISECOND, 1),
        ),
        row(
            "of that Node::open, ms",
            of(|one| one.node_open, MILLISECOND, 1),
        ),
        row("segments", of(|one| one.segments, 1.0, 0)),
        row("read, MiB", of(|one| one.bytes_read, MIB, 1)),
        row("open jobs found", of(|one| one.jobs, 1.0, 0)),
        row(
            "resident before, MiB",
            of(|one| one.resident_before, MIB, 1),
        ),
        row(
            "resident after the opening, MiB",
            of(|one| one.resident_open, MIB, 1),
        ),
        row(
            "most resident until then, MiB",
            of(|one| one.most_open, MIB, 1),
        ),
        row(
            "resident after 100,000 appends, MiB",
            of(|one| one.resident_appended, MIB, 1),
        ),
        row(
            "most resident until then, MiB",
            of(|one| one.most_appended, MIB, 1),
        ),
        row(
            "of that the journal without the engine, MiB",
            Entry::of(Some(number(journal_alone) / MIB), 1),
        ),
    ];
    Table {
        title: format!("Opening a journal with {jobs} open migration jobs"),
        columns: vec!["what", "median"],
        rows,
        notes: vec![format!(
            "written by the node; the jobs are of sources in perform3, begun at its start; its last \
             segment is at least three quarters full; each of {rounds} openings in a fresh process, of \
             a fresh directory of hard links to the same segments, page cache warm; until the new \
             checkpoint is durable and the first outbox is there; without the index"
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_with_open_jobs_is_opened_again_and_again() {
        const JOBS: u32 = 5;
        let directory = tempfile::tempdir().unwrap();
        let table = measure(
            directory.path(),
            JOBS,
            1,
            2,
            &|_| {},
            &|journal| build(journal, JOBS, 1),
            &|journal, run| open_once(journal, run, TURN),
            &weigh_log,
        )
        .unwrap();
        let value = |name: &str| {
            let row = table
                .rows
                .iter()
                .find(|row| row[0] == Entry::Text(name.to_owned()));
            match row.map(|row| &row[1]) {
                Some(Entry::Number(value, _)) => *value,
                other => panic!("{name}: {other:?}"),
            }
        };
        assert_eq!(value("open jobs found"), 5.0);
        // The journal itself, and the segment of the opening.
        assert!(value("segments") >= 2.0);
        assert!(value("of that the journal without the engine, MiB") > 0.0);
        assert!(value("Log::open + Node::open, ms") > 0.0);
    }
}
