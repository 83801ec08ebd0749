//! Memory files: what is read back, and what is not believed.

use std::io::{Read as _, Write as _};
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
    client
        .put(b"first", Some(&|state| state.greeted = true))
        .unwrap();
    client
        .put(b"second", Some(&|state| state.negotiated = Some(true)))
        .unwrap();
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
    client
        .put(b"x", Some(&move |state| state.answered(a)))
        .unwrap();

    let state = next_life(&keeper, &file).unwrap();
    assert_eq!(state.owner, owner());
    assert!(state.greeted && state.negotiated == Some(true));
    assert_eq!(state.input, b"{");
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

/// They are lost with it, and so the client is closed that sent some with what is no command yet.
#[test]
fn descriptors_do_not_outlive_the_process() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    client.begin_read(b"a", true);
    let why = next_life(&keeper, &file).unwrap_err();
    assert!(why.contains("descriptors"), "{why}");
    client.end_read(rest(b""));
    client.take(Stage::Waiting, b"a".to_vec(), true, rest(b""));
    assert!(next_life(&keeper, &file).unwrap().commands[0].has_fds);
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
    qemu.end_read();
    qemu.dealt(b"t", 0);
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

/// It is not called damaged, which somebody would look into.
#[test]
fn a_file_of_another_version() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    client.take(Stage::Waiting, b"x".to_vec(), false, rest(b""));
    let file = std::fs::File::from(file);
    for (magic, expected) in [
        (b"pjk1", "its state is of another version of the sidecar"),
        (b"pjk9", "its state is of another version of the sidecar"),
        (b"xjk2", "its state is damaged"),
    ] {
        file.write_at(magic, 4).unwrap();
        let read = next_life(&keeper, &file.as_fd().try_clone_to_owned().unwrap());
        assert_eq!(read.unwrap_err(), expected);
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
    client
        .put(&large, Some(&move |state| state.answered(key)))
        .unwrap();
    next_life(&keeper, &file).unwrap();
}

/// A large answer of QEMU's is too much only while it comes.
#[test]
fn a_large_answer_is_too_much_until_it_is_dealt_with() {
    let keeper = Keeper::new();
    let qemu = KeptQemu::prepare(&keeper.manager, owner()).unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let read = || {
        let ticket = Ticket::for_test(&keeper.manager);
        KeptQemu::resume(&keeper.manager, socket.as_fd(), qemu.file(), ticket)
            .map(|(_, state)| state.input)
    };
    let part = vec![b'x'; STATE_SIZE_MAX / 4];
    let mut all = Vec::new();
    for at in 1..=8 {
        qemu.begin_read(&part);
        qemu.end_read();
        all.extend(&part);
        qemu.dealt(&all, 0);
        match at {
            ..=4 => assert_eq!(read().unwrap(), all),
            _ => assert_eq!(read().unwrap_err(), "too much was under way on it"),
        }
    }
    qemu.dealt(b"{", 0);
    assert_eq!(read().unwrap(), b"{");
    qemu.begin_write();
    qemu.end_write();
    assert_eq!(read().unwrap(), b"{");
}

/// What cannot be put into the file is not said with other bytes in its place.
#[test]
fn what_cannot_be_written_down_is_an_error() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    client.put(b"one", None).unwrap();
    let (socket, mut other) = UnixStream::pair().unwrap();
    client.send(socket.as_fd()).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let mut unwritable = std::fs::File::open(path).unwrap();
    let at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Current(0)).unwrap();
    std::io::Seek::seek(&mut unwritable, std::io::SeekFrom::Start(at)).unwrap();
    let ticket = Ticket::for_test(&keeper.manager);
    let resumed = KeptClient::resume(&keeper.manager, socket.as_fd(), unwritable.into(), ticket);
    let (client, _) = resumed.unwrap();
    client.put(b"two", None).unwrap_err();
    assert_eq!(client.unsent(), 0);
    assert_eq!(keeper.said(), "FDSTOREREMOVE=1\nFDNAME=");
    drop(socket);
    let mut heard = Vec::new();
    other.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"one");
}

/// A service manager that reads slowly is told later.
#[test]
fn what_is_over_leaves_the_store_in_the_end() {
    let keeper = Keeper::new();
    let (one, _) = client(&keeper);
    let mut count = 0;
    while keeper.manager.notify("STATUS=busy").is_ok() {
        count += 1;
    }
    drop(one);
    for _ in 0..count {
        assert_eq!(keeper.said(), "STATUS=busy");
    }
    let (socket, _) = UnixStream::pair().unwrap();
    let other = KeptClient::keep(&keeper.manager, owner(), socket.as_fd()).unwrap();
    let said = [keeper.said(), keeper.said()];
    assert!(
        said[0].starts_with("FDSTOREREMOVE=1\nFDNAME=phase-journal-client-"),
        "{said:?}"
    );
    assert!(said[1].starts_with("FDSTORE=1\n"), "{said:?}");
    drop(other);
}

