//! Jobs that are no migrations, on real QEMU: SIGKILL of the sidecar at every durable batch, restart, the outcome as
//! the table says and as QEMU shows; then the same job again succeeds.
//!
//! The program counts its batches and kills itself at the given one, right after it is durable. The points are
//! counted up until a job ends without reaching one.

use std::time::Duration;

use phase_journal_lab::pair::DOMAIN;
use phase_journal_lab::qemu::{Begin, RunningNow};
use phase_journal_lab::sidecar::{CrashPoint, JobView, RunOptions};
use phase_journal_lab::solo::Solo;
use phase_journal_lab::{Error, until};
use serde_json::{Value, json};

use crate::scenario::{EVERY_BATCH, NUMBERS, ORDINARY, TIMEOUT, program};

/// More than any of these jobs has.
const BATCHES_MAX: u32 = 60;
/// Of the disk that keeps snapshots inside.
const INSIDE: &str = "inside";

fn start(run: &RunOptions) -> Solo {
    Solo::start(program(), &ORDINARY, run).unwrap_or_else(|error| panic!("{error}"))
}

fn text(solo: &Solo, name: &str) -> String {
    solo.file(name).display().to_string()
}

/// Is this QEMU job in that state?
fn is_in(id: &'static str, wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |jobs| {
        let mut jobs = jobs.as_array().into_iter().flatten();
        jobs.any(|job| job["id"] == id && job["status"] == wanted)
    }
}

/// A manager's way through one job; `run` makes names that are used once.
type Manager = fn(&mut Solo, run: u32) -> Result<(), Error>;

fn save(solo: &mut Solo, run: u32) -> Result<(), Error> {
    let image = text(solo, &format!("image{run}"));
    let job = solo.begin("save")?;
    solo.enter(job, "prepare", &json!([{"execute": "stop"}]))?;
    let migrate =
        json!([{"execute": "migrate", "arguments": {"uri": format!("exec:cat>{image}")}}]);
    solo.enter(job, "perform", &migrate)?;
    solo.wait_qemu("query-migrate", TIMEOUT, |answer| {
        answer["status"] == "completed"
    })?;
    solo.enter(job, "finish", &json!([{"execute": "quit"}]))?;
    solo.end(job).map(drop)
}

fn dump(solo: &mut Solo, run: u32) -> Result<(), Error> {
    let file = text(solo, &format!("dump{run}"));
    let job = solo.begin("dump")?;
    let arguments = json!({"paging": false, "protocol": format!("file:{file}")});
    let effect = json!([{"execute": "dump-guest-memory", "arguments": arguments}]);
    solo.enter(job, "perform", &effect)?;
    solo.wait_qemu("query-dump", TIMEOUT, |answer| {
        answer["status"] == "completed"
    })?;
    solo.end(job).map(drop)
}

fn snapshot(solo: &mut Solo, run: u32) -> Result<(), Error> {
    let file = text(solo, &format!("overlay{run}"));
    let job = solo.begin("snapshot")?;
    let arguments = json!({
        "device": "virtio0", "snapshot-file": file, "format": "qcow2",
        "snapshot-node-name": format!("overlay{run}"),
    });
    let effect = json!([{"execute": "blockdev-snapshot-sync", "arguments": arguments}]);
    solo.enter(job, "perform", &effect)?;
    solo.end(job).map(drop)
}

/// A disk of the guest's that can hold what a snapshot inside keeps.
fn add_snapshot_disk(solo: &mut Solo) {
    let file = text(solo, "inside");
    std::fs::File::create(&file).unwrap();
    let monitor = solo.qemu().monitor();
    let mut run = |command: &str, arguments: Value| {
        let done = monitor.execute(command, arguments);
        done.unwrap_or_else(|error| panic!("{error}"))
    };
    let node = json!({"driver": "file", "node-name": "file", "filename": file});
    run("blockdev-add", node);
    let options = json!({"driver": "qcow2", "file": "file", "size": 1 << 26});
    let create = json!({"job-id": "create", "options": options});
    run("blockdev-create", create);
    until("qcow2 image", TIMEOUT, || {
        let jobs = run("query-jobs", json!({}));
        Ok(is_in("create", "concluded")(&jobs).then_some(()))
    })
    .unwrap();
    run("job-dismiss", json!({"id": "create"}));
    let node = json!({"driver": "qcow2", "node-name": INSIDE, "file": "file"});
    run("blockdev-add", node);
    let device = json!({"driver": "virtio-blk-pci", "drive": INSIDE, "id": "second"});
    run("device_add", device);
}

