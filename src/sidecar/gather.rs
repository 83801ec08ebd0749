//! Receiving what goes into one turn: enough callers to share a sync, without making any of them wait
//! longer than it is worth.
//!
//! Invariant: an input waits here for others at most [`GATHER_MAX`], and only right after a turn that
//! answered as many; a thread without work does not keep a processor busy for longer than
//! [`SPIN_MAX`].
//! Not here: what a turn is (`node`).

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// Most inputs in one turn, and so in one batch.
pub(super) const INPUTS_PER_TURN_MAX: usize = 512;

/// How long nothing comes in before the last batch is sealed.
const SEAL_AFTER: Duration = Duration::from_millis(5);

/// Callers that were answered together come back together. So long they are waited for at the most:
/// a part of what a sync of their own would cost.
const GATHER_MAX: Duration = Duration::from_micros(150);

/// When nobody came for so long, the others do not come either.
const GATHER_PAUSE_MAX: Duration = Duration::from_micros(25);

/// Who was just answered often asks again at once; going to sleep and being woken takes longer than
/// that.
const SPIN_MAX: Duration = Duration::from_micros(50);

/// Why [`Gatherer::receive`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Something came in.
    Inputs,
    /// Nothing came in for a while; only said if that was asked for.
    Quiet,
    /// Nothing will come in any more.
    Closed,
}

/// What was seen of the callers' pace.
#[derive(Debug)]
pub(super) struct Gatherer {
    timer: Runtime,
    /// How many callers the last turn answered.
    answered: usize,
    /// When it did.
    turned: Instant,
    /// The last input came right after the turn before it.
    is_busy: bool,
}

impl Gatherer {
    pub(super) fn new(timer: Runtime) -> Gatherer {
        Gatherer {
            timer,
            answered: 0,
            turned: Instant::now(),
            is_busy: false,
        }
    }

    /// A turn has answered so many callers.
    pub(super) fn has_turned(&mut self, answered: usize) {
        self.answered = answered;
        self.turned = Instant::now();
    }

    /// Waits until something comes in, or, if `until_quiet`, nothing comes in for a while.
    pub(super) fn receive<T>(
        &mut self,
        inputs: &mut Receiver<T>,
        into: &mut Vec<T>,
        until_quiet: bool,
    ) -> Received {
        if self.is_busy {
            let turned = self.turned;
            spin(inputs, into, 1, |_| turned.elapsed() < SPIN_MAX);
        }
        if into.is_empty() {
            let receiving = inputs.recv_many(into, INPUTS_PER_TURN_MAX);
            let received = match until_quiet {
                false => self.timer.block_on(receiving),
                true => match self
                    .timer
                    .block_on(async { timeout(SEAL_AFTER, receiving).await })
                {
                    Ok(received) => received,
                    Err(_) => {
                        self.is_busy = false;
                        return Received::Quiet;
                    }
                },
            };
            if received == 0 {
                return Received::Closed;
            }
        }
        let begun = Instant::now();
        self.is_busy = begun.duration_since(self.turned) < GATHER_MAX;
        if self.is_busy {
            let wanted = self.answered.min(INPUTS_PER_TURN_MAX);
            spin(inputs, into, wanted, |came| {
                came.elapsed() < GATHER_PAUSE_MAX && begun.elapsed() < GATHER_MAX
            });
        }
        Received::Inputs
    }
}

/// Takes all that is there, and waits for more until `into` has `wanted`, as long as `goes_on`, which
/// is told when something came last.
fn spin<T>(
    inputs: &mut Receiver<T>,
    into: &mut Vec<T>,
    wanted: usize,
    goes_on: impl Fn(Instant) -> bool,
) {
    let mut came = Instant::now();
    loop {
        let before = into.len();
        while into.len() < INPUTS_PER_TURN_MAX
            && let Ok(input) = inputs.try_recv()
        {
            into.push(input);
        }
        if into.len() > before {
            came = Instant::now();
        }
        if into.len() >= wanted || !goes_on(came) {
            return;
        }
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    fn gatherer() -> Gatherer {
        let timer = tokio::runtime::Builder::new_current_thread();
        Gatherer::new({ timer }.enable_time().build().unwrap())
    }

    #[test]
    fn all_that_waits_goes_into_one_turn() {
        let (sender, mut inputs) = mpsc::channel(2 * INPUTS_PER_TURN_MAX);
        let mut gatherer = gatherer();
        for number in 0..INPUTS_PER_TURN_MAX + 3 {
            sender.try_send(number).unwrap();
        }
        // Whatever was answered before, and whether it was just now.
        for is_busy in [false, true] {
            gatherer.is_busy = is_busy;
            gatherer.has_turned(1);
            let mut into = Vec::new();
            let received = gatherer.receive(&mut inputs, &mut into, false);
            assert_eq!(received, Received::Inputs);
            let count = if is_busy { 3 } else { INPUTS_PER_TURN_MAX };
            assert_eq!(into.len(), count);
        }
    }

    #[test]
    fn those_that_were_answered_together_are_waited_for() {
        let (sender, mut inputs) = mpsc::channel(8);
        let mut gatherer = gatherer();
        let mut into = Vec::new();
        // Often enough that the sender is sometimes in time: it is not waited for longer.
        let gathered = (0..1000).any(|_| {
            into.clear();
            while inputs.try_recv().is_ok() {}
            gatherer.is_busy = true;
            gatherer.has_turned(2);
            let sender = sender.clone();
            let sending = std::thread::spawn(move || {
                sender.try_send(1).unwrap();
                sender.try_send(2).unwrap();
            });
            gatherer.receive(&mut inputs, &mut into, false);
            sending.join().unwrap();
            into == [1, 2]
        });
        assert!(gathered);
    }

    #[test]
    fn quiet_is_told_only_if_asked_for_and_the_end_always() {
        let (sender, mut inputs) = mpsc::channel::<u8>(8);
        let mut gatherer = gatherer();
        let mut into = Vec::new();
        let received = gatherer.receive(&mut inputs, &mut into, true);
        assert_eq!((received, into.len()), (Received::Quiet, 0));
        drop(sender);
        for until_quiet in [true, false] {
            gatherer.is_busy = true;
            let received = gatherer.receive(&mut inputs, &mut into, until_quiet);
            assert_eq!((received, into.len()), (Received::Closed, 0));
        }
    }
}
