//! How a job goes on: effects one after the other, looks, and what recovery decides.
//!
//! Invariant: nothing is decided but on a look that is newer than the last effect.
//! Not here: what a rule does (`recover`).

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{
    EffectCommand, EffectFinished, EffectResult, JobDecided, JobEnded, JobEvidence, JobKind,
    JobPhase, JobResult, NodesSeen, PeerAnswer, Process, QemuJobSeen, QemuObserved, RecordBody,
    WantedReason, WantedRunState,
};

use super::decide::decide_job;
use super::meaning::meaning;
use crate::engine::source::describe;
use crate::engine::turn::{EFFECT_DELAY_MS, LOOK_INTERVAL_MS, Turn, longer, short, shortened};
use crate::engine::{Answer, JobSeen, Message, Refusal, Rule};

/// How often one step may decide about one job: a bound, never reached by the table.
const ADVANCES_MAX: u32 = 64;

impl Turn<'_> {
    // Looking.

    /// Look once more at what jobs left: what was seen so far may be old.
    pub(crate) fn look_at_job(&mut self, id: DomainId) {
        let eyes = self.engine.job_eyes.entry(id).or_default();
        eyes.fresh = false;
        if eyes.looking {
            eyes.again = true;
        } else {
            eyes.looking = true;
            self.send(Message::LookAtJob { domain: id });
        }
    }

    pub(crate) fn job_looked(&mut self, id: DomainId, mut seen: JobSeen) {
        for job in seen.qemu_jobs.iter_mut().flatten() {
            job.error = job.error.take().map(|text| short(&text));
        }
        let now = self.now;
        let eyes = self.engine.job_eyes.entry(id).or_default();
        let has_changed = eyes.seen.as_ref() != Some(&seen);
        eyes.looking = false;
        eyes.seen = Some(seen);
        eyes.fresh = !eyes.again;
        eyes.interval = match has_changed {
            true => LOOK_INTERVAL_MS.0,
            false => longer(eyes.interval, LOOK_INTERVAL_MS),
        };
        eyes.look_at = now + eyes.interval;
        if core::mem::take(&mut eyes.again) {
            return self.look_at_job(id);
        }
        self.disks_looked(id);
        self.advance_jobs_of(id);
        self.check_ready();
    }

    pub(crate) fn advance_jobs_of(&mut self, id: DomainId) {
        let jobs: Vec<Lsn> = self
            .engine
            .state
            .jobs_of(id)
            .map(|job| job.state.job)
            .collect();
        for job in jobs {
            self.advance_job(job);
        }
    }

    /// Time passed: jobs that somebody waits for, or that nobody drives, are looked at again.
    pub(crate) fn tick_jobs(&mut self) {
        self.tick_sought();
        let jobs: Vec<(Lsn, DomainId)> = {
            let jobs = self.engine.state.jobs.iter();
            jobs.map(|(job, known)| (*job, known.domain)).collect()
        };
        for (job, id) in jobs {
            let now = self.now;
            let is_due = |looking: bool, look_at: u64| !looking && look_at <= now;
            let is_driven = self.is_driven(job);
            // Nobody says when one is over that was recognised.
            let is_recognised = self.job(job).is_some_and(|known| known.state.recognised);
            let eyes = self.eyes(id);
            if (!is_driven || is_recognised) && is_due(eyes.looking, eyes.look_at) {
                self.look(id);
            }
            if !is_driven {
                let eyes = self.engine.job_eyes.entry(id).or_default();
                if is_due(eyes.looking, eyes.look_at) {
                    self.look_at_job(id);
                }
            }
            self.advance_job(job);
            self.ask_other_side(job);
        }
    }

    /// Does its manager drive it, so that only the end of QEMU is to be decided about?
    fn is_driven(&self, job: Lsn) -> bool {
        let is_cancelled = self
            .job(job)
            .is_some_and(|known| known.state.phase == JobPhase::Cancel);
        let live = self.engine.job_live.get(&job);
        !is_cancelled && live.is_none_or(|live| !live.recovering && live.ending.is_none())
    }

    /// Everything a decision about this job may look at now; `None` while not all of it was seen.
    pub(super) fn job_evidence(&self, job: Lsn) -> Option<JobEvidence> {
        let known = self.job(job)?;
        let domain = self.domain(known.domain)?;
        let observed = self.seen_now(known.domain)?;
        let seen = match observed.process {
            Process::Alive => self.engine.job_eyes.get(&known.domain),
            Process::Mute | Process::Dead | Process::OtherInstance => None,
        };
        let seen = seen.and_then(|eyes| eyes.seen.clone()).unwrap_or_default();
        let state = &known.state;
        let nodes = nodes_seen(&state.nodes, &seen);
        if nodes == NodesSeen::Unread
            && !state.nodes.is_empty()
            && observed.process == Process::Alive
            && !self.is_driven(job)
        {
            return None;
        }
        let qemu_jobs = seen.qemu_jobs.map(|listed| {
            let own = state.qemu_jobs.iter().map(|id| {
                let found = listed.iter().find(|one| one.id == *id).cloned();
                found.unwrap_or(QemuJobSeen {
                    id: id.clone(),
                    status: None,
                    error: None,
                })
            });
            own.collect()
        });
        Some(JobEvidence {
            kind: state.kind,
            phase: state.phase,
            facts: state.facts(),
            observed,
            dump: seen.dump,
            qemu_jobs,
            nodes,
            claim: domain.state.claim,
            recovering: self
                .engine
                .job_live
                .get(&job)
                .is_some_and(|live| live.recovering),
            recognised: state.recognised,
            journal_damaged: domain.state.damaged,
            wanted: domain.state.wanted,
            peer: self
                .engine
                .job_live
                .get(&job)
                .map_or(PeerAnswer::NotAsked, |live| live.pairing.peer),
        })
    }

    /// Are the looks that a decision rests on newer than the last effect?
    fn is_fresh(&mut self, job: Lsn, id: DomainId) -> bool {
        let needs_more = !self.is_driven(job);
        let eyes = self.eyes(id);
        let (fresh, looking) = (eyes.fresh, eyes.looking);
        let is_alive = eyes
            .observed
            .as_ref()
            .is_some_and(|observed| observed.process == Process::Alive);
        if !fresh && !looking {
            self.look(id);
        }
        if !needs_more || fresh && !is_alive {
            return fresh;
        }
        let eyes = self.engine.job_eyes.entry(id).or_default();
        let (more, looking) = (eyes.fresh, eyes.looking);
        if !more && !looking {
            self.look_at_job(id);
        }
        fresh && more
    }

    // Going on.

    /// Takes a job as far as it goes with what is known.
    pub(crate) fn advance_job(&mut self, job: Lsn) {
        for _ in 0..ADVANCES_MAX {
            if !self.advance_job_once(job) {
                break;
            }
        }
    }

    fn advance_job_once(&mut self, job: Lsn) -> bool {
        let Some(known) = self.job(job) else {
            return false;
        };
        let id = known.domain;
        if known.state.in_flight.is_some() {
            return false;
        }
        let next = self
            .job_live(job)
            .running
            .as_mut()
            .and_then(|running| running.plan.pop_front());
        if let Some(command) = next {
            self.intend_job(job, command);
            return false;
        }
        if !self.is_fresh(job, id) {
            return false;
        }
        let Some(evidence) = self.job_evidence(job) else {
            // QEMU did not answer all that was asked: it is asked again, and keeps nobody waiting.
            self.job_live(job).decided = true;
            return false;
        };
        let rule = decide_job(&evidence);
        let live = self.job_live(job);
        (live.decided, live.rule) = (true, rule);
        let before = self.engine.next;
        match rule {
            Some(rule) => {
                let last = self
                    .job(job)
                    .and_then(|known| known.state.last_rule.clone());
                self.record_job_decision(job, rule, &evidence);
                self.carry_out_job(job, rule, &evidence, last.as_deref());
            }
            None => {
                self.note_sent(job, &evidence);
                self.answer_phase(job);
                self.settle_end(job, &evidence);
            }
        }
        self.engine.next != before
    }

    /// A phase whose last effect ended QEMU, as it seemed, and did not.
    fn answer_phase(&mut self, job: Lsn) {
        let Some(phase) = self.job(job).map(|known| known.state.phase) else {
            return;
        };
        if let Some(running) = self.job_live(job).running.take() {
            let refusal = Refusal::PhaseEffect {
                job,
                phase,
                number: running.count,
                count: running.count,
                what: "QEMU did not say that it ends, and is still there".to_owned(),
            };
            self.reply(running.token, Err(refusal));
        }
    }

    /// A decision is recorded once, until another rule holds. That nothing is left any more is what comes of the
    /// rule before.
    fn record_job_decision(&mut self, job: Lsn, rule: Rule, evidence: &JobEvidence) {
        let Some(last) = self.job(job).map(|known| known.state.last_rule.clone()) else {
            return;
        };
        let follows = rule == Rule::JobSettled && last.is_some();
        if last.as_deref() != Some(rule.name()) && !follows {
            self.decide_on_job(job, rule, rule.decision(), evidence);
        }
    }

    /// Records a decision with the look it rests on.
    pub(super) fn decide_on_job(
        &mut self,
        job: Lsn,
        rule: Rule,
        decision: journal_format::record::Decision,
        evidence: &JobEvidence,
    ) -> Option<(Lsn, JobDecided)> {
        self.cite_job_look(job);
        let known = self.job(job)?;
        let (domain, based_on) = (known.domain, known.based_on());
        let decided = JobDecided {
            job,
            rule: rule.name().to_owned(),
            decision,
            evidence: evidence.clone(),
            based_on,
        };
        let lsn = self.append(
            Some(domain),
            RecordBody::JobDecided(Box::new(decided.clone())),
        );
        Some((lsn, decided))
    }

    /// Writes down the look that the next record rests on, once.
    fn cite_job_look(&mut self, job: Lsn) {
        let Some(id) = self.job(job).map(|known| known.domain) else {
            return;
        };
        let Some(observed) = self.seen_now(id) else {
            return;
        };
        if self.job_live(job).recorded.as_ref() == Some(&observed) {
            return;
        }
        self.job_live(job).recorded = Some(observed.clone());
        let body = RecordBody::QemuObserved(Box::new(QemuObserved {
            job: Some(job),
            observed,
        }));
        self.append(Some(id), body);
    }

    // Effects.

    pub(super) fn intend_job(&mut self, job: Lsn, command: EffectCommand) {
        let Some(id) = self.job(job).map(|known| known.domain) else {
            return;
        };
        self.intend_for(id, Some(job), command);
        self.engine.job_eyes.entry(id).or_default().fresh = false;
    }

    /// An effect of the engine's own, not sooner again than it makes sense.
    pub(super) fn intend_job_again(&mut self, job: Lsn, command: EffectCommand) {
        let now = self.now;
        let live = self.job_live(job);
        if live.effect_at > now {
            return;
        }
        live.effect_delay = longer(live.effect_delay, EFFECT_DELAY_MS);
        live.effect_at = now + live.effect_delay;
        self.intend_job(job, command);
    }

    /// True if the effect is one of a job's.
    pub(crate) fn finish_job_effect(&mut self, effect: Lsn, result: &EffectResult) -> bool {
        let found = self.engine.state.jobs.values().find_map(|job| {
            let (intent, command) = job.state.in_flight.as_ref()?;
            (*intent == effect)
                .then(|| (job.state.job, job.domain, job.state.kind, command.clone()))
        });
        let Some((job, id, kind, command)) = found else {
            return false;
        };
        let body = RecordBody::EffectFinished(EffectFinished {
            effect,
            result: shortened(result),
        });
        self.append(Some(id), body);
        if *result == EffectResult::Done {
            self.want_after(id, kind, &command);
        }
        self.look(id);
        if !self.is_driven(job) {
            self.look_at_job(id);
        }
        match self.job_live(job).running.is_some() {
            true => self.go_on(job, kind, &command, result),
            false => self.note_own_effect(job, &command, result),
        }
        self.advance_job(job);
        self.next_of_monitor(id);
        true
    }

    /// Stop and cont are the owner's wish only in a job that is about nothing else.
    fn want_after(&mut self, id: DomainId, kind: JobKind, command: &EffectCommand) {
        let wanted = match (kind, command) {
            (
                JobKind::Start | JobKind::Restore | JobKind::Suspend | JobKind::MigrationIn,
                EffectCommand::Cont,
            ) => WantedRunState::Running,
            (JobKind::Suspend, EffectCommand::Stop) => WantedRunState::Paused,
            _ => return,
        };
        self.want(id, wanted, WantedReason::Asked);
    }

    /// The manager's effect came to an end: the next one, or the answer.
    fn go_on(&mut self, job: Lsn, kind: JobKind, command: &EffectCommand, result: &EffectResult) {
        let Some(phase) = self.job(job).map(|known| known.state.phase) else {
            return;
        };
        let live = self.job_live(job);
        let Some(running) = live.running.take() else {
            return;
        };
        let is_last = running.plan.is_empty();
        let number = running.count.saturating_sub(running.plan.len());
        let is_unknown = matches!(result, EffectResult::Unknown { .. });
        if *result != EffectResult::Done && !(is_last && is_unknown && meaning(kind, command).end) {
            let refusal = Refusal::PhaseEffect {
                job,
                phase,
                number,
                count: running.count,
                what: format!("{} {}", command.name(), describe(result)),
            };
            return self.reply(running.token, Err(refusal));
        }
        if is_last && *result == EffectResult::Done {
            if let Some(wanted) = running.then {
                live.ending = Some((running.token, wanted));
                return;
            }
            let answer = self.phase_answer(job, phase, running.count);
            return self.reply(running.token, Ok(answer));
        }
        live.running = Some(running);
    }

    fn note_own_effect(&mut self, job: Lsn, command: &EffectCommand, result: &EffectResult) {
        let is_clients = self.job(job).is_some_and(|known| known.state.recognised)
            && matches!(command, EffectCommand::Monitor { .. });
        if is_clients {
            return;
        }
        let live = self.job_live(job);
        match result {
            EffectResult::Done => (live.effect_at, live.effect_delay) = (0, 0),
            EffectResult::Refused { description, .. } => {
                if let EffectCommand::Monitor { execute, .. } = command {
                    live.stuck.push(short(&format!("{execute}: {description}")));
                }
            }
            EffectResult::NotSent { .. } | EffectResult::Unknown { .. } => {}
        }
    }

    /// Ends a job: its domain is free of it.
    pub(crate) fn end_job(&mut self, job: Lsn, result: JobResult, detail: &str) {
        self.cite_job_look(job);
        let Some(known) = self.job(job) else {
            return;
        };
        let (id, phase) = (known.domain, known.state.phase);
        let live = self.engine.job_live.remove(&job).unwrap_or_default();
        let mut detail = detail.to_owned();
        if !live.stuck.is_empty() {
            detail = format!("{detail}; not taken back: {}", live.stuck.join(", "));
        }
        let ended = JobEnded {
            job,
            result,
            detail: short(&detail),
        };
        self.append(Some(id), RecordBody::JobEnded(ended));
        let over = || Refusal::JobOver {
            job,
            result,
            detail: short(&detail),
        };
        if let Some(running) = live.running {
            let answer = match result {
                _ if running.then == Some(result) => Ok(Answer::Done {}),
                JobResult::Completed => Ok(Answer::PhaseEntered {
                    job,
                    phase,
                    effects: running.count,
                    cookie: None,
                }),
                JobResult::Failed | JobResult::Cancelled | JobResult::Crashed => Err(over()),
            };
            self.reply(running.token, answer);
        }
        if let Some((token, wanted)) = live.ending {
            let answer = match result == wanted {
                true => Ok(Answer::Done {}),
                false => Err(over()),
            };
            self.reply(token, answer);
        }
        self.look(id);
    }
}

fn nodes_seen(names: &[String], seen: &JobSeen) -> NodesSeen {
    let Some(nodes) = seen.nodes.as_ref().filter(|_| !names.is_empty()) else {
        return NodesSeen::Unread;
    };
    let is_there = |name: &&String| {
        nodes
            .iter()
            .any(|node| node.name == **name && node.is_overlay)
    };
    match names.iter().filter(is_there).count() {
        0 => NodesSeen::Absent,
        count if count == names.len() => NodesSeen::Present,
        _ => NodesSeen::Partly,
    }
}
