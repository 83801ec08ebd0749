//! One engine with its journal in memory: opened, stepped, judged, crashed and opened again.
//! Not here: what it is told (`engine`, `control`, `peer`).

use std::collections::BTreeSet;

use journal_format::batch::{BatchBuilder, BatchHeader};
use journal_format::number::{
    BootId, Chain, DomainId, Epoch, Id128, Lsn, MigrationId, OpeningId, Salt, SegmentNumber,
};
use journal_format::record::{Draft, Effect, Opening, Record, RecordBody};
use phase_journal::engine::{
    Answer, Config, Engine, Gap, History, Input, Message, Now, PeerRequest, Step, TICK_INTERVAL_MS,
    Token,
};

use super::bytes::Bytes;
use super::inputs::{self, BOOTS, HERE, Surroundings};
use super::rules::Judge;

/// From an opening to the next crash.
pub(super) struct Life {
    pub(super) engine: Engine,
    pub(super) ready: bool,
    /// Callers that wait for an answer.
    pub(super) waiting: BTreeSet<Token>,
    pub(super) asks: Vec<PeerRequest>,
    pub(super) looks: Vec<DomainId>,
    /// Looks at what jobs left, to be answered.
    pub(super) job_looks: Vec<DomainId>,
    /// The last job that a manager began.
    pub(super) last_job: Option<Lsn>,
    pub(super) keys: Vec<MigrationId>,
    pub(super) effects: Vec<Effect>,
}

/// What outlives a crash: the journal, and what is around it.
pub(super) struct Harness {
    pub(super) history: Vec<History>,
    pub(super) openings: Vec<Opening>,
    pub(super) judge: Judge,
    pub(super) next: Lsn,
    pub(super) epoch: u32,
    pub(super) milliseconds: u64,
    pub(super) tokens: u64,
    pub(super) around: Surroundings,
    pub(super) types: BTreeSet<&'static str>,
    /// The crash that comes damages the journal.
    pub(super) damaging: bool,
}

impl Harness {
    /// An empty journal.
    pub(super) fn new() -> Harness {
        Harness {
            history: Vec::new(),
            openings: Vec::new(),
            judge: Judge::default(),
            next: Lsn(1),
            epoch: 0,
            milliseconds: 1_000,
            tokens: 0,
            around: Surroundings::default(),
            types: BTreeSet::new(),
            damaging: false,
        }
    }

    /// Tells the engine something, and makes durable and judges what follows.
    pub(super) fn step(&mut self, life: &mut Life, input: Input) {
        let step = life.engine.step(self.now(), input);
        self.carry_out(life, step);
    }

    /// Time passes, in ticks of the engine's.
    pub(super) fn tick(&mut self, life: &mut Life, ticks: u64) {
        self.milliseconds += TICK_INTERVAL_MS * ticks;
        self.step(life, Input::Tick);
    }

    pub(super) fn now(&self) -> Now {
        let nanoseconds = self.milliseconds * 1_000_000;
        Now {
            wall: nanoseconds,
            monotonic: nanoseconds,
        }
    }

    /// The engine that the journal gives. A second one from the same records says the same.
    pub(super) fn open(&mut self) -> Life {
        self.epoch += 1;
        let config = Config {
            journal: HERE,
            epoch: Epoch(self.epoch),
            opening: OpeningId(Id128([self.epoch.to_le_bytes()[0]; 16])),
            openings: self.openings.clone(),
            next: self.next,
            boot: BootId(BOOTS[0]),
            peer: "here".to_owned(),
            store: Some("store".to_owned()),
        };
        let mut engine = Engine::open(config.clone(), &self.history);
        let checkpoint = engine.checkpoint();
        let again = Engine::open(config.clone(), &self.history).checkpoint();
        assert_eq!(checkpoint, again);
        // The checkpoint alone says as much as the history before it.
        let before = self.history.len();
        self.write(&checkpoint);
        let alone = Engine::open(config.clone(), &self.history[before..]).checkpoint();
        let whole = Engine::open(config, &self.history).checkpoint();
        assert_eq!(alone, whole);
        let mut life = Life {
            engine,
            ready: false,
            waiting: BTreeSet::new(),
            asks: Vec::new(),
            looks: Vec::new(),
            job_looks: Vec::new(),
            last_job: None,
            keys: Vec::new(),
            effects: Vec::new(),
        };
        let step = life.engine.start(self.now());
        self.carry_out(&mut life, step);
        life
    }

