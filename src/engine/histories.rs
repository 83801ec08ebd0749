//! What damaged records may have said about an open migration: every history that fits what can be read.
//!
//! Invariant: the true history is among them. A step of a history costs at least one record, so that a
//! gap holds no more steps than records; what is not sure to be impossible stays.
//! Not here: what is decided when they differ (`gap`).

use journal_format::number::Lsn;
use journal_format::record::{
    ContIntent, Decided, EffectCommand, EffectFinished, EffectResult, Facts, MigrationHistories,
    MigrationHistory, MigrationState, Outcome, Phase, Process, Protocol, RecordBody, Role,
    RunState, WantedRunState,
};

/// More histories than this say nothing any more; their record stays below the size of a body.
const HISTORIES_MAX: usize = 256;
/// An operator's word is at least that, the decision and what follows from it.
const OPERATOR_RECORDS: u64 = 3;

/// Had whoever wrote the records behind the damage read what is damaged now? Then what was done, and
/// what was not, tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Writer {
    /// Not known: the begin of another life may be among what is damaged.
    Unproven,
    Knowing,
    Unknowing,
}

/// The histories of an open migration of a domain that damaged records may concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Histories {
    /// None when nothing can be said.
    pub(crate) all: Vec<MigrationHistory>,
    pub(crate) writer: Writer,
    /// The record that restates them as they are.
    pub(crate) cited: Option<Lsn>,
}

/// How a migration stands, as one history.
pub(crate) fn history_of(
    state: &MigrationState,
    facts: Facts,
    wanted: WantedRunState,
) -> MigrationHistory {
    MigrationHistory {
        open: state.open,
        later: false,
        resolved: false,
        phase: state.phase,
        facts,
        source_touched: state.source_touched,
        wanted,
    }
}

impl Histories {
    /// Before any damage: one history.
    pub(crate) fn of(history: MigrationHistory) -> Histories {
        Histories {
            all: vec![history],
            writer: Writer::Unproven,
            cited: None,
        }
    }

    /// As a record restates them; by somebody who did not know either.
    pub(crate) fn restated(histories: &MigrationHistories, lsn: Lsn) -> Histories {
        Histories {
            all: histories.histories.clone(),
            writer: Writer::Unknowing,
            cited: Some(lsn),
        }
    }

    /// Of post-copy nothing is said: after it there is no way back, whatever else was lost.
    pub(crate) fn unknown() -> Histories {
        Histories {
            all: Vec::new(),
            writer: Writer::Unknowing,
            cited: None,
        }
    }

    /// A job that began behind the damage: all of it can be read, but not what its owner wanted before.
    pub(crate) fn begun(history: MigrationHistory) -> Histories {
        let mut histories = Histories::of(history);
        // No job begins while records may be damaged.
        histories.writer = Writer::Knowing;
        histories.all.push(MigrationHistory {
            wanted: other(history.wanted),
            ..history
        });
        histories
    }

    /// Is there one in which the licence went out?
    pub(crate) fn may_be_granted(&self) -> bool {
        self.all.is_empty() || self.all.iter().any(|one| one.facts.granted)
    }

    /// Is there one in which QEMU was told to migrate?
    pub(crate) fn may_be_sent(&self) -> bool {
        self.all.iter().any(|one| one.facts.migrate_intended)
    }

    /// Is the job over in all of them, and nothing else of the domain in doubt?
    pub(crate) fn end_settles(&self) -> bool {
        let settled = |one: &MigrationHistory| !one.open && !one.later && !one.resolved;
        !self.all.is_empty() && self.all.iter().all(settled)
    }

    /// So many records may be missing here, once more: what is read from now on was perhaps written by
    /// somebody for whom the first ones were missing.
    pub(crate) fn extend_again(&mut self, role: Role, protocol: Protocol, records: u64) {
        self.writer = Writer::Unknowing;
        self.extend(role, protocol, records);
    }

    /// So many records may be missing here.
    pub(crate) fn extend(&mut self, role: Role, protocol: Protocol, records: u64) {
        self.cited = None;
        // Each with the fewest records that lead to it; a shorter way puts it at the end once more.
        let mut reached: Vec<(MigrationHistory, u64)> =
            self.all.iter().map(|one| (*one, 0)).collect();
        let mut at = 0;
        while let Some((from, so_far)) = reached.get(at).copied() {
            at += 1;
            for (cost, to) in steps(role, protocol, &from) {
                let cost = so_far.saturating_add(cost);
                let known = reached
                    .iter()
                    .any(|(one, least)| *one == to && *least <= cost);
                if cost <= records && !known {
                    reached.push((to, cost));
                }
            }
        }
        self.all.clear();
        for (history, _) in reached {
            self.push(history);
        }
        if self.all.len() > HISTORIES_MAX {
            self.all.clear();
        }
    }