/// With everything that the guest is, in one of its disks; the guest stands still meanwhile.
fn snapshot_inside(solo: &mut Solo, run: u32) -> Result<(), Error> {
    let job = solo.begin("snapshot")?;
    let id = format!("s{run}");
    let arguments = json!({
        "job-id": id, "tag": format!("tag{run}"), "vmstate": INSIDE, "devices": [INSIDE],
    });
    let effect = json!([{"execute": "snapshot-save", "arguments": arguments}]);
    solo.enter(job, "perform", &effect)?;
    let is_over = |jobs: &Value| {
        let mut jobs = jobs.as_array().into_iter().flatten();
        jobs.any(|job| job["id"] == id.as_str() && job["status"] == "concluded")
    };
    solo.wait_qemu("query-jobs", TIMEOUT, is_over)?;
    let dismiss = json!([{"execute": "job-dismiss", "arguments": {"id": id}}]);
    solo.enter(job, "finish", &dismiss)?;
    solo.end(job).map(drop)
}

/// Of two disks at one moment.
fn snapshot_of_both(solo: &mut Solo, run: u32) -> Result<(), Error> {
    let directory = solo.file("");
    let action = |disk: Value, name: String| {
        let file = directory.join(&name).display().to_string();
        let mut data = json!({
            "snapshot-file": file, "format": "qcow2", "snapshot-node-name": name,
        });
        let (key, value) = (disk[0].as_str().unwrap(), disk[1].clone());
        data[key] = value;
        json!({"type": "blockdev-snapshot-sync", "data": data})
    };
    // What the guest writes to now: an earlier overlay, if there is one.
    let top = match has_node(solo, "second1") {
        true => "second1",
        false => INSIDE,
    };
    let actions = [
        action(json!(["device", "virtio0"]), format!("first{run}")),
        action(json!(["node-name", top]), format!("second{run}")),
    ];
    let arguments = json!({"actions": actions});
    let job = solo.begin("snapshot")?;
    let effect = json!([{"execute": "transaction", "arguments": arguments}]);
    solo.enter(job, "perform", &effect)?;
    solo.end(job).map(drop)
}

fn has_node(solo: &mut Solo, name: &str) -> bool {
    let monitor = solo.qemu().monitor();
    let nodes = monitor
        .execute("query-named-block-nodes", json!({"flat": true}))
        .unwrap();
    let mut nodes = nodes.as_array().into_iter().flatten();
    nodes.any(|node| node["node-name"] == name)
}

fn has_snapshot_inside(solo: &mut Solo, tag: &str) -> bool {
    let monitor = solo.qemu().monitor();
    let nodes = monitor
        .execute("query-named-block-nodes", json!({}))
        .unwrap();
    let nodes = nodes.as_array().into_iter().flatten();
    let mut of_disk = nodes.filter(|node| node["node-name"] == INSIDE);
    of_disk.any(|node| {
        let mut kept = node["image"]["snapshots"].as_array().into_iter().flatten();
        kept.any(|snapshot| snapshot["name"] == tag)
    })
}

fn backup(solo: &mut Solo, run: u32) -> Result<(), Error> {
    let file = text(solo, &format!("backup{run}"));
    let size = std::fs::metadata(solo.disk()).unwrap().len();
    std::fs::File::create(&file).unwrap().set_len(size).unwrap();
    let job = solo.begin("backup")?;
    let target = json!({
        "node-name": "target", "driver": "raw",
        "file": {"driver": "file", "filename": file, "locking": "off"},
    });
    let add = json!([{"execute": "blockdev-add", "arguments": target}]);
    solo.enter(job, "prepare", &add)?;
    let arguments =
        json!({"job-id": "b0", "device": "virtio0", "target": "target", "sync": "full"});
    let begin = json!([{"execute": "blockdev-backup", "arguments": arguments}]);
    solo.enter(job, "perform", &begin)?;
    solo.wait_qemu("query-jobs", TIMEOUT, is_in("b0", "pending"))?;
    let id = json!({"id": "b0"});
    solo.enter(
        job,
        "finish",
        &json!([{"execute": "job-finalize", "arguments": id}]),
    )?;
    solo.wait_qemu("query-jobs", TIMEOUT, is_in("b0", "concluded"))?;
    let rest = json!([
        {"execute": "job-dismiss", "arguments": id},
        {"execute": "blockdev-del", "arguments": {"node-name": "target"}},
    ]);
    solo.enter(job, "finish", &rest)?;
    solo.end(job)?;
    // The counting guest writes nothing to its disk.
    let (copy, disk) = (std::fs::read(file), std::fs::read(solo.disk()));
    assert!(copy.unwrap() == disk.unwrap(), "the copy is another");
    Ok(())
}

