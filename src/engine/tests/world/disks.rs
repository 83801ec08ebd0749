//! The disks of the two QEMUs, what copies one into the other, and what must never be.
//!
//! A disk is as new as the last number that its guest wrote to it; a mirror makes the other one as new.

use std::collections::{BTreeMap, BTreeSet};

use journal_format::record::{DiskSync, EffectResult, QemuJobSeen, QemuJobStatus, RunState};
use serde_json::Value;

use super::{A, B, DOMAIN, World};
use crate::engine::{DiskNames, DisksWanted, Input, JobSeen, NodeSeen};

/// Every disk here has this size, in bytes.
pub(crate) const SIZE: u64 = 1 << 20;

/// A QEMU's disks, and what others set up for them.
#[derive(Clone, Debug)]
pub(crate) struct Disks {
    /// The newest number on each, by the name of its node.
    pub(crate) newest: BTreeMap<String, u64>,
    pub(crate) sizes: BTreeMap<String, u64>,
    /// Nodes that reach what the other side serves.
    pub(crate) clients: BTreeSet<String>,
    /// Mirrors: their jobs, and the node that each copies.
    pub(crate) mirrors: BTreeMap<String, (QemuJobSeen, String)>,
    /// What is served, and from which node.
    pub(crate) exports: BTreeMap<String, String>,
    pub(crate) is_serving: bool,
}

impl Disks {
    pub(crate) fn of(count: usize) -> Disks {
        let names = (0..count).map(name);
        Disks {
            newest: names.clone().map(|name| (name, 0)).collect(),
            sizes: names.map(|name| (name, SIZE)).collect(),
            clients: BTreeSet::new(),
            mirrors: BTreeMap::new(),
            exports: BTreeMap::new(),
            is_serving: false,
        }
    }

    /// Its guest writes a number to each of them.
    pub(super) fn write(&mut self, number: u64) {
        self.newest.values_mut().for_each(|newest| *newest = number);
    }

    fn seen(&self) -> JobSeen {
        let clients = self.clients.iter().map(|name| (name, SIZE));
        let nodes = self.sizes.iter().map(|(name, size)| (name, *size));
        let node = |(name, size): (&String, u64)| NodeSeen {
            name: name.clone(),
            is_overlay: false,
            size: Some(size),
        };
        JobSeen {
            dump: None,
            qemu_jobs: Some(self.mirrors.values().map(|(job, _)| job.clone()).collect()),
            nodes: Some(clients.chain(nodes).map(node).collect()),
            exports: Some(self.exports.keys().cloned().collect()),
        }
    }

    /// Everything of a migration's that is there.
    pub(crate) fn left(&self) -> Vec<String> {
        let mirrors = self.mirrors.keys().map(|name| format!("mirror {name}"));
        let clients = self.clients.iter().map(|name| format!("node {name}"));
        let exports = self.exports.keys().map(|name| format!("export {name}"));
        let serving = self.is_serving.then(|| "NBD server".to_owned());
        mirrors
            .chain(clients)
            .chain(exports)
            .chain(serving)
            .collect()
    }
}

fn name(index: usize) -> String {
    format!("disk{index}")
}

/// How the copying goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Copying {
    #[default]
    Well,
    /// The destination has no room for what comes.
    Full,
    /// Nor for the last of it.
    FullAtLast,
    /// The destination does not answer: what was begun stands still until its connection is cut.
    Hanging,
}

impl World {
    /// The same as [`World::new`], with so many disks that the sides do not share.
    pub(crate) fn copying(count: usize) -> World {
        let mut world = World::new();
        world.copies(count);
        world
    }

    /// From here on each QEMU has so many disks of its own, and migrations copy them.
    pub(crate) fn copies(&mut self, count: usize) {
        for at in [A, B] {
            let qemu = &mut self.hosts[at].qemu;
            qemu.disks = Disks::of(count);
            qemu.disks.write(qemu.memory);
        }
    }

