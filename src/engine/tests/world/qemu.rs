//! What QEMU does when it is told something, and what it does by itself.

use journal_format::record::{
    ClaimSeen, Effect, EffectCommand, EffectResult, MigrationStatus, ParameterValue, RunState,
    needed_capabilities,
};

use super::{DOMAIN, Event, World};
use crate::engine::{Input, QemuEvent};

impl World {
    pub(crate) fn kill(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if !host.qemu.alive {
            return;
        }
        host.qemu.alive = false;
        let observed = host.qemu.observed();
        self.input(
            at,
            Input::Looked {
                domain: DOMAIN,
                observed,
            },
        );
        let other = 1 - at;
        // In post-copy each half needs the other one.
        let in_postcopy = [
            MigrationStatus::PostcopyActive,
            MigrationStatus::PostcopyRecover,
        ];
        if self.hosts[other].qemu.alive && in_postcopy.contains(&self.hosts[other].qemu.status) {
            self.set_status(other, MigrationStatus::PostcopyPaused);
        }
        // The stream breaks: an incoming QEMU exits, an active source goes on by itself.
        if self.hosts[other].qemu.run == RunState::Inmigrate
            && self.hosts[other].qemu.status == MigrationStatus::Active
        {
            self.kill(other);
        }
        if self.hosts[other].qemu.status == MigrationStatus::Active
            && self.hosts[other].qemu.run == RunState::Running
        {
            self.set_status(other, MigrationStatus::Failed);
        }
    }

    pub(crate) fn event(&mut self, at: usize, event: QemuEvent) {
        if self.hosts[at].engine.is_some() {
            self.input(
                at,
                Input::Event {
                    domain: DOMAIN,
                    event,
                },
            );
        }
    }

    pub(crate) fn set_status(&mut self, at: usize, status: MigrationStatus) {
        self.hosts[at].qemu.status = status.clone();
        self.event(at, QemuEvent::Migration(status));
    }

    pub(crate) fn set_run(&mut self, at: usize, run: RunState) {
        let was = self.hosts[at].qemu.running();
        let is = run == RunState::Running;
        self.hosts[at].qemu.run = run;
        match (was, is) {
            (true, false) => self.event(at, QemuEvent::Stop),
            (false, true) => self.event(at, QemuEvent::Resume),
            _ => {}
        }
    }

    /// The stream converges: the source stops and waits before the switchover.
    pub(super) fn stream(&mut self, at: usize) {
        let other = 1 - at;
        let qemu = &self.hosts[at].qemu;
        if !qemu.alive {
            return;
        }
        if self.freeze.as_ref() == Some(&qemu.status) {
            self.frozen.push(at);
            return;
        }
        if qemu.status == MigrationStatus::Setup {
            if self.hosts[other].qemu.alive && self.hosts[other].qemu.listening {
                self.hosts[other].qemu.listening = false;
                self.set_status(at, MigrationStatus::Active);
                self.set_status(other, MigrationStatus::Active);
                self.queue.push_back(Event::Stream(at));
            } else {
                self.set_status(at, MigrationStatus::Failed);
            }
        } else if qemu.status == MigrationStatus::PostcopyActive {
            self.stream_postcopy(at);
        } else if qemu.status == MigrationStatus::Active {
            if self.postcopy && !qemu.postcopy {
                // Goes on until it is told to go over, with the next estimate of its sidecar's.
                self.event(at, QemuEvent::Converging { downtime: 9_999 });
                return;
            }
            if self.hold_stream {
                self.queue.push_back(Event::Stream(at));
                // Time must pass for it to end.
                self.hold_stream = false;
                return;
            }
            self.hosts[at].qemu.was_running = qemu.running();
            self.set_run(at, RunState::FinishMigrate);
            self.set_status(at, MigrationStatus::PreSwitchover);
        } else if qemu.status == MigrationStatus::Device {
            let memory = qemu.memory;
            if self.hosts[other].qemu.alive && self.hosts[other].qemu.run == RunState::Inmigrate {
                self.hosts[other].qemu.memory = memory;
                let run = if self.hosts[other].qemu.autostart {
                    RunState::Running
                } else {
                    RunState::Paused
                };
                self.set_run(other, run);
                self.set_status(other, MigrationStatus::Completed);
                self.set_status(at, MigrationStatus::Completed);
                self.set_run(at, RunState::Postmigrate);
            } else {
                self.end_migration(at, MigrationStatus::Failed);
            }
        }
    }

