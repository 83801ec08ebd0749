//! What a journal owes: every record that a sidecar appended, remembered outside of it.
//!
//! Invariant: what was acknowledged is found again after every crash, or the journal reports its loss
//! and a disk fault explains it (P5); what reached QEMU is found again in any case (P1); a decision can
//! be made again from its evidence alone (P7).
//! Not here: what the records do to a world (`world`), where they lie (`disk`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use journal_format::number::{DomainId, Lsn, MigrationId};
use journal_format::record::{
    Authority, ContIntent, Decided, Decision, Draft, Evidence, JobDecided, KeyChange, KeyValue,
    Outcome, PeerAnswer, Process, Protocol, Record, RecordBody, Role,
};

use super::coverage::Coverage;
use crate::engine::{Engine, Input, Message, Now, Rule, Step, decide, decide_job};
use crate::journal::Past;
use crate::node::Machine;

/// A durable fact that a world must know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// A copy's end was decided: the destination's.
    DestinationEnds,
    /// The source's.
    SourceEnds,
    /// The guest counts as started at this side.
    Started(MigrationId),
    /// Likewise, of a copy that ended before any `cont` reached it.
    StartedUnsent,
    /// A licence was taken.
    Committed(MigrationId),
    /// The manager said which copy ends, and the other side could not be asked.
    ManagersWord,
}

/// What one journal owes.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Since its last two checkpoints, in order, from `first` on.
    records: VecDeque<Draft>,
    first: u64,
    /// Where its last checkpoints begin, oldest first.
    checkpoints: Vec<Lsn>,
    /// The last one that was acknowledged.
    acknowledged: Lsn0,
    /// The last intent whose effect reached a QEMU.
    pub(super) performed: u64,
    /// Facts that the world has not heard of.
    pub(super) facts: Vec<(Lsn, DomainId, Fact)>,
    /// What is wrong.
    pub(super) broken: Option<String>,
    pub(super) coverage: Coverage,
    /// Domains whose copy ended, as the last decision saw it, before any `cont` reached it.
    unsent: BTreeSet<DomainId>,
    /// A copy of the journal was put in its place, or it was lost: it owes nothing of before.
    pub(super) is_replaced: bool,
    /// The domains that damage may concern; `None` when that cannot be said any more.
    concerned: Option<BTreeSet<DomainId>>,
}

/// An LSN, or none yet.
type Lsn0 = u64;

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            records: VecDeque::new(),
            first: 1,
            checkpoints: Vec::new(),
            acknowledged: 0,
            performed: 0,
            facts: Vec::new(),
            broken: None,
            coverage: Coverage::default(),
            unsent: BTreeSet::new(),
            is_replaced: false,
            concerned: Some(BTreeSet::new()),
        }
    }
}

impl Ledger {
    fn note(&mut self, first: Lsn, drafts: &[Draft]) {
        for (number, draft) in (first.0..).zip(drafts) {
            self.look_at(Lsn(number), draft);
            if let RecordBody::CheckpointBegun(_) = draft.body {
                self.begin_checkpoint(Lsn(number));
            }
            if number != self.next() {
                // What was read last had a gap, or was never acknowledged.
                self.records.clear();
                self.first = number;
            }
            self.records.push_back(draft.clone());
        }
    }

    fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// The records from one LSN to another, as far as they are remembered.
    fn range(&self, from: u64, to: u64) -> impl Iterator<Item = (Lsn, &Draft)> + Clone {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let first = self.first.max(from);
        let records = self.records.iter().skip(skip);
        (first..=to).map(Lsn).zip(records)
    }

    fn begin_checkpoint(&mut self, at: Lsn) {
        self.checkpoints.push(at);
        if self.checkpoints.len() > 2 {
            self.checkpoints.remove(0);
            let keep_from = self.checkpoints[0].0.max(self.first);
            let gone = usize::try_from(keep_from - self.first).unwrap_or(0);
            self.records.drain(..gone.min(self.records.len()));
            self.first = keep_from;
        }
    }

