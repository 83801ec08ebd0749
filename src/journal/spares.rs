//! Spare segments: files of zeros, made in the background, so that a new segment costs no more than
//! its header, and a full disk leaves room for what recovery must still write.
//!
//! Invariant: a spare is handed out only when every byte of it was written as zero and synced in this
//! life of the journal, whatever the file held before (F22).
//! Not here: when a segment is begun (`log`), which segments may go (`segments`).

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::Disk;
use super::error::AppendError;
use super::segments::{CreateError, fill_with_zeros, remove_if_there};

/// Spares that are kept ready: one to roll into, and one that only recovery enters.
pub(super) const SPARES: usize = 2;

const PREFIX: &str = "spare-";

/// How long after a failure a spare is not tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Longest wait for a spare that is being made. Zeros for a segment take some 10 ms; a disk that
/// hangs must not hang whoever asks for a job.
pub(crate) const SPARE_WAIT_MAX: Duration = Duration::from_secs(2);

/// Whether a name is that of a spare.
pub(super) fn is_spare(name: &str) -> bool {
    parse(name).is_some()
}

fn parse(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?.parse().ok()?;
    (self::name(number) == name).then_some(number)
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number}")
}

/// A file of zeros.
#[derive(Debug)]
pub(super) struct Spare<F> {
    pub(super) name: String,
    pub(super) file: F,
    /// In bytes.
    pub(super) size: u64,
}

/// Why there is no spare.
#[derive(Clone, Debug)]
struct Failure {
    name: String,
    doing: &'static str,
    cause: Arc<io::Error>,
}

#[derive(Debug)]
struct State<F> {
    ready: VecDeque<Spare<F>>,
    /// The one that the next roll enters.
    aside: Option<Spare<F>>,
    /// Files that were spares or segments before. Their names are not durable, nor are they zeros.
    used: VecDeque<String>,
    /// Why the last attempt failed.
    failure: Option<Failure>,
    /// Somebody makes spares in the background.
    has_maker: bool,
    closed: bool,
    /// The highest number of a name.
    last: u64,
}

type Shared<F> = Arc<(Mutex<State<F>>, Condvar)>;

/// Nothing panics while it holds this lock, so what it guards is whole in any case.
fn lock<F>(shared: &Shared<F>) -> MutexGuard<'_, State<F>> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The spares of one open journal. When it is dropped, the maker ends.
#[derive(Debug)]
pub(super) struct Spares<F> {
    shared: Shared<F>,
    /// The size of a spare in bytes.
    size: u64,
}

impl<F> Drop for Spares<F> {
    fn drop(&mut self) {
        lock(&self.shared).closed = true;
        self.shared.1.notify_all();
    }
}

/// Makes spares, on a thread of its own. Without one they are made when they are asked for.
#[derive(Debug)]
pub struct SpareMaker<D: Disk> {
    disk: D,
    shared: Shared<D::File>,
    size: u64,
}

impl<D: Disk> SpareMaker<D> {
    /// Makes spares whenever some are missing; returns when the log is gone.
    pub fn run(&self) {
        loop {
            let has_made = self.make_missing();
            let state = lock(&self.shared);
            if state.closed {
                return;
            }
            let is_idle = |state: &mut State<D::File>| !state.closed && state.ready.len() >= SPARES;
            if !has_made && state.failure.is_some() {
                drop(self.shared.1.wait_timeout(state, RETRY_PAUSE));
            } else {
                drop(self.shared.1.wait_while(state, is_idle));
            }
        }
    }

    /// Makes one spare if some are missing; whether it did.
    pub fn make_missing(&self) -> bool {
        let is_missing = {
            let state = lock(&self.shared);
            !state.closed && state.ready.len() < SPARES
        };
        is_missing && make(&self.disk, &self.shared, self.size)
    }
}

/// Makes one spare; whether that went well is in the state.
fn make<D: Disk>(disk: &D, shared: &Shared<D::File>, size: u64) -> bool {
    let (used, fresh) = {
        let mut state = lock(shared);
        state.last += 1;
        (state.used.pop_front(), name(state.last))
    };
    let is_used = used.is_some();
    let name = used.unwrap_or(fresh);
    let made = match is_used {
        true => zero_again(disk, &name, size),
        false => make_new(disk, &name, size),
    };
    let mut state = lock(shared);
    let is_made = made.is_ok();
    match made {
        Ok(file) => {
            state.failure = None;
            state.ready.push_back(Spare { name, file, size });
        }
        Err(CreateError { doing, source, .. }) => {
            if state.failure.is_none() {
                tracing::warn!(file = name, doing, error = %source, "no spare segment: new jobs are refused when there is none");
            }
            let cause = Arc::new(source);
            state.failure = Some(Failure { name, doing, cause });
        }
    }
    drop(state);
    shared.1.notify_all();
    is_made
}

fn make_new<D: Disk>(disk: &D, name: &str, size: u64) -> Result<D::File, CreateError> {
    let file = disk
        .create(name)
        .map_err(CreateError::unnamed("create the spare segment"))?;
    let filled = fill_with_zeros(disk, &file, 0, size)
        .and_then(|()| disk.sync(&file))
        .map_err(CreateError::unnamed("fill the spare segment"));
    match filled {
        Ok(()) => Ok(file),
        Err(error) => {
            // Gives the space back at once; what stays is used by the next opening.
            drop(remove_if_there(disk, name));
            Err(error)
        }
    }
}

