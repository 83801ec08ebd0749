//! A manager that knows of no sidecar: plain commands on the domains' monitors, by what QEMU shows. Either sidecar dies
//! after every batch; the manager connects again, looks, and goes on.

use journal_format::number::{Id128, JournalId, Lsn};
use journal_format::record::{
    JobKind, JobPhase, JobPhaseEntered, JobResult, JobState, MigrationStatus, Record, RecordBody,
    RunState,
};
use serde_json::{Value, json};

use super::super::bench::{Bench, Crash};
use super::super::{BATCHES_MAX, NOTHING, has, result};
use super::{Pair, STEP_MS, Side};

/// What such a manager does next, by what both QEMUs show; `None` where it only waits.
pub(super) fn next(pair: &Pair) -> Option<(Side, &'static str, Value)> {
    let (from, to) = (&pair.source.qemu, &pair.destination.qemu);
    let uri = json!({"uri": "tcp:[::1]:4444"});
    if !from.alive || !to.alive {
        return None;
    }
    match (&from.status, &from.run, &to.status, &to.run) {
        (_, _, MigrationStatus::None, RunState::Inmigrate) if !to.autostart => {
            Some((Side::Destination, "migrate-incoming", uri))
        }
        // It was started with -S.
        (_, _, MigrationStatus::None, RunState::Inmigrate) => {
            Some((Side::Destination, "stop", NOTHING()))
        }
        (
            MigrationStatus::None,
            RunState::Running,
            MigrationStatus::Setup | MigrationStatus::Active,
            _,
        ) => Some((Side::Source, "migrate", uri)),
        (MigrationStatus::PreSwitchover, _, _, _) => {
            let go_on = json!({"state": "pre-switchover"});
            Some((Side::Source, "migrate-continue", go_on))
        }
        (MigrationStatus::Completed, RunState::Postmigrate, _, RunState::Paused) => {
            Some((Side::Destination, "cont", NOTHING()))
        }
        (MigrationStatus::Completed, RunState::Postmigrate, _, RunState::Running) => {
            Some((Side::Source, "quit", NOTHING()))
        }
        _ => None,
    }
}

/// Until the source's QEMU is gone. What is refused is tried again.
pub(super) fn drive(pair: &mut Pair, mut restarts: impl FnMut(&mut Pair)) {
    for _ in 0..200 {
        if !pair.source.qemu.alive {
            return;
        }
        if !pair.source.is_up() || !pair.destination.is_up() {
            restarts(pair);
        }
        match next(pair) {
            Some((side, command, arguments)) => {
                drop(pair.side(side).send(command, &arguments));
                pair.check();
            }
            None => pair.run_for(STEP_MS / 2),
        }
        pair.run_for(100);
    }
    panic!("it never ends\n{}", pair.story());
}

pub(super) fn results(bench: &mut Bench) -> (JobKind, Option<JobResult>) {
    let jobs = bench.jobs();
    (jobs[0].kind, result(jobs.last()))
}

#[test]
fn nobody_says_where_it_begins_and_ends() {
    let mut pair = Pair::new(RunState::Running);
    drive(&mut pair, |pair| panic!("{}", pair.story()));
    pair.run_for(2 * STEP_MS);
    let completed = Some(JobResult::Completed);
    let (out, incoming) = (JobKind::MigrationOut, JobKind::MigrationIn);
    assert_eq!(
        results(&mut pair.source),
        (out, completed),
        "{}",
        pair.story()
    );
    assert_eq!(
        results(&mut pair.destination),
        (incoming, completed),
        "{}",
        pair.story()
    );
    assert_eq!(pair.destination.qemu.run, RunState::Running);
    for phase in ["begin3", "perform3", "perform3_done", "confirm3"] {
        assert!(pair.source.phases().contains(&phase.to_owned()), "{phase}");
    }
}

