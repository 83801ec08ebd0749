//! The manager that comes with the simulator: moves every guest about, and looks after those whose
//! migration ended in any way.
//!
//! Invariant: it boots a guest anew only when every sidecar answered that no job of it is open and no
//! process with it is left; it ends a QEMU only while that waits for a guest. Where the outcome is its own
//! to say, it says the same one from first to last.
//! Not here: what a manager can do (`manager`).

mod drive;
mod work;

use journal_format::number::{Lsn, MigrationId};
use journal_format::record::{
    Authority, Decision, JobKind, MigrationStatus, Outcome, Protocol, RunState, WantedRunState,
};

use super::manager::{Desk, Heard, How, Manager, RequestId};
use super::{GuestNumber, HostNumber};
use crate::engine::{Answer, ControlRequest, DomainView, JobTarget, JobView, Notice, Refusal};
use drive::Drive;
use work::{Next, Work};

/// How often it looks after its guests, in milliseconds.
const ROUND_MS: u64 = 100;
/// How long it waits before it asks again, in milliseconds.
const AGAIN_MS: u64 = 500;
/// The same when nothing new is begun any more.
const AGAIN_CALM_MS: u64 = 2_000;
/// How often it looks in vain before a human gives a guest up.
const IN_VAIN_MAX: u32 = 20;
/// How long it waits for its verdict to show, in milliseconds.
const VERDICT_MS: u64 = 300;
/// How many of its verdicts, in a million, are aborted, and how many are given by its own `cont` or `quit`.
const ABORTED: u32 = 250_000;
const BY_HAND: u32 = 300_000;
/// How long a migration may take before it is given up, in milliseconds.
const PATIENCE_MS: u64 = 20_000;

/// What a sidecar said of a guest.
#[derive(Clone, Debug)]
enum Said {
    NotYet,
    Nothing,
    Unknown,
    View(Box<DomainView>),
}

#[derive(Clone, Debug)]
enum Step {
    /// Registers it where it is.
    Registering(RequestId),
    Resting {
        until: u64,
    },
    /// Registers the QEMU that shall take it.
    Preparing(HostNumber, RequestId),
    Asking(RequestId),
    Moving {
        since: u64,
        job: Lsn,
        /// The journal that its number is of.
        journal: u64,
        patience: u64,
    },
    /// The owner's word is on its way.
    Wishing(RequestId),
    /// Registers a new QEMU for a job that gives it a guest.
    Launching(RequestId, Box<Work>),
    /// Something else than a migration.
    Working(Box<Work>),
    /// A migration that it drives itself.
    Driving,
    /// Finds out how it stands.
    Looking {
        again: u64,
        said: Vec<(RequestId, Said)>,
    },
}

#[derive(Clone, Debug)]
struct Care {
    home: HostNumber,
    step: Step,
    /// How often nothing was settled.
    in_vain: u32,
    /// The outcome of the last migration, if that is the manager's to say: on record with it.
    verdict: Option<Verdict>,
    /// When it is said again.
    verdict_at: u64,
    /// The migration that it drives itself: on record.
    drive: Option<Box<Drive>>,
}

/// What is said of a migration, and of no other one.
#[derive(Clone, Debug)]
struct Verdict {
    outcome: Outcome,
    /// Its name, once it was heard.
    migration: Option<MigrationId>,
    /// The journals of all hosts when it was asked for.
    journals: Vec<u64>,
}

impl Verdict {
    /// Is that its open job? In a journal that was put back, or is a new one, only its name tells.
    fn is_of(&self, job: &JobView, host: HostNumber, desk: &Desk<'_>) -> bool {
        let is_named = match self.migration {
            Some(migration) => job.migration == Some(migration),
            None => self.journals[host] == desk.journal(host),
        };
        is_named && job.result.is_none() && job.authority == Some(Authority::Manager)
    }
}