    fn look_at(&mut self, lsn: Lsn, draft: &Draft) {
        let fact = match &draft.body {
            RecordBody::MigrationAborted(_) | RecordBody::MigrationAbandoned(_) => {
                Some(Fact::DestinationEnds)
            }
            RecordBody::OutcomeLearned(learned) if learned.outcome == Outcome::Committed => {
                Some(Fact::SourceEnds)
            }
            RecordBody::OutcomeLearned(_) => Some(Fact::DestinationEnds),
            // Proposed by a source whose copy is good; it may win, whatever becomes of that one then.
            RecordBody::StoreIntended(intended) if proposes_aborted(&intended.change) => {
                Some(Fact::DestinationEnds)
            }
            RecordBody::MigrationStarted(named) => {
                let is_unsent = draft.domain.is_some_and(|one| self.unsent.contains(&one));
                Some(match is_unsent {
                    true => Fact::StartedUnsent,
                    false => Fact::Started(named.migration),
                })
            }
            RecordBody::MigrationCommitted(committed) => committed
                .cookie
                .map(|cookie| Fact::Committed(cookie.migration)),
            RecordBody::Decided(decided) => {
                self.coverage.decided(&decided.rule);
                self.judge_decision(&decided.rule, &decided.evidence);
                if let Some(domain) = draft.domain {
                    match ended_unsent(&decided.evidence) {
                        true => self.unsent.insert(domain),
                        false => self.unsent.remove(&domain),
                    };
                }
                is_managers_word(decided).then_some(Fact::ManagersWord)
            }
            RecordBody::JobDecided(decided) => {
                self.coverage.decided(&decided.rule);
                self.judge_job_decision(decided);
                None
            }
            _ => None,
        };
        if let (Some(fact), Some(domain)) = (fact, draft.domain) {
            self.facts.push((lsn, domain, fact));
        }
    }

    /// P7: the same evidence gives the same rule, and the rule exists.
    fn judge_decision(&mut self, name: &str, evidence: &Evidence) {
        let Some(rule) = Rule::from_name(name) else {
            self.breaks(format!("P7: a decision under '{name}', which is no rule"));
            return;
        };
        // An operator's or a manager's word is no row of the table; over damage the histories decide, and `explain`
        // goes over them.
        if matches!(rule, Rule::OperatorResolved | Rule::ManagerVerdict) || evidence.journal_damaged
        {
            return;
        }
        let again = decide(evidence);
        if again != Some(rule) {
            self.breaks(format!(
                "P7: '{name}' is {again:?} when it is decided again"
            ));
        }
    }

    /// P7, for jobs that are no migrations.
    fn judge_job_decision(&mut self, decided: &JobDecided) {
        let rule = Rule::from_name(&decided.rule);
        if rule == Some(Rule::OperatorResolved) || decided.evidence.journal_damaged {
            return;
        }
        let again = decide_job(&decided.evidence);
        if rule.is_none() || again != rule {
            let name = &decided.rule;
            self.breaks(format!(
                "P7: '{name}' is {again:?} when it is decided again"
            ));
        }
    }

    fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// Is that record acknowledged?
    pub(super) fn is_acknowledged(&self, lsn: Lsn) -> bool {
        lsn.0 <= self.acknowledged
    }

    /// Everything up to there is acknowledged.
    pub(super) fn acknowledge(&mut self, last: Lsn) {
        self.acknowledged = self.acknowledged.max(last.0);
    }

    /// A new life begins there; what an older one acknowledged beyond it was settled.
    pub(super) fn begin(&mut self, last: Lsn) {
        self.acknowledged = last.0;
    }

