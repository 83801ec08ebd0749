//! Damage, foreign files, missing files: each is named, and nothing else is lost.

use std::ops::Range;

use journal_format::batch::BATCH_HEADER_SIZE;
use journal_format::number::{Epoch, SegmentNumber};

use super::*;
use crate::journal::read::{Cause, Gap};
use crate::journal::verify::{Report, Verdict, verify};

/// Segments 1 and 2 of the first opening (by a roll), 3 of the second, with 10 records of one batch
/// each, tagged 0 to 9, 10 to 19, 20 to 29.
fn three_segments() -> Place {
    let place = Place::new();
    let mut log = place.begin();
    for tag in 0..20 {
        if tag == 10 {
            roll(&mut log).unwrap();
        }
        append(&mut log, tag..tag + 1).unwrap();
    }
    drop(log);
    let mut log = place.begin();
    for tag in 20..30 {
        append(&mut log, tag..tag + 1).unwrap();
    }
    place
}

pub(super) fn name(segment: u64) -> String {
    SegmentNumber(segment).file_name()
}

pub(super) fn gaps(entries: &[Entry]) -> Vec<Gap> {
    let gap = |entry: &Entry| match entry {
        Entry::Gap(gap) => Some(gap.clone()),
        Entry::Batch(_) => None,
    };
    entries.iter().filter_map(gap).collect()
}

fn damage(place: &Place, segment: u64, at: usize, with: &[u8]) {
    let mut bytes = place.journal.read(&name(segment)).unwrap();
    bytes[at..at + with.len()].copy_from_slice(with);
    place.journal.put(&name(segment), bytes);
}

/// The same at both places where a segment's header is (F24).
fn damage_headers(place: &Place, segment: u64, at: usize, with: &[u8]) {
    damage(place, segment, at, with);
    damage(place, segment, 15 * 4096 + at, with);
}

pub(super) fn report(place: &Place) -> Report {
    verify(place.journal.clone()).unwrap()
}

/// Everything that was written is either read or in a gap; nothing is read twice or wrongly.
fn check_accounted(place: &Place, about: &str) -> Vec<Gap> {
    let entries = place.read();
    let gaps = gaps(&entries);
    let mut expected = 1;
    for entry in &entries {
        let (first, last) = match entry {
            Entry::Gap(gap) => (gap.first.0, gap.last.0),
            Entry::Batch(batch) => {
                for placed in &batch.records {
                    let lsn = placed.record.lsn().0;
                    assert!(lsn >= expected, "{about}: lsn {lsn} again");
                    let lost = |gap: &Gap| gap.first.0 <= lsn && lsn <= gap.last.0;
                    assert!(
                        !gaps.iter().any(lost),
                        "{about}: lsn {lsn} is read and lost"
                    );
                }
                (batch.header.first.0, batch.header.last().0)
            }
        };
        // A gap inside a batch comes right behind it.
        assert!(
            first <= expected,
            "{about}: lsn {expected} to {first} are dropped in silence"
        );
        expected = expected.max(last + 1);
    }
    assert!(expected >= 37, "{about}: the end is missing: {expected}");
    gaps
}

#[test]
fn a_sound_journal_is_clean() {
    let place = three_segments();
    let report = report(&place);
    assert_eq!(report.verdict(), Verdict::Clean);
    assert_eq!(
        (report.segments, report.batches, report.records),
        (3, 33, 36)
    );
    assert_eq!((report.first, report.last), (Some(Lsn(1)), Some(Lsn(36))));
    assert_eq!(report.checkpoints, 3);
    assert!(check_accounted(&place, "sound").is_empty());
}

