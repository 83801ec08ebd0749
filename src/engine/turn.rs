//! One step in the making: the tools that the protocol's parts share.
//!
//! Invariant: every effect is appended as an intent in the same step; every record is applied the
//! moment it is appended.
//! Not here: what to do (`source`, `destination`, `control`, `peer`).

use journal_format::number::{DomainId, Lsn, MigrationId, Position};
use journal_format::record::{
    ClaimSeen, Decided, Decision, Draft, Effect, EffectCommand, EffectFinished, EffectIntended,
    EffectResult, Evidence, JobEnded, JobResult, MigrationState, MigrationStatus, Observed,
    PeerAnswer, Phase, PhaseEntered, Process, QemuObserved, RecordBody, Role, RunState,
    StoreAnswer, TEXT_SIZE_MAX, WantedChanged, WantedReason, WantedRunState,
};

use super::decide::{StatusClass, status_class};
use super::job::JobLive;
use super::live::{Eyes, Live, Pending};
use super::state::{Domain, Job, Migration};
use super::{
    Answer, Engine, Envelope, Message, Notice, Now, PeerResponse, QemuEvent, Refusal, Rule, Step,
    Token, decide,
};

/// Shortest and longest pause between looks at a domain with an open job, in milliseconds.
pub(crate) const LOOK_INTERVAL_MS: (u64, u64) = (50, 2_000);
/// Shortest and longest pause between equal effects, in milliseconds.
pub(crate) const EFFECT_DELAY_MS: (u64, u64) = (50, 2_000);
/// How often one step may decide about one migration: a bound, never reached by the table.
const ADVANCES_MAX: u32 = 16;

pub(crate) struct Turn<'a> {
    pub(crate) engine: &'a mut Engine,
    /// Milliseconds since boot.
    pub(crate) now: u64,
    /// Nanoseconds since 1970.
    pub(crate) wall: u64,
    step: Step,
}

/// A text short enough for a record, cut between characters.
pub(crate) fn short(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_SIZE_MAX / 4)].to_owned()
}

/// The next pause: twice the last one, within the limits.
pub(crate) fn longer(delay: u64, (least, most): (u64, u64)) -> u64 {
    delay.saturating_mul(2).clamp(least, most)
}

impl<'a> Turn<'a> {
    pub(crate) fn new(engine: &'a mut Engine, now: Now) -> Turn<'a> {
        Turn {
            engine,
            now: now.monotonic / 1_000_000,
            wall: now.wall,
            step: Step::default(),
        }
    }

    pub(crate) fn finish(self) -> Step {
        self.step
    }

    // Reading.

    pub(crate) fn domain(&self, id: DomainId) -> Option<&Domain> {
        self.engine.state.domains.get(&id)
    }

    pub(crate) fn migration(&self, id: MigrationId) -> Option<&Migration> {
        self.engine.state.migrations.get(&id)
    }

    pub(crate) fn live(&mut self, id: MigrationId) -> &mut Live {
        self.engine.live.entry(id).or_default()
    }

    fn open_migration(&self, id: DomainId) -> Option<(MigrationId, Role)> {
        let migration = self.domain(id)?.migration?;
        Some((migration, self.migration(migration)?.state.terms.role))
    }

    pub(crate) fn eyes(&mut self, id: DomainId) -> &mut Eyes {
        self.engine.eyes.entry(id).or_default()
    }

    /// Where this journal stands, with everything of this step so far.
    pub(crate) fn position(&self) -> Position {
        let config = &self.engine.config;
        Position {
            journal: config.journal,
            epoch: config.epoch,
            opening: config.opening,
            lsn: Lsn(self.engine.next.0.saturating_sub(1)),
        }
    }

    /// What goes with every message to a peer whose position was last seen to be `saw`.
    pub(crate) fn envelope(&self, saw: Option<Position>) -> Envelope {
        Envelope {
            sender: self.position(),
            saw,
        }
    }

    /// Everything a decision about this migration may look at now.
    pub(crate) fn evidence(&mut self, id: MigrationId) -> Option<Evidence> {
        self.engine.live.entry(id).or_default();
        self.evidence_now(id)
    }

    pub(crate) fn evidence_now(&self, id: MigrationId) -> Option<Evidence> {
        let migration = self.engine.state.migrations.get(&id)?;
        let domain = self.engine.state.domains.get(&migration.domain)?;
        let observed = self.engine.eyes.get(&migration.domain)?.observed.clone()?;
        let live = self.engine.live.get(&id)?;
        Some(Evidence {
            role: migration.state.terms.role,
            protocol: migration.state.terms.protocol,
            authority: migration.state.terms.authority,
            phase: migration.state.phase,
            facts: migration.facts(),
            observed,
            claim: domain.state.claim,
            peer: peer_of(live, &migration.state),
            watched: live.is_watched(&migration.state),
            recovering: live.recovering,
            journal_damaged: domain.state.damaged,
            wanted: domain.state.wanted,
            store: live.key.answer,
            overdue: self.is_overdue(live, migration),
            source_touched: migration.state.source_touched,
        })
    }

    /// Has the licence been out without an outcome for as long as was set, in this life?
    fn is_overdue(&self, live: &Live, migration: &Migration) -> bool {
        let since = live.key.in_doubt_since;
        let limit = migration.state.terms.in_doubt_limit;
        since
            .zip(limit)
            .is_some_and(|(since, limit)| self.now.saturating_sub(since) >= limit)
    }

    // Writing.

    pub(crate) fn append(&mut self, domain: Option<DomainId>, body: RecordBody) -> Lsn {
        let record = self.engine.apply(Draft { domain, body });
        self.notice(domain, record.lsn, &record.body);
        self.step.append.push(Draft {
            domain,
            body: record.body,
        });
        record.lsn
    }

    /// Appends a record about a migration's domain; nothing if the migration is not known.
    pub(crate) fn record(&mut self, id: MigrationId, body: RecordBody) -> Option<Lsn> {
        let domain = self.migration(id)?.domain;
        Some(self.append(Some(domain), body))
    }

    pub(crate) fn enter(&mut self, id: MigrationId, phase: Phase) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        if migration.state.phase != phase {
            let body = RecordBody::PhaseEntered(PhaseEntered {
                job: migration.state.job,
                phase,
            });
            self.record(id, body);
        }
    }

