//! One side's `phase-journald`: start, crash, restart, and its control socket.
//!
//! Invariant: a sidecar that should be dead is waited for, so that no two share a journal; the log
//! of all its runs stays in one file and is in every error.
//!
//! Not here: what a sidecar should decide.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::fault::Fault;
use crate::process::{Process, Start};
use crate::qmp::{COMMAND_TIMEOUT, Qmp, malformed};
use crate::scratch::socket_path;
use crate::supervisor::Supervisor;

/// How long a sidecar may take from its start to `ready`, recovery included, and to a demanded end.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// What a sidecar prints when it is ready.
const READY: &str = "ready";

/// Longest line taken from its stdout, in bytes.
const STDOUT_LINE_BYTES_MAX: u64 = 4096;

/// What it logs when its crash point has killed another process.
const STRUCK: &str = "crash point: the other process was killed";

const BOOT_ID: &str = "PHASE_JOURNALD_TEST_BOOT_ID";

/// Where the sidecar kills itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrashPoint {
    /// Right after the n-th batch of a migration is durable, before anything that waits for it is sent.
    AfterBatch(u32),
    /// Right before the n-th batch of a migration is written.
    BeforeBatch(u32),
    /// After the first batch with a record of this type, as `migration-granted`, is durable.
    AfterRecord(String),
    /// Before the first batch with a record of this type is written.
    BeforeRecord(String),
}

/// How one run of a sidecar differs from a plain one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Where it kills itself.
    pub crash: Option<CrashPoint>,
    /// The process that it kills there in place of itself; then it goes on.
    pub kills: Option<u32>,
    /// A boot id in place of the host's, as after a reboot.
    pub boot_id: Option<String>,
    /// Whether it may open a journal older than its witness.
    pub accept_older_journal: bool,
    /// What of its disk fails.
    pub fault: Option<Fault>,
    /// Further variables, as `RUST_LOG`.
    pub environment: Vec<(String, String)>,
    /// Peer sockets of the sidecars that it is told of.
    pub peers: Vec<PathBuf>,
}

impl RunOptions {
    /// A plain run that kills itself at a point.
    pub fn crashing(point: CrashPoint) -> RunOptions {
        RunOptions {
            crash: Some(point),
            ..RunOptions::default()
        }
    }
}

/// A domain, as `query-domains` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DomainView {
    /// Its name.
    pub name: String,
    /// `alive`, `mute`, `dead`, `other-instance` or `unknown`.
    pub process: String,
    /// QEMU's run state, when known.
    #[serde(default)]
    pub run_state: Option<String>,
    /// QEMU's migration status, when known.
    #[serde(default)]
    pub migration: Option<String>,
    /// `running` or `paused`.
    pub wanted: String,
    /// The open job.
    #[serde(default)]
    pub job: Option<u64>,
    /// Why nothing is done, if it is held.
    #[serde(default)]
    pub held: Option<HeldView>,
}

/// Why a domain is held.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HeldView {
    /// The rule.
    pub rule: String,
    /// In words.
    pub reason: String,
    /// What would settle it.
    #[serde(default)]
    pub settled_by: Option<String>,
}

/// A job, as `query-jobs` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobView {
    /// Its number.
    pub job: u64,
    /// Its domain.
    pub name: String,
    /// `migration-out`, `migration-in`, `save` and so on.
    pub kind: String,
    /// The migration's id.
    #[serde(default)]
    pub migration: Option<String>,
    /// The phase it is in, or a migration ended in.
    #[serde(default)]
    pub phase: Option<String>,
    /// `open` or `ended`.
    pub state: String,
    /// `completed`, `failed`, `cancelled` or `crashed` once ended.
    #[serde(default)]
    pub result: Option<String>,
    /// More, in words.
    #[serde(default)]
    pub detail: String,
}

/// A decision, as `query-decisions` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DecisionView {
    /// Its record.
    pub lsn: u64,
    /// The domain.
    pub name: String,
    /// The job.
    #[serde(default)]
    pub job: Option<u64>,
    /// The rule.
    pub rule: String,
    /// `kill`, `resume`, `confirm` or `hold`.
    pub decision: String,
    /// In words.
    #[serde(default)]
    pub reason: String,
}

/// A side's sidecar, over all its runs. Killed on drop.
#[derive(Debug)]
pub struct Sidecar {
    name: String,
    program: PathBuf,
    journal: PathBuf,
    run: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    control: Option<Qmp>,
}

impl Sidecar {
    /// Names a sidecar that does not run yet. Its journal, run directory and log lie in `directory`.
    ///
    /// # Errors
    /// [`Error::PathTooLong`] when its sockets would not fit.
    pub fn new(name: &str, program: &Path, directory: &Path) -> Result<Sidecar, Error> {
        let run = directory.join("run");
        socket_path(run.join(CONTROL))?;
        Ok(Sidecar {
            name: format!("sidecar {name}"),
            program: program.to_path_buf(),
            journal: directory.join("journal"),
            run,
            log: directory.join("log"),
            process: None,
            control: None,
        })
    }