/// What stands behind a gap says which domains it does not concern: so it is told behind it, inside a batch
/// too. Found by the simulator.
#[test]
fn a_gap_inside_a_batch_is_told_in_its_place() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..5).unwrap();
    append(&mut log, 5..6).unwrap();
    drop(log);
    // The body of the third record of five.
    let bytes = place.journal.read(&name(1)).unwrap();
    let batches = place.read();
    let [.., Entry::Batch(batch), Entry::Batch(_)] = batches.as_slice() else {
        panic!("{batches:?}");
    };
    let at = usize::try_from(batch.records[3].offset).unwrap() - 1;
    let at = (0..at).rev().find(|at| bytes[*at] != 0).unwrap();
    damage(&place, 1, at, &[bytes[at] ^ 1]);
    let resumed = place.open().unwrap();
    let told: Vec<(u64, bool)> = resumed
        .history()
        .iter()
        .map(|past| match past {
            Past::Record(record) => (record.lsn.0, true),
            Past::Gap(gap) => (gap.first.0, false),
        })
        .collect();
    let first = batch.records[0].record.lsn().0;
    let from = told.iter().position(|(lsn, _)| *lsn == first).unwrap();
    let expected: Vec<(u64, bool)> = (first..first + 5)
        .map(|lsn| (lsn, lsn != first + 2))
        .collect();
    assert_eq!(told[from..from + 5], expected);
}

#[test]
fn every_flipped_bit_is_found_and_costs_only_what_it_hit() {
    let sound = three_segments();
    let entries = sound.read();
    let all = tags(&records(&entries));
    let (last_segment, last) = bytes_of_last_batch(&entries);
    // Twelve blocks are used in each segment: the head, the checkpoint and ten batches.
    for segment in 1..=3 {
        for at in (0..12 * 4096).step_by(113) {
            let place = Place {
                journal: sound.journal.copy(),
                run: sound.run.copy(),
            };
            let bytes = place.journal.read(&name(segment)).unwrap();
            damage(&place, segment, at, &[bytes[at] ^ 4]);
            let about = format!("segment {segment}, byte {at}");
            let is_last = segment == last_segment && last.contains(&at);
            let gaps = check_accounted_but_tail(&place, is_last, &about);
            let lost: u64 = gaps.iter().map(|gap| gap.last.0 - gap.first.0 + 1).sum();
            let found = tags(&records(&place.read()));
            assert!(
                found.iter().all(|tag| all.contains(tag)),
                "{about}: wrong data"
            );
            if at >= 4096 && segment < 3 {
                assert!(lost <= 2, "{about}: {gaps:?}");
            }
            if at < 4096 {
                assert_eq!(report(&place).verdict(), Verdict::Damaged, "{about}");
            }
        }
    }
}

/// The last batch's segment, and where its header and records lie in that.
fn bytes_of_last_batch(entries: &[Entry]) -> (u64, Range<usize>) {
    let Some(Entry::Batch(batch)) = entries.last() else {
        panic!("{entries:?}");
    };
    let header = &batch.header;
    let begin = usize::try_from(header.offset).unwrap();
    let content = usize::try_from(header.length).unwrap();
    (
        header.segment.0,
        begin..begin + BATCH_HEADER_SIZE as usize + content,
    )
}

/// The last batch of all cannot be told from one that was never acknowledged, unless a witness or
/// another journal tells.
fn check_accounted_but_tail(place: &Place, is_last: bool, about: &str) -> Vec<Gap> {
    if is_last {
        assert_ne!(report(place).verdict(), Verdict::Clean, "{about}");
        let older = place.open().unwrap_err();
        assert!(
            matches!(older, OpenError::Older(_)),
            "{about}: the witness knows: {older}"
        );
        return Vec::new();
    }
    check_accounted(place, about)
}

#[test]
fn a_damaged_batch_in_the_middle_is_a_gap_of_its_records() {
    let place = three_segments();
    // Block 0 is the head, 1 the checkpoint (LSN 25 and 26), 5 holds LSN 30.
    damage(&place, 3, 5 * 4096 + 150, &[0xff]);
    let opened = place.open().unwrap();
    let gaps: Vec<_> = opened
        .history()
        .iter()
        .filter_map(|past| match past {
            Past::Gap(gap) => Some((gap.first, gap.last, gap.segment.0, gap.at)),
            Past::Record(_) => None,
        })
        .collect();
    assert_eq!(gaps, [(Lsn(30), Lsn(30), 3, 5 * 4096)]);
    assert_eq!(
        tags(&past_records(&opened)),
        [20, 21, 22, 24, 25, 26, 27, 28, 29]
    );
    assert_eq!(opened.first_lsn(), Lsn(37));
}

