//! The way of the monitor's clients to QEMU, beside the sidecar's own commands on the same connection.
//!
//! Invariant (P1): without a proof of durability only what reads is passed. What clients have in QEMU at the same
//! time is bounded, so that the sidecar's own commands, and those out of band, always get through.
//! Not here: clients (`sidecar::proxy`), what is exchanged in a command (`passed`).

use std::sync::{Arc, Weak};

use journal_format::record::{Effect, EffectCommand, EffectResult};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::classify::Class;
use super::client::{Answer, Core, QmpError};
use super::codec::Message;
use super::outlet::Outlet;
use super::passed::{Kind, Passed, answer_with, kind, without_id};
use super::streams::Outgoing;
use crate::journal::Durable;
use crate::keep::Stage;

/// Commands that are passed on for clients at the same time: with the sidecar's own ones they stay below QEMU's
/// eight.
const PASSED_MAX: usize = 3;

/// The same for commands out of band.
const PASSED_OUT_OF_BAND_MAX: usize = 4;

/// Who waits for an answer.
pub(super) enum Waiter {
    /// Somebody here, who takes it apart.
    Caller(oneshot::Sender<Answer>),
    /// A client of the monitor, who gets it as it is.
    Client(Route),
}

/// The way of an answer back to a client of the monitor.
pub(super) struct Route {
    outlet: Arc<Outlet>,
    /// As the client sent it.
    id: Option<Vec<u8>>,
    /// By which what is kept of the client knows the command.
    key: u64,
    done: Done,
    /// Held until QEMU has answered, whether or not the client is still there; one of an earlier life may have none.
    _place: Option<Place>,
}

/// Who is told what becomes of a client's command; who is not there any more does not hear it.
enum Done {
    /// Somebody who waits.
    Waits(oneshot::Sender<EffectResult>),
    /// Somebody who is called, in any case.
    Called(Called),
}

impl Done {
    fn tell(self, result: EffectResult) {
        match self {
            Done::Waits(done) => drop(done.send(result)),
            Done::Called(called) => called.tell(result),
        }
    }
}

/// Is called once.
struct Called(Option<Box<dyn FnOnce(EffectResult) + Send>>);

impl Called {
    fn tell(mut self, result: EffectResult) {
        if let Some(call) = self.0.take() {
            call(result);
        }
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            let why = "the connection to QEMU ended".to_owned();
            call(EffectResult::Unknown { why });
        }
    }
}

/// A client's effect that QEMU may have got from an earlier life of this process, on a connection that was kept.
#[derive(Debug)]
pub struct Adopted {
    /// The id that it had on that connection.
    pub at_qemu: u64,
    /// Its client.
    pub outlet: Arc<Outlet>,
    /// As the client sent it.
    pub id: Option<Vec<u8>>,
    /// By which what is kept of the client knows the command.
    pub key: u64,
    /// Is told what becomes of it.
    pub done: oneshot::Sender<EffectResult>,
}

impl Adopted {
    /// The connection was not kept.
    pub fn is_lost(self, why: &str) {
        let why = why.to_owned();
        // Its client may have left.
        drop(self.done.send(EffectResult::Unknown { why }));
    }

    pub(super) fn waiter(self, places: &Places) -> (u64, Waiter) {
        let permit = places.in_band.clone().try_acquire_owned().ok();
        let route = Route {
            outlet: self.outlet,
            id: self.id,
            key: self.key,
            done: Done::Waits(self.done),
            _place: permit.map(|permit| Place { _permit: permit }),
        };
        (self.at_qemu, Waiter::Client(route))
    }
}

/// A place among the commands that clients of the monitor have in QEMU at the same time.
#[derive(Debug)]
pub struct Place {
    /// Given back when dropped.
    _permit: OwnedSemaphorePermit,
}

impl Waiter {
    /// No answer will come. Who has given up does not hear it.
    pub(super) fn fail(self, error: QmpError) {
        match self {
            Waiter::Caller(answer) => drop(answer.send(Err(error))),
            Waiter::Client(route) => route.done.tell(result_of(Err(error))),
        }
    }

    pub(super) fn answer(self, object: &[u8]) {
        match self {
            Waiter::Caller(answer) => drop(answer.send(parsed(object))),
            Waiter::Client(route) => route.answer(object),
        }
    }
}

impl Route {
    fn answer(self, object: &[u8]) {
        let id = self.id.as_deref();
        let line = answer_with(object, id).unwrap_or_else(|| without_id(object, id));
        self.outlet.answer(line.into(), self.key);
        let is_error = matches!(kind(object), Kind::Answer { is_error: true, .. });
        let result = if is_error {
            parsed(object)
        } else {
            Ok(Value::Null)
        };
        self.done.tell(result_of(result));
    }
}

/// An answer as a caller takes it.
fn parsed(object: &[u8]) -> Answer {
    match Message::parse(object) {
        Some(Message::Return { value, .. }) => Ok(value),
        Some(Message::Error {
            class, description, ..
        }) => Err(QmpError::Refused { class, description }),
        Some(Message::Greeting { .. } | Message::Event { .. } | Message::Other(_)) | None => {
            Err(QmpError::Lost {
                why: "the answer is no answer".to_owned(),
            })
        }
    }
}

/// What is known of an effect by its answer.
pub(super) fn result_of(answer: Answer) -> EffectResult {
    match answer {
        Ok(_) => EffectResult::Done,
        Err(QmpError::Refused { class, description }) => {
            EffectResult::Refused { class, description }
        }
        Err(QmpError::NotSent { why }) => EffectResult::NotSent { why },
        Err(
            error @ (QmpError::Lost { .. }
            | QmpError::Busy
            | QmpError::TimedOut { .. }
            | QmpError::Connect { .. }
            | QmpError::NoGreeting { .. }
            | QmpError::NotQmp { .. }
            | QmpError::NotAQuery { .. }),
        ) => EffectResult::Unknown {
            why: error.to_string(),
        },
    }
}

