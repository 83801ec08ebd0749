//! Taking a running QEMU's place: its socket gets another name, and the sidecar's monitor stands where it was.
//!
//! Invariant: the socket of a QEMU is renamed only if it leads to the instance meant, in its own directory, and nothing but
//! a socket on which nobody listens is ever replaced by it. The journal names the socket by where it is to be *before* it is moved, so
//! that whatever the sidecar died in is brought to its end by the next life. Its new name alone says that it was taken.
//! Not here: serving clients (`proxy`), when a domain is added or removed (`control`).

use core::fmt;
use core::time::Duration;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use journal_format::record::Instance;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::net::UnixListener;

use super::process::{leads_to_renamed, listens};
use crate::qmp::{Dialled, QmpError, bind_new, bind_over, remove_socket};

/// What is put behind the name of a socket that was taken over.
pub(crate) const SUFFIX: &str = ".taken-over";

/// How long QEMU may take to let one more connection wait.
const DIAL_WAIT: Duration = Duration::from_millis(500);

/// A QEMU's monitor socket that the sidecar stands in front of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TakenOver {
    /// Where QEMU made it, and where the sidecar's own now is.
    pub(crate) front: PathBuf,
    /// Where it is now.
    pub(crate) behind: PathBuf,
}

/// Why a socket was not taken over; everything is as it was.
#[derive(Debug)]
pub(crate) enum TakeOverError {
    /// Neither name leads to the QEMU.
    NotThere {
        /// Where it was looked for.
        front: PathBuf,
        /// What was found there.
        why: String,
    },
    /// Something is where the socket would go.
    InTheWay {
        /// That name.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// The system did not let it be moved.
    NotMoved {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The sidecar's own socket cannot be made.
    NotServed {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for TakeOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TakeOverError::NotThere { front, why } => {
                write!(f, "{}: cannot be taken over: {why}", front.display())
            }
            TakeOverError::InTheWay { path, why } => {
                write!(
                    f,
                    "{}: is in the way of QEMU's socket: {why}",
                    path.display()
                )
            }
            TakeOverError::NotMoved { path, source } => {
                write!(f, "{}: cannot be renamed: {source}", path.display())
            }
            TakeOverError::NotServed { path, source } => {
                write!(f, "{}: cannot be served: {source}", path.display())
            }
        }
    }
}

impl core::error::Error for TakeOverError {}

/// What a connection to a path leads to.
enum Leads {
    ToIt,
    Nowhere,
    Elsewhere(String),
    /// Somebody listens there; who, is not known.
    Somewhere(String),
}

impl TakenOver {
    /// For a socket that is to be taken over.
    pub(crate) fn from_front(front: &Path) -> TakenOver {
        let mut behind = front.as_os_str().to_owned();
        behind.push(SUFFIX);
        TakenOver {
            front: front.to_owned(),
            behind: behind.into(),
        }
    }

    /// For a socket as the journal names it; `None` if it was not taken over.
    pub(crate) fn from_behind(behind: &Path) -> Option<TakenOver> {
        let front = behind.to_str()?.strip_suffix(SUFFIX)?;
        Some(TakenOver {
            front: front.into(),
            behind: behind.to_owned(),
        })
    }

    /// Where QEMU's socket can be connected to now: at its old name while somebody listens there, else at the new one.
    pub(crate) async fn socket(&self) -> &Path {
        match Dialled::dial(&self.front, DIAL_WAIT).await {
            Err(QmpError::Connect { .. }) if is_socket(&self.behind) => &self.behind,
            Ok(_) | Err(_) => &self.front,
        }
    }

    /// Brings the take-over of this instance's socket to its end, from wherever it stood: the sidecar's listening socket
    /// at the old name, and QEMU's behind it.
    ///
    /// # Errors
    /// See [`TakeOverError`].
    pub(crate) async fn establish(&self, instance: Instance) -> Result<Placed, TakeOverError> {
        let not_there = |why| TakeOverError::NotThere {
            front: self.front.clone(),
            why,
        };
        match self.leads(&self.front, instance).await {
            Leads::ToIt if is_bound(&self.behind) => Err(TakeOverError::InTheWay {
                path: self.behind.clone(),
                why: "somebody listens there".to_owned(),
            }),
            Leads::ToIt => self.exchange(),
            Leads::Elsewhere(why) | Leads::Somewhere(why) => Err(not_there(why)),
            Leads::Nowhere if self.is_behind(instance).await => {
                Ok(Placed::new(self.bind_front()?, &self.front))
            }
            Leads::Nowhere => Err(not_there("nobody listens there".to_owned())),
        }
    }

