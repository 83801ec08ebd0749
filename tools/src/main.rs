//! The `phase-journal` command: offline inspection of journals, online control of a sidecar.
//!
//! Invariant: offline commands change nothing in a journal (`reindex` makes its index anew, which is no
//! part of it); every command writes to a writer that it is given, and ends with a documented exit code.
//! Not here: what a record means (`phase_journal::engine`), the files (`phase_journal::journal`).

mod agreement;
mod ahead;
mod backwards;
mod bench;
mod diff;
mod dump;
mod error;
mod examine;
mod explain;
mod filter;
mod follow;
mod headers;
mod hex;
mod indexed;
mod inspect;
mod libvirt;
mod manual;
mod merge;
mod migrate;
mod online;
mod outlook;
mod parts;
mod past;
mod print;
mod reindex;
mod repair;
mod rest;
mod schema;
mod sides;
mod sim;
mod source;
mod stats;
mod terminal;
mod text;
mod timeline;
mod verify;
mod when;
mod words;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use error::{EXIT_FAILED, EXIT_FINE, Found, ToolError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where a sidecar listens if nothing else is said.
const SOCKET_DEFAULT: &str = "/run/phase-journal/control.sock";

/// Look into journals of migrations, and control a sidecar.
#[derive(Debug, Parser)]
#[command(
    name = "phase-journal",
    version,
    after_help = "Exit codes: 0 fine; 1 found a torn tail, a domain in doubt, or a migration that did not \
                  succeed; 2 found damage or a broken promise; 3 could not do it."
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
    /// A journal on one screen: what it is, how it stands, what recovery would do (offline)
    Inspect(inspect::InspectArgs),
    /// Records of a journal, by domain, job, type, phase, time, ... (offline)
    Dump(dump::DumpArgs),
    /// How much of what a journal holds, and how long the phases took (offline)
    Stats(stats::StatsArgs),
    /// Is a journal sound, and does it keep what is promised? (offline)
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
    /// The format of a segment, for Kaitai Struct (offline)
    Schema,
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
    /// Run whole fleets in a deterministic world, and judge every promise (see --help)
    Sim(sim::SimArgs),
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
    let cli = match manual::parse::<Cli>() {
        Ok(cli) => cli,
        Err(said) => {
            // Where nobody reads it, the exit code says as much.
            drop(said.print());
            let is_asked_for = said.exit_code() == 0;
            return ExitCode::from(if is_asked_for { EXIT_FINE } else { EXIT_FAILED });
        }
    };
    let mut out = io::stdout().lock();
    match run(&cli, &mut out).and_then(|found| out.flush().map(|()| found).map_err(ToolError::from))
    {
        Ok(found) => ExitCode::from(found.exit_code()),
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
        Command::Inspect(args) => inspect::run(args, cli.json, out),
        Command::Dump(args) => dump::run(args, cli.json, out),
        Command::Stats(args) => stats::run(args, cli.json, out),
        Command::Verify(args) => verify::run(args, cli.json, out),
        Command::Explain(args) => explain::run(args, cli.json, out),
        Command::Diff(args) => diff::run(args, cli.json, out),
        Command::Libvirt(args) => libvirt::run(args, cli.json, out),
        Command::Timeline(args) => timeline::run(args, out),
        Command::Reindex(args) => reindex::run(args, cli.json, out),
        Command::Repair(args) => repair::run(args, cli.json, out),
        Command::Schema => schema::run(out),
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
        Command::Sim(args) => sim::run(args, cli.json, out),
        Command::Bench(args) => Err(bench::run(args, cli.json)),
    }
}

#[cfg(test)]
mod tests;
