//! The write-ahead loop over a disk that fails.

use super::*;
use crate::engine::{Answer, ControlRequest, Refusal, Token};
use crate::journal::SPARE_WAIT_MAX;
use crate::journal::testing::{Fault, TestDisk};
use crate::journal::verify::{Verdict, verify};
use journal_format::SEGMENT_SIZE_MIN;
use journal_format::number::{DomainId, HostId, Id128, MigrationId};
use journal_format::record::{
    CheckpointBegun, CheckpointEnded, ClaimSeen, DefinitionPart, EffectCommand, EffectFinished,
    EffectIntended, EffectResult, Instance, MigrationNamed, MigrationStatus, Observed, Opening,
    Process, RunState, WantedRunState,
};

const BOOT: BootId = BootId(Id128([2; 16]));
const NOW: Now = Now {
    wall: 1,
    monotonic: 1,
};

/// The errno for a full disk.
const ENOSPC: i32 = 28;

/// Operations on the disk in one append: a write and its sync.
const APPEND_OPERATIONS: u64 = 2;

fn open(disk: &TestDisk) -> Node<TestDisk> {
    let mut options = OpenOptions::new(HostId(Id128([4; 16])), BOOT);
    options.first_segment_size = SEGMENT_SIZE_MIN;
    options.segment_size = SEGMENT_SIZE_MIN;
    let (opened, told) = open_journal(disk.clone(), None, &options).unwrap();
    let peer = "/run/peer.sock".to_owned();
    let switch = CrashSwitch::default();
    let (node, _first) = Node::open(opened, told, BOOT, peer, None, NOW, switch).unwrap();
    node
}

fn add(number: u8) -> Input {
    let instance = Instance {
        boot: BOOT,
        pid: 100 + u32::from(number),
        start_time: 1,
    };
    let request = ControlRequest::DomainAdd {
        name: format!("vm{number}"),
        domain: DomainId(Id128([number; 16])),
        qmp: "/run/qmp.sock".to_owned(),
        instance,
        observed: Observed {
            process: Process::Alive,
            instance: Some(instance),
            run_state: Some(RunState::Running),
            migration: Some(MigrationStatus::None),
            claim: ClaimSeen::Absent,
        },
        definition: None,
    };
    let token = Token(u64::from(number));
    Input::Control { token, request }
}

fn replies(outbox: Durable<Outbox>) -> Vec<Token> {
    let (_, messages) = outbox.into_inner();
    let tokens = messages.iter().filter_map(|message| match message {
        Message::Reply { token, .. } => Some(*token),
        _ => None,
    });
    tokens.collect()
}

#[test]
fn waiting_inputs_share_a_batch() {
    let disk = TestDisk::new("journal");
    let mut node = open(&disk);
    let before = disk.batch_writes().len();
    let outbox = node.turn(NOW, vec![add(1), add(2), add(3)]).unwrap();
    assert_eq!(replies(outbox), [Token(1), Token(2), Token(3)]);
    assert_eq!(disk.batch_writes().len(), before + 1);
}

#[test]
fn nothing_leaves_when_the_journal_fails() {
    for after in 0..APPEND_OPERATIONS {
        let disk = TestDisk::new("journal");
        let mut node = open(&disk);
        // So that a spare segment is there.
        let _ = node.turn(NOW, vec![add(7)]).unwrap();
        disk.plan(disk.operations() + after, Fault::Error(5));
        assert!(node.turn(NOW, vec![add(1)]).is_err());
        // Nor ever again, though the disk works.
        assert!(node.turn(NOW, vec![add(2)]).is_err());
        assert!(node.turn(NOW, Vec::new()).is_err());
    }
}

#[test]
fn what_was_handed_out_is_found_again() {
    let disk = TestDisk::new("journal");
    let mut node = open(&disk);
    let _ = node.turn(NOW, vec![add(1)]).unwrap();
    let next = node.log().next_lsn();
    drop(node);
    let mut node = open(&disk);
    assert!(node.log().next_lsn() > next);
    let token = Token(9);
    let request = ControlRequest::QueryDomains {
        name: Some("vm1".to_owned()),
    };
    let (_, messages) = node
        .turn(NOW, vec![Input::Control { token, request }])
        .unwrap()
        .into_inner();
    assert!(
        matches!(&messages[..], [Message::Reply { result: Ok(_), .. }]),
        "{messages:?}"
    );
}

/// Adds and removes a domain until the segment is full; how many turns that took.
fn turns_until_rolled(node: &mut Node<TestDisk>) -> u64 {
    let segment = node.log().status().segment;
    let mut turns = 0;
    while node.log().status().segment == segment {
        let _ = node.turn(NOW, vec![churn(turns)]).unwrap();
        turns += 1;
    }
    turns
}

