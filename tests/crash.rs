//! SIGKILL of a sidecar at every durable batch of a v2, a v3 and a post-copy migration on real QEMU.
//!
//! The program counts its batches and kills itself at the given one: right before it is written
//! (all that the batch before it allowed has been sent) or right after it is durable (nothing of it
//! has been sent). The points are counted up until a migration ends without reaching one. A slice of the
//! laboratory's matrix, all of which `tools/soak` goes through.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

use phase_journal::journal::OsDisk;
use phase_journal::journal::verify::{Verdict, verify};
use phase_journal_lab::matrix::outcome::Place;
use phase_journal_lab::matrix::sweep::{BATCHES_MAX, Kind, Sweep};
use phase_journal_lab::matrix::visit::{Journals, Laboratory, Visited};
use phase_journal_lab::matrix::{Return, Way, When};
use phase_journal_lab::pair::{Limits, Side, Waited};
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};
use serde_json::Value;

use crate::scenario::{TIMEOUT, assert_one_runs, pair, program, records_in, settle};

/// Fewer batches than a migration has on either side; else the switch does not work.
const POINTS_MIN: u32 = 8;

static LABORATORY: LazyLock<Laboratory<'static, ByLibrary>> =
    LazyLock::new(|| Laboratory::new(program(), ByLibrary).expect("the guests are assembled"));

/// Reads journals with the library itself.
#[derive(Debug)]
struct ByLibrary;

impl Journals for ByLibrary {
    fn check(&self, journal: &Path) -> Result<(), String> {
        let report = verify(OsDisk::new(journal)).map_err(|error| error.to_string())?;
        match report.verdict() {
            Verdict::Damaged => Err(format!("{report:?}")),
            _ => Ok(()),
        }
    }

    fn records(&self, journal: &Path) -> Result<Vec<Value>, String> {
        let value = |body| serde_json::to_value(body).map_err(|error| error.to_string());
        records_in(journal).into_iter().map(value).collect()
    }
}

/// Visits every point of a sweep; of two that differ only in who comes back first, every other one in turn. Prints one
/// line of the crash matrix.
fn every_point(way: Way, kind: Kind) {
    let sweep = Sweep::plain(way, kind);
    let (first, step) = match kind {
        Kind::Sidecar { back, .. } => match back {
            Return::Both(Side::A) => (1, 2),
            Return::Both(Side::B) => (2, 2),
            _ => (1, 1),
        },
        Kind::None | Kind::Again { .. } | Kind::Qemu { .. } => (1, 1),
    };
    let mut ended = [0, 0];
    let whole = sweep.go_every(first, step, &LABORATORY, |point, visited| {
        match visited {
            Ok(Visited::Ended(end)) => match end.place {
                Place::At(Side::A) => ended[0] += 1,
                Place::At(Side::B) => ended[1] += 1,
                place => panic!("{point}: the guest is {place}"),
            },
            Ok(Visited::NoSuchPoint | Visited::NoSecondPoint(_)) => {}
            Err(failed) => panic!("{point}: {failed}"),
        }
        ControlFlow::Continue(())
    });
    assert!(whole.is_continue());
    let points = ended[0] + ended[1];
    println!(
        "crash matrix: {sweep} | {points} points | at a {} | at b {}",
        ended[0], ended[1]
    );
    let least = POINTS_MIN / u32::try_from(step).unwrap();
    assert!(
        (least..BATCHES_MAX).contains(&points),
        "{points} points of {sweep}"
    );
}

fn killed(side: Side, when: When, back: Return) -> Kind {
    Kind::Sidecar { side, when, back }
}

#[test]
fn no_crash_at_all() {
    let mut pair = pair(RunOptions::default(), RunOptions::default());
    pair.migrate(Side::A, Limits::default()).unwrap();
    assert_eq!(assert_one_runs(&mut pair, "no crash"), Side::B);
}

macro_rules! every_point {
    ($($name:ident: $way:ident $side:ident $when:ident $back:expr;)+) => {
        $(#[test]
        fn $name() {
            every_point(Way::$way, killed(Side::$side, When::$when, $back));
        })+
    };
}

every_point!(
    source_before: V3 A Before Return::Itself;
    source_after: V3 A After Return::Itself;
    destination_before: V3 B Before Return::Itself;
    destination_after: V3 B After Return::Itself;
    both_at_source_before_source_first: V3 A Before Return::Both(Side::A);
    both_at_source_before_destination_first: V3 A Before Return::Both(Side::B);
    both_at_source_after_source_first: V3 A After Return::Both(Side::A);
    both_at_source_after_destination_first: V3 A After Return::Both(Side::B);
    both_at_destination_before_source_first: V3 B Before Return::Both(Side::A);
    both_at_destination_before_destination_first: V3 B Before Return::Both(Side::B);
    both_at_destination_after_source_first: V3 B After Return::Both(Side::A);
    both_at_destination_after_destination_first: V3 B After Return::Both(Side::B);
    v2_source_before: V2 A Before Return::Itself;
    v2_source_after: V2 A After Return::Itself;
    v2_destination_before: V2 B Before Return::Itself;
    v2_destination_after: V2 B After Return::Itself;
    v2_both_at_source_before_source_first: V2 A Before Return::Both(Side::A);
    v2_both_at_source_after_destination_first: V2 A After Return::Both(Side::B);
    postcopy_source_before: Postcopy A Before Return::Itself;
    postcopy_source_after: Postcopy A After Return::Itself;
    postcopy_destination_before: Postcopy B Before Return::Itself;
    postcopy_destination_after: Postcopy B After Return::Itself;
    postcopy_both_at_source_before_destination_first: Postcopy A Before Return::Both(Side::B);
    postcopy_both_at_source_after_source_first: Postcopy A After Return::Both(Side::A);
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
