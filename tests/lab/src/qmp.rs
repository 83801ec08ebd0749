//! A small blocking QMP client: for QEMU's monitors, and for the sidecar's control socket.
//!
//! Invariant: independent of the product's client, so that the harness does not inherit its faults.
//! Every read has a deadline; an answer is taken only with the id of its question.
//!
//! Not here: out-of-band commands, passed file descriptors.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Error, until};

/// How long one command may take. QEMU answers in milliseconds; a busy machine in seconds.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest line taken from a server, in bytes.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Events kept until somebody asks for them; older ones are dropped.
const EVENTS_MAX: usize = 10_000;

const READ_BYTES: usize = 64 * 1024;

/// One connection, past its greeting and `qmp_capabilities`.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    path: PathBuf,
    received: Vec<u8>,
    events: VecDeque<Event>,
    next_id: u64,
}

/// An event as the server sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, as `STOP`.
    pub name: String,
    /// Its data, or null.
    pub data: Value,
}

impl Qmp {
    /// Connects once.
    ///
    /// # Errors
    /// [`Error::Io`] when nobody listens, else as [`Qmp::execute`].
    pub fn connect(path: &Path, timeout: Duration) -> Result<Qmp, Error> {
        let stream = UnixStream::connect(path).map_err(Error::io("connecting to", path))?;
        stream
            .set_write_timeout(Some(timeout))
            .map_err(Error::io("using", path))?;
        let (received, events) = (Vec::new(), VecDeque::new());
        let mut qmp = Qmp {
            stream,
            path: path.to_path_buf(),
            received,
            events,
            next_id: 1,
        };
        let greeting = qmp.receive("greeting", Instant::now() + timeout, timeout)?;
        if greeting.get("QMP").is_none() {
            return Err(malformed(
                path.display(),
                format!("no QMP greeting: {greeting}"),
            ));
        }
        qmp.execute_within("qmp_capabilities", json!({}), timeout)?;
        Ok(qmp)
    }

    /// Connects as soon as somebody listens; `check` is asked between tries whether it is worth it.
    ///
    /// # Errors
    /// What `check` returns, [`Error::Deadline`], else as [`Qmp::execute`].
    pub fn connect_when_ready(
        path: &Path,
        timeout: Duration,
        mut check: impl FnMut() -> Result<(), Error>,
    ) -> Result<Qmp, Error> {
        until(&format!("listener at {}", path.display()), timeout, || {
            check()?;
            match Qmp::connect(path, timeout) {
                Ok(qmp) => Ok(Some(qmp)),
                Err(Error::Io { source, .. })
                    if matches!(
                        source.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) =>
                {
                    Ok(None)
                }
                // A server that is about to end; the check will say so.
                Err(Error::Closed { .. }) => Ok(None),
                Err(other) => Err(other),
            }
        })
    }

    /// Runs a command and returns what it returned.
    ///
    /// # Errors
    /// [`Error::Refused`] for an error of the server, [`Error::Closed`] when it died or left (the command
    /// may have run), [`Error::Deadline`] after [`COMMAND_TIMEOUT`], [`Error::Malformed`] for what is no QMP.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        self.execute_within(command, arguments, COMMAND_TIMEOUT)
    }

    /// As [`Qmp::execute`], with a deadline of its own.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn execute_within(
        &mut self,
        command: &str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<Value, Error> {
        let id = self.next_id;
        self.next_id += 1;
        let line = format!(
            "{}\n",
            json!({"execute": command, "arguments": arguments, "id": id})
        );
        match self.stream.write_all(line.as_bytes()) {
            Ok(()) => {}
            Err(problem) if is_closed(problem.kind()) => return Err(self.closed(command)),
            Err(problem) => return Err(Error::io("writing to", &self.path)(problem)),
        }
        let deadline = Instant::now() + timeout;
        loop {
            let mut answer = self.receive(command, deadline, timeout)?;
            if self.keep_event(&mut answer) {
                continue;
            }
            // Of a command that nobody waited for any longer.
            let late = answer.get("id").and_then(Value::as_u64);
            if late.is_some_and(|late| late < id) {
                continue;
            }
            if answer.get("id") != Some(&json!(id)) {
                return Err(malformed(
                    command,
                    format!("answer to another question: {answer}"),
                ));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            let text = |name: &str| answer["error"][name].as_str().map(str::to_owned);
            return match (text("class"), text("desc")) {
                (Some(class), Some(description)) => Err(Error::Refused {
                    command: command.to_owned(),
                    class,
                    description,
                }),
                _ => Err(malformed(
                    command,
                    format!("neither return nor error: {answer}"),
                )),
            };
        }
    }

    /// Takes the next event of that name for which `wanted` holds; events before it are dropped.
    ///
    /// # Errors
    /// [`Error::Deadline`] if it does not come, [`Error::Closed`] if the server left.
    pub fn wait_event(
        &mut self,
        name: &str,
        timeout: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Event, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.name == name && wanted(&event.data) {
                    return Ok(event);
                }
            }
            let mut answer = self.receive(name, deadline, timeout)?;
            if !self.keep_event(&mut answer) {
                return Err(malformed(
                    name,
                    format!("answer without a question: {answer}"),
                ));
            }
        }
    }

    /// Takes every event received so far, oldest first. Nothing is read.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    fn keep_event(&mut self, answer: &mut Value) -> bool {
        let Some(name) = answer.get("event").and_then(Value::as_str) else {
            return false;
        };
        let name = name.to_owned();
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            name,
            data: answer["data"].take(),
        });
        true
    }

    /// Reads one line.
    fn receive(
        &mut self,
        during: &str,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<Value, Error> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.received[searched..]
                .iter()
                .position(|&byte| byte == b'\n')
            {
                let line: Vec<u8> = self.received.drain(..=searched + end).collect();
                return serde_json::from_slice(&line).map_err(|problem| {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    malformed(during, format!("{problem}: {text}"))
                });
            }
            searched = self.received.len();
            if searched > LINE_BYTES_MAX {
                return Err(malformed(
                    during,
                    format!("no line end in {LINE_BYTES_MAX} bytes"),
                ));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.late(during, timeout));
            }
            self.stream
                .set_read_timeout(Some(left))
                .map_err(Error::io("using", &self.path))?;
            let mut bytes = [0; READ_BYTES];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(self.closed(during)),
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(problem) if is_closed(problem.kind()) => return Err(self.closed(during)),
                Err(problem)
                    if matches!(
                        problem.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(problem) => return Err(Error::io("reading from", &self.path)(problem)),
            }
        }
    }

    fn late(&self, during: &str, timeout: Duration) -> Error {
        Error::Deadline {
            waiting_for: format!("answer from {} during {during}", self.path.display()),
            after: timeout,
            logs: String::new(),
        }
    }

    fn closed(&self, command: &str) -> Error {
        Error::Closed {
            path: self.path.clone(),
            command: command.to_owned(),
        }
    }
}

