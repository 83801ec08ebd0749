//! A client's effect on its way from the client's task over the engine to QEMU.
//!
//! Invariant: whoever waits for it is told what became of it, exactly once.
//! Not here: who carries it (`link`, `dispatch`, `monitor`).

use std::sync::Arc;

use journal_format::number::Lsn;
use journal_format::record::EffectResult;
use tokio::sync::oneshot;

use crate::engine::Input;
use crate::qmp::{Outlet, Passed, Place};
use crate::sidecar::link::{Failure, Link};

/// What a client sent, and where QEMU's answer goes.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(crate) passed: Passed,
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) place: Place,
    pub(crate) arrived: oneshot::Sender<Arrived>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// QEMU was asked; if it answered, the client has its answer.
    AtQemu(Finished),
    /// The engine has seen to it itself.
    Settled,
    /// It does not go to QEMU.
    Failed(Failure),
}

impl Passage {
    /// Tells that it does not go to QEMU, or was seen to. A client that is gone does not hear it.
    pub(crate) fn arrive(self, arrived: Arrived) {
        drop(self.arrived.send(arrived));
    }
}

/// What became of an effect at QEMU. The node is told when this is dropped, by whoever has it then: in the common case the
/// client's task, which the answer wakes in any case. So one task wakes the next, and all stay on one thread.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) link: Link,
    pub(crate) effect: Lsn,
    pub(crate) result: EffectResult,
}

impl Drop for Finished {
    fn drop(&mut self) {
        // The client has its answer already. What it sends next is written down with this.
        self.link.tell_unhurried(Input::EffectFinished {
            effect: self.effect,
            result: self.result.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::link::Inbound;

    /// Whoever has it, and whether the client is still there to take it.
    #[tokio::test]
    async fn the_node_is_told_in_any_case_and_once() {
        for (is_there, takes_it) in [(true, true), (true, false), (false, false)] {
            let (link, mut inbound) = Link::new();
            let (arrived, arrival) = oneshot::channel();
            let mut arrival = is_there.then_some(arrival);
            let finished = Finished {
                link,
                effect: Lsn(7),
                result: EffectResult::Done,
            };
            drop(arrived.send(Arrived::AtQemu(finished)));
            if takes_it {
                let taken = arrival.take().unwrap().await.unwrap();
                assert!(inbound.try_recv().is_err(), "not before");
                drop(taken);
            }
            drop(arrival);
            let told = inbound.try_recv();
            let Ok(Inbound::Unhurried(Input::EffectFinished { effect, .. })) = told else {
                panic!("{told:?}");
            };
            assert_eq!(effect, Lsn(7));
            assert!(inbound.try_recv().is_err(), "once");
        }
    }
}