/// The places of one connection.
#[derive(Clone, Debug)]
pub(super) struct Places {
    in_band: Arc<Semaphore>,
    out_of_band: Arc<Semaphore>,
}

impl Places {
    fn of(&self, out_of_band: bool) -> &Arc<Semaphore> {
        match out_of_band {
            true => &self.out_of_band,
            false => &self.in_band,
        }
    }
}

impl Default for Places {
    fn default() -> Places {
        Places {
            in_band: Arc::new(Semaphore::new(PASSED_MAX)),
            out_of_band: Arc::new(Semaphore::new(PASSED_OUT_OF_BAND_MAX)),
        }
    }
}

/// A connection as clients of the monitor use it; it ends without asking them.
#[derive(Clone, Debug)]
pub struct Passing {
    core: Weak<Core>,
    places: Places,
    greeting: Arc<[u8]>,
    oob: bool,
}

impl Passing {
    pub(super) fn new(core: &Arc<Core>) -> Passing {
        Passing {
            core: Arc::downgrade(core),
            places: core.places.clone(),
            greeting: core.greeting.clone(),
            oob: core.oob,
        }
    }

    /// The greeting as QEMU sent it, without the end of its line.
    #[must_use]
    pub fn greeting(&self) -> &Arc<[u8]> {
        &self.greeting
    }

    /// Whether QEMU takes commands out of band on this connection.
    #[must_use]
    pub fn oob(&self) -> bool {
        self.oob
    }

    /// Waits for a place among the commands of the monitor's clients, first come, first served.
    pub async fn place(&self, out_of_band: bool) -> Place {
        match self.places.of(out_of_band).clone().acquire_owned().await {
            Ok(permit) => Place { _permit: permit },
            // They are never closed.
            Err(_) => core::future::pending().await,
        }
    }

    /// The same if there is one now and nobody waits for it.
    #[must_use]
    pub fn place_now(&self, out_of_band: bool) -> Option<Place> {
        let permit = self.places.of(out_of_band).clone().try_acquire_owned();
        permit.ok().map(|permit| Place { _permit: permit })
    }

    /// Passes on a client's command that only reads; the answer goes to `outlet`, byte for byte but for its id. What
    /// is returned says when: done or refused means that the client has its answer.
    ///
    /// # Errors
    /// [`QmpError::NotAQuery`] for everything else.
    pub fn pass(
        &self,
        passed: Passed,
        outlet: Arc<Outlet>,
        place: Place,
    ) -> Result<oneshot::Receiver<EffectResult>, QmpError> {
        match passed.class() {
            Class::Reading => {
                let (done, result) = oneshot::channel();
                self.send(passed, outlet, place, Done::Waits(done));
                Ok(result)
            }
            Class::Effect => Err(QmpError::NotAQuery {
                name: passed.name().to_owned(),
            }),
        }
    }

    /// Passes on a client's command that is an effect, whose intent is durable (P1): as it was sent, with what is not in
    /// the record. The answer goes as in [`Passing::pass`]. A command that is not the one of the record is not sent. `done` is called in any
    /// case, by whoever reads from QEMU, so that it may not wait.
    ///
    /// ```compile_fail
    /// # use phase_journal::qmp::{Outlet, Passed, Passing, Place};
    /// # use journal_format::record::Effect;
    /// # use std::sync::Arc;
    /// # fn f(passing: &Passing, effect: Effect, passed: Passed, outlet: Arc<Outlet>, place: Place) {
    /// // As with `perform`: there is no proof that its record is durable.
    /// passing.pass_effect(effect, passed, outlet, place, |_| {});
    /// # }
    /// ```
    pub fn pass_effect(
        &self,
        effect: Durable<Effect>,
        passed: Passed,
        outlet: Arc<Outlet>,
        place: Place,
        done: impl FnOnce(EffectResult) + Send + 'static,
    ) {
        let effect = effect.into_inner();
        let (arguments, redacted) = passed.journaled();
        let journaled = EffectCommand::Monitor {
            execute: passed.name().to_owned(),
            arguments,
            redacted,
        };
        match effect.command == journaled {
            true => self.send(
                passed,
                outlet,
                place,
                Done::Called(Called(Some(Box::new(done)))),
            ),
            false => done(not_sent("it is not the command of the record")),
        }
    }

    /// Who waits for the result is told in any case.
    fn send(&self, passed: Passed, outlet: Arc<Outlet>, place: Place, done: Done) {
        let Some(core) = self.core.upgrade() else {
            return done.tell(not_sent("the connection to QEMU ended"));
        };
        let id = core.new_id();
        if passed.class() == Class::Effect
            && let Some(kept) = outlet.kept()
        {
            kept.advance(passed.key(), Stage::Sent { id });
        }
        let route = Route {
            outlet,
            id: passed.id().map(<[u8]>::to_vec),
            key: passed.key(),
            done,
            _place: Some(place),
        };
        let (line, fds) = passed.with_id(core.on_the_wire(id));
        let outgoing = Outgoing {
            id,
            line,
            fds,
            waiter: Waiter::Client(route),
        };
        core.writer.send(outgoing);
    }
}

fn not_sent(why: &str) -> EffectResult {
    EffectResult::NotSent {
        why: why.to_owned(),
    }
}