impl Care {
    fn new(home: HostNumber, step: Step) -> Care {
        Care {
            home,
            step,
            in_vain: 0,
            verdict: None,
            verdict_at: 0,
            drive: None,
        }
    }
}

/// The manager.
#[derive(Debug, Default)]
pub struct Fleet {
    care: Vec<Care>,
    /// Questions about jobs that it found open, and whom they went to.
    asked: Vec<(HostNumber, RequestId)>,
    /// Which job its word is about: the question, whom it went to, the journal there, and the guest.
    judges: Vec<(RequestId, HostNumber, u64, GuestNumber)>,
    /// What a human who gave a guest up is still to say to a sidecar, and the request that says it.
    given_up: Vec<(HostNumber, GuestNumber, Option<RequestId>)>,
    is_calm: bool,
}

impl Manager for Fleet {
    fn hear(&mut self, heard: Heard<'_>, desk: &mut Desk<'_>) {
        match heard {
            Heard::Woken => {
                if self.care.is_empty() {
                    self.begin(desk);
                }
                for guest in 0..self.care.len() {
                    self.round(guest, desk);
                }
                self.give_up_everywhere(desk);
                desk.wake_in(ROUND_MS);
            }
            Heard::Answered { request, result } => self.answered(request, result, desk),
            Heard::Noticed { host, notice } => self.noticed(host, notice),
            Heard::Restarted => {
                self.asked.clear();
                self.judges.clear();
                for care in &mut self.care {
                    let mut drive = care.drive.take();
                    let step = match &mut drive {
                        Some(drive) => {
                            drive.begin_anew();
                            Step::Driving
                        }
                        None => look_at_once(),
                    };
                    *care = Care {
                        verdict: care.verdict.take(),
                        drive,
                        ..Care::new(0, step)
                    };
                }
            }
            Heard::Calm => self.is_calm = true,
        }
    }
}

fn look_again(desk: &Desk<'_>) -> Step {
    Step::Looking {
        again: desk.now_ms() + AGAIN_MS,
        said: Vec::new(),
    }
}

fn look_at_once() -> Step {
    Step::Looking {
        again: 0,
        said: Vec::new(),
    }
}

impl Fleet {
    fn begin(&mut self, desk: &mut Desk<'_>) {
        for guest in 0..desk.guests() {
            let home = guest % desk.hosts();
            let step = Step::Registering(desk.add_domain(home, guest));
            self.care.push(Care::new(home, step));
        }
    }

    fn rest(&self, desk: &mut Desk<'_>) -> Step {
        let [least, most] = desk.shape().latencies.rest;
        let pause = desk.random().between(least, most) / 1_000;
        Step::Resting {
            until: desk.now_ms() + pause,
        }
    }

    /// A manager that was restarted, or gave up, drives none of the jobs that it finds open. A migration of the sidecars goes on
    /// without it; any other is cancelled, one that a manager drives at its source: the destination's ends with its stream, or is
    /// whole, and no copy is given up unseen.
    fn ask_about_jobs(&mut self, guest: GuestNumber, said: &[Said], desk: &mut Desk<'_>) {
        let migrations = &desk.shape().migrations;
        if migrations.jobs == 0 && migrations.driven == 0 {
            return;
        }
        for (host, one) in said.iter().enumerate() {
            if matches!(one, Said::View(view) if view.job.is_some()) {
                let name = Some(desk.name(guest).to_owned());
                let query = ControlRequest::QueryJobs { job: None, name };
                self.asked.push((host, desk.ask(host, query)));
            }
        }
    }

