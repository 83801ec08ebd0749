//! The bodies of records: what is written down before anything follows from it.
//! Invariant: a body, once released, never changes; a new shape is a new version of its type.
//! Not here: the record's header and how a body becomes bytes (`codec`).

use serde::{Deserialize, Serialize};

use super::disks::MigrationDisks;
use super::job::{JobDecided, JobPhaseEntered, JobState};
use super::key::{KeyChange, KeyValue, StoreIntended, StoreRead};
use super::settings::{MigrationSettings, SettingsKept};
use super::vocabulary::{
    Authority, Claim, ContIntent, Cookie, Decision, EffectCommand, EffectResult, Evidence, Facts,
    Instance, JobKind, JobResult, Observed, Outcome, PeerAnswer, Phase, Protocol, Role, VerdictBy,
    WantedRunState,
};
use crate::number::{Epoch, Lsn, MigrationId, Nonce, OpeningId, Position};

/// Largest part of a domain's definition in one record, in bytes: with its header it stays below
/// the 8 KiB up to which CRC-32 is strong.
pub const DEFINITION_PART_SIZE_MAX: usize = 4096;

/// Largest definition of a domain, in bytes.
pub const DEFINITION_SIZE_MAX: usize = 64 * 1024;

/// Longest name, path, URI or error text in a record, in bytes.
pub const TEXT_SIZE_MAX: usize = 1024;

/// One opening of the journal for writing (F19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Opening {
    /// Its number.
    pub epoch: Epoch,
    /// Its identity.
    pub opening: OpeningId,
    /// The first LSN that it wrote.
    pub first: Lsn,
}

/// The head of a checkpoint: how many records follow, and the openings of this journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointBegun {
    /// Records between this one and `checkpoint-ended`.
    pub records: u32,
    /// The openings, oldest first, the one that writes this last; the oldest may be left out.
    pub openings: Vec<Opening>,
}

/// The end of a checkpoint; without it, with the right count, the checkpoint does not hold (F18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointEnded {
    /// Records since `checkpoint-begun`.
    pub records: u32,
}

/// A domain: as registered, and in a checkpoint as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DomainState {
    /// Its name with the manager, unique in this journal.
    pub name: String,
    /// QEMU's monitor socket.
    pub qmp: String,
    /// The QEMU process.
    pub instance: Instance,
    /// What its owner wants.
    pub wanted: WantedRunState,
    /// The first part of its definition, if it has one.
    pub definition: Option<Lsn>,
    /// The claim that was last intended for this instance and not taken back.
    pub claim: Option<Claim>,
    /// The instance was seen dead.
    pub dead: bool,
    /// Records that may concern it are damaged; only an operator or a new registration clears it.
    pub damaged: bool,
    /// The last job that ended.
    pub last_job: Option<EndedJob>,
}

/// Only in a checkpoint, behind the domain's [`DomainState`]: its QEMU was told to send its guest since it last was
/// continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestSent {
    /// The guest is here all the same: it went to a file, or the migration gave it back. A QEMU that shows
    /// *postmigrate* and *completed* may then be continued.
    pub is_here: bool,
}

/// A part of a domain's definition, opaque to us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DefinitionPart {
    /// The record of the first part, which names the definition.
    pub first: Lsn,
    /// This part, counted from 0.
    pub index: u16,
    /// How many parts there are.
    pub count: u16,
    /// The part, cut between characters, at most [`DEFINITION_PART_SIZE_MAX`] bytes.
    pub text: String,
}

/// The wanted run state was changed by the guest's owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WantedChanged {
    /// From now on.
    pub wanted: WantedRunState,
    /// How it was learnt.
    pub why: WantedReason,
}

/// How a change of the wanted run state was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum WantedReason {
    /// The owner asked the sidecar.
    Asked,
    /// The owner stopped or continued the guest itself, and it was seen outside any blackout.
    Seen,
    /// It came with the guest from the source.
    Carried,
}

