//! The standard scenario: one guest, two sides, each with a sidecar and a QEMU.
//!
//! Invariant: a pair is alone in its scratch directory, and everything in it ends with it. When a
//! test panics, the logs of all its processes are printed before they go.
//!
//! Not here: which crash to cause, and what is expected after it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs, thread};

use serde_json::{Value, json};

use crate::guest::GuestImage;
use crate::judge::{GuestLog, Verdict, judge};
use crate::qemu::{Begin, GUEST_TIMEOUT, Locking, Qemu, QemuOptions, RunningNow, running_now};
use crate::qmp::malformed;
use crate::scratch::socket_path;
use crate::sidecar::{DomainView, HeldView, JobView, RunOptions, Sidecar, text};
use crate::{Error, Scratch, until};

/// Name of the domain on both sides.
pub const DOMAIN: &str = "guest";

/// The guest's uuid on both sides.
pub const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// Numbers that the guest prints before a pair is ready: some memory to lose.
const NUMBERS_FIRST: u32 = 3;

/// Size of a disk that each QEMU has for itself.
pub const DATA_BYTES: usize = 4 * 1024 * 1024;

/// How long two looks must agree before a state counts as settled.
const SETTLED_FOR: Duration = Duration::from_millis(20);

/// One of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where the guest boots.
    A,
    /// The first destination.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Side; 2] = [Side::A, Side::B];

    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::A => "a",
            Side::B => "b",
        })
    }
}

/// What a pair starts with.
#[derive(Debug, Clone)]
pub struct PairOptions<'a> {
    /// Path of `phase-journald`.
    pub program: &'a Path,
    /// The guest.
    pub image: &'a GuestImage,
    /// Whether the QEMUs lock the shared disk.
    pub locking: Locking,
    /// How the sidecar of A runs first.
    pub a: RunOptions,
    /// How the sidecar of B runs first.
    pub b: RunOptions,
}

/// How a migration is to go; by default without limits, so that it converges at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The protocol's name; the sidecar's own choice if absent.
    pub protocol: Option<&'static str>,
    /// In bytes per second.
    pub max_bandwidth: Option<u64>,
    /// In milliseconds.
    pub downtime_limit: Option<u64>,
    /// By post-copy.
    pub postcopy: bool,
    /// Who decides; the protocol's own choice if absent.
    pub authority: Option<&'static str>,
    /// So many of the pair's own disks are copied.
    pub copied: usize,
}

/// What became of a `migrate-domain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// The source's sidecar took it.
    Accepted {
        /// Its job.
        job: u64,
        /// The migration's id.
        migration: String,
    },
    /// The source's sidecar died before it answered; whether the job began is unknown.
    NoAnswer,
}

/// One side as its sidecar shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideView {
    /// Its domains.
    pub domains: Vec<DomainView>,
    /// Its open jobs.
    pub jobs: Vec<JobView>,
}

impl SideView {
    /// Whether each open job's domain is held.
    pub fn is_settled(&self) -> bool {
        self.jobs.iter().all(|job| self.held_by(job.job).is_some())
    }

    fn held_by(&self, job: u64) -> Option<&HeldView> {
        let domain = self.domains.iter().find(|domain| domain.job == Some(job))?;
        domain.held.as_ref()
    }
}

/// A state in which no open job moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Side A.
    pub a: SideView,
    /// Side B.
    pub b: SideView,
}

impl Settled {
    /// One side.
    pub fn side(&self, side: Side) -> &SideView {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// How many jobs are open, all of them held.
    pub fn open_jobs(&self) -> usize {
        self.a.jobs.len() + self.b.jobs.len()
    }

    /// Every held domain with its side.
    pub fn held(&self) -> Vec<(Side, &HeldView)> {
        let of = |side| {
            let domains = self.side(side).domains.iter();
            domains.filter_map(move |domain| domain.held.as_ref().map(|held| (side, held)))
        };
        Side::BOTH.into_iter().flat_map(of).collect()
    }
}

/// How a wait for a crash ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// The sidecar ended by itself.
    Crashed,
    /// It did not, and no job is open: the crash point does not exist.
    Ended(Settled),
}

/// What the guest itself says at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    /// Of all logs.
    pub verdict: Verdict,
    /// Of the moment.
    pub running: RunningNow,
}

impl Conclusion {
    /// Whether one copy ran, whole, and exactly one runs now.
    pub fn is_clean_and_running(&self) -> bool {
        self.verdict.is_clean() && matches!(self.running, RunningNow::One(_))
    }

