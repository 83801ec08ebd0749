//! Two sides of migrations: what each says, in order, and where they contradict each other.
//!
//! Invariant: a contradiction names the records that it is between. What a side could not know yet is none.

use std::collections::BTreeMap;
use std::io::Write;

use journal_format::number::{Epoch, OpeningId, Position};
use journal_format::record::{JobResult, MigrationTerms, Outcome, PeerAnswer, RecordBody, Role};
use serde_json::{Value, json};

use super::DiffArgs;
use crate::error::{Found, ToolError};
use crate::past::Past;
use crate::text::{count, json_line, plain, time};
use crate::timeline::{Group, Story, Track, Wanted, cited, in_order, load};

/// What a journal has that others may have seen: its openings, and its last record.
#[derive(Default)]
struct Extent {
    openings: BTreeMap<Epoch, OpeningId>,
    /// 0 if it has none.
    last: u64,
}

impl Extent {
    /// Why the journal cannot be the one that was seen there; `None` if it can.
    fn lacks(&self, seen: &Position) -> Option<String> {
        if seen.lsn.0 > self.last {
            return Some(format!("it ends with record {}", self.last));
        }
        match self.openings.get(&seen.epoch) {
            Some(opening) if *opening != seen.opening => {
                Some(format!("its epoch {} is another life", seen.epoch))
            }
            // Old segments are let go.
            Some(_) | None => None,
        }
    }
}

/// The facts of one side, each with its record.
#[derive(Default)]
struct Facts<'a> {
    terms: Option<&'a MigrationTerms>,
    granted: Option<usize>,
    abandoned: Option<usize>,
    committed: Option<usize>,
    started: Option<usize>,
    aborted: Option<usize>,
    outcome: Option<(usize, Outcome)>,
    ended: Option<(usize, JobResult)>,
}

pub(super) fn run(args: &DiffArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    let directories = [args.one.clone(), args.other.clone()];
    let extents = [extent(args, 0)?, extent(args, 1)?];
    let story = load(&directories, &Wanted::of_domain(args.domain.clone()))?;
    let mut found = u64::from(story.is_damaged());
    let mut shown = Vec::new();
    if !json {
        for (book, sign) in story.books.iter().zip(["<", ">"]) {
            writeln!(
                out,
                "{sign} {}: {}",
                plain(&book.label),
                plain(&book.aligned)
            )?;
            for (_, _, why) in &book.lost {
                writeln!(out, "{sign} !! {}", plain(why))?;
            }
        }
    }
    for group in &story.groups {
        let contradictions = contradictions(&story, group, &extents);
        found += contradictions.len() as u64;
        if json {
            shown.push(group_json(&story, group, &contradictions));
        } else {
            group_text(&story, group, &contradictions, out)?;
        }
    }
    if json {
        let all = json!({"migrations": shown, "contradictions": found});
        writeln!(out, "{}", json_line(&all))?;
    } else {
        match found {
            0 => writeln!(out, "the sides agree")?,
            found => writeln!(out, "{}", count(found, "contradiction"))?,
        }
    }
    Ok(match found {
        0 => Found::Nothing,
        _ => Found::Something,
    })
}

fn extent(args: &DiffArgs, side: usize) -> Result<Extent, ToolError> {
    let directory = [&args.one, &args.other][side];
    let past = Past::open(directory)?;
    let mut extent = Extent::default();
    for file in past.segments() {
        if let Ok(head) = &file.header {
            extent.openings.insert(head.epoch, head.opening);
        }
    }
    past.read(|item| {
        if let crate::past::Item::Record(recorded) = item {
            extent.last = recorded.record.lsn().0;
        }
        Ok(())
    })?;
    Ok(extent)
}

fn facts<'a>(story: &'a Story, track: &Track) -> Facts<'a> {
    let mut facts = Facts::default();
    for index in &track.moments {
        let at = Some(*index);
        match story.moments[*index].body.as_ref() {
            Some(RecordBody::JobBegun(begun)) => facts.terms = begun.migration.as_ref(),
            Some(RecordBody::MigrationState(state)) => {
                facts.terms = facts.terms.or(Some(&state.terms));
            }
            Some(RecordBody::MigrationGranted(_)) => facts.granted = at,
            Some(RecordBody::MigrationAbandoned(_)) => facts.abandoned = at,
            Some(RecordBody::MigrationCommitted(_)) => facts.committed = at,
            Some(RecordBody::MigrationStarted(_)) => facts.started = at,
            Some(RecordBody::MigrationAborted(_)) => facts.aborted = at,
            Some(RecordBody::OutcomeLearned(learned)) => {
                facts.outcome = Some((*index, learned.outcome));
            }
            Some(RecordBody::JobEnded(ended)) => facts.ended = Some((*index, ended.result)),
            Some(_) | None => {}
        }
    }
    facts
}

