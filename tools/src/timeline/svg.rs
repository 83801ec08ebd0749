//! A story as one SVG picture.
//!
//! Invariant: the same records give the same bytes; the picture stands for itself, with all that it needs.
//! Not here: the lanes (`lanes`), the rows (`overview`), a page around it (`html`).

use journal_format::record::{Decision, Phase};

use super::axis::Scale;
use super::draw::{Picture, escape, phase_class, width};
use super::lanes::Lanes;
use super::model::Story;
use super::overview;
use crate::text::{count, time};

/// So many groups are shown in full; more get a row each.
pub(crate) const DETAILED_MAX: usize = 4;

const STYLE: &str = include_str!("picture.css");
const MARGIN: f64 = 20.0;

/// What the picture is of.
pub(crate) fn heading(story: &Story) -> String {
    match story.groups.as_slice() {
        [group] => format!("Timeline of {}", story.name(group)),
        groups => format!("Timeline of {}", count(groups.len() as u64, "job")),
    }
}

/// When it was, and by whose clock.
pub(crate) fn period(story: &Story) -> String {
    let from = story
        .groups
        .iter()
        .map(|group| group.from)
        .min()
        .unwrap_or(0);
    let to = story
        .groups
        .iter()
        .map(|group| group.to)
        .max()
        .unwrap_or(from);
    let label = story.books.first().map_or("-", |book| book.label.as_str());
    let long = super::model::span(to - from);
    format!("from {} UTC, {long}; by the clock of {label}", time(from))
}

/// How the journals' clocks compare.
pub(crate) fn clocks(story: &Story) -> Vec<String> {
    let line = |book: &super::model::Book| {
        let journal = book
            .journal
            .map_or("unknown".to_owned(), |journal| journal.to_string());
        format!("{} (journal {journal}): {}", book.label, book.aligned)
    };
    let lost = |book: &super::model::Book| {
        book.lost
            .iter()
            .map(|(_, _, why)| format!("{}: {why}", book.label))
            .collect::<Vec<_>>()
    };
    let mut lines: Vec<String> = story.books.iter().map(line).collect();
    lines.extend(story.books.iter().flat_map(lost));
    lines
}

