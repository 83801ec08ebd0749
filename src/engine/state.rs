//! What is known durably: the fold of the journal's records.
//!
//! Invariant: [`State::apply`] is the only way to change it, so that the state after a restart is
//! the state before it. It is total: a record that fits nothing (its domain's records are damaged)
//! changes nothing.
//! Not here: what is only seen or heard in this life of the process (`live`).

use std::collections::{BTreeMap, BTreeSet};

use journal_format::hash::IdMap;
use journal_format::number::{DomainId, Lsn, MigrationId, Position};
use journal_format::record::{
    Authority, CheckpointBegun, CheckpointEnded, ContIntent, DefinitionPart, DomainState, Draft,
    EffectCommand, EffectResult, EndedJob, Facts, GuestSent, JobKind, KeyChange, MigrationDisks,
    MigrationState, MigrationTerms, Opening, PeerAnswer, Phase, Process, Protocol, Record,
    RecordBody, Role, RunState, WantedRunState,
};

mod damage;
mod definition;
mod disks;
mod jobs;
mod sent;
mod settings;

use super::History;
use super::domains::Domains;
use super::histories::{Histories, history_of};
use super::table::Table;
use damage::BeforeGap;
pub(crate) use definition::definition_parts;
pub(crate) use jobs::Job;
use settings::Recorded;

/// Openings that a checkpoint restates; a peer that last heard an older one is told amnesia.
pub const OPENINGS_MAX: usize = 128;

/// A domain and what belongs to it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    /// As recorded.
    pub(crate) state: DomainState,
    /// Its open migration.
    pub(crate) migration: Option<MigrationId>,
    /// What its owner asked outside any job and whose result is not recorded.
    pub(crate) owner_effect: Option<(Lsn, EffectCommand)>,
    /// Its QEMU was told to send the guest since it last was continued.
    pub(crate) sent: Option<GuestSent>,
    /// Damage of which no later record has told yet whether it concerns this domain.
    pub(crate) gap: Option<Box<BeforeGap>>,
}

/// A migration, with the records that its next decision will cite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Migration {
    /// The domain.
    pub(crate) domain: DomainId,
    /// As recorded.
    pub(crate) state: MigrationState,
    /// The record of the last phase or fact.
    pub(crate) fact: Lsn,
    /// The last recorded look.
    pub(crate) seen: Option<Lsn>,
    /// What the other side said last.
    pub(crate) heard: Option<Lsn>,
    /// While it is open, if damaged records may concern it; afterwards, if what became of it is among them.
    pub(crate) histories: Option<Histories>,
    /// While it is open: what QEMU is told for it.
    pub(crate) settings: Recorded,
    /// The disks that it copies.
    pub(crate) disks: Option<Box<MigrationDisks>>,
}

impl Migration {
    pub(crate) fn facts(&self) -> Facts {
        let state = &self.state;
        Facts {
            migrate_intended: state.migrate_intended,
            postcopy: match state.terms.role {
                Role::Source => state.postcopy,
                Role::Destination => state.terms.postcopy,
            },
            granted: state.granted.is_some(),
            abandoned: state.abandoned,
            committed: state.committed,
            started: state.started,
            aborted: state.aborted,
            outcome: state.outcome,
            cont: state.cont,
            proposed: matches!(
                state.key_intent,
                Some(KeyChange::Create(_) | KeyChange::Replace { .. })
            ),
            verdict: state.verdict,
        }
    }

    /// Was QEMU told to migrate, or may it have been?
    pub(crate) fn may_be_sent(&self) -> bool {
        let histories = self.histories.as_ref();
        self.state.migrate_intended || histories.is_some_and(Histories::may_be_sent)
    }

    /// Did the licence go out, or may it have?
    pub(crate) fn may_be_granted(&self) -> bool {
        let histories = self.histories.as_ref();
        self.state.granted.is_some() || histories.is_some_and(Histories::may_be_granted)
    }

