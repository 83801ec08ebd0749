//! What a QEMU does by itself: its stream, the switchover, post-copy.
//!
//! Invariant: a move that is not possible any more does nothing.
//! Not here: when a move is due (`world`), what a command does (`commands`).

use journal_format::record::{MigrationStatus, RunState};

use super::super::QemuNumber;
use super::{Lab, Move, Stream};

impl Lab {
    /// Lets a QEMU do something, if it still can.
    pub fn make_move(&mut self, number: QemuNumber, one: Move) {
        if !self.qemus[number].alive {
            return;
        }
        let status = self.qemus[number].status.clone();
        match (one, status) {
            (Move::Connect, MigrationStatus::Setup) => self.connect(number),
            (Move::Pass, MigrationStatus::Active) => {
                self.qemus[number].stream.passes += 1;
                self.converge_if_near(number);
            }
            (Move::Converge, MigrationStatus::Active) => self.converge(number),
            (Move::Send, MigrationStatus::Device) => self.send(number),
            (Move::Send, MigrationStatus::Active) if self.qemus[number].stream.to_file => {
                self.write_image(number);
            }
            (Move::Complete, MigrationStatus::Active) if self.qemus[number].stream.to_file => {
                self.complete(number);
            }
            (Move::ReadImage, _) => self.read_image(number),
            (Move::DumpEnds, _) => self.end_dump(number),
            (Move::JobsGetOn, _) => self.get_jobs_on(number),
            (Move::Load, _) => self.load(number),
            (Move::Loaded, MigrationStatus::Active) => {
                self.set_status(number, MigrationStatus::Completed);
                // What a broken stream carries back does not arrive.
                let stream = self.qemus[number].stream;
                if let Some(source) = stream.other.filter(|_| !stream.broken) {
                    self.qemus[source].stream.loaded = true;
                    self.soon(source, Move::Complete, 20, 500);
                }
            }
            (Move::Complete, MigrationStatus::Device) if self.qemus[number].stream.loaded => {
                self.complete(number);
            }
            (Move::Settle, _) => self.settle(number),
            (Move::Cancelled, MigrationStatus::Cancelling) => {
                // First the guest runs on, then it says so.
                self.run_on(number);
                self.set_status(number, MigrationStatus::Cancelled);
            }
            (Move::AllOver, MigrationStatus::PostcopyActive) => self.all_over(number),
            (Move::AllSaid, MigrationStatus::PostcopyActive) => {
                let Stream {
                    broken, unheard, ..
                } = self.qemus[number].stream;
                match (broken, unheard) {
                    (true, _) => self.find_broken(number),
                    // Its socket gives up, in a while.
                    (false, true) => self.soon(number, Move::Break, 20, 20_000),
                    (false, false) => self.complete(number),
                }
            }
            (Move::Reconnect, MigrationStatus::PostcopyPaused) => self.reconnect(number),
            (Move::Break, _) => self.find_broken(number),
            _ => {}
        }
    }

    fn connect(&mut self, source: QemuNumber) {
        if self.qemus[source].stream.to_file {
            self.set_status(source, MigrationStatus::Active);
            return self.soon(source, Move::Pass, 200, 8_000);
        }
        let reached = self.qemus[source].stream.other.filter(|number| {
            let other = &self.qemus[*number];
            other.alive && !other.mute && other.listening && other.run == RunState::Inmigrate
        });
        let Some(destination) = reached else {
            self.set_status(source, MigrationStatus::Failed);
            return;
        };
        let breaks_at_its_end =
            core::mem::take(&mut self.qemus[source].next_stream_breaks_at_its_end);
        let other = &mut self.qemus[destination];
        other.listening = false;
        other.stream = Stream {
            other: Some(source),
            breaks_at_its_end,
            ..Stream::default()
        };
        self.set_status(source, MigrationStatus::Active);
        self.set_status(destination, MigrationStatus::Active);
        self.soon(source, Move::Pass, 200, 8_000);
    }

    /// QEMU stops a guest as soon as the rest fits into its downtime limit.
    pub(super) fn converge_if_near(&mut self, number: QemuNumber) {
        let qemu = &self.qemus[number];
        let needs = match self.runs(number) {
            true => self.guests[qemu.guest].needs_ms,
            false => 0,
        };
        let is_near = needs <= qemu.downtime_limit || qemu.postcopy;
        if is_near && qemu.stream.passes > 0 && qemu.status == MigrationStatus::Active {
            self.soon(number, Move::Converge, 100, 2_000);
        }
    }

