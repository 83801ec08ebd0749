//! The other side of a migration that was recognised: who it is, and what its sidecar knows.
//!
//! Invariant: a source is bound to the one job that waits for this very guest and to which nothing had come yet when it was asked
//! about, by a question that went out before the guest did; none or several bind nothing, for good. Of what is heard of that job later only that its client continued the guest there decides
//! anything, and no more than its `quit` would here; all else is told.
//! Not here: which sidecars there are (`sidecar::peer`), what follows from the answer (`decide`).

use journal_format::number::{DomainId, Lsn, Position};
use journal_format::record::{
    EffectStanding, JobKind, JobPhase, JobResult, MigrationStatus, PeerAnswer, Process,
};

use crate::engine::decide::{RunClass, StatusClass, run_class, status_class};
use crate::engine::live::Pending;
use crate::engine::peer::is_intact;
use crate::engine::turn::{Turn, longer};
use crate::engine::{Envelope, Find, Found, FoundAt, Message, Rule, Token};

/// Shortest and longest pause between questions to the other sidecars, in milliseconds.
const FIND_DELAY_MS: (u64, u64) = (50, 15_000);
/// How long a client's `migrate` waits for the other sidecars to say that its guest comes in there, in milliseconds: one that is whole
/// when it is asked about is not believed, and small guests are gone fast.
const SEEK_WAIT_MS: u64 = 100;
/// Who waits for a look at one domain to be told of its migration, at the most.
const FINDERS_MAX: usize = 16;

/// What this life of the process knows of a source's other side.
#[derive(Clone, Debug)]
pub(in crate::engine::job) struct Pairing {
    /// The question that is under way.
    asking: Option<u64>,
    /// No question before this time, in milliseconds since boot.
    ask_at: u64,
    /// How long the last pause was, in milliseconds.
    delay: u64,
    /// What the other side's sidecar said last.
    pub(in crate::engine::job) peer: PeerAnswer,
    /// That sidecar's peer socket.
    pub(in crate::engine::job) address: Option<String>,
    /// Why there is no other side, for people.
    pub(in crate::engine::job) missing: Option<String>,
}

impl Default for Pairing {
    fn default() -> Pairing {
        Pairing {
            asking: None,
            ask_at: 0,
            delay: 0,
            peer: PeerAnswer::NotAsked,
            address: None,
            missing: None,
        }
    }
}

/// A question that went out before the migration began.
#[derive(Clone, Debug)]
pub(in crate::engine) enum Sought {
    /// It is under way, and waited for until then, in milliseconds since boot.
    Asked { number: u64, until: u64 },
    /// What was said.
    Said(Vec<FoundAt>),
}

/// Who looks for the other side, and what was asked.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Finder {
    token: Token,
    envelope: Envelope,
    find: Find,
}

