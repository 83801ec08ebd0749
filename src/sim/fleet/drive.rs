//! A migration that the fleet's manager drives itself over both sides: phase by phase, or by plain commands on the
//! monitors that the sidecars offer, as one does that knows nothing of them.
//!
//! Invariant: its word is on its own record before a sidecar hears it, and stays the same; a copy is given up only where
//! the other one is seen to be good, and where that cannot be seen a human has to look.
//! Not here: when it begins one (`fleet`), what the phases mean (the engine).

use journal_format::number::Lsn;
use journal_format::record::{
    JobKind, JobPhase, JobResult, MigrationStatus, Observed, Outcome, RunState,
};
use serde_json::{Value, json};

use super::super::manager::{Desk, RequestId};
use super::super::{GuestNumber, HostNumber};
use super::AGAIN_MS;
use super::work::{Next, effect, plain};
use crate::engine::{Answer, ControlRequest, JobTarget, ManagerEffect, Refusal};

/// How long it goes by what it sees before a human is called, in milliseconds.
const LATE_MS: u64 = 15_000;

/// Where it is, while all goes well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    BeginIn,
    BeginOut,
    /// Told on its own where there are no phases.
    ListenSettings,
    /// Likewise: a guest that arrives does not start by itself.
    Hold,
    Listen,
    Settings,
    Send,
    /// Begins post-copy.
    Split,
    UntilSwitchover,
    GoOver,
    UntilSplit,
    UntilSent,
    Grant,
    /// The destination has the guest.
    Take,
    EndIn,
    Confirm,
    EndOut,
    /// The source has it.
    Refuse,
    TurnBack,
    EndFailed,
}

/// What a sidecar said of its open job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    NotAsked,
    Asked(RequestId),
    Nothing,
    Open(Lsn),
    None,
}

/// What it asks a sidecar.
#[allow(
    clippy::large_enum_variant,
    reason = "made and taken apart at once, one at a time"
)]
enum Ask {
    Control(ControlRequest),
    /// A command on the domain's monitor.
    Command(&'static str, Value),
}

/// The migration.
#[derive(Clone, Debug)]
pub(super) struct Drive {
    /// By plain commands.
    is_plain: bool,
    /// And by post-copy.
    splits: bool,
    from: HostNumber,
    to: HostNumber,
    /// `None`: something went wrong, and it goes by what it sees.
    stage: Option<Stage>,
    job_in: Option<Lsn>,
    job_out: Option<Lsn>,
    /// The journals that their numbers are of.
    journals: [u64; 2],
    asked: Option<RequestId>,
    /// On record: what was asked before something went wrong, and is not answered yet.
    late: Option<RequestId>,
    since: u64,
    patience: u64,
    /// The guest runs, so that its `cont` is the manager's to give.
    runs: bool,
    /// What it is going to say, if it gets to that.
    wants: Outcome,
    /// On record: what it said.
    verdict: Option<Outcome>,
    /// On record: the source's cookie; without phases, that it was seen to have sent everything.
    cookie: Option<String>,
    /// On record: the destination said that it has the guest.
    is_taken: bool,
    /// On record: it is in finish3.
    is_entered: bool,
    /// On record: a destination whose guest stays paused was asked to take it, by finish3 or the end of its job.
    has_asked: bool,
    /// Of the source and of the destination.
    said: [Said; 2],
    again: u64,
    takes: Option<RequestId>,
}

const SET_CAPABILITIES: &str = "migrate-set-capabilities";
const OF_SOURCE: &[&str] = &["return-path"];
const OF_DESTINATION: &[&str] = &["return-path", "late-block-activate"];
const OF_BOTH: &[&str] = &["postcopy-ram"];

/// How many that know of no phases go by post-copy, in a million.
const BY_POSTCOPY: u32 = 200_000;

fn capabilities(names: &[&str], splits: bool) -> Value {
    let of_both = if splits { OF_BOTH } else { &[] };
    let on = names
        .iter()
        .chain(of_both)
        .map(|name| json!({"capability": name, "state": true}));
    let on: Vec<Value> = on.collect();
    json!({"capabilities": on})
}

fn is(seen: Option<&Observed>, run: &RunState, status: &MigrationStatus) -> bool {
    seen.is_some_and(|seen| {
        seen.run_state.as_ref() == Some(run) && seen.migration.as_ref() == Some(status)
    })
}

/// Is the guest on both sides?
fn is_split(seen: Option<&Observed>) -> bool {
    let status = seen.and_then(|seen| seen.migration.as_ref());
    matches!(
        status,
        Some(
            MigrationStatus::PostcopyActive
                | MigrationStatus::PostcopyPaused
                | MigrationStatus::PostcopyRecover
        )
    )
}

fn runs(seen: Option<&Observed>) -> bool {
    seen.is_some_and(|seen| seen.run_state == Some(RunState::Running))
}

impl Drive {
    pub(super) fn new(
        from: HostNumber,
        to: HostNumber,
        wants: Outcome,
        patience: u64,
        desk: &mut Desk<'_>,
        guest: GuestNumber,
    ) -> Drive {
        let seen = desk.process(from, guest);
        let runs = runs(seen.as_ref());
        let plain = desk.shape().migrations.plain;
        // One that its owner paused is not continued, and nothing else tells that it arrived.
        let is_plain = plain > 0 && desk.random().chance(plain) && runs;
        let splits = is_plain && desk.random().chance(BY_POSTCOPY);
        Drive {
            is_plain,
            splits,
            from,
            to,
            stage: Some(match is_plain {
                true => Stage::ListenSettings,
                false => Stage::BeginIn,
            }),
            job_in: None,
            job_out: None,
            journals: [from, to].map(|host| desk.journal(host)),
            asked: None,
            late: None,
            since: desk.now_ms(),
            patience,
            runs,
            wants,
            verdict: None,
            cookie: None,
            is_taken: false,
            is_entered: false,
            has_asked: false,
            said: [Said::NotAsked; 2],
            again: 0,
            takes: None,
        }
    }

