//! An engine that is told anything at any moment, and crashes between any two inputs.

use std::collections::BTreeSet;

use journal_format::batch::{BatchBuilder, BatchHeader};
use journal_format::number::{
    BootId, Chain, DomainId, Epoch, Id128, Lsn, MigrationId, OpeningId, Salt, SegmentNumber,
};
use journal_format::record::{Draft, Effect, EffectResult, Opening, Record, RecordBody};
use phase_journal::engine::{
    Config, Engine, Gap, History, Input, Message, Now, PeerRequest, Step, TICK_INTERVAL_MS, Token,
};

use super::bytes::Bytes;
use super::inputs::{self, BOOTS, HERE, NONCE, Surroundings};
use super::rules::Judge;

/// More inputs than that show nothing new and only take time.
const INPUTS_MAX: u32 = 400;

struct Life {
    engine: Engine,
    ready: bool,
    /// Callers that wait for an answer.
    waiting: BTreeSet<Token>,
    asks: Vec<PeerRequest>,
    looks: Vec<DomainId>,
    keys: Vec<MigrationId>,
    effects: Vec<Effect>,
}

struct Harness {
    history: Vec<History>,
    openings: Vec<Opening>,
    judge: Judge,
    next: Lsn,
    epoch: u32,
    milliseconds: u64,
    tokens: u64,
    around: Surroundings,
    types: BTreeSet<&'static str>,
    /// The crash that comes damages the journal.
    damaging: bool,
}

/// Every input is drawn from the bytes. Returns the types of the records that were written.
///
/// # Panics
/// When the engine breaks a rule.
pub fn run(bytes: &[u8]) -> BTreeSet<&'static str> {
    let mut choices = Bytes::new(bytes);
    let mut harness = Harness {
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
    };
    let mut life = harness.open();
    for _ in 0..INPUTS_MAX {
        if choices.is_empty() {
            break;
        }
        match harness.input(&mut choices, &mut life) {
            Some(input) => {
                let step = life.engine.step(harness.now(), input);
                harness.carry_out(&mut life, step);
            }
            None => {
                harness.damage(&mut choices);
                life = harness.open();
            }
        }
    }
    harness.open();
    harness.types
}

impl Harness {
    fn now(&self) -> Now {
        let nanoseconds = self.milliseconds * 1_000_000;
        Now {
            wall: nanoseconds,
            monotonic: nanoseconds,
        }
    }

    /// The engine that the journal gives. A second one from the same records says the same.
    fn open(&mut self) -> Life {
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
            keys: Vec::new(),
            effects: Vec::new(),
        };
        let step = life.engine.start(self.now());
        self.carry_out(&mut life, step);
        life
    }

    /// Perhaps the last records cannot be read any more.
    fn damage(&mut self, choices: &mut Bytes<'_>) {
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

    fn carry_out(&mut self, life: &mut Life, step: Step) {
        self.write(&step.append);
        assert_eq!(life.engine.next_lsn(), self.next);
        for effect in &step.effects {
            self.judge.effect(effect);
            life.effects.push(effect.clone());
        }
        for message in step.messages {
            match message {
                Message::Reply { token, .. } | Message::PeerReply { token, .. } => {
                    assert!(life.waiting.remove(&token), "{token:?} has its answer");
                }
                Message::Ask { request, .. } => life.asks.push(request),
                Message::Look { domain } => life.looks.push(domain),
                Message::Store { migration, .. } => life.keys.push(migration),
                Message::Ready => {
                    assert!(!life.ready, "ready twice");
                    life.ready = true;
                }
                Message::Watch { .. } | Message::Unwatch { .. } | Message::Notify(_) => {}
            }
        }
    }

    fn token(&mut self, life: &mut Life) -> Token {
        self.tokens += 1;
        life.waiting.insert(Token(self.tokens));
        Token(self.tokens)
    }

    /// The next input; `None` is a crash. What the engine waits for comes at some time, or another
    /// thing in its place.
    fn input(&mut self, choices: &mut Bytes<'_>, life: &mut Life) -> Option<Input> {
        let around = &mut self.around;
        let input = match choices.below(20) {
            0 => return None,
            1..=3 => {
                let request = around.control_request(choices);
                let token = self.token(life);
                Input::Control { token, request }
            }
            4..=6 => {
                let (envelope, request) = (around.envelope(choices), around.peer_request(choices));
                Input::Peer {
                    token: self.token(life),
                    envelope,
                    nonce: NONCE,
                    request,
                }
            }
            7..=9 if !life.asks.is_empty() => {
                let request = life.asks.remove(choices.below(life.asks.len()));
                Input::PeerAnswered {
                    migration: request.migration(),
                    result: around.answer(choices, &request),
                }
            }
            10..=13 if !life.effects.is_empty() => {
                let effect = life.effects.remove(choices.below(life.effects.len()));
                let result = inputs::result(choices);
                if result == EffectResult::Done {
                    around.done(&effect);
                }
                Input::EffectFinished {
                    effect: effect.intent,
                    result,
                }
            }
            14..=16 if !life.looks.is_empty() => {
                let domain = life.looks.remove(choices.below(life.looks.len()));
                let observed = around.observed(choices, domain);
                Input::Looked { domain, observed }
            }
            17 => {
                let domain = inputs::domain(choices);
                let observed = around.observed(choices, domain);
                Input::Looked { domain, observed }
            }
            18 => {
                let (domain, event) = inputs::event(choices);
                Input::Event { domain, event }
            }
            _ => match choices.byte() {
                u8::MAX => {
                    self.damaging = true;
                    return None;
                }
                254 if !life.keys.is_empty() => Input::StoreAnswered {
                    migration: life.keys.remove(0),
                    result: inputs::key(choices),
                },
                253 => {
                    let request = inputs::verdict(choices);
                    let token = self.token(life);
                    Input::Control { token, request }
                }
                ticks => {
                    self.milliseconds += TICK_INTERVAL_MS * u64::from(ticks);
                    Input::Tick
                }
            },
        };
        Some(input)
    }
}
