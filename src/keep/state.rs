//! A connection's memory file: bytes in it, and what they mean.
//!
//! Layout: byte 0 the steps under way (one bit each), bytes 4 to 8 [`MAGIC`], then length and
//! CRC-32 of the state, little-endian, then the state; from [`OUTPUT_START`] on what is written to the connection. The file lives as long as somebody has it open, and never on a disk.
//!
//! Invariant: what is read back is whole and of this layout, or nothing of it is believed.
//! Not here: what the states say (`client`, `qemu`), where the files are kept (`manager`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use journal_format::number::{BootId, DomainId, Id128};
use journal_format::record::Instance;
use rustix::fs::{FallocateFlags, MemfdFlags, SeekFrom, fallocate, memfd_create, seek, sendfile};
use rustix::net::{RecvFlags, recv};

/// Largest state that is kept, in bytes. A connection with more under way at once is closed by a restart.
pub const STATE_SIZE_MAX: usize = 256 * 1024;

/// The layout, and in its last byte the version.
const MAGIC: [u8; 4] = *b"pjk3";

const HEADER_SIZE: usize = 16;

/// Highest count that is believed.
const COUNT_MAX: u64 = 1 << 62;

/// Largest state with all that is written around it.
const ENCODED_SIZE_MAX: usize = 2 * STATE_SIZE_MAX;

/// What was about to be taken from the stream is in the state; it may have been taken or not.
pub(super) const READING: u8 = 1;
/// Something was written that may still be in the state.
pub(super) const WRITING: u8 = 2;
/// The state is larger than what is kept.
pub(super) const TOO_LARGE: u8 = 4;

/// Where what is to be written to a connection stands in its file: behind any state.
pub(super) const OUTPUT_START: u64 = 1024 * 1024;

/// A memory file.
#[derive(Debug)]
pub struct StateFile(File);

impl StateFile {
    /// A new one.
    ///
    /// # Errors
    /// As the system says.
    pub fn create() -> io::Result<StateFile> {
        let fd = memfd_create("phase-journal", MemfdFlags::CLOEXEC)?;
        seek(&fd, SeekFrom::Start(OUTPUT_START))?;
        Ok(StateFile(fd.into()))
    }

