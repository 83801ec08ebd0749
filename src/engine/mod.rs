//! The pure core: inputs to records, effects and messages.
//!
//! Invariant: no I/O, no clock, no async, no logging; the same records and inputs give the same
//! steps, so that daemon, simulator, model checker and explainer share it. Everything durable is
//! the fold of the records (`state`); everything else is lost in a restart and learnt again
//! (`live`).
//! Not here: files (`journal`), when records become durable (`node`), QEMU and sockets (`sidecar`).

mod answer;
mod control;
mod decide;
mod destination;
mod disks;
mod domains;
mod gap;
mod histories;
mod interface;
mod job;
pub mod laws;
mod licence;
mod live;
mod manager;
mod monitor;
#[cfg(any(test, feature = "mutants"))]
pub mod mutant;
mod peer;
mod postcopy;
mod resolve;
mod rule;
mod settings;
mod source;
mod state;
mod store;
mod suppose;
mod table;
mod told;
mod turn;
mod unregistered;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use journal_format::number::{DomainId, Lsn, MigrationId};
use journal_format::record::{
    Draft, EffectFinished, EffectResult, Observed, Opening, Process, Record, RecordBody, Settings,
};

pub use decide::decide;
pub use disks::DISK_NAME_PREFIX;
pub use gap::{decide_over, disagreement};
pub use interface::*;
pub use job::{
    ManagerEffect, PHASE_EFFECTS_MAX, commands, decide_job, goes_beside, is_async, may_enter,
};
pub use monitor::Why;
pub use rule::{Rule, RuleText};
pub use settings::{DOWNTIME_LIMIT_MS_MAX, SettingsError};
pub use state::OPENINGS_MAX;
pub use store::IN_DOUBT_LIMIT_MS_DEFAULT;
pub use suppose::{can_say, suppose_answer, suppose_key, suppose_look, suppose_verdict};
pub use told::{OpenJob, Told};

use job::{Finder, JobEyes, JobLive, Sought};
use live::{Eyes, Live, Pending};
use state::State;
use turn::Turn;

/// Domains that one sidecar keeps at the most.
pub const DOMAINS_MAX: usize = 4096;

/// The engine: what is known, durably and for now.
#[derive(Clone, Debug)]
pub struct Engine {
    config: Config,
    state: State,
    next: Lsn,
    eyes: BTreeMap<DomainId, Eyes>,
    live: BTreeMap<MigrationId, Live>,
    pending: BTreeMap<DomainId, Pending>,
    /// What QEMU said that it is told, for a request that waits for it; absent if it said nothing.
    settings: BTreeMap<DomainId, Option<Settings>>,
    job_eyes: BTreeMap<DomainId, JobEyes>,
    job_live: BTreeMap<Lsn, JobLive>,
    owners: BTreeMap<Lsn, Token>,
    /// Commands of a domain's clients that wait for the one that is being carried out.
    monitors: BTreeMap<DomainId, VecDeque<(Token, u32, MonitorCommand)>>,
    /// Other sidecars that wait for a look at a domain to hear of its migration.
    finders: BTreeMap<DomainId, Vec<Finder>>,
    /// What the other sidecars were asked, or said, of a guest that is about to be sent.
    sought: BTreeMap<DomainId, Sought>,
    /// The number of the last such question.
    asked: u64,
    /// There are other sidecars to be asked.
    asks_others: bool,
    ready: bool,
    /// Records were damaged when the journal was read: what is not known may have been.
    lossy: bool,
    /// Why no job may begin: the journal has no room for what would follow.
    no_room: Option<String>,
}

impl Engine {
    /// The engine as a journal with this history left it; see [`Engine::resume`].
    #[must_use]
    pub fn open(config: Config, history: &[History]) -> Engine {
        let mut told = Told::default();
        history.iter().for_each(|entry| told.add(entry));
        Engine::resume(config, told)
    }

    /// The engine as the journal left it. Nothing may leave the process before
    /// [`Engine::checkpoint`] is durable.
    #[must_use]
    pub fn resume(config: Config, told: Told) -> Engine {
        let Told(mut state) = told;
        // Those that no whole checkpoint tells of.
        let last = state.openings.last().map(|opening| opening.epoch);
        let later = config.openings.iter().copied();
        let later = later.filter(|opening| last.is_none_or(|last| last < opening.epoch));
        state.openings.extend(later);
        Engine {
            next: config.next,
            lossy: state.lossy,
            config,
            state,
            eyes: BTreeMap::new(),
            live: BTreeMap::new(),
            pending: BTreeMap::new(),
            settings: BTreeMap::new(),
            job_eyes: BTreeMap::new(),
            job_live: BTreeMap::new(),
            owners: BTreeMap::new(),
            monitors: BTreeMap::new(),
            finders: BTreeMap::new(),
            sought: BTreeMap::new(),
            asked: 0,
            asks_others: false,
            ready: false,
            no_room: None,
        }
    }

    /// Whether the journal has room in reserve for all that a job may have to write; if not, why.
    /// Without it no domain is added and no job begins; those that are open go on.
    pub fn set_no_room(&mut self, why: Option<String>) {
        self.no_room = why;
    }

    /// There are other sidecars to ask for the other side of a migration that a client drives.
    pub fn ask_others(&mut self) {
        self.asks_others = true;
    }

