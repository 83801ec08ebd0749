//! Both sides' sidecars know of each other though their manager says nothing to either: a source whose manager is gone learns from the
//! other side what it was about to be told. What does not fit binds nothing.

use journal_format::number::{DomainId, Id128, JournalId, Lsn, Position};
use journal_format::record::{JobResult, MigrationStatus, PeerAnswer, RunState};

use super::super::NOTHING;
use super::recognised::{drive, next, results};
use super::{Pair, STEP_MS};
use crate::engine::{Envelope, Find, Found, FoundAt, PeerFailure};

/// A pair whose sidecars find each other, with everything sent and the manager's word not said.
fn sent(run: RunState) -> Pair {
    let mut pair = introduced(run);
    send(&mut pair);
    pair
}

fn introduced(run: RunState) -> Pair {
    let mut pair = asking(run);
    pair.is_introduced = true;
    pair
}

/// The source's sidecar is told of others, and what it asks is not answered.
fn asking(run: RunState) -> Pair {
    let mut pair = Pair::new(run);
    pair.source.asks_others = true;
    pair.source.restart();
    pair
}

fn send(pair: &mut Pair) {
    for _ in 0..100 {
        let (from, to) = (&pair.source.qemu, &pair.destination.qemu);
        let is_whole = to.status == MigrationStatus::Completed;
        if from.run == RunState::Postmigrate && is_whole {
            return pair.run_for(STEP_MS);
        }
        if let Some((side, command, arguments)) = next(pair) {
            pair.side(side).send(command, &arguments).unwrap();
        }
        pair.run_for(100);
    }
    panic!("never sent\n{}", pair.story());
}

/// Everything up to the client's `migrate`; the question that goes out before it is answered so, and then it goes.
fn migrate_answered(pair: &mut Pair, answers: Vec<FoundAt>) {
    loop {
        let (side, command, arguments) = next(pair).expect("a migrate comes");
        if command != "migrate" {
            pair.side(side).send(command, &arguments).unwrap();
            pair.run_for(100);
            continue;
        }
        let migrate = pair.source.plain(command, &arguments, false);
        pair.source.pump();
        assert_eq!(pair.source.answer(migrate), "waits");
        let (number, find) = pair.source.finds.pop_front().expect("asked");
        let guest = super::super::bench::DOMAIN;
        assert_eq!((find.domain, find.job), (guest, None));
        pair.source.found(number, answers);
        assert_eq!(pair.source.answer(migrate), "admitted");
        return;
    }
}

fn detail(pair: &mut Pair) -> String {
    pair.source.jobs()[0].detail.clone()
}

fn is_held(pair: &mut Pair, rule: &str) {
    assert_eq!(pair.source.rules().last(), Some(&rule), "{}", pair.story());
    assert!(pair.source.qemu.alive, "{}", pair.story());
    assert_eq!(pair.source.qemu.run, RunState::Postmigrate);
}

/// The manager dies behind its `cont` at the destination, and the source's sidecar too: this copy is ended.
pub(in crate::engine::tests) fn a_guest_that_was_started_there() {
    for is_told_before in [false, true] {
        let mut pair = sent(RunState::Running);
        assert!(detail(&mut pair).contains("at the other side as the job at"));
        if is_told_before {
            pair.destination.send("cont", &NOTHING()).unwrap();
            pair.run_for(STEP_MS);
            // Its manager is about to say it here too, for all that is known.
            assert!(!pair.source.phases().contains(&"confirm3".to_owned()));
        }
        pair.source.restart();
        pair.run_for(2 * STEP_MS);
        if !is_told_before {
            is_held(&mut pair, "driven-source-completed");
            pair.destination.send("cont", &NOTHING()).unwrap();
        }
        pair.destination.restart();
        pair.run_for(40 * STEP_MS);
        assert!(!pair.source.qemu.alive, "{}", pair.story());
        assert_eq!(pair.destination.qemu.run, RunState::Running);
        let rules = pair.source.rules().join(" ");
        assert!(
            rules.contains("driven-source-started-there driven-source-confirm"),
            "{rules}"
        );
        assert_eq!(results(&mut pair.source).1, Some(JobResult::Completed));
    }
}

