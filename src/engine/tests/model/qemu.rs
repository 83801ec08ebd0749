//! The two QEMUs of a model: what a command does to one, what each does by itself, and what the guest
//! would have to say about it.
//!
//! Invariant: a rule about what a guest does (P2, P3, P8) is judged here, by what the QEMUs do, never
//! by what a sidecar believes.
//! Not here: who sends commands and when (`scene`); a guest that is split over both (`split`).

use journal_format::record::{
    ClaimSeen, EffectCommand, EffectResult, Instance, MigrationStatus, Observed, Process, RunState,
};

use super::scenario::Handover;
use super::scene::{A, B, Scene};
use super::split::{Split, is_postcopy};
use crate::engine::QemuEvent;

/// One QEMU, without image locks: nothing but the sidecars keeps two from running.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a separate thing that a QEMU is"
)]
pub(crate) struct Qemu {
    pub(crate) alive: bool,
    /// It does not answer.
    pub(crate) mute: bool,
    pub(crate) run: RunState,
    pub(crate) status: MigrationStatus,
    pub(crate) claim: ClaimSeen,
    pub(crate) instance: Instance,
    pub(crate) autostart: bool,
    pub(crate) listening: bool,
    /// The guest ran when the migration stopped it.
    pub(crate) was_running: bool,
    /// `migrate-continue` was taken, and not acted on yet.
    pub(crate) continued: bool,
    /// What only post-copy knows.
    pub(crate) split: Split,
    /// The guest's memory is here, and is the newest that there is.
    pub(crate) newest: bool,
    /// The guest executed here, ever, or came here as paused as it was.
    pub(crate) ran: bool,
    /// Somebody else than a sidecar continued it.
    pub(crate) foreign: bool,
    /// Its end was decided while the other copy was good: what becomes of that one is no fault of
    /// the decision.
    pub(crate) forsaken: bool,
    /// A source whose guest counts as started at the other side, though it may not have been.
    pub(crate) presumed: bool,
}

/// What is on its way from the source's QEMU to the destination's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Everything was written.
    pub(crate) sent: bool,
    /// What was written is the newest that there is of the guest.
    pub(crate) newest: bool,
    /// The destination loaded everything and said so.
    pub(crate) loaded: bool,
    /// Nothing more comes through.
    pub(crate) broken: bool,
    /// And the destination hears nothing of that while the source's QEMU lives: packets are lost.
    pub(crate) silent: bool,
}

/// What a QEMU does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// The source reaches the destination.
    Connect,
    /// It does not.
    ConnectFails,
    /// Post-copy: the first pass is over, and the source tells how much is left.
    Pass,
    /// Little is left to send, or post-copy begins: the source stops the guest.
    Converge,
    /// It acts on `migrate-continue`.
    Switch,
    /// The source writes the last byte.
    Send,
    /// The destination has it all; its guest is paused, or runs if autostart is on.
    Load,
    /// And it says completed.
    Loaded,
    /// The source hears so, and says completed.
    Complete,
    /// The source's run state follows its status.
    Settle,
    /// The source finds the stream broken.
    SendFails,
    /// The source ends a cancelled migration.
    Cancelled,
    /// The destination finds the stream broken.
    LoadFails,
    /// Post-copy, newer QEMUs: the devices are on their way, and the source says so.
    GoneOver,
    /// Post-copy: the destination takes the devices, and says so.
    Listen,
    /// Post-copy: the destination has all of the memory.
    Follow,
    /// Post-copy: the source finds the stream broken.
    PauseSource,
    /// The destination does.
    PauseDestination,
    /// Post-copy: the source reaches the destination once more.
    Reconnect,
    /// It does not.
    ReconnectFails,
    /// Both know what is left, and go on.
    Recover,
}

const MOVES: [Move; 21] = [
    Move::Connect,
    Move::ConnectFails,
    Move::Pass,
    Move::Converge,
    Move::Switch,
    Move::Send,
    Move::Load,
    Move::Loaded,
    Move::Complete,
    Move::Settle,
    Move::SendFails,
    Move::Cancelled,
    Move::LoadFails,
    Move::GoneOver,
    Move::Listen,
    Move::Follow,
    Move::PauseSource,
    Move::PauseDestination,
    Move::Reconnect,
    Move::ReconnectFails,
    Move::Recover,
];

