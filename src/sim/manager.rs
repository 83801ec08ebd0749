//! The seam for a manager: what it hears, and what it can do in a simulated fleet.
//!
//! Invariant: a manager knows only what a real one can know: answers, notices, and the processes on
//! its hosts; it never sees a journal.
//! Not here: the manager that comes with the simulator (`fleet`).

use core::fmt;

use journal_format::number::{Id128, MigrationId};
use journal_format::record::{
    Authority, EffectCommand, EffectResult, Observed, Protocol, WantedRunState,
};

use super::host::{Waiter, peer_name};
use super::qemu::uri;
use super::random::Random;
use super::world::{What, World};
use super::{GuestNumber, HostNumber, QemuNumber};
use crate::engine::{
    Answer, ControlRequest, Input, JobSeen, MigrateOptions, MonitorCommand, Notice, Refusal,
};

/// How long a licence may be out before the source tries to win aborted, in milliseconds.
const IN_DOUBT_LIMIT_MS: u64 = 3_000;

/// Names a request, so that its answer can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something that a manager hears.
#[derive(Debug)]
pub enum Heard<'a> {
    /// It asked to be woken, or is woken for the first time.
    Woken,
    /// A request came to an end. Without a result there was no answer: it may have been carried out.
    Answered {
        /// The request.
        request: RequestId,
        /// The sidecar's word.
        result: Option<&'a Result<Answer, Refusal>>,
    },
    /// A sidecar told everyone.
    Noticed {
        /// Which.
        host: HostNumber,
        /// What.
        notice: &'a Notice,
    },
    /// It was restarted, and knows nothing any more.
    Restarted,
    /// Nothing new shall be begun; what is under way goes to its end.
    Calm,
}

/// A manager of a fleet: starts QEMUs, registers domains, asks for migrations.
///
/// It gets a [`Desk`] with everything that it hears. Whatever it does, the sidecars keep their promises
/// (except that one that starts or ends QEMUs with a guest in them is the one who does so).
///
/// ```
/// use phase_journal::sim::{self, Desk, Heard, Manager, Shape};
///
/// /// Moves one guest to and fro, and never looks back.
/// #[derive(Debug, Default)]
/// struct ToAndFro {
///     at: usize,
/// }
///
/// impl Manager for ToAndFro {
///     fn hear(&mut self, heard: Heard<'_>, desk: &mut Desk<'_>) {
///         if !matches!(heard, Heard::Woken) {
///             return;
///         }
///         let guest = 0;
///         if desk.now_ms() < 10 {
///             desk.add_domain(self.at, guest);
///         } else if desk.process(self.at, guest).is_some() {
///             let to = 1 - self.at;
///             if desk.start_incoming(to, guest) {
///                 desk.add_domain(to, guest);
///             } else {
///                 desk.migrate(self.at, to, guest, sim::How::default());
///             }
///         } else {
///             self.at = 1 - self.at;
///         }
///         desk.wake_in(500);
///     }
/// }
///
/// let shape = Shape { hosts: 2, domains: 1, minutes: 1, ..Shape::default() };
/// let outcome = sim::run_with(7, &shape, || Box::new(ToAndFro::default()));
/// assert_eq!(outcome.broken, None);
/// assert!(outcome.coverage.migrations > 10);
/// ```
pub trait Manager: fmt::Debug {
    /// Hears something, and does something about it.
    fn hear(&mut self, heard: Heard<'_>, desk: &mut Desk<'_>);
}

/// How a guest is to be migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// The protocol.
    pub protocol: Protocol,
    /// Who decides; v2 has only the source.
    pub authority: Authority,
    /// By post-copy.
    pub postcopy: bool,
    /// Longest downtime, in milliseconds.
    pub downtime_limit: Option<u64>,
}

impl Default for How {
    fn default() -> How {
        How {
            protocol: Protocol::V3,
            authority: Authority::Destination,
            postcopy: false,
            downtime_limit: None,
        }
    }
}

/// What a manager can do. Hosts and guests are numbered from 0.
#[derive(Debug)]
pub struct Desk<'a> {
    world: &'a mut World,
}

