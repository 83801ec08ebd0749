//! What a later life needs of the connection to a QEMU.
//!
//! Invariant: an id that may have been used is never used again, nor on another connection, so that an answer is never taken for another's.
//! Not here: bytes of the file (`state`), what is sent over it (`qmp::streams`).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use journal_format::number::Id128;

use super::manager::{Manager, Ticket};
use super::state::{
    Owner, READING, Reader, STATE_SIZE_MAX, StateFile, TOO_LARGE, WRITING, Writer, were_taken,
};

/// How many ids are set aside at once.
const IDS: u64 = 4096;

/// More than a connection is likely to use, as a power of two.
const IDS_BITS: u32 = 24;

/// How a connection to a QEMU stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuState {
    /// Whose it is.
    pub owner: Owner,
    /// QEMU's greeting.
    pub greeting: Vec<u8>,
    /// Commands out of band were negotiated.
    pub oob: bool,
    /// The first id that it may have used. Where it is differs from connection to connection: a command that was sent over one that broke
    /// is not looked for on the next.
    pub first_id: u64,
    /// From here on none was used.
    pub next_id: u64,
    /// Read, and not dealt with yet.
    pub input: Vec<u8>,
    /// About to be taken from the stream.
    coming: Vec<u8>,
    /// The number of the last event in front of that.
    pub told: u64,
}

impl QemuState {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.owner.write(&mut out);
        out.text(&self.greeting);
        out.byte(u8::from(self.oob));
        out.number(self.first_id);
        out.number(self.next_id);
        out.text(&self.input);
        out.text(&self.coming);
        out.number(self.told);
        out.0
    }

    fn decode(bytes: &[u8]) -> Option<QemuState> {
        let mut from = Reader(bytes);
        let state = QemuState {
            owner: Owner::read(&mut from)?,
            greeting: from.text()?,
            oob: from.byte()? != 0,
            first_id: from.count()?,
            next_id: from.count()?,
            input: from.text()?,
            coming: from.text()?,
            told: from.count()?,
        };
        from.0.is_empty().then_some(state)
    }
}

/// A connection to a QEMU that is kept once it has negotiated.
#[derive(Debug)]
pub struct KeptQemu {
    manager: Manager,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: StateFile,
    steps: u8,
    state: QemuState,
    /// The file does not have the state: it was too large.
    is_left_out: bool,
    /// `None` before it is kept, and when it can be kept no longer.
    ticket: Option<Ticket>,
}

impl KeptQemu {
    /// For a connection that will be made; `None` where nobody keeps any.
    #[must_use]
    pub fn prepare(manager: &Manager, owner: Owner) -> Option<KeptQemu> {
        if !manager.is_there() {
            return None;
        }
        let [a, b, c, d, ..] = Id128::random().0;
        // QEMU takes ids below 2^63.
        let first_id = (u64::from(u32::from_le_bytes([a, b, c, d])) << IDS_BITS) + 1;
        let state = QemuState {
            owner,
            greeting: Vec::new(),
            oob: false,
            first_id,
            next_id: first_id,
            input: Vec::new(),
            coming: Vec::new(),
            told: 0,
        };
        Some(KeptQemu {
            manager: manager.clone(),
            inner: Mutex::new(Inner {
                file: StateFile::create().ok()?,
                steps: 0,
                state,
                is_left_out: false,
                ticket: None,
            }),
        })
    }

    /// One of an earlier life.
    ///
    /// # Errors
    /// One line that says why it cannot be gone on with.
    pub fn resume(
        manager: &Manager,
        socket: BorrowedFd<'_>,
        file: OwnedFd,
        ticket: Ticket,
    ) -> Result<(KeptQemu, QemuState), String> {
        let file = StateFile::from_fd(file);
        let (bytes, was_reading) = file.load()?;
        let mut state = QemuState::decode(&bytes).ok_or("its state is not understood")?;
        // No id is used twice, and each event has its time: what begins with a whole object comes once.
        let says_nothing_twice = state.input.is_empty() && state.coming.contains(&b'\n');
        let taken = match was_reading {
            false => true,
            true => were_taken(socket, &state.coming, says_nothing_twice)
                .ok_or("the sidecar ended while it read from it")?,
        };
        match taken {
            true => state.input.append(&mut state.coming),
            false => state.coming.clear(),
        }
        let inner = Inner {
            file,
            steps: 0,
            state: state.clone(),
            is_left_out: false,
            ticket: Some(ticket),
        };
        let kept = KeptQemu {
            manager: manager.clone(),
            inner: Mutex::new(inner),
        };
        Ok((kept, state))
    }

