//! Every schedule of a migration, bounded by how many faults may happen: the real engine on both
//! sides, crashed at every batch, between QEMUs and a wire that do what they like.
//!
//! The ordinary tests are a slice. All of it is gone through by
//! `MODEL_CRASHES=1 cargo test --profile explore --lib model -- --nocapture`: each fault by itself and with so
//! many crashes; `each_pair_of_faults` besides two of them together. `MODEL_ONLY` takes the scenarios whose
//! title contains it; `MODEL_HANDOVER` (`v2`, `v3`, `postcopy`, `newer-postcopy`, `store`, `manager`) some of them;
//! `MODEL_DETAIL` (`swift`, `coarse`, `prompt`, `fine`) and `MODEL_RESTARTS` (`late`, `anytime`) allow more
//! schedules; `MODEL_ORDER=deepest` takes less memory and tells longer stories; `MODEL_SCENES` cuts a run
//! off, which its line then says. `tools/mutants` prints what catches each wrong rule (`MODEL_MUTANTS=all`:
//! also those that take long; `MODEL_ONLY`: by the rule's name).
//! What is left out is said in `scenario`.
//! Not here: single schedules with a story (`rows`, `hostile`).

mod canon;
mod explore;
mod happen;
mod mutants;
mod qemu;
mod scenario;
mod scene;
mod split;
mod store;
mod table;

use std::collections::BTreeSet;
use std::env;
use std::rc::Rc;

use explore::{Report, explore};
use mutants::Row;
use scenario::{Detail, EACH, Faults, Handover, NONE, Order, Restarts, Scenario};

use table::{FACTS, RUNS, table};

use crate::engine::{Rule, mutant};

/// More scenes than any ordinary test has.
const SCENES_MAX: usize = 4_000_000;

fn setting(name: &str) -> Option<String> {
    env::var(name).ok()
}

fn number(name: &str) -> Option<usize> {
    setting(name).map(|text| text.parse().expect("a setting that is a number"))
}

/// How many crashes were asked for.
fn crashes() -> Option<u8> {
    number("MODEL_CRASHES").map(|crashes| u8::try_from(crashes).expect("few crashes"))
}

/// A scenario as the environment wants it.
fn scenario(handover: Handover, name: &'static str, faults: Faults) -> Scenario {
    let mut scenario = Scenario::new(handover, name, faults);
    match setting("MODEL_DETAIL").as_deref() {
        None | Some("swift") => {}
        Some("coarse") => scenario.detail = Detail::Coarse,
        Some("prompt") => scenario.detail = Detail::Prompt,
        Some("fine") => scenario.detail = Detail::Fine,
        Some(other) => panic!("MODEL_DETAIL: swift, coarse, prompt or fine, not '{other}'"),
    }
    match setting("MODEL_RESTARTS").as_deref() {
        None | Some("late") => {}
        Some("anytime") => scenario.restarts = Restarts::Anytime,
        Some(other) => panic!("MODEL_RESTARTS: late or anytime, not '{other}'"),
    }
    match setting("MODEL_ORDER").as_deref() {
        None | Some("nearest") => {}
        Some("deepest") => scenario.order = Order::Deepest,
        Some(other) => panic!("MODEL_ORDER: nearest or deepest, not '{other}'"),
    }
    scenario
}

fn run(scenario: Scenario) -> Report {
    let scenes_max = number("MODEL_SCENES").unwrap_or(SCENES_MAX);
    let report = explore(&Rc::new(scenario), scenes_max);
    println!("{}", report.line());
    report
}

