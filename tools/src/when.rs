//! Points in time as journalctl takes them: `2 hours ago`, `yesterday`, `2026-11-29 17:30`, `@1767323045`.
//!
//! Invariant: total over any text; everything is UTC, as all times that this program prints.
//! Not here: how a time is printed (`text`).

use crate::text::civil;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;

/// What `--since` and `--until` take, for their help.
pub(crate) const FORMS: &str = "'YYYY-MM-DD HH:MM[:SS]', 'YYYY-MM-DD', 'HH:MM[:SS]', 'now', 'today', \
     'yesterday', 'tomorrow', '2 hours ago', '-15min', '+1h' or '@SECONDS-SINCE-1970', all in UTC";

/// The time that a text means, in nanoseconds since 1970. `now` is the present.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub(crate) fn parse(text: &str, now: u64) -> Result<u64, String> {
    point(text.trim(), now).ok_or_else(|| format!("'{text}' is no time; there are {FORMS}"))
}

fn point(text: &str, now: u64) -> Option<u64> {
    let midnight = now - now % DAY;
    match text {
        "now" => return Some(now),
        "today" => return Some(midnight),
        "yesterday" => return midnight.checked_sub(DAY),
        "tomorrow" => return midnight.checked_add(DAY),
        _ => {}
    }
    if let Some(seconds) = text.strip_prefix('@') {
        return decimal(seconds, SECOND);
    }
    if let Some(span) = text.strip_suffix("ago") {
        return now.checked_sub(duration(span)?);
    }
    if let Some(span) = text.strip_prefix('-') {
        return now.checked_sub(duration(span)?);
    }
    if let Some(span) = text.strip_prefix('+') {
        return now.checked_add(duration(span)?);
    }
    let text = text.strip_suffix("UTC").map_or(text, str::trim_end);
    let text = text.strip_suffix('Z').unwrap_or(text);
    match text.split_once([' ', 'T']) {
        Some((date, time)) => midnight_of(date)?.checked_add(of_day(time.trim_start())?),
        None => match text.contains(':') {
            true => midnight.checked_add(of_day(text)?),
            false => midnight_of(text),
        },
    }
}

/// `1h 30min`, `2 days`: numbers, each with a unit as systemd.time(7) has them.
fn duration(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let behind = behind.trim_start();
        let end = behind.find(|c: char| !c.is_ascii_alphabetic());
        let (name, behind) = behind.split_at(end.unwrap_or(behind.len()));
        sum = sum.checked_add(decimal(number, unit(name)?)?)?;
        rest = behind.trim_start();
    }
    Some(sum)
}

fn unit(name: &str) -> Option<u64> {
    Some(match name {
        "us" | "usec" => SECOND / 1_000_000,
        "ms" | "msec" => SECOND / 1000,
        "s" | "sec" | "second" | "seconds" => SECOND,
        "m" | "min" | "minute" | "minutes" => 60 * SECOND,
        "h" | "hr" | "hour" | "hours" => 3600 * SECOND,
        "d" | "day" | "days" => DAY,
        "w" | "week" | "weeks" => 7 * DAY,
        // As systemd counts them: 30.44 and 365.25 days.
        "M" | "month" | "months" => 2_629_800 * SECOND,
        "y" | "year" | "years" => 31_557_600 * SECOND,
        _ => return None,
    })
}

/// A decimal number of units; digits beyond the nanosecond are dropped.
fn decimal(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|d| d.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let mut sum = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        sum = sum.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some(sum)
}

/// `HH:MM` or `HH:MM:SS` with a fraction, as nanoseconds of a day.
fn of_day(text: &str) -> Option<u64> {
    let mut parts = text.split(':');
    let hour = two_digits(parts.next()?).filter(|hour| *hour < 24)?;
    let minute = two_digits(parts.next()?).filter(|minute| *minute < 60)?;
    let seconds = match parts.next() {
        None => 0,
        Some(seconds) => decimal(seconds, SECOND).filter(|seconds| *seconds < 60 * SECOND)?,
    };
    match parts.next() {
        None => Some((hour * 60 + minute) * 60 * SECOND + seconds),
        Some(_) => None,
    }
}

