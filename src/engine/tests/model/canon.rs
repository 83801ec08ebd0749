//! Which scenes are alike: everything that can make a difference later, and nothing else.
//!
//! Invariant: every structure is taken apart field by field without a rest, so that a new field of the
//! engine must be placed here. These are made relative:
//! - how far a journal is, in a position or at an opening: replaced by its rank among all such LSNs of that
//!   journal in the scene. The engine only compares them, and new ones are higher than all;
//! - epochs and openings: by their rank too. An opening that no position in the scene is of is left out
//!   of the list of openings: the list is only asked whether it has one;
//! - LSNs that are names (of a job, of an effect), and tokens: by the order in which they are met. The
//!   engine only asks whether two are the same one;
//! - points in time: by how many ticks they are away.
//!
//! Left out is what is only shown: views, the records that a decision cites, the last rule on record (it
//! only keeps the same decision from being recorded again), the LSN in a licence.
//! Not here: how scenes are stored (`explore`).

mod engine;

use std::hash::{Hash, Hasher};

use journal_format::number::{Epoch, Id128, JournalId, Lsn, OpeningId, Position};
use journal_format::record::{ClaimSeen, Cookie, EffectCommand, EffectResult, Opening, Outcome};

use super::qemu::{Qemu, Stream};
use super::scenario::Faults;
use super::scene::{Ask, Durable, Host, Request, Scene, Stray, Way};
use super::split::Split;
use crate::engine::{Envelope, Input, PeerRequest, PeerResponse, QemuEvent, Token};

/// What a scene is reduced to; two scenes with the same one are taken for the same.
pub(crate) type Fingerprint = u128;

/// Words in the making.
#[derive(Debug, Default)]
struct Canon {
    words: Vec<u64>,
    /// Words that become ranks: where, among which, and what.
    places: Vec<(usize, Among, u64)>,
    /// Lists of openings, to be written when it is known which of them are asked for.
    lists: Vec<(JournalId, Vec<Opening>)>,
    names: Vec<(JournalId, Lsn)>,
    tokens: Vec<Token>,
    tick_ms: u64,
}

/// Numbers that are compared with each other: those of one kind, of the journal whose identity begins
/// with that byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Among {
    Lsns(u8),
    Epochs(u8),
    Openings(u8),
}

/// More than most scenes need.
const WORDS: usize = 512;

/// An opening as a number; identities here are one byte again and again.
fn opening_number(epoch: Epoch, opening: OpeningId) -> u64 {
    u64::from(epoch.0) << 8 | u64::from(opening.0.0[0])
}

/// Mixes what a derived [`Hash`] writes into one word.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
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
        key,
        key_asks,
        key_strays,
        said,
        words,
        apart,
        broken: _,
        log: _,
        ..
    } = scene;
    let mut canon = Canon {
        words: Vec::with_capacity(WORDS),
        places: Vec::with_capacity(WORDS / 4),
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
    canon.plain(key);
    canon.plain(&(
        said.contains(&Outcome::Committed),
        said.contains(&Outcome::Aborted),
    ));
    canon.plain(&(words, apart));
    for ask in key_asks {
        canon.number(ask.from as u64);
        canon.request_for_key(ask.request);
        canon.flags(&[ask.excused]);
        canon.plain(&ask.result.as_ref().map(|result| result.as_ref().ok()));
    }
    canon.number(key_strays.len() as u64);
    for stray in key_strays {
        canon.request_for_key(stray.request);
        canon.flags(&[stray.excused]);
    }
    canon.finish()
}

