//! Between sidecars: asks others, and answers them, over Unix sockets with QMP's framing.
//!
//! Invariant: each ask ends once, in bounded time; an answer goes only to the connection that the
//! question came on. What was perhaps sent is never called not sent.
//! Not here: what is asked and answered (the engine), who may connect (`serve`).

use core::time::Duration;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal_format::number::{Id128, Nonce};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::control::generic;
use super::link::{Link, PeerAnswered};
use super::monitor::LOOK_WAIT_MS_MAX;
use crate::engine::{
    Envelope, Find, Found, FoundAt, Input, PEER_WAIT_MS_MAX, PeerFailure, PeerRequest, PeerResponse,
};
use crate::qmp::{Call, CommandError, QmpError, SidecarClient};

/// The command of the peer socket about migrations that two sidecars drive.
pub(crate) const PEER_COMMAND: &str = "peer-message";

/// The one about those that their manager drives, which older sidecars do not know.
const FIND_COMMAND: &str = "find-migration";

/// Most asks under way at the same time; more are not sent.
const ASKS_MAX: usize = 512;

/// The same of searches for another side: a handover's own questions do not wait for them.
const FINDS_MAX: usize = 256;

/// How long the answer to a search is waited for: as long as a look at a QEMU that is mute takes there, and a little.
const FIND_WAIT: Duration = Duration::from_millis(LOOK_WAIT_MS_MAX + 1_000);

/// Largest answer of another sidecar, in bytes: its cookie and a few names.
const ANSWER_SIZE_MAX: usize = 1024 * 1024;

/// Most idle connections that are kept, of all peers together.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// A question, as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Question {
    envelope: Envelope,
    message: PeerRequest,
}

/// An answer, as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Response {
    envelope: Envelope,
    message: PeerResponse,
}

/// A search, as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Search {
    envelope: Envelope,
    message: Find,
}

/// Its answer, as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SearchResult {
    envelope: Envelope,
    message: Found,
}

/// Answers a command on the peer socket.
///
/// # Errors
/// The command or its arguments are not what sidecars say, or the node has ended.
pub(crate) async fn execute(link: &Link, call: Call) -> Result<Value, CommandError> {
    let name = call.name;
    let arguments = call.arguments.unwrap_or_default();
    match name.as_str() {
        PEER_COMMAND => {}
        FIND_COMMAND => return find(link, arguments).await,
        _ => {
            return Err(CommandError {
                class: "CommandNotFound",
                description: format!("The command {name} has not been found"),
            });
        }
    }
    let question: Question = serde_json::from_value(arguments)
        .map_err(|error| generic(format_args!("{PEER_COMMAND}: {error}")))?;
    let nonce = Nonce(Id128::random());
    let (envelope, message) = link
        .peer(question.envelope, nonce, question.message)
        .await?;
    serde_json::to_value(Response { envelope, message }).map_err(generic)
}

