//! Joins the node's task to the others: inputs in, outboxes out, answers back to who waits.
//!
//! Invariant: whoever waits gets exactly one answer, also when the journal fails or the sidecar
//! stops; nothing that the node hands out has left it before it was durable (P1). The way out never
//! waits for the way in: the dispatcher may not send inputs, only tasks that it does not wait for. A disk that is slow holds up the
//! journal, and nobody who does not need it.
//! Not here: what inputs mean (the engine), where outboxes go (`dispatch`).

use core::fmt;
use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use journal_format::number::{DomainId, Lsn, Nonce};
use journal_format::record::Effect;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::block_in_place;

use super::gather::{Gatherer, Received};
use super::proxy::{Arrived, Passage};
use crate::engine::{
    Answer, ControlRequest, Envelope, Find, Found, Input, Message, MonitorCommand, Now,
    PeerRequest, PeerResponse, Refusal, Token,
};
use crate::journal::disk::Disk;
use crate::journal::{AppendError, Durable, Status};
use crate::node::{Machine, Node, Outbox};

/// Most inputs that wait for the node; further senders wait.
pub const INPUT_QUEUE_MAX: usize = 1024;

/// Most callers that wait for an answer at the same time.
const WAITERS_MAX: usize = 4096;

/// Fewest and most threads for tasks.
const WORKERS_MIN: usize = 2;
const WORKERS_MAX: usize = 8;

/// Threads for tasks: one for each processor, and at least one beside the one that the node keeps
/// while the disk works.
#[must_use]
pub fn workers() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.clamp(WORKERS_MIN, WORKERS_MAX)
}

/// The time now.
pub fn now() -> Now {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        });
    let boot = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(boot.tv_nsec).unwrap_or(0);
    Now {
        wall,
        monotonic: seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds),
    }
}

/// Why a caller has no answer from the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The engine refused; nothing was changed.
    Refused(Refusal),
    /// The journal failed: it is not known whether what was asked is durable.
    Poisoned(String),
    /// The node's task ended by itself, which only a defect can make it do.
    Broken,
    /// The sidecar is stopping.
    Stopping,
    /// More callers wait than are allowed.
    TooManyWaiters,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(refusal) => refusal.fmt(f),
            Failure::Poisoned(cause) => {
                write!(f, "the journal failed and the sidecar ends: {cause}")
            }
            Failure::Broken => f.write_str("the sidecar failed within and ends"),
            Failure::Stopping => f.write_str("the sidecar is stopping"),
            Failure::TooManyWaiters => {
                write!(f, "{WAITERS_MAX} requests already wait for an answer")
            }
        }
    }
}

impl core::error::Error for Failure {}

/// An answer to another sidecar.
pub type PeerAnswered = (Envelope, PeerResponse);

/// What goes to the node's task.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are inputs, and boxing each would cost more than the room"
)]
pub enum Inbound {
    /// For the engine.
    Input(Input),
    /// For the engine, and nobody waits for what follows: it may go with whatever comes next.
    Unhurried(Input),
    /// A question about both.
    Status(oneshot::Sender<NodeStatus>),
}

/// How the node stands, for `query-journal`.
#[derive(Debug)]
pub struct NodeStatus {
    /// The journal.
    pub journal: Status,
    /// Ended migrations whose outcome the other side is not known to know.
    pub kept_migrations: usize,
}

/// The engine's answer to a control client.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// The time of the turn that gave it, in nanoseconds since 1970; its records have it too.
    pub time: u64,
}

/// What the node hands out in one turn to be carried out, without the answers to callers.
#[derive(Debug)]
pub struct HandedOut {
    /// The time of the turn, in nanoseconds since 1970.
    pub time: u64,
    /// Effects, whose intents are durable.
    pub effects: Durable<Vec<Effect>>,
    /// All else.
    pub messages: Vec<Message>,
    /// Those of the effects that clients of monitors sent, by their intents: the bytes to send, or nothing where the
    /// client hung up.
    pub(super) passages: HashMap<Lsn, Option<Passage>>,
}

/// Who waits for what.
#[derive(Debug)]
enum Waiter {
    Control(oneshot::Sender<Result<Answered, Failure>>),
    Peer(oneshot::Sender<Result<PeerAnswered, Failure>>),
    Finder(oneshot::Sender<Result<(Envelope, Found), Failure>>),
    Monitor(Box<Passage>),
}

/// The engine's word for a caller.
enum Reply {
    Control(Result<Answer, Refusal>),
    Peer(PeerAnswered),
    Finder((Envelope, Found)),
}