    /// The records that a decision made now rests on, oldest first.
    pub(crate) fn based_on(&self) -> Vec<Lsn> {
        let mut records = vec![self.state.job, self.fact];
        records.extend(self.seen);
        records.extend(self.heard);
        records.extend(
            self.histories
                .as_ref()
                .and_then(|histories| histories.cited),
        );
        records.sort_unstable();
        records.dedup();
        records
    }
}

/// All that the journal's records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) openings: Vec<Opening>,
    pub(crate) domains: Domains,
    pub(crate) migrations: Table<MigrationId, Migration>,
    /// Those of them that are open, by domain; a sound history has one at the most.
    open: IdMap<DomainId, BTreeSet<MigrationId>>,
    by_job: IdMap<Lsn, MigrationId>,
    /// Open jobs that are no migrations.
    pub(crate) jobs: BTreeMap<Lsn, Job>,
    definitions: BTreeMap<Lsn, BTreeMap<u16, DefinitionPart>>,
    checkpoint: Option<Box<Staged>>,
    /// This is what a checkpoint restates, as far as it was read.
    restating: bool,
    /// Records behind the newest whole checkpoint are damaged, whatever they concern.
    pub(crate) lossy: bool,
}

/// A checkpoint that is being read; it holds only whole.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Staged {
    state: State,
    expected: u32,
    read: u32,
}

impl State {
    /// The state after one more entry of a journal.
    pub(crate) fn replay_one(&mut self, entry: &History) {
        match entry {
            History::Record(record) => self.replay_record(record),
            History::Gap(gap) => self.apply_gap(*gap),
        }
    }

    /// The state after one more record of a journal.
    pub(super) fn replay_record(&mut self, record: &Record) {
        self.clear_undamaged(record);
        self.apply(record);
    }

    /// The migration that a job is.
    pub(crate) fn migration_of_job(&self, job: Lsn) -> Option<MigrationId> {
        self.by_job.get(&job).copied()
    }

    /// The open migration of a domain; a sound history has one at the most.
    pub(crate) fn open_of(&self, id: DomainId) -> Option<MigrationId> {
        self.open.get(&id)?.first().copied()
    }

    /// The state after one more record.
    pub(crate) fn apply(&mut self, record: &Record) {
        match &record.body {
            RecordBody::CheckpointBegun(begun) => {
                let state = State {
                    openings: begun.openings.clone(),
                    restating: true,
                    ..State::default()
                };
                self.checkpoint = Some(Box::new(Staged {
                    state,
                    expected: begun.records,
                    read: 0,
                }));
            }
            RecordBody::CheckpointEnded(ended) => self.end_checkpoint(*ended),
            _ => match &mut self.checkpoint {
                Some(staged) => {
                    staged.read = staged.read.saturating_add(1);
                    staged.state.apply_plain(record);
                    self.recall_damage(record);
                }
                None => self.apply_plain(record),
            },
        }
    }

    fn end_checkpoint(&mut self, ended: CheckpointEnded) {
        if let Some(staged) = self.checkpoint.take()
            && staged.expected == staged.read
            && ended.records == staged.read
        {
            let before = core::mem::replace(self, staged.state);
            self.restating = false;
            // A checkpoint does not restate what is in flight for an owner; it still is.
            for (id, domain) in before.domains.iter() {
                if let Some(restated) = self.domains.get_mut(id) {
                    restated.owner_effect.clone_from(&domain.owner_effect);
                }
            }
        }
    }

