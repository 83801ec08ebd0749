//! One host: a sidecar, and the counting guest in a QEMU, for jobs that are no migrations.
//!
//! Invariant: as for a pair: what ran is read from the guests' own logs.
//!
//! Not here: which jobs there are, and what becomes of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::guest::GuestImage;
use crate::judge::{Verdict, judge};
use crate::pair::{DOMAIN, UUID};
use crate::qemu::{Begin, GUEST_TIMEOUT, Locking, Qemu, QemuOptions, RunningNow, running_now};
use crate::sidecar::{JobView, RunOptions, Sidecar};
use crate::{Error, Scratch, until};

/// Numbers that the guest prints before anything is done to it.
const NUMBERS_FIRST: u32 = 3;

/// A sidecar and its one domain.
#[derive(Debug)]
pub struct Solo {
    sidecar: Sidecar,
    /// Every QEMU there was, the newest last.
    instances: Vec<Qemu>,
    disk: PathBuf,
    scratch: Scratch,
}

impl Solo {
    /// The guest runs, has printed its first numbers, and is registered as [`DOMAIN`].
    ///
    /// # Errors
    /// As [`Qemu::start`], [`Sidecar::start`] and [`Sidecar::execute`].
    pub fn start(program: &Path, image: &GuestImage, run: &RunOptions) -> Result<Solo, Error> {
        let scratch = Scratch::create()?;
        let disk = scratch.path().join("disk");
        image.write(&disk)?;
        let mut sidecar = Sidecar::new("a", program, &scratch.directory("a")?)?;
        sidecar.start(run)?;
        let mut solo = Solo {
            sidecar,
            instances: Vec::new(),
            disk,
            scratch,
        };
        solo.add(Begin::Running)?;
        solo.qemu().wait_for_number(NUMBERS_FIRST, GUEST_TIMEOUT)?;
        Ok(solo)
    }

    /// A new QEMU, registered in place of the one before, which is gone.
    ///
    /// # Errors
    /// As [`Qemu::start`] and [`Sidecar::execute`].
    pub fn add(&mut self, begin: Begin) -> Result<(), Error> {
        let name = format!("q{}-a", self.instances.len());
        let qemu = Qemu::start(&QemuOptions {
            directory: self.scratch.directory(&name)?,
            name,
            disk: self.disk.clone(),
            uuid: UUID.to_owned(),
            begin,
            locking: Locking::Off,
            data: Vec::new(),
        })?;
        let (socket, pid) = (qemu.sidecar_socket(), qemu.pid());
        self.instances.push(qemu);
        self.sidecar.domain_add(DOMAIN, &socket, UUID, pid)?;
        Ok(())
    }

    /// The sidecar.
    pub fn sidecar(&mut self) -> &mut Sidecar {
        &mut self.sidecar
    }

    /// The newest QEMU.
    ///
    /// # Panics
    /// Never: one is started first of all.
    pub fn qemu(&mut self) -> &mut Qemu {
        self.instances
            .last_mut()
            .expect("one is started first of all")
    }

    /// A file of its own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The guest's disk.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// Begins a job.
    ///
    /// # Errors
    /// As [`Sidecar::execute`].
    pub fn begin(&mut self, kind: &str) -> Result<u64, Error> {
        let arguments = json!({"name": DOMAIN, "kind": kind, "cookie": "<manager/>"});
        let answer = self.sidecar.execute("job-begin", arguments)?;
        Ok(answer["job"].as_u64().unwrap_or_default())
    }

    /// Enters a phase of it.
    ///
    /// # Errors
    /// As [`Sidecar::execute`].
    pub fn enter(&mut self, job: u64, phase: &str, effects: &Value) -> Result<Value, Error> {
        let arguments = json!({"job": job, "phase": phase, "effects": effects});
        self.sidecar.execute("phase-enter", arguments)
    }

    /// Ends it.
    ///
    /// # Errors
    /// As [`Sidecar::execute`].
    pub fn end(&mut self, job: u64) -> Result<Value, Error> {
        self.sidecar.execute("job-end", json!({"job": job}))
    }

    /// Waits until no job is open, and returns the last one.
    ///
    /// # Errors
    /// [`Error::Deadline`], with the logs.
    pub fn settle(&mut self, timeout: Duration) -> Result<Option<JobView>, Error> {
        let settled = until("no open job", timeout, || {
            let mut jobs = self.sidecar.jobs(Some(DOMAIN))?;
            let is_open = jobs.iter().any(|job| job.result.is_none());
            Ok((!is_open).then(|| jobs.pop()))
        });
        settled.map_err(|error| match error {
            Error::Deadline {
                waiting_for,
                after,
                logs,
            } => Error::Deadline {
                waiting_for,
                after,
                logs: format!("{logs}{}", self.report()),
            },
            other => other,
        })
    }

    /// Waits until the newest QEMU answers a question so.
    ///
    /// # Errors
    /// [`Error::Deadline`], with the logs.
    pub fn wait_qemu(
        &mut self,
        question: &str,
        timeout: Duration,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<(), Error> {
        let qemu = self.qemu();
        until(question, timeout, || {
            let answer = qemu.monitor().execute(question, json!({}))?;
            Ok(is_so(&answer).then_some(()))
        })
    }

    /// What all its guests printed, judged; and which of them prints now.
    ///
    /// # Errors
    /// [`Error::Io`] when a log cannot be read.
    pub fn conclude(
        &self,
        numbers: u32,
        timeout: Duration,
    ) -> Result<(Verdict, RunningNow), Error> {
        let running = running_now(&self.instances, numbers, timeout)?;
        let logs: Result<Vec<_>, Error> = self.instances.iter().map(Qemu::guest_log).collect();
        Ok((judge(&logs?), running))
    }

    /// The logs of all processes, for a failure.
    pub fn report(&self) -> String {
        let qemus: String = self.instances.iter().map(Qemu::report).collect();
        qemus + &self.sidecar.report()
    }
}
