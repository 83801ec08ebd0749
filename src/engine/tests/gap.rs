//! Damaged records: the true history is always among those that are thought possible, and no decision
//! over damage is one that the undamaged journal would contradict.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use journal_format::number::Lsn;
use journal_format::record::{
    Decision, MigrationHistory, PeerAnswer, Protocol, RecordBody, RunState,
};

use super::world::{A, B, Crash, DOMAIN, World};
use super::{PROTOCOLS, SETTLE_MS, crash_points, migrated};
use crate::engine::histories::history_of;
use crate::engine::state::State;
use crate::engine::{ControlRequest, Gap, History, Rule, decide, decide_over};

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
                .any(|one| !one.open && (true_open.is_none() || one.later)),
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