fn churn(turn: u64) -> Input {
    if turn.is_multiple_of(2) {
        return add(1);
    }
    let token = Token(turn);
    let name = "vm1".to_owned();
    let request = ControlRequest::DomainRemove { name };
    Input::Control { token, request }
}

#[test]
fn a_full_disk_keeps_the_segment_it_has() {
    let turns = turns_until_rolled(&mut open(&TestDisk::new("journal")));
    let disk = TestDisk::new("journal");
    let mut node = open(&disk);
    let segment = node.log().status().segment;
    for turn in 0..turns - 1 {
        let _ = node.turn(NOW, vec![churn(turn)]).unwrap();
    }
    disk.plan(disk.operations() + APPEND_OPERATIONS, Fault::Error(ENOSPC));
    let outbox = node.turn(NOW, vec![churn(turns - 1)]).unwrap();
    assert_eq!(replies(outbox).len(), 1);
    assert_eq!(node.log().status().segment, segment);
    // Not again at once, and with room later.
    let _ = node.turn(NOW, vec![churn(turns)]).unwrap();
    assert_eq!(node.log().status().segment, segment);
    let later = Now {
        monotonic: NOW.monotonic + ROLL_PAUSE_NS,
        ..NOW
    };
    let _ = node.turn(later, vec![churn(turns + 1)]).unwrap();
    assert!(node.log().status().segment > segment);
}

#[test]
fn a_full_disk_refuses_what_is_new_and_ends_what_was_begun() {
    let disk = TestDisk::new("journal");
    let mut node = open(&disk);
    disk.limit(Some(disk.used()));
    let (_, messages) = node.turn(NOW, vec![add(1)]).unwrap().into_inner();
    assert!(
        matches!(
            &messages[..],
            [Message::Reply {
                result: Err(Refusal::NoRoom { .. }),
                ..
            }]
        ),
        "{messages:?}"
    );
    disk.limit(None);
    let outbox = node.turn(NOW, vec![add(1)]).unwrap();
    assert_eq!(replies(outbox), [Token(1)]);
    // With the one spare that there is now, what was begun can be ended on a full disk.
    disk.limit(Some(disk.used()));
    let outbox = node.turn(NOW, vec![churn(1)]).unwrap();
    assert_eq!(replies(outbox), [Token(1)]);
}

#[test]
fn a_quiet_journal_is_sealed_once() {
    let disk = TestDisk::new("journal");
    let mut node = open(&disk);
    let _ = node.turn(NOW, vec![add(1)]).unwrap();
    assert!(node.is_unsealed());
    let before = disk.batch_writes().len();
    node.seal(NOW).unwrap();
    node.seal(NOW).unwrap();
    assert_eq!(disk.batch_writes().len(), before + 1);
    assert!(!node.is_unsealed());
    // A turn without records leaves it sealed, one with records does not.
    let _ = node.turn(NOW, vec![Input::Tick]).unwrap();
    assert!(!node.is_unsealed());
    let _ = node.turn(NOW, vec![add(2)]).unwrap();
    assert!(node.is_unsealed());
    drop(node);
    assert_eq!(verify(disk).unwrap().verdict(), Verdict::Clean);
}

/// Writes a definition's part for each tick, and says whether a guest is on its way.
#[derive(Debug)]
struct Scribe {
    opening: Opening,
    next: Lsn,
    in_blackout: bool,
}

impl Scribe {
    fn count(&mut self, drafts: Vec<Draft>) -> Vec<Draft> {
        self.next = self.next.plus(drafts.len() as u64).unwrap();
        drafts
    }
}

impl Machine for Scribe {
    fn step(&mut self, _now: Now, _input: Input) -> Step {
        let body = RecordBody::DefinitionPart(DefinitionPart {
            first: Lsn(1),
            index: 0,
            count: 1,
            text: "x".repeat(4096),
        });
        let append = self.count(vec![Draft { domain: None, body }]);
        let token = Token(0);
        let result = Ok(Answer::Done {});
        Step {
            append,
            messages: vec![Message::Reply { token, result }],
            ..Step::default()
        }
    }

    /// Each of them says how many there were in its turn.
    fn amend(&mut self, _now: Now, messages: &mut [Message]) {
        let count = messages.len() as u64;
        for message in messages {
            if let Message::Reply { token, .. } = message {
                *token = Token(count);
            }
        }
    }

