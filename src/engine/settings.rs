//! What a migration is told beside its terms: capabilities and parameters of QEMU's, when it goes over into post-copy
//! by itself, a deadline. And what QEMU was told before, which is put back when the job is over.
//!
//! Invariant: nothing is changed in QEMU before what was there is on record; what the protocol itself needs is not
//! contradicted. Putting back never decides anything: what QEMU refuses, or leaves without an answer, does not keep a
//! job from its end.
//! Not here: how what is told reaches QEMU (`qmp`), how it is read (`sidecar`).

use core::fmt;
use std::collections::VecDeque;

use journal_format::number::{DomainId, Lsn, MigrationId};
use journal_format::record::{
    Capability, EffectCommand, EffectResult, JobResult, MigrationSettings, MigrationTerms,
    Parameter, ParameterValue, PostcopyAfter, Process, RecordBody, Role, SETTINGS_MAX,
    SETTINGS_SIZE_MAX, Settings, SettingsKept, needed_capabilities,
};
use serde_json::{Map, Value, json};

use super::live::Pending;
use super::source::describe;
use super::state::Migration;
use super::turn::{Turn, short};
use super::{Message, MigrateOptions, Refusal};

mod table;

pub(crate) use table::for_destination;

/// How long a guest may stand still at the most, in milliseconds: QEMU takes no more (`MAX_MIGRATE_DOWNTIME` in its
/// migration/options.c).
pub const DOWNTIME_LIMIT_MS_MAX: u64 = 2_000_000;
/// So many attempts to put settings back that did not succeed, in one life of the process, and they stay.
const PUT_BACK_ATTEMPTS_MAX: u32 = 3;
/// The parameters that the protocol sets itself, on its own terms.
const MAX_BANDWIDTH: &str = "max-bandwidth";
const DOWNTIME_LIMIT: &str = "downtime-limit";
const SET_CAPABILITIES: &str = "migrate-set-capabilities";
const SET_PARAMETERS: &str = "migrate-set-parameters";

/// Why a migration is not told something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// More than [`SETTINGS_MAX`].
    TooMany {
        /// Capabilities or parameters.
        what: &'static str,
    },
    /// Names and texts are longer than [`SETTINGS_SIZE_MAX`] together.
    TooLong,
    /// A name or text that is empty where it must not be, or has control characters.
    NotVisible,
    /// A name that stands twice.
    Twice {
        /// It.
        name: String,
    },
    /// A capability that the protocol needs otherwise.
    Needed {
        /// It.
        name: String,
        /// What it needs.
        state: bool,
    },
    /// Post-copy is asked for by another argument.
    Postcopy,
    /// A capability or parameter that makes something else of the migration.
    NotAMigration {
        /// It.
        name: String,
    },
    /// A parameter that is also given by an argument of its own, and otherwise.
    Otherwise {
        /// It.
        name: &'static str,
    },
    /// A parameter of another type.
    WrongType {
        /// It.
        name: String,
        /// What QEMU has.
        expected: &'static str,
        /// What was given.
        found: &'static str,
    },
    /// A downtime limit above [`DOWNTIME_LIMIT_MS_MAX`].
    Downtime,
    /// QEMU does not list it.
    Unknown {
        /// Capability or parameter.
        what: &'static str,
        /// It.
        name: String,
    },
    /// QEMU did not say what there is.
    Unread,
    /// What would have to be put back is too long for a record.
    TooLongToKeep,
    /// A deadline, or a time or number of passes before post-copy, of nothing.
    Zero {
        /// Which.
        what: &'static str,
    },
    /// When post-copy begins, of a migration that has none.
    NoPostcopy,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingsError::TooMany { what } => {
                write!(f, "more than {SETTINGS_MAX} {what} are told to no migration")
            }
            SettingsError::TooLong => write!(
                f,
                "names and texts of capabilities and parameters are longer than {SETTINGS_SIZE_MAX} bytes together"
            ),
            SettingsError::NotVisible => f.write_str(
                "names of capabilities and parameters must not be empty, nor they or their values have control characters",
            ),
            SettingsError::Twice { name } => write!(f, "'{name}' is told twice"),
            SettingsError::Needed { name, state } => write!(
                f,
                "capability '{name}' must be {state}: the protocol does not go without that"
            ),
            SettingsError::Postcopy => f.write_str(
                "capability 'postcopy-ram' goes with the argument 'postcopy', and only with it",
            ),
            SettingsError::NotAMigration { name } => write!(
                f,
                "'{name}' makes something else of the migration, which this protocol does not protect"
            ),
            SettingsError::Otherwise { name } => write!(
                f,
                "parameter '{name}' is not the argument '{name}', which is given too"
            ),
            SettingsError::WrongType {
                name,
                expected,
                found,
            } => write!(f, "parameter '{name}' must be {expected}, not {found}"),
            SettingsError::Downtime => write!(
                f,
                "downtime-limit must be a whole number from 0 to {DOWNTIME_LIMIT_MS_MAX} ms"
            ),
            SettingsError::Unknown { what, name } => {
                write!(f, "its QEMU knows no migration {what} '{name}'")
            }
            SettingsError::Unread => {
                f.write_str("its QEMU did not say its migration capabilities and parameters")
            }
            SettingsError::TooLongToKeep => write!(
                f,
                "its QEMU's own values are longer than {SETTINGS_SIZE_MAX} bytes together, and could not be put back"
            ),
            SettingsError::Zero { what } => write!(f, "{what} must be 1 or more"),
            SettingsError::NoPostcopy => {
                f.write_str("postcopy-after goes with post-copy, and that was declined")
            }
        }
    }
}