/// Goes through all of them before it complains; nothing may be left out unless that was asked for.
fn check(scenarios: impl IntoIterator<Item = Scenario>) {
    let only = setting("MODEL_ONLY").unwrap_or_default();
    let wanted = scenarios
        .into_iter()
        .filter(|one| one.title().contains(&only));
    let mut complaints = Vec::new();
    for report in wanted.map(run) {
        if !report.complete && report.violation.is_none() && number("MODEL_SCENES").is_none() {
            complaints.push(format!("cut off: {}", report.line()));
        }
        complaints.extend(report.violation);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// For each handover, or the ones that were asked for.
fn all(one: impl Fn(Handover) -> Scenario) -> Vec<Scenario> {
    let only = setting("MODEL_HANDOVER");
    let is_wanted = |handover: &Handover| {
        only.as_ref()
            .is_none_or(|only| only.split(',').any(|one| one == handover.to_string()))
    };
    let all = Handover::ALL.into_iter().filter(is_wanted).map(one);
    all.filter(|one| one.faults.may_befall(one.handover))
        .collect()
}

/// Is it gone through without being asked for? Not what takes long and is much like another one.
fn is_ordinary(one: &Scenario) -> bool {
    const OF_NEWER_POSTCOPY: [&str; 3] = ["nothing", "device fails", "stream breaks"];
    const OF_STORE: [&str; 7] = [
        "nothing",
        "cont refused",
        "cont unknown",
        "key request late",
        "key request repeated",
        "source host gone",
        "destination host gone",
    ];
    const OF_MANAGER: [&str; 6] = [
        "nothing",
        "a verdict",
        "source QEMU dies",
        "destination QEMU dies",
        "foreign cont",
        "foreign start",
    ];
    // A QEMU that is mute does not care about what its guest does.
    let is_mute = one.faults.mutes != [0, 0];
    let of_handover = match one.handover {
        Handover::V2 | Handover::V3 | Handover::Postcopy => true,
        Handover::NewerPostcopy => OF_NEWER_POSTCOPY.contains(&one.name),
        Handover::Store => OF_STORE.contains(&one.name) && !one.paused,
        Handover::Manager => OF_MANAGER.contains(&one.name) && !one.paused,
    };
    crashes().is_some() || of_handover && !(is_mute && one.paused)
}

#[test]
fn a_migration_settles_in_every_detail() {
    let every = setting("MODEL_DETAIL").is_none();
    let details = [Detail::Swift, Detail::Coarse, Detail::Prompt, Detail::Fine];
    check(details.into_iter().filter(|_| every).flat_map(|detail| {
        let all = all(|handover| Scenario {
            detail,
            ..scenario(handover, "nothing", NONE)
        });
        // What is longest is no other in detail.
        let is_quick = move |one: &Scenario| match one.handover {
            Handover::V2 | Handover::V3 => true,
            Handover::Postcopy => matches!(detail, Detail::Swift | Detail::Coarse),
            Handover::NewerPostcopy | Handover::Store | Handover::Manager => {
                detail == Detail::Swift
            }
        };
        all.into_iter()
            .filter(move |one| crashes().is_some() || is_quick(one))
    }));
}

#[test]
fn each_fault_alone() {
    let each = EACH.into_iter();
    let all = each.flat_map(|(name, faults)| all(|handover| scenario(handover, name, faults)));
    check(all.filter(is_ordinary));
}

#[test]
fn each_fault_alone_and_a_paused_guest() {
    let each = EACH.into_iter();
    let all = each.flat_map(|(name, faults)| {
        all(|handover| Scenario {
            paused: true,
            ..scenario(handover, name, faults)
        })
    });
    check(all.filter(is_ordinary));
}

#[test]
fn each_fault_and_a_crash() {
    // Without being asked for more, what takes a second.
    let asked = crashes();
    let each = EACH.into_iter();
    let each = each.filter(|(name, _)| asked.is_some() || *name == "nothing");
    check(each.flat_map(|(name, faults)| {
        let crashes = asked.unwrap_or(1);
        let all = all(|handover| scenario(handover, name, Faults { crashes, ..faults }));
        let is_short = |one: &Scenario| matches!(one.handover, Handover::V2 | Handover::V3);
        all.into_iter()
            .filter(move |one| asked.is_some() || is_short(one))
    }));
}

/// Two faults of different kinds, or one on each side.
#[test]
fn each_pair_of_faults() {
    // Without being asked for more, what a `cont` and a death have to do with each other.
    const ORDINARY: [&str; 5] = [
        "cont refused",
        "cont unknown",
        "device fails",
        "source QEMU dies",
        "destination QEMU dies",
    ];
    let asked = crashes();
    let is_wanted = |(name, _): &&(&str, Faults)| asked.is_some() || ORDINARY.contains(name);
    let wanted: Vec<_> = EACH.iter().filter(is_wanted).collect();
    let pairs = wanted.iter().enumerate().flat_map(|(number, one)| {
        let others = wanted[number + 1..].iter();
        others.filter_map(|other| Some((one.1, other.1, one.1.with(&other.1)?)))
    });
    check(pairs.flat_map(|(one, other, faults)| {
        let crashes = asked.unwrap_or(0);
        let all = all(|handover| scenario(handover, "a pair", Faults { crashes, ..faults }));
        let may_befall = move |scene: &Scenario| {
            let is_short = matches!(scene.handover, Handover::V2 | Handover::V3);
            let both = one.may_befall(scene.handover) && other.may_befall(scene.handover);
            both && (asked.is_some() || is_short)
        };
        all.into_iter().filter(may_befall)
    }));
}

#[test]
fn crashes_of_a_paused_guest() {
    let crashes = crashes().unwrap_or(1);
    let asked = self::crashes().is_some();
    let all = all(|handover| Scenario {
        paused: true,
        ..scenario(handover, "nothing", Faults { crashes, ..NONE })
    });
    let is_short = |one: &Scenario| matches!(one.handover, Handover::V2 | Handover::V3);
    check(all.into_iter().filter(|one| asked || is_short(one)));
}

#[test]
fn every_rule_has_a_mutant() {
    let mutated: BTreeSet<&str> = table().map(|row| row.name).collect();
    for rule in Rule::all() {
        let has_run = RUNS.iter().any(|run| run.rule == rule);
        let name = rule.name();
        assert!(mutated.contains(name) || has_run, "{name}: no mutant");
    }
    for fact in FACTS {
        assert!(mutated.contains(fact), "{fact}: no mutant");
    }
    for row in table().filter(|row| !FACTS.contains(&row.name)) {
        assert_eq!(
            row.mutant.of.map(Rule::name),
            Some(row.name),
            "{}",
            row.does
        );
    }
}

/// A mutant's line of the report; the error says how it got away.
fn catch(row: &Row) -> Result<String, String> {
    let told = format!(
        "{:<32} {:<58} {:<14} {:<32}",
        row.name,
        row.does,
        row.handover,
        row.faults.to_string()
    );
    let mut scenes = 0;
    let mut other = None;
    // What nobody sees who looks at once is seen in more detail.
    for detail in [Detail::Swift, Detail::Coarse] {
        let mut scenario = scenario(row.handover, row.name, row.faults);
        scenario.detail = detail;
        if row.faults.rollbacks != [0, 0] || row.faults.damages != [0, 0] {
            // Nearest first would go through all copies of a journal that there can be.
            scenario.order = Order::Deepest;
        }
        let scenario = Rc::new(scenario);
        let report = mutant::with(row.mutant, || explore(&scenario, SCENES_MAX));
        scenes += report.scenes;
        let Some(violation) = report.violation else {
            continue;
        };
        let what = violation.lines().next().unwrap_or_default();
        if what.starts_with(row.breaks) {
            let (breaks, schedule) = (row.breaks, report.schedule);
            return Ok(format!(
                "{told} {breaks} {schedule:>4} steps {scenes:>7} scenes"
            ));
        }
        other = Some(what.to_owned());
    }
    Err(match other {
        Some(what) => format!("{told} breaks not {} but {what}", row.breaks),
        None => format!("{told} passes in {scenes} scenes"),
    })
}

#[test]
fn every_mutant_is_caught() {
    println!();
    let mut escaped = Vec::new();
    // Those with an old journal, or a crash besides what takes long, take as long as all others together.
    let all = setting("MODEL_MUTANTS").is_some();
    let is_quick = |row: &&Row| {
        let faults = &row.faults;
        let is_old = faults.rollbacks[0] + faults.damages[0] > 0;
        let is_long = match row.handover {
            Handover::V2 | Handover::V3 => false,
            Handover::Postcopy | Handover::NewerPostcopy => faults.crashes + faults.device > 1,
            Handover::Store => faults.crashes > 0 || faults.deaths == [1, 1],
            Handover::Manager => faults.crashes + faults.verdicts > 2,
        };
        !is_old && !is_long
    };
    let only = setting("MODEL_ONLY").unwrap_or_default();
    let wanted = table().filter(|row| row.name.contains(&only));
    for row in wanted.filter(|row| all || is_quick(row)) {
        match catch(row) {
            Ok(line) => println!("{line}"),
            Err(line) => escaped.push(line),
        }
    }
    let wanted = RUNS.iter().filter(|run| run.rule.name().contains(&only));
    for run in wanted {
        match run.catch() {
            Ok(line) => println!("{line}"),
            Err(line) => escaped.push(line),
        }
    }
    assert!(escaped.is_empty(), "{}", escaped.join("\n"));
}
