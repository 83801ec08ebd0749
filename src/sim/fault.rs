//! What fails, when, and what it does.
//!
//! Invariant: the plan of a run is made before it begins, so that a fault can be taken out of it and
//! the rest stays as it was; each fault that is not a moment ends by itself.
//! Not here: what it leads to.

use super::disk::{BatchFault, Survival};
use super::host::Copied;
use super::manager::Heard;
use super::network::Mishap;
use super::random::{MILLION, Random};
use super::shape::{Rates, Shape};
use super::world::{What, World};
use super::{GuestNumber, HostNumber, Micros, QemuNumber};
use journal_format::record::{ClaimSeen, MigrationStatus, WantedRunState};

/// A fault and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// How many migrations and other jobs must have begun.
    pub begun: u64,
    /// When it begins, in microseconds after that.
    pub at: Micros,
    /// How long it lasts, if it is no moment, in microseconds.
    pub lasts: Micros,
    /// Which of the possible victims, drawn beforehand.
    pub pick: u64,
    /// What.
    pub fault: Fault,
}

impl Planned {
    /// A fault at that time of a run, which lasts that share, of 255, between the shortest and the longest that it may.
    #[must_use]
    pub fn new(fault: Fault, at: Micros, share: u8, pick: u64) -> Planned {
        let [shortest, longest] = fault.lasts();
        Planned {
            begun: 0,
            at,
            lasts: shortest + (longest - shortest) * Micros::from(share) / 255,
            pick,
            fault,
        }
    }
}

/// Something that fails. The host, QEMU or link is `pick`ed when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A sidecar dies before one of its next batches.
    CrashBefore,
    /// In one: some of its sectors are there.
    CrashTorn,
    /// After one, before anything leaves.
    CrashAfter,
    /// Any time.
    Crash,
    /// A host loses power.
    Power,
    /// A QEMU dies.
    QemuDeath,
    /// A QEMU falls silent.
    QemuMute,
    /// The connection to a QEMU breaks.
    Disconnect,
    /// The reply to the next effect of a sidecar is lost.
    LostReply,
    /// A QEMU refuses `cont`.
    RefusedCont,
    /// A migration's stream breaks.
    Stream,
    /// Two hosts cannot reach each other.
    Partition,
    /// One host cannot reach another.
    OneWay,
    /// The next message is lost.
    MessageLost,
    /// The next message arrives twice.
    MessageRepeated,
    /// The next message is late.
    MessageLate,
    /// A batch's write fails.
    WriteFails,
    /// A batch's write is short.
    ShortWrite,
    /// A batch's sync fails.
    SyncFails,
    /// The disk is full.
    FullDisk,
    /// A bit of a journal flips, and its sidecar is restarted.
    BitRot,
    /// A batch's write goes elsewhere.
    Misdirected,
    /// A batch's write goes nowhere.
    LostWrite,
    /// Syncs lie, then the power fails.
    LyingSync,
    /// A journal is lost.
    LostJournal,
    /// A journal is put back from an older copy.
    OlderJournal,
    /// A clock jumps.
    Clock,
    /// Somebody continues a guest behind the sidecars' backs.
    ForeignCont,
    /// Somebody stops one.
    ForeignStop,
    /// Another sidecar claims a QEMU.
    ForeignClaim,
    /// Another process serves a QEMU's socket.
    ReplacedQemu,
    /// The store is down.
    StoreDown,
    /// The store's answer to the next change is lost.
    StoreAnswerLost,
    /// The next licence names another authority when it arrives.
    OtherAuthority,
    /// A sidecar is restarted with another store, and later with its own.
    OtherStore,
    /// The manager dies.
    ManagerCrash,
    /// Somebody saves a guest to a file behind the sidecars' backs.
    ForeignSave,
    /// The next key that is to be made is there already, and another journal's.
    ForeignKey,
    /// The store is put back from an older copy.
    OlderStore,
    /// A QEMU's next stream breaks behind the last of the guest: the destination has it all, and the source does not hear so.
    StreamEnd,
    /// A journal is put back from an older copy, and its witness is gone too: only what QEMUs show is newer.
    OlderUnseen,
}

