//! A service manager's side of the file descriptor store, as systemd has it (sd_notify(3), sd_listen_fds(3)).
//!
//! Invariant: it keeps what it is sent under its name, and hands all of it to the next process from descriptor 3 on; what hung up is gone by
//! then, unless it came with `FDPOLL=0`.
//! Not here: what is kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::{Error, until};

/// Descriptors are handed over by a shell that moves them from here on to where they belong.
const HIGH_FD: i32 = 500;

/// What of a memory file is looked at, in bytes.
const STATE_SIZE: usize = 64 * 1024;

/// How long it may take to have read what it was sent.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(10);

/// A service manager.
#[derive(Debug)]
pub struct Supervisor {
    path: PathBuf,
    store: Arc<Mutex<Store>>,
}

#[derive(Default)]
struct Store {
    kept: BTreeMap<String, Kept>,
    /// It has read so many barriers.
    barriers: usize,
    /// All that it was told, but for the store's own.
    told: Vec<String>,
}

#[derive(Default)]
struct Kept {
    fds: Vec<OwnedFd>,
    /// Is kept though it hung up.
    unpolled: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.kept.keys()).finish()
    }
}

/// How to start a process with all that is kept.
#[derive(Debug)]
pub(crate) struct HandedOver {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Open until it was started.
    _high: Vec<OwnedFd>,
}

