//! Judges a guest by what it printed: ran once, without a gap, without a restart, memory whole.
//!
//! Invariant: a verdict rests on the serial logs alone, each written by the one QEMU that owns it, so
//! that neither the sidecars nor QEMU's own account of itself is believed.
//!
//! A log may end within a line, when the guest was switched over while it printed: the next
//! instance then goes on with the next byte. So the logs are joined byte by byte in the order of
//! the instances; a number belongs to the instance that ended its line.
//!
//! Not here: how the logs come about, and whether an instance *should* run.

use std::collections::BTreeMap;
use std::fmt;

const BOOT: &str = "boot";
const MEMORY_LOST: &str = "memory lost";
const NUMBER_DIGITS: usize = 8;

/// What one QEMU's guest printed, in bytes as they are in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLog {
    /// Name of the instance, for the verdict.
    pub instance: String,
    /// The serial log.
    pub bytes: Vec<u8>,
}

/// What the logs of all instances of one guest prove together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One guest counted from 1 on, each number once.
    Clean {
        /// Last whole number printed; 0 if it only booted.
        last: u32,
        /// For each instance that ended a line: name, first and last number.
        ran: Vec<(String, u32, u32)>,
    },
    /// No instance printed a first line.
    NeverBooted,
    /// An instance started from nothing although the guest was running already.
    Restarted {
        /// The instance.
        instance: String,
        /// The last number before, of any instance.
        after: u32,
    },
    /// Two instances printed the same number: two copies executed.
    RanTwice {
        /// Lowest number printed by both.
        number: u32,
        /// The instance that came first in order.
        first: String,
        /// The other one.
        second: String,
        /// How many numbers more than one instance printed.
        shared: usize,
    },
    /// An instance ended within a line that no later one completed: it printed bytes after its
    /// memory was taken, or the later one lost some.
    TornSeam {
        /// The instance that ended within a line.
        earlier: String,
        /// Its last bytes.
        tail: String,
        /// The next instance that printed.
        later: String,
        /// Its first line.
        head: String,
    },
    /// A page of the guest did not hold what it had written there.
    MemoryLost {
        /// The instance.
        instance: String,
        /// The last number before.
        after: u32,
    },
    /// One instance printed a number again.
    Repeated {
        /// The instance.
        instance: String,
        /// The number.
        number: u32,
        /// The number that had to come.
        expected: u32,
    },
    /// Numbers are missing.
    Gap {
        /// The instance that printed the number after the gap.
        instance: String,
        /// The number that had to come.
        expected: u32,
        /// The number that came.
        found: u32,
    },
    /// A line is nothing that the guest prints.
    Unreadable {
        /// The instance.
        instance: String,
        /// The line.
        line: String,
    },
}

