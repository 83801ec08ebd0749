//! The two tasks of a connection to a QMP server: one reads, one writes.
//!
//! Invariant: a command is registered before its first byte leaves; what was read is dealt with before more is read. Of a
//! connection that outlives the process it is written down before each step that one is under way.
//! Not here: who asks (`client`), who waits (`passing`, `outlet`).

use core::fmt;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::client::{Event, IN_FLIGHT_MAX, QmpError};
use super::codec::{Message, Splitter};
use super::outlet::Listeners;
use super::passed::{Kind, kind};
use super::passfd::send;
use super::passing::Waiter;
use crate::keep::KeptQemu;

/// What the kernel puts into one buffer, and so takes whole, is more than this (`unix_stream_sendmsg`: up to 32 KiB).
const WHOLE_SIZE_MAX: usize = 16 * 1024;

/// Bytes read at once.
pub(super) const READ_SIZE: usize = 16 * 1024;

/// A command on its way to the writing task.
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
    stream: &UnixStream,
    splitter: &mut Splitter,
) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; READ_SIZE];
    loop {
        match splitter.next_object() {
            Some(Ok(object)) => return Ok(Some(object)),
            Some(Err(error)) if error.is_recoverable() => {}
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => {
                stream.readable().await?;
                match stream.try_read(&mut bytes) {
                    Ok(0) => return Ok(None),
                    Ok(size) => splitter.push(&bytes[..size]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// The task that reads: answers to who waits for them, events to the queue and to the listeners.
pub(super) struct Reader {
    pub(super) stream: Arc<UnixStream>,
    pub(super) splitter: Splitter,
    /// Room for what is read at once.
    pub(super) room: Vec<u8>,
    pub(super) pending: Arc<Mutex<Pending>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) listeners: Listeners,
    pub(super) overflown: Arc<AtomicBool>,
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
        loop {
            self.stream.readable().await?;
            // From here to the next wait all is done at once, also where the process is told to end.
            let room = &mut self.room;
            let read = match &self.kept {
                None => self.stream.try_read(room),
                Some(kept) => self.stream.try_io(Interest::READABLE, || {
                    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                    let (_, size) = recv(&*self.stream, room.as_mut_slice(), flags)?;
                    kept.begin_read(&room[..size]);
                    let (_, size) = recv(&*self.stream, &mut room[..size], RecvFlags::DONTWAIT)?;
                    Ok(size)
                }),
            };
            match read {
                Ok(size) => {
                    self.splitter.push(&self.room[..size]);
                    if let Some(kept) = &self.kept {
                        kept.end_read();
                    }
                    return Ok(size > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, object: &[u8]) {
        match kind(object) {
            Kind::Answer { id, .. } => self.answer(object, id),
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

/// The task that writes. A command is registered before its first byte leaves.
pub(super) struct Writer {
    pub(super) stream: Arc<UnixStream>,
    pub(super) pending: Arc<Mutex<Pending>>,
    pub(super) kept: Option<Arc<KeptQemu>>,
}

impl Writer {
    pub(super) async fn run(self, mut outgoing: mpsc::Receiver<Outgoing>) {
        while let Some(outgoing) = outgoing.recv().await {
            self.write(outgoing).await;
        }
    }

    async fn write(&self, outgoing: Outgoing) {
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
            return waiter.fail(QmpError::NotSent { why });
        }
        // The kernel takes a short one whole or not at all, and what QEMU got the next life finds out.
        let kept = self.kept.as_ref().filter(|_| line.len() > WHOLE_SIZE_MAX);
        if let Some(kept) = kept {
            kept.begin_write();
        }
        let result = write_all(&self.stream, &line, fds).await;
        // After half a command nobody can go on with the connection.
        if let (Some(kept), Ok(()) | Err((0, _))) = (kept, &result) {
            kept.end_write();
        }
        let Err((written, error)) = result else {
            return;
        };
        let waiter = lock(&self.pending).waiting.remove(&id);
        let why = error.to_string();
        let error = if written == 0 {
            QmpError::NotSent { why }
        } else {
            QmpError::Lost { why }
        };
        if let Some(waiter) = waiter {
            waiter.fail(error);
        }
    }
}

/// Like `AsyncWriteExt::write_all`, with descriptors at the first byte; and says how much was written before an error.
async fn write_all(
    stream: &UnixStream,
    bytes: &[u8],
    mut fds: Vec<OwnedFd>,
) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match send(stream, &bytes[written..], &fds).await {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(size) => {
                written += size;
                fds.clear();
            }
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}
