//! A QEMU that shows *postmigrate* and *completed*: its owner may continue the guest where it is on record that it is
//! here all the same, and not where this journal only does not know.
//!
//! Not here: guests that a migration of two sidecars gave back (`given_back`).

use journal_format::record::{
    JobKind, JobPhase, JobResult, MigrationStatus, RunState, WantedRunState,
};
use serde_json::json;

use super::bench::{Bench, NAME};
use super::{NOTHING, snapshot_of_a_disk};
use crate::engine::{ControlRequest, QemuEvent};

/// QEMU sent it, past the sidecar or in what an older copy of the journal does not have.
fn is_sent(bench: &mut Bench) {
    bench.qemu.status = MigrationStatus::Completed;
    bench.qemu.run = RunState::Postmigrate;
    bench.tell(QemuEvent::Migration(MigrationStatus::Completed));
}

fn save_by_plain_commands(bench: &mut Bench) {
    bench.send("stop", &NOTHING()).unwrap();
    let file = json!({"uri": "exec:cat>/image"});
    bench.send("migrate", &file).unwrap();
    bench.run_for(3_000);
    assert_eq!(bench.qemu.run, RunState::Postmigrate);
}

/// Of a guest that its owner paused: another one is continued with the end of the job.
fn save_by_a_job(bench: &mut Bench) {
    bench.send("stop", &NOTHING()).unwrap();
    let job = bench.begin(JobKind::Save).unwrap();
    let effects = [("migrate", json!({"uri": "exec:cat>/image"}))];
    bench.enter(job, JobPhase::Perform, &effects).unwrap();
    bench.run_for(3_000);
    bench.end(job).unwrap();
    assert_eq!(bench.qemu.run, RunState::Postmigrate);
}

/// Its owner paused it, a manager's own migration sent all of it, and was cancelled.
fn cancelled(bench: &mut Bench) {
    bench.send("stop", &NOTHING()).unwrap();
    let job = bench.begin(JobKind::MigrationOut).unwrap();
    let effects = [("migrate", json!({"uri": "tcp:[::1]:4444"}))];
    bench.enter(job, JobPhase::Perform3, &effects).unwrap();
    bench.run_for(3_000);
    bench.enter(job, JobPhase::Confirm3Cancelled, &[]).unwrap();
    let result = JobResult::Cancelled;
    bench.ask(ControlRequest::JobEnd { job, result }).unwrap();
    assert_eq!(bench.qemu.run, RunState::Postmigrate);
}

type Begin = fn(&mut Bench);
type Way = fn(&mut Bench) -> Result<(), String>;

/// The ways to have it run on.
const WAYS: [Way; 3] = [
    |bench| bench.send("cont", &NOTHING()),
    |bench| {
        let name = NAME.to_owned();
        let wanted = WantedRunState::Running;
        bench
            .ask(ControlRequest::DomainSetWanted { name, wanted })
            .map(drop)
    },
    |bench| {
        let job = bench.begin(JobKind::Suspend)?;
        let entered = bench.enter(job, JobPhase::Perform, &[("cont", NOTHING())]);
        bench.end(job)?;
        entered.map(drop)
    },
];

fn assert_refused(bench: &mut Bench, what: &str) {
    for (way, ask) in WAYS.iter().enumerate() {
        let before = bench.effects();
        assert!(ask(bench).is_err(), "{what}, way {way}: {}", bench.story());
        assert_eq!(bench.effects(), before, "{what}, way {way}");
    }
    assert_eq!(bench.qemu.run, RunState::Postmigrate, "{what}");
}

fn restart(bench: &mut Bench) {
    bench.restart();
    bench.run_for(1_000);
}

/// P2: an older copy of the journal was put back behind a migration that a manager drove, whose guest ran at the other side
/// and died there.
#[test]
fn what_nothing_on_record_says_is_here_is_not_continued() {
    for is_restarted in [false, true] {
        let mut bench = Bench::new(RunState::Running);
        is_sent(&mut bench);
        if is_restarted {
            restart(&mut bench);
        }
        let refused = bench.send("cont", &NOTHING()).unwrap_err();
        assert!(refused.contains("it may run elsewhere"), "{refused}");
        assert_refused(&mut bench, "nothing on record");
    }
}

