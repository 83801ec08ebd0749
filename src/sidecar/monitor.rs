//! One task per domain: holds the connection to its QEMU, looks, performs effects, passes on events.
//!
//! Invariant: only the instance that the engine named is ever spoken to; effects go out one at a
//! time in the order they came, over the connection that looks use too; each effect and each look
//! asked for is answered exactly once, and events keep their order towards both.
//! Not here: what any of it means (`observe`, the engine), how an effect becomes bytes (`qmp`).

use core::time::Duration;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal_format::number::{BootId, DomainId};
use journal_format::record::{
    Effect, EffectCommand, EffectResult, Instance, MigrationStatus, Observed, Process,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use super::connection::{ConnectError, Connection, Heard};
use super::link::Link;
use super::observe;
use super::process::Held;
use super::progress::ProgressBoard;
use super::proxy::{Arrived, Finished, Passage, Port, Upstream};
use crate::engine::{Input, JobSeen, QemuEvent};
use crate::journal::Durable;
use crate::qmp::Passing;

/// Longest time without an answer after which a QEMU that lives is mute, in milliseconds.
pub(crate) const LOOK_WAIT_MS_MAX: u64 = 2_000;

/// Longest wait for the answer to an effect, in milliseconds: a busy QEMU takes its time.
pub(crate) const EFFECT_WAIT_MS_MAX: u64 = 10_000;

/// Most requests that wait for one QEMU.
const REQUEST_QUEUE_MAX: usize = 64;

/// First and longest pause between attempts to see a QEMU again, in milliseconds.
const RECONNECT_MS_MIN: u64 = 20;
const RECONNECT_MS_MAX: u64 = 1_000;

/// How soon after the end of its stream a process must be gone for the one to have been the
/// other's end, in milliseconds. The kernel closes a dying process's files when none of its threads
/// runs any more, moments before it is gone. Longer would trust a QEMU that hung up and lived on.
const END_GRACE_MS_MAX: u64 = 100;

/// Longest time to hear out a process that is gone, in milliseconds.
const HEAR_OUT_MS_MAX: u64 = 1_000;

/// Longest wait when a QEMU that could not be seen is tried again unasked, in milliseconds. Short,
/// because requests wait meanwhile.
const RETRY_WAIT_MS_MAX: u64 = 500;

/// Most looks in one, while QEMU moves under our eyes.
const LOOK_ATTEMPTS_MAX: u32 = 5;

/// How often the progress of a running migration is read, and how long that may take, in
/// milliseconds.
const PROGRESS_INTERVAL_MS: u64 = 250;
const PROGRESS_WAIT_MS_MAX: u64 = 200;

/// Why there is no answer from a process that is gone, or from a connection that is.
const ENDED: &str = "the other end is gone";

/// What to watch.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// The domain.
    pub(crate) domain: DomainId,
    /// Its name, for logs.
    pub(crate) name: String,
    /// QEMU's monitor socket.
    pub(crate) qmp: PathBuf,
    /// The only process that counts.
    pub(crate) instance: Instance,
}

/// What a monitor is asked for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Carry this out.
    Perform(Durable<Effect>),
    /// Carry this out as a client of the monitor sent it.
    Pass(Durable<Effect>, Box<Passage>),
    /// Look, now.
    Look,
    /// Look at what jobs left, now.
    LookAtJob,
    /// Read what QEMU is told about migrations, now.
    LookAtSettings,
}

/// A domain's task.
#[derive(Debug)]
pub(crate) struct Monitor {
    requests: mpsc::Sender<Request>,
    watched: Watched,
    link: Link,
    lane: Lane,
    task: JoinHandle<()>,
}

/// The way to QEMU past the task, for clients' effects: open while the task has nothing to do, so that nothing is overtaken.
#[derive(Clone, Debug, Default)]
struct Lane(Arc<Mutex<Option<Passing>>>);

