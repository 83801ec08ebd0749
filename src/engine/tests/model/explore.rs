//! Goes through every scene of a scenario, nearest first (then a broken promise is told by a shortest
//! schedule) or deepest first (then few scenes are kept at a time), and says which promise is broken
//! by which schedule.
//!
//! Invariant: a promise about every scene (P2, P3, P8) is judged in every scene that is reached; P4 is
//! judged on the whole graph: from each scene a settled one can be reached by what happens without
//! any further fault.
//! Not here: what a scene is (`scene`), what settled means (`scenario`).

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::canon::{Fingerprint, fingerprint};
use super::happen::side;
use super::scenario::{Order, Scenario};
use super::scene::{Action, Kind, Scene};

/// A fingerprint is mixed already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, word: u128) {
        #[allow(clippy::cast_possible_truncation, reason = "half of it is enough")]
        let word = word as u64;
        self.0 = word;
    }
}

/// What was gone through.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) scenes: usize,
    pub(crate) steps: u64,
    pub(crate) settled: usize,
    /// The longest schedule; nearest first, the longest of the shortest ones.
    pub(crate) depth: u32,
    /// The most steps that a scene needs to settle without further faults.
    pub(crate) settles_in: u32,
    pub(crate) took: Duration,
    /// Nothing was left out.
    pub(crate) complete: bool,
    /// How long the schedule is that breaks a promise.
    pub(crate) schedule: usize,
    /// A broken promise, with a schedule that breaks it.
    pub(crate) violation: Option<String>,
}

impl Report {
    pub(crate) fn line(&self) -> String {
        format!(
            "{:<40} {:>9} scenes {:>10} steps depth {:>4} settled {:>8} settles in {:>3} {:>7.1} s{}",
            self.name,
            self.scenes,
            self.steps,
            self.depth,
            self.settled,
            self.settles_in,
            self.took.as_secs_f64(),
            if self.complete { "" } else { " (cut off)" },
        )
    }
}

struct Explorer {
    scenario: Rc<Scenario>,
    numbers: HashMap<Fingerprint, u32, BuildHasherDefault<AsItIs>>,
    /// From which scene, by what.
    came: Vec<(u32, Action)>,
    settled: Vec<bool>,
    /// Steps without a fault.
    faultless: Vec<(u32, u32)>,
    waiting: VecDeque<(u32, u32, Scene)>,
    steps: u64,
    depth: u32,
}

