//! Which scenes are alike: everything that can make a difference later, and nothing else.
//!
//! Invariant: every structure is taken apart field by field without a rest, so that a new field of the
//! engine must be placed here. Three things are made relative. LSNs are replaced by their rank among
//! all LSNs of that journal in the scene: the engine only compares them, and new ones are higher than
//! all. Points in time are replaced by how many ticks they are away. Tokens are replaced by the order
//! in which they are met. Left out is what is only shown (views, the records that a decision cites).
//! Not here: how scenes are stored (`explore`).

use std::hash::{Hash, Hasher};

use journal_format::number::{Id128, JournalId, Lsn, Position};
use journal_format::record::{
    Cookie, DomainState, EffectCommand, EffectResult, MigrationState, MigrationTerms, Opening,
};

use super::qemu::{Qemu, Stream};
use super::scenario::Faults;
use super::scene::{Ask, Durable, Host, Request, Scene, Stray, Way};
use crate::engine::histories::Histories;
use crate::engine::live::{Eyes, Key, Live, Pending};
use crate::engine::state::{Domain, Migration, State};
use crate::engine::{Config, Engine, Envelope, Input, PeerRequest, PeerResponse, QemuEvent, Token};

/// What a scene is reduced to; two scenes with the same one are taken for the same.
pub(crate) type Fingerprint = u128;

/// Words in the making.
#[derive(Debug, Default)]
struct Canon {
    words: Vec<u64>,
    /// Words that are LSNs, by journal.
    places: Vec<(usize, u8, u64)>,
    tokens: Vec<Token>,
    tick_ms: u64,
}

/// Mixes what a derived [`Hash`] writes into one word.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> 31;
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.unsigned_abs() as u64);
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }
}

/// The fingerprint of a scene.
pub(crate) fn fingerprint(scene: &Scene) -> Fingerprint {
    let Scene {
        scenario,
        left,
        hosts,
        qemus,
        stream,
        asks,
        strays,
        broken: _,
        log: _,
        ..
    } = scene;
    let mut canon = Canon {
        tick_ms: scenario.tick_ms,
        ..Canon::default()
    };
    canon.faults(left);
    qemus.iter().for_each(|qemu| canon.qemu(qemu));
    canon.stream(*stream);
    hosts.iter().for_each(|host| canon.host(host));
    canon.number(asks.len() as u64);
    asks.iter().for_each(|ask| canon.ask(ask));
    strays.iter().for_each(|stray| canon.stray(stray));
    canon.finish()
}

