//! The command's own manual: examples in every help, manual pages, completions for shells; all from the
//! same definitions.
//!
//! Invariant: every command that people see has an example that parses (a test walks them).
//! Not here: what the commands do.

use std::fs;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory, Parser, Subcommand};
use clap_complete::{Generator, Shell, generate};

use crate::error::{Found, ToolError};

/// The program's name, in examples and in files' names.
const NAME: &str = "phase-journal";

/// The example of each command.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("bench", &["bench journal --part append"]),
    ("cancel", &["cancel 6"]),
    ("decisions", &["decisions"]),
    (
        "diff",
        &[
            "diff host-a/journal host-b/journal",
            "diff /var/lib/phase-journal /backup/phase-journal",
        ],
    ),
    (
        "domain-add",
        &["domain-add web-1 --qmp /run/qemu/web-1.qmp"],
    ),
    ("domain-remove", &["domain-remove web-1"]),
    ("domains", &["domains --json"]),
    (
        "explain",
        &[
            "explain /var/lib/phase-journal --domain web-1",
            "explain /var/lib/phase-journal --at 20 --observe postmigrate,completed --peer committed",
        ],
    ),
    ("generate", &["generate man /usr/local/share/man/man1"]),
    ("generate man", &["generate man /usr/local/share/man/man1"]),
    (
        "generate completions",
        &["generate completions bash > /etc/bash_completion.d/phase-journal"],
    ),
    ("journal", &["journal"]),
    ("jobs", &["jobs --json"]),
    ("schema", &["schema > phase-journal.ksy"]),
    (
        "sim",
        &[
            "sim --runs 100",
            "sim --seed 7 --config tools/fleet.toml --story",
        ],
    ),
    (
        "libvirt",
        &[
            "libvirt /run/libvirt/qemu/*.xml",
            "libvirt web-1.xml --observe postmigrate,completed",
        ],
    ),
    (
        "migrate",
        &[
            "migrate web-1 --peer /run/b/peer.sock --uri unix:/run/b/stream",
            "migrate web-1 --peer /run/b/peer.sock --uri unix:/run/b/stream --capability multifd --parameter multifd-channels=4 --postcopy-after-passes 5 --deadline 600",
            "migrate web-1 --peer /run/b/peer.sock --uri unix:/run/b/stream --copy-disk root --copy-disk data=data-there",
        ],
    ),
    ("reindex", &["reindex /var/lib/phase-journal"]),
    (
        "repair",
        &["repair /var/lib/phase-journal --to /var/tmp/repaired"],
    ),
    (
        "resolve",
        &["resolve web-1 resume --force --statement 'host b is switched off'"],
    ),
    ("resume", &["resume web-1"]),
    (
        "status",
        &["status --socket /run/phase-journal/control.sock"],
    ),
    ("suspend", &["suspend web-1"]),
    ("verdict", &["verdict web-1 committed"]),
];

/// What to generate.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A manual page for every command, into a directory
    Man {
        /// Made if it is not there
        directory: PathBuf,
    },
    /// A completion script, to the standard output or into a directory under the name that the shell looks for
    Completions {
        /// For this shell
        #[arg(value_enum)]
        shell: Shell,
        /// Made if it is not there
        #[arg(long, value_name = "DIRECTORY")]
        to: Option<PathBuf>,
    },
}

/// Reads the command line.
///
/// # Errors
/// What clap says instead: help, the version, or what is wrong.
pub(crate) fn parse<C: Parser>() -> Result<C, clap::Error> {
    let command = with_examples(C::command());
    // On a terminal help is as wide as that. Who reads it elsewhere breaks lines by himself, and is given the same
    // everywhere.
    let command = match io::stdout().is_terminal() {
        true => command,
        false => command.term_width(0),
    };
    C::from_arg_matches(&command.try_get_matches()?)
}

/// The definitions with an example in each help.
pub(crate) fn with_examples(command: Command) -> Command {
    let names: Vec<String> = command
        .get_subcommands()
        .map(|known| known.get_name().to_owned())
        .collect();
    let mut command = command;
    for name in names {
        command = command.mut_subcommand(name.clone(), |known| exemplify(known, &name));
    }
    command
}

