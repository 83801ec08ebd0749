//! Receiving what goes into one turn: enough callers to share a sync, without making any of them wait
//! longer than it is worth.
//!
//! Invariant: an input waits here for others at most [`GATHER_MAX`], and only right after a turn that
//! answered as many; one that nobody waits for at most [`UNHURRIED_MAX`].
//! Not here: what a turn is (`node`).

use core::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// Most inputs in one turn, and so in one batch.
pub(super) const INPUTS_PER_TURN_MAX: usize = 512;

/// How long nothing comes in before the last batch is sealed.
const SEAL_AFTER: Duration = Duration::from_millis(5);

/// Callers that were answered together come back together. So long they are waited for at the most:
/// a part of what a sync of their own would cost.
const GATHER_MAX: Duration = Duration::from_micros(150);

/// When nobody came for so long, the others do not come either.
const GATHER_PAUSE_MAX: Duration = Duration::from_micros(25);

/// So long what nobody waits for may wait for something else to share a sync with: as long as a client needs to send its next
/// command, and less than anybody notices.
const UNHURRIED_MAX: Duration = Duration::from_millis(1);

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
    /// How many callers the last turn answered.
    answered: usize,
    /// When it did.
    turned: Instant,
    /// Goes off when it may have been quiet for long enough, or before.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Gatherer {
    pub(super) fn new() -> Gatherer {
        Gatherer {
            answered: 0,
            turned: Instant::now(),
            alarm: None,
        }
    }

    /// A turn has answered so many callers.
    pub(super) fn has_turned(&mut self, answered: usize) {
        self.answered = answered;
        self.turned = Instant::now();
    }

    /// Waits until something comes in, or, if `until_quiet`, nothing comes in for a while. Behind what nobody waits for it waits on
    /// for a moment.
    pub(super) async fn receive<T>(
        &mut self,
        inputs: &mut Receiver<T>,
        into: &mut Vec<T>,
        until_quiet: bool,
        is_unhurried: impl Fn(&T) -> bool,
    ) -> Received {
        let received = match until_quiet {
            false => Some(inputs.recv_many(into, INPUTS_PER_TURN_MAX).await),
            true => self.receive_or_quiet(inputs, into).await,
        };
        let Some(received) = received else {
            return Received::Quiet;
        };
        if received == 0 {
            return Received::Closed;
        }
        if into.iter().all(is_unhurried) {
            // Whatever came of it: what there is goes now.
            let more = inputs.recv_many(into, INPUTS_PER_TURN_MAX);
            drop(timeout(UNHURRIED_MAX, more).await);
        }
        let begun = Instant::now();
        let is_busy = begun.duration_since(self.turned) < GATHER_MAX;
        let wanted = self.answered.min(INPUTS_PER_TURN_MAX);
        let mut came = begun;
        while is_busy && into.len() < INPUTS_PER_TURN_MAX {
            // The callers run on the threads of this task, perhaps on this very one: those that are
            // ready come first.
            yield_now().await;
            let before = into.len();
            while into.len() < INPUTS_PER_TURN_MAX
                && let Ok(input) = inputs.try_recv()
            {
                into.push(input);
            }
            let now = Instant::now();
            let are_all_here = into.len() >= wanted;
            if into.len() > before && !are_all_here {
                came = now;
            } else if into.len() == before && are_all_here {
                break;
            }
            let is_late = now.duration_since(begun) > GATHER_MAX;
            if is_late || now.duration_since(came) > GATHER_PAUSE_MAX {
                break;
            }
        }
        Received::Inputs
    }
}