    /// Memory follows the guest: the stream breaks if it shall, or ends when a tick has passed.
    fn stream_postcopy(&mut self, at: usize) {
        let other = 1 - at;
        if !self.hosts[other].qemu.alive {
            return self.set_status(at, MigrationStatus::PostcopyPaused);
        }
        if self.breaks > 0 {
            self.breaks -= 1;
            self.set_status(at, MigrationStatus::PostcopyPaused);
            if !self.breaks_unnoticed {
                self.set_status(other, MigrationStatus::PostcopyPaused);
            }
            return;
        }
        self.set_status(other, MigrationStatus::Completed);
        self.set_status(at, MigrationStatus::Completed);
        self.set_run(at, RunState::Postmigrate);
    }

    /// `migrate-continue` in post-copy: the guest is split.
    fn go_over(&mut self, at: usize) {
        let other = 1 - at;
        if !self.hosts[other].qemu.alive || self.hosts[other].qemu.run != RunState::Inmigrate {
            return self.end_migration(at, MigrationStatus::Failed);
        }
        self.set_status(at, MigrationStatus::PostcopyActive);
        self.hosts[other].qemu.memory = self.hosts[at].qemu.memory;
        let run = if self.hosts[other].qemu.autostart {
            RunState::Running
        } else {
            RunState::Paused
        };
        self.set_run(other, run);
        self.set_status(other, MigrationStatus::PostcopyActive);
        self.later.push((self.now + 300, at));
    }

    fn resume_postcopy(&mut self, at: usize) {
        let other = 1 - at;
        let listens = self.hosts[other].qemu.alive
            && self.hosts[other].qemu.status == MigrationStatus::PostcopyPaused
            && self.hosts[other].qemu.listening;
        if listens {
            self.hosts[other].qemu.listening = false;
            self.set_status(at, MigrationStatus::PostcopyRecover);
            self.set_status(other, MigrationStatus::PostcopyRecover);
            self.set_status(at, MigrationStatus::PostcopyActive);
            self.set_status(other, MigrationStatus::PostcopyActive);
            self.later.push((self.now + 300, at));
        }
    }

    /// A migration that will not be: QEMU restarts the guest by itself if it ran before.
    pub(crate) fn end_migration(&mut self, at: usize, status: MigrationStatus) {
        self.set_status(at, status);
        if self.hosts[at].qemu.run == RunState::FinishMigrate {
            // QEMU 7.2 forgets in post-copy that the guest ran.
            let qemu = &self.hosts[at].qemu;
            let run = if qemu.was_running && !qemu.postcopy {
                RunState::Running
            } else {
                RunState::Postmigrate
            };
            self.set_run(at, run);
        }
        let other = 1 - at;
        if self.hosts[other].qemu.alive && self.hosts[other].qemu.run == RunState::Inmigrate {
            self.kill(other);
        }
    }

