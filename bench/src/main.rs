//! The `phase-journal-bench` program: measures the journal beside its peers, and prints tables.
//!
//! Invariant: every output says where and how it was measured; a store in memory is refused, since it
//! syncs nothing.
//! Not here: the measurements (the library), building the peers (`tools/bench`).

mod children;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use phase_journal_bench::append::{self, Settings};
use phase_journal_bench::failure::Failure;
use phase_journal_bench::report::Table;
use phase_journal_bench::{costs, host, opening, ours, peers, proxy, replay};
use serde_json::json;
use tempfile::TempDir;

/// File systems that keep everything in memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];
/// Where there is one on nearly every Linux; /run, where the sidecar has its witness, is another.
const MEMORY_PATH: &str = "/dev/shm";

/// Measure the journal beside its peers.
#[derive(Debug, Parser)]
#[command(name = "phase-journal-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Durable appends, replay, opening, allocations, and where the time goes
    Journal(JournalArgs),
    /// The monitor in QEMU's place, beside QEMU's own
    Proxy(ProxyArgs),
    #[command(flatten)]
    Child(children::Child),
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Durable appends, beside the raw limit and the peers
    Append,
    /// Where the time of ours goes
    Costs,
    /// Going over a million records
    Replay,
    /// Opening a large journal with open jobs, and memory
    Open,
    /// Allocations on the append path
    Allocations,
}

#[derive(Debug, Args)]
struct JournalArgs {
    /// On the disk to be measured; a directory is made in it, and removed
    #[arg(long, value_name = "PATH", default_value = ".")]
    directory: PathBuf,
    /// Only this part (may be given again)
    #[arg(long, value_name = "PART")]
    part: Vec<Part>,
    /// Only stores whose names contain this (may be given again)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Numbers of writers
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64, 256])]
    writers: Vec<usize>,
    /// How often each run is made
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each run of appends is
    #[arg(long, default_value_t = 400)]
    milliseconds: u64,
    /// How long the raw limit is measured before and after each of them
    #[arg(long, default_value_t = 80)]
    limit_milliseconds: u64,
    /// A raw limit with a p99 above this is not quiet
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 900.0)]
    quiet: f64,
    /// Threads that run our callers' tasks; one for each CPU, as in the sidecar, if not said
    #[arg(long, value_name = "THREADS")]
    workers: Option<usize>,
    /// Keep one CPU from halting, by a thread of the lowest priority: in a virtual machine a halted
    /// CPU may wake up late, which then is all that is measured
    #[arg(long)]
    awake: bool,
    /// Records to replay
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Size of the journal that is opened
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    open_mib: u64,
    /// Open jobs in it
    #[arg(long, default_value_t = 1000)]
    jobs: u32,
    /// How often it is opened
    #[arg(long, default_value_t = 5)]
    openings: usize,
    /// For programs: one JSON value
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ProxyArgs {
    /// On the disk that the journal is to be on; a directory is made in it, and removed
    #[arg(long, value_name = "PATH", default_value = ".")]
    directory: PathBuf,
    /// The sidecar's program; the one beside this program, if not said
    #[arg(long, value_name = "PROGRAM")]
    sidecar: Option<PathBuf>,
    /// How often each way has its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Commands of one client in a turn
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(4..))]
    commands: u32,
    /// Clients at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=120))]
    clients: u32,
    /// Send commands as libvirt does, with ids and line ends, which QEMU reads byte by byte as all else; the sidecar has shorter
    /// ones. If not said, commands have neither, which is the sidecar's worst case
    #[arg(long)]
    as_libvirt: bool,
    /// Keep the processors awake meanwhile, with one thread for each that runs only where nobody else does: what is left
    /// is the sidecar's own, without the time in which a sleeping processor wakes
    #[arg(long)]
    awake: bool,
    /// For programs: one JSON value
    #[arg(long)]
    json: bool,
}