/// For whoever reads the disk himself: it is served until the job ends.
fn backup_by_export(solo: &mut Solo, run: u32) -> Result<(), Error> {
    let job = solo.begin("backup")?;
    let socket = text(solo, &format!("nbd{run}"));
    let address = json!({"type": "unix", "data": {"path": socket}});
    let node = json!({"node-name": "source", "driver": "null-co", "size": 1 << 20});
    let prepare = json!([
        {"execute": "blockdev-add", "arguments": node},
        {"execute": "nbd-server-start", "arguments": {"addr": address}},
    ]);
    solo.enter(job, "prepare", &prepare)?;
    let export = json!({"type": "nbd", "id": "export", "node-name": "source"});
    let begin = json!([{"execute": "block-export-add", "arguments": export}]);
    solo.enter(job, "perform", &begin)?;
    let rest = json!([
        {"execute": "block-export-del", "arguments": {"id": "export", "mode": "hard"}},
        {"execute": "nbd-server-stop"},
        {"execute": "blockdev-del", "arguments": {"node-name": "source"}},
    ]);
    solo.enter(job, "finish", &rest)?;
    solo.end(job).map(drop)
}

fn suspend(solo: &mut Solo, _: u32) -> Result<(), Error> {
    let job = solo.begin("suspend")?;
    solo.enter(
        job,
        "perform",
        &json!([{"execute": "stop"}, {"execute": "cont"}]),
    )?;
    solo.end(job).map(drop)
}

fn modify(solo: &mut Solo, run: u32) -> Result<(), Error> {
    let job = solo.begin("modify")?;
    let backend = json!({"type": "null", "data": {}});
    let arguments = json!({"id": format!("c{run}"), "backend": backend});
    let add = json!([{"execute": "chardev-add", "arguments": arguments}]);
    solo.enter(job, "perform", &add)?;
    solo.end(job).map(drop)
}

fn destroy(solo: &mut Solo, _: u32) -> Result<(), Error> {
    let job = solo.begin("destroy")?;
    solo.enter(job, "perform", &json!([{"execute": "quit"}]))?;
    solo.end(job).map(drop)
}

/// Runs a job, and says whether the sidecar died in it.
fn has_crashed(solo: &mut Solo, manager: Manager, run: u32) -> bool {
    match manager(solo, run) {
        Ok(()) => false,
        Err(error) => {
            // Its own crash point, and nothing else, may end it; that is waited for.
            let ended = solo.sidecar().wait_ended(TIMEOUT);
            assert!(ended.is_ok(), "{error}\n{}", solo.report());
            true
        }
    }
}

fn assert_runs(solo: &Solo, what: &str) {
    let (verdict, running) = solo.conclude(NUMBERS, TIMEOUT).unwrap();
    assert!(verdict.is_clean(), "{what}: {verdict}");
    assert!(
        matches!(running, RunningNow::One(_)),
        "{what}: {running}\n{}",
        solo.report()
    );
}

/// Nothing of a job is left in QEMU.
fn assert_nothing_left(solo: &mut Solo, what: &str) {
    let monitor = solo.qemu().monitor();
    let jobs = monitor.execute("query-jobs", json!({})).unwrap();
    assert_eq!(jobs, json!([]), "{what}");
    let nodes = monitor
        .execute("query-named-block-nodes", json!({"flat": true}))
        .unwrap();
    let names = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["node-name"]);
    let names: Vec<&Value> = names.collect();
    for name in ["source", "target"] {
        assert!(!names.contains(&&json!(name)), "{what}: {names:?}");
    }
}

/// What must be so after the crash and the restart; `job` is the one that was open, if it began.
type Judge = fn(&mut Solo, job: Option<&JobView>, what: &str);

