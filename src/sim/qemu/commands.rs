//! What is done to a QEMU: commands, the end of its process, hands from outside.
//!
//! Invariant: answers are those of QEMU 7.2, beside which `tests/conformance.rs` puts them; what a sidecar kills is
//! judged (P3).
//! Not here: what it does by itself (`moves`).

use journal_format::record::{
    ClaimSeen, EffectCommand, EffectResult, MigrationStatus, Role, RunState,
};

use super::super::QemuNumber;
use super::{Lab, Move, Stream, Told, parse_uri};
use crate::engine::QemuEvent;

const LOCKED: &str = "Failed to get \"write\" lock";

pub(super) fn refused(description: &str) -> EffectResult {
    EffectResult::Refused {
        class: "GenericError".to_owned(),
        description: description.to_owned(),
    }
}

impl Lab {
    // The image.

    /// Takes the image's lock, if there is one and nobody else has it.
    pub(super) fn lock(&mut self, number: QemuNumber) -> bool {
        let is_free = !self.is_locked_out(number);
        if is_free {
            self.guests[self.qemus[number].guest].lock = Some(number);
        }
        is_free
    }

    /// Has somebody else the image's lock?
    fn is_locked_out(&self, number: QemuNumber) -> bool {
        let guest = &self.guests[self.qemus[number].guest];
        guest.locks && guest.lock.is_some_and(|holder| holder != number)
    }

    pub(super) fn unlock(&mut self, number: QemuNumber) {
        let guest = &mut self.guests[self.qemus[number].guest];
        guest.lock.take_if(|holder| *holder == number);
    }

    // The end.

    /// The process ends, for whatever reason.
    pub fn end(&mut self, number: QemuNumber) {
        if !self.qemus[number].alive {
            return;
        }
        self.stop_executing(number);
        self.qemus[number].left = self.carries(number).then_some(self.now);
        self.qemus[number].alive = false;
        self.unlock(number);
        let guest = self.qemus[number].guest;
        let split = self.guests[guest].split;
        let is_split = split.is_some_and(|(one, other)| one == number || other == number);
        if is_split || self.leaves_half(number) {
            self.guests[guest].lost = true;
            self.guests[guest].split = None;
        }
        self.told.push((number, Told::Ended));
        self.break_stream(number);
    }

    /// Ends a process on a sidecar's word; P3 is judged.
    pub(super) fn kill(&mut self, number: QemuNumber) {
        let guest = self.qemus[number].guest;
        let others = || self.living(guest).filter(|other| *other != number);
        let is_only = self.carries(number) && !others().any(|other| self.stands_alone(other));
        let qemu = &self.qemus[number];
        // All of it is in a file, or its owner wants it gone.
        let is_elsewhere = self.guests[guest].is_in_image() || self.guests[guest].doomed;
        let is_judged = qemu.alive
            && !is_elsewhere
            && !self.guests[guest].is_excused()
            && !self.guests[guest].lost;
        let is_given_up = qemu.presumed || qemu.forsaken;
        let split = self.guests[guest].split;
        let splits = split.is_some_and(|(one, other)| one == number || other == number);
        if is_judged && splits {
            // Whosever the guest is by then: it needs both.
            self.breaks("P3: half of a guest that is split is killed");
        } else if is_judged && !is_given_up {
            if is_only {
                self.breaks("P3: the last good copy is killed");
            } else if qemu.is_sender() && self.carries(number) {
                self.breaks("P3: a source is killed before its guest is anybody else's");
            }
        }
        self.end(number);
    }

    // Commands.

