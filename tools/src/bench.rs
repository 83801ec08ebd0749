//! `phase-journal bench`: hands over to the benchmark, a program of its own.
//!
//! Invariant: what it says and how it ends is the benchmark's; nothing of it is part of this program, so
//! that the peers it is measured beside are not either.
//! Not here: the benchmark (bench/).

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::error::ToolError;

/// The benchmark's program.
const PROGRAM: &str = "phase-journal-bench";
/// Where it is, if somewhere else than expected.
const PROGRAM_VARIABLE: &str = "PHASE_JOURNAL_BENCH";

/// What is given to the benchmark.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct BenchArgs {
    /// What to measure, and how: `journal --help` tells
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    arguments: Vec<OsString>,
}

/// Becomes the benchmark. Returns only if there is none.
pub(crate) fn run(args: &BenchArgs, json: bool) -> ToolError {
    let Some(program) = find() else {
        return ToolError::Argument(format!(
            "there is no {PROGRAM} beside this program or in PATH: tools/bench builds and runs it"
        ));
    };
    let mut command = Command::new(&program);
    command.args(&args.arguments);
    if json {
        command.arg("--json");
    }
    let source = command.exec();
    ToolError::Program {
        path: program,
        source,
    }
}

/// Where it was said to be; beside this program; where a release build beside this one puts it; in PATH.
fn find() -> Option<PathBuf> {
    if let Some(said) = env::var_os(PROGRAM_VARIABLE) {
        return Some(PathBuf::from(said));
    }
    let own = env::current_exe().ok();
    let beside = own
        .iter()
        .flat_map(|own| own.ancestors().skip(1).take(2))
        .flat_map(|directory| [directory.to_path_buf(), directory.join("release")]);
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<PathBuf> = env::split_paths(&path).collect();
    beside
        .chain(in_path)
        .map(|directory| directory.join(PROGRAM))
        .find(|program| program.is_file())
}
