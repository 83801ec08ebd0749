//! Deciding where records are damaged: over every history that they allow (P6).
//!
//! Invariant: what is done is right in each history that is possible with what QEMU shows and the other
//! side says; if they differ it is a hold. Words that a journal draws from what it lacks are not
//! believed here: where the other side's stood may be lost too.
//! Not here: the histories themselves (`histories`), the rules of each (`decide`).

use journal_format::number::{Lsn, MigrationId};
use journal_format::record::{
    ClaimSeen, Evidence, Facts, MigrationAbandoned, MigrationCommitted, MigrationHistories,
    MigrationHistory, MigrationNamed, Outcome, OutcomeLearned, PeerAnswer, Phase, Process,
    Protocol, RecordBody, Role, WantedReason, WantedRunState,
};

use super::decide::{RunClass, StatusClass, decide, is_whole, run_class, status_class};
use super::live::Asked;
use super::state::Migration;
use super::turn::Turn;
use super::{PeerRequest, Rule};

/// What comes to the same for both QEMUs and both journals, by whatever rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Source: it gives up and runs on.
    RunOn,
    /// Source: dead, and no licence ever went out.
    UnsentDead,
    /// Source: the destination runs the guest; this copy is ended.
    End,
    /// Source: the destination runs the guest, and this copy is gone.
    Gone,
    /// Source: the destination never runs the guest; this copy does.
    Back,
    /// Source: the destination never runs the guest, and this copy is gone.
    NoneLeft,
    /// Destination: the guest runs here, or ran.
    Runs,
    /// Destination: it ran here, or may have, and is dead.
    RanDead,
    /// Destination: it never ran here and is dead.
    NeverDead,
    /// Destination: it never runs here; this copy is ended.
    Never,
    /// What one rule does and no other.
    Only(Rule),
}

/// The rule that holds where records are damaged, with the histories that they allow. The same
/// evidence and histories give the same rule in the daemon and in `explain` (P7).
#[must_use]
pub fn decide_over(evidence: &Evidence, restated: &MigrationHistories) -> Option<Rule> {
    let rule = agreed(evidence, restated);
    #[cfg(any(test, feature = "mutants"))]
    let rule = super::mutant::altered(evidence, rule);
    rule
}

/// The rule that all histories come to.
fn agreed(evidence: &Evidence, restated: &MigrationHistories) -> Option<Rule> {
    if evidence.observed.process == Process::OtherInstance {
        return Some(Rule::OtherInstance);
    }
    let held = Some(Rule::JournalDamaged);
    let (open, ended) = possible(evidence, &restated.histories);
    let rules: Vec<Option<Rule>> = open.iter().map(|one| rule_in(evidence, one)).collect();
    let Some(first) = rules.first().copied() else {
        return held;
    };
    let is_same = rules.iter().all(|rule| *rule == first);
    let Some(first) = first else {
        return if is_same && ended.is_empty() {
            None
        } else {
            held
        };
    };
    let mut acts = rules
        .iter()
        .map(|rule| rule.and_then(|rule| act(evidence, rule)));
    let Some(act) = acts.next().flatten() else {
        return held;
    };
    let agreed = acts.all(|other| other == Some(act))
        && ended.iter().all(|one| is_right_after(evidence, act, one))
        && is_known(evidence, act, &open, restated.nonce_known);
    match agreed {
        true if is_same => Some(first),
        true => Some(representative(evidence, act)),
        false => held,
    }
}

/// What the histories say, for people: each rule that holds in one of them.
#[must_use]
pub fn disagreement(evidence: &Evidence, histories: &[MigrationHistory]) -> String {
    let (open, ended) = possible(evidence, histories);
    let mut said: Vec<String> = Vec::new();
    let mut say = |text: String| {
        if !said.contains(&text) {
            said.push(text);
        }
    };
    for one in &open {
        match rule_in(evidence, one) {
            Some(rule) => say(format!("{} ({})", rule.name(), rule.decision())),
            None => say("nothing to decide".to_owned()),
        }
    }
    if !ended.is_empty() {
        say("the job is over".to_owned());
    }
    let told = match said.len() {
        0 => "nothing is known of what they said".to_owned(),
        1 => format!("every history gives {}", said.join("")),
        _ => format!("the histories give {}", said.join(", or ")),
    };
    match is_unbelieved(evidence) {
        true => format!(
            "{told}; the other side says aborted, which is not believed: where its journal stood may be among what is lost"
        ),
        false => told,
    }
}

