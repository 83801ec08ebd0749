//! The write-ahead loop: steps the engine over every waiting input, makes all that follows durable
//! with one write and one sync, and only then hands out what may leave the process.
//!
//! Invariant: nothing of a step gets out before the step's records are durable (P1); the engine and
//! the log always agree on the next LSN.
//! Not here: where inputs come from and outboxes go (`sidecar`, `sim`), what follows from an input
//! (`engine`), bytes and files (`journal`).

use std::collections::BTreeSet;

use journal_format::number::{BootId, Lsn};
use journal_format::record::{Draft, Effect, RecordBody};

use crate::engine::{
    Config, ControlRequest, Engine, Gap, History, Input, Message, Now, PeerRequest, Step,
};
use crate::journal::disk::Disk;
use crate::journal::{AppendError, Checkpoint, Durable, Log, Opened, Past, SpareMaker, Timestamps};

/// How long a new segment is not tried again when there was no room for one, in nanoseconds.
const ROLL_PAUSE_NS: u64 = 10_000_000_000;

/// What may leave the process after a turn.
pub type Outbox = (Vec<Effect>, Vec<Message>);

/// A state machine whose records the node makes durable: the engine, or in a measurement of the node
/// alone one that only writes down what it is given.
pub trait Machine {
    /// What follows from one input.
    fn step(&mut self, now: Now, input: Input) -> Step;
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
}

impl Machine for Engine {
    fn step(&mut self, now: Now, input: Input) -> Step {
        Engine::step(self, now, input)
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
    /// Folds what the journal held through a new engine, restates all of it as the checkpoint of a
    /// new segment, and starts: the outbox holds what the engine wants first.
    ///
    /// # Errors
    /// The checkpoint or the first records cannot be made durable.
    pub fn open(
        opened: Opened<D>,
        boot: BootId,
        peer: String,
        now: Now,
        switch: CrashSwitch,
    ) -> Result<(Node<D>, Durable<Outbox>), AppendError> {
        let opening = opened.opening();
        let config = Config {
            journal: opened.journal(),
            epoch: opening.epoch,
            opening: opening.opening,
            openings: opened.openings().to_vec(),
            next: opened.first_lsn(),
            boot,
            peer,
        };
        let history: Vec<History> = opened.history().iter().map(history).collect();
        let engine = Engine::open(config, &history);
        let mut node = Node::begin(opened, engine, now, switch)?;
        let step = node.machine.start(now);
        let outbox = node.append(now, step)?;
        Ok((node, outbox))
    }
}

impl<D: Disk, M: Machine> Node<D, M> {
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
            let why = match self.log.reserve() {
                Ok(()) => None,
                Err(AppendError::NoSegment { cause, .. }) => Some(cause.to_string()),
                Err(error) => Some(error.to_string()),
            };
            self.machine.set_no_room(why);
        }
        let mut whole = Step::default();
        for input in inputs {
            let mut step = self.machine.step(now, input);
            whole.append.append(&mut step.append);
            whole.effects.append(&mut step.effects);
            whole.messages.append(&mut step.messages);
        }
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
            die();
        }
        let outbox = (step.effects, step.messages);
        let durable = self.log.append(&step.append, timestamps(now), outbox)?;
        self.is_unsealed |= !step.append.is_empty();
        if point == Crash::After {
            die();
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
        let checkpoint = checkpoint(&mut self.machine);
        self.is_unsealed = true;
        match self.log.roll(&checkpoint, timestamps(now)) {
            Ok(()) => {}
            // The disk is full, say. The engine has counted the checkpoint, so it is written down
            // where there still is room.
            Err(AppendError::NoSegment { .. }) => {
                let _ = self.log.append(&checkpoint.drafts, timestamps(now), ())?;
                self.roll_at = now.monotonic.saturating_add(ROLL_PAUSE_NS);
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
            ControlRequest::DomainAdd { .. } | ControlRequest::Migrate { .. } => true,
            ControlRequest::DomainRemove { .. }
            | ControlRequest::DomainSetWanted { .. }
            | ControlRequest::JobCancel { .. }
            | ControlRequest::Resolve { .. }
            | ControlRequest::QueryDomains { .. }
            | ControlRequest::QueryJobs { .. } => false,
        },
        Input::Peer { request, .. } => matches!(request, PeerRequest::Prepare { .. }),
        Input::PeerAnswered { .. }
        | Input::EffectFinished { .. }
        | Input::Looked { .. }
        | Input::Event { .. }
        | Input::Tick => false,
    }
}

/// What the journal told, as the engine takes it: of damage only which records it may concern.
fn history(past: &Past) -> History {
    match past {
        Past::Record(record) => History::Record(record.clone()),
        Past::Gap(gap) => History::Gap(Gap {
            first: gap.first,
            last: gap.last,
        }),
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
        RecordBody::DomainState(domain) => domain.definition,
        _ => None,
    }
}

