//! Reading from and writing to a Unix socket together with file descriptors (`SCM_RIGHTS`).
//!
//! Invariant: every descriptor that comes in is owned from the first moment and close-on-exec; it is known at which
//! byte of the stream it came.
//! Not here: which command that byte belongs to (`sidecar::proxy`), which commands take any (`classify`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::socket::Socket;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors in one message at the most (the kernel's `SCM_MAX_FD`).
const MESSAGE_FDS_MAX: usize = 253;

/// What was read at once.
#[derive(Debug, Default)]
pub struct Received {
    /// None at the end of the stream.
    pub bytes: Vec<u8>,
    /// Descriptors that came with one of these bytes.
    pub fds: Vec<OwnedFd>,
    /// With which.
    pub fds_at: usize,
}

/// Reads what is there, up to that many bytes. While nothing is there it needs no memory.
///
/// The kernel glues messages together up to the end of the first one that has descriptors, and does not say where that one
/// began; a look ahead says only that there are some. So then it is read byte by byte up to the one they come with.
///
/// `begin` is called right before anything is taken from the stream, with the bytes that will be, and whether some come with
/// descriptors: then it may be fewer.
///
/// # Errors
/// As the system says; descriptors that did not fit are an error too.
pub async fn receive(
    socket: &Socket,
    size_max: usize,
    begin: impl Fn(&[u8], bool),
) -> io::Result<Received> {
    socket
        .read_with(|socket| receive_now(socket, size_max, &begin))
        .await
}

fn receive_now(
    stream: BorrowedFd<'_>,
    size_max: usize,
    begin: &impl Fn(&[u8], bool),
) -> io::Result<Received> {
    let seen = message(stream, size_max, RecvFlags::PEEK)?;
    let size = seen.bytes.len();
    let has_fds = !seen.fds.is_empty();
    begin(&seen.bytes, has_fds);
    drop(seen);
    if !has_fds {
        return message(stream, size, RecvFlags::empty());
    }
    let mut all = Received::default();
    while all.fds.is_empty() && all.bytes.len() < size {
        let next = message(stream, 1, RecvFlags::empty())?;
        if next.bytes.is_empty() {
            break;
        }
        all.fds_at = all.bytes.len();
        all.bytes.extend(next.bytes);
        all.fds = next.fds;
    }
    Ok(all)
}

fn message(stream: BorrowedFd<'_>, size_max: usize, flags: RecvFlags) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut bytes = vec![0; size_max];
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        flags,
    )?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        let why = "file descriptors were lost: there is no room for more";
        return Err(io::Error::other(why));
    }
    bytes.truncate(received.bytes);
    Ok(Received {
        bytes,
        fds,
        fds_at: 0,
    })
}

/// Writes what the kernel takes of the bytes, with the descriptors at the first of them. It does not wait.
///
/// # Errors
/// As the system says; `WouldBlock` when it takes none.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<usize> {
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other(
            "too many file descriptors for one message",
        ));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        flags,
    )?)
}