pub(super) fn refused(description: &str) -> EffectResult {
    EffectResult::Refused {
        class: "GenericError".to_owned(),
        description: description.to_owned(),
    }
}

impl Qemu {
    pub(super) fn new(run: RunState, instance: Instance) -> Qemu {
        Qemu {
            alive: true,
            mute: false,
            newest: run != RunState::Inmigrate,
            ran: run == RunState::Running,
            run,
            status: MigrationStatus::None,
            claim: ClaimSeen::Absent,
            instance,
            autostart: true,
            listening: false,
            was_running: false,
            continued: false,
            split: Split::default(),
            foreign: false,
            forsaken: false,
            presumed: false,
        }
    }

    pub(crate) fn running(&self) -> bool {
        self.alive && self.run == RunState::Running
    }

    /// A living process with a guest in it.
    pub(crate) fn holds_guest(&self) -> bool {
        self.alive && self.run != RunState::Inmigrate
    }

    pub(super) fn observed(&self) -> Observed {
        let seen = |process| Observed {
            process,
            instance: Some(self.instance),
            run_state: None,
            migration: None,
            claim: ClaimSeen::Unread,
        };
        if !self.alive {
            return seen(Process::Dead);
        }
        if self.mute {
            return seen(Process::Mute);
        }
        Observed {
            run_state: Some(self.run.clone()),
            migration: Some(self.status.clone()),
            claim: self.claim.clone(),
            ..seen(Process::Alive)
        }
    }
}

impl Scene {
    /// Is this the newest copy, whole or still to be loaded from what was sent?
    pub(super) fn carries_guest(&self, at: usize) -> bool {
        self.carries_guest_with(at, self.qemus[1 - at].alive)
    }

    /// Would it be, if the other one's life were that? A half of a split guest is none without the other.
    pub(super) fn carries_guest_with(&self, at: usize, other: bool) -> bool {
        let qemu = &self.qemus[at];
        let loads = at == B && self.stream.sent && self.stream.newest;
        let loads = loads && qemu.run == RunState::Inmigrate;
        let half = match at {
            A => is_postcopy(&qemu.status),
            _ => qemu.split.partial || loads && self.qemus[A].split.goes_over,
        };
        qemu.alive && (qemu.newest || loads) && (other || !half)
    }

    pub(super) fn moves(&self) -> Vec<Move> {
        MOVES
            .into_iter()
            .filter(|one| self.may_move(*one))
            .collect()
    }

    fn may_move(&self, one: Move) -> bool {
        let [source, destination] = &self.qemus;
        let Stream {
            sent,
            loaded,
            broken,
            newest: _,
            silent: _,
        } = self.stream;
        let source_is = |status| source.alive && source.status == status;
        let waits = destination.alive && destination.run == RunState::Inmigrate;
        let connects = waits && destination.listening && !broken;
        match one {
            Move::Connect => source_is(MigrationStatus::Setup) && connects,
            Move::ConnectFails => source_is(MigrationStatus::Setup) && !connects,
            Move::Converge => source_is(MigrationStatus::Active) && !broken,
            Move::Switch => source_is(MigrationStatus::PreSwitchover) && source.continued,
            Move::Send => self.may_send() && !sent && !broken,
            Move::Load => {
                let status = match source.split.goes_over {
                    true => MigrationStatus::PostcopyActive,
                    false => MigrationStatus::Active,
                };
                waits && sent && destination.status == status
            }
            Move::Loaded => {
                destination.holds_guest() && destination.status == MigrationStatus::Active
            }
            Move::Complete => {
                let device = source_is(MigrationStatus::Device) && !source.split.goes_over;
                (device || source_is(MigrationStatus::PostcopyActive)) && loaded
            }
            Move::Settle => {
                source.alive
                    && source.run == RunState::FinishMigrate
                    && matches!(
                        source.status,
                        MigrationStatus::Completed
                            | MigrationStatus::Failed
                            | MigrationStatus::Cancelled
                    )
            }
            Move::SendFails => broken && (source_is(MigrationStatus::Active) || self.may_send()),
            Move::Cancelled => source_is(MigrationStatus::Cancelling),
            Move::LoadFails => waits && broken && destination.status == MigrationStatus::Active,
            Move::Pass
            | Move::GoneOver
            | Move::Listen
            | Move::Follow
            | Move::PauseSource
            | Move::PauseDestination
            | Move::Reconnect
            | Move::ReconnectFails
            | Move::Recover => self.may_move_split(one),
        }
    }