    /// The manager was restarted: what is on record stays.
    pub(super) fn begin_anew(&mut self) {
        self.stage = None;
        self.late = self.asked.take().or(self.late);
        self.takes = None;
        self.said = [Said::NotAsked; 2];
    }

    /// Has nothing come of it for so long that a human looks at it?
    pub(super) fn is_late(&self, desk: &Desk<'_>) -> bool {
        desk.now_ms() > self.since + self.patience + LATE_MS
    }

    /// Is a journal lost, or put back? The numbers of the jobs are nothing any more.
    fn is_another(&self, desk: &Desk<'_>) -> bool {
        self.journals != [self.from, self.to].map(|host| desk.journal(host))
    }

    pub(super) fn waits_for(&self, request: RequestId) -> bool {
        let said = self.said.contains(&Said::Asked(request));
        said || [self.asked, self.late, self.takes].contains(&Some(request))
    }

    /// Time passed.
    pub(super) fn look(&mut self, desk: &mut Desk<'_>, guest: GuestNumber) -> Next {
        let is_late = desk.now_ms() > self.since + self.patience;
        if self.stage.is_some() && (is_late || self.is_another(desk)) {
            self.begin_anew();
        }
        match self.stage {
            Some(stage) if self.asked.is_none() => self.go_on(stage, desk, guest),
            Some(_) => {}
            None => self.ask_both(desk, guest),
        }
        Next::Goes
    }

    /// An answer came, or none will.
    pub(super) fn answered(
        &mut self,
        request: RequestId,
        result: Option<&Result<Answer, Refusal>>,
        desk: &mut Desk<'_>,
        guest: GuestNumber,
    ) -> Next {
        if self.takes == Some(request) {
            self.takes = None;
            // What is entered ends the next time.
            self.is_taken |= matches!(result, Some(Ok(Answer::Done {} | Answer::Decision(_))));
            self.is_entered = match result {
                Some(Ok(Answer::PhaseEntered { .. })) => true,
                // Whichever of both it was, the other one is tried.
                Some(Err(_)) if !self.is_plain => !self.is_entered,
                Some(Ok(_) | Err(_)) | None => self.is_entered,
            };
            return Next::Goes;
        }
        if self.late == Some(request) {
            self.late = None;
            return Next::Goes;
        }
        if self.asked != Some(request) {
            return self.heard(request, result, desk, guest);
        }
        self.asked = None;
        let Some(stage) = self.stage else {
            return Next::Goes;
        };
        if self.is_another(desk) {
            self.begin_anew();
            return Next::Goes;
        }
        match (result, self.after(stage)) {
            (Some(Ok(answer)), next) => {
                self.note(stage, answer);
                match next {
                    Some(next) => {
                        self.stage = Some(next);
                        self.go_on(next, desk, guest);
                    }
                    None => return Next::Over,
                }
            }
            (Some(Err(_)) | None, _) => self.begin_anew(),
        }
        Next::Goes
    }

