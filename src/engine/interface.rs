//! What goes into the engine and what comes out of it.
//!
//! Invariant: everything in a [`Step`] waits until the step's records are durable.
//! Not here: how any of it is carried out (`sidecar`), or what follows from it (`Engine`).

use journal_format::number::{
    BootId, DomainId, Epoch, JournalId, Lsn, MigrationId, Nonce, OpeningId, Position,
};
use journal_format::record::{
    Authority, Cookie, Decision, Draft, Effect, EffectResult, Instance, JobKind, JobPhase,
    JobResult, MigrationStatus, Observed, Opening, Outcome, PeerAnswer, Process, Protocol, Record,
    Role, RunState, Settings, WantedRunState,
};
use serde::{Deserialize, Serialize};

use super::ManagerEffect;

mod disks;
mod job;
mod pair;
mod refusal;
mod settings;
mod store;

pub use disks::*;
pub use job::*;
pub use pair::*;
pub use refusal::*;
pub use settings::*;
pub use store::*;

/// The time of an input, as the shell read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since 1970.
    pub wall: u64,
    /// Nanoseconds since boot.
    pub monotonic: u64,
}

/// Names a caller that waits for an answer; made by the shell, never used twice in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What the engine is told once, at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This journal.
    pub journal: JournalId,
    /// This opening of it.
    pub epoch: Epoch,
    /// Its identity.
    pub opening: OpeningId,
    /// The openings before, oldest first, as the journal's last checkpoint has them.
    pub openings: Vec<Opening>,
    /// The LSN that the next record gets.
    pub next: Lsn,
    /// This boot of the host.
    pub boot: BootId,
    /// This sidecar's own peer socket, told to others.
    pub peer: String,
    /// Which store is at hand, if one is; both sides of a migration must name the same.
    pub store: Option<String>,
}

/// A range of records that are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first damaged LSN.
    pub first: Lsn,
    /// The last one.
    pub last: Lsn,
}

/// What the journal held, oldest first.
#[allow(
    clippy::large_enum_variant,
    reason = "a history is read once, at the start"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum History {
    /// A record that can be read.
    Record(Record),
    /// Records that cannot.
    Gap(Gap),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody asked on the control socket.
    Control {
        /// To be named in the reply.
        token: Token,
        /// What.
        request: ControlRequest,
    },
    /// A client of a domain's monitor sent a command that is an effect. Answered by one
    /// [`Message::Reply`] or [`Message::Admitted`].
    Monitor {
        /// To be named in the reply.
        token: Token,
        /// The domain.
        domain: DomainId,
        /// Who, as the kernel says.
        uid: u32,
        /// What.
        command: MonitorCommand,
    },
    /// Another sidecar asked, on a connection that lives now.
    Peer {
        /// To be named in the reply.
        token: Token,
        /// Who asks, from where in its history.
        envelope: Envelope,
        /// Fresh and random; used if this request begins a migration.
        nonce: Nonce,
        /// What.
        request: PeerRequest,
    },
    /// Another sidecar looks for the other side of a migration that its manager drives. Answered by one [`Message::Found`].
    Find {
        /// To be named in the reply.
        token: Token,
        /// Who asks, from where in its history.
        envelope: Envelope,
        /// What.
        find: Find,
    },
    /// A [`Message::Find`] came to an end; each gets exactly one.
    Found {
        /// Which of them.
        number: u64,
        /// What each of the configured sidecars said.
        answers: Vec<FoundAt>,
    },
    /// A [`Message::Ask`] came to an end; each gets exactly one.
    PeerAnswered {
        /// The migration it was about.
        migration: MigrationId,
        /// The answer, or why there is none.
        result: Result<(Envelope, PeerResponse), PeerFailure>,
    },
    /// A [`Message::Store`] came to an end; each gets exactly one.
    StoreAnswered {
        /// The migration, which is the key.
        migration: MigrationId,
        /// What the key says, or why that is not known.
        result: StoreResult,
    },
    /// An effect came to an end; each gets exactly one.
    EffectFinished {
        /// The record of its intent.
        effect: Lsn,
        /// What became of it.
        result: EffectResult,
    },
    /// A [`Message::Look`] came to an end (each gets exactly one), or the shell looked by itself
    /// after a connection was made, lost, or the process ended.
    Looked {
        /// The domain.
        domain: DomainId,
        /// What was seen; its instance is the one that was looked at, whether it answered or not, if that is known.
        observed: Observed,
    },
    /// A [`Message::LookAtJob`] came to an end; each gets exactly one.
    JobLooked {
        /// The domain.
        domain: DomainId,
        /// What was seen.
        seen: JobSeen,
    },
    /// A [`Message::LookAtSettings`] came to an end; each gets exactly one.
    SettingsLooked {
        /// The domain.
        domain: DomainId,
        /// What QEMU is told about migrations; nothing if it did not say.
        seen: Option<Settings>,
    },
    /// QEMU sent an event, or the stream of events broke.
    Event {
        /// The domain.
        domain: DomainId,
        /// What.
        event: QemuEvent,
    },
    /// Time passed. Comes every [`TICK_INTERVAL_MS`].
    Tick,
}

