//! What a sidecar last knew to be durable, kept outside the journal for as long as the host is up.
//! Invariant: the witness is never ahead of the journal, and is brought up to date before anything
//! learns that a batch is durable; so a journal that ends before it was put back from an older copy.
//! Not here: a journal put back together with a reboot, which no witness in memory can tell.
//!
//! The file holds two slots, written in turn: a write that a crash cuts short hurts one, and what
//! the other then says is right, since nobody has learnt of the batch that was being witnessed.
//! It is written without a sync: the page cache outlives a process, and after a reboot it is void.
//! It is made with one: a run directory on a disk shall not hold a torn witness after a power failure,
//! and later no slot is torn, being smaller than a sector.

use core::fmt;
use std::io;
use std::path::PathBuf;

use journal_format::number::{BootId, Epoch, Id128, JournalId, Lsn, OpeningId, Position};

use super::disk::{Disk, is_full, read_full};

/// The witness's name in the run directory.
pub const WITNESS_NAME: &str = "witness";
/// The name under which it is made before it is given its own.
const WITNESS_NEW_NAME: &str = "witness.new";

/// Where the second slot begins, in bytes: on a page of its own.
const SLOT_DISTANCE: usize = 4096;
const FILE_SIZE: usize = 2 * SLOT_DISTANCE;

// A slot: magic, sequence, journal, epoch, opening, LSN, boot, CRC-32 over all before it.
const MAGIC: [u8; 8] = *b"PJWITN01";
const SEQUENCE_AT: usize = MAGIC.len();
const JOURNAL_AT: usize = SEQUENCE_AT + size_of::<u64>();
const EPOCH_AT: usize = JOURNAL_AT + size_of::<JournalId>();
const OPENING_AT: usize = EPOCH_AT + size_of::<u32>();
const LSN_AT: usize = OPENING_AT + size_of::<OpeningId>();
const BOOT_AT: usize = LSN_AT + size_of::<u64>();
const CRC_AT: usize = BOOT_AT + size_of::<BootId>();
const SLOT_SIZE: usize = CRC_AT + size_of::<u32>();
const _: () = assert!(SLOT_SIZE <= 512, "a slot is written whole or not at all");

/// What a witness says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// The last record that was durable.
    pub position: Position,
    /// The boot of the host in which it was.
    pub boot: BootId,
}

/// Why a witness could not be read or written.
#[derive(Debug)]
pub enum WitnessError {
    /// The system refused.
    Io {
        /// The file.
        file: PathBuf,
        /// What was being done to it, such as "read".
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file is there, and neither of its slots holds.
    Damaged {
        /// The file.
        file: PathBuf,
    },
}

impl fmt::Display for WitnessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WitnessError::Io {
                file,
                doing,
                source: _,
            } => {
                write!(f, "could not {doing} the witness {}", file.display())
            }
            WitnessError::Damaged { file } => write!(
                f,
                "the witness {} is damaged: it cannot be told whether the journal is older than \
                 what was last durable on this host",
                file.display()
            ),
        }
    }
}

impl std::error::Error for WitnessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WitnessError::Io { source, .. } => Some(source),
            WitnessError::Damaged { .. } => None,
        }
    }
}

/// The witness of a run directory, to be written.
#[derive(Debug)]
pub struct Witness<D: Disk> {
    disk: D,
    file: Option<D::File>,
    sequence: u64,
}

impl<D: Disk> Witness<D> {
    /// The witness of the run directory `disk`, which need not exist yet.
    pub fn new(disk: D) -> Witness<D> {
        Witness {
            disk,
            file: None,
            sequence: 0,
        }
    }