    fn note(&mut self, stage: Stage, answer: &Answer) {
        match (stage, answer) {
            (Stage::BeginIn, Answer::JobBegun { job }) => self.job_in = Some(*job),
            (Stage::BeginOut, Answer::JobBegun { job }) => self.job_out = Some(*job),
            (Stage::Grant, Answer::PhaseEntered { cookie, .. }) => self.cookie.clone_from(cookie),
            (Stage::Take, _) if self.is_plain => self.is_taken = true,
            (Stage::Take, _) => {
                self.is_entered = true;
                self.is_taken = self.runs;
            }
            (Stage::EndIn, _) => self.is_taken = true,
            _ => {}
        }
    }

    /// What gives the destination the guest; one that its owner paused is not continued.
    fn take(&self) -> Vec<ManagerEffect> {
        self.runs.then(|| plain("cont")).into_iter().collect()
    }

    fn word_of(&self) -> Stage {
        match self.wants {
            Outcome::Committed => Stage::Take,
            Outcome::Aborted => Stage::Refuse,
        }
    }

    fn after(&self, stage: Stage) -> Option<Stage> {
        Some(match stage {
            Stage::BeginIn => Stage::BeginOut,
            Stage::ListenSettings => Stage::Hold,
            Stage::BeginOut | Stage::Hold => Stage::Listen,
            Stage::Listen => Stage::Settings,
            Stage::Settings => Stage::Send,
            Stage::Send if self.splits => Stage::Split,
            Stage::Send | Stage::Split => Stage::UntilSwitchover,
            Stage::UntilSwitchover => Stage::GoOver,
            Stage::GoOver if self.splits => Stage::UntilSplit,
            Stage::UntilSplit => Stage::Take,
            Stage::Take if self.splits => Stage::UntilSent,
            Stage::UntilSent if self.splits => Stage::Confirm,
            Stage::GoOver => Stage::UntilSent,
            Stage::UntilSent if self.is_plain => self.word_of(),
            Stage::UntilSent => Stage::Grant,
            Stage::Grant => self.word_of(),
            Stage::Take if self.is_plain => Stage::Confirm,
            Stage::Take => Stage::EndIn,
            Stage::EndIn => Stage::Confirm,
            Stage::Confirm | Stage::TurnBack if self.is_plain => return None,
            Stage::Confirm => Stage::EndOut,
            Stage::Refuse => Stage::TurnBack,
            Stage::TurnBack if self.runs => Stage::EndFailed,
            Stage::TurnBack | Stage::EndOut | Stage::EndFailed => return None,
        })
    }

    fn go_on(&mut self, stage: Stage, desk: &mut Desk<'_>, guest: GuestNumber) {
        let (source, destination) = (desk.process(self.from, guest), desk.process(self.to, guest));
        let is_there = match stage {
            Stage::UntilSwitchover => is(
                source.as_ref(),
                &RunState::FinishMigrate,
                &MigrationStatus::PreSwitchover,
            ),
            Stage::UntilSplit => is(
                destination.as_ref(),
                &RunState::Paused,
                &MigrationStatus::PostcopyActive,
            ),
            Stage::UntilSent => {
                let completed = &MigrationStatus::Completed;
                is(source.as_ref(), &RunState::Postmigrate, completed)
                    && (self.splits || is(destination.as_ref(), &RunState::Paused, completed))
            }
            _ => false,
        };
        // Somebody continued it.
        let is_waiting = self.is_plain && stage == Stage::UntilSent && !self.splits;
        if is_waiting && runs(destination.as_ref()) {
            self.verdict = Some(Outcome::Committed);
            self.is_taken = true;
            return self.begin_anew();
        }
        if matches!(
            stage,
            Stage::UntilSwitchover | Stage::UntilSplit | Stage::UntilSent
        ) {
            if let (true, Some(next)) = (is_there, self.after(stage)) {
                if self.is_plain && stage == Stage::UntilSent {
                    self.cookie = Some(String::new());
                }
                self.stage = Some(next);
                self.go_on(next, desk, guest);
            }
            return;
        }
        // A last look before a copy is given up: is the other one there?
        let is_last = match stage {
            Stage::Refuse => source.is_none(),
            Stage::Confirm => !self.may_forsake_source(destination.as_ref()),
            _ => false,
        };
        if is_last {
            return self.begin_anew();
        }
        match stage {
            Stage::Take => {
                self.verdict = Some(Outcome::Committed);
                self.is_entered |= !self.runs;
                self.has_asked |= !self.runs;
            }
            Stage::Refuse => {
                self.verdict = Some(Outcome::Aborted);
                desk.forsake(self.to, guest);
            }
            Stage::Confirm => desk.forsake(self.from, guest),
            _ => {}
        }
        let host = match stage {
            Stage::BeginIn
            | Stage::ListenSettings
            | Stage::Hold
            | Stage::Listen
            | Stage::Take
            | Stage::EndIn
            | Stage::Refuse => self.to,
            _ => self.from,
        };
        let ask = match self.is_plain {
            true => self.command(stage, desk, guest),
            false => self.request(stage, desk, guest).map(Ask::Control),
        };
        self.asked = match ask {
            Some(Ask::Control(request)) => Some(desk.ask(host, request)),
            Some(Ask::Command(execute, arguments)) => {
                Some(desk.command(host, guest, execute, &arguments))
            }
            None => return self.begin_anew(),
        };
    }

