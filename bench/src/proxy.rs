//! The monitor in QEMU's place beside QEMU's own: one real QEMU, asked over its second monitor and through the sidecar in turns.
//!
//! Beside them the least that anything in QEMU's place can be: a relay of one thread that does nothing but pass bytes on, and
//! write and sync once where the sidecar does.
//!
//! Invariant: all ways ask the same QEMU the same thing in the same second; what is printed of an effect stands beside the
//! raw sync of the same second.
//! Not here: the journal (`append`), what a command does.

use std::borrow::Cow;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::Failure;
use crate::limit::Limit;
use crate::report::{Entry, Table};
use crate::statistics::{nanoseconds, number, percentile};

/// What only reads.
const READING: &str = r#"{"execute":"query-status"}"#;
/// What counts as an effect and changes nothing: QEMU knows no such descriptor, and says so.
const EFFECT: &str = r#"{"execute":"closefd","arguments":{"fdname":"none"}}"#;

/// How long anything may take to be there.
const START_WAIT: Duration = Duration::from_secs(20);

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where QEMU's sockets, the journal and the run directory are made.
    pub directory: PathBuf,
    /// The sidecar's program.
    pub sidecar: PathBuf,
    /// How often each way has its turn.
    pub rounds: usize,
    /// Commands of one client in a turn.
    pub commands: usize,
    /// Clients at the same time.
    pub clients: usize,
    /// Clients that do nothing, to be weighed.
    pub idle: usize,
    /// Commands have ids and line ends, as libvirt's have; else neither.
    pub as_libvirt: bool,
}

/// A process that ends with the measurement.
#[derive(Debug)]
pub struct Process(Child);

/// Keeps each processor from sleeping, as hosts do that are tuned for latency: by a process of the lowest class
/// (SCHED_IDLE), which runs only where nobody else does and gives way at once.
///
/// # Errors
/// `chrt` or `taskset` (util-linux) cannot be started.
pub fn keep_awake() -> Result<Vec<Process>, Failure> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (0..count)
        .map(|processor| {
            // As long as this process is there, however it ends.
            let spin = "while kill -0 \"$0\" 2>/dev/null; do :; done";
            Command::new("taskset")
                .args(["-c", &processor.to_string(), "chrt", "--idle", "0"])
                .args(["sh", "-c", spin, &std::process::id().to_string()])
                .stdin(Stdio::null())
                .spawn()
                .map(Process)
                .map_err(Failure::io("start", Path::new("taskset")))
        })
        .collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that has negotiated.
struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    path: PathBuf,
    /// The number of the last id, if commands have any.
    last_id: Option<u64>,
}

