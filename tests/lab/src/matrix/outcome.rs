//! What must have become of a guest at a point of the matrix.
//!
//! Invariant: the guest's own numbers and the processes are the evidence. Of the journals only the durable
//! facts are taken (granted, committed, started, aborted): they say which of the right ends must be.
//!
//! Not here: how it came about ([`super::visit`]).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::visit::{Failed, HOLD_OF_ENDING, Journals, TIMEOUT};
use super::{Fault, Guest, Point, Way};
use crate::pair::{DOMAIN, Pair, Settled, Side};

/// Numbers that the guest must print to count as running.
const NUMBERS: u32 = 5;
/// How long one that must not run is watched: some 30 numbers.
const STOPPED_FOR: Duration = Duration::from_millis(300);

/// Where the guest is in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// There, as its owner wants it, and nowhere else.
    At(Side),
    /// Both QEMUs are dead.
    Gone,
    /// Not known to be whole, or the newest: stopped until an operator says.
    Held,
}

/// How a visit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Where the guest is.
    pub place: Place,
    /// How many decisions to hold were made on the way, by rule.
    pub holds: BTreeMap<String, u32>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::At(side) => write!(f, "at {side}"),
            Place::Gone => f.write_str("gone"),
            Place::Held => f.write_str("held"),
        }
    }
}

/// The durable facts of a migration, of both journals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The source: everything was sent, and the licence may go out.
    granted: bool,
    /// The source meant to go over for good (post-copy).
    continued: bool,
    /// The source, v2: it decided.
    decided: bool,
    /// The destination took the licence.
    committed: bool,
    /// The destination runs the guest, or may have.
    started: bool,
    /// The destination never runs it.
    aborted: bool,
    /// The destination's copy was seen to be whole.
    whole: bool,
}

impl Facts {
    /// What both journals say now, and all their records.
    pub(super) fn read(
        pair: &mut Pair,
        journals: &impl Journals,
    ) -> Result<(Facts, Vec<Value>), Failed> {
        let mut both = [Vec::new(), Vec::new()];
        for (side, records) in Side::BOTH.into_iter().zip(&mut both) {
            let journal = pair.sidecar(side).journal();
            let wrong = |why| Failed(format!("journal of {side}: {why}"));
            journals.check(journal).map_err(wrong)?;
            *records = journals.records(journal).map_err(wrong)?;
        }
        let [a, b] = both;
        let is = |record: &Value, name: &str| record["type"] == name;
        let has = |records: &[Value], name: &str| records.iter().any(|one| is(one, name));
        let intends = |one: &Value| {
            is(one, "effect-intended") && one["command"].to_string().contains("migrate-continue")
        };
        let is_whole =
            |one: &Value| is(one, "qemu-observed") && one["observed"]["migration"] == "completed";
        let facts = Facts {
            granted: has(&a, "migration-granted"),
            continued: a.iter().any(intends),
            decided: has(&a, "migration-committed"),
            committed: has(&b, "migration-committed"),
            started: has(&b, "migration-started"),
            aborted: has(&b, "migration-aborted"),
            whole: b.iter().any(is_whole),
        };
        Ok((facts, [a, b].concat()))
    }

    /// Whether the source may never run again.
    fn is_forward(&self, way: Way) -> bool {
        match way {
            Way::V2 => self.decided,
            Way::V3 | Way::Postcopy => self.granted,
        }
    }
}

/// Judges what a visit left behind. `unwatched`: what was durable when the source's QEMU died with its
/// sidecar dead, so that nobody can say whether it had run on.
pub(super) fn judge(
    pair: &mut Pair,
    journals: &impl Journals,
    point: &Point,
    was_struck: bool,
    unwatched: Option<Facts>,
    settled: &Settled,
) -> Result<End, Failed> {
    let place = place(pair, point.guest, settled)?;
    let (facts, records) = Facts::read(pair, journals)?;
    let forward = facts.is_forward(point.way);
    let right = match point.fault {
        _ if !was_struck => place == Place::At(Side::B),
        Fault::None | Fault::Sidecar { .. } => {
            place == Place::At(if forward { Side::B } else { Side::A })
        }
        Fault::Qemu { victim, .. } => match victim {
            Side::A => {
                let ran_on = unwatched.is_some_and(|before| !before.is_forward(point.way));
                is_right_without_source(point.way, &facts, place)
                    && !(ran_on && place == Place::At(Side::B))
            }
            Side::B => {
                is_right_without_destination(point.way, &facts, place)
                    || (is_held_as_ending(settled)
                        && is_right_standing_still(point.way, &facts, place))
            }
        },
    };
    if !right {
        return Err(Failed(format!("the guest is {place}, with {facts:?}")));
    }
    agree(pair, point, place)?;
    Ok(End {
        place,
        holds: holds(&records),
    })
}

