//! A disk in memory that fails, tears and crashes as it is told, for tests and the simulator.
//! Invariant: what a crash of power leaves is what was synced, and of the rest any choice of
//! 512-byte sectors, as real disks leave it; a crash of the process alone loses nothing written.
//! Not here: when to crash; the tests and the simulator decide.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, IoMode};

/// The errno for a full disk.
const ENOSPC: i32 = 28;

/// What a disk writes whole or not at all, in bytes.
pub const SECTOR_SIZE: usize = 512;

/// What happens at one operation that changes the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and the error (an errno) is returned.
    Error(i32),
    /// A write stops after so many bytes and says so. Other operations are not affected.
    Short(usize),
    /// A sync leaves everything as it was and returns the error (an errno), and forgets that there
    /// was something to sync, as Linux does: a later sync succeeds and makes nothing durable.
    LostSync(i32),
    /// The process ends before the operation.
    CrashBefore,
    /// The process ends when a write has put so many sectors of its bytes on the disk.
    CrashTorn(usize),
    /// The process ends right after the operation.
    CrashAfter,
}

/// What is left of that which was written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// The process ended, the host went on: everything.
    Everything,
    /// The power failed: nothing.
    Nothing,
    /// The power failed: any choice of sectors and of directory changes, drawn from this seed.
    Some(u64),
}

/// How often the disk was asked to change something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls that wrote bytes (`write_at` and `write_through`).
    pub writes: u64,
    /// Calls that made a file's bytes durable (`sync` and `write_through`).
    pub syncs: u64,
    /// Calls that made the directory durable.
    pub directory_syncs: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
}

/// A directory in memory. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct TestDisk {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

/// A file in memory.
#[derive(Debug)]
pub struct TestFile {
    inode: u64,
    handle: u64,
    life: u64,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors whose sync failed: the page cache takes them for clean, so that no later sync brings
    /// them to the disk before they are written again.
    lost: BTreeSet<usize>,
    /// The handle that holds the lock.
    lock: Option<u64>,
}

/// A change of the directory that is not yet durable.
#[derive(Clone, Debug)]
enum Change {
    Link(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Default)]
struct State {
    exists: bool,
    inodes: BTreeMap<u64, Inode>,
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    changes: Vec<Change>,
    faults: BTreeMap<u64, Fault>,
    operations: u64,
    batch_writes: Vec<(u64, usize)>,
    counters: Counters,
    crashed: bool,
    handles: u64,
    /// Counts restarts: a file of an earlier life cannot be used any more.
    life: u64,
    /// Bytes that fit, if that is limited.
    capacity: Option<usize>,
}

impl TestDisk {
    /// A directory that does not exist yet; `path` is only for messages.
    #[must_use]
    pub fn new(path: &str) -> TestDisk {
        TestDisk {
            path: PathBuf::from(path),
            state: Arc::default(),
        }
    }

    /// A directory of its own with the same bytes, live and durable, and no faults planned.
    #[must_use]
    pub fn copy(&self) -> TestDisk {
        let state = self.state();
        let mut inodes = state.inodes.clone();
        for inode in inodes.values_mut() {
            inode.lock = None;
        }
        let copy = State {
            exists: state.exists,
            inodes,
            live: state.live.clone(),
            durable: state.durable.clone(),
            changes: state.changes.clone(),
            capacity: state.capacity,
            ..State::default()
        };
        TestDisk {
            path: self.path.clone(),
            state: Arc::new(Mutex::new(copy)),
        }
    }

    /// Plans a fault for the operation of that number; [`TestDisk::operations`] is the next one's.
    pub fn plan(&self, operation: u64, fault: Fault) {
        self.state().faults.insert(operation, fault);
    }

    /// Limits the bytes that all files together may have, from now on also after a restart: a write
    /// that would make a file longer fails as on a full disk.
    pub fn limit(&self, capacity: Option<usize>) {
        self.state().capacity = capacity;
    }

    /// The bytes of all files.
    #[must_use]
    pub fn used(&self) -> usize {
        self.state().used()
    }

