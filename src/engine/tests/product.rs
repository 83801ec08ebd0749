//! The decision table over the whole product of what it may be asked: every durable state of a
//! migration, every class of what QEMU shows, every answer of the other side.
//!
//! `decide` is total, so that each point has one rule; here stands which. A changed decision shows as
//! a changed line of the snapshot. Points that cannot be are named as such, with the reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use journal_format::number::{Epoch, Id128, JournalId, MigrationId};
use journal_format::record::{
    Authority, Claim, ClaimSeen, ContIntent, Decision, Evidence, Facts, MigrationStatus, Observed,
    Outcome, PeerAnswer, Phase, Process, Protocol, Role, RunState, StoreAnswer, WantedRunState,
};

use crate::engine::decide::{RunClass, StatusClass, run_class, status_class};
use crate::engine::{Rule, decide};

/// One raw value of each class.
const RUN_STATES: [RunState; 7] = [
    RunState::Running,
    RunState::IoError,
    RunState::Paused,
    RunState::Inmigrate,
    RunState::FinishMigrate,
    RunState::Postmigrate,
    RunState::Colo,
];
const STATUSES: [MigrationStatus; 10] = [
    MigrationStatus::None,
    MigrationStatus::Active,
    MigrationStatus::PreSwitchover,
    MigrationStatus::Device,
    MigrationStatus::Cancelling,
    MigrationStatus::Failed,
    MigrationStatus::Completed,
    MigrationStatus::PostcopyActive,
    MigrationStatus::PostcopyPaused,
    MigrationStatus::Colo,
];

/// A durable state of one side's migration, by name.
type State = (&'static str, Evidence);

fn facts() -> Facts {
    Facts {
        migrate_intended: false,
        postcopy: false,
        granted: false,
        abandoned: false,
        committed: false,
        started: false,
        aborted: false,
        outcome: None,
        cont: ContIntent::Never,
        proposed: false,
        verdict: None,
    }
}

fn evidence(role: Role, protocol: Protocol, phase: Phase, facts: Facts) -> Evidence {
    let claim = Claim {
        journal: JournalId(Id128([1; 16])),
        epoch: Epoch(1),
        migration: MigrationId(Id128([2; 16])),
        role,
    };
    Evidence {
        role,
        protocol,
        authority: match protocol {
            Protocol::V2 => Authority::Source,
            Protocol::V3 => Authority::Destination,
        },
        phase,
        facts,
        observed: Observed {
            process: Process::Alive,
            instance: None,
            run_state: None,
            migration: None,
            claim: ClaimSeen::Present(claim),
        },
        claim: Some(claim),
        peer: PeerAnswer::NotAsked,
        watched: false,
        recovering: false,
        journal_damaged: false,
        wanted: WantedRunState::Running,
        store: StoreAnswer::NotRead,
        overdue: false,
        source_touched: false,
    }
}

fn source_states(protocol: Protocol) -> Vec<State> {
    let of = |phase, change: fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        evidence(Role::Source, protocol, phase, facts)
    };
    match protocol {
        Protocol::V2 => vec![
            (
                "perform2, migrate not intended",
                of(Phase::Perform2, |_| {}),
            ),
            (
                "perform2",
                of(Phase::Perform2, |facts| facts.migrate_intended = true),
            ),
            (
                "perform2, abandoned",
                of(Phase::Perform2, |facts| {
                    (facts.migrate_intended, facts.abandoned) = (true, true);
                }),
            ),
            (
                "perform2, committed",
                of(Phase::Perform2, |facts| {
                    facts.migrate_intended = true;
                    (facts.committed, facts.granted) = (true, true);
                }),
            ),
        ],
        Protocol::V3 => {
            let granted = |facts: &mut Facts| {
                (facts.migrate_intended, facts.granted) = (true, true);
            };
            let learned = |phase, outcome| {
                let mut evidence = of(phase, granted);
                evidence.facts.outcome = Some(outcome);
                evidence
            };
            vec![
                ("begin3", of(Phase::Begin3, |_| {})),
                (
                    "perform3, migrate not intended",
                    of(Phase::Perform3, |_| {}),
                ),
                (
                    "perform3",
                    of(Phase::Perform3, |facts| facts.migrate_intended = true),
                ),
                (
                    "perform3, abandoned",
                    of(Phase::Perform3, |facts| {
                        (facts.migrate_intended, facts.abandoned) = (true, true);
                    }),
                ),
                ("perform3_done, granted", of(Phase::Perform3Done, granted)),
                (
                    "perform3_done, outcome committed",
                    learned(Phase::Perform3Done, Outcome::Committed),
                ),
                (
                    "perform3_done, outcome aborted",
                    learned(Phase::Perform3Done, Outcome::Aborted),
                ),
                ("confirm3", learned(Phase::Confirm3, Outcome::Committed)),
                (
                    "confirm3_cancelled",
                    learned(Phase::Confirm3Cancelled, Outcome::Aborted),
                ),
            ]
        }
    }
}

