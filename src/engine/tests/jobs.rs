//! Jobs that are no migrations: the sidecar dies after every batch, with what it handed out sent and not sent,
//! and comes back.
//!
//! Not here: single rows of the table (`rows::jobs`), real QEMU (`tests/jobs.rs`).

mod bench;
pub(super) mod driven;
mod sent;

use journal_format::number::Lsn;
use journal_format::record::{
    Decision, DumpStatus, JOB_COOKIE_SIZE_MAX, JOB_THINGS_MAX, JobKind, JobPhase, JobResult,
    MONITOR_ARGUMENTS_SIZE_MAX, MigrationStatus, QemuJobStatus, RunState, body_size,
};
use serde_json::{Value, json};

use crate::engine::{Answer, ControlRequest, JobView, ManagerEffect};
use bench::{Bench, Crash, NAME, arguments};

/// More than any of these jobs has.
const BATCHES_MAX: u32 = 60;

impl Bench {
    fn begin(&mut self, kind: JobKind) -> Result<Lsn, String> {
        let request = ControlRequest::JobBegin {
            name: NAME.to_owned(),
            kind,
            cookie: Some("<manager/>".to_owned()),
        };
        match self.ask(request)? {
            Answer::JobBegun { job } => Ok(job),
            other => panic!("{other:?}"),
        }
    }

    fn enter(
        &mut self,
        job: Lsn,
        phase: JobPhase,
        effects: &[(&str, Value)],
    ) -> Result<Answer, String> {
        let effects = effects.iter().map(|(execute, value)| ManagerEffect {
            execute: (*execute).to_owned(),
            arguments: arguments(value.clone()),
        });
        self.ask(ControlRequest::PhaseEnter {
            job,
            phase,
            effects: effects.collect(),
            cookie: None,
            peer_cookie: None,
        })
    }

    fn end(&mut self, job: Lsn) -> Result<Answer, String> {
        let result = JobResult::Completed;
        self.ask(ControlRequest::JobEnd { job, result })
    }

    fn pass(&mut self, milliseconds: u64) -> Result<(), String> {
        self.run_for(milliseconds);
        match self.is_up() {
            true => Ok(()),
            false => Err("the sidecar died".to_owned()),
        }
    }
}

/// A manager's way through a job.
type Manager = fn(&mut Bench) -> Result<(), String>;

const NOTHING: fn() -> Value = || json!({});

fn save(bench: &mut Bench) -> Result<(), String> {
    let job = bench.begin(JobKind::Save)?;
    bench.enter(job, JobPhase::Prepare, &[("stop", NOTHING())])?;
    let uri = json!({"uri": "exec:cat>/image"});
    bench.enter(job, JobPhase::Perform, &[("migrate", uri)])?;
    bench.pass(2_000)?;
    bench.enter(job, JobPhase::Finish, &[("quit", NOTHING())])?;
    bench.end(job).map(drop)
}

fn dump(bench: &mut Bench) -> Result<(), String> {
    let job = bench.begin(JobKind::Dump)?;
    let to = json!({"paging": false, "protocol": "file:/dump"});
    let effects = [("stop", NOTHING()), ("dump-guest-memory", to)];
    bench.enter(job, JobPhase::Perform, &effects)?;
    bench.pass(2_000)?;
    bench.end(job).map(drop)
}

fn snapshot_of_a_disk(bench: &mut Bench) -> Result<(), String> {
    let job = bench.begin(JobKind::Snapshot)?;
    let of = json!({"device": "d", "snapshot-node-name": "overlay", "snapshot-file": "/o"});
    bench.enter(job, JobPhase::Perform, &[("blockdev-snapshot-sync", of)])?;
    bench.end(job).map(drop)
}

