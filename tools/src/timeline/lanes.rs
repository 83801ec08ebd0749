//! One migration, or another job, in full: a lane for each side, the guest between them.
//!
//! The source's lane is above, its phases at its lower edge; the destination's is below, its phases at its
//! upper edge: what is said between them, and the guest itself, are seen in the space between.
//! Invariant: what is drawn stands for a record, and says which.

use std::collections::BTreeSet;

use journal_format::record::{EffectResult, KeyChange, KeyValue, Process, RecordBody, Role};

use super::axis::{Axis, Scale};
use super::draw::{Picture, phase_class, shortened, width};
use super::model::{Group, Story, Time, Track, span};

/// Left of the lanes: what they are.
pub(crate) const GUTTER: f64 = 156.0;
/// Least width of what is between two moments, where everything fits into the width.
const COLUMN: f64 = 24.0;
/// Right of the lanes: room for what the last marks say.
const FLAGS: f64 = 150.0;
const WIDTH: (f64, f64) = (980.0, 2600.0);
const BAR: f64 = 24.0;
const STRIP: f64 = 14.0;
const FLAG: f64 = 14.0;
const CHANNEL: f64 = 62.0;
/// Between marks of one moment that stand beside each other.
const BESIDE: f64 = 11.0;
const TEXT: f64 = 11.0;
/// How much wider bold text is.
const BOLD: f64 = 1.16;

/// What a key says, without whose it is.
fn key(value: &KeyValue) -> &'static str {
    match value {
        KeyValue::Committed { .. } => "committed",
        KeyValue::Started => "started",
        KeyValue::Aborted => "aborted",
    }
}

/// A group with its axis.
#[derive(Debug)]
pub(crate) struct Lanes<'a> {
    story: &'a Story,
    group: &'a Group,
    axis: Axis,
    pub(crate) width: f64,
}

/// A mark's text, beside the lane.
struct Flag {
    at: f64,
    /// The strip its mark is on.
    strip: f64,
    text: String,
    class: &'static str,
    moment: usize,
    row: usize,
}

/// Where a lane lies: the edge of its phases that looks at the other side, and which way the rest goes.
#[derive(Clone, Copy)]
struct Place {
    bar: f64,
    /// 1.0 down, -1.0 up.
    way: f64,
}

impl Place {
    /// The middle of a strip.
    fn strip(self, number: f64) -> f64 {
        let edge = if self.way > 0.0 {
            self.bar + BAR
        } else {
            self.bar
        };
        edge + self.way * (STRIP * (number + 0.5) + 3.0)
    }
}

const EFFECTS: f64 = 0.0;
const LOOKS: f64 = 1.0;
const FACTS: f64 = 2.0;
const STRIPS: f64 = 3.0;

