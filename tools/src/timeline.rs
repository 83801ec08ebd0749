//! `phase-journal timeline`: what happened, as a picture: both sides of migrations, phases, effects, facts,
//! decisions, restarts, and where the guest stood still.
//!
//! Invariant: reads without a lock and writes only the one file that it is told to.
//! Not here: what a record means (the engine), lists of records (`dump`).

mod axis;
mod clocks;
mod draw;
mod guest;
mod html;
mod lanes;
mod load;
mod model;
mod overview;
mod perfetto;
mod select;
mod svg;

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::error::{Found, ToolError};
use axis::Scale;

pub(crate) use html::in_order;
pub(crate) use load::load;
pub(crate) use model::{Group, Story};

/// What to draw, and how.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("form").required(true),
    after_help = "\
Examples:
  phase-journal timeline host-a/journal host-b/journal --html -o evacuation.html
  phase-journal timeline /var/lib/phase-journal --domain web-1 --last 1 --svg -o web-1.svg

A picture holds up to 2000 jobs and 200,000 records, all of them in memory (about 1 KiB each); of longer journals \
choose with --domain, --job, --migration or --last: the rest is gone over and not kept."
)]
pub(crate) struct TimelineArgs {
    /// The journals' directories: one, or those of all hosts that took part
    #[arg(required = true, value_name = "DIRECTORY")]
    directories: Vec<PathBuf>,
    /// A picture (SVG)
    #[arg(long, group = "form")]
    svg: bool,
    /// A page: records can be chosen, read and found in it; needs no network
    #[arg(long, group = "form")]
    html: bool,
    /// A trace for ui.perfetto.dev (Trace Event Format)
    #[arg(long, group = "form")]
    perfetto: bool,
    /// Write here (else to the standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How time becomes width [default: events for up to 4 jobs, else linear]
    #[arg(long, value_enum)]
    scale: Option<Scale>,
    #[command(flatten)]
    wanted: Wanted,
}

/// Which jobs; of a migration always both sides, as far as they are in the journals.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// Only this domain (name or UUID)
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Only this job (the LSN of its first record)
    #[arg(long, value_name = "LSN")]
    job: Option<u64>,
    /// Only this migration
    #[arg(long, value_name = "UUID")]
    migration: Option<String>,
    /// Only the last N
    #[arg(short = 'n', long = "last", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
}

impl Wanted {
    /// All of a domain, or all there is.
    pub(crate) fn of_domain(domain: Option<String>) -> Wanted {
        Wanted {
            domain,
            job: None,
            migration: None,
            last: None,
        }
    }

    fn is_all(&self) -> bool {
        self.domain.is_none() && self.job.is_none() && self.migration.is_none()
    }
}

/// Jobs in one picture, at the most.
const GROUPS_MAX: usize = 2_000;

/// Draws what the journals tell.
pub(crate) fn run(args: &TimelineArgs, out: &mut impl Write) -> Result<Found, ToolError> {
    let story = load(&args.directories, &args.wanted)?;
    if story.groups.len() > GROUPS_MAX {
        return Err(ToolError::Argument(format!(
            "{} jobs are too many for one picture (at most {GROUPS_MAX}): choose with --domain, --job, --migration or --last",
            story.groups.len()
        )));
    }
    let drawn = if args.svg {
        svg::svg(&story, args.scale, true)
    } else if args.html {
        html::html(&story, args.scale)
    } else {
        perfetto::perfetto(&story)
    };
    match &args.output {
        Some(path) => fs::write(path, drawn).map_err(|source| ToolError::Write {
            path: path.clone(),
            source,
        })?,
        None => out.write_all(drawn.as_bytes())?,
    }
    Ok(if story.is_damaged() {
        Found::Damage
    } else {
        Found::Nothing
    })
}
