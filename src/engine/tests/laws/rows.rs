//! One row for each way to break a law: what was told, and what breaks it.

use super::*;

/// What was told, what breaks a law right behind it, which law, and how that is said.
pub(super) type Row = (Vec<RecordBody>, RecordBody, Law, &'static str);

pub(super) fn rows_of_jobs() -> Vec<Row> {
    let source = || vec![registered(), outgoing()];
    let save = || vec![registered(), saves()];
    let with = |mut told: Vec<RecordBody>, more: RecordBody| {
        told.push(more);
        told
    };
    let forgotten = || RecordBody::MigrationForgotten(NAMED);
    vec![
        (source(), registered(), Law::Job, "while job 2 is open"),
        (
            save(),
            RecordBody::DomainRemoved,
            Law::Job,
            "while job 2 is open",
        ),
        (
            vec![],
            outgoing(),
            Law::Job,
            "of a domain that is not registered",
        ),
        (
            with(source(), ended()),
            outgoing(),
            Law::Job,
            "a migration that began before",
        ),
        (save(), outgoing(), Law::Job, "while job 2 is open"),
        (
            vec![registered()],
            entered(Phase::Perform3),
            Law::Job,
            "of job 2, which did not begin",
        ),
        (
            with(source(), ended()),
            entered(Phase::Perform3),
            Law::Job,
            "of job 2, which ended",
        ),
        (
            with(save(), ended()),
            ended(),
            Law::Job,
            "of job 2, which did not begin",
        ),
        (
            vec![registered()],
            job_entered(JobPhase::Begin),
            Law::Job,
            "of job 2, which is not open",
        ),
        (
            vec![registered()],
            resolved(Decision::Kill),
            Law::Job,
            "of job 2, which did not begin",
        ),
        (
            source(),
            forgotten(),
            Law::Job,
            "forgotten while its job is open",
        ),
    ]
}

/// Facts of a migration that never began.
pub(super) fn rows_of_no_migration() -> Vec<Row> {
    let facts = [
        granted(NONCE),
        abandoned(),
        committed(None),
        RecordBody::MigrationStarted(NAMED),
        RecordBody::MigrationAborted(NAMED),
        learned(Outcome::Aborted, None),
        RecordBody::MigrationForgotten(NAMED),
    ];
    let row = |fact| {
        let how = "of a migration that did not begin";
        (vec![registered()], fact, Law::Job, how)
    };
    facts.map(row).into()
}

pub(super) fn rows_of_phases() -> Vec<Row> {
    let source = || vec![registered(), outgoing()];
    let v2 = || {
        vec![
            registered(),
            migrates(Role::Source, Protocol::V2, Authority::Source),
        ]
    };
    vec![
        (
            source(),
            entered(Phase::Finish3),
            Law::Phase,
            "finish3 is no phase of a v3 source",
        ),
        (
            v2(),
            entered(Phase::Perform3),
            Law::Phase,
            "perform3 is no phase of a v2 source",
        ),
        (
            vec![registered(), incoming()],
            entered(Phase::Finish2),
            Law::Phase,
            "finish2 is no phase of a v3 destination",
        ),
        (
            source(),
            entered(Phase::Confirm3),
            Law::Phase,
            "confirm3 after begin3",
        ),
        (
            vec![
                registered(),
                saves(),
                job_entered(JobPhase::Begin),
                job_entered(JobPhase::Perform),
            ],
            job_entered(JobPhase::Prepare),
            Law::Phase,
            "prepare right after perform of a save job",
        ),
    ]
}

pub(super) fn rows_of_effects() -> Vec<Row> {
    let source = || vec![registered(), outgoing()];
    let other = EffectIntended {
        job: Some(JOB),
        instance: Instance {
            pid: 11,
            ..INSTANCE
        },
        command: EffectCommand::Stop,
    };
    let of_owner = RecordBody::EffectIntended(EffectIntended {
        job: None,
        instance: INSTANCE,
        command: EffectCommand::Stop,
    });
    let second = "a second intent while the result of effect";
    vec![
        (
            vec![registered(), outgoing(), intended(EffectCommand::Stop)],
            intended(EffectCommand::Cont),
            Law::WriteAhead,
            second,
        ),
        (
            vec![registered(), saves(), intended(EffectCommand::Stop)],
            intended(EffectCommand::Cont),
            Law::WriteAhead,
            second,
        ),
        (
            vec![registered(), of_owner.clone()],
            of_owner,
            Law::WriteAhead,
            second,
        ),
        (
            source(),
            RecordBody::EffectIntended(other),
            Law::WriteAhead,
            "on another process",
        ),
        (
            source(),
            finished(2),
            Law::WriteAhead,
            "the result of effect 2, whose intent is not open",
        ),
        (
            vec![
                registered(),
                outgoing(),
                intended(EffectCommand::Stop),
                finished(3),
            ],
            finished(3),
            Law::WriteAhead,
            "whose intent is not open",
        ),
        (
            vec![registered(), outgoing(), disks(false)],
            intended(EffectCommand::MigrateContinue),
            Law::Fact,
            "let go over with a copied disk that is not settled",
        ),
    ]
}

pub(super) fn rows_of_facts() -> Vec<Row> {
    let source = |more: &[RecordBody]| {
        let mut told = vec![registered(), outgoing()];
        told.extend_from_slice(more);
        told
    };
    let destination = |more: &[RecordBody]| {
        let mut told = vec![registered(), incoming()];
        told.extend_from_slice(more);
        told
    };
    let v2 = vec![
        registered(),
        migrates(Role::Source, Protocol::V2, Authority::Source),
    ];
    let (started, aborted) = (
        RecordBody::MigrationStarted(NAMED),
        RecordBody::MigrationAborted(NAMED),
    );
    let took = committed(Some(cookie(NONCE)));
    let elsewhere = Cookie {
        migration: MigrationId(Id128([0x23; 16])),
        ..cookie(NONCE)
    };
    let aborted_by = learned(Outcome::Aborted, Some(position()));
    vec![
        (
            destination(&[]),
            granted(NONCE),
            Law::Fact,
            "granted by a side that grants nothing",
        ),
        (
            v2,
            granted(NONCE),
            Law::Fact,
            "granted by a side that grants nothing",
        ),
        (
            source(&[prepared()]),
            granted(OTHER_NONCE),
            Law::Fact,
            "granted with a nonce that was not prepared",
        ),
        (
            source(&[prepared(), abandoned()]),
            granted(NONCE),
            Law::Fact,
            "granted after it was abandoned",
        ),
        (
            source(&[disks(false), prepared()]),
            granted(NONCE),
            Law::Fact,
            "granted with a copied disk that is not settled",
        ),
        (
            destination(&[]),
            abandoned(),
            Law::Fact,
            "abandoned by the destination",
        ),
        (
            source(&[prepared(), granted(NONCE)]),
            abandoned(),
            Law::Fact,
            "abandoned after the licence went out",
        ),
        (
            destination(std::slice::from_ref(&aborted)),
            took.clone(),
            Law::Fact,
            "committed after it was aborted",
        ),
        (
            vec![
                registered(),
                migrates(Role::Source, Protocol::V2, Authority::Source),
                abandoned(),
            ],
            committed(None),
            Law::Fact,
            "committed after it was abandoned",
        ),
        (
            destination(std::slice::from_ref(&took)),
            took.clone(),
            Law::Fact,
            "committed a second time",
        ),
        (
            destination(&[]),
            committed(Some(elsewhere)),
            Law::Fact,
            "committed with the licence of another migration",
        ),
        (
            destination(&[]),
            committed(Some(cookie(OTHER_NONCE))),
            Law::Fact,
            "committed with a nonce that was not prepared",
        ),
        (
            source(&[]),
            started.clone(),
            Law::Fact,
            "started by the source",
        ),
        (
            destination(std::slice::from_ref(&aborted)),
            started.clone(),
            Law::Fact,
            "started after it was aborted",
        ),
        (
            destination(&[]),
            started.clone(),
            Law::Fact,
            "started before it was committed",
        ),
        (
            source(&[]),
            aborted.clone(),
            Law::Fact,
            "aborted by the source",
        ),
        (
            destination(&[took.clone(), started]),
            aborted.clone(),
            Law::Fact,
            "aborted after it was started",
        ),
        (
            destination(&[took, intended(EffectCommand::Cont), finished(4)]),
            aborted,
            Law::Fact,
            "aborted though its cont may have run the guest",
        ),
        (
            destination(&[]),
            aborted_by.clone(),
            Law::Fact,
            "an outcome is learned by the source alone",
        ),
        (
            source(&[prepared(), granted(NONCE), aborted_by]),
            learned(Outcome::Committed, Some(position())),
            Law::Fact,
            "committed after aborted",
        ),
    ]
}

pub(super) fn rows_of_decisions() -> Vec<Row> {
    let source = || vec![registered(), outgoing()];
    let save = || vec![registered(), saves()];
    let undone = Rule::SourceBeginUndone;
    let mut ahead = decided(undone.name(), undone.decision());
    if let RecordBody::Decided(decided) = &mut ahead {
        decided.based_on = vec![Lsn(3)];
    }
    let mut no_rule = decided(undone.name(), undone.decision());
    if let RecordBody::Decided(decided) = &mut no_rule {
        decided.evidence.recovering = false;
    }
    let of_save = Rule::from_name("other-instance").unwrap();
    vec![
        (
            source(),
            ahead,
            Law::Decision,
            "it cites a record that came later",
        ),
        (
            source(),
            decided(undone.name(), Decision::Kill),
            Law::Decision,
            "source-begin-undone decides confirm",
        ),
        (
            source(),
            decided("source-committed", Decision::Kill),
            Law::Decision,
            "the evidence gives source-begin-undone, not source-committed",
        ),
        (
            source(),
            no_rule,
            Law::Decision,
            "the evidence gives no rule, not source-begin-undone",
        ),
        (
            save(),
            job_decided(of_save.name(), of_save.decision(), 3),
            Law::Decision,
            "it cites a record that came later",
        ),
        (
            save(),
            job_decided(of_save.name(), Decision::Kill, 2),
            Law::Decision,
            "other-instance decides hold",
        ),
        (
            save(),
            job_decided(of_save.name(), of_save.decision(), 2),
            Law::Decision,
            "not other-instance",
        ),
    ]
}
