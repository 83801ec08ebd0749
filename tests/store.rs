//! Authority store on real QEMU: two sidecars in this process share a store in its memory. They are stopped by
//! a signal to the process, so that only one of these tests runs at a time in it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use journal_format::number::MigrationId;
use journal_format::record::{KeyChange, KeyValue};
use phase_journal::engine::{StoreFailure, StoreRequest};
use phase_journal::journal::Retention;
use phase_journal::node::CrashSwitch;
use phase_journal::sidecar::{Answering, Config, MemoryStore, RunError, Store, run};
use phase_journal_lab::guest::{GuestImage, GuestOptions};
use phase_journal_lab::judge::judge;
use phase_journal_lab::qemu::{Begin, Locking, Qemu, QemuOptions, RunningNow, running_now};
use phase_journal_lab::qmp::Qmp;
use phase_journal_lab::{Error, Scratch, until};
use serde_json::{Value, json};

use crate::scenario::{NUMBERS, TIMEOUT};

const UUID: &str = "11111111-2222-4333-8444-555555555555";
/// Whoever holds it is alone with the process's signals.
static ALONE: Mutex<()> = Mutex::new(());

const A: usize = 0;
const B: usize = 1;

/// A store of which a part may fail.
#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    takes_no_commit: AtomicBool,
}

impl Store for Faulty {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn ask(&self, migration: MigrationId, request: StoreRequest) -> Answering<'_> {
        let is_commit = matches!(
            request,
            StoreRequest::Change(KeyChange::Create(KeyValue::Committed { .. }))
        );
        if is_commit && self.takes_no_commit.load(Ordering::Relaxed) {
            let failure = StoreFailure("not for you".to_owned());
            return Box::pin(async move { Err(failure) });
        }
        self.inner.ask(migration, request)
    }
}

/// Two QEMUs, the guest on the first one, and two sidecars that can be stopped and started together.
struct Host {
    store: Arc<Faulty>,
    qemus: Vec<Qemu>,
    sidecars: Vec<JoinHandle<Result<(), RunError>>>,
    scratch: Scratch,
    _alone: MutexGuard<'static, ()>,
}

impl Host {
    fn start() -> Host {
        // A test that failed leaves nothing behind that the next one could mind.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = Scratch::create().unwrap();
        let disk = scratch.path().join("disk");
        let image = GuestImage::assemble(GuestOptions::ORDINARY).unwrap();
        image.write(&disk).unwrap();
        let qemu = |name: &str, begin| {
            Qemu::start(&QemuOptions {
                name: name.to_owned(),
                directory: scratch.directory(name).unwrap(),
                disk: disk.clone(),
                uuid: UUID.to_owned(),
                begin,
                locking: Locking::Off,
                data: Vec::new(),
            })
            .unwrap()
        };
        let mut qemus = vec![qemu("qa", Begin::Running), qemu("qb", Begin::Incoming)];
        qemus[A].wait_for_number(3, TIMEOUT).unwrap();
        let mut host = Host {
            store: Arc::new(Faulty {
                inner: MemoryStore::new("memory"),
                takes_no_commit: AtomicBool::new(false),
            }),
            qemus,
            sidecars: Vec::new(),
            scratch,
            _alone: alone,
        };
        host.start_sidecars();
        for at in [A, B] {
            let arguments = json!({
                "name": "guest",
                "qmp": host.qemus[at].sidecar_socket(),
                "uuid": UUID,
                "pid": host.qemus[at].pid(),
            });
            host.ask(at, "domain-add", arguments);
        }
        host
    }

    fn directory(&self, at: usize) -> PathBuf {
        self.scratch.path().join(["a", "b"][at])
    }

    fn start_sidecars(&mut self) {
        for at in [A, B] {
            let config = Config {
                journal: self.directory(at).join("journal"),
                run: self.directory(at).join("run"),
                accept_older_journal: false,
                retention: Retention::DEFAULT,
                crash: CrashSwitch::default(),
                peers: Vec::new(),
                store: Some(self.store.clone()),
            };
            self.sidecars.push(std::thread::spawn(move || run(config)));
        }
    }

    /// As a service manager does it: one signal, which every sidecar of this process hears.
    fn stop_sidecars(&mut self) {
        let this = rustix::process::getpid();
        rustix::process::kill_process(this, rustix::process::Signal::TERM).unwrap();
        for sidecar in self.sidecars.drain(..) {
            sidecar.join().unwrap().unwrap();
        }
    }

