//! The one seam between the journal and the world: a directory of files.
//! Invariant: when [`Disk::write_through`], [`Disk::sync`] or [`Disk::sync_directory`] returns `Ok`,
//! what it speaks of survives a power failure. Nothing here retries a failed write or sync.
//! Not here: what the files mean; the disk that tests crash (`testing`).

use core::fmt;
use std::cell::RefCell;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use journal_format::BLOCK_SIZE;
use journal_format::number::Id128;
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

/// The file that is written to find out what the file system can do; gone again at once, unless a
/// crash comes between.
pub(super) const PROBE_NAME: &str = "probe.new";

/// How bytes reach stable storage, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoMode {
    /// Past the page cache and synced by the write itself: `O_DIRECT` with `pwritev2(RWF_DSYNC)`,
    /// which is what `O_DIRECT | O_DSYNC` does.
    Direct,
    /// Through the page cache, synced by the write itself: `pwritev2(RWF_DSYNC)`.
    Dsync,
    /// Through the page cache, synced by a second call: `pwrite`, then `fdatasync`.
    Fdatasync,
}

impl IoMode {
    /// The mode as logs and `query-journal` say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            IoMode::Direct => "direct",
            IoMode::Dsync => "dsync",
            IoMode::Fdatasync => "fdatasync",
        }
    }
}

impl fmt::Display for IoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One directory and its files. All names are plain file names within it.
///
/// Offsets and lengths are bytes. Every error is the system's own: callers add what they were doing.
pub trait Disk {
    /// An open file.
    type File: fmt::Debug;

    /// The directory, for messages.
    fn path(&self) -> &Path;

    /// 128 fresh bits, for identities and salts. Random, unless the whole world is simulated.
    fn fresh_id(&self) -> Id128 {
        Id128::random()
    }

    /// The number of the process that uses the disk, for the lock file to name.
    fn process_id(&self) -> u32 {
        std::process::id()
    }

    /// How [`Disk::write_through`] makes bytes durable.
    fn io_mode(&self) -> IoMode;

    /// Makes the directory (mode 0700) and its missing parents, each synced into its parent, if it
    /// does not exist.
    fn make_directory(&self) -> io::Result<()>;

    /// Finds out the best [`IoMode`] of the file system by writing to it. Only for the one who
    /// holds the lock; files made before keep the mode they were made with.
    fn probe(&mut self) -> io::Result<()>;

    /// The names in the directory, in no order. `NotFound` when there is no directory.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file that must not exist, for reading and writing.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for reading.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for reading and writing; makes it if it does not exist.
    fn open_or_create(&self, name: &str) -> io::Result<Self::File>;

    /// The length of a file.
    fn length(&self, file: &Self::File) -> io::Result<u64>;

    /// Whether the file still has a name: what is written to one that was deleted is gone with the
    /// process.
    fn is_named(&self, file: &Self::File) -> io::Result<bool>;

