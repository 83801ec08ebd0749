//! The decision table of jobs that a manager drives: evidence to rule.
//!
//! Invariant: [`decide_job`] is a total function of its [`JobEvidence`] (P7). No row ends a guest but one that
//! never ran, one whose end was decided before, and one that was saved whole.
//! Not here: migrations (`driven`); how a rule is carried out (`recover`); what a manager does while nothing has to be decided.

use journal_format::record::{
    ClaimSeen, DumpStatus, EffectStanding, JobEvidence, JobKind, JobPhase, NodesSeen, Process,
    QemuJobSeen, QemuJobStatus, RunState,
};

use super::driven;
use crate::engine::Rule;
use crate::engine::decide::{RunClass, StatusClass, run_class, status_class};

/// One of QEMU's jobs, as far as a decision tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QemuJobClass {
    /// QEMU does not know it.
    Gone,
    /// On its way.
    Active,
    /// Done but for its last step, which waits for a word.
    Pending,
    /// Over, and kept until it is dismissed.
    Concluded,
    /// Not known.
    Unknown,
}

/// The class of a status; each has exactly one.
pub(crate) fn qemu_job_class(status: Option<&QemuJobStatus>) -> QemuJobClass {
    match status {
        None | Some(QemuJobStatus::Null) => QemuJobClass::Gone,
        Some(
            QemuJobStatus::Created
            | QemuJobStatus::Running
            | QemuJobStatus::Paused
            | QemuJobStatus::Ready
            | QemuJobStatus::Standby
            | QemuJobStatus::Waiting
            | QemuJobStatus::Aborting,
        ) => QemuJobClass::Active,
        Some(QemuJobStatus::Pending) => QemuJobClass::Pending,
        Some(QemuJobStatus::Concluded) => QemuJobClass::Concluded,
        Some(QemuJobStatus::Undefined | QemuJobStatus::Other(_)) => QemuJobClass::Unknown,
    }
}

/// A stream of the guest to a file, as far as a decision tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// This job began none.
    None,
    /// It is on its way, or on its way to its end.
    Active,
    /// All of the guest is in the file.
    Completed,
    /// It ended without success, or never began.
    Ended,
    /// A state that this job's stream does not come to.
    Odd,
}

fn stream(evidence: &JobEvidence) -> Stream {
    let status = status_class(evidence.observed.migration.as_ref());
    let run = run_class(evidence.observed.run_state.as_ref());
    match (evidence.facts.stream, status) {
        (_, StatusClass::Postcopy | StatusClass::PostcopyBroken | StatusClass::Unknown) => {
            Stream::Odd
        }
        (
            EffectStanding::Never,
            StatusClass::Performing
            | StatusClass::PreSwitchover
            | StatusClass::Device
            | StatusClass::Cancelling,
        ) => Stream::Odd,
        // What there is belongs to something older.
        (
            EffectStanding::Never,
            StatusClass::None | StatusClass::Ended | StatusClass::Completed,
        ) => Stream::None,
        (
            EffectStanding::Unknown | EffectStanding::Done,
            StatusClass::Performing
            | StatusClass::PreSwitchover
            | StatusClass::Device
            | StatusClass::Cancelling,
        ) => Stream::Active,
        // The status comes first, the run state a moment later.
        (EffectStanding::Unknown | EffectStanding::Done, _) if run == RunClass::FinishMigrate => {
            Stream::Active
        }
        (EffectStanding::Unknown | EffectStanding::Done, StatusClass::Completed) => {
            Stream::Completed
        }
        (
            EffectStanding::Unknown | EffectStanding::Done,
            StatusClass::None | StatusClass::Ended,
        ) => Stream::Ended,
    }
}

/// The rule that holds; `None` while the job's manager simply goes on.
#[must_use]
pub fn decide_job(evidence: &JobEvidence) -> Option<Rule> {
    let rule = decided(evidence);
    #[cfg(any(test, feature = "mutants"))]
    let rule = crate::engine::mutant::altered_job(rule);
    rule
}

