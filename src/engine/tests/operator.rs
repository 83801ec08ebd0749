//! Words of operators: against the evidence with force, one after the other.
//!
//! Not here: what needs force (`rows`, `hostile`), what the socket says of it (the end-to-end tests).

use super::hostile::granted_b_undecided;
use super::world::DOMAIN;
use super::*;
use journal_format::record::{Decision, EffectCommand, EffectResult};

/// Two words of operators, the second before what follows from the first was seen: it is not about
/// anything that is held any more.
#[test]
fn a_second_word_before_the_first_is_carried_out() {
    for (first, second) in [
        (Decision::Kill, Decision::Resume),
        (Decision::Kill, Decision::Kill),
        (Decision::Resume, Decision::Kill),
    ] {
        let (mut w, _, _) = waiting_for_a_licence();
        w.run_for(10_000);
        assert!(w.held(B).is_some(), "{}", w.story());
        w.replies.clear();
        // Until the look that follows nothing is decided anew.
        let (domain, event) = (DOMAIN, QemuEvent::Lost);
        w.input(B, Input::Event { domain, event });
        for decision in [first, second] {
            let request = ControlRequest::Resolve {
                name: "g".into(),
                decision,
                force: true,
                statement: "the source is fenced".into(),
                uid: 0,
            };
            w.control(B, request);
        }
        w.run_for(SETTLE_MS);
        let replies: Vec<bool> = w.replies.iter().map(|(_, reply)| reply.is_ok()).collect();
        assert_eq!(replies, [true, false], "{first} {second}: {:?}", w.replies);
        let names = w.names(B);
        let count = |name| names.iter().filter(|one| **one == name).count();
        let facts = count("migration-committed") + count("migration-aborted");
        assert_eq!(facts, 1, "{first} {second}: {names:?}");
    }
}

/// Against the evidence, with force: the last word counts, and the journal is sound with both in it.
#[test]
pub(super) fn a_word_that_overrules_the_one_before() {
    let mut w = granted_b_undecided();
    w.run_for(2_000);
    w.fail = Some(|at, command| {
        let why = String::new();
        let is_kill = at == A && *command == EffectCommand::Kill;
        is_kill.then_some(EffectResult::NotSent { why })
    });
    resolve_by_force(&mut w, Decision::Kill);
    assert!(
        matches!(w.replies.last(), Some((_, Ok(_)))),
        "{:?}",
        w.replies
    );
    // QEMU does not say completed any more: nothing proves that this copy may be ended.
    w.set_status(A, MigrationStatus::None);
    w.run_for(5_000);
    assert_eq!(w.held(A), Some("source-granted-started-unproven"));
    resolve_by_force(&mut w, Decision::Resume);
    assert!(
        matches!(w.replies.last(), Some((_, Ok(_)))),
        "{:?}",
        w.replies
    );
    w.run_for(5_000);
    assert_eq!(w.running(), vec![A], "{}", w.story());
    let names = w.names(A);
    let outcomes = names.iter().filter(|name| **name == "outcome-learned");
    assert_eq!(outcomes.count(), 2, "{names:?}");
}

/// All but its `cont` is done, which may have run the guest once and is refused since, for ever: nothing is held, and
/// an operator who sees the guest elsewhere closes the job all the same. No other word is taken.
#[test]
fn a_destination_whose_cont_is_refused_for_ever_is_closed() {
    let mut w = World::new();
    w.fail = Some(|at, command| {
        let why = "no answer".to_owned();
        (at == B && *command == EffectCommand::Cont).then_some(EffectResult::Unknown { why })
    });
    w.migrate(A);
    w.run_for(1_000);
    w.fail = None;
    w.hosts[B].qemu.refuse_cont = true;
    w.run_for(SETTLE_MS);
    assert_eq!(w.held(B), Some("destination-finish-retry"));
    for decision in [Decision::Kill, Decision::Resume, Decision::Confirm] {
        w.replies.clear();
        let request = ControlRequest::Resolve {
            name: "g".into(),
            decision,
            force: true,
            statement: "the guest runs elsewhere".into(),
            uid: 0,
        };
        w.control(B, request);
        w.run_for(50);
        let is_taken = matches!(w.replies.last(), Some((B, Ok(_))));
        assert_eq!(is_taken, decision == Decision::Confirm, "{decision}");
    }
    w.run_for(SETTLE_MS);
    let open = w.open_jobs();
    assert!(
        open.iter().all(|job| !job.contains("destination")),
        "{open:?}"
    );
    assert!(w.hosts[B].qemu.alive && w.running().is_empty());
}

fn resolve_by_force(w: &mut World, decision: Decision) {
    w.replies.clear();
    let request = ControlRequest::Resolve {
        name: "g".into(),
        decision,
        force: true,
        statement: "the destination is fenced".into(),
        uid: 0,
    };
    w.control(A, request);
    w.run_for(50);
}
