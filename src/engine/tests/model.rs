//! Every schedule of a migration, bounded by how many faults may happen: the real engine on both
//! sides, crashed at every batch, between QEMUs and a wire that do what they like.
//!
//! The ordinary tests are a slice. All of it is gone through by
//! `MODEL_CRASHES=1 cargo test --release --lib model -- --nocapture`: each fault by itself and with so
//! many crashes. Besides, `MODEL_ONLY` takes the scenarios whose title contains it; `MODEL_PROTOCOL`
//! (`v2`, `v3`) one protocol; `MODEL_DETAIL` (`coarse`, `prompt`, `fine`) and `MODEL_RESTARTS`
//! (`late`, `anytime`) allow more schedules; `MODEL_ORDER=deepest` takes less memory and tells
//! longer stories; `MODEL_SCENES` cuts a run off, which its line then says. `tools/mutants` prints
//! what catches each wrong rule (`MODEL_MUTANTS=all`: also the three that need an old journal).
//! What is left out is said in `scenario`.
//! Not here: single schedules with a story (`rows`, `hostile`).

mod canon;
mod explore;
mod happen;
mod mutants;
mod qemu;
mod scenario;
mod scene;
mod table;

use std::collections::BTreeSet;
use std::env;
use std::rc::Rc;

use explore::{Report, explore};
use journal_format::record::Protocol;
use mutants::Row;
use scenario::{Detail, EACH, Faults, NONE, Order, Restarts, Scenario};

use table::{FACTS, TABLE, UNTOLD};

use crate::engine::Rule;

pub(crate) use mutants::altered;

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
fn scenario(protocol: Protocol, name: &'static str, faults: Faults) -> Scenario {
    let mut scenario = Scenario::new(protocol, name, faults);
    match setting("MODEL_DETAIL").as_deref() {
        None | Some("coarse") => {}
        Some("prompt") => scenario.detail = Detail::Prompt,
        Some("fine") => scenario.detail = Detail::Fine,
        Some(other) => panic!("MODEL_DETAIL: coarse, prompt or fine, not '{other}'"),
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

/// For both protocols, or the one that was asked for.
fn both(one: impl Fn(Protocol) -> Scenario) -> Vec<Scenario> {
    let only = setting("MODEL_PROTOCOL");
    let is_wanted = |protocol: &Protocol| {
        only.as_ref()
            .is_none_or(|only| *only == protocol.to_string())
    };
    let protocols = [Protocol::V3, Protocol::V2].into_iter();
    protocols.filter(is_wanted).map(one).collect()
}

#[test]
fn a_migration_settles_in_every_detail() {
    let details = [Detail::Coarse, Detail::Prompt, Detail::Fine];
    check(details.into_iter().flat_map(|detail| {
        both(|protocol| Scenario {
            detail,
            ..scenario(protocol, "nothing", NONE)
        })
    }));
}

#[test]
fn each_fault_alone() {
    let each = EACH.into_iter();
    check(each.flat_map(|(name, faults)| both(|protocol| scenario(protocol, name, faults))));
}

#[test]
fn each_fault_alone_and_a_paused_guest() {
    // A QEMU that is mute takes longest, and does not care about what its guest does.
    let each = EACH.into_iter();
    let each = each.filter(|(_, faults)| crashes().is_some() || faults.mutes == [0, 0]);
    check(each.flat_map(|(name, faults)| {
        both(|protocol| Scenario {
            paused: true,
            ..scenario(protocol, name, faults)
        })
    }));
}

#[test]
fn each_fault_and_a_crash() {
    // Without being asked for more, those that take a second.
    const ORDINARY: [&str; 2] = ["nothing", "destination journal lost"];
    let asked = crashes();
    let each = EACH.into_iter();
    let each = each.filter(|(name, _)| asked.is_some() || ORDINARY.contains(name));
    check(each.flat_map(|(name, faults)| {
        let crashes = asked.unwrap_or(1);
        both(|protocol| scenario(protocol, name, Faults { crashes, ..faults }))
    }));
}

#[test]
fn crashes_of_a_paused_guest() {
    let crashes = crashes().unwrap_or(1);
    check(both(|protocol| Scenario {
        paused: true,
        ..scenario(protocol, "nothing", Faults { crashes, ..NONE })
    }));
}

#[test]
fn every_rule_has_a_mutant() {
    let mutated: BTreeSet<&str> = TABLE.iter().map(|row| row.name).collect();
    for rule in Rule::all() {
        let is_untold = UNTOLD.iter().any(|(one, _)| *one == rule);
        let name = rule.name();
        assert_ne!(
            mutated.contains(name),
            is_untold,
            "{name}: a mutant, or a reason for none"
        );
    }
    for fact in FACTS {
        assert!(mutated.contains(fact), "{fact}: no mutant");
    }
    for row in TABLE.iter().filter(|row| !FACTS.contains(&row.name)) {
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
    let mut scenario = scenario(row.protocol, row.name, row.faults);
    if row.faults.rollbacks != [0, 0] || row.faults.damages != [0, 0] {
        // Nearest first would go through all copies of a journal that there can be.
        scenario.order = Order::Deepest;
    }
    let scenario = Rc::new(scenario);
    let report = mutants::with(row.mutant, || explore(&scenario, SCENES_MAX));
    let told = format!(
        "{:<32} {:<58} {} {:<32}",
        row.name,
        row.does,
        row.protocol,
        row.faults.to_string()
    );
    let Some(violation) = report.violation else {
        return Err(format!("{told} passes in {} scenes", report.scenes));
    };
    let what = violation.lines().next().unwrap_or_default();
    if !what.starts_with(row.breaks) {
        return Err(format!("{told} breaks not {} but {what}", row.breaks));
    }
    let (scenes, schedule) = (report.scenes, report.schedule);
    Ok(format!(
        "{told} {} {schedule:>4} steps {scenes:>7} scenes",
        row.breaks
    ))
}

#[test]
fn every_mutant_is_caught() {
    println!();
    let mut escaped = Vec::new();
    // Those with an old journal take as long as all others together.
    let all = setting("MODEL_MUTANTS").is_some();
    let is_quick = |row: &&Row| row.faults.rollbacks[0] + row.faults.damages[0] == 0;
    for row in TABLE.iter().filter(|row| all || is_quick(row)) {
        match catch(row) {
            Ok(line) => println!("{line}"),
            Err(line) => escaped.push(line),
        }
    }
    for (rule, why) in UNTOLD {
        println!("{:<32} none: {why}", rule.name());
    }
    assert!(escaped.is_empty(), "{}", escaped.join("\n"));
}
