//! What a QEMU says of itself, as the engine understands it.
//!
//! Invariant: words that are not known stay as they are, and what was not answered stays unknown;
//! nothing is inferred from silence.
//! Not here: when to look, and over which connection (`monitor`).

use journal_format::record::{
    Claim, ClaimSeen, Instance, MigrationStatus, Observed, Process, RunState,
};
use serde::Serialize;
use serde_json::Value;

use crate::engine::QemuEvent;

/// The property of the claim that holds its text.
pub(crate) const CLAIM_PROPERTY: &str = "identity";

/// QEMU's error class for a path that leads to no object.
const NO_SUCH_OBJECT: &str = "DeviceNotFound";

/// The run state in an answer to `query-status`.
pub(crate) fn run_state(answer: &Value) -> Option<RunState> {
    answer.get("status")?.as_str().map(RunState::from_qemu)
}

/// The status in an answer to `query-migrate`; QEMU leaves it out while there was no migration.
pub(crate) fn migration_status(answer: &Value) -> Option<MigrationStatus> {
    let answer = answer.as_object()?;
    match answer.get("status") {
        None => Some(MigrationStatus::None),
        Some(status) => status.as_str().map(MigrationStatus::from_qemu),
    }
}

/// Whether that answer is one of a destination that listens: it shows the address, and has nothing to say of a stream yet.
pub(crate) fn listens(answer: &Value) -> bool {
    let has_address = answer
        .get("socket-address")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    let is_before = matches!(
        migration_status(answer),
        Some(MigrationStatus::None | MigrationStatus::Setup | MigrationStatus::Active)
    );
    has_address && is_before
}

/// The claim, from the answer to `qom-get` or the class of its error.
pub(crate) fn claim(answer: Result<&Value, &str>) -> ClaimSeen {
    match answer {
        Ok(Value::String(text)) => {
            Claim::parse(text).map_or_else(|| ClaimSeen::Foreign(text.clone()), ClaimSeen::Present)
        }
        Ok(other) => ClaimSeen::Foreign(other.to_string()),
        Err(NO_SUCH_OBJECT) => ClaimSeen::Absent,
        Err(_) => ClaimSeen::Unread,
    }
}

/// An event that matters to the engine.
pub(crate) fn event(name: &str, data: &Value) -> Option<QemuEvent> {
    match name {
        "STOP" => Some(QemuEvent::Stop),
        "RESUME" => Some(QemuEvent::Resume),
        "MIGRATION" => {
            let status = data.get("status")?.as_str()?;
            Some(QemuEvent::Migration(MigrationStatus::from_qemu(status)))
        }
        _ => None,
    }
}

/// A process from which there was no answer.
pub(crate) fn silent(process: Process, instance: Option<Instance>) -> Observed {
    Observed {
        process,
        instance,
        run_state: None,
        migration: None,
        claim: ClaimSeen::Unread,
    }
}

/// Whether a migration of this status moves, so that its progress is worth a look.
pub(crate) fn is_moving(status: &MigrationStatus) -> bool {
    match status {
        MigrationStatus::Setup
        | MigrationStatus::Active
        | MigrationStatus::PreSwitchover
        | MigrationStatus::Device
        | MigrationStatus::PostcopyActive
        | MigrationStatus::PostcopyPaused
        | MigrationStatus::PostcopyRecoverSetup
        | MigrationStatus::PostcopyRecover
        | MigrationStatus::Colo
        | MigrationStatus::WaitUnplug
        | MigrationStatus::Cancelling => true,
        MigrationStatus::None
        | MigrationStatus::Cancelled
        | MigrationStatus::Completed
        | MigrationStatus::Failed
        | MigrationStatus::Other(_) => false,
    }
}

/// How far a migration got. Volatile: for people who wait, and for when to let it converge; never for a
/// decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Progress {
    /// Bytes.
    pub(crate) transferred: u64,
    /// Bytes.
    pub(crate) remaining: u64,
    /// Bytes.
    pub(crate) total: u64,
    /// Pages per second.
    pub(crate) dirty_pages_rate: u64,
    /// Megabits per second.
    pub(crate) mbps: f64,
    /// Milliseconds, as measured or else as expected; absent while QEMU has no idea.
    pub(crate) downtime: Option<u64>,
    /// See [`converging`]; for the engine alone.
    #[serde(skip)]
    pub(crate) converging: Option<u64>,
    /// Whole passes over memory while it performs; for the engine alone.
    #[serde(skip)]
    pub(crate) passes: Option<u64>,
}

/// The progress in an answer to `query-migrate`; a destination has none.
pub(crate) fn progress(answer: &Value) -> Option<Progress> {
    let ram = answer.get("ram")?;
    let number = |key: &str| ram.get(key).and_then(Value::as_u64).unwrap_or(0);
    let milliseconds = |key: &str| answer.get(key).and_then(Value::as_u64);
    Some(Progress {
        transferred: number("transferred"),
        remaining: number("remaining"),
        total: number("total"),
        dirty_pages_rate: number("dirty-pages-rate"),
        mbps: ram.get("mbps").and_then(Value::as_f64).unwrap_or(0.0),
        downtime: milliseconds("downtime").or_else(|| milliseconds("expected-downtime")),
        converging: converging(answer),
        passes: passes(answer),
    })
}

/// How many passes over memory were begun, until it is known what is written again while the rest is
/// sent.
const PASSES_MIN: u64 = 2;

