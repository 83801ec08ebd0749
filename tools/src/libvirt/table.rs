//! What libvirt does with a domain at its start, from its status file and what QEMU shows then.
//!
//! The rows follow `qemuProcessReconnect`, `qemuProcessUpdateState` and `qemuProcessRecoverJob`, `...MigrationOut`,
//! `...MigrationIn` and `qemuProcessRecoverMigration` of libvirt's src/qemu/qemu_process.c, as of 2022.
//! Invariant: pure; where what it does depends on what QEMU shows, each case is said with its condition.

use journal_format::record::{MigrationStatus, Observed, Phase, Process, RunState};
use serde_json::{Value, json};

use super::status::{AsyncJob, State, Status};

/// What libvirt does with the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Ends QEMU.
    Kill,
    /// Lets the guest run.
    Resume,
    /// Leaves it as it is, and the job is over.
    Keep,
    /// Leaves it as it is though nobody knows which copy is the guest, and forgets that there was a question.
    Undecided,
    /// Takes the job up again.
    Continue,
    /// QEMU is gone: the domain is shut off.
    Remove,
}

impl Deed {
    const fn name(self) -> &'static str {
        match self {
            Deed::Kill => "kill",
            Deed::Resume => "resume",
            Deed::Keep => "keep",
            Deed::Undecided => "undecided",
            Deed::Continue => "continue",
            Deed::Remove => "remove",
        }
    }
}

/// A case: when, and what then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Would {
    /// Empty where nothing else can be.
    pub(crate) when: &'static str,
    pub(crate) deed: Deed,
    pub(crate) how: &'static str,
}

impl Would {
    pub(crate) fn text(&self) -> String {
        let deed = self.deed.name().to_uppercase();
        match self.when {
            "" => format!("{deed}: {}", self.how),
            when => format!("{deed} {when}: {}", self.how),
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({"when": self.when, "does": self.deed.name(), "how": self.how})
    }
}

/// The state that libvirt decides from, after it asked QEMU (`qemuProcessUpdateState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    Running,
    /// Paused for a migration.
    ByMigration,
    /// Paused, and nobody knows why.
    Unknown,
    /// Paused by what a save, dump or snapshot does.
    ByJob,
    /// Paused by its owner, an error, anything else.
    Otherwise,
}

/// What QEMU may be found doing.
const CASES: [(&str, RunState); 3] = [
    ("if QEMU runs the guest", RunState::Running),
    ("if QEMU stands after a migration", RunState::Postmigrate),
    ("if QEMU is paused", RunState::Paused),
];

const GONE: Would = Would {
    when: "if QEMU is gone, or its monitor cannot be opened",
    deed: Deed::Remove,
    how: "ends what is left of it; shut off (crashed)",
};

/// What happens at libvirt's next start; with `shown`, if QEMU shows that.
pub(crate) fn at_start(status: &Status, shown: Option<&Observed>) -> Vec<Would> {
    if let Some(shown) = shown {
        return vec![match shown.process {
            Process::Dead => Would { when: "", ..GONE },
            Process::Mute => Would {
                when: "",
                deed: Deed::Kill,
                how: "a monitor that does not answer counts as an error, and every error at the start kills",
            },
            Process::Alive | Process::OtherInstance => {
                let running = RunState::Running;
                let run = shown.run_state.as_ref().unwrap_or(match status.state {
                    State::Running => &running,
                    _ => &RunState::Paused,
                });
                Would {
                    when: "",
                    ..decide(status, run, shown.migration.as_ref())
                }
            }
        }];
    }
    let mut all: Vec<Would> = Vec::new();
    if is_by_status(status) {
        for (when, migration) in [
            ("if post-copy goes on", MigrationStatus::PostcopyActive),
            ("if it has completed meanwhile", MigrationStatus::Completed),
            ("else", MigrationStatus::PostcopyPaused),
        ] {
            let would = decide(status, &RunState::Postmigrate, Some(&migration));
            all.push(Would { when, ..would });
        }
    } else {
        for (when, run) in &CASES {
            let would = decide(status, run, None);
            let known = all
                .iter()
                .any(|one| (one.deed, one.how) == (would.deed, would.how));
            if !known {
                all.push(Would { when, ..would });
            }
        }
        if let [only] = all.as_mut_slice() {
            only.when = "";
        } else if let Some(last) = all.last_mut() {
            last.when = "else";
        }
    }
    all.push(GONE);
    all
}

