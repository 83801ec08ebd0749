//! Jobs that are no migrations, as the records tell them.
//!
//! Invariant: as for the rest of the state: only records change it, and one that fits nothing changes nothing.
//! Not here: what a command means (`job::meaning`), migrations.

use journal_format::number::{DomainId, Lsn};
use journal_format::record::{
    Draft, EffectCommand, EffectCount, EffectResult, EndedJob, JOB_THINGS_MAX, JobEnded, JobState,
    Record, RecordBody,
};

use super::State;
use crate::engine::job::driven;
use crate::engine::job::meaning::{Meaning, meaning};

/// An open job that is no migration, with the records that its next decision will cite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// The domain.
    pub(crate) domain: DomainId,
    /// As recorded.
    pub(crate) state: JobState,
    /// The record of the last phase or effect.
    pub(crate) fact: Lsn,
    /// The last recorded look.
    pub(crate) seen: Option<Lsn>,
}

impl Job {
    /// The records that a decision made now rests on, oldest first.
    pub(crate) fn based_on(&self) -> Vec<Lsn> {
        let mut records = vec![self.state.job, self.fact];
        records.extend(self.seen);
        records.sort_unstable();
        records.dedup();
        records
    }
}

impl State {
    /// The open jobs of a domain that are no migrations, oldest first.
    pub(crate) fn jobs_of(&self, id: DomainId) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(move |job| job.domain == id)
    }

    /// What a record says of such jobs.
    pub(super) fn apply_jobs(&mut self, record: &Record) {
        let lsn = record.lsn;
        match &record.body {
            RecordBody::JobBegun(begun) if begun.migration.is_none() => {
                if let Some(id) = record.domain {
                    self.restore_job(lsn, id, JobState::begun(lsn, begun.kind));
                }
            }
            RecordBody::JobState(state) => {
                if let Some(id) = record.domain {
                    self.restore_job(lsn, id, (**state).clone());
                }
            }
            RecordBody::JobPhaseEntered(entered) => {
                let Some(job) = self.jobs.get_mut(&entered.job) else {
                    return;
                };
                job.fact = lsn;
                job.state.phase = entered.phase;
                if job.state.begun == 0 {
                    job.state.begun = entered.time;
                }
                if entered.cookie.is_some() {
                    job.state.cookie.clone_from(&entered.cookie);
                }
                job.state.recognised |= entered.recognised;
                let done = &mut job.state.stream.done;
                *done = done.saturating_add(u32::from(entered.listens));
                job.state.other_side = entered.other_side.or(job.state.other_side);
            }
            RecordBody::JobDecided(decided) => {
                if let Some(job) = self.jobs.get_mut(&decided.job) {
                    job.state.last_rule = Some(decided.rule.clone());
                }
            }
            RecordBody::QemuObserved(seen) => {
                if let Some(job) = seen.job.and_then(|job| self.jobs.get_mut(&job)) {
                    job.seen = Some(lsn);
                }
            }
            RecordBody::EffectIntended(intended) => {
                if let Some(job) = intended.job.and_then(|job| self.jobs.get_mut(&job)) {
                    job.fact = lsn;
                    intend(&mut job.state, lsn, &intended.command);
                }
            }
            RecordBody::EffectFinished(finished) => {
                let is_it = |job: &&mut Job| {
                    let in_flight = job.state.in_flight.as_ref();
                    in_flight.is_some_and(|(intent, _)| *intent == finished.effect)
                };
                if let Some(job) = self.jobs.values_mut().find(is_it) {
                    job.fact = lsn;
                    finish(&mut job.state, &finished.result);
                }
            }
            RecordBody::JobEnded(ended) => self.end_job(record, ended),
            // The registration was lost while its job is open.
            RecordBody::DomainAdded(state) if state.damaged => {}
            // A domain is registered anew, or taken out, only when it has no job.
            RecordBody::DomainAdded(_) | RecordBody::DomainRemoved => {
                self.jobs.retain(|_, job| Some(job.domain) != record.domain);
            }
            _ => {}
        }
    }

    fn restore_job(&mut self, lsn: Lsn, domain: DomainId, state: JobState) {
        let job = Job {
            domain,
            fact: lsn,
            seen: None,
            state,
        };
        self.jobs.insert(job.state.job, job);
    }

    fn end_job(&mut self, record: &Record, ended: &JobEnded) {
        let Some(job) = self.jobs.remove(&ended.job) else {
            return;
        };
        if let Some(domain) = self.domain_of(record) {
            domain.state.last_job = Some(EndedJob {
                job: ended.job,
                kind: job.state.kind,
                migration: None,
                phase: driven::role(job.state.kind).and_then(|_| driven::phase(job.state.phase)),
                result: ended.result,
                detail: ended.detail.clone(),
            });
        }
    }

    /// Those jobs as records of a checkpoint.
    pub(super) fn restated_jobs(&self) -> impl Iterator<Item = Draft> {
        self.jobs.values().map(|job| Draft {
            domain: Some(job.domain),
            body: RecordBody::JobState(Box::new(job.state.clone())),
        })
    }
}