    fn ask(&self, at: usize, command: &str, arguments: Value) -> Value {
        let socket = self.directory(at).join("run/control.sock");
        let mut control = Qmp::connect_when_ready(&socket, TIMEOUT, || Ok(())).unwrap();
        control.execute(command, arguments).unwrap()
    }

    fn migrate(&self, in_doubt_limit: u64) {
        let arguments = json!({
            "name": "guest",
            "peer": self.directory(B).join("run/peer.sock"),
            "uri": format!("unix:{}", self.scratch.path().join("m").display()),
            "authority": "store",
            "in-doubt-limit": in_doubt_limit,
        });
        self.ask(A, "migrate-domain", arguments);
    }

    fn wait_until(&self, what: &str, is_it: impl Fn(&Host) -> bool) {
        let mut last = Vec::new();
        let waited = until(what, TIMEOUT, || {
            last = [A, B].map(|at| self.rule(at)).to_vec();
            Ok::<_, Error>(is_it(self).then_some(()))
        });
        waited.unwrap_or_else(|error| panic!("{error}: {last:?}, {:?}", self.store.inner.keys()));
    }

    /// The rule that holds a side's domain.
    fn rule(&self, at: usize) -> Option<String> {
        let domains = self.ask(at, "query-domains", json!({}));
        domains[0]["held"]["rule"].as_str().map(str::to_owned)
    }

    fn is_held_by(&self, at: usize, rule: &str) -> bool {
        self.rule(at).as_deref() == Some(rule)
    }

    fn has_jobs(&self) -> bool {
        let open = |at| self.ask(at, "query-jobs", json!({}));
        [A, B].map(open).iter().any(|jobs| jobs != &json!([]))
    }

    /// All is over, the key is gone, and the guest runs there alone.
    fn assert_runs(&mut self, at: usize) {
        self.wait_until("end of all jobs", |host| {
            !host.has_jobs() && host.store.inner.keys().is_empty()
        });
        let running = running_now(&self.qemus, NUMBERS, TIMEOUT).unwrap();
        let name = self.qemus[at].name().to_owned();
        assert_eq!(running, RunningNow::One(name));
        let logs: Vec<_> = self
            .qemus
            .iter()
            .map(|one| one.guest_log().unwrap())
            .collect();
        let verdict = judge(&logs);
        assert!(verdict.is_clean(), "{verdict}");
        assert!(!self.qemus[1 - at].is_alive().unwrap());
    }
}

/// With the store away both copies wait; both sidecars are restarted meanwhile, and go on where they were.
#[test]
fn a_store_that_is_down_holds_both_and_then_the_guest_moves() {
    let mut host = Host::start();
    host.store.inner.set_down(true);
    host.migrate(600_000);
    let both_wait = |host: &Host| {
        host.is_held_by(A, "source-store-in-doubt")
            && host.is_held_by(B, "destination-store-proposed")
    };
    host.wait_until("both wait for the store", both_wait);
    host.stop_sidecars();
    host.start_sidecars();
    host.wait_until("both wait again", both_wait);
    assert!(host.store.inner.keys().is_empty());
    host.store.inner.set_down(false);
    host.assert_runs(B);
    host.stop_sidecars();
}

/// The destination's QEMU dies before the store answers: it withdraws, and the guest goes on at its source.
#[test]
fn a_destination_that_withdraws_tells_it_by_the_store() {
    let mut host = Host::start();
    host.store.inner.set_down(true);
    host.migrate(600_000);
    host.wait_until("proposed", |host| {
        host.is_held_by(B, "destination-store-proposed")
    });
    host.qemus[B].kill().unwrap();
    host.wait_until("withdrawn", |host| {
        host.is_held_by(B, "destination-store-withdraw") || host.rule(B).is_none()
    });
    // Its word alone gives nothing back: the key must say so.
    assert_eq!(host.qemus[A].run_state().unwrap(), "postmigrate");
    host.store.inner.set_down(false);
    host.assert_runs(A);
    host.stop_sidecars();
}

/// A store that the destination cannot write its commit to: the source wins aborted after its time, and the
/// destination's copy never runs, though it is whole and licensed.
#[test]
fn a_source_that_wins_aborted_keeps_the_guest() {
    let mut host = Host::start();
    host.store.takes_no_commit.store(true, Ordering::Relaxed);
    host.migrate(1_000);
    host.assert_runs(A);
    let rules = host.ask(B, "query-decisions", json!({}));
    let is_told = |one: &Value| one["rule"] == "destination-store-aborted";
    let is_told = rules.as_array().unwrap().iter().any(is_told);
    assert!(is_told, "{rules}");
    host.stop_sidecars();
}
