//! Clients that others wrote drive a QEMU's whole life, and a whole migration, while the sidecar is killed at every durable batch.
//!
//! QEMU's own test machine (`QEMUMachine`, of QEMU 7.2's source) starts its QEMUs itself, and its sidecars run under a
//! service manager: their deaths end none of its connections. QEMU's Python library of today (`qemu.qmp`) has its connections
//! closed by a sidecar's death, as without a service manager, and connects again. Both lie under target/clients, where
//! tools/install puts them.
//!
//! Every batch is `tools/soak --jobs`'s.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use phase_journal::journal::OsDisk;
use phase_journal::journal::verify::{Verdict, verify};
use phase_journal_lab::judge::{judge, last_number};
use phase_journal_lab::pair::{DOMAIN, Side, UUID};
use phase_journal_lab::qemu::{Begin, Locking, PROGRAM, QemuOptions};
use phase_journal_lab::sidecar::{CrashPoint, RunOptions, Sidecar};
use phase_journal_lab::supervisor::Supervisor;
use phase_journal_lab::{Error, Scratch, until};
use serde_json::json;

use crate::clients::{passed_in, root, tool};
use crate::recognised::{comes_to_rest, look_after};
use crate::scenario::{EVERY_BATCH, NUMBERS, ORDINARY, TIMEOUT, assert_one_runs, pair, program};

/// More than one side of such a migration has.
const BATCHES_MAX: u32 = 80;
/// One batch of so many is taken by CI.
const SLICE: u32 = 3;

/// A client's script at work. It ends with the test, however that one ends, and its QEMUs end with it.
struct Script {
    child: Child,
    output: PathBuf,
    errors: PathBuf,
}

impl Script {
    fn start(python: &mut Command, directory: &Path) -> Script {
        let (output, errors) = (directory.join("output"), directory.join("errors"));
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(python.get_program())
            .args(python.get_args());
        for (name, value) in python.get_envs() {
            command.env(name, value.unwrap());
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(File::create(&output).unwrap())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        Script {
            child,
            output,
            errors,
        }
    }

    /// The parts that worked so far.
    fn parts(&self) -> Vec<String> {
        let said = fs::read_to_string(&self.output).unwrap();
        said.lines().map(str::to_owned).collect()
    }

    /// Waits until this part worked, and looks after the sidecars meanwhile.
    fn reaches(
        &mut self,
        part: &str,
        what: &str,
        mut look_after: impl FnMut() -> Result<(), Error>,
    ) {
        let reached = until(part, TIMEOUT, || {
            look_after()?;
            let has_ended = self.child.try_wait().unwrap().is_some();
            if self.parts().iter().any(|worked| worked == part) {
                return Ok(Some(()));
            }
            assert!(
                !has_ended,
                "{what}: it ended after {:?}\n{}",
                self.parts(),
                self.errors()
            );
            Ok(None)
        });
        reached.unwrap_or_else(|error| {
            panic!(
                "{what}: {error}\nafter {:?}\n{}",
                self.parts(),
                self.errors()
            )
        });
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    /// It may end its machines.
    fn let_go(&mut self) {
        drop(self.child.stdin.take());
    }

    fn ends(mut self, what: &str) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{what}: {status}\n{}", self.errors());
    }
}

/// A host: its sidecar, the service manager that keeps its connections, and the QEMU that is to be started there.
struct Host {
    sidecar: Sidecar,
    supervisor: Supervisor,
    qemu: QemuOptions,
    has_crashed: bool,
}

impl Host {
    fn start(side: Side, crash: Option<u32>, disk: &Path, scratch: &Scratch) -> Host {
        let name = side.to_string();
        let directory = scratch.directory(&name).unwrap();
        let qemu = scratch.directory(&format!("q-{name}")).unwrap();
        let mut host = Host {
            sidecar: Sidecar::new(&name, program(), &directory).unwrap(),
            supervisor: Supervisor::start(&directory).unwrap(),
            qemu: QemuOptions {
                name,
                directory: qemu,
                disk: disk.to_path_buf(),
                uuid: UUID.to_owned(),
                begin: match side {
                    Side::A => Begin::Running,
                    Side::B => Begin::Incoming,
                },
                locking: Locking::Off,
                data: Vec::new(),
            },
            has_crashed: false,
        };
        let options = crash.map(CrashPoint::AfterBatch).map(RunOptions::crashing);
        let options = options.unwrap_or_default();
        host.sidecar
            .start_under(&options, &host.supervisor)
            .unwrap();
        host
    }

    /// Starts its sidecar again if that died.
    fn look_after(&mut self) -> Result<(), Error> {
        if self.sidecar.ended()?.is_some() {
            self.has_crashed = true;
            let plain = RunOptions::default();
            self.sidecar.start_under(&plain, &self.supervisor)?;
        }
        Ok(())
    }

    /// What the script is told of it.
    fn described(&self) -> String {
        let side = json!({
            "binary": PROGRAM,
            "args": self.qemu.arguments().unwrap(),
            "name": DOMAIN,
            "uuid": UUID,
            "qmp": self.qemu.sidecar_socket(),
            "monitor": self.sidecar.monitor_socket(DOMAIN),
            "control": self.sidecar.control_socket(),
        });
        side.to_string()
    }
}

/// Two hosts and the script whose machines run there. Fields end in this order.
struct Machines {
    script: Script,
    hosts: [Host; 2],
    _scratch: Scratch,
}

impl Machines {
    /// With a sidecar that dies after that batch.
    fn start(part: &str, crash: Option<(Side, u32)>) -> Machines {
        let library = root().join("target/clients/machine");
        let there = library.join("qemu/machine").exists();
        assert!(
            there,
            "there is no {}: tools/test installs it",
            library.display()
        );
        let scratch = Scratch::create().unwrap();
        let disk = scratch.path().join("disk");
        ORDINARY.write(&disk).unwrap();
        let hosts = Side::BOTH.map(|side| {
            let batch = crash.filter(|(of, _)| *of == side).map(|(_, batch)| batch);
            Host::start(side, batch, &disk, &scratch)
        });
        let mut python = Command::new("python3");
        python
            .arg("-B")
            .arg(root().join("tests/clients/qemu_machine.py"))
            .arg(part)
            .arg(scratch.path())
            .args(hosts.iter().map(Host::described))
            .env("PYTHONPATH", library);
        Machines {
            script: Script::start(&mut python, scratch.path()),
            hosts,
            _scratch: scratch,
        }
    }