#[test]
fn damage_before_the_last_checkpoint_concerns_nobody() {
    let place = three_segments();
    damage(&place, 2, 3 * 4096, &[0; 4096]);
    damage_headers(&place, 1, 0, &[0; 4096]);
    let opened = place.open().unwrap();
    assert!(
        !opened
            .history()
            .iter()
            .any(|past| matches!(past, Past::Gap(_)))
    );
    assert_eq!(report(&place).verdict(), Verdict::Damaged);
    assert_eq!(report(&place).gaps.len(), 2);
    assert_eq!(
        report(&place).lost(),
        12 + 1,
        "all of segment 1, one record of segment 2"
    );
}

/// F24: one of the two headers is enough, for reading and for opening; `verify` tells of the other.
#[test]
fn a_header_at_one_of_its_two_places_is_enough() {
    for (segment, at) in [(1, 0), (2, 0), (3, 0), (1, 15), (2, 15), (3, 15)] {
        let place = three_segments();
        let sound = place.read();
        damage(&place, segment, at * 4096, &[0; 4096]);
        assert_eq!(place.read(), sound, "segment {segment}, block {at}");
        let found = report(&place);
        assert_eq!(found.verdict(), Verdict::Damaged);
        let damaged = &found.damaged_headers;
        assert_eq!(
            (damaged.len(), damaged[0].segment.0, damaged[0].at),
            (1, segment, at as u64 * 4096)
        );
        assert_eq!((found.lost(), found.bad_files.len()), (0, 0));
        assert_eq!(past_records(&place.open().unwrap()).len(), 12);
    }
}

/// P5: nothing is acknowledged that is in no directory any more.
#[test]
fn a_segment_that_was_deleted_takes_nothing_any_more() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..3).unwrap();
    let _ = place.journal.take(&name(1)).unwrap();
    let error = append(&mut log, 3..4).unwrap_err();
    assert!(
        matches!(&error, AppendError::Poisoned(poison) if poison.cause.contains("deleted")),
        "{error}"
    );
    assert!(append(&mut log, 4..5).is_err(), "and nothing later");
}

/// F24: a disk that writes a block to the wrong place leaves a whole header of another segment.
#[test]
fn the_header_of_another_segment_hides_none() {
    for (segment, other) in [(1, 2), (2, 3), (3, 1)] {
        let place = three_segments();
        let sound = place.read();
        let header = place.journal.read(&name(other)).unwrap()[..4096].to_vec();
        damage(&place, segment, 0, &header);
        assert_eq!(place.read(), sound, "segment {segment}");
        let found = report(&place);
        assert_eq!(found.verdict(), Verdict::Damaged);
        assert_eq!(found.damaged_headers.len(), 1);
        assert_eq!(
            found.damaged_headers[0].why,
            journal_format::error::FormatError::OutOfPlace
        );
        assert_eq!((found.lost(), found.bad_files.len()), (0, 0));
        assert_eq!(past_records(&place.open().unwrap()).len(), 12);
    }
}

#[test]
fn a_damaged_checkpoint_is_replaced_by_the_one_before() {
    let place = three_segments();
    damage(&place, 3, 4096 + 150, &[0xff; 8]);
    let opened = place.open().unwrap();
    let first = opened.history().first().unwrap();
    assert!(
        matches!(first, Past::Record(record) if record.lsn == Lsn(13)),
        "{first:?}"
    );
    assert_eq!(tags(&past_records(&opened)), (10..30).collect::<Vec<_>>());
    assert_eq!(opened.opening().epoch, Epoch(3));
    assert_eq!(
        opened.openings().len(),
        2,
        "the opening whose checkpoint is damaged is known"
    );
}

#[test]
fn a_lost_newest_head_hides_no_number_that_was_used() {
    let place = three_segments();
    damage_headers(&place, 3, 100, &[0xff; 8]);
    let opened = place.open().unwrap();
    let last = opened.history().last().unwrap();
    let Past::Gap(gap) = last else {
        panic!("{last:?}")
    };
    assert_eq!((gap.first, gap.segment.0), (Lsn(25), 3));
    assert!(gap.last >= Lsn(36));
    assert_eq!(opened.first_lsn(), gap.last.next().unwrap());
    assert_eq!(
        opened.opening().epoch,
        Epoch(3),
        "segment 3 may have been an opening"
    );
    let mut log = begin(opened).unwrap();
    append(&mut log, 77..78).unwrap();
    assert_eq!(log.status().segment.0, 4);
    drop(log);
    let gaps = gaps(&place.read());
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let opened = place.open().unwrap();
    assert_eq!(
        tags(&past_records(&opened)),
        [77],
        "the gap is behind a checkpoint now"
    );
}