impl Verdict {
    /// Whether the guest ran once and whole.
    pub fn is_clean(&self) -> bool {
        matches!(self, Verdict::Clean { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Clean { last, ran } => {
                write!(f, "clean: counted to {last}")?;
                for (index, (instance, first, last)) in ran.iter().enumerate() {
                    let before = if index == 0 { " (" } else { ", " };
                    write!(f, "{before}{instance} {first} to {last}")?;
                }
                if ran.is_empty() {
                    Ok(())
                } else {
                    write!(f, ")")
                }
            }
            Verdict::NeverBooted => write!(f, "never booted: no instance printed its first line"),
            Verdict::Restarted { instance, after } => {
                write!(f, "restarted: {instance} booted anew after {after}")
            }
            Verdict::RanTwice {
                number,
                first,
                second,
                shared,
            } => write!(
                f,
                "ran twice: {first} and {second} both printed {number} ({shared} numbers shared)"
            ),
            Verdict::TornSeam {
                earlier,
                tail,
                later,
                head,
            } => write!(
                f,
                "torn seam: {earlier} ended with \"{tail}\", {later} went on with \"{head}\""
            ),
            Verdict::MemoryLost { instance, after } => {
                write!(
                    f,
                    "memory lost: {instance} found a page changed after {after}"
                )
            }
            Verdict::Repeated {
                instance,
                number,
                expected,
            } => {
                write!(
                    f,
                    "repeated: {instance} printed {number} again in place of {expected}"
                )
            }
            Verdict::Gap {
                instance,
                expected,
                found,
            } => {
                write!(f, "gap: {instance} printed {found} in place of {expected}")
            }
            Verdict::Unreadable { instance, line } => {
                write!(f, "unreadable: {instance} printed \"{line}\"")
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Boot,
    Number(u32),
    MemoryLost,
}

/// A whole line and the index of the instance that ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Printed {
    instance: usize,
    line: Line,
}

/// Judges the logs of all instances of one guest, in the order in which they were to run it.
///
/// Of several faults the one that explains most is returned: a restart repeats numbers, a second
/// copy may print half lines.
pub fn judge(logs: &[GuestLog]) -> Verdict {
    let (printed, torn) = join(logs);
    let faults = [restarted(logs, &printed), ran_twice(logs, &printed), torn];
    if let Some(fault) = faults.into_iter().flatten().next() {
        return fault;
    }
    if printed.is_empty() {
        return Verdict::NeverBooted;
    }
    count(logs, &printed)
}

/// Last whole number in one log, 0 if there is none.
pub fn last_number(bytes: &[u8]) -> u32 {
    let whole = bytes.rsplit(|&byte| byte == b'\n').skip(1);
    whole
        .filter_map(read_line)
        .find_map(Line::number)
        .unwrap_or(0)
}

impl Line {
    fn number(self) -> Option<u32> {
        match self {
            Line::Number(number) => Some(number),
            Line::Boot | Line::MemoryLost => None,
        }
    }
}

/// Every whole line in order, and the first place where the logs do not fit together.
fn join(logs: &[GuestLog]) -> (Vec<Printed>, Option<Verdict>) {
    let mut printed = Vec::new();
    let mut fault = None;
    // The unfinished line so far, and who wrote the end of it.
    let (mut open, mut opener) = (Vec::new(), 0);
    for (instance, log) in logs.iter().enumerate() {
        for piece in log.bytes.split_inclusive(|&byte| byte == b'\n') {
            let Some(end) = piece.strip_suffix(b"\n") else {
                open.extend_from_slice(piece);
                opener = instance;
                continue;
            };
            let whole = [open.as_slice(), end].concat();
            let tail = std::mem::take(&mut open);
            let line = read_line(&whole).or_else(|| {
                fault.get_or_insert_with(|| misfit(logs, opener, &tail, instance, end));
                // What it printed itself may still show that it ran twice.
                read_line(end)
            });
            printed.extend(line.map(|line| Printed { instance, line }));
        }
    }
    if !can_begin_line(&open) {
        fault.get_or_insert_with(|| unreadable(&logs[opener], &open));
    }
    (printed, fault)
}

fn misfit(logs: &[GuestLog], opener: usize, tail: &[u8], instance: usize, end: &[u8]) -> Verdict {
    if tail.is_empty() || opener == instance {
        return unreadable(&logs[instance], end);
    }
    Verdict::TornSeam {
        earlier: logs[opener].instance.clone(),
        tail: text(tail),
        later: logs[instance].instance.clone(),
        head: text(end),
    }
}

fn unreadable(log: &GuestLog, line: &[u8]) -> Verdict {
    Verdict::Unreadable {
        instance: log.instance.clone(),
        line: text(line),
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn read_line(line: &[u8]) -> Option<Line> {
    let line = std::str::from_utf8(line).ok()?;
    match line {
        BOOT => Some(Line::Boot),
        MEMORY_LOST => Some(Line::MemoryLost),
        _ if line.len() == NUMBER_DIGITS && line.bytes().all(is_digit) => {
            u32::from_str_radix(line, 16).ok().map(Line::Number)
        }
        _ => None,
    }
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'F')
}

fn can_begin_line(bytes: &[u8]) -> bool {
    (bytes.len() <= NUMBER_DIGITS && bytes.iter().all(|&byte| is_digit(byte)))
        || [BOOT, MEMORY_LOST]
            .iter()
            .any(|word| word.as_bytes().starts_with(bytes))
}

fn restarted(logs: &[GuestLog], printed: &[Printed]) -> Option<Verdict> {
    let again = |(at, printed): &(usize, &Printed)| *at > 0 && printed.line == Line::Boot;
    let (at, boot) = printed.iter().enumerate().find(again)?;
    let after = printed[..at]
        .iter()
        .rev()
        .find_map(|printed| printed.line.number());
    let instance = logs[boot.instance].instance.clone();
    Some(Verdict::Restarted {
        instance,
        after: after.unwrap_or(0),
    })
}

fn ran_twice(logs: &[GuestLog], printed: &[Printed]) -> Option<Verdict> {
    let mut first_by: BTreeMap<u32, usize> = BTreeMap::new();
    let mut shared: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for &Printed { instance, line } in printed {
        let Some(number) = line.number() else {
            continue;
        };
        let first = *first_by.entry(number).or_insert(instance);
        if first != instance {
            shared.entry(number).or_insert((first, instance));
        }
    }
    let (&number, &(first, second)) = shared.first_key_value()?;
    Some(Verdict::RanTwice {
        number,
        first: logs[first].instance.clone(),
        second: logs[second].instance.clone(),
        shared: shared.len(),
    })
}

/// The joined lines must be `boot`, then 1, 2, 3 and so on.
fn count(logs: &[GuestLog], printed: &[Printed]) -> Verdict {
    let mut last = 0;
    let mut ran: Vec<(usize, u32, u32)> = Vec::new();
    for (at, &Printed { instance, line }) in printed.iter().enumerate() {
        let name = || logs[instance].instance.clone();
        let number = match line {
            Line::MemoryLost => {
                return Verdict::MemoryLost {
                    instance: name(),
                    after: last,
                };
            }
            Line::Boot => continue,
            Line::Number(_) if at == 0 => return Verdict::NeverBooted,
            Line::Number(number) => number,
        };
        let expected = last + 1;
        if number > expected {
            return Verdict::Gap {
                instance: name(),
                expected,
                found: number,
            };
        }
        if number < expected {
            return Verdict::Repeated {
                instance: name(),
                number,
                expected,
            };
        }
        last = number;
        match ran.last_mut() {
            Some((same, _, until)) if *same == instance => *until = number,
            Some(_) | None => ran.push((instance, number, number)),
        }
    }
    let named =
        |(instance, first, last): (usize, u32, u32)| (logs[instance].instance.clone(), first, last);
    Verdict::Clean {
        last,
        ran: ran.into_iter().map(named).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges logs written as texts, of instances named q0, q1 and so on, and compares the Display.
    fn check(logs: &[&str], verdict: &str) {
        let logs: Vec<GuestLog> = logs
            .iter()
            .enumerate()
            .map(|(index, text)| GuestLog {
                instance: format!("q{index}"),
                bytes: text.as_bytes().to_vec(),
            })
            .collect();
        assert_eq!(judge(&logs).to_string(), verdict);
    }

    /// Lines of the guest from one number to another.
    fn lines(from: u32, to: u32) -> String {
        (from..=to)
            .map(|number| format!("{number:08X}\n"))
            .collect()
    }

    fn booted(to: u32) -> String {
        format!("boot\n{}", lines(1, to))
    }

    #[test]
    fn clean_wherever_the_switch_fell() {
        check(&[&booted(12)], "clean: counted to 12 (q0 1 to 12)");
        check(&["boot\n"], "clean: counted to 0");
        let whole = booted(20) + &lines(21, 40);
        for at in 0..=whole.len() {
            let (head, tail) = whole.split_at(at);
            let logs = [head, tail].map(|text| text.as_bytes().to_vec());
            let name = |index: usize| format!("q{index}");
            let log = |index: usize| GuestLog {
                instance: name(index),
                bytes: logs[index].clone(),
            };
            let verdict = judge(&[log(0), log(1)]);
            assert!(
                matches!(verdict, Verdict::Clean { last: 40, .. }),
                "at {at}: {verdict}"
            );
        }
    }

    #[test]
    fn clean_over_three_instances_and_silent_ones() {
        check(
            &[
                &(booted(5) + "0000"),
                "",
                &("0006\n".to_owned() + &lines(7, 9) + "00"),
                "",
                "0",
            ],
            "clean: counted to 9 (q0 1 to 5, q2 6 to 9)",
        );
        check(&["", &booted(3)], "clean: counted to 3 (q1 1 to 3)");
        check(
            &[&(booted(3) + "0000"), "00", "04\n"],
            "clean: counted to 4 (q0 1 to 3, q2 4 to 4)",
        );
    }

    #[test]
    fn a_number_of_two_instances_is_two_copies() {
        check(
            &[&booted(9), &lines(8, 12)],
            "ran twice: q0 and q1 both printed 8 (2 numbers shared)",
        );
        // The third went back to the memory of the first, as a source that was resumed too late.
        check(
            &[&booted(9), &lines(10, 20), &lines(10, 11)],
            "ran twice: q1 and q2 both printed 10 (2 numbers shared)",
        );
        // The half line of the first hides nothing.
        check(
            &[&(booted(9) + "0000"), &lines(9, 12)],
            "ran twice: q0 and q1 both printed 9 (1 numbers shared)",
        );
    }

    #[test]
    fn a_byte_printed_by_both_or_by_none_is_a_torn_seam() {
        check(
            &[&(booted(9) + "0000"), "00A\n"],
            "torn seam: q0 ended with \"0000\", q1 went on with \"00A\"",
        );
        check(
            &[&(booted(9) + "0000"), "0000A\n"],
            "torn seam: q0 ended with \"0000\", q1 went on with \"0000A\"",
        );
        check(
            &[&(booted(9) + "0000000A"), &lines(10, 11)],
            "torn seam: q0 ended with \"0000000A\", q1 went on with \"0000000A\"",
        );
    }

    #[test]
    fn a_second_boot_is_a_restart_in_either_instance() {
        check(
            &[&booted(9), &booted(3)],
            "restarted: q1 booted anew after 9",
        );
        check(
            &[&(booted(9) + &booted(20))],
            "restarted: q0 booted anew after 9",
        );
    }

    #[test]
    fn gaps_and_repeats() {
        check(&["boot\n00000002\n"], "gap: q0 printed 2 in place of 1");
        check(
            &[&booted(9), &lines(12, 13)],
            "gap: q1 printed 12 in place of 10",
        );
        check(
            &[&(booted(9) + &lines(9, 9))],
            "repeated: q0 printed 9 again in place of 10",
        );
    }

    #[test]
    fn lost_memory_and_foreign_text() {
        check(
            &[&booted(9), &(lines(10, 11) + "memory lost\n")],
            "memory lost: q1 found a page changed after 11",
        );
        check(
            &[&(booted(2) + "0000000g\n")],
            "unreadable: q0 printed \"0000000g\"",
        );
        check(
            &[&(booted(2) + "0000000a\n")],
            "unreadable: q0 printed \"0000000a\"",
        );
        check(&[&(booted(2) + "\n")], "unreadable: q0 printed \"\"");
        check(
            &[&(booted(2) + "000000003")],
            "unreadable: q0 printed \"000000003\"",
        );
        check(
            &[&(booted(2) + "memory l")],
            "clean: counted to 2 (q0 1 to 2)",
        );
    }

    #[test]
    fn nothing_is_no_guest() {
        check(&[], "never booted: no instance printed its first line");
        check(
            &["", "bo"],
            "never booted: no instance printed its first line",
        );
        check(
            &[&lines(1, 9)],
            "never booted: no instance printed its first line",
        );
    }

    #[test]
    fn the_last_whole_number_of_a_log() {
        assert_eq!(last_number(booted(300).as_bytes()), 300);
        assert_eq!(last_number((booted(300) + "00000").as_bytes()), 300);
        assert_eq!(last_number(b"boot\n"), 0);
        assert_eq!(last_number(b""), 0);
    }
}