type Possible<'a> = (Vec<&'a MigrationHistory>, Vec<&'a MigrationHistory>);

/// The histories that what is seen and heard does not rule out: in which the job is open, and the others.
fn possible<'a>(evidence: &Evidence, histories: &'a [MigrationHistory]) -> Possible<'a> {
    histories
        .iter()
        .filter(|one| is_at_rest(evidence.role, one) && !is_ruled_out(evidence, one))
        .partition(|one| one.open)
}

/// Records of one batch are durable together: no life ended between these.
fn is_at_rest(role: Role, one: &MigrationHistory) -> bool {
    let facts = &one.facts;
    match (role, one.phase) {
        (Role::Source, Phase::Perform3Done) => facts.granted || facts.outcome.is_some(),
        (Role::Source, Phase::Confirm3) => facts.outcome == Some(Outcome::Committed),
        (Role::Source, Phase::Confirm3Cancelled) => facts.outcome == Some(Outcome::Aborted),
        (Role::Destination, Phase::Finish2 | Phase::Finish3) => {
            facts.committed || facts.aborted || facts.started
        }
        _ => true,
    }
}

fn is_ruled_out(evidence: &Evidence, one: &MigrationHistory) -> bool {
    let (facts, observed) = (&one.facts, &evidence.observed);
    let status = status_class(observed.migration.as_ref());
    let run = run_class(observed.run_state.as_ref());
    let answers = observed.process == Process::Alive;
    let lives = answers || observed.process == Process::Mute;
    if one.resolved {
        return false;
    }
    // A job ends when QEMU is where it leaves it.
    let ended = !one.open;
    match evidence.role {
        Role::Source => {
            // A process that never began a migration never completed one.
            let never_sent = answers && status == StatusClass::None;
            // Only a licence makes a destination run.
            let licence_used =
                evidence.protocol == Protocol::V3 && evidence.peer == PeerAnswer::Started;
            let has_licence = facts.granted || facts.outcome == Some(Outcome::Committed);
            // No authority says both; an operator's word would be on record.
            let never_said = licence_used
                && evidence.facts.outcome.is_none()
                && facts.outcome == Some(Outcome::Aborted);
            let is_given_away = facts.committed || facts.outcome == Some(Outcome::Committed);
            // Whoever migrates next claims QEMU first.
            let still_sends = answers && is_on_its_way(status) && is_claimed_as_recorded(evidence);
            facts.granted && never_sent
                || never_said
                || one.open && !has_licence && licence_used
                || ended && lives && is_given_away
                || ended && still_sends
        }
        Role::Destination => {
            let runs = answers && run == RunClass::Running;
            // An aborted copy is never continued.
            facts.aborted && (runs || ended && lives)
        }
    }
}

fn is_on_its_way(status: StatusClass) -> bool {
    match status {
        StatusClass::Performing
        | StatusClass::PreSwitchover
        | StatusClass::Device
        | StatusClass::Cancelling => true,
        StatusClass::None
        | StatusClass::Ended
        | StatusClass::Completed
        | StatusClass::Postcopy
        | StatusClass::PostcopyBroken
        | StatusClass::Unknown => false,
    }
}

fn is_claimed_as_recorded(evidence: &Evidence) -> bool {
    matches!(&evidence.observed.claim, ClaimSeen::Present(seen) if Some(*seen) == evidence.claim)
}

/// The rule that would hold if this were what the journal says.
fn rule_in(evidence: &Evidence, one: &MigrationHistory) -> Option<Rule> {
    let mut facts = one.facts;
    // Whoever has given the licence and hears of its use takes note of it before all else.
    if evidence.role == Role::Source
        && facts.granted
        && !facts.committed
        && evidence.peer == PeerAnswer::Started
    {
        facts.outcome = facts.outcome.or(Some(Outcome::Committed));
    }
    decide(&Evidence {
        phase: one.phase,
        facts,
        wanted: one.wanted,
        journal_damaged: false,
        source_touched: one.source_touched,
        ..evidence.clone()
    })
}