/// A file of another use becomes zeros. Its new name is durable first: under its old one the zeros
/// would be a damaged segment.
fn zero_again<D: Disk>(disk: &D, name: &str, size: u64) -> Result<D::File, CreateError> {
    disk.sync_directory()
        .map_err(CreateError::unnamed("sync the directory of"))?;
    let file = disk
        .open_or_create(name)
        .map_err(CreateError::unnamed("open the spare segment"))?;
    let length = disk
        .length(&file)
        .map_err(CreateError::unnamed("get the length of"))?;
    if length != size {
        drop(file);
        remove_if_there(disk, name).map_err(CreateError::unnamed("remove"))?;
        return make_new(disk, name, size);
    }
    fill_with_zeros(disk, &file, 0, size)
        .and_then(|()| disk.sync(&file))
        .map_err(CreateError::unnamed("fill the spare segment"))?;
    Ok(file)
}

impl<F> Spares<F> {
    /// Spares of `size` bytes, of files that are there already under these names.
    pub(super) fn new(size: u64, used: Vec<String>) -> Spares<F> {
        let last = used.iter().filter_map(|name| parse(name)).max();
        let state = State {
            ready: VecDeque::new(),
            aside: None,
            used: used.into(),
            failure: None,
            has_maker: false,
            closed: false,
            last: last.unwrap_or(0),
        };
        Spares {
            shared: Arc::new((Mutex::new(state), Condvar::new())),
            size,
        }
    }

    /// Whoever makes them from now on.
    pub(super) fn maker<D: Disk<File = F>>(&self, disk: D) -> SpareMaker<D> {
        lock(&self.shared).has_maker = true;
        SpareMaker {
            disk,
            shared: Arc::clone(&self.shared),
            size: self.size,
        }
    }

    /// A name for a segment of `size` bytes that is to become a spare; `None` when it is of no use.
    pub(super) fn name_for_used(&self, size: u64) -> Option<String> {
        let mut state = lock(&self.shared);
        if size != self.size || state.ready.len() + state.used.len() >= SPARES {
            return None;
        }
        state.last += 1;
        Some(name(state.last))
    }

    /// Takes a file that has got a name of [`Spares::name_for_used`].
    pub(super) fn add_used(&self, name: String) {
        lock(&self.shared).used.push_back(name);
        self.shared.1.notify_all();
    }

    /// How many are ready.
    pub(super) fn count(&self) -> u64 {
        lock(&self.shared).ready.len() as u64
    }

    /// Are there more than `leaving`?
    pub(super) fn is_any(&self, leaving: usize) -> bool {
        lock(&self.shared).ready.len() > leaving
    }

    /// Sets one aside for the next roll, which is made here if not `leaving` others
    /// would stay.
    ///
    /// # Errors
    /// [`AppendError::NoSegment`].
    pub(super) fn set_aside<D: Disk<File = F>>(
        &self,
        disk: &D,
        leaving: usize,
    ) -> Result<(), AppendError> {
        let are_enough = {
            let state = lock(&self.shared);
            if state.aside.is_some() {
                return Ok(());
            }
            state.ready.len() > leaving
        };
        let is_made = are_enough || make(disk, &self.shared, self.size);
        let mut state = lock(&self.shared);
        // Only the log takes spares: there is one more than before, or there were enough.
        if is_made {
            state.aside = state.ready.pop_front();
        }
        let result = match state.aside {
            Some(_) => Ok(()),
            None => Err(no_spare(disk, &state)),
        };
        drop(state);
        self.shared.1.notify_all();
        result
    }

    /// A spare of this size: the one that was set aside, or another if `leaving` others stay.
    pub(super) fn take(&self, size: u64, leaving: usize) -> Option<Spare<F>> {
        let mut state = lock(&self.shared);
        if size != self.size {
            return None;
        }
        if let Some(aside) = state.aside.take() {
            return Some(aside);
        }
        if state.ready.len() <= leaving {
            return None;
        }
        let spare = state.ready.pop_front();
        drop(state);
        self.shared.1.notify_all();
        spare
    }

    /// Makes a spare of a file that is there already, which needs no room on the disk. Whether there
    /// is one now.
    pub(super) fn reclaim<D: Disk<File = F>>(&self, disk: &D) -> bool {
        while !lock(&self.shared).used.is_empty() {
            if make(disk, &self.shared, self.size) {
                return true;
            }
        }
        false
    }

    /// Sees to it that there is one: if `may_wait`, by waiting for the maker, or making it here if there
    /// is no maker.
    ///
    /// # Errors
    /// [`AppendError::NoSegment`].
    pub(super) fn ensure_one<D: Disk<File = F>>(
        &self,
        disk: &D,
        may_wait: bool,
    ) -> Result<(), AppendError> {
        let mut guard = lock(&self.shared);
        if guard.ready.is_empty() && !guard.has_maker && may_wait {
            drop(guard);
            make(disk, &self.shared, self.size);
            guard = lock(&self.shared);
        }
        let waiting = |state: &mut State<F>| state.ready.is_empty() && state.failure.is_none();
        let wait = if may_wait {
            SPARE_WAIT_MAX
        } else {
            Duration::ZERO
        };
        let woken = self.shared.1.wait_timeout_while(guard, wait, waiting);
        let state = woken.unwrap_or_else(PoisonError::into_inner).0;
        if !state.ready.is_empty() {
            return Ok(());
        }
        Err(no_spare(disk, &state))
    }
}

/// Why there is none, for whoever needs one.
fn no_spare<D: Disk>(disk: &D, state: &State<D::File>) -> AppendError {
    let failure = state.failure.clone().unwrap_or_else(|| {
        let why = "the spare segment is not ready yet";
        Failure {
            name: PREFIX.to_owned(),
            doing: "fill the spare segment",
            cause: Arc::new(io::Error::new(io::ErrorKind::TimedOut, why)),
        }
    });
    let Failure { name, doing, cause } = failure;
    let file: PathBuf = disk.path().join(name);
    AppendError::NoSegment { file, doing, cause }
}
