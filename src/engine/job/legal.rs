//! Which commands a manager may run in which phase of which job, and which jobs go beside each other.
//!
//! Invariant: pure; what is not listed is refused with one error that says what is, and nothing of it reaches
//! the journal or QEMU.
//! Not here: what recovery makes of a job (`decide`), what a command means to it (`meaning`).

use journal_format::record::{
    EffectCommand, JobKind, JobPhase, MONITOR_ARGUMENTS_SIZE_MAX, Role, THING_NAME_SIZE_MAX,
};
use serde_json::{Map, Value, json};

use super::driven;
use super::meaning::{BLOCK_JOBS, meaning, monitor};
use crate::engine::Refusal;

/// Most commands in one `phase-enter`.
pub const PHASE_EFFECTS_MAX: usize = 64;

/// Largest arguments of a command that takes something back: two names of [`THING_NAME_SIZE_MAX`], as JSON.
const TAKES_BACK_SIZE_MAX: usize = 2 * THING_NAME_SIZE_MAX + 32;

/// The QOM id of a sidecar's claim.
const CLAIM_ID: &str = "phase-journal-claim";

/// A command that a manager wants to run in a phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerEffect {
    /// Its name as QMP has it; `kill` for the signal.
    pub execute: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// Is it an asynchronous job, as libvirt calls them: one that goes on for long, of which a domain has one?
#[must_use]
pub const fn is_async(kind: JobKind) -> bool {
    match kind {
        JobKind::MigrationOut
        | JobKind::MigrationIn
        | JobKind::Save
        | JobKind::Dump
        | JobKind::Snapshot
        | JobKind::Start
        | JobKind::Restore
        | JobKind::Backup => true,
        JobKind::Destroy | JobKind::Suspend | JobKind::Modify | JobKind::Query | JobKind::Abort => {
            false
        }
    }
}

/// May that ordinary job go beside this asynchronous one? As libvirt has it (the job masks of qemu_domainjob.c,
/// qemu_backup.c, qemu_snapshot.c), but for a migration: there `domain-suspend` and `job-cancel` are the
/// way, since the handover has to know.
#[must_use]
pub const fn goes_beside(ordinary: JobKind, asynchronous: JobKind) -> bool {
    match (asynchronous, ordinary) {
        (_, JobKind::Query) => true,
        (
            JobKind::MigrationOut | JobKind::MigrationIn | JobKind::Start | JobKind::Restore,
            JobKind::Destroy | JobKind::Abort | JobKind::Suspend | JobKind::Modify,
        ) => false,
        (
            JobKind::Backup,
            JobKind::Destroy | JobKind::Abort | JobKind::Suspend | JobKind::Modify,
        )
        | (JobKind::Save | JobKind::Dump | JobKind::Snapshot, JobKind::Destroy | JobKind::Abort) => {
            true
        }
        (JobKind::Save | JobKind::Dump | JobKind::Snapshot, JobKind::Suspend | JobKind::Modify) => {
            false
        }
        // One of both is no job of its sort.
        (
            _,
            JobKind::MigrationOut
            | JobKind::MigrationIn
            | JobKind::Save
            | JobKind::Dump
            | JobKind::Snapshot
            | JobKind::Start
            | JobKind::Restore
            | JobKind::Backup,
        )
        | (
            JobKind::Destroy | JobKind::Suspend | JobKind::Modify | JobKind::Query | JobKind::Abort,
            _,
        ) => false,
    }
}

const MIGRATION_SETTINGS: &[&str] = &["migrate-set-capabilities", "migrate-set-parameters", "stop"];

