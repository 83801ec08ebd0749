//! The write-ahead loop: steps the engine over every waiting input, makes all that follows durable
//! with one write and one sync, and only then hands out what may leave the process.
//!
//! Invariant: nothing of a step gets out before the step's records are durable (P1); the engine and
//! the log always agree on the next LSN.
//! Not here: where inputs come from and outboxes go (`sidecar`, `sim`), what follows from an input
//! (`engine`), bytes and files (`journal`).

use journal_format::number::{BootId, Lsn};
use journal_format::record::{Draft, Effect, RecordBody};

use crate::engine::{
    Config, ControlRequest, Engine, Gap, History, Input, Message, Now, PeerRequest, Step, Told,
};
use crate::journal::disk::Disk;
use crate::journal::{
    AppendError, Checkpoint, Durable, Log, OpenError, OpenOptions, Opened, Past, SpareMaker,
    Timestamps,
};

mod crash_switch;

pub use crash_switch::CrashSwitch;

use crash_switch::Crash;

/// How long a new segment is not tried again when there was no room for one, in nanoseconds.
const ROLL_PAUSE_NS: u64 = 10_000_000_000;

/// What may leave the process after a turn.
pub type Outbox = (Vec<Effect>, Vec<Message>);

/// A state machine whose records the node makes durable: the engine, or in a measurement of the node
/// alone one that only writes down what it is given.
pub trait Machine {
    /// What follows from one input.
    fn step(&mut self, now: Now, input: Input) -> Step;
    /// Makes messages that the later inputs of a turn have overtaken anew; none of them has left yet.
    fn amend(&mut self, _now: Now, _messages: &mut [Message]) {}
    /// The whole state as records, to be appended as the very next ones.
    fn checkpoint(&mut self) -> Vec<Draft>;
    /// The record that says that all before it was acknowledged, to be appended as the very next one.
    fn seal(&mut self) -> Draft;
    /// The LSN that the next record gets.
    fn next_lsn(&self) -> Lsn;
    /// Is this a moment in which the journal does nothing slow?
    fn in_blackout(&self) -> bool;
    /// Whether there is room for what an input may lead to; if not, why.
    fn set_no_room(&mut self, why: Option<String>);
    /// How many ended migrations are kept because the other side is not known to know the outcome.
    fn kept_migrations(&self) -> usize;
    /// What it wants first, once its checkpoint is durable.
    fn start(&mut self, _now: Now) -> Step {
        Step::default()
    }
}

impl Machine for Engine {
    fn step(&mut self, now: Now, input: Input) -> Step {
        Engine::step(self, now, input)
    }

    fn amend(&mut self, now: Now, messages: &mut [Message]) {
        Engine::amend(self, now, messages);
    }

    fn checkpoint(&mut self) -> Vec<Draft> {
        Engine::checkpoint(self)
    }

    fn seal(&mut self) -> Draft {
        Engine::seal(self)
    }

    fn next_lsn(&self) -> Lsn {
        Engine::next_lsn(self)
    }

    fn in_blackout(&self) -> bool {
        Engine::in_blackout(self)
    }

    fn set_no_room(&mut self, why: Option<String>) {
        Engine::set_no_room(self, why);
    }

    fn kept_migrations(&self) -> usize {
        Engine::kept_migrations(self)
    }

    fn start(&mut self, now: Now) -> Step {
        Engine::start(self, now)
    }
}

/// A machine and its log.
#[derive(Debug)]
pub struct Node<D: Disk, M: Machine = Engine> {
    machine: M,
    log: Log<D>,
    switch: CrashSwitch,
    /// What ended it: the engine is ahead of the journal for good.
    failed: Option<AppendError>,
    /// No roll before this time, in nanoseconds since boot.
    roll_at: u64,
    /// The last batch is not a seal.
    is_unsealed: bool,
}

impl<D: Disk> Node<D> {
    /// Restates what the journal told as the checkpoint of a new segment, and starts: the outbox holds
    /// what the engine wants first.
    ///
    /// # Errors
    /// The checkpoint or the first records cannot be made durable.
    pub fn open(
        opened: Opened<D>,
        told: Told,
        boot: BootId,
        peer: String,
        store: Option<String>,
        now: Now,
        switch: CrashSwitch,
    ) -> Result<(Node<D>, Durable<Outbox>), AppendError> {
        let engine = |config| Engine::resume(config, told);
        Node::open_with(opened, engine, boot, peer, store, now, switch)
    }

    /// See [`Engine::ask_others`].
    pub fn ask_others(&mut self) {
        self.machine.ask_others();
    }
}

