//! SIGKILL of a sidecar at every durable batch of a v2, a v3 and a post-copy migration on real QEMU.
//!
//! The program counts its batches and kills itself at the given one: right before it is written
//! (all that the batch before it allowed has been sent) or right after it is durable (nothing of it
//! has been sent). The points are counted up until a migration ends without reaching one.

use phase_journal_lab::pair::{Limits, Pair, Side, Waited};
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};

use crate::scenario::{POSTCOPY, TIMEOUT, assert_one_runs, pair, restless_pair, settle};

/// More batches than a migration has; reached only if counting does not end.
const POINTS_MAX: u32 = 60;
/// Fewer batches than a migration has on either side; else the switch does not work.
const POINTS_MIN: u32 = 8;

#[derive(Clone, Copy, Debug)]
enum When {
    Before,
    After,
}

/// Who dies, and who comes back first.
#[derive(Clone, Copy, Debug)]
enum Who {
    One,
    Both { first: Side },
}

/// How the guest travels.
#[derive(Clone, Copy, Debug)]
enum Way {
    V2,
    V3,
    Postcopy,
}

impl Way {
    fn pair(self, a: RunOptions, b: RunOptions) -> Pair {
        match self {
            Way::V2 | Way::V3 => pair(a, b),
            Way::Postcopy => restless_pair(a, b),
        }
    }

    fn limits(self) -> Limits {
        let of = |protocol| Limits {
            protocol: Some(protocol),
            ..Limits::default()
        };
        match self {
            Way::V2 => of("v2"),
            Way::V3 => of("v3"),
            Way::Postcopy => POSTCOPY,
        }
    }
}

/// Runs every point of one side; prints one line of the crash matrix.
fn every_point(way: Way, side: Side, when: When, who: Who) {
    let mut ran_at = [0, 0];
    let mut points = 0;
    for point in 1..=POINTS_MAX {
        let what = format!("{way:?}, sidecar {side}, {when:?} batch {point}, {who:?}");
        match one_point(way, side, when, point, who, &what) {
            Some(Side::A) => ran_at[0] += 1,
            Some(Side::B) => ran_at[1] += 1,
            None => break,
        }
        points = point;
    }
    println!(
        "crash matrix: {way:?} | sidecar {side} | {when:?} | {who:?} | {points} points | runs at a {} | runs at b {}",
        ran_at[0], ran_at[1]
    );
    assert!(
        (POINTS_MIN..POINTS_MAX).contains(&points),
        "{points} points of {side} {when:?}"
    );
}

/// Where the guest runs in the end; `None` if the migration has no such point.
fn one_point(way: Way, side: Side, when: When, point: u32, who: Who, what: &str) -> Option<Side> {
    let crash = RunOptions::crashing(match when {
        When::Before => CrashPoint::BeforeBatch(point),
        When::After => CrashPoint::AfterBatch(point),
    });
    let plain = RunOptions::default();
    let (a, b) = match side {
        Side::A => (crash, plain.clone()),
        Side::B => (plain.clone(), crash),
    };
    let mut pair = way.pair(a, b);
    pair.migrate(Side::A, way.limits())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    match pair
        .wait_for_crash(side, TIMEOUT)
        .unwrap_or_else(|error| panic!("{what}: {error}"))
    {
        Waited::Ended(_) => {
            assert_one_runs(&mut pair, what);
            return None;
        }
        Waited::Crashed => {}
    }
    match who {
        Who::One => {
            pair.sidecar(side)
                .start(&plain)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        Who::Both { first } => {
            pair.sidecar(side.other()).kill().unwrap();
            pair.restart_both(first, &plain, &plain)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    Some(assert_one_runs(&mut pair, what))
}

#[test]
fn no_crash_at_all() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "no crash"), Side::B);
}

macro_rules! every_point {
    ($($name:ident: $way:ident $side:ident $when:ident $who:expr;)+) => {
        $(#[test]
        fn $name() {
            every_point(Way::$way, Side::$side, When::$when, $who);
        })+
    };
}