/// A command as a client of a domain's monitor sent it, as far as the engine must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorCommand {
    /// Its name.
    pub execute: String,
    /// JSON text of its arguments as they are journaled.
    pub arguments: String,
    /// Whether more was sent than that.
    pub redacted: bool,
    /// Of a `human-monitor-command`, its first word.
    pub human: Option<String>,
    /// It goes past those that wait in QEMU.
    pub is_out_of_band: bool,
    /// It is about the object that is the sidecar's claim.
    pub names_claim: bool,
}

impl MonitorCommand {
    /// In band, with nothing left out of the journal, and neither a human command nor about the claim.
    #[must_use]
    pub fn plain(execute: &str, arguments: String) -> MonitorCommand {
        MonitorCommand {
            execute: execute.to_owned(),
            arguments,
            redacted: false,
            human: None,
            is_out_of_band: false,
            names_claim: false,
        }
    }
}

/// How often [`Input::Tick`] comes, in milliseconds.
pub const TICK_INTERVAL_MS: u64 = 50;

/// An event that matters to a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QemuEvent {
    /// The guest stopped.
    Stop,
    /// The guest runs.
    Resume,
    /// The migration's status changed.
    Migration(MigrationStatus),
    /// If the guest were stopped now, the rest would take about so many milliseconds. Not from QEMU by
    /// itself: the shell reads it while a migration performs.
    Converging {
        /// Milliseconds.
        downtime: u64,
    },
    /// So many passes over the guest's memory were made. Read by the shell while a migration performs.
    Passes {
        /// Whole ones.
        count: u64,
    },
    /// Events may have been lost: the connection broke or a queue was full.
    Lost,
}

