//! The decision table: evidence to rule.
//!
//! Invariant: [`decide`] is a total function of its [`Evidence`]; the same evidence gives the same
//! rule in the daemon, in the simulator and in `explain` (P7). Every row stays right if QEMU moves
//! on between the look and the effect.
//! Not here: how a rule is carried out (`source`, `destination`); what the protocol does while
//! nothing has to be decided.

use journal_format::record::{
    Authority, ClaimSeen, ContIntent, Evidence, MigrationStatus, Observed, Outcome, PeerAnswer,
    Phase, Process, Protocol, Role, RunState,
};

use super::Rule;

mod authority;

/// QEMU's run state, as far as a decision tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunClass {
    /// The guest executes.
    Running,
    /// The guest executed in this process and does not now, for a reason of its own.
    Ran,
    /// Stopped, able to run: by `stop`, or loaded with `-S`.
    Paused,
    /// A destination that waits for its stream.
    Inmigrate,
    /// A source in its last step; passes by itself.
    FinishMigrate,
    /// A source that a migration stopped.
    Postmigrate,
    /// Not known, or not a state of a migration.
    Unknown,
}

/// The class of a run state; each state has exactly one.
pub(crate) fn run_class(run_state: Option<&RunState>) -> RunClass {
    match run_state {
        Some(RunState::Running) => RunClass::Running,
        Some(
            RunState::IoError
            | RunState::Watchdog
            | RunState::GuestPanicked
            | RunState::InternalError
            | RunState::Shutdown
            | RunState::Suspended
            | RunState::Debug,
        ) => RunClass::Ran,
        Some(RunState::Paused | RunState::Prelaunch) => RunClass::Paused,
        Some(RunState::Inmigrate) => RunClass::Inmigrate,
        Some(RunState::FinishMigrate) => RunClass::FinishMigrate,
        Some(RunState::Postmigrate) => RunClass::Postmigrate,
        Some(RunState::RestoreVm | RunState::SaveVm | RunState::Colo | RunState::Other(_))
        | None => RunClass::Unknown,
    }
}

/// QEMU's migration status, as far as a decision tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusClass {
    /// No migration since the process began.
    None,
    /// On its way; the guest runs.
    Performing,
    /// Stopped for the switchover; giving up is still safe.
    PreSwitchover,
    /// The last step; ends by itself in completed or failed.
    Device,
    /// Being cancelled.
    Cancelling,
    /// Ended without success.
    Ended,
    /// Everything was sent, or loaded.
    Completed,
    /// Post-copy: no way back.
    Postcopy,
    /// Post-copy, and its stream broke.
    PostcopyBroken,
    /// Not known.
    Unknown,
}

/// The class of a migration status; each status has exactly one.
pub(crate) fn status_class(status: Option<&MigrationStatus>) -> StatusClass {
    match status {
        Some(MigrationStatus::None) => StatusClass::None,
        Some(MigrationStatus::Setup | MigrationStatus::Active | MigrationStatus::WaitUnplug) => {
            StatusClass::Performing
        }
        Some(MigrationStatus::PreSwitchover) => StatusClass::PreSwitchover,
        Some(MigrationStatus::Device) => StatusClass::Device,
        Some(MigrationStatus::Cancelling) => StatusClass::Cancelling,
        Some(MigrationStatus::Cancelled | MigrationStatus::Failed) => StatusClass::Ended,
        Some(MigrationStatus::Completed) => StatusClass::Completed,
        Some(
            MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyRecoverSetup
            | MigrationStatus::PostcopyRecover,
        ) => StatusClass::Postcopy,
        Some(MigrationStatus::PostcopyPaused) => StatusClass::PostcopyBroken,
        Some(MigrationStatus::Colo | MigrationStatus::Other(_)) | None => StatusClass::Unknown,
    }
}

/// A destination's copy that is complete and has not run: only a cookie makes it more than that.
pub(crate) fn is_whole(evidence: &Evidence) -> bool {
    let observed = &evidence.observed;
    observed.process == Process::Alive
        && run_class(observed.run_state.as_ref()) == RunClass::Paused
        && status_class(observed.migration.as_ref()) == StatusClass::Completed
}