impl Canon {
    fn finish(mut self) -> Fingerprint {
        let mut known: Vec<(u8, u64)> = self
            .places
            .iter()
            .map(|(_, journal, lsn)| (*journal, *lsn))
            .collect();
        known.sort_unstable();
        known.dedup();
        for (place, journal, lsn) in &self.places {
            let rank = known
                .binary_search(&(*journal, *lsn))
                .expect("it was collected");
            let first = known.partition_point(|(other, _)| other < journal);
            self.words[*place] = (rank - first) as u64;
        }
        let (mut one, mut two) = (0x243F_6A88_85A3_08D3_u64, 0x1319_8A2E_0370_7344_u64);
        for word in &self.words {
            one = (one ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            one ^= one >> 32;
            two = two.rotate_left(27).wrapping_add(*word);
            two = two.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
            two ^= two >> 29;
        }
        (u128::from(one) << 64) | u128::from(two)
    }

    fn number(&mut self, number: u64) {
        self.words.push(number);
    }

    fn flags(&mut self, flags: &[bool]) {
        let word = flags
            .iter()
            .fold(1_u64, |word, flag| word << 1 | u64::from(*flag));
        self.number(word);
    }

    /// Something whose derived hash says all, and that has no LSN in it.
    fn plain(&mut self, value: &impl Hash) {
        let mut mixer = Mixer::default();
        value.hash(&mut mixer);
        self.number(mixer.finish());
    }

    fn option<T>(&mut self, value: Option<T>, mut some: impl FnMut(&mut Canon, T)) {
        self.number(u64::from(value.is_some()));
        if let Some(value) = value {
            some(self, value);
        }
    }

    fn lsn(&mut self, journal: JournalId, lsn: Lsn) {
        self.places.push((self.words.len(), journal.0.0[0], lsn.0));
        self.number(0);
    }

    fn token(&mut self, token: Token) {
        let place = self.tokens.iter().position(|known| *known == token);
        let place = place.unwrap_or_else(|| {
            self.tokens.push(token);
            self.tokens.len() - 1
        });
        self.number(place as u64);
    }

    /// A time to come, in ticks.
    fn until(&mut self, now: u64, time: u64) {
        self.number(time.saturating_sub(now).div_ceil(self.tick_ms));
    }

    /// A time gone by, in ticks, as far as anything is judged by it.
    fn since(&mut self, now: u64, time: u64) {
        const JUDGED_MS_MAX: u64 = 5_000;
        let gone = now.saturating_sub(time).min(JUDGED_MS_MAX + self.tick_ms);
        self.number(gone / self.tick_ms);
    }

    /// A pause; all that are shorter than a tick are alike.
    fn pause(&mut self, pause: u64) {
        const PAUSE_MS_MAX: u64 = 15_000;
        self.number(if self.tick_ms > PAUSE_MS_MAX {
            0
        } else {
            pause
        });
    }

    fn faults(&mut self, faults: &Faults) {
        let Faults {
            crashes,
            lost,
            late,
            repeated,
            refused,
            unknown,
            not_sent,
            device,
            deaths,
            journals_lost,
            rollbacks,
            damages,
            mutes,
            foreign,
            stops,
            early_ticks,
        } = faults;
        self.plain(&(crashes, lost, late, repeated, refused, unknown));
        self.plain(&(not_sent, device, deaths, journals_lost, rollbacks));
        self.plain(&(damages, mutes, foreign, stops, early_ticks));
    }

    fn qemu(&mut self, qemu: &Qemu) {
        let Qemu {
            alive,
            mute,
            run,
            status,
            claim,
            instance: _,
            autostart,
            listening,
            was_running,
            newest,
            ran,
            foreign,
            forsaken,
            presumed,
        } = qemu;
        self.flags(&[
            *alive,
            *mute,
            *autostart,
            *listening,
            *was_running,
            *newest,
            *ran,
            *foreign,
            *forsaken,
            *presumed,
        ]);
        self.plain(&(run, status, claim));
    }

    fn stream(&mut self, stream: Stream) {
        let Stream {
            sent,
            newest,
            loaded,
            broken,
        } = stream;
        self.flags(&[sent, newest, loaded, broken]);
    }

    fn host(&mut self, host: &Host) {
        let Host {
            engine,
            durable,
            backup,
            lives: _,
            now,
            requests,
            inputs,
            orphan,
            connected,
            just_crashed,
            just_grew,
        } = host;
        let journal = engine
            .as_ref()
            .map_or(JournalId(Id128::default()), |engine| engine.config.journal);
        self.option(engine.as_ref(), |canon, engine| canon.engine(engine, *now));
        self.option(durable.as_ref(), Canon::durable);
        self.option(backup.as_deref(), Canon::durable);
        self.number(requests.len() as u64);
        for request in requests {
            self.option(
                match request {
                    Request::Look => None,
                    Request::Perform(effect) => Some(effect),
                },
                |canon, effect| {
                    canon.lsn(journal, effect.intent);
                    canon.command(&effect.command);
                },
            );
        }
        self.number(inputs.len() as u64);
        for input in inputs {
            self.input(journal, input);
        }
        self.option(orphan.as_ref(), Canon::command);
        self.flags(&[*connected, *just_crashed, *just_grew]);
    }

    fn durable(&mut self, durable: &Durable) {
        let Durable {
            state,
            next,
            epoch,
            journal,
        } = durable;
        self.plain(&(epoch, journal));
        self.lsn(*journal, *next);
        self.state(*journal, state);
    }

    fn engine(&mut self, engine: &Engine, now: u64) {
        let Engine {
            config,
            state,
            next,
            eyes,
            live,
            pending,
            owners,
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
        self.plain(&(journal, epoch, opening, lossy, no_room));
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
            self.lsn(*journal, *effect);
            self.token(*token);
        }
    }

    fn state(&mut self, journal: JournalId, state: &State) {
        // What else a state has is found again from these, or is nothing outside of an opening.
        self.number(state.openings.len() as u64);
        for opening in &state.openings {
            let Opening {
                epoch,
                opening,
                first,
            } = opening;
            self.plain(&(epoch, opening));
            self.lsn(journal, *first);
        }
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
            } = migration;
            self.migration(journal, state);
            self.option(histories.as_ref(), Canon::histories);
        }
    }

    fn histories(&mut self, histories: &Histories) {
        let Histories { all, writer, cited } = histories;
        self.plain(&(all, writer, cited.is_some()));
    }

    fn domain(&mut self, journal: JournalId, domain: &Domain) {
        let Domain {
            state,
            migration,
            owner_effect,
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
        self.option(owner_effect.as_ref(), |canon, (effect, command)| {
            canon.lsn(journal, *effect);
            canon.command(command);
        });
    }

    fn migration(&mut self, journal: JournalId, state: &MigrationState) {
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
            last_rule,
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
        self.plain(&(phase, outcome, cont, cont_count, peer_answer, last_rule));
        self.plain(&(key_intent, key_read, verdict));
        self.option(licence.as_ref(), Canon::cookie);
        self.lsn(journal, *job);
        self.option(granted.as_ref(), Canon::cookie);
        self.option(in_flight.as_ref(), |canon, (effect, command)| {
            canon.lsn(journal, *effect);
            canon.command(command);
        });
        self.option(peer_position.as_ref(), Canon::position);
    }

    fn eyes(&mut self, eyes: &Eyes, now: u64) {
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

    fn live(&mut self, live: &Live, now: u64) {
        let Live {
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
            recorded,
            key,
            verdict,
        } = live;
        self.key(key, now);
        self.option(verdict.as_ref(), |canon, pending| {
            canon.token(pending.token);
            canon.plain(&pending.outcome);
            canon.since(now, pending.since);
            canon.flags(&[pending.answered]);
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

    fn key(&mut self, key: &Key, now: u64) {
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
        self.option(*in_doubt_since, |canon, since| canon.since(now, since));
    }

    fn pending(&mut self, pending: &Pending) {
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
        }
    }

    fn position(&mut self, position: &Position) {
        let Position {
            journal,
            epoch,
            opening,
            lsn,
        } = position;
        self.plain(&(journal, epoch, opening));
        self.lsn(*journal, *lsn);
    }

    fn cookie(&mut self, cookie: &Cookie) {
        let Cookie {
            migration,
            nonce,
            granted,
            authority,
            wanted,
        } = cookie;
        self.plain(&(migration, nonce, authority, wanted));
        self.position(granted);
    }

    fn envelope(&mut self, envelope: &Envelope) {
        let Envelope { sender, saw } = envelope;
        self.position(sender);
        self.option(saw.as_ref(), Canon::position);
    }

    fn request(&mut self, request: &PeerRequest) {
        match request {
            PeerRequest::Prepare {
                migration,
                protocol,
                authority,
                name: _,
                source_name: _,
                peer: _,
                uri: _,
                wanted,
                definition: _,
                postcopy,
                store: _,
            } => self.plain(&(1, migration, protocol, authority, wanted, postcopy)),
            PeerRequest::Finish { cookie } => {
                self.number(2);
                self.cookie(cookie);
            }
            PeerRequest::Abandon { migration } => self.plain(&(3, migration)),
            PeerRequest::Ask { migration } => self.plain(&(4, migration)),
            PeerRequest::Acknowledge { migration } => self.plain(&(5, migration)),
            PeerRequest::Resume { migration } => self.plain(&(6, migration)),
        }
    }

    fn response(&mut self, response: &PeerResponse) {
        match response {
            PeerResponse::Prepared { nonce } => self.plain(&(1, nonce)),
            // Why is for people.
            PeerResponse::Refused { why: _ } => self.number(2),
            PeerResponse::Answer { answer, cookie } => {
                self.plain(&(3, answer));
                self.option(cookie.as_ref(), Canon::cookie);
            }
        }
    }

    fn command(&mut self, command: &EffectCommand) {
        self.plain(command);
    }

    fn input(&mut self, journal: JournalId, input: &Input) {
        match input {
            Input::Looked {
                domain: _,
                observed,
            } => {
                self.number(1);
                self.plain(observed);
            }
            Input::Event { domain: _, event } => match event {
                QemuEvent::Stop => self.number(2),
                QemuEvent::Resume => self.number(3),
                QemuEvent::Lost => self.number(4),
                QemuEvent::Migration(status) => {
                    self.number(5);
                    self.plain(status);
                }
                QemuEvent::Converging { downtime } => self.plain(&(8, downtime)),
            },
            Input::EffectFinished { effect, result } => {
                self.number(6);
                self.lsn(journal, *effect);
                self.number(match result {
                    EffectResult::Done => 1,
                    EffectResult::Refused { .. } => 2,
                    EffectResult::NotSent { .. } => 3,
                    EffectResult::Unknown { .. } => 4,
                });
            }
            // A monitor says nothing else.
            Input::Control { .. }
            | Input::Peer { .. }
            | Input::PeerAnswered { .. }
            | Input::StoreAnswered { .. }
            | Input::Tick => self.number(7),
        }
    }

    fn ask(&mut self, ask: &Ask) {
        let Ask {
            from,
            token,
            envelope,
            request,
            way,
        } = ask;
        self.number(*from as u64);
        self.token(*token);
        match way {
            Way::There => {
                self.number(1);
                self.envelope(envelope);
                self.request(request);
            }
            // What was asked is with the one who was asked.
            Way::Asked => self.number(2),
            Way::Back(envelope, response) => {
                self.number(3);
                self.envelope(envelope);
                self.response(response);
            }
            Way::Broken => self.number(4),
        }
    }

    fn stray(&mut self, stray: &Stray) {
        let Stray {
            from,
            envelope,
            request,
        } = stray;
        self.number(*from as u64);
        self.envelope(envelope);
        self.request(request);
    }
}
