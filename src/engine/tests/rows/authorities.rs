//! The rows where a store or the manager decides.

use journal_format::record::{
    Authority, ContIntent, Evidence, MigrationStatus, Outcome, PeerAnswer, RunState, StoreAnswer,
};

use super::{Vary, committed, granted, perform, prepare, whole};
use crate::engine::Rule;

fn store(evidence: Evidence, answer: StoreAnswer) -> Evidence {
    evidence.but(|one| {
        one.authority = Authority::Store;
        one.store = answer;
    })
}

fn proposed(answer: StoreAnswer) -> Evidence {
    store(whole(), answer).but(|one| one.facts.proposed = true)
}

fn started(answer: StoreAnswer) -> Evidence {
    store(committed(), answer).but(|one| one.facts.started = true)
}

fn aborted(answer: StoreAnswer) -> Evidence {
    proposed(answer).but(|one| one.facts.aborted = true)
}

fn manager(evidence: Evidence) -> Evidence {
    evidence.but(|one| one.authority = Authority::Manager)
}

pub(super) fn rows() -> Vec<(Evidence, Option<Rule>)> {
    let mut rows = source_store();
    rows.extend(destination_store());
    rows.extend(of_manager());
    rows
}

fn source_store() -> Vec<(Evidence, Option<Rule>)> {
    use PeerAnswer as P;
    use StoreAnswer as S;
    let overdue = |evidence: Evidence| evidence.but(|one| one.overdue = true);
    let touched = |evidence: Evidence| evidence.but(|one| one.source_touched = true);
    let in_doubt = Some(Rule::SourceStoreInDoubt);
    let seeks = Some(Rule::SourceStoreSeekAborted);
    let absent = || store(granted(), S::Absent);
    let mut rows = vec![
        // A destination's word decides nothing here, whatever it is.
        (store(granted(), S::NotRead).heard(P::Started), in_doubt),
        (store(granted(), S::NotRead).heard(P::Aborted), in_doubt),
        (store(granted(), S::NotRead).heard(P::Amnesia), in_doubt),
        (absent(), in_doubt),
        (absent().heard(P::Unreachable), in_doubt),
        (store(granted(), S::Committed), in_doubt),
        // After the set time, or at once when the destination withdrew.
        (overdue(absent()), seeks),
        (overdue(absent()).heard(P::Unreachable), seeks),
        (absent().heard(P::Aborted), seeks),
        // Not where the key says that somebody won, nor where nobody knows what it says.
        (overdue(store(granted(), S::Committed)), in_doubt),
        (overdue(store(granted(), S::Unreachable)), in_doubt),
        (overdue(store(granted(), S::NotRead)), in_doubt),
        // Nor with a copy that is not all of the guest, or ran on.
        (touched(overdue(absent())), in_doubt),
        (overdue(absent()).mute(), in_doubt),
        (overdue(absent()).run(RunState::FinishMigrate), in_doubt),
        (
            overdue(absent()).but(|one| one.facts.postcopy = true),
            in_doubt,
        ),
        (
            overdue(absent()).but(|one| one.observed.migration = Some(MigrationStatus::Failed)),
            Some(Rule::SourceGrantedOther),
        ),
        (
            overdue(store(granted(), S::Older)),
            Some(Rule::SourceStoreOlder),
        ),
        (
            overdue(store(granted(), S::Foreign)),
            Some(Rule::StoreKeyForeign),
        ),
        (
            absent().run(RunState::Running),
            Some(Rule::SourceStoreRunning),
        ),
        (
            absent().run(RunState::Paused),
            Some(Rule::SourceStoreRunning),
        ),
        // A source whose QEMU is dead never proposes aborted.
        (overdue(absent()).dead(), Some(Rule::SourceStoreDead)),
        (
            absent().dead().heard(P::Unreachable),
            Some(Rule::SourceStoreDead),
        ),
        (
            absent().dead().heard(P::Aborted),
            Some(Rule::SourceStoreBothGone),
        ),
    ];
    // What the key said is on record as the outcome, and the rest is as ever.
    for (outcome, rule) in [
        (Outcome::Committed, Rule::SourceGrantedStarted),
        (Outcome::Aborted, Rule::SourceGrantedAborted),
    ] {
        rows.push((absent().outcome(outcome), Some(rule)));
    }
    // Before the licence a store has no part in it.
    let performing = perform(RunState::Running, MigrationStatus::Active);
    rows.push((
        store(performing, S::Aborted),
        Some(Rule::SourcePerformGiveUp),
    ));
    rows
}