    fn apply_plain(&mut self, record: &Record) {
        let lsn = record.lsn;
        self.fold_histories(record);
        self.apply_sent(record);
        self.apply_jobs(record);
        self.apply_settings(record);
        match &record.body {
            RecordBody::CheckpointBegun(_)
            | RecordBody::CheckpointEnded(_)
            | RecordBody::GuestSent(_)
            | RecordBody::Sealed
            | RecordBody::JobPhaseEntered(_)
            | RecordBody::JobDecided(_)
            | RecordBody::JobState(_)
            | RecordBody::MigrationSettings(_)
            | RecordBody::SettingsKept(_) => {}
            RecordBody::OperatorResolved(_) => {
                if let Some(id) = record.domain {
                    self.settle(id);
                }
            }
            RecordBody::DomainAdded(state) => {
                if let Some(id) = record.domain {
                    // A domain is registered anew only when it has no job, or when its registration was lost.
                    match state.damaged {
                        true => self.take_up(id, state.claim),
                        false => self.close_open(id),
                    }
                    self.restate_domain(id, (**state).clone());
                }
            }
            RecordBody::DomainState(state) => {
                if let Some(id) = record.domain {
                    let mut state = (**state).clone();
                    // What is said of a domain says nothing of the jobs that were lost; and outside
                    // a checkpoint it is only said of one that is known, if nothing was lost.
                    let before = self.domains.get(&id);
                    state.damaged |= before.map_or(!self.restating, |before| before.state.damaged);
                    self.restate_domain(id, state);
                }
            }
            RecordBody::DomainRemoved => {
                if let Some(id) = record.domain {
                    let before = self.domains.remove(&id);
                    self.drop_definition(before, None);
                }
            }
            RecordBody::DefinitionPart(part) => {
                self.definitions
                    .entry(part.first)
                    .or_default()
                    .insert(part.index, part.clone());
            }
            RecordBody::WantedChanged(changed) => {
                if let Some(domain) = self.domain_of(record) {
                    domain.state.wanted = changed.wanted;
                }
            }
            RecordBody::JobBegun(begun) => {
                if let (Some(id), Some(terms)) = (record.domain, &begun.migration) {
                    self.begin_migration(lsn, id, terms);
                }
            }
            RecordBody::QemuObserved(seen) => {
                if let Some(domain) = self.domain_of(record) {
                    domain.state.dead |= seen.observed.process == Process::Dead;
                }
                if seen.observed.process != Process::Alive {
                    self.outlives_claim(record);
                }
                if let Some(migration) = seen.job.and_then(|job| self.migration_of(job)) {
                    migration.seen = Some(lsn);
                    // Running after the licence went out: somebody continued it, and what the guest
                    // did since then is nowhere else.
                    let state = &mut migration.state;
                    let is_running = seen.observed.run_state == Some(RunState::Running);
                    if state.granted.is_some() && is_running {
                        state.source_touched = true;
                    }
                }
            }
            RecordBody::EffectIntended(intended) => {
                self.intend(record, intended.job, &intended.command);
            }
            RecordBody::EffectFinished(finished) => {
                self.finish_effect(record, finished.effect, &finished.result);
            }
            RecordBody::MigrationState(state) => {
                if let Some(id) = record.domain {
                    self.restore_migration(lsn, id, (**state).clone());
                }
            }
            RecordBody::JobEnded(ended) => {
                let Some(migration) = self.migration_of(ended.job) else {
                    return;
                };
                migration.state.open = false;
                migration.fact = lsn;
                let histories = migration.histories.take();
                if histories.is_some() {
                    migration.end_over_damage();
                }
                migration.settings = Recorded::default();
                let (of, name) = (migration.domain, migration.state.terms.migration);
                let summary = EndedJob {
                    job: ended.job,
                    kind: kind_of(migration.state.terms.role),
                    migration: Some(migration.state.terms.migration),
                    phase: Some(migration.state.phase),
                    result: ended.result,
                    detail: ended.detail.clone(),
                };
                self.set_closed(of, name);
                if let Some(domain) = self.domain_of(record) {
                    domain.migration = None;
                    domain.state.last_job = Some(summary);
                    // Over in every history, and nothing can have begun since.
                    if histories.is_some_and(|histories| histories.end_settles()) {
                        domain.state.damaged = false;
                    }
                }
            }
            RecordBody::MigrationHistories(restated) => {
                if let Some(migration) = self.migration_of(restated.job) {
                    migration.histories = Some(Histories::restated(restated, lsn));
                }
            }
            RecordBody::MigrationDisks(disks) => self.apply_disks(lsn, disks),
            RecordBody::MigrationForgotten(named) => {
                self.forget_open(record, named.migration);
                self.remove_migration(named.migration);
            }
            RecordBody::PhaseEntered(_)
            | RecordBody::PeerHeard(_)
            | RecordBody::PeerPrepared(_)
            | RecordBody::MigrationGranted(_)
            | RecordBody::MigrationAbandoned(_)
            | RecordBody::MigrationCommitted(_)
            | RecordBody::MigrationStarted(_)
            | RecordBody::MigrationAborted(_)
            | RecordBody::OutcomeLearned(_)
            | RecordBody::StoreIntended(_)
            | RecordBody::StoreRead(_)
            | RecordBody::VerdictGiven(_)
            | RecordBody::Decided(_) => self.apply_fact(lsn, &record.body),
        }
    }