fn destination_states(protocol: Protocol) -> Vec<State> {
    let finish = match protocol {
        Protocol::V2 => Phase::Finish2,
        Protocol::V3 => Phase::Finish3,
    };
    let of = |phase, facts| evidence(Role::Destination, protocol, phase, facts);
    let committed = |cont| {
        let facts = Facts {
            committed: true,
            cont,
            ..facts()
        };
        of(finish, facts)
    };
    let started = Facts {
        committed: true,
        started: true,
        cont: ContIntent::Done,
        ..facts()
    };
    let aborted = Facts {
        aborted: true,
        ..facts()
    };
    vec![
        ("prepare", of(Phase::Prepare, facts())),
        ("committed, cont not sent", committed(ContIntent::NotSent)),
        ("committed, cont refused", committed(ContIntent::Refused)),
        (
            "committed, cont of unknown result",
            committed(ContIntent::Unknown),
        ),
        ("committed, cont done", committed(ContIntent::Done)),
        ("started", of(finish, started)),
        ("aborted", of(Phase::Prepare, aborted)),
    ]
}

/// The states after `migrate-continue` in post-copy, which is v3 only.
fn postcopy_states(role: Role) -> Vec<State> {
    let states = match role {
        Role::Source => source_states(Protocol::V3),
        Role::Destination => destination_states(Protocol::V3),
    };
    let can_be = |(_, evidence): &State| {
        let facts = &evidence.facts;
        role == Role::Destination || facts.migrate_intended
    };
    let split = |(name, mut evidence): State| {
        evidence.facts.postcopy = true;
        (name, evidence)
    };
    states.into_iter().filter(can_be).map(split).collect()
}

/// Why a living QEMU of that side cannot show this, if it cannot. What QEMU shows all the same leads to
/// the rule beside it.
fn unreachable(role: Role, run: RunClass, status: StatusClass) -> Option<&'static str> {
    match (role, run, status) {
        (Role::Source, RunClass::Inmigrate, _) => Some("a source waits for no stream"),
        (Role::Destination, RunClass::FinishMigrate | RunClass::Postmigrate, _) => {
            Some("a destination sends nothing")
        }
        (
            Role::Destination,
            _,
            StatusClass::PreSwitchover | StatusClass::Device | StatusClass::Cancelling,
        ) => Some("a status of the sending side"),
        (Role::Source, RunClass::FinishMigrate, StatusClass::None) => {
            Some("only a migration stops a guest like this")
        }
        (Role::Destination, RunClass::Inmigrate, StatusClass::Completed) => {
            Some("completed comes after the guest is loaded")
        }
        _ => None,
    }
}

/// What else is known of a point, by name, of an authority that is neither of the two journals: the
/// key in the store, the set time, and whether this copy was touched; the manager's verdict.
fn known(evidence: &Evidence) -> Vec<(String, Evidence)> {
    let mut all = Vec::new();
    let of = |change: &dyn Fn(&mut Evidence)| {
        let mut point = evidence.clone();
        change(&mut point);
        point
    };
    match evidence.authority {
        Authority::Destination | Authority::Source => {}
        Authority::Store => {
            for answer in StoreAnswer::ALL {
                let point = of(&|one| one.store = *answer);
                all.push((answer.name().to_owned(), point));
            }
            if evidence.role == Role::Source {
                for (overdue, touched, name) in [
                    (true, false, "absent, overdue"),
                    (true, true, "absent, overdue, touched"),
                ] {
                    let point = of(&|one| {
                        one.store = StoreAnswer::Absent;
                        (one.overdue, one.source_touched) = (overdue, touched);
                    });
                    all.push((name.to_owned(), point));
                }
            }
        }
        Authority::Manager => {
            all.push(("no verdict".to_owned(), evidence.clone()));
            for outcome in Outcome::ALL {
                let point = of(&|one| one.facts.verdict = Some(*outcome));
                all.push((format!("verdict {outcome}"), point));
            }
        }
    }
    all
}

