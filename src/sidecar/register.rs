//! Finds the QEMU that `domain-add` names: its monitor, its process, its identity, its state.
//!
//! Invariant: nothing is sent before the process behind the socket is known and is not one that is
//! never taken; the connection is closed again before anything else connects. Nothing is renamed here.
//! Not here: whether the domain may be added (the engine), watching it afterwards (`monitor`).

use core::fmt;
use core::time::Duration;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use journal_format::number::{BootId, DomainId, Id128};
use journal_format::record::{Instance, MigrationStatus, Observed, Process};
use tokio::time::{Instant, timeout_at};

use super::arguments::DomainAdd;
use super::config::{SOCKET_PATH_SIZE_MAX, fits_socket_address};
use super::connection::{ConnectError, Connection};
use super::link::{Failure, Link};
use super::process::{Held, OwnerError, owner};
use super::take_over::{SUFFIX, TakenOver};
use crate::engine::{Answer, ControlRequest, DomainView};
use crate::qmp::{Dialled, Listeners};

/// Longest time to find out everything about a QEMU, in milliseconds: more than one that does not greet is waited for, so that
/// this is what is said of it.
const FIND_WAIT_MS_MAX: u64 = 2_500;

/// Finds QEMUs.
#[derive(Clone, Debug)]
pub(crate) struct Registrar {
    pub(crate) link: Link,
    pub(crate) boot: BootId,
}

/// Why a domain's QEMU cannot be taken.
#[derive(Debug)]
pub(crate) enum RegisterError {
    /// The engine could not be asked.
    Failure(Failure),
    /// The name is taken by a domain whose QEMU is not dead.
    NameTaken {
        /// The domain.
        name: String,
        /// Its process.
        pid: u32,
    },
    /// The socket already serves another domain.
    SocketTaken {
        /// The socket.
        path: PathBuf,
        /// That domain.
        name: String,
    },
    /// The path cannot be the address of a socket.
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// There is no such file, or it cannot be looked at.
    NoSocket {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is something else than a socket.
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The monitor cannot be spoken to.
    Monitor {
        /// The path.
        path: PathBuf,
        /// Why.
        why: ConnectError,
    },
    /// The kernel does not let the process be held.
    NotHeld {
        /// The process.
        instance: Instance,
        /// Why.
        source: io::Error,
    },
    /// The process behind the socket cannot be taken.
    Owner(OwnerError),
    /// The path is the one of a socket that was taken over.
    IsTakenOver {
        /// Where QEMU made it.
        front: PathBuf,
    },
    /// The sidecar's monitor could not take the place of QEMU's socket.
    NotTakenOver {
        /// Why.
        why: String,
    },
    /// QEMU has another UUID than was given.
    OtherUuid {
        /// The path.
        path: PathBuf,
        /// The UUID in QEMU.
        found: Id128,
        /// The UUID as given.
        given: DomainId,
    },
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegisterError::Failure(failure) => failure.fmt(f),
            RegisterError::NameTaken { name, pid } => write!(
                f,
                "domain '{name}' is already registered and its QEMU (pid {pid}) lives"
            ),
            RegisterError::SocketTaken { path, name } => {
                write!(f, "{}: already serves domain '{name}'", path.display())
            }
            RegisterError::PathTooLong { path } => write!(
                f,
                "{}: longer than {SOCKET_PATH_SIZE_MAX} bytes, the most that a socket's address holds",
                path.display()
            ),
            RegisterError::NoSocket { path, source } => {
                write!(f, "{}: no such monitor socket: {source}", path.display())
            }
            RegisterError::NotASocket { path } => {
                write!(f, "{}: is not a socket", path.display())
            }
            RegisterError::Monitor {
                why: ConnectError::NotConnected(error),
                ..
            } => error.fmt(f),
            RegisterError::Monitor { path, why } => write!(f, "{}: {why}", path.display()),
            RegisterError::NotHeld { instance, source } => {
                write!(f, "cannot take hold of {instance}: {source}")
            }
            RegisterError::Owner(error) => error.fmt(f),
            RegisterError::IsTakenOver { front } => write!(
                f,
                "{0}{SUFFIX}: so a socket is called that a sidecar took over; name {0}, with 'take-over'",
                front.display()
            ),
            RegisterError::NotTakenOver { why } => f.write_str(why),
            RegisterError::OtherUuid { path, found, given } => write!(
                f,
                "{}: this QEMU's UUID is {found}, not {given}",
                path.display()
            ),
        }
    }
}

impl core::error::Error for RegisterError {}

impl From<Failure> for RegisterError {
    fn from(failure: Failure) -> RegisterError {
        RegisterError::Failure(failure)
    }
}