impl<'a> Lanes<'a> {
    pub(crate) fn new(story: &'a Story, group: &'a Group, scale: Scale) -> Lanes<'a> {
        let mut times: BTreeSet<Time> = BTreeSet::from([group.from, group.to]);
        let mut silences: BTreeSet<Time> = BTreeSet::new();
        for track in &group.tracks {
            let track = &story.tracks[*track];
            times.extend(track.moments.iter().map(|moment| story.time(*moment)));
            let book = &story.books[track.book];
            for opened in &book.openings {
                let ends = [opened.silent_from, opened.at].map(|at| story.aligned(track.book, at));
                if ends.iter().all(|at| (group.from..=group.to).contains(at)) {
                    times.extend(ends);
                    silences.insert(ends[1]);
                }
            }
        }
        let width = (times.len() as f64 * COLUMN).clamp(WIDTH.0, WIDTH.1);
        Lanes {
            story,
            group,
            axis: Axis::new(times, &silences, scale, GUTTER, width),
            width: GUTTER + width + FLAGS,
        }
    }

    /// Draws it from `top` on; says where it ends.
    pub(crate) fn draw(&self, picture: &mut Picture, top: f64) -> f64 {
        let (story, group) = (self.story, self.group);
        let mut head = top;
        if story.groups.len() > 1 {
            let name = shortened(story.name(group), 80);
            picture.text("name", (0.0, top + 16.0), &name);
            head += 22.0;
        }
        picture.text("muted", (0.0, head + 8.0), &story.summary(group));
        let head = head + 24.0;
        let mut tracks = group.tracks.iter().map(|track| &story.tracks[*track]);
        let first = tracks.next();
        let (up, down) = match first {
            Some(track) if track.role == Some(Role::Destination) => (None, first),
            _ => (first, tracks.next()),
        };
        let up_flags = up.map(|track| self.flags(track, -1.0)).unwrap_or_default();
        let down_flags = down.map(|track| self.flags(track, 1.0)).unwrap_or_default();
        let rows = |flags: &[Flag]| flags.iter().map(|flag| flag.row + 1).max().unwrap_or(0);
        let up_height = match up {
            Some(_) => rows(&up_flags) as f64 * FLAG + STRIPS * STRIP + BAR + 12.0,
            None => 0.0,
        };
        let axis_at = head + 14.0;
        let channel = axis_at + 8.0 + up_height;
        let guest_only = if down.is_some() || up.is_some() {
            CHANNEL
        } else {
            0.0
        };
        let down_height = match down {
            Some(_) => rows(&down_flags) as f64 * FLAG + STRIPS * STRIP + BAR + 12.0,
            None => 0.0,
        };
        let bottom = channel + guest_only + down_height;
        for (x, label) in self.axis.ticks(86.0) {
            picture.line("tick", (x, axis_at + 4.0), (x, bottom));
            picture.text("muted", (x + 2.0, axis_at), &label);
        }
        for (heard, said) in group.heard.iter().map(|(said, heard)| (heard, said)) {
            self.message(picture, *said, *heard, channel, channel + guest_only);
        }
        if let Some(track) = up {
            let place = Place {
                bar: channel - BAR,
                way: -1.0,
            };
            self.lane(picture, track, place, &up_flags);
        }
        self.guest(picture, channel + guest_only / 2.0);
        if let Some(track) = down {
            let place = Place {
                bar: channel + guest_only,
                way: 1.0,
            };
            self.lane(picture, track, place, &down_flags);
        }
        bottom + 10.0
    }

    fn place(&self, moment: usize) -> f64 {
        self.axis.place(self.story.time(moment))
    }

    fn says(&self, moment: usize) -> String {
        let moment = &self.story.moments[moment];
        format!(
            "record {} of {}: {} {}",
            moment.lsn,
            self.story.books[moment.book].label,
            moment.kind,
            moment.said()
        )
    }

    /// The strip that a record's mark is on, its flag and the flag's class; none for what bars show.
    fn mark(&self, moment: usize) -> Option<(f64, String, &'static str)> {
        let body = self.story.moments[moment].body.as_ref()?;
        let fact = |text: &str| Some((FACTS, text.to_owned(), "flag fact"));
        match body {
            RecordBody::Decided(decided) => {
                let decision = decided.decision.name().to_uppercase();
                Some((FACTS, format!("{decision} {}", decided.rule), "flag fact"))
            }
            RecordBody::JobDecided(decided) => {
                let decision = decided.decision.name().to_uppercase();
                Some((FACTS, format!("{decision} {}", decided.rule), "flag fact"))
            }
            RecordBody::JobPhaseEntered(entered) => fact(entered.phase.name()),
            RecordBody::PeerPrepared(_) => fact("prepared"),
            RecordBody::MigrationGranted(_) => fact("granted"),
            RecordBody::MigrationAbandoned(_) => fact("abandoned"),
            RecordBody::MigrationCommitted(_) => fact("committed"),
            RecordBody::MigrationStarted(_) => fact("started"),
            RecordBody::MigrationAborted(_) => fact("aborted"),
            RecordBody::OutcomeLearned(learned) => fact(&format!("outcome {}", learned.outcome)),
            RecordBody::OperatorResolved(resolved) => {
                fact(&format!("operator: {}", resolved.decision))
            }
            RecordBody::StoreIntended(intended) => match intended.change {
                KeyChange::Create(value) | KeyChange::Replace { new: value, .. } => {
                    fact(&format!("to the store: {}", key(&value)))
                }
                KeyChange::Delete => Some((FACTS, "to the store: delete".to_owned(), "flag muted")),
            },
            RecordBody::StoreRead(read) => fact(&format!("store: {}", key(&read.key))),
            RecordBody::VerdictGiven(given) => fact(&format!("verdict {}", given.outcome)),
            RecordBody::JobEnded(ended) => fact(&format!("end: {}", ended.result)),
            RecordBody::MigrationForgotten(_) => {
                Some((FACTS, "forgotten".to_owned(), "flag muted"))
            }
            RecordBody::WantedChanged(changed) => fact(&format!("wanted {}", changed.wanted)),
            RecordBody::EffectIntended(intended) => {
                Some((EFFECTS, intended.command.name().to_owned(), "flag"))
            }
            RecordBody::QemuObserved(seen) => {
                let observed = &seen.observed;
                let said = match (&observed.process, &observed.run_state, &observed.migration) {
                    (Process::Alive, Some(run), Some(status)) => format!("{run}, {status}"),
                    (Process::Alive, _, _) => "alive".to_owned(),
                    (process, _, _) => process.name().to_owned(),
                };
                Some((LOOKS, said, "flag muted"))
            }
            RecordBody::PeerHeard(heard) => {
                Some((LOOKS, format!("heard: {}", heard.answer), "flag muted"))
            }
            RecordBody::MigrationState(_)
            | RecordBody::MigrationHistories(_)
            | RecordBody::MigrationSettings(_)
            | RecordBody::SettingsKept(_)
            | RecordBody::MigrationDisks(_)
            | RecordBody::GuestSent(_)
            | RecordBody::JobState(_) => None,
            RecordBody::JobBegun(_)
            | RecordBody::PhaseEntered(_)
            | RecordBody::EffectFinished(_)
            | RecordBody::CheckpointBegun(_)
            | RecordBody::CheckpointEnded(_)
            | RecordBody::DomainAdded(_)
            | RecordBody::DomainState(_)
            | RecordBody::DomainRemoved
            | RecordBody::DefinitionPart(_)
            | RecordBody::Sealed => None,
        }
    }

    /// The flags of a lane, each in the first row where it covers no other one.
    fn flags(&self, track: &Track, way: f64) -> Vec<Flag> {
        let mut taken: Vec<f64> = Vec::new();
        let mut last = [(f64::MIN, 0.0); 3];
        let mut flags = Vec::new();
        for moment in &track.moments {
            let Some((strip, text, class)) = self.mark(*moment) else {
                continue;
            };
            let x = self.place(*moment);
            let slot = if strip == EFFECTS {
                0
            } else if strip == LOOKS {
                1
            } else {
                2
            };
            // Marks of one batch stand beside each other.
            let (before, at) = last[slot];
            let at = if before == x {
                at + BESIDE
            } else {
                x.max(at + 1.0)
            };
            last[slot] = (x, at);
            let text = shortened(&text, 44);
            let bold = if class == "flag fact" { BOLD } else { 1.0 };
            let long = width(&text, TEXT) * bold + 14.0;
            let end = GUTTER + (self.width - GUTTER) - 4.0;
            let left = (at + long).min(end) - long;
            let free = taken.iter().position(|until| *until <= left);
            let row = free.unwrap_or(taken.len());
            match taken.get_mut(row) {
                Some(until) => *until = left + long,
                None => taken.push(left + long),
            }
            let strip = Place { bar: 0.0, way }.strip(strip) - if way > 0.0 { BAR } else { 0.0 };
            flags.push(Flag {
                at,
                strip,
                text,
                class,
                moment: *moment,
                row,
            });
        }
        flags
    }

    fn lane(&self, picture: &mut Picture, track: &Track, place: Place, flags: &[Flag]) {
        let story = self.story;
        let book = &story.books[track.book];
        let middle = place.bar + 10.0;
        let side = track.role.map_or("job", |role| role.name());
        picture.raw(&format!(
            r#"<g role="group" aria-label="{} lane, {}">"#,
            side,
            super::draw::escape(&book.label)
        ));
        picture.text("side", (0.0, middle), side);
        let under = format!("{} \u{b7} job {}", shortened(&book.label, 15), track.job);
        picture.text("muted", (0.0, middle + 14.0), &under);
        for (strip, label) in [
            (EFFECTS, "effects"),
            (LOOKS, "looks, words"),
            (FACTS, "facts, decisions"),
        ] {
            picture.text(
                "muted right",
                (GUTTER - 12.0, place.strip(strip) + 4.0),
                label,
            );
        }
        let (left, right) = (self.axis.left(), self.axis.right());
        picture.line(
            "rule",
            (left, place.strip(EFFECTS)),
            (right, place.strip(EFFECTS)),
        );
        self.silences(picture, track, place);
        let first_row = place.strip(STRIPS) + place.way * 2.0;
        let row_at = |row: usize| first_row + place.way * FLAG * row as f64;
        for flag in flags {
            let from = flag.strip + place.bar + if place.way > 0.0 { BAR } else { 0.0 };
            picture.line("leader", (flag.at, from), (flag.at, row_at(flag.row)));
        }
        for bar in &track.bars {
            let x = self.axis.place(story.aligned(track.book, bar.from));
            let end = self.axis.place(story.aligned(track.book, bar.to));
            let class = phase_class(bar.phase);
            let long = bar.to.saturating_sub(bar.from);
            let open = if bar.open { ", still open" } else { "" };
            let says = format!(
                "{}: phase {} for {}{open}",
                self.says(bar.moment),
                bar.label,
                span(long)
            );
            picture.record(bar.moment, &says);
            picture.rect(&format!("bar {class}"), (x, place.bar), (end - x, BAR), 3.0);
            let text = format!("{} \u{b7} {}", bar.label, span(long));
            let texts = [text, bar.label.clone()];
            if let Some(text) = texts.iter().find(|text| width(text, TEXT) + 10.0 < end - x) {
                picture.text(&format!("on-{class}"), (x + 6.0, place.bar + 16.0), text);
            }
            picture.end();
        }
        for sent in &track.effects {
            let y = place.strip(EFFECTS);
            let x = self.axis.place(story.aligned(track.book, sent.from));
            let end = self.axis.place(story.aligned(track.book, sent.to));
            let class = match &sent.result {
                Some(EffectResult::Done) => "effect",
                Some(
                    EffectResult::Refused { .. }
                    | EffectResult::NotSent { .. }
                    | EffectResult::Unknown { .. },
                )
                | None => "effect failed",
            };
            let result = match sent.finished {
                Some(finished) => story.moments[finished].said(),
                None => "no result is recorded".to_owned(),
            };
            picture.record(
                sent.moment,
                &format!("{}; {result}", self.says(sent.moment)),
            );
            picture.rect("hit", (x - 2.0, y - 6.0), (end - x + 4.0, 12.0), 0.0);
            picture.rect(class, (x, y - 3.0), (end - x, 6.0), 1.5);
            picture.end();
        }
        for flag in flags {
            let y = flag.strip + place.bar + if place.way > 0.0 { BAR } else { 0.0 };
            let text_at = row_at(flag.row) + if place.way > 0.0 { 8.0 } else { 0.0 };
            picture.record(flag.moment, &self.says(flag.moment));
            self.shape(picture, flag.moment, flag.at, y);
            let bold = if flag.class == "flag fact" { BOLD } else { 1.0 };
            let long = width(&flag.text, TEXT) * bold;
            let end = self.width - 4.0;
            let x = (flag.at + 3.0).min(end - long);
            picture.text(flag.class, (x, text_at), &flag.text);
            picture.end();
        }
        let edge = if place.way > 0.0 {
            place.bar - 3.0
        } else {
            place.bar + BAR + 3.0
        };
        let mut synced: BTreeSet<u64> = BTreeSet::new();
        for moment in &track.moments {
            if synced.insert(story.moments[*moment].batch.0) {
                let x = self.place(*moment);
                picture.line("sync", (x, edge - 3.0), (x, edge + 3.0));
            }
        }
        picture.end();
    }

    /// Where no sidecar was there, and where records are lost.
    fn silences(&self, picture: &mut Picture, track: &Track, place: Place) {
        let story = self.story;
        let book = &story.books[track.book];
        let until = track.moments.last().map_or(0, |moment| story.time(*moment));
        let far = place.strip(STRIPS - 0.5);
        let near = if place.way > 0.0 {
            place.bar
        } else {
            place.bar + BAR
        };
        let (top, high) = (far.min(near), (far - near).abs());
        let within = |at: Time| {
            let at = story.aligned(track.book, at);
            (self.group.from..=until.max(self.group.from))
                .contains(&at)
                .then_some(at)
        };
        for opened in &book.openings {
            let (Some(from), Some(to)) = (within(opened.silent_from), within(opened.at)) else {
                continue;
            };
            let (x, end) = (self.axis.place(from), self.axis.place(to));
            picture.rect("silent", (x, top - 2.0), (end - x, high + 4.0), 2.0);
            let why = if opened.booted {
                "host rebooted"
            } else {
                "sidecar restarted"
            };
            let said = format!("{why}, {} of nothing", span(to.saturating_sub(from)));
            let short = format!("restart \u{b7} {}", span(to.saturating_sub(from)));
            let texts = [said, short, span(to.saturating_sub(from))];
            let y = place.strip(LOOKS) + 4.0;
            let fits = texts
                .iter()
                .find(|text| width(text, TEXT) * BOLD < end - x - 12.0);
            picture.text(
                "flag still middle",
                (f64::midpoint(x, end), y),
                fits.unwrap_or(&texts[2]),
            );
        }
        for (from, to, why) in &book.lost {
            let (from, to) = (
                story.aligned(track.book, *from),
                story.aligned(track.book, *to),
            );
            if to < self.group.from || from > self.group.to {
                continue;
            }
            let (x, end) = (self.axis.place(from), self.axis.place(to));
            picture.raw(&format!("<g><title>{}</title>", super::draw::escape(why)));
            picture.rect(
                "lost",
                (x - 2.0, top - 2.0),
                (end - x + 4.0, high + 4.0),
                2.0,
            );
            picture.text("flag still", (x, place.strip(LOOKS) + 4.0), "records lost");
            picture.end();
        }
    }

    fn shape(&self, picture: &mut Picture, moment: usize, x: f64, y: f64) {
        match &self.story.moments[moment].body {
            Some(RecordBody::Decided(decided)) => picture.sign(decided.decision, x, y),
            Some(RecordBody::QemuObserved(_)) => picture.circle("look", (x, y), 4.0),
            Some(RecordBody::PeerHeard(_)) => {
                let path = format!("M{:.1} {:.1}l8 4l-8 4z", x - 4.0, y - 4.0);
                picture.path("word", &path);
            }
            Some(RecordBody::EffectIntended(_)) => {}
            Some(_) | None => {
                let path = format!("M{x:.1} {:.1}l4.5 4.5l-4.5 4.5l-4.5 -4.5z", y - 4.5);
                picture.path("diamond", &path);
            }
        }
    }

    /// What one side heard of the other.
    fn message(&self, picture: &mut Picture, said: usize, heard: usize, upper: f64, lower: f64) {
        let role = |moment: usize| self.story.tracks[self.story.moments[moment].track].role;
        let from_above = role(said) == Some(Role::Source);
        let (from, to) = if from_above {
            (upper + 6.0, lower - 6.0)
        } else {
            (lower - 6.0, upper + 6.0)
        };
        let (x, end) = (self.place(said), self.place(heard));
        picture.record(
            heard,
            &format!("{}; it speaks of {}", self.says(heard), self.says(said)),
        );
        picture.line("message\" marker-end=\"url(#arrow)", (x, from), (end, to));
        picture.end();
    }

    /// The guest itself: where it runs, and where it stands still.
    fn guest(&self, picture: &mut Picture, y: f64) {
        let (story, group) = (self.story, self.group);
        if group
            .tracks
            .iter()
            .all(|track| story.tracks[*track].role.is_none())
        {
            return;
        }
        picture.text("side", (0.0, y + 4.0), "guest");
        for (from, to, place) in &group.guest.runs {
            let (from, to) = (self.axis.place(*from), self.axis.place(*to));
            picture.rect("runs", (from, y - 3.0), (to - from, 6.0), 3.0);
            let label = format!("runs at {place}");
            if width(&label, TEXT) + 8.0 < to - from {
                picture.text("flag", (from + 6.0, y - 7.0), &label);
            }
        }
        for still in &group.guest.still {
            let [begin, x, sure, end] =
                [still.earliest, still.from, still.sure, still.to].map(|at| self.axis.place(at));
            let says = format!("the guest stood still from {} on", self.says(still.stopped));
            picture.record(still.runs.unwrap_or(still.stopped), &says);
            for (from, to) in [(begin, x), (sure, end)] {
                if to > from {
                    picture.rect("silent", (from, y - 5.0), (to - from, 10.0), 1.5);
                }
            }
            picture.rect("still", (x, y - 5.0), (sure - x, 10.0), 1.5);
            picture.end();
            let label = format!("stands still {}", still.length());
            let long = width(&label, TEXT);
            let x = f64::midpoint(begin, end)
                .clamp(self.axis.left() + long / 2.0, self.width - long / 2.0 - 6.0);
            picture.text("flag still middle", (x, y + 19.0), &label);
        }
    }
}
