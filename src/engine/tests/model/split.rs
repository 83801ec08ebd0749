//! Post-copy: a guest that is split over both QEMUs, whose stream breaks and is taken up again.
//!
//! Invariant: no half is a guest without the other one; only when all of its memory followed is the
//! destination's one. What happens is what QEMU 7.2 was seen to do; `Handover::NewerPostcopy` is the order of
//! later ones, which send the devices before they say `postcopy-active`.
//! Not here: the way up to the switchover (`qemu`).

use journal_format::record::{EffectCommand, EffectResult, MigrationStatus, RunState};

use super::qemu::{Move, refused};
use super::scenario::Handover;
use super::scene::{A, B, Scene};
use crate::engine::QemuEvent;

/// What only post-copy knows of a QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a separate thing that a QEMU is"
)]
pub(crate) struct Split {
    /// Source: its sidecar was told how much is left, on this connection.
    pub(crate) told: bool,
    /// Source: `migrate-start-postcopy` was taken.
    pub(crate) asked: bool,
    /// Source: this switchover leads into post-copy.
    pub(crate) goes_over: bool,
    /// Source: it tries to reach the destination once more.
    pub(crate) reconnects: bool,
    /// Destination: some of the memory is still at the source.
    pub(crate) partial: bool,
}

/// A status from which there is no way back.
pub(crate) fn is_postcopy(status: &MigrationStatus) -> bool {
    matches!(
        status,
        MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::PostcopyRecover
            | MigrationStatus::PostcopyRecoverSetup
    )
}

impl Scene {
    pub(super) fn is_newer(&self) -> bool {
        self.scenario.handover == Handover::NewerPostcopy
    }

    fn is(&self, at: usize, status: MigrationStatus) -> bool {
        self.qemus[at].alive && self.qemus[at].status == status
    }

    fn flows(&self, at: usize) -> bool {
        self.is(at, MigrationStatus::PostcopyActive)
            || self.is(at, MigrationStatus::PostcopyRecover)
    }

    /// Is the source about to write the last byte, or the devices?
    pub(super) fn may_send(&self) -> bool {
        let goes_over = self.qemus[A].split.goes_over;
        let status = match goes_over && !self.is_newer() {
            true => MigrationStatus::PostcopyActive,
            false => MigrationStatus::Device,
        };
        // QEMU 7.2 says post-copy before it sends the devices, and fails without them.
        let is_old = status == MigrationStatus::PostcopyActive;
        self.is(A, status) && !(is_old && self.stream.sent)
    }

    /// May its stream break?
    pub(super) fn may_break(&self) -> bool {
        let flows = self.is(A, MigrationStatus::PostcopyActive) && self.stream.sent
            || self.is(A, MigrationStatus::PostcopyRecover);
        flows && !self.stream.broken
    }

    pub(super) fn may_move_split(&self, one: Move) -> bool {
        let [source, destination] = &self.qemus;
        let broken = self.stream.broken;
        let listens = self.is(B, MigrationStatus::PostcopyPaused) && destination.listening;
        let reconnects = self.is(A, MigrationStatus::PostcopyPaused) && source.split.reconnects;
        match one {
            Move::Pass => {
                let is_early = self.is(A, MigrationStatus::Active) && !source.split.asked;
                let hears = self.hosts[A].connected && !source.split.told;
                self.scenario.handover.is_postcopy() && is_early && hears && !broken
            }
            Move::GoneOver => {
                let over = source.split.goes_over && self.stream.sent;
                self.is(A, MigrationStatus::Device) && over && !broken
            }
            Move::Listen => {
                let over = source.split.goes_over && self.stream.sent;
                let waits = destination.run == RunState::Inmigrate;
                self.is(B, MigrationStatus::Active) && waits && over
            }
            Move::Follow => {
                let both = self.is(A, MigrationStatus::PostcopyActive)
                    && self.is(B, MigrationStatus::PostcopyActive);
                both && destination.run != RunState::Inmigrate && !broken
            }
            // What was sent whole is taken before that.
            Move::PauseSource => broken && self.flows(A) && self.stream.sent,
            Move::PauseDestination => {
                let hears = !self.stream.silent || !source.alive;
                broken && hears && self.flows(B) && destination.run != RunState::Inmigrate
            }
            Move::Reconnect => reconnects && listens,
            Move::ReconnectFails => reconnects && !listens,
            Move::Recover => {
                let both = self.is(A, MigrationStatus::PostcopyRecover)
                    && self.is(B, MigrationStatus::PostcopyRecover);
                both && !broken
            }
            _ => false,
        }
    }

    pub(super) fn make_move_split(&mut self, one: Move) {
        match one {
            Move::Pass => {
                self.qemus[A].split.told = true;
                // More than any limit: it does not converge by itself.
                self.emit(A, QemuEvent::Converging { downtime: 9_999 });
            }
            Move::GoneOver => self.set_status(A, MigrationStatus::PostcopyActive),
            Move::Listen => self.set_status(B, MigrationStatus::PostcopyActive),
            Move::Follow => {
                self.stream.loaded = true;
                self.qemus[B].split.partial = false;
                self.set_status(B, MigrationStatus::Completed);
            }
            Move::PauseSource => self.set_status(A, MigrationStatus::PostcopyPaused),
            Move::PauseDestination => self.set_status(B, MigrationStatus::PostcopyPaused),
            Move::Reconnect => {
                self.stream.broken = false;
                self.stream.silent = false;
                self.qemus[A].split.reconnects = false;
                self.qemus[B].listening = false;
                self.set_status(A, MigrationStatus::PostcopyRecover);
                self.set_status(B, MigrationStatus::PostcopyRecover);
            }
            Move::ReconnectFails => self.qemus[A].split.reconnects = false,
            Move::Recover => {
                self.set_status(A, MigrationStatus::PostcopyActive);
                self.set_status(B, MigrationStatus::PostcopyActive);
            }
            _ => {}
        }
    }

    /// The source stops its guest: is it for post-copy, or did everything go over before?
    pub(super) fn converge_split(&mut self) {
        self.qemus[A].split.goes_over = self.qemus[A].split.asked;
        self.qemus[A].split.told = false;
    }

    /// The commands of post-copy.
    pub(super) fn obey_split(&mut self, at: usize, command: &EffectCommand) -> EffectResult {
        let paused = self.qemus[at].status == MigrationStatus::PostcopyPaused;
        match command {
            EffectCommand::StartPostcopy => {
                if self.qemus[at].status == MigrationStatus::None {
                    return refused("Postcopy must be started after migration has been started");
                }
                // Later it makes no difference any more.
                let is_early = matches!(
                    self.qemus[at].status,
                    MigrationStatus::Setup | MigrationStatus::Active
                );
                self.qemus[at].split.asked = is_early;
            }
            EffectCommand::MigrateRecover { .. } => {
                if !paused {
                    return refused("Migrate recover can only be run when postcopy is paused.");
                }
                self.qemus[B].listening = true;
            }
            EffectCommand::MigratePause => {
                if self.qemus[at].status != MigrationStatus::PostcopyActive {
                    return refused("migrate-pause is only supported during postcopy-active");
                }
                self.stream.broken = true;
                self.set_status(at, MigrationStatus::PostcopyPaused);
            }
            EffectCommand::MigrateResume { .. } => {
                if !paused {
                    return refused("Cannot resume if there is no paused migration");
                }
                self.qemus[A].split.reconnects = true;
            }
            _ => return refused("not of post-copy"),
        }
        EffectResult::Done
    }
}
