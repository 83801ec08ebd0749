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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::outlet::Outlet;
    use crate::qmp::passfd::send;
    use std::sync::Arc;
    use tokio::io::AsyncReadExt as _;
    use tokio::time::timeout;

    const WAIT: Duration = Duration::from_secs(20);

    /// Where no descriptor is left to wait with, it is looked at until the other end has read, or is gone.
    #[tokio::test]
    async fn what_cannot_be_waited_for_is_looked_at() {
        for is_read in [true, false] {
            let (one, mut other) = UnixStream::pair().unwrap();
            let socket = Socket::new(one).unwrap();
            while send(socket.as_fd(), &[0; 4096], &[]).is_ok() {}
            assert!(!socket.takes_more());
            let reads = async {
                while is_read && !socket.takes_more() {
                    other.read_exact(&mut [0; 4096]).await.unwrap();
                }
                drop(other);
            };
            let both = async { tokio::join!(socket.writable_by_looking(), reads) };
            timeout(WAIT, both).await.unwrap();
        }
    }

    /// Several wait until a client has read all: each of them goes on.
    #[tokio::test]
    async fn everybody_who_waits_for_a_client_goes_on() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let outlet = Outlet::new(Arc::new(Socket::new(one).unwrap()));
        outlet.put(vec![b'x'; 512 * 1024].into());
        let reads = async {
            let mut room = vec![0; 512 * 1024];
            // Only when all wait.
            tokio::task::yield_now().await;
            other.read_exact(&mut room).await.unwrap();
        };
        let all =
            async { tokio::join!(outlet.drained(), outlet.drained(), outlet.drained(), reads) };
        timeout(WAIT, all).await.unwrap();
    }
}
