//! Tells the service manager that the sidecar is ready (the datagram of sd_notify(3)).
//!
//! Invariant: without a service manager, or one that cannot be reached, nothing changes.
//! Not here: when that is (`startup`).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Environment variable that names the service manager's socket.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Sends `state`, such as `READY=1`, to the service manager, if there is one.
///
/// # Errors
/// There is one, and it could not be told.
pub(crate) fn notify(state: &str) -> io::Result<()> {
    match std::env::var(SOCKET_VARIABLE) {
        Ok(socket) => send(&socket, state),
        Err(_) => Ok(()),
    }
}

/// A name that begins with `@` is in the abstract namespace, anything else is a path.
fn send(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_path_and_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        send(path.to_str().unwrap(), "READY=1").unwrap();
        let mut buffer = [0; 64];
        let length = by_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");

        let name = format!("phase-journal-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        send(&format!("@{name}"), "STOPPING=1").unwrap();
        let length = by_name.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1");
    }

    #[test]
    fn nobody_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nobody");
        assert!(send(path.to_str().unwrap(), "READY=1").is_err());
    }
}
