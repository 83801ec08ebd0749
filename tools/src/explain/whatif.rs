//! What a restart would have decided: the journal up to a record, a look at QEMU, a word of the other side.
//!
//! The engine itself is started from the records, as after a crash; it is shown the look and told the word that
//! are supposed, until it would do something to QEMU, ends the job, or waits.
//! Invariant: nothing but the engine decides; nothing is written. Only whole batches can survive a crash.
//! Not here: how a decision is shown (`explain`).

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use journal_format::number::{
    BootId, DomainId, Epoch, Id128, JournalId, Lsn, MigrationId, Nonce, OpeningId, Position,
};
use journal_format::record::{
    Authority, ClaimSeen, Cookie, Decided, Decoded, KeyValue, MigrationHistories, MigrationState,
    MigrationStatus, MigrationTerms, Observed, PeerAnswer, Process, RecordBody, Role, RunState,
    StoreAnswer,
};
use phase_journal::engine::{
    Config, Engine, Envelope, Gap, Input, Message, Now, PeerFailure, PeerRequest, PeerResponse,
    Step, StoreFailure, StoreResult, TICK_INTERVAL_MS, Told,
};

use super::otherwise::without_answer;
use super::{Asked, CITED_MAX, Citable};
use crate::error::ToolError;
use crate::past::{Item, Past, Recorded};
use crate::words;

/// Ticks that the engine is given to come to a decision: longer than any of its own waits.
const TICKS_MAX: u64 = 1_200;
/// Steps of the engine in one supposition, at the most.
const STEPS_MAX: usize = 100_000;
const MS: u64 = 1_000_000;

/// QEMU as it is supposed to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    process: Option<Process>,
    run_state: Option<RunState>,
    migration: Option<MigrationStatus>,
}

impl Look {
    /// Reads `--observe`: a process's state, or a run state and a migration status.
    pub(crate) fn parse(text: &str) -> Result<Look, String> {
        let mut look = Look::default();
        for word in text.split(',').map(str::trim) {
            let process = Process::from_name(word);
            let run_state = RunState::KNOWN.iter().find(|state| state.name() == word);
            let status = MigrationStatus::KNOWN
                .iter()
                .find(|status| status.name() == word);
            match (process, run_state, status) {
                (Some(process), _, _) if look.process.is_none() => look.process = Some(process),
                (_, Some(state), _) if look.run_state.is_none() => {
                    look.run_state = Some(state.clone());
                }
                (_, _, Some(status)) if look.migration.is_none() => {
                    look.migration = Some(status.clone());
                }
                (None, None, None) => {
                    return Err(format!("there is no state '{word}'; {}", good_looks()));
                }
                _ => return Err(format!("'{text}' says the same thing twice")),
            }
        }
        let answers = look.run_state.is_some() || look.migration.is_some();
        match look.process {
            Some(process) if process != Process::Alive && answers => Err(format!(
                "a QEMU that is {process} shows no run state and no migration"
            )),
            _ => Ok(look),
        }
    }

    /// What is seen, where nothing else is said as it was last.
    pub(crate) fn observed(&self, last: Option<&Observed>, claim: ClaimSeen) -> Option<Observed> {
        let nothing = Observed {
            process: Process::Alive,
            instance: last.and_then(|last| last.instance),
            run_state: None,
            migration: None,
            claim,
        };
        let base = match last {
            Some(last) if last.process == Process::Alive => last,
            Some(_) | None => &nothing,
        };
        match self.process {
            None if *self == Look::default() => last.cloned(),
            Some(process) if process != Process::Alive => Some(without_answer(base, process)),
            Some(_) | None => Some(Observed {
                run_state: self.run_state.clone().or(base.run_state.clone()),
                migration: self.migration.clone().or(base.migration.clone()),
                ..base.clone()
            }),
        }
    }
}

fn good_looks() -> String {
    let names = |names: Vec<&str>| names.join(", ");
    format!(
        "give a process ({}), or a run state ({}) and a migration status ({}), joined by a comma",
        names(Process::ALL.iter().map(|word| word.name()).collect()),
        names(RunState::KNOWN.iter().map(RunState::name).collect()),
        names(
            MigrationStatus::KNOWN
                .iter()
                .map(MigrationStatus::name)
                .collect()
        )
    )
}

/// What the other side is supposed to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// One of the engine's words.
    Answer(PeerAnswer),
    /// It has decided for the destination.
    Committed,
    /// It has decided for the source.
    Aborted,
    /// It has not decided.
    Undecided,
}