impl Waiter {
    /// A receiver that is gone hung up; nobody misses the answer.
    fn answer(self, reply: Reply, time: u64) {
        match (self, reply) {
            (Waiter::Control(sender), Reply::Control(result)) => {
                let answered = result.map(|answer| Answered { answer, time });
                drop(sender.send(answered.map_err(Failure::Refused)));
            }
            (Waiter::Peer(sender), Reply::Peer(answer)) => drop(sender.send(Ok(answer))),
            (Waiter::Finder(sender), Reply::Finder(found)) => drop(sender.send(Ok(found))),
            (Waiter::Monitor(passage), Reply::Control(result)) => passage.arrive(match result {
                Ok(_) => Arrived::Settled,
                Err(refusal) => Arrived::Failed(Failure::Refused(refusal)),
            }),
            (waiter, Reply::Control(_) | Reply::Peer(_) | Reply::Finder(_)) => {
                waiter.fail(Failure::Stopping)
            }
        }
    }

    /// A receiver that is gone hung up; nobody misses the answer.
    fn fail(self, failure: Failure) {
        match self {
            Waiter::Control(sender) => drop(sender.send(Err(failure))),
            Waiter::Peer(sender) => drop(sender.send(Err(failure))),
            Waiter::Finder(sender) => drop(sender.send(Err(failure))),
            Waiter::Monitor(passage) => passage.arrive(Arrived::Failed(failure)),
        }
    }
}

/// Tokens are numbers that we count up ourselves: nobody can choose them badly.
#[derive(Debug, Default)]
struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0);
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Spreads consecutive numbers over all bits (the golden ratio of 2^64).
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Debug, Default)]
struct Waiters {
    last: u64,
    waiting: HashMap<Token, Waiter, BuildHasherDefault<TokenHasher>>,
    /// Set once: nobody is answered any more.
    closed: Option<Failure>,
}

/// A task's way to the node.
#[derive(Clone, Debug)]
pub struct Link {
    inputs: mpsc::Sender<Inbound>,
    waiters: Arc<Mutex<Waiters>>,
    failure: Arc<watch::Sender<Option<Failure>>>,
}

/// Takes a caller off the list when it hangs up.
#[derive(Debug)]
struct Waiting<'a> {
    link: &'a Link,
    token: Token,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.link.waiters().waiting.remove(&self.token);
    }
}

impl Link {
    /// A link, and the inputs for [`run`].
    pub fn new() -> (Link, mpsc::Receiver<Inbound>) {
        let (inputs, receiver) = mpsc::channel(INPUT_QUEUE_MAX);
        let link = Link {
            inputs,
            waiters: Arc::default(),
            failure: Arc::new(watch::Sender::new(None)),
        };
        (link, receiver)
    }

    /// Nothing panics while it holds this lock, so what it guards is whole in any case.
    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the node; returns when it is queued, or dropped because the node has ended.
    pub async fn tell(&self, input: Input) {
        drop(self.inputs.send(Inbound::Input(input)).await);
    }

    /// As [`Link::tell`], without waiting, of something that nobody waits for: it shares a sync with what comes next, if that comes soon. To be
    /// called within the runtime.
    pub fn tell_unhurried(&self, input: Input) {
        if let Err(TrySendError::Full(inbound)) = self.inputs.try_send(Inbound::Unhurried(input)) {
            let inputs = self.inputs.clone();
            // There are no more of these than effects of clients, one for each domain.
            tokio::spawn(async move { drop(inputs.send(inbound).await) });
        }
    }

    /// Tells the node, unless its queue is full.
    pub fn tell_if_idle(&self, input: Input) {
        drop(self.inputs.try_send(Inbound::Input(input)));
    }