    /// Starts a run and waits for `ready`.
    ///
    /// # Errors
    /// [`Error::Died`] with its log when it ended before (as one does that was told to crash early),
    /// [`Error::Deadline`] with its log, [`Error::Malformed`] when it prints anything else.
    ///
    /// # Panics
    /// If it runs already.
    pub fn start(&mut self, options: &RunOptions) -> Result<(), Error> {
        let (program, arguments) = self.command(options)?;
        self.start_as(options, &program, &arguments)
    }

    /// The same under a service manager, with all that it keeps.
    ///
    /// # Errors
    /// As [`Sidecar::start`]; [`Error::Io`] when the descriptors cannot be handed over.
    ///
    /// # Panics
    /// If it runs already.
    pub fn start_under(
        &mut self,
        options: &RunOptions,
        supervisor: &Supervisor,
    ) -> Result<(), Error> {
        let (program, arguments) = self.command(options)?;
        let handed = supervisor.hand_over(&program, &arguments)?;
        let mut options = options.clone();
        options.environment.extend(handed.environment.clone());
        self.start_as(&options, &handed.program, &handed.arguments)
    }

    fn start_as(
        &mut self,
        options: &RunOptions,
        program: &Path,
        arguments: &[String],
    ) -> Result<(), Error> {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let mut environment = options.environment.clone();
        environment.extend(
            options
                .boot_id
                .iter()
                .map(|id| (BOOT_ID.to_owned(), id.clone())),
        );
        let process = Process::start(&Start {
            name: &self.name,
            program,
            arguments,
            environment: &environment,
            log: &self.log,
            stdout_piped: true,
        })?;
        let process = self.process.insert(process);
        let stdout = process
            .take_stdout()
            .expect("start asked for a pipe, and none took it yet");
        let ready = match lines(stdout).recv_timeout(READY_TIMEOUT) {
            Ok(line) if line == READY => Ok(()),
            Ok(line) => Err(malformed(
                &self.name,
                format!("\"{line}\" in place of ready"),
            )),
            Err(RecvTimeoutError::Timeout) => Err(process.with_log(Error::Deadline {
                waiting_for: format!("ready from {}", self.name),
                after: READY_TIMEOUT,
                logs: String::new(),
            })),
            // Its stdout is closed: it died, or is about to.
            Err(RecvTimeoutError::Disconnected) => process
                .wait_dead(READY_TIMEOUT)
                .and_then(|_| process.must_live()),
        };
        if ready.is_err() {
            self.process = None;
        }
        ready
    }

    /// The program to start, and its arguments.
    fn command(&self, options: &RunOptions) -> Result<(PathBuf, Vec<String>), Error> {
        let own = self.arguments(options);
        let Some(fault) = &options.fault else {
            return Ok((self.program.clone(), own));
        };
        let directory = self.log.parent().unwrap_or(&self.log);
        let (launcher, mut arguments) = fault.launcher(directory)?;
        arguments.push(text(&self.program).to_owned());
        arguments.extend(own);
        Ok((launcher, arguments))
    }

    fn arguments(&self, options: &RunOptions) -> Vec<String> {
        let mut arguments = vec![
            "--journal".to_owned(),
            self.journal.display().to_string(),
            "--run".to_owned(),
            self.run.display().to_string(),
        ];
        for peer in &options.peers {
            arguments.extend(["--peer".to_owned(), peer.display().to_string()]);
        }
        match &options.crash {
            None => {}
            Some(CrashPoint::AfterBatch(number)) => {
                arguments.extend(["--crash-after-batch".to_owned(), number.to_string()]);
            }
            Some(CrashPoint::BeforeBatch(number)) => {
                arguments.extend(["--crash-before-batch".to_owned(), number.to_string()]);
            }
            Some(CrashPoint::AfterRecord(name)) => {
                arguments.extend(["--crash-after-record".to_owned(), name.clone()]);
            }
            Some(CrashPoint::BeforeRecord(name)) => {
                arguments.extend(["--crash-before-record".to_owned(), name.clone()]);
            }
        }
        if let Some(pid) = options.kills {
            arguments.extend(["--crash-kills".to_owned(), pid.to_string()]);
        }
        if options.accept_older_journal {
            arguments.push("--accept-older-journal".to_owned());
        }
        arguments
    }

