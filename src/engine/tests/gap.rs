//! Damaged records: the true history is always among those that are thought possible, and no decision
//! over damage is one that the undamaged journal would contradict.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use journal_format::number::Lsn;
use journal_format::record::{Decided, MigrationHistory, Protocol, RecordBody};

use super::world::{A, B, Crash, DOMAIN, World};
use super::{PROTOCOLS, SETTLE_MS, crash_points};
use crate::engine::histories::history_of;
use crate::engine::state::State;
use crate::engine::{Gap, History, Rule, decide, decide_over};

fn lsn(entry: &History) -> Lsn {
    match entry {
        History::Record(record) => record.lsn,
        History::Gap(gap) => gap.first,
    }
}

/// The journal with the entries `from..until` damaged.
fn damaged(journal: &[History], from: usize, until: usize) -> Vec<History> {
    let gap = Gap {
        first: lsn(&journal[from]),
        last: lsn(&journal[until - 1]),
    };
    let mut damaged = journal[..from].to_vec();
    damaged.push(History::Gap(gap));
    damaged.extend_from_slice(&journal[until..]);
    damaged
}

fn told(journal: &[History]) -> State {
    let mut state = State::default();
    journal.iter().for_each(|entry| state.replay_one(entry));
    state
}

/// Is what is true among what the damaged journal allows?
fn assert_allows(truth: &State, gapped: &State, what: &str) {
    let Some(domain) = gapped.domains.get(&DOMAIN) else {
        return;
    };
    let true_open = truth.domains.get(&DOMAIN).and_then(|one| one.migration);
    if !domain.state.damaged {
        assert_eq!(domain.migration, true_open, "{what}: undamaged");
    }
    let open = gapped.migrations.iter().filter(|(_, one)| one.state.open);
    for (name, known) in open {
        let is_true = truth.migrations.get(name).filter(|one| one.state.open);
        if !domain.state.damaged {
            let is_true = is_true.unwrap_or_else(|| panic!("{what}: {name} is over"));
            assert_eq!(known.state.phase, is_true.state.phase, "{what}");
            assert_eq!(known.facts(), is_true.facts(), "{what}");
            continue;
        }
        let Some(histories) = &known.histories else {
            continue;
        };
        let wanted = truth.domains.get(&DOMAIN).map(|one| one.state.wanted);
        let found = match (is_true, wanted) {
            (Some(is_true), Some(wanted)) => {
                let history = history_of(&is_true.state, is_true.facts(), wanted);
                histories.all().contains(&history)
            }
            _ => histories
                .all()
                .iter()
                .any(|one| !one.open && (true_open.is_none() || one.later || one.resolved)),
        };
        let is_empty = histories.all().is_empty();
        assert!(
            found || is_empty,
            "{what}: {is_true:?} is not among {:#?}",
            histories.all()
        );
    }
}

/// Every range of a journal, cut out.
fn assert_every_cut_allows(journal: &[History], what: &str) -> usize {
    let truth = told(journal);
    let mut cuts = 0;
    for from in 0..journal.len() {
        for until in from + 1..=journal.len() {
            let gapped = told(&damaged(journal, from, until));
            assert_allows(&truth, &gapped, &format!("{what} cut {from}..{until}"));
            cuts += 1;
        }
    }
    cuts
}

/// Crashed at `at` and recovered, or not.
fn crashed(protocol: Protocol, at: usize, crash: Crash, recovered: bool) -> World {
    let mut world = World::of(protocol);
    world.hosts[at].crash = Some(crash);
    world.migrate(A);
    world.run_for(3_000);
    if recovered {
        if world.hosts[at].engine.is_none() {
            world.restart(at);
        }
        world.run_for(SETTLE_MS);
    }
    world
}

#[test]
fn the_true_history_is_among_the_possible_ones() {
    let mut cuts = 0;
    for protocol in PROTOCOLS {
        for at in [A, B] {
            for (number, crash) in crash_points(protocol, at).into_iter().enumerate() {
                if !matches!(crash, Crash::After(_)) {
                    continue;
                }
                // All of them crashed, some of them recovered: those are long.
                for recovered in [false, true] {
                    if recovered && number % 5 != 0 {
                        continue;
                    }
                    let world = crashed(protocol, at, crash, recovered);
                    let what = format!("{protocol} host {at} {crash:?} recovered {recovered}");
                    cuts += assert_every_cut_allows(&world.hosts[at].journal, &what);
                }
            }
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 10_000, "only {cuts} cuts");
}

/// Long enough for every decision that comes at all.
const DECIDED_MS: u64 = 12_000;

/// How a run ended, as far as it can be wrong.
#[derive(Debug, PartialEq, Eq)]
struct End {
    running: Vec<usize>,
    alive: [bool; 2],
}

/// What a gap led to at its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Became {
    /// The job is over, decided over the damage.
    DecidedOver,
    /// The job is over: the damage turned out to concern nothing that matters.
    Settled,
    /// Held, for damage.
    Held,
    /// Not over, but in the hands of an ordinary rule.
    Waits,
    /// The journal knows of no job any more.
    Unknown,
}

