//! Between sidecars: questions and answers that are late, lost, repeated or cut off.
//!
//! Invariant: each question ends exactly once for who asked, at the latest after the wait that the
//! engine knows; what was perhaps sent is never called not sent.
//! Not here: what is asked and answered (the engine), when a link fails (`fault`).

use std::collections::{BTreeMap, BTreeSet};

use journal_format::number::{Id128, MigrationId, Nonce};
use journal_format::record::{Authority, PeerAnswer};

use super::host::{Waiter, parse_peer};
use super::world::{What, World};
use super::{GuestNumber, HostNumber, Micros, QemuNumber};
use crate::engine::{Envelope, Input, PEER_WAIT_MS_MAX, PeerFailure, PeerRequest, PeerResponse};

/// A question on its way.
#[derive(Debug)]
pub(super) struct Ask {
    from: HostNumber,
    life: u32,
    to: HostNumber,
    /// The journal it is asked from.
    journal: u64,
    envelope: Envelope,
    request: PeerRequest,
    /// It may have been sent.
    sent: bool,
    /// Who asked was told how it ended, or is gone.
    ended: bool,
    /// How often it is still to arrive.
    coming: u32,
    answer: Option<(Envelope, PeerResponse)>,
}

/// What one message meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    /// It is lost.
    Lost,
    /// It arrives twice.
    Repeated,
    /// It arrives after others.
    Late,
}

/// The links between hosts.
#[derive(Debug)]
pub(super) struct Network {
    /// How many faults cut the way from one host to another.
    cuts: Vec<Vec<u32>>,
    /// What happens to the next message.
    pub(super) mishap: Option<Mishap>,
    /// The next licence names another authority when it arrives.
    pub(super) other_authority: bool,
    /// What was prepared at a host, by the guest's name.
    prepared: BTreeMap<(HostNumber, MigrationId), String>,
    /// Licences that reached it.
    licensed: BTreeSet<(HostNumber, MigrationId)>,
    /// Whose name a migration was prepared in: the host, and which of its journals had sent the newest of those messages.
    origins: BTreeMap<MigrationId, (HostNumber, u64)>,
    asks: u64,
}

impl Network {
    pub(super) fn new(hosts: usize) -> Network {
        Network {
            cuts: vec![vec![0; hosts]; hosts],
            mishap: None,
            other_authority: false,
            prepared: BTreeMap::new(),
            licensed: BTreeSet::new(),
            origins: BTreeMap::new(),
            asks: 0,
        }
    }

    pub(super) fn cut(&mut self, from: HostNumber, to: HostNumber) {
        self.cuts[from][to] += 1;
    }

    pub(super) fn mend(&mut self, from: HostNumber, to: HostNumber) {
        self.cuts[from][to] = self.cuts[from][to].saturating_sub(1);
    }

    /// Notes what arrives, and changes it on its way if that is due.
    fn deliver(&mut self, to: HostNumber, request: &mut PeerRequest) {
        match request {
            PeerRequest::Prepare {
                migration, name, ..
            } => drop(self.prepared.insert((to, *migration), name.clone())),
            PeerRequest::Finish { cookie } if core::mem::take(&mut self.other_authority) => {
                cookie.authority = match cookie.authority {
                    Authority::Destination => Authority::Store,
                    Authority::Store => Authority::Manager,
                    Authority::Manager => Authority::Source,
                    Authority::Source => Authority::Destination,
                };
            }
            PeerRequest::Finish { cookie } => drop(self.licensed.insert((to, cookie.migration))),
            _ => {}
        }
    }

    /// An answer with a licence arrives.
    fn deliver_answer(&mut self, to: HostNumber, response: &PeerResponse) {
        if let PeerResponse::Answer {
            cookie: Some(cookie),
            ..
        } = response
        {
            self.licensed.insert((to, cookie.migration));
        }
    }

    /// Was that migration prepared at this host, and no licence that is its own ever came here?
    pub(super) fn lacks_licence(&self, at: HostNumber, migration: MigrationId) -> bool {
        let key = (at, migration);
        self.prepared.contains_key(&key) && !self.licensed.contains(&key)
    }

    pub(super) fn is_cut(&self, from: HostNumber, to: HostNumber) -> bool {
        self.cuts[from][to] > 0
    }
}

pub(super) const WAIT: Micros = PEER_WAIT_MS_MAX * 1_000;

impl World {
    /// Was it prepared in the name of a journal that is not there any more: lost, or replaced by an older copy, while the
    /// message was on its way or since?
    pub(super) fn is_stray(&self, migration: MigrationId) -> bool {
        let origin = self.network.origins.get(&migration);
        origin.is_some_and(|(host, journal)| self.hosts[*host].journals != *journal)
    }

