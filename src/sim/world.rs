//! A whole fleet in one thread: its hosts, QEMUs, network, clocks and manager, and what happens next.
//!
//! Invariant: the seed and the shape say everything; time is a number that jumps from one event to the
//! next, and nothing here reads a clock, waits, or depends on where something lies in memory.
//! Not here: what each part does (`host`, `monitor`, `network`, `qemu`, `fault`), judging (`settle`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use journal_format::number::{BootId, DomainId, HostId, Id128, Lsn};
use journal_format::record::{EffectCommand, EffectResult};

use super::coverage::Coverage;
use super::disk::SimDisk;
use super::fault::{Fault, Planned};
use super::host::Host;
use super::ledger::Fact;
use super::manager::{Heard, Manager, RequestId};
use super::network::{Ask, Network};
use super::qemu::{Lab, Move, Told};
use super::random::Random;
use super::search::Searches;
use super::shape::Shape;
use super::store::Store;
use super::{GuestNumber, HostNumber, Micros, QemuNumber};
use crate::engine::{Answer, Input, Refusal, TICK_INTERVAL_MS};

/// One thing that is going to happen.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// A sidecar's clock ticks.
    Tick(HostNumber, u32),
    /// A sidecar takes what waits for it.
    Turn(HostNumber, u32),
    /// The sync of a turn is over.
    HandOut(HostNumber, u32),
    /// Nothing came for a while.
    Quiet(HostNumber, u32, u64),
    /// A monitor's request reaches QEMU.
    Reach(HostNumber, GuestNumber, u64),
    /// QEMU's answer reaches a monitor.
    Answer(HostNumber, GuestNumber, u64),
    /// A monitor tries to see its QEMU again.
    Retry(HostNumber, GuestNumber, u64),
    /// A monitor reads how far a migration got.
    Progress(HostNumber, GuestNumber, u64),
    /// A command whose sender died is carried out all the same.
    Orphan(QemuNumber, Box<EffectCommand>),
    /// A question arrives.
    Question(u64),
    /// A question arrives once more.
    Again(u64),
    /// An answer arrives.
    Response(u64),
    /// A question had no answer.
    NoAnswer(u64),
    /// A question to all others arrives at one of them.
    Search(u64, HostNumber),
    /// Its answer is back, or none is.
    Searched(u64, HostNumber),
    /// A request is at the store.
    AtStore(u64),
    /// The store's answer is back, or none is.
    FromStore(u64),
    /// A QEMU does something by itself.
    Moves(QemuNumber, Move),
    /// A sidecar is started.
    Start(HostNumber),
    /// A manager's request arrives.
    Request(RequestId),
    /// QEMU's answer to a command on a domain's monitor is at the manager.
    ToClient(RequestId, Box<EffectResult>),
    /// The manager wakes up.
    Wake,
    /// Something fails.
    Fault(usize),
    /// And is over.
    Over(usize),
}

/// So many times longer than usual is the time between two ticks at the end of a run.
const CALM_TICKS: u64 = 5;

/// How long a word is on its way besides the longest that a shape says: the answer, a look at QEMU, and the batch that uses it.
const VOUCHED: Micros = 5_000;