/// A request whose answer is to come.
#[derive(Debug)]
pub(super) struct Pending {
    host: HostNumber,
    request: Asked,
    /// What the owner wanted before it.
    before: Option<WantedRunState>,
}

#[derive(Debug)]
enum Asked {
    Control(Box<ControlRequest>),
    Add(GuestNumber),
    Command(GuestNumber, Box<MonitorCommand>),
}

impl<'a> Desk<'a> {
    pub(super) fn new(world: &'a mut World) -> Desk<'a> {
        Desk { world }
    }

    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.world.now / 1_000
    }

    /// Numbers for whatever the manager leaves to chance.
    pub fn random(&mut self) -> &mut Random {
        &mut self.world.random
    }

    /// How many hosts there are.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.world.hosts.len()
    }

    /// How many guests there are.
    #[must_use]
    pub fn guests(&self) -> usize {
        self.world.lab.guests.len()
    }

    /// A guest's name; its domains have it on every host.
    #[must_use]
    pub fn name(&self, guest: GuestNumber) -> &str {
        &self.world.lab.guests[guest].name
    }

    /// The guest of that name.
    #[must_use]
    pub fn guest_named(&self, name: &str) -> Option<GuestNumber> {
        let guests = self.world.lab.guests.iter();
        guests
            .enumerate()
            .find_map(|(number, guest)| (guest.name == name).then_some(number))
    }

    /// A guest's QEMU on a host, as the host's supervisor of processes sees it: none when it is gone.
    #[must_use]
    pub fn process(&self, host: HostNumber, guest: GuestNumber) -> Option<Observed> {
        let number = self.newest_process(host, guest)?;
        Some(self.world.lab.query(number))
    }

    /// Which journal a host's sidecar has, as `query-journal` names it: another one after it was lost or an older copy
    /// was put back. The number of a job is nothing in another journal than its own.
    #[must_use]
    pub fn journal(&self, host: HostNumber) -> u64 {
        self.world.hosts[host].journals
    }

    /// Has a host power?
    #[must_use]
    pub fn is_up(&self, host: HostNumber) -> bool {
        !self.world.hosts[host].is_off
    }

    fn newest_process(&self, host: HostNumber, guest: GuestNumber) -> Option<QemuNumber> {
        let living = self.world.lab.living(guest);
        living
            .filter(|number| self.world.lab.qemus[*number].host == host)
            .last()
    }

    /// Starts a QEMU that waits for a guest (`-incoming defer`); false if the guest has one there.
    pub fn start_incoming(&mut self, host: HostNumber, guest: GuestNumber) -> bool {
        self.start(host, guest, true)
    }

    /// Boots a guest anew; false if it has a QEMU there. Whoever does so while a copy of it is left
    /// makes a second one.
    pub fn boot(&mut self, host: HostNumber, guest: GuestNumber) -> bool {
        self.start(host, guest, false)
    }

    /// Starts a QEMU whose guest boots at its first `cont` (`-S`); false if the guest has one there.
    pub fn start_prelaunch(&mut self, host: HostNumber, guest: GuestNumber) -> bool {
        if self.newest_process(host, guest).is_some() || !self.is_up(host) {
            return false;
        }
        let boot = self.world.hosts[host].boot;
        let number = self.world.lab.start_prelaunch(host, boot, guest);
        self.world.say(|_| {
            format!("manager: guest {guest} is to boot on host {host} in process {number}")
        });
        true
    }

    /// What jobs have begun in a guest's QEMU, or left there, as a monitor of it shows; `None` when it is gone.
    #[must_use]
    pub fn work(&self, host: HostNumber, guest: GuestNumber) -> Option<JobSeen> {
        let number = self.newest_process(host, guest)?;
        Some(self.world.lab.qemus[number].work())
    }

    /// Is a guest saved, and has not run since?
    #[must_use]
    pub fn is_saved(&self, guest: GuestNumber) -> bool {
        self.world.lab.guests[guest].is_in_image()
    }

    /// The owner of a guest wants it gone, by a job of that kind, or does not any more.
    pub fn owner_destroys(&mut self, guest: GuestNumber, wants: bool) {
        self.world.lab.guests[guest].doomed = wants;
    }

    /// The owner of a guest wants something else of it, in a job of its own; `None` while it is not known whether
    /// that was done.
    pub fn owner_wants(&mut self, guest: GuestNumber, wanted: Option<WantedRunState>) {
        self.world.lab.guests[guest].wanted = wanted;
    }

    fn start(&mut self, host: HostNumber, guest: GuestNumber, incoming: bool) -> bool {
        if self.newest_process(host, guest).is_some() || !self.is_up(host) {
            return false;
        }
        let boot = self.world.hosts[host].boot;
        let number = self.world.lab.start(host, boot, guest, incoming);
        let how = if incoming { "waits" } else { "boots" };
        self.world
            .say(|_| format!("manager: guest {guest} {how} on host {host} in process {number}"));
        true
    }

    /// Ends a QEMU that only waits for a guest; false if there is none, or it has the guest.
    pub fn quit_incoming(&mut self, host: HostNumber, guest: GuestNumber) -> bool {
        use journal_format::record::{MigrationStatus, RunState};
        let Some(number) = self.newest_process(host, guest) else {
            return false;
        };
        let qemu = &self.world.lab.qemus[number];
        let waits = matches!(qemu.run, RunState::Inmigrate | RunState::Prelaunch)
            && qemu.status == MigrationStatus::None;
        if waits {
            self.world.lab.end(number);
            self.world.settle_moment();
        }
        waits
    }

    /// Ends whatever a host has of a guest, as a human does who gives it up.
    pub fn destroy(&mut self, host: HostNumber, guest: GuestNumber) {
        while let Some(number) = self.newest_process(host, guest) {
            // To a journal that still has a job of it this is a crash.
            self.world.lab.guests[guest].has_died = true;
            self.world.lab.end(number);
        }
        self.world.settle_moment();
    }

    /// Authority manager: continues a guest's QEMU past its sidecar, if the guest waits there with all that
    /// was sent, and its owner wants it to run.
    pub fn cont_by_hand(&mut self, host: HostNumber, guest: GuestNumber) -> bool {
        let wants = self.world.lab.guests[guest].wanted == Some(WantedRunState::Running);
        let Some(number) = self.newest_process(host, guest).filter(|_| wants) else {
            return false;
        };
        let waits = self.has_sent_or_loaded(number);
        if waits {
            drop(self.world.lab.execute(number, &EffectCommand::Cont));
            self.world.settle_moment();
        }
        waits
    }

    /// Authority manager: ends a guest's QEMU past its sidecar, if everything was sent from there or to it.
    pub fn quit_by_hand(&mut self, host: HostNumber, guest: GuestNumber) -> bool {
        let Some(number) = self.newest_process(host, guest) else {
            return false;
        };
        let waits = self.has_sent_or_loaded(number);
        if waits {
            self.world.lab.guests[guest].has_died = true;
            self.world.lab.end(number);
            self.world.settle_moment();
        }
        waits
    }

    fn has_sent_or_loaded(&self, number: QemuNumber) -> bool {
        use journal_format::record::{MigrationStatus, RunState};
        let qemu = &self.world.lab.qemus[number];
        let stands = matches!(qemu.run, RunState::Paused | RunState::Postmigrate);
        stands && !qemu.mute && qemu.status == MigrationStatus::Completed
    }

    /// Asks a sidecar. The answer comes as [`Heard::Answered`], or none does.
    pub fn ask(&mut self, host: HostNumber, request: ControlRequest) -> RequestId {
        let mut before = None;
        if let ControlRequest::DomainSetWanted { name, .. } = &request
            && let Some(guest) = self.guest_named(name)
        {
            // Until it is answered nobody can say which of the two holds.
            before = self.world.lab.guests[guest].wanted.take();
        }
        self.send(host, Asked::Control(Box::new(request)), before)
    }

    /// Sends a command on a guest's monitor that its sidecar offers in QEMU's place. What QEMU answers comes as
    /// [`Heard::Answered`]: [`Answer::Done`], or the refusal; and so does what the sidecar refuses.
    pub fn command(
        &mut self,
        host: HostNumber,
        guest: GuestNumber,
        execute: &str,
        arguments: &serde_json::Value,
    ) -> RequestId {
        let command = MonitorCommand::plain(execute, arguments.to_string());
        self.send(host, Asked::Command(guest, Box::new(command)), None)
    }

    /// Where a guest's QEMU on that host listens for it.
    #[must_use]
    pub fn uri(&self, host: HostNumber, guest: GuestNumber) -> Option<String> {
        self.newest_process(host, guest).map(uri)
    }

    /// A manager tells a guest's QEMUs about migrations itself, and does not put back what they were told before.
    pub fn tells(&mut self, guest: GuestNumber) {
        let guest = &mut self.world.lab.guests[guest];
        (guest.told_otherwise, guest.is_driven) = (true, true);
    }

    /// A manager that drives a migration itself gives a copy up, having looked at the other one: if that is as good now,
    /// what comes of it afterwards is nobody's fault.
    pub fn forsake(&mut self, host: HostNumber, guest: GuestNumber) {
        let lab = &mut self.world.lab;
        let (here, elsewhere): (Vec<QemuNumber>, Vec<QemuNumber>) = lab
            .living(guest)
            .partition(|number| lab.qemus[*number].host == host);
        if elsewhere.iter().any(|number| lab.carries(*number)) {
            for number in here {
                lab.qemus[number].forsaken = true;
            }
        }
    }

    /// Registers a guest's QEMU with the sidecar of its host.
    pub fn add_domain(&mut self, host: HostNumber, guest: GuestNumber) -> RequestId {
        self.send(host, Asked::Add(guest), None)
    }

    /// Asks a sidecar to migrate a guest to another host.
    pub fn migrate(
        &mut self,
        host: HostNumber,
        to: HostNumber,
        guest: GuestNumber,
        how: How,
    ) -> RequestId {
        let name = self.name(guest).to_owned();
        let process = self.newest_process(to, guest).unwrap_or(usize::MAX);
        let migration = MigrationId(Id128(self.world.random.bytes()));
        let request = ControlRequest::Migrate {
            peer_domain: name.clone(),
            name,
            migration,
            peer: peer_name(to),
            uri: uri(process),
            protocol: how.protocol,
            authority: how.authority,
            in_doubt_limit: (how.authority == Authority::Store).then_some(IN_DOUBT_LIMIT_MS),
            max_bandwidth: None,
            downtime_limit: how.downtime_limit,
            postcopy: how.postcopy,
            options: MigrateOptions::default(),
            disks: None,
        };
        self.ask(host, request)
    }

    fn send(
        &mut self,
        host: HostNumber,
        request: Asked,
        before: Option<WantedRunState>,
    ) -> RequestId {
        let id = RequestId(self.world.numbers_next());
        let pending = Pending {
            host,
            request,
            before,
        };
        self.world.requests.insert(id, pending);
        let delay = self.world.draw(self.world.shape.latencies.qmp);
        self.world.after(delay, What::Request(id));
        id
    }

    /// Wakes the manager after so many milliseconds.
    pub fn wake_in(&mut self, ms: u64) {
        self.world.after(ms * 1_000, What::Wake);
    }

    /// The shape of the fleet.
    #[must_use]
    pub fn shape(&self) -> &super::Shape {
        &self.world.shape
    }
}