fn snapshot_inside(bench: &mut Bench) -> Result<(), String> {
    let job = bench.begin(JobKind::Snapshot)?;
    let of = json!({"job-id": "s0", "tag": "t", "vmstate": "d", "devices": ["d"]});
    bench.enter(job, JobPhase::Perform, &[("snapshot-save", of)])?;
    bench.pass(2_000)?;
    bench.enter(
        job,
        JobPhase::Finish,
        &[("job-dismiss", json!({"id": "s0"}))],
    )?;
    bench.end(job).map(drop)
}

fn backup(bench: &mut Bench) -> Result<(), String> {
    let job = bench.begin(JobKind::Backup)?;
    let target = json!({"node-name": "target", "driver": "raw"});
    bench.enter(job, JobPhase::Prepare, &[("blockdev-add", target)])?;
    let of = json!({"job-id": "b0", "device": "d", "target": "target", "sync": "full"});
    bench.enter(job, JobPhase::Perform, &[("blockdev-backup", of)])?;
    bench.pass(2_000)?;
    let id = json!({"id": "b0"});
    if !bench.qemu.disk_is_full {
        bench.enter(job, JobPhase::Finish, &[("job-finalize", id.clone())])?;
    }
    let target = json!({"node-name": "target"});
    let rest = [("job-dismiss", id), ("blockdev-del", target)];
    bench.enter(job, JobPhase::Finish, &rest)?;
    bench.end(job).map(drop)
}

fn restore(bench: &mut Bench) -> Result<(), String> {
    let job = bench.begin(JobKind::Restore)?;
    let uri = json!({"uri": "exec:cat /image"});
    bench.enter(job, JobPhase::Perform, &[("migrate-incoming", uri)])?;
    bench.pass(2_000)?;
    bench.enter(job, JobPhase::Finish, &[("cont", NOTHING())])?;
    bench.end(job).map(drop)
}

fn destroy(bench: &mut Bench) -> Result<(), String> {
    let job = bench.begin(JobKind::Destroy)?;
    bench.enter(job, JobPhase::Perform, &[("kill", NOTHING())])?;
    bench.end(job).map(drop)
}

fn suspend(bench: &mut Bench) -> Result<(), String> {
    let job = bench.begin(JobKind::Suspend)?;
    bench.enter(job, JobPhase::Perform, &[("stop", NOTHING())])?;
    bench.end(job).map(drop)
}

fn modify(bench: &mut Bench) -> Result<(), String> {
    let job = bench.begin(JobKind::Modify)?;
    bench.enter(
        job,
        JobPhase::Perform,
        &[("device_add", json!({"driver": "e1000"}))],
    )?;
    bench.end(job).map(drop)
}

/// What must be so at the end; the view is that of the last job.
type Judge = fn(&Bench, Option<&JobView>);

/// How a run begins.
struct Begin {
    run: RunState,
    manager: Manager,
    is_full: bool,
    /// The job is cancelled as soon as the sidecar is there again.
    is_cancelled: bool,
}

impl Begin {
    const fn of(run: RunState, manager: Manager) -> Begin {
        Begin {
            run,
            manager,
            is_full: false,
            is_cancelled: false,
        }
    }
}

/// The sidecar dies after each batch in turn. All rules that were decided by.
fn every_batch(begin: &Begin, judge: Judge) -> Vec<String> {
    let mut rules = Vec::new();
    // What was sent, and how far QEMU got while nobody was there.
    for (is_sent, gets_on) in [(false, false), (true, false), (true, true)] {
        for after in 1..BATCHES_MAX {
            let mut bench = Bench::new(begin.run.clone());
            bench.qemu.disk_is_full = begin.is_full;
            let before = bench.bodies().count();
            bench.crash = Some(Crash {
                // The domain's own batches come first.
                after: after + 1,
                is_sent,
            });
            let ended = (begin.manager)(&mut bench);
            let is_over = bench.is_up();
            if is_over {
                assert_eq!(ended, Ok(()), "{}", bench.story());
                bench.crash = None;
            } else {
                if gets_on {
                    bench.qemu.get_on();
                }
                bench.restart();
            }
            assert!(bench.bodies().count() > before);
            if begin.is_cancelled
                && let Some(job) = bench.jobs().iter().find(|job| job.result.is_none())
            {
                let job = job.job;
                drop(bench.ask(ControlRequest::JobCancel { job }));
            }
            bench.run_for(20_000);
            assert!(bench.is_ready, "{}", bench.story());
            let jobs = bench.jobs();
            let is_open = jobs.iter().any(|job| job.result.is_none());
            assert!(!is_open, "{jobs:?}\n{}", bench.story());
            judge(&bench, jobs.last());
            rules.extend(bench.rules().into_iter().map(str::to_owned));
            if is_over {
                break;
            }
        }
    }
    rules.sort();
    rules.dedup();
    rules
}

