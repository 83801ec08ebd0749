//! Migrations that their manager drives itself: two sidecars, two QEMUs joined by a stream, and a manager. Either sidecar
//! dies after every batch, with what it handed out sent and not sent, and comes back; the manager goes on by what it sees.
//!
//! Invariant: never two copies run, and never none is left.
//! Not here: rows of the table (`rows::driven`), what is refused (`refused`).

use journal_format::number::{Id128, JournalId, Lsn};
use journal_format::record::{
    Decision, JobKind, JobPhase, JobResult, MigrationStatus, Outcome, RunState,
};
use serde_json::{Value, json};

use super::bench::{Bench, Crash, NAME, arguments};
use super::{BATCHES_MAX, NOTHING, has, result};
use crate::engine::{
    Answer, ControlRequest, FoundAt, JobTarget, JobView, ManagerEffect, QemuEvent, TICK_INTERVAL_MS,
};

mod attacked;
mod forsaken;
pub(in crate::engine::tests) mod paired;
pub(in crate::engine::tests) mod recognised;
mod refused;

/// How long one step of the stream takes.
const STEP_MS: u64 = 1_000;

/// Both sides.
pub(super) struct Pair {
    pub(super) source: Bench,
    pub(super) destination: Bench,
    is_paused: bool,
    /// The source's sidecar is told of the destination's.
    is_introduced: bool,
    now: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

impl Pair {
    /// A guest at the source, as its owner wants it.
    pub(super) fn new(run: RunState) -> Pair {
        let is_paused = run != RunState::Running;
        let identity = |byte| JournalId(Id128([byte; 16]));
        let mut pair = Pair {
            source: Bench::of(identity(0xA0), run),
            destination: Bench::of(identity(0xA1), RunState::Inmigrate),
            is_paused,
            is_introduced: false,
            now: 0,
        };
        pair.source.qemu.is_paired = true;
        pair.destination.qemu.is_paired = true;
        pair
    }

    fn side(&mut self, side: Side) -> &mut Bench {
        match side {
            Side::Source => &mut self.source,
            Side::Destination => &mut self.destination,
        }
    }

    fn story(&self) -> String {
        let (source, destination) = (self.source.story(), self.destination.story());
        format!("source {source}\ndestination {destination}")
    }

    /// P2, P8: at every moment.
    fn check(&self) {
        let runs = |bench: &Bench| bench.qemu.alive && bench.qemu.run == RunState::Running;
        let (source, destination) = (runs(&self.source), runs(&self.destination));
        assert!(!(source && destination), "two run\n{}", self.story());
        assert!(
            !self.is_paused || !(source || destination),
            "a paused guest runs\n{}",
            self.story()
        );
    }

    /// What was sent arrives; QEMU's own doing.
    fn flow(&mut self) {
        let (from, to) = (&mut self.source.qemu, &mut self.destination.qemu);
        let is_open = matches!(to.status, MigrationStatus::Setup | MigrationStatus::Active);
        let listens = to.alive && to.run == RunState::Inmigrate && is_open;
        let sends = matches!(
            from.status,
            MigrationStatus::Active | MigrationStatus::PreSwitchover | MigrationStatus::Device
        );
        if from.alive && sends && !listens {
            from.status = MigrationStatus::Failed;
            if from.run == RunState::FinishMigrate {
                from.run = match from.was_running {
                    true => RunState::Running,
                    false => RunState::Postmigrate,
                };
            }
            return;
        }
        match (from.status.clone(), from.run.clone()) {
            (MigrationStatus::Active, _) if from.alive => {
                to.status = MigrationStatus::Active;
                from.status = MigrationStatus::PreSwitchover;
                from.run = RunState::FinishMigrate;
            }
            (MigrationStatus::Device, _) if from.alive => {
                from.status = MigrationStatus::Completed;
                to.status = MigrationStatus::Completed;
                to.run = match to.autostart {
                    true => RunState::Running,
                    false => RunState::Paused,
                };
            }
            (MigrationStatus::Completed, RunState::FinishMigrate) => {
                from.run = RunState::Postmigrate;
            }
            // A stream that breaks ends QEMU.
            (MigrationStatus::Cancelled | MigrationStatus::Failed, _) if listens => {
                to.alive = false
            }
            _ if listens && !from.alive => to.alive = false,
            _ => {}
        }
    }

