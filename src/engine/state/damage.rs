//! Records that are missing: which domains they may concern, and what is known of those again later.
//!
//! Invariant: a domain is damaged until a record proves that none of its own is missing, every history
//! of it ends in the same, or somebody who looked at both sides says what is to be done.
//! Not here: what missing records may have said (`histories`).

use std::collections::BTreeSet;

use journal_format::number::{DomainId, Lsn, MigrationId};
use journal_format::record::{Claim, MigrationHistories, Record, RecordBody, Role, WantedRunState};

use super::{Migration, State, has_histories};
use crate::engine::histories::{Histories, history_of};
use crate::engine::{Gap, Rule};

/// A domain as it was before records that may concern it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BeforeGap {
    first: Lsn,
    damaged: bool,
    histories: Option<Histories>,
}

impl Migration {
    /// So many of its records may be missing.
    pub(super) fn lose(&mut self, gap: Gap, wanted: WantedRunState) {
        let (role, protocol) = (self.state.terms.role, self.state.terms.protocol);
        let records = gap.last.0.saturating_sub(gap.first.0).saturating_add(1);
        match &mut self.histories {
            Some(histories) => histories.extend_again(role, protocol, records),
            None if !has_histories(&self.state.terms) || self.disks.is_some() => {
                self.histories = Some(Histories::unknown());
            }
            None => {
                let mut histories = Histories::of(history_of(&self.state, self.facts(), wanted));
                histories.extend(role, protocol, records);
                self.histories = Some(histories);
            }
        }
    }

    /// Its job is over with records that may be missing: what became of it, if nothing that can be read says so, is lost from
    /// here on, whatever becomes of its domain. A checkpoint restates that.
    pub(super) fn end_over_damage(&mut self) {
        let state = &self.state;
        let is_told = match state.terms.role {
            Role::Source => state.abandoned || state.committed || state.outcome.is_some(),
            Role::Destination => state.aborted || state.started,
        };
        self.histories = (!is_told).then(Histories::unknown);
    }

    /// Is it known no more what became of it? See [`Migration::end_over_damage`].
    pub(crate) fn has_lost_its_end(&self) -> bool {
        !self.state.open && self.histories.is_some()
    }

    /// Does it wait for an operator since its QEMU has a claim of a later time than this journal?
    pub(crate) fn is_held_as_older(&self) -> bool {
        self.state.last_rule.as_deref() == Some(Rule::JournalOlderThanQemu.name())
    }

    /// Its histories as a record.
    pub(crate) fn restated_histories(&self) -> Option<MigrationHistories> {
        let histories = self.histories.as_ref()?;
        Some(MigrationHistories {
            job: self.state.job,
            nonce_known: self.state.terms.nonce.is_some(),
            histories: histories.all.clone(),
        })
    }
}

impl State {
    /// Damage concerns every domain, until a later record of the domain proves by its chain of
    /// previous LSNs that none of its records lies in the gap (P6).
    pub(in crate::engine) fn apply_gap(&mut self, gap: Gap) {
        self.checkpoint = None;
        self.lossy = true;
        let ids: Vec<DomainId> = self.domains.keys().copied().collect();
        for id in ids {
            let open = self.open_of(id);
            let Some(domain) = self.domains.get_mut(&id) else {
                continue;
            };
            let mut migration = open.and_then(|open| self.migrations.get_mut(&open));
            if domain.gap.is_none() {
                let known = migration.as_ref();
                domain.gap = Some(Box::new(BeforeGap {
                    first: gap.first,
                    damaged: domain.state.damaged,
                    histories: known.and_then(|known| known.histories.clone()),
                }));
            }
            let was_damaged = core::mem::replace(&mut domain.state.damaged, true);
            // What could not be told before cannot be told now.
            let is_told =
                |migration: &&mut &mut Migration| !was_damaged || migration.histories.is_some();
            if let Some(migration) = migration.as_mut().filter(is_told) {
                migration.lose(gap, domain.state.wanted);
            }
        }
    }