impl Turn<'_> {
    // Looking for it.

    /// Source: asks the other side how it stands, if there is one, it matters, and it is time.
    pub(in crate::engine::job) fn ask_other_side(&mut self, job: Lsn) {
        let Some(known) = self.job(job).filter(|_| self.engine.asks_others) else {
            return;
        };
        let state = &known.state;
        if !state.recognised || state.kind != JobKind::MigrationOut {
            return;
        }
        let Some(begun) = state.other_side else {
            return;
        };
        let (domain, now) = (known.domain, self.now);
        let live = self.job_live(job);
        // Its manager may still be about to say it, unless somebody has to ask whether it did.
        let is_wanted = live.recovering && live.rule == Some(Rule::DrivenSourceCompleted);
        if !is_wanted || live.pairing.asking.is_some() || live.pairing.ask_at > now {
            return;
        }
        let number = self.ask_others(domain, Some(begun));
        self.job_live(job).pairing.asking = Some(number);
    }

    /// Source: a client is about to have this guest sent.
    pub(in crate::engine::job) fn seek_other_side(&mut self, id: DomainId) {
        if self.engine.asks_others {
            let number = self.ask_others(id, None);
            let until = self.now + SEEK_WAIT_MS;
            let sought = Sought::Asked { number, until };
            self.engine.sought.insert(id, sought);
        }
    }

    /// Does a client's `migrate` wait for an answer?
    pub(crate) fn awaits_others(&self, id: DomainId) -> bool {
        let is_about_to = matches!(self.engine.pending.get(&id), Some(Pending::Word { .. }));
        let is_open =
            |sought: &Sought| matches!(sought, Sought::Asked { until, .. } if self.now < *until);
        is_about_to && self.engine.sought.get(&id).is_some_and(is_open)
    }

    /// Time passed: what was waited for long enough is not waited for any more.
    pub(in crate::engine::job) fn tick_sought(&mut self) {
        let asked: Vec<DomainId> = self.engine.sought.keys().copied().collect();
        for id in asked {
            self.begin_if_seen(id);
        }
    }

    fn begin_if_seen(&mut self, id: DomainId) {
        if self.eyes(id).fresh {
            self.begin_pending(id);
        }
    }

    /// Source: the migration began that was asked about before.
    pub(in crate::engine::job) fn take_sought(&mut self, job: Lsn, sought: Option<Sought>) {
        match sought {
            None => {}
            Some(Sought::Asked { number, .. }) => {
                self.job_live(job).pairing.asking = Some(number);
            }
            Some(Sought::Said(answers)) => self.heard_from_others(job, answers),
        }
    }

    fn ask_others(&mut self, domain: DomainId, other_side: Option<Position>) -> u64 {
        self.engine.asked += 1;
        let number = self.engine.asked;
        let find = Find {
            domain,
            job: other_side.map(|begun| begun.lsn),
        };
        let envelope = self.envelope(other_side);
        self.send(Message::Find {
            number,
            envelope,
            find,
        });
        number
    }

    /// Source: the other sidecars have answered, or had time to.
    pub(crate) fn found(&mut self, number: u64, answers: Vec<FoundAt>) {
        let is_it = |(_, sought): &(&DomainId, &Sought)| matches!(sought, Sought::Asked { number: asked, .. } if *asked == number);
        if let Some(id) = self.engine.sought.iter().find(is_it).map(|(id, _)| *id) {
            self.engine.sought.insert(id, Sought::Said(answers));
            return self.begin_if_seen(id);
        }
        let mut live = self.engine.job_live.iter();
        let asked = live.find(|(_, live)| live.pairing.asking == Some(number));
        if let Some(job) = asked.map(|(job, _)| *job) {
            self.heard_from_others(job, answers);
        }
    }

    fn heard_from_others(&mut self, job: Lsn, answers: Vec<FoundAt>) {
        let now = self.now;
        let Some(known) = self.job(job) else {
            return;
        };
        let (domain, phase) = (known.domain, known.state.phase);
        let other_side = known.state.other_side;
        let pairing = &mut self.job_live(job).pairing;
        pairing.asking = None;
        pairing.delay = longer(pairing.delay, FIND_DELAY_MS);
        pairing.ask_at = now + pairing.delay;
        match other_side {
            None => self.bind(job, domain, phase, answers),
            Some(begun) => self.hear_of(job, domain, begun, answers),
        }
    }

    fn bind(&mut self, job: Lsn, domain: DomainId, phase: JobPhase, answers: Vec<FoundAt>) {
        let own = self.engine.config.journal;
        let asked = answers.len();
        let mut here: Vec<(Position, PeerAnswer, String)> = Vec::new();
        for FoundAt { peer, result } in answers {
            let Ok((envelope, found)) = result else {
                continue;
            };
            let Some(theirs) = found.job.filter(|_| found.domain == domain) else {
                continue;
            };
            let begun = Position {
                lsn: theirs,
                ..envelope.sender
            };
            // This sidecar by another path, and another one by two.
            let is_known = |(other, _, _): &(Position, PeerAnswer, String)| {
                (other.journal, other.lsn) == (begun.journal, begun.lsn)
            };
            if begun.journal != own && !here.iter().any(is_known) {
                here.push((begun, found.stands, peer));
            }
        }
        let pairing = &mut self.job_live(job).pairing;
        match here.as_slice() {
            [(begun, PeerAnswer::NotWhole, peer)] => {
                let begun = *begun;
                pairing.missing = None;
                pairing.address = Some(peer.clone());
                (pairing.delay, pairing.ask_at) = (0, 0);
                self.enter_job_with(job, phase, None, Some(begun));
            }
            // What is coming in already, or is whole, may be of an earlier try.
            [(_, stands, _)] => {
                pairing.missing = Some(format!(
                    "the other side was not found: the sidecar that has this guest coming in does not say that it still waits for it, but {stands}"
                ));
            }
            several => {
                pairing.missing = Some(format!(
                    "the other side was not found: of {asked} other sidecars {} have this guest coming in",
                    several.len()
                ));
            }
        }
    }

    /// The job that this one is bound to: how does it stand there?
    fn hear_of(&mut self, job: Lsn, domain: DomainId, begun: Position, answers: Vec<FoundAt>) {
        let said = answers.into_iter().find_map(|FoundAt { peer, result }| {
            let (envelope, found) = result.ok()?;
            let is_it = envelope.sender.journal == begun.journal && found.domain == domain;
            is_it.then_some((peer, envelope, found))
        });
        let (peer, address) = match said {
            None => (PeerAnswer::Unreachable, None),
            Some((peer, envelope, found)) => {
                let is_sound = is_intact(Some(begun), envelope.sender)
                    && self.remembers(envelope.saw)
                    && found.job == Some(begun.lsn);
                let stands = match is_sound {
                    true => found.stands,
                    false => PeerAnswer::Amnesia,
                };
                (stands, Some(peer))
            }
        };
        let pairing = &mut self.job_live(job).pairing;
        pairing.peer = peer;
        pairing.address = address.or(pairing.address.take());
        // Nothing is decided on an old look at this side either.
        self.look(domain);
        self.advance_job(job);
    }

    // Being looked for.

    /// Another sidecar asks whether a guest comes here.
    pub(crate) fn find(&mut self, token: Token, envelope: Envelope, find: Find) {
        let finder = Finder {
            token,
            envelope,
            find,
        };
        if self.comes_in(find.domain).is_none() {
            return self.tell_finder(&finder);
        }
        let finders = self.engine.finders.entry(find.domain).or_default();
        if finders.len() >= FINDERS_MAX {
            let found = Found {
                domain: find.domain,
                job: None,
                stands: PeerAnswer::NotAsked,
            };
            return self.send_found(token, envelope, found);
        }
        finders.push(finder);
        self.look(find.domain);
    }

    /// Those who waited for a fresh look at the domain, or for one that does not come any more.
    pub(crate) fn tell_finders(&mut self, id: DomainId) {
        for finder in self.engine.finders.remove(&id).into_iter().flatten() {
            self.tell_finder(&finder);
        }
    }

    fn tell_finder(&mut self, finder: &Finder) {
        let Finder {
            token,
            envelope,
            find,
        } = *finder;
        let (job, stands) = match self.remembers(envelope.saw) {
            true => self.stands_here(find),
            false => (None, PeerAnswer::Amnesia),
        };
        let found = Found {
            domain: find.domain,
            job,
            stands,
        };
        self.send_found(token, envelope, found);
    }

    fn send_found(&mut self, token: Token, envelope: Envelope, found: Found) {
        let envelope = self.envelope(Some(envelope.sender));
        self.send(Message::Found {
            token,
            envelope,
            found,
        });
    }

    /// The open job by which a client has this guest come here.
    fn comes_in(&self, id: DomainId) -> Option<Lsn> {
        let mut jobs = self.engine.state.jobs_of(id);
        jobs.find(|job| job.state.recognised && job.state.kind == JobKind::MigrationIn)
            .map(|job| job.state.job)
    }

    fn stands_here(&self, find: Find) -> (Option<Lsn>, PeerAnswer) {
        let absent = self.absence();
        if absent == PeerAnswer::Amnesia {
            return (None, absent);
        }
        let open = self.comes_in(find.domain);
        match (open, find.job) {
            (Some(open), wanted) if wanted.is_none_or(|wanted| wanted == open) => {
                (Some(open), self.stands_open(open))
            }
            (_, Some(wanted)) => match self.stood(find.domain, wanted) {
                Some(answer) => (Some(wanted), answer),
                None => (None, absent),
            },
            (_, None) => (None, absent),
        }
    }

    fn stands_open(&self, job: Lsn) -> PeerAnswer {
        let Some(known) = self.job(job) else {
            return PeerAnswer::NoSuchMigration;
        };
        let facts = known.state.facts();
        let Some(observed) = self.seen_now(known.domain) else {
            return PeerAnswer::Deciding;
        };
        let is_undecided =
            facts.main == EffectStanding::Never && facts.end == EffectStanding::Never;
        if observed.process != Process::Alive || !is_undecided {
            return PeerAnswer::Deciding;
        }
        let is_untouched = matches!(
            observed.migration,
            Some(MigrationStatus::None | MigrationStatus::Setup)
        );
        match (
            run_class(observed.run_state.as_ref()),
            status_class(observed.migration.as_ref()),
        ) {
            (RunClass::Inmigrate, _) if is_untouched => PeerAnswer::NotWhole,
            // What is coming in may be of an earlier try, whose source was continued since.
            (RunClass::Inmigrate, _) => PeerAnswer::Performing,
            (RunClass::Paused, StatusClass::Completed) => PeerAnswer::Whole,
            (_, _) => PeerAnswer::Deciding,
        }
    }

    /// What became of a job that is over, where that is known for certain.
    fn stood(&self, id: DomainId, job: Lsn) -> Option<PeerAnswer> {
        let last = self.domain(id)?.state.last_job.as_ref()?;
        if last.job != job || last.kind != JobKind::MigrationIn {
            return None;
        }
        let is_said = last.phase == super::phase(JobPhase::Finish3);
        match last.result {
            // Its client continued it: one that QEMU started by itself, or that goes on without having run, was no word.
            JobResult::Completed if is_said => Some(PeerAnswer::Started),
            // See `is_given_up`.
            JobResult::Cancelled if is_said => Some(PeerAnswer::Aborted),
            JobResult::Completed
            | JobResult::Cancelled
            | JobResult::Failed
            | JobResult::Crashed => None,
        }
    }
}