fn two_digits(text: &str) -> Option<u64> {
    let is_short = (1..=2).contains(&text.len()) && text.bytes().all(|d| d.is_ascii_digit());
    is_short.then(|| text.parse().ok()).flatten()
}

/// Midnight of `YYYY-MM-DD`.
fn midnight_of(text: &str) -> Option<u64> {
    let mut parts = text.split('-');
    let year = parts.next().filter(|year| year.len() == 4)?;
    let year: u64 = decimal(year, 1)?;
    let (month, day) = (two_digits(parts.next()?)?, two_digits(parts.next()?)?);
    if parts.next().is_some() || year < 1970 {
        return None;
    }
    // The calendar is asked, so that there is one in this program: near the day, by its average.
    let guess = (year - 1970) * 365 + (year - 1969) / 4 + (month.max(1) - 1) * 30;
    (guess..guess + 50)
        .map(|days| days.saturating_sub(5))
        .find(|days| civil(*days) == (year, month, day))
        .and_then(|days| days.checked_mul(DAY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::time;

    /// 2026-11-29 17:30:45.5 UTC.
    const NOW: u64 = 1_795_973_445_500_000_000;

    fn shown(text: &str) -> String {
        parse(text, NOW).map_or_else(|why| why, time)
    }

    #[test]
    fn times() {
        for (text, means) in [
            ("now", "2026-11-29 17:30:45.500000"),
            ("today", "2026-11-29 00:00:00.000000"),
            ("yesterday", "2026-11-28 00:00:00.000000"),
            ("tomorrow", "2026-11-30 00:00:00.000000"),
            ("2 hours ago", "2026-11-29 15:30:45.500000"),
            ("1h 30min ago", "2026-11-29 16:00:45.500000"),
            ("-15min", "2026-11-29 17:15:45.500000"),
            ("- 2 days", "2026-11-27 17:30:45.500000"),
            ("+1.5s", "2026-11-29 17:30:47.000000"),
            ("2026-01-02 03:04", "2026-01-02 03:04:00.000000"),
            ("2026-01-02T03:04:05.25Z", "2026-01-02 03:04:05.250000"),
            ("2026-01-02 03:04:05 UTC", "2026-01-02 03:04:05.000000"),
            ("2024-02-29", "2024-02-29 00:00:00.000000"),
            ("2000-12-31", "2000-12-31 00:00:00.000000"),
            ("1970-01-01", "1970-01-01 00:00:00.000000"),
            ("2026-03-01", "2026-03-01 00:00:00.000000"),
            ("03:04", "2026-11-29 03:04:00.000000"),
            ("@0", "1970-01-01 00:00:00.000000"),
            ("@1767323045.5", "2026-01-02 03:04:05.500000"),
        ] {
            assert_eq!(shown(text), means, "{text}");
        }
    }

    #[test]
    fn every_day_of_a_century_is_found() {
        for days in 0..36_525 {
            let (year, month, day) = civil(days);
            let text = format!("{year:04}-{month:02}-{day:02}");
            assert_eq!(parse(&text, NOW), Ok(days * DAY), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "ago",
            "-",
            "@",
            "@x",
            "@-1",
            "2 ago",
            "two hours ago",
            "2 parsecs ago",
            "2026-02-29",
            "2026-13-01",
            "2026-00-10",
            "1969-12-31",
            "26-01-01",
            "2026-01-02 24:00",
            "03:60",
            "3:4:5:6",
            "99999999999999999999 years ago",
            "9999999 years ago",
            "@99999999999999",
            "2026-01-02 x",
            "1h-2h",
            "\u{1b}[31m",
            "2026-01-02 03:04:05 CET",
        ] {
            let why = parse(text, NOW).unwrap_err();
            assert!(why.contains("is no time"), "{text}: {why}");
        }
    }
}