/// Where the two sides of a migration cannot both be right.
fn contradictions(story: &Story, group: &Group, extents: &[Extent; 2]) -> Vec<String> {
    let mut found = Vec::new();
    for track in &group.tracks {
        found.extend(unknown_positions(story, &story.tracks[*track], extents));
    }
    let (source, destination) = (
        story.side(group, Role::Source),
        story.side(group, Role::Destination),
    );
    let (Some(source), Some(destination)) = (source, destination) else {
        return found;
    };
    if group.tracks.len() > 2 {
        found.push("the migration is in these journals more than twice".to_owned());
    }
    let (here, there) = (facts(story, source), facts(story, destination));
    let at = |moment: usize| {
        let moment = &story.moments[moment];
        format!("{} record {}", story.books[moment.book].label, moment.lsn)
    };
    if let (Some(here), Some(there)) = (here.terms, there.terms) {
        found.extend(terms(here, there));
    }
    let mut both = |one: Option<usize>, other: Option<usize>, why: &str| {
        if let (Some(one), Some(other)) = (one, other) {
            found.push(format!("{why}: {}, {}", at(one), at(other)));
        }
    };
    let outcome = |is: Outcome| {
        here.outcome
            .filter(|(_, outcome)| *outcome == is)
            .map(|(at, _)| at)
    };
    both(
        here.abandoned,
        there.committed,
        "the source gave up, and the destination committed",
    );
    both(
        there.committed.and(there.started),
        there.aborted,
        "the destination started the guest, and aborted",
    );
    both(
        outcome(Outcome::Committed),
        there.aborted,
        "the source was told committed, and the destination aborted",
    );
    both(
        outcome(Outcome::Aborted),
        there.started,
        "the source was told aborted, and the destination started the guest",
    );
    let ended = |of: &Facts<'_>, is: &[JobResult]| {
        of.ended
            .filter(|(_, result)| is.contains(result))
            .map(|(at, _)| at)
    };
    let stays = [JobResult::Failed, JobResult::Cancelled];
    both(
        ended(&here, &stays),
        ended(&there, &[JobResult::Completed]),
        "both say that the guest is theirs",
    );
    both(
        ended(&here, &[JobResult::Completed]),
        ended(&there, &stays),
        "both say that the guest is the other's",
    );
    found.extend(cookies(story, &here, &there));
    found.extend(heard(story, source, destination, &here, &there));
    found
}

fn terms(source: &MigrationTerms, destination: &MigrationTerms) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, one: &str, other: &str| {
        if one != other {
            found.push(format!(
                "{what}: the source says {one}, the destination {other}"
            ));
        }
    };
    differ(
        "protocol",
        source.protocol.name(),
        destination.protocol.name(),
    );
    differ(
        "authority",
        source.authority.name(),
        destination.authority.name(),
    );
    let yes = |is: bool| if is { "yes" } else { "no" };
    differ("post-copy", yes(source.postcopy), yes(destination.postcopy));
    let store = |terms: &MigrationTerms| terms.store.clone().unwrap_or_else(|| "none".to_owned());
    differ("store", &store(source), &store(destination));
    differ("URI", &source.uri, &destination.uri);
    found
}

/// The licence that was taken must be the one that was given.
fn cookies(story: &Story, source: &Facts<'_>, destination: &Facts<'_>) -> Vec<String> {
    let body = |moment: Option<usize>| story.moments[moment?].body.as_ref();
    let taken = match body(destination.committed) {
        Some(RecordBody::MigrationCommitted(committed)) => committed.cookie,
        _ => None,
    };
    let given = match (body(source.granted), body(source.committed)) {
        (Some(RecordBody::MigrationGranted(granted)), _) => Some(granted.cookie),
        (_, Some(RecordBody::MigrationCommitted(committed))) => committed.cookie,
        _ => None,
    };
    match (taken, given) {
        (Some(taken), Some(given)) if taken != given => vec![format!(
            "the destination took another licence (granted at {}) than the source gave (at {})",
            taken.granted, given.granted
        )],
        (Some(taken), None) => vec![format!(
            "the destination took a licence granted at {}, and the source gave none",
            taken.granted
        )],
        (Some(_), Some(_)) | (None, _) => Vec::new(),
    }
}