/// The whole picture; headed, if nothing around it says what it is.
pub(crate) fn svg(story: &Story, scale: Option<Scale>, headed: bool) -> String {
    let mut body = Picture::default();
    let detailed = story.groups.len() <= DETAILED_MAX;
    let mut y = if headed { 62.0 } else { 14.0 };
    let mut wide: f64 = 0.0;
    if detailed {
        for group in &story.groups {
            let lanes = Lanes::new(story, group, scale.unwrap_or(Scale::Events));
            wide = wide.max(lanes.width);
            y = lanes.draw(&mut body, y) + 14.0;
        }
    } else {
        wide = overview::WIDTH;
        y = overview::draw(story, &mut body, scale.unwrap_or(Scale::Linear), y) + 6.0;
    }
    let stretched = match (detailed, scale) {
        (true, None) | (_, Some(Scale::Events)) => {
            "time is stretched where much happens: lengths are written where they matter"
        }
        (false, None) | (_, Some(Scale::Linear)) => "lengths are to scale",
    };
    y = legend(&mut body, y, detailed, stretched);
    for line in clocks(story) {
        body.text("muted", (0.0, y + 12.0), &line);
        y += 15.0;
    }
    let (width, height) = (wide + 2.0 * MARGIN, y + MARGIN);
    let heading = heading(story);
    let summaries = story
        .groups
        .iter()
        .map(|group| format!("{}: {}.", story.name(group), story.summary(group)));
    let summary = summaries.take(DETAILED_MAX).collect::<Vec<_>>().join(" ");
    let mut picture = Picture::default();
    picture.raw(&format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" class="timeline" role="group" aria-labelledby="heading" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}">"#
    ));
    picture.raw(&format!(
        r#"<title id="heading">{}</title><desc>{}</desc>"#,
        escape(&heading),
        escape(&format!("{}. {summary}", period(story)))
    ));
    picture.raw(&format!("<style>{STYLE}</style>"));
    picture.raw(DEFINITIONS);
    picture.rect("ground", (0.0, 0.0), (width, height), 0.0);
    picture.raw(&format!(r#"<g transform="translate({MARGIN} 0)">"#));
    if headed {
        let heading = super::draw::shortened(&heading, 90);
        picture.text("heading", (0.0, 32.0), &heading);
        picture.text("muted", (0.0, 50.0), &period(story));
    }
    picture.svg.push_str(&body.svg);
    picture.end();
    picture.raw("</svg>");
    picture.svg
}

const DEFINITIONS: &str = r#"<defs>
<pattern id="silent" width="7" height="7" patternTransform="rotate(45)" patternUnits="userSpaceOnUse"><line class="hatch" x1="0" y1="0" x2="0" y2="7"/></pattern>
<pattern id="lost" width="5" height="5" patternTransform="rotate(-45)" patternUnits="userSpaceOnUse"><line class="hatch" x1="0" y1="0" x2="0" y2="5"/></pattern>
<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="arrow" d="M0 0L8 4L0 8z"/></marker>
</defs>"#;

/// What the signs mean.
fn legend(picture: &mut Picture, top: f64, detailed: bool, stretched: &str) -> f64 {
    picture.raw(r#"<g aria-hidden="true">"#);
    picture.line("rule", (0.0, top), (940.0, top));
    let y = top + 20.0;
    let mut x = 0.0;
    let label = |picture: &mut Picture, x: &mut f64, sign: f64, text: &str| {
        picture.text("muted", (*x + sign, y + 4.0), text);
        *x += sign + width(text, 11.0) + 16.0;
    };
    let phases = [
        (Phase::Begin3, "making ready"),
        (Phase::Perform3, "memory goes over"),
        (Phase::Perform3Done, "the other side decides"),
        (Phase::Finish3, "finish, confirm"),
        (Phase::Confirm3Cancelled, "cancelled"),
    ];
    for (phase, text) in phases {
        picture.rect(
            &format!("bar {}", phase_class(Some(phase))),
            (x, y - 6.0),
            (16.0, 12.0),
            2.0,
        );
        label(picture, &mut x, 22.0, text);
    }
    for decision in Decision::ALL {
        picture.sign(*decision, x + 7.0, y);
        label(picture, &mut x, 19.0, decision.name());
    }
    let y = y + 22.0;
    let mut x = 0.0;
    let label = |picture: &mut Picture, x: &mut f64, sign: f64, text: &str| {
        picture.text("muted", (*x + sign, y + 4.0), text);
        *x += sign + width(text, 11.0) + 16.0;
    };
    picture.rect("still", (x, y - 3.0), (16.0, 6.0), 1.0);
    label(picture, &mut x, 22.0, "the guest stands still");
    picture.rect("silent", (x, y - 6.0), (16.0, 12.0), 2.0);
    label(picture, &mut x, 22.0, "no sidecar: nothing became durable");
    if detailed {
        picture.path(
            "diamond",
            &format!("M{:.1} {:.1}l4.5 4.5l-4.5 4.5l-4.5 -4.5z", x + 5.0, y - 4.5),
        );
        label(picture, &mut x, 14.0, "durable fact");
        picture.circle("look", (x + 5.0, y), 4.0);
        label(picture, &mut x, 14.0, "look at QEMU");
        picture.path("word", &format!("M{:.1} {:.1}l8 4l-8 4z", x + 1.0, y - 4.0));
        label(picture, &mut x, 14.0, "word of the other side");
        picture.line("sync", (x + 4.0, y - 4.0), (x + 4.0, y + 4.0));
        label(picture, &mut x, 12.0, "sync");
    }
    picture.text("muted", (0.0, y + 26.0), stretched);
    picture.end();
    y + 34.0
}
