//! Reading from and writing to a Unix socket together with file descriptors (`SCM_RIGHTS`).
//!
//! Invariant: every descriptor that comes in is owned from the first moment and close-on-exec; it is known at which
//! byte of the stream it came.
//! Not here: which command that byte belongs to (`sidecar::proxy`), which commands take any (`classify`).

use std::cell::RefCell;
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
    socket: BorrowedFd<'_>,
    size_max: usize,
    begin: &impl Fn(&[u8], bool),
) -> io::Result<Received> {
    // Each thread has one, so that those who wait need none.
    ROOM.with_borrow_mut(|room| {
        room.resize(room.len().max(size_max), 0);
        receive_into(socket, &mut room[..size_max], begin)
    })
}

thread_local! {
    /// Room for what is read at once.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn receive_into(
    socket: BorrowedFd<'_>,
    room: &mut [u8],
    begin: &impl Fn(&[u8], bool),
) -> io::Result<Received> {
    let (size, seen) = message(socket, room, RecvFlags::PEEK)?;
    let has_fds = !seen.is_empty();
    drop(seen);
    begin(&room[..size], has_fds);
    let mut all = Received::default();
    if !has_fds {
        let (size, fds) = message(socket, &mut room[..size], RecvFlags::empty())?;
        (all.bytes, all.fds) = (room[..size].to_vec(), fds);
        return Ok(all);
    }
    while all.fds.is_empty() && all.bytes.len() < size {
        let (read, fds) = message(socket, &mut room[..1], RecvFlags::empty())?;
        if read == 0 {
            break;
        }
        all.fds_at = all.bytes.len();
        all.bytes.push(room[0]);
        all.fds = fds;
    }
    Ok(all)
}

fn message(
    socket: BorrowedFd<'_>,
    room: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut ancillary, flags)?;
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
    Ok((received.bytes, fds))
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