/// A destination's copy that may be given to run: whole, or in post-copy complete but for memory that
/// is on its way.
pub(crate) fn is_takeable(evidence: &Evidence) -> bool {
    let observed = &evidence.observed;
    let in_postcopy = match status_class(observed.migration.as_ref()) {
        StatusClass::Postcopy | StatusClass::PostcopyBroken => true,
        StatusClass::None
        | StatusClass::Performing
        | StatusClass::PreSwitchover
        | StatusClass::Device
        | StatusClass::Cancelling
        | StatusClass::Ended
        | StatusClass::Completed
        | StatusClass::Unknown => false,
    };
    let loaded = observed.process == Process::Alive
        && run_class(observed.run_state.as_ref()) == RunClass::Paused;
    is_whole(evidence) || evidence.facts.postcopy && loaded && in_postcopy
}

/// Destination: did what loaded here go on? QEMU shows a stream of its own, or the end of one: somebody saved it or sent it on, past
/// the sidecar, and its guest may be nowhere else.
pub(crate) fn was_sent_on(observed: &Observed) -> bool {
    let run = run_class(observed.run_state.as_ref());
    match status_class(observed.migration.as_ref()) {
        _ if matches!(run, RunClass::FinishMigrate | RunClass::Postmigrate) => true,
        StatusClass::Performing
        | StatusClass::PreSwitchover
        | StatusClass::Device
        | StatusClass::Cancelling
        | StatusClass::Ended => run == RunClass::Paused,
        StatusClass::None
        | StatusClass::Completed
        | StatusClass::Postcopy
        | StatusClass::PostcopyBroken
        | StatusClass::Unknown => false,
    }
}

/// A granted source whose copy is still there and can be resumed.
pub(crate) fn is_safe(evidence: &Evidence) -> bool {
    let observed = &evidence.observed;
    // In post-copy only forward: nobody is invited to give up.
    !evidence.facts.postcopy
        && observed.process == Process::Alive
        && run_class(observed.run_state.as_ref()) == RunClass::Postmigrate
        && status_class(observed.migration.as_ref()) == StatusClass::Completed
}

/// The rule that holds; `None` while the protocol simply goes on.
#[must_use]
pub fn decide(evidence: &Evidence) -> Option<Rule> {
    let rule = identity(evidence).or_else(|| match evidence.role {
        Role::Source => source(evidence),
        Role::Destination => destination(evidence),
    });
    #[cfg(any(test, feature = "mutants"))]
    let rule = super::mutant::altered(evidence, rule);
    rule
}

/// Is this the QEMU, and this journal the one, that the job was begun with? Comes before all else.
pub(crate) fn identity(evidence: &Evidence) -> Option<Rule> {
    let observed = &evidence.observed;
    if observed.process == Process::OtherInstance {
        return Some(Rule::OtherInstance);
    }
    if evidence.journal_damaged {
        return Some(Rule::JournalDamaged);
    }
    match (&observed.claim, &evidence.claim) {
        (ClaimSeen::Unread | ClaimSeen::Absent, _) => None,
        (ClaimSeen::Foreign(_), _) => Some(Rule::ClaimedByAnother),
        (ClaimSeen::Present(seen), Some(recorded)) if seen == recorded => None,
        (ClaimSeen::Present(seen), Some(recorded)) if seen.journal == recorded.journal => {
            Some(Rule::JournalOlderThanQemu)
        }
        (ClaimSeen::Present(_), _) => Some(Rule::ClaimedByAnother),
    }
}

fn source(evidence: &Evidence) -> Option<Rule> {
    let facts = &evidence.facts;
    let process = evidence.observed.process;
    if facts.committed {
        // v2: this journal is the authority, and has decided. A mute QEMU is ended all the same.
        return Some(match process {
            Process::Dead => Rule::SourceCommittedDead,
            Process::Alive | Process::Mute | Process::OtherInstance => Rule::SourceCommitted,
        });
    }
    match (facts.outcome, facts.granted, facts.abandoned) {
        (Some(Outcome::Committed), _, _) => source_committed(evidence),
        (Some(Outcome::Aborted), _, _) => source_aborted(evidence),
        (None, true, _) => Some(source_granted(evidence)),
        (None, false, true) => Some(match process {
            Process::Dead => Rule::SourceAbandonedDead,
            Process::Mute => Rule::QemuMute,
            Process::Alive | Process::OtherInstance => source_abandoned(evidence),
        }),
        (None, false, false) => match evidence.phase {
            Phase::Begin3 => source_begin(evidence),
            Phase::Perform2 | Phase::Perform3 => source_perform(evidence),
            Phase::Perform3Done
            | Phase::Confirm3
            | Phase::Confirm3Cancelled
            | Phase::Prepare
            | Phase::Finish2
            | Phase::Finish3
            | Phase::PostcopyFailed
            | Phase::BeginResume
            | Phase::PerformResume
            | Phase::ConfirmResume
            | Phase::PrepareResume
            | Phase::FinishResume => Some(Rule::NoRuleForThis),
        },
    }
}