fn used(status: &Status, run: &RunState) -> Used {
    if *run == RunState::Running {
        return Used::Running;
    }
    // Of a domain that was saved as paused the reason is kept, whatever QEMU says.
    if status.state == State::Paused {
        return match (status.reason.as_str(), status.async_job) {
            ("migration", _) => Used::ByMigration,
            ("unknown", _) => Used::Unknown,
            ("save", AsyncJob::Save)
            | ("dump", AsyncJob::Dump)
            | ("snapshot", AsyncJob::Snapshot) => Used::ByJob,
            _ => Used::Otherwise,
        };
    }
    match run {
        RunState::Inmigrate | RunState::Postmigrate | RunState::FinishMigrate => Used::ByMigration,
        RunState::SaveVm if status.async_job == AsyncJob::Save => Used::ByJob,
        RunState::Debug | RunState::InternalError | RunState::RestoreVm | RunState::Other(_) => {
            Used::Unknown
        }
        _ => Used::Otherwise,
    }
}

const fn would(deed: Deed, how: &'static str) -> Would {
    Would {
        when: "",
        deed,
        how,
    }
}

fn decide(status: &Status, run: &RunState, migration: Option<&MigrationStatus>) -> Would {
    let used = used(status, run);
    let is_shut_off = matches!(status.state, State::Shutoff);
    let is_starting = status.state == State::Paused && status.reason == "starting up";
    if used != Used::Running && (is_shut_off || is_starting) {
        return would(Deed::Kill, "it never finished starting");
    }
    if status.job == "destroy" {
        return would(Deed::Kill, "finishes the destroy");
    }
    match status.async_job {
        AsyncJob::None => would(Deed::Keep, "no job was under way"),
        AsyncJob::MigrationOut => out(status, used, migration),
        AsyncJob::MigrationIn => into(status, used, migration),
        AsyncJob::Save | AsyncJob::Dump | AsyncJob::Snapshot => match used {
            Used::ByJob | Used::Unknown => would(
                Deed::Resume,
                "migrate_cancel, then cont: the job is cancelled",
            ),
            // A snapshot saves memory by a migration, and is paused for it.
            Used::ByMigration if status.async_job == AsyncJob::Snapshot => would(
                Deed::Resume,
                "migrate_cancel, then cont: the job is cancelled",
            ),
            Used::Running | Used::ByMigration | Used::Otherwise => {
                would(Deed::Keep, "migrate_cancel; the run state stays as it is")
            }
        },
        AsyncJob::Start => would(
            Deed::Keep,
            "nothing more: what did not finish starting was ended before",
        ),
        AsyncJob::Backup => would(Deed::Continue, "takes the backup up again"),
    }
}

/// `qemuProcessRecoverMigrationOut`.
fn out(status: &Status, used: Used, migration: Option<&MigrationStatus>) -> Would {
    let Some(phase) = status.phase else {
        return would(Deed::Keep, "no phase of a source: the job is dropped");
    };
    match phase {
        Phase::Prepare
        | Phase::Finish2
        | Phase::Finish3
        | Phase::PrepareResume
        | Phase::FinishResume => {
            would(Deed::Keep, "a phase of the destination: the job is dropped")
        }
        Phase::Begin3 => would(Deed::Keep, "forgets the migration; nothing was done yet"),
        Phase::Perform2 | Phase::Perform3 => match used {
            Used::ByMigration | Used::Unknown | Used::ByJob => would(
                Deed::Resume,
                "migrate_cancel, then cont, once; if that fails it stays paused",
            ),
            Used::Running => would(Deed::Keep, "migrate_cancel; it runs on"),
            Used::Otherwise => would(Deed::Keep, "migrate_cancel; it stays paused"),
        },
        Phase::Perform3Done if status.is_postcopy() => split(true, migration),
        Phase::Perform3Done => would(
            Deed::Undecided,
            "leaves it as it is for somebody else to look at, and forgets the job",
        ),
        Phase::Confirm3Cancelled if status.is_postcopy() => split(true, migration),
        Phase::Confirm3Cancelled => match used {
            Used::ByMigration | Used::Unknown | Used::ByJob => {
                would(Deed::Resume, "cont, once; if that fails it stays paused")
            }
            Used::Running | Used::Otherwise => would(Deed::Keep, "the job is dropped"),
        },
        Phase::Confirm3 => would(
            Deed::Kill,
            "the guest is the destination's (stopped: migrated)",
        ),
        Phase::ConfirmResume if migration == Some(&MigrationStatus::Completed) => would(
            Deed::Kill,
            "the guest is the destination's (stopped: migrated)",
        ),
        Phase::ConfirmResume
        | Phase::PostcopyFailed
        | Phase::BeginResume
        | Phase::PerformResume => split(true, migration),
    }
}