/// Kills the sidecar after each durable batch of a job; how many there were. What QEMU tells meanwhile may share a batch with
/// something else, so that only those are sure that the manager or an effect waits for: the begin, each intent, the last
/// result of each phase, and the end.
fn every_batch(manager: Manager, judge: Judge) -> u32 {
    every_batch_of(|_| {}, manager, judge)
}

/// The same of a guest that is prepared for it.
fn every_batch_of(prepare: fn(&mut Solo), manager: Manager, judge: Judge) -> u32 {
    type Point = fn(u32) -> CrashPoint;
    let kinds: &[(&str, Point)] = match std::env::var_os(EVERY_BATCH) {
        Some(_) => &[
            ("after", CrashPoint::AfterBatch),
            ("before", CrashPoint::BeforeBatch),
        ],
        None => &[("after", CrashPoint::AfterBatch)],
    };
    let points = kinds.iter().map(|(when, point)| {
        let crashed = (1..BATCHES_MAX).take_while(|batch| {
            let what = format!("{when} batch {batch}");
            has_recovered(&point(*batch), prepare, manager, judge, &what)
        });
        u32::try_from(crashed.count()).unwrap()
    });
    points.min().unwrap()
}

/// The sidecar dies at that point, comes back, and the same job again succeeds; false if it never came to that point.
fn has_recovered(
    point: &CrashPoint,
    prepare: fn(&mut Solo),
    manager: Manager,
    judge: Judge,
    what: &str,
) -> bool {
    let mut solo = start(&RunOptions::crashing(point.clone()));
    prepare(&mut solo);
    if !has_crashed(&mut solo, manager, 1) {
        return false;
    }
    solo.sidecar()
        .start(&RunOptions::default())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let job = solo
        .settle(TIMEOUT)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    judge(&mut solo, job.as_ref(), what);
    if solo.qemu().is_alive().unwrap() {
        manager(&mut solo, 2).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    }
    true
}

fn result(job: Option<&JobView>) -> &str {
    job.and_then(|job| job.result.as_deref()).unwrap_or("none")
}

/// The guest goes on where it was, whatever became of the job.
fn goes_on(solo: &mut Solo, _: Option<&JobView>, what: &str) {
    assert_runs(solo, what);
    assert_nothing_left(solo, what);
    let domains = solo.sidecar().domains().unwrap();
    assert_eq!(domains[0].wanted, "running", "{what}");
    assert!(domains[0].held.is_none(), "{what}: {domains:?}");
}

#[test]
fn a_save_is_undone_or_done() {
    fn judge(solo: &mut Solo, job: Option<&JobView>, what: &str) {
        if solo.qemu().is_alive().unwrap() {
            assert_ne!(result(job), "completed", "{what}: {job:?}");
            return goes_on(solo, job, what);
        }
        assert_eq!(result(job), "completed", "{what}: {job:?}");
        restore(solo, "image1");
        assert_runs(solo, what);
    }
    let points = every_batch(save, judge);
    assert!(points >= 6, "{points}");
}

/// What was saved is loaded into a new QEMU, as a job of its own.
fn restore(solo: &mut Solo, image: &str) {
    let image = text(solo, image);
    solo.add(Begin::Incoming).unwrap();
    let job = solo.begin("restore").unwrap();
    let arguments = json!({"uri": format!("exec:cat {image}")});
    let load = json!([{"execute": "migrate-incoming", "arguments": arguments}]);
    solo.enter(job, "perform", &load).unwrap();
    solo.wait_qemu("query-migrate", TIMEOUT, |answer| {
        answer["status"] == "completed"
    })
    .unwrap();
    solo.enter(job, "finish", &json!([{"execute": "cont"}]))
        .unwrap();
    solo.end(job).unwrap();
}

#[test]
fn a_dump_leaves_the_guest_running() {
    let points = every_batch(dump, goes_on);
    assert!(points >= 4, "{points}");
}

#[test]
fn a_snapshot_happened_or_did_not() {
    fn judge(solo: &mut Solo, job: Option<&JobView>, what: &str) {
        let is_there = has_node(solo, "overlay1");
        assert_eq!(result(job) == "completed", is_there, "{what}: {job:?}");
        goes_on(solo, job, what);
    }
    let points = every_batch(snapshot, judge);
    assert!(points >= 4, "{points}");
}