impl World {
    /// A manager's request is at the sidecar, if there is one.
    pub(super) fn request_arrives(&mut self, id: RequestId) {
        let Some(pending) = self.requests.get(&id) else {
            return;
        };
        let host = pending.host;
        let token = self.hosts[host].token(Waiter::Manager(id));
        let Some(token) = token else {
            return self.request_fails(id);
        };
        let input = match &pending.request {
            Asked::Control(request) => Some(Input::Control {
                token,
                request: (**request).clone(),
            }),
            Asked::Add(guest) => self
                .registration(host, *guest)
                .map(|request| Input::Control { token, request }),
            Asked::Command(guest, command) => Some(Input::Monitor {
                token,
                domain: self.lab.guests[*guest].domain,
                uid: 0,
                command: (**command).clone(),
            }),
        };
        match input {
            Some(input) => self.feed(host, input),
            None => self.request_fails(id),
        }
    }

    /// QEMU's answer to a client's command, as its sidecar passes it on.
    pub(super) fn client_answered(&mut self, id: RequestId, result: EffectResult) {
        match result {
            EffectResult::Done => self.request_answered(id, Ok(Answer::Done {})),
            // It says so, and that is all it can say.
            EffectResult::Unknown { .. } => self.request_fails(id),
            EffectResult::Refused { .. } | EffectResult::NotSent { .. } => {
                let (name, result) = (String::new(), format!("{result:?}"));
                self.request_answered(id, Err(Refusal::Effect { name, result }));
            }
        }
    }