/// Given up before a licence went out: this copy goes on, if there is a way back from where it is.
fn source_abandoned(evidence: &Evidence) -> Rule {
    let run = run_class(evidence.observed.run_state.as_ref());
    let status = status_class(evidence.observed.migration.as_ref());
    let migrated = evidence.facts.migrate_intended;
    // The destination's copy was continued from outside: this one is not made to run beside it.
    let is_second = run != RunClass::Running && evidence.peer == PeerAnswer::Started;
    match (status, run) {
        (StatusClass::Postcopy | StatusClass::PostcopyBroken | StatusClass::Unknown, _)
            if migrated =>
        {
            Rule::NoRuleForThis
        }
        (_, RunClass::Inmigrate | RunClass::Unknown) => Rule::NoRuleForThis,
        (
            StatusClass::None
            | StatusClass::Performing
            | StatusClass::PreSwitchover
            | StatusClass::Device
            | StatusClass::Cancelling
            | StatusClass::Ended
            | StatusClass::Completed
            | StatusClass::Postcopy
            | StatusClass::PostcopyBroken
            | StatusClass::Unknown,
            RunClass::Running
            | RunClass::Ran
            | RunClass::Paused
            | RunClass::FinishMigrate
            | RunClass::Postmigrate,
        ) => match is_second {
            true => Rule::SourceAbandonedStarted,
            false => Rule::SourceAbandoned,
        },
    }
}

/// The destination started the guest. Only that AND this QEMU saying completed end this copy; a
/// mute QEMU said so before the grant, if it was no post-copy.
fn source_committed(evidence: &Evidence) -> Option<Rule> {
    let confirmed = is_confirmed(evidence.phase);
    let observed = &evidence.observed;
    let rule = match observed.process {
        Process::Dead if confirmed => Rule::SourceConfirmDead,
        Process::Dead => Rule::SourceGrantedDeadSettled,
        Process::Mute if evidence.facts.postcopy && !confirmed => Rule::QemuMute,
        Process::Mute | Process::OtherInstance => Rule::SourceConfirm,
        Process::Alive => match (
            run_class(observed.run_state.as_ref()),
            status_class(observed.migration.as_ref()),
        ) {
            (RunClass::Running, _) => Rule::SourceGrantedRunningStarted,
            (_, StatusClass::Completed) if confirmed => Rule::SourceConfirm,
            (_, StatusClass::Completed) => Rule::SourceGrantedStarted,
            (
                RunClass::FinishMigrate | RunClass::Postmigrate,
                StatusClass::Postcopy | StatusClass::PostcopyBroken,
            ) => return source_split(evidence),
            (
                _,
                StatusClass::None
                | StatusClass::Performing
                | StatusClass::PreSwitchover
                | StatusClass::Device
                | StatusClass::Cancelling
                | StatusClass::Ended
                | StatusClass::Postcopy
                | StatusClass::PostcopyBroken
                | StatusClass::Unknown,
            ) => Rule::SourceGrantedStartedUnproven,
        },
    };
    Some(rule)
}