    /// What the witness says; `None` when there is none.
    ///
    /// # Errors
    /// [`WitnessError::Damaged`] when there is one and nothing in it holds.
    pub fn read(&mut self) -> Result<Option<Testimony>, WitnessError> {
        let file = match self.disk.open(WITNESS_NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io_error("open", source)),
        };
        let mut bytes = [0; FILE_SIZE];
        read_full(&self.disk, &file, 0, &mut bytes)
            .map_err(|source| self.io_error("read", source))?;
        let newest = [0, SLOT_DISTANCE]
            .into_iter()
            .filter_map(|at| decode(&bytes[at..at + SLOT_SIZE]))
            .max_by_key(|(sequence, _)| *sequence);
        match newest {
            Some((sequence, testimony)) => {
                self.sequence = sequence;
                Ok(Some(testimony))
            }
            None => Err(WitnessError::Damaged { file: self.path() }),
        }
    }

    /// Replaces whatever is there by a witness that says this.
    ///
    /// # Errors
    /// [`WitnessError::Io`].
    pub fn begin(&mut self, testimony: &Testimony) -> Result<(), WitnessError> {
        self.file = None;
        match self.replace(testimony) {
            // The run directory may lie on a disk that is full: then the old one is written on.
            Err(error) if is_full(&error) => self.take_over(testimony, error),
            replaced => replaced.map_err(|source| self.io_error("make", source)),
        }
    }

    /// Says this in the witness that is there, which needs no room. `error` is why it cannot be
    /// replaced.
    fn take_over(&mut self, testimony: &Testimony, error: io::Error) -> Result<(), WitnessError> {
        // What was not finished takes room for nothing.
        drop(self.disk.remove(WITNESS_NEW_NAME));
        // So that the older slot is the one that is written.
        if self.read()?.is_none() {
            return Err(self.io_error("make", error));
        }
        let file = self
            .disk
            .open_or_create(WITNESS_NAME)
            .map_err(|source| self.io_error("open", source))?;
        self.file = Some(file);
        self.write(testimony)?;
        let synced = self
            .file
            .as_ref()
            .map_or(Ok(()), |file| self.disk.sync(file));
        synced.map_err(|source| self.io_error("sync", source))
    }

    fn replace(&mut self, testimony: &Testimony) -> io::Result<()> {
        self.disk.make_directory()?;
        match self.disk.remove(WITNESS_NEW_NAME) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = self.disk.create(WITNESS_NEW_NAME)?;
        self.sequence = 0;
        let mut bytes = [0; FILE_SIZE];
        encode(self.sequence, testimony, &mut bytes[..SLOT_SIZE]);
        // Renamed when whole: a witness never lacks both slots because a crash came early.
        whole(self.disk.write_at(&file, 0, &bytes)?, bytes.len())?;
        self.disk.sync(&file)?;
        self.disk.rename(WITNESS_NEW_NAME, WITNESS_NAME)?;
        self.disk.sync_directory()?;
        self.file = Some(file);
        Ok(())
    }

    /// Says this from now on. [`Witness::begin`] comes first.
    ///
    /// # Errors
    /// [`WitnessError::Io`].
    pub fn write(&mut self, testimony: &Testimony) -> Result<(), WitnessError> {
        let Some(file) = &self.file else {
            return self.begin(testimony);
        };
        let sequence = self.sequence + 1;
        let mut slot = [0; SLOT_SIZE];
        encode(sequence, testimony, &mut slot);
        let at = if sequence.is_multiple_of(2) {
            0
        } else {
            SLOT_DISTANCE as u64
        };
        let written = self.disk.write_at(file, at, &slot);
        written
            .and_then(|count| whole(count, slot.len()))
            .map_err(|source| self.io_error("write", source))?;
        self.sequence = sequence;
        Ok(())
    }

    /// The file, for messages.
    pub fn path(&self) -> PathBuf {
        self.disk.path().join(WITNESS_NAME)
    }

    fn io_error(&self, doing: &'static str, source: io::Error) -> WitnessError {
        WitnessError::Io {
            file: self.path(),
            doing,
            source,
        }
    }
}