    /// Phases, facts and what was heard: each changes one migration.
    fn apply_fact(&mut self, lsn: Lsn, body: &RecordBody) {
        let migration = match body {
            RecordBody::PhaseEntered(entered) => self.migration_of(entered.job),
            RecordBody::Decided(decided) => self.migration_of(decided.job),
            RecordBody::PeerHeard(heard) => self.migrations.get_mut(&heard.migration),
            RecordBody::PeerPrepared(prepared) => self.migrations.get_mut(&prepared.migration),
            RecordBody::MigrationGranted(granted) => {
                self.migrations.get_mut(&granted.cookie.migration)
            }
            RecordBody::MigrationAbandoned(abandoned) => {
                self.migrations.get_mut(&abandoned.migration)
            }
            RecordBody::MigrationCommitted(committed) => {
                self.migrations.get_mut(&committed.migration)
            }
            RecordBody::MigrationStarted(named) | RecordBody::MigrationAborted(named) => {
                self.migrations.get_mut(&named.migration)
            }
            RecordBody::OutcomeLearned(learned) => self.migrations.get_mut(&learned.migration),
            RecordBody::StoreIntended(intended) => self.migrations.get_mut(&intended.migration),
            RecordBody::StoreRead(read) => self.migrations.get_mut(&read.migration),
            RecordBody::VerdictGiven(given) => self.migrations.get_mut(&given.migration),
            _ => None,
        };
        let Some(migration) = migration else { return };
        let state = &mut migration.state;
        let mut is_fact = true;
        match body {
            RecordBody::PhaseEntered(entered) => state.phase = entered.phase,
            RecordBody::PeerPrepared(prepared) => {
                state.terms.nonce = Some(prepared.nonce);
                state.peer_position = Some(prepared.position);
            }
            RecordBody::MigrationGranted(granted) => state.granted = Some(granted.cookie),
            RecordBody::MigrationAbandoned(abandoned) => {
                state.abandoned = true;
                state.cancel_asked = abandoned.asked;
            }
            RecordBody::MigrationCommitted(committed) => {
                state.committed = true;
                // v2: the source decides, and what it decides is the licence.
                if state.terms.role == Role::Source {
                    state.granted = committed.cookie;
                }
            }
            RecordBody::MigrationStarted(_) => {
                state.committed = true;
                state.started = true;
            }
            RecordBody::MigrationAborted(_) => state.aborted = true,
            RecordBody::OutcomeLearned(learned) => {
                state.outcome = Some(learned.outcome);
                state.peer_position = learned.position.or(state.peer_position);
            }
            RecordBody::StoreIntended(intended) => {
                state.key_intent = Some(intended.change);
                state.licence = intended.cookie.or(state.licence);
            }
            RecordBody::StoreRead(read) => state.key_read = Some(read.key),
            RecordBody::VerdictGiven(given) => state.verdict = Some(given.outcome),
            RecordBody::PeerHeard(heard) => {
                is_fact = false;
                state.peer_answer = heard.answer;
                state.peer_position = heard.position.or(state.peer_position);
            }
            RecordBody::Decided(decided) => {
                is_fact = false;
                state.last_rule = Some(decided.rule.clone());
            }
            _ => {}
        }
        if is_fact {
            migration.fact = lsn;
        } else if matches!(body, RecordBody::PeerHeard(_)) {
            migration.heard = Some(lsn);
        }
    }

