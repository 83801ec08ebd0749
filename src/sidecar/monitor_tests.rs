//! The monitor against a fake QEMU in a process of its own.

use std::process::{Command, Stdio};

use journal_format::number::{Id128, Lsn};
use journal_format::record::{ClaimSeen, RunState};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::link::Inbound;
use super::super::testing::{FakeQemu, boot, event};
use super::*;
use crate::qmp::{Outlet, Passed, Socket};

const DOMAIN: DomainId = DomainId(Id128([1; 16]));

/// Longest wait of a test for what must come.
const TEST_WAIT: Duration = Duration::from_secs(20);

/// A monitor and what it tells.
struct Watching {
    monitor: Monitor,
    inbound: mpsc::Receiver<Inbound>,
    board: ProgressBoard,
}

impl Watching {
    fn start(qemu: &FakeQemu, instance: Instance) -> Watching {
        let (link, inbound) = Link::new();
        let watched = Watched {
            domain: DOMAIN,
            name: "vm".to_owned(),
            qmp: qemu.path.clone(),
            instance,
        };
        let board = ProgressBoard::default();
        let monitor = Monitor::start(
            watched,
            boot(),
            link,
            board.clone(),
            crate::sidecar::proxy::Port::new(crate::sidecar::proxy::Keeping::default()),
            None,
        );
        Watching {
            monitor,
            inbound,
            board,
        }
    }

    async fn next(&mut self) -> Input {
        match timeout(TEST_WAIT, self.inbound.recv()).await.unwrap() {
            Some(Inbound::Input(input) | Inbound::Unhurried(input)) => input,
            other => panic!("{other:?}"),
        }
    }

    async fn next_look(&mut self) -> Observed {
        match self.next().await {
            Input::Looked { domain, observed } if domain == DOMAIN => observed,
            other => panic!("{other:?}"),
        }
    }

    async fn next_event(&mut self) -> QemuEvent {
        match self.next().await {
            Input::Event { domain, event } if domain == DOMAIN => event,
            other => panic!("{other:?}"),
        }
    }

    async fn next_result(&mut self) -> EffectResult {
        match self.next().await {
            Input::EffectFinished {
                effect: Lsn(5),
                result,
            } => result,
            other => panic!("{other:?}"),
        }
    }

    fn perform(&self, instance: Instance, command: EffectCommand) {
        let effect = Effect {
            intent: Lsn(5),
            domain: DOMAIN,
            instance,
            command,
        };
        let request = Request::Perform(crate::journal::durable_for_tests(effect));
        assert!(self.monitor.request(request).is_ok());
    }
}

impl Watching {
    /// A client's effect, admitted by the engine.
    fn pass(&self, instance: Instance, passing: &Passing, intent: Lsn, outlet: &Arc<Outlet>) {
        let said = br#"{"execute":"closefd","arguments":{"fdname":"x"}}"#.to_vec();
        let passed = Passed::understand(said, false, Vec::new()).unwrap();
        let (arguments, redacted) = passed.journaled();
        let effect = Effect {
            intent,
            domain: DOMAIN,
            instance,
            command: EffectCommand::Monitor {
                execute: "closefd".to_owned(),
                arguments,
                redacted,
            },
        };
        let passage = Passage {
            passed,
            outlet: outlet.clone(),
            place: passing.place_now(false).unwrap(),
            arrived: tokio::sync::oneshot::channel().0,
        };
        let effect = crate::journal::durable_for_tests(effect);
        let request = Request::Pass(effect, Box::new(passage));
        assert!(self.monitor.request(request).is_ok());
    }

    /// The way past the task, once it has nothing to do.
    async fn lane(&self) -> Passing {
        loop {
            if let Some(passing) = &*self.monitor.lane.lock() {
                return passing.clone();
            }
            tokio::task::yield_now().await;
        }
    }

    async fn next_finished(&mut self) -> Lsn {
        match self.next().await {
            Input::EffectFinished { effect, result } => {
                assert_eq!(result, EffectResult::Done);
                effect
            }
            other => panic!("{other:?}"),
        }
    }
}

/// It goes past the task where that has nothing to do, and else behind what was begun before.
#[tokio::test]
async fn a_client_s_effect_overtakes_nothing() {
    let (qemu, mut watching) = running(&json!({})).await;
    let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
    let outlet = Outlet::new(Arc::new(Socket::new(ours).unwrap()));
    let passing = watching.lane().await;
    watching.pass(qemu.instance(), &passing, Lsn(4), &outlet);
    assert!(watching.monitor.lane.lock().is_some(), "it went at once");
    assert_eq!(watching.next_finished().await, Lsn(4));
    watching.perform(qemu.instance(), EffectCommand::Stop);
    assert!(watching.monitor.lane.lock().is_none());
    watching.pass(qemu.instance(), &passing, Lsn(6), &outlet);
    assert_eq!(watching.next_finished().await, Lsn(5));
    assert_eq!(watching.next_finished().await, Lsn(6));
    watching.lane().await;
}

