//! The destination's side of a v2 or v3 migration, and the authority over the outcome of the latter.
//!
//! Invariant: this copy runs only after `committed` with its one `cont` intent is durable, and that
//! only with the source's cookie; `aborted` is durable before the copy is ended, and the copy is
//! ended before anyone is told.
//! Not here: which rule holds (`decide`), what the source does (`source`).

use journal_format::number::{DomainId, MigrationId, Nonce};
use journal_format::record::{
    Authority, Claim, ClaimSeen, EffectCommand, EffectResult, Evidence, JobBegun, JobKind,
    JobResult, KeyValue, MigrationCommitted, MigrationNamed, MigrationStatus, MigrationTerms,
    PeerAnswer, PeerHeard, Phase, Process, Protocol, RecordBody, Role, RunState, Settings,
    WantedReason, WantedRunState,
};

use super::decide::is_whole;
use super::disks::{is_release, serving};
use super::live::Asked;
use super::settings::changes_settings;
use super::source::describe;
use super::state::definition_parts;
use super::turn::Turn;
use super::{Envelope, MigrateOptions, PeerRequest, PeerResponse, Rule, Token};

/// How long a destination waits without a word of the source before it asks, in milliseconds.
const SILENCE_MS_MAX: u64 = 5_000;
/// How long an asker waits for an outcome before it is told how it stands, in milliseconds.
const ANSWER_WAIT_MS_MAX: u64 = 1_000;