    /// Asks the engine on behalf of a control client.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn control(&self, request: ControlRequest) -> Result<Answered, Failure> {
        let (sender, receiver) = oneshot::channel();
        let waiting = self.enlist(Waiter::Control(sender))?;
        let token = waiting.token;
        self.tell(Input::Control { token, request }).await;
        receiver.await.unwrap_or(Err(Failure::Stopping))
    }

    /// Asks the engine on behalf of another sidecar.
    ///
    /// # Errors
    /// See [`Failure`]; never a refusal, which is a response here.
    pub async fn peer(
        &self,
        envelope: Envelope,
        nonce: Nonce,
        request: PeerRequest,
    ) -> Result<PeerAnswered, Failure> {
        let (sender, receiver) = oneshot::channel();
        let waiting = self.enlist(Waiter::Peer(sender))?;
        let token = waiting.token;
        self.tell(Input::Peer {
            token,
            envelope,
            nonce,
            request,
        })
        .await;
        receiver.await.unwrap_or(Err(Failure::Stopping))
    }

    /// Asks the engine whether a guest comes here, on behalf of another sidecar.
    ///
    /// # Errors
    /// See [`Failure`]; never a refusal.
    pub async fn find(&self, envelope: Envelope, find: Find) -> Result<(Envelope, Found), Failure> {
        let (sender, receiver) = oneshot::channel();
        let waiting = self.enlist(Waiter::Finder(sender))?;
        let token = waiting.token;
        self.tell(Input::Find {
            token,
            envelope,
            find,
        })
        .await;
        receiver.await.unwrap_or(Err(Failure::Stopping))
    }

    /// Brings a client's effect to its domain's QEMU, if the engine lets it; returns when it got there and was
    /// answered, or not. `arrival` is the passage's own.
    pub(crate) async fn monitor(
        &self,
        domain: DomainId,
        uid: u32,
        command: MonitorCommand,
        passage: Passage,
        arrival: oneshot::Receiver<Arrived>,
    ) -> Arrived {
        let waiting = match self.enlist(Waiter::Monitor(Box::new(passage))) {
            Ok(waiting) => waiting,
            Err(failure) => return Arrived::Failed(failure),
        };
        let token = waiting.token;
        self.tell(Input::Monitor {
            token,
            domain,
            uid,
            command,
        })
        .await;
        arrival.await.unwrap_or(Arrived::Failed(Failure::Stopping))
    }

    /// How the journal and the engine stand.
    ///
    /// # Errors
    /// The journal failed, or the sidecar is stopping.
    pub async fn status(&self) -> Result<NodeStatus, Failure> {
        let (sender, receiver) = oneshot::channel();
        drop(self.inputs.send(Inbound::Status(sender)).await);
        match receiver.await {
            Ok(status) => Ok(status),
            Err(_) => Err(self.failure().unwrap_or(Failure::Stopping)),
        }
    }

    fn enlist(&self, waiter: Waiter) -> Result<Waiting<'_>, Failure> {
        let mut waiters = self.waiters();
        if let Some(failure) = &waiters.closed {
            return Err(failure.clone());
        }
        if waiters.waiting.len() >= WAITERS_MAX {
            return Err(Failure::TooManyWaiters);
        }
        waiters.last += 1;
        let token = Token(waiters.last);
        waiters.waiting.insert(token, waiter);
        Ok(Waiting { link: self, token })
    }

    /// Answers the callers; says how many, and gives back what is left for others to carry out.
    pub fn hand_out(&self, now: Now, outbox: Durable<Outbox>) -> (usize, Option<HandedOut>) {
        let (effects, messages) = outbox.split();
        let time = now.wall;
        let mut messages = messages.into_inner();
        let passages = self.take_passages(&mut messages);
        let (answered, others) = self.answer(messages, time);
        let is_empty = effects.get().is_empty() && others.is_empty();
        let handed_out = (!is_empty).then_some(HandedOut {
            time,
            effects,
            messages: others,
            passages,
        });
        (answered, handed_out)
    }

    /// What is to be sent for the effects that clients of monitors asked for.
    fn take_passages(&self, messages: &mut Vec<Message>) -> HashMap<Lsn, Option<Passage>> {
        let mut passages = HashMap::new();
        messages.retain(|message| {
            let Message::Admitted { token, intent } = message else {
                return true;
            };
            let passage = match self.waiters().waiting.remove(token) {
                Some(Waiter::Monitor(passage)) => Some(*passage),
                Some(Waiter::Control(_) | Waiter::Peer(_) | Waiter::Finder(_)) | None => None,
            };
            passages.insert(*intent, passage);
            false
        });
        passages
    }

    /// Answers those callers that are still there; says how many answers there were, and gives back all
    /// other messages.
    pub(super) fn answer(&self, messages: Vec<Message>, time: u64) -> (usize, Vec<Message>) {
        let (mut answers, mut others) = (Vec::new(), Vec::new());
        {
            let waiting = &mut self.waiters().waiting;
            for message in messages {
                match message {
                    Message::Reply { token, result } => {
                        answers.push((waiting.remove(&token), Reply::Control(result)));
                    }
                    Message::PeerReply {
                        token,
                        envelope,
                        response,
                        rests_on: _,
                    } => answers.push((waiting.remove(&token), Reply::Peer((envelope, response)))),
                    Message::Found {
                        token,
                        envelope,
                        found,
                    } => answers.push((waiting.remove(&token), Reply::Finder((envelope, found)))),
                    other => others.push(other),
                }
            }
        }
        let answered = answers.len();
        for (waiter, reply) in answers {
            if let Some(waiter) = waiter {
                waiter.answer(reply, time);
            }
        }
        (answered, others)
    }

    /// From now on nobody gets another answer than this one.
    pub fn close(&self, failure: &Failure) {
        let waiting = {
            let mut waiters = self.waiters();
            waiters.closed.get_or_insert_with(|| failure.clone());
            core::mem::take(&mut waiters.waiting)
        };
        for waiter in waiting.into_values() {
            waiter.fail(failure.clone());
        }
        self.failure.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| failure.clone());
            is_first
        });
    }

    /// Why the node has ended, if it has.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    /// Returns when the node has ended, and why.
    pub async fn ended(&self) -> Failure {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or(Failure::Stopping),
            Err(_) => Failure::Stopping,
        }
    }
}