    fn push(&mut self, history: MigrationHistory) {
        if !self.all.contains(&history) {
            self.all.push(history);
        }
    }

    /// One more record of the domain behind the damage.
    pub(crate) fn fold(&mut self, state: &MigrationState, body: &RecordBody) {
        let before = self.all.clone();
        if self.writer == Writer::Unproven && proves_knowing(state, body) {
            self.writer = Writer::Knowing;
        }
        if self.writer == Writer::Knowing {
            if let RecordBody::Decided(decided) = body {
                self.restate(decided, state.job);
            } else {
                self.all.retain(|one| fits(state, one, body));
            }
        }
        for one in &mut self.all {
            take_in(state, one, body);
        }
        let all = core::mem::take(&mut self.all);
        all.into_iter().for_each(|one| self.push(one));
        if self.all != before {
            self.cited = None;
        }
    }

    /// A decision tells all facts as they were.
    fn restate(&mut self, decided: &Decided, job: Lsn) {
        let evidence = &decided.evidence;
        if decided.job != job || evidence.journal_damaged {
            return;
        }
        let agrees = |one: &MigrationHistory| {
            one.open
                && one.phase == evidence.phase
                && one.facts == evidence.facts
                && one.wanted == evidence.wanted
        };
        self.all.retain(agrees);
        if self.all.is_empty() {
            for source_touched in [false, true] {
                self.all.push(MigrationHistory {
                    open: true,
                    later: false,
                    resolved: false,
                    phase: evidence.phase,
                    facts: evidence.facts,
                    source_touched,
                    wanted: evidence.wanted,
                });
            }
        }
    }
}

fn other(wanted: WantedRunState) -> WantedRunState {
    match wanted {
        WantedRunState::Running => WantedRunState::Paused,
        WantedRunState::Paused => WantedRunState::Running,
    }
}

/// Neither given away nor given up, as far as this side knows.
fn is_undecided(facts: &Facts) -> bool {
    let Facts {
        migrate_intended: _,
        postcopy: _,
        granted,
        abandoned,
        committed,
        started,
        aborted,
        outcome,
        cont: _,
        proposed: _,
        verdict: _,
    } = facts;
    !granted && !abandoned && !committed && !started && !aborted && outcome.is_none()
}

type Steps = Vec<(u64, MigrationHistory)>;

/// What may follow, each with the fewest records that it takes.
fn steps(role: Role, protocol: Protocol, from: &MigrationHistory) -> Steps {
    let mut steps = Vec::new();
    if !from.open {
        if !from.later && !from.resolved {
            steps.push((
                1,
                MigrationHistory {
                    later: true,
                    ..*from
                },
            ));
        }
        return steps;
    }
    steps.push((
        1,
        MigrationHistory {
            wanted: other(from.wanted),
            ..*from
        },
    ));
    match (role, protocol) {
        (Role::Source, Protocol::V2) => source2(from, &mut steps),
        (Role::Source, Protocol::V3) => source3(from, &mut steps),
        (Role::Destination, _) => destination(protocol, from, &mut steps),
    }
    steps.push((OPERATOR_RECORDS, resolved(from)));
    steps
}

fn with(from: &MigrationHistory, change: impl FnOnce(&mut Facts)) -> MigrationHistory {
    let mut to = *from;
    change(&mut to.facts);
    to
}

fn in_phase(from: &MigrationHistory, phase: Phase) -> MigrationHistory {
    MigrationHistory { phase, ..*from }
}

/// An ended job: nobody looks at the rest any more.
fn ended(from: &MigrationHistory) -> MigrationHistory {
    MigrationHistory {
        open: false,
        source_touched: false,
        wanted: WantedRunState::Running,
        ..*from
    }
}

fn touched(from: &MigrationHistory, steps: &mut Steps) {
    if (from.facts.granted || from.facts.abandoned) && !from.source_touched {
        let to = MigrationHistory {
            source_touched: true,
            ..*from
        };
        steps.push((1, to));
    }
}

