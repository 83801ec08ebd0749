//! Disks that are not shared: the source mirrors them into what the destination serves by NBD.
//!
//! Invariant: the guest goes over only after every mirror was told to end while the guest stood still, and ended with
//! all of its disk written, and that is durable. What a migration left in QEMU is looked for by its names, never
//! guessed at; cleaning up is bounded, and keeps nobody's outcome.
//! Not here: when the protocol goes on (`source`, `destination`).

use std::collections::BTreeSet;

use journal_format::number::{DomainId, Lsn, MigrationId};
use journal_format::record::{DiskCopy, EffectCommand, MigrationDisks, QemuJobStatus, RecordBody};
use serde_json::{Value, json};

use super::decide::{StatusClass, status_class};
use super::interface::{NbdAddress, is_own_socket};
use super::job::meaning::monitor;
use super::live::Pending;
use super::turn::{EFFECT_DELAY_MS, LOOK_INTERVAL_MS, Turn, longer};
use super::{
    ControlRequest, DiskNames, DiskOffered, DisksOffered, DisksRefused, DisksWanted, JobSeen,
    Message, PeerRequest, Rule,
};

mod mirror;

/// What the names of everything that a migration sets up for its disks begin with, in QEMU.
pub const DISK_NAME_PREFIX: &str = "phase-journal-";
/// Digits of a migration's id in such a name: with the rest it has the 31 bytes that QEMU allows.
const NAME_DIGITS: usize = 14;
/// How long the exports may take to go away before the guest runs all the same, in milliseconds.
const RELEASE_MS_MAX: u64 = 5_000;

/// The copied disks of a migration in this life of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DisksLive {
    /// Source: mirrors that were told to end with all of their disk written.
    ending: BTreeSet<usize>,
    /// Source: those of them that were told to do their last step.
    finalized: BTreeSet<usize>,
    /// Source: those of them that were seen to have ended so.
    written: BTreeSet<usize>,
    /// Source: since when the guest stands still for them, in milliseconds since boot.
    settling_since: Option<u64>,
    /// Source: mirrors that were told to end at once.
    cancelled: BTreeSet<usize>,
    /// Source: those of them whose connection was cut.
    cut: BTreeSet<usize>,
    /// Source: since when QEMU answers nothing, in milliseconds since boot.
    mute_since: Option<u64>,
    /// Since when it is cleaned up, in milliseconds since boot.
    clearing_since: Option<u64>,
    /// The last thing that was told to go, and by which command.
    asked: Option<(String, String)>,
    /// It is not told again before this time, in milliseconds since boot.
    ask_at: u64,
    /// How long the last pause between equal words was, in milliseconds.
    ask_delay: u64,
    /// Destination: the server was told to stop.
    stopped: bool,
    /// What could not be removed, for people.
    left: Vec<String>,
}

/// The name of a migration's n-th disk: of the export, the node that reaches it, and the mirror.
pub(crate) fn disk_name(id: MigrationId, index: usize) -> String {
    let digits: String = id
        .to_string()
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(NAME_DIGITS)
        .collect();
    format!("{DISK_NAME_PREFIX}{digits}-{index}")
}

/// The effects of prepare: the disks are served before the source hears that all is ready.
pub(crate) fn serving(id: MigrationId, disks: &MigrationDisks) -> Vec<EffectCommand> {
    let Some(address) = disks.nbd.as_deref().and_then(NbdAddress::parse) else {
        return Vec::new();
    };
    let address = match address {
        NbdAddress::Unix { path } => json!({"type": "unix", "data": {"path": path}}),
        NbdAddress::Tcp { host, port } => {
            json!({"type": "inet", "data": {"host": host, "port": port}})
        }
    };
    let mut plan = vec![monitor("nbd-server-start", &json!({"addr": address}))];
    for (index, disk) in disks.disks.iter().enumerate() {
        let name = disk_name(id, index);
        let export = json!({
            "type": "nbd", "id": name, "name": name, "node-name": disk.destination, "writable": true,
        });
        plan.push(monitor("block-export-add", &export));
    }
    plan
}

