//! What the tests on real QEMU share: starting a pair, and judging it.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use journal_format::record::{Decoded, RecordBody};
use phase_journal::journal::OsDisk;
use phase_journal::journal::read::{Entry, Reader};
use phase_journal::journal::verify::Verdict;
use phase_journal_lab::guest::{GuestImage, GuestOptions, RESTLESS_BANDWIDTH};
use phase_journal_lab::pair::{Limits, Pair, PairOptions, Settled, Side};
use phase_journal_lab::qemu::Locking;
use phase_journal_lab::sidecar::{DomainView, RunOptions};

/// Bound of everything that is waited for; reached only by a failure.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// Numbers that the guest must print to count as running.
pub(crate) const NUMBERS: u32 = 5;

pub(crate) static ORDINARY: LazyLock<GuestImage> = LazyLock::new(|| image(GuestOptions::ORDINARY));
static QUIET: LazyLock<GuestImage> = LazyLock::new(|| {
    image(GuestOptions {
        dirty_pages: 2,
        ..GuestOptions::ORDINARY
    })
});
/// Set by `tools/soak --jobs`: sidecars are killed at every batch, where otherwise a slice is taken.
pub(crate) const EVERY_BATCH: &str = "PHASE_JOURNAL_EVERY_BATCH";

pub(crate) static RESTLESS: LazyLock<GuestImage> = LazyLock::new(|| image(GuestOptions::RESTLESS));

fn image(options: GuestOptions) -> GuestImage {
    GuestImage::assemble(options).expect("the guest is assembled")
}

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_phase-journald"))
}

/// Two sides with an ordinary guest. Without locks on the image nothing but the sidecars keeps two
/// copies from running.
pub(crate) fn pair(a: RunOptions, b: RunOptions) -> Pair {
    start(&ORDINARY, Locking::Off, a, b)
}

/// The same with locks on the image.
pub(crate) fn pair_with_locks(a: RunOptions, b: RunOptions) -> Pair {
    start(&ORDINARY, Locking::On, a, b)
}

/// A guest that writes so little that what is left of it for the switchover fits into a socket's buffer.
pub(crate) fn quiet_pair() -> Pair {
    let plain = RunOptions::default;
    start(&QUIET, Locking::Off, plain(), plain())
}

/// A restless guest under a low bandwidth: performs until somebody lets it converge.
pub(crate) fn performing() -> Pair {
    performing_within(1)
}

/// Two sides with a guest that writes so much that it does not converge at once.
pub(crate) fn restless_pair(a: RunOptions, b: RunOptions) -> Pair {
    start(&RESTLESS, Locking::Off, a, b)
}

/// By post-copy, with a first pass that lasts.
pub(crate) const POSTCOPY: Limits = Limits {
    protocol: None,
    max_bandwidth: Some(RESTLESS_BANDWIDTH),
    downtime_limit: None,
    postcopy: true,
    authority: None,
    copied: 0,
};

/// The same with this downtime limit, in milliseconds.
pub(crate) fn performing_within(downtime_limit: u64) -> Pair {
    performing_with(Locking::Off, downtime_limit, RunOptions::default())
}

/// The same, with locks on the image or without, and the source's sidecar as it is told.
pub(crate) fn performing_with(locking: Locking, downtime_limit: u64, a: RunOptions) -> Pair {
    let mut pair = start(&RESTLESS, locking, a, RunOptions::default());
    let limits = Limits {
        max_bandwidth: Some(RESTLESS_BANDWIDTH),
        downtime_limit: Some(downtime_limit),
        ..Limits::default()
    };
    pair.migrate(Side::A, limits)
        .unwrap_or_else(|error| panic!("{error}"));
    let is_active = |domain: &DomainView| domain.migration.as_deref() == Some("active");
    let active = phase_journal_lab::until("active migration", TIMEOUT, || {
        Ok(pair
            .sidecar(Side::A)
            .domains()?
            .iter()
            .any(is_active)
            .then_some(()))
    });
    active.unwrap_or_else(|error| panic!("{error}"));
    pair
}

