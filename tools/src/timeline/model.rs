//! What a timeline shows: journals, the jobs in them, and the two sides of a migration brought together.
//!
//! Invariant: every bar and mark comes from a record that is named; nothing is drawn that no journal says.
//! Not here: how it is read (`load`), placed in time (`clocks`), drawn (`lanes`, `overview`).

use std::borrow::Cow;

use journal_format::number::{DomainId, HostId, JournalId, Lsn, MigrationId, SegmentNumber};
use journal_format::record::{
    Decision, EffectResult, JobKind, JobResult, Phase, Protocol, RecordBody, Role,
};

use crate::error::Found;
use crate::words;

/// Nanoseconds since 1970, by the clock of one journal's host or, once aligned, of the first one's.
pub(crate) type Time = u64;

/// All that is shown.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) books: Vec<Book>,
    pub(crate) moments: Vec<Moment>,
    pub(crate) tracks: Vec<Track>,
    /// In the order of their begins.
    pub(crate) groups: Vec<Group>,
}

/// A journal.
#[derive(Debug)]
pub(crate) struct Book {
    /// As it was named on the command line.
    pub(crate) label: String,
    pub(crate) journal: Option<JournalId>,
    pub(crate) host: Option<HostId>,
    pub(crate) openings: Vec<Opened>,
    /// It is of another version of the format, all of it.
    pub(crate) is_not_read: bool,
    /// Lost records: between which times, and what is said of them.
    pub(crate) lost: Vec<(Time, Time, String)>,
    /// The last record of all.
    pub(crate) end: Time,
    /// Nanoseconds that are added to its times.
    pub(crate) shift: i64,
    /// How its clock was compared with the first journal's.
    pub(crate) aligned: String,
    /// By how many nanoseconds the shift may be wrong; `None` where nothing bounds it.
    pub(crate) uncertain: Option<u64>,
}

/// An opening of a journal after another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) epoch: u32,
    /// The last record before.
    pub(crate) silent_from: Time,
    pub(crate) at: Time,
    /// The host was booted in between.
    pub(crate) booted: bool,
}

/// A record.
#[derive(Debug)]
pub(crate) struct Moment {
    pub(crate) book: usize,
    pub(crate) track: usize,
    pub(crate) lsn: Lsn,
    pub(crate) at: Time,
    /// As its batch says, unaligned.
    pub(crate) wall: u64,
    /// The first record of its batch: records that one sync made durable have the same.
    pub(crate) batch: Lsn,
    pub(crate) segment: SegmentNumber,
    pub(crate) offset: u64,
    /// `None` for a record of a newer writer.
    pub(crate) body: Option<RecordBody>,
    pub(crate) kind: Cow<'static, str>,
}

impl Moment {
    /// What the record says, in words. They are made where they are shown: kept, they would take as much
    /// memory as the records.
    pub(crate) fn said(&self) -> String {
        match &self.body {
            Some(body) => words::body(body),
            None => "of another version".to_owned(),
        }
    }
}

/// A job in one journal.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) book: usize,
    pub(crate) job: Lsn,
    pub(crate) name: String,
    pub(crate) domain: Option<DomainId>,
    pub(crate) kind: Option<JobKind>,
    pub(crate) role: Option<Role>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) migration: Option<MigrationId>,
    /// Its records, oldest first.
    pub(crate) moments: Vec<usize>,
    pub(crate) bars: Vec<Bar>,
    pub(crate) effects: Vec<Sent>,
    pub(crate) decisions: Vec<Decided>,
    pub(crate) ended: Option<(usize, JobResult)>,
}

/// A phase, from one record to another.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) phase: Option<Phase>,
    pub(crate) moment: usize,
    pub(crate) from: Time,
    pub(crate) to: Time,
    /// It had not ended when the journal did.
    pub(crate) open: bool,
}

/// An effect: its intent, and what became of it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) command: String,
    pub(crate) moment: usize,
    pub(crate) from: Time,
    /// The record of the result; none if there is none.
    pub(crate) finished: Option<usize>,
    pub(crate) to: Time,
    pub(crate) result: Option<EffectResult>,
}

/// A decision.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) moment: usize,
    pub(crate) decision: Decision,
    pub(crate) rule: String,
}

/// What belongs together: the sides of one migration, or one other job.
#[derive(Debug)]
pub(crate) struct Group {
    /// Source first.
    pub(crate) tracks: Vec<usize>,
    pub(crate) from: Time,
    pub(crate) to: Time,
    pub(crate) guest: Guest,
    /// Words from one side to the other: the record that they speak of, and the one that heard them.
    pub(crate) heard: Vec<(usize, usize)>,
}

/// What is known of the guest itself.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// From the record that shows it stopped to the one that shows it running.
    pub(crate) still: Vec<Still>,
    /// From when to when it ran, and where.
    pub(crate) runs: Vec<(Time, Time, String)>,
    /// Its owner wants it paused: it stands still for no other reason.
    pub(crate) paused: bool,
}

/// A time in which the guest stood still: surely between `from` and `sure`, perhaps from `earliest` to `to`.
#[derive(Debug)]
pub(crate) struct Still {
    /// Nobody watched from here on, until it was seen standing.
    pub(crate) earliest: Time,
    pub(crate) from: Time,
    /// It was told to run, and nobody heard whether it did.
    pub(crate) sure: Time,
    pub(crate) to: Time,
    /// The records that say so.
    pub(crate) stopped: usize,
    pub(crate) runs: Option<usize>,
}