    /// Time passes on both sides.
    fn run_for(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end {
            self.now += TICK_INTERVAL_MS;
            if self.now % STEP_MS < TICK_INTERVAL_MS {
                self.flow();
            }
            self.source.run_for(TICK_INTERVAL_MS);
            self.destination.run_for(TICK_INTERVAL_MS);
            self.introduce();
            self.check();
        }
    }

    /// What the source's sidecar asks the other one, and hears of it.
    fn introduce(&mut self) {
        if !self.is_introduced || !self.source.is_up() || !self.destination.is_up() {
            return;
        }
        while let Some((number, find)) = self.source.finds.pop_front() {
            let envelope = self.source.envelope(number);
            let answer = self.destination.asked_by(envelope, find);
            let heard = FoundAt {
                peer: "/other".to_owned(),
                result: Ok(answer),
            };
            self.source.found(number, vec![heard]);
        }
    }

    /// Until QEMU says so at the source.
    fn until(&mut self, status: &MigrationStatus, run: &RunState) -> Result<(), String> {
        for _ in 0..100 {
            if !self.source.is_up() || !self.destination.is_up() {
                return Err("a sidecar died".to_owned());
            }
            if self.source.qemu.status == *status && self.source.qemu.run == *run {
                return Ok(());
            }
            self.run_for(100);
        }
        Err(format!("never {status}"))
    }

    fn enter(
        &mut self,
        side: Side,
        job: Lsn,
        phase: JobPhase,
        effects: &[(&str, Value)],
        peer_cookie: Option<String>,
    ) -> Result<Answer, String> {
        let effects = effects.iter().map(|(execute, value)| ManagerEffect {
            execute: (*execute).to_owned(),
            arguments: arguments(value.clone()),
        });
        let request = ControlRequest::PhaseEnter {
            job,
            phase,
            effects: effects.collect(),
            cookie: None,
            peer_cookie,
        };
        let answer = self.side(side).ask(request);
        self.check();
        answer
    }

    fn open_job(&mut self, side: Side) -> Option<JobView> {
        let jobs = self.side(side).jobs();
        jobs.into_iter().find(|job| job.result.is_none())
    }

    fn give_verdict(&mut self, side: Side, outcome: Outcome) {
        if self.is_paused && (side, outcome) == (Side::Destination, Outcome::Committed) {
            // Without the source's cookie nobody but the manager knows there that it stays so.
            let job = self.open_job(side).unwrap().job;
            self.enter(side, job, JobPhase::Finish3, &[], None).unwrap();
            self.side(side).end(job).unwrap();
            return;
        }
        let target = JobTarget::Domain(NAME.to_owned());
        let request = ControlRequest::Verdict {
            target,
            outcome,
            uid: 0,
        };
        let answer = self.side(side).ask(request);
        assert!(
            answer.is_ok(),
            "{side:?} {outcome}: {answer:?}\n{}",
            self.story()
        );
        self.check();
    }

