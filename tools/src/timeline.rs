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

use std::fs::File;
use std::io::{self, BufWriter, Write};
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

A picture holds up to 2000 jobs and 75,000 records, so that it fits into 64 MiB of memory; of longer journals choose \
with --domain, --job, --migration or --last: the rest is gone over and not kept."
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

/// What was asked for has more than a picture holds.
fn too_many(what: &str) -> ToolError {
    ToolError::Argument(format!(
        "{what}: too many for one picture; choose with --domain, --job, --migration or --last"
    ))
}

/// Draws what the journals tell.
pub(crate) fn run(args: &TimelineArgs, out: &mut impl Write) -> Result<Found, ToolError> {
    let story = load(&args.directories, &args.wanted)?;
    if story.groups.len() > GROUPS_MAX {
        return Err(too_many(&format!("more than {GROUPS_MAX} jobs")));
    }
    match &args.output {
        Some(path) => {
            let failed = |source| ToolError::Write {
                path: path.clone(),
                source,
            };
            let file = File::create(path).map_err(failed)?;
            let mut file = BufWriter::new(file);
            draw(args, &story, &mut file)
                .and_then(|()| file.flush())
                .map_err(failed)?;
        }
        None => {
            let mut out = BufWriter::new(out);
            draw(args, &story, &mut out)?;
            out.flush()?;
        }
    }
    Ok(story.found())
}

fn draw(args: &TimelineArgs, story: &Story, out: &mut dyn Write) -> io::Result<()> {
    if args.svg {
        out.write_all(svg::svg(story, args.scale, true).as_bytes())
    } else if args.html {
        html::html(story, args.scale, out)
    } else {
        perfetto::perfetto(story, out)
    }
}
