//! The laws that every journal of this engine keeps, whatever happened to it: phases in the order of their
//! protocol, effects only after their intents and one at a time, facts that do not contradict each other,
//! decisions that follow from their evidence.
//!
//! Invariant: a record is judged by what the records before it tell; what may be among damaged records is
//! not judged. Where the store or the manager decides, facts follow from its word, which no record here need
//! lead up to: of those only what both sides agreed on is judged. The engine's own tests hold every record that it writes to these laws.
//! Not here: checksums and LSNs (`journal`), whether both sides of a migration agree (the tools).

use core::fmt;

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{
    Authority, ContIntent, Decided, Draft, EffectCommand, EffectIntended, JobBegun, JobDecided,
    JobPhase, JobState, MigrationCommitted, MigrationState, OutcomeLearned, Phase, Protocol,
    Record, RecordBody, Role,
};

use super::told::Told;
use super::{Gap, History, Rule, decide, decide_job, may_enter};

/// Which law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// A domain has one job at a time, and a job's records lie between its begin and its end.
    Job,
    /// Phases are those of the role and the protocol, in their order.
    Phase,
    /// P1: a result follows its intent, and no intent comes while one is open.
    WriteAhead,
    /// Facts do not contradict each other: P2 and P3 rest on them.
    Fact,
    /// P7: a decision follows from its evidence.
    Decision,
    /// A checkpoint restates what the records before it tell.
    Checkpoint,
}

impl Law {
    /// The law as text and JSON say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Law::Job => "job",
            Law::Phase => "phase-order",
            Law::WriteAhead => "write-ahead",
            Law::Fact => "fact",
            Law::Decision => "decision",
            Law::Checkpoint => "checkpoint",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A law that a record breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The law.
    pub law: Law,
    /// How, for people.
    pub how: String,
}

/// Goes over a journal, oldest entry first, and judges each record by those before it.
#[derive(Debug, Default)]
pub struct Auditor {
    told: Told,
    /// What a checkpoint that was begun has still to restate, last first; `None` where that cannot be told.
    to_restate: Option<Vec<Draft>>,
    /// Something is missing since the last whole checkpoint.
    is_doubtful: bool,
    /// A checkpoint was begun since then.
    is_restated: bool,
    begun: bool,
}

impl Auditor {
    /// All that was told so far.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Takes in the next entry.
    ///
    /// # Errors
    /// The law that it breaks. It is taken in all the same.
    pub fn add(&mut self, entry: &History) -> Result<(), Breach> {
        match entry {
            History::Record(record) => self.record(record),
            History::Gap(gap) => {
                self.gap(*gap);
                Ok(())
            }
        }
    }

    /// Takes in the next entry, which is a gap: it breaks no law.
    pub fn gap(&mut self, gap: Gap) {
        (self.is_doubtful, self.is_restated) = (true, false);
        self.to_restate = None;
        self.begun = true;
        self.told.gap(gap);
    }

    /// Takes in the next entry, which is a record.
    ///
    /// # Errors
    /// As [`Auditor::add`].
    pub fn record(&mut self, record: &Record) -> Result<(), Breach> {
        self.begin(record.lsn);
        let judged = match self.to_restate.take() {
            Some(left) => self.restating(left, record),
            None => self.ordinary(record),
        };
        self.begun = true;
        self.told.record(record);
        judged
    }

    /// What came before the first record that is left is not known.
    fn begin(&mut self, first: Lsn) {
        if !self.begun && first > Lsn::FIRST {
            self.is_doubtful = true;
            let last = Lsn(first.0 - 1);
            self.told.gap(Gap {
                first: Lsn::FIRST,
                last,
            });
        }
    }

    fn ordinary(&mut self, record: &Record) -> Result<(), Breach> {
        match &record.body {
            RecordBody::CheckpointBegun(_) if !self.is_doubtful => {
                let mut drafts = self.told.restated(record.lsn);
                drafts.reverse();
                self.to_restate = Some(drafts);
                Ok(())
            }
            RecordBody::CheckpointBegun(_) => {
                self.is_restated = true;
                Ok(())
            }
            RecordBody::CheckpointEnded(_) => {
                self.is_doubtful &= !self.is_restated;
                Ok(())
            }
            _ => judge(&self.told, record),
        }
    }

