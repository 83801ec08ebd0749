//! What of a job that is no migration goes in and out.
//!
//! Invariant: a phase and a piece of evidence are written alike whatever job they are of.
//! Not here: what is done with any of it (`job`).

use core::fmt;

use journal_format::record::{DumpStatus, Evidence, JobEvidence, JobPhase, Phase, QemuJobSeen};
use serde::Serialize;

/// What was seen of a domain's jobs in QEMU; what was not answered is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobSeen {
    /// `query-dump`.
    pub dump: Option<DumpStatus>,
    /// `query-jobs`.
    pub qemu_jobs: Option<Vec<QemuJobSeen>>,
    /// `query-named-block-nodes`.
    pub nodes: Option<Vec<NodeSeen>>,
    /// The ids in `query-block-exports`.
    pub exports: Option<Vec<String>>,
}

/// A node of QEMU's block graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// It lies on top of another one.
    pub is_overlay: bool,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// The phase of any job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AnyPhase {
    /// Of a migration.
    Migration(Phase),
    /// Of another job.
    Job(JobPhase),
}

impl fmt::Display for AnyPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyPhase::Migration(phase) => phase.fmt(f),
            AnyPhase::Job(phase) => phase.fmt(f),
        }
    }
}

/// What a decision about any job looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "decisions are few")]
pub enum AnyEvidence {
    /// A migration.
    Migration(Evidence),
    /// Another job.
    Job(JobEvidence),
}
