//! A QMP server: the control socket and the peer socket.
//!
//! Invariant: clients, message sizes and waits are bounded; a client that does not read is cut off
//! and holds up nobody. One command of a client is in progress at a time, so that answers come in
//! order.
//! Not here: what commands do.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::timeout;

use super::codec::{SplitError, Splitter};

/// Bytes read at once.
const READ_SIZE: usize = 16 * 1024;
/// How long a client may take to read what it is sent.
const WRITE_WAIT: Duration = Duration::from_secs(5);
/// How long to wait before accepting again when the system refuses to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A command that a client sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The client's user, as the kernel says.
    pub uid: u32,
    /// The command.
    pub name: String,
    /// Its arguments, if it came with any.
    pub arguments: Option<Value>,
}

/// An error as QMP has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// QMP's class, such as `GenericError`.
    pub class: &'static str,
    /// One line that names what is wrong.
    pub description: String,
}

impl CommandError {
    pub(crate) fn generic(description: impl Into<String>) -> CommandError {
        CommandError {
            class: "GenericError",
            description: description.into(),
        }
    }
}

/// How a server greets and what it allows.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The value of `QMP` in the greeting.
    pub greeting: Value,
    /// Clients at the same time, at the most; one more is turned away.
    pub clients_max: usize,
    /// Largest message of a client, in bytes.
    pub message_size_max: usize,
}

/// Makes a listening socket that only its owner can connect to. What a dead process left at its
/// path is removed; a socket on which somebody answers is not.
///
/// # Errors
/// As the system says; `AddrInUse` if somebody answers there.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    // This name is no longer than the path: what fits into an address there fits here.
    bind_over(path, &path.with_extension("new"))
}