impl Still {
    /// How long, for people.
    pub(crate) fn length(&self) -> String {
        let most = self.to.saturating_sub(self.earliest);
        let least = self.sure.saturating_sub(self.from);
        match self.runs {
            None => format!("{} and longer", span(least)),
            Some(_) if least == most => span(most),
            Some(_) => format!("{} to {}", span(least), span(most)),
        }
    }
}

impl Story {
    /// A time of a journal by the first journal's clock.
    pub(crate) fn aligned(&self, book: usize, at: Time) -> Time {
        at.saturating_add_signed(self.books[book].shift)
    }

    /// A record's time by the first journal's clock.
    pub(crate) fn time(&self, moment: usize) -> Time {
        let moment = &self.moments[moment];
        self.aligned(moment.book, moment.at)
    }

    /// Is anything lost of what the journals should have, or was it not read?
    pub(crate) fn found(&self) -> Found {
        let of_book = |book: &Book| match (book.is_not_read, book.lost.is_empty()) {
            (true, _) => Found::NotRead,
            (false, false) => Found::Damage,
            (false, true) => Found::Nothing,
        };
        self.books
            .iter()
            .map(of_book)
            .max()
            .unwrap_or(Found::Nothing)
    }

    /// What a group is called.
    pub(crate) fn name(&self, group: &Group) -> &str {
        let first = group.tracks.first();
        first.map_or("-", |track| self.tracks[*track].name.as_str())
    }

    /// The side of a group with that role.
    pub(crate) fn side(&self, group: &Group, role: Role) -> Option<&Track> {
        let mut tracks = group.tracks.iter().map(|track| &self.tracks[*track]);
        tracks.find(|track| track.role == Some(role))
    }

    /// In one sentence: what it was, how it ended, how long the guest stood still.
    pub(crate) fn summary(&self, group: &Group) -> String {
        let tracks: Vec<&Track> = group
            .tracks
            .iter()
            .map(|track| &self.tracks[*track])
            .collect();
        let mut said = match tracks.iter().find_map(|track| track.protocol) {
            Some(protocol) => {
                let place = |role: Role| {
                    let track = self.side(group, role);
                    track.map_or("a side whose journal is not given", |track| {
                        self.books[track.book].label.as_str()
                    })
                };
                let (from, to) = (place(Role::Source), place(Role::Destination));
                format!("{protocol} migration from {from} to {to}")
            }
            None => {
                let kind = tracks.first().and_then(|track| track.kind);
                let kind = kind.map_or("job", |kind| kind.name());
                format!(
                    "{kind} on {}",
                    tracks
                        .first()
                        .map_or("-", |track| self.books[track.book].label.as_str())
                )
            }
        };
        for track in &tracks {
            let side = track.role.map_or("it", |role| role.name());
            match track.ended {
                Some((_, result)) => said.push_str(&format!("; {side} {result}")),
                None => said.push_str(&format!("; {side} still open")),
            }
        }
        let decisions: usize = tracks.iter().map(|track| track.decisions.len()).sum();
        if decisions > 0 {
            said.push_str(&format!(
                "; {}",
                crate::text::count(decisions as u64, "decision")
            ));
        }
        said.push_str("; ");
        said.push_str(&self.downtime(group));
        said
    }

    /// The guest's downtime in words.
    pub(crate) fn downtime(&self, group: &Group) -> String {
        if group.guest.paused {
            return "the guest is paused by its owner".to_owned();
        }
        let still = &group.guest.still;
        if still.is_empty() {
            return "no record shows the guest standing still".to_owned();
        }
        let spans = still.iter().map(|still| {
            let length = still.length();
            let Some(runs) = still.runs else {
                return length;
            };
            let books = [still.stopped, runs].map(|moment| self.moments[moment].book);
            match self.uncertainty(books) {
                Some(0) => length,
                Some(by) => format!("{length} (\u{b1} {}, two clocks)", span(by)),
                None => format!("{length} (by two clocks that nothing compares)"),
            }
        });
        format!(
            "the guest stood still for {}",
            spans.collect::<Vec<_>>().join(" and ")
        )
    }

    /// By how much a time between records of two journals may be wrong; `None` if nothing bounds it.
    fn uncertainty(&self, books: [usize; 2]) -> Option<u64> {
        if books[0] == books[1] {
            return Some(0);
        }
        let each = books.map(|book| self.books[book].uncertain);
        Some(each[0]?.saturating_add(each[1]?))
    }
}

/// A length of time for people: `120 us`, `12.5 ms`, `3.20 s`, `4 min 5 s`.
pub(crate) fn span(nanoseconds: u64) -> String {
    let tenths = |unit: u64| {
        let tenths = nanoseconds.saturating_add(unit / 20) / (unit / 10);
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{} us", nanoseconds / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", tenths(1_000_000)),
        1_000_000_000..60_000_000_000 => format!("{} s", tenths(1_000_000_000)),
        60_000_000_000..3_600_000_000_000 => {
            let seconds = nanoseconds / 1_000_000_000;
            format!("{} min {} s", seconds / 60, seconds % 60)
        }
        _ => {
            let minutes = nanoseconds / 60_000_000_000;
            format!("{} h {} min", minutes / 60, minutes % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn spans() {
        assert_eq!(span(999), "999 ns");
        assert_eq!(span(120_000), "120 us");
        assert_eq!(span(12_540_000), "12.5 ms");
        assert_eq!(span(3_200_000_000), "3.2 s");
        assert_eq!(span(245_000_000_000), "4 min 5 s");
        assert_eq!(span(7_260_000_000_000), "2 h 1 min");
    }
}