#[test]
fn a_snapshot_inside_is_kept_or_not_proven() {
    fn judge(solo: &mut Solo, job: Option<&JobView>, what: &str) {
        if result(job) == "completed" {
            assert!(has_snapshot_inside(solo, "tag1"), "{what}: {job:?}");
        }
        goes_on(solo, job, what);
    }
    let points = every_batch_of(add_snapshot_disk, snapshot_inside, judge);
    assert!(points >= 5, "{points}");
}

#[test]
fn a_snapshot_of_two_disks_is_of_both_or_of_none() {
    fn judge(solo: &mut Solo, job: Option<&JobView>, what: &str) {
        let there = ["first1", "second1"].map(|name| has_node(solo, name));
        let is_done = result(job) == "completed";
        assert_eq!(there, [is_done; 2], "{what}: {job:?}");
        goes_on(solo, job, what);
    }
    let points = every_batch_of(add_snapshot_disk, snapshot_of_both, judge);
    assert!(points >= 4, "{points}");
}

/// What its owner paused stays paused, whatever becomes of a job.
#[test]
fn a_paused_guest_stays_paused() {
    fn pause(solo: &mut Solo) {
        let paused = solo
            .sidecar()
            .execute("domain-suspend", json!({"name": DOMAIN}));
        paused.unwrap();
    }
    fn judge(solo: &mut Solo, _: Option<&JobView>, what: &str) {
        assert_eq!(solo.qemu().run_state().unwrap(), "paused", "{what}");
        let domains = solo.sidecar().domains().unwrap();
        assert_eq!(domains[0].wanted, "paused", "{what}");
        assert!(domains[0].held.is_none(), "{what}: {domains:?}");
        assert_nothing_left(solo, what);
    }
    let points = every_batch_of(pause, dump, judge);
    assert!(points >= 4, "{points}");
}

#[test]
fn a_backup_is_taken_up_again_and_closed() {
    let points = every_batch(backup, goes_on);
    assert!(points >= 8, "{points}");
}

/// Nobody is served any more, and whoever serves next finds nothing in the way.
#[test]
fn an_export_is_taken_back() {
    fn judge(solo: &mut Solo, job: Option<&JobView>, what: &str) {
        let monitor = solo.qemu().monitor();
        let exports = monitor.execute("query-block-exports", json!({})).unwrap();
        assert_eq!(exports, json!([]), "{what}");
        goes_on(solo, job, what);
    }
    let points = every_batch(backup_by_export, judge);
    assert!(points >= 8, "{points}");
}

/// A guest that boots in a job runs, or its QEMU is ended before it executed anything.
#[test]
fn a_start_is_undone_or_done() {
    fn boot(solo: &mut Solo, _: u32) -> Result<(), Error> {
        let job = solo.begin("start")?;
        solo.enter(job, "perform", &json!([{"execute": "cont"}]))?;
        solo.end(job).map(drop)
    }
    for batch in 1..BATCHES_MAX {
        let what = format!("after batch {batch}");
        let mut solo = start(&RunOptions::default());
        destroy(&mut solo, 1).unwrap();
        solo.sidecar().kill().unwrap();
        let crash = RunOptions::crashing(CrashPoint::AfterBatch(batch));
        solo.sidecar().start(&crash).unwrap();
        solo.add(Begin::Prelaunch).unwrap();
        if !has_crashed(&mut solo, boot, 1) {
            assert!(batch > 4, "{batch}");
            return;
        }
        solo.sidecar().start(&RunOptions::default()).unwrap();
        let job = solo
            .settle(TIMEOUT)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let has_run = !solo.qemu().guest_log().unwrap().bytes.is_empty();
        if job.is_some() && result(job.as_ref()) != "completed" {
            assert!(
                !has_run && !solo.qemu().is_alive().unwrap(),
                "{what}: {job:?}"
            );
            solo.add(Begin::Prelaunch).unwrap();
        }
        if result(job.as_ref()) != "completed" {
            boot(&mut solo, 2).unwrap();
        }
        assert_eq!(solo.qemu().run_state().unwrap(), "running", "{what}");
        solo.qemu().wait_for_number(1, TIMEOUT).unwrap();
    }
}

