//! Times of round trips, and what is said of them.

use std::time::Duration;

use super::Measured;

/// Times, in the order in which they were taken.
#[derive(Debug, Default)]
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(super) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Round trips per second, with the median and the 99th percentile of their times.
    pub(super) fn measured(mut self, elapsed: Duration) -> Measured {
        self.0.sort_unstable();
        let mut measured = Measured {
            value: self.0.len() as f64 / elapsed.as_secs_f64(),
            ..Measured::default()
        };
        for (name, share) in [("p50_us", 0.5), ("p99_us", 0.99)] {
            if let Some(time) = self.quantile(share) {
                measured.details.insert(name, time.as_secs_f64() * 1e6);
            }
        }
        measured
    }

    /// Of sorted times; `None` if there are none.
    fn quantile(&self, share: f64) -> Option<Duration> {
        let last = self.0.len().checked_sub(1)?;
        self.0.get((last as f64 * share).round() as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let mut latencies = Latencies::default();
        for time in (0..=100).rev() {
            latencies.push(Duration::from_micros(time));
        }
        let measured = latencies.measured(Duration::from_secs(1));
        assert_eq!(measured.value, 101.0);
        assert!((measured.details["p50_us"] - 50.0).abs() < 1e-9);
        assert!((measured.details["p99_us"] - 99.0).abs() < 1e-9);
    }

    #[test]
    fn no_round_trip_is_no_panic() {
        let measured = Latencies::default().measured(Duration::from_secs(1));
        assert_eq!((measured.value, measured.details.len()), (0.0, 0));
    }
}
