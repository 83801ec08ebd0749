//! What a migration is told, and what is put back: whatever crashes, QEMU is told again what it was told before.

use journal_format::record::{
    Capability, ClaimSeen, EffectCommand, EffectResult, JobResult, MigrationStatus, Parameter,
    ParameterValue, PostcopyAfter, Protocol, RecordBody, RunState, SETTINGS_MAX, SETTINGS_SIZE_MAX,
    Settings,
};

use super::world::{A, B, Crash, World, fresh_settings};
use super::{SETTLE_MS, assert_settled, migrated};
use crate::engine::settings::{check, for_destination, take_terms};
use crate::engine::{Answer, ControlRequest, MigrateOptions, QemuEvent, Refusal};

fn capability(name: &str, state: bool) -> Capability {
    let name = name.to_owned();
    Capability { name, state }
}

fn parameter(name: &str, value: ParameterValue) -> Parameter {
    let name = name.to_owned();
    Parameter { name, value }
}

/// More channels, throttled at the source.
fn several() -> MigrateOptions {
    let settings = Settings {
        capabilities: vec![
            capability("auto-converge", true),
            capability("multifd", true),
        ],
        parameters: vec![
            parameter("downtime-limit", ParameterValue::Number(40)),
            parameter("multifd-channels", ParameterValue::Number(4)),
        ],
    };
    MigrateOptions {
        settings,
        ..MigrateOptions::default()
    }
}

fn world(options: MigrateOptions) -> World {
    world_of(Protocol::V3, options)
}

fn world_of(protocol: Protocol, options: MigrateOptions) -> World {
    let mut world = World::with_settings_of(protocol);
    world.told.options = options;
    // The limit comes as a parameter.
    world.told.downtime_limit = None;
    world
}

fn is_on(world: &World, at: usize, name: &str) -> bool {
    let mut capabilities = world.hosts[at].qemu.settings.capabilities.iter();
    capabilities.any(|one| one.name == name && one.state)
}

/// What was told to the QEMU of a host, oldest first.
fn told(world: &World, at: usize) -> Vec<String> {
    let mut commands = Vec::new();
    world.find(at, |body| {
        if let RecordBody::EffectIntended(intended) = body {
            match &intended.command {
                EffectCommand::SetCapabilities { .. } => commands.push("own".to_owned()),
                EffectCommand::SetParameters { downtime_limit, .. } => {
                    commands.push(format!("limit {}", downtime_limit.unwrap()));
                }
                EffectCommand::Monitor { arguments, .. } => commands.push(arguments.clone()),
                _ => {}
            }
        }
        None::<()>
    });
    commands
}

fn ended(world: &World, at: usize) -> (JobResult, String) {
    let mut last = None;
    world.find(at, |body| {
        if let RecordBody::JobEnded(ended) = body {
            last = Some((ended.result, ended.detail.clone()));
        }
        None::<()>
    });
    last.unwrap()
}

#[test]
fn each_side_is_told_what_it_must_have_and_is_as_before_afterwards() {
    let mut world = world(several());
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(500);
    for (at, name, state) in [
        (A, "multifd", true),
        (B, "multifd", true),
        (A, "auto-converge", true),
        (B, "auto-converge", false),
        (A, "pause-before-switchover", true),
        (B, "late-block-activate", true),
    ] {
        assert_eq!(is_on(&world, at, name), state, "{name} at {at}");
    }
    assert_eq!(
        told(&world, A),
        [
            "own",
            r#"{"capabilities":[{"capability":"auto-converge","state":true},{"capability":"multifd","state":true}]}"#,
            r#"{"multifd-channels":4}"#,
            "limit 1",
        ]
    );
    // Near enough to the limit that was asked for, and no other.
    for (downtime, count) in [(41, 4), (39, 5)] {
        world.event(A, QemuEvent::Converging { downtime });
        world.run_for(100);
        assert_eq!(told(&world, A).len(), count);
    }
    assert_eq!(told(&world, A)[4], "limit 40");
    world.thaw();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "with settings");
    assert_eq!(world.running(), vec![B]);
    assert_eq!(world.hosts[B].qemu.settings, fresh_settings());
    assert_eq!(
        ended(&world, B),
        (JobResult::Completed, "the guest runs here".to_owned())
    );
    // Nothing had to be decided about it.
    assert_eq!(world.rules(B), ["destination-prepare-finish"]);
}