impl core::error::Error for SettingsError {}

/// Checks what can be checked without QEMU; also of what another sidecar sends.
///
/// # Errors
/// See [`SettingsError`].
pub(crate) fn check(settings: &Settings, postcopy: bool) -> Result<(), SettingsError> {
    let Settings {
        capabilities,
        parameters,
    } = settings;
    for (what, count) in [
        ("capabilities", capabilities.len()),
        ("parameters", parameters.len()),
    ] {
        if count > SETTINGS_MAX {
            return Err(SettingsError::TooMany { what });
        }
    }
    if settings.size() > SETTINGS_SIZE_MAX {
        return Err(SettingsError::TooLong);
    }
    let mut names: Vec<&str> = Vec::new();
    let all = capabilities.iter().map(|one| &one.name);
    for name in all.chain(parameters.iter().map(|one| &one.name)) {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(SettingsError::NotVisible);
        }
        if names.contains(&name.as_str()) {
            return Err(SettingsError::Twice { name: name.clone() });
        }
        names.push(name);
    }
    for capability in capabilities {
        table::check_capability(capability, postcopy)?;
    }
    for parameter in parameters {
        if let ParameterValue::Text(text) = &parameter.value
            && text.chars().any(char::is_control)
        {
            return Err(SettingsError::NotVisible);
        }
        table::check_parameter(parameter)?;
    }
    Ok(())
}

/// Takes the parameters that are terms of the migration out of those that are only passed on.
///
/// # Errors
/// One is given in both ways, and differently, or is no number that QEMU takes.
pub(crate) fn take_terms(
    settings: &mut Settings,
    max_bandwidth: &mut Option<u64>,
    downtime_limit: &mut Option<u64>,
) -> Result<(), SettingsError> {
    for (name, term) in [
        (MAX_BANDWIDTH, &mut *max_bandwidth),
        (DOWNTIME_LIMIT, &mut *downtime_limit),
    ] {
        let parameters = &mut settings.parameters;
        let Some(at) = parameters.iter().position(|one| one.name == name) else {
            continue;
        };
        match (parameters.remove(at).value, *term) {
            (ParameterValue::Number(value), None) => *term = Some(value),
            (ParameterValue::Number(value), Some(other)) if value == other => {}
            (ParameterValue::Number(_), Some(_)) => return Err(SettingsError::Otherwise { name }),
            (other, _) => {
                return Err(SettingsError::WrongType {
                    name: name.to_owned(),
                    expected: ParameterValue::Number(0).type_name(),
                    found: other.type_name(),
                });
            }
        }
    }
    match downtime_limit {
        Some(limit) if *limit > DOWNTIME_LIMIT_MS_MAX => Err(SettingsError::Downtime),
        _ => Ok(()),
    }
}