#[derive(Debug)]
struct Due {
    at: Micros,
    number: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.number == other.number
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> core::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A fleet.
#[derive(Debug)]
pub struct World {
    pub(super) shape: Shape,
    pub(super) now: Micros,
    queue: BinaryHeap<Reverse<Due>>,
    /// The ends of waits that are all equally long: due in the order in which they began.
    waits: VecDeque<Due>,
    numbers: u64,
    pub(super) random: Random,
    pub(super) lab: Lab,
    pub(super) hosts: Vec<Host>,
    pub(super) network: Network,
    pub(super) asks: BTreeMap<u64, Ask>,
    pub(super) searches: Searches,
    pub(super) requests: BTreeMap<RequestId, super::manager::Pending>,
    pub(super) manager: Option<Box<dyn Manager>>,
    pub(super) plan: Vec<Planned>,
    /// The first one of the plan that waits for something to begin, and where those end that were planned before
    /// the run.
    waiting: (usize, usize),
    /// Migrations and other jobs that began.
    begun: u64,
    /// Faults whose end is to come, by their number in the plan.
    pub(super) under_way: BTreeMap<usize, Vec<QemuNumber>>,
    pub(super) coverage: Coverage,
    /// What happened, for people, if somebody asked for it.
    pub(super) story: Option<Vec<String>>,
    /// What sidecars answered to whoever judges.
    pub(super) judged: Vec<(HostNumber, Result<Answer, Refusal>)>,
    pub(super) store: Store,
    /// What happens when the next sidecar dies.
    pub(super) next_death: Option<Planned>,
    /// No more faults, and no new migrations.
    pub(super) calm: bool,
    /// Mixes everything that happened, in order.
    digest: u64,
    told: Vec<(QemuNumber, Told)>,
}

impl World {
    /// A fleet at its beginning. `plan` says what fails and when.
    #[must_use]
    pub fn new(seed: u64, shape: &Shape, plan: Vec<Planned>, manager: Box<dyn Manager>) -> World {
        let mut random = Random::new(seed);
        let lab = Lab::new(random.fork(1));
        // Small ones: they are read whole when a journal is opened, and everything that befalls a segment
        // befalls them more often.
        let segment_sizes = [128, 256].map(|kib: u64| kib * 1024);
        let hosts = (0..shape.hosts)
            .map(|number| {
                let mut own = random.fork(100 + number as u64);
                let segment = segment_sizes[own.index(segment_sizes.len())];
                let path = format!("host-{number}");
                // Moves nothing else that is drawn.
                let mut aside = own.clone().fork(3);
                let is_introduced = aside.chance(shape.migrations.introduced);
                let mut host = Host::new(
                    HostId(Id128(own.bytes())),
                    BootId(Id128(own.bytes())),
                    SimDisk::new(&format!("{path}/journal"), own.fork(1)),
                    SimDisk::new(&format!("{path}/run"), own.fork(2)),
                    segment,
                    own,
                );
                host.is_introduced = is_introduced;
                host
            })
            .collect();
        let mut world = World {
            shape: shape.clone(),
            now: 0,
            queue: BinaryHeap::new(),
            waits: VecDeque::new(),
            numbers: 0,
            lab,
            hosts,
            network: Network::new(shape.hosts),
            waiting: (0, plan.len()),
            begun: 0,
            asks: BTreeMap::new(),
            searches: Searches::default(),
            requests: BTreeMap::new(),
            manager: Some(manager),
            plan,
            under_way: BTreeMap::new(),
            coverage: Coverage::default(),
            story: None,
            judged: Vec::new(),
            store: Store::default(),
            next_death: None,
            calm: false,
            digest: 0,
            told: Vec::new(),
            random,
        };
        for number in 0..world.hosts.len() {
            world.at(0, What::Start(number));
        }
        for number in 0..shape.domains {
            let guest = world.lab.add_guest(&format!("guest-{number}"));
            let host = number % shape.hosts;
            let boot = world.hosts[host].boot;
            world.lab.start(host, boot, guest, false);
        }
        world.let_wait();
        world.at(1_000, What::Wake);
        world
    }

    /// A migration or another job begins, and with it the time of the faults that waited for it.
    pub(super) fn begins(&mut self) {
        self.begun += 1;
        self.let_wait();
    }

    fn let_wait(&mut self) {
        let (mut next, all) = self.waiting;
        while next < all && self.plan[next].begun <= self.begun && !self.calm {
            self.after(self.plan[next].at, What::Fault(next));
            next += 1;
        }
        self.waiting = (next, all);
    }

    /// Keeps the story of what happens.
    pub fn tell_story(&mut self) {
        self.story = Some(Vec::new());
    }

    pub(super) fn say(&mut self, what: impl FnOnce(&World) -> String) {
        if self.story.is_some() {
            let line = format!("{:>12.6} {}", seconds(self.now), what(self));
            if let Some(story) = &mut self.story {
                story.push(line);
            }
        }
    }