impl Word {
    /// Reads `--peer`.
    pub(crate) fn parse(text: &str) -> Result<Word, String> {
        match text {
            "committed" => Ok(Word::Committed),
            "aborted" => Ok(Word::Aborted),
            "undecided" => Ok(Word::Undecided),
            _ => PeerAnswer::from_name(text).map(Word::Answer).ok_or_else(|| {
                let words: Vec<&str> = PeerAnswer::ALL
                    .iter()
                    .map(|word| word.name())
                    .filter(|word| !["aborted", "committed"].contains(word))
                    .collect();
                format!(
                    "the other side never says '{text}'; it says committed, aborted, undecided, or in the engine's words {}",
                    words.join(", ")
                )
            }),
        }
    }

    /// What the other side says to one that has these terms.
    fn answer(self, terms: &MigrationTerms) -> PeerAnswer {
        match (self, terms.role) {
            (Word::Answer(answer), _) => answer,
            (Word::Committed, Role::Source) => PeerAnswer::Started,
            (Word::Committed, Role::Destination) => match terms.authority {
                Authority::Manager => PeerAnswer::Committed,
                Authority::Destination | Authority::Source | Authority::Store => {
                    PeerAnswer::Granted
                }
            },
            (Word::Aborted, Role::Source) => PeerAnswer::Aborted,
            (Word::Aborted, Role::Destination) => PeerAnswer::Abandoned,
            (Word::Undecided, Role::Source) => PeerAnswer::Deciding,
            (Word::Undecided, Role::Destination) => PeerAnswer::Performing,
        }
    }
}

/// What is supposed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Supposed {
    /// The crash is after the batch of this record; else at the journal's end.
    pub(crate) at: Option<Lsn>,
    pub(crate) look: Look,
    pub(crate) word: Option<Word>,
    /// What the key in the store says.
    pub(crate) store: Option<StoreAnswer>,
}

/// What a restart would come to.
#[derive(Debug)]
pub(crate) struct Restart {
    /// The last record that survives.
    pub(crate) last: Lsn,
    pub(crate) jobs: Vec<Job>,
    /// The journal is damaged before that record.
    pub(crate) damaged: bool,
}

/// What would be done about an open job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) job: Lsn,
    pub(crate) name: String,
    pub(crate) decisions: Vec<(Decided, Option<MigrationHistories>)>,
    /// The first thing that would be done to QEMU.
    pub(crate) effect: Option<String>,
    pub(crate) ended: Option<String>,
    /// Nothing is known of QEMU, and nothing was supposed.
    pub(crate) unseen: bool,
}

/// What the journal's records tell that the engine does not say again.
struct Read {
    told: Told,
    last: Option<(Lsn, BootId, Epoch)>,
    wall: u64,
    monotonic: u64,
    journal: Option<JournalId>,
    damaged: bool,
    names: BTreeMap<DomainId, String>,
    open: BTreeMap<Lsn, DomainId>,
    seen: BTreeMap<DomainId, Observed>,
    claims: BTreeMap<DomainId, ClaimSeen>,
    terms: BTreeMap<MigrationId, MigrationTerms>,
    positions: BTreeMap<MigrationId, Position>,
    cited: Citable,
    /// A record is of what was asked for.
    is_known: bool,
}

/// Restarts from a journal, and supposes.
pub(crate) fn restart(
    directory: &Path,
    supposed: &Supposed,
    asked: Asked<'_>,
) -> Result<(Restart, BTreeMap<Lsn, Recorded>), ToolError> {
    let mut read = read(directory, supposed.at, asked)?;
    let Some((last, _, _)) = read.last else {
        return Err(ToolError::Argument(match supposed.at {
            Some(at) => format!("the journal has no record {at}, nor one before it"),
            None => "the journal has no record".to_owned(),
        }));
    };
    if let Some(at) = supposed.at.filter(|at| *at > last) {
        return Err(ToolError::Argument(format!(
            "there is no record {at}: the journal ends with record {last}"
        )));
    }
    if let Some(error) = asked.not_found().filter(|_| !read.is_known) {
        return Err(error);
    }
    let jobs: BTreeMap<Lsn, Job> = read
        .open
        .iter()
        .map(|(job, domain)| (*job, *domain, read.names.get(domain).cloned()))
        .filter(|(job, domain, name)| asked.is(*job, Some(*domain), name.as_deref()))
        .map(|(job, domain, name)| {
            let unseen = supposed.look == Look::default() && !read.seen.contains_key(&domain);
            let job = Job {
                job,
                name: name.unwrap_or_else(|| "-".to_owned()),
                decisions: Vec::new(),
                effect: None,
                ended: None,
                unseen,
            };
            (job.job, job)
        })
        .collect();
    let damaged = read.damaged;
    let cited = std::mem::replace(&mut read.cited, Citable::new(0)).into_records();
    let mut stage = Stage::new(read, supposed, jobs);
    stage.run();
    let jobs = stage.jobs.into_values().collect();
    Ok((
        Restart {
            last,
            jobs,
            damaged,
        },
        cited,
    ))
}