    /// A sidecar asks another one.
    pub(super) fn ask_peer(
        &mut self,
        from: HostNumber,
        peer: &str,
        envelope: Envelope,
        request: PeerRequest,
    ) {
        let Some(to) = parse_peer(peer).filter(|to| *to < self.hosts.len()) else {
            let migration = request.migration();
            let result = Err(PeerFailure::NotSent("no such peer".to_owned()));
            return self.feed(from, Input::PeerAnswered { migration, result });
        };
        self.network.asks += 1;
        let number = self.network.asks;
        self.say(|_| format!("host {from}: asks host {to}: {}", brief(&request)));
        let life = self.hosts[from].life;
        let journal = self.hosts[from].journals;
        let ask = Ask {
            from,
            life,
            to,
            journal,
            envelope,
            request,
            sent: false,
            ended: false,
            coming: 0,
            answer: None,
        };
        self.asks.insert(number, ask);
        let delay = self.draw(self.shape.latencies.network);
        if self.network.is_cut(from, to) || self.network.is_cut(to, from) {
            // No connection comes about.
            return self.at_end_of_wait(WAIT, What::NoAnswer(number));
        }
        match self.network.mishap.take() {
            Some(Mishap::Lost) => {
                self.mark_sent(number);
                self.at_end_of_wait(WAIT, What::NoAnswer(number));
            }
            Some(Mishap::Repeated) => {
                let later = self.random.between(100, 3_000_000);
                self.comes(number, delay, What::Question(number));
                self.comes(number, delay + later, What::Again(number));
            }
            Some(Mishap::Late) => {
                let later = self.random.between(1_000, 15_000_000);
                self.mark_sent(number);
                self.comes(number, delay + later, What::Question(number));
                self.at_end_of_wait(WAIT, What::NoAnswer(number));
            }
            None => self.comes(number, delay, What::Question(number)),
        }
    }

    fn comes(&mut self, number: u64, delay: Micros, what: What) {
        if let Some(ask) = self.asks.get_mut(&number) {
            ask.coming += 1;
        }
        self.after(delay, what);
    }

    fn mark_sent(&mut self, number: u64) {
        if let Some(ask) = self.asks.get_mut(&number) {
            ask.sent = true;
        }
    }

    /// A question arrives, if somebody listens.
    pub(super) fn question(&mut self, number: u64) {
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        ask.coming = ask.coming.saturating_sub(1);
        let (from, to) = (ask.from, ask.to);
        if self.hosts[to].sidecar.is_none() {
            return match self.hosts[to].is_off {
                // Nobody says that nobody is there.
                true => self.at_end_of_wait(WAIT, What::NoAnswer(number)),
                false => self.after(100, What::NoAnswer(number)),
            };
        }
        ask.sent = true;
        if self.network.is_cut(from, to) {
            return self.at_end_of_wait(WAIT, What::NoAnswer(number));
        }
        self.put_question(number);
    }

    /// A repeated question arrives: its answer finds nobody who waits.
    pub(super) fn question_again(&mut self, number: u64) {
        if let Some(ask) = self.asks.get_mut(&number) {
            ask.coming = ask.coming.saturating_sub(1);
            self.put_question(number);
        }
    }

    fn put_question(&mut self, number: u64) {
        let Some(ask) = self.asks.get(&number) else {
            return;
        };
        let (to, envelope, mut request) = (ask.to, ask.envelope, ask.request.clone());
        let origin = (ask.from, ask.journal);
        self.network.deliver(to, &mut request);
        let nonce = Nonce(Id128(self.hosts[to].random.bytes()));
        let Some(token) = self.hosts[to].token(Waiter::Peer(number)) else {
            return;
        };
        if let PeerRequest::Prepare { migration, .. } = request {
            // Also of a journal that was put back and knows of it.
            self.network.origins.insert(migration, origin);
        }
        self.feed(
            to,
            Input::Peer {
                token,
                envelope,
                nonce,
                request,
            },
        );
        self.at_end_of_wait(WAIT, What::NoAnswer(number));
    }

    /// A sidecar answers.
    pub(super) fn peer_replies(&mut self, number: u64, envelope: Envelope, response: PeerResponse) {
        let Some(ask) = self.asks.get(&number) else {
            return;
        };
        let (from, to) = (ask.from, ask.to);
        self.judge_answer(to, number, &response);
        self.say(|_| format!("host {to}: answers host {from}: {response:?}"));
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        if ask.answer.is_none() {
            ask.answer = Some((envelope, response));
        }
        if self.network.is_cut(to, from) {
            return;
        }
        let delay = self.draw(self.shape.latencies.network);
        self.after(delay, What::Response(number));
    }

