//! Rows of what only shows when both sides are played through to the end.

use journal_format::record::{Evidence, MigrationStatus, PeerAnswer, RunState};

use super::{Vary, perform, prepare, whole};
use crate::engine::Rule;

pub(super) fn rows() -> Vec<(Evidence, Option<Rule>)> {
    use MigrationStatus as M;
    use PeerAnswer as P;
    use RunState as R;
    let unsent = |run, status| perform(run, status).but(|one| one.facts.migrate_intended = false);
    let empty = || prepare().but(|one| one.observed.migration = Some(M::None));
    vec![
        // Loaded, and a stream that went out of it since has ended: its guest had come, and may be the last copy.
        (
            whole().but(|one| one.observed.migration = Some(M::Cancelled)),
            Some(Rule::NoRuleForThis),
        ),
        (
            whole()
                .but(|one| one.observed.migration = Some(M::Failed))
                .heard(P::Abandoned),
            Some(Rule::NoRuleForThis),
        ),
        // Likewise where QEMU left a guest that its owner had paused when that stream failed.
        (
            whole()
                .run(R::Postmigrate)
                .but(|one| one.observed.migration = Some(M::Failed)),
            Some(Rule::NoRuleForThis),
        ),
        (
            whole()
                .run(R::FinishMigrate)
                .but(|one| one.observed.migration = Some(M::Cancelled)),
            Some(Rule::NoRuleForThis),
        ),
        // The journal does not know of the migration that QEMU shows: it is an older copy.
        (
            unsent(R::Postmigrate, M::Completed),
            Some(Rule::JournalOlderThanQemu),
        ),
        (
            unsent(R::Running, M::Active),
            Some(Rule::JournalOlderThanQemu),
        ),
        (
            unsent(R::Running, M::Completed),
            Some(Rule::SourcePerformGiveUp),
        ),
        // Nothing came, and the source's QEMU is gone: nothing will come.
        (
            empty().heard(P::NotWhole),
            Some(Rule::DestinationPrepareFailed),
        ),
        (
            prepare().heard(P::NotWhole),
            Some(Rule::DestinationPrepareWaiting),
        ),
        // Nor will it when the source says that its QEMU completed: not with this migration.
        (
            empty().heard(P::GrantedAndSafe),
            Some(Rule::DestinationPrepareFailed),
        ),
        (
            empty().heard(P::Granted),
            Some(Rule::DestinationPrepareWaiting),
        ),
        (prepare().heard(P::GrantedAndSafe), None),
    ]
}
