//! A slice of the simulator for every day, and the seeds that found something.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::exhaustive::{self, SUBJECTS};
use super::mutants::MUTANTS;
use super::{Fleet, Latencies, Mix, Rates, Shape, minimise, promise_of, run, run_plan};

/// Small enough for a build without optimisation.
fn shape() -> Shape {
    Shape {
        domains: 3,
        minutes: 1,
        ..Shape::default()
    }
}

#[test]
fn nothing_fails_and_every_migration_completes() {
    let shape = Shape {
        faults: Rates::NONE,
        ..shape()
    };
    let outcome = run(1, &shape);
    assert_eq!(outcome.broken, None);
    let coverage = &outcome.coverage;
    assert!(coverage.migrations > 50, "{coverage:?}");
    let completed = coverage.results.get("completed").copied();
    assert_eq!(completed, Some(coverage.migrations), "{coverage:?}");
    // A tenth of what is done to a guest is something else.
    assert!(coverage.jobs > 5, "{coverage:?}");
}

/// More other jobs than migrations: each kind of them comes to its end, and leaves nothing.
#[test]
fn nothing_fails_and_every_other_job_ends() {
    let shape = Shape {
        faults: Rates::NONE,
        migrations: Mix {
            jobs: 900_000,
            ..Mix::default()
        },
        ..shape()
    };
    let outcome = run(2, &shape);
    assert_eq!(outcome.broken, None);
    assert!(outcome.coverage.jobs > 100, "{:?}", outcome.coverage);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let (one, other) = (run(3, &shape()), run(3, &shape()));
    assert_eq!(one.digest, other.digest);
    assert_eq!(one.coverage, other.coverage);
    assert_ne!(one.digest, run(4, &shape()).digest);
}

/// The same worlds every day.
#[test]
fn worlds_of_every_day_break_no_promise() {
    const SEEDS: [u64; 3] = [1, 3, 4];
    for seed in SEEDS {
        let outcome = run(seed, &shape());
        assert_eq!(outcome.broken, None, "seed={seed}");
        assert!(outcome.coverage.migrations > 0, "seed={seed}");
    }
}

/// Worlds that nobody saw before. What one of them breaks is told again by its seed, with
/// `phase-journal sim --seed N --domains 3 --minutes 1`.
#[test]
fn fresh_worlds_break_no_promise() {
    const WORLDS: u64 = 4;
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let first = since_1970.as_secs() * WORLDS;
    for seed in first..first + WORLDS {
        println!("seed={seed}");
        let outcome = run(seed, &shape());
        assert_eq!(outcome.broken, None, "seed={seed}");
    }
}

/// Seeds of the shape above, with so many guests, that once broke something, and what that was. They were found in the
/// simulator of their time: what it became since meets other things with them.
const REGRESSIONS: &[(u64, usize, &str)] = &[
    (
        5_000_061,
        8,
        "P2: an end that nobody watched was the manager's quit, since the source passed its committed on",
    ),
    (
        3_000_321,
        8,
        "P4 (the judge): a journal that lacks records says amnesia of later migrations too",
    ),
    (
        3_000_666,
        8,
        "P4 (the judge): another host had not closed what the suspicion was about",
    ),
];

/// Likewise, with everything that was done then, and eight guests; with the mending taken out each of them broke it again.
const REGRESSIONS_OF_ALL: &[(u64, &str)] = &[
    (
        61_000_769,
        "P2: an older journal does not know of the stream that its manager's QEMU sent",
    ),
    (
        60_002_748,
        "P4 (the judge): a prepare that came after the journal behind it was lost",
    ),
    (
        40_000_403,
        "P2 (the judge): a batch that was never written started a guest",
    ),
    (
        7_500_372,
        "P4 (the judge): damage may concern a job that had ended",
    ),
];

#[test]
fn what_was_found_since_stays_mended() {
    // Found before sidecars looked for each other.
    let shape = Shape {
        migrations: Mix {
            introduced: 0,
            ..Mix::default()
        },
        ..Shape::default()
    };
    for (seed, what) in REGRESSIONS_OF_ALL {
        assert_eq!(run(*seed, &shape).broken, None, "seed={seed}: {what}");
    }
}

