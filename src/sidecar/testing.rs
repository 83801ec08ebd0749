//! A fake QEMU for tests: a process of its own that answers its monitor by a script.
//!
//! Invariant: it is a real process with a real socket, so that pids, pidfds and peer credentials
//! are what they are in life; it ends with the test that started it.
//! Not here: anything a real QEMU decides by itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use journal_format::number::{BootId, Id128};
use journal_format::record::Instance;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Environment variables that make the test binary a fake QEMU.
const SOCKET_VARIABLE: &str = "FAKE_QEMU_SOCKET";
const SCRIPT_VARIABLE: &str = "FAKE_QEMU_SCRIPT";

/// The boot in which fake QEMUs run.
pub(crate) fn boot() -> BootId {
    BootId(Id128([7; 16]))
}

/// A fake QEMU that runs.
#[derive(Debug)]
pub(crate) struct FakeQemu {
    process: Child,
    /// What it reports: one line per command.
    report: mpsc::UnboundedReceiver<String>,
    /// Its monitor's path.
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

impl FakeQemu {
    /// Starts one. The script maps each command to its answers, one per call, the last one again
    /// and again. An answer has `return` or `error`, `events` to send before it, `silent` to answer
    /// nothing, `close` to hang up instead, or `exit` to end the process instead. A command that
    /// the script does not have is answered as a QEMU that runs a guest would.
    pub(crate) async fn start(script: &Value) -> FakeQemu {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp.sock");
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sidecar::testing::fake_qemu", "--nocapture"])
            .env(SOCKET_VARIABLE, &path)
            .env(SCRIPT_VARIABLE, script.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let report = lines_of(process.stdout.take().unwrap());
        let mut qemu = FakeQemu {
            process,
            report,
            path,
            _directory: directory,
        };
        qemu.wait_for("listening").await;
        qemu
    }

    /// The process, as the sidecar names it.
    pub(crate) fn instance(&self) -> Instance {
        super::process::find(self.process.id(), boot()).unwrap()
    }

    /// Waits until it reports this line, such as the name of a command that it got.
    pub(crate) async fn wait_for(&mut self, wanted: &str) {
        let wanted = format!("fake: {wanted}");
        loop {
            let line = self.report.recv().await;
            if line.expect("it reports until it ends") == wanted {
                return;
            }
        }
    }

    /// Ends it, as SIGKILL from outside does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Its lines, read by a thread so that nobody's runtime is held up.
fn lines_of(output: ChildStdout) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            drop(sender.send(line));
        }
    });
    receiver
}

impl Drop for FakeQemu {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Not a test of its own: the body of the fake QEMU's process. Elsewhere nothing asks for it.
#[test]
fn fake_qemu() {
    let Ok(path) = std::env::var(SOCKET_VARIABLE) else {
        return;
    };
    let script = std::env::var(SCRIPT_VARIABLE).unwrap();
    let mut script: Value = serde_json::from_str(&script).unwrap();
    // Ends with the test that holds the other end of its standard input.
    std::thread::spawn(|| {
        drop(std::io::stdin().read(&mut [0]));
        std::process::exit(0);
    });
    let listener = UnixListener::bind(Path::new(&path)).unwrap();
    report("listening");
    for stream in listener.incoming() {
        report("connected");
        serve(&stream.unwrap(), &mut script);
    }
}

fn report(line: &str) {
    println!("\nfake: {line}");
}

fn serve(stream: &UnixStream, script: &mut Value) {
    let mut output = stream;
    let mut say = |message: &Value| writeln!(output, "{message}").is_ok();
    let version = json!({"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "fake"});
    if !say(&json!({"QMP": {"version": version, "capabilities": ["oob"]}})) {
        return;
    }
    // As QEMU does, which waits for no end of a line.
    for request in serde_json::Deserializer::from_reader(BufReader::new(stream)).into_iter() {
        let request: Value = match request {
            Ok(request) => request,
            Err(error) if error.is_io() || error.is_eof() => return,
            Err(error) => panic!("{error}"),
        };
        let name = request
            .get("execute")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let answer = next_answer(script, name);
        report(name);
        let flag = |key: &str| answer.get(key).is_some();
        for event in answer
            .get("events")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            say(event);
        }
        if flag("exit") {
            std::process::exit(0);
        } else if flag("close") {
            return;
        } else if flag("silent") {
            continue;
        }
        let mut response = serde_json::Map::new();
        for key in ["return", "error"] {
            if let Some(value) = answer.get(key) {
                response.insert(key.to_owned(), value.clone());
            }
        }
        if let Some(id) = request.get("id") {
            response.insert("id".to_owned(), id.clone());
        }
        if !say(&Value::Object(response)) {
            return;
        }
    }
}

fn next_answer(script: &mut Value, name: &str) -> Value {
    match script.get_mut(name).and_then(Value::as_array_mut) {
        Some(answers) if answers.len() > 1 => answers.remove(0),
        Some(answers) => answers.first().cloned().unwrap_or_default(),
        None => match name {
            "query-status" => json!({"return": {"status": "running", "running": true}}),
            "qom-get" => json!({"error": {"class": "DeviceNotFound", "desc": "no such object"}}),
            _ => json!({"return": {}}),
        },
    }
}

/// An event as QEMU sends it.
pub(crate) fn event(name: &str, data: &Value) -> Value {
    json!({
        "event": name,
        "data": data,
        "timestamp": {"seconds": 1, "microseconds": 2},
    })
}
