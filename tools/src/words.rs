//! Records in words.
//!
//! Invariant: says what the record says, in one line, without what its type already tells.

use journal_format::number::Lsn;
use journal_format::record::{
    Authority, ClaimSeen, Decision, Decoded, DiskCopy, EffectCommand, EffectResult, EffectStanding,
    Evidence, JobEvidence, JobPhase, MigrationDisks, MigrationSettings, MigrationTerms, NodesSeen,
    Observed, Process, RecordBody, WantedReason,
};
use phase_journal::engine::Rule;
use phase_journal::journal::read::Gap;
use serde_json::{Value, json};

use crate::past::Recorded;
use crate::text::{count, plain, time};

/// One line of a dump.
pub(crate) fn line(recorded: &Recorded) -> String {
    let name = recorded.name.as_deref().unwrap_or("-");
    let job = recorded.job.map_or("-".to_owned(), |job| job.to_string());
    let (kind, said) = match &recorded.record {
        Decoded::Known(record) => (record.body.type_name().to_owned(), body(&record.body)),
        Decoded::Unknown {
            kind,
            version,
            body,
            ..
        } => (
            format!("type {kind} version {version}"),
            format!("of another version, {} bytes", body.len()),
        ),
    };
    let lsn = recorded.record.lsn().to_string();
    let line = format!(
        "{lsn:>6}  {}  {name:<8} job {job:<4} {kind:<19} {said}",
        time(recorded.batch.wall)
    );
    plain(line.trim_end())
}

/// Lost records, for people.
pub(crate) fn gap_line(gap: &Gap) -> String {
    format!("!! {gap}")
}

/// Lost records, for programs.
pub(crate) fn gap_json(gap: &Gap) -> Value {
    json!({
        "first": gap.first,
        "last": gap.last,
        "file": gap.segment.file_name(),
        "at": gap.at,
        "until": gap.until,
        "why": gap.why.to_string(),
    })
}