/// A fake QEMU, watched and seen running.
async fn running(script: &Value) -> (FakeQemu, Watching) {
    let qemu = FakeQemu::start(script).await;
    let mut watching = Watching::start(&qemu, qemu.instance());
    let observed = watching.next_look().await;
    assert_eq!(observed.process, Process::Alive);
    assert_eq!(observed.run_state, Some(RunState::Running));
    (qemu, watching)
}

#[tokio::test]
async fn looks_once_connected_and_when_asked() {
    let (qemu, mut watching) = running(&json!({})).await;
    assert!(watching.monitor.request(Request::Look).is_ok());
    let observed = watching.next_look().await;
    assert_eq!(observed.instance, Some(qemu.instance()));
    assert_eq!(observed.migration, Some(MigrationStatus::None));
    assert_eq!(observed.claim, ClaimSeen::Absent);
}

#[tokio::test]
async fn a_look_shows_one_moment() {
    let stopped = json!({"status": "finish-migrate", "running": false});
    let script = json!({
        // The guest stops between the first question and the last.
        "query-status": [
            {"return": {"status": "running", "running": true}},
            {"return": stopped, "events": [event("STOP", &json!({}))]},
            {"return": stopped},
        ],
    });
    let qemu = FakeQemu::start(&script).await;
    let mut watching = Watching::start(&qemu, qemu.instance());
    assert_eq!(watching.next_event().await, QemuEvent::Stop);
    let observed = watching.next_look().await;
    assert_eq!(observed.run_state, Some(RunState::FinishMigrate));
}

#[tokio::test]
async fn events_come_in_order_and_before_the_result() {
    let script = json!({"cont": [{"return": {}, "events": [
        event("STOP", &json!({})),
        event("RTC_CHANGE", &json!({"offset": 7})),
        event("MIGRATION", &json!({"status": "pre-switchover"})),
        event("RESUME", &json!({})),
    ]}]});
    let (qemu, mut watching) = running(&script).await;
    watching.perform(qemu.instance(), EffectCommand::Cont);
    assert_eq!(watching.next_event().await, QemuEvent::Stop);
    assert_eq!(
        watching.next_event().await,
        QemuEvent::Migration(MigrationStatus::PreSwitchover)
    );
    assert_eq!(watching.next_event().await, QemuEvent::Resume);
    assert_eq!(watching.next_result().await, EffectResult::Done);
}

#[tokio::test]
async fn a_refusal_is_passed_on_as_it_is() {
    let refusal = json!({"class": "GenericError", "desc": "Failed to get \"write\" lock"});
    let (qemu, mut watching) = running(&json!({"cont": [{"error": refusal}]})).await;
    watching.perform(qemu.instance(), EffectCommand::Cont);
    assert_eq!(
        watching.next_result().await,
        EffectResult::Refused {
            class: "GenericError".to_owned(),
            description: "Failed to get \"write\" lock".to_owned(),
        }
    );
}