    fn checkpoint(&mut self) -> Vec<Draft> {
        let begun = CheckpointBegun {
            records: 0,
            openings: vec![self.opening],
        };
        let ended = CheckpointEnded { records: 0 };
        let bodies = [
            RecordBody::CheckpointBegun(begun),
            RecordBody::CheckpointEnded(ended),
        ];
        let drafts = bodies.map(|body| Draft { domain: None, body });
        self.count(drafts.to_vec())
    }

    fn seal(&mut self) -> Draft {
        let draft = Draft {
            domain: None,
            body: RecordBody::Sealed,
        };
        self.count(vec![draft.clone()]);
        draft
    }

    fn next_lsn(&self) -> Lsn {
        self.next
    }

    fn in_blackout(&self) -> bool {
        self.in_blackout
    }

    fn set_no_room(&mut self, _why: Option<String>) {}

    fn kept_migrations(&self) -> usize {
        0
    }
}

#[test]
fn nothing_slow_happens_while_a_guest_is_on_its_way() {
    let disk = TestDisk::new("journal");
    let mut options = OpenOptions::new(HostId(Id128([4; 16])), BOOT);
    options.first_segment_size = SEGMENT_SIZE_MIN;
    options.segment_size = SEGMENT_SIZE_MIN;
    let opened = Log::open(disk.clone(), None, &options, drop).unwrap();
    let scribe = Scribe {
        opening: opened.opening(),
        next: opened.first_lsn(),
        in_blackout: true,
    };
    let mut node = Node::begin(opened, scribe, NOW, CrashSwitch::default()).unwrap();
    let before = disk.batch_writes().len();
    node.seal(NOW).unwrap();
    assert_eq!(disk.batch_writes().len(), before, "no seal");
    assert!(node.is_unsealed(), "but later");
    let segment = node.log().status().segment;
    // Two blocks a turn: to the last one of the segment.
    for _ in 0..6 {
        let _ = node.turn(NOW, vec![Input::Tick]).unwrap();
    }
    assert!(node.log().must_roll());
    assert_eq!(node.log().status().segment, segment, "no roll");
    node.machine.in_blackout = false;
    let _ = node.turn(NOW, Vec::new()).unwrap();
    assert_eq!(Some(node.log().status().segment), segment.next());
    node.seal(NOW).unwrap();
    assert!(!node.is_unsealed());
}

/// A later input of a turn may change what is said to an earlier one: nothing has left yet.
#[test]
fn what_is_said_is_amended_behind_the_last_input_of_its_turn() {
    let disk = TestDisk::new("journal");
    let options = OpenOptions::new(HostId(Id128([4; 16])), BOOT);
    let opened = Log::open(disk, None, &options, drop).unwrap();
    let scribe = Scribe {
        opening: opened.opening(),
        next: opened.first_lsn(),
        in_blackout: false,
    };
    let mut node = Node::begin(opened, scribe, NOW, CrashSwitch::default()).unwrap();
    let inputs = vec![Input::Tick, Input::Tick, Input::Tick];
    let outbox = node.turn(NOW, inputs).unwrap();
    assert_eq!(replies(outbox), [Token(3); 3]);
}

/// While a guest is on its way nobody waits for a spare segment that is being made.
#[test]
fn no_spare_is_waited_for_while_a_guest_is_on_its_way() {
    let disk = TestDisk::new("journal");
    let opened = Log::open(
        disk.clone(),
        None,
        &OpenOptions::new(HostId(Id128([4; 16])), BOOT),
        drop,
    )
    .unwrap();
    let scribe = Scribe {
        opening: opened.opening(),
        next: opened.first_lsn(),
        in_blackout: true,
    };
    let mut node = Node::begin(opened, scribe, NOW, CrashSwitch::default()).unwrap();
    // It has not come to make one yet.
    let _maker = node.spare_maker();
    let begun = std::time::Instant::now();
    let _ = node.turn(NOW, vec![add(1)]).unwrap();
    let waited = begun.elapsed();
    assert!(waited < SPARE_WAIT_MAX, "{waited:?}");
}