    fn begin_migration(&mut self, job: Lsn, id: DomainId, terms: &MigrationTerms) {
        let phase = match (terms.role, terms.protocol) {
            (Role::Source, Protocol::V3) => Phase::Begin3,
            // v2 has no phase of the source's before that.
            (Role::Source, Protocol::V2) => Phase::Perform2,
            (Role::Destination, Protocol::V2 | Protocol::V3) => Phase::Prepare,
        };
        let state = MigrationState {
            job,
            open: true,
            terms: terms.clone(),
            phase,
            migrate_intended: false,
            postcopy_intended: false,
            postcopy: false,
            source_touched: false,
            granted: None,
            abandoned: false,
            cancel_asked: false,
            committed: false,
            started: false,
            aborted: false,
            outcome: None,
            cont: ContIntent::Never,
            cont_count: 0,
            in_flight: None,
            peer_position: None,
            peer_answer: PeerAnswer::NotAsked,
            last_rule: None,
            key_intent: None,
            licence: None,
            key_read: None,
            verdict: None,
        };
        // A job begins on a domain that has none: what is open here ended in records that are lost.
        self.close_open(id);
        self.restore_migration(job, id, state);
        // One that is not known was added in a record that is lost.
        let domain = self.domains.get(&id);
        if domain.is_none_or(|domain| domain.state.damaged)
            && let Some(migration) = self.migrations.get_mut(&terms.migration)
        {
            let wanted = domain.map_or(WantedRunState::Running, |domain| domain.state.wanted);
            let history = history_of(&migration.state, migration.facts(), wanted);
            migration.histories = Some(match has_histories(terms) {
                true => Histories::begun(history),
                false => Histories::unknown(),
            });
        }
    }

    /// A domain as a record says it is.
    fn restate_domain(&mut self, id: DomainId, state: DomainState) {
        // Restating a domain does not end its job.
        let known = self.domains.get(&id);
        let domain = Domain {
            migration: known.map_or(self.open_of(id), |known| known.migration),
            gap: known.and_then(|known| known.gap.clone()),
            owner_effect: None,
            // That of another process is of no interest.
            sent: known
                .filter(|known| known.state.instance == state.instance)
                .and_then(|known| known.sent),
            state,
        };
        let definition = domain.state.definition;
        let before = self.domains.insert(id, domain);
        self.drop_definition(before, definition);
    }