impl<D: Disk, M: Machine> Node<D, M> {
    /// As [`Node::open`], with the machine that `make` makes of its configuration.
    ///
    /// # Errors
    /// The checkpoint or the first records cannot be made durable.
    pub fn open_with(
        opened: Opened<D>,
        make: impl FnOnce(Config) -> M,
        boot: BootId,
        peer: String,
        store: Option<String>,
        now: Now,
        switch: CrashSwitch,
    ) -> Result<(Node<D, M>, Durable<Outbox>), AppendError> {
        let opening = opened.opening();
        let config = Config {
            journal: opened.journal(),
            epoch: opening.epoch,
            opening: opening.opening,
            openings: opened.openings().to_vec(),
            next: opened.first_lsn(),
            boot,
            peer,
            store,
        };
        let mut node = Node::begin(opened, make(config), now, switch)?;
        let step = node.machine.start(now);
        let outbox = node.append(now, step)?;
        Ok((node, outbox))
    }

    /// Begins a segment with the machine's checkpoint.
    ///
    /// # Errors
    /// The checkpoint cannot be made durable.
    pub fn begin(
        opened: Opened<D>,
        mut machine: M,
        now: Now,
        switch: CrashSwitch,
    ) -> Result<Node<D, M>, AppendError> {
        let checkpoint = checkpoint(&mut machine);
        let log = opened.begin(&checkpoint, timestamps(now))?;
        Ok(Node {
            machine,
            log,
            switch,
            failed: None,
            roll_at: 0,
            is_unsealed: true,
        })
    }