/// It goes on where it was, and nothing was done behind its back.
pub(in crate::engine::tests) fn a_client_goes_on_after_a_crash() {
    let mut rules = Vec::new();
    for side in [Side::Source, Side::Destination] {
        for (is_sent, steps) in [(false, 0), (true, 0), (true, 1), (true, 4)] {
            for after in 1..BATCHES_MAX {
                let mut pair = Pair::new(RunState::Running);
                pair.side(side).crash = Some(Crash {
                    after: after + 1,
                    is_sent,
                });
                let mut has_crashed = false;
                drive(&mut pair, |pair| {
                    has_crashed = true;
                    for _ in 0..steps {
                        pair.flow();
                        pair.check();
                    }
                    pair.side(side).restart();
                    pair.run_for(STEP_MS);
                });
                if !pair.side(side).is_up() {
                    pair.side(side).restart();
                }
                pair.side(side).crash = None;
                pair.run_for(5 * STEP_MS);
                let story = pair.story();
                assert_eq!(pair.destination.qemu.run, RunState::Running, "{story}");
                for bench in [&mut pair.source, &mut pair.destination] {
                    assert!(!bench.intended("migrate_cancel"), "{story}");
                    let open = bench.jobs().into_iter().find(|job| job.result.is_none());
                    assert!(open.is_none(), "{open:?}\n{story}");
                    rules.extend(bench.rules().into_iter().map(str::to_owned));
                }
                if !has_crashed {
                    break;
                }
            }
        }
    }
    let all = [
        "driven-source-taken-up",
        "driven-source-completed",
        "driven-source-ended",
        "driven-destination-waiting",
        "driven-destination-whole",
        "driven-destination-running",
    ];
    has(&rules, &all);
}

#[test]
fn crashes() {
    a_client_goes_on_after_a_crash();
}

/// A migration that fails, is cancelled, or is refused: its job ends with it, and nothing is sent.
pub(in crate::engine::tests) fn what_comes_to_nothing() {
    for is_restarted in [false, true] {
        let mut pair = Pair::new(RunState::Running);
        for _ in 0..3 {
            if let Some((side, command, arguments)) = next(&pair) {
                pair.side(side).send(command, &arguments).unwrap();
            }
        }
        assert_eq!(pair.source.qemu.status, MigrationStatus::Active);
        assert_eq!(pair.source.jobs()[0].kind, JobKind::MigrationOut);
        let busy = pair.source.begin(JobKind::Save).unwrap_err();
        assert!(busy.contains("is busy"), "{busy}");
        pair.source.send("migrate_cancel", &NOTHING()).unwrap();
        if is_restarted {
            pair.source.restart();
        }
        let before = pair.source.effects();
        pair.run_for(5 * STEP_MS);
        assert_eq!(
            results(&mut pair.source).1,
            Some(JobResult::Failed),
            "{}",
            pair.story()
        );
        assert_eq!(pair.source.effects(), before, "{}", pair.story());
        assert_eq!(pair.source.qemu.run, RunState::Running);
        // Its QEMU ended with the stream.
        assert_eq!(
            results(&mut pair.destination).1,
            Some(JobResult::Failed),
            "{}",
            pair.story()
        );
    }
}

#[test]
fn nothing_came_of_it() {
    what_comes_to_nothing();
}

/// Its own `cont` at the source is its aborted, on record before QEMU hears of it; its `quit` comes too late then.
#[test]
fn a_word_at_the_source() {
    for is_restarted in [false, true] {
        let mut pair = Pair::new(RunState::Running);
        while pair.source.qemu.run != RunState::Postmigrate {
            match next(&pair).filter(|(_, command, _)| *command != "cont") {
                Some((side, command, arguments)) => {
                    pair.side(side).send(command, &arguments).unwrap();
                }
                None => pair.run_for(STEP_MS / 2),
            }
        }
        if is_restarted {
            pair.source.restart();
        }
        pair.run_for(STEP_MS);
        pair.destination.qemu.alive = false;
        pair.source.send("cont", &NOTHING()).unwrap();
        pair.run_for(2 * STEP_MS);
        assert_eq!(pair.source.qemu.run, RunState::Running, "{}", pair.story());
        assert!(
            pair.source
                .phases()
                .contains(&"confirm3_cancelled".to_owned())
        );
        assert_eq!(results(&mut pair.source).1, Some(JobResult::Failed));
    }
}

/// A destination that is not whole only keeps `cont` in mind, and then runs by itself.
#[test]
fn a_destination_is_not_continued_before_it_is_whole() {
    let mut pair = Pair::new(RunState::Running);
    for command in ["stop", "migrate-incoming"] {
        let uri = json!({"uri": "tcp:[::]:4444"});
        pair.destination.send(command, &uri).unwrap();
    }
    let refused = pair.destination.send("cont", &NOTHING()).unwrap_err();
    assert!(refused.contains("the guest is not here yet"), "{refused}");
    // What goes to a file is a save, and no migration.
    pair.source
        .send("migrate", &json!({"uri": "exec:cat>/image"}))
        .unwrap();
    assert_eq!(pair.source.jobs().len(), 0);
}

