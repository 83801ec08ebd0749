//! A directory in memory, fast and unreliable: what the journal writes to in a simulated world.
//!
//! Invariant: what a crash of power leaves is what was synced, and of the rest any choice of
//! 512-byte sectors; a crash of the process alone loses nothing written. What lies to the journal
//! (a sync, a misdirected or lost write, bit rot) is counted, so that a loss can be explained.
//! Not here: when it fails (`fault`).

mod inode;
mod page;
#[cfg(test)]
mod tests;

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use journal_format::number::{Id128, SegmentNumber};

use super::random::Random;
use crate::journal::disk::{Disk, IoMode};
use inode::{Inode, SECTOR, index};
use page::{PAGE, page_of, whole};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What happens to one of the next batches that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFault {
    /// The process ends before the write.
    CrashBefore,
    /// The process ends with some of the write's sectors on the disk.
    CrashTorn,
    /// The process ends right after the write is durable.
    CrashAfter,
    /// The write fails, and nothing is written.
    WriteFails,
    /// The write stops early and says so.
    ShortWrite,
    /// The sync fails; the page cache then takes the bytes for clean.
    SyncFails,
    /// The write goes to another place of the file, and says that all is well.
    Misdirected,
    /// The write never happens, and says that all is well.
    Lost,
}

/// What is left of that which was written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// The process ended, the host went on: everything.
    Everything,
    /// The power failed: any choice of sectors and of the last directory changes.
    Some,
}

/// A change of the directory that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Link(String, u64),
    Rename(String, String),
    Remove(String),
}

/// The files of a directory at one moment, to be put back later.
#[derive(Clone, Debug)]
pub struct Backup {
    exists: bool,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct State {
    exists: bool,
    inodes: BTreeMap<u64, Inode>,
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    changes: Vec<Change>,
    next_inode: u64,
    handles: u64,
    life: u64,
    crashed: bool,
    random: Random,
    /// What to do at which of the next batches, counted down.
    planned: Option<(u32, BatchFault)>,
    /// Every sync says that all is well and does nothing.
    lying: bool,
    /// Bytes that fit, if that is limited.
    capacity: Option<u64>,
    /// Times that this disk said something that was not so, or let a byte change.
    lies: u64,
    /// The last batch that it took is not where it belongs.
    lacks_last: bool,
    /// Batches that were written whole and durably.
    batches: u64,
    /// Mixes everything that became durable.
    digest: u64,
}

/// A directory in memory. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct SimDisk {
    path: PathBuf,
    state: Rc<RefCell<State>>,
}

/// A file in memory.
#[derive(Debug)]
pub struct SimFile {
    inode: u64,
    handle: u64,
    life: u64,
    state: Rc<RefCell<State>>,
}

impl SimDisk {
    /// A directory that does not exist yet; `path` is for messages.
    #[must_use]
    pub fn new(path: &str, random: Random) -> SimDisk {
        let state = State {
            exists: false,
            inodes: BTreeMap::new(),
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            changes: Vec::new(),
            next_inode: 1,
            handles: 0,
            life: 0,
            crashed: false,
            random,
            planned: None,
            lying: false,
            capacity: None,
            lies: 0,
            lacks_last: false,
            batches: 0,
            digest: 0,
        };
        SimDisk {
            path: PathBuf::from(path),
            state: Rc::new(RefCell::new(state)),
        }
    }

    fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Plans a fault for the batch after so many others.
    pub fn plan(&self, after: u32, fault: BatchFault) {
        self.state().planned = Some((after, fault));
    }

    /// No fault is planned any more.
    pub fn plan_nothing(&self) {
        self.state().planned = None;
    }

