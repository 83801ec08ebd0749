//! What a QEMU does for jobs that are no migrations: streams to a file and from one, dumps, snapshots, block jobs.
//!
//! Invariant: nothing concludes unseen, as with auto-finalize and auto-dismiss off; an image holds what its guest
//! was when it was written, and whether that is still the guest is the guest's own counter to say.
//! Not here: which job needs what (the engine, and `fleet`).

use std::collections::BTreeMap;

use journal_format::number::BootId;
use journal_format::record::{
    DumpStatus, EffectCommand, EffectResult, MigrationStatus, QemuJobSeen, QemuJobStatus, RunState,
};
use serde_json::Value;

use super::super::{GuestNumber, HostNumber, QemuNumber};
use super::commands::refused;
use super::{Lab, Move, Qemu, Stream};
use crate::engine::{JobSeen, NodeSeen};

/// How many block jobs, dumps and images fail, in a million.
const FAILS: u32 = 100_000;
/// How many block jobs, in a million, take so long that a sidecar may be restarted meanwhile.
const LONG: u32 = 200_000;

/// What jobs have begun in a QEMU, or left there.
#[derive(Clone, Debug)]
pub(super) struct Work {
    dump: DumpStatus,
    jobs: BTreeMap<String, QemuJobSeen>,
    /// Nodes that were added, and whether they lie on top of a disk.
    nodes: BTreeMap<String, bool>,
    /// The guest runs on by itself when it has been dumped, or saved into a disk.
    resumes: bool,
}

impl Default for Work {
    fn default() -> Work {
        Work {
            dump: DumpStatus::None,
            jobs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            resumes: false,
        }
    }
}

impl Qemu {
    /// `query-dump`, `query-jobs`, `query-named-block-nodes` and `query-block-exports`; nothing from one that does not
    /// answer.
    #[must_use]
    pub fn work(&self) -> JobSeen {
        if !self.alive || self.mute {
            return JobSeen::default();
        }
        let node = |(name, is_overlay): (&String, &bool)| NodeSeen {
            name: name.clone(),
            is_overlay: *is_overlay,
            size: None,
        };
        JobSeen {
            dump: Some(self.work.dump.clone()),
            qemu_jobs: Some(self.work.jobs.values().cloned().collect()),
            nodes: Some(self.work.nodes.iter().map(node).collect()),
            exports: Some(Vec::new()),
        }
    }

    /// Is nothing left here that a job set up?
    pub(in crate::sim) fn is_tidy(&self) -> bool {
        let has_target = self.work.nodes.values().any(|is_overlay| !is_overlay);
        self.work.jobs.is_empty() && !has_target && self.work.dump != DumpStatus::Active
    }
}

impl Lab {
    /// A command as it comes over the wire.
    pub(super) fn run_command(
        &mut self,
        number: QemuNumber,
        execute: &str,
        arguments: &str,
    ) -> EffectResult {
        match serde_json::from_str(arguments) {
            Ok(arguments) => self.run(number, execute, &arguments),
            Err(_) => refused("JSON parse error"),
        }
    }

    fn run(&mut self, number: QemuNumber, execute: &str, arguments: &Value) -> EffectResult {
        let text = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
        let uri = text("uri");
        match execute {
            "migrate" if uri.starts_with("file:") => return self.save(number),
            "migrate-incoming" if uri.starts_with("file:") => return self.restore(number),
            "migrate" => return self.migrate(number, &uri),
            "migrate-incoming" => return self.listen(number),
            "migrate-continue" => return self.go_on(number),
            "migrate-start-postcopy" => {
                return self.execute(number, &EffectCommand::StartPostcopy);
            }
            "migrate_cancel" => self.cancel(number),
            "cont" => return self.cont(number),
            "stop" => self.stop(number),
            "quit" => self.kill(number),
            "dump-guest-memory" => return self.dump(number),
            "snapshot-save" => {
                self.hold_for_a_moment(number);
                return self.begin_job(number, text("job-id"));
            }
            "blockdev-backup" => return self.begin_job(number, text("job-id")),
            "blockdev-snapshot-sync" => {
                return self.add_node(number, text("snapshot-node-name"), true);
            }
            "blockdev-add" => return self.add_node(number, text("node-name"), false),
            "blockdev-del" => return self.remove_node(number, &text("node-name")),
            "transaction" => return self.transact(number, &arguments["actions"]),
            "job-finalize" | "job-cancel" | "job-dismiss" => {
                return self.tell_job(number, execute, &text("id"));
            }
            "device_add" => {}
            _ => return self.set(number, execute, arguments),
        }
        EffectResult::Done
    }