fn result(job: Option<&JobView>) -> Option<JobResult> {
    job.and_then(|job| job.result)
}

fn runs(bench: &Bench) {
    assert!(bench.qemu.alive, "{}", bench.story());
    assert_eq!(bench.qemu.run, RunState::Running, "{}", bench.story());
    assert_ne!(
        bench.qemu.status,
        MigrationStatus::Active,
        "{}",
        bench.story()
    );
}

fn has(rules: &[String], expected: &[&str]) {
    for rule in expected {
        assert!(
            rules.iter().any(|one| one == rule),
            "no {rule} in {rules:?}"
        );
    }
}

/// The guest is in its image or in its QEMU, never in both and never in none.
pub(super) fn a_save_is_undone_or_done() {
    let judge: Judge = |bench, job| {
        if bench.intended("quit") {
            assert!(!bench.qemu.alive, "{}", bench.story());
            assert!(bench.qemu.image_is_newest, "{}", bench.story());
            assert_eq!(result(job), Some(JobResult::Completed), "{}", bench.story());
        } else {
            runs(bench);
            let failed = Some(JobResult::Failed);
            assert!([failed, None].contains(&result(job)), "{}", bench.story());
        }
    };
    let rules = every_batch(&Begin::of(RunState::Running, save), judge);
    let all = [
        "save-undone",
        "save-active",
        "save-completed",
        "save-ending",
        "save-ended",
    ];
    has(&rules, &all);
}

pub(super) fn a_dump_is_taken_or_not_proven() {
    let judge: Judge = |bench, job| {
        runs(bench);
        assert_ne!(bench.qemu.dump, DumpStatus::Active, "{}", bench.story());
        let is_taken = result(job) == Some(JobResult::Completed);
        let may_be = bench.qemu.dump == DumpStatus::Completed;
        assert!(!is_taken || may_be, "{}", bench.story());
        let is_proven = may_be && bench.is_done("dump-guest-memory");
        assert!(!is_proven || is_taken, "{}", bench.story());
    };
    let rules = every_batch(&Begin::of(RunState::Running, dump), judge);
    has(&rules, &["dump-active", "dump-taken", "dump-undone"]);
}

pub(super) fn a_snapshot_is_taken_or_not() {
    let judge: Judge = |bench, job| {
        runs(bench);
        assert!(bench.qemu.jobs.is_empty(), "{}", bench.story());
        let is_taken = result(job) == Some(JobResult::Completed);
        assert_eq!(
            is_taken,
            bench.qemu.overlays.contains("overlay"),
            "{}",
            bench.story()
        );
    };
    let rules = every_batch(&Begin::of(RunState::Running, snapshot_of_a_disk), judge);
    has(&rules, &["snapshot-taken", "snapshot-undone"]);
    let judge: Judge = |bench, job| {
        runs(bench);
        assert!(bench.qemu.jobs.is_empty(), "{}", bench.story());
        let sure = bench.rules().contains(&"snapshot-taken");
        let is_taken = result(job) == Some(JobResult::Completed);
        assert!(is_taken || !sure, "{}", bench.story());
    };
    let rules = every_batch(&Begin::of(RunState::Running, snapshot_inside), judge);
    has(
        &rules,
        &["snapshot-active", "snapshot-taken", "job-settled"],
    );
}

