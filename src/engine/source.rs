//! The source's side of a v2 or v3 migration: how it goes forward, and how its rules are carried out.
//!
//! Invariant: before `granted` (v3) or `committed` (v2) is durable giving up is always possible; after
//! it only the authority's word counts, which in v2 is this side's own. Exactly one effect of a job is
//! in flight.
//! Not here: which rule holds (`decide`), what the destination does (`destination`).

use journal_format::number::{MigrationId, Position};
use journal_format::record::{
    Cookie, EffectCommand, EffectResult, Evidence, JobResult, MigrationAbandoned,
    MigrationCommitted, MigrationGranted, Outcome, PeerAnswer, Phase, Protocol, RecordBody, Role,
    RunState, Settings, WantedReason, WantedRunState, definition_checksum,
};

use super::decide::{RunClass, StatusClass, run_class, status_class};
use super::disks::mirroring;
use super::live::Asked;
use super::settings::for_destination;
use super::state::{awaits_prepare, ran_on};
use super::turn::{Turn, short};
use super::{PeerRequest, Rule};

/// QEMU's own downtime limit where none is asked for, in milliseconds.
const DOWNTIME_LIMIT_MS_DEFAULT: u64 = 300;
/// A limit under which a guest that writes does not converge, in milliseconds. Not 0: QEMU 7.2 then
/// never looks for pages that became dirty, and takes the end of the first pass for the end.
const HELD_DOWNTIME_LIMIT_MS: u64 = 1;
/// So many times the limit, and the switchover is not near any more.
const RELAPSE_FACTOR: u64 = 2;