impl Client {
    fn connect(path: &Path, as_libvirt: bool) -> Result<Client, Failure> {
        let failed = || Failure::io("connect to", path);
        let stream = UnixStream::connect(path).map_err(failed())?;
        stream
            .set_read_timeout(Some(START_WAIT))
            .map_err(failed())?;
        let lines = BufReader::new(stream.try_clone().map_err(failed())?);
        let mut client = Client {
            stream,
            lines,
            path: path.to_path_buf(),
            last_id: as_libvirt.then_some(0),
        };
        client.answer()?;
        client.ask(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(client)
    }

    /// The next line that is no event.
    fn answer(&mut self) -> Result<String, Failure> {
        loop {
            let mut line = String::new();
            let size = self.lines.read_line(&mut line);
            match size.map_err(Failure::io("read from", &self.path))? {
                0 => return Err(Failure::Wrong(format!("{} hung up", self.path.display()))),
                _ if line.contains("\"event\"") => {}
                _ => return Ok(line),
            }
        }
    }

    fn ask(&mut self, command: &str) -> Result<String, Failure> {
        self.send(command)?;
        self.answer()
    }

    fn send(&mut self, command: &str) -> Result<(), Failure> {
        let sent = match &mut self.last_id {
            None => Cow::Borrowed(command),
            Some(last) => {
                *last += 1;
                let members = command.strip_suffix('}').unwrap_or(command);
                Cow::Owned(format!("{members},\"id\":\"libvirt-{last}\"}}\r\n"))
            }
        };
        self.stream
            .write_all(sent.as_bytes())
            .map_err(Failure::io("write to", &self.path))
    }

    /// How long each of so many took, in nanoseconds.
    fn measure(&mut self, command: &str, count: usize) -> Result<Vec<u64>, Failure> {
        (0..count)
            .map(|_| {
                let begin = Instant::now();
                self.ask(command)?;
                Ok(nanoseconds(begin.elapsed()))
            })
            .collect()
    }
}

/// Passes one client's commands on to QEMU, one at a time, and its answers back; an effect after a write and a sync. Ends with
/// the client.
fn relay(listener: &UnixListener, path: &Path, mut limit: Limit) -> Result<(), Failure> {
    let failed = || Failure::io("relay to", path);
    let mut qemu = UnixStream::connect(path).map_err(failed())?;
    let mut lines = BufReader::new(qemu.try_clone().map_err(failed())?);
    let (mut client, _) = listener.accept().map_err(failed())?;
    let mut pass_on = |client: &mut UnixStream| {
        let mut line = Vec::new();
        let size = lines.read_until(b'\n', &mut line).map_err(failed())?;
        client.write_all(&line).map_err(failed())?;
        Ok::<_, Failure>(size)
    };
    let mut command = [0; 4096];
    pass_on(&mut client)?;
    loop {
        let size = client.read(&mut command).map_err(failed())?;
        if size == 0 {
            return Ok(());
        }
        if command[..size].starts_with(&EFFECT.as_bytes()[..EFFECT.len() - 1]) {
            limit.sync_one()?;
        }
        qemu.write_all(&command[..size]).map_err(failed())?;
        pass_on(&mut client)?;
    }
}

/// One QEMU with three monitors, a sidecar on one of them, and a relay for another.
struct Laboratory {
    direct: PathBuf,
    relayed: PathBuf,
    proxy: PathBuf,
    sidecar: Process,
    _qemu: Process,
}

impl Laboratory {
    fn start(settings: &Settings) -> Result<Laboratory, Failure> {
        let at = |name: &str| settings.directory.join(name);
        let (own, direct, run) = (at("own.sock"), at("direct.sock"), at("run"));
        let relayed = at("relayed.sock");
        let monitor = |path: &Path| format!("unix:{},server=on,wait=off", path.display());
        let qemu = Command::new("qemu-system-x86_64")
            .args([
                "-accel",
                "tcg",
                "-m",
                "16M",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
            ])
            .args(["-S", "-qmp", &monitor(&own), "-qmp", &monitor(&direct)])
            .args(["-qmp", &monitor(&relayed)])
            .stdin(Stdio::null())
            .spawn()
            .map_err(Failure::io("start", Path::new("qemu-system-x86_64")))?;
        let qemu = Process(qemu);
        let mut sidecar = Command::new(&settings.sidecar)
            .arg("--journal")
            .arg(at("journal"))
            .arg("--run")
            .arg(&run)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Failure::io("start", &settings.sidecar))?;
        let said = sidecar.stdout.take();
        let sidecar = Process(sidecar);
        let mut ready = String::new();
        if let Some(said) = said {
            BufReader::new(said)
                .read_line(&mut ready)
                .map_err(Failure::io("hear", &settings.sidecar))?;
        }
        for path in [&own, &direct, &relayed] {
            wait_for(path)?;
        }
        let mut control = Client::connect(&run.join("control.sock"), false)?;
        let add = serde_json::json!({
            "execute": "domain-add",
            "arguments": {"name": "bench", "qmp": own, "pid": qemu.0.id()},
        });
        let added = control.ask(&add.to_string())?;
        if added.contains("\"error\"") {
            return Err(Failure::Wrong(format!("the domain was not added: {added}")));
        }
        Ok(Laboratory {
            direct,
            relayed,
            proxy: run.join("domains/bench.sock"),
            sidecar,
            _qemu: qemu,
        })
    }

    /// Memory of the sidecar, in KiB.
    fn resident(&self) -> Result<f64, Failure> {
        let path = PathBuf::from(format!("/proc/{}/status", self.sidecar.0.id()));
        let status = fs::read_to_string(&path).map_err(Failure::io("read", &path))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(number)
            .ok_or_else(|| Failure::Wrong("the sidecar's memory is not told".to_owned()))
    }
}