/// The same with `new` as the name that it has at first.
///
/// # Errors
/// As for [`bind`].
pub(crate) fn bind_over(path: &Path, new: &Path) -> io::Result<UnixListener> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            let why = format!("somebody already listens on {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => remove_socket(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Bound under another name first: nobody connects before the permissions are right.
    match remove_socket(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = bind_new(new)?;
    std::fs::rename(new, path)?;
    Ok(listener)
}

/// Makes a listening socket where there is nothing, that only its owner can connect to.
///
/// # Errors
/// As the system says.
pub(crate) fn bind_new(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Removes a socket, and nothing else: a file of another kind is somebody's.
///
/// # Errors
/// As the system says; `AlreadyExists` if it is no socket.
pub fn remove_socket(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        let why = format!("{} is there and is no socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    std::fs::remove_file(path)
}

/// Serves clients until it is dropped. Each command goes to `handler`; what comes out of `events`
/// (name and data) goes to every client that has negotiated.
pub async fn serve<H, F>(
    listener: UnixListener,
    options: ServerOptions,
    events: Option<broadcast::Sender<(&'static str, Value)>>,
    handler: H,
) where
    H: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Value, CommandError>> + Send + 'static,
{
    let options = Arc::new(options);
    let places = Arc::new(Semaphore::new(options.clients_max));
    let mut clients = tokio::task::JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Without a place the connection is closed at once, which a client sees.
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let (options, handler) = (options.clone(), handler.clone());
        let events = events.as_ref().map(broadcast::Sender::subscribe);
        clients.spawn(async move {
            let _place = place;
            // However a client ends, it is its own end only.
            if let Ok(mut client) = ServedClient::new(stream, &options) {
                drop(client.run(&options, events, handler).await);
            }
        });
    }
}

/// Why a client is no longer served.
#[derive(Debug)]
enum Ended {
    /// It left, or does not read.
    Gone,
}

struct ServedClient {
    reading: OwnedReadHalf,
    writing: OwnedWriteHalf,
    splitter: Splitter,
    uid: u32,
}

/// A line of a client, as far as it can be understood.
enum Line {
    Command {
        id: Option<Value>,
        call: Call,
    },
    Wrong {
        id: Option<Value>,
        error: CommandError,
    },
    /// Wrong, and there is no telling where the next line begins.
    Broken(SplitError),
}

impl ServedClient {
    fn new(stream: UnixStream, options: &ServerOptions) -> io::Result<ServedClient> {
        let uid = stream.peer_cred()?.uid();
        let (reading, writing) = stream.into_split();
        let splitter = Splitter::new(options.message_size_max);
        Ok(ServedClient {
            reading,
            writing,
            splitter,
            uid,
        })
    }

    async fn run<H, F>(
        &mut self,
        options: &ServerOptions,
        mut events: Option<broadcast::Receiver<(&'static str, Value)>>,
        handler: H,
    ) -> Result<(), Ended>
    where
        H: Fn(Call) -> F,
        F: Future<Output = Result<Value, CommandError>>,
    {
        self.write(&json!({"QMP": options.greeting})).await?;
        self.negotiate().await?;
        // Events from before the negotiation are not for this client.
        if let Some(events) = &mut events {
            *events = events.resubscribe();
        }
        loop {
            let line = tokio::select! {
                line = read_line(&mut self.reading, &mut self.splitter, self.uid) => line?,
                event = next_event(&mut events) => {
                    self.write(&event?).await?;
                    continue;
                }
            };
            let (id, result) = match line {
                Line::Command { id, call } if call.name == "qmp_capabilities" => {
                    let error = CommandError {
                        class: "CommandNotFound",
                        description:
                            "Capabilities negotiation is already complete, command ignored"
                                .to_owned(),
                    };
                    (id, Err(error))
                }
                Line::Command { id, call } => {
                    (id, self.carry_out(handler(call), &mut events).await?)
                }
                Line::Wrong { id, error } => (id, Err(error)),
                Line::Broken(error) => return self.give_up(error).await,
            };
            self.answer(id, result).await?;
        }
    }

    /// Waits for a command's result, and passes events on meanwhile.
    async fn carry_out<F>(
        &mut self,
        command: F,
        events: &mut Option<broadcast::Receiver<(&'static str, Value)>>,
    ) -> Result<Result<Value, CommandError>, Ended>
    where
        F: Future<Output = Result<Value, CommandError>>,
    {
        let mut command = core::pin::pin!(command);
        loop {
            tokio::select! {
                result = &mut command => return Ok(result),
                event = next_event(events) => self.write(&event?).await?,
            }
        }
    }

    async fn negotiate(&mut self) -> Result<(), Ended> {
        loop {
            let line = read_line(&mut self.reading, &mut self.splitter, self.uid).await?;
            match line {
                Line::Command { id, call } if call.name == "qmp_capabilities" => {
                    return self.answer(id, Ok(json!({}))).await;
                }
                Line::Command { id, .. } => {
                    let error = CommandError {
                        class: "CommandNotFound",
                        description: "Expecting capabilities negotiation with 'qmp_capabilities'"
                            .to_owned(),
                    };
                    self.answer(id, Err(error)).await?;
                }
                Line::Wrong { id, error } => self.answer(id, Err(error)).await?,
                Line::Broken(error) => return self.give_up(error).await,
            }
        }
    }

    async fn give_up(&mut self, error: SplitError) -> Result<(), Ended> {
        self.answer(None, Err(CommandError::generic(error.to_string())))
            .await?;
        Err(Ended::Gone)
    }

    async fn answer(
        &mut self,
        id: Option<Value>,
        result: Result<Value, CommandError>,
    ) -> Result<(), Ended> {
        let mut message = Map::new();
        match result {
            Ok(value) => message.insert("return".to_owned(), value),
            Err(error) => message.insert(
                "error".to_owned(),
                json!({"class": error.class, "desc": error.description}),
            ),
        };
        if let Some(id) = id {
            message.insert("id".to_owned(), id);
        }
        self.write(&Value::Object(message)).await
    }

    async fn write(&mut self, message: &Value) -> Result<(), Ended> {
        let line = format!("{message}\r\n");
        match timeout(WRITE_WAIT, self.writing.write_all(line.as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended::Gone),
        }
    }
}

/// Cancel-safe: what was read stays in the splitter.
async fn read_line(
    reading: &mut OwnedReadHalf,
    splitter: &mut Splitter,
    uid: u32,
) -> Result<Line, Ended> {
    let mut bytes = vec![0; READ_SIZE];
    loop {
        match splitter.next_object() {
            Some(Ok(object)) => return Ok(understand(&object, uid)),
            Some(Err(error)) if error.is_recoverable() => {
                let error = CommandError::generic(error.to_string());
                return Ok(Line::Wrong { id: None, error });
            }
            Some(Err(error)) => return Ok(Line::Broken(error)),
            None => match reading.read(&mut bytes).await {
                Ok(0) | Err(_) => return Err(Ended::Gone),
                Ok(size) => splitter.push(&bytes[..size]),
            },
        }
    }
}

/// What a client's object means.
fn understand(object: &[u8], uid: u32) -> Line {
    let mut object: Map<String, Value> = match serde_json::from_slice(object) {
        Ok(object) => object,
        Err(error) => {
            let error = CommandError::generic(format!("JSON parse error: {error}"));
            return Line::Wrong { id: None, error };
        }
    };
    let id = object.remove("id");
    let name = match object.remove("execute") {
        Some(Value::String(name)) => name,
        Some(_) => {
            let error = CommandError::generic("QMP input member 'execute' must be a string");
            return Line::Wrong { id, error };
        }
        None => {
            let error = CommandError::generic("QMP input lacks member 'execute'");
            return Line::Wrong { id, error };
        }
    };
    let arguments = object.remove("arguments");
    if let Some(unknown) = object.keys().next() {
        let error = CommandError::generic(format!("QMP input member '{unknown}' is unexpected"));
        return Line::Wrong { id, error };
    }
    Line::Command {
        id,
        call: Call {
            uid,
            name,
            arguments,
        },
    }
}

/// The next event as a message. A client that is too far behind has missed some, and is cut off:
/// after its next connect it looks for itself.
async fn next_event(
    events: &mut Option<broadcast::Receiver<(&'static str, Value)>>,
) -> Result<Value, Ended> {
    let Some(receiver) = events else {
        return core::future::pending().await;
    };
    match receiver.recv().await {
        Ok((name, data)) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let timestamp = json!({"seconds": now.as_secs(), "microseconds": now.subsec_micros()});
            Ok(json!({"event": name, "data": data, "timestamp": timestamp}))
        }
        Err(broadcast::error::RecvError::Lagged(_)) => Err(Ended::Gone),
        Err(broadcast::error::RecvError::Closed) => {
            *events = None;
            core::future::pending().await
        }
    }
}