    fn converge(&mut self, number: QemuNumber) {
        if self.qemus[number].stream.broken {
            return self.find_broken(number);
        }
        if self.qemus[number].run == RunState::FinishMigrate {
            return;
        }
        self.qemus[number].was_running = self.runs(number);
        self.set_run(number, RunState::FinishMigrate);
        match self.qemus[number].stream.to_file {
            // No migration of ours: it was not told to pause there.
            true => self.soon(number, Move::Send, 50, 2_000),
            false => self.set_status(number, MigrationStatus::PreSwitchover),
        }
    }

    fn send(&mut self, source: QemuNumber) {
        let stream = self.qemus[source].stream;
        let (Some(destination), false) = (stream.other, stream.broken) else {
            return self.find_broken(source);
        };
        if !self.qemus[destination].alive {
            return self.find_broken(source);
        }
        self.qemus[source].stream.sent = self.qemus[source].memory;
        // The disks go over too: the image is free from here on.
        self.unlock(source);
        self.soon(destination, Move::Load, 50, 1_500);
        if !self.qemus[source].return_path {
            self.qemus[source].stream.loaded = true;
            self.soon(source, Move::Complete, 20, 500);
        }
    }

    fn load(&mut self, number: QemuNumber) {
        let waits = self.qemus[number].run == RunState::Inmigrate;
        let Some(memory) = self.sent_to(number).filter(|_| waits) else {
            return;
        };
        let qemu = &mut self.qemus[number];
        qemu.memory = Some(memory);
        let (autostart, late) = (qemu.autostart, qemu.late_activate);
        let is_active = (!late || autostart) && self.lock(number);
        let run = match autostart && (is_active || !self.guests[self.qemus[number].guest].locks) {
            true => RunState::Running,
            false => RunState::Paused,
        };
        self.set_run(number, run);
        self.soon(number, Move::Loaded, 20, 300);
        if self.qemus[number].stream.breaks_at_its_end {
            self.break_stream(number);
        }
    }

    fn complete(&mut self, source: QemuNumber) {
        self.set_status(source, MigrationStatus::Completed);
        self.soon(source, Move::Settle, 10, 300);
    }

    /// A source's run state at the end: one that failed or was cancelled runs on by itself.
    fn settle(&mut self, number: QemuNumber) {
        let qemu = &self.qemus[number];
        if qemu.run != RunState::FinishMigrate {
            return;
        }
        let over = matches!(
            qemu.status,
            MigrationStatus::Completed | MigrationStatus::Failed | MigrationStatus::Cancelled
        );
        if !over {
            return;
        }
        match qemu.status == MigrationStatus::Completed {
            true => self.set_run(number, RunState::Postmigrate),
            false => self.run_on(number),
        }
    }

    /// A source that sends no more: its guest runs on, if it ran and still can.
    fn run_on(&mut self, number: QemuNumber) {
        let qemu = &self.qemus[number];
        if qemu.run != RunState::FinishMigrate {
            return;
        }
        // QEMU 7.2 forgets in post-copy that the guest ran.
        let resumes = qemu.was_running && !qemu.postcopy && self.lock(number);
        let run = match resumes {
            true => RunState::Running,
            false => RunState::Postmigrate,
        };
        self.set_run(number, run);
    }

    /// The stream is broken for both ends; each finds out when it next uses it.
    pub(super) fn break_stream(&mut self, number: QemuNumber) {
        self.qemus[number].stream.broken = true;
        let other = self.qemus[number].stream.other;
        let is_theirs = |other: &QemuNumber| self.qemus[*other].stream.other == Some(number);
        if let Some(other) = other.filter(is_theirs) {
            self.qemus[other].stream.broken = true;
            let one = &self.qemus[other];
            let is_lost =
                !self.qemus[number].alive && one.status == MigrationStatus::PostcopyActive;
            if !(is_lost && one.hangs && one.is_sender()) {
                self.soon(other, Move::Break, 20, 2_000);
            }
        }
    }

    /// The network between two QEMUs fails.
    pub fn cut_stream(&mut self, number: QemuNumber) {
        let Some(other) = self.qemus[number].stream.other else {
            return;
        };
        // Where a relay falls silent only one end finds out.
        let is_silent = self.qemus[number].status == MigrationStatus::PostcopyActive
            && self.random.chance(300_000);
        if is_silent && self.random.coin() {
            // Or neither, since only the way back is silent: a source pushes all of the guest over by itself, and is
            // not told then that it came.
            let source = if self.qemus[number].stream.sends {
                number
            } else {
                other
            };
            self.qemus[source].stream.unheard = true;
            return;
        }
        if is_silent {
            self.qemus[number].stream.broken = true;
            self.qemus[other].stream.broken = true;
        } else {
            self.break_stream(number);
        }
        self.soon(number, Move::Break, 20, 2_000);
    }

