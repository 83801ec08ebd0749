//! What a manager's command means to its job: what has to be looked at to know whether it happened, and what
//! takes it back.
//!
//! Invariant: a function of the command alone; it is total, and a command that it does not know means nothing.
//! Not here: whether the command may run (`legal`).

use journal_format::record::{EffectCommand, JobKind};
use serde_json::{Value, json};

use super::driven;

/// What one command means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// It streams the guest out, or in.
    pub(crate) stream: bool,
    /// It is what the job is for.
    pub(crate) main: bool,
    /// It ends QEMU.
    pub(crate) end: bool,
    /// A client's own `cont`.
    continues: bool,
    /// Nodes that are on top of a disk when it happened.
    pub(crate) nodes: Vec<String>,
    /// QEMU jobs that it begins.
    pub(crate) qemu_jobs: Vec<String>,
    /// The QEMU job that is gone when it happened.
    pub(crate) dismisses: Option<String>,
    /// What takes back what it sets up, the last first.
    pub(crate) takes_back: Vec<EffectCommand>,
}

/// A command with these arguments.
pub(crate) fn monitor(execute: &str, arguments: &Value) -> EffectCommand {
    EffectCommand::Monitor {
        execute: execute.to_owned(),
        arguments: arguments.to_string(),
        redacted: false,
    }
}

/// What a command means to a job of this kind.
pub(crate) fn meaning(kind: JobKind, command: &EffectCommand) -> Meaning {
    let is_migration = driven::role(kind).is_some();
    let is_start = is_migration || matches!(kind, JobKind::Start | JobKind::Restore);
    match command {
        EffectCommand::Cont => Meaning {
            main: is_start,
            ..Meaning::default()
        },
        EffectCommand::Kill => Meaning {
            end: true,
            ..Meaning::default()
        },
        EffectCommand::Migrate { .. } | EffectCommand::MigrateIncoming { .. } => Meaning {
            stream: true,
            ..Meaning::default()
        },
        EffectCommand::Monitor {
            execute, arguments, ..
        } => {
            let arguments = serde_json::from_str(arguments).unwrap_or(Value::Null);
            let mut meaning = Meaning::default();
            meaning.add(execute, &arguments);
            if kind == JobKind::Modify {
                // What was plugged in stays.
                meaning.takes_back.clear();
            }
            // Only `cont` says whose the guest is; mirrors are a means.
            meaning.main &= !is_migration;
            meaning.main |= kind == JobKind::MigrationIn && meaning.continues;
            meaning
        }
        EffectCommand::Claim(_)
        | EffectCommand::Unclaim
        | EffectCommand::SetCapabilities { .. }
        | EffectCommand::SetParameters { .. }
        | EffectCommand::MigrateContinue
        | EffectCommand::MigrateCancel
        | EffectCommand::Stop
        | EffectCommand::StartPostcopy
        | EffectCommand::MigrateRecover { .. }
        | EffectCommand::MigrateResume { .. }
        | EffectCommand::MigratePause => Meaning::default(),
    }
}

/// Commands that begin one of QEMU's jobs, and can keep it until it was seen to end.
pub(crate) const BLOCK_JOBS: &[&str] = &[
    "block-commit",
    "block-stream",
    "blockdev-backup",
    "blockdev-mirror",
    "drive-backup",
    "drive-mirror",
];

impl Meaning {
    fn add(&mut self, execute: &str, arguments: &Value) {
        let text = |name: &str| arguments.get(name)?.as_str().map(str::to_owned);
        match execute {
            "migrate" | "migrate-incoming" => self.stream = true,
            "quit" => self.end = true,
            "cont" => self.continues = true,
            "dump-guest-memory" => self.main = true,
            "snapshot-save" | "snapshot-delete" => {
                self.main = true;
                self.qemu_jobs.extend(text("job-id"));
            }
            name if BLOCK_JOBS.contains(&name) => {
                self.main = true;
                self.qemu_jobs.extend(text("job-id"));
            }
            "blockdev-snapshot-sync" => {
                self.main = true;
                self.nodes.extend(text("snapshot-node-name"));
            }
            "blockdev-snapshot" => {
                self.main = true;
                self.nodes.extend(text("overlay"));
            }
            "transaction" => {
                let actions = arguments.get("actions").and_then(Value::as_array);
                for action in actions.into_iter().flatten() {
                    let kind = action.get("type").and_then(Value::as_str);
                    let data = action.get("data").unwrap_or(&Value::Null);
                    self.add(kind.unwrap_or_default(), data);
                }
            }
            "job-dismiss" | "block-job-dismiss" => self.dismisses = text("id"),
            _ => self.take_back(execute, arguments),
        }
    }

    fn take_back(&mut self, execute: &str, arguments: &Value) {
        let text = |name: &str| arguments.get(name)?.as_str().map(str::to_owned);
        let command =
            match execute {
                "blockdev-add" => text("node-name")
                    .map(|name| monitor("blockdev-del", &json!({"node-name": name}))),
                "object-add" => text("id").map(|id| monitor("object-del", &json!({"id": id}))),
                "nbd-server-start" => Some(monitor("nbd-server-stop", &json!({}))),
                "block-export-add" => text("id")
                    .map(|id| monitor("block-export-del", &json!({"id": id, "mode": "hard"}))),
                "block-dirty-bitmap-add" => text("node").zip(text("name")).map(|(node, name)| {
                    monitor(
                        "block-dirty-bitmap-remove",
                        &json!({"node": node, "name": name}),
                    )
                }),
                _ => None,
            };
        if let Some(command) = command {
            self.takes_back.insert(0, command);
        }
    }
}
