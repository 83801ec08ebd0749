//! The main job on real QEMU, as a short story: a guest migrates, a sidecar is killed in the worst
//! moment, recovery decides, and the guest itself tells whether it was right.
//!
//! Invariant: nothing is claimed that was not looked at; the exit code is the verdict.
//! Not here: installing and building (`tools/demo`).

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use phase_journal_lab::guest::{GuestImage, GuestOptions};
use phase_journal_lab::pair::{Limits, Pair, PairOptions, Side, Waited};
use phase_journal_lab::qemu::Locking;
use phase_journal_lab::sidecar::{CrashPoint, RunOptions};

const TIMEOUT: Duration = Duration::from_secs(60);
/// Numbers the guest must count on after all is over.
const NUMBERS: u32 = 30;
/// Records of the dump that are shown.
const RECORDS_SHOWN: &str = "24";

struct Scene {
    title: &'static str,
    /// Whose sidecar is killed.
    victim: Side,
    /// Where.
    crash: CrashPoint,
    /// What has happened when it dies.
    moment: &'static str,
}

type Anything = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let Some(programs) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: phase-journal-demo DIRECTORY-OF-PROGRAMS");
        return ExitCode::from(2);
    };
    let scenes = [
        Scene {
            title: "The source's sidecar is killed after perform3_done",
            victim: Side::A,
            crash: CrashPoint::BeforeRecord("outcome-learned".to_owned()),
            moment: "Its QEMU has sent everything, the licence to run has gone out, and the\n   \
                     destination's answer is lost with it: does the guest run over there?",
        },
        Scene {
            title: "The destination's sidecar is killed in finish3",
            victim: Side::B,
            crash: CrashPoint::AfterRecord("migration-committed".to_owned()),
            moment: "It has durably taken the guest over, but the one `cont` was not sent:\n   \
                     the guest is stopped on both sides.",
        },
    ];
    let mut right = true;
    for (number, scene) in (1..).zip(&scenes) {
        println!("\n=== {number}. {}\n", scene.title);
        match play(scene, &programs) {
            Ok(verdict) => right &= verdict,
            Err(error) => {
                println!("   FAILED: {error}");
                right = false;
            }
        }
    }
    if right {
        println!("\n=== Both times exactly one copy ran, and it lost nothing.");
        ExitCode::SUCCESS
    } else {
        println!("\n=== FAILED: see above.");
        ExitCode::FAILURE
    }
}

/// Says what is being done, does it, and says how long it took.
fn step<T>(
    what: &str,
    work: impl FnOnce() -> Result<T, phase_journal_lab::Error>,
) -> Result<T, Anything> {
    use std::io::Write as _;
    print!(" - {what} ... ");
    std::io::stdout().flush()?;
    let begun = Instant::now();
    let result = work()?;
    println!("{} ms", begun.elapsed().as_millis());
    Ok(result)
}

fn play(scene: &Scene, programs: &Path) -> Result<bool, Anything> {
    let image = GuestImage::assemble(GuestOptions::ORDINARY)?;
    let daemon = programs.join("phase-journald");
    let (crash, plain) = (
        RunOptions::crashing(scene.crash.clone()),
        RunOptions::default(),
    );
    let (a, b) = match scene.victim {
        Side::A => (crash, plain.clone()),
        Side::B => (plain.clone(), crash),
    };
    // Without locks on the image nothing but the sidecars keeps two copies from running.
    let options = PairOptions {
        program: &daemon,
        image: &image,
        locking: Locking::Off,
        a,
        b,
    };
    let mut pair = step(
        "two QEMUs and two sidecars start; the guest counts at A",
        || Pair::start(&options),
    )?;
    let waited = step("migrate A to B, and SIGKILL the sidecar", || {
        pair.migrate(Side::A, Limits::default())?;
        pair.wait_for_crash(scene.victim, TIMEOUT)
    })?;
    if waited != Waited::Crashed {
        println!("   the sidecar was not killed: the migration had no such moment");
        return Ok(false);
    }
    println!("   {}", scene.moment);
    for side in Side::BOTH {
        let name = if side == Side::A {
            "source"
        } else {
            "destination"
        };
        let (run, status) = (
            pair.qemu(side).run_state()?,
            pair.qemu(side).migration_status()?,
        );
        println!("   QEMU at {side} ({name}): {run}, migration {status}");
    }
    step("the sidecar is started again and recovers", || {
        pair.sidecar(scene.victim).start(&plain)
    })?;
    let settled = step("no job is open any more", || {
        pair.wait_until_no_job_is_open(TIMEOUT)
    })?;
    let conclusion = step("the guest is watched for a while", || {
        pair.conclude(NUMBERS, TIMEOUT)
    })?;

    println!("\n   What recovery decided, by which rule, on what evidence:");
    let command = programs.join("phase-journal");
    show(&command, &["explain"], pair.sidecar(scene.victim).journal())?;
    println!("\n   What the guest says (one serial port, two QEMUs):");
    show_serial(&pair)?;
    println!("\n   The journal of the sidecar that was killed, its last {RECORDS_SHOWN} records:");
    show(
        &command,
        &["dump", "-n", RECORDS_SHOWN],
        pair.sidecar(scene.victim).journal(),
    )?;

    println!("\n   Verdict of the guest's own numbers: {conclusion}");
    println!("   Open jobs: {}", settled.open_jobs());
    Ok(conclusion.is_clean_and_running() && settled.open_jobs() == 0)
}

/// Runs the operator's command on a journal and shows what it prints, indented.
fn show(command: &Path, arguments: &[&str], journal: &Path) -> Result<(), Anything> {
    let output = Command::new(command)
        .args(&arguments[..1])
        .arg(journal)
        .args(&arguments[1..])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.trim_end().lines() {
        println!("   | {line}");
    }
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(())
}

/// The seam between the two logs: the last numbers of one, the first of the other.
fn show_serial(pair: &Pair) -> Result<(), Anything> {
    for log in pair.guest_logs()? {
        let text = String::from_utf8_lossy(&log.bytes).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        let shown = |lines: &[&str]| lines.join(" ");
        let line = match lines.len() {
            0 => "(nothing)".to_owned(),
            1..=8 => shown(&lines),
            count => format!("{} ... {}", shown(&lines[..4]), shown(&lines[count - 4..])),
        };
        println!("   | {}: {line}", log.instance);
    }
    Ok(())
}
