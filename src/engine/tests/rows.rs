//! The decision table, row by row: what each rule is for, and that each has such a row.

mod authorities;
mod driven;
mod jobs;
mod later;
mod postcopy;

use std::collections::BTreeSet;

use journal_format::number::{Epoch, Id128, JournalId, MigrationId};
use journal_format::record::{
    Authority, Claim, ClaimSeen, ContIntent, Evidence, Facts, MigrationStatus, Observed, Outcome,
    PeerAnswer, Phase, Process, Protocol, Role, RunState, StoreAnswer, WantedRunState,
};

use crate::engine::{Rule, decide};

fn claim(journal: u8, epoch: u32) -> Claim {
    Claim {
        journal: JournalId(Id128([journal; 16])),
        epoch: Epoch(epoch),
        migration: MigrationId(Id128([2; 16])),
        role: Role::Source,
    }
}

/// A side in a phase, with a living QEMU in the given state and nothing else known.
fn at(role: Role, phase: Phase, run: RunState, status: MigrationStatus) -> Evidence {
    Evidence {
        role,
        protocol: Protocol::V3,
        authority: Authority::Destination,
        phase,
        facts: Facts {
            migrate_intended: !matches!(phase, Phase::Begin3 | Phase::Prepare | Phase::Finish3),
            postcopy: false,
            granted: matches!(phase, Phase::Perform3Done | Phase::Confirm3),
            abandoned: false,
            committed: phase == Phase::Finish3,
            started: false,
            aborted: false,
            outcome: None,
            cont: if phase == Phase::Finish3 {
                ContIntent::Unknown
            } else {
                ContIntent::Never
            },
            proposed: false,
            verdict: None,
        },
        observed: Observed {
            process: Process::Alive,
            instance: None,
            run_state: Some(run),
            migration: Some(status),
            claim: ClaimSeen::Present(claim(1, 1)),
        },
        claim: Some(claim(1, 1)),
        peer: PeerAnswer::NotAsked,
        watched: false,
        recovering: true,
        journal_damaged: false,
        wanted: WantedRunState::Running,
        store: StoreAnswer::NotRead,
        overdue: false,
        source_touched: false,
    }
}

fn begin() -> Evidence {
    at(
        Role::Source,
        Phase::Begin3,
        RunState::Running,
        MigrationStatus::None,
    )
}

fn perform(run: RunState, status: MigrationStatus) -> Evidence {
    at(Role::Source, Phase::Perform3, run, status)
}

/// A source whose QEMU died before anything was sent, as far as its journal knows.
fn unsent(peer: PeerAnswer, recovering: bool) -> Evidence {
    let dead = perform(RunState::Postmigrate, MigrationStatus::Completed).dead();
    dead.heard(peer).but(|one| {
        one.facts.migrate_intended = false;
        one.recovering = recovering;
    })
}

fn granted() -> Evidence {
    at(
        Role::Source,
        Phase::Perform3Done,
        RunState::Postmigrate,
        MigrationStatus::Completed,
    )
}

fn prepare() -> Evidence {
    at(
        Role::Destination,
        Phase::Prepare,
        RunState::Inmigrate,
        MigrationStatus::Active,
    )
}

fn whole() -> Evidence {
    at(
        Role::Destination,
        Phase::Prepare,
        RunState::Paused,
        MigrationStatus::Completed,
    )
}

fn committed() -> Evidence {
    at(
        Role::Destination,
        Phase::Finish3,
        RunState::Paused,
        MigrationStatus::Completed,
    )
}

fn v2(evidence: Evidence) -> Evidence {
    evidence.but(|one| {
        one.protocol = Protocol::V2;
        one.authority = Authority::Source;
    })
}

fn perform2() -> Evidence {
    at(
        Role::Source,
        Phase::Perform2,
        RunState::Postmigrate,
        MigrationStatus::Completed,
    )
}

/// The source's own decision, which is the licence as well.
fn committed2() -> Evidence {
    v2(perform2()).but(|one| {
        one.facts.committed = true;
        one.facts.granted = true;
    })
}

fn finish2() -> Evidence {
    v2(committed()).but(|one| one.phase = Phase::Finish2)
}

impl Vary for Evidence {}

