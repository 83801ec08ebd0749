//! What a journal told, for whoever reads it without running it: verify and inspect.
//!
//! Invariant: says what the engine itself would find at its next start; nothing here is a second opinion.
//! Not here: what is decided (`decide`), what is shown.

use journal_format::number::{DomainId, Lsn, MigrationId};
use journal_format::record::{
    ClaimSeen, DomainState, Draft, EffectCommand, Evidence, Instance, JobState, MigrationDisks,
    MigrationHistories, MigrationState, MigrationTerms, Observed, PeerAnswer, Process, Record,
    StoreAnswer, WantedRunState,
};

use super::state::{Migration, State};
use super::{Gap, History, Rule, decide, decide_over};

/// What a journal told, as far as it was gone over.
#[derive(Clone, Debug, Default)]
pub struct Told(pub(super) State);

/// A job that is open, as the next start would find it.
#[derive(Clone, Debug)]
pub struct OpenJob {
    /// The domain.
    pub domain: DomainId,
    /// Its name; empty if its registration is among what is damaged.
    pub name: String,
    /// The job.
    pub job: Lsn,
    /// What it is about.
    pub terms: MigrationTerms,
    /// The effect whose result is not recorded.
    pub in_flight: Option<EffectCommand>,
    /// What is known right after a restart: the journal's facts, and a QEMU and another side that have not
    /// answered yet.
    pub evidence: Evidence,
    /// What damaged records may have said, if some may concern it.
    pub histories: Option<MigrationHistories>,
}

impl OpenJob {
    /// The rule that the engine would apply to this evidence; `None` while the protocol simply goes on.
    #[must_use]
    pub fn rule(&self, evidence: &Evidence) -> Option<Rule> {
        match &self.histories {
            Some(histories) if evidence.journal_damaged => decide_over(evidence, histories),
            Some(_) | None => decide(evidence),
        }
    }
}

impl Told {
    /// Takes in the next entry.
    pub fn add(&mut self, entry: &History) {
        self.0.replay_one(entry);
    }

    /// Takes in the next entry, which is a record.
    pub fn record(&mut self, record: &Record) {
        self.0.replay_record(record);
    }

    /// Takes in the next entry, which is a gap.
    pub fn gap(&mut self, gap: Gap) {
        self.0.apply_gap(gap);
    }

    /// Lets a restart say again what was decided before: a rule that still holds is recorded only once.
    pub fn forget_decisions(&mut self) {
        for migration in self.0.migrations.values_mut() {
            migration.state.last_rule = None;
        }
        for job in self.0.jobs.values_mut() {
            job.state.last_rule = None;
        }
    }

    /// The records between the two ends of a checkpoint that restates this, the first of which is the one
    /// behind the LSN `begun`.
    #[must_use]
    pub fn restated(&self, begun: Lsn) -> Vec<Draft> {
        let mut drafts = self.0.checkpoint(begun, None);
        drafts.pop();
        drafts.drain(..1);
        drafts
    }

    /// Is there a domain of that identity?
    #[must_use]
    pub fn is_registered(&self, domain: DomainId) -> bool {
        self.0.domains.get(&domain).is_some()
    }

    /// May records of this domain, or of one that was never seen, be among damaged ones?
    #[must_use]
    pub fn is_doubtful(&self, domain: DomainId) -> bool {
        let known = self.0.domains.get(&domain);
        known.map_or(self.0.lossy, |domain| domain.state.damaged)
    }

    /// The process of a domain.
    #[must_use]
    pub fn instance(&self, domain: DomainId) -> Option<Instance> {
        Some(self.0.domains.get(&domain)?.state.instance)
    }

    /// A migration as it stands, open or ended.
    #[must_use]
    pub fn migration(&self, migration: MigrationId) -> Option<&MigrationState> {
        Some(&self.0.migrations.get(&migration)?.state)
    }

    /// The disks that a migration copies, while it is open.
    #[must_use]
    pub fn disks(&self, migration: MigrationId) -> Option<&MigrationDisks> {
        self.0.migrations.get(&migration)?.disks.as_deref()
    }