    /// Records the intent of an effect of a job, and sends it.
    pub(crate) fn intend(&mut self, id: MigrationId, command: EffectCommand) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let (domain, job) = (migration.domain, migration.state.job);
        let live = self.live(id);
        live.effect_delay = longer(live.effect_delay, EFFECT_DELAY_MS);
        let delay = live.effect_delay;
        self.live(id).effect_at = self.now + delay;
        self.intend_for(domain, Some(job), command);
    }

    /// Records the intent of an effect on a domain, and sends it.
    pub(crate) fn intend_for(
        &mut self,
        id: DomainId,
        job: Option<Lsn>,
        command: EffectCommand,
    ) -> Option<Lsn> {
        let instance = self.domain(id)?.state.instance;
        let intended = EffectIntended {
            job,
            instance,
            command: command.clone(),
        };
        let intent = self.append(Some(id), RecordBody::EffectIntended(intended));
        self.step.effects.push(Effect {
            intent,
            domain: id,
            instance,
            command,
        });
        self.eyes(id).fresh = false;
        Some(intent)
    }

    /// May an effect that was sent before be sent again now?
    pub(crate) fn effect_due(&mut self, id: MigrationId) -> bool {
        let now = self.now;
        self.live(id).effect_at <= now
    }

    pub(crate) fn want(&mut self, id: DomainId, wanted: WantedRunState, why: WantedReason) {
        if self
            .domain(id)
            .is_some_and(|domain| domain.state.wanted != wanted)
        {
            self.append(
                Some(id),
                RecordBody::WantedChanged(WantedChanged { wanted, why }),
            );
        }
    }

    pub(crate) fn send(&mut self, message: Message) {
        self.step.messages.push(message);
    }

    pub(crate) fn reply(&mut self, token: Token, result: Result<Answer, Refusal>) {
        self.send(Message::Reply { token, result });
    }

    pub(crate) fn peer_reply(
        &mut self,
        token: Token,
        saw: Option<Position>,
        response: PeerResponse,
    ) {
        let envelope = self.envelope(saw);
        self.send(Message::PeerReply {
            token,
            envelope,
            response,
            rests_on: None,
        });
    }

    pub(crate) fn watch(&mut self, id: DomainId) {
        let Some(domain) = self.domain(id) else {
            return;
        };
        let message = Message::Watch {
            domain: id,
            name: domain.state.name.clone(),
            qmp: domain.state.qmp.clone(),
            instance: domain.state.instance,
        };
        self.send(message);
    }

    /// Tells everyone on the control socket what a record says.
    fn notice(&mut self, domain: Option<DomainId>, lsn: Lsn, body: &RecordBody) {
        let Some(id) = domain else { return };
        let migration = self.domain(id).and_then(|domain| domain.migration);
        let notice = match body {
            RecordBody::DomainAdded(_) => self.domain_view(id).map(Notice::DomainAdded),
            RecordBody::WantedChanged(_) => self.domain_view(id).map(Notice::WantedChanged),
            RecordBody::JobPhaseEntered(entered) => self.notice_of_job(lsn, entered),
            RecordBody::JobDecided(decided) => {
                let view = self.job_decision_view(id, lsn, decided);
                view.map(Notice::Decision)
            }
            RecordBody::JobBegun(begun) => migration
                .filter(|_| begun.migration.is_some())
                .and_then(|id| self.job_view(id))
                .map(Notice::JobBegun),
            RecordBody::PhaseEntered(_) => migration
                .and_then(|id| self.job_view(id))
                .map(Notice::PhaseEntered),
            RecordBody::Decided(decided) => {
                self.decision_view(id, lsn, decided).map(Notice::Decision)
            }
            RecordBody::JobEnded(_) => self.ended_job_view(id).map(Notice::JobEnded),
            _ => None,
        };
        if let Some(notice) = notice {
            self.send(Message::Notify(notice));
        }
    }

    // Looking.

    /// Look once more: what was seen so far may be old.
    pub(crate) fn look(&mut self, id: DomainId) {
        let eyes = self.eyes(id);
        eyes.fresh = false;
        if eyes.looking {
            eyes.again = true;
        } else {
            eyes.looking = true;
            self.send(Message::Look { domain: id });
        }
    }

    pub(crate) fn looked(&mut self, id: DomainId, mut observed: Observed) {
        let Some(domain) = self.domain(id) else {
            return;
        };
        bound(&mut observed);
        let boot = self.engine.config.boot;
        if domain.state.instance.boot != boot || domain.state.dead {
            observed.process = Process::Dead;
        }
        match observed.process {
            // Whatever is done to it meanwhile is not seen.
            Process::Mute | Process::OtherInstance => {
                if let Some((migration, role)) = self.open_migration(id) {
                    self.live(migration).break_watch(role);
                }
            }
            Process::Alive | Process::Dead => {}
        }
        let now = self.now;
        let dead = observed.process == Process::Dead;
        let eyes = self.eyes(id);
        let changed = eyes.observed.as_ref() != Some(&observed);
        eyes.observed = Some(observed);
        eyes.looking = false;
        eyes.fresh = dead || !eyes.again;
        eyes.interval = if changed {
            LOOK_INTERVAL_MS.0
        } else {
            longer(eyes.interval, LOOK_INTERVAL_MS)
        };
        eyes.look_at = now + eyes.interval;
        if core::mem::take(&mut eyes.again) && !dead {
            self.look(id);
            return;
        }
        self.fresh_look(id);
    }

    fn fresh_look(&mut self, id: DomainId) {
        let migrations = self.migrations_of(id);
        for migration in &migrations {
            self.answer_lookers(*migration);
        }
        self.tell_finders(id);
        self.begin_pending(id);
        self.next_of_monitor(id);
        match self.domain(id).and_then(|domain| domain.migration) {
            Some(migration) => self.advance(migration),
            None if self.has_jobs(id) => {}
            None => self.look_at_idle(id),
        }
        self.advance_jobs_of(id);
        self.check_ready();
    }

    /// A domain without a job: its death, and what its owner did to it, are worth a record.
    fn look_at_idle(&mut self, id: DomainId) {
        let Some(observed) = self.eyes(id).observed.clone() else {
            return;
        };
        let Some(domain) = self.domain(id) else {
            return;
        };
        if domain.owner_effect.is_some() || domain.state.damaged {
            return;
        }
        if observed.process == Process::Dead {
            if !domain.state.dead {
                let body = RecordBody::QemuObserved(Box::new(QemuObserved {
                    job: None,
                    observed,
                }));
                self.append(Some(id), body);
            }
            return;
        }
        self.learn_wanted(id, &observed);
    }

    /// Outside any blackout, running and paused are the owner's own doing (P8).
    pub(crate) fn learn_wanted(&mut self, id: DomainId, observed: &Observed) {
        if observed.process != Process::Alive {
            return;
        }
        match observed.run_state {
            Some(RunState::Running) => {
                self.want(id, WantedRunState::Running, WantedReason::Seen);
            }
            Some(RunState::Paused) => {
                self.want(id, WantedRunState::Paused, WantedReason::Seen);
            }
            _ => {}
        }
    }

    pub(crate) fn event(&mut self, id: DomainId, event: &QemuEvent) {
        if let Some((migration, role)) = self.open_migration(id) {
            let live = self.live(migration);
            match event {
                QemuEvent::Passes { count } => {
                    live.passes = *count;
                    return self.advance(migration);
                }
                QemuEvent::Stop => live.stop_seen = true,
                QemuEvent::Resume | QemuEvent::Lost => live.break_watch(role),
                QemuEvent::Converging { downtime } => {
                    live.converging = Some(*downtime);
                    // Nothing happened to QEMU: what was seen of it is no older.
                    return self.advance(migration);
                }
                QemuEvent::Migration(status) => {
                    if status_class(Some(status)) == StatusClass::PreSwitchover {
                        live.blackout = true;
                    }
                }
            }
        }
        self.look(id);
    }

    /// Writes down the look that the next record rests on, once.
    pub(crate) fn cite_look(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let (domain, job) = (migration.domain, migration.state.job);
        let Some(observed) = self.eyes(domain).observed.clone() else {
            return;
        };
        if self.live(id).recorded.as_ref() == Some(&observed) {
            return;
        }
        self.live(id).recorded = Some(observed.clone());
        let body = RecordBody::QemuObserved(Box::new(QemuObserved {
            job: Some(job),
            observed,
        }));
        self.append(Some(domain), body);
    }

    // Deciding.

    /// Takes a migration as far as it goes with what is known.
    pub(crate) fn advance(&mut self, id: MigrationId) {
        for _ in 0..ADVANCES_MAX {
            if !self.advance_once(id) {
                break;
            }
        }
        self.answer_waiting(id);
    }

    /// Was something changed that may let it go further at once?
    fn advance_once(&mut self, id: MigrationId) -> bool {
        let Some(migration) = self.migration(id) else {
            return false;
        };
        let (domain, role) = (migration.domain, migration.state.terms.role);
        if !migration.state.open {
            self.after_end(id);
            return false;
        }
        if migration.state.in_flight.is_some() {
            self.judge_in_flight(id);
            return false;
        }
        if !self.eyes(domain).fresh {
            if !self.eyes(domain).looking {
                self.look(domain);
            }
            return false;
        }
        let Some(evidence) = self.evidence(id) else {
            return false;
        };
        if self.judge(id, &evidence) {
            return true;
        }
        if evidence.journal_damaged {
            return self.advance_over_gap(id, evidence);
        }
        // That it is gone, or mute, is on record before anything follows from it: what showed that records are missing is not seen now.
        if evidence.observed.process != Process::Alive
            && self.migration(id).is_some_and(Migration::is_held_as_older)
        {
            let before = self.engine.next;
            self.cite_look(id);
            if self.engine.next != before {
                return true;
            }
        }
        let rule = decide(&evidence);
        let live = self.live(id);
        live.decided = true;
        live.rule = rule;
        let before = self.engine.next;
        if rule != Some(Rule::DestinationPostcopyBroken) {
            if self.give_up_stream(id, &evidence) {
                return self.engine.next != before;
            }
            self.refuse_resume(id, "the stream is not broken here");
        }
        match (rule, role) {
            (Some(rule), Role::Source) => {
                self.record_decision(id, rule, evidence);
                self.carry_out_source(id, rule);
            }
            (Some(rule), Role::Destination) => {
                self.record_decision(id, rule, evidence);
                if self.release_disks(id, rule) {
                    self.carry_out_destination(id, rule);
                }
            }
            (None, Role::Source) => self.proceed_source(id, &evidence),
            (None, Role::Destination) => self.proceed_destination(id, &evidence),
        }
        self.engine.next != before
    }

    /// A decision is recorded once, until another rule holds. A hold that is only the protocol's
    /// ordinary waiting is not one yet.
    pub(crate) fn record_decision(&mut self, id: MigrationId, rule: Rule, evidence: Evidence) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        if migration.state.last_rule.as_deref() == Some(rule.name()) {
            return;
        }
        let ordinary = rule.decision() == Decision::Hold && !evidence.recovering && {
            use journal_format::record::PeerAnswer::{Amnesia, Unreachable};
            let is_ordinary = matches!(
                rule,
                Rule::SourcePerformCompleted
                    | Rule::SourcePerformPostcopy
                    | Rule::SourceGrantedInDoubt
                    | Rule::SourceStoreInDoubt
                    | Rule::DestinationStoreProposed
            );
            is_ordinary
                && !matches!(evidence.peer, Unreachable | Amnesia)
                && evidence.store != StoreAnswer::Unreachable
        };
        if !ordinary {
            self.decided(id, rule, rule.decision(), evidence);
        }
    }

    /// Records a decision with the look it rests on.
    pub(crate) fn decided(
        &mut self,
        id: MigrationId,
        rule: Rule,
        decision: Decision,
        evidence: Evidence,
    ) -> Option<(Lsn, Decided)> {
        self.cite_look(id);
        self.cite_histories(id);
        let migration = self.migration(id)?;
        let decided = Decided {
            job: migration.state.job,
            rule: rule.name().to_owned(),
            decision,
            evidence,
            based_on: migration.based_on(),
        };
        let lsn = self.record(id, RecordBody::Decided(Box::new(decided.clone())))?;
        Some((lsn, decided))
    }

    /// Ends a job: its domain is free. What it was about stays until the other side knows.
    pub(crate) fn end(&mut self, id: MigrationId, result: JobResult, detail: &str) {
        self.cite_look(id);
        let Some(migration) = self.migration(id) else {
            return;
        };
        let (domain, job) = (migration.domain, migration.state.job);
        let detail = self.ended_with(id, detail);
        let more = self.settings_detail(id);
        let detail = more.map_or(detail.clone(), |more| format!("{detail}; {more}"));
        let ended = JobEnded {
            job,
            result,
            detail: short(&detail),
        };
        self.append(Some(domain), RecordBody::JobEnded(ended));
        self.drop_wish(id, "the job ended");
        self.refuse_prepare(id, "the job ended");
        self.refuse_resume(id, "the job ended");
        self.refuse_verdict(id, "the job ended");
        let live = self.live(id);
        live.blackout = false;
        live.rule = None;
        live.plan.clear();
        live.ask_at = 0;
        live.ask_delay = 0;
        self.look(domain);
        self.after_end(id);
    }

    pub(crate) fn effect_finished(&mut self, effect: Lsn, result: EffectResult) {
        let owner = self.engine.owners.remove(&effect);
        let domain = self.engine.state.domains.iter().find_map(|(id, domain)| {
            let is_it = domain
                .owner_effect
                .as_ref()
                .is_some_and(|(intent, _)| *intent == effect);
            is_it.then_some(*id)
        });
        if let Some(id) = domain {
            let body = RecordBody::EffectFinished(EffectFinished {
                effect,
                result: shortened(&result),
            });
            let needs_look = self.needs_look(id);
            self.append(Some(id), body);
            if needs_look {
                self.look(id);
            }
            if let Some(token) = owner {
                self.reply_to_owner(token, id, &result);
            }
            self.next_of_monitor(id);
            return;
        }
        if self.finish_job_effect(effect, &result) {
            return;
        }
        let migration = self
            .engine
            .state
            .migrations
            .iter()
            .find_map(|(id, migration)| {
                let in_flight = migration.state.in_flight.as_ref()?;
                (in_flight.0 == effect).then(|| (*id, migration.domain, in_flight.1.clone()))
            });
        let Some((id, domain, command)) = migration else {
            return;
        };
        let body = RecordBody::EffectFinished(EffectFinished {
            effect,
            result: shortened(&result),
        });
        self.append(Some(domain), body);
        if result == EffectResult::Done {
            let live = self.live(id);
            live.effect_delay = 0;
            live.effect_at = 0;
        }
        self.look(domain);
        self.put_back_finished(id, &command, &result);
        match self
            .migration(id)
            .map(|migration| migration.state.terms.role)
        {
            Some(Role::Source) => self.source_effect_finished(id, &command, &result),
            Some(Role::Destination) => self.destination_effect_finished(id, &command, &result),
            None => {}
        }
        self.advance(id);
    }

    pub(crate) fn tick(&mut self) {
        let due: Vec<DomainId> = {
            let now = self.now;
            let engine = &self.engine;
            let is_due = |id: &DomainId| {
                engine
                    .eyes
                    .get(id)
                    .is_none_or(|eyes| !eyes.looking && eyes.look_at <= now)
            };
            let open = engine
                .state
                .domains
                .iter()
                .filter(|(_, domain)| domain.migration.is_some());
            open.map(|(id, _)| *id).filter(is_due).collect()
        };
        for id in due {
            self.look(id);
        }
        let migrations: Vec<MigrationId> = self.engine.state.migrations.keys().copied().collect();
        for id in migrations {
            self.keep_deadline(id);
            self.advance(id);
        }
        self.tick_jobs();
        self.check_ready();
    }

    /// The migrations of a domain, open and kept.
    pub(crate) fn migrations_of(&self, id: DomainId) -> Vec<MigrationId> {
        let migrations = self.engine.state.migrations.iter();
        migrations
            .filter(|(_, migration)| migration.domain == id)
            .map(|(id, _)| *id)
            .collect()
    }

    pub(crate) fn check_ready(&mut self) {
        let engine = &mut self.engine;
        if engine.ready {
            return;
        }
        let settled = |(id, migration): (&MigrationId, &Migration)| {
            let live = engine.live.get(id);
            !migration.state.open
                || !engine.state.domains.contains_key(&migration.domain)
                || live.is_some_and(|live| live.decided || !live.recovering)
        };
        let is_settled = |(job, known): (&Lsn, &Job)| {
            let live = engine.job_live.get(job);
            !engine.state.domains.contains_key(&known.domain)
                || live.is_none_or(JobLive::is_settled)
        };
        if engine.state.migrations.iter().all(settled) && engine.state.jobs.iter().all(is_settled) {
            engine.ready = true;
            self.send(Message::Ready);
        }
    }

    /// A request begins once QEMU was looked at.
    pub(crate) fn begin_pending(&mut self, id: DomainId) {
        if self.awaits_settings(id) || self.awaits_block_graph(id) || self.awaits_others(id) {
            return;
        }
        match self.engine.pending.remove(&id) {
            Some(Pending::Migrate { token, request }) => self.begin_migrate(id, token, request),
            Some(Pending::Prepare {
                token,
                envelope,
                nonce,
                request,
            }) => {
                self.begin_prepare(id, token, envelope, nonce, request);
            }
            Some(Pending::SetWanted { token, wanted }) => self.begin_set_wanted(id, token, wanted),
            Some(Pending::JobBegin {
                token,
                kind,
                cookie,
            }) => self.begin_job(id, token, kind, cookie),
            Some(Pending::JobPhase { token, wanted }) => self.begin_phase(id, token, wanted),
            Some(Pending::Word {
                token,
                uid,
                command,
            }) => self.monitor_seen(token, id, uid, command, true),
            None => {}
        }
    }
}