fn nothing_left(bench: &Bench) {
    runs(bench);
    assert!(bench.qemu.jobs.is_empty(), "{}", bench.story());
    assert!(bench.qemu.nodes.is_empty(), "{}", bench.story());
}

pub(super) fn a_backup_is_closed() {
    let judge: Judge = |bench, job| {
        nothing_left(bench);
        // Whoever saw a block job through to its end knows what it came to.
        let saw = |rule| bench.rules().contains(&rule);
        let expected = saw("backup-active") || saw("backup-pending");
        let is_done = result(job) == Some(JobResult::Completed);
        assert!(is_done || !expected, "{}", bench.story());
    };
    let rules = every_batch(&Begin::of(RunState::Running, backup), judge);
    let all = [
        "backup-undone",
        "backup-active",
        "backup-pending",
        "backup-ended",
    ];
    has(&rules, &all);
    let full = Begin {
        is_full: true,
        ..Begin::of(RunState::Running, backup)
    };
    let judge: Judge = |bench, job| {
        nothing_left(bench);
        let is_done = result(job) == Some(JobResult::Completed);
        let by_manager = bench.rules().is_empty();
        assert!(!is_done || by_manager, "{}", bench.story());
    };
    has(&every_batch(&full, judge), &["backup-failed"]);
}

pub(super) fn a_backup_is_cancelled() {
    let cancelled = Begin {
        is_cancelled: true,
        ..Begin::of(RunState::Running, backup)
    };
    let rules = every_batch(&cancelled, |bench, job| {
        nothing_left(bench);
        let was_cancelled = bench.intended("job-cancel");
        let is_cancelled = result(job) == Some(JobResult::Cancelled);
        assert!(is_cancelled || !was_cancelled, "{}", bench.story());
    });
    has(&rules, &["backup-cancelled"]);
}

/// A guest that never ran is still in its image; one that ran stays.
pub(super) fn a_restore_is_undone_or_done() {
    let judge: Judge = |bench, job| match bench.qemu.has_run {
        true => {
            runs(bench);
            assert_eq!(result(job), Some(JobResult::Completed), "{}", bench.story());
        }
        false => {
            assert!(!bench.qemu.alive, "{}", bench.story());
            assert_eq!(result(job), Some(JobResult::Failed), "{}", bench.story());
        }
    };
    let rules = every_batch(&Begin::of(RunState::Inmigrate, restore), judge);
    let all = [
        "start-undone",
        "start-unknown",
        "start-running",
        "start-ended",
    ];
    has(&rules, &all);
}

/// What was to be ended is left alone when that is taken back before QEMU can have heard of it.
pub(super) fn a_destroy_is_taken_back() {
    let withdrawn: Manager = |bench| {
        let job = bench.begin(JobKind::Destroy)?;
        bench.ask(ControlRequest::JobCancel { job }).map(drop)
    };
    every_batch(&Begin::of(RunState::Running, withdrawn), |bench, job| {
        let was_cancelled = result(job) == Some(JobResult::Cancelled);
        assert_eq!(bench.qemu.alive, was_cancelled, "{}", bench.story());
        assert_eq!(bench.intended("kill"), !was_cancelled, "{}", bench.story());
    });
    let late: Manager = |bench| {
        let job = bench.begin(JobKind::Destroy)?;
        bench.enter(job, JobPhase::Perform, &[("quit", NOTHING())])?;
        let refused = bench.ask(ControlRequest::JobCancel { job });
        refused.map_err(|_| "refused".to_owned()).map(drop)
    };
    let mut bench = Bench::new(RunState::Running);
    assert_eq!(late(&mut bench), Err("refused".to_owned()));
}

pub(super) fn a_destroy_is_finished() {
    let rules = every_batch(&Begin::of(RunState::Running, destroy), |bench, job| {
        assert!(!bench.qemu.alive, "{}", bench.story());
        assert_eq!(result(job), Some(JobResult::Completed), "{}", bench.story());
    });
    has(&rules, &["destroy-alive", "destroy-done"]);
}

