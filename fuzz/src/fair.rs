//! Surroundings that do what they are asked: QEMUs and another sidecar that bring a migration on, up to
//! the moment from which on anything may happen.
//! Not here: what happens then (`control`, `peer`); real QEMU's ways (`src/engine/tests/world`).

use std::collections::BTreeMap;

use journal_format::number::{DomainId, Id128, MigrationId};
use journal_format::record::{
    Authority, Claim, ClaimSeen, Cookie, DumpStatus, Effect, EffectCommand, EffectResult, KeyValue,
    MigrationStatus, Observed, PeerAnswer, Process, Protocol, RunState, Settings, WantedRunState,
};
use phase_journal::engine::{
    ControlRequest, Input, JobSeen, MigrateOptions, PeerRequest, PeerResponse, QemuEvent,
};

use super::bytes::Bytes;
use super::harness::{Harness, Life};
use super::inputs::{NONCE, its_instance};

/// The domain that migrates, whichever way.
pub(super) const DOMAIN: DomainId = DomainId(Id128([1; 16]));
/// Its name.
pub(super) const NAME: &str = "g";
/// The migration.
pub(super) const MIGRATION: MigrationId = MigrationId(Id128([0x40; 16]));

/// A QEMU as far as a migration goes.
struct Qemu {
    process: Process,
    run_state: RunState,
    migration: MigrationStatus,
    claim: Option<Claim>,
    /// It waits for a stream.
    is_incoming: bool,
    /// At the switchover the guest goes over with what it has.
    postcopy: bool,
}

/// The QEMUs, and what the other sidecar has said.
pub(super) struct Fair {
    qemus: BTreeMap<DomainId, Qemu>,
    terms: Terms,
    /// The other side is the source, and has sent everything.
    has_sent: bool,
    /// The stream broke after the guest went over; once is enough.
    has_broken: bool,
}

/// What a migration was begun with.
#[derive(Clone, Copy)]
struct Terms {
    protocol: Protocol,
    authority: Authority,
    wanted: WantedRunState,
    postcopy: bool,
    /// What can go wrong does: the stream breaks in post-copy, else the destination gives up.
    fails: bool,
}

/// Protocol, authority and whether the memory may follow: all that there are.
const KINDS: &[(Protocol, Authority, bool)] = &[
    (Protocol::V3, Authority::Destination, false),
    (Protocol::V3, Authority::Destination, true),
    (Protocol::V2, Authority::Source, false),
    (Protocol::V3, Authority::Store, false),
    (Protocol::V3, Authority::Manager, false),
];

impl Fair {
    /// A domain, and a migration out or in that is so many steps on its way; all of it drawn.
    pub(super) fn drawn(choices: &mut Bytes<'_>, harness: &mut Harness, life: &mut Life) -> Fair {
        let (protocol, authority, postcopy) = choices.pick(KINDS);
        let is_source = choices.yes();
        let wanted = choices.pick(WantedRunState::ALL);
        let (run_state, is_incoming) = match (is_source, wanted) {
            (true, WantedRunState::Running) => (RunState::Running, false),
            (true, WantedRunState::Paused) => (RunState::Paused, false),
            (false, _) => (RunState::Inmigrate, true),
        };
        let qemu = Qemu {
            process: Process::Alive,
            run_state,
            migration: MigrationStatus::None,
            claim: None,
            is_incoming,
            postcopy: false,
        };
        let terms = Terms {
            protocol,
            authority,
            wanted,
            postcopy,
            fails: choices.yes(),
        };
        let mut fair = Fair {
            qemus: BTreeMap::from([(DOMAIN, qemu)]),
            terms,
            has_sent: false,
            has_broken: false,
        };
        let steps = choices.below(64);
        fair.begin(harness, life, is_source);
        for _ in 0..steps {
            fair.step(harness, life);
        }
        fair
    }

    fn begin(&mut self, harness: &mut Harness, life: &mut Life, is_source: bool) {
        let Terms {
            protocol,
            authority,
            wanted,
            postcopy,
            fails: _,
        } = self.terms;
        let request = ControlRequest::DomainAdd {
            name: NAME.to_owned(),
            domain: DOMAIN,
            qmp: "/qmp".to_owned(),
            instance: its_instance(DOMAIN),
            observed: self.observed(DOMAIN),
            definition: None,
        };
        let token = harness.token(life);
        harness.step(life, Input::Control { token, request });
        self.step(harness, life);
        let token = harness.token(life);
        if is_source {
            let request = ControlRequest::Migrate {
                name: NAME.to_owned(),
                migration: MIGRATION,
                peer: "there".to_owned(),
                peer_domain: NAME.to_owned(),
                uri: "unix:/m".to_owned(),
                protocol,
                authority,
                max_bandwidth: None,
                downtime_limit: None,
                postcopy,
                in_doubt_limit: None,
                options: MigrateOptions::default(),
                disks: None,
            };
            return harness.step(life, Input::Control { token, request });
        }
        let request = PeerRequest::Prepare {
            migration: MIGRATION,
            protocol,
            authority,
            name: NAME.to_owned(),
            source_name: NAME.to_owned(),
            peer: "there".to_owned(),
            uri: "unix:/m".to_owned(),
            wanted,
            postcopy,
            store: (authority == Authority::Store).then(|| "store".to_owned()),
            definition: None,
            definition_checksum: None,
            settings: Settings::default(),
            disks: None,
        };
        self.ask_as_peer(harness, life, request);
    }

