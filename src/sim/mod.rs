//! A deterministic world for the whole system: real engine, real journal, real write-ahead loop, on fake
//! disks, QEMUs, networks and clocks, in one thread, from one seed.
//!
//! [`run`] runs one world and says what broke; [`run_with`] does so with a manager of one's own (see
//! [`Manager`]); [`minimise`] takes away the faults that a violation does not need.
//!
//! Invariant: the same seed, shape and code give the same bytes; promises are judged from outside, by
//! what QEMUs do, what is found on disks and what sidecars answer.
//! Not here: printing and files (`tools`), single schedules with a story (`engine::tests`).

mod coverage;
mod disk;
pub mod exhaustive;
mod fault;
mod fleet;
mod guest;
mod host;
mod ledger;
mod manager;
mod monitor;
#[cfg(any(test, feature = "mutants"))]
pub mod mutants;
mod network;
mod qemu;
mod random;
mod search;
mod settle;
mod shape;
mod store;
mod world;

#[cfg(test)]
mod tests;

pub use coverage::Coverage;
pub use disk::{BatchFault, SimDisk};
pub use fault::{Fault, Planned, plan};
pub use fleet::Fleet;
pub use guest::Guest;
pub use manager::{Desk, Heard, How, Manager, RequestId};
pub use qemu::{Lab, Move, Qemu, Told, uri};
pub use random::Random;
pub use shape::{Latencies, Mix, Rates, Shape};
pub use world::World;

/// Time since the beginning of a world, in microseconds.
pub type Micros = u64;
/// A host, counted from 0.
pub type HostNumber = usize;
/// A guest, counted from 0.
pub type GuestNumber = usize;
/// A QEMU process, counted from 0 in the order they were started.
pub type QemuNumber = usize;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The promise that was broken first, and how.
    pub broken: Option<String>,
    /// When it ended, in microseconds.
    pub at: Micros,
    /// What was reached.
    pub coverage: Coverage,
    /// Depends on everything that happened and on every byte that became durable.
    pub digest: u64,
    /// What happened, one line each, if it was asked for.
    pub story: Vec<String>,
    /// The files of each host's journal, if a promise was broken.
    pub journals: Vec<Vec<(String, Vec<u8>)>>,
}

/// Runs a world with the fleet's own manager.
#[must_use]
pub fn run(seed: u64, shape: &Shape) -> Outcome {
    run_with(seed, shape, || Box::new(Fleet::default()))
}

/// Runs a world with this manager.
#[must_use]
pub fn run_with(seed: u64, shape: &Shape, manager: impl FnOnce() -> Box<dyn Manager>) -> Outcome {
    run_plan(seed, shape, plan(seed, shape), manager(), false)
}

/// Runs a world that meets exactly these faults, and keeps its story if that is wanted.
#[must_use]
pub fn run_plan(
    seed: u64,
    shape: &Shape,
    plan: Vec<Planned>,
    manager: Box<dyn Manager>,
    story: bool,
) -> Outcome {
    let mut world = World::new(seed, shape, plan, manager);
    if story {
        world.tell_story();
    }
    world.run_until(shape.minutes * 60_000_000);
    end(seed, world)
}

/// Lets a world come to rest, if nothing is broken yet.
fn end(seed: u64, mut world: World) -> Outcome {
    if world.broken().is_none() {
        world.come_to_rest();
    }
    let broken = world.broken().map(str::to_owned);
    Outcome {
        seed,
        at: world.now(),
        coverage: world.coverage(),
        digest: world.digest(),
        story: world.story().to_vec(),
        journals: match &broken {
            Some(_) => world.journals(),
            None => Vec::new(),
        },
        broken,
    }
}

/// The faults of a run that broke a promise without those that it does not need: fewer are tried as long
/// as the same promise breaks, at most `runs_max` times.
#[must_use]
pub fn minimise(shape: &Shape, broken: &Outcome, runs_max: usize) -> Vec<Planned> {
    let seed = broken.seed;
    let promise = broken.broken.as_deref().unwrap_or_default();
    let mut plan = plan(seed, shape);
    // What was to come later cannot have done it.
    let begun = broken.coverage.migrations + broken.coverage.jobs;
    plan.retain(|planned| planned.begun <= begun);
    let mut runs = 0;
    let mut piece = plan.len().div_ceil(2);
    while piece > 0 && runs < runs_max {
        let mut from = 0;
        let before = plan.len();
        while from < plan.len() && runs < runs_max {
            let mut fewer = plan.clone();
            fewer.drain(from..(from + piece).min(plan.len()));
            runs += 1;
            let outcome = run_plan(
                seed,
                shape,
                fewer.clone(),
                Box::new(Fleet::default()),
                false,
            );
            let broken = outcome.broken.unwrap_or_default();
            if promise_of(&broken) == promise_of(promise) && !broken.is_empty() {
                plan = fewer;
            } else {
                from += piece;
            }
        }
        piece = match (piece, plan.len() < before) {
            (1, true) => 1,
            (1, false) => 0,
            _ => piece.div_ceil(2),
        };
    }
    plan
}

/// The promise that a violation is of.
#[must_use]
pub fn promise_of(broken: &str) -> &str {
    let at = broken.find('P').unwrap_or(0);
    broken[at..].split([':', ',']).next().unwrap_or_default()
}
