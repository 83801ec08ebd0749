//! What a later life needs of a client of a monitor.
//!
//! Invariant: a command is in the state from the moment its bytes are no longer among those that were read, until its
//! answer is written or among what is still to be written.
//! Not here: bytes of the file (`state`), what a client may ask (`qmp`, `sidecar::proxy`).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::manager::{Manager, Ticket};
use super::state::{
    OUTPUT_START, Owner, READING, Reader, STATE_SIZE_MAX, StateFile, TOO_LARGE, Writer, were_taken,
};

/// Memory is given back in pieces of this, in bytes, and pages of that.
const GIVE_BACK_SIZE: u64 = 32 * 1024;
const PAGE_SIZE: u64 = 4096;

/// How a client stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientState {
    /// Whose monitor it is.
    pub owner: Owner,
    /// It was greeted.
    pub greeted: bool,
    /// It has negotiated, with or without commands out of band.
    pub negotiated: Option<bool>,
    /// Read, and no command yet.
    pub input: Vec<u8>,
    /// About to be taken from the stream.
    coming: Vec<u8>,
    /// Descriptors came with that; they are lost with the process.
    pub has_fds: bool,
    /// The number of the last event that it heard.
    pub heard: u64,
    /// Commands without an answer, in the order they came.
    pub commands: Vec<Taken>,
    /// Up to here what is to be written stands in the file.
    output_end: u64,
    last_key: u64,
}

/// What was read from a client and is no command yet.
#[derive(Clone, Copy, Debug)]
pub struct Rest<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Descriptors came with them.
    pub has_fds: bool,
}

/// A command of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Counts them.
    pub key: u64,
    /// How far it is.
    pub stage: Stage,
    /// As the client sent it; or its answer.
    pub bytes: Vec<u8>,
    /// Descriptors came with it; they are lost with the process.
    pub has_fds: bool,
}

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has its answer, which waits for its turn.
    Answered,
    /// Nothing was done for it, or it only reads.
    Waiting,
    /// The engine was asked; it was not sent to QEMU.
    AtEngine,
    /// It is an effect that QEMU may have, with this id.
    Sent {
        /// The id on the connection to QEMU.
        id: u64,
    },
}

impl ClientState {
    fn new(owner: Owner) -> ClientState {
        ClientState {
            owner,
            greeted: false,
            negotiated: None,
            input: Vec::new(),
            coming: Vec::new(),
            has_fds: false,
            heard: 0,
            commands: Vec::new(),
            output_end: OUTPUT_START,
            last_key: 0,
        }
    }

    /// This is what was read and is no command yet.
    pub fn set_input(&mut self, rest: Rest<'_>) {
        // Of what is too large only that is to be known.
        self.input = rest.bytes[..rest.bytes.len().min(STATE_SIZE_MAX + 1)].to_vec();
        self.has_fds = rest.has_fds;
    }

    /// The command of that key has its answer.
    pub fn answered(&mut self, key: u64) {
        self.commands.retain(|command| command.key != key);
    }

    fn size(&self) -> usize {
        let commands = self.commands.iter().map(|command| command.bytes.len());
        self.input.len() + self.coming.len() + commands.sum::<usize>()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.owner.write(&mut out);
        out.byte(u8::from(self.greeted));
        out.byte(self.negotiated.map_or(0, |oob| 1 + u8::from(oob)));
        out.text(&self.input);
        out.text(&self.coming);
        out.byte(u8::from(self.has_fds));
        out.number(self.output_end);
        out.number(self.last_key);
        out.number(self.heard);
        for command in &self.commands {
            out.number(command.key);
            let (stage, id) = match command.stage {
                Stage::Answered => (0, 0),
                Stage::Waiting => (1, 0),
                Stage::AtEngine => (2, 0),
                Stage::Sent { id } => (3, id),
            };
            out.byte(stage);
            out.number(id);
            out.byte(u8::from(command.has_fds));
            out.text(&command.bytes);
        }
        out.0
    }

    fn decode(bytes: &[u8]) -> Option<ClientState> {
        let mut from = Reader(bytes);
        let mut state = ClientState::new(Owner::read(&mut from)?);
        state.greeted = from.byte()? != 0;
        state.negotiated = match from.byte()? {
            0 => None,
            oob => Some(oob == 2),
        };
        state.input = from.text()?;
        state.coming = from.text()?;
        state.has_fds = from.byte()? != 0;
        state.output_end = from.count()?;
        state.last_key = from.count()?;
        state.heard = from.count()?;
        while !from.0.is_empty() {
            let key = from.number::<8>()?;
            let (stage, id) = (from.byte()?, from.number::<8>()?);
            let stage = match stage {
                0 => Stage::Answered,
                1 => Stage::Waiting,
                2 => Stage::AtEngine,
                3 => Stage::Sent { id },
                _ => return None,
            };
            let has_fds = from.byte()? != 0;
            state.commands.push(Taken {
                key,
                stage,
                bytes: from.text()?,
                has_fds,
            });
        }
        Some(state)
    }
}

/// A client whose connection is kept.
#[derive(Debug)]
pub struct KeptClient {
    manager: Manager,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: StateFile,
    steps: u8,
    state: ClientState,
    /// Up to here the memory of what was written was given back.
    given_back: u64,
    /// Gone when it can be kept no longer.
    ticket: Option<Ticket>,
}

