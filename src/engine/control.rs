//! What managers and operators ask.
//!
//! Invariant: a refused request changes nothing; what is begun was looked at first.
//! Not here: how requests arrive (`sidecar::control`), what the protocol does afterwards.

use journal_format::number::{DomainId, Lsn, MigrationId};
use journal_format::record::{
    Authority, ClaimSeen, DomainState, EffectCommand, EffectResult, Instance, JobBegun, JobKind,
    MigrationStatus, MigrationTerms, Observed, Phase, Process, Protocol, RecordBody, Role,
    RunState, WantedReason, WantedRunState,
};

use super::decide::{StatusClass, status_class};
use super::live::Pending;
use super::peer::is_offered;
use super::settings::{check as check_settings, check_times, take_terms};
use super::source::describe;
use super::state::{definition_parts, kind_of};
use super::store::IN_DOUBT_LIMIT_MS_DEFAULT;
use super::turn::Turn;
use super::view::seen;
use super::{
    Answer, AnyPhase, ControlRequest, DOMAINS_MAX, DisksWanted, Message, Notice, Refusal, Token,
};

mod check;

pub(crate) use check::unacceptable;
use check::{check_definition, check_text, check_uri};

impl Turn<'_> {
    pub(crate) fn control(&mut self, token: Token, request: ControlRequest) {
        let result = match request {
            ControlRequest::DomainAdd {
                name,
                domain,
                qmp,
                instance,
                observed,
                definition,
            } => self.domain_add(
                &name,
                domain,
                &qmp,
                instance,
                observed,
                definition.as_deref(),
            ),
            ControlRequest::DomainRemove { name } => self.domain_remove(&name),
            ControlRequest::DomainSetWanted { name, wanted } => {
                return self.later(token, &name, "change its run state", move |token| {
                    Pending::SetWanted { token, wanted }
                });
            }
            ControlRequest::Migrate { .. } => return self.migrate(token, request),
            ControlRequest::Verdict {
                target,
                outcome,
                uid,
            } => return self.verdict(token, &target, outcome, uid),
            ControlRequest::JobBegin { name, kind, cookie } => {
                return self.job_begin(token, &name, kind, cookie);
            }
            ControlRequest::PhaseEnter {
                job,
                phase,
                effects,
                cookie,
                peer_cookie,
            } => {
                let brought = peer_cookie.as_deref();
                return self.phase_enter(token, job, phase, effects, cookie, brought);
            }
            ControlRequest::JobEnd { job, result } => return self.job_end(token, job, result),
            ControlRequest::JobCancel { job } => self.job_cancel(job),
            ControlRequest::Resolve {
                name,
                decision,
                force,
                statement,
                uid,
            } => self.resolve(&name, decision, force, &statement, uid),
            ControlRequest::QueryDomains { name } => self.query_domains(name.as_deref()),
            ControlRequest::QueryJobs { job, name } => self.query_jobs(job, name.as_deref()),
        };
        self.reply(token, result);
    }

    pub(crate) fn domain_named(&self, name: &str) -> Option<DomainId> {
        self.engine.state.domains.named(name)
    }

    pub(crate) fn need_domain(&self, name: &str) -> Result<DomainId, Refusal> {
        self.domain_named(name)
            .ok_or_else(|| Refusal::NoSuchDomain(name.to_owned()))
    }

    pub(crate) fn need_free(&self, id: DomainId) -> Result<(), Refusal> {
        match self.engine.state.jobs_of(id).next() {
            Some(job) => Err(self.busy_with(job)),
            None => self.need_no_migration(id),
        }
    }

    pub(crate) fn need_no_migration(&self, id: DomainId) -> Result<(), Refusal> {
        let Some(domain) = self.domain(id) else {
            return Ok(());
        };
        match domain.migration.and_then(|id| self.migration(id)) {
            None => Ok(()),
            Some(migration) => Err(Refusal::Busy {
                name: domain.state.name.clone(),
                job: migration.state.job,
                kind: kind_of(migration.state.terms.role),
                phase: AnyPhase::Migration(migration.state.phase),
                age: self
                    .engine
                    .live
                    .get(&migration.state.terms.migration)
                    .and_then(|live| self.age(live.begun)),
            }),
        }
    }

    pub(crate) fn need_room(&self) -> Result<(), Refusal> {
        match &self.engine.no_room {
            None => Ok(()),
            Some(why) => Err(Refusal::NoRoom { why: why.clone() }),
        }
    }

    pub(crate) fn wrong_state(&self, id: DomainId, wish: &'static str) -> Refusal {
        let name = self
            .domain(id)
            .map(|domain| domain.state.name.clone())
            .unwrap_or_default();
        let observed = self
            .engine
            .eyes
            .get(&id)
            .and_then(|eyes| eyes.observed.as_ref());
        Refusal::WrongState {
            name,
            wish,
            seen: observed.map_or("not seen yet".to_owned(), seen),
        }
    }

    fn domain_add(
        &mut self,
        name: &str,
        id: DomainId,
        qmp: &str,
        instance: Instance,
        observed: Observed,
        definition: Option<&str>,
    ) -> Result<Answer, Refusal> {
        check_text("name", name)?;
        check_text("qmp", qmp)?;
        check_definition(definition)?;
        self.need_room()?;
        self.may_add(name, id, instance, &observed)?;
        if let Some(old) = self.domain_named(name)
            && old != id
        {
            self.refuse_put_off(old);
            self.append(Some(old), RecordBody::DomainRemoved);
            self.engine.eyes.remove(&old);
            self.send(Message::Unwatch { domain: old });
        }
        self.refuse_put_off(id);
        let last_job = self
            .domain(id)
            .and_then(|domain| domain.state.last_job.clone());
        let first = self.engine.next;
        if let Some(text) = definition {
            for draft in definition_parts(id, first, text) {
                self.append(draft.domain, draft.body);
            }
        }
        // One that is there was accepted because it is ours: the next job takes it back.
        let claim = match &observed.claim {
            ClaimSeen::Present(claim) => Some(*claim),
            ClaimSeen::Unread | ClaimSeen::Absent | ClaimSeen::Foreign(_) => None,
        };
        let state = DomainState {
            name: name.to_owned(),
            qmp: qmp.to_owned(),
            instance,
            wanted: wanted_at_registration(&observed),
            definition: definition.map(|_| first),
            claim,
            dead: false,
            damaged: self.is_registered_in_doubt(id, claim),
            last_job,
        };
        self.append(Some(id), RecordBody::DomainAdded(Box::new(state)));
        let eyes = self.eyes(id);
        *eyes = super::live::Eyes {
            observed: Some(observed.clone()),
            ..Default::default()
        };
        self.watch(id);
        self.begin_listening(id, &observed);
        self.domain_view(id)
            .map(Answer::Domain)
            .ok_or_else(|| Refusal::NoSuchDomain(name.to_owned()))
    }

    fn may_add(
        &self,
        name: &str,
        id: DomainId,
        instance: Instance,
        observed: &Observed,
    ) -> Result<(), Refusal> {
        for other in [self.domain_named(name), Some(id)].into_iter().flatten() {
            let Some(domain) = self.domain(other) else {
                continue;
            };
            self.need_free(other)?;
            let lives = !domain.state.dead
                && domain.state.instance.boot == self.engine.config.boot
                && self
                    .engine
                    .eyes
                    .get(&other)
                    .and_then(|eyes| eyes.observed.as_ref())
                    .is_none_or(|observed| observed.process != Process::Dead);
            if lives && domain.state.name == name {
                let pid = domain.state.instance.pid;
                return Err(Refusal::DomainExists {
                    name: name.to_owned(),
                    pid,
                });
            }
            if lives {
                return Err(Refusal::UuidTaken {
                    uuid: id,
                    name: domain.state.name.clone(),
                });
            }
        }
        let holder = self.engine.state.domains.of_instance(&instance);
        if let Some(domain) = holder.and_then(|holder| self.domain(holder))
            && domain.state.name != name
        {
            let (name, pid) = (domain.state.name.clone(), instance.pid);
            return Err(Refusal::DomainExists { name, pid });
        }
        match &observed.claim {
            ClaimSeen::Unread | ClaimSeen::Absent => {}
            // Taken back with the next claim.
            ClaimSeen::Present(claim) if self.is_own_claim(id, claim) => {}
            ClaimSeen::Present(claim) => {
                return Err(Refusal::Claimed {
                    name: name.to_owned(),
                    claim: claim.to_string(),
                });
            }
            ClaimSeen::Foreign(text) => {
                return Err(Refusal::Claimed {
                    name: name.to_owned(),
                    claim: text.clone(),
                });
            }
        }
        if self.engine.state.domains.len() >= DOMAINS_MAX && self.domain(id).is_none() {
            return Err(Refusal::TooMany {
                what: "domains",
                count_max: DOMAINS_MAX,
            });
        }
        Ok(())
    }

    fn domain_remove(&mut self, name: &str) -> Result<Answer, Refusal> {
        let id = self.need_domain(name)?;
        self.need_free(id)?;
        if self.engine.pending.contains_key(&id) {
            return Err(self.wrong_state(id, "be removed while another request waits for it"));
        }
        let view = self.domain_view(id);
        self.refuse_put_off(id);
        self.append(Some(id), RecordBody::DomainRemoved);
        self.engine.eyes.remove(&id);
        self.send(Message::Unwatch { domain: id });
        if let Some(view) = view {
            self.send(Message::Notify(Notice::DomainRemoved(view)));
        }
        Ok(Answer::Done {})
    }

    /// Puts a request off until QEMU was looked at.
    pub(crate) fn later(
        &mut self,
        token: Token,
        name: &str,
        wish: &'static str,
        pending: impl FnOnce(Token) -> Pending,
    ) {
        let id = match self.need_domain(name) {
            Ok(id) => id,
            Err(refusal) => return self.reply(token, Err(refusal)),
        };
        if self.engine.pending.contains_key(&id) {
            let name = name.to_owned();
            let seen = "about to begin another request".to_owned();
            return self.reply(token, Err(Refusal::WrongState { name, wish, seen }));
        }
        self.engine.pending.insert(id, pending(token));
        if self.needs_settings(id) {
            self.look_at_settings(id);
        }
        self.look_for_disks(id);
        self.look(id);
    }

    // Migrating.

    fn migrate(&mut self, token: Token, request: ControlRequest) {
        let ControlRequest::Migrate {
            name,
            peer,
            peer_domain,
            uri,
            protocol,
            authority,
            postcopy,
            in_doubt_limit,
            options,
            disks,
            ..
        } = &request
        else {
            return;
        };
        let check = || {
            let id = self.need_domain(name)?;
            check_text("peer", peer)?;
            check_text("destination-name", peer_domain)?;
            check_uri(uri)?;
            self.need_free(id)?;
            self.need_room()?;
            self.check_authority(*protocol, *authority, *postcopy, *in_doubt_limit)?;
            check_settings(&options.settings, *postcopy)
                .and_then(|()| check_times(options, *postcopy))
                .map_err(|why| Self::settings_refused(name, why))?;
            if let Some(Err(why)) = disks.as_deref().map(DisksWanted::check) {
                let name = name.clone();
                return Err(Refusal::Disks { name, why });
            }
            if *peer == self.engine.config.peer {
                return Err(Refusal::MigrationToItself(name.clone()));
            }
            Ok(())
        };
        if let Err(refusal) = check() {
            return self.reply(token, Err(refusal));
        }
        let name = name.clone();
        self.later(token, &name, "migrate", |token| Pending::Migrate {
            token,
            request,
        });
    }

    fn check_authority(
        &self,
        protocol: Protocol,
        authority: Authority,
        postcopy: bool,
        in_doubt_limit: Option<u64>,
    ) -> Result<(), Refusal> {
        if postcopy && protocol == Protocol::V2 {
            return Err(Refusal::PostcopyNeedsV3);
        }
        if !is_offered(protocol, authority, false) {
            return Err(Refusal::NoSuchAuthority {
                protocol,
                authority,
            });
        }
        if !is_offered(protocol, authority, postcopy) {
            return Err(Refusal::PostcopyNeedsDestination(authority));
        }
        match authority {
            Authority::Store if self.engine.config.store.is_none() => Err(Refusal::NoStore),
            Authority::Store => Ok(()),
            _ if in_doubt_limit.is_some() => Err(Refusal::NotTheStores),
            Authority::Destination | Authority::Source | Authority::Manager => Ok(()),
        }
    }

    /// A migration begins, after a fresh look.
    pub(crate) fn begin_migrate(&mut self, id: DomainId, token: Token, request: ControlRequest) {
        let result = self.try_begin_migrate(id, request);
        let began = result.as_ref().ok().copied();
        self.reply(
            token,
            result.map(|(job, migration)| Answer::Migrating { job, migration }),
        );
        if let Some((_, migration)) = began {
            self.advance(migration);
        }
    }

    fn try_begin_migrate(
        &mut self,
        id: DomainId,
        request: ControlRequest,
    ) -> Result<(Lsn, MigrationId), Refusal> {
        let ControlRequest::Migrate {
            name,
            migration,
            peer,
            peer_domain,
            uri,
            protocol,
            authority,
            mut max_bandwidth,
            mut downtime_limit,
            postcopy,
            in_doubt_limit,
            mut options,
            disks,
        } = request
        else {
            return Err(self.wrong_state(id, "migrate"));
        };
        self.need_free(id)?;
        let observed = self
            .engine
            .eyes
            .get(&id)
            .and_then(|eyes| eyes.observed.clone());
        let Some(observed) = observed else {
            return Err(self.wrong_state(id, "migrate"));
        };
        let ready = observed.process == Process::Alive
            && matches!(
                observed.run_state,
                Some(RunState::Running | RunState::Paused)
            )
            && matches!(
                status_class(observed.migration.as_ref()),
                StatusClass::None | StatusClass::Ended | StatusClass::Completed
            );
        self.need_undamaged(id)?;
        if !ready {
            return Err(self.wrong_state(id, "migrate"));
        }
        self.may_claim(id).map_err(|claim| Refusal::Claimed {
            name: name.clone(),
            claim,
        })?;
        let refused = |why| Self::settings_refused(&name, why);
        take_terms(
            &mut options.settings,
            &mut max_bandwidth,
            &mut downtime_limit,
        )
        .map_err(refused)?;
        let seen = self
            .take_settings_seen(id, &options.settings)
            .map_err(refused)?;
        let measured = disks.map(|wanted| Ok((self.measure_disks(id, &wanted)?, wanted)));
        let disks = measured.transpose().map_err(|why| Refusal::Disks {
            name: name.clone(),
            why,
        })?;
        let by_store = authority == Authority::Store;
        let terms = MigrationTerms {
            migration,
            role: Role::Source,
            protocol,
            authority,
            peer,
            peer_domain,
            uri,
            max_bandwidth,
            downtime_limit,
            postcopy,
            nonce: None,
            store: by_store.then(|| self.engine.config.store.clone()).flatten(),
            in_doubt_limit: by_store.then(|| in_doubt_limit.unwrap_or(IN_DOUBT_LIMIT_MS_DEFAULT)),
        };
        let kept = Self::settings_to_keep(&terms, &options.settings, &seen).map_err(refused)?;
        self.learn_wanted(id, &observed);
        let begun = JobBegun {
            kind: JobKind::MigrationOut,
            migration: Some(terms),
        };
        self.live(migration).begun = self.wall;
        let job = self.append(Some(id), RecordBody::JobBegun(Box::new(begun)));
        self.tell_settings(id, migration, job, options, kept);
        if let Some((measured, wanted)) = disks {
            self.begin_disks_of_source(id, job, *wanted, measured);
        }
        Ok((job, migration))
    }

    pub(crate) fn job_cancel(&mut self, job: Lsn) -> Result<Answer, Refusal> {
        if let Some(answer) = self.cancel_job(job)? {
            return Ok(answer);
        }
        let migrations = &self.engine.state.migrations;
        let Some(id) = migrations
            .iter()
            .find(|(_, migration)| migration.state.job == job && migration.state.open)
            .map(|(id, _)| *id)
        else {
            return Err(Refusal::NoSuchJob(job));
        };
        self.cancel_migration(id, "cancelled on request")
    }

    /// Gives a migration up, if it still can be.
    ///
    /// # Errors
    /// Its outcome is no longer this side's to choose.
    pub(crate) fn cancel_migration(
        &mut self,
        id: MigrationId,
        why: &str,
    ) -> Result<Answer, Refusal> {
        let Some(migration) = self.migration(id).cloned() else {
            return Ok(Answer::Done {});
        };
        self.need_registered(migration.domain)?;
        let job = migration.state.job;
        let phase = migration.state.phase;
        let in_postcopy = migration.state.postcopy && !migration.state.abandoned;
        if migration.state.terms.role == Role::Destination
            || migration.may_be_granted()
            || in_postcopy
        {
            return Err(Refusal::TooLate {
                job,
                phase: AnyPhase::Migration(phase),
            });
        }
        // With this copy gone the other one may be the last; before the first look nobody knows.
        let may_be_dead = self
            .evidence(id)
            .is_none_or(|evidence| evidence.observed.process == Process::Dead);
        if may_be_dead && migration.state.migrate_intended {
            return Err(Refusal::TooLate {
                job,
                phase: AnyPhase::Migration(phase),
            });
        }
        self.abandon(id, why, true);
        self.look(migration.domain);
        self.advance(id);
        Ok(Answer::Done {})
    }

    // The owner's stop and cont.

    pub(crate) fn begin_set_wanted(&mut self, id: DomainId, token: Token, wanted: WantedRunState) {
        let migration = self.domain(id).and_then(|domain| domain.migration);
        let result = match migration {
            Some(migration) => self.set_wanted_in_job(id, migration, token, wanted),
            None => self.set_wanted_idle(id, token, wanted),
        };
        match result {
            Ok(None) => {}
            Ok(Some(answer)) => self.reply(token, Ok(answer)),
            Err(refusal) => self.reply(token, Err(refusal)),
        }
    }

    /// `None`: the caller waits for the effect. What is answered is carried out, whatever comes.
    fn set_wanted_in_job(
        &mut self,
        id: DomainId,
        migration: MigrationId,
        token: Token,
        wanted: WantedRunState,
    ) -> Result<Option<Answer>, Refusal> {
        let Some(known) = self.migration(migration) else {
            return Ok(Some(Answer::Done {}));
        };
        let state = &known.state;
        let (job, phase) = (state.job, state.phase);
        let is_open = state.terms.role == Role::Source
            && state.granted.is_none()
            && !state.abandoned
            && matches!(phase, Phase::Begin3 | Phase::Perform2 | Phase::Perform3);
        let in_flight = state.in_flight.as_ref().map(|(_, command)| command.clone());
        if !is_open || !self.is_before_switchover(migration) {
            return Err(Refusal::TooLate {
                job,
                phase: AnyPhase::Migration(phase),
            });
        }
        if matches!(in_flight, Some(EffectCommand::Stop | EffectCommand::Cont)) {
            return Err(self.wish_failed(id, "an earlier one is being carried out"));
        }
        self.drop_wish(migration, "another one came before it was carried out");
        self.want(id, wanted, WantedReason::Asked);
        let is_planned = self.want_during_perform(migration, wanted);
        if is_planned {
            self.live(migration).wish = Some(token);
        }
        self.advance(migration);
        Ok((!is_planned).then_some(Answer::Done {}))
    }

    fn wish_failed(&self, id: DomainId, why: &str) -> Refusal {
        let name = self.domain(id).map(|one| one.state.name.clone());
        Refusal::Effect {
            name: name.unwrap_or_default(),
            result: format!("the suspend or resume was not carried out: {why}"),
        }
    }

    /// The owner's stop or cont that is only planned will not be: whoever waits for it is told.
    pub(crate) fn drop_wish(&mut self, migration: MigrationId, why: &str) {
        let Some(known) = self.migration(migration) else {
            return;
        };
        let (id, in_flight) = (known.domain, known.state.in_flight.clone());
        if matches!(
            in_flight,
            Some((_, EffectCommand::Stop | EffectCommand::Cont))
        ) {
            return;
        }
        let live = self.live(migration);
        live.plan
            .retain(|command| !matches!(command, EffectCommand::Stop | EffectCommand::Cont));
        if let Some(token) = live.wish.take() {
            let refusal = self.wish_failed(id, why);
            self.reply(token, Err(refusal));
        }
    }

    /// `None`: the caller waits for the effect.
    fn set_wanted_idle(
        &mut self,
        id: DomainId,
        token: Token,
        wanted: WantedRunState,
    ) -> Result<Option<Answer>, Refusal> {
        self.need_beside(id, JobKind::Suspend)?;
        let (wish, command) = match wanted {
            WantedRunState::Running => ("be resumed", EffectCommand::Cont),
            WantedRunState::Paused => ("be suspended", EffectCommand::Stop),
        };
        let observed = self
            .engine
            .eyes
            .get(&id)
            .and_then(|eyes| eyes.observed.as_ref());
        let ready = observed.is_some_and(|observed| {
            observed.process == Process::Alive
                && matches!(
                    observed.run_state,
                    Some(RunState::Running | RunState::Paused | RunState::Prelaunch)
                )
                // A paused guest whose migration failed stays like this.
                || observed.process == Process::Alive
                    && observed.run_state == Some(RunState::Postmigrate)
                    && match observed.migration {
                        Some(MigrationStatus::Failed | MigrationStatus::Cancelled) => true,
                        Some(MigrationStatus::Completed) => self.is_here(id),
                        _ => false,
                    }
        });
        let owned = self
            .domain(id)
            .is_some_and(|domain| domain.owner_effect.is_none());
        self.need_undamaged(id)?;
        if !ready || !owned {
            return Err(self.wrong_state(id, wish));
        }
        self.want(id, wanted, WantedReason::Asked);
        if let Some(effect) = self.intend_for(id, None, command) {
            self.engine.owners.insert(effect, token);
        }
        Ok(None)
    }

    pub(crate) fn reply_to_owner(&mut self, token: Token, id: DomainId, result: &EffectResult) {
        let answer = match result {
            EffectResult::Done => Ok(Answer::Done {}),
            EffectResult::Refused { .. }
            | EffectResult::NotSent { .. }
            | EffectResult::Unknown { .. } => {
                let name = self
                    .domain(id)
                    .map(|one| one.state.name.clone())
                    .unwrap_or_default();
                Err(Refusal::Effect {
                    name,
                    result: describe(result),
                })
            }
        };
        self.reply(token, answer);
    }
}

/// What the owner wants of a guest that is registered as it was seen. One that waits for a
/// migration has no run state of its own yet.
fn wanted_at_registration(observed: &Observed) -> WantedRunState {
    match observed.run_state {
        Some(RunState::Paused | RunState::Prelaunch) => WantedRunState::Paused,
        _ => WantedRunState::Running,
    }
}
