//! Rows of jobs that are no migrations; and the table over the whole product of what it may be asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use journal_format::record::{
    ClaimSeen, DumpStatus, EffectStanding, JobEvidence, JobFacts, JobKind, JobPhase,
    MigrationStatus, NodesSeen, Observed, PeerAnswer, Process, QemuJobSeen, QemuJobStatus,
    RunState, WantedRunState,
};

use crate::engine::job::decide::{QemuJobClass, qemu_job_class};
use crate::engine::{Rule, decide_job};

use super::claim;

pub(super) fn at(kind: JobKind, run: RunState, status: MigrationStatus) -> JobEvidence {
    JobEvidence {
        kind,
        phase: JobPhase::Perform,
        facts: JobFacts {
            stream: EffectStanding::Never,
            main: EffectStanding::Never,
            end: EffectStanding::Never,
        },
        observed: Observed {
            process: Process::Alive,
            instance: None,
            run_state: Some(run),
            migration: Some(status),
            claim: ClaimSeen::Absent,
        },
        dump: Some(DumpStatus::None),
        qemu_jobs: Some(Vec::new()),
        nodes: NodesSeen::Unread,
        claim: None,
        recovering: true,
        recognised: false,
        journal_damaged: false,
        wanted: WantedRunState::Running,
        peer: PeerAnswer::NotAsked,
    }
}

pub(super) fn with(
    mut evidence: JobEvidence,
    change: impl FnOnce(&mut JobEvidence),
) -> JobEvidence {
    change(&mut evidence);
    evidence
}

fn listed(status: Option<QemuJobStatus>, error: Option<&str>) -> Option<Vec<QemuJobSeen>> {
    Some(vec![QemuJobSeen {
        id: "j0".to_owned(),
        status,
        error: error.map(str::to_owned),
    }])
}