/// What a rule does; `None` for what is not done over damage.
fn act(evidence: &Evidence, rule: Rule) -> Option<Act> {
    let facts = &evidence.facts;
    let alive = evidence.observed.process == Process::Alive;
    let committed = is_outcome(facts, Outcome::Committed);
    let aborted = is_outcome(facts, Outcome::Aborted);
    let (sure, act) = match rule {
        Rule::SourceBeginUndone
        | Rule::SourcePerformGiveUp
        | Rule::SourcePerformRunning
        | Rule::SourceAbandoned => (true, Act::RunOn),
        // With something sent it rests on what the other side says that it does not have.
        Rule::SourcePerformDeadNotWhole => (!draws_from_absence(evidence.peer), Act::UnsentDead),
        Rule::SourceBeginDead | Rule::SourceAbandonedDead => (true, Act::UnsentDead),
        Rule::SourceGrantedStarted | Rule::SourceConfirm => (facts.granted || alive, Act::End),
        Rule::SourceConfirmDead => (evidence.peer == PeerAnswer::Started || committed, Act::Gone),
        Rule::SourceGrantedDeadSettled => (
            evidence.peer == PeerAnswer::Started || committed || aborted,
            if evidence.peer == PeerAnswer::Started || committed {
                Act::Gone
            } else {
                Act::NoneLeft
            },
        ),
        Rule::SourceGrantedAborted | Rule::SourceCancelled => (aborted, Act::Back),
        Rule::SourceCancelledDead => (aborted, Act::NoneLeft),
        // The licence itself must be at hand. Where the answer is known, and only the damage keeps it from being believed, that is
        // what it is held for.
        Rule::SourceGrantedInDoubt | Rule::SourceGrantedDead => {
            (facts.granted && !is_unbelieved(evidence), Act::Only(rule))
        }
        Rule::SourceCommitted | Rule::SourceCommittedDead => (facts.committed, Act::Only(rule)),
        Rule::SourcePerformCompleted
        | Rule::SourcePerform2Whole
        | Rule::DestinationPrepareFinish
        | Rule::DestinationFinishRetry => (true, Act::Only(rule)),
        Rule::DestinationPrepareRunning
        | Rule::DestinationFinishRunning
        | Rule::DestinationStarted => (true, Act::Runs),
        Rule::DestinationFinishDead | Rule::DestinationStartedDead => (true, Act::RanDead),
        Rule::DestinationPrepareDead
        | Rule::DestinationFinishDeadUnsent
        | Rule::DestinationAbortedDead => (true, Act::NeverDead),
        Rule::DestinationPrepareFailed
        | Rule::DestinationAborted
        | Rule::DestinationFinishRefusedSafe => (true, Act::Never),
        Rule::DestinationPrepareAbandoned => (
            evidence.peer == PeerAnswer::Abandoned && !is_whole(evidence),
            Act::Never,
        ),
        // Holds, what rests on words that the other side draws from what it lacks, post-copy, and where
        // a store or the manager decides.
        Rule::OtherInstance
        | Rule::ClaimedByAnother
        | Rule::JournalOlderThanQemu
        | Rule::JournalDamaged
        | Rule::QemuMute
        | Rule::NoRuleForThis
        | Rule::OperatorResolved
        | Rule::SourcePerformPostcopy
        | Rule::SourcePerformDeadWatched
        | Rule::SourcePerformDeadUnwatched
        | Rule::SourcePerformDeadAsking
        | Rule::SourcePerform2Completed
        | Rule::SourcePerform2Gone
        | Rule::SourcePerform2Amnesia
        | Rule::SourceAbandonedStarted
        | Rule::SourceGrantedStartedUnproven
        | Rule::SourceGrantedAmnesia
        | Rule::SourceGrantedRunning
        | Rule::SourceGrantedRunningStarted
        | Rule::SourceGrantedOther
        | Rule::SourcePostcopyBroken
        | Rule::SourcePostcopyWhole
        | Rule::SourcePostcopyLost
        | Rule::SourcePostcopyEnding
        | Rule::DestinationPrepareWaiting
        | Rule::DestinationPrepareAlone
        | Rule::DestinationPrepareAmnesia
        | Rule::DestinationPrepareLost
        | Rule::DestinationFinishRefused
        | Rule::DestinationPostcopyBroken
        | Rule::DestinationPostcopyLost
        | Rule::StoreKeyForeign
        | Rule::SourceStoreInDoubt
        | Rule::SourceStoreSeekAborted
        | Rule::SourceStoreOlder
        | Rule::SourceStoreRunning
        | Rule::SourceStoreDead
        | Rule::SourceStoreBothGone
        | Rule::DestinationStoreProposed
        | Rule::DestinationStoreWon
        | Rule::DestinationStoreAborted
        | Rule::DestinationStoreAmnesia
        | Rule::DestinationStoreStarted
        | Rule::DestinationStoreContradicted
        | Rule::DestinationStoreWithdraw
        | Rule::ManagerVerdict
        | Rule::SourceVerdictAwaited
        | Rule::SourceVerdictCont
        | Rule::SourceVerdictQuit
        | Rule::DestinationVerdictAwaited
        | Rule::DestinationVerdictCont
        | Rule::DestinationVerdictQuit
        | Rule::JobDead
        | Rule::JobSettled
        | Rule::SaveUndone
        | Rule::SaveActive
        | Rule::SaveCompleted
        | Rule::SaveEnding
        | Rule::SaveEnded
        | Rule::DumpActive
        | Rule::DumpTaken
        | Rule::DumpUndone
        | Rule::SnapshotActive
        | Rule::SnapshotTaken
        | Rule::SnapshotUndone
        | Rule::BackupActive
        | Rule::BackupPending
        | Rule::BackupEnded
        | Rule::BackupFailed
        | Rule::BackupCancelled
        | Rule::BackupUndone
        | Rule::StartUndone
        | Rule::StartUnknown
        | Rule::StartRunning
        | Rule::StartEnded
        | Rule::DestroyAlive
        | Rule::DestroyDone
        | Rule::OrdinaryReconciled
        | Rule::DrivenPostcopy
        | Rule::DrivenSourceUndone
        | Rule::DrivenSourceGiveUp
        | Rule::DrivenSourceCompleted
        | Rule::DrivenSourceCont
        | Rule::DrivenSourceAborted
        | Rule::DrivenSourceConfirm
        | Rule::DrivenSourceUnproven
        | Rule::DrivenSourceQuit
        | Rule::DrivenSourceEnded
        | Rule::DrivenDestinationWaiting
        | Rule::DrivenDestinationFailed
        | Rule::DrivenDestinationWhole
        | Rule::DrivenDestinationCommitted
        | Rule::DrivenDestinationRunning
        | Rule::DrivenDestinationAborted
        | Rule::DrivenDestinationEnded
        | Rule::DrivenSourceTakenUp
        | Rule::DrivenOver
        | Rule::DrivenSourceStartedThere => return None,
    };
    sure.then_some(act)
}

