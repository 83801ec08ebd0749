//! Authority manager: the outcome is the manager's word, given by a command or by what it does to QEMU.
//!
//! Invariant: a verdict is taken only after this side's QEMU was looked at and the other side was asked, and
//! never against what they say; it is recorded where it is taken, before anything follows from it there. While
//! the sides can talk the destination takes it first, aborted as well as committed: whatever two verdicts
//! contradict each other, it takes one, and the source follows.
//! Not here: which rule holds without one (`decide::authority`).

use journal_format::number::{Lsn, MigrationId};
use journal_format::record::{
    Authority, Decision, Evidence, JobResult, Outcome, OutcomeLearned, PeerAnswer, Process,
    RecordBody, Role, VerdictBy, VerdictGiven,
};

use super::decide::{
    RunClass, StatusClass, identity, is_takeable, run_class, status_class, was_sent_on,
};
use super::live::{Asked, PendingVerdict};
use super::peer::migration_decided;
use super::turn::Turn;
use super::{Answer, JobTarget, PEER_WAIT_MS_MAX, PeerRequest, Refusal, Rule, Token};

/// How long a verdict waits for the other side to be clear, in milliseconds: longer than any answer of this side
/// that may still be on its way there.
const VERDICT_WAIT_MS_MAX: u64 = PEER_WAIT_MS_MAX + 2_000;

/// What is to become of a verdict.
enum Judgement {
    Take,
    Wait,
    Refuse(&'static str),
}

use Judgement::{Refuse, Take, Wait};

const ELSEWHERE: &str = "the destination runs the guest, or is about to";
const WITHDRAWN: &str = "the destination's copy will never run";

impl Turn<'_> {
    pub(crate) fn verdict(&mut self, token: Token, target: &JobTarget, outcome: Outcome, uid: u32) {
        if let Some(job) = self.driven_target(target) {
            return self.driven_verdict(token, job, outcome);
        }
        match self.may_judge(target) {
            Err(refusal) => self.reply(token, Err(refusal)),
            Ok(id) => {
                let since = self.now;
                self.live(id).verdict = Some(PendingVerdict {
                    token,
                    outcome,
                    uid,
                    since,
                    answered: None,
                });
                self.look_for(id);
                self.advance(id);
            }
        }
    }

    fn may_judge(&self, target: &JobTarget) -> Result<MigrationId, Refusal> {
        let id = match target {
            JobTarget::Job(job) => self.open_job(*job),
            JobTarget::Domain(name) => {
                let domain = self.need_domain(name)?;
                let open = self.domain(domain).and_then(|domain| domain.migration);
                return match open {
                    Some(id) => self.is_managers(id),
                    None => Err(Refusal::NoOpenJob(name.clone())),
                };
            }
        };
        self.is_managers(id?)
    }

    fn open_job(&self, job: Lsn) -> Result<MigrationId, Refusal> {
        let mut migrations = self.engine.state.migrations.iter();
        migrations
            .find(|(_, known)| known.state.job == job && known.state.open)
            .map(|(id, _)| *id)
            .ok_or(Refusal::NoSuchJob(job))
    }

    fn is_managers(&self, id: MigrationId) -> Result<MigrationId, Refusal> {
        let Some(known) = self.migration(id) else {
            return Ok(id);
        };
        self.need_registered(known.domain)?;
        let (job, authority) = (known.state.job, known.state.terms.authority);
        if authority != Authority::Manager {
            return Err(Refusal::NotTheManagers { job, authority });
        }
        let waiting = self.engine.live.get(&id).and_then(|live| live.verdict);
        match waiting {
            Some(waiting) => Err(Refusal::Verdict {
                job,
                outcome: waiting.outcome,
                why: "an earlier verdict is still being taken",
            }),
            None => Ok(id),
        }
    }

    /// Takes a verdict that waits, or refuses it, as soon as the other side was asked. True if something
    /// changed.
    pub(crate) fn judge(&mut self, id: MigrationId, evidence: &Evidence) -> bool {
        let Some(waiting) = self.engine.live.get(&id).and_then(|live| live.verdict) else {
            return false;
        };
        match self.judgement(id, waiting, evidence) {
            Take => {
                let before = self.engine.next;
                let commits =
                    (evidence.role, waiting.outcome) == (Role::Destination, Outcome::Committed);
                // Nobody else writes to a disk that the guest runs on.
                let is_released =
                    !commits || self.release_disks(id, Rule::DestinationVerdictAwaited);
                if !is_released || self.engine.next != before {
                    return self.engine.next != before;
                }
                self.take(id, waiting, evidence);
            }
            Refuse(why) => self.refuse_verdict(id, why),
            Wait => {
                self.ask_for_verdict(id, waiting);
                return false;
            }
        }
        true
    }