    /// One thing that the engine waits for happens as it should; if there is none, the stream goes on
    /// and time passes.
    pub(super) fn step(&mut self, harness: &mut Harness, life: &mut Life) {
        if let Some(effect) = pop(&mut life.effects) {
            self.carry_out(&effect);
            harness.around.done(&effect);
            let (effect, result) = (effect.intent, EffectResult::Done);
            return harness.step(life, Input::EffectFinished { effect, result });
        }
        if let Some(domain) = pop(&mut life.looks) {
            let observed = self.observed(domain);
            return harness.step(life, Input::Looked { domain, observed });
        }
        if let Some(domain) = pop(&mut life.job_looks) {
            let seen = JobSeen {
                dump: Some(DumpStatus::None),
                qemu_jobs: Some(Vec::new()),
                nodes: Some(Vec::new()),
                exports: Some(Vec::new()),
            };
            return harness.step(life, Input::JobLooked { domain, seen });
        }
        if let Some(migration) = pop(&mut life.keys) {
            let journal = harness.around.peer_position().journal;
            let nonce = NONCE;
            let result = Ok(Some(KeyValue::Committed { journal, nonce }));
            return harness.step(life, Input::StoreAnswered { migration, result });
        }
        if let Some(request) = pop(&mut life.asks) {
            let migration = request.migration();
            let result = Ok((harness.around.fair_envelope(), self.answer(&request)));
            return harness.step(life, Input::PeerAnswered { migration, result });
        }
        self.stream(harness, life);
        harness.tick(life, 40);
    }

    /// The other sidecar asks.
    pub(super) fn ask_as_peer(
        &mut self,
        harness: &mut Harness,
        life: &mut Life,
        request: PeerRequest,
    ) {
        let token = harness.token(life);
        let input = Input::Peer {
            token,
            envelope: harness.around.fair_envelope(),
            nonce: NONCE,
            request,
        };
        harness.step(life, input);
    }

    /// The licence that a source with these terms gives.
    pub(super) fn cookie(&self, harness: &mut Harness) -> Cookie {
        Cookie {
            migration: MIGRATION,
            nonce: NONCE,
            granted: harness.around.peer_position(),
            authority: self.terms.authority,
            wanted: self.terms.wanted,
        }
    }

    fn observed(&self, domain: DomainId) -> Observed {
        let qemu = self.qemus.get(&domain);
        let alive = qemu.filter(|qemu| qemu.process == Process::Alive);
        Observed {
            process: alive.map_or(Process::Dead, |qemu| qemu.process),
            instance: Some(its_instance(domain)),
            run_state: alive.map(|qemu| qemu.run_state.clone()),
            migration: alive.map(|qemu| qemu.migration.clone()),
            claim: match alive.map(|qemu| qemu.claim) {
                None => ClaimSeen::Unread,
                Some(None) => ClaimSeen::Absent,
                Some(Some(claim)) => ClaimSeen::Present(claim),
            },
        }
    }

    fn carry_out(&mut self, effect: &Effect) {
        let Some(qemu) = self.qemus.get_mut(&effect.domain) else {
            return;
        };
        match &effect.command {
            EffectCommand::Claim(claim) => qemu.claim = Some(*claim),
            EffectCommand::Unclaim => qemu.claim = None,
            EffectCommand::SetCapabilities { .. }
            | EffectCommand::SetParameters { .. }
            | EffectCommand::Monitor { .. } => {}
            EffectCommand::MigrateIncoming { .. } => qemu.migration = MigrationStatus::Setup,
            EffectCommand::Migrate { .. } => qemu.migration = MigrationStatus::Setup,
            EffectCommand::MigrateContinue => qemu.migration = MigrationStatus::Device,
            EffectCommand::MigrateCancel => qemu.migration = MigrationStatus::Cancelled,
            EffectCommand::Cont => qemu.run_state = RunState::Running,
            EffectCommand::Stop => qemu.run_state = RunState::Paused,
            EffectCommand::Kill => qemu.process = Process::Dead,
            EffectCommand::StartPostcopy => qemu.postcopy = true,
            EffectCommand::MigrateRecover { .. } | EffectCommand::MigrateResume { .. } => {
                qemu.migration = MigrationStatus::PostcopyActive;
            }
            EffectCommand::MigratePause => qemu.migration = MigrationStatus::PostcopyPaused,
        }
    }