    /// The process is about to end, and this connection is not.
    #[must_use]
    pub fn is_left_open(&self) -> bool {
        self.manager.is_stopping()
    }

    #[cfg(test)]
    pub(crate) fn file(&self) -> OwnedFd {
        use std::os::fd::AsFd;
        self.inner().file.as_fd().try_clone_to_owned().unwrap()
    }

    /// Nothing panics while it holds this lock, so what it guards is whole in any case.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has negotiated: from now on it is kept.
    pub fn negotiated(&self, greeting: &[u8], oob: bool, socket: BorrowedFd<'_>) {
        let mut inner = self.inner();
        inner.state.greeting = greeting.to_vec();
        inner.state.oob = oob;
        inner.save();
        inner.ticket = self.manager.store("qemu", &inner.file, socket).ok();
    }

    /// The first id to be used on it.
    pub fn first_id(&self) -> u64 {
        self.inner().state.first_id
    }

    /// This id is used.
    pub fn use_id(&self, id: u64) {
        let mut inner = self.inner();
        if id >= inner.state.next_id {
            inner.state.next_id = id + IDS;
            inner.save();
        }
    }

    /// These bytes are about to be taken from the stream.
    pub fn begin_read(&self, bytes: &[u8]) {
        let mut inner = self.inner();
        inner.state.coming = bytes.to_vec();
        inner.steps |= READING;
        inner.save();
    }

    /// They were taken.
    pub fn end_read(&self) {
        let mut inner = self.inner();
        let coming = core::mem::take(&mut inner.state.coming);
        inner.state.input.extend(coming);
        inner.steps &= !READING;
        // The file says the same: what was read before, and what was to come.
        inner.mark();
    }

    /// What was read was dealt with, but for these bytes, up to the event of this number. Events are not told again, long after they
    /// happened; to deal with an answer twice does no harm, and so that alone is written down with what is read next.
    pub fn dealt(&self, input: &[u8], told: u64) {
        let mut inner = self.inner();
        // Of what is too large only that is to be known.
        inner.state.input = input[..input.len().min(STATE_SIZE_MAX + 1)].to_vec();
        let has_told = inner.state.told != told;
        inner.state.told = told;
        if has_told || (inner.is_left_out && !inner.is_too_large()) {
            inner.save();
        }
    }

    /// A command is about to be written.
    pub fn begin_write(&self) {
        self.inner().begin(WRITING);
    }

    /// It was written, or nothing of it.
    pub fn end_write(&self) {
        let mut inner = self.inner();
        inner.steps &= !WRITING;
        inner.mark();
    }
}

impl Inner {
    fn begin(&mut self, step: u8) {
        self.steps |= step;
        self.mark();
    }

    fn is_too_large(&self) -> bool {
        self.state.input.len() + self.state.coming.len() > STATE_SIZE_MAX
    }

    fn mark(&mut self) {
        let too_large = match self.is_left_out {
            true => TOO_LARGE,
            false => 0,
        };
        let result = self.file.mark(self.steps | too_large);
        self.check(result);
    }

    fn save(&mut self) {
        self.is_left_out = self.is_too_large();
        let (steps, state) = match self.is_left_out {
            true => (self.steps | TOO_LARGE, Vec::new()),
            false => (self.steps, self.state.encode()),
        };
        let result = self.file.save(steps, &state);
        self.check(result);
    }

    /// What cannot be written down cannot be kept.
    fn check(&mut self, result: io::Result<()>) {
        if result.is_err() {
            self.ticket = None;
        }
    }
}
