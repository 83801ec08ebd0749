//! Spare segments: zeros that were really zeroed (F22), and room when the disk has none.

use super::super::verify::{Verdict, verify};
use super::super::witness::Witness;
use super::*;
use journal_format::record::DefinitionPart;

/// The errno for a full disk.
const ENOSPC: i32 = 28;
const SIZE: usize = 64 * 1024;

/// The disk has no room for another byte.
fn fill(place: &Place) {
    place.journal.limit(Some(place.journal.used()));
}

/// A journal with one opening and its spares.
fn with_spares() -> (Place, Log<TestDisk>) {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..3).unwrap();
    make_spares(&log);
    (place, log)
}

/// Does what the maker's thread does, until there is nothing to do.
fn make_spares(log: &Log<TestDisk>) {
    let maker = log.spare_maker();
    while maker.make_missing() {}
}

#[test]
fn a_roll_into_a_spare_writes_no_zeros() {
    let (place, mut log) = with_spares();
    assert_eq!(log.status().spares, SPARES as u64);
    let before = place.journal.counters();
    roll(&mut log).unwrap();
    let after = place.journal.counters();
    let why = "the header at both ends and the checkpoint";
    assert_eq!(after.writes - before.writes, 3, "{why}");
    assert_eq!(after.syncs - before.syncs, 3, "{why}");
    assert_eq!(after.directory_syncs - before.directory_syncs, 1);
    append(&mut log, 3..4).unwrap();
    drop(log);
    assert_eq!(tags(&records(&place.read())), [0, 1, 2, 3]);
    assert_eq!(verify(place.journal).unwrap().verdict(), Verdict::Clean);
}

