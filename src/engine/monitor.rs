//! What a client of a domain's monitor may do to its guest: which commands go to QEMU, and which do not.
//!
//! Invariant: a command goes to QEMU only after its intent was recorded; while a job owns the guest nothing that
//! could make its other copy run too, end the last one, or take the migration out of the job's hands does (P2, P3).
//! Not here: which commands only read (`qmp`): those never get here.

use core::fmt;
use std::collections::VecDeque;

use journal_format::number::DomainId;
use journal_format::record::{
    Authority, EffectCommand, EffectFinished, EffectResult, MigrationStatus, Outcome, RecordBody,
    Role, RunState, WantedReason, WantedRunState,
};

use super::live::Pending;
use super::state::{Domain, Migration};
use super::turn::Turn;
use super::{JobTarget, Message, MonitorCommand, Refusal, Token};

/// Commands of one domain's clients that wait for the one that is being carried out.
const WAITING_MAX: usize = 64;

/// What a command is, as it matters to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    /// `cont`.
    Cont,
    /// `stop`.
    Stop,
    /// `quit`.
    Quit,
    /// `migrate_cancel`.
    MigrateCancel,
    /// It begins, changes or ends a migration or its stream.
    Migration,
    /// It may stop the guest and let it run again, or put an older state in its place.
    RunState,
    /// `human-monitor-command` with anything but a question: it can be all of the above.
    Human,
    /// It names the sidecar's claim.
    Claim,
    /// It changes what a guest has, never whether it runs.
    Other,
}

impl Verb {
    #[cfg(test)]
    pub(crate) const ALL: [Verb; 9] = [
        Verb::Cont,
        Verb::Stop,
        Verb::Quit,
        Verb::MigrateCancel,
        Verb::Migration,
        Verb::RunState,
        Verb::Human,
        Verb::Claim,
        Verb::Other,
    ];
}

/// The first words of human monitor commands that only ask.
const HUMAN_QUESTIONS: &[&str] = &["?", "help", "info"];

/// Human monitor commands that are QMP's too (QEMU, `hmp-commands.hx`), where what they do must be known.
const HUMAN_COMMANDS: &[(&str, &str)] = &[
    ("c", "cont"),
    ("cont", "cont"),
    ("migrate", "migrate"),
    ("migrate_cancel", "migrate_cancel"),
    ("migrate_continue", "migrate-continue"),
    ("migrate_incoming", "migrate-incoming"),
    ("migrate_pause", "migrate-pause"),
    ("migrate_recover", "migrate-recover"),
    ("migrate_set_capability", "migrate-set-capabilities"),
    ("migrate_set_parameter", "migrate-set-parameters"),
    ("migrate_start_postcopy", "migrate-start-postcopy"),
    ("q", "quit"),
    ("quit", "quit"),
    ("s", "stop"),
    ("stop", "stop"),
];

/// The command of QMP's that a human one stands for.
fn plain_command(command: &MonitorCommand) -> Option<&'static str> {
    let word = command.human.as_deref()?;
    let found = HUMAN_COMMANDS.iter().find(|(human, _)| *human == word);
    found.map(|(_, plain)| *plain)
}

pub(crate) fn verb(command: &MonitorCommand) -> Verb {
    if command.names_claim {
        return Verb::Claim;
    }
    match (verb_of(&command.execute), command.human.as_deref()) {
        (Verb::Human, Some(word)) if HUMAN_QUESTIONS.contains(&word) => Verb::Other,
        (verb, _) => verb,
    }
}

/// The same by its name alone.
fn verb_of(execute: &str) -> Verb {
    match execute {
        "cont" => Verb::Cont,
        "stop" => Verb::Stop,
        "quit" => Verb::Quit,
        "migrate_cancel" => Verb::MigrateCancel,
        "migrate"
        | "migrate-continue"
        | "migrate-incoming"
        | "migrate-pause"
        | "migrate-recover"
        | "migrate-set-capabilities"
        | "migrate-set-parameters"
        | "migrate-start-postcopy"
        | "x-colo-lost-heartbeat"
        | "xen-colo-do-checkpoint"
        | "xen-load-devices-state"
        | "xen-save-devices-state"
        | "xen-set-replication"
        | "yank" => Verb::Migration,
        "blockdev-set-active"
        | "dump-guest-memory"
        | "snapshot-delete"
        | "snapshot-load"
        | "snapshot-save"
        | "system_wakeup"
        | "x-exit-preconfig" => Verb::RunState,
        "human-monitor-command" => Verb::Human,
        _ => Verb::Other,
    }
}