    fn cancel_jobs(
        result: Option<&Result<Answer, Refusal>>,
        host: HostNumber,
        desk: &mut Desk<'_>,
    ) {
        if let Some(Ok(Answer::Jobs(jobs))) = result {
            let is_open = |job: &&JobView| {
                let is_its = match job.kind {
                    JobKind::MigrationOut => job.migration.is_none(),
                    JobKind::MigrationIn => false,
                    JobKind::Save
                    | JobKind::Dump
                    | JobKind::Snapshot
                    | JobKind::Backup
                    | JobKind::Start
                    | JobKind::Restore
                    | JobKind::Destroy
                    | JobKind::Suspend
                    | JobKind::Modify
                    | JobKind::Query
                    | JobKind::Abort => true,
                };
                job.result.is_none() && is_its
            };
            for job in jobs.iter().filter(is_open) {
                desk.ask(host, ControlRequest::JobCancel { job: job.job });
            }
        }
    }

    fn round(&mut self, guest: GuestNumber, desk: &mut Desk<'_>) {
        let now = desk.now_ms();
        let care = &self.care[guest];
        let may_be_open = matches!(care.step, Step::Moving { .. } | Step::Looking { .. });
        if let (Some(verdict), true) = (&care.verdict, may_be_open && care.verdict_at <= now) {
            let outcome = verdict.outcome;
            self.care[guest].verdict_at = now + VERDICT_MS;
            self.say_outcome(guest, outcome, desk);
        }
        match &self.care[guest].step {
            Step::Resting { until } if *until <= now && !self.is_calm => {
                self.begin_something(guest, desk);
            }
            Step::Moving {
                since,
                job,
                journal,
                patience,
            } if now > since + patience => {
                let (host, job) = (self.care[guest].home, *job);
                // It does not take back what it may have said, or done by its own hand.
                let is_its = *journal == desk.journal(host);
                let verdict = self.care[guest].verdict.as_ref();
                let is_given = verdict.is_some_and(|one| one.outcome == Outcome::Committed);
                if is_its && !is_given {
                    desk.ask(host, ControlRequest::JobCancel { job });
                }
                // Whatever the answer is, it will be looked at.
                self.care[guest].step = look_again(desk);
            }
            Step::Looking { again, said } if *again <= now && said.is_empty() => {
                let name = Some(desk.name(guest).to_owned());
                let query = ControlRequest::QueryDomains { name };
                let said = (0..desk.hosts())
                    .map(|host| (desk.ask(host, query.clone()), Said::NotYet))
                    .collect();
                self.care[guest].step = Step::Looking { again: 0, said };
            }
            Step::Working(_) => {
                let home = self.care[guest].home;
                if let Step::Working(work) = &mut self.care[guest].step
                    && work.look(desk, home, guest) == Next::Over
                {
                    self.care[guest].step = look_again(desk);
                }
            }
            Step::Driving => {
                if let Some(drive) = &mut self.care[guest].drive
                    && drive.look(desk, guest) == Next::Goes
                {
                    return self.count_driven(guest, desk);
                }
                self.care[guest].drive = None;
                self.care[guest].step = look_again(desk);
            }
            Step::Registering(_)
            | Step::Resting { .. }
            | Step::Preparing(..)
            | Step::Asking(..)
            | Step::Moving { .. }
            | Step::Wishing(_)
            | Step::Launching(..)
            | Step::Looking { .. } => {}
        }
    }

    /// One that comes to nothing for long is a human's.
    fn count_driven(&mut self, guest: GuestNumber, desk: &mut Desk<'_>) {
        let care = &mut self.care[guest];
        let is_late = care.drive.as_ref().is_some_and(|drive| drive.is_late(desk));
        if is_late && !self.is_calm {
            self.care[guest].drive = None;
            self.care[guest].step = self.give_up(guest, desk);
        }
    }