fn source3(from: &MigrationHistory, steps: &mut Steps) {
    let facts = &from.facts;
    let undecided = is_undecided(facts);
    match from.phase {
        Phase::Begin3 if undecided => {
            steps.push((1, in_phase(from, Phase::Perform3)));
            steps.push((1, ended(from)));
        }
        Phase::Perform3 if undecided && !facts.migrate_intended => {
            steps.push((1, with(from, |facts| facts.migrate_intended = true)));
        }
        Phase::Perform3 if undecided => steps.push((1, in_phase(from, Phase::Perform3Done))),
        Phase::Perform3Done if undecided => {
            steps.push((1, with(from, |facts| facts.granted = true)));
        }
        _ => {}
    }
    if undecided && from.phase != Phase::Perform3Done {
        steps.push((1, with(from, |facts| facts.abandoned = true)));
    }
    if facts.granted && facts.outcome.is_none() {
        for outcome in Outcome::ALL {
            steps.push((1, with(from, |facts| facts.outcome = Some(*outcome))));
        }
    }
    touched(from, steps);
    let settled = match facts.outcome {
        Some(Outcome::Committed) => Some(Phase::Confirm3),
        Some(Outcome::Aborted) => Some(Phase::Confirm3Cancelled),
        None => None,
    };
    match settled {
        Some(phase) if from.phase == phase => steps.push((1, ended(from))),
        Some(phase) => steps.push((1, in_phase(from, phase))),
        None if facts.abandoned => steps.push((1, ended(from))),
        None => {}
    }
}

fn source2(from: &MigrationHistory, steps: &mut Steps) {
    let facts = &from.facts;
    if is_undecided(facts) {
        if facts.migrate_intended {
            steps.push((1, with(from, commit2)));
        } else {
            steps.push((1, with(from, |facts| facts.migrate_intended = true)));
            // Prepare was not even sent.
            steps.push((1, ended(from)));
        }
        steps.push((1, with(from, |facts| facts.abandoned = true)));
    }
    touched(from, steps);
    if facts.committed || facts.abandoned {
        steps.push((1, ended(from)));
    }
}

/// v2: the source's decision is the licence.
fn commit2(facts: &mut Facts) {
    facts.committed = true;
    facts.granted = true;
}

fn finish_phase(protocol: Protocol) -> Phase {
    match protocol {
        Protocol::V2 => Phase::Finish2,
        Protocol::V3 => Phase::Finish3,
    }
}

fn destination(protocol: Protocol, from: &MigrationHistory, steps: &mut Steps) {
    let facts = &from.facts;
    let finish = finish_phase(protocol);
    if is_undecided(facts) {
        if from.phase == finish {
            steps.push((1, with(from, |facts| facts.committed = true)));
        } else {
            steps.push((1, in_phase(from, finish)));
            steps.push((1, with(from, |facts| facts.aborted = true)));
        }
    }
    if facts.committed && !facts.started && !facts.aborted {
        steps.push((1, with(from, |facts| facts.started = true)));
        let conts: &[ContIntent] = match facts.cont {
            ContIntent::Never | ContIntent::NotSent | ContIntent::Refused => {
                steps.push((1, with(from, |facts| facts.aborted = true)));
                &[ContIntent::Unknown]
            }
            ContIntent::Unknown => &[ContIntent::Done, ContIntent::Refused, ContIntent::NotSent],
            ContIntent::Done => &[],
        };
        for cont in conts {
            steps.push((1, with(from, |facts| facts.cont = *cont)));
        }
    }
    if facts.started || facts.aborted {
        steps.push((1, ended(from)));
    }
}

/// An operator may have said anything of a job that was held.
fn resolved(from: &MigrationHistory) -> MigrationHistory {
    let facts = Facts {
        migrate_intended: false,
        postcopy: false,
        granted: false,
        abandoned: false,
        committed: false,
        started: false,
        aborted: false,
        outcome: None,
        cont: ContIntent::Never,
        proposed: false,
        verdict: None,
    };
    let phase = match from.phase {
        Phase::Prepare | Phase::Finish2 | Phase::Finish3 => Phase::Prepare,
        Phase::Perform2 => Phase::Perform2,
        _ => Phase::Begin3,
    };
    MigrationHistory {
        resolved: true,
        phase,
        facts,
        ..ended(from)
    }
}

