//! A QEMU process: who it is, whether it lives, whether it holds a monitor socket, and its end.
//!
//! Invariant: a process is only ever signalled through a pidfd that was proven to be the instance
//! meant; a reused pid is never killed, and neither are the processes 0, 1 and this one.
//! Not here: what a process says on its monitor (`observe`), when it is to end (the engine).

use core::time::Duration;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use journal_format::number::{BootId, Id128};
use journal_format::record::{EffectResult, Instance};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Environment variable that replaces the host's boot id, to rehearse a reboot. Debug builds only.
pub const BOOT_ID_OVERRIDE: &str = "PHASE_JOURNALD_TEST_BOOT_ID";

/// Longest wait for a killed process to be gone, in milliseconds.
pub const KILL_WAIT_MS_MAX: u64 = 10_000;

/// Where the kernel tells the boot id.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// Flag of a listening socket in `/proc/net/unix` (the kernel's `__SO_ACCEPTCON`).
const LISTENING_FLAG: u32 = 0x1_0000;

/// Field 22 of `/proc/PID/stat`, counted from the first field after the command's name.
const START_TIME_FIELD: usize = 22 - 3;

/// This boot of the host, or what [`BOOT_ID_OVERRIDE`] says instead.
///
/// # Errors
/// The boot id cannot be read or is no UUID, or the override is set in a release build.
pub(crate) fn boot_id() -> io::Result<BootId> {
    let (text, origin) = match std::env::var(BOOT_ID_OVERRIDE) {
        Ok(_) if !cfg!(debug_assertions) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{BOOT_ID_OVERRIDE} is set, but this is a release build"),
            ));
        }
        Ok(text) => (text, BOOT_ID_OVERRIDE),
        Err(_) => (fs::read_to_string(BOOT_ID_PATH)?, BOOT_ID_PATH),
    };
    Id128::parse(text.trim()).map(BootId).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the boot id from {origin} is not a UUID"),
        )
    })
}

/// The process that has this pid now; `None` when there is none.
pub(crate) fn find(pid: u32, boot: BootId) -> Option<Instance> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(Instance {
        boot,
        pid,
        start_time: start_time(&stat)?,
    })
}

/// The start time in a line of `/proc/PID/stat`. The command's name may hold anything, blanks and
/// brackets too, so the fields are counted from its last bracket.
fn start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields
        .split_ascii_whitespace()
        .nth(START_TIME_FIELD)?
        .parse()
        .ok()
}

/// A pid that may be watched and ended: not 0, not 1, not this process.
fn foreign_pid(pid: u32) -> Option<Pid> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    (pid != Pid::INIT && pid != getpid()).then_some(pid)
}

/// A living process, held so that its pid cannot come to mean another one.
#[derive(Debug)]
pub(crate) struct Held {
    instance: Instance,
    pidfd: AsyncFd<OwnedFd>,
}

impl Held {
    /// Takes hold of an instance; `None` when it is gone, or of another boot, or was never a
    /// process that may be a QEMU.
    ///
    /// # Errors
    /// The kernel refuses a pidfd for another reason than that the process is gone.
    pub(crate) fn open(instance: Instance, boot: BootId) -> io::Result<Option<Held>> {
        if instance.boot != boot {
            return Ok(None);
        }
        let Some(pid) = foreign_pid(instance.pid) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            // The pid is a mere thread's now: the process that was meant is gone.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // In this order: the pidfd first, then the start time. The instance was seen alive before,
        // so if the pid has its start time now, the pidfd can be no other process.
        if find(instance.pid, boot) != Some(instance) {
            return Ok(None);
        }
        #[allow(
            deprecated,
            reason = "its successor is unsafe for types whose descriptor may change; OwnedFd's cannot"
        )]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        let held = Held { instance, pidfd };
        Ok((!held.has_ended()).then_some(held))
    }

    /// The process.
    pub(crate) fn instance(&self) -> Instance {
        self.instance
    }

    /// Whether it is gone; a zombie is gone.
    pub(crate) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        let at_once = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&at_once)), Ok(count) if count > 0)
    }

    /// Returns when the process is gone. Safe to drop and call again.
    pub(crate) async fn ended(&self) {
        loop {
            match self.pidfd.readable().await {
                Ok(mut ready) => {
                    if self.has_ended() {
                        return;
                    }
                    ready.clear_ready();
                }
                // The reactor is shutting down: nothing is known, and nothing follows any more.
                Err(_) => core::future::pending().await,
            }
        }
    }

    /// Ends the process; [`EffectResult::Done`] only when it is gone.
    pub(crate) async fn kill(&self) -> EffectResult {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return EffectResult::Done,
            Err(error) => {
                return EffectResult::NotSent {
                    why: format!("kill of {} was not possible: {error}", self.instance),
                };
            }
        }
        let wait = Duration::from_millis(KILL_WAIT_MS_MAX);
        match tokio::time::timeout(wait, self.ended()).await {
            Ok(()) => EffectResult::Done,
            Err(_) => EffectResult::Unknown {
                why: format!(
                    "{} was killed and is still there after {KILL_WAIT_MS_MAX} ms",
                    self.instance
                ),
            },
        }
    }
}