fn decided(evidence: &JobEvidence) -> Option<Rule> {
    if let Some(rule) = identity(evidence) {
        return Some(rule);
    }
    if let Some(role) = driven::role(evidence.kind) {
        return driven::decide(role, evidence);
    }
    let is_over = evidence.recovering || evidence.phase == JobPhase::Cancel;
    match evidence.observed.process {
        Process::Dead => return Some(dead(evidence)),
        Process::Mute if is_over => return Some(mute(evidence)),
        Process::Alive if is_over => {}
        Process::Alive | Process::Mute | Process::OtherInstance => return None,
    }
    if was_sent_by_another(evidence) {
        return Some(Rule::NoRuleForThis);
    }
    Some(match evidence.kind {
        JobKind::Save => save(evidence),
        JobKind::Dump => dump(evidence),
        JobKind::Snapshot => snapshot(evidence),
        JobKind::Backup => backup(evidence),
        JobKind::Start | JobKind::Restore => start(evidence),
        JobKind::Destroy if is_withdrawn(evidence) => Rule::OrdinaryReconciled,
        JobKind::Destroy => Rule::DestroyAlive,
        JobKind::Suspend | JobKind::Modify | JobKind::Query | JobKind::Abort => {
            Rule::OrdinaryReconciled
        }
        JobKind::MigrationOut | JobKind::MigrationIn => Rule::NoRuleForThis,
    })
}

/// Is this the QEMU, and this journal the one, that the job was begun with? As for a migration.
fn identity(evidence: &JobEvidence) -> Option<Rule> {
    let observed = &evidence.observed;
    if observed.process == Process::OtherInstance {
        return Some(Rule::OtherInstance);
    }
    if evidence.journal_damaged {
        return Some(Rule::JournalDamaged);
    }
    match (&observed.claim, &evidence.claim) {
        (ClaimSeen::Unread | ClaimSeen::Absent, _) => None,
        (ClaimSeen::Foreign(_), _) => Some(Rule::ClaimedByAnother),
        (ClaimSeen::Present(seen), Some(recorded)) if seen == recorded => None,
        (ClaimSeen::Present(seen), Some(recorded)) if seen.journal == recorded.journal => {
            Some(Rule::JournalOlderThanQemu)
        }
        (ClaimSeen::Present(_), _) => Some(Rule::ClaimedByAnother),
    }
}

fn dead(evidence: &JobEvidence) -> Rule {
    let is_ended = evidence.facts.end != EffectStanding::Never;
    match evidence.kind {
        JobKind::Destroy => Rule::DestroyDone,
        JobKind::Save if is_ended => Rule::SaveEnded,
        JobKind::Start | JobKind::Restore if is_ended => Rule::StartEnded,
        JobKind::MigrationOut
        | JobKind::MigrationIn
        | JobKind::Save
        | JobKind::Dump
        | JobKind::Snapshot
        | JobKind::Start
        | JobKind::Restore
        | JobKind::Backup
        | JobKind::Suspend
        | JobKind::Modify
        | JobKind::Query
        | JobKind::Abort => Rule::JobDead,
    }
}

/// Was the end of a guest cancelled before anything that ends it can have reached QEMU?
fn is_withdrawn(evidence: &JobEvidence) -> bool {
    evidence.phase == JobPhase::Cancel && evidence.facts.end == EffectStanding::Never
}

/// It ends all the same where its end was decided.
fn mute(evidence: &JobEvidence) -> Rule {
    match evidence.kind {
        JobKind::Destroy if !is_withdrawn(evidence) => Rule::DestroyAlive,
        JobKind::Save if evidence.facts.end != EffectStanding::Never => Rule::SaveEnding,
        JobKind::MigrationOut
        | JobKind::MigrationIn
        | JobKind::Save
        | JobKind::Dump
        | JobKind::Snapshot
        | JobKind::Start
        | JobKind::Restore
        | JobKind::Backup
        | JobKind::Destroy
        | JobKind::Suspend
        | JobKind::Modify
        | JobKind::Query
        | JobKind::Abort => Rule::QemuMute,
    }
}

