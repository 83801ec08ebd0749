//! What the fleet's manager does to a guest besides moving it: each job as a list of stages.
//!
//! Invariant: it ends a QEMU that was saved only when that says completed, and restores only what has not run since.
//! Not here: when it begins one, and what it does when one fails (`fleet`).

use std::collections::VecDeque;

use journal_format::number::Lsn;
use journal_format::record::{
    DumpStatus, JobKind, JobPhase, JobResult, MigrationStatus, Observed, QemuJobStatus, RunState,
    WantedRunState,
};
use serde_json::{Value, json};

use super::super::manager::{Desk, RequestId};
use super::super::{GuestNumber, HostNumber};
use crate::engine::{Answer, ControlRequest, JobSeen, ManagerEffect, Refusal};

/// What a manager waits for in QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The guest is in its file.
    Saved,
    /// The guest was read from its file.
    Restored,
    /// A dump ended, however.
    Dumped,
    /// QEMU's job waits for its last word, or failed.
    JobDone,
}

impl Until {
    fn is_there(self, observed: &Observed, seen: &JobSeen) -> bool {
        let (run, status) = (observed.run_state.as_ref(), observed.migration.as_ref());
        let is_completed = status == Some(&MigrationStatus::Completed);
        match self {
            Until::Saved => is_completed && run == Some(&RunState::Postmigrate),
            Until::Restored => is_completed && run == Some(&RunState::Paused),
            Until::Dumped => seen.dump.is_some() && seen.dump.as_ref() != Some(&DumpStatus::Active),
            Until::JobDone => seen.qemu_jobs.as_ref().is_some_and(|jobs| {
                let goes_on = |one: &Option<QemuJobStatus>| *one == Some(QemuJobStatus::Running);
                !jobs.iter().any(|job| goes_on(&job.status))
            }),
        }
    }
}

/// A step of a job.
#[derive(Clone, Debug)]
enum Stage {
    Enter(JobPhase, Vec<ManagerEffect>),
    Wait(Until),
    /// Enters finish with what brings QEMU's job to its end, as it stands.
    FinishJob(String),
    End,
}

/// A job under way.
#[derive(Clone, Debug)]
pub(super) struct Work {
    kind: JobKind,
    stages: VecDeque<Stage>,
    job: Option<Lsn>,
    /// The journal that its number is of.
    journal: u64,
    asked: Option<RequestId>,
    since: u64,
    patience: u64,
    /// What its owner wants of the guest when it is done.
    wants: Option<WantedRunState>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Goes,
    /// It is over, or given up: how it stands is to be found out.
    Over,
}

/// QEMU migrates and saves a guest that it saved, and whose owner had paused it, only after it was continued.
pub(super) fn is_stuck(desk: &Desk<'_>, home: HostNumber, guest: GuestNumber) -> bool {
    let observed = desk.process(home, guest);
    observed.is_some_and(|seen| seen.run_state == Some(RunState::Postmigrate))
}

pub(super) fn effect(execute: &str, arguments: Value) -> ManagerEffect {
    ManagerEffect {
        execute: execute.to_owned(),
        arguments: match arguments {
            Value::Object(map) => map,
            _ => serde_json::Map::new(),
        },
    }
}

pub(super) fn plain(execute: &str) -> ManagerEffect {
    effect(execute, json!({}))
}

impl Work {
    fn new(kind: JobKind, stages: impl IntoIterator<Item = Stage>) -> Work {
        Work {
            kind,
            stages: stages.into_iter().collect(),
            job: None,
            journal: 0,
            asked: None,
            since: 0,
            patience: 0,
            wants: None,
        }
    }

    /// A guest that stands in prelaunch boots.
    pub(super) fn start() -> Work {
        let run = Stage::Enter(JobPhase::Perform, vec![plain("cont")]);
        Work::new(JobKind::Start, [run, Stage::End])
    }

    /// A guest goes on from its image.
    pub(super) fn restore() -> Work {
        let load = effect("migrate-incoming", json!({"uri": "file:image"}));
        let stages = [
            Stage::Enter(JobPhase::Perform, vec![load]),
            Stage::Wait(Until::Restored),
            Stage::Enter(JobPhase::Finish, vec![plain("cont")]),
            Stage::End,
        ];
        Work::new(JobKind::Restore, stages)
    }