    pub(super) fn at(&mut self, at: Micros, what: What) {
        self.numbers += 1;
        self.queue.push(Reverse(Due {
            at: at.max(self.now),
            number: self.numbers,
            what,
        }));
    }

    /// The end of a wait that is as long as every other one that is put here.
    pub(super) fn at_end_of_wait(&mut self, wait: Micros, what: What) {
        self.numbers += 1;
        self.waits.push_back(Due {
            at: self.now + wait,
            number: self.numbers,
            what,
        });
    }

    /// What happens next, if that is before `end`.
    fn next_due(&mut self, end: Micros) -> Option<Due> {
        let first = self.queue.peek().map(|Reverse(due)| (due.at, due.number));
        let wait = self.waits.front().map(|due| (due.at, due.number));
        let (at, is_wait) = match (first, wait) {
            (Some(first), Some(wait)) if wait < first => (wait.0, true),
            (Some(first), _) => (first.0, false),
            (None, Some(wait)) => (wait.0, true),
            (None, None) => return None,
        };
        match (at <= end, is_wait) {
            (false, _) => None,
            (true, true) => self.waits.pop_front(),
            (true, false) => self.queue.pop().map(|Reverse(due)| due),
        }
    }

    /// Ticks are late where nothing is begun any more: what is waited for there is a matter of seconds.
    fn tick_interval(&self) -> Micros {
        let often = match self.calm {
            true => CALM_TICKS,
            false => 1,
        };
        often * TICK_INTERVAL_MS * 1_000
    }

    /// A number that was never given before.
    pub(super) fn numbers_next(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn after(&mut self, delay: Micros, what: What) {
        self.at(self.now + delay, what);
    }

    /// A delay out of a range of the shape.
    pub(super) fn draw(&mut self, range: [u64; 2]) -> Micros {
        self.random.between(range[0], range[1].max(range[0]))
    }

    pub(super) fn guest_of(&self, domain: DomainId) -> Option<GuestNumber> {
        let guests = self.lab.guests.iter();
        guests
            .enumerate()
            .find_map(|(number, guest)| (guest.domain == domain).then_some(number))
    }

    /// Depends on everything that happened, and on every byte of the journals.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let disks = self.hosts.iter().map(|host| host.disk.digest());
        disks.fold(self.digest, mix)
    }

    /// The time in microseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.now
    }