/// Did the destination give an outcome that is not taken over damage? Where its journal stood may be among what is lost, and an
/// older copy of that may say so.
fn is_unbelieved(evidence: &Evidence) -> bool {
    evidence.role == Role::Source
        && evidence.peer == PeerAnswer::Aborted
        && evidence.facts.outcome.is_none()
}

/// May the answer come from a journal that does not have what was sent?
fn draws_from_absence(answer: PeerAnswer) -> bool {
    matches!(answer, PeerAnswer::Aborted | PeerAnswer::NoSuchMigration)
}

fn is_outcome(facts: &Facts, outcome: Outcome) -> bool {
    facts.outcome == Some(outcome)
}

/// Is that also right if the job is over, and the domain perhaps busy with the next one?
fn is_right_after(evidence: &Evidence, act: Act, one: &MigrationHistory) -> bool {
    let facts = &one.facts;
    if one.resolved {
        return matches!(act, Act::Gone | Act::Runs);
    }
    match act {
        Act::RunOn => {
            !facts.granted && facts.outcome != Some(Outcome::Committed) && stands(evidence)
        }
        Act::UnsentDead => !facts.granted && facts.outcome.is_none(),
        Act::Gone | Act::NoneLeft => true,
        Act::Runs | Act::RanDead => !facts.aborted,
        Act::NeverDead => facts.aborted || !facts.committed && !facts.started,
        Act::Only(Rule::SourceCommittedDead) => true,
        // These send something to QEMU, or to the other side.
        Act::End | Act::Back | Act::Never | Act::Only(_) => false,
    }
}

