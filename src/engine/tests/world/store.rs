//! A store that both sidecars reach, and what may go wrong on the way to it.

use std::collections::BTreeMap;

use journal_format::number::MigrationId;
use journal_format::record::{KeyChange, KeyValue};

use super::{Event, World};
use crate::engine::{Input, StoreFailure, StoreRequest};

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreFault {
    /// It is never carried out, and the asker hears of no answer.
    Lost,
    /// It is carried out, and the asker hears of no answer.
    Unanswered,
    /// The asker hears of no answer, and so many milliseconds later it is carried out.
    Late(u64),
}

/// The keys, and what was asked.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) keys: BTreeMap<MigrationId, KeyValue>,
    pub(crate) down: bool,
    /// What becomes of the n-th change that anybody asks for, counted from 1.
    pub(crate) fault: Option<(u32, StoreFault)>,
    pub(crate) changes: u32,
    /// Requests that are carried out at a time.
    pub(super) late: Vec<(u64, MigrationId, StoreRequest)>,
}

impl Store {
    /// Carries a request out; an error if the key did not go forward.
    fn apply(&mut self, id: MigrationId, request: StoreRequest) -> Result<(), String> {
        let before = self.keys.get(&id).copied();
        match request {
            StoreRequest::Read => {}
            StoreRequest::Change(KeyChange::Create(value)) => {
                self.keys.entry(id).or_insert(value);
            }
            StoreRequest::Change(KeyChange::Replace { expected, new }) => {
                if before == Some(expected) {
                    self.keys.insert(id, new);
                }
            }
            StoreRequest::Change(KeyChange::Delete) => {
                self.keys.remove(&id);
            }
        }
        let after = self.keys.get(&id).copied();
        let is_forward = match (before, after) {
            (None, Some(KeyValue::Started)) => false,
            (None, _) | (Some(_), None) => true,
            (Some(KeyValue::Committed { .. }), Some(_)) => true,
            (Some(before), Some(after)) => before == after,
        };
        match is_forward {
            true => Ok(()),
            false => Err(format!("the key went from {before:?} to {after:?}")),
        }
    }
}

impl World {
    pub(super) fn store_request(&mut self, at: usize, id: MigrationId, request: StoreRequest) {
        let epoch = self.hosts[at].epoch;
        self.queue.push_back(Event::Store(at, epoch, id, request));
    }

    pub(super) fn store_carry_out(
        &mut self,
        at: usize,
        epoch: u32,
        id: MigrationId,
        request: StoreRequest,
    ) {
        let is_change = matches!(request, StoreRequest::Change(_));
        self.store.changes += u32::from(is_change);
        let number = self.store.changes;
        let fault = self
            .store
            .fault
            .filter(|(nth, _)| is_change && *nth == number)
            .map(|(_, fault)| fault);
        let mut result = Err(StoreFailure("no answer".to_owned()));
        match fault {
            _ if self.store.down => {}
            Some(StoreFault::Lost) => {}
            Some(StoreFault::Unanswered) => self.store_apply(id, request),
            Some(StoreFault::Late(delay)) => {
                self.store.late.push((self.now + delay, id, request));
            }
            None => {
                self.store_apply(id, request);
                result = Ok(self.store.keys.get(&id).copied());
            }
        }
        let answered = Input::StoreAnswered {
            migration: id,
            result,
        };
        self.queue.push_back(Event::Input(at, epoch, answered));
    }

    pub(super) fn store_apply(&mut self, id: MigrationId, request: StoreRequest) {
        if let Err(broken) = self.store.apply(id, request) {
            self.broken.get_or_insert(broken);
        }
    }

    pub(super) fn store_late(&mut self) {
        let now = self.now;
        let due: Vec<_> = self
            .store
            .late
            .extract_if(.., |(due, _, _)| *due <= now)
            .collect();
        for (_, id, request) in due {
            self.store_apply(id, request);
        }
    }
}