/// The source's QEMU was killed: a guest that had gone over is at the destination; one that had not is
/// gone; and a copy at the destination that may be old is held, never run and never ended.
fn is_right_without_source(way: Way, facts: &Facts, place: Place) -> bool {
    let forward = facts.is_forward(way);
    match place {
        Place::At(Side::A) => false,
        Place::At(Side::B) => forward,
        Place::Held => !forward && facts.whole,
        // While the guest is split, neither half is one.
        Place::Gone if way == Way::Postcopy => facts.continued || !forward,
        // v2's own window: it committed, and the destination's copy was gone by itself.
        Place::Gone => !forward && !facts.whole,
    }
}

/// The destination's QEMU was killed: the source runs on, unless the guest may have run over there.
fn is_right_without_destination(way: Way, facts: &Facts, place: Place) -> bool {
    let ran = match way {
        Way::V2 => facts.decided,
        Way::V3 => facts.started,
        Way::Postcopy => facts.continued,
    };
    match place {
        Place::At(Side::A) => !facts.started && (way != Way::V2 || !facts.decided),
        Place::At(Side::B) | Place::Held => false,
        Place::Gone => ran,
    }
}

/// The destination's QEMU was killed as the source's began to go over by post-copy, and that one stands still for
/// ever in `postcopy-active` (QEMU 7.2): whether it has the whole guest, only it knows.
fn is_right_standing_still(way: Way, facts: &Facts, place: Place) -> bool {
    way == Way::Postcopy && place == Place::Held && facts.continued && !facts.started
}

/// Where the guest is, by the processes and by what it prints: at most one copy runs, and it has lost
/// nothing; one that its owner paused does not run, and can.
fn place(pair: &mut Pair, guest: Guest, settled: &Settled) -> Result<Place, Failed> {
    let mut alive = Vec::new();
    for side in Side::BOTH {
        if pair.qemu(side).is_alive()? && !is_untouched(pair, side)? {
            alive.push((side, pair.qemu(side).run_state()?));
        }
    }
    let running = |alive: &[(Side, String)]| -> Vec<Side> {
        let runs = alive.iter().filter(|(_, state)| state == "running");
        runs.map(|(side, _)| *side).collect()
    };
    let show = |why: &str| Failed(format!("{why}: {alive:?}, {settled:?}"));
    let is_held = settled.open_jobs() > 0;
    let place = match (running(&alive).as_slice(), alive.as_slice(), guest) {
        ([], [], _) if !is_held => Place::Gone,
        ([], _, _) if is_held => Place::Held,
        ([side], [_], Guest::Running) if !is_held => Place::At(*side),
        ([], [(side, _)], Guest::Paused) => Place::At(*side),
        _ => return Err(show("not one copy as it is wanted, and not held")),
    };
    if let (Place::At(side), Guest::Paused) = (place, guest) {
        assert_stopped(pair)?;
        let of_domain = json!({"name": DOMAIN});
        pair.sidecar(side).execute("domain-resume", of_domain)?;
    }
    match place {
        Place::At(_) => {
            let conclusion = pair.conclude(NUMBERS, TIMEOUT)?;
            if !conclusion.is_clean_and_running() {
                return Err(Failed(conclusion.to_string()));
            }
        }
        Place::Gone | Place::Held => assert_stopped(pair)?,
    }
    Ok(place)
}

/// A destination that the migration never came to still waits for one.
fn is_untouched(pair: &mut Pair, side: Side) -> Result<bool, Failed> {
    let jobs = pair.sidecar(side).jobs(Some(DOMAIN))?;
    Ok(jobs.is_empty() && pair.qemu(side).run_state()? == "inmigrate")
}