fn read(directory: &Path, at: Option<Lsn>, asked: Asked<'_>) -> Result<Read, ToolError> {
    let past = Past::open(directory)?;
    let mut read = Read {
        journal: past
            .segments()
            .iter()
            .find_map(|file| file.header.as_ref().ok().map(|head| head.journal)),
        told: Told::default(),
        last: None,
        wall: 0,
        monotonic: 0,
        damaged: false,
        names: BTreeMap::new(),
        open: BTreeMap::new(),
        seen: BTreeMap::new(),
        claims: BTreeMap::new(),
        terms: BTreeMap::new(),
        positions: BTreeMap::new(),
        cited: Citable::new(CITED_MAX),
        is_known: false,
    };
    let mut batch: Option<Lsn> = None;
    past.read(|item| {
        match item {
            Item::Batch(..) => {}
            Item::Gap(gap) => {
                if at.is_none_or(|at| gap.first <= at) {
                    read.damaged = true;
                    read.told.gap(Gap {
                        first: gap.first,
                        last: gap.last,
                    });
                }
            }
            Item::Record(recorded) => {
                let within = at.is_none_or(|at| recorded.record.lsn() <= at);
                if within || batch == Some(recorded.batch.first) {
                    batch = Some(recorded.batch.first);
                    read.is_known |= recorded.job.is_some_and(|job| {
                        asked.is(job, recorded.record.domain(), recorded.name.as_deref())
                    });
                    read.take(&recorded);
                }
            }
        }
        Ok(())
    })?;
    Ok(read)
}

impl Read {
    fn take(&mut self, recorded: &Recorded) {
        let batch = &recorded.batch;
        self.last = Some((recorded.record.lsn(), batch.boot, batch.epoch));
        (self.wall, self.monotonic) = (batch.wall, batch.monotonic);
        let Decoded::Known(record) = &recorded.record else {
            return;
        };
        self.told.record(record);
        let Some(domain) = record.domain else { return };
        self.cited.see(recorded);
        match &record.body {
            RecordBody::DomainAdded(state) | RecordBody::DomainState(state) => {
                self.names.insert(domain, state.name.clone());
                if let Some(claim) = state.claim {
                    self.claims.insert(domain, ClaimSeen::Present(claim));
                }
            }
            RecordBody::JobBegun(begun) => {
                self.open.insert(record.lsn, domain);
                self.seen.remove(&domain);
                if let Some(terms) = &begun.migration {
                    self.terms.insert(terms.migration, terms.clone());
                }
            }
            RecordBody::MigrationState(state) => self.restate(domain, state),
            RecordBody::EffectIntended(intended) => {
                if let journal_format::record::EffectCommand::Claim(claim) = &intended.command {
                    self.claims.insert(domain, ClaimSeen::Present(*claim));
                }
            }
            RecordBody::QemuObserved(seen) => drop(self.seen.insert(domain, seen.observed.clone())),
            RecordBody::PeerPrepared(prepared) => {
                self.positions.insert(prepared.migration, prepared.position);
                if let Some(terms) = self.terms.get_mut(&prepared.migration) {
                    terms.nonce = Some(prepared.nonce);
                }
            }
            RecordBody::PeerHeard(heard) => {
                if let Some(position) = heard.position {
                    self.positions.insert(heard.migration, position);
                }
            }
            RecordBody::OutcomeLearned(learned) => {
                if let Some(position) = learned.position {
                    self.positions.insert(learned.migration, position);
                }
            }
            RecordBody::JobEnded(ended) => {
                self.open.remove(&ended.job);
            }
            RecordBody::MigrationForgotten(named) => {
                self.terms.remove(&named.migration);
                self.positions.remove(&named.migration);
            }
            _ => {}
        }
    }