/// What can be asked on the control socket and needs the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// Register a domain. The shell connected, found the process and looked.
    DomainAdd {
        /// Its name.
        name: String,
        /// Its identity: QEMU's UUID if it has one, else random.
        domain: DomainId,
        /// QEMU's monitor socket.
        qmp: String,
        /// The process.
        instance: Instance,
        /// What was seen.
        observed: Observed,
        /// Opaque; may be absent.
        definition: Option<String>,
    },
    /// Take a domain out.
    DomainRemove {
        /// Its name.
        name: String,
    },
    /// The owner stops or continues its guest.
    DomainSetWanted {
        /// Its name.
        name: String,
        /// From now on.
        wanted: WantedRunState,
    },
    /// Begin a migration as its source.
    Migrate {
        /// The domain's name here.
        name: String,
        /// Fresh and random.
        migration: MigrationId,
        /// The other sidecar's peer socket.
        peer: String,
        /// The domain's name there.
        peer_domain: String,
        /// QEMU's migration URI.
        uri: String,
        /// The protocol.
        protocol: Protocol,
        /// Who decides; v2 has only the source.
        authority: Authority,
        /// Bytes per second.
        max_bandwidth: Option<u64>,
        /// Milliseconds.
        downtime_limit: Option<u64>,
        /// Let the guest go over after the first pass, and its memory follow.
        postcopy: bool,
        /// Authority store: milliseconds without an outcome before the source tries to win aborted.
        in_doubt_limit: Option<u64>,
        /// What QEMU is told beside that, and times to keep.
        options: MigrateOptions,
        /// Disks that are not shared, to be copied.
        disks: Option<Box<DisksWanted>>,
    },
    /// The manager's verdict on a migration of which it is the authority.
    Verdict {
        /// Which.
        target: JobTarget,
        /// The verdict.
        outcome: Outcome,
        /// Who, as the kernel says.
        uid: u32,
    },
    /// Begin a job that its manager drives.
    JobBegin {
        /// The domain's name.
        name: String,
        /// What it is; no migration.
        kind: JobKind,
        /// The manager's own data.
        cookie: Option<String>,
    },
    /// Enter a phase of such a job, and run effects in it, one after the other.
    PhaseEnter {
        /// The job.
        job: Lsn,
        /// The phase.
        phase: JobPhase,
        /// The effects.
        effects: Vec<ManagerEffect>,
        /// The manager's own data; the one before stays if there is none.
        cookie: Option<String>,
        /// Migration, destination: what `perform3_done` answered at the source.
        peer_cookie: Option<String>,
    },
    /// End such a job: the guest is brought to its wanted run state first.
    JobEnd {
        /// The job.
        job: Lsn,
        /// How; completed or failed.
        result: JobResult,
    },
    /// End a job, if it still can be.
    JobCancel {
        /// The job.
        job: Lsn,
    },
    /// An operator's word on a held domain.
    Resolve {
        /// The domain's name.
        name: String,
        /// The word.
        decision: Decision,
        /// Against missing evidence.
        force: bool,
        /// What the operator states.
        statement: String,
        /// Who, as the kernel says.
        uid: u32,
    },
    /// All domains, or one.
    QueryDomains {
        /// Only this one.
        name: Option<String>,
    },
    /// Open jobs; with a filter the last ended one too.
    QueryJobs {
        /// Only this one.
        job: Option<Lsn>,
        /// Only this domain's.
        name: Option<String>,
    },
}

/// How a job is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobTarget {
    /// By its number.
    Job(Lsn),
    /// As the open one of the domain of that name.
    Domain(String),
}

/// Who speaks to a peer, and what it saw of the other last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Envelope {
    /// The sender's last durable record.
    pub sender: Position,
    /// The receiver's position as the sender last saw it.
    pub saw: Option<Position>,
}

/// What sidecars ask each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PeerRequest {
    /// Source: take this guest.
    #[serde(rename_all = "kebab-case")]
    Prepare {
        /// The migration.
        migration: MigrationId,
        /// The protocol.
        protocol: Protocol,
        /// Who decides.
        authority: Authority,
        /// The domain's name at the destination.
        name: String,
        /// The domain's name at the source.
        source_name: String,
        /// The source's own peer socket.
        peer: String,
        /// QEMU's migration URI, to listen on.
        uri: String,
        /// What the guest's owner wants.
        wanted: WantedRunState,
        /// The guest may go over before all of its memory did.
        postcopy: bool,
        /// Authority store: which one.
        store: Option<String>,
        /// Opaque; may be absent.
        definition: Option<String>,
        /// Its checksum, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        definition_checksum: Option<u32>,
        /// What the destination's QEMU must be told too.
        #[serde(default, skip_serializing_if = "Settings::is_empty")]
        settings: Settings,
        /// Disks that are not shared, to be copied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disks: Option<Box<DisksOffered>>,
    },
    /// Source: QEMU has sent everything; here is the licence.
    Finish {
        /// The licence.
        cookie: Cookie,
    },
    /// Source: given up, for good; never run it.
    Abandon {
        /// The migration.
        migration: MigrationId,
    },
    /// Either: how does it stand with you?
    Ask {
        /// The migration.
        migration: MigrationId,
    },
    /// Source: the outcome is durable here; you may forget it.
    Acknowledge {
        /// The migration.
        migration: MigrationId,
    },
    /// Source: the stream broke in post-copy; listen again. Answered by prepared.
    Resume {
        /// The migration.
        migration: MigrationId,
    },
}

impl PeerRequest {
    /// The migration it is about.
    #[must_use]
    pub fn migration(&self) -> MigrationId {
        match self {
            PeerRequest::Prepare { migration, .. }
            | PeerRequest::Abandon { migration }
            | PeerRequest::Ask { migration }
            | PeerRequest::Acknowledge { migration }
            | PeerRequest::Resume { migration } => *migration,
            PeerRequest::Finish { cookie } => cookie.migration,
        }
    }
}