    /// Whether one copy ran, whole, and none runs now, as is right for a held or paused one.
    pub fn is_clean_and_stopped(&self) -> bool {
        self.verdict.is_clean() && self.running == RunningNow::None
    }
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.verdict, self.running)
    }
}

/// The scenario. Everything in it ends when it is dropped.
#[derive(Debug)]
pub struct Pair {
    // Sidecars go first: one that lives on would see its QEMU vanish and act on it.
    sidecars: [Sidecar; 2],
    /// In the order in which they are to run the guest.
    instances: Vec<Qemu>,
    /// The side of each instance.
    sides: Vec<Side>,
    migrations: u32,
    locking: Locking,
    disk: PathBuf,
    /// How many disks of its own each QEMU has.
    data: usize,
    scratch: Scratch,
}

impl Pair {
    /// The guest runs on A and has printed its first numbers; B has a QEMU waiting for it; both
    /// are registered with their sidecars as [`DOMAIN`].
    ///
    /// # Errors
    /// As [`Qemu::start`], [`Sidecar::start`] and [`Sidecar::execute`].
    pub fn start(options: &PairOptions<'_>) -> Result<Pair, Error> {
        Pair::start_with(options, None, 0)
    }

    /// The same, where each QEMU has so many disks of its own too, of [`DATA_BYTES`]: the guest's are full, the
    /// destination's are empty.
    ///
    /// # Errors
    /// As [`Pair::start`].
    pub fn start_with_data(options: &PairOptions<'_>, data: usize) -> Result<Pair, Error> {
        Pair::start_with(options, None, data)
    }

    /// As [`Pair::start_with_data`] and [`Pair::start_killing`].
    ///
    /// # Errors
    /// As [`Pair::start`].
    pub fn start_with_data_killing(
        options: &PairOptions<'_>,
        data: usize,
        victim: Side,
    ) -> Result<Pair, Error> {
        Pair::start_with(options, Some(victim), data)
    }

    /// The same, but a sidecar that reaches its crash point kills the QEMU of `victim` there, and goes on.
    ///
    /// # Errors
    /// As [`Pair::start`].
    pub fn start_killing(options: &PairOptions<'_>, victim: Side) -> Result<Pair, Error> {
        Pair::start_with(options, Some(victim), 0)
    }

    fn start_with(
        options: &PairOptions<'_>,
        victim: Option<Side>,
        data: usize,
    ) -> Result<Pair, Error> {
        let scratch = Scratch::create()?;
        let disk = scratch.path().join("disk");
        options.image.write(&disk)?;
        let sidecar = |side: Side| {
            let name = side.to_string();
            Sidecar::new(&name, options.program, &scratch.directory(&name)?)
        };
        let sidecars = [sidecar(Side::A)?, sidecar(Side::B)?];
        let (instances, sides) = (Vec::new(), Vec::new());
        let locking = options.locking;
        let mut pair = Pair {
            sidecars,
            instances,
            sides,
            migrations: 0,
            locking,
            disk,
            data,
            scratch,
        };
        pair.start_qemu(Side::A, Begin::Running)?;
        pair.start_qemu(Side::B, Begin::Incoming)?;
        for (side, run) in [(Side::A, &options.a), (Side::B, &options.b)] {
            let mut run = run.clone();
            if let (Some(victim), Some(_)) = (victim, &run.crash) {
                run.kills = Some(pair.qemu(victim).pid());
            }
            pair.sidecar(side).start(&run)?;
            pair.domain_add(side)?;
        }
        pair.instances[0].wait_for_number(NUMBERS_FIRST, GUEST_TIMEOUT)?;
        Ok(pair)
    }

    /// A new destination on that side, registered in place of the dead QEMU there, as for the way back.
    ///
    /// # Errors
    /// As [`Qemu::start`] and [`Sidecar::execute`].
    pub fn add_destination(&mut self, side: Side) -> Result<DomainView, Error> {
        self.start_qemu(side, Begin::Incoming)?;
        self.domain_add(side)
    }

    /// The same, of one that listens from its start; the URI that leads there.
    ///
    /// # Errors
    /// As [`Pair::add_destination`].
    pub fn add_listening(&mut self, side: Side) -> Result<String, Error> {
        self.start_qemu(side, Begin::Listening)?;
        self.domain_add(side)?;
        Ok(self.qemu(side).incoming())
    }