    fn reaches(&mut self, part: &str, what: &str) {
        let hosts = &mut self.hosts;
        self.script.reaches(part, what, || {
            hosts.iter_mut().try_for_each(Host::look_after)
        });
    }

    /// The last number that the guest printed at that host.
    fn last_number(&self, host: usize) -> u32 {
        last_number(&self.hosts[host].qemu.guest_log().unwrap().bytes)
    }
}

/// A QEMU's life at the hands of QEMU's own test machine.
#[test]
fn qemus_test_machine() {
    let what = "the test machine";
    let mut machines = Machines::start("plain", None);
    machines.reaches("snapshot", what);
    machines.script.let_go();
    machines.reaches("shutdown", what);
    assert_eq!(
        machines.script.parts(),
        [
            "query everything",
            "events",
            "hotplug",
            "snapshot",
            "shutdown"
        ]
    );
    let journal = machines.hosts[0].sidecar.journal().to_path_buf();
    let effects = [
        "stop",
        "cont",
        "device_add",
        "getfd",
        "closefd",
        "blockdev-snapshot-sync",
        "quit",
    ];
    assert_eq!(passed_in(&journal), effects, "and nothing that only reads");
    machines.script.ends(what);
}

/// False if the sidecar of that side never came to that batch.
fn the_test_machine_migrates(side: Side, batch: u32) -> bool {
    let what = format!("the test machine, sidecar {side} after batch {batch}");
    let mut machines = Machines::start("migrate", Some((side, batch)));
    machines.reaches("migrate", &what);
    let before = machines.last_number(1);
    until("the guest goes on", TIMEOUT, || {
        Ok((machines.last_number(1) >= before + NUMBERS).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{what}: {error}"));
    machines.script.let_go();
    machines.reaches("shutdown", &what);
    let logs = [0, 1].map(|host| machines.hosts[host].qemu.guest_log().unwrap());
    let verdict = judge(&logs);
    assert!(verdict.is_clean(), "{what}: {verdict}");
    for host in &mut machines.hosts {
        let name = host.sidecar.journal().display().to_string();
        host.sidecar.stop().unwrap();
        let report = verify(OsDisk::new(host.sidecar.journal())).unwrap();
        assert_ne!(
            report.verdict(),
            Verdict::Damaged,
            "{what}: {name}: {report:?}"
        );
    }
    let has_crashed = machines.hosts.iter().any(|host| host.has_crashed);
    machines.script.ends(&what);
    has_crashed
}

/// False if the sidecar of that side never came to that batch.
fn the_library_migrates(side: Side, batch: u32) -> bool {
    let what = format!("the library, sidecar {side} after batch {batch}");
    let crashing = RunOptions::crashing(CrashPoint::AfterBatch(batch));
    let plain = RunOptions::default;
    let mut pair = match side {
        Side::A => pair(crashing, plain()),
        Side::B => pair(plain(), crashing),
    };
    let mut python = Command::new(tool("python"));
    let sockets = Side::BOTH.map(|side| pair.sidecar(side).monitor_socket(DOMAIN));
    python
        .arg("-B")
        .arg(root().join("tests/clients/qemu_qmp.py"))
        .arg("killed")
        .args(sockets)
        .arg(pair.directory())
        .arg(pair.qemu(Side::A).pid().to_string());
    let mut script = Script::start(&mut python, pair.directory());
    let mut has_crashed = false;
    script.reaches("killed", &what, || {
        has_crashed |= look_after(&mut pair)?;
        Ok(())
    });
    script.ends(&what);
    has_crashed |= comes_to_rest(&mut pair, side, &what);
    assert_eq!(assert_one_runs(&mut pair, &what), Side::B, "{what}");
    has_crashed
}

fn every_batch(side: Side, survives: fn(Side, u32) -> bool) -> u32 {
    let is_all = std::env::var_os(EVERY_BATCH).is_some();
    let (mut batch, step) = if is_all { (1, 1) } else { (2, SLICE) };
    while survives(side, batch) {
        batch += step;
        assert!(batch < BATCHES_MAX, "{batch}");
    }
    batch
}

#[test]
fn qemus_test_machine_migrates_from_a_source_that_dies_at_any_batch() {
    assert!(every_batch(Side::A, the_test_machine_migrates) > 2 + SLICE);
}

#[test]
fn qemus_test_machine_migrates_to_a_destination_that_dies_at_any_batch() {
    assert!(every_batch(Side::B, the_test_machine_migrates) > 2 + SLICE);
}

#[test]
fn qemus_python_library_migrates_from_a_source_that_dies_at_any_batch() {
    assert!(every_batch(Side::A, the_library_migrates) > 2 + SLICE);
}

#[test]
fn qemus_python_library_migrates_to_a_destination_that_dies_at_any_batch() {
    assert!(every_batch(Side::B, the_library_migrates) > 2 + SLICE);
}