    /// Perhaps the last records cannot be read any more.
    pub(super) fn damage(&mut self, choices: &mut Bytes<'_>) {
        if !core::mem::take(&mut self.damaging) {
            return;
        }
        let lost = 1 + choices.number() % 64;
        let kept = self.history.len().saturating_sub(lost);
        let first = match self.history.get(kept) {
            Some(History::Record(record)) => record.lsn,
            Some(History::Gap(gap)) => gap.first,
            None => return,
        };
        self.history.truncate(kept);
        let last = Lsn(self.next.0 - 1);
        self.history.push(History::Gap(Gap { first, last }));
        self.judge.damage();
    }

    /// Makes drafts durable: each fits into a batch, and into the judge's picture.
    fn write(&mut self, drafts: &[Draft]) {
        for draft in drafts {
            let header = BatchHeader {
                first: self.next,
                records: 0,
                length: 0,
                epoch: Epoch(self.epoch),
                chain: Chain(0),
                boot: BootId(BOOTS[0]),
                wall: 0,
                monotonic: 0,
                segment: SegmentNumber(1),
                offset: 4096,
                content: 0,
            };
            BatchBuilder::new(Salt([0; 16]), header)
                .push(draft, None)
                .expect("whatever the engine writes fits into a record");
            let record = Record {
                lsn: self.next,
                domain: draft.domain,
                previous: None,
                body: draft.body.clone(),
            };
            if let RecordBody::CheckpointBegun(begun) = &record.body {
                self.openings.clone_from(&begun.openings);
            }
            self.types.insert(record.body.type_name());
            self.judge.record(&record);
            self.history.push(History::Record(record));
            self.next = Lsn(self.next.0 + 1);
        }
    }

    pub(super) fn carry_out(&mut self, life: &mut Life, step: Step) {
        self.write(&step.append);
        assert_eq!(life.engine.next_lsn(), self.next);
        for effect in &step.effects {
            self.judge.effect(effect);
            life.effects.push(effect.clone());
        }
        let mut settings_looks = Vec::new();
        for message in step.messages {
            if let Message::Reply {
                result: Ok(Answer::JobBegun { job }),
                ..
            } = &message
            {
                life.last_job = Some(*job);
            }
            match message {
                Message::Reply { token, .. }
                | Message::PeerReply { token, .. }
                | Message::Admitted { token, .. } => {
                    assert!(life.waiting.remove(&token), "{token:?} has its answer");
                }
                Message::Ask { request, .. } => life.asks.push(request),
                Message::Look { domain } => life.looks.push(domain),
                Message::Store { migration, .. } => life.keys.push(migration),
                Message::Ready => {
                    assert!(!life.ready, "ready twice");
                    life.ready = true;
                }
                Message::LookAtJob { domain } => life.job_looks.push(domain),
                Message::LookAtSettings { domain } => settings_looks.push(domain),
                Message::Watch { .. }
                | Message::Unwatch { .. }
                | Message::Notify(_)
                | Message::Find { .. }
                | Message::Found { .. } => {}
            }
        }
        // At once: no choice of its own, the corpus was found without it.
        for domain in settings_looks {
            let seen = Some(inputs::settings());
            self.step(life, Input::SettingsLooked { domain, seen });
        }
    }

    pub(super) fn token(&mut self, life: &mut Life) -> Token {
        self.tokens += 1;
        life.waiting.insert(Token(self.tokens));
        Token(self.tokens)
    }
}