/// How a domain stands, as it matters to such a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    /// No job is open.
    Free,
    /// No job is open, and this life of the sidecar has not looked at QEMU yet.
    Unseen,
    /// No job is open, and QEMU has sent the guest: it may run elsewhere, for all that is on record.
    GaveAway,
    /// Records that may concern it are damaged.
    Damaged,
    /// A job is open that this life of the sidecar has not decided about yet.
    Recovering,
    /// A job that is no migration is open: what it means to do to the run state is its manager's, by `phase-enter`.
    OtherJob,
    /// A migration is open.
    Busy {
        /// This side.
        role: Role,
        /// Only the manager's word is missing.
        awaits_verdict: bool,
    },
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Admission {
    /// It goes to QEMU as it is.
    Pass,
    /// It is the owner's word on the run state, and the job carries it out.
    Wish(WantedRunState),
    /// It is the manager's verdict, and the job carries it out.
    Verdict(Outcome),
    /// It asks the job to give up.
    Cancel,
    /// It is refused.
    Refuse(Why),
}

/// Why a command does not go to QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The job is being recovered.
    Recovering,
    /// The job owns what it would change.
    Owned,
    /// It was not looked at yet.
    Unseen,
    /// The guest was given away.
    GaveAway,
    /// Records that may concern the domain are damaged.
    Damaged,
    /// The claim is the sidecar's own.
    Claim,
    /// The guest is not here yet.
    NotWhole,
    /// It stands for this command of QMP's.
    Human(&'static str),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Human(plain) => {
                return write!(f, "send QMP's own '{plain}', whose meaning is recorded");
            }
            Why::Recovering => {
                "the sidecar was restarted in a job and has not decided yet; try again"
            }
            Why::Unseen => "the sidecar has not looked at this QEMU yet; try again",
            Why::Owned => "an open job owns the guest; see query-jobs, job-cancel and resolve",
            Why::GaveAway => {
                "its QEMU has sent the guest, and nothing on record says that it is here all the same: it may run elsewhere"
            }
            Why::NotWhole => {
                "the guest is not here yet: QEMU would only keep in mind to run it by itself when it is"
            }
            Why::Damaged => {
                "records of the journal that may concern the domain are damaged; see resolve"
            }
            Why::Claim => "the sidecar's claim on this QEMU, and what it copies disks with, is not to be changed",
        })
    }
}

/// The table.
pub(crate) fn admission(verb: Verb, standing: Standing) -> Admission {
    use Admission::{Cancel, Pass, Refuse, Verdict, Wish};
    match (verb, standing) {
        (Verb::Claim, _) => Refuse(Why::Claim),
        (_, Standing::Free) => Pass,
        (_, Standing::Recovering) => Refuse(Why::Recovering),
        (
            Verb::Other,
            Standing::Unseen
            | Standing::GaveAway
            | Standing::Damaged
            | Standing::OtherJob
            | Standing::Busy { .. },
        ) => Pass,
        (Verb::Stop | Verb::Quit, Standing::Unseen | Standing::GaveAway) => Pass,
        (
            Verb::Cont | Verb::MigrateCancel | Verb::Migration | Verb::RunState | Verb::Human,
            Standing::Unseen,
        ) => Refuse(Why::Unseen),
        (
            Verb::Cont | Verb::MigrateCancel | Verb::Migration | Verb::RunState | Verb::Human,
            Standing::GaveAway,
        ) => Refuse(Why::GaveAway),
        (Verb::Stop, Standing::Damaged) => Pass,
        (
            Verb::Cont
            | Verb::Quit
            | Verb::MigrateCancel
            | Verb::Migration
            | Verb::RunState
            | Verb::Human,
            Standing::Damaged,
        ) => Refuse(Why::Damaged),
        (
            Verb::Cont,
            Standing::Busy {
                role,
                awaits_verdict: true,
            },
        ) => Verdict(match role {
            Role::Source => Outcome::Aborted,
            Role::Destination => Outcome::Committed,
        }),
        (
            Verb::Quit,
            Standing::Busy {
                role,
                awaits_verdict: true,
            },
        ) => Verdict(match role {
            Role::Source => Outcome::Committed,
            Role::Destination => Outcome::Aborted,
        }),
        (
            Verb::Cont,
            Standing::Busy {
                role: Role::Source,
                awaits_verdict: false,
            },
        ) => Wish(WantedRunState::Running),
        (
            Verb::Stop,
            Standing::Busy {
                role: Role::Source, ..
            },
        ) => Wish(WantedRunState::Paused),
        (
            Verb::MigrateCancel,
            Standing::Busy {
                role: Role::Source, ..
            },
        ) => Cancel,
        (
            Verb::Cont
            | Verb::Stop
            | Verb::Quit
            | Verb::MigrateCancel
            | Verb::Migration
            | Verb::RunState
            | Verb::Human,
            Standing::OtherJob | Standing::Busy { .. },
        ) => Refuse(Why::Owned),
    }
}

