//! Talking to the other side: what is asked, what is answered, and whose word counts.
//!
//! Invariant: an answer drawn from absence counts only from the journal that was there before, at or
//! past the LSN seen; otherwise it is amnesia, and both hold. Every message carries the sender's
//! position and what it last saw of the receiver's.
//! Not here: what is said of how a migration stands (`answer`), what follows from an answer (`decide`).

use journal_format::number::{MigrationId, Nonce, Position};
use journal_format::record::{
    Authority, Cookie, MigrationNamed, OutcomeLearned, PeerAnswer, PeerHeard, PeerPrepared,
    Protocol, RecordBody, Role,
};

use super::live::{Asked, Pending};
use super::state::{Domain, Migration, awaits_prepare};
use super::suppose::{outcome_told, taken};
use super::turn::{Turn, longer};
use super::{Envelope, Message, PeerFailure, PeerRequest, PeerResponse, Token};

/// Shortest and longest pause between asks that changed nothing, in milliseconds.
const ASK_DELAY_MS: (u64, u64) = (50, 2_000);
/// Longest pause between asks about a migration whose job has ended, in milliseconds.
const KEPT_ASK_DELAY_MS_MAX: u64 = 15_000;
/// To a finish with a cookie that does not fit.
const NO_LICENCE: &str = "the cookie is not of this migration";
/// Askers that wait for one migration at the same time, at the most.
const WAITING_MAX: usize = 16;

/// Is a journal that says `now` the one that was seen at `seen`, with all it had then? A later
/// epoch is taken at its word: that journal itself checks that its history contains what was seen.
pub(crate) fn is_intact(seen: Option<Position>, now: Position) -> bool {
    let Some(seen) = seen else { return true };
    seen.journal == now.journal
        && (now.epoch > seen.epoch || (now.epoch == seen.epoch && now.opening == seen.opening))
}

/// Was this sent before something of the same life that is known already? It lost nothing: it is
/// late.
fn is_late(seen: Option<Position>, now: Position) -> bool {
    seen.is_some_and(|seen| now.opening == seen.opening && now.lsn < seen.lsn)
}

/// May the other side's position replace the one seen before without a further proof? In the same
/// life it only grows. A later life may have begun from an older copy of the journal: it first has
/// to show that it remembers what was seen, by an answer to a question that says so.
fn is_same_life(seen: Option<Position>, now: Position) -> bool {
    seen.is_none_or(|seen| now.opening == seen.opening && now.lsn >= seen.lsn)
}

