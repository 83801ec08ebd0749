//! The `phase-journal` command: offline inspection of journals, online control of a sidecar.
//!
//! Invariant: offline commands change nothing in a journal (`reindex` makes its index anew, which is no
//! part of it); every command writes to a writer that it is given, and ends with a documented exit code.
//! Not here: what a record means (`phase_journal::engine`), the files (`phase_journal::journal`).

mod bench;
mod diff;
mod dump;
mod error;
mod explain;
mod follow;
mod headers;
mod libvirt;
mod manual;
mod migrate;
mod online;
mod past;
mod reindex;
mod repair;
mod text;
mod timeline;
mod verify;
mod words;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use error::{Found, ToolError};

/// Found damage, a domain in doubt, or a migration that did not succeed.
const EXIT_FOUND: u8 = 1;
/// Could not be done.
const EXIT_FAILED: u8 = 2;

/// Where a sidecar listens if nothing else is said.
const SOCKET_DEFAULT: &str = "/run/phase-journal/control.sock";

/// Look into journals of migrations, and control a sidecar.
#[derive(Debug, Parser)]
#[command(
    name = "phase-journal",
    version,
    after_help = "Exit codes: 0 fine; 1 found damage, a domain in doubt, or a migration that did not \
                  succeed; 2 could not do it."
)]
struct Cli {
    /// For programs: JSON (one value; for dump one line each)
    #[arg(long, global = true)]
    json: bool,

    /// The sidecar's control socket
    #[arg(long, global = true, value_name = "PATH", env = "PHASE_JOURNAL_SOCKET", default_value = SOCKET_DEFAULT)]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every record of a journal, in order (offline)
    Dump(dump::DumpArgs),
    /// Is a journal sound? (offline)
    Verify(verify::VerifyArgs),
    /// Every decision of a journal: rule, evidence, records, and the proof that it can be made again
    /// (offline)
    Explain(explain::ExplainArgs),
    /// What happened, as a picture: SVG, a page, or a trace (offline)
    Timeline(timeline::TimelineArgs),
    /// Two journals beside each other: both sides of a migration, or a journal and its copy (offline)
    Diff(diff::DiffArgs),
    /// What libvirt does at its next start, from its status files, and what this engine would (offline)
    Libvirt(libvirt::LibvirtArgs),
    /// Make a journal's index anew (offline)
    Reindex(reindex::ReindexArgs),
    /// Copy what can be read of a damaged journal into a new directory (offline)
    Repair(repair::RepairArgs),
    /// Domains, open jobs, and what is held and why
    Status,
    /// All domains
    Domains,
    /// Open jobs
    Jobs(online::JobsArgs),
    /// Decisions of a running sidecar
    Decisions(online::DecisionsArgs),
    /// The running sidecar's journal
    Journal,
    /// Register a domain
    DomainAdd(online::DomainAddArgs),
    /// Take a domain out
    DomainRemove(Name),
    /// Stop a guest, as its owner
    Suspend(Name),
    /// Continue a guest, as its owner
    Resume(Name),
    /// Migrate a domain to another sidecar, and watch it
    Migrate(migrate::MigrateArgs),
    /// Give the manager's verdict on a migration whose authority it is
    Verdict(online::VerdictArgs),
    /// End a job, if it still can be
    Cancel(online::CancelArgs),
    /// Settle a held domain, on the record
    Resolve(online::ResolveArgs),
    /// Manual pages, and completions for shells
    Generate(manual::GenerateArgs),
    /// Measure the journal beside its peers (a program of its own: see tools/bench)
    Bench(bench::BenchArgs),
}

/// A domain's name.
#[derive(Debug, Args)]
struct Name {
    /// The domain's name
    name: String,
}

fn main() -> ExitCode {
    let cli: Cli = manual::parse();
    let mut out = io::stdout().lock();
    match run(&cli, &mut out).and_then(|found| out.flush().map(|()| found).map_err(ToolError::from))
    {
        Ok(Found::Nothing) => ExitCode::SUCCESS,
        Ok(Found::Something) => ExitCode::from(EXIT_FOUND),
        // Whoever reads has seen enough.
        Err(ToolError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Where nobody reads it, the exit code says as much.
            let error = text::plain(&error.to_string());
            drop(writeln!(io::stderr(), "phase-journal: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run(cli: &Cli, out: &mut impl io::Write) -> Result<Found, ToolError> {
    let online = || online::Online::connect(&cli.socket, cli.json);
    match &cli.command {
        Command::Dump(args) => dump::run(args, cli.json, out),
        Command::Verify(args) => verify::run(args, cli.json, out),
        Command::Explain(args) => explain::run(args, cli.json, out),
        Command::Diff(args) => diff::run(args, cli.json, out),
        Command::Libvirt(args) => libvirt::run(args, cli.json, out),
        Command::Timeline(args) => timeline::run(args, out),
        Command::Reindex(args) => reindex::run(args, cli.json, out),
        Command::Repair(args) => repair::run(args, cli.json, out),
        Command::Status => online()?.status(out),
        Command::Domains => online()?.domains(out),
        Command::Jobs(args) => online()?.jobs(args, out),
        Command::Decisions(args) => online()?.decisions(args, out),
        Command::Journal => online()?.journal(out),
        Command::DomainAdd(args) => online()?.domain_add(args, out),
        Command::DomainRemove(args) => online()?.by_name("domain-remove", &args.name, out),
        Command::Suspend(args) => online()?.by_name("domain-suspend", &args.name, out),
        Command::Resume(args) => online()?.by_name("domain-resume", &args.name, out),
        Command::Migrate(args) => migrate::run(args, &cli.socket, cli.json, out),
        Command::Verdict(args) => online()?.verdict(args, out),
        Command::Cancel(args) => online()?.cancel(args, out),
        Command::Resolve(args) => online()?.resolve(args, out),
        Command::Generate(args) => manual::run::<Cli>(args, out),
        Command::Bench(args) => Err(bench::run(args, cli.json)),
    }
}