impl Gatherer {
    /// As `recv_many`; nothing when nothing comes in for a while. One alarm serves many waits: to set one anew wakes the thread that keeps
    /// them.
    async fn receive_or_quiet<T>(
        &mut self,
        inputs: &mut Receiver<T>,
        into: &mut Vec<T>,
    ) -> Option<usize> {
        let quiet_at = Instant::now() + SEAL_AFTER;
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(sleep_until(quiet_at)));
        loop {
            if alarm.is_elapsed() {
                alarm.as_mut().reset(quiet_at);
            }
            tokio::select! {
                biased;
                received = inputs.recv_many(into, INPUTS_PER_TURN_MAX) => return Some(received),
                () = alarm.as_mut() => if Instant::now() >= quiet_at {
                    return None;
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn all_that_waits_goes_into_one_turn() {
        let (sender, mut inputs) = mpsc::channel(2 * INPUTS_PER_TURN_MAX);
        let mut gatherer = Gatherer::new();
        for number in 0..INPUTS_PER_TURN_MAX + 3 {
            sender.try_send(number).unwrap();
        }
        for count in [INPUTS_PER_TURN_MAX, 3] {
            gatherer.has_turned(1);
            let mut into = Vec::new();
            let received = gatherer
                .receive(&mut inputs, &mut into, false, |_| false)
                .await;
            assert_eq!(received, Received::Inputs);
            assert_eq!(into.len(), count);
        }
    }

    /// On one thread it is certain: the second caller runs when the first was received.
    #[tokio::test]
    async fn those_that_were_answered_together_are_waited_for() {
        let (sender, mut inputs) = mpsc::channel(8);
        let mut gatherer = Gatherer::new();
        let mut gathered = 0;
        for _ in 0..100 {
            gatherer.has_turned(2);
            sender.try_send(1).unwrap();
            let second = sender.clone();
            let sending = tokio::spawn(async move { second.send(2).await });
            let mut into = Vec::new();
            gatherer
                .receive(&mut inputs, &mut into, false, |_| false)
                .await;
            sending.await.unwrap().unwrap();
            gathered += usize::from(into == [1, 2]);
            while inputs.try_recv().is_ok() {}
        }
        assert!(gathered > 0);
    }

    /// It goes with what comes next, and by itself where nothing comes; what somebody waits for does not wait.
    #[tokio::test]
    async fn what_nobody_waits_for() {
        let (sender, mut inputs) = mpsc::channel(8);
        let mut gatherer = Gatherer::new();
        for (next, expected) in [(true, &[1, 2][..]), (false, &[1])] {
            sender.try_send(1).unwrap();
            let second = sender.clone();
            let sending = tokio::spawn(async move {
                if next {
                    second.send(2).await.unwrap();
                }
            });
            let mut into = Vec::new();
            let received = gatherer.receive(&mut inputs, &mut into, false, |one| *one == 1);
            assert_eq!(received.await, Received::Inputs);
            assert_eq!(into, expected);
            sending.await.unwrap();
        }
        sender.try_send(2).unwrap();
        let second = sender.clone();
        let sending = tokio::spawn(async move { second.send(1).await });
        let mut into = Vec::new();
        gatherer.turned -= GATHER_MAX;
        let received = gatherer.receive(&mut inputs, &mut into, false, |one| *one == 1);
        assert_eq!(received.await, Received::Inputs);
        assert_eq!(into, [2]);
        sending.await.unwrap().unwrap();
    }

    /// A caller that was answered long ago is not expected back.
    #[tokio::test]
    async fn nobody_waits_for_those_who_left() {
        let (sender, mut inputs) = mpsc::channel(8);
        let mut gatherer = Gatherer::new();
        gatherer.has_turned(8);
        gatherer.turned -= GATHER_MAX;
        sender.try_send(1).unwrap();
        let second = sender.clone();
        let sending = tokio::spawn(async move { second.send(2).await });
        let mut into = Vec::new();
        gatherer
            .receive(&mut inputs, &mut into, false, |_| false)
            .await;
        assert_eq!(into, [1]);
        sending.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn quiet_is_told_only_if_asked_for_and_the_end_always() {
        let (sender, mut inputs) = mpsc::channel::<u8>(8);
        let mut gatherer = Gatherer::new();
        let mut into = Vec::new();
        let received = gatherer
            .receive(&mut inputs, &mut into, true, |_| false)
            .await;
        assert_eq!((received, into.len()), (Received::Quiet, 0));
        drop(sender);
        for until_quiet in [true, false] {
            let received = gatherer
                .receive(&mut inputs, &mut into, until_quiet, |_| false)
                .await;
            assert_eq!((received, into.len()), (Received::Closed, 0));
        }
    }
}