/// The job of the destination is still open, and the source is told all the same.
#[test]
fn nobody_waits_for_what_is_put_back() {
    let mut world = world(several());
    world.stall = Some(|at, command| {
        at == B
            && matches!(command, EffectCommand::Monitor { arguments, .. } if arguments.contains("late-block-activate"))
    });
    migrated(&mut world);
    assert!(!world.hosts[A].qemu.alive, "{}", world.story());
    assert_eq!(world.running(), vec![B]);
    assert!(!world.has(B, |body| matches!(body, RecordBody::JobEnded(_))));
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "put back late");
    assert_eq!(world.hosts[B].qemu.settings, fresh_settings());
}

/// A sidecar dies at every batch of a migration that goes through, or is cancelled: where a QEMU has the guest
/// afterwards it is told what it was told before.
#[test]
fn put_back_whatever_crashes() {
    for (protocol, cancels) in [
        (Protocol::V3, false),
        (Protocol::V3, true),
        (Protocol::V2, false),
        (Protocol::V2, true),
    ] {
        let begin = || world_of(protocol, several());
        let run = |world: &mut World, pause: u64| {
            world.freeze = cancels.then_some(MigrationStatus::Active);
            world.migrate(A);
            world.run_for(pause);
            let open = world.hosts[A].engine.as_ref().and_then(|engine| {
                let mut migrations = engine.state.migrations.values();
                migrations.find(|known| known.state.open)
            });
            if let Some(job) = open.filter(|_| cancels).map(|known| known.state.job) {
                world.control(A, ControlRequest::JobCancel { job });
            }
            world.run_for(pause);
            world.thaw();
            for at in [A, B] {
                if world.hosts[at].engine.is_none() {
                    world.restart(at);
                }
            }
            world.run_for(SETTLE_MS);
            for at in [A, B] {
                if world.hosts[at].engine.is_none() {
                    world.restart(at);
                }
            }
            world.run_for(SETTLE_MS);
        };
        let mut whole = begin();
        run(&mut whole, 1_000);
        let mut runs = 0;
        for at in [A, B] {
            for batch in 1..=whole.hosts[at].batches {
                for crash in [Crash::Before(batch), Crash::After(batch)] {
                    for effects_survive in [false, true] {
                        let mut world = begin();
                        world.effects_survive = effects_survive;
                        world.hosts[at].crash = Some(crash);
                        run(&mut world, 1_000);
                        let what = format!(
                            "{protocol} cancelled {cancels} host {at} {crash:?} effects survive {effects_survive}"
                        );
                        assert_settled(&world, &what);
                        let holder = world.running()[0];
                        assert_eq!(
                            world.hosts[holder].qemu.settings,
                            fresh_settings(),
                            "{what}\n{}",
                            world.story()
                        );
                        runs += 1;
                    }
                }
            }
        }
        assert!(runs > 80, "only {runs} runs");
    }
}

/// Neither a refusal nor silence keeps a job open, and the job says what is left.
#[test]
fn what_cannot_be_put_back_is_told() {
    type Fail = fn(usize, &EffectCommand) -> Option<EffectResult>;
    fn refuse(_: usize, command: &EffectCommand) -> Option<EffectResult> {
        is_way_back(command).then(|| EffectResult::Refused {
            class: "GenericError".to_owned(),
            description: "not now".to_owned(),
        })
    }
    fn silent(_: usize, command: &EffectCommand) -> Option<EffectResult> {
        is_way_back(command).then(|| EffectResult::Unknown {
            why: "no answer".to_owned(),
        })
    }
    fn is_way_back(command: &EffectCommand) -> bool {
        matches!(command, EffectCommand::Monitor { arguments, .. } if arguments.contains("\"return-path\""))
    }
    for (fail, why) in [
        (refuse as Fail, "was refused: not now"),
        (silent as Fail, "has no known result: no answer"),
    ] {
        let mut world = world(several());
        world.fail = Some(fail);
        migrated(&mut world);
        assert_settled(&world, why);
        let detail = format!(
            "the guest runs here; QEMU's migration settings were not put back: migrate-set-capabilities {why}"
        );
        assert_eq!(ended(&world, B), (JobResult::Completed, detail));
    }
}

