//! One migration of two simulated hosts, and the bytes are the schedule of what fails meanwhile.

use phase_journal::sim::exhaustive::{BEGIN, OVER, SUBJECTS, run_schedule};
use phase_journal::sim::{Fault, Planned};

use super::bytes::Bytes;

/// More faults than that are seldom about one migration.
const FAULTS_MAX: usize = 12;
/// How long one step of a fault's time is, in microseconds: two bytes reach over the whole migration.
const STEP: u64 = (OVER - BEGIN) / 0x1_0000 + 1;

/// A kind of migration, a seed for what is no fault, and faults. Returns the faults that happened.
///
/// # Panics
/// When a promise is broken, with the schedule.
pub fn run(bytes: &[u8]) -> Vec<String> {
    let mut choices = Bytes::new(bytes);
    let subject = choices.pick(&SUBJECTS);
    let seed = u64::from(choices.byte());
    let mut plan = Vec::new();
    while !choices.is_empty() && plan.len() < FAULTS_MAX {
        let fault = choices.pick(&Fault::ALL);
        let at = BEGIN + choices.number() as u64 * STEP;
        let share = choices.byte();
        plan.push(Planned::new(fault, at, share, choices.number() as u64));
    }
    plan.sort_by_key(|planned| planned.at);
    let outcome = run_schedule(seed, subject, plan.clone());
    if let Some(broken) = outcome.broken {
        panic!("{}, seed {seed}: {broken}, after {plan:#?}", subject.name());
    }
    outcome.coverage.faults.into_keys().collect()
}