/// The node's task: turn after turn, until the inputs end, the link is closed, or the journal fails. Then every caller, waiting or
/// later, is told. Answers to callers leave right here; all else goes to `carry_out`, which may not wait.
///
/// A turn writes and syncs on the thread that it is on, so that what may leave then leaves without another thread being woken; all
/// other tasks of that thread go on on another one meanwhile.
///
/// # Errors
/// What made the journal fail.
pub async fn run<D: Disk, M: Machine>(
    mut node: Node<D, M>,
    link: Link,
    mut inputs: mpsc::Receiver<Inbound>,
    mut carry_out: impl FnMut(HandedOut),
) -> Result<(), AppendError> {
    let mut gatherer = Gatherer::new();
    let mut inbound = Vec::new();
    let result = loop {
        let until_quiet = node.is_unsealed();
        let is_unhurried = |one: &Inbound| matches!(one, Inbound::Unhurried(_));
        let received = gatherer.receive(&mut inputs, &mut inbound, until_quiet, is_unhurried);
        match received.await {
            Received::Inputs => {}
            Received::Closed => break Ok(()),
            Received::Quiet => match blocking(|| node.seal(now())) {
                Ok(()) => continue,
                Err(error) => break Err(error),
            },
        }
        match turn(&mut node, &link, &mut inbound, &mut carry_out) {
            Ok(Some(answered)) => gatherer.has_turned(answered),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    link.close(&match &result {
        Ok(()) => Failure::Stopping,
        Err(error) => Failure::Poisoned(error.to_string()),
    });
    result
}

/// One turn; how many callers it answered. `None` when the link is closed: the sidecar is stopping, and nothing is carried out any
/// more.
fn turn<D: Disk, M: Machine>(
    node: &mut Node<D, M>,
    link: &Link,
    inbound: &mut Vec<Inbound>,
    carry_out: &mut impl FnMut(HandedOut),
) -> Result<Option<usize>, AppendError> {
    let mut inputs = Vec::with_capacity(inbound.len());
    for one in inbound.drain(..) {
        match one {
            Inbound::Input(input) | Inbound::Unhurried(input) => inputs.push(input),
            // Whoever asked may have hung up.
            Inbound::Status(sender) => drop(sender.send(NodeStatus {
                journal: node.log().status(),
                kept_migrations: node.kept_migrations(),
            })),
        }
    }
    let now = now();
    let outbox = blocking(|| node.turn(now, inputs))?;
    if link.failure().is_some() {
        return Ok(None);
    }
    let (answered, handed_out) = link.hand_out(now, outbox);
    handed_out.into_iter().for_each(carry_out);
    Ok(Some(answered))
}

/// Does what may wait for the disk. Whoever else is on this thread does not wait with it: a disk that hangs holds up no reading.
fn blocking<R>(work: impl FnOnce() -> R) -> R {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => block_in_place(work),
        // There is no other thread to go on on.
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Answer;
    use crate::journal::OpenOptions;
    use crate::journal::testing::{Fault, TestDisk};
    use crate::node::CrashSwitch;
    use core::time::Duration;
    use journal_format::number::{BootId, DomainId, HostId, Id128};
    use journal_format::record::{Instance, Process};

    fn query() -> ControlRequest {
        ControlRequest::QueryDomains { name: None }
    }

    #[tokio::test]
    async fn the_answer_finds_its_caller() {
        let (link, mut inputs) = Link::new();
        let asking = link.control(query());
        let answering = async {
            let Some(Inbound::Input(Input::Control { token, .. })) = inputs.recv().await else {
                panic!("a control input");
            };
            let result = Err(Refusal::NotHeld("vm".to_owned()));
            link.answer(vec![Message::Reply { token, result }], 1);
        };
        let (result, ()) = tokio::join!(asking, answering);
        assert_eq!(
            result.unwrap_err(),
            Failure::Refused(Refusal::NotHeld("vm".to_owned()))
        );
        assert!(link.waiters().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_hung_up_is_forgotten() {
        let (link, mut inputs) = Link::new();
        let mut asking = Box::pin(link.control(query()));
        let token = tokio::select! {
            _ = &mut asking => panic!("nobody answered"),
            input = inputs.recv() => match input {
                Some(Inbound::Input(Input::Control { token, .. })) => token,
                other => panic!("{other:?}"),
            },
        };
        drop(asking);
        assert!(link.waiters().waiting.is_empty());
        let result = Ok(Answer::Done {});
        link.answer(vec![Message::Reply { token, result }], 1);
    }

    #[tokio::test]
    async fn a_failed_journal_answers_everyone() {
        let (link, mut inputs) = Link::new();
        let failure = Failure::Poisoned("disk full".to_owned());
        let waiting = link.control(query());
        let failing = async {
            inputs.recv().await.unwrap();
            link.close(&failure);
        };
        let (result, ()) = tokio::join!(waiting, failing);
        assert_eq!(result.unwrap_err(), failure);
        assert_eq!(link.control(query()).await.unwrap_err(), failure);
        // The first cause stays.
        link.close(&Failure::Stopping);
        assert_eq!(link.ended().await, failure);
        assert_eq!(link.control(query()).await.unwrap_err(), failure);
    }

    #[tokio::test]
    async fn callers_of_a_node_whose_disk_fails_are_told() {
        let disk = TestDisk::new("journal");
        let boot = BootId(Id128([2; 16]));
        let options = OpenOptions::new(HostId(Id128([4; 16])), boot);
        let (opened, told) = crate::node::open_journal(disk.clone(), None, &options).unwrap();
        let peer = "/run/peer.sock".to_owned();
        let (node, _) = Node::open(
            opened,
            told,
            boot,
            peer,
            None,
            now(),
            CrashSwitch::default(),
        )
        .unwrap();
        let (link, inbound) = Link::new();
        let (outboxes, mut handed_out) = mpsc::unbounded_channel();
        let carry_out = move |one| drop(outboxes.send(one));
        let node = tokio::spawn(run(node, link.clone(), inbound, carry_out));
        assert!(link.status().await.unwrap().journal.poisoned.is_none());

        let add = |number: u8| {
            let instance = Instance {
                boot,
                pid: 16 + u32::from(number),
                start_time: 1,
            };
            ControlRequest::DomainAdd {
                name: format!("vm{number}"),
                domain: DomainId(Id128([number; 16])),
                qmp: "/run/qmp.sock".to_owned(),
                instance,
                observed: super::super::observe::silent(Process::Alive, Some(instance)),
                definition: None,
            }
        };
        // The first one sees to it that there is room.
        link.control(add(1)).await.unwrap();
        disk.plan(disk.operations(), Fault::Error(5));
        let failure = link.control(add(2)).await.unwrap_err();
        assert!(matches!(failure, Failure::Poisoned(_)), "{failure}");
        assert_eq!(link.ended().await, failure);
        assert_eq!(link.status().await.unwrap_err(), failure);
        assert!(node.await.unwrap().is_err());
        let watch = handed_out.recv().await.unwrap().messages;
        let is_of_first =
            |message: &Message| matches!(message, Message::Watch { name, .. } if name == "vm1");
        assert!(watch.iter().any(is_of_first), "{watch:?}");
        assert!(handed_out.recv().await.is_none(), "nothing of the second");
    }

    const WAIT: Duration = Duration::from_secs(20);

    /// While a turn takes its time, whoever else was on its thread goes on: here there is but one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_slow_disk_holds_up_nobody_else() {
        let (is_working, begun) = oneshot::channel();
        let (go_on, goes_on) = std::sync::mpsc::channel();
        let turning = tokio::spawn(async move {
            blocking(|| {
                is_working.send(()).unwrap();
                goes_on.recv_timeout(WAIT)
            })
        });
        tokio::spawn(async move {
            begun.await.unwrap();
            go_on.send(())
        });
        turning.await.unwrap().expect("another task ran");
    }

    #[tokio::test]
    async fn more_callers_than_allowed_are_refused() {
        let (link, _inputs) = Link::new();
        let mut kept = Vec::new();
        for _ in 0..WAITERS_MAX {
            let (sender, _) = oneshot::channel();
            kept.push(link.enlist(Waiter::Control(sender)).unwrap());
        }
        assert_eq!(
            link.control(query()).await.unwrap_err(),
            Failure::TooManyWaiters
        );
        kept.pop();
        let (sender, _) = oneshot::channel();
        assert!(link.enlist(Waiter::Control(sender)).is_ok());
    }
}
