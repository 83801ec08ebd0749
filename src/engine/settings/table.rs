//! The table of what QEMU can be told: what the protocol needs itself, and what both sides must agree in.
//!
//! Sources: QEMU's qapi/migration.json and migration/ (7.2 to 10), and the parties in libvirt's
//! qemu_migration_params.c, which sets the same on the same sides.
//!
//! Invariant: what nobody here knows goes to both sides: a stream that only one of them understands fails, what is told
//! in vain does not.
//! Not here: whether QEMU knows a name (`check_known`).

use journal_format::record::{
    Capability, Parameter, ParameterValue, Role, Settings, needed_capabilities,
};

use super::SettingsError;

/// Only whoever sends looks at these capabilities.
const SOURCE_CAPABILITIES: &[&str] = &[
    "auto-converge",
    "block",
    "dirty-limit",
    "release-ram",
    "zero-blocks",
    "zero-copy-send",
];

/// And at these parameters.
const SOURCE_PARAMETERS: &[&str] = &[
    "avail-switchover-bandwidth",
    "block-incremental",
    "compress-wait-thread",
    "cpu-throttle-increment",
    "cpu-throttle-initial",
    "cpu-throttle-tailslow",
    "max-cpu-throttle",
    "max-postcopy-bandwidth",
    "throttle-trigger-threshold",
    "tls-hostname",
    "vcpu-dirty-limit",
    "x-vcpu-dirty-limit-period",
    "zero-page-detection",
];

/// These make something else of a migration: one that never ends, or keeps the guest's state in a file.
const OTHER_CAPABILITIES: &[&str] = &["background-snapshot", "mapped-ram", "x-colo"];

/// What the destination has to be told of what the source is told.
pub(crate) fn for_destination(settings: &Settings) -> Settings {
    let capabilities = settings.capabilities.iter();
    let parameters = settings.parameters.iter();
    Settings {
        capabilities: capabilities
            .filter(|one| !SOURCE_CAPABILITIES.contains(&one.name.as_str()))
            .cloned()
            .collect(),
        parameters: parameters
            .filter(|one| !SOURCE_PARAMETERS.contains(&one.name.as_str()))
            .cloned()
            .collect(),
    }
}

/// Does the protocol go with it?
///
/// # Errors
/// It contradicts what a side of the migration needs, or makes something else of it.
pub(super) fn check_capability(
    capability: &Capability,
    postcopy: bool,
) -> Result<(), SettingsError> {
    let name = capability.name.as_str();
    if OTHER_CAPABILITIES.contains(&name) && capability.state {
        let name = name.to_owned();
        return Err(SettingsError::NotAMigration { name });
    }
    for role in Role::ALL {
        let needed = needed_capabilities(*role, postcopy);
        let Some((_, state)) = needed.iter().find(|(own, _)| *own == name) else {
            continue;
        };
        if *state == capability.state {
            return Ok(());
        }
        return Err(match name {
            "postcopy-ram" => SettingsError::Postcopy,
            _ => SettingsError::Needed {
                name: name.to_owned(),
                state: *state,
            },
        });
    }
    Ok(())
}

/// The same of a parameter.
///
/// # Errors
/// As for a capability.
pub(super) fn check_parameter(parameter: &Parameter) -> Result<(), SettingsError> {
    // Other modes than this one restart QEMU, or run a command in its place.
    let is_mode = parameter.name == "mode";
    match is_mode && parameter.value != ParameterValue::Text("normal".to_owned()) {
        true => Err(SettingsError::NotAMigration {
            name: parameter.name.clone(),
        }),
        false => Ok(()),
    }
}