    pub(super) fn make_move(&mut self, one: Move) {
        match one {
            Move::Connect => {
                self.qemus[B].listening = false;
                self.set_status(A, MigrationStatus::Active);
                self.set_status(B, MigrationStatus::Active);
            }
            Move::ConnectFails | Move::SendFails => {
                self.stream.broken = true;
                self.set_status(A, MigrationStatus::Failed);
            }
            Move::Converge => {
                self.qemus[A].was_running = self.qemus[A].running();
                self.converge_split();
                self.set_run(A, RunState::FinishMigrate);
                self.set_status(A, MigrationStatus::PreSwitchover);
            }
            Move::Switch => {
                self.qemus[A].continued = false;
                let status = match self.qemus[A].split.goes_over && !self.is_newer() {
                    true => MigrationStatus::PostcopyActive,
                    false => MigrationStatus::Device,
                };
                self.set_status(A, status);
            }
            Move::Send => {
                self.stream.sent = true;
                self.stream.newest = self.qemus[A].newest;
            }
            Move::Load => {
                self.qemus[B].newest = self.stream.newest;
                self.qemus[B].split.partial = self.qemus[A].split.goes_over;
                let run = if self.qemus[B].autostart {
                    RunState::Running
                } else {
                    RunState::Paused
                };
                self.set_run(B, run);
            }
            Move::Loaded => {
                self.stream.loaded = !self.stream.broken;
                self.set_status(B, MigrationStatus::Completed);
            }
            Move::Complete => self.set_status(A, MigrationStatus::Completed),
            Move::Settle => {
                let source = &self.qemus[A];
                // QEMU 7.2 forgets in post-copy that the guest ran.
                let forgets = source.split.goes_over && !self.is_newer();
                let resumes =
                    source.was_running && source.status != MigrationStatus::Completed && !forgets;
                let run = if resumes {
                    RunState::Running
                } else {
                    RunState::Postmigrate
                };
                self.set_run(A, run);
            }
            Move::Cancelled => self.set_status(A, MigrationStatus::Cancelled),
            Move::LoadFails if self.scenario.incoming_survives => {
                self.set_status(B, MigrationStatus::Failed);
            }
            Move::LoadFails => self.die(B),
            Move::Pass
            | Move::GoneOver
            | Move::Listen
            | Move::Follow
            | Move::PauseSource
            | Move::PauseDestination
            | Move::Reconnect
            | Move::ReconnectFails
            | Move::Recover => self.make_move_split(one),
        }
    }

    /// The process ends, for whatever reason.
    pub(super) fn die(&mut self, at: usize) {
        if !self.qemus[at].alive {
            return;
        }
        self.qemus[at].alive = false;
        self.qemus[at].newest = false;
        self.stream.broken = true;
        self.see_end(at);
    }

    /// The return path breaks in the device phase: the source gives up by itself.
    pub(super) fn fail_in_device(&mut self) {
        self.stream.broken = true;
        self.set_status(A, MigrationStatus::Failed);
    }

    /// A hand from outside continues the source.
    pub(super) fn continue_from_outside(&mut self) {
        self.qemus[A].foreign = true;
        self.set_run(A, RunState::Running);
    }

    /// A hand from outside continues the destination.
    pub(super) fn start_from_outside(&mut self) {
        self.qemus[B].foreign = true;
        self.set_run(B, RunState::Running);
    }

    /// A hand from outside stops the destination.
    pub(super) fn stop_from_outside(&mut self) {
        self.set_run(B, RunState::Paused);
    }

    pub(super) fn set_status(&mut self, at: usize, status: MigrationStatus) {
        self.qemus[at].status = status.clone();
        self.emit(at, QemuEvent::Migration(status));
    }

    fn set_run(&mut self, at: usize, run: RunState) {
        let was = self.qemus[at].running();
        self.qemus[at].run = run;
        match (was, self.qemus[at].running()) {
            (true, false) => self.emit(at, QemuEvent::Stop),
            (false, true) => {
                self.emit(at, QemuEvent::Resume);
                self.judge_start(at);
            }
            _ => {}
        }
    }

