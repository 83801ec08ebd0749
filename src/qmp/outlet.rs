//! The way out to one client of a monitor: what QEMU says, in QEMU's order.
//!
//! Invariant: whoever puts something in never waits. What the kernel does not take at once is kept, up to
//! [`BACKLOG_SIZE_MAX`] bytes and for [`STALL_MAX`]; a client that lets more come together is cut off.
//! Not here: what is put in (`client`, `sidecar::proxy`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::passfd::send;
use super::socket::Socket;
use crate::keep::{ClientState, KeptClient};

/// Bytes that wait for a client that does not read, beside the message that is being written.
pub const BACKLOG_SIZE_MAX: usize = 1024 * 1024;

/// How long a client may read nothing of what waits for it.
pub const STALL_MAX: Duration = Duration::from_secs(30);

/// A client's stream, to be written to from several tasks.
#[derive(Debug)]
pub struct Outlet {
    socket: Arc<Socket>,
    /// The client's connection outlives the process.
    kept: Option<KeptClient>,
    waiting: Mutex<Waiting>,
    /// All that waited is out, or nothing more goes out.
    drained: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Arc<[u8]>>,
    /// Of the first line.
    written: usize,
    size: usize,
    is_closed: bool,
    /// It is closed when nothing waits any more.
    is_ending: bool,
    /// A task brings the rest out.
    is_flushing: bool,
}

impl Outlet {
    /// The way out of this stream.
    #[must_use]
    pub fn new(socket: Arc<Socket>) -> Arc<Outlet> {
        Outlet::keeping(socket, None)
    }

    /// The same of a stream that outlives the process; what an earlier life did not bring out is brought out. To be called within
    /// the runtime.
    #[must_use]
    pub fn keeping(socket: Arc<Socket>, kept: Option<KeptClient>) -> Arc<Outlet> {
        let is_flushing = kept.as_ref().is_some_and(|kept| kept.unsent() > 0);
        let waiting = Waiting {
            is_flushing,
            ..Waiting::default()
        };
        let outlet = Arc::new(Outlet {
            socket,
            kept,
            waiting: Mutex::new(waiting),
            drained: Notify::new(),
        });
        if is_flushing {
            tokio::spawn(flush(Arc::downgrade(&outlet), outlet.socket.clone()));
        }
        outlet
    }

    /// How the client stands is kept here, if it is.
    #[must_use]
    pub fn kept(&self) -> Option<&KeptClient> {
        self.kept.as_ref()
    }

    /// Nothing panics while it holds this lock, so what it guards is whole in any case.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a line in. To be called within the runtime; it never waits.
    pub fn put(self: &Arc<Outlet>, line: Arc<[u8]>) {
        self.put_and(line, None);
    }

    /// Puts in the answer to the command of that key.
    pub fn answer(self: &Arc<Outlet>, line: Arc<[u8]>, key: u64) {
        self.put_and(line, Some(&|state| state.answered(key)));
    }

    /// Puts an event in, unless the client heard it from an earlier life.
    fn put_event(self: &Arc<Outlet>, line: Arc<[u8]>, number: u64) {
        match &self.kept {
            None => self.put(line),
            Some(kept) if kept.heard() >= number => {}
            Some(_) => self.put_and(line, Some(&|state| state.heard = number)),
        }
    }

    /// Puts a line in, with which the client's state changes so: both or none outlives the process.
    pub fn put_and(self: &Arc<Outlet>, line: Arc<[u8]>, change: Option<&dyn Fn(&mut ClientState)>) {
        let mut waiting = self.waiting();
        if waiting.is_closed || waiting.is_ending {
            return;
        }
        let size = self.kept.as_ref().map_or(waiting.size, KeptClient::unsent);
        if size > BACKLOG_SIZE_MAX {
            return self.close_within(&mut waiting);
        }
        match &self.kept {
            Some(kept) => {
                if kept.put(&line, change).is_err() {
                    return self.close_within(&mut waiting);
                }
            }
            None => {
                waiting.size += line.len();
                waiting.lines.push_back(line);
            }
        }
        if waiting.is_flushing {
            return;
        }
        match self.write_some(&mut waiting) {
            Ok(true) => {}
            Ok(false) => {
                waiting.is_flushing = true;
                tokio::spawn(flush(Arc::downgrade(self), self.socket.clone()));
            }
            Err(_) => self.close_within(&mut waiting),
        }
    }

    /// Nothing waits to be written.
    fn has_none(&self, waiting: &Waiting) -> bool {
        let unsent = self.kept.as_ref().map_or(0, KeptClient::unsent);
        waiting.lines.is_empty() && unsent == 0
    }

    /// Returns when the client has all that was put in, or is cut off.
    pub async fn drained(&self) {
        while !self.is_drained() {
            self.drained.notified().await;
        }
        // Whoever else waits: one of them is woken at a time.
        self.drained.notify_one();
    }

    fn is_drained(&self) -> bool {
        let waiting = self.waiting();
        waiting.is_closed || self.has_none(&waiting)
    }