    /// While an effect is in flight nothing is taken, but what cannot be is refused all the same.
    pub(crate) fn judge_in_flight(&mut self, id: MigrationId) {
        let waiting = self.engine.live.get(&id).and_then(|live| live.verdict);
        if let (Some(waiting), Some(evidence)) = (waiting, self.evidence_now(id))
            && let Refuse(why) = self.judgement(id, waiting, &evidence)
        {
            self.refuse_verdict(id, why);
        }
    }

    fn judgement(
        &self,
        id: MigrationId,
        waiting: PendingVerdict,
        evidence: &Evidence,
    ) -> Judgement {
        let live = self.engine.live.get(&id);
        // A question of a former life that arrives late may look like amnesia.
        let mut answered = waiting.answered == Some(evidence.peer);
        let waits_for = self.now.saturating_sub(waiting.since);
        if evidence.role == Role::Source && evidence.peer == PeerAnswer::Unreachable {
            // The destination may be about to take a licence that was shown before.
            answered &= waits_for > PEER_WAIT_MS_MAX;
        }
        let judgement = match (evidence.role, waiting.outcome) {
            _ if evidence.journal_damaged => {
                Refuse("records that may concern it are damaged; resolve settles it")
            }
            _ if identity(evidence).is_some() => {
                Refuse("its QEMU is not the one, or not known to be, that the job was begun with")
            }
            (Role::Source, outcome) => judge_source(evidence, outcome, answered),
            (Role::Destination, outcome) => {
                let licensed = live.is_some_and(|live| live.cookie.is_some());
                judge_destination(evidence, outcome, licensed, answered)
            }
        };
        let is_late = waits_for > VERDICT_WAIT_MS_MAX;
        match judgement {
            Wait if is_late && evidence.role == Role::Source => {
                Refuse("the destination did not say that it took it, and still may")
            }
            Wait if is_late && waiting.outcome == Outcome::Aborted => {
                Refuse("the source did not say that its copy stands there whole")
            }
            Wait if is_late => Refuse("the other side did not say how it stands"),
            judgement => judgement,
        }
    }

    fn ask_for_verdict(&mut self, id: MigrationId, waiting: PendingVerdict) {
        let role = self.migration(id).map(|known| known.state.terms.role);
        let request = match (role, waiting.outcome) {
            (Some(Role::Source), Outcome::Aborted) => PeerRequest::Abandon { migration: id },
            _ => PeerRequest::Ask { migration: id },
        };
        let live = self.live(id);
        // The manager waits for it.
        live.ask_delay = 0;
        if waiting.answered != Some(live.peer) {
            live.ask_at = 0;
        }
        self.ask(id, Asked::Verdict, request);
    }

    /// Source: what the manager has said, and the destination is to take first.
    pub(crate) fn passes_on(&self, id: MigrationId) -> Option<Outcome> {
        let waiting = self.engine.live.get(&id).and_then(|live| live.verdict);
        waiting.map(|waiting| waiting.outcome)
    }

    /// Destination: is the outcome the manager's word, and not known here?
    pub(crate) fn awaits_verdict(&self, id: MigrationId) -> bool {
        self.migration(id).is_some_and(|known| {
            let terms = &known.state.terms;
            terms.role == Role::Destination
                && terms.authority == Authority::Manager
                && !migration_decided(self, id)
        })
    }

    /// The ask on behalf of a verdict came to an end.
    pub(crate) fn verdict_answered(&mut self, id: MigrationId) {
        let live = self.live(id);
        let peer = live.peer;
        if let Some(waiting) = &mut live.verdict {
            waiting.answered = Some(peer);
        }
    }

    /// Whoever waits for a verdict to be taken is told that it is not.
    pub(crate) fn refuse_verdict(&mut self, id: MigrationId, why: &'static str) {
        let Some(job) = self.migration(id).map(|known| known.state.job) else {
            return;
        };
        let waiting = self
            .engine
            .live
            .get_mut(&id)
            .and_then(|live| live.verdict.take());
        if let Some(PendingVerdict { token, outcome, .. }) = waiting {
            self.reply(token, Err(Refusal::Verdict { job, outcome, why }));
        }
    }