    fn restate(&mut self, domain: DomainId, state: &MigrationState) {
        let migration = state.terms.migration;
        self.terms.insert(migration, state.terms.clone());
        if let Some(position) = state.peer_position {
            self.positions.insert(migration, position);
        }
        if state.open {
            self.open.insert(state.job, domain);
        }
    }
}

/// The engine, and what it is shown and told.
struct Stage<'a> {
    engine: Engine,
    read: Read,
    supposed: &'a Supposed,
    jobs: BTreeMap<Lsn, Job>,
    histories: BTreeMap<Lsn, MigrationHistories>,
    waits: VecDeque<Input>,
    now: Now,
    steps: usize,
}

impl<'a> Stage<'a> {
    fn new(mut read: Read, supposed: &'a Supposed, jobs: BTreeMap<Lsn, Job>) -> Stage<'a> {
        let (last, boot, epoch) = read.last.unwrap_or((Lsn(0), BootId(Id128::NIL), Epoch(0)));
        let config = Config {
            journal: read.journal.unwrap_or(JournalId(Id128::NIL)),
            epoch: epoch.next().unwrap_or(epoch),
            opening: OpeningId(Id128::NIL),
            openings: Vec::new(),
            next: last.next().unwrap_or(last),
            boot,
            peer: String::new(),
            store: read.terms.values().find_map(|terms| terms.store.clone()),
        };
        read.told.forget_decisions();
        let now = Now {
            wall: read.wall,
            monotonic: read.monotonic,
        };
        Stage {
            engine: Engine::resume(config, std::mem::take(&mut read.told)),
            read,
            supposed,
            jobs,
            histories: BTreeMap::new(),
            waits: VecDeque::new(),
            now,
            steps: 0,
        }
    }

    fn run(&mut self) {
        let _ = self.engine.checkpoint();
        let step = self.engine.start(self.now);
        self.carry_out(step);
        for _ in 0..TICKS_MAX {
            while let Some(input) = self.waits.pop_front() {
                self.steps += 1;
                if self.steps > STEPS_MAX {
                    return;
                }
                let step = self.engine.step(self.now, input);
                self.carry_out(step);
            }
            if self
                .jobs
                .values()
                .all(|job| job.effect.is_some() || job.ended.is_some())
            {
                return;
            }
            self.now.wall += TICK_INTERVAL_MS * MS;
            self.now.monotonic += TICK_INTERVAL_MS * MS;
            self.waits.push_back(Input::Tick);
        }
    }

    fn carry_out(&mut self, step: Step) {
        for draft in step.append {
            self.note(draft.body);
        }
        // Effects get no answer: what QEMU shows after one is not supposed any more.
        for message in step.messages {
            match message {
                Message::Look { domain } | Message::Watch { domain, .. } => {
                    if let Some(observed) = self.observed(domain) {
                        self.waits.push_back(Input::Looked { domain, observed });
                    }
                }
                Message::Ask {
                    envelope, request, ..
                } => {
                    if let Some(input) = self.answer(envelope, &request) {
                        self.waits.push_back(input);
                    }
                }
                Message::Store { migration, .. } => {
                    if let Some(result) = self.key(migration) {
                        self.waits
                            .push_back(Input::StoreAnswered { migration, result });
                    }
                }
                Message::Reply { .. }
                | Message::PeerReply { .. }
                | Message::Find { .. }
                | Message::Found { .. }
                | Message::LookAtJob { .. }
                // Nothing new begins.
                | Message::LookAtSettings { .. }
                | Message::Admitted { .. }
                | Message::Unwatch { .. }
                | Message::Notify(_)
                | Message::Ready => {}
            }
        }
    }

    fn note(&mut self, body: RecordBody) {
        match body {
            RecordBody::MigrationHistories(restated) => {
                self.histories.insert(restated.job, restated);
            }
            RecordBody::Decided(decided) => {
                let histories = self.histories.get(&decided.job);
                let histories = histories
                    .filter(|_| decided.evidence.journal_damaged)
                    .cloned();
                if let Some(job) = self.jobs.get_mut(&decided.job) {
                    job.decisions.push((*decided, histories));
                }
            }
            RecordBody::EffectIntended(intended) => {
                if let Some(job) = intended.job.and_then(|job| self.jobs.get_mut(&job)) {
                    let said = words::body(&RecordBody::EffectIntended(intended));
                    job.effect.get_or_insert(said);
                }
            }
            RecordBody::JobEnded(ended) => {
                if let Some(job) = self.jobs.get_mut(&ended.job) {
                    job.ended = Some(format!("{}: {}", ended.result, ended.detail));
                }
            }
            _ => {}
        }
    }

    fn observed(&self, domain: DomainId) -> Option<Observed> {
        let claim = self.read.claims.get(&domain).cloned();
        self.supposed.look.observed(
            self.read.seen.get(&domain),
            claim.unwrap_or(ClaimSeen::Absent),
        )
    }

    /// What the key in the store says; nothing if nothing is supposed.
    fn key(&self, migration: MigrationId) -> Option<StoreResult> {
        let terms = self.read.terms.get(&migration)?;
        let committed = |nonce: Nonce| {
            let own = self.read.journal.unwrap_or(JournalId(Id128::NIL));
            Ok(Some(KeyValue::Committed {
                journal: own,
                nonce,
            }))
        };
        match self.supposed.store? {
            StoreAnswer::NotRead => None,
            StoreAnswer::Unreachable => Some(Err(StoreFailure("supposed".to_owned()))),
            StoreAnswer::Absent | StoreAnswer::Older => Some(Ok(None)),
            StoreAnswer::Started => Some(Ok(Some(KeyValue::Started))),
            StoreAnswer::Aborted => Some(Ok(Some(KeyValue::Aborted))),
            StoreAnswer::Committed => terms.nonce.map(committed),
            // No prepare ever made this one.
            StoreAnswer::Foreign => Some(committed(Nonce(Id128::NIL))),
        }
    }

    /// What the other side says to that; nothing if nothing is supposed.
    fn answer(&self, envelope: Envelope, request: &PeerRequest) -> Option<Input> {
        let word = self.supposed.word?;
        let migration = request.migration();
        let terms = self.read.terms.get(&migration)?;
        let answer = word.answer(terms);
        if matches!(answer, PeerAnswer::Unreachable | PeerAnswer::NotAsked) {
            let failure = PeerFailure::Unreachable("supposed".to_owned());
            return (answer == PeerAnswer::Unreachable).then_some(Input::PeerAnswered {
                migration,
                result: Err(failure),
            });
        }
        let unknown = Position {
            journal: JournalId(Id128::NIL),
            epoch: Epoch::FIRST,
            opening: OpeningId(Id128::NIL),
            lsn: Lsn::FIRST,
        };
        let sender = self
            .read
            .positions
            .get(&migration)
            .copied()
            .unwrap_or(unknown);
        let licence = matches!(
            answer,
            PeerAnswer::Granted
                | PeerAnswer::GrantedAndSafe
                | PeerAnswer::Deciding
                | PeerAnswer::Committed
        );
        let cookie = terms.nonce.filter(|_| licence).map(|nonce| Cookie {
            migration,
            nonce,
            granted: sender,
            authority: terms.authority,
            wanted: journal_format::record::WantedRunState::Running,
        });
        let said = Envelope {
            sender,
            saw: Some(envelope.sender),
        };
        let result = Ok((said, PeerResponse::Answer { answer, cookie }));
        Some(Input::PeerAnswered { migration, result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks() {
        let look = Look::parse("postmigrate,completed").unwrap();
        assert_eq!(look.run_state, Some(RunState::Postmigrate));
        assert_eq!(look.migration, Some(MigrationStatus::Completed));
        assert_eq!(Look::parse("dead").unwrap().process, Some(Process::Dead));
        // A word of both: first the run state.
        let both = Look::parse("colo, colo").unwrap();
        assert_eq!(both.migration, Some(MigrationStatus::Colo));
        assert!(Look::parse("alive,running").is_ok());
    }

    #[test]
    fn looks_that_are_none() {
        let why = Look::parse("asleep").unwrap_err();
        assert!(
            why.contains("asleep") && why.contains("postmigrate") && why.contains("mute"),
            "{why}"
        );
        for bad in [
            "",
            "running,paused",
            "dead,running",
            "dead,alive",
            "completed,failed",
        ] {
            assert!(Look::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_that_are_none() {
        for good in ["committed", "aborted", "undecided", "whole", "amnesia"] {
            assert!(Word::parse(good).is_ok(), "{good}");
        }
        let why = Word::parse("yes").unwrap_err();
        assert!(
            why.contains("undecided") && why.contains("amnesia"),
            "{why}"
        );
    }
}
