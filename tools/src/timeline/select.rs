//! Which jobs are wanted, and what has to be kept for them.
//!
//! Invariant: of a migration both sides are kept, as far as they are in the journals.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use journal_format::number::{DomainId, Id128, Lsn, MigrationId};
use journal_format::record::{Decoded, RecordBody};

use super::model::{Group, Story};
use super::{GROUPS_MAX, Wanted, too_many};
use crate::error::ToolError;
use crate::past::{Item, Past, Recorded};

/// The jobs of each journal whose records have to be kept: those that may be wanted, and their other sides.
/// `None` for all. A long journal is gone over for it once more, several are twice; of what is not wanted nothing
/// is kept.
pub(super) fn census(
    journals: &[PathBuf],
    wanted: &Wanted,
) -> Result<Option<Vec<BTreeSet<Lsn>>>, ToolError> {
    if wanted.is_all() && wanted.last.is_none() {
        return Ok(None);
    }
    let is_known =
        |id: &Option<MigrationId>, text: &String| id.is_some_and(|id| id.to_string() == *text);
    let domain = wanted.domain.as_deref();
    let id = domain.and_then(Id128::parse).map(DomainId);
    let last = wanted.last.and_then(|last| usize::try_from(last).ok());
    let mut migrations: BTreeSet<MigrationId> = BTreeSet::new();
    let mut jobs = Vec::new();
    for journal in journals {
        let mut of_book: BTreeMap<Lsn, Option<MigrationId>> = BTreeMap::new();
        each_job(journal, |job, migration, recorded| {
            let name = recorded.name.as_deref();
            let is_of = |of| name == Some(of) || id.is_some() && recorded.record.domain() == id;
            let is_wanted = domain.is_none_or(is_of)
                && wanted.job.is_none_or(|wanted| job == Lsn(wanted))
                && wanted
                    .migration
                    .as_ref()
                    .is_none_or(|text| is_known(&migration, text));
            if is_wanted {
                of_book.insert(job, migration);
            }
            // The last of all are among the last of each.
            while last.is_some_and(|last| of_book.len() > last) {
                of_book.pop_first();
            }
            match of_book.len() > JOBS_MAX {
                true => Err(too_many(&format!("more than {GROUPS_MAX} jobs"))),
                false => Ok(()),
            }
        })?;
        migrations.extend(of_book.values().flatten());
        jobs.push(of_book.into_keys().collect::<BTreeSet<Lsn>>());
    }
    if journals.len() > 1 {
        for (journal, jobs) in journals.iter().zip(&mut jobs) {
            each_job(journal, |job, migration, _| {
                if migration.is_some_and(|id| migrations.contains(&id)) {
                    jobs.insert(job);
                }
                Ok(())
            })?;
        }
    }
    Ok(Some(jobs))
}

/// Jobs of one journal that are told apart: each of a picture's may be one of its own.
const JOBS_MAX: usize = 2 * GROUPS_MAX;

/// Shows each job where it begins, and again where a checkpoint tells of it.
fn each_job(
    journal: &Path,
    mut each: impl FnMut(Lsn, Option<MigrationId>, &Recorded) -> Result<(), ToolError>,
) -> Result<(), ToolError> {
    Past::open(journal)?.read(|item| {
        let Item::Record(recorded) = item else {
            return Ok(());
        };
        let (Decoded::Known(record), Some(job)) = (&recorded.record, recorded.job) else {
            return Ok(());
        };
        let migration = match &record.body {
            RecordBody::JobBegun(begun) => begun.migration.as_ref().map(|terms| terms.migration),
            RecordBody::MigrationState(state) => Some(state.terms.migration),
            _ => return Ok(()),
        };
        each(job, migration, &recorded)
    })?;
    Ok(())
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
