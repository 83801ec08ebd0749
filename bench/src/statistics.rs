//! From many measured times to the few figures that are printed.
//!
//! Invariant: a figure of nothing is `None`, never zero.

use std::time::Duration;

/// The middle of the values; of two middle ones their mean.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    match sorted.len() % 2 {
        0 => {
            let lower = sorted[sorted.len() / 2 - 1];
            Some(f64::midpoint(lower, upper))
        }
        _ => Some(upper),
    }
}

/// The least of the sorted values that at least `percent` of them do not exceed (nearest rank).
#[must_use]
pub fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

/// How large a result is beside a limit, in percent.
#[must_use]
pub fn share(result: f64, limit: f64) -> Option<f64> {
    (limit > 0.0).then(|| result / limit * 100.0)
}

/// A count as a number to compute with; exact below 2^52.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark are far below 2^52"
)]
pub fn number(count: u64) -> f64 {
    count as f64
}

/// A duration in whole nanoseconds.
#[must_use]
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What one run gave.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// How long each call took, in nanoseconds.
    pub calls: Vec<u64>,
    /// How many records each call acknowledged.
    pub records_per_call: u64,
    /// From the common begin to the end of the last call.
    pub elapsed: Duration,
    /// How many records became durable with one sync, where that can be told.
    pub records_per_sync: Option<f64>,
}

impl Sample {
    /// The figures; `None` when nothing was called.
    #[must_use]
    pub fn figures(mut self) -> Option<Figures> {
        self.calls.sort_unstable();
        let seconds = self.elapsed.as_secs_f64();
        let records = number(self.calls.len() as u64 * self.records_per_call);
        Some(Figures {
            per_second: records / seconds,
            p50: number(percentile(&self.calls, 50)?) / 1e3,
            p99: number(percentile(&self.calls, 99)?) / 1e3,
            records_per_sync: self.records_per_sync,
        })
    }
}

/// What is printed of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Records acknowledged per second.
    pub per_second: f64,
    /// Half of the calls took no longer, in microseconds.
    pub p50: f64,
    /// 99 of 100 calls took no longer, in microseconds.
    pub p99: f64,
    /// See [`Sample::records_per_sync`].
    pub records_per_sync: Option<f64>,
}

impl Figures {
    /// The median of each figure by itself.
    #[must_use]
    pub fn medians(all: &[Figures]) -> Option<Figures> {
        let of = |figure: fn(&Figures) -> f64| median(&all.iter().map(figure).collect::<Vec<_>>());
        let per_sync: Vec<f64> = all.iter().filter_map(|one| one.records_per_sync).collect();
        Some(Figures {
            per_second: of(|one| one.per_second)?,
            p50: of(|one| one.p50)?,
            p99: of(|one| one.p99)?,
            records_per_sync: median(&per_sync),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[4.0]), Some(4.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn a_percentile_is_a_value_that_occurred() {
        assert_eq!(percentile(&[], 50), None);
        assert_eq!(percentile(&[7], 1), Some(7));
        assert_eq!(percentile(&[7], 99), Some(7));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50), Some(50));
        assert_eq!(percentile(&hundred, 99), Some(99));
        assert_eq!(percentile(&hundred, 100), Some(100));
        assert_eq!(percentile(&[1, 2, 3], 50), Some(2));
        assert_eq!(percentile(&[1, 2], 99), Some(2));
    }

    #[test]
    fn a_share_of_nothing_is_none() {
        assert_eq!(share(3.0, 4.0), Some(75.0));
        assert_eq!(share(5.0, 4.0), Some(125.0));
        assert_eq!(share(5.0, 0.0), None);
    }

    #[test]
    fn a_sample_counts_records_not_calls() {
        let sample = Sample {
            calls: vec![3_000, 1_000, 2_000],
            records_per_call: 8,
            elapsed: Duration::from_millis(2),
            records_per_sync: None,
        };
        let figures = sample.figures().unwrap();
        assert_eq!(figures.per_second, 12_000.0);
        assert_eq!((figures.p50, figures.p99), (2.0, 3.0));
        assert_eq!(Sample::default().figures(), None);
    }

    #[test]
    fn medians_are_taken_figure_by_figure() {
        let one = |per_second, p50| Figures {
            per_second,
            p50,
            p99: 9.0,
            records_per_sync: None,
        };
        let medians = Figures::medians(&[one(1.0, 30.0), one(2.0, 20.0), one(3.0, 10.0)]).unwrap();
        assert_eq!((medians.per_second, medians.p50), (2.0, 20.0));
        assert_eq!(Figures::medians(&[]), None);
    }
}