/// The effects of perform: each disk's mirror, over a node that reaches what the destination serves.
pub(crate) fn mirroring(id: MigrationId, disks: &MigrationDisks) -> Vec<EffectCommand> {
    let Some(address) = disks.nbd.as_deref().and_then(NbdAddress::parse) else {
        return Vec::new();
    };
    let server = match address {
        NbdAddress::Unix { path } => json!({"type": "unix", "path": path}),
        NbdAddress::Tcp { host, port } => json!({"type": "inet", "host": host, "port": port}),
    };
    let mut plan = Vec::new();
    for (index, disk) in disks.disks.iter().enumerate() {
        let name = disk_name(id, index);
        let node = json!({
            "driver": "nbd", "node-name": name, "server": server, "export": name,
        });
        plan.push(monitor("blockdev-add", &node));
        // What the guest writes goes to both: near the end nothing is left to be caught up with. Nothing ends unseen.
        let mirror = json!({
            "job-id": name, "device": disk.source, "target": name, "sync": disks.sync,
            "copy-mode": "write-blocking", "auto-finalize": false, "auto-dismiss": false,
        });
        plan.push(monitor("blockdev-mirror", &mirror));
    }
    plan
}

/// Does this effect take back what prepare set up for disks? What becomes of it decides nothing.
pub(crate) fn is_release(command: &EffectCommand) -> bool {
    matches!(command.name(), "block-export-del" | "nbd-server-stop")
}

/// Under which rules of a destination's nothing may write to its disks any more but its own guest.
fn needs_release(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::DestinationPrepareFinish
            | Rule::DestinationPrepareRunning
            | Rule::DestinationFinishRetry
            | Rule::DestinationFinishRunning
            | Rule::DestinationStarted
            | Rule::DestinationStoreProposed
            | Rule::DestinationStoreWon
            | Rule::DestinationVerdictAwaited
            | Rule::DestinationVerdictCont
    )
}