/// What needs other settings to be back first goes back behind them.
#[test]
fn what_is_refused_once_goes_back_behind_the_others() {
    fn refuse_before_the_channels(at: usize, command: &EffectCommand) -> Option<EffectResult> {
        use std::cell::Cell;
        thread_local!(static REFUSED: Cell<bool> = const { Cell::new(false) });
        let is_it = at == B
            && matches!(command, EffectCommand::Monitor { arguments, .. } if arguments.contains("\"return-path\""));
        (is_it && !REFUSED.replace(true)).then(|| EffectResult::Refused {
            class: "GenericError".to_owned(),
            description: "not with these channels".to_owned(),
        })
    }
    let mut world = world(several());
    world.fail = Some(refuse_before_the_channels);
    migrated(&mut world);
    assert_settled(&world, "refused once");
    assert_eq!(world.hosts[B].qemu.settings, fresh_settings());
    assert_eq!(ended(&world, B).1, "the guest runs here");
}

/// A setting that QEMU refuses ends the job, with its words and nothing left of it.
#[test]
fn a_value_that_qemu_refuses_ends_the_job() {
    let mut options = several();
    options.settings.parameters[1].value = ParameterValue::Number(1000);
    let mut world = world(options);
    migrated(&mut world);
    assert_settled(&world, "refused");
    assert_eq!(world.running(), vec![A]);
    assert_eq!(world.hosts[A].qemu.settings, fresh_settings());
    let (result, detail) = ended(&world, A);
    assert_eq!(result, JobResult::Failed);
    assert_eq!(
        detail,
        "prepare at the destination: migrate-set-parameters was refused: Parameter 'multifd-channels' expects uint8_t"
    );
}

fn refusal(options: MigrateOptions, postcopy: bool) -> String {
    let mut world = World::with_settings();
    world.told.options = options;
    world.postcopy = postcopy;
    world.migrate(A);
    world.run_for(500);
    let refusals = world
        .replies
        .iter()
        .filter_map(|(at, result)| match result {
            Err(refusal) if *at == A => Some(refusal.to_string()),
            _ => None,
        });
    let refusals: Vec<String> = refusals.collect();
    assert!(!world.has(A, |body| matches!(body, RecordBody::JobBegun(_))));
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    refusals[0].clone()
}