    /// A record of a checkpoint, of which so much is left.
    fn restating(&mut self, mut left: Vec<Draft>, record: &Record) -> Result<(), Breach> {
        match (&record.body, left.pop()) {
            (RecordBody::CheckpointEnded(_), None) => Ok(()),
            (RecordBody::CheckpointEnded(_), Some(_)) => breach(
                Law::Checkpoint,
                "it leaves out what the records before it tell",
            ),
            // The one before was cut short by a crash.
            (RecordBody::CheckpointBegun(_), _) => self.ordinary(record),
            (body, Some(draft)) if draft.domain == record.domain && draft.body == *body => {
                self.to_restate = Some(left);
                Ok(())
            }
            // Checkpoints that were written before there was such a record: less may be continued after them.
            (_, Some(draft)) if matches!(draft.body, RecordBody::GuestSent(_)) => {
                self.restating(left, record)
            }
            (_, _) => breach(
                Law::Checkpoint,
                "it restates otherwise than the records before it tell",
            ),
        }
    }
}

fn breach<T>(law: Law, how: impl Into<String>) -> Result<T, Breach> {
    let how = how.into();
    Err(Breach { law, how })
}

/// Judges a record by all that was told before it.
///
/// # Errors
/// The law that it breaks.
pub fn judge(told: &Told, record: &Record) -> Result<(), Breach> {
    let Some(domain) = record.domain else {
        return Ok(());
    };
    // What is lost may have said what is missing here.
    if told.is_doubtful(domain) {
        return Ok(());
    }
    match &record.body {
        // Its registration was lost: it is taken up with the job that is open.
        RecordBody::DomainAdded(state) if state.damaged && !told.is_registered(domain) => Ok(()),
        RecordBody::DomainAdded(_) | RecordBody::DomainRemoved => no_open_job(told, domain),
        RecordBody::JobBegun(begun) => job_begun(told, domain, begun),
        RecordBody::PhaseEntered(entered) => {
            phase_entered(open_state(told, entered.job)?, entered.phase)
        }
        RecordBody::EffectIntended(intended) => effect_intended(told, domain, intended),
        RecordBody::EffectFinished(finished) => match told.is_in_flight(domain, finished.effect) {
            true => Ok(()),
            false => breach(
                Law::WriteAhead,
                format!(
                    "the result of effect {}, whose intent is not open",
                    finished.effect
                ),
            ),
        },
        RecordBody::Decided(decided) => decision(told, record.lsn, decided),
        RecordBody::OperatorResolved(resolved) => open_job(told, resolved.job),
        RecordBody::JobEnded(ended) => open_job(told, ended.job),
        RecordBody::JobPhaseEntered(entered) => match told.other_job(entered.job) {
            None => breach(
                Law::Job,
                format!("of job {}, which is not open", entered.job),
            ),
            Some(state) => job_phase_entered(state, entered.phase),
        },
        RecordBody::JobDecided(decided) => job_decision(told, record.lsn, decided),
        RecordBody::MigrationGranted(granted) => {
            let cookie = &granted.cookie;
            let Some(state) = told.migration(cookie.migration) else {
                return unknown_migration();
            };
            if state.terms.role != Role::Source || state.terms.protocol != Protocol::V3 {
                return breach(Law::Fact, "granted by a side that grants nothing");
            }
            if state.terms.nonce != Some(cookie.nonce) {
                return breach(Law::Fact, "granted with a nonce that was not prepared");
            }
            if state.abandoned {
                return breach(Law::Fact, "granted after it was abandoned");
            }
            settled_disks(told, state, "granted")
        }
        RecordBody::MigrationAbandoned(abandoned) => match told.migration(abandoned.migration) {
            None => unknown_migration(),
            Some(state) if state.terms.role != Role::Source => {
                breach(Law::Fact, "abandoned by the destination")
            }
            Some(state)
                if is_between_the_sides(state) && (state.granted.is_some() || state.committed) =>
            {
                breach(Law::Fact, "abandoned after the licence went out")
            }
            Some(_) => Ok(()),
        },
        RecordBody::MigrationCommitted(committed) => match told.migration(committed.migration) {
            None => unknown_migration(),
            Some(state) => self::committed(state, committed)
                .and_then(|()| settled_disks(told, state, "committed")),
        },
        RecordBody::MigrationStarted(named) => match told.migration(named.migration) {
            None => unknown_migration(),
            Some(state) if state.terms.role != Role::Destination => {
                breach(Law::Fact, "started by the source")
            }
            Some(state) if !is_between_the_sides(state) => Ok(()),
            Some(state) if state.aborted => breach(Law::Fact, "started after it was aborted"),
            Some(state) if !state.committed => breach(Law::Fact, "started before it was committed"),
            Some(_) => Ok(()),
        },
        RecordBody::MigrationAborted(named) => match told.migration(named.migration) {
            None => unknown_migration(),
            Some(state) => aborted(state),
        },
        RecordBody::OutcomeLearned(learned) => match told.migration(learned.migration) {
            None => unknown_migration(),
            Some(state) => outcome_learned(state, learned),
        },
        RecordBody::MigrationForgotten(named) => match told.migration(named.migration) {
            None => unknown_migration(),
            Some(state) if state.open => breach(Law::Job, "forgotten while its job is open"),
            Some(_) => Ok(()),
        },
        // They tell what was seen, heard, asked for or restated, which nothing before them rules out.
        _ => Ok(()),
    }
}

