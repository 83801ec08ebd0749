//! Licences: which cookie lets a destination run its copy.
//!
//! Invariant: only one from the source's own journal, for this very prepare, is taken.
//! Not here: who asks for one, and what follows from it (`peer`, `destination`).

use journal_format::number::{MigrationId, Position};
use journal_format::record::{Authority, Cookie, MigrationTerms, Role};

use super::turn::Turn;

/// Can a record at `earlier` be in a journal that ends at `now`? LSNs go on from one opening to the next.
fn is_at_or_before(earlier: Position, now: Position) -> bool {
    let same_life = earlier.epoch == now.epoch && earlier.opening == now.opening;
    earlier.lsn <= now.lsn && (same_life || earlier.epoch < now.epoch)
}

/// Is that a licence of the migration with these terms, whatever prepare it is for, and its sender the one who gave it?
fn is_given(terms: &MigrationTerms, cookie: &Cookie, sender: Position) -> bool {
    cookie.migration == terms.migration
        && cookie.authority == terms.authority
        && cookie.granted.journal == sender.journal
        && is_at_or_before(cookie.granted, sender)
}

impl Turn<'_> {
    /// Is that the source's licence for this very prepare, from its journal?
    pub(crate) fn is_licence(&self, id: MigrationId, cookie: &Cookie, sender: Position) -> bool {
        let Some(migration) = self.migration(id) else {
            return false;
        };
        let terms = &migration.state.terms;
        Some(cookie.nonce) == terms.nonce && is_given(terms, cookie, sender)
    }

    /// Protocol v2: is that the licence of a source whose copy is gone, for an earlier prepare of the same migration?
    ///
    /// One that is repeated on its way may come when that migration is over and forgotten here; an older copy of the
    /// source's journal then goes on repeating the licence, which no prepare of now is meant by.
    pub(crate) fn is_of_another_prepare(
        &self,
        id: MigrationId,
        cookie: &Cookie,
        sender: Position,
    ) -> bool {
        let Some(migration) = self.migration(id) else {
            return false;
        };
        let terms = &migration.state.terms;
        let is_anothers = terms.nonce.is_some_and(|nonce| nonce != cookie.nonce);
        terms.authority == Authority::Source && is_anothers && is_given(terms, cookie, sender)
    }

    /// Is that the licence of a migration that comes here, or of one that is not known any more?
    pub(crate) fn may_finish(&self, cookie: &Cookie, sender: Position) -> bool {
        let id = cookie.migration;
        self.migration(id).is_none_or(|migration| {
            let role = migration.state.terms.role;
            role == Role::Destination && self.is_licence(id, cookie, sender)
        })
    }
}
