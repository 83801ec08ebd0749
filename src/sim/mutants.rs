//! Rules made wrong on purpose: a simulator that lets one pass proves nothing.
//!
//! Invariant: only in tests and with the feature `mutants`; each row is one wrong rule, or one fact of
//! the handover that comes too early.
//! Not here: how one is put into the table's place (`engine::mutant`), what catches it in the model
//! (`engine::tests`).

use journal_format::record::{
    ContIntent, Evidence, MigrationStatus, PeerAnswer, Phase, Process, Role, RunState,
};

use super::{Mix, Outcome, Rates, Shape, run};
use crate::engine::Rule;
use crate::engine::mutant::{self, Mutant};

/// A wrong rule.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The rule, or the fact of the handover, that it makes wrong.
    pub name: &'static str,
    /// What it does.
    pub does: &'static str,
    mutant: Mutant,
    /// Makes often what its rule is about.
    often: fn(&mut Shape),
}

impl Row {
    const fn rule(of: Rule, wrong: Rule, does: &'static str) -> Row {
        Row {
            name: of.name(),
            does,
            mutant: Mutant {
                of: Some(of),
                wrong: Some(wrong),
                when: always,
            },
            often: as_it_is,
        }
    }

    const fn fact(name: &'static str, of: Option<Rule>, wrong: Rule, does: &'static str) -> Row {
        Row {
            name,
            does,
            mutant: Mutant {
                of,
                wrong: Some(wrong),
                when: always,
            },
            often: as_it_is,
        }
    }

    const fn when(mut self, when: fn(&Evidence) -> bool) -> Row {
        self.mutant.when = when;
        self
    }

    const fn often(mut self, often: fn(&mut Shape)) -> Row {
        self.often = often;
        self
    }

    /// The fleet that it is looked for in.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let mut shape = shape();
        (self.often)(&mut shape);
        shape
    }

    /// Runs a world whose engines have this rule wrong.
    #[must_use]
    pub fn run(&self, seed: u64, shape: &Shape) -> Outcome {
        mutant::with(self.mutant, || run(seed, shape))
    }
}

/// Fleets in which what is rare elsewhere is not, and that migrate by these rules alone.
#[must_use]
pub fn shape() -> Shape {
    Shape {
        domains: 4,
        faults: Rates {
            qemu_death: 80_000,
            qemu_mute: 40_000,
            lost_journal: 20_000,
            older_journal: 20_000,
            foreign: 60_000,
            foreign_claim: 60_000,
            replaced_qemu: 30_000,
            ..Rates::default()
        },
        migrations: Mix {
            driven: 0,
            jobs: 0,
            ..Mix::default()
        },
        ..Shape::default()
    }
}

