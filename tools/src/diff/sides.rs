//! Two sides of migrations: what each says, in order, and where they contradict each other.
//!
//! Invariant: shows what [`crate::sides`] finds, each with its migration.
//! Not here: what contradicts what (`crate::sides`).

use std::collections::BTreeSet;
use std::io::Write;

use journal_format::number::{Lsn, MigrationId};
use journal_format::record::{Decoded, RecordBody};
use serde_json::{Value, json};

use super::DiffArgs;
use crate::error::{Found, ToolError};
use crate::past::{Item, Past};
use crate::sides::{Contradiction, End, Part, Side, Sides};
use crate::terminal::{Look, Paint};
use crate::text::{count, json_line, plain, time};
use crate::timeline::{Group, Story, Wanted, in_order, load};

pub(super) fn run(args: &DiffArgs, json: bool, out: &mut impl Write) -> Result<Found, ToolError> {
    let directories = [args.one.clone(), args.other.clone()];
    let story = load(&directories, &Wanted::of_domain(args.domain.clone()))?;
    let mut sides = Sides::default();
    let shown: BTreeSet<MigrationId> = story
        .groups
        .iter()
        .filter_map(|group| migration(&story, group))
        .collect();
    for (directory, book) in directories.iter().zip(&story.books) {
        sides.add(side(directory, &book.label, Part::Only(shown.clone()))?);
    }
    let mut contradictions = Vec::new();
    sides.contradictions(|one| contradictions.push(one));
    let of_all: Vec<&Contradiction> = of(&contradictions, None).collect();
    let mut found = u64::from(story.found() != Found::Nothing) + of_all.len() as u64;
    let mut shown = Vec::new();
    let paint = Paint::of_stdout();
    if !json {
        for (book, sign) in story.books.iter().zip(["<", ">"]) {
            writeln!(
                out,
                "{sign} {}: {}",
                plain(&book.label),
                plain(&book.aligned)
            )?;
            for (_, _, why) in &book.lost {
                let line = format!("{sign} !! {}", plain(why));
                writeln!(out, "{}", paint.text(Look::Bad, &line))?;
            }
        }
        for one in &of_all {
            let line = plain(&format!("-- {}", one.text()));
            writeln!(out, "{}", paint.text(Look::Doubt, &line))?;
        }
    }
    for group in &story.groups {
        let mut of_group = twice(group);
        if let Some(migration) = migration(&story, group) {
            let of_migration = of(&contradictions, Some(migration));
            of_group.extend(of_migration.map(|one| one.how().to_owned()));
        }
        found += of_group.len() as u64;
        if json {
            shown.push(group_json(&story, group, &of_group));
        } else {
            group_text(&story, group, &of_group, paint, out)?;
        }
    }
    if json {
        let of_all: Vec<String> = of_all.iter().map(|one| one.text()).collect();
        let all = json!({"migrations": shown, "contradictions": found, "journals": of_all});
        writeln!(out, "{}", json_line(&all))?;
    } else {
        match found {
            0 => writeln!(out, "{}", paint.text(Look::Good, "the sides agree"))?,
            found => {
                let line = count(found, "contradiction");
                writeln!(out, "{}", paint.text(Look::Bad, &line))?;
            }
        }
    }
    Ok(match found {
        0 => Found::Nothing,
        _ => Found::Something,
    })
}

/// Those of a migration, or of the journals as a whole.
fn of(all: &[Contradiction], of: Option<MigrationId>) -> impl Iterator<Item = &Contradiction> {
    all.iter().filter(move |one| one.migration == of)
}

/// What one journal says of these migrations.
fn side(journal: &std::path::Path, label: &str, part: Part) -> Result<Side, ToolError> {
    let past = Past::open(journal)?;
    let heads = past.segments().iter();
    let heads = heads.filter_map(|file| file.header.as_ref().ok());
    let mut end = End {
        journal: past.journal(),
        openings: heads.map(|head| (head.epoch, head.opening)).collect(),
        last: Lsn(0),
        has_gaps: false,
    };
    let mut side = Side::begin(label, part, 2);
    past.read(|item| {
        match item {
            Item::Record(recorded) => {
                end.last = recorded.record.lsn();
                if let Decoded::Known(record) = &recorded.record {
                    side.see(record);
                }
            }
            Item::Gap(_) => end.has_gaps = true,
            Item::Batch(..) => {}
        }
        Ok(())
    })?;
    side.end(end);
    Ok(side)
}

/// A migration has two sides.
fn twice(group: &Group) -> Vec<String> {
    let is_more = group.tracks.len() > 2;
    let how = "the migration is in these journals more than twice";
    is_more.then(|| how.to_owned()).into_iter().collect()
}

fn migration(story: &Story, group: &Group) -> Option<MigrationId> {
    let mut tracks = group.tracks.iter();
    tracks.find_map(|track| story.tracks[*track].migration)
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
    let migration = migration(story, group);
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
    paint: Paint,
    out: &mut impl Write,
) -> Result<(), ToolError> {
    let title = plain(&title(story, group));
    writeln!(out, "\n{}", paint.text(Look::Title, &title))?;
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
                record.said()
            );
            writeln!(out, "{}", plain(line.trim_end()))?;
        }
    }
    for contradiction in contradictions {
        let line = format!("!! {}", plain(contradiction));
        writeln!(out, "{}", paint.text(Look::Bad, &line))?;
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
            "says": record.said(),
        })
    };
    let migration = migration(story, group);
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