    /// Reads at most `into.len()` bytes; 0 means the end of the file.
    fn read_at(&self, file: &Self::File, at: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes at most `bytes.len()` bytes, not durably.
    fn write_at(&self, file: &Self::File, at: u64, bytes: &[u8]) -> io::Result<usize>;

    /// One write and one sync: returns how many of the bytes were written, and those are durable.
    /// `at` and the length are multiples of the block size, within the file's length.
    fn write_through(&self, file: &Self::File, at: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Makes the file's bytes and length durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// As [`Disk::sync`]; and what is read from now on is what the disk has. A page cache takes bytes whose
    /// sync failed once for clean: it goes on showing them, and no later sync brings them to the disk.
    fn sync_and_forget_cache(&self, file: &Self::File) -> io::Result<()>;

    /// Gives a file another name, in place of a file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Takes the file's lock for as long as the file is open; `false` when another holder has it.
    fn try_lock(&self, file: &Self::File) -> io::Result<bool>;
}

/// Fills `into` from `at` on; returns how many bytes there were before the end of the file.
pub fn read_full<D: Disk>(disk: &D, file: &D::File, at: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match disk.read_at(file, at + done as u64, &mut into[done..])? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// A directory of the operating system.
#[derive(Clone, Debug)]
pub struct OsDisk {
    directory: PathBuf,
    mode: IoMode,
    /// Of all files there is only this one.
    only: Option<Only>,
}

/// A single file as a directory of its own.
#[derive(Clone, Debug)]
struct Only {
    /// What it is called in that directory.
    name: String,
    file: PathBuf,
}

/// A file of the operating system.
#[derive(Debug)]
pub struct OsFile {
    buffered: File,
    /// The same file past the page cache, and the aligned memory its writes go out from.
    direct: Option<(File, RefCell<AlignedBuffer>)>,
}

impl OsDisk {
    /// The directory at `directory`, which need not exist yet.
    #[must_use]
    pub fn new(directory: &Path) -> OsDisk {
        OsDisk {
            directory: directory.to_path_buf(),
            mode: IoMode::Fdatasync,
            only: None,
        }
    }

    /// A single file as if it were alone in a directory, under that name; for reading.
    #[must_use]
    pub fn of_file(file: &Path, name: &str) -> OsDisk {
        let directory = file.parent().unwrap_or(Path::new(""));
        OsDisk {
            only: Some(Only {
                name: name.to_owned(),
                file: file.to_path_buf(),
            }),
            ..OsDisk::new(directory)
        }
    }

    /// Is it a whole directory, and not a single file?
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.only.is_none()
    }

    fn at(&self, name: &str) -> PathBuf {
        match &self.only {
            Some(only) if only.name == name => only.file.clone(),
            Some(_) | None => self.directory.join(name),
        }
    }

    fn open_direct(&self, name: &str) -> io::Result<File> {
        // The bits of O_DIRECT differ by architecture; rustix knows them.
        let direct = i32::try_from(OFlags::DIRECT.bits())
            .map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
        OpenOptions::new()
            .write(true)
            .custom_flags(direct)
            .open(self.at(name))
    }

    fn with_direct(&self, name: &str, buffered: File) -> io::Result<OsFile> {
        let direct = match self.mode {
            IoMode::Direct => Some((self.open_direct(name)?, RefCell::default())),
            IoMode::Dsync | IoMode::Fdatasync => None,
        };
        Ok(OsFile { buffered, direct })
    }

    /// The best mode in which a block can really be written to this file system.
    fn probe_with(&self, file: &File) -> io::Result<IoMode> {
        let zeros = [0; BLOCK_SIZE as usize];
        // Without any sync first, so that a later refusal is the mode's alone.
        file.write_all_at(&zeros, 0)?;
        if let Ok(direct) = self.open_direct(PROBE_NAME) {
            let mut buffer = AlignedBuffer::default();
            if write_dsync(&direct, buffer.fill(&zeros), 0).is_ok() {
                return Ok(IoMode::Direct);
            }
        }
        match write_dsync(file, &zeros, 0) {
            Ok(_) => Ok(IoMode::Dsync),
            Err(error) if is_unsupported(&error) => Ok(IoMode::Fdatasync),
            Err(error) => Err(error),
        }
    }
}

/// The disk, or this user's share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull, WriteZero};
    matches!(error.kind(), StorageFull | QuotaExceeded | WriteZero)
}

fn is_unsupported(error: &io::Error) -> bool {
    [Errno::OPNOTSUPP, Errno::INVAL, Errno::NOSYS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn write_dsync(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pwritev2(file, &[IoSlice::new(bytes)], at, ReadWriteFlags::DSYNC) {
            // Interrupted means that nothing was written yet: this is no retry of a failed write.
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

impl Disk for OsDisk {
    type File = OsFile;

    fn path(&self) -> &Path {
        &self.directory
    }

    fn io_mode(&self) -> IoMode {
        self.mode
    }

    fn make_directory(&self) -> io::Result<()> {
        make_directory(&self.directory)
    }

    fn probe(&mut self) -> io::Result<()> {
        let path = self.at(PROBE_NAME);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        let mode = self.probe_with(&file);
        fs::remove_file(&path)?;
        self.mode = match mode {
            // What is there can still be written to; the slowest way works everywhere.
            Err(error) if is_full(&error) => IoMode::Fdatasync,
            mode => mode?,
        };
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        if let Some(only) = &self.only {
            return Ok(vec![only.name.clone()]);
        }
        fs::read_dir(&self.directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn create(&self, name: &str) -> io::Result<OsFile> {
        let buffered = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.at(name))?;
        self.with_direct(name, buffered)
    }

    fn open(&self, name: &str) -> io::Result<OsFile> {
        let path = self.at(name);
        let metadata = fs::metadata(&path).map_err(|error| match fs::symlink_metadata(&path) {
            // A name without a file, as when a disk is not mounted: not a file that was let go.
            Ok(link) if link.is_symlink() && error.kind() == io::ErrorKind::NotFound => {
                io::Error::new(io::ErrorKind::InvalidInput, "a symbolic link to nothing")
            }
            Ok(_) | Err(_) => error,
        })?;
        // Opening a pipe would wait for its writer, for ever perhaps.
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let buffered = File::open(path)?;
        Ok(OsFile {
            buffered,
            direct: None,
        })
    }

    fn open_or_create(&self, name: &str) -> io::Result<OsFile> {
        let buffered = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.at(name))?;
        self.with_direct(name, buffered)
    }

    fn length(&self, file: &OsFile) -> io::Result<u64> {
        Ok(file.buffered.metadata()?.len())
    }

    fn read_at(&self, file: &OsFile, at: u64, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match file.buffered.read_at(into, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn is_named(&self, file: &OsFile) -> io::Result<bool> {
        use rustix::fs::{AtFlags, StatxFlags, fstat, statx};
        // Not `fstat`: who has seen a file's times makes Linux (since 6.13) give the next write a new
        // one, and ext4 without a journal then syncs the inode too, with every write.
        match statx(&file.buffered, c"", AtFlags::EMPTY_PATH, StatxFlags::NLINK) {
            Ok(status) => Ok(status.stx_nlink > 0),
            Err(Errno::NOSYS) => Ok(fstat(&file.buffered)?.st_nlink > 0),
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, file: &OsFile, at: u64, bytes: &[u8]) -> io::Result<usize> {
        // What is written past the page cache need not be taken out of it for the next direct write.
        let block = BLOCK_SIZE as usize;
        let is_whole = at.is_multiple_of(block as u64) && bytes.len().is_multiple_of(block);
        let target = match &file.direct {
            Some((direct, _)) if is_whole && is_aligned(bytes) => direct,
            _ => &file.buffered,
        };
        loop {
            match target.write_at(bytes, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_through(&self, file: &OsFile, at: u64, bytes: &[u8]) -> io::Result<usize> {
        match (&file.direct, self.mode) {
            (Some((direct, _)), _) if is_aligned(bytes) => write_dsync(direct, bytes, at),
            (Some((direct, buffer)), _) => {
                let mut buffer = buffer.borrow_mut();
                write_dsync(direct, buffer.fill(bytes), at)
            }
            (None, IoMode::Direct | IoMode::Dsync) => write_dsync(&file.buffered, bytes, at),
            (None, IoMode::Fdatasync) => {
                let count = self.write_at(file, at, bytes)?;
                file.buffered.sync_data()?;
                Ok(count)
            }
        }
    }

    fn sync(&self, file: &OsFile) -> io::Result<()> {
        file.buffered.sync_all()
    }

    fn sync_and_forget_cache(&self, file: &OsFile) -> io::Result<()> {
        self.sync(file)?;
        // Nothing is dirty now, so that all of it goes. A file system that takes no advice has no cache to forget.
        match rustix::fs::fadvise(&file.buffered, 0, None, rustix::fs::Advice::DontNeed) {
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn try_lock(&self, file: &OsFile) -> io::Result<bool> {
        match file.buffered.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Makes a directory and its missing parents, mode 0700, each synced into its parent.
fn make_directory(directory: &Path) -> io::Result<()> {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    make_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        // Another process was faster; it is a directory or the next step says so.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    File::open(parent)?.sync_all()
}

/// Zeros that begin on a block boundary of memory. Never written to, they take no memory of their own.
#[repr(align(4096))]
struct Zeros([u8; ZEROS_SIZE]);

/// Zeros are written in pieces of this many bytes: what a batch may have to wait for.
pub(super) const ZEROS_SIZE: usize = 128 * 1024;
static ZEROS: Zeros = Zeros([0; ZEROS_SIZE]);
const _: () = assert!(align_of::<Zeros>() == BLOCK_SIZE as usize);

/// So many zeros, at most [`ZEROS_SIZE`].
pub(super) fn zeros(size: usize) -> &'static [u8] {
    &ZEROS.0[..size.min(ZEROS_SIZE)]
}

/// Does it begin on a block boundary of memory?
fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(BLOCK_SIZE as usize) == 0
}

/// Memory that begins on a block boundary, as `O_DIRECT` asks: a block more than is needed is
/// allocated, and the part from the boundary on is used.
#[derive(Debug, Default)]
struct AlignedBuffer {
    memory: Vec<u8>,
}

impl AlignedBuffer {
    /// A copy of `bytes` that begins on a block boundary.
    fn fill(&mut self, bytes: &[u8]) -> &[u8] {
        let block = BLOCK_SIZE as usize;
        if self.memory.len() < bytes.len() + block {
            self.memory = vec![0; bytes.len() + block];
        }
        // `align_offset` may in theory not find one; then the write is refused by the kernel, and
        // the probe that came first has chosen another mode.
        let start = self.memory.as_ptr().align_offset(block).min(block);
        let aligned = &mut self.memory[start..start + bytes.len()];
        aligned.copy_from_slice(bytes);
        aligned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(directory: &Path) -> OsDisk {
        let mut disk = OsDisk::new(directory);
        disk.make_directory().unwrap();
        disk.probe().unwrap();
        disk
    }

    #[test]
    fn the_directory_is_private_and_its_parents_are_made() {
        use std::os::unix::fs::PermissionsExt;
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("a/b/c");
        let disk = disk(&directory);
        for path in [directory.as_path(), directory.parent().unwrap()] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{}", path.display());
        }
        assert!(disk.list().unwrap().is_empty(), "the probe is gone again");
    }

    #[test]
    fn a_file_in_the_way_is_no_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("file");
        fs::write(&path, b"x").unwrap();
        let error = OsDisk::new(&path).make_directory().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    /// It is in the directory: who takes it for a file that was let go would use its number again.
    #[test]
    fn a_link_to_nothing_is_not_an_absent_file() {
        let temporary = tempfile::tempdir().unwrap();
        let disk = disk(temporary.path());
        std::os::unix::fs::symlink("nowhere", temporary.path().join("link")).unwrap();
        let error = disk.open("link").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = disk.open("absent").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn every_mode_writes_the_same_bytes() {
        let temporary = tempfile::tempdir().unwrap();
        let mut disk = disk(temporary.path());
        let probed = disk.io_mode();
        let mut modes = vec![IoMode::Dsync, IoMode::Fdatasync];
        if probed == IoMode::Direct {
            modes.push(IoMode::Direct);
        }
        for mode in modes {
            disk.mode = mode;
            let name = mode.name();
            let file = disk.create(name).unwrap();
            let zeros = vec![0; 8 * BLOCK_SIZE as usize];
            assert_eq!(disk.write_at(&file, 0, &zeros).unwrap(), zeros.len());
            disk.sync(&file).unwrap();
            let block: Vec<u8> = (0..2 * BLOCK_SIZE).map(|i| (i % 251) as u8).collect();
            let begin = 3 * BLOCK_SIZE as usize;
            let at = begin as u64;
            assert_eq!(
                disk.write_through(&file, at, &block).unwrap(),
                block.len(),
                "{mode}"
            );
            let mut expected = zeros;
            expected[begin..begin + block.len()].copy_from_slice(&block);
            assert_eq!(fs::read(disk.at(name)).unwrap(), expected, "{mode}");
        }
    }

    #[test]
    fn a_file_is_created_once() {
        let temporary = tempfile::tempdir().unwrap();
        let disk = disk(temporary.path());
        disk.create("a").unwrap();
        assert_eq!(
            disk.create("a").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }

    #[test]
    fn the_second_lock_is_refused_until_the_first_is_gone() {
        let temporary = tempfile::tempdir().unwrap();
        let disk = disk(temporary.path());
        let first = disk.open_or_create("lock").unwrap();
        let second = disk.open_or_create("lock").unwrap();
        assert!(disk.try_lock(&first).unwrap());
        assert!(!disk.try_lock(&second).unwrap());
        drop(first);
        assert!(disk.try_lock(&second).unwrap());
    }

    #[test]
    fn reading_stops_at_the_end_of_the_file() {
        let temporary = tempfile::tempdir().unwrap();
        let disk = disk(temporary.path());
        let file = disk.create("a").unwrap();
        disk.write_at(&file, 0, b"abc").unwrap();
        let mut into = [9; 5];
        assert_eq!(read_full(&disk, &file, 1, &mut into).unwrap(), 2);
        assert_eq!(&into, b"bc\x09\x09\x09");
        assert_eq!(disk.length(&file).unwrap(), 3);
    }
}