/// Every mutant, in the order of the decision table; then the facts of the handover.
pub const MUTANTS: &[Row] = {
    use Rule as R;
    &[
        Row::rule(
            R::ClaimedByAnother,
            R::SourceAbandoned,
            "goes on with a foreign claim",
        )
        .when(source)
        .often(journals_are_lost),
        Row::rule(
            R::JournalOlderThanQemu,
            R::SourceAbandoned,
            "goes on with an older journal",
        )
        .when(source)
        .often(journals_are_put_back),
        Row::rule(
            R::QemuMute,
            R::DestinationPrepareFailed,
            "takes silence for a failed stream",
        )
        .when(destination),
        Row::rule(
            R::SourceBeginUndone,
            R::SourceCommittedDead,
            "ends the job without giving up",
        )
        .often(sources_die_early),
        Row::rule(
            R::SourceBeginDead,
            R::SourceCommittedDead,
            "ends the job without giving up",
        )
        .often(sources_die_early),
        Row::rule(
            R::SourcePerformGiveUp,
            R::SourcePerformCompleted,
            "grants what was not completed",
        ),
        Row::rule(
            R::SourcePerformCompleted,
            R::SourceConfirm,
            "kills on completed",
        ),
        Row::rule(
            R::SourcePerformDeadWatched,
            R::SourcePerformDeadNotWhole,
            "closes though the other copy is whole",
        ),
        Row::rule(
            R::SourcePerformDeadUnwatched,
            R::SourcePerformDeadWatched,
            "grants though this copy may have run on",
        )
        .often(sources_die_unwatched),
        Row::rule(
            R::SourcePerformDeadAsking,
            R::SourcePerformDeadNotWhole,
            "closes without asking",
        ),
        Row::rule(
            R::SourcePerformDeadNotWhole,
            R::SourceCommittedDead,
            "ends the job without giving up",
        )
        .often(sources_die_early),
        Row::rule(
            R::SourcePerform2Completed,
            R::SourcePerform2Whole,
            "commits without asking",
        ),
        Row::rule(
            R::SourcePerform2Whole,
            R::SourceCommitted,
            "kills before the commit is durable",
        ),
        Row::rule(
            R::SourcePerform2Gone,
            R::SourcePerform2Whole,
            "commits though the other copy is gone",
        ),
        Row::rule(
            R::SourceCommitted,
            R::SourceAbandoned,
            "resumes after the commit",
        ),
        Row::rule(
            R::SourceCommitted,
            R::SourceCommittedDead,
            "gives the licence before its copy is gone",
        ),
        Row::rule(
            R::SourceCommittedDead,
            R::QemuMute,
            "never ends the job, nor gives the licence",
        ),
        Row::rule(
            R::SourceAbandoned,
            R::SourcePerformCompleted,
            "grants what was given up",
        ),
        Row::rule(R::SourceAbandoned, R::QemuMute, "gives up and does nothing"),
        Row::rule(R::SourceAbandonedDead, R::QemuMute, "never ends the job")
            .often(qemus_die_refusing),
        Row::rule(
            R::SourceGrantedStarted,
            R::SourceCancelled,
            "resumes though the destination runs",
        ),
        Row::rule(
            R::SourceGrantedAborted,
            R::SourceConfirm,
            "kills though the destination aborted",
        ),
        Row::rule(
            R::SourceGrantedInDoubt,
            R::SourceCancelled,
            "resumes when no answer comes",
        )
        .when(unreachable),
        Row::rule(
            R::SourceGrantedInDoubt,
            R::SourceConfirm,
            "kills before the destination has started",
        ),
        Row::rule(
            R::SourceGrantedAmnesia,
            R::SourceCancelled,
            "believes a destination that forgot everything",
        ),
        Row::rule(
            R::SourceGrantedDead,
            R::SourcePerformDeadNotWhole,
            "closes and gives the licence no more",
        ),
        Row::rule(
            R::SourceGrantedDeadSettled,
            R::QemuMute,
            "never ends the job",
        ),
        Row::rule(
            R::SourceConfirm,
            R::SourceCancelled,
            "resumes though the destination runs",
        ),
        Row::rule(R::SourceConfirmDead, R::QemuMute, "never ends the job"),
        Row::rule(
            R::SourceCancelled,
            R::SourceConfirm,
            "kills though the destination aborted",
        ),
        Row::rule(R::SourceCancelledDead, R::QemuMute, "never ends the job")
            .often(qemus_die_refusing),
        Row::rule(
            R::SourcePerformPostcopy,
            R::SourcePerformGiveUp,
            "gives up a guest that is split",
        )
        .often(streams_break_in_postcopy),
        Row::rule(
            R::SourcePostcopyBroken,
            R::QemuMute,
            "never takes a broken stream up",
        )
        .often(streams_break_in_postcopy),
        Row::rule(
            R::SourcePostcopyBroken,
            R::SourcePostcopyLost,
            "ends its half when the stream breaks",
        )
        .often(streams_break_in_postcopy),
        Row::rule(
            R::SourcePostcopyEnding,
            R::SourceConfirm,
            "kills before QEMU says that its half is lost",
        )
        .often(streams_break_in_postcopy),
        Row::rule(
            R::SourcePostcopyLost,
            R::QemuMute,
            "keeps its half of a lost guest",
        )
        .often(streams_break_in_postcopy),
        Row::rule(
            R::DestinationPrepareDead,
            R::DestinationPrepareRunning,
            "says started of a copy that never ran",
        ),
        Row::rule(
            R::DestinationPrepareFailed,
            R::QemuMute,
            "waits for a stream that never comes",
        ),
        Row::rule(
            R::DestinationPrepareAbandoned,
            R::DestinationPrepareWaiting,
            "waits for a source that gave up",
        ),
        Row::rule(
            R::DestinationPrepareAbandoned,
            R::DestinationFinishRetry,
            "runs what the source gave up",
        ),
        Row::rule(
            R::DestinationPrepareFinish,
            R::DestinationFinishRetry,
            "runs before the commit is durable",
        ),
        Row::rule(
            R::DestinationPrepareWaiting,
            R::DestinationPrepareAbandoned,
            "gives up while the source decides",
        ),
        Row::rule(
            R::DestinationPrepareAlone,
            R::DestinationPrepareAbandoned,
            "gives up when the source is not reached",
        ),
        Row::rule(
            R::DestinationFinishRetry,
            R::DestinationFinishRefusedSafe,
            "takes a `cont` without a result for refused",
        )
        .when(cont_unknown),
        Row::rule(
            R::DestinationFinishRefused,
            R::DestinationFinishRefusedSafe,
            "gives back a guest whose source is not safe",
        )
        .often(conts_are_refused),
        Row::rule(
            R::DestinationFinishRefusedSafe,
            R::DestinationFinishRunning,
            "says started after a refused `cont`",
        )
        .often(conts_are_refused),
        Row::rule(
            R::DestinationFinishRunning,
            R::DestinationFinishDeadUnsent,
            "aborts a guest that runs",
        ),
        Row::rule(
            R::DestinationFinishDead,
            R::DestinationFinishDeadUnsent,
            "aborts a guest that may have run",
        ),
        Row::rule(
            R::DestinationFinishDeadUnsent,
            R::DestinationFinishDead,
            "says started of a copy that never ran",
        )
        .often(destinations_die_refusing),
        Row::rule(
            R::DestinationPostcopyBroken,
            R::DestinationPostcopyLost,
            "ends its half when the stream breaks",
        )
        .often(streams_break_in_postcopy),
        Row::rule(
            R::DestinationPostcopyLost,
            R::QemuMute,
            "keeps its half of a lost guest",
        )
        .often(streams_break_in_postcopy),
        Row::rule(
            R::DestinationAborted,
            R::DestinationAbortedDead,
            "says aborted before its copy is gone",
        ),
        Row::rule(R::DestinationAbortedDead, R::QemuMute, "never says aborted"),
        Row::fact(
            "granted",
            None,
            R::SourcePerformCompleted,
            "granted before QEMU said completed",
        )
        .when(source_in_device)
        .often(sources_die_having_sent),
        Row::fact(
            "committed",
            None,
            R::DestinationFinishRetry,
            "`cont` before committed",
        )
        .when(whole_without_licence),
        Row::fact(
            "committed",
            Some(R::DestinationPrepareWaiting),
            R::DestinationFinishRetry,
            "`cont` before committed",
        )
        .when(whole_without_licence),
        Row::fact(
            "started",
            Some(R::DestinationFinishRetry),
            R::DestinationFinishRunning,
            "started before `cont` succeeded",
        )
        .when(cont_unknown),
        Row::fact(
            "started",
            Some(R::DestinationPrepareFinish),
            R::DestinationPrepareRunning,
            "started without `cont`",
        ),
        Row::fact(
            "aborted",
            Some(R::DestinationFinishRetry),
            R::DestinationFinishDeadUnsent,
            "aborted after committed",
        )
        .when(cont_unknown)
        .often(replies_are_lost),
        Row::fact(
            "aborted",
            Some(R::SourceGrantedInDoubt),
            R::SourceAbandoned,
            "resumed after granted, without aborted",
        )
        .when(unreachable),
        Row::fact(
            "abandoned",
            Some(R::SourcePerformGiveUp),
            R::SourceCancelled,
            "resumed before abandoned is durable",
        ),
    ]
};