    /// Steps all inputs, appends all records as one batch, and hands out the rest.
    ///
    /// # Errors
    /// The records cannot be made durable. Nothing of this turn leaves the process, and every later
    /// turn fails too: the engine is ahead of the journal and may not be asked again.
    pub fn turn(&mut self, now: Now, inputs: Vec<Input>) -> Result<Durable<Outbox>, AppendError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if inputs.iter().any(asks_for_room) {
            // What is asked anew may be refused; a guest that is on its way may not be kept waiting.
            let why = match self.log.reserve(!self.machine.in_blackout()) {
                Ok(()) => None,
                Err(AppendError::NoSegment { cause, .. }) => Some(cause.to_string()),
                Err(error) => Some(error.to_string()),
            };
            self.machine.set_no_room(why);
        }
        let mut steps = inputs
            .into_iter()
            .map(|input| self.machine.step(now, input));
        let mut whole = steps.next().unwrap_or_default();
        for mut step in steps {
            whole.append.append(&mut step.append);
            whole.effects.append(&mut step.effects);
            whole.messages.append(&mut step.messages);
        }
        self.machine.amend(now, &mut whole.messages);
        let turned = self
            .append(now, whole)
            .and_then(|outbox| self.roll_if_due(now).map(|()| outbox));
        if let Err(error) = &turned {
            self.failed = Some(error.clone());
        }
        turned
    }

    fn append(&mut self, now: Now, step: Step) -> Result<Durable<Outbox>, AppendError> {
        let first = self.log.next_lsn();
        let point = self.switch.look(first, &step.append);
        if point == Crash::Before {
            self.switch.strike();
        }
        let outbox = (step.effects, step.messages);
        let durable = self.log.append(&step.append, timestamps(now), outbox)?;
        self.is_unsealed |= !step.append.is_empty();
        if point == Crash::After {
            self.switch.strike();
        }
        self.assert_in_step();
        Ok(durable)
    }

    /// Makes the last batch known as acknowledged to whoever reads the journal, if it is not yet
    /// (F21): for a moment in which nothing else is to be written. Not while a guest is on its way
    /// between the two sides, and not if the segment is full.
    ///
    /// # Errors
    /// As [`Node::turn`].
    pub fn seal(&mut self, now: Now) -> Result<(), AppendError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if !self.is_unsealed || self.machine.in_blackout() {
            return Ok(());
        }
        self.is_unsealed = false;
        if self.log.must_roll() {
            return Ok(());
        }
        let draft = self.machine.seal();
        let sealed = self.log.append(&[draft], timestamps(now), ());
        if let Err(error) = &sealed {
            self.failed = Some(error.clone());
        }
        sealed.map(Durable::into_inner)
    }

    /// Is there a batch that nothing behind it proves as acknowledged?
    #[must_use]
    pub fn is_unsealed(&self) -> bool {
        self.is_unsealed
    }

    /// A new segment, but never while the guest is on its way between the two sides: the sync of
    /// a checkpoint would be downtime.
    fn roll_if_due(&mut self, now: Now) -> Result<(), AppendError> {
        let is_due = self.log.must_roll() && now.monotonic >= self.roll_at;
        if !is_due || self.machine.in_blackout() {
            return Ok(());
        }
        let later = now.monotonic.saturating_add(ROLL_PAUSE_NS);
        match self.log.prepare_roll() {
            Ok(()) => {}
            // The disk is full, say.
            Err(AppendError::NoSegment { .. }) => {
                self.roll_at = later;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let checkpoint = checkpoint(&mut self.machine);
        self.is_unsealed = true;
        match self.log.roll(&checkpoint, timestamps(now)) {
            Ok(()) => {}
            // It asks for more than a spare has. The engine has counted the checkpoint, so it is
            // written down where there still is room.
            Err(AppendError::NoSegment { .. }) => {
                let _ = self.log.append(&checkpoint.drafts, timestamps(now), ())?;
                self.roll_at = later;
            }
            Err(error) => return Err(error),
        }
        self.assert_in_step();
        Ok(())
    }

    fn assert_in_step(&self) {
        assert_eq!(
            self.machine.next_lsn(),
            self.log.next_lsn(),
            "the engine counts every record that it hands out"
        );
    }

    /// How many ended migrations are kept because the other side is not known to know the outcome.
    #[must_use]
    pub fn kept_migrations(&self) -> usize {
        self.machine.kept_migrations()
    }

    /// Makes spare segments; see [`Log::spare_maker`].
    pub fn spare_maker(&self) -> SpareMaker<D>
    where
        D: Clone,
    {
        self.log.spare_maker()
    }

    /// The log, to look at.
    pub fn log(&self) -> &Log<D> {
        &self.log
    }
}

/// Does more follow from it than it says itself?
fn asks_for_room(input: &Input) -> bool {
    match input {
        Input::Control { request, .. } => match request {
            ControlRequest::DomainAdd { .. }
            | ControlRequest::Migrate { .. }
            | ControlRequest::JobBegin { .. } => true,
            ControlRequest::DomainRemove { .. }
            | ControlRequest::DomainSetWanted { .. }
            | ControlRequest::PhaseEnter { .. }
            | ControlRequest::JobEnd { .. }
            | ControlRequest::JobCancel { .. }
            | ControlRequest::Verdict { .. }
            | ControlRequest::Resolve { .. }
            | ControlRequest::QueryDomains { .. }
            | ControlRequest::QueryJobs { .. } => false,
        },
        Input::Peer { request, .. } => matches!(request, PeerRequest::Prepare { .. }),
        Input::Monitor { .. }
        | Input::Find { .. }
        | Input::Found { .. }
        | Input::PeerAnswered { .. }
        | Input::StoreAnswered { .. }
        | Input::EffectFinished { .. }
        | Input::Looked { .. }
        | Input::JobLooked { .. }
        | Input::SettingsLooked { .. }
        | Input::Event { .. }
        | Input::Tick => false,
    }
}

/// Locks and reads a journal as [`Log::open`], and keeps in mind what it tells.
///
/// # Errors
/// See [`OpenError`].
pub fn open_journal<D: Disk>(
    disk: D,
    run: Option<D>,
    options: &OpenOptions,
) -> Result<(Opened<D>, Told), OpenError> {
    open_journal_with(disk, run, options, |_| {})
}

/// The same; `seen` gets everything that the journal tells, too.
///
/// # Errors
/// See [`OpenError`].
pub fn open_journal_with<D: Disk>(
    disk: D,
    run: Option<D>,
    options: &OpenOptions,
    mut seen: impl FnMut(&Past),
) -> Result<(Opened<D>, Told), OpenError> {
    let mut told = Told::default();
    let opened = Log::open(disk, run, options, |past| {
        seen(&past);
        told.add(&history(past));
    })?;
    Ok((opened, told))
}

/// What the journal told, as the engine takes it: of damage only which records it may concern.
fn history(past: Past) -> History {
    match past {
        Past::Record(record) => History::Record(record),
        Past::Gap(gap) => {
            tracing::warn!(%gap, "records are lost");
            History::Gap(Gap {
                first: gap.first,
                last: gap.last,
            })
        }
    }
}

fn timestamps(now: Now) -> Timestamps {
    Timestamps {
        wall: now.wall,
        monotonic: now.monotonic,
    }
}

/// The engine's checkpoint, and how far back it still leans on older records: to the begin of the
/// open jobs, and to the definitions of its domains.
fn checkpoint<M: Machine>(engine: &mut M) -> Checkpoint {
    let drafts = engine.checkpoint();
    let needed_from = drafts.iter().filter_map(leans_on).min();
    Checkpoint {
        drafts,
        needed_from,
    }
}

/// The oldest record that a record of a checkpoint refers to.
fn leans_on(draft: &Draft) -> Option<Lsn> {
    match &draft.body {
        RecordBody::MigrationState(migration) if migration.open => Some(migration.job),
        RecordBody::JobState(state) => Some(state.job),
        RecordBody::DomainState(domain) => domain.definition,
        _ => None,
    }
}

#[cfg(test)]
mod tests;
