//! Memory files: what is read back, and what is not believed.

use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};

use journal_format::number::{BootId, DomainId, Id128};
use journal_format::record::Instance;

use super::*;

/// A service manager that takes everything, and says what it was given.
struct Keeper {
    socket: UnixDatagram,
    manager: Manager,
    _directory: tempfile::TempDir,
}

impl Keeper {
    fn new() -> Keeper {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        Keeper {
            socket: UnixDatagram::bind(&path).unwrap(),
            manager: Manager::at_path(&path),
            _directory: directory,
        }
    }

    fn said(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

fn owner() -> Owner {
    Owner {
        domain: DomainId(Id128([1; 16])),
        instance: Instance {
            boot: BootId(Id128([2; 16])),
            pid: 17,
            start_time: u64::MAX,
        },
    }
}

fn rest(bytes: &[u8]) -> Rest<'_> {
    Rest {
        bytes,
        has_fds: false,
    }
}

fn client(keeper: &Keeper) -> (KeptClient, OwnedFd) {
    let (socket, _) = UnixStream::pair().unwrap();
    let client = KeptClient::keep(&keeper.manager, owner(), socket.as_fd()).unwrap();
    let said = keeper.said();
    assert!(
        said.starts_with("FDSTORE=1\nFDNAME=phase-journal-client-"),
        "{said}"
    );
    let file = client.file();
    (client, file)
}

/// What the next life reads.
fn next_life(keeper: &Keeper, file: &OwnedFd) -> Result<ClientState, String> {
    let ticket = Ticket::for_test(&keeper.manager);
    let (socket, _other) = UnixStream::pair().unwrap();
    let file = file.try_clone().unwrap();
    KeptClient::resume(&keeper.manager, socket.as_fd(), file, ticket).map(|(_, state)| state)
}

#[test]
fn a_client_is_read_back_as_it_stood() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    client.begin_write(Some(&|state| state.greeted = true));
    client.end_write(core::iter::empty(), 0);
    client.begin_write(Some(&|state| state.negotiated = Some(true)));
    client.end_write([&b"first"[..], b"second"].into_iter(), 2);
    client.begin_read(b"more", false);
    client.end_read(rest(b"{\"execute\":\"a\"}{\"execute\":\"b\"}{"));
    let a = client.take(
        Stage::Waiting,
        b"a".to_vec(),
        false,
        rest(b"{\"execute\":\"b\"}{"),
    );
    let b = client.take(Stage::Waiting, b"b".to_vec(), true, rest(b"{"));
    client.take(Stage::Answered, b"c".to_vec(), false, rest(b"{"));
    client.advance(b, Stage::AtEngine);
    client.advance(b, Stage::Sent { id: u64::MAX });
    client.begin_write(Some(&move |state| state.answered(a)));
    client.end_write(core::iter::once(&b"x"[..]), 0);

    let state = next_life(&keeper, &file).unwrap();
    assert_eq!(state.owner, owner());
    assert!(state.greeted && state.negotiated == Some(true));
    assert_eq!(
        (state.input.as_slice(), state.output.as_slice()),
        (&b"{"[..], &b"x"[..])
    );
    let commands: Vec<_> = state
        .commands
        .iter()
        .map(|one| (one.stage, one.bytes.as_slice(), one.has_fds))
        .collect();
    assert_eq!(
        commands,
        [
            (Stage::Sent { id: u64::MAX }, &b"b"[..], true),
            (Stage::Answered, &b"c"[..], false),
        ]
    );
}

/// Between the begin and the end of a step nothing is believed: what was done of it is not known.
#[test]
fn a_step_under_way_is_not_believed() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    let in_a_step = |state: Result<ClientState, String>| {
        let why = state.unwrap_err();
        assert!(why.starts_with("the sidecar ended "), "{why}");
    };
    client.begin_write(None);
    in_a_step(next_life(&keeper, &file));
    client.begin_read(b"a", false);
    client.end_read(rest(b"a"));
    in_a_step(next_life(&keeper, &file));
    client.end_write(core::iter::empty(), 0);
    next_life(&keeper, &file).unwrap();
    client.begin_read(b"b", true);
    let why = next_life(&keeper, &file).unwrap_err();
    assert!(why.contains("descriptors"), "{why}");
}