/// All of them driven by their managers, over slow monitors, and sidecars that are long away while hands from outside continue
/// sources and destinations.
fn of_driven_by_hands() -> Shape {
    let faults = Rates {
        foreign: 1_000_000,
        sidecar_crash: 1_000_000,
        ..Rates::default()
    };
    let migrations = Mix {
        driven: 1_000_000,
        plain: 0,
        jobs: 0,
        ..Mix::default()
    };
    let latencies = Latencies {
        restart: [1_000_000, 8_000_000],
        rest: [1_000, 5_000],
        ..Latencies::default()
    };
    Shape {
        minutes: 3,
        latencies,
        faults,
        migrations,
        ..Shape::default()
    }
}

/// Over a slow network, and decided in a store: a word is long on its way.
fn of_slow_store() -> Shape {
    let faults = Rates {
        older_journal: 1_000_000,
        refused_cont: 1_000_000,
        sidecar_crash: 100_000,
        owner: 300_000,
        ..Rates::default()
    };
    let migrations = Mix {
        v2: 0,
        postcopy: 0,
        store: 1_000_000,
        driven: 0,
        jobs: 0,
        ..Mix::default()
    };
    let latencies = Latencies {
        network: [500, 20_000],
        rest: [1_000, 5_000],
        ..Latencies::default()
    };
    Shape {
        latencies,
        faults,
        migrations,
        ..Shape::default()
    }
}