    /// How many operations that change the disk there were: creations, writes, syncs, renames,
    /// removals and directory syncs. A `write_through` is two: its write and its sync.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The operations that were writes of whole batches (`write_through`), and their lengths in bytes.
    #[must_use]
    pub fn batch_writes(&self) -> Vec<(u64, usize)> {
        self.state().batch_writes.clone()
    }

    /// What was asked of the disk so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// Whether a planned crash has happened. Everything fails until [`TestDisk::restart`].
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Ends the process that uses the disk, if it has not ended yet, and leaves what `survival`
    /// says. Files opened before cannot be used any more, locks are free, no fault is planned.
    pub fn restart(&self, survival: Survival) {
        let mut state = self.state();
        match survival {
            Survival::Everything => {}
            Survival::Nothing => state.lose(&mut |_| false),
            Survival::Some(seed) => {
                let mut random = Random(seed);
                state.lose(&mut |_| random.next().is_multiple_of(2));
            }
        }
        for inode in state.inodes.values_mut() {
            inode.lock = None;
        }
        state.faults.clear();
        state.crashed = false;
        state.life += 1;
    }

    /// The live bytes of a file.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = state.live.get(name)?;
        state.inodes.get(inode).map(|inode| inode.live.clone())
    }

    /// Puts a file there, durably, behind everybody's back: damage, or another's file.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        state.exists = true;
        let number = match state.live.get(name) {
            Some(&number) => number,
            None => state.new_inode(),
        };
        let lock = state.inodes.get(&number).and_then(|inode| inode.lock);
        let inode = Inode {
            live: bytes.clone(),
            durable: bytes,
            lost: BTreeSet::new(),
            lock,
        };
        state.inodes.insert(number, inode);
        state.live.insert(name.to_owned(), number);
        state.durable.insert(name.to_owned(), number);
    }

    /// Takes a file away, durably, behind everybody's back.
    pub fn take(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = self.read(name);
        let mut state = self.state();
        state.live.remove(name);
        state.durable.remove(name);
        bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A thread that panicked while it held the lock was a failing test: its state is as good as any.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A small generator of numbers that depend on the seed alone (xorshift64*).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // Zero would stay zero.
        let mut x = self.0 | 1 << 63;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0 = x;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33
    }
}

fn crashed() -> io::Error {
    io::Error::other("the process has ended")
}

impl State {
    fn new_inode(&mut self) -> u64 {
        let number = self.inodes.keys().next_back().map_or(1, |last| last + 1);
        self.inodes.insert(number, Inode::default());
        number
    }

    /// The power fails: `keep` chooses what was written and not synced and is there all the same.
    fn lose(&mut self, keep: &mut dyn FnMut(usize) -> bool) {
        // A journaling file system keeps directory changes in order: some of the first survive.
        let kept = (0..self.changes.len()).take_while(|&i| keep(i)).count();
        for change in self.changes.drain(..).take(kept) {
            apply(&mut self.durable, change);
        }
        self.live = self.durable.clone();
        for inode in self.inodes.values_mut() {
            let mut left = inode.durable.clone();
            if inode.live.len() != left.len() && keep(0) {
                left.resize(inode.live.len(), 0);
            }
            for (sector, (durable, live)) in left
                .chunks_mut(SECTOR_SIZE)
                .zip(inode.live.chunks(SECTOR_SIZE))
                .enumerate()
            {
                let shared = durable.len().min(live.len());
                if durable[..shared] != live[..shared] && keep(sector) {
                    durable[..shared].copy_from_slice(&live[..shared]);
                }
            }
            inode.durable.clone_from(&left);
            inode.live = left;
            inode.lost.clear();
        }
    }

    fn used(&self) -> usize {
        let linked = self
            .live
            .values()
            .filter_map(|inode| self.inodes.get(inode));
        linked.map(|inode| inode.live.len()).sum()
    }

    /// Is there no room for these bytes?
    fn is_full(&self, inode: u64, at: u64, count: usize) -> bool {
        let length = self.inodes.get(&inode).map_or(0, |inode| inode.live.len());
        let end = usize::try_from(at)
            .unwrap_or(usize::MAX)
            .saturating_add(count);
        let more = end.saturating_sub(length);
        let is_over = |capacity| self.used().saturating_add(more) > capacity;
        more > 0 && self.capacity.is_some_and(is_over)
    }