/// What a migration is about, as fixed in begin (source) or prepare (destination).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationTerms {
    /// Its identity in both journals.
    pub migration: MigrationId,
    /// This side.
    pub role: Role,
    /// The protocol.
    pub protocol: Protocol,
    /// Who decides.
    pub authority: Authority,
    /// The other sidecar's peer socket.
    pub peer: String,
    /// The domain's name on the other side.
    pub peer_domain: String,
    /// QEMU's migration URI.
    pub uri: String,
    /// Bytes per second, if set.
    pub max_bandwidth: Option<u64>,
    /// Milliseconds, if set.
    pub downtime_limit: Option<u64>,
    /// The guest may go over before all of its memory did (post-copy).
    pub postcopy: bool,
    /// Made by the destination; at the source only known from `peer-prepared` on.
    pub nonce: Option<Nonce>,
    /// Authority store: which store. Another one proves nothing.
    pub store: Option<String>,
    /// Authority store, source: how long a licence may be out without an outcome before this side tries to
    /// win aborted, in milliseconds.
    pub in_doubt_limit: Option<u64>,
}

/// A job began. Its LSN names the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobBegun {
    /// What it is.
    pub kind: JobKind,
    /// For migrations.
    pub migration: Option<MigrationTerms>,
}

/// A job entered a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PhaseEntered {
    /// The job.
    pub job: Lsn,
    /// From now on.
    pub phase: Phase,
}

/// An effect is about to be sent. Its LSN names the effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EffectIntended {
    /// The job it belongs to; none for what an owner asked outside any job.
    pub job: Option<Lsn>,
    /// The process it may reach.
    pub instance: Instance,
    /// What to do.
    pub command: EffectCommand,
}

/// What became of an effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EffectFinished {
    /// The record of its intent.
    pub effect: Lsn,
    /// The result.
    pub result: EffectResult,
}

/// QEMU was looked at, and something follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QemuObserved {
    /// The job it matters to, if any.
    pub job: Option<Lsn>,
    /// What was seen.
    pub observed: Observed,
}

/// The other side said something that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerHeard {
    /// The migration.
    pub migration: MigrationId,
    /// Where the other side's journal stood; absent when it could not be reached.
    pub position: Option<Position>,
    /// What it said.
    pub answer: PeerAnswer,
}

/// Source: the destination is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerPrepared {
    /// The migration.
    pub migration: MigrationId,
    /// To be shown in the cookie.
    pub nonce: Nonce,
    /// Where its journal stood.
    pub position: Position,
}

/// Source: QEMU said completed; the cookie may go out. From here the source runs again only on the
/// authority's aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationGranted {
    /// The licence.
    pub cookie: Cookie,
}

/// Authority: the destination took the cookie; its copy is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationCommitted {
    /// The licence; absent when the guest was found running here, or an operator decided.
    pub cookie: Option<Cookie>,
    /// The migration.
    pub migration: MigrationId,
}

/// Names a migration: the body of `migration-started` (destination: the one `cont` succeeded, or the
/// guest was seen running, or was to stay paused), `migration-aborted` (authority: the destination
/// will never run), and `migration-forgotten` (the other side durably knows the outcome, or cannot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationNamed {
    /// The migration.
    pub migration: MigrationId,
}

/// Source, before granted: it runs on, and the migration never goes forward again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationAbandoned {
    /// The migration.
    pub migration: MigrationId,
    /// Why, for people.
    pub why: String,
    /// It was asked for (job-cancel), not forced by a failure.
    pub asked: bool,
}

/// Source: the outcome, from the authority or an operator. Committed is written only with started, or with
/// the manager's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OutcomeLearned {
    /// The migration.
    pub migration: MigrationId,
    /// The outcome.
    pub outcome: Outcome,
    /// Where the destination's journal stood; absent when the store, the manager or an operator said it.
    pub position: Option<Position>,
}

