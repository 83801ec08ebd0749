//! Domains whose registration is among damaged records while a job of theirs is open; and those without a job that damaged
//! records may have been about.
//!
//! Invariant: they are shown and held like every other (P6); nothing is done to a QEMU that nobody names.
//! Not here: what missing records may have said of the job (`histories`).

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{Claim, Decision, JobResult, OperatorResolved, RecordBody};

use super::state::Migration;
use super::turn::Turn;
use super::{Answer, DomainView, HeldView, Refusal, Rule};

/// Why such a domain is held, for people.
const REASON: &str =
    "the record of its registration is damaged: which QEMU the open job is about is not known";
/// What would settle it.
const SETTLED_BY: &str =
    "domain-add of the QEMU that it is about; or, once both sides were looked at, resolve confirm";

impl Turn<'_> {
    /// What a domain is called: its name, or its identity if that is all there is.
    pub(crate) fn name_of(&self, id: DomainId) -> String {
        let known = self.domain(id);
        known.map_or_else(|| id.to_string(), |domain| domain.state.name.clone())
    }

    /// The domain of that name that lost its registration.
    pub(crate) fn unregistered_named(&self, name: &str) -> Option<DomainId> {
        let mut all = self.engine.state.unregistered().into_iter();
        all.find(|id| id.to_string() == name)
    }

    pub(crate) fn unregistered_view(&self, id: DomainId) -> DomainView {
        DomainView {
            name: id.to_string(),
            uuid: id,
            qmp: None,
            pid: None,
            process: None,
            run_state: None,
            migration: None,
            wanted: None,
            job: self.any_job_of(id),
            held: Some(HeldView {
                rule: Rule::JournalDamaged.name(),
                reason: REASON.to_owned(),
                settled_by: SETTLED_BY,
            }),
        }
    }

    /// May a QEMU with that claim be registered as this domain? One is ours if it is of a registration that was
    /// removed, or of one that is lost.
    pub(crate) fn is_own_claim(&self, id: DomainId, claim: &Claim) -> bool {
        let is_of_it = |known: &Migration| known.domain == id && self.domain(id).is_none();
        claim.journal == self.engine.config.journal
            && self.migration(claim.migration).is_none_or(is_of_it)
    }

    /// May records that are missing be about this QEMU, which is being registered? They may if a job of its
    /// domain is open without it, or if it is claimed for one that damaged records may have been about.
    pub(crate) fn is_registered_in_doubt(&self, id: DomainId, claim: Option<Claim>) -> bool {
        self.domain(id).is_none()
            && (self.any_job_of(id).is_some() || self.engine.lossy && claim.is_some())
    }

    fn any_job_of(&self, id: DomainId) -> Option<Lsn> {
        let state = &self.engine.state;
        let open = state.open_of(id).and_then(|open| self.migration(open));
        open.map(|migration| migration.state.job)
            .or_else(|| state.jobs_of(id).next().map(|job| job.state.job))
    }

    /// What needs a QEMU is not asked of a domain that lost its registration.
    pub(crate) fn need_registered(&self, id: DomainId) -> Result<(), Refusal> {
        match self.domain(id) {
            Some(_) => Ok(()),
            None => Err(Refusal::OnlyConfirm {
                name: self.name_of(id),
            }),
        }
    }

    /// Nothing begins on a domain that damaged records may have been about.
    pub(crate) fn need_undamaged(&self, id: DomainId) -> Result<(), Refusal> {
        match self.domain(id) {
            Some(domain) if domain.state.damaged => Err(Refusal::Damaged {
                name: domain.state.name.clone(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// What holds a domain that has no job: damaged records may have been about one.
    pub(crate) fn damage_view(&self, id: DomainId) -> Option<HeldView> {
        let domain = self.domain(id)?;
        (domain.state.damaged && self.any_job_of(id).is_none()).then(|| HeldView {
            rule: Rule::JournalDamaged.name(),
            reason:
                "damaged records may have been about it: whether a job of it is open is not known"
                    .to_owned(),
            settled_by: "resolve confirm, once QEMU and the other host were looked at",
        })
    }

    /// Carries out what an operator decided about a domain that damage holds without a job of which enough is
    /// known to decide: it can only be closed as it is.
    pub(crate) fn resolve_unknown(
        &mut self,
        id: DomainId,
        decision: Decision,
        force: bool,
        statement: &str,
        uid: u32,
    ) -> Result<Answer, Refusal> {
        let name = self.name_of(id);
        if decision != Decision::Confirm {
            return Err(Refusal::OnlyConfirm { name });
        }
        if !force || statement.is_empty() {
            let danger = "frees a domain whose guest may be on its way to another host";
            return Err(Refusal::NeedsForce { name, danger });
        }
        let job = self.any_job_of(id);
        let resolved = OperatorResolved {
            // No record has that LSN: no job is known.
            job: job.unwrap_or(Lsn(0)),
            decision,
            force,
            statement: statement.to_owned(),
            uid,
        };
        self.append(Some(id), RecordBody::OperatorResolved(resolved));
        let why = "an operator closed it as it was";
        if let Some(open) = self.engine.state.open_of(id) {
            self.end(open, JobResult::Failed, why);
        } else if let Some(job) = job {
            self.end_job(job, JobResult::Failed, why);
        }
        Ok(Answer::Done {})
    }
}