/// The rules of a point under every answer of the authority, and under all that [`rules_of`] knows.
fn rules(evidence: &Evidence) -> String {
    let known = known(evidence);
    if known.is_empty() {
        return rules_of(evidence);
    }
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (name, point) in known {
        let text = rules_of(&point);
        match groups.iter_mut().find(|(known, _)| *known == text) {
            Some((_, names)) => names.push(name),
            None => groups.push((text, vec![name])),
        }
    }
    match groups.len() {
        1 => groups.remove(0).0,
        _ => {
            let lines = groups
                .iter()
                .map(|(text, names)| format!("\n    {}: {text}", names.join(", ")));
            lines.collect()
        }
    }
}

/// The rules of a point under every answer of the other side, and whatever else is known.
fn rules_of(evidence: &Evidence) -> String {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for recovering in [false, true] {
        for watched in [false, true] {
            let mut of_rule: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for peer in PeerAnswer::ALL {
                let point = Evidence {
                    recovering,
                    watched,
                    peer: *peer,
                    ..evidence.clone()
                };
                let rule = decide(&point).map_or("go on", Rule::name);
                of_rule.entry(rule).or_default().push(peer.name());
            }
            let most = of_rule.values().map(Vec::len).max();
            let text: Vec<String> = of_rule
                .iter()
                .map(|(rule, peers)| match Some(peers.len()) == most {
                    true => (*rule).to_owned(),
                    false => format!("{rule} if {}", peers.join(" ")),
                })
                .collect();
            let condition = match (recovering, watched) {
                (false, false) => "at work",
                (false, true) => "watched",
                (true, false) => "recovering",
                (true, true) => "recovering and watched",
            };
            groups
                .entry(text.join("; "))
                .or_default()
                .push(condition.to_owned());
        }
    }
    match groups.len() {
        1 => groups.into_keys().next().unwrap(),
        _ => groups
            .into_iter()
            .map(|(text, conditions)| format!("[{}] {text}", conditions.join(", ")))
            .collect::<Vec<_>>()
            .join(" | "),
    }
}

fn table(role: Role, protocol: Protocol) -> String {
    let states = match role {
        Role::Source => source_states(protocol),
        Role::Destination => destination_states(protocol),
    };
    table_of(role, &protocol.to_string(), states)
}

fn table_of(role: Role, protocol: &str, states: Vec<State>) -> String {
    let mut table = String::new();
    for (name, state) in states {
        writeln!(table, "{protocol} {role}, {name}").unwrap();
        for process in [Process::Dead, Process::Mute, Process::OtherInstance] {
            let mut point = state.clone();
            point.observed.process = process;
            point.observed.claim = ClaimSeen::Unread;
            writeln!(table, "  {process}: {}", rules(&point)).unwrap();
        }
        for run in RUN_STATES {
            for status in STATUSES {
                let mut point = state.clone();
                point.observed.run_state = Some(run.clone());
                point.observed.migration = Some(status.clone());
                let (run, status) = (run_class(Some(&run)), status_class(Some(&status)));
                let rules = rules(&point);
                match unreachable(role, run, status) {
                    None => writeln!(table, "  {run:?} {status:?}: {rules}").unwrap(),
                    Some(why) => {
                        writeln!(table, "  {run:?} {status:?}: (cannot be: {why}) {rules}")
                            .unwrap();
                    }
                }
            }
        }
    }
    // Where several rules follow a line ends here.
    table.replace(": \n", ":\n").replace(") \n", ")\n")
}

#[test]
fn every_point_has_its_rule() {
    for role in [Role::Source, Role::Destination] {
        for protocol in [Protocol::V2, Protocol::V3] {
            insta::assert_snapshot!(format!("{protocol}-{role}"), table(role, protocol));
        }
        let table = table_of(role, "post-copy", postcopy_states(role));
        insta::assert_snapshot!(format!("postcopy-{role}"), table);
    }
}

/// The states of a v3 migration that a store or the manager decides.
fn authority_states(role: Role, authority: Authority) -> Vec<State> {
    let states = match role {
        Role::Source => source_states(Protocol::V3),
        Role::Destination => destination_states(Protocol::V3),
    };
    let mut all = Vec::new();
    for (name, mut state) in states {
        state.authority = authority;
        let undecided = !state.facts.committed && !state.facts.started;
        if role == Role::Destination && authority == Authority::Store {
            if undecided {
                all.push((name, state.clone()));
            }
            state.facts.proposed = true;
        }
        let name = match (name, state.facts.proposed) {
            ("prepare", true) => "prepare, proposed",
            ("aborted", true) => "aborted, proposed",
            (name, _) => name,
        };
        all.push((name, state));
    }
    all
}

