//! A crash, or an error, at every single operation on the disk.

use super::*;

/// What was acknowledged, and how far the script came.
#[derive(Debug, Default)]
struct Told {
    acknowledged: Vec<(Lsn, u64)>,
    /// The records of the call that failed.
    in_flight: Vec<u64>,
}

/// How the batches of the script lie: some of one block, one of several, an empty one.
const SIZES: [u64; 6] = [1, 5, 200, 0, 40, 2];

/// A life of a journal: opened, written, rolled, opened again, written. Stops at the first error.
fn live(place: &Place) -> Told {
    let mut told = Told::default();
    let mut tag = 0;
    for _ in 0..2 {
        let opened = match place.open() {
            Ok(opened) => opened,
            Err(error) => {
                check_told(&error.to_string());
                return told;
            }
        };
        let mut log = match begin(opened) {
            Ok(log) => log,
            Err(error) => {
                check_told(&error.to_string());
                return told;
            }
        };
        for (index, size) in SIZES.into_iter().enumerate() {
            // Once into a new file, and once into a spare if there is room for one.
            if tag > 200
                && let Err(error) = log.reserve(true)
            {
                check_told(&error.to_string());
            }
            if index == 4
                && let Err(error) = roll(&mut log)
            {
                check_told(&error.to_string());
                return told;
            }
            let first = log.next_lsn();
            if let Err(error) = append(&mut log, tag..tag + size) {
                told.in_flight = (tag..tag + size).collect();
                check_poisoned(&mut log, &error);
                return told;
            }
            told.acknowledged
                .extend((0..size).map(|i| (Lsn(first.0 + i), tag + i)));
            tag += size;
        }
    }
    told
}

/// An error names the file or the directory.
fn check_told(error: &str) {
    let names_it = ["journal", "run"].iter().any(|name| error.contains(name));
    assert!(names_it && !error.contains('\n'), "{error}");
}

/// After an error nothing is acknowledged, and the answer names the first error.
fn check_poisoned(log: &mut Log<TestDisk>, error: &AppendError) {
    let AppendError::Poisoned(first) = error else {
        panic!("an append of good records failed otherwise: {error}");
    };
    for _ in 0..2 {
        for result in [append(log, 900..901), append(log, 0..0), roll(log)] {
            match result {
                Err(AppendError::Poisoned(cause)) => {
                    assert_eq!(cause.to_string(), first.to_string());
                }
                other => panic!("a poisoned journal answered {other:?}"),
            }
        }
    }
    assert!(log.status().poisoned.is_some());
}

fn found(place: &Place) -> Vec<(Lsn, u64)> {
    let records = records(&place.read());
    let tagged = |record: &Record| Some((record.lsn, *tags([record]).first()?));
    records.iter().filter_map(tagged).collect()
}

/// Opens again and checks that everything that was acknowledged is there, once and in its place, that
/// nothing else is but the records in flight, and that the journal goes on.
fn check(place: &Place, told: &Told, boot: u8, about: &str) {
    let options = OpenOptions {
        boot: BootId(Id128([boot; 16])),
        ..options()
    };
    let opened = place
        .open_with(&options)
        .unwrap_or_else(|error| panic!("{about}: {error}"));
    assert_ne!(opened.ending(), Ending::Damaged, "{about}");
    assert!(
        !opened
            .history()
            .iter()
            .any(|past| matches!(past, Past::Gap(_))),
        "{about}"
    );
    let next = opened.first_lsn();
    if opened.is_new() {
        assert!(told.acknowledged.is_empty(), "{about}: everything is gone");
    } else {
        check_found(&found(place), told, about);
        let history = past_records(&opened);
        let of_history = tags(&history);
        let all: Vec<u64> = found(place).into_iter().map(|(_, tag)| tag).collect();
        assert!(
            all.ends_with(&of_history),
            "{about}: the history is the newest part"
        );
    }
    let acknowledged = told.acknowledged.last().map_or(Lsn(0), |(lsn, _)| *lsn);
    assert!(next > acknowledged, "{about}: no LSN twice");

    let mut log = begin(opened).unwrap_or_else(|error| panic!("{about}: {error}"));
    append(&mut log, 500..503).unwrap();
    drop(log);
    let entries = place.read();
    let gap = entries.iter().find(|entry| matches!(entry, Entry::Gap(_)));
    assert_eq!(gap, None, "{about}");
    assert!(
        tags(&records(&entries)).ends_with(&[500, 501, 502]),
        "{about}"
    );
}

