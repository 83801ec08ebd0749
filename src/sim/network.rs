//! Between sidecars: questions and answers that are late, lost, repeated or cut off.
//!
//! Invariant: each question ends exactly once for who asked, at the latest after the wait that the
//! engine knows; what was perhaps sent is never called not sent.
//! Not here: what is asked and answered (the engine), when a link fails (`fault`).

use journal_format::number::{Id128, Nonce};

use super::host::{Waiter, parse_peer};
use super::world::{What, World};
use super::{HostNumber, Micros};
use crate::engine::{Envelope, Input, PEER_WAIT_MS_MAX, PeerFailure, PeerRequest, PeerResponse};

/// A question on its way.
#[derive(Debug)]
pub(super) struct Ask {
    from: HostNumber,
    life: u32,
    to: HostNumber,
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
    asks: u64,
}

impl Network {
    pub(super) fn new(hosts: usize) -> Network {
        Network {
            cuts: vec![vec![0; hosts]; hosts],
            mishap: None,
            asks: 0,
        }
    }

    pub(super) fn cut(&mut self, from: HostNumber, to: HostNumber) {
        self.cuts[from][to] += 1;
    }

    pub(super) fn mend(&mut self, from: HostNumber, to: HostNumber) {
        self.cuts[from][to] = self.cuts[from][to].saturating_sub(1);
    }

    fn is_cut(&self, from: HostNumber, to: HostNumber) -> bool {
        self.cuts[from][to] > 0
    }
}

const WAIT: Micros = PEER_WAIT_MS_MAX * 1_000;

impl World {
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
        let ask = Ask {
            from,
            life,
            to,
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
            return self.after(WAIT, What::NoAnswer(number));
        }
        match self.network.mishap.take() {
            Some(Mishap::Lost) => {
                self.mark_sent(number);
                self.after(WAIT, What::NoAnswer(number));
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
                self.after(WAIT, What::NoAnswer(number));
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
            let delay = match self.hosts[to].is_off {
                // Nobody says that nobody is there.
                true => WAIT,
                false => 100,
            };
            return self.after(delay, What::NoAnswer(number));
        }
        ask.sent = true;
        if self.network.is_cut(from, to) {
            return self.after(WAIT, What::NoAnswer(number));
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
        let (to, envelope, request) = (ask.to, ask.envelope, ask.request.clone());
        let nonce = Nonce(Id128(self.hosts[to].random.bytes()));
        let Some(token) = self.hosts[to].token(Waiter::Peer(number)) else {
            return;
        };
        self.feed(
            to,
            Input::Peer {
                token,
                envelope,
                nonce,
                request,
            },
        );
        self.after(WAIT, What::NoAnswer(number));
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

    /// Protocol v2: with the word that its copy is whole the source ends its own, and what becomes of
    /// that copy afterwards is the protocol's own window.
    fn judge_answer(&mut self, to: HostNumber, number: u64, response: &PeerResponse) {
        use journal_format::record::PeerAnswer;
        let PeerResponse::Answer {
            answer: PeerAnswer::Whole,
            ..
        } = response
        else {
            return;
        };
        let Some(ask) = self.asks.get(&number) else {
            return;
        };
        let (migration, from) = (ask.request.migration(), ask.from);
        let _ = migration;
        for guest in 0..self.lab.guests.len() {
            let of_guest: Vec<usize> = self.lab.living(guest).collect();
            let here = |one: &&usize| self.lab.qemus[**one].host == to;
            let is_whole = of_guest
                .iter()
                .filter(here)
                .any(|one| self.lab.carries(*one));
            for one in of_guest {
                let qemu = &self.lab.qemus[one];
                if is_whole && qemu.host == from && qemu.is_sender() {
                    self.lab.qemus[one].forsaken = true;
                }
            }
        }
    }

    /// An answer arrives.
    pub(super) fn response(&mut self, number: u64) {
        let Some(ask) = self.asks.get_mut(&number) else {
            return;
        };
        if let Some(answer) = ask.answer.take() {
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
