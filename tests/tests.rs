//! End to end: the program as it is, on real QEMU, and what holds the code together.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

/// Wrong requests, wrong peers, wrong directories: one clear error each.
mod bad_input;
/// Clients that others wrote, on the monitor in QEMU's place.
mod clients;
/// The simulator's fake QEMU beside the real one.
mod conformance;
/// A guest does not stand still because its sidecar died.
mod convergence;
/// What fuzzing found, replayed.
mod corpora;
/// A sidecar is killed at every batch of a migration, alone and with the other.
mod crash;
/// What QEMU does that a recovery must know, and what avoids it.
mod dangers;
/// The disk fails under a sidecar at work.
mod disk_failure;
/// Disks that are not shared, copied with the guest.
mod disks;
/// Migrations that a manager drives itself.
mod driven;
/// What cannot be settled is held, and keeps nobody waiting.
mod held;
/// The image's locks through a migration.
mod image_locks;
/// What managers do to a domain besides moving it.
mod jobs;
/// Connections that outlive the sidecar, kept by the service manager.
mod kept;
/// Journals that are lost, put back from an older copy, or of another boot.
mod lost_journal;
/// Clients that others wrote drive whole migrations while sidecars are killed.
mod machines;
/// The manager decides: by a verdict, or by its own cont.
mod manager;
/// The monitor in QEMU's place: bytes, effects, descriptors, clients that misbehave.
mod monitor;
/// What the guest's owner wants, kept through everything.
mod owner;
/// Wrong words of another sidecar, and of an operator.
mod peer_input;
mod postcopy;
/// A QEMU is killed in every phase of a migration.
mod qemu_death;
/// Migrations that an unmodified manager drives, told from its plain commands.
mod recognised;
/// Capabilities and parameters of QEMU's, and what becomes of them; times that a migration keeps.
mod settings;
/// A store decides, which both sidecars reach.
mod store;
/// The code's own rules.
mod tidy;

/// What the other modules share: starting a pair, and judging it.
mod scenario;