fn check_found(found: &[(Lsn, u64)], told: &Told, about: &str) {
    let count = told.acknowledged.len().min(found.len());
    assert_eq!(
        found[..count],
        told.acknowledged[..],
        "{about}: acknowledged records"
    );
    let rest: Vec<u64> = found[count..].iter().map(|(_, tag)| *tag).collect();
    assert!(
        rest.is_empty() || rest == told.in_flight,
        "{about}: a batch is whole or absent: {rest:?}"
    );
}

const SURVIVALS: [Survival; 4] = [
    Survival::Everything,
    Survival::Nothing,
    Survival::Some(1),
    Survival::Some(2),
];

/// Runs the script with a fault at one operation of one of the disks, then opens what is left.
fn fail_at(on_run: bool, operation: u64, fault: Fault, survivals: &[Survival]) {
    for &survival in survivals {
        let place = Place::new();
        let disk = if on_run { &place.run } else { &place.journal };
        disk.plan(operation, fault);
        let told = live(&place);
        let boot = if survival == Survival::Everything {
            8
        } else {
            9
        };
        place.journal.restart(survival);
        place.run.restart(survival);
        let about = format!("{fault:?} at {operation} (run: {on_run}), {survival:?}");
        check(&place, &told, boot, &about);
    }
}

fn operations(on_run: bool) -> u64 {
    let place = Place::new();
    let told = live(&place);
    assert_eq!(
        told.acknowledged.len() as u64,
        2 * SIZES.iter().sum::<u64>()
    );
    if on_run {
        place.run.operations()
    } else {
        place.journal.operations()
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_crash_between_operations() {
    for on_run in [false, true] {
        for operation in 0..operations(on_run) {
            fail_at(on_run, operation, Fault::CrashBefore, &SURVIVALS);
            fail_at(on_run, operation, Fault::CrashAfter, &SURVIVALS);
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_torn_write() {
    let place = Place::new();
    live(&place);
    let writes = place.journal.batch_writes();
    assert!(
        writes.iter().any(|(_, length)| *length > 3 * 4096),
        "{writes:?}"
    );
    for (operation, length) in writes {
        for sectors in 0..=length / testing::SECTOR_SIZE {
            let survivals = [Survival::Nothing, Survival::Some(sectors as u64)];
            fail_at(false, operation, Fault::CrashTorn(sectors), &survivals);
        }
    }
}

#[test]
fn an_error_acknowledges_nothing_and_loses_nothing() {
    // EIO, ENOSPC, EROFS (a file system that was remounted), EDQUOT.
    let errors = [5, 28, 30, 122].map(Fault::Error);
    let others = [
        Fault::Short(0),
        Fault::Short(600),
        Fault::Short(4096),
        Fault::LostSync(5),
    ];
    for on_run in [false, true] {
        for operation in 0..operations(on_run) {
            for fault in errors.into_iter().chain(others) {
                let survivals = [Survival::Nothing, Survival::Some(operation)];
                fail_at(on_run, operation, fault, &survivals);
            }
        }
    }
}

#[test]
fn a_failed_sync_poisons_and_is_never_repeated() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..3).unwrap();
    place
        .journal
        .plan(place.journal.operations() + 1, Fault::LostSync(5));
    let error = append(&mut log, 3..6).unwrap_err();
    check_poisoned(&mut log, &error);
    assert!(
        error.to_string().contains("journal/0000000000000001.seg"),
        "{error}"
    );
    drop(log);
    // The page cache still shows the records; the disk never had them.
    place.journal.restart(Survival::Nothing);
    let told = Told {
        acknowledged: found(&place)[..3].to_vec(),
        in_flight: vec![],
    };
    check(&place, &told, 9, "a failed sync");
}

#[test]
fn a_roll_without_room_leaves_the_log_as_it_was() {
    const ENOSPC: i32 = 28;
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..3).unwrap();
    // To remove what was left, to create, to write the head, to write zeros, to sync.
    for operation in 0..5 {
        place
            .journal
            .plan(place.journal.operations() + operation, Fault::Error(ENOSPC));
        let error = roll(&mut log).unwrap_err();
        assert!(
            matches!(error, AppendError::NoSegment { .. }),
            "{operation}: {error}"
        );
        append(&mut log, 3..4).unwrap();
    }
    assert_eq!(log.status().segments, 1);
    roll(&mut log).unwrap();
    assert_eq!(log.status().segments, 2);
    append(&mut log, 4..5).unwrap();
    drop(log);
    assert_eq!(
        place.journal.list().unwrap().len(),
        3,
        "the lock and two segments"
    );
    assert_eq!(tags(&records(&place.read())), [0, 1, 2, 3, 3, 3, 3, 3, 4]);
}

#[test]
fn a_crash_loop_is_bounded() {
    let mut options = options();
    options.retention.bytes_max = 4 * options.first_segment_size;
    // Dies after it began and wrote.
    let place = Place::new();
    for tag in 0..40 {
        let mut log = begin(place.open_with(&options).unwrap()).unwrap();
        append(&mut log, tag..tag + 1).unwrap();
        place.journal.restart(Survival::Everything);
        let names = place.journal.list().unwrap();
        assert!(names.len() <= 6 + SPARES, "{names:?}");
    }
    // Dies before its checkpoint is durable, at every operation.
    for operation in 0..12 {
        for _ in 0..20 {
            let next = place.journal.operations();
            place.journal.plan(next + operation, Fault::CrashAfter);
            let _ = place.open_with(&options).map(begin);
            place.journal.restart(Survival::Everything);
            let names = place.journal.list().unwrap();
            assert!(names.len() <= 7 + SPARES, "{operation}: {names:?}");
        }
    }
    let opened = place.open_with(&options).unwrap();
    assert!(past_records(&opened).len() >= 2, "the state is there");
}

#[test]
fn needed_records_outlive_a_crash_loop() {
    let mut options = options();
    options.retention.bytes_max = 0;
    let place = Place::new();
    let mut log = begin(place.open_with(&options).unwrap()).unwrap();
    append(&mut log, 1..2).unwrap();
    let needed = log.position().lsn;
    drop(log);
    for _ in 0..20 {
        let opened = place.open_with(&options).unwrap();
        let checkpoint = Checkpoint {
            needed_from: Some(needed),
            ..checkpoint(&all_openings(&opened))
        };
        opened.opened.begin(&checkpoint, NOW).unwrap();
    }
    assert_eq!(tags(&records(&place.read())), [1]);
    for _ in 0..3 {
        begin(place.open_with(&options).unwrap()).unwrap();
    }
    assert_eq!(tags(&records(&place.read())), [0; 0]);
    assert_eq!(segments(&place.journal), 2, "two checkpoints");
}

/// A page cache shows what a failed sync was about until the power fails. An opening that believed it would
/// miss it at the next one, and take it for acknowledged records that are lost.
#[test]
fn what_only_the_page_cache_shows_is_not_believed() {
    let mut ended = Vec::new();
    // The opening ends at any of its operations, or goes well.
    for operation in 0.. {
        let place = Place::new();
        let mut log = place.begin();
        append(&mut log, 0..3).unwrap();
        let next = place.journal.operations();
        place.journal.plan(next + 1, Fault::LostSync(5));
        append(&mut log, 3..6).unwrap_err();
        drop(log);
        place.journal.restart(Survival::Everything);
        let next = place.journal.operations();
        place.journal.plan(next + operation, Fault::CrashAfter);
        let is_ready = place.open().is_ok_and(|opened| begin(opened).is_ok());
        ended.push(is_ready);
        place.journal.restart(Survival::Nothing);

        let opened = place.open().unwrap();
        assert_ne!(opened.ending(), Ending::Damaged, "{operation}");
        let mut history = opened.history().iter();
        let gap = history.find(|past| matches!(past, Past::Gap(_)));
        assert_eq!(gap, None, "{operation}");
        begin(opened).unwrap();
        let entries = place.read();
        let gap = entries.iter().find(|entry| matches!(entry, Entry::Gap(_)));
        assert_eq!(gap, None, "{operation}");
        assert_eq!(tags(&records(&entries)), [0, 1, 2], "{operation}");
        if is_ready {
            break;
        }
    }
    assert!(ended.len() > 2, "some of them end in the middle: {ended:?}");
}