    /// Is a fault planned that has not come yet?
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.state().planned.is_some()
    }

    /// From now on syncs lie, or do not any more.
    pub fn set_lying(&self, lying: bool) {
        self.state().lying = lying;
    }

    /// Leaves room for so many bytes more, or for as much as anybody wants.
    pub fn limit(&self, room: Option<u64>) {
        let mut state = self.state();
        state.capacity = room.map(|room| state.used() + room);
    }

    /// How often this disk lied or lost a byte.
    #[must_use]
    pub fn lies(&self) -> u64 {
        self.state().lies
    }

    /// Went the last batch elsewhere or nowhere, so that nothing behind it tells of it?
    #[must_use]
    pub fn lacks_last(&self) -> bool {
        self.state().lacks_last
    }

    /// Whole batches that were written.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.state().batches
    }

    /// Whether a planned crash has happened. Everything fails until [`SimDisk::restart`].
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Ends the process that uses the disk, and leaves what `survival` says. Says whether something
    /// was lost that a sync had promised.
    pub fn restart(&self, survival: Survival) -> bool {
        let mut state = self.state();
        let lied = state.lying && survival == Survival::Some;
        if survival == Survival::Some {
            state.lose();
        }
        if lied {
            state.lies += 1;
        }
        for inode in state.inodes.values_mut() {
            inode.lock = None;
        }
        state.planned = None;
        state.crashed = false;
        state.life += 1;
        lied
    }

    /// All files are gone.
    pub fn erase(&self) {
        let mut state = self.state();
        state.exists = false;
        state.inodes.clear();
        state.live.clear();
        state.durable.clear();
        state.changes.clear();
    }

    /// The files as they are now.
    #[must_use]
    pub fn backup(&self) -> Backup {
        let state = self.state();
        Backup {
            exists: state.exists,
            inodes: state.inodes.clone(),
            names: state.live.clone(),
        }
    }

    /// Puts the files of an earlier moment in place of those that are there.
    pub fn restore(&self, backup: &Backup) {
        let mut state = self.state();
        state.exists = backup.exists;
        state.inodes.clone_from(&backup.inodes);
        state.live.clone_from(&backup.names);
        state.durable.clone_from(&backup.names);
        state.changes.clear();
        for inode in state.inodes.values_mut() {
            inode.durable.clone_from(&inode.live);
            inode.durable_length = inode.length;
            inode.dirty.clear();
            inode.lock = None;
        }
    }

    /// Flips one bit of a segment at rest; false if there is none.
    pub fn rot(&self) -> bool {
        let mut state = self.state();
        let State {
            inodes,
            live,
            random,
            ..
        } = &mut *state;
        let segments: Vec<u64> = live
            .iter()
            .filter(|(name, _)| SegmentNumber::parse(name).is_some())
            .map(|(_, inode)| *inode)
            .collect();
        if segments.is_empty() {
            return false;
        }
        // The newest are those that are read again.
        let newest = segments.len() - 1 - random.index(segments.len().min(2));
        let Some(inode) = inodes.get_mut(&segments[newest]) else {
            return false;
        };
        let pages: Vec<usize> = (0..inode.durable.len())
            .filter(|page| inode.durable[*page].is_some())
            .collect();
        if pages.is_empty() {
            return false;
        }
        let page = pages[random.index(pages.len())];
        let (byte, bit) = (random.index(PAGE), random.index(8));
        let mut bytes = whole(inode.durable[page].as_ref());
        bytes[byte] ^= 1 << bit;
        inode.durable[page] = page_of(&bytes);
        inode.live[page] = page_of(&bytes);
        state.lies += 1;
        true
    }

    /// Every file with its bytes, as a process sees them.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.state();
        let file = |(name, inode): (&String, &u64)| {
            let inode = state.inodes.get(inode)?;
            let mut bytes = Vec::new();
            for page in &inode.live {
                bytes.extend_from_slice(&whole(page.as_ref()));
            }
            bytes.truncate(usize::try_from(inode.length).unwrap_or(usize::MAX));
            Some((name.clone(), bytes))
        };
        state.live.iter().filter_map(file).collect()
    }

    /// Depends on every byte that ever became durable here, in order.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.state().digest
    }

    fn living(&self) -> io::Result<RefMut<'_, State>> {
        let state = self.state();
        if state.crashed {
            return Err(crashed());
        }
        if !state.exists {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(state)
    }

    fn file(&self, state: &mut State, inode: u64) -> SimFile {
        state.handles += 1;
        SimFile {
            inode,
            handle: state.handles,
            life: state.life,
            state: Rc::clone(&self.state),
        }
    }
}

fn crashed() -> io::Error {
    io::Error::other("the process has ended")
}