/// Saves and a migration that came to nothing, in one life of the sidecar and over a restart, and with another job since.
#[test]
fn what_is_on_record_as_here_is_continued() {
    let begins: [(&str, Begin); 3] = [
        ("a save by plain commands", save_by_plain_commands),
        ("a save by a job", save_by_a_job),
        ("a cancelled migration", cancelled),
    ];
    for (name, begin) in begins {
        for (way, ask) in WAYS.iter().enumerate() {
            for is_restarted in [false, true] {
                let what = format!("{name}, way {way}, restarted {is_restarted}");
                let mut bench = Bench::new(RunState::Running);
                begin(&mut bench);
                if is_restarted {
                    snapshot_of_a_disk(&mut bench).ok();
                    restart(&mut bench);
                }
                let done = ask(&mut bench);
                assert_eq!(done, Ok(()), "{what}: {}", bench.story());
                assert_eq!(bench.qemu.run, RunState::Running, "{what}");
            }
        }
    }
}

/// It ran on since: what QEMU sent then is not what is on record.
#[test]
fn what_was_continued_since_is_not_here_by_an_older_record() {
    for begin in [save_by_plain_commands, save_by_a_job, cancelled] {
        let mut bench = Bench::new(RunState::Running);
        begin(&mut bench);
        bench.send("cont", &NOTHING()).unwrap();
        bench.run_for(1_000);
        is_sent(&mut bench);
        assert_refused(&mut bench, "continued since");
        restart(&mut bench);
        assert_refused(&mut bench, "continued since, restarted");
    }
}

/// QEMU refuses `migrate` of a guest that it has sent, and `cont` while somebody else has its image: the guest is here as
/// before.
#[test]
fn what_qemu_refuses_changes_nothing() {
    let mut bench = Bench::new(RunState::Running);
    save_by_plain_commands(&mut bench);
    let elsewhere = json!({"uri": "tcp:[::1]:4444"});
    bench.send("migrate", &elsewhere).unwrap();
    bench.run_for(1_000);
    bench.qemu.refuses_cont = true;
    bench.send("cont", &NOTHING()).unwrap();
    bench.run_for(1_000);
    bench.qemu.refuses_cont = false;
    bench.send("cont", &NOTHING()).unwrap();
    bench.run_for(1_000);
    assert_eq!(bench.qemu.run, RunState::Running);
}

/// P2: an older copy of the journal has a job that had begun, and not what was sent since: neither its recovery nor its
/// manager's `job-end` continues the guest.
#[test]
fn a_job_of_an_older_copy_does_not_continue_what_was_sent_since() {
    let kinds = [
        (JobKind::Save, JobResult::Failed),
        (JobKind::Dump, JobResult::Completed),
        (JobKind::Snapshot, JobResult::Failed),
        (JobKind::MigrationOut, JobResult::Failed),
    ];
    for ((kind, result), is_restarted) in kinds
        .into_iter()
        .flat_map(|one| [(one, false), (one, true)])
    {
        let mut bench = Bench::new(RunState::Running);
        let job = bench.begin(kind).unwrap();
        is_sent(&mut bench);
        if is_restarted {
            restart(&mut bench);
        }
        let before = bench.effects();
        let ended = bench.ask(ControlRequest::JobEnd { job, result });
        let refused = ended.unwrap_err();
        let why = match is_restarted {
            false => "a stream that is not this job's",
            true => "held by no-rule-for-this",
        };
        assert!(refused.contains(why), "{kind}: {refused}");
        bench.run_for(3_000);
        assert_eq!(bench.effects(), before, "{kind}: {}", bench.story());
        assert_eq!(bench.qemu.run, RunState::Postmigrate, "{kind}");
    }
}