async fn find(link: &Link, arguments: Value) -> Result<Value, CommandError> {
    let search: Search = serde_json::from_value(arguments)
        .map_err(|error| generic(format_args!("{FIND_COMMAND}: {error}")))?;
    let (envelope, message) = link.find(search.envelope, search.message).await?;
    serde_json::to_value(SearchResult { envelope, message }).map_err(generic)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn too_many(max: usize) -> PeerFailure {
    PeerFailure::NotSent(format!(
        "{max} such questions to other sidecars are under way"
    ))
}

/// Connections to other sidecars that nobody uses at the moment, by peer socket.
type Idle = HashMap<String, Vec<SidecarClient>>;

/// Asks other sidecars.
#[derive(Clone, Debug)]
pub(crate) struct PeerClients {
    link: Link,
    idle: Arc<Mutex<Idle>>,
    asks: Arc<Semaphore>,
    finds: Arc<Semaphore>,
    /// Where the other side of a migration may be that its manager drives.
    configured: Arc<[String]>,
}

impl PeerClients {
    /// Without any connection. In these peer sockets the other side of a migration is looked for that its manager drives.
    pub(crate) fn new(link: Link, configured: Vec<PathBuf>) -> PeerClients {
        let configured = configured.into_iter();
        PeerClients {
            configured: configured
                .map(|path| path.to_string_lossy().into_owned())
                .collect(),
            link,
            idle: Arc::default(),
            asks: Arc::new(Semaphore::new(ASKS_MAX)),
            finds: Arc::new(Semaphore::new(FINDS_MAX)),
        }
    }

    /// Asks without waiting; the engine gets the answer as an input.
    pub(crate) fn ask(&self, peer: String, envelope: Envelope, request: PeerRequest) {
        let migration = request.migration();
        let clients = self.clone();
        tokio::spawn(async move {
            let result = match clients.asks.clone().try_acquire_owned() {
                Ok(_permit) => clients.answer(&peer, envelope, request).await,
                Err(_) => Err(too_many(ASKS_MAX)),
            };
            if let Err(failure) = &result {
                debug!(%migration, %peer, ?failure, "no answer from peer");
            }
            clients
                .link
                .tell(Input::PeerAnswered { migration, result })
                .await;
        });
    }

    /// Asks all that are configured at the same time, without waiting; the engine gets what they say as one input.
    pub(crate) fn find(&self, number: u64, envelope: Envelope, find: Find) {
        let clients = self.clone();
        tokio::spawn(async move {
            let mut asked = JoinSet::new();
            for peer in clients.configured.iter().cloned() {
                let clients = clients.clone();
                asked.spawn(async move {
                    let result = clients.found(&peer, envelope, find).await;
                    if let Err(failure) = &result {
                        debug!(domain = %find.domain, %peer, ?failure, "no answer from peer");
                    }
                    FoundAt { peer, result }
                });
            }
            let answers = asked.join_all().await;
            clients.link.tell(Input::Found { number, answers }).await;
        });
    }

    async fn found(
        &self,
        peer: &str,
        envelope: Envelope,
        message: Find,
    ) -> Result<(Envelope, Found), PeerFailure> {
        let Ok(_permit) = self.finds.clone().try_acquire_owned() else {
            return Err(too_many(FINDS_MAX));
        };
        let search = Search { envelope, message };
        let deadline = Instant::now() + FIND_WAIT;
        let result: SearchResult = self.converse(peer, FIND_COMMAND, &search, deadline).await?;
        Ok((result.envelope, result.message))
    }

    async fn answer(
        &self,
        peer: &str,
        envelope: Envelope,
        message: PeerRequest,
    ) -> Result<PeerAnswered, PeerFailure> {
        let question = Question { envelope, message };
        let deadline = Instant::now() + Duration::from_millis(PEER_WAIT_MS_MAX);
        let response: Response = self
            .converse(peer, PEER_COMMAND, &question, deadline)
            .await?;
        Ok((response.envelope, response.message))
    }

    async fn converse<Q: Serialize, A: DeserializeOwned>(
        &self,
        peer: &str,
        command: &str,
        question: &Q,
        deadline: Instant,
    ) -> Result<A, PeerFailure> {
        let question = serde_json::to_value(question)
            .map_err(|error| PeerFailure::NotSent(error.to_string()))?;
        // A kept connection may be dead since the peer was restarted. Asking twice does no harm:
        // every question may be repeated.
        let mut answer = match self.take(peer) {
            Some(kept) => {
                self.ask_over(peer, kept, (command, &question), deadline)
                    .await
            }
            None => Err(PeerFailure::NotSent("not connected yet".to_owned())),
        };
        let was_sent = matches!(answer, Err(PeerFailure::Unreachable(_)));
        if was_sent || matches!(answer, Err(PeerFailure::NotSent(_))) {
            answer = match self.open(peer, deadline).await {
                Ok(fresh) => {
                    self.ask_over(peer, fresh, (command, &question), deadline)
                        .await
                }
                Err(why) if was_sent => Err(PeerFailure::Unreachable(why)),
                Err(why) => Err(PeerFailure::NotSent(why)),
            };
        }
        serde_json::from_value(answer?)
            .map_err(|error| PeerFailure::Unreachable(format!("{peer}: {error}")))
    }

    async fn open(&self, peer: &str, deadline: Instant) -> Result<SidecarClient, String> {
        // What a peer's server says by itself matters to nobody here.
        let path = Path::new(peer);
        match SidecarClient::connect_bounded(path, left(deadline), ANSWER_SIZE_MAX).await {
            Ok((connection, _events)) => Ok(connection),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Asks over one connection, which is kept if it stays usable.
    async fn ask_over(
        &self,
        peer: &str,
        connection: SidecarClient,
        (command, question): (&str, &Value),
        deadline: Instant,
    ) -> Result<Value, PeerFailure> {
        let asking = connection.call(command, question.clone(), left(deadline));
        match asking.await {
            Ok(answer) => {
                self.keep(peer, connection);
                Ok(answer)
            }
            Err(QmpError::Refused { description, .. }) => {
                self.keep(peer, connection);
                Err(PeerFailure::Refused(description))
            }
            Err(error @ (QmpError::NotSent { .. } | QmpError::Busy)) => {
                Err(PeerFailure::NotSent(format!("{peer}: {error}")))
            }
            Err(
                error @ (QmpError::Lost { .. }
                | QmpError::TimedOut { .. }
                | QmpError::Connect { .. }
                | QmpError::NoGreeting { .. }
                | QmpError::NotQmp { .. }
                | QmpError::NotAQuery { .. }),
            ) => Err(PeerFailure::Unreachable(format!("{peer}: {error}"))),
        }
    }

    /// Nothing panics while it holds this lock, so what it guards is whole in any case.
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, peer: &str) -> Option<SidecarClient> {
        self.idle().get_mut(peer)?.pop()
    }

    fn keep(&self, peer: &str, connection: SidecarClient) {
        let mut idle = self.idle();
        let count: usize = idle.values().map(Vec::len).sum();
        if count >= IDLE_CONNECTIONS_MAX {
            idle.clear();
        }
        idle.entry(peer.to_owned()).or_default().push(connection);
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::Inbound;
    use super::super::serve::{Requests, serve_peers};
    use super::*;
    use crate::engine::Message;
    use crate::qmp::{ServerOptions, bind, serve};
    use journal_format::number::{
        DomainId, Epoch, JournalId, Lsn, MigrationId, OpeningId, Position,
    };
    use journal_format::record::PeerAnswer;
    use serde_json::json;
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    const MIGRATION: MigrationId = MigrationId(Id128([5; 16]));

    fn envelope(lsn: u64) -> Envelope {
        Envelope {
            sender: Position {
                journal: JournalId(Id128([1; 16])),
                epoch: Epoch(1),
                opening: OpeningId(Id128([2; 16])),
                lsn: Lsn(lsn),
            },
            saw: None,
        }
    }

    fn response() -> PeerResponse {
        PeerResponse::Answer {
            answer: PeerAnswer::Performing,
            cookie: None,
        }
    }

    /// A sidecar's peer socket; whatever is asked gets the same answer.
    fn answering(path: &Path) -> [JoinHandle<()>; 2] {
        let (link, mut inbound) = Link::new();
        let listener = bind(path).unwrap();
        let server = tokio::spawn(serve_peers(listener, link.clone(), Requests::default()));
        let engine = tokio::spawn(async move {
            while let Some(Inbound::Input(Input::Peer { token, .. })) = inbound.recv().await {
                let reply = Message::PeerReply {
                    token,
                    envelope: envelope(8),
                    response: response(),
                    rests_on: None,
                };
                link.answer(vec![reply], 1);
            }
        });
        [server, engine]
    }

    async fn ask(
        clients: &PeerClients,
        inbound: &mut mpsc::Receiver<Inbound>,
        path: &Path,
    ) -> Result<PeerAnswered, PeerFailure> {
        let request = PeerRequest::Ask {
            migration: MIGRATION,
        };
        clients.ask(path.to_str().unwrap().to_owned(), envelope(7), request);
        match inbound.recv().await {
            Some(Inbound::Input(Input::PeerAnswered { migration, result })) => {
                assert_eq!(migration, MIGRATION);
                result
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn asked_answered_and_asked_again_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peer.sock");
        let (link, mut inbound) = Link::new();
        let clients = PeerClients::new(link, Vec::new());
        let nobody = ask(&clients, &mut inbound, &path).await;
        assert!(matches!(nobody, Err(PeerFailure::NotSent(_))), "{nobody:?}");
        for _restart in 0..2 {
            let sidecar = answering(&path);
            for _ask in 0..2 {
                let answer = ask(&clients, &mut inbound, &path).await;
                assert_eq!(answer, Ok((envelope(8), response())));
            }
            assert_eq!(clients.idle().values().map(Vec::len).sum::<usize>(), 1);
            for task in sidecar {
                task.abort();
                drop(task.await);
            }
        }
        let gone = ask(&clients, &mut inbound, &path).await;
        assert!(gone.is_err(), "{gone:?}");
    }

    const GUEST: DomainId = DomainId(Id128([6; 16]));

    /// All are asked, and what each says comes at once: nobody there, one that knows no such command, one that says what no sidecar
    /// does, and one that has it.
    #[tokio::test]
    async fn everyone_that_is_configured_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let start = |name: &str, answer: Result<Value, &'static str>| {
            let listener = bind(&at(name)).unwrap();
            let options = ServerOptions {
                greeting: json!({}),
                clients_max: 4,
                message_size_max: 4096,
            };
            let handler = move |_call: Call| {
                let answer = answer.clone();
                async move { answer.map_err(CommandError::generic) }
            };
            tokio::spawn(serve(listener, options, None, handler))
        };
        let found = Found {
            domain: GUEST,
            job: Some(Lsn(7)),
            stands: PeerAnswer::NotWhole,
        };
        let said = SearchResult {
            envelope: envelope(9),
            message: found,
        };
        let _servers = [
            start(
                "older",
                Err("The command find-migration has not been found"),
            ),
            start("other", Ok(json!({"domain": "guest"}))),
            start("it", Ok(serde_json::to_value(&said).unwrap())),
        ];
        let peers = ["nobody", "older", "other", "it"].map(at);
        let (link, mut inbound) = Link::new();
        let clients = PeerClients::new(link, peers.to_vec());
        let find = Find {
            domain: GUEST,
            job: None,
        };
        clients.find(3, envelope(7), find);
        let Some(Inbound::Input(Input::Found { number, answers })) = inbound.recv().await else {
            panic!("the answers");
        };
        assert_eq!((number, answers.len()), (3, 4));
        for FoundAt { peer, result } in answers {
            let name = Path::new(&peer).file_name().unwrap().to_str().unwrap();
            match (name, result) {
                ("nobody", Err(PeerFailure::NotSent(_)))
                | ("older", Err(PeerFailure::Refused(_)))
                | ("other", Err(PeerFailure::Unreachable(_))) => {}
                ("it", Ok(answer)) => assert_eq!(answer, (envelope(9), found)),
                (name, result) => panic!("{name}: {result:?}"),
            }
        }
    }

    /// A peer that accepts and never answers keeps as many searches as there may be; the next one is told so, and a handover's own question
    /// does not wait for them.
    #[tokio::test]
    async fn searches_have_a_limit_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let (mute, path) = (directory.path().join("mute"), directory.path().join("peer"));
        let _mute = bind(&mute).unwrap();
        let (link, mut inbound) = Link::new();
        let clients = PeerClients::new(link, vec![mute]);
        let find = Find {
            domain: GUEST,
            job: None,
        };
        for number in 0..=FINDS_MAX as u64 {
            clients.find(number, envelope(7), find);
        }
        let Some(Inbound::Input(Input::Found { answers, .. })) = inbound.recv().await else {
            panic!("the answers");
        };
        let said = match answers.as_slice() {
            [
                FoundAt {
                    result: Err(PeerFailure::NotSent(why)),
                    ..
                },
            ] => why,
            other => panic!("{other:?}"),
        };
        assert!(said.starts_with("256 such questions"), "{said}");
        assert_eq!(clients.finds.available_permits(), 0);
        let _sidecar = answering(&path);
        let answer = ask(&clients, &mut inbound, &path).await;
        assert_eq!(answer, Ok((envelope(8), response())));
    }

    /// Who says more than any sidecar does is not listened to to the end.
    #[tokio::test]
    async fn an_answer_has_a_largest_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peer");
        let options = ServerOptions {
            greeting: json!({}),
            clients_max: 4,
            message_size_max: 4096,
        };
        let long = "x".repeat(2 * ANSWER_SIZE_MAX);
        let handler = move |_call: Call| {
            let answer = json!({"long": long});
            async move { Ok(answer) }
        };
        let _server = tokio::spawn(serve(bind(&path).unwrap(), options, None, handler));
        let (link, mut inbound) = Link::new();
        let clients = PeerClients::new(link, Vec::new());
        let failure = ask(&clients, &mut inbound, &path).await.unwrap_err();
        match failure {
            PeerFailure::Unreachable(why) => assert!(why.contains("longer than"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_no_sidecar_says_is_refused() {
        let (link, _inbound) = Link::new();
        let cases = [
            ("migrate-domain", json!({}), "has not been found"),
            (PEER_COMMAND, json!({}), "missing field `envelope`"),
            (
                PEER_COMMAND,
                json!({"envelope": envelope(1), "message": {"request": "dance"}}),
                "unknown variant `dance`",
            ),
            (
                PEER_COMMAND,
                json!({"envelope": envelope(1), "message": {"request": "ask"}}),
                "missing field `migration`",
            ),
            (FIND_COMMAND, json!({}), "missing field `envelope`"),
            (
                FIND_COMMAND,
                json!({"envelope": envelope(1), "message": {"domain": "guest"}}),
                "find-migration: ",
            ),
            (
                FIND_COMMAND,
                json!({"envelope": envelope(1), "message": {"domain": GUEST, "since": 7}}),
                "unknown field `since`",
            ),
        ];
        for (name, arguments, expected) in cases {
            let call = Call {
                uid: 0,
                name: name.to_owned(),
                arguments: Some(arguments),
            };
            let error = execute(&link, call).await.unwrap_err();
            assert!(error.description.contains(expected), "{error:?}");
        }
    }
}