/// Does that record come from a life that had read, or written, all records of this job before it?
/// Somebody who recovers over damage decides with the damage on record, has no plan of effects, and
/// knows no results but unknown ones of effects that others sent.
fn proves_knowing(state: &MigrationState, body: &RecordBody) -> bool {
    match body {
        RecordBody::Decided(decided) => {
            decided.job == state.job && !decided.evidence.journal_damaged
        }
        RecordBody::PeerPrepared(prepared) => prepared.migration == state.terms.migration,
        // It is open as far as can be read; somebody had read that it is not.
        RecordBody::MigrationForgotten(named) => named.migration == state.terms.migration,
        RecordBody::EffectIntended(intended) => {
            intended.job == Some(state.job)
                && matches!(
                    intended.command,
                    EffectCommand::Claim(_)
                        | EffectCommand::SetCapabilities { .. }
                        | EffectCommand::Migrate { .. }
                        | EffectCommand::MigrateIncoming { .. }
                        | EffectCommand::MigrateContinue
                )
        }
        RecordBody::EffectFinished(finished) => {
            let is_unknown = matches!(finished.result, EffectResult::Unknown { .. });
            finishes(state, finished).is_some() && !is_unknown
        }
        _ => false,
    }
}

/// Would whoever knows this history write that record behind it?
fn fits(state: &MigrationState, one: &MigrationHistory, body: &RecordBody) -> bool {
    let (facts, terms) = (&one.facts, &state.terms);
    let of_this = match body {
        RecordBody::PhaseEntered(entered) => entered.job == state.job,
        RecordBody::EffectIntended(intended) => intended.job == Some(state.job),
        RecordBody::EffectFinished(finished) => finishes(state, finished).is_some(),
        RecordBody::JobEnded(ended) => ended.job == state.job,
        RecordBody::MigrationGranted(granted) => granted.cookie.migration == terms.migration,
        RecordBody::MigrationAbandoned(named) => named.migration == terms.migration,
        RecordBody::MigrationCommitted(named) => named.migration == terms.migration,
        RecordBody::MigrationStarted(named) | RecordBody::MigrationAborted(named) => {
            named.migration == terms.migration
        }
        RecordBody::OutcomeLearned(learned) => learned.migration == terms.migration,
        // Nothing is forgotten before its job is over.
        RecordBody::MigrationForgotten(named) => {
            return !one.open || named.migration != terms.migration;
        }
        _ => false,
    };
    if !of_this {
        return true;
    }
    // After an operator's word nothing of perform and prepare follows any more.
    let undecided = is_undecided(facts) && !one.resolved;
    (one.open || one.resolved)
        && match (body, terms.role) {
            (RecordBody::PhaseEntered(entered), _) => match entered.phase {
                Phase::Perform2 | Phase::Perform3 | Phase::Perform3Done => undecided,
                Phase::Finish2 | Phase::Finish3 => !facts.aborted && !facts.started,
                _ => true,
            },
            (RecordBody::EffectIntended(intended), Role::Source) => match &intended.command {
                EffectCommand::Claim(_)
                | EffectCommand::Unclaim
                | EffectCommand::SetCapabilities { .. }
                | EffectCommand::SetParameters { .. }
                | EffectCommand::Migrate { .. }
                | EffectCommand::MigrateContinue => undecided,
                EffectCommand::MigrateCancel => !undecided,
                EffectCommand::Kill => one.resolved || facts.committed || facts.outcome.is_some(),
                EffectCommand::MigrateIncoming { .. }
                | EffectCommand::StartPostcopy
                | EffectCommand::MigrateRecover { .. }
                | EffectCommand::MigrateResume { .. }
                | EffectCommand::MigratePause
                | EffectCommand::Monitor { .. }
                | EffectCommand::Cont
                | EffectCommand::Stop => true,
            },
            (RecordBody::EffectIntended(intended), Role::Destination) => match &intended.command {
                EffectCommand::Cont => !facts.aborted && !facts.started,
                // One of those puts back what QEMU was told before, after all is decided.
                EffectCommand::Kill | EffectCommand::Monitor { .. } => true,
                _ => undecided,
            },
            // With an effect in flight nothing is decided, and a licence is a decision.
            (RecordBody::EffectFinished(finished), _) => match finishes(state, finished) {
                Some(EffectCommand::Cont) => !facts.started,
                Some(
                    EffectCommand::Stop
                    | EffectCommand::MigrateCancel
                    | EffectCommand::Kill
                    | EffectCommand::Monitor { .. },
                )
                | None => true,
                // Only its own life knows what became of it.
                Some(_) if matches!(finished.result, EffectResult::Unknown { .. }) => true,
                Some(_) => !facts.granted && !facts.committed && !one.resolved,
            },
            (RecordBody::MigrationGranted(_) | RecordBody::MigrationAbandoned(_), _) => undecided,
            (RecordBody::MigrationAborted(_) | RecordBody::MigrationStarted(_), _) => {
                !facts.started && !facts.aborted
            }
            _ => true,
        }
}

