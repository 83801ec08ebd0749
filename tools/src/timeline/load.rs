//! Journals to a story: jobs, their phases and effects, and which jobs are two sides of one migration.
//!
//! Invariant: reads without a lock and writes nothing; what is kept is bounded by [`MOMENTS_MAX`].
//! Not here: which hour it was on the other host (`clocks`).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use journal_format::number::{BootId, Lsn, MigrationId, Position};
use journal_format::record::{Decoded, JobKind, Phase, Protocol, RecordBody, Role};
use phase_journal::journal::verify::is_of_another_version;

use super::guest::guest;
use super::model::{Bar, Book, Decided, Group, Guest, Moment, Opened, Sent, Story, Time, Track};
use super::select::{census, select};
use super::{Wanted, clocks, too_many};
use crate::error::ToolError;
use crate::past::{Item, Past, Recorded};

/// Records of jobs that are kept, at the most: each takes some 500 bytes.
pub(crate) const MOMENTS_MAX: usize = 75_000;

/// Reads journals and keeps what is wanted of them.
pub(crate) fn load(journals: &[PathBuf], wanted: &Wanted) -> Result<Story, ToolError> {
    let mut story = Story::default();
    let jobs = census(journals, wanted)?;
    for (number, (directory, label)) in journals.iter().zip(labels(journals)).enumerate() {
        let jobs = jobs.as_ref().map(|jobs| &jobs[number]);
        read(&mut story, directory, label, jobs)?;
    }
    for track in 0..story.tracks.len() {
        follow(&mut story, track);
    }
    group(&mut story);
    clocks::align(&mut story);
    settle(&mut story);
    select(&mut story, wanted)?;
    Ok(story)
}

/// Names journals apart: as many of the last parts of their paths as that takes.
fn labels(directories: &[PathBuf]) -> Vec<String> {
    let last = |directory: &PathBuf, parts: usize| {
        let all: Vec<_> = directory.components().collect();
        let from = all.len().saturating_sub(parts);
        let path: PathBuf = all[from..].iter().collect();
        path.to_string_lossy().into_owned()
    };
    let most = directories
        .iter()
        .map(|directory| directory.components().count());
    let most = most.max().unwrap_or(1);
    let named = |parts: usize| -> Vec<String> {
        directories
            .iter()
            .map(|directory| last(directory, parts))
            .collect()
    };
    let apart = |labels: &Vec<String>| {
        let distinct: BTreeSet<&String> = labels.iter().collect();
        distinct.len() == labels.len()
    };
    (1..=most)
        .map(named)
        .find(apart)
        .unwrap_or_else(|| named(most))
}

/// Times of one boot by its own clock that cannot be set, begun where the first batch says it was.
#[derive(Default)]
struct Clock {
    boot: Option<(BootId, u64, u64)>,
}

impl Clock {
    fn time(&mut self, boot: BootId, wall: u64, monotonic: u64) -> Time {
        match self.boot {
            Some((same, base, since)) if same == boot => {
                base.saturating_add(monotonic.saturating_sub(since))
            }
            Some(_) | None => {
                self.boot = Some((boot, wall, monotonic));
                wall
            }
        }
    }
}

fn read(
    story: &mut Story,
    directory: &Path,
    label: String,
    jobs: Option<&BTreeSet<Lsn>>,
) -> Result<(), ToolError> {
    let past = Past::open(directory)?;
    let head = past
        .segments()
        .iter()
        .find_map(|file| file.header.as_ref().ok());
    let journal = head.map(|head| head.journal);
    let given = story
        .books
        .iter()
        .find(|book| journal.is_some() && book.journal == journal);
    if let Some(given) = given {
        return Err(ToolError::Argument(format!(
            "{label} and {} are the same journal: give one of them (diff compares copies)",
            given.label
        )));
    }
    let number = story.books.len();
    let mut book = Book {
        label,
        journal,
        host: head.map(|head| head.host),
        openings: Vec::new(),
        is_not_read: is_of_another_version(past.segments()),
        lost: Vec::new(),
        end: 0,
        shift: 0,
        aligned: String::new(),
        uncertain: Some(0),
    };
    let mut clock = Clock::default();
    let mut tracks: BTreeMap<Lsn, usize> = BTreeMap::new();
    let mut last: Option<(u32, BootId)> = None;
    let mut lost: Vec<(Time, String)> = Vec::new();
    past.read(|item| {
        let recorded = match item {
            Item::Batch(..) => return Ok(()),
            Item::Gap(gap) => {
                lost.push((book.end, gap.to_string()));
                return Ok(());
            }
            Item::Record(recorded) => recorded,
        };
        let batch = &recorded.batch;
        let at = clock
            .time(batch.boot, batch.wall, batch.monotonic)
            .max(book.end);
        book.lost.extend(
            lost.drain(..)
                .map(|(from, why)| (if from == 0 { at } else { from }, at, why)),
        );
        let opening = (batch.epoch.0, batch.boot);
        if let Some(before) = last.replace(opening)
            && before.0 != opening.0
        {
            book.openings.push(Opened {
                epoch: opening.0,
                silent_from: book.end,
                at,
                booted: before.1 != opening.1,
            });
        }
        book.end = at;
        let is_wanted = |job: &Lsn| jobs.is_none_or(|jobs| jobs.contains(job));
        if let Some(job) = recorded.job.filter(is_wanted) {
            keep(story, number, &mut tracks, job, at, &recorded)?;
        }
        Ok(())
    })?;
    let end = book.end;
    book.lost
        .extend(lost.into_iter().map(|(from, why)| (from, end, why)));
    story.books.push(book);
    Ok(())
}