/// A rule that no fleet can tell from a wrong one: the model alone makes it wrong (`tools/mutants`).
#[derive(Clone, Copy, Debug)]
pub struct LeftOut {
    rule: Rule,
    /// Why no world can judge it.
    pub why: &'static str,
}

impl LeftOut {
    /// The rule.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.rule.name()
    }
}

/// Every rule that is looked for in no fleet though one reaches it.
pub const LEFT_OUT: &[LeftOut] = &[LeftOut {
    rule: Rule::SourceAbandonedStarted,
    why: "a hand from outside continued the other copy, and of a guest that one touched nothing is judged",
}];

fn as_it_is(_: &mut Shape) {}

/// No protocol but v3 without post-copy, and no store.
fn all_by_v3(shape: &mut Shape) {
    shape.migrations.v2 = 0;
    shape.migrations.postcopy = 0;
    shape.migrations.store = 0;
}

/// The destination takes long to prepare, and QEMUs die.
fn sources_die_early(shape: &mut Shape) {
    shape.latencies.network = [5_000, 100_000];
    shape.faults.qemu_death = 600_000;
}

/// QEMUs refuse `cont` for a while, and die.
fn qemus_die_refusing(shape: &mut Shape) {
    shape.faults.refused_cont = 500_000;
    shape.faults.qemu_death = 600_000;
}

