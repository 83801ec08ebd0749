//! Where a run takes place: what every output must say, and what a process has used so far.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::Failure;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// The kernel's version.
#[must_use]
pub fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// How many CPUs this process may use.
#[must_use]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What kind of CPU they are.
#[must_use]
pub fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    model.unwrap_or_else(|| "unknown".to_owned())
}

/// Today, in UTC, such as `2026-08-02`.
#[must_use]
pub fn date() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    date_of_day(seconds / DAY_SECONDS)
}

/// The date of a day counted from 1970-01-01, by the rules of the Gregorian calendar.
fn date_of_day(days: u64) -> String {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

/// The type of the file system that a directory is on, such as `ext4`.
///
/// # Errors
/// The system's.
pub fn file_system(directory: &Path) -> Result<String, Failure> {
    let directory = fs::canonicalize(directory).map_err(Failure::io("find", directory))?;
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(Failure::io("read", table))?;
    Ok(type_of_mount(&text, &directory).unwrap_or_else(|| "unknown".to_owned()))
}

/// The type of the innermost mount over a directory; of two mounts over the same one, the later.
fn type_of_mount(table: &str, directory: &Path) -> Option<String> {
    let mounts = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = PathBuf::from(before.split(' ').nth(4)?.replace("\\040", " "));
        let kind = after.split(' ').next()?;
        directory
            .starts_with(&point)
            .then(|| (point.components().count(), kind.to_owned()))
    });
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// A figure of `/proc/self/status` that is given in kB, such as `VmRSS`, in bytes.
#[must_use]
pub fn memory(figure: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&text, figure) * 1024
}

/// Bytes that this process has read through the system so far, from files or from the page cache.
#[must_use]
pub fn bytes_read() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    field(&text, "rchar")
}

fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field == name).then(|| value.trim().trim_end_matches(" kB").parse().ok())?
    });
    value.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let dates = [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (364, "1970-12-31"),
            (11_016, "2000-02-29"),
            (20_666, "2026-08-01"),
        ];
        for (days, date) in dates {
            assert_eq!(date_of_day(days), date);
        }
    }

    #[test]
    fn the_innermost_and_last_mount_counts() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                     2 1 8:2 / /data rw shared:1 - xfs /dev/b rw\n\
                     3 1 0:9 / /data\\040two rw - tmpfs none rw\n\
                     4 1 0:9 / /data rw - btrfs none rw\n";
        let kind = |path: &str| type_of_mount(table, Path::new(path)).unwrap();
        assert_eq!(kind("/home"), "ext4");
        assert_eq!(kind("/data/x"), "btrfs");
        assert_eq!(kind("/data two/x"), "tmpfs");
        assert_eq!(kind("/database"), "ext4");
    }

    #[test]
    fn a_process_knows_what_it_used() {
        assert!(memory("VmRSS") > 0);
        assert!(memory("VmHWM") >= memory("VmRSS"));
        let before = bytes_read();
        let text = fs::read("/proc/self/maps").unwrap();
        assert!(bytes_read() >= before + text.len() as u64);
    }
}