    fn start_qemu(&mut self, side: Side, begin: Begin) -> Result<(), Error> {
        // As q0-a, q1-b, q2-a.
        let name = format!("q{}-{side}", self.instances.len());
        let directory = self.scratch.directory(&name)?;
        let data: Vec<PathBuf> = (0..self.data)
            .map(|index| data_path(&directory, index))
            .collect();
        for (index, path) in data.iter().enumerate() {
            let contents = match begin {
                Begin::Running | Begin::Prelaunch => data_contents(index),
                Begin::Incoming | Begin::Listening => vec![0; DATA_BYTES],
            };
            fs::write(path, contents).map_err(Error::io("writing", path))?;
        }
        let qemu = Qemu::start(&QemuOptions {
            directory,
            data,
            name,
            disk: self.disk.clone(),
            uuid: UUID.to_owned(),
            begin,
            locking: self.locking,
        })?;
        self.instances.push(qemu);
        self.sides.push(side);
        Ok(())
    }

    /// What a disk of the newest QEMU's own holds.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read.
    pub fn data(&mut self, side: Side, index: usize) -> Result<Vec<u8>, Error> {
        let name = self.qemu(side).name().to_owned();
        let directory = self.directory().join(name);
        let path = data_path(&directory, index);
        fs::read(&path).map_err(Error::io("reading", &path))
    }

    /// Registers the newest QEMU of a side with its sidecar.
    ///
    /// # Errors
    /// As [`Sidecar::execute`].
    pub fn domain_add(&mut self, side: Side) -> Result<DomainView, Error> {
        let qemu = self.qemu(side);
        let (socket, pid) = (qemu.sidecar_socket(), qemu.pid());
        self.sidecar(side).domain_add(DOMAIN, &socket, UUID, pid)
    }

    /// The sidecar of a side.
    pub fn sidecar(&mut self, side: Side) -> &mut Sidecar {
        match side {
            Side::A => &mut self.sidecars[0],
            Side::B => &mut self.sidecars[1],
        }
    }

    /// The newest QEMU of a side.
    pub fn qemu(&mut self, side: Side) -> &mut Qemu {
        let newest = self.sides.iter().rposition(|of| *of == side);
        &mut self.instances[newest.expect("a pair starts with one QEMU on each side")]
    }

    /// Every QEMU so far, dead or alive, in order.
    pub fn instances(&mut self) -> &mut [Qemu] {
        &mut self.instances
    }

    /// The scenario's directory, for what a test wants to put beside.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// `migrate-domain` on the source's sidecar, to the other side.
    ///
    /// # Errors
    /// As [`Sidecar::execute`], but for a sidecar that dies before it answers.
    pub fn migrate(&mut self, source: Side, limits: Limits) -> Result<Submitted, Error> {
        self.migrate_with(source, limits, json!({}))
    }

    /// The same with more arguments: an object.
    ///
    /// # Errors
    /// As [`Pair::migrate`].
    pub fn migrate_with(
        &mut self,
        source: Side,
        limits: Limits,
        more: Value,
    ) -> Result<Submitted, Error> {
        let socket = socket_path(self.directory().join(format!("m{}", self.migrations)))?;
        self.migrations += 1;
        let mut arguments = json!({
            "name": DOMAIN,
            "peer": text(&self.sidecar(source.other()).peer_socket()),
            "uri": format!("unix:{}", text(&socket)),
        });
        if let Some(protocol) = limits.protocol {
            arguments["protocol"] = json!(protocol);
        }
        if let Some(bytes) = limits.max_bandwidth {
            arguments["max-bandwidth"] = json!(bytes);
        }
        if let Some(milliseconds) = limits.downtime_limit {
            arguments["downtime-limit"] = json!(milliseconds);
        }
        if let Some(authority) = limits.authority {
            arguments["authority"] = json!(authority);
        }
        if limits.copied > 0 {
            let names = (0..limits.copied).map(|index| format!("data{index}"));
            arguments["copy-disks"] = names.collect();
        }
        if limits.postcopy {
            arguments["postcopy"] = json!(true);
        }
        if let (Value::Object(arguments), Value::Object(more)) = (&mut arguments, more) {
            arguments.extend(more);
        }
        match self.sidecar(source).execute("migrate-domain", arguments) {
            Ok(answer) => accepted(&answer),
            Err(Error::Closed { .. }) => Ok(Submitted::NoAnswer),
            Err(other) => Err(other),
        }
    }