/// Test switch: where the process is to kill itself, as SIGKILL from outside would, but at a known
/// batch. Off unless asked for on the command line; then each batch costs a look at its records.
///
/// Only batches that concern a migration's job count: begin and end of the job, its phases,
/// effects and their results, observations, the peer's answers, decisions.
#[derive(Clone, Debug, Default)]
pub struct CrashSwitch {
    /// After the batch of this number (from 1) is durable, before anything of it leaves.
    after_batch: Option<u64>,
    /// Before the batch of this number (from 1) is written; all of the one before has left the node.
    before_batch: Option<u64>,
    /// After the first batch that holds a record of this type, by its name.
    after_record: Option<String>,
    /// Before the first such batch.
    before_record: Option<String>,
    /// Batches counted so far.
    batches: u64,
    /// Effects outside of any job, whose results do not count either.
    jobless: BTreeSet<Lsn>,
}

/// What the switch wants of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    No,
    Before,
    After,
}

impl CrashSwitch {
    /// A switch for these points; off if there are none.
    #[must_use]
    pub fn new(
        after_batch: Option<u64>,
        before_batch: Option<u64>,
        after_record: Option<String>,
        before_record: Option<String>,
    ) -> CrashSwitch {
        CrashSwitch {
            after_batch,
            before_batch,
            after_record,
            before_record,
            ..CrashSwitch::default()
        }
    }

    /// Looks at a batch whose first record gets the LSN `first`.
    fn look(&mut self, first: Lsn, batch: &[Draft]) -> Crash {
        let is_off = self.after_batch.is_none()
            && self.before_batch.is_none()
            && self.after_record.is_none()
            && self.before_record.is_none();
        if is_off {
            return Crash::No;
        }
        let mut counts = false;
        for (draft, index) in batch.iter().zip(0u64..) {
            if let RecordBody::EffectIntended(intended) = &draft.body
                && intended.job.is_none()
            {
                self.jobless.extend(first.plus(index));
            }
            counts |= self.concerns_a_migration(&draft.body);
        }
        if !counts {
            return Crash::No;
        }
        self.batches += 1;
        let holds = |name: &Option<String>| {
            name.as_ref()
                .is_some_and(|name| batch.iter().any(|draft| draft.body.type_name() == name))
        };
        if holds(&self.before_record) || self.before_batch == Some(self.batches) {
            Crash::Before
        } else if holds(&self.after_record) || self.after_batch == Some(self.batches) {
            Crash::After
        } else {
            Crash::No
        }
    }

    fn concerns_a_migration(&self, body: &RecordBody) -> bool {
        match body {
            RecordBody::CheckpointBegun(_)
            | RecordBody::CheckpointEnded(_)
            | RecordBody::DomainAdded(_)
            | RecordBody::DomainState(_)
            | RecordBody::DomainRemoved
            | RecordBody::DefinitionPart(_)
            | RecordBody::WantedChanged(_)
            | RecordBody::MigrationState(_)
            | RecordBody::Sealed => false,
            RecordBody::JobBegun(begun) => begun.migration.is_some(),
            RecordBody::EffectIntended(intended) => intended.job.is_some(),
            RecordBody::EffectFinished(finished) => !self.jobless.contains(&finished.effect),
            RecordBody::QemuObserved(observed) => observed.job.is_some(),
            RecordBody::PhaseEntered(_)
            | RecordBody::PeerHeard(_)
            | RecordBody::PeerPrepared(_)
            | RecordBody::MigrationGranted(_)
            | RecordBody::MigrationAbandoned(_)
            | RecordBody::MigrationCommitted(_)
            | RecordBody::MigrationStarted(_)
            | RecordBody::MigrationAborted(_)
            | RecordBody::OutcomeLearned(_)
            | RecordBody::Decided(_)
            | RecordBody::OperatorResolved(_)
            | RecordBody::JobEnded(_)
            | RecordBody::MigrationForgotten(_) => true,
        }
    }
}