/// Does this source's guest run, or stand, so that QEMU is told nothing when it is to run on?
fn stands(evidence: &Evidence) -> bool {
    let status = status_class(evidence.observed.migration.as_ref());
    is_visible(evidence) && status != StatusClass::Performing
}

/// Is what the owner wants seen in QEMU? Outside the switchover running and paused are the owner's.
fn is_visible(evidence: &Evidence) -> bool {
    let observed = &evidence.observed;
    let status = status_class(observed.migration.as_ref());
    let run = run_class(observed.run_state.as_ref());
    matches!(run, RunClass::Running | RunClass::Paused)
        && matches!(
            status,
            StatusClass::None
                | StatusClass::Performing
                | StatusClass::Ended
                | StatusClass::Completed
        )
}

/// Is everything at hand that carrying it out needs?
fn is_known(evidence: &Evidence, act: Act, open: &[&MigrationHistory], nonce_known: bool) -> bool {
    let wanted_known = wanted_in(open).is_some();
    let untouched = open.iter().all(|one| !one.source_touched);
    let status = status_class(evidence.observed.migration.as_ref());
    let run = run_class(evidence.observed.run_state.as_ref());
    match act {
        Act::RunOn => {
            wanted_known
                || is_visible(evidence)
                || run == RunClass::FinishMigrate
                || status == StatusClass::Cancelling
                // A guest that a failed migration leaves like this was paused before it.
                || (status, run) == (StatusClass::Ended, RunClass::Postmigrate)
                    && open.iter().any(|one| one.facts.migrate_intended)
        }
        Act::Back => wanted_known || is_visible(evidence),
        Act::Only(Rule::SourceGrantedInDoubt | Rule::SourceGrantedDead) => untouched,
        Act::Only(Rule::SourcePerformCompleted | Rule::SourcePerform2Whole) => {
            wanted_known && nonce_known
        }
        Act::Only(Rule::DestinationFinishRetry) => wanted_known,
        Act::UnsentDead
        | Act::End
        | Act::Gone
        | Act::NoneLeft
        | Act::Runs
        | Act::RanDead
        | Act::NeverDead
        | Act::Never
        | Act::Only(_) => true,
    }
}

/// What the owner wants, if that is the same in all of them.
fn wanted_in(open: &[&MigrationHistory]) -> Option<WantedRunState> {
    let wanted = open.first()?.wanted;
    open.iter()
        .all(|one| one.wanted == wanted)
        .then_some(wanted)
}

/// The rule that does it from where the readable records stand.
fn representative(evidence: &Evidence, act: Act) -> Rule {
    let (facts, phase) = (&evidence.facts, evidence.phase);
    match act {
        Act::RunOn if facts.abandoned => Rule::SourceAbandoned,
        Act::RunOn => Rule::SourcePerformGiveUp,
        Act::UnsentDead if facts.abandoned => Rule::SourceAbandonedDead,
        Act::UnsentDead => Rule::SourceBeginDead,
        Act::End if phase == Phase::Confirm3 => Rule::SourceConfirm,
        Act::End => Rule::SourceGrantedStarted,
        Act::Gone if phase == Phase::Confirm3 => Rule::SourceConfirmDead,
        Act::NoneLeft if phase == Phase::Confirm3Cancelled => Rule::SourceCancelledDead,
        Act::Gone | Act::NoneLeft => Rule::SourceGrantedDeadSettled,
        Act::Back if phase == Phase::Confirm3Cancelled => Rule::SourceCancelled,
        Act::Back => Rule::SourceGrantedAborted,
        Act::Runs if facts.started => Rule::DestinationStarted,
        Act::Runs if facts.committed => Rule::DestinationFinishRunning,
        Act::Runs => Rule::DestinationPrepareRunning,
        Act::RanDead if facts.started => Rule::DestinationStartedDead,
        Act::RanDead => Rule::DestinationFinishDead,
        Act::NeverDead if facts.aborted => Rule::DestinationAbortedDead,
        Act::NeverDead if facts.committed => Rule::DestinationFinishDeadUnsent,
        Act::NeverDead => Rule::DestinationPrepareDead,
        Act::Never if facts.aborted => Rule::DestinationAborted,
        Act::Never if facts.committed => Rule::DestinationFinishRefusedSafe,
        Act::Never => Rule::DestinationPrepareFailed,
        Act::Only(rule) => rule,
    }
}