    /// Something that is done to a guest at home.
    pub(super) fn draw(desk: &mut Desk<'_>, home: HostNumber, guest: GuestNumber) -> Work {
        let observed = desk.process(home, guest);
        let runs = observed.is_some_and(|seen| seen.run_state == Some(RunState::Running));
        let number = desk.random().below(1_000_000);
        if is_stuck(desk, home, guest) {
            return Work::suspend(false);
        }
        match desk.random().below(9) {
            0 if runs => Work::save(Some(plain("quit"))),
            0 => Work::save(None),
            1 => Work::save(runs.then(|| plain("cont"))),
            2 => Work::dump(),
            3 => Work::snapshot(number),
            4 => Work::internal_snapshot(number),
            5 => Work::backup(number),
            6 => Work::modify(number),
            7 => Work::suspend(runs),
            _ => Work::destroy(desk.random().coin()),
        }
    }

    fn save(finish: Option<ManagerEffect>) -> Work {
        let save = effect("migrate", json!({"uri": "file:image"}));
        let stages = [
            Stage::Enter(JobPhase::Prepare, Vec::new()),
            Stage::Enter(JobPhase::Perform, vec![save]),
            Stage::Wait(Until::Saved),
            Stage::Enter(JobPhase::Finish, finish.into_iter().collect()),
            Stage::End,
        ];
        Work::new(JobKind::Save, stages)
    }

    fn dump() -> Work {
        let arguments = json!({"paging": false, "protocol": "file:dump", "detach": true});
        let stages = [
            Stage::Enter(
                JobPhase::Perform,
                vec![effect("dump-guest-memory", arguments)],
            ),
            Stage::Wait(Until::Dumped),
            Stage::End,
        ];
        Work::new(JobKind::Dump, stages)
    }

    fn snapshot(number: u64) -> Work {
        let overlay = |disk: u32| {
            let node = format!("overlay-{disk}-{number}");
            json!({"type": "blockdev-snapshot-sync", "data": {
                "node-name": format!("disk-{disk}"), "snapshot-file": node, "snapshot-node-name": node}})
        };
        let both = effect("transaction", json!({"actions": [overlay(1), overlay(2)]}));
        let stages = [Stage::Enter(JobPhase::Perform, vec![both]), Stage::End];
        Work::new(JobKind::Snapshot, stages)
    }

    fn internal_snapshot(number: u64) -> Work {
        let job = format!("snapshot-{number}");
        let arguments =
            json!({"job-id": job, "tag": "t", "vmstate": "disk-1", "devices": ["disk-1"]});
        let stages = [
            Stage::Enter(JobPhase::Perform, vec![effect("snapshot-save", arguments)]),
            Stage::Wait(Until::JobDone),
            Stage::FinishJob(job),
            Stage::End,
        ];
        Work::new(JobKind::Snapshot, stages)
    }

    fn backup(number: u64) -> Work {
        let (job, target) = (format!("backup-{number}"), format!("target-{number}"));
        let add = effect(
            "blockdev-add",
            json!({"driver": "null-co", "node-name": target}),
        );
        let begin = effect(
            "blockdev-backup",
            json!({"job-id": job, "device": "disk-1", "target": target, "sync": "full"}),
        );
        let remove = effect("blockdev-del", json!({"node-name": target}));
        let stages = [
            Stage::Enter(JobPhase::Prepare, vec![add]),
            Stage::Enter(JobPhase::Perform, vec![begin]),
            Stage::Wait(Until::JobDone),
            Stage::FinishJob(job),
            Stage::Enter(JobPhase::Finish, vec![remove]),
            Stage::End,
        ];
        Work::new(JobKind::Backup, stages)
    }

    fn modify(number: u64) -> Work {
        let device = json!({"driver": "virtio-rng-pci", "id": format!("rng-{number}")});
        let plug = Stage::Enter(JobPhase::Perform, vec![effect("device_add", device)]);
        Work::new(JobKind::Modify, [plug, Stage::End])
    }

    fn suspend(runs: bool) -> Work {
        let command = if runs { "stop" } else { "cont" };
        let stages = [
            Stage::Enter(JobPhase::Perform, vec![plain(command)]),
            Stage::End,
        ];
        let mut work = Work::new(JobKind::Suspend, stages);
        work.wants = Some(match runs {
            true => WantedRunState::Paused,
            false => WantedRunState::Running,
        });
        work
    }

    fn destroy(kills: bool) -> Work {
        let command = if kills { "kill" } else { "quit" };
        let stages = [
            Stage::Enter(JobPhase::Perform, vec![plain(command)]),
            Stage::End,
        ];
        Work::new(JobKind::Destroy, stages)
    }

    /// Asks for the job.
    pub(super) fn begin(
        &mut self,
        desk: &mut Desk<'_>,
        home: HostNumber,
        guest: GuestNumber,
        patience: u64,
    ) {
        (self.since, self.patience) = (desk.now_ms(), patience);
        if self.kind == JobKind::Destroy {
            desk.owner_destroys(guest, true);
        }
        if self.wants.is_some() {
            desk.owner_wants(guest, None);
        }
        let request = ControlRequest::JobBegin {
            name: desk.name(guest).to_owned(),
            kind: self.kind,
            cookie: None,
        };
        self.asked = Some(desk.ask(home, request));
    }