fn exemplify(command: Command, path: &str) -> Command {
    let examples = EXAMPLES
        .iter()
        .find(|(of, _)| *of == path)
        .map_or(&[][..], |(_, all)| all);
    let mut command = command;
    if !examples.is_empty() {
        let lines: Vec<String> = examples
            .iter()
            .map(|line| format!("  {NAME} {line}"))
            .collect();
        let title = if lines.len() == 1 {
            "Example"
        } else {
            "Examples"
        };
        let mut help = format!("{title}:\n{}", lines.join("\n"));
        if let Some(known) = command.get_after_help() {
            help = format!("{help}\n\n{known}");
        }
        command = command.after_help(help);
    }
    let names: Vec<String> = command
        .get_subcommands()
        .map(|known| known.get_name().to_owned())
        .collect();
    for name in names {
        let path = format!("{path} {name}");
        command = command.mut_subcommand(name, |known| exemplify(known, &path));
    }
    command
}

/// Generates.
pub(crate) fn run<C: CommandFactory>(
    args: &GenerateArgs,
    out: &mut impl Write,
) -> Result<Found, ToolError> {
    let command = with_examples(C::command());
    match &args.what {
        What::Man { directory } => {
            make(directory)?;
            // clap_mangen writes one page for each command, hidden ones left out.
            clap_mangen::generate_to(command, directory).map_err(|source| ToolError::Write {
                path: directory.clone(),
                source,
            })?;
        }
        What::Completions { shell, to: None } => {
            let mut script = Vec::new();
            generate(*shell, &mut { command }, NAME, &mut script);
            out.write_all(&script)?;
        }
        What::Completions {
            shell,
            to: Some(directory),
        } => {
            make(directory)?;
            let mut script = Vec::new();
            generate(*shell, &mut { command }, NAME, &mut script);
            let path = directory.join(shell.file_name(NAME));
            fs::write(&path, script).map_err(|source| ToolError::Write { path, source })?;
        }
    }
    Ok(Found::Nothing)
}

fn make(directory: &Path) -> Result<(), ToolError> {
    fs::create_dir_all(directory).map_err(|source| ToolError::Write {
        path: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Command, CommandFactory as _};

    use super::{EXAMPLES, NAME, with_examples};
    use crate::Cli;

    fn walk(command: &Command, path: &str, each: &mut impl FnMut(&str, &Command)) {
        for known in command
            .get_subcommands()
            .filter(|known| !known.is_hide_set())
        {
            if known.get_name() == "help" {
                continue;
            }
            let path = format!("{path} {}", known.get_name());
            let path = path.trim_start();
            each(path, known);
            walk(known, path, each);
        }
    }

    /// An example as a shell would cut it.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" > ").next().unwrap();
        let mut words = vec![NAME.to_owned()];
        for (number, part) in line.split('\'').enumerate() {
            if number % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    #[test]
    fn every_command_has_an_example_that_parses() {
        let mut commands = BTreeSet::new();
        walk(&with_examples(Cli::command()), "", &mut |path, command| {
            commands.insert(path.to_owned());
            let help = command.clone().render_help().to_string();
            assert!(help.contains("Example"), "{path} has no example:\n{help}");
        });
        for (path, examples) in EXAMPLES {
            assert!(commands.contains(*path), "there is no command '{path}'");
            for example in *examples {
                assert!(
                    example.starts_with(path),
                    "{example} is no example of {path}"
                );
                let parsed = Cli::command().try_get_matches_from(words(example));
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }

    /// All but the line of usage, which is not wrapped.
    #[test]
    fn help_is_as_wide_as_the_terminal() {
        walk(&with_examples(Cli::command()), "", &mut |path, command| {
            let mut command = command.clone().term_width(72);
            let help = command.render_long_help().to_string();
            let lines = help.lines().filter(|line| !line.starts_with("Usage: "));
            for line in lines.filter(|line| line.chars().count() > 72) {
                let words = line.split_whitespace();
                let longest = words.map(str::len).max().unwrap_or(0);
                assert!(longest > 50, "{path}: {line}");
            }
        });
    }

    #[test]
    fn the_definitions_are_sound() {
        with_examples(Cli::command()).debug_assert();
    }
}
