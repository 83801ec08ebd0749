//! Visits one point of the matrix: a migration, the fault, the return, and how it ended.
//!
//! Invariant: nothing is judged by the clock: a visit waits for states, and a deadline is a failure. What
//! the product says of itself is only compared with what the guest and the processes show.
//!
//! Not here: what must have become of the guest ([`super::outcome`]).

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::outcome::{self, End, Facts};
use super::{Activation, AtBatch, Disk, Fault, Guest, Point, Return, Way};
use crate::guest::{GuestImage, GuestOptions, RESTLESS_BANDWIDTH};
use crate::pair::{DOMAIN, Limits, Pair, PairOptions, Settled, Side, Waited};
use crate::sidecar::RunOptions;
use crate::{Error, until};

/// Bound of everything that is waited for; reached only by a failure.
pub(super) const TIMEOUT: Duration = Duration::from_secs(120);

/// What ends a hold by these rules is an operator's word: nothing more comes by itself.
const HOLDS_FOR_GOOD: &[&str] = &["source-perform-dead-unwatched"];

/// The hold of a source whose QEMU may still end its migration by itself, and QEMU 7.2 may never.
pub(super) const HOLD_OF_ENDING: &str = "source-postcopy-ending";
/// A QEMU that ends its migration does so at once; one that is held for so long stands still.
const STANDS_STILL: Duration = Duration::from_secs(20);

/// Reads journals beside their sidecars. The laboratory itself knows nothing of their bytes.
pub trait Journals: Sync {
    /// Whether a journal is sound.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(&self, journal: &Path) -> Result<(), String>;

    /// Its records, oldest first: each an object with the name of its `type` and the fields of its
    /// body.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn records(&self, journal: &Path) -> Result<Vec<Value>, String>;
}

/// What the visits share.
#[derive(Debug)]
pub struct Laboratory<'a, J> {
    /// Path of `phase-journald`.
    pub program: &'a Path,
    /// Who reads the journals.
    pub journals: J,
    ordinary: GuestImage,
    restless: GuestImage,
}

/// How a visit went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visited {
    /// The migration has no such batch; it went well.
    NoSuchPoint,
    /// The first batch was there, and recovery has no such second one; it went well.
    NoSecondPoint(End),
    /// It went as it must.
    Ended(End),
}

/// Why a visit failed: for people, with the logs of all processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed(pub String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed(error.to_string())
    }
}

/// Which of the crash points were reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    None,
    First,
    All,
}

