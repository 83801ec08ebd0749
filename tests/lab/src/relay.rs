//! A migration stream's way through a third party that keeps the news to itself when one end is gone: a
//! network that loses packets, as far as the destination's QEMU can tell.
//!
//! Invariant: bytes pass unchanged; the destination's connection stays open until the relay is dropped.
//! Not here: when the stream breaks.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

/// Takes the place of a socket that somebody listens on.
#[derive(Debug)]
pub struct Relay {
    destination: UnixStream,
}

impl Relay {
    /// Renames the socket away and listens in its place, for one connection.
    ///
    /// # Errors
    /// Those of the file system, and of connecting to whoever listens there.
    pub fn take_over(path: &Path) -> io::Result<Relay> {
        let real = path.with_extension("real");
        fs::rename(path, &real)?;
        let listener = UnixListener::bind(path)?;
        let destination = UnixStream::connect(&real)?;
        let (to, from) = (destination.try_clone()?, destination.try_clone()?);
        thread::spawn(move || {
            let Ok((source, _)) = listener.accept() else {
                return;
            };
            let Ok(back) = source.try_clone() else { return };
            thread::spawn(move || pump(from, back));
            pump(source, to);
        });
        Ok(Relay { destination })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The pumps end with it; nobody is left to tell if it fails.
        let _ = self.destination.shutdown(Shutdown::Both);
    }
}

/// Passes on what comes, and nothing of its end; what the other side does not take any more is dropped.
fn pump(mut from: UnixStream, mut to: UnixStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let _ = to.write_all(&buffer[..count]);
    }
}