#[test]
fn what_is_not_told_is_refused_with_one_reason_and_begins_nothing() {
    let of = |capabilities: Vec<Capability>, parameters: Vec<Parameter>| MigrateOptions {
        settings: Settings {
            capabilities,
            parameters,
        },
        ..MigrateOptions::default()
    };
    let number = ParameterValue::Number;
    let many = |index: usize| capability(&format!("c{index}"), true);
    let long = "x".repeat(SETTINGS_SIZE_MAX);
    for (options, expected) in [
        (
            of(vec![capability("turbo", true)], vec![]),
            "its QEMU knows no migration capability 'turbo'".to_owned(),
        ),
        (
            of(vec![], vec![parameter("speed", number(1))]),
            "its QEMU knows no migration parameter 'speed'".to_owned(),
        ),
        (
            of(vec![], vec![parameter("multifd-channels", ParameterValue::Text("4".to_owned()))]),
            "parameter 'multifd-channels' must be a whole number, not a string".to_owned(),
        ),
        (
            of(vec![], vec![parameter("max-bandwidth", ParameterValue::Bool(true))]),
            "parameter 'max-bandwidth' must be a whole number, not true or false".to_owned(),
        ),
        (
            of(vec![capability("return-path", false)], vec![]),
            "capability 'return-path' must be true: the protocol does not go without that".to_owned(),
        ),
        (
            of(vec![capability("late-block-activate", false)], vec![]),
            "capability 'late-block-activate' must be true: the protocol does not go without that".to_owned(),
        ),
        (
            of(vec![capability("postcopy-ram", true)], vec![]),
            "capability 'postcopy-ram' goes with the argument 'postcopy', and only with it".to_owned(),
        ),
        (
            of(vec![capability("x-colo", true)], vec![]),
            "'x-colo' makes something else of the migration, which this protocol does not protect".to_owned(),
        ),
        (
            of(vec![], vec![parameter("mode", ParameterValue::Text("cpr-exec".to_owned()))]),
            "'mode' makes something else of the migration, which this protocol does not protect".to_owned(),
        ),
        (
            of(vec![], vec![parameter("downtime-limit", number(40))]),
            "parameter 'downtime-limit' is not the argument 'downtime-limit', which is given too".to_owned(),
        ),
        (
            of((0..=SETTINGS_MAX).map(many).collect(), vec![]),
            "more than 64 capabilities are told to no migration".to_owned(),
        ),
        (
            of(vec![], vec![parameter("tls-creds", ParameterValue::Text(long))]),
            "names and texts of capabilities and parameters are longer than 4096 bytes together".to_owned(),
        ),
        (
            of(vec![], vec![parameter("tls-creds", ParameterValue::Text("a\nb".to_owned()))]),
            "names of capabilities and parameters must not be empty, nor they or their values have control characters".to_owned(),
        ),
        (
            MigrateOptions { deadline: Some(0), ..MigrateOptions::default() },
            "deadline must be 1 or more".to_owned(),
        ),
        (
            MigrateOptions { postcopy_after: Some(PostcopyAfter::Passes(2)), ..MigrateOptions::default() },
            "postcopy-after goes with post-copy, and that was declined".to_owned(),
        ),
    ] {
        let expected = format!("domain 'g' cannot migrate so: {expected}");
        assert_eq!(refusal(options, false), expected);
    }
    let mut over = of(vec![], vec![]);
    over.settings.parameters = vec![parameter("downtime-limit", number(2_000_001))];
    let (mut bandwidth, mut limit) = (None, None);
    let refused = take_terms(&mut over.settings, &mut bandwidth, &mut limit).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "downtime-limit must be a whole number from 0 to 2000000 ms"
    );
}

/// What both sides must agree in goes to both.
#[test]
fn what_goes_to_the_destination() {
    let all = Settings {
        capabilities: ["auto-converge", "multifd", "unheard-of", "zero-copy-send"]
            .map(|name| capability(name, true))
            .into(),
        parameters: [
            "max-postcopy-bandwidth",
            "multifd-channels",
            "tls-creds",
            "tls-hostname",
        ]
        .map(|name| parameter(name, ParameterValue::Number(1)))
        .into(),
    };
    assert_eq!(
        for_destination(&all).to_string(),
        "multifd on, unheard-of on, multifd-channels 1, tls-creds 1"
    );
    assert_eq!(check(&all, false), Ok(()));
}

/// A QEMU that is told already what it is to be told has nothing to get back.
#[test]
fn what_is_not_changed_is_not_kept() {
    let mut world = World::new();
    migrated(&mut world);
    assert_settled(&world, "nothing listed");
    for at in [A, B] {
        assert!(!world.has(at, |body| matches!(body, RecordBody::SettingsKept(_))));
    }
}

#[test]
fn a_qemu_that_does_not_say_what_it_is_told_does_not_migrate() {
    let mut world = World::with_settings();
    world.told.is_unread = true;
    world.migrate(A);
    world.run_for(500);
    let unread = world
        .replies
        .iter()
        .any(|(_, result)| matches!(result, Err(Refusal::Settings { .. })));
    assert!(unread, "{:?}", world.replies);
    assert!(!world.has(A, |body| matches!(body, RecordBody::JobBegun(_))));
}