/// The commands that may run in a phase of a job of that kind.
#[must_use]
pub const fn commands(kind: JobKind, phase: JobPhase) -> &'static [&'static str] {
    match (kind, phase) {
        (_, JobPhase::Begin | JobPhase::Cancel | JobPhase::Perform3Done) => &[],
        (JobKind::MigrationOut, JobPhase::Begin3) => MIGRATION_SETTINGS,
        (JobKind::MigrationOut, JobPhase::Perform3) => &[
            "block-job-cancel",
            "block-job-set-speed",
            "blockdev-add",
            "blockdev-del",
            "blockdev-mirror",
            "drive-mirror",
            "job-cancel",
            "job-complete",
            "job-dismiss",
            "job-finalize",
            "migrate",
            "migrate-continue",
            "migrate-set-capabilities",
            "migrate-set-parameters",
            "migrate_cancel",
            "object-add",
            "object-del",
            "stop",
        ],
        (JobKind::MigrationOut, JobPhase::Confirm3) => &["kill", "quit"],
        (JobKind::MigrationOut, JobPhase::Confirm3Cancelled) => &[
            "blockdev-del",
            "cont",
            "job-cancel",
            "job-dismiss",
            "migrate-set-capabilities",
            "migrate-set-parameters",
            "object-del",
        ],
        (JobKind::MigrationIn, JobPhase::Prepare) => &[
            "block-export-add",
            "blockdev-add",
            "migrate-incoming",
            "migrate-set-capabilities",
            "migrate-set-parameters",
            "nbd-server-start",
            "object-add",
            "stop",
        ],
        (JobKind::MigrationIn, JobPhase::Finish3) => &[
            "block-export-del",
            "blockdev-del",
            "cont",
            "kill",
            "migrate-set-capabilities",
            "migrate-set-parameters",
            "nbd-server-stop",
            "object-del",
            "quit",
        ],
        (JobKind::Save | JobKind::Dump | JobKind::Restore, JobPhase::Prepare) => MIGRATION_SETTINGS,
        (JobKind::Save, JobPhase::Perform) => &["migrate", "stop"],
        (JobKind::Save, JobPhase::Finish) => &["cont", "kill", "quit"],
        (JobKind::Dump, JobPhase::Perform) => &["dump-guest-memory", "migrate", "stop"],
        (JobKind::Dump, JobPhase::Finish) => &["cont"],
        (JobKind::Snapshot, JobPhase::Prepare) => &[
            "blockdev-add",
            "migrate-set-capabilities",
            "migrate-set-parameters",
            "stop",
        ],
        (JobKind::Snapshot, JobPhase::Perform) => &[
            "blockdev-snapshot",
            "blockdev-snapshot-sync",
            "migrate",
            "snapshot-delete",
            "snapshot-save",
            "stop",
            "transaction",
        ],
        (JobKind::Snapshot, JobPhase::Finish) => &["blockdev-del", "cont", "job-dismiss"],
        (JobKind::Backup, JobPhase::Prepare) => &[
            "block-dirty-bitmap-add",
            "block-dirty-bitmap-clear",
            "block-dirty-bitmap-disable",
            "block-dirty-bitmap-enable",
            "block-dirty-bitmap-merge",
            "blockdev-add",
            "nbd-server-start",
            "object-add",
        ],
        (JobKind::Backup, JobPhase::Perform) => &[
            "block-commit",
            "block-export-add",
            "block-job-set-speed",
            "block-stream",
            "blockdev-backup",
            "blockdev-mirror",
            "drive-backup",
            "drive-mirror",
            "job-cancel",
            "job-complete",
            "job-pause",
            "job-resume",
            "transaction",
        ],
        (JobKind::Backup, JobPhase::Finish) => &[
            "block-dirty-bitmap-merge",
            "block-dirty-bitmap-remove",
            "block-export-del",
            "blockdev-del",
            "job-cancel",
            "job-complete",
            "job-dismiss",
            "job-finalize",
            "nbd-server-stop",
            "object-del",
        ],
        (JobKind::Start, JobPhase::Prepare) => &["balloon", "qom-set", "set_link"],
        (JobKind::Start, JobPhase::Perform) => &["cont"],
        (JobKind::Restore, JobPhase::Perform) => &["migrate-incoming"],
        (JobKind::Restore, JobPhase::Finish) => &["cont"],
        (JobKind::Destroy, JobPhase::Perform) => &["kill", "quit", "stop", "system_powerdown"],
        (JobKind::Suspend, JobPhase::Perform) => &["cont", "stop", "system_wakeup"],
        (JobKind::Modify, JobPhase::Perform) => &[
            "balloon",
            "block-export-add",
            "block-export-del",
            "block_resize",
            "block_set_io_throttle",
            "blockdev-add",
            "blockdev-change-medium",
            "blockdev-close-tray",
            "blockdev-del",
            "blockdev-insert-medium",
            "blockdev-open-tray",
            "blockdev-remove-medium",
            "blockdev-reopen",
            "chardev-add",
            "chardev-change",
            "chardev-remove",
            "device_add",
            "device_del",
            "eject",
            "nbd-server-start",
            "nbd-server-stop",
            "netdev_add",
            "netdev_del",
            "object-add",
            "object-del",
            "qom-set",
            "set_link",
            "watchdog-set-action",
        ],
        (
            JobKind::Start | JobKind::Destroy | JobKind::Suspend | JobKind::Modify,
            JobPhase::Prepare | JobPhase::Finish,
        )
        | (
            JobKind::MigrationOut | JobKind::MigrationIn | JobKind::Query | JobKind::Abort,
            JobPhase::Prepare | JobPhase::Perform | JobPhase::Finish,
        )
        | (
            _,
            JobPhase::Begin3
            | JobPhase::Perform3
            | JobPhase::Confirm3
            | JobPhase::Confirm3Cancelled
            | JobPhase::Finish3,
        ) => &[],
    }
}