impl Supervisor {
    /// One whose socket lies in this directory.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made.
    pub fn start(directory: &Path) -> Result<Supervisor, Error> {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).map_err(Error::io("binding", &path))?;
        let store = Arc::new(Mutex::new(Store::default()));
        let shared = store.clone();
        thread::spawn(move || {
            while let Ok(message) = receive(&socket) {
                lock(&shared).take(message);
            }
        });
        Ok(Supervisor { path, store })
    }

    /// The names under which something is kept, when all that was sent by now is read.
    ///
    /// # Errors
    /// [`Error::Deadline`], [`Error::Io`].
    pub fn kept(&self) -> Result<Vec<String>, Error> {
        self.barrier()?;
        Ok(lock(&self.store).kept.keys().cloned().collect())
    }

    /// What it was told, such as `READY=1`.
    ///
    /// # Errors
    /// As [`Supervisor::kept`].
    pub fn told(&self) -> Result<Vec<String>, Error> {
        self.barrier()?;
        Ok(lock(&self.store).told.clone())
    }

    /// Keeps something else too.
    pub fn keep(&self, name: &str, fds: Vec<OwnedFd>) {
        let kept = Kept {
            fds,
            unpolled: true,
        };
        lock(&self.store).kept.insert(name.to_owned(), kept);
    }

    /// Gives everything up, as one whose store has no room.
    pub fn forget(&self) {
        lock(&self.store).kept.clear();
    }

    /// Waits until no memory file says in its first byte that a step is under way, so that whoever dies now dies between steps.
    ///
    /// # Errors
    /// As [`Supervisor::kept`].
    pub fn at_rest(&self, timeout: Duration) -> Result<(), Error> {
        until("all kept connections are at rest", timeout, || {
            self.barrier()?;
            let store = lock(&self.store);
            let mut files = store.kept.values().flat_map(|kept| &kept.fds);
            Ok(files.all(|fd| !is_in_a_step(fd)).then_some(()))
        })
    }

    /// Whether it is written down of a client's command with this text in it that it is on its way to QEMU.
    ///
    /// # Errors
    /// As [`Supervisor::kept`].
    pub fn has_sent(&self, text: &str) -> Result<bool, Error> {
        self.barrier()?;
        let store = lock(&self.store);
        let mut files = store.kept.values().flat_map(|kept| &kept.fds);
        Ok(files.any(|fd| says_sent(fd, text.as_bytes())))
    }

    /// Writes over the memory file that is kept under this name.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written to.
    pub fn damage(&self, name: &str, bytes: &[u8], at: u64) -> Result<(), Error> {
        let store = lock(&self.store);
        let fds = store.kept.get(name).map(|kept| kept.fds.iter());
        for fd in fds.into_iter().flatten() {
            let is_file = fstat(fd)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
            if is_file {
                let failed = Error::io("damaging", Path::new(name));
                let file = File::from(
                    fd.try_clone()
                        .map_err(Error::io("damaging", Path::new(name)))?,
                );
                file.write_all_at(bytes, at).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// How to start a program with what is kept.
    pub(crate) fn hand_over(
        &self,
        program: &Path,
        arguments: &[String],
    ) -> Result<HandedOver, Error> {
        self.barrier()?;
        let mut store = lock(&self.store);
        store.drop_hung_up();
        let (mut names, mut high, mut moves) = (Vec::new(), Vec::new(), String::new());
        for (name, kept) in &store.kept {
            for fd in &kept.fds {
                let failed = |error: rustix::io::Errno| {
                    Error::io("handing over", Path::new(name))(error.into())
                };
                let copy = fcntl_dupfd_cloexec(fd, HIGH_FD).map_err(failed)?;
                fcntl_setfd(&copy, FdFlags::empty()).map_err(failed)?;
                let (target, source) = (3 + names.len(), copy.as_raw_fd());
                moves.push_str(&format!("exec {target}<&{source}-\n"));
                names.push(name.clone());
                high.push(copy);
            }
        }
        let script = format!("{moves}LISTEN_PID=$$ exec \"$@\"");
        let mut all = vec!["-c".to_owned(), script, "supervised".to_owned()];
        all.push(program.display().to_string());
        all.extend_from_slice(arguments);
        let mut environment = vec![("NOTIFY_SOCKET".to_owned(), self.path.display().to_string())];
        if !names.is_empty() {
            environment.push(("LISTEN_FDS".to_owned(), names.len().to_string()));
            environment.push(("LISTEN_FDNAMES".to_owned(), names.join(":")));
        }
        Ok(HandedOver {
            program: "bash".into(),
            arguments: all,
            environment,
            _high: high,
        })
    }

    /// Returns when all that was sent before is read.
    fn barrier(&self) -> Result<(), Error> {
        let before = lock(&self.store).barriers;
        let failed = || Error::io("telling", &self.path);
        let socket = UnixDatagram::unbound().map_err(failed())?;
        socket.send_to(b"BARRIER=1", &self.path).map_err(failed())?;
        until("the supervisor has read all", BARRIER_TIMEOUT, || {
            Ok((lock(&self.store).barriers > before).then_some(()))
        })
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    fn take(&mut self, (text, fds): (String, Vec<OwnedFd>)) {
        let has = |line: &str| text.lines().any(|one| one == line);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        match name {
            Some(name) if has("FDSTORE=1") => {
                let kept = self.kept.entry(name.to_owned()).or_default();
                kept.fds.extend(fds);
                kept.unpolled |= has("FDPOLL=0");
            }
            Some(name) if has("FDSTOREREMOVE=1") => drop(self.kept.remove(name)),
            _ if has("BARRIER=1") => self.barriers += 1,
            _ => self.told.extend(text.lines().map(str::to_owned)),
        }
    }

    fn drop_hung_up(&mut self) {
        for kept in self.kept.values_mut().filter(|kept| !kept.unpolled) {
            kept.fds.retain(|fd| !has_hung_up(fd));
        }
        self.kept.retain(|_, kept| !kept.fds.is_empty());
    }
}

fn is_in_a_step(fd: &OwnedFd) -> bool {
    let mut first = [0];
    let read = rustix::io::pread(fd, &mut first, 0);
    read.is_ok() && first != [0]
}

/// In a memory file a command's bytes stand behind how far it is, QEMU's id, whether descriptors came, and their length.
fn says_sent(fd: &OwnedFd, text: &[u8]) -> bool {
    const SENT: u8 = 3;
    const STAGE_BEFORE: usize = 1 + 8 + 1 + 8;
    let mut bytes = vec![0; STATE_SIZE];
    let Ok(size) = rustix::io::pread(fd, bytes.as_mut_slice(), 0) else {
        return false;
    };
    let bytes = &bytes[..size];
    let begins = |at: usize| bytes[..at].iter().rposition(|byte| *byte == b'{');
    let found = bytes.windows(text.len()).position(|one| one == text);
    let stage = found
        .and_then(begins)
        .and_then(|at| at.checked_sub(STAGE_BEFORE));
    stage.is_some_and(|at| bytes[at] == SENT)
}

fn has_hung_up(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let gone = PollFlags::HUP | PollFlags::ERR;
    matches!(poll(&mut fds, Some(&at_once)), Ok(1..)) && fds[0].revents().intersects(gone)
}

fn receive(socket: &UnixDatagram) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    assert!(!received.flags.contains(ReturnFlags::CTRUNC));
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let text = String::from_utf8_lossy(&bytes[..received.bytes]).into_owned();
    Ok((text, fds))
}
