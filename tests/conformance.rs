//! The simulator's fake QEMU and the real one, side by side: the same commands, cancels and kills at every status of a
//! migration have the same answers, lead to the same states, and are told by the same events.
//!
//! Invariant: a scenario is one list of steps, which both go through; whatever differs is listed, and nothing may.
//! Not here: what a sidecar does with it.

use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use journal_format::number::{BootId, Epoch, Id128, JournalId, MigrationId};
use journal_format::record::{Claim, EffectCommand, EffectResult, Process, Role};
use phase_journal::engine::QemuEvent;
use phase_journal::qmp::qmp_command;
use phase_journal::sim::{Lab, Move, Random, Told, uri};
use phase_journal_lab::guest::RESTLESS_BANDWIDTH;
use phase_journal_lab::qemu::{Begin, GUEST_TIMEOUT, Locking, Qemu, QemuOptions};
use phase_journal_lab::{Error, Scratch, until};
use serde_json::json;

use crate::scenario::RESTLESS;

/// Index of the source and of the destination.
const SIDES: [usize; 2] = [0, 1];
const A: usize = 0;
const B: usize = 1;
const UUID: &str = "11111111-2222-4333-8444-555555555555";
/// How long what was reached must stay so.
const STAYS: Duration = Duration::from_millis(60);
/// How long a real QEMU may take to come to a state.
const REACHED_WITHIN: Duration = Duration::from_secs(20);
/// Of the background stream in post-copy, in bytes per second: the rest takes minutes.
const TRICKLE: u64 = 4096;

/// A step of a scenario.
#[derive(Clone)]
enum Step {
    /// A command of a sidecar's.
    Do(usize, EffectCommand),
    /// SIGKILL.
    Kill(usize),
    /// Post-copy goes on to its end; until then it is kept waiting.
    Release,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |at: &usize| ["a", "b"][*at];
        match self {
            Step::Do(at, command) => write!(f, "{}:{}", side(at), command.name()),
            Step::Kill(at) => write!(f, "{}:SIGKILL", side(at)),
            Step::Release => write!(f, "go on"),
        }
    }
}

/// What a step led to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    answer: String,
    /// Run state and migration status of both, or that it ended.
    states: [String; 2],
}

// The fake.

struct Fake {
    lab: Lab,
    holds: bool,
    events: [Vec<String>; 2],
}

impl Fake {
    fn start(locks: bool) -> Fake {
        let mut lab = Lab::new(Random::new(1));
        let guest = lab.add_guest("g");
        lab.guests[guest].locks = locks;
        // More than the limit that holds it, less than the one that lets it go.
        lab.guests[guest].needs_ms = 200;
        for at in SIDES {
            let number = lab.start(at, BootId(Id128([7; 16])), guest, at == B);
            lab.qemus[number].survives = false;
            lab.qemus[number].hangs = false;
        }
        let mut fake = Fake {
            lab,
            holds: true,
            events: Default::default(),
        };
        fake.settle();
        // What starting it told.
        fake.events = Default::default();
        fake
    }

    fn step(&mut self, step: &Step) -> Seen {
        self.lab.now += 1_000;
        let answer = match step {
            Step::Do(at, command) => answer(&self.lab.execute(*at, &with_uri(command, uri))),
            Step::Kill(at) => {
                self.lab.end(*at);
                String::new()
            }
            Step::Release => {
                self.holds = false;
                String::new()
            }
        };
        self.settle();
        let states = SIDES.map(|at| {
            let observed = self.lab.query(at);
            match (observed.process, observed.run_state, observed.migration) {
                (Process::Alive, Some(run), Some(status)) => format!("{run}/{status}"),
                (process, ..) => process.to_string(),
            }
        });
        Seen { answer, states }
    }

    /// Everything that it does by itself, in the order in which it is due.
    fn settle(&mut self) {
        let holds = self.holds;
        let may = |one| !(holds && one == Move::AllOver);
        while let Some((number, one)) = self.lab.take_next_move(may) {
            self.lab.make_move(number, one);
        }
        let mut told = Vec::new();
        self.lab.take_told(&mut told);
        for (number, told) in told {
            if let Told::Event(event) = told {
                self.events[number].push(match event {
                    QemuEvent::Stop => "STOP".to_owned(),
                    QemuEvent::Resume => "RESUME".to_owned(),
                    QemuEvent::Migration(status) => status.to_string(),
                    QemuEvent::Converging { .. } | QemuEvent::Passes { .. } | QemuEvent::Lost => {
                        continue;
                    }
                });
            }
        }
    }
}

