//! An engine that is told anything at any moment, and crashes between any two inputs.

use std::collections::BTreeSet;

use journal_format::record::EffectResult;
use phase_journal::engine::{Input, TICK_INTERVAL_MS};

use super::bytes::Bytes;
use super::harness::{Harness, Life};
use super::inputs::{self, NONCE};

/// More inputs than that show nothing new and only take time.
const INPUTS_MAX: u32 = 400;

/// Every input is drawn from the bytes. Returns the types of the records that were written.
///
/// # Panics
/// When the engine breaks a rule.
pub fn run(bytes: &[u8]) -> BTreeSet<&'static str> {
    let mut choices = Bytes::new(bytes);
    let mut harness = Harness::new();
    let mut life = harness.open();
    for _ in 0..INPUTS_MAX {
        if choices.is_empty() {
            break;
        }
        match harness.input(&mut choices, &mut life) {
            Some(input) => harness.step(&mut life, input),
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
                252 => {
                    let request = inputs::job(choices, life.last_job);
                    let token = self.token(life);
                    Input::Control { token, request }
                }
                251 if !life.job_looks.is_empty() => Input::JobLooked {
                    domain: life.job_looks.remove(0),
                    seen: inputs::job_seen(choices),
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