    fn registration(&self, host: HostNumber, guest: GuestNumber) -> Option<ControlRequest> {
        let living = self.lab.living(guest);
        let number = living
            .filter(|number| self.lab.qemus[*number].host == host)
            .last()?;
        let one = &self.lab.guests[guest];
        let observed = self.lab.query(number);
        observed.instance?;
        Some(ControlRequest::DomainAdd {
            name: one.name.clone(),
            domain: one.domain,
            qmp: format!("/sim/{host}/{guest}.qmp"),
            instance: self.lab.qemus[number].instance,
            observed,
            definition: Some(format!("<domain><name>{}</name></domain>", one.name)),
        })
    }

    pub(super) fn request_fails(&mut self, id: RequestId) {
        let Some(pending) = self.requests.remove(&id) else {
            return;
        };
        if let Asked::Add(guest) = pending.request {
            // It may be on record all the same.
            self.was_registered(pending.host, guest);
        }
        let heard = Heard::Answered {
            request: id,
            result: None,
        };
        self.tell_manager(heard);
    }

    pub(super) fn request_answered(&mut self, id: RequestId, result: Result<Answer, Refusal>) {
        let Some(pending) = self.requests.remove(&id) else {
            return;
        };
        if let Asked::Control(request) = &pending.request
            && let ControlRequest::DomainSetWanted { name, wanted } = &**request
        {
            self.owner_was_answered(name, *wanted, pending.before, &result);
        }
        if let (Asked::Add(guest), Ok(_)) = (&pending.request, &result) {
            self.was_registered(pending.host, *guest);
        }
        if let Err(refusal) = &result {
            let host = pending.host;
            self.say(|_| format!("host {host}: refuses: {refusal}"));
        }
        let heard = Heard::Answered {
            request: id,
            result: Some(&result),
        };
        self.tell_manager(heard);
    }