/// A pair whose destination was started to listen; older QEMUs do not say that they do, but to who registers them.
fn listening() -> Pair {
    let mut pair = Pair::new(RunState::Running);
    let mut qemu = pair.destination.qemu.clone();
    qemu.status = MigrationStatus::Setup;
    let identity = JournalId(Id128([0xA1; 16]));
    pair.destination = Bench::with(identity, qemu);
    pair.destination.qemu.status = MigrationStatus::None;
    pair.destination.qemu.autostart = false;
    pair
}

/// It comes in from its registration on, waits for as long as nothing comes, and goes the way of any other.
#[test]
fn a_destination_that_was_started_to_listen() {
    for is_restarted in [false, true] {
        let mut pair = listening();
        let jobs = pair.destination.jobs();
        assert_eq!(jobs[0].kind, JobKind::MigrationIn);
        if is_restarted {
            pair.destination.restart();
        }
        pair.run_for(5 * STEP_MS);
        assert_eq!(
            result(pair.destination.jobs().last()),
            None,
            "{}",
            pair.story()
        );
        let early = pair.destination.send("cont", &NOTHING()).unwrap_err();
        assert!(early.contains("the guest is not here yet"), "{early}");
        pair.destination.qemu.status = MigrationStatus::Active;
        drive(&mut pair, |pair| panic!("{}", pair.story()));
        pair.run_for(2 * STEP_MS);
        for bench in [&mut pair.source, &mut pair.destination] {
            assert_eq!(results(bench).1, Some(JobResult::Completed));
        }
        assert!(!pair.destination.intended("migrate-incoming"));
    }
}

/// Its stream fails, or its manager ends it before anything came.
#[test]
fn a_listening_destination_that_comes_to_nothing() {
    let mut pair = listening();
    pair.destination.qemu.status = MigrationStatus::Failed;
    pair.run_for(2 * STEP_MS);
    assert_eq!(results(&mut pair.destination).1, Some(JobResult::Failed));
    let mut pair = listening();
    pair.destination.send("quit", &NOTHING()).unwrap();
    pair.run_for(2 * STEP_MS);
    assert_eq!(results(&mut pair.destination).1, Some(JobResult::Failed));
}

/// One that waits to be told where to listen has begun nothing, and a manager that drives by phases takes one that listens as its own.
#[test]
fn what_is_no_listening_destination() {
    let mut pair = Pair::new(RunState::Running);
    assert_eq!(pair.destination.jobs().len(), 0);
    let mut pair = listening();
    assert!(pair.destination.begin(JobKind::Save).is_err());
    let before = pair.destination.jobs()[0].job;
    // One that is refused leaves the job that is there.
    pair.destination.qemu.is_claimed = true;
    assert!(pair.destination.begin(JobKind::MigrationIn).is_err());
    let still = &pair.destination.jobs()[0];
    assert_eq!((still.job, still.result), (before, None));
    pair.destination.qemu.is_claimed = false;
    let job = pair.destination.begin(JobKind::MigrationIn).unwrap();
    assert_ne!(job, before);
    assert!(pair.destination.begin(JobKind::MigrationIn).is_err());
}

/// A count that a journal says may be any.
#[test]
fn a_count_at_its_end_stays_there() {
    let (job, domain) = (Lsn(5), super::super::bench::DOMAIN);
    let mut begun = JobState::begun(job, JobKind::MigrationIn);
    begun.stream.done = u32::MAX;
    let entered = JobPhaseEntered {
        job,
        phase: JobPhase::Prepare,
        time: 1,
        cookie: None,
        other_side: None,
        recognised: true,
        listens: true,
    };
    let bodies = [
        RecordBody::JobState(Box::new(begun)),
        RecordBody::JobPhaseEntered(entered),
    ];
    let mut state = crate::engine::state::State::default();
    for (lsn, body) in (5..).zip(bodies) {
        state.apply(&Record {
            lsn: Lsn(lsn),
            domain: Some(domain),
            previous: None,
            body,
        });
    }
    assert_eq!(state.jobs[&job].state.stream.done, u32::MAX);
}