impl Turn<'_> {
    // Beginning.

    /// Does a request wait for a look at the block graph? One that copies no disk does not.
    pub(crate) fn awaits_block_graph(&mut self, id: DomainId) -> bool {
        self.is_about_disks(id) && !self.engine.job_eyes.entry(id).or_default().fresh
    }

    fn is_about_disks(&self, id: DomainId) -> bool {
        match self.engine.pending.get(&id) {
            Some(Pending::Migrate { request, .. }) => {
                matches!(request, ControlRequest::Migrate { disks: Some(_), .. })
            }
            Some(Pending::Prepare { request, .. }) => {
                matches!(request, PeerRequest::Prepare { disks: Some(_), .. })
            }
            _ => false,
        }
    }

    /// Has the block graph looked at for a request that waits for that.
    pub(crate) fn look_for_disks(&mut self, id: DomainId) {
        if self.is_about_disks(id) {
            self.look_at_job(id);
        }
    }

    /// The block graph and QEMU's jobs were looked at.
    pub(crate) fn disks_looked(&mut self, id: DomainId) {
        let is_waiting = matches!(
            self.engine.pending.get(&id),
            Some(Pending::Migrate { .. } | Pending::Prepare { .. })
        );
        if is_waiting && self.eyes(id).fresh {
            self.begin_pending(id);
        }
        let migration = self.domain(id).and_then(|domain| domain.migration);
        if let Some(migration) = migration.filter(|id| self.disks(*id).is_some()) {
            self.advance(migration);
        }
    }

    fn size_of(&self, id: DomainId, node: &str) -> Result<u64, DisksRefused> {
        let seen = self
            .engine
            .job_eyes
            .get(&id)
            .and_then(|eyes| eyes.seen.as_ref());
        let nodes = seen
            .and_then(|seen| seen.nodes.as_ref())
            .ok_or(DisksRefused::Unread)?;
        let node = node.to_owned();
        match nodes.iter().find(|seen| seen.name == node) {
            None => Err(DisksRefused::NoSuchNode { node }),
            Some(seen) => seen.size.ok_or(DisksRefused::NoSize { node }),
        }
    }

    /// The source's disks with their sizes, as its QEMU shows them.
    pub(crate) fn measure_disks(
        &self,
        id: DomainId,
        wanted: &DisksWanted,
    ) -> Result<Vec<DiskCopy>, DisksRefused> {
        let measure = |disk: &DiskNames| {
            Ok(DiskCopy {
                source: disk.source.clone(),
                destination: disk.destination.clone(),
                size: self.size_of(id, &disk.source)?,
            })
        };
        wanted.disks.iter().map(measure).collect()
    }

    /// Does the destination's QEMU have these disks, each as large as at the source?
    pub(crate) fn may_take_disks(
        &self,
        id: DomainId,
        offered: Option<&DisksOffered>,
    ) -> Result<(), DisksRefused> {
        for disk in offered.iter().flat_map(|offered| &offered.disks) {
            let size = self.size_of(id, &disk.destination)?;
            if size != disk.size {
                return Err(DisksRefused::OtherSize {
                    node: disk.destination.clone(),
                    size,
                    source: disk.size,
                });
            }
        }
        Ok(())
    }

    /// Records what is copied, right behind the begin of its job.
    pub(crate) fn begin_disks_of_source(
        &mut self,
        id: DomainId,
        job: Lsn,
        wanted: DisksWanted,
        disks: Vec<DiskCopy>,
    ) {
        let body = MigrationDisks {
            job,
            nbd: wanted.nbd,
            sync: wanted.sync,
            disks,
            settled: false,
        };
        self.append(Some(id), RecordBody::MigrationDisks(body));
    }

    /// The same at the destination, which chooses where it serves them if nobody said.
    pub(crate) fn begin_disks_of_destination(
        &mut self,
        id: DomainId,
        job: Lsn,
        migration: MigrationId,
        offered: Option<Box<DisksOffered>>,
    ) {
        let Some(offered) = offered else { return };
        let own = || {
            let directory = self.engine.config.peer.rsplit_once('/')?.0;
            let name = disk_name(migration, 0);
            let name = name
                .trim_end_matches("-0")
                .trim_start_matches(DISK_NAME_PREFIX);
            Some(format!("unix:{directory}/nbd-{name}.sock"))
        };
        let copy = |disk: DiskOffered| DiskCopy {
            source: disk.source,
            destination: disk.destination,
            size: disk.size,
        };
        let body = MigrationDisks {
            job,
            nbd: offered.nbd.or_else(own),
            sync: offered.sync,
            disks: offered.disks.into_iter().map(copy).collect(),
            settled: false,
        };
        self.append(Some(id), RecordBody::MigrationDisks(body));
    }

    /// What goes with the source's prepare.
    pub(crate) fn offered_disks(&self, id: MigrationId) -> Option<Box<DisksOffered>> {
        let disks = self.disks(id)?;
        let offer = |disk: &DiskCopy| DiskOffered {
            source: disk.source.clone(),
            destination: disk.destination.clone(),
            size: disk.size,
        };
        Some(Box::new(DisksOffered {
            nbd: disks.nbd.clone(),
            sync: disks.sync,
            disks: disks.disks.iter().map(offer).collect(),
        }))
    }

    /// Source: the destination serves them there. QEMU connects where it was asked to, or else to a socket of this
    /// host, and to nothing that another host chose.
    ///
    /// # Errors
    /// It did not say where, or serves them elsewhere.
    pub(crate) fn learn_nbd(
        &mut self,
        id: MigrationId,
        nbd: Option<String>,
    ) -> Result<(), &'static str> {
        let Some(disks) = self.disks(id) else {
            return Ok(());
        };
        let Some(nbd) = nbd else {
            return Err("it did not say where it serves the disks");
        };
        let is_wanted = match &disks.nbd {
            Some(asked) => *asked == nbd,
            None => is_own_socket(&nbd),
        };
        if !is_wanted {
            return Err("it said another place where it serves the disks than it was asked for");
        }
        if disks.nbd.is_none() {
            let disks = MigrationDisks {
                nbd: Some(nbd),
                ..disks.clone()
            };
            self.record(id, RecordBody::MigrationDisks(disks));
        }
        Ok(())
    }

    /// The disks that a migration copies.
    pub(crate) fn disks(&self, id: MigrationId) -> Option<&MigrationDisks> {
        let migration = self.migration(id).filter(|known| known.state.open)?;
        migration.disks.as_deref()
    }

    /// Would what was sent run on a disk that may lack something?
    pub(crate) fn has_unsettled_disks(&self, id: MigrationId) -> bool {
        self.disks(id).is_some_and(|disks| !disks.settled)
    }

    // Looking.

    /// What QEMU shows of them, no older than the last effect; asks for the next look.
    fn disks_seen(&mut self, id: MigrationId) -> Option<JobSeen> {
        let domain = self.migration(id)?.domain;
        let (now, live) = (self.now, self.live(id));
        // Somebody waits for it: the guest, or its next migration.
        let is_urgent = live.blackout || live.disks.clearing_since.is_some();
        let eyes = self.engine.job_eyes.entry(domain).or_default();
        let last = eyes.look_at.saturating_sub(eyes.interval);
        let due = match is_urgent {
            true => last + LOOK_INTERVAL_MS.0,
            false => eyes.look_at,
        };
        let (is_fresh, must_look) = (eyes.fresh, !eyes.fresh || due <= now);
        if must_look && !eyes.looking {
            eyes.looking = true;
            self.send(Message::LookAtJob { domain });
        }
        let eyes = self.engine.job_eyes.get(&domain)?;
        eyes.seen.clone().filter(|_| is_fresh)
    }

    fn intend_for_disks(&mut self, id: MigrationId, execute: &str, arguments: &Value) {
        let Some(domain) = self.migration(id).map(|migration| migration.domain) else {
            return;
        };
        self.cite_look(id);
        self.intend(id, monitor(execute, arguments));
        let eyes = self.engine.job_eyes.entry(domain).or_default();
        eyes.fresh = false;
        eyes.again |= eyes.looking;
    }

    /// Tells something to go, and not sooner again than it makes sense: what QEMU says yes to may take its time.
    fn tell_to_go(&mut self, id: MigrationId, execute: &str, name: &str, arguments: &Value) {
        let now = self.now;
        let asked = Some((execute.to_owned(), name.to_owned()));
        let live = &mut self.live(id).disks;
        let is_again = live.asked == asked;
        if is_again && live.ask_at > now {
            return;
        }
        live.ask_delay = match is_again {
            true => longer(live.ask_delay, EFFECT_DELAY_MS),
            false => EFFECT_DELAY_MS.0,
        };
        live.ask_at = now + live.ask_delay;
        live.asked = asked;
        self.intend_for_disks(id, execute, arguments);
    }

    /// Perform or prepare changed the block graph.
    pub(crate) fn block_graph_changed(&mut self, id: MigrationId) {
        if let Some(domain) = self.migration(id).map(|migration| migration.domain)
            && self.disks(id).is_some()
        {
            let eyes = self.engine.job_eyes.entry(domain).or_default();
            eyes.fresh = false;
            eyes.again |= eyes.looking;
        }
    }

    // The destination.

    /// Nothing is served any more, or it took too long: only then may the guest run here. A release that fails keeps
    /// the guest waiting for a bounded time.
    pub(crate) fn release_disks(&mut self, id: MigrationId, rule: Rule) -> bool {
        let Some(disks) = self.disks(id).filter(|disks| !disks.settled).cloned() else {
            return true;
        };
        if !needs_release(rule) {
            return true;
        }
        let now = self.now;
        let since = *self.live(id).disks.clearing_since.get_or_insert(now);
        if now.saturating_sub(since) > RELEASE_MS_MAX {
            let seen = self.disks_seen(id).and_then(|seen| seen.exports);
            self.live(id).disks.left = seen.unwrap_or_else(|| vec!["NBD exports".to_owned()]);
            return true;
        }
        let Some(exports) = self.disks_seen(id).and_then(|seen| seen.exports) else {
            return false;
        };
        let names = (0..disks.disks.len()).map(|index| disk_name(id, index));
        let served = names.into_iter().find(|name| exports.contains(name));
        if let Some(name) = served {
            // The source's node is gone already: nobody has anything to say on this connection.
            let arguments = json!({"id": name, "mode": "hard"});
            self.tell_to_go(id, "block-export-del", &name, &arguments);
            return false;
        }
        if !self.live(id).disks.stopped {
            self.live(id).disks.stopped = true;
            self.intend_for_disks(id, "nbd-server-stop", &json!({}));
            return false;
        }
        self.settle_disks(id);
        true
    }

    fn settle_disks(&mut self, id: MigrationId) {
        if let Some(disks) = self.disks(id) {
            let disks = MigrationDisks {
                settled: true,
                ..disks.clone()
            };
            self.record(id, RecordBody::MigrationDisks(disks));
        }
    }

    // The source.

    /// Does a performing source go on as one that copies no disk?
    pub(crate) fn tend_mirrors(&mut self, id: MigrationId, is_sent: bool) -> bool {
        let Some(disks) = self.disks(id).filter(|disks| !disks.settled).cloned() else {
            return true;
        };
        self.live(id).disks.mute_since = None;
        let status = self.migration(id).and_then(|migration| {
            let eyes = self.engine.eyes.get(&migration.domain)?;
            Some(status_class(eyes.observed.as_ref()?.migration.as_ref()))
        });
        match (is_sent, status) {
            (false, _) => {
                // That takes hours, and the switchover may follow at once.
                self.learn_wanted_of_source(id);
                self.await_mirrors(id, &disks);
            }
            (true, Some(StatusClass::PreSwitchover)) => return self.settle_mirrors(id, &disks),
            (true, Some(StatusClass::Performing)) => return self.mirrors_go_on(id, &disks),
            (true, _) => return true,
        }
        false
    }

    /// How a job ended, with what could not be removed.
    pub(crate) fn ended_with(&mut self, id: MigrationId, detail: &str) -> String {
        let left = &self.live(id).disks.left;
        match left.is_empty() {
            true => detail.to_owned(),
            false => format!("{detail}; left in QEMU: {}", left.join(", ")),
        }
    }
}