    // To a file, and back.

    pub(super) fn save(&mut self, number: QemuNumber) -> EffectResult {
        let result = self.migrate(number, "file:");
        if result == EffectResult::Done {
            self.qemus[number].stream.to_file = true;
        }
        result
    }

    /// All of it is written.
    pub(super) fn write_image(&mut self, number: QemuNumber) {
        if self.random.chance(FAILS) {
            self.set_status(number, MigrationStatus::Failed);
            return self.soon(number, Move::Settle, 10, 300);
        }
        let (guest, memory) = (self.qemus[number].guest, self.qemus[number].memory);
        self.unlock(number);
        self.guests[guest].image = memory;
        self.soon(number, Move::Complete, 20, 500);
    }

    fn restore(&mut self, number: QemuNumber) -> EffectResult {
        let result = self.listen(number);
        if result == EffectResult::Done {
            self.qemus[number].listening = false;
            self.soon(number, Move::ReadImage, 50, 2_000);
        }
        result
    }

    pub(super) fn read_image(&mut self, number: QemuNumber) {
        if self.qemus[number].run != RunState::Inmigrate {
            return;
        }
        if self.qemus[number].status == MigrationStatus::None {
            self.qemus[number].stream = Stream::default();
            self.set_status(number, MigrationStatus::Active);
            return self.soon(number, Move::ReadImage, 200, 8_000);
        }
        let Some(memory) = self.guests[self.qemus[number].guest].image else {
            // "error while loading state section"
            self.set_status(number, MigrationStatus::Failed);
            return self.end(number);
        };
        self.qemus[number].memory = Some(memory);
        let runs = self.qemus[number].autostart && self.lock(number);
        self.set_run(
            number,
            match runs {
                true => RunState::Running,
                false => RunState::Paused,
            },
        );
        self.set_status(number, MigrationStatus::Completed);
    }

    // While the guest stands still.

    fn hold_for_a_moment(&mut self, number: QemuNumber) {
        self.qemus[number].work.resumes = self.runs(number);
        if self.runs(number) {
            self.set_run(number, RunState::SaveVm);
        }
    }

    fn go_on_after(&mut self, number: QemuNumber) {
        let resumes = core::mem::take(&mut self.qemus[number].work.resumes);
        if resumes && self.qemus[number].run == RunState::SaveVm {
            self.set_run(number, RunState::Running);
        }
    }

    fn dump(&mut self, number: QemuNumber) -> EffectResult {
        let qemu = &self.qemus[number];
        if qemu.run == RunState::Inmigrate {
            return refused("Dump not allowed during incoming migration.");
        }
        if qemu.work.dump == DumpStatus::Active {
            return refused("There is a dump in process, please wait.");
        }
        self.hold_for_a_moment(number);
        self.qemus[number].work.dump = DumpStatus::Active;
        self.soon(number, Move::DumpEnds, 500, 20_000);
        EffectResult::Done
    }

    pub(super) fn end_dump(&mut self, number: QemuNumber) {
        self.qemus[number].work.dump = match self.random.chance(FAILS) {
            true => DumpStatus::Failed,
            false => DumpStatus::Completed,
        };
        self.go_on_after(number);
    }

    // Nodes and QEMU's own jobs.

    fn add_node(&mut self, number: QemuNumber, name: String, is_overlay: bool) -> EffectResult {
        match self.qemus[number].work.nodes.insert(name, is_overlay) {
            None => EffectResult::Done,
            Some(_) => refused("Duplicate nodes with node-name"),
        }
    }