/// What a record says.
pub(crate) fn body(body: &RecordBody) -> String {
    match body {
        RecordBody::CheckpointBegun(begun) => {
            let openings = begun.openings.len() as u64;
            format!(
                "{} follow, {}",
                count(begun.records.into(), "record"),
                count(openings, "opening")
            )
        }
        RecordBody::CheckpointEnded(ended) => count(ended.records.into(), "record"),
        RecordBody::DomainAdded(state) | RecordBody::DomainState(state) => {
            let dead = if state.dead { ", dead" } else { "" };
            let damaged = if state.damaged { ", damaged" } else { "" };
            format!(
                "'{}' at {}, pid {}, wanted {}{dead}{damaged}",
                state.name, state.qmp, state.instance.pid, state.wanted
            )
        }
        RecordBody::DomainRemoved | RecordBody::Sealed => String::new(),
        RecordBody::DefinitionPart(part) => {
            format!(
                "part {} of {}, {} bytes",
                part.index + 1,
                part.count,
                part.text.len()
            )
        }
        RecordBody::WantedChanged(changed) => {
            let why = match changed.why {
                WantedReason::Asked => "asked for",
                WantedReason::Seen => "seen",
                WantedReason::Carried => "carried along",
            };
            format!("{} ({why})", changed.wanted)
        }
        RecordBody::JobBegun(begun) => match &begun.migration {
            None => begun.kind.to_string(),
            Some(terms) => format!(
                "{} {} as {}, {}peer {}, {}",
                begun.kind,
                terms.protocol,
                terms.role,
                authority(terms),
                terms.peer,
                terms.migration
            ),
        },
        RecordBody::PhaseEntered(entered) => entered.phase.to_string(),
        RecordBody::EffectIntended(intended) => effect(&intended.command),
        RecordBody::EffectFinished(finished) => {
            format!("effect {}: {}", finished.effect, result(&finished.result))
        }
        RecordBody::QemuObserved(seen) => observed(&seen.observed),
        RecordBody::PeerHeard(heard) => match heard.position {
            Some(position) => format!("{} at {position}", heard.answer),
            None => heard.answer.to_string(),
        },
        RecordBody::PeerPrepared(prepared) => format!("at {}", prepared.position),
        RecordBody::MigrationGranted(granted) => {
            format!(
                "cookie of {}, wanted {}",
                granted.cookie.migration, granted.cookie.wanted
            )
        }
        RecordBody::MigrationAbandoned(abandoned) => abandoned.why.clone(),
        RecordBody::MigrationCommitted(committed) => match committed.cookie {
            Some(cookie) => format!("with the cookie granted at {}", cookie.granted),
            None => "without a cookie".to_owned(),
        },
        RecordBody::MigrationStarted(named)
        | RecordBody::MigrationAborted(named)
        | RecordBody::MigrationForgotten(named) => named.migration.to_string(),
        RecordBody::OutcomeLearned(learned) => match learned.position {
            Some(position) => format!("{} from {position}", learned.outcome),
            None => format!("{}, not told by the peer", learned.outcome),
        },
        RecordBody::StoreIntended(intended) => match intended.cookie {
            Some(cookie) => format!(
                "{}, with the cookie granted at {}",
                intended.change, cookie.granted
            ),
            None => intended.change.to_string(),
        },
        RecordBody::StoreRead(read) => read.key.to_string(),
        RecordBody::VerdictGiven(given) => match given.uid {
            Some(uid) => format!("{} by {} of uid {uid}", given.outcome, given.by),
            None => format!("{} by {}", given.outcome, given.by),
        },
        RecordBody::Decided(decided) => {
            decision(decided.decision, &decided.rule, &decided.based_on)
        }
        RecordBody::JobDecided(decided) => {
            decision(decided.decision, &decided.rule, &decided.based_on)
        }
        RecordBody::JobPhaseEntered(entered) => {
            let mut said = entered.phase.to_string();
            if entered.listens {
                said = format!("{said}, recognised from a QEMU that was started to listen");
            } else if entered.recognised {
                said = format!("{said}, recognised from a client's command");
            }
            if let Some(cookie) = &entered.cookie {
                said = format!("{said}, with a cookie of {} bytes", cookie.len());
            }
            match (entered.other_side, entered.phase) {
                (Some(granted), JobPhase::Finish3) => {
                    format!("{said}, granted by the source at {granted}")
                }
                (Some(begun), _) => format!("{said}, of the job at {begun} at the other side"),
                (None, _) => said,
            }
        }
        RecordBody::JobState(state) => format!("{} in {}", state.kind, state.phase),
        RecordBody::MigrationDisks(disks) => copied(disks),
        RecordBody::GuestSent(sent) => match sent.is_here {
            true => "its guest was sent, and is here all the same".to_owned(),
            false => "its guest was sent away".to_owned(),
        },
        RecordBody::OperatorResolved(resolved) => format!(
            "{}{} by uid {}: {}",
            resolved.decision,
            if resolved.force { " with force" } else { "" },
            resolved.uid,
            resolved.statement
        ),
        RecordBody::JobEnded(ended) => format!("{}: {}", ended.result, ended.detail),
        RecordBody::MigrationState(state) => format!(
            "{} {} in {}{}",
            state.terms.role,
            state.terms.migration,
            state.phase,
            if state.open { "" } else { ", ended" }
        ),
        RecordBody::MigrationSettings(told) => settings_told(told),
        RecordBody::SettingsKept(kept) => format!(
            "{}QEMU's own: {}",
            if kept.changed {
                ""
            } else {
                "not changed yet, "
            },
            kept.settings
        ),
        RecordBody::MigrationHistories(restated) => match restated.histories.len() {
            0 => "nothing can be said of what is damaged".to_owned(),
            possible => format!("{possible} possible with what is damaged"),
        },
    }
}

fn settings_told(told: &MigrationSettings) -> String {
    let settings = (!told.settings.is_empty()).then(|| told.settings.to_string());
    let after = told
        .postcopy_after
        .map(|after| format!("post-copy after {after}"));
    let deadline = told.deadline.map(|seconds| format!("deadline {seconds} s"));
    let all: Vec<String> = [settings, after, deadline].into_iter().flatten().collect();
    all.join(", ")
}

/// The disks that a migration copies.
fn copied(disks: &MigrationDisks) -> String {
    let name = |disk: &DiskCopy| match disk.source == disk.destination {
        true => disk.source.clone(),
        false => format!("{} to {}", disk.source, disk.destination),
    };
    let names: Vec<String> = disks.disks.iter().map(name).collect();
    let at = disks.nbd.as_deref().map(|nbd| format!(" at {nbd}"));
    let settled = if disks.settled { ", settled" } else { "" };
    format!(
        "copies {}, {}{}{settled}",
        names.join(", "),
        disks.sync,
        at.unwrap_or_default()
    )
}

fn decision(decision: Decision, rule: &str, based_on: &[Lsn]) -> String {
    let records: Vec<String> = based_on.iter().map(ToString::to_string).collect();
    format!(
        "{} by {rule}, on records {}",
        decision.name().to_uppercase(),
        records.join(" ")
    )
}