#[test]
fn a_roll_leaves_the_last_spare_and_the_full_segment_enters_it() {
    let (place, mut log) = with_spares();
    fill(&place);
    roll(&mut log).unwrap();
    assert_eq!(log.status().spares, 1);
    let error = roll(&mut log).unwrap_err();
    assert!(matches!(error, AppendError::NoSegment { .. }), "{error}");
    // What was begun goes on to the end of the segment, and over it.
    let segment = log.status().segment;
    for tag in 3..23 {
        append(&mut log, tag..tag + 1).unwrap();
    }
    assert_eq!(Some(log.status().segment), segment.next());
    assert_eq!(log.status().spares, 0);
    assert_eq!(tags(&records(&place.read())), (0..23).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_refuses_what_is_new() {
    let place = Place::new();
    let mut log = place.begin();
    fill(&place);
    let error = log.reserve(true).unwrap_err();
    let AppendError::NoSegment { file, doing, cause } = &error else {
        panic!("{error}");
    };
    assert_eq!(file.file_name().unwrap(), "spare-1");
    assert_eq!(*doing, "fill the spare segment");
    assert_eq!(cause.raw_os_error(), Some(ENOSPC));
    // It is no failure of the log, and passes.
    append(&mut log, 0..1).unwrap();
    place.journal.limit(None);
    log.reserve(true).unwrap();
    assert_eq!(log.status().spares, 1);
}

#[test]
fn a_full_disk_does_not_keep_a_journal_from_being_opened() {
    let (place, log) = with_spares();
    let needed = log.position().lsn;
    drop(log);
    fill(&place);
    // A crash loop with an open job, long after the spares are used up.
    for tag in 3..60 {
        let opened = place.open().unwrap();
        let checkpoint = Checkpoint {
            needed_from: Some(needed),
            ..checkpoint(&all_openings(&opened))
        };
        let mut log = opened.opened.begin(&checkpoint, NOW).unwrap();
        append(&mut log, tag..tag + 1).unwrap();
        place.journal.restart(Survival::Everything);
        assert_eq!(
            records(&place.read()).last().map(|last| tags([last])),
            Some(vec![tag])
        );
    }
    assert_eq!(verify(place.journal).unwrap().verdict(), Verdict::Clean);
}

/// Without a spare and with a single segment there is nothing to take, and the error says so.
#[test]
fn a_disk_that_was_always_full() {
    let place = Place::new();
    drop(place.begin());
    fill(&place);
    let error = begin(place.open().unwrap()).unwrap_err();
    assert!(matches!(error, AppendError::NoSegment { .. }), "{error}");
    place.journal.limit(None);
    drop(begin(place.open().unwrap()).unwrap());
}

#[test]
fn whatever_a_spare_held_is_gone_before_it_is_used() {
    let (place, log) = with_spares();
    drop(log);
    // Somebody's bytes, or a segment that became a spare when the sidecar died.
    for (name, size) in [("spare-1", SIZE), ("spare-2", SIZE / 2)] {
        place.journal.put(name, vec![0x5a; size]);
    }
    let mut log = place.begin();
    make_spares(&log);
    assert_eq!(log.status().spares, SPARES as u64);
    for name in ["spare-1", "spare-2"] {
        assert_eq!(place.journal.read(name).unwrap(), vec![0; SIZE], "{name}");
    }
    roll(&mut log).unwrap();
    append(&mut log, 3..4).unwrap();
    drop(log);
    assert_eq!(verify(place.journal).unwrap().verdict(), Verdict::Clean);
}

/// Segments become spares: whenever the power fails, no segment is found with zeros in it.
#[test]
fn a_segment_becomes_a_spare_under_any_crash() {
    let mut options = options();
    options.retention.bytes_max = 0;
    let run = |place: &Place| {
        let Ok(Ok(mut log)) = place.open_with(&options).map(begin) else {
            return;
        };
        for tag in 0..6 {
            if append(&mut log, tag..tag + 1).is_err() || roll(&mut log).is_err() {
                return;
            }
            make_spares(&log);
        }
    };
    let place = Place::new();
    run(&place);
    let operations = place.journal.operations();
    for operation in 0..operations {
        for survival in [
            Survival::Everything,
            Survival::Nothing,
            Survival::Some(operation),
        ] {
            let place = Place::new();
            place.journal.plan(operation, Fault::CrashAfter);
            run(&place);
            place.journal.restart(survival);
            place.run.restart(survival);
            if segments(&place.journal) == 0 {
                continue;
            }
            let verdict = verify(place.journal.clone()).unwrap().verdict();
            assert!(verdict.is_sound(), "{operation} {survival:?}: {verdict:?}");
            begin(place.open_with(&options).unwrap()).unwrap();
        }
    }
}

#[test]
fn the_maker_works_beside_the_log_and_ends_with_it() {
    let place = Place::new();
    let mut log = place.begin();
    let maker = log.spare_maker();
    let thread = std::thread::spawn(move || maker.run());
    for tag in 0..20 {
        log.reserve(true).unwrap();
        append(&mut log, tag..tag + 1).unwrap();
        roll(&mut log).unwrap();
    }
    drop(log);
    thread.join().unwrap();
    assert_eq!(tags(&records(&place.read())), (0..20).collect::<Vec<_>>());
}

/// A checkpoint that is larger than a fresh segment should be, and fits into a spare all the same.
#[test]
fn a_large_checkpoint_fits_into_a_spare_on_a_full_disk() {
    let (place, log) = with_spares();
    drop(log);
    fill(&place);
    for _ in 0..6 {
        let opened = place.open().unwrap();
        let checkpoint = large_checkpoint(&all_openings(&opened));
        let mut log = opened.opened.begin(&checkpoint, NOW).unwrap();
        append(&mut log, 3..4).unwrap();
        place.journal.restart(Survival::Everything);
    }
    assert_eq!(verify(place.journal).unwrap().verdict(), Verdict::Clean);
}

/// Some 24 KiB of a state.
fn large_checkpoint(openings: &[journal_format::record::Opening]) -> Checkpoint {
    let part = Draft {
        domain: Some(domain(1)),
        body: RecordBody::DefinitionPart(DefinitionPart {
            first: Lsn(1),
            index: 0,
            count: 1,
            text: "x".repeat(4096),
        }),
    };
    let mut checkpoint = checkpoint(openings);
    let end = checkpoint.drafts.pop().unwrap();
    checkpoint.drafts.extend(std::iter::repeat_n(part, 6));
    checkpoint.drafts.push(end);
    for draft in &mut checkpoint.drafts {
        match &mut draft.body {
            RecordBody::CheckpointBegun(begun) => begun.records = 6,
            RecordBody::CheckpointEnded(ended) => ended.records = 6,
            _ => {}
        }
    }
    checkpoint
}

/// The run directory may lie on the same disk.
#[test]
fn a_full_disk_takes_the_witness_too() {
    let (place, log) = with_spares();
    drop(log);
    fill(&place);
    place.run.limit(Some(place.run.used()));
    for tag in 3..10 {
        let mut log = place.begin();
        append(&mut log, tag..tag + 1).unwrap();
        let position = log.position();
        place.journal.restart(Survival::Everything);
        place.run.restart(Survival::Everything);
        let said = Witness::new(place.run.clone()).read().unwrap().unwrap();
        assert_eq!(said.position, position);
    }
}

/// Room for the smallest segment is room enough.
#[test]
fn a_disk_with_room_for_the_smallest_segment() {
    let place = Place::new();
    let options = OpenOptions {
        first_segment_size: 16 * SIZE as u64,
        ..options()
    };
    drop(begin(place.open_with(&options).unwrap()).unwrap());
    place.journal.limit(Some(place.journal.used() + SIZE));
    let mut log = begin(place.open_with(&options).unwrap()).unwrap();
    append(&mut log, 0..1).unwrap();
    assert_eq!(log.status().segment_size, SIZE as u64);
    drop(log);
    assert_eq!(tags(&records(&place.read())), [0]);
}