    /// What the owner wants is recorded at registration, from what QEMU shows: whoever registers a copy that
    /// stands still, after its journal was lost, says that it is to.
    fn was_registered(&mut self, host: HostNumber, guest: GuestNumber) {
        use journal_format::record::RunState;
        // In one statement: what goes over the living ones borrows them until it is dropped.
        let stands = self.lab.living(guest).any(|number| {
            let qemu = &self.lab.qemus[number];
            qemu.host == host && !matches!(qemu.run, RunState::Running | RunState::Inmigrate)
        });
        let is_older = self.lab.living(guest).any(|number| {
            let qemu = &self.lab.qemus[number];
            qemu.host == host && qemu.memory.is_some() && !self.lab.carries(number)
        });
        let one = &mut self.lab.guests[guest];
        if stands && one.wanted == Some(WantedRunState::Running) {
            one.wanted = None;
        }
        if is_older {
            // Whoever registers what is left says that it is the guest.
            one.touched(self.now);
        }
    }

    fn owner_was_answered(
        &mut self,
        name: &str,
        wanted: WantedRunState,
        before: Option<WantedRunState>,
        result: &Result<Answer, Refusal>,
    ) {
        let guests = self.lab.guests.iter_mut();
        let Some(guest) = guests.into_iter().find(|guest| guest.name == name) else {
            return;
        };
        guest.wanted = match result {
            Ok(_) => Some(wanted),
            // It may have been done, or not.
            Err(Refusal::Effect { .. }) => None,
            Err(_) => before,
        };
    }
}
