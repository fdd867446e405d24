//! The clocks of a node, and how long it waits before it tries again.

use std::time::Duration;

use overlay_cluster::time::Instant;
use rand::RngExt as _;

/// The time since the agent's start.
#[derive(Debug, Clone, Copy)]
pub struct Clock(std::time::Instant);

impl Clock {
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub fn now(self) -> Instant {
        Instant::from_start(self.0.elapsed())
    }

    /// A moment, in tokio's terms.
    pub fn at(self, instant: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.0 + instant.since_start())
    }
}

/// Waits between attempts: each twice as long as the one before, up to the longest, and each
/// shortened by chance, so that many nodes that failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// An attempt failed: how long to wait before the next.
    pub fn failed(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let share = rand::rng().random_range(0.5..=1.0);
        doubled.min(self.longest).mul_f64(share)
    }

    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest_and_begin_anew_after_a_success() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, longest);
        for failures in 0..40 {
            let most = (first * (1 << failures.min(16))).min(longest);
            let wait = backoff.failed();
            assert!(wait <= most && wait >= most / 2, "{failures}: {wait:?}");
        }
        backoff.succeeded();
        assert!(backoff.failed() <= first);
    }
}
