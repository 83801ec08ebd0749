//! What the bench's sidecar asks others, and is asked by them; and how its journal is lost to them.

use journal_format::number::{Epoch, Id128, JournalId, Lsn, OpeningId, Position};
use journal_format::record::RunState;

use super::Bench;
use crate::engine::{Envelope, Find, Found, FoundAt, Input, Token};

impl Bench {
    /// From where in its history it asked that.
    pub(in crate::engine::tests::jobs) fn envelope(&self, number: u64) -> Envelope {
        self.envelopes[&number]
    }

    /// The other sidecars have answered.
    pub(in crate::engine::tests::jobs) fn found(&mut self, number: u64, answers: Vec<FoundAt>) {
        self.input(Input::Found { number, answers });
        self.pump();
    }

    /// Another sidecar asks, and waits for the answer.
    pub(in crate::engine::tests::jobs) fn asked_by(
        &mut self,
        envelope: Envelope,
        find: Find,
    ) -> (Envelope, Found) {
        self.token += 1;
        let token = Token(self.token);
        self.input(Input::Find {
            token,
            envelope,
            find,
        });
        self.pump();
        let told = self.told.remove(&token);
        told.unwrap_or_else(|| panic!("no answer to {find:?}\n{}", self.story()))
    }

    /// The same, of one that has never heard of this one.
    pub(in crate::engine::tests::jobs) fn asked(&mut self, find: Find) -> Found {
        let sender = Position {
            journal: JournalId(Id128([0x77; 16])),
            epoch: Epoch(1),
            opening: OpeningId(Id128([0x77; 16])),
            lsn: Lsn(1),
        };
        self.asked_by(Envelope { sender, saw: None }, find).1
    }

    /// Its journal is gone, and the domain registered anew.
    pub(in crate::engine::tests::jobs) fn lose_journal(&mut self) {
        let qemu = self.qemu.clone();
        *self = Bench::of(JournalId(Id128([0xCC; 16])), RunState::Running);
        self.qemu = qemu;
    }

    /// Its journal is one that was copied when nothing had happened yet.
    pub(in crate::engine::tests::jobs) fn put_back_journal(&mut self) {
        let qemu = self.qemu.clone();
        let epoch = self.epoch;
        *self = Bench::of(self.identity, RunState::Running);
        self.epoch = epoch + 8;
        self.qemu = qemu;
        self.restart();
    }
}