fn assert_stopped(pair: &Pair) -> Result<(), Failed> {
    let conclusion = pair.conclude(NUMBERS, STOPPED_FOR)?;
    if conclusion.is_clean_and_stopped() {
        Ok(())
    } else {
        Err(Failed(conclusion.to_string()))
    }
}

fn is_held_as_ending(settled: &Settled) -> bool {
    let held = settled.held();
    held.iter()
        .any(|(side, held)| *side == Side::A && held.rule == HOLD_OF_ENDING)
}

fn is_victim(point: &Point, side: Side) -> bool {
    matches!(point.fault, Fault::Qemu { victim, .. } if victim == side)
}

/// The sidecars say what is: jobs that completed are those of a guest that went over.
fn agree(pair: &mut Pair, point: &Point, place: Place) -> Result<(), Failed> {
    for side in Side::BOTH {
        // A source that died in post-copy leaves it to the destination to say whether all went over.
        if point.way == Way::Postcopy && is_victim(point, side) {
            continue;
        }
        for job in pair.sidecar(side).jobs(Some(DOMAIN))? {
            let completed = job.result.as_deref() == Some("completed");
            let is_right = match place {
                Place::At(Side::A) => !completed,
                Place::At(Side::B) => completed,
                // The guest may have gone over and died there.
                Place::Gone | Place::Held => true,
            };
            if !is_right {
                return Err(Failed(format!("the guest is {place}, but {job:?}")));
            }
        }
    }
    Ok(())
}

fn holds(records: &[Value]) -> BTreeMap<String, u32> {
    let mut holds = BTreeMap::new();
    for record in records {
        if record["type"] == "decided" && record["decision"] == "hold" {
            let rule = record["rule"].as_str().unwrap_or("without a rule");
            *holds.entry(rule.to_owned()).or_default() += 1;
        }
    }
    holds
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Place = Place::At(Side::A);
    const B: Place = Place::At(Side::B);

    /// The places that are right, of all four.
    fn right(is_right: impl Fn(Place) -> bool) -> Vec<Place> {
        let all = [A, B, Place::Gone, Place::Held];
        all.into_iter().filter(|place| is_right(*place)).collect()
    }

    #[test]
    fn without_its_source_a_guest_is_where_the_licence_says() {
        let nothing = Facts::default();
        let whole = Facts {
            whole: true,
            ..nothing
        };
        let granted = Facts {
            granted: true,
            continued: true,
            ..whole
        };
        let of = |way, facts: Facts| right(|place| is_right_without_source(way, &facts, place));
        assert_eq!(of(Way::V3, nothing), [Place::Gone]);
        assert_eq!(of(Way::V3, whole), [Place::Held]);
        assert_eq!(of(Way::V3, granted), [B]);
        assert_eq!(of(Way::V2, whole), [Place::Held]);
        assert_eq!(of(Way::V2, granted), [Place::Held], "v2 has no such fact");
        assert_eq!(of(Way::Postcopy, granted), [B, Place::Gone]);
    }

    #[test]
    fn without_its_destination_a_guest_is_back_unless_it_ran_there() {
        let nothing = Facts::default();
        let started = Facts {
            granted: true,
            continued: true,
            committed: true,
            started: true,
            ..nothing
        };
        let of =
            |way, facts: Facts| right(|place| is_right_without_destination(way, &facts, place));
        assert_eq!(of(Way::V3, nothing), [A]);
        assert_eq!(of(Way::V3, started), [Place::Gone]);
        assert_eq!(of(Way::V2, nothing), [A]);
        let decided = Facts {
            decided: true,
            ..nothing
        };
        assert_eq!(of(Way::V2, decided), [Place::Gone]);
        assert_eq!(of(Way::Postcopy, nothing), [A]);
        assert_eq!(of(Way::Postcopy, started), [Place::Gone]);
    }

    #[test]
    fn a_source_may_stand_still_only_between_going_over_and_the_start() {
        let continued = Facts {
            continued: true,
            ..Facts::default()
        };
        let started = Facts {
            started: true,
            ..continued
        };
        let of = |way, facts: Facts| right(|place| is_right_standing_still(way, &facts, place));
        assert_eq!(of(Way::Postcopy, continued), [Place::Held]);
        assert_eq!(of(Way::Postcopy, Facts::default()), []);
        assert_eq!(of(Way::Postcopy, started), []);
        assert_eq!(of(Way::V3, continued), []);
    }
}