impl Turn<'_> {
    // Asking.

    /// Asks the other side, unless an ask is under way or it is too early for another.
    pub(crate) fn ask(&mut self, id: MigrationId, asked: Asked, request: PeerRequest) {
        let now = self.now;
        let Some(migration) = self.migration(id) else {
            return;
        };
        let (peer, saw) = (
            migration.state.terms.peer.clone(),
            migration.state.peer_position,
        );
        let live = self.live(id);
        if live.asked.is_some() || live.ask_at > now {
            return;
        }
        live.asked = Some(asked);
        let saw = live.peer_position.or(saw);
        let envelope = self.envelope(saw);
        self.send(Message::Ask {
            peer,
            envelope,
            request,
        });
    }

    pub(crate) fn peer_answered(
        &mut self,
        id: MigrationId,
        result: Result<(Envelope, PeerResponse), PeerFailure>,
    ) {
        let Some(asked) = self
            .engine
            .live
            .get_mut(&id)
            .and_then(|live| live.asked.take())
        else {
            return;
        };
        if self.migration(id).is_none() {
            return;
        }
        self.pause_asking(id);
        let counts = match result {
            Err(failure) => {
                self.peer_failed(id, asked, &failure);
                true
            }
            Ok((envelope, response)) => self.peer_said(id, asked, envelope, response),
        };
        if counts && asked == Asked::Verdict && self.migration(id).is_some() {
            self.verdict_answered(id);
        }
        if let Some(domain) = self.migration(id).map(|migration| migration.domain) {
            self.look(domain);
        }
        self.advance(id);
    }

    fn pause_asking(&mut self, id: MigrationId) {
        let now = self.now;
        let open = self
            .migration(id)
            .is_some_and(|migration| migration.state.open);
        let most = if open {
            ASK_DELAY_MS.1
        } else {
            KEPT_ASK_DELAY_MS_MAX
        };
        let live = self.live(id);
        live.ask_delay = longer(live.ask_delay, (ASK_DELAY_MS.0, most));
        live.ask_at = now + live.ask_delay;
    }

    fn peer_failed(&mut self, id: MigrationId, asked: Asked, failure: &PeerFailure) {
        let (why, sent) = match failure {
            PeerFailure::NotSent(why) => (why, false),
            PeerFailure::Unreachable(why) | PeerFailure::Refused(why) => (why, true),
        };
        let live = self.live(id);
        live.peer = PeerAnswer::Unreachable;
        // Nobody is there to end the blackout soon.
        live.blackout = false;
        if asked == Asked::Prepare {
            self.prepare_failed(id, why, sent);
        }
    }

    fn prepare_failed(&mut self, id: MigrationId, why: &str, sent: bool) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        if !awaits_prepare(&migration.state) {
            return;
        }
        let why = format!("prepare at the destination: {why}");
        if sent {
            self.abandon(id, &why, false);
        }
        self.end(id, journal_format::record::JobResult::Failed, &why);
        if !sent {
            self.forget(id);
        }
    }

    /// False for one that does not say how the other side stands: a refusal, or an answer that comes too late.
    fn peer_said(
        &mut self,
        id: MigrationId,
        asked: Asked,
        envelope: Envelope,
        response: PeerResponse,
    ) -> bool {
        let seen = self.seen_of(id);
        let intact = is_intact(seen, envelope.sender) && self.remembers(envelope.saw);
        let (answer, cookie) = match response {
            PeerResponse::Prepared { nonce, nbd } => {
                if asked == Asked::Prepare && intact {
                    self.prepared(id, nonce, nbd, envelope.sender);
                }
                self.live(id).listens = asked == Asked::Resume && intact;
                return true;
            }
            PeerResponse::Refused { why } => {
                if asked == Asked::Prepare {
                    self.prepare_failed(id, &why, true);
                }
                return false;
            }
            // No yes and no no: it lost what it had, and prepares nothing.
            PeerResponse::Answer { answer, .. } if asked == Asked::Prepare => {
                self.prepare_failed(id, answer.name(), true);
                return true;
            }
            PeerResponse::Answer { answer, cookie } => (answer, cookie),
        };
        if intact && is_late(seen, envelope.sender) {
            // Something newer was heard meanwhile; it is asked again.
            return false;
        }
        let answer = if intact { answer } else { PeerAnswer::Amnesia };
        if intact {
            let now = self.now;
            let live = self.live(id);
            live.heard_at = now;
            // It was told what was seen of it before, and does not say that it lacks that.
            if answer != PeerAnswer::Amnesia {
                live.peer_position = Some(envelope.sender);
            }
        }
        self.heard(id, answer, envelope.sender, cookie);
        let kept = self
            .migration(id)
            .is_some_and(|known| !known.state.open && known.state.terms.role == Role::Destination);
        // A kept outcome is of use only to a source that can still ask for it.
        let useless = matches!(answer, PeerAnswer::NoSuchMigration | PeerAnswer::Amnesia);
        if asked == Asked::Acknowledge {
            self.acknowledged(id, answer);
        } else if kept && answer == PeerAnswer::Amnesia {
            // What the key says may still help whoever lost its journal.
            self.forget_for_good(id);
        } else if kept && useless {
            self.forget(id);
        }
        true
    }

    /// The destination is ready: perform begins.
    fn prepared(&mut self, id: MigrationId, nonce: Nonce, nbd: Option<String>, position: Position) {
        let awaits = |known: &Migration| awaits_prepare(&known.state);
        if !self.migration(id).is_some_and(awaits) {
            return;
        }
        if let Err(why) = self.learn_nbd(id, nbd) {
            return self.prepare_failed(id, why, true);
        }
        let prepared = PeerPrepared {
            migration: id,
            nonce,
            position,
        };
        self.record(id, RecordBody::PeerPrepared(prepared));
        self.live(id).peer_position = Some(position);
        self.begin_perform(id);
    }

    /// The other side said how it stands.
    fn heard(
        &mut self,
        id: MigrationId,
        answer: PeerAnswer,
        sender: Position,
        cookie: Option<Cookie>,
    ) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let state = &migration.state;
        let role = state.terms.role;
        let authority = state.terms.authority;
        let granted = state.granted.is_some();
        let open = state.open;
        let damaged = self
            .domain(migration.domain)
            .is_some_and(|domain| domain.state.damaged);
        let answer = match (role, taken(role, answer, granted, open)) {
            (
                Role::Destination,
                PeerAnswer::Granted
                | PeerAnswer::GrantedAndSafe
                | PeerAnswer::Deciding
                | PeerAnswer::Committed,
            ) => match cookie {
                Some(cookie) if self.is_licence(id, &cookie, sender) => {
                    self.live(id).cookie = Some(cookie);
                    answer
                }
                // Its copy went to another prepare, and is gone: nothing is sent to this one any more.
                Some(cookie) if self.is_of_another_prepare(id, &cookie, sender) => {
                    PeerAnswer::NotWhole
                }
                Some(_) | None => PeerAnswer::Performing,
            },
            (Role::Source | Role::Destination, other) => other,
        };
        let changed = self.live(id).peer != answer;
        self.live(id).peer = answer;
        let recorded = self
            .migration(id)
            .is_some_and(|known| known.state.peer_answer == answer);
        // What a destination hears after its job ended decides nothing; a source keeps on until
        // it knows that the destination knows.
        if changed && !recorded && (open || role == Role::Source) {
            let proven = answer != PeerAnswer::Amnesia && is_same_life(self.seen_of(id), sender);
            let position = proven.then_some(sender);
            let heard = PeerHeard {
                migration: id,
                position,
                answer,
            };
            self.record(id, RecordBody::PeerHeard(heard));
        }
        if authority == Authority::Store && changed && role == Role::Source {
            // The destination decides nothing; that it says something new, the key may tell why.
            self.read_key_soon(id);
        }
        let outcome = outcome_told(role, authority, answer, granted, damaged);
        let known = self.migration(id).and_then(|known| known.state.outcome);
        if let (Some(outcome), None, true) = (outcome, known, open) {
            let learned = OutcomeLearned {
                migration: id,
                outcome,
                position: Some(sender),
            };
            self.record(id, RecordBody::OutcomeLearned(learned));
            self.live(id).effect_at = 0;
            self.live(id).blackout = false;
        }
    }

    /// The other side durably has the outcome, forgot it after it had it, or cannot have it.
    fn acknowledged(&mut self, id: MigrationId, answer: PeerAnswer) {
        match answer {
            PeerAnswer::Started
            | PeerAnswer::Aborted
            | PeerAnswer::Lost
            | PeerAnswer::NoSuchMigration
            | PeerAnswer::Amnesia => self.forget(id),
            PeerAnswer::NotAsked
            | PeerAnswer::Unreachable
            | PeerAnswer::Performing
            | PeerAnswer::Granted
            | PeerAnswer::GrantedAndSafe
            | PeerAnswer::Abandoned
            | PeerAnswer::NotWhole
            | PeerAnswer::Whole
            | PeerAnswer::Deciding
            | PeerAnswer::Split
            | PeerAnswer::Committed => {}
        }
    }

    /// A migration of which the other side needs nothing any more.
    fn forget(&mut self, id: MigrationId) {
        match self.has_key_to_release(id) {
            true => self.release_key(id),
            false => self.forget_for_good(id),
        }
    }

    pub(crate) fn forget_for_good(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        if !migration.state.open {
            self.record(
                id,
                RecordBody::MigrationForgotten(MigrationNamed { migration: id }),
            );
            // Who asked meanwhile hears that there is nothing any more.
            self.answer_lookers(id);
            self.engine.live.remove(&id);
        }
    }

    /// A migration whose job ended.
    pub(crate) fn after_end(&mut self, id: MigrationId) {
        match self
            .migration(id)
            .map(|migration| migration.state.terms.role)
        {
            Some(Role::Source) => self.after_end_source(id),
            Some(Role::Destination) => self.after_end_destination(id),
            None => {}
        }
    }

    // Being asked.

    /// What is said of a migration that is not known: a journal with damaged records does not have all
    /// that it ever had.
    pub(crate) fn absence(&self) -> PeerAnswer {
        let is_damaged = |domain: &Domain| domain.state.damaged;
        let mut domains = self.engine.state.domains.iter();
        if self.engine.lossy || domains.any(|(_, domain)| is_damaged(domain)) {
            PeerAnswer::Amnesia
        } else {
            PeerAnswer::NoSuchMigration
        }
    }

    /// Does this journal still have what somebody saw of it?
    pub(crate) fn remembers(&self, saw: Option<Position>) -> bool {
        let Some(saw) = saw else { return true };
        let own = self.position();
        saw.journal == own.journal && self.engine.state.contains(&saw, own.lsn)
    }

    pub(crate) fn peer(
        &mut self,
        token: Token,
        envelope: Envelope,
        nonce: Nonce,
        request: PeerRequest,
    ) {
        let id = request.migration();
        let seen = self.seen_of(id);
        let intact = is_intact(seen, envelope.sender) && self.remembers(envelope.saw);
        // A source that lost its journal has lost its migrations too: it neither prepares an old one nor
        // has a licence for it. Whoever does says nothing about the journal that was there before.
        if matches!(request, PeerRequest::Prepare { .. }) && self.is_used(id) {
            return self.refuse(token, envelope, "this migration was prepared here before");
        }
        let is_stranger = seen.is_some_and(|seen| seen.journal != envelope.sender.journal);
        if matches!(request, PeerRequest::Finish { .. }) && is_stranger {
            return self.refuse(token, envelope, NO_LICENCE);
        }
        if !intact {
            if self.migration(id).is_some() {
                self.heard(id, PeerAnswer::Amnesia, envelope.sender, None);
                self.answer(token, envelope, PeerAnswer::Amnesia, None);
                self.advance(id);
            } else {
                self.answer(token, envelope, PeerAnswer::Amnesia, None);
            }
            return;
        }
        // What is refused leaves no trace: who shows a false licence may be wrong about itself too.
        if let PeerRequest::Finish { cookie } = &request
            && !self.may_finish(cookie, envelope.sender)
        {
            return self.refuse(token, envelope, NO_LICENCE);
        }
        if self.migration(id).is_some() {
            let now = self.now;
            let is_question = matches!(request, PeerRequest::Ask { .. });
            let live = self.live(id);
            if is_same_life(seen, envelope.sender) {
                live.peer_position = Some(envelope.sender);
            }
            // Somebody who only asks has not said how it stands on its side.
            if !is_question {
                live.heard_at = now;
            }
        }
        match request {
            PeerRequest::Prepare { .. } => self.asked_prepare(token, envelope, nonce, request),
            PeerRequest::Finish { cookie } => self.asked_finish(token, envelope, cookie),
            PeerRequest::Abandon { migration } => self.asked_abandon(token, envelope, migration),
            PeerRequest::Ask { migration } => self.asked_how(token, envelope, migration),
            PeerRequest::Resume { migration } => self.asked_resume(token, envelope, migration),
            PeerRequest::Acknowledge { migration } => {
                self.asked_acknowledge(token, envelope, migration);
            }
        }
    }

    pub(crate) fn answer(
        &mut self,
        token: Token,
        envelope: Envelope,
        answer: PeerAnswer,
        cookie: Option<Cookie>,
    ) {
        let response = PeerResponse::Answer { answer, cookie };
        self.peer_reply(token, Some(envelope.sender), response);
    }

    /// The other side's position as it was last seen.
    pub(crate) fn seen_of(&self, id: MigrationId) -> Option<Position> {
        let live = self.engine.live.get(&id);
        let recorded = || self.migration(id)?.state.peer_position;
        live.and_then(|live| live.peer_position).or_else(recorded)
    }

    pub(crate) fn refuse(&mut self, token: Token, envelope: Envelope, why: &str) {
        let response = PeerResponse::Refused {
            why: why.to_owned(),
        };
        self.peer_reply(token, Some(envelope.sender), response);
    }

    fn asked_prepare(
        &mut self,
        token: Token,
        envelope: Envelope,
        nonce: Nonce,
        request: PeerRequest,
    ) {
        let PeerRequest::Prepare {
            name,
            protocol,
            authority,
            postcopy,
            store,
            ..
        } = &request
        else {
            return;
        };
        if envelope.sender.journal == self.engine.config.journal {
            return self.refuse(
                token,
                envelope,
                "the source and the destination are one sidecar",
            );
        }
        if let Some(why) = super::control::unacceptable(&request) {
            return self.refuse(token, envelope, &why);
        }
        if let Err(refusal) = self.need_room() {
            return self.refuse(token, envelope, &refusal.to_string());
        }
        if !is_offered(*protocol, *authority, *postcopy) {
            let with = if *postcopy { " and post-copy" } else { "" };
            let why =
                format!("protocol {protocol} with authority {authority}{with} is not offered here");
            return self.refuse(token, envelope, &why);
        }
        if let Some(why) = self.other_store(*authority, store.as_deref()) {
            return self.refuse(token, envelope, &why);
        }
        let Some(domain) = self.domain_named(name) else {
            let why = format!("no domain named '{name}' is registered at the destination");
            return self.refuse(token, envelope, &why);
        };
        if self.engine.pending.contains_key(&domain) {
            let why = format!("domain '{name}' is about to begin another job");
            return self.refuse(token, envelope, &why);
        }
        let pending = Pending::Prepare {
            token,
            envelope,
            nonce,
            request,
        };
        self.engine.pending.insert(domain, pending);
        self.look_at_settings(domain);
        self.look_for_disks(domain);
        self.look(domain);
    }

    /// Why the source's store cannot be the authority here, if it cannot.
    fn other_store(&self, authority: Authority, theirs: Option<&str>) -> Option<String> {
        let own = self.engine.config.store.as_deref();
        match (authority, own, theirs) {
            (Authority::Destination | Authority::Source | Authority::Manager, _, None) => None,
            (Authority::Store, Some(own), Some(theirs)) if own == theirs => None,
            (Authority::Store, None, _) => Some(
                "authority store: the destination's sidecar was started without a store".to_owned(),
            ),
            (Authority::Store, Some(own), theirs) => Some(format!(
                "authority store: the destination's store is '{own}', the source's is '{}'",
                theirs.unwrap_or_default()
            )),
            (authority, _, Some(_)) => Some(format!("authority {authority} has no store")),
        }
    }

    /// Does a migration have this id, or did the last one of a domain have it, or is one about to begin
    /// with it?
    fn is_used(&self, id: MigrationId) -> bool {
        let is_last = |domain: &Domain| {
            let last = domain.state.last_job.as_ref();
            last.is_some_and(|last| last.migration == Some(id))
        };
        let is_about_to = |pending: &Pending| matches!(pending, Pending::Prepare { request, .. } if request.migration() == id);
        let mut domains = self.engine.state.domains.iter();
        self.migration(id).is_some()
            || domains.any(|(_, domain)| is_last(domain))
            || self.engine.pending.values().any(is_about_to)
    }

    fn asked_finish(&mut self, token: Token, envelope: Envelope, cookie: Cookie) {
        let id = cookie.migration;
        if self.migration(id).is_none() {
            return self.answer(token, envelope, self.absence(), None);
        }
        self.wait(id, token, envelope);
        let is_waiting = self.migration(id).is_some_and(|known| {
            known.state.terms.authority == Authority::Manager && !known.state.committed
        });
        let answer = match self.live(id).peer {
            // The licence is repeated until the manager speaks, and says less than an answer.
            known @ (PeerAnswer::GrantedAndSafe | PeerAnswer::Deciding | PeerAnswer::Committed)
                if is_waiting =>
            {
                known
            }
            _ => PeerAnswer::Granted,
        };
        self.heard(id, answer, envelope.sender, Some(cookie));
        self.look_for(id);
        self.advance(id);
    }

    fn asked_abandon(&mut self, token: Token, envelope: Envelope, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return self.answer(token, envelope, self.absence(), None);
        };
        if migration.state.terms.role != Role::Destination {
            return self.refuse(token, envelope, "this side is the source of that migration");
        }
        let is_proven = is_same_life(self.seen_of(id), envelope.sender);
        self.wait(id, token, envelope);
        if !migration_decided(self, id) && !is_proven {
            // A life that began from an older journal gives up what an earlier one went on with: it is
            // asked whether it has what was seen of that one.
            self.ask(id, Asked::Ask, PeerRequest::Ask { migration: id });
        } else if !migration_decided(self, id) {
            self.live(id).cookie = None;
            self.heard(id, PeerAnswer::Abandoned, envelope.sender, None);
            self.look_for(id);
        }
        self.advance(id);
    }

    fn asked_how(&mut self, token: Token, envelope: Envelope, id: MigrationId) {
        if self.migration(id).is_none() {
            return self.answer(token, envelope, self.absence(), None);
        }
        let live = self.live(id);
        if live.looking.len() >= WAITING_MAX {
            return self.refuse(token, envelope, "too many ask about this migration");
        }
        live.looking.push(token);
        if self.awaits_verdict(id) {
            // A source asks when it has a verdict: this side asks for it at once.
            self.live(id).ask_at = 0;
        }
        match self.look_for(id) {
            true => {}
            // Nothing to look at any more.
            false => self.answer_lookers(id),
        }
    }

    fn asked_acknowledge(&mut self, token: Token, envelope: Envelope, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return self.answer(token, envelope, self.absence(), None);
        };
        if migration.state.terms.role != Role::Destination {
            return self.refuse(token, envelope, "this side is the source of that migration");
        }
        let answer = self.destination_answer(id);
        if matches!(
            answer,
            PeerAnswer::Started | PeerAnswer::Aborted | PeerAnswer::Lost
        ) {
            self.forget(id);
        }
        self.answer(token, envelope, answer, None);
    }

    fn wait(&mut self, id: MigrationId, token: Token, envelope: Envelope) {
        let now = self.now;
        if self.live(id).waiting.len() >= WAITING_MAX {
            return self.refuse(token, envelope, "too many wait for this migration");
        }
        self.live(id).waiting.push((token, now));
    }

    /// Looks at a migration's domain; false if it is not there any more.
    pub(crate) fn look_for(&mut self, id: MigrationId) -> bool {
        let Some(domain) = self.migration(id).map(|migration| migration.domain) else {
            return false;
        };
        let there = self.domain(domain).is_some();
        if there {
            self.look(domain);
        }
        there
    }
}

/// Which protocols a destination takes part in, and who may decide.
pub(crate) fn is_offered(protocol: Protocol, authority: Authority, postcopy: bool) -> bool {
    match (protocol, authority) {
        (Protocol::V2, Authority::Source) => !postcopy,
        (Protocol::V3, Authority::Destination) => true,
        // A guest that is split already would have to wait for the store, or the manager.
        (Protocol::V3, Authority::Store | Authority::Manager) => !postcopy,
        (Protocol::V2, Authority::Destination | Authority::Store | Authority::Manager)
        | (Protocol::V3, Authority::Source) => false,
    }
}

pub(crate) fn migration_decided(turn: &Turn<'_>, id: MigrationId) -> bool {
    turn.migration(id).is_some_and(|migration| {
        let state = &migration.state;
        state.aborted || state.committed || !state.open
    })
}
