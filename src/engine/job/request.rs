//! What a manager asks of a job: begin, enter a phase, end, cancel.
//!
//! Invariant: a refused request changes nothing; what is begun was looked at first.
//! Not here: which commands belong where (`legal`), how effects go on (`drive`).

use journal_format::number::{DomainId, Lsn, Position};
use journal_format::record::{
    EffectCommand, EffectStanding, JOB_COOKIE_SIZE_MAX, JOB_THINGS_MAX, JobBegun, JobKind,
    JobPhase, JobPhaseEntered, JobResult, Observed, Process, RecordBody, RunState, WantedReason,
    WantedRunState,
};

use super::driven;
use super::legal::{checked, goes_beside, is_async, may_enter};
use super::meaning::meaning;
use super::{JobLive, ManagerEffect, PHASE_EFFECTS_MAX, Running};
use crate::engine::decide::{StatusClass, status_class};
use crate::engine::live::Pending;
use crate::engine::state::Job;
use crate::engine::turn::Turn;
use crate::engine::{Answer, AnyPhase, Refusal, Token};

/// A phase to be entered once QEMU was looked at.
#[derive(Clone, Debug)]
pub(crate) struct PhaseWanted {
    pub(super) job: Lsn,
    pub(super) phase: JobPhase,
    pub(super) commands: Vec<EffectCommand>,
    pub(super) cookie: Option<String>,
    /// What the source's cookie says, that the manager brought to the destination: where it was granted, and what the
    /// guest's owner wants.
    pub(super) carried: Option<(Position, WantedRunState)>,
    /// A verdict by one command: the job ends like that with the last of them.
    pub(super) then: Option<JobResult>,
}

fn check_cookie(cookie: Option<&str>) -> Result<(), Refusal> {
    if cookie.is_some_and(|text| text.len() > JOB_COOKIE_SIZE_MAX) {
        return Err(Refusal::TooLong {
            what: "cookie",
            size_max: JOB_COOKIE_SIZE_MAX,
        });
    }
    Ok(())
}

