//! Journals that were put back from an older copy: the witness tells, and what came behind the copy is lost for good.

use journal_format::number::Epoch;

use super::damage::{gaps, name, report};
use super::*;
use crate::journal::read::Cause;
use crate::journal::verify::Verdict;

/// On an operator's word.
fn accepted() -> OpenOptions {
    OpenOptions {
        accept_older: true,
        ..options()
    }
}

#[test]
fn an_older_journal_is_refused_by_its_witness() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..1).unwrap();
    drop(log);
    let older = place.journal.copy();
    let mut log = place.begin();
    append(&mut log, 1..2).unwrap();
    drop(log);

    for journal in [older, TestDisk::new("journal")] {
        let place = Place {
            journal,
            run: place.run.copy(),
        };
        let error = place.open().unwrap_err();
        assert!(matches!(error, OpenError::Older(_)), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("run/witness") && text.contains("lsn 6"),
            "{text}"
        );
        // After a reboot nobody knows; an operator may say that it is fine.
        let rebooted = OpenOptions {
            boot: BootId(Id128([9; 16])),
            ..options()
        };
        place.open_with(&rebooted).unwrap();
        let opened = place.open_with(&accepted()).unwrap();
        if !opened.is_new() {
            assert_eq!(opened.opening().epoch, Epoch(4), "no epoch twice");
        }
        begin(opened).unwrap();
        place.open().unwrap();
    }
}

#[test]
fn what_the_next_opening_did_not_find_stays_unseen() {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..1).unwrap();
    let found = place.journal.read(&name(1)).unwrap();
    append(&mut log, 1..2).unwrap();
    drop(log);
    let later = place.journal.read(&name(1)).unwrap();
    // The opening finds one record; afterwards the file holds two again.
    place.journal.put(&name(1), found);
    let opened = place.open_with(&accepted()).unwrap();
    let first = opened.first_lsn();
    let mut log = begin(opened).unwrap();
    append(&mut log, 2..3).unwrap();
    place.journal.put(&name(1), later);
    let entries = place.read();
    // What came back is read, and the others that may have been there are as lost as before.
    let gaps: Vec<_> = gaps(&entries)
        .iter()
        .map(|gap| (gap.first, gap.last))
        .collect();
    assert_eq!(gaps, [(Lsn(5), Lsn(first.0 - 1))]);
    assert_eq!(tags(&records(&entries)), [0, 1, 2]);
    check_lsns_rise(&entries);
}

fn check_lsns_rise(entries: &[Entry]) {
    let lsns: Vec<Lsn> = records(entries).iter().map(|record| record.lsn).collect();
    assert!(lsns.is_sorted_by(|one, next| one < next), "{lsns:?}");
}

/// A journal that ends at LSN 3, put back when so many records had been appended behind its checkpoint; and the last LSN that its
/// witness knows of.
fn put_back(appends: u64) -> (Place, Lsn) {
    let place = Place::new();
    let mut log = place.begin();
    append(&mut log, 0..1).unwrap();
    let journal = place.journal.copy();
    append(&mut log, 1..appends).unwrap();
    let run = place.run;
    (Place { journal, run }, log.position().lsn)
}

fn place_of_copies(place: &Place) -> Place {
    Place {
        journal: place.journal.copy(),
        run: place.run.copy(),
    }
}

/// F25: what came behind the copy is lost for good: for this opening, for one that dies before its checkpoint is whole, and for
/// every reader.
#[test]
fn an_accepted_older_journal_lacks_its_end() {
    let (place, witnessed) = put_back(2_000);
    let accepted = accepted();
    let is_told = |opened: &Resumed| {
        let history = opened.history();
        let Some(Past::Gap(gap)) = history.last() else {
            panic!("{history:?}")
        };
        assert_eq!((gap.first, gap.last), (Lsn(4), witnessed));
        assert_eq!(gap.why, Cause::Older);
        assert_eq!(opened.first_lsn(), witnessed.next().unwrap());
        // The opening of the copy has no records behind it.
        let firsts: Vec<Lsn> = opened.openings().iter().map(|one| one.first).collect();
        assert_eq!(firsts, [Lsn(1), Lsn(4)]);
        let epochs: Vec<Epoch> = opened.openings().iter().map(|one| one.epoch).collect();
        assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
        assert!(*epochs.last().unwrap() < opened.opening().epoch);
    };
    let opened = place.open_with(&accepted).unwrap();
    is_told(&opened);
    // The next one takes the place of one that died.
    let died = place_of_copies(&place);
    let mut log = begin(opened).unwrap();
    append(&mut log, 0..1).unwrap();
    drop(log);
    let bytes = place.journal.read(&name(2)).unwrap();
    let mut header = bytes[..4096].to_vec();
    header.resize(bytes.len() - 4096, 0);
    header.extend(&bytes[bytes.len() - 4096..]);
    died.journal.put(&name(2), header);
    // Nothing of the word that it was opened on is left: it is asked for again.
    assert!(matches!(died.open(), Err(OpenError::Older(_))));
    let rebooted = OpenOptions {
        boot: BootId(Id128([9; 16])),
        ..options()
    };
    is_told(&died.open_with(&rebooted).unwrap());
    let again = died.open_with(&accepted).unwrap();
    let told: Vec<_> = again.history().iter().rev().take(2).collect();
    assert!(
        told.iter().all(|past| matches!(past, Past::Gap(_))),
        "{told:?}"
    );
    assert!(again.first_lsn() > witnessed);

    let entries = place.read();
    let found: Vec<_> = gaps(&entries)
        .into_iter()
        .map(|gap| (gap.last, gap.why))
        .collect();
    assert_eq!(found, [(witnessed, Cause::Older)]);
    assert_eq!(tags(&records(&entries)), [0, 0]);
    assert_eq!(report(&place).verdict(), Verdict::Damaged);
    // Known from here on: the checkpoint has it.
    assert!(
        !place
            .open()
            .unwrap()
            .history()
            .iter()
            .any(|past| matches!(past, Past::Gap(_)))
    );
}

/// How many records came behind it the copy's witness does not always tell.
#[test]
fn an_accepted_older_journal_may_lack_more_than_its_witness_tells() {
    let (place, _) = put_back(2);
    let opened = place.open_with(&accepted()).unwrap();
    assert_eq!(opened.first_lsn(), Lsn(4 + 1024));
}

#[test]
fn a_damaged_witness_is_an_error() {
    let place = Place::new();
    place.begin();
    place.run.put(witness::WITNESS_NAME, vec![1; 40]);
    let error = place.open().unwrap_err();
    assert!(matches!(error, OpenError::Witness(_)));
    assert!(
        error.to_string().contains("run/witness is damaged"),
        "{error}"
    );
    let opened = place.open_with(&accepted()).unwrap();
    // What it would have told of may be missing.
    assert!(matches!(opened.history().last(), Some(Past::Gap(_))));
    begin(opened).unwrap();
    place.open().unwrap();
}