/// What sidecars answer each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PeerResponse {
    /// To prepare: send the stream.
    Prepared {
        /// To be shown in the cookie.
        nonce: Nonce,
        /// Where the disks are served that are to be copied (`unix:PATH`, `tcp:HOST:PORT`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nbd: Option<String>,
    },
    /// To prepare: no, and nothing was begun or all of it is undone.
    Refused {
        /// Why, for people.
        why: String,
    },
    /// To everything else.
    Answer {
        /// How it stands.
        answer: PeerAnswer,
        /// A granted source gives the licence along.
        cookie: Option<Cookie>,
    },
}

/// Why an ask had no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFailure {
    /// Provably nothing was sent: nobody listens there.
    NotSent(String),
    /// The connection broke, or no answer came in time: nothing follows from it.
    Unreachable(String),
    /// It answered an error.
    Refused(String),
}

/// What the engine wants after an input.
#[derive(Debug, Default)]
pub struct Step {
    /// To be made durable before anything else here leaves the process.
    pub append: Vec<Draft>,
    /// Effects; each is answered with [`Input::EffectFinished`].
    pub effects: Vec<Effect>,
    /// All else.
    pub messages: Vec<Message>,
}

/// What leaves the engine and is no effect.
#[derive(Clone, Debug)]
pub enum Message {
    /// To a caller on the control socket.
    Reply {
        /// Who waits.
        token: Token,
        /// What it gets.
        result: Result<Answer, Refusal>,
    },
    /// To a client of a domain's monitor: its command goes to QEMU, as the effect of this step with this
    /// intent, and QEMU answers it.
    Admitted {
        /// Who waits.
        token: Token,
        /// The record of the effect's intent.
        intent: Lsn,
    },
    /// To another sidecar that asked.
    PeerReply {
        /// Who waits.
        token: Token,
        /// From us.
        envelope: Envelope,
        /// What it gets.
        response: PeerResponse,
        /// The migration that it tells of as a look at QEMU showed it, if it does: see [`super::Engine::amend`].
        rests_on: Option<MigrationId>,
    },
    /// To another sidecar; answered with one [`Input::PeerAnswered`], at the latest after
    /// [`PEER_WAIT_MS_MAX`].
    Ask {
        /// Its peer socket.
        peer: String,
        /// From us.
        envelope: Envelope,
        /// What.
        request: PeerRequest,
    },
    /// To every sidecar that was configured; answered with one [`Input::Found`], at the latest after
    /// [`PEER_WAIT_MS_MAX`].
    Find {
        /// To be named with the answers; never used twice in one run.
        number: u64,
        /// From us.
        envelope: Envelope,
        /// What.
        find: Find,
    },
    /// To another sidecar that looked for the other side of a migration.
    Found {
        /// Who waits.
        token: Token,
        /// From us.
        envelope: Envelope,
        /// What it gets.
        found: Found,
    },
    /// To the store; answered with one [`Input::StoreAnswered`], at the latest after
    /// [`STORE_WAIT_MS_MAX`]. One at a time for each migration.
    Store {
        /// The migration, which is the key.
        migration: MigrationId,
        /// What.
        request: StoreRequest,
    },
    /// Look at a domain's QEMU; answered with one [`Input::Looked`].
    Look {
        /// The domain.
        domain: DomainId,
    },
    /// Look at what jobs that are no migrations leave in a domain's QEMU; answered with one
    /// [`Input::JobLooked`].
    LookAtJob {
        /// The domain.
        domain: DomainId,
    },
    /// Read what a domain's QEMU is told about migrations; answered with one [`Input::SettingsLooked`].
    LookAtSettings {
        /// The domain.
        domain: DomainId,
    },
    /// Stay connected to this domain's QEMU, pass on its events, and look once after each connect
    /// and when the process ends. Replaces an earlier watch of the same domain.
    Watch {
        /// The domain.
        domain: DomainId,
        /// Its name, for logs.
        name: String,
        /// QEMU's monitor socket.
        qmp: String,
        /// The only process that counts.
        instance: Instance,
    },
    /// No longer.
    Unwatch {
        /// The domain.
        domain: DomainId,
    },
    /// Tell everyone on the control socket.
    Notify(Notice),
    /// Every open job was looked at and decided once since the start. Comes once.
    Ready,
}

