//! A client's objects out of its stream, each with the file descriptors that came with it.
//!
//! Invariant: a descriptor belongs to the object that has, or is the first behind, the byte it came with; one that
//! belongs to none is closed. Sizes and counts are bounded.
//! Not here: what an object means (`qmp::Passed`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::keep::Rest;
use crate::qmp::{FDS_MAX, Outlet, Socket, SplitError, Splitter, receive};

/// Largest command of a client, in bytes.
pub(super) const COMMAND_SIZE_MAX: usize = 1024 * 1024;

/// Bytes read at once.
const READ_SIZE: usize = 16 * 1024;

/// A client's stream as it is read.
#[derive(Debug)]
pub(super) struct Incoming {
    socket: Arc<Socket>,
    /// The way out of the same stream, where it is kept how the client stands.
    outlet: Arc<Outlet>,
    splitter: Splitter,
    /// Bytes that were read in all.
    read: u64,
    /// Descriptors with the place in the stream at which they came.
    fds: VecDeque<(u64, OwnedFd)>,
}

/// What was read.
#[derive(Debug)]
pub(super) enum Read {
    /// An object.
    Object(Vec<u8>, Vec<OwnedFd>),
    /// Something else, behind which the stream goes on.
    Garbage(SplitError),
    /// It cannot go on.
    Broken(SplitError),
    /// It ended.
    Ended,
}

impl Incoming {
    /// `input` was read by an earlier life.
    pub(super) fn new(socket: Arc<Socket>, outlet: Arc<Outlet>, input: &[u8]) -> Incoming {
        let mut splitter = Splitter::new(COMMAND_SIZE_MAX);
        splitter.push(input);
        Incoming {
            socket,
            outlet,
            splitter,
            read: input.len() as u64,
            fds: VecDeque::new(),
        }
    }

    /// The next object. Cancel-safe: what was read stays here.
    pub(super) async fn next(&mut self) -> Read {
        loop {
            match self.splitter.next_object() {
                Some(Ok(object)) => {
                    let fds = self.fds_up_to_here();
                    return Read::Object(object, fds);
                }
                Some(Err(error)) if error.is_recoverable() => {
                    drop(self.fds_up_to_here());
                    return Read::Garbage(error);
                }
                Some(Err(error)) => return Read::Broken(error),
                None => match self.read_more().await {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return Read::Ended,
                },
            }
        }
    }

    /// What was read and not given out.
    pub(super) fn rest(&self) -> Rest<'_> {
        Rest {
            bytes: self.splitter.rest(),
            has_fds: !self.fds.is_empty(),
        }
    }

    /// Reads once; whether there was anything. From taking it to writing down that it was taken nothing is waited for.
    async fn read_more(&mut self) -> io::Result<bool> {
        let outlet = self.outlet.clone();
        let begin = |bytes: &[u8], has_fds: bool| {
            if let Some(kept) = outlet.kept() {
                kept.begin_read(bytes, has_fds);
            }
        };
        let received = receive(&self.socket, READ_SIZE, begin).await?;
        let at = self.read + received.fds_at as u64;
        self.fds.extend(received.fds.into_iter().map(|fd| (at, fd)));
        if self.fds.len() > FDS_MAX {
            return Err(io::Error::other("too many file descriptors"));
        }
        self.read += received.bytes.len() as u64;
        self.splitter.push(&received.bytes);
        if let Some(kept) = outlet.kept() {
            kept.end_read(self.rest());
        }
        Ok(!received.bytes.is_empty())
    }

    /// The descriptors of all that was given out by now and has not got them yet.
    fn fds_up_to_here(&mut self) -> Vec<OwnedFd> {
        let given_out = self.read - self.splitter.buffered() as u64;
        let mut fds = Vec::new();
        while self.fds.front().is_some_and(|(at, _)| *at < given_out) {
            fds.extend(self.fds.pop_front().map(|(_, fd)| fd));
        }
        fds
    }
}