    pub(super) fn clear_undamaged(&mut self, record: &Record) {
        // Whoever has a gap has it from one that no whole checkpoint came behind.
        if !self.lossy {
            return;
        }
        let Some(domain) = record.domain.and_then(|id| self.domains.get_mut(&id)) else {
            return;
        };
        let Some(before) = domain.gap.take_if(|before| record.lsn >= before.first) else {
            return;
        };
        if record
            .previous
            .is_some_and(|previous| previous < before.first)
        {
            domain.state.damaged = before.damaged;
            let open = record.domain.and_then(|id| self.open_of(id));
            if let Some(migration) = open.and_then(|open| self.migrations.get_mut(&open)) {
                migration.histories = before.histories;
            }
        }
    }

    /// Whoever began this checkpoint lacked records: its chain of previous LSNs goes past them, and proves nothing. That holds though
    /// the checkpoint turns out not to be whole.
    pub(super) fn recall_damage(&mut self, record: &Record) {
        let RecordBody::DomainState(restated) = &record.body else {
            return;
        };
        let Some(id) = record.domain.filter(|_| self.lossy && restated.damaged) else {
            return;
        };
        let open = self.open_of(id);
        let Some(domain) = self.domains.get_mut(&id) else {
            return;
        };
        domain.gap = None;
        let was_damaged = core::mem::replace(&mut domain.state.damaged, true);
        if let Some(migration) = open.and_then(|open| self.migrations.get_mut(&open))
            && !was_damaged
        {
            migration.histories = Some(Histories::unknown());
        }
    }

    /// A QEMU ended, or does not answer, whose claim this journal did not know of: nothing shows any more that records are missing, and
    /// they are as if damaged from here on.
    pub(super) fn outlives_claim(&mut self, record: &Record) {
        let Some(id) = record.domain else { return };
        let open = self.open_of(id);
        if let Some(migration) = open.and_then(|open| self.migrations.get_mut(&open))
            && migration.is_held_as_older()
            && let Some(domain) = self.domains.get_mut(&id)
        {
            migration.histories = Some(Histories::unknown());
            domain.state.damaged = true;
        }
    }

    /// What this record says of the damage before it.
    pub(super) fn fold_histories(&mut self, record: &Record) {
        let is_damaged = |id: &DomainId| {
            let domain = self.domains.get(id);
            domain.is_none_or(|domain| domain.state.damaged)
        };
        let open = record
            .domain
            .filter(is_damaged)
            .and_then(|id| self.open_of(id));
        if let Some(migration) = open.and_then(|open| self.migrations.get_mut(&open))
            && let Some(histories) = &mut migration.histories
        {
            histories.fold(&migration.state, &record.body);
        }
    }

    /// A migration that is open as far as can be read is forgotten: its end is among what is lost.
    pub(super) fn forget_open(&mut self, record: &Record, name: MigrationId) {
        let Some(migration) = self.migrations.get_mut(&name).filter(|one| one.state.open) else {
            return;
        };
        let histories = migration.histories.take();
        let Some(domain) = record.domain.and_then(|id| self.domains.get_mut(&id)) else {
            return;
        };
        domain.migration.take_if(|open| *open == name);
        if histories.is_some_and(|histories| histories.end_settles()) {
            domain.state.damaged = false;
        }
    }

    /// Somebody who looked at both sides said what is to be done, whatever is damaged.
    pub(super) fn settle(&mut self, id: DomainId) {
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.state.damaged = false;
            domain.gap = None;
        }
        let open = self.open_of(id);
        if let Some(migration) = open.and_then(|open| self.migrations.get_mut(&open)) {
            migration.histories = None;
        }
    }

    /// The domains of which nothing but an open job is known.
    pub(crate) fn unregistered(&self) -> BTreeSet<DomainId> {
        let of_migrations = self.open.keys().copied();
        let of_jobs = self.jobs.values().map(|job| job.domain);
        of_migrations
            .chain(of_jobs)
            .filter(|id| !self.domains.contains_key(id))
            .collect()
    }

    /// A domain that lost its registration is registered again. Whether QEMU is the one that the job was about
    /// is only sure where it shows the claim of that job; else nothing can be told of it.
    pub(super) fn take_up(&mut self, id: DomainId, claim: Option<Claim>) {
        let Some(open) = self.open_of(id) else { return };
        let is_proven = claim.is_some_and(|claim| claim.migration == open);
        if let Some(migration) = self.migrations.get_mut(&open)
            && !is_proven
        {
            migration.histories = Some(Histories::unknown());
        }
    }
}