impl State {
    fn used(&self) -> u64 {
        let linked = self
            .live
            .values()
            .filter_map(|inode| self.inodes.get(inode));
        linked.map(|inode| inode.length).sum()
    }

    fn is_full(&self, inode: u64, end: u64) -> bool {
        let length = self.inodes.get(&inode).map_or(0, |inode| inode.length);
        let more = end.saturating_sub(length);
        self.capacity
            .is_some_and(|capacity| more > 0 && self.used() + more > capacity)
    }

    fn lose(&mut self) {
        let kept = self.random.index(self.changes.len() + 1);
        for change in self.changes.drain(..).take(kept) {
            apply(&mut self.durable, change);
        }
        self.live.clone_from(&self.durable);
        for inode in self.inodes.values_mut() {
            inode.links = 0;
        }
        for number in self.live.values() {
            if let Some(inode) = self.inodes.get_mut(number) {
                inode.links += 1;
            }
        }
        self.inodes.retain(|_, inode| inode.links > 0);
        for inode in self.inodes.values_mut() {
            inode.lose(&mut self.random);
        }
    }

    fn change(&mut self, change: Change) {
        match &change {
            Change::Link(_, inode) => self.link(*inode, 1),
            Change::Rename(_, to) => {
                if let Some(replaced) = self.live.get(to).copied() {
                    self.link(replaced, -1);
                }
            }
            Change::Remove(name) => {
                if let Some(removed) = self.live.get(name).copied() {
                    self.link(removed, -1);
                }
            }
        }
        apply(&mut self.live, change.clone());
        self.changes.push(change);
    }

