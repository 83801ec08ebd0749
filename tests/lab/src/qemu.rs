//! One QEMU process with the counting guest.
//!
//! Invariant: it has two monitors, one for a sidecar (or nobody) and one that stays with the
//! harness; its serial log is its own file, so that what a guest printed names the process.
//!
//! Not here: migrations (see [`crate::by_hand`] and [`crate::pair`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use std::{env, fmt};

use serde_json::json;

use crate::by_hand;
use crate::guest::FIRST_PAGE_ADDRESS;
use crate::judge::{GuestLog, last_number};
use crate::process::{Process, Start, tail};
use crate::qmp::{Qmp, malformed, member_text};
use crate::scratch::socket_path;
use crate::{Error, until};

/// What QEMU is called, found through PATH.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Set to 1 to use /dev/kvm in place of TCG.
const KVM: &str = "PHASE_JOURNAL_LAB_KVM";

/// Guest memory in MiB: little, and the firmware still boots.
const MEMORY_MIB: u32 = 8;

/// Bytes of one write to a disk of a QEMU's own.
pub const DATA_WRITE_BYTES: usize = 65_536;

/// How long a QEMU may take to listen, and to end when it was told to.
pub const PROCESS_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a guest may take to print what it is about to print. KVM without hardware takes
/// seconds for the firmware, TCG a tenth of one.
pub const GUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How a QEMU begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Boots and runs: the source.
    Running,
    /// `-S`: boots at its first `cont`.
    Prelaunch,
    /// `-S -incoming defer`: the destination.
    Incoming,
    /// `-S -incoming unix:DIRECTORY/incoming`: a destination that listens from its start.
    Listening,
}

/// Whether QEMU locks the shared disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// As in production: a second writer is refused.
    On,
    /// For experiments that must be able to run a guest twice.
    Off,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct QemuOptions {
    /// Name of the instance, unique in its scenario.
    pub name: String,
    /// An empty directory of its own.
    pub directory: PathBuf,
    /// The guest's disk, shared by both sides.
    pub disk: PathBuf,
    /// The guest's uuid, the same on both sides.
    pub uuid: String,
    /// How it begins.
    pub begin: Begin,
    /// Whether the disk is locked.
    pub locking: Locking,
    /// Disks of its own that are not shared, called `data0` and so on in its block graph.
    pub data: Vec<PathBuf>,
}

impl QemuOptions {
    /// The command line behind `qemu-system-x86_64`, for whoever starts it in place of [`Qemu::start`].
    ///
    /// # Errors
    /// [`Error::PathTooLong`].
    pub fn arguments(&self) -> Result<Vec<String>, Error> {
        let sidecar_socket = socket_path(self.sidecar_socket())?;
        let own_socket = socket_path(self.directory.join(OWN_SOCKET))?;
        Ok(arguments(self, &sidecar_socket, &own_socket))
    }

    /// The monitor that nobody here uses: for the sidecar.
    pub fn sidecar_socket(&self) -> PathBuf {
        self.directory.join(SIDECAR_SOCKET)
    }

    /// What the guest printed so far in this instance.
    ///
    /// # Errors
    /// [`Error::Io`] when the log cannot be read.
    pub fn guest_log(&self) -> Result<GuestLog, Error> {
        guest_log(&self.name, &self.directory)
    }
}

/// A QEMU process. Killed on drop.
#[derive(Debug)]
pub struct Qemu {
    name: String,
    directory: PathBuf,
    process: Process,
    monitor: Qmp,
}

impl Qemu {
    /// Starts QEMU and waits until its monitors answer.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be started, [`Error::Died`] with its log when it refuses its
    /// command line or lacks `qemu-system-x86_64`, [`Error::Deadline`], [`Error::PathTooLong`].
    pub fn start(options: &QemuOptions) -> Result<Qemu, Error> {
        let directory = options.directory.clone();
        let own_socket = directory.join(OWN_SOCKET);
        let mut process = Process::start(&Start {
            name: &format!("QEMU {}", options.name),
            program: Path::new(PROGRAM),
            arguments: &options.arguments()?,
            environment: &[],
            log: &directory.join(STDERR),
            stdout_piped: false,
        })?;
        let monitor = Qmp::connect_when_ready(&own_socket, PROCESS_TIMEOUT, || process.must_live())
            .map_err(|error| process.with_log(error))?;
        Ok(Qemu {
            name: options.name.clone(),
            directory,
            process,
            monitor,
        })
    }

    /// Name of the instance.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where one that listens from its start is reached.
    pub fn incoming(&self) -> String {
        incoming(&self.directory)
    }