fn unknown_migration() -> Result<(), Breach> {
    breach(Law::Job, "of a migration that did not begin")
}

fn no_open_job(told: &Told, domain: DomainId) -> Result<(), Breach> {
    let migration = told.open_job_of(domain).map(|state| state.job);
    let other = || told.other_jobs().find(|(id, _)| *id == domain);
    match migration.or_else(|| other().map(|(_, state)| state.job)) {
        Some(job) => breach(Law::Job, format!("while job {job} is open")),
        None => Ok(()),
    }
}

fn job_begun(told: &Told, domain: DomainId, begun: &JobBegun) -> Result<(), Breach> {
    if !told.is_registered(domain) {
        return breach(Law::Job, "a job of a domain that is not registered");
    }
    let again = begun.migration.as_ref();
    if again.is_some_and(|terms| told.migration(terms.migration).is_some()) {
        return breach(Law::Job, "a migration that began before");
    }
    match begun.migration {
        // Jobs go beside each other as the engine lets them.
        None => Ok(()),
        Some(_) => no_open_job(told, domain),
    }
}

/// Is that job open, whatever it is?
fn open_job(told: &Told, job: Lsn) -> Result<(), Breach> {
    match told.other_job(job) {
        Some(_) => Ok(()),
        None => open_state(told, job).map(drop),
    }
}

/// Forward, or once more the same; and cancelled from anywhere.
fn job_phase_entered(state: &JobState, phase: JobPhase) -> Result<(), Breach> {
    let begins = state.begun == 0 && phase == JobPhase::first(state.kind);
    let is_cancelled = phase == JobPhase::Cancel && state.phase != JobPhase::Cancel;
    match begins || is_cancelled || may_enter(state.kind, state.phase, phase) {
        true => Ok(()),
        false => breach(
            Law::Phase,
            format!(
                "{phase} right after {} of a {} job",
                state.phase, state.kind
            ),
        ),
    }
}

fn job_decision(told: &Told, lsn: Lsn, decided: &JobDecided) -> Result<(), Breach> {
    open_job(told, decided.job)?;
    if decided.based_on.iter().any(|cited| *cited >= lsn) {
        return breach(Law::Decision, "it cites a record that came later");
    }
    match Rule::from_name(&decided.rule) {
        // Of another version of the table; or a word from outside, which follows from no evidence.
        None | Some(Rule::OperatorResolved) => Ok(()),
        Some(rule) if rule.decision() != decided.decision => {
            let how = format!("{} decides {}", decided.rule, rule.decision());
            breach(Law::Decision, how)
        }
        Some(rule) => match decide_job(&decided.evidence) {
            Some(again) if again == rule => Ok(()),
            other => breach(
                Law::Decision,
                format!(
                    "the evidence gives {}, not {}",
                    other.map_or("no rule", Rule::name),
                    decided.rule
                ),
            ),
        },
    }
}