/// The effect whose result that is, if its intent can be read.
fn finishes<'a>(state: &'a MigrationState, finished: &EffectFinished) -> Option<&'a EffectCommand> {
    let (intent, command) = state.in_flight.as_ref()?;
    (*intent == finished.effect).then_some(command)
}

/// The history with one more record, and with what had to be there before it.
fn take_in(state: &MigrationState, one: &mut MigrationHistory, body: &RecordBody) {
    if one.resolved {
        return;
    }
    let name = state.terms.migration;
    let facts = &mut one.facts;
    match body {
        RecordBody::WantedChanged(changed) if one.open => one.wanted = changed.wanted,
        RecordBody::PhaseEntered(entered) if entered.job == state.job => {
            one.phase = entered.phase;
            if entered.phase == Phase::Perform3Done {
                facts.migrate_intended = true;
            }
        }
        RecordBody::EffectIntended(intended) if intended.job == Some(state.job) => {
            intend(state, one, &intended.command);
        }
        RecordBody::EffectFinished(finished)
            if finishes(state, finished) == Some(&EffectCommand::Cont)
                && state.terms.role == Role::Destination
                // Whether it was the only one is not known: no other answer proves anything.
                && finished.result == EffectResult::Done =>
        {
            facts.cont = ContIntent::Done;
        }
        RecordBody::QemuObserved(seen)
            if seen.job == Some(state.job) && facts.granted && one.open =>
        {
            let observed = &seen.observed;
            let runs =
                observed.process == Process::Alive && observed.run_state == Some(RunState::Running);
            one.source_touched |= runs;
        }
        RecordBody::MigrationGranted(granted) if granted.cookie.migration == name => {
            facts.granted = true;
            one.wanted = granted.cookie.wanted;
        }
        RecordBody::MigrationAbandoned(named) if named.migration == name => {
            facts.abandoned = true;
        }
        RecordBody::MigrationCommitted(committed) if committed.migration == name => {
            facts.committed = true;
            if let Some(cookie) = committed.cookie {
                one.wanted = cookie.wanted;
            }
            if state.terms.role == Role::Source {
                facts.granted = true;
            }
        }
        RecordBody::MigrationStarted(named) if named.migration == name => {
            facts.committed = true;
            facts.started = true;
        }
        RecordBody::MigrationAborted(named) if named.migration == name => facts.aborted = true,
        RecordBody::OutcomeLearned(learned) if learned.migration == name => {
            facts.outcome = facts.outcome.or(Some(learned.outcome));
        }
        RecordBody::JobEnded(over) if over.job == state.job => *one = ended(one),
        _ => {}
    }
}

fn intend(state: &MigrationState, one: &mut MigrationHistory, command: &EffectCommand) {
    let facts = &mut one.facts;
    match (state.terms.role, command) {
        (
            Role::Source,
            EffectCommand::Claim(_)
            | EffectCommand::Unclaim
            | EffectCommand::SetCapabilities { .. }
            | EffectCommand::SetParameters { .. }
            | EffectCommand::Migrate { .. }
            | EffectCommand::MigrateContinue,
        ) => {
            if state.terms.protocol == Protocol::V3 {
                one.phase = Phase::Perform3;
            }
            facts.migrate_intended |= matches!(
                command,
                EffectCommand::Migrate { .. } | EffectCommand::MigrateContinue
            );
        }
        (Role::Source, EffectCommand::MigrateCancel) => {
            one.source_touched |= facts.granted || facts.abandoned;
        }
        // Both bring QEMU to what was wanted then.
        (Role::Source, EffectCommand::Cont) => {
            one.source_touched |= facts.granted || facts.abandoned;
            one.wanted = WantedRunState::Running;
        }
        (Role::Source, EffectCommand::Stop) => one.wanted = WantedRunState::Paused,
        (Role::Destination, EffectCommand::Cont) => {
            one.phase = finish_phase(state.terms.protocol);
            facts.committed = true;
            facts.cont = ContIntent::Unknown;
            one.wanted = WantedRunState::Running;
        }
        _ => {}
    }
}