impl Fault {
    /// Those that a shape has to ask for: two that no promise holds against, or not all, and one that is only a rare moment of another.
    pub const ASKED_FOR: [Fault; 3] = [Fault::OlderStore, Fault::StreamEnd, Fault::OlderUnseen];

    /// Every other fault, in the order of their names here.
    pub const ALL: [Fault; 38] = [
        Fault::CrashBefore,
        Fault::CrashTorn,
        Fault::CrashAfter,
        Fault::Crash,
        Fault::Power,
        Fault::QemuDeath,
        Fault::QemuMute,
        Fault::Disconnect,
        Fault::LostReply,
        Fault::RefusedCont,
        Fault::Stream,
        Fault::Partition,
        Fault::OneWay,
        Fault::MessageLost,
        Fault::MessageRepeated,
        Fault::MessageLate,
        Fault::WriteFails,
        Fault::ShortWrite,
        Fault::SyncFails,
        Fault::FullDisk,
        Fault::BitRot,
        Fault::Misdirected,
        Fault::LostWrite,
        Fault::LyingSync,
        Fault::LostJournal,
        Fault::OlderJournal,
        Fault::Clock,
        Fault::ForeignCont,
        Fault::ForeignStop,
        Fault::ForeignClaim,
        Fault::ReplacedQemu,
        Fault::StoreDown,
        Fault::StoreAnswerLost,
        Fault::OtherAuthority,
        Fault::OtherStore,
        Fault::ManagerCrash,
        Fault::ForeignSave,
        Fault::ForeignKey,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Fault::CrashBefore => "crash-before-batch",
            Fault::CrashTorn => "crash-in-batch",
            Fault::CrashAfter => "crash-after-batch",
            Fault::Crash => "crash",
            Fault::Power => "power",
            Fault::QemuDeath => "qemu-death",
            Fault::QemuMute => "qemu-mute",
            Fault::Disconnect => "disconnect",
            Fault::LostReply => "lost-reply",
            Fault::RefusedCont => "refused-cont",
            Fault::Stream => "stream",
            Fault::Partition => "partition",
            Fault::OneWay => "one-way-partition",
            Fault::MessageLost => "message-lost",
            Fault::MessageRepeated => "message-repeated",
            Fault::MessageLate => "message-late",
            Fault::WriteFails => "write-fails",
            Fault::ShortWrite => "short-write",
            Fault::SyncFails => "sync-fails",
            Fault::FullDisk => "full-disk",
            Fault::BitRot => "bit-rot",
            Fault::Misdirected => "misdirected-write",
            Fault::LostWrite => "lost-write",
            Fault::LyingSync => "lying-sync",
            Fault::LostJournal => "lost-journal",
            Fault::OlderJournal => "older-journal",
            Fault::Clock => "clock",
            Fault::ForeignCont => "foreign-cont",
            Fault::ForeignStop => "foreign-stop",
            Fault::ForeignClaim => "foreign-claim",
            Fault::ReplacedQemu => "replaced-qemu",
            Fault::StoreDown => "store-down",
            Fault::StoreAnswerLost => "store-answer-lost",
            Fault::OtherAuthority => "other-authority",
            Fault::OtherStore => "other-store",
            Fault::ManagerCrash => "manager-crash",
            Fault::ForeignSave => "foreign-save",
            Fault::ForeignKey => "foreign-key",
            Fault::OlderStore => "older-store",
            Fault::StreamEnd => "stream-end",
            Fault::OlderUnseen => "older-unseen",
        }
    }

    /// The share of its rate in the shape that this one has.
    fn rate(self, rates: &Rates) -> u32 {
        match self {
            Fault::CrashBefore | Fault::CrashTorn | Fault::CrashAfter | Fault::Crash => {
                rates.sidecar_crash / 4
            }
            Fault::Power => rates.power,
            Fault::QemuDeath => rates.qemu_death,
            Fault::QemuMute => rates.qemu_mute,
            Fault::Disconnect => rates.disconnect,
            Fault::LostReply => rates.lost_reply,
            Fault::RefusedCont => rates.refused_cont,
            Fault::Stream => rates.stream,
            Fault::Partition | Fault::OneWay => rates.partition / 2,
            Fault::MessageLost | Fault::MessageRepeated | Fault::MessageLate => rates.message / 3,
            Fault::WriteFails | Fault::ShortWrite | Fault::SyncFails => rates.write_error / 3,
            Fault::FullDisk => rates.full_disk,
            Fault::BitRot => rates.bit_rot,
            Fault::Misdirected | Fault::LostWrite => rates.lost_write / 2,
            Fault::LyingSync => rates.lying_sync,
            Fault::LostJournal => rates.lost_journal,
            Fault::OlderJournal => rates.older_journal,
            Fault::Clock => rates.clock,
            Fault::ForeignCont | Fault::ForeignStop => rates.foreign / 2,
            Fault::ForeignClaim => rates.foreign_claim,
            Fault::ReplacedQemu => rates.replaced_qemu,
            Fault::StoreDown | Fault::StoreAnswerLost => rates.store / 2,
            Fault::OtherAuthority | Fault::OtherStore => rates.other_authority / 2,
            Fault::ManagerCrash => rates.manager_crash,
            Fault::ForeignSave => rates.foreign_save,
            Fault::ForeignKey => rates.foreign_key,
            Fault::OlderStore => rates.older_store,
            Fault::StreamEnd => rates.stream_end,
            Fault::OlderUnseen => rates.older_unseen,
        }
    }

    /// How long it lasts, in microseconds.
    pub(super) const fn lasts(self) -> [Micros; 2] {
        match self {
            Fault::Power => [1_000_000, 8_000_000],
            Fault::QemuMute => [100_000, 15_000_000],
            Fault::RefusedCont => [10_000, 3_000_000],
            Fault::Partition | Fault::OneWay => [10_000, 20_000_000],
            Fault::FullDisk => [100_000, 10_000_000],
            Fault::StoreDown => [10_000, 10_000_000],
            Fault::LyingSync => [1_000, 500_000],
            Fault::OlderJournal | Fault::OlderStore | Fault::OlderUnseen => [1_000, 3_000_000],
            Fault::ReplacedQemu | Fault::OtherStore => [100_000, 5_000_000],
            _ => [0, 0],
        }
    }
}