#[test]
fn garbage_at_the_end_is_no_torn_tail() {
    let place = three_segments();
    // Two blocks beyond the furthest end of one batch in flight there is no room for in a small
    // segment; a batch of another place is as good a proof.
    let bytes = place.journal.read(&name(3)).unwrap();
    let moved = bytes[4096..2 * 4096].to_vec();
    damage(&place, 3, 12 * 4096, &moved);
    let opened = place.open().unwrap();
    assert_eq!(opened.ending(), Ending::Damaged);
    assert!(
        opened.first_lsn() > Lsn(37),
        "what stood there may have been acknowledged"
    );
    assert_eq!(report(&place).verdict(), Verdict::Damaged);
}

#[test]
fn a_torn_tail_is_no_damage() {
    let place = three_segments();
    damage(&place, 3, 12 * 4096, &[0x55; 700]);
    assert_eq!(report(&place).verdict(), Verdict::Torn);
    let opened = place.open().unwrap();
    assert!(matches!(opened.ending(), Ending::Torn { at: 49152, .. }));
    assert_eq!(opened.first_lsn(), Lsn(37));
    begin(opened).unwrap();
    assert_eq!(
        report(&place).verdict(),
        Verdict::Clean,
        "the next segment has settled it"
    );
}

#[test]
fn a_missing_segment_is_a_gap() {
    let place = three_segments();
    place.journal.take(&name(2));
    let gaps = check_accounted(&place, "missing");
    assert_eq!(gaps.len(), 1);
    assert_eq!(
        (gaps[0].first, gaps[0].last, &gaps[0].why),
        (Lsn(13), Lsn(24), &Cause::Missing)
    );
    // The newest checkpoint says it all.
    let opened = place.open().unwrap();
    assert!(
        !opened
            .history()
            .iter()
            .any(|past| matches!(past, Past::Gap(_)))
    );
}

#[test]
fn a_truncated_file_is_a_gap() {
    for (segment, keep) in [
        (2, 7 * 4096),
        (2, 5000),
        (3, 7 * 4096),
        (3, 7 * 4096 + 5),
        (3, 0),
    ] {
        let place = three_segments();
        let bytes = place.journal.read(&name(segment)).unwrap();
        place.journal.put(&name(segment), bytes[..keep].to_vec());
        let gaps = check_accounted(&place, &format!("{segment}: {keep}"));
        assert_eq!(gaps.len(), 1, "{segment}: {keep}");
        assert_eq!(report(&place).verdict(), Verdict::Damaged);
        assert!(
            place.open().unwrap().first_lsn() > Lsn(36),
            "{segment}: {keep}"
        );
    }
}

#[test]
fn a_segment_put_back_from_an_older_copy_is_seen() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..1).unwrap();
    let older = place.journal.read(&name(1)).unwrap();
    append(&mut log, 1..2).unwrap();
    drop(log);
    place.begin();
    place.journal.put(&name(1), older);
    let gaps = gaps(&place.read());
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].first, gaps[0].last), (Lsn(4), Lsn(4)));
    assert_eq!(gaps[0].why, Cause::Shortened);
}

#[test]
fn a_segment_with_other_contents_is_not_believed() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..1).unwrap();
    drop(log);
    place.begin();
    // The same batch in the same place, whole, with another record in it.
    let bytes = place.journal.read(&name(1)).unwrap();
    let scan = journal_format::scan::scan(&bytes).unwrap();
    let header = scan.batches[1].header;
    let mut batch = journal_format::batch::BatchBuilder::new(scan.header.salt, header);
    batch.push(&draft(66), None).unwrap();
    let (forged, _) = batch.finish();
    damage(&place, 1, 2 * 4096, &forged);
    let entries = place.read();
    assert_eq!(tags(&records(&entries)), [0; 0]);
    let gaps = gaps(&entries);
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].first, gaps[0].last), (Lsn(1), Lsn(3)));
    assert_eq!(gaps[0].why, Cause::OtherContents);
}