fn destination_store() -> Vec<(Evidence, Option<Rule>)> {
    use PeerAnswer as P;
    use StoreAnswer as S;
    let holds = Some(Rule::DestinationStoreProposed);
    let amnesia = Some(Rule::DestinationStoreAmnesia);
    let licensed = |answer| store(whole(), answer).heard(P::Granted);
    vec![
        // Whole and licensed: proposed, and then only the key counts, whatever the source says.
        (licensed(S::NotRead), holds),
        (licensed(S::Absent), holds),
        (licensed(S::Unreachable), holds),
        (proposed(S::NotRead), holds),
        (proposed(S::Absent).heard(P::Unreachable), holds),
        (proposed(S::Unreachable).heard(P::Abandoned), holds),
        (proposed(S::Committed), Some(Rule::DestinationStoreWon)),
        (
            proposed(S::Committed).heard(P::Unreachable),
            Some(Rule::DestinationStoreWon),
        ),
        (proposed(S::Aborted), Some(Rule::DestinationStoreAborted)),
        (licensed(S::Aborted), Some(Rule::DestinationStoreAborted)),
        (
            store(whole(), S::Aborted).heard(P::Unreachable),
            Some(Rule::DestinationStoreAborted),
        ),
        (proposed(S::Foreign), Some(Rule::StoreKeyForeign)),
        (proposed(S::Started), amnesia),
        // Committed by this very journal, which does not know that it proposed.
        (licensed(S::Committed), amnesia),
        // Without a licence a store changes nothing.
        (
            store(whole(), S::Absent).heard(P::Unreachable),
            Some(Rule::DestinationPrepareAlone),
        ),
        (
            store(whole(), S::NotRead).heard(P::Abandoned),
            Some(Rule::DestinationPrepareAbandoned),
        ),
        (store(prepare(), S::NotRead).heard(P::Granted), None),
        (
            proposed(S::Committed).dead(),
            Some(Rule::DestinationPrepareDead),
        ),
        (
            proposed(S::Absent).run(RunState::Running),
            Some(Rule::DestinationPrepareRunning),
        ),
        // Committed: as ever.
        (
            store(committed(), S::Committed),
            Some(Rule::DestinationFinishRetry),
        ),
        (
            store(committed(), S::Committed)
                .cont(ContIntent::Refused)
                .heard(P::GrantedAndSafe),
            Some(Rule::DestinationFinishRefusedSafe),
        ),
        // Started: the key says so before the job ends, dead or alive.
        (started(S::NotRead), Some(Rule::DestinationStoreStarted)),
        (started(S::Committed), Some(Rule::DestinationStoreStarted)),
        (
            started(S::Absent).dead(),
            Some(Rule::DestinationStoreStarted),
        ),
        (started(S::Started), Some(Rule::DestinationStarted)),
        (
            started(S::Started).dead(),
            Some(Rule::DestinationStartedDead),
        ),
        (
            started(S::Aborted),
            Some(Rule::DestinationStoreContradicted),
        ),
        (
            started(S::Aborted).dead(),
            Some(Rule::DestinationStartedDead),
        ),
        (started(S::Foreign), Some(Rule::StoreKeyForeign)),
        // Withdrawn: first its copy is gone, then the key says so, then the job ends.
        (aborted(S::Committed), Some(Rule::DestinationAborted)),
        (
            aborted(S::Committed).dead(),
            Some(Rule::DestinationStoreWithdraw),
        ),
        (
            aborted(S::NotRead).dead(),
            Some(Rule::DestinationStoreWithdraw),
        ),
        (
            aborted(S::Aborted).dead(),
            Some(Rule::DestinationAbortedDead),
        ),
        (aborted(S::Started).dead(), amnesia),
        (aborted(S::Foreign).dead(), Some(Rule::StoreKeyForeign)),
        // What was never proposed needs no settling.
        (
            aborted(S::NotRead)
                .dead()
                .but(|one| one.facts.proposed = false),
            Some(Rule::DestinationAbortedDead),
        ),
    ]
}

