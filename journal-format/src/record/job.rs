//! Jobs that a manager drives: what it does to a domain, phase by phase, with its own commands.
//! Invariant: a word, once released, keeps its number on disk; QEMU's words are kept as text.
//! Not here: migrations that two sidecars drive (`body`), which commands belong to which job and what recovery decides (the engine).

use core::fmt;

use serde::{Deserialize, Serialize};

use super::vocabulary::{
    Claim, Decision, EffectCommand, JobKind, Observed, PeerAnswer, WantedRunState, qemu_words,
    words,
};
use crate::number::{Lsn, Position};

/// Largest arguments of a manager's command, as JSON text, in bytes: with all that a job carries they fit
/// into one record.
pub const MONITOR_ARGUMENTS_SIZE_MAX: usize = 2560;

/// Largest cookie of a manager's, in bytes.
pub const JOB_COOKIE_SIZE_MAX: usize = 1536;

/// Most nodes, QEMU jobs, and things to be taken back that one job has, of each.
pub const JOB_THINGS_MAX: usize = 16;

/// Longest name of a node or a QEMU job, in bytes (QEMU allows 31 for nodes).
pub const THING_NAME_SIZE_MAX: usize = 48;

words!(
    /// The phases of a job that its manager drives. Those of a migration are named as libvirt names them.
    JobPhase {
        /// The domain is taken; nothing was done to QEMU.
        Begin = "begin",
        /// What the job needs is set up.
        Prepare = "prepare",
        /// The job's own command runs.
        Perform = "perform",
        /// What is left is put in order.
        Finish = "finish",
        /// It was asked to end without success: what was done is taken back.
        Cancel = "cancel",
        /// Migration, source: the domain is taken; nothing was sent.
        Begin3 = "begin3",
        /// Migration, source: QEMU sends.
        Perform3 = "perform3",
        /// Migration, source: QEMU has sent everything; whose the guest is, its manager says.
        Perform3Done = "perform3_done",
        /// Migration, source: the destination has the guest, its manager said; this copy is ended.
        Confirm3 = "confirm3",
        /// Migration, source: the destination never runs the guest, its manager said; this copy goes on.
        Confirm3Cancelled = "confirm3_cancelled",
        /// Migration, destination: the guest is taken over, or given up.
        Finish3 = "finish3",
    }
);

impl JobPhase {
    /// The phase in which a job of that kind begins.
    #[must_use]
    pub const fn first(kind: JobKind) -> JobPhase {
        match kind {
            JobKind::MigrationOut => JobPhase::Begin3,
            JobKind::MigrationIn => JobPhase::Prepare,
            JobKind::Save
            | JobKind::Dump
            | JobKind::Snapshot
            | JobKind::Start
            | JobKind::Restore
            | JobKind::Backup
            | JobKind::Destroy
            | JobKind::Suspend
            | JobKind::Modify
            | JobKind::Query
            | JobKind::Abort => JobPhase::Begin,
        }
    }
}

words!(
    /// Where effects of one sort stand.
    EffectStanding {
        /// None may have happened.
        Never = "never",
        /// At least one may have happened.
        Unknown = "unknown",
        /// Each that was not refused is known to have happened, and there is one.
        Done = "done",
    }
);

words!(
    /// Which of the nodes that a snapshot makes, or puts to use, are there.
    NodesSeen {
        /// They were not looked for.
        Unread = "unread",
        /// None.
        Absent = "absent",
        /// Some.
        Partly = "partly",
        /// All.
        Present = "present",
    }
);

qemu_words!(
    /// QEMU's dump status (`query-dump`; qapi/dump.json).
    DumpStatus {
        None = "none",
        Active = "active",
        Completed = "completed",
        Failed = "failed",
    }
);

qemu_words!(
    /// The status of one of QEMU's jobs (`query-jobs`; qapi/job.json).
    QemuJobStatus {
        Undefined = "undefined",
        Created = "created",
        Running = "running",
        Paused = "paused",
        Ready = "ready",
        Standby = "standby",
        Waiting = "waiting",
        Pending = "pending",
        Aborting = "aborting",
        Concluded = "concluded",
        Null = "null",
    }
);

/// One of QEMU's jobs, as seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QemuJobSeen {
    /// Its id.
    pub id: String,
    /// Its status; none if QEMU does not list it.
    pub status: Option<QemuJobStatus>,
    /// QEMU says that it failed, with this text. Shown to people, never interpreted.
    pub error: Option<String>,
}

/// How many effects of one sort were intended and not refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EffectCount {
    /// QEMU answered success.
    pub done: u32,
    /// No answer came, or none yet.
    pub unknown: u32,
}

impl EffectCount {
    /// Where they stand together.
    #[must_use]
    pub const fn standing(self) -> EffectStanding {
        match (self.done, self.unknown) {
            (0, 0) => EffectStanding::Never,
            (_, 0) => EffectStanding::Done,
            (_, _) => EffectStanding::Unknown,
        }
    }
}