    /// Counts one operation; returns the fault that is planned for it and is not a plain one.
    fn begin(&mut self) -> io::Result<Option<Fault>> {
        if self.crashed {
            return Err(crashed());
        }
        let operation = self.operations;
        self.operations += 1;
        match self.faults.remove(&operation) {
            None => Ok(None),
            Some(Fault::Error(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::CrashBefore) => {
                self.crashed = true;
                Err(crashed())
            }
            Some(fault) => Ok(Some(fault)),
        }
    }

    /// Ends an operation that was done, at which `fault` was planned.
    fn end<T>(&mut self, fault: Option<Fault>, result: T) -> io::Result<T> {
        match fault {
            None | Some(Fault::Short(_) | Fault::Error(_) | Fault::LostSync(_)) => Ok(result),
            Some(Fault::CrashAfter | Fault::CrashTorn(_) | Fault::CrashBefore) => {
                self.crashed = true;
                Err(crashed())
            }
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.live, change.clone());
        self.changes.push(change);
    }

    fn write(&mut self, inode: u64, at: u64, bytes: &[u8]) -> io::Result<usize> {
        self.counters.writes += 1;
        let fault = self.begin()?;
        if self.is_full(inode, at, bytes.len()) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let count = match fault {
            Some(Fault::Short(count)) => count.min(bytes.len()),
            Some(Fault::CrashTorn(sectors)) => (sectors * SECTOR_SIZE).min(bytes.len()),
            _ => bytes.len(),
        };
        let inode = self.inodes.get_mut(&inode).ok_or_else(crashed)?;
        put(&mut inode.live, at, &bytes[..count])?;
        let written = sectors(at, count);
        inode.lost.retain(|sector| !written.contains(sector));
        if let Some(Fault::CrashTorn(_)) = fault {
            // Torn on the disk itself, whatever survives of the rest.
            put(&mut inode.durable, at, &bytes[..count])?;
        }
        self.end(fault, count)
    }

    fn sync(&mut self, inode: u64) -> io::Result<()> {
        self.counters.syncs += 1;
        let fault = self.begin()?;
        let inode = self.inodes.get_mut(&inode).ok_or_else(crashed)?;
        let lost = matches!(fault, Some(Fault::LostSync(_)));
        inode.sync(lost);
        if let Some(Fault::LostSync(errno)) = fault {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.end(fault, ())
    }
}

impl Inode {
    /// Brings what was written to the disk, or loses it where `fails`.
    fn sync(&mut self, fails: bool) {
        self.durable.resize(self.live.len(), 0);
        let images = self
            .durable
            .chunks_mut(SECTOR_SIZE)
            .zip(self.live.chunks(SECTOR_SIZE));
        for (sector, (durable, live)) in images.enumerate() {
            if durable == live {
                continue;
            }
            if fails {
                self.lost.insert(sector);
            } else if !self.lost.contains(&sector) {
                durable.copy_from_slice(live);
            }
        }
    }
}

fn sectors(at: u64, count: usize) -> std::ops::Range<usize> {
    let first = usize::try_from(at).unwrap_or(usize::MAX) / SECTOR_SIZE;
    first..first.saturating_add(count.div_ceil(SECTOR_SIZE))
}

fn apply(names: &mut BTreeMap<String, u64>, change: Change) {
    match change {
        Change::Link(name, inode) => {
            names.insert(name, inode);
        }
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
        Change::Remove(name) => {
            names.remove(&name);
        }
    }
}

fn put(image: &mut Vec<u8>, at: u64, bytes: &[u8]) -> io::Result<()> {
    let at = usize::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
    Ok(())
}

impl TestFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = lock(&self.state);
        if state.crashed || state.life != self.life {
            Err(crashed())
        } else {
            Ok(state)
        }
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(inode) = state.inodes.get_mut(&self.inode)
            && inode.lock == Some(self.handle)
        {
            inode.lock = None;
        }
    }
}