    pub(super) fn wanted_disks(&self, from: usize) -> Option<Box<DisksWanted>> {
        let names = self.hosts[from].qemu.disks.newest.keys();
        let disks: Vec<DiskNames> = names
            .map(|name| DiskNames {
                source: name.clone(),
                destination: name.clone(),
            })
            .collect();
        (!disks.is_empty()).then(|| {
            Box::new(DisksWanted {
                nbd: (!self.told.is_nbd_unasked).then(|| "tcp:there:10809".to_owned()),
                sync: DiskSync::Full,
                disks,
            })
        })
    }

    pub(super) fn look_at_job(&mut self, at: usize) {
        let qemu = &self.hosts[at].qemu;
        let seen = match qemu.alive && !qemu.mute {
            true => qemu.disks.seen(),
            false => JobSeen::default(),
        };
        let domain = DOMAIN;
        self.input(at, Input::JobLooked { domain, seen });
    }

    /// Time passes.
    pub(super) fn mirrors_get_on(&mut self) {
        for at in [A, B] {
            let names: Vec<String> = self.hosts[at].qemu.disks.mirrors.keys().cloned().collect();
            for name in names {
                self.mirror_gets_on(at, &name);
            }
        }
    }

    fn mirror_gets_on(&mut self, at: usize, name: &str) {
        let copying = self.copying;
        let Some((job, node)) = self.hosts[at].qemu.disks.mirrors.get(name).cloned() else {
            return;
        };
        let is_served = self.hosts[1 - at].qemu.alive
            && self.hosts[1 - at].qemu.disks.exports.contains_key(name);
        let status = job.status.clone();
        let moves = matches!(
            status,
            Some(QemuJobStatus::Running | QemuJobStatus::Ready | QemuJobStatus::Waiting)
        );
        if !moves || !self.hosts[at].qemu.alive || copying == Copying::Hanging {
            return;
        }
        let is_last = status == Some(QemuJobStatus::Waiting);
        if !is_served || copying == Copying::Full || copying == Copying::FullAtLast && is_last {
            return self.end_mirror(at, name, Some("Input/output error"));
        }
        if self.hosts[1 - at].qemu.running() {
            self.broken = Some(format!(
                "{name} is written by a mirror while its guest runs"
            ));
        }
        let newest = self.hosts[at].qemu.disks.newest[&node];
        let target = self.hosts[1 - at].qemu.disks.exports[name].clone();
        self.hosts[1 - at].qemu.disks.newest.insert(target, newest);
        let next = match status {
            Some(QemuJobStatus::Running) => QemuJobStatus::Ready,
            Some(QemuJobStatus::Waiting) => QemuJobStatus::Pending,
            _ => return,
        };
        self.set_mirror(at, name, next, None);
    }

    fn set_mirror(&mut self, at: usize, name: &str, status: QemuJobStatus, error: Option<&str>) {
        if let Some((job, _)) = self.hosts[at].qemu.disks.mirrors.get_mut(name) {
            job.status = Some(status);
            job.error = error.map(str::to_owned);
        }
    }

    fn end_mirror(&mut self, at: usize, name: &str, error: Option<&str>) {
        self.set_mirror(at, name, QemuJobStatus::Concluded, error);
    }

    /// P2 on disks: a guest runs on what it wrote last, and nobody else writes there.
    pub(super) fn check_disks(&mut self) {
        for host in &self.hosts {
            let (qemu, disks) = (&host.qemu, &host.qemu.disks);
            if !qemu.running() {
                continue;
            }
            let is_old = |(_, newest): &(&String, &u64)| **newest != qemu.memory;
            if let Some((name, newest)) = disks.newest.iter().find(is_old) {
                self.broken = Some(format!(
                    "the guest is at {}, and its {name} at {newest}",
                    qemu.memory
                ));
                return;
            }
            if !disks.exports.is_empty() && !self.is_export_stuck {
                self.broken = Some("the guest runs on a disk that is served".to_owned());
                return;
            }
        }
    }

