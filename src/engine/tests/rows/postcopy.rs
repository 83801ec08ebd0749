//! The rows of post-copy.
//!
//! Not here: what is the same in every migration (`rows`).

use journal_format::record::{
    ContIntent, Evidence, MigrationStatus, Outcome, PeerAnswer, RunState,
};

use super::{Vary, committed, granted, perform, whole};
use crate::engine::Rule;

/// Post-copy, whose rules come before the others.
pub(super) fn rows() -> Vec<(Evidence, Option<Rule>)> {
    use MigrationStatus as M;
    use PeerAnswer as P;
    use RunState as R;
    let split = |evidence: Evidence| evidence.but(|one| one.facts.postcopy = true);
    let source = |status| split(perform(R::FinishMigrate, status));
    let granted = |status| {
        split(granted())
            .run(R::FinishMigrate)
            .but(|one| one.observed.migration = Some(status))
    };
    let started_there = |status| granted(status).outcome(Outcome::Committed);
    let half = |status| split(whole()).but(|one| one.observed.migration = Some(status));
    let finish = |status| split(committed()).but(|one| one.observed.migration = Some(status));
    let started = |status| {
        finish(status)
            .run(R::Running)
            .but(|one| one.facts.started = true)
    };
    let active = || M::PostcopyActive;
    let broken = || M::PostcopyPaused;
    vec![
        // The source: pre-switchover is the last way back, until the intent to leave it: QEMU may be past it.
        (source(M::PreSwitchover), None),
        (
            perform(R::FinishMigrate, M::PreSwitchover),
            Some(Rule::SourcePerformGiveUp),
        ),
        (source(M::Device), None),
        (source(M::Failed), Some(Rule::SourcePerformGiveUp)),
        (source(active()), Some(Rule::SourcePerformPostcopy)),
        (source(broken()), Some(Rule::SourcePerformPostcopy)),
        (source(active()).run(R::Running), Some(Rule::NoRuleForThis)),
        (
            source(active()).dead().heard(P::NotWhole),
            Some(Rule::SourcePerformDeadAsking),
        ),
        (granted(active()), Some(Rule::SourceGrantedInDoubt)),
        (granted(broken()), Some(Rule::SourceGrantedInDoubt)),
        (started_there(active()), None),
        (started_there(M::PostcopyRecover), None),
        (started_there(active()).mute(), Some(Rule::QemuMute)),
        (started_there(broken()), Some(Rule::SourcePostcopyBroken)),
        (
            started_there(broken()).heard(P::Split),
            Some(Rule::SourcePostcopyBroken),
        ),
        (
            started_there(broken()).heard(P::Started),
            Some(Rule::SourcePostcopyWhole),
        ),
        (
            started_there(broken()).heard(P::Lost),
            Some(Rule::SourcePostcopyLost),
        ),
        (
            started_there(M::Completed).heard(P::Lost),
            Some(Rule::SourceGrantedStarted),
        ),
        (
            started_there(broken()).heard(P::Amnesia),
            Some(Rule::SourceGrantedAmnesia),
        ),
        (
            granted(broken()).outcome(Outcome::Aborted),
            Some(Rule::SourcePostcopyLost),
        ),
        // QEMU 7.2 says so before it sends the devices: it may fail, and then the guest is here.
        (
            granted(active()).outcome(Outcome::Aborted),
            Some(Rule::SourcePostcopyEnding),
        ),
        (
            granted(M::Failed).outcome(Outcome::Aborted),
            Some(Rule::SourceGrantedAborted),
        ),
        (
            started_there(active()).dead(),
            Some(Rule::SourceGrantedDeadSettled),
        ),
        // The destination: a copy that is not whole is taken, and never aborted on its own look.
        (
            half(active()).heard(P::Granted),
            Some(Rule::DestinationPrepareFinish),
        ),
        (
            half(broken()).heard(P::Granted),
            Some(Rule::DestinationPrepareFinish),
        ),
        (
            half(active()).heard(P::Abandoned),
            Some(Rule::DestinationPrepareAbandoned),
        ),
        (
            half(broken()).heard(P::Unreachable),
            Some(Rule::DestinationPrepareAlone),
        ),
        (
            half(broken()).heard(P::Lost),
            Some(Rule::DestinationPrepareLost),
        ),
        // Its journal lacks the post-copy, and says that its QEMU is gone: what streams, or is here, needs nothing of it.
        (
            half(broken()).heard(P::NotWhole).online(),
            Some(Rule::DestinationPrepareLost),
        ),
        (half(active()).heard(P::NotWhole).online(), None),
        (half(M::Completed).heard(P::NotWhole).online(), None),
        (half(active()).heard(P::Lost).online(), None),
        (
            half(M::Completed).heard(P::Lost).online(),
            Some(Rule::DestinationPrepareWaiting),
        ),
        (finish(broken()), Some(Rule::DestinationFinishRetry)),
        (
            finish(active()).cont(ContIntent::Refused),
            Some(Rule::DestinationFinishRefused),
        ),
        (started(active()), None),
        (started(M::Completed), Some(Rule::DestinationStarted)),
        (started(broken()), Some(Rule::DestinationPostcopyBroken)),
        (
            started(broken()).heard(P::Lost),
            Some(Rule::DestinationPostcopyLost),
        ),
        (
            started(broken()).heard(P::NoSuchMigration),
            Some(Rule::DestinationPostcopyLost),
        ),
        (
            started(broken()).heard(P::Amnesia),
            Some(Rule::DestinationPostcopyBroken),
        ),
        (started(active()).mute(), Some(Rule::QemuMute)),
        (started(active()).dead(), Some(Rule::DestinationStartedDead)),
        (
            started(M::from_qemu("of-a-newer-qemu")),
            Some(Rule::NoRuleForThis),
        ),
    ]
}