/// Variations of evidence, so that a row reads as one.
trait Vary: Sized + Into<Evidence> {
    fn but(self, change: impl FnOnce(&mut Evidence)) -> Evidence {
        let mut evidence = self.into();
        change(&mut evidence);
        evidence
    }
    fn dead(self) -> Evidence {
        self.but(|one| {
            one.observed.process = Process::Dead;
            one.observed.run_state = None;
            one.observed.migration = None;
            one.observed.claim = ClaimSeen::Unread;
        })
    }
    fn mute(self) -> Evidence {
        self.dead().but(|one| one.observed.process = Process::Mute)
    }
    fn heard(self, answer: PeerAnswer) -> Evidence {
        self.but(|one| one.peer = answer)
    }
    fn outcome(self, outcome: Outcome) -> Evidence {
        self.but(|one| one.facts.outcome = Some(outcome))
    }
    fn cont(self, cont: ContIntent) -> Evidence {
        self.but(|one| one.facts.cont = cont)
    }
    fn run(self, run: RunState) -> Evidence {
        self.but(|one| one.observed.run_state = Some(run))
    }
    fn online(self) -> Evidence {
        self.but(|one| one.recovering = false)
    }
}

fn rows() -> Vec<(Evidence, Option<Rule>)> {
    use MigrationStatus as M;
    use PeerAnswer as P;
    use RunState as R;
    let completed = || perform(R::Postmigrate, M::Completed);
    let abandoned = |evidence: Evidence| evidence.but(|one| one.facts.abandoned = true);
    let aborted = |evidence: Evidence| evidence.but(|one| one.facts.aborted = true);
    let started = |evidence: Evidence| evidence.but(|one| one.facts.started = true);
    vec![
        // Identity.
        (
            granted().but(|one| one.observed.process = Process::OtherInstance),
            Some(Rule::OtherInstance),
        ),
        (
            granted().but(|one| one.observed.claim = ClaimSeen::Present(claim(9, 1))),
            Some(Rule::ClaimedByAnother),
        ),
        (
            granted().but(|one| one.observed.claim = ClaimSeen::Foreign("x".to_owned())),
            Some(Rule::ClaimedByAnother),
        ),
        (
            granted().but(|one| one.observed.claim = ClaimSeen::Present(claim(1, 2))),
            Some(Rule::JournalOlderThanQemu),
        ),
        (
            begin().but(|one| one.claim = None),
            Some(Rule::ClaimedByAnother),
        ),
        (
            granted().but(|one| one.journal_damaged = true),
            Some(Rule::JournalDamaged),
        ),
        // Source, begin.
        (begin(), Some(Rule::SourceBeginUndone)),
        (begin().online(), None),
        (begin().dead(), Some(Rule::SourceBeginDead)),
        (begin().mute(), Some(Rule::QemuMute)),
        // Source, perform.
        (
            perform(R::Running, M::Active),
            Some(Rule::SourcePerformGiveUp),
        ),
        (perform(R::Running, M::Active).online(), None),
        (
            perform(R::FinishMigrate, M::PreSwitchover),
            Some(Rule::SourcePerformGiveUp),
        ),
        (
            perform(R::FinishMigrate, M::Device),
            Some(Rule::SourcePerformGiveUp),
        ),
        (
            perform(R::Running, M::Failed).online(),
            Some(Rule::SourcePerformGiveUp),
        ),
        (
            perform(R::Running, M::Cancelled).online(),
            Some(Rule::SourcePerformGiveUp),
        ),
        (completed(), Some(Rule::SourcePerformCompleted)),
        (completed().online(), Some(Rule::SourcePerformCompleted)),
        (perform(R::FinishMigrate, M::Completed), None),
        (
            perform(R::Running, M::Completed),
            Some(Rule::SourcePerformRunning),
        ),
        // The status of an older save, before this migration was begun.
        (
            perform(R::Running, M::Completed)
                .online()
                .but(|one| one.facts.migrate_intended = false),
            None,
        ),
        (
            v2(perform(R::FinishMigrate, M::PostcopyActive)),
            Some(Rule::NoRuleForThis),
        ),
        (
            perform(R::Running, M::Other("new".to_owned())),
            Some(Rule::NoRuleForThis),
        ),
        (completed().mute(), Some(Rule::QemuMute)),
        (completed().dead(), Some(Rule::SourcePerformDeadAsking)),
        (
            completed().dead().heard(P::Whole),
            Some(Rule::SourcePerformDeadUnwatched),
        ),
        (
            completed()
                .dead()
                .heard(P::Whole)
                .but(|one| one.watched = true),
            Some(Rule::SourcePerformDeadWatched),
        ),
        (
            completed().dead().heard(P::NotWhole),
            Some(Rule::SourcePerformDeadAsking),
        ),
        (
            completed().dead().heard(P::Aborted),
            Some(Rule::SourcePerformDeadNotWhole),
        ),
        (
            completed().dead().heard(P::Amnesia),
            Some(Rule::SourcePerformDeadAsking),
        ),
        // Nothing was sent, as far as the journal knows; one that was put back asks first.
        (
            unsent(P::NotAsked, false),
            Some(Rule::SourcePerformDeadNotWhole),
        ),
        (
            unsent(P::NotAsked, true),
            Some(Rule::SourcePerformDeadAsking),
        ),
        (
            unsent(P::Whole, true),
            Some(Rule::SourcePerformDeadUnwatched),
        ),
        (
            unsent(P::NotWhole, true),
            Some(Rule::SourcePerformDeadNotWhole),
        ),
        // Given up is given up, whatever QEMU shows.
        (abandoned(completed()), Some(Rule::SourceAbandoned)),
        (
            abandoned(perform(R::Running, M::Active)),
            Some(Rule::SourceAbandoned),
        ),
        (
            abandoned(completed()).heard(P::Started),
            Some(Rule::SourceAbandonedStarted),
        ),
        (
            abandoned(completed()).dead(),
            Some(Rule::SourceAbandonedDead),
        ),
        // Source, granted.
        (granted(), Some(Rule::SourceGrantedInDoubt)),
        (
            granted().heard(P::Unreachable),
            Some(Rule::SourceGrantedInDoubt),
        ),
        (
            granted().heard(P::Deciding),
            Some(Rule::SourceGrantedInDoubt),
        ),
        (granted().mute(), Some(Rule::SourceGrantedInDoubt)),
        (
            granted().heard(P::Amnesia),
            Some(Rule::SourceGrantedAmnesia),
        ),
        (
            granted().dead().heard(P::Amnesia),
            Some(Rule::SourceGrantedAmnesia),
        ),
        (
            granted().outcome(Outcome::Committed),
            Some(Rule::SourceGrantedStarted),
        ),
        (
            granted()
                .outcome(Outcome::Committed)
                .but(|one| one.observed.migration = Some(M::Failed)),
            Some(Rule::SourceGrantedStartedUnproven),
        ),
        (
            granted().outcome(Outcome::Aborted),
            Some(Rule::SourceGrantedAborted),
        ),
        (granted().run(R::Running), Some(Rule::SourceGrantedRunning)),
        (
            granted().run(R::Running).outcome(Outcome::Committed),
            Some(Rule::SourceGrantedRunningStarted),
        ),
        (granted().run(R::Paused), Some(Rule::SourceGrantedRunning)),
        (granted().run(R::SaveVm), Some(Rule::SourceGrantedOther)),
        (granted().dead(), Some(Rule::SourceGrantedDead)),
        (
            granted().dead().outcome(Outcome::Aborted),
            Some(Rule::SourceGrantedDeadSettled),
        ),
        (
            granted().dead().outcome(Outcome::Committed),
            Some(Rule::SourceGrantedDeadSettled),
        ),
        // Source, confirm.
        (
            granted()
                .outcome(Outcome::Committed)
                .but(|one| one.phase = Phase::Confirm3),
            Some(Rule::SourceConfirm),
        ),
        (
            granted()
                .outcome(Outcome::Committed)
                .mute()
                .but(|one| one.phase = Phase::Confirm3),
            Some(Rule::SourceConfirm),
        ),
        (
            granted()
                .outcome(Outcome::Committed)
                .dead()
                .but(|one| one.phase = Phase::Confirm3),
            Some(Rule::SourceConfirmDead),
        ),
        (
            granted()
                .outcome(Outcome::Aborted)
                .but(|one| one.phase = Phase::Confirm3Cancelled),
            Some(Rule::SourceCancelled),
        ),
        (
            granted()
                .outcome(Outcome::Aborted)
                .dead()
                .but(|one| one.phase = Phase::Confirm3Cancelled),
            Some(Rule::SourceCancelledDead),
        ),
        // Destination, prepare.
        (prepare(), Some(Rule::DestinationPrepareWaiting)),
        (prepare().online(), None),
        (whole(), Some(Rule::DestinationPrepareWaiting)),
        (whole().online(), None),
        (
            whole().heard(P::Performing),
            Some(Rule::DestinationPrepareWaiting),
        ),
        (
            prepare().heard(P::Abandoned),
            Some(Rule::DestinationPrepareAbandoned),
        ),
        (
            whole().heard(P::Abandoned),
            Some(Rule::DestinationPrepareAbandoned),
        ),
        (
            prepare().heard(P::NoSuchMigration),
            Some(Rule::DestinationPrepareAbandoned),
        ),
        (
            whole().heard(P::NoSuchMigration),
            Some(Rule::DestinationPrepareAmnesia),
        ),
        // What has loaded is not ended on what is not known there: it may be on its way from here.
        (
            prepare().run(R::Paused).heard(P::NoSuchMigration),
            Some(Rule::DestinationPrepareAmnesia),
        ),
        (
            whole().heard(P::Granted),
            Some(Rule::DestinationPrepareFinish),
        ),
        (prepare().heard(P::Granted), None),
        (
            whole().heard(P::Unreachable),
            Some(Rule::DestinationPrepareAlone),
        ),
        (
            prepare().heard(P::Unreachable),
            Some(Rule::DestinationPrepareAlone),
        ),
        (
            whole().heard(P::Amnesia),
            Some(Rule::DestinationPrepareAmnesia),
        ),
        (
            prepare().heard(P::Amnesia),
            Some(Rule::DestinationPrepareAmnesia),
        ),
        (whole().dead(), Some(Rule::DestinationPrepareDead)),
        (
            whole().run(R::Running),
            Some(Rule::DestinationPrepareRunning),
        ),
        (
            whole().run(R::Running).heard(P::Abandoned),
            Some(Rule::DestinationPrepareRunning),
        ),
        (whole().run(R::GuestPanicked), Some(Rule::NoRuleForThis)),
        (
            prepare().but(|one| one.observed.migration = Some(M::Failed)),
            Some(Rule::DestinationPrepareFailed),
        ),
        (
            prepare().but(|one| one.observed.migration = Some(M::PostcopyActive)),
            Some(Rule::NoRuleForThis),
        ),
        (prepare().mute(), Some(Rule::QemuMute)),
        // Destination, finish.
        (committed(), Some(Rule::DestinationFinishRetry)),
        (
            committed().cont(ContIntent::NotSent),
            Some(Rule::DestinationFinishRetry),
        ),
        (
            committed().cont(ContIntent::Refused),
            Some(Rule::DestinationFinishRefused),
        ),
        (
            committed().cont(ContIntent::Refused).heard(P::Granted),
            Some(Rule::DestinationFinishRefused),
        ),
        (
            committed()
                .cont(ContIntent::Refused)
                .heard(P::GrantedAndSafe),
            Some(Rule::DestinationFinishRefusedSafe),
        ),
        // A second `cont`, or one of unknown result, is never taken back.
        (
            committed().heard(P::GrantedAndSafe),
            Some(Rule::DestinationFinishRetry),
        ),
        (
            committed().run(R::Running),
            Some(Rule::DestinationFinishRunning),
        ),
        (committed().dead(), Some(Rule::DestinationFinishDead)),
        (
            committed().dead().cont(ContIntent::NotSent),
            Some(Rule::DestinationFinishDeadUnsent),
        ),
        (committed().mute(), Some(Rule::QemuMute)),
        (committed().run(R::Inmigrate), Some(Rule::NoRuleForThis)),
        (started(committed()), Some(Rule::DestinationStarted)),
        (
            started(committed()).dead(),
            Some(Rule::DestinationStartedDead),
        ),
        // v2, the source.
        (v2(perform2()), Some(Rule::SourcePerform2Completed)),
        (
            v2(perform2()).run(R::Running).but(|one| {
                one.observed.migration = Some(M::Active);
            }),
            Some(Rule::SourcePerformGiveUp),
        ),
        (v2(perform2()).mute(), Some(Rule::QemuMute)),
        (
            v2(perform2()).heard(PeerAnswer::Unreachable),
            Some(Rule::SourcePerform2Completed),
        ),
        (
            v2(perform2()).heard(PeerAnswer::NotWhole),
            Some(Rule::SourcePerform2Completed),
        ),
        (
            v2(perform2()).heard(PeerAnswer::Whole),
            Some(Rule::SourcePerform2Whole),
        ),
        (
            v2(perform2()).heard(PeerAnswer::Started),
            Some(Rule::SourcePerform2Whole),
        ),
        (
            v2(perform2()).heard(PeerAnswer::Aborted),
            Some(Rule::SourcePerform2Gone),
        ),
        (
            v2(perform2()).heard(PeerAnswer::NoSuchMigration),
            Some(Rule::SourcePerform2Gone),
        ),
        (
            v2(perform2()).heard(PeerAnswer::Amnesia),
            Some(Rule::SourcePerform2Amnesia),
        ),
        (
            v2(perform2()).run(R::Running).heard(PeerAnswer::Whole),
            Some(Rule::SourcePerformRunning),
        ),
        // This copy may have run on; in v2 also one that was watched: nothing was decided.
        (
            v2(perform2())
                .dead()
                .heard(PeerAnswer::Whole)
                .but(|one| one.watched = true),
            Some(Rule::SourcePerformDeadUnwatched),
        ),
        (
            v2(perform2()).dead().heard(PeerAnswer::Aborted),
            Some(Rule::SourcePerformDeadNotWhole),
        ),
        (
            v2(perform2()).dead().heard(PeerAnswer::Unreachable),
            Some(Rule::SourcePerformDeadAsking),
        ),
        (
            v2(perform2()).but(|one| one.facts.abandoned = true),
            Some(Rule::SourceAbandoned),
        ),
        (committed2(), Some(Rule::SourceCommitted)),
        (committed2().mute(), Some(Rule::SourceCommitted)),
        (committed2().run(R::Running), Some(Rule::SourceCommitted)),
        (
            committed2().heard(PeerAnswer::Amnesia),
            Some(Rule::SourceCommitted),
        ),
        (committed2().dead(), Some(Rule::SourceCommittedDead)),
        // v2, the destination: it decides nothing, and never goes back.
        (
            v2(whole()).heard(PeerAnswer::Unreachable),
            Some(Rule::DestinationPrepareAlone),
        ),
        (
            v2(whole()).heard(PeerAnswer::Granted),
            Some(Rule::DestinationPrepareFinish),
        ),
        (
            v2(whole()).heard(PeerAnswer::Abandoned),
            Some(Rule::DestinationPrepareAbandoned),
        ),
        (finish2(), Some(Rule::DestinationFinishRetry)),
        (
            finish2()
                .cont(ContIntent::Refused)
                .heard(PeerAnswer::GrantedAndSafe),
            Some(Rule::DestinationFinishRetry),
        ),
        (
            finish2().run(R::Running),
            Some(Rule::DestinationFinishRunning),
        ),
        (
            finish2().dead().cont(ContIntent::NotSent),
            Some(Rule::DestinationFinishDead),
        ),
        (aborted(whole()), Some(Rule::DestinationAborted)),
        (aborted(whole()).mute(), Some(Rule::DestinationAborted)),
        (aborted(whole()).dead(), Some(Rule::DestinationAbortedDead)),
    ]
}