    fn begin_something(&mut self, guest: GuestNumber, desk: &mut Desk<'_>) {
        let home = self.care[guest].home;
        let wishes = desk.shape().faults.owner;
        if desk.random().chance(wishes) {
            let wanted = match desk.random().coin() {
                true => WantedRunState::Running,
                false => WantedRunState::Paused,
            };
            let name = desk.name(guest).to_owned();
            let request = ControlRequest::DomainSetWanted { name, wanted };
            self.care[guest].step = Step::Wishing(desk.ask(home, request));
            return;
        }
        let jobs = desk.shape().migrations.jobs;
        if jobs > 0 && (desk.random().chance(jobs) || work::is_stuck(desk, home, guest)) {
            let mut work = Work::draw(desk, home, guest);
            let patience = patience(desk);
            work.begin(desk, home, guest, patience);
            self.care[guest].step = Step::Working(Box::new(work));
            return;
        }
        let others = desk.hosts() - 1;
        if others == 0 {
            return;
        }
        let to = (home + 1 + desk.random().index(others)) % desk.hosts();
        if desk.start_incoming(to, guest) {
            self.care[guest].step = Step::Preparing(to, desk.add_domain(to, guest));
        } else {
            self.care[guest].step = look_at_once();
        }
    }

    fn answered(
        &mut self,
        request: RequestId,
        result: Option<&Result<Answer, Refusal>>,
        desk: &mut Desk<'_>,
    ) {
        if let Some(at) = self.asked.iter().position(|(_, one)| *one == request) {
            let (host, _) = self.asked.swap_remove(at);
            return Fleet::cancel_jobs(result, host, desk);
        }
        if let Some(at) = self.judges.iter().position(|(one, ..)| *one == request) {
            let (_, host, journal, guest) = self.judges.swap_remove(at);
            return self.judge_job(result, host, journal, guest, desk);
        }
        if let Some(at) = self.given_up.iter().position(|one| one.2 == Some(request)) {
            match result {
                Some(_) => drop(self.given_up.swap_remove(at)),
                None => self.given_up[at].2 = None,
            }
            return;
        }
        let waits = |care: &Care| match (&care.step, &care.drive) {
            (Step::Driving, Some(drive)) => drive.waits_for(request),
            (step, _) => waits_for(step, request),
        };
        let Some(guest) = self.care.iter().position(waits) else {
            return;
        };
        let care = &mut self.care[guest];
        if let (Step::Driving, Some(drive)) = (&care.step, &mut care.drive) {
            if drive.answered(request, result, desk, guest) == Next::Over {
                care.drive = None;
                care.step = look_at_once();
            }
            return;
        }
        let now = desk.now_ms();
        let home = self.care[guest].home;
        let is_fine = matches!(result, Some(Ok(_)));
        let next = match (&mut self.care[guest].step, result) {
            (Step::Registering(_) | Step::Wishing(_), _) if is_fine => self.rest(desk),
            (Step::Preparing(to, _), _) if is_fine => {
                let to = *to;
                let driven = desk.shape().migrations.driven;
                let is_seen = |desk: &Desk<'_>| {
                    let seen = desk.process(home, guest);
                    seen.is_some_and(|seen| seen.run_state.is_some())
                };
                // It has to know whether the guest runs.
                if driven > 0 && desk.random().chance(driven) && is_seen(desk) {
                    self.drive(guest, to, desk);
                    return;
                }
                let how = draw_how(desk);
                // One that gives nothing up says committed.
                let gives_up = desk.shape().faults.manager_cancel > 0;
                self.care[guest].verdict = (how.authority == Authority::Manager).then(|| Verdict {
                    outcome: match desk.random().chance(ABORTED) && gives_up {
                        true => Outcome::Aborted,
                        false => Outcome::Committed,
                    },
                    migration: None,
                    journals: (0..desk.hosts()).map(|host| desk.journal(host)).collect(),
                });
                Step::Asking(desk.migrate(home, to, guest, how))
            }
            (Step::Asking(..), Some(Ok(Answer::Migrating { job, migration }))) => {
                let patience = patience(desk);
                if let Some(verdict) = &mut self.care[guest].verdict {
                    verdict.migration = Some(*migration);
                }
                Step::Moving {
                    since: now,
                    job: *job,
                    journal: desk.journal(home),
                    patience,
                }
            }
            (Step::Launching(_, work), _) if is_fine => {
                let mut work = work.clone();
                let patience = patience(desk);
                work.begin(desk, home, guest, patience);
                Step::Working(work)
            }
            (Step::Working(work), result) => match work.answered(result, desk, home, guest) {
                Next::Goes => return,
                Next::Over => look_again(desk),
            },
            (Step::Looking { said, .. }, result) => {
                for (asked, what) in said.iter_mut() {
                    if *asked == request {
                        *what = heard(result);
                    }
                }
                if said.iter().any(|(_, what)| matches!(what, Said::NotYet)) {
                    return;
                }
                let said: Vec<Said> = said.drain(..).map(|(_, what)| what).collect();
                self.settle(guest, &said, desk)
            }
            // Refused, or without an answer.
            (_, _) => look_again(desk),
        };
        self.care[guest].step = next;
    }

    fn drive(&mut self, guest: GuestNumber, to: HostNumber, desk: &mut Desk<'_>) {
        let home = self.care[guest].home;
        let gives_up = desk.shape().faults.manager_cancel > 0;
        let wants = match desk.random().chance(ABORTED) && gives_up {
            true => Outcome::Aborted,
            false => Outcome::Committed,
        };
        let patience = patience(desk);
        let mut drive = Drive::new(home, to, wants, patience, desk, guest);
        drive.look(desk, guest);
        desk.tells(guest);
        self.care[guest].verdict = None;
        self.care[guest].drive = Some(Box::new(drive));
        self.care[guest].step = Step::Driving;
    }

    /// Every sidecar said how it stands.
    fn settle(&mut self, guest: GuestNumber, said: &[Said], desk: &mut Desk<'_>) -> Step {
        let pause = match self.is_calm && self.care[guest].in_vain > IN_VAIN_MAX / 4 {
            true => AGAIN_CALM_MS,
            false => AGAIN_MS,
        };
        let again = Step::Looking {
            again: desk.now_ms() + pause,
            said: Vec::new(),
        };
        let is_open = |one: &Said| match one {
            Said::NotYet | Said::Nothing => true,
            Said::Unknown => false,
            Said::View(view) => view.job.is_some(),
        };
        self.care[guest].in_vain += 1;
        if self.care[guest].in_vain > IN_VAIN_MAX && !self.is_calm {
            return self.give_up(guest, desk);
        }
        if said.iter().any(is_open) {
            self.ask_about_jobs(guest, said, desk);
            return again;
        }
        for host in 0..desk.hosts() {
            desk.quit_incoming(host, guest);
        }
        let holders: Vec<HostNumber> = (0..desk.hosts())
            .filter(|host| desk.process(*host, guest).is_some())
            .collect();
        match holders.as_slice() {
            [] => match self.launch(guest, desk) {
                Some(step) => step,
                None => again,
            },
            [home] => {
                self.care[guest].home = *home;
                let pid = desk
                    .process(*home, guest)
                    .and_then(|observed| Some(observed.instance?.pid));
                let is_known = matches!(&said[*home], Said::View(view) if view.pid == pid);
                match is_known {
                    true => {
                        self.care[guest].in_vain = 0;
                        self.rest(desk)
                    }
                    false => Step::Registering(desk.add_domain(*home, guest)),
                }
            }
            // Only a human can tell.
            _ => again,
        }
    }

    /// No copy of a guest is left: it goes on from its image, or boots.
    fn launch(&mut self, guest: GuestNumber, desk: &mut Desk<'_>) -> Option<Step> {
        let home = self.care[guest].home;
        let has_jobs = desk.shape().migrations.jobs > 0;
        let work = match has_jobs {
            true if desk.is_saved(guest) => Some(Work::restore()),
            true if desk.random().coin() => Some(Work::start()),
            true | false => None,
        };
        let is_there = match &work {
            Some(work) if work.is_restore() => {
                // Whatever was wanted when it was saved, its owner has it go on.
                desk.owner_wants(guest, Some(WantedRunState::Running));
                desk.start_incoming(home, guest)
            }
            Some(_) => desk.start_prelaunch(home, guest),
            None => desk.boot(home, guest),
        };
        is_there.then(|| {
            let registers = desk.add_domain(home, guest);
            match work {
                Some(work) => Step::Launching(registers, Box::new(work)),
                None => Step::Registering(registers),
            }
        })
    }

    /// A human has waited long enough, ends all there is of a guest, and boots it anew.
    fn give_up(&mut self, guest: GuestNumber, desk: &mut Desk<'_>) -> Step {
        for host in 0..desk.hosts() {
            desk.destroy(host, guest);
        }
        self.given_up.retain(|(_, one, _)| *one != guest);
        let hosts = 0..desk.hosts();
        self.given_up.extend(hosts.map(|host| (host, guest, None)));
        self.give_up_everywhere(desk);
        self.care[guest].in_vain = 0;
        Step::Looking {
            again: desk.now_ms() + AGAIN_MS,
            said: Vec::new(),
        }
    }

    /// It is said to each sidecar, as soon as that can be reached: what is closed at one side only leaves the other one waiting
    /// for an outcome that nobody has. Not any more when there is a copy again, which it would not be true of.
    fn give_up_everywhere(&mut self, desk: &mut Desk<'_>) {
        let is_gone = |desk: &Desk<'_>, guest| {
            (0..desk.hosts()).all(|host| desk.process(host, guest).is_none())
        };
        self.given_up
            .retain(|(_, guest, said)| said.is_some() || is_gone(desk, *guest));
        for (host, guest, said) in &mut self.given_up {
            let (host, guest) = (*host, *guest);
            if said.is_none() && desk.is_up(host) {
                let request = ControlRequest::Resolve {
                    name: desk.name(guest).to_owned(),
                    decision: Decision::Confirm,
                    force: true,
                    statement: "every copy of it is ended".to_owned(),
                    uid: 0,
                };
                *said = Some(desk.ask(host, request));
            }
        }
    }

    /// Its word is about one job, and it is said under the number that this has there: in a journal that was put back an older one
    /// of the same guest may be open.
    fn judge_job(
        &mut self,
        result: Option<&Result<Answer, Refusal>>,
        host: HostNumber,
        journal: u64,
        guest: GuestNumber,
        desk: &mut Desk<'_>,
    ) {
        let (Some(verdict), Some(Ok(Answer::Jobs(jobs)))) = (&self.care[guest].verdict, result)
        else {
            return;
        };
        let found = jobs.iter().find(|job| verdict.is_of(job, host, desk));
        let Some(job) = found.filter(|_| journal == desk.journal(host)) else {
            return;
        };
        let source = shows(guest, &RunState::Postmigrate, desk);
        // A source that dies before the destination carried that word out is lost by that, not by the word.
        if verdict.outcome == Outcome::Aborted && source.is_some() {
            for loser in (0..desk.hosts()).filter(|host| Some(*host) != source) {
                desk.forsake(loser, guest);
            }
        }
        let request = ControlRequest::Verdict {
            target: JobTarget::Job(job.job),
            outcome: verdict.outcome,
            uid: 0,
        };
        desk.ask(host, request);
    }

    /// Says the outcome, where both copies are seen or anywhere, by a command; or by its own hand.
    fn say_outcome(&mut self, guest: GuestNumber, outcome: Outcome, desk: &mut Desk<'_>) {
        let source = shows(guest, &RunState::Postmigrate, desk);
        let destination = shows(guest, &RunState::Paused, desk);
        let by_hand = desk.random().chance(BY_HAND);
        let quits = desk.random().coin();
        if let (Some(source), Some(destination), true) = (source, destination, by_hand) {
            let (winner, loser) = match outcome {
                Outcome::Committed => (destination, source),
                Outcome::Aborted => (source, destination),
            };
            match quits {
                true => desk.quit_by_hand(loser, guest),
                false => desk.cont_by_hand(winner, guest),
            };
            return;
        }
        let known = if desk.random().coin() {
            source
        } else {
            destination
        };
        let host = known.unwrap_or_else(|| {
            let hosts = desk.hosts();
            desk.random().index(hosts)
        });
        let name = Some(desk.name(guest).to_owned());
        let query = ControlRequest::QueryJobs { job: None, name };
        let asked = desk.ask(host, query);
        self.judges.push((asked, host, desk.journal(host), guest));
    }

    fn noticed(&mut self, host: HostNumber, notice: &Notice) {
        let Notice::JobEnded(job) = notice else {
            return;
        };
        for care in self.care.iter_mut().filter(|care| care.home == host) {
            let is_this = match &care.step {
                Step::Moving { job: known, .. } => *known == job.job,
                // Who waits for an answer gets it.
                Step::Working(work) => work.is(job.job) && !work.waits(),
                _ => false,
            };
            if is_this {
                care.step = look_at_once();
            }
        }
    }
}