    /// The stream goes on by one status, and QEMU says so.
    fn stream(&mut self, harness: &mut Harness, life: &mut Life) {
        let Some(qemu) = self.qemus.get_mut(&DOMAIN) else {
            return;
        };
        let is_first_pass = qemu.migration == MigrationStatus::Active && !qemu.is_incoming;
        if is_first_pass && self.terms.postcopy && !qemu.postcopy {
            let (domain, event) = (DOMAIN, QemuEvent::Converging { downtime: 300 });
            return harness.step(life, Input::Event { domain, event });
        }
        let is_postcopy = qemu.postcopy || qemu.is_incoming && self.terms.postcopy;
        let next = match qemu.migration {
            MigrationStatus::Setup => MigrationStatus::Active,
            MigrationStatus::Active if qemu.is_incoming && !is_postcopy => {
                MigrationStatus::Completed
            }
            MigrationStatus::Active if qemu.is_incoming => MigrationStatus::PostcopyActive,
            MigrationStatus::Active => MigrationStatus::PreSwitchover,
            MigrationStatus::Device if is_postcopy => MigrationStatus::PostcopyActive,
            MigrationStatus::PostcopyActive if self.terms.fails && !self.has_broken => {
                self.has_broken = true;
                MigrationStatus::PostcopyPaused
            }
            MigrationStatus::Device | MigrationStatus::PostcopyActive => MigrationStatus::Completed,
            _ => return self.finish(harness, life),
        };
        let stops = match (&next, qemu.is_incoming) {
            (MigrationStatus::PreSwitchover, _) => Some(RunState::FinishMigrate),
            (MigrationStatus::Completed, false) => Some(RunState::Postmigrate),
            (MigrationStatus::Completed | MigrationStatus::PostcopyActive, true)
                if qemu.run_state == RunState::Inmigrate =>
            {
                Some(RunState::Paused)
            }
            _ => None,
        };
        if let Some(state) = stops {
            qemu.run_state = state;
        }
        qemu.migration = next.clone();
        let (domain, event) = (DOMAIN, QemuEvent::Migration(next));
        harness.step(life, Input::Event { domain, event });
    }

    /// Where everything has arrived, the other side gives its licence; where the guest went over and the
    /// stream broke, it gave it before, and sends the rest.
    fn finish(&mut self, harness: &mut Harness, life: &mut Life) {
        let incoming = self.qemus.get(&DOMAIN).filter(|qemu| qemu.is_incoming);
        let status = incoming.map(|qemu| &qemu.migration);
        let has_gone = matches!(
            status,
            Some(MigrationStatus::Completed | MigrationStatus::PostcopyPaused)
        );
        let is_broken = status == Some(&MigrationStatus::PostcopyPaused);
        if has_gone && !self.has_sent {
            self.has_sent = true;
            let cookie = self.cookie(harness);
            self.ask_as_peer(harness, life, PeerRequest::Finish { cookie });
        } else if is_broken {
            let migration = MIGRATION;
            self.ask_as_peer(harness, life, PeerRequest::Resume { migration });
        }
    }

    /// The guest has gone over, and some of its memory has not.
    fn is_split(&self) -> bool {
        self.qemus.get(&DOMAIN).is_some_and(|qemu| {
            matches!(
                qemu.migration,
                MigrationStatus::PostcopyActive | MigrationStatus::PostcopyPaused
            )
        })
    }

    fn answer(&self, request: &PeerRequest) -> PeerResponse {
        let answer = match request {
            PeerRequest::Prepare { .. } | PeerRequest::Resume { .. } => {
                return PeerResponse::Prepared {
                    nonce: NONCE,
                    nbd: None,
                };
            }
            PeerRequest::Finish { .. } if self.terms.fails && !self.terms.postcopy => {
                PeerAnswer::Aborted
            }
            PeerRequest::Finish { .. } | PeerRequest::Ask { .. } if self.is_split() => {
                PeerAnswer::Split
            }
            PeerRequest::Finish { .. } => PeerAnswer::Started,
            PeerRequest::Ask { .. } if self.terms.protocol == Protocol::V2 => PeerAnswer::Whole,
            PeerRequest::Ask { .. } => PeerAnswer::Performing,
            PeerRequest::Abandon { .. } | PeerRequest::Acknowledge { .. } => PeerAnswer::Aborted,
        };
        PeerResponse::Answer {
            answer,
            cookie: None,
        }
    }
}

fn pop<T>(from: &mut Vec<T>) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(0))
}
