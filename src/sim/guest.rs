//! A guest and its owner: what it did, whatever anybody writes down about it.
//!
//! Invariant: a guest's memory is a counter that only its execution moves; the newest value that any
//! copy counted to is the guest, and P2 and P8 are judged by it alone.
//! Not here: the processes that copies live in (`qemu`).

use std::collections::{BTreeMap, BTreeSet};

use journal_format::number::{DomainId, MigrationId};
use journal_format::record::{JobKind, WantedRunState};

use super::random::Random;
use super::{HostNumber, Micros, QemuNumber};
use crate::engine::JobView;

/// A guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name with every manager.
    pub name: String,
    /// Its identity.
    pub domain: DomainId,
    /// QEMU locks its image.
    pub locks: bool,
    /// How long the rest takes with the guest stopped, in milliseconds; 0: it hardly writes.
    pub needs_ms: u64,
    /// Who has the image's lock.
    pub lock: Option<QemuNumber>,
    /// The newest number that it ever counted to.
    pub newest: u64,
    /// What it was when it was saved to its image; none if that never was.
    pub image: Option<u64>,
    /// Its owner wants it gone: a job to destroy it is under way.
    pub doomed: bool,
    /// Where it executes.
    pub executes: Option<QemuNumber>,
    /// What its owner wants; `None` while a request is under way whose end is not known.
    pub wanted: Option<WantedRunState>,
    /// It is split over these two: source and destination of a post-copy.
    pub split: Option<(QemuNumber, QemuNumber)>,
    /// Nothing whole is left of it, by what happened to its QEMUs.
    pub lost: bool,
    /// Somebody did something to it behind every sidecar's back.
    pub outside: Option<Micros>,
    /// A disk lied about what it had of this guest's journals, or one was put back together with a reboot, which no journal
    /// can tell.
    pub betrayed: bool,
    /// A QEMU of it ended without a sidecar's doing since it was booted.
    pub has_died: bool,
    /// A job may have left its QEMU told otherwise than before, or something in it: it did not answer, the job said so, or
    /// the journal lost it.
    pub told_otherwise: bool,
    /// The migration that was begun last is one that its manager drives itself.
    pub is_driven: bool,
    /// Hosts whose journal is, or may be, not what was written to it, or where somebody else claims its
    /// QEMU: until a job of it begins there, whatever stood in that journal before may come up. So it may while
    /// another host has a job open that this one may have known of.
    pub suspects: BTreeSet<HostNumber>,
    /// The migration of the job that was begun last, and has not ended, by host.
    pub open: BTreeMap<HostNumber, Option<MigrationId>>,
    /// Where its job was held since QEMU showed more than the journal knew.
    pub(super) older: BTreeSet<HostNumber>,
    /// The processes of it that live, and some that ended last.
    pub qemus: Vec<QemuNumber>,
    /// Hosts that it ever had a process on.
    pub been: BTreeSet<HostNumber>,
    /// Another process that serves the monitor socket on a host.
    pub decoy: Option<(HostNumber, QemuNumber)>,
}

impl Guest {
    /// A guest that has not booted yet.
    #[must_use]
    pub(super) fn new(name: &str, domain: DomainId, random: &mut Random) -> Guest {
        Guest {
            name: name.to_owned(),
            domain,
            locks: random.coin(),
            needs_ms: match random.coin() {
                true => 0,
                false => random.between(2, 200),
            },
            lock: None,
            newest: 0,
            image: None,
            doomed: false,
            executes: None,
            wanted: Some(WantedRunState::Running),
            split: None,
            lost: false,
            outside: None,
            betrayed: false,
            has_died: false,
            told_otherwise: false,
            is_driven: false,
            suspects: BTreeSet::new(),
            open: BTreeMap::new(),
            older: BTreeSet::new(),
            qemus: Vec::new(),
            been: BTreeSet::new(),
            decoy: None,
        }
    }

    /// It boots anew; what was before is gone. The counter goes on, so that no older copy can pass for
    /// this one.
    pub(super) fn boot(&mut self) -> u64 {
        self.newest += 1;
        self.lost = false;
        self.doomed = false;
        self.outside = None;
        self.betrayed = false;
        self.has_died = false;
        self.told_otherwise = false;
        self.wanted = Some(WantedRunState::Running);
        self.newest
    }

    /// Is its image the guest as it is now, so that nothing is lost with its QEMU?
    #[must_use]
    pub fn is_in_image(&self) -> bool {
        self.image == Some(self.newest)
    }

    /// The other process that serves its monitor socket there, if one does.
    #[must_use]
    pub fn replaced_on(&self, host: HostNumber) -> Option<QemuNumber> {
        self.decoy
            .filter(|(at, _)| *at == host)
            .map(|(_, qemu)| qemu)
    }

    /// A job of it begins there: what was before is closed, at this host, and counts no more; unless another
    /// host has not closed it, or that journal lacks records still.
    pub(super) fn begins(&mut self, at: HostNumber, job: &JobView, lacks_records: bool) {
        self.open.insert(at, job.migration);
        self.older.remove(&at);
        self.told_otherwise |= lacks_records;
        let migrates = matches!(job.kind, JobKind::MigrationOut | JobKind::MigrationIn);
        self.is_driven &= migrates && job.migration.is_none();
        if self.open.values().any(|one| *one != job.migration) {
            return;
        }
        // Those that begin only on a QEMU that nothing is under way in.
        let is_fresh = !matches!(
            job.kind,
            JobKind::Backup | JobKind::Destroy | JobKind::Suspend | JobKind::Modify
        );
        if !lacks_records && is_fresh {
            self.suspects.remove(&at);
        }
        self.has_died &= job.kind != JobKind::MigrationOut;
    }

    /// Does one of its migrations stand, or may stand, in a journal that is not what was written to it?
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// May what is wrong with it have been made so from outside, or by a disk?
    #[must_use]
    pub fn is_excused(&self) -> bool {
        self.outside.is_some() || self.betrayed
    }

    pub(super) fn touched(&mut self, now: Micros) {
        self.outside.get_or_insert(now);
    }

    /// It begins to execute in that process, from that memory.
    ///
    /// # Errors
    /// The promise that this breaks.
    pub(super) fn starts(&mut self, at: QemuNumber, memory: Option<u64>) -> Result<(), String> {
        let excused = self.is_excused();
        let other = self.executes.filter(|other| *other != at);
        let wants_paused = self.wanted == Some(WantedRunState::Paused);
        self.executes = Some(at);
        let name = &self.name;
        if let (Some(other), false) = (other, excused) {
            return Err(format!(
                "P2: two copies of {name} execute, in processes {other} and {at}"
            ));
        }
        if memory != Some(self.newest) && !excused {
            let from = memory.unwrap_or(0);
            let newest = self.newest;
            return Err(format!(
                "P2: {name} goes back from {newest} to {from}, in process {at}"
            ));
        }
        if wants_paused && !excused {
            return Err(format!(
                "P8: {name}, which its owner paused, executes in process {at}"
            ));
        }
        // From the first instruction on no other copy is the guest any more.
        self.newest += 1;
        Ok(())
    }

    /// It stopped there with that memory.
    pub(super) fn stops(&mut self, at: QemuNumber, memory: u64) {
        self.executes.take_if(|one| *one == at);
        self.newest = self.newest.max(memory);
    }

    /// A guest that its owner paused went over without executing: its copy there is the guest from
    /// here on.
    pub(super) fn moves_paused(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }
}
