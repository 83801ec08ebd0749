//! What can go wrong in the laboratory.
//!
//! Invariant: every error names what was being done and to which process, file or command; a wait
//! that ran out carries the logs of the process it waited for.
//!
//! Not here: verdicts about a guest. A guest that ran twice is a result, not an error.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// A failure of the laboratory itself, or of a process in it.
#[derive(Debug)]
pub enum Error {
    /// A file, socket or process could not be used.
    Io {
        /// What was being done, as `creating` or `connecting to`.
        doing: &'static str,
        /// To which path or program.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The boot sector could not be assembled.
    Assemble {
        /// `as`, `ld` or `cc`.
        program: &'static str,
        /// What it wrote to stderr.
        output: String,
    },
    /// A socket path does not fit into a Unix socket address.
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// The longest that fits, in bytes.
        max: usize,
    },
    /// Something did not happen in time.
    Deadline {
        /// What was waited for.
        waiting_for: String,
        /// How long.
        after: Duration,
        /// Logs of those concerned; empty when there are none.
        logs: String,
    },
    /// A process ended that had to live.
    Died {
        /// Which process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to stderr.
        log: String,
    },
    /// A QMP server answered a command with an error.
    Refused {
        /// The command.
        command: String,
        /// QMP's error class.
        class: String,
        /// QMP's description.
        description: String,
    },
    /// A QMP server closed the connection, as it does when it dies. Whether the command ran is unknown.
    Closed {
        /// The socket.
        path: PathBuf,
        /// The command that was waiting, or `greeting`.
        command: String,
    },
    /// A QMP server said something that is no QMP, or lacks an expected member.
    Malformed {
        /// Where it was read, as a command or a path.
        from: String,
        /// What is wrong with it, with the text.
        problem: String,
    },
}

impl Error {
    /// Names what was being done when the system refused.
    pub(crate) fn io(
        doing: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io {
            doing,
            path,
            source,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io {
                doing,
                path,
                source,
            } => {
                write!(f, "{doing} {} failed: {source}", path.display())
            }
            Error::Assemble { program, output } => {
                write!(f, "`{program}` did not build its part: {output}")
            }
            Error::PathTooLong { path, max } => {
                write!(
                    f,
                    "socket path {} is longer than {max} bytes: set TMPDIR",
                    path.display()
                )
            }
            Error::Deadline {
                waiting_for,
                after,
                logs,
            } => {
                write!(f, "no {waiting_for} after {after:?}")?;
                if logs.is_empty() {
                    Ok(())
                } else {
                    write!(f, "\n{logs}")
                }
            }
            Error::Died { name, status, log } => write!(f, "{name} died ({status})\n{log}"),
            Error::Refused {
                command,
                class,
                description,
            } => {
                write!(f, "{command} was refused: {class}: {description}")
            }
            Error::Closed { path, command } => {
                write!(
                    f,
                    "{} closed the connection during {command}",
                    path.display()
                )
            }
            Error::Malformed { from, problem } => {
                write!(f, "unusable answer from {from}: {problem}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Assemble { .. }
            | Error::PathTooLong { .. }
            | Error::Deadline { .. }
            | Error::Died { .. }
            | Error::Refused { .. }
            | Error::Closed { .. }
            | Error::Malformed { .. } => None,
        }
    }
}