/// A decision, with what it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Decided {
    /// The job.
    pub job: Lsn,
    /// The rule's name.
    pub rule: String,
    /// What is done.
    pub decision: Decision,
    /// Everything the rule looked at.
    pub evidence: Evidence,
    /// The records that the evidence came from.
    pub based_on: Vec<Lsn>,
}

/// A job ended; its domain is free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobEnded {
    /// The job.
    pub job: Lsn,
    /// How.
    pub result: JobResult,
    /// More, for people; may be empty.
    pub detail: String,
}

/// An operator settled a held domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OperatorResolved {
    /// The job; LSN 0, which no record has, if none is known of a domain that damage holds.
    pub job: Lsn,
    /// The word.
    pub decision: Decision,
    /// Given against missing evidence.
    pub force: bool,
    /// The operator's statement, such as that the peer's QEMU is fenced.
    pub statement: String,
    /// The user id on the control socket.
    pub uid: u32,
}

/// Authority manager: what the manager decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerdictGiven {
    /// The migration.
    pub migration: MigrationId,
    /// The verdict.
    pub outcome: Outcome,
    /// How it was given.
    pub by: VerdictBy,
    /// The user id on the control socket, if it was given there.
    pub uid: Option<u32>,
}

/// A job that ended, as a checkpoint keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndedJob {
    /// The job.
    pub job: Lsn,
    /// What it was.
    pub kind: JobKind,
    /// The migration it was.
    pub migration: Option<MigrationId>,
    /// The last phase.
    pub phase: Option<Phase>,
    /// How it ended.
    pub result: JobResult,
    /// More, for people.
    pub detail: String,
}

/// Checkpoint: a migration as it stands, open or kept until the other side knows its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a durable fact of its own"
)]
pub struct MigrationState {
    /// The job.
    pub job: Lsn,
    /// False when the job ended and only the outcome is kept.
    pub open: bool,
    /// What it is about.
    pub terms: MigrationTerms,
    /// The last phase.
    pub phase: Phase,
    /// Source: `migrate` was intended.
    pub migrate_intended: bool,
    /// Source: `migrate-start-postcopy` was intended.
    pub postcopy_intended: bool,
    /// Source: and then `migrate-continue`, after which there may be no way back.
    pub postcopy: bool,
    /// Source: cancel or cont was intended.
    pub source_touched: bool,
    /// Source: the licence that went out.
    pub granted: Option<Cookie>,
    /// Source: given up.
    pub abandoned: bool,
    /// Source: it was given up on request.
    pub cancel_asked: bool,
    /// Destination: the cookie was taken.
    pub committed: bool,
    /// Destination: the guest ran here.
    pub started: bool,
    /// Destination: it never runs here.
    pub aborted: bool,
    /// Source: the outcome.
    pub outcome: Option<Outcome>,
    /// Destination: where its `cont` stands.
    pub cont: ContIntent,
    /// How many `cont` were intended.
    pub cont_count: u32,
    /// The effect whose result is not recorded.
    pub in_flight: Option<(Lsn, EffectCommand)>,
    /// Where the other side's journal stood last.
    pub peer_position: Option<Position>,
    /// What the other side said last.
    pub peer_answer: PeerAnswer,
    /// The rule of the last decision.
    pub last_rule: Option<String>,
    /// Authority store: the last change of the key that was intended.
    pub key_intent: Option<KeyChange>,
    /// Authority store, destination: the licence with which it was to commit.
    pub licence: Option<Cookie>,
    /// Authority store: the key as it was last recorded to say.
    pub key_read: Option<KeyValue>,
    /// Authority manager: its verdict.
    pub verdict: Option<Outcome>,
}