/// Ends this process at once, as if killed from outside.
fn die() -> ! {
    let process = rustix::process::getpid();
    loop {
        // Fails only for a signal or pid that does not exist; then it is tried again rather than
        // letting anything out.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ControlRequest, Refusal, Token};
    use crate::journal::OpenOptions;
    use crate::journal::testing::{Fault, TestDisk};
    use crate::journal::verify::{Verdict, verify};
    use journal_format::SEGMENT_SIZE_MIN;
    use journal_format::number::{DomainId, HostId, Id128, MigrationId};
    use journal_format::record::{
        ClaimSeen, EffectCommand, EffectFinished, EffectIntended, EffectResult, Instance,
        MigrationNamed, MigrationStatus, Observed, Process, RunState,
    };

    const BOOT: BootId = BootId(Id128([2; 16]));
    const NOW: Now = Now {
        wall: 1,
        monotonic: 1,
    };

    /// The errno for a full disk.
    const ENOSPC: i32 = 28;

    /// Operations on the disk in one append: a write and its sync.
    const APPEND_OPERATIONS: u64 = 2;

    fn open(disk: &TestDisk) -> Node<TestDisk> {
        let mut options = OpenOptions::new(HostId(Id128([4; 16])), BOOT);
        options.first_segment_size = SEGMENT_SIZE_MIN;
        options.segment_size = SEGMENT_SIZE_MIN;
        let opened = Log::open(disk.clone(), None, &options).unwrap();
        let peer = "/run/peer.sock".to_owned();
        let switch = CrashSwitch::default();
        let (node, _first) = Node::open(opened, BOOT, peer, NOW, switch).unwrap();
        node
    }

    fn add(number: u8) -> Input {
        let instance = Instance {
            boot: BOOT,
            pid: 100 + u32::from(number),
            start_time: 1,
        };
        let request = ControlRequest::DomainAdd {
            name: format!("vm{number}"),
            domain: DomainId(Id128([number; 16])),
            qmp: "/run/qmp.sock".to_owned(),
            instance,
            observed: Observed {
                process: Process::Alive,
                instance: Some(instance),
                run_state: Some(RunState::Running),
                migration: Some(MigrationStatus::None),
                claim: ClaimSeen::Absent,
            },
            definition: None,
        };
        let token = Token(u64::from(number));
        Input::Control { token, request }
    }

    fn replies(outbox: Durable<Outbox>) -> Vec<Token> {
        let (_, messages) = outbox.into_inner();
        let tokens = messages.iter().filter_map(|message| match message {
            Message::Reply { token, .. } => Some(*token),
            _ => None,
        });
        tokens.collect()
    }

    #[test]
    fn waiting_inputs_share_a_batch() {
        let disk = TestDisk::new("journal");
        let mut node = open(&disk);
        let before = disk.batch_writes().len();
        let outbox = node.turn(NOW, vec![add(1), add(2), add(3)]).unwrap();
        assert_eq!(replies(outbox), [Token(1), Token(2), Token(3)]);
        assert_eq!(disk.batch_writes().len(), before + 1);
    }

    #[test]
    fn nothing_leaves_when_the_journal_fails() {
        for after in 0..APPEND_OPERATIONS {
            let disk = TestDisk::new("journal");
            let mut node = open(&disk);
            // So that a spare segment is there.
            let _ = node.turn(NOW, vec![add(7)]).unwrap();
            disk.plan(disk.operations() + after, Fault::Error(5));
            assert!(node.turn(NOW, vec![add(1)]).is_err());
            // Nor ever again, though the disk works.
            assert!(node.turn(NOW, vec![add(2)]).is_err());
            assert!(node.turn(NOW, Vec::new()).is_err());
        }
    }

    #[test]
    fn what_was_handed_out_is_found_again() {
        let disk = TestDisk::new("journal");
        let mut node = open(&disk);
        let _ = node.turn(NOW, vec![add(1)]).unwrap();
        let next = node.log().next_lsn();
        drop(node);
        let mut node = open(&disk);
        assert!(node.log().next_lsn() > next);
        let token = Token(9);
        let request = ControlRequest::QueryDomains {
            name: Some("vm1".to_owned()),
        };
        let (_, messages) = node
            .turn(NOW, vec![Input::Control { token, request }])
            .unwrap()
            .into_inner();
        assert!(
            matches!(&messages[..], [Message::Reply { result: Ok(_), .. }]),
            "{messages:?}"
        );
    }

    /// Adds and removes a domain until the segment is full; how many turns that took.
    fn turns_until_rolled(node: &mut Node<TestDisk>) -> u64 {
        let segment = node.log().status().segment;
        let mut turns = 0;
        while node.log().status().segment == segment {
            let _ = node.turn(NOW, vec![churn(turns)]).unwrap();
            turns += 1;
        }
        turns
    }

    fn churn(turn: u64) -> Input {
        if turn.is_multiple_of(2) {
            return add(1);
        }
        let token = Token(turn);
        let name = "vm1".to_owned();
        let request = ControlRequest::DomainRemove { name };
        Input::Control { token, request }
    }

    #[test]
    fn a_full_disk_keeps_the_segment_it_has() {
        let turns = turns_until_rolled(&mut open(&TestDisk::new("journal")));
        let disk = TestDisk::new("journal");
        let mut node = open(&disk);
        let segment = node.log().status().segment;
        for turn in 0..turns - 1 {
            let _ = node.turn(NOW, vec![churn(turn)]).unwrap();
        }
        disk.plan(disk.operations() + APPEND_OPERATIONS, Fault::Error(ENOSPC));
        let outbox = node.turn(NOW, vec![churn(turns - 1)]).unwrap();
        assert_eq!(replies(outbox).len(), 1);
        assert_eq!(node.log().status().segment, segment);
        // Not again at once, and with room later.
        let _ = node.turn(NOW, vec![churn(turns)]).unwrap();
        assert_eq!(node.log().status().segment, segment);
        let later = Now {
            monotonic: NOW.monotonic + ROLL_PAUSE_NS,
            ..NOW
        };
        let _ = node.turn(later, vec![churn(turns + 1)]).unwrap();
        assert!(node.log().status().segment > segment);
    }

    #[test]
    fn a_full_disk_refuses_what_is_new_and_ends_what_was_begun() {
        let disk = TestDisk::new("journal");
        let mut node = open(&disk);
        disk.limit(Some(disk.used()));
        let (_, messages) = node.turn(NOW, vec![add(1)]).unwrap().into_inner();
        assert!(
            matches!(
                &messages[..],
                [Message::Reply {
                    result: Err(Refusal::NoRoom { .. }),
                    ..
                }]
            ),
            "{messages:?}"
        );
        disk.limit(None);
        let outbox = node.turn(NOW, vec![add(1)]).unwrap();
        assert_eq!(replies(outbox), [Token(1)]);
        // With the one spare that there is now, what was begun can be ended on a full disk.
        disk.limit(Some(disk.used()));
        let outbox = node.turn(NOW, vec![churn(1)]).unwrap();
        assert_eq!(replies(outbox), [Token(1)]);
    }

    #[test]
    fn a_quiet_journal_is_sealed_once() {
        let disk = TestDisk::new("journal");
        let mut node = open(&disk);
        let _ = node.turn(NOW, vec![add(1)]).unwrap();
        assert!(node.is_unsealed());
        let before = disk.batch_writes().len();
        node.seal(NOW).unwrap();
        node.seal(NOW).unwrap();
        assert_eq!(disk.batch_writes().len(), before + 1);
        assert!(!node.is_unsealed());
        // A turn without records leaves it sealed, one with records does not.
        let _ = node.turn(NOW, vec![Input::Tick]).unwrap();
        assert!(!node.is_unsealed());
        let _ = node.turn(NOW, vec![add(2)]).unwrap();
        assert!(node.is_unsealed());
        drop(node);
        assert_eq!(verify(disk).unwrap().verdict(), Verdict::Clean);
    }

    fn draft(body: RecordBody) -> Draft {
        Draft {
            domain: Some(DomainId(Id128([1; 16]))),
            body,
        }
    }

    fn intended(job: Option<Lsn>) -> Draft {
        draft(RecordBody::EffectIntended(EffectIntended {
            job,
            instance: Instance {
                boot: BOOT,
                pid: 17,
                start_time: 18,
            },
            command: EffectCommand::Stop,
        }))
    }

    fn finished(effect: u64) -> Draft {
        draft(RecordBody::EffectFinished(EffectFinished {
            effect: Lsn(effect),
            result: EffectResult::Done,
        }))
    }

    fn started() -> Draft {
        draft(RecordBody::MigrationStarted(MigrationNamed {
            migration: MigrationId(Id128([3; 16])),
        }))
    }

    #[test]
    fn only_batches_of_migrations_count() {
        let mut switch = CrashSwitch {
            after_batch: Some(2),
            ..CrashSwitch::default()
        };
        assert_eq!(switch.look(Lsn(1), &[]), Crash::No);
        assert_eq!(
            switch.look(Lsn(1), &[draft(RecordBody::DomainRemoved)]),
            Crash::No
        );
        assert_eq!(switch.look(Lsn(2), &[intended(None)]), Crash::No);
        assert_eq!(switch.look(Lsn(3), &[finished(2)]), Crash::No);
        assert_eq!(switch.look(Lsn(4), &[intended(Some(Lsn(1)))]), Crash::No);
        assert_eq!(switch.look(Lsn(5), &[finished(4)]), Crash::After);
        assert_eq!(switch.look(Lsn(6), &[started()]), Crash::No);
    }

    #[test]
    fn before_a_batch_and_after_a_record() {
        let mut switch = CrashSwitch {
            before_batch: Some(2),
            after_record: Some("migration-started".to_owned()),
            ..CrashSwitch::default()
        };
        assert_eq!(switch.look(Lsn(1), &[finished(9)]), Crash::No);
        assert_eq!(switch.look(Lsn(2), &[finished(9)]), Crash::Before);
        assert_eq!(switch.look(Lsn(3), &[finished(9), started()]), Crash::After);
    }

    #[test]
    fn off_unless_asked_for() {
        let mut switch = CrashSwitch::default();
        assert_eq!(switch.look(Lsn(1), &[started()]), Crash::No);
        assert_eq!(switch.batches, 0);
    }
}