    /// SIGKILL, and waits for the end. Nothing if it does not run.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.control = None;
        match self.process.take() {
            None => Ok(()),
            Some(mut process) => process.kill().map(drop),
        }
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses, [`Error::Deadline`] with its log.
    ///
    /// # Panics
    /// If it does not run.
    pub fn stop(&mut self) -> Result<ExitStatus, Error> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw);
        let pid = pid.expect("the caller ends a sidecar that it started");
        kill_process(pid, Signal::TERM)
            .map_err(|error| Error::io("ending", &self.name)(error.into()))?;
        self.wait_ended(READY_TIMEOUT)
    }

    /// How it ended by itself, or `None` while it runs. Once that is said it may be started again.
    ///
    /// # Errors
    /// [`Error::Io`] when the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let ended = process.ended()?;
        if ended.is_some() {
            self.control = None;
            self.process = None;
        }
        Ok(ended)
    }

    /// Waits until it ends by itself, and says how.
    ///
    /// # Errors
    /// [`Error::Deadline`] with its log.
    ///
    /// # Panics
    /// If it does not run.
    pub fn wait_ended(&mut self, timeout: Duration) -> Result<ExitStatus, Error> {
        let process = self.process.as_mut();
        let process = process.expect("the caller waits for the end of a sidecar that it started");
        let status = process.wait_dead(timeout)?;
        self.control = None;
        self.process = None;
        Ok(status)
    }

    /// Whether a run was started and was not seen to end.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Its process id, while it is started.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Its journal directory, to read, to delete or to put an older copy there.
    pub fn journal(&self) -> &Path {
        &self.journal
    }

    /// Its run directory with sockets and witness.
    pub fn run_directory(&self) -> &Path {
        &self.run
    }

    /// Its control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run.join(CONTROL)
    }

    /// The monitor that it serves for a domain of that (plain) name.
    pub fn monitor_socket(&self, name: &str) -> PathBuf {
        self.run.join("domains").join(format!("{name}.sock"))
    }

    /// The socket for the other sidecar.
    pub fn peer_socket(&self) -> PathBuf {
        self.run.join(PEER)
    }

    /// Runs a command on the control socket; the connection is kept for the next one.
    ///
    /// # Errors
    /// As [`Qmp::execute`]. After [`Error::Closed`] the next command connects anew.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let control = match &mut self.control {
            Some(control) => control,
            None => {
                let control = Qmp::connect(&self.control_socket(), COMMAND_TIMEOUT)?;
                self.control.insert(control)
            }
        };
        let result = control.execute(command, arguments);
        if matches!(
            result,
            Err(Error::Closed { .. } | Error::Io { .. } | Error::Deadline { .. })
        ) {
            self.control = None;
        }
        result
    }

    /// `domain-add` with the instance's own uuid and pid.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn domain_add(
        &mut self,
        name: &str,
        qmp: &Path,
        uuid: &str,
        pid: u32,
    ) -> Result<DomainView, Error> {
        let arguments = json!({"name": name, "qmp": text(qmp), "uuid": uuid, "pid": pid});
        read("domain-add", self.execute("domain-add", arguments)?)
    }

    /// Every domain.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn domains(&mut self) -> Result<Vec<DomainView>, Error> {
        read("query-domains", self.execute("query-domains", json!({}))?)
    }

    /// The open jobs; with a domain's name also its last ended one.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn jobs(&mut self, name: Option<&str>) -> Result<Vec<JobView>, Error> {
        let mut arguments = Map::new();
        arguments.extend(name.map(|name| ("name".to_owned(), json!(name))));
        read(
            "query-jobs",
            self.execute("query-jobs", Value::Object(arguments))?,
        )
    }

    /// Every decision, oldest first.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn decisions(&mut self) -> Result<Vec<DecisionView>, Error> {
        read(
            "query-decisions",
            self.execute("query-decisions", json!({}))?,
        )
    }

    /// How many ended migrations it keeps, because the other side is not known to know the outcome.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn kept_migrations(&mut self) -> Result<u64, Error> {
        let journal = self.execute("query-journal", json!({}))?;
        let kept = journal["kept-migrations"].as_u64();
        kept.ok_or_else(|| malformed("query-journal", format!("no kept-migrations in {journal}")))
    }

    /// Whether a crash point was reached that kills another process.
    ///
    /// # Errors
    /// [`Error::Io`] when its log cannot be read.
    pub fn has_struck(&self) -> Result<bool, Error> {
        let log = fs::read(&self.log).map_err(Error::io("reading", &self.log))?;
        Ok(String::from_utf8_lossy(&log).contains(STRUCK))
    }

    /// The end of its log over all its runs, for a failure.
    pub fn report(&self) -> String {
        format!(
            "{}:\n{}\n",
            self.name,
            crate::process::tail(&self.log).trim_end()
        )
    }
}

const CONTROL: &str = "control.sock";
const PEER: &str = "peer.sock";