fn start(image: &GuestImage, locking: Locking, a: RunOptions, b: RunOptions) -> Pair {
    let options = PairOptions {
        program: program(),
        image,
        locking,
        a,
        b,
    };
    Pair::start(&options).unwrap_or_else(|error| panic!("{error}"))
}

/// Two sides with so many disks that they do not share; a crash point kills the QEMU of the victim instead.
pub(crate) fn pair_with_data(
    data: usize,
    victim: Option<Side>,
    a: RunOptions,
    b: RunOptions,
) -> Pair {
    let options = PairOptions {
        program: program(),
        image: &ORDINARY,
        locking: Locking::Off,
        a,
        b,
    };
    let pair = match victim {
        None => Pair::start_with_data(&options, data),
        Some(victim) => Pair::start_with_data_killing(&options, data, victim),
    };
    pair.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn settle(pair: &mut Pair) -> Settled {
    pair.wait_until_settled(TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until no job is open: every hold on the way must settle by itself (P4).
pub(crate) fn settle_all(pair: &mut Pair, what: &str) -> Settled {
    pair.wait_until_no_job_is_open(TIMEOUT)
        .unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Waits until both sides are as expected.
pub(crate) fn wait_for(
    pair: &mut Pair,
    what: &str,
    expected: impl Fn(&Settled) -> bool,
) -> Settled {
    let mut last = None;
    let found = phase_journal_lab::until(what, TIMEOUT, || {
        let now = pair.wait_until_settled(TIMEOUT)?;
        let found = expected(&now).then(|| now.clone());
        last = Some(now);
        Ok(found)
    });
    found.unwrap_or_else(|error| panic!("{what}: {error}\nlast seen: {last:?}"))
}

/// Exactly one copy runs, its counter has gone on without a repeat or restart, no job is open, and
/// both journals are sound.
pub(crate) fn assert_one_runs(pair: &mut Pair, what: &str) -> Side {
    settle_all(pair, what);
    let conclusion = pair
        .conclude(NUMBERS, TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(conclusion.is_clean_and_running(), "{what}: {conclusion}");
    for side in Side::BOTH {
        assert_sound(pair, side, what);
    }
    if pair.qemu(Side::B).is_alive().unwrap()
        && pair.qemu(Side::B).run_state().unwrap() == "running"
    {
        Side::B
    } else {
        Side::A
    }
}

pub(crate) fn assert_sound(pair: &mut Pair, side: Side, what: &str) {
    let report = phase_journal::journal::verify::verify(OsDisk::new(pair.sidecar(side).journal()));
    let report = report.unwrap_or_else(|error| panic!("{what}: journal of {side}: {error}"));
    assert_ne!(
        report.verdict(),
        Verdict::Damaged,
        "{what}: journal of {side}: {report:?}"
    );
}

/// All that a journal says, in order.
pub(crate) fn records_in(journal: &Path) -> Vec<RecordBody> {
    let mut bodies = Vec::new();
    for entry in Reader::open(OsDisk::new(journal)).unwrap() {
        match entry.unwrap() {
            Entry::Gap(gap) => panic!("a gap in {}: {gap:?}", journal.display()),
            Entry::Batch(batch) => {
                let known = batch.records.into_iter().map(|placed| match placed.record {
                    Decoded::Known(record) => record.body,
                    Decoded::Unknown { kind, .. } => panic!("a record of the unknown type {kind}"),
                });
                bodies.extend(known);
            }
        }
    }
    bodies
}

/// Never two, never a step back: whatever else is true now.
pub(crate) fn assert_never_two(pair: &Pair, what: &str) {
    let logs = pair.guest_logs().unwrap();
    let verdict = phase_journal_lab::judge::judge(&logs);
    assert!(verdict.is_clean(), "{what}: {verdict}");
}
