//! Every crash point of one migration with every kind of fault.
//!
//! Invariant: each pair is a world of its own; what was gone through is counted.
//! Not here: fleets and chance (`run`).

use journal_format::record::{Authority, Outcome, Protocol, WantedRunState};

use super::disk::BatchFault;
use super::fault::{Fault, Planned};
use super::manager::{Desk, Heard, How, Manager};
use super::shape::{Rates, Shape};
use super::world::World;
use super::{HostNumber, Micros};
use crate::engine::{ControlRequest, JobTarget};

/// When the migration is asked for.
pub const BEGIN: Micros = 1_000_000;
/// When every migration without faults is over.
pub const OVER: Micros = 4_000_000;

/// How often a manager says its verdict, in milliseconds.
const VERDICT_MS: u64 = 500;

/// The ways to die at a batch.
pub const DEATHS: [BatchFault; 3] = [
    BatchFault::CrashBefore,
    BatchFault::CrashTorn,
    BatchFault::CrashAfter,
];

/// What one batch of a disk may meet without a death.
pub const MISHAPS: [BatchFault; 5] = [
    BatchFault::WriteFails,
    BatchFault::ShortWrite,
    BatchFault::SyncFails,
    BatchFault::Misdirected,
    BatchFault::Lost,
];

/// A migration to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// How it is made.
    pub how: How,
    /// Its guest is paused by its owner.
    pub paused: bool,
}

/// One of each kind.
pub const SUBJECTS: [Subject; 6] = [
    Subject {
        how: How {
            protocol: Protocol::V2,
            authority: Authority::Source,
            postcopy: false,
            downtime_limit: None,
        },
        paused: false,
    },
    Subject {
        how: How {
            protocol: Protocol::V3,
            authority: Authority::Destination,
            postcopy: false,
            downtime_limit: None,
        },
        paused: false,
    },
    Subject {
        how: How {
            protocol: Protocol::V3,
            authority: Authority::Destination,
            postcopy: false,
            downtime_limit: None,
        },
        paused: true,
    },
    Subject {
        how: How {
            protocol: Protocol::V3,
            authority: Authority::Destination,
            postcopy: true,
            downtime_limit: None,
        },
        paused: false,
    },
    Subject {
        how: How {
            protocol: Protocol::V3,
            authority: Authority::Store,
            postcopy: false,
            downtime_limit: None,
        },
        paused: false,
    },
    Subject {
        how: How {
            protocol: Protocol::V3,
            authority: Authority::Manager,
            postcopy: false,
            downtime_limit: None,
        },
        paused: false,
    },
];

impl Subject {
    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match (
            self.how.protocol,
            self.how.authority,
            self.how.postcopy,
            self.paused,
        ) {
            (Protocol::V2, _, _, _) => "v2",
            (Protocol::V3, Authority::Store, _, _) => "v3, store",
            (Protocol::V3, Authority::Manager, _, _) => "v3, manager",
            (Protocol::V3, _, true, _) => "post-copy",
            (Protocol::V3, _, false, true) => "v3, paused guest",
            (Protocol::V3, _, false, false) => "v3",
        }
    }
}

/// What happens at one batch, and what else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Whose batch.
    pub host: HostNumber,
    /// Which, counted from when the migration is asked for.
    pub batch: u32,
    /// What happens to it.
    pub at_batch: BatchFault,
    /// What happens a moment later, and to whom.
    pub also: Option<(Fault, u64)>,
}

/// A manager that moves one guest once.
#[derive(Debug)]
struct Once {
    subject: Subject,
    step: u32,
}