/// Where the shape of a fleet is.
#[derive(Clone, Copy)]
enum Of {
    /// In `tools/fleets`, under this name.
    File(&'static str),
    /// Here.
    Shape(fn() -> Shape),
}

impl Of {
    fn shape(self) -> Shape {
        match self {
            Of::Shape(shape) => shape(),
            Of::File(name) => {
                let fleets = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/fleets");
                let text = fs::read_to_string(fleets.join(format!("{name}.toml"))).unwrap();
                toml::from_str(&text).unwrap()
            }
        }
    }
}

/// A seed, its fleet, and what it broke.
type OfFleet = (u64, Of, &'static str);

/// Likewise, each in a fleet where what it is about is often.
const REGRESSIONS_OF_FLEETS: &[OfFleet] = &[
    (
        190_008_781,
        Of::File("amnesia"),
        "P4: a source whose journal lost that it had given up said for ever that it was performing",
    ),
    (
        170_014_482,
        Of::File("outside"),
        "P4: a source whose manager was seen to continue it was streamed on by a hand from outside, and took no word any more",
    ),
    (
        220_001_337,
        Of::File("hands"),
        "P4: likewise, where all migrations are their managers'",
    ),
    (
        170_000_698,
        Of::Shape(Shape::default),
        "P4: a destination whose journal lost what became of a migration said for ever that it was being decided",
    ),
    (
        93_000_091,
        Of::File("introduced"),
        "P4 (the manager): what it had sent on its way began a migration that it took for over, and nobody drove that",
    ),
    (
        110_000_808,
        Of::File("outside"),
        "P4 (the operator): hands from outside continued both copies, and one took no word any more",
    ),
    (
        110_001_220,
        Of::File("split"),
        "P4: a source that lost its post-copy with its disk waited for a half copy, and that one for the source",
    ),
    (
        110_002_580,
        Of::File("refused"),
        "P4 (the manager): it forgot that the destination of a paused guest had been told to take it",
    ),
    (
        140_002_629,
        Of::File("split"),
        "P3 (the judge): a source that had not heard that all went over in post-copy was taken for a copy to fall back to",
    ),
    (
        140_001_330,
        Of::File("stored"),
        "P4: no operator could close a destination whose cont was refused for ever",
    ),
    (
        130_002_167,
        Of::File("refused"),
        "P3: a destination said whole in the turn in which it heard that its QEMU had ended",
    ),
    (
        150_000_315,
        Of::File("refused"),
        "P2 (the judge): a journal was put back together with a reboot, which is the named limit",
    ),
    (
        150_001_260,
        Of::File("split"),
        "P4: a late look at the process before counted as the end of the one that had just been registered",
    ),
    (
        110_003_280,
        Of::File("introduced"),
        "P4: a prepare that came again waited for ever for a source whose older journal repeats the licence of the first one",
    ),
    (
        141_002_212,
        Of::File("outside"),
        "P4 (the operator): a destination that was saved by a hand from outside was taken for a source",
    ),
    (
        140_007_816,
        Of::File("outside"),
        "P4 (the operator): likewise, with both copies saved",
    ),
    (
        1_122,
        Of::File("outside"),
        "P4 (the operator): a copy that was saved after it had come is the guest, and takes no word",
    ),
    (
        150_001_596,
        Of::File("outside"),
        "P4: a driven destination that was continued and saved by a hand from outside waited for its manager's word",
    ),
    (
        106,
        Of::Shape(of_slow_store),
        "P3 (the judge): a source died while its word that it is there to fall back to was on a slow network",
    ),
    (
        3_085,
        Of::File("half"),
        "P3 (the judge): a guest went over by post-copy, whole, and its destination died before it ran there",
    ),
    (
        180_017_595,
        Of::File("amnesia"),
        "P5: a seal whose padding rotted before the journal was opened again was taken for a torn write",
    ),
    (
        210_020_127,
        Of::File("amnesia"),
        "P2 (the judge): a disk lost the very last batch, that of a cont, and the power failed right after",
    ),
    (
        190_016_735,
        Of::File("stored"),
        "P4 (the judge): a prepare came so late that its source had ended the migration, and then lost its journal",
    ),
    (
        190_008_079,
        Of::File("amnesia"),
        "P4 (the judge): a source died, and the destination's journal, which had forgotten more, said amnesia for good",
    ),
    (
        210_000_072,
        Of::Shape(of_driven_by_hands),
        "P4 (the operator): a driven source that was continued by a hand from outside, and a destination that stays paused",
    ),
    (
        230_007_592,
        Of::File("split"),
        "P4 (the judge): a driven source of post-copy was not told that all of the guest had come",
    ),
    (
        250_015_279,
        Of::Shape(Shape::default),
        "P4 (the judge): a claim whose record was lost long before is another's for who drives a migration beside it",
    ),
];

#[test]
fn what_was_found_in_fleets_stays_mended() {
    for (seed, of, what) in REGRESSIONS_OF_FLEETS {
        assert_eq!(run(*seed, &of.shape()).broken, None, "seed={seed}: {what}");
    }
}

#[test]
fn what_was_found_stays_mended() {
    for (seed, domains, what) in REGRESSIONS {
        // Found before there were other jobs, and these faults.
        let shape = Shape {
            faults: Rates {
                foreign_save: 0,
                foreign_key: 0,
                ..Rates::default()
            },
            domains: *domains,
            migrations: Mix {
                driven: 0,
                jobs: 0,
                ..Mix::default()
            },
            ..shape()
        };
        assert_eq!(run(*seed, &shape).broken, None, "seed={seed}: {what}");
    }
}

/// All of them take minutes: `phase-journal sim --mutants`, with the feature of that name.
#[test]
fn wrong_rules_are_caught() {
    const QUICK: [&str; 2] = ["source-perform-completed", "source-granted-started"];
    for row in MUTANTS.iter().filter(|row| QUICK.contains(&row.name)) {
        let caught = (0..20).find_map(|seed| row.run(seed, &shape()).broken);
        assert!(caught.is_some(), "{}: {}", row.name, row.does);
    }
}

#[test]
fn a_schedule_is_minimised() {
    use crate::engine::Rule;
    use crate::engine::mutant::{self, Mutant};
    // Killed as soon as everything was sent: no fault is needed for that.
    let mutant = Mutant {
        of: Some(Rule::SourcePerformCompleted),
        wrong: Some(Rule::SourceConfirm),
        when: |_| true,
    };
    let left = mutant::with(mutant, || {
        let outcome = run(1, &shape());
        let broken = outcome.broken.clone().unwrap_or_default();
        assert_eq!(promise_of(&broken), "P3", "{broken}");
        let left = minimise(&shape(), &outcome, 50);
        let again = run_plan(1, &shape(), left.clone(), Box::new(Fleet::default()), true);
        assert!(again.broken.is_some() && !again.story.is_empty());
        assert_eq!(again.journals.len(), shape().hosts);
        left
    });
    assert!(left.is_empty(), "{left:?}");
}

/// One in a few of them; all of them: `phase-journal sim --exhaustive`.
#[test]
fn crash_points_alone() {
    const ONE_IN: u32 = 7;
    const WHICH: u32 = 3;
    for subject in SUBJECTS {
        let batches = exhaustive::batches(1, subject);
        assert!(batches.iter().all(|count| *count > 8), "{batches:?}");
        let is_chosen = |point: &exhaustive::Point| {
            let dies = exhaustive::DEATHS.contains(&point.at_batch);
            dies && point.batch % ONE_IN == WHICH && point.also.is_none()
        };
        for point in exhaustive::points(batches).filter(is_chosen) {
            let outcome = exhaustive::run_point(1, subject, point, false);
            assert_eq!(outcome.broken, None, "{}: {point:?}", subject.name());
        }
    }
}
