//! The fake disk loses what a real one may lose, and nothing else.

use super::page::PAGE;
use super::*;

fn disk() -> SimDisk {
    let disk = SimDisk::new("sim", Random::new(1));
    disk.make_directory().unwrap();
    disk
}

/// A durable file of two pages of ones.
fn ones(disk: &SimDisk) -> SimFile {
    let file = disk.create("0000000000000001.seg").unwrap();
    disk.write_at(&file, 0, &[1; 2 * PAGE]).unwrap();
    disk.sync(&file).unwrap();
    disk.sync_directory().unwrap();
    file
}

fn read(disk: &SimDisk) -> Vec<u8> {
    disk.files()[0].1.clone()
}

#[test]
fn power_leaves_some_sectors_of_what_was_not_synced() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let disk = SimDisk::new("sim", Random::new(seed));
        disk.make_directory().unwrap();
        let file = ones(&disk);
        disk.write_at(&file, 0, &[2; PAGE]).unwrap();
        disk.create("b").unwrap();
        assert!(!disk.restart(Survival::Some));
        assert!(disk.length(&file).is_err(), "a file of the ended process");
        let bytes = read(&disk);
        seen.insert((bytes[0], bytes[SECTOR], disk.files().len()));
        assert_eq!(bytes[PAGE..], [1; PAGE]);
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[test]
fn the_end_of_the_process_takes_nothing() {
    let disk = disk();
    let file = ones(&disk);
    disk.write_at(&file, 3, &[2]).unwrap();
    disk.restart(Survival::Everything);
    assert_eq!(read(&disk)[2..5], [1, 2, 1]);
}

#[test]
fn faults_come_at_their_batch() {
    use BatchFault::{CrashAfter, CrashBefore, Lost, Misdirected, ShortWrite, SyncFails};
    for (fault, written, fails) in [
        (CrashBefore, false, true),
        (CrashAfter, true, true),
        (ShortWrite, false, false),
        (SyncFails, false, true),
        (Lost, false, false),
        (Misdirected, false, false),
    ] {
        let disk = disk();
        let file = ones(&disk);
        disk.plan(1, fault);
        let block = [3; PAGE];
        assert_eq!(disk.write_through(&file, 0, &block).unwrap(), PAGE);
        let result = disk.write_through(&file, PAGE as u64, &block);
        assert_eq!(result.is_err(), fails, "{fault:?}");
        let lied = disk.lies();
        assert_eq!(lied > 0, matches!(fault, Lost | Misdirected), "{fault:?}");
        disk.restart(Survival::Some);
        let is_there = read(&disk)[PAGE..] == block;
        // Where a misdirected write went is drawn.
        assert!(is_there == written || fault == Misdirected, "{fault:?}");
        assert_eq!(read(&disk)[..PAGE], block, "{fault:?}");
    }
}

#[test]
fn a_lying_sync_is_found_out_by_the_power() {
    let disk = disk();
    let file = ones(&disk);
    disk.set_lying(true);
    disk.write_through(&file, 0, &[3; PAGE]).unwrap();
    assert_eq!(read(&disk)[..PAGE], [3; PAGE]);
    assert!(disk.restart(Survival::Some));
    assert_ne!(read(&disk)[..PAGE], [3; PAGE], "drawn with this seed");
}

#[test]
fn rot_full_backup() {
    let disk = disk();
    let file = ones(&disk);
    let before = disk.backup();
    assert!(disk.rot());
    let flipped = read(&disk).iter().filter(|byte| **byte != 1).count();
    assert_eq!((flipped, disk.lies()), (1, 1));
    disk.limit(Some(PAGE as u64));
    disk.write_at(&file, 2 * PAGE as u64, &[1; PAGE]).unwrap();
    let full = disk.write_at(&file, 3 * PAGE as u64, &[1]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(ENOSPC));
    disk.restore(&before);
    assert_eq!(read(&disk), [1; 2 * PAGE]);
    disk.erase();
    assert_eq!(disk.list().unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_lock_goes_with_its_holder() {
    let disk = disk();
    let first = disk.open_or_create("lock").unwrap();
    let second = disk.open_or_create("lock").unwrap();
    assert!(disk.try_lock(&first).unwrap());
    assert!(!disk.try_lock(&second).unwrap());
    drop(first);
    assert!(disk.try_lock(&second).unwrap());
}