// Times.

fn deadline(seconds: u64) -> MigrateOptions {
    MigrateOptions {
        deadline: Some(seconds),
        ..MigrateOptions::default()
    }
}

#[test]
fn a_deadline_cancels_what_is_not_past_its_point_of_no_return() {
    let mut world = world(deadline(5));
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(4_900);
    assert!(!world.has(A, |body| matches!(body, RecordBody::MigrationAbandoned(_))));
    world.run_for(300);
    let why = world.find(A, |body| match body {
        RecordBody::MigrationAbandoned(abandoned) => Some((abandoned.why.clone(), abandoned.asked)),
        _ => None,
    });
    assert_eq!(why, Some(("its deadline of 5 s passed".to_owned(), true)));
    world.thaw();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "deadline");
    assert_eq!(world.running(), vec![A]);
    assert_eq!(ended(&world, A).0, JobResult::Cancelled);
    assert_eq!(world.hosts[A].qemu.settings, fresh_settings());
}

/// Also one that waits for its destination to be prepared.
#[test]
fn a_deadline_does_not_wait_for_the_destination() {
    let mut world = world(deadline(5));
    world.hold_asks[A] = true;
    world.migrate(A);
    world.run_for(6_000);
    assert!(world.has(A, |body| matches!(body, RecordBody::MigrationAbandoned(_))));
    world.release_asks();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "deadline in begin");
    assert_eq!(world.running(), vec![A]);
    assert_eq!(world.hosts[A].qemu.settings, fresh_settings());
}

/// A split guest goes on, whatever time it takes.
#[test]
fn a_deadline_in_post_copy_does_nothing() {
    let mut world = after(PostcopyAfter::Seconds(1));
    world.told.options.deadline = Some(5);
    world.freeze = Some(MigrationStatus::PostcopyActive);
    world.migrate(A);
    world.run_for(20_000);
    assert!(is_started(&world));
    assert!(!world.has(A, |body| matches!(body, RecordBody::MigrationAbandoned(_))));
    let late = "its deadline of 5 s passed after the point of no return, and nothing was done";
    assert_eq!(world.job_detail(A).as_deref(), Some(late));
    world.thaw();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "late in post-copy");
    assert_eq!(world.running(), vec![B]);
    assert_eq!(world.hosts[B].qemu.settings, fresh_settings());
}

/// Too late it only says so.
#[test]
fn a_deadline_after_the_licence_does_nothing() {
    let mut world = world(deadline(5));
    world.stall = Some(|at, command| at == B && *command == EffectCommand::Cont);
    world.migrate(A);
    world.run_for(6_000);
    assert!(world.has(A, |body| matches!(body, RecordBody::MigrationGranted(_))));
    let late = "its deadline of 5 s passed after the point of no return, and nothing was done";
    assert_eq!(world.job_detail(A).as_deref(), Some(late));
    world.unstall();
    world.run_for(SETTLE_MS);
    assert_settled(&world, "late");
    assert_eq!(world.running(), vec![B]);
    assert!(ended(&world, A).1.ends_with(late), "{:?}", ended(&world, A));
}

fn after(postcopy_after: PostcopyAfter) -> World {
    let mut world = World::of_postcopy(0);
    for host in &mut world.hosts {
        host.qemu.settings = fresh_settings();
    }
    world.told.options.postcopy_after = Some(postcopy_after);
    world
}

fn is_started(world: &World) -> bool {
    world.has(A, |body| {
        matches!(body, RecordBody::EffectIntended(intended) if intended.command == EffectCommand::StartPostcopy)
    })
}