    pub(super) fn waits_for(&self, request: RequestId) -> bool {
        self.asked == Some(request)
    }

    pub(super) fn waits(&self) -> bool {
        self.asked.is_some()
    }

    pub(super) fn is_restore(&self) -> bool {
        self.kind == JobKind::Restore
    }

    pub(super) fn is(&self, job: Lsn) -> bool {
        self.job == Some(job)
    }

    /// An answer came, or none will.
    pub(super) fn answered(
        &mut self,
        result: Option<&Result<Answer, Refusal>>,
        desk: &mut Desk<'_>,
        home: HostNumber,
        guest: GuestNumber,
    ) -> Next {
        self.asked = None;
        if self.job.is_some() && self.journal != desk.journal(home) {
            return Next::Over;
        }
        self.journal = desk.journal(home);
        match (result, self.stages.front()) {
            (Some(Ok(Answer::JobBegun { job })), _) if self.job.is_none() => self.job = Some(*job),
            // Something of it goes on yet: once more, a little later.
            (Some(Err(Refusal::JobLeft { .. })), Some(Stage::End)) => return Next::Goes,
            (Some(Ok(_)), Some(Stage::End)) => {
                if self.wants.is_some() {
                    desk.owner_wants(guest, self.wants);
                }
                return Next::Over;
            }
            (Some(Ok(_)), Some(_)) => drop(self.stages.pop_front()),
            (Some(Err(_)) | None, _) | (Some(Ok(_)), None) => {
                if self.job.is_none() && result.is_some() {
                    // Refused, and nothing was begun.
                    desk.owner_destroys(guest, false);
                }
                return self.give_up(desk, home);
            }
        }
        self.go_on(desk, home, guest)
    }

    /// Time passed.
    pub(super) fn look(
        &mut self,
        desk: &mut Desk<'_>,
        home: HostNumber,
        guest: GuestNumber,
    ) -> Next {
        if self.job.is_some() && self.journal != desk.journal(home) {
            return Next::Over;
        }
        if desk.now_ms() > self.since + self.patience {
            return self.give_up(desk, home);
        }
        match self.asked {
            Some(_) => Next::Goes,
            None => self.go_on(desk, home, guest),
        }
    }

    fn give_up(&mut self, desk: &mut Desk<'_>, home: HostNumber) -> Next {
        if let Some(job) = self.job {
            desk.ask(home, ControlRequest::JobCancel { job });
        }
        Next::Over
    }

    fn go_on(&mut self, desk: &mut Desk<'_>, home: HostNumber, guest: GuestNumber) -> Next {
        let Some(job) = self.job else {
            return Next::Over;
        };
        let waits = |stage: Option<&Stage>, desk: &Desk<'_>| match stage {
            Some(Stage::Wait(until)) => Some(
                desk.process(home, guest)
                    .zip(desk.work(home, guest))
                    .is_none_or(|(observed, seen)| until.is_there(&observed, &seen)),
            ),
            _ => None,
        };
        while let Some(is_there) = waits(self.stages.front(), desk) {
            if !is_there {
                return Next::Goes;
            }
            self.stages.pop_front();
        }
        let request = match self.stages.front() {
            None => return Next::Over,
            Some(Stage::Wait(_)) => return Next::Goes,
            Some(Stage::Enter(phase, effects)) => ControlRequest::PhaseEnter {
                job,
                phase: *phase,
                effects: effects.clone(),
                cookie: None,
                peer_cookie: None,
            },
            Some(Stage::FinishJob(id)) => ControlRequest::PhaseEnter {
                job,
                phase: JobPhase::Finish,
                effects: finish(id, &desk.work(home, guest).unwrap_or_default()),
                cookie: None,
                peer_cookie: None,
            },
            Some(Stage::End) => ControlRequest::JobEnd {
                job,
                result: JobResult::Completed,
            },
        };
        self.asked = Some(desk.ask(home, request));
        Next::Goes
    }
}

/// What brings one of QEMU's jobs to its end.
fn finish(id: &str, seen: &JobSeen) -> Vec<ManagerEffect> {
    let mut listed = seen.qemu_jobs.iter().flatten();
    let found = listed.find(|job| job.id == id);
    let named = json!({"id": id});
    let dismiss = effect("job-dismiss", named.clone());
    match found.and_then(|job| job.status.as_ref()) {
        Some(QemuJobStatus::Pending) => vec![effect("job-finalize", named), dismiss],
        Some(_) => vec![dismiss],
        None => Vec::new(),
    }
}