    fn close_open(&mut self, id: DomainId) {
        while let Some(open) = self.open_of(id) {
            self.set_closed(id, open);
            if let Some(migration) = self.migrations.get_mut(&open) {
                migration.state.open = false;
                migration.end_over_damage();
                migration.settings = Recorded::default();
            }
        }
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.migration = None;
        }
    }

    fn restore_migration(&mut self, lsn: Lsn, id: DomainId, state: MigrationState) {
        let (name, job, is_open) = (state.terms.migration, state.job, state.open);
        if is_open && let Some(domain) = self.domains.get_mut(&id) {
            domain.migration = Some(name);
        }
        let migration = Migration {
            domain: id,
            state,
            fact: lsn,
            seen: None,
            heard: None,
            histories: None,
            settings: Recorded::default(),
            disks: None,
        };
        self.remove_migration(name);
        if !is_open && let Some(domain) = self.domains.get_mut(&id) {
            domain.migration.take_if(|open| *open == name);
        }
        if is_open {
            self.open.entry(id).or_default().insert(name);
        }
        self.by_job.insert(job, name);
        self.migrations.insert(name, migration);
    }

    fn remove_migration(&mut self, name: MigrationId) {
        let Some(migration) = self.migrations.remove(&name) else {
            return;
        };
        self.set_closed(migration.domain, name);
        if self.by_job.get(&migration.state.job) == Some(&name) {
            self.by_job.remove(&migration.state.job);
        }
    }

    /// A migration is not open any more.
    fn set_closed(&mut self, id: DomainId, name: MigrationId) {
        if let Some(names) = self.open.get_mut(&id) {
            names.remove(&name);
            if names.is_empty() {
                self.open.remove(&id);
            }
        }
    }

    fn intend(&mut self, record: &Record, job: Option<Lsn>, command: &EffectCommand) {
        if let (EffectCommand::Claim(claim), Some(domain)) = (command, self.domain_of(record)) {
            domain.state.claim = Some(*claim);
        }
        let Some(job) = job else {
            if let Some(domain) = self.domain_of(record) {
                domain.owner_effect = Some((record.lsn, command.clone()));
            }
            return;
        };
        let Some(migration) = self.migration_of(job) else {
            return;
        };
        migration.settings.intend(command);
        let state = &mut migration.state;
        state.in_flight = Some((record.lsn, command.clone()));
        match (command, state.terms.role) {
            (EffectCommand::Migrate { .. }, _) => state.migrate_intended = true,
            (EffectCommand::StartPostcopy, _) => state.postcopy_intended = true,
            (EffectCommand::MigrateContinue, _) => state.postcopy |= state.postcopy_intended,
            // Before that the migration itself carries what the guest did over.
            (EffectCommand::MigrateCancel | EffectCommand::Cont, Role::Source)
                if state.granted.is_some() || state.abandoned =>
            {
                state.source_touched = true;
            }
            (EffectCommand::Cont, Role::Destination) => {
                state.cont_count = state.cont_count.saturating_add(1);
                state.cont = ContIntent::Unknown;
            }
            _ => {}
        }
    }

    fn finish_effect(&mut self, record: &Record, effect: Lsn, result: &EffectResult) {
        if let Some(domain) = self.domain_of(record)
            && domain
                .owner_effect
                .as_ref()
                .is_some_and(|(intent, _)| *intent == effect)
        {
            domain.owner_effect = None;
            return;
        }
        let is_it = |migration: &Migration| {
            let in_flight = migration.state.in_flight.as_ref();
            in_flight.is_some_and(|(intent, _)| *intent == effect)
        };
        // Nearly always the one that the domain has open: then the others need not be gone over.
        let open = record.domain.and_then(|id| self.open_of(id));
        let open = open.filter(|open| self.migrations.get(open).is_some_and(is_it));
        let all = || self.migrations.iter();
        let name = open.or_else(|| all().find(|(_, one)| is_it(one)).map(|(name, _)| *name));
        let Some(migration) = name.and_then(|name| self.migrations.get_mut(&name)) else {
            return;
        };
        let Some((_, command)) = migration.state.in_flight.take() else {
            return;
        };
        let state = &mut migration.state;
        match (&command, state.terms.role) {
            (EffectCommand::Cont, Role::Destination) => {
                state.cont = cont_after(result, state.cont_count);
                if matches!(state.cont, ContIntent::Refused | ContIntent::NotSent) {
                    state.cont_count = 0;
                }
            }
            (EffectCommand::Unclaim, _) => {
                if let (EffectResult::Done, Some(domain)) = (result, self.domain_of(record)) {
                    domain.state.claim = None;
                }
            }
            _ => {}
        }
    }

    fn domain_of(&mut self, record: &Record) -> Option<&mut Domain> {
        self.domains.get_mut(&record.domain?)
    }

    fn migration_of(&mut self, job: Lsn) -> Option<&mut Migration> {
        self.migrations.get_mut(self.by_job.get(&job)?)
    }

    /// Does this history contain that position? If not, whoever saw it saw records that are lost.
    pub(crate) fn contains(&self, position: &Position, last: Lsn) -> bool {
        let mut openings = self.openings.iter().skip_while(|opening| {
            opening.epoch != position.epoch || opening.opening != position.opening
        });
        if openings.next().is_none() {
            return false;
        }
        let end = openings
            .next()
            .map_or(last.0, |next| next.first.0.saturating_sub(1));
        position.lsn.0 <= end
    }

    /// The whole state as the records of a checkpoint, of which the first gets the LSN `first`.
    pub(crate) fn checkpoint(&self, first: Lsn, opening: Option<Opening>) -> Vec<Draft> {
        let mut openings = self.openings.clone();
        openings.extend(opening);
        let surplus = openings.len().saturating_sub(OPENINGS_MAX);
        openings.drain(..surplus);

        let mut records: Vec<Draft> = Vec::new();
        for (id, domain) in self.domains.iter() {
            let mut state = domain.state.clone();
            let text = state
                .definition
                .and_then(|definition| self.definition(definition));
            state.definition = None;
            if let Some(text) = text {
                // The head of the checkpoint comes before the first of `records`.
                let part_first = Lsn(first.0 + 1 + records.len() as u64);
                state.definition = Some(part_first);
                records.extend(definition_parts(*id, part_first, &text));
            }
            records.push(Draft {
                domain: Some(*id),
                body: RecordBody::DomainState(Box::new(state)),
            });
            records.extend(domain.restated_sent(*id));
        }
        for migration in self.migrations.values() {
            let body = RecordBody::MigrationState(Box::new(migration.state.clone()));
            let domain = Some(migration.domain);
            records.push(Draft { domain, body });
            if let Some(restated) = migration.restated_histories() {
                let body = RecordBody::MigrationHistories(restated);
                records.push(Draft { domain, body });
            }
            records.extend(migration.restated_settings());
            records.extend(migration.restated_disks());
        }
        records.extend(self.restated_jobs());
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        let begun = CheckpointBegun {
            records: count,
            openings,
        };
        let ended = CheckpointEnded { records: count };
        let mut checkpoint = vec![Draft {
            domain: None,
            body: RecordBody::CheckpointBegun(begun),
        }];
        checkpoint.append(&mut records);
        checkpoint.push(Draft {
            domain: None,
            body: RecordBody::CheckpointEnded(ended),
        });
        checkpoint
    }
}