impl Turn<'_> {
    /// A client's command that is an effect.
    pub(crate) fn monitor(
        &mut self,
        token: Token,
        id: DomainId,
        uid: u32,
        command: MonitorCommand,
    ) {
        self.monitor_seen(token, id, uid, command, false);
    }

    /// The same, perhaps after a look that was made for it.
    pub(crate) fn monitor_seen(
        &mut self,
        token: Token,
        id: DomainId,
        uid: u32,
        command: MonitorCommand,
        is_fresh: bool,
    ) {
        if self.domain(id).is_none() {
            let refusal = Refusal::NoSuchDomain(id.to_string());
            return self.reply(token, Err(refusal));
        }
        if let Some(plain) = plain_command(&command) {
            return self.refuse_monitor(token, id, command, Why::Human(plain));
        }
        if self.monitor_recognised(token, id, uid, &command, is_fresh) {
            return;
        }
        let Some(domain) = self.domain(id) else {
            return;
        };
        let name = domain.state.name.clone();
        let migration = domain.migration.and_then(|id| self.migration(id));
        let job = migration.map(|migration| migration.state.job);
        let standing = self.standing(id, domain, migration);
        let verb = verb(&command);
        match admission(verb, standing) {
            Admission::Refuse(Why::Unseen) if !is_fresh => {
                // One that begins a migration has it looked at by itself.
                if !self.begin_recognised(token, id, uid, &command, is_fresh) {
                    self.look_for_word(token, id, uid, command);
                }
            }
            Admission::Pass if standing == Standing::Free => {
                if !self.begin_recognised(token, id, uid, &command, is_fresh) {
                    self.pass(token, id, uid, verb, command);
                }
            }
            Admission::Pass => self.pass(token, id, uid, verb, command),
            Admission::Wish(wanted) => {
                self.later(token, &name, "change its run state", move |token| {
                    Pending::SetWanted { token, wanted }
                });
            }
            Admission::Verdict(outcome) => {
                self.verdict(token, &JobTarget::Domain(name), outcome, uid);
            }
            Admission::Cancel => {
                let result = job
                    .ok_or(Refusal::NoOpenJob(name))
                    .and_then(|job| self.job_cancel(job));
                self.reply(token, result);
            }
            Admission::Refuse(why) => self.refuse_monitor(token, id, command, why),
        }
    }

    fn refuse_monitor(&mut self, token: Token, id: DomainId, command: MonitorCommand, why: Why) {
        let name = self.domain(id).map(|domain| domain.state.name.clone());
        let refusal = Refusal::Monitor {
            name: name.unwrap_or_default(),
            command: command.execute,
            why,
        };
        self.reply(token, Err(refusal));
    }

    fn standing(&self, id: DomainId, domain: &Domain, migration: Option<&Migration>) -> Standing {
        let mut jobs = self.engine.state.jobs_of(id).peekable();
        let has_job = jobs.peek().is_some();
        if jobs.any(|job| !self.is_settled_job(job.state.job)) {
            return Standing::Recovering;
        }
        let Some(migration) = migration else {
            return match (domain.state.damaged, has_job) {
                (true, _) => Standing::Damaged,
                (false, true) => Standing::OtherJob,
                (false, false) if !self.is_seen(id) => Standing::Unseen,
                (false, false) if self.gave_away(id) => Standing::GaveAway,
                (false, false) => Standing::Free,
            };
        };
        let state = &migration.state;
        let live = self.engine.live.get(&state.terms.migration);
        if live.is_none_or(|live| live.recovering && !live.decided) {
            return Standing::Recovering;
        }
        if domain.state.damaged {
            return Standing::Damaged;
        }
        let role = state.terms.role;
        let may_be_asked = match role {
            Role::Source => state.granted.is_some(),
            Role::Destination => live.is_some_and(|live| live.cookie.is_some()),
        };
        Standing::Busy {
            role,
            awaits_verdict: state.terms.authority == Authority::Manager && may_be_asked,
        }
    }

    /// Has this QEMU sent its guest, and this journal does not know that it is here all the same? One that is registered
    /// anew for the same guest has sent nothing, and shows none of that.
    pub(crate) fn gave_away(&self, id: DomainId) -> bool {
        let eyes = self.engine.eyes.get(&id);
        let has_sent = eyes
            .and_then(|eyes| eyes.observed.as_ref())
            .is_some_and(|observed| {
                observed.run_state == Some(RunState::Postmigrate)
                    && observed.migration == Some(MigrationStatus::Completed)
            });
        has_sent && !self.is_here(id)
    }

    fn is_seen(&self, id: DomainId) -> bool {
        let eyes = self.engine.eyes.get(&id);
        eyes.is_some_and(|eyes| eyes.observed.is_some())
    }

    /// Is it on record that what this QEMU sent last left the guest here?
    pub(crate) fn is_here(&self, id: DomainId) -> bool {
        self.domain(id)
            .and_then(|domain| domain.sent)
            .is_some_and(|sent| sent.is_here)
    }

    /// Records the intent and lets it go, or puts it behind the one that is being carried out.
    pub(crate) fn pass(
        &mut self,
        token: Token,
        id: DomainId,
        uid: u32,
        verb: Verb,
        command: MonitorCommand,
    ) {
        let in_flight = self
            .domain(id)
            .and_then(|domain| domain.owner_effect.as_ref())
            .map(|(intent, _)| *intent);
        if let Some(effect) = in_flight {
            if !command.is_out_of_band {
                return self.put_off(token, id, uid, command);
            }
            // It is for a QEMU in which the other one may be stuck; what became of that is not known.
            let result = EffectResult::Unknown {
                why: format!("{} went past it", command.execute),
            };
            if let Some(owner) = self.engine.owners.remove(&effect) {
                self.reply_to_owner(owner, id, &result);
            }
            let body = RecordBody::EffectFinished(EffectFinished { effect, result });
            self.append(Some(id), body);
        }
        let is_incoming = self
            .seen_now(id)
            .is_some_and(|seen| seen.run_state == Some(RunState::Inmigrate));
        match verb {
            // There is no guest yet whose owner could wish anything.
            Verb::Cont | Verb::Stop if is_incoming => {}
            Verb::Cont => self.want(id, WantedRunState::Running, WantedReason::Asked),
            Verb::Stop => self.want(id, WantedRunState::Paused, WantedReason::Asked),
            Verb::Quit
            | Verb::MigrateCancel
            | Verb::Migration
            | Verb::RunState
            | Verb::Human
            | Verb::Claim
            | Verb::Other => {}
        }
        let MonitorCommand {
            execute,
            arguments,
            redacted,
            ..
        } = command;
        let effect = EffectCommand::Monitor {
            execute,
            arguments,
            redacted,
        };
        if let Some(intent) = self.intend_for(id, None, effect) {
            self.send(Message::Admitted { token, intent });
        }
    }

    /// May the effect that the domain's QEMU carries out for its owner change what is seen of it? One that changes only what
    /// an idle guest has does not.
    pub(crate) fn needs_look(&self, id: DomainId) -> bool {
        let Some(domain) = self.domain(id) else {
            return false;
        };
        let is_other = match &domain.owner_effect {
            Some((_, EffectCommand::Monitor { execute, .. })) => verb_of(execute) == Verb::Other,
            Some(_) | None => false,
        };
        domain.migration.is_some() || !is_other
    }

    pub(crate) fn put_off(
        &mut self,
        token: Token,
        id: DomainId,
        uid: u32,
        command: MonitorCommand,
    ) {
        let waiting = self.engine.monitors.entry(id).or_default();
        if waiting.len() < WAITING_MAX {
            return waiting.push_back((token, uid, command));
        }
        let refusal = Refusal::TooMany {
            what: "commands that wait for this domain's QEMU",
            count_max: WAITING_MAX,
        };
        self.reply(token, Err(refusal));
    }

    /// The domain's QEMU is free for the next command: what was put off is looked at anew.
    pub(crate) fn next_of_monitor(&mut self, id: DomainId) {
        while self
            .domain(id)
            .is_some_and(|domain| domain.owner_effect.is_none())
            && !self.is_busy_recognised(id)
            && !self.engine.pending.contains_key(&id)
        {
            let waiting = self.engine.monitors.get_mut(&id);
            let Some((token, uid, command)) = waiting.and_then(VecDeque::pop_front) else {
                self.engine.monitors.remove(&id);
                return;
            };
            self.monitor(token, id, uid, command);
        }
    }

    /// The domain is gone, or is another QEMU now: nothing that was put off is for it.
    pub(crate) fn refuse_put_off(&mut self, id: DomainId) {
        self.tell_finders(id);
        for (token, _, _) in self.engine.monitors.remove(&id).into_iter().flatten() {
            let refusal = Refusal::NoSuchDomain(id.to_string());
            self.reply(token, Err(refusal));
        }
    }
}