/// What was about to be taken from a stream was taken if it is not there any more.
#[test]
fn whether_something_was_read_is_seen() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    let (socket, mut other) = UnixStream::pair().unwrap();
    let read = |file: &OwnedFd| {
        let (ticket, file) = (Ticket::for_test(&keeper.manager), file.try_clone().unwrap());
        KeptClient::resume(&keeper.manager, socket.as_fd(), file, ticket)
            .map(|(_, state)| state.input)
    };
    client.begin_read(b"one\n", false);
    assert_eq!(read(&file).unwrap(), b"one\n", "nothing is there");
    other.write_all(b"two\n").unwrap();
    assert_eq!(read(&file).unwrap(), b"one\n", "something else is there");
    client.begin_read(b"two\n", false);
    read(&file).unwrap_err();

    let qemu = KeptQemu::prepare(&keeper.manager, owner()).unwrap();
    let read = || {
        let ticket = Ticket::for_test(&keeper.manager);
        KeptQemu::resume(&keeper.manager, socket.as_fd(), qemu.file(), ticket)
            .map(|(_, state)| state.input)
    };
    qemu.begin_read(b"two\n");
    assert_eq!(read().unwrap(), b"", "it is there still");
    qemu.end_read(b"t");
    qemu.begin_read(b"two\n");
    read().unwrap_err();
    qemu.begin_read(b"wo\n");
    assert_eq!(
        read().unwrap(),
        b"two\n".to_vec(),
        "something else is there"
    );
}

#[test]
fn damage_is_noticed() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    client.take(Stage::Waiting, vec![b'x'; 100], false, rest(b""));
    let file = std::fs::File::from(file);
    let mut bytes = vec![0; 300];
    let size = file.read_at(&mut bytes, 0).unwrap();
    assert!(size > 200, "{size}");
    for (at, byte) in bytes.iter().enumerate().take(size) {
        // Bytes 1 to 3 say nothing.
        if (1..4).contains(&at) {
            continue;
        }
        file.write_at(&[byte ^ 0x10], at as u64).unwrap();
        let read = next_life(&keeper, &file.as_fd().try_clone_to_owned().unwrap());
        assert!(read.is_err(), "byte {at}");
        file.write_at(&[*byte], at as u64).unwrap();
    }
    for size in 0..size {
        file.set_len(size as u64).unwrap();
        let read = next_life(&keeper, &file.as_fd().try_clone_to_owned().unwrap());
        assert!(read.is_err(), "{size} bytes of it");
        file.write_at(&bytes[..300], 0).unwrap();
    }
}

#[test]
fn what_is_too_much_is_not_kept_until_it_is_less() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    let large = vec![b'x'; STATE_SIZE_MAX + 1];
    let too_large = |state: Result<ClientState, String>| {
        assert_eq!(state.unwrap_err(), "too much was under way on it");
    };
    let key = client.take(Stage::Waiting, large.clone(), false, rest(b""));
    too_large(next_life(&keeper, &file));
    client.begin_read(b"{", false);
    client.end_read(rest(b"{"));
    too_large(next_life(&keeper, &file));
    client.begin_write(Some(&move |state| state.answered(key)));
    client.end_write(core::iter::once(large.as_slice()), 0);
    too_large(next_life(&keeper, &file));
    client.begin_write(None);
    client.end_write(core::iter::once(large.as_slice()), 10);
    assert_eq!(
        next_life(&keeper, &file).unwrap().output.len(),
        STATE_SIZE_MAX - 9
    );
}

#[test]
fn a_qemus_ids_are_never_used_again() {
    let keeper = Keeper::new();
    let qemu = KeptQemu::prepare(&keeper.manager, owner()).unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    for id in 1..5000 {
        qemu.use_id(id);
    }
    qemu.negotiated(b"{\"QMP\": {}}", true, socket.as_fd());
    let said = keeper.said();
    assert!(
        said.starts_with("FDSTORE=1\nFDNAME=phase-journal-qemu-"),
        "{said}"
    );
    assert!(said.ends_with("\nFDPOLL=0"), "{said}");
    qemu.begin_read(b"{\"event");
    qemu.end_read(b"{\"event\": \"A\"}{\"ev");
    qemu.dealt(b"{\"ev", 1);
    let file = qemu.file();
    let read = |file: &OwnedFd| {
        let ticket = Ticket::for_test(&keeper.manager);
        let file = file.try_clone().unwrap();
        KeptQemu::resume(&keeper.manager, socket.as_fd(), file, ticket).map(|(_, state)| state)
    };
    let state = read(&file).unwrap();
    assert!(
        state.next_id >= 5000 && state.oob && state.told == 1,
        "{state:?}"
    );
    assert_eq!(
        (state.greeting.as_slice(), state.input.as_slice()),
        (&b"{\"QMP\": {}}"[..], &b"{\"ev"[..])
    );
    qemu.begin_write();
    read(&file).unwrap_err();
    qemu.end_write();
    read(&file).unwrap();
}

#[test]
fn nothing_is_kept_without_a_service_manager() {
    let (socket, _) = UnixStream::pair().unwrap();
    let none = Manager::default();
    assert!(KeptClient::keep(&none, owner(), socket.as_fd()).is_none());
    assert!(KeptQemu::prepare(&none, owner()).is_none());
    none.stop();
    assert!(!none.is_stopping(), "its connections end with the process");
}