/// As libvirt streams: to a descriptor.
#[test]
fn what_a_job_sent_to_a_descriptor_is_here() {
    for kind in [JobKind::Save, JobKind::Dump, JobKind::Snapshot] {
        let mut bench = Bench::new(RunState::Running);
        bench.send("stop", &NOTHING()).unwrap();
        let job = bench.begin(kind).unwrap();
        let effects = [("migrate", json!({"uri": "fd:image"}))];
        bench.enter(job, JobPhase::Perform, &effects).unwrap();
        bench.run_for(3_000);
        bench.end(job).unwrap();
        assert_eq!(bench.qemu.run, RunState::Postmigrate, "{kind}");
        restart(&mut bench);
        bench.send("cont", &NOTHING()).unwrap();
        bench.run_for(1_000);
        assert_eq!(bench.qemu.run, RunState::Running, "{kind}");
    }
}

/// Before this life of the sidecar has looked at QEMU nothing is known of what it has sent: it is looked at first.
#[test]
fn nothing_is_continued_before_it_was_looked_at() {
    for sent in [true, false] {
        let mut bench = Bench::new(RunState::Running);
        match sent {
            true => is_sent(&mut bench),
            false => bench.qemu.run = RunState::Paused,
        }
        bench.restart();
        let token = bench.plain("cont", &NOTHING(), false);
        assert_eq!(bench.answer(token), "waits");
        bench.pump();
        let answer = bench.answer(token);
        match sent {
            true => assert!(answer.contains("it may run elsewhere"), "{answer}"),
            false => assert_eq!(answer, "admitted"),
        }
    }
}

/// What changes nothing of that goes through.
#[test]
fn what_runs_no_guest_is_not_looked_at_first() {
    let mut bench = Bench::new(RunState::Running);
    bench.restart();
    let token = bench.plain("device_add", &NOTHING(), false);
    assert_eq!(bench.answer(token), "admitted");
}

/// P2: QEMU went on by itself with a guest whose migration was cancelled: an older copy of the journal that was taken then
/// does not say that the guest is here, whatever was sent since.
#[test]
fn what_went_on_by_itself_is_not_here_by_an_older_record() {
    let mut bench = Bench::new(RunState::Running);
    let job = bench.begin(JobKind::MigrationOut).unwrap();
    let effects = [("migrate", json!({"uri": "tcp:[::1]:4444"}))];
    bench.enter(job, JobPhase::Perform3, &effects).unwrap();
    bench.qemu.status = MigrationStatus::Cancelled;
    bench.qemu.run = RunState::Running;
    bench.tell(QemuEvent::Migration(MigrationStatus::Cancelled));
    let result = JobResult::Cancelled;
    bench.ask(ControlRequest::JobEnd { job, result }).unwrap();
    is_sent(&mut bench);
    assert_refused(&mut bench, "went on by itself");
    restart(&mut bench);
    assert_refused(&mut bench, "went on by itself, restarted");
}

/// Its QEMU refused to continue it at the end of the job that gave it back, as for an image that is locked for a moment.
#[test]
fn what_was_given_back_and_not_continued_is_continued_later() {
    let mut bench = Bench::new(RunState::Running);
    let job = bench.begin(JobKind::MigrationOut).unwrap();
    let effects = [("migrate", json!({"uri": "tcp:[::1]:4444"}))];
    bench.enter(job, JobPhase::Perform3, &effects).unwrap();
    bench.run_for(3_000);
    bench.qemu.refuses_cont = true;
    bench.enter(job, JobPhase::Confirm3Cancelled, &[]).unwrap();
    let result = JobResult::Cancelled;
    bench.ask(ControlRequest::JobEnd { job, result }).unwrap();
    bench.run_for(3_000);
    assert_eq!(bench.qemu.run, RunState::Postmigrate);
    bench.qemu.refuses_cont = false;
    bench.send("cont", &NOTHING()).unwrap();
    bench.run_for(3_000);
    assert_eq!(bench.qemu.run, RunState::Running);
}
