//! Domains, jobs and decisions as people and programs see them.
//!
//! Invariant: a view says nothing that is not in the state.
//! Not here: the wire (`sidecar::control`).

use journal_format::number::{DomainId, Lsn, MigrationId};
use journal_format::record::{Decided, Decision, MigrationState, Observed, Process};

use super::state::{Migration, kind_of};
use super::turn::Turn;
use super::{
    Answer, AnyEvidence, AnyPhase, DecisionView, DomainView, HeldView, JobView, Refusal, Rule,
};

/// QEMU as seen, for people.
pub(crate) fn seen(observed: &Observed) -> String {
    match observed.process {
        Process::Dead => "dead".to_owned(),
        Process::Mute => "alive but does not answer".to_owned(),
        Process::OtherInstance => "another process than the registered one".to_owned(),
        Process::Alive => {
            let run = observed
                .run_state
                .as_ref()
                .map_or("unknown", |state| state.name());
            let status = observed
                .migration
                .as_ref()
                .map_or("unknown", |status| status.name());
            format!("{run} (migration {status})")
        }
    }
}

impl Turn<'_> {
    pub(crate) fn domain_view(&self, id: DomainId) -> Option<DomainView> {
        let domain = self.domain(id)?;
        let observed = self
            .engine
            .eyes
            .get(&id)
            .and_then(|eyes| eyes.observed.as_ref());
        let recorded = domain
            .migration
            .and_then(|migration| self.migration(migration))
            .and_then(|migration| migration.state.last_rule.as_deref());
        let rule = domain
            .migration
            .and_then(|migration| self.engine.live.get(&migration))
            .and_then(|live| live.rule)
            .filter(|rule| rule.decision() == Decision::Hold)
            // A hold that was not recorded is only the protocol's ordinary waiting.
            .filter(|rule| recorded == Some(rule.name()));
        let held = |rule: Rule| HeldView {
            rule: rule.name(),
            reason: match (rule, domain.migration) {
                (Rule::JournalDamaged, Some(id)) => self.why_damage_holds(id),
                _ => rule.text().reason.to_owned(),
            },
            settled_by: rule.text().settled_by,
        };
        Some(DomainView {
            name: domain.state.name.clone(),
            uuid: id,
            qmp: Some(domain.state.qmp.clone()),
            pid: Some(domain.state.instance.pid),
            process: observed.map(|observed| observed.process),
            run_state: observed.and_then(|observed| observed.run_state.clone()),
            migration: observed.and_then(|observed| observed.migration.clone()),
            wanted: Some(domain.state.wanted),
            job: domain
                .migration
                .and_then(|migration| self.migration(migration))
                .map(|migration| migration.state.job)
                .or_else(|| {
                    self.engine
                        .state
                        .jobs_of(id)
                        .next()
                        .map(|job| job.state.job)
                }),
            held: rule
                .map(held)
                .or_else(|| self.held_job_view(id))
                .or_else(|| self.damage_view(id)),
        })
    }

    pub(crate) fn job_view(&self, id: MigrationId) -> Option<JobView> {
        let migration = self.migration(id)?;
        let MigrationState {
            job, terms, phase, ..
        } = &migration.state;
        Some(JobView {
            job: *job,
            name: self.name_of(migration.domain),
            domain: migration.domain,
            kind: kind_of(terms.role),
            migration: Some(id),
            role: Some(terms.role),
            protocol: Some(terms.protocol),
            authority: Some(terms.authority),
            phase: Some(AnyPhase::Migration(*phase)),
            age: self
                .engine
                .live
                .get(&id)
                .and_then(|live| self.age(live.begun)),
            cookie: None,
            peer: Some(terms.peer.clone()),
            state: "open",
            result: None,
            detail: self.settings_detail(id).unwrap_or_default(),
        })
    }

    pub(crate) fn ended_job_view(&self, id: DomainId) -> Option<JobView> {
        let domain = self.domain(id)?;
        let ended = domain.state.last_job.as_ref()?;
        let terms = ended
            .migration
            .and_then(|migration| self.migration(migration))
            .map(|migration: &Migration| &migration.state.terms);
        Some(JobView {
            job: ended.job,
            name: domain.state.name.clone(),
            domain: id,
            kind: ended.kind,
            migration: ended.migration,
            role: terms.map(|terms| terms.role),
            protocol: terms.map(|terms| terms.protocol),
            authority: terms.map(|terms| terms.authority),
            phase: ended.phase.map(AnyPhase::Migration),
            age: None,
            cookie: None,
            peer: terms.map(|terms| terms.peer.clone()),
            state: "ended",
            result: Some(ended.result),
            detail: ended.detail.clone(),
        })
    }

    pub(crate) fn decision_view(
        &self,
        id: DomainId,
        lsn: Lsn,
        decided: &Decided,
    ) -> Option<DecisionView> {
        let rule = Rule::from_name(&decided.rule);
        let reason = match (rule, self.domain(id)?.migration) {
            (Some(Rule::JournalDamaged), Some(open)) => self.why_damage_holds(open),
            (Some(rule), _) => rule.text().reason.to_owned(),
            (None, _) => String::new(),
        };
        Some(DecisionView {
            lsn,
            name: self.domain(id)?.state.name.clone(),
            job: decided.job,
            rule: decided.rule.clone(),
            decision: decided.decision,
            reason,
            evidence: AnyEvidence::Migration(decided.evidence.clone()),
            based_on: decided.based_on.clone(),
        })
    }

    pub(crate) fn query_domains(&self, name: Option<&str>) -> Result<Answer, Refusal> {
        self.need_known(name)?;
        let domains = self.engine.state.domains.iter();
        let wanted = domains.filter(|(_, one)| name.is_none_or(|name| one.state.name == name));
        let mut views: Vec<_> = wanted.filter_map(|(id, _)| self.domain_view(*id)).collect();
        let lost = self.engine.state.unregistered().into_iter();
        let lost = lost.map(|id| self.unregistered_view(id));
        views.extend(lost.filter(|view| name.is_none_or(|name| view.name == name)));
        Ok(Answer::Domains(views))
    }

    pub(crate) fn query_jobs(
        &self,
        job: Option<Lsn>,
        name: Option<&str>,
    ) -> Result<Answer, Refusal> {
        self.need_known(name)?;
        let open = self
            .engine
            .state
            .migrations
            .iter()
            .filter(|(_, one)| one.state.open);
        let mut jobs: Vec<JobView> = open.filter_map(|(id, _)| self.job_view(*id)).collect();
        let others = self.engine.state.jobs.keys();
        jobs.extend(others.filter_map(|job| self.other_job_view(*job)));
        if job.is_some() || name.is_some() {
            let domains = self.engine.state.domains.keys();
            jobs.extend(domains.filter_map(|id| self.ended_job_view(*id)));
        }
        jobs.retain(|one| {
            job.is_none_or(|job| one.job == job) && name.is_none_or(|name| one.name == name)
        });
        jobs.sort_by_key(|one| one.job);
        Ok(Answer::Jobs(jobs))
    }

    fn need_known(&self, name: Option<&str>) -> Result<(), Refusal> {
        let is_known = |name: &str| {
            self.domain_named(name).is_some() || self.unregistered_named(name).is_some()
        };
        match name {
            Some(name) if !is_known(name) => Err(Refusal::NoSuchDomain(name.to_owned())),
            Some(_) | None => Ok(()),
        }
    }
}