    /// Puts bytes in that are to be written to the connection.
    pub(super) fn put(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    /// Up to where it was written to the connection: the place in the file that the kernel keeps, for all who have it open.
    pub(super) fn sent(&self) -> io::Result<u64> {
        Ok(seek(&self.0, SeekFrom::Current(0))?)
    }

    /// Writes to the connection what the kernel takes of so many bytes. How many it took the kernel keeps in the same call: there is no moment in
    /// which that is not known.
    pub(super) fn send(&self, socket: BorrowedFd<'_>, size: usize) -> io::Result<usize> {
        Ok(sendfile(socket, &self.0, None, size)?)
    }

    /// Gives the memory back of what was written. Its bytes may still wait to be read, and are not touched.
    pub(super) fn give_back(&self, from: u64, to: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.0, flags, from, to - from)?)
    }

    /// One of an earlier life.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> StateFile {
        StateFile(fd.into())
    }

    /// Says only which steps are under way.
    pub(super) fn mark(&self, steps: u8) -> io::Result<()> {
        self.0.write_all_at(&[steps], 0)
    }

    /// Says all.
    pub(super) fn save(&self, steps: u8, state: &[u8]) -> io::Result<()> {
        let (steps, state) = match state.len() > ENCODED_SIZE_MAX {
            true => (steps | TOO_LARGE, &[][..]),
            false => (steps, state),
        };
        let mut bytes = Vec::with_capacity(HEADER_SIZE + state.len());
        bytes.extend([steps, 0, 0, 0]);
        bytes.extend(MAGIC);
        // It is far below this.
        bytes.extend(u32::try_from(state.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(crc32fast::hash(state).to_le_bytes());
        bytes.extend(state);
        self.0.write_all_at(&bytes, 0)
    }

    /// The state if it is whole, and whether the process ended while it read from the connection.
    ///
    /// # Errors
    /// One line that says why it is not to be believed.
    pub(super) fn load(&self) -> Result<(Vec<u8>, bool), String> {
        let mut header = [0; HEADER_SIZE];
        let failed = |error: io::Error| format!("its state cannot be read: {error}");
        self.0.read_exact_at(&mut header, 0).map_err(failed)?;
        let mut header = Reader(&header);
        let (steps, magic) = (header.bytes(4), header.bytes(4));
        let (size, checksum) = (header.number::<4>(), header.number::<4>());
        let damaged = || "its state is damaged".to_owned();
        let (Some(&[steps, ..]), Some(size), Some(checksum)) = (steps, size, checksum) else {
            return Err(damaged());
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if magic.is_some_and(|magic| magic != MAGIC && magic[..3] == MAGIC[..3]) {
            return Err("its state is of another version of the sidecar".to_owned());
        }
        if magic != Some(&MAGIC[..]) || size > ENCODED_SIZE_MAX {
            return Err(damaged());
        }
        if steps & WRITING != 0 {
            return Err("the sidecar ended while it wrote to it".to_owned());
        }
        if steps & TOO_LARGE != 0 {
            return Err("too much was under way on it".to_owned());
        }
        let mut state = vec![0; size];
        self.0
            .read_exact_at(&mut state, HEADER_SIZE as u64)
            .map_err(failed)?;
        match u64::from(crc32fast::hash(&state)) == checksum && steps & !READING == 0 {
            true => Ok((state, steps == READING)),
            false => Err(damaged()),
        }
    }
}

/// Were these bytes, which were about to be taken from a stream, taken? `None` where that cannot be told. Only the process that has ended
/// took any: if others, or fewer, are there now, these were. If the same are there, it depends on whether the other end may
/// say the same twice.
pub(super) fn were_taken(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    says_nothing_twice: bool,
) -> Option<bool> {
    let mut there = vec![0; bytes.len()];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (_, size) = match recv(socket, there.as_mut_slice(), flags) {
        Err(rustix::io::Errno::AGAIN) => return Some(true),
        other => other.ok()?,
    };
    match there.get(..size) == Some(bytes) {
        false => Some(true),
        true => says_nothing_twice.then_some(false),
    }
}

impl AsFd for StateFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whose connection it is: of a domain, and of one process for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The domain.
    pub domain: DomainId,
    /// Its QEMU.
    pub instance: Instance,
}

impl Owner {
    pub(super) fn write(&self, out: &mut Writer) {
        out.0.extend(self.domain.0.0);
        out.0.extend(self.instance.boot.0.0);
        out.number(u64::from(self.instance.pid));
        out.number(self.instance.start_time);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Option<Owner> {
        let domain = DomainId(Id128(from.bytes(16)?.try_into().ok()?));
        let boot = BootId(Id128(from.bytes(16)?.try_into().ok()?));
        let instance = Instance {
            boot,
            pid: u32::try_from(from.number::<8>()?).ok()?,
            start_time: from.number::<8>()?,
        };
        Some(Owner { domain, instance })
    }
}

/// Puts a state together.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    /// With their length before them.
    pub(super) fn text(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

/// Takes a state apart; nothing where it ends too soon.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, size: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    /// A number of so many bytes, eight at the most.
    pub(super) fn number<const SIZE: usize>(&mut self) -> Option<u64> {
        let mut number = [0; 8];
        number[..SIZE].copy_from_slice(self.bytes(SIZE)?);
        Some(u64::from_le_bytes(number))
    }

    /// One that is counted on from: so high no life ever comes.
    pub(super) fn count(&mut self) -> Option<u64> {
        self.number::<8>().filter(|count| *count <= COUNT_MAX)
    }

    pub(super) fn text(&mut self) -> Option<Vec<u8>> {
        let size = usize::try_from(self.number::<8>()?).ok()?;
        self.bytes(size).map(<[u8]>::to_vec)
    }
}
