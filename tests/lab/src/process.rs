//! Child processes that never outlive the program which started them.
//!
//! Invariant: a child dies with SIGKILL when its [`Process`] is dropped and when this program ends,
//! by whatever cause. The second is the kernel's parent-death signal. It fires when the *thread* that
//! started the child ends, not the process, so that one thread which lives as long as the process
//! starts every child. `setpriv --pdeathsig` sets the signal and becomes the program by exec: the
//! pid is the program's own, and no code runs between fork and exec here.
//!
//! Not here: what the processes are.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use crate::{Error, until};

/// Who sets the parent-death signal. Part of util-linux, which every Debian has.
const SETPRIV: &str = "setpriv";

/// Last bytes of a log that a failure shows.
const LOG_TAIL_BYTES_MAX: usize = 16 * 1024;

/// A child process with its log.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What to start. The program's stderr goes to `log`.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// Name for errors.
    pub(crate) name: &'a str,
    /// Path of the program, or a name found through PATH.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: &'a [String],
    /// Variables added to the environment.
    pub(crate) environment: &'a [(String, String)],
    /// File for stderr, appended to.
    pub(crate) log: &'a Path,
    /// Whether stdout is a pipe to us; else it is thrown away.
    pub(crate) stdout_piped: bool,
}

impl Process {
    /// Starts a program.
    pub(crate) fn start(start: &Start<'_>) -> Result<Process, Error> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(start.log)
            .map_err(Error::io("opening", start.log))?;
        let mut command = Command::new(SETPRIV);
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(start.program)
            .args(start.arguments)
            .envs(start.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(if start.stdout_piped {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stderr(log);
        let child = spawn(command).map_err(Error::io("starting", start.program))?;
        Ok(Process {
            name: start.name.to_owned(),
            child,
            log: start.log.to_path_buf(),
        })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pipe from the program's stdout, once.
    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, or `None` while it lives.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child
            .try_wait()
            .map_err(Error::io("waiting for", &self.name))
    }

    /// An error with the log if it is no longer alive.
    pub(crate) fn must_live(&mut self) -> Result<(), Error> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(Error::Died {
                name: self.name.clone(),
                status,
                log: self.log(),
            }),
        }
    }

    /// Waits until it is dead by itself.
    pub(crate) fn wait_dead(&mut self, timeout: Duration) -> Result<ExitStatus, Error> {
        let waiting_for = format!("end of {} (pid {})", self.name, self.pid());
        until(&waiting_for, timeout, || self.ended()).map_err(|error| self.with_log(error))
    }

    /// SIGKILL, and the wait for its death. Nothing if it is dead.
    pub(crate) fn kill(&mut self) -> Result<ExitStatus, Error> {
        // `Child::kill` does not signal a pid that was waited for, so that no other process is hit.
        self.child
            .kill()
            .map_err(Error::io("killing", &self.name))?;
        self.child
            .wait()
            .map_err(Error::io("waiting for", &self.name))
    }

    /// The end of what it wrote to stderr, of all runs that share the log.
    pub(crate) fn log(&self) -> String {
        tail(&self.log)
    }

    /// Adds the log to a deadline's error.
    pub(crate) fn with_log(&self, error: Error) -> Error {
        match error {
            Error::Deadline {
                waiting_for,
                after,
                logs,
            } => Error::Deadline {
                waiting_for,
                after,
                logs: format!("{logs}stderr of {}:\n{}", self.name, self.log()),
            },
            other => other,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(problem) = self.kill() {
            eprintln!("{problem}");
        }
    }
}

/// The last part of a text file, for a person to read.
pub(crate) fn tail(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let from = bytes.len().saturating_sub(LOG_TAIL_BYTES_MAX);
            String::from_utf8_lossy(&bytes[from..]).into_owned()
        }
        Err(problem) => format!("(cannot read {}: {problem})\n", path.display()),
    }
}

type Spawned = io::Result<Child>;

/// Starts a command from the one thread that lives as long as the process.
fn spawn(command: Command) -> Spawned {
    static SPAWNER: OnceLock<Sender<(Command, Sender<Spawned>)>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = channel::<(Command, Sender<Spawned>)>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // A caller that is gone leaves the child to the parent-death signal.
                let _ = answer.send(command.spawn());
            }
        });
        requests
    });
    let (answer, reply) = channel();
    let gone = || io::Error::other("the starting thread is gone");
    spawner.send((command, answer)).map_err(|_| gone())?;
    reply.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;
    use std::io::{Read, Write};

    fn shell(scratch: &Scratch, script: &str) -> Process {
        Process::start(&Start {
            name: "shell",
            program: Path::new("sh"),
            arguments: &["-c".into(), script.into()],
            environment: &[("SAID".into(), "hello".into())],
            log: &scratch.path().join("log"),
            stdout_piped: true,
        })
        .unwrap()
    }

    #[test]
    fn output_log_and_exit_code_are_its_own() {
        let scratch = Scratch::create().unwrap();
        let mut process = shell(&scratch, "echo $$ $SAID; echo trouble >&2; exit 3");
        let mut said = String::new();
        process
            .take_stdout()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(
            said,
            format!("{} hello\n", process.pid()),
            "exec keeps the pid"
        );
        let status = process.wait_dead(Duration::from_secs(10)).unwrap();
        assert_eq!(
            (status.code(), process.log().as_str()),
            (Some(3), "trouble\n")
        );
        assert!(matches!(process.must_live(), Err(Error::Died { .. })));
    }

    #[test]
    fn a_drop_kills_and_reaps() {
        let scratch = Scratch::create().unwrap();
        let mut process = shell(&scratch, "echo up; exec sleep 600");
        let mut up = [0; 3];
        process.take_stdout().unwrap().read_exact(&mut up).unwrap();
        let proc_entry = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(proc_entry.exists());
        drop(process);
        assert!(!proc_entry.exists());
    }

    /// The child answers after the thread that asked for it is gone. Had that thread started it, it
    /// would have had a SIGKILL pending by then, with which no program gets to write anything.
    #[test]
    fn the_end_of_the_asking_thread_is_not_the_end_of_the_child() {
        let scratch = Scratch::create().unwrap();
        let fifo = scratch.path().join("fifo");
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let script = format!("echo up; read line < {}; echo alive", fifo.display());
        let (mut process, mut output, thread) = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut process = shell(&scratch, &script);
                let mut output = process.take_stdout().unwrap();
                let mut up = [0; 3];
                output.read_exact(&mut up).unwrap();
                (process, output, fs::read_link("/proc/thread-self").unwrap())
            });
            asking.join().unwrap()
        });
        let task = Path::new("/proc").join(thread);
        until("end of the thread", Duration::from_secs(10), || {
            Ok((!task.exists()).then_some(()))
        })
        .unwrap();
        // Open for reading too: then the open does not wait for a child that is dead.
        let mut line = File::options().read(true).write(true).open(&fifo).unwrap();
        line.write_all(b"go\n").unwrap();
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();
        assert_eq!(said, "alive\n");
        assert!(
            process
                .wait_dead(Duration::from_secs(10))
                .unwrap()
                .success()
        );
    }
}