    /// A word that a side says of its own copy is used a moment later, and what becomes of that copy in
    /// between loses the guest whatever is decided. In v2 a destination that says whole is the guest from
    /// then on: that is the protocol's own window. A source that says that it is safe is believed for as
    /// long as it takes to use its word (both are limits that ARCHITECTURE.md names). Said is what its sidecar knew when
    /// it made the answer, which leaves when that turn's records are durable.
    fn judge_answer(&mut self, to: HostNumber, number: u64, response: &PeerResponse) {
        let PeerResponse::Answer { answer, .. } = response else {
            return;
        };
        let Some(ask) = self.asks.get(&number) else {
            return;
        };
        let (from, migration) = (ask.from, ask.request.migration());
        match answer {
            PeerAnswer::Whole => {
                if let Some(guest) = self.guest_prepared(to, migration) {
                    self.rely_on_destination(guest, to, from);
                }
            }
            PeerAnswer::GrantedAndSafe => {
                let guest = self.guest_prepared(from, migration);
                for number in guest.map_or(Vec::new(), |guest| self.said_whole(guest, to)) {
                    if self.lab.qemus[number].is_sender() {
                        self.lab.qemus[number].vouched = Some(self.now);
                    }
                }
            }
            _ => {}
        }
    }

    /// The copies of a guest on that host that had all of it at its sidecar's last turn.
    fn said_whole(&self, guest: GuestNumber, at: HostNumber) -> Vec<QemuNumber> {
        let turned = self.hosts[at].sidecar.as_ref().map(|one| one.turned);
        let was_whole = |number: &QemuNumber| {
            let left = self.lab.qemus[*number].left;
            let since = turned.zip(left).is_some_and(|(turned, left)| turned < left);
            self.lab.carries(*number) || since
        };
        let of_guest = self.lab.guests[guest].qemus.iter().copied();
        let here = of_guest.filter(|number| self.lab.qemus[*number].host == at);
        here.filter(was_whole).collect()
    }

    /// The guest of a migration that was prepared at that host.
    fn guest_prepared(&self, at: HostNumber, migration: MigrationId) -> Option<GuestNumber> {
        let name = self.network.prepared.get(&(at, migration))?;
        let mut guests = self.lab.guests.iter();
        guests.position(|guest| guest.name == *name)
    }

    fn rely_on_destination(&mut self, guest: GuestNumber, at: HostNumber, source: HostNumber) {
        if self.said_whole(guest, at).is_empty() {
            return;
        }
        let of_guest: Vec<QemuNumber> = self.lab.living(guest).collect();
        for one in of_guest {
            let qemu = &self.lab.qemus[one];
            if qemu.host == source && qemu.is_sender() {
                self.lab.qemus[one].forsaken = true;
            }
        }
    }

    /// An answer arrives.
    pub(super) fn response(&mut self, number: u64) {
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        let from = ask.from;
        if let Some(answer) = ask.answer.take() {
            self.network.deliver_answer(from, &answer.1);
            self.end_ask(number, Ok(answer));
        }
    }

    /// A question was in vain.
    pub(super) fn no_answer(&mut self, number: u64) {
        let Some(ask) = self.asks.get(&number) else {
            return;
        };
        let failure = match ask.sent {
            true => PeerFailure::Unreachable("no answer came in time".to_owned()),
            false => PeerFailure::NotSent("nobody listens there".to_owned()),
        };
        self.end_ask(number, Err(failure));
    }

    /// Who was asked died: the connection breaks.
    pub(super) fn hang_up(&mut self, number: u64) {
        self.after(100, What::NoAnswer(number));
    }

    fn end_ask(&mut self, number: u64, result: Result<(Envelope, PeerResponse), PeerFailure>) {
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        let is_first = !core::mem::replace(&mut ask.ended, true);
        let (from, life, migration) = (ask.from, ask.life, ask.request.migration());
        if ask.coming == 0 {
            self.asks.remove(&number);
        }
        if is_first && self.hosts[from].lives(life) {
            self.feed(from, Input::PeerAnswered { migration, result });
        }
    }

    /// What a sidecar that died had asked: some of it still arrives.
    pub(super) fn forget_asks(&mut self, from: HostNumber) {
        for ask in self.asks.values_mut() {
            if ask.from == from {
                ask.ended = true;
            }
        }
    }
}

fn brief(request: &PeerRequest) -> &'static str {
    match request {
        PeerRequest::Prepare { .. } => "prepare",
        PeerRequest::Finish { .. } => "finish",
        PeerRequest::Abandon { .. } => "abandon",
        PeerRequest::Ask { .. } => "how does it stand",
        PeerRequest::Acknowledge { .. } => "acknowledge",
        PeerRequest::Resume { .. } => "resume",
    }
}