    /// Restarts both sidecars, which must be dead, `first` before the other: that one is ready, and
    /// looked for its peer in vain, before the other starts.
    ///
    /// # Errors
    /// As [`Sidecar::start`].
    pub fn restart_both(
        &mut self,
        first: Side,
        a: &RunOptions,
        b: &RunOptions,
    ) -> Result<(), Error> {
        for side in [first, first.other()] {
            let options = match side {
                Side::A => a,
                Side::B => b,
            };
            self.sidecar(side).start(options)?;
        }
        Ok(())
    }

    /// One side as its sidecar shows it now.
    ///
    /// # Errors
    /// As [`Sidecar::execute`].
    pub fn view(&mut self, side: Side) -> Result<SideView, Error> {
        let sidecar = self.sidecar(side);
        Ok(SideView {
            domains: sidecar.domains()?,
            jobs: sidecar.jobs(None)?,
        })
    }

    /// Waits until no job is open on either side but held ones, and that stays so for a moment.
    ///
    /// # Errors
    /// [`Error::Deadline`] with all logs and the last state; as [`Sidecar::execute`] when one dies.
    pub fn wait_until_settled(&mut self, timeout: Duration) -> Result<Settled, Error> {
        let mut seen = Seen::default();
        let settled = until("settled state", timeout, || seen.look(self));
        settled.map_err(|error| self.with_report(error, &seen))
    }

    /// Waits until no job is open on either side: every hold on the way settles by itself.
    ///
    /// # Errors
    /// As [`Pair::wait_until_settled`].
    pub fn wait_until_no_job_is_open(&mut self, timeout: Duration) -> Result<Settled, Error> {
        let mut seen = Seen::default();
        let ended = until("end of all jobs", timeout, || seen.look_for_end(self));
        ended.map_err(|error| self.with_report(error, &seen))
    }

    /// Waits until the sidecar of that side has killed itself; or all is over and forgotten on both
    /// sides, so that it never will. A hold is no end: what settles it may come next, and the crash
    /// with it.
    ///
    /// # Errors
    /// As [`Pair::wait_until_settled`].
    pub fn wait_for_crash(&mut self, side: Side, timeout: Duration) -> Result<Waited, Error> {
        self.wait_for_crash_doing(side, timeout, |_| Ok(()))
    }

    /// The same, and does something at each look.
    ///
    /// # Errors
    /// As [`Pair::wait_for_crash`], and those of `meanwhile`.
    pub fn wait_for_crash_doing(
        &mut self,
        side: Side,
        timeout: Duration,
        mut meanwhile: impl FnMut(&mut Pair) -> Result<(), Error>,
    ) -> Result<Waited, Error> {
        let mut seen = Seen::default();
        let waited = until(&format!("crash of sidecar {side}"), timeout, || {
            meanwhile(self)?;
            if self.has_crashed(side)? {
                return Ok(Some(Waited::Crashed));
            }
            match self.look_for_nothing_left(&mut seen) {
                Ok(ended) => Ok(ended.map(Waited::Ended)),
                // It died, or its journal failed, during the look; the next one sees it dead.
                Err(Error::Closed { .. } | Error::Io { .. } | Error::Refused { .. }) => Ok(None),
                Err(other) => Err(other),
            }
        });
        waited.map_err(|error| self.with_report(error, &seen))
    }

    fn look_for_nothing_left(&mut self, seen: &mut Seen) -> Result<Option<Settled>, Error> {
        let ended = seen.look_for_end(self)?;
        for side in Side::BOTH {
            if ended.is_some() && self.sidecar(side).kept_migrations()? > 0 {
                return Ok(None);
            }
        }
        Ok(ended)
    }

    fn has_crashed(&mut self, side: Side) -> Result<bool, Error> {
        let sidecar = self.sidecar(side);
        Ok(sidecar.ended()?.is_some() || !sidecar.is_started())
    }

    /// What every instance's guest printed, in order.
    ///
    /// # Errors
    /// [`Error::Io`] when a log cannot be read.
    pub fn guest_logs(&self) -> Result<Vec<GuestLog>, Error> {
        self.instances.iter().map(Qemu::guest_log).collect()
    }

    /// Watches until one guest has printed `numbers` more (or `timeout`), then judges all logs.
    ///
    /// # Errors
    /// [`Error::Io`] when a log cannot be read.
    pub fn conclude(&self, numbers: u32, timeout: Duration) -> Result<Conclusion, Error> {
        let running = running_now(&self.instances, numbers, timeout)?;
        Ok(Conclusion {
            verdict: judge(&self.guest_logs()?),
            running,
        })
    }