impl Turn<'_> {
    /// The protocol's next step while nothing has to be decided.
    pub(crate) fn proceed_source(&mut self, id: MigrationId, evidence: &Evidence) {
        match evidence.phase {
            Phase::Begin3 | Phase::Perform2 | Phase::Perform3 => {
                let waits = self
                    .migration(id)
                    .is_some_and(|migration| awaits_prepare(&migration.state));
                if waits {
                    self.ask_prepare(id);
                } else {
                    self.proceed_perform(id, evidence);
                }
            }
            // `decide` has a rule for every other phase of a source.
            Phase::Perform3Done
            | Phase::Confirm3
            | Phase::Confirm3Cancelled
            | Phase::Prepare
            | Phase::Finish2
            | Phase::Finish3
            | Phase::PostcopyFailed
            | Phase::BeginResume
            | Phase::PerformResume
            | Phase::ConfirmResume
            | Phase::PrepareResume
            | Phase::FinishResume => {}
        }
    }

    fn ask_prepare(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let Some(domain) = self.domain(migration.domain) else {
            return;
        };
        let terms = &migration.state.terms;
        let definition = domain
            .state
            .definition
            .and_then(|first| self.engine.state.definition(first));
        let told = migration.settings.told.as_ref();
        let request = PeerRequest::Prepare {
            migration: id,
            protocol: terms.protocol,
            authority: terms.authority,
            name: terms.peer_domain.clone(),
            source_name: domain.state.name.clone(),
            peer: self.engine.config.peer.clone(),
            uri: terms.uri.clone(),
            wanted: domain.state.wanted,
            postcopy: terms.postcopy,
            store: terms.store.clone(),
            definition_checksum: definition.as_deref().map(definition_checksum),
            definition,
            settings: told.map_or_else(Settings::default, |told| for_destination(&told.settings)),
            disks: self.offered_disks(id),
        };
        self.ask(id, Asked::Prepare, request);
    }

    /// The destination is prepared: the effects of perform, one after the other.
    pub(crate) fn begin_perform(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let terms = migration.state.terms.clone();
        let mut plan = self.plan_claim(id);
        plan.push(EffectCommand::SetCapabilities {
            role: Role::Source,
            postcopy: terms.postcopy,
        });
        plan.extend(self.plan_settings(id));
        plan.push(EffectCommand::SetParameters {
            max_bandwidth: terms.max_bandwidth,
            downtime_limit: Some(HELD_DOWNTIME_LIMIT_MS),
        });
        match self.disks(id) {
            // Memory follows when the disks are the same on both sides.
            Some(disks) => plan.extend(mirroring(id, disks)),
            None => plan.push(EffectCommand::Migrate { uri: terms.uri }),
        }
        self.enter(
            id,
            match terms.protocol {
                Protocol::V2 => Phase::Perform2,
                Protocol::V3 => Phase::Perform3,
            },
        );
        self.live(id).plan.extend(plan);
    }

    fn proceed_perform(&mut self, id: MigrationId, evidence: &Evidence) {
        if let Some(command) = self.next_planned(id, evidence) {
            self.intend(id, command);
            self.block_graph_changed(id);
            return;
        }
        if !self.tend_mirrors(id, evidence.facts.migrate_intended) {
            return;
        }
        match status_class(evidence.observed.migration.as_ref()) {
            StatusClass::PreSwitchover => {
                self.live(id).blackout = true;
                if self.effect_due(id) {
                    self.cite_look(id);
                    self.intend(id, EffectCommand::MigrateContinue);
                }
            }
            StatusClass::Performing => {
                self.learn_wanted_of_source(id);
                if !self.start_postcopy(id) {
                    self.let_converge(id);
                }
            }
            StatusClass::None
            | StatusClass::Device
            | StatusClass::Cancelling
            | StatusClass::Ended
            | StatusClass::Completed
            | StatusClass::Postcopy
            | StatusClass::PostcopyBroken
            | StatusClass::Unknown => {}
        }
    }

    /// QEMU stops the guest for the switchover as soon as the rest fits into its downtime limit, and then
    /// waits for `migrate-continue`: if no sidecar is there, the guest stands still on both sides. So
    /// the limit is held down to where a guest that writes does not converge, and raised to the wanted
    /// one only when that is near, by a sidecar that is there to go on.
    fn let_converge(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let limit = migration.state.terms.downtime_limit;
        let limit = limit.unwrap_or(DOWNTIME_LIMIT_MS_DEFAULT);
        let live = self.live(id);
        let Some(downtime) = live.converging.take() else {
            return;
        };
        let wanted = match live.may_converge {
            false if downtime <= limit => limit,
            // It was near, and is not any more: the guest writes more than before.
            true if downtime > limit.saturating_mul(RELAPSE_FACTOR) => HELD_DOWNTIME_LIMIT_MS,
            false | true => return,
        };
        if limit > HELD_DOWNTIME_LIMIT_MS && self.effect_due(id) {
            self.live(id).may_converge = wanted == limit;
            self.intend(
                id,
                EffectCommand::SetParameters {
                    max_bandwidth: None,
                    downtime_limit: Some(wanted),
                },
            );
        }
    }

    /// What the owner did to the guest with nobody watching, as far as QEMU shows it (P8): before
    /// the switchover stops it, running and paused are the owner's doing; and a cancelled or failed
    /// migration restarts by itself exactly those guests that ran before it stopped them.
    pub(crate) fn learn_wanted_of_source(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let (domain, migrated) = (migration.domain, migration.may_be_sent());
        let postcopy = migration.state.postcopy_intended;
        // What the owner asked for and is on its way counts more than what it was before.
        if self.live(id).wish.is_some() {
            return;
        }
        let Some(observed) = self.eyes(domain).observed.clone() else {
            return;
        };
        match (
            status_class(observed.migration.as_ref()),
            run_class(observed.run_state.as_ref()),
        ) {
            (StatusClass::Performing, RunClass::Running | RunClass::Paused) => {
                self.learn_wanted(domain, &observed);
            }
            // Nothing of this job has stopped it: what its migration status says is older.
            (_, RunClass::Running | RunClass::Paused) if !migrated => {
                self.learn_wanted(domain, &observed);
            }
            // Not so once post-copy was started: QEMU then leaves every guest stopped.
            (StatusClass::Ended, RunClass::Postmigrate) if migrated && !postcopy => {
                self.want(domain, WantedRunState::Paused, WantedReason::Seen);
            }
            _ => {}
        }
    }

    pub(crate) fn source_effect_finished(
        &mut self,
        id: MigrationId,
        command: &EffectCommand,
        result: &EffectResult,
    ) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let domain = migration.domain;
        let wanted = match command {
            EffectCommand::Stop => Some(WantedRunState::Paused),
            EffectCommand::Cont => Some(WantedRunState::Running),
            _ => None,
        };
        if let Some(wanted) = wanted
            && let Some(token) = self.live(id).wish.take()
        {
            if *result == EffectResult::Done {
                self.want(domain, wanted, WantedReason::Asked);
            }
            self.reply_to_owner(token, domain, result);
        }
        let Some(migration) = self.migration(id) else {
            return;
        };
        let performing = matches!(migration.state.phase, Phase::Perform2 | Phase::Perform3)
            && !migration.state.abandoned
            && migration.state.granted.is_none();
        if !performing || *result == EffectResult::Done {
            return;
        }
        match command {
            // The look after it tells how it stands; it is sent again if it must be.
            EffectCommand::MigrateContinue
            | EffectCommand::StartPostcopy
            | EffectCommand::Stop
            | EffectCommand::Cont => {}
            EffectCommand::Claim(_)
            | EffectCommand::Unclaim
            | EffectCommand::SetCapabilities { .. }
            | EffectCommand::SetParameters { .. }
            | EffectCommand::MigrateIncoming { .. }
            | EffectCommand::Migrate { .. }
            | EffectCommand::MigrateCancel
            | EffectCommand::MigrateRecover { .. }
            | EffectCommand::MigrateResume { .. }
            | EffectCommand::MigratePause
            | EffectCommand::Monitor { .. }
            | EffectCommand::Kill => {
                let why = format!("{} {}", command.name(), describe(result));
                self.abandon(id, &why, false);
            }
        }
    }

    /// Never forward from here; the destination is told until it knows.
    pub(crate) fn abandon(&mut self, id: MigrationId, why: &str, asked: bool) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        if migration.state.abandoned || migration.may_be_granted() {
            return;
        }
        self.cite_look(id);
        let abandoned = MigrationAbandoned {
            migration: id,
            why: short(why),
            asked,
        };
        self.record(id, RecordBody::MigrationAbandoned(abandoned));
        self.drop_wish(id, "the migration was given up");
        let live = self.live(id);
        live.abandoned = Some(short(why));
        live.plan.clear();
        live.effect_at = 0;
        live.ask_at = 0;
        live.ask_delay = 0;
    }

    /// QEMU has sent everything: the licence goes out, and from here only the authority decides. In v2
    /// that is this side, and the licence goes out when this copy is gone.
    pub(crate) fn grant(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let Some(domain) = self.domain(migration.domain) else {
            return;
        };
        let Some(nonce) = migration.state.terms.nonce else {
            // Performing without a nonce: records are missing that no gap was reported for.
            self.live(id).rule = Some(Rule::NoRuleForThis);
            return;
        };
        let (protocol, authority) = (
            migration.state.terms.protocol,
            migration.state.terms.authority,
        );
        if self.has_unsettled_disks(id) {
            // Somebody else let it go over: what was sent would run on a disk that may lack something.
            return self.abandon(id, "a copied disk was not settled", false);
        }
        let wanted = domain.state.wanted;
        self.cite_look(id);
        if protocol == Protocol::V3 {
            self.enter(id, Phase::Perform3Done);
        }
        // The position of the very record that is appended next.
        let granted = Position {
            lsn: self.engine.next,
            ..self.position()
        };
        let cookie = Cookie {
            migration: id,
            nonce,
            granted,
            authority,
            wanted,
        };
        let body = match protocol {
            // Whose own word is the decision gives the licence with it.
            Protocol::V2 => RecordBody::MigrationCommitted(MigrationCommitted {
                cookie: Some(cookie),
                migration: id,
            }),
            Protocol::V3 => RecordBody::MigrationGranted(MigrationGranted { cookie }),
        };
        self.record(id, body);
        let live = self.live(id);
        live.peer = PeerAnswer::NotAsked;
        live.ask_at = 0;
        live.ask_delay = 0;
    }

    pub(crate) fn carry_out_source(&mut self, id: MigrationId, rule: Rule) {
        match rule {
            Rule::SourceBeginUndone => {
                self.abandon(id, "the sidecar was restarted before perform", false);
                self.end(
                    id,
                    JobResult::Failed,
                    "the sidecar was restarted before perform",
                );
            }
            Rule::SourceBeginDead | Rule::SourcePerformDeadNotWhole => {
                self.abandon(id, "QEMU ended", false);
                self.end(
                    id,
                    JobResult::Crashed,
                    "QEMU ended before everything was sent",
                );
            }
            Rule::SourcePerformGiveUp => {
                self.learn_wanted_of_source(id);
                self.abandon(id, &self.why_given_up(id), false);
            }
            Rule::SourcePerformRunning => {
                self.abandon(id, "the guest was continued here from outside", false);
            }
            Rule::SourcePerformCompleted
            | Rule::SourcePerformPostcopy
            | Rule::SourcePerformDeadWatched
            | Rule::SourcePerform2Whole => self.grant(id),
            Rule::SourcePerform2Gone => {
                self.abandon(id, "the destination's copy is gone", false);
            }
            Rule::SourceCommitted => {
                if self.effect_due(id) {
                    self.intend(id, EffectCommand::Kill);
                }
            }
            Rule::SourceCommittedDead => {
                self.end(
                    id,
                    JobResult::Completed,
                    "the guest is the destination's, and this copy is gone",
                );
            }
            Rule::SourcePerformDeadUnwatched
            | Rule::SourcePerformDeadAsking
            | Rule::SourcePerform2Completed
            | Rule::SourcePerform2Amnesia => {
                self.ask(id, Asked::Ask, PeerRequest::Ask { migration: id });
            }
            Rule::SourceAbandoned => {
                self.tell_abandoned(id);
                if self.let_go_of_mirrors(id) && self.restore(id) && self.clear_mirrors(id) {
                    let asked = self
                        .migration(id)
                        .is_some_and(|known| known.state.cancel_asked);
                    let result = if asked {
                        JobResult::Cancelled
                    } else {
                        JobResult::Failed
                    };
                    let detail = self.stays_at_the_source(id);
                    self.end_restored(id, result, &detail);
                }
            }
            Rule::SourceAbandonedDead => {
                self.end(id, JobResult::Crashed, "given up, and QEMU ended");
            }
            Rule::SourceGrantedStarted
            | Rule::SourceGrantedRunningStarted
            | Rule::SourceConfirm => {
                self.enter_confirm(id);
                if self.effect_due(id) {
                    self.intend(id, EffectCommand::Kill);
                }
            }
            Rule::SourceConfirmDead => {
                self.end(
                    id,
                    JobResult::Completed,
                    "the guest runs at the destination",
                );
            }
            Rule::SourceGrantedAborted => {
                self.enter(id, Phase::Confirm3Cancelled);
                self.live(id).effect_at = 0;
            }
            Rule::SourceCancelled => {
                if self.restore(id) {
                    self.end_restored(id, JobResult::Failed, "the destination never ran the guest");
                }
            }
            Rule::SourceCancelledDead => {
                self.end(
                    id,
                    JobResult::Crashed,
                    "the destination never ran it, and QEMU ended",
                );
            }
            Rule::SourceGrantedDeadSettled => {
                let known = self.migration(id).map(|known| &known.state);
                let outcome = known.and_then(|state| state.outcome);
                let postcopy = known.is_some_and(|state| state.postcopy);
                if outcome == Some(Outcome::Committed) && postcopy {
                    self.end(
                        id,
                        JobResult::Crashed,
                        "QEMU ended in post-copy: whether all of the guest went over the destination knows",
                    );
                } else if outcome == Some(Outcome::Committed) {
                    self.enter(id, Phase::Confirm3);
                    self.end(
                        id,
                        JobResult::Completed,
                        "the guest runs at the destination",
                    );
                } else {
                    self.enter(id, Phase::Confirm3Cancelled);
                    self.end(id, JobResult::Crashed, "no copy is left: both QEMUs ended");
                }
            }
            Rule::SourceGrantedInDoubt
            | Rule::SourceGrantedAmnesia
            | Rule::SourceGrantedOther
            | Rule::SourceGrantedDead => self.ask_finish(id),
            Rule::SourceVerdictAwaited => {
                // Nobody knows for how long.
                self.live(id).blackout = false;
                let verdict = self.migration(id).and_then(|known| known.facts().verdict);
                match verdict {
                    Some(Outcome::Aborted) => self.verdict_by_cont(id),
                    Some(Outcome::Committed) | None => self.ask_finish(id),
                }
            }
            Rule::SourceStoreInDoubt
            | Rule::SourceStoreSeekAborted
            | Rule::SourceStoreOlder
            | Rule::SourceStoreRunning
            | Rule::SourceStoreDead => self.carry_out_source_store(id, rule),
            Rule::SourceStoreBothGone => self.end_without_a_copy(id),
            Rule::SourceVerdictCont => self.verdict_by_cont(id),
            Rule::SourceVerdictQuit => self.verdict_by_quit(id),
            Rule::SourcePostcopyBroken => self.resume_stream(id),
            Rule::SourcePostcopyWhole => {
                self.enter_confirm(id);
                if self.effect_due(id) {
                    self.intend(id, EffectCommand::Kill);
                }
            }
            Rule::SourcePostcopyLost => {
                self.enter(id, Phase::PostcopyFailed);
                if self.effect_due(id) {
                    self.intend(id, EffectCommand::Kill);
                }
            }
            Rule::SourceGrantedRunning => {
                self.ask(id, Asked::Abandon, PeerRequest::Abandon { migration: id });
            }
            Rule::QemuMute => self.cut_mute_mirrors(id),
            // Held: nothing is done until something else is seen or heard.
            Rule::SourceGrantedStartedUnproven
            | Rule::SourceAbandonedStarted
            | Rule::SourcePostcopyEnding
            | Rule::OtherInstance
            | Rule::ClaimedByAnother
            | Rule::JournalOlderThanQemu
            | Rule::JournalDamaged
            | Rule::StoreKeyForeign
            | Rule::NoRuleForThis => {}
            // An operator's word, and a manager's, is carried out where it is given; the others are not a
            // source's.
            Rule::OperatorResolved
            | Rule::ManagerVerdict
            | Rule::DestinationPrepareDead
            | Rule::DestinationPrepareRunning
            | Rule::DestinationPrepareFailed
            | Rule::DestinationPrepareAbandoned
            | Rule::DestinationPrepareFinish
            | Rule::DestinationPrepareWaiting
            | Rule::DestinationPrepareAlone
            | Rule::DestinationPrepareAmnesia
            | Rule::DestinationPrepareLost
            | Rule::DestinationPostcopyBroken
            | Rule::DestinationPostcopyLost
            | Rule::DestinationFinishRetry
            | Rule::DestinationFinishRefused
            | Rule::DestinationFinishRefusedSafe
            | Rule::DestinationFinishRunning
            | Rule::DestinationFinishDead
            | Rule::DestinationFinishDeadUnsent
            | Rule::DestinationStarted
            | Rule::DestinationStartedDead
            | Rule::DestinationAborted
            | Rule::DestinationAbortedDead
            | Rule::DestinationStoreProposed
            | Rule::DestinationStoreWon
            | Rule::DestinationStoreAborted
            | Rule::DestinationStoreAmnesia
            | Rule::DestinationStoreStarted
            | Rule::DestinationStoreContradicted
            | Rule::DestinationStoreWithdraw
            | Rule::DestinationVerdictAwaited
            | Rule::DestinationVerdictCont
            | Rule::DestinationVerdictQuit => {}
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

    /// With why, if that was in this life.
    fn stays_at_the_source(&mut self, id: MigrationId) -> String {
        let stays = "the guest stays at the source";
        match &self.live(id).abandoned {
            Some(why) => format!("{stays}: {why}"),
            None => stays.to_owned(),
        }
    }

    fn why_given_up(&self, id: MigrationId) -> String {
        let seen = self
            .migration(id)
            .and_then(|migration| self.engine.eyes.get(&migration.domain))
            .and_then(|eyes| eyes.observed.as_ref())
            .and_then(|observed| observed.migration.as_ref());
        match seen {
            Some(status) => format!("not completed: QEMU's migration is {status}"),
            None => "not completed".to_owned(),
        }
    }

    pub(crate) fn ask_finish(&mut self, id: MigrationId) {
        let Some(state) = self.migration(id).map(|migration| &migration.state) else {
            return;
        };
        let (cookie, ran_on) = (state.granted, ran_on(state));
        if let Some(cookie) = cookie {
            // The licence is not shown again for a copy that may be older than this one became; how
            // the destination stands may still settle it.
            let request = if ran_on {
                PeerRequest::Ask { migration: id }
            } else {
                PeerRequest::Finish { cookie }
            };
            self.ask(id, Asked::Finish, request);
        }
    }

    pub(crate) fn tell_abandoned(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        if !knows_outcome(migration.state.peer_answer) {
            self.ask(id, Asked::Abandon, PeerRequest::Abandon { migration: id });
        }
    }

    /// Brings this copy back to its wanted run state after a migration that will not be. True when
    /// it is there.
    fn restore(&mut self, id: MigrationId) -> bool {
        let Some(migration) = self.migration(id) else {
            return false;
        };
        let (domain, migrated) = (migration.domain, migration.may_be_sent());
        self.learn_wanted_of_source(id);
        let Some(wanted) = self.domain(domain).map(|domain| domain.state.wanted) else {
            return false;
        };
        let Some(observed) = self.eyes(domain).observed.clone() else {
            return false;
        };
        let command = match (
            status_class(observed.migration.as_ref()),
            run_class(observed.run_state.as_ref()),
        ) {
            (
                StatusClass::Performing | StatusClass::PreSwitchover | StatusClass::Device,
                RunClass::Running
                | RunClass::Ran
                | RunClass::Paused
                | RunClass::FinishMigrate
                | RunClass::Postmigrate
                | RunClass::Unknown,
            ) if migrated => Some(EffectCommand::MigrateCancel),
            // On its way to an end; the next look tells.
            (StatusClass::Cancelling, _) | (_, RunClass::FinishMigrate) => return false,
            // Never here, or a split guest: nothing is done to it.
            (StatusClass::Postcopy | StatusClass::PostcopyBroken | StatusClass::Unknown, _)
            | (_, RunClass::Inmigrate | RunClass::Unknown) => return false,
            (_, RunClass::Ran) => None,
            (_, RunClass::Running) => match wanted {
                WantedRunState::Running => None,
                WantedRunState::Paused => Some(EffectCommand::Stop),
            },
            (_, RunClass::Paused | RunClass::Postmigrate) => match wanted {
                WantedRunState::Running => Some(EffectCommand::Cont),
                WantedRunState::Paused => None,
            },
        };
        match command {
            None => true,
            Some(command) => {
                if self.effect_due(id) {
                    self.cite_look(id);
                    self.intend(id, command);
                }
                false
            }
        }
    }

    /// A source whose job ended: the destination is told until it knows, then all is forgotten.
    pub(crate) fn after_end_source(&mut self, id: MigrationId) {
        let Some(migration) = self.migration(id) else {
            return;
        };
        let state = &migration.state;
        if let (true, Some(cookie)) = (state.committed, state.granted)
            && !knows_outcome(state.peer_answer)
        {
            return self.ask(id, Asked::Finish, PeerRequest::Finish { cookie });
        }
        let needs_telling = state.abandoned
            && state.outcome.is_none()
            && state.granted.is_none()
            && !knows_outcome(state.peer_answer);
        if needs_telling {
            self.ask(id, Asked::Abandon, PeerRequest::Abandon { migration: id });
        } else {
            self.ask(
                id,
                Asked::Acknowledge,
                PeerRequest::Acknowledge { migration: id },
            );
        }
    }

    /// Does the guest still run, or stand, as its owner says?
    pub(crate) fn is_before_switchover(&mut self, id: MigrationId) -> bool {
        self.evidence(id).is_some_and(|evidence| {
            let status = status_class(evidence.observed.migration.as_ref());
            matches!(status, StatusClass::None | StatusClass::Performing)
                || !evidence.facts.migrate_intended
        })
    }

    /// The owner's stop or cont during perform; true if an effect belongs to it.
    pub(crate) fn want_during_perform(&mut self, id: MigrationId, wanted: WantedRunState) -> bool {
        let Some(evidence) = self.evidence(id) else {
            return false;
        };
        let command = match (wanted, &evidence.observed.run_state) {
            (WantedRunState::Paused, Some(RunState::Running)) => Some(EffectCommand::Stop),
            (WantedRunState::Running, Some(RunState::Paused)) => Some(EffectCommand::Cont),
            _ => None,
        };
        match command {
            Some(command) => {
                self.live(id).plan.push_back(command);
                true
            }
            _ => false,
        }
    }
}

/// Does that answer end the telling of an outcome? Whoever lost what it had cannot be told any more.
fn knows_outcome(answer: PeerAnswer) -> bool {
    match answer {
        PeerAnswer::Started
        | PeerAnswer::Aborted
        | PeerAnswer::Lost
        | PeerAnswer::NoSuchMigration
        | PeerAnswer::Amnesia => true,
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
        | PeerAnswer::Committed => false,
    }
}

/// What became of an effect, for people.
pub(crate) fn describe(result: &EffectResult) -> String {
    match result {
        EffectResult::Done => "done".to_owned(),
        EffectResult::Refused { description, .. } => format!("was refused: {description}"),
        EffectResult::NotSent { why } => format!("was not sent: {why}"),
        EffectResult::Unknown { why } => format!("has no known result: {why}"),
    }
}