fn read<T: DeserializeOwned>(command: &str, value: Value) -> Result<T, Error> {
    let shown = value.to_string();
    serde_json::from_value(value).map_err(|why| malformed(command, format!("{why}: {shown}")))
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The lines of a pipe, drained to its end by a thread so that its writer never blocks or breaks.
fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        loop {
            let mut line = String::new();
            match stdout
                .by_ref()
                .take(STDOUT_LINE_BYTES_MAX)
                .read_line(&mut line)
            {
                Ok(0) | Err(_) => return,
                // Nobody listens after `ready`; the rest is only drained.
                Ok(_) => drop(sender.send(line.trim_end().to_owned())),
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;

    /// A program in the sidecar's place, written in shell.
    fn stand_in(scratch: &Scratch, script: &str) -> Sidecar {
        let program = scratch.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Sidecar::new("a", &program, scratch.path()).unwrap()
    }

    #[test]
    fn ready_then_killed_then_started_again() {
        let scratch = Scratch::create().unwrap();
        let mut sidecar = stand_in(&scratch, "echo run >&2; echo ready; exec sleep 600");
        sidecar.start(&RunOptions::default()).unwrap();
        assert!(sidecar.ended().unwrap().is_none() && sidecar.pid().is_some());
        sidecar.kill().unwrap();
        assert!(!sidecar.is_started());
        sidecar.start(&RunOptions::default()).unwrap();
        assert_eq!(sidecar.report(), "sidecar a:\nrun\nrun\n");
    }

    #[test]
    fn flags_and_environment_reach_it() {
        let scratch = Scratch::create().unwrap();
        let script = "echo \"$@\" $PHASE_JOURNALD_TEST_BOOT_ID $MORE >&2; echo ready; kill -9 $$";
        let mut sidecar = stand_in(&scratch, script);
        let options = RunOptions {
            crash: Some(CrashPoint::AfterRecord("migration-granted".into())),
            kills: Some(77),
            boot_id: Some("other".into()),
            accept_older_journal: true,
            fault: None,
            environment: vec![("MORE".into(), "more".into())],
            peers: vec!["/run/b".into(), "/run/c".into()],
        };
        sidecar.start(&options).unwrap();
        let status = sidecar.wait_ended(READY_TIMEOUT).unwrap();
        assert_eq!(status.signal(), Some(9));
        let expected = format!(
            "sidecar a:\n--journal {0}/journal --run {0}/run --peer /run/b --peer /run/c --crash-after-record \
             migration-granted --crash-kills 77 --accept-older-journal other more\n",
            scratch.path().display()
        );
        assert_eq!(sidecar.report(), expected);
        for (point, flag) in [
            (CrashPoint::AfterBatch(3), "--crash-after-batch 3"),
            (CrashPoint::BeforeBatch(4), "--crash-before-batch 4"),
        ] {
            let arguments = sidecar.arguments(&RunOptions::crashing(point)).join(" ");
            assert!(arguments.ends_with(flag), "{arguments}");
        }
    }

    #[test]
    fn one_that_cannot_start_says_why() {
        let scratch = Scratch::create().unwrap();
        let mut sidecar = stand_in(&scratch, "echo journal is locked >&2; exit 2");
        let died = sidecar
            .start(&RunOptions::default())
            .unwrap_err()
            .to_string();
        assert_eq!(died, "sidecar a died (exit status: 2)\njournal is locked\n");
        let mut sidecar = stand_in(&scratch, "echo hello");
        let other = sidecar.start(&RunOptions::default()).unwrap_err();
        assert!(
            other.to_string().contains("\"hello\" in place of ready"),
            "{other}"
        );
        assert!(!sidecar.is_started());
    }

    #[test]
    fn views_read_what_the_control_socket_says() {
        let domain = json!({
            "name": "guest", "uuid": "u", "qmp": "/q", "pid": 7, "process": "alive",
            "run-state": "postmigrate", "migration": "completed", "wanted": "running", "job": 3,
            "held": {"rule": "source-in-doubt", "reason": "peer unreachable", "settled-by": "peer"},
        });
        let view: DomainView = read("query-domains", domain).unwrap();
        assert_eq!(view.held.unwrap().settled_by.as_deref(), Some("peer"));
        let job = json!({"job": 3, "name": "guest", "kind": "migration-out", "migration": "m",
            "role": "source", "protocol": "v3", "phase": "perform3", "state": "ended",
            "result": "completed", "progress": null});
        let view: JobView = read("query-jobs", job).unwrap();
        assert_eq!(view.result.as_deref(), Some("completed"));
        let bad: Result<JobView, Error> = read("query-jobs", json!({"job": "three"}));
        assert!(
            bad.unwrap_err()
                .to_string()
                .starts_with("unusable answer from query-jobs")
        );
    }
}