impl Turn<'_> {
    pub(crate) fn job(&self, job: Lsn) -> Option<&Job> {
        self.engine.state.jobs.get(&job)
    }

    pub(crate) fn has_jobs(&self, id: DomainId) -> bool {
        self.engine.state.jobs_of(id).next().is_some()
    }

    pub(super) fn job_live(&mut self, job: Lsn) -> &mut JobLive {
        self.engine.job_live.entry(job).or_default()
    }

    /// Has this life of the sidecar decided about it, or nothing to decide?
    pub(crate) fn is_settled_job(&self, job: Lsn) -> bool {
        let live = self.engine.job_live.get(&job);
        live.is_some_and(JobLive::is_settled)
    }

    /// The open job, or why it is none that a manager drives.
    fn need_job(&self, job: Lsn) -> Result<&Job, Refusal> {
        if let Some(known) = self.job(job) {
            return Ok(known);
        }
        let ended = self.engine.state.domains.iter().find_map(|(_, domain)| {
            let last = domain.state.last_job.as_ref();
            last.filter(|last| last.job == job)
        });
        if let Some(last) = ended {
            return Err(Refusal::JobOver {
                job,
                result: last.result,
                detail: last.detail.clone(),
            });
        }
        let migration = self.engine.state.migration_of_job(job);
        match migration.and_then(|id| self.migration(id)) {
            Some(known) if known.state.open => Err(Refusal::NotAManagersJob(
                crate::engine::state::kind_of(known.state.terms.role),
            )),
            Some(_) | None => Err(Refusal::NoSuchJob(job)),
        }
    }

    /// Is there room for a job of that kind beside those that are open?
    pub(crate) fn need_beside(&self, id: DomainId, kind: JobKind) -> Result<(), Refusal> {
        if let Err(busy) = self.need_no_migration(id) {
            let is_fine = matches!(&busy, Refusal::Busy { kind: other, .. }
                if !is_async(kind) && goes_beside(kind, *other));
            if !is_fine {
                return Err(busy);
            }
        }
        let mut others = self.engine.state.jobs_of(id);
        let in_the_way = others.find(|other| {
            let other = other.state.kind;
            match (is_async(kind), is_async(other)) {
                (false, true) => !goes_beside(kind, other),
                (true, true) | (true, false) | (false, false) => true,
            }
        });
        match in_the_way {
            None => Ok(()),
            Some(other) => Err(self.busy_with(other)),
        }
    }

    pub(crate) fn busy_with(&self, other: &Job) -> Refusal {
        let name = self.domain(other.domain).map(|one| one.state.name.clone());
        Refusal::Busy {
            name: name.unwrap_or_default(),
            job: other.state.job,
            kind: other.state.kind,
            phase: AnyPhase::Job(other.state.phase),
            age: self.age(other.state.begun),
        }
    }

    /// Seconds since then, by the clock on the wall.
    pub(crate) fn age(&self, begun: u64) -> Option<u64> {
        (begun > 0).then(|| self.wall.saturating_sub(begun) / 1_000_000_000)
    }

    // Begin.

    pub(crate) fn job_begin(
        &mut self,
        token: Token,
        name: &str,
        kind: JobKind,
        cookie: Option<String>,
    ) {
        let check = || {
            check_cookie(cookie.as_deref())?;
            let id = self.need_domain(name)?;
            if self.untouched(id, kind).is_none() {
                self.need_beside(id, kind)?;
            }
            self.need_room()
        };
        if let Err(refusal) = check() {
            return self.reply(token, Err(refusal));
        }
        self.later(token, name, "begin a job", |token| Pending::JobBegin {
            token,
            kind,
            cookie,
        });
    }

    /// A job begins, after a fresh look.
    pub(crate) fn begin_job(
        &mut self,
        id: DomainId,
        token: Token,
        kind: JobKind,
        cookie: Option<String>,
    ) {
        let result = self.try_begin_job(id, kind, cookie);
        self.reply(token, result.map(|job| Answer::JobBegun { job }));
    }

    fn try_begin_job(
        &mut self,
        id: DomainId,
        kind: JobKind,
        cookie: Option<String>,
    ) -> Result<Lsn, Refusal> {
        let untouched = self.untouched(id, kind);
        if untouched.is_none() {
            self.need_beside(id, kind)?;
        }
        let observed = self.seen_now(id);
        self.need_undamaged(id)?;
        let Some(observed) = observed.filter(|seen| may_begin(kind, seen)) else {
            return Err(self.wrong_state(id, "begin such a job"));
        };
        self.need_no_other_claim(id)?;
        if let Some(job) = untouched {
            let detail = "its manager drives it by phases from here";
            self.end_job(job, JobResult::Cancelled, detail);
        }
        if !self.has_jobs(id) && self.domain(id).is_some_and(|one| one.migration.is_none()) {
            self.learn_wanted(id, &observed);
        }
        let begun = JobBegun {
            kind,
            migration: None,
        };
        let job = self.append(Some(id), RecordBody::JobBegun(Box::new(begun)));
        self.enter_job(job, JobPhase::first(kind), cookie);
        self.engine.job_live.insert(job, JobLive::default());
        Ok(job)
    }

    pub(crate) fn seen_now(&self, id: DomainId) -> Option<Observed> {
        self.engine.eyes.get(&id)?.observed.clone()
    }

    fn need_no_other_claim(&self, id: DomainId) -> Result<(), Refusal> {
        let name = self.domain(id).map(|one| one.state.name.clone());
        let name = name.unwrap_or_default();
        self.may_claim(id)
            .map_err(|claim| Refusal::Claimed { name, claim })
    }

    pub(super) fn enter_job(&mut self, job: Lsn, phase: JobPhase, cookie: Option<String>) {
        self.enter_job_with(job, phase, cookie, None);
    }

    pub(super) fn enter_job_with(
        &mut self,
        job: Lsn,
        phase: JobPhase,
        cookie: Option<String>,
        other_side: Option<Position>,
    ) {
        let Some(domain) = self.job(job).map(|known| known.domain) else {
            return;
        };
        let time = self.wall;
        let entered = JobPhaseEntered {
            job,
            phase,
            time,
            cookie,
            other_side,
            recognised: false,
            listens: false,
        };
        self.append(Some(domain), RecordBody::JobPhaseEntered(entered));
    }

    // Enter.

    pub(crate) fn phase_enter(
        &mut self,
        token: Token,
        job: Lsn,
        phase: JobPhase,
        effects: Vec<ManagerEffect>,
        cookie: Option<String>,
        peer_cookie: Option<&str>,
    ) {
        let wanted = self.check_phase(job, phase, effects).and_then(|commands| {
            check_cookie(cookie.as_deref())?;
            let brought = self.check_peer_cookie(job, phase, peer_cookie)?;
            let data = brought.as_ref().and_then(|one| one.data.clone());
            Ok(PhaseWanted {
                job,
                phase,
                commands,
                cookie: cookie.or(data),
                carried: brought.map(|one| (one.granted, one.wanted)),
                then: None,
            })
        });
        self.enter_later(token, job, wanted);
    }

    /// Puts a phase off until QEMU was looked at.
    pub(super) fn enter_later(
        &mut self,
        token: Token,
        job: Lsn,
        wanted: Result<PhaseWanted, Refusal>,
    ) {
        let name = self
            .job(job)
            .and_then(|known| self.domain(known.domain))
            .map(|domain| domain.state.name.clone())
            .unwrap_or_default();
        match wanted {
            Err(refusal) => self.reply(token, Err(refusal)),
            Ok(wanted) => self.later(token, &name, "enter a phase", |token| Pending::JobPhase {
                token,
                wanted,
            }),
        }
    }

    fn check_phase(
        &self,
        job: Lsn,
        phase: JobPhase,
        effects: Vec<ManagerEffect>,
    ) -> Result<Vec<EffectCommand>, Refusal> {
        let known = self.need_job(job)?;
        let before = known.state.phase;
        let kind = known.state.kind;
        self.need_driven(known)?;
        if !may_enter(kind, before, phase) {
            return Err(Refusal::NoWayBack {
                job,
                phase: before,
                wanted: phase,
            });
        }
        if effects.len() > PHASE_EFFECTS_MAX {
            return Err(Refusal::TooMany {
                what: "effects in one phase-enter",
                count_max: PHASE_EFFECTS_MAX,
            });
        }
        let commands = effects.into_iter();
        let mut commands: Vec<EffectCommand> = commands
            .map(|effect| checked(kind, phase, effect))
            .collect::<Result<_, _>>()?;
        self.need_place(known, &commands)?;
        let loads = commands
            .iter()
            .any(|command| meaning(kind, command).stream && loads_a_guest(kind));
        if loads {
            // Else the guest starts by itself when it is loaded.
            commands.insert(0, EffectCommand::Stop);
        }
        Ok(commands)
    }

    /// Can all that these commands leave be kept in mind?
    fn need_place(&self, known: &Job, commands: &[EffectCommand]) -> Result<(), Refusal> {
        let state = &known.state;
        let mut counts = [
            state.nodes.len(),
            state.qemu_jobs.len(),
            state.leftovers.len(),
        ];
        for command in commands {
            let means = meaning(state.kind, command);
            counts[0] += means.nodes.len();
            counts[1] += means.qemu_jobs.len();
            counts[2] += means.takes_back.len();
        }
        match counts.iter().any(|count| *count > JOB_THINGS_MAX) {
            true => Err(Refusal::TooMany {
                what: "nodes, QEMU jobs or things to take back in one job",
                count_max: JOB_THINGS_MAX,
            }),
            false => Ok(()),
        }
    }

    /// Does its manager drive it, with nothing under way? A backup that a restart found is its manager's
    /// again as soon as that speaks; and so is a migration that waits for its word.
    pub(super) fn need_driven(&self, known: &Job) -> Result<(), Refusal> {
        self.need_registered(known.domain)?;
        let state = &known.state;
        let job = state.job;
        if let Some((_, command)) = &state.in_flight {
            let effect = command.name().to_owned();
            return Err(Refusal::EffectOpen { job, effect });
        }
        let not_open = |why: &str| {
            let why = why.to_owned();
            Err(Refusal::JobNotOpen { job, why })
        };
        let live = self.engine.job_live.get(&job);
        let rule = live.and_then(|live| live.rule);
        let is_its_managers = rule.is_some_and(driven::is_its_managers);
        if state.phase == JobPhase::Cancel && !is_its_managers {
            return not_open("it was cancelled, and is being taken back");
        }
        let Some(live) = live else {
            return Ok(());
        };
        let is_held = rule
            .filter(|rule| rule.decision() == journal_format::record::Decision::Hold)
            .filter(|_| !is_its_managers);
        if let Some(rule) = is_held {
            return not_open(&format!("it is held by {}", rule.name()));
        }
        if live.recovering && state.kind != JobKind::Backup && !is_its_managers {
            return not_open("the sidecar was restarted, and settles it");
        }
        if live.ending.is_some() {
            return not_open("it is being ended");
        }
        match &live.running {
            Some(_) => Err(Refusal::EffectOpen {
                job,
                effect: format!("phase {} is entered", state.phase),
            }),
            None => Ok(()),
        }
    }

    /// A phase is entered, after a fresh look.
    pub(crate) fn begin_phase(&mut self, id: DomainId, token: Token, mut wanted: PhaseWanted) {
        let job = wanted.job;
        if let Err(refusal) = self.check_seen(id, &wanted) {
            return self.reply(token, Err(refusal));
        }
        let seen = self.seen_now(id);
        if seen.is_some_and(|seen| driven::is_said_again(&wanted, &seen)) {
            // It was continued before.
            wanted.commands.clear();
        }
        let PhaseWanted {
            phase,
            commands,
            cookie,
            carried,
            then,
            ..
        } = wanted;
        self.pass_through(job, phase);
        self.enter_job_with(job, phase, cookie, carried.map(|(granted, _)| granted));
        if let Some((_, wanted)) = carried {
            self.want(id, wanted, WantedReason::Carried);
        }
        let count = commands.len();
        let live = self.job_live(job);
        (live.recovering, live.rule) = (false, None);
        match (count, then) {
            (0, Some(result)) => {
                live.ending = Some((token, result));
                self.look(id);
                self.look_at_job(id);
            }
            (0, None) => {
                let answer = self.phase_answer(job, phase, 0);
                self.reply(token, Ok(answer));
            }
            (_, _) => {
                live.running = Some(Running {
                    token,
                    count,
                    plan: commands.into(),
                    then,
                });
            }
        }
        self.advance_job(job);
    }

    fn check_seen(&self, id: DomainId, wanted: &PhaseWanted) -> Result<(), Refusal> {
        let known = self.need_job(wanted.job)?;
        self.need_driven(known)?;
        self.need_no_other_claim(id)?;
        let state = &known.state;
        let Some(observed) = self.seen_now(id) else {
            return Err(self.wrong_state(id, "enter a phase"));
        };
        let is_there = match observed.process {
            Process::Alive => true,
            Process::Mute => state.kind == JobKind::Destroy,
            Process::Dead | Process::OtherInstance => false,
        };
        if !is_there {
            return Err(self.wrong_state(id, "enter a phase"));
        }
        if let Some(role) = driven::role(state.kind) {
            return self.check_driven(id, role, state, wanted, &observed);
        }
        let ends = wanted
            .commands
            .iter()
            .any(|command| meaning(state.kind, command).end);
        let is_whole = status_class(observed.migration.as_ref()) == StatusClass::Completed
            && state.facts().stream == EffectStanding::Done
            && matches!(
                observed.run_state,
                Some(RunState::FinishMigrate | RunState::Postmigrate)
            );
        if state.kind == JobKind::Save && ends && !is_whole {
            return Err(self.wrong_state(id, "be ended: its image is not whole"));
        }
        let continues = wanted.commands.contains(&EffectCommand::Cont);
        if continues && observed.run_state == Some(RunState::Inmigrate) {
            return Err(self.wrong_state(id, "be continued: it is not loaded yet"));
        }
        if continues && self.gave_away(id) {
            return Err(self.wrong_state(
                id,
                "be continued: its QEMU has sent the guest, and nothing on record says that it is here all the same: it may run elsewhere",
            ));
        }
        Ok(())
    }

    // End.

    pub(crate) fn job_end(&mut self, token: Token, job: Lsn, result: JobResult) {
        match self.need_job(job).and_then(|known| {
            self.need_driven(known)?;
            Ok(known.domain)
        }) {
            // It ended by itself, as it was to: with the end of its QEMU.
            Err(Refusal::JobOver {
                result: JobResult::Completed,
                ..
            }) if result == JobResult::Completed => self.reply(token, Ok(Answer::Done {})),
            Err(refusal) => self.reply(token, Err(refusal)),
            Ok(domain) => {
                let live = self.job_live(job);
                (live.recovering, live.rule) = (false, None);
                live.ending = Some((token, result));
                self.look(domain);
                self.look_at_job(domain);
                self.advance_job(job);
            }
        }
    }

    /// True if it is a job of this sort; then it was answered.
    pub(crate) fn cancel_job(&mut self, job: Lsn) -> Result<Option<Answer>, Refusal> {
        let known = match self.need_job(job) {
            Ok(known) => known,
            Err(over @ Refusal::JobOver { .. }) => return Err(over),
            Err(_) => return Ok(None),
        };
        self.need_registered(known.domain)?;
        let (domain, state) = (known.domain, &known.state);
        if state.phase == JobPhase::Cancel {
            return Ok(Some(Answer::Done {}));
        }
        let ends = matches!(state.kind, JobKind::Destroy | JobKind::Save);
        let is_ending = ends && state.facts().end != EffectStanding::Never;
        if is_ending || driven::is_past_cancelling(state) {
            let phase = AnyPhase::Job(state.phase);
            return Err(Refusal::TooLate { job, phase });
        }
        self.enter_job(job, JobPhase::Cancel, None);
        self.drop_waiting(job, "it was cancelled");
        let live = self.job_live(job);
        live.rule = None;
        live.effect_at = 0;
        self.look(domain);
        self.look_at_job(domain);
        self.advance_job(job);
        Ok(Some(Answer::Done {}))
    }

    /// Whoever waits for the job is told why nothing comes of it.
    pub(super) fn drop_waiting(&mut self, job: Lsn, why: &str) {
        let live = self.job_live(job);
        let running = live.running.take().map(|running| running.token);
        let ending = live.ending.take().map(|(token, _)| token);
        for token in running.into_iter().chain(ending) {
            let why = why.to_owned();
            self.reply(token, Err(Refusal::JobNotOpen { job, why }));
        }
    }
}