    /// The record that says that all before it was acknowledged (F21), to be appended as the very
    /// next one.
    pub fn seal(&mut self) -> Draft {
        let draft = Draft {
            domain: None,
            body: RecordBody::Sealed,
        };
        self.apply(draft.clone());
        draft
    }

    /// The whole state as records, to be appended as the very next ones.
    pub fn checkpoint(&mut self) -> Vec<Draft> {
        let known = self.state.openings.iter().any(|opening| {
            opening.epoch == self.config.epoch && opening.opening == self.config.opening
        });
        let opening = Opening {
            epoch: self.config.epoch,
            opening: self.config.opening,
            first: self.next,
        };
        let drafts = self
            .state
            .checkpoint(self.next, (!known).then_some(opening));
        for draft in &drafts {
            self.apply(draft.clone());
        }
        drafts
    }

    /// The LSN that the next record gets.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Is a guest stopped right now because it is changing sides? Then the journal does nothing
    /// slow.
    #[must_use]
    pub fn in_blackout(&self) -> bool {
        self.live.values().any(|live| live.blackout)
    }

    /// The first step of this life: what was in flight is unknown, every domain is watched.
    pub fn start(&mut self, now: Now) -> Step {
        let mut turn = Turn::new(self, now);
        turn.start();
        turn.finish()
    }

    /// How many ended migrations are kept because the other side is not known to know the outcome.
    #[must_use]
    pub fn kept_migrations(&self) -> usize {
        let migrations = self.state.migrations.values();
        migrations.filter(|known| !known.state.open).count()
    }

    /// What follows from one input.
    pub fn step(&mut self, now: Now, input: Input) -> Step {
        let mut turn = Turn::new(self, now);
        match input {
            Input::Control { token, request } => turn.control(token, request),
            Input::Monitor {
                token,
                domain,
                uid,
                command,
            } => turn.monitor(token, domain, uid, command),
            Input::Peer {
                token,
                envelope,
                nonce,
                request,
            } => {
                turn.peer(token, envelope, nonce, request);
            }
            Input::Find {
                token,
                envelope,
                find,
            } => turn.find(token, envelope, find),
            Input::Found { number, answers } => turn.found(number, answers),
            Input::PeerAnswered { migration, result } => turn.peer_answered(migration, result),
            Input::StoreAnswered { migration, result } => turn.store_answered(migration, &result),
            Input::EffectFinished { effect, result } => turn.effect_finished(effect, result),
            Input::Looked { domain, observed } => {
                if let Some(observed) = turn.seen_of_now(domain, observed) {
                    turn.looked(domain, observed);
                }
            }
            Input::JobLooked { domain, seen } => turn.job_looked(domain, seen),
            Input::SettingsLooked { domain, seen } => turn.settings_looked(domain, seen),
            Input::Event { domain, event } => turn.event(domain, &event),
            Input::Tick => turn.tick(),
        }
        turn.finish()
    }

    /// Gives a draft its place and applies it.
    fn apply(&mut self, draft: Draft) -> Record {
        let lsn = self.next;
        self.next = lsn
            .next()
            .expect("a journal of 2^64 records cannot have been written");
        let record = Record {
            lsn,
            domain: draft.domain,
            previous: None,
            body: draft.body,
        };
        self.state.apply(&record);
        record
    }
}

impl Turn<'_> {
    /// A look, if it is of the QEMU that is registered: one of the process before may still be on its way when that was
    /// replaced, and its end, say, is not this one's. Who did not answer needs no name then.
    fn seen_of_now(&self, id: DomainId, mut observed: Observed) -> Option<Observed> {
        let registered = self.domain(id)?.state.instance;
        match observed.process {
            Process::OtherInstance => Some(observed),
            _ if observed.instance.is_some_and(|one| one != registered) => None,
            Process::Alive => Some(observed),
            Process::Dead | Process::Mute => {
                observed.instance = None;
                Some(observed)
            }
        }
    }

    fn start(&mut self) {
        let unfinished: Vec<(DomainId, Lsn)> = {
            let state = &self.engine.state;
            let of_jobs = state.migrations.values().filter_map(|migration| {
                Some((migration.domain, migration.state.in_flight.as_ref()?.0))
            });
            let of_owners = state
                .domains
                .iter()
                .filter_map(|(id, domain)| Some((*id, domain.owner_effect.as_ref()?.0)));
            let of_others = state
                .jobs
                .values()
                .filter_map(|job| Some((job.domain, job.state.in_flight.as_ref()?.0)));
            of_jobs.chain(of_owners).chain(of_others).collect()
        };
        for (domain, effect) in unfinished {
            let result = EffectResult::Unknown {
                why: "the sidecar was restarted".to_owned(),
            };
            let body = RecordBody::EffectFinished(EffectFinished { effect, result });
            self.append(Some(domain), body);
        }
        let migrations: Vec<(MigrationId, bool)> = self
            .engine
            .state
            .migrations
            .iter()
            .map(|(id, migration)| (*id, migration.state.open))
            .collect();
        for (id, open) in migrations {
            let live = Live {
                recovering: open,
                ..Live::default()
            };
            self.engine.live.insert(id, live);
        }
        let jobs: Vec<Lsn> = self.engine.state.jobs.keys().copied().collect();
        for job in jobs {
            self.engine.job_live.insert(job, JobLive::recovering());
        }
        let domains: Vec<DomainId> = self.engine.state.domains.keys().copied().collect();
        for id in domains {
            self.watch(id);
        }
        self.check_ready();
    }
}