/// Whoever wrote it, with its checksum: nothing is counted on from the end of all numbers.
#[test]
fn what_no_life_comes_to_is_not_believed() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    let heard = |number| client.put(b"", Some(&move |state| state.heard = number));
    heard(u64::MAX).unwrap();
    assert!(next_life(&keeper, &file).is_err());
    heard(7).unwrap();
    assert_eq!(next_life(&keeper, &file).unwrap().heard, 7);
    let qemu = KeptQemu::prepare(&keeper.manager, owner()).unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let read = || {
        let ticket = Ticket::for_test(&keeper.manager);
        KeptQemu::resume(&keeper.manager, socket.as_fd(), qemu.file(), ticket).map(drop)
    };
    qemu.dealt(b"", u64::MAX);
    qemu.begin_read(b"{");
    qemu.end_read();
    assert!(read().is_err());
    qemu.dealt(b"", 7);
    qemu.begin_read(b"{");
    qemu.end_read();
    read().unwrap();
}

/// What was written the kernel knows, whoever ended when: the next life writes the rest.
#[test]
fn what_was_not_written_is_written_by_the_next_life() {
    let keeper = Keeper::new();
    let (client, file) = client(&keeper);
    let (socket, mut other) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut said = Vec::new();
    let mut heard = vec![0; 64 * 1024];
    let mut first = Some(client);
    for life in 0_u8..40 {
        let client = first.take().unwrap_or_else(|| {
            let ticket = Ticket::for_test(&keeper.manager);
            let file = file.try_clone().unwrap();
            let resumed = KeptClient::resume(&keeper.manager, socket.as_fd(), file, ticket);
            resumed.unwrap().0
        });
        for _ in 0..3 {
            let line = vec![life; 10_000];
            client.put(&line, None).unwrap();
            said.extend(line);
            // The end of a life may come before and after.
            if life % 3 == 1 {
                while client.unsent() > 0 && client.send(socket.as_fd()).is_ok() {}
            }
        }
        // It is still to be read when the memory was given back.
        if life % 7 == 6 {
            let size = other.read(&mut heard).unwrap();
            assert!(said.starts_with(&heard[..size]));
            said.drain(..size);
        }
    }
    let ticket = Ticket::for_test(&keeper.manager);
    let (last, _) = KeptClient::resume(&keeper.manager, socket.as_fd(), file, ticket).unwrap();
    while !said.is_empty() {
        if last.unsent() > 0 {
            drop(last.send(socket.as_fd()));
        }
        let size = other.read(&mut heard).unwrap();
        assert!(said.starts_with(&heard[..size]));
        said.drain(..size);
    }
    assert_eq!(last.unsent(), 0);
}

#[test]
fn a_qemus_ids_are_never_used_again() {
    let keeper = Keeper::new();
    let qemu = KeptQemu::prepare(&keeper.manager, owner()).unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let first = qemu.first_id();
    for id in first..first + 5000 {
        qemu.use_id(id);
    }
    qemu.negotiated(b"{\"QMP\": {}}", true, socket.as_fd());
    let said = keeper.said();
    assert!(
        said.starts_with("FDSTORE=1\nFDNAME=phase-journal-qemu-"),
        "{said}"
    );
    assert!(said.ends_with("\nFDPOLL=0"), "{said}");
    qemu.begin_read(b"{\"event\": \"A\"}{\"ev");
    qemu.end_read();
    qemu.dealt(b"{\"ev", 1);
    let file = qemu.file();
    let read = |file: &OwnedFd| {
        let ticket = Ticket::for_test(&keeper.manager);
        let file = file.try_clone().unwrap();
        KeptQemu::resume(&keeper.manager, socket.as_fd(), file, ticket).map(|(_, state)| state)
    };
    let state = read(&file).unwrap();
    assert!(
        state.first_id == first && state.next_id >= first + 5000,
        "{state:?}"
    );
    assert!(state.oob);
    assert_eq!(state.greeting, b"{\"QMP\": {}}");
    // An event is not told again.
    assert_eq!((state.input.as_slice(), state.told), (&b"{\"ev"[..], 1));
    qemu.begin_read(b"ent\": \"B\"}{\"return\": {}}{");
    qemu.end_read();
    qemu.dealt(b"{\"return\": {}}{", 2);
    // An answer is dealt with again, until the next is read.
    qemu.dealt(b"{", 2);
    let state = read(&file).unwrap();
    assert_eq!(
        (state.input.as_slice(), state.told),
        (&b"{\"return\": {}}{"[..], 2)
    );
    qemu.begin_read(b"\"event");
    qemu.end_read();
    let state = read(&file).unwrap();
    assert_eq!((state.input.as_slice(), state.told), (&b"{\"event"[..], 2));
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
