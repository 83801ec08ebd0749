//! The two ways of a connection to a QMP server: a task reads, whoever sends writes.
//!
//! Invariant: a command is registered before its first byte leaves, and commands leave in the order they were sent; what was read is
//! dealt with before more is read. Of a connection that outlives the process it is written down before each step that one is under way.
//! Not here: who asks (`client`), who waits (`passing`, `outlet`).

use core::fmt;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::sync::mpsc;

use super::client::{Event, IN_FLIGHT_MAX, QmpError};
use super::codec::{Message, Splitter};
use super::outlet::Listeners;
use super::passed::{Kind, kind};
use super::passfd::send;
use super::passing::Waiter;
use super::socket::Socket;
use crate::keep::KeptQemu;

/// What the kernel puts into one buffer, and so takes whole, is more than this (`unix_stream_sendmsg`: up to 32 KiB).
const WHOLE_SIZE_MAX: usize = 16 * 1024;

/// Bytes read at once.
pub(super) const READ_SIZE: usize = 16 * 1024;

/// A command on its way.
pub(super) struct Outgoing {
    pub(super) id: u64,
    pub(super) line: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) waiter: Waiter,
}

/// Who waits, by id; and why there will be no more.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) waiting: HashMap<u64, Waiter>,
    /// Those of an earlier life that QEMU may have got, and the id of what was sent behind them all.
    pub(super) adopted: Vec<u64>,
    pub(super) fence: Option<u64>,
    pub(super) closed: Option<String>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Pending({} waiting, closed {:?})",
            self.waiting.len(),
            self.closed
        )
    }
}

/// A panic while the lock is held cannot leave the map half changed.
pub(super) fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next object; what is none is passed over.
pub(super) async fn read_object(
    socket: &Socket,
    splitter: &mut Splitter,
) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; READ_SIZE];
    loop {
        match splitter.next_object() {
            Some(Ok(object)) => return Ok(Some(object)),
            Some(Err(error)) if error.is_recoverable() => {}
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => match socket.read_with(|socket| read(socket, &mut bytes)).await? {
                0 => return Ok(None),
                size => splitter.push(&bytes[..size]),
            },
        }
    }
}

fn read(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    let (_, size) = recv(socket, room, RecvFlags::DONTWAIT)?;
    Ok(size)
}

/// The task that reads: answers to who waits for them, events to the queue and to the listeners.
pub(super) struct Reader {
    pub(super) socket: Arc<Socket>,
    pub(super) splitter: Splitter,
    /// Room for what is read at once.
    pub(super) room: Vec<u8>,
    pub(super) pending: Arc<Mutex<Pending>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) listeners: Listeners,
    pub(super) overflown: Arc<AtomicBool>,
    /// What ids on the wire are counted from.
    pub(super) ids_from: u64,
    pub(super) kept: Option<Arc<KeptQemu>>,
}