/// Is QEMU in a state for it?
pub(super) fn may_begin(kind: JobKind, observed: &Observed) -> bool {
    let is_alive = observed.process == Process::Alive;
    let run_state = observed.run_state.as_ref();
    let is_at_rest = matches!(
        status_class(observed.migration.as_ref()),
        StatusClass::None | StatusClass::Ended | StatusClass::Completed
    );
    let runs = matches!(run_state, Some(RunState::Running | RunState::Paused));
    match kind {
        JobKind::Save | JobKind::Dump | JobKind::Snapshot => is_alive && runs && is_at_rest,
        JobKind::Backup => is_alive && runs,
        JobKind::Start => {
            is_alive && matches!(run_state, Some(RunState::Prelaunch | RunState::Paused))
        }
        JobKind::Restore => {
            is_alive && matches!(run_state, Some(RunState::Prelaunch | RunState::Inmigrate))
        }
        JobKind::Destroy => is_alive || observed.process == Process::Mute,
        JobKind::Suspend | JobKind::Modify | JobKind::Query | JobKind::Abort => is_alive,
        JobKind::MigrationOut => is_alive && runs && is_at_rest,
        JobKind::MigrationIn => is_alive && run_state == Some(&RunState::Inmigrate),
    }
}

/// Does its stream bring a guest that runs by itself when it is there, unless it was told not to?
const fn loads_a_guest(kind: JobKind) -> bool {
    matches!(kind, JobKind::Restore | JobKind::MigrationIn)
}