fn keep(
    story: &mut Story,
    book: usize,
    tracks: &mut BTreeMap<Lsn, usize>,
    job: Lsn,
    at: Time,
    recorded: &Recorded,
) -> Result<(), ToolError> {
    if story.moments.len() >= MOMENTS_MAX {
        return Err(too_many(&format!(
            "more than {MOMENTS_MAX} records of jobs"
        )));
    }
    let track = *tracks.entry(job).or_insert_with(|| {
        story.tracks.push(Track {
            book,
            job,
            name: "-".to_owned(),
            domain: recorded.record.domain(),
            kind: None,
            role: None,
            protocol: None,
            migration: None,
            moments: Vec::new(),
            bars: Vec::new(),
            effects: Vec::new(),
            decisions: Vec::new(),
            ended: None,
        });
        story.tracks.len() - 1
    });
    if let Some(name) = &recorded.name {
        story.tracks[track].name.clone_from(name);
    }
    let (body, kind) = match &recorded.record {
        Decoded::Known(record) => (
            Some(record.body.clone()),
            Cow::Borrowed(record.body.type_name()),
        ),
        Decoded::Unknown { kind, version, .. } => {
            (None, Cow::Owned(format!("type {kind} version {version}")))
        }
    };
    story.tracks[track].moments.push(story.moments.len());
    story.moments.push(Moment {
        book,
        track,
        lsn: recorded.record.lsn(),
        at,
        wall: recorded.batch.wall,
        batch: recorded.batch.first,
        segment: recorded.batch.segment,
        offset: recorded.offset,
        body,
        kind,
    });
    Ok(())
}

/// The phase that a job begins in (the engine's `begin_migration`).
fn first_phase(role: Role, protocol: Protocol) -> Phase {
    match (role, protocol) {
        (Role::Source, Protocol::V3) => Phase::Begin3,
        (Role::Source, Protocol::V2) => Phase::Perform2,
        (Role::Destination, Protocol::V2 | Protocol::V3) => Phase::Prepare,
    }
}

/// Phases, effects, decisions and the end of one job.
fn follow(story: &mut Story, number: usize) {
    let moments = std::mem::take(&mut story.tracks[number].moments);
    let mut track = Track {
        moments: Vec::new(),
        ..take(&mut story.tracks[number])
    };
    let end = story.books[track.book].end;
    let mut sent: BTreeMap<Lsn, usize> = BTreeMap::new();
    for index in &moments {
        let moment = &story.moments[*index];
        let at = moment.at;
        let enter = |track: &mut Track, label: String, phase: Option<Phase>| {
            if let Some(bar) = track.bars.last_mut().filter(|bar| bar.open) {
                bar.to = at;
                bar.open = false;
            }
            track.bars.push(Bar {
                label,
                phase,
                moment: *index,
                from: at,
                to: end,
                open: true,
            });
        };
        match &moment.body {
            Some(RecordBody::JobBegun(begun)) => {
                track.kind = Some(begun.kind);
                match &begun.migration {
                    Some(terms) => {
                        (track.role, track.protocol) = (Some(terms.role), Some(terms.protocol));
                        track.migration = Some(terms.migration);
                        let phase = first_phase(terms.role, terms.protocol);
                        enter(&mut track, phase.name().to_owned(), Some(phase));
                    }
                    None => enter(&mut track, begun.kind.name().to_owned(), None),
                }
            }
            // What a checkpoint restates is news only where the begin is not there any more.
            Some(RecordBody::MigrationState(state)) if track.bars.is_empty() => {
                let terms = &state.terms;
                (track.role, track.protocol) = (Some(terms.role), Some(terms.protocol));
                track.migration = Some(terms.migration);
                track.kind = Some(match terms.role {
                    Role::Source => JobKind::MigrationOut,
                    Role::Destination => JobKind::MigrationIn,
                });
                if state.open {
                    enter(&mut track, state.phase.name().to_owned(), Some(state.phase));
                }
            }
            Some(RecordBody::PhaseEntered(entered)) => {
                enter(
                    &mut track,
                    entered.phase.name().to_owned(),
                    Some(entered.phase),
                );
            }
            Some(RecordBody::EffectIntended(intended)) => {
                sent.insert(moment.lsn, track.effects.len());
                track.effects.push(Sent {
                    command: intended.command.name().to_owned(),
                    moment: *index,
                    from: at,
                    finished: None,
                    to: end,
                    result: None,
                });
            }
            Some(RecordBody::EffectFinished(finished)) => {
                if let Some(effect) = sent.get(&finished.effect) {
                    let effect = &mut track.effects[*effect];
                    effect.finished = Some(*index);
                    effect.to = at;
                    effect.result = Some(finished.result.clone());
                }
            }
            Some(RecordBody::Decided(decided)) => track.decisions.push(Decided {
                moment: *index,
                decision: decided.decision,
                rule: decided.rule.clone(),
            }),
            Some(RecordBody::JobEnded(ended)) => {
                track.ended = Some((*index, ended.result));
                if let Some(bar) = track.bars.last_mut() {
                    bar.to = at;
                    bar.open = false;
                }
            }
            Some(_) | None => {}
        }
    }
    track.moments = moments;
    story.tracks[number] = track;
}