/// The same LSNs in fewer blocks: nothing is missing, and it is not what the next segment was written after.
#[test]
fn a_segment_with_as_many_other_records_is_not_believed() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..80).unwrap();
    drop(log);
    place.begin();
    let bytes = place.journal.read(&name(1)).unwrap();
    let scan = journal_format::scan::scan(&bytes).unwrap();
    let header = scan.batches[1].header;
    assert!(header.size() > 4096, "the forged batch is to be shorter");
    let sealed = Draft {
        domain: None,
        body: RecordBody::Sealed,
    };
    let mut batch = journal_format::batch::BatchBuilder::new(scan.header.salt, header);
    for _ in 0..header.records {
        batch.push(&sealed, None).unwrap();
    }
    let (mut forged, _) = batch.finish();
    assert!((forged.len() as u64) < header.size());
    forged.resize(usize::try_from(header.size()).unwrap(), 0);
    damage(&place, 1, 2 * 4096, &forged);
    let gaps = gaps(&place.read());
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].first, gaps[0].last), (Lsn(1), Lsn(82)));
    assert_eq!(gaps[0].why, Cause::OtherContents);
    assert_eq!(report(&place).verdict(), Verdict::Damaged);
}

/// A CRC over bytes that end in their own CRC is always the same: a chain of those links nothing.
#[test]
fn the_chain_depends_on_what_is_chained() {
    let place = three_segments();
    let mut chains = Vec::new();
    for segment in 1..=3 {
        let bytes = place.journal.read(&name(segment)).unwrap();
        let scan = journal_format::scan::scan(&bytes).unwrap();
        chains.push(scan.header.chain());
        chains.extend(scan.batches.iter().map(|batch| batch.chain));
    }
    let count = chains.len();
    chains.sort_unstable_by_key(|chain| chain.0);
    chains.dedup();
    assert_eq!(chains.len(), count);
}

#[test]
fn foreign_files_are_refused_and_named() {
    let place = three_segments();
    let other = three_segments();
    let foreign = other.journal.read(&name(2)).unwrap();
    let own = place.journal.read(&name(2)).unwrap();
    place.journal.put(&name(2), foreign);
    let error = place.open().unwrap_err();
    assert!(matches!(error, OpenError::ForeignSegment { .. }));
    assert!(
        error.to_string().contains("0000000000000002.seg"),
        "{error}"
    );
    assert_eq!(gaps(&place.read()).len(), 1, "a reader shows the rest");

    // Two files of this journal changed places.
    let first = place.journal.read(&name(1)).unwrap();
    place.journal.put(&name(1), own);
    place.journal.put(&name(2), first);
    let error = place.open().unwrap_err();
    assert!(matches!(
        error,
        OpenError::ForeignSegment {
            why: Cause::OtherNumber(_),
            ..
        }
    ));
}

/// F2: of journals with as many segments, the one of the oldest file counts.
#[test]
fn of_two_journals_the_one_of_the_oldest_segment_counts() {
    let (place, other) = (three_segments(), three_segments());
    place.journal.take(&name(3)).unwrap();
    let foreign = other.journal.read(&name(2)).unwrap();
    place.journal.put(&name(2), foreign);
    let found = report(&place);
    assert_eq!(tags(&records(&place.read())), (0..10).collect::<Vec<_>>());
    assert_eq!(found.bad_files.len(), 1);
    assert_eq!(found.bad_files[0].segment, SegmentNumber(2));
}

#[test]
fn a_newer_format_is_refused_and_not_taken_for_damage() {
    let place = three_segments();
    damage_headers(&place, 3, 8, &[3]);
    let error = place.open().unwrap_err();
    assert!(
        matches!(error, OpenError::NewerFormat { version: 3, .. }),
        "{error}"
    );
}

#[test]
fn a_directory_with_something_else_is_left_alone() {
    let place = Place::new();
    place.journal.put("holiday.jpg", vec![1]);
    let error = place.open().unwrap_err();
    assert!(matches!(&error, OpenError::NotAJournal { found, .. } if found == "holiday.jpg"));
    assert_eq!(place.journal.list().unwrap(), ["holiday.jpg"]);
    // What an opening that died early has left is no reason.
    place.journal.take("holiday.jpg");
    for name in ["lock", "probe.new", "index", "0000000000000001.seg.new"] {
        place.journal.put(name, vec![0; 100]);
    }
    assert!(place.open().unwrap().is_new());
}