fn wait_for(path: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + START_WAIT;
    while !path.exists() {
        if Instant::now() > deadline {
            return Err(Failure::Wrong(format!("{} does not come", path.display())));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Commands a second of so many clients together, each with one under way. One thread has them all, so that what is measured
/// is who answers them, and not the turns of so many threads that ask.
fn together(path: &Path, settings: &Settings) -> Result<f64, Failure> {
    let each = (settings.commands / settings.clients).max(1);
    let mut clients: Vec<(Client, usize)> = (0..settings.clients)
        .map(|_| Ok((Client::connect(path, settings.as_libvirt)?, each)))
        .collect::<Result<_, Failure>>()?;
    let begin = Instant::now();
    for (client, _) in &mut clients {
        client.send(READING)?;
    }
    let timeout = Timespec::try_from(START_WAIT).ok();
    while !clients.is_empty() {
        let mut waiting: Vec<_> = clients
            .iter()
            .map(|(client, _)| PollFd::new(&client.stream, PollFlags::IN))
            .collect();
        let ready = poll(&mut waiting, timeout.as_ref())
            .map_err(|error| Failure::io("wait for", path)(error.into()))?;
        if ready == 0 {
            return Err(Failure::Wrong(format!("{} is silent", path.display())));
        }
        let mut is_ready = waiting
            .iter()
            .map(|one| !one.revents().is_empty())
            .collect::<Vec<_>>()
            .into_iter();
        for (client, left) in &mut clients {
            if is_ready.next() == Some(true) {
                client.answer()?;
                *left -= 1;
                if *left > 0 {
                    client.send(READING)?;
                }
            }
        }
        clients.retain(|(_, left)| *left > 0);
    }
    let count = number((settings.clients * each) as u64);
    Ok(count / begin.elapsed().as_secs_f64())
}

/// Ways that are measured.
const ROWS: usize = 8;

/// What all rounds found.
#[derive(Default)]
struct Found {
    direct: Vec<u64>,
    proxy: Vec<u64>,
    effect_direct: Vec<u64>,
    effect_proxy: Vec<u64>,
    relay: Vec<u64>,
    effect_relay: Vec<u64>,
    sync: Vec<u64>,
    /// Each before an effect that goes to QEMU directly: what a sync takes where the processor and the disk slept meanwhile.
    sync_between: Vec<u64>,
    one_direct: f64,
    many_proxy: f64,
}

fn microseconds(sorted: &[u64], percent: usize) -> Option<f64> {
    percentile(sorted, percent).map(|value| number(value) / 1_000.0)
}

/// Measures both ways in turns.
///
/// # Errors
/// QEMU or the sidecar cannot be started, or one of them does not answer.
pub fn measure(settings: &Settings, say: &dyn Fn(&str)) -> Result<Vec<Table>, Failure> {
    let laboratory = Laboratory::start(settings)?;
    let mut limit = Limit::new(&settings.directory)?;
    let connect = |path: &Path| Client::connect(path, settings.as_libvirt);
    let mut direct = connect(&laboratory.direct)?;
    let mut proxy = connect(&laboratory.proxy)?;
    let front = settings.directory.join("relay.sock");
    let listener = UnixListener::bind(&front).map_err(Failure::io("bind", &front))?;
    let beside = settings.directory.join("relay");
    fs::create_dir_all(&beside).map_err(Failure::io("create", &beside))?;
    let (path, limit_of_relay) = (laboratory.relayed.clone(), Limit::new(&beside)?);
    // It ends with its client.
    std::thread::spawn(move || relay(&listener, &path, limit_of_relay));
    let mut relayed = connect(&front)?;
    let mut found = Found::default();
    let few = settings.commands / 4;
    let rounds = number(settings.rounds as u64);
    for round in 1..=settings.rounds {
        say(&format!("proxy: round {round} of {}", settings.rounds));
        found
            .direct
            .extend(direct.measure(READING, settings.commands)?);
        found
            .proxy
            .extend(proxy.measure(READING, settings.commands)?);
        found
            .relay
            .extend(relayed.measure(READING, settings.commands)?);
        for _ in 0..few {
            let begin = Instant::now();
            limit.sync_one()?;
            found.sync_between.push(nanoseconds(begin.elapsed()));
            found.effect_direct.extend(direct.measure(EFFECT, 1)?);
        }
        found
            .sync
            .extend(limit.measure(1, Duration::from_millis(200))?.calls);
        found.effect_proxy.extend(proxy.measure(EFFECT, few)?);
        found.effect_relay.extend(relayed.measure(EFFECT, few)?);
        // A monitor of QEMU has one client.
        let count = direct.measure(READING, settings.commands)?;
        let took: u64 = count.iter().sum();
        found.one_direct += number(count.len() as u64) / (number(took) / 1e9) / rounds;
        found.many_proxy += together(&laboratory.proxy, settings)? / rounds;
    }
    let before = laboratory.resident()?;
    let idle: Vec<Client> = (0..settings.idle)
        .map(|_| connect(&laboratory.proxy))
        .collect::<Result<_, _>>()?;
    let each = (laboratory.resident()? - before) / number(idle.len() as u64);
    Ok(vec![
        latency(found.sorted()),
        summary(&found, settings, each),
    ])
}

impl Found {
    fn sorted(&self) -> [(&'static str, Vec<u64>); ROWS] {
        let sorted = |values: &[u64]| {
            let mut values = values.to_vec();
            values.sort_unstable();
            values
        };
        [
            ("query-status, direct", sorted(&self.direct)),
            ("query-status, through the sidecar", sorted(&self.proxy)),
            ("query-status, through a bare relay", sorted(&self.relay)),
            ("an effect, direct", sorted(&self.effect_direct)),
            ("an effect, through the sidecar", sorted(&self.effect_proxy)),
            (
                "an effect, through a bare relay with one write and one sync",
                sorted(&self.effect_relay),
            ),
            (
                "one write and one sync of the disk, one after the other",
                sorted(&self.sync),
            ),
            (
                "one write and one sync of the disk, each before an effect, direct",
                sorted(&self.sync_between),
            ),
        ]
    }
}

fn latency(rows: [(&'static str, Vec<u64>); ROWS]) -> Table {
    let rows = rows.map(|(name, sorted)| {
        let mut row = vec![Entry::Text(name.to_owned())];
        row.extend([50, 90, 99].map(|percent| Entry::of(microseconds(&sorted, percent), 1)));
        row
    });
    Table {
        title: "The monitor in QEMU's place: one client, round trips".to_owned(),
        columns: vec!["what", "p50 us", "p90 us", "p99 us"],
        rows: rows.to_vec(),
        notes: Vec::new(),
    }
}

fn summary(found: &Found, settings: &Settings, idle: f64) -> Table {
    let [
        direct,
        proxy,
        relay,
        effect_direct,
        effect_proxy,
        effect_relay,
        sync,
        sync_between,
    ] = found.sorted();
    let middle = |(_, sorted): &(&str, Vec<u64>)| microseconds(sorted, 50);
    let difference = |more: Option<f64>, less: Option<f64>| Some(more? - less?);
    let beside_direct = |way| difference(middle(way), middle(&direct));
    let beside = |way, sync| {
        difference(
            difference(middle(way), middle(&effect_direct)),
            middle(sync),
        )
    };
    let added = beside_direct(&proxy);
    let half = microseconds(&direct.1, 99).map(|p99| p99 / 2.0);
    let row = |name: String, value: Option<f64>, limit: Entry| {
        vec![Entry::Text(name), Entry::of(value, 2), limit]
    };
    Table {
        title: "The monitor in QEMU's place: what it costs".to_owned(),
        columns: vec!["what", "measured", "wanted"],
        rows: vec![
            row(
                "added to query-status at p50, us, below".to_owned(),
                added,
                Entry::Number(60.0, 0),
            ),
            row(
                "the same, below half of the direct p99, us".to_owned(),
                added,
                Entry::of(half, 1),
            ),
            row(
                format!(
                    "{} clients together, beside one direct, at least",
                    settings.clients
                ),
                Some(found.many_proxy / found.one_direct),
                Entry::Number(0.8, 1),
            ),
            row(
                "added to an effect beside one sync, each before an effect, at p50, us, below"
                    .to_owned(),
                beside(&effect_proxy, &sync_between),
                Entry::Number(100.0, 0),
            ),
            row(
                "the same beside one sync of many, one after the other, us, below".to_owned(),
                beside(&effect_proxy, &sync),
                Entry::Number(100.0, 0),
            ),
            row(
                "a bare relay adds to query-status, us".to_owned(),
                beside_direct(&relay),
                Entry::Text(String::new()),
            ),
            row(
                "a bare relay adds to an effect beside one sync, each before an effect, us"
                    .to_owned(),
                beside(&effect_relay, &sync_between),
                Entry::Text(String::new()),
            ),
            row(
                "memory of an idle client, KiB, below".to_owned(),
                Some(idle),
                Entry::Number(64.0, 0),
            ),
        ],
        notes: vec![format!(
            "{} rounds of {} commands, in turns; one direct client asks {:.0} times a second, {} through the sidecar {:.0} times",
            settings.rounds,
            settings.commands,
            found.one_direct,
            settings.clients,
            found.many_proxy
        )],
    }
}