impl JournalArgs {
    fn has(&self, part: Part) -> bool {
        self.part.is_empty() || self.part.contains(&part)
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Journal(args) => journal(&args),
        Command::Proxy(args) => proxy(&args),
        Command::Child(child) => child.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("phase-journal-bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn say(what: &str) {
    eprintln!("bench: {what}");
}

fn place(parent: &Path) -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("phase-journal-bench-")
        .tempdir_in(parent)
        .map_err(Failure::io("make a directory in", parent))
}

/// A run leaves gigabytes behind if it is ended by Ctrl-C and nobody cleans up.
fn clean_up_when_interrupted(directories: Vec<PathBuf>) -> Result<(), Failure> {
    const ATTEMPTS: usize = 20;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(Failure::store("bench", "listen for signals"))?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            for directory in directories {
                // Files may still be made while it goes.
                let gone = || fs::remove_dir_all(&directory).is_ok() || !directory.exists();
                let _ = (0..ATTEMPTS).any(|_| gone());
            }
            std::process::exit(130);
        }
    });
    Ok(())
}

/// Takes what nobody else wants of one CPU, until the process ends.
fn keep_awake() -> Result<(), Failure> {
    const LOWEST: i32 = 19;
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let is_lowest = rustix::process::nice(LOWEST);
        if said.send(is_lowest).is_ok() && is_lowest.is_ok() {
            loop {
                std::hint::spin_loop();
            }
        }
    });
    heard
        .recv()
        .map_err(Failure::store("bench", "keep a CPU awake"))?
        .map(drop)
        .map_err(Failure::store("bench", "keep a CPU awake"))
}

fn journal(args: &JournalArgs) -> Result<(), Failure> {
    check(args)?;
    if args.awake {
        keep_awake()?;
    }
    let file_system = host::file_system(&args.directory)?;
    if IN_MEMORY.contains(&file_system.as_str()) {
        return Err(Failure::Wrong(format!(
            "{} is on {file_system}, which syncs nothing; give --directory on a disk",
            args.directory.display()
        )));
    }
    let work = place(&args.directory)?;
    let memory = Path::new(MEMORY_PATH);
    let memory = memory.is_dir().then(|| place(memory)).transpose()?;
    let run = memory.as_ref().unwrap_or(&work).path().join("run");
    let mut made = vec![work.path().to_path_buf()];
    made.extend(memory.as_ref().map(|memory| memory.path().to_path_buf()));
    clean_up_when_interrupted(made)?;

    let settings = Settings {
        directory: work.path().to_path_buf(),
        run: run.clone(),
        writers: args.writers.clone(),
        rounds: args.rounds,
        duration: Duration::from_millis(args.milliseconds),
        bracket: Duration::from_millis(args.limit_milliseconds),
        quiet_p99: args.quiet,
        workers: args.workers,
        only: args.only.clone(),
    };
    let mut tables = vec![header(&file_system, &work.path().join("probe"), &run)?];
    if let Some(workers) = args.workers {
        let note = format!("{workers} thread(s) run our callers' tasks, not one for each CPU");
        tables[0].notes.push(note);
    }
    if args.awake {
        let note = "a thread of the lowest priority kept one CPU from halting all the time";
        tables[0].notes.push(note.to_owned());
    }
    if args.has(Part::Append) {
        let mut found = append::measure(&settings, &say)?;
        if let Some(last) = found.last_mut() {
            last.notes = append::notes(&settings);
        }
        tables.extend(found);
    }
    if args.has(Part::Costs) {
        let memory = memory.as_ref().map(TempDir::path);
        tables.push(costs::measure(
            &args.writers,
            settings.duration,
            memory,
            &say,
        )?);
    }
    if args.has(Part::Replay) {
        tables.push(replay::measure(
            work.path(),
            args.records,
            args.rounds,
            &|name| settings.wants(name),
            &say,
            &children::write_store,
            &children::read_store,
        )?);
    }
    if args.has(Part::Open) {
        let (jobs, bytes) = (args.jobs, args.open_mib << 20);
        tables.push(opening::measure(
            work.path(),
            jobs,
            bytes,
            args.openings,
            &say,
            &|journal| children::build_journal(journal, jobs, bytes),
            &children::open_journal,
            &children::weigh_log,
        )?);
    }
    if args.has(Part::Allocations) {
        tables.push(children::allocations(work.path())?);
    }
    print(args.json, &tables);
    Ok(())
}