#[tokio::test]
async fn no_answer_to_an_effect_is_unknown() {
    let (mut qemu, mut watching) = running(&json!({"stop": [{"silent": true}]})).await;
    watching.perform(qemu.instance(), EffectCommand::Stop);
    qemu.wait_for("stop").await;
    // From here on only clocks are waited for.
    tokio::time::pause();
    let result = watching.next_result().await;
    assert!(matches!(result, EffectResult::Unknown { .. }), "{result:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_under_an_effect() {
    let (qemu, mut watching) = running(&json!({"migrate_cancel": [{"close": true}]})).await;
    watching.perform(qemu.instance(), EffectCommand::MigrateCancel);
    assert_eq!(watching.next_event().await, QemuEvent::Lost);
    let result = watching.next_result().await;
    assert!(matches!(result, EffectResult::Unknown { .. }), "{result:?}");
    // And it looks by itself over a new connection.
    assert_eq!(watching.next_look().await.process, Process::Alive);
}

#[tokio::test]
async fn a_process_that_ends_is_dead_and_nothing_was_missed() {
    let script = json!({"stop": [
        {"exit": true, "events": [event("STOP", &json!({}))]},
    ]});
    let (qemu, mut watching) = running(&script).await;
    watching.perform(qemu.instance(), EffectCommand::Stop);
    assert_eq!(watching.next_event().await, QemuEvent::Stop);
    let result = watching.next_result().await;
    assert!(matches!(result, EffectResult::Unknown { .. }), "{result:?}");
    assert_eq!(watching.next_look().await.process, Process::Dead);
    watching.perform(qemu.instance(), EffectCommand::Cont);
    let result = watching.next_result().await;
    assert!(matches!(result, EffectResult::NotSent { .. }), "{result:?}");
    watching.perform(qemu.instance(), EffectCommand::Kill);
    assert_eq!(watching.next_result().await, EffectResult::Done);
    assert!(watching.monitor.request(Request::Look).is_ok());
    assert_eq!(watching.next_look().await.process, Process::Dead);
}

#[tokio::test]
async fn killed_from_outside_is_dead() {
    let (mut qemu, mut watching) = running(&json!({})).await;
    qemu.kill();
    assert_eq!(watching.next_look().await.process, Process::Dead);
}

#[tokio::test]
async fn a_kill_is_done_when_the_process_is_gone() {
    let (qemu, mut watching) = running(&json!({})).await;
    let instance = qemu.instance();
    watching.perform(instance, EffectCommand::Kill);
    assert_eq!(watching.next_result().await, EffectResult::Done);
    assert!(Held::open(instance, boot()).unwrap().is_none());
    assert_eq!(watching.next_look().await.process, Process::Dead);
}

#[tokio::test]
async fn another_instance_is_never_touched() {
    let (qemu, mut watching) = running(&json!({})).await;
    let other = Instance {
        start_time: 1,
        ..qemu.instance()
    };
    for command in [EffectCommand::Stop, EffectCommand::Kill] {
        watching.perform(other, command);
        let result = watching.next_result().await;
        assert!(matches!(result, EffectResult::NotSent { .. }), "{result:?}");
    }
    assert!(Held::open(qemu.instance(), boot()).unwrap().is_some());
}

#[tokio::test]
async fn another_process_on_the_socket_is_told() {
    let qemu = FakeQemu::start(&json!({})).await;
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let instance = super::super::process::find(child.id(), boot()).unwrap();
    let mut watching = Watching::start(&qemu, instance);
    let observed = watching.next_look().await;
    assert_eq!(observed.process, Process::OtherInstance);
    assert_eq!(observed.instance, Some(qemu.instance()));
    watching.perform(instance, EffectCommand::Stop);
    let result = watching.next_result().await;
    assert!(matches!(result, EffectResult::NotSent { .. }), "{result:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(watching.next_look().await.process, Process::Dead);
}

#[tokio::test]
async fn one_that_lives_but_says_nothing_is_mute() {
    let script = json!({"query-migrate": [{"return": {}}, {"silent": true}]});
    let (mut qemu, mut watching) = running(&script).await;
    assert!(watching.monitor.request(Request::Look).is_ok());
    qemu.wait_for("query-migrate").await;
    qemu.wait_for("query-migrate").await;
    tokio::time::pause();
    assert_eq!(watching.next_look().await.process, Process::Mute);
}

#[tokio::test]
async fn one_that_answers_again_is_seen_unasked() {
    let script = json!({"query-status": [{"silent": true}, {"return": {"status": "running"}}]});
    let qemu = FakeQemu::start(&script).await;
    let mut watching = Watching::start(&qemu, qemu.instance());
    assert_eq!(watching.next_look().await.process, Process::Mute);
    assert_eq!(watching.next_look().await.process, Process::Alive);
}

#[tokio::test]
async fn a_reboot_ended_everything() {
    let qemu = FakeQemu::start(&json!({})).await;
    let before = Instance {
        boot: BootId(Id128([8; 16])),
        ..qemu.instance()
    };
    let mut watching = Watching::start(&qemu, before);
    assert_eq!(watching.next_look().await.process, Process::Dead);
    watching.perform(before, EffectCommand::Kill);
    assert_eq!(watching.next_result().await, EffectResult::Done);
    assert!(Held::open(qemu.instance(), boot()).unwrap().is_some());
}

#[tokio::test]
async fn progress_is_read_while_a_migration_moves() {
    let active = json!({"return": {"status": "active", "ram": {"remaining": 4096}}});
    let script = json!({"query-migrate": [active]});
    let (_qemu, mut watching) = running(&script).await;
    let shown = async {
        while watching.board.get(DOMAIN).is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_WAIT, shown).await.unwrap();
    let progress = watching.board.get(DOMAIN).unwrap();
    assert_eq!(progress.remaining, 4096);
    let _ = &mut watching;
}