/// Is the guest where a job that goes to a file or stays here can leave it?
fn is_at_home(run: RunClass) -> bool {
    match run {
        RunClass::Running
        | RunClass::Ran
        | RunClass::Paused
        | RunClass::FinishMigrate
        | RunClass::Postmigrate => true,
        RunClass::Inmigrate | RunClass::Unknown => false,
    }
}

/// A guest that only a running or paused QEMU lets such a job begin with, and that a stream of somebody else's has stopped: this journal is
/// older, or a hand from outside sent it. It may run elsewhere, and the end of the job is to continue it.
fn was_sent_by_another(evidence: &JobEvidence) -> bool {
    let is_to_be_continued = match evidence.kind {
        JobKind::Save | JobKind::Dump | JobKind::Snapshot | JobKind::Backup => true,
        JobKind::Start
        | JobKind::Restore
        | JobKind::Destroy
        | JobKind::Suspend
        | JobKind::Modify
        | JobKind::Query
        | JobKind::Abort
        | JobKind::MigrationOut
        | JobKind::MigrationIn => false,
    };
    is_to_be_continued && is_sent_past(evidence)
}

/// Has a stream that is not this job's sent the guest?
pub(super) fn is_sent_past(evidence: &JobEvidence) -> bool {
    let run = run_class(evidence.observed.run_state.as_ref());
    evidence.facts.stream == EffectStanding::Never
        && matches!(run, RunClass::Postmigrate | RunClass::FinishMigrate)
        && status_class(evidence.observed.migration.as_ref()) == StatusClass::Completed
}

fn save(evidence: &JobEvidence) -> Rule {
    // That QEMU ends was decided when the image was whole, and it may end at any moment by itself.
    if evidence.facts.end != EffectStanding::Never {
        return Rule::SaveEnding;
    }
    if !is_at_home(run_class(evidence.observed.run_state.as_ref())) {
        return Rule::NoRuleForThis;
    }
    match stream(evidence) {
        Stream::None | Stream::Ended => Rule::SaveUndone,
        Stream::Active => Rule::SaveActive,
        Stream::Completed => Rule::SaveCompleted,
        Stream::Odd => Rule::NoRuleForThis,
    }
}

fn dump(evidence: &JobEvidence) -> Rule {
    match (evidence.facts.main, &evidence.dump) {
        (EffectStanding::Never, _) => {
            if !is_at_home(run_class(evidence.observed.run_state.as_ref())) {
                return Rule::NoRuleForThis;
            }
            match stream(evidence) {
                Stream::None | Stream::Ended => Rule::DumpUndone,
                Stream::Active => Rule::DumpActive,
                Stream::Completed => Rule::DumpTaken,
                Stream::Odd => Rule::NoRuleForThis,
            }
        }
        (_, None | Some(DumpStatus::Other(_))) => Rule::NoRuleForThis,
        (_, Some(DumpStatus::Active)) => Rule::DumpActive,
        (EffectStanding::Done, Some(DumpStatus::Completed)) => Rule::DumpTaken,
        // QEMU keeps the status of an older dump: without an answer to this one it proves nothing.
        (EffectStanding::Unknown, Some(DumpStatus::Completed))
        | (
            EffectStanding::Unknown | EffectStanding::Done,
            Some(DumpStatus::None | DumpStatus::Failed),
        ) => Rule::DumpUndone,
    }
}