    /// The guest begins to execute here: P2 and P8, and what becomes of the other copies.
    fn judge_start(&mut self, at: usize) {
        let other = 1 - at;
        // What somebody did to a copy from outside excuses what is wrong because of it.
        let is_outside = self.qemus[A].foreign || self.qemus[B].foreign;
        if self.qemus[other].running() && !is_outside {
            self.breaks("P2: two copies run");
        }
        if !self.qemus[at].newest && !is_outside {
            self.breaks("P2: the guest goes back to an older state");
        }
        if at == A && is_postcopy(&self.qemus[A].status) {
            self.breaks("P2: half a guest runs");
        }
        let is_managers = self.scenario.handover == Handover::Manager;
        // That it ended the other copy is its word too.
        let has_word = self.used(|left| left.verdicts) || !self.qemus[A].alive;
        if at == B && is_managers && !is_outside && !has_word {
            self.breaks("P2: the guest is started without the manager's word");
        }
        if self.scenario.paused && !is_outside {
            self.breaks("P8: a guest that its owner paused runs");
        }
        self.qemus[at].ran = true;
        if at == A && is_outside && self.qemus[B].ran {
            // The guest is at the destination; this copy is what the hand from outside made.
            self.qemus[A].newest = false;
            return;
        }
        self.qemus[at].newest = true;
        self.qemus[other].newest = false;
        self.stream.newest = false;
    }

    /// What a command does to a living QEMU.
    pub(super) fn obey(&mut self, at: usize, command: &EffectCommand) -> EffectResult {
        let qemu = &mut self.qemus[at];
        if !qemu.alive {
            return match command {
                EffectCommand::Kill => EffectResult::Done,
                _ => EffectResult::NotSent {
                    why: "QEMU is gone".to_owned(),
                },
            };
        }
        match command {
            EffectCommand::Claim(claim) => {
                if qemu.claim != ClaimSeen::Absent {
                    return refused("attempt to add duplicate property");
                }
                qemu.claim = ClaimSeen::Present(*claim);
            }
            EffectCommand::Unclaim => qemu.claim = ClaimSeen::Absent,
            EffectCommand::SetCapabilities { .. } | EffectCommand::SetParameters { .. } => {}
            EffectCommand::MigrateIncoming { .. } => qemu.listening = true,
            EffectCommand::Migrate { .. } => {
                if !matches!(qemu.run, RunState::Running | RunState::Paused) {
                    return refused("cannot migrate in this state");
                }
                self.set_status(at, MigrationStatus::Setup);
            }
            EffectCommand::MigrateContinue => {
                if qemu.status != MigrationStatus::PreSwitchover {
                    return refused("Migration not in expected state");
                }
                qemu.continued = true;
            }
            EffectCommand::MigrateCancel => {
                if is_postcopy(&qemu.status) {
                    self.breaks("P3: a cancel in post-copy destroys the guest");
                }
                let qemu = &mut self.qemus[at];
                let is_open = matches!(
                    qemu.status,
                    MigrationStatus::Setup
                        | MigrationStatus::Active
                        | MigrationStatus::PreSwitchover
                        | MigrationStatus::Device
                );
                if is_open {
                    qemu.continued = false;
                    self.stream.broken = true;
                    self.set_status(at, MigrationStatus::Cancelling);
                }
            }
            EffectCommand::Cont => match qemu.run {
                RunState::Inmigrate => qemu.autostart = true,
                RunState::FinishMigrate => return refused("Migration is not finalized yet"),
                _ => self.set_run(at, RunState::Running),
            },
            EffectCommand::Stop => match qemu.run {
                RunState::Inmigrate => qemu.autostart = false,
                RunState::Running => self.set_run(at, RunState::Paused),
                _ => {}
            },
            EffectCommand::StartPostcopy
            | EffectCommand::MigrateRecover { .. }
            | EffectCommand::MigrateResume { .. }
            | EffectCommand::MigratePause => return self.obey_split(at, command),
            EffectCommand::Monitor { .. } => return refused("no migration sends this"),
            EffectCommand::Kill => {
                let is_only = (self.carries_guest(A) || self.carries_guest(B))
                    && !self.carries_guest_with(1 - at, false);
                let Qemu {
                    forsaken, presumed, ..
                } = self.qemus[at];
                // A source that is the newest is one whose guest has not run at the destination.
                let is_early = at == A && self.carries_guest(A);
                let is_v3 = self.scenario.handover != Handover::V2;
                if !presumed && (is_only && !forsaken || is_early && is_v3) {
                    self.breaks("P3: the last good copy is killed");
                }
                self.die(at);
            }
        }
        EffectResult::Done
    }
}
