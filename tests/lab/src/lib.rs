//! The laboratory: a guest that counts, real QEMU processes around it, two sidecars, and the judge.
//!
//! Invariant: nothing here trusts the product. The QMP client is its own, the guest's serial logs are
//! the only witness of what ran, and every wait has a deadline whose error shows the logs. No
//! process outlives the test program, however that one ends.
//!
//! Not here: any decision about a migration.
//!
//! In reading order: [`guest`] assembles the boot sector, [`judge`] reads what it printed, [`qemu`]
//! and [`qmp`] run it and talk to it, [`by_hand`] migrates it with no sidecar at all (the control
//! of every experiment), [`sidecar`] starts `phase-journald`, [`fault`] breaks its disk, [`relay`] loses the news that a stream
//! broke, [`supervisor`] plays the service manager that keeps its descriptors, [`pair`] puts all of it together ([`solo`] one side of it), and [`matrix`] kills what is in it at every point of a migration.
//!
//! Several scenarios may run in parallel threads: each has a scratch directory of its own, and no
//! state is shared. Environment: `PHASE_JOURNAL_LAB_KVM=1` uses /dev/kvm in place of TCG,
//! `PHASE_JOURNAL_LAB_KEEP` keeps the scratch directories.

mod error;
mod process;
mod scratch;
mod wait;

pub mod by_hand;
pub mod fault;
pub mod guest;
pub mod judge;
pub mod matrix;
pub mod pair;
pub mod qemu;
pub mod qmp;
pub mod relay;
pub mod sidecar;
pub mod solo;
pub mod supervisor;

pub use error::Error;
pub use scratch::{Scratch, copy_directory};
pub use wait::until;