pub(super) fn rows() -> Vec<(JobEvidence, Option<Rule>)> {
    use EffectStanding as E;
    use JobKind as K;
    use MigrationStatus as M;
    use RunState as R;
    let running = |kind| at(kind, R::Running, M::None);
    let dead = |kind| {
        with(running(kind), |one| {
            one.observed.process = Process::Dead;
            one.observed.run_state = None;
        })
    };
    let saving = |run, status| with(at(K::Save, run, status), |one| one.facts.stream = E::Done);
    let dumping = |status: DumpStatus, standing| {
        with(running(K::Dump), |one| {
            one.facts.main = standing;
            one.dump = Some(status);
        })
    };
    let backup = |status, error| {
        with(running(K::Backup), |one| {
            one.facts.main = E::Done;
            one.qemu_jobs = listed(status, error);
        })
    };
    let overlay = |nodes, standing| {
        with(running(K::Snapshot), |one| {
            one.facts.main = standing;
            one.nodes = nodes;
        })
    };
    let inside = |status, error| {
        with(running(K::Snapshot), |one| {
            one.facts.main = E::Done;
            one.qemu_jobs = listed(status, error);
        })
    };
    let starting = |run, main| {
        with(at(K::Restore, run, M::Completed), |one| {
            one.facts.main = main
        })
    };
    let by_manager = |evidence| with(evidence, |one| one.recovering = false);
    let cancelled = |evidence| with(by_manager(evidence), |one| one.phase = JobPhase::Cancel);
    let mute = |evidence| with(evidence, |one| one.observed.process = Process::Mute);
    let status = |status: QemuJobStatus| Some(status);
    vec![
        // While its manager drives it nothing is decided, but that QEMU is gone.
        (by_manager(running(K::Save)), None),
        (by_manager(mute(running(K::Save))), None),
        (by_manager(dead(K::Save)), Some(Rule::JobDead)),
        (dead(K::Backup), Some(Rule::JobDead)),
        (mute(running(K::Dump)), Some(Rule::QemuMute)),
        (mute(running(K::Destroy)), Some(Rule::DestroyAlive)),
        (
            with(running(K::Save), |one| one.journal_damaged = true),
            Some(Rule::JournalDamaged),
        ),
        (
            with(running(K::Save), |one| {
                one.observed.process = Process::OtherInstance;
            }),
            Some(Rule::OtherInstance),
        ),
        (
            with(running(K::Save), |one| {
                one.observed.claim = ClaimSeen::Present(claim(9, 1));
            }),
            Some(Rule::ClaimedByAnother),
        ),
        (
            with(running(K::Save), |one| {
                one.claim = Some(claim(1, 1));
                one.observed.claim = ClaimSeen::Present(claim(1, 2));
            }),
            Some(Rule::JournalOlderThanQemu),
        ),
        // A stream that this journal does not know of has stopped the guest: it is older.
        (
            at(K::Save, R::Postmigrate, M::Completed),
            Some(Rule::NoRuleForThis),
        ),
        (
            with(dumping(DumpStatus::Completed, E::Done), |one| {
                one.observed = at(K::Dump, R::Postmigrate, M::Completed).observed;
            }),
            Some(Rule::NoRuleForThis),
        ),
        (
            with(overlay(NodesSeen::Present, E::Done), |one| {
                one.observed = at(K::Snapshot, R::Postmigrate, M::Completed).observed;
            }),
            Some(Rule::NoRuleForThis),
        ),
        (
            with(backup(status(QemuJobStatus::Concluded), None), |one| {
                one.observed = at(K::Backup, R::Postmigrate, M::Completed).observed;
            }),
            Some(Rule::NoRuleForThis),
        ),
        // Save.
        (running(K::Save), Some(Rule::SaveUndone)),
        (at(K::Save, R::Paused, M::Active), Some(Rule::NoRuleForThis)),
        (saving(R::Paused, M::Active), Some(Rule::SaveActive)),
        (
            saving(R::FinishMigrate, M::Completed),
            Some(Rule::SaveActive),
        ),
        (
            saving(R::Postmigrate, M::Completed),
            Some(Rule::SaveCompleted),
        ),
        (saving(R::Postmigrate, M::Cancelled), Some(Rule::SaveUndone)),
        (saving(R::Colo, M::Active), Some(Rule::NoRuleForThis)),
        (
            with(saving(R::Postmigrate, M::Completed), |one| {
                one.facts.end = E::Unknown;
            }),
            Some(Rule::SaveEnding),
        ),
        (
            mute(with(saving(R::Postmigrate, M::Completed), |one| {
                one.facts.end = E::Done;
            })),
            Some(Rule::SaveEnding),
        ),
        (
            with(dead(K::Save), |one| one.facts.end = E::Done),
            Some(Rule::SaveEnded),
        ),
        // Dump.
        (
            dumping(DumpStatus::Active, E::Unknown),
            Some(Rule::DumpActive),
        ),
        (
            dumping(DumpStatus::Completed, E::Done),
            Some(Rule::DumpTaken),
        ),
        (
            dumping(DumpStatus::Completed, E::Unknown),
            Some(Rule::DumpUndone),
        ),
        (dumping(DumpStatus::Failed, E::Done), Some(Rule::DumpUndone)),
        (
            dumping(DumpStatus::from_qemu("dreaming"), E::Done),
            Some(Rule::NoRuleForThis),
        ),
        (running(K::Dump), Some(Rule::DumpUndone)),
        // Snapshot.
        (running(K::Snapshot), Some(Rule::SnapshotUndone)),
        (
            overlay(NodesSeen::Present, E::Unknown),
            Some(Rule::SnapshotTaken),
        ),
        (
            overlay(NodesSeen::Absent, E::Unknown),
            Some(Rule::SnapshotUndone),
        ),
        (
            overlay(NodesSeen::Partly, E::Done),
            Some(Rule::SnapshotUndone),
        ),
        (
            inside(status(QemuJobStatus::Running), None),
            Some(Rule::SnapshotActive),
        ),
        (
            inside(status(QemuJobStatus::Concluded), None),
            Some(Rule::SnapshotTaken),
        ),
        (
            inside(status(QemuJobStatus::Concluded), Some("no room")),
            Some(Rule::SnapshotUndone),
        ),
        (inside(None, None), Some(Rule::SnapshotUndone)),
        (overlay(NodesSeen::Unread, E::Done), Some(Rule::JobSettled)),
        // Backup.
        (running(K::Backup), Some(Rule::BackupUndone)),
        (
            backup(status(QemuJobStatus::Running), None),
            Some(Rule::BackupActive),
        ),
        (
            backup(status(QemuJobStatus::Pending), None),
            Some(Rule::BackupPending),
        ),
        (
            backup(status(QemuJobStatus::Concluded), None),
            Some(Rule::BackupEnded),
        ),
        (
            backup(status(QemuJobStatus::Concluded), Some("no room")),
            Some(Rule::BackupFailed),
        ),
        (
            backup(status(QemuJobStatus::from_qemu("dreaming")), None),
            Some(Rule::NoRuleForThis),
        ),
        (backup(None, None), Some(Rule::BackupUndone)),
        // A stream that this journal does not know of: it is older.
        (
            at(K::Backup, R::FinishMigrate, M::PreSwitchover),
            Some(Rule::NoRuleForThis),
        ),
        (
            cancelled(backup(status(QemuJobStatus::Running), None)),
            Some(Rule::BackupCancelled),
        ),
        (
            cancelled(backup(status(QemuJobStatus::Concluded), None)),
            Some(Rule::BackupFailed),
        ),
        // Start, restore.
        (starting(R::Paused, E::Never), Some(Rule::StartUndone)),
        (starting(R::Inmigrate, E::Never), Some(Rule::StartUndone)),
        (starting(R::Prelaunch, E::Unknown), Some(Rule::StartUndone)),
        (starting(R::Paused, E::Unknown), Some(Rule::StartUnknown)),
        (starting(R::Running, E::Unknown), Some(Rule::StartRunning)),
        (starting(R::Paused, E::Done), Some(Rule::StartRunning)),
        (starting(R::Colo, E::Never), Some(Rule::NoRuleForThis)),
        (
            with(dead(K::Start), |one| one.facts.end = E::Done),
            Some(Rule::StartEnded),
        ),
        // Ordinary ones.
        (running(K::Destroy), Some(Rule::DestroyAlive)),
        (
            cancelled(running(K::Destroy)),
            Some(Rule::OrdinaryReconciled),
        ),
        (cancelled(mute(running(K::Destroy))), Some(Rule::QemuMute)),
        (
            cancelled(with(running(K::Destroy), |one| one.facts.end = E::Unknown)),
            Some(Rule::DestroyAlive),
        ),
        (dead(K::Destroy), Some(Rule::DestroyDone)),
        (running(K::Suspend), Some(Rule::OrdinaryReconciled)),
        (running(K::Modify), Some(Rule::OrdinaryReconciled)),
    ]
}