pub(super) fn ordinary_jobs_are_as_qemu_shows() {
    for manager in [suspend, modify] {
        let rules = every_batch(&Begin::of(RunState::Running, manager), |bench, _| {
            assert!(bench.qemu.alive, "{}", bench.story());
        });
        has(&rules, &["ordinary-reconciled"]);
    }
}

/// A guest that crashed in a job is gone, whatever the job was.
pub(super) fn a_domain_that_vanished() {
    let mut bench = Bench::new(RunState::Running);
    let job = bench.begin(JobKind::Dump).unwrap();
    bench.qemu.alive = false;
    let refused = bench.enter(job, JobPhase::Perform, &[]).unwrap_err();
    assert!(refused.contains("its QEMU is dead"), "{refused}");
    bench.run_for(1_000);
    let jobs = bench.jobs();
    assert_eq!(result(jobs.last()), Some(JobResult::Crashed), "{jobs:?}");
    assert_eq!(bench.rules(), ["job-dead"]);
    let over = bench.end(job).unwrap_err();
    assert!(over.contains("has ended: crashed"), "{over}");
}

#[test]
fn saves() {
    a_save_is_undone_or_done();
}

#[test]
fn dumps() {
    a_dump_is_taken_or_not_proven();
}

#[test]
fn snapshots() {
    a_snapshot_is_taken_or_not();
}

#[test]
fn backups() {
    a_backup_is_closed();
    a_backup_is_cancelled();
}

#[test]
fn restores() {
    a_restore_is_undone_or_done();
}

#[test]
fn others() {
    a_destroy_is_finished();
    a_destroy_is_taken_back();
    ordinary_jobs_are_as_qemu_shows();
    a_domain_that_vanished();
}

/// P8: a guest that its owner paused before is paused afterwards.
#[test]
fn a_paused_guest_stays_paused() {
    for manager in [save, dump, snapshot_of_a_disk] {
        every_batch(&Begin::of(RunState::Paused, manager), |bench, _| {
            assert_ne!(bench.qemu.run, RunState::Running, "{}", bench.story());
        });
    }
}

/// A job-end with something under way, an effect where another is open, two jobs at once: refused, and nothing is
/// written down.
#[test]
fn what_does_not_fit_changes_nothing() {
    let mut bench = Bench::new(RunState::Running);
    let job = bench.begin(JobKind::Backup).unwrap();
    let of = json!({"job-id": "b0", "device": "d", "target": "t", "sync": "full"});
    let begin = [("blockdev-backup", of)];
    bench.enter(job, JobPhase::Perform, &begin).unwrap();
    let before = bench.journal.len();
    let refused = bench.end(job).unwrap_err();
    assert!(refused.contains("QEMU job 'b0' is running"), "{refused}");
    let busy = bench.begin(JobKind::Save).unwrap_err();
    assert!(busy.contains("is busy: job"), "{busy}");
    let data = json!({"qom-type": "secret", "id": "s", "data": "letmein"});
    let secret = bench.enter(job, JobPhase::Prepare, &[("object-add", data)]);
    assert!(secret.is_err());
    let unseen = json!({"device": "d", "target": "t", "sync": "full"});
    let refused = bench.enter(job, JobPhase::Perform, &[("blockdev-backup", unseen)]);
    assert!(refused.unwrap_err().contains("needs 'job-id'"));
    let itself = json!({"job-id": "b1", "device": "d", "target": "t", "auto-dismiss": true});
    let refused = bench.enter(job, JobPhase::Perform, &[("blockdev-backup", itself)]);
    assert!(
        refused
            .unwrap_err()
            .contains("'auto-dismiss' must be false")
    );
    assert_eq!(bench.journal.len(), before, "{}", bench.story());
    let status = bench.qemu.jobs["b0"].status.clone();
    assert_eq!(status, Some(QemuJobStatus::Running));
}