/// The phases that a manager enters in a job of that kind.
pub(super) const fn phases(kind: JobKind) -> &'static [JobPhase] {
    match driven::role(kind) {
        Some(Role::Source) => &[
            JobPhase::Begin3,
            JobPhase::Perform3,
            JobPhase::Perform3Done,
            JobPhase::Confirm3,
            JobPhase::Confirm3Cancelled,
        ],
        Some(Role::Destination) => &[JobPhase::Prepare, JobPhase::Finish3],
        None => &[JobPhase::Prepare, JobPhase::Perform, JobPhase::Finish],
    }
}

/// May a manager enter that phase of such a job from this one? Forward, or once more the same. A migration that was
/// cancelled too late goes on: what was sent may have been given to the destination.
#[must_use]
pub fn may_enter(kind: JobKind, before: JobPhase, after: JobPhase) -> bool {
    if !phases(kind).contains(&after) {
        return false;
    }
    match (before, after) {
        (JobPhase::Cancel, _) => {
            matches!(
                (driven::role(kind), after),
                (
                    Some(Role::Source),
                    JobPhase::Perform3Done | JobPhase::Confirm3Cancelled
                )
            )
        }
        // Only what was wholly sent is confirmed.
        (_, JobPhase::Confirm3) => {
            matches!(before, JobPhase::Perform3Done | JobPhase::Confirm3)
        }
        (JobPhase::Confirm3, _) => false,
        (_, JobPhase::Perform3Done) => {
            matches!(before, JobPhase::Perform3 | JobPhase::Perform3Done)
        }
        (_, _) => {
            let at = |phase: JobPhase| phases(kind).iter().position(|other| *other == phase);
            at(before) <= at(after)
        }
    }
}

/// Where a stream of a guest may go to, or come from, in a job that is no migration.
const FILE_SCHEMES: &[&str] = &["exec:", "fd:", "file:"];