    fn link(&mut self, inode: u64, by: i32) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.links = inode.links.saturating_add_signed(by);
        }
    }

    /// Takes what is not reachable any more out of memory.
    fn sweep(&mut self) {
        let durable = &self.durable;
        self.inodes
            .retain(|number, inode| inode.links > 0 || durable.values().any(|one| one == number));
    }

    fn mix(&mut self, at: u64, bytes: &[u8]) {
        // A batch begins with a header that holds a checksum of all the rest.
        let crc = u64::from(crc32fast::hash(&bytes[..bytes.len().min(SECTOR)]));
        let mixed = (self.digest ^ crc ^ at.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.digest = mixed.rotate_left(23);
    }

    fn write_batch(&mut self, inode: u64, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let fault = match &mut self.planned {
            Some((0, fault)) => {
                let fault = *fault;
                self.planned = None;
                Some(fault)
            }
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if fault == Some(BatchFault::CrashBefore) {
            self.crashed = true;
            return Err(crashed());
        }
        if fault == Some(BatchFault::WriteFails) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let lying = self.lying;
        let room = self.inodes.get(&inode).map_or(0, |inode| inode.length);
        let place = match fault {
            Some(BatchFault::Misdirected) => {
                self.lies += 1;
                self.lacks_last = true;
                let pages = room / PAGE as u64;
                self.random.below(pages.max(1)) * PAGE as u64
            }
            _ => at,
        };
        if let Some(BatchFault::Lost) = fault {
            self.lies += 1;
            self.lacks_last = true;
            return Ok(bytes.len());
        }
        let random = &mut self.random;
        let file = self.inodes.get_mut(&inode).ok_or_else(crashed)?;
        match fault {
            Some(BatchFault::CrashTorn) => {
                file.write(place, bytes);
                file.lose(random);
                // What earlier syncs only said goes with it.
                self.lies += u64::from(lying);
                self.crashed = true;
                return Err(crashed());
            }
            Some(BatchFault::ShortWrite) => {
                file.write(place, &bytes[..bytes.len() / 2]);
                return Ok(bytes.len() / 2);
            }
            Some(BatchFault::SyncFails) => {
                file.write(place, bytes);
                file.dirty.clear();
                return Err(io::Error::from_raw_os_error(EIO));
            }
            Some(BatchFault::Misdirected) => {
                // Within the file, whatever is there.
                let fits = index(room.saturating_sub(place)).min(bytes.len());
                file.write(place, &bytes[..fits]);
                file.sync();
                return Ok(bytes.len());
            }
            _ => file.write(place, bytes),
        }
        if !lying {
            file.sync();
        }
        self.lacks_last = false;
        self.batches += 1;
        self.mix(at, bytes);
        if fault == Some(BatchFault::CrashAfter) {
            self.crashed = true;
            return Err(crashed());
        }
        Ok(bytes.len())
    }
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

impl SimFile {
    fn state(&self) -> io::Result<RefMut<'_, State>> {
        let state = self.state.borrow_mut();
        if state.crashed || state.life != self.life {
            Err(crashed())
        } else {
            Ok(state)
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        // A disk that is borrowed is the one that is dropping it.
        if let Ok(mut state) = self.state.try_borrow_mut()
            && let Some(inode) = state.inodes.get_mut(&self.inode)
            && inode.lock == Some(self.handle)
        {
            inode.lock = None;
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn path(&self) -> &Path {
        &self.path
    }

    fn fresh_id(&self) -> Id128 {
        Id128(self.state().random.bytes())
    }

    fn process_id(&self) -> u32 {
        1000
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

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.living()?;
        if state.live.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode::default());
        state.change(Change::Link(name.to_owned(), inode));
        Ok(self.file(&mut state, inode))
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.living()?;
        match state.live.get(name).copied() {
            Some(inode) => Ok(self.file(&mut state, inode)),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn open_or_create(&self, name: &str) -> io::Result<SimFile> {
        match self.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(name),
            result => result,
        }
    }

    fn length(&self, file: &SimFile) -> io::Result<u64> {
        let state = file.state()?;
        let inode = state.inodes.get(&file.inode).ok_or_else(crashed)?;
        Ok(inode.length)
    }

    fn is_named(&self, file: &SimFile) -> io::Result<bool> {
        let state = file.state()?;
        Ok(state
            .inodes
            .get(&file.inode)
            .is_some_and(|inode| inode.links > 0))
    }

    fn read_at(&self, file: &SimFile, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let state = file.state()?;
        let inode = state.inodes.get(&file.inode).ok_or_else(crashed)?;
        let at = index(at.min(inode.length));
        let count = into.len().min(index(inode.length) - at);
        let mut done = 0;
        while done < count {
            let (number, begin) = ((at + done) / PAGE, (at + done) % PAGE);
            let part = (count - done).min(PAGE - begin);
            let into = &mut into[done..done + part];
            match inode.live.get(number) {
                Some(Some(page)) => {
                    let there = page.len().saturating_sub(begin).min(part);
                    into[..there].copy_from_slice(&page[page.len().min(begin)..][..there]);
                    into[there..].fill(0);
                }
                Some(None) | None => into.fill(0),
            }
            done += part;
        }
        Ok(count)
    }

    fn write_at(&self, file: &SimFile, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut state = file.state()?;
        if state.is_full(file.inode, at + bytes.len() as u64) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let inode = state.inodes.get_mut(&file.inode).ok_or_else(crashed)?;
        inode.write(at, bytes);
        Ok(bytes.len())
    }

    fn write_through(&self, file: &SimFile, at: u64, bytes: &[u8]) -> io::Result<usize> {
        file.state()?.write_batch(file.inode, at, bytes)
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        let mut state = file.state()?;
        if !state.lying {
            let inode = state.inodes.get_mut(&file.inode).ok_or_else(crashed)?;
            inode.sync();
        }
        Ok(())
    }

    fn sync_and_forget_cache(&self, file: &SimFile) -> io::Result<()> {
        self.sync(file)?;
        let mut state = file.state()?;
        // A disk that lies has it in a cache of its own.
        if !state.lying {
            let inode = state.inodes.get_mut(&file.inode).ok_or_else(crashed)?;
            inode.live.clone_from(&inode.durable);
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.living()?;
        if !state.live.contains_key(from) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.living()?;
        if !state.live.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        state.change(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.living()?;
        if !state.lying {
            let State {
                changes, durable, ..
            } = &mut *state;
            for change in changes.drain(..) {
                apply(durable, change);
            }
            state.sweep();
        }
        Ok(())
    }

    fn try_lock(&self, file: &SimFile) -> io::Result<bool> {
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