    fn take(&mut self, id: MigrationId, waiting: PendingVerdict, evidence: &Evidence) {
        let PendingVerdict {
            token,
            outcome,
            uid,
            ..
        } = waiting;
        self.live(id).verdict = None;
        let decision = match (evidence.role, outcome) {
            (Role::Source, Outcome::Committed) | (Role::Destination, Outcome::Aborted) => {
                Decision::Kill
            }
            (Role::Source, Outcome::Aborted) | (Role::Destination, Outcome::Committed) => {
                Decision::Resume
            }
        };
        self.record_verdict(id, outcome, VerdictBy::Command, Some(uid));
        #[cfg(any(test, feature = "mutants"))]
        if super::mutant::is_wrong(evidence, Rule::ManagerVerdict) {
            return self.reply(token, Ok(Answer::Done {}));
        }
        let decided = self.decided(id, Rule::ManagerVerdict, decision, evidence.clone());
        let facts = &evidence.facts;
        match (evidence.role, outcome) {
            (Role::Source, _) => self.learn_verdict(id, outcome),
            (Role::Destination, Outcome::Committed) if !facts.committed => self.commit(id),
            (Role::Destination, Outcome::Aborted) if !facts.aborted => self.abort(id),
            (Role::Destination, _) => {}
        }
        let domain = self.migration(id).map(|known| known.domain);
        let view = domain
            .zip(decided)
            .and_then(|(domain, (lsn, decided))| self.decision_view(domain, lsn, &decided));
        let answer = view.map_or(Answer::Done {}, Answer::Decision);
        self.reply(token, Ok(answer));
    }

    fn record_verdict(
        &mut self,
        id: MigrationId,
        outcome: Outcome,
        by: VerdictBy,
        uid: Option<u32>,
    ) {
        let given = self.migration(id).and_then(|known| known.state.verdict);
        if given != Some(outcome) {
            self.cite_look(id);
            let given = VerdictGiven {
                migration: id,
                outcome,
                by,
                uid,
            };
            self.record(id, RecordBody::VerdictGiven(given));
        }
    }

    /// Source: the verdict is the outcome, if the destination's word was not heard first.
    fn learn_verdict(&mut self, id: MigrationId, outcome: Outcome) {
        let is_known = self
            .migration(id)
            .is_some_and(|known| known.state.outcome.is_some());
        if !is_known {
            let learned = OutcomeLearned {
                migration: id,
                outcome,
                position: None,
            };
            self.record(id, RecordBody::OutcomeLearned(learned));
        }
        let live = self.live(id);
        live.effect_at = 0;
        live.blackout = false;
    }

    // The manager's own cont and quit.

    /// Source: continued from outside. The destination takes that first, if it can be reached.
    pub(crate) fn verdict_by_cont(&mut self, id: MigrationId) {
        self.record_verdict(id, Outcome::Aborted, VerdictBy::Cont, None);
        match self.live(id).peer {
            PeerAnswer::Unreachable
            | PeerAnswer::Amnesia
            | PeerAnswer::NoSuchMigration
            | PeerAnswer::Aborted => self.learn_verdict(id, Outcome::Aborted),
            PeerAnswer::NotAsked
            | PeerAnswer::Performing
            | PeerAnswer::Granted
            | PeerAnswer::GrantedAndSafe
            | PeerAnswer::Abandoned
            | PeerAnswer::NotWhole
            | PeerAnswer::Whole
            | PeerAnswer::Deciding
            | PeerAnswer::Started
            | PeerAnswer::Split
            | PeerAnswer::Lost
            | PeerAnswer::Committed => {
                self.ask(id, Asked::Abandon, PeerRequest::Abandon { migration: id });
            }
        }
    }

    /// Source: ended from outside; the destination's copy is the only one.
    pub(crate) fn verdict_by_quit(&mut self, id: MigrationId) {
        self.record_verdict(id, Outcome::Committed, VerdictBy::Quit, None);
        self.learn_verdict(id, Outcome::Committed);
    }

    /// Destination: continued, or ended, from outside.
    pub(crate) fn destination_verdict(&mut self, id: MigrationId, rule: Rule) {
        match rule {
            Rule::DestinationVerdictCont => {
                self.record_verdict(id, Outcome::Committed, VerdictBy::Cont, None);
                self.take_running(id);
            }
            Rule::DestinationVerdictQuit => {
                self.record_verdict(id, Outcome::Aborted, VerdictBy::Quit, None);
                self.abort(id);
                let detail = "the manager ended QEMU before the guest ran here";
                self.end(id, JobResult::Crashed, detail);
            }
            _ => {}
        }
    }
}

