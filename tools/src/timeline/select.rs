//! Which jobs are wanted, and what has to be kept for them.
//!
//! Invariant: of a migration both sides are kept, as far as they are in the journals.

use std::collections::BTreeSet;
use std::path::PathBuf;

use journal_format::number::{DomainId, Id128, Lsn, MigrationId};
use journal_format::record::{Decoded, RecordBody};

use super::Wanted;
use super::model::{Group, Story};
use crate::error::ToolError;
use crate::past::{Item, Past};

/// A job that a journal has.
struct Known {
    book: usize,
    job: Lsn,
    name: Option<String>,
    domain: Option<DomainId>,
    migration: Option<MigrationId>,
}

/// The jobs of each journal whose records have to be kept: those that may be wanted, and their other sides.
/// `None` for all. A long journal is gone over for it once more; its records are not all kept.
pub(super) fn census(
    journals: &[PathBuf],
    wanted: &Wanted,
) -> Result<Option<Vec<BTreeSet<Lsn>>>, ToolError> {
    if wanted.is_all() && wanted.last.is_none() {
        return Ok(None);
    }
    let mut known: Vec<Known> = Vec::new();
    // Each checkpoint tells of a job again.
    let mut seen: BTreeSet<(usize, Lsn)> = BTreeSet::new();
    for (book, directory) in journals.iter().enumerate() {
        Past::open(directory)?.read(|item| {
            let Item::Record(recorded) = item else {
                return Ok(());
            };
            let (Decoded::Known(record), Some(job)) = (&recorded.record, recorded.job) else {
                return Ok(());
            };
            let migration = match &record.body {
                RecordBody::JobBegun(begun) => {
                    begun.migration.as_ref().map(|terms| terms.migration)
                }
                RecordBody::MigrationState(state) => Some(state.terms.migration),
                _ => return Ok(()),
            };
            if !seen.insert((book, job)) {
                return Ok(());
            }
            known.push(Known {
                book,
                job,
                name: recorded.name.clone(),
                domain: record.domain,
                migration,
            });
            Ok(())
        })?;
    }
    let domain = wanted
        .domain
        .as_deref()
        .and_then(Id128::parse)
        .map(DomainId);
    let is_wanted = |known: &&Known| {
        wanted.domain.as_ref().is_none_or(|name| {
            known.name.as_ref() == Some(name) || domain.is_some() && known.domain == domain
        }) && wanted.job.is_none_or(|job| known.job == Lsn(job))
            && wanted.migration.as_ref().is_none_or(|migration| {
                known
                    .migration
                    .is_some_and(|id| id.to_string() == *migration)
            })
    };
    let mut jobs: Vec<BTreeSet<Lsn>> = vec![BTreeSet::new(); journals.len()];
    let mut migrations: BTreeSet<MigrationId> = BTreeSet::new();
    for (book, jobs) in jobs.iter_mut().enumerate() {
        let of_book = known.iter().filter(|known| known.book == book);
        let mut of_book: Vec<&Known> = of_book.filter(is_wanted).collect();
        // The last of all are among the last of each.
        if let Some(last) = wanted.last {
            let mut newest: BTreeSet<Lsn> = of_book.iter().map(|known| known.job).collect();
            while newest.len() > usize::try_from(last).unwrap_or(usize::MAX) {
                newest.pop_first();
            }
            of_book.retain(|known| newest.contains(&known.job));
        }
        jobs.extend(of_book.iter().map(|known| known.job));
        migrations.extend(of_book.iter().filter_map(|known| known.migration));
    }
    for known in &known {
        if known.migration.is_some_and(|id| migrations.contains(&id)) {
            jobs[known.book].insert(known.job);
        }
    }
    Ok(Some(jobs))
}

/// Keeps the groups that are wanted.
pub(super) fn select(story: &mut Story, wanted: &Wanted) -> Result<(), ToolError> {
    let id = wanted
        .domain
        .as_deref()
        .and_then(Id128::parse)
        .map(DomainId);
    let is_wanted = |group: &Group| {
        let tracks = || group.tracks.iter().map(|track| &story.tracks[*track]);
        let named = |name: &String| {
            tracks().any(|track| track.name == *name || id.is_some() && track.domain == id)
        };
        wanted.domain.as_ref().is_none_or(named)
            && wanted
                .job
                .is_none_or(|job| tracks().any(|track| track.job == Lsn(job)))
            && wanted.migration.as_ref().is_none_or(|migration| {
                tracks().any(|track| {
                    track
                        .migration
                        .is_some_and(|id| id.to_string() == *migration)
                })
            })
    };
    let kept: Vec<bool> = story.groups.iter().map(is_wanted).collect();
    let mut kept = kept.into_iter();
    story.groups.retain(|_| kept.next().unwrap_or(false));
    if let Some(last) = wanted.last {
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        let surplus = story.groups.len().saturating_sub(last);
        story.groups.drain(..surplus);
    }
    if story.groups.is_empty() {
        return Err(ToolError::Argument(match wanted.is_all() {
            true => "there is no job in these journals".to_owned(),
            false => "no job in these journals is what was asked for".to_owned(),
        }));
    }
    Ok(())
}