    /// Cuts the client off: nothing more goes out, and nothing more comes in.
    pub fn close(&self) {
        self.close_within(&mut self.waiting());
    }

    /// Nothing more is put in; the client is cut off when it has all that waits.
    pub fn end(&self) {
        let mut waiting = self.waiting();
        waiting.is_ending = true;
        if self.has_none(&waiting) {
            self.close_within(&mut waiting);
        }
    }

    /// Whether somebody may still read at the other end.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        let mut fds = [PollFd::new(&*self.socket, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let polled = poll(&mut fds, Some(&at_once));
        let gone = PollFlags::HUP | PollFlags::ERR;
        !self.is_closed() && polled.is_ok() && !fds[0].revents().intersects(gone)
    }

    /// Whether the client is cut off.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.waiting().is_closed
    }

    fn close_within(&self, waiting: &mut Waiting) {
        waiting.is_closed = true;
        waiting.lines = VecDeque::new();
        waiting.size = 0;
        self.drained.notify_one();
        if self.kept.as_ref().is_some_and(KeptClient::is_left_open) {
            return;
        }
        // It fails only where the other end has done it already.
        let _ = shutdown(&*self.socket, Shutdown::Both);
    }

    /// Writes what the kernel takes; whether that was all.
    fn write_some(&self, waiting: &mut Waiting) -> io::Result<bool> {
        if let Some(kept) = &self.kept {
            return self.send_some(kept);
        }
        while let Some(line) = waiting.lines.front() {
            match send(self.socket.as_fd(), &line[waiting.written..], &[]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(size) => {
                    waiting.written += size;
                    if waiting.written == line.len() {
                        waiting.size -= line.len();
                        waiting.written = 0;
                        waiting.lines.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        waiting.lines.shrink_to(16);
        Ok(true)
    }

    fn send_some(&self, kept: &KeptClient) -> io::Result<bool> {
        while kept.unsent() > 0 {
            match kept.send(self.socket.as_fd()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Drop for Outlet {
    /// The service manager may still have a connection that is kept open.
    fn drop(&mut self) {
        if self.kept.as_ref().is_some_and(|kept| !kept.is_left_open()) {
            // It fails only where the other end has done it already.
            let _ = shutdown(&*self.socket, Shutdown::Both);
        }
    }
}

/// Brings out what waits, as the client reads; ends when that is all of it.
async fn flush(outlet: Weak<Outlet>, socket: Arc<Socket>) {
    loop {
        let is_ready = matches!(timeout(STALL_MAX, socket.writable()).await, Ok(Ok(())));
        let Some(outlet) = outlet.upgrade() else {
            return;
        };
        let mut waiting = outlet.waiting();
        if waiting.is_closed {
            return;
        }
        match is_ready.then(|| outlet.write_some(&mut waiting)) {
            Some(Ok(false)) => {}
            Some(Ok(true)) => {
                waiting.is_flushing = false;
                outlet.drained.notify_one();
                if waiting.is_ending {
                    outlet.close_within(&mut waiting);
                }
                return;
            }
            Some(Err(_)) | None => return outlet.close_within(&mut waiting),
        }
    }
}

/// Everyone who hears a QEMU's events.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Arc<Mutex<Audience>>);

#[derive(Debug, Default)]
struct Audience {
    list: Vec<Weak<Outlet>>,
    /// The number of the last event.
    told: u64,
}

impl Listeners {
    fn audience(&self) -> MutexGuard<'_, Audience> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this client hears every event; `first` goes out before any, with which its state changes so.
    pub fn add(&self, outlet: &Arc<Outlet>, first: Arc<[u8]>, change: &dyn Fn(&mut ClientState)) {
        let mut audience = self.audience();
        let told = audience.told;
        let change = |state: &mut ClientState| {
            state.heard = told;
            change(state);
        };
        outlet.put_and(first, Some(&change));
        audience.list.push(Arc::downgrade(outlet));
    }

    /// The same for a client that heard them in an earlier life of this process, up to the one of this number.
    pub fn join(&self, outlet: &Arc<Outlet>, heard: u64) {
        let mut audience = self.audience();
        audience.told = audience.told.max(heard);
        audience.list.push(Arc::downgrade(outlet));
    }

    /// The number of the last event.
    pub(super) fn told(&self) -> u64 {
        self.audience().told
    }

    /// Goes on behind the event of this number, on a connection of an earlier life.
    pub(super) fn go_on(&self, told: u64) {
        self.audience().told = told;
    }

    /// Tells everyone, in the order of the calls.
    pub(super) fn tell(&self, object: &[u8]) {
        let mut audience = self.audience();
        audience.told += 1;
        let number = audience.told;
        if audience.list.is_empty() {
            return;
        }
        let line: Arc<[u8]> = [object, b"\r\n"].concat().into();
        audience.list.retain(|listener| match listener.upgrade() {
            Some(outlet) if !outlet.is_closed() => {
                outlet.put_event(line.clone(), number);
                true
            }
            Some(_) | None => false,
        });
    }
}