/// What every one of these histories has.
fn common(evidence: &Evidence, open: &[&MigrationHistory]) -> Facts {
    let all = |has: fn(&Facts) -> bool| open.iter().all(|one| has(&one.facts));
    let outcome = |outcome| open.iter().all(|one| one.facts.outcome == Some(outcome));
    // Taken note of as soon as it is heard.
    let used = evidence.peer == PeerAnswer::Started && evidence.role == Role::Source;
    let learnt = used
        && open
            .iter()
            .all(|one| one.facts.outcome != Some(Outcome::Aborted) && !one.facts.committed);
    Facts {
        migrate_intended: all(|facts| facts.migrate_intended),
        postcopy: all(|facts| facts.postcopy),
        granted: all(|facts| facts.granted),
        abandoned: all(|facts| facts.abandoned),
        committed: all(|facts| facts.committed),
        started: all(|facts| facts.started),
        aborted: all(|facts| facts.aborted),
        outcome: match (
            learnt || outcome(Outcome::Committed),
            outcome(Outcome::Aborted),
        ) {
            (true, _) => Some(Outcome::Committed),
            (false, true) => Some(Outcome::Aborted),
            (false, false) => None,
        },
        cont: evidence.facts.cont,
        proposed: all(|facts| facts.proposed),
        verdict: evidence.facts.verdict,
    }
}

