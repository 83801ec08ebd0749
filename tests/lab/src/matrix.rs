//! The crash matrix: each point is one migration with one fault, by a name that can be typed in again.
//!
//! Invariant: a point's name says all of it; what is read from a name prints as that name.
//!
//! Not here: which points are worth visiting together ([`sweep`]), how one is visited ([`visit`]), and
//! what must have become of the guest ([`outcome`]).

use std::fmt;
use std::str::FromStr;

use crate::pair::Side;
use crate::qemu::Locking;
use crate::sidecar::CrashPoint;

pub mod outcome;
pub mod sweep;
pub mod visit;

/// How the guest travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Protocol v2, pre-copy.
    V2,
    /// Protocol v3, pre-copy.
    V3,
    /// Protocol v3, post-copy after the first pass.
    Postcopy,
}

/// What the guest's owner wants, set before the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// It runs.
    Running,
    /// It was paused.
    Paused,
}

/// When the destination takes the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// When it runs: as the sidecar sets it (late-block-activate).
    Late,
    /// As soon as its copy is whole: somebody clears the capability.
    Early,
}

/// The shared raw disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Whether QEMU locks it.
    pub locking: Locking,
    /// When the destination takes it.
    pub activation: Activation,
}

impl Disk {
    /// Without locks nothing but the sidecars keeps two copies from running.
    pub const PLAIN: Disk = Disk {
        locking: Locking::Off,
        activation: Activation::Late,
    };
}

/// On which side of a batch's becoming durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// All that the batch before it allowed has been sent.
    Before,
    /// Nothing of it has been sent.
    After,
}

/// A batch of a sidecar's run, counted among those about a migration, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtBatch {
    /// Before it is written, or after it is durable.
    pub when: When,
    /// Its number.
    pub batch: u32,
}

impl AtBatch {
    /// The same as a switch of the sidecar.
    pub fn crash_point(self) -> CrashPoint {
        match self.when {
            When::Before => CrashPoint::BeforeBatch(self.batch),
            When::After => CrashPoint::AfterBatch(self.batch),
        }
    }
}

/// Who comes back after a sidecar's crash, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// The other one lived on.
    Itself,
    /// The other one died too; both come back, this one first.
    Both(Side),
    /// The same, and the second one only when the first has come to rest alone.
    LongBefore(Side),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// A sidecar is killed.
    Sidecar {
        /// Whose.
        side: Side,
        /// Where.
        at: AtBatch,
        /// How the sidecars come back.
        back: Return,
        /// Where the one that was killed is killed again, in the run that recovers.
        again: Option<AtBatch>,
    },
    /// A QEMU is killed.
    Qemu {
        /// Whose.
        victim: Side,
        /// At a batch of whose sidecar.
        side: Side,
        /// Where.
        at: AtBatch,
        /// Whether both sidecars live through it; else that one dies there first, and comes back.
        watched: bool,
    },
}

/// One migration with one fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// How the guest travels.
    pub way: Way,
    /// What its owner wants.
    pub guest: Guest,
    /// Its disk.
    pub disk: Disk,
    /// What happens.
    pub fault: Fault,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::V2 => "v2",
            Way::V3 => "v3",
            Way::Postcopy => "postcopy",
        })
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guest::Running => "running",
            Guest::Paused => "paused",
        })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let locking = match self.locking {
            Locking::On => "locked",
            Locking::Off => "unlocked",
        };
        let activation = match self.activation {
            Activation::Late => "late",
            Activation::Early => "early",
        };
        write!(f, "{locking}-{activation}")
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            When::Before => "before",
            When::After => "after",
        })
    }
}

impl fmt::Display for AtBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.when, self.batch)
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Return::Itself => f.write_str("itself"),
            Return::Both(first) => write!(f, "both-{first}-first"),
            Return::LongBefore(first) => write!(f, "both-{first}-long-before"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::None => f.write_str("none"),
            Fault::Sidecar {
                side,
                at,
                back,
                again,
            } => {
                write!(f, "sidecar-{side}/{at}/{back}")?;
                match again {
                    None => Ok(()),
                    Some(again) => write!(f, "/again-{again}"),
                }
            }
            Fault::Qemu {
                victim,
                side,
                at,
                watched,
            } => {
                let how = if *watched { "watched" } else { "unwatched" };
                write!(f, "qemu-{victim}/{how}-{side}/{at}")
            }
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.way, self.guest, self.disk, self.fault
        )
    }
}

/// A text that names no point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSuchPoint {
    /// The text.
    pub text: String,
    /// The part that was not understood.
    pub part: String,
}

impl fmt::Display for NoSuchPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is no point of the matrix: '{}'",
            self.text, self.part
        )
    }
}

impl std::error::Error for NoSuchPoint {}

impl FromStr for Point {
    type Err = NoSuchPoint;