    /// A guest that ran on the destination is further than the source; one that its owner paused is as good there.
    fn may_forsake_source(&self, destination: Option<&Observed>) -> bool {
        self.runs || destination.is_some()
    }

    /// Without phases.
    fn command(&self, stage: Stage, desk: &Desk<'_>, guest: GuestNumber) -> Option<Ask> {
        let uri = || desk.uri(self.to, guest).map(|uri| json!({"uri": uri}));
        let (execute, arguments) = match stage {
            Stage::ListenSettings => (SET_CAPABILITIES, capabilities(OF_DESTINATION, self.splits)),
            Stage::Hold => ("stop", json!({})),
            Stage::Listen => ("migrate-incoming", uri()?),
            Stage::Settings => (SET_CAPABILITIES, capabilities(OF_SOURCE, self.splits)),
            Stage::Send => ("migrate", uri()?),
            Stage::Split => ("migrate-start-postcopy", json!({})),
            Stage::GoOver => ("migrate-continue", json!({"state": "pre-switchover"})),
            Stage::Take | Stage::TurnBack => ("cont", json!({})),
            Stage::Confirm | Stage::Refuse => ("quit", json!({})),
            Stage::BeginIn
            | Stage::BeginOut
            | Stage::UntilSwitchover
            | Stage::UntilSplit
            | Stage::UntilSent
            | Stage::Grant
            | Stage::EndIn
            | Stage::EndOut
            | Stage::EndFailed => return None,
        };
        Some(Ask::Command(execute, arguments))
    }

    fn request(&self, stage: Stage, desk: &Desk<'_>, guest: GuestNumber) -> Option<ControlRequest> {
        let name = || desk.name(guest).to_owned();
        let begin = |kind| ControlRequest::JobBegin {
            name: name(),
            kind,
            cookie: Some("<manager/>".to_owned()),
        };
        let (to, from) = (self.job_in, self.job_out);
        let enter = |job: Option<Lsn>, phase, effects: Vec<ManagerEffect>| {
            Some(ControlRequest::PhaseEnter {
                job: job?,
                phase,
                effects,
                cookie: None,
                peer_cookie: match phase {
                    JobPhase::Finish3 => self.cookie.clone(),
                    _ => None,
                },
            })
        };
        let end = |job: Option<Lsn>, result| Some(ControlRequest::JobEnd { job: job?, result });
        let uri = || desk.uri(self.to, guest).map(|uri| json!({"uri": uri}));
        let request = match stage {
            Stage::BeginIn => begin(JobKind::MigrationIn),
            Stage::BeginOut => begin(JobKind::MigrationOut),
            Stage::Listen => {
                let told = effect(SET_CAPABILITIES, capabilities(OF_DESTINATION, self.splits));
                let listen = effect("migrate-incoming", uri()?);
                enter(to, JobPhase::Prepare, vec![told, listen])?
            }
            Stage::Settings => {
                let told = effect(SET_CAPABILITIES, capabilities(OF_SOURCE, self.splits));
                enter(from, JobPhase::Begin3, vec![told])?
            }
            Stage::Send => enter(from, JobPhase::Perform3, vec![effect("migrate", uri()?)])?,
            Stage::GoOver => {
                let state = json!({"state": "pre-switchover"});
                enter(
                    from,
                    JobPhase::Perform3,
                    vec![effect("migrate-continue", state)],
                )?
            }
            Stage::Grant => enter(from, JobPhase::Perform3Done, Vec::new())?,
            Stage::Take => enter(to, JobPhase::Finish3, self.take())?,
            Stage::EndIn => end(to, JobResult::Completed)?,
            Stage::Confirm => enter(from, JobPhase::Confirm3, vec![plain("quit")])?,
            Stage::EndOut => end(from, JobResult::Completed)?,
            Stage::Refuse => enter(to, JobPhase::Finish3, vec![plain("quit")])?,
            Stage::TurnBack if !self.runs => ControlRequest::Verdict {
                target: JobTarget::Job(from?),
                outcome: Outcome::Aborted,
                uid: 0,
            },
            Stage::TurnBack => enter(from, JobPhase::Confirm3Cancelled, vec![plain("cont")])?,
            Stage::EndFailed => end(from, JobResult::Failed)?,
            Stage::ListenSettings
            | Stage::Hold
            | Stage::Split
            | Stage::UntilSwitchover
            | Stage::UntilSplit
            | Stage::UntilSent => return None,
        };
        Some(request)
    }

