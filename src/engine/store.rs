//! Authority store: the outcome is what the migration's key says, by compare-and-swap.
//!
//! Invariant: the intent of a change is durable before it is asked for; only a key that was read proves
//! anything, and a request without an answer is followed by a read. One request of a migration is under
//! way at a time; an older life's may still arrive.
//! Not here: which rule holds (`decide::authority`), how a store is reached (`sidecar::store`).

use journal_format::number::MigrationId;
use journal_format::record::{
    Authority, Cookie, JobResult, KeyChange, KeyValue, MigrationState, OutcomeLearned, RecordBody,
    Role, StoreAnswer, StoreIntended, StoreRead,
};

use super::live::Asked;
use super::suppose::outcome_read;
use super::turn::{Turn, longer};
use super::{Message, PeerRequest, Rule, StoreFailure, StoreRequest, StoreResult};

/// Shortest and longest pause between requests that told nothing new, in milliseconds.
const STORE_DELAY_MS: (u64, u64) = (50, 2_000);

/// How long a licence may be out without an outcome before the source tries to win aborted, if the
/// migration does not say, in milliseconds.
pub const IN_DOUBT_LIMIT_MS_DEFAULT: u64 = 30_000;

impl Turn<'_> {
    // Asking.

    /// Asks the store, unless a request is under way or it is too early for another.
    fn ask_store(&mut self, id: MigrationId, request: StoreRequest, cookie: Option<Cookie>) {
        let now = self.now;
        let Some(migration) = self.migration(id) else {
            return;
        };
        let is_here = migration.state.terms.store.is_some()
            && migration.state.terms.store == self.engine.config.store;
        let intent = migration.state.key_intent;
        let key = &mut self.live(id).key;
        if key.busy || key.at > now {
            return;
        }
        if !is_here {
            // Another store than the one that the two sides agreed on knows nothing of this.
            return self.store_failed(id);
        }
        key.busy = true;
        if let StoreRequest::Change(change) = request
            && intent != Some(change)
        {
            self.cite_look(id);
            let intended = StoreIntended {
                migration: id,
                change,
                cookie,
            };
            self.record(id, RecordBody::StoreIntended(Box::new(intended)));
        }
        self.send(Message::Store {
            migration: id,
            request,
        });
    }

    pub(crate) fn read_key(&mut self, id: MigrationId) {
        self.ask_store(id, StoreRequest::Read, None);
    }

    fn change_key(&mut self, id: MigrationId, change: KeyChange, cookie: Option<Cookie>) {
        self.ask_store(id, StoreRequest::Change(change), cookie);
    }

    /// Something speaks for it that the key says more now.
    pub(crate) fn read_key_soon(&mut self, id: MigrationId) {
        let key = &mut self.live(id).key;
        (key.at, key.delay) = (0, 0);
    }

    /// No answer, or nobody to ask. What decides for good is not forgotten.
    fn store_failed(&mut self, id: MigrationId) {
        let now = self.now;
        let live = self.live(id);
        let key = &mut live.key;
        key.delay = longer(key.delay, STORE_DELAY_MS);
        key.at = now + key.delay;
        key.answer = match key.answer {
            StoreAnswer::Started | StoreAnswer::Aborted | StoreAnswer::Foreign => key.answer,
            StoreAnswer::NotRead
            | StoreAnswer::Unreachable
            | StoreAnswer::Absent
            | StoreAnswer::Older
            | StoreAnswer::Committed => StoreAnswer::Unreachable,
        };
        // Nobody is there to end the blackout soon.
        live.blackout = false;
    }

    pub(crate) fn store_answered(&mut self, id: MigrationId, result: &StoreResult) {
        let is_awaited = self.engine.live.get_mut(&id).is_some_and(|live| {
            let was_busy = live.key.busy;
            live.key.busy = false;
            was_busy
        });
        if !is_awaited || self.migration(id).is_none() {
            return;
        }
        match result {
            Err(StoreFailure(_)) => self.store_failed(id),
            Ok(value) => self.key_says(id, *value),
        }
        let Some(migration) = self.migration(id) else {
            return;
        };
        if migration.state.open {
            self.look(migration.domain);
        }
        self.advance(id);
    }

    fn key_says(&mut self, id: MigrationId, value: Option<KeyValue>) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let state = &migration.state;
        let answer = self.answer_of(state, value);
        let (role, open) = (state.terms.role, state.open);
        let is_deleted = value.is_none() && !open && state.key_intent == Some(KeyChange::Delete);
        let is_news = value.is_some() && state.key_read != value;
        let awaits_outcome =
            role == Role::Source && open && state.granted.is_some() && state.outcome.is_none();
        let now = self.now;
        let key = &mut self.live(id).key;
        // Something new is followed up at once.
        key.delay = match key.answer == answer {
            true => longer(key.delay, STORE_DELAY_MS),
            false => 0,
        };
        key.at = now + key.delay;
        key.answer = answer;
        if let (Some(value), true) = (value, is_news) {
            let read = StoreRead {
                migration: id,
                key: value,
            };
            self.record(id, RecordBody::StoreRead(read));
        }
        if is_deleted {
            return self.forget_for_good(id);
        }
        let outcome = outcome_read(answer);
        if let (Some(outcome), true) = (outcome, awaits_outcome) {
            let learned = OutcomeLearned {
                migration: id,
                outcome,
                position: None,
            };
            self.record(id, RecordBody::OutcomeLearned(learned));
            let live = self.live(id);
            live.effect_at = 0;
            live.blackout = false;
        }
    }

    fn answer_of(&self, state: &MigrationState, value: Option<KeyValue>) -> StoreAnswer {
        match value {
            // The destination may put its own there again; a source concludes from what it read.
            None if state.terms.role == Role::Source && state.key_read.is_some() => {
                StoreAnswer::Older
            }
            None => StoreAnswer::Absent,
            Some(KeyValue::Started) => StoreAnswer::Started,
            Some(KeyValue::Aborted) => StoreAnswer::Aborted,
            Some(KeyValue::Committed { journal, nonce }) => {
                let is_journal = match state.terms.role {
                    Role::Destination => journal == self.engine.config.journal,
                    // The nonce is random, and this migration's destination made it.
                    Role::Source => true,
                };
                match is_journal && state.terms.nonce == Some(nonce) {
                    true => StoreAnswer::Committed,
                    false => StoreAnswer::Foreign,
                }
            }
        }
    }

    /// Destination: what the key says when this side has won.
    fn own_commit(&self, id: MigrationId) -> Option<KeyValue> {
        let nonce = self.migration(id)?.state.terms.nonce?;
        Some(KeyValue::Committed {
            journal: self.engine.config.journal,
            nonce,
        })
    }

    // Carrying rules out.

    /// Source: the licence went out, and the key has told no outcome.
    pub(crate) fn carry_out_source_store(&mut self, id: MigrationId, rule: Rule) {
        let now = self.now;
        self.live(id).key.in_doubt_since.get_or_insert(now);
        let is_absent = self.live(id).key.answer == StoreAnswer::Absent;
        let may_propose = match rule {
            Rule::SourceStoreSeekAborted => true,
            // What the guest did here since then is nowhere else.
            Rule::SourceStoreRunning => {
                let known = self.migration(id);
                is_absent && known.is_some_and(|known| !known.state.postcopy)
            }
            _ => false,
        };
        if rule == Rule::SourceStoreRunning {
            self.ask(id, Asked::Abandon, PeerRequest::Abandon { migration: id });
        } else {
            self.ask_finish(id);
        }
        match may_propose {
            true => self.change_key(id, KeyChange::Create(KeyValue::Aborted), None),
            false => self.read_key(id),
        }
    }

    /// Source: both copies are gone, whatever the key says.
    pub(crate) fn end_without_a_copy(&mut self, id: MigrationId) {
        self.end(id, JobResult::Crashed, "no copy is left: both QEMUs ended");
    }

    /// Destination: whole and licensed; what this side proposes is asked for until the key says who won.
    pub(crate) fn propose_commit(&mut self, id: MigrationId) {
        let Some(own) = self.own_commit(id) else {
            return;
        };
        let proposed = self
            .migration(id)
            .is_some_and(|known| known.facts().proposed);
        let live = self.live(id);
        let cookie = live.cookie;
        match (proposed, live.key.answer) {
            (false, _) if cookie.is_none() => {}
            (false, _) => {
                self.live(id).blackout = true;
                self.change_key(id, KeyChange::Create(own), cookie);
            }
            (true, StoreAnswer::Absent) => self.change_key(id, KeyChange::Create(own), None),
            (true, _) => self.read_key(id),
        }
    }

    /// Destination, the winner: moves its own commit on; puts it there first if it never was.
    pub(crate) fn settle_key(&mut self, id: MigrationId, outcome: KeyValue) {
        let Some(own) = self.own_commit(id) else {
            return;
        };
        match self.live(id).key.answer {
            StoreAnswer::Committed => {
                let change = KeyChange::Replace {
                    expected: own,
                    new: outcome,
                };
                self.change_key(id, change, None);
            }
            // Nobody won yet. Started is only ever said of a commit.
            StoreAnswer::Absent if outcome == KeyValue::Aborted => {
                self.change_key(id, KeyChange::Create(KeyValue::Aborted), None);
            }
            StoreAnswer::Absent => self.change_key(id, KeyChange::Create(own), None),
            StoreAnswer::NotRead
            | StoreAnswer::Unreachable
            | StoreAnswer::Foreign
            | StoreAnswer::Older
            | StoreAnswer::Started
            | StoreAnswer::Aborted => self.read_key(id),
        }
    }

    /// Does the outcome have to be in the store before this destination's job may end?
    pub(crate) fn has_key_to_settle(&self, id: MigrationId) -> bool {
        self.migration(id).is_some_and(|known| {
            let is_store = known.state.terms.authority == Authority::Store;
            is_store && (known.state.started || known.facts().proposed)
        })
    }

    // Forgetting.

    /// Destination: both journals are closed, and with them goes the key. Forgotten when it is gone.
    pub(crate) fn release_key(&mut self, id: MigrationId) {
        if !self.is_releasing(id) {
            // On record at once: who needed the outcome may not say a second time that it has it.
            let intended = StoreIntended {
                migration: id,
                change: KeyChange::Delete,
                cookie: None,
            };
            self.record(id, RecordBody::StoreIntended(Box::new(intended)));
        }
        self.change_key(id, KeyChange::Delete, None);
    }

    /// Is this an ended migration whose key is still to be taken away?
    pub(crate) fn has_key_to_release(&self, id: MigrationId) -> bool {
        self.migration(id).is_some_and(|known| {
            let terms = &known.state.terms;
            terms.authority == Authority::Store
                && terms.role == Role::Destination
                && !known.state.open
        })
    }

    pub(crate) fn is_releasing(&self, id: MigrationId) -> bool {
        self.migration(id).is_some_and(|known| {
            !known.state.open && known.state.key_intent == Some(KeyChange::Delete)
        })
    }
}
