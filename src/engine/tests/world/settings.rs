//! What a QEMU is told about migrations.

use journal_format::number::DomainId;
use journal_format::record::{
    Capability, MigrationStatus, Parameter, ParameterValue, Protocol, Role, RunState, Settings,
    needed_capabilities,
};
use serde_json::Value;

use super::{DOMAIN, Qemu, World};
use crate::engine::{Input, MigrateOptions, PeerRequest, PeerResponse, QemuEvent};

/// What a migration is told, and how that fares.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) options: MigrateOptions,
    pub(crate) downtime_limit: Option<u64>,
    /// Other than whether QEMU's stream goes on without it.
    pub(crate) postcopy: Option<bool>,
    /// No QEMU says what it is told.
    pub(crate) is_unread: bool,
    /// A definition changes on its way.
    pub(crate) spoils_definition: bool,
    /// Nobody says where copied disks are to be served.
    pub(crate) is_nbd_unasked: bool,
    /// What a destination says instead of where it serves them.
    pub(crate) serves: Option<fn() -> Option<String>>,
}

impl Default for Told {
    fn default() -> Told {
        Told {
            options: MigrateOptions::default(),
            downtime_limit: Some(300),
            postcopy: None,
            is_unread: false,
            spoils_definition: false,
            is_nbd_unasked: false,
            serves: None,
        }
    }
}

impl Told {
    pub(super) fn spoil(&self, request: &mut PeerRequest) {
        if let PeerRequest::Prepare {
            definition: Some(text),
            ..
        } = request
            && self.spoils_definition
        {
            text.push(' ');
        }
    }

    pub(super) fn spoil_answer(&self, response: &mut PeerResponse) {
        if let PeerResponse::Prepared { nbd, .. } = response
            && let Some(serves) = self.serves
        {
            *nbd = serves();
        }
    }
}

/// As a QEMU that was just started says.
pub(crate) fn fresh() -> Settings {
    let mut names = vec!["auto-converge", "multifd", "zero-copy-send"];
    for role in Role::ALL {
        let needed = needed_capabilities(*role, true);
        names.extend(needed.map(|(name, _)| name));
    }
    names.sort_unstable();
    names.dedup();
    let capability = |name: &str| Capability {
        name: name.to_owned(),
        state: false,
    };
    let parameters = [
        ("downtime-limit", ParameterValue::Number(300)),
        ("max-bandwidth", ParameterValue::Number(134_217_728)),
        ("multifd-channels", ParameterValue::Number(2)),
        ("tls-creds", ParameterValue::Text(String::new())),
    ];
    let parameter = |(name, value): (&str, ParameterValue)| Parameter {
        name: name.to_owned(),
        value,
    };
    Settings {
        capabilities: names.into_iter().map(capability).collect(),
        parameters: parameters.map(parameter).into(),
    }
}

impl Qemu {
    /// `migrate-set-capabilities`, of those that it lists: QEMU takes none while it sends a guest.
    pub(super) fn set_capabilities(&mut self, wanted: &[(&str, bool)]) -> Result<(), String> {
        let ends = [
            MigrationStatus::None,
            MigrationStatus::Completed,
            MigrationStatus::Failed,
            MigrationStatus::Cancelled,
        ];
        if self.run != RunState::Inmigrate && !ends.contains(&self.status) {
            return Err("There's a migration process in progress".to_owned());
        }
        for (name, state) in wanted {
            let mut known = self.settings.capabilities.iter_mut();
            if let Some(one) = known.find(|one| one.name == *name) {
                one.state = *state;
            }
        }
        Ok(())
    }

    pub(crate) fn set_parameter(&mut self, name: &str, value: &ParameterValue) {
        let mut known = self.settings.parameters.iter_mut();
        if let Some(one) = known.find(|one| one.name == name) {
            one.value = value.clone();
        }
    }

    /// A command as it comes over the wire, which this QEMU takes only whole.
    pub(super) fn tell(&mut self, execute: &str, arguments: &str) -> Result<(), String> {
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        let unexpected = |name: &str| format!("Parameter '{name}' is unexpected");
        if execute == "migrate-set-capabilities" {
            let each = arguments["capabilities"].as_array().unwrap();
            let wanted = each.iter().map(|one| {
                let name = one["capability"].as_str().unwrap();
                (name, one["state"].as_bool().unwrap())
            });
            let wanted: Vec<(&str, bool)> = wanted.collect();
            let lists = |name: &str| {
                let mut known = self.settings.capabilities.iter();
                known.any(|one| one.name == name)
            };
            if let Some((name, _)) = wanted.iter().find(|(name, _)| !lists(name)) {
                return Err(unexpected(name));
            }
            return self.set_capabilities(&wanted);
        }
        for (name, value) in arguments.as_object().unwrap() {
            if !self.settings.parameters.iter().any(|one| one.name == *name) {
                return Err(unexpected(name));
            }
            let value = match value {
                Value::String(text) => ParameterValue::Text(text.clone()),
                other => ParameterValue::Number(other.as_u64().unwrap()),
            };
            if (name.as_str(), &value) == ("multifd-channels", &ParameterValue::Number(1000)) {
                return Err("Parameter 'multifd-channels' expects uint8_t".to_owned());
            }
            self.set_parameter(name, &value);
        }
        Ok(())
    }
}

impl World {
    /// One whose QEMUs say what they are told.
    pub(crate) fn with_settings() -> World {
        World::with_settings_of(Protocol::V3)
    }

    /// The same for migrations of this protocol.
    pub(crate) fn with_settings_of(protocol: Protocol) -> World {
        let mut world = World::of(protocol);
        for host in &mut world.hosts {
            host.qemu.settings = fresh();
        }
        world
    }

    pub(super) fn look_at_settings(&mut self, at: usize, domain: DomainId) {
        let qemu = &self.hosts[at].qemu;
        let says = qemu.alive && !self.told.is_unread;
        let seen = says.then(|| qemu.settings.clone());
        self.input(at, Input::SettingsLooked { domain, seen });
    }

    /// What `query-jobs` says of the open job of a host.
    pub(crate) fn job_detail(&mut self, at: usize) -> Option<String> {
        let engine = self.hosts[at].engine.as_ref()?;
        let known = engine.state.migrations.values().next()?;
        let (job, name) = (Some(known.state.job), None);
        self.control(at, crate::engine::ControlRequest::QueryJobs { job, name });
        self.run_for(50);
        self.replies
            .iter()
            .rev()
            .find_map(|(from, result)| match result {
                Ok(crate::engine::Answer::Jobs(jobs)) if *from == at => {
                    Some(jobs.first()?.detail.clone())
                }
                _ => None,
            })
    }

    /// So many passes were made, as the sidecar reads it.
    pub(crate) fn passes(&mut self, at: usize, count: u64) {
        let domain = DOMAIN;
        let event = QemuEvent::Passes { count };
        self.input(at, Input::Event { domain, event });
    }
}