impl Registrar {
    /// What the engine needs to know to add this domain.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub(crate) async fn find(&self, add: DomainAdd) -> Result<ControlRequest, RegisterError> {
        let path = PathBuf::from(&add.qmp);
        if let Some(TakenOver { front, .. }) = TakenOver::from_behind(&path) {
            return Err(RegisterError::IsTakenOver { front });
        }
        self.check_free(&add.name, &add.qmp).await?;
        let taken = add.take_over.then(|| TakenOver::from_front(&path));
        let (socket, qmp) = match &taken {
            None => (path.as_path(), add.qmp.clone()),
            Some(taken) => {
                check_length(&taken.behind)?;
                // The suffix is text, and so is the whole.
                let qmp = format!("{}{SUFFIX}", add.qmp);
                (taken.socket().await, qmp)
            }
        };
        check_socket(socket)?;
        let deadline = Instant::now() + Duration::from_millis(FIND_WAIT_MS_MAX);
        let finding = self.look_behind(socket, &add);
        let (instance, domain, observed) = match timeout_at(deadline, finding).await {
            Ok(found) => found?,
            Err(_) => {
                let why = ConnectError::Silent;
                return Err(RegisterError::Monitor { path, why });
            }
        };
        Ok(ControlRequest::DomainAdd {
            name: add.name,
            domain,
            qmp,
            instance,
            observed,
            definition: add.definition,
        })
    }

    /// A QEMU that this sidecar watches serves nobody else, so the reason is told before trying.
    async fn check_free(&self, name: &str, qmp: &str) -> Result<(), RegisterError> {
        let request = ControlRequest::QueryDomains { name: None };
        let Answer::Domains(domains) = self.link.control(request).await?.answer else {
            return Ok(());
        };
        let living = |domain: &&DomainView| domain.process != Some(Process::Dead);
        for domain in domains.iter().filter(living) {
            if domain.name == name {
                return Err(RegisterError::NameTaken {
                    name: name.to_owned(),
                    pid: domain.pid.unwrap_or_default(),
                });
            }
            let is_it = |known: &str| known.strip_suffix(SUFFIX).unwrap_or(known) == qmp;
            if domain.qmp.as_deref().is_some_and(is_it) {
                return Err(RegisterError::SocketTaken {
                    path: PathBuf::from(qmp),
                    name: domain.name.clone(),
                });
            }
        }
        Ok(())
    }

    async fn look_behind(
        &self,
        path: &Path,
        add: &DomainAdd,
    ) -> Result<(Instance, DomainId, Observed), RegisterError> {
        let monitor_error = |why| RegisterError::Monitor {
            path: path.to_path_buf(),
            why,
        };
        let wait = Duration::from_millis(FIND_WAIT_MS_MAX);
        let dialled = Dialled::dial(path, wait).await;
        let dialled = dialled.map_err(|error| monitor_error(error.into()))?;
        let maker = dialled.credentials().pid;
        // The kernel knows a socket by the name that it was made with.
        let bound = Path::new(&add.qmp);
        let instance = owner(bound, maker, add.pid, self.boot).map_err(RegisterError::Owner)?;
        let pid = instance.pid;
        let held = Held::open(instance, self.boot)
            .map_err(|source| RegisterError::NotHeld { instance, source })?
            .ok_or(RegisterError::Owner(OwnerError::NoSuchProcess { pid }))?;
        let connection = Connection::greet(dialled, Listeners::default(), None)
            .await
            .map_err(monitor_error)?;
        let found = connection.uuid().await.map_err(monitor_error)?;
        let domain = match (found, add.uuid) {
            (None, given) => given.unwrap_or_else(|| DomainId(Id128::random())),
            (Some(found), Some(given)) if given.0 != found => {
                return Err(RegisterError::OtherUuid {
                    path: path.to_path_buf(),
                    found,
                    given,
                });
            }
            (Some(found), _) => DomainId(found),
        };
        let mut observed = look(&connection, instance).await.map_err(monitor_error)?;
        if connection.listens().await {
            // As newer ones say themselves.
            observed.migration = Some(MigrationStatus::Setup);
        }
        if held.has_ended() {
            return Err(RegisterError::Owner(OwnerError::NoSuchProcess { pid }));
        }
        drop(connection);
        Ok((instance, domain, observed))
    }
}

/// Looks until nothing moves; within the caller's deadline.
async fn look(connection: &Connection, instance: Instance) -> Result<Observed, ConnectError> {
    loop {
        let (observed, is_steady) = connection.look(instance).await?;
        if is_steady {
            return Ok(observed);
        }
    }
}

fn check_length(path: &Path) -> Result<(), RegisterError> {
    match fits_socket_address(path) {
        true => Ok(()),
        false => Err(RegisterError::PathTooLong {
            path: path.to_path_buf(),
        }),
    }
}

fn check_socket(path: &Path) -> Result<(), RegisterError> {
    check_length(path)?;
    match std::fs::metadata(path) {
        Err(source) => Err(RegisterError::NoSocket {
            path: path.to_path_buf(),
            source,
        }),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(RegisterError::NotASocket {
            path: path.to_path_buf(),
        }),
        Ok(_) => Ok(()),
    }
}