/// How long a migration takes that nothing happens to, about, in microseconds.
const MIGRATION: Micros = 300_000;
/// The same where many are quick: no guest goes through more of them than that lets it.
const MIGRATION_LEAST: Micros = 50_000;

/// What a run of that seed meets. Most runs know only some kinds of faults, so that rare ones are
/// also met without the others. Faults follow what is begun, so that their rates are what they are said to be
/// however often a fleet stands still.
#[must_use]
pub fn plan(seed: u64, shape: &Shape) -> Vec<Planned> {
    let mut random = Random::new(seed).fork(2);
    let [least, most] = shape.latencies.rest;
    let each = (least + most) / 2 + MIGRATION_LEAST;
    let begun_max = shape.domains as u64 * shape.minutes * 60_000_000 / each;
    // Until the next one of the same guest, about.
    let while_it_moves = most.saturating_add(MIGRATION);
    let mut plan = Vec::new();
    for fault in Fault::ALL.into_iter().chain(Fault::ASKED_FOR) {
        // Drawn always, so that a kind's rate does not move the others.
        let (is_known, mut own) = (random.coin(), random.fork(3));
        // Twice as often in half of the runs.
        let rate = 2 * u64::from(fault.rate(&shape.faults));
        if !is_known || rate == 0 {
            continue;
        }
        // Evenly from one to twice the mean less one.
        let mean = (u64::from(MILLION) / rate).max(1);
        let gap = |own: &mut Random| own.between(1, 2 * mean - 1);
        let mut begun = own.below(2 * mean);
        while begun <= begun_max {
            let [shortest, longest] = fault.lasts();
            plan.push(Planned {
                begun,
                at: own.below(while_it_moves),
                lasts: own.between(shortest, longest),
                pick: own.number(),
                fault,
            });
            begun += gap(&mut own);
        }
    }
    plan.sort_by_key(|planned| (planned.begun, planned.at));
    plan
}

