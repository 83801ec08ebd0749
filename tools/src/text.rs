//! Numbers and times for people.

/// Nanoseconds since 1970 as a time in UTC, to the microsecond: `2026-11-23 08:15:02.123456`.
pub(crate) fn time(nanoseconds: u64) -> String {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let micros = rest / 1000;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}")
}

/// Days since 1970 as year, month and day of the Gregorian calendar, counted in eras of 400 years
/// that begin on 1 March.
pub(crate) fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let of_era_year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_era_year + of_era_year / 4 - of_era_year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = of_era_year + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// A number of bytes: `513 B`, `1.2 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, so that no floating point is needed.
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Bytes as hexadecimal digits, two each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digit = |nibble: u8| DIGITS[usize::from(nibble & 0xf)];
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}

/// One line of nothing but visible characters: names and messages come from outside, and a terminal
/// obeys what it is shown.
pub(crate) fn plain(text: &str) -> String {
    // Nearly every line.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if is_obeyed(character) {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// Does a terminal do something else with it than show it? Control characters, and those that turn the
/// direction of what follows.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value as one line of JSON, without a character that a terminal would obey: JSON itself escapes only
/// those below the space.
pub(crate) fn json_line(value: &serde_json::Value) -> String {
    let line = value.to_string();
    if !line.contains(is_obeyed) {
        return line;
    }
    let mut escaped = String::with_capacity(line.len());
    for character in line.chars() {
        if is_obeyed(character) {
            // All of them lie within the first plane, and within strings.
            escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// One or many: `1 record`, `2 records`.
pub(crate) fn count(number: u64, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time(0), "1970-01-01 00:00:00.000000");
        assert_eq!(time(951_782_400_000_001_999), "2000-02-29 00:00:00.000001");
        assert_eq!(
            time(1_795_421_702_123_456_789),
            "2026-11-23 08:15:02.123456"
        );
        assert_eq!(
            time(4_107_542_400_000_000_000),
            "2100-03-01 00:00:00.000000"
        );
    }

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(plain("d\u{e4}mon 1"), "d\u{e4}mon 1");
        assert_eq!(
            plain("a\nb\u{1b}[31m\u{9b}c\0"),
            "a\\nb\\u{1b}[31m\\u{9b}c\\u{0}"
        );
    }

    #[test]
    fn json_is_shown_and_not_obeyed() {
        let value = serde_json::json!({"a\u{9b}31m": "\u{1b}[31m\u{202e}\u{7f}\u{e4}\n"});
        let line = json_line(&value);
        assert_eq!(
            line,
            "{\"a\\u009b31m\":\"\\u001b[31m\\u202e\\u007f\u{e4}\\n\"}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).unwrap(),
            value
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(1_258_291), "1.1 MiB");
        assert_eq!(size(5 << 40), "5.0 TiB");
    }
}