impl Manager for Once {
    fn hear(&mut self, heard: Heard<'_>, desk: &mut Desk<'_>) {
        if !matches!(heard, Heard::Woken) {
            return;
        }
        self.step += 1;
        match self.step {
            1 => {
                desk.add_domain(0, 0);
                desk.start_incoming(1, 0);
                desk.add_domain(1, 0);
                desk.wake_in(100);
            }
            2 => {
                if self.subject.paused {
                    let (name, wanted) = (desk.name(0).to_owned(), WantedRunState::Paused);
                    desk.ask(0, ControlRequest::DomainSetWanted { name, wanted });
                }
                desk.wake_in((BEGIN / 1_000).saturating_sub(desk.now_ms()));
            }
            3 => {
                desk.migrate(0, 1, 0, self.subject.how);
                if self.subject.how.authority == Authority::Manager {
                    desk.wake_in(VERDICT_MS);
                }
            }
            // Until it is taken, by either side.
            step => {
                let target = JobTarget::Domain(desk.name(0).to_owned());
                let outcome = Outcome::Committed;
                let uid = 0;
                let host = HostNumber::from(step % 2 == 0);
                let request = ControlRequest::Verdict {
                    target,
                    outcome,
                    uid,
                };
                desk.ask(host, request);
                desk.wake_in(VERDICT_MS);
            }
        }
    }
}

fn world(seed: u64, subject: Subject, plan: Vec<Planned>) -> World {
    let shape = Shape {
        hosts: 2,
        domains: 1,
        minutes: 1,
        faults: Rates::NONE,
        ..Shape::default()
    };
    let manager = Once { subject, step: 0 };
    let mut world = World::new(seed, &shape, plan, Box::new(manager));
    world.run_until(BEGIN - 1);
    world
}

/// How many batches each host writes in a migration in which nothing fails.
#[must_use]
pub fn batches(seed: u64, subject: Subject) -> [u32; 2] {
    let mut world = world(seed, subject, Vec::new());
    let count = |world: &World| [0, 1].map(|host| world.hosts[host].disk.batches());
    let before = count(&world);
    world.run_until(OVER);
    let after = count(&world);
    [0, 1].map(|host| u32::try_from(after[host] - before[host]).unwrap_or(u32::MAX))
}

/// Every point of a migration with so many batches at each host.
pub fn points(batches: [u32; 2]) -> impl Iterator<Item = Point> {
    let places = [0, 1]
        .into_iter()
        .flat_map(move |host| (0..batches[host]).map(move |batch| (host, batch)));
    places.flat_map(|(host, batch)| {
        let alone = DEATHS
            .into_iter()
            .chain(MISHAPS)
            .map(move |at_batch| Point {
                host,
                batch,
                at_batch,
                also: None,
            });
        let both = DEATHS.into_iter().flat_map(move |at_batch| {
            let faults = Fault::ALL
                .into_iter()
                .flat_map(|fault| [(fault, 0), (fault, 1)]);
            faults.map(move |also| Point {
                host,
                batch,
                at_batch,
                also: Some(also),
            })
        });
        alone.chain(both)
    })
}

/// Goes through one point.
#[must_use]
pub fn run_point(seed: u64, subject: Subject, point: Point, story: bool) -> super::Outcome {
    let mut world = world(seed, subject, Vec::new());
    if story {
        world.tell_story();
    }
    world.hosts[point.host]
        .disk
        .plan(point.batch, point.at_batch);
    world.next_death = point.also.map(|(fault, pick)| {
        let [least, _] = fault.lasts();
        Planned {
            begun: 0,
            at: 0,
            lasts: least.max(1) * 2,
            // The QEMU, or the host, of that number.
            pick: (8 * pick + 1) * 2 + pick,
            fault,
        }
    });
    world.run_until(OVER);
    super::end(seed, world)
}

/// Goes through one migration that meets these faults, and then comes to rest. Times are those of the world: the
/// migration is asked for at [`BEGIN`].
#[must_use]
pub fn run_schedule(seed: u64, subject: Subject, plan: Vec<Planned>) -> super::Outcome {
    let mut world = world(seed, subject, plan);
    world.run_until(OVER);
    super::end(seed, world)
}