/// `qemuProcessRecoverMigrationIn`.
fn into(status: &Status, used: Used, migration: Option<&MigrationStatus>) -> Would {
    let Some(phase) = status.phase else {
        return would(Deed::Keep, "no phase of a destination: the job is dropped");
    };
    match phase {
        Phase::Begin3
        | Phase::Perform2
        | Phase::Perform3
        | Phase::Perform3Done
        | Phase::Confirm3
        | Phase::Confirm3Cancelled
        | Phase::BeginResume
        | Phase::PerformResume
        | Phase::ConfirmResume => would(Deed::Keep, "a phase of the source: the job is dropped"),
        Phase::Prepare => would(Deed::Kill, "whatever the source says"),
        Phase::Finish2 => would(Deed::Resume, "cont, once: the source killed itself before"),
        Phase::Finish3 if status.is_postcopy() => split(false, migration),
        Phase::Finish3 => match used {
            Used::Running => would(
                Deed::Keep,
                "it runs on; whether the source knows is not asked",
            ),
            Used::ByMigration | Used::Unknown | Used::ByJob | Used::Otherwise => would(
                Deed::Kill,
                "it does not run, so the source shall; which may be gone",
            ),
        },
        Phase::PostcopyFailed | Phase::PrepareResume | Phase::FinishResume => {
            split(false, migration)
        }
    }
}

/// Does the answer rest on QEMU's migration status alone?
fn is_by_status(status: &Status) -> bool {
    let postcopy = status.is_postcopy();
    match (status.async_job, status.phase) {
        (AsyncJob::MigrationOut, Some(phase)) => match phase {
            Phase::Perform3Done | Phase::Confirm3Cancelled => postcopy,
            Phase::ConfirmResume
            | Phase::PostcopyFailed
            | Phase::BeginResume
            | Phase::PerformResume => true,
            Phase::Begin3
            | Phase::Perform2
            | Phase::Perform3
            | Phase::Confirm3
            | Phase::Prepare
            | Phase::Finish2
            | Phase::Finish3
            | Phase::PrepareResume
            | Phase::FinishResume => false,
        },
        (AsyncJob::MigrationIn, Some(phase)) => match phase {
            Phase::Finish3 => postcopy,
            Phase::PostcopyFailed | Phase::PrepareResume | Phase::FinishResume => true,
            Phase::Prepare
            | Phase::Finish2
            | Phase::Begin3
            | Phase::Perform2
            | Phase::Perform3
            | Phase::Perform3Done
            | Phase::Confirm3
            | Phase::Confirm3Cancelled
            | Phase::BeginResume
            | Phase::PerformResume
            | Phase::ConfirmResume => false,
        },
        (
            AsyncJob::None
            | AsyncJob::MigrationOut
            | AsyncJob::MigrationIn
            | AsyncJob::Save
            | AsyncJob::Dump
            | AsyncJob::Snapshot
            | AsyncJob::Start
            | AsyncJob::Backup,
            _,
        ) => false,
    }
}

/// `qemuProcessRecoverMigration`: post-copy, either side.
fn split(source: bool, migration: Option<&MigrationStatus>) -> Would {
    match (migration, source) {
        (Some(MigrationStatus::PostcopyActive | MigrationStatus::PostcopyRecover), _) => {
            would(Deed::Continue, "waits for it to complete, unattended")
        }
        (Some(MigrationStatus::Completed), true) => would(
            Deed::Kill,
            "the guest is the destination's (stopped: migrated)",
        ),
        (Some(MigrationStatus::Completed), false) => {
            would(Deed::Keep, "it runs, and is the whole guest")
        }
        (_, true) => would(
            Deed::Undecided,
            "paused (post-copy failed), never resumed: a human must resume the migration",
        ),
        (_, false) => would(
            Deed::Undecided,
            "stays as it is (post-copy failed): a human must resume the migration",
        ),
    }
}
