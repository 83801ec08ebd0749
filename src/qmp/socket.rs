//! A connected Unix socket that wakes nobody for what nobody waits for.
//!
//! Invariant: it asks the kernel to be told of what comes in only. That there is room to write again it asks for when the kernel did not take
//! all, and until it is told: else each time the other end reads, it wakes this process for nothing, which costs both as
//! much as the message itself.
//! Not here: what is read and written (`streams`, `outlet`), descriptors on the way (`passfd`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

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
    /// As the system says: there may be no file descriptor left to wait with.
    pub async fn writable(&self) -> io::Result<()> {
        // One descriptor cannot be waited for in two ways; its copy can.
        let copy = self.0.get_ref().try_clone()?;
        let copy = register(copy, Interest::WRITABLE)?;
        let _guard = copy.writable().await?;
        Ok(())
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