/// The manager ends the destination's whole copy, and is gone before its `cont` at the source: where the guest went, or whether it
/// is to go on, is not said by that. It is told, and held.
pub(in crate::engine::tests) fn a_guest_that_was_given_up_there() {
    let mut pair = sent(RunState::Running);
    pair.destination.send("quit", &NOTHING()).unwrap();
    pair.source.restart();
    pair.run_for(20 * STEP_MS);
    is_held(&mut pair, "driven-source-completed");
    assert_eq!(results(&mut pair.destination).1, Some(JobResult::Cancelled));
    let said = detail(&mut pair);
    assert!(said.contains("aborted"), "{said}");
    pair.source.send("cont", &NOTHING()).unwrap();
    pair.run_for(20 * STEP_MS);
    assert_eq!(pair.source.qemu.run, RunState::Running, "{}", pair.story());
}

#[test]
fn started_there() {
    a_guest_that_was_started_there();
}

#[test]
fn given_up_there() {
    a_guest_that_was_given_up_there();
}

/// What is said twice, or by nobody, or of another guest, or too late, binds nothing: the source is held as it always was.
#[test]
fn who_cannot_be_the_other_side() {
    let at = |journal: u8| Envelope {
        sender: Position {
            journal: JournalId(Id128([journal; 16])),
            epoch: journal_format::number::Epoch(1),
            opening: journal_format::number::OpeningId(Id128([journal; 16])),
            lsn: Lsn(90),
        },
        saw: None,
    };
    let says = |journal: u8, domain: DomainId, job: Option<u64>, stands: PeerAnswer| FoundAt {
        peer: format!("/peer-{journal}"),
        result: Ok((
            at(journal),
            Found {
                domain,
                job: job.map(Lsn),
                stands,
            },
        )),
    };
    let guest = super::super::bench::DOMAIN;
    let other = DomainId(Id128([0xEE; 16]));
    let waits = PeerAnswer::NotWhole;
    let older = FoundAt {
        peer: "/peer-9".to_owned(),
        result: Err(PeerFailure::Refused("not found".to_owned())),
    };
    let mute = FoundAt {
        peer: "/peer-8".to_owned(),
        result: Err(PeerFailure::Unreachable("no answer".to_owned())),
    };
    let none = says(3, guest, None, PeerAnswer::NoSuchMigration);
    let refused: &[(&str, Vec<FoundAt>)] = &[
        ("0 have", vec![none.clone(), older.clone(), mute.clone()]),
        ("0 have", vec![says(3, other, Some(7), waits)]),
        // The sidecar that asks.
        ("0 have", vec![says(0xA0, guest, Some(7), waits)]),
        (
            "2 have",
            vec![
                says(3, guest, Some(7), waits),
                says(4, guest, Some(7), waits),
            ],
        ),
        (
            "2 have",
            vec![
                says(3, guest, Some(7), waits),
                says(4, guest, Some(7), PeerAnswer::Whole),
            ],
        ),
        (
            "still waits",
            vec![says(3, guest, Some(7), PeerAnswer::Whole)],
        ),
        (
            "still waits",
            vec![says(3, guest, Some(7), PeerAnswer::Performing)],
        ),
        (
            "still waits",
            vec![says(3, guest, Some(7), PeerAnswer::Started)],
        ),
    ];
    for (expected, answers) in refused {
        let mut pair = asking(RunState::Running);
        migrate_answered(&mut pair, answers.clone());
        assert!(
            detail(&mut pair).contains(expected),
            "{}",
            detail(&mut pair)
        );
        send(&mut pair);
        pair.source.restart();
        pair.run_for(20 * STEP_MS);
        // Nobody is asked again: who says it behind that may speak of an earlier try.
        assert!(pair.source.finds.is_empty());
        is_held(&mut pair, "driven-source-completed");
    }
    // The same sidecar by two paths, beside one that does not answer, is one.
    let mut pair = asking(RunState::Running);
    let twice = says(3, guest, Some(7), waits);
    migrate_answered(&mut pair, vec![mute, twice.clone(), twice, none]);
    send(&mut pair);
    assert!(detail(&mut pair).contains("at the other side as the job at"));
    // From now on nobody else's word counts, and not of another job.
    pair.source.restart();
    pair.run_for(STEP_MS);
    for answers in [
        vec![says(4, guest, Some(7), PeerAnswer::Started)],
        vec![says(3, other, Some(7), PeerAnswer::Started)],
        vec![says(3, guest, Some(8), PeerAnswer::Started)],
        vec![says(3, guest, None, PeerAnswer::Started)],
        vec![says(3, guest, Some(7), PeerAnswer::Whole)],
        vec![says(3, guest, Some(7), PeerAnswer::Deciding)],
        vec![older],
    ] {
        let (job, find) = pair.source.finds.pop_front().expect("asked again");
        assert_eq!(find.job, Some(Lsn(7)));
        pair.source.found(job, answers);
        is_held(&mut pair, "driven-source-completed");
        pair.run_for(20 * STEP_MS);
    }
    // Its own word does, whoever else says something.
    let (job, _) = pair.source.finds.pop_front().unwrap();
    let others = says(4, guest, Some(7), PeerAnswer::Whole);
    let its = says(3, guest, Some(7), PeerAnswer::Started);
    pair.source.found(job, vec![others, its]);
    assert!(!pair.source.qemu.alive, "{}", pair.story());
}

