//! A store with compare-and-swap that every sidecar reaches: an authority for migrations.
//!
//! Invariant: a change is made in one step with every other one; a request without an answer was
//! carried out, or not, or will be.
//! Not here: what follows from a key (the engine), when the store fails (`fault`).

use std::collections::BTreeMap;

use journal_format::number::{Id128, JournalId, MigrationId, Nonce};
use journal_format::record::{KeyChange, KeyValue};

use super::world::{What, World};
use super::{HostNumber, Micros};
use crate::engine::{Input, STORE_WAIT_MS_MAX, StoreFailure, StoreRequest, StoreResult};

const WAIT: Micros = STORE_WAIT_MS_MAX * 1_000;

/// The store.
#[derive(Debug, Default)]
pub(super) struct Store {
    keys: BTreeMap<MigrationId, KeyValue>,
    requests: BTreeMap<u64, Request>,
    count: u64,
    /// It answers nobody and changes nothing.
    pub(super) is_down: bool,
    /// The answer to the next change is lost.
    pub(super) lose_answer: bool,
    /// The next key that is to be made is another journal's already.
    pub(super) has_foreign_key: bool,
    /// An older copy of it, which is put back soon.
    older: Option<BTreeMap<MigrationId, KeyValue>>,
}

#[derive(Debug)]
struct Request {
    host: HostNumber,
    life: u32,
    migration: MigrationId,
    request: StoreRequest,
    result: StoreResult,
}

impl Store {
    /// Makes a copy; false if there is one already.
    pub(super) fn copy(&mut self) -> bool {
        let is_first = self.older.is_none();
        self.older.get_or_insert_with(|| self.keys.clone());
        is_first
    }

    fn carry_out(&mut self, migration: MigrationId, request: StoreRequest) -> Option<KeyValue> {
        match request {
            StoreRequest::Read => {}
            StoreRequest::Change(KeyChange::Create(value)) => {
                self.keys.entry(migration).or_insert(value);
            }
            StoreRequest::Change(KeyChange::Replace { expected, new }) => {
                if let Some(value) = self.keys.get_mut(&migration)
                    && *value == expected
                {
                    *value = new;
                }
            }
            StoreRequest::Change(KeyChange::Delete) => {
                self.keys.remove(&migration);
            }
        }
        self.keys.get(&migration).copied()
    }
}

impl World {
    /// A sidecar asks the store.
    pub(super) fn ask_store(
        &mut self,
        host: HostNumber,
        migration: MigrationId,
        request: StoreRequest,
    ) {
        let store = &mut self.store;
        store.count += 1;
        let number = store.count;
        let asked = Request {
            host,
            life: self.hosts[host].life,
            migration,
            request,
            result: Err(StoreFailure("no answer in time".to_owned())),
        };
        store.requests.insert(number, asked);
        self.say(|_| format!("host {host}: asks the store: {request:?}"));
        let delay = self.draw(self.shape.latencies.network);
        self.after(delay, What::AtStore(number));
    }

    /// A request arrives; who sent it may be gone.
    pub(super) fn at_store(&mut self, number: u64) {
        let store = &mut self.store;
        let Some((migration, request)) = store
            .requests
            .get(&number)
            .map(|asked| (asked.migration, asked.request))
        else {
            return;
        };
        if store.is_down {
            return self.after(WAIT, What::FromStore(number));
        }
        let creates = matches!(request, StoreRequest::Change(KeyChange::Create(_)));
        if creates && core::mem::take(&mut store.has_foreign_key) {
            let other = KeyValue::Committed {
                journal: JournalId(Id128([0xEE; 16])),
                nonce: Nonce(Id128([0xEE; 16])),
            };
            store.keys.entry(migration).or_insert(other);
            self.touch(migration);
        }
        let store = &mut self.store;
        let value = store.carry_out(migration, request);
        if matches!(request, StoreRequest::Change(_)) && core::mem::take(&mut store.lose_answer) {
            return self.after(WAIT, What::FromStore(number));
        }
        if let Some(asked) = store.requests.get_mut(&number) {
            asked.result = Ok(value);
        }
        let delay = self.draw(self.shape.latencies.network);
        self.after(delay, What::FromStore(number));
    }

    /// All keys are what they were when the copy was made.
    pub(super) fn put_store_back(&mut self) {
        let Some(older) = self.store.older.take() else {
            return;
        };
        let newer = core::mem::replace(&mut self.store.keys, older);
        let keys = &self.store.keys;
        let named = newer.keys().chain(keys.keys());
        let changed: Vec<MigrationId> = named
            .filter(|migration| newer.get(migration) != keys.get(migration))
            .copied()
            .collect();
        for migration in changed {
            self.touch(migration);
        }
    }

    /// What a hand from outside did to it is looked at by humans.
    fn touch(&mut self, migration: MigrationId) {
        for guest in &mut self.lab.guests {
            if guest.open.values().any(|open| *open == Some(migration)) {
                guest.touched(self.now);
            }
        }
    }

    /// The answer is back, or the wait for it is over.
    pub(super) fn store_answers(&mut self, number: u64) {
        let Some(asked) = self.store.requests.remove(&number) else {
            return;
        };
        let Request {
            host,
            life,
            migration,
            result,
            ..
        } = asked;
        if self.hosts[host].lives(life) {
            self.feed(host, Input::StoreAnswered { migration, result });
        }
    }
}