fn is_closed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

pub(crate) fn malformed(from: impl ToString, problem: String) -> Error {
    Error::Malformed {
        from: from.to_string(),
        problem,
    }
}

/// A text that an answer must have.
pub(crate) fn member_text(value: &Value, member: &str, command: &str) -> Result<String, Error> {
    value[member]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| malformed(command, format!("no {member} in {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);
    const GREETING: &str = "{\"QMP\":{}}\n";
    const AGREED: &str = "{\"return\":{},\"id\":1}\n";

    /// A server that sends the greeting and one prepared text per line it receives, then leaves.
    fn check(answers: &[&str], body: impl FnOnce(Result<Qmp, Error>)) {
        let scratch = Scratch::create().unwrap();
        let path = scratch.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = BufReader::new(stream.try_clone().unwrap());
                for answer in answers {
                    stream.write_all(answer.as_bytes()).unwrap();
                    if asked.read_line(&mut String::new()).unwrap_or(0) == 0 {
                        return;
                    }
                }
            });
            body(Qmp::connect(&path, LONG));
        });
    }

    #[test]
    fn events_between_question_and_answer_are_kept() {
        let answer = "{\"event\":\"STOP\"}\n{\"event\":\"X\",\"data\":{\"a\":1}}\n{\"return\":[7],\"id\":2}\n{\"event\":\"X\",\"data\":{\"a\":2}}\n";
        check(&[GREETING, AGREED, answer], |qmp| {
            let mut qmp = qmp.unwrap();
            assert_eq!(qmp.execute("query-x", json!({})).unwrap(), json!([7]));
            let second = qmp.wait_event("X", LONG, |data| data["a"] == 2).unwrap();
            assert_eq!(second.data, json!({"a": 2}));
            assert!(qmp.take_events().is_empty());
        });
    }

    #[test]
    fn errors_keep_their_kind() {
        let refused = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"not now\"},\"id\":2}\n";
        check(&[GREETING, AGREED, refused], |qmp| {
            let refused = qmp.unwrap().execute("cont", json!({})).unwrap_err();
            assert_eq!(
                refused.to_string(),
                "cont was refused: GenericError: not now"
            );
        });
        check(&[GREETING, AGREED, "{\"return\":{},\"id\":3}\n"], |qmp| {
            let other = qmp.unwrap().execute("cont", json!({})).unwrap_err();
            assert!(
                other.to_string().contains("answer to another question"),
                "{other}"
            );
        });
        check(&["{}\n"], |qmp| {
            assert!(matches!(qmp, Err(Error::Malformed { .. })))
        });
        check(&["{\"QMP\":{}\n"], |qmp| {
            assert!(matches!(qmp, Err(Error::Malformed { .. })))
        });
    }

    #[test]
    fn a_server_that_leaves_or_is_silent() {
        check(&[GREETING, AGREED], |qmp| {
            let left = qmp.unwrap().execute("cont", json!({})).unwrap_err();
            assert!(matches!(left, Error::Closed { .. }), "{left}");
        });
        check(&[GREETING, AGREED, ""], |qmp| {
            let mut qmp = qmp.unwrap();
            let late = qmp.execute_within("query-x", json!({}), SHORT).unwrap_err();
            assert!(matches!(late, Error::Deadline { .. }), "{late}");
        });
    }

    #[test]
    fn a_wait_for_a_listener_ends_by_deadline_or_by_the_check() {
        let scratch = Scratch::create().unwrap();
        let path = scratch.path().join("nobody");
        let late = Qmp::connect_when_ready(&path, SHORT, || Ok(())).unwrap_err();
        assert!(matches!(late, Error::Deadline { .. }), "{late}");
        let dead = Qmp::connect_when_ready(&path, LONG, || Err(malformed("x", "dead".into())));
        assert!(matches!(dead, Err(Error::Malformed { .. })));
    }
}