/// The last scene before a promise is broken, what breaks it, and which one.
type Broken = (u32, Option<Action>, &'static str);

/// Does that happen without any fault, sooner or later?
fn is_faultless(action: Action) -> bool {
    action.dies_at == 0
        && match action.kind {
            Kind::Hear
            | Kind::Serve
            | Kind::Question
            | Kind::Answer
            | Kind::NoAnswer
            | Kind::Tick
            | Kind::Restart
            | Kind::Wakes
            | Kind::KeyServed
            | Kind::KeyAnswer
            | Kind::Moves(_) => true,
            Kind::ServeRefused
            | Kind::ServeUnknown
            | Kind::ServeNotSent
            | Kind::Orphan
            | Kind::Stray
            | Kind::Lose
            | Kind::TimeOut
            | Kind::Repeat
            | Kind::EarlyTick
            | Kind::Crash
            | Kind::LoseJournal
            | Kind::Backup
            | Kind::RollBack
            | Kind::Damage
            | Kind::Mutes
            | Kind::Dies
            | Kind::DeviceFails
            | Kind::Breaks
            | Kind::BreaksUnnoticed
            | Kind::ForeignCont
            | Kind::ForeignStop
            | Kind::ForeignStart
            | Kind::Says(_)
            | Kind::KeyLate
            | Kind::KeyRepeat
            | Kind::KeyStray
            | Kind::Goes => false,
        }
}

/// Goes through all scenes of a scenario, or so many.
pub(crate) fn explore(scenario: &Rc<Scenario>, scenes_max: usize) -> Report {
    let began = Instant::now();
    let mut explorer = Explorer {
        scenario: Rc::clone(scenario),
        numbers: HashMap::default(),
        came: Vec::new(),
        settled: Vec::new(),
        faultless: Vec::new(),
        waiting: VecDeque::new(),
        steps: 0,
        depth: 0,
    };
    let violation = explorer.run(scenes_max);
    let complete = explorer.waiting.is_empty();
    let (stuck, settles_in) = explorer.distances();
    let violation = violation.or_else(|| {
        let from = stuck?;
        Some((from, None, "P4: from here nothing settles any more"))
    });
    let schedule = |(to, last, _): &Broken| explorer.way(*to, *last).len();
    let schedule = violation.as_ref().map_or(0, schedule);
    let violation = violation.map(|(to, last, what)| explorer.tell(to, last, what));
    Report {
        name: scenario.title(),
        scenes: explorer.came.len(),
        steps: explorer.steps,
        settled: explorer.settled.iter().filter(|one| **one).count(),
        depth: explorer.depth,
        settles_in,
        took: began.elapsed(),
        complete,
        schedule,
        violation,
    }
}

impl Explorer {
    fn run(&mut self, scenes_max: usize) -> Option<Broken> {
        let first = Scene::new(&self.scenario);
        let nothing = Action {
            kind: Kind::Restart,
            at: 0,
            dies_at: 0,
        };
        self.meet(first, 0, nothing, 0);
        while self.came.len() < scenes_max {
            let next = match self.scenario.order {
                Order::Nearest => self.waiting.pop_front(),
                Order::Deepest => self.waiting.pop_back(),
            };
            let Some((number, depth, scene)) = next else {
                break;
            };
            for action in scene.actions() {
                let mut next = scene.clone();
                self.steps += 1;
                let died = next.apply_and_die(action);
                for (dies_at, died) in (1..).zip(died) {
                    let crash = Action { dies_at, ..action };
                    if let Some(promise) = died.broken {
                        return Some((number, Some(crash), promise));
                    }
                    self.meet(died, number, crash, depth + 1);
                }
                if let Some(promise) = next.broken {
                    return Some((number, Some(action), promise));
                }
                let met = self.meet(next, number, action, depth + 1);
                if is_faultless(action) {
                    self.faultless.push((number, met));
                }
            }
        }
        None
    }

    fn meet(&mut self, scene: Scene, from: u32, by: Action, depth: u32) -> u32 {
        let print = fingerprint(&scene);
        let new = u32::try_from(self.came.len()).expect("fewer than 2^32 scenes");
        let number = *self.numbers.entry(print).or_insert(new);
        if number == new {
            self.came.push((from, by));
            self.settled.push(scene.is_settled());
            self.depth = self.depth.max(depth);
            self.waiting.push_back((new, depth, scene));
        }
        number
    }

    /// P4: the first scene from which no settled one is reached, and the longest way to one.
    fn distances(&self) -> (Option<u32>, u32) {
        let count = self.came.len();
        let mut first_of = vec![0_u32; count + 1];
        for (_, to) in &self.faultless {
            first_of[*to as usize + 1] += 1;
        }
        for at in 0..count {
            first_of[at + 1] += first_of[at];
        }
        let mut place = first_of.clone();
        let mut comes_from = vec![0_u32; self.faultless.len()];
        for (from, to) in &self.faultless {
            let slot = &mut place[*to as usize];
            comes_from[*slot as usize] = *from;
            *slot += 1;
        }
        let mut distance = vec![u32::MAX; count];
        let mut queue = VecDeque::new();
        let unfinished = self.waiting.iter().map(|(number, ..)| *number as usize);
        let good = (0..count).filter(|at| self.settled[*at]).chain(unfinished);
        for at in good {
            distance[at] = 0;
            queue.push_back(at);
        }
        let mut longest = 0;
        while let Some(at) = queue.pop_front() {
            longest = longest.max(distance[at]);
            for slot in first_of[at]..first_of[at + 1] {
                let from = comes_from[slot as usize] as usize;
                if distance[from] == u32::MAX {
                    distance[from] = distance[at] + 1;
                    queue.push_back(from);
                }
            }
        }
        let stuck = distance.iter().position(|one| *one == u32::MAX);
        (stuck.and_then(|at| u32::try_from(at).ok()), longest)
    }

    /// The schedule that leads to a scene, and one thing more.
    fn way(&self, to: u32, last: Option<Action>) -> Vec<Action> {
        let mut actions: Vec<Action> = last.into_iter().collect();
        let mut at = to;
        while at != 0 {
            let (from, action) = self.came[at as usize];
            actions.push(action);
            at = from;
        }
        actions.reverse();
        actions
    }

    /// The same for people.
    fn tell(&self, to: u32, last: Option<Action>, what: &str) -> String {
        let actions = self.way(to, last);
        let mut scene = Scene::new(&self.scenario);
        let mut story = format!("{what}\nscenario {}:\n", self.scenario.name);
        for (number, action) in (1..).zip(&actions) {
            scene.log = Some(String::new());
            let name = describe(&scene, *action);
            scene.apply(*action);
            let _ = writeln!(story, "{number:>4}. {name}");
            story.push_str(scene.log.as_deref().unwrap_or_default());
        }
        if last.is_none() {
            story.push_str("   then, without faults:\n");
            for _ in 0..40 {
                let all = scene.actions();
                let Some(action) = all.into_iter().find(|one| is_faultless(*one)) else {
                    break;
                };
                scene.log = Some(String::new());
                let name = describe(&scene, action);
                scene.apply(action);
                let _ = writeln!(story, "      {name}");
                story.push_str(scene.log.as_deref().unwrap_or_default());
            }
        }
        for (at, qemu) in scene.qemus.iter().enumerate() {
            let _ = writeln!(story, "QEMU of {}: {qemu:?}", side(at));
            let Some(engine) = &scene.hosts[at].engine else {
                let _ = writeln!(story, "sidecar {} is down", side(at));
                continue;
            };
            for (id, one) in engine.state.migrations.iter() {
                let rule = engine.live.get(id).and_then(|live| live.rule);
                let (open, phase) = (one.state.open, one.state.phase);
                let _ = writeln!(story, "sidecar {}: open {open} {phase} {rule:?}", side(at));
            }
        }
        story
    }
}

fn describe(scene: &Scene, action: Action) -> String {
    let at = usize::from(action.at);
    let crash = if action.dies_at > 0 {
        ", and a sidecar dies when it is durable"
    } else {
        ""
    };
    let by = match action.kind {
        Kind::Question
        | Kind::Answer
        | Kind::NoAnswer
        | Kind::Lose
        | Kind::TimeOut
        | Kind::Repeat => {
            let ask = &scene.asks[at];
            format!("of {} {:?}", side(ask.from), ask.request)
        }
        Kind::Stray => format!(
            "of {} {:?}",
            side(scene.strays[at].from),
            scene.strays[at].request
        ),
        Kind::Moves(_)
        | Kind::DeviceFails
        | Kind::Breaks
        | Kind::BreaksUnnoticed
        | Kind::ForeignCont
        | Kind::ForeignStop
        | Kind::ForeignStart => String::new(),
        Kind::KeyServed | Kind::KeyAnswer | Kind::KeyLate | Kind::KeyRepeat => {
            let ask = &scene.key_asks[at];
            format!("of {} {:?}", side(ask.from), ask.request)
        }
        Kind::KeyStray => format!("{:?}", scene.key_strays[at].request),
        _ => side(at).to_owned(),
    };
    format!("{:?} {by}{crash}", action.kind)
}