    /// The monitor that nobody here uses: for the sidecar.
    pub fn sidecar_socket(&self) -> PathBuf {
        self.directory.join(SIDECAR_SOCKET)
    }

    /// The harness' own monitor, to look, or to play the owner or a foreign manager.
    pub fn monitor(&mut self) -> &mut Qmp {
        &mut self.monitor
    }

    /// QEMU's run state, as `running` or `postmigrate`.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn run_state(&mut self) -> Result<String, Error> {
        let status = self.monitor.execute("query-status", json!({}))?;
        member_text(&status, "status", "query-status")
    }

    /// QEMU's migration status, or `none` if it never had one.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn migration_status(&mut self) -> Result<String, Error> {
        by_hand::migration_status(&mut self.monitor)
    }

    /// The number in the working set's first page, read by QEMU. While the guest is stopped it is the
    /// one printed last, or the one that is being printed.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn number_in_memory(&mut self) -> Result<u32, Error> {
        let line = format!("xp /1wx {FIRST_PAGE_ADDRESS:#x}");
        let said = self
            .monitor
            .execute("human-monitor-command", json!({"command-line": line}))?;
        let text = said.as_str().unwrap_or_default();
        text.trim()
            .rsplit_once("0x")
            .and_then(|(_, digits)| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| malformed("xp", format!("no number in {said}")))
    }

    /// Writes to one of its own disks as its guest would: through the guest's device.
    ///
    /// # Errors
    /// As [`Qmp::execute`]; [`Error::Malformed`](crate::Error) when QEMU could not write.
    pub fn write_data(&mut self, disk: usize, offset: usize, pattern: u8) -> Result<(), Error> {
        let device = format!("/machine/peripheral/data{disk}/virtio-backend");
        let line =
            format!("qemu-io -d {device} \"write -P {pattern} {offset} {DATA_WRITE_BYTES}\"");
        // What it says goes to its stdout; an error is said here.
        let said = self
            .monitor
            .execute("human-monitor-command", json!({"command-line": line}))?;
        match said.as_str().unwrap_or_default() {
            "" => Ok(()),
            error => Err(malformed("qemu-io", error.to_owned())),
        }
    }

    /// What its guest printed so far.
    ///
    /// # Errors
    /// [`Error::Io`] when the log cannot be read.
    pub fn guest_log(&self) -> Result<GuestLog, Error> {
        guest_log(&self.name, &self.directory)
    }

    /// Waits until the guest printed that number, or a later one, in this instance.
    ///
    /// # Errors
    /// [`Error::Deadline`] or [`Error::Died`] with the logs.
    pub fn wait_for_number(&mut self, number: u32, timeout: Duration) -> Result<u32, Error> {
        let waiting_for = format!("number {number} from {}", self.name);
        let log = self.directory.join(SERIAL);
        until(&waiting_for, timeout, || {
            let bytes = fs::read(&log).map_err(Error::io("reading", &log))?;
            let last = last_number(&bytes);
            if last >= number {
                return Ok(Some(last));
            }
            self.process.must_live()?;
            Ok(None)
        })
        .map_err(|error| self.process.with_log(error))
    }

    /// Whether the process lives.
    ///
    /// # Errors
    /// [`Error::Io`] when the system does not say.
    pub fn is_alive(&mut self) -> Result<bool, Error> {
        Ok(self.process.ended()?.is_none())
    }

    /// Waits until it ended by itself, as after a `quit` or a sidecar's kill.
    ///
    /// # Errors
    /// [`Error::Deadline`] with its log.
    pub fn wait_dead(&mut self, timeout: Duration) -> Result<ExitStatus, Error> {
        self.process.wait_dead(timeout)
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn kill(&mut self) -> Result<ExitStatus, Error> {
        self.process.kill()
    }

    /// Its stderr and the end of what its guest printed, for a failure.
    pub fn report(&self) -> String {
        let serial = tail(&self.directory.join(SERIAL));
        let first = serial.lines().count().saturating_sub(REPORT_LINES);
        let last: Vec<&str> = serial.lines().skip(first).collect();
        format!(
            "QEMU {} (pid {}): {}\n  guest, last lines: {}\n",
            self.name,
            self.pid(),
            self.process.log().trim_end(),
            last.join(" ")
        )
    }
}

const SIDECAR_SOCKET: &str = "qmp";
const OWN_SOCKET: &str = "qmp2";
const SERIAL: &str = "serial";
const INCOMING: &str = "incoming";
const STDERR: &str = "stderr";
const REPORT_LINES: usize = 8;
/// The first PCI slot of a disk of its own.
const DATA_SLOT: usize = 0x10;