#[test]
fn every_row_of_a_job_gives_its_rule() {
    for (evidence, expected) in rows() {
        assert_eq!(decide_job(&evidence), expected, "{evidence:?}");
    }
}

/// What QEMU shows of a job, by name.
fn looks() -> Vec<(String, JobEvidence)> {
    use MigrationStatus as M;
    use RunState as R;
    let states = [
        (R::Running, M::None),
        (R::Paused, M::Active),
        (R::FinishMigrate, M::Completed),
        (R::Postmigrate, M::Completed),
        (R::Postmigrate, M::Cancelled),
        (R::Paused, M::Completed),
        (R::Prelaunch, M::None),
        (R::Inmigrate, M::None),
        (R::SaveVm, M::None),
        (R::Running, M::PostcopyActive),
    ];
    let alive = states.map(|(run, status)| {
        let name = format!("{run}, {status}");
        (name, at(JobKind::Save, run, status))
    });
    let silent = [Process::Mute, Process::Dead].map(|process| {
        let evidence = with(at(JobKind::Save, R::Running, M::None), |one| {
            one.observed = Observed {
                process,
                instance: None,
                run_state: None,
                migration: None,
                claim: ClaimSeen::Unread,
            };
        });
        (process.to_string(), evidence)
    });
    alive.into_iter().chain(silent).collect()
}

/// Every job over every standing of its effects and every look: a changed decision is a changed line.
#[test]
fn the_product_of_jobs() {
    let jobs = [
        ("none", Some(Vec::new())),
        ("gone", listed(None, None)),
        ("active", listed(Some(QemuJobStatus::Running), None)),
        ("pending", listed(Some(QemuJobStatus::Pending), None)),
        ("concluded", listed(Some(QemuJobStatus::Concluded), None)),
        ("failed", listed(Some(QemuJobStatus::Concluded), Some("x"))),
    ];
    let mut lines = String::new();
    // Migrations have phases of their own, and a product of their own.
    let is_other = |kind: &&JobKind| !matches!(kind, JobKind::MigrationOut | JobKind::MigrationIn);
    for kind in JobKind::ALL.iter().filter(is_other) {
        for is_cancelled in [false, true] {
            for (look, evidence) in looks() {
                let mut rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for stream in EffectStanding::ALL {
                    for main in EffectStanding::ALL {
                        for end in EffectStanding::ALL {
                            for (listed, qemu_jobs) in &jobs {
                                let one = with(evidence.clone(), |one| {
                                    one.kind = *kind;
                                    one.recovering = !is_cancelled;
                                    if is_cancelled {
                                        one.phase = JobPhase::Cancel;
                                    }
                                    one.facts = JobFacts {
                                        stream: *stream,
                                        main: *main,
                                        end: *end,
                                    };
                                    one.dump = Some(DumpStatus::Completed);
                                    one.qemu_jobs.clone_from(qemu_jobs);
                                });
                                let rule = decide_job(&one).map_or("none", Rule::name);
                                let standing = format!("{stream}/{main}/{end}/{listed}");
                                rules.entry(rule.to_owned()).or_default().push(standing);
                            }
                        }
                    }
                }
                let cancelled = if is_cancelled { " cancelled" } else { "" };
                let _ = write!(lines, "{kind}{cancelled} | {look} |");
                for (rule, points) in rules {
                    let _ = write!(lines, " {rule} {}", points.len());
                }
                lines.push('\n');
            }
        }
    }
    insta::assert_snapshot!("jobs", lines);
}

#[test]
fn every_status_of_a_qemu_job_has_a_class() {
    let unknown: Vec<&QemuJobStatus> = QemuJobStatus::KNOWN
        .iter()
        .filter(|status| qemu_job_class(Some(status)) == QemuJobClass::Unknown)
        .collect();
    assert_eq!(unknown, [&QemuJobStatus::Undefined]);
    let newer = QemuJobStatus::from_qemu("dreaming");
    assert_eq!(qemu_job_class(Some(&newer)), QemuJobClass::Unknown);
    assert_eq!(qemu_job_class(None), QemuJobClass::Gone);
}