    /// What a command does to a QEMU that can be reached.
    pub fn execute(&mut self, number: QemuNumber, command: &EffectCommand) -> EffectResult {
        let qemu = &mut self.qemus[number];
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
                    return refused(
                        "attempt to add duplicate property 'phase-journal-claim' to object (type 'container')",
                    );
                }
                qemu.claim = ClaimSeen::Present(*claim);
            }
            EffectCommand::Unclaim => qemu.claim = ClaimSeen::Absent,
            EffectCommand::SetCapabilities { role, postcopy } => {
                qemu.may_split = *postcopy;
                qemu.return_path = true;
                qemu.late_activate = *role == Role::Destination;
            }
            EffectCommand::SetParameters { downtime_limit, .. } => {
                qemu.downtime_limit = downtime_limit.unwrap_or(qemu.downtime_limit);
                self.converge_if_near(number);
            }
            EffectCommand::MigrateIncoming { .. } => return self.listen(number),
            EffectCommand::Migrate { uri } => return self.migrate(number, uri),
            EffectCommand::MigrateContinue => return self.go_on(number),
            EffectCommand::MigrateCancel => self.cancel(number),
            EffectCommand::StartPostcopy => {
                if !qemu.may_split {
                    return refused(
                        "Enable postcopy with migrate_set_capability before the start of migration",
                    );
                }
                if qemu.status == MigrationStatus::None {
                    return refused("Postcopy must be started after migration has been started");
                }
                qemu.postcopy = true;
                self.converge_if_near(number);
            }
            EffectCommand::MigrateRecover { .. } => {
                if qemu.status != MigrationStatus::PostcopyPaused {
                    return refused("Migrate recover can only be run when postcopy is paused.");
                }
                qemu.listening = true;
                self.tell(number, QemuEvent::Migration(MigrationStatus::Setup));
            }
            EffectCommand::MigrateResume { .. } => {
                if qemu.status != MigrationStatus::PostcopyPaused {
                    return refused("Cannot resume if there is no paused migration");
                }
                self.soon(number, Move::Reconnect, 50, 2_000);
            }
            EffectCommand::MigratePause => return self.pause(number),
            EffectCommand::Monitor {
                execute, arguments, ..
            } => return self.run_command(number, execute, arguments),
            EffectCommand::Cont => return self.cont(number),
            EffectCommand::Stop => self.stop(number),
            EffectCommand::Kill => self.kill(number),
        }
        EffectResult::Done
    }

    pub(super) fn listen(&mut self, number: QemuNumber) -> EffectResult {
        let qemu = &mut self.qemus[number];
        if qemu.run != RunState::Inmigrate || qemu.incoming {
            return refused("The incoming migration has already been started");
        }
        qemu.incoming = true;
        qemu.listening = true;
        self.tell(number, QemuEvent::Migration(MigrationStatus::Setup));
        EffectResult::Done
    }

    pub(super) fn migrate(&mut self, number: QemuNumber, uri: &str) -> EffectResult {
        let qemu = &mut self.qemus[number];
        match (&qemu.run, &qemu.status) {
            (RunState::Postmigrate, _) => {
                return refused("Can't migrate the vm that was paused due to previous migration");
            }
            (RunState::Inmigrate, _) => {
                return refused("Guest is waiting for an incoming migration");
            }
            (
                _,
                MigrationStatus::None
                | MigrationStatus::Completed
                | MigrationStatus::Failed
                | MigrationStatus::Cancelled,
            ) => {}
            _ => return refused("There's a migration process in progress"),
        }
        qemu.postcopy = false;
        qemu.stream = Stream {
            sends: true,
            other: parse_uri(uri),
            ..Stream::default()
        };
        self.set_status(number, MigrationStatus::Setup);
        self.soon(number, Move::Connect, 100, 3_000);
        EffectResult::Done
    }

    pub(super) fn go_on(&mut self, number: QemuNumber) -> EffectResult {
        let status = &self.qemus[number].status;
        if *status != MigrationStatus::PreSwitchover {
            return refused(&format!("Migration not in expected state: {status}"));
        }
        if self.qemus[number].postcopy {
            self.go_over(number);
        } else {
            self.set_status(number, MigrationStatus::Device);
            self.soon(number, Move::Send, 50, 2_000);
        }
        EffectResult::Done
    }

    /// Post-copy: this end gives its stream up.
    fn pause(&mut self, number: QemuNumber) -> EffectResult {
        let stream = self.qemus[number].stream;
        match self.qemus[number].status {
            MigrationStatus::PostcopyActive if stream.sends && !stream.splits => {
                self.soon(number, Move::Break, 20, 2_000);
                EffectResult::Done
            }
            MigrationStatus::PostcopyActive | MigrationStatus::PostcopyRecover => {
                self.set_status(number, MigrationStatus::PostcopyPaused);
                self.break_stream(number);
                EffectResult::Done
            }
            _ => refused("migrate-pause is currently only supported during postcopy-active state"),
        }
    }

    /// Always answers success; only `query-migrate` tells.
    pub(super) fn cancel(&mut self, number: QemuNumber) {
        match self.qemus[number].status {
            MigrationStatus::Setup
            | MigrationStatus::Active
            | MigrationStatus::PreSwitchover
            | MigrationStatus::Device => {
                self.set_status(number, MigrationStatus::Cancelling);
                self.break_stream(number);
                self.soon(number, Move::Cancelled, 50, 3_000);
            }
            MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::PostcopyRecover => {
                self.breaks("P3: migrate_cancel in post-copy: the guest is destroyed");
            }
            _ => {}
        }
    }

    pub(super) fn cont(&mut self, number: QemuNumber) -> EffectResult {
        let refuses = self.qemus[number].refuse_cont;
        match self.qemus[number].run.clone() {
            RunState::Inmigrate if self.is_locked_out(number) => return refused(LOCKED),
            // Nothing to be seen: it starts by itself when everything is loaded.
            RunState::Inmigrate => self.qemus[number].autostart = true,
            RunState::FinishMigrate => return refused("Migration is not finalized yet"),
            RunState::Running => {}
            _ if refuses || !self.lock(number) => return refused(LOCKED),
            _ => {
                self.boot_from_prelaunch(number);
                self.set_run(number, RunState::Running);
            }
        }
        EffectResult::Done
    }

    pub(super) fn stop(&mut self, number: QemuNumber) {
        match self.qemus[number].run {
            RunState::Inmigrate => self.qemus[number].autostart = false,
            RunState::Running => self.set_run(number, RunState::Paused),
            _ => {}
        }
    }

    // Hands from outside.

    /// Somebody continues it behind the sidecar's back.
    pub fn foreign_cont(&mut self, number: QemuNumber) {
        let qemu = &self.qemus[number];
        let can_run = matches!(qemu.run, RunState::Paused | RunState::Postmigrate);
        let guest = qemu.guest;
        if qemu.alive && can_run && self.guests[guest].lock.is_none_or(|one| one == number) {
            self.guests[guest].touched(self.now);
            drop(self.cont(number));
        }
    }

    /// Somebody saves it to a file behind the sidecar's back, and has it run for that if it stands still.
    pub fn foreign_save(&mut self, number: QemuNumber) {
        self.foreign_cont(number);
        if self.runs(number) {
            self.guests[self.qemus[number].guest].touched(self.now);
            if self.random.coin() {
                self.set_run(number, RunState::Paused);
            }
            drop(self.save(number));
        }
    }

    /// Somebody stops it behind the sidecar's back.
    pub fn foreign_stop(&mut self, number: QemuNumber) {
        if self.runs(number) {
            self.guests[self.qemus[number].guest].touched(self.now);
            self.set_run(number, RunState::Paused);
        }
    }
}