/// What may be durable of a migration when records that may concern it are damaged: one of the
/// histories that they may have told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a durable fact of its own"
)]
pub struct MigrationHistory {
    /// False when its job ended in the damaged records; touched and wanted then say nothing.
    pub open: bool,
    /// Records of the domain that are no more of this job may be among them: another job may be open.
    pub later: bool,
    /// An operator's word may be among them: then the rest says nothing.
    pub resolved: bool,
    /// The last phase.
    pub phase: Phase,
    /// The durable facts.
    pub facts: Facts,
    /// Source: cancel or cont was intended, or the guest was seen running, after it was given away
    /// or given up.
    pub source_touched: bool,
    /// What the guest's owner wants.
    pub wanted: WantedRunState,
}

/// Every history of an open migration that its damaged records allow; a decision over the damage rests
/// on it, and a checkpoint restates it. Of a closed one, without any history: what became of it is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationHistories {
    /// The job.
    pub job: Lsn,
    /// The nonce that a licence takes is known.
    pub nonce_known: bool,
    /// The histories; none when nothing can be said.
    pub histories: Vec<MigrationHistory>,
}

/// Everything a record can say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum RecordBody {
    /// See [`CheckpointBegun`].
    CheckpointBegun(CheckpointBegun),
    /// See [`CheckpointEnded`].
    CheckpointEnded(CheckpointEnded),
    /// A domain was registered; damaged if its job was open without its registration, and goes on.
    DomainAdded(Box<DomainState>),
    /// Checkpoint: a domain as it stands.
    DomainState(Box<DomainState>),
    /// A domain was taken out.
    DomainRemoved,
    /// See [`DefinitionPart`].
    DefinitionPart(DefinitionPart),
    /// See [`WantedChanged`].
    WantedChanged(WantedChanged),
    /// See [`JobBegun`].
    JobBegun(Box<JobBegun>),
    /// See [`PhaseEntered`].
    PhaseEntered(PhaseEntered),
    /// See [`EffectIntended`].
    EffectIntended(EffectIntended),
    /// See [`EffectFinished`].
    EffectFinished(EffectFinished),
    /// See [`QemuObserved`].
    QemuObserved(Box<QemuObserved>),
    /// See [`PeerHeard`].
    PeerHeard(PeerHeard),
    /// See [`PeerPrepared`].
    PeerPrepared(PeerPrepared),
    /// See [`MigrationGranted`].
    MigrationGranted(MigrationGranted),
    /// See [`MigrationAbandoned`].
    MigrationAbandoned(MigrationAbandoned),
    /// See [`MigrationCommitted`].
    MigrationCommitted(MigrationCommitted),
    /// See [`MigrationNamed`].
    MigrationStarted(MigrationNamed),
    /// See [`MigrationNamed`].
    MigrationAborted(MigrationNamed),
    /// See [`OutcomeLearned`].
    OutcomeLearned(OutcomeLearned),
    /// See [`Decided`].
    Decided(Box<Decided>),
    /// See [`OperatorResolved`].
    OperatorResolved(OperatorResolved),
    /// See [`JobEnded`].
    JobEnded(JobEnded),
    /// See [`MigrationNamed`].
    MigrationForgotten(MigrationNamed),
    /// Checkpoint: a migration as it stands.
    MigrationState(Box<MigrationState>),
    /// The journal is idle; proves that the batch before was acknowledged (F21).
    Sealed,
    /// See [`MigrationHistories`].
    MigrationHistories(MigrationHistories),
    /// See [`StoreIntended`].
    StoreIntended(Box<StoreIntended>),
    /// See [`StoreRead`].
    StoreRead(StoreRead),
    /// See [`VerdictGiven`].
    VerdictGiven(VerdictGiven),
    /// See [`JobPhaseEntered`].
    JobPhaseEntered(JobPhaseEntered),
    /// See [`JobDecided`].
    JobDecided(Box<JobDecided>),
    /// See [`JobState`].
    JobState(Box<JobState>),
    /// See [`MigrationSettings`].
    MigrationSettings(MigrationSettings),
    /// See [`SettingsKept`].
    SettingsKept(SettingsKept),
    /// See [`MigrationDisks`].
    MigrationDisks(MigrationDisks),
    /// See [`GuestSent`].
    GuestSent(GuestSent),
}
