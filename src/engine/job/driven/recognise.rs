//! Migrations that a client of a domain's monitor drives by plain commands: they are told from `migrate` and
//! `migrate-incoming`, or from a QEMU that was started to listen, and go on as a job that the manager drives itself, of which nobody says where it begins and ends.
//!
//! Invariant: a `cont` or `quit` that says whose the guest is comes after a fresh look, and is on record as that before QEMU
//! hears of it; where QEMU does not answer the look, nothing is known to be said, and it passes as its owner's. Nothing that an unmodified manager began is cancelled behind its back.
//! Not here: what else a client may do (`monitor`), what recovery decides (`decide`).

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{
    EffectCommand, EffectStanding, JobBegun, JobKind, JobPhase, JobPhaseEntered, JobResult,
    JobState, MigrationStatus, Observed, Process, RecordBody, Role, RunState, WantedReason,
    WantedRunState,
};
use serde_json::{Map, Value};

use super::super::JobLive;
use super::super::legal::may_enter;
use super::super::request::may_begin;
use super::request::{has_sent, passes_through};
use crate::engine::decide::{RunClass, StatusClass, run_class, status_class};
use crate::engine::live::Pending;
use crate::engine::monitor::{Verb, Why, verb};
use crate::engine::turn::Turn;
use crate::engine::{Message, MonitorCommand, Refusal, Token};

/// Streams that go to a file, or come from one.
const TO_A_FILE: &[&str] = &["exec:", "file:"];

/// The side of a migration that this command begins; what goes to a file is a save.
fn begins(command: &MonitorCommand) -> Option<JobKind> {
    let kind = match command.execute.as_str() {
        "migrate" => JobKind::MigrationOut,
        "migrate-incoming" => JobKind::MigrationIn,
        _ => return None,
    };
    let arguments: Map<String, Value> = serde_json::from_str(&command.arguments).ok()?;
    let resumes = arguments.get("resume") == Some(&Value::Bool(true));
    (!is_to_a_file(&arguments) && !resumes).then_some(kind)
}

/// Does `migrate` with these arguments, a JSON object, stream to a file?
pub(in crate::engine) fn goes_to_a_file(arguments: &str) -> bool {
    serde_json::from_str(arguments).is_ok_and(|arguments| is_to_a_file(&arguments))
}

fn is_to_a_file(arguments: &Map<String, Value>) -> bool {
    let uri = arguments.get("uri").and_then(Value::as_str);
    uri.is_some_and(|uri| TO_A_FILE.iter().any(|scheme| uri.starts_with(scheme)))
        || channels_to_a_file(arguments)
}

fn channels_to_a_file(arguments: &Map<String, Value>) -> bool {
    let channels = arguments.get("channels").and_then(Value::as_array);
    let transport = |one: &Value| {
        one.get("addr")?
            .get("transport")?
            .as_str()
            .map(str::to_owned)
    };
    channels
        .into_iter()
        .flatten()
        .filter_map(transport)
        .any(|transport| matches!(transport.as_str(), "exec" | "file"))
}

/// Will QEMU take the command that begins it? It sends a guest that stands still for whatever reason.
fn takes(kind: JobKind, observed: &Observed) -> bool {
    let is_at_rest = matches!(
        status_class(observed.migration.as_ref()),
        StatusClass::None | StatusClass::Ended | StatusClass::Completed
    );
    match (kind, run_class(observed.run_state.as_ref())) {
        (JobKind::MigrationOut, RunClass::Running | RunClass::Ran | RunClass::Paused) => is_at_rest,
        (_, _) => may_begin(kind, observed),
    }
}

/// What becomes of a client's command in such a migration.
enum Course {
    /// It goes to QEMU, and says nothing of whose the guest is.
    Plain,
    /// It goes to QEMU as the job's, in this phase.
    InPhase(JobPhase),
    /// It is the job's, wherever that stands.
    InJob,
    /// It is looked first.
    Look,
    Refuse(Why),
}