/// What was heard must have been so when it was said.
fn heard(
    story: &Story,
    source: &Track,
    destination: &Track,
    here: &Facts<'_>,
    there: &Facts<'_>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (listener, speaker) in [(source, destination), (destination, source)] {
        for index in &listener.moments {
            let Some(RecordBody::PeerHeard(heard)) = &story.moments[*index].body else {
                continue;
            };
            let Some(position) = heard.position else {
                continue;
            };
            let (fact, name) = match heard.answer {
                PeerAnswer::Started => (there.started, "migration-started"),
                PeerAnswer::Aborted => (there.aborted, "migration-aborted"),
                PeerAnswer::Granted | PeerAnswer::GrantedAndSafe => {
                    (here.granted.or(here.committed), "migration-granted")
                }
                PeerAnswer::Abandoned => (
                    here.abandoned.or(here.outcome.map(|(at, _)| at)),
                    "migration-abandoned",
                ),
                PeerAnswer::NotAsked
                | PeerAnswer::Unreachable
                | PeerAnswer::Amnesia
                | PeerAnswer::NoSuchMigration
                | PeerAnswer::Performing
                | PeerAnswer::NotWhole
                | PeerAnswer::Whole
                | PeerAnswer::Deciding
                | PeerAnswer::Split
                | PeerAnswer::Committed
                | PeerAnswer::Lost => continue,
            };
            let books = [listener.book, speaker.book].map(|book| story.books[book].label.as_str());
            // A journal whose begin is gone does not show what it said before.
            let is_whole = speaker.moments.first().is_some_and(|first| {
                matches!(story.moments[*first].body, Some(RecordBody::JobBegun(_)))
            });
            let is_there = fact.is_some_and(|fact| story.moments[fact].lsn <= position.lsn);
            if is_whole && !is_there {
                found.push(format!(
                    "{} record {}: heard {} at record {} of {}, which has no {name} up to there",
                    books[0], story.moments[*index].lsn, heard.answer, position.lsn, books[1]
                ));
            }
        }
    }
    found
}

/// Positions of the other journal that it cannot have had.
fn unknown_positions(story: &Story, track: &Track, extents: &[Extent; 2]) -> Vec<String> {
    let mut found = Vec::new();
    for index in &track.moments {
        let moment = &story.moments[*index];
        let Some(position) = moment.body.as_ref().and_then(cited) else {
            continue;
        };
        let other = story
            .books
            .iter()
            .position(|book| book.journal == Some(position.journal));
        let Some(other) = other.filter(|other| *other != moment.book) else {
            continue;
        };
        if let Some(why) = extents[other].lacks(&position) {
            found.push(format!(
                "{} record {} saw record {} of {} (epoch {}), but {why}: records that were there are gone",
                story.books[moment.book].label, moment.lsn, position.lsn, story.books[other].label, position.epoch
            ));
        }
    }
    found
}

/// Is it said to the other side, or does it decide something?
fn matters(body: Option<&RecordBody>) -> bool {
    !matches!(
        body,
        Some(
            RecordBody::EffectIntended(_)
                | RecordBody::EffectFinished(_)
                | RecordBody::QemuObserved(_)
                | RecordBody::MigrationForgotten(_)
        )
    )
}

fn title(story: &Story, group: &Group) -> String {
    let migration = group
        .tracks
        .iter()
        .find_map(|track| story.tracks[*track].migration);
    let name = story.name(group);
    match migration {
        Some(migration) => format!("migration {migration} of {name}"),
        None => format!("a job of {name}"),
    }
}

/// The journals that have it, where it is not both.
fn only_in<'a>(story: &'a Story, group: &Group) -> Option<&'a str> {
    let books: Vec<usize> = group
        .tracks
        .iter()
        .map(|track| story.tracks[*track].book)
        .collect();
    let first = *books.first()?;
    books
        .iter()
        .all(|book| *book == first)
        .then(|| story.books[first].label.as_str())
}

fn group_text(
    story: &Story,
    group: &Group,
    contradictions: &[String],
    out: &mut impl Write,
) -> Result<(), ToolError> {
    writeln!(out, "\n{}", plain(&title(story, group)))?;
    if let Some(only) = only_in(story, group) {
        writeln!(out, "  only in {}", plain(only))?;
    }
    for moment in in_order(story, group) {
        let record = &story.moments[moment];
        if matters(record.body.as_ref()) {
            let sign = sign(record.book);
            let line = format!(
                "{sign} {:>6}  {}  {:<19} {}",
                record.lsn.to_string(),
                time(story.time(moment)),
                record.kind,
                record.said
            );
            writeln!(out, "{}", plain(line.trim_end()))?;
        }
    }
    for contradiction in contradictions {
        writeln!(out, "!! {}", plain(contradiction))?;
    }
    Ok(())
}

fn group_json(story: &Story, group: &Group, contradictions: &[String]) -> Value {
    let records = in_order(story, group);
    let records = records
        .into_iter()
        .filter(|moment| matters(story.moments[*moment].body.as_ref()));
    let record = |moment: usize| {
        let record = &story.moments[moment];
        json!({
            "in": sign(record.book),
            "lsn": record.lsn,
            "time": story.time(moment),
            "record": record.kind,
            "says": record.said,
        })
    };
    let migration = group
        .tracks
        .iter()
        .find_map(|track| story.tracks[*track].migration);
    json!({
        "migration": migration,
        "name": story.name(group),
        "only-in": only_in(story, group),
        "records": records.map(record).collect::<Vec<_>>(),
        "contradictions": contradictions,
    })
}

/// Which of the two, as diff says it.
fn sign(book: usize) -> &'static str {
    if book == 0 { "<" } else { ">" }
}