    /// Says whose the guest is, to the sidecar of one side, of that job of its; without phases, where there is none either.
    fn word(
        &self,
        said: Said,
        host: HostNumber,
        outcome: Outcome,
        desk: &mut Desk<'_>,
        guest: GuestNumber,
    ) -> Option<RequestId> {
        let ends = (host == self.from) == (outcome == Outcome::Committed);
        if self.is_plain {
            let execute = if ends { "quit" } else { "cont" };
            return Some(desk.command(host, guest, execute, &json!({})));
        }
        let Said::Open(job) = said else { return None };
        let request = ControlRequest::Verdict {
            target: JobTarget::Job(job),
            outcome,
            uid: 0,
        };
        Some(desk.ask(host, request))
    }

    // What it does when something went wrong.

    fn ask_both(&mut self, desk: &mut Desk<'_>, guest: GuestNumber) {
        if self.again > desk.now_ms() || self.said != [Said::NotAsked; 2] {
            return;
        }
        self.said = [self.from, self.to].map(|host| {
            let name = Some(desk.name(guest).to_owned());
            Said::Asked(desk.ask(host, ControlRequest::QueryJobs { job: None, name }))
        });
    }

    fn heard(
        &mut self,
        request: RequestId,
        result: Option<&Result<Answer, Refusal>>,
        desk: &mut Desk<'_>,
        guest: GuestNumber,
    ) -> Next {
        let kinds = [JobKind::MigrationOut, JobKind::MigrationIn];
        for (said, kind) in self.said.iter_mut().zip(kinds) {
            if *said == Said::Asked(request) {
                *said = match result {
                    // A journal that was put back may have one of before: what comes in is not what goes out, and what the
                    // sidecars drive is not its.
                    Some(Ok(Answer::Jobs(jobs))) => jobs
                        .iter()
                        .find(|job| {
                            job.result.is_none() && job.kind == kind && job.migration.is_none()
                        })
                        .map_or(Said::None, |job| Said::Open(job.job)),
                    Some(_) => Said::None,
                    None => Said::Nothing,
                };
            }
        }
        if self.said.iter().any(|said| matches!(said, Said::Asked(_))) {
            return Next::Goes;
        }
        let said = core::mem::replace(&mut self.said, [Said::NotAsked; 2]);
        self.again = desk.now_ms() + AGAIN_MS;
        if said == [Said::None; 2] && self.late.is_some() {
            // What is on its way may still begin one.
            return Next::Goes;
        }
        if said == [Said::None; 2] {
            // Its `cont` may be lost on the way: it is looked at again.
            return match self.run_where_it_was(desk, guest) {
                true => Next::Goes,
                false => Next::Over,
            };
        }
        self.settle(said, desk, guest);
        Next::Goes
    }

    /// QEMU does not continue a guest by itself that it could not split. May there be one to continue?
    fn run_where_it_was(&self, desk: &mut Desk<'_>, guest: GuestNumber) -> bool {
        let source = desk.process(self.from, guest);
        let status = source.as_ref().and_then(|seen| seen.migration.as_ref());
        let is_back = matches!(
            status,
            Some(MigrationStatus::Failed | MigrationStatus::Cancelled)
        );
        let stands = self.splits && is_back && !runs(source.as_ref());
        if stands {
            desk.command(self.from, guest, "cont", &json!({}));
        }
        // One that is mute may stand too.
        let is_seen = source.as_ref().is_none_or(|seen| seen.run_state.is_some());
        stands || self.splits && !is_seen
    }

