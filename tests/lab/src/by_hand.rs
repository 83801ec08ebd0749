//! A v3 migration by plain QMP commands, with no sidecar: the control of every experiment.
//!
//! Invariant: it does exactly the sequence that the sidecars do when nothing goes wrong, in steps
//! that a test can stop between. It needs nothing but a monitor of each side.
//!
//! Not here: recovery of any kind.

use std::time::Duration;

use serde_json::json;

use crate::qmp::{Qmp, member_text};
use crate::{Error, until};

/// How long each step of a migration may take.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Sets capabilities on both sides and lets the destination listen at `uri`.
///
/// # Errors
/// As [`Qmp::execute`].
pub fn prepare(source: &mut Qmp, destination: &mut Qmp, uri: &str) -> Result<(), Error> {
    set_capabilities(
        source,
        &["events", "return-path", "pause-before-switchover"],
    )?;
    set_capabilities(
        destination,
        &["events", "return-path", "late-block-activate"],
    )?;
    destination.execute("migrate-incoming", json!({"uri": uri}))?;
    Ok(())
}

/// Starts the migration without a bandwidth limit and waits for pre-switchover: the guest is
/// stopped on both sides then.
///
/// # Errors
/// As [`Qmp::execute`]; [`Error::Deadline`] if it does not converge.
pub fn perform(source: &mut Qmp, uri: &str) -> Result<(), Error> {
    source.execute("migrate-set-parameters", json!({"max-bandwidth": 0}))?;
    source.execute("migrate", json!({"uri": uri}))?;
    wait_status(source, "pre-switchover")
}

/// Switches over and waits until both sides say completed: the destination is whole and paused.
///
/// # Errors
/// As [`Qmp::execute`]; [`Error::Deadline`].
pub fn switch_over(source: &mut Qmp, destination: &mut Qmp) -> Result<(), Error> {
    source.execute("migrate-continue", json!({"state": "pre-switchover"}))?;
    wait_status(source, "completed")?;
    wait_status(destination, "completed")
}

/// Runs the guest at the destination and tells the source to end.
///
/// # Errors
/// As [`Qmp::execute`].
pub fn finish(source: &mut Qmp, destination: &mut Qmp) -> Result<(), Error> {
    destination.execute("cont", json!({}))?;
    source.execute("quit", json!({}))?;
    Ok(())
}

/// The whole migration.
///
/// # Errors
/// As its steps.
pub fn migrate(source: &mut Qmp, destination: &mut Qmp, uri: &str) -> Result<(), Error> {
    prepare(source, destination, uri)?;
    perform(source, uri)?;
    switch_over(source, destination)?;
    finish(source, destination)
}

/// QEMU's migration status, or `none` if it never had one.
///
/// # Errors
/// As [`Qmp::execute`].
pub fn migration_status(qemu: &mut Qmp) -> Result<String, Error> {
    let migration = qemu.execute("query-migrate", json!({}))?;
    match migration.get("status") {
        None => Ok("none".to_owned()),
        Some(_) => member_text(&migration, "status", "query-migrate"),
    }
}

/// Waits for a migration status by looking, not by the event: the event of an earlier migration is
/// none of this one.
///
/// # Errors
/// As [`Qmp::execute`]; [`Error::Deadline`].
pub fn wait_status(qemu: &mut Qmp, wanted: &str) -> Result<(), Error> {
    until(&format!("migration status {wanted}"), STEP_TIMEOUT, || {
        let status = migration_status(qemu)?;
        Ok((status == wanted).then_some(()))
    })
}

fn set_capabilities(qemu: &mut Qmp, names: &[&str]) -> Result<(), Error> {
    let on = |name: &&str| json!({"capability": name, "state": true});
    let capabilities: Vec<_> = names.iter().map(on).collect();
    qemu.execute(
        "migrate-set-capabilities",
        json!({"capabilities": capabilities}),
    )
    .map(drop)
}