#[test]
fn garbage_beside_a_journal_does_no_harm() {
    let place = three_segments();
    place.journal.put("notes.txt", vec![1]);
    place.journal.put("0000000000000009.seg.new", vec![1]);
    let opened = place.open().unwrap();
    assert_eq!(tags(&past_records(&opened)).len(), 10);
    let names = place.journal.list().unwrap();
    assert!(names.contains(&"notes.txt".to_owned()));
    assert!(!names.contains(&"0000000000000009.seg.new".to_owned()));
    drop(opened);
    // A file that only has a segment's name may have been one.
    place.journal.put(&name(4), vec![0x41; 100]);
    let opened = place.open().unwrap();
    assert!(matches!(opened.history().last(), Some(Past::Gap(_))));
    assert_eq!(tags(&past_records(&opened)).len(), 10);
}

#[test]
fn a_second_writer_is_refused_and_told_who_holds_it() {
    let place = Place::new();
    let opened = place.open().unwrap();
    let error = place.open().unwrap_err();
    let OpenError::Locked { holder, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(holder, Some(std::process::id()));
    let log = begin(opened).unwrap();
    assert!(matches!(place.open(), Err(OpenError::Locked { .. })));
    drop(log);
    place.open().unwrap();
}

#[test]
fn a_disk_that_cannot_be_written_refuses_the_opening() {
    const EROFS: i32 = 30;
    let place = Place::new();
    place.journal.plan(0, Fault::Error(EROFS));
    let error = place.open().unwrap_err();
    assert!(matches!(&error, OpenError::Io { .. }));
    assert!(
        error.to_string().starts_with("could not open journal/lock"),
        "{error}"
    );
}

#[test]
fn a_journal_of_another_host_is_refused() {
    let place = Place::new();
    place.begin();
    let options = OpenOptions {
        host: HostId(Id128([1; 16])),
        ..options()
    };
    let error = place.open_with(&options).unwrap_err();
    assert!(matches!(error, OpenError::OtherHost { .. }), "{error}");
}

#[test]
fn what_is_no_checkpoint_begins_nothing() {
    let place = Place::new();
    let good = |opened: &Opened<TestDisk>| checkpoint(&all_openings(opened));
    type Spoil = fn(&mut Checkpoint);
    let spoilt: [Spoil; 5] = [
        |checkpoint| checkpoint.drafts.clear(),
        |checkpoint| drop(checkpoint.drafts.pop()),
        |checkpoint| drop(checkpoint.drafts.remove(0)),
        |checkpoint| checkpoint.drafts.insert(1, draft(1)),
        |checkpoint| checkpoint.drafts.insert(1, checkpoint.drafts[0].clone()),
    ];
    for spoil in spoilt {
        let opened = place.open().unwrap();
        let mut checkpoint = good(&opened);
        spoil(&mut checkpoint);
        let error = opened.opened.begin(&checkpoint, NOW).unwrap_err();
        assert!(matches!(error, AppendError::NoCheckpoint { .. }), "{error}");
    }
    let opened = place.open().unwrap();
    let error = opened.opened.begin(&checkpoint(&[]), NOW).unwrap_err();
    assert!(matches!(error, AppendError::NoCheckpoint { .. }), "{error}");
    assert_eq!(place.journal.list().unwrap(), ["lock"]);
}

/// The padding of the last batch: no torn write leaves it so, and its records are there (F12). Found by the simulator.
#[test]
fn a_last_batch_with_damaged_padding_is_not_torn() {
    let sound = three_segments();
    let (segment, last) = bytes_of_last_batch(&sound.read());
    // The power failed too: without a witness nothing else tells of that batch.
    let place = Place {
        journal: sound.journal.copy(),
        run: Place::new().run,
    };
    for at in [last.end, last.end.next_multiple_of(4096) - 1] {
        damage(&place, segment, at, &[1]);
        let about = format!("byte {at}");
        assert!(check_accounted(&place, &about).is_empty(), "{about}");
        let report = report(&place);
        assert_eq!(report.verdict(), Verdict::Damaged, "{about}");
        assert_eq!(report.damaged_padding.len(), 1, "{about}");
    }
    let opened = place.open().unwrap();
    assert_eq!(tags(&past_records(&opened)), (20..30).collect::<Vec<u64>>());
}