#[test]
fn every_point_of_the_other_authorities_has_its_rule() {
    for role in [Role::Source, Role::Destination] {
        for authority in [Authority::Store, Authority::Manager] {
            let states = authority_states(role, authority);
            let table = table_of(role, authority.name(), states);
            insta::assert_snapshot!(format!("{authority}-{role}"), table);
        }
    }
}

/// Nothing but a key that was read, or the manager's verdict, makes a copy run or ends the last one.
#[test]
fn only_the_authority_decides() {
    for authority in [Authority::Store, Authority::Manager] {
        for (name, state) in authority_states(Role::Source, authority) {
            if !state.facts.granted || state.facts.outcome.is_some() {
                continue;
            }
            let mut points = 0;
            for (known, point) in known(&state) {
                for (run, status) in RUN_STATES
                    .iter()
                    .flat_map(|run| STATUSES.iter().map(move |status| (run, status)))
                {
                    for peer in PeerAnswer::ALL {
                        let mut point = point.clone();
                        point.peer = *peer;
                        point.observed.run_state = Some(run.clone());
                        point.observed.migration = Some(status.clone());
                        let rule = decide(&point).unwrap();
                        // Only what was continued from outside is no hold: it runs already.
                        let by_cont = rule == Rule::SourceVerdictCont;
                        let held = rule.decision() == Decision::Hold;
                        assert!(
                            held || by_cont,
                            "{authority} {name}, {known}, {peer}: {rule:?}"
                        );
                        points += 1;
                    }
                }
            }
            assert!(points > 1_000);
        }
    }
}

/// Every run state and migration status of QEMU 7.2 to 10, and one of a newer QEMU, in its class.
#[test]
fn every_raw_value_has_one_class() {
    let mut classes = String::new();
    let newer = RunState::from_qemu("of-a-newer-qemu");
    for run in RunState::KNOWN.iter().chain([&newer]) {
        writeln!(classes, "{run}: {:?}", run_class(Some(run))).unwrap();
    }
    let newer = MigrationStatus::from_qemu("of-a-newer-qemu");
    for status in MigrationStatus::KNOWN.iter().chain([&newer]) {
        writeln!(classes, "{status}: {:?}", status_class(Some(status))).unwrap();
    }
    insta::assert_snapshot!("classes", classes);
    // And each class has its raw value in the product.
    for (raw, class) in RunState::KNOWN
        .iter()
        .map(|run| (run, run_class(Some(run))))
    {
        let in_product = RUN_STATES.iter().any(|run| run_class(Some(run)) == class);
        assert!(in_product, "{raw}");
    }
    for status in MigrationStatus::KNOWN {
        let class = status_class(Some(status));
        let in_product = STATUSES.iter().any(|one| status_class(Some(one)) == class);
        assert!(in_product, "{status}");
    }
}

/// What is not known is never guessed at: wherever it could matter the decision is a hold, and nothing
/// is done to QEMU that the recorded outcome does not ask for.
#[test]
fn what_a_newer_qemu_says_leads_to_no_guess() {
    for role in [Role::Source, Role::Destination] {
        for protocol in [Protocol::V2, Protocol::V3] {
            let states = match role {
                Role::Source => source_states(protocol),
                Role::Destination => destination_states(protocol),
            };
            for (name, state) in states {
                let is_decided = state.facts.outcome.is_some()
                    || state.facts.started
                    || state.facts.aborted
                    || (role == Role::Source && state.facts.committed);
                let newer = MigrationStatus::from_qemu("newer");
                for (recovering, status) in STATUSES
                    .iter()
                    .chain([&newer])
                    .flat_map(|status| [(false, status), (true, status)])
                {
                    for peer in PeerAnswer::ALL {
                        let mut point = state.clone();
                        point.recovering = recovering;
                        point.peer = *peer;
                        point.observed.run_state = Some(RunState::from_qemu("newer"));
                        point.observed.migration = Some(status.clone());
                        let rule = decide(&point);
                        let decision = rule.map_or(Decision::Hold, Rule::decision);
                        // Before anything was done to QEMU there is nothing to misread.
                        let is_untouched = role == Role::Source && !state.facts.migrate_intended;
                        assert!(
                            decision == Decision::Hold || is_decided || is_untouched,
                            "{protocol} {role} {name}, {peer}: {rule:?}"
                        );
                    }
                }
            }
        }
    }
}