    /// A job as it stands, open or ended.
    #[must_use]
    pub fn job(&self, job: Lsn) -> Option<&MigrationState> {
        self.migration(self.0.migration_of_job(job)?)
    }

    /// The open job of a domain.
    #[must_use]
    pub fn open_job_of(&self, domain: DomainId) -> Option<&MigrationState> {
        self.migration(self.0.open_of(domain)?)
    }

    /// A job that is open and no migration.
    #[must_use]
    pub fn other_job(&self, job: Lsn) -> Option<&JobState> {
        Some(&self.0.jobs.get(&job)?.state)
    }

    /// The jobs that are open and no migrations, oldest first, with their domains.
    pub fn other_jobs(&self) -> impl Iterator<Item = (DomainId, &JobState)> {
        self.0.jobs.values().map(|job| (job.domain, &job.state))
    }

    /// The effect that a domain's owner asked for outside any job and whose result is not recorded.
    #[must_use]
    pub fn owner_effect(&self, domain: DomainId) -> Option<Lsn> {
        let effect = self.0.domains.get(&domain)?.owner_effect.as_ref();
        effect.map(|(intent, _)| *intent)
    }

    /// Is the result of that effect on a domain not recorded?
    #[must_use]
    pub fn is_in_flight(&self, domain: DomainId, effect: Lsn) -> bool {
        let is_it = |state: &MigrationState| {
            let in_flight = state.in_flight.as_ref();
            in_flight.is_some_and(|(intent, _)| *intent == effect)
        };
        // That of a job that ended in between is looked for last.
        self.owner_effect(domain) == Some(effect)
            || self.open_job_of(domain).is_some_and(is_it)
            || self.other_jobs().any(|(_, state)| {
                let in_flight = state.in_flight.as_ref();
                in_flight.is_some_and(|(intent, _)| *intent == effect)
            })
            || self
                .0
                .migrations
                .values()
                .any(|migration| is_it(&migration.state))
    }

    /// The domains that are registered.
    pub fn domains(&self) -> impl Iterator<Item = (DomainId, &DomainState)> {
        self.0
            .domains
            .iter()
            .map(|(id, domain)| (*id, &domain.state))
    }

    /// Migrations that ended and are kept until the other side is known to know the outcome.
    #[must_use]
    pub fn kept_migrations(&self) -> usize {
        let migrations = self.0.migrations.values();
        migrations.filter(|known| !known.state.open).count()
    }

    /// The jobs that are open, oldest first.
    #[must_use]
    pub fn open_jobs(&self) -> Vec<OpenJob> {
        let migrations = self.0.migrations.values();
        let open = migrations.filter(|migration| migration.state.open);
        let mut jobs: Vec<OpenJob> = open.map(|migration| self.open_job(migration)).collect();
        jobs.sort_by_key(|one| one.job);
        jobs
    }

    fn open_job(&self, migration: &Migration) -> OpenJob {
        let domain = self.0.domains.get(&migration.domain);
        let state = domain.map(|domain| &domain.state);
        let terms = &migration.state.terms;
        let evidence = Evidence {
            role: terms.role,
            protocol: terms.protocol,
            authority: terms.authority,
            phase: migration.state.phase,
            facts: migration.facts(),
            observed: Observed {
                process: Process::Mute,
                instance: state.map(|state| state.instance),
                run_state: None,
                migration: None,
                claim: ClaimSeen::Unread,
            },
            claim: state.and_then(|state| state.claim),
            peer: PeerAnswer::NotAsked,
            watched: false,
            recovering: true,
            journal_damaged: state.is_none_or(|state| state.damaged),
            store: StoreAnswer::NotRead,
            overdue: false,
            source_touched: migration.state.source_touched,
            wanted: state.map_or(WantedRunState::Running, |state| state.wanted),
        };
        OpenJob {
            domain: migration.domain,
            name: state.map(|state| state.name.clone()).unwrap_or_default(),
            job: migration.state.job,
            terms: terms.clone(),
            in_flight: migration
                .state
                .in_flight
                .as_ref()
                .map(|(_, command)| command.clone()),
            evidence,
            histories: migration.restated_histories(),
        }
    }
}