/// Recovers, with these entries damaged, and tells how it ended.
fn recovered(
    protocol: Protocol,
    at: usize,
    crash: Crash,
    cut: Option<(usize, usize)>,
) -> Option<World> {
    let mut world = crashed(protocol, at, crash, false);
    if world.hosts[at].engine.is_some() {
        return None;
    }
    if let Some((from, until)) = cut {
        let host = &mut world.hosts[at];
        host.journal = damaged(&host.journal, from, until);
    }
    world.restart(at);
    world.run_for(DECIDED_MS);
    Some(world)
}

fn end(world: &World) -> End {
    End {
        running: world.running(),
        alive: [A, B].map(|at| world.hosts[at].qemu.alive),
    }
}

fn became(world: &World, at: usize) -> Became {
    let engine = world.hosts[at].engine.as_ref().expect("it runs");
    let domain = engine.state.domains.get(&DOMAIN);
    let gap = world.hosts[at]
        .journal
        .iter()
        .rposition(|entry| matches!(entry, History::Gap(_)));
    let since = &world.hosts[at].journal[gap.map_or(0, |gap| gap + 1)..];
    let is_over = |entry: &History| match entry {
        History::Record(record) => match &record.body {
            RecordBody::Decided(decided) => {
                decided.evidence.journal_damaged && decided.rule != Rule::JournalDamaged.name()
            }
            _ => false,
        },
        History::Gap(_) => false,
    };
    match domain.and_then(|domain| domain.migration) {
        Some(_) if world.held(at) == Some(Rule::JournalDamaged.name()) => Became::Held,
        Some(_) => Became::Waits,
        None if since.iter().any(is_over) => Became::DecidedOver,
        None if domain.is_none_or(|domain| domain.state.damaged) => Became::Unknown,
        None => Became::Settled,
    }
}

/// P7: each decision over damage follows from the histories that it cites.
fn assert_reproduced(world: &World, at: usize, what: &str) {
    let restated: BTreeMap<Lsn, &Vec<MigrationHistory>> = world.hosts[at]
        .journal
        .iter()
        .filter_map(|entry| match entry {
            History::Record(record) => match &record.body {
                RecordBody::MigrationHistories(restated) => Some((record.lsn, &restated.histories)),
                _ => None,
            },
            History::Gap(_) => None,
        })
        .collect();
    for decided in decisions(world, at) {
        let cited = decided
            .based_on
            .iter()
            .rev()
            .find_map(|lsn| restated.get(lsn));
        let again = match cited.filter(|_| decided.evidence.journal_damaged) {
            Some(histories) => decide_over(&decided.evidence, histories),
            None => decide(&decided.evidence),
        };
        let again = again.map_or("none", Rule::name);
        assert_eq!(again, decided.rule, "{what}: {decided:?} on {cited:?}");
    }
}

fn decisions(world: &World, at: usize) -> Vec<&Decided> {
    world.hosts[at]
        .journal
        .iter()
        .filter_map(|entry| match entry {
            History::Record(record) => match &record.body {
                RecordBody::Decided(decided) => Some(decided),
                _ => None,
            },
            History::Gap(_) => None,
        })
        .collect()
}

#[test]
fn no_decision_over_damage_is_another_one() {
    let mut counts: BTreeMap<String, BTreeMap<Became, usize>> = BTreeMap::new();
    for protocol in PROTOCOLS {
        for at in [A, B] {
            for crash in crash_points(protocol, at) {
                let Some(sound) = recovered(protocol, at, crash, None) else {
                    continue;
                };
                let sound_end = end(&sound);
                let length = crashed(protocol, at, crash, false).hosts[at].journal.len();
                for from in 0..length {
                    for size in LENGTHS {
                        let until = from.saturating_add(size).min(length);
                        if until - from < size && size != usize::MAX {
                            continue;
                        }
                        let what = format!("{protocol} host {at} {crash:?} cut {from}..{until}");
                        let world = recovered(protocol, at, crash, Some((from, until)));
                        let world = world.expect("it crashed before");
                        assert_as_sound(&world, &sound_end, &what);
                        assert_reproduced(&world, at, &what);
                        let role = if at == A { "source" } else { "destination" };
                        let size = if size == usize::MAX {
                            "to its end".to_owned()
                        } else {
                            size.to_string()
                        };
                        let count = counts
                            .entry(format!("{protocol} {role} {size}"))
                            .or_default();
                        *count.entry(became(&world, at)).or_default() += 1;
                    }
                }
            }
        }
    }
    let mut table = String::new();
    for (what, count) in counts {
        let _ = writeln!(table, "{what}: {count:?}");
    }
    insta::assert_snapshot!("decided-over-damage", table);
}

/// So many records are damaged in one go.
const LENGTHS: [usize; 6] = [1, 2, 3, 5, 9, usize::MAX];

/// P2, P3: nothing runs that would not, and nothing is gone that would not be.
fn assert_as_sound(world: &World, sound: &End, what: &str) {
    assert_eq!(world.broken, None, "{what}\n{}", world.story());
    let end = end(world);
    for at in [A, B] {
        assert!(
            end.alive[at] || !sound.alive[at],
            "{what}: {end:?}, not {sound:?}\n{}",
            world.story()
        );
        assert!(
            !end.running.contains(&at) || sound.running.contains(&at),
            "{what}: {end:?}, not {sound:?}\n{}",
            world.story()
        );
    }
}