/// What is wrong with a command; `Ok` gives it as it is recorded and sent.
///
/// # Errors
/// The command does not belong into that phase, or its arguments would leave something that nobody could
/// look at afterwards.
pub(crate) fn checked(
    kind: JobKind,
    phase: JobPhase,
    effect: ManagerEffect,
) -> Result<EffectCommand, Refusal> {
    let ManagerEffect {
        execute,
        mut arguments,
    } = effect;
    if driven::role(kind).is_some() && starts_postcopy(&execute, &arguments) {
        let why = "would begin post-copy, which goes by migrate-domain";
        return Err(refused(&execute, why));
    }
    let allowed = commands(kind, phase);
    if !allowed.contains(&execute.as_str()) {
        return Err(Refusal::NotInThisPhase {
            execute,
            kind,
            phase,
            allowed,
        });
    }
    let plain = match execute.as_str() {
        "migrate_cancel" => Some(EffectCommand::MigrateCancel),
        "cont" => Some(EffectCommand::Cont),
        "stop" => Some(EffectCommand::Stop),
        "kill" => Some(EffectCommand::Kill),
        _ => None,
    };
    if let Some(command) = plain {
        return match arguments.is_empty() {
            true => Ok(command),
            false => Err(refused(&execute, "takes no arguments")),
        };
    }
    check(kind, &execute, &mut arguments)?;
    let command = monitor(&execute, &Value::Object(arguments));
    if let EffectCommand::Monitor { arguments, .. } = &command
        && arguments.len() > MONITOR_ARGUMENTS_SIZE_MAX
    {
        return Err(Refusal::TooLong {
            what: "arguments",
            size_max: MONITOR_ARGUMENTS_SIZE_MAX,
        });
    }
    let means = meaning(kind, &command);
    let is_long = |command: &EffectCommand| {
        matches!(command, EffectCommand::Monitor { arguments, .. }
            if arguments.len() > TAKES_BACK_SIZE_MAX)
    };
    if means.takes_back.iter().any(is_long) {
        return Err(Refusal::TooLong {
            what: "a name",
            size_max: THING_NAME_SIZE_MAX,
        });
    }
    let names = means.nodes.iter().chain(&means.qemu_jobs);
    if names
        .into_iter()
        .any(|name| name.len() > THING_NAME_SIZE_MAX)
    {
        return Err(Refusal::TooLong {
            what: "the name of a node or job",
            size_max: THING_NAME_SIZE_MAX,
        });
    }
    Ok(command)
}

fn refused(execute: &str, why: &'static str) -> Refusal {
    Refusal::Command {
        execute: execute.to_owned(),
        why,
    }
}