    /// What is broken, if anything is.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.lab.broken.as_deref()
    }

    /// What happened, if it was kept.
    #[must_use]
    pub fn story(&self) -> &[String] {
        self.story.as_deref().unwrap_or_default()
    }

    /// What was reached.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let mut all = self.coverage.clone();
        for host in &self.hosts {
            all.add(&host.ledger.borrow().coverage);
            all.batches += host.disk.batches();
        }
        all
    }

    /// The files of each host's journal, as they are.
    #[must_use]
    pub fn journals(&self) -> Vec<Vec<(String, Vec<u8>)>> {
        self.hosts.iter().map(|host| host.disk.files()).collect()
    }

    /// Lets everything happen up to that time, or until something is broken.
    pub fn run_until(&mut self, end: Micros) {
        while self.lab.broken.is_none() {
            let Some(due) = self.next_due(end) else {
                break;
            };
            self.now = due.at;
            self.lab.now = due.at;
            self.digest = mix(self.digest, due.at ^ due.number.rotate_left(40));
            self.happen(due.what);
            self.settle_moment();
        }
        if self.lab.broken.is_none() {
            self.now = end;
            self.lab.now = end;
        }
    }

    /// Brings what QEMUs said and what became durable to where it belongs.
    pub(super) fn settle_moment(&mut self) {
        loop {
            while let Some((at, number, one)) = self.lab.due.pop() {
                self.at(at, What::Moves(number, one));
            }
            let mut told = core::mem::take(&mut self.told);
            self.lab.take_told(&mut told);
            let is_quiet = told.is_empty();
            for (number, one) in told.drain(..) {
                self.hear_qemu(number, one);
            }
            self.told = told;
            if is_quiet {
                break;
            }
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Tick(host, life) => {
                if self.hosts[host].lives(life) {
                    self.feed(host, Input::Tick);
                    self.after(self.tick_interval(), What::Tick(host, life));
                }
            }
            What::Turn(host, life) => {
                if self.hosts[host].lives(life) {
                    self.turn(host);
                }
            }
            What::HandOut(host, life) => {
                if self.hosts[host].lives(life) {
                    self.hand_out(host);
                }
            }
            What::Quiet(host, life, turns) => {
                if self.hosts[host].lives(life) {
                    self.seal(host, turns);
                }
            }
            What::Reach(host, guest, generation) => self.reach(host, guest, generation),
            What::Answer(host, guest, generation) => self.answered(host, guest, generation),
            What::Retry(host, guest, generation) => self.retry(host, guest, generation),
            What::Progress(host, guest, generation) => self.progress(host, guest, generation),
            What::Orphan(number, command) => {
                self.say(|_| format!("process {number} carries out an orphan: {}", command.name()));
                drop(self.lab.execute(number, &command));
            }
            What::Question(number) => self.question(number),
            What::Again(number) => self.question_again(number),
            What::Response(number) => self.response(number),
            What::NoAnswer(number) => self.no_answer(number),
            What::Search(search, host) => self.searched_for(search, host),
            What::Searched(search, host) => self.searched(search, host),
            What::AtStore(number) => self.at_store(number),
            What::FromStore(number) => self.store_answers(number),
            What::Moves(number, one) => {
                self.say(|_| format!("process {number}: {one:?}"));
                self.lab.make_move(number, one);
            }
            What::Start(host) => self.start_sidecar(host),
            What::Request(id) => self.request_arrives(id),
            What::ToClient(id, result) => self.client_answered(id, *result),
            What::Wake => self.tell_manager(Heard::Woken),
            // None of those planned before the run, when nothing is to fail any more.
            What::Fault(number) if self.calm && number < self.waiting.1 => {}
            What::Fault(number) => self.fail(number),
            What::Over(number) => self.is_over(number),
        }
    }

    /// Durable facts that say whose end was decided.
    pub(super) fn take_facts(&mut self, host: HostNumber) {
        let facts = {
            let mut ledger = self.hosts[host].ledger.borrow_mut();
            if let Some(what) = ledger.broken.take() {
                self.lab.breaks(&format!("host {host}: {what}"));
            }
            if ledger.facts.is_empty() {
                return;
            }
            core::mem::take(&mut ledger.facts)
        };
        for (_, domain, fact) in facts {
            if let Some(guest) = self.guest_of(domain) {
                self.judge_fact(host, guest, fact);
            }
        }
    }

    /// The same of a batch that may be durable or not, since its write failed: whoever opens the journal goes by
    /// what is there. That a guest runs from here on is true only then, and is judged then.
    pub(super) fn take_failed_facts(&mut self, host: HostNumber) {
        let is_start = |(_, _, fact): &(Lsn, DomainId, Fact)| {
            matches!(fact, Fact::Started(_) | Fact::StartedUnsent)
        };
        let later: Vec<_> = {
            let mut ledger = self.hosts[host].ledger.borrow_mut();
            ledger.facts.extract_if(.., |one| is_start(one)).collect()
        };
        self.take_facts(host);
        self.hosts[host].ledger.borrow_mut().facts = later;
    }

    /// The end of a copy is decided once and for all: at that moment another one must be good.
    fn judge_fact(&mut self, host: HostNumber, guest: GuestNumber, fact: Fact) {
        let here: Vec<QemuNumber> = self
            .lab
            .living(guest)
            .filter(|number| self.lab.qemus[*number].host == host)
            .collect();
        let elsewhere: Vec<QemuNumber> = self
            .lab
            .living(guest)
            .filter(|number| self.lab.qemus[*number].host != host)
            .collect();
        match fact {
            Fact::SourceEnds => {
                if elsewhere.iter().any(|number| self.lab.carries(*number)) {
                    for number in here {
                        self.lab.qemus[number].forsaken = true;
                    }
                }
            }
            // Recorded on either side: it is the destination's copy, which is the one that is no guest.
            Fact::DestinationEnds => {
                for number in here.iter().chain(&elsewhere) {
                    let others = || here.iter().chain(&elsewhere).filter(|one| *one != number);
                    let waits = !self.lab.qemus[*number].is_sender();
                    let is_good = |other: &QemuNumber| self.lab.stands_alone(*other);
                    if waits && (others().any(is_good) || self.was_vouched_for(guest)) {
                        self.lab.qemus[*number].forsaken = true;
                    }
                }
            }
            Fact::Started(_) => self.judge_started(guest, &here, &elsewhere),
            // The source's copy is the guest as before, unless this journal lacks that it was not.
            Fact::StartedUnsent if !self.lab.guests[guest].is_suspect() => {}
            Fact::StartedUnsent => self.judge_started(guest, &here, &elsewhere),
            Fact::ManagersWord => {
                for number in here {
                    self.lab.qemus[number].forsaken = true;
                }
            }
            // Whoever else decides, a licence is for this very migration and on its terms.
            Fact::Committed(migration) if self.network.lacks_licence(host, migration) => {
                let name = &self.lab.guests[guest].name;
                let why = format!("P2: host {host} takes {name} on a licence that is none");
                self.lab.breaks(&why);
            }
            Fact::Committed(_) => {}
        }
    }

    /// Did a copy of it die between its sidecar's word that it is one to fall back to and the use of that?
    fn was_vouched_for(&self, guest: GuestNumber) -> bool {
        let slow = &self.shape.latencies;
        let longest = slow.network[1] + slow.qmp[1] + slow.sync[1];
        let since = self.now.saturating_sub(VOUCHED + longest);
        let mut of_guest = self.lab.guests[guest].qemus.iter();
        of_guest.any(|one| self.lab.qemus[*one].vouched.is_some_and(|at| at >= since))
    }

    /// By the word of a manager that drives the migration itself.
    pub(super) fn was_taken(&mut self, host: HostNumber, guest: GuestNumber) {
        let here: Vec<QemuNumber> = self
            .lab
            .living(guest)
            .filter(|number| self.lab.qemus[*number].host == host)
            .collect();
        if here.iter().any(|number| self.lab.carries(*number)) {
            self.judge_started(guest, &here, &[]);
        }
    }

    fn judge_started(&mut self, guest: GuestNumber, here: &[QemuNumber], elsewhere: &[QemuNumber]) {
        use journal_format::record::WantedRunState;
        let Some(number) = here.iter().copied().find(|one| self.lab.carries(*one)) else {
            // A `cont` that may have been sent before this QEMU died counts as one that ran.
            for number in elsewhere {
                self.lab.qemus[*number].presumed = true;
            }
            return;
        };
        let is_paused = self.lab.guests[guest].wanted != Some(WantedRunState::Running);
        let executes = self.lab.guests[guest].executes.is_some();
        let is_loaded = self.lab.qemus[number].memory.is_some();
        if is_paused && !executes && is_loaded {
            let newest = self.lab.guests[guest].moves_paused();
            self.lab.qemus[number].memory = Some(newest);
        }
    }

    /// Calls the manager.
    pub(super) fn tell_manager(&mut self, heard: Heard<'_>) {
        if let Some(mut manager) = self.manager.take() {
            manager.hear(heard, &mut super::manager::Desk::new(self));
            self.manager = Some(manager);
        }
    }

    /// The fault of that number.
    pub(super) fn planned(&self, number: usize) -> Fault {
        self.plan[number].fault
    }
}

pub(super) fn mix(all: u64, one: u64) -> u64 {
    (all ^ one)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "for people; a run lasts some minutes"
)]
fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}