/// The state of a job that is open.
fn open_state(told: &Told, job: Lsn) -> Result<&MigrationState, Breach> {
    match told.job(job) {
        None => breach(Law::Job, format!("of job {job}, which did not begin")),
        Some(state) if !state.open => breach(Law::Job, format!("of job {job}, which ended")),
        Some(state) => Ok(state),
    }
}

fn effect_intended(told: &Told, domain: DomainId, intended: &EffectIntended) -> Result<(), Breach> {
    let open = match intended.job {
        None => told.owner_effect(domain),
        Some(job) => {
            let in_flight = match told.other_job(job) {
                Some(state) => &state.in_flight,
                None => {
                    let state = open_state(told, job)?;
                    if intended.command == EffectCommand::MigrateContinue {
                        settled_disks(told, state, "let go over")?;
                    }
                    &state.in_flight
                }
            };
            in_flight.as_ref().map(|(intent, _)| *intent)
        }
    };
    if let Some(open) = open {
        return breach(
            Law::WriteAhead,
            format!("a second intent while the result of effect {open} is not known"),
        );
    }
    if told.instance(domain) != Some(intended.instance) {
        return breach(
            Law::WriteAhead,
            "an effect on another process than the domain's",
        );
    }
    Ok(())
}

fn decision(told: &Told, lsn: Lsn, decided: &Decided) -> Result<(), Breach> {
    open_state(told, decided.job)?;
    if decided.based_on.iter().any(|cited| *cited >= lsn) {
        return breach(Law::Decision, "it cites a record that came later");
    }
    let Some(rule) = Rule::from_name(&decided.rule) else {
        // Of another version of the table.
        return Ok(());
    };
    // A word from outside follows from no evidence.
    if matches!(rule, Rule::OperatorResolved | Rule::ManagerVerdict) {
        return Ok(());
    }
    if rule.decision() != decided.decision {
        let how = format!("{} decides {}", decided.rule, rule.decision());
        return breach(Law::Decision, how);
    }
    if decided.evidence.journal_damaged {
        // Decided over histories: `explain` makes it again from the record that it cites.
        return Ok(());
    }
    match decide(&decided.evidence) {
        Some(again) if again == rule => Ok(()),
        other => breach(
            Law::Decision,
            format!(
                "the evidence gives {}, not {}",
                other.map_or("no rule", Rule::name),
                decided.rule
            ),
        ),
    }
}

/// Source: what it sends may run only on disks whose mirrors ended with everything written.
fn settled_disks(told: &Told, state: &MigrationState, what: &str) -> Result<(), Breach> {
    let disks = told.disks(state.terms.migration);
    match state.terms.role {
        Role::Source if disks.is_some_and(|disks| !disks.settled) && !is_by_operator(state) => {
            breach(
                Law::Fact,
                format!("{what} with a copied disk that is not settled"),
            )
        }
        Role::Source | Role::Destination => Ok(()),
    }
}

/// Does one of the two sides decide, by its own journal?
fn is_between_the_sides(state: &MigrationState) -> bool {
    match state.terms.authority {
        Authority::Destination | Authority::Source => true,
        Authority::Store | Authority::Manager => false,
    }
}

fn committed(state: &MigrationState, committed: &MigrationCommitted) -> Result<(), Breach> {
    if !is_between_the_sides(state) {
        return Ok(());
    }
    if state.aborted {
        return breach(Law::Fact, "committed after it was aborted");
    }
    if state.abandoned {
        return breach(Law::Fact, "committed after it was abandoned");
    }
    if state.committed {
        return breach(Law::Fact, "committed a second time");
    }
    let Some(cookie) = &committed.cookie else {
        return Ok(());
    };
    if cookie.migration != committed.migration {
        return breach(Law::Fact, "committed with the licence of another migration");
    }
    if state.terms.nonce != Some(cookie.nonce) {
        return breach(Law::Fact, "committed with a nonce that was not prepared");
    }
    Ok(())
}

fn aborted(state: &MigrationState) -> Result<(), Breach> {
    if state.terms.role != Role::Destination {
        return breach(Law::Fact, "aborted by the source");
    }
    if !is_between_the_sides(state) {
        return Ok(());
    }
    if state.started {
        return breach(Law::Fact, "aborted after it was started");
    }
    // An operator may do what no rule does.
    let by_operator = is_by_operator(state);
    let never_ran = match state.cont {
        ContIntent::Never | ContIntent::NotSent | ContIntent::Refused => true,
        ContIntent::Unknown | ContIntent::Done => false,
    };
    if state.committed && !never_ran && !by_operator {
        return breach(Law::Fact, "aborted though its cont may have run the guest");
    }
    Ok(())
}