#[test]
fn a_suspend_is_as_qemu_shows_it() {
    fn judge(solo: &mut Solo, _: Option<&JobView>, what: &str) {
        let run_state = solo.qemu().run_state().unwrap();
        let wanted = solo.sidecar().domains().unwrap()[0].wanted.clone();
        assert_eq!(wanted, run_state, "{what}");
    }
    let points = every_batch(suspend, judge);
    assert!(points >= 4, "{points}");
}

#[test]
fn a_modify_is_as_qemu_shows_it() {
    let points = every_batch(modify, goes_on);
    assert!(points >= 4, "{points}");
}

#[test]
fn a_destroy_is_finished() {
    fn judge(solo: &mut Solo, job: Option<&JobView>, what: &str) {
        if job.is_none() {
            // It never began.
            return assert_runs(solo, what);
        }
        solo.qemu().wait_dead(TIMEOUT).unwrap();
        assert_eq!(result(job), "completed", "{what}: {job:?}");
    }
    let points = every_batch(destroy, judge);
    assert!(points >= 3, "{points}");
}

/// A start that its sidecar did not live to see is ended: the guest never ran.
#[test]
fn a_restore_is_undone_or_done() {
    fn manager(solo: &mut Solo, _: u32) -> Result<(), Error> {
        let image = text(solo, "image1");
        let job = solo.begin("restore")?;
        let arguments = json!({"uri": format!("exec:cat {image}")});
        let load = json!([{"execute": "migrate-incoming", "arguments": arguments}]);
        solo.enter(job, "perform", &load)?;
        solo.wait_qemu("query-migrate", TIMEOUT, |answer| {
            answer["status"] == "completed"
        })?;
        solo.enter(job, "finish", &json!([{"execute": "cont"}]))?;
        solo.end(job).map(drop)
    }
    for batch in 1..BATCHES_MAX {
        let what = format!("after batch {batch}");
        let mut solo = start(&RunOptions::default());
        save(&mut solo, 1).unwrap();
        solo.sidecar().kill().unwrap();
        let crash = RunOptions::crashing(CrashPoint::AfterBatch(batch));
        solo.sidecar().start(&crash).unwrap();
        solo.add(Begin::Incoming).unwrap();
        if !has_crashed(&mut solo, manager, 1) {
            assert!(batch > 7, "{batch}");
            return;
        }
        solo.sidecar().start(&RunOptions::default()).unwrap();
        let job = solo
            .settle(TIMEOUT)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        if result(job.as_ref()) != "completed" {
            // The image is as it was.
            assert!(!solo.qemu().is_alive().unwrap(), "{what}");
            restore(&mut solo, "image1");
        }
        assert_runs(&solo, &what);
    }
}

/// A backup that takes its time: of nothing to nothing, both large.
fn slow_backup(solo: &mut Solo) -> u64 {
    let node = |name: &str| {
        let arguments = json!({"node-name": name, "driver": "null-co", "size": 1 << 28});
        json!({"execute": "blockdev-add", "arguments": arguments})
    };
    let job = solo.begin("backup").unwrap();
    let add = json!([node("source"), node("target")]);
    solo.enter(job, "prepare", &add).unwrap();
    let arguments = json!({
        "job-id": "b0", "device": "source", "target": "target", "sync": "full", "speed": 65536,
    });
    let begin = json!([{"execute": "blockdev-backup", "arguments": arguments}]);
    solo.enter(job, "perform", &begin).unwrap();
    job
}

/// Block jobs that conclude while nobody is connected: they wait for a word, and get it.
#[test]
fn a_backup_that_ends_unwatched_is_closed() {
    let mut solo = start(&RunOptions::default());
    slow_backup(&mut solo);
    solo.sidecar().kill().unwrap();
    let faster = json!({"device": "b0", "speed": 0});
    let monitor = solo.qemu().monitor();
    monitor.execute("block-job-set-speed", faster).unwrap();
    solo.wait_qemu("query-jobs", TIMEOUT, is_in("b0", "pending"))
        .unwrap();
    solo.sidecar().start(&RunOptions::default()).unwrap();
    let job = solo.settle(TIMEOUT).unwrap();
    assert_eq!(result(job.as_ref()), "completed", "{job:?}");
    goes_on(&mut solo, None, "ended unwatched");
}

