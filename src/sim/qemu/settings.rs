//! What a QEMU is told about migrations.
//!
//! Invariant: a setting that somebody may depend on is one of the QEMU's own: telling it changes what it does.
//! Not here: who tells it what (the engine).

use journal_format::record::{
    Capability, EffectResult, MigrationStatus, Parameter, ParameterValue, Settings,
};
use serde_json::Value;

use super::super::QemuNumber;
use super::commands::refused;
use super::{DOWNTIME_LIMIT_MS, Lab, Qemu};

const POSTCOPY_RAM: &str = "postcopy-ram";
const RETURN_PATH: &str = "return-path";
const LATE_BLOCK_ACTIVATE: &str = "late-block-activate";
const DOWNTIME_LIMIT: &str = "downtime-limit";

impl Qemu {
    /// `query-migrate-capabilities` and `query-migrate-parameters`.
    pub(in crate::sim) fn settings(&self) -> Settings {
        let capability = |(name, state): (&str, bool)| Capability {
            name: name.to_owned(),
            state,
        };
        Settings {
            capabilities: [
                (LATE_BLOCK_ACTIVATE, self.late_activate),
                (POSTCOPY_RAM, self.may_split),
                (RETURN_PATH, self.return_path),
            ]
            .map(capability)
            .into(),
            parameters: vec![Parameter {
                name: DOWNTIME_LIMIT.to_owned(),
                value: ParameterValue::Number(self.downtime_limit),
            }],
        }
    }

    /// Is it told what it was told when it began?
    pub(in crate::sim) fn is_told_as_before(&self) -> bool {
        let is_off = !self.late_activate && !self.may_split && !self.return_path;
        is_off && self.downtime_limit == DOWNTIME_LIMIT_MS
    }
}

impl Lab {
    /// `migrate-set-capabilities` or `migrate-set-parameters`.
    pub(super) fn set(
        &mut self,
        number: QemuNumber,
        execute: &str,
        arguments: &Value,
    ) -> EffectResult {
        let is_over = matches!(
            self.qemus[number].status,
            MigrationStatus::None
                | MigrationStatus::Completed
                | MigrationStatus::Failed
                | MigrationStatus::Cancelled
        );
        let is_sending = !is_over && self.qemus[number].is_sender();
        let qemu = &mut self.qemus[number];
        match execute {
            "migrate-set-capabilities" if is_sending => {
                return refused("There's a migration process in progress");
            }
            "migrate-set-capabilities" => {
                for one in arguments["capabilities"].as_array().into_iter().flatten() {
                    let state = one["state"] == true;
                    match one["capability"].as_str() {
                        Some(POSTCOPY_RAM) => qemu.may_split = state,
                        Some(RETURN_PATH) => qemu.return_path = state,
                        Some(LATE_BLOCK_ACTIVATE) => qemu.late_activate = state,
                        _ => return refused("Parameter 'capability' does not accept value"),
                    }
                }
            }
            "migrate-set-parameters" => {
                let Some(limit) = arguments[DOWNTIME_LIMIT].as_u64() else {
                    return refused("Parameter is unexpected");
                };
                qemu.downtime_limit = limit;
                self.converge_if_near(number);
            }
            _ => return refused("no job sends this"),
        }
        EffectResult::Done
    }
}