every_point!(
    source_before: V3 A Before Who::One;
    source_after: V3 A After Who::One;
    destination_before: V3 B Before Who::One;
    destination_after: V3 B After Who::One;
    both_at_source_before_source_first: V3 A Before Who::Both { first: Side::A };
    both_at_source_before_destination_first: V3 A Before Who::Both { first: Side::B };
    both_at_source_after_source_first: V3 A After Who::Both { first: Side::A };
    both_at_source_after_destination_first: V3 A After Who::Both { first: Side::B };
    both_at_destination_before_source_first: V3 B Before Who::Both { first: Side::A };
    both_at_destination_before_destination_first: V3 B Before Who::Both { first: Side::B };
    both_at_destination_after_source_first: V3 B After Who::Both { first: Side::A };
    both_at_destination_after_destination_first: V3 B After Who::Both { first: Side::B };
    v2_source_before: V2 A Before Who::One;
    v2_source_after: V2 A After Who::One;
    v2_destination_before: V2 B Before Who::One;
    v2_destination_after: V2 B After Who::One;
    v2_both_at_source_before_source_first: V2 A Before Who::Both { first: Side::A };
    v2_both_at_source_after_destination_first: V2 A After Who::Both { first: Side::B };
    postcopy_source_before: Postcopy A Before Who::One;
    postcopy_source_after: Postcopy A After Who::One;
    postcopy_destination_before: Postcopy B Before Who::One;
    postcopy_destination_after: Postcopy B After Who::One;
    postcopy_both_at_source_before_destination_first: Postcopy A Before Who::Both { first: Side::B };
    postcopy_both_at_source_after_source_first: Postcopy A After Who::Both { first: Side::A };
);

/// v2: between the source's decision and the end of its copy neither copy runs, and nobody tells the
/// destination; the source that comes back ends its copy, and then the other one runs.
#[test]
fn a_v2_source_that_decided_ends_its_copy_before_the_other_one_runs() {
    let plain = RunOptions::default();
    let decided = RunOptions::crashing(CrashPoint::AfterRecord("migration-committed".to_owned()));
    let mut pair = pair(decided, plain.clone());
    let limits = Limits {
        protocol: Some("v2"),
        ..Limits::default()
    };
    pair.migrate(Side::A, limits).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::A, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    // Decided, and neither ended nor told: the guest stands on both sides.
    let stopped = pair
        .conclude(3, std::time::Duration::from_millis(500))
        .unwrap();
    assert!(stopped.is_clean_and_stopped(), "{stopped}");
    let domains = pair.sidecar(Side::B).domains().unwrap();
    assert_eq!(domains[0].run_state.as_deref(), Some("paused"));
    pair.sidecar(Side::A).start(&plain).unwrap();
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "v2, decided"), Side::B);
}

/// A to B, and back to A, with a crash of the source's sidecar in each half at the worst moment.
#[test]
fn there_and_back_with_a_crash_in_each_half() {
    let granted = || RunOptions::crashing(CrashPoint::AfterRecord("migration-granted".to_owned()));
    let plain = RunOptions::default();
    let mut pair = pair(granted(), granted());
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::A, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    pair.sidecar(Side::A).start(&plain).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "there"), Side::B);

    pair.add_destination(Side::A).unwrap();
    pair.migrate(Side::B, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::B, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    pair.sidecar(Side::B).start(&plain).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "back"), Side::A);
}

/// The same with the destination's sidecar killed between committed and started.
#[test]
fn there_and_back_with_the_destination_killed() {
    let committed =
        || RunOptions::crashing(CrashPoint::AfterRecord("migration-committed".to_owned()));
    let plain = RunOptions::default();
    let mut pair = pair(committed(), committed());
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::B, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    pair.sidecar(Side::B).start(&plain).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "there"), Side::B);

    pair.add_destination(Side::A).unwrap();
    pair.migrate(Side::B, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::A, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    pair.sidecar(Side::A).start(&plain).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "back"), Side::A);
}

/// Between the grant and the destination's answer a source that comes back alone holds, says so,
/// and is settled by the destination's return.
#[test]
fn a_source_in_doubt_holds_until_the_destination_is_back() {
    let granted = RunOptions::crashing(CrashPoint::AfterRecord("migration-granted".to_owned()));
    let plain = RunOptions::default();
    let mut pair = pair(granted, plain.clone());
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(
        pair.wait_for_crash(Side::A, TIMEOUT).unwrap(),
        Waited::Crashed
    );
    pair.sidecar(Side::B).kill().unwrap();
    pair.sidecar(Side::A).start(&plain).unwrap();
    let domains = pair.sidecar(Side::A).domains().unwrap();
    let held = domains[0].held.as_ref().expect("a source in doubt is held");
    assert_eq!(held.rule, "source-granted-in-doubt");
    let stopped = pair
        .conclude(3, std::time::Duration::from_millis(500))
        .unwrap();
    assert!(stopped.is_clean_and_stopped(), "{stopped}");
    pair.sidecar(Side::B).start(&plain).unwrap();
    settle(&mut pair);
    assert_eq!(assert_one_runs(&mut pair, "after the hold"), Side::B);
}