/// An active block job outlives the sidecar: its manager takes it up again, and cancels it.
#[test]
fn a_backup_goes_on_without_its_sidecar() {
    let mut solo = start(&RunOptions::default());
    let job = slow_backup(&mut solo);
    solo.sidecar().kill().unwrap();
    solo.sidecar().start(&RunOptions::default()).unwrap();
    until("backup-active", TIMEOUT, || {
        let decisions = solo.sidecar().decisions()?;
        let is_active = decisions.iter().any(|one| one.rule == "backup-active");
        Ok(is_active.then_some(()))
    })
    .unwrap();
    let ours = json!({"name": DOMAIN});
    let jobs = solo.sidecar().execute("query-jobs", ours).unwrap();
    assert_eq!(jobs[0]["cookie"], "<manager/>", "{jobs}");
    solo.enter(job, "perform", &json!([])).unwrap();
    let refused = solo.end(job).unwrap_err().to_string();
    assert!(refused.contains("QEMU job 'b0' is running"), "{refused}");
    let cancel = json!({"job": job});
    solo.sidecar().execute("job-cancel", cancel).unwrap();
    let job = solo.settle(TIMEOUT).unwrap();
    assert_eq!(result(job.as_ref()), "cancelled", "{job:?}");
    goes_on(&mut solo, None, "cancelled");
}

/// One clear error each, nothing changed, nothing left behind.
#[test]
fn what_does_not_belong_is_refused() {
    let mut solo = start(&RunOptions::default());
    let refused = |result: Result<Value, Error>, expected: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let begin = |solo: &mut Solo, kind: &str| {
        let arguments = json!({"name": DOMAIN, "kind": kind});
        solo.sidecar().execute("job-begin", arguments)
    };
    refused(
        begin(&mut solo, "migration-in"),
        "cannot begin such a job: its QEMU is running",
    );
    refused(
        begin(&mut solo, "restore"),
        "cannot begin such a job: its QEMU is running",
    );
    let unknown = json!({"name": "nobody", "kind": "save"});
    refused(
        solo.sidecar().execute("job-begin", unknown),
        "no domain named 'nobody'",
    );
    let job = solo.begin("save").unwrap();
    refused(
        begin(&mut solo, "dump"),
        &format!("is busy: job {job} (save, phase begin, for"),
    );
    refused(begin(&mut solo, "modify"), "is busy");
    let migrate = json!({"name": DOMAIN, "peer": "/nowhere", "uri": "unix:/nowhere"});
    refused(solo.sidecar().execute("migrate-domain", migrate), "is busy");
    let effects = json!([{"execute": "device_add", "arguments": {"driver": "e1000"}}]);
    refused(
        solo.enter(job, "perform", &effects),
        "device_add is not for phase perform of a save job, but migrate, stop",
    );
    let elsewhere = json!([{"execute": "migrate", "arguments": {"uri": "tcp:[::1]:4444"}}]);
    refused(
        solo.enter(job, "perform", &elsewhere),
        "exec:, fd: or file:",
    );
    refused(
        solo.enter(job, "finish", &json!([{"execute": "quit"}])),
        "its image is not whole",
    );
    refused(solo.enter(job + 1000, "perform", &json!([])), "no open job");
    let wrong = json!([{"execute": "migrate", "arguments": {"uri": "fd:nothing"}}]);
    refused(
        solo.enter(job, "perform", &wrong),
        "effect 1 of 1, migrate was refused",
    );
    refused(
        solo.enter(job, "prepare", &json!([])),
        "prepare cannot be entered",
    );
    // Taken back before QEMU can have heard of it.
    let beside = solo.begin("destroy").unwrap();
    solo.sidecar()
        .execute("job-cancel", json!({"job": beside}))
        .unwrap();
    until("destroy cancelled", TIMEOUT, || {
        let jobs = solo.sidecar().jobs(Some(DOMAIN))?;
        let is_over = |job: &JobView| job.job == beside && job.result.is_some();
        Ok(jobs.iter().any(is_over).then_some(()))
    })
    .unwrap();
    solo.sidecar()
        .execute("job-cancel", json!({"job": job}))
        .unwrap();
    let last = solo.settle(Duration::from_secs(20)).unwrap();
    assert_eq!(result(last.as_ref()), "cancelled", "{last:?}");
    goes_on(&mut solo, None, "refused");
}