/// Is it told which histories damaged records allow? Not of post-copy, nor where somebody else than the two
/// journals decides.
fn has_histories(terms: &MigrationTerms) -> bool {
    match terms.authority {
        Authority::Destination | Authority::Source => !terms.postcopy,
        Authority::Store | Authority::Manager => false,
    }
}

/// Is this a source that waits for the destination to be prepared?
pub(crate) fn awaits_prepare(state: &MigrationState) -> bool {
    let is_before = match state.phase {
        Phase::Begin3 => true,
        // v2 has one phase for both; the nonce comes with the destination's yes.
        Phase::Perform2 => state.terms.nonce.is_none(),
        Phase::Perform3
        | Phase::Perform3Done
        | Phase::Confirm3
        | Phase::Confirm3Cancelled
        | Phase::Prepare
        | Phase::Finish2
        | Phase::Finish3
        | Phase::PostcopyFailed
        | Phase::BeginResume
        | Phase::PerformResume
        | Phase::ConfirmResume
        | Phase::PrepareResume
        | Phase::FinishResume => false,
    };
    is_before && state.open && !state.abandoned && state.terms.role == Role::Source
}

/// Did the source's copy run, or may it have run, after the licence went out? Then no other copy is
/// the newest any more.
pub(crate) fn ran_on(state: &MigrationState) -> bool {
    state.granted.is_some() && state.source_touched
}

/// Where the destination's `cont` stands after a result, with so many intents since the last one that
/// provably did nothing. As long as every single one was refused or not sent, the guest never ran
/// here; after one without an answer nothing proves that any more.
fn cont_after(result: &EffectResult, unanswered: u32) -> ContIntent {
    match (result, unanswered) {
        (EffectResult::Done, _) => ContIntent::Done,
        (EffectResult::Refused { .. }, 1) => ContIntent::Refused,
        (EffectResult::NotSent { .. }, 1) => ContIntent::NotSent,
        (
            EffectResult::Refused { .. }
            | EffectResult::NotSent { .. }
            | EffectResult::Unknown { .. },
            _,
        ) => ContIntent::Unknown,
    }
}

pub(crate) fn kind_of(role: Role) -> JobKind {
    match role {
        Role::Source => JobKind::MigrationOut,
        Role::Destination => JobKind::MigrationIn,
    }
}