    /// Its next stream fails when the destination has all of the guest and the source has not heard so.
    pub fn cut_next_stream_at_its_end(&mut self, number: QemuNumber) {
        self.qemus[number].next_stream_breaks_at_its_end = true;
    }

    fn find_broken(&mut self, number: QemuNumber) {
        let qemu = &self.qemus[number];
        match (&qemu.run, &qemu.status) {
            // Held before the switchover it does not look at its stream.
            (_, MigrationStatus::PreSwitchover) => {}
            (RunState::Inmigrate, MigrationStatus::Active) if self.sent_to(number).is_some() => {}
            (RunState::Inmigrate, MigrationStatus::Active) if qemu.survives => {
                self.set_status(number, MigrationStatus::Failed);
            }
            (RunState::Inmigrate, MigrationStatus::Active) => {
                self.set_status(number, MigrationStatus::Failed);
                self.end(number);
            }
            // Nothing went over: the guest is whole here.
            (_, MigrationStatus::PostcopyActive) if qemu.stream.sends && !qemu.stream.splits => {
                self.set_status(number, MigrationStatus::Failed);
                self.soon(number, Move::Settle, 10, 300);
            }
            (_, MigrationStatus::PostcopyActive | MigrationStatus::PostcopyRecover) => {
                self.set_status(number, MigrationStatus::PostcopyPaused);
            }
            (_, MigrationStatus::Active | MigrationStatus::Device)
                if qemu.stream.sends && !qemu.stream.loaded =>
            {
                self.set_status(number, MigrationStatus::Failed);
                self.soon(number, Move::Settle, 10, 300);
            }
            _ => {}
        }
    }

    // Post-copy.

    pub(super) fn go_over(&mut self, source: QemuNumber) {
        let stream = self.qemus[source].stream;
        let reached = stream.other.filter(|number| {
            let other = &self.qemus[*number];
            !stream.broken && other.alive && other.run == RunState::Inmigrate
        });
        let Some(destination) = reached else {
            if self.qemus[source].hangs {
                self.set_status(source, MigrationStatus::PostcopyActive);
                return self.soon(source, Move::Break, 20, 20_000);
            }
            self.set_status(source, MigrationStatus::Failed);
            self.soon(source, Move::Settle, 10, 300);
            return;
        };
        self.unlock(source);
        self.qemus[source].stream.splits = true;
        self.set_status(source, MigrationStatus::PostcopyActive);
        let memory = self.qemus[source].memory;
        self.qemus[destination].memory = memory;
        let (guest, late) = (
            self.qemus[destination].guest,
            self.qemus[destination].late_activate,
        );
        self.guests[guest].split = Some((source, destination));
        let autostart = self.qemus[destination].autostart;
        let is_active = (!late || autostart) && self.lock(destination);
        let run = match autostart && (is_active || !self.guests[guest].locks) {
            true => RunState::Running,
            false => RunState::Paused,
        };
        self.set_run(destination, run);
        self.set_status(destination, MigrationStatus::PostcopyActive);
        self.soon(source, Move::AllOver, 1_000, 120_000);
    }

    fn all_over(&mut self, source: QemuNumber) {
        let stream = self.qemus[source].stream;
        let Some(destination) = stream.other.filter(|_| !stream.broken) else {
            return self.find_broken(source);
        };
        let guest = self.qemus[source].guest;
        self.guests[guest].split = None;
        self.set_status(destination, MigrationStatus::Completed);
        self.soon(source, Move::AllSaid, 20, 500);
    }

    fn reconnect(&mut self, source: QemuNumber) {
        let Some(destination) = self.qemus[source].stream.other else {
            return;
        };
        let other = &self.qemus[destination];
        let listens =
            other.alive && other.listening && other.status == MigrationStatus::PostcopyPaused;
        if !listens {
            return;
        }
        self.qemus[destination].listening = false;
        for number in [source, destination] {
            self.qemus[number].stream.broken = false;
            self.qemus[number].stream.unheard = false;
            self.set_status(number, MigrationStatus::PostcopyRecover);
            self.set_status(number, MigrationStatus::PostcopyActive);
        }
        self.soon(source, Move::AllOver, 1_000, 60_000);
    }
}
