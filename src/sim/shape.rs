//! The shape of a fleet: how many hosts and guests, how slow everything is, how often what fails.
//!
//! Invariant: a shape and a seed say everything about a run.
//! Not here: what the faults do (`fault`).

use serde::{Deserialize, Serialize};

/// A fleet, as a configuration file describes it. What is left out is as in [`Shape::default`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Shape {
    /// Hosts, each with one sidecar.
    pub hosts: usize,
    /// Guests, spread over the hosts.
    pub domains: usize,
    /// How long faults happen, in simulated minutes.
    pub minutes: u64,
    /// How slow things are.
    pub latencies: Latencies,
    /// How often things fail.
    pub faults: Rates,
    /// How migrations are made, and what else is done to guests.
    pub migrations: Mix,
}

/// Ranges in microseconds, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Latencies {
    /// One way between two sidecars.
    pub network: [u64; 2],
    /// One way between a sidecar and its QEMU.
    pub qmp: [u64; 2],
    /// A write with its sync.
    pub sync: [u64; 2],
    /// Until a sidecar that died is started again.
    pub restart: [u64; 2],
    /// Until a host that lost power is up again.
    pub reboot: [u64; 2],
    /// Until a guest that was moved is moved again.
    pub rest: [u64; 2],
}

/// How often each kind of fault happens, in a million migrations. With several faults in one
/// migration these may add up to more than a million.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Rates {
    /// A sidecar dies at one of its next batches: before, in, or after it.
    pub sidecar_crash: u32,
    /// A host loses power.
    pub power: u32,
    /// A QEMU dies.
    pub qemu_death: u32,
    /// A QEMU falls silent for some seconds.
    pub qemu_mute: u32,
    /// The connection between a sidecar and a QEMU breaks.
    pub disconnect: u32,
    /// The answer to an effect is lost, after it was carried out.
    pub lost_reply: u32,
    /// A QEMU refuses every `cont` for a while.
    pub refused_cont: u32,
    /// The stream between two QEMUs breaks.
    pub stream: u32,
    /// It breaks behind the last of the guest, which the destination has then, and the source does not hear so: a rare moment of
    /// the one above, and no fleet has it apart that does not ask for it.
    pub stream_end: u32,
    /// Two hosts cannot reach each other, both ways or one way.
    pub partition: u32,
    /// A message is lost, repeated, or very late.
    pub message: u32,
    /// A batch's write fails, is short, or its sync fails.
    pub write_error: u32,
    /// The disk has no room for a while.
    pub full_disk: u32,
    /// A bit of a journal flips.
    pub bit_rot: u32,
    /// A write goes elsewhere or nowhere, and says that all is well.
    pub lost_write: u32,
    /// Syncs say that all is well and do nothing, until the power fails.
    pub lying_sync: u32,
    /// A journal is lost.
    pub lost_journal: u32,
    /// A journal is put back from an older copy.
    pub older_journal: u32,
    /// A clock jumps.
    pub clock: u32,
    /// A hand from outside continues or stops a guest.
    pub foreign: u32,
    /// Another sidecar claims a QEMU.
    pub foreign_claim: u32,
    /// A hand from outside saves a guest to a file.
    pub foreign_save: u32,
    /// A key of the store is another journal's.
    pub foreign_key: u32,
    /// The store is put back from an older copy: what it decides is not judged then, and no fleet has it that does not ask for it.
    pub older_store: u32,
    /// A journal is put back from an older copy, and its witness is gone too: only a claim tells then, and a guest where none does
    /// is not judged. No fleet has it that does not ask for it.
    pub older_unseen: u32,
    /// Another QEMU serves the socket of one.
    pub replaced_qemu: u32,
    /// The store is down for a while, or its answer to a change is lost.
    pub store: u32,
    /// A licence names another authority on its way, or a sidecar is restarted with another store.
    pub other_authority: u32,
    /// The manager dies and knows nothing any more.
    pub manager_crash: u32,
    /// The manager gives a migration up, or asks twice.
    pub manager_cancel: u32,
    /// The owner suspends or resumes a guest.
    pub owner: u32,
}

/// Shares in a million.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Mix {
    /// Migrations by protocol v2.
    pub v2: u32,
    /// Migrations by post-copy (v3).
    pub postcopy: u32,
    /// Of those by v3, the ones whose authority is the store.
    pub store: u32,
    /// Of the rest of them, the ones whose authority is the manager.
    pub manager: u32,
    /// Of all migrations, the ones that the manager drives itself, phase by phase.
    pub driven: u32,
    /// Of those, the ones that it drives by plain commands on the domains' monitors, as one that knows of no phases.
    pub plain: u32,
    /// Of the hosts, not of migrations: those whose sidecars were told of all others, to find the other side of a migration by plain
    /// commands (`phase-journald --peer`).
    pub introduced: u32,
    /// Other jobs that are begun in place of a migration: save, dump, snapshot, backup, ...
    pub jobs: u32,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            hosts: 3,
            domains: 8,
            minutes: 1,
            latencies: Latencies::default(),
            faults: Rates::default(),
            migrations: Mix::default(),
        }
    }
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            network: [50, 800],
            qmp: [20, 150],
            sync: [60, 400],
            restart: [20_000, 2_000_000],
            reboot: [1_000_000, 8_000_000],
            rest: [1_000, 300_000],
        }
    }
}

impl Default for Mix {
    fn default() -> Mix {
        Mix {
            v2: 250_000,
            postcopy: 200_000,
            store: 300_000,
            manager: 200_000,
            driven: 150_000,
            plain: 400_000,
            introduced: 500_000,
            jobs: 100_000,
        }
    }
}

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            sidecar_crash: 250_000,
            power: 6_000,
            qemu_death: 40_000,
            qemu_mute: 10_000,
            disconnect: 30_000,
            lost_reply: 40_000,
            refused_cont: 10_000,
            stream: 40_000,
            stream_end: 0,
            partition: 20_000,
            message: 80_000,
            write_error: 10_000,
            full_disk: 4_000,
            bit_rot: 4_000,
            lost_write: 4_000,
            lying_sync: 2_000,
            lost_journal: 2_000,
            older_journal: 2_000,
            clock: 10_000,
            foreign: 6_000,
            foreign_claim: 3_000,
            foreign_save: 3_000,
            foreign_key: 3_000,
            older_store: 0,
            older_unseen: 0,
            replaced_qemu: 3_000,
            store: 20_000,
            other_authority: 6_000,
            manager_crash: 20_000,
            manager_cancel: 40_000,
            owner: 60_000,
        }
    }
}

impl Rates {
    /// Nothing fails, and nobody changes their mind.
    pub const NONE: Rates = Rates {
        sidecar_crash: 0,
        power: 0,
        qemu_death: 0,
        qemu_mute: 0,
        disconnect: 0,
        lost_reply: 0,
        refused_cont: 0,
        stream: 0,
        stream_end: 0,
        partition: 0,
        message: 0,
        write_error: 0,
        full_disk: 0,
        bit_rot: 0,
        lost_write: 0,
        lying_sync: 0,
        lost_journal: 0,
        older_journal: 0,
        clock: 0,
        foreign: 0,
        foreign_claim: 0,
        foreign_save: 0,
        foreign_key: 0,
        older_store: 0,
        older_unseen: 0,
        replaced_qemu: 0,
        store: 0,
        other_authority: 0,
        manager_crash: 0,
        manager_cancel: 0,
        owner: 0,
    };
}
