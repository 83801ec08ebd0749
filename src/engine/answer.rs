//! What is answered to whoever asks how a migration stands, and waited for a fresh look.
//!
//! Invariant: nothing is said of a QEMU that was seen to end before that could leave the process.
//! Not here: who asks, and what else is asked (`peer`); what a destination answers (`destination`).

use journal_format::number::MigrationId;
use journal_format::record::{Authority, Cookie, Outcome, PeerAnswer, Process, Role};

use super::decide::{is_confirmed, is_safe};
use super::state::{Migration, ran_on};
use super::turn::Turn;
use super::{Engine, Message, Now, PeerResponse, Rule};

impl Engine {
    /// What is about to be said after several inputs, each of which may have changed what was true before it: a QEMU
    /// that ended behind the look that an answer rests on is none to rely on, and its answer is made anew. Since the other
    /// side may end the last copy on a *whole*, this is the last moment to take it back.
    pub fn amend(&mut self, now: Now, messages: &mut [Message]) {
        let mut turn = Turn::new(self, now);
        for message in messages {
            if let Message::PeerReply {
                rests_on: Some(migration),
                envelope,
                response,
                ..
            } = message
                && turn.is_over(*migration)
            {
                let (answer, cookie) = turn.how_it_stands(*migration);
                let saw = turn.seen_of(*migration);
                *response = PeerResponse::Answer { answer, cookie };
                *envelope = turn.envelope(saw);
            }
        }
    }
}

impl Turn<'_> {
    /// Answers those who asked how it stands and waited for a fresh look.
    pub(crate) fn answer_lookers(&mut self, id: MigrationId) {
        if self
            .engine
            .live
            .get(&id)
            .is_none_or(|live| live.looking.is_empty())
        {
            return;
        }
        let tokens = core::mem::take(&mut self.live(id).looking);
        let (answer, cookie) = self.how_it_stands(id);
        let saw = self.seen_of(id);
        for token in tokens {
            let envelope = self.envelope(saw);
            self.send(Message::PeerReply {
                token,
                envelope,
                response: PeerResponse::Answer { answer, cookie },
                rests_on: Some(id),
            });
        }
    }

    fn how_it_stands(&mut self, id: MigrationId) -> (PeerAnswer, Option<Cookie>) {
        let role = self
            .migration(id)
            .map(|migration| migration.state.terms.role);
        match role {
            Some(Role::Source) => self.source_answer(id),
            Some(Role::Destination) => (self.destination_answer(id), None),
            None => (PeerAnswer::NoSuchMigration, None),
        }
    }

    /// Is its job closed, or its QEMU gone, as far as was seen?
    fn is_over(&self, id: MigrationId) -> bool {
        let open = self.migration(id).filter(|known| known.state.open);
        let is_gone = |known: &Migration| {
            let eyes = self.engine.eyes.get(&known.domain);
            let observed = eyes.and_then(|eyes| eyes.observed.as_ref());
            observed.is_some_and(|observed| observed.process == Process::Dead)
        };
        open.is_none_or(is_gone)
    }

    /// Is its job closed, and what became of it among records that are damaged? Nothing is decided about it here any more.
    pub(crate) fn is_end_lost(&self, known: &Migration) -> bool {
        let domain = self.engine.state.domains.get(&known.domain);
        let is_damaged = domain.is_some_and(|domain| domain.state.damaged);
        known.has_lost_its_end() || !known.state.open && is_damaged
    }

    /// How a migration stands at its source, for its destination.
    fn source_answer(&mut self, id: MigrationId) -> (PeerAnswer, Option<Cookie>) {
        let evidence = self.evidence(id);
        let safe = evidence.as_ref().is_some_and(is_safe);
        let rule = evidence
            .as_ref()
            .and_then(|evidence| self.rule_over(id, evidence));
        let dead = evidence.is_some_and(|evidence| evidence.observed.process == Process::Dead);
        let Some(migration) = self.migration(id) else {
            return (PeerAnswer::NoSuchMigration, None);
        };
        let state = &migration.state;
        let still = matches!(
            rule,
            Some(
                Rule::SourceGrantedInDoubt
                    | Rule::SourceGrantedDead
                    | Rule::SourceStoreInDoubt
                    | Rule::SourceStoreSeekAborted
                    | Rule::SourceStoreOlder
                    | Rule::SourceStoreDead
                    | Rule::SourceVerdictAwaited
                    | Rule::QemuMute
            )
        );
        let licence = state.open && still && !ran_on(state);
        if state.committed {
            // v2: the licence goes out when this copy is gone.
            return match state.granted.filter(|_| !state.open) {
                Some(cookie) => (PeerAnswer::Granted, Some(cookie)),
                None => (PeerAnswer::Performing, None),
            };
        }
        let is_lost = self.is_end_lost(migration);
        // This half is gone; whether the other one needs it, its own QEMU says.
        let lost = state.postcopy && dead && !is_confirmed(state.phase);
        match (state.outcome, state.granted) {
            (Some(Outcome::Committed), Some(_)) if lost => (PeerAnswer::Lost, None),
            (Some(Outcome::Aborted), _) => (PeerAnswer::Abandoned, None),
            (Some(Outcome::Committed), Some(cookie))
                if state.terms.authority == Authority::Manager =>
            {
                (PeerAnswer::Committed, Some(cookie))
            }
            (Some(Outcome::Committed), Some(cookie)) => (PeerAnswer::Granted, Some(cookie)),
            (None, Some(_)) if is_lost => (PeerAnswer::Amnesia, None),
            // Whoever ran on, is damaged, or was closed by an operator gives no licence again.
            (None, Some(_)) if !licence => (PeerAnswer::Performing, None),
            // A source that may have been continued or cancelled is no safe copy to fall back to.
            (None, Some(cookie)) if safe && !state.source_touched => match self.passes_on(id) {
                // The destination takes it first: it may have had the guest already, and lost it.
                Some(Outcome::Committed) => (PeerAnswer::Deciding, Some(cookie)),
                Some(Outcome::Aborted) => (PeerAnswer::Abandoned, None),
                None => (PeerAnswer::GrantedAndSafe, Some(cookie)),
            },
            (None, Some(cookie)) => (PeerAnswer::Granted, Some(cookie)),
            (_, None) if state.abandoned => (PeerAnswer::Abandoned, None),
            (_, None) if lost => (PeerAnswer::Lost, None),
            // Nor does it come from a source whose job an operator closed: nobody looks after it there.
            (_, None) if !state.open => (PeerAnswer::Amnesia, None),
            // Whatever has not arrived there is never sent any more.
            (_, None) if rule == Some(Rule::SourcePerformDeadAsking) => {
                (PeerAnswer::NotWhole, None)
            }
            (_, None) => (PeerAnswer::Performing, None),
        }
    }
}