/// Idle clients that are weighed.
const IDLE_CLIENTS: usize = 100;

fn proxy(args: &ProxyArgs) -> Result<(), Failure> {
    let beside = || -> Result<PathBuf, Failure> {
        let own = std::env::current_exe().map_err(Failure::store("bench", "find itself"))?;
        Ok(own.with_file_name("phase-journald"))
    };
    let sidecar = args.sidecar.clone().map_or_else(beside, Ok)?;
    let work = place(&args.directory)?;
    clean_up_when_interrupted(vec![work.path().to_path_buf()])?;
    let file_system = host::file_system(&args.directory)?;
    let settings = proxy::Settings {
        directory: work.path().to_path_buf(),
        sidecar,
        rounds: args.rounds as usize,
        commands: args.commands as usize,
        clients: args.clients as usize,
        idle: IDLE_CLIENTS,
        as_libvirt: args.as_libvirt,
    };
    let _awake = match args.awake {
        true => proxy::keep_awake()?,
        false => Vec::new(),
    };
    let mut notes = vec![format!(
        "Linux {}, {} CPU(s): {}; journal on {file_system}",
        host::kernel(),
        host::cpus(),
        host::cpu_model()
    )];
    if args.awake {
        notes.push("the processors were kept awake (SCHED_IDLE)".to_owned());
    }
    if args.as_libvirt {
        notes.push("commands had ids and line ends, as libvirt's have".to_owned());
    }
    let mut tables = vec![Table {
        title: format!("phase-journal bench proxy, {}", host::date()),
        notes,
        ..Table::default()
    }];
    tables.extend(proxy::measure(&settings, &say)?);
    print(args.json, &tables);
    Ok(())
}

fn check(args: &JournalArgs) -> Result<(), Failure> {
    let wrong = |why: &str| Err(Failure::Wrong(why.to_owned()));
    if args.workers == Some(0)
        || args.writers.contains(&0)
        || args.rounds == 0
        || args.openings == 0
    {
        return wrong("nothing is measured with 0 writers, workers, rounds or openings");
    }
    if args.milliseconds == 0 || args.limit_milliseconds == 0 {
        return wrong("nothing is measured in 0 milliseconds");
    }
    Ok(())
}

/// Where, when, and with what.
fn header(file_system: &str, probe: &Path, run: &Path) -> Result<Table, Failure> {
    let mode = ours::io_mode(probe, run)?;
    let versions: Vec<String> = peers::VERSIONS
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let witness = host::file_system(run)?;
    Ok(Table {
        title: format!("phase-journal bench journal, {}", host::date()),
        notes: vec![
            format!(
                "Linux {}, {} CPU(s): {}",
                host::kernel(),
                host::cpus(),
                host::cpu_model()
            ),
            format!(
                "all stores on {file_system}; ours writes in mode '{mode}', its witness on {witness}"
            ),
            format!(
                "peers: {} (with SQLite {}), and libvirt's way, the rewrite of a whole file",
                versions.join(", "),
                peers::sqlite_version()
            ),
        ],
        ..Table::default()
    })
}

fn print(json: bool, tables: &[Table]) {
    if json {
        let tables: Vec<_> = tables.iter().map(Table::json).collect();
        println!("{}", json!({ "tables": tables }));
    } else {
        let tables: Vec<_> = tables.iter().map(Table::markdown).collect();
        print!("{}", tables.join("\n"));
    }
}
