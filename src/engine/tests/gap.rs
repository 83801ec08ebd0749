//! Damaged records: the true history is always among those that are thought possible, and no decision
//! over damage is one that the undamaged journal would contradict.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use journal_format::number::Lsn;
use journal_format::record::{
    Decided, EffectCommand, MigrationHistories, MigrationStatus, Protocol, RecordBody, RunState,
};

use super::world::{A, B, Crash, DOMAIN, World};
use super::{PROTOCOLS, SETTLE_MS, crash_points};
use crate::engine::histories::history_of;
use crate::engine::state::State;
use crate::engine::{Answer, ControlRequest, Gap, History, Refusal, Rule, decide, decide_over};

fn lsn(entry: &History) -> Lsn {
    match entry {
        History::Record(record) => record.lsn,
        History::Gap(gap) => gap.first,
    }
}

/// The journal with the entries `from..until` damaged.
pub(super) fn damaged(journal: &[History], from: usize, until: usize) -> Vec<History> {
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
                histories.all.contains(&history)
            }
            _ => histories
                .all
                .iter()
                .any(|one| !one.open && !one.resolved && (true_open.is_none() || one.later)),
        };
        let is_empty = histories.all.is_empty();
        assert!(
            found || is_empty,
            "{what}: {is_true:?} is not among {:#?}",
            histories.all
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

/// Records are lost once more, behind a start over others that were: whoever reads less does not know more. The chain of previous
/// records that a life writes which lacks some goes past those.
#[test]
fn damage_is_not_forgotten_with_the_checkpoint_that_restates_it() {
    let mut cuts = 0;
    let runs = PROTOCOLS
        .into_iter()
        .flat_map(|protocol| [A, B].map(|at| (protocol, at)));
    for (protocol, at) in runs {
        for crash in crash_points(protocol, at) {
            let first = crashed(protocol, at, crash, false);
            let journal = first.hosts[at].journal.clone();
            let is_open = told(&journal).open_of(DOMAIN).is_some();
            if !is_open || matches!(crash, Crash::Before(_)) {
                continue;
            }
            for from in journal.len() - 2..journal.len() {
                let mut world = crashed(protocol, at, crash, false);
                world.partitioned = true;
                world.hosts[at].journal = damaged(&journal, from, from + 1);
                world.restart(at);
                world.run_for(300);
                let host = &world.hosts[at];
                let live = &host.engine.as_ref().unwrap().state;
                let known = live.domains.get(&DOMAIN);
                if !known.is_some_and(|domain| domain.state.damaged) {
                    continue;
                }
                for cut in from + 1..host.journal.len() {
                    let what = format!("{protocol} host {at} {crash:?} cuts {from} {cut}");
                    let gapped = told(&damaged(&host.journal, cut, cut + 1));
                    let Some(domain) = gapped.domains.get(&DOMAIN) else {
                        continue;
                    };
                    assert!(domain.state.damaged, "{what}: {:?}", host.journal[cut]);
                    cuts += 1;
                }
            }
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 200, "only {cuts} cuts");
}

/// Long enough for every decision that comes at all.
pub(super) const DECIDED_MS: u64 = 12_000;

/// How a run ended, as far as it can be wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    running: Vec<usize>,
    alive: [bool; 2],
}

/// What a gap led to at its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Became {
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

/// What else goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfortune {
    None,
    /// Effects that were handed over before the crash still happen.
    EffectsSurvive,
    SourceDies,
    DestinationDies,
    /// Nothing goes wrong, but the guest is to stay paused (P8).
    Paused,
    /// The other sidecar dies too, and comes back first.
    OtherRestarts,
    /// Nobody hears of the other side for a while.
    Partition,
    /// It recovers twice.
    Again,
}

/// A run up to a crash of the sidecar at `at`; `None` if it does not come to that.
pub(super) fn crashed_with(
    protocol: Protocol,
    at: usize,
    crash: Crash,
    misfortune: Misfortune,
) -> Option<World> {
    let mut world = World::of(protocol);
    if misfortune == Misfortune::Paused {
        world.hosts[A].qemu.run = RunState::Paused;
    }
    world.effects_survive = misfortune == Misfortune::EffectsSurvive;
    world.hosts[at].crash = Some(crash);
    world.migrate(A);
    world.run_for(3_000);
    world.hosts[at].engine.is_none().then_some(world)
}