fn of_manager() -> Vec<(Evidence, Option<Rule>)> {
    use PeerAnswer as P;
    let waits = Some(Rule::SourceVerdictAwaited);
    let continued = Some(Rule::SourceVerdictCont);
    let took = Some(Outcome::Aborted);
    vec![
        (manager(granted()), waits),
        (manager(granted()).heard(P::Unreachable), waits),
        (manager(granted()).heard(P::Amnesia), waits),
        (manager(granted()).heard(P::Whole), waits),
        (manager(granted()).mute(), waits),
        (manager(granted()).run(RunState::Running), continued),
        (manager(granted()).run(RunState::Paused), continued),
        // Continued once, the verdict stays, whatever QEMU does afterwards.
        (
            manager(granted()).but(|one| one.facts.verdict = took),
            continued,
        ),
        (
            manager(granted())
                .dead()
                .but(|one| one.facts.verdict = took),
            continued,
        ),
        (
            manager(granted()).run(RunState::SaveVm),
            Some(Rule::SourceGrantedOther),
        ),
        // The manager may have spoken at the destination: it is asked before the end counts.
        (manager(granted()).dead(), Some(Rule::SourceGrantedDead)),
        (
            manager(granted())
                .dead()
                .heard(P::Whole)
                .but(|one| one.watched = true),
            Some(Rule::SourceVerdictQuit),
        ),
        (
            manager(granted())
                .dead()
                .heard(P::Unreachable)
                .but(|one| one.watched = true),
            Some(Rule::SourceVerdictQuit),
        ),
        // It may have been continued before it ended.
        (manager(granted()).dead().heard(P::Whole), waits),
        (
            manager(granted()).outcome(Outcome::Committed),
            Some(Rule::SourceGrantedStarted),
        ),
        (
            manager(granted()).outcome(Outcome::Aborted),
            Some(Rule::SourceGrantedAborted),
        ),
        (
            manager(whole()).heard(P::Granted),
            Some(Rule::DestinationVerdictAwaited),
        ),
        (
            manager(whole()).heard(P::GrantedAndSafe),
            Some(Rule::DestinationVerdictAwaited),
        ),
        // The source was told committed, and gives that along with its licence.
        (
            manager(whole()).heard(P::Committed),
            Some(Rule::DestinationPrepareFinish),
        ),
        (
            manager(whole()).heard(P::Abandoned),
            Some(Rule::DestinationPrepareAbandoned),
        ),
        (manager(prepare()).heard(P::Granted), None),
        (
            manager(whole()).run(RunState::Running),
            Some(Rule::DestinationVerdictCont),
        ),
        (
            manager(whole())
                .dead()
                .heard(P::Granted)
                .but(|one| (one.recovering, one.watched) = (false, true)),
            Some(Rule::DestinationVerdictQuit),
        ),
        (
            manager(whole())
                .dead()
                .heard(P::Granted)
                .but(|one| one.recovering = true),
            Some(Rule::DestinationVerdictAwaited),
        ),
        // It was continued while it could not be seen, perhaps.
        (
            manager(whole())
                .dead()
                .heard(P::Granted)
                .but(|one| (one.recovering, one.watched) = (false, false)),
            Some(Rule::DestinationVerdictAwaited),
        ),
        (
            manager(whole())
                .dead()
                .heard(P::Committed)
                .but(|one| one.recovering = true),
            Some(Rule::DestinationVerdictQuit),
        ),
        // Ended before a licence came: a crash like any other.
        (
            manager(prepare()).dead().heard(P::Performing),
            Some(Rule::DestinationPrepareDead),
        ),
        (
            manager(prepare()).dead(),
            Some(Rule::DestinationVerdictAwaited),
        ),
    ]
}