fn waits_for(step: &Step, request: RequestId) -> bool {
    match step {
        Step::Registering(one)
        | Step::Preparing(_, one)
        | Step::Asking(one)
        | Step::Wishing(one)
        | Step::Launching(one, _) => *one == request,
        Step::Working(work) => work.waits_for(request),
        Step::Looking { said, .. } => said.iter().any(|(one, _)| *one == request),
        Step::Resting { .. } | Step::Moving { .. } | Step::Driving => false,
    }
}

/// How long a job may take before it is given up, in milliseconds.
fn patience(desk: &mut Desk<'_>) -> u64 {
    let gives_up = desk.shape().faults.manager_cancel;
    match desk.random().chance(gives_up) {
        true => desk.random().below(1_000),
        false => PATIENCE_MS,
    }
}

fn heard(result: Option<&Result<Answer, Refusal>>) -> Said {
    match result {
        None => Said::Nothing,
        Some(Ok(Answer::Domains(views))) => match views.first() {
            Some(view) => Said::View(Box::new(view.clone())),
            None => Said::Unknown,
        },
        Some(Ok(Answer::Domain(view))) => Said::View(Box::new(view.clone())),
        Some(Ok(_) | Err(_)) => Said::Unknown,
    }
}

/// The host whose copy of it was sent, or loaded, whole and stands in that state.
fn shows(guest: GuestNumber, run: &RunState, desk: &Desk<'_>) -> Option<HostNumber> {
    (0..desk.hosts()).find(|host| {
        desk.process(*host, guest).is_some_and(|observed| {
            observed.run_state.as_ref() == Some(run)
                && observed.migration == Some(MigrationStatus::Completed)
        })
    })
}

fn draw_how(desk: &mut Desk<'_>) -> How {
    let mix = desk.shape().migrations.clone();
    let kind = desk.random().below(1_000_000);
    let (v2, postcopy) = (u64::from(mix.v2), u64::from(mix.postcopy));
    let is_v2 = kind < v2;
    let is_postcopy = !is_v2 && kind < v2 + postcopy;
    let in_store = desk.random().chance(mix.store) && !is_postcopy;
    let is_own = desk.random().chance(mix.manager) && !is_postcopy;
    How {
        protocol: match is_v2 {
            true => Protocol::V2,
            false => Protocol::V3,
        },
        authority: match (is_v2, in_store, is_own) {
            (true, _, _) => Authority::Source,
            (false, true, _) => Authority::Store,
            (false, false, true) => Authority::Manager,
            (false, false, false) => Authority::Destination,
        },
        postcopy: is_postcopy,
        downtime_limit: None,
    }
}
