//! The store with compare-and-swap, for migrations whose authority it is.
//!
//! Invariant: each request ends once, in bounded time, and so many at the most are under way; what was
//! perhaps carried out is never called anything else than unknown.
//! Not here: what is asked and what follows from it (the engine).

use core::fmt;
use core::pin::Pin;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal_format::number::MigrationId;
use journal_format::record::{KeyChange, KeyValue};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use super::link::Link;
use crate::engine::{Input, STORE_WAIT_MS_MAX, StoreFailure, StoreRequest, StoreResult};

/// Most requests under way at the same time; more are not sent.
const REQUESTS_MAX: usize = 128;

/// A request on its way to a store.
pub type Answering<'a> = Pin<Box<dyn Future<Output = StoreResult> + Send + 'a>>;

/// A place for one small value for each migration, in which changes of one key are carried out one after the
/// other and an answer is no older than its request.
pub trait Store: fmt::Debug + Send + Sync {
    /// Which store this is: the same for everyone who reaches it, and no other's.
    fn id(&self) -> &str;

    /// Reads or changes the key of a migration; says what it says then. An error means that nothing is
    /// known. Dropped before its end, it may or may not have been carried out.
    fn ask(&self, migration: MigrationId, request: StoreRequest) -> Answering<'_>;
}

/// Asks the store on behalf of the engine.
#[derive(Clone, Debug)]
pub(crate) struct StoreClient {
    link: Link,
    store: Option<Arc<dyn Store>>,
    requests: Arc<Semaphore>,
}

impl StoreClient {
    /// For this store, if there is one.
    pub(crate) fn new(link: Link, store: Option<Arc<dyn Store>>) -> StoreClient {
        StoreClient {
            link,
            store,
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        }
    }

    /// Asks without waiting; the engine gets the answer as an input.
    pub(crate) fn ask(&self, migration: MigrationId, request: StoreRequest) {
        let client = self.clone();
        tokio::spawn(async move {
            let result = client.answer(migration, request).await;
            if let Err(failure) = &result {
                debug!(%migration, %failure, "no answer from the store");
            }
            let answered = Input::StoreAnswered { migration, result };
            client.link.tell(answered).await;
        });
    }

    async fn answer(&self, migration: MigrationId, request: StoreRequest) -> StoreResult {
        let Some(store) = &self.store else {
            return Err(StoreFailure("there is no store".to_owned()));
        };
        let Ok(_permit) = self.requests.try_acquire() else {
            return Err(StoreFailure(format!(
                "{REQUESTS_MAX} requests are under way"
            )));
        };
        let wait = Duration::from_millis(STORE_WAIT_MS_MAX);
        match timeout(wait, store.ask(migration, request)).await {
            Ok(result) => result,
            Err(_) => Err(StoreFailure(format!(
                "no answer for {STORE_WAIT_MS_MAX} ms"
            ))),
        }
    }
}

/// A store in this process's memory, for tests: sidecars of one process can share it.
#[derive(Debug)]
pub struct MemoryStore {
    id: String,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    keys: BTreeMap<MigrationId, KeyValue>,
    is_down: bool,
}

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new(id: &str) -> MemoryStore {
        MemoryStore {
            id: id.to_owned(),
            inner: Mutex::default(),
        }
    }

    /// Nothing panics while it holds this lock, so what it guards is whole in any case.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While it is down it answers nobody and changes nothing.
    pub fn set_down(&self, is_down: bool) {
        self.inner().is_down = is_down;
    }

    /// Every key and what it says.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<MigrationId, KeyValue> {
        self.inner().keys.clone()
    }

    fn carry_out(&self, migration: MigrationId, request: StoreRequest) -> StoreResult {
        let mut inner = self.inner();
        if inner.is_down {
            return Err(StoreFailure("the store is down".to_owned()));
        }
        Ok(apply(&mut inner.keys, migration, request))
    }
}

impl Store for MemoryStore {
    fn id(&self) -> &str {
        &self.id
    }

    fn ask(&self, migration: MigrationId, request: StoreRequest) -> Answering<'_> {
        Box::pin(async move { self.carry_out(migration, request) })
    }
}

/// What a request does to the keys, and what its key says then.
fn apply(
    keys: &mut BTreeMap<MigrationId, KeyValue>,
    migration: MigrationId,
    request: StoreRequest,
) -> Option<KeyValue> {
    match request {
        StoreRequest::Read => {}
        StoreRequest::Change(KeyChange::Create(value)) => {
            keys.entry(migration).or_insert(value);
        }
        StoreRequest::Change(KeyChange::Replace { expected, new }) => {
            if let Some(value) = keys.get_mut(&migration).filter(|value| **value == expected) {
                *value = new;
            }
        }
        StoreRequest::Change(KeyChange::Delete) => {
            keys.remove(&migration);
        }
    }
    keys.get(&migration).copied()
}

#[cfg(test)]
mod tests {
    use super::super::link::Inbound;
    use super::*;
    use journal_format::number::{Id128, JournalId, Nonce};

    const MIGRATION: MigrationId = MigrationId(Id128([5; 16]));

    fn committed(byte: u8) -> KeyValue {
        KeyValue::Committed {
            journal: JournalId(Id128([byte; 16])),
            nonce: Nonce(Id128([byte; 16])),
        }
    }

    /// Never answers.
    #[derive(Debug)]
    struct SilentStore;

    impl Store for SilentStore {
        fn id(&self) -> &'static str {
            "silent"
        }

        fn ask(&self, _: MigrationId, _: StoreRequest) -> Answering<'_> {
            Box::pin(core::future::pending())
        }
    }

    async fn asked(store: Option<Arc<dyn Store>>, request: StoreRequest) -> StoreResult {
        let (link, mut inputs) = Link::new();
        StoreClient::new(link, store).ask(MIGRATION, request);
        match inputs.recv().await {
            Some(Inbound::Input(Input::StoreAnswered { migration, result })) => {
                assert_eq!(migration, MIGRATION);
                result
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_key_is_created_once_and_replaced_only_from_what_it_says() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new("one"));
        let ask = |request| asked(Some(store.clone()), request);
        let change = |change| ask(StoreRequest::Change(change));
        assert_eq!(ask(StoreRequest::Read).await, Ok(None));
        let first = change(KeyChange::Create(committed(1))).await;
        assert_eq!(first, Ok(Some(committed(1))));
        let second = change(KeyChange::Create(KeyValue::Aborted)).await;
        assert_eq!(second, Ok(Some(committed(1))), "create-only");
        let other = KeyChange::Replace {
            expected: committed(2),
            new: KeyValue::Aborted,
        };
        assert_eq!(
            change(other).await,
            Ok(Some(committed(1))),
            "not what it says"
        );
        let own = KeyChange::Replace {
            expected: committed(1),
            new: KeyValue::Started,
        };
        assert_eq!(change(own).await, Ok(Some(KeyValue::Started)));
        assert_eq!(change(KeyChange::Delete).await, Ok(None));
        assert_eq!(change(own).await, Ok(None), "nothing there to replace");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_given_up() {
        let silent: Arc<dyn Store> = Arc::new(SilentStore);
        assert!(asked(Some(silent), StoreRequest::Read).await.is_err());
        assert!(asked(None, StoreRequest::Read).await.is_err());
        let down = MemoryStore::new("down");
        down.set_down(true);
        let create = StoreRequest::Change(KeyChange::Create(KeyValue::Aborted));
        let down = Arc::new(down);
        let as_store: Arc<dyn Store> = down.clone();
        assert!(asked(Some(as_store), create).await.is_err());
        down.set_down(false);
        assert!(down.keys().is_empty());
    }
}