/// Recovers, with these entries damaged, and tells how it ended.
fn recovered(
    (protocol, at, crash): (Protocol, usize, Crash),
    misfortune: Misfortune,
    cut: Option<(usize, usize)>,
) -> Option<World> {
    let mut world = crashed_with(protocol, at, crash, misfortune)?;
    if let Some((from, until)) = cut {
        let host = &mut world.hosts[at];
        host.journal = damaged(&host.journal, from, until);
    }
    match misfortune {
        Misfortune::SourceDies => world.kill(A),
        Misfortune::DestinationDies => world.kill(B),
        Misfortune::OtherRestarts => {
            world.crash(1 - at);
            world.restart(1 - at);
            world.run_for(1_000);
        }
        Misfortune::Partition => world.partitioned = true,
        Misfortune::None | Misfortune::EffectsSurvive | Misfortune::Paused | Misfortune::Again => {}
    }
    world.restart(at);
    if matches!(misfortune, Misfortune::Partition | Misfortune::Again) {
        world.run_for(2_000);
        world.partitioned = false;
        world.crash(at);
        world.restart(at);
    }
    world.run_for(DECIDED_MS);
    Some(world)
}

pub(super) fn end(world: &World) -> End {
    End {
        running: world.running(),
        alive: [A, B].map(|at| world.hosts[at].qemu.alive),
    }
}

pub(super) fn became(world: &World, at: usize) -> Became {
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
    let restated: BTreeMap<Lsn, &MigrationHistories> = world.hosts[at]
        .journal
        .iter()
        .filter_map(|entry| match entry {
            History::Record(record) => match &record.body {
                RecordBody::MigrationHistories(restated) => Some((record.lsn, restated)),
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
                RecordBody::Decided(decided) => Some(&**decided),
                _ => None,
            },
            History::Gap(_) => None,
        })
        .collect()
}

type Counts = BTreeMap<String, BTreeMap<Became, usize>>;

/// Every range of these lengths, at every crash, against the same without damage.
fn assert_no_cut_changes(misfortune: Misfortune, lengths: &[usize], counts: &mut Counts) {
    for (protocol, at) in PROTOCOLS.into_iter().flat_map(|one| [(one, A), (one, B)]) {
        for crash in crash_points(protocol, at) {
            // Before a batch is, but for the effects, after the one before it.
            if misfortune != Misfortune::None && matches!(crash, Crash::Before(_)) {
                continue;
            }
            let run = (protocol, at, crash);
            let Some(sound) = recovered(run, misfortune, None) else {
                continue;
            };
            let before = crashed_with(protocol, at, crash, misfortune);
            let length = before.expect("it crashed").hosts[at].journal.len();
            let sound_end = end(&sound);
            for (from, size) in
                (0..length).flat_map(|from| lengths.iter().map(move |one| (from, one)))
            {
                let until = match from.checked_add(*size) {
                    None => length,
                    Some(until) if until <= length => until,
                    Some(_) => continue,
                };
                let what =
                    format!("{protocol} host {at} {crash:?} {misfortune:?} cut {from}..{until}");
                let world = recovered(run, misfortune, Some((from, until))).expect("it crashed");
                assert_as_sound(&world, &sound_end, &what);
                assert_reproduced(&world, at, &what);
                let role = if at == A { "source" } else { "destination" };
                let size = match *size {
                    usize::MAX => "all from there".to_owned(),
                    size => size.to_string(),
                };
                let count = counts
                    .entry(format!("{protocol} {role}, {size} lost"))
                    .or_default();
                *count.entry(became(&world, at)).or_default() += 1;
            }
        }
    }
}

/// How often it acts, and how often it holds: a changed number is a changed decision.
#[test]
fn no_decision_over_damage_is_another_one() {
    let mut counts = Counts::new();
    let lengths = [1, 2, 3, 5, 9, usize::MAX];
    assert_no_cut_changes(Misfortune::None, &lengths, &mut counts);
    let mut table = String::new();
    for (what, count) in counts {
        let _ = writeln!(table, "{what}: {count:?}");
    }
    insta::assert_snapshot!("decided-over-damage", table);
}

/// How often the damage was decided over at all.
fn decided_over(misfortune: Misfortune) -> usize {
    let mut counts = Counts::new();
    assert_no_cut_changes(misfortune, &[1, 2, 6, usize::MAX], &mut counts);
    let of = |count: &BTreeMap<Became, usize>| count.get(&Became::DecidedOver).copied();
    counts.values().filter_map(of).sum()
}

#[test]
fn nor_when_a_qemu_died_meanwhile() {
    assert!(decided_over(Misfortune::SourceDies) > 100);
    assert!(decided_over(Misfortune::DestinationDies) > 100);
}

#[test]
fn nor_when_effects_happen_after_all() {
    assert!(decided_over(Misfortune::EffectsSurvive) > 100);
}

#[test]
fn nor_for_a_paused_guest() {
    assert!(decided_over(Misfortune::Paused) > 100);
}

#[test]
fn nor_when_the_other_side_comes_and_goes() {
    assert!(decided_over(Misfortune::OtherRestarts) > 100);
    assert!(decided_over(Misfortune::Partition) > 100);
}

#[test]
fn nor_when_it_recovers_twice() {
    assert!(decided_over(Misfortune::Again) > 100);
}