/// Why no process can be named as the owner of a monitor socket.
#[derive(Debug)]
pub(crate) enum OwnerError {
    /// The socket's maker is not its holder, so the pid must be given.
    MakerDoesNotHold {
        /// The monitor socket.
        path: PathBuf,
        /// Who made it, as the kernel says.
        maker: u32,
    },
    /// The given process does not listen on that socket.
    DoesNotHold {
        /// The monitor socket.
        path: PathBuf,
        /// The given pid.
        pid: u32,
    },
    /// The pid is 0, 1 or this process's own.
    NotAQemu {
        /// The pid.
        pid: u32,
    },
    /// There is no such process, or it ended meanwhile.
    NoSuchProcess {
        /// The pid.
        pid: u32,
    },
}

impl core::fmt::Display for OwnerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            OwnerError::MakerDoesNotHold { path, maker } => write!(
                f,
                "{}: made by process {maker}, which does not hold it; name QEMU's process with 'pid'",
                path.display()
            ),
            OwnerError::DoesNotHold { path, pid } => {
                write!(f, "{}: process {pid} does not listen on it", path.display())
            }
            OwnerError::NotAQemu { pid } => write!(
                f,
                "process {pid} cannot be the domain's QEMU: 0, 1 and the sidecar itself are never taken"
            ),
            OwnerError::NoSuchProcess { pid } => write!(f, "there is no process {pid}"),
        }
    }
}

impl core::error::Error for OwnerError {}

/// The process behind a monitor socket: `given`, or else the one that the kernel names as the
/// socket's maker (`SO_PEERCRED`), and only if it really listens on it.
pub(crate) fn owner(
    path: &Path,
    maker: u32,
    given: Option<u32>,
    boot: BootId,
) -> Result<Instance, OwnerError> {
    let pid = given.unwrap_or(maker);
    let path_owned = || path.to_path_buf();
    if foreign_pid(pid).is_none() {
        return Err(match given {
            Some(pid) => OwnerError::NotAQemu { pid },
            None => OwnerError::MakerDoesNotHold {
                path: path_owned(),
                maker,
            },
        });
    }
    let instance = find(pid, boot).ok_or(OwnerError::NoSuchProcess { pid })?;
    if !listens(pid, path) {
        return Err(match given {
            Some(pid) => OwnerError::DoesNotHold {
                path: path_owned(),
                pid,
            },
            None => OwnerError::MakerDoesNotHold {
                path: path_owned(),
                maker,
            },
        });
    }
    Ok(instance)
}

/// Whether a connection to `path`, whose listening end was made by `maker`, leads to `instance`.
/// `instance` was proven alive. The processes may tell less than the truth; in doubt it is another.
pub(crate) fn leads_to(instance: Instance, path: &Path, maker: u32) -> bool {
    if maker == instance.pid {
        return true;
    }
    // A launcher made the socket and passed it on. A second socket of the same path belongs to a
    // QEMU started later, and the connection may lead to either.
    listening_inodes(instance.pid, path).len() == 1
        && listens(instance.pid, path)
        && !listens(maker, path)
}

/// The same for a connection to a socket that was renamed, and that the instance had bound as `bound`: the file there is
/// another one now, so that only the name can be compared. What this process made is its own socket in that place.
pub(crate) fn leads_to_renamed(instance: Instance, bound: &Path, maker: u32) -> bool {
    let is_own = maker == std::process::id();
    maker == instance.pid || (!is_own && listens(instance.pid, bound) && !listens(maker, bound))
}

/// Whether the process holds a socket that listens at `path`, or did before that was renamed.
pub(crate) fn listens(pid: u32, path: &Path) -> bool {
    let inodes = listening_inodes(pid, path);
    if inodes.is_empty() {
        return false;
    }
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries.flatten().any(|entry| {
        fs::read_link(entry.path())
            .ok()
            .and_then(|target| socket_inode(&target.to_string_lossy()))
            .is_some_and(|inode| inodes.contains(&inode))
    })
}