/// Who decides, where the protocol does not say it.
fn authority(terms: &MigrationTerms) -> String {
    match terms.authority {
        Authority::Destination | Authority::Source => String::new(),
        Authority::Store => format!(
            "authority store {}, ",
            terms.store.as_deref().unwrap_or("unknown")
        ),
        Authority::Manager => "authority manager, ".to_owned(),
    }
}

fn effect(command: &EffectCommand) -> String {
    let name = command.name();
    match command {
        EffectCommand::Claim(claim) => format!("{name} claim {claim}"),
        EffectCommand::Unclaim => format!("{name} claim"),
        EffectCommand::SetCapabilities { role, postcopy } => {
            let postcopy = if *postcopy { ", with post-copy" } else { "" };
            format!("{name} as {role}{postcopy}")
        }
        EffectCommand::SetParameters {
            max_bandwidth,
            downtime_limit,
        } => {
            let bandwidth = max_bandwidth.map(|rate| format!(" max-bandwidth={rate}"));
            let downtime = downtime_limit.map(|limit| format!(" downtime-limit={limit}"));
            format!(
                "{name}{}{}",
                bandwidth.unwrap_or_default(),
                downtime.unwrap_or_default()
            )
        }
        EffectCommand::MigrateIncoming { uri }
        | EffectCommand::Migrate { uri }
        | EffectCommand::MigrateRecover { uri } => format!("{name} {uri}"),
        EffectCommand::MigrateResume { uri } => format!("{name} {uri}, resumed"),
        EffectCommand::Monitor {
            arguments,
            redacted,
            ..
        } => {
            let without = if *redacted {
                ", without what is secret"
            } else {
                ""
            };
            format!("{name} {arguments}{without}")
        }
        EffectCommand::MigrateContinue
        | EffectCommand::MigrateCancel
        | EffectCommand::Cont
        | EffectCommand::Stop
        | EffectCommand::Kill
        | EffectCommand::StartPostcopy
        | EffectCommand::MigratePause => name.to_owned(),
    }
}

fn result(result: &EffectResult) -> String {
    match result {
        EffectResult::Done => "done".to_owned(),
        EffectResult::Refused { class, description } => format!("{class}: {description}"),
        EffectResult::NotSent { why } => format!("not sent: {why}"),
        EffectResult::Unknown { why } => format!("unknown: {why}"),
    }
}

fn observed(observed: &Observed) -> String {
    if observed.process != Process::Alive {
        return observed.process.to_string();
    }
    let run = observed
        .run_state
        .as_ref()
        .map_or("?", |state| state.name());
    let status = observed
        .migration
        .as_ref()
        .map_or("?", |status| status.name());
    let claim = match &observed.claim {
        ClaimSeen::Unread => "claim not read",
        ClaimSeen::Absent => "no claim",
        ClaimSeen::Present(_) => "claimed",
        ClaimSeen::Foreign(_) => "a foreign claim",
    };
    format!("{run}, migration {status}, {claim}")
}

/// Evidence in words, a line each: what it is about, and what it was.
pub(crate) fn evidence(evidence: &Evidence) -> Vec<(&'static str, String)> {
    let facts = &evidence.facts;
    let mut durable = vec![format!("phase {}", evidence.phase)];
    let flags = [
        (facts.migrate_intended, "migrate intended"),
        (facts.postcopy, "post-copy"),
        (facts.granted, "granted"),
        (facts.abandoned, "abandoned"),
        (facts.committed, "committed"),
        (facts.started, "started"),
        (facts.aborted, "aborted"),
        (facts.proposed, "proposed to the store"),
    ];
    durable.extend(
        flags
            .into_iter()
            .filter(|(set, _)| *set)
            .map(|(_, name)| name.to_owned()),
    );
    if let Some(outcome) = facts.outcome {
        durable.push(format!("outcome {outcome}"));
    }
    if facts.committed {
        durable.push(format!("its cont: {}", facts.cont));
    }
    let mut lines = vec![
        (
            "journal",
            format!(
                "{} {}: {}",
                evidence.protocol,
                evidence.role,
                durable.join(", ")
            ),
        ),
        ("QEMU", observed(&evidence.observed)),
        ("peer", evidence.peer.to_string()),
        ("wanted", evidence.wanted.to_string()),
    ];
    if evidence.authority == Authority::Store {
        let overdue = if evidence.overdue {
            ", without an outcome for as long as was set"
        } else {
            ""
        };
        lines.push(("store", format!("{}{overdue}", evidence.store)));
    }
    if evidence.authority == Authority::Manager {
        let verdict = facts
            .verdict
            .map_or("none yet".to_owned(), |verdict| verdict.to_string());
        lines.push(("verdict", verdict));
    }
    if evidence.source_touched {
        lines.push((
            "touched",
            "this copy was continued or cancelled after it was given away".to_owned(),
        ));
    }
    if evidence.recovering {
        lines.push((
            "restart",
            "the sidecar was restarted in this job".to_owned(),
        ));
    }
    if evidence.watched {
        lines.push((
            "watched",
            "from its stop to its end, without a break".to_owned(),
        ));
    }
    if evidence.journal_damaged {
        lines.push(("damage", "records that may concern this domain".to_owned()));
    }
    lines
}