/// P2, P3: nothing runs that would not, and nothing is gone that would not be.
pub(super) fn assert_as_sound(world: &World, sound: &End, what: &str) {
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

/// Loses all of that host's records from the first such one on.
fn lose_from(world: &mut World, at: usize, is_it: fn(&RecordBody) -> bool) {
    let is_it = |entry: &History| matches!(entry, History::Record(one) if is_it(&one.body));
    let host = &mut world.hosts[at];
    let from = host.journal.iter().position(is_it).expect("there is one");
    host.journal = damaged(&host.journal, from, host.journal.len());
}

/// The destination runs the guest, and its source has not heard of it.
fn started_unheard() -> World {
    for crash in crash_points(Protocol::V3, A) {
        let world = crashed_with(Protocol::V3, A, crash, Misfortune::None);
        if let Some(world) = world
            && world.running() == vec![B]
            && !world.has(A, |body| matches!(body, RecordBody::OutcomeLearned(_)))
        {
            return world;
        }
    }
    panic!("no crash before the outcome was heard");
}

fn is_grant(body: &RecordBody) -> bool {
    matches!(body, RecordBody::MigrationGranted(_))
}

#[test]
fn a_dead_source_that_may_have_given_the_licence_is_closed_when_it_was_used() {
    let mut world = started_unheard();
    lose_from(&mut world, A, is_grant);
    world.kill(A);
    world.restart(A);
    world.run_for(DECIDED_MS);
    assert_eq!(became(&world, A), Became::DecidedOver, "{}", world.story());
    assert_eq!(world.running(), vec![B]);
}

#[test]
fn a_source_that_may_have_given_the_licence_is_ended_only_when_it_was_used() {
    let mut world = started_unheard();
    lose_from(&mut world, A, is_grant);
    world.partitioned = true;
    world.restart(A);
    world.run_for(DECIDED_MS);
    assert_eq!(world.held(A), Some("journal-damaged"), "{}", world.story());
    assert!(world.hosts[A].qemu.alive);
    world.partitioned = false;
    world.run_for(DECIDED_MS);
    assert_eq!(became(&world, A), Became::DecidedOver, "{}", world.story());
    assert!(!world.hosts[A].qemu.alive);
    assert_eq!(world.running(), vec![B]);
}

/// A source that gave its licence, whose sidecar is down, and whose destination has no copy any more and says so.
fn granted_and_aborted() -> World {
    for crash in crash_points(Protocol::V3, A) {
        let world = crashed_with(Protocol::V3, A, crash, Misfortune::None);
        let Some(mut world) = world else { continue };
        let is_granted = world.has(A, is_grant);
        if is_granted && !world.has(B, |body| matches!(body, RecordBody::MigrationCommitted(_))) {
            world.kill(B);
            world.run_for(100);
            let has_aborted = world.has(B, |body| matches!(body, RecordBody::MigrationAborted(_)));
            assert!(has_aborted, "{}", world.story());
            return world;
        }
    }
    panic!("no crash between the licence and its use")
}

/// Where the destination's journal stood may be among what is lost, so that its *aborted* is not taken. That is what the
/// source is held for, and not that there was no answer.
#[test]
fn an_answer_that_damage_keeps_from_being_believed_is_held_for_the_damage() {
    let mut world = granted_and_aborted();
    let is_early = |entry: &History| matches!(entry, History::Record(one) if matches!(&one.body, RecordBody::EffectIntended(intended) if matches!(intended.command, EffectCommand::SetCapabilities { .. })));
    let journal = &world.hosts[A].journal;
    let early = journal.iter().position(is_early).expect("there is one");
    world.hosts[A].journal = damaged(journal, early, early + 1);
    world.restart(A);
    world.run_for(DECIDED_MS);
    assert_eq!(world.held(A), Some("journal-damaged"), "{}", world.story());
    assert!(world.hosts[A].qemu.alive);
    world.control(A, ControlRequest::QueryDomains { name: None });
    world.run_for(100);
    let Some((A, Ok(Answer::Domains(views)))) = world.replies.last() else {
        panic!("{:?}", world.replies)
    };
    let reason = &views[0].held.as_ref().expect("it holds").reason;
    let said = ["source-granted-in-doubt", "the other side says aborted"];
    assert!(said.iter().all(|one| reason.contains(one)), "{reason}");
}

#[test]
fn a_destination_that_runs_is_confirmed_whatever_is_lost() {
    let mut world = started_unheard();
    world.crash(B);
    lose_from(&mut world, B, |body| {
        matches!(body, RecordBody::EffectFinished(_))
    });
    world.restart(B);
    world.restart(A);
    world.run_for(SETTLE_MS);
    assert_eq!(world.running(), vec![B], "{}", world.story());
    assert_eq!(became(&world, B), Became::DecidedOver, "{}", world.story());
    assert!(!world.hosts[A].qemu.alive, "{}", world.story());
}

/// A source whose migration is on its way, and whose last records are lost: as many as a licence takes.
fn performing_without_its_last(records: usize) -> World {
    let mut world = World::new();
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(2_000);
    world.crash(A);
    let host = &mut world.hosts[A];
    let length = host.journal.len();
    host.journal = damaged(&host.journal, length - records, length);
    world.restart(A);
    world.run_for(DECIDED_MS);
    world
}

#[test]
fn a_source_that_may_have_given_the_licence_never_runs_on() {
    let mut world = performing_without_its_last(5);
    assert_eq!(world.held(A), Some("journal-damaged"), "{}", world.story());
    assert!(!world.has(A, |body| matches!(body, RecordBody::MigrationAbandoned(_))));
    // Nor when it is asked to.
    let job = world.find(A, |body| match body {
        RecordBody::Decided(decided) => Some(decided.job),
        _ => None,
    });
    let job = job.expect("it decided");
    world.control(A, ControlRequest::JobCancel { job });
    world.run_for(100);
    let last = world.replies.last();
    assert!(
        matches!(last, Some((A, Err(Refusal::TooLate { .. })))),
        "{last:?}"
    );
    world.replies.clear();
    world.control(A, ControlRequest::QueryDomains { name: None });
    world.run_for(100);
    let Some((A, Ok(Answer::Domains(views)))) = world.replies.last() else {
        panic!("{:?}", world.replies)
    };
    let held = views[0].held.as_ref().expect("it holds");
    for rule in [
        "source-perform-give-up (resume)",
        "source-granted-running (hold)",
    ] {
        assert!(held.reason.contains(rule), "{}", held.reason);
    }
}

#[test]
fn a_source_that_cannot_have_given_the_licence_runs_on() {
    let world = performing_without_its_last(1);
    assert_eq!(became(&world, A), Became::DecidedOver, "{}", world.story());
    assert_eq!(world.running(), vec![A]);
    assert_eq!(world.hosts[A].qemu.status, MigrationStatus::Cancelled);
}

/// An answer drawn from absence takes a journal that has all it ever had.
#[test]
fn a_damaged_journal_does_not_say_that_it_knows_no_such_migration() {
    let mut world = started_unheard();
    world.crash(B);
    lose_from(&mut world, B, |body| {
        matches!(body, RecordBody::JobBegun(_))
    });
    world.restart(B);
    world.restart(A);
    world.run_for(DECIDED_MS);
    assert_eq!(world.held(A), Some("source-granted-amnesia"));
    assert!(world.hosts[A].qemu.alive);
    assert_eq!(world.running(), vec![B]);
}

/// Damage upon damage: what a life wrote that had to do without some records is read by one that has to
/// do without its checkpoint too.
#[test]
fn what_was_written_without_knowing_is_not_taken_for_knowing() {
    let mut cuts = 0;
    for at in [A, B] {
        for crash in crash_points(Protocol::V3, at) {
            let Some(mut world) = crashed_with(Protocol::V3, at, crash, Misfortune::None) else {
                continue;
            };
            let sound = world.hosts[at].journal.clone();
            let is_begun = |entry: &History| matches!(entry, History::Record(one) if matches!(one.body, RecordBody::JobBegun(_)));
            let Some(begun) = sound.iter().position(is_begun) else {
                continue;
            };
            for from in begun + 1..sound.len() {
                // The last records of the life before are lost, and the next one recovers.
                world.hosts[at].journal = damaged(&sound, from, sound.len());
                world.restart(at);
                world.run_for(1_000);
                let later = world.hosts[at].journal[from + 1..].to_vec();
                // All that is true: what was lost, and what the next life wrote.
                let truth = told(&sound);
                let is_ended = |entry: &History| matches!(entry, History::Record(one) if matches!(one.body, RecordBody::CheckpointEnded(_)));
                let ended = later.iter().position(is_ended).expect("it opened");
                let was = &world.hosts[at].journal[..from];
                let mut journal = was.to_vec();
                let History::Gap(gap) = world.hosts[at].journal[from] else {
                    panic!("no gap")
                };
                journal.push(History::Gap(Gap {
                    first: gap.first,
                    last: lsn(&later[ended]),
                }));
                // What it found in flight, and nothing that it decided.
                let after = later[ended + 1..].iter().take_while(|entry| {
                    matches!(entry, History::Record(one) if matches!(one.body, RecordBody::EffectFinished(_) | RecordBody::QemuObserved(_)))
                });
                journal.extend(after.cloned());
                let gapped = told(&journal);
                assert_allows(&truth, &gapped, &format!("host {at} {crash:?} from {from}"));
                cuts += 1;
                world.crash(at);
            }
        }
    }
    assert!(cuts > 300, "only {cuts}");
}
