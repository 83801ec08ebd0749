//! A connected Unix socket that wakes nobody for what nobody waits for.
//!
//! Invariant: it asks the kernel to be told of what comes in only. That there is room to write again it asks for when the kernel did not take
//! all, and until it is told: else each time the other end reads, it wakes this process for nothing, which costs both as
//! much as the message itself.
//! Not here: what is read and written (`streams`, `outlet`), descriptors on the way (`passfd`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::sleep;

/// Between two looks at a socket that cannot be waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// The socket. To be made, and waited for, within the runtime.
#[derive(Debug)]
pub struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    /// Of a connection.
    ///
    /// # Errors
    /// As the system says.
    pub fn new(stream: UnixStream) -> io::Result<Socket> {
        register(stream.into_std()?.into(), Interest::READABLE).map(Socket)
    }

    /// Reads with `read` as soon as there is something, or the end. Cancel-safe: nothing is waited for behind a `read` that succeeds.
    ///
    /// # Errors
    /// Those of `read`, but for the one that says that nothing is there.
    pub async fn read_with<R>(
        &self,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        self.0
            .async_io(Interest::READABLE, |socket| read(socket.as_fd()))
            .await
    }

    /// Returns when the kernel takes more, or the other end is gone.
    ///
    /// # Errors
    /// As the system says.
    pub async fn writable(&self) -> io::Result<()> {
        // One descriptor cannot be waited for in two ways; its copy can.
        let copy = self.0.get_ref().try_clone();
        match copy.and_then(|copy| register(copy, Interest::WRITABLE)) {
            Ok(copy) => drop(copy.writable().await?),
            // There is no descriptor left to wait with, which is not this connection's fault.
            Err(_) => self.writable_by_looking().await,
        }
        Ok(())
    }

    async fn writable_by_looking(&self) {
        while !self.takes_more() {
            sleep(LOOK_PAUSE).await;
        }
    }

    fn takes_more(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::OUT)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // What cannot be looked at is tried: its write says why.
        poll(&mut fds, Some(&at_once)).is_err() || !fds[0].revents().is_empty()
    }
}

#[allow(
    deprecated,
    reason = "its successor is unsafe for types whose descriptor may change; OwnedFd's cannot"
)]
fn register(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, interest)
}

/// A connection that was opened by an earlier life of this process.
///
/// # Errors
/// As the system says.
pub fn inherited(socket: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdUnixStream::from(socket);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