/// Older copies are put back with no witness to tell, where only a claim does, of guests whose migrations are given up and begun
/// again: with one, or after a reboot, the domain is held for that before any claim is looked at. Slow, so that a licence is out for long.
fn journals_are_put_back(shape: &mut Shape) {
    shape.hosts = 6;
    shape.domains = 12;
    shape.latencies.network = [5_000, 50_000];
    shape.latencies.qmp = [2_000, 30_000];
    shape.latencies.sync = [1_000, 20_000];
    shape.latencies.restart = [5_000, 50_000];
    shape.latencies.rest = [1_000, 5_000];
    all_by_v3(shape);
    shape.migrations.manager = 0;
    shape.faults.older_unseen = 60_000;
    shape.faults.manager_cancel = 500_000;
    shape.faults.sidecar_crash = 0;
    // What would keep a guest from being judged.
    shape.faults.older_journal = 0;
    shape.faults.lost_journal = 0;
    shape.faults.bit_rot = 0;
    shape.faults.lost_write = 0;
    shape.faults.lying_sync = 0;
    shape.faults.power = 0;
    shape.faults.manager_crash = 0;
    shape.faults.qemu_death = 0;
    shape.faults.foreign = 0;
    shape.faults.foreign_save = 0;
    shape.faults.foreign_claim = 0;
    shape.faults.replaced_qemu = 0;
}

fn journals_are_lost(shape: &mut Shape) {
    shape.faults.lost_journal = 200_000;
    shape.faults.foreign_claim = 200_000;
}

fn conts_are_refused(shape: &mut Shape) {
    shape.faults.refused_cont = 500_000;
}

/// QEMUs die, and streams break.
fn sources_die_having_sent(shape: &mut Shape) {
    shape.faults.qemu_death = 600_000;
    shape.faults.stream = 600_000;
}

/// The stream breaks behind what arrived, and the source runs on and dies while nobody watches, in a fleet that is slow to see
/// what it was.
fn sources_die_unwatched(shape: &mut Shape) {
    shape.latencies.network = [5_000, 50_000];
    shape.latencies.qmp = [200, 20_000];
    shape.latencies.sync = [1_000, 20_000];
    shape.latencies.restart = [20_000, 300_000];
    shape.latencies.rest = [1_000, 5_000];
    all_by_v3(shape);
    shape.faults.qemu_death = 1_000_000;
    shape.faults.sidecar_crash = 1_000_000;
    shape.faults.stream_end = 1_000_000;
}

/// Destinations refuse `cont` and die, in a fleet where the destination decides and nothing else gives the guest to either side.
fn destinations_die_refusing(shape: &mut Shape) {
    shape.latencies.network = [500, 5_000];
    shape.latencies.qmp = [2_000, 20_000];
    shape.latencies.rest = [1_000, 5_000];
    all_by_v3(shape);
    shape.migrations.manager = 0;
    shape.faults.sidecar_crash = 0;
    shape.faults.stream = 0;
    shape.faults.qemu_death = 1_000_000;
    shape.faults.refused_cont = 1_000_000;
    shape.faults.disconnect = 500_000;
}

fn replies_are_lost(shape: &mut Shape) {
    shape.faults.lost_reply = 500_000;
}

fn streams_break_in_postcopy(shape: &mut Shape) {
    shape.migrations.v2 = 0;
    shape.migrations.postcopy = 1_000_000;
    shape.faults.stream = 1_000_000;
    shape.faults.qemu_death = 150_000;
}

fn always(_: &Evidence) -> bool {
    true
}

fn source(evidence: &Evidence) -> bool {
    evidence.role == Role::Source
}

fn destination(evidence: &Evidence) -> bool {
    evidence.role == Role::Destination
}

fn unreachable(evidence: &Evidence) -> bool {
    evidence.peer == PeerAnswer::Unreachable
}

fn cont_unknown(evidence: &Evidence) -> bool {
    evidence.facts.cont == ContIntent::Unknown
}

fn source_in_device(evidence: &Evidence) -> bool {
    let is_device = evidence.observed.migration == Some(MigrationStatus::Device);
    evidence.role == Role::Source && evidence.phase == Phase::Perform3 && is_device
}

fn whole_without_licence(evidence: &Evidence) -> bool {
    let observed = &evidence.observed;
    evidence.role == Role::Destination
        && observed.process == Process::Alive
        && observed.run_state == Some(RunState::Paused)
        && observed.migration == Some(MigrationStatus::Completed)
}