/// A guest that runs there without its client's `cont` was continued by nobody whose word counts here.
#[test]
fn a_guest_that_started_by_itself() {
    let mut pair = sent(RunState::Running);
    pair.destination.qemu.run = RunState::Running;
    pair.destination.restart();
    pair.run_for(2 * STEP_MS);
    assert_eq!(results(&mut pair.destination).1, Some(JobResult::Completed));
    pair.source.restart();
    pair.run_for(20 * STEP_MS);
    is_held(&mut pair, "driven-source-completed");
}

/// What is coming in when it is asked about may be of an earlier try: this one goes to somebody who was not asked, and whatever
/// becomes of the other copy says nothing of it.
#[test]
fn a_stream_of_an_earlier_try() {
    let mut pair = introduced(RunState::Running);
    while let Some((side, command, arguments)) = next(&pair) {
        if command == "migrate" {
            pair.destination.qemu.status = MigrationStatus::Active;
        }
        pair.side(side).send(command, &arguments).unwrap();
        pair.run_for(100);
        if command == "migrate" {
            break;
        }
    }
    send(&mut pair);
    let said = detail(&mut pair);
    assert!(
        said.contains("still waits for it, but performing"),
        "{said}"
    );
    pair.destination.send("quit", &NOTHING()).unwrap();
    pair.source.restart();
    pair.run_for(20 * STEP_MS);
    is_held(&mut pair, "driven-source-completed");
}

/// A destination whose journal is not the one that was there before, or does not go as far any more, proves nothing; nor does one
/// that has done something else since.
#[test]
fn what_is_not_known_there_any_more() {
    for what in 0..3 {
        let mut pair = sent(RunState::Running);
        pair.destination.send("cont", &NOTHING()).unwrap();
        pair.run_for(STEP_MS);
        match what {
            0 => pair.destination.lose_journal(),
            1 => pair.destination.put_back_journal(),
            _ => {
                let job = pair
                    .destination
                    .begin(journal_format::record::JobKind::Suspend)
                    .unwrap();
                pair.destination.end(job).unwrap();
            }
        }
        pair.source.restart();
        pair.run_for(20 * STEP_MS);
        is_held(&mut pair, "driven-source-completed");
    }
}

/// A copy that its client ended before it was whole was none, and one that ended by itself was given up by nobody.
#[test]
fn an_end_that_is_no_word() {
    let mut pair = sent(RunState::Running);
    pair.destination.qemu.alive = false;
    pair.source.restart();
    pair.run_for(20 * STEP_MS);
    assert_eq!(results(&mut pair.destination).1, Some(JobResult::Failed));
    is_held(&mut pair, "driven-source-completed");

    let mut pair = Pair::new(RunState::Running);
    for command in ["stop", "migrate-incoming"] {
        let uri = serde_json::json!({"uri": "tcp:[::]:4444"});
        pair.destination.send(command, &uri).unwrap();
    }
    pair.destination.send("quit", &NOTHING()).unwrap();
    pair.run_for(STEP_MS);
    assert_eq!(results(&mut pair.destination).1, Some(JobResult::Failed));
    assert!(!pair.destination.phases().contains(&"finish3".to_owned()));
}

