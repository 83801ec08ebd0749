//! Clocks of several hosts brought together by what their journals saw of each other.
//!
//! A record that cites a position of the other side's journal was written after all records up to there
//! were durable: so much the other clock may be ahead at the most. Words in both directions bound the
//! difference from both sides, as a round trip does for NTP.
//! Invariant: a clock that agrees with the words is left as it is; how each was aligned is said.
//! Not here: what is drawn.

use journal_format::number::Lsn;

use super::load::cited;
use super::model::{Moment, Story, span};

/// What may be added to one clock so that no word is heard before it was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    low: Option<i64>,
    high: Option<i64>,
}

/// Aligns each journal with those before it, the first one being right.
pub(crate) fn align(story: &mut Story) {
    let mut aligned: Vec<usize> = vec![0];
    let mut rest: Vec<usize> = (1..story.books.len()).collect();
    if let Some(first) = story.books.first_mut() {
        first.aligned = "its clock is the one that is shown".to_owned();
    }
    let words = words(story);
    while !rest.is_empty() {
        // One that words connect with what is aligned already, if there is any.
        let at = rest.iter().position(|book| {
            same_clock(story, &aligned, *book).is_some()
                || bounds(story, &words, &aligned, *book)
                    != Bounds {
                        low: None,
                        high: None,
                    }
        });
        let book = rest.remove(at.unwrap_or(0));
        let (shift, uncertain, said) = match same_clock(story, &aligned, book) {
            Some(other) => {
                let of = &story.books[other];
                (
                    of.shift,
                    of.uncertain,
                    format!("the same host as {}", of.label),
                )
            }
            None => choose(bounds(story, &words, &aligned, book)),
        };
        let book_at = &mut story.books[book];
        (book_at.shift, book_at.uncertain, book_at.aligned) = (shift, uncertain, said);
        aligned.push(book);
    }
}

/// A journal of the same host: it had the same clock.
fn same_clock(story: &Story, aligned: &[usize], book: usize) -> Option<usize> {
    let host = story.books[book].host?;
    aligned
        .iter()
        .copied()
        .find(|other| story.books[*other].host == Some(host))
}

/// What one journal heard of another: by its clock, and when by the other's it had been said.
struct Word {
    said_in: usize,
    said: u64,
    heard_in: usize,
    heard: u64,
}

fn words(story: &Story) -> Vec<Word> {
    let mut records: Vec<Vec<(Lsn, u64)>> = vec![Vec::new(); story.books.len()];
    for moment in &story.moments {
        records[moment.book].push((moment.lsn, moment.at));
    }
    let word = |moment: &Moment| {
        let position = cited(moment.body.as_ref()?)?;
        let mut books = story.books.iter();
        let said_in = books.position(|book| book.journal == Some(position.journal))?;
        // Only records of jobs are kept; the last one at or before it was there no later.
        let known = &records[said_in];
        let before = known
            .partition_point(|(lsn, _)| *lsn <= position.lsn)
            .checked_sub(1)?;
        (said_in != moment.book).then_some(Word {
            said_in,
            said: known[before].1,
            heard_in: moment.book,
            heard: moment.at,
        })
    };
    story.moments.iter().filter_map(word).collect()
}

fn bounds(story: &Story, words: &[Word], aligned: &[usize], book: usize) -> Bounds {
    let mut bounds = Bounds {
        low: None,
        high: None,
    };
    for word in words {
        if word.said_in == book && aligned.contains(&word.heard_in) {
            let heard = story.aligned(word.heard_in, word.heard);
            let most = difference(heard, word.said);
            bounds.high = Some(bounds.high.map_or(most, |high| high.min(most)));
        } else if word.heard_in == book && aligned.contains(&word.said_in) {
            let said = story.aligned(word.said_in, word.said);
            let least = difference(said, word.heard);
            bounds.low = Some(bounds.low.map_or(least, |low| low.max(least)));
        }
    }
    bounds
}

fn difference(one: u64, other: u64) -> i64 {
    let apart = i64::try_from(one.abs_diff(other)).unwrap_or(i64::MAX);
    if one >= other { apart } else { -apart }
}

/// The shift, by how much it may be wrong, and what is said of it.
fn choose(bounds: Bounds) -> (i64, Option<u64>, String) {
    let ahead = |shift: i64| {
        let by = span(shift.unsigned_abs());
        if shift < 0 {
            format!("{by} ahead")
        } else {
            format!("{by} behind")
        }
    };
    match (bounds.low, bounds.high) {
        (None, None) => (
            0,
            None,
            "no message tells how its clock compares: it is taken as it is".to_owned(),
        ),
        (Some(low), Some(high)) if low > high => {
            let middle = low.midpoint(high);
            let said = format!("its clock was {}, and was set in between", ahead(middle));
            (middle, Some(low.abs_diff(high)), said)
        }
        (low, high) if low.is_none_or(|low| low <= 0) && high.is_none_or(|high| high >= 0) => {
            let most = |bound: Option<i64>| bound.map(i64::unsigned_abs);
            let uncertain = most(low).zip(most(high)).map(|(low, high)| low.max(high));
            let within = match uncertain {
                Some(by) => format!("within {}", span(by)),
                None => "as far as messages tell".to_owned(),
            };
            (0, uncertain, format!("its clock agrees {within}"))
        }
        (Some(low), Some(high)) => {
            let middle = low.midpoint(high);
            let by = low.abs_diff(high) / 2;
            let said = format!(
                "its clock was {}, \u{b1} {}, by the messages",
                ahead(middle),
                span(by)
            );
            (middle, Some(by), said)
        }
        (Some(only), None) | (None, Some(only)) => {
            let said = format!("its clock was at least {}, by the messages", ahead(only));
            (only, None, said)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounds, choose};

    fn shift(low: Option<i64>, high: Option<i64>) -> (i64, Option<u64>) {
        let (shift, uncertain, _) = choose(Bounds { low, high });
        (shift, uncertain)
    }

    #[test]
    fn a_clock_that_agrees_is_left_alone() {
        assert_eq!(shift(Some(-200), Some(900)), (0, Some(900)));
        assert_eq!(shift(None, Some(900)), (0, None));
        assert_eq!(shift(None, None), (0, None));
    }

    #[test]
    fn one_that_does_not_is_moved_as_the_words_allow() {
        assert_eq!(shift(Some(-1100), Some(-900)), (-1000, Some(100)));
        assert_eq!(shift(Some(700), Some(900)), (800, Some(100)));
        assert_eq!(shift(Some(700), None), (700, None));
        assert_eq!(shift(None, Some(-700)), (-700, None));
        // It was set while they spoke: no shift fits all.
        assert_eq!(shift(Some(900), Some(700)), (800, Some(200)));
    }
}
