//! Where the guest ran and how long it stood still, from what both sides recorded.
//!
//! Invariant: what nobody watched is a span between two bounds, never a guess.

use journal_format::record::{
    EffectCommand, EffectResult, Outcome, Process, RecordBody, Role, RunState, WantedRunState,
};

use super::model::{Guest, Moment, Opened, Still, Story, Time};

/// What a record says of the guest.
enum Says {
    /// It was seen standing where its memory went away from.
    Stands,
    /// It runs, at this side or the other one.
    Runs {
        here: bool,
    },
    /// It was told to run just now, and does.
    Obeyed,
    /// It was told to run, or may be told to at a side whose journal is not here.
    Told,
    /// That came to nothing.
    Refused,
    /// It is gone from here.
    Gone,
    Nothing,
}

fn says(story: &Story, index: usize, sent: bool, alone: bool) -> Says {
    let moment = &story.moments[index];
    let track = &story.tracks[moment.track];
    let is_source = track.role == Some(Role::Source);
    match &moment.body {
        Some(RecordBody::QemuObserved(seen)) => match (&seen.observed.run_state, is_source) {
            (Some(RunState::FinishMigrate | RunState::Postmigrate), true) if sent => Says::Stands,
            (Some(RunState::Running), _) => Says::Runs { here: true },
            _ if seen.observed.process == Process::Dead => Says::Gone,
            _ => Says::Nothing,
        },
        Some(RecordBody::MigrationStarted(_)) => Says::Runs { here: true },
        Some(RecordBody::OutcomeLearned(learned)) if learned.outcome == Outcome::Committed => {
            Says::Runs { here: false }
        }
        Some(RecordBody::MigrationGranted(_)) if alone => Says::Told,
        Some(RecordBody::EffectIntended(intended)) if intended.command == EffectCommand::Cont => {
            Says::Told
        }
        Some(RecordBody::EffectFinished(finished)) => {
            let mut effects = track.effects.iter();
            let of = effects.find(|sent| story.moments[sent.moment].lsn == finished.effect);
            match (of.map(|sent| sent.command.as_str()), &finished.result) {
                (Some("cont"), EffectResult::Done) => Says::Obeyed,
                (Some("cont"), EffectResult::Refused { .. } | EffectResult::NotSent { .. }) => {
                    Says::Refused
                }
                _ => Says::Nothing,
            }
        }
        _ => Says::Nothing,
    }
}

/// Where the guest ran and where it stood still, from what the records of both sides show in the order of time.
pub(super) fn guest(story: &Story, tracks: &[usize], from: Time, to: Time) -> Guest {
    let mut guest = Guest::default();
    let mut all: Vec<usize> = tracks
        .iter()
        .flat_map(|track| story.tracks[*track].moments.iter().copied())
        .collect();
    all.sort_by_key(|moment| (story.time(*moment), story.moments[*moment].book, *moment));
    let is_source = |track: usize| story.tracks[track].role == Some(Role::Source);
    let alone = tracks.len() == 1;
    let place = |track: usize| story.books[story.tracks[track].book].label.clone();
    let mut still: Option<usize> = None;
    let mut told: Option<usize> = None;
    let mut sent = false;
    let begun = tracks.iter().copied().find(|track| is_source(*track));
    let mut running = begun.map(|track| (from, Some(track)));
    for index in all {
        let moment = &story.moments[index];
        let now = story.time(index);
        sent |= matches!(&moment.body, Some(RecordBody::EffectIntended(intended))
            if matches!(intended.command, EffectCommand::Migrate { .. }));
        if let Some(wanted) = wanted(moment) {
            guest.paused = wanted == WantedRunState::Paused;
        }
        let mut stop = |running: &mut Option<(Time, Option<usize>)>, at: Time| {
            if let Some((from, track)) = running.take() {
                let at_place = track.map_or("the destination".to_owned(), place);
                guest.runs.push((from, at.max(from), at_place));
            }
        };
        let mut says = says(story, index, sent, alone);
        if matches!(says, Says::Obeyed) {
            // How long the command took is no doubt about when.
            (told, says) = (None, Says::Runs { here: true });
        }
        match says {
            Says::Stands
                if still.is_none() && running.is_none_or(|(_, at)| at == Some(moment.track)) =>
            {
                still = Some(index);
                stop(&mut running, unwatched(story, index));
            }
            Says::Runs { here } if still.is_some() || running.is_none() => {
                running = Some((now, here.then_some(moment.track)));
                if let Some(stopped) = still.take() {
                    let sure = told.take().map_or(now, |told| story.time(told));
                    let earliest = unwatched(story, stopped);
                    let from = story.time(stopped);
                    let runs = Some(index);
                    guest.still.push(Still {
                        earliest,
                        from,
                        sure,
                        to: now,
                        stopped,
                        runs,
                    });
                }
            }
            Says::Runs { here: true } => told = None,
            Says::Told if still.is_some() => told = told.or(Some(index)),
            Says::Refused => told = None,
            Says::Gone if running.is_some_and(|(_, at)| at == Some(moment.track)) => {
                stop(&mut running, now);
            }
            Says::Stands
            | Says::Runs { .. }
            | Says::Obeyed
            | Says::Told
            | Says::Gone
            | Says::Nothing => {}
        }
    }
    if let Some((since, track)) = running {
        let at_place = track.map_or("the destination".to_owned(), place);
        guest.runs.push((since, to, at_place));
    }
    if let Some(stopped) = still {
        let ends = tracks.iter().map(|track| {
            let book = story.tracks[*track].book;
            story.aligned(book, story.books[book].end)
        });
        let to = ends.max().unwrap_or(0);
        guest.still.push(Still {
            earliest: unwatched(story, stopped),
            from: story.time(stopped),
            sure: to,
            to,
            stopped,
            runs: None,
        });
    }
    guest
}

/// What the guest's owner wants, where a record says it.
fn wanted(moment: &Moment) -> Option<WantedRunState> {
    match moment.body.as_ref()? {
        RecordBody::WantedChanged(changed) => Some(changed.wanted),
        RecordBody::Decided(decided) => Some(decided.evidence.wanted),
        RecordBody::MigrationGranted(granted) => Some(granted.cookie.wanted),
        _ => None,
    }
}

/// When a guest that was seen standing may have stopped at the earliest: in the silence before, if that
/// was the first look after it.
fn unwatched(story: &Story, stopped: usize) -> Time {
    let moment = &story.moments[stopped];
    let openings = &story.books[moment.book].openings;
    let opened = openings.iter().rev().find(|opened| opened.at <= moment.at);
    let mut before = story.tracks[moment.track].moments.iter().rev();
    let is_first = |opened: &&Opened| {
        let earlier = before.find(|other| {
            **other < stopped
                && matches!(
                    story.moments[**other].body,
                    Some(RecordBody::QemuObserved(_))
                )
        });
        earlier.is_none_or(|earlier| story.moments[*earlier].at < opened.at)
    };
    let begun = story.tracks[moment.track].moments.first();
    let begun = begun.map_or(0, |first| story.moments[*first].at);
    match opened
        .filter(|opened| opened.silent_from >= begun)
        .filter(is_first)
    {
        Some(opened) => story.aligned(moment.book, opened.silent_from),
        None => story.time(stopped),
    }
}