    /// Holds what a journal told when it was opened against what it owes. `lied` says that its disk
    /// did something that explains a loss.
    pub(super) fn settle(&mut self, told: &[Past], lied: bool, tail_lost: bool) {
        if !self.is_replaced {
            self.judge(told, lied, tail_lost);
        }
        let gaps: Vec<(u64, u64)> = told
            .iter()
            .filter_map(|past| match past {
                Past::Gap(gap) => Some((gap.first.0, gap.last.0)),
                Past::Record(_) => None,
            })
            .collect();
        let last = told.iter().rev().find_map(|past| match past {
            Past::Record(record) => Some(record.lsn.0),
            Past::Gap(_) => None,
        });
        // Of a batch whose write failed, what is there became true.
        self.facts
            .retain(|(lsn, ..)| last.is_some_and(|last| lsn.0 <= last));
        self.note_damage(&gaps, last.unwrap_or(0));
        let was_replaced = core::mem::take(&mut self.is_replaced);
        self.begin_anew(told, was_replaced);
    }

    fn judge(&mut self, told: &[Past], lied: bool, tail_lost: bool) {
        let (mut found, mut gaps): (BTreeMap<Lsn, &Record>, Vec<(u64, u64)>) = Default::default();
        for past in told {
            match past {
                Past::Record(record) => {
                    found.insert(record.lsn, record);
                }
                Past::Gap(gap) => gaps.push((gap.first.0, gap.last.0)),
            }
        }
        let Some(from) = told.first().map(|first| match first {
            Past::Record(record) => record.lsn,
            Past::Gap(gap) => gap.first,
        }) else {
            if self.acknowledged > 0 && !lied {
                self.breaks("P5: nothing is left of an acknowledged journal".to_owned());
            }
            return;
        };
        let owed: Vec<(Lsn, bool)> = self
            .range(from.0, self.acknowledged.max(self.performed))
            .map(|(lsn, draft)| {
                let same = found
                    .get(&lsn)
                    .map(|record| record.domain == draft.domain && record.body == draft.body);
                (lsn, same)
            })
            .filter_map(|(lsn, same)| match same {
                Some(true) => None,
                Some(false) => Some((lsn, true)),
                None => Some((lsn, false)),
            })
            .collect();
        let last_found = found.keys().next_back().map_or(0, |lsn| lsn.0);
        for (lsn, differs) in owed {
            let told = gaps
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&lsn.0));
            let is_tail = tail_lost && lsn.0 > last_found;
            let what = match (differs, told) {
                (true, _) => "comes back as another one",
                (false, true) if lied => continue,
                (false, true) => "is reported lost without a fault of the disk",
                // A sync that lied took the end, and nothing is there to tell.
                (false, false) if is_tail => continue,
                (false, false) => "is lost in silence",
            };
            let promise = if lsn.0 <= self.performed {
                "P1, P5"
            } else {
                "P5"
            };
            self.breaks(format!("{promise}: the acknowledged record {lsn} {what}"));
            return;
        }
    }

    /// From here on it owes what it told.
    fn begin_anew(&mut self, told: &[Past], was_replaced: bool) {
        self.records.clear();
        self.checkpoints.clear();
        if was_replaced {
            self.acknowledged = 0;
            self.concerned = None;
        }
        self.performed = 0;
        for past in told {
            if let Past::Record(record) = past {
                if record.lsn.0 != self.next() {
                    self.records.clear();
                    self.first = record.lsn.0;
                }
                if let RecordBody::CheckpointBegun(_) = record.body {
                    self.checkpoints.push(record.lsn);
                }
                let draft = Draft {
                    domain: record.domain,
                    body: record.body.clone(),
                };
                self.records.push_back(draft);
            }
        }
    }

    /// Which domains the damage may concern (P6): those with records in it, and those that no record
    /// behind it speaks of.
    fn note_damage(&mut self, gaps: &[(u64, u64)], last_found: u64) {
        for (first, last) in gaps {
            let lost: Vec<DomainId> = self
                .range(*first, *last)
                .filter_map(|(_, draft)| draft.domain)
                .collect();
            if *first < self.first || *last >= self.next() {
                // Longer ago than is remembered here.
                self.concerned = None;
            }
            let behind = self.range(last.saturating_add(1), last_found);
            // What lies in another gap tells nothing.
            let is_lost = |lsn: Lsn| gaps.iter().any(|(from, to)| (*from..=*to).contains(&lsn.0));
            let behind: BTreeSet<DomainId> = behind
                .filter(|(lsn, _)| !is_lost(*lsn))
                .filter_map(|(_, draft)| draft.domain)
                .collect();
            let before = self.records.iter().filter_map(|draft| draft.domain);
            let unheard: Vec<DomainId> = before.filter(|domain| !behind.contains(domain)).collect();
            let Some(concerned) = &mut self.concerned else {
                return;
            };
            concerned.extend(lost);
            concerned.extend(unheard);
        }
    }

    /// May damaged records concern that domain?
    pub(super) fn may_be_damaged(&self, domain: DomainId) -> bool {
        self.concerned
            .as_ref()
            .is_none_or(|concerned| concerned.contains(&domain))
    }

    /// What the last record of the newest batch is, for people.
    pub(super) fn last_name(&self) -> &'static str {
        let newest = self.records.back();
        newest.map_or("none", |draft| draft.body.type_name())
    }
}

