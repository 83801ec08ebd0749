//! The store that decides a migration: one key, and what becomes of a request for it.
//!
//! Invariant: a request is carried out in one step with every other one; until then, and on the way back,
//! it may be lost, late, or there twice. What a request comes to is judged when it is carried out.
//! Not here: what a sidecar concludes (`engine::store`).

use journal_format::record::{KeyChange, KeyValue};

use super::happen::side;
use super::scene::{A, B, DOMAIN_MIGRATION, Scene};
use crate::engine::{Input, StoreFailure, StoreRequest, StoreResult};

/// A request for the key, until the asker has its answer.
#[derive(Clone, Debug)]
pub(crate) struct KeyAsk {
    pub(crate) from: usize,
    pub(crate) request: StoreRequest,
    /// The other copy was good without the asker's when it was asked for.
    pub(crate) excused: bool,
    /// When it was carried out.
    pub(crate) result: Option<StoreResult>,
}

/// A request that nobody waits for any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyStray {
    pub(crate) request: StoreRequest,
    pub(crate) excused: bool,
}

impl Scene {
    pub(super) fn ask_store(&mut self, from: usize, request: StoreRequest) {
        self.say(|| format!("{} asks the store {request:?}", side(from)));
        // What is asked for was decided then: what becomes of that copy until the store knows is no fault of
        // the decision.
        let ends = match request {
            StoreRequest::Change(
                KeyChange::Create(KeyValue::Aborted)
                | KeyChange::Replace {
                    new: KeyValue::Aborted,
                    ..
                },
            ) => Some(B),
            StoreRequest::Change(KeyChange::Replace {
                new: KeyValue::Started,
                ..
            }) => Some(A),
            StoreRequest::Read | StoreRequest::Change(_) => None,
        };
        let excused = ends.is_some_and(|ends| self.carries_guest_with(1 - ends, false));
        self.key_asks.push(KeyAsk {
            from,
            request,
            excused,
            result: None,
        });
    }

    /// A request is carried out.
    pub(super) fn serve_key(&mut self, number: usize) {
        let KeyAsk {
            request, excused, ..
        } = self.key_asks[number];
        self.change_key(KeyStray { request, excused });
        self.key_asks[number].result = Some(Ok(self.key));
    }

    /// The asker hears what came of it; or, too early, that nothing is known of it.
    pub(super) fn answer_key(&mut self, number: usize) {
        let ask = self.key_asks.remove(number);
        let result = ask.result.clone().unwrap_or_else(|| {
            self.leave_request(&ask);
            Err(StoreFailure(String::new()))
        });
        let migration = DOMAIN_MIGRATION;
        self.feed(ask.from, Input::StoreAnswered { migration, result });
    }

    /// Nobody waits for it any more.
    pub(super) fn leave_request(&mut self, ask: &KeyAsk) {
        let KeyAsk {
            request, excused, ..
        } = *ask;
        if request != StoreRequest::Read {
            self.key_strays.push(KeyStray { request, excused });
        }
    }

    pub(super) fn change_key(&mut self, stray: KeyStray) {
        let before = self.key;
        match stray.request {
            StoreRequest::Read => {}
            StoreRequest::Change(KeyChange::Create(value)) => {
                self.key.get_or_insert(value);
            }
            StoreRequest::Change(KeyChange::Replace { expected, new }) => {
                if before == Some(expected) {
                    self.key = Some(new);
                }
            }
            StoreRequest::Change(KeyChange::Delete) => self.key = None,
        }
        if self.key == before {
            return;
        }
        self.say(|| "the key is changed".to_owned());
        let excused = stray.excused;
        match (before, self.key) {
            (None | Some(KeyValue::Committed { .. }), Some(KeyValue::Aborted)) => {
                self.qemus[B].forsaken |= excused;
                self.forsake(B);
            }
            (Some(KeyValue::Committed { .. }), Some(KeyValue::Started)) => {
                self.qemus[A].forsaken |= excused;
                self.forsake(A);
            }
            (None, Some(KeyValue::Committed { .. })) | (Some(_), None) => {}
            (None | Some(_), _) => self.breaks("P2: the key goes back"),
        }
    }
}