    fn cancel(&mut self, side: Side, job: Lsn) {
        drop(self.side(side).ask(ControlRequest::JobCancel { job }));
        self.check();
    }
}

/// Everything up to the moment at which all was sent; the jobs.
fn send(pair: &mut Pair) -> Result<(Lsn, Lsn), String> {
    let to = pair.destination.begin(JobKind::MigrationIn)?;
    let from = pair.source.begin(JobKind::MigrationOut)?;
    let export = json!({"id": "e0", "type": "nbd", "node-name": "disk"});
    let listen = [
        ("migrate-set-capabilities", json!({"capabilities": []})),
        ("nbd-server-start", json!({"addr": {}})),
        ("block-export-add", export),
        ("migrate-incoming", json!({"uri": "tcp:[::]:4444"})),
    ];
    pair.enter(Side::Destination, to, JobPhase::Prepare, &listen, None)?;
    let capabilities = [("migrate-set-capabilities", json!({"capabilities": []}))];
    pair.enter(Side::Source, from, JobPhase::Begin3, &capabilities, None)?;
    let target = json!({"node-name": "nbd0", "driver": "nbd"});
    let mirror = json!({"job-id": "m0", "device": "disk", "target": "nbd0", "sync": "full"});
    let begin = [
        ("blockdev-add", target),
        ("blockdev-mirror", mirror),
        ("migrate", json!({"uri": "tcp:[::1]:4444"})),
    ];
    pair.enter(Side::Source, from, JobPhase::Perform3, &begin, None)?;
    pair.until(&MigrationStatus::PreSwitchover, &RunState::FinishMigrate)?;
    let settle = [
        ("block-job-cancel", json!({"device": "m0"})),
        ("job-dismiss", json!({"id": "m0"})),
        ("blockdev-del", json!({"node-name": "nbd0"})),
        ("migrate-continue", json!({"state": "pre-switchover"})),
    ];
    pair.enter(Side::Source, from, JobPhase::Perform3, &settle, None)?;
    pair.until(&MigrationStatus::Completed, &RunState::Postmigrate)?;
    Ok((from, to))
}

fn granted(pair: &mut Pair, from: Lsn) -> Result<String, String> {
    match pair.enter(Side::Source, from, JobPhase::Perform3Done, &[], None)? {
        Answer::PhaseEntered {
            cookie: Some(cookie),
            ..
        } => Ok(cookie),
        other => panic!("{other:?}"),
    }
}

/// The whole way, as libvirt goes it.
fn migrate(pair: &mut Pair) -> Result<(), String> {
    let (from, to) = send(pair)?;
    let cookie = granted(pair, from)?;
    let mut take = vec![
        ("block-export-del", json!({"id": "e0"})),
        ("nbd-server-stop", NOTHING()),
    ];
    if !pair.is_paused {
        take.push(("cont", NOTHING()));
    }
    pair.enter(
        Side::Destination,
        to,
        JobPhase::Finish3,
        &take,
        Some(cookie),
    )?;
    pair.destination.end(to)?;
    let quit = [("quit", NOTHING())];
    pair.enter(Side::Source, from, JobPhase::Confirm3, &quit, None)?;
    pair.source.end(from).map(drop)
}

/// The way back after everything was sent.
fn turn_back(pair: &mut Pair) -> Result<(), String> {
    let (from, to) = send(pair)?;
    granted(pair, from)?;
    let quit = [("quit", NOTHING())];
    pair.enter(Side::Destination, to, JobPhase::Finish3, &quit, None)?;
    let cont = [("cont", NOTHING())];
    let cont = &cont[..usize::from(!pair.is_paused)];
    pair.enter(Side::Source, from, JobPhase::Confirm3Cancelled, cont, None)?;
    let failed = ControlRequest::JobEnd {
        job: from,
        result: JobResult::Failed,
    };
    pair.source.ask(failed).map(drop)
}

/// The manager comes back and looks: what is open it brings to that outcome, where that can still be.
fn finish(pair: &mut Pair, outcome: Outcome) {
    for _ in 0..20 {
        pair.run_for(2 * STEP_MS);
        let from = pair.open_job(Side::Source);
        let to = pair.open_job(Side::Destination);
        let (source, destination) = (&pair.source.qemu, &pair.destination.qemu);
        let has_sent = source.alive
            && source.status == MigrationStatus::Completed
            && source.run == RunState::Postmigrate;
        let is_whole = destination.alive && destination.run == RunState::Paused;
        let has_run = destination.alive && destination.run == RunState::Running;
        let goes_on = source.alive && !has_sent;
        match (from, to) {
            (None, None) => return,
            (Some(from), _) if goes_on => pair.cancel(Side::Source, from.job),
            // Only what nobody took over is given up, and only what was not given up is taken over.
            (Some(_), Some(_)) if is_whole => pair.give_verdict(Side::Destination, outcome),
            (Some(_), to) if has_sent => {
                let is_there = has_run || is_whole && to.is_none();
                let outcome = match is_there {
                    true => Outcome::Committed,
                    false => Outcome::Aborted,
                };
                pair.give_verdict(Side::Source, outcome);
            }
            (None, Some(to)) if goes_on => pair.cancel(Side::Destination, to.job),
            (None, Some(_)) if is_whole => {
                let outcome = match pair.source.qemu.alive {
                    true => outcome,
                    false => Outcome::Committed,
                };
                pair.give_verdict(Side::Destination, outcome);
            }
            _ => {}
        }
    }
    panic!("never at rest\n{}", pair.story());
}

/// Exactly one copy is left, as its owner wants it, and nothing of the migration in it.
fn judge(pair: &mut Pair) {
    let (source, destination) = (&pair.source.qemu, &pair.destination.qemu);
    let is_guest = |bench: &Bench, is_destination: bool| {
        bench.qemu.alive
            && (!is_destination || bench.qemu.run != RunState::Inmigrate)
            && match bench.qemu.run {
                RunState::Running => !pair.is_paused,
                _ => pair.is_paused,
            }
    };
    let at_source = is_guest(&pair.source, false);
    let at_destination = is_guest(&pair.destination, true);
    // A paused guest that was given away may still stand at the source, which its job says.
    let is_given = at_source && at_destination && pair.is_paused;
    assert!(
        at_source != at_destination || is_given && !source.alive,
        "{at_source} {at_destination}\n{}",
        pair.story()
    );
    if at_source {
        let is_left = !source.jobs.is_empty() || !source.nodes.is_empty();
        assert!(!is_left, "left behind\n{}", pair.story());
        assert!(!destination.alive, "{}", pair.story());
    }
    let results = |side: &mut Bench| result(side.jobs().last());
    let completed = Some(JobResult::Completed);
    let (from, to) = (results(&mut pair.source), results(&mut pair.destination));
    if at_destination {
        assert!(!pair.source.qemu.alive, "{}", pair.story());
        assert_eq!((from, to), (completed, completed), "{}", pair.story());
    } else {
        assert_ne!(from, completed, "{}", pair.story());
        assert_ne!(to, completed, "{}", pair.story());
    }
}

type Manager = fn(&mut Pair) -> Result<(), String>;

/// A sidecar dies after each of its batches in turn, and the manager comes back. All rules that were decided by.
fn every_batch(run: &RunState, manager: Manager, outcome: Outcome) -> Vec<String> {
    let mut rules = Vec::new();
    for side in [Side::Source, Side::Destination] {
        for (is_sent, steps) in [(false, 0), (true, 0), (true, 1), (true, 4)] {
            for after in 1..BATCHES_MAX {
                let mut pair = Pair::new(run.clone());
                pair.side(side).crash = Some(Crash {
                    after: after + 1,
                    is_sent,
                });
                let ended = manager(&mut pair);
                pair.check();
                let is_over = pair.side(side).is_up();
                if is_over {
                    assert_eq!(ended, Ok(()), "{}", pair.story());
                    pair.side(side).crash = None;
                } else {
                    for _ in 0..steps {
                        pair.flow();
                        pair.check();
                    }
                    pair.side(side).restart();
                    pair.check();
                    pair.run_for(STEP_MS);
                    assert!(pair.side(side).is_ready, "{}", pair.story());
                }
                finish(&mut pair, outcome);
                judge(&mut pair);
                for bench in [&pair.source, &pair.destination] {
                    rules.extend(bench.rules().into_iter().map(str::to_owned));
                }
                if is_over {
                    break;
                }
            }
        }
    }
    rules.sort();
    rules.dedup();
    rules
}

/// Whatever crashes: the guest goes over when its manager says so, and else stays.
pub(in crate::engine::tests) fn a_driven_migration_is_committed() {
    let rules = every_batch(&RunState::Running, migrate, Outcome::Committed);
    let all = [
        "driven-source-undone",
        "driven-source-give-up",
        "driven-source-completed",
        "driven-source-confirm",
        "driven-source-ended",
        "driven-destination-waiting",
        "driven-destination-whole",
        "driven-destination-committed",
        "driven-destination-running",
        "driven-destination-ended",
    ];
    has(&rules, &all);
}

pub(in crate::engine::tests) fn a_driven_migration_is_aborted() {
    let rules = every_batch(&RunState::Running, turn_back, Outcome::Aborted);
    let all = [
        "driven-source-give-up",
        "driven-source-aborted",
        "driven-destination-aborted",
        "driven-destination-ended",
    ];
    has(&rules, &all);
}

#[test]
fn committed() {
    a_driven_migration_is_committed();
}

#[test]
fn aborted() {
    a_driven_migration_is_aborted();
}

/// The manager changes its mind after the crash, where it still can.
#[test]
fn another_mind_after_the_crash() {
    every_batch(&RunState::Running, migrate, Outcome::Aborted);
    every_batch(&RunState::Running, turn_back, Outcome::Committed);
}

/// P8.
#[test]
fn a_paused_guest() {
    every_batch(&RunState::Paused, migrate, Outcome::Committed);
    every_batch(&RunState::Paused, turn_back, Outcome::Aborted);
}

/// The manager does it to QEMU itself, past the sidecar that drives or holds the job: that is its word, on the record.
pub(in crate::engine::tests) fn its_own_cont_at_the_source() {
    for is_restarted in [false, true] {
        let mut pair = Pair::new(RunState::Running);
        let (from, _) = send(&mut pair).unwrap();
        granted(&mut pair, from).unwrap();
        if is_restarted {
            pair.source.restart();
            pair.run_for(STEP_MS);
            assert_eq!(pair.source.rules(), ["driven-source-completed"]);
        }
        pair.destination.qemu.alive = false;
        pair.source.qemu.run = RunState::Running;
        pair.source.tell(QemuEvent::Resume);
        pair.run_for(STEP_MS);
        assert!(
            pair.source.rules().contains(&"driven-source-cont"),
            "{}",
            pair.story()
        );
        let refused = pair.enter(
            Side::Source,
            from,
            JobPhase::Confirm3,
            &[("quit", NOTHING())],
            None,
        );
        assert!(refused.is_err(), "{}", pair.story());
        let jobs = pair.source.jobs();
        assert_eq!(result(jobs.last()).is_some(), is_restarted, "{jobs:?}");
        assert!(pair.source.qemu.alive && !pair.source.intended("quit"));
    }
}

pub(in crate::engine::tests) fn its_own_quit_at_the_source() {
    for is_restarted in [false, true] {
        let mut pair = Pair::new(RunState::Running);
        let (from, _) = send(&mut pair).unwrap();
        granted(&mut pair, from).unwrap();
        if is_restarted {
            pair.source.restart();
            pair.run_for(STEP_MS);
        }
        pair.source.qemu.alive = false;
        pair.source.tell(QemuEvent::Lost);
        pair.run_for(STEP_MS);
        assert!(
            pair.source.rules().contains(&"driven-source-quit"),
            "{}",
            pair.story()
        );
        let expected = match is_restarted {
            true => JobResult::Crashed,
            false => JobResult::Completed,
        };
        assert_eq!(result(pair.source.jobs().last()), Some(expected));
    }
}

#[test]
fn past_the_sidecar() {
    its_own_cont_at_the_source();
    its_own_quit_at_the_source();
    let mut pair = Pair::new(RunState::Running);
    let (_, to) = send(&mut pair).unwrap();
    pair.source.qemu.alive = false;
    pair.destination.qemu.run = RunState::Running;
    pair.destination.tell(QemuEvent::Resume);
    pair.run_for(STEP_MS);
    assert_eq!(pair.destination.rules(), ["driven-destination-running"]);
    // It ended by itself, as it was to.
    pair.destination.end(to).unwrap();
}

/// What nobody can tell is held, and nothing is sent.
pub(in crate::engine::tests) fn what_nobody_can_tell_is_held() {
    let hold = |pair: &mut Pair, side: Side, rule: &str| {
        let before = (pair.source.effects(), pair.destination.effects());
        pair.run_for(10 * STEP_MS);
        assert!(
            pair.side(side).rules().contains(&rule),
            "{rule}\n{}",
            pair.story()
        );
        let after = (pair.source.effects(), pair.destination.effects());
        assert_eq!(before, after, "{}", pair.story());
    };
    // Split over both sides, past the sidecar.
    for side in [Side::Source, Side::Destination] {
        let mut pair = Pair::new(RunState::Running);
        let (_, _) = send(&mut pair).unwrap();
        pair.side(side).restart();
        pair.source.qemu.status = MigrationStatus::PostcopyActive;
        pair.destination.qemu.status = MigrationStatus::PostcopyActive;
        hold(&mut pair, side, "driven-postcopy");
    }
    // Confirmed, and continued all the same.
    let mut pair = Pair::new(RunState::Running);
    let (from, _) = send(&mut pair).unwrap();
    granted(&mut pair, from).unwrap();
    pair.enter(Side::Source, from, JobPhase::Confirm3, &[], None)
        .unwrap();
    pair.source.restart();
    pair.source.qemu.run = RunState::Running;
    hold(&mut pair, Side::Source, "driven-source-unproven");
    let word = |decision, force| ControlRequest::Resolve {
        name: NAME.to_owned(),
        decision,
        force,
        statement: "the destination is off".to_owned(),
        uid: 0,
    };
    for decision in [Decision::Kill, Decision::Resume, Decision::Confirm] {
        let refused = pair.source.ask(word(decision, false)).unwrap_err();
        assert!(refused.contains("use force"), "{refused}");
    }
    pair.source.ask(word(Decision::Resume, true)).unwrap();
    pair.run_for(STEP_MS);
    assert_eq!(result(pair.source.jobs().last()), Some(JobResult::Failed));
    assert!(pair.source.qemu.alive, "{}", pair.story());
}

#[test]
fn held() {
    what_nobody_can_tell_is_held();
}

/// A destination whose stream failed in a QEMU that does not end by itself then.
pub(in crate::engine::tests) fn a_stream_that_failed() {
    let mut pair = Pair::new(RunState::Running);
    let to = pair.destination.begin(JobKind::MigrationIn).unwrap();
    let listen = [("migrate-incoming", json!({"uri": "tcp:[::]:4444"}))];
    pair.enter(Side::Destination, to, JobPhase::Prepare, &listen, None)
        .unwrap();
    pair.destination.restart();
    pair.destination.qemu.status = MigrationStatus::Failed;
    pair.run_for(2 * STEP_MS);
    assert!(!pair.destination.qemu.alive, "{}", pair.story());
    assert!(
        pair.destination
            .rules()
            .contains(&"driven-destination-failed")
    );
    assert_eq!(
        result(pair.destination.jobs().last()),
        Some(JobResult::Failed)
    );
}

#[test]
fn failed() {
    a_stream_that_failed();
}

/// A mirror that QEMU does not cancel keeps neither the guest nor the job; what is left is named.
#[test]
fn a_mirror_that_stays() {
    let mut pair = Pair::new(RunState::Running);
    let job = pair.source.begin(JobKind::MigrationOut).unwrap();
    let mirror = json!({"job-id": "m0", "device": "disk", "target": "nbd0", "sync": "full"});
    let begin = [
        ("stop", NOTHING()),
        ("blockdev-mirror", mirror),
        ("migrate", json!({"uri": "tcp:[::1]:4444"})),
    ];
    pair.enter(Side::Source, job, JobPhase::Perform3, &begin, None)
        .unwrap();
    pair.source.qemu.keeps_mirrors = true;
    pair.source.restart();
    pair.source.run_for(10 * STEP_MS);
    assert_eq!(pair.source.qemu.run, RunState::Running, "{}", pair.story());
    let jobs = pair.source.jobs();
    assert_eq!(
        result(jobs.last()),
        Some(JobResult::Failed),
        "{}",
        pair.story()
    );
    let detail = &jobs[0].detail;
    assert!(detail.contains("not taken back: job-cancel"), "{detail}");
}

/// A whole copy may be the only one: it is kept until somebody speaks, also when the source's QEMU is gone.
pub(in crate::engine::tests) fn a_whole_copy_is_kept() {
    let mut pair = Pair::new(RunState::Running);
    send(&mut pair).unwrap();
    pair.destination.restart();
    pair.source.qemu.alive = false;
    pair.run_for(20 * STEP_MS);
    assert!(pair.destination.qemu.alive, "{}", pair.story());
    assert_eq!(pair.destination.rules(), ["driven-destination-whole"]);
    let jobs = pair.destination.jobs();
    assert!(jobs[0].detail.contains("phase-enter finish3"), "{jobs:?}");
    pair.give_verdict(Side::Destination, Outcome::Committed);
    assert_eq!(pair.destination.qemu.run, RunState::Running);
}

/// A journal put back from an older copy does not know of the stream: held, until an operator says that the guest stays.
pub(in crate::engine::tests) fn a_stream_that_the_journal_does_not_know() {
    let mut pair = Pair::new(RunState::Running);
    pair.source.begin(JobKind::MigrationOut).unwrap();
    pair.source.qemu.status = MigrationStatus::PreSwitchover;
    pair.source.qemu.run = RunState::FinishMigrate;
    pair.source.restart();
    pair.source.run_for(2 * STEP_MS);
    assert_eq!(pair.source.rules(), ["no-rule-for-this"]);
    let resume = ControlRequest::Resolve {
        name: NAME.to_owned(),
        decision: Decision::Resume,
        force: true,
        statement: "the destination is gone".to_owned(),
        uid: 0,
    };
    pair.source.ask(resume).unwrap();
    pair.source.run_for(10 * STEP_MS);
    assert!(pair.source.intended("migrate_cancel"), "{}", pair.story());
    assert_eq!(pair.source.qemu.run, RunState::Running, "{}", pair.story());
    let ended = result(pair.source.jobs().last());
    assert_eq!(ended, Some(JobResult::Failed), "{}", pair.story());
}

/// Somebody continued the source, which has the image's lock: an operator ends the copy that was to run.
pub(in crate::engine::tests) fn a_cont_that_is_refused_for_ever() {
    let mut pair = Pair::new(RunState::Running);
    send(&mut pair).unwrap();
    let to = pair.open_job(Side::Destination).unwrap().job;
    pair.destination.crash = Some(Crash {
        after: pair.destination.batches + 1,
        is_sent: false,
    });
    let cont = [("cont", NOTHING())];
    pair.enter(Side::Destination, to, JobPhase::Finish3, &cont, None)
        .unwrap_err();
    pair.destination.qemu.refuses_cont = true;
    pair.destination.restart();
    pair.run_for(5 * STEP_MS);
    assert_eq!(pair.destination.rules(), ["driven-destination-committed"]);
    let kill = ControlRequest::Resolve {
        name: NAME.to_owned(),
        decision: Decision::Kill,
        force: true,
        statement: "the source runs the guest".to_owned(),
        uid: 0,
    };
    pair.destination.ask(kill).unwrap();
    pair.run_for(5 * STEP_MS);
    assert!(!pair.destination.qemu.alive, "{}", pair.story());
    assert!(
        pair.open_job(Side::Destination).is_none(),
        "{}",
        pair.story()
    );
}

/// A manager that does not know whether its cont was heard says so once more: the guest is there, and the job ends.
pub(in crate::engine::tests) fn a_word_is_said_again() {
    let mut pair = Pair::new(RunState::Running);
    send(&mut pair).unwrap();
    let to = pair.open_job(Side::Destination).unwrap().job;
    let cont = [("cont", NOTHING())];
    pair.enter(Side::Destination, to, JobPhase::Finish3, &cont, None)
        .unwrap();
    pair.give_verdict(Side::Destination, Outcome::Committed);
    let ended = result(pair.destination.jobs().last());
    assert_eq!(ended, Some(JobResult::Completed), "{}", pair.story());
    assert_eq!(pair.destination.qemu.run, RunState::Running);
}

/// One that ended before it ran is no crash of a guest.
pub(in crate::engine::tests) fn an_ended_destination() {
    let mut pair = Pair::new(RunState::Running);
    send(&mut pair).unwrap();
    pair.destination.restart();
    pair.destination.qemu.alive = false;
    pair.run_for(2 * STEP_MS);
    assert!(
        pair.destination
            .rules()
            .contains(&"driven-destination-ended")
    );
    let ended = result(pair.destination.jobs().last());
    assert_eq!(ended, Some(JobResult::Failed));
}

#[test]
fn destinations() {
    a_whole_copy_is_kept();
    a_word_is_said_again();
    a_cont_that_is_refused_for_ever();
    a_stream_that_the_journal_does_not_know();
    an_ended_destination();
}