impl Canon {
    fn finish(mut self) -> Fingerprint {
        self.write_lists();
        let mut known: Vec<(Among, u64)> = self
            .places
            .iter()
            .map(|(_, among, number)| (*among, *number))
            .collect();
        known.sort_unstable();
        known.dedup();
        for (place, among, number) in &self.places {
            let rank = known
                .binary_search(&(*among, *number))
                .expect("it was collected");
            let first = known.partition_point(|(other, _)| other < among);
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

    /// The openings that somebody asks for, each with where it ends.
    fn write_lists(&mut self) {
        let asked: Vec<(Among, u64)> = self
            .places
            .iter()
            .map(|(_, among, number)| (*among, *number))
            .filter(|(among, _)| matches!(among, Among::Openings(_)))
            .collect();
        for (journal, openings) in core::mem::take(&mut self.lists) {
            self.number(0);
            for (number, one) in openings.iter().enumerate() {
                let key = opening_number(one.epoch, one.opening);
                if asked.contains(&(Among::Openings(journal.0.0[0]), key)) {
                    self.opening(journal, one.epoch, one.opening);
                    let next = openings.get(number + 1);
                    self.option(next, |canon, next| canon.lsn(journal, next.first));
                }
            }
        }
    }

    fn rank(&mut self, among: Among, number: u64) {
        self.places.push((self.words.len(), among, number));
        self.number(0);
    }

    /// How far a journal is, or was.
    fn lsn(&mut self, journal: JournalId, lsn: Lsn) {
        self.rank(Among::Lsns(journal.0.0[0]), lsn.0);
    }

    fn epoch(&mut self, journal: JournalId, epoch: Epoch) {
        self.rank(Among::Epochs(journal.0.0[0]), u64::from(epoch.0));
    }

    fn opening(&mut self, journal: JournalId, epoch: Epoch, opening: OpeningId) {
        self.epoch(journal, epoch);
        let number = opening_number(epoch, opening);
        self.rank(Among::Openings(journal.0.0[0]), number);
    }

    /// An LSN that is the name of something.
    fn name(&mut self, journal: JournalId, lsn: Lsn) {
        let name = (journal, lsn);
        let place = self.names.iter().position(|known| *known == name);
        let place = place.unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        self.number(place as u64);
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
        const JUDGED_MS_MAX: u64 = 12_000;
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
            breaks,
            deaths,
            journals_lost,
            rollbacks,
            damages,
            mutes,
            foreign,
            stops,
            starts,
            verdicts,
            key_late,
            key_repeated,
            gone,
            early_ticks,
        } = faults;
        self.plain(&(crashes, lost, late, repeated, refused, unknown));
        self.plain(&(not_sent, device, breaks, deaths, journals_lost, rollbacks));
        self.plain(&(damages, mutes, foreign, stops, early_ticks));
        self.plain(&(key_late, key_repeated, gone, starts, verdicts));
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
            continued,
            split,
            newest,
            ran,
            foreign,
            forsaken,
            presumed,
        } = qemu;
        let Split {
            told,
            asked,
            goes_over,
            reconnects,
            partial,
        } = split;
        if !alive {
            // What it was, nothing asks for any more; only how the stream went on that it sent.
            return self.flags(&[*ran, *foreign, *goes_over]);
        }
        self.flags(&[*told, *asked, *goes_over, *reconnects, *partial, *continued]);
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
        self.claim(claim);
    }

    /// A claim is told apart by its epoch, which may be the present one.
    fn claim(&mut self, claim: &ClaimSeen) {
        if let ClaimSeen::Present(claim) = claim {
            self.epoch(claim.journal, claim.epoch);
        }
    }

    fn stream(&mut self, stream: Stream) {
        let Stream {
            sent,
            newest,
            loaded,
            broken,
            silent,
        } = stream;
        self.flags(&[sent, newest, loaded, broken, silent]);
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
            gone,
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
                    canon.name(journal, effect.intent);
                    canon.command(&effect.command);
                },
            );
        }
        self.number(inputs.len() as u64);
        for input in inputs {
            self.input(journal, input);
        }
        self.option(orphan.as_ref(), Canon::command);
        self.flags(&[*connected, *just_crashed, *just_grew, *gone]);
    }

    fn durable(&mut self, durable: &Durable) {
        let Durable {
            state,
            next,
            epoch,
            journal,
        } = durable;
        self.plain(journal);
        self.epoch(*journal, Epoch(*epoch));
        self.lsn(*journal, *next);
        self.state(*journal, state);
    }

    fn position(&mut self, position: &Position) {
        let Position {
            journal,
            epoch,
            opening,
            lsn,
        } = position;
        self.plain(journal);
        self.opening(*journal, *epoch, *opening);
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
        let Position {
            journal,
            epoch,
            opening: _,
            lsn: _,
        } = granted;
        self.plain(journal);
        self.epoch(*journal, *epoch);
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
                definition_checksum: _,
                settings: _,
                // None is copied here.
                disks: _,
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
            PeerResponse::Prepared { nonce, nbd: _ } => self.plain(&(1, nonce)),
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
            Input::JobLooked { .. } => self.number(9),
            Input::Event { domain: _, event } => match event {
                QemuEvent::Stop => self.number(2),
                QemuEvent::Resume => self.number(3),
                QemuEvent::Lost => self.number(4),
                QemuEvent::Migration(status) => {
                    self.number(5);
                    self.plain(status);
                }
                QemuEvent::Converging { downtime } => self.plain(&(8, downtime)),
                QemuEvent::Passes { count } => self.plain(&(10, count)),
            },
            Input::EffectFinished { effect, result } => {
                self.number(6);
                self.name(journal, *effect);
                self.number(match result {
                    EffectResult::Done => 1,
                    EffectResult::Refused { .. } => 2,
                    EffectResult::NotSent { .. } => 3,
                    EffectResult::Unknown { .. } => 4,
                });
            }
            // A monitor says nothing else.
            Input::Control { .. }
            | Input::Monitor { .. }
            | Input::Peer { .. }
            | Input::Find { .. }
            | Input::Found { .. }
            | Input::PeerAnswered { .. }
            | Input::StoreAnswered { .. }
            | Input::SettingsLooked { .. }
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
