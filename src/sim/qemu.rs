//! Fake QEMUs, as faithful to real ones as a migration needs, and the guests in them.
//!
//! A script drives one with [`Lab::execute`], [`Lab::query`] and [`Lab::take_told`]; what a QEMU does
//! by itself is a [`Move`], which the script lets happen with [`Lab::make_move`] when it is due.
//!
//! Invariant: what a guest does is judged by its own counter, never by what a sidecar believes; a move
//! that is not possible any more does nothing.
//! Not here: who sends commands and when (`monitor`), what is judged (`guest`).

mod commands;
mod moves;
mod settings;
mod work;

use journal_format::number::{BootId, DomainId};
use journal_format::record::{ClaimSeen, Instance, MigrationStatus, Observed, Process, RunState};

use super::guest::Guest;
use super::random::Random;
use super::{GuestNumber, HostNumber, Micros, QemuNumber};
use crate::engine::QemuEvent;

/// QEMU's downtime limit where none was set, in milliseconds.
const DOWNTIME_LIMIT_MS: u64 = 300;

/// How many of them, in a million, hang where QEMU 7.2 can.
const HANGS: u32 = 300_000;

/// Processes that ended and still are named by their guest.
const ENDED_KEPT: usize = 3;

/// What a QEMU does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The source reaches the destination, or does not.
    Connect,
    /// A pass over memory is over.
    Pass,
    /// Little is left to send: the source stops the guest.
    Converge,
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
    /// The source ends a cancelled migration.
    Cancelled,
    /// The last page of a split guest went over.
    AllOver,
    /// The source of a split guest hears so, and says completed.
    AllSaid,
    /// A source goes on with a stream that broke in post-copy.
    Reconnect,
    /// Either side finds the stream broken.
    Break,
    /// A guest's image is read, first its beginning, then the rest.
    ReadImage,
    /// A dump is written.
    DumpEnds,
    /// QEMU's own jobs come to their end.
    JobsGetOn,
}

/// What a QEMU tells by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An event.
    Event(QemuEvent),
    /// The process is gone.
    Ended,
}

/// One end of a migration stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stream {
    /// This end sends.
    sends: bool,
    /// The other end.
    other: Option<QemuNumber>,
    /// Passes over memory that are over.
    passes: u32,
    /// Everything was written, as the guest then was.
    sent: Option<u64>,
    /// The destination loaded everything and said so.
    loaded: bool,
    /// Post-copy: the guest's devices went over, and it is on both sides.
    splits: bool,
    /// Nothing more comes through.
    broken: bool,
    /// It breaks when the destination has loaded everything.
    breaks_at_its_end: bool,
    /// What the other end says does not come back, though what this one sends arrives.
    unheard: bool,
    /// It goes to a file.
    to_file: bool,
}

/// A QEMU process.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a separate thing that a QEMU is"
)]
pub struct Qemu {
    /// The host it runs on.
    pub host: HostNumber,
    /// The guest it holds, or waits for.
    pub guest: GuestNumber,
    /// The process.
    pub instance: Instance,
    /// It has not ended.
    pub alive: bool,
    /// It does not answer.
    pub mute: bool,
    /// `query-status`.
    pub run: RunState,
    /// `query-migrate`.
    pub status: MigrationStatus,
    /// The claim in it.
    pub claim: ClaimSeen,
    /// The guest's counter, as of its last stop; none before anything was loaded.
    pub memory: Option<u64>,
    /// Since when the guest executes here.
    since: Option<Micros>,
    /// The guest runs at once when everything was loaded.
    autostart: bool,
    /// The next stream that it sends breaks when the other end has loaded everything.
    next_stream_breaks_at_its_end: bool,
    /// It was told where to listen, once.
    incoming: bool,
    listening: bool,
    late_activate: bool,
    /// Post-copy was allowed before the migration.
    may_split: bool,
    return_path: bool,
    was_running: bool,
    postcopy: bool,
    downtime_limit: u64,
    stream: Stream,
    work: work::Work,
    /// Every `cont` is refused while this is set.
    pub refuse_cont: bool,
    /// A destination whose stream breaks stays, and says failed (QEMU 9.1, `exit-on-error`).
    pub survives: bool,
    /// A source that stands still in post-copy for ever when the destination's QEMU dies at a bad moment (seen on
    /// QEMU 7.2). It says that the guest is split before it sends anything of it.
    pub hangs: bool,
    /// Its end was decided while another copy was good.
    pub forsaken: bool,
    /// The guest counts as started elsewhere, though it may not have been.
    pub presumed: bool,
    /// When its sidecar last said that this is a copy to fall back to, and that was so.
    pub(super) vouched: Option<Micros>,
    /// When it ended as a copy with all that there is of the guest.
    pub(super) left: Option<Micros>,
}

impl Qemu {
    /// It is, or was last, the source of a migration.
    #[must_use]
    pub fn is_sender(&self) -> bool {
        self.stream.sends
    }
}

