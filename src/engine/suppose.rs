//! Other evidence than there was: what the same moment would have been with another look or another word.
//!
//! Invariant: what an answer tells is said in one place, for the engine that hears it (`peer`) and for whoever
//! only supposes it.
//! Not here: what follows from evidence (`decide`).

use journal_format::record::{Authority, Evidence, Observed, Outcome, PeerAnswer, Phase, Role};

/// What an answer comes to at this side: of a licence that went out nobody forgets honestly.
pub(crate) fn taken(role: Role, answer: PeerAnswer, granted: bool, open: bool) -> PeerAnswer {
    match (role, answer) {
        // It prepared, and its outcome is not known here: it cannot have forgotten honestly.
        (Role::Source, PeerAnswer::NoSuchMigration) if granted && open => PeerAnswer::Amnesia,
        (Role::Source | Role::Destination, other) => other,
    }
}

/// The outcome that an answer tells a source that gave its licence.
pub(crate) fn outcome_told(
    role: Role,
    authority: Authority,
    answer: PeerAnswer,
    granted: bool,
    damaged: bool,
) -> Option<Outcome> {
    match (role, answer) {
        // The destination decides nothing: the key does.
        _ if authority == Authority::Store => None,
        (Role::Source, PeerAnswer::Started | PeerAnswer::Split | PeerAnswer::Lost) if granted => {
            Some(Outcome::Committed)
        }
        // Where the other side's journal stood may be lost: a shorter one may say so.
        (Role::Source, PeerAnswer::Aborted) if granted && !damaged => Some(Outcome::Aborted),
        (Role::Source | Role::Destination, _) => None,
    }
}

/// Is that among what a side of that role says of a migration, or what is known of one that says nothing?
#[must_use]
pub fn can_say(speaker: Role, answer: PeerAnswer) -> bool {
    match answer {
        PeerAnswer::NotAsked
        | PeerAnswer::Unreachable
        | PeerAnswer::Amnesia
        | PeerAnswer::NoSuchMigration
        | PeerAnswer::NotWhole
        | PeerAnswer::Lost => true,
        PeerAnswer::Performing
        | PeerAnswer::Granted
        | PeerAnswer::GrantedAndSafe
        | PeerAnswer::Abandoned => speaker == Role::Source,
        PeerAnswer::Whole
        | PeerAnswer::Deciding
        | PeerAnswer::Started
        | PeerAnswer::Aborted
        | PeerAnswer::Split => speaker == Role::Destination,
    }
}

/// This evidence, had the other side given that answer, with the licence where it gives one.
///
/// An outcome that was only told, and on which no phase rests yet, would not have been.
#[must_use]
pub fn suppose_answer(evidence: &Evidence, answer: PeerAnswer) -> Evidence {
    let mut supposed = evidence.clone();
    let (role, granted) = (evidence.role, evidence.facts.granted);
    supposed.peer = taken(role, answer, granted, true);
    let is_settled = match evidence.phase {
        Phase::Confirm3 | Phase::Confirm3Cancelled | Phase::ConfirmResume => true,
        Phase::Begin3
        | Phase::Perform2
        | Phase::Perform3
        | Phase::Perform3Done
        | Phase::Prepare
        | Phase::Finish2
        | Phase::Finish3
        | Phase::PostcopyFailed
        | Phase::BeginResume
        | Phase::PerformResume
        | Phase::PrepareResume
        | Phase::FinishResume => false,
    };
    if !is_settled {
        supposed.facts.outcome =
            outcome_told(role, supposed.peer, granted, evidence.journal_damaged);
    }
    supposed
}

/// This evidence, had QEMU shown that.
#[must_use]
pub fn suppose_look(evidence: &Evidence, observed: Observed) -> Evidence {
    Evidence {
        observed,
        ..evidence.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_somebody_s() {
        for answer in PeerAnswer::ALL {
            let speakers = [Role::Source, Role::Destination];
            assert!(
                speakers.iter().any(|role| can_say(*role, *answer)),
                "{answer}"
            );
        }
    }

    #[test]
    fn of_a_licence_nobody_forgets_honestly() {
        let answer = PeerAnswer::NoSuchMigration;
        assert_eq!(taken(Role::Source, answer, true, true), PeerAnswer::Amnesia);
        assert_eq!(taken(Role::Source, answer, false, true), answer);
        assert_eq!(taken(Role::Source, answer, true, false), answer);
        assert_eq!(taken(Role::Destination, answer, true, true), answer);
    }

    #[test]
    fn only_a_source_that_gave_its_licence_is_told_an_outcome() {
        let told = |role, granted, damaged| {
            PeerAnswer::ALL
                .iter()
                .filter_map(|answer| {
                    Some((*answer, outcome_told(role, *answer, granted, damaged)?))
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(told(Role::Destination, true, false), []);
        assert_eq!(told(Role::Source, false, false), []);
        let all = [
            (PeerAnswer::Started, Outcome::Committed),
            (PeerAnswer::Aborted, Outcome::Aborted),
            (PeerAnswer::Split, Outcome::Committed),
            (PeerAnswer::Lost, Outcome::Committed),
        ];
        assert_eq!(told(Role::Source, true, false), all);
        assert_eq!(told(Role::Source, true, true).len(), 3);
    }
}
