//! The two servers: who may ask, and how many requests are being carried out.
//!
//! Invariant: only root and the sidecar's own user are answered; the sidecar does not end before
//! everyone who waits was told, or had time to be.
//! Not here: what is asked (`control`, `peer`), the wire (`qmp`).

use core::time::Duration;
use std::sync::Arc;

use rustix::process::getuid;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep, timeout};

use super::control::{Control, PACKAGE};
use super::link::Link;
use super::peer;
use crate::qmp::{Call, CommandError, ServerOptions, serve};

/// Most clients of one socket at the same time.
const CLIENTS_MAX: usize = 512;

/// Largest message of a client, in bytes: the largest definition, every character of it escaped.
const MESSAGE_SIZE_MAX: usize = 4 * 1024 * 1024;

/// How long the servers live on when the last request was carried out, in milliseconds, so that its
/// answer is written too.
const LINGER_MS: u64 = 100;

/// Counts the requests that are being carried out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<watch::Sender<usize>>);

/// One request, for as long as it is carried out.
#[derive(Debug)]
struct Request(Requests);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

impl Requests {
    fn begin(&self) -> Request {
        self.0.send_modify(|count| *count += 1);
        Request(self.clone())
    }

    /// Returns when all are answered, or after `wait`.
    pub(crate) async fn finished(&self, wait: Duration) {
        let mut count = self.0.subscribe();
        let finished = async {
            // Cannot fail: the sender is ours.
            drop(count.wait_for(|count| *count == 0).await);
            sleep(Duration::from_millis(LINGER_MS)).await;
        };
        drop(timeout(wait, finished).await);
    }
}

/// Serves the control socket until it is dropped.
pub(crate) async fn serve_control(
    listener: UnixListener,
    control: Control,
    events: broadcast::Sender<(&'static str, Value)>,
    requests: Requests,
) {
    let handler = move |call: Call| {
        let control = control.clone();
        let request = requests.begin();
        async move {
            let _request = request;
            check_user(call.uid)?;
            control.execute(call).await
        }
    };
    serve(listener, options(), Some(events), handler).await;
}

/// Serves the peer socket until it is dropped.
pub(crate) async fn serve_peers(listener: UnixListener, link: Link, requests: Requests) {
    let handler = move |call: Call| {
        let link = link.clone();
        let request = requests.begin();
        async move {
            let _request = request;
            check_user(call.uid)?;
            peer::execute(&link, call).await
        }
    };
    serve(listener, options(), None, handler).await;
}

/// The greeting says what `query-version` says.
fn options() -> ServerOptions {
    ServerOptions {
        greeting: json!({"version": version(), "capabilities": []}),
        clients_max: CLIENTS_MAX,
        message_size_max: MESSAGE_SIZE_MAX,
    }
}

/// This program as QMP describes a QEMU.
pub(crate) fn version() -> Value {
    json!({
        "qemu": {"major": 0, "minor": 1, "micro": 0},
        "package": PACKAGE,
    })
}

fn check_user(uid: u32) -> Result<(), CommandError> {
    let own = getuid().as_raw();
    if uid == 0 || uid == own {
        return Ok(());
    }
    Err(CommandError {
        class: "GenericError",
        description: format!("user {uid} may not speak to the sidecar of user {own}"),
    })
}