/// All QEMUs and guests of a world.
#[derive(Debug)]
pub struct Lab {
    /// Every process that ever was.
    pub qemus: Vec<Qemu>,
    /// Every guest.
    pub guests: Vec<Guest>,
    /// The time.
    pub now: Micros,
    /// What QEMUs said, to be taken.
    told: Vec<(QemuNumber, Told)>,
    /// Moves, and when they are due.
    pub(super) due: Vec<(Micros, QemuNumber, Move)>,
    /// The promise that was broken first, and how.
    pub broken: Option<String>,
    random: Random,
}

impl Lab {
    /// An empty one.
    #[must_use]
    pub fn new(random: Random) -> Lab {
        Lab {
            qemus: Vec::new(),
            guests: Vec::new(),
            now: 0,
            told: Vec::new(),
            due: Vec::new(),
            broken: None,
            random,
        }
    }

    /// A new guest; its identity is drawn.
    pub fn add_guest(&mut self, name: &str) -> GuestNumber {
        let domain = DomainId(journal_format::number::Id128(self.random.bytes()));
        self.guests.push(Guest::new(name, domain, &mut self.random));
        self.guests.len() - 1
    }

    /// A new process: one that waits for a migration (`-S -incoming defer`), or one whose guest boots.
    pub fn start(
        &mut self,
        host: HostNumber,
        boot: BootId,
        guest: GuestNumber,
        incoming: bool,
    ) -> QemuNumber {
        let number = self.qemus.len();
        let pid = 100 + u32::try_from(number).unwrap_or(u32::MAX - 100);
        let instance = Instance {
            boot,
            pid,
            start_time: self.now / 10_000,
        };
        // Started by managers of all sorts: with and without -S.
        let autostart = self.random.coin();
        let survives = self.random.chance(200_000);
        self.qemus.push(Qemu {
            host,
            guest,
            instance,
            alive: true,
            mute: false,
            run: RunState::Inmigrate,
            status: MigrationStatus::None,
            claim: ClaimSeen::Absent,
            memory: None,
            since: None,
            autostart,
            next_stream_breaks_at_its_end: false,
            incoming: false,
            listening: false,
            late_activate: false,
            may_split: false,
            return_path: false,
            was_running: false,
            postcopy: false,
            downtime_limit: DOWNTIME_LIMIT_MS,
            stream: Stream::default(),
            work: work::Work::default(),
            refuse_cont: false,
            survives,
            hangs: Random::new(self.now ^ number as u64).chance(HANGS),
            forsaken: false,
            presumed: false,
            vouched: None,
            left: None,
        });
        let qemus = &self.qemus;
        let known = &mut self.guests[guest].qemus;
        // What ended long ago is looked at by nobody.
        let recent = known.len().saturating_sub(ENDED_KEPT);
        let mut index = 0;
        known.retain(|one| {
            index += 1;
            qemus[*one].alive || index > recent
        });
        known.push(number);
        self.guests[guest].been.insert(host);
        if !incoming {
            let booted = self.guests[guest].boot();
            self.qemus[number].memory = Some(booted);
            self.guests[guest].lock = Some(number);
            self.set_run(number, RunState::Running);
        }
        number
    }

    /// Another process on a QEMU's socket; it has nothing to do with the guest.
    pub(super) fn start_decoy(
        &mut self,
        host: HostNumber,
        boot: BootId,
        guest: GuestNumber,
    ) -> QemuNumber {
        let number = self.start(host, boot, guest, true);
        self.guests[guest].qemus.pop();
        number
    }

    // Looking.

    /// What one look shows.
    #[must_use]
    pub fn query(&self, number: QemuNumber) -> Observed {
        let qemu = &self.qemus[number];
        let silent = |process| Observed {
            process,
            instance: None,
            run_state: None,
            migration: None,
            claim: ClaimSeen::Unread,
        };
        match (qemu.alive, qemu.mute) {
            (false, _) => silent(Process::Dead),
            (true, true) => silent(Process::Mute),
            (true, false) => Observed {
                process: Process::Alive,
                instance: Some(qemu.instance),
                run_state: Some(qemu.run.clone()),
                migration: Some(qemu.status.clone()),
                claim: qemu.claim.clone(),
            },
        }
    }

    /// What QEMU expects of the downtime after a pass, in milliseconds.
    #[must_use]
    pub fn converging(&self, number: QemuNumber) -> Option<u64> {
        let qemu = &self.qemus[number];
        let is_there = qemu.alive && !qemu.mute && qemu.status == MigrationStatus::Active;
        (is_there && qemu.stream.passes > 0).then(|| self.guests[qemu.guest].needs_ms)
    }

    /// The move that is due next among the ones that may happen, with the time put forward to it.
    pub fn take_next_move(&mut self, may: impl Fn(Move) -> bool) -> Option<(QemuNumber, Move)> {
        let places = self.due.iter().enumerate();
        let possible = places.filter(|(_, (_, _, one))| may(*one));
        let (place, _) = possible.min_by_key(|(_, (at, ..))| *at)?;
        let (at, number, one) = self.due.remove(place);
        self.now = self.now.max(at);
        Some((number, one))
    }