fn snapshot(evidence: &JobEvidence) -> Rule {
    let stream = stream(evidence);
    let run = run_class(evidence.observed.run_state.as_ref());
    match (stream, evidence.facts.main) {
        (Stream::Odd, _) => return Rule::NoRuleForThis,
        (Stream::Active, _) => return Rule::SnapshotActive,
        (Stream::None | Stream::Completed | Stream::Ended, EffectStanding::Never) => {
            return match is_at_home(run) {
                true => Rule::SnapshotUndone,
                false => Rule::NoRuleForThis,
            };
        }
        (
            Stream::None | Stream::Completed | Stream::Ended,
            EffectStanding::Unknown | EffectStanding::Done,
        ) => {}
    }
    let Some(jobs) = &evidence.qemu_jobs else {
        return Rule::NoRuleForThis;
    };
    let classes = || jobs.iter().map(|job| qemu_job_class(job.status.as_ref()));
    if classes().any(|class| class == QemuJobClass::Unknown) {
        return Rule::NoRuleForThis;
    }
    if classes().any(|class| matches!(class, QemuJobClass::Active | QemuJobClass::Pending)) {
        return Rule::SnapshotActive;
    }
    // QEMU stops the guest itself while it saves it into an image.
    if !is_at_home(run) {
        return Rule::NoRuleForThis;
    }
    let is_saved = |job: &QemuJobSeen| {
        qemu_job_class(job.status.as_ref()) == QemuJobClass::Concluded && job.error.is_none()
    };
    match (jobs.is_empty(), evidence.nodes) {
        (true, NodesSeen::Unread) => Rule::JobSettled,
        (_, NodesSeen::Unread | NodesSeen::Present)
            if jobs.iter().all(is_saved) && stream != Stream::Ended =>
        {
            Rule::SnapshotTaken
        }
        (_, NodesSeen::Unread | NodesSeen::Absent | NodesSeen::Partly | NodesSeen::Present) => {
            Rule::SnapshotUndone
        }
    }
}

fn backup(evidence: &JobEvidence) -> Rule {
    // Stopped by a stream that is not this journal's, which may wait for ever for whoever began it.
    let run = run_class(evidence.observed.run_state.as_ref());
    if run == RunClass::FinishMigrate && stream(evidence) == Stream::Odd {
        return Rule::NoRuleForThis;
    }
    if evidence.facts.main == EffectStanding::Never {
        return Rule::BackupUndone;
    }
    let Some(jobs) = &evidence.qemu_jobs else {
        return Rule::NoRuleForThis;
    };
    if jobs.is_empty() {
        return Rule::JobSettled;
    }
    let has = |wanted: QemuJobClass| {
        let mut classes = jobs.iter().map(|job| qemu_job_class(job.status.as_ref()));
        classes.any(|class| class == wanted)
    };
    let is_asked = evidence.phase == JobPhase::Cancel;
    let has_failed = jobs.iter().any(|job| job.error.is_some());
    match (
        has(QemuJobClass::Unknown),
        has(QemuJobClass::Active),
        has(QemuJobClass::Pending),
        has(QemuJobClass::Concluded),
    ) {
        (true, _, _, _) => Rule::NoRuleForThis,
        (false, true, _, _) | (false, false, true, _) if is_asked => Rule::BackupCancelled,
        (false, true, _, _) => Rule::BackupActive,
        (false, false, true, _) => Rule::BackupPending,
        (false, false, false, true) if has_failed || is_asked || has(QemuJobClass::Gone) => {
            Rule::BackupFailed
        }
        (false, false, false, true) => Rule::BackupEnded,
        // None of them came to be: they are kept until they are dismissed.
        (false, false, false, false) => Rule::BackupUndone,
    }
}

/// A guest that never ran here is still in its image.
fn start(evidence: &JobEvidence) -> Rule {
    let run = run_class(evidence.observed.run_state.as_ref());
    // Nothing that executed was ever in a process before its first `cont`.
    let is_prelaunch = evidence.observed.run_state == Some(RunState::Prelaunch);
    if evidence.facts.end != EffectStanding::Never {
        return Rule::StartUndone;
    }
    match (run, evidence.facts.main) {
        (RunClass::Running | RunClass::Ran, _) => Rule::StartRunning,
        (RunClass::Paused, EffectStanding::Done) => Rule::StartRunning,
        (RunClass::Paused | RunClass::Inmigrate, EffectStanding::Never) => Rule::StartUndone,
        (RunClass::Paused, EffectStanding::Unknown) if is_prelaunch => Rule::StartUndone,
        (RunClass::Paused, EffectStanding::Unknown) => Rule::StartUnknown,
        (RunClass::Inmigrate, EffectStanding::Unknown | EffectStanding::Done)
        | (RunClass::FinishMigrate | RunClass::Postmigrate | RunClass::Unknown, _) => {
            Rule::NoRuleForThis
        }
    }
}