impl Lane {
    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, Option<Passing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Monitor {
    /// Begins to watch, as soon as the monitor `before` it has answered all it was asked: a QEMU
    /// serves one connection at a time.
    pub(crate) fn start(
        watched: Watched,
        boot: BootId,
        link: Link,
        board: ProgressBoard,
        port: Port,
        before: Option<Monitor>,
    ) -> Monitor {
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE_MAX);
        let before = before.map(Monitor::finish);
        let lane = Lane::default();
        let task = Task::new(
            watched.clone(),
            boot,
            link.clone(),
            board,
            port,
            lane.clone(),
        );
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                drop(before.await);
            }
            task.run(receiver).await;
        });
        Monitor {
            requests,
            watched,
            link,
            lane,
            task,
        }
    }

    /// Queues a request without waiting. A client's effect goes to QEMU right here if nothing is before it.
    ///
    /// # Errors
    /// The request comes back when too many wait.
    pub(crate) fn request(&self, request: Request) -> Result<(), Request> {
        // Held until it is queued: what comes next is behind it.
        let mut lane = self.lane.lock();
        let request = match (request, &*lane) {
            (Request::Pass(effect, passage), Some(passing))
                if effect.get().instance == self.watched.instance =>
            {
                pass(&self.watched, &self.link, Ok(passing), effect, *passage);
                return Ok(());
            }
            (request, _) => request,
        };
        *lane = None;
        self.requests
            .try_send(request)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(request)
                | mpsc::error::TrySendError::Closed(request) => request,
            })
    }

    /// No more requests; the task ends when all are answered.
    fn finish(self) -> JoinHandle<()> {
        self.task
    }
}

/// Whether the process is there.
#[derive(Debug)]
enum Hold {
    /// It is, and cannot be mistaken for another.
    Held(Held),
    /// It is gone for good.
    Gone,
    /// The kernel did not say (no file descriptors left, say).
    Unknown,
}

/// The task's state.
#[derive(Debug)]
struct Task {
    watched: Watched,
    boot: BootId,
    link: Link,
    board: ProgressBoard,
    /// Where the clients of the domain's monitor are.
    port: Port,
    lane: Lane,
    hold: Hold,
    /// The engine was told that the process is gone.
    end_is_told: bool,
    /// The engine was told last that it does not answer.
    is_mute: bool,
    connection: Option<Connection>,
    /// When to try to connect again, and the pause after that.
    next_attempt: Instant,
    pause: Duration,
    /// A migration moves in this QEMU, as far as was seen.
    moving: bool,
    /// The status of its migration, as last seen or heard over this connection.
    status: Option<MigrationStatus>,
}

/// Waits for the end of a process that is held, else for ever.
async fn end_of(hold: &Hold) {
    match hold {
        Hold::Held(held) => held.ended().await,
        Hold::Gone | Hold::Unknown => core::future::pending().await,
    }
}

/// Waits for the next event, for ever without a connection.
async fn event_of(connection: &mut Option<Connection>) -> Heard {
    match connection {
        Some(connection) => connection.ears.heard().await,
        None => core::future::pending().await,
    }
}