    /// The logs of all processes, for a failure.
    pub fn report(&self) -> String {
        let qemus: String = self.instances.iter().map(Qemu::report).collect();
        let sidecars: String = self.sidecars.iter().map(Sidecar::report).collect();
        qemus + &sidecars
    }

    fn with_report(&self, error: Error, seen: &Seen) -> Error {
        match error {
            Error::Deadline {
                waiting_for,
                after,
                logs,
            } => Error::Deadline {
                waiting_for,
                after,
                logs: format!("{logs}last seen: {:?}\n{}", seen.last, self.report()),
            },
            other => other,
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

/// The last look at both sides, and since when it did not change.
#[derive(Debug, Default)]
struct Seen {
    last: Option<(Settled, Instant)>,
}

impl Seen {
    fn look(&mut self, pair: &mut Pair) -> Result<Option<Settled>, Error> {
        let now = Settled {
            a: pair.view(Side::A)?,
            b: pair.view(Side::B)?,
        };
        let since = match self.last.take() {
            Some((before, since)) if before == now => since,
            Some(_) | None => Instant::now(),
        };
        let settled = now.a.is_settled() && now.b.is_settled() && since.elapsed() >= SETTLED_FOR;
        self.last = Some((now.clone(), since));
        Ok(settled.then_some(now))
    }

    fn look_for_end(&mut self, pair: &mut Pair) -> Result<Option<Settled>, Error> {
        Ok(self.look(pair)?.filter(|settled| settled.open_jobs() == 0))
    }
}

fn data_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("data{index}"))
}

/// No two sectors the same, and none empty.
fn data_contents(index: usize) -> Vec<u8> {
    let seed = u32::try_from(index).unwrap_or(u32::MAX).wrapping_add(1);
    let words = (0..DATA_BYTES / 4).map(|word| {
        let word = u32::try_from(word).unwrap_or(u32::MAX);
        word.wrapping_add(seed << 24).wrapping_mul(0x9e37_79b1) | 1
    });
    words.flat_map(u32::to_le_bytes).collect()
}

fn accepted(answer: &Value) -> Result<Submitted, Error> {
    match (answer["job"].as_u64(), answer["migration"].as_str()) {
        (Some(job), Some(migration)) => Ok(Submitted::Accepted {
            job,
            migration: migration.to_owned(),
        }),
        _ => Err(malformed(
            "migrate-domain",
            format!("no job and migration in {answer}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(job: Option<u64>, held: bool) -> DomainView {
        let held = held.then(|| HeldView {
            rule: "source-in-doubt".into(),
            reason: "peer unreachable".into(),
            settled_by: None,
        });
        DomainView {
            name: DOMAIN.into(),
            process: "alive".into(),
            run_state: None,
            migration: None,
            wanted: "running".into(),
            job,
            held,
        }
    }

    fn job(job: u64) -> JobView {
        JobView {
            job,
            name: DOMAIN.into(),
            kind: "migration-out".into(),
            migration: None,
            phase: Some("perform3_done".into()),
            state: "open".into(),
            detail: String::new(),
            result: None,
        }
    }

    #[test]
    fn settled_means_no_open_job_that_is_not_held() {
        let view = |domains, jobs| SideView { domains, jobs };
        assert!(view(vec![domain(None, false)], vec![]).is_settled());
        assert!(view(vec![domain(Some(1), true)], vec![job(1)]).is_settled());
        assert!(!view(vec![domain(Some(1), false)], vec![job(1)]).is_settled());
        assert!(
            !view(vec![domain(None, true)], vec![job(1)]).is_settled(),
            "another's hold"
        );
        let settled = Settled {
            a: view(vec![domain(Some(1), true)], vec![job(1)]),
            b: view(vec![domain(None, false)], vec![]),
        };
        assert_eq!((settled.open_jobs(), settled.held().len()), (1, 1));
        assert_eq!(settled.held()[0].0, Side::A);
    }

    #[test]
    fn an_answer_without_a_job_is_refused() {
        let answer = json!({"job": 4, "migration": "m"});
        let migration = "m".to_owned();
        assert_eq!(
            accepted(&answer).unwrap(),
            Submitted::Accepted { job: 4, migration }
        );
        assert!(accepted(&json!({"job": "4"})).is_err());
    }
}
