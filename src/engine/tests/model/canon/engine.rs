//! The engine, taken apart.
//!
//! Invariant: see [`super`]: no field without its place.
//! Not here: what is made relative, and how (`canon`).

use journal_format::number::JournalId;
use journal_format::record::{DomainState, MigrationState, MigrationTerms};

use super::Canon;
use crate::engine::histories::Histories;
use crate::engine::live::{Eyes, Key, Live, Pending};
use crate::engine::state::{Domain, Migration, State};
use crate::engine::{Config, Engine, IN_DOUBT_LIMIT_MS_DEFAULT, StoreRequest};

impl Canon {
    pub(super) fn engine(&mut self, engine: &Engine, now: u64) {
        let Engine {
            config,
            state,
            next,
            eyes,
            live,
            pending,
            // Of no guest here QEMU has any.
            settings: _,
            // Nobody here has other jobs than migrations.
            job_eyes: _,
            job_live: _,
            owners,
            // No scenario has clients on a monitor.
            monitors: _,
            finders: _,
            sought: _,
            asked: _,
            asks_others: _,
            // Only whether a message was sent that nobody waits for here.
            ready: _,
            lossy,
            no_room,
        } = engine;
        let Config {
            journal,
            epoch,
            opening,
            // Those of the state count.
            openings: _,
            // The first of this life: it stands among the openings.
            next: _,
            boot: _,
            peer: _,
            // The same for everyone.
            store: _,
        } = config;
        self.plain(&(journal, lossy, no_room));
        self.opening(*journal, *epoch, *opening);
        self.lsn(*journal, *next);
        self.state(*journal, state);
        for eyes in eyes.values() {
            self.eyes(eyes, now);
        }
        for (name, live) in live {
            self.plain(name);
            self.live(live, now);
        }
        for pending in pending.values() {
            self.pending(pending);
        }
        for (effect, token) in owners {
            self.name(*journal, *effect);
            self.token(*token);
        }
    }

    pub(super) fn state(&mut self, journal: JournalId, state: &State) {
        // What else a state has is found again from these, or is nothing outside of an opening.
        self.lists.push((journal, state.openings.clone()));
        for (id, domain) in state.domains.iter() {
            self.plain(id);
            self.domain(journal, domain);
        }
        for migration in state.migrations.values() {
            let Migration {
                domain: _,
                state,
                // What a decision cites.
                fact: _,
                seen: _,
                heard: _,
                histories,
                // No migration here is told any.
                settings: _,
                // None is copied here.
                disks: _,
            } = migration;
            self.migration(journal, state);
            self.option(histories.as_ref(), Canon::histories);
        }
    }

    pub(super) fn histories(&mut self, histories: &Histories) {
        let Histories { all, writer, cited } = histories;
        self.plain(&(all, writer, cited.is_some()));
    }

    pub(super) fn domain(&mut self, journal: JournalId, domain: &Domain) {
        let Domain {
            state,
            migration,
            owner_effect,
            // Only looked at for what its owner asks outside a migration.
            sent: _,
            // The checkpoint of the next opening is silent on it.
            gap: _,
        } = domain;
        let DomainState {
            name: _,
            qmp: _,
            instance: _,
            wanted,
            definition: _,
            claim,
            dead,
            damaged,
            // Shown, never looked at.
            last_job: _,
        } = state;
        self.plain(&(wanted, claim, dead, damaged, migration));
        if let Some(claim) = claim {
            self.epoch(claim.journal, claim.epoch);
        }
        self.option(owner_effect.as_ref(), |canon, (effect, command)| {
            canon.name(journal, *effect);
            canon.command(command);
        });
    }

    pub(super) fn migration(&mut self, journal: JournalId, state: &MigrationState) {
        let MigrationState {
            job,
            open,
            terms,
            phase,
            migrate_intended,
            postcopy_intended,
            postcopy: is_postcopy,
            source_touched,
            granted,
            abandoned,
            cancel_asked,
            committed,
            started,
            aborted,
            outcome,
            cont,
            cont_count,
            in_flight,
            peer_position,
            peer_answer,
            // Only whether the same decision is recorded again.
            last_rule: _,
            key_intent,
            licence,
            key_read,
            verdict,
        } = state;
        let MigrationTerms {
            migration,
            role,
            protocol,
            authority,
            peer: _,
            peer_domain: _,
            uri: _,
            max_bandwidth: _,
            downtime_limit: _,
            postcopy,
            nonce,
            store: _,
            in_doubt_limit: _,
        } = terms;
        self.plain(&(migration, role, protocol, authority, postcopy, nonce));
        self.flags(&[
            *open,
            *migrate_intended,
            *postcopy_intended,
            *is_postcopy,
            *source_touched,
            *abandoned,
            *cancel_asked,
            *committed,
            *started,
            *aborted,
        ]);
        self.plain(&(phase, outcome, cont, cont_count, peer_answer));
        self.plain(&(key_intent, key_read, verdict));
        self.option(licence.as_ref(), Canon::cookie);
        self.name(journal, *job);
        self.option(granted.as_ref(), Canon::cookie);
        self.option(in_flight.as_ref(), |canon, (effect, command)| {
            canon.name(journal, *effect);
            canon.command(command);
        });
        self.option(peer_position.as_ref(), Canon::position);
    }