impl Task {
    fn new(
        watched: Watched,
        boot: BootId,
        link: Link,
        board: ProgressBoard,
        port: Port,
        lane: Lane,
    ) -> Task {
        Task {
            watched,
            boot,
            link,
            board,
            port,
            lane,
            hold: Hold::Unknown,
            end_is_told: false,
            is_mute: false,
            connection: None,
            next_attempt: Instant::now(),
            pause: Duration::from_millis(RECONNECT_MS_MIN),
            moving: false,
            status: None,
        }
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        info!(domain = %self.watched.name, instance = %self.watched.instance, "watching");
        self.take_up();
        self.report_look().await;
        let mut progress = interval(Duration::from_millis(PROGRESS_INTERVAL_MS));
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_connected = self.connection.is_some();
            let is_gone = matches!(self.hold, Hold::Gone);
            let is_unseen = !is_gone && (!is_connected || self.is_mute);
            if is_gone && !self.end_is_told {
                self.report_look().await;
                continue;
            }
            self.open_lane(&requests);
            tokio::select! {
                heard = event_of(&mut self.connection), if is_connected => {
                    self.close_lane();
                    self.pass_on(heard).await;
                    if self.connection.is_none() {
                        self.report_look().await;
                    }
                }
                request = requests.recv() => match request {
                    Some(Request::Look) => self.report_look().await,
                    Some(Request::LookAtJob) => self.report_job_look().await,
                    Some(Request::LookAtSettings) => self.report_settings().await,
                    Some(Request::Perform(effect)) => self.perform(effect).await,
                    Some(Request::Pass(effect, passage)) => self.pass(effect, *passage),
                    None => break,
                },
                () = end_of(&self.hold) => {
                    self.close_lane();
                    self.take_hold();
                }
                () = sleep_until(self.next_attempt), if is_unseen => {
                    self.close_lane();
                    self.try_again().await;
                }
                _ = progress.tick(), if is_connected && self.moving => {
                    self.close_lane();
                    self.read_progress().await;
                }
            }
        }
        self.close_lane();
        self.board.clear(self.watched.domain);
        info!(domain = %self.watched.name, "no longer watching");
    }

    /// There is nothing to do: clients' effects need not come here.
    fn open_lane(&self, requests: &mpsc::Receiver<Request>) {
        let mut lane = self.lane.lock();
        *lane = match (&self.hold, &self.connection) {
            (Hold::Held(_), Some(connection)) if requests.is_empty() => {
                Some(connection.client.passing())
            }
            (Hold::Held(_) | Hold::Gone | Hold::Unknown, _) => None,
        };
    }

    /// What is queued from now on is behind what is being done. A request that comes closes it itself.
    fn close_lane(&self) {
        *self.lane.lock() = None;
    }

    /// Looks, and tells.
    async fn report_look(&mut self) {
        let observed = self.look().await;
        self.report(observed).await;
    }

    /// Looks at what jobs left in QEMU, and tells; what cannot be seen in time stays unread.
    async fn report_job_look(&mut self) {
        let wait = Duration::from_millis(LOOK_WAIT_MS_MAX);
        let seen = match &self.connection {
            None => JobSeen::default(),
            Some(connection) => tokio::time::timeout(wait, connection.look_at_job())
                .await
                .unwrap_or_default(),
        };
        let domain = self.watched.domain;
        debug!(domain = %self.watched.name, ?seen, "looked at jobs");
        self.link.tell(Input::JobLooked { domain, seen }).await;
    }

    /// Reads what QEMU is told about migrations, and tells; nothing if that was not said in time.
    async fn report_settings(&mut self) {
        let wait = Duration::from_millis(LOOK_WAIT_MS_MAX);
        if self.connection.is_none() {
            // Connects.
            self.report_look().await;
        }
        let seen = match &self.connection {
            None => None,
            Some(connection) => tokio::time::timeout(wait, connection.settings())
                .await
                .unwrap_or_default(),
        };
        let domain = self.watched.domain;
        debug!(domain = %self.watched.name, ?seen, "looked at settings");
        self.link.tell(Input::SettingsLooked { domain, seen }).await;
    }

    async fn report(&mut self, observed: Observed) {
        debug!(
            domain = %self.watched.name,
            process = %observed.process,
            run_state = observed.run_state.as_ref().map(tracing::field::display),
            migration = observed.migration.as_ref().map(tracing::field::display),
            "looked"
        );
        if let Some(status) = &observed.migration {
            self.note_status(status);
        }
        self.end_is_told |= observed.process == Process::Dead;
        self.is_mute = observed.process == Process::Mute;
        if !self.is_mute {
            self.pause = Duration::from_millis(RECONNECT_MS_MIN);
        }
        let domain = self.watched.domain;
        self.link.tell(Input::Looked { domain, observed }).await;
    }

    /// What can be seen within [`LOOK_WAIT_MS_MAX`]. A connection that is missing or breaks is made
    /// again meanwhile; only a process that lives and gave no answer all the while is mute.
    async fn look(&mut self) -> Observed {
        let deadline = Instant::now() + Duration::from_millis(LOOK_WAIT_MS_MAX);
        loop {
            self.take_hold();
            if matches!(self.hold, Hold::Gone) {
                self.hear_out().await;
                self.port.set(Upstream::Ended);
                return observe::silent(Process::Dead, Some(self.watched.instance));
            }
            match self.look_once(deadline).await {
                Ok(observed) => return observed,
                Err(ConnectError::OtherInstance { found }) => {
                    warn!(
                        domain = %self.watched.name,
                        instance = found.as_ref().map(tracing::field::display),
                        "another process serves the monitor socket"
                    );
                    return observe::silent(Process::OtherInstance, found);
                }
                Err(error) => {
                    debug!(domain = %self.watched.name, %error, "no answer");
                }
            }
            let retry = Instant::now() + Duration::from_millis(RECONNECT_MS_MIN);
            if retry >= deadline {
                break;
            }
            tokio::select! {
                () = end_of(&self.hold) => {}
                () = sleep_until(retry) => {}
            }
        }
        self.next_attempt = Instant::now() + self.pause;
        // Events come all the same: QEMU sends them from the thread they happen in.
        self.drain_events().await;
        Observed {
            migration: self.status.clone(),
            ..observe::silent(Process::Mute, Some(self.watched.instance))
        }
    }

    /// Makes sure of the process: held, or known to be gone.
    fn take_hold(&mut self) {
        let found = match &self.hold {
            Hold::Gone => return,
            Hold::Held(held) => {
                if !held.has_ended() {
                    return;
                }
                Hold::Gone
            }
            Hold::Unknown => match Held::open(self.watched.instance, self.boot) {
                Ok(Some(held)) => Hold::Held(held),
                Ok(None) => Hold::Gone,
                Err(error) => {
                    warn!(domain = %self.watched.name, %error, "cannot take hold of the process");
                    Hold::Unknown
                }
            },
        };
        self.hold = found;
    }

    async fn look_once(&mut self, deadline: Instant) -> Result<Observed, ConnectError> {
        if self.connection.is_none() {
            self.connect(deadline).await?;
        }
        let instance = self.watched.instance;
        let mut attempt = 1;
        loop {
            let Some(connection) = &self.connection else {
                return Err(ConnectError::Lost(ENDED.to_owned()));
            };
            let seen = tokio::select! {
                () = end_of(&self.hold) => return Err(ConnectError::Lost(ENDED.to_owned())),
                seen = timeout_at(deadline, connection.look(instance)) => {
                    seen.unwrap_or(Err(ConnectError::Silent))
                }
            };
            if matches!(seen, Err(ConnectError::Lost(_))) {
                self.close("no answer to a look").await;
            }
            let (observed, is_steady) = seen?;
            // What happened while we looked is told first; and if anything did, we look again, so
            // that nothing older than an event is told after it.
            let has_moved = self.drain_events().await;
            if (is_steady && !has_moved) || attempt >= LOOK_ATTEMPTS_MAX {
                return Ok(observed);
            }
            attempt += 1;
        }
    }

    /// Goes on with the connection of an earlier life, if it was kept. What QEMU said meanwhile waits in it, also of one that is
    /// gone by now.
    fn take_up(&mut self) {
        let Some(left) = self.port.left() else {
            return;
        };
        match Connection::resume(left, self.port.listeners()) {
            Ok(connection) => {
                info!(domain = %self.watched.name, "goes on with QEMU's connection");
                self.port.set(Upstream::Here(connection.client.passing()));
                self.connection = Some(connection);
            }
            Err(error) => {
                warn!(domain = %self.watched.name, %error, "cannot go on with QEMU's connection");
            }
        }
    }

    /// Connects, and makes sure that the other end is the instance.
    async fn connect(&mut self, deadline: Instant) -> Result<(), ConnectError> {
        let Hold::Held(held) = &self.hold else {
            return Err(ConnectError::Silent);
        };
        let listeners = self.port.listeners();
        let (instance, kept) = (held.instance(), self.port.keep_qemu());
        let connecting = Connection::open(&self.watched.qmp, instance, self.boot, listeners, kept);
        let connection = tokio::select! {
            () = held.ended() => return Err(ConnectError::Lost(ENDED.to_owned())),
            connection = timeout_at(deadline, connecting) => {
                connection.unwrap_or(Err(ConnectError::Silent))?
            }
        };
        // Only now is it sure that the pid still meant the instance when the other end was checked.
        if held.has_ended() {
            return Err(ConnectError::Lost(ENDED.to_owned()));
        }
        debug!(domain = %self.watched.name, "connected");
        self.port.set(Upstream::Here(connection.client.passing()));
        self.connection = Some(connection);
        Ok(())
    }

    /// One attempt after a pause to see a QEMU that could not be seen; only success is told.
    async fn try_again(&mut self) {
        self.take_hold();
        let deadline = Instant::now() + Duration::from_millis(RETRY_WAIT_MS_MAX);
        match self.look_once(deadline).await {
            Ok(observed) => self.report(observed).await,
            Err(error) => {
                debug!(domain = %self.watched.name, %error, "still no answer");
                self.next_attempt = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(Duration::from_millis(RECONNECT_MS_MAX));
            }
        }
    }

    /// Lets go of a connection that broke. If QEMU's end broke it, everything QEMU had to say was
    /// heard, so the watch was without a gap; else events may be lost, and that is told.
    async fn close(&mut self, why: &str) {
        if self.connection.take().is_none() {
            return;
        }
        self.port.set(Upstream::Away);
        self.next_attempt = Instant::now() + self.pause;
        self.moving = false;
        self.status = None;
        self.board.clear(self.watched.domain);
        let grace = Duration::from_millis(END_GRACE_MS_MAX);
        let has_ended = match &self.hold {
            Hold::Gone => true,
            Hold::Held(held) => tokio::time::timeout(grace, held.ended()).await.is_ok(),
            Hold::Unknown => false,
        };
        if has_ended {
            self.port.set(Upstream::Ended);
        }
        info!(domain = %self.watched.name, why, has_ended, "connection to QEMU closed");
        if !has_ended {
            self.tell_event(QemuEvent::Lost).await;
        }
    }

    /// After the end of the process: passes on what it said last, up to the end of the stream.
    async fn hear_out(&mut self) {
        let deadline = Instant::now() + Duration::from_millis(HEAR_OUT_MS_MAX);
        while let Some(connection) = &mut self.connection {
            match timeout_at(deadline, connection.ears.heard()).await {
                Ok(heard) => drop(self.pass_on(heard).await),
                // Somebody else holds the stream open.
                Err(_) => {
                    self.connection = None;
                    self.port.set(Upstream::Away);
                    self.tell_event(QemuEvent::Lost).await;
                }
            }
        }
        self.moving = false;
        self.board.clear(self.watched.domain);
    }

    async fn tell_event(&self, event: QemuEvent) {
        let domain = self.watched.domain;
        self.link.tell(Input::Event { domain, event }).await;
    }

    /// Passes an event on; whether it was one that moves the guest or its migration.
    async fn pass_on(&mut self, heard: Heard) -> bool {
        match heard {
            Heard::Event(event) => {
                debug!(domain = %self.watched.name, ?event, "event");
                if let QemuEvent::Migration(status) = &event {
                    self.note_status(status);
                }
                self.tell_event(event).await;
                true
            }
            Heard::Other => false,
            Heard::Closed => {
                self.close("it ended").await;
                true
            }
        }
    }

    /// Passes on every event that is here; whether any of them moves anything.
    async fn drain_events(&mut self) -> bool {
        let mut has_moved = false;
        while let Some(heard) = self
            .connection
            .as_mut()
            .and_then(|connection| connection.ears.heard_by_now())
        {
            has_moved |= self.pass_on(heard).await;
        }
        has_moved
    }

    fn note_status(&mut self, status: &MigrationStatus) {
        self.status = Some(status.clone());
        self.moving = observe::is_moving(status);
        if !self.moving {
            self.board.clear(self.watched.domain);
        }
    }

    async fn read_progress(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        let wait = Duration::from_millis(PROGRESS_WAIT_MS_MAX);
        let progress = tokio::time::timeout(wait, connection.progress()).await;
        if let Ok(Some(progress)) = progress {
            let (converging, passes) = (progress.converging, progress.passes);
            self.board.set(self.watched.domain, progress);
            if let Some(count) = passes {
                self.tell_event(QemuEvent::Passes { count }).await;
            }
            if let Some(downtime) = converging {
                self.tell_event(QemuEvent::Converging { downtime }).await;
            }
        }
    }

    /// Carries out an effect and tells what became of it.
    async fn perform(&mut self, effect: Durable<Effect>) {
        let intent = effect.get().intent;
        let name = effect.get().command.name().to_owned();
        let result = self.result_of(effect).await;
        info!(domain = %self.watched.name, lsn = %intent, effect = name, ?result, "effect");
        self.drain_events().await;
        let effect = intent;
        self.link
            .tell(Input::EffectFinished { effect, result })
            .await;
    }

    /// Sends a client's effect on.
    fn pass(&mut self, effect: Durable<Effect>, passage: Passage) {
        let wanted = effect.get().instance;
        self.take_hold();
        let passing = match (&self.hold, &self.connection) {
            _ if wanted != self.watched.instance => Err(not_sent(format!(
                "it is for {wanted}, which is not watched"
            ))),
            (Hold::Held(_), Some(connection)) => Ok(connection.client.passing()),
            (Hold::Held(_), None) => Err(not_sent("QEMU's monitor is not connected".to_owned())),
            (Hold::Gone, _) => Err(not_sent(format!("{wanted} is gone"))),
            (Hold::Unknown, _) => Err(not_sent(format!("it is not known whether {wanted} lives"))),
        };
        pass(
            &self.watched,
            &self.link,
            passing.as_ref().map_err(Clone::clone),
            effect,
            passage,
        );
    }

    async fn result_of(&mut self, effect: Durable<Effect>) -> EffectResult {
        self.take_hold();
        let wanted = effect.get().instance;
        if wanted != self.watched.instance {
            return not_sent(format!("it is for {wanted}, which is not watched"));
        }
        let is_kill = effect.get().command == EffectCommand::Kill;
        match &self.hold {
            Hold::Held(held) if is_kill => return held.kill().await,
            Hold::Gone if is_kill => return EffectResult::Done,
            Hold::Held(_) => {}
            Hold::Gone => return not_sent(format!("{wanted} is gone")),
            Hold::Unknown => return not_sent(format!("it is not known whether {wanted} lives")),
        }
        let Some(connection) = &mut self.connection else {
            return not_sent("QEMU's monitor is not connected".to_owned());
        };
        let (domain, link) = (self.watched.domain, &self.link);
        let (result, closed, status) = perform_and_hear(connection, effect, domain, link).await;
        if let Some(status) = status {
            self.note_status(&status);
        }
        if closed {
            self.close("it ended under an effect").await;
        }
        result
    }
}