impl Turn<'_> {
    /// As for an undamaged journal, where every history that the damage allows agrees; else it is held,
    /// and the other side is asked how it stands. True if something changed.
    pub(crate) fn advance_over_gap(&mut self, id: MigrationId, mut evidence: Evidence) -> bool {
        self.adopt_claim(id, &mut evidence);
        let restated = self.histories(id);
        let rule = decide_over(&evidence, &restated);
        let histories = restated.histories;
        let before = self.engine.next;
        let acts =
            rule.is_some_and(|rule| !matches!(rule, Rule::JournalDamaged | Rule::OtherInstance));
        if acts
            && (self.rule_out(id, &evidence, &histories)
                || self.restate_common(id, &evidence, &histories))
        {
            return true;
        }
        let live = self.live(id);
        live.decided = true;
        live.rule = rule;
        let Some(rule) = rule else { return false };
        self.record_decision(id, rule, evidence.clone());
        if rule == Rule::JournalDamaged {
            self.ask(id, Asked::Ask, PeerRequest::Ask { migration: id });
        } else {
            self.learn_visible(id, rule, &evidence, &histories);
            match evidence.role {
                Role::Source => self.carry_out_source(id, rule),
                Role::Destination => self.carry_out_destination(id, rule),
            }
        }
        self.engine.next != before
    }

    /// The histories; none if nothing can be said.
    fn histories(&self, id: MigrationId) -> MigrationHistories {
        let migration = self.migration(id);
        let restated = migration.and_then(Migration::restated_histories);
        restated.unwrap_or(MigrationHistories {
            job: Lsn(0),
            nonce_known: false,
            histories: Vec::new(),
        })
    }

    /// On what the histories differ, for people.
    pub(crate) fn why_damage_holds(&self, id: MigrationId) -> String {
        let reason = Rule::JournalDamaged.text().reason;
        match self.evidence_now(id) {
            Some(mut evidence) => {
                self.adopt_claim(id, &mut evidence);
                format!(
                    "{reason}: {}",
                    disagreement(&evidence, &self.histories(id).histories)
                )
            }
            None => reason.to_owned(),
        }
    }

    /// The rule that holds for this evidence, whatever is damaged.
    pub(crate) fn rule_over(&self, id: MigrationId, evidence: &Evidence) -> Option<Rule> {
        if !evidence.journal_damaged {
            return decide(evidence);
        }
        let mut evidence = evidence.clone();
        self.adopt_claim(id, &mut evidence);
        decide_over(&evidence, &self.histories(id))
    }

    /// A claim of this very job's in QEMU was intended in a record that is lost.
    fn adopt_claim(&self, id: MigrationId, evidence: &mut Evidence) {
        let config = &self.engine.config;
        if let ClaimSeen::Present(seen) = &evidence.observed.claim
            && seen.migration == id
            && seen.role == evidence.role
            && seen.journal == config.journal
            && seen.epoch <= config.epoch
        {
            evidence.claim = Some(*seen);
        }
    }

    /// Leaves those histories that are possible. True if there were others.
    fn rule_out(
        &mut self,
        id: MigrationId,
        evidence: &Evidence,
        histories: &[MigrationHistory],
    ) -> bool {
        let (mut possible, ended) = possible(evidence, histories);
        possible.extend(ended);
        if possible.len() == histories.len() {
            return false;
        }
        let body = RecordBody::MigrationHistories(MigrationHistories {
            histories: possible.into_iter().copied().collect(),
            ..self.histories(id)
        });
        self.cite_look(id);
        self.record(id, body).is_some()
    }

    /// Writes down once more what every history has and the readable records do not. True if there was
    /// something.
    fn restate_common(
        &mut self,
        id: MigrationId,
        evidence: &Evidence,
        histories: &[MigrationHistory],
    ) -> bool {
        let (open, _) = possible(evidence, histories);
        let (has, all) = (evidence.facts, common(evidence, &open));
        let before = self.engine.next;
        let named = MigrationNamed { migration: id };
        let domain = self.migration(id).map(|known| known.domain);
        if let (Some(wanted), Some(domain)) = (wanted_in(&open), domain) {
            self.want(domain, wanted, WantedReason::Carried);
        }
        match evidence.role {
            Role::Source => {
                if all.abandoned && !has.abandoned {
                    let abandoned = MigrationAbandoned {
                        migration: id,
                        why: "every history that the damaged records allow gave it up".to_owned(),
                        asked: false,
                    };
                    self.record(id, RecordBody::MigrationAbandoned(abandoned));
                }
                if let (Some(outcome), None) = (all.outcome, has.outcome) {
                    let position = self.live(id).peer_position;
                    let learned = OutcomeLearned {
                        migration: id,
                        outcome,
                        position,
                    };
                    self.record(id, RecordBody::OutcomeLearned(learned));
                }
            }
            Role::Destination => {
                if all.committed && !has.committed {
                    self.enter_finish(id);
                    let committed = MigrationCommitted {
                        cookie: None,
                        migration: id,
                    };
                    self.record(id, RecordBody::MigrationCommitted(committed));
                }
                if all.started && !has.started {
                    self.record(id, RecordBody::MigrationStarted(named));
                }
                if all.aborted && !has.aborted {
                    self.record(id, RecordBody::MigrationAborted(named));
                }
            }
        }
        self.engine.next != before
    }

    /// Where it is not known what the owner wants, it is what QEMU shows (P8).
    fn learn_visible(
        &mut self,
        id: MigrationId,
        rule: Rule,
        evidence: &Evidence,
        histories: &[MigrationHistory],
    ) {
        let (open, _) = possible(evidence, histories);
        let is_known = wanted_in(&open).is_some();
        let restores = matches!(act(evidence, rule), Some(Act::RunOn | Act::Back));
        if is_known || !restores || !is_visible(evidence) {
            return;
        }
        if let Some(domain) = self.migration(id).map(|known| known.domain) {
            self.learn_wanted(domain, &evidence.observed);
        }
    }

    /// Writes down the histories that the next decision rests on, once.
    pub(crate) fn cite_histories(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let is_cited = migration
            .histories
            .as_ref()
            .is_none_or(|histories| histories.cited.is_some());
        if let (false, Some(restated)) = (is_cited, migration.restated_histories()) {
            self.record(id, RecordBody::MigrationHistories(restated));
        }
    }
}