/// An operator closes a job that is held; what ends the guest or reaches into another's QEMU is refused.
#[test]
fn a_held_job_is_resolved() {
    let mut bench = Bench::new(RunState::Running);
    let job = bench.begin(JobKind::Dump).unwrap();
    bench.crash = Some(Crash {
        after: 0,
        is_sent: false,
    });
    let lost = bench.enter(job, JobPhase::Perform, &[("stop", NOTHING())]);
    assert_eq!(lost.unwrap_err(), "the sidecar died");
    bench.qemu.is_claimed = true;
    bench.restart();
    bench.run_for(1_000);
    assert_eq!(bench.rules(), ["claimed-by-another"]);
    let word = |decision, force| ControlRequest::Resolve {
        name: NAME.to_owned(),
        decision,
        force,
        statement: "it is ours".to_owned(),
        uid: 0,
    };
    let refused = bench.enter(job, JobPhase::Perform, &[]).unwrap_err();
    assert!(refused.contains("held by claimed-by-another"), "{refused}");
    let refused = bench.ask(word(Decision::Kill, false)).unwrap_err();
    assert!(refused.contains("ends the guest"), "{refused}");
    let refused = bench.ask(word(Decision::Resume, true)).unwrap_err();
    assert!(
        refused.contains("cannot be resolved by kill or resume"),
        "{refused}"
    );
    bench.ask(word(Decision::Confirm, false)).unwrap();
    let jobs = bench.jobs();
    assert_eq!(result(jobs.last()), Some(JobResult::Failed), "{jobs:?}");
    assert!(bench.qemu.alive && !bench.intended("kill"));
    let refused = bench.ask(word(Decision::Confirm, false)).unwrap_err();
    assert!(refused.contains("is not held"), "{refused}");
}

/// More than one job can keep in mind is refused before any of it runs; what is kept fits into a record.
#[test]
fn what_a_job_keeps_is_bounded() {
    let mut bench = Bench::new(RunState::Running);
    let job = bench.begin(JobKind::Backup).unwrap();
    let name = |number: usize| format!("{number:048}");
    let add = |number| {
        (
            "blockdev-add",
            json!({"node-name": name(number), "driver": "raw"}),
        )
    };
    let nodes: Vec<(&str, Value)> = (0..JOB_THINGS_MAX).map(add).collect();
    bench.enter(job, JobPhase::Prepare, &nodes).unwrap();
    let refused = bench.enter(job, JobPhase::Prepare, &[add(99)]).unwrap_err();
    assert!(refused.contains("the most this sidecar keeps"), "{refused}");
    let long = "x".repeat(MONITOR_ARGUMENTS_SIZE_MAX);
    let long = json!({"node-name": "n", "driver": "raw", "filename": long});
    let refused = bench.enter(job, JobPhase::Prepare, &[("blockdev-add", long)]);
    assert!(refused.unwrap_err().contains("is longer than"));
    let action = |number| {
        let data = json!({"job-id": name(number), "device": "d", "target": "t", "sync": "full"});
        json!({"type": "blockdev-backup", "data": data})
    };
    let actions: Vec<Value> = (0..JOB_THINGS_MAX).map(action).collect();
    let each = actions
        .into_iter()
        .map(|one| ("transaction", json!({"actions": [one]})));
    let each: Vec<(&str, Value)> = each.collect();
    let cookie = Some("c".repeat(JOB_COOKIE_SIZE_MAX));
    let effects = each.into_iter().map(|(execute, value)| ManagerEffect {
        execute: execute.to_owned(),
        arguments: arguments(value),
    });
    let request = ControlRequest::PhaseEnter {
        job,
        phase: JobPhase::Perform,
        effects: effects.collect(),
        cookie,
        peer_cookie: None,
    };
    bench.ask(request).unwrap();
    bench.restart();
    let largest = bench.bodies().filter_map(body_size).max().unwrap();
    assert!(
        bench.bodies().all(|body| body_size(body).is_some()),
        "{largest}"
    );
    assert!(largest > 4000, "{largest}");
}