fn arguments(options: &QemuOptions, sidecar_socket: &Path, own_socket: &Path) -> Vec<String> {
    let kvm = env::var_os(KVM).is_some_and(|value| value == "1");
    let monitor = |path: &Path, id: &str| {
        format!("socket,id={id},path={},server=on,wait=off", path.display())
    };
    let locking = match options.locking {
        Locking::On => "auto",
        Locking::Off => "off",
    };
    let drive = format!(
        "file={},if=virtio,format=raw,file.locking={locking}",
        options.disk.display()
    );
    let mut arguments: Vec<String> = [
        "-name",
        &format!("guest={}", options.name),
        "-uuid",
        &options.uuid,
        "-machine",
        "pc",
        "-accel",
        if kvm { "kvm" } else { "tcg" },
        "-cpu",
        "qemu64",
        "-m",
        &format!("{MEMORY_MIB}M"),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-chardev",
        &monitor(sidecar_socket, "m1"),
        "-mon",
        "chardev=m1,mode=control",
        "-chardev",
        &monitor(own_socket, "m2"),
        "-mon",
        "chardev=m2,mode=control",
        "-serial",
        &format!("file:{}", options.directory.join(SERIAL).display()),
        "-drive",
        &drive,
    ]
    .map(str::to_owned)
    .to_vec();
    for (index, path) in options.data.iter().enumerate() {
        let file = json!({"driver": "file", "filename": path, "locking": locking});
        let node = json!({"driver": "raw", "node-name": format!("data{index}"), "file": file});
        // Behind the disk that is booted.
        let slot = DATA_SLOT + index;
        let device = format!("virtio-blk-pci,id=data{index},drive=data{index},addr={slot:#x}");
        arguments.extend(["-blockdev".to_owned(), node.to_string()]);
        arguments.extend(["-device".to_owned(), device]);
    }
    let listen = incoming(&options.directory);
    let begin: &[&str] = match options.begin {
        Begin::Running => &[],
        Begin::Prelaunch => &["-S"],
        Begin::Incoming => &["-S", "-incoming", "defer"],
        Begin::Listening => &["-S", "-incoming", &listen],
    };
    arguments.extend(begin.iter().map(|argument| (*argument).to_owned()));
    arguments
}

fn guest_log(name: &str, directory: &Path) -> Result<GuestLog, Error> {
    let path = directory.join(SERIAL);
    let bytes = fs::read(&path).map_err(Error::io("reading", &path))?;
    Ok(GuestLog {
        instance: name.to_owned(),
        bytes,
    })
}

fn incoming(directory: &Path) -> String {
    format!("unix:{}", directory.join(INCOMING).display())
}

/// Which instances' guests print now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunningNow {
    /// None printed anything in the whole time.
    None,
    /// Exactly this one.
    One(String),
    /// More than one at once.
    Several(Vec<String>),
}

impl fmt::Display for RunningNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunningNow::None => write!(f, "none runs"),
            RunningNow::One(name) => write!(f, "only {name} runs"),
            RunningNow::Several(names) => write!(f, "{} run at once", names.join(" and ")),
        }
    }
}

/// Watches what the guests print until one of them has printed `numbers` more, or `timeout` is
/// over. The measure is the guests' own progress, so that a slow machine is watched longer; only
/// that none runs takes the whole time.
///
/// # Errors
/// [`Error::Io`] when a log cannot be read.
pub fn running_now(
    instances: &[Qemu],
    numbers: u32,
    timeout: Duration,
) -> Result<RunningNow, Error> {
    let logs = || {
        instances
            .iter()
            .map(Qemu::guest_log)
            .collect::<Result<Vec<_>, _>>()
    };
    let before = logs()?;
    let mut now = before.clone();
    let waited = until("progress of a guest", timeout, || {
        now = logs()?;
        let advanced = before.iter().zip(&now).any(|(before, now)| {
            last_number(&now.bytes) >= last_number(&before.bytes).saturating_add(numbers)
        });
        Ok(advanced.then_some(()))
    });
    match waited {
        Ok(()) | Err(Error::Deadline { .. }) => {}
        Err(other) => return Err(other),
    }
    let grown = before
        .iter()
        .zip(now)
        .filter(|(before, now)| before.bytes.len() < now.bytes.len());
    let mut names: Vec<String> = grown.map(|(_, now)| now.instance).collect();
    Ok(match names.len() {
        0 => RunningNow::None,
        1 => RunningNow::One(names.remove(0)),
        _ => RunningNow::Several(names),
    })
}
