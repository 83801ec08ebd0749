//! The rows of the table where the outcome is a key's in a store, or the manager's word.
//!
//! Invariant: with a store only a key that was read proves anything; with a manager only its verdict, its
//! own `cont` or its own `quit`. Without one it is a hold.
//! Not here: what both have in common with the other authorities (`decide`).

use journal_format::record::{Authority, Evidence, Outcome, PeerAnswer, Process, StoreAnswer};

use super::{RunClass, StatusClass, is_takeable, run_class, status_class};
use crate::engine::Rule;

/// Store: the licence went out, and the key has told no outcome yet.
pub(super) fn source_store(evidence: &Evidence) -> Rule {
    let observed = &evidence.observed;
    match evidence.store {
        StoreAnswer::Foreign => return Rule::StoreKeyForeign,
        StoreAnswer::Older => return Rule::SourceStoreOlder,
        StoreAnswer::NotRead
        | StoreAnswer::Unreachable
        | StoreAnswer::Absent
        | StoreAnswer::Committed
        | StoreAnswer::Started
        | StoreAnswer::Aborted => {}
    }
    match observed.process {
        Process::Dead if evidence.peer == PeerAnswer::Aborted => return Rule::SourceStoreBothGone,
        Process::Dead => return Rule::SourceStoreDead,
        Process::Mute | Process::OtherInstance => return Rule::SourceStoreInDoubt,
        Process::Alive => {}
    }
    match (
        run_class(observed.run_state.as_ref()),
        status_class(observed.migration.as_ref()),
    ) {
        (RunClass::Running, _) | (RunClass::Ran | RunClass::Paused, StatusClass::Completed) => {
            Rule::SourceStoreRunning
        }
        (RunClass::Postmigrate, StatusClass::Completed) if may_seek_aborted(evidence) => {
            Rule::SourceStoreSeekAborted
        }
        (
            RunClass::Postmigrate | RunClass::FinishMigrate,
            StatusClass::Completed | StatusClass::Postcopy | StatusClass::PostcopyBroken,
        ) => Rule::SourceStoreInDoubt,
        (
            RunClass::Ran
            | RunClass::Paused
            | RunClass::Inmigrate
            | RunClass::FinishMigrate
            | RunClass::Postmigrate
            | RunClass::Unknown,
            _,
        ) => Rule::SourceGrantedOther,
    }
}

/// This copy is all of the guest and never ran on; nobody has won yet, as far as the key that was read
/// says; and the destination does not want to, or was given time enough.
fn may_seek_aborted(evidence: &Evidence) -> bool {
    evidence.store == StoreAnswer::Absent
        && !evidence.facts.postcopy
        && !evidence.source_touched
        && (evidence.overdue || evidence.peer == PeerAnswer::Aborted)
}

/// Manager: the licence went out, and no outcome is known.
pub(super) fn source_manager(evidence: &Evidence) -> Rule {
    let observed = &evidence.observed;
    if evidence.facts.verdict == Some(Outcome::Aborted) {
        return match evidence.peer {
            // It took the other word, or was closed by hand, and then it never says more.
            PeerAnswer::Deciding => Rule::SourceVerdictAwaited,
            PeerAnswer::NotAsked
            | PeerAnswer::Unreachable
            | PeerAnswer::Amnesia
            | PeerAnswer::NoSuchMigration
            | PeerAnswer::Performing
            | PeerAnswer::Granted
            | PeerAnswer::GrantedAndSafe
            | PeerAnswer::Abandoned
            | PeerAnswer::NotWhole
            | PeerAnswer::Whole
            | PeerAnswer::Started
            | PeerAnswer::Aborted
            | PeerAnswer::Split
            | PeerAnswer::Lost
            | PeerAnswer::Committed => Rule::SourceVerdictCont,
        };
    }
    match observed.process {
        // What the manager may have said at the destination comes first.
        Process::Dead if evidence.peer == PeerAnswer::NotAsked => return Rule::SourceGrantedDead,
        // Watched from its stop to its end, it was ended as it stood there. Else the manager may have continued
        // it before, which is its verdict too, and the opposite one.
        Process::Dead if evidence.watched => return Rule::SourceVerdictQuit,
        Process::Dead => return Rule::SourceVerdictAwaited,
        Process::Mute | Process::OtherInstance => return Rule::SourceVerdictAwaited,
        Process::Alive => {}
    }
    match (
        run_class(observed.run_state.as_ref()),
        status_class(observed.migration.as_ref()),
    ) {
        (RunClass::Running, _) | (RunClass::Ran | RunClass::Paused, StatusClass::Completed) => {
            Rule::SourceVerdictCont
        }
        (
            RunClass::Postmigrate | RunClass::FinishMigrate,
            StatusClass::Completed | StatusClass::Postcopy | StatusClass::PostcopyBroken,
        ) => Rule::SourceVerdictAwaited,
        (
            RunClass::Ran
            | RunClass::Paused
            | RunClass::Inmigrate
            | RunClass::FinishMigrate
            | RunClass::Postmigrate
            | RunClass::Unknown,
            _,
        ) => Rule::SourceGrantedOther,
    }
}