fn outcome_learned(state: &MigrationState, learned: &OutcomeLearned) -> Result<(), Breach> {
    if state.terms.role != Role::Source {
        return breach(Law::Fact, "an outcome is learned by the source alone");
    }
    // With force an operator may say otherwise than the evidence; the word stands right before it.
    let is_overruled = learned.position.is_none() && is_by_operator(state);
    match state.outcome {
        Some(_) if is_overruled => Ok(()),
        Some(before) if is_between_the_sides(state) && before != learned.outcome => {
            breach(Law::Fact, format!("{} after {before}", learned.outcome))
        }
        Some(_) | None => Ok(()),
    }
}

fn phase_entered(state: &MigrationState, phase: Phase) -> Result<(), Breach> {
    let terms = &state.terms;
    let (role, protocol) = (terms.role, terms.protocol);
    if !belongs(role, protocol, phase) {
        return breach(
            Law::Phase,
            format!("{phase} is no phase of a {protocol} {role}"),
        );
    }
    if is_between_the_sides(state) && !is_by_operator(state) && !follows(state.phase, phase) {
        return breach(Law::Phase, format!("{phase} after {}", state.phase));
    }
    Ok(())
}

/// Was the last decision an operator's word?
fn is_by_operator(state: &MigrationState) -> bool {
    state.last_rule.as_deref() == Some(Rule::OperatorResolved.name())
}

/// Is this a phase of that side of that protocol?
fn belongs(role: Role, protocol: Protocol, phase: Phase) -> bool {
    let (of_role, of_protocol) = match phase {
        Phase::Begin3
        | Phase::Perform3
        | Phase::Perform3Done
        | Phase::Confirm3
        | Phase::Confirm3Cancelled
        | Phase::BeginResume
        | Phase::PerformResume
        | Phase::ConfirmResume => (Some(Role::Source), Protocol::V3),
        Phase::Perform2 => (Some(Role::Source), Protocol::V2),
        // Of both protocols; nothing enters it, since the destination's job begins with it.
        Phase::Prepare => (Some(Role::Destination), protocol),
        Phase::Finish2 => (Some(Role::Destination), Protocol::V2),
        Phase::Finish3 | Phase::PrepareResume | Phase::FinishResume => {
            (Some(Role::Destination), Protocol::V3)
        }
        Phase::PostcopyFailed => (None, Protocol::V3),
    };
    of_role.is_none_or(|of_role| of_role == role) && of_protocol == protocol
}

/// May that phase come right after this one?
fn follows(before: Phase, after: Phase) -> bool {
    let may_follow: &[Phase] = match before {
        Phase::Begin3 => &[Phase::Perform3],
        Phase::Perform3 => &[Phase::Perform3Done],
        Phase::Perform3Done => &[
            Phase::Confirm3,
            Phase::Confirm3Cancelled,
            Phase::PostcopyFailed,
        ],
        Phase::Prepare => &[Phase::Finish2, Phase::Finish3, Phase::PostcopyFailed],
        Phase::Finish3 | Phase::FinishResume => &[Phase::PostcopyFailed],
        Phase::PostcopyFailed => &[
            Phase::BeginResume,
            Phase::ConfirmResume,
            Phase::Confirm3Cancelled,
            Phase::PrepareResume,
            Phase::FinishResume,
        ],
        Phase::BeginResume => &[
            Phase::PerformResume,
            Phase::ConfirmResume,
            Phase::PostcopyFailed,
        ],
        Phase::PerformResume => &[Phase::ConfirmResume, Phase::PostcopyFailed],
        Phase::PrepareResume => &[Phase::FinishResume, Phase::PostcopyFailed],
        Phase::Confirm3Cancelled => &[Phase::PostcopyFailed],
        Phase::Perform2 | Phase::Finish2 | Phase::Confirm3 | Phase::ConfirmResume => &[],
    };
    may_follow.contains(&after)
}
