//! Between sidecars: asks others, and answers them, over Unix sockets with QMP's framing.
//!
//! Invariant: each ask ends once, in bounded time; an answer goes only to the connection that the
//! question came on. What was perhaps sent is never called not sent.
//! Not here: what is asked and answered (the engine), who may connect (`serve`).

use core::time::Duration;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal_format::number::{Id128, Nonce};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::debug;

use super::control::generic;
use super::link::{Link, PeerAnswered};
use crate::engine::{Envelope, Input, PEER_WAIT_MS_MAX, PeerFailure, PeerRequest, PeerResponse};
use crate::qmp::{Call, CommandError, QmpError, SidecarClient};

/// The one command of the peer socket.
pub(crate) const PEER_COMMAND: &str = "peer-message";

/// Most asks under way at the same time; more are not sent.
const ASKS_MAX: usize = 512;

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

/// Answers a command on the peer socket.
///
/// # Errors
/// The command or its arguments are not what sidecars say, or the node has ended.
pub(crate) async fn execute(link: &Link, call: Call) -> Result<Value, CommandError> {
    let name = call.name;
    if name != PEER_COMMAND {
        return Err(CommandError {
            class: "CommandNotFound",
            description: format!("The command {name} has not been found"),
        });
    }
    let question: Question = serde_json::from_value(call.arguments.unwrap_or_default())
        .map_err(|error| generic(format_args!("{PEER_COMMAND}: {error}")))?;
    let nonce = Nonce(Id128::random());
    let (envelope, message) = link
        .peer(question.envelope, nonce, question.message)
        .await?;
    serde_json::to_value(Response { envelope, message }).map_err(generic)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Connections to other sidecars that nobody uses at the moment, by peer socket.
type Idle = HashMap<String, Vec<SidecarClient>>;

/// Asks other sidecars.
#[derive(Clone, Debug)]
pub(crate) struct PeerClients {
    link: Link,
    idle: Arc<Mutex<Idle>>,
    asks: Arc<Semaphore>,
}

impl PeerClients {
    /// Without any connection.
    pub(crate) fn new(link: Link) -> PeerClients {
        PeerClients {
            link,
            idle: Arc::default(),
            asks: Arc::new(Semaphore::new(ASKS_MAX)),
        }
    }

    /// Asks without waiting; the engine gets the answer as an input.
    pub(crate) fn ask(&self, peer: String, envelope: Envelope, request: PeerRequest) {
        let migration = request.migration();
        let clients = self.clone();
        tokio::spawn(async move {
            let result = match clients.asks.clone().try_acquire_owned() {
                Ok(_permit) => clients.answer(&peer, envelope, request).await,
                Err(_) => Err(PeerFailure::NotSent(format!(
                    "{ASKS_MAX} questions to other sidecars are under way"
                ))),
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

    async fn answer(
        &self,
        peer: &str,
        envelope: Envelope,
        message: PeerRequest,
    ) -> Result<PeerAnswered, PeerFailure> {
        let deadline = Instant::now() + Duration::from_millis(PEER_WAIT_MS_MAX);
        let question = serde_json::to_value(Question { envelope, message })
            .map_err(|error| PeerFailure::NotSent(error.to_string()))?;
        // A kept connection may be dead since the peer was restarted. Asking twice does no harm:
        // every question may be repeated.
        let mut answer = match self.take(peer) {
            Some(kept) => self.ask_over(peer, kept, &question, deadline).await,
            None => Err(PeerFailure::NotSent("not connected yet".to_owned())),
        };
        let was_sent = matches!(answer, Err(PeerFailure::Unreachable(_)));
        if was_sent || matches!(answer, Err(PeerFailure::NotSent(_))) {
            answer = match self.open(peer, deadline).await {
                Ok(fresh) => self.ask_over(peer, fresh, &question, deadline).await,
                Err(why) if was_sent => Err(PeerFailure::Unreachable(why)),
                Err(why) => Err(PeerFailure::NotSent(why)),
            };
        }
        let answer = answer?;
        let response: Response = serde_json::from_value(answer)
            .map_err(|error| PeerFailure::Unreachable(format!("{peer}: {error}")))?;
        Ok((response.envelope, response.message))
    }

    async fn open(&self, peer: &str, deadline: Instant) -> Result<SidecarClient, String> {
        // What a peer's server says by itself matters to nobody here.
        match SidecarClient::connect(Path::new(peer), left(deadline)).await {
            Ok((connection, _events)) => Ok(connection),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Asks over one connection, which is kept if it stays usable.
    async fn ask_over(
        &self,
        peer: &str,
        connection: SidecarClient,
        question: &Value,
        deadline: Instant,
    ) -> Result<Value, PeerFailure> {
        let asking = connection.call(PEER_COMMAND, question.clone(), left(deadline));
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
    use crate::qmp::bind;
    use journal_format::number::{Epoch, JournalId, Lsn, MigrationId, OpeningId, Position};
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
        let clients = PeerClients::new(link);
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
