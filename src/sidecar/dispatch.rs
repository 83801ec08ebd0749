//! Takes what the node hands out and brings each thing to the task that carries it out.
//!
//! Invariant: it never waits for another task, so the node can always hand out; everything that
//! must be answered is given to somebody who answers, or answered here.
//! Not here: carrying anything out (`monitor`, `peer`), waiting callers (`link`).

use std::collections::HashMap;
use std::path::PathBuf;

use journal_format::number::{BootId, DomainId, Lsn};
use journal_format::record::{Effect, EffectResult, Process};
use serde_json::Value;
use tokio::sync::{broadcast, watch};
use tracing::{debug, info, warn};

use super::control;
use super::link::{HandedOut, Link};
use super::monitor::{Monitor, Request, Watched};
use super::observe;
use super::peer::PeerClients;
use super::progress::ProgressBoard;
use super::proxy::{Front, Passage, Proxies};
use super::store::StoreClient;
use super::take_over::TakenOver;
use crate::engine::{Input, JobSeen, Message, Notice};
use crate::journal::Durable;

/// Most notices that a slow control client may lag behind before it is cut off.
pub(crate) const NOTICE_QUEUE_MAX: usize = 1024;

/// Who is asked outside of this host.
#[derive(Debug)]
pub(crate) struct Outside {
    /// Other sidecars.
    pub(crate) peers: PeerClients,
    /// The store that may be an authority.
    pub(crate) store: StoreClient,
}

/// The dispatcher's state.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    boot: BootId,
    link: Link,
    board: ProgressBoard,
    peers: PeerClients,
    store: StoreClient,
    notices: broadcast::Sender<(&'static str, Value)>,
    ready: watch::Sender<bool>,
    monitors: HashMap<DomainId, Monitor>,
    proxies: Proxies,
}

impl Dispatcher {
    /// A dispatcher without any domain. `ready` becomes true with the engine's word.
    pub(crate) fn new(
        boot: BootId,
        link: Link,
        board: ProgressBoard,
        Outside { peers, store }: Outside,
        notices: broadcast::Sender<(&'static str, Value)>,
        ready: watch::Sender<bool>,
        proxies: Proxies,
    ) -> Dispatcher {
        Dispatcher {
            boot,
            peers,
            link,
            board,
            store,
            notices,
            ready,
            monitors: HashMap::new(),
            proxies,
        }
    }

    /// Hands out what a turn of the node brought; to be called within the runtime. Who watches changes first, so that effects for a new domain find
    /// its monitor.
    pub(crate) fn hand_out(&mut self, handed_out: HandedOut) {
        let HandedOut {
            time,
            effects,
            messages,
            mut passages,
        } = handed_out;
        let (watching, others): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| {
            matches!(message, Message::Watch { .. } | Message::Unwatch { .. })
        });
        for message in watching {
            self.deliver(time, message);
        }
        for effect in effects.each() {
            let passage = passages.remove(&effect.get().intent);
            self.perform(effect, passage);
        }
        for message in others {
            self.deliver(time, message);
        }
    }

    /// `passage`: a client of the domain's monitor sent it.
    fn perform(&self, effect: Durable<Effect>, passage: Option<Option<Passage>>) {
        let (domain, intent) = (effect.get().domain, effect.get().intent);
        let request = match passage {
            None => Request::Perform(effect),
            Some(Some(passage)) => Request::Pass(effect, Box::new(passage)),
            Some(None) => return self.not_sent(domain, intent, "its client hung up"),
        };
        let Some(monitor) = self.monitors.get(&domain) else {
            return self.not_sent(domain, intent, "its domain is not watched");
        };
        // A passage that comes back is dropped, which its client hears.
        if monitor.request(request).is_err() {
            self.not_sent(domain, intent, "too much waits for its domain's QEMU");
        }
    }

    fn not_sent(&self, domain: DomainId, intent: Lsn, why: &str) {
        warn!(%domain, lsn = %intent, why, "effect not sent");
        self.tell_later(Input::EffectFinished {
            effect: intent,
            result: EffectResult::NotSent {
                why: why.to_owned(),
            },
        });
    }