    /// A command about disks; `None` for any other.
    pub(super) fn perform_on_disks(
        &mut self,
        at: usize,
        execute: &str,
        arguments: &str,
    ) -> Option<EffectResult> {
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        let text = |key: &str| arguments[key].as_str().unwrap_or_default().to_owned();
        let refused = |description: &str| {
            Some(EffectResult::Refused {
                class: "GenericError".to_owned(),
                description: description.to_owned(),
            })
        };
        let is_stuck = self.is_export_stuck;
        let is_connected =
            self.hosts[1 - at].qemu.alive && self.hosts[1 - at].qemu.disks.is_serving;
        let is_hanging = self.copying == Copying::Hanging;
        let run = self.hosts[at].qemu.run.clone();
        let disks = &mut self.hosts[at].qemu.disks;
        let status = |disks: &Disks, name: &str| {
            disks
                .mirrors
                .get(name)
                .and_then(|(job, _)| job.status.clone())
        };
        match execute {
            "nbd-server-start" if disks.is_serving => return refused("NBD server already running"),
            "nbd-server-start" => disks.is_serving = true,
            "nbd-server-stop" if !disks.is_serving => return refused("NBD server not running"),
            "nbd-server-stop" => {
                disks.is_serving = false;
                if !is_stuck {
                    disks.exports.clear();
                }
            }
            "block-export-add" if !disks.newest.contains_key(&text("node-name")) => {
                return refused("Cannot find the node");
            }
            "block-export-add" => drop(disks.exports.insert(text("id"), text("node-name"))),
            "block-export-del" if is_stuck => {}
            "block-export-del" => drop(disks.exports.remove(&text("id"))),
            "blockdev-add" if !is_connected => return refused("Failed to connect"),
            "blockdev-add" if !disks.clients.insert(text("node-name")) => {
                return refused("Duplicate nodes");
            }
            "blockdev-add" => {}
            "blockdev-del" if disks.mirrors.contains_key(&text("node-name")) => {
                return refused("Node is in use");
            }
            "blockdev-del" if !disks.clients.remove(&text("node-name")) => {
                return refused("Failed to find node");
            }
            "blockdev-del" => {}
            "blockdev-mirror" => {
                let id = text("job-id");
                if arguments["auto-finalize"] != false || arguments["auto-dismiss"] != false {
                    self.broken = Some("a mirror that ends unseen".to_owned());
                    return refused("no");
                }
                let job = QemuJobSeen {
                    id: id.clone(),
                    status: Some(QemuJobStatus::Running),
                    error: None,
                };
                disks.mirrors.insert(id, (job, text("device")));
            }
            "block-job-cancel" => {
                let id = text("device");
                if run != RunState::FinishMigrate {
                    self.broken = Some(format!("{id} ends while its guest is {run}"));
                }
                if status(&self.hosts[at].qemu.disks, &id) != Some(QemuJobStatus::Ready) {
                    self.broken = Some(format!("{id} ends before it is ready"));
                }
                self.set_mirror(at, &id, QemuJobStatus::Waiting, None);
            }
            "job-finalize" => {
                if status(disks, &text("id")) != Some(QemuJobStatus::Pending) {
                    return refused("Job cannot accept command verb 'finalize'");
                }
                self.end_mirror(at, &text("id"), None);
            }
            "job-dismiss" => {
                if status(disks, &text("id")) != Some(QemuJobStatus::Concluded) {
                    return refused("Job cannot accept command verb 'dismiss'");
                }
                disks.mirrors.remove(&text("id"));
            }
            "job-cancel" => {
                if status(disks, &text("id")) == Some(QemuJobStatus::Concluded) {
                    return refused("Job cannot accept command verb 'cancel'");
                }
                if !is_hanging {
                    self.end_mirror(at, &text("id"), Some("Operation canceled"));
                }
            }
            "yank" => {
                let node = arguments["instances"][0]["node-name"]
                    .as_str()
                    .unwrap_or_default();
                self.end_mirror(at, node, Some("Input/output error"));
            }
            _ => return None,
        }
        Some(EffectResult::Done)
    }

    /// What is left of migrations in the QEMUs that live.
    pub(crate) fn left_of_disks(&self) -> Vec<String> {
        let alive = self.hosts.iter().filter(|host| host.qemu.alive);
        alive.flat_map(|host| host.qemu.disks.left()).collect()
    }
}
