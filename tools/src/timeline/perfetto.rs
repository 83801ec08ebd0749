//! A story as a trace for ui.perfetto.dev and chrome://tracing (the Trace Event Format's JSON).
//!
//! A journal is a process, a job two threads of it: its phases, and its effects and records. Words between the
//! sides are flows from phase to phase. Times are microseconds since the first record, so that no digit is lost to a double.
//! Invariant: slices of one thread nest or follow each other; every flow has a begin and an end.

use std::io::{self, Write};

use journal_format::record::{RecordBody, Role};
use serde_json::{Value, json};

use super::draw::visible;
use super::model::{Story, Time};
use super::svg::{clocks, heading, period};

/// Events as they come: none is kept.
struct Events<'a> {
    out: &'a mut dyn Write,
    are_begun: bool,
    failed: io::Result<()>,
}

impl Events<'_> {
    fn push(&mut self, event: Value) {
        let comma = if self.are_begun { "," } else { "" };
        self.are_begun = true;
        if self.failed.is_ok() {
            self.failed = write!(self.out, "{comma}{event}");
        }
    }
}

/// The trace.
pub(crate) fn perfetto(story: &Story, out: &mut dyn Write) -> io::Result<()> {
    let title = json!({"title": visible(&heading(story)), "period": visible(&period(story)),
        "clocks": clocks(story).iter().map(|line| visible(line)).collect::<Vec<_>>()});
    write!(
        out,
        "{{\"displayTimeUnit\":\"ms\",\"otherData\":{title},\"traceEvents\":["
    )?;
    let mut events = Events {
        out: &mut *out,
        are_begun: false,
        failed: Ok(()),
    };
    all(story, &mut events);
    events.failed?;
    writeln!(out, "]}}")
}

fn all(story: &Story, events: &mut Events<'_>) {
    let begin = story
        .groups
        .iter()
        .map(|group| group.from)
        .min()
        .unwrap_or(0);
    for (book, known) in story.books.iter().enumerate() {
        events.push(named(
            "process_name",
            book,
            0,
            &format!("journal {}", known.label),
        ));
        let silence = |at: Time| story.aligned(book, at);
        for opened in &known.openings {
            let (from, to) = (silence(opened.silent_from), silence(opened.at));
            if to >= begin {
                let name = format!("no sidecar before epoch {}", opened.epoch);
                events.push(slice(
                    book,
                    1,
                    begin,
                    (from.max(begin), to),
                    &name,
                    json!({}),
                ));
            }
        }
        events.push(named("thread_name", book, 1, "sidecar"));
    }
    let mut flow = 0_u64;
    for group in &story.groups {
        for track in &group.tracks {
            job(story, *track, begin, events);
        }
        for (said, heard) in &group.heard {
            let (Some(from), Some(to)) = (within(story, *said), within(story, *heard)) else {
                continue;
            };
            flow += 1;
            for (moment, ph, at) in [(*said, "s", from.min(to)), (*heard, "f", to)] {
                let record = &story.moments[moment];
                events.push(json!({
                    "ph": ph, "bp": "e", "id": flow, "name": "heard", "cat": "peer",
                    "pid": record.book + 1, "tid": threads(record.track).0,
                    "ts": micros(begin, at),
                }));
            }
        }
        if let Some(side) = story
            .side(group, Role::Source)
            .or(group.tracks.first().map(|track| &story.tracks[*track]))
        {
            for still in &group.guest.still {
                let name = format!("{} stands still", visible(&side.name));
                let tid = threads(group.tracks[0]).0 + 2;
                events.push(named(
                    "thread_name",
                    side.book,
                    tid,
                    &format!("{} guest", side.name),
                ));
                events.push(slice(
                    side.book,
                    tid,
                    begin,
                    (still.from, still.to),
                    &name,
                    json!({}),
                ));
            }
        }
    }
}

/// When a record stands in a phase of its job, if it does: a flow binds to the slice around it, and is dropped where
/// there is none. The record that ends a job stands right behind its last phase.
fn within(story: &Story, moment: usize) -> Option<Time> {
    let track = &story.tracks[story.moments[moment].track];
    let end = story.aligned(track.book, track.bars.last()?.to);
    let at = story.time(moment);
    (at <= end).then(|| at.min(end.saturating_sub(1)))
}

/// A job's threads: phases, and effects with records.
fn threads(track: usize) -> (usize, usize) {
    (track * 4 + 10, track * 4 + 11)
}

fn job(story: &Story, number: usize, begin: Time, events: &mut Events<'_>) {
    let track = &story.tracks[number];
    let (phases, records) = threads(number);
    let role = track.role.map_or("job", |role| role.name());
    let who = format!("{} {role} (job {})", track.name, track.job);
    events.push(named(
        "thread_name",
        track.book,
        phases,
        &format!("{who} phases"),
    ));
    events.push(named(
        "thread_name",
        track.book,
        records,
        &format!("{who} effects, records"),
    ));
    let span = |from: Time, to: Time| {
        (
            story.aligned(track.book, from),
            story.aligned(track.book, to),
        )
    };
    for bar in &track.bars {
        let arguments = arguments(story, bar.moment);
        events.push(slice(
            track.book,
            phases,
            begin,
            span(bar.from, bar.to),
            &bar.label,
            arguments,
        ));
    }
    for sent in &track.effects {
        let mut arguments = arguments(story, sent.moment);
        let result = sent.finished.map_or_else(
            || "no result is recorded".to_owned(),
            |moment| story.moments[moment].said(),
        );
        arguments["result"] = json!(visible(&result));
        events.push(slice(
            track.book,
            records,
            begin,
            span(sent.from, sent.to),
            &sent.command,
            arguments,
        ));
    }
    for moment in &track.moments {
        let record = &story.moments[*moment];
        let name = match &record.body {
            // Bars and slices show them.
            Some(
                RecordBody::EffectIntended(_)
                | RecordBody::EffectFinished(_)
                | RecordBody::PhaseEntered(_),
            ) => continue,
            Some(RecordBody::Decided(decided)) => format!(
                "{} {}",
                decided.decision.name().to_uppercase(),
                visible(&decided.rule)
            ),
            Some(_) | None => record.kind.clone().into_owned(),
        };
        events.push(json!({
            "ph": "i", "s": "t", "name": name, "cat": "record",
            "pid": track.book + 1, "tid": records,
            "ts": micros(begin, story.time(*moment)), "args": arguments(story, *moment),
        }));
    }
}

fn arguments(story: &Story, moment: usize) -> Value {
    let record = &story.moments[moment];
    json!({"lsn": record.lsn, "record": record.kind, "says": visible(&record.said())})
}

fn named(what: &str, book: usize, tid: usize, name: &str) -> Value {
    json!({"ph": "M", "name": what, "pid": book + 1, "tid": tid, "args": {"name": visible(name)}})
}

fn slice(
    book: usize,
    tid: usize,
    begin: Time,
    (from, to): (Time, Time),
    name: &str,
    arguments: Value,
) -> Value {
    json!({
        "ph": "X", "name": visible(name), "cat": "phase", "pid": book + 1, "tid": tid,
        "ts": micros(begin, from), "dur": micros(from, to), "args": arguments,
    })
}

/// Microseconds between two times, to the nanosecond.
fn micros(from: Time, to: Time) -> f64 {
    to.saturating_sub(from) as f64 / 1000.0
}