fn check(kind: JobKind, execute: &str, arguments: &mut Map<String, Value>) -> Result<(), Refusal> {
    let text = |arguments: &Map<String, Value>, name: &str| {
        arguments
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    match execute {
        "migrate" | "migrate-incoming" if driven::role(kind).is_some() => {
            check_stream(execute, arguments)?;
        }
        "migrate" | "migrate-incoming" => {
            let uri = text(arguments, "uri").unwrap_or_default();
            if !FILE_SCHEMES.iter().any(|scheme| uri.starts_with(scheme)) {
                let why = "needs a 'uri' that begins with exec:, fd: or file: (a guest goes to another QEMU by migrate-domain)";
                return Err(refused(execute, why));
            }
            if arguments.contains_key("resume") || arguments.contains_key("channels") {
                return Err(refused(execute, "takes 'uri' alone here"));
            }
        }
        // QEMU answers when the dump is there, and nothing else until then.
        "dump-guest-memory" => must_be(execute, arguments, "detach", true)?,
        "snapshot-save" | "snapshot-delete" => needs(execute, arguments, "job-id")?,
        "blockdev-snapshot-sync" => needs(execute, arguments, "snapshot-node-name")?,
        "blockdev-snapshot" => needs(execute, arguments, "overlay")?,
        "transaction" => check_transaction(kind, arguments)?,
        "object-add" | "object-del" if text(arguments, "id").as_deref() == Some(CLAIM_ID) => {
            return Err(refused(execute, "may not touch the sidecar's claim"));
        }
        "object-add" if arguments.contains_key("data") => {
            let why = "would put a secret into the journal: name a file";
            return Err(refused(execute, why));
        }
        "qom-set" if text(arguments, "path").is_some_and(|path| path.contains(CLAIM_ID)) => {
            return Err(refused(execute, "may not touch the sidecar's claim"));
        }
        name if BLOCK_JOBS.contains(&name) => check_block_job(execute, arguments)?,
        _ => {}
    }
    Ok(())
}

/// Would the guest be split over both sides, where nobody but the two sidecars finds a way out?
fn starts_postcopy(execute: &str, arguments: &Map<String, Value>) -> bool {
    let is_it = |one: &Value| {
        one.get("capability").and_then(Value::as_str) == Some("postcopy-ram")
            && one.get("state") == Some(&Value::Bool(true))
    };
    let capabilities = arguments.get("capabilities").and_then(Value::as_array);
    match execute {
        "migrate-start-postcopy" => true,
        "migrate-set-capabilities" => capabilities.into_iter().flatten().any(is_it),
        _ => false,
    }
}

/// A stream from one QEMU to another.
fn check_stream(execute: &str, arguments: &Map<String, Value>) -> Result<(), Refusal> {
    let uri = arguments.get("uri").and_then(Value::as_str);
    let has_channels = arguments
        .get("channels")
        .and_then(Value::as_array)
        .is_some_and(|channels| !channels.is_empty());
    if uri.is_some_and(|uri| uri.starts_with("file:")) {
        return Err(refused(
            execute,
            "to a file is a save, and from one a restore",
        ));
    }
    if uri.is_none_or(str::is_empty) && !has_channels {
        return Err(refused(execute, "needs 'uri' or 'channels'"));
    }
    if arguments.contains_key("resume") {
        let why = "takes no 'resume' here: post-copy goes by migrate-domain";
        return Err(refused(execute, why));
    }
    Ok(())
}

/// So that nothing concludes unseen.
fn check_block_job(execute: &str, arguments: &mut Map<String, Value>) -> Result<(), Refusal> {
    needs(execute, arguments, "job-id")?;
    must_be(execute, arguments, "auto-finalize", false)?;
    must_be(execute, arguments, "auto-dismiss", false)
}

fn check_transaction(kind: JobKind, arguments: &mut Map<String, Value>) -> Result<(), Refusal> {
    let execute = "transaction";
    let none = "needs 'actions'";
    let Some(actions) = arguments.get_mut("actions").and_then(Value::as_array_mut) else {
        return Err(refused(execute, none));
    };
    if actions.is_empty() {
        return Err(refused(execute, none));
    }
    for action in actions {
        let name = action
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let name = name.to_owned();
        let fits = match kind {
            JobKind::Snapshot => matches!(
                name.as_str(),
                "blockdev-snapshot" | "blockdev-snapshot-sync"
            ),
            _ => BLOCK_JOBS.contains(&name.as_str()) || name.starts_with("block-dirty-bitmap-"),
        };
        if !fits {
            return Err(refused(
                execute,
                "has an action that does not belong to this job",
            ));
        }
        let Some(data) = action.get_mut("data").and_then(Value::as_object_mut) else {
            return Err(refused(execute, "has an action without 'data'"));
        };
        check(kind, &name, data)?;
    }
    Ok(())
}

fn needs(execute: &str, arguments: &Map<String, Value>, name: &'static str) -> Result<(), Refusal> {
    match arguments.get(name).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(()),
        Some(_) | None => Err(Refusal::CommandNeeds {
            execute: execute.to_owned(),
            argument: name,
        }),
    }
}

/// Sets what has to be so, and refuses what was set otherwise.
fn must_be(
    execute: &str,
    arguments: &mut Map<String, Value>,
    name: &'static str,
    value: bool,
) -> Result<(), Refusal> {
    match arguments.insert(name.to_owned(), json!(value)) {
        None => Ok(()),
        Some(before) if before == json!(value) => Ok(()),
        Some(_) => Err(Refusal::CommandMust {
            execute: execute.to_owned(),
            argument: name,
            value,
        }),
    }
}