impl<'a, J: Journals> Laboratory<'a, J> {
    /// A laboratory for this program.
    ///
    /// # Errors
    /// As [`GuestImage::assemble`].
    pub fn new(program: &'a Path, journals: J) -> Result<Laboratory<'a, J>, Error> {
        Ok(Laboratory {
            program,
            journals,
            ordinary: GuestImage::assemble(GuestOptions::ORDINARY)?,
            restless: GuestImage::assemble(GuestOptions::RESTLESS)?,
        })
    }

    /// Visits a point.
    ///
    /// # Errors
    /// What went otherwise than it must, with the logs.
    pub fn visit(&self, point: &Point) -> Result<Visited, Failed> {
        let mut pair = self.start(point)?;
        let visited = self.go(&mut pair, point);
        visited.map_err(|Failed(why)| {
            let report = pair.report();
            // A wait that ran out has the logs already.
            let is_there = why.contains(&report);
            Failed(if is_there {
                why
            } else {
                format!("{why}\n{report}")
            })
        })
    }

    fn start(&self, point: &Point) -> Result<Pair, Failed> {
        let plain = RunOptions::default();
        let (side, at) = match point.fault {
            Fault::None => (Side::A, None),
            Fault::Sidecar { side, at, .. } | Fault::Qemu { side, at, .. } => (side, Some(at)),
        };
        let crash = crashing(at);
        let (a, b) = match side {
            Side::A => (crash, plain),
            Side::B => (plain, crash),
        };
        let options = PairOptions {
            program: self.program,
            image: match point.way {
                Way::V2 | Way::V3 => &self.ordinary,
                // Its first pass lasts long enough to leave memory behind.
                Way::Postcopy => &self.restless,
            },
            locking: point.disk.locking,
            a,
            b,
        };
        let mut pair = match point.fault {
            Fault::Qemu {
                victim,
                watched: true,
                ..
            } => Pair::start_killing(&options, victim)?,
            Fault::None | Fault::Sidecar { .. } | Fault::Qemu { .. } => Pair::start(&options)?,
        };
        if point.guest == Guest::Paused {
            let of_domain = json!({"name": DOMAIN});
            pair.sidecar(Side::A).execute("domain-suspend", of_domain)?;
        }
        Ok(pair)
    }

    fn go(&self, pair: &mut Pair, point: &Point) -> Result<Visited, Failed> {
        pair.migrate(Side::A, limits(point.way))?;
        let mut unwatched = None;
        let reached = match point.fault {
            Fault::None => Reached::None,
            Fault::Sidecar {
                side, back, again, ..
            } => self.kill_sidecars(pair, point, side, back, again)?,
            Fault::Qemu {
                side,
                watched: true,
                ..
            } => {
                // The sidecar does it, and does not end by that: all that can be waited for is the end.
                wait_until_struck_or_over(pair, point.disk, side)?;
                let struck = pair.sidecar(side).has_struck()?;
                if struck { Reached::All } else { Reached::None }
            }
            Fault::Qemu { victim, side, .. } => {
                let crashed = wait_for_crash(pair, point.disk, side)? == Waited::Crashed;
                if crashed {
                    pair.qemu(victim).kill()?;
                    if (victim, side) == (Side::A, Side::A) {
                        unwatched = Some(Facts::read(pair, &self.journals)?.0);
                    }
                    pair.sidecar(side).start(&RunOptions::default())?;
                }
                if crashed { Reached::All } else { Reached::None }
            }
        };
        let settled = come_to_rest(pair, point)?;
        let end = outcome::judge(
            pair,
            &self.journals,
            point,
            reached != Reached::None,
            unwatched,
            &settled,
        )?;
        Ok(match (reached, point.fault) {
            (Reached::None, Fault::None) | (Reached::All, _) => Visited::Ended(end),
            (Reached::None, _) => Visited::NoSuchPoint,
            (Reached::First, _) => Visited::NoSecondPoint(end),
        })
    }

    fn kill_sidecars(
        &self,
        pair: &mut Pair,
        point: &Point,
        side: Side,
        back: Return,
        again: Option<AtBatch>,
    ) -> Result<Reached, Failed> {
        if wait_for_crash(pair, point.disk, side)? != Waited::Crashed {
            return Ok(Reached::None);
        }
        let start = |pair: &mut Pair, who: Side| {
            let at = again.filter(|_| who == side);
            start_or_crash(pair, who, &crashing(at))
        };
        match back {
            Return::Itself => start(pair, side)?,
            Return::Both(first) => {
                pair.sidecar(side.other()).kill()?;
                start(pair, first)?;
                start(pair, first.other())?;
            }
            Return::LongBefore(first) => {
                pair.sidecar(side.other()).kill()?;
                start(pair, first)?;
                rest_alone(pair, first)?;
                start(pair, first.other())?;
            }
        }
        if again.is_none() {
            return Ok(Reached::All);
        }
        // Also one that never became ready is seen dead here.
        if pair.wait_for_crash(side, TIMEOUT)? != Waited::Crashed {
            return Ok(Reached::First);
        }
        pair.sidecar(side).start(&RunOptions::default())?;
        Ok(Reached::All)
    }
}

fn crashing(at: Option<AtBatch>) -> RunOptions {
    RunOptions {
        crash: at.map(AtBatch::crash_point),
        ..RunOptions::default()
    }
}

fn limits(way: Way) -> Limits {
    match way {
        Way::V2 => Limits {
            protocol: Some("v2"),
            ..Limits::default()
        },
        Way::V3 => Limits {
            protocol: Some("v3"),
            ..Limits::default()
        },
        Way::Postcopy => Limits {
            max_bandwidth: Some(RESTLESS_BANDWIDTH),
            postcopy: true,
            ..Limits::default()
        },
    }
}

/// Waits for the crash; where the destination is to take the image early, the capability is cleared as
/// soon as the sidecar has set it.
fn wait_for_crash(pair: &mut Pair, disk: Disk, side: Side) -> Result<Waited, Error> {
    let is_cleared = Cell::new(disk.activation == Activation::Late);
    pair.wait_for_crash_doing(side, TIMEOUT, |pair| {
        if !is_cleared.get() {
            is_cleared.set(clear_late_activation(pair)?);
        }
        Ok(())
    })
}

const SIGKILL: i32 = 9;
const LATE_ACTIVATION: &str = "late-block-activate";

/// Whether it was set, and is cleared now. A QEMU that is gone needs nothing.
fn clear_late_activation(pair: &mut Pair) -> Result<bool, Error> {
    let qemu = pair.qemu(Side::B);
    if !qemu.is_alive()? {
        return Ok(true);
    }
    let monitor = qemu.monitor();
    let capabilities = match monitor.execute("query-migrate-capabilities", json!({})) {
        Ok(capabilities) => capabilities,
        Err(Error::Closed { .. } | Error::Io { .. }) => return Ok(true),
        Err(other) => return Err(other),
    };
    let is_set = |one: &Value| one["capability"] == LATE_ACTIVATION && one["state"] == true;
    if !capabilities
        .as_array()
        .is_some_and(|all| all.iter().any(is_set))
    {
        return Ok(false);
    }
    let clear = json!({"capabilities": [{"capability": LATE_ACTIVATION, "state": false}]});
    match monitor.execute("migrate-set-capabilities", clear) {
        // Too late: the stream has come, and the guest may run.
        Ok(_) | Err(Error::Refused { .. } | Error::Closed { .. } | Error::Io { .. }) => Ok(true),
        Err(other) => Err(other),
    }
}

/// Starts a run. It may reach its crash point, if it has one, before it is ready.
fn start_or_crash(pair: &mut Pair, side: Side, options: &RunOptions) -> Result<(), Error> {
    match pair.sidecar(side).start(options) {
        Err(Error::Died { status, .. }) if options.crash.is_some() && was_killed(status) => Ok(()),
        other => other,
    }
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}

/// Waits until a sidecar whose peer is dead has done what it can: no job is open but held ones, and it
/// has looked for its peer in vain; or until it is dead.
fn rest_alone(pair: &mut Pair, side: Side) -> Result<(), Error> {
    let mut last = None;
    until(&format!("rest of sidecar {side}"), TIMEOUT, || {
        let view = match pair.view(side) {
            Ok(view) => view,
            Err(Error::Closed { .. } | Error::Io { .. }) => return Ok(Some(())),
            Err(other) => return Err(other),
        };
        let is_same = last.as_ref() == Some(&view);
        let is_at_rest = is_same && view.is_settled();
        last = Some(view);
        Ok(is_at_rest.then_some(()))
    })
}

fn wait_until_struck_or_over(pair: &mut Pair, disk: Disk, side: Side) -> Result<(), Error> {
    let mut is_cleared = disk.activation == Activation::Late;
    until("the crash point, or the end", TIMEOUT, || {
        if !is_cleared {
            is_cleared = clear_late_activation(pair)?;
        }
        if pair.sidecar(side).has_struck()? {
            return Ok(Some(()));
        }
        let settled = pair.wait_until_settled(TIMEOUT)?;
        Ok((settled.open_jobs() == 0 && kept(pair)? == 0).then_some(()))
    })
}

/// Outcomes that one side keeps for the other. While there are any, words are still on their way.
fn kept(pair: &mut Pair) -> Result<u64, Error> {
    let mut kept = 0;
    for side in Side::BOTH {
        kept += pair.sidecar(side).kept_migrations()?;
    }
    Ok(kept)
}

/// Waits until no job is open; where a QEMU was killed, a hold that only an operator ends is an end too.
fn come_to_rest(pair: &mut Pair, point: &Point) -> Result<Settled, Failed> {
    let Fault::Qemu { .. } = point.fault else {
        return Ok(pair.wait_until_no_job_is_open(TIMEOUT)?);
    };
    let mut last = None;
    let mut ending_since = None;
    let rest = until("an end, or a hold for good", TIMEOUT, || {
        let settled = pair.wait_until_settled(TIMEOUT)?;
        let held = settled.held();
        let is_held_by = |rule: &str| held.iter().any(|(_, held)| held.rule == rule);
        let stands_still = is_held_by(HOLD_OF_ENDING)
            && ending_since.get_or_insert_with(Instant::now).elapsed() >= STANDS_STILL;
        let is_over = (settled.open_jobs() == 0 && kept(pair)? == 0)
            || stands_still
            || HOLDS_FOR_GOOD.iter().any(|rule| is_held_by(rule));
        last = Some(settled.clone());
        Ok(is_over.then_some(settled))
    });
    rest.map_err(|error| Failed(format!("{error}\nlast seen: {last:?}")))
}