    pub(super) fn perform(&mut self, at: usize, effect: &Effect) -> EffectResult {
        use EffectResult::{Done, NotSent};
        let qemu = &mut self.hosts[at].qemu;
        if effect.instance != qemu.instance {
            return NotSent {
                why: "another instance".to_owned(),
            };
        }
        if !qemu.alive {
            return match effect.command {
                EffectCommand::Kill => Done,
                _ => NotSent {
                    why: "QEMU is gone".to_owned(),
                },
            };
        }
        let refused = |description: &str| EffectResult::Refused {
            class: "GenericError".to_owned(),
            description: description.to_owned(),
        };
        match &effect.command {
            EffectCommand::Claim(claim) => {
                if qemu.claim != ClaimSeen::Absent {
                    return refused("attempt to add duplicate property");
                }
                qemu.claim = ClaimSeen::Present(*claim);
            }
            EffectCommand::Unclaim => qemu.claim = ClaimSeen::Absent,
            EffectCommand::SetCapabilities { role, postcopy } => {
                let needed = needed_capabilities(*role, *postcopy);
                if let Err(why) = qemu.set_capabilities(&needed) {
                    return refused(&why);
                }
            }
            EffectCommand::SetParameters {
                max_bandwidth,
                downtime_limit,
            } => {
                for (name, value) in [
                    ("max-bandwidth", max_bandwidth),
                    ("downtime-limit", downtime_limit),
                ] {
                    if let Some(value) = value {
                        qemu.set_parameter(name, &ParameterValue::Number(*value));
                    }
                }
            }
            EffectCommand::StartPostcopy => {
                if qemu.status != MigrationStatus::Active {
                    return refused("Postcopy must be started after migration has been started");
                }
                qemu.postcopy = true;
                self.queue.push_back(Event::Stream(at));
            }
            EffectCommand::MigrateRecover { .. } => {
                if qemu.status != MigrationStatus::PostcopyPaused {
                    return refused("Migrate recover can only be run when postcopy is paused.");
                }
                qemu.listening = true;
            }
            EffectCommand::Monitor {
                execute, arguments, ..
            } => {
                if let Some(result) = self.perform_on_disks(at, execute, arguments) {
                    return result;
                }
                let command = match execute.as_str() {
                    "migrate-set-capabilities" | "migrate-set-parameters" => {
                        let qemu = &mut self.hosts[at].qemu;
                        return match qemu.tell(execute, arguments) {
                            Ok(()) => Done,
                            Err(why) => refused(&why),
                        };
                    }
                    "cont" => EffectCommand::Cont,
                    "stop" => EffectCommand::Stop,
                    "quit" => EffectCommand::Kill,
                    // Nothing here has devices.
                    _ => return Done,
                };
                let effect = Effect {
                    command,
                    ..effect.clone()
                };
                return self.perform(at, &effect);
            }
            EffectCommand::MigratePause => {
                if qemu.status != MigrationStatus::PostcopyActive {
                    return refused("migrate-pause is only supported during postcopy-active");
                }
                self.set_status(at, MigrationStatus::PostcopyPaused);
            }
            EffectCommand::MigrateResume { .. } => {
                if qemu.status != MigrationStatus::PostcopyPaused {
                    return refused("Cannot resume if there is no paused migration");
                }
                self.resume_postcopy(at);
            }
            EffectCommand::MigrateIncoming { .. } => qemu.listening = true,
            EffectCommand::Migrate { .. } => {
                if matches!(qemu.run, RunState::Postmigrate | RunState::Inmigrate) {
                    return refused("Can't migrate");
                }
                self.set_status(at, MigrationStatus::Setup);
                self.queue.push_back(Event::Stream(at));
            }
            EffectCommand::MigrateContinue => {
                if qemu.status != MigrationStatus::PreSwitchover {
                    return refused("Migration not in expected state");
                }
                if qemu.postcopy {
                    self.go_over(at);
                    return Done;
                }
                self.set_status(at, MigrationStatus::Device);
                self.queue.push_back(Event::Stream(at));
            }
            EffectCommand::MigrateCancel => {
                let is_split = [
                    MigrationStatus::PostcopyActive,
                    MigrationStatus::PostcopyPaused,
                    MigrationStatus::PostcopyRecover,
                ];
                if is_split.contains(&qemu.status) {
                    self.broken = Some("migrate_cancel in post-copy: the guest is gone".to_owned());
                }
                if matches!(
                    qemu.status,
                    MigrationStatus::Setup
                        | MigrationStatus::Active
                        | MigrationStatus::PreSwitchover
                ) {
                    self.end_migration(at, MigrationStatus::Cancelled);
                }
            }
            EffectCommand::Cont => match qemu.run {
                RunState::Inmigrate => qemu.autostart = true,
                RunState::FinishMigrate => return refused("Migration is not finalized yet"),
                _ if qemu.refuse_cont => return refused("Failed to get write lock"),
                _ => self.set_run(at, RunState::Running),
            },
            EffectCommand::Stop => match qemu.run {
                RunState::Inmigrate => qemu.autostart = false,
                RunState::Running => self.set_run(at, RunState::Paused),
                _ => {}
            },
            EffectCommand::Kill => self.kill(at),
        }
        Done
    }
}