    /// Whether the instance's socket is at its new name. While it has a client, as it does where one outlives the sidecar, QEMU lets
    /// only two more wait, even those that have left: it is not connected to where that can be known without.
    async fn is_behind(&self, instance: Instance) -> bool {
        is_bound(&self.behind)
            && (listens(instance.pid, &self.front)
                || matches!(self.leads(&self.behind, instance).await, Leads::ToIt))
    }

    fn bind_front(&self) -> Result<UnixListener, TakeOverError> {
        let mut new = self.front.as_os_str().to_owned();
        new.push(".new");
        bind_over(&self.front, Path::new(&new)).map_err(|source| TakeOverError::NotServed {
            path: self.front.clone(),
            source,
        })
    }

    /// The sidecar's socket is made at the new name, and then both change names at once: there is no moment without
    /// a monitor at the old one.
    fn exchange(&self) -> Result<Placed, TakeOverError> {
        let in_the_way = |error: io::Error| TakeOverError::InTheWay {
            path: self.behind.clone(),
            why: error.to_string(),
        };
        match remove_socket(&self.behind) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(in_the_way(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = bind_new(&self.behind).map_err(|source| TakeOverError::NotServed {
            path: self.behind.clone(),
            source,
        })?;
        let placed = Placed::new(listener, &self.behind);
        renameat_with(CWD, &self.behind, CWD, &self.front, RenameFlags::EXCHANGE).map_err(
            |error| TakeOverError::NotMoved {
                path: self.front.clone(),
                source: error.into(),
            },
        )?;
        Ok(placed.moved_to(&self.front))
    }

    /// Gives the instance's socket its old name back, in place of the sidecar's own; nothing if it has it, or QEMU is gone.
    ///
    /// # Errors
    /// As the system says, or somebody else listens at the old name; all is where it was.
    pub(crate) async fn put_back(&self, instance: Instance) -> io::Result<()> {
        let is_free = match Dialled::dial(&self.front, DIAL_WAIT).await {
            Ok(dialled) => {
                let maker = dialled.credentials().pid;
                if leads_to_renamed(instance, &self.front, maker) {
                    return Ok(());
                }
                maker == std::process::id()
            }
            Err(QmpError::Connect { kind, .. }) => match kind {
                io::ErrorKind::NotFound => true,
                io::ErrorKind::ConnectionRefused => is_socket(&self.front),
                _ => false,
            },
            Err(_) => false,
        };
        let is_behind = match self.leads(&self.behind, instance).await {
            Leads::ToIt => true,
            Leads::Nowhere | Leads::Elsewhere(_) => false,
            // So many wait already; but the names tell.
            Leads::Somewhere(_) => self.is_behind(instance).await,
        };
        if !is_behind {
            return Ok(());
        }
        if !is_free {
            let why = format!("{} is somebody else's", self.front.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        std::fs::rename(&self.behind, &self.front)
    }

    /// Removes what a QEMU that is gone left at the new name; and at the old one what a sidecar left that was killed with it.
    pub(crate) fn clear(&self) {
        if is_bound(&self.behind) {
            return;
        }
        // The old name first: by what is at the new one the next life knows that there was a take-over.
        let was_taken = is_socket(&self.behind);
        // Learnt first: whoever makes a socket there now makes another file.
        let identity = identity(&self.front);
        if was_taken && is_socket(&self.front) && !is_bound(&self.front) {
            let path = self.front.clone();
            drop(Name { path, identity });
        }
        // One that stays behind is removed by the next take-over.
        drop(remove_socket(&self.behind));
    }

    async fn leads(&self, path: &Path, instance: Instance) -> Leads {
        match Dialled::dial(path, DIAL_WAIT).await {
            Ok(dialled) => {
                let maker = dialled.credentials().pid;
                match leads_to_renamed(instance, &self.front, maker) {
                    true => Leads::ToIt,
                    false => Leads::Elsewhere(format!("process {maker} listens there")),
                }
            }
            Err(QmpError::Connect {
                kind: io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused,
                ..
            }) => Leads::Nowhere,
            Err(error) => Leads::Somewhere(error.to_string()),
        }
    }
}

/// Whether a socket that is open somewhere has this name; in doubt it has. Who asks is nobody's client: a datagram socket is turned away by any
/// that is none (`unix_find_bsd`: `EPROTOTYPE`), and refused where there is only a file.
fn is_bound(path: &Path) -> bool {
    let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    !asked.is_err_and(|error| {
        let kind = error.kind();
        kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused
    })
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// A listening socket of ours, and its name.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) listener: UnixListener,
    pub(crate) name: Name,
}

/// The name of a socket of ours, which is removed with this; but not if another file has it by then.
#[derive(Debug)]
pub(crate) struct Name {
    path: PathBuf,
    /// Device and inode; nothing if they could not be learnt.
    identity: Option<(u64, u64)>,
}

impl Placed {
    pub(crate) fn new(listener: UnixListener, path: &Path) -> Placed {
        let name = Name {
            path: path.to_owned(),
            identity: identity(path),
        };
        Placed { listener, name }
    }

    fn moved_to(mut self, path: &Path) -> Placed {
        self.name.path = path.to_owned();
        self
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

impl Drop for Name {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // One that stays behind does no harm: whoever comes next takes its place.
            drop(remove_socket(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::testing::FakeQemu;
    use serde_json::json;
    use std::fs;

    async fn taken() -> (FakeQemu, TakenOver, Instance) {
        let qemu = FakeQemu::start(&json!({})).await;
        let taken = TakenOver::from_front(&qemu.path);
        let instance = qemu.instance();
        (qemu, taken, instance)
    }

    async fn stands(taken: &TakenOver, instance: Instance) -> [bool; 2] {
        let mut found = [false; 2];
        for (path, found) in [&taken.front, &taken.behind].into_iter().zip(&mut found) {
            *found = matches!(taken.leads(path, instance).await, Leads::ToIt);
        }
        found
    }

    #[test]
    fn names() {
        let taken = TakenOver::from_front(Path::new("/run/100.qmp"));
        assert_eq!(taken.behind, Path::new("/run/100.qmp.taken-over"));
        assert_eq!(TakenOver::from_behind(&taken.behind), Some(taken));
        assert_eq!(TakenOver::from_behind(Path::new("/run/100.qmp")), None);
    }

    /// Whatever the sidecar died in, the next life brings it to its end, or it is taken back.
    #[tokio::test]
    async fn from_every_step() {
        let (_qemu, taken, instance) = taken().await;
        assert_eq!(
            stands(&taken, instance).await,
            [true, false],
            "nothing done"
        );
        drop(bind_new(&taken.behind).unwrap());
        let placed = taken.establish(instance).await.unwrap();
        assert_eq!(
            stands(&taken, instance).await,
            [false, true],
            "ours was made"
        );
        assert!(is_socket(&taken.front));
        // Its socket is left there, as after SIGKILL.
        let left = taken.front.with_extension("left");
        fs::hard_link(&taken.front, &left).unwrap();
        drop(placed);
        fs::rename(&left, &taken.front).unwrap();
        let placed = taken.establish(instance).await.unwrap();
        assert_eq!(
            stands(&taken, instance).await,
            [false, true],
            "both were moved"
        );
        taken.put_back(instance).await.unwrap();
        assert_eq!(stands(&taken, instance).await, [true, false], "taken back");
        taken.put_back(instance).await.unwrap();
        drop(placed);
        assert_eq!(
            stands(&taken, instance).await,
            [true, false],
            "QEMU's stays"
        );
    }

    #[tokio::test]
    async fn what_is_in_the_way_stays() {
        let (_qemu, taken, instance) = taken().await;
        fs::write(&taken.behind, "somebody's").unwrap();
        let error = taken.establish(instance).await.unwrap_err();
        assert!(matches!(error, TakeOverError::InTheWay { .. }), "{error}");
        assert_eq!(fs::read(&taken.behind).unwrap(), b"somebody's");
        fs::remove_file(&taken.behind).unwrap();
        let foreign = UnixListener::bind(&taken.behind).unwrap();
        let error = taken.establish(instance).await.unwrap_err();
        assert!(matches!(error, TakeOverError::InTheWay { .. }), "{error}");
        assert_eq!(stands(&taken, instance).await, [true, false]);
        // Nothing was taken over, and nothing of somebody else's is put in QEMU's place.
        taken.put_back(instance).await.unwrap();
        assert_eq!(stands(&taken, instance).await, [true, false]);
        fs::rename(&taken.front, taken.front.with_extension("away")).unwrap();
        taken.put_back(instance).await.unwrap();
        assert!(is_bound(&taken.behind) && !taken.front.exists());
        drop(foreign);
        assert!(!is_bound(&taken.behind));
    }

    #[tokio::test]
    async fn another_qemus_socket_is_not_taken() {
        let (_qemu, taken, instance) = taken().await;
        let other = Instance {
            pid: instance.pid + 1,
            ..instance
        };
        let error = taken.establish(other).await.unwrap_err();
        assert!(matches!(error, TakeOverError::NotThere { .. }), "{error}");
        assert_eq!(stands(&taken, instance).await, [true, false]);
    }

    /// The sidecar and QEMU were killed: files at both names, and nobody listens.
    #[tokio::test]
    async fn what_both_left_goes() {
        for is_taken_again in [false, true] {
            let (mut qemu, taken, instance) = taken().await;
            let placed = taken.establish(instance).await.unwrap();
            let left = taken.front.with_extension("left");
            fs::hard_link(&taken.front, &left).unwrap();
            drop(placed);
            fs::rename(&left, &taken.front).unwrap();
            qemu.kill();
            assert!(is_socket(&taken.front) && is_socket(&taken.behind));
            // The next QEMU is there already.
            let next = is_taken_again.then(|| {
                fs::remove_file(&taken.front).unwrap();
                UnixListener::bind(&taken.front).unwrap()
            });
            taken.clear();
            assert!(!is_socket(&taken.behind));
            assert_eq!(is_socket(&taken.front), is_taken_again);
            // Once more: nothing was taken over any more, and what is there is not ours.
            drop(next);
            taken.clear();
            assert_eq!(is_socket(&taken.front), is_taken_again);
        }
    }

    /// By what is at the new name the next life knows that there was a take-over: it goes last.
    #[tokio::test]
    async fn the_old_name_goes_first() {
        use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
        let (mut qemu, taken, instance) = taken().await;
        let placed = taken.establish(instance).await.unwrap();
        let left = taken.front.with_extension("left");
        fs::hard_link(&taken.front, &left).unwrap();
        drop(placed);
        fs::rename(&left, &taken.front).unwrap();
        qemu.kill();
        let watch = init(CreateFlags::NONBLOCK).unwrap();
        let directory = taken.front.parent().unwrap();
        add_watch(&watch, directory, WatchFlags::DELETE).unwrap();
        taken.clear();
        let mut room = [core::mem::MaybeUninit::uninit(); 4096];
        let mut seen = Reader::new(&watch, &mut room);
        for path in [&taken.front, &taken.behind] {
            let event = seen.next().unwrap();
            let name = event.file_name().unwrap().to_str().unwrap();
            assert_eq!(Some(name), path.file_name().unwrap().to_str());
        }
    }

    #[tokio::test]
    async fn what_a_qemu_left_goes() {
        let (mut qemu, taken, instance) = taken().await;
        let placed = taken.establish(instance).await.unwrap();
        taken.clear();
        assert!(is_socket(&taken.behind), "somebody listens");
        qemu.kill();
        taken.clear();
        assert!(!is_socket(&taken.behind));
        drop(placed);
        assert!(!is_socket(&taken.front));
    }
}