    /// What was said since the last time, oldest first.
    pub fn take_told(&mut self, into: &mut Vec<(QemuNumber, Told)>) {
        into.append(&mut self.told);
    }

    /// The guest executes here.
    #[must_use]
    pub fn runs(&self, number: QemuNumber) -> bool {
        self.qemus[number].alive && self.qemus[number].run == RunState::Running
    }

    /// A copy with all that there is of the guest: in memory, or sent and still to be loaded.
    #[must_use]
    pub fn carries(&self, number: QemuNumber) -> bool {
        let qemu = &self.qemus[number];
        let newest = self.guests[qemu.guest].newest;
        let loads = qemu.run == RunState::Inmigrate && self.sent_to(number) == Some(newest);
        qemu.alive && (qemu.memory == Some(newest) || qemu.since.is_some() || loads)
    }

    /// Likewise, also without any other process: QEMU lets nobody continue a source that stands in post-copy, whatever
    /// its memory holds.
    #[must_use]
    pub fn stands_alone(&self, number: QemuNumber) -> bool {
        self.carries(number) && !self.stands_in_postcopy(number)
    }

    /// Is it a source that does not know yet that all of the guest went over in post-copy?
    fn stands_in_postcopy(&self, number: QemuNumber) -> bool {
        let qemu = &self.qemus[number];
        let is_there = matches!(
            qemu.status,
            MigrationStatus::PostcopyActive
                | MigrationStatus::PostcopyPaused
                | MigrationStatus::PostcopyRecover
        );
        qemu.alive && qemu.is_sender() && is_there
    }

    /// Does its end leave a source behind that stands in post-copy for good? Also when all of the guest had gone over: that
    /// source did not hear so in time.
    fn leaves_half(&self, number: QemuNumber) -> bool {
        let other = self.qemus[number].stream.other;
        let is_of = |source: &QemuNumber| self.qemus[*source].stream.other == Some(number);
        other.is_some_and(|source| is_of(&source) && self.stands_in_postcopy(source))
    }

    /// What was sent to a destination and is still to be loaded.
    fn sent_to(&self, number: QemuNumber) -> Option<u64> {
        let qemu = &self.qemus[number];
        let source = &self.qemus[qemu.stream.other?].stream;
        let is_ours = source.other == Some(number) && qemu.status == MigrationStatus::Active;
        source.sent.filter(|_| is_ours && !qemu.stream.sends)
    }

    /// The processes that are or were of a guest and have not ended.
    pub fn living(&self, guest: GuestNumber) -> impl Iterator<Item = QemuNumber> {
        let of_guest = self.guests[guest].qemus.iter().copied();
        of_guest.filter(|number| self.qemus[*number].alive)
    }

    // Telling.

    fn tell(&mut self, number: QemuNumber, event: QemuEvent) {
        self.told.push((number, Told::Event(event)));
    }

    fn set_status(&mut self, number: QemuNumber, status: MigrationStatus) {
        self.qemus[number].status = status.clone();
        self.tell(number, QemuEvent::Migration(status));
    }

    fn set_run(&mut self, number: QemuNumber, run: RunState) {
        let was = self.runs(number);
        self.qemus[number].run = run;
        match (was, self.runs(number)) {
            (true, false) => {
                self.stop_executing(number);
                self.tell(number, QemuEvent::Stop);
            }
            (false, true) => {
                self.start_executing(number);
                self.tell(number, QemuEvent::Resume);
            }
            (true, true) | (false, false) => {}
        }
    }

    fn start_executing(&mut self, number: QemuNumber) {
        let (guest, memory) = (self.qemus[number].guest, self.qemus[number].memory);
        let qemu = &mut self.qemus[number];
        qemu.since = Some(self.now);
        // Whatever was decided about this copy before came to nothing.
        (qemu.forsaken, qemu.presumed) = (false, false);
        let judged = self.guests[guest].starts(number, memory);
        if let Err(why) = judged {
            self.breaks(&why);
        }
    }

    fn stop_executing(&mut self, number: QemuNumber) {
        let qemu = &mut self.qemus[number];
        let Some(since) = qemu.since.take() else {
            return;
        };
        // It counts at least once whenever it runs.
        let counted = 1 + (self.now - since);
        let memory = qemu.memory.unwrap_or(0) + counted;
        qemu.memory = Some(memory);
        self.guests[qemu.guest].stops(number, memory);
    }

    /// Notes the first promise that is broken.
    pub fn breaks(&mut self, what: &str) {
        self.broken.get_or_insert_with(|| what.to_owned());
    }

    fn soon(&mut self, number: QemuNumber, one: Move, least: Micros, most: Micros) {
        let at = self.now + self.random.between(least, most);
        self.due.push((at, number, one));
    }
}

/// Where a QEMU of this number listens.
#[must_use]
pub fn uri(number: QemuNumber) -> String {
    format!("tcp:sim:{number}")
}

fn parse_uri(uri: &str) -> Option<QemuNumber> {
    uri.strip_prefix("tcp:sim:")?.parse().ok()
}