impl KeptClient {
    /// Has a client's connection kept; `None` where nobody keeps any.
    #[must_use]
    pub fn keep(manager: &Manager, owner: Owner, socket: BorrowedFd<'_>) -> Option<KeptClient> {
        if !manager.is_there() {
            return None;
        }
        let file = StateFile::create().ok()?;
        let state = ClientState::new(owner);
        file.save(0, &state.encode()).ok()?;
        let ticket = manager.store("client", &file, socket).ok()?;
        Some(KeptClient::with(manager, file, state, ticket))
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
    ) -> Result<(KeptClient, ClientState), String> {
        let file = StateFile::from_fd(file);
        let (bytes, was_reading) = file.load()?;
        let mut state = ClientState::decode(&bytes).ok_or("its state is not understood")?;
        if was_reading {
            // It may well say the same twice.
            let taken = were_taken(socket, &state.coming, false);
            taken.ok_or("the sidecar ended while it read from it")?;
        }
        state.input.append(&mut state.coming);
        let sent = file.sent().map_err(|error| error.to_string())?;
        if !(OUTPUT_START..=state.output_end).contains(&sent) {
            return Err("its state is damaged".to_owned());
        }
        if state.has_fds {
            return Err("file descriptors that came over it are lost".to_owned());
        }
        let kept = KeptClient::with(manager, file, state.clone(), ticket);
        Ok((kept, state))
    }

    fn with(manager: &Manager, file: StateFile, state: ClientState, ticket: Ticket) -> KeptClient {
        KeptClient {
            manager: manager.clone(),
            inner: Mutex::new(Inner {
                file,
                steps: 0,
                given_back: OUTPUT_START,
                state,
                ticket: Some(ticket),
            }),
        }
    }

    /// The process is about to end, and this connection is not.
    #[must_use]
    pub fn is_left_open(&self) -> bool {
        self.manager.is_stopping()
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> OwnedFd {
        use std::os::fd::AsFd;
        self.inner().file.as_fd().try_clone_to_owned().unwrap()
    }

    /// Nothing panics while it holds this lock, so what it guards is whole in any case.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the last event that it heard.
    pub fn heard(&self) -> u64 {
        self.inner().state.heard
    }

    /// These bytes are about to be taken from the stream, perhaps with descriptors.
    pub fn begin_read(&self, bytes: &[u8], has_fds: bool) {
        let mut inner = self.inner();
        inner.state.coming = bytes.to_vec();
        inner.state.has_fds |= has_fds;
        inner.steps |= READING;
        inner.save();
    }

    /// They were taken; this is no command yet.
    pub fn end_read(&self, rest: Rest<'_>) {
        let mut inner = self.inner();
        // The file says the same: what was read before, and what was to come.
        inner.state.set_input(rest);
        inner.state.coming.clear();
        inner.steps &= !READING;
        let steps = inner.steps_of_file();
        let result = inner.file.mark(steps);
        inner.check(result);
    }

    /// A command was taken from what was read, of which this is left. Gives its key.
    pub fn take(&self, stage: Stage, bytes: Vec<u8>, has_fds: bool, rest: Rest<'_>) -> u64 {
        let mut inner = self.inner();
        inner.state.set_input(rest);
        inner.state.last_key += 1;
        let key = inner.state.last_key;
        inner.state.commands.push(Taken {
            key,
            stage,
            bytes,
            has_fds,
        });
        inner.save();
        key
    }

    /// The command of that key has come so far.
    pub fn advance(&self, key: u64, stage: Stage) {
        let mut inner = self.inner();
        let mut commands = inner.state.commands.iter_mut();
        if let Some(command) = commands.find(|command| command.key == key) {
            command.stage = stage;
        }
        inner.save();
    }

    /// From now on this is to be written, with which the state changes so: both or none.
    ///
    /// # Errors
    /// As the system says. Nothing is as it was to be, and the client cannot be served any more.
    pub fn put(&self, line: &[u8], change: Option<&dyn Fn(&mut ClientState)>) -> io::Result<()> {
        let mut inner = self.inner();
        let at = inner.state.output_end;
        if let Err(error) = inner.file.put(line, at) {
            inner.ticket = None;
            return Err(error);
        }
        inner.state.output_end += line.len() as u64;
        if let Some(change) = change {
            change(&mut inner.state);
        }
        inner.save();
        Ok(())
    }

    /// Writes what the kernel takes of what is to be written.
    ///
    /// # Errors
    /// As the system says.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut inner = self.inner();
        let size = inner.file.send(socket, inner.unsent()?)?;
        inner.give_back();
        Ok(size)
    }

    /// How much is still to be written, in bytes.
    pub fn unsent(&self) -> usize {
        // It fails for no file.
        self.inner().unsent().unwrap_or(0)
    }
}

impl Inner {
    fn unsent(&self) -> io::Result<usize> {
        let unsent = self.state.output_end.saturating_sub(self.file.sent()?);
        Ok(usize::try_from(unsent).unwrap_or(usize::MAX))
    }

    /// Of memory that was written not much is held.
    fn give_back(&mut self) {
        let Ok(sent) = self.file.sent() else {
            return;
        };
        let sent = sent - sent % PAGE_SIZE;
        if sent - self.given_back >= GIVE_BACK_SIZE {
            // Where it fails the memory is held until the client leaves.
            drop(self.file.give_back(self.given_back, sent));
            self.given_back = sent;
        }
    }

    fn is_too_large(&self) -> bool {
        self.state.size() > STATE_SIZE_MAX
    }

    fn steps_of_file(&self) -> u8 {
        let too_large = match self.is_too_large() {
            true => TOO_LARGE,
            false => 0,
        };
        self.steps | too_large
    }

    fn save(&mut self) {
        let state = match self.is_too_large() {
            true => Vec::new(),
            false => self.state.encode(),
        };
        let result = self.file.save(self.steps_of_file(), &state);
        self.check(result);
    }

    /// What cannot be written down cannot be kept.
    fn check(&mut self, result: io::Result<()>) {
        if result.is_err() {
            self.ticket = None;
        }
    }
}