    pub(super) fn eyes(&mut self, eyes: &Eyes, now: u64) {
        let Eyes {
            observed,
            fresh,
            looking,
            again,
            look_at,
            interval,
        } = eyes;
        self.plain(observed);
        self.flags(&[*fresh, *looking, *again]);
        self.until(now, *look_at);
        self.pause(*interval);
    }

    pub(super) fn live(&mut self, live: &Live, now: u64) {
        let Live {
            // For people.
            begun: _,
            recovering,
            // Only whether the sidecar says that it is ready.
            decided: _,
            rule,
            peer,
            peer_position,
            asked,
            ask_at,
            ask_delay,
            effect_at,
            effect_delay,
            plan,
            wish,
            prepare,
            resume,
            listens,
            waiting,
            looking,
            cookie,
            heard_at,
            stop_seen,
            watch_broken,
            // Only when the journal does slow things.
            blackout: _,
            converging,
            may_converge,
            // No migration here has times to keep, or settings to put back.
            since: _,
            passes: _,
            is_overtime: _,
            put_back: _,
            // For people.
            abandoned: _,
            recorded,
            key,
            verdict,
            // None is copied here.
            disks: _,
        } = live;
        self.key(key, now);
        self.option(verdict.as_ref(), |canon, pending| {
            canon.token(pending.token);
            canon.plain(&pending.outcome);
            canon.since(now, pending.since);
            canon.plain(&pending.answered);
        });
        self.flags(&[*recovering, *stop_seen, *watch_broken, *may_converge]);
        self.plain(converging);
        self.plain(&(rule, peer, recorded));
        self.option(peer_position.as_ref(), Canon::position);
        self.option(asked.as_ref(), |canon, asked| canon.number(*asked as u64));
        self.until(now, *ask_at);
        self.pause(*ask_delay);
        self.until(now, *effect_at);
        self.pause(*effect_delay);
        self.number(plan.len() as u64);
        for command in plan {
            self.command(command);
        }
        self.option(*wish, Canon::token);
        self.option(*prepare, Canon::token);
        self.option(*resume, Canon::token);
        self.flags(&[*listens]);
        self.number(waiting.len() as u64);
        for (token, since) in waiting {
            self.token(*token);
            self.since(now, *since);
        }
        self.number(looking.len() as u64);
        for token in looking {
            self.token(*token);
        }
        self.option(cookie.as_ref(), Canon::cookie);
        self.since(now, *heard_at);
    }

    pub(super) fn request_for_key(&mut self, request: StoreRequest) {
        self.plain(&match request {
            StoreRequest::Read => None,
            StoreRequest::Change(change) => Some(change),
        });
    }

    pub(super) fn key(&mut self, key: &Key, now: u64) {
        let Key {
            answer,
            busy,
            at,
            delay,
            in_doubt_since,
        } = key;
        self.plain(answer);
        self.flags(&[*busy]);
        self.until(now, *at);
        self.pause(*delay);
        self.option(*in_doubt_since, |canon, since| {
            let gone = now.saturating_sub(since);
            let most = IN_DOUBT_LIMIT_MS_DEFAULT + canon.tick_ms;
            canon.number(gone.min(most) / canon.tick_ms);
        });
    }

    pub(super) fn pending(&mut self, pending: &Pending) {
        match pending {
            Pending::Migrate { token, request: _ } => {
                self.number(1);
                self.token(*token);
            }
            Pending::Prepare {
                token,
                envelope,
                nonce,
                request,
            } => {
                self.number(2);
                self.token(*token);
                self.envelope(envelope);
                self.plain(nonce);
                self.request(request);
            }
            Pending::SetWanted { token, wanted } => {
                self.number(3);
                self.token(*token);
                self.plain(wanted);
            }
            Pending::JobBegin { token, .. }
            | Pending::JobPhase { token, .. }
            | Pending::Word { token, .. } => {
                self.number(4);
                self.token(*token);
            }
        }
    }
}
