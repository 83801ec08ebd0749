//! Effects as QMP commands.
//!
//! Invariant: one effect is one command; its arguments are all in its record.
//! Not here: killing, which is a signal and no command.

use journal_format::record::{EffectCommand, Role, needed_capabilities};
use serde_json::{Value, json};

/// The QOM id of a sidecar's claim, under `/objects/`.
pub const CLAIM_ID: &str = "phase-journal-claim";

/// The command and its arguments, as the sidecar sends them; `None` for what is no QMP command, or whose record does not have all of it.
#[must_use]
pub fn qmp_command(command: &EffectCommand) -> Option<(&str, Value)> {
    let arguments = match command {
        EffectCommand::Claim(claim) => json!({
            "qom-type": "authz-simple",
            "id": CLAIM_ID,
            "identity": claim.to_string(),
        }),
        EffectCommand::Unclaim => json!({"id": CLAIM_ID}),
        EffectCommand::SetCapabilities { role, postcopy } => capabilities(*role, *postcopy),
        EffectCommand::SetParameters {
            max_bandwidth,
            downtime_limit,
        } => {
            let mut arguments = serde_json::Map::new();
            if let Some(rate) = max_bandwidth {
                arguments.insert("max-bandwidth".to_owned(), json!(rate));
            }
            if let Some(limit) = downtime_limit {
                arguments.insert("downtime-limit".to_owned(), json!(limit));
            }
            Value::Object(arguments)
        }
        EffectCommand::MigrateIncoming { uri }
        | EffectCommand::Migrate { uri }
        | EffectCommand::MigrateRecover { uri } => json!({"uri": uri}),
        EffectCommand::MigrateResume { uri } => json!({"uri": uri, "resume": true}),
        EffectCommand::MigrateContinue => json!({"state": "pre-switchover"}),
        EffectCommand::MigrateCancel
        | EffectCommand::Cont
        | EffectCommand::Stop
        | EffectCommand::StartPostcopy
        | EffectCommand::MigratePause => json!({}),
        EffectCommand::Monitor { redacted: true, .. } | EffectCommand::Kill => return None,
        EffectCommand::Monitor { arguments, .. } => serde_json::from_str(arguments).ok()?,
    };
    Some((command.name(), arguments))
}

/// Whether a command goes past those that wait. A guest that waits for memory in post-copy may wait
/// with QEMU's big lock held, and then QEMU answers nothing else until its stream goes on.
pub(crate) fn is_out_of_band(command: &EffectCommand) -> bool {
    match command {
        EffectCommand::MigrateRecover { .. } | EffectCommand::MigratePause => true,
        // So may a QEMU that waits for a disk at the other end of a connection, until that is cut.
        EffectCommand::Monitor { execute, .. } => execute == "yank",
        _ => false,
    }
}

fn capabilities(role: Role, postcopy: bool) -> Value {
    let all = needed_capabilities(role, postcopy)
        .map(|(name, state)| json!({"capability": name, "state": state}));
    json!({"capabilities": all})
}
