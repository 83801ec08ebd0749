//! Time to places on the picture.
//!
//! Invariant: a later time is never drawn left of an earlier one.

use std::collections::BTreeSet;

use super::model::{Time, span};

/// How time becomes width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scale {
    /// Stretched where much happens: a handover of milliseconds is seen beside minutes of memory
    Events,
    /// As long as it took
    Linear,
}

/// Nanoseconds below which a stretch of time gets no width of its own.
const SHORTEST: f64 = 50_000.0;
/// Room that a silence has more than its length gives it.
const SILENCE: f64 = 4.5;

/// An axis between two ends.
#[derive(Debug)]
pub(crate) struct Axis {
    begin: Time,
    /// Times with their places, in order.
    known: Vec<(Time, f64)>,
    scale: Scale,
}

impl Axis {
    /// Over these times, from `left` on, `width` wide. What ends at one of `silences` is given room to
    /// be seen.
    pub(crate) fn new(
        times: BTreeSet<Time>,
        silences: &BTreeSet<Time>,
        scale: Scale,
        left: f64,
        width: f64,
    ) -> Axis {
        let begin = times.first().copied().unwrap_or(0);
        let weigh = |gap: u64| match scale {
            Scale::Linear => gap as f64,
            Scale::Events if gap == 0 => 0.0,
            Scale::Events => 0.6 + (1.0 + gap as f64 / SHORTEST).log10(),
        };
        let mut known: Vec<(Time, f64)> = Vec::with_capacity(times.len());
        let (mut before, mut sum) = (begin, 0.0);
        for time in times {
            sum += weigh(time - before);
            if scale == Scale::Events && silences.contains(&time) {
                sum += SILENCE;
            }
            before = time;
            known.push((time, sum));
        }
        let unit = if sum > 0.0 { width / sum } else { 0.0 };
        for (_, place) in &mut known {
            *place = left + *place * unit;
        }
        Axis {
            begin,
            known,
            scale,
        }
    }

    pub(crate) fn left(&self) -> f64 {
        self.known.first().map_or(0.0, |(_, place)| *place)
    }

    pub(crate) fn right(&self) -> f64 {
        self.known.last().map_or(0.0, |(_, place)| *place)
    }

    /// Where a time is.
    pub(crate) fn place(&self, time: Time) -> f64 {
        let after = self.known.partition_point(|(known, _)| *known <= time);
        let Some(before) = after.checked_sub(1) else {
            return self.left();
        };
        let (from, place) = self.known[before];
        match self.known.get(after) {
            Some((to, next)) if time > from => {
                place + (next - place) * ((time - from) as f64 / (to - from) as f64)
            }
            Some(_) | None => place,
        }
    }

    /// Times to be written at the axis, none nearer than `apart` to the next one.
    pub(crate) fn ticks(&self, apart: f64) -> Vec<(f64, String)> {
        let times: Vec<Time> = match self.scale {
            Scale::Events => self.known.iter().map(|(time, _)| *time).collect(),
            Scale::Linear => self.even(apart),
        };
        let mut ticks: Vec<(f64, String)> = Vec::new();
        for time in times {
            let place = self.place(time);
            if ticks.last().is_none_or(|(last, _)| place - last >= apart) {
                ticks.push((place, offset(time - self.begin)));
            }
        }
        ticks
    }

    /// Even steps of 1, 2 or 5 times a power of ten.
    fn even(&self, apart: f64) -> Vec<Time> {
        let end = self.known.last().map_or(self.begin, |(time, _)| *time);
        let width = self.right() - self.left();
        let length = end - self.begin;
        let fits = |step: &u64| length as f64 / *step as f64 * apart <= width;
        let powers = (3..19).map(|power| 10_u64.pow(power));
        let mut steps = powers.flat_map(|power| [1, 2, 5].map(|factor| factor * power));
        let step = steps.find(fits).unwrap_or(length).max(1);
        let mut times = Vec::new();
        let mut at = self.begin;
        while at <= end {
            times.push(at);
            at = at.saturating_add(step);
        }
        times
    }
}

/// Since the begin, for people.
fn offset(nanoseconds: u64) -> String {
    if nanoseconds == 0 {
        "0".to_owned()
    } else {
        format!("+{}", precise(nanoseconds))
    }
}

/// More digits than a span has: two marks near each other shall not have the same name.
fn precise(nanoseconds: u64) -> String {
    match nanoseconds {
        1_000_000_000..60_000_000_000 => {
            let tenths = nanoseconds / 100_000;
            format!("{}.{:04} s", tenths / 10_000, tenths % 10_000).replace(".0000 s", " s")
        }
        _ => span(nanoseconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn axis(scale: Scale) -> Axis {
        let times = [0, MS, 2 * MS, 1_000 * MS, 1_001 * MS];
        Axis::new(
            times.into_iter().collect(),
            &BTreeSet::new(),
            scale,
            100.0,
            900.0,
        )
    }

    #[test]
    fn order_is_kept_and_ends_are_met() {
        for scale in [Scale::Events, Scale::Linear] {
            let axis = axis(scale);
            assert_eq!(axis.place(0), 100.0);
            assert!((axis.place(1_001 * MS) - 1000.0).abs() < 1e-6);
            let places: Vec<f64> = (0..1_002).map(|at| axis.place(at * MS)).collect();
            assert!(places.is_sorted());
        }
    }

    #[test]
    fn what_happens_quickly_is_seen() {
        let linear = axis(Scale::Linear);
        assert!(linear.place(2 * MS) - linear.place(MS) < 1.0);
        let events = axis(Scale::Events);
        assert!(events.place(2 * MS) - events.place(MS) > 100.0);
    }

    #[test]
    fn one_moment_alone() {
        let axis = Axis::new(
            [5].into_iter().collect(),
            &BTreeSet::new(),
            Scale::Events,
            10.0,
            90.0,
        );
        assert_eq!(axis.place(5), 10.0);
        assert_eq!(axis.ticks(50.0).len(), 1);
    }

    #[test]
    fn ticks_keep_their_distance() {
        for scale in [Scale::Events, Scale::Linear] {
            let ticks = axis(scale).ticks(80.0);
            assert!(
                ticks.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 80.0),
                "{ticks:?}"
            );
            assert!(ticks.len() > 1, "{ticks:?}");
        }
    }
}