/// How many passes were made, from the answer to `query-migrate` while it performs: QEMU counts those that it
/// began.
fn passes(answer: &Value) -> Option<u64> {
    let status = MigrationStatus::from_qemu(answer.get("status")?.as_str()?);
    let begun = answer.get("ram")?.get("dirty-sync-count")?.as_u64()?;
    (status == MigrationStatus::Active).then(|| begun.saturating_sub(1))
}

/// How long the rest would take with the guest stopped, in milliseconds, from the answer to
/// `query-migrate` while it performs: as QEMU expects it after a pass, or what remains at the rate of
/// now, whichever is less. Nothing before the first pass is over.
fn converging(answer: &Value) -> Option<u64> {
    let status = answer.get("status")?.as_str()?;
    let ram = answer.get("ram")?;
    let passes = ram.get("dirty-sync-count")?.as_u64()?;
    if MigrationStatus::from_qemu(status) != MigrationStatus::Active || passes < PASSES_MIN {
        return None;
    }
    let expected = answer.get("expected-downtime").and_then(Value::as_u64);
    let remaining = ram.get("remaining").and_then(Value::as_u64);
    let mbps = ram.get("mbps").and_then(Value::as_f64);
    let at_this_rate = match (remaining, mbps) {
        // Megabits per second are 125 bytes per millisecond.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an estimate; what is too large stays the largest"
        )]
        (Some(remaining), Some(mbps)) if mbps > 0.0 => {
            Some((remaining as f64 / (mbps * 125.0)).ceil() as u64)
        }
        _ => None,
    };
    match (expected, at_this_rate) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn states_in_qemus_words() {
        let status = json!({"status": "finish-migrate", "running": false});
        assert_eq!(run_state(&status), Some(RunState::FinishMigrate));
        let newer = json!({"status": "dreaming"});
        assert_eq!(
            run_state(&newer),
            Some(RunState::Other("dreaming".to_owned()))
        );
        assert_eq!(run_state(&json!({})), None);
        assert_eq!(migration_status(&json!({})), Some(MigrationStatus::None));
        assert_eq!(
            migration_status(&json!({"status": "device"})),
            Some(MigrationStatus::Device)
        );
        assert_eq!(migration_status(&json!({"status": 7})), None);
        assert_eq!(migration_status(&json!([])), None);
    }

    #[test]
    fn claims() {
        let text = "journal=11111111-1111-1111-1111-111111111111 epoch=3 \
                    migration=22222222-2222-2222-2222-222222222222 role=source";
        let ClaimSeen::Present(seen) = claim(Ok(&json!(text))) else {
            panic!("a claim that this version writes");
        };
        assert_eq!(seen.to_string(), text);
        assert_eq!(
            claim(Ok(&json!("somebody else"))),
            ClaimSeen::Foreign("somebody else".to_owned())
        );
        assert_eq!(claim(Ok(&json!(7))), ClaimSeen::Foreign("7".to_owned()));
        assert_eq!(claim(Err("DeviceNotFound")), ClaimSeen::Absent);
        assert_eq!(claim(Err("GenericError")), ClaimSeen::Unread);
    }

    #[test]
    fn events_that_matter() {
        assert_eq!(event("STOP", &json!({})), Some(QemuEvent::Stop));
        assert_eq!(event("RESUME", &Value::Null), Some(QemuEvent::Resume));
        assert_eq!(
            event("MIGRATION", &json!({"status": "completed"})),
            Some(QemuEvent::Migration(MigrationStatus::Completed))
        );
        assert_eq!(event("MIGRATION", &json!({})), None);
        assert_eq!(event("RTC_CHANGE", &json!({"offset": 1})), None);
    }

    #[test]
    fn what_is_near_the_switchover() {
        let answer = |status: &str, passes: u64, expected: u64, mbps: f64| {
            converging(&json!({
                "status": status,
                "expected-downtime": expected,
                "ram": {"remaining": 500_000, "dirty-sync-count": passes, "mbps": mbps},
            }))
        };
        assert_eq!(answer("active", 1, 100, 8.0), None, "the first pass");
        assert_eq!(answer("active", 2, 100, 8.0), Some(100));
        assert_eq!(answer("active", 2, 9_000, 8.0), Some(500));
        assert_eq!(answer("active", 2, 9_000, 0.0), Some(9_000), "no rate yet");
        assert_eq!(answer("pre-switchover", 5, 100, 8.0), None);
        assert_eq!(converging(&json!({"status": "active"})), None);
    }

    #[test]
    fn progress_of_a_source_only() {
        let source = json!({
            "status": "active",
            "expected-downtime": 300,
            "ram": {"transferred": 5, "remaining": 6, "total": 11, "dirty-pages-rate": 2,
                    "mbps": 1.5, "dirty-sync-count": 3},
        });
        assert_eq!(
            progress(&source),
            Some(Progress {
                passes: Some(2),
                transferred: 5,
                remaining: 6,
                total: 11,
                dirty_pages_rate: 2,
                mbps: 1.5,
                downtime: Some(300),
                // What remains at this rate is next to nothing.
                converging: Some(1),
            })
        );
        assert_eq!(progress(&json!({"status": "active"})), None);
        let over = json!({"status": "completed", "ram": {"dirty-sync-count": 3}});
        assert_eq!(progress(&over).and_then(|seen| seen.passes), None);
    }
}