    fn settle(&mut self, said: [Said; 2], desk: &mut Desk<'_>, guest: GuestNumber) {
        let (source, destination) = (desk.process(self.from, guest), desk.process(self.to, guest));
        let completed = MigrationStatus::Completed;
        let is_whole = is(destination.as_ref(), &RunState::Paused, &completed);
        let has_sent = is(source.as_ref(), &RunState::Postmigrate, &completed);
        // Nothing came, and nothing ever will.
        let is_empty = destination.is_none()
            || is(
                destination.as_ref(),
                &RunState::Inmigrate,
                &MigrationStatus::None,
            );
        self.is_taken |= runs(destination.as_ref());
        // The end of its job was not heard, or only as a refusal, since an earlier request for it was still under way; any other
        // end would have ended its QEMU too. A journal that was lost, or put back, tells nothing of it.
        let may_be_ended = self.has_asked && self.journals[1] == desk.journal(self.to);
        let was_ended = said[1] == Said::None && is_whole && (self.is_entered || may_be_ended);
        self.is_taken |= was_ended && self.verdict == Some(Outcome::Committed);
        // There is no way back, and no half of it is given up.
        let may_be_split = is_split(source.as_ref()) || is_split(destination.as_ref());
        if self.splits && may_be_split {
            self.verdict = Some(Outcome::Committed);
            if is_split(destination.as_ref()) && !runs(destination.as_ref()) {
                self.takes = self.word(said[1], self.to, Outcome::Committed, desk, guest);
            }
            return;
        }
        if self.verdict.is_none() {
            self.verdict = match (&source, is_whole) {
                _ if self.is_taken => Some(Outcome::Committed),
                (Some(_), _) => Some(Outcome::Aborted),
                // It said that everything was sent, and is gone.
                (None, true) if self.cookie.is_some() => Some(Outcome::Committed),
                (None, false) if is_empty => Some(Outcome::Aborted),
                // What is there may be older than what the source came to: a human has to look.
                (None, _) => None,
            };
        }
        match (self.verdict, said) {
            (Some(Outcome::Committed), [_, Said::Open(_)]) if destination.is_none() => {}
            (Some(Outcome::Committed), [_, Said::Open(_)]) if self.runs => {
                self.takes = self.word(said[1], self.to, Outcome::Committed, desk, guest);
            }
            // Its owner paused it, which the cookie says and a word alone does not.
            (Some(Outcome::Committed), [_, Said::Open(job)]) => {
                let result = JobResult::Completed;
                let request = match self.is_entered {
                    true => ControlRequest::JobEnd { job, result },
                    false => ControlRequest::PhaseEnter {
                        job,
                        phase: JobPhase::Finish3,
                        effects: Vec::new(),
                        cookie: None,
                        peer_cookie: self.cookie.clone(),
                    },
                };
                self.has_asked = true;
                self.takes = Some(desk.ask(self.to, request));
            }
            // Its sidecar knows of nothing, and lets it pass.
            (Some(Outcome::Committed), [_, Said::None]) if self.is_plain && is_whole => {
                self.takes = self.word(said[1], self.to, Outcome::Committed, desk, guest);
            }
            (Some(Outcome::Committed), [Said::Open(_), Said::None])
                if self.is_taken && self.may_forsake_source(destination.as_ref()) =>
            {
                desk.forsake(self.from, guest);
                self.word(said[0], self.from, Outcome::Committed, desk, guest);
            }
            (Some(Outcome::Aborted), [_, Said::Open(_)]) if source.is_some() || is_empty => {
                desk.forsake(self.to, guest);
                self.word(said[1], self.to, Outcome::Aborted, desk, guest);
            }
            (Some(Outcome::Aborted), [Said::Open(job), _]) if destination.is_none() => {
                // What was said before is not cancelled, and what was not sent is not judged.
                match has_sent || desk.random().coin() {
                    true => self.word(said[0], self.from, Outcome::Aborted, desk, guest),
                    false if self.is_plain => {
                        Some(desk.command(self.from, guest, "migrate_cancel", &json!({})))
                    }
                    false => Some(desk.ask(self.from, ControlRequest::JobCancel { job })),
                };
            }
            // A QEMU that waits, and of which its sidecar knows nothing.
            (Some(Outcome::Aborted), [Said::Open(_), Said::None]) => {
                desk.quit_incoming(self.to, guest);
                if self.is_plain && !is_whole && !has_sent {
                    desk.command(self.from, guest, "migrate_cancel", &json!({}));
                }
            }
            _ => {}
        }
    }
}