/// Did the destination's QEMU end before any `cont` reached it, as far as its journal goes? Where the manager, the store or the
/// source decides, that the guest was given to it has other grounds.
fn ended_unsent(evidence: &Evidence) -> bool {
    let is_own = evidence.role == Role::Destination
        && evidence.protocol == Protocol::V3
        && evidence.authority == Authority::Destination;
    let is_unsent = match evidence.facts.cont {
        ContIntent::Never | ContIntent::NotSent | ContIntent::Refused => true,
        ContIntent::Unknown | ContIntent::Done => false,
    };
    is_own && is_unsent && evidence.observed.process == Process::Dead && !evidence.journal_damaged
}

/// Nobody but the manager can know then whether the other copy is good: it drives both sides itself, and
/// its word is the decision (DESIGN.md, section 6, authority manager).
fn is_managers_word(decided: &Decided) -> bool {
    let is_alone = matches!(
        decided.evidence.peer,
        PeerAnswer::Unreachable | PeerAnswer::Amnesia | PeerAnswer::NoSuchMigration
    );
    is_alone && decided.rule == Rule::ManagerVerdict.name() && decided.decision == Decision::Kill
}

fn proposes_aborted(change: &KeyChange) -> bool {
    matches!(
        change,
        KeyChange::Create(KeyValue::Aborted)
            | KeyChange::Replace {
                new: KeyValue::Aborted,
                ..
            }
    )
}

/// The engine, with everything that it appends noted down.
#[derive(Debug)]
pub(super) struct Noted {
    engine: Engine,
    ledger: Rc<RefCell<Ledger>>,
}

impl Noted {
    pub(super) fn new(engine: Engine, ledger: Rc<RefCell<Ledger>>) -> Noted {
        Noted { engine, ledger }
    }
}

impl Machine for Noted {
    fn step(&mut self, now: Now, input: Input) -> Step {
        let first = self.engine.next_lsn();
        let step = self.engine.step(now, input);
        self.ledger.borrow_mut().note(first, &step.append);
        step
    }

    fn amend(&mut self, now: Now, messages: &mut [Message]) {
        self.engine.amend(now, messages);
    }

    fn checkpoint(&mut self) -> Vec<Draft> {
        let first = self.engine.next_lsn();
        let drafts = self.engine.checkpoint();
        self.ledger.borrow_mut().note(first, &drafts);
        drafts
    }

    fn seal(&mut self) -> Draft {
        let first = self.engine.next_lsn();
        let draft = self.engine.seal();
        let mut ledger = self.ledger.borrow_mut();
        ledger.note(first, core::slice::from_ref(&draft));
        draft
    }

    fn next_lsn(&self) -> Lsn {
        self.engine.next_lsn()
    }

    fn in_blackout(&self) -> bool {
        self.engine.in_blackout()
    }

    fn set_no_room(&mut self, why: Option<String>) {
        self.engine.set_no_room(why);
    }

    fn kept_migrations(&self) -> usize {
        self.engine.kept_migrations()
    }

    fn start(&mut self, now: Now) -> Step {
        let first = self.engine.next_lsn();
        let step = self.engine.start(now);
        self.ledger.borrow_mut().note(first, &step.append);
        step
    }
}