impl World {
    /// Something fails.
    pub(super) fn fail(&mut self, number: usize) {
        let Planned {
            lasts, pick, fault, ..
        } = self.plan[number];
        let hosts = self.hosts.len() as u64;
        let host = usize::try_from(pick % hosts).unwrap_or(0);
        let rest = pick / hosts;
        let victims = match fault {
            Fault::Partition | Fault::OneWay => self.cut_links(fault, host, rest),
            _ => Vec::new(),
        };
        self.say(|_| format!("FAULT {number}: {} at host {host}", fault.name()));
        let happened = self.happens(fault, host, rest, number, victims);
        if !happened {
            return;
        }
        self.coverage.fault(fault.name());
        if lasts > 0 {
            self.after(lasts, What::Over(number));
        }
    }

    fn cut_links(&mut self, fault: Fault, from: HostNumber, rest: u64) -> Vec<QemuNumber> {
        let others = self.hosts.len().saturating_sub(1).max(1) as u64;
        let step = usize::try_from(rest % others).unwrap_or(0);
        let to = (from + 1 + step) % self.hosts.len();
        if from == to {
            return Vec::new();
        }
        self.network.cut(from, to);
        if fault == Fault::Partition {
            self.network.cut(to, from);
        }
        vec![from, to]
    }

