//! Post-copy: the guest goes over before all of its memory did, and a stream that broke is taken up
//! again by the two sidecars, without a human.
//!
//! Invariant: nothing here undoes anything. After `migrate-continue` in post-copy the guest is split
//! over both sides; `migrate_cancel` would destroy it (QEMU accepts it) and is never sent.
//! Not here: which rule holds (`decide`), the handover itself (`source`, `destination`).

use journal_format::number::MigrationId;
use journal_format::record::{
    EffectCommand, EffectResult, Evidence, PeerAnswer, Phase, Process, Role,
};

use super::decide::{StatusClass, status_class};
use super::live::Asked;
use super::source::describe;
use super::turn::Turn;
use super::{Envelope, PeerRequest, PeerResponse, Token};

/// How long a stream that was taken up again may look broken before the destination is asked to
/// listen once more, in milliseconds: QEMU connects after it has answered.
const RECONNECT_MS_MAX: u64 = 1_000;

impl Turn<'_> {
    /// Source, performing: after the first pass the guest may go over at the next switchover. True if
    /// this is how this migration converges.
    pub(crate) fn start_postcopy(&mut self, id: MigrationId) -> bool {
        let Some(migration) = self.migration(id) else {
            return false;
        };
        if !migration.state.terms.postcopy {
            return false;
        }
        let (is_begun, after) = (
            migration.state.postcopy_intended,
            migration.postcopy_after(),
        );
        if !is_begun && !self.is_postcopy_due(id) {
            // Until then it may converge as any other; without a wish nothing is known before the first pass is over.
            return after.is_none();
        }
        // Once more only with something new about it.
        if self.effect_due(id) && (self.live(id).converging.take().is_some() || !is_begun) {
            self.cite_look(id);
            self.intend(id, EffectCommand::StartPostcopy);
        }
        true
    }

    /// Source: everything went over, at once or after the stream was taken up again.
    pub(crate) fn enter_confirm(&mut self, id: MigrationId) {
        let Some(phase) = self.migration(id).map(|migration| migration.state.phase) else {
            return;
        };
        match phase {
            Phase::PostcopyFailed
            | Phase::BeginResume
            | Phase::PerformResume
            | Phase::ConfirmResume => self.enter(id, Phase::ConfirmResume),
            Phase::Begin3
            | Phase::Perform2
            | Phase::Perform3
            | Phase::Perform3Done
            | Phase::Confirm3
            | Phase::Confirm3Cancelled
            | Phase::Prepare
            | Phase::Finish2
            | Phase::Finish3
            | Phase::PrepareResume
            | Phase::FinishResume => self.enter(id, Phase::Confirm3),
        }
    }

    /// Source: the stream broke. The destination is asked to listen, then QEMU goes on.
    pub(crate) fn resume_stream(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let (phase, uri) = (migration.state.phase, migration.state.terms.uri.clone());
        if !matches!(phase, Phase::BeginResume | Phase::PostcopyFailed) {
            if self.live(id).ask_at > self.now {
                // It was taken up a moment ago.
                return;
            }
            self.enter(id, Phase::PostcopyFailed);
        }
        if self.live(id).listens {
            if self.effect_due(id) {
                let now = self.now;
                let live = self.live(id);
                live.listens = false;
                live.ask_at = now + RECONNECT_MS_MAX;
                self.cite_look(id);
                self.enter(id, Phase::PerformResume);
                self.intend(id, EffectCommand::MigrateResume { uri });
            }
            return;
        }
        self.enter(id, Phase::BeginResume);
        self.ask(id, Asked::Resume, PeerRequest::Resume { migration: id });
    }

    /// A source asks this side to listen for its stream once more.
    pub(crate) fn asked_resume(&mut self, token: Token, envelope: Envelope, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return self.answer(token, envelope, PeerAnswer::NoSuchMigration, None);
        };
        let state = &migration.state;
        if state.terms.role != Role::Destination {
            return self.refuse(token, envelope, "this side is the source of that migration");
        }
        if !state.open {
            let answer = self.destination_answer(id);
            return self.answer(token, envelope, answer, None);
        }
        if !state.terms.postcopy {
            return self.refuse(token, envelope, "this migration is no post-copy");
        }
        if self.live(id).resume.is_some() {
            return self.refuse(token, envelope, "this side is about to listen already");
        }
        self.live(id).resume = Some(token);
        if !self.look_for(id) {
            self.refuse_resume(id, "the domain is not registered any more");
        }
        self.advance(id);
    }

    pub(crate) fn refuse_resume(&mut self, id: MigrationId, why: &str) {
        let token = self
            .engine
            .live
            .get_mut(&id)
            .and_then(|live| live.resume.take());
        if let Some(token) = token {
            let response = PeerResponse::Refused {
                why: why.to_owned(),
            };
            let saw = self.seen_of(id);
            self.peer_reply(token, saw, response);
        }
    }

    /// Destination: the source says that the stream broke, and QEMU here has not noticed: where packets
    /// are lost it may wait for a quarter of an hour. It is told to give the stream up, past all that
    /// waits for memory, and then says broken. True if that is what is done now.
    pub(crate) fn give_up_stream(&mut self, id: MigrationId, evidence: &Evidence) -> bool {
        let observed = &evidence.observed;
        let flows = status_class(observed.migration.as_ref()) == StatusClass::Postcopy;
        let is_there = matches!(observed.process, Process::Alive | Process::Mute);
        let asked = self.live(id).resume.is_some();
        if !asked || !evidence.facts.started || !is_there || !flows {
            return false;
        }
        if self.effect_due(id) {
            self.cite_look(id);
            self.intend(id, EffectCommand::MigratePause);
        }
        true
    }

    /// Destination: the stream broke, and only the source can take it up again. How it stands there
    /// is asked too: its half may be gone.
    pub(crate) fn await_resume(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let (phase, uri) = (migration.state.phase, migration.state.terms.uri.clone());
        if phase != Phase::PrepareResume {
            self.enter(id, Phase::PostcopyFailed);
        }
        if self.live(id).resume.is_some() {
            if self.effect_due(id) {
                self.cite_look(id);
                self.enter(id, Phase::PrepareResume);
                self.intend(id, EffectCommand::MigrateRecover { uri });
            }
            return;
        }
        self.ask(id, Asked::Ask, PeerRequest::Ask { migration: id });
    }

    /// Destination: QEMU listens again, or does not.
    pub(crate) fn listened_again(&mut self, id: MigrationId, result: &EffectResult) {
        if *result != EffectResult::Done {
            let why = format!("migrate-recover {}", describe(result));
            return self.refuse_resume(id, &why);
        }
        let nonce = self
            .migration(id)
            .and_then(|migration| migration.state.terms.nonce);
        let token = self.live(id).resume.take();
        if let (Some(token), Some(nonce)) = (token, nonce) {
            let saw = self.seen_of(id);
            self.peer_reply(token, saw, PeerResponse::Prepared { nonce, nbd: None });
        }
    }

    /// Destination: a stream that had broken flows again, or has ended.
    pub(crate) fn stream_goes_on(&mut self, id: MigrationId) {
        let phase = self.migration(id).map(|migration| migration.state.phase);
        if matches!(phase, Some(Phase::PrepareResume | Phase::PostcopyFailed)) {
            self.enter(id, Phase::FinishResume);
        }
    }

    /// Destination: QEMU ended before it had all of the guest. The phase says so for good.
    pub(crate) fn enter_lost(&mut self, id: MigrationId) {
        let postcopy = self
            .migration(id)
            .is_some_and(|migration| migration.state.terms.postcopy);
        if postcopy {
            self.enter(id, Phase::PostcopyFailed);
        }
    }
}
