//! What the two sides of a migration say, laid beside each other.
//!
//! Invariant: where records are missing, nothing follows from their absence.
//! Not here: what a side keeps of its journal (the module around this one).

use std::borrow::Cow;

use journal_format::number::Lsn;
use journal_format::record::{
    Authority, JobResult, MigrationTerms, Outcome, PeerAnswer, Protocol, TEXT_SIZE_MAX,
};

use super::{Side, Story};

pub(super) fn terms(given: &Story, taken: &Story, say: &mut impl FnMut(String)) {
    let (Some(given), Some(taken)) = (&given.terms, &taken.terms) else {
        return;
    };
    let mut differ = |what: &str, one: &str, other: &str| {
        if one != other {
            say(format!(
                "{what}: the source says {}, the destination {}",
                shortened(one),
                shortened(other)
            ));
        }
    };
    differ("protocol", given.protocol.name(), taken.protocol.name());
    differ("authority", given.authority.name(), taken.authority.name());
    let yes = |is: bool| if is { "yes" } else { "no" };
    differ("post-copy", yes(given.postcopy), yes(taken.postcopy));
    let store = |terms: &MigrationTerms| terms.store.clone().unwrap_or_else(|| "none".to_owned());
    differ("store", &store(given), &store(taken));
    differ("URI", &given.uri, &taken.uri);
}

/// What a sidecar writes is shown as it is; who writes longer texts is not repeated in full.
fn shortened(text: &str) -> Cow<'_, str> {
    match text.len() > TEXT_SIZE_MAX {
        false => Cow::Borrowed(text),
        true => {
            let begin = &text[..text.floor_char_boundary(TEXT_SIZE_MAX)];
            Cow::Owned(format!("{begin}... ({} bytes)", text.len()))
        }
    }
}

/// The licence that was taken must be the one that was given.
pub(super) fn licences(source: &Side, given: &Story, taken: &Story, say: &mut impl FnMut(String)) {
    let protocol = given.terms.as_ref().map(|terms| terms.protocol);
    let offered = taken.terms.as_ref().and_then(|terms| terms.nonce);
    if let (Some(prepared), Some(offered)) = (given.prepared, offered)
        && prepared != offered
    {
        say("the source was prepared with another nonce than the destination made".to_owned());
    }
    // In v2 the source's commit is the licence.
    let licence = match protocol {
        Some(Protocol::V2) => given
            .committed
            .and_then(|(lsn, cookie)| Some((lsn, cookie?))),
        Some(Protocol::V3) | None => given.granted,
    };
    match (licence, taken.committed) {
        (Some((granted, given)), Some((lsn, Some(shown)))) if given != shown => say(format!(
            "committed (lsn {lsn}) with another licence than the one that was granted (lsn {granted})"
        )),
        (None, Some((lsn, Some(_)))) if source.is_whole(given) => say(format!(
            "committed (lsn {lsn}) with a licence that the source never granted"
        )),
        (_, _) => {}
    }
}

/// Facts that cannot both be.
pub(super) fn facts(given: &Story, taken: &Story, say: &mut impl FnMut(String)) {
    let mut both = |one: Option<Lsn>, other: Option<Lsn>, how: &dyn Fn(Lsn, Lsn) -> String| {
        if let (Some(one), Some(other)) = (one, other) {
            say(how(one, other));
        }
    };
    let learnt = |is: Outcome| {
        let outcome = given.outcome.filter(|(_, outcome, _)| *outcome == is);
        outcome.map(|(lsn, _, _)| lsn)
    };
    let ran = taken.started.or(taken.committed.map(|(lsn, _)| lsn));
    both(given.abandoned, ran, &|one, other| {
        format!(
            "the source gave up (lsn {one}) and went on, and the destination committed (lsn {other})"
        )
    });
    both(learnt(Outcome::Aborted), taken.started, &|one, other| {
        format!(
            "two copies: the source learnt aborted (lsn {one}) and went on, the destination started (lsn {other})"
        )
    });
    both(learnt(Outcome::Committed), taken.aborted, &|one, other| {
        format!(
            "no copy: the source learnt committed (lsn {one}) and ended its copy, the destination aborted \
             (lsn {other})"
        )
    });
    // An operator may have said otherwise than the other side knows.
    if given.resolved || taken.resolved {
        return;
    }
    let stays = [JobResult::Failed, JobResult::Cancelled];
    let goes = [JobResult::Completed];
    both(given.ended(&stays), taken.ended(&goes), &|one, other| {
        format!("both say that the guest is theirs (source lsn {one}, destination lsn {other})")
    });
    both(given.ended(&goes), taken.ended(&stays), &|one, other| {
        format!(
            "both say that the guest is the other's (source lsn {one}, destination lsn {other})"
        )
    });
}

/// What was heard must have been so when it was said.
pub(super) fn words(
    source: &Side,
    given: &Story,
    destination: &Side,
    taken: &Story,
    say: &mut impl FnMut(String),
) {
    let sides = [
        ("destination", given, destination, taken),
        ("source", taken, source, given),
    ];
    for (name, listener, speaker, told) in sides {
        for (answer, heard, position) in &listener.heard {
            let Some(fact) = fact_of(*answer, given, taken) else {
                continue;
            };
            let is_there = fact.is_some_and(|fact| fact <= position.lsn);
            if !is_there && speaker.is_whole(told) && speaker.covers(position) {
                let committed = taken.committed.filter(|_| *answer == PeerAnswer::Aborted);
                let how = match committed {
                    Some((lsn, _)) => format!("after it had committed (lsn {lsn})"),
                    None => format!("and had not recorded it by its lsn {}", position.lsn),
                };
                say(format!(
                    "the {name} answered {answer} (heard at lsn {heard}) {how}"
                ));
            }
        }
    }
    let decides = given.terms.as_ref().map(|terms| terms.authority) == Some(Authority::Destination);
    if let Some((learned, Outcome::Committed, Some(position))) = given.outcome
        && decides
        && destination.is_whole(taken)
        && destination.covers(&position)
        && taken.started.is_none()
        && !taken.resolved
    {
        say(format!(
            "the source learnt committed (lsn {learned}) of a destination that never started the guest"
        ));
    }
}

/// The record of what an answer says, if it says something that is recorded.
fn fact_of(answer: PeerAnswer, source: &Story, destination: &Story) -> Option<Option<Lsn>> {
    match answer {
        PeerAnswer::Started => Some(destination.started),
        PeerAnswer::Aborted => Some(destination.aborted),
        PeerAnswer::Granted | PeerAnswer::GrantedAndSafe => {
            let granted = source.granted.map(|(lsn, _)| lsn);
            Some(granted.or(source.committed.map(|(lsn, _)| lsn)))
        }
        PeerAnswer::Abandoned => {
            let outcome = source.outcome.map(|(lsn, _, _)| lsn);
            Some(source.abandoned.or(outcome))
        }
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
        | PeerAnswer::Lost => None,
    }
}