/// An effect of the job is about to be sent: from now on it may have happened.
fn intend(state: &mut JobState, effect: Lsn, command: &EffectCommand) {
    let Meaning {
        stream,
        main,
        end,
        nodes,
        qemu_jobs,
        takes_back,
        ..
    } = meaning(state.kind, command);
    for (is_one, count) in [
        (stream, &mut state.stream),
        (main, &mut state.main),
        (end, &mut state.end),
    ] {
        if is_one {
            count.unknown = count.unknown.saturating_add(1);
        }
    }
    add(&mut state.nodes, nodes);
    add(&mut state.qemu_jobs, qemu_jobs);
    for command in takes_back {
        if !state.leftovers.contains(&command) && state.leftovers.len() < JOB_THINGS_MAX {
            state.leftovers.insert(0, command);
        }
    }
    state.in_flight = Some((effect, command.clone()));
}

fn add(known: &mut Vec<String>, names: Vec<String>) {
    for name in names {
        if !known.contains(&name) && known.len() < JOB_THINGS_MAX {
            known.push(name);
        }
    }
}

/// What became of the effect in flight.
fn finish(state: &mut JobState, result: &EffectResult) {
    let Some((_, command)) = state.in_flight.take() else {
        return;
    };
    let meaning = meaning(state.kind, &command);
    for (is_one, count) in [
        (meaning.stream, &mut state.stream),
        (meaning.main, &mut state.main),
        (meaning.end, &mut state.end),
    ] {
        if is_one {
            settle(count, result);
        }
    }
    match result {
        EffectResult::Done => {
            state.leftovers.retain(|other| *other != command);
            if let Some(id) = meaning.dismisses {
                state.qemu_jobs.retain(|other| *other != id);
            }
        }
        // It never came to be; and what cannot be taken back is not there to be taken back.
        EffectResult::Refused { .. } | EffectResult::NotSent { .. } => {
            let is_refused = matches!(result, EffectResult::Refused { .. });
            state.leftovers.retain(|other| {
                !(meaning.takes_back.contains(other) || is_refused && *other == command)
            });
            state.nodes.retain(|other| !meaning.nodes.contains(other));
            let refused = |other: &String| {
                meaning.qemu_jobs.contains(other)
                    || is_refused && meaning.dismisses.as_ref() == Some(other)
            };
            state.qemu_jobs.retain(|other| !refused(other));
        }
        EffectResult::Unknown { .. } => {}
    }
}

fn settle(count: &mut EffectCount, result: &EffectResult) {
    match result {
        EffectResult::Done => {
            count.unknown = count.unknown.saturating_sub(1);
            count.done = count.done.saturating_add(1);
        }
        EffectResult::Refused { .. } | EffectResult::NotSent { .. } => {
            count.unknown = count.unknown.saturating_sub(1);
        }
        EffectResult::Unknown { .. } => {}
    }
}