// The real one.

struct Real {
    qemus: [Qemu; 2],
    events: [Vec<String>; 2],
    scratch: Scratch,
}

impl Real {
    fn start(locks: bool) -> Real {
        let scratch = Scratch::create().unwrap();
        let disk = scratch.path().join("disk");
        RESTLESS.write(&disk).unwrap();
        let qemu = |name: &str, begin| {
            let options = QemuOptions {
                name: name.to_owned(),
                directory: scratch.directory(name).unwrap(),
                disk: disk.clone(),
                uuid: UUID.to_owned(),
                begin,
                locking: if locks { Locking::On } else { Locking::Off },
                data: Vec::new(),
            };
            Qemu::start(&options).unwrap()
        };
        let mut qemus = [qemu("a", Begin::Running), qemu("b", Begin::Incoming)];
        qemus[A].wait_for_number(1, GUEST_TIMEOUT).unwrap();
        for qemu in &mut qemus {
            let slow = json!({"max-postcopy-bandwidth": TRICKLE});
            qemu.monitor()
                .execute("migrate-set-parameters", slow)
                .unwrap();
            qemu.monitor().take_events();
        }
        Real {
            qemus,
            events: Default::default(),
            scratch,
        }
    }

    fn step(&mut self, step: &Step) -> String {
        match step {
            Step::Do(at, command) => {
                let uri = |number| {
                    format!(
                        "unix:{}",
                        self.scratch.path().join(format!("m{number}")).display()
                    )
                };
                let command = with_uri(command, uri);
                let (name, arguments) = qmp_command(&command).expect("it is a command");
                match self.qemus[*at].monitor().execute(name, arguments) {
                    Ok(_) => "done".to_owned(),
                    Err(Error::Refused { description, .. }) => refused(&description),
                    Err(Error::Closed { .. } | Error::Io { .. }) => "gone".to_owned(),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Kill(at) => {
                self.qemus[*at].kill().unwrap();
                String::new()
            }
            Step::Release => {
                let fast = json!({"max-postcopy-bandwidth": 0});
                // It may have ended before.
                drop(
                    self.qemus[A]
                        .monitor()
                        .execute("migrate-set-parameters", fast),
                );
                String::new()
            }
        }
    }

    fn states(&mut self) -> [String; 2] {
        SIDES.map(|at| {
            let qemu = &mut self.qemus[at];
            let shown = qemu
                .run_state()
                .and_then(|run| Ok((run, qemu.migration_status()?)));
            let state = match shown {
                Ok((run, status)) => format!("{run}/{status}"),
                Err(_) if !self.qemus[at].is_alive().unwrap() => "dead".to_owned(),
                Err(error) => error.to_string(),
            };
            let told = self.qemus[at].monitor().take_events();
            self.events[at].extend(told.into_iter().filter_map(
                |event| match event.name.as_str() {
                    "STOP" | "RESUME" => Some(event.name),
                    "MIGRATION" => event.data["status"].as_str().map(str::to_owned),
                    _ => None,
                },
            ));
            state
        })
    }

    /// As soon as it is like that; or as it is when it never is.
    fn until_like(&mut self, expected: &[String; 2]) -> [String; 2] {
        let mut last = self.states();
        let reached = until("the state that the fake shows", REACHED_WITHIN, || {
            last = self.states();
            Ok((last == *expected).then_some(()))
        });
        drop(reached);
        last
    }
}

// Both.

fn answer(result: &EffectResult) -> String {
    match result {
        EffectResult::Done => "done".to_owned(),
        EffectResult::Refused { description, .. } => refused(description),
        EffectResult::NotSent { .. } | EffectResult::Unknown { .. } => "gone".to_owned(),
    }
}

/// Which of the image's permissions is missing is told in several words.
fn refused(description: &str) -> String {
    match description.contains("lock") {
        true => "refused: locked".to_owned(),
        false => format!("refused: {description}"),
    }
}

/// Where a side listens; in a scenario only its number is said.
fn with_uri(command: &EffectCommand, uri: impl Fn(usize) -> String) -> EffectCommand {
    let place = |text: &String| uri(text.parse().expect("the number of a side"));
    match command {
        EffectCommand::MigrateIncoming { uri } => {
            EffectCommand::MigrateIncoming { uri: place(uri) }
        }
        EffectCommand::Migrate { uri } => EffectCommand::Migrate { uri: place(uri) },
        EffectCommand::MigrateRecover { uri } => EffectCommand::MigrateRecover { uri: place(uri) },
        EffectCommand::MigrateResume { uri } => EffectCommand::MigrateResume { uri: place(uri) },
        other => other.clone(),
    }
}

// Scenarios.

fn go(at: usize, command: EffectCommand) -> Step {
    Step::Do(at, command)
}

fn limits(max_bandwidth: u64, downtime_limit: u64) -> Step {
    go(
        A,
        EffectCommand::SetParameters {
            max_bandwidth: Some(max_bandwidth),
            downtime_limit: Some(downtime_limit),
        },
    )
}

/// Where a scenario stands when something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Prepared,
    Performing,
    PreSwitchover,
    Whole,
    Finished,
    Postcopy,
    PostcopyBroken,
}

/// What leads from each stage of pre-copy to the next.
fn onward(stage: Stage) -> Vec<Step> {
    match stage {
        Stage::Prepared => vec![go(
            A,
            EffectCommand::Migrate {
                uri: "1".to_owned(),
            },
        )],
        Stage::Performing => vec![limits(0, 5_000)],
        Stage::PreSwitchover => vec![go(A, EffectCommand::MigrateContinue)],
        Stage::Whole => vec![go(B, EffectCommand::Cont)],
        Stage::Finished => vec![],
        Stage::Postcopy => vec![go(A, EffectCommand::MigratePause)],
        Stage::PostcopyBroken => vec![
            go(
                B,
                EffectCommand::MigrateRecover {
                    uri: "2".to_owned(),
                },
            ),
            go(
                A,
                EffectCommand::MigrateResume {
                    uri: "2".to_owned(),
                },
            ),
        ],
    }
}

const PRECOPY: [Stage; 5] = [
    Stage::Prepared,
    Stage::Performing,
    Stage::PreSwitchover,
    Stage::Whole,
    Stage::Finished,
];
/// The guest is started at the destination only at the end: one that waits for a page keeps QEMU from answering.
const POSTCOPY: [Stage; 2] = [Stage::Postcopy, Stage::PostcopyBroken];

fn prepare(postcopy: bool) -> Vec<Step> {
    let capabilities = |role| EffectCommand::SetCapabilities { role, postcopy };
    vec![
        go(B, capabilities(Role::Destination)),
        go(B, EffectCommand::Stop),
        go(
            B,
            EffectCommand::MigrateIncoming {
                uri: "1".to_owned(),
            },
        ),
        go(A, capabilities(Role::Source)),
        limits(RESTLESS_BANDWIDTH, 1),
    ]
}

/// Up to a stage.
fn up_to(stage: Stage) -> Vec<Step> {
    let is_split = POSTCOPY.contains(&stage);
    let mut steps = prepare(is_split);
    let stages: Vec<Stage> = match is_split {
        false => PRECOPY
            .into_iter()
            .take_while(|one| *one != stage)
            .collect(),
        true => {
            steps.extend(onward(Stage::Prepared));
            steps.push(go(A, EffectCommand::StartPostcopy));
            steps.push(go(A, EffectCommand::MigrateContinue));
            POSTCOPY
                .into_iter()
                .take_while(|one| *one != stage)
                .collect()
        }
    };
    steps.extend(stages.into_iter().flat_map(onward));
    steps
}

/// From there to the end, as far as it still goes.
fn to_the_end(stage: Stage) -> Vec<Step> {
    match POSTCOPY.contains(&stage) {
        true => {
            let mut steps = match stage {
                Stage::PostcopyBroken => onward(stage),
                _ => Vec::new(),
            };
            steps.extend([Step::Release, go(B, EffectCommand::Cont)]);
            steps
        }
        false => {
            let rest = PRECOPY.into_iter().skip_while(|one| *one != stage);
            rest.flat_map(onward).collect()
        }
    }
}

fn told(capability: &str, state: bool) -> EffectCommand {
    let one = json!({"capability": capability, "state": state});
    EffectCommand::Monitor {
        execute: "migrate-set-capabilities".to_owned(),
        arguments: json!({"capabilities": [one]}).to_string(),
        redacted: false,
    }
}

/// All that a sidecar may ever send, to either side, and the end of either process.
fn everything(stage: Stage) -> Vec<Step> {
    let uri = || "1".to_owned();
    // Where the first listener was, a resumed stream would find it again.
    let nobody = || "3".to_owned();
    let mut steps = vec![
        go(A, EffectCommand::Cont),
        go(A, EffectCommand::Stop),
        go(A, EffectCommand::Migrate { uri: uri() }),
        go(A, EffectCommand::MigrateContinue),
        go(A, EffectCommand::MigratePause),
        go(A, EffectCommand::StartPostcopy),
        go(A, EffectCommand::MigrateResume { uri: nobody() }),
        // What is put back is told like this; here it changes nothing.
        go(A, told("late-block-activate", false)),
        go(B, EffectCommand::Stop),
        go(B, EffectCommand::MigrateIncoming { uri: uri() }),
        go(B, EffectCommand::MigrateRecover { uri: uri() }),
        Step::Kill(A),
        Step::Kill(B),
    ];
    if stage != Stage::PostcopyBroken {
        // A guest that waits for a page keeps QEMU from answering.
        steps.push(go(B, EffectCommand::Cont));
        steps.push(go(B, told("return-path", true)));
    }
    if !POSTCOPY.contains(&stage) {
        // In post-copy it destroys the guest; no sidecar sends it, and the fake calls it a broken promise.
        steps.push(go(A, EffectCommand::MigrateCancel));
    }
    steps
}

/// Both go through the steps; what differs is told.
fn differences(locks: bool, steps: &[Step]) -> String {
    let (mut fake, mut real) = (Fake::start(locks), Real::start(locks));
    let mut told = String::new();
    let mut done: Vec<&Step> = Vec::new();
    for step in steps {
        done.push(step);
        let expected = fake.step(step);
        let answer = real.step(step);
        let states = real.until_like(&expected.states);
        let seen = Seen { answer, states };
        if seen != expected {
            let _ = writeln!(
                told,
                "locks {locks}, after {done:?}:\n  fake {expected:?}\n  real {seen:?}"
            );
            return told;
        }
    }
    let end = Instant::now() + STAYS;
    let last = real.states();
    while Instant::now() < end {
        if real.states() != last {
            let _ = writeln!(
                told,
                "locks {locks}, after {done:?}: it does not stay {last:?}"
            );
            return told;
        }
    }
    for (at, state) in last.iter().enumerate() {
        // What a process says while it ends may not come through.
        if state == "dead" {
            for events in [&mut fake.events[at], &mut real.events[at]] {
                events.pop_if(|last| *last == "failed");
            }
        }
    }
    if fake.events != real.events {
        let _ = writeln!(
            told,
            "locks {locks}, after {done:?}:\n  fake tells {:?}\n  real tells {:?}",
            fake.events, real.events
        );
    }
    told
}

fn assert_alike(locks: bool, stages: &[Stage]) {
    let mut all = String::new();
    let mut count = 0;
    for stage in stages {
        for one in everything(*stage) {
            let mut steps = up_to(*stage);
            let is_split = POSTCOPY.contains(stage);
            // Nothing comes through any more, and the guest would wait for a page for ever.
            let is_cut = matches!(
                one,
                Step::Kill(A) | Step::Do(A, EffectCommand::MigratePause)
            );
            steps.push(one);
            if !(is_split && is_cut) {
                steps.extend(to_the_end(*stage));
            }
            let found = differences(locks, &steps);
            print!("{found}");
            all.push_str(&found);
            count += 1;
        }
    }
    println!("{count} scenarios");
    assert!(all.is_empty(), "of {count} scenarios:\n{all}");
}

#[test]
fn before_the_switchover() {
    assert_alike(true, &[Stage::Prepared, Stage::Performing]);
}

#[test]
fn from_the_switchover() {
    assert_alike(true, &[Stage::PreSwitchover, Stage::Whole, Stage::Finished]);
}

#[test]
fn without_locks() {
    assert_alike(false, &[Stage::Performing, Stage::Whole]);
}

#[test]
fn in_postcopy() {
    assert_alike(true, &POSTCOPY);
}

#[test]
fn the_claim() {
    let claim = |number| {
        go(
            A,
            EffectCommand::Claim(Claim {
                journal: JournalId(Id128([number; 16])),
                epoch: Epoch(1),
                migration: MigrationId(Id128([2; 16])),
                role: Role::Source,
            }),
        )
    };
    let steps = [claim(1), claim(2), go(A, EffectCommand::Unclaim), claim(2)];
    let found = differences(true, &steps);
    assert!(found.is_empty(), "{found}");
}