/// A mirror, as far as a migration tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mirror {
    /// There is no such job.
    Gone,
    /// It has not copied everything yet.
    Copying,
    /// Both disks say the same, and go on doing so.
    Ready,
    /// It ends with everything written.
    Ending,
    /// It did, and waits for its last step.
    Pending,
    /// It ends without.
    Failing,
    /// It ended; the error is none if everything was written.
    Over(Option<String>),
    /// Not known.
    Unknown,
}

fn mirror(seen: &JobSeen, name: &str) -> Option<Mirror> {
    let found = seen.qemu_jobs.as_ref()?.iter().find(|job| job.id == name);
    let Some(job) = found else {
        return Some(Mirror::Gone);
    };
    Some(match &job.status {
        Some(QemuJobStatus::Created | QemuJobStatus::Running | QemuJobStatus::Paused) => {
            Mirror::Copying
        }
        // Standby: ready, and standing still for a moment.
        Some(QemuJobStatus::Ready | QemuJobStatus::Standby) => Mirror::Ready,
        Some(QemuJobStatus::Waiting) => Mirror::Ending,
        Some(QemuJobStatus::Pending) => Mirror::Pending,
        Some(QemuJobStatus::Aborting) => Mirror::Failing,
        Some(QemuJobStatus::Concluded) => Mirror::Over(job.error.clone()),
        Some(QemuJobStatus::Undefined | QemuJobStatus::Null | QemuJobStatus::Other(_)) | None => {
            Mirror::Unknown
        }
    })
}