impl Turn<'_> {
    /// A source's prepare, after a fresh look at the QEMU that shall take the guest.
    pub(crate) fn begin_prepare(
        &mut self,
        domain: DomainId,
        token: Token,
        envelope: Envelope,
        nonce: Nonce,
        request: PeerRequest,
    ) {
        let PeerRequest::Prepare {
            migration,
            protocol,
            authority,
            source_name,
            peer,
            uri,
            wanted,
            postcopy,
            store,
            definition,
            settings,
            disks,
            ..
        } = request
        else {
            return;
        };
        let seen = self
            .may_prepare(domain)
            .and_then(|()| {
                let fits = self.may_take_disks(domain, disks.as_deref());
                fits.map_err(|why| why.to_string())
            })
            .and_then(|()| self.take_settings_for(domain, &settings));
        let terms = MigrationTerms {
            migration,
            role: Role::Destination,
            protocol,
            authority,
            peer,
            peer_domain: source_name,
            uri,
            max_bandwidth: None,
            downtime_limit: None,
            postcopy,
            nonce: Some(nonce),
            store,
            in_doubt_limit: None,
        };
        let kept = seen.and_then(|seen| {
            let kept = Self::settings_to_keep(&terms, &settings, &seen);
            kept.map_err(|why| why.to_string())
        });
        let kept = match kept {
            Ok(kept) => kept,
            Err(why) => {
                let response = PeerResponse::Refused { why };
                self.peer_reply(token, Some(envelope.sender), response);
                return;
            }
        };
        let begun = JobBegun {
            kind: JobKind::MigrationIn,
            migration: Some(terms.clone()),
        };
        self.live(migration).begun = self.wall;
        let job = self.append(Some(domain), RecordBody::JobBegun(Box::new(begun)));
        let options = MigrateOptions {
            settings,
            ..MigrateOptions::default()
        };
        self.tell_settings(domain, migration, job, options, kept);
        self.begin_disks_of_destination(domain, job, migration, disks);
        let heard = PeerHeard {
            migration,
            position: Some(envelope.sender),
            answer: PeerAnswer::Performing,
        };
        self.append(Some(domain), RecordBody::PeerHeard(heard));
        self.want(domain, wanted, WantedReason::Carried);
        self.carry_definition(domain, definition.as_deref());

        let mut plan = self.plan_claim(migration);
        plan.push(EffectCommand::SetCapabilities {
            role: Role::Destination,
            postcopy,
        });
        plan.extend(self.plan_settings(migration));
        // `stop` clears autostart: without it the guest could start by itself when the stream ends.
        plan.push(EffectCommand::Stop);
        if let Some(disks) = self.disks(migration) {
            plan.extend(serving(migration, disks));
        }
        plan.push(EffectCommand::MigrateIncoming { uri: terms.uri });
        let now = self.now;
        let live = self.live(migration);
        live.plan.extend(plan);
        live.prepare = Some(token);
        live.peer_position = Some(envelope.sender);
        live.heard_at = now;
        self.advance(migration);
    }

    fn take_settings_for(&mut self, id: DomainId, settings: &Settings) -> Result<Settings, String> {
        let name = self.domain(id).map(|domain| domain.state.name.clone());
        let seen = self.take_settings_seen(id, settings);
        seen.map_err(|why| format!("domain '{}': {why}", name.unwrap_or_default()))
    }

    fn may_prepare(&self, id: DomainId) -> Result<(), String> {
        let Some(domain) = self.domain(id) else {
            return Err("the domain is not registered any more".to_owned());
        };
        let name = &domain.state.name;
        if domain.migration.is_some() {
            return Err(format!("domain '{name}' has an open job"));
        }
        if domain.state.damaged {
            return Err(format!(
                "domain '{name}': records that may concern it are damaged"
            ));
        }
        let Some(observed) = self
            .engine
            .eyes
            .get(&id)
            .and_then(|eyes| eyes.observed.as_ref())
        else {
            return Err(format!("domain '{name}': its QEMU was not seen yet"));
        };
        let ready = observed.process == Process::Alive
            && observed.run_state == Some(RunState::Inmigrate)
            && observed.migration == Some(MigrationStatus::None);
        if !ready {
            let seen = super::view::seen(observed);
            return Err(format!(
                "domain '{name}': its QEMU is {seen}, not waiting for a migration (-S -incoming defer)"
            ));
        }
        self.may_claim(id)
            .map_err(|claim| format!("domain '{name}' is claimed: {claim}"))
    }

    /// A QEMU that carries no claim, or the one that this journal has on record, may be claimed.
    pub(crate) fn may_claim(&self, id: DomainId) -> Result<(), String> {
        let recorded = self.domain(id).and_then(|domain| domain.state.claim);
        let seen = self
            .engine
            .eyes
            .get(&id)
            .and_then(|eyes| eyes.observed.as_ref())
            .map(|observed| &observed.claim);
        match seen {
            None | Some(ClaimSeen::Unread | ClaimSeen::Absent) => Ok(()),
            Some(ClaimSeen::Present(claim)) if Some(*claim) == recorded => Ok(()),
            Some(ClaimSeen::Present(claim)) => Err(claim.to_string()),
            Some(ClaimSeen::Foreign(text)) => Err(text.clone()),
        }
    }

    /// The effect that claims a QEMU for a migration.
    pub(crate) fn plan_claim(&self, id: MigrationId) -> Vec<EffectCommand> {
        let Some(migration) = self.migration(id) else {
            return Vec::new();
        };
        let claim = Claim {
            journal: self.engine.config.journal,
            epoch: self.engine.config.epoch,
            migration: id,
            role: migration.state.terms.role,
        };
        vec![EffectCommand::Claim(claim)]
    }

    /// The next effect that is planned; none while nothing is. QEMU has one claim: an older one of ours, as this look
    /// shows it (a plan may have been made while another process was on the socket), is taken back first.
    pub(crate) fn next_planned(
        &mut self,
        id: MigrationId,
        evidence: &Evidence,
    ) -> Option<EffectCommand> {
        let plan = &mut self.live(id).plan;
        match (plan.front(), &evidence.observed.claim) {
            (Some(EffectCommand::Claim(_)), ClaimSeen::Present(_)) => Some(EffectCommand::Unclaim),
            _ => plan.pop_front(),
        }
    }

    /// The definition comes with the guest, and belongs to the domain from here on.
    fn carry_definition(&mut self, id: DomainId, definition: Option<&str>) {
        let (Some(text), Some(domain)) = (definition, self.domain(id)) else {
            return;
        };
        let mut state = domain.state.clone();
        let first = self.engine.next;
        for draft in definition_parts(id, first, text) {
            self.append(draft.domain, draft.body);
        }
        state.definition = Some(first);
        self.append(Some(id), RecordBody::DomainState(Box::new(state)));
    }

    /// The protocol's next step while nothing has to be decided.
    pub(crate) fn proceed_destination(&mut self, id: MigrationId, evidence: &Evidence) {
        if let Some(command) = self.next_planned(id, evidence) {
            self.intend(id, command);
            self.block_graph_changed(id);
            return;
        }
        if let Some(token) = self.live(id).prepare.take() {
            let Some(nonce) = self.migration(id).and_then(|known| known.state.terms.nonce) else {
                return;
            };
            let saw = self.live(id).peer_position;
            let nbd = self.disks(id).and_then(|disks| disks.nbd.clone());
            self.peer_reply(token, saw, PeerResponse::Prepared { nonce, nbd });
        }
        self.stream_goes_on(id);
        let now = self.now;
        if now.saturating_sub(self.live(id).heard_at) > SILENCE_MS_MAX {
            self.ask(id, Asked::Ask, PeerRequest::Ask { migration: id });
        }
    }

    pub(crate) fn destination_effect_finished(
        &mut self,
        id: MigrationId,
        command: &EffectCommand,
        result: &EffectResult,
    ) {
        if let EffectCommand::MigrateRecover { .. } = command {
            return self.listened_again(id, result);
        }
        if *command == EffectCommand::MigratePause && *result != EffectResult::Done {
            let why = format!("{} {}", command.name(), describe(result));
            return self.refuse_resume(id, &why);
        }
        let Some(migration) = self.migration(id) else {
            return;
        };
        let state = &migration.state;
        let undecided = !state.aborted && !state.committed;
        if state.started && changes_settings(command) {
            return self.go_on_ending(id);
        }
        if *command == EffectCommand::Cont {
            // Whether the source's copy is safe must be asked anew: what it said before the `cont`
            // is no evidence for giving up after it.
            self.live(id).peer = PeerAnswer::NotAsked;
            self.live(id).ask_at = 0;
        }
        let Some(migration) = self.migration(id) else {
            return;
        };
        let state = &migration.state;
        if state.committed
            && !state.aborted
            && *command == EffectCommand::Cont
            && *result == EffectResult::Done
        {
            self.started(id, "the guest runs here");
            return;
        }
        if undecided && *result != EffectResult::Done && !is_release(command) {
            let why = format!("{} {}", command.name(), describe(result));
            self.abort(id);
            if let Some(token) = self.live(id).prepare.take() {
                let saw = self.live(id).peer_position;
                self.peer_reply(token, saw, PeerResponse::Refused { why });
            }
        }
    }

    /// Decides: this copy never runs. Ended, and told, only after that is durable.
    pub(crate) fn abort(&mut self, id: MigrationId) {
        self.cite_look(id);
        self.record(
            id,
            RecordBody::MigrationAborted(MigrationNamed { migration: id }),
        );
        let live = self.live(id);
        live.plan.clear();
        live.effect_at = 0;
    }

    /// The guest was started here. That ends the job, unless its memory may still be on its way, or the
    /// key in a store must say so.
    fn started(&mut self, id: MigrationId, detail: &str) {
        self.record(
            id,
            RecordBody::MigrationStarted(MigrationNamed { migration: id }),
        );
        let postcopy = self
            .migration(id)
            .is_some_and(|known| known.state.terms.postcopy);
        self.live(id).blackout = false;
        if !postcopy && !self.has_key_to_settle(id) {
            self.end_restored(id, JobResult::Completed, detail);
        }
    }

    /// Decides: the guest runs here. The decision and its one `cont` intent are one batch.
    pub(crate) fn commit(&mut self, id: MigrationId) {
        let recorded = self.migration(id).and_then(|known| known.state.licence);
        let Some(cookie) = self.live(id).cookie.or(recorded) else {
            return;
        };
        let Some(domain) = self.migration(id).map(|migration| migration.domain) else {
            return;
        };
        self.cite_look(id);
        self.live(id).blackout = true;
        self.enter_finish(id);
        let committed = MigrationCommitted {
            cookie: Some(cookie),
            migration: id,
        };
        self.record(id, RecordBody::MigrationCommitted(committed));
        self.want(domain, cookie.wanted, WantedReason::Carried);
        self.run(id);
    }

    pub(crate) fn enter_finish(&mut self, id: MigrationId) {
        let protocol = self
            .migration(id)
            .map(|migration| migration.state.terms.protocol);
        match protocol {
            Some(Protocol::V2) => self.enter(id, Phase::Finish2),
            Some(Protocol::V3) => self.enter(id, Phase::Finish3),
            None => {}
        }
    }

    /// Restores the wanted run state of a committed copy.
    pub(crate) fn run(&mut self, id: MigrationId) {
        let Some(domain) = self.migration(id).map(|migration| migration.domain) else {
            return;
        };
        match self.domain(domain).map(|domain| domain.state.wanted) {
            Some(WantedRunState::Running) => self.intend(id, EffectCommand::Cont),
            Some(WantedRunState::Paused) => {
                self.started(id, "the guest is here, paused as wanted");
            }
            None => {}
        }
    }

    pub(crate) fn carry_out_destination(&mut self, id: MigrationId, rule: Rule) {
        match rule {
            Rule::DestinationPrepareDead => {
                self.abort(id);
                self.refuse_prepare(id, "QEMU ended");
                self.end_crashed(id, "QEMU ended before it had the guest");
            }
            Rule::DestinationPrepareRunning => self.take_running(id),
            Rule::DestinationPrepareFailed
            | Rule::DestinationPrepareAbandoned
            | Rule::DestinationPrepareLost => {
                self.abort(id);
                self.refuse_prepare(id, "the source gave up, or the stream failed");
            }
            Rule::DestinationPrepareFinish => self.commit(id),
            Rule::DestinationPrepareWaiting
            | Rule::DestinationPrepareAlone
            | Rule::DestinationPrepareAmnesia
            | Rule::DestinationVerdictAwaited => {
                self.ask(id, Asked::Ask, PeerRequest::Ask { migration: id });
                if self.decides_by_store(id) {
                    // The source may have won aborted, and be gone.
                    self.read_key(id);
                }
            }
            Rule::DestinationStoreProposed => self.propose_commit(id),
            Rule::DestinationStoreWon => self.commit(id),
            Rule::DestinationStoreAborted => {
                self.abort(id);
                self.refuse_prepare(id, "the key in the store says aborted");
            }
            Rule::DestinationStoreStarted => self.settle_key(id, KeyValue::Started),
            Rule::DestinationStoreWithdraw => self.settle_key(id, KeyValue::Aborted),
            Rule::DestinationVerdictCont | Rule::DestinationVerdictQuit => {
                self.destination_verdict(id, rule);
            }
            Rule::DestinationFinishRetry => {
                if self.effect_due(id) {
                    self.cite_look(id);
                    self.run(id);
                }
            }
            Rule::DestinationFinishRefused => {
                self.ask(id, Asked::Ask, PeerRequest::Ask { migration: id });
                let asked = self.live(id).peer != PeerAnswer::NotAsked;
                if asked && self.effect_due(id) {
                    self.cite_look(id);
                    self.run(id);
                }
            }
            Rule::DestinationFinishRefusedSafe => self.abort(id),
            Rule::DestinationFinishRunning => self.started(id, "the guest runs here"),
            Rule::DestinationFinishDead => {
                self.record(
                    id,
                    RecordBody::MigrationStarted(MigrationNamed { migration: id }),
                );
                self.enter_lost(id);
                self.end_crashed(id, "the guest may have run here before QEMU ended");
            }
            Rule::DestinationFinishDeadUnsent => {
                self.abort(id);
                self.end_crashed(id, "QEMU ended before the guest ran here");
            }
            Rule::DestinationPostcopyBroken => self.await_resume(id),
            Rule::DestinationPostcopyLost => {
                self.enter(id, Phase::PostcopyFailed);
                if self.effect_due(id) {
                    self.intend(id, EffectCommand::Kill);
                }
            }
            Rule::DestinationStarted => {
                self.stream_goes_on(id);
                self.end_restored(id, JobResult::Completed, "the guest was started here");
            }
            Rule::DestinationStartedDead => {
                self.enter_lost(id);
                self.end(
                    id,
                    JobResult::Crashed,
                    "the guest was started here, then QEMU ended",
                );
            }
            Rule::DestinationAborted => {
                if self.effect_due(id) {
                    self.intend(id, EffectCommand::Kill);
                }
            }
            Rule::DestinationAbortedDead => {
                self.end(id, JobResult::Failed, "the guest never ran here");
            }
            // Held: nothing is done until something else is seen or heard.
            Rule::OtherInstance
            | Rule::ClaimedByAnother
            | Rule::JournalOlderThanQemu
            | Rule::JournalDamaged
            | Rule::QemuMute
            | Rule::StoreKeyForeign
            | Rule::DestinationStoreAmnesia
            | Rule::DestinationStoreContradicted
            | Rule::NoRuleForThis => {}
            // An operator's word, and a manager's, is carried out where it is given; the others are a
            // source's.
            Rule::OperatorResolved
            | Rule::ManagerVerdict
            | Rule::SourceBeginUndone
            | Rule::SourceBeginDead
            | Rule::SourcePerformGiveUp
            | Rule::SourcePerformRunning
            | Rule::SourcePerformCompleted
            | Rule::SourcePerformPostcopy
            | Rule::SourcePostcopyBroken
            | Rule::SourcePostcopyWhole
            | Rule::SourcePostcopyLost
            | Rule::SourcePostcopyEnding
            | Rule::SourcePerformDeadWatched
            | Rule::SourcePerformDeadUnwatched
            | Rule::SourcePerformDeadAsking
            | Rule::SourcePerformDeadNotWhole
            | Rule::SourcePerform2Completed
            | Rule::SourcePerform2Whole
            | Rule::SourcePerform2Gone
            | Rule::SourcePerform2Amnesia
            | Rule::SourceCommitted
            | Rule::SourceCommittedDead
            | Rule::SourceAbandoned
            | Rule::SourceAbandonedStarted
            | Rule::SourceAbandonedDead
            | Rule::SourceGrantedStarted
            | Rule::SourceGrantedStartedUnproven
            | Rule::SourceGrantedAborted
            | Rule::SourceGrantedInDoubt
            | Rule::SourceGrantedAmnesia
            | Rule::SourceGrantedRunning
            | Rule::SourceGrantedRunningStarted
            | Rule::SourceGrantedOther
            | Rule::SourceGrantedDead
            | Rule::SourceGrantedDeadSettled
            | Rule::SourceConfirm
            | Rule::SourceConfirmDead
            | Rule::SourceCancelled
            | Rule::SourceCancelledDead
            | Rule::SourceStoreInDoubt
            | Rule::SourceStoreSeekAborted
            | Rule::SourceStoreOlder
            | Rule::SourceStoreRunning
            | Rule::SourceStoreDead
            | Rule::SourceStoreBothGone
            | Rule::SourceVerdictAwaited
            | Rule::SourceVerdictCont
            | Rule::SourceVerdictQuit => {}
            // Not a migration's.
            Rule::JobDead
            | Rule::JobSettled
            | Rule::SaveUndone
            | Rule::SaveActive
            | Rule::SaveCompleted
            | Rule::SaveEnding
            | Rule::SaveEnded
            | Rule::DumpActive
            | Rule::DumpTaken
            | Rule::DumpUndone
            | Rule::SnapshotActive
            | Rule::SnapshotTaken
            | Rule::SnapshotUndone
            | Rule::BackupActive
            | Rule::BackupPending
            | Rule::BackupEnded
            | Rule::BackupFailed
            | Rule::BackupCancelled
            | Rule::BackupUndone
            | Rule::StartUndone
            | Rule::StartUnknown
            | Rule::StartRunning
            | Rule::StartEnded
            | Rule::DestroyAlive
            | Rule::DestroyDone
            | Rule::OrdinaryReconciled
            | Rule::DrivenPostcopy
            | Rule::DrivenSourceUndone
            | Rule::DrivenSourceGiveUp
            | Rule::DrivenSourceCompleted
            | Rule::DrivenSourceCont
            | Rule::DrivenSourceAborted
            | Rule::DrivenSourceConfirm
            | Rule::DrivenSourceUnproven
            | Rule::DrivenSourceQuit
            | Rule::DrivenSourceEnded
            | Rule::DrivenDestinationWaiting
            | Rule::DrivenDestinationFailed
            | Rule::DrivenDestinationWhole
            | Rule::DrivenDestinationCommitted
            | Rule::DrivenDestinationRunning
            | Rule::DrivenDestinationAborted
            | Rule::DrivenDestinationEnded
            | Rule::DrivenSourceTakenUp
            | Rule::DrivenOver
            | Rule::DrivenSourceStartedThere => {}
        }
    }

    /// The guest was found running here, whoever continued it.
    pub(crate) fn take_running(&mut self, id: MigrationId) {
        self.enter_finish(id);
        let committed = MigrationCommitted {
            cookie: None,
            migration: id,
        };
        self.record(id, RecordBody::MigrationCommitted(committed));
        self.started(id, "the guest was found running here");
    }

    /// Ends a job whose QEMU is gone, unless the key in a store must first say what became of it.
    fn end_crashed(&mut self, id: MigrationId, detail: &str) {
        if !self.has_key_to_settle(id) {
            self.end(id, JobResult::Crashed, detail);
        }
    }

    fn decides_by_store(&self, id: MigrationId) -> bool {
        let authority = self.migration(id).map(|known| known.state.terms.authority);
        authority == Some(Authority::Store)
    }

    pub(crate) fn refuse_prepare(&mut self, id: MigrationId, why: &str) {
        if let Some(token) = self.live(id).prepare.take() {
            let saw = self.live(id).peer_position;
            self.peer_reply(
                token,
                saw,
                PeerResponse::Refused {
                    why: why.to_owned(),
                },
            );
        }
    }

    /// How a migration stands at its destination, for its source.
    pub(crate) fn destination_answer(&mut self, id: MigrationId) -> PeerAnswer {
        let whole = self
            .evidence(id)
            .is_some_and(|evidence| is_whole(&evidence));
        let Some(migration) = self.migration(id) else {
            return PeerAnswer::NoSuchMigration;
        };
        let state = &migration.state;
        let has_proposed = state.started || migration.facts().proposed;
        if state.aborted {
            // Only told when the copy is gone.
            if state.open {
                PeerAnswer::Deciding
            } else {
                PeerAnswer::Aborted
            }
        } else if state.started && !state.open && state.phase == Phase::PostcopyFailed {
            PeerAnswer::Lost
        } else if state.open && state.terms.authority == Authority::Store && has_proposed {
            // Only what the key says counts, until this job is over.
            PeerAnswer::Deciding
        } else if state.started && state.open && state.terms.postcopy {
            PeerAnswer::Split
        } else if state.started {
            PeerAnswer::Started
        } else if self.is_end_lost(migration) {
            PeerAnswer::Amnesia
        } else if state.committed || !state.open {
            PeerAnswer::Deciding
        } else if whole {
            PeerAnswer::Whole
        } else {
            PeerAnswer::NotWhole
        }
    }

    /// Answers those who wait for an outcome: with it, or after a while with how it stands.
    pub(crate) fn answer_waiting(&mut self, id: MigrationId) {
        if self
            .engine
            .live
            .get(&id)
            .is_none_or(|live| live.waiting.is_empty())
        {
            return;
        }
        let answer = self.destination_answer(id);
        let settled = matches!(
            answer,
            PeerAnswer::Started | PeerAnswer::Split | PeerAnswer::Aborted | PeerAnswer::Lost
        );
        let now = self.now;
        let live = self.live(id);
        let saw = live.peer_position;
        let is_due =
            |(_, since): &(Token, u64)| settled || now.saturating_sub(*since) > ANSWER_WAIT_MS_MAX;
        let due: Vec<(Token, u64)> = live
            .waiting
            .iter()
            .copied()
            .filter(|one| is_due(one))
            .collect();
        live.waiting.retain(|one| !is_due(one));
        for (token, _) in due {
            self.peer_reply(
                token,
                saw,
                PeerResponse::Answer {
                    answer,
                    cookie: None,
                },
            );
        }
    }

    /// A destination whose job ended keeps the outcome until the source durably has it, or cannot.
    pub(crate) fn after_end_destination(&mut self, id: MigrationId) {
        if self.is_releasing(id) {
            return self.release_key(id);
        }
        let now = self.now;
        let live = self.live(id);
        if now.saturating_sub(live.heard_at) > SILENCE_MS_MAX {
            self.ask(id, Asked::Ask, PeerRequest::Ask { migration: id });
        }
    }
}