    fn from_str(text: &str) -> Result<Point, NoSuchPoint> {
        let parts: Vec<&str> = text.split('/').collect();
        let wrong = |part: &str| NoSuchPoint {
            text: text.to_owned(),
            part: part.to_owned(),
        };
        let [way, guest, disk, fault @ ..] = parts.as_slice() else {
            return Err(wrong(text));
        };
        let fault_text = || wrong(&fault.join("/"));
        Ok(Point {
            way: read_way(way).ok_or_else(|| wrong(way))?,
            guest: read_guest(guest).ok_or_else(|| wrong(guest))?,
            disk: read_disk(disk).ok_or_else(|| wrong(disk))?,
            fault: read_fault(fault).ok_or_else(fault_text)?,
        })
    }
}

fn read_way(text: &str) -> Option<Way> {
    match text {
        "v2" => Some(Way::V2),
        "v3" => Some(Way::V3),
        "postcopy" => Some(Way::Postcopy),
        _ => None,
    }
}

fn read_guest(text: &str) -> Option<Guest> {
    match text {
        "running" => Some(Guest::Running),
        "paused" => Some(Guest::Paused),
        _ => None,
    }
}

fn read_disk(text: &str) -> Option<Disk> {
    let (locking, activation) = text.split_once('-')?;
    let locking = match locking {
        "locked" => Locking::On,
        "unlocked" => Locking::Off,
        _ => return None,
    };
    let activation = match activation {
        "late" => Activation::Late,
        "early" => Activation::Early,
        _ => return None,
    };
    Some(Disk {
        locking,
        activation,
    })
}

fn read_side(text: &str) -> Option<Side> {
    match text {
        "a" => Some(Side::A),
        "b" => Some(Side::B),
        _ => None,
    }
}

fn read_at(text: &str) -> Option<AtBatch> {
    let (when, batch) = text.split_once('-')?;
    let when = match when {
        "before" => When::Before,
        "after" => When::After,
        _ => return None,
    };
    let batch = batch.parse().ok().filter(|batch| *batch > 0)?;
    Some(AtBatch { when, batch })
}

fn read_back(text: &str) -> Option<Return> {
    if text == "itself" {
        return Some(Return::Itself);
    }
    let (first, order) = text.strip_prefix("both-")?.split_once('-')?;
    let first = read_side(first)?;
    match order {
        "first" => Some(Return::Both(first)),
        "long-before" => Some(Return::LongBefore(first)),
        _ => None,
    }
}

fn read_fault(parts: &[&str]) -> Option<Fault> {
    match parts {
        ["none"] => Some(Fault::None),
        [who, at, how, again @ ..] if who.starts_with("sidecar-") => Some(Fault::Sidecar {
            side: read_side(who.strip_prefix("sidecar-")?)?,
            at: read_at(at)?,
            back: read_back(how)?,
            again: match again {
                [] => None,
                [again] => Some(read_at(again.strip_prefix("again-")?)?),
                _ => return None,
            },
        }),
        [victim, how, at] => {
            let (how, side) = how.split_once('-')?;
            Some(Fault::Qemu {
                victim: read_side(victim.strip_prefix("qemu-")?)?,
                side: read_side(side)?,
                at: read_at(at)?,
                watched: match how {
                    "watched" => true,
                    "unwatched" => false,
                    _ => return None,
                },
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_all_of_a_point() {
        for name in [
            "v3/running/unlocked-late/none",
            "v2/paused/locked-early/sidecar-a/before-7/itself",
            "postcopy/running/locked-late/sidecar-b/after-12/both-a-first",
            "v3/running/unlocked-early/sidecar-b/after-1/both-b-long-before",
            "v3/running/unlocked-late/sidecar-a/before-7/itself/again-after-3",
            "v2/running/unlocked-late/qemu-a/watched-b/after-3",
            "postcopy/paused/unlocked-late/qemu-b/unwatched-a/before-9",
        ] {
            let point: Point = name.parse().unwrap();
            assert_eq!(point.to_string(), name);
        }
    }

    #[test]
    fn what_names_no_point_is_refused_with_the_part() {
        for (name, part) in [
            ("v3", "v3"),
            ("v4/running/unlocked-late/none", "v4"),
            ("v3/asleep/unlocked-late/none", "asleep"),
            ("v3/running/unlocked/none", "unlocked"),
            ("v3/running/unlocked-late", ""),
            (
                "v3/running/unlocked-late/sidecar-a/before-0/itself",
                "sidecar-a/before-0/itself",
            ),
            (
                "v3/running/unlocked-late/qemu-c/watched-a/after-3",
                "qemu-c/watched-a/after-3",
            ),
        ] {
            let refused = name.parse::<Point>().unwrap_err();
            assert_eq!(refused.part, part, "{refused}");
        }
    }
}