    fn look(&self, domain: DomainId) {
        let is_queued = self
            .monitors
            .get(&domain)
            .is_some_and(|monitor| monitor.request(Request::Look).is_ok());
        if !is_queued {
            warn!(%domain, "no look: not watched, or too much waits for its QEMU");
            let observed = observe::silent(Process::Mute, None);
            self.tell_later(Input::Looked { domain, observed });
        }
    }

    fn look_at_job(&self, domain: DomainId) {
        let is_queued = self
            .monitors
            .get(&domain)
            .is_some_and(|monitor| monitor.request(Request::LookAtJob).is_ok());
        if !is_queued {
            let seen = JobSeen::default();
            self.tell_later(Input::JobLooked { domain, seen });
        }
    }

    fn look_at_settings(&self, domain: DomainId) {
        let is_queued = self
            .monitors
            .get(&domain)
            .is_some_and(|monitor| monitor.request(Request::LookAtSettings).is_ok());
        if !is_queued {
            self.tell_later(Input::SettingsLooked { domain, seen: None });
        }
    }

    /// Sends an input without waiting for room in the node's queue. There are never more of these
    /// than the engine waits for.
    fn tell_later(&self, input: Input) {
        let link = self.link.clone();
        tokio::spawn(async move { link.tell(input).await });
    }

    fn deliver(&mut self, time: u64, message: Message) {
        match message {
            // The link has answered the callers before.
            Message::Reply { .. }
            | Message::PeerReply { .. }
            | Message::Found { .. }
            | Message::Admitted { .. } => {}
            Message::Ask {
                peer,
                envelope,
                request,
            } => self.peers.ask(peer, envelope, request),
            Message::Find {
                number,
                envelope,
                find,
            } => self.peers.find(number, envelope, find),
            Message::Store { migration, request } => self.store.ask(migration, request),
            Message::Look { domain } => self.look(domain),
            Message::LookAtJob { domain } => self.look_at_job(domain),
            Message::LookAtSettings { domain } => self.look_at_settings(domain),
            Message::Watch {
                domain,
                name,
                qmp,
                instance,
            } => {
                let watched = Watched {
                    domain,
                    name,
                    qmp: PathBuf::from(qmp),
                    instance,
                };
                let front = TakenOver::from_behind(&watched.qmp)
                    .map(|taken| Front::new(taken, instance, self.boot));
                let port = self.proxies.start(domain, &watched.name, instance, front);
                let before = self.monitors.remove(&domain);
                let monitor = Monitor::start(
                    watched,
                    self.boot,
                    self.link.clone(),
                    self.board.clone(),
                    port,
                    before,
                );
                self.monitors.insert(domain, monitor);
            }
            // Its task answers what it was still asked, and ends.
            Message::Unwatch { domain } => {
                drop(self.monitors.remove(&domain));
                self.proxies.stop(domain);
            }
            Message::Notify(notice) => {
                log(&notice);
                // Nobody may be listening.
                drop(self.notices.send(control::event(&notice, time)));
            }
            Message::Ready => {
                self.proxies.has_all();
                self.ready.send_replace(true);
            }
        }
    }
}

/// One line per notice. What guests and QEMU say is only ever a field.
fn log(notice: &Notice) {
    match notice {
        Notice::Decision(decision) => info!(
            domain = %decision.name,
            job = %decision.job,
            lsn = %decision.lsn,
            rule = %decision.rule,
            decision = %decision.decision,
            reason = %decision.reason,
            "decision"
        ),
        Notice::JobBegun(job) => {
            info!(domain = %job.name, job = %job.job, kind = %job.kind, "job begun");
        }
        Notice::PhaseEntered(job) => info!(
            domain = %job.name,
            job = %job.job,
            phase = job.phase.map(tracing::field::display),
            "phase entered"
        ),
        Notice::JobEnded(job) => info!(
            domain = %job.name,
            job = %job.job,
            result = job.result.map(tracing::field::display),
            detail = %job.detail,
            "job ended"
        ),
        Notice::DomainAdded(domain) => {
            info!(domain = %domain.name, uuid = %domain.uuid, pid = domain.pid, "domain added");
        }
        Notice::DomainRemoved(domain) => info!(domain = %domain.name, "domain removed"),
        Notice::WantedChanged(domain) => {
            debug!(domain = %domain.name, wanted = domain.wanted.map(|wanted| wanted.name()), "wanted run state changed");
        }
    }
}