impl TestDisk {
    fn file(&self, state: &mut State, inode: u64) -> TestFile {
        state.handles += 1;
        TestFile {
            inode,
            handle: state.handles,
            life: state.life,
            state: Arc::clone(&self.state),
        }
    }

    fn living(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.crashed {
            return Err(crashed());
        }
        if !state.exists {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(state)
    }
}

impl Disk for TestDisk {
    type File = TestFile;

    fn path(&self) -> &Path {
        &self.path
    }

    fn io_mode(&self) -> IoMode {
        IoMode::Direct
    }

    fn make_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.crashed {
            return Err(crashed());
        }
        state.exists = true;
        Ok(())
    }

    fn probe(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.living()?.live.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<TestFile> {
        let mut state = self.living()?;
        let fault = state.begin()?;
        if state.live.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let inode = state.new_inode();
        state.change(Change::Link(name.to_owned(), inode));
        let file = self.file(&mut state, inode);
        // Not returned while the state is borrowed: an error here drops the file, which locks it.
        let ended = state.end(fault, ());
        drop(state);
        ended.map(|()| file)
    }

    fn open(&self, name: &str) -> io::Result<TestFile> {
        let mut state = self.living()?;
        match state.live.get(name).copied() {
            Some(inode) => Ok(self.file(&mut state, inode)),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn open_or_create(&self, name: &str) -> io::Result<TestFile> {
        match self.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(name),
            result => result,
        }
    }

    fn length(&self, file: &TestFile) -> io::Result<u64> {
        let state = file.state()?;
        let inode = state.inodes.get(&file.inode).ok_or_else(crashed)?;
        Ok(inode.live.len() as u64)
    }

    fn is_named(&self, file: &TestFile) -> io::Result<bool> {
        let state = file.state()?;
        Ok(state.live.values().any(|inode| *inode == file.inode))
    }

    fn read_at(&self, file: &TestFile, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = file.state()?;
        let inode = state.inodes.get(&file.inode).ok_or_else(crashed)?;
        let at = usize::try_from(at)
            .unwrap_or(usize::MAX)
            .min(inode.live.len());
        let count = into.len().min(inode.live.len() - at);
        into[..count].copy_from_slice(&inode.live[at..at + count]);
        state.counters.bytes_read += count as u64;
        Ok(count)
    }

    fn write_at(&self, file: &TestFile, at: u64, bytes: &[u8]) -> io::Result<usize> {
        file.state()?.write(file.inode, at, bytes)
    }

    fn write_through(&self, file: &TestFile, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut state = file.state()?;
        let operation = state.operations;
        state.batch_writes.push((operation, bytes.len()));
        let count = state.write(file.inode, at, bytes)?;
        state.sync(file.inode)?;
        Ok(count)
    }

    fn sync(&self, file: &TestFile) -> io::Result<()> {
        file.state()?.sync(file.inode)
    }

    fn sync_and_forget_cache(&self, file: &TestFile) -> io::Result<()> {
        let mut state = file.state()?;
        state.sync(file.inode)?;
        let inode = state.inodes.get_mut(&file.inode).ok_or_else(crashed)?;
        if !inode.lost.is_empty() {
            inode.live.clone_from(&inode.durable);
            inode.lost.clear();
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.living()?;
        let fault = state.begin()?;
        if !state.live.contains_key(from) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        state.end(fault, ())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.living()?;
        let fault = state.begin()?;
        if !state.live.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        state.change(Change::Remove(name.to_owned()));
        state.end(fault, ())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.living()?;
        state.counters.directory_syncs += 1;
        let fault = state.begin()?;
        state.changes.clear();
        state.durable = state.live.clone();
        state.end(fault, ())
    }

    fn try_lock(&self, file: &TestFile) -> io::Result<bool> {
        let mut state = file.state()?;
        let inode = state.inodes.get_mut(&file.inode).ok_or_else(crashed)?;
        match inode.lock {
            Some(holder) => Ok(holder == file.handle),
            None => {
                inode.lock = Some(file.handle);
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> TestDisk {
        let disk = TestDisk::new("test");
        disk.make_directory().unwrap();
        disk
    }

    /// A durable file of two sectors of ones.
    fn ones(disk: &TestDisk) -> TestFile {
        let file = disk.create("a").unwrap();
        disk.write_at(&file, 0, &[1; 2 * SECTOR_SIZE]).unwrap();
        disk.sync(&file).unwrap();
        disk.sync_directory().unwrap();
        file
    }

    #[test]
    fn power_takes_what_was_not_synced() {
        let disk = disk();
        let file = ones(&disk);
        disk.write_at(&file, 0, &[2; SECTOR_SIZE]).unwrap();
        disk.create("b").unwrap();
        disk.restart(Survival::Nothing);
        assert_eq!(disk.read("a").unwrap(), vec![1; 2 * SECTOR_SIZE]);
        assert_eq!(disk.list().unwrap(), ["a"]);
        assert!(disk.length(&file).is_err(), "a file of the ended process");
    }

    #[test]
    fn the_end_of_the_process_takes_nothing() {
        let disk = disk();
        let file = ones(&disk);
        disk.write_at(&file, 0, &[2; SECTOR_SIZE]).unwrap();
        disk.create("b").unwrap();
        disk.restart(Survival::Everything);
        assert_eq!(disk.read("a").unwrap()[..SECTOR_SIZE], [2; SECTOR_SIZE]);
        assert_eq!(disk.list().unwrap(), ["a", "b"]);
    }

    #[test]
    fn power_may_leave_any_choice_of_sectors() {
        let mut seen = BTreeSet::new();
        for seed in 0..64 {
            let disk = disk();
            let file = ones(&disk);
            disk.write_at(&file, 0, &[2; 2 * SECTOR_SIZE]).unwrap();
            disk.restart(Survival::Some(seed));
            let bytes = disk.read("a").unwrap();
            seen.insert((bytes[0], bytes[SECTOR_SIZE]));
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn a_failed_sync_stays_failed() {
        let disk = disk();
        let file = ones(&disk);
        disk.write_at(&file, 0, &[2; SECTOR_SIZE]).unwrap();
        disk.plan(disk.operations(), Fault::LostSync(5));
        assert_eq!(disk.sync(&file).unwrap_err().raw_os_error(), Some(5));
        disk.sync(&file).unwrap();
        assert_eq!(disk.read("a").unwrap()[0], 2, "the page cache shows it");
        let forgetful = disk.copy();
        let file = forgetful.open("a").unwrap();
        forgetful.sync_and_forget_cache(&file).unwrap();
        assert_eq!(forgetful.read("a").unwrap()[0], 1, "what the disk has");
        disk.restart(Survival::Nothing);
        assert_eq!(disk.read("a").unwrap()[0], 1, "the disk never had it");
    }

    #[test]
    fn faults_come_at_their_operation() {
        let disk = disk();
        let file = ones(&disk);
        let next = disk.operations();
        disk.plan(next, Fault::Short(3));
        disk.plan(next + 1, Fault::Error(28));
        disk.plan(next + 2, Fault::CrashTorn(1));
        assert_eq!(disk.write_at(&file, 0, &[2; 9]).unwrap(), 3);
        let error = disk.write_at(&file, 0, &[3; 9]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(28));
        disk.write_at(&file, 0, &[4; 2 * SECTOR_SIZE]).unwrap_err();
        assert!(disk.is_crashed());
        disk.restart(Survival::Nothing);
        let bytes = disk.read("a").unwrap();
        assert_eq!(
            (bytes[0], bytes[SECTOR_SIZE]),
            (4, 1),
            "torn after one sector"
        );
    }

    #[test]
    fn a_lock_goes_with_its_holder() {
        let disk = disk();
        let first = disk.open_or_create("lock").unwrap();
        let second = disk.open_or_create("lock").unwrap();
        assert!(disk.try_lock(&first).unwrap());
        assert!(!disk.try_lock(&second).unwrap());
        drop(second);
        let third = disk.open("lock").unwrap();
        assert!(
            !disk.try_lock(&third).unwrap(),
            "a refused one frees nothing"
        );
        drop(first);
        assert!(disk.try_lock(&third).unwrap());
    }
}