/// The durable facts of a job that a decision looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobFacts {
    /// Streams of the guest's memory out or in: `migrate`, `migrate-incoming`.
    pub stream: EffectStanding,
    /// The job's own commands besides: a dump, a snapshot, a block job, the `cont` of a start or of a migration.
    pub main: EffectStanding,
    /// The end of QEMU: `quit`, or the signal.
    pub end: EffectStanding,
}

/// Everything a decision about such a job may look at; recorded with it, so that it can be made again
/// offline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobEvidence {
    /// What it is.
    pub kind: JobKind,
    /// The last durable phase.
    pub phase: JobPhase,
    /// The durable facts.
    pub facts: JobFacts,
    /// QEMU as last seen.
    pub observed: Observed,
    /// `query-dump`, if it was read.
    pub dump: Option<DumpStatus>,
    /// The job's own QEMU jobs in `query-jobs`; none if that was not read.
    pub qemu_jobs: Option<Vec<QemuJobSeen>>,
    /// The nodes of the job's snapshots.
    pub nodes: NodesSeen,
    /// The claim that this journal recorded for this domain, if any.
    pub claim: Option<Claim>,
    /// The sidecar was restarted in this job, and its manager has not taken it up again.
    pub recovering: bool,
    /// The job was told from a client's plain commands.
    pub recognised: bool,
    /// Records that may concern this domain are damaged.
    pub journal_damaged: bool,
    /// What the guest's owner wants.
    pub wanted: WantedRunState,
    /// Source of a recognised migration: what the sidecar of its destination said last of the job there, in this life of the
    /// process.
    pub peer: PeerAnswer,
}

/// A job that is no migration entered a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobPhaseEntered {
    /// The job.
    pub job: Lsn,
    /// From now on.
    pub phase: JobPhase,
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// The manager's own data, carried along; the one before stays if there is none.
    pub cookie: Option<String>,
    /// Migration: a record in the other side's journal. Destination: where the source's sidecar recorded that QEMU had sent
    /// everything, as the cookie says that its manager brought from there. Source of a recognised one: the begin of
    /// its destination's job, as that sidecar said.
    pub other_side: Option<Position>,
    /// Its first phase: nobody began the job, it was told from a client's plain command, or from what QEMU shows.
    pub recognised: bool,
    /// Its first phase, migration, destination: its QEMU was started to listen for the stream, by no command.
    pub listens: bool,
}

/// A decision about a job that is no migration, with what it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobDecided {
    /// The job.
    pub job: Lsn,
    /// The rule's name.
    pub rule: String,
    /// What is done.
    pub decision: Decision,
    /// Everything the rule looked at.
    pub evidence: JobEvidence,
    /// The records that the evidence came from.
    pub based_on: Vec<Lsn>,
}

/// Checkpoint: an open job that is no migration, as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobState {
    /// The job.
    pub job: Lsn,
    /// What it is.
    pub kind: JobKind,
    /// When it began, in nanoseconds since 1970.
    pub begun: u64,
    /// The last phase.
    pub phase: JobPhase,
    /// The manager's own data.
    pub cookie: Option<String>,
    /// See [`JobPhaseEntered::other_side`].
    pub other_side: Option<Position>,
    /// See [`JobPhaseEntered::recognised`].
    pub recognised: bool,
    /// See [`JobFacts::stream`].
    pub stream: EffectCount,
    /// See [`JobFacts::main`].
    pub main: EffectCount,
    /// See [`JobFacts::end`].
    pub end: EffectCount,
    /// Nodes that its snapshots make or put to use.
    pub nodes: Vec<String>,
    /// QEMU jobs that it began and did not dismiss.
    pub qemu_jobs: Vec<String>,
    /// What takes back what it set up, the last first.
    pub leftovers: Vec<EffectCommand>,
    /// The effect whose result is not recorded.
    pub in_flight: Option<(Lsn, EffectCommand)>,
    /// The rule of the last decision.
    pub last_rule: Option<String>,
}

impl JobState {
    /// A job that just began.
    #[must_use]
    pub const fn begun(job: Lsn, kind: JobKind) -> JobState {
        let none = EffectCount {
            done: 0,
            unknown: 0,
        };
        JobState {
            job,
            kind,
            begun: 0,
            phase: JobPhase::first(kind),
            cookie: None,
            other_side: None,
            recognised: false,
            stream: none,
            main: none,
            end: none,
            nodes: Vec::new(),
            qemu_jobs: Vec::new(),
            leftovers: Vec::new(),
            in_flight: None,
            last_rule: None,
        }
    }

    /// Its facts as a decision sees them.
    #[must_use]
    pub const fn facts(&self) -> JobFacts {
        JobFacts {
            stream: self.stream.standing(),
            main: self.main.standing(),
            end: self.end.standing(),
        }
    }
}
