//! Sidecars that were told of all others, and ask them for the other side of a migration that a client drives.
//!
//! Invariant: each question of an engine is answered once, when all others were heard or have had the time to be; who is asked is
//! changed by nothing but that it looks at its QEMU.
//! Not here: what is asked and what follows (`engine::job::driven::pair`), what else sidecars say to each other
//! (`network`).

use std::collections::BTreeMap;

use super::HostNumber;
use super::host::{Waiter, peer_name};
use super::network::{Mishap, WAIT};
use super::world::{What, World};
use crate::engine::{Envelope, Find, Found, FoundAt, Input, PeerFailure};

/// Questions to all others that are open.
#[derive(Debug, Default)]
pub(super) struct Searches {
    open: BTreeMap<u64, Search>,
    begun: u64,
}

#[derive(Debug)]
struct Search {
    from: HostNumber,
    life: u32,
    /// As the engine counts.
    number: u64,
    envelope: Envelope,
    find: Find,
    /// Who was not heard, and what is on its way from there.
    waits: BTreeMap<HostNumber, Option<(Envelope, Found)>>,
    answers: Vec<FoundAt>,
}

impl World {
    /// A sidecar asks all others.
    pub(super) fn search(&mut self, from: HostNumber, number: u64, envelope: Envelope, find: Find) {
        let others = (0..self.hosts.len()).filter(|other| *other != from);
        let waits: BTreeMap<_, _> = others.map(|other| (other, None)).collect();
        self.searches.begun += 1;
        let id = self.searches.begun;
        self.say(|_| format!("host {from}: asks all others, {find:?}"));
        for to in waits.keys().copied() {
            let delay = self.draw(self.shape.latencies.network);
            let is_lost = matches!(
                self.network.mishap.take(),
                Some(Mishap::Lost | Mishap::Late)
            );
            match is_lost || self.network.is_cut(from, to) || self.network.is_cut(to, from) {
                true => self.at_end_of_wait(WAIT, What::Searched(id, to)),
                false => self.after(delay, What::Search(id, to)),
            }
        }
        let search = Search {
            from,
            life: self.hosts[from].life,
            number,
            envelope,
            find,
            waits,
            answers: Vec::new(),
        };
        self.searches.open.insert(id, search);
    }

    /// The question arrives, if somebody listens.
    pub(super) fn searched_for(&mut self, id: u64, to: HostNumber) {
        let Some(search) = self.searches.open.get(&id) else {
            return;
        };
        let (envelope, find) = (search.envelope, search.find);
        let is_up = self.hosts[to].sidecar.is_some();
        let token = self.hosts[to].token(Waiter::Search(id));
        let Some(token) = token.filter(|_| is_up) else {
            return self.after(100, What::Searched(id, to));
        };
        self.at_end_of_wait(WAIT, What::Searched(id, to));
        self.feed(
            to,
            Input::Find {
                token,
                envelope,
                find,
            },
        );
    }

    /// Who was asked says what it knows.
    pub(super) fn tells(&mut self, id: u64, to: HostNumber, envelope: Envelope, found: Found) {
        self.say(|_| format!("host {to}: says {found:?}"));
        let Some(search) = self.searches.open.get_mut(&id) else {
            return;
        };
        // Else nothing comes before the end of the wait.
        if self.network.is_cut(to, search.from) {
            return;
        }
        if let Some(said) = search.waits.get_mut(&to) {
            *said = Some((envelope, found));
        }
        let delay = self.draw(self.shape.latencies.network);
        self.after(delay, What::Searched(id, to));
    }

    /// An answer is there, or none comes any more.
    pub(super) fn searched(&mut self, id: u64, to: HostNumber) {
        let Some(search) = self.searches.open.get_mut(&id) else {
            return;
        };
        let Some(said) = search.waits.remove(&to) else {
            return;
        };
        let peer = peer_name(to);
        let unreachable = || PeerFailure::Unreachable("no answer came".to_owned());
        let result = said.ok_or_else(unreachable);
        search.answers.push(FoundAt { peer, result });
        if !search.waits.is_empty() {
            return;
        }
        if let Some(Search {
            from,
            life,
            number,
            answers,
            ..
        }) = self.searches.open.remove(&id)
            && self.hosts[from].life == life
        {
            self.feed(from, Input::Found { number, answers });
        }
    }
}