/// The same of a job that is no migration.
pub(crate) fn job_evidence(evidence: &JobEvidence) -> Vec<(&'static str, String)> {
    let mut durable = vec![format!("phase {}", evidence.phase)];
    let facts = &evidence.facts;
    let standings = [
        (facts.stream, "its stream"),
        (facts.main, "its own commands"),
        (facts.end, "the end of QEMU"),
    ];
    durable.extend(
        standings
            .into_iter()
            .filter(|(standing, _)| *standing != EffectStanding::Never)
            .map(|(standing, what)| format!("{what}: {standing}")),
    );
    let mut lines = vec![
        (
            "journal",
            format!("{}: {}", evidence.kind, durable.join(", ")),
        ),
        ("QEMU", observed(&evidence.observed)),
        ("wanted", evidence.wanted.to_string()),
    ];
    if let Some(dump) = &evidence.dump {
        lines.push(("dump", dump.to_string()));
    }
    for job in evidence.qemu_jobs.iter().flatten() {
        let status = job.status.as_ref().map_or("gone", |status| status.name());
        let error = job.error.as_ref().map(|error| format!(": {error}"));
        let error = error.unwrap_or_default();
        lines.push(("QEMU job", format!("{} {status}{error}", job.id)));
    }
    if evidence.nodes != NodesSeen::Unread {
        lines.push(("nodes", evidence.nodes.to_string()));
    }
    if evidence.recovering {
        let restart = "the sidecar was restarted in this job";
        lines.push(("restart", restart.to_owned()));
    }
    if evidence.journal_damaged {
        lines.push(("damage", "records that may concern this domain".to_owned()));
    }
    lines
}

/// What a rule says of itself; empty for a rule of a newer program.
pub(crate) fn reason(rule: &str) -> &'static str {
    Rule::from_name(rule).map_or("", |rule| rule.text().reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal_format::record::{
        ContIntent, Facts, Outcome, PeerAnswer, Phase, Protocol, Role, StoreAnswer, WantedRunState,
    };

    fn granted(authority: Authority) -> Evidence {
        Evidence {
            role: Role::Source,
            protocol: Protocol::V3,
            authority,
            phase: Phase::Perform3Done,
            facts: Facts {
                migrate_intended: true,
                postcopy: false,
                granted: true,
                abandoned: false,
                committed: false,
                started: false,
                aborted: false,
                outcome: None,
                cont: ContIntent::Never,
                proposed: true,
                verdict: Some(Outcome::Aborted),
            },
            observed: Observed {
                process: Process::Dead,
                instance: None,
                run_state: None,
                migration: None,
                claim: ClaimSeen::Unread,
            },
            claim: None,
            peer: PeerAnswer::Unreachable,
            watched: false,
            recovering: false,
            journal_damaged: false,
            wanted: WantedRunState::Running,
            store: StoreAnswer::Absent,
            overdue: true,
            source_touched: true,
        }
    }

    fn line_about(authority: Authority, what: &str) -> Option<String> {
        let lines = evidence(&granted(authority));
        lines
            .into_iter()
            .find_map(|(about, line)| (about == what).then_some(line))
    }

    #[test]
    fn evidence_tells_of_the_authority_that_there_is() {
        let store = line_about(Authority::Store, "store").unwrap();
        assert_eq!(store, "absent, without an outcome for as long as was set");
        let journal = line_about(Authority::Store, "journal").unwrap();
        assert!(journal.contains("proposed to the store"), "{journal}");
        let verdict = line_about(Authority::Manager, "verdict");
        assert_eq!(verdict.as_deref(), Some("aborted"));
        for what in ["store", "verdict"] {
            assert_eq!(line_about(Authority::Destination, what), None);
        }
        assert!(line_about(Authority::Destination, "touched").is_some());
    }
}
