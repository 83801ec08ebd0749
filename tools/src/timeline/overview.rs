//! Many migrations at a glance: one row each, by the clock.
//!
//! Invariant: every row has the same axis, so that what is above each other was at the same time.

use std::collections::BTreeSet;

use journal_format::record::Role;

use super::axis::{Axis, Scale};
use super::draw::{Picture, phase_class, shortened, width};
use super::model::{Group, Still, Story, Time, Track, span};

const GUTTER: f64 = 196.0;
const RESULT: f64 = 176.0;
const PLOT: f64 = 1020.0;
const ROW: f64 = 30.0;
const BAR: f64 = 9.0;
const TEXT: f64 = 11.0;

/// How wide it is.
pub(crate) const WIDTH: f64 = GUTTER + PLOT + RESULT;

/// Draws the rows from `top` on; says where they end.
pub(crate) fn draw(story: &Story, picture: &mut Picture, scale: Scale, top: f64) -> f64 {
    let mut times: BTreeSet<Time> = BTreeSet::new();
    for group in &story.groups {
        times.extend([group.from, group.to]);
        if scale == Scale::Events {
            let moments = group
                .tracks
                .iter()
                .flat_map(|track| &story.tracks[*track].moments);
            times.extend(moments.map(|moment| story.time(*moment)));
        }
    }
    let axis = Axis::new(times, &BTreeSet::new(), scale, GUTTER, PLOT);
    let first = top + 20.0;
    let bottom = first + ROW * story.groups.len() as f64;
    for number in 0..story.groups.len() {
        if number % 2 == 1 {
            let y = first + ROW * number as f64;
            picture.rect("band", (0.0, y), (WIDTH, ROW), 0.0);
        }
    }
    for (x, label) in axis.ticks(90.0) {
        picture.line("tick", (x, top + 8.0), (x, bottom));
        picture.text("muted", (x + 2.0, top + 4.0), &label);
    }
    for (number, group) in story.groups.iter().enumerate() {
        row(
            story,
            picture,
            &axis,
            number,
            group,
            first + ROW * number as f64,
        );
    }
    bottom + 10.0
}

fn row(story: &Story, picture: &mut Picture, axis: &Axis, number: usize, group: &Group, y: f64) {
    picture.raw(&format!(
        r#"<g role="group" data-group="{number}" aria-label="{}">"#,
        super::draw::escape(&format!("{}: {}", story.name(group), story.summary(group)))
    ));
    picture.text("side", (6.0, y + 13.0), &shortened(story.name(group), 25));
    let place = |role: Role| {
        story.side(group, role).map_or("?".to_owned(), |track| {
            shortened(&story.books[track.book].label, 11)
        })
    };
    let protocol = group
        .tracks
        .iter()
        .find_map(|track| story.tracks[*track].protocol);
    let under = match protocol {
        Some(protocol) => {
            format!(
                "{protocol} {} \u{2192} {}",
                place(Role::Source),
                place(Role::Destination)
            )
        }
        None => group.tracks.first().map_or(String::new(), |track| {
            let track = &story.tracks[*track];
            track.kind.map_or("job", |kind| kind.name()).to_owned()
        }),
    };
    picture.text("muted", (6.0, y + 25.0), &under);
    for track in &group.tracks {
        let track = &story.tracks[*track];
        let lane = if track.role == Some(Role::Destination) {
            y + 16.0
        } else {
            y + 5.0
        };
        bars(story, picture, axis, track, lane);
    }
    for still in &group.guest.still {
        let (x, end) = (axis.place(still.from), axis.place(still.to));
        picture.rect("still", (x, y + 13.5), ((end - x).max(1.5), 3.0), 0.0);
    }
    for track in &group.tracks {
        let track = &story.tracks[*track];
        let lane = if track.role == Some(Role::Destination) {
            y + 16.0
        } else {
            y + 5.0
        };
        let mut at = f64::MIN;
        for decided in &track.decisions {
            let moment = &story.moments[decided.moment];
            let x = axis.place(story.time(decided.moment)).max(at + 9.0);
            at = x;
            picture.record(
                decided.moment,
                &format!(
                    "record {} of {}: {} by {}",
                    moment.lsn, story.books[track.book].label, decided.decision, decided.rule
                ),
            );
            picture.raw(&format!(
                r#"<g transform="translate({x:.1} {:.1}) scale(.62)">"#,
                lane + BAR / 2.0
            ));
            picture.sign(decided.decision, 0.0, 0.0);
            picture.end();
            picture.end();
        }
    }
    let results: Vec<&str> = {
        let ended = group.tracks.iter().map(|track| story.tracks[*track].ended);
        let mut results: Vec<&str> = ended
            .map(|ended| ended.map_or("open", |(_, result)| result.name()))
            .collect();
        results.dedup();
        results
    };
    picture.text(
        "side",
        (GUTTER + PLOT + 12.0, y + 13.0),
        &results.join(" / "),
    );
    let down: Vec<String> = group.guest.still.iter().map(Still::length).collect();
    let down = match down.is_empty() {
        true => format!("{} in all", span(group.to - group.from)),
        false => format!("down {}", down.join(", ")),
    };
    picture.text("muted", (GUTTER + PLOT + 12.0, y + 25.0), &down);
    picture.end();
}

fn bars(story: &Story, picture: &mut Picture, axis: &Axis, track: &Track, y: f64) {
    let book = &story.books[track.book];
    for bar in &track.bars {
        let x = axis.place(story.aligned(track.book, bar.from));
        let end = axis.place(story.aligned(track.book, bar.to));
        let class = phase_class(bar.phase);
        let moment = &story.moments[bar.moment];
        let long = span(bar.to.saturating_sub(bar.from));
        picture.record(
            bar.moment,
            &format!(
                "record {} of {}: phase {} for {long}",
                moment.lsn, book.label, bar.label
            ),
        );
        picture.rect(
            &format!("bar {class}"),
            (x, y),
            ((end - x).max(2.0), BAR),
            1.5,
        );
        picture.end();
    }
    let (from, until) = match (track.moments.first(), track.moments.last()) {
        (Some(first), Some(last)) => (story.time(*first), story.time(*last)),
        _ => return,
    };
    for opened in &book.openings {
        let [silent, at] = [opened.silent_from, opened.at].map(|at| story.aligned(track.book, at));
        // A silence that begins before the job does, or ends after it, does not concern it.
        if silent >= from && at <= until {
            let (x, end) = (axis.place(silent), axis.place(at));
            picture.raw(&format!(
                "<g><title>no sidecar for {}</title>",
                span(at.saturating_sub(silent))
            ));
            picture.rect("silent", (x, y - 1.0), (end - x, BAR + 2.0), 1.0);
            let text = "restart";
            if width(text, TEXT) < end - x - 4.0 {
                picture.text("flag still middle", (f64::midpoint(x, end), y + 8.0), text);
            }
            picture.end();
        }
    }
}