    fn remove_node(&mut self, number: QemuNumber, name: &str) -> EffectResult {
        let work = &mut self.qemus[number].work;
        if !work.jobs.is_empty() {
            return refused("Node is in use");
        }
        match work.nodes.remove(name) {
            Some(_) => EffectResult::Done,
            None => refused("Failed to find node with node-name"),
        }
    }

    /// All of it, or nothing.
    fn transact(&mut self, number: QemuNumber, actions: &Value) -> EffectResult {
        let before = self.qemus[number].work.nodes.clone();
        for action in actions.as_array().into_iter().flatten() {
            let kind = action["type"].as_str().unwrap_or_default();
            let result = self.run(number, kind, &action["data"]);
            if result != EffectResult::Done {
                self.qemus[number].work.nodes = before;
                return result;
            }
        }
        EffectResult::Done
    }

    fn begin_job(&mut self, number: QemuNumber, id: String) -> EffectResult {
        let jobs = &mut self.qemus[number].work.jobs;
        if jobs.contains_key(&id) {
            return refused(&format!("Job ID '{id}' already in use"));
        }
        let job = QemuJobSeen {
            id: id.clone(),
            status: Some(QemuJobStatus::Running),
            error: None,
        };
        jobs.insert(id, job);
        let longest = match self.random.chance(LONG) {
            true => 3_000_000,
            false => 30_000,
        };
        self.soon(number, Move::JobsGetOn, 500, longest);
        EffectResult::Done
    }

    /// Every one of them comes to the end of what it does by itself.
    pub(super) fn get_jobs_on(&mut self, number: QemuNumber) {
        let is_saved = self.qemus[number].run == RunState::SaveVm;
        let ids: Vec<String> = self.qemus[number].work.jobs.keys().cloned().collect();
        for id in ids {
            let fails = self.random.chance(FAILS);
            let Some(job) = self.qemus[number].work.jobs.get_mut(&id) else {
                continue;
            };
            // Which kind a job is its id says, as the fleet's manager gives it.
            let is_snapshot = id.starts_with("snapshot");
            if job.status == Some(QemuJobStatus::Running) {
                job.error = fails.then(|| "No space left on device".to_owned());
                job.status = Some(match fails || is_snapshot {
                    true => QemuJobStatus::Concluded,
                    false => QemuJobStatus::Pending,
                });
            }
        }
        if is_saved && self.qemus[number].work.dump != DumpStatus::Active {
            self.go_on_after(number);
        }
    }

    fn tell_job(&mut self, number: QemuNumber, execute: &str, id: &str) -> EffectResult {
        let jobs = &mut self.qemus[number].work.jobs;
        let Some(job) = jobs.get_mut(id) else {
            return refused("Job not found");
        };
        let verb = execute.strip_prefix("job-").unwrap_or(execute);
        match (verb, job.status.as_ref()) {
            ("finalize", Some(QemuJobStatus::Pending)) => {
                job.status = Some(QemuJobStatus::Concluded);
            }
            ("cancel", Some(QemuJobStatus::Running | QemuJobStatus::Pending)) => {
                job.status = Some(QemuJobStatus::Concluded);
                job.error = Some("Operation canceled".to_owned());
            }
            ("dismiss", Some(QemuJobStatus::Concluded)) => drop(jobs.remove(id)),
            (_, status) => {
                let status = status.map_or("null".to_owned(), ToString::to_string);
                return refused(&format!(
                    "Job '{id}' in state '{status}' cannot accept command verb '{verb}'"
                ));
            }
        }
        EffectResult::Done
    }

    // The beginning.

    /// A guest that was started with `-S`, and has not executed yet: it boots from its disk now.
    pub(super) fn boot_from_prelaunch(&mut self, number: QemuNumber) {
        if self.qemus[number].run == RunState::Prelaunch {
            let booted = self.guests[self.qemus[number].guest].boot();
            self.qemus[number].memory = Some(booted);
        }
    }

    /// A QEMU that was started with `-S`.
    pub fn start_prelaunch(
        &mut self,
        host: HostNumber,
        boot: BootId,
        guest: GuestNumber,
    ) -> QemuNumber {
        let number = self.start(host, boot, guest, true);
        self.qemus[number].autostart = false;
        self.qemus[number].run = RunState::Prelaunch;
        number
    }
}