/// A guest that nobody has coming in here is answered at once, and one that is removed is not waited for.
#[test]
fn what_is_asked_of_a_sidecar() {
    let mut pair = Pair::new(RunState::Running);
    let nobody = DomainId(Id128([0xEE; 16]));
    for domain in [nobody, super::super::bench::DOMAIN] {
        let found = pair.source.asked(Find { domain, job: None });
        assert_eq!(
            (found.domain, found.job, found.stands),
            (domain, None, PeerAnswer::NoSuchMigration)
        );
    }
    // A journal that does not have what was seen of it says nothing.
    let mut pair = sent(RunState::Running);
    let domain = super::super::bench::DOMAIN;
    let here = pair.destination.asked(Find { domain, job: None });
    assert_eq!(here.stands, PeerAnswer::Whole);
    let never = Position {
        journal: JournalId(Id128([0xA1; 16])),
        epoch: journal_format::number::Epoch(1),
        opening: journal_format::number::OpeningId(Id128([0x55; 16])),
        lsn: Lsn(1),
    };
    let envelope = Envelope {
        sender: never,
        saw: Some(never),
    };
    let find = Find {
        domain,
        job: here.job,
    };
    let (_, lost) = pair.destination.asked_by(envelope, find);
    assert_eq!((lost.job, lost.stands), (None, PeerAnswer::Amnesia));
}

/// The source's sidecar dies after every batch of a whole migration whose manager stays away from then on, and says its word only at
/// the destination.
#[test]
fn crashes_without_a_manager() {
    use super::super::BATCHES_MAX;
    use super::super::bench::Crash;
    for is_sent in [false, true] {
        for after in 2..BATCHES_MAX {
            let mut pair = sent(RunState::Running);
            let batches = pair.source.batches;
            pair.destination.send("cont", &NOTHING()).unwrap();
            pair.source.restart();
            pair.source.crash = Some(Crash {
                after: batches + after,
                is_sent,
            });
            for _ in 0..8 {
                pair.run_for(10 * STEP_MS);
                if !pair.source.is_up() {
                    pair.source.restart();
                }
            }
            let story = pair.story();
            assert!(!pair.source.qemu.alive, "{story}");
            assert_eq!(pair.destination.qemu.run, RunState::Running, "{story}");
            let jobs = pair.source.jobs();
            let open = jobs.into_iter().find(|job| job.result.is_none());
            assert!(open.is_none(), "{open:?}\n{story}");
            if pair.source.crash.is_some() {
                break;
            }
        }
    }
}

/// It is the manager's own word that counts where it says it on both sides.
#[test]
fn a_manager_that_is_there() {
    let mut pair = introduced(RunState::Running);
    drive(&mut pair, |pair| panic!("{}", pair.story()));
    pair.run_for(2 * STEP_MS);
    assert_eq!(results(&mut pair.source).1, Some(JobResult::Completed));
    assert!(
        pair.source
            .rules()
            .iter()
            .all(|rule| !rule.contains("there"))
    );
}

/// A client's `migrate` waits for the answer, and not for ever; what is said before it goes is as good as what is said behind it.
#[test]
fn a_migrate_waits_for_the_answer() {
    for is_answered in [false, true] {
        let mut pair = asking(RunState::Running);
        for command in ["stop", "migrate-incoming"] {
            let uri = serde_json::json!({"uri": "tcp:[::]:4444"});
            pair.destination.send(command, &uri).unwrap();
        }
        let uri = serde_json::json!({"uri": "tcp:[::1]:4444"});
        let migrate = pair.source.plain("migrate", &uri, false);
        pair.source.pump();
        assert_eq!(pair.source.answer(migrate), "waits");
        if is_answered {
            pair.is_introduced = true;
            pair.introduce();
        } else {
            pair.source.run_for(50);
            assert_eq!(pair.source.answer(migrate), "waits");
            pair.source.run_for(100);
        }
        assert_eq!(pair.source.answer(migrate), "admitted");
        let has_one = |pair: &mut Pair| detail(pair).contains("at the other side as the job at");
        assert_eq!(has_one(&mut pair), is_answered);
        // What was asked before it went may be answered behind it: nothing had come there yet.
        pair.is_introduced = true;
        pair.introduce();
        assert!(has_one(&mut pair));
        pair.run_for(20 * STEP_MS);
        assert!(pair.source.finds.is_empty(), "asked once");
    }
}