/// Whatever QEMU says, it fits into a record.
fn bound(observed: &mut Observed) {
    if let ClaimSeen::Foreign(text) = &mut observed.claim {
        *text = short(text);
    }
    if let Some(RunState::Other(text)) = &mut observed.run_state {
        *text = short(text);
    }
    if let Some(MigrationStatus::Other(text)) = &mut observed.migration {
        *text = short(text);
    }
}

/// A result whose texts fit into a record.
pub(crate) fn shortened(result: &EffectResult) -> EffectResult {
    match result {
        EffectResult::Done => EffectResult::Done,
        EffectResult::Refused { class, description } => EffectResult::Refused {
            class: short(class),
            description: short(description),
        },
        EffectResult::NotSent { why } => EffectResult::NotSent { why: short(why) },
        EffectResult::Unknown { why } => EffectResult::Unknown { why: short(why) },
    }
}

/// What the other side says. A source that gave up and heard that the guest was started there all the same does
/// not forget it, until an operator who was told so has spoken.
fn peer_of(live: &Live, state: &MigrationState) -> PeerAnswer {
    let is_known = state.abandoned && state.peer_answer == PeerAnswer::Started;
    match is_known && state.last_rule.as_deref() != Some(Rule::OperatorResolved.name()) {
        true => PeerAnswer::Started,
        false => live.peer,
    }
}