impl Reader {
    pub(super) async fn run(mut self) {
        let why = loop {
            match self.read().await {
                Ok(true) => {}
                Ok(false) => break "the connection was closed".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        let mut pending = lock(&self.pending);
        for (_, waiter) in pending.waiting.drain() {
            waiter.fail(QmpError::Lost { why: why.clone() });
        }
        pending.closed = Some(why);
    }

    /// Deals with all whole objects that were read, and reads once; whether the stream goes on. A process that dies in between
    /// leaves to the next life to deal with all of it again: an answer finds nobody any more, and events have numbers.
    async fn read(&mut self) -> io::Result<bool> {
        loop {
            match self.splitter.next_object() {
                Some(Ok(object)) => self.take(&object),
                Some(Err(error)) if error.is_recoverable() => {}
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => break,
            }
        }
        if let Some(kept) = &self.kept {
            kept.dealt(self.splitter.rest(), self.listeners.told());
        }
        // From where it returns to the next wait all is done at once, also where the process is told to end.
        let (room, kept) = (&mut self.room, &self.kept);
        let size = self.socket.read_with(|socket| match kept {
            None => read(socket, room),
            Some(kept) => {
                let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                let (_, size) = recv(socket, room.as_mut_slice(), flags)?;
                kept.begin_read(&room[..size]);
                read(socket, &mut room[..size])
            }
        });
        let size = size.await?;
        self.splitter.push(&self.room[..size]);
        if let Some(kept) = &self.kept {
            kept.end_read();
        }
        Ok(size > 0)
    }

    fn take(&mut self, object: &[u8]) {
        match kind(object) {
            Kind::Answer { id, .. } => {
                // One that none of ours can be is nobody's.
                let ours = |wire: u64| wire.checked_add(self.ids_from).unwrap_or(0);
                self.answer(object, id.map(ours));
            }
            Kind::Event => self.tell(object),
            Kind::Other => {}
        }
    }

    fn tell(&mut self, object: &[u8]) {
        self.listeners.tell(object);
        let Some(Message::Event { name, data }) = Message::parse(object) else {
            return;
        };
        let event = Event::Happened { name, data };
        if self.events.try_send(event).is_err() {
            self.overflown.store(true, Ordering::Relaxed);
        }
    }

    fn answer(&mut self, object: &[u8], id: Option<u64>) {
        let (waiter, never_got) = {
            let mut pending = lock(&self.pending);
            let mut never_got = Vec::new();
            if id.is_some() && id == pending.fence {
                pending.fence = None;
                let adopted = core::mem::take(&mut pending.adopted);
                never_got.extend(adopted.iter().filter_map(|id| pending.waiting.remove(id)));
            }
            let waiter = match id {
                Some(id) => pending.waiting.remove(&id),
                // Some errors come without an id: the command was not understood. Commands are
                // answered in order, so with exactly one waiting it is that one's.
                None if pending.waiting.len() == 1 => {
                    let only = pending.waiting.keys().next().copied();
                    only.and_then(|id| pending.waiting.remove(&id))
                }
                None => None,
            };
            (waiter, never_got)
        };
        for waiter in never_got {
            let why = "the sidecar was restarted before QEMU got it".to_owned();
            waiter.fail(QmpError::NotSent { why });
        }
        if let Some(waiter) = waiter {
            waiter.answer(object);
        }
    }
}

/// The way out. What the kernel takes at once goes at once, on the thread of who sends it; the rest a task brings out.
pub(super) struct Writer {
    socket: Arc<Socket>,
    pending: Arc<Mutex<Pending>>,
    kept: Option<Arc<KeptQemu>>,
    queue: Mutex<Queue>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

/// What the kernel has not taken yet.
#[derive(Default)]
struct Queue {
    under_way: Option<UnderWay>,
    /// Not begun.
    waiting: VecDeque<Outgoing>,
    /// A task brings it out.
    is_flushing: bool,
}

/// A command of which the kernel may have taken a part.
struct UnderWay {
    id: u64,
    line: Vec<u8>,
    written: usize,
    fds: Vec<OwnedFd>,
}

impl Writer {
    pub(super) fn new(
        socket: Arc<Socket>,
        pending: Arc<Mutex<Pending>>,
        kept: Option<Arc<KeptQemu>>,
    ) -> Arc<Writer> {
        Arc::new(Writer {
            socket,
            pending,
            kept,
            queue: Mutex::default(),
        })
    }

    /// Sends a command behind all that were sent before. It never waits, and who waits for the answer is told in any case.
    pub(super) fn send(self: &Arc<Writer>, outgoing: Outgoing) {
        // Nothing panics while it is held.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.waiting.len() >= IN_FLIGHT_MAX {
            let why = format!("{IN_FLIGHT_MAX} commands wait already");
            return outgoing.waiter.fail(QmpError::NotSent { why });
        }
        queue.waiting.push_back(outgoing);
        if !queue.is_flushing && !self.write_some(&mut queue) {
            queue.is_flushing = true;
            tokio::spawn(flush(Arc::downgrade(self), self.socket.clone()));
        }
    }

    /// Writes what the kernel takes; whether that was all.
    fn write_some(&self, queue: &mut Queue) -> bool {
        loop {
            let Some(under_way) = &mut queue.under_way else {
                let Some(next) = queue.waiting.pop_front() else {
                    return true;
                };
                queue.under_way = self.begin(next);
                continue;
            };
            let rest = &under_way.line[under_way.written..];
            match send(self.socket.as_fd(), rest, &under_way.fds) {
                Ok(size) if size > 0 => {
                    under_way.written += size;
                    under_way.fds.clear();
                    if under_way.written == under_way.line.len() {
                        self.end(queue.under_way.take(), None);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => {
                    let error = io::ErrorKind::WriteZero.into();
                    self.end(queue.under_way.take(), Some(error));
                }
                Err(error) => self.end(queue.under_way.take(), Some(error)),
            }
        }
    }

    /// Registers who waits for it; nothing if it is not to be sent, which that one is told.
    fn begin(&self, outgoing: Outgoing) -> Option<UnderWay> {
        let Outgoing {
            id,
            line,
            fds,
            waiter,
        } = outgoing;
        let refused = {
            let mut pending = lock(&self.pending);
            match pending.closed.clone() {
                Some(why) => Some((waiter, why)),
                None if pending.waiting.len() >= IN_FLIGHT_MAX => Some((
                    waiter,
                    format!("{IN_FLIGHT_MAX} commands have no answer yet"),
                )),
                None => {
                    pending.waiting.insert(id, waiter);
                    None
                }
            }
        };
        if let Some((waiter, why)) = refused {
            waiter.fail(QmpError::NotSent { why });
            return None;
        }
        if let Some(kept) = self.kept_for(&line) {
            kept.begin_write();
        }
        Some(UnderWay {
            id,
            line,
            written: 0,
            fds,
        })
    }

    /// The kernel takes a short one whole or not at all, and what QEMU got the next life finds out.
    fn kept_for(&self, line: &[u8]) -> Option<&KeptQemu> {
        self.kept.as_deref().filter(|_| line.len() > WHOLE_SIZE_MAX)
    }

    /// It is written, or cannot be, which who waits for the answer is told.
    fn end(&self, under_way: Option<UnderWay>, error: Option<io::Error>) {
        let Some(UnderWay {
            id, line, written, ..
        }) = under_way
        else {
            return;
        };
        let is_half = error.is_some() && written > 0;
        if is_half {
            // Behind half a command nothing can be said. It fails only where the other end has done it already.
            let _ = shutdown(&*self.socket, Shutdown::Both);
        } else if let Some(kept) = self.kept_for(&line) {
            kept.end_write();
        }
        let Some(error) = error else {
            return;
        };
        let waiter = lock(&self.pending).waiting.remove(&id);
        let why = error.to_string();
        let error = match is_half {
            false => QmpError::NotSent { why },
            true => QmpError::Lost { why },
        };
        if let Some(waiter) = waiter {
            waiter.fail(error);
        }
    }
}

/// Brings out what the kernel did not take, as QEMU reads; ends when that is all of it.
async fn flush(writer: Weak<Writer>, socket: Arc<Socket>) {
    loop {
        let waited = socket.writable().await;
        let Some(writer) = writer.upgrade() else {
            return;
        };
        let mut queue = writer.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = waited {
            // Nobody says when to go on: all of it is told so.
            writer.end(queue.under_way.take(), Some(error));
        }
        if writer.write_some(&mut queue) {
            queue.is_flushing = false;
            return;
        }
    }
}
