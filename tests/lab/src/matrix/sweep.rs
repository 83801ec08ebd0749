//! Sweeps over the batches of a migration, and the list of all of them.
//!
//! Invariant: a sweep counts its points up until a migration ends without reaching one, so that it has every
//! durable batch that there is, however many.
//!
//! Not here: one point ([`super::visit`]).

use std::fmt;
use std::ops::ControlFlow;

use super::visit::{Failed, Journals, Laboratory, Visited};
use super::{Activation, AtBatch, Disk, Fault, Guest, Point, Return, Way, When};
use crate::pair::Side;
use crate::qemu::Locking;

/// More batches than a migration has; reached only if counting does not end.
pub const BATCHES_MAX: u32 = 80;

/// So many failures one after the other end a sweep: it would fail at each point that follows.
const FAILURES_MAX: u32 = 3;

/// What a sweep does at each batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, once.
    None,
    /// A sidecar is killed.
    Sidecar {
        /// Whose.
        side: Side,
        /// Before a batch or after it.
        when: When,
        /// How the sidecars come back.
        back: Return,
    },
    /// A sidecar is killed, comes back, and is killed again at each batch of that run.
    Again {
        /// Whose.
        side: Side,
        /// Before a batch or after it, the first time.
        when: When,
        /// How the sidecars come back the first time.
        back: Return,
        /// The same, the second time.
        again: When,
    },
    /// A QEMU is killed.
    Qemu {
        /// Whose.
        victim: Side,
        /// At the batches of whose sidecar.
        side: Side,
        /// Before a batch or after it.
        when: When,
        /// Whether both sidecars live through it.
        watched: bool,
    },
}

/// Every batch of one kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// How the guest travels.
    pub way: Way,
    /// What its owner wants.
    pub guest: Guest,
    /// Its disk.
    pub disk: Disk,
    /// What happens.
    pub kind: Kind,
}

impl Sweep {
    /// A running guest without locks on its image.
    pub fn plain(way: Way, kind: Kind) -> Sweep {
        Sweep {
            way,
            guest: Guest::Running,
            disk: Disk::PLAIN,
            kind,
        }
    }

    fn point(&self, batch: u32, second: u32) -> Point {
        let fault = match self.kind {
            Kind::None => Fault::None,
            Kind::Sidecar { side, when, back } => Fault::Sidecar {
                side,
                at: AtBatch { when, batch },
                back,
                again: None,
            },
            Kind::Again {
                side,
                when,
                back,
                again,
            } => Fault::Sidecar {
                side,
                at: AtBatch { when, batch },
                back,
                again: Some(AtBatch {
                    when: again,
                    batch: second,
                }),
            },
            Kind::Qemu {
                victim,
                side,
                when,
                watched,
            } => Fault::Qemu {
                victim,
                side,
                at: AtBatch { when, batch },
                watched,
            },
        };
        Point {
            way: self.way,
            guest: self.guest,
            disk: self.disk,
            fault,
        }
    }

    /// Visits point after point; each is reported, and the report says whether to go on.
    pub fn go<J: Journals>(
        &self,
        laboratory: &Laboratory<'_, J>,
        report: impl FnMut(&Point, &Result<Visited, Failed>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.go_every(1, 1, laboratory, report)
    }

    /// The same with a slice of the batches: from `first` on in steps of `step`.
    pub fn go_every<J: Journals>(
        &self,
        first: u32,
        step: usize,
        laboratory: &Laboratory<'_, J>,
        mut report: impl FnMut(&Point, &Result<Visited, Failed>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut failures = 0;
        let mut visit = |point: &Point| {
            let visited = laboratory.visit(point);
            failures = if visited.is_err() { failures + 1 } else { 0 };
            report(point, &visited)?;
            ControlFlow::Continue((visited, failures >= FAILURES_MAX))
        };
        for batch in (first..=BATCHES_MAX).step_by(step) {
            let seconds = match self.kind {
                Kind::Again { .. } => 1..=BATCHES_MAX,
                Kind::None | Kind::Sidecar { .. } | Kind::Qemu { .. } => 1..=1,
            };
            for second in seconds {
                let (visited, give_up) = visit(&self.point(batch, second))?;
                match visited {
                    Ok(Visited::NoSuchPoint) => return ControlFlow::Continue(()),
                    Ok(Visited::NoSecondPoint(_)) => break,
                    _ if give_up || self.kind == Kind::None => return ControlFlow::Continue(()),
                    Ok(Visited::Ended(_)) | Err(_) => {}
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// As the points' names, with N in place of a batch.
impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.point(1, 1).to_string();
        let any = name
            .replace("before-1", "before-N")
            .replace("after-1", "after-N");
        f.write_str(&any)
    }
}

/// All sweeps, those first that show the most.
pub fn all() -> Vec<Sweep> {
    let mut all = Vec::new();
    let guests = [Guest::Running, Guest::Paused];
    for guest in guests {
        for way in [Way::V3, Way::V2, Way::Postcopy] {
            let kinds = sidecar_kinds().into_iter().chain(qemu_kinds());
            add(
                &mut all,
                way,
                guest,
                Disk::PLAIN,
                kinds.chain(again_kinds()),
            );
        }
    }
    for disk in other_disks() {
        for guest in guests {
            for way in [Way::V3, Way::V2, Way::Postcopy] {
                let kinds = sidecar_kinds().into_iter().chain(qemu_kinds());
                add(&mut all, way, guest, disk, kinds);
            }
        }
    }
    all
}

fn add(
    all: &mut Vec<Sweep>,
    way: Way,
    guest: Guest,
    disk: Disk,
    kinds: impl Iterator<Item = Kind>,
) {
    all.push(Sweep {
        way,
        guest,
        disk,
        kind: Kind::None,
    });
    all.extend(kinds.map(|kind| Sweep {
        way,
        guest,
        disk,
        kind,
    }));
}

const WHENS: [When; 2] = [When::Before, When::After];

fn sidecar_kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for back in [
        Return::Itself,
        Return::Both(Side::A),
        Return::Both(Side::B),
        Return::LongBefore(Side::A),
        Return::LongBefore(Side::B),
    ] {
        for side in Side::BOTH {
            kinds.extend(WHENS.map(|when| Kind::Sidecar { side, when, back }));
        }
    }
    kinds
}

fn qemu_kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for watched in [true, false] {
        for victim in Side::BOTH {
            for side in Side::BOTH {
                kinds.extend(WHENS.map(|when| Kind::Qemu {
                    victim,
                    side,
                    when,
                    watched,
                }));
            }
        }
    }
    kinds
}

fn again_kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for back in [Return::Itself, Return::Both(Side::A), Return::Both(Side::B)] {
        for side in Side::BOTH {
            for when in WHENS {
                kinds.extend(WHENS.map(|again| Kind::Again {
                    side,
                    when,
                    back,
                    again,
                }));
            }
        }
    }
    kinds
}

fn other_disks() -> [Disk; 3] {
    let disk = |locking, activation| Disk {
        locking,
        activation,
    };
    [
        disk(Locking::On, Activation::Late),
        disk(Locking::On, Activation::Early),
        disk(Locking::Off, Activation::Early),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_sweep_is_listed_twice_and_every_point_of_it_has_a_name() {
        let all = all();
        let names: BTreeSet<String> = all.iter().map(Sweep::to_string).collect();
        assert_eq!(names.len(), all.len());
        for sweep in &all {
            let point = sweep.point(7, 3);
            assert_eq!(point.to_string().parse(), Ok(point));
        }
    }
}