impl Turn<'_> {
    /// The open migration of a domain that was recognised.
    fn recognised(&self, id: DomainId) -> Option<Lsn> {
        let mut jobs = self.engine.state.jobs_of(id);
        jobs.find(|job| job.state.recognised)
            .map(|job| job.state.job)
    }

    /// Is an effect of a migration that was recognised under way?
    pub(crate) fn is_busy_recognised(&self, id: DomainId) -> bool {
        let mut jobs = self.engine.state.jobs_of(id);
        jobs.any(|job| job.state.recognised && job.state.in_flight.is_some())
    }

    /// A client's command where no job is open: the begin of a migration, perhaps. True if it was answered.
    pub(crate) fn begin_recognised(
        &mut self,
        token: Token,
        id: DomainId,
        uid: u32,
        command: &MonitorCommand,
        is_fresh: bool,
    ) -> bool {
        let Some(kind) = begins(command).filter(|_| !command.is_out_of_band) else {
            return false;
        };
        if !is_fresh {
            if kind == JobKind::MigrationOut {
                self.seek_other_side(id);
            }
            self.look_for_word(token, id, uid, command.clone());
            return true;
        }
        let sought = self.engine.sought.remove(&id);
        let stands = self.seen_now(id).is_some_and(|seen| takes(kind, &seen));
        // What QEMU will not do, or what cannot be kept in mind, begins nothing, and goes to QEMU as it always did. Room
        // is no question: the command is written down in any case.
        let fits = stands
            && command.arguments.len() <= journal_format::record::MONITOR_ARGUMENTS_SIZE_MAX
            && self.need_beside(id, kind).is_ok();
        let is_busy = self
            .domain(id)
            .is_none_or(|domain| domain.owner_effect.is_some());
        if !fits || is_busy {
            return false;
        }
        if let Some(seen) = self.seen_now(id) {
            self.learn_wanted(id, &seen);
        }
        let begun = JobBegun {
            kind,
            migration: None,
        };
        let job = self.append(Some(id), RecordBody::JobBegun(Box::new(begun)));
        let entered = JobPhaseEntered {
            job,
            phase: JobPhase::first(kind),
            time: self.wall,
            cookie: None,
            other_side: None,
            recognised: true,
            listens: false,
        };
        self.append(Some(id), RecordBody::JobPhaseEntered(entered));
        self.engine.job_live.insert(job, JobLive::default());
        if kind == JobKind::MigrationOut {
            self.enter_job(job, JobPhase::Perform3, None);
        }
        self.pass_in_job(token, id, job, command.clone());
        if kind == JobKind::MigrationOut {
            self.take_sought(job, sought);
        }
        true
    }

    /// A domain was registered whose QEMU was started to listen for a guest: a migration that comes in has begun.
    pub(crate) fn begin_listening(&mut self, id: DomainId, observed: &Observed) {
        let listens = observed.process == Process::Alive
            && observed.run_state == Some(RunState::Inmigrate)
            && observed.migration == Some(MigrationStatus::Setup);
        let is_damaged = self.domain(id).is_none_or(|one| one.state.damaged);
        if !listens || is_damaged {
            return;
        }
        let begun = JobBegun {
            kind: JobKind::MigrationIn,
            migration: None,
        };
        let job = self.append(Some(id), RecordBody::JobBegun(Box::new(begun)));
        let entered = JobPhaseEntered {
            job,
            phase: JobPhase::Prepare,
            time: self.wall,
            cookie: None,
            other_side: None,
            recognised: true,
            listens: true,
        };
        self.append(Some(id), RecordBody::JobPhaseEntered(entered));
        self.engine.job_live.insert(job, JobLive::default());
    }

    /// Destination: one that listens since it was registered, and that nobody has done anything in since, for a manager that
    /// begins such a job itself.
    pub(in crate::engine::job) fn untouched(&self, id: DomainId, kind: JobKind) -> Option<Lsn> {
        let mut jobs = self.engine.state.jobs_of(id);
        let found = jobs.find(|job| {
            let state = &job.state;
            kind == JobKind::MigrationIn
                && state.kind == kind
                && state.recognised
                && state.phase == JobPhase::Prepare
                // The last of its records is the one of its first phase.
                && job.fact.0 == state.job.0 + 1
        });
        found.map(|job| job.state.job)
    }

    /// A client's command in a migration that was recognised. True if it was answered, or waits.
    pub(crate) fn monitor_recognised(
        &mut self,
        token: Token,
        id: DomainId,
        uid: u32,
        command: &MonitorCommand,
        is_fresh: bool,
    ) -> bool {
        if let Some(job) = self.recognised(id).filter(|_| is_fresh) {
            // What the look shows comes first: the job may be over.
            self.advance_job(job);
        }
        let Some(job) = self.recognised(id) else {
            return false;
        };
        if !self.is_settled_job(job) || self.domain(id).is_some_and(|one| one.state.damaged) {
            return false;
        }
        let is_busy = self.is_busy_recognised(id)
            || self
                .domain(id)
                .is_some_and(|domain| domain.owner_effect.is_some());
        if is_busy && !command.is_out_of_band {
            self.put_off(token, id, uid, command.clone());
            return true;
        }
        if is_fresh && self.sends_on(job, id, command) {
            self.enter_job(job, JobPhase::Finish3, None);
            self.want(id, WantedRunState::Paused, WantedReason::Asked);
            self.end_job(
                job,
                JobResult::Completed,
                "its client sends the guest on from here",
            );
            return false;
        }
        match self.course(job, command, is_fresh) {
            Course::Plain => return self.pass_plain(token, id, uid, command),
            Course::InJob => self.pass_in_job(token, id, job, command.clone()),
            Course::InPhase(phase) => {
                self.pass_through(job, phase);
                self.enter_job(job, phase, None);
                self.pass_in_job(token, id, job, command.clone());
            }
            Course::Look => self.look_for_word(token, id, uid, command.clone()),
            Course::Refuse(why) => {
                let name = self.domain(id).map(|one| one.state.name.clone());
                let name = name.unwrap_or_default();
                let command = command.execute.clone();
                self.reply(token, Err(Refusal::Monitor { name, command, why }));
            }
        }
        true
    }

    /// Destination: is a whole copy, which stays paused, to go to a third host?
    fn sends_on(&self, job: Lsn, id: DomainId, command: &MonitorCommand) -> bool {
        let Some(observed) = self.seen_now(id) else {
            return false;
        };
        let is_one = self.job(job).is_some_and(|known| {
            let state = &known.state;
            state.kind == JobKind::MigrationIn
                && state.phase != JobPhase::Cancel
                && state.facts().end == EffectStanding::Never
        });
        is_one
            && begins(command) == Some(JobKind::MigrationOut)
            && run_class(observed.run_state.as_ref()) == RunClass::Paused
            && status_class(observed.migration.as_ref()) == StatusClass::Completed
    }

    fn course(&self, job: Lsn, command: &MonitorCommand, is_fresh: bool) -> Course {
        let Some(known) = self.job(job) else {
            return Course::Plain;
        };
        let state = &known.state;
        let role = super::role(state.kind).unwrap_or(Role::Source);
        match (verb(command), role) {
            (Verb::Claim, _) => Course::Refuse(Why::Claim),
            // QEMU carries none of those out that say anything here.
            (_, _) if command.is_out_of_band => Course::Plain,
            (Verb::RunState | Verb::Human, _) => Course::Refuse(Why::Owned),
            (Verb::Migration, _) if begins(command).is_some() => match state.phase {
                JobPhase::Begin3 | JobPhase::Perform3 | JobPhase::Prepare
                    if begins(command) == Some(state.kind) =>
                {
                    Course::InJob
                }
                // The one before is over, or has to be ended first.
                _ if !is_fresh => Course::Look,
                _ => Course::Refuse(Why::Owned),
            },
            (Verb::Other | Verb::Migration | Verb::MigrateCancel | Verb::Stop, _) => Course::Plain,
            (Verb::Cont | Verb::Quit, _) if !is_fresh => Course::Look,
            (Verb::Cont, Role::Source) => self.word_at_source(known.domain, state, false),
            (Verb::Quit, Role::Source) => self.word_at_source(known.domain, state, true),
            (Verb::Cont, Role::Destination) => self.word_at_destination(known.domain, state, false),
            (Verb::Quit, Role::Destination) => self.word_at_destination(known.domain, state, true),
        }
    }

    fn word_at_source(&self, id: DomainId, state: &JobState, ends: bool) -> Course {
        let Some(observed) = self.seen_now(id) else {
            return Course::Refuse(Why::Recovering);
        };
        let is_split = matches!(
            status_class(observed.migration.as_ref()),
            StatusClass::Postcopy | StatusClass::PostcopyBroken
        );
        if is_split && !ends {
            return Course::Refuse(Why::Owned);
        }
        // Before it says completed the guest is here, and its owner's.
        if !has_sent(state.facts(), &observed) {
            return Course::Plain;
        }
        let phase = match ends {
            true => JobPhase::Confirm3,
            false => JobPhase::Confirm3Cancelled,
        };
        let may = may_enter(state.kind, state.phase, phase) || passes_through(state.phase, phase);
        match may {
            true => Course::InPhase(phase),
            // Its `cont` did not happen, as the look shows: it may have the other mind.
            false if ends && state.phase == JobPhase::Confirm3Cancelled => Course::InJob,
            false => Course::Refuse(Why::Owned),
        }
    }

    fn word_at_destination(&self, id: DomainId, state: &JobState, ends: bool) -> Course {
        let Some(observed) = self.seen_now(id) else {
            return Course::Refuse(Why::Recovering);
        };
        let run = run_class(observed.run_state.as_ref());
        let facts = state.facts();
        let is_whole = run == RunClass::Paused
            && matches!(
                status_class(observed.migration.as_ref()),
                StatusClass::Completed | StatusClass::Postcopy | StatusClass::PostcopyBroken
            );
        if state.phase == JobPhase::Cancel {
            return match ends {
                true => Course::InJob,
                false => Course::Refuse(Why::Owned),
            };
        }
        let may_have_run =
            facts.main != EffectStanding::Never || matches!(run, RunClass::Running | RunClass::Ran);
        match ends {
            true if may_have_run => Course::Plain,
            true if is_whole => Course::InPhase(JobPhase::Finish3),
            // There is no guest yet that it could give up.
            true => Course::InJob,
            // While it is loaded QEMU would only keep in mind to run it by itself.
            false if is_whole && facts.end == EffectStanding::Never => {
                Course::InPhase(JobPhase::Finish3)
            }
            false if run == RunClass::Running => Course::Plain,
            false => Course::Refuse(Why::NotWhole),
        }
    }

    /// As where no job is open, but that a stop before the guest is here is no wish of its owner's.
    fn pass_plain(
        &mut self,
        token: Token,
        id: DomainId,
        uid: u32,
        command: &MonitorCommand,
    ) -> bool {
        let runs_here = self.seen_now(id).is_some_and(|seen| {
            matches!(
                run_class(seen.run_state.as_ref()),
                RunClass::Running | RunClass::Paused
            )
        });
        let verb = match verb(command) {
            Verb::Stop | Verb::Cont if !runs_here || command.is_out_of_band => Verb::Other,
            verb => verb,
        };
        self.pass(token, id, uid, verb, command.clone());
        true
    }

    /// The command is an effect of the job.
    fn pass_in_job(&mut self, token: Token, id: DomainId, job: Lsn, command: MonitorCommand) {
        let MonitorCommand {
            execute,
            arguments,
            redacted,
            ..
        } = command;
        if execute == "cont" {
            self.want(id, WantedRunState::Running, WantedReason::Asked);
        }
        let effect = EffectCommand::Monitor {
            execute,
            arguments,
            redacted,
        };
        if let Some(intent) = self.intend_for(id, Some(job), effect) {
            self.send(Message::Admitted { token, intent });
        }
    }

    /// Whose the guest is is not said on an old look.
    pub(crate) fn look_for_word(
        &mut self,
        token: Token,
        id: DomainId,
        uid: u32,
        command: MonitorCommand,
    ) {
        if self.engine.pending.contains_key(&id) {
            return self.put_off(token, id, uid, command);
        }
        let name = self.domain(id).map(|one| one.state.name.clone());
        let name = name.unwrap_or_default();
        self.later(token, &name, "be told that", |token| Pending::Word {
            token,
            uid,
            command,
        });
    }
}