/// Longest wait for a peer's answer, in milliseconds.
pub const PEER_WAIT_MS_MAX: u64 = 10_000;

/// A successful answer on the control socket.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Nothing to say: `{}`.
    Done {},
    /// A domain.
    Domain(DomainView),
    /// Domains.
    Domains(Vec<DomainView>),
    /// Jobs.
    Jobs(Vec<JobView>),
    /// A migration began.
    Migrating {
        /// The job.
        job: Lsn,
        /// The migration.
        migration: MigrationId,
    },
    /// A job began.
    JobBegun {
        /// The job.
        job: Lsn,
    },
    /// All effects of a phase were carried out.
    PhaseEntered {
        /// The job.
        job: Lsn,
        /// The phase.
        phase: JobPhase,
        /// How many effects there were.
        effects: usize,
        /// Migration, source: everything was sent; for `finish3` at the destination.
        #[serde(skip_serializing_if = "Option::is_none")]
        cookie: Option<String>,
    },
    /// A decision.
    Decision(DecisionView),
}

/// An event on the control socket.
#[derive(Clone, Debug)]
pub enum Notice {
    /// `DOMAIN_ADDED`.
    DomainAdded(DomainView),
    /// `DOMAIN_REMOVED`.
    DomainRemoved(DomainView),
    /// `WANTED_CHANGED`.
    WantedChanged(DomainView),
    /// `JOB_BEGUN`.
    JobBegun(JobView),
    /// `PHASE_ENTERED`.
    PhaseEntered(JobView),
    /// `DECISION`.
    Decision(DecisionView),
    /// `JOB_ENDED`.
    JobEnded(JobView),
}

/// A domain as people and programs see it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DomainView {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: DomainId,
    /// QEMU's monitor socket; `None` if the record of the registration is damaged.
    pub qmp: Option<String>,
    /// QEMU's process; `None` likewise.
    pub pid: Option<u32>,
    /// What is known of it; `None` before the first look.
    pub process: Option<Process>,
    /// As last seen.
    pub run_state: Option<RunState>,
    /// As last seen.
    pub migration: Option<MigrationStatus>,
    /// What its owner wants; `None` likewise.
    pub wanted: Option<WantedRunState>,
    /// Its open job.
    pub job: Option<Lsn>,
    /// Why it is held, if it is.
    pub held: Option<HeldView>,
}

/// Why a domain is held.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HeldView {
    /// The rule.
    pub rule: &'static str,
    /// What it means here.
    pub reason: String,
    /// What would settle it.
    pub settled_by: &'static str,
}

/// A job as people and programs see it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobView {
    /// Its name: the LSN of its first record.
    pub job: Lsn,
    /// The domain's name.
    pub name: String,
    /// The domain.
    pub domain: DomainId,
    /// What it is.
    pub kind: JobKind,
    /// The migration.
    pub migration: Option<MigrationId>,
    /// This side.
    pub role: Option<Role>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// Who decides, for migrations.
    pub authority: Option<Authority>,
    /// The last durable phase.
    pub phase: Option<AnyPhase>,
    /// Seconds since it began, where that is known.
    pub age: Option<u64>,
    /// The manager's own data, as it gave it last.
    pub cookie: Option<String>,
    /// The other sidecar's peer socket.
    pub peer: Option<String>,
    /// `open` or `ended`.
    pub state: &'static str,
    /// How it ended.
    pub result: Option<JobResult>,
    /// More, for people.
    pub detail: String,
}

/// A decision as people and programs see it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DecisionView {
    /// Its record.
    pub lsn: Lsn,
    /// The domain's name.
    pub name: String,
    /// The job.
    pub job: Lsn,
    /// The rule.
    pub rule: String,
    /// What is done.
    pub decision: Decision,
    /// What the rule means.
    pub reason: String,
    /// What it looked at.
    pub evidence: AnyEvidence,
    /// The records that came from.
    pub based_on: Vec<Lsn>,
}