fn take(track: &mut Track) -> Track {
    Track {
        book: track.book,
        job: track.job,
        name: std::mem::take(&mut track.name),
        domain: track.domain,
        kind: track.kind,
        role: track.role,
        protocol: track.protocol,
        migration: track.migration,
        moments: Vec::new(),
        bars: Vec::new(),
        effects: Vec::new(),
        decisions: Vec::new(),
        ended: None,
    }
}

/// Brings the sides of a migration together.
fn group(story: &mut Story) {
    let mut of: BTreeMap<MigrationId, usize> = BTreeMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (number, track) in story.tracks.iter().enumerate() {
        let known = track
            .migration
            .and_then(|migration| of.get(&migration).copied());
        let at = known.unwrap_or_else(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        if let Some(migration) = track.migration {
            of.insert(migration, at);
        }
        groups[at].push(number);
    }
    for mut tracks in groups {
        tracks.sort_by_key(|track| (story.tracks[*track].role, *track));
        story.groups.push(Group {
            tracks,
            from: 0,
            to: 0,
            guest: Guest::default(),
            heard: Vec::new(),
        });
    }
}

/// The position of the other side's journal that a record cites: all up to it was durable there by then.
pub(crate) fn cited(body: &RecordBody) -> Option<Position> {
    match body {
        RecordBody::PeerPrepared(prepared) => Some(prepared.position),
        RecordBody::PeerHeard(heard) => heard.position,
        RecordBody::OutcomeLearned(learned) => learned.position,
        RecordBody::MigrationCommitted(committed) => committed.cookie.map(|cookie| cookie.granted),
        _ => None,
    }
}

/// With the clocks aligned: when each group was, what was heard, where the guest stood still.
fn settle(story: &mut Story) {
    for number in 0..story.groups.len() {
        let tracks = story.groups[number].tracks.clone();
        let moments = || {
            tracks
                .iter()
                .flat_map(|track| &story.tracks[*track].moments)
        };
        let times: Vec<Time> = moments().map(|moment| story.time(*moment)).collect();
        let (from, to) = (times.iter().min(), times.iter().max());
        let open_until = tracks
            .iter()
            .flat_map(|track| story.tracks[*track].bars.iter().map(|bar| (*track, bar.to)))
            .map(|(track, to)| story.aligned(story.tracks[track].book, to));
        let to = open_until.chain(to.copied()).max();
        let heard =
            moments().filter_map(|moment| Some((said_at(story, &tracks, *moment)?, *moment)));
        let heard = heard.collect();
        let from = from.copied().unwrap_or(0);
        let to = to.unwrap_or(from);
        let guest = guest(story, &tracks, from, to);
        let group = &mut story.groups[number];
        (group.from, group.to) = (from, to);
        group.heard = heard;
        group.guest = guest;
    }
    story
        .groups
        .sort_by_key(|group| (group.from, group.tracks.first().copied()));
}

/// The last record of the other side that was there when a word was sent which this record heard.
fn said_at(story: &Story, tracks: &[usize], heard: usize) -> Option<usize> {
    let position = cited(story.moments[heard].body.as_ref()?)?;
    let other = tracks
        .iter()
        .map(|track| &story.tracks[*track])
        .find(|track| {
            track.book != story.moments[heard].book
                && story.books[track.book].journal == Some(position.journal)
        })?;
    let known = other
        .moments
        .partition_point(|moment| story.moments[*moment].lsn <= position.lsn);
    other.moments.get(known.checked_sub(1)?).copied()
}