fn whole(written: usize, wanted: usize) -> io::Result<()> {
    if written == wanted {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

fn encode(sequence: u64, testimony: &Testimony, slot: &mut [u8]) {
    let Position {
        journal,
        epoch,
        opening,
        lsn,
    } = testimony.position;
    slot[..SEQUENCE_AT].copy_from_slice(&MAGIC);
    slot[SEQUENCE_AT..JOURNAL_AT].copy_from_slice(&sequence.to_le_bytes());
    slot[JOURNAL_AT..EPOCH_AT].copy_from_slice(&journal.0.0);
    slot[EPOCH_AT..OPENING_AT].copy_from_slice(&epoch.0.to_le_bytes());
    slot[OPENING_AT..LSN_AT].copy_from_slice(&opening.0.0);
    slot[LSN_AT..BOOT_AT].copy_from_slice(&lsn.0.to_le_bytes());
    slot[BOOT_AT..CRC_AT].copy_from_slice(&testimony.boot.0.0);
    let crc = crc32fast::hash(&slot[..CRC_AT]);
    slot[CRC_AT..SLOT_SIZE].copy_from_slice(&crc.to_le_bytes());
}

fn decode(slot: &[u8]) -> Option<(u64, Testimony)> {
    let crc = u32::from_le_bytes(bytes_at(slot, CRC_AT)?);
    if slot.get(..SEQUENCE_AT)? != MAGIC || crc != crc32fast::hash(slot.get(..CRC_AT)?) {
        return None;
    }
    let position = Position {
        journal: JournalId(Id128(bytes_at(slot, JOURNAL_AT)?)),
        epoch: Epoch(u32::from_le_bytes(bytes_at(slot, EPOCH_AT)?)),
        opening: OpeningId(Id128(bytes_at(slot, OPENING_AT)?)),
        lsn: Lsn(u64::from_le_bytes(bytes_at(slot, LSN_AT)?)),
    };
    let boot = BootId(Id128(bytes_at(slot, BOOT_AT)?));
    Some((
        u64::from_le_bytes(bytes_at(slot, SEQUENCE_AT)?),
        Testimony { position, boot },
    ))
}

fn bytes_at<const N: usize>(slot: &[u8], at: usize) -> Option<[u8; N]> {
    slot.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::testing::{Fault, Survival, TestDisk};

    fn testimony(lsn: u64) -> Testimony {
        Testimony {
            position: Position {
                journal: JournalId(Id128([1; 16])),
                epoch: Epoch(3),
                opening: OpeningId(Id128([2; 16])),
                lsn: Lsn(lsn),
            },
            boot: BootId(Id128([4; 16])),
        }
    }

    fn read(disk: &TestDisk) -> Result<Option<Testimony>, WitnessError> {
        Witness::new(disk.clone()).read()
    }

    fn written(count: u64) -> TestDisk {
        let disk = TestDisk::new("run");
        let mut witness = Witness::new(disk.clone());
        witness.begin(&testimony(0)).unwrap();
        for lsn in 1..=count {
            witness.write(&testimony(lsn)).unwrap();
        }
        disk
    }

    #[test]
    fn the_last_word_is_read() {
        let disk = TestDisk::new("run");
        assert_eq!(read(&disk).unwrap(), None, "no directory");
        for count in 0..5 {
            assert_eq!(read(&written(count)).unwrap(), Some(testimony(count)));
        }
    }

    #[test]
    fn a_write_cut_short_leaves_the_word_before() {
        for lsn in 1..4 {
            let disk = written(lsn - 1);
            let mut witness = Witness::new(disk.clone());
            witness.read().unwrap();
            witness.begin(&testimony(lsn - 1)).unwrap();
            disk.plan(disk.operations(), Fault::Short(40));
            witness.write(&testimony(lsn)).unwrap_err();
            assert_eq!(read(&disk).unwrap(), Some(testimony(lsn - 1)));
        }
    }

    #[test]
    fn a_crash_at_any_point_of_making_it_leaves_the_old_or_the_new() {
        for at in 0..7 {
            for fault in [Fault::CrashBefore, Fault::CrashTorn(0), Fault::CrashAfter] {
                let disk = written(1);
                disk.plan(disk.operations() + at, fault);
                let _ = Witness::new(disk.clone()).begin(&testimony(9));
                disk.restart(Survival::Everything);
                let lsn = read(&disk).unwrap().unwrap().position.lsn.0;
                assert!(lsn == 1 || lsn == 9, "{at} {fault:?}: {lsn}");
                Witness::new(disk.clone()).begin(&testimony(10)).unwrap();
                assert_eq!(read(&disk).unwrap(), Some(testimony(10)));
            }
        }
    }

    #[test]
    fn garbage_is_an_error_and_not_silence() {
        for bytes in [
            vec![],
            vec![0; FILE_SIZE],
            vec![7; 100],
            vec![255; 3 * FILE_SIZE],
        ] {
            let disk = TestDisk::new("run");
            disk.put(WITNESS_NAME, bytes);
            assert!(matches!(read(&disk), Err(WitnessError::Damaged { .. })));
        }
    }

    #[test]
    fn no_flipped_bit_makes_another_word() {
        let disk = written(1);
        let bytes = disk.read(WITNESS_NAME).unwrap();
        for at in (0..SLOT_SIZE).chain(SLOT_DISTANCE..SLOT_DISTANCE + SLOT_SIZE) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            disk.put(WITNESS_NAME, damaged);
            let expected = if at < SLOT_DISTANCE {
                testimony(1)
            } else {
                testimony(0)
            };
            assert_eq!(read(&disk).unwrap(), Some(expected), "byte {at}");
        }
    }
}