/// Sends a client's effect on, if there is a way, and has its result told when there is one. What comes behind it on this
/// connection reaches QEMU behind it; nobody here waits for its answer.
fn pass(
    watched: &Watched,
    link: &Link,
    passing: Result<&Passing, EffectResult>,
    effect: Durable<Effect>,
    passage: Passage,
) {
    let intent = effect.get().intent;
    let name = effect.get().command.name().to_owned();
    let Passage {
        passed,
        outlet,
        place,
        arrived,
    } = passage;
    let (link, domain) = (link.clone(), watched.name.clone());
    let done = move |result: EffectResult| {
        info!(domain = %domain, lsn = %intent, effect = name, ?result, "effect of a client");
        // A client that is gone does not hear it.
        drop(arrived.send(Arrived::AtQemu(Finished {
            link,
            effect: intent,
            result,
        })));
    };
    match passing {
        Ok(passing) => passing.pass_effect(effect, passed, outlet, place, done),
        Err(result) => done(result),
    }
}

/// Sends an effect and waits for its answer. Events go on meanwhile, and all that came before the
/// answer are told before it. Says also whether the
/// connection ended, and the last status that was heard.
async fn perform_and_hear(
    connection: &mut Connection,
    effect: Durable<Effect>,
    domain: DomainId,
    link: &Link,
) -> (EffectResult, bool, Option<MigrationStatus>) {
    let Connection { client, ears } = connection;
    let wait = Duration::from_millis(EFFECT_WAIT_MS_MAX);
    let mut performing = core::pin::pin!(client.perform(effect, wait));
    let mut closed = false;
    let mut status = None;
    loop {
        tokio::select! {
            biased;
            heard = ears.heard(), if !closed => match heard {
                Heard::Event(event) => {
                    if let QemuEvent::Migration(heard) = &event {
                        status = Some(heard.clone());
                    }
                    link.tell(Input::Event { domain, event }).await;
                }
                Heard::Other => {}
                Heard::Closed => closed = true,
            },
            result = &mut performing => return (result, closed, status),
        }
    }
}

fn not_sent(why: String) -> EffectResult {
    EffectResult::NotSent { why }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