/// A full disk must not cost what is left of the segment and its spare while nothing happens.
#[test]
fn an_idle_node_on_a_full_disk_writes_nothing() {
    let disk = TestDisk::new("journal");
    let mut options = OpenOptions::new(HostId(Id128([4; 16])), BOOT);
    options.first_segment_size = SEGMENT_SIZE_MIN;
    options.segment_size = SEGMENT_SIZE_MIN;
    let opened = Log::open(disk.clone(), None, &options, drop).unwrap();
    let scribe = Scribe {
        opening: opened.opening(),
        next: opened.first_lsn(),
        in_blackout: false,
    };
    let mut node = Node::begin(opened, scribe, NOW, CrashSwitch::default()).unwrap();
    // One spare, and no room for another.
    let _ = node.turn(NOW, vec![add(1)]).unwrap();
    disk.limit(Some(disk.used()));
    while !node.log().must_roll() {
        let _ = node.turn(NOW, vec![Input::Tick]).unwrap();
    }
    let place = |node: &Node<TestDisk, Scribe>| {
        let status = node.log().status();
        (status.segment, status.segment_end)
    };
    let before = place(&node);
    let mut now = NOW;
    for round in 0..50 {
        now.monotonic += ROLL_PAUSE_NS;
        let turned = node.turn(now, Vec::new());
        assert!(turned.is_ok(), "round {round}: {:?}", turned.err());
    }
    assert_eq!(place(&node), before);
    // And when there is room again, it rolls.
    disk.limit(None);
    now.monotonic += ROLL_PAUSE_NS;
    let _ = node.turn(now, Vec::new()).unwrap();
    assert!(place(&node).0 > before.0);
}

/// An owner's effect is on its way while the journal rolls: the owner is answered all the same.
#[test]
fn a_roll_forgets_nobody_who_waits() {
    let disk = TestDisk::new("journal");
    let mut node = open(&disk);
    let Input::Control {
        request: ControlRequest::DomainAdd {
            domain, observed, ..
        },
        ..
    } = add(1)
    else {
        unreachable!("that is what it is");
    };
    let _ = node.turn(NOW, vec![add(1)]).unwrap();
    let pause = Input::Control {
        token: Token(5),
        request: ControlRequest::DomainSetWanted {
            name: "vm1".to_owned(),
            wanted: WantedRunState::Paused,
        },
    };
    // It looks before it acts.
    let looked = Input::Looked { domain, observed };
    let (effects, _) = node.turn(NOW, vec![pause, looked]).unwrap().into_inner();
    let [effect] = &effects[..] else {
        panic!("one effect: {effects:?}");
    };
    assert_eq!(effect.command, EffectCommand::Stop);
    let checkpoint = checkpoint(&mut node.machine);
    node.log.roll(&checkpoint, timestamps(NOW)).unwrap();
    let finished = Input::EffectFinished {
        effect: effect.intent,
        result: EffectResult::Done,
    };
    let outbox = node.turn(NOW, vec![finished]).unwrap();
    assert_eq!(replies(outbox), [Token(5)]);
}

fn draft(body: RecordBody) -> Draft {
    Draft {
        domain: Some(DomainId(Id128([1; 16]))),
        body,
    }
}

fn intended(job: Option<Lsn>) -> Draft {
    draft(RecordBody::EffectIntended(EffectIntended {
        job,
        instance: Instance {
            boot: BOOT,
            pid: 17,
            start_time: 18,
        },
        command: EffectCommand::Stop,
    }))
}

fn finished(effect: u64) -> Draft {
    draft(RecordBody::EffectFinished(EffectFinished {
        effect: Lsn(effect),
        result: EffectResult::Done,
    }))
}

fn started() -> Draft {
    draft(RecordBody::MigrationStarted(MigrationNamed {
        migration: MigrationId(Id128([3; 16])),
    }))
}

#[test]
fn only_batches_of_migrations_count() {
    let mut switch = CrashSwitch::new(Some(2), None, None, None);
    assert_eq!(switch.look(Lsn(1), &[]), Crash::No);
    assert_eq!(
        switch.look(Lsn(1), &[draft(RecordBody::DomainRemoved)]),
        Crash::No
    );
    assert_eq!(switch.look(Lsn(2), &[intended(None)]), Crash::No);
    assert_eq!(switch.look(Lsn(3), &[finished(2)]), Crash::No);
    assert_eq!(switch.look(Lsn(4), &[intended(Some(Lsn(1)))]), Crash::No);
    assert_eq!(switch.look(Lsn(5), &[finished(4)]), Crash::After);
    assert_eq!(switch.look(Lsn(6), &[started()]), Crash::No);
}

#[test]
fn before_a_batch_and_after_a_record() {
    let mut switch = CrashSwitch::new(None, Some(2), Some("migration-started".to_owned()), None);
    assert_eq!(switch.look(Lsn(1), &[finished(9)]), Crash::No);
    assert_eq!(switch.look(Lsn(2), &[finished(9)]), Crash::Before);
    assert_eq!(switch.look(Lsn(3), &[finished(9), started()]), Crash::After);
}

#[test]
fn off_unless_asked_for() {
    let mut switch = CrashSwitch::default();
    assert_eq!(switch.look(Lsn(1), &[started()]), Crash::No);
    assert_eq!(switch.batches, 0);
}