/// The source's licence is here, by its last answer.
fn is_licensed(evidence: &Evidence) -> bool {
    match evidence.peer {
        PeerAnswer::Granted
        | PeerAnswer::GrantedAndSafe
        | PeerAnswer::Deciding
        | PeerAnswer::Committed => true,
        PeerAnswer::NotAsked
        | PeerAnswer::Unreachable
        | PeerAnswer::Amnesia
        | PeerAnswer::NoSuchMigration
        | PeerAnswer::Performing
        | PeerAnswer::Abandoned
        | PeerAnswer::NotWhole
        | PeerAnswer::Whole
        | PeerAnswer::Started
        | PeerAnswer::Aborted
        | PeerAnswer::Split
        | PeerAnswer::Lost => false,
    }
}

/// The same, or the source has not said anything that speaks against it.
fn may_be_licensed(evidence: &Evidence) -> bool {
    let is_silent = matches!(
        evidence.peer,
        PeerAnswer::NotAsked | PeerAnswer::Unreachable | PeerAnswer::Amnesia
    );
    // Committed is the manager's word as the source took it: its own copy is not there to fall back to.
    is_silent || is_licensed(evidence) && evidence.peer != PeerAnswer::Committed
}

/// Nothing is decided in this journal, and its QEMU is alive and waits or is whole.
pub(super) fn destination_undecided(evidence: &Evidence) -> Option<Rule> {
    let takeable = is_takeable(evidence);
    match evidence.authority {
        Authority::Destination | Authority::Source => None,
        Authority::Store => destination_store(evidence, takeable),
        Authority::Manager => match evidence.peer {
            PeerAnswer::Granted | PeerAnswer::GrantedAndSafe if takeable => {
                Some(Rule::DestinationVerdictAwaited)
            }
            _ => None,
        },
    }
}

fn destination_store(evidence: &Evidence, takeable: bool) -> Option<Rule> {
    let proposed = evidence.facts.proposed;
    match evidence.store {
        StoreAnswer::Aborted => Some(Rule::DestinationStoreAborted),
        StoreAnswer::Started => Some(Rule::DestinationStoreAmnesia),
        StoreAnswer::Foreign => Some(Rule::StoreKeyForeign),
        // Won by this very journal and prepare, and the intent is not on record.
        StoreAnswer::Committed if !proposed => Some(Rule::DestinationStoreAmnesia),
        StoreAnswer::Committed if takeable => Some(Rule::DestinationStoreWon),
        StoreAnswer::NotRead
        | StoreAnswer::Unreachable
        | StoreAnswer::Absent
        | StoreAnswer::Older
        | StoreAnswer::Committed => {
            let goes_by_the_key = takeable && (proposed || is_licensed(evidence));
            goes_by_the_key.then_some(Rule::DestinationStoreProposed)
        }
    }
}

/// Nothing is decided, and QEMU is gone.
pub(super) fn destination_dead(evidence: &Evidence) -> Rule {
    match evidence.authority {
        // Nobody saw whether the manager continued it before, which is its verdict too, and the opposite one.
        Authority::Manager if !evidence.watched && may_be_licensed(evidence) => {
            Rule::DestinationVerdictAwaited
        }
        Authority::Manager if is_licensed(evidence) => Rule::DestinationVerdictQuit,
        Authority::Destination | Authority::Store | Authority::Source | Authority::Manager => {
            Rule::DestinationPrepareDead
        }
    }
}

/// Nothing is decided, and the guest runs here.
pub(super) fn destination_running(evidence: &Evidence) -> Rule {
    match evidence.authority {
        Authority::Manager => Rule::DestinationVerdictCont,
        Authority::Destination | Authority::Store | Authority::Source => {
            Rule::DestinationPrepareRunning
        }
    }
}

/// Started, and with a store the key does not say so yet.
pub(super) fn is_unsettled(evidence: &Evidence) -> bool {
    evidence.authority == Authority::Store && evidence.store != StoreAnswer::Started
}

/// Store: started, whatever became of QEMU; the source waits for the key to say so.
pub(super) fn destination_unsettled(evidence: &Evidence) -> Rule {
    let is_dead = evidence.observed.process == Process::Dead;
    match evidence.store {
        // There is no second copy any more.
        StoreAnswer::Aborted if is_dead => Rule::DestinationStartedDead,
        StoreAnswer::Aborted => Rule::DestinationStoreContradicted,
        StoreAnswer::Foreign => Rule::StoreKeyForeign,
        StoreAnswer::NotRead
        | StoreAnswer::Unreachable
        | StoreAnswer::Absent
        | StoreAnswer::Older
        | StoreAnswer::Committed
        | StoreAnswer::Started => Rule::DestinationStoreStarted,
    }
}

/// Aborted, and QEMU is gone. A proposal to commit may be in the store: the key is settled first.
pub(super) fn destination_withdrawn(evidence: &Evidence) -> Rule {
    if evidence.authority != Authority::Store || !evidence.facts.proposed {
        return Rule::DestinationAbortedDead;
    }
    match evidence.store {
        StoreAnswer::Aborted => Rule::DestinationAbortedDead,
        StoreAnswer::Started => Rule::DestinationStoreAmnesia,
        StoreAnswer::Foreign => Rule::StoreKeyForeign,
        StoreAnswer::NotRead
        | StoreAnswer::Unreachable
        | StoreAnswer::Absent
        | StoreAnswer::Older
        | StoreAnswer::Committed => Rule::DestinationStoreWithdraw,
    }
}