#[test]
fn post_copy_begins_after_so_many_seconds_or_passes() {
    let mut world = after(PostcopyAfter::Seconds(7));
    world.migrate(A);
    world.run_for(6_900);
    assert!(!is_started(&world));
    world.run_for(300);
    assert!(is_started(&world));
    world.run_for(SETTLE_MS);
    assert_settled(&world, "seconds");
    assert_eq!(world.running(), vec![B]);
    assert_eq!(world.hosts[B].qemu.settings, fresh_settings());

    let mut world = after(PostcopyAfter::Passes(3));
    world.migrate(A);
    world.run_for(1_000);
    world.passes(A, 2);
    world.run_for(1_000);
    assert!(!is_started(&world));
    world.passes(A, 3);
    world.run_for(100);
    assert!(is_started(&world));
    world.run_for(SETTLE_MS);
    assert_settled(&world, "passes");
    assert_eq!(world.running(), vec![B]);
}

/// Until then the guest goes over as ever, if it converges.
#[test]
fn a_guest_that_converges_before_does_not_need_post_copy() {
    let mut world = after(PostcopyAfter::Passes(30));
    world.postcopy = false;
    world.told.postcopy = Some(true);
    migrated(&mut world);
    assert!(!is_started(&world));
    assert_settled(&world, "converged");
    assert_eq!(world.running(), vec![B]);
    assert_eq!(world.hosts[B].qemu.settings, fresh_settings());
}

/// The wish is on record: after a restart the elapsed time counts by the wall's clock.
#[test]
fn a_wish_outlives_its_sidecar() {
    let mut world = world(deadline(5));
    world.freeze = Some(MigrationStatus::Active);
    world.migrate(A);
    world.run_for(1_000);
    world.crash(A);
    world.restart(A);
    let engine = world.hosts[A].engine.as_ref().unwrap();
    let told = engine.state.migrations.values().next().unwrap();
    assert_eq!(told.deadline(), Some(5));
    assert!(told.settings.kept.as_ref().unwrap().changed);
}

/// A definition is what the source had, byte for byte, or nothing is prepared.
#[test]
fn a_definition_that_is_not_the_one_that_was_sent_is_refused() {
    let mut world = World::with_settings();
    world.told.spoils_definition = true;
    migrated(&mut world);
    assert_settled(&world, "spoiled");
    assert_eq!(world.running(), vec![A]);
    assert!(!world.has(B, |body| matches!(body, RecordBody::JobBegun(_))));
    assert_eq!(
        ended(&world, A).1,
        "prepare at the destination: the definition is not the one that was sent: its checksum is another, or missing"
    );
    assert_eq!(world.hosts[B].qemu.run, RunState::Inmigrate);
    let answers = world
        .replies
        .iter()
        .filter(|(at, result)| *at == A && matches!(result, Ok(Answer::Migrating { .. })));
    assert_eq!(answers.count(), 1);
}

/// QEMU is asked again what it is told when a request before was refused: what it said then may be old.
#[test]
fn a_refused_request_leaves_nothing_that_was_seen_for_it() {
    let mut world = world(several());
    world.hosts[A].qemu.claim = ClaimSeen::Foreign("another".to_owned());
    world.migrate(A);
    world.run_for(500);
    let (_, refused) = world.replies.pop().unwrap();
    assert!(
        matches!(refused, Err(Refusal::Claimed { .. })),
        "{refused:?}"
    );
    // Its owner changes it, as may be.
    world.hosts[A].qemu.claim = ClaimSeen::Absent;
    let number = ParameterValue::Number(16);
    world.hosts[A]
        .qemu
        .set_parameter("multifd-channels", &number);
    let before = world.hosts[A].qemu.settings.clone();
    world.fail = Some(|at, command| {
        let is_migrate = at == A && command.name() == "migrate";
        is_migrate.then(|| EffectResult::Refused {
            class: "GenericError".to_owned(),
            description: "no".to_owned(),
        })
    });
    migrated(&mut world);
    assert_settled(&world, "refused");
    assert_eq!(world.running(), vec![A]);
    assert_eq!(world.hosts[A].qemu.settings, before);
}