/// The destination runs the guest, whose memory is still on its way, or was.
fn source_split(evidence: &Evidence) -> Option<Rule> {
    let broken = status_class(evidence.observed.migration.as_ref()) == StatusClass::PostcopyBroken;
    match evidence.peer {
        PeerAnswer::Lost => Some(Rule::SourcePostcopyLost),
        // Only the end of the job there, or its QEMU's own word, says this.
        PeerAnswer::Started if broken => Some(Rule::SourcePostcopyWhole),
        // Nobody is there who would listen again, or say how its half does.
        PeerAnswer::Amnesia if broken => Some(Rule::SourceGrantedAmnesia),
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
        | PeerAnswer::Deciding
        | PeerAnswer::Started
        | PeerAnswer::Aborted
        | PeerAnswer::Split
        | PeerAnswer::Committed => broken.then_some(Rule::SourcePostcopyBroken),
    }
}

/// QEMU said completed, and the destination has started the guest.
pub(crate) fn is_confirmed(phase: Phase) -> bool {
    match phase {
        Phase::Confirm3 | Phase::ConfirmResume => true,
        Phase::Begin3
        | Phase::Perform2
        | Phase::Perform3
        | Phase::Perform3Done
        | Phase::Confirm3Cancelled
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

/// The destination will never run the guest. Its half of a split one went with it only if this QEMU says
/// that the stream broke: QEMU 7.2 says postcopy-active before it sends the devices, and fails, with the
/// guest whole, if it cannot.
fn source_aborted(evidence: &Evidence) -> Option<Rule> {
    let cancelled = evidence.phase == Phase::Confirm3Cancelled;
    let status = status_class(evidence.observed.migration.as_ref());
    let stopped = matches!(
        run_class(evidence.observed.run_state.as_ref()),
        RunClass::FinishMigrate | RunClass::Postmigrate
    );
    match (evidence.observed.process, cancelled) {
        (Process::Alive, _) if stopped && status == StatusClass::PostcopyBroken => {
            Some(Rule::SourcePostcopyLost)
        }
        // It breaks, or fails: the destination's QEMU is gone.
        (Process::Alive, _) if stopped && status == StatusClass::Postcopy => {
            Some(Rule::SourcePostcopyEnding)
        }
        (Process::Dead, true) => Some(Rule::SourceCancelledDead),
        (Process::Dead, false) => Some(Rule::SourceGrantedDeadSettled),
        (Process::Mute, _) => Some(Rule::QemuMute),
        (Process::Alive | Process::OtherInstance, true) => Some(Rule::SourceCancelled),
        (Process::Alive | Process::OtherInstance, false) => Some(Rule::SourceGrantedAborted),
    }
}

/// The licence went out: only the authority's word counts, whatever QEMU shows.
fn source_granted(evidence: &Evidence) -> Rule {
    let observed = &evidence.observed;
    match evidence.authority {
        Authority::Store => return authority::source_store(evidence),
        Authority::Manager => return authority::source_manager(evidence),
        Authority::Destination | Authority::Source => {}
    }
    if evidence.peer == PeerAnswer::Amnesia {
        return Rule::SourceGrantedAmnesia;
    }
    match observed.process {
        Process::Dead => Rule::SourceGrantedDead,
        Process::Mute | Process::OtherInstance => Rule::SourceGrantedInDoubt,
        Process::Alive => match (
            run_class(observed.run_state.as_ref()),
            status_class(observed.migration.as_ref()),
        ) {
            (RunClass::Running, _) | (RunClass::Ran | RunClass::Paused, StatusClass::Completed) => {
                Rule::SourceGrantedRunning
            }
            (
                RunClass::Postmigrate | RunClass::FinishMigrate,
                StatusClass::Completed | StatusClass::Postcopy | StatusClass::PostcopyBroken,
            ) => Rule::SourceGrantedInDoubt,
            (
                RunClass::Ran
                | RunClass::Paused
                | RunClass::Inmigrate
                | RunClass::FinishMigrate
                | RunClass::Postmigrate
                | RunClass::Unknown,
                _,
            ) => Rule::SourceGrantedOther,
        },
    }
}

fn source_begin(evidence: &Evidence) -> Option<Rule> {
    match (evidence.observed.process, evidence.recovering) {
        (Process::Dead, _) => Some(Rule::SourceBeginDead),
        (Process::Mute, _) => Some(Rule::QemuMute),
        (Process::Alive | Process::OtherInstance, true) => Some(Rule::SourceBeginUndone),
        (Process::Alive | Process::OtherInstance, false) => None,
    }
}

/// No licence went out: giving up is safe as long as this copy lives.
fn source_perform(evidence: &Evidence) -> Option<Rule> {
    let observed = &evidence.observed;
    match observed.process {
        Process::Dead => return Some(source_perform_dead(evidence)),
        Process::Mute => return Some(Rule::QemuMute),
        Process::Alive | Process::OtherInstance => {}
    }
    let run = run_class(observed.run_state.as_ref());
    let status = status_class(observed.migration.as_ref());
    let give_up = evidence.recovering.then_some(Rule::SourcePerformGiveUp);
    if !evidence.facts.migrate_intended {
        return match (status, run) {
            // None of those was there when the job began: somebody migrates it, and if that was this
            // sidecar, then its journal does not know any more.
            (
                StatusClass::Performing
                | StatusClass::PreSwitchover
                | StatusClass::Device
                | StatusClass::Postcopy
                | StatusClass::PostcopyBroken,
                _,
            )
            | (_, RunClass::FinishMigrate | RunClass::Postmigrate) => {
                give_up.and(Some(Rule::JournalOlderThanQemu))
            }
            // Whatever status there is belongs to an older migration or save of this process.
            _ => give_up,
        };
    }
    match (status, run) {
        // Nothing is concluded from a state that is not known, and nothing undone.
        (StatusClass::Performing, RunClass::Unknown) if !evidence.recovering => None,
        (_, RunClass::Inmigrate | RunClass::Unknown) => Some(Rule::NoRuleForThis),
        (StatusClass::Completed, RunClass::Postmigrate) => Some(match evidence.protocol {
            Protocol::V2 => source_perform2_completed(evidence),
            Protocol::V3 => Rule::SourcePerformCompleted,
        }),
        // The status comes first, the run state a moment later.
        (StatusClass::Completed, RunClass::FinishMigrate) => None,
        (StatusClass::Completed, RunClass::Running | RunClass::Ran | RunClass::Paused) => {
            Some(Rule::SourcePerformRunning)
        }
        (StatusClass::None | StatusClass::Ended | StatusClass::Cancelling, _) => {
            Some(Rule::SourcePerformGiveUp)
        }
        // On its way into post-copy (since QEMU 10 by way of `device`): it ends there or fails. QEMU takes
        // `migrate-continue` a moment before it acts on it: a cancel that is sent because of
        // pre-switchover may find a split guest, and destroy it.
        (StatusClass::PreSwitchover | StatusClass::Device, _) if evidence.facts.postcopy => None,
        (StatusClass::Performing | StatusClass::PreSwitchover | StatusClass::Device, _) => give_up,
        (
            StatusClass::Postcopy | StatusClass::PostcopyBroken,
            RunClass::FinishMigrate | RunClass::Postmigrate,
        ) if evidence.protocol == Protocol::V3 => Some(Rule::SourcePerformPostcopy),
        (StatusClass::Postcopy | StatusClass::PostcopyBroken | StatusClass::Unknown, _) => {
            Some(Rule::NoRuleForThis)
        }
    }
}

/// v2: no licence goes out before this side has decided, so that it may ask again and again; and what
/// it decided is carried out here before the destination hears of it.
fn source_perform2_completed(evidence: &Evidence) -> Rule {
    match evidence.peer {
        // Started without this side's word: a hand from outside continued it there, and what is here is older.
        PeerAnswer::Whole | PeerAnswer::Started => Rule::SourcePerform2Whole,
        PeerAnswer::Aborted | PeerAnswer::NoSuchMigration => Rule::SourcePerform2Gone,
        PeerAnswer::Amnesia => Rule::SourcePerform2Amnesia,
        PeerAnswer::NotAsked
        | PeerAnswer::Unreachable
        | PeerAnswer::Performing
        | PeerAnswer::Granted
        | PeerAnswer::GrantedAndSafe
        | PeerAnswer::Abandoned
        | PeerAnswer::NotWhole
        | PeerAnswer::Deciding
        | PeerAnswer::Split
        | PeerAnswer::Lost
        | PeerAnswer::Committed => Rule::SourcePerform2Completed,
    }
}

fn source_perform_dead(evidence: &Evidence) -> Rule {
    if !evidence.facts.migrate_intended {
        return source_perform_dead_unsent(evidence);
    }
    match evidence.peer {
        PeerAnswer::Whole if evidence.watched && evidence.protocol == Protocol::V3 => {
            Rule::SourcePerformDeadWatched
        }
        PeerAnswer::Whole | PeerAnswer::Deciding | PeerAnswer::Started | PeerAnswer::Split => {
            Rule::SourcePerformDeadUnwatched
        }
        PeerAnswer::Aborted | PeerAnswer::NoSuchMigration | PeerAnswer::Lost => {
            Rule::SourcePerformDeadNotWhole
        }
        // It may still be loading what was sent: it becomes whole or ends by itself.
        PeerAnswer::NotWhole
        | PeerAnswer::NotAsked
        | PeerAnswer::Unreachable
        | PeerAnswer::Amnesia
        | PeerAnswer::Performing
        | PeerAnswer::Granted
        | PeerAnswer::GrantedAndSafe
        | PeerAnswer::Abandoned
        | PeerAnswer::Committed => Rule::SourcePerformDeadAsking,
    }
}

/// Nothing was ever sent, as far as this journal knows. After a restart it may be an older copy, which does not
/// know what was sent since: the destination is asked before the job is closed.
fn source_perform_dead_unsent(evidence: &Evidence) -> Rule {
    match evidence.peer {
        PeerAnswer::Whole | PeerAnswer::Deciding | PeerAnswer::Started | PeerAnswer::Split => {
            Rule::SourcePerformDeadUnwatched
        }
        // Amnesia may be this journal's own: it does not know what the destination saw of it.
        PeerAnswer::NotAsked | PeerAnswer::Unreachable | PeerAnswer::Amnesia
            if evidence.recovering =>
        {
            Rule::SourcePerformDeadAsking
        }
        PeerAnswer::NotAsked
        | PeerAnswer::Unreachable
        | PeerAnswer::Amnesia
        | PeerAnswer::NotWhole
        | PeerAnswer::NoSuchMigration
        | PeerAnswer::Performing
        | PeerAnswer::Granted
        | PeerAnswer::GrantedAndSafe
        | PeerAnswer::Abandoned
        | PeerAnswer::Aborted
        | PeerAnswer::Lost
        | PeerAnswer::Committed => Rule::SourcePerformDeadNotWhole,
    }
}

fn destination(evidence: &Evidence) -> Option<Rule> {
    let facts = &evidence.facts;
    let dead = evidence.observed.process == Process::Dead;
    match (facts.aborted, facts.started, facts.committed) {
        (true, _, _) if dead => Some(authority::destination_withdrawn(evidence)),
        (true, _, _) => Some(Rule::DestinationAborted),
        (false, true, _) if authority::is_unsettled(evidence) => {
            Some(authority::destination_unsettled(evidence))
        }
        (false, true, _) if dead => Some(Rule::DestinationStartedDead),
        (false, true, _) => destination_started(evidence),
        (false, false, true) => Some(destination_finish(evidence)),
        (false, false, false) => match evidence.phase {
            Phase::Prepare => destination_prepare(evidence),
            Phase::Begin3
            | Phase::Perform2
            | Phase::Perform3
            | Phase::Perform3Done
            | Phase::Confirm3
            | Phase::Confirm3Cancelled
            | Phase::Finish2
            | Phase::Finish3
            | Phase::PostcopyFailed
            | Phase::BeginResume
            | Phase::PerformResume
            | Phase::ConfirmResume
            | Phase::PrepareResume
            | Phase::FinishResume => Some(Rule::NoRuleForThis),
        },
    }
}

/// Started: all there is to do was done, but in post-copy memory may still be on its way.
fn destination_started(evidence: &Evidence) -> Option<Rule> {
    if !evidence.facts.postcopy {
        return Some(Rule::DestinationStarted);
    }
    let status = status_class(evidence.observed.migration.as_ref());
    // It may wait for memory with its monitor blocked; that its stream broke it says all the same.
    if evidence.observed.process == Process::Mute && status != StatusClass::PostcopyBroken {
        return Some(Rule::QemuMute);
    }
    match status {
        StatusClass::Completed => Some(Rule::DestinationStarted),
        StatusClass::Postcopy => None,
        StatusClass::PostcopyBroken => Some(match evidence.peer {
            // A source that durably forgot this migration closed it when its QEMU was gone.
            PeerAnswer::Lost | PeerAnswer::NoSuchMigration => Rule::DestinationPostcopyLost,
            PeerAnswer::NotAsked
            | PeerAnswer::Unreachable
            | PeerAnswer::Amnesia
            | PeerAnswer::Performing
            | PeerAnswer::Granted
            | PeerAnswer::GrantedAndSafe
            | PeerAnswer::Abandoned
            | PeerAnswer::NotWhole
            | PeerAnswer::Whole
            | PeerAnswer::Deciding
            | PeerAnswer::Started
            | PeerAnswer::Split
            | PeerAnswer::Aborted
            | PeerAnswer::Committed => Rule::DestinationPostcopyBroken,
        }),
        StatusClass::None
        | StatusClass::Performing
        | StatusClass::PreSwitchover
        | StatusClass::Device
        | StatusClass::Cancelling
        | StatusClass::Ended
        | StatusClass::Unknown => Some(Rule::NoRuleForThis),
    }
}

/// Nothing decided: only a cookie lets this copy run, only the source's word ends it.
fn destination_prepare(evidence: &Evidence) -> Option<Rule> {
    let observed = &evidence.observed;
    match observed.process {
        Process::Dead => return Some(authority::destination_dead(evidence)),
        Process::Mute => return Some(Rule::QemuMute),
        Process::Alive | Process::OtherInstance => {}
    }
    let status = status_class(observed.migration.as_ref());
    match (run_class(observed.run_state.as_ref()), status) {
        (RunClass::Running, _) => return Some(authority::destination_running(evidence)),
        // A shut down or crashed guest travels as such: that it ran here is not said.
        (RunClass::Ran, _) => return Some(Rule::NoRuleForThis),
        (RunClass::Unknown, _) => return Some(Rule::NoRuleForThis),
        // A QEMU that cannot load its stream exits, or waits as it was. One that has loaded and shows an end was
        // streamed from since, and stands as that left it: the guest had come, and an older copy of this journal does not
        // know of it.
        (
            RunClass::Paused | RunClass::FinishMigrate | RunClass::Postmigrate,
            StatusClass::Ended,
        ) => {
            return Some(Rule::NoRuleForThis);
        }
        (RunClass::Inmigrate, StatusClass::Ended) => return Some(Rule::DestinationPrepareFailed),
        (RunClass::Inmigrate | RunClass::Paused, StatusClass::None)
        | (RunClass::Inmigrate | RunClass::Paused, StatusClass::Performing)
        | (RunClass::Inmigrate | RunClass::Paused, StatusClass::Completed) => {}
        (
            RunClass::Inmigrate | RunClass::Paused,
            StatusClass::Postcopy | StatusClass::PostcopyBroken,
        ) if evidence.facts.postcopy => {}
        (
            RunClass::Inmigrate
            | RunClass::Paused
            | RunClass::FinishMigrate
            | RunClass::Postmigrate,
            _,
        ) => return Some(Rule::NoRuleForThis),
    }
    // A source that does not know of the post-copy, since its disk lost that, says that its QEMU is gone all the same.
    let is_gone_there = matches!(evidence.peer, PeerAnswer::Lost | PeerAnswer::NotWhole);
    if is_gone_there && status == StatusClass::PostcopyBroken {
        return Some(Rule::DestinationPrepareLost);
    }
    if let Some(rule) = authority::destination_undecided(evidence) {
        return Some(rule);
    }
    match (evidence.peer, is_takeable(evidence)) {
        (PeerAnswer::Abandoned, _) => Some(Rule::DestinationPrepareAbandoned),
        (
            PeerAnswer::Granted
            | PeerAnswer::GrantedAndSafe
            | PeerAnswer::Deciding
            | PeerAnswer::Committed,
            true,
        ) => Some(Rule::DestinationPrepareFinish),
        // Nothing came here, and the source says completed: it is not this migration that completed there.
        (PeerAnswer::GrantedAndSafe, false) if is_empty(observed) => {
            Some(Rule::DestinationPrepareFailed)
        }
        (PeerAnswer::Granted | PeerAnswer::Deciding | PeerAnswer::Committed, false)
            if is_empty(observed) =>
        {
            Some(Rule::DestinationPrepareWaiting)
        }
        // The source saw everything loaded; our own look is a moment behind.
        (
            PeerAnswer::Granted
            | PeerAnswer::GrantedAndSafe
            | PeerAnswer::Deciding
            | PeerAnswer::Committed,
            false,
        ) => None,
        // A source that durably forgot this migration had closed it without a licence, and nothing that may be the guest has come.
        // One that has loaded and is no whole copy streams, and may be all that there is: the guest had come by this migration, its owner
        // stopped it, and it is on its way to a file or to another host; an older copy of this journal does not know of it.
        (PeerAnswer::NoSuchMigration, false) if is_loading(observed) => {
            Some(Rule::DestinationPrepareAbandoned)
        }
        (PeerAnswer::NoSuchMigration | PeerAnswer::Amnesia, _) => {
            Some(Rule::DestinationPrepareAmnesia)
        }
        (PeerAnswer::Unreachable, _) => Some(Rule::DestinationPrepareAlone),
        // The source's QEMU is gone, and nothing of the guest came here: nothing ever will.
        (PeerAnswer::NotWhole, false) if is_empty(observed) => Some(Rule::DestinationPrepareFailed),
        // It was asked after a silence, and there is nothing more to send: it cannot decide.
        (PeerAnswer::Performing, true) => Some(Rule::DestinationPrepareWaiting),
        // Its half is gone without a licence, and this copy needs nothing of it any more.
        (PeerAnswer::Lost, true) if is_whole(evidence) => Some(Rule::DestinationPrepareWaiting),
        (
            PeerAnswer::NotAsked
            | PeerAnswer::Performing
            | PeerAnswer::NotWhole
            | PeerAnswer::Whole
            | PeerAnswer::Started
            | PeerAnswer::Split
            | PeerAnswer::Lost
            | PeerAnswer::Aborted,
            _,
        ) => evidence
            .recovering
            .then_some(Rule::DestinationPrepareWaiting),
    }
}

/// Waits for its stream, or for the rest of it.
fn is_loading(observed: &Observed) -> bool {
    run_class(observed.run_state.as_ref()) == RunClass::Inmigrate
}

/// Waits for its stream, of which nothing has come.
fn is_empty(observed: &Observed) -> bool {
    is_loading(observed) && status_class(observed.migration.as_ref()) == StatusClass::None
}

/// Committed: the guest runs here, unless it provably never did and the source's copy is safe.
fn destination_finish(evidence: &Evidence) -> Rule {
    let observed = &evidence.observed;
    let cont = evidence.facts.cont;
    match observed.process {
        // The source ended its copy before it gave the licence: there is nothing to go back to.
        Process::Dead if evidence.protocol == Protocol::V2 => return Rule::DestinationFinishDead,
        Process::Dead => {
            return match cont {
                ContIntent::Never | ContIntent::NotSent | ContIntent::Refused => {
                    Rule::DestinationFinishDeadUnsent
                }
                ContIntent::Unknown | ContIntent::Done => Rule::DestinationFinishDead,
            };
        }
        Process::Mute => return Rule::QemuMute,
        Process::Alive | Process::OtherInstance => {}
    }
    match run_class(observed.run_state.as_ref()) {
        RunClass::Running | RunClass::Ran => Rule::DestinationFinishRunning,
        RunClass::Paused if is_takeable(evidence) => match (cont, evidence.peer) {
            (ContIntent::Done, _) => Rule::DestinationFinishRunning,
            (ContIntent::Refused, _) if evidence.protocol == Protocol::V2 => {
                Rule::DestinationFinishRetry
            }
            (ContIntent::Refused, PeerAnswer::GrantedAndSafe) => Rule::DestinationFinishRefusedSafe,
            (ContIntent::Refused, _) => Rule::DestinationFinishRefused,
            (ContIntent::Never | ContIntent::NotSent | ContIntent::Unknown, _) => {
                Rule::DestinationFinishRetry
            }
        },
        RunClass::Paused
        | RunClass::Inmigrate
        | RunClass::FinishMigrate
        | RunClass::Postmigrate
        | RunClass::Unknown => Rule::NoRuleForThis,
    }
}