#[test]
fn every_row_gives_its_rule() {
    let all = rows().into_iter().chain(postcopy::rows());
    let all = all.chain(later::rows()).chain(authorities::rows());
    for (evidence, expected) in all {
        assert_eq!(decide(&evidence), expected, "{evidence:?}");
    }
}

#[test]
fn every_rule_has_a_row() {
    let all = rows().into_iter().chain(postcopy::rows());
    let all = all.chain(authorities::rows());
    let of_jobs = jobs::rows()
        .into_iter()
        .chain(driven::rows())
        .filter_map(|(_, rule)| rule);
    let used: BTreeSet<Rule> = all.filter_map(|(_, rule)| rule).chain(of_jobs).collect();
    let unused: Vec<&str> = Rule::all()
        // These are words, carried out where they are given.
        .filter(|rule| !matches!(rule, Rule::OperatorResolved | Rule::ManagerVerdict))
        .filter(|rule| !used.contains(rule))
        .map(Rule::name)
        .collect();
    assert_eq!(unused, Vec::<&str>::new());
}

#[test]
fn names_are_unique_and_found_again() {
    for rule in Rule::all() {
        assert_eq!(Rule::from_name(rule.name()), Some(rule));
        let settled = !rule.text().settled_by.is_empty();
        let held = rule.decision() == journal_format::record::Decision::Hold;
        assert_eq!(
            settled,
            held,
            "{}: a hold, and only a hold, says what settles it",
            rule.name()
        );
    }
}

/// The table in ARCHITECTURE.md is this code's.
#[test]
fn the_documented_table_is_the_codes() {
    let mut table = String::from(
        "| rule | decision | why | a hold is settled by | libvirt |\n|---|---|---|---|---|\n",
    );
    for rule in Rule::all() {
        let text = rule.text();
        table += &format!(
            "| {} | {} | {} | {} | {} |\n",
            text.name, text.decision, text.reason, text.settled_by, text.libvirt
        );
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md");
    let document = std::fs::read_to_string(path).unwrap();
    assert!(
        document.contains(&table),
        "ARCHITECTURE.md should have:\n{table}"
    );
}