fn judge_source(evidence: &Evidence, outcome: Outcome, answered: bool) -> Judgement {
    let (facts, observed) = (&evidence.facts, &evidence.observed);
    let status = status_class(observed.migration.as_ref());
    let run = run_class(observed.run_state.as_ref());
    if facts.outcome == Some(outcome) {
        return Take;
    }
    if facts.abandoned || !facts.granted {
        return Refuse("QEMU has not sent everything yet; job-cancel gives it up");
    }
    match (outcome, facts.outcome, facts.verdict) {
        (Outcome::Aborted, Some(Outcome::Committed), _) => return Refuse(ELSEWHERE),
        (Outcome::Committed, Some(Outcome::Aborted), _) => return Refuse(WITHDRAWN),
        (Outcome::Committed, _, Some(Outcome::Aborted)) => {
            return Refuse("the guest was continued here");
        }
        _ => {}
    }
    let dead = observed.process == Process::Dead;
    match outcome {
        Outcome::Committed if !dead && status != StatusClass::Completed => {
            return Refuse("its QEMU does not say completed");
        }
        Outcome::Committed if run == RunClass::Running => {
            return Refuse("the guest was continued here");
        }
        Outcome::Aborted if dead => {
            return Refuse("its QEMU is gone: the destination's copy may be the only one");
        }
        Outcome::Committed | Outcome::Aborted if !answered => return Wait,
        Outcome::Committed | Outcome::Aborted => {}
    }
    match (outcome, evidence.peer) {
        // The manager drives both sides, and has the word where they cannot talk.
        (_, PeerAnswer::Unreachable) => Take,
        // What it took may be among what it does not know; and what looks like that may be a message of a
        // former life that comes late.
        (_, PeerAnswer::Amnesia | PeerAnswer::NoSuchMigration) => {
            Refuse("the destination does not know of it any more; resolve settles it")
        }
        (Outcome::Aborted, PeerAnswer::Aborted) => Take,
        (Outcome::Aborted, PeerAnswer::Started | PeerAnswer::Split | PeerAnswer::Lost) => {
            Refuse(ELSEWHERE)
        }
        (Outcome::Committed, PeerAnswer::Started | PeerAnswer::Split | PeerAnswer::Lost) => Take,
        // Nothing is ended here any more.
        (Outcome::Committed, PeerAnswer::Whole | PeerAnswer::Deciding) if dead => Take,
        (Outcome::Committed, PeerAnswer::Aborted) => Refuse(WITHDRAWN),
        (Outcome::Committed, PeerAnswer::NotWhole) => Refuse("the destination's copy is not whole"),
        (
            _,
            PeerAnswer::NotAsked
            | PeerAnswer::Performing
            | PeerAnswer::Granted
            | PeerAnswer::GrantedAndSafe
            | PeerAnswer::Abandoned
            | PeerAnswer::NotWhole
            | PeerAnswer::Whole
            | PeerAnswer::Deciding
            | PeerAnswer::Committed,
        ) => Wait,
    }
}

fn judge_destination(
    evidence: &Evidence,
    outcome: Outcome,
    licensed: bool,
    answered: bool,
) -> Judgement {
    let facts = &evidence.facts;
    match outcome {
        Outcome::Committed if facts.committed || facts.started => return Take,
        Outcome::Committed if facts.aborted => {
            return Refuse("this copy was given up and is being ended");
        }
        Outcome::Committed if !is_takeable(evidence) => {
            return Refuse("this copy is not whole, or ran already");
        }
        Outcome::Aborted if facts.aborted => return Take,
        Outcome::Aborted if facts.started => return Refuse("the guest was started here"),
        Outcome::Aborted if facts.committed => return Refuse("committed: the guest may run here"),
        Outcome::Aborted
            if run_class(evidence.observed.run_state.as_ref()) == RunClass::Running =>
        {
            return Refuse("the guest runs here");
        }
        Outcome::Aborted if was_sent_on(&evidence.observed) => {
            return Refuse(
                "this copy was sent on from here, and may be the guest; resolve settles it",
            );
        }
        Outcome::Committed | Outcome::Aborted if !answered => return Wait,
        Outcome::Committed | Outcome::Aborted => {}
    }
    match (outcome, evidence.peer) {
        (Outcome::Committed, PeerAnswer::Abandoned) => {
            Refuse("the source was given the guest back")
        }
        (Outcome::Committed, _) if !licensed => {
            Refuse("the source has not said that its QEMU sent everything")
        }
        (Outcome::Committed, PeerAnswer::NoSuchMigration) => Refuse("the source has closed it"),
        (
            Outcome::Committed,
            PeerAnswer::Granted
            | PeerAnswer::GrantedAndSafe
            | PeerAnswer::Deciding
            | PeerAnswer::Committed
            | PeerAnswer::Unreachable
            | PeerAnswer::Amnesia,
        ) => Take,
        (Outcome::Aborted, PeerAnswer::Deciding | PeerAnswer::Committed) => {
            Refuse("the source was told committed: this copy is the guest")
        }
        // Its QEMU may be gone, and this copy be the only one.
        (Outcome::Aborted, PeerAnswer::Granted | PeerAnswer::Performing | PeerAnswer::NotWhole) => {
            Wait
        }
        (Outcome::Aborted, _) => Take,
        (
            Outcome::Committed,
            PeerAnswer::NotAsked
            | PeerAnswer::Performing
            | PeerAnswer::NotWhole
            | PeerAnswer::Whole
            | PeerAnswer::Started
            | PeerAnswer::Aborted
            | PeerAnswer::Split
            | PeerAnswer::Lost,
        ) => Wait,
    }
}