    #[allow(
        clippy::too_many_lines,
        reason = "one line for each fault, and nothing but them"
    )]
    fn happens(
        &mut self,
        fault: Fault,
        host: HostNumber,
        rest: u64,
        number: usize,
        victims: Vec<usize>,
    ) -> bool {
        let after = u32::try_from(rest % 12).unwrap_or(0);
        let batch = |world: &mut World, fault| {
            if world.hosts[host].sidecar.is_none() || world.hosts[host].disk.is_planned() {
                return false;
            }
            world.hosts[host].disk.plan(after, fault);
            true
        };
        match fault {
            Fault::CrashBefore => return batch(self, BatchFault::CrashBefore),
            Fault::CrashTorn => return batch(self, BatchFault::CrashTorn),
            Fault::CrashAfter => return batch(self, BatchFault::CrashAfter),
            Fault::WriteFails => return batch(self, BatchFault::WriteFails),
            Fault::ShortWrite => return batch(self, BatchFault::ShortWrite),
            Fault::SyncFails => return batch(self, BatchFault::SyncFails),
            Fault::Misdirected | Fault::LostWrite => {
                self.suspect(host);
                self.hosts[host].may_lack_records = true;
                return batch(
                    self,
                    match fault {
                        Fault::Misdirected => BatchFault::Misdirected,
                        _ => BatchFault::Lost,
                    },
                );
            }
            Fault::Crash => self.kill_sidecar(host),
            Fault::Power => {
                if self.hosts[host].is_off {
                    return false;
                }
                self.mark_deaths(host);
                self.lose_power(host);
            }
            Fault::QemuDeath => {
                let Some(victim) = self.victim(rest) else {
                    return false;
                };
                self.lab.guests[self.lab.qemus[victim].guest].has_died = true;
                self.lab.end(victim);
            }
            Fault::QemuMute => {
                let Some(victim) = self.victim(rest) else {
                    return false;
                };
                self.lab.qemus[victim].mute = true;
                self.lab.guests[self.lab.qemus[victim].guest].told_otherwise = true;
                self.under_way.insert(number, vec![victim]);
            }
            Fault::Disconnect => {
                let Some(victim) = self.victim(rest) else {
                    return false;
                };
                let (at, guest) = (self.lab.qemus[victim].host, self.lab.qemus[victim].guest);
                self.disconnect(at, guest);
            }
            Fault::LostReply => self.hosts[host].lose_reply = true,
            Fault::RefusedCont => {
                let Some(victim) = self.victim(rest) else {
                    return false;
                };
                self.lab.qemus[victim].refuse_cont = true;
                self.under_way.insert(number, vec![victim]);
            }
            Fault::Stream => {
                let Some(victim) = self.victim(rest) else {
                    return false;
                };
                self.lab.cut_stream(victim);
            }
            Fault::StreamEnd => {
                let Some(victim) = self.victim(rest) else {
                    return false;
                };
                self.lab.cut_next_stream_at_its_end(victim);
            }
            Fault::Partition | Fault::OneWay => {
                if victims.is_empty() {
                    return false;
                }
                self.under_way.insert(number, victims);
            }
            Fault::MessageLost => self.network.mishap = Some(Mishap::Lost),
            Fault::MessageRepeated => self.network.mishap = Some(Mishap::Repeated),
            Fault::MessageLate => self.network.mishap = Some(Mishap::Late),
            Fault::FullDisk => {
                self.hosts[host].disk.limit(Some((rest % 3) * 100_000));
                self.under_way.insert(number, vec![host]);
            }
            Fault::BitRot => {
                self.suspect(host);
                self.kill_sidecar(host);
                let host = &mut self.hosts[host];
                // The last batch may pass for a torn one, and there is no witness any more: nobody has opened the
                // journal since the power failed.
                host.tail_lost |= !host.has_witness;
                return host.disk.rot();
            }
            Fault::LyingSync => {
                if self.hosts[host].is_off {
                    return false;
                }
                self.hosts[host].disk.set_lying(true);
                self.under_way.insert(number, vec![host]);
            }
            Fault::LostJournal => {
                self.suspect(host);
                self.kill_sidecar(host);
                self.lose_journal(host);
            }
            Fault::OlderJournal | Fault::OlderUnseen => {
                if self.hosts[host].sidecar.is_none() || self.hosts[host].backup.is_some() {
                    return false;
                }
                let guests = self.lab.guests.iter().enumerate();
                let open = guests.filter(|(_, one)| one.open.contains_key(&host));
                let open = open.map(|(number, one)| (number, one.wanted)).collect();
                let backup = self.hosts[host].disk.backup();
                let claims = self.claims_at(host);
                self.hosts[host].backup = Some(Copied {
                    backup,
                    open,
                    claims,
                });
                self.under_way.insert(number, vec![host]);
            }
            Fault::Clock => {
                self.hosts[host].clock.jump(self.now, rest);
            }
            Fault::ForeignCont | Fault::ForeignStop | Fault::ForeignSave => {
                let Some(victim) = self.victim(rest) else {
                    return false;
                };
                match fault {
                    Fault::ForeignCont => self.lab.foreign_cont(victim),
                    Fault::ForeignStop => self.lab.foreign_stop(victim),
                    _ => self.lab.foreign_save(victim),
                }
            }
            Fault::ForeignKey => self.store.has_foreign_key = true,
            Fault::OlderStore => {
                if !self.store.copy() {
                    return false;
                }
                self.under_way.insert(number, Vec::new());
            }
            Fault::ForeignClaim => {
                let Some(victim) = self.victim(rest) else {
                    return false;
                };
                let qemu = &mut self.lab.qemus[victim];
                if qemu.claim != ClaimSeen::Absent {
                    return false;
                }
                qemu.claim = ClaimSeen::Foreign("another program's".to_owned());
                let (at, guest) = (self.lab.qemus[victim].host, self.lab.qemus[victim].guest);
                self.lab.guests[guest].suspects.insert(at);
            }
            Fault::ReplacedQemu => {
                let Some(victim) = self.victim(rest) else {
                    return false;
                };
                let (at, guest) = (self.lab.qemus[victim].host, self.lab.qemus[victim].guest);
                if self.lab.guests[guest].decoy.is_some() {
                    return false;
                }
                let decoy = self.lab.start_decoy(at, self.hosts[at].boot, guest);
                self.lab.guests[guest].decoy = Some((at, decoy));
                self.disconnect(at, guest);
                self.under_way.insert(number, vec![victim]);
            }
            Fault::StoreDown => {
                self.store.is_down = true;
                self.under_way.insert(number, Vec::new());
            }
            Fault::StoreAnswerLost => self.store.lose_answer = true,
            Fault::OtherAuthority => self.network.other_authority = true,
            Fault::OtherStore => {
                if self.hosts[host].has_other_store || self.hosts[host].is_off {
                    return false;
                }
                self.hosts[host].has_other_store = true;
                self.kill_sidecar(host);
                self.under_way.insert(number, vec![host]);
            }
            Fault::ManagerCrash => self.tell_manager(Heard::Restarted),
        }
        true
    }

    /// A QEMU that something happens to: mostly one that migrates.
    fn victim(&mut self, pick: u64) -> Option<QemuNumber> {
        let qemus = || (0..self.lab.qemus.len()).filter(|one| self.lab.qemus[*one].alive);
        let migrates = |one: &QemuNumber| {
            let guest = self.lab.qemus[*one].guest;
            self.lab.living(guest).count() > 1
                && self.lab.qemus[*one].status != MigrationStatus::Failed
        };
        let moving: Vec<QemuNumber> = qemus().filter(migrates).collect();
        let all: Vec<QemuNumber> = qemus().collect();
        let from = match moving.is_empty() || pick.is_multiple_of(8) {
            true => all,
            false => moving,
        };
        let index = usize::try_from((pick / 8) % from.len().max(1) as u64).unwrap_or(0);
        from.get(index).copied()
    }

    fn kill_sidecar(&mut self, host: HostNumber) {
        if self.hosts[host].sidecar.is_some() {
            self.crash(host, Survival::Everything);
            self.restart_later(host);
        }
    }

    /// What is open at this host may end in a hold.
    pub(super) fn suspect(&mut self, host: HostNumber) {
        for guest in &mut self.lab.guests {
            let mut of_guest = guest.qemus.iter();
            if of_guest.any(|one| self.lab.qemus[*one].host == host) {
                guest.suspects.insert(host);
                // What an open job set up there may be on record no more.
                guest.told_otherwise |= guest.open.contains_key(&host);
            }
        }
    }

    fn mark_deaths(&mut self, host: HostNumber) {
        for number in 0..self.lab.qemus.len() {
            let qemu = &self.lab.qemus[number];
            if qemu.host == host && qemu.alive {
                self.lab.guests[qemu.guest].has_died = true;
            }
        }
    }

    /// A fault is over.
    pub(super) fn is_over(&mut self, number: usize) {
        let fault = self.planned(number);
        let pick = self.plan[number].pick;
        let host = usize::try_from(pick % self.hosts.len() as u64).unwrap_or(0);
        let victims = self.under_way.remove(&number).unwrap_or_default();
        match (fault, victims.as_slice()) {
            (Fault::Power, _) => {
                self.hosts[host].is_off = false;
                self.after(50_000, What::Start(host));
            }
            (Fault::StoreDown, _) => self.store.is_down = false,
            (Fault::OlderStore, _) => self.put_store_back(),
            (Fault::QemuMute, [victim]) => self.wake_qemu(*victim),
            (Fault::RefusedCont, [victim]) => self.lab.qemus[*victim].refuse_cont = false,
            (Fault::Partition, [from, to]) => {
                self.network.mend(*from, *to);
                self.network.mend(*to, *from);
            }
            (Fault::OneWay, [from, to]) => self.network.mend(*from, *to),
            (Fault::OtherStore, [host]) => {
                self.hosts[*host].has_other_store = false;
                self.kill_sidecar(*host);
            }
            (Fault::FullDisk, [host]) => self.hosts[*host].disk.limit(None),
            (Fault::LyingSync, [host]) => {
                if !self.hosts[*host].is_off {
                    self.suspect(*host);
                    self.betray(*host);
                    self.mark_deaths(*host);
                    self.lose_power(*host);
                    self.hosts[*host].is_off = false;
                    self.after(1_000_000, What::Start(*host));
                }
                self.hosts[*host].disk.set_lying(false);
            }
            (Fault::OlderJournal | Fault::OlderUnseen, [host]) => {
                let copied = self.hosts[*host].backup.take();
                if let Some(Copied {
                    backup,
                    open,
                    claims,
                }) = copied
                {
                    self.suspect(*host);
                    match fault {
                        Fault::OlderUnseen => self.betray_unless_claimed(*host, &open, &claims),
                        // Together with a reboot nothing here says that it is older.
                        _ if !self.hosts[*host].has_witness => self.betray(*host),
                        _ => {}
                    }
                    for (guest, wanted) in open {
                        let guest = &mut self.lab.guests[guest];
                        guest.suspects.insert(*host);
                        // It is carried out again, whatever was asked for since.
                        guest.wanted = guest.wanted.filter(|now| Some(*now) == wanted);
                    }
                    self.kill_sidecar(*host);
                    let host = &mut self.hosts[*host];
                    host.journals += 1;
                    host.is_put_back = true;
                    host.disk.restore(&backup);
                    if fault == Fault::OlderUnseen {
                        host.run.erase();
                    }
                    host.ledger.borrow_mut().is_replaced = true;
                }
            }
            (Fault::ReplacedQemu, [victim]) => {
                let guest = self.lab.qemus[*victim].guest;
                if let Some((_, decoy)) = self.lab.guests[guest].decoy.take() {
                    self.lab.qemus[decoy].alive = false;
                }
            }
            _ => {}
        }
    }

    /// A disk that lies until the power fails (in its syncs, or of the very last batch) takes what no journal can know of, and so
    /// does an older copy that is put back together with a reboot: guests with a copy or a journal there are not judged by what follows.
    pub(super) fn betray(&mut self, host: HostNumber) {
        for guest in &mut self.lab.guests {
            let mut of_guest = guest.qemus.iter();
            guest.betrayed |= of_guest.any(|one| self.lab.qemus[*one].host == host);
        }
    }

    /// What the QEMUs of a host that live say who has them.
    fn claims_at(&self, host: HostNumber) -> Vec<(QemuNumber, ClaimSeen)> {
        let qemus = self.lab.qemus.iter().enumerate();
        let here = qemus.filter(|(_, one)| one.host == host && one.alive);
        here.map(|(number, one)| (number, one.claim.clone()))
            .collect()
    }

    /// An older copy is put back without a witness: what it does not know is only seen where a job is open in it whose QEMU is there
    /// still and was claimed anew since. All other guests with a copy or a journal there are not judged by what follows.
    fn betray_unless_claimed(
        &mut self,
        host: HostNumber,
        open: &[(GuestNumber, Option<WantedRunState>)],
        before: &[(QemuNumber, ClaimSeen)],
    ) {
        let shows = |(number, claim): &&(QemuNumber, ClaimSeen)| {
            let now = &self.lab.qemus[*number];
            let is_ours = matches!(now.claim, ClaimSeen::Present(_));
            let is_open = open.iter().any(|(guest, _)| *guest == now.guest);
            now.alive && is_ours && is_open && now.claim != *claim
        };
        let seen: Vec<GuestNumber> = before
            .iter()
            .filter(shows)
            .map(|(number, _)| self.lab.qemus[*number].guest)
            .collect();
        let was: Vec<bool> = seen
            .iter()
            .map(|guest| self.lab.guests[*guest].betrayed)
            .collect();
        self.betray(host);
        for (guest, was_betrayed) in seen.into_iter().zip(was) {
            self.lab.guests[guest].betrayed = was_betrayed;
        }
    }
}