/// Checks the times; `postcopy`: whether the guest may go over before all of its memory did.
///
/// # Errors
/// One is 0, or says when what is not to be begins.
pub(crate) fn check_times(options: &MigrateOptions, postcopy: bool) -> Result<(), SettingsError> {
    if options.deadline == Some(0) {
        return Err(SettingsError::Zero { what: "deadline" });
    }
    match options.postcopy_after {
        None => Ok(()),
        Some(PostcopyAfter::Seconds(0) | PostcopyAfter::Passes(0)) => Err(SettingsError::Zero {
            what: "postcopy-after",
        }),
        Some(_) if !postcopy => Err(SettingsError::NoPostcopy),
        Some(_) => Ok(()),
    }
}

fn capability<'a>(settings: &'a Settings, name: &str) -> Option<&'a Capability> {
    settings.capabilities.iter().find(|one| one.name == name)
}

fn parameter<'a>(settings: &'a Settings, name: &str) -> Option<&'a Parameter> {
    settings.parameters.iter().find(|one| one.name == name)
}

/// Does QEMU know all of it?
///
/// # Errors
/// The first that it does not, or has of another type.
pub(crate) fn check_known(settings: &Settings, seen: &Settings) -> Result<(), SettingsError> {
    let unknown = |what, name: &String| SettingsError::Unknown {
        what,
        name: name.clone(),
    };
    for wanted in &settings.capabilities {
        capability(seen, &wanted.name).ok_or_else(|| unknown("capability", &wanted.name))?;
    }
    for wanted in &settings.parameters {
        let known =
            parameter(seen, &wanted.name).ok_or_else(|| unknown("parameter", &wanted.name))?;
        let (expected, found) = (known.value.type_name(), wanted.value.type_name());
        if expected != found {
            return Err(SettingsError::WrongType {
                name: wanted.name.clone(),
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// What the job is going to change, as it is now. What QEMU does not list, and what is already as it is to be, is not
/// changed.
pub(crate) fn to_keep(terms: &MigrationTerms, settings: &Settings, seen: &Settings) -> Settings {
    let own = needed_capabilities(terms.role, terms.postcopy);
    let will_be = |name: &str| {
        let told = capability(settings, name).map(|one| one.state);
        let own = own.iter().find(|(own, _)| *own == name);
        told.or(own.map(|(_, state)| *state))
    };
    let capabilities = seen.capabilities.iter();
    let changes = |one: &&Capability| will_be(&one.name).is_some_and(|state| state != one.state);
    // The downtime limit moves between two values.
    let is_term = |name: &str| {
        terms.role == Role::Source
            && (name == DOWNTIME_LIMIT || name == MAX_BANDWIDTH && terms.max_bandwidth.is_some())
    };
    let parameters = seen.parameters.iter();
    let is_told = |one: &&Parameter| {
        let told = parameter(settings, &one.name);
        told.is_some_and(|told| told.value != one.value) || is_term(&one.name)
    };
    Settings {
        capabilities: capabilities.filter(changes).cloned().collect(),
        parameters: parameters.filter(is_told).cloned().collect(),
    }
}

/// The commands that tell QEMU, capabilities first: some parameters go with a capability only.
pub(crate) fn commands(settings: &Settings) -> Vec<EffectCommand> {
    let command = |execute: &str, arguments: Value| EffectCommand::Monitor {
        execute: execute.to_owned(),
        arguments: arguments.to_string(),
        redacted: false,
    };
    let mut commands = Vec::new();
    if !settings.capabilities.is_empty() {
        let each = |one: &Capability| json!({"capability": one.name, "state": one.state});
        let all: Vec<Value> = settings.capabilities.iter().map(each).collect();
        commands.push(command(SET_CAPABILITIES, json!({"capabilities": all})));
    }
    if !settings.parameters.is_empty() {
        let each = |one: &Parameter| {
            let value = match &one.value {
                ParameterValue::Bool(value) => json!(value),
                ParameterValue::Number(value) => json!(value),
                ParameterValue::Text(value) => json!(value),
            };
            (one.name.clone(), value)
        };
        let all: Map<String, Value> = settings.parameters.iter().map(each).collect();
        commands.push(command(SET_PARAMETERS, Value::Object(all)));
    }
    commands
}

/// Does it change what QEMU is told about migrations?
pub(crate) fn changes_settings(command: &EffectCommand) -> bool {
    match command {
        EffectCommand::SetCapabilities { .. } | EffectCommand::SetParameters { .. } => true,
        EffectCommand::Monitor { execute, .. } => {
            execute == SET_CAPABILITIES || execute == SET_PARAMETERS
        }
        EffectCommand::Claim(_)
        | EffectCommand::Unclaim
        | EffectCommand::MigrateIncoming { .. }
        | EffectCommand::Migrate { .. }
        | EffectCommand::MigrateContinue
        | EffectCommand::MigrateCancel
        | EffectCommand::Cont
        | EffectCommand::Stop
        | EffectCommand::Kill
        | EffectCommand::StartPostcopy
        | EffectCommand::MigrateRecover { .. }
        | EffectCommand::MigrateResume { .. }
        | EffectCommand::MigratePause => false,
    }
}

/// Settings on their way back, in this life of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct PutBack {
    /// What is still to be sent, in this order; absent before it began.
    left: Option<VecDeque<EffectCommand>>,
    /// How many attempts did not succeed.
    failed: u32,
    /// What became of the last one of them.
    why: Option<String>,
    /// Given up.
    is_over: bool,
    /// How the job ends then.
    ending: Option<(JobResult, String)>,
}

impl Turn<'_> {
    // Reading.

    /// Asks what QEMU is told now, for the request that is put off until it was looked at.
    pub(crate) fn look_at_settings(&mut self, id: DomainId) {
        self.engine.settings.remove(&id);
        self.send(Message::LookAtSettings { domain: id });
    }

    /// Does a request need them, whatever was seen for another one?
    pub(crate) fn needs_settings(&self, id: DomainId) -> bool {
        match self.engine.pending.get(&id) {
            Some(Pending::Migrate { .. } | Pending::Prepare { .. }) => true,
            Some(
                Pending::JobBegin { .. }
                | Pending::JobPhase { .. }
                | Pending::Word { .. }
                | Pending::SetWanted { .. },
            )
            | None => false,
        }
    }

    /// Does a request wait for them?
    pub(crate) fn awaits_settings(&self, id: DomainId) -> bool {
        self.needs_settings(id) && !self.engine.settings.contains_key(&id)
    }

    pub(crate) fn settings_looked(&mut self, id: DomainId, seen: Option<Settings>) {
        if self.awaits_settings(id) {
            self.engine.settings.insert(id, seen);
            if self.eyes(id).fresh {
                self.begin_pending(id);
            }
        }
    }

    /// What QEMU was seen to be told, if it has all that it shall be told now.
    ///
    /// # Errors
    /// It did not say, or does not know it.
    pub(crate) fn take_settings_seen(
        &mut self,
        id: DomainId,
        settings: &Settings,
    ) -> Result<Settings, SettingsError> {
        let seen = self.engine.settings.remove(&id).flatten();
        let seen = seen.ok_or(SettingsError::Unread)?;
        check_known(settings, &seen)?;
        Ok(seen)
    }

    // Telling.

    /// Writes down what a migration that begins is told, and what there was before.
    ///
    /// # Errors
    /// What there was does not fit into a record. Nothing is written then.
    pub(crate) fn settings_to_keep(
        terms: &MigrationTerms,
        settings: &Settings,
        seen: &Settings,
    ) -> Result<Settings, SettingsError> {
        let kept = to_keep(terms, settings, seen);
        match kept.size() > SETTINGS_SIZE_MAX {
            true => Err(SettingsError::TooLongToKeep),
            false => Ok(kept),
        }
    }

    /// Right behind the begin of the job.
    pub(crate) fn tell_settings(
        &mut self,
        domain: DomainId,
        migration: MigrationId,
        job: Lsn,
        options: MigrateOptions,
        kept: Settings,
    ) {
        let MigrateOptions {
            settings,
            postcopy_after,
            deadline,
        } = options;
        let is_timed = deadline.is_some() || postcopy_after.is_some();
        if is_timed {
            self.live(migration).since = Some(self.now);
        }
        if is_timed || !settings.is_empty() {
            let told = MigrationSettings {
                job,
                time: self.wall,
                settings,
                postcopy_after,
                deadline,
            };
            self.append(Some(domain), RecordBody::MigrationSettings(told));
        }
        if !kept.is_empty() {
            let kept = SettingsKept {
                job,
                changed: false,
                settings: kept,
            };
            self.append(Some(domain), RecordBody::SettingsKept(kept));
        }
    }

    /// The effects that tell QEMU what this migration was told.
    pub(crate) fn plan_settings(&self, id: MigrationId) -> Vec<EffectCommand> {
        let told = self
            .migration(id)
            .and_then(|known| known.settings.told.as_ref());
        told.map(|told| commands(&told.settings))
            .unwrap_or_default()
    }

    // Times.

    /// Milliseconds since this migration began: by the clock that nobody sets, or by the wall's if that was in another
    /// life of the process.
    fn elapsed(&self, id: MigrationId) -> u64 {
        let since = self.engine.live.get(&id).and_then(|live| live.since);
        let told = self
            .migration(id)
            .and_then(|known| known.settings.told.as_ref());
        match (since, told) {
            (Some(since), _) => self.now.saturating_sub(since),
            (None, Some(told)) => self.wall.saturating_sub(told.time) / 1_000_000,
            (None, None) => 0,
        }
    }

    /// Source: is it time to go over into post-copy? Without a wish that is when QEMU has an estimate, after its first
    /// pass.
    pub(crate) fn is_postcopy_due(&mut self, id: MigrationId) -> bool {
        let after = self.migration(id).and_then(Migration::postcopy_after);
        match after {
            None => self.live(id).converging.is_some(),
            Some(PostcopyAfter::Seconds(seconds)) => {
                self.elapsed(id) >= seconds.saturating_mul(1000)
            }
            Some(PostcopyAfter::Passes(passes)) => self.live(id).passes >= passes,
        }
    }

    /// Source: a deadline that passed cancels the job, as long as that can be.
    pub(crate) fn keep_deadline(&mut self, id: MigrationId) {
        let Some(known) = self.migration(id) else {
            return;
        };
        let Some(deadline) = known.deadline() else {
            return;
        };
        let is_named = self.domain(known.domain).is_some();
        let is_over = !known.state.open || known.state.abandoned || !is_named;
        if is_over || self.elapsed(id) < deadline.saturating_mul(1000) {
            return;
        }
        if core::mem::replace(&mut self.live(id).is_overtime, true) {
            return;
        }
        let why = format!("its deadline of {deadline} s passed");
        // Past the point of no return nothing is done, and the job says so.
        drop(self.cancel_migration(id, &why));
    }

    /// What a job's settings have to say of it, for people.
    pub(crate) fn settings_detail(&self, id: MigrationId) -> Option<String> {
        let known = self.migration(id)?;
        let live = self.engine.live.get(&id)?;
        let is_late = live.is_overtime && !known.state.abandoned;
        let late = is_late.then_some(known.deadline()).flatten().map(|deadline| {
            format!("its deadline of {deadline} s passed after the point of no return, and nothing was done")
        });
        let put_back = live.put_back.is_over.then_some(&live.put_back.why);
        let left = put_back
            .and_then(Option::as_ref)
            .map(|why| format!("QEMU's migration settings were not put back: {why}"));
        let all: Vec<String> = [late, left].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    // Putting back.

    /// Ends a job whose QEMU lives on with the guest, when its settings are as they were.
    pub(crate) fn end_restored(&mut self, id: MigrationId, result: JobResult, detail: &str) {
        let is_open = self.put_back(id);
        let ending = self.live(id).put_back.ending.take();
        // What was to be said first holds.
        let (result, detail) = ending.unwrap_or_else(|| (result, detail.to_owned()));
        if is_open {
            self.live(id).put_back.ending = Some((result, detail));
        } else {
            self.end(id, result, &detail);
        }
    }

    /// Destination, after one effect of those: nothing about its guest has to be decided any more.
    pub(crate) fn go_on_ending(&mut self, id: MigrationId) {
        if let Some((result, detail)) = self.live(id).put_back.ending.clone() {
            self.end_restored(id, result, &detail);
        }
    }

    /// Is there something to put back, on its way or about to be?
    fn put_back(&mut self, id: MigrationId) -> bool {
        let Some(known) = self.migration(id) else {
            return false;
        };
        if known.state.in_flight.is_some() {
            return true;
        }
        let domain = known.domain;
        let Some(kept) = known.settings.kept.as_ref().filter(|kept| kept.changed) else {
            return false;
        };
        let commands = commands(&kept.settings);
        let is_damaged = self
            .domain(domain)
            .is_none_or(|domain| domain.state.damaged);
        let process = self
            .eyes(domain)
            .observed
            .as_ref()
            .map(|observed| observed.process);
        let live = self.live(id);
        if live.put_back.is_over || process == Some(Process::Dead) {
            return false;
        }
        let obstacle = match process {
            _ if is_damaged => Some("records that may concern it are damaged"),
            Some(Process::Alive) => None,
            Some(Process::Mute | Process::Dead | Process::OtherInstance) | None => {
                Some("QEMU does not answer")
            }
        };
        if let Some(why) = obstacle {
            live.put_back.why = Some(why.to_owned());
            live.put_back.is_over = true;
            return false;
        }
        let left = live.put_back.left.get_or_insert_with(|| commands.into());
        let Some(next) = left.front().cloned() else {
            return false;
        };
        if self.effect_due(id) {
            self.intend(id, next);
        }
        true
    }

    /// What became of a setting's way back. One that QEMU refuses may go when the others are back.
    pub(crate) fn put_back_finished(
        &mut self,
        id: MigrationId,
        command: &EffectCommand,
        result: &EffectResult,
    ) {
        let put_back = &mut self.live(id).put_back;
        let Some(left) = put_back.left.as_mut() else {
            return;
        };
        if left.front() != Some(command) {
            return;
        }
        match result {
            EffectResult::Done => drop(left.pop_front()),
            EffectResult::Refused { .. } => left.rotate_left(1),
            EffectResult::NotSent { .. } | EffectResult::Unknown { .. } => {}
        }
        if *result != EffectResult::Done {
            put_back.failed += 1;
            put_back.why = Some(short(&format!("{} {}", command.name(), describe(result))));
            put_back.is_over = put_back.failed >= PUT_BACK_ATTEMPTS_MAX;
        }
    }

    /// Why a migration is not told what it was to be told.
    pub(crate) fn settings_refused(name: &str, why: SettingsError) -> Refusal {
        let name = name.to_owned();
        Refusal::Settings { name, why }
    }
}
