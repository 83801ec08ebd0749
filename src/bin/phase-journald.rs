//! The sidecar: keeps the journal of a host's migrations, drives them, and recovers them.
//!
//! Invariant: exit code 0 means asked to stop, 1 that it failed at work, 2 that it never got there.
//! Not here: anything but the command line and the log's form (`sidecar`).

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use journal_format::record::RecordBody;

use phase_journal::journal::{OpenError, Retention};
use phase_journal::node::CrashSwitch;
use phase_journal::sidecar::{Config, LogFormat, RunError, run};
use tracing_subscriber::EnvFilter;

/// Failed while running: the journal took nothing any more.
const EXIT_FAILED: u8 = 1;

/// Could not start: bad flags, or a journal or directory that cannot be used.
const EXIT_NOT_STARTED: u8 = 2;

/// The sidecar that always knows where a migration stands.
///
/// Writes `ready` to standard output when every open job was looked at and decided once; logs to
/// standard error. Ends with 0 when asked to stop (SIGTERM, SIGINT), 1 when its journal failed,
/// 2 when it could not start.
#[derive(Debug, Parser)]
#[command(name = "phase-journald", version)]
struct Arguments {
    /// Directory of the journal; made with mode 0700 if missing
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,

    /// Directory of control.sock, peer.sock and the witness; made with mode 0700 if missing
    #[arg(long, value_name = "DIR")]
    run: PathBuf,

    /// Peer socket of another sidecar, to look for the other side of migrations at that a client drives by plain commands; again for
    /// more
    #[arg(long, value_name = "SOCKET")]
    peer: Vec<PathBuf>,

    /// Form of the log
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,

    /// Open a journal although the witness in the run directory knows a newer one: what it lacks counts as damaged, and
    /// every domain of it that this may concern is held until `resolve`
    #[arg(long)]
    accept_older_journal: bool,

    /// Keep at most so many MiB of the journal beside what open jobs need
    #[arg(long, value_name = "MIB", default_value_t = RETAIN_MIB_DEFAULT)]
    retain_mib: u64,

    /// Keep the journal for at most so many days; without this only its size counts
    #[arg(long, value_name = "DAYS")]
    retain_days: Option<u64>,

    /// Test switch: die (SIGKILL) after batch N about a migration is durable, before anything of it
    /// leaves the process
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    crash_after_batch: Option<u64>,

    /// Test switch: die (SIGKILL) right before batch N about a migration is written
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    crash_before_batch: Option<u64>,

    /// Test switch: die (SIGKILL) after the first batch with a record of this type is durable, by
    /// its name in a dump, such as migration-granted
    #[arg(long, value_name = "NAME")]
    crash_after_record: Option<String>,

    /// Test switch: the same, right before that batch is written
    #[arg(long, value_name = "NAME")]
    crash_before_record: Option<String>,

    /// Test switch: at the crash point kill this process (a QEMU) in place of this one, wait until it
    /// is gone, and go on
    #[arg(long, value_name = "PID")]
    crash_kills: Option<u32>,
}

const MIB: u64 = 1024 * 1024;
const RETAIN_MIB_DEFAULT: u64 = Retention::DEFAULT.bytes_max / MIB;
const DAY_NS: u64 = 24 * 60 * 60 * 1_000_000_000;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Arguments {
    /// # Errors
    /// The process that the crash switch shall kill is not there.
    fn config(self) -> std::io::Result<(Config, LogFormat)> {
        let format = match self.log_format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        };
        let bytes_max = self.retain_mib.saturating_mul(MIB);
        let retention = Retention {
            bytes_max,
            age_max: self.retain_days.map(|days| days.saturating_mul(DAY_NS)),
            needed_bytes_max: Retention::DEFAULT.needed_bytes_max.max(bytes_max),
        };
        let crash = CrashSwitch::new(
            self.crash_after_batch,
            self.crash_before_batch,
            self.crash_after_record,
            self.crash_before_record,
        );
        let config = Config {
            retention,
            journal: self.journal,
            run: self.run,
            accept_older_journal: self.accept_older_journal,
            peers: self
                .peer
                .iter()
                .map(std::path::absolute)
                .collect::<Result<_, _>>()?,
            crash: match self.crash_kills {
                None => crash,
                Some(pid) => crash.killing(pid)?,
            },
            store: None,
        };
        Ok((config, format))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let records = [
        &arguments.crash_after_record,
        &arguments.crash_before_record,
    ];
    for name in records.into_iter().flatten() {
        if !RecordBody::TYPES.iter().any(|(_, known)| known == name) {
            complain(&format!("there is no record type '{name}' to crash at"));
            return ExitCode::from(EXIT_NOT_STARTED);
        }
    }
    let (config, format) = match arguments.config() {
        Ok(config) => config,
        Err(error) => {
            complain(&format!("the process to kill at the crash point: {error}"));
            return ExitCode::from(EXIT_NOT_STARTED);
        }
    };
    start_log(format);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error}{}", way_out(&error)));
            ExitCode::from(match error.is_start() {
                true => EXIT_NOT_STARTED,
                false => EXIT_FAILED,
            })
        }
    }
}

/// What an operator who knows better can do.
fn way_out(error: &RunError) -> &'static str {
    match error {
        RunError::Open(OpenError::Older(_)) => {
            "; --accept-older-journal opens it all the same, and holds the domains that this may concern"
        }
        RunError::Open(OpenError::OtherHost { .. }) => {
            "; --accept-older-journal opens it all the same"
        }
        _ => "",
    }
}

/// One line for people; where nobody reads it, it is lost.
fn complain(error: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stderr(), "phase-journald: {error}"));
}

/// The log goes to standard error; `RUST_LOG` says how much of it.
fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written is lost; recovery goes on.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}