/// The inode in the target of a link such as `socket:[4711]`.
fn socket_inode(target: &str) -> Option<u64> {
    target
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// Inodes of the sockets that listen at `path`, in the network namespace of the process.
fn listening_inodes(pid: u32, path: &Path) -> Vec<u64> {
    let Ok(table) = fs::read(format!("/proc/{pid}/net/unix")) else {
        return Vec::new();
    };
    String::from_utf8_lossy(&table)
        .lines()
        .skip(1)
        .filter_map(listening_line)
        .filter(|(_, bound)| same_socket(pid, Path::new(bound), path))
        .map(|(inode, _)| inode)
        .collect()
}

/// Inode and path of a line of `/proc/net/unix`, if it is a listening socket with a path in the
/// file system. Columns: number, references, protocol, flags, type, state, inode, path.
fn listening_line(line: &str) -> Option<(u64, &str)> {
    let mut rest = line;
    let mut column = || {
        let (word, after) = rest.trim_start().split_once(' ')?;
        rest = after;
        Some(word)
    };
    let (_number, _references, _protocol) = (column()?, column()?, column()?);
    let flags = u32::from_str_radix(column()?, 16).ok()?;
    let (_type, _state) = (column()?, column()?);
    let inode = column()?.parse().ok()?;
    (flags & LISTENING_FLAG != 0 && !rest.is_empty() && !rest.starts_with('@'))
        .then_some((inode, rest))
}

/// Whether the path that a process bound is `path`, or leads to the file there. A relative one is compared by its
/// end, since the process may have changed its directory since.
fn same_socket(pid: u32, bound: &Path, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(below_root) = bound.strip_prefix("/") else {
        return path.ends_with(bound.strip_prefix(".").unwrap_or(bound));
    };
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let seen_by_it = Path::new(&format!("/proc/{pid}/root")).join(below_root);
    let is_same = |one: Option<&Path>, other: Option<&Path>| {
        let known = one.and_then(identity);
        known.is_some() && known == other.and_then(identity)
    };
    bound == path
        || is_same(Some(&seen_by_it), Some(path))
        || (bound.file_name() == path.file_name() && is_same(seen_by_it.parent(), path.parent()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command, Stdio};

    fn boot() -> BootId {
        BootId(Id128([7; 16]))
    }

    /// A process that lives until it is killed.
    fn child() -> Child {
        Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    fn start_time_survives_any_name() {
        let fields: Vec<String> = (4..40).map(|number| number.to_string()).collect();
        let stat = format!("17 (a) b (c) S {}", fields.join(" "));
        assert_eq!(start_time(&stat), Some(22));
        assert_eq!(start_time("17 (qemu) S 1 2"), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn lines_of_the_socket_table() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 24861 /run/a b.sock";
        assert_eq!(listening_line(line), Some((24861, "/run/a b.sock")));
        let connected = "0000000000000000: 00000003 00000000 00000000 0001 03 24862 /run/a.sock";
        assert_eq!(listening_line(connected), None);
        let nameless = "0000000000000000: 00000003 00000000 00010000 0001 03 24862";
        assert_eq!(listening_line(nameless), None);
        let abstract_name = "0000000000000000: 00000002 00000000 00010000 0001 01 9 @x";
        assert_eq!(listening_line(abstract_name), None);
    }

    #[test]
    fn relative_socket_names_match_by_their_end() {
        let path = Path::new("/run/vm/a/qmp.sock");
        assert!(same_socket(1, Path::new("a/qmp.sock"), path));
        assert!(same_socket(1, Path::new("./qmp.sock"), path));
        assert!(!same_socket(1, Path::new("mp.sock"), path));
        assert!(!same_socket(1, Path::new("b/qmp.sock"), path));
    }

    #[tokio::test]
    async fn a_process_is_held_and_killed_once() {
        let mut process = child();
        let instance = find(process.id(), boot()).unwrap();
        let held = Held::open(instance, boot()).unwrap().unwrap();
        assert!(!held.has_ended());
        assert_eq!(held.kill().await, EffectResult::Done);
        assert!(held.has_ended());
        // Not yet waited for: a zombie counts as gone, for a second holder too.
        assert!(Held::open(instance, boot()).unwrap().is_none());
        process.wait().unwrap();
        assert_eq!(held.kill().await, EffectResult::Done);
    }

    #[tokio::test]
    async fn other_start_time_or_boot_is_another_process() {
        let mut process = child();
        let instance = find(process.id(), boot()).unwrap();
        let reused = Instance {
            start_time: instance.start_time + 1,
            ..instance
        };
        assert!(Held::open(reused, boot()).unwrap().is_none());
        let rebooted = BootId(Id128([8; 16]));
        assert!(Held::open(instance, rebooted).unwrap().is_none());
        assert!(Held::open(instance, boot()).unwrap().is_some());
        process.kill().unwrap();
        process.wait().unwrap();
    }

    #[tokio::test]
    async fn never_init_nor_ourselves() {
        for pid in [0, 1, std::process::id(), u32::MAX] {
            let instance = find(pid, boot()).unwrap_or(Instance {
                boot: boot(),
                pid,
                start_time: 1,
            });
            assert!(Held::open(instance, boot()).unwrap().is_none(), "{pid}");
        }
    }

    #[test]
    fn a_socket_is_held_by_who_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(listens(std::process::id(), &path));
        let mut other = child();
        assert!(!listens(other.id(), &path));
        // We made it and hold it, but never take ourselves for a QEMU.
        let error = owner(&path, std::process::id(), None, boot()).unwrap_err();
        assert!(error.to_string().contains("name QEMU's process with 'pid'"));
        let error = owner(&path, std::process::id(), Some(other.id()), boot()).unwrap_err();
        assert!(error.to_string().contains("does not listen on it"));
        let error = owner(&path, 0, Some(1), boot()).unwrap_err();
        assert!(error.to_string().contains("never taken"));
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
