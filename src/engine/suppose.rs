//! Other evidence than there was: what the same moment would have been with another look or another word.
//!
//! Invariant: what an answer tells is said in one place, for the engine that hears it (`peer`) and for whoever
//! only supposes it.
//! Not here: what follows from evidence (`decide`).

use journal_format::record::{
    Authority, Evidence, Observed, Outcome, PeerAnswer, Phase, Role, StoreAnswer,
};

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

/// The outcome that the key in the store tells a source that gave its licence.
pub(crate) fn outcome_read(answer: StoreAnswer) -> Option<Outcome> {
    match answer {
        StoreAnswer::Started => Some(Outcome::Committed),
        StoreAnswer::Aborted => Some(Outcome::Aborted),
        StoreAnswer::NotRead
        | StoreAnswer::Unreachable
        | StoreAnswer::Absent
        | StoreAnswer::Older
        | StoreAnswer::Committed
        | StoreAnswer::Foreign => None,
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
        | PeerAnswer::Deciding
        | PeerAnswer::Lost => true,
        PeerAnswer::Performing
        | PeerAnswer::Granted
        | PeerAnswer::GrantedAndSafe
        | PeerAnswer::Abandoned
        | PeerAnswer::Committed => speaker == Role::Source,
        PeerAnswer::Whole | PeerAnswer::Started | PeerAnswer::Aborted | PeerAnswer::Split => {
            speaker == Role::Destination
        }
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
    // Where the store decides, its key told the outcome, and no answer did.
    if !is_settled(evidence) && evidence.authority != Authority::Store {
        let (authority, peer) = (evidence.authority, supposed.peer);
        supposed.facts.outcome =
            outcome_told(role, authority, peer, granted, evidence.journal_damaged);
    }
    supposed
}

/// Does a phase rest on the outcome already?
fn is_settled(evidence: &Evidence) -> bool {
    match evidence.phase {
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
    }
}

/// This evidence, had the key in the store said that.
#[must_use]
pub fn suppose_key(evidence: &Evidence, answer: StoreAnswer) -> Evidence {
    let mut supposed = evidence.clone();
    supposed.store = answer;
    let awaits_outcome = evidence.role == Role::Source && evidence.facts.granted;
    if awaits_outcome && !is_settled(evidence) {
        supposed.facts.outcome = outcome_read(answer);
    }
    supposed
}

/// This evidence, had the manager given that verdict, or none.
#[must_use]
pub fn suppose_verdict(evidence: &Evidence, verdict: Option<Outcome>) -> Evidence {
    let mut supposed = evidence.clone();
    supposed.facts.verdict = verdict;
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
        let told_by = |authority, role, granted, damaged| {
            PeerAnswer::ALL
                .iter()
                .filter_map(|answer| {
                    Some((
                        *answer,
                        outcome_told(role, authority, *answer, granted, damaged)?,
                    ))
                })
                .collect::<Vec<_>>()
        };
        let told = |role, granted, damaged| told_by(Authority::Destination, role, granted, damaged);
        assert_eq!(told_by(Authority::Store, Role::Source, true, false), []);
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
